//! Writes the recorded results into `docs/benchmarks.md`. The benchmarks do that themselves; this is for changes of the page or the
//! layout.

use std::fs;

use cbbootstrap_benchmarks::{BENCHMARKS, Report, report};

fn main() -> anyhow::Result<()> {
    let mut page = fs::read_to_string(report::page())?;
    for name in BENCHMARKS {
        page = Report::read(name)?.shown_in(&page)?;
    }
    fs::write(report::page(), page)?;
    Ok(())
}
