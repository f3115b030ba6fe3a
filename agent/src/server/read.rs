//! Reading a server's state.

use std::time::Duration;

use cbbootstrap_cli::certificates;
use cbbootstrap_protocol::names::{Node, Uuid};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use ureq::{http::StatusCode, tls::Certificate};

use super::{Quotas, Server};
use crate::http::{self, CallError};

/// A server's description of itself, which needs no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pools {
    /// The UUID of its cluster; `None` if it is not provisioned.
    pub uuid: Option<Uuid>,
    pub version: String,
    pub is_enterprise: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnInfo {
    /// Changes each time the node joins a cluster, leaves one or is reset.
    #[serde(rename = "nodeUUID", default, deserialize_with = "valid_uuid")]
    pub uuid: Option<Uuid>,
    /// The memory in bytes that the server may use: it knows its container's limit.
    pub memory_total: u64,
    #[serde(flatten)]
    pub quotas: Quotas,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Membership {
    #[serde(rename = "active")]
    Active,
    /// The node was added, or is marked for recovery, and waits for a rebalance.
    #[serde(rename = "inactiveAdded")]
    Added,
    #[serde(other)]
    FailedOver,
}

/// How a node that was failed over is taken in again by the next rebalance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recovery {
    #[default]
    #[serde(alias = "")]
    None,
    /// With the data that it still has.
    Delta,
    /// It gets all its data from the other nodes.
    #[serde(other)]
    Full,
}

/// A node's health, as the asked server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Healthy,
    /// It answers, and loads its data.
    Warmup,
    #[serde(other)]
    Unhealthy,
}

/// A node, as a member of its cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// Its address or host name, without the port.
    #[serde(rename = "hostname", deserialize_with = "host")]
    pub name: String,
    /// Its name for rebalances.
    #[serde(rename = "otpNode")]
    pub otp: String,
    #[serde(rename = "nodeUUID", default, deserialize_with = "valid_uuid")]
    pub uuid: Option<Uuid>,
    #[serde(rename = "clusterMembership")]
    pub membership: Membership,
    #[serde(rename = "recoveryType", default)]
    pub recovery: Recovery,
    #[serde(rename = "status")]
    pub health: Health,
    /// A server that does not report it counts as up for long.
    #[serde(default = "unknown_uptime", deserialize_with = "seconds")]
    pub uptime: Duration,
    /// Whether it is the server that was asked.
    #[serde(rename = "thisNode", default)]
    pub is_asked: bool,
    /// Community Edition has no server groups.
    #[serde(rename = "serverGroup")]
    pub group: Option<String>,
    /// Its address for clients outside the cluster's network.
    #[serde(rename = "alternateAddresses", default, deserialize_with = "external_host")]
    pub alternate_address: Option<String>,
    /// The size of its data on disk, if it reports one.
    #[serde(rename = "interestingStats", default, deserialize_with = "disk_size")]
    pub disk_bytes: Option<u64>,
    /// An arbiter has none.
    pub services: Option<Vec<String>>,
}

impl NodeInfo {
    /// The asked node, active and healthy, in models and tests.
    pub fn healthy(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            otp: format!("ns_1@{name}"),
            name,
            uuid: None,
            membership: Membership::Active,
            recovery: Recovery::None,
            health: Health::Healthy,
            uptime: Duration::from_hours(1),
            is_asked: true,
            group: None,
            alternate_address: None,
            disk_bytes: None,
            services: None,
        }
    }

    /// Whether it has the data service. A node whose server does not report its services may have it.
    pub fn has_data_service(&self) -> bool {
        self.services.as_ref().is_none_or(|services| services.iter().any(|it| it == "kv"))
    }

    pub fn is_well(&self) -> bool {
        self.membership == Membership::Active && self.health == Health::Healthy
    }

    pub fn is_failed_over(&self) -> bool {
        self.membership == Membership::FailedOver
    }

    /// Whether it was failed over and is marked to be recovered by the next rebalance.
    pub fn is_recovering(&self) -> bool {
        self.recovery != Recovery::None
    }

    /// Whether it was failed over, also if it recovers.
    pub fn was_failed_over(&self) -> bool {
        self.is_failed_over() || self.is_recovering()
    }
}

/// A cluster, as a member sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub uuid: Uuid,
    pub nodes: Vec<NodeInfo>,
    /// Whether each node has its share of the data.
    pub is_balanced: bool,
    pub is_rebalancing: bool,
    pub buckets: Vec<String>,
    pub quotas: Quotas,
    /// The smallest number of replicas of a bucket; `None` if there are no buckets. It is read only while a node is failed over or
    /// recovers.
    pub fewest_replicas: Option<u32>,
}

impl View {
    /// A cluster without buckets, in models and tests.
    pub fn balanced(uuid: Uuid, nodes: Vec<NodeInfo>) -> Self {
        Self {
            uuid,
            nodes,
            is_balanced: true,
            is_rebalancing: false,
            buckets: Vec::new(),
            quotas: Quotas::default(),
            fewest_replicas: None,
        }
    }

