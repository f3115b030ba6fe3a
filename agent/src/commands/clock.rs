//! The one wait loop: a command tries until it is done, pauses between attempts, and ends at its deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{failure::Failure, http::Deadline, printer::Printer, settings::Patience};

/// Why a command waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    reason: String,
    /// The way out if it lasts too long; without it, to run the command again.
    hint: Option<String>,
}

impl Wait {
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The result of an attempt.
pub enum Attempt<T> {
    Done(T),
    /// Try again after a pause.
    Wait(Wait),
    /// Try again at once: something was done.
    Again,
}

impl<T> Attempt<T> {
    pub fn wait(reason: impl Into<String>) -> Self {
        Self::Wait(Wait::new(reason))
    }
}

/// The time limits of a command.
#[derive(Debug)]
pub struct Clock<'p> {
    patience: Patience,
    printer: &'p Printer,
}

impl<'p> Clock<'p> {
    pub fn new(patience: Patience, printer: &'p Printer) -> Self {
        Self { patience, printer }
    }

    pub fn deadline(&self) -> Deadline {
        self.patience.deadline
    }

    /// Repeats the attempt until it is done or fails. Fails itself when the time is up.
    ///
    /// The pauses vary, so that nodes that boot together do not stay in step.
    pub fn repeat<T>(
        &self,
        mut attempt: impl FnMut() -> anyhow::Result<Attempt<T>>,
    ) -> anyhow::Result<T> {
        let mut previous = None;
        loop {
            match attempt()? {
                Attempt::Done(result) => return Ok(result),
                Attempt::Again => self.check(&Wait::new("the last step has no effect yet"))?,
                Attempt::Wait(wait) => {
                    // The deadline may have cut the last attempt short, so its reason may be misleading.
                    self.check(previous.as_ref().unwrap_or(&wait))?;
                    self.printer.waiting(&wait.reason);
                    let pause = jitter(self.patience.interval);
                    thread::sleep(pause.min(self.deadline().time_left()));
                    previous = Some(wait);
                }
            }
        }
    }

    fn check(&self, wait: &Wait) -> Result<(), Failure> {
        if !self.deadline().time_left().is_zero() {
            return Ok(());
        }
        let seconds = self.patience.timeout.as_secs_f64();
        let reason = &wait.reason;
        let hint = "run it again to go on from here; `--timeout` gives it longer";
        Err(Failure::timed_out(format!("not done after {seconds} s, still waiting: {reason}"))
            .hint(wait.hint.as_deref().unwrap_or(hint)))
    }
}

/// The time, a quarter less to a quarter more.
pub fn jitter(time: Duration) -> Duration {
    time.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// The time that has passed since an event; zero without one.
pub fn time_since(event: Option<Instant>) -> Duration {
    event.map_or(Duration::ZERO, |event| event.elapsed())
}
