//! The bootstrap service: a REST API over one DynamoDB table that tells the nodes of a new Couchbase cluster
//! which of them initialises it and whom the others join.
//!
//! A request goes through these files, outermost first:
//!
//! - [`event`]: the event that API Gateway or a load balancer hands to Lambda, to an HTTP request and back
//! - [`api`]: the routes; [`docs`]: those of the interactive documentation; [`problem`]: the refusals
//! - [`connection`]: requests over a connection of a server of its own; [`guard`]: what that refuses before the routes
//! - `cbbootstrap_protocol`: the rules, with no I/O in them
//! - [`store`]: the records: in one DynamoDB table, whose items are [`item`]s, or in SQLite
//! - [`log`]: the line that is logged of it
//!
//! Feature `lambda` adds what the binary `bootstrap` needs, `sqlite` what `cbbootstrap serve` needs.

pub mod table;

pub mod item;
pub mod store;

pub mod api;
#[cfg(feature = "sqlite")]
pub mod connection;
pub mod docs;
pub mod event;
pub mod guard;
pub mod log;
pub mod problem;

/// The API's contract (`OpenAPI` 3.0.3), as served at `/swagger.yaml`.
pub const CONTRACT: &str = include_str!("../../swagger.yaml");
