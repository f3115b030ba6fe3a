//! How many round trips of calls a deployment waits for, one after another, and how long it takes if they are slow.

use std::time::Duration;

use cbbootstrap_benchmarks::{
    Table,
    samples::{median, seconds},
};
use cbbootstrap_tests::{
    ministack::MiniStack,
    proxy::{Fault, Proxy, Rounds},
};

use crate::{
    end::DELAY,
    tools::{self, Code, Directory, Tool},
};

/// The deployments in their order: name, tool, whether with changed code, and the most round trips.
const DEPLOYMENTS: [(&str, Tool, bool, Option<usize>); 4] = [
    ("first deploy", Tool::Ours, false, Some(12)),
    ("nothing to do", Tool::Ours, false, Some(3)),
    ("code change by `--code-only`", Tool::CodeOnly, true, Some(4)),
    ("the same code by the stack", Tool::Ours, true, None),
];

#[derive(Debug, Default)]
pub struct RoundTrips {
    time: Vec<Duration>,
    calls: Vec<usize>,
    rounds: Vec<usize>,
}

impl RoundTrips {
    /// The program's own work can only make rounds of one, so the least of all runs counts.
    fn count(&self) -> usize {
        self.rounds.iter().copied().min().expect("there are runs")
    }
}

/// All runs, in the order of [`DEPLOYMENTS`].
pub fn measure(code: &Code, changed: &Code, runs: usize) -> [RoundTrips; DEPLOYMENTS.len()] {
    let aws = MiniStack::start();
    let mut results: [RoundTrips; DEPLOYMENTS.len()] = Default::default();
    // The first run loads everything into memory and does not count.
    for run in 0..=runs {
        eprintln!("round trips: run {run} of {runs}");
        tools::prepare(&aws);
        let proxy = Proxy::start(&aws);
        proxy.fault(|_| Some(Fault::Delay(DELAY)));
        let directory = Directory::new(proxy.user());
        for ((_, tool, is_changed, _), result) in DEPLOYMENTS.into_iter().zip(&mut results) {
            directory.put(if is_changed { changed } else { code });
            let before = proxy.calls().len();
            let time = directory.deploy(tool);
            if run > 0 {
                let calls = proxy.calls().split_off(before);
                result.time.push(time);
                result.calls.push(calls.len());
                result.rounds.push(Rounds::new(&calls).count());
            }
        }
    }
    results
}

pub fn table(results: &[RoundTrips]) -> Table {
    let mut table = Table::new(["`cbbootstrap deploy --no-smoke`", "round trips", "calls", "s"]);
    for ((name, ..), result) in DEPLOYMENTS.into_iter().zip(results) {
        let calls = median(&result.calls);
        let [rounds, calls] = [result.count(), calls].map(|number| number.to_string());
        table.row([name.to_owned(), rounds, calls, seconds(median(&result.time))]);
    }
    table
}

pub fn targets(results: &[RoundTrips]) -> Vec<(String, String, bool)> {
    let limits = DEPLOYMENTS.into_iter().zip(results).filter_map(|((name, .., most), result)| {
        let (most, count) = (most?, result.count());
        Some((format!("{name}: at most {most} round trips"), count.to_string(), count <= most))
    });
    limits.collect()
}
