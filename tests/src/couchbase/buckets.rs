//! Buckets: what makes them, and what the server shows of them.

use serde_json::{Map, Value, json};

use super::{
    change::Errors,
    model::{Bucket, Cluster, Member, id},
    node::MIB,
    rest::{Call, Reply},
    show::DISK,
};

const TOO_FEW_NODES: &str = "Warning: you do not have enough data servers or server groups to support this number of replicas.";
const BAD_NAME: &str = "Bucket name can only contain characters in range A-Z, a-z, 0-9 as well as underscore, \
                        period, dash & percent. Consult the documentation.";
/// The fields that the Community Edition refuses, and why.
const ENTERPRISE_FIELDS: [(&str, Option<&str>, &str); 4] = [
    ("storageBackend", Some("magma"), "Magma is supported in enterprise edition only"),
    ("compressionMode", None, "Compression mode is supported in enterprise edition only"),
    (
        "conflictResolutionType",
        Some("lww"),
        "Conflict resolution type 'lww' is supported only in enterprise edition",
    ),
    ("maxTTL", None, "Max TTL is supported in enterprise edition only"),
];

fn check_name(name: Option<&str>, cluster: &Cluster) -> Option<&'static str> {
    let Some(name) = name else {
        return Some("Bucket name needs to be specified");
    };
    let is_usual = |c: char| c.is_ascii_alphanumeric() || "_.-%".contains(c);
    if name.is_empty() {
        Some("Bucket name cannot be empty")
    } else if !name.chars().all(is_usual) {
        Some(BAD_NAME)
    } else if name.starts_with('.') {
        Some("Bucket name cannot start with dot.")
    } else if name.len() > 100 {
        Some("Bucket name cannot exceed 100 characters")
    } else if cluster.buckets.iter().any(|bucket| bucket.name.eq_ignore_ascii_case(name)) {
        Some("Bucket with given name already exists")
    } else {
        None
    }
}

fn check_quota(quota: Option<u64>, is_magma: bool, cluster: &Cluster) -> Option<&'static str> {
    match quota {
        None => Some("The RAM Quota must be specified and must be a positive integer."),
        Some(quota) if is_magma && quota < 1024 => {
            Some("Ram quota for magma must be at least 1024 MiB")
        }
        Some(quota) if quota < 100 => Some("RAM quota cannot be less than 100 MiB"),
        Some(quota) if bucket_quota(cluster) + quota > cluster.data_quota() => {
            Some("RAM quota specified is too large to be provisioned into this cluster.")
        }
        Some(_) => None,
    }
}

