//! Rebalances that are under way, and what follows when they fail.

use std::time::{Duration, Instant};

use super::clock::jitter;
use crate::{
    failure::Failure,
    printer::Printer,
    server::{Server, View},
};

/// So often a rebalance may fail before that is enough.
const TRIES: u32 = 10;

/// After a rebalance that failed, the next one begins so much later, and ever later up to [`MOST_REST`].
const REST: Duration = Duration::from_secs(5);

/// The longest rest.
const MOST_REST: Duration = Duration::from_secs(40);

/// What a run remembers of them.
#[derive(Debug, Default)]
pub(super) struct Rebalances {
    /// Whether one is known to have been under way.
    under_way: bool,
    /// How many failed one after the other.
    failures: u32,
    rest_until: Option<Instant>,
}

impl Rebalances {
    /// One has begun.
    pub(super) fn begin(&mut self) {
        self.under_way = true;
    }

    /// For how long none is to begin, after ones that failed.
    pub(super) fn rest(&self) -> Duration {
        self.rest_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Checks whether the one that was under way has ended, and how. One that reported an error although it did what it was for
    /// has done well enough; one that reports none and did not was stopped, or its orchestrator died. Fails after too many
    /// failures, with the server's reason.
    pub(super) fn watch(
        &mut self,
        server: &Server,
        view: &View,
        is_purpose_served: bool,
        printer: &Printer,
    ) -> Result<(), Failure> {
        if view.is_rebalancing {
            self.under_way = true;
            return Ok(());
        }
        if !std::mem::take(&mut self.under_way) {
            return Ok(());
        }
        if is_purpose_served {
            *self = Self::default();
            printer.step("rebalance: done");
            return Ok(());
        }
        let error = server.rebalance().ok().and_then(|last| last.error);
        let why = error.unwrap_or_else(|| {
            "it ended early: somebody stopped it, or its orchestrator died".to_owned()
        });
        self.failed(&why, printer)
    }

    fn failed(&mut self, why: &str, printer: &Printer) -> Result<(), Failure> {
        self.failures += 1;
        if self.failures >= TRIES {
            return Err(Failure::new(format!("{TRIES} rebalances did not succeed: {why}"))
                .hint("the servers' logs say more (`/opt/couchbase/var/lib/couchbase/logs`); run this again once the cause is fixed"));
        }
        let rest = (REST * 2_u32.pow(self.failures - 1)).min(MOST_REST);
        self.rest_until = Some(Instant::now() + jitter(rest));
        printer.warning(format_args!("a rebalance did not succeed: {why}"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_always_fails_is_given_up_with_the_servers_reason() {
        let printer = Printer::new(cbbootstrap_cli::console::Output::Text);
        let mut rebalances = Rebalances::default();
        assert_eq!(rebalances.rest(), Duration::ZERO);
        for _ in 1..TRIES {
            let failed = rebalances.failed("no disk", &printer);
            assert!(failed.is_ok());
            let rest = rebalances.rest();
            assert!(!rest.is_zero() && rest <= MOST_REST * 2, "{rest:?}");
        }
        let failed = rebalances.failed("no disk", &printer);
        assert!(failed.is_err_and(|failure| failure.to_string().contains("no disk")));
    }
}
