//! How long the agent pauses before it tries again. Pure: chance is an argument.

use std::time::Duration;

use cbbootstrap_protocol::wire::State;

use crate::decision::{Asked, OwnServer};

/// The least interval between two attempts.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// The first pause before others are asked again: a first node initializes its server in about this time.
const FIRST: Duration = Duration::from_millis(500);

/// The first pause before only the node's own server is read again.
const FIRST_OF_OWN_SERVER: Duration = Duration::from_millis(100);

/// While the agent reads only its own server, a pause is this fraction of the time waited so far: the agent notices a change at most this
/// much late, and reads rarely during a long wait.
const SHARE_OF_WAIT: u32 = 16;

/// Between two checks of a node that lacks nothing, in intervals.
pub const IDLE_INTERVALS: u32 = 5;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Something is not done yet, and the API or another node was asked.
    Unfinished,
    /// The same, and only the node's own server was read.
    OwnServer,
    /// Nothing is to be done.
    Idle,
    /// The API throttles, fails or cannot be reached.
    ApiFailure,
    /// The same, for the report that other nodes wait for.
    ReportFailure,
}

impl Cause {
    /// The cause after a failure of the API. Until a cluster is ready, all other nodes wait for the report of the node that has claimed
    /// and initialized it.
    pub fn after_failure(own: &OwnServer, asked: &Asked) -> Self {
        match (own, asked) {
            (OwnServer::Member(_), Asked::Record(record))
                if record.state == State::Claimed && record.is_initial =>
            {
                Self::ReportFailure
            }
            _ => Self::ApiFailure,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    interval: Duration,
    backoff: Backoff,
    /// In a row, of the API.
    failures: u32,
    /// The sum of the pauses since the agent last did something.
    waited: Duration,
}

impl Pauses {
    pub fn new(interval: Duration, backoff: Backoff) -> Self {
        Self { interval: interval.max(MIN_INTERVAL), backoff, failures: 0, waited: Duration::ZERO }
    }

    /// Begins with short pauses again, because the agent has done something.
    pub fn restart(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// The pause before the next attempt. The chance is from 0 to 1.
    pub fn next(&mut self, cause: Cause, chance: f64) -> Duration {
        let cause = match cause {
            Cause::ReportFailure if self.backoff.hurries_report => Cause::Unfinished,
            Cause::ReportFailure => Cause::ApiFailure,
            other => other,
        };
        let pause = match cause {
            Cause::ApiFailure | Cause::ReportFailure => {
                self.backoff.pause(self.interval, self.failures, chance)
            }
            Cause::Unfinished => jitter(self.waited.max(FIRST).min(self.interval), chance),
            Cause::OwnServer => {
                let share = (self.waited / SHARE_OF_WAIT).max(FIRST_OF_OWN_SERVER);
                jitter(share.min(self.interval), chance)
            }
            Cause::Idle => jitter(self.interval * IDLE_INTERVALS, chance),
        };
        self.failures =
            if cause == Cause::ApiFailure { self.failures.saturating_add(1) } else { 0 };
        self.waited = if cause == Cause::Idle { Duration::ZERO } else { self.waited + pause };
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Cause::{ApiFailure, Idle, OwnServer, ReportFailure, Unfinished},
        *,
    };

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_grow_while_the_api_fails() {
        let backoff =
            Backoff { growth: 2.0, longest: 5 * SECOND, jitter: (0.5, 1.5), hurries_report: true };
        let mut pauses = Pauses::new(SECOND, backoff);
        let table = [
            (Unfinished, 0.5, 0.5),
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
    fn pauses_grow_with_the_wait_up_to_the_interval() {
        let table: [(_, &[f64]); 3] =
            [(Unfinished, &[0.5, 0.5, 1.0, 2.0, 2.0]), (OwnServer, &[0.1; 17]), (Idle, &[10.0; 3])];
        for (cause, expected) in table {
            let mut pauses = Pauses::new(2 * SECOND, Backoff::CONSTANT);
            for _ in 0..2 {
                for seconds in expected {
                    assert_eq!(pauses.next(cause, 0.5), SECOND.mul_f64(*seconds), "{cause:?}");
                }
                pauses.restart();
            }
        }
        // A short interval is never exceeded.
        let mut pauses = Pauses::new(SECOND / 20, Backoff::CONSTANT);
        for cause in [Unfinished, OwnServer, Unfinished, OwnServer] {
            assert_eq!(pauses.next(cause, 0.5), SECOND / 20, "{cause:?}");
        }
    }

    #[test]
    fn change_of_the_own_server_is_noticed_a_sixteenth_late() {
        let mut pauses = Pauses::new(60 * SECOND, Backoff::CONSTANT);
        let mut waited = Duration::ZERO;
        for _ in 0..100 {
            let pause = pauses.next(OwnServer, 0.5);
            assert!(pause <= (waited / 16).max(SECOND / 10), "{pause:?} after {waited:?}");
            waited += pause;
        }
        assert!(waited > 60 * SECOND, "{waited:?} in 100 reads");
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
