//! Ctrl-C and SIGTERM: what the first and a second one do.

use std::fmt::Display;

use anyhow::Context;
use tokio::signal::unix::{self, SignalKind};

use crate::{
    failure::{Exit, Failure},
    stack::{Cancellation, Operation},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, from the keyboard.
    CtrlC,
    /// SIGTERM, from a supervisor or a CI system that gives up.
    Terminate,
}

impl Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CtrlC => "Ctrl-C",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// The signals that arrive from now on. They no longer end the program by themselves.
#[derive(Debug)]
pub struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    pub fn listen() -> anyhow::Result<Self> {
        let listen = |kind| unix::signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::CtrlC,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }

    /// Runs the work, and drops it if a signal comes first.
    pub async fn or_stopped<T>(
        &mut self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        tokio::select! {
            result = work => result,
            signal = self.next() => Err(Failure::new(format!("stopped by {signal}"))
                .hint("run the same command again to continue")
                .exit(Exit::Stopped)
                .into()),
        }
    }
}

/// What a signal does to a change of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Cancel the update, which rolls it back, and go on watching.
    CancelUpdate,
    /// Delete the stack that is being created, and go on watching.
    DeleteStack,
    /// Leave the rest to CloudFormation and exit.
    Detach,
}

/// What a signal does to an operation. CloudFormation cannot cancel a deletion or a rollback. SIGTERM comes from a supervisor that
/// soon kills the program, which leaves no time to cancel.
pub fn reaction(operation: Operation, cancellation: Cancellation, signal: Signal) -> Reaction {
    match (signal, operation) {
        _ if cancellation != Cancellation::None => Reaction::Detach,
        (Signal::CtrlC, Operation::Update) => Reaction::CancelUpdate,
        (Signal::CtrlC, Operation::Create) => Reaction::DeleteStack,
        _ => Reaction::Detach,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_cancel_what_can_be_cancelled() {
        use {Cancellation as C, Operation as O, Reaction as R, Signal::CtrlC, Signal::Terminate};
        for (operation, signal, expected) in [
            (O::Create, CtrlC, R::DeleteStack),
            (O::Update, CtrlC, R::CancelUpdate),
            (O::Delete, CtrlC, R::Detach),
            (O::Rollback, CtrlC, R::Detach),
            (O::Create, Terminate, R::Detach),
            (O::Update, Terminate, R::Detach),
            (O::Delete, Terminate, R::Detach),
            (O::Rollback, Terminate, R::Detach),
        ] {
            let case = format!("{operation:?} {signal:?}");
            assert_eq!(reaction(operation, C::None, signal), expected, "{case}");
            for second in [C::Refused, C::Accepted] {
                assert_eq!(reaction(operation, second, signal), R::Detach, "second {case}");
            }
        }
    }
}
