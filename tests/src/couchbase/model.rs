//! Nodes and clusters as values, and what becomes of them. It knows no network and no clock: whoever asks says what time
//! it is.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use serde_json::Value;

/// The name of a node that was not given one yet.
pub const NO_NAME: &str = "cb.local";
pub const MIB: u64 = 1024 * 1024;

/// How the stand-in behaves.
pub struct Knobs {
    pub community: bool,
    pub add_takes: Duration,
    pub add_timeout: Duration,
    pub rebalance_takes: Duration,
    pub warm_up: Duration,
    pub failing_rebalances: usize,
    pub auto_failover_after: Option<Duration>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            community: false,
            add_takes: Duration::from_millis(50),
            add_timeout: Duration::from_secs(1),
            rebalance_takes: Duration::from_millis(200),
            warm_up: Duration::ZERO,
            failing_rebalances: 0,
            auto_failover_after: None,
        }
    }
}

/// A machine with a server on it.
pub struct Node {
    pub address: Ipv4Addr,
    pub uuid: String,
    pub name: String,
    pub cluster: Option<usize>,
    pub services: Vec<String>,
    /// The data service's quota before there is a cluster, in MB.
    pub quota: u64,
    pub memory_total: u64,
    pub alternate: Value,
    pub answers_500: bool,
    pub hangs: bool,
    pub is_up: bool,
    /// Since when the others hear nothing of it.
    pub silent_since: Option<Instant>,
    pub warm_at: Option<Instant>,
}

impl Node {
    pub fn new(address: Ipv4Addr) -> Self {
        let mut node = Self {
            address,
            uuid: String::new(),
            name: String::new(),
            cluster: None,
            services: Vec::new(),
            quota: 0,
            memory_total: 25_276_514_304,
            alternate: Value::Null,
            answers_500: false,
            hangs: false,
            is_up: true,
            silent_since: None,
            warm_at: None,
        };
        node.forget();
        node
    }

    /// Makes it blank.
    pub fn forget(&mut self) {
        self.uuid = id();
        NO_NAME.clone_into(&mut self.name);
        self.cluster = None;
        self.services = vec!["kv".to_owned()];
        self.quota = self.quota_limit() / 2;
        self.alternate = Value::Null;
        self.warm_at = None;
    }

    /// The most that its services may be given, in MB.
    pub fn quota_limit(&self) -> u64 {
        let total = self.memory_total / MIB;
        total.saturating_sub(1024).max(total * 80 / 100)
    }

    /// Whether this may be its name. The address is what the name resolves to.
    pub fn check_name(&self, name: &str, resolved: Option<Ipv4Addr>) -> Result<(), String> {
        if name.is_empty() {
            return Err("The name cannot be empty".to_owned());
        }
        if !name.contains('.') {
            return Err(format!(
                "Requested hostname \"{name}\" is not allowed: Short names are not allowed. Please use a Fully \
                 Qualified Domain Name."
            ));
        }
        match resolved {
            Some(address) if address == self.address => Ok(()),
            Some(_) => Err(format!(
                "Could not listen on address \"{name}\": eaddrnotavail"
            )),
            None => Err(format!(
                "Unable to resolve IPv4 address for \"{name}\": nxdomain"
            )),
        }
    }
}

/// A provisioned cluster.
pub struct Cluster {
    pub uuid: String,
    pub name: String,
    pub user: String,
    pub password: String,
    /// The data service's quota on each node, in MB.
    pub quota: u64,
    pub members: Vec<Member>,
    pub groups: Vec<Group>,
    pub buckets: Vec<Bucket>,
    pub rebalance: Option<Rebalance>,
    pub last_rebalance: Option<Ended>,
    pub rebalanced: Vec<Rebalanced>,
    pub refused: Vec<String>,
    pub auto_failover: bool,
    pub failovers: usize,
    pub items: u64,
    /// Nodes have become active, but their data is not where it belongs.
    unbalanced: bool,
}

impl Cluster {
    /// The name of the member's group.
    pub fn group_of(&self, member: &Member) -> &str {
        let mut groups = self.groups.iter();
        let group = groups.find(|group| group.id == member.group);
        group.map_or("", |group| &group.name)
    }

    pub fn is_balanced(&self) -> bool {
        let mut members = self.members.iter();
        let are_active = members.all(|member| member.membership == Membership::Active);
        are_active && !self.unbalanced && self.rebalance.is_none()
    }
}

