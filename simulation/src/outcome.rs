//! What a simulation counts.

use cbbootstrap_report::{
    price::{GB_SECOND, HTTP_API, INVOCATIONS, LOG_GB, READS, WRITES},
    stack,
};

use crate::limits::{Limit, Micros, SECOND, Units};

/// The bytes of the function's log line, as the benchmark of the server measures it.
const REQUEST_LOG: f64 = 451.0;

/// The counts of a minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    pub requests: u64,
    /// With a success, or a refusal by the protocol's rules.
    pub answers_200: u64,
    pub answers_429: u64,
    pub answers_503: u64,
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub nodes: u64,
    /// How long each node took to know whether it initializes or joins, in milliseconds.
    pub places: Vec<u32>,
    pub members: u64,
    /// Members that the API's list has no place for.
    pub unlisted: u64,
    /// Nodes that wait for an operator.
    pub stopped: u64,
    pub initializations: u64,
    pub takeovers: u64,
    /// When the last node became a member.
    pub ended: Micros,
    /// Requests that API Gateway accepted.
    pub accepted: u64,
    pub invocations: u64,
    /// Of the function.
    pub busy_time: Micros,
    pub units: Units,
    pub minutes: Vec<Minute>,
    /// By [`Limit`]: how often it refused something, and when first.
    pub refusals: [(u64, Option<Micros>); Limit::ALL.len()],
}

impl Outcome {
    pub fn minute(&mut self, number: u64) -> &mut Minute {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        if number >= self.minutes.len() {
            self.minutes.resize(number + 1, Minute::default());
        }
        &mut self.minutes[number]
    }

    pub fn refuse(&mut self, limit: Limit, now: Micros) {
        let (count, first) = &mut self.refusals[limit as usize];
        *count += 1;
        first.get_or_insert(now);
    }

    /// The limit that refused something first, and when.
    pub fn first_limit(&self) -> Option<(Limit, Micros)> {
        let refusals = Limit::ALL.into_iter().zip(&self.refusals);
        refusals.filter_map(|(limit, (_, first))| Some((limit, (*first)?))).min_by_key(|it| it.1)
    }

    pub fn total(&self) -> Minute {
        self.minutes.iter().fold(Minute::default(), |sum, minute| Minute {
            requests: sum.requests + minute.requests,
            answers_200: sum.answers_200 + minute.answers_200,
            answers_429: sum.answers_429 + minute.answers_429,
            answers_503: sum.answers_503 + minute.answers_503,
        })
    }

    /// The seconds within which this share of all nodes know their role; `None` if fewer do.
    pub fn place_known(&mut self, share: f64) -> Option<f64> {
        self.places.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let rank = (self.nodes as f64 * share).ceil() as usize;
        self.places.get(rank.max(1) - 1).map(|took| f64::from(*took) / 1e3)
    }

    /// The bill. API Gateway does not bill what it throttles.
    pub fn dollars(&self) -> f64 {
        let total = self.total();
        let gigabytes = stack::default_of("MemorySize") / 1024.0;
        let logs =
            self.invocations as f64 * REQUEST_LOG + total.requests as f64 * stack::access_log();
        let millions = self.accepted as f64 * HTTP_API
            + self.invocations as f64 * INVOCATIONS
            + self.units.writes * WRITES
            + self.units.reads * READS;
        millions / 1e6
            + self.busy_time as f64 / SECOND as f64 * gigabytes * GB_SECOND
            + logs / 1e9 * LOG_GB
    }
}
