//! Decides the next step of a member.

use std::time::Instant;

use cbbootstrap_protocol::{names::Node, wire::State};

use super::{
    Action, Asked, DEAD_AFTER, Extra, Goal, Memory, NEXT_NODE_LIMIT, StopReason, TRUSTED_AFTER,
    life::Removable, time_since, wait,
};
use crate::{
    record::ClusterRecord,
    server::{Health, Membership, NodeInfo, Recovery, View},
};

/// For a server that belongs to a cluster.
pub(super) fn member(
    goal: &Goal,
    view: &View,
    asked: &Asked,
    memory: &Memory,
    now: Instant,
) -> Action {
    let record = match asked {
        Asked::NotYet => return Action::GetRecord,
        Asked::NoRecord if goal.adopt => return Action::Claim,
        Asked::NoRecord => return Action::Stop(StopReason::Unregistered(view.uuid.clone())),
        Asked::Record(record) => record,
    };
    let first = &record.initial_node;
    let has_expired = record.lease_left(now).is_some_and(|left| left.is_zero());
    let is_in = |node: &Node| view.member(node).is_some();
    // The record, or the claim, was taken over from a node of this cluster.
    let is_of_previous = record.previous.iter().any(|node| *node == goal.node || is_in(node));
    let refuse =
        |recorded| Action::Stop(StopReason::OtherCluster { own: view.uuid.clone(), recorded });
    match &record.cluster_uuid {
        Some(uuid) if *uuid == view.uuid => {}
        // Without a recorded UUID, the cluster that contains the first node is the right one.
        None if record.is_initial || is_in(first) => {}
        None if is_of_previous && has_expired => return Action::Claim,
        None if is_of_previous => {
            return wait(format!(
                "`{first}` has taken over the claim of this node's cluster; it gives up the claim when it finds this cluster"
            ));
        }
        Some(uuid) => return refuse(format!("the one with the UUID {uuid}")),
        None => return refuse(format!("the cluster of `{first}`")),
    }
    match record.state {
        // Nothing comes before it, because others wait for it. The API refuses it by its generation if it is too late.
        State::Claimed if record.is_initial => Action::Report(view.uuid.clone()),
        State::Claimed if has_expired => Action::Claim,
        State::Claimed => wait(format!("`{first}` has not reported the cluster ready yet")),
        State::Ready => complete(goal, view, record, memory, now),
    }
}

/// For a member of the right cluster.
fn complete(
    goal: &Goal,
    view: &View,
    record: &ClusterRecord,
    memory: &Memory,
    now: Instant,
) -> Action {
    let Some(this) = view.this() else {
        return wait("the server does not list itself yet");
    };
    if this.is_failed_over() && !goal.recovers {
        return Action::Stop(StopReason::FailedOver);
    }
    if needs_confirmation(&goal.node, view, Some(record), memory) {
        return Action::Confirm;
    }
    if view.is_rebalancing {
        return wait("a rebalance runs");
    }
    match this.health {
        Health::Warmup => return wait("the server loads its data (`warmup`)"),
        Health::Unhealthy => return wait("the server reports that it is not healthy"),
        Health::Healthy => {}
    }
    if this.is_failed_over() {
        return recover(this, view, memory, now);
    }
    // Without its attestation, nodes with a secret do not join through this one.
    let is_recorded = memory.is_reported && (memory.is_attested || !goal.attests);
    if this.membership == Membership::Active && !is_recorded {
        return Action::Report(view.uuid.clone());
    }
    let mut members = record.members.iter().map(|member| &member.node);
    let is_removed = |node: &Node| {
        memory.kept.removed.contains(&node.host().to_string()) && view.member(node).is_none()
    };
    if let Some(node) = members.find(|node| is_removed(node)) {
        return Action::ReportRemoved(node.clone());
    }
    if let Some(action) = balance(goal, this, view, memory, now) {
        return action;
    }
    let missing = goal.extras.iter().find(|extra| {
        let is_missing = match extra {
            Extra::Group(name) => this.group.as_ref() != Some(name),
            // The node that others join creates the buckets.
            Extra::Bucket(bucket) => {
                record.is_initial
                    && !view.buckets.contains(&bucket.name)
                    && !memory.kept.buckets.contains(&bucket.name)
            }
            // The operator may have added ports, which a change would remove.
            Extra::AlternateAddress(host) => this.alternate_address.as_ref() != Some(host),
        };
        is_missing && !memory.done_extras.contains(*extra)
    });
    missing.cloned().map_or(Action::Done, Action::Apply)
}

/// What the other recorded members say about a node.
#[derive(Debug)]
pub enum Testimony {
    /// A member of the recorded cluster lists it, and sees the cluster like this.
    Listed(View),
    /// This member of the recorded cluster does not list it, and neither does another one that answers.
    NotListed(Node),
    /// None that answers belongs to the recorded cluster, for these reasons.
    Silent {
        /// Whether all of them are down, were reset, or belong to another cluster.
        are_gone: bool,
        why: String,
    },
}

