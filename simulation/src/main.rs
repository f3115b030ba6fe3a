//! `just simulate`: writes docs/scale.md's tables and plots.

#![expect(clippy::cast_precision_loss, reason = "all counts are far below 2^52")]

use std::time::{Duration, Instant};

use cbbootstrap_agent::pauses::Backoff;
use cbbootstrap_report::{Lines, Report, Table, samples::number};
use cbbootstrap_simulation::{
    engine::{Scenario, Simulation},
    limits::Limits,
    outcome::{Minute, Outcome},
    scenarios::{boots, one_cluster, outage},
};

const SEED: u64 = 1;

const CLUSTERS: u32 = 1_000_000;

/// Of the clusters, one of which is simulated.
const PARTS: u32 = 1_000;

fn main() -> anyhow::Result<()> {
    report_cluster()?;
    report_backoff()?;
    report_outage()?;
    report_boots()
}

fn new_report(name: &str) -> Report {
    Report::of_simulation(name, "scale.md", "just simulate")
}

fn run(name: &str, scenario: Scenario) -> Outcome {
    let since = Instant::now();
    let outcome = Simulation::run(scenario, SEED);
    eprintln!("{name}: {:.1} s", since.elapsed().as_secs_f64());
    outcome
}

/// The stack's defaults, and then each limit raised that binds.
fn settings() -> [(&'static str, Limits); 4] {
    let defaults = Limits::defaults();
    let stage = Limits { stage: defaults.account, ..defaults };
    let account = (20_000.0, 10_000.0);
    let gateway = Limits { stage: account, account, ..stage };
    let table = Limits { table: (12_000.0, 12_000.0), ..gateway };
    [
        ("the stack's defaults", defaults),
        ("`ThrottlingRateLimit=10000`, `ThrottlingBurstLimit=5000`", stage),
        ("and a quota of 20,000 requests a second", gateway),
        ("and a table warmed for 12,000 writes a second", table),
    ]
}

fn report_boots() -> anyhow::Result<()> {
    let mut table = outcome_table("limits");
    let mut plot = Lines::new("Requests a second", "minutes since the start", "requests a second");
    for (name, limits) in settings() {
        let mut scenario = boots(CLUSTERS, PARTS, limits, Backoff::DEFAULT);
        // A thousandth of these limits is less than a request.
        let Limits { concurrency, ramp, partition, .. } = limits;
        scenario.limits = Limits { concurrency, ramp, partition, ..scenario.limits };
        let mut outcome = run(name, scenario);
        let parts = f64::from(PARTS);
        add_row(&mut table, name, &mut outcome, parts);
        let minutes = (1..).zip(&outcome.minutes);
        let line = minutes.filter(|(_, minute)| minute.requests > 0);
        let line = line.map(|(at, minute)| (f64::from(at), minute.requests as f64 * parts / 60.0));
        plot.line(name.replace('`', ""), line.collect());
    }
    let mut report = new_report("scale_boots");
    report.table(table);
    report.plot("Requests a second over time, on logarithmic scales", &plot.svg());
    report.finish()
}

fn report_cluster() -> anyhow::Result<()> {
    let [defaults, raised, ..] = settings();
    let mut table = outcome_table("nodes, limits");
    for (nodes, (name, limits)) in [(256, defaults), (1_000, defaults), (1_000, raised)] {
        let name = format!("{nodes}, {name}");
        let mut outcome = run(&name, one_cluster(nodes, limits, Backoff::DEFAULT));
        add_row(&mut table, &name, &mut outcome, 1.0);
    }
    let mut report = new_report("scale_cluster");
    report.table(table);
    report.finish()
}

fn report_outage() -> anyhow::Result<()> {
    let [defaults, raised, ..] = settings();
    let mut table = outcome_table("limits");
    let mut plot = Lines::new(
        "A table throttled for ten minutes, with the stack's defaults",
        "minutes since the start",
        "responses a minute",
    );
    for (number, (name, limits)) in [defaults, raised].into_iter().enumerate() {
        let mut outcome = run(name, outage(10, limits, Backoff::DEFAULT));
        add_row(&mut table, name, &mut outcome, 10.0);
        if number == 0 {
            let minutes = || (1..).map(f64::from).zip(&outcome.minutes);
            let line = |count: fn(&Minute) -> u64| {
                let counts = minutes().map(|(at, minute)| (at, count(minute) as f64 * 10.0));
                counts.filter(|(_, count)| *count > 0.0).collect()
            };
            plot.line("200", line(|minute| minute.answers_200));
            plot.line("429", line(|minute| minute.answers_429));
            plot.line("503", line(|minute| minute.answers_503));
        }
    }
    let mut report = new_report("scale_outage");
    report.table(table);
    report.plot("Responses a minute by status, on logarithmic scales", &plot.svg());
    report.finish()
}

fn report_backoff() -> anyhow::Result<()> {
    let defaults = Limits::defaults();
    let mut table = Table::new([
        "pauses while the API fails",
        "table throttled: requests a node",
        "p99, s",
        "max, s",
        "1,000 nodes: requests a node",
        "p50, s",
        "p99, s",
    ]);
    for (name, backoff) in backoffs() {
        let mut outage = run(name, outage(10, defaults, backoff));
        let mut cluster = run(name, one_cluster(1_000, defaults, backoff));
        table.row([
            name.to_owned(),
            requests_per_node(&outage),
            seconds(outage.place_known(0.99)),
            seconds(outage.place_known(1.0)),
            requests_per_node(&cluster),
            seconds(cluster.place_known(0.5)),
            seconds(cluster.place_known(0.99)),
        ]);
    }
    let mut report = new_report("scale_backoff");
    report.table(table);
    report.finish()
}

fn backoffs() -> [(&'static str, Backoff); 8] {
    let default = Backoff::DEFAULT;
    let longest = |seconds| Backoff { longest: Duration::from_secs(seconds), ..default };
    [
        ("2 s, ± 25 %", Backoff::CONSTANT),
        ("doubling up to 15 s, equal jitter", longest(15)),
        ("**doubling up to 30 s, equal jitter**", default),
        ("up to 60 s", longest(60)),
        ("up to 120 s", longest(120)),
        ("up to 30 s, full jitter", Backoff { jitter: (0.0, 1.0), ..default }),
        ("up to 30 s, growing by half", Backoff { growth: 1.5, ..default }),
        ("up to 30 s, also for the first report", Backoff { hurries_report: false, ..default }),
    ]
}

fn outcome_table(subject: &str) -> Table {
    Table::new([
        subject,
        "first limit reached, and when",
        "429",
        "503",
        "know their role",
        "p50, s",
        "p99, s",
        "max, s",
        "requests a node",
        "dollars",
    ])
}

/// Adds the outcome of one of several equal parts.
fn add_row(table: &mut Table, name: &str, outcome: &mut Outcome, parts: f64) {
    let total = outcome.total();
    let first = outcome.first_limit().map_or("none".to_owned(), |(limit, at)| {
        format!("{}, {} s", limit.name(), number(at as f64 / 1e6))
    });
    let known = outcome.places.len() as f64 / outcome.nodes as f64 * 100.0;
    table.row([
        name.to_owned(),
        first,
        count(total.answers_429 as f64 * parts),
        count(total.answers_503 as f64 * parts),
        if known < 100.0 { format!("{} %", number(known)) } else { "all".to_owned() },
        seconds(outcome.place_known(0.5)),
        seconds(outcome.place_known(0.99)),
        seconds(outcome.place_known(1.0)),
        requests_per_node(outcome),
        number(outcome.dollars() * parts),
    ]);
}

fn requests_per_node(outcome: &Outcome) -> String {
    number(outcome.total().requests as f64 / outcome.nodes as f64)
}

fn seconds(time: Option<f64>) -> String {
    time.map_or("–".to_owned(), number)
}

/// With thousands or millions, because the last digits say nothing.
fn count(value: f64) -> String {
    match value {
        few if few < 1e4 => format!("{few:.0}"),
        thousands if thousands < 1e6 => format!("{:.0} k", thousands / 1e3),
        millions => format!("{} M", number(millions / 1e6)),
    }
}
