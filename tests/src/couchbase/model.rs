//! Clusters as values, and how they change. It has no network and no clock: the caller passes what time
//! it is.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    certificates::{Authority, Trusted},
    node::{NO_NAME, Node, Paths, Quotas, Removal, total_quota},
    rebalance::{Ended, Rebalance, Rebalanced},
};

/// The behavior that tests set.
pub struct Knobs {
    pub community: bool,
    pub add_takes: Duration,
    pub add_timeout: Duration,
    pub rebalance_takes: Duration,
    pub warm_up: Duration,
    pub failing_rebalances: usize,
    pub auto_failover_after: Option<Duration>,
    pub prepare_takes: Duration,
    pub stop_takes: Duration,
    pub election_takes: Duration,
    pub quorum_timeout: Duration,
    pub bucket_warm_up: Duration,
    pub bucket_appears: Duration,
    /// How long a node that was removed while it was down remembers, and is closed then.
    pub memory: (Duration, Duration),
    pub absent_services: Vec<String>,
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
            prepare_takes: Duration::from_millis(300),
            stop_takes: Duration::ZERO,
            election_takes: Duration::ZERO,
            quorum_timeout: Duration::from_millis(300),
            bucket_warm_up: Duration::ZERO,
            bucket_appears: Duration::ZERO,
            memory: (Duration::ZERO, Duration::ZERO),
            absent_services: Vec::new(),
        }
    }
}

/// A provisioned cluster.
#[derive(Clone)]
pub struct Cluster {
    pub uuid: String,
    pub name: String,
    pub user: String,
    pub password: String,
    /// The quotas on each node.
    pub quotas: Quotas,
    pub members: Vec<Member>,
    pub groups: Vec<Group>,
    /// Counts the changes of the groups.
    pub groups_rev: u64,
    pub buckets: Vec<Bucket>,
    pub rebalance: Option<Rebalance>,
    pub last_rebalance: Option<Ended>,
    pub rebalanced: Vec<Rebalanced>,
    pub refused: Vec<String>,
    pub auto_failover: AutoFailover,
    pub failovers: usize,
    pub items: u64,
    /// Data is not where it belongs.
    pub unbalanced: bool,
    /// The member that the others follow.
    pub leader: Option<usize>,
    /// Since when there is no leader.
    pub leaderless: Option<Instant>,
    /// Until when a rebalance seems to run whose leader was lost.
    pub orphaned: Option<Instant>,
    /// The first node's, which issues all generated certificates.
    pub authority: Arc<Authority>,
    pub trusted: Vec<Trusted>,
    /// It is but what a removed node remembers.
    pub is_memory: bool,
}

#[derive(Clone)]
pub struct AutoFailover {
    pub enabled: bool,
    pub timeout: u64,
    pub max_count: usize,
}

impl Cluster {
    /// The name of the member's group.
    pub fn group_of(&self, member: &Member) -> &str {
        let mut groups = self.groups.iter();
        let group = groups.find(|group| group.id == member.group);
        group.map_or("", |group| &group.name)
    }

    pub fn data_quota(&self) -> u64 {
        self.quotas["memoryQuota"]
    }

    /// The services whose nodes are not all in use, or that do not come up.
    pub fn pending_services(&self, absent: &[String]) -> Vec<&'static str> {
        let order = ["kv", "n1ql", "index", "fts", "cbas", "eventing", "backup"];
        let is_pending = |service: &&str| {
            self.members.iter().any(|member| {
                let has_it = member.services.iter().any(|own| own == service);
                has_it && (!member.is_active() || absent.iter().any(|absent| absent == service))
            })
        };
        order.into_iter().filter(is_pending).collect()
    }

    /// What the server says; it may be true while a rebalance runs.
    pub fn is_balanced(&self, absent: &[String]) -> bool {
        !self.unbalanced && self.pending_services(absent).is_empty()
    }

    pub fn has_data(&self) -> bool {
        !self.buckets.is_empty()
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
    pub recovery: Recovery,
    /// The id of its group.
    pub group: String,
}

