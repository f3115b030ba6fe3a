//! Where the time of a first deployment goes: to the stand-in, or to the tool.

use std::time::{Duration, Instant};

use cbbootstrap_benchmarks::{Samples, Table, samples::seconds};
use cbbootstrap_tests::{
    ministack::MiniStack,
    proxy::{Call, Proxy},
};

use crate::{
    end,
    tools::{self, Code, Directory, Tool},
};

/// Those of interest: ours, and the one that is quickest at it after ours.
const TOOLS: [Tool; 2] = [Tool::Ours, Tool::CargoLambda];

/// A table of medians over so many first deployments, through a proxy that keeps the time.
pub fn table(code: &Code, runs: usize) -> Table {
    let aws = MiniStack::start();
    let mut table =
        Table::new(["tool", "first deploy, s", "calls", "calls under way, s", "none under way, s"]);
    for tool in TOOLS {
        let (mut took, mut busy, mut idle) =
            (Samples::default(), Samples::default(), Samples::default());
        let mut counts = Vec::new();
        // The first round brings everything into memory, and does not count.
        for round in 0..=runs {
            tools::prepare(&aws);
            let proxy = Proxy::start(&aws);
            let directory = Directory::of(proxy.user());
            directory.put(code);
            let time = directory.deploy(tool);
            if round > 0 {
                let calls = proxy.calls();
                let under_way = under_way(&calls);
                counts.push(calls.len());
                took.push(time);
                busy.push(under_way);
                idle.push(time.saturating_sub(under_way));
            }
        }
        table.row([
            format!("`{}`", tool.name()),
            seconds(took.median()),
            end::median(&counts).to_string(),
            seconds(busy.median()),
            seconds(idle.median()),
        ]);
    }
    table
}

/// How long at least one of them was under way.
fn under_way(calls: &[Call]) -> Duration {
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
