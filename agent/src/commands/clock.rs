//! The one wait loop: a command tries until it is done, pauses between attempts, and ends at its deadline.

use std::{thread, time::Duration};

use cbbootstrap_cli::{exit::Exit, failure::Failure};

use crate::{
    api::ApiError,
    cli::{PauseArgs, WaitArgs},
    http::{CallError, Deadline},
    pauses::{self, Backoff, Cause, Pauses},
    printer::Printer,
};

/// Why an attempt ends early.
pub enum Interrupt {
    /// Try again after a pause. If the command times out, it reports this message and hint.
    Pause(Cause, Failure),
    Fail(anyhow::Error),
}

impl Interrupt {
    pub fn wait(reason: impl Into<String>) -> Self {
        Self::unfinished(Failure::new(reason))
    }

    pub fn unfinished(why: Failure) -> Self {
        Self::Pause(Cause::Unfinished, why)
    }

    pub fn watch(reason: impl Into<String>) -> Self {
        Self::Pause(Cause::OwnServer, Failure::new(reason))
    }
}

impl From<Failure> for Interrupt {
    fn from(failure: Failure) -> Self {
        Self::Fail(failure.into())
    }
}

impl From<CallError> for Interrupt {
    fn from(error: CallError) -> Self {
        Self::wait(error.to_string())
    }
}

impl From<ApiError> for Interrupt {
    fn from(error: ApiError) -> Self {
        let problem = match error {
            ApiError::Temporary(why) | ApiError::Unsigned(why) => {
                return Self::Pause(Cause::ApiFailure, why);
            }
            ApiError::Failed(error) => return Self::Fail(error),
            ApiError::Refused(problem) => problem,
        };
        let (exit, hint) = match (problem.status, problem.code.as_str()) {
            (401 | 403, _) => (
                Exit::Refused,
                "give all nodes the same secret: `--secret-file`, or `CBBOOTSTRAP_SECRET`",
            ),
            (409, "last_node") => (
                Exit::Refused,
                "the other members have not reported: run `cbbootstrap-agent up` on one of them, and then this command again",
            ),
            (409, _) => {
                (Exit::Refused, "compare the server with the API: `cbbootstrap-agent status`")
            }
            (404, _) => {
                (Exit::Failed, "`--api` must be the endpoint that `cbbootstrap status` prints")
            }
            (421, _) => {
                (Exit::Failed, "allow this name with `--allowed-host` of `cbbootstrap serve`")
            }
            _ => (Exit::Failed, "`cbbootstrap-agent up --help` explains the options"),
        };
        Failure::new(format!("the API refused the request: {}", problem.detail))
            .exit(exit)
            .hint(hint)
            .into()
    }
}

#[derive(Debug)]
pub struct Clock<'p> {
    timeout: Duration,
    interval: Duration,
    pub deadline: Deadline,
    printer: &'p Printer,
}

impl<'p> Clock<'p> {
    pub fn new(
        WaitArgs { timeout, pause: PauseArgs { interval } }: WaitArgs,
        printer: &'p Printer,
    ) -> Self {
        Self { timeout, interval, deadline: Deadline::after(timeout), printer }
    }

    /// Repeats the attempt until it has a result or fails: at once if it has done something, otherwise after a pause. Fails itself
    /// when the time is up.
    pub fn repeat<T>(
        &self,
        mut attempt: impl FnMut() -> Result<Option<T>, Interrupt>,
    ) -> anyhow::Result<T> {
        let mut previous = None;
        let mut pauses = Pauses::new(self.interval, Backoff::DEFAULT);
        loop {
            match attempt() {
                Ok(Some(result)) => return Ok(result),
                Ok(None) => {
                    self.check(&Failure::new("the last step has no effect yet"))?;
                    pauses.restart();
                }
                Err(Interrupt::Fail(error)) => return Err(error),
                Err(Interrupt::Pause(cause, wait)) => {
                    // The deadline may have cut the last attempt short, so its reason may be misleading.
                    self.check(previous.as_ref().unwrap_or(&wait))?;
                    self.printer.waiting(&wait.to_string());
                    let pause = pauses.next(cause, fastrand::f64());
                    thread::sleep(pause.min(self.deadline.time_left()));
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
        let hint = "run the command again to continue, or raise `--timeout`";
        Err(Failure::timed_out(format!("timed out after {seconds} s: {wait}"))
            .hint(wait.hint.as_deref().unwrap_or(hint)))
    }
}

/// The time, a quarter less to a quarter more.
pub fn jitter(time: Duration) -> Duration {
    pauses::jitter(time, fastrand::f64())
}
