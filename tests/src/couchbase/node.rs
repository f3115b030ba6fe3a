//! The state of a node that does not depend on its cluster.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    certificates::{Authority, Identity, Trusted},
    model::{Cluster, id},
};

/// The name of a node that was not given one yet.
pub const NO_NAME: &str = "cb.local";
pub const MIB: u64 = 1024 * 1024;

/// Each service's quota by the field that sets it, in MB.
pub type Quotas = BTreeMap<&'static str, u64>;

/// The fields of quotas with the services and their least values, in the order in which they are checked.
pub const QUOTAS: [(&str, &str, u64); 6] = [
    ("queryMemoryQuota", "n1ql", 0),
    ("memoryQuota", "kv", 256),
    ("indexMemoryQuota", "index", 256),
    ("ftsMemoryQuota", "fts", 256),
    ("cbasMemoryQuota", "cbas", 1024),
    ("eventingMemoryQuota", "eventing", 256),
];

/// Where a node's services keep their files.
#[derive(Clone)]
pub struct Paths {
    pub data: String,
    pub index: String,
    pub eventing: String,
    pub analytics: String,
    pub java_home: String,
}

impl Default for Paths {
    fn default() -> Self {
        let path = || "/opt/couchbase/var/lib/couchbase/data".to_owned();
        Self {
            data: path(),
            index: path(),
            eventing: path(),
            analytics: path(),
            java_home: String::new(),
        }
    }
}

/// How a node left its cluster without noticing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Removal {
    /// It learns of it after its start, and becomes blank.
    Clean,
    /// By an unsafe failover: it never finds a way out.
    Unsafe,
}

/// A machine with a server on it.
#[derive(Clone)]
pub struct Node {
    pub address: Ipv4Addr,
    pub uuid: String,
    pub name: String,
    pub cluster: Option<usize>,
    pub services: Vec<String>,
    /// The quotas before there is a cluster.
    pub quotas: Quotas,
    pub paths: Paths,
    pub memory_total: u64,
    pub alternate: Value,
    pub answers_500: bool,
    pub hangs: bool,
    pub is_up: bool,
    /// How long it had been up at [`Node::booted`].
    pub uptime: Duration,
    pub booted: Instant,
    pub restarted: Option<Instant>,
    /// Since when the others hear nothing of it.
    pub silent_since: Option<Instant>,
    /// Until when the other nodes receive no heartbeats from it.
    pub warm_at: Option<Instant>,
    /// From when until when it warms up its buckets.
    pub loading: Option<(Instant, Instant)>,
    /// Its cluster when the others heard of it last.
    pub remembers: Option<Box<Cluster>>,
    pub removed: Option<Removal>,
    /// When it becomes blank, because it was removed.
    pub blank_at: Option<Instant>,
    /// Until when it accepts no connection.
    pub closed_until: Option<Instant>,
    /// The generated authority that its generated certificates are from.
    pub authority: Arc<Authority>,
    /// What it trusts while it is blank.
    pub trusted: Vec<Trusted>,
    pub identity: Identity,
    /// Whether the administrator's certificates are there to load.
    pub has_inbox: bool,
}

impl Node {
    pub fn new(address: Ipv4Addr, now: Instant) -> Self {
        let authority = Authority::generated();
        let mut node = Self {
            address,
            uuid: id(),
            name: NO_NAME.to_owned(),
            cluster: None,
            services: Vec::new(),
            quotas: Quotas::new(),
            paths: Paths::default(),
            memory_total: 25_276_514_304,
            alternate: Value::Null,
            answers_500: false,
            hangs: false,
            is_up: true,
            uptime: Duration::from_secs(204),
            booted: now,
            restarted: None,
            silent_since: None,
            warm_at: None,
            loading: None,
            remembers: None,
            removed: None,
            blank_at: None,
            closed_until: None,
            identity: Identity::issue(&authority, "127.0.0.1"),
            trusted: vec![Trusted::generated(&authority)],
            authority,
            has_inbox: false,
        };
        node.forget();
        node
    }

    /// Forgets its cluster; its name, its paths and its certificates stay.
    pub fn forget(&mut self) {
        self.uuid = id();
        self.cluster = None;
        self.services = vec!["kv".to_owned()];
        self.quotas = self.default_quotas();
        self.alternate = Value::Null;
        self.warm_at = None;
        self.loading = None;
        self.remembers = None;
        self.removed = None;
        self.blank_at = None;
    }

    /// Makes it blank after it was in a cluster: its certificates are new.
    pub fn leave(&mut self) {
        self.forget();
        self.start_over();
    }

    pub fn default_quotas(&self) -> Quotas {
        Quotas::from([
            ("memoryQuota", self.quota_limit() / 2),
            ("indexMemoryQuota", 512),
            ("ftsMemoryQuota", 512),
            ("cbasMemoryQuota", 2904),
            ("eventingMemoryQuota", 256),
            ("queryMemoryQuota", 0),
        ])
    }

    /// For how long it has been up.
    pub fn uptime(&self, now: Instant) -> Duration {
        self.uptime + now.saturating_duration_since(self.booted)
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
            Some(_) => Err(format!("Could not listen on address \"{name}\": eaddrnotavail")),
            None => Err(format!("Unable to resolve IPv4 address for \"{name}\": nxdomain")),
        }
    }
}

/// What these services may take of a node's memory together, in MB.
pub fn total_quota(quotas: &Quotas, services: &[String]) -> u64 {
    let own = QUOTAS.iter().filter(|(_, service, _)| services.iter().any(|own| own == service));
    own.filter_map(|(field, ..)| quotas.get(field)).sum()
}
