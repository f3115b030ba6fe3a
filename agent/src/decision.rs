//! Decides the next step on the way into the cluster. No I/O; the time is an argument.
//!
//! Each round begins with the server's state, so an agent can be killed and started again at any time, and agents of different
//! nodes do not talk to each other. A node that belongs to another cluster is never changed.

mod admission;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use cbbootstrap_protocol::{
    names::{Node, Uuid},
    wire::State,
};

pub use self::admission::{Admission, admission};
use crate::{
    record::ClusterRecord,
    server::{Health, INITIALISE_LIMIT, Membership, NodeInfo, View},
    values::BucketSpec,
};

/// The part of the lease that must be left right before the call that initialises the cluster: the call ends before the lease.
pub const LEASE_MARGIN: Duration = Duration::from_secs(INITIALISE_LIMIT.as_secs() + 1);

/// A server that is being added has other credentials for a moment. After this time it belongs to another cluster.
pub const OTHER_CREDENTIALS_LIMIT: Duration = Duration::from_secs(30);

/// A node that is unreachable for this long counts as dead.
pub const DEAD_AFTER: Duration = Duration::from_mins(1);

/// For 10 to 18 s after its start, a server may report membership in a cluster that has removed it. After this time no other
/// member needs to confirm it.
pub const TRUSTED_AFTER: Duration = Duration::from_mins(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnServer {
    /// It does not answer, for this reason.
    Unreachable(String),
    /// It belongs to a cluster with other credentials.
    OtherCredentials,
    /// It belongs to no cluster. The UUID is the server's.
    Blank(Option<Uuid>),
    Member(View),
}

/// The state that the node is to reach.
#[derive(Clone, Debug)]
pub struct Goal {
    pub node: Node,
    /// Whether the node has the data service and so can begin a cluster.
    pub can_begin: bool,
    /// Whether members can be verified, or `--insecure` is set.
    pub trusts_members: bool,
    /// In this order.
    pub extras: Vec<Extra>,
    /// Whether the report needs an attestation.
    pub attests: bool,
    /// Whether an existing cluster may be registered at the API.
    pub adopt: bool,
    /// How long the list of nodes must stay the same before a rebalance.
    pub settle: Duration,
    /// How long to wait for a node that lost its claim but has initialised its server.
    pub lease: Duration,
}

/// What this run has observed and done. A run that starts without it reaches the same goal.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub other_credentials_since: Option<Instant>,
    /// Since when the list of nodes has been the same.
    pub same_since: Option<Instant>,
    /// Since when the cluster has not reached a node, by the node's name for rebalances.
    pub unreachable_since: BTreeMap<String, Instant>,
    pub rebalance_is_under_way: bool,
    /// In a row.
    pub failed_rebalances: u32,
    /// No rebalance begins before this time, after a failed one.
    pub rest_until: Option<Instant>,
    pub has_initialised: bool,
    /// The servers of nodes that lost their claims, as inspected in this generation.
    pub inspections: BTreeMap<Node, Inspection>,
    /// A node that lost its claim and has initialised its server, and since when this is known.
    pub occupied_by: Option<(Node, Instant)>,
    /// Whether another member has confirmed this node's membership.
    pub is_confirmed: bool,
    /// Extras that are done, or refused for good.
    pub settled: BTreeSet<Extra>,
    pub is_reported: bool,
    pub is_attested: bool,
}

/// The server of a node that lost its claim, as seen without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// It belongs to no cluster.
    Blank,
    Provisioned,
    Unreachable,
}

/// An option of a member that comes after its membership.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extra {
    Group(String),
    Bucket(BucketSpec),
    AlternateAddress(String),
}

impl fmt::Display for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(name) => write!(f, "server group `{name}`"),
            Self::Bucket(bucket) => write!(f, "bucket `{}`", bucket.name),
            Self::AlternateAddress(_) => f.write_str("alternate address"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Try again after a pause, for this reason.
    Wait(String),
    /// Get the record from the API without claiming.
    GetRecord,
    Claim,
    /// Inspect the servers of these nodes, which lost their claims.
    Inspect(Vec<Node>),
    /// Give the claim up: this node may have initialised the cluster.
    GiveUpClaim(Node),
    Initialise,
    /// Join through the first of these members that can add the node.
    Join(Vec<Node>),
    /// Ask these members whether this node is one of them.
    Confirm(Vec<String>),
    /// Remove a dead node that was added and never rebalanced in, by its name for rebalances.
    Eject(String),
    Rebalance {
        /// All nodes, by their names for rebalances.
        known: Vec<String>,
        /// The names of failed-over nodes that the rebalance removes.
        removed: Vec<String>,
    },
    Report(Uuid),
    Settle(Extra),
    Done,
    Stop(StopReason),
}