/// Whether other members have to confirm a server's membership. One that has just started may not know that it was removed. One that
/// lacks recorded members may be an old copy of a member, such as a restored snapshot: nothing else would ever tell it.
pub fn needs_confirmation(
    node: &Node,
    view: &View,
    record: Option<&ClusterRecord>,
    memory: &Memory,
) -> bool {
    let has_just_started =
        view.nodes.len() > 1 && view.this().is_some_and(|this| this.uptime < TRUSTED_AFTER);
    let is_unknown = |other: &Node| other != node && view.member(other).is_none();
    let lacks_members = record.is_some_and(|record| {
        record.state == State::Ready && record.nodes().into_iter().any(is_unknown)
    });
    !memory.is_confirmed && (has_just_started || lacks_members)
}

/// What follows for a server whose membership has to be confirmed; `None` if it is, or if the server may be the last one.
pub fn confirm(view: &View, testimony: &Testimony) -> Option<Action> {
    match testimony {
        Testimony::Listed(theirs) if lists(view, theirs) => None,
        Testimony::Listed(_) => Some(wait(
            "another member lists this server, which does not list that member and may be an old copy"
                .to_owned(),
        )),
        Testimony::NotListed(member) if view.nodes.len() == 1 => {
            Some(Action::Stop(StopReason::OldCopy(member.clone())))
        }
        Testimony::NotListed(member) => Some(wait(format!(
            "`{member}` does not list this server, which was removed while it was down and does not know yet, or is an old copy of a member"
        ))),
        // Right after a boot, the network may not be up yet.
        Testimony::Silent { are_gone: true, .. }
            if view.this().is_some_and(|this| this.uptime >= TRUSTED_AFTER) =>
        {
            None
        }
        Testimony::Silent { why, .. } => {
            Some(wait(format!("no other member has confirmed its membership: {why}")))
        }
    }
}

/// Whether another member's view lists the very server with this view.
pub fn is_listed(node: &Node, ours: &View, theirs: &View) -> bool {
    let this = ours.this();
    let own = this.and_then(|this| this.uuid.as_ref());
    let listed = theirs.member(node);
    let listed = listed.or_else(|| this.and_then(|this| theirs.node(&this.name)));
    theirs.uuid == ours.uuid
        && listed.is_some_and(|node| own.is_none() || node.uuid.as_ref() == own)
}

/// Whether this view lists the server with that view. An old copy does not know those who joined later, although they list it until they
/// have removed it.
pub fn lists(ours: &View, theirs: &View) -> bool {
    theirs.this().is_none_or(|it| {
        ours.nodes
            .iter()
            .any(|node| node.name == it.name || node.uuid.is_some() && node.uuid == it.uuid)
    })
}

/// For a node that was failed over and is back. A failover without a failure was a person's decision, and remains.
///
/// Another node that is away may have the only other copy of some data: it has to come back first, or be removed. The rebalance
/// removes dead nodes whose data is elsewhere.
fn recover(this: &NodeInfo, view: &View, memory: &Memory, now: Instant) -> Action {
    if !memory.explains_failover() {
        return Action::Stop(StopReason::FailedOver);
    }
    let is_away = |node: &&NodeInfo| {
        node.health == Health::Unhealthy && !is_removable(node, view, memory, now)
    };
    if let Some(away) = view.others().find(is_away) {
        return wait(format!(
            "this node has been failed over and is back; its recovery waits until `{}` is back or removed",
            away.name
        ));
    }
    let recovery = if memory.is_delta_refused { Recovery::Full } else { Recovery::Delta };
    if recovery == Recovery::Full && !view.can_lose(view.count_failed_over()) {
        return wait(
            "this node has been failed over and is back; the server offers only a full recovery, which deletes this node's data, and other nodes may not have all of it: recover or remove it in Couchbase Server",
        );
    }
    Action::Recover { otp: this.otp.clone(), recovery }
}

/// The next step until the cluster is balanced with this node in it; `None` if it is, or if a person has to decide.
///
/// Any waiting node may start the rebalance, which serves all nodes that were added by then.
fn balance(
    goal: &Goal,
    this: &NodeInfo,
    view: &View,
    memory: &Memory,
    now: Instant,
) -> Option<Action> {
    let is_in = this.membership == Membership::Active;
    let added = view.nodes.iter().filter(|node| node.membership == Membership::Added).count();
    let failed_over = view.nodes.iter().filter(|node| node.is_failed_over());
    let removed: Vec<_> = failed_over.map(|node| node.name.clone()).collect();
    // Without added nodes a rebalance would only remove failed-over ones, which is for a person to decide.
    if is_in && added == 0 && (view.is_balanced || !removed.is_empty()) {
        return None;
    }
    if memory.kept.stopped_among.as_ref() == Some(&view.memberships()) {
        let why = "someone stopped the rebalance that takes this node in: start it in Couchbase Server, or run `cbbootstrap-agent up`";
        return if is_in { None } else { Some(wait(why)) };
    }
    if !is_in && this.recovery == Recovery::Delta && memory.is_delta_refused {
        return Some(recover(this, view, memory, now));
    }
    if let Some(action) = obstacle(view, memory, now, Removable::Dead) {
        return Some(action);
    }
    let missing = missing_nodes(goal, view, memory, now);
    if let Some(missing @ 1..) = missing {
        let count = view.nodes.len();
        return Some(wait(format!(
            "{count} of the {} nodes that the cluster begins with are there",
            count + missing
        )));
    }
    // Added nodes start their rebalance themselves. An active node helps only if they do not.
    let settle = if is_in { goal.settle * 4 } else { goal.settle };
    if missing.is_none() && time_since(memory.same_since, now) < settle {
        let waiting = match added {
            0 => "the cluster waits".to_owned(),
            1 => "1 node waits".to_owned(),
            _ => format!("{added} nodes wait"),
        };
        return Some(wait(format!("{waiting} for a rebalance; other nodes may be on their way")));
    }
    Some(rebalance(view, removed, memory, now))
}