impl Member {
    pub fn is_active(&self) -> bool {
        self.membership == Membership::Active
    }

    pub fn is_failed_over(&self) -> bool {
        self.membership == Membership::InactiveFailed
    }

    pub fn has_data_service(&self) -> bool {
        self.services.iter().any(|service| service == "kv")
    }

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

/// How a node that was failed over is to be taken in again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recovery {
    /// It is not.
    None,
    /// With the data that it still has.
    Delta,
    /// Without data.
    Full,
}

impl Recovery {
    /// The server's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Delta => "delta",
            Self::Full => "full",
        }
    }
}

#[derive(Clone)]
pub struct Group {
    pub id: String,
    pub name: String,
}

#[derive(Clone)]
pub struct Bucket {
    pub name: String,
    pub uuid: String,
    pub kind: String,
    /// On each node, in MB.
    pub quota: u64,
    pub replicas: u64,
    pub backend: String,
    pub created: Instant,
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
    pub node: String,
    /// The lost cluster.
    pub uuid: String,
    /// The documents that it held.
    pub items: u64,
}

/// All there is.
pub struct World {
    pub knobs: Knobs,
    pub administrator: Arc<Authority>,
    /// Whether new machines have certificates of the administrator.
    pub has_custom_certificates: bool,
    /// How much time was skipped.
    pub skipped: Duration,
    pub nodes: Vec<Node>,
    /// Those without members are no more.
    pub clusters: Vec<Cluster>,
    pub wiped: Vec<Wiped>,
    /// Joiner, member, and whether another member adds the same node at the same time.
    adding: Vec<(usize, usize, bool)>,
}

impl World {
    /// Blank nodes at these addresses.
    pub fn new(addresses: &[Ipv4Addr], community: bool, has_custom_certificates: bool) -> Self {
        let knobs = Knobs { community, ..Knobs::default() };
        let now = Instant::now();
        let nodes = addresses.iter().map(|address| Node::new(*address, now));
        let mut world = Self {
            knobs,
            administrator: Authority::custom(),
            has_custom_certificates,
            skipped: Duration::ZERO,
            nodes: nodes.collect(),
            clusters: Vec::new(),
            wiped: Vec::new(),
            adding: Vec::new(),
        };
        for node in 0..world.nodes.len() {
            world.equip(node);
        }
        world
    }

    /// Gives a new machine the administrator's certificate, if new machines have it.
    fn equip(&mut self, node: usize) {
        if self.has_custom_certificates {
            self.load_certificate(node);
        }
    }

    /// As if the administrator had loaded the authority and a certificate for the node's address.
    pub fn load_certificate(&mut self, node: usize) {
        let authority = Arc::clone(&self.administrator);
        let name = self.nodes[node].address.to_string();
        self.nodes[node].use_custom_certificate(&authority, &name);
        if let Some(cluster) = self.cluster_mut(node) {
            let mut trusted = cluster.trusted.iter();
            if !trusted.any(|trusted| Arc::ptr_eq(&trusted.authority, &authority)) {
                cluster.trusted.insert(0, Trusted::custom(&authority, &name));
            }
        }
    }

    /// The time, which tests can make pass.
    pub fn now(&self) -> Instant {
        Instant::now() + self.skipped
    }

    pub fn cluster(&self, node: usize) -> Option<&Cluster> {
        self.clusters.get(self.nodes[node].cluster?)
    }

    pub fn cluster_mut(&mut self, node: usize) -> Option<&mut Cluster> {
        self.clusters.get_mut(self.nodes[node].cluster?)
    }

    /// Whether these are the credentials of the node's cluster. A node without one takes any.
    pub fn admits(&self, node: usize, login: Option<(&str, &str)>) -> bool {
        self.cluster(node).is_none_or(|cluster| login == Some((&cluster.user, &cluster.password)))
    }

