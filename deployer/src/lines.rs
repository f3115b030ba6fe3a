//! Writes lines to stderr from a separate thread, so that a slow or closed reader delays nothing.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// How long the thread collects lines before it writes them together.
const TOGETHER: Duration = Duration::from_millis(50);

/// The most bytes that wait. Further lines are dropped and counted.
const WAITING: usize = 4 * 1024 * 1024;

/// The longest that [`Lines::flush`] waits.
const FLUSH: Duration = Duration::from_secs(1);

/// Lines that wait to be written; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<(Mutex<Waiting>, Condvar)>);

#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    is_writing: bool,
    dropped: u64,
}

impl Lines {
    /// Lines that a thread writes to stderr.
    pub fn to_stderr() -> Self {
        let lines = Self::default();
        let waiting = lines.clone();
        thread::spawn(move || waiting.write_forever());
        lines
    }

    /// Waits until all is written, but not for long: perhaps nobody reads.
    pub fn flush(&self) {
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.text.is_empty();
        let _ = self.0.1.wait_timeout_while(self.waiting(), FLUSH, is_busy);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, with its end.
    pub fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.text.len() + line.len() > WAITING {
            waiting.dropped += 1;
            return;
        }
        waiting.text.extend_from_slice(line);
        self.0.1.notify_all();
    }

    fn write_forever(&self) {
        let Self(shared) = self;
        let (_, changed) = &**shared;
        loop {
            drop(changed.wait_while(self.waiting(), |waiting| waiting.text.is_empty()));
            thread::sleep(TOGETHER);
            let mut waiting = self.waiting();
            let mut text = mem::take(&mut waiting.text);
            let dropped = mem::take(&mut waiting.dropped);
            waiting.is_writing = true;
            drop(waiting);
            if dropped > 0 {
                text.extend(format!("{dropped} log lines were dropped\n").into_bytes());
            }
            // If stderr is closed, there is nowhere to report it.
            let _ = io::stderr().write_all(&text);
            self.waiting().is_writing = false;
            changed.notify_all();
        }
    }
}

/// Whole lines, as `tracing` writes them.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
