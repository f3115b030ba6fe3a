//! The clock of a database.

use std::time::Instant;

use cbbootstrap_protocol::rules::{KEEP_GENERATION, later};
use jiff::Timestamp;

/// The time of day when it was started, plus the time since. Were it to follow a change of the time of day, leases and records would end
/// early.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    at: Timestamp,
    latest: Timestamp,
}

impl Clock {
    /// A machine may boot with a wrong time of day, so the clock never starts before the latest time in the database. It does not start
    /// much later, either: then records would end that nobody had time to renew.
    pub fn start(time_of_day: Timestamp, latest: Timestamp) -> Self {
        let at = time_of_day.clamp(latest, later(latest, KEEP_GENERATION));
        Self { started: Instant::now(), at, latest }
    }

    pub fn now(&self) -> Timestamp {
        later(self.at, self.started.elapsed())
    }

    /// The latest time of which it is certain that it has come: that in the database, plus the time since the start.
    pub fn certain(&self) -> Timestamp {
        later(self.latest, self.started.elapsed())
    }
}
