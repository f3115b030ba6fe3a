//! `cbbootstrap serve` compared with etcd; the DynamoDB capacity that requests use; and the price of a million bootstraps in AWS.

#![expect(clippy::cast_precision_loss, reason = "what is counted is far below 2^52")]

mod cost;
mod etcd;
mod load;
mod table;

use std::{
    io::Write,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use anyhow::Result;
use cbbootstrap_benchmarks::{
    Lines, Report, Samples, Table, machine,
    samples::{ms, number},
};
use cbbootstrap_tests::{local::Local, programs};
use tempfile::tempdir;

use self::{
    etcd::Etcd,
    load::{Kind, Load, Operation, Target},
};

/// Parallel clients.
const CLIENTS: [usize; 4] = [1, 16, 64, 256];

/// Measurements of each server, in turn.
const ROUNDS: usize = 3;

/// Clusters in the database before the measurement.
const SIZES: [u64; 4] = [0, 10_000, 100_000, 1_000_000];

/// Clients of each database size.
const SIZE_CLIENTS: usize = 16;

/// The duration of a measurement.
const MEASURED: Duration = Duration::from_secs(5);

/// Targets for the ratio to etcd's claims a second, by the number of clients.
const CLAIM_TARGETS: [(usize, f64); 3] = [(1, 1.5), (16, 4.0), (64, 4.0)];

/// The target for the ratio to etcd's reads a second.
const STATUS_TARGET: f64 = 5.0;

fn main() -> Result<()> {
    let comparisons = compare_with_etcd();
    let sizes = measure_sizes();
    let sync = sync_time();
    let requests = table::requests();
    let log = cost::RequestLog::measure();

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
         and is repeated {ROUNDS} times, alternating: rates are medians, latencies are of all requests.",
        ms(sync),
        available_parallelism().map_or(1, usize::from),
        MEASURED.as_secs(),
    ));
    report.table(comparison_table(&comparisons));
    report.plot("Requests a second by the number of clients", &plot(&comparisons));
    let bills = cost::bills(&requests, &log);
    report.targets([targets(&comparisons), cost::targets(&bills)].concat());
    report.details("Up to a million clusters in the database", |report| {
        report.text(format!("With {SIZE_CLIENTS} clients."));
        report.table(size_table(&sizes));
    });
    report.details("DynamoDB capacity of a request", |report| {
        report.text(
            "A proxy counts the calls. Capacity units follow DynamoDB's rules for the item's size before and after: a write takes \
             one unit for each KB of the larger, even if its condition fails, and a consistent read one unit for each 4 KB, an \
             eventually consistent one half as much.",
        );
        report.table(table::capacity(&requests));
    });
    report.details("Price of a million bootstraps", |report| cost::report(report, &bills, &log));
    report.finish()
}

/// The loads of one server.
struct Loads {
    claims: Load,
    statuses: Load,
}

