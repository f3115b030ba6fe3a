//! `cbbootstrap serve` compared with etcd and with a bare server; the DynamoDB capacity that requests use; and the price of a million
//! bootstraps in AWS.

#![expect(clippy::cast_precision_loss, reason = "what is counted is far below 2^52")]

mod bare;
mod cost;
mod etcd;
mod load;
mod scale;
mod table;

use std::{
    env,
    io::Write,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use anyhow::Result;
use cbbootstrap_benchmarks::{
    Lines, Report, Table, machine,
    samples::{median, ms, number, percentile},
};
use cbbootstrap_tests::{local::Local, programs};
use tempfile::tempdir;

use self::{
    bare::Bare,
    etcd::Etcd,
    load::{Kind, Load, Operation, Target},
    scale::Measurement,
};

/// Parallel clients.
const CLIENTS: [usize; 4] = [1, 16, 64, 256];

/// How long and how often each server is measured, in turn.
#[derive(Clone, Copy)]
struct Plan {
    measured: Duration,
    rounds: usize,
}

const FULL: Plan = Plan { measured: Duration::from_secs(5), rounds: 3 };

/// Measures `serve` without recording the results.
const QUICK: Plan = Plan { measured: Duration::from_millis(500), rounds: 1 };

/// Targets for the ratio to etcd's claims a second, by the number of clients.
const CLAIM_TARGETS: [(usize, f64); 3] = [(1, 1.5), (16, 4.0), (64, 4.0)];

/// The target for the ratio to etcd's reads a second.
const STATUS_TARGET: f64 = 5.0;

/// The target for the ratio to the bare server's claims and statuses a second.
const BARE_TARGET: f64 = 0.5;

fn main() -> Result<()> {
    let args: Vec<_> = env::args().skip(1).collect();
    if let [command, database] = &args[..]
        && command == bare::COMMAND
    {
        return bare::serve(database.into());
    }
    let is_quick = args.iter().any(|arg| arg == "--quick");
    let plan = if is_quick { QUICK } else { FULL };
    let comparisons = compare(plan);
    let scales = scale::measure(plan);
    let mut report = report(plan, &comparisons, &scales);
    if is_quick {
        report.print();
        return Ok(());
    }
    report.plot("Requests a second by the number of clients", &plot(&comparisons));
    add_costs(&mut report);
    report.finish()
}

/// The report on the server.
fn report(plan: Plan, comparisons: &[Comparison], scales: &[Measurement]) -> Report {
    let versions = [
        machine::version(programs::cbbootstrap(), &["--version"]),
        machine::version("etcd", &["--version"]),
    ];
    let mut report = Report::new("service", versions);
    report.text(format!(
        "`cbbootstrap serve` with its request log, and etcd. Both store their data on this disk and sync it before they respond; a \
         sync takes {} ms (median), and waiting claims share one. The load generator runs on the same {} cores. Each client sends \
         its next request on the same connection after the response. A claim is for a new cluster; in etcd, a transaction puts a \
         key that does not exist. A status is for a random cluster; in etcd, it is a linearizable read. Each measurement takes {} s \
         and is repeated {} times, alternating: rates are medians, latencies are of all requests.",
        ms(sync_time()),
        available_parallelism().map_or(1, usize::from),
        plan.measured.as_secs_f64(),
        plan.rounds,
    ));
    report.table(comparison_table(comparisons, "etcd", |all| &all.etcd));
    report.text(
        "The limit is a bare axum router over the same SQLite with the same settings, in the same run. It inserts or selects a record \
         of the same size, and shares syncs in the same way, but has no rules, validation, tokens, time limits and log.",
    );
    report.table(comparison_table(comparisons, "bare", |all| &all.bare));
    report.targets(targets(comparisons).into_iter().chain(scale::targets(scales)));
    report.details("A million clusters in the database, and 10,000 open connections", |report| {
        report.text(format!(
            "{} of the connections send requests. The others have sent one and stay open. Memory is the peak resident memory.",
            scale::CLIENTS
        ));
        report.table(scale::table(scales));
    });
    report
}

/// Measures and adds what requests cost in AWS.
fn add_costs(report: &mut Report) {
    let requests = table::requests();
    let log = cost::RequestLog::measure();
    report.details("DynamoDB capacity of a request", |report| {
        report.text(
            "A proxy counts the calls. Capacity units follow DynamoDB's rules for the item's size before and after: a write takes \
             one unit for each KB of the larger, even if its condition fails, and a consistent read one unit for each 4 KB, an \
             eventually consistent one half as much.",
        );
        report.table(table::capacity(&requests));
    });
    let bills = cost::bills(&requests, &log);
    report.details("Price of a million bootstraps", |report| cost::report(report, &bills, &log));
    report.targets(cost::targets(&bills));
}

/// The loads of one server.
struct Loads {
    claims: Load,
    statuses: Load,
}

impl Loads {
    fn measure(target: &Arc<Target>, clients: usize, time: Duration, what: &str) -> Self {
        let measured = |operation| load::load(target, operation, clients, time);
        let both =
            Self { claims: measured(Operation::Claim), statuses: measured(Operation::Status) };
        let (claims, statuses) = (both.claims.rate(), both.statuses.rate());
        eprintln!("{what}, {clients} clients: {claims:.0} claims, {statuses:.0} statuses a second");
        both
    }

    fn merge(rounds: Vec<Self>) -> Self {
        let (claims, statuses): (Vec<_>, Vec<_>) =
            rounds.into_iter().map(|both| (both.claims, both.statuses)).unzip();
        Self { claims: Load::merge(claims), statuses: Load::merge(statuses) }
    }
}

/// The loads of all servers with the same number of clients.
struct Comparison {
    clients: usize,
    ours: Loads,
    bare: Loads,
    etcd: Loads,
}

fn compare(plan: Plan) -> Vec<Comparison> {
    let data = [(); 3].map(|()| tempdir().expect("temporary directories can be created"));
    let local = Local::serve(data[0].path(), &[]);
    let database = data[1].path().join("clusters.db");
    let (bare, etcd) = (Bare::start(&database), Etcd::start(data[2].path()));
    let targets = [
        ("cbbootstrap", &local.endpoint, Kind::Api),
        ("bare", &bare.endpoint, Kind::Api),
        ("etcd", &etcd.endpoint, Kind::Etcd),
    ]
    .map(|(name, endpoint, kind)| (name, Target::new(endpoint, kind, 0)));
    let comparisons = CLIENTS.map(|clients| {
        let mut rounds = [const { Vec::new() }; 3];
        for _ in 0..plan.rounds {
            for (rounds, (name, target)) in rounds.iter_mut().zip(&targets) {
                rounds.push(Loads::measure(target, clients, plan.measured, name));
            }
        }
        let [ours, bare, etcd] = rounds.map(Loads::merge);
        Comparison { clients, ours, bare, etcd }
    });
    let sizes = [&local.database(), &database].map(|database| table::record_size(database));
    assert_eq!(sizes[0], sizes[1], "the bare server stores records of another size");
    comparisons.into()
}

fn comparison_table(
    comparisons: &[Comparison],
    other: &str,
    loads: fn(&Comparison) -> &Loads,
) -> Table {
    let mut table = Table::new([
        "clients",
        "claims a second",
        other,
        "ratio",
        "claim: p99, ms",
        other,
        "statuses a second",
        other,
        "ratio",
        "status: p99, ms",
        other,
    ]);
    for comparison in comparisons {
        let (ours, theirs) = (&comparison.ours, loads(comparison));
        let mut row = vec![comparison.clients.to_string()];
        for (ours, theirs) in [(&ours.claims, &theirs.claims), (&ours.statuses, &theirs.statuses)] {
            row.push(format!("{:.0}", ours.rate()));
            row.push(format!("{:.0}", theirs.rate()));
            row.push(number(ours.rate() / theirs.rate()));
            row.push(ms(percentile(&ours.latencies, 99)));
            row.push(ms(percentile(&theirs.latencies, 99)));
        }
        table.row(row);
    }
    table
}

fn targets(comparisons: &[Comparison]) -> Vec<(String, String, bool)> {
    let claims = CLAIM_TARGETS.iter().map(|(clients, target)| {
        let comparison = comparisons.iter().find(|comparison| comparison.clients == *clients);
        let ratio = comparison.map_or(0.0, |all| all.ours.claims.rate() / all.etcd.claims.rate());
        let noun = if *clients == 1 { "client" } else { "clients" };
        let name = format!("claims with {clients} {noun}: {target} × etcd's");
        (name, format!("{} ×", number(ratio)), ratio >= *target)
    });
    let ratios = |name: String, target: f64, ratio: fn(&Comparison) -> f64| {
        let ratios = comparisons.iter().map(ratio);
        let (least, most) = ratios.fold((f64::INFINITY, 0.0_f64), |(least, most), ratio| {
            (least.min(ratio), most.max(ratio))
        });
        (name, format!("{} to {} ×", number(least), number(most)), least >= target)
    };
    let others = [
        ratios(format!("statuses: {STATUS_TARGET} × etcd's reads"), STATUS_TARGET, |all| {
            all.ours.statuses.rate() / all.etcd.statuses.rate()
        }),
        ratios(format!("claims: {BARE_TARGET} × the bare server's"), BARE_TARGET, |all| {
            all.ours.claims.rate() / all.bare.claims.rate()
        }),
        ratios(format!("statuses: {BARE_TARGET} × the bare server's"), BARE_TARGET, |all| {
            all.ours.statuses.rate() / all.bare.statuses.rate()
        }),
    ];
    let p99 = |load: &Load| percentile(&load.latencies, 99);
    let is_lower = |all: &Comparison| {
        p99(&all.ours.claims) < p99(&all.etcd.claims)
            && p99(&all.ours.statuses) < p99(&all.etcd.statuses)
    };
    let lower = comparisons.iter().filter(|all| is_lower(all)).count();
    let latency = (
        "p99 lower than etcd's".to_owned(),
        format!("in {lower} of {} cases", comparisons.len()),
        lower == comparisons.len(),
    );
    claims.chain(others).chain([latency]).collect()
}

/// How long a sync of as many bytes as a claim writes takes (median).
fn sync_time() -> Duration {
    const PAGES: [u8; 2 * 4096] = [1; 2 * 4096];
    let mut file = tempfile::tempfile().expect("temporary files can be created");
    let mut sync = || {
        file.write_all(&PAGES).expect("a file can be written");
        let since = Instant::now();
        file.sync_data().expect("a file can be written");
        since.elapsed()
    };
    median(&(0..200).map(|_| sync()).collect::<Vec<_>>())
}

fn plot(measured: &[Comparison]) -> String {
    let line = |rate: fn(&Comparison) -> f64| {
        let points = measured.iter();
        points.map(|comparison| (comparison.clients as f64, rate(comparison))).collect()
    };
    let mut plot = Lines::new("One machine", "clients", "requests a second");
    plot.line("claims", line(|comparison| comparison.ours.claims.rate()));
    plot.line("statuses", line(|comparison| comparison.ours.statuses.rate()));
    plot.line("bare: claims", line(|comparison| comparison.bare.claims.rate()));
    plot.line("bare: statuses", line(|comparison| comparison.bare.statuses.rate()));
    plot.line("etcd: claims", line(|comparison| comparison.etcd.claims.rate()));
    plot.line("etcd: reads", line(|comparison| comparison.etcd.statuses.rate()));
    plot.svg()
}
