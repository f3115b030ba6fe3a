//! The bodies of requests and responses. `swagger.yaml` describes them.

use std::{collections::BTreeMap, ops::RangeInclusive};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub const MAX_CLUSTER_ID_BYTES: usize = 1024;

/// Enough for the longest DNS name.
pub const MAX_NODE_BYTES: usize = 255;

/// Those of Couchbase Server have 32 bytes.
pub const MAX_UUID_BYTES: usize = 64;

pub const MAX_MEMBERS: usize = 256;

/// The most previous initial nodes of a claim.
pub const MAX_PREVIOUS: usize = 8;

pub const LEASE_SECONDS: RangeInclusive<u64> = 30..=86_400;

pub const MAX_SECRET_BYTES: usize = 512;

pub const MAX_BODY_BYTES: usize = 8 * 1024;

/// The body of every request about a cluster. Each route ignores the fields of the others.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Request {
    pub cluster_id: String,
    /// The node as the other nodes reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_ip_addr_or_hostname: Option<String>,
    /// The UUID of the node's server: distinguishes two machines with one name. A claim made with a UUID is given up only with the
    /// same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_uuid: Option<String>,
    /// A claim without a lease never expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u64>,
    /// A report or leave of another generation than the current one is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The cluster that the node belongs to. A report of another one is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_uuid: Option<String>,
    /// The fingerprint of the authority that signed the server's certificate, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_sha256: Option<String>,
    /// In hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation: Option<String>,
}

/// The response of every `/cluster` route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub cluster_id: String,
    /// The node that initializes the cluster; of a ready cluster, the one to join.
    pub initial_node_ip_addr_or_hostname: String,
    /// Whether that is the calling node. `true` if the request names none, as in the original service.
    pub is_initial_node: bool,
    pub state: State,
    /// 1 for the first claim, one more for each later one: the fencing token.
    pub generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_expires_at: Option<Timestamp>,
    /// By the API's clock; 0 once the lease has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_seconds_left: Option<u64>,
    /// While claimed: the nodes that had the cluster before, the latest first. The server of each may be a cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous_initial_nodes: Vec<String>,
    /// The first 8 characters of the UUID of another server that tried to claim under the first node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rival_node_uuid: Option<String>,
    /// The members that reported ready and did not leave, sorted. Responses to claims have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// The same members with what they reported. Responses to claims have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// The UUID that Couchbase Server gave the cluster, once reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_uuid: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub node: String,
    pub reported_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_uuid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Claimed,
    Ready,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Ready => "ready",
        }
    }
}

/// The response of `GET /`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// `cbbootstrap`.
    pub name: String,
    pub version: String,
    /// Paths relative to this one, by name.
    pub links: BTreeMap<String, String>,
}

/// The body of an error: a problem document (RFC 9457), `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub status: u16,
    /// The kind of problem, in words that do not change.
    pub title: String,
    /// The kind of problem, for programs. It does not change.
    pub code: String,
    /// What went wrong this time, and what to do.
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}