    /// Whether the other nodes of the cluster receive this member's heartbeats.
    pub fn is_healthy(&self, cluster: usize, member: &Member, now: Instant) -> bool {
        let node = &self.nodes[member.node];
        let is_heard = node.silent_since.is_none() && node.warm_at.is_none_or(|at| at <= now);
        let is_memory = self.clusters[cluster].is_memory;
        is_heard && (is_memory || node.cluster == Some(cluster) && node.uuid == member.uuid)
    }

    /// The status of a member as the server puts it.
    pub fn status(&self, cluster: usize, member: &Member, now: Instant) -> &'static str {
        if !self.is_healthy(cluster, member, now) {
            return "unhealthy";
        }
        let loading = self.nodes[member.node].loading;
        if member.is_active() && loading.is_some_and(|(from, to)| from <= now && now < to) {
            return "warmup";
        }
        "healthy"
    }

    /// Whether the node accepts no connection now: it is about to become blank, or restarts again and again.
    pub fn is_closed(&self, node: usize, now: Instant) -> bool {
        let own = &self.nodes[node];
        let loops = own.removed == Some(Removal::Unsafe) && own.silent_since.is_none();
        let since = own.restarted.map_or(0, |at| now.saturating_duration_since(at).as_secs());
        own.closed_until.is_some_and(|until| now < until) || loops && since % 11 == 10
    }

    pub fn has_quorum(&self, cluster: usize, now: Instant) -> bool {
        let members = self.clusters[cluster].members.iter();
        let active = members.filter(|member| member.membership == Membership::Active);
        let (all, healthy) = active.fold((0, 0), |(all, healthy), member| {
            (all + 1, healthy + usize::from(self.is_healthy(cluster, member, now)))
        });
        healthy * 2 > all
    }

    /// The node's own name, once it is known.
    pub fn rename(&mut self, node: usize, name: &str) {
        name.clone_into(&mut self.nodes[node].name);
        self.nodes[node].reissue();
        if let Some(cluster) = self.cluster_mut(node) {
            let own = cluster.members.iter_mut().find(|member| member.node == node);
            name.clone_into(&mut own.expect("a cluster knows its nodes").name);
        }
    }

    /// Makes a cluster of the node.
    pub fn provision(&mut self, node: usize, name: &str, user: &str, password: &str) {
        let cluster = self.clusters.len();
        let own = &mut self.nodes[node];
        own.cluster = Some(cluster);
        let first = Group { id: "0".to_owned(), name: "Group 1".to_owned() };
        self.clusters.push(Cluster {
            uuid: id(),
            name: name.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
            quotas: own.quotas.clone(),
            members: vec![Member {
                node,
                uuid: own.uuid.clone(),
                name: own.name.clone(),
                services: own.services.clone(),
                membership: Membership::Active,
                recovery: Recovery::None,
                group: first.id.clone(),
            }],
            groups: vec![first],
            groups_rev: 1,
            buckets: Vec::new(),
            rebalance: None,
            last_rebalance: None,
            rebalanced: Vec::new(),
            refused: Vec::new(),
            auto_failover: AutoFailover { enabled: true, timeout: 120, max_count: 1 },
            failovers: 0,
            items: 0,
            unbalanced: false,
            leader: Some(node),
            leaderless: None,
            orphaned: None,
            authority: Arc::clone(&own.authority),
            trusted: own.trusted.clone(),
            is_memory: false,
        });
    }

    /// A node begins to be added: it takes some time until [`World::add`].
    pub fn begin_to_add(&mut self, addition: &Addition, now: Instant) -> Result<(), NotAdded> {
        self.check_addition(addition, now).map_err(NotAdded::Refused)?;
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
        self.check_addition(addition, now).map_err(NotAdded::Refused)?;
        let cluster = self.nodes[addition.through].cluster.expect("it was checked");
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
        let authority = Arc::clone(&self.clusters[cluster].authority);
        let trusted = &self.clusters[cluster].trusted;
        let node = &mut self.nodes[addition.joiner];
        node.forget();
        node.cluster = Some(cluster);
        node.warm_at = warm_at;
        node.name.clone_from(&addition.host);
        node.services.clone_from(&addition.services);
        node.authority = authority;
        let own = &node.identity.authority;
        let is_trusted = trusted.iter().any(|known| Arc::ptr_eq(&known.authority, own));
        if own.is_generated || !is_trusted {
            node.generate_certificate();
        }
        let member = Member {
            node: addition.joiner,
            uuid: node.uuid.clone(),
            name: node.name.clone(),
            services: node.services.clone(),
            membership: Membership::InactiveAdded,
            recovery: Recovery::None,
            group: addition.group.clone(),
        };
        let otp = member.otp();
        let cluster = &mut self.clusters[cluster];
        cluster.members.push(member);
        cluster.groups_rev += 1;
        Ok(otp)
    }

    /// A node is no longer being added, for better or worse.
    pub fn end_to_add(&mut self, addition: &Addition) {
        let ours = (addition.joiner, addition.through);
        self.adding.retain(|(joiner, through, _)| (*joiner, *through) != ours);
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
        if let Err(why) = self.check_certificate(addition, cluster) {
            return prepare(&why);
        }
        if !self.admits(addition.joiner, Some((&addition.user, &addition.password))) {
            return prepare("Authentication failed. Verify username and password.");
        }
        if addition.joiner == addition.through {
            return prepare("Joining node to itself is not allowed.");
        }
        if self.cluster(addition.joiner).is_some_and(|own| own.members.len() > 1) {
            return prepare("Node is already part of cluster.");
        }
        let resolved = Some(joiner.address);
        if let Err(why) = joiner.check_name(&addition.host, resolved) {
            return prepare(&why);
        }
        let quota = total_quota(&self.clusters[cluster].quotas, &addition.services);
        let limit = joiner.quota_limit();
        if quota > limit {
            let services = addition.services.join(", ");
            return prepare(&format!(
                "This server does not have sufficient memory to support requested memory quota. Total quota is \
                 {quota}MB (services: {services}), maximum allowed quota for the node is {limit}MB."
            ));
        }
        if !self.has_quorum(cluster, now) {
            return Err("Operation temporarily cannot be performed possibly due to loss of quorum"
                .to_owned());
        }
        let mut members = self.clusters[cluster].members.iter();
        if members.any(|member| member.name == addition.host) {
            return Err(format!("Node already exists in cluster: {}", otp(&addition.host)));
        }
        Ok(())
    }

    /// A member with a certificate of the administrator trusts no joiner but those whose authority the cluster trusts.
    fn check_certificate(&self, addition: &Addition, cluster: usize) -> Result<(), String> {
        let through = &self.nodes[addition.through];
        let authority = &self.nodes[addition.joiner].identity.authority;
        let mut trusted = self.clusters[cluster].trusted.iter();
        if self.knobs.community
            || through.identity.authority.is_generated
            || trusted.any(|known| Arc::ptr_eq(&known.authority, authority))
        {
            return Ok(());
        }
        let (host, through) = (&addition.host, otp(&through.name));
        Err(format!(
            "Failed to establish TLS connection to {host}:18091. The certificate is issued by unknown CA or some of \
             the intermediate certificates are missing (TLS client: In state wait_cert_cr at ssl_handshake.erl:2111 \
             generated CLIENT ALERT: Fatal - Unknown CA\n). Please review the CAs available on the cluster ({through}) \
             and add a new one if required"
        ))
    }

    /// Removes a member that is not active, or says why not.
    pub fn eject(&mut self, node: usize, otp: &str) -> Result<(), &'static str> {
        let Some(cluster) = self.nodes[node].cluster else {
            return Err("Server does not exist.\n");
        };
        let mut members = self.clusters[cluster].members.iter();
        let is_meant =
            |member: &&Member| member.otp() == otp || otp == "Self" && member.node == node;
        match members.find(is_meant) {
            None => Err("Server does not exist.\n"),
            Some(member) if member.membership == Membership::Active => {
                Err("Cannot remove active server.\n")
            }
            Some(member) => {
                self.remove(cluster, &[member.node], Removal::Clean);
                Ok(())
            }
        }
    }

    /// Removed nodes are blank again; one that is down learns of it some time after its start.
    pub fn remove(&mut self, cluster: usize, nodes: &[usize], removal: Removal) {
        for member in &self.clusters[cluster].members {
            let node = &mut self.nodes[member.node];
            if !nodes.contains(&member.node) || node.uuid != member.uuid {
                continue;
            }
            if node.silent_since.is_some() {
                node.removed = Some(removal);
            } else {
                node.leave();
            }
        }
        let cluster = &mut self.clusters[cluster];
        cluster.members.retain(|member| !nodes.contains(&member.node));
        cluster.groups_rev += 1;
    }

    /// Switches a node on or off, or makes it hang.
    pub fn set_power(&mut self, node: usize, is_up: bool, hangs: bool, now: Instant) {
        let state = &mut self.nodes[node];
        if is_up && !state.is_up {
            state.restarted = Some(now);
            (state.uptime, state.booted) = (Duration::ZERO, now);
        }
        (state.is_up, state.hangs) = (is_up, hangs);
        if is_up && !hangs {
            if state.silent_since.take().is_some() {
                self.wake(node, now);
            }
        } else if state.silent_since.is_none() {
            state.silent_since = Some(now);
            self.nodes[node].remembers = self.cluster(node).cloned().map(Box::new);
            self.lose(node, now);
        }
        self.settle(now);
    }

    /// A node is back, and believes what it remembers.
    fn wake(&mut self, node: usize, now: Instant) {
        let answers = self.knobs.memory.0;
        let warm_up = self.knobs.bucket_warm_up;
        let own = &mut self.nodes[node];
        let remembers = own.remembers.take();
        if let (Some(removal), Some(mut memory)) = (own.removed, remembers) {
            if removal == Removal::Clean && answers.is_zero() {
                return own.leave();
            }
            if removal == Removal::Clean {
                own.blank_at = Some(now + answers);
            }
            memory.is_memory = true;
            memory.rebalance = None;
            (memory.leader, memory.leaderless) = (None, Some(now));
            own.cluster = Some(self.clusters.len());
            self.clusters.push(*memory);
        }
        let has_buckets = self.cluster(node).is_some_and(|cluster| {
            let mut members = cluster.members.iter();
            cluster.has_data() && members.any(|member| member.node == node && member.is_active())
        });
        if has_buckets {
            self.nodes[node].loading = Some((now, now + warm_up));
        }
    }

    /// Removed nodes become blank when their time has come.
    pub fn become_blank(&mut self, now: Instant) {
        let closed = self.knobs.memory.1;
        for node in &mut self.nodes {
            if let Some(at) = node.blank_at.filter(|at| *at <= now) {
                node.leave();
                node.closed_until = Some(at + closed);
            }
        }
    }

    /// Makes a node blank behind its cluster's back; its name and paths stay.
    pub fn hard_reset(&mut self, node: usize, now: Instant) {
        if let Some(cluster) = self.cluster_mut(node) {
            if cluster.members.len() == 1 {
                cluster.members.clear();
                cluster.rebalance = None;
            } else {
                self.lose(node, now);
            }
        }
        self.nodes[node].leave();
        self.settle(now);
    }

    /// Puts a new machine in a node's place.
    pub fn reset(&mut self, node: usize, now: Instant) {
        self.hard_reset(node, now);
        let own = &mut self.nodes[node];
        NO_NAME.clone_into(&mut own.name);
        own.paths = Paths::default();
        (own.uptime, own.booted) = (Duration::ZERO, now);
        own.start_over();
        self.equip(node);
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
