//! Decides the next step on the way into the cluster: in `blank.rs` for blank servers, in `member.rs` for members, and in [`life`] for
//! machines that are about to end. No I/O; the time is an argument.
//!
//! Each round begins with the server's state, so an agent can be killed and started again at any time, and agents of different
//! nodes do not talk to each other. A node that belongs to another cluster is never changed.

mod admission;
mod answers;
mod blank;
pub mod life;
mod member;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use cbbootstrap_protocol::names::{Node, Uuid};

pub use self::{
    admission::{Admission, admission, may_be_copy},
    answers::{Answers, Asked},
    member::{
        Testimony, confirm, is_listed, lists, may_go, needs_confirmation, obstacle, rebalance,
    },
};
use self::{blank::blank, member::member};
use crate::{
    http::CONNECT_LIMIT,
    server::{Health, INITIALIZE_LIMIT, Membership, NodeInfo, Recovery, View},
    values::BucketSpec,
};

/// The part of the lease that must be left right before the call that initializes the cluster: the call ends before the lease.
pub const LEASE_MARGIN: Duration = Duration::from_secs(INITIALIZE_LIMIT.as_secs() + 1);

/// How far apart two inspections must be that find no server: one that is being started again answers by then.
const INSPECTION_GAP: Duration = Duration::from_secs(20);

/// How long the inspection of a host takes that does not answer: a time limit for each of two ports.
const INSPECTION_LIMIT: Duration = Duration::from_secs(2 * CONNECT_LIMIT.as_secs());

/// Inspections that find no server count together only if no more time passes between them: it may have run in between.
const ABSENCE_LIMIT: Duration = Duration::from_mins(5);

/// A server that is being added has other credentials for a moment. After this time it belongs to another cluster.
pub const OTHER_CREDENTIALS_LIMIT: Duration = Duration::from_secs(30);

/// A node that is unreachable for this long counts as dead.
pub const DEAD_AFTER: Duration = Duration::from_mins(1);

/// For 10 to 18 s after its start, a server may report membership in a cluster that has removed it. From this uptime on, no other
/// member needs to confirm its membership.
pub const TRUSTED_AFTER: Duration = Duration::from_mins(1);

/// A failed-over server that started within this time has come back: the agent may have started after it.
const RESTARTED_WITHIN: Duration = Duration::from_mins(3);

/// How long the first rebalance waits for the next of the nodes that the cluster begins with: one may never come.
pub const NEXT_NODE_LIMIT: Duration = Duration::from_mins(10);

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

#[derive(Clone, Debug)]
pub struct Goal {
    pub node: Node,
    /// Whether the node has the data service and so can begin a cluster.
    pub can_begin: bool,
    /// Whether members can be verified, or `--insecure` is set.
    pub trusts_members: bool,
    /// In this order.
    pub extras: Vec<Extra>,
    pub attests: bool,
    /// Whether an existing cluster may be registered at the API.
    pub adopt: bool,
    /// How long the list of nodes must stay the same before a rebalance.
    pub settle: Duration,
    /// How many nodes the cluster begins with, if that is known.
    pub nodes: Option<usize>,
    /// How long to wait for a node that lost its claim but has initialized its server.
    pub lease: Duration,
    pub recovers: bool,
    /// Whether a failed-over member with this node's name that lost its data may be removed.
    pub replaces: bool,
}

impl Goal {
    /// A node that can begin a cluster and verify members, and needs nothing but its membership.
    pub fn new(node: Node, lease: Duration) -> Self {
        Self {
            node,
            can_begin: true,
            trusts_members: true,
            extras: Vec::new(),
            attests: false,
            adopt: false,
            settle: Duration::ZERO,
            nodes: None,
            lease,
            recovers: false,
            replaces: false,
        }
    }