/// Why the node stays as it is until a person decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Its server belongs to a cluster with other credentials.
    OtherCredentials,
    /// Its server belongs to this cluster, and the API knows of none.
    Unregistered(Uuid),
    /// Its server belongs to another cluster than the API's.
    OtherCluster {
        own: Uuid,
        /// The API's cluster, or its first node.
        recorded: String,
    },
    FailedOver,
    /// The cluster's only member is a server of this name, and this server is blank.
    Lost {
        recorded: Option<Uuid>,
        /// The UUID of this server.
        own: Option<Uuid>,
    },
    /// This node lost its claim and did not report, but has initialised its server.
    Occupied(Node),
    /// There is no way to verify the members.
    NoTrust,
}

/// The API's record, as far as it is known.
#[derive(Clone, Debug, Default)]
pub enum Asked {
    #[default]
    NotYet,
    NoRecord,
    Record(ClusterRecord),
}

fn wait(reason: impl Into<String>) -> Action {
    Action::Wait(reason.into())
}

/// The time since an event; zero if it has not happened.
pub fn time_since(event: Option<Instant>, now: Instant) -> Duration {
    event.map_or(Duration::ZERO, |event| now.saturating_duration_since(event))
}

pub fn next_action(
    goal: &Goal,
    own: &OwnServer,
    asked: &Asked,
    memory: &Memory,
    now: Instant,
) -> Action {
    match own {
        OwnServer::Unreachable(why) => wait(why),
        OwnServer::OtherCredentials
            if time_since(memory.other_credentials_since, now) < OTHER_CREDENTIALS_LIMIT =>
        {
            wait("the server has other credentials; it may be joining the cluster")
        }
        OwnServer::OtherCredentials => Action::Stop(StopReason::OtherCredentials),
        OwnServer::Blank(uuid) => blank(goal, uuid.as_ref(), asked, memory, now),
        OwnServer::Member(view) => member(goal, view, asked, memory, now),
    }
}

/// For a server that belongs to no cluster.
fn blank(goal: &Goal, own: Option<&Uuid>, asked: &Asked, memory: &Memory, now: Instant) -> Action {
    // A node that lost its claim has a cluster: it must be able to claim again. A server that was initialised without effect is
    // not initialised again in this run: it must not keep the claim from others.
    let may_claim = goal.can_begin && memory.occupied_by.is_none() && !memory.has_initialised;
    let record = match asked {
        Asked::Record(record) => record,
        Asked::NotYet if may_claim => return Action::Claim,
        Asked::NotYet => return Action::GetRecord,
        Asked::NoRecord if goal.can_begin => return Action::Claim,
        Asked::NoRecord => {
            return wait("no node with the data service has claimed the cluster yet");
        }
    };
    match (record.state, &memory.occupied_by) {
        (State::Ready, _) => join(goal, own, record),
        (State::Claimed, Some((node, since))) if now - *since < goal.lease => wait(format!(
            "`{node}` has initialised its server and not reported it; this node does not begin a second cluster"
        )),
        (State::Claimed, Some((node, _))) => Action::Stop(StopReason::Occupied(node.clone())),
        (State::Claimed, None) if record.is_initial => begin(goal, record, memory, now),
        (State::Claimed, None) => {
            let first = &record.initial_node;
            wait(match record.lease_left(now) {
                Some(left) => format!(
                    "`{first}` is to initialise the cluster; its claim expires in {} s",
                    left.as_secs()
                ),
                None => format!("`{first}` is to initialise the cluster; its claim never expires"),
            })
        }
    }
}

