//! What travels between the API and its callers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A `cluster_id` has 1 to this many bytes.
pub const MAX_CLUSTER_ID_BYTES: usize = 1024;

/// A node's address or host name has 1 to this many bytes: the longest DNS name fits.
pub const MAX_NODE_BYTES: usize = 255;

/// A UUID has 1 to this many bytes; Couchbase Server's have 32.
pub const MAX_UUID_BYTES: usize = 64;

/// A cluster has at most this many members that reported ready.
pub const MAX_MEMBERS: usize = 256;

/// A claim names at most this many nodes whose claims were taken over.
pub const MAX_PREVIOUS: usize = 8;

/// A claim's lease has this many seconds.
pub const LEASE_SECONDS: std::ops::RangeInclusive<u64> = 30..=86_400;

/// A bearer token has 1 to this many bytes.
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
    /// The UUID of the node's server: tells two machines of one name apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_uuid: Option<String>,
    /// The claim may be taken over after this many seconds unless the node reports ready; without it, never.
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
    /// The UUID of the node's server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_uuid: Option<String>,
    /// The SHA-256 hash of the certificate of the authority that has signed the certificate of the node's server, as 64
    /// hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority_sha256: Option<String>,
    /// The node's proof that it knows the cluster's secret, as 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<String>,
}

/// The body of `POST /cluster/leave`: the node has left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaveRequest {
    /// The cluster.
    pub cluster_id: String,
    /// The node that has left.
    pub node_ip_addr_or_hostname: String,
    /// The UUID of the node's server: a claim that was made with it is given up only with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_uuid: Option<String>,
    /// The generation that the node was told: a later one refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
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
    /// The seconds that are left of the lease, by the service's clock. 0 once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds_left: Option<u64>,
    /// While claimed: the nodes that had the cluster before, the latest first. The server of each may be a cluster: the claim was
    /// taken over before it was reported, or the record ended because nobody asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous_initial_nodes: Vec<String>,
    /// The first 8 characters of the UUID of another server that tried to claim under the initial node's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rival_node_uuid: Option<String>,
    /// The members that reported ready and did not leave, sorted. An answer to a claim does not have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// The same members with what they reported. An answer to a claim does not have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// The UUID that Couchbase Server gave the cluster, once reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uuid: Option<String>,
}

/// A member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its address or host name.
    pub node: String,
    /// When it last reported.
    pub reported_at: Timestamp,
    /// The UUID of its server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_uuid: Option<String>,
    /// The SHA-256 hash of the certificate of the authority that has signed its server's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority_sha256: Option<String>,
    /// Its proof that it knows the cluster's secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<String>,
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
