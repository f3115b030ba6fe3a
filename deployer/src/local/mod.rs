//! The API as a server in this process: the function's router over an embedded database or a DynamoDB table.
//!
//! - [`server`]: connections and their limits; [`tls`]: certificates
//! - [`log`]: the request log; [`metrics`]: the counts for Prometheus
//! - [`data`]: the directory of the database

pub mod data;
pub mod log;
mod metrics;
mod server;
mod tls;

pub use log::{LogFormat, RequestLog};
pub use metrics::Metrics;
pub use server::{Server, bind, max_connections};
pub use tls::Tls;
