//! The protocol of cbbootstrap, shared by the API, the deployer and the agent. No I/O, no AWS, no HTTP framework.
//!
//! - [`names`]: what a cluster, a node and a UUID may be called, and the one form in which each is kept
//! - [`rules`]: what a claim, a report and a leave make of a cluster's record
//! - [`trust`]: the keys that a cluster's secret gives, and the attestations that members make with them
//! - [`wire`]: what travels between the API and its callers

pub mod names;
pub mod rules;
pub mod trust;
pub mod wire;
