//! Starts rebalances, watches them, and delays the next one after a failure.

use std::time::{Duration, Instant};

use cbbootstrap_cli::failure::Failure;

use super::clock::jitter;
use crate::{
    decision::{self, Memory},
    http::CallError,
    printer::Printer,
    server::{Health, Rebalance, Server, View},
};

/// This many failures in a row end the command.
const MAX_FAILURES: u32 = 10;

/// The delay after the first failure. It doubles with each one, up to [`MAX_REST`].
const REST: Duration = Duration::from_secs(5);

const MAX_REST: Duration = Duration::from_secs(40);

/// Notes which nodes are unreachable, and whether the rebalance that was under way has ended. Fails after too many failures with
/// the server's reason.
///
/// A rebalance that has reached its purpose counts as done even with an error.
pub(super) fn watch(
    memory: &mut Memory,
    server: &Server,
    view: &View,
    is_purpose_reached: bool,
    printer: &Printer,
) -> Result<(), Failure> {
    let mut known = std::mem::take(&mut memory.unreachable_since);
    let unreachable = view.nodes.iter().filter(|node| node.health == Health::Unhealthy);
    memory.unreachable_since = unreachable
        .map(|node| (node.otp.clone(), known.remove(&node.otp).unwrap_or_else(Instant::now)))
        .collect();
    memory.kept.removed.retain(|name| decision::may_go(name, view));
    if view.is_rebalancing {
        if !std::mem::replace(&mut memory.rebalance_is_under_way, true) {
            (memory.kept.rebalance_id, memory.kept.stopped_among) = (None, None);
        }
        if memory.kept.rebalance_id.is_none() {
            memory.kept.rebalance_id =
                server.rebalance().ok().flatten().and_then(|running| running.id);
        }
    } else if std::mem::take(&mut memory.rebalance_is_under_way) {
        if !is_purpose_reached {
            let last = server.rebalance().ok().flatten();
            let is_failover = last.as_ref().is_some_and(Rebalance::is_graceful_failover);
            let error = last.and_then(|last| last.error);
            if is_failover && error.is_none() {
                printer.step("failover: done");
                return Ok(());
            }
            let early = "it ended early: someone stopped it, or its orchestrator died";
            return note_failure(memory, error.as_deref().unwrap_or(early), printer);
        }
        forgive(memory);
        printer.step("rebalance: done");
    }
    Ok(())
}

fn note_failure(memory: &mut Memory, why: &str, printer: &Printer) -> Result<(), Failure> {
    memory.failed_rebalances += 1;
    if memory.failed_rebalances >= MAX_FAILURES {
        return Err(Failure::new(format!("{MAX_FAILURES} rebalances failed: {why}")).hint(
            "see the servers' logs (`/opt/couchbase/var/lib/couchbase/logs`); run this command again once the cause is fixed",
        ));
    }
    let rest = (REST * 2_u32.pow(memory.failed_rebalances - 1)).min(MAX_REST);
    memory.rest_until = Some(Instant::now() + jitter(rest));
    printer.warning(format_args!("a rebalance failed: {why}"));
    Ok(())
}

/// Lets the next rebalance begin at once.
pub(super) fn forgive(memory: &mut Memory) {
    (memory.failed_rebalances, memory.rest_until) = (0, None);
}

/// Starts a rebalance of these nodes, the ejected one among them. `removed` names failed-over nodes that it removes. Returns
/// whether this run started it, `None` without an answer, and why to wait.
pub(super) fn start(
    memory: &mut Memory,
    server: &Server,
    known: &[String],
    ejected: &str,
    removed: &[String],
    printer: &Printer,
) -> (Option<bool>, String) {
    let is_started = match server.start_rebalance(known, ejected) {
        Ok(is_started) => is_started,
        Err(error) if error.to_string().contains("deltaRecoveryNotPossible") => {
            memory.is_delta_refused = true;
            let why = format!("the server refuses to recover a node with its data: {error}");
            return (Some(false), why);
        }
        // The list of nodes may have changed, or another rebalance may be about to begin.
        Err(error) => {
            let why = format!("the rebalance cannot begin yet: {error}");
            let has_answered = !matches!(error, CallError::Unreachable(_) | CallError::Failing(_));
            if !has_answered {
                memory.kept.removed.extend(removed.iter().cloned());
            }
            return (has_answered.then_some(false), why);
        }
    };
    memory.rebalance_is_under_way = true;
    (memory.kept.rebalance_id, memory.kept.stopped_among) = (None, None);
    for node in removed.iter().filter(|_| is_started) {
        memory.kept.removed.insert(node.clone());
        printer.warning(format_args!(
            "`{node}` has been failed over, and the other nodes have its data: the rebalance removes it"
        ));
    }
    (
        Some(is_started),
        if is_started { "a rebalance runs" } else { "another rebalance runs" }.to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_failures_end_the_run_with_the_reason_of_the_server() {
        let printer = Printer::new(cbbootstrap_cli::console::Output::Text);
        let mut memory = Memory::default();
        assert_eq!(memory.rest_until, None);
        for _ in 1..MAX_FAILURES {
            assert!(note_failure(&mut memory, "no disk", &printer).is_ok());
            let rest = memory.rest_until.unwrap().saturating_duration_since(Instant::now());
            assert!(!rest.is_zero() && rest <= MAX_REST * 2, "{rest:?}");
        }
        let failed = note_failure(&mut memory, "no disk", &printer);
        assert!(failed.is_err_and(|failure| failure.to_string().contains("no disk")));
    }
}
