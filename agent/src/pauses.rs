//! How long the agent pauses before it tries again. Pure: chance is an argument.

use std::time::Duration;

use cbbootstrap_protocol::wire::State;

use crate::decision::{Asked, OwnServer};

/// The least interval between two attempts.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// A quarter less to a quarter more, so that nodes that boot together do not stay in step.
const JITTER: (f64, f64) = (0.75, 1.25);

/// How pauses grow while the API throttles, fails or cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The factor from one failure to the next.
    pub growth: f64,
    /// The longest pause, unless the interval is longer.
    pub longest: Duration,
    /// The shortest and the longest pause, relative to the one without chance.
    pub jitter: (f64, f64),
    /// Whether pauses do not grow for the report that other nodes wait for.
    pub hurries_report: bool,
}

impl Backoff {
    /// The agent's. docs/scale.md compares it with others.
    pub const DEFAULT: Self = Self {
        growth: 2.0,
        longest: Duration::from_secs(30),
        jitter: (0.5, 1.0),
        hurries_report: true,
    };

    /// Pauses do not grow.
    pub const CONSTANT: Self =
        Self { growth: 1.0, longest: Duration::ZERO, jitter: JITTER, hurries_report: false };

    /// The pause after this many failures. The chance is from 0 to 1.
    fn pause(&self, interval: Duration, failures: u32, chance: f64) -> Duration {
        let grown = interval.as_secs_f64() * self.growth.powf(f64::from(failures.min(64)));
        let most = self.longest.max(interval).as_secs_f64();
        let (least, range) = (self.jitter.0, self.jitter.1 - self.jitter.0);
        Duration::from_secs_f64(grown.min(most) * (least + range * chance))
    }
}

/// The time, a quarter less to a quarter more.
pub fn jitter(time: Duration, chance: f64) -> Duration {
    time.mul_f64(JITTER.0 + (JITTER.1 - JITTER.0) * chance)
}

/// Why an attempt has to be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Something is not done yet.
    Unfinished,
    /// The API throttles, fails or cannot be reached.
    ApiFailure,
    /// The same, for the report that other nodes wait for.
    ReportFailure,
}

impl Cause {
    /// The cause after a failure of the API. Until a cluster is ready, all other nodes wait for the report of the one with a server that
    /// belongs to it.
    pub fn after_failure(own: &OwnServer, asked: &Asked) -> Self {
        let is_ready = matches!(asked, Asked::Record(record) if record.state == State::Ready);
        match own {
            OwnServer::Member(_) if !is_ready => Self::ReportFailure,
            _ => Self::ApiFailure,
        }
    }
}

/// The pauses of one agent.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    interval: Duration,
    backoff: Backoff,
    /// In a row, of the API.
    failures: u32,
}

impl Pauses {
    pub fn new(interval: Duration, backoff: Backoff) -> Self {
        Self { interval: interval.max(MIN_INTERVAL), backoff, failures: 0 }
    }

    /// The pause before the next attempt. The chance is from 0 to 1.
    pub fn next(&mut self, cause: Cause, chance: f64) -> Duration {
        let grows = match cause {
            Cause::Unfinished => false,
            Cause::ApiFailure => true,
            Cause::ReportFailure => !self.backoff.hurries_report,
        };
        if !grows {
            self.failures = 0;
            return jitter(self.interval, chance);
        }
        let pause = self.backoff.pause(self.interval, self.failures, chance);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Cause::{ApiFailure, ReportFailure, Unfinished},
        *,
    };

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_grow_while_the_api_fails() {
        let backoff =
            Backoff { growth: 2.0, longest: 5 * SECOND, jitter: (0.5, 1.5), hurries_report: true };
        let mut pauses = Pauses::new(SECOND, backoff);
        let table = [
            (Unfinished, 0.5, 1.0),
            (ApiFailure, 0.5, 1.0),
            (ApiFailure, 0.0, 1.0),
            (ApiFailure, 1.0, 6.0),
            (ApiFailure, 0.5, 5.0),
            (ApiFailure, 0.0, 2.5),
            (Unfinished, 0.0, 0.75),
            (ApiFailure, 0.5, 1.0),
            (ApiFailure, 0.5, 2.0),
            (ReportFailure, 1.0, 1.25),
            (ReportFailure, 0.5, 1.0),
        ];
        for (number, (cause, chance, seconds)) in table.into_iter().enumerate() {
            let pause = pauses.next(cause, chance);
            assert_eq!(pause, SECOND.mul_f64(seconds), "{number}");
        }
    }

    #[test]
    fn longest_pause_is_never_shorter_than_the_interval() {
        let backoff =
            Backoff { growth: 3.0, longest: SECOND, jitter: (1.0, 1.0), ..Backoff::CONSTANT };
        let mut pauses = Pauses::new(10 * SECOND, backoff);
        for _ in 0..100 {
            assert_eq!(pauses.next(ApiFailure, 0.5), 10 * SECOND);
        }
    }
}
