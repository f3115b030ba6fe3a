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

/// The operation by which a signal cancels another; `None` leaves the rest to CloudFormation. SIGTERM comes from a supervisor that
/// soon kills the program, which leaves no time to cancel.
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
        use {Cancellation as C, Operation as O, Signal::CtrlC, Signal::Terminate};
        for (operation, signal, expected) in [
            (O::Create, CtrlC, Some(O::Delete)),
            (O::Update, CtrlC, Some(O::Rollback)),
            (O::Delete, CtrlC, None),
            (O::Rollback, CtrlC, None),
            (O::Create, Terminate, None),
            (O::Update, Terminate, None),
            (O::Delete, Terminate, None),
            (O::Rollback, Terminate, None),
        ] {
            let case = format!("{operation:?} {signal:?}");
            assert_eq!(reaction(operation, C::None, signal), expected, "{case}");
            for second in [C::Refused, C::Accepted] {
                assert_eq!(reaction(operation, second, signal), None, "second {case}");
            }
        }
    }
}