/// A node as its cluster knows it.
#[derive(Clone)]
pub struct Member {
    pub node: usize,
    pub uuid: String,
    pub name: String,
    pub services: Vec<String>,
    pub membership: Membership,
    /// The id of its group.
    pub group: String,
}

impl Member {
    pub fn otp(&self) -> String {
        otp(&self.name)
    }
}

/// What a node is in its cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Membership {
    /// It takes part.
    Active,
    /// It was added, and a rebalance has to take it in.
    InactiveAdded,
    /// It was failed over.
    InactiveFailed,
}

impl Membership {
    /// The server's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::InactiveAdded => "inactiveAdded",
            Self::InactiveFailed => "inactiveFailed",
        }
    }
}

pub struct Group {
    pub id: String,
    pub name: String,
}

pub struct Bucket {
    pub name: String,
    pub uuid: String,
    pub kind: String,
    /// On each node, in MB.
    pub quota: u64,
    pub replicas: u64,
}

/// A rebalance that runs. Halfway, the added nodes become active; at the end, the cluster is balanced.
pub struct Rebalance {
    pub id: String,
    pub status_id: String,
    pub ejected: Vec<usize>,
    pub began: Instant,
    pub ends: Instant,
    takes_in: usize,
    activated: bool,
    /// It fails at its end.
    fails: bool,
    /// It fails halfway: a node cannot be reached.
    is_broken: bool,
}

impl Rebalance {
    fn middle(&self) -> Instant {
        self.began + (self.ends - self.began) / 2
    }
}

/// A rebalance that is over.
pub struct Ended {
    pub status_id: String,
    pub report: String,
    pub failed: bool,
}

/// A rebalance that was done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rebalanced {
    /// How many nodes it took in.
    pub added: usize,
    /// How many it removed.
    pub removed: usize,
}

/// What becomes of a request for a rebalance.
pub enum Start {
    Started(String),
    AlreadyRunning,
    NothingKnown,
    Mismatch,
    NoActiveNodes,
    NoDataNodes,
}

/// Which node is to be added through which.
pub struct Addition {
    pub through: usize,
    pub joiner: usize,
    pub host: String,
    pub user: String,
    pub password: String,
    pub services: Vec<String>,
    /// The id of its group to be.
    pub group: String,
}

/// Why a node is not added.
pub enum NotAdded {
    Refused(String),
    /// It is heard after some time only: the joiner does not answer.
    TimedOut,
}

/// A cluster that was lost when its only node was added to another.
#[derive(Clone, Debug)]
pub struct Wiped {
    /// The node's address.
    pub node: String,
    /// The lost cluster.
    pub uuid: String,
    /// The documents that it held.
    pub items: u64,
}

/// All there is.
#[derive(Default)]
pub struct World {
    pub knobs: Knobs,
    pub nodes: Vec<Node>,
    /// Those without members are no more.
    pub clusters: Vec<Cluster>,
    pub wiped: Vec<Wiped>,
    /// Joiner, member, and whether another member adds the same node at the same time.
    adding: Vec<(usize, usize, bool)>,
}

impl World {
    /// Blank nodes at these addresses.
    pub fn new(addresses: &[Ipv4Addr], community: bool) -> Self {
        let knobs = Knobs {
            community,
            ..Knobs::default()
        };
        let nodes = addresses.iter().copied().map(Node::new).collect();
        Self {
            knobs,
            nodes,
            ..Self::default()
        }
    }

    pub fn cluster(&self, node: usize) -> Option<&Cluster> {
        self.clusters.get(self.nodes[node].cluster?)
    }

    pub fn cluster_mut(&mut self, node: usize) -> Option<&mut Cluster> {
        self.clusters.get_mut(self.nodes[node].cluster?)
    }

    /// Whether these are the credentials of the node's cluster. A node without one takes any.
    pub fn admits(&self, node: usize, login: Option<(&str, &str)>) -> bool {
        self.cluster(node)
            .is_none_or(|cluster| login == Some((&cluster.user, &cluster.password)))
    }

    /// Whether the other nodes of the cluster hear of this member.
    pub fn is_healthy(&self, cluster: usize, member: &Member, now: Instant) -> bool {
        let node = &self.nodes[member.node];
        node.silent_since.is_none()
            && node.cluster == Some(cluster)
            && node.uuid == member.uuid
            && node.warm_at.is_none_or(|at| at <= now)
    }

