//! What travels between the API and its callers.

use serde::{Deserialize, Serialize};

/// A `cluster_id` has 1 to this many bytes.
pub const MAX_CLUSTER_ID_BYTES: usize = 1024;

/// A node's address or host name has 1 to this many bytes: the longest DNS name fits.
pub const MAX_NODE_BYTES: usize = 255;

/// A request's body has at most this many bytes.
pub const MAX_BODY_BYTES: usize = 8 * 1024;

/// The body of `POST /cluster`: claim the cluster, or learn whom to join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// The name that all nodes of the cluster share.
    pub cluster_id: String,
    /// The asking node's address or host name, as the other nodes reach it.
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
