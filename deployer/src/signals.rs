//! Ctrl-C and SIGTERM, which stop what runs, and not always in the same way.

use std::fmt::Display;

use anyhow::Context;
use tokio::signal::unix::{self, SignalKind};

use crate::failure::{Exit, Failure};

/// What was received.
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

/// The signals from now on. They no longer end the program by themselves.
#[derive(Debug)]
pub struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    /// Begins to listen.
    pub fn listen() -> anyhow::Result<Self> {
        let listen = |kind| unix::signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for the next.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::CtrlC,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }

    /// What the work gives, unless a signal comes first: then the work is dropped.
    pub async fn or_stopped<T>(
        &mut self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        tokio::select! {
            result = work => result,
            signal = self.next() => Err(Failure::new(format!("stopped by {signal}"))
                .hint("run the same command again to go on")
                .exit(Exit::Stopped)
                .into()),
        }
    }
}
