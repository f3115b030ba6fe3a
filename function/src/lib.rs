//! The API: a REST API that tells the nodes of a new Couchbase cluster which one initializes it, and which one to join.
//!
//! A request passes these modules, outermost first:
//!
//! - [`event`]: a Lambda event becomes an HTTP request
//! - `connection`, [`guard`]: requests to a server, and which of them are refused
//! - [`log`]: the record of the request
//! - [`api`]: the routes; [`docs`]: those of the interactive documentation; [`problem`]: the errors
//! - [`store`]: the records, in a DynamoDB [`table`] of [`item`]s or in SQLite
//!
//! The rules are in `cbbootstrap_protocol`. Feature `lambda` adds what the binary `bootstrap` needs, `sqlite` what `cbbootstrap serve`
//! needs.

pub mod api;
#[cfg(feature = "sqlite")]
pub mod connection;
pub mod docs;
pub mod event;
pub mod guard;
pub mod item;
pub mod log;
pub mod problem;
pub mod store;
pub mod table;

/// The OpenAPI 3.0.3 document of the API, served at `/swagger.yaml`.
pub const CONTRACT: &str = include_str!("../../swagger.yaml");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_has_the_version_of_the_crate() {
        let version = env!("CARGO_PKG_VERSION");
        for line in [
            format!("\n  version: {version}\n"),
            format!("\n        version: {{ type: string, example: {version} }}\n"),
        ] {
            assert!(CONTRACT.contains(&line), "swagger.yaml has no line `{}`", line.trim());
        }
    }
}
