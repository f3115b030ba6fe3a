//! How a first deployment divides its time between calls and its own work.

use std::time::{Duration, Instant};

use cbbootstrap_benchmarks::{
    Table,
    samples::{median, seconds},
};
use cbbootstrap_tests::{
    ministack::MiniStack,
    proxy::{Call, Proxy},
};

use crate::tools::{self, Code, Directory, Tool};

/// The two fastest tools.
const TOOLS: [Tool; 2] = [Tool::Ours, Tool::CargoLambda];

/// Deploys through a proxy that records the times of calls.
pub fn table(code: &Code, runs: usize) -> Table {
    let aws = MiniStack::start();
    let mut table =
        Table::new(["tool", "first deploy, s", "calls", "with a pending call, s", "without, s"]);
    for tool in TOOLS {
        let (mut counts, mut took) = (Vec::new(), Vec::new());
        let (mut busy, mut idle) = (Vec::new(), Vec::new());
        // The first round loads everything into memory and does not count.
        for round in 0..=runs {
            tools::prepare(&aws);
            let proxy = Proxy::start(&aws);
            let directory = Directory::new(proxy.user());
            directory.put(code);
            let time = directory.deploy(tool);
            if round > 0 {
                let calls = proxy.calls();
                let pending = pending_time(&calls);
                counts.push(calls.len());
                took.push(time);
                busy.push(pending);
                idle.push(time.saturating_sub(pending));
            }
        }
        table.row([
            format!("`{}`", tool.name()),
            seconds(median(&took)),
            median(&counts).to_string(),
            seconds(median(&busy)),
            seconds(median(&idle)),
        ]);
    }
    table
}

/// How long at least one call was pending.
fn pending_time(calls: &[Call]) -> Duration {
    let mut spans: Vec<_> =
        calls.iter().filter_map(|call| Some((call.asked, call.answered?))).collect();
    spans.sort_unstable();
    let mut sum = Duration::ZERO;
    let mut until: Option<Instant> = None;
    for (from, to) in spans {
        let from = until.map_or(from, |until| from.max(until));
        sum += to.saturating_duration_since(from);
        until = until.max(Some(to));
    }
    sum
}
