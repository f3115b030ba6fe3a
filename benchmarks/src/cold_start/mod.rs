//! What the benchmark `cold_start` compares, and what it plays to it: Lambda's runtime API, and DynamoDB over TLS.
//!
//! All of that runs on one thread, so that of two cores one is the function's.

mod database;
mod functions;
mod run;
mod runtime_api;

pub use self::{
    database::Database,
    functions::{COUNT, Function, functions, versions},
    run::{Run, WARM, item, run},
};
