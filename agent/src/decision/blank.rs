//! Decides the next step of a node whose server is blank.

use std::time::Instant;

use cbbootstrap_protocol::{
    names::{Node, Uuid},
    wire::State,
};

use super::{Action, Asked, Goal, Inspection, LEASE_MARGIN, Memory, StopReason, time_since, wait};
use crate::record::ClusterRecord;

/// For a server that belongs to no cluster.
pub(super) fn blank(
    goal: &Goal,
    own: Option<&Uuid>,
    asked: &Asked,
    memory: &Memory,
    now: Instant,
) -> Action {
    // A cluster that is to be registered exists, and needs no second one.
    let can_begin = goal.can_begin && !goal.adopt;
    // A node that lost its claim has a cluster: it must be able to claim again. A server that was initialized without effect is
    // not initialized again in this run: it must not keep the claim from others.
    let may_claim = can_begin && memory.occupied_by.is_none() && !memory.kept.has_initialized;
    let record = match asked {
        Asked::Record(record) => record,
        Asked::NotYet if may_claim && !memory.is_claimed_by_other => return Action::Claim,
        Asked::NotYet => return Action::GetRecord,
        Asked::NoRecord if can_begin => return Action::Claim,
        Asked::NoRecord if goal.adopt => return Action::Stop(StopReason::NothingToAdopt),
        Asked::NoRecord => {
            return wait("no node with the data service has claimed the cluster yet");
        }
    };
    if record.state == State::Ready {
        return join(goal, own, record);
    }
    if let Some((node, since)) = &memory.occupied_by {
        if now - *since >= goal.lease {
            return Action::Stop(StopReason::Occupied(node.clone()));
        }
        return wait(format!(
            "`{node}` has initialized its server and not reported it; this node does not begin a second cluster"
        ));
    }
    let left = record.lease_left(now);
    let has_expired = left.is_some_and(|left| left.is_zero());
    // A record names its first node, which may be another machine of this name. The answer to a claim shows that.
    if may_claim && memory.is_claimed_by_other && (record.is_initial || has_expired) {
        return Action::Claim;
    }
    if record.is_initial && goal.adopt {
        return Action::Stop(StopReason::OwnClaim);
    }
    if has_expired && goal.adopt {
        return Action::Stop(StopReason::NothingToAdopt);
    }
    if record.is_initial {
        return begin(goal, record, memory, now);
    }
    let expires = match left {
        Some(left) => format!("expires in {} s", left.as_secs()),
        None => "never expires".to_owned(),
    };
    let first = &record.initial_node;
    wait(format!("`{first}` has not initialized the cluster yet; its claim {expires}"))
}

/// For a blank server whose node has the claim.
fn begin(goal: &Goal, record: &ClusterRecord, memory: &Memory, now: Instant) -> Action {
    if !goal.can_begin {
        return wait(
            "without the data service, this node cannot begin the cluster; its claim has to expire",
        );
    }
    if memory.kept.has_initialized {
        return wait("the server has accepted its initialization and still belongs to no cluster");
    }
    if memory.kept.left_claim == Some(record.generation) {
        return Action::LeaveClaim;
    }
    if record.lease_left(now).is_some_and(|left| left < LEASE_MARGIN) {
        return wait("this node's claim is about to expire; it claims again then");
    }
    let inspected = |state| {
        let previous = record.previous.iter();
        previous.filter(move |node| memory.inspections.get(*node).copied() == state)
    };
    let unseen: Vec<_> = inspected(None).cloned().collect();
    if !unseen.is_empty() {
        return Action::Inspect(unseen);
    }
    if let Some(node) = inspected(Some(Inspection::Provisioned)).next() {
        return Action::GiveUpClaim(node.clone());
    }
    let absent_for =
        |node: &Node| time_since(memory.kept.absences.get(node).map(|known| known.since), now);
    match inspected(Some(Inspection::Unreachable)).min_by_key(|node| absent_for(node)) {
        None => Action::Initialize,
        Some(node) if absent_for(node) < goal.inspection_gap() => wait(format!(
            "`{node}`, which lost its claim, does not answer; it is checked again before this node begins the cluster"
        )),
        // What the others were has become old.
        Some(_) => Action::Inspect(record.previous.clone()),
    }
}

/// For a blank server, and a cluster that is ready.
fn join(goal: &Goal, own: Option<&Uuid>, record: &ClusterRecord) -> Action {
    let others = record.nodes().into_iter().filter(|node| **node != goal.node);
    let others: Vec<_> = others.cloned().collect();
    if others.is_empty() {
        let recorded = record.member(&goal.node).and_then(|member| member.node_uuid.clone());
        return Action::Stop(StopReason::Lost { recorded, own: own.cloned() });
    }
    if !goal.trusts_members {
        return Action::Stop(StopReason::NoTrust);
    }
    Action::Join(others)
}