    /// The nodes, by their names for rebalances.
    pub fn memberships(&self) -> Vec<(String, Membership)> {
        self.nodes.iter().map(|node| (node.otp.clone(), node.membership)).collect()
    }

    /// Whether all data has copies elsewhere if this many nodes lose theirs.
    pub fn can_lose(&self, nodes: usize) -> bool {
        self.fewest_replicas.is_none_or(|replicas| replicas as usize >= nodes)
    }

    /// The number of nodes that were failed over, including those that recover.
    pub fn count_failed_over(&self) -> usize {
        self.nodes.iter().filter(|node| node.was_failed_over()).count()
    }

    pub fn this(&self) -> Option<&NodeInfo> {
        self.nodes.iter().find(|node| node.is_asked)
    }

    /// The nodes besides the asked one.
    pub fn others(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter(|node| !node.is_asked)
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The node of this name at the API.
    pub fn member(&self, node: &Node) -> Option<&NodeInfo> {
        self.node(&node.host().to_string())
    }
}

/// The rebalance that runs, or the last one.
#[derive(Debug, Deserialize)]
pub struct Rebalance {
    #[serde(rename = "type")]
    task: String,
    subtype: Option<String>,
    /// While it runs.
    #[serde(rename = "rebalanceId")]
    pub id: Option<String>,
    /// The path of its report, or of an earlier one if its orchestrator died.
    #[serde(rename = "lastReportURI")]
    last_report: Option<String>,
    /// In percent, while it runs.
    pub progress: Option<f64>,
    #[serde(rename = "errorMessage")]
    pub error: Option<String>,
}

impl Rebalance {
    /// Whether a node was failed over gracefully, after which the cluster is not balanced.
    pub fn is_graceful_failover(&self) -> bool {
        self.subtype.as_deref() == Some("gracefulFailover")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RebalanceReport {
    #[serde(default)]
    rebalance_id: String,
    #[serde(default)]
    completion_message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Group {
    pub name: String,
    pub uri: String,
    #[serde(rename = "addNodeURI")]
    pub add_node_uri: String,
    #[serde(default)]
    pub nodes: Vec<GroupNode>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupNode {
    /// Its name for rebalances.
    #[serde(rename = "otpNode")]
    pub otp: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Groups {
    pub groups: Vec<Group>,
    /// The path to change which nodes are in which group. It names the revision that is changed.
    pub uri: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PoolsAnswer {
    /// An empty list while the server belongs to no cluster.
    pub uuid: Value,
    #[serde(default)]
    pub pools: Vec<Value>,
    implementation_version: String,
    #[serde(default)]
    is_enterprise: bool,
}

impl PoolsAnswer {
    /// `None` unless the answer is clear: a server that may be provisioned must not be taken for blank.
    pub fn pools(self) -> Option<Pools> {
        let is_blank = self.pools.is_empty() && self.uuid.as_array().is_some_and(Vec::is_empty);
        let uuid = self.uuid.as_str().and_then(|text| Uuid::new(text).ok());
        let (version, is_enterprise) = (self.implementation_version, self.is_enterprise);
        (is_blank != uuid.is_some()).then_some(Pools { uuid, version, is_enterprise })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClusterAnswer {
    nodes: Vec<NodeInfo>,
    #[serde(default)]
    balanced: bool,
    #[serde(default)]
    rebalance_status: String,
    #[serde(default)]
    bucket_names: Vec<BucketName>,
    #[serde(flatten)]
    quotas: Quotas,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BucketName {
    bucket_name: String,
}

impl ClusterAnswer {
    pub fn view(self, uuid: Uuid) -> View {
        View {
            uuid,
            nodes: self.nodes,
            is_balanced: self.balanced,
            is_rebalancing: !matches!(self.rebalance_status.as_str(), "" | "none" | "notRunning"),
            buckets: self.bucket_names.into_iter().map(|bucket| bucket.bucket_name).collect(),
            quotas: self.quotas,
            fewest_replicas: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bucket {
    #[serde(default)]
    replica_number: u32,
}

#[derive(Deserialize)]
pub(super) struct Authority {
    #[serde(default)]
    pub pem: String,
}

fn valid_uuid<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Uuid>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    Ok(text.and_then(|text| Uuid::new(text).ok()))
}

fn host<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::deserialize(from).map(host_in)
}

/// The server writes the number as text.
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let seconds = String::deserialize(from)?.parse();
    Ok(seconds.map_or_else(|_| unknown_uptime(), Duration::from_secs))
}

fn external_host<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let addresses = Value::deserialize(from)?;
    Ok(addresses["external"]["hostname"].as_str().map(|host| host_in(host.to_owned())))
}

fn disk_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Ok(Value::deserialize(from)?["couch_docs_actual_disk_size"].as_u64())
}

fn unknown_uptime() -> Duration {
    Duration::MAX
}

/// `10.0.0.1` for `10.0.0.1:8091`, and `::1` for `[::1]:8091`, in the canonical form.
pub(super) fn host_in(hostname: String) -> String {
    Node::new(&hostname).map_or(hostname, |node| node.host().to_string())
}

impl Server {
    pub fn pools(&self) -> Result<Pools, CallError> {
        let answer: PoolsAnswer = self.get("/pools").map_err(|error| match error {
            CallError::Refused(StatusCode::NOT_FOUND, why) => {
                CallError::Unexpected(format!("{} is not a Couchbase Server: {why}", self.url))
            }
            error => error,
        })?;
        answer.pools().ok_or_else(|| {
            let url = &self.url;
            CallError::Unexpected(format!(
                "{url}/pools does not tell whether the server belongs to a cluster"
            ))
        })
    }

    /// The server's cluster; `None` if it is not provisioned.
    pub fn cluster(&self) -> Result<Option<View>, CallError> {
        self.pools()?.uuid.map_or(Ok(None), |uuid| self.view(uuid))
    }

    /// The same, for a known UUID of the cluster.
    pub fn view(&self, uuid: Uuid) -> Result<Option<View>, CallError> {
        let answer: ClusterAnswer = match self.get("/pools/default") {
            Err(CallError::Refused(StatusCode::NOT_FOUND, _)) => return Ok(None),
            other => other?,
        };
        let mut view = answer.view(uuid);
        if view.count_failed_over() > 0 {
            view.fewest_replicas = self.fewest_replicas()?;
        }
        Ok(Some(view))
    }

    /// The smallest number of replicas of a bucket; `None` if there are no buckets.
    pub fn fewest_replicas(&self) -> Result<Option<u32>, CallError> {
        let buckets: Vec<Bucket> = self.get("/pools/default/buckets?skipMap=true")?;
        Ok(buckets.into_iter().map(|bucket| bucket.replica_number).min())
    }

    /// Whether the server belongs to a cluster. Needs no credentials.
    pub fn is_provisioned(&self) -> Result<bool, CallError> {
        match self.pools() {
            Ok(pools) => Ok(pools.uuid.is_some()),
            Err(CallError::Unauthorized) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The certificates of the authorities that the server trusts, its own among them. Unreadable ones are skipped. Needs no
    /// credentials.
    pub fn authorities(&self) -> Result<Vec<Certificate<'static>>, CallError> {
        let answer: Vec<Authority> = self.get("/pools/default/trustedCAs")?;
        let parsed = answer.iter().map(|authority| certificates::parse(authority.pem.as_bytes()));
        Ok(parsed.flatten().flat_map(|certificates| http::for_client(&certificates)).collect())
    }

    pub fn rebalance(&self) -> Result<Option<Rebalance>, CallError> {
        let tasks: Vec<Rebalance> = self.get("/pools/default/tasks")?;
        Ok(tasks.into_iter().find(|task| task.task == "rebalance"))
    }

    /// Whether someone has stopped the rebalance with this ID, which was the last one.
    pub fn was_stopped(&self, rebalance_id: &str) -> Result<bool, CallError> {
        let Some(path) = self.rebalance()?.and_then(|last| last.last_report) else {
            return Ok(false);
        };
        let report: RebalanceReport = self.get(&path)?;
        // Only the message tells.
        Ok(report.rebalance_id == rebalance_id
            && report.completion_message.contains("stopped by user"))
    }

    /// How many nodes the cluster has failed over by itself since its last rebalance.
    pub fn auto_failovers(&self) -> Result<u64, CallError> {
        let settings: Value = self.get("/settings/autoFailover")?;
        Ok(settings["count"].as_u64().unwrap_or_default())
    }

    pub fn own_info(&self) -> Result<OwnInfo, CallError> {
        self.get("/nodes/self")
    }

    pub fn groups(&self) -> Result<Groups, CallError> {
        self.get("/pools/default/serverGroups")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_recovery_is_a_full_one() {
        for (text, recovery) in [
            ("", Recovery::None),
            ("none", Recovery::None),
            ("delta", Recovery::Delta),
            ("full", Recovery::Full),
            ("Delta", Recovery::Full),
            ("new", Recovery::Full),
        ] {
            assert_eq!(Recovery::deserialize(json!(text)).unwrap(), recovery, "{text}");
        }
    }

    /// The form in the recordings.
    #[test]
    fn alternate_address_is_read_without_its_ports() {
        let node = |addresses| {
            let mut node = json!({
                "hostname": "10.0.0.1:8091", "otpNode": "ns_1@10.0.0.1", "clusterMembership": "active", "status": "healthy",
            });
            node["alternateAddresses"] = addresses;
            NodeInfo::deserialize(node).unwrap().alternate_address
        };
        let external = json!({"external": {"hostname": "203.0.113.6", "ports": {"mgmt": 30091}}});
        assert_eq!(node(external).as_deref(), Some("203.0.113.6"));
        assert_eq!(node(json!({})), None);
        assert_eq!(node(json!(null)), None);
    }

    #[test]
    fn host_in_a_hostname_has_no_port() {
        for (hostname, name) in [
            ("10.0.0.1:8091", "10.0.0.1"),
            ("a.example:9000", "a.example"),
            ("[fd00::1]:8091", "fd00::1"),
            ("Node1.CB.test:8091", "node1.cb.test"),
        ] {
            assert_eq!(host_in(hostname.to_owned()), name);
        }
    }
}
