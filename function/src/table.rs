//! The layout of the table: two items for each cluster.
//!
//! The *claim item* has the cluster ID as its key and contains the node that claimed the cluster. It stays small, so that the cost of a
//! claim does not depend on the number of members. The *members item* ([`members_key`]) exists once the cluster is ready. Claim items
//! with the first two attributes only are items of the original service, whose tables still work.
//!
//! Times are numbers, in seconds since 1970. `docs/protocol.md` says what each attribute means.

/// The default name of the table, which is the original's.
pub const DEFAULT_TABLE_NAME: &str = "cb-bootstrap";

/// The partition key (a string); there is no sort key.
pub const CLUSTER_ID: &str = "cluster_id";

// Both items. Those of the members item count once the cluster is ready.
pub const INITIAL_NODE: &str = "initial_node_ip_addr_or_hostname";
pub const RIVAL_NODE_UUID: &str = "rival_node_uuid";
/// `claimed`, `ready` or `forgotten`; of a members item, `ready` or `forgotten`. Items of the original service have none and count as
/// claimed.
pub const STATE: &str = "state";
/// Items of the original service have none and count as 1.
pub const GENERATION: &str = "generation";
/// With the generation, this identifies the claim that a members item belongs to. Items of the original service have none.
pub const CLAIMED_AT: &str = "claimed_at";
pub const CLUSTER_UUID: &str = "cluster_uuid";
pub const SECRET_HASH: &str = "secret_hash";
/// When DynamoDB may delete the item: the end of the record plus
/// [30 days](cbbootstrap_protocol::rules::KEEP_GENERATION). The members item's is never later than the claim item's.
pub const EXPIRES_AT: &str = "expires_at";
/// The number of writes of the item. Items of the original service have none.
pub const VERSION: &str = "version";

// Claim items.
pub const INITIAL_NODE_UUID: &str = "initial_node_uuid";
pub const PREVIOUS_INITIAL_NODES: &str = "previous_initial_nodes";
pub const GIVEN_UP: &str = "given_up";
pub const LEASE_EXPIRES_AT: &str = "lease_expires_at";
/// The version of the members item that the node to join was copied from.
pub const COPIED_VERSION: &str = "copied_version";
/// The first node as a member: what it reported, until a copy is made from the members item.
pub const FIRST_MEMBER: &str = "first_member";

// Members items: a map from name to member, and the attributes of a member.
pub const MEMBERS: &str = "members";
pub const REPORTED_AT: &str = "reported_at";
pub const NODE_UUID: &str = "node_uuid";
pub const AUTHORITY: &str = "authority";
pub const ATTESTATION: &str = "attestation";

/// The start of members items' keys. Cluster IDs have no spaces.
pub const MEMBERS_PREFIX: &str = "members ";

/// The key of a cluster's members item.
pub fn members_key(cluster_id: &str) -> String {
    format!("{MEMBERS_PREFIX}{cluster_id}")
}
