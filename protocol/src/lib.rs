//! The protocol of cbbootstrap, shared by the API, the deployer and the agent. No I/O, no AWS, no HTTP framework.
//!
//! - [`names`]: valid names of clusters, nodes and UUIDs, each in one canonical form
//! - [`rules`]: what a claim, a report and a leave do to a cluster's record
//! - [`trust`]: the keys derived from a cluster secret, and the attestations made with them
//! - [`wire`]: the bodies of requests and responses

pub mod names;
pub mod rules;
pub mod trust;
pub mod wire;