/// For a blank server whose node has the claim.
fn begin(goal: &Goal, record: &ClusterRecord, memory: &Memory, now: Instant) -> Action {
    if !goal.can_begin {
        return wait(
            "this node lacks the data service to begin the cluster; its claim has to expire",
        );
    }
    if memory.has_initialised {
        return wait("the server has accepted its initialisation and still belongs to no cluster");
    }
    if record.lease_left(now).is_some_and(|left| left < LEASE_MARGIN) {
        return wait("this node's claim is about to expire; it claims again then");
    }
    let (mut previous, inspections) = (record.previous.iter(), &memory.inspections);
    let unseen = previous.clone().filter(|node| !inspections.contains_key(*node));
    let unseen: Vec<_> = unseen.cloned().collect();
    if !unseen.is_empty() {
        return Action::Inspect(unseen);
    }
    match previous.find(|node| inspections.get(*node) == Some(&Inspection::Provisioned)) {
        Some(node) => Action::GiveUpClaim(node.clone()),
        None => Action::Initialise,
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

/// For a server that belongs to a cluster.
fn member(goal: &Goal, view: &View, asked: &Asked, memory: &Memory, now: Instant) -> Action {
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
                "`{first}` has taken over the claim of this node's cluster; it gives the claim back when it sees that cluster"
            ));
        }
        Some(uuid) => return refuse(format!("the one with the UUID {uuid}")),
        None => return refuse(format!("that of `{first}`")),
    }
    match record.state {
        // Nothing comes before it, because others wait for it. The API refuses it by its generation if it is too late.
        State::Claimed if record.is_initial => Action::Report(view.uuid.clone()),
        State::Claimed if has_expired => Action::Claim,
        State::Claimed => wait(format!("`{first}` is to report the cluster ready")),
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
    if this.membership == Membership::FailedOver {
        return Action::Stop(StopReason::FailedOver);
    }
    if view.nodes.len() > 1 && this.uptime < TRUSTED_AFTER && !memory.is_confirmed {
        let is_other = |node: &&NodeInfo| !node.is_asked && node.membership == Membership::Active;
        let others = view.nodes.iter().filter(is_other);
        return Action::Confirm(others.map(|node| node.name.clone()).collect());
    }
    if view.is_rebalancing {
        return wait("a rebalance runs");
    }
    match this.health {
        Health::Warmup => return wait("the server loads its data (`warmup`)"),
        Health::Unhealthy => return wait("the server reports that it is not healthy"),
        Health::Healthy => {}
    }
    if this.membership == Membership::Active && !memory.is_reported {
        return Action::Report(view.uuid.clone());
    }
    if let Some(action) = balance(goal, this, view, memory, now) {
        return action;
    }
    if goal.attests && !memory.is_attested {
        return Action::Report(view.uuid.clone());
    }
    let missing = goal.extras.iter().find(|extra| {
        let is_missing = match extra {
            Extra::Group(name) => this.group.as_ref() != Some(name),
            // The node that others join creates the buckets.
            Extra::Bucket(bucket) => record.is_initial && !view.buckets.contains(&bucket.name),
            Extra::AlternateAddress(_) => true,
        };
        is_missing && !memory.settled.contains(*extra)
    });
    missing.cloned().map_or(Action::Done, Action::Settle)
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
    let failed_over = view.nodes.iter().filter(|node| node.membership == Membership::FailedOver);
    let removed: Vec<_> = failed_over.map(|node| node.name.clone()).collect();
    // Without added nodes a rebalance would only remove failed-over ones, which is for a person to decide.
    if is_in && added == 0 && (view.is_balanced || !removed.is_empty()) {
        return None;
    }
    if let Some(action) = obstacle(view, memory, now) {
        return Some(action);
    }
    // Added nodes start their rebalance themselves. An active node helps only if they do not.
    let settle = if is_in { goal.settle * 4 } else { goal.settle };
    if time_since(memory.same_since, now) < settle {
        let waiting = match added {
            0 => "the cluster waits".to_owned(),
            1 => "1 node waits".to_owned(),
            _ => format!("{added} nodes wait"),
        };
        return Some(wait(format!("{waiting} for a rebalance; other nodes may be on their way")));
    }
    Some(rebalance(view, removed, memory, now))
}

/// What keeps a rebalance from starting, or would make it remove a node that works.
///
/// The server prepares every node except failed-over ones, and fails after 30 s if one does not answer. It removes failed-over
/// nodes that are not marked for recovery, even if they are healthy again.
pub fn obstacle(view: &View, memory: &Memory, now: Instant) -> Option<Action> {
    view.nodes.iter().filter(|node| !node.is_asked).find_map(|node| {
        let (name, is_well) = (&node.name, node.health != Health::Unhealthy);
        let unreachable_since = memory.unreachable_since.get(&node.otp).copied();
        let is_dead = time_since(unreachable_since, now) >= DEAD_AFTER;
        let why = match node.membership {
            Membership::FailedOver if is_well => format!(
                "`{name}` has been failed over and is back: recover it or remove it in Couchbase Server; a rebalance now would remove it"
            ),
            Membership::FailedOver if is_dead => return None,
            Membership::FailedOver => format!("`{name}` has been failed over; it may come back"),
            Membership::Added | Membership::Active if is_well => return None,
            Membership::Added if node.is_recovering => {
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

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
