//! What the benchmarks share: figures out of samples, and a report of them that goes to the terminal, into `results/`, and into
//! `docs/benchmarks.md`, so that no figure there is typed by hand.
//!
//! Each benchmark is one command, `cargo bench --workspace --bench NAME`, and measures all that it compares in the same run.

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