impl Call<'_> {
    fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }

    pub fn create_bucket(&mut self) -> Result<Reply, Reply> {
        let quota = self.number("ramQuota").or_else(|| self.number("ramQuotaMB"));
        let kind = match self.field("bucketType") {
            None | Some("couchbase") => "membase",
            Some(kind) => kind,
        };
        let backend = self.field("storageBackend").unwrap_or("couchstore");
        let replicas = self.number("replicaNumber").unwrap_or(1);
        let cluster = self.cluster();
        let mut errors = Errors::default();
        let is_known = ["membase", "ephemeral", "memcached"].contains(&kind);
        if let Some(why) = check_name(self.field("name"), cluster) {
            errors.add("name", why);
        }
        let is_magma = backend == "magma" && !self.world.knobs.community;
        if let Some(why) = check_quota(quota, is_magma, cluster) {
            errors.add("ramQuota", why);
        }
        if !is_known {
            errors.add("bucketType", "invalid bucket type");
        }
        let has_replicas = is_known && kind != "memcached";
        if has_replicas && replicas > 3 {
            let why = "Replica number larger than 3 is not supported.";
            errors.add("replicaNumber", why);
        }
        if self.world.knobs.community {
            for (field, value, why) in ENTERPRISE_FIELDS {
                let given = self.field(field);
                if given.is_some() && (value.is_none() || given == value) {
                    errors.add(field, why);
                }
            }
        }
        let is_trial = self.request.query.get("just_validate") == Some("1");
        let warns = self.request.query.get("ignore_warnings") != Some("1");
        let data_nodes = cluster.members.iter().filter(|member| member.has_data_service());
        let is_short =
            has_replicas && (1..=3).contains(&replicas) && replicas >= data_nodes.count() as u64;
        // It is no more than a warning, which only a trial or a refusal shows.
        if is_short && warns && (is_trial || !errors.0.is_empty()) {
            errors.add("replicaNumber", TOO_FEW_NODES);
        }
        let quota = quota.unwrap_or_default();
        if is_trial || !errors.0.is_empty() {
            let status = if errors.0.is_empty() { 200 } else { 400 };
            let shown = json!({"errors": errors.0, "summaries": summaries(cluster, quota)});
            return Err(Reply::json(status, &shown));
        }
        if cluster.rebalance.is_some() {
            let why = "Cannot create buckets during rebalance";
            return Err(Reply::json(503, &json!({"_": why})));
        }
        let bucket = Bucket {
            name: self.own_field("name"),
            uuid: id(),
            kind: kind.to_owned(),
            quota,
            replicas,
            backend: backend.to_owned(),
            created: self.now,
        };
        Ok(self.add_bucket(bucket))
    }

    /// Adds a bucket, which makes its nodes warm up.
    fn add_bucket(&mut self, bucket: Bucket) -> Reply {
        let location = format!("/pools/default/buckets/{}", bucket.name);
        let knobs = &self.world.knobs;
        let appears = self.now + knobs.bucket_appears;
        let loaded = appears + knobs.bucket_warm_up;
        let cluster = self.cluster_mut();
        let nodes = cluster.members.iter().filter(|member| member.is_active());
        let nodes: Vec<_> = nodes.map(|member| member.node).collect();
        cluster.buckets.push(bucket);
        for node in nodes {
            let loading = &mut self.world.nodes[node].loading;
            let earlier = loading.filter(|(_, to)| *to > self.now);
            *loading = Some(earlier.map_or((appears, loaded), |(from, to)| (from, to.max(loaded))));
        }
        let mut reply = Reply::empty(202);
        reply.headers.push(("location", location));
        reply
    }

    pub fn edit_bucket(&mut self, name: &str) -> Result<Reply, Reply> {
        let (quota, replicas) = (self.number("ramQuota"), self.number("replicaNumber"));
        let is_rebalancing = self.cluster().rebalance.is_some();
        let mut buckets = self.cluster_mut().buckets.iter_mut();
        let bucket = buckets.find(|bucket| bucket.name == name);
        let bucket = bucket.ok_or_else(no_bucket)?;
        if is_rebalancing {
            let why = "Cannot update bucket while rebalance is running.";
            return Err(Reply::text(503, why));
        }
        bucket.quota = quota.unwrap_or(bucket.quota);
        bucket.replicas = replicas.unwrap_or(bucket.replicas);
        Ok(Reply::empty(200))
    }

    pub fn delete_bucket(&mut self, name: &str) -> Result<Reply, Reply> {
        let cluster = self.cluster_mut();
        if !cluster.buckets.iter().any(|bucket| bucket.name == name) {
            return Err(no_bucket());
        }
        if cluster.rebalance.is_some() {
            let why = "Cannot delete buckets during rebalance.\r\n";
            return Err(Reply::json(503, &json!({"_": why})));
        }
        cluster.buckets.retain(|bucket| bucket.name != name);
        Ok(Reply::empty(200))
    }

    /// The nodes of a bucket, as it sees them: none at first.
    fn bucket_nodes(&self, bucket: &Bucket) -> Vec<Value> {
        let knobs = &self.world.knobs;
        let appears = bucket.created + knobs.bucket_appears;
        if self.now < appears {
            return Vec::new();
        }
        let is_warm = self.now >= appears + knobs.bucket_warm_up;
        let members = self.cluster().members.iter();
        let members = members.filter(|member| member.is_active() && member.has_data_service());
        members
            .map(|member| {
                let mut info = self.node_info(Some(member));
                if info["status"] != "unhealthy" {
                    info["status"] = json!(if is_warm { "healthy" } else { "warmup" });
                }
                info
            })
            .collect()
    }

    fn show_bucket(&self, bucket: &Bucket) -> Value {
        let nodes = self.cluster().members.len() as u64;
        let mut shown = json!({
            "name": bucket.name,
            "uuid": bucket.uuid,
            "bucketType": bucket.kind,
            "storageBackend": bucket.backend,
            "evictionPolicy": "valueOnly",
            "conflictResolutionType": "seqno",
            "numVBuckets": 1024,
            "replicaNumber": bucket.replicas,
            "quota": {"ram": bucket.quota * MIB * nodes, "rawRAM": bucket.quota * MIB},
            "basicStats": {"itemCount": self.cluster().items, "quotaPercentUsed": 0},
        });
        shown["nodes"] = json!(self.bucket_nodes(bucket));
        shown
    }

    pub fn buckets(&self, name: Option<&str>) -> Reply {
        let mut buckets: Vec<_> = self.cluster().buckets.iter().collect();
        buckets.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let Some(name) = name else {
            let shown = buckets.into_iter().map(|bucket| self.show_bucket(bucket));
            return Reply::ok(&shown.collect());
        };
        match buckets.into_iter().find(|bucket| bucket.name == name) {
            Some(bucket) => Reply::ok(&self.show_bucket(bucket)),
            None => no_bucket(),
        }
    }
}

fn no_bucket() -> Reply {
    Reply::text(404, "Requested resource not found.\r\n")
}

/// What the buckets take of each node's quota, in MB.
pub fn bucket_quota(cluster: &Cluster) -> u64 {
    cluster.buckets.iter().map(|bucket| bucket.quota).sum()
}

/// What a bucket would take of the cluster.
fn summaries(cluster: &Cluster, quota: u64) -> Value {
    let nodes = cluster.members.iter().filter(|member: &&Member| member.is_active());
    let nodes = nodes.count() as u64;
    let of = |quota: u64| i64::try_from(quota * MIB * nodes).unwrap_or(i64::MAX);
    let (total, others, this) = (of(cluster.data_quota()), of(bucket_quota(cluster)), of(quota));
    let mut shown = Map::new();
    let ram = json!({
        "total": total,
        "otherBuckets": others,
        "nodesCount": nodes,
        "perNodeMegs": quota,
        "thisAlloc": this,
        "thisUsed": 0,
        "free": total - others - this,
    });
    shown.insert("ramSummary".to_owned(), ram);
    let disk = json!({
        "total": DISK.0 * nodes,
        "otherData": DISK.1 * nodes,
        "otherBuckets": 0,
        "thisUsed": 0,
        "free": (DISK.0 - DISK.1) * nodes,
    });
    shown.insert("hddSummary".to_owned(), disk);
    Value::Object(shown)
}
