//! Helpers of the end-to-end tests, listed in `tests/README.md`.
//!
//! Everything listens on loopback addresses, except for containers, which have their own networks.

pub mod agent;
pub mod artifact;
pub mod boto;
pub mod browser;
pub mod cli;
pub mod couchbase;
pub mod debian;
pub mod docker;
pub mod dynamodb;
pub mod ec2;
pub mod front;
pub mod history;
pub mod http;
pub mod instance;
pub mod local;
pub mod ministack;
pub mod moto;
pub mod network;
pub mod pattern;
pub mod pods;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod python;
pub mod recording;
pub mod server;
pub mod terminal;
pub mod workload;
