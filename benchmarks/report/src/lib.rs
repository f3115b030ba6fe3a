//! What benchmarks and the simulation share: statistics, plots, prices and reports.

pub mod machine;
pub mod plot;
pub mod price;
pub mod report;
pub mod samples;
pub mod stack;

pub use self::{
    plot::{Bars, Lines},
    report::{Report, Table},
};