    fn has_quorum(&self, cluster: usize, now: Instant) -> bool {
        let members = self.clusters[cluster].members.iter();
        let active = members.filter(|member| member.membership == Membership::Active);
        let (all, healthy) = active.fold((0, 0), |(all, healthy), member| {
            (
                all + 1,
                healthy + usize::from(self.is_healthy(cluster, member, now)),
            )
        });
        healthy * 2 > all
    }

    /// The node's own name, once it is known.
    pub fn rename(&mut self, node: usize, name: &str) {
        name.clone_into(&mut self.nodes[node].name);
        if let Some(cluster) = self.cluster_mut(node) {
            let own = cluster
                .members
                .iter_mut()
                .find(|member| member.node == node);
            name.clone_into(&mut own.expect("a cluster knows its nodes").name);
        }
    }

    /// Makes a cluster of the node.
    pub fn provision(&mut self, node: usize, name: &str, user: &str, password: &str) {
        let cluster = self.clusters.len();
        let own = &mut self.nodes[node];
        own.cluster = Some(cluster);
        let first = Group {
            id: "0".to_owned(),
            name: "Group 1".to_owned(),
        };
        self.clusters.push(Cluster {
            uuid: id(),
            name: name.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
            quota: own.quota,
            members: vec![Member {
                node,
                uuid: own.uuid.clone(),
                name: own.name.clone(),
                services: own.services.clone(),
                membership: Membership::Active,
                group: first.id.clone(),
            }],
            groups: vec![first],
            buckets: Vec::new(),
            rebalance: None,
            last_rebalance: None,
            rebalanced: Vec::new(),
            refused: Vec::new(),
            auto_failover: true,
            failovers: 0,
            items: 0,
            unbalanced: false,
        });
    }

    /// A node begins to be added: it takes some time until [`World::add`].
    pub fn begin_to_add(&mut self, addition: &Addition, now: Instant) -> Result<(), NotAdded> {
        self.check_addition(addition, now)
            .map_err(NotAdded::Refused)?;
        let (joiner, through) = (addition.joiner, addition.through);
        let mut is_contended = false;
        for other in self.adding.iter_mut().filter(|other| other.0 == joiner) {
            other.2 = true;
            is_contended = true;
        }
        self.adding.push((joiner, through, is_contended));
        Ok(())
    }

    /// A node that has begun to be added is.
    pub fn add(&mut self, addition: &Addition, now: Instant) -> Result<String, NotAdded> {
        let ours = (addition.joiner, addition.through, true);
        let is_silent = self.nodes[addition.joiner].silent_since.is_some();
        if is_silent || self.adding.contains(&ours) {
            return Err(NotAdded::TimedOut);
        }
        self.check_addition(addition, now)
            .map_err(NotAdded::Refused)?;
        let cluster = self.nodes[addition.through]
            .cluster
            .expect("it was checked");
        let mut warm_at = None;
        if let Some(lost) = self.nodes[addition.joiner].cluster {
            let lost = &mut self.clusters[lost];
            lost.members.clear();
            self.wiped.push(Wiped {
                node: self.nodes[addition.joiner].address.to_string(),
                uuid: lost.uuid.clone(),
                items: lost.items,
            });
            warm_at = Some(now + self.knobs.warm_up);
        }
        // A member without a name takes its address when there is another to talk to.
        if self.nodes[addition.through].name == NO_NAME {
            let address = self.nodes[addition.through].address.to_string();
            self.rename(addition.through, &address);
        }
        let node = &mut self.nodes[addition.joiner];
        node.forget();
        node.cluster = Some(cluster);
        node.warm_at = warm_at;
        node.name.clone_from(&addition.host);
        node.services.clone_from(&addition.services);
        let member = Member {
            node: addition.joiner,
            uuid: node.uuid.clone(),
            name: node.name.clone(),
            services: node.services.clone(),
            membership: Membership::InactiveAdded,
            group: addition.group.clone(),
        };
        let otp = member.otp();
        self.clusters[cluster].members.push(member);
        Ok(otp)
    }

    /// A node is no longer being added, for better or worse.
    pub fn end_to_add(&mut self, addition: &Addition) {
        let ours = (addition.joiner, addition.through);
        self.adding
            .retain(|(joiner, through, _)| (*joiner, *through) != ours);
    }

    /// The cluster, if nodes can be added to it through this node now.
    pub fn may_add(&self, through: usize) -> Result<usize, String> {
        let Some(cluster) = self.nodes[through].cluster else {
            return Err("Adding nodes to not provisioned nodes is not allowed.".to_owned());
        };
        if self.clusters[cluster].rebalance.is_some() {
            return Err("Node addition is disallowed while rebalance is in progress".to_owned());
        }
        Ok(cluster)
    }

