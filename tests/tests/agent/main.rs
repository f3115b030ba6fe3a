//! `cbbootstrap-agent` beside stand-ins for Couchbase Server, and the stand-ins themselves.

#![allow(clippy::unwrap_used)]

mod agent_kills;
mod agent_limits;
mod aws_instances;
mod cli;
mod containers;
mod couchbase;
mod couchbase_day2;
mod examples;
mod promises;
mod run;
mod sync_gateway;
mod up;
