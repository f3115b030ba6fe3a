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

/// When `DynamoDB` may delete an abandoned claim (a number, seconds since 1970). No decision relies on it.
pub const EXPIRES_AT: &str = "expires_at";
