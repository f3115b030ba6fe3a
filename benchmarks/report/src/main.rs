//! Writes the recorded results into the pages in `docs/`. Benchmarks and the simulation do that themselves; this is for changes of a page
//! or the layout.

use std::fs;

use cbbootstrap_report::{Report, report::REPORTS};

fn main() -> anyhow::Result<()> {
    for name in REPORTS {
        let report = Report::read(name)?;
        let page = report.page();
        fs::write(&page, report.shown_in(&fs::read_to_string(&page)?)?)?;
    }
    Ok(())
}
