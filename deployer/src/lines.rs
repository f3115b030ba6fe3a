//! Writes lines to stderr from a separate thread, so that a slow or closed reader delays nothing.

use std::{
    io::{self, BufWriter, Write},
    iter,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

/// The most lines that wait. Further lines are dropped and counted.
const WAITING: usize = 32_768;

/// The pause after a write, in which lines collect. Waking the thread for each line would take longer than many requests.
const PAUSE: Duration = Duration::from_millis(5);

/// The longest that [`Lines::flush`] waits.
const FLUSH: Duration = Duration::from_secs(1);

/// Lines that wait to be written; cheap to clone.
#[derive(Clone, Debug)]
pub struct Lines {
    queue: SyncSender<Entry>,
    dropped: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl Lines {
    /// Lines that a thread writes to stderr.
    pub fn to_stderr() -> Self {
        let (queue, entries) = sync_channel(WAITING);
        let dropped = Arc::default();
        let lines = Self { queue, dropped: Arc::clone(&dropped) };
        thread::spawn(move || write_forever(&entries, &dropped));
        lines
    }

    /// Waits until all is written, but not for long: perhaps nobody reads.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Entry::Flush(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH);
        }
    }

    /// Adds a line, with its end.
    pub fn push(&self, line: impl Into<Vec<u8>>) {
        if self.queue.try_send(Entry::Line(line.into())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// If stderr is closed, there is nowhere to report it.
fn write_forever(entries: &Receiver<Entry>, dropped: &AtomicUsize) {
    let mut stderr = BufWriter::new(io::stderr());
    while let Ok(first) = entries.recv() {
        for entry in iter::once(first).chain(entries.try_iter()) {
            let _ = match entry {
                Entry::Line(line) => stderr.write_all(&line),
                Entry::Flush(done) => stderr.flush().map(|()| done.send(()).unwrap_or_default()),
            };
        }
        let dropped = dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let _ = writeln!(stderr, "{dropped} log lines were dropped");
        }
        let _ = stderr.flush();
        thread::sleep(PAUSE);
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