impl Loads {
    fn measure(target: &Arc<Target>, clients: usize, what: &str) -> Self {
        let measured = |operation| load::load(target, operation, clients, MEASURED);
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

/// The loads of both servers with the same number of clients.
struct Comparison {
    clients: usize,
    ours: Loads,
    etcd: Loads,
}

fn compare_with_etcd() -> Vec<Comparison> {
    let data = [(); 2].map(|()| tempdir().expect("temporary directories can be created"));
    let (local, etcd) = (Local::serve(data[0].path(), &[]), Etcd::start(data[1].path()));
    let ours = Target::new(&local.endpoint, Kind::Api, 0);
    let theirs = Target::new(&etcd.endpoint, Kind::Etcd, 0);
    let measure = |clients| {
        let rounds = (0..ROUNDS).map(|_| {
            let ours = Loads::measure(&ours, clients, "cbbootstrap");
            (ours, Loads::measure(&theirs, clients, "etcd"))
        });
        let (ours, theirs) = rounds.unzip();
        Comparison { clients, ours: Loads::merge(ours), etcd: Loads::merge(theirs) }
    };
    CLIENTS.map(measure).into()
}

fn measure_sizes() -> Vec<(u64, Loads)> {
    let measure = |size| {
        let data = tempdir().expect("temporary directories can be created");
        if size > 0 {
            let mut local = Local::serve(data.path(), &[]);
            load::send_one(&Target::new(&local.endpoint, Kind::Api, 0), Operation::Claim);
            local.stop("TERM");
            table::fill(&local.database(), size);
        }
        let local = Local::serve(data.path(), &[]);
        let target = Target::new(&local.endpoint, Kind::Api, size);
        (size, Loads::measure(&target, SIZE_CLIENTS, &format!("{size} clusters")))
    };
    SIZES.map(measure).into()
}

fn comparison_table(measured: &[Comparison]) -> Table {
    let mut table = Table::new([
        "clients",
        "claims a second",
        "etcd",
        "ratio",
        "claim: p99, ms",
        "etcd",
        "statuses a second",
        "etcd",
        "ratio",
        "status: p99, ms",
        "etcd",
    ]);
    for Comparison { clients, ours, etcd } in measured {
        let mut row = vec![clients.to_string()];
        for (ours, etcd) in [(&ours.claims, &etcd.claims), (&ours.statuses, &etcd.statuses)] {
            row.push(format!("{:.0}", ours.rate()));
            row.push(format!("{:.0}", etcd.rate()));
            row.push(format!("{:.1}", ours.rate() / etcd.rate()));
            row.push(ms(ours.latencies.percentile(99)));
            row.push(ms(etcd.latencies.percentile(99)));
        }
        table.row(row);
    }
    table
}

fn size_table(measured: &[(u64, Loads)]) -> Table {
    let mut table = Table::new([
        "clusters",
        "claims a second",
        "claim: p50, ms",
        "claim: p99, ms",
        "statuses a second",
        "status: p50, ms",
        "status: p99, ms",
    ]);
    for (size, both) in measured {
        let mut row = vec![size.to_string()];
        for load in [&both.claims, &both.statuses] {
            row.push(format!("{:.0}", load.rate()));
            row.push(ms(load.latencies.median()));
            row.push(ms(load.latencies.percentile(99)));
        }
        table.row(row);
    }
    table
}

fn targets(comparisons: &[Comparison]) -> Vec<(String, String, bool)> {
    let claims = CLAIM_TARGETS.iter().map(|(clients, target)| {
        let comparison = comparisons.iter().find(|comparison| comparison.clients == *clients);
        let ratio =
            comparison.map_or(0.0, |both| both.ours.claims.rate() / both.etcd.claims.rate());
        let noun = if *clients == 1 { "client" } else { "clients" };
        let name = format!("claims with {clients} {noun}: {target} × etcd's");
        (name, format!("{} ×", number(ratio)), ratio >= *target)
    });
    let ratios =
        comparisons.iter().map(|both| both.ours.statuses.rate() / both.etcd.statuses.rate());
    let (least, most) = ratios
        .fold((f64::INFINITY, 0.0_f64), |(least, most), ratio| (least.min(ratio), most.max(ratio)));
    let statuses = (
        format!("statuses: {STATUS_TARGET} × etcd's reads"),
        format!("{} to {} ×", number(least), number(most)),
        least >= STATUS_TARGET,
    );
    let p99 = |load: &Load| load.latencies.percentile(99);
    let is_lower = |both: &Comparison| {
        p99(&both.ours.claims) < p99(&both.etcd.claims)
            && p99(&both.ours.statuses) < p99(&both.etcd.statuses)
    };
    let lower = comparisons.iter().filter(|both| is_lower(both)).count();
    let latency = (
        "p99 lower than etcd's".to_owned(),
        format!("in {lower} of {} cases", comparisons.len()),
        lower == comparisons.len(),
    );
    claims.chain([statuses, latency]).collect()
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
    (0..200).map(|_| sync()).collect::<Samples>().median()
}

fn plot(measured: &[Comparison]) -> String {
    let line = |rate: fn(&Comparison) -> f64| {
        let points = measured.iter();
        points.map(|comparison| (comparison.clients as f64, rate(comparison))).collect()
    };
    let mut plot = Lines::new("One machine", "clients", "requests a second");
    plot.line("claims", line(|comparison| comparison.ours.claims.rate()));
    plot.line("statuses", line(|comparison| comparison.ours.statuses.rate()));
    plot.line("etcd: claims", line(|comparison| comparison.etcd.claims.rate()));
    plot.line("etcd: reads", line(|comparison| comparison.etcd.statuses.rate()));
    plot.svg()
}
