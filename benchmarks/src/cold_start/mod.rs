//! Functions to compare, and what they run against: Lambda's runtime API, and DynamoDB over TLS.
//!
//! Both run on one thread, so that on two cores the function has one.

mod database;
mod functions;
mod run;
mod runtime_api;

pub use self::{
    database::Database,
    functions::{COUNT, Function, functions, ours, versions},
    run::{Run, WARM, item, run},
};
