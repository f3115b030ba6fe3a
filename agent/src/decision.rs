//! What to do next on the way into the cluster, from what was seen. No I/O, no clock.
//!
//! Every round begins with a look at the server: so a run that is killed is simply begun again, and two runs on different nodes
//! need not know of each other. A node that belongs to another cluster is never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cbbootstrap_function::wire::State;

use crate::{
    api::Record,
    server::{Membership, Node, View},
};

/// So much of its lease must be left to the node that begins to initialise: it takes well under a second.
pub const LEASE_MARGIN: Duration = Duration::from_secs(10);

/// A server that is being added has other credentials for a moment. After so long they are somebody else's.
pub const STRANGER_AFTER: Duration = Duration::from_secs(30);

/// A node that was added and cannot be reached for so long is not waited for any more.
pub const DEAD_AFTER: Duration = Duration::from_mins(1);

/// The node's own server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    /// It does not answer, because of this.
    Away(String),
    /// It belongs to a cluster, and takes other credentials.
    Stranger,
    /// It belongs to no cluster.
    Blank,
    /// It belongs to this one.
    Member(View),
}

/// What the node is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub node: String,
    /// The buckets that are to be there once the cluster is.
    pub buckets: Vec<String>,
    /// Its server group.
    pub group: Option<String>,
    /// Whether a cluster that exists may become the one that the API tells of.
    pub adopt: bool,
    /// How long the list of nodes has to stay as it is before a rebalance begins.
    pub settle: Duration,
}

/// What this run has seen and done so far. Nothing of it is needed to go on after a kill.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// For how long the server has taken other credentials.
    pub stranger_for: Duration,
    /// For how long the list of nodes has been the same.
    pub same_for: Duration,
    /// For how long each node that was added has not been reachable, by its name for rebalances.
    pub unreachable_for: BTreeMap<String, Duration>,
    /// For how long no rebalance is to begin, after ones that failed.
    pub rest: Duration,
    /// Whether the node's place in its server group is settled.
    pub group_done: bool,
    /// Whether its alternate address is.
    pub address_done: bool,
    /// Whether the API has its report.
    pub reported: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Look again in a while. The reason is for people.
    Wait(String),
    /// Ask the API for the record, and claim nothing.
    Ask,
    /// Claim the cluster, or learn who has.
    Claim,
    /// Initialise the cluster.
    Initialise,
    /// Join through one of these members, the first that will do.
    Join(Vec<String>),
    /// Start a rebalance.
    Rebalance {
        /// All nodes, by their names for rebalances.
        known: Vec<String>,
        /// Those among them that are to go.
        ejected: Vec<String>,
    },
    /// Put the node, the only one of its cluster, into its server group.
    Group,
    /// Create this bucket.
    CreateBucket(String),
    /// Set the alternate address.
    Address,
    /// Tell the API that the node is a member of the cluster of this UUID.
    Report(String),
    /// All is as it should be.
    Done,
    /// A person has to decide.
    Refuse(Refusal),
}

/// Why the node stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its server belongs to a cluster with other credentials.
    Stranger,
    /// Its server belongs to a cluster, and the API knows of none.
    Unknown {
        /// The cluster of the server.
        uuid: String,
    },
    /// Its server belongs to another cluster than the API's.
    OtherCluster {
        /// The cluster of the server.
        own: String,
        /// The cluster of the API, if it is known, or else its first node.
        recorded: String,
    },
    /// The cluster has failed it over.
    FailedOver,
    /// The cluster was its own, and it is blank now.
    Lost,
}

/// What to do next.
pub fn next(wanted: &Wanted, own: &Own, asked: &Asked, memory: &Memory) -> Next {
    match own {
        Own::Away(why) => Next::Wait(why.clone()),
        Own::Stranger if memory.stranger_for < STRANGER_AFTER => Next::Wait(
            "the server takes another user name or password; it may be on its way into the cluster"
                .to_owned(),
        ),
        Own::Stranger => Next::Refuse(Refusal::Stranger),
        Own::Blank => blank(wanted, asked),
        Own::Member(view) => member(wanted, view, asked, memory),
    }
}