/// How many of the nodes that the cluster begins with are missing before its first rebalance. `None` if their number is not known,
/// another rebalance was first, or the next one has not come for a long time.
fn missing_nodes(goal: &Goal, view: &View, memory: &Memory, now: Instant) -> Option<usize> {
    let expected = goal.nodes?;
    let active = view.nodes.iter().filter(|node| node.membership == Membership::Active).count();
    let count = view.nodes.len();
    if active > 1 || count == 1 || view.count_failed_over() > 0 {
        return None;
    }
    let missing = expected.saturating_sub(count);
    let may_come = time_since(memory.same_since, now) < NEXT_NODE_LIMIT;
    (missing == 0 || may_come).then_some(missing)
}

/// What keeps a rebalance from starting, or would make it remove a node that works.
///
/// The server prepares every node except failed-over ones, and fails after 30 s if one does not answer. It removes failed-over
/// nodes that are not marked for recovery, even if they are healthy again.
pub fn obstacle(
    view: &View,
    memory: &Memory,
    now: Instant,
    removable: Removable,
) -> Option<Action> {
    view.others().find_map(|node| {
        let (name, is_well) = (&node.name, node.health != Health::Unhealthy);
        let is_dead = is_dead(node, memory, now);
        let why = match node.membership {
            Membership::FailedOver if removable == Removable::All => return None,
            Membership::FailedOver if is_well => format!(
                "`{name}` has been failed over and is back: recover it or remove it in Couchbase Server; a rebalance now would remove it"
            ),
            Membership::FailedOver
                if removable == Removable::Dead && is_removable(node, view, memory, now) =>
            {
                return None;
            }
            Membership::FailedOver if is_dead => format!(
                "`{name}` has been failed over, and a rebalance would remove it with data that may have no other copy: recover it or remove it in Couchbase Server"
            ),
            Membership::FailedOver => format!("`{name}` has been failed over; it may come back"),
            Membership::Added | Membership::Active if is_well => return None,
            Membership::Added if node.is_recovering() => {
                format!("`{name}` is marked for recovery and cannot be reached")
            }
            Membership::Added if is_dead => return Some(Action::Eject(node.otp.clone())),
            Membership::Added => format!("`{name}` was added and cannot be reached yet"),
            Membership::Active => format!(
                "`{name}` cannot be reached: no rebalance can succeed until it is back or has been failed over"
            ),
        };
        Some(Action::Wait(why))
    })
}

fn is_dead(node: &NodeInfo, memory: &Memory, now: Instant) -> bool {
    let unreachable_since = memory.unreachable_since.get(&node.otp).copied();
    node.health == Health::Unhealthy && time_since(unreachable_since, now) >= DEAD_AFTER
}

/// Whether the next rebalance may remove this node: it was failed over and is dead, and the other nodes have all data.
fn is_removable(node: &NodeInfo, view: &View, memory: &Memory, now: Instant) -> bool {
    node.is_failed_over() && is_dead(node, memory, now) && view.can_lose(view.count_failed_over())
}

/// Whether the failed-over node of this name, which a rebalance of this run was to remove, is out, or the rebalance may still remove it. If
/// that rebalance has failed, a later one may be another node's.
pub fn may_go(name: &str, view: &View) -> bool {
    let node = view.node(name);
    node.is_none_or(|it| view.is_rebalancing && it.is_failed_over())
}

/// Rebalances all nodes, which removes these failed-over ones, or rests after a failed rebalance.
pub fn rebalance(view: &View, removed: Vec<String>, memory: &Memory, now: Instant) -> Action {
    match memory.rest_until.filter(|end| *end > now) {
        Some(end) => {
            let seconds = (end - now).as_secs() + 1;
            wait(format!("the last rebalance failed; the next begins in {seconds} s"))
        }
        None => Action::Rebalance {
            known: view.nodes.iter().map(|node| node.otp.clone()).collect(),
            removed,
        },
    }
}
