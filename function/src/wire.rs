//! What travels between the API and its callers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A `cluster_id` has 1 to this many bytes.
pub const MAX_CLUSTER_ID_BYTES: usize = 1024;

/// A node's address or host name has 1 to this many bytes: the longest DNS name fits.
pub const MAX_NODE_BYTES: usize = 255;

/// A `cluster_uuid` has 1 to this many bytes; Couchbase Server's have 32.
pub const MAX_CLUSTER_UUID_BYTES: usize = 64;

/// A cluster has at most this many nodes that reported ready.
pub const MAX_NODES: usize = 1000;

/// A claim's lease has this many seconds.
pub const LEASE_SECONDS: std::ops::RangeInclusive<u64> = 30..=86_400;

/// A secret has 1 to this many bytes.
pub const MAX_SECRET_BYTES: usize = 512;

/// A request's body has at most this many bytes.
pub const MAX_BODY_BYTES: usize = 8 * 1024;

/// The body of `POST /cluster`: claim the cluster, or learn whom to join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// The name that all nodes of the cluster share.
    pub cluster_id: String,
    /// The asking node's address or host name, as the other nodes reach it.
    pub node_ip_addr_or_hostname: String,
    /// The claim lapses after so many seconds unless the node reports ready; without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u64>,
}

/// The body of `POST /cluster/ready`: the initial node has initialised the cluster, or a joiner is a member of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadyRequest {
    /// The cluster.
    pub cluster_id: String,
    /// The node that is ready.
    pub node_ip_addr_or_hostname: String,
    /// The generation that the node was told: a later one refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The UUID of the cluster that the node is a member of: another one refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uuid: Option<String>,
}

/// The body of `POST /cluster/leave`: the node is gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaveRequest {
    /// The cluster.
    pub cluster_id: String,
    /// The node that is gone.
    pub node_ip_addr_or_hostname: String,
}

/// The body of `POST /cluster/get_status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusRequest {
    /// The cluster asked about.
    pub cluster_id: String,
    /// The node to compare with the initial node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ip_addr_or_hostname: Option<String>,
}

/// The answer of every `/cluster` route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster asked about.
    pub cluster_id: String,
    /// The node that initialises the cluster, or has done so: the one to join.
    pub initial_node_ip_addr_or_hostname: String,
    /// Whether that is the asking node. `true` where the question names no node, as the original service had it.
    pub is_initial_node: bool,
    /// How far the cluster is.
    pub state: State,
    /// 1 for the first claim, one more for each takeover: the fencing token.
    pub generation: u64,
    /// When the claim lapses, unless the initial node reports ready before; while it has a lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_expires_at: Option<Timestamp>,
    /// The members that reported ready, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// The UUID that Couchbase Server gave the cluster, once reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uuid: Option<String>,
}

/// How far a cluster is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A node has claimed it and is to initialise it.
    #[default]
    Claimed,
    /// Its initial node has reported it initialised.
    Ready,
}

impl State {
    /// The name in answers and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Ready => "ready",
        }
    }
}

/// The answer of `GET /`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// `cbbootstrap`.
    pub name: String,
    /// The version of the function that answers.
    pub version: String,
    /// Where to go from here, by name: paths relative to this one.
    pub links: std::collections::BTreeMap<String, String>,
}

/// An error's body: a problem document (RFC 9457), `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status, again.
    pub status: u16,
    /// The kind of problem, in words that do not change.
    pub title: String,
    /// The kind of problem, for programs: it does not change either.
    pub code: String,
    /// This problem: what was wrong and, where that helps, what to do.
    pub detail: String,
    /// The field of the request that was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}
