//! What the benchmarks share: statistics, plots and reports.
//!
//! Each benchmark is one command, `just bench NAME`, and measures all that it compares in the same run.

pub mod cold_start;
pub mod machine;
pub mod plot;
pub mod report;
pub mod samples;

pub use self::{
    plot::{Bars, Lines},
    report::{Report, Table},
    samples::Samples,
};

pub const BENCHMARKS: [&str; 4] = ["cold_start", "deploy", "service", "agent"];

/// Runs a future on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be created").block_on(future)
}
