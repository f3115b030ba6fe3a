//! The layout of the table: two items a cluster.
//!
//! The *claim item* has the cluster's id as its key and says whose the cluster is. It stays small, so that a claim costs the same
//! however many members there are. The *members item* ([`members_key`]) is made when the cluster becomes ready and holds its
//! members. Claim items with the first two attributes only are rows of the original service, whose tables go on working.

/// The table's name unless a deployment chooses another; the original's.
pub const DEFAULT_TABLE_NAME: &str = "cb-bootstrap";

/// The partition key (a string); there is no sort key.
pub const CLUSTER_ID: &str = "cluster_id";

/// The node whose claim stands; once the cluster is ready, the one to join (a string). Both items have it; of a ready cluster the
/// members item's counts.
pub const INITIAL_NODE: &str = "initial_node_ip_addr_or_hostname";

/// The UUID of that node's server when it claimed (a string).
pub const INITIAL_NODE_UUID: &str = "initial_node_uuid";

/// The nodes whose claims were taken over, the latest first (a list of strings).
pub const PREVIOUS_INITIAL_NODES: &str = "previous_initial_nodes";

/// The UUID of another server that tried to claim under the initial node's name (a string). Both items have it.
pub const RIVAL_NODE_UUID: &str = "rival_node_uuid";

/// Whether the initial node has given its claim up (a Boolean, claim item).
pub const GIVEN_UP: &str = "given_up";

/// `claimed`, `ready` or `forgotten` (a string); of the members item, `ready` or `forgotten`. Rows of the original have none and
/// count as claimed.
pub const STATE: &str = "state";

/// How many times the cluster was claimed (a number). Rows of the original have none and count as 1. Both items have it.
pub const GENERATION: &str = "generation";

/// When the claim was made that stands (a number, seconds since 1970). Rows of the original have none. Both items have it:
/// together with the generation it says which claim a members item belongs to.
pub const CLAIMED_AT: &str = "claimed_at";

/// When the claim's lease ends (a number, seconds since 1970). A claim without it never lapses.
pub const LEASE_EXPIRES_AT: &str = "lease_expires_at";

/// The UUID that Couchbase Server gave the cluster (a string), once reported. Both items have it.
pub const CLUSTER_UUID: &str = "cluster_uuid";

/// The salted hash of the cluster's token (binary). A cluster that was claimed without one has none. Both items have it.
pub const SECRET_HASH: &str = "secret_hash";

/// When DynamoDB may delete the item (a number, seconds since 1970): the end of the record and
/// [30 days](cbbootstrap_protocol::rules::KEEP_GENERATION). Both items have it; the members item's is never the later one.
pub const EXPIRES_AT: &str = "expires_at";

/// Counts the writes of the item (a number). Rows of the original have none.
pub const VERSION: &str = "version";

/// The version of the members item that the claim item's node was copied from (a number).
pub const COPIED_VERSION: &str = "copied_version";

/// The initial node as a member (a map): what it reported, until a copy was made from the members item.
pub const FIRST_MEMBER: &str = "first_member";

/// The members that reported ready and did not leave, by name (a map of maps). Only members items have it.
pub const MEMBERS: &str = "members";

/// When a member last reported (a number, seconds since 1970).
pub const REPORTED_AT: &str = "reported_at";

/// The UUID of a member's server (a string).
pub const NODE_UUID: &str = "node_uuid";

/// The SHA-256 hash of the certificate of the authority that has signed a member's certificate (binary).
pub const AUTHORITY: &str = "authority";

/// A member's proof that it knows the cluster's secret (binary).
pub const ATTESTATION: &str = "attestation";

/// What the keys of members items begin with. Cluster ids have no spaces.
pub const MEMBERS_PREFIX: &str = "members ";

/// The key of a cluster's members item.
pub fn members_key(cluster_id: &str) -> String {
    format!("{MEMBERS_PREFIX}{cluster_id}")
}
