//! The bootstrap service: a REST API over one `DynamoDB` table that tells the nodes of a new Couchbase cluster
//! which of them initialises it and whom the others join.
//!
//! A request goes through these files, outermost first:
//!
//! - [`event`]: what API Gateway hands to Lambda, to an HTTP request and back
//! - [`api`]: the routes; [`docs`]: those of the contract's page; [`problem`]: how they say no
//! - [`protocol`]: the rules, with no I/O in them
//! - [`store`]: the one table; [`item`]: its items as records
//! - [`log`]: the line that is logged of it
//!
//! [`wire`] and [`table`] are what callers and deployers share with the service; they come without its dependencies
//! (`default-features = false`). The feature `records` adds [`protocol`] and [`item`], and `signer` what callers sign requests with.

pub mod table;

#[cfg(feature = "records")]
pub mod item;

#[cfg(feature = "signer")]
pub mod signer;

#[cfg(feature = "service")]
pub mod api;
#[cfg(feature = "service")]
pub mod docs;
#[cfg(feature = "service")]
pub mod event;
#[cfg(feature = "service")]
pub mod log;
#[cfg(feature = "service")]
pub mod problem;
#[cfg(feature = "service")]
pub mod store;

/// The API's contract (`OpenAPI` 3.0.3), as served at `/swagger.yaml`.
pub const CONTRACT: &str = include_str!("../../swagger.yaml");