    /// How far apart two inspections must be that find no server. A short lease leaves less time.
    pub fn inspection_gap(&self) -> Duration {
        INSPECTION_GAP.min(self.lease.saturating_sub(LEASE_MARGIN + INSPECTION_LIMIT))
    }
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
    /// This run's last claim did not give it the cluster: another node had claimed it, or it was ready. Until a lease ends, reading the
    /// record is enough; a record that names this node may be a twin's claim.
    pub is_claimed_by_other: bool,
    /// The servers of nodes that lost their claims, as inspected in this generation.
    pub inspections: BTreeMap<Node, Inspection>,
    /// A node that lost its claim and has initialized its server, and since when this is known.
    pub occupied_by: Option<(Node, Instant)>,
    /// Whether another member has confirmed this server's membership, or no other one is left that could.
    pub is_confirmed: bool,
    /// Extras that are done, or refused for good.
    pub done_extras: BTreeSet<Extra>,
    pub is_reported: bool,
    pub is_attested: bool,
    pub is_delta_refused: bool,
    pub kept: Kept,
}

/// What a run that starts over must still know.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The server has accepted its initialization, and has not been seen in its cluster yet.
    pub has_initialized: bool,
    /// This run has initialized the server, or may have: its node may choose its own server group.
    pub has_begun_cluster: bool,
    /// Whether a request to initialize the server broke off, and may still be carried out.
    pub may_be_under_way: bool,
    /// The generation of the claim that this node gives up, or has given up.
    pub left_claim: Option<u64>,
    /// The nodes whose last inspections have found no server, also in earlier generations.
    pub absences: BTreeMap<Node, Absence>,
    /// The API, or another member, has last answered that the server is not, or may not be, in the recorded cluster.
    pub is_disowned: bool,
    /// The buckets that this run has seen. One that is missing later was deleted by people.
    pub buckets: BTreeSet<String>,
    /// The ID of the rebalance that is under way, or of the one before.
    pub rebalance_id: Option<String>,
    /// The nodes whose rebalance someone has stopped.
    pub stopped_among: Option<Vec<(String, Membership)>>,
    /// The names of failed-over nodes that a rebalance of this run removes or has removed, until that is reported.
    pub removed: BTreeSet<String>,
    pub failover_cause: FailoverCause,
}

/// Why the cluster has failed this node over, or would do so now. Until the node is active, a cause further down hides one above it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailoverCause {
    #[default]
    Unknown,
    /// This node, or its connection to the others, has failed.
    Outage,
    /// A person has failed it over while it was well. What fails later does not change that.
    Person,
    /// This run has begun to fail it over, for an interruption that may be withdrawn while that goes on.
    Agent,
}

impl Memory {
    /// Drops what no longer holds after the server has changed; matters for `run`, which stays.
    pub fn observe(&mut self, own: &OwnServer) {
        let OwnServer::Member(view) = own else {
            self.is_confirmed = false;
            if let OwnServer::Blank(_) = own {
                (self.is_reported, self.is_attested, self.kept.is_disowned) = (false, false, false);
                self.kept.failover_cause = FailoverCause::Unknown;
                self.rebalance_is_under_way = false;
                self.done_extras.clear();
                self.kept.buckets.clear();
            }
            // A server that refuses the agent's password runs: if people fail it over, they decide that.
            if *own != OwnServer::OtherCredentials {
                self.note_failover(FailoverCause::Outage);
            }
            return;
        };
        self.occupied_by = None;
        (self.kept.has_initialized, self.kept.may_be_under_way) = (false, false);
        self.kept.buckets.extend(view.buckets.iter().cloned());
        let is_gone = |node: &NodeInfo| {
            node.health == Health::Unhealthy
                && (node.is_asked || node.membership == Membership::Active)
        };
        let has_restarted =
            |this: &NodeInfo| this.is_failed_over() && this.uptime < RESTARTED_WITHIN;
        let is_active = view.this().is_some_and(|this| this.membership == Membership::Active);
        if is_active && !(view.is_rebalancing && self.kept.failover_cause == FailoverCause::Agent) {
            self.kept.failover_cause = FailoverCause::Unknown;
        }
        if view.nodes.iter().any(is_gone) || view.this().is_some_and(has_restarted) {
            self.note_failover(FailoverCause::Outage);
        } else if is_active {
            self.is_delta_refused = false;
        }
    }

