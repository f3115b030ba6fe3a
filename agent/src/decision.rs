//! What to do next on the way into the cluster, from what was seen. No I/O, no clock.
//!
//! Every round begins with a look at the server, so a run that is killed is simply started again, and agents of different nodes
//! need not know of each other. A node that belongs to another cluster is never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cbbootstrap_protocol::{
    names::{Node, Uuid},
    wire::State,
};

use crate::{
    record::Record,
    server::{Health, Membership, NodeInfo, View},
};

/// The most time that the call which initialises the cluster may take.
pub const INITIALISE_LIMIT: Duration = Duration::from_secs(15);

/// What must be left of the lease right before that call: the call ends before the lease does.
pub const LEASE_MARGIN: Duration = Duration::from_secs(INITIALISE_LIMIT.as_secs() + 1);

/// A server that is being added has other credentials for a moment. After this time they are somebody else's.
pub const STRANGER_AFTER: Duration = Duration::from_secs(30);

/// A node that cannot be reached for this long is taken for dead.
pub const DEAD_AFTER: Duration = Duration::from_mins(1);

/// A server that has just started may say for 10 to 18 s that it is a member of a cluster which has removed it. After this time
/// it is believed without the word of another member.
pub const BELIEVED_AFTER: Duration = Duration::from_mins(1);

/// The node's own server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    /// It does not answer, for this reason.
    Away(String),
    /// It belongs to a cluster with other credentials.
    Stranger,
    /// It belongs to no cluster. The UUID is that of the server.
    Blank(Option<Uuid>),
    /// It belongs to this cluster.
    Member(View),
}

/// What the node is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub node: Node,
    /// Whether it can begin a cluster: it has the data service.
    pub can_begin: bool,
    /// Whether it has a way to tell members from impostors, or was told to trust anyone.
    pub trusts_members: bool,
    /// The buckets that the cluster is to have.
    pub buckets: Vec<String>,
    /// The node's server group.
    pub group: Option<String>,
    /// Whether it is to have an alternate address.
    pub address: bool,
    /// Whether its membership is to be attested.
    pub attests: bool,
    /// Whether a cluster that exists may become the one that the API names.
    pub adopt: bool,
    /// How long the list of nodes has to stay the same before a rebalance begins.
    pub settle: Duration,
    /// How long the agent waits for a node that lost its claim but has initialised its server.
    pub lease: Duration,
}

/// What this run has seen and done so far. Nothing of it is needed to go on after a kill.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// For how long the server has taken other credentials.
    pub stranger_for: Duration,
    /// For how long the list of nodes has been the same.
    pub same_for: Duration,
    /// For how long each node has been unreachable for its cluster, by its name for rebalances.
    pub unreachable_for: BTreeMap<String, Duration>,
    /// For how long no rebalance is to begin, after ones that failed.
    pub rest: Duration,
    /// Whether this run has initialised the server.
    pub has_initialised: bool,
    /// What the servers of nodes that lost their claims are, as looked at in this generation.
    pub looks: BTreeMap<Node, Look>,
    /// A node that lost its claim and has initialised its server, and for how long this is known.
    pub occupied_by: Option<(Node, Duration)>,
    /// Whether another member has confirmed that this node is one.
    pub is_confirmed: bool,
    /// What was asked for and is done, or refused for good.
    pub settled: BTreeSet<Extra>,
    /// Whether the API has the node's report.
    pub is_reported: bool,
    /// Whether the report was attested.
    pub is_attested: bool,
}

/// What the server of a node that lost its claim looks like to somebody without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It belongs to no cluster.
    Blank,
    /// It belongs to a cluster.
    Provisioned,
    /// It does not answer.
    Unreachable,
}

/// What a member may have beside its membership.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extra {
    /// A server group.
    Group,
    /// This bucket.
    Bucket(String),
    /// An alternate address.
    Address,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Look again in a while. The reason is for people.
    Wait(String),
    /// Ask the API for the record without claiming.
    Ask,
    /// Claim the cluster, or learn who has.
    Claim,
    /// Look at the servers of these nodes, which lost their claims.
    LookAt(Vec<Node>),
    /// Give the claim up: this node may have initialised the cluster.
    GiveUp(Node),
    /// Initialise the cluster.
    Initialise,
    /// Join through one of these members, the first that will do.
    Join(Vec<Node>),
    /// Ask these members whether this node is one of them.
    Confirm(Vec<String>),
    /// Take a dead node out that was added and never rebalanced in, by its name for rebalances.
    Eject(String),
    /// Start a rebalance.
    Rebalance {
        /// All nodes, by their names for rebalances.
        known: Vec<String>,
        /// The names of failed-over nodes that the rebalance removes.
        removed: Vec<String>,
    },
    /// Tell the API that the node is a member of the cluster of this UUID.
    Report(Uuid),
    /// Do something beside the membership.
    Settle(Extra),
    /// The node is a member, and everything is settled.
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
        uuid: Uuid,
    },
    /// Its server belongs to another cluster than the API's.
    OtherCluster {
        /// The cluster of the server.
        own: Uuid,
        /// The cluster of the API, if it is known, or else its first node.
        recorded: String,
    },
    /// The cluster has failed it over.
    FailedOver,
    /// The cluster's only member is a server of this name, and this server is blank.
    Lost {
        /// The UUID of the member's server, if it is known.
        recorded: Option<Uuid>,
        /// The UUID of this server.
        own: Option<Uuid>,
    },
    /// This node lost its claim and did not report, but has initialised its server.
    Occupied(Node),
    /// Nothing tells members from impostors.
    NoTrust,
}

