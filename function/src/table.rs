//! The layout of the table: one item a cluster.
//!
//! The first two names are those of the original service, whose tables go on working.

/// The table's name unless a deployment chooses another; the original's.
pub const DEFAULT_TABLE_NAME: &str = "cb-bootstrap";

/// The partition key (a string); there is no sort key.
pub const CLUSTER_ID: &str = "cluster_id";

/// The node that claimed the cluster (a string).
pub const INITIAL_NODE: &str = "initial_node_ip_addr_or_hostname";

/// `claimed` or `ready` (a string). Rows of the original have none and count as claimed.
pub const STATE: &str = "state";

/// How many times the cluster was claimed (a number). Rows of the original have none and count as 1.
pub const GENERATION: &str = "generation";

/// When the cluster was claimed, by the claim that stands (a number, seconds since 1970). Rows of the original have none.
pub const CLAIMED_AT: &str = "claimed_at";

/// When the claim's lease ends (a number, seconds since 1970). A claim without it never lapses.
pub const LEASE_EXPIRES_AT: &str = "lease_expires_at";

/// The members that reported ready (a set of strings).
pub const NODES: &str = "nodes";

/// The UUID that Couchbase Server gave the cluster (a string), once reported.
pub const CLUSTER_UUID: &str = "cluster_uuid";

/// The salted hash of the cluster's secret (binary). A cluster that was claimed without one has none.
pub const SECRET_HASH: &str = "secret_hash";

/// When `DynamoDB` may delete an abandoned claim (a number, seconds since 1970). No decision relies on it.
pub const EXPIRES_AT: &str = "expires_at";
