//! Requests that change a node or its cluster, after their checks.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{
    buckets::bucket_quota,
    model::{Cluster, Recovery, otp},
    node::{Paths, QUOTAS, Quotas, total_quota},
    rebalance::{NotFailedOver, Start},
    rest::{Call, HTTP, Reply, check_combination, services},
};

/// The fields of `/clusterInit` and `/nodeInit` with those of the node's settings.
const PATHS: [(&str, &str); 5] = [
    ("dataPath", "path"),
    ("indexPath", "index_path"),
    ("eventingPath", "eventing_path"),
    ("analyticsPath", "cbas_path"),
    ("javaHome", "java_home"),
];
const NETWORK: [&str; 4] = ["afamily", "afamilyOnly", "nodeEncryption", "allowedHosts"];
const LOGIN: [&str; 3] = ["password", "username", "port"];
/// What must not be in a user's name.
const SPECIAL: &str = "()<>,;:\\\"/[]?={}";
const NO_RECOVERY: &str = "invalid node name or node can't be used for delta recovery";

/// What is wrong, by field.
#[derive(Default)]
pub struct Errors(pub Map<String, Value>);

impl Errors {
    pub fn add(&mut self, field: &str, why: &str) {
        self.0.insert(field.to_owned(), json!(why));
    }

    fn check<T>(&mut self, field: &str, checked: Result<T, String>) -> Option<T> {
        checked.map_err(|why| self.add(field, &why)).ok()
    }

    fn refuse(self) -> Result<(), Reply> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Reply::json(400, &json!({"errors": self.0})))
    }
}

