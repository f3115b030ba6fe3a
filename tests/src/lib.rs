//! What the end-to-end tests share: the built programs, an AWS stand-in and a proxy that makes it fail, Couchbase Servers and the
//! agents beside them, a local deployment, machines with Docker, a terminal, a browser, a clean environment to run all of them in,
//! and a judge of what clients saw.
//!
//! Everything uses only 127.0.0.1, except for containers, which have their own networks. Every process that is started here is
//! stopped by its id.

pub mod agent;
pub mod artifact;
pub mod boto;
pub mod browser;
pub mod cli;
pub mod couchbase;
pub mod docker;
pub mod dynamodb;
pub mod front;
pub mod history;
pub mod http;
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
