//! Simulates many nodes that start at once: the protocol's rules, the agent's decisions and its pauses, against the limits of AWS.
//!
//! - [`limits`]: API Gateway, Lambda and DynamoDB
//! - [`node`]: a node's agent
//! - [`engine`]: the events
//! - [`usage`]: the calls and units of a request
//! - [`outcome`]: what is counted
//!
//! A simulation is deterministic: the same scenario and seed have the same outcome.

#![expect(clippy::cast_precision_loss, reason = "all counts are far below 2^52")]

pub mod engine;
pub mod limits;
pub mod node;
pub mod outcome;
pub mod scenarios;
pub mod usage;
