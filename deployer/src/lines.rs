//! Lines on stderr that nobody waits for.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Lines wait so long for others to be written with.
const TOGETHER: Duration = Duration::from_millis(50);

/// So many bytes of lines wait at most. When nobody reads them, the rest is dropped: requests do not wait for the log.
const WAITING: usize = 4 * 1024 * 1024;

/// How long the end waits for the last lines.
const FLUSH: Duration = Duration::from_secs(1);

/// Lines that wait to be written; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<(Mutex<Waiting>, Condvar)>);

#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    is_writing: bool,
}

impl Lines {
    /// Lines that a thread writes to stderr.
    pub fn to_stderr() -> Self {
        let lines = Self::default();
        let waiting = lines.clone();
        thread::spawn(move || waiting.write_all_the_time());
        lines
    }

    /// Waits until all is written, but not for long: it may be that nobody reads.
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
        if waiting.text.len() + line.len() <= WAITING {
            waiting.text.extend_from_slice(line);
            if waiting.text.len() == line.len() {
                self.0.1.notify_all();
            }
        }
    }

    fn write_all_the_time(&self) {
        loop {
            let waiting = self.waiting();
            drop(
                self.0
                    .1
                    .wait_while(waiting, |waiting| waiting.text.is_empty()),
            );
            thread::sleep(TOGETHER);
            let mut waiting = self.waiting();
            let text = mem::take(&mut waiting.text);
            waiting.is_writing = true;
            drop(waiting);
            // Nobody is left to tell when stderr is gone.
            let _ = io::stderr().write_all(&text);
            self.waiting().is_writing = false;
            self.0.1.notify_all();
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
