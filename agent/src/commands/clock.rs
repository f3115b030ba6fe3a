//! The time that a command has, and its pauses.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{failure::Failure, http::Deadline, printer::Printer, settings::Patience};

/// Why a command waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The reason.
    pub reason: String,
    /// What to do if it lasts too long; without it, to run the command again.
    pub hint: Option<String>,
}

impl Wait {
    /// Waits for this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    /// With what to do if it lasts too long.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The time that a command has.
#[derive(Debug)]
pub struct Clock {
    patience: Patience,
}

impl Clock {
    pub fn new(patience: Patience) -> Self {
        Self { patience }
    }

    /// When the command ends.
    pub fn deadline(&self) -> Deadline {
        self.patience.deadline
    }

    /// Fails if the time is up.
    pub fn check(&self, wait: &Wait) -> Result<(), Failure> {
        if !self.deadline().left().is_zero() {
            return Ok(());
        }
        let seconds = self.patience.timeout.as_secs_f64();
        let failure = Failure::timed_out(format!(
            "not done after {seconds} s, still waiting: {}",
            wait.reason
        ));
        Err(failure.hint(
            wait.hint
                .as_deref()
                .unwrap_or("run it again to go on from here; `--timeout` gives it longer"),
        ))
    }

    /// Waits until it is time to look again, and says why; fails when the time is up.
    ///
    /// The pauses differ a little, so that nodes that boot together do not ask together for ever.
    pub fn pause(&self, printer: &Printer, wait: &Wait) -> Result<(), Failure> {
        self.check(wait)?;
        printer.waiting(&wait.reason);
        thread::sleep(jitter(self.patience.interval).min(self.deadline().left()));
        Ok(())
    }
}

/// The time, a quarter less to a quarter more.
pub fn jitter(time: Duration) -> Duration {
    time.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// Since when something is so.
pub fn since(time: Option<Instant>) -> Duration {
    time.map_or(Duration::ZERO, |time| time.elapsed())
}
