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
//! [`table`] is what deployers share with the service; it comes without its dependencies (`default-features = false`). The features
//! `dynamodb` and `sqlite` add the stores, `service` the API, `lambda` what the function's binary needs, and `signer` what callers
//! sign requests with.

pub mod table;

#[cfg(feature = "dynamodb")]
pub mod item;
#[cfg(any(feature = "dynamodb", feature = "sqlite"))]
pub mod store;

#[cfg(feature = "signer")]
pub mod signer;

#[cfg(feature = "service")]
pub mod api;
#[cfg(feature = "sqlite")]
pub mod connection;
#[cfg(feature = "service")]
pub mod docs;
#[cfg(feature = "service")]
pub mod event;
#[cfg(feature = "service")]
pub mod guard;
#[cfg(feature = "service")]
pub mod log;
#[cfg(feature = "service")]
pub mod problem;

/// The API's contract (`OpenAPI` 3.0.3), as served at `/swagger.yaml`.
pub const CONTRACT: &str = include_str!("../../swagger.yaml");
