//! The one wait loop: a command tries until it is done, pauses between attempts, and ends at its deadline.

use std::{thread, time::Duration};

use cbbootstrap_cli::failure::Failure;

use crate::{cli::WaitArgs, http::Deadline, printer::Printer};

/// The least pause between two attempts.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// The result of an attempt.
pub enum Attempt<T> {
    Done(T),
    /// Try again after a pause. If time runs out before, the command ends with this failure's message and hint.
    Wait(Failure),
    /// Try again at once: something was done.
    Again,
}

impl<T> Attempt<T> {
    pub fn wait(reason: impl Into<String>) -> Self {
        Self::Wait(Failure::new(reason))
    }
}

/// The time limits of a command.
#[derive(Debug)]
pub struct Clock<'p> {
    timeout: Duration,
    interval: Duration,
    pub deadline: Deadline,
    printer: &'p Printer,
}

impl<'p> Clock<'p> {
    pub fn new(WaitArgs { timeout, interval }: WaitArgs, printer: &'p Printer) -> Self {
        let interval = interval.max(MIN_INTERVAL);
        Self { timeout, interval, deadline: Deadline::after(timeout), printer }
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
                Attempt::Again => self.check(&Failure::new("the last step has no effect yet"))?,
                Attempt::Wait(wait) => {
                    // The deadline may have cut the last attempt short, so its reason may be misleading.
                    self.check(previous.as_ref().unwrap_or(&wait))?;
                    self.printer.waiting(&wait.to_string());
                    thread::sleep(jitter(self.interval).min(self.deadline.time_left()));
                    previous = Some(wait);
                }
            }
        }
    }

    fn check(&self, wait: &Failure) -> Result<(), Failure> {
        if !self.deadline.time_left().is_zero() {
            return Ok(());
        }
        let seconds = self.timeout.as_secs_f64();
        let hint = "run it again to go on from here; `--timeout` gives it longer";
        Err(Failure::timed_out(format!("not done after {seconds} s, still waiting: {wait}"))
            .hint(wait.hint.as_deref().unwrap_or(hint)))
    }
}

/// The time, a quarter less to a quarter more.
pub fn jitter(time: Duration) -> Duration {
    time.mul_f64(0.75 + fastrand::f64() / 2.0)
}