/// What is known of the API's record.
#[derive(Clone, Debug)]
pub enum Asked {
    /// It was not asked for yet, or has to be asked for again.
    NotYet,
    /// There is none.
    Nothing,
    /// This is it.
    Record(Record),
}

impl Asked {
    /// The record, if there is one.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Record(record) => Some(record),
            Self::NotYet | Self::Nothing => None,
        }
    }
}

/// A server that belongs to no cluster.
fn blank(wanted: &Wanted, asked: &Asked) -> Next {
    let Asked::Record(record) = asked else {
        return Next::Claim;
    };
    let cluster = &record.cluster;
    let first = &cluster.initial_node_ip_addr_or_hostname;
    match (cluster.state, cluster.is_initial_node) {
        (State::Claimed, true) if record.lease_left.is_none_or(|left| left >= LEASE_MARGIN) => {
            Next::Initialise
        }
        (State::Claimed, true) => Next::Wait(
            "this node's claim is about to lapse: it is claimed again once it has".to_owned(),
        ),
        (State::Claimed, false) => Next::Wait(match record.lease_left {
            Some(left) => format!(
                "`{first}` is to initialise the cluster; its claim lapses in {} s",
                left.as_secs()
            ),
            None => format!("`{first}` is to initialise the cluster; its claim never lapses"),
        }),
        (State::Ready, _) => {
            let members = to_join(wanted, record);
            if members.is_empty() {
                Next::Refuse(Refusal::Lost)
            } else {
                Next::Join(members)
            }
        }
    }
}

/// The members to join through, the first node before the others.
fn to_join(wanted: &Wanted, record: &Record) -> Vec<String> {
    let cluster = &record.cluster;
    let mut seen = BTreeSet::from([wanted.node.as_str()]);
    std::iter::once(&cluster.initial_node_ip_addr_or_hostname)
        .chain(&cluster.nodes)
        .filter(|node| seen.insert(node))
        .cloned()
        .collect()
}

/// A server that belongs to a cluster: is it the right one, and is all done?
fn member(wanted: &Wanted, view: &View, asked: &Asked, memory: &Memory) -> Next {
    let record = match asked {
        Asked::NotYet => return Next::Ask,
        Asked::Nothing if wanted.adopt => return Next::Claim,
        Asked::Nothing => {
            return Next::Refuse(Refusal::Unknown {
                uuid: view.uuid.clone(),
            });
        }
        Asked::Record(record) => record,
    };
    let cluster = &record.cluster;
    let first = &cluster.initial_node_ip_addr_or_hostname;
    let is_right = match &cluster.cluster_uuid {
        Some(uuid) => *uuid == view.uuid,
        // Nobody has said: then it is the one with the first node in it.
        None => cluster.is_initial_node || view.node(first).is_some(),
    };
    if !is_right {
        let recorded = cluster.cluster_uuid.as_ref();
        return Next::Refuse(Refusal::OtherCluster {
            own: view.uuid.clone(),
            recorded: recorded.map_or_else(
                || format!("that of `{first}`"),
                |uuid| format!("the one with the UUID {uuid}"),
            ),
        });
    }
    if cluster.state == State::Claimed {
        let has_lapsed = record.lease_left.is_some_and(|left| left.is_zero());
        match (cluster.is_initial_node, has_lapsed) {
            (_, true) => return Next::Claim,
            (true, false) => {}
            (false, false) => {
                return Next::Wait(format!("`{first}` is to report the cluster ready"));
            }
        }
    }
    settled(wanted, view, record, memory)
}

/// A member of the right cluster: what is missing?
fn settled(wanted: &Wanted, view: &View, record: &Record, memory: &Memory) -> Next {
    let Some(this) = view.this() else {
        return Next::Wait("the server does not know itself yet".to_owned());
    };
    if this.membership == Membership::Failed {
        return Next::Refuse(Refusal::FailedOver);
    }
    if view.rebalancing {
        return Next::Wait("a rebalance runs".to_owned());
    }
    if let Some(next) = balance(wanted, view, memory) {
        return next;
    }
    if wanted
        .group
        .as_ref()
        .is_some_and(|group| this.group != *group)
        && !memory.group_done
    {
        return Next::Group;
    }
    if record.cluster.is_initial_node {
        let missing = |bucket: &&String| !view.buckets.contains(bucket);
        if let Some(bucket) = wanted.buckets.iter().find(missing) {
            return Next::CreateBucket(bucket.clone());
        }
    }
    if !memory.address_done {
        return Next::Address;
    }
    if !memory.reported {
        return Next::Report(view.uuid.clone());
    }
    Next::Done
}