    pub fn note_failover(&mut self, cause: FailoverCause) {
        self.kept.failover_cause = self.kept.failover_cause.max(cause);
    }

    /// Whether a failure or the agent has caused a failover.
    pub fn explains_failover(&self) -> bool {
        matches!(self.kept.failover_cause, FailoverCause::Outage | FailoverCause::Agent)
    }

    /// For a run that starts over.
    #[must_use]
    pub fn keep(&self) -> Self {
        Self { kept: self.kept.clone(), ..Self::default() }
    }

    /// Notes an inspection between these times; `None` if it gave no clear answer. A server counts as dead only if two inspections
    /// with at least this gap between them find none, and no other finds one.
    pub fn note_inspection(
        &mut self,
        node: &Node,
        inspection: Option<Inspection>,
        gap: Duration,
        (began, ended): (Instant, Instant),
    ) {
        let inspection = if inspection == Some(Inspection::Unreachable) {
            let known = self.kept.absences.get(node);
            let known = known.filter(|known| time_since(Some(known.last), began) <= ABSENCE_LIMIT);
            let since = known.map_or(ended, |known| known.since);
            self.kept.absences.insert(node.clone(), Absence { since, last: ended });
            let is_dead = began.saturating_duration_since(since) >= gap;
            Some(if is_dead { Inspection::Dead } else { Inspection::Unreachable })
        } else {
            self.kept.absences.remove(node);
            inspection
        };
        match inspection {
            Some(inspection) => self.inspections.insert(node.clone(), inspection),
            None => self.inspections.remove(node),
        };
    }
}

/// Since when inspections have found no server, and when the last one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absence {
    pub since: Instant,
    pub last: Instant,
}

/// The server of a node that lost its claim, as seen without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inspection {
    /// It belongs to no cluster.
    Blank,
    Provisioned,
    /// There was none. It may be about to start.
    Unreachable,
    /// There was none for some time.
    Dead,
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
    Inspect(Vec<Node>),
    /// Give the claim up: this node may have initialized the cluster.
    GiveUpClaim(Node),
    /// Give the claim up again: the API has not confirmed it.
    LeaveClaim,
    Initialize,
    /// Join through the first of these members that can add the node.
    Join(Vec<Node>),
    /// Ask other recorded members whether this server is one of theirs.
    Confirm,
    /// Remove a dead node that was added and never rebalanced in, by its name for rebalances.
    Eject(String),
    /// Mark this failed-over node to be recovered by the next rebalance.
    Recover {
        otp: String,
        recovery: Recovery,
    },
    Rebalance {
        /// All nodes, by their names for rebalances.
        known: Vec<String>,
        /// The names of failed-over nodes that the rebalance removes.
        removed: Vec<String>,
    },
    Report(Uuid),
    /// Report that this run's rebalance has removed a dead member.
    ReportRemoved(Node),
    Apply(Extra),
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
    /// The API has no cluster for this blank server, which was to be registered as a member of one.
    NothingToAdopt,
    /// This blank server, which was to be registered as a member of a cluster, has the claim instead.
    OwnClaim,
    /// Its server belongs to another cluster than the API's.
    OtherCluster {
        own: Uuid,
        /// The API's cluster, or its first node.
        recorded: String,
    },
    /// This member of its cluster does not list its server, which names no other member.
    OldCopy(Node),
    FailedOver,
    /// The cluster's only member is a server of this name, and this server is blank.
    Lost {
        recorded: Option<Uuid>,
        /// The UUID of this server.
        own: Option<Uuid>,
    },
    /// This node lost its claim and did not report, but has initialized its server.
    Occupied(Node),
    NoTrust,
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

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
