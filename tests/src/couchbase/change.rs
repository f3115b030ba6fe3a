//! What a node is told to do to itself and to its cluster, once it is checked.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{
    model::{Bucket, Cluster, Group, MIB, Start, id, otp},
    rest::{Call, HTTP, Reply, services},
    show::DISK,
};

const PATHS: [&str; 5] = [
    "dataPath",
    "indexPath",
    "eventingPath",
    "analyticsPath",
    "javaHome",
];
const NETWORK: [&str; 4] = ["afamily", "afamilyOnly", "nodeEncryption", "allowedHosts"];
const LOGIN: [&str; 3] = ["password", "username", "port"];
const QUOTAS: [&str; 6] = [
    "memoryQuota",
    "indexMemoryQuota",
    "ftsMemoryQuota",
    "cbasMemoryQuota",
    "eventingMemoryQuota",
    "queryMemoryQuota",
];

/// What is wrong, by field.
#[derive(Default)]
struct Errors(Map<String, Value>);

impl Errors {
    fn add(&mut self, field: &str, why: &str) {
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
    fn field(&self, name: &str) -> Option<&str> {
        self.request.form.get(name)
    }

    fn own_field(&self, name: &str) -> String {
        self.field(name).unwrap_or_default().to_owned()
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
        Ok(services)
    }

    /// The data service's quota to be, in MB.
    fn check_quota(&self, errors: &mut Errors) -> Option<u64> {
        let cluster = self.world.cluster(self.node);
        let least = cluster.map_or(0, bucket_quota).max(256);
        let mut total = 0;
        let mut data = None;
        for name in QUOTAS {
            let Some(quota) = self.field(name) else {
                continue;
            };
            let quota = quota.parse::<u64>();
            let quota = quota.map_err(|_| "The value must be an integer".to_owned());
            let quota = errors.check(name, quota).unwrap_or_default();
            total += quota;
            if name != "memoryQuota" {
                continue;
            }
            data = Some(quota);
            if quota < least {
                let why = format!(
                    "The data service quota ({quota}MB) cannot be less than {least}MB (current total buckets quota, or \
                     at least 256MB)."
                );
                errors.add(name, &why);
            }
        }
        let members = cluster.map_or_else(Vec::new, |cluster| cluster.members.iter().collect());
        let nodes = members.iter().map(|member| member.node);
        let mut nodes = nodes.chain([self.node]).map(|node| &self.world.nodes[node]);
        if let Some(node) = nodes.find(|node| total > node.quota_limit()) {
            let (limit, otp) = (node.quota_limit(), otp(&node.name));
            let why = format!(
                "Total quota ({total}MB) exceeds the maximum allowed quota ({limit}MB) on node '{otp}'"
            );
            errors.add("_", &why);
        }
        data
    }

    fn base_uri(&self) -> Reply {
        let address = self.world.nodes[self.node].address;
        Reply::ok(&json!({"newBaseUri": format!("http://{address}:{HTTP}/")}))
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
        ];
        self.check_keys(&[&more, &LOGIN, &PATHS, &NETWORK, &QUOTAS], &mut errors);
        self.check_login(&mut errors);
        let services = errors.check("services", self.check_services());
        let host = self.check_host(&mut errors);
        let quota = self.check_quota(&mut errors);
        errors.refuse()?;
        if self.request.query.get("just_validate") == Some("1") {
            return Ok(Reply::ok(&json!({"errors": {}})));
        }
        if let Some(host) = host {
            self.world.rename(self.node, &host);
        }
        let node = &mut self.world.nodes[self.node];
        node.services = services.unwrap_or_default();
        node.quota = quota.unwrap_or(node.quota);
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
        self.check_keys(&[&["hostname"], &PATHS, &NETWORK], &mut errors);
        let host = self.check_host(&mut errors);
        errors.refuse()?;
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

    pub fn set_paths(&self) -> Result<Reply, Reply> {
        for name in [
            "path",
            "index_path",
            "eventing_path",
            "cbas_path",
            "java_home",
        ] {
            if self.field(name).is_some_and(|path| !path.starts_with('/')) {
                let why = format!("An absolute path is required for {name}");
                return Err(Reply::refused(&why));
            }
        }
        Ok(Reply::empty(200))
    }

    pub fn set_quota(&mut self) -> Result<Reply, Reply> {
        let mut errors = Errors::default();
        self.check_keys(&[&["clusterName"], &QUOTAS], &mut errors);
        let quota = self.check_quota(&mut errors);
        errors.refuse()?;
        let name = self.field("clusterName").map(str::to_owned);
        if let Some(cluster) = self.world.cluster_mut(self.node) {
            cluster.quota = quota.unwrap_or(cluster.quota);
            cluster.name = name.unwrap_or(cluster.name.clone());
        } else if let Some(quota) = quota {
            self.world.nodes[self.node].quota = quota;
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
        let enabled = self.field("enabled").and_then(|word| word.parse().ok());
        let why = "The value must be one of the following: [true,false]";
        let enabled = enabled.ok_or_else(|| Reply::error("enabled", why))?;
        if let Some(cluster) = self.world.cluster_mut(self.node) {
            cluster.auto_failover = enabled;
        }
        Ok(Reply::empty(200))
    }

    pub fn set_network(&self) -> Result<Reply, Reply> {
        let cluster = self.world.cluster(self.node);
        if cluster.is_none_or(|cluster| cluster.auto_failover) {
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
            for (name, port) in self
                .request
                .form
                .0
                .iter()
                .filter(|field| field.0 != "hostname")
            {
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
            list.filter(|node| !node.is_empty())
                .map(str::to_owned)
                .collect::<BTreeSet<_>>()
        };
        let (known, ejected) = (list("knownNodes"), list("ejectedNodes"));
        match self
            .world
            .start_rebalance(self.node, &known, &ejected, self.now)
        {
            Start::Started(id) => Reply::ok(&json!({"rebalance_id": id})),
            Start::AlreadyRunning => Reply::empty(200),
            Start::NothingKnown => Reply::json(400, &json!({"empty_known_nodes": 1})),
            Start::Mismatch => Reply::json(400, &json!({"mismatch": 1})),
            Start::NoActiveNodes => Reply::text(400, "No active nodes left"),
            Start::NoDataNodes => Reply::json(400, &json!({"noKVNodesLeft": 1})),
        }
    }

    pub fn eject(&mut self) -> Result<Reply, Reply> {
        let otp = self.field("otpNode").map(str::to_owned);
        let otp = otp.ok_or_else(|| Reply::text(400, "Bad Request\n"))?;
        let ejected = self.world.eject(self.node, &otp);
        ejected.map_err(|why| Reply::text(400, why))?;
        Ok(Reply::empty(200))
    }

    pub fn create_bucket(&mut self) -> Result<Reply, Reply> {
        let number = |name| {
            self.field(name)
                .and_then(|number| number.parse::<u64>().ok())
        };
        let (quota, replicas) = (number("ramQuota"), number("replicaNumber").unwrap_or(1));
        let name = self.own_field("name");
        let kind = match self.field("bucketType") {
            None | Some("couchbase") => "membase".to_owned(),
            Some(kind) => kind.to_owned(),
        };
        let cluster = self.world.cluster_mut(self.node);
        let cluster = cluster.expect("it was looked whether the node is provisioned");
        if cluster.rebalance.is_some() {
            let why = "Cannot create buckets during rebalance";
            return Err(Reply::json(503, &json!({"_": why})));
        }
        let mut errors = Errors::default();
        if name.is_empty() {
            errors.add("name", "Bucket name needs to be specified");
        } else if cluster.buckets.iter().any(|bucket| bucket.name == name) {
            errors.add("name", "Bucket with given name already exists");
        }
        if !["membase", "ephemeral", "memcached"].contains(&kind.as_str()) {
            errors.add("bucketType", "invalid bucket type");
        }
        if replicas > 3 {
            errors.add(
                "replicaNumber",
                "Replica number must be equal to or between 0 and 3",
            );
        }
        let wrong = match quota {
            None => "The RAM quota must be specified and must be a positive integer.",
            Some(quota) if quota < 100 => "RAM quota cannot be less than 100 MB",
            Some(quota) if bucket_quota(cluster) + quota > cluster.quota => {
                "RAM quota specified is too large to be provisioned into this cluster."
            }
            Some(_) => "",
        };
        if !wrong.is_empty() {
            errors.add("ramQuota", wrong);
        }
        let quota = quota.unwrap_or_default();
        if !errors.0.is_empty() {
            let refused = json!({"errors": errors.0, "summaries": summaries(cluster, quota)});
            return Err(Reply::json(400, &refused));
        }
        let location = format!("/pools/default/buckets/{name}");
        cluster.buckets.push(Bucket {
            name,
            uuid: id(),
            kind,
            quota,
            replicas,
        });
        let mut reply = Reply::empty(202);
        reply.headers.push(("location", location));
        Ok(reply)
    }

    /// Renames a group, or makes one.
    pub fn name_group(&mut self, group: Option<&str>) -> Result<Reply, Reply> {
        let name = self.own_field("name");
        let cluster = self.world.cluster_mut(self.node);
        let cluster = cluster.expect("it was looked whether the node is provisioned");
        if name.is_empty() {
            return Err(Reply::json(400, &json!({"name": "cannot be empty"})));
        }
        if cluster.groups.iter().any(|group| group.name == name) {
            return Err(Reply::json(400, &json!({"name": "already exists"})));
        }
        if let Some(id) = group {
            let mut groups = cluster.groups.iter_mut();
            let group = groups.find(|group| group.id == id);
            group.ok_or_else(|| Reply::text(404, "Not found."))?.name = name;
        } else {
            cluster.groups.push(Group { id: id(), name });
        }
        Ok(Reply::ok(&json!([])))
    }
}

/// What the buckets take of each node's quota, in MB.
fn bucket_quota(cluster: &Cluster) -> u64 {
    cluster.buckets.iter().map(|bucket| bucket.quota).sum()
}

/// What a refused bucket would have done.
fn summaries(cluster: &Cluster, quota: u64) -> Value {
    let nodes = cluster.members.len() as u64;
    let of = |quota: u64| i64::try_from(quota * MIB * nodes).unwrap_or(i64::MAX);
    let (total, others, this) = (of(cluster.quota), of(bucket_quota(cluster)), of(quota));
    json!({
        "ramSummary": {
            "total": total,
            "otherBuckets": others,
            "nodesCount": nodes,
            "perNodeMegs": quota,
            "thisAlloc": this,
            "thisUsed": 0,
            "free": total - others - this,
        },
        "hddSummary": {
            "total": DISK.0 * nodes,
            "otherData": DISK.1 * nodes,
            "otherBuckets": 0,
            "thisUsed": 0,
            "free": (DISK.0 - DISK.1) * nodes,
        },
    })
}
