//! The local deployment: the API on this machine, by the same function binary as in AWS.
//!
//! A request goes through these files:
//!
//! - [`front`]: HTTP, in the place of API Gateway; [`gateway`]: requests to events, answers to responses
//! - [`host`]: as many function processes as requests overlap, in the place of Lambda
//! - [`process`]: one function process; [`runtime_api`]: what it asks for work
//! - [`access`]: what the function logs of a request, in short
//! - [`database`]: the embedded `DynamoDB` that the function calls
//!
//! Nothing here prints: what there is to say goes to [`ServiceOptions::on_event`].

mod access;
mod database;
mod front;
mod gateway;
mod host;
mod process;
mod runtime_api;
#[cfg(test)]
mod tests;

pub use access::Served;
pub use database::Database;
pub use front::{Service, ServiceOptions, bind};
pub use host::Event;

use std::time::Duration;

/// How long one invocation of the function may take; the same as in AWS.
pub const FUNCTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The AWS account that events and names pretend to come from.
const ACCOUNT_ID: &str = "000000000000";

/// The function's name, in its environment and its events.
const FUNCTION_NAME: &str = "cbbootstrap";

/// The region that the function believes to be in.
const REGION: &str = "us-east-1";
