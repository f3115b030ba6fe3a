//! Tables of every branch, and properties of all decisions.

#![expect(clippy::large_stack_arrays, reason = "tables are long")]

mod admission;
mod blank;
mod life;
mod member;
mod properties;

use std::sync::LazyLock;

use cbbootstrap_protocol::wire::State;

use super::*;
use crate::record::{ClusterRecord, RecordedMember};

const ME: &str = "10.0.0.1";
const FIRST: &str = "10.0.0.2";
const THIRD: &str = "10.0.0.3";
const UUID: &str = "a1";
const OTHER_UUID: &str = "b2";
/// The UUID of this node's server.
const OWN: &str = "e5";

/// The expected decision.
#[derive(Debug)]
enum Expected {
    Action(Action),
    /// A wait for a reason that contains this text.
    Wait(&'static str),
}
use Action::{
    Apply, Claim, Confirm, Done, Eject, GetRecord, GiveUpClaim, Initialize, Inspect, Join,
    LeaveClaim, Recover, Stop,
};
use Asked::{NoRecord, NotYet, Record as Has};
use Expected::{Action as Then, Wait as Waits};

#[track_caller]
fn assert_next(
    what: &str,
    goal: &Goal,
    own: &OwnServer,
    asked: &Asked,
    memory: &Memory,
    expected: &Expected,
) {
    let decided = next_action(goal, own, asked, memory, now());
    let is_expected = match (&decided, expected) {
        (Action::Wait(why), Waits(part)) => why.contains(part),
        (decided, Then(expected)) => decided == expected,
        (_, Waits(_)) => false,
    };
    assert!(is_expected, "{what}: {decided:?}, not {expected:?}");
}

/// The time of every decision.
pub(super) fn now() -> Instant {
    static NOW: LazyLock<Instant> = LazyLock::new(|| Instant::now() + Duration::from_hours(24));
    *NOW
}

pub(super) fn ago(time: Duration) -> Instant {
    now().checked_sub(time).unwrap()
}

fn node(name: &str) -> Node {
    Node::new(name).unwrap()
}

fn uuid(text: &str) -> Uuid {
    Uuid::new(text).unwrap()
}

/// A node that can begin a cluster, can verify members and wants no extras.
fn goal() -> Goal {
    Goal { settle: Duration::from_secs(5), ..Goal::new(node(ME), Duration::from_secs(40)) }
}

fn group() -> Extra {
    Extra::Group("us-east-1a".to_owned())
}

fn bucket(name: &str) -> Extra {
    Extra::Bucket(format!("{name}:100").parse().unwrap())
}

fn address() -> Extra {
    Extra::AlternateAddress("203.0.113.1".to_owned())
}

/// A run that has observed the same nodes for a minute, is confirmed and has reported.
fn memory() -> Memory {
    let same_since = Some(ago(Duration::from_mins(1)));
    Memory { same_since, is_confirmed: true, is_reported: true, ..Memory::default() }
}

/// The memory, with this part that a run keeps when it starts over.
fn with(kept: Kept, memory: Memory) -> Memory {
    Memory { kept, ..memory }
}

fn failed_over_by(failover_cause: FailoverCause) -> Kept {
    Kept { failover_cause, ..Kept::default() }
}

fn unconfirmed() -> Memory {
    Memory { is_confirmed: false, ..memory() }
}

fn unreported() -> Memory {
    Memory { is_reported: false, ..memory() }
}

fn otp(name: &str) -> String {
    format!("ns_1@{name}")
}

fn member_of(name: &str, membership: Membership) -> NodeInfo {
    NodeInfo {
        uuid: Some(uuid(if name == ME { OWN } else { "0ff" })),
        membership,
        is_asked: name == ME,
        group: Some("Group 1".to_owned()),
        ..NodeInfo::healthy(name)
    }
}

fn active(name: &str) -> NodeInfo {
    member_of(name, Membership::Active)
}

fn added(name: &str) -> NodeInfo {
    member_of(name, Membership::Added)
}

fn failed(name: &str) -> NodeInfo {
    member_of(name, Membership::FailedOver)
}

fn recovering(name: &str) -> NodeInfo {
    NodeInfo { recovery: Recovery::Delta, ..added(name) }
}

fn dead(node: NodeInfo) -> NodeInfo {
    NodeInfo { health: Health::Unhealthy, ..node }
}

fn warming_up(node: NodeInfo) -> NodeInfo {
    NodeInfo { health: Health::Warmup, ..node }
}

fn up_for(seconds: u64, node: NodeInfo) -> NodeInfo {
    NodeInfo { uptime: Duration::from_secs(seconds), ..node }
}

/// A balanced cluster of these nodes.
fn cluster_of(nodes: impl IntoIterator<Item = NodeInfo>) -> View {
    View::balanced(uuid(UUID), nodes.into_iter().collect())
}

fn unbalanced(nodes: impl IntoIterator<Item = NodeInfo>) -> View {
    View { is_balanced: false, ..cluster_of(nodes) }
}

fn rebalancing(nodes: impl IntoIterator<Item = NodeInfo>) -> View {
    View { is_rebalancing: true, ..cluster_of(nodes) }
}

/// The record of a cluster that this node or another has claimed.
fn claimed_by(first: &str, lease_left: impl Into<Option<u64>>) -> ClusterRecord {
    ClusterRecord {
        initial_node: node(first),
        is_initial: first == ME,
        state: State::Claimed,
        generation: 1,
        lease_end: lease_left.into().map(|left| now() + Duration::from_secs(left)),
        previous: Vec::new(),
        rival: None,
        cluster_uuid: None,
        members: Vec::new(),
    }
}

/// The same, taken over from these nodes.
fn taken_over(first: &str, lease_left: impl Into<Option<u64>>, previous: &[&str]) -> ClusterRecord {
    let previous = nodes(previous);
    ClusterRecord {
        generation: 1 + previous.len() as u64,
        previous,
        ..claimed_by(first, lease_left)
    }
}

/// The record of a cluster that is ready, with these members.
fn ready(first: &str, members: &[&str]) -> ClusterRecord {
    let members = members.iter().map(|name| RecordedMember {
        node: node(name),
        node_uuid: Some(uuid(if *name == ME { "c4" } else { "0ff" })),
        authority: None,
        attestation: None,
    });
    ClusterRecord {
        state: State::Ready,
        cluster_uuid: Some(uuid(UUID)),
        members: members.collect(),
        ..claimed_by(first, None)
    }
}

/// The record, with this UUID of the cluster.
fn of_cluster(cluster_uuid: Option<&str>, record: ClusterRecord) -> ClusterRecord {
    ClusterRecord { cluster_uuid: cluster_uuid.map(uuid), ..record }
}

/// The record of a cluster that this node may join, or has joined.
fn joinable() -> Asked {
    Has(ready(FIRST, &[FIRST]))
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn nodes(names: &[&str]) -> Vec<Node> {
    names.iter().map(|name| node(name)).collect()
}

fn rebalance(known: &[&str], removed: &[&str]) -> Expected {
    let known = known.iter().map(|name| otp(name)).collect();
    Then(Action::Rebalance { known, removed: names(removed) })
}

fn stop(reason: StopReason) -> Expected {
    Then(Stop(reason))
}

fn other_cluster(recorded: &str) -> Expected {
    stop(StopReason::OtherCluster { own: uuid(UUID), recorded: recorded.to_owned() })
}

fn report() -> Expected {
    Then(Action::Report(uuid(UUID)))
}

fn blank() -> OwnServer {
    OwnServer::Blank(Some(uuid(OWN)))
}

fn inspected(inspections: &[(&str, Inspection)]) -> Memory {
    let inspections = inspections.iter().map(|(name, state)| (node(name), *state));
    Memory { inspections: inspections.collect(), ..Memory::default() }
}

/// A server that was not found this many seconds ago.
fn absent_since(seconds: u64) -> Absence {
    let since = ago(Duration::from_secs(seconds));
    Absence { since, last: since }
}
