//! What the benchmarks share. Each benchmark is one command, `just bench NAME`, and measures all that it compares in the same run.

pub mod cold_start;

pub use cbbootstrap_report::{Bars, Lines, Report, Table, machine, price, samples, stack};

/// Runs a future on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be created").block_on(future)
}