    fn check_addition(&self, addition: &Addition, now: Instant) -> Result<(), String> {
        let prepare = |why: &str| Err(format!("Prepare join failed. {why}"));
        let cluster = self.may_add(addition.through)?;
        let joiner = &self.nodes[addition.joiner];
        if !self.admits(addition.joiner, Some((&addition.user, &addition.password))) {
            return prepare("Authentication failed. Verify username and password.");
        }
        if addition.joiner == addition.through {
            return prepare("Joining node to itself is not allowed.");
        }
        if self
            .cluster(addition.joiner)
            .is_some_and(|own| own.members.len() > 1)
        {
            return prepare("Node is already part of cluster.");
        }
        let resolved = Some(joiner.address);
        if let Err(why) = joiner.check_name(&addition.host, resolved) {
            return prepare(&why);
        }
        let (quota, limit) = (self.clusters[cluster].quota, joiner.quota_limit());
        if addition.services.iter().any(|service| service == "kv") && quota > limit {
            return prepare(&format!(
                "This server does not have sufficient memory to support requested memory quota. Total quota is \
                 {quota}MB (services: kv), maximum allowed quota for the node is {limit}MB."
            ));
        }
        if !self.has_quorum(cluster, now) {
            return Err(
                "Operation temporarily cannot be performed possibly due to loss of quorum"
                    .to_owned(),
            );
        }
        let mut members = self.clusters[cluster].members.iter();
        if members.any(|member| member.name == addition.host) {
            return Err(format!(
                "Node already exists in cluster: {}",
                otp(&addition.host)
            ));
        }
        Ok(())
    }