/// What the cluster needs until it is balanced with this node in it; none if it is.
///
/// Whoever waits may start the rebalance: one serves all who have been added by then. Where nobody was added and a node was
/// failed over, a rebalance would throw that node out: that is for a person to decide.
fn balance(wanted: &Wanted, view: &View, memory: &Memory) -> Option<Next> {
    let of = |membership| {
        view.nodes
            .iter()
            .filter(move |node| node.membership == membership)
    };
    let this = view.this()?;
    let is_in = this.membership == Membership::Active;
    let added = of(Membership::Added).count();
    if is_in && added == 0 && (view.balanced || of(Membership::Failed).count() > 0) {
        return None;
    }
    let unreachable: Vec<_> = of(Membership::Added).filter(|node| !node.healthy).collect();
    let is_dead = |otp: &str| {
        let unreachable = memory.unreachable_for.get(otp);
        unreachable.is_some_and(|time| *time >= DEAD_AFTER)
    };
    if let Some(node) = unreachable.iter().find(|node| !is_dead(&node.otp)) {
        return Some(Next::Wait(format!(
            "`{}` was added and cannot be reached yet",
            node.name
        )));
    }
    // Those who were added look after themselves. Whoever is in already helps only if they do not.
    let settle = if is_in {
        wanted.settle * 4
    } else {
        wanted.settle
    };
    if memory.same_for < settle {
        let who = match added {
            0 => "the cluster waits".to_owned(),
            1 => "1 node waits".to_owned(),
            _ => format!("{added} nodes wait"),
        };
        return Some(Next::Wait(format!(
            "{who} for a rebalance; other nodes may be on their way"
        )));
    }
    if !memory.rest.is_zero() {
        return Some(Next::Wait(resting(memory.rest)));
    }
    Some(Next::Rebalance {
        known: view.nodes.iter().map(|node| node.otp.clone()).collect(),
        ejected: unreachable
            .into_iter()
            .map(|node| node.otp.clone())
            .collect(),
    })
}

/// Why no rebalance begins for so long.
pub fn resting(rest: Duration) -> String {
    format!(
        "the last rebalance failed; the next begins in {} s",
        rest.as_secs() + 1
    )
}

/// What a member says to a node that wants to join through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Through {
    /// It can add the node.
    Add,
    /// Not now: look again in a while.
    Later(String),
    /// It belongs to another cluster: the next, please.
    Other(String),
    /// It is not well itself: the next, please.
    Unfit,
}

/// Whether the node can join through a member that sees the cluster like this. The API knows its UUID, or does not.
pub fn through(node: &str, view: &View, cluster_uuid: Option<&str>) -> Through {
    if cluster_uuid.is_some_and(|uuid| uuid != view.uuid) {
        return Through::Other(format!(
            "it belongs to another cluster, the one with the UUID {}",
            view.uuid
        ));
    }
    let is_in = |this: &Node| this.membership == Membership::Active && this.healthy;
    if !view.this().is_some_and(is_in) {
        return Through::Unfit;
    }
    match view.node(node).map(|listed| listed.membership) {
        Some(Membership::Added) => {
            Through::Later("it has been added; its server is still on its way".to_owned())
        }
        Some(Membership::Active) => Through::Later(format!(
            "the cluster still lists `{node}` as a member, and its server is blank: once it is failed over and rebalanced out, it can join again"
        )),
        Some(Membership::Failed) => Through::Later(format!(
            "the cluster has failed `{node}` over: once it is rebalanced out, it can join again"
        )),
        None if view.rebalancing => {
            Through::Later("a rebalance runs, and nothing can be added meanwhile".to_owned())
        }
        None => Through::Add,
    }
}

#[cfg(test)]
mod tests;
