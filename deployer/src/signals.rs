//! Ctrl-C, SIGTERM and SIGHUP: what the first and a second one do, and how they end a program that is blocked.

use std::{convert::Infallible, fmt::Display, fs, process, sync, thread, time::Duration};

use anyhow::{Context, Error};
use cbbootstrap_cli::console::Console;
use tokio::{
    runtime,
    signal::unix::{self, SignalKind},
    sync::mpsc,
};

use crate::{
    exit::Exit,
    failure::Failure,
    stack::{Cancellation, Operation},
};

/// How long a task has to answer the watchdog.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a task is asked after a signal.
const QUESTIONS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, from the keyboard.
    CtrlC,
    /// SIGTERM, from a supervisor or a CI system that gives up.
    Terminate,
    /// SIGHUP, from a terminal or a connection that is closed.
    HangUp,
}

impl Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CtrlC => "Ctrl-C",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
        })
    }
}

/// The signals that arrive from now on. They no longer end the program by themselves.
#[derive(Debug)]
pub struct Signals(mpsc::UnboundedReceiver<Signal>);

/// Ends the program after a signal if its task is blocked, and cannot react: by a pipe that nobody reads, or a file on a drive that hangs.
#[derive(Debug)]
pub struct Watchdog(mpsc::Receiver<()>);

/// Listens on a thread with a separate runtime, as all threads of the main one may be blocked.
pub fn listen() -> anyhow::Result<(Signals, Watchdog)> {
    let cannot = "cannot listen to signals";
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context(cannot)?;
    let context = runtime.enter();
    let mut interrupt = unix::signal(SignalKind::interrupt()).context(cannot)?;
    let mut terminate = unix::signal(SignalKind::terminate()).context(cannot)?;
    let is_heard = hears_hang_up();
    let mut hang_up =
        is_heard.then(|| unix::signal(SignalKind::hangup())).transpose().context(cannot)?;
    drop(context);
    let (sender, signals) = mpsc::unbounded_channel();
    let (asking, questions) = mpsc::channel(1);
    let forward = async move {
        loop {
            let signal = tokio::select! {
                _ = interrupt.recv() => Signal::CtrlC,
                _ = terminate.recv() => Signal::Terminate,
                Some(()) = async { hang_up.as_mut()?.recv().await } => Signal::HangUp,
            };
            let _ = sender.send(signal);
            let asking = asking.clone();
            thread::spawn(move || watch(signal, &asking));
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || runtime.block_on(forward)).context(cannot)?;
    Ok((Signals(signals), Watchdog(questions)))
}

/// `false` if the program was started with SIGHUP ignored, as by `nohup`, or if that is unknown.
fn hears_hang_up() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The first bit is signal 1, SIGHUP.
    ignored.and_then(|it| u64::from_str_radix(it.trim(), 16).ok()).is_some_and(|it| it & 1 == 0)
}

impl Signals {
    pub async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// Runs the work, and drops it if a signal comes first.
    pub async fn or_stopped<T>(
        &mut self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        tokio::select! {
            result = work => result,
            signal = self.next() => Err(stopped_by(signal).into()),
        }
    }
}

impl Watchdog {
    /// Answers as long as the task that polls this is not blocked.
    pub async fn answer(mut self) -> Infallible {
        while self.0.recv().await.is_some() {}
        std::future::pending().await
    }
}

/// Ends the program if its task does not answer soon after a signal. It may be blocked later than the signal arrives: while it prints that
/// it was stopped. What blocks it after that, such as a terminal that does not scroll, needs another signal.
fn watch(signal: Signal, asking: &mpsc::Sender<()>) {
    // There is room for one question: another is refused until the first is answered, and after the end of the command.
    let is_asked = || asking.try_send(()).is_ok();
    for _ in 0..QUESTIONS {
        if !is_asked() {
            break;
        }
        thread::sleep(PATIENCE);
    }
    if is_asked() {
        return;
    }
    thread::sleep(PATIENCE);
    if is_asked() {
        return;
    }
    let (printing, printed) = sync::mpsc::channel();
    // Stderr may be blocked, too. The printer's progress lines may be locked by the write that is blocked.
    thread::spawn(move || {
        Console::from_arguments().failure(&Error::new(stopped_by(signal)));
        let _ = printing.send(());
    });
    let _ = printed.recv_timeout(PATIENCE);
    process::exit(Exit::Stopped.status().into());
}

fn stopped_by(signal: Signal) -> Failure {
    Failure::new(format!("stopped by {signal}"))
        .hint("run the same command again to continue")
        .exit(Exit::Stopped)
}

/// The operation by which a signal cancels another; `None` leaves the rest to CloudFormation. SIGTERM comes from a supervisor that
/// soon kills the program, which leaves no time to cancel; after SIGHUP, nobody reads whether it was.
pub fn reaction(
    operation: Operation,
    cancellation: Cancellation,
    signal: Signal,
) -> Option<Operation> {
    let cancels = signal == Signal::CtrlC && cancellation == Cancellation::None;
    operation.reverse().filter(|_| cancels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_cancel_what_can_be_cancelled() {
        use {Cancellation as C, Operation as O, Signal::CtrlC, Signal::HangUp, Signal::Terminate};
        for (operation, signal, expected) in [
            (O::Create, CtrlC, Some(O::Delete)),
            (O::Update, CtrlC, Some(O::Rollback)),
            (O::Delete, CtrlC, None),
            (O::Rollback, CtrlC, None),
            (O::Create, Terminate, None),
            (O::Update, Terminate, None),
            (O::Delete, Terminate, None),
            (O::Rollback, Terminate, None),
            (O::Create, HangUp, None),
            (O::Update, HangUp, None),
        ] {
            let case = format!("{operation:?} {signal:?}");
            assert_eq!(reaction(operation, C::None, signal), expected, "{case}");
            for second in [C::Refused, C::Accepted] {
                assert_eq!(reaction(operation, second, signal), None, "second {case}");
            }
        }
    }
}