impl Call<'_> {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.request.form.get(name)
    }

    pub fn own_field(&self, name: &str) -> String {
        self.field(name).unwrap_or_default().to_owned()
    }

    /// Writes wait for a majority of the nodes, and fail after some time.
    pub fn needs_quorum(&self, refused: impl FnOnce() -> Reply) -> Result<(), Reply> {
        let cluster = self.world.nodes[self.node].cluster;
        if cluster.is_none_or(|cluster| self.world.has_quorum(cluster, self.now)) {
            return Ok(());
        }
        Err(refused().after(self.world.knobs.quorum_timeout))
    }

    pub fn cluster_mut(&mut self) -> &mut Cluster {
        let cluster = self.world.cluster_mut(self.node);
        cluster.expect("it was checked that the node is provisioned")
    }

    fn check_keys(&self, known: &[&[&str]], errors: &mut Errors) {
        for name in self.request.form.unknown(&known.concat()) {
            errors.add(name, "Unsupported key");
        }
    }

    fn check_login(&self, errors: &mut Errors) {
        for name in LOGIN {
            match self.field(name) {
                None => errors.add(name, "The value must be supplied"),
                Some(value) if name == "password" && value.chars().count() < 6 => {
                    errors.add(name, "The password must be at least 6 characters long.");
                }
                Some(value)
                    if name == "port" && value != "SAME" && value.parse::<u16>().is_err() =>
                {
                    errors.add(name, "Port must be a positive integer less than 65536");
                }
                Some(value)
                    if name == "username"
                        && value.contains(|c: char| {
                            c.is_whitespace() || c.is_control() || SPECIAL.contains(c)
                        }) =>
                {
                    let why = format!(
                        "Username must not contain spaces, control or any of {SPECIAL} characters and must be valid utf8"
                    );
                    errors.add(name, &why);
                }
                Some(_) => {}
            }
        }
    }

    /// The node's name to be.
    fn check_name(&self) -> Result<String, String> {
        let name = self.field("hostname").unwrap_or_default();
        let cluster = self.world.cluster(self.node);
        if cluster.is_some_and(|cluster| cluster.members.len() > 1) {
            let why = "Renaming is disallowed for nodes that are already part of a cluster";
            return Err(why.to_owned());
        }
        // A node uses IPv4 by default.
        if name.parse::<std::net::Ipv6Addr>().is_ok() {
            return match self.field("afamily") {
                Some("ipv6") => Ok(name.to_owned()),
                _ => Err(format!("Can't use ipv6 address \"{name}\" for ipv4 node")),
            };
        }
        let resolved = self.request.resolved.get(name);
        self.world.nodes[self.node].check_name(name, resolved.copied())?;
        Ok(name.to_owned())
    }

    fn check_services(&self) -> Result<Vec<String>, String> {
        if self.world.nodes[self.node].cluster.is_some() {
            return Err("cannot change node services after cluster is provisioned".to_owned());
        }
        let list = self.field("services").ok_or("The value must be supplied")?;
        let services = services(self.world, list)?;
        if !services.iter().any(|service| service == "kv") {
            return Err("cannot setup first cluster node without kv service".to_owned());
        }
        check_combination(self.world, &services)?;
        Ok(services)
    }

    /// The quotas that the request sets. Only the first that is wrong is named.
    fn read_quotas(&self, errors: &mut Errors) -> Option<Quotas> {
        let buckets = self.world.cluster(self.node).map_or(0, bucket_quota);
        let mut quotas = Quotas::new();
        for (field, service, least) in QUOTAS {
            let Some(value) = self.field(field) else {
                continue;
            };
            let Ok(quota) = value.parse::<i64>() else {
                errors.add(field, "The value must be an integer");
                return None;
            };
            let (word, least, reason) = match service {
                "kv" => (
                    "data",
                    least.max(buckets),
                    " (current total buckets quota, or at least 256MB)",
                ),
                "n1ql" => ("query", least, ""),
                word => (word, least, ""),
            };
            match u64::try_from(quota) {
                Ok(quota) if quota >= least => drop(quotas.insert(field, quota)),
                _ => {
                    let why = format!(
                        "The {word} service quota ({quota}MB) cannot be less than {least}MB{reason}."
                    );
                    errors.add(field, &why);
                    return None;
                }
            }
        }
        Some(quotas)
    }

    /// The quotas to be, if no node's services would take more than it has.
    fn check_quotas(&self, errors: &mut Errors) -> Option<Quotas> {
        let own = &self.world.nodes[self.node];
        let cluster = self.world.cluster(self.node);
        let mut quotas = cluster.map_or(&own.quotas, |cluster| &cluster.quotas).clone();
        let changes = self.read_quotas(errors)?;
        if changes.is_empty() {
            return Some(quotas);
        }
        quotas.extend(changes);
        let members = cluster.map_or(&[][..], |cluster| &cluster.members);
        let members = members.iter();
        let nodes = members.map(|member| (member.node, &member.services));
        let mut nodes = nodes.chain(cluster.is_none().then_some((self.node, &own.services)));
        let full = nodes.find_map(|(node, services)| {
            let node = &self.world.nodes[node];
            let (total, limit) = (total_quota(&quotas, services), node.quota_limit());
            (total > limit).then(|| (total, limit, otp(&node.name)))
        });
        if let Some((total, limit, otp)) = full {
            let why = format!(
                "Total quota ({total}MB) exceeds the maximum allowed quota ({limit}MB) on node '{otp}'"
            );
            errors.add("_", &why);
        }
        Some(quotas)
    }

    fn base_uri(&self) -> Reply {
        let address = self.world.nodes[self.node].address;
        Reply::ok(&json!({"newBaseUri": format!("http://{address}:{HTTP}/")}))
    }

    /// What the Community Edition has less of.
    fn check_edition(&self, errors: &mut Errors) {
        let community = self.world.knobs.community;
        let modes: &[&str] =
            if community { &["forestdb"] } else { &["plasma", "memory_optimized"] };
        if self.field("indexerStorageMode").is_some_and(|mode| !modes.contains(&mode)) {
            let modes = modes.join(",");
            let why = format!("The value must be one of the following: [{modes}]");
            errors.add("indexerStorageMode", &why);
        }
        if community && self.field("nodeEncryption").is_some_and(|on| on != "off") {
            errors.add("nodeEncryption", "The value must be one of the following: [off]");
        }
    }

    /// The quota fields of the edition.
    fn quota_fields(&self) -> Vec<&'static str> {
        let community = self.world.knobs.community;
        let fields = QUOTAS.iter().map(|(field, ..)| *field);
        let is_foreign = |field: &&str| ["cbasMemoryQuota", "eventingMemoryQuota"].contains(field);
        fields.filter(|field| !community || !is_foreign(field)).collect()
    }

    /// Checks all, then does all, the credentials last.
    pub fn cluster_init(&mut self) -> Result<Reply, Reply> {
        let mut errors = Errors::default();
        let more = [
            "hostname",
            "services",
            "clusterName",
            "indexerStorageMode",
            "sendStats",
            "setDefaultMemQuotas",
        ];
        let paths = PATHS.map(|(field, _)| field);
        let quota_fields = self.quota_fields();
        self.check_keys(&[&more, &LOGIN, &paths, &NETWORK, &quota_fields], &mut errors);
        self.check_login(&mut errors);
        self.check_edition(&mut errors);
        let services = errors.check("services", self.check_services());
        let host = self.check_host(&mut errors);
        let quotas = self.check_quotas(&mut errors);
        errors.refuse()?;
        if self.request.query.get("just_validate") == Some("1") {
            return Ok(Reply::ok(&json!({"errors": {}})));
        }
        let (services, quotas) = (services.unwrap_or_default(), quotas.unwrap_or_default());
        let limit = self.world.nodes[self.node].quota_limit();
        let total = total_quota(&quotas, &services);
        if total > limit {
            let why = format!(
                "insufficient memory to satisfy memory quota for the services (requested quota is {total}MB, maximum \
                 allowed quota for the node is {limit}MB)"
            );
            return Err(Reply::error("_", &why));
        }
        let paths = self.read_paths(|(field, _)| field);
        let paths = paths.map_err(|why| Reply::error("_", &why))?;
        if let Some(host) = host {
            self.world.rename(self.node, &host);
        }
        let node = &mut self.world.nodes[self.node];
        (node.services, node.quotas, node.paths) = (services, quotas, paths);
        let [name, user, password] =
            ["clusterName", "username", "password"].map(|name| self.own_field(name));
        self.world.provision(self.node, &name, &user, &password);
        Ok(self.base_uri())
    }

    /// The node's name to be, if the request has one.
    fn check_host(&self, errors: &mut Errors) -> Option<String> {
        self.field("hostname")?;
        errors.check("hostname", self.check_name())
    }

    pub fn node_init(&mut self) -> Result<Reply, Reply> {
        let mut errors = Errors::default();
        let paths = PATHS.map(|(field, _)| field);
        self.check_keys(&[&["hostname"], &paths, &NETWORK], &mut errors);
        let host = self.check_host(&mut errors);
        let paths = errors.check("_", self.read_paths(|(field, _)| field));
        errors.refuse()?;
        self.world.nodes[self.node].paths = paths.unwrap_or_default();
        if let Some(host) = host {
            self.world.rename(self.node, &host);
        }
        Ok(Reply::empty(200))
    }

    pub fn rename(&mut self) -> Result<Reply, Reply> {
        let host = self.check_name().map_err(|why| Reply::refused(&why))?;
        self.world.rename(self.node, &host);
        Ok(Reply::empty(200))
    }

    pub fn set_services(&mut self) -> Result<Reply, Reply> {
        let services = self.check_services();
        let services = services.map_err(|why| Reply::error("services", &why))?;
        self.world.nodes[self.node].services = services;
        Ok(Reply::empty(200))
    }

    /// The node's paths to be; the fields have one name of the two.
    fn read_paths(
        &self,
        field: impl Fn((&'static str, &'static str)) -> &'static str,
    ) -> Result<Paths, String> {
        let own = &self.world.nodes[self.node];
        let mut paths = own.paths.clone();
        for names in PATHS {
            let Some(path) = self.field(field(names)) else {
                continue;
            };
            let name = names.1;
            if path.is_empty() {
                return Err(format!("{name} cannot contain empty string"));
            }
            if !path.starts_with('/') {
                return Err(format!("An absolute path is required for {name}"));
            }
            if path.starts_with("/proc/") {
                let why = "Could not set the storage path. It must be a directory writable by 'couchbase' user.";
                return Err(why.to_owned());
            }
            let own = match name {
                "path" => &mut paths.data,
                "index_path" => &mut paths.index,
                "eventing_path" => &mut paths.eventing,
                "cbas_path" => &mut paths.analytics,
                _ => &mut paths.java_home,
            };
            if own != path && self.world.nodes[self.node].cluster.is_some() {
                let why =
                    "Changing paths of nodes that are part of provisioned cluster is not supported";
                return Err(why.to_owned());
            }
            path.clone_into(own);
        }
        Ok(paths)
    }

    pub fn set_paths(&mut self) -> Result<Reply, Reply> {
        let paths = self.read_paths(|(_, name)| name);
        let paths = paths.map_err(|why| Reply::refused(&why))?;
        self.world.nodes[self.node].paths = paths;
        Ok(Reply::empty(200))
    }

    pub fn set_quota(&mut self) -> Result<Reply, Reply> {
        if self.request.form.0.is_empty() {
            return Err(Reply::error("_", "Request should have parameters"));
        }
        let mut errors = Errors::default();
        let quota_fields = self.quota_fields();
        self.check_keys(&[&["clusterName"], &quota_fields], &mut errors);
        let quotas = self.check_quotas(&mut errors);
        errors.refuse()?;
        self.needs_quorum(|| {
            let cluster = self.world.nodes[self.node].cluster.unwrap_or_default();
            let members = self.world.clusters[cluster].members.iter().rev();
            let silent = members.filter(|m| !self.world.is_healthy(cluster, m, self.now));
            let silent: Vec<_> = silent.map(|member| format!("'{}'", member.otp())).collect();
            let silent = silent.join(&format!(",\n{}", " ".repeat(45)));
            Reply::text(500, &format!("Did not receive response in time from nodes [{silent}]"))
        })?;
        let name = self.field("clusterName").map(str::to_owned);
        let quotas = quotas.unwrap_or_default();
        if let Some(cluster) = self.world.cluster_mut(self.node) {
            cluster.quotas = quotas;
            cluster.name = name.unwrap_or(cluster.name.clone());
        } else {
            self.world.nodes[self.node].quotas = quotas;
        }
        Ok(Reply::empty(200))
    }

    /// The credentials are what provisions a node.
    pub fn set_credentials(&mut self) -> Result<Reply, Reply> {
        let mut errors = Errors::default();
        self.check_login(&mut errors);
        errors.refuse()?;
        let [user, password] = ["username", "password"].map(|name| self.own_field(name));
        match self.world.cluster_mut(self.node) {
            Some(cluster) => (cluster.user, cluster.password) = (user, password),
            None => self.world.provision(self.node, "", &user, &password),
        }
        Ok(self.base_uri())
    }

    pub fn set_auto_failover(&mut self) -> Result<Reply, Reply> {
        let community = self.world.knobs.community;
        let mut errors = Errors::default();
        let mut known = vec!["enabled", "timeout"];
        if !community {
            known.extend(["maxCount", "canAbortRebalance", "failoverPreserveDurabilityMajority"]);
        }
        self.check_keys(&[&known], &mut errors);
        let enabled = match self.field("enabled") {
            None => Err("The value must be supplied"),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err("The value must be one of the following: [true,false]"),
        };
        let enabled = errors.check("enabled", enabled.map_err(str::to_owned));
        let least = if community { 30 } else { 1 };
        let number = |name: &str, least: u64, most: u64| {
            let value = self.field(name)?.parse().ok();
            let value = value.filter(|value| (least..=most).contains(value));
            let why = format!("The value must be in range from {least} to {most}");
            Some(value.ok_or(why))
        };
        let timeout = number("timeout", least, 3600);
        let timeout = timeout.and_then(|timeout| errors.check("timeout", timeout));
        let max_count = number("maxCount", 1, 100).filter(|_| !community);
        let max_count = max_count.and_then(|count| errors.check("maxCount", count));
        if enabled == Some(true) && timeout.is_none() {
            errors.add("_", "enabled is true. A value must be supplied for timeout");
        } else if enabled.is_none() && timeout.is_some() {
            errors.add("_", "enabled must be true for timeout to take effect");
        }
        errors.refuse()?;
        if let Some(cluster) = self.world.cluster_mut(self.node) {
            let settings = &mut cluster.auto_failover;
            settings.enabled = enabled.unwrap_or_default();
            settings.timeout = timeout.unwrap_or(settings.timeout);
            let max_count = max_count.and_then(|count| usize::try_from(count).ok());
            settings.max_count = max_count.unwrap_or(settings.max_count);
        }
        Ok(Reply::empty(200))
    }

    pub fn reset_failovers(&mut self) -> Reply {
        if let Some(cluster) = self.world.cluster_mut(self.node) {
            cluster.failovers = 0;
        }
        Reply::empty(200)
    }

    pub fn set_network(&self) -> Result<Reply, Reply> {
        let cluster = self.world.cluster(self.node);
        if cluster.is_none_or(|cluster| cluster.auto_failover.enabled) {
            let why = "Can't change network configuration when auto-failover is enabled.";
            return Err(Reply::error("_", why));
        }
        Ok(Reply::empty(200))
    }

    /// Puts or deletes the node's address for those outside.
    pub fn set_alternate(&mut self, is_put: bool) -> Result<Reply, Reply> {
        let mut alternate = Value::Null;
        if is_put {
            let host = self.field("hostname");
            let host =
                host.ok_or_else(|| Reply::error("hostname", "The value must be supplied"))?;
            let mut ports = Map::new();
            for (name, port) in self.request.form.0.iter().filter(|field| field.0 != "hostname") {
                let port = port.parse::<u16>();
                let port = port.map_err(|_| Reply::error(name, "The value must be an integer"))?;
                ports.insert(name.clone(), json!(port));
            }
            alternate = json!({"hostname": host, "ports": ports});
        }
        self.world.nodes[self.node].alternate = alternate;
        Ok(Reply::empty(200))
    }

    pub fn rebalance(&mut self) -> Reply {
        let list = |name| {
            let list = self.field(name).unwrap_or_default().split(',');
            list.filter(|node| !node.is_empty()).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let (known, ejected) = (list("knownNodes"), list("ejectedNodes"));
        match self.world.start_rebalance(self.node, &known, &ejected, self.now) {
            Start::Started(id) => Reply::ok(&json!({"rebalance_id": id})),
            Start::AlreadyRunning => Reply::empty(200),
            Start::NothingKnown => Reply::json(400, &json!({"empty_known_nodes": 1})),
            Start::Mismatch => Reply::json(400, &json!({"mismatch": 1})),
            Start::NoActiveNodes => Reply::text(400, "No active nodes left"),
            Start::NoDataNodes => Reply::json(400, &json!({"noKVNodesLeft": 1})),
            Start::NoQuorum => Reply::text(503, "Service is temporarily unavailable")
                .after(self.world.knobs.quorum_timeout),
        }
    }

    pub fn stop_rebalance(&mut self) -> Reply {
        self.world.stop_rebalance(self.node, self.now);
        Reply::empty(200)
    }

    pub fn fail_over(&mut self) -> Result<Reply, Reply> {
        let otps = self.request.form.all("otpNode");
        let allow_unsafe = self.field("allowUnsafe") == Some("true");
        let done = self.world.fail_over(self.node, &otps, allow_unsafe, self.now);
        done.map_err(|why| self.not_failed_over(&why))?;
        Ok(Reply::empty(200))
    }

    pub fn start_graceful_failover(&mut self) -> Result<Reply, Reply> {
        let otps = self.request.form.all("otpNode");
        let started = self.world.start_graceful_failover(self.node, &otps, self.now);
        started.map_err(|why| self.not_failed_over(&why))?;
        Ok(Reply::empty(200))
    }

    fn not_failed_over(&self, why: &NotFailedOver) -> Reply {
        let (status, why) = match why {
            NotFailedOver::NotNamed => (400, "No server specified.".to_owned()),
            NotFailedOver::Unknown(nodes) => (400, format!("Unknown server given: {nodes:?}")),
            NotFailedOver::Inactive => (400, "Inactive server given.".to_owned()),
            NotFailedOver::Rebalancing => (503, "Rebalance running.".to_owned()),
            NotFailedOver::LastActive => {
                (400, "Last active node cannot be failed over.".to_owned())
            }
            NotFailedOver::NotSynchronized => {
                (500, "Failed to synchronize config to other nodes".to_owned())
            }
            NotFailedOver::LastOfBucket(bucket) => {
                let why = format!("Last server for bucket \"{bucket}\" cannot be failed over.");
                (400, why)
            }
            NotFailedOver::WouldLoseData => {
                let why = "Failover cannot be done gracefully (would lose vbuckets).";
                (400, why.to_owned())
            }
            NotFailedOver::NoQuorum => {
                let why = "Cannot safely perform a failover at the moment";
                return Reply::text(504, why).after(self.world.knobs.quorum_timeout);
            }
        };
        Reply::text(status, &why)
    }

    pub fn set_recovery_type(&mut self) -> Result<Reply, Reply> {
        let recovery = match self.field("recoveryType") {
            Some("delta") => Recovery::Delta,
            Some("full") => Recovery::Full,
            _ => {
                let why = "recovery type must be either 'delta' or 'full'";
                return Err(Reply::json(400, &json!({"recoveryType": why})));
            }
        };
        self.recover(recovery)
    }

    pub fn add_again(&mut self) -> Result<Reply, Reply> {
        self.recover(Recovery::Full)
    }

    fn recover(&mut self, recovery: Recovery) -> Result<Reply, Reply> {
        let otp = self.own_field("otpNode");
        let cluster = self.world.cluster_mut(self.node);
        if !cluster.is_some_and(|cluster| cluster.set_recovery(&otp, recovery)) {
            return Err(Reply::json(400, &json!({"otpNode": NO_RECOVERY})));
        }
        Ok(Reply::ok(&json!([])))
    }

    pub fn fail_over_again(&mut self) -> Result<Reply, Reply> {
        let otp = self.own_field("otpNode");
        let cluster = self.world.cluster_mut(self.node);
        if !cluster.is_some_and(|cluster| cluster.undo_recovery(&otp)) {
            return Err(Reply::json(400, &json!({"otpNode": NO_RECOVERY})));
        }
        Ok(Reply::empty(200))
    }

    pub fn hard_reset(&mut self) -> Reply {
        self.world.hard_reset(self.node, self.now);
        Reply::empty(200)
    }

    pub fn eject(&mut self) -> Result<Reply, Reply> {
        let otp = self.field("otpNode").map(str::to_owned);
        let otp = otp.ok_or_else(|| Reply::text(400, "Bad Request\n"))?;
        let ejected = self.world.eject(self.node, &otp);
        ejected.map_err(|why| Reply::text(400, why))?;
        Ok(Reply::empty(200))
    }
}
