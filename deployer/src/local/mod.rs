//! The API on this machine, in this process: the function's router over an embedded database, or over a DynamoDB table.
//!
//! A request goes through these files:
//!
//! - [`server`]: connections and their limits; [`tls`]: certificates
//! - [`log`]: the line that is logged of it, and the [`metrics`]
//! - `cbbootstrap_function::guard`: what is refused before the API is asked
//!
//! [`data`] is the directory that keeps the database.

pub mod data;
pub mod log;
mod metrics;
mod server;
mod tls;

pub use log::{LogFormat, RequestLog};
pub use metrics::Metrics;
pub use server::{Server, bind, max_connections};
pub use tls::Tls;
