//! Starts rebalances, watches them, and delays the next one after a failure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::clock::jitter;
use crate::{
    decision::Memory,
    failure::Failure,
    printer::Printer,
    server::{Health, Server, View},
};

/// This many failures in a row end the command.
const MAX_FAILURES: u32 = 10;

/// The delay after the first failure. It doubles with each one, up to [`MAX_REST`].
const REST: Duration = Duration::from_secs(5);

const MAX_REST: Duration = Duration::from_secs(40);

/// The rebalances of a run.
#[derive(Debug, Default)]
pub(super) struct Rebalances {
    is_under_way: bool,
    /// In a row.
    failures: u32,
    rest_until: Option<Instant>,
    /// Since when each node has been unreachable, by its name for rebalances.
    unreachable: BTreeMap<String, Instant>,
}

impl Rebalances {
    /// Notes which nodes are unreachable, and whether the rebalance that was under way has ended. Fails after too many failures
    /// with the server's reason.
    ///
    /// A rebalance that has reached its purpose counts as done even with an error. Without its purpose and an error, somebody
    /// stopped it or its orchestrator died.
    pub(super) fn watch(
        &mut self,
        server: &Server,
        view: &View,
        is_purpose_reached: bool,
        printer: &Printer,
    ) -> Result<(), Failure> {
        let unreachable = view.nodes.iter().filter(|node| node.health == Health::Unhealthy);
        let mut known = std::mem::take(&mut self.unreachable);
        self.unreachable = unreachable
            .map(|node| (node.otp.clone(), known.remove(&node.otp).unwrap_or_else(Instant::now)))
            .collect();
        if view.is_rebalancing {
            self.is_under_way = true;
            return Ok(());
        }
        if !std::mem::take(&mut self.is_under_way) {
            return Ok(());
        }
        if is_purpose_reached {
            (self.failures, self.rest_until) = (0, None);
            printer.step("rebalance: done");
            return Ok(());
        }
        let error = server.rebalance().ok().and_then(|last| last.error);
        let why = error.as_deref();
        self.fail(
            why.unwrap_or("it ended early: somebody stopped it, or its orchestrator died"),
            printer,
        )
    }

    fn fail(&mut self, why: &str, printer: &Printer) -> Result<(), Failure> {
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            return Err(Failure::new(format!("{MAX_FAILURES} rebalances failed: {why}")).hint(
                "see the servers' logs (`/opt/couchbase/var/lib/couchbase/logs`); run this again once the cause is fixed",
            ));
        }
        let rest = (REST * 2_u32.pow(self.failures - 1)).min(MAX_REST);
        self.rest_until = Some(Instant::now() + jitter(rest));
        printer.warning(format_args!("a rebalance failed: {why}"));
        Ok(())
    }

    /// What a decision needs to know of them.
    pub(super) fn memory(&self) -> Memory {
        let unreachable = self.unreachable.iter();
        Memory {
            rest: self
                .rest_until
                .map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now())),
            unreachable_for: unreachable
                .map(|(otp, since)| (otp.clone(), since.elapsed()))
                .collect(),
            ..Memory::default()
        }
    }

    /// Starts a rebalance of these nodes, the ejected among them. `removed` names failed-over nodes that it removes. Returns
    /// whether this run started it; the error is a reason to wait.
    pub(super) fn start(
        &mut self,
        server: &Server,
        known: &[String],
        ejected: &str,
        removed: &[String],
        printer: &Printer,
    ) -> Result<bool, String> {
        // The list of nodes may have changed, or another rebalance may be about to begin.
        let is_started = server
            .start_rebalance(known, ejected)
            .map_err(|error| format!("the rebalance does not begin yet: {error}"))?;
        self.is_under_way = true;
        for node in removed.iter().filter(|_| is_started) {
            printer.warning(format_args!(
                "`{node}` has been failed over and cannot be reached: the rebalance removes it"
            ));
        }
        Ok(is_started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_failures_end_the_run_with_the_reason_of_the_server() {
        let printer = Printer::new(cbbootstrap_cli::console::Output::Text);
        let mut rebalances = Rebalances::default();
        assert_eq!(rebalances.memory().rest, Duration::ZERO);
        for _ in 1..MAX_FAILURES {
            assert!(rebalances.fail("no disk", &printer).is_ok());
            let rest = rebalances.memory().rest;
            assert!(!rest.is_zero() && rest <= MAX_REST * 2, "{rest:?}");
        }
        let failed = rebalances.fail("no disk", &printer);
        assert!(failed.is_err_and(|failure| failure.to_string().contains("no disk")));
    }
}
