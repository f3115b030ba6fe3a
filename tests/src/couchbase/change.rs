//! What a node is told to do to itself and to its cluster, once it is checked.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{
    model::{Bucket, Cluster, Group, MIB, Start, id, otp},
    rest::{Call, HTTP, Reply, parts, services},
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

type Errors = Map<String, Value>;
type Checked<T> = Result<T, String>;

impl Call<'_> {
    fn field(&self, name: &str) -> Option<&str> {
        self.request.form.get(name)
    }

    /// The field's value, for errors that say what is wrong with it.
    fn has(&self, name: &str, errors: &mut Errors) -> bool {
        let has = self.field(name).is_some();
        if !has {
            errors.insert(name.to_owned(), json!("The value must be supplied"));
        }
        has
    }

    fn check_keys(&self, known: &[&[&str]], errors: &mut Errors) {
        for name in self.request.form.unknown(&known.concat()) {
            errors.insert(name.to_owned(), json!("Unsupported key"));
        }
    }

    fn check_login(&self, errors: &mut Errors) {
        let all: Vec<_> = LOGIN.iter().filter(|name| self.has(name, errors)).collect();
        let is_short = self
            .field("password")
            .is_some_and(|password| password.chars().count() < 6);
        if all.contains(&&"password") && is_short {
            let why = "The password must be at least 6 characters long.";
            errors.insert("password".to_owned(), json!(why));
        }
        let port = self.field("port").unwrap_or("SAME");
        if port != "SAME" && port.parse::<u16>().is_err() {
            let why = "Port must be a positive integer less than 65536";
            errors.insert("port".to_owned(), json!(why));
        }
    }

    /// The node's name to be.
    fn check_name(&self) -> Checked<()> {
        let name = self.field("hostname").unwrap_or_default();
        let node = &self.world.nodes[self.node];
        if self
            .world
            .cluster(self.node)
            .is_some_and(|cluster| cluster.members.len() > 1)
        {
            return Err(
                "Renaming is disallowed for nodes that are already part of a cluster".to_owned(),
            );
        }
        node.check_name(name, self.request.resolved.get(parts(name).1).copied())
    }

    fn check_services(&self) -> Checked<Vec<String>> {
        if self.world.nodes[self.node].cluster.is_some() {
            return Err("cannot change node services after cluster is provisioned".to_owned());
        }
        let Some(list) = self.field("services") else {
            return Err("The value must be supplied".to_owned());
        };
        let services = services(self.world, list)?;
        if !services.iter().any(|service| service == "kv") {
            return Err("cannot setup first cluster node without kv service".to_owned());
        }
        Ok(services)
    }

    /// The data service's quota to be, in MB.
    fn check_quota(&self, errors: &mut Errors) -> Option<u64> {
        let mut total = 0;
        for name in QUOTAS {
            let Some(quota) = self.field(name) else {
                continue;
            };
            match quota.parse::<u64>() {
                Ok(quota) => total += quota,
                Err(_) => {
                    errors.insert(name.to_owned(), json!("The value must be an integer"));
                }
            }
        }
        let buckets = self.world.cluster(self.node).map_or(0, bucket_quota);
        let quota = self
            .field("memoryQuota")
            .and_then(|quota| quota.parse().ok());
        if let Some(quota) = quota.filter(|quota| *quota < buckets.max(256)) {
            let why = format!(
                "The data service quota ({quota}MB) cannot be less than {}MB (current total buckets quota, or at \
                 least 256MB).",
                buckets.max(256)
            );
            errors.insert("memoryQuota".to_owned(), json!(why));
        }
        let members = self
            .world
            .cluster(self.node)
            .map(|cluster| &cluster.members);
        let nodes = members.map_or(vec![self.node], |m| m.iter().map(|m| m.node).collect());
        let mut nodes = nodes.iter().map(|node| &self.world.nodes[*node]);
        if let Some(node) = nodes.find(|node| total > node.quota_limit()) {
            let why = format!(
                "Total quota ({total}MB) exceeds the maximum allowed quota ({}MB) on node '{}'",
                node.quota_limit(),
                otp(&node.name)
            );
            errors.insert("_".to_owned(), json!(why));
        }
        quota
    }

    fn base_uri(&self) -> Reply {
        let address = self.world.nodes[self.node].address;
        Reply::ok(&json!({"newBaseUri": format!("http://{address}:{HTTP}/")}))
    }

    /// Checks all, then does all, the credentials last.
    pub fn cluster_init(&mut self) -> Reply {
        let mut errors = Errors::new();
        let more = [
            "hostname",
            "services",
            "clusterName",
            "indexerStorageMode",
            "sendStats",
        ];
        self.check_keys(&[&more, &LOGIN, &PATHS, &NETWORK, &QUOTAS], &mut errors);
        self.check_login(&mut errors);
        let services = self.check_services();
        if let Err(why) = &services {
            errors.insert("services".to_owned(), json!(why));
        }
        if let (Some(_), Err(why)) = (self.field("hostname"), self.check_name()) {
            errors.insert("hostname".to_owned(), json!(why));
        }
        let quota = self.check_quota(&mut errors);
        let only_checks = self.request.query.get("just_validate") == Some("1");
        if only_checks || !errors.is_empty() {
            let status = if errors.is_empty() { 200 } else { 400 };
            return Reply::json(status, &json!({"errors": errors}));
        }
        let field = |name| self.field(name).unwrap_or_default().to_owned();
        let (name, user, password) = (field("clusterName"), field("username"), field("password"));
        if let Some(host) = self.field("hostname").map(str::to_owned) {
            self.world.rename(self.node, &host);
        }
        let node = &mut self.world.nodes[self.node];
        node.services = services.unwrap_or_default();
        node.quota = quota.unwrap_or(node.quota);
        self.world.provision(self.node, &name, &user, &password);
        self.base_uri()
    }

    pub fn node_init(&mut self) -> Reply {
        let mut errors = Errors::new();
        self.check_keys(&[&["hostname"], &PATHS, &NETWORK], &mut errors);
        if let (Some(_), Err(why)) = (self.field("hostname"), self.check_name()) {
            errors.insert("hostname".to_owned(), json!(why));
        }
        if !errors.is_empty() {
            return Reply::errors(&errors);
        }
        if let Some(host) = self.field("hostname").map(str::to_owned) {
            self.world.rename(self.node, &host);
        }
        Reply::empty(200)
    }

    pub fn rename(&mut self) -> Reply {
        if let Err(why) = self.check_name() {
            return Reply::refused(&why);
        }
        let host = self.field("hostname").unwrap_or_default().to_owned();
        self.world.rename(self.node, &host);
        Reply::empty(200)
    }

    pub fn set_services(&mut self) -> Reply {
        match self.check_services() {
            Ok(services) => self.world.nodes[self.node].services = services,
            Err(why) => return Reply::error("services", &why),
        }
        Reply::empty(200)
    }

    pub fn set_paths(&self) -> Reply {
        let paths = [
            "path",
            "index_path",
            "eventing_path",
            "cbas_path",
            "java_home",
        ];
        let is_relative =
            |name: &&&str| self.field(name).is_some_and(|path| !path.starts_with('/'));
        match paths.iter().find(is_relative) {
            Some(name) => Reply::refused(&format!("An absolute path is required for {name}")),
            None => Reply::empty(200),
        }
    }

    pub fn set_quota(&mut self) -> Reply {
        let mut errors = Errors::new();
        self.check_keys(&[&["clusterName"], &QUOTAS], &mut errors);
        let quota = self.check_quota(&mut errors);
        if !errors.is_empty() {
            return Reply::errors(&errors);
        }
        let name = self.field("clusterName").map(str::to_owned);
        if let Some(cluster) = self.world.cluster_mut(self.node) {
            cluster.quota = quota.unwrap_or(cluster.quota);
            if let Some(name) = name {
                cluster.name = name;
            }
        } else if let Some(quota) = quota {
            self.world.nodes[self.node].quota = quota;
        }
        Reply::empty(200)
    }

    /// The credentials are what provisions a node.
    pub fn set_credentials(&mut self) -> Reply {
        let mut errors = Errors::new();
        self.check_login(&mut errors);
        if !errors.is_empty() {
            return Reply::errors(&errors);
        }
        let field = |name| self.field(name).unwrap_or_default().to_owned();
        let (user, password) = (field("username"), field("password"));
        match self.world.cluster_mut(self.node) {
            Some(cluster) => (cluster.user, cluster.password) = (user, password),
            None => self.world.provision(self.node, "", &user, &password),
        }
        self.base_uri()
    }

    pub fn set_auto_failover(&mut self) -> Reply {
        let enabled = match self.field("enabled") {
            Some("true") => true,
            Some("false") => false,
            _ => {
                return Reply::error(
                    "enabled",
                    "The value must be one of the following: [true,false]",
                );
            }
        };
        if let Some(cluster) = self.world.cluster_mut(self.node) {
            cluster.auto_failover = enabled;
        }
        Reply::empty(200)
    }

    pub fn set_network(&self) -> Reply {
        let cluster = self.world.cluster(self.node);
        if cluster.is_none_or(|cluster| cluster.auto_failover) {
            let why = "Can't change network configuration when auto-failover is enabled.";
            return Reply::error("_", why);
        }
        Reply::empty(200)
    }

    /// Puts or deletes the node's address for those outside.
    pub fn set_alternate(&mut self, is_put: bool) -> Reply {
        let mut alternate = Value::Null;
        if is_put {
            let Some(host) = self.field("hostname") else {
                return Reply::error("hostname", "The value must be supplied");
            };
            let mut ports = Map::new();
            for (name, port) in self
                .request
                .form
                .0
                .iter()
                .filter(|field| field.0 != "hostname")
            {
                let Ok(port) = port.parse::<u16>() else {
                    return Reply::error(name, "The value must be an integer");
                };
                ports.insert(name.clone(), json!(port));
            }
            alternate = json!({"hostname": host, "ports": ports});
        }
        self.world.nodes[self.node].alternate = alternate;
        Reply::empty(200)
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

    pub fn eject(&mut self) -> Reply {
        let Some(otp) = self.field("otpNode").map(str::to_owned) else {
            return Reply::text(400, "Bad Request\n");
        };
        match self.world.eject(self.node, &otp) {
            Ok(()) => Reply::empty(200),
            Err(why) => Reply::text(400, why),
        }
    }

    pub fn create_bucket(&mut self) -> Reply {
        let number = |name| {
            self.field(name)
                .and_then(|number| number.parse::<u64>().ok())
        };
        let (quota, replicas) = (number("ramQuota"), number("replicaNumber"));
        let name = self.field("name").unwrap_or_default().to_owned();
        let kind = match self.field("bucketType").unwrap_or("couchbase") {
            "couchbase" | "membase" => Some("membase"),
            kind @ ("ephemeral" | "memcached") => Some(kind),
            _ => None,
        };
        let kind = kind.map(str::to_owned);
        let cluster = self.world.cluster_mut(self.node);
        let cluster = cluster.expect("it was looked whether the node is provisioned");
        if cluster.rebalance.is_some() {
            return Reply::json(503, &json!({"_": "Cannot create buckets during rebalance"}));
        }
        let mut errors = Errors::new();
        let mut wrong = |field: &str, why: &str| {
            errors.insert(field.to_owned(), json!(why));
        };
        if name.is_empty() {
            wrong("name", "Bucket name needs to be specified");
        } else if cluster.buckets.iter().any(|bucket| bucket.name == name) {
            wrong("name", "Bucket with given name already exists");
        }
        if kind.is_none() {
            wrong("bucketType", "invalid bucket type");
        }
        if replicas.is_some_and(|replicas| replicas > 3) {
            wrong(
                "replicaNumber",
                "Replica number must be equal to or between 0 and 3",
            );
        }
        match quota {
            None => wrong(
                "ramQuota",
                "The RAM quota must be specified and must be a positive integer.",
            ),
            Some(quota) if quota < 100 => wrong("ramQuota", "RAM quota cannot be less than 100 MB"),
            Some(quota) if bucket_quota(cluster) + quota > cluster.quota => {
                wrong(
                    "ramQuota",
                    "RAM quota specified is too large to be provisioned into this cluster.",
                );
            }
            Some(_) => {}
        }
        let quota = quota.unwrap_or_default();
        if !errors.is_empty() {
            let summaries = summaries(cluster, quota);
            return Reply::json(400, &json!({"errors": errors, "summaries": summaries}));
        }
        let location = format!("/pools/default/buckets/{name}");
        cluster.buckets.push(Bucket {
            name,
            uuid: id(),
            kind: kind.unwrap_or_default(),
            quota,
            replicas: replicas.unwrap_or(1),
        });
        let mut reply = Reply::empty(202);
        reply.headers.push(("location", location));
        reply
    }

    /// Renames a group, or makes one.
    pub fn name_group(&mut self, group: Option<&str>) -> Reply {
        let name = self.field("name").unwrap_or_default().to_owned();
        let cluster = self.world.cluster_mut(self.node);
        let cluster = cluster.expect("it was looked whether the node is provisioned");
        if name.is_empty() {
            return Reply::json(400, &json!({"name": "cannot be empty"}));
        }
        if cluster.groups.iter().any(|group| group.name == name) {
            return Reply::json(400, &json!({"name": "already exists"}));
        }
        match group {
            None => cluster.groups.push(Group { id: id(), name }),
            Some(group) => match cluster.groups.iter_mut().find(|known| known.id == group) {
                Some(known) => known.name = name,
                None => return Reply::json(404, &json!(["Group not found"])),
            },
        }
        Reply::ok(&json!([]))
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