/// What to do next.
pub fn next(wanted: &Wanted, own: &Own, asked: &Asked, memory: &Memory) -> Next {
    match own {
        Own::Away(why) => Next::Wait(why.clone()),
        Own::Stranger if memory.stranger_for < STRANGER_AFTER => Next::Wait(
            "the server has other credentials; it may be on its way into the cluster".to_owned(),
        ),
        Own::Stranger => Next::Refuse(Refusal::Stranger),
        Own::Blank(uuid) => blank(wanted, uuid.as_ref(), asked, memory),
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

/// A server that belongs to no cluster.
fn blank(wanted: &Wanted, own: Option<&Uuid>, asked: &Asked, memory: &Memory) -> Next {
    // A node that lost its claim has a cluster: it must be able to claim again. A server that has taken its initialisation without
    // effect will not take another one in this run: it must not keep the claim from others.
    let may_claim = wanted.can_begin && memory.occupied_by.is_none() && !memory.has_initialised;
    let record = match asked {
        Asked::Record(record) => record,
        Asked::NotYet if may_claim => return Next::Claim,
        Asked::NotYet => return Next::Ask,
        Asked::Nothing if wanted.can_begin => return Next::Claim,
        Asked::Nothing => {
            return Next::Wait(
                "no node with the data service has claimed the cluster yet".to_owned(),
            );
        }
    };
    match record.state {
        State::Ready => ready(wanted, own, record),
        State::Claimed if record.is_initial => first(wanted, record, memory),
        State::Claimed => {
            if let Some(occupied) = &memory.occupied_by {
                return occupied_by(wanted, occupied);
            }
            let first = &record.initial_node;
            Next::Wait(match record.lease_left {
                Some(left) => {
                    format!(
                        "`{first}` is to initialise the cluster; its claim expires in {} s",
                        left.as_secs()
                    )
                }
                None => {
                    format!("`{first}` is to initialise the cluster; its claim never expires")
                }
            })
        }
    }
}

/// A blank server whose node has the claim.
fn first(wanted: &Wanted, record: &Record, memory: &Memory) -> Next {
    if let Some(occupied) = &memory.occupied_by {
        return occupied_by(wanted, occupied);
    }
    if !wanted.can_begin {
        return Next::Wait(
            "this node's claim has to expire: it lacks the data service to begin a cluster"
                .to_owned(),
        );
    }
    if memory.has_initialised {
        return Next::Wait(
            "the server has taken its initialisation and still belongs to no cluster".to_owned(),
        );
    }
    if record.lease_left.is_some_and(|left| left < LEASE_MARGIN) {
        return Next::Wait("this node's claim is about to expire; it claims again then".to_owned());
    }
    let unseen = record.previous.iter().filter(|node| !memory.looks.contains_key(node));
    let unseen: Vec<_> = unseen.cloned().collect();
    if !unseen.is_empty() {
        return Next::LookAt(unseen);
    }
    let is_provisioned = |node: &&Node| memory.looks.get(node) == Some(&Look::Provisioned);
    match record.previous.iter().find(is_provisioned) {
        Some(node) => Next::GiveUp(node.clone()),
        None => Next::Initialise,
    }
}

fn occupied_by(wanted: &Wanted, (node, known_for): &(Node, Duration)) -> Next {
    if *known_for < wanted.lease {
        Next::Wait(format!(
            "`{node}` has initialised its server and not reported it; this node does not begin a second cluster"
        ))
    } else {
        Next::Refuse(Refusal::Occupied(node.clone()))
    }
}

/// A blank server, and a cluster to join.
fn ready(wanted: &Wanted, own: Option<&Uuid>, record: &Record) -> Next {
    let others = record.nodes().into_iter().filter(|node| **node != wanted.node);
    let others: Vec<_> = others.cloned().collect();
    if others.is_empty() {
        let recorded = record.member(&wanted.node).and_then(|member| member.node_uuid.clone());
        return Next::Refuse(Refusal::Lost { recorded, own: own.cloned() });
    }
    if !wanted.trusts_members {
        return Next::Refuse(Refusal::NoTrust);
    }
    Next::Join(others)
}

/// A server that belongs to a cluster: is it the right one, and is all done?
fn member(wanted: &Wanted, view: &View, asked: &Asked, memory: &Memory) -> Next {
    let record = match asked {
        Asked::NotYet => return Next::Ask,
        Asked::Nothing if wanted.adopt => return Next::Claim,
        Asked::Nothing => {
            return Next::Refuse(Refusal::Unknown { uuid: view.uuid.clone() });
        }
        Asked::Record(record) => record,
    };
    let first = &record.initial_node;
    let has_expired = record.lease_left.is_some_and(|left| left.is_zero());
    let is_in = |node: &Node| view.node(&node.host().to_string()).is_some();
    let has_first = is_in(first);
    // This node's cluster is that of a node that had the claim, or the record, before.
    let is_of_previous = record.previous.iter().any(|node| *node == wanted.node || is_in(node));
    match &record.cluster_uuid {
        Some(uuid) if *uuid == view.uuid => {}
        // Nobody has said. It is the right one with the first node in it.
        None if record.is_initial || has_first => {}
        None if is_of_previous && has_expired => return Next::Claim,
        None if is_of_previous => {
            return Next::Wait(format!(
                "`{first}` has taken the claim of this node's cluster over; it gives it back when it sees that cluster"
            ));
        }
        recorded => {
            let recorded = match recorded {
                Some(uuid) => format!("the one with the UUID {uuid}"),
                None => format!("that of `{first}`"),
            };
            return Next::Refuse(Refusal::OtherCluster { own: view.uuid.clone(), recorded });
        }
    }
    if record.state == State::Claimed {
        return match (record.is_initial, has_expired) {
            // Others wait for nothing else. The generation says whether it comes too late.
            (true, _) => Next::Report(view.uuid.clone()),
            (false, true) => Next::Claim,
            (false, false) => Next::Wait(format!("`{first}` is to report the cluster ready")),
        };
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
    if view.nodes.len() > 1 && this.uptime < BELIEVED_AFTER && !memory.is_confirmed {
        let others = view
            .nodes
            .iter()
            .filter(|node| !node.is_asked && node.membership == Membership::Active);
        return Next::Confirm(others.map(|node| node.name.clone()).collect());
    }
    if view.is_rebalancing {
        return Next::Wait("a rebalance runs".to_owned());
    }
    match this.health {
        Health::WarmingUp => return Next::Wait("the server loads its data (`warmup`)".to_owned()),
        Health::Unhealthy => {
            return Next::Wait("the server says that it is not healthy".to_owned());
        }
        Health::Healthy => {}
    }
    if this.membership == Membership::Active && !memory.is_reported {
        return Next::Report(view.uuid.clone());
    }
    if let Some(next) = balance(wanted, view, memory) {
        return next;
    }
    if wanted.attests && !memory.is_attested {
        return Next::Report(view.uuid.clone());
    }
    let extra =
        wanted.extras(view, record).into_iter().find(|extra| !memory.settled.contains(extra));
    extra.map_or(Next::Done, Next::Settle)
}

impl Wanted {
    /// What is missing beside the membership.
    fn extras(&self, view: &View, record: &Record) -> Vec<Extra> {
        let mut extras = Vec::new();
        let group = view.this().and_then(|this| this.group.as_ref());
        if self.group.is_some() && self.group.as_ref() != group {
            extras.push(Extra::Group);
        }
        if record.is_initial {
            let missing = self.buckets.iter().filter(|bucket| !view.buckets.contains(bucket));
            extras.extend(missing.cloned().map(Extra::Bucket));
        }
        if self.address {
            extras.push(Extra::Address);
        }
        extras
    }
}

/// What the cluster needs until it is balanced with this node in it; `None` if it needs nothing, or nothing that an agent may do.
///
/// Any node that waits may start the rebalance: one serves all that were added by then.
fn balance(wanted: &Wanted, view: &View, memory: &Memory) -> Option<Next> {
    let this = view.this()?;
    let is_in = this.membership == Membership::Active;
    let added = view.nodes.iter().filter(|node| node.membership == Membership::Added).count();
    let has_failed = view.nodes.iter().any(|node| node.membership == Membership::Failed);
    // Without added nodes a rebalance would only remove those that were failed over: that is for a person to decide.
    if is_in && added == 0 && (view.is_balanced || has_failed) {
        return None;
    }
    if let Some(next) = obstacle(view, memory) {
        return Some(next);
    }
    // Nodes that were added look after themselves. A node that is in helps only if they do not.
    let settle = if is_in { wanted.settle * 4 } else { wanted.settle };
    if memory.same_for < settle {
        let who = match added {
            0 => "the cluster waits".to_owned(),
            1 => "1 node waits".to_owned(),
            _ => format!("{added} nodes wait"),
        };
        return Some(Next::Wait(format!("{who} for a rebalance; other nodes may be on their way")));
    }
    if !memory.rest.is_zero() {
        return Some(Next::Wait(resting(memory.rest)));
    }
    let removed = view.nodes.iter().filter(|node| node.membership == Membership::Failed);
    Some(Next::Rebalance {
        known: view.nodes.iter().map(|node| node.otp.clone()).collect(),
        removed: removed.map(|node| node.name.clone()).collect(),
    })
}

/// What keeps a rebalance from beginning, or from doing only what it is for.
///
/// The server prepares every node but those that were failed over, and fails after 30 s where one does not answer. It removes
/// nodes that were failed over and not marked for recovery, also those that are well again.
pub fn obstacle(view: &View, memory: &Memory) -> Option<Next> {
    let is_dead = |node: &NodeInfo| {
        let unreachable = memory.unreachable_for.get(&node.otp);
        unreachable.is_some_and(|time| *time >= DEAD_AFTER)
    };
    for node in view.nodes.iter().filter(|node| !node.is_asked) {
        let (name, is_well) = (&node.name, node.health != Health::Unhealthy);
        let why = match node.membership {
            Membership::Failed if is_well => format!(
                "`{name}` has been failed over and is back: recover it or remove it in Couchbase Server; a rebalance now would remove it"
            ),
            Membership::Failed if is_dead(node) => continue,
            Membership::Failed => format!("`{name}` has been failed over; it may come back"),
            Membership::Added | Membership::Active if is_well => continue,
            Membership::Added if node.is_recovering => {
                format!("`{name}` is marked for recovery and cannot be reached")
            }
            Membership::Added if is_dead(node) => return Some(Next::Eject(node.otp.clone())),
            Membership::Added => format!("`{name}` was added and cannot be reached yet"),
            Membership::Active => format!(
                "`{name}` cannot be reached: no rebalance can succeed until it is back or has been failed over"
            ),
        };
        return Some(Next::Wait(why));
    }
    None
}

/// Why no rebalance begins for this long.
pub fn resting(rest: Duration) -> String {
    format!("the last rebalance did not succeed; the next begins in {} s", rest.as_secs() + 1)
}

/// What a member says to a node that wants to join through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Through {
    /// It can add the node.
    Add,
    /// Not now: look again in a while.
    Later(String),
    /// Another server, with this UUID, is a healthy member under the node's name.
    NameTaken(Uuid),
    /// It belongs to another cluster: try the next member.
    Other(String),
    /// It is not a healthy, active member itself: try the next one.
    Unfit,
}

/// Whether the node, whose server has this UUID, can join through a member that sees the cluster like this. The API knows the
/// cluster's UUID, or does not.
pub fn through(
    node: &Node,
    own: Option<&Uuid>,
    view: &View,
    cluster_uuid: Option<&Uuid>,
) -> Through {
    if cluster_uuid.is_some_and(|uuid| *uuid != view.uuid) {
        return Through::Other(format!(
            "it belongs to another cluster, the one with the UUID {}",
            view.uuid
        ));
    }
    let is_in =
        |this: &NodeInfo| this.membership == Membership::Active && this.health != Health::Unhealthy;
    if !view.this().is_some_and(is_in) {
        return Through::Unfit;
    }
    let Some(listed) = view.node(&node.host().to_string()) else {
        return if view.is_rebalancing {
            Through::Later("a rebalance runs; no node can be added until it ends".to_owned())
        } else {
            Through::Add
        };
    };
    let is_other =
        listed.health != Health::Unhealthy && own.is_some() && listed.uuid.as_ref() != own;
    match (listed.membership, listed.uuid.clone()) {
        (_, Some(uuid)) if is_other => Through::NameTaken(uuid),
        (Membership::Added, _) => {
            Through::Later("it has been added; its server is still on its way".to_owned())
        }
        (Membership::Active, _) => Through::Later(format!(
            "the cluster lists `{node}` as a member that it cannot reach, and its server is blank: once that member has been failed over and removed, it can join again"
        )),
        (Membership::Failed, _) => Through::Later(format!(
            "the cluster has failed `{node}` over: once it has been removed, it can join again"
        )),
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