    /// Removes a member that is not active, or says why not.
    pub fn eject(&mut self, node: usize, otp: &str) -> Result<(), &'static str> {
        let Some(cluster) = self.nodes[node].cluster else {
            return Err("Server does not exist.\n");
        };
        let mut members = self.clusters[cluster].members.iter();
        match members.find(|member| member.otp() == otp) {
            None => Err("Server does not exist.\n"),
            Some(member) if member.membership == Membership::Active => {
                Err("Cannot remove active server.\n")
            }
            Some(member) => {
                self.remove(cluster, &[member.node]);
                Ok(())
            }
        }
    }

    /// Removed nodes are blank again; one that is down learns of it when it is back.
    fn remove(&mut self, cluster: usize, nodes: &[usize]) {
        for member in &self.clusters[cluster].members {
            let node = &mut self.nodes[member.node];
            if nodes.contains(&member.node) && node.uuid == member.uuid {
                node.forget();
            }
        }
        let members = &mut self.clusters[cluster].members;
        members.retain(|member| !nodes.contains(&member.node));
    }

    pub fn start_rebalance(
        &mut self,
        node: usize,
        known: &BTreeSet<String>,
        ejected: &BTreeSet<String>,
        now: Instant,
    ) -> Start {
        if known.is_empty() {
            return Start::NothingKnown;
        }
        let Some(cluster) = self.nodes[node].cluster else {
            return Start::Mismatch;
        };
        let members = &self.clusters[cluster].members;
        let all: BTreeSet<_> = members.iter().map(Member::otp).collect();
        if *known != all || !ejected.is_subset(known) {
            return Start::Mismatch;
        }
        if self.clusters[cluster].rebalance.is_some() {
            return Start::AlreadyRunning;
        }
        let (ejected, kept): (Vec<_>, Vec<_>) = members.iter().partition(|member| {
            member.membership == Membership::InactiveFailed || ejected.contains(&member.otp())
        });
        if kept.is_empty() {
            return Start::NoActiveNodes;
        }
        let has_data = |member: &&Member| member.services.iter().any(|service| service == "kv");
        if !kept.iter().any(has_data) {
            return Start::NoDataNodes;
        }
        let added = kept
            .iter()
            .filter(|m| m.membership == Membership::InactiveAdded);
        let rebalance = Rebalance {
            id: id(),
            status_id: id(),
            ejected: ejected.iter().map(|member| member.node).collect(),
            began: now,
            ends: now + self.knobs.rebalance_takes,
            takes_in: added.count(),
            activated: false,
            fails: self.knobs.failing_rebalances > 0,
            is_broken: !kept
                .iter()
                .all(|member| self.is_healthy(cluster, member, now)),
        };
        self.knobs.failing_rebalances = self.knobs.failing_rebalances.saturating_sub(1);
        let id = rebalance.id.clone();
        self.clusters[cluster].rebalance = Some(rebalance);
        Start::Started(id)
    }

    /// Brings about what time has: rebalances go on and end, silent nodes are failed over.
    pub fn settle(&mut self, now: Instant) {
        for cluster in 0..self.clusters.len() {
            self.go_on(cluster, now);
            self.fail_over(cluster, now);
        }
    }

    /// Ends the rebalances that run, as if their time had come.
    pub fn end_rebalances(&mut self, now: Instant) {
        for cluster in 0..self.clusters.len() {
            if let Some(rebalance) = &mut self.clusters[cluster].rebalance {
                (rebalance.began, rebalance.ends) = (now, now);
            }
            self.go_on(cluster, now);
        }
    }

    fn go_on(&mut self, index: usize, now: Instant) {
        let cluster = &mut self.clusters[index];
        let Some(rebalance) = &mut cluster.rebalance else {
            return;
        };
        if now < rebalance.middle() {
            return;
        }
        if rebalance.is_broken {
            return self.end_rebalance(index, false);
        }
        if !rebalance.activated {
            rebalance.activated = true;
            cluster.unbalanced |= rebalance.takes_in + rebalance.ejected.len() > 0;
            for member in &mut cluster.members {
                if !rebalance.ejected.contains(&member.node) {
                    member.membership = Membership::Active;
                }
            }
        }
        if now >= rebalance.ends {
            let well = !rebalance.fails;
            self.end_rebalance(index, well);
        }
    }

    fn end_rebalance(&mut self, index: usize, well: bool) {
        let cluster = &mut self.clusters[index];
        let Some(rebalance) = cluster.rebalance.take() else {
            return;
        };
        cluster.last_rebalance = Some(Ended {
            status_id: rebalance.status_id,
            report: id(),
            failed: !well,
        });
        if well {
            cluster.unbalanced = false;
            cluster.failovers = 0;
            cluster.rebalanced.push(Rebalanced {
                added: rebalance.takes_in,
                removed: rebalance.ejected.len(),
            });
            self.remove(index, &rebalance.ejected);
        }
    }

    /// At most one node, and only while most of the nodes agree on it.
    fn fail_over(&mut self, index: usize, now: Instant) {
        let Some(after) = self.knobs.auto_failover_after else {
            return;
        };
        let cluster = &self.clusters[index];
        if !cluster.auto_failover || cluster.failovers > 0 || !self.has_quorum(index, now) {
            return;
        }
        let is_lost = |member: &Member| {
            let since = self.nodes[member.node].silent_since;
            member.membership == Membership::Active
                && since.is_some_and(|since| now >= since + after)
        };
        let Some(lost) = cluster.members.iter().position(is_lost) else {
            return;
        };
        self.end_rebalance(index, false);
        let cluster = &mut self.clusters[index];
        cluster.members[lost].membership = Membership::InactiveFailed;
        cluster.failovers += 1;
    }

    /// Switches a node on or off, or makes it hang. A rebalance does not survive the loss of a node that is to stay.
    pub fn set_power(&mut self, node: usize, is_up: bool, hangs: bool, now: Instant) {
        let state = &mut self.nodes[node];
        (state.is_up, state.hangs) = (is_up, hangs);
        if is_up && !hangs {
            state.silent_since = None;
            return;
        }
        state.silent_since.get_or_insert(now);
        let rebalance = self
            .cluster_mut(node)
            .and_then(|cluster| cluster.rebalance.as_mut());
        if let Some(rebalance) = rebalance.filter(|rebalance| !rebalance.ejected.contains(&node)) {
            rebalance.is_broken = true;
        }
    }

    /// Makes a node blank behind its cluster's back.
    pub fn reset(&mut self, node: usize) {
        if let Some(cluster) = self.nodes[node].cluster {
            let cluster = &mut self.clusters[cluster];
            match &mut cluster.rebalance {
                _ if cluster.members.len() == 1 => cluster.members.clear(),
                Some(rebalance) => rebalance.is_broken = true,
                None => {}
            }
        }
        self.nodes[node].forget();
    }
}

/// A node's name as the cluster uses it.
pub fn otp(name: &str) -> String {
    format!("ns_1@{name}")
}

/// A new UUID as the server writes them.
pub fn id() -> String {
    format!("{:032x}", fastrand::u128(..))
}
