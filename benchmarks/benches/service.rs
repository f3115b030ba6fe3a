//! How many requests a second the local deployment answers and how soon, with more clients and with more clusters in its table;
//! what a request costs of DynamoDB; and what a million bootstraps cost in AWS.

#![expect(
    clippy::cast_precision_loss,
    reason = "what is counted is far below 2^52"
)]

#[path = "service/cost.rs"]
mod cost;
#[path = "service/load.rs"]
mod load;
#[path = "service/table.rs"]
mod table;

use std::{
    io::Write,
    path::Path,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use cbbootstrap_benchmarks::{Lines, Report, Samples, Table, machine, samples::ms};
use cbbootstrap_tests::{artifact, local::Local, programs};
use tempfile::{tempdir, tempdir_in};

use self::load::{Ask, Load, Target};

/// Clients that ask at once.
const CLIENTS: [usize; 5] = [1, 4, 16, 64, 256];

/// Clusters in the table, before requests are measured.
const SIZES: [u64; 4] = [0, 10_000, 100_000, 1_000_000];

/// Clients that ask while the table grows.
const AT_A_SIZE: usize = 16;

/// How long each kind of request is measured.
const MEASURED: Duration = Duration::from_secs(5);

/// Requests a second that the local deployment is to answer on two cores.
const TARGET: f64 = 1000.0;

fn main() {
    let zip = artifact::released_zip();
    let over_clients = over_clients(&zip);
    let over_sizes = over_sizes(&zip);
    let (sync, in_memory) = (sync(), in_memory(&zip));
    let requests = table::requests();
    let said = cost::said(&zip);

    let mut report = Report::new("service");
    report.version(machine::version(programs::cbbootstrap(), &["--version"]));
    report.say(&format!(
        "A local deployment with the released function, in {} function processes, as many as there are cores; the load \
         generator shares these cores. Each client waits for its answer before it asks again, over a connection that it \
         keeps. A claim is one of a new cluster, a status one of any cluster that is there.",
        available_parallelism().map_or(1, usize::from)
    ));
    report.table(&loads("clients", &over_clients));
    report.say(&verdict(&over_clients, sync, in_memory.as_ref()));
    report.plot("requests a second over clients", plot(&over_clients));
    report.folded("With up to a million clusters in the table", |report| {
        report.say(&format!(
            "With {AT_A_SIZE} clients, over a table that has so many clusters at first:"
        ));
        report.table(&loads("clusters", &over_sizes));
    });
    report.folded("What a request takes of DynamoDB", |report| {
        report.say(
            "Calls as counted on their way there; capacity units by DynamoDB's rules for the items that were found there \
             before and after (a write has one unit for each KB of the larger, also when its condition fails; a consistent \
             read one for each 4 KB).",
        );
        report.table(&table::capacity(&requests));
    });
    report.folded("What a million bootstraps cost", |report| {
        cost::report(report, &requests, &said);
    });
    report.finish();
}

/// Both kinds of requests, measured in the same situation.
struct Both {
    situation: u64,
    claims: Load,
    statuses: Load,
}

impl Both {
    fn measure(target: &Arc<Target>, clients: usize, situation: u64) -> Self {
        let measured = |ask| load::load(target, ask, clients, MEASURED);
        let both = Self {
            situation,
            claims: measured(Ask::Claims),
            statuses: measured(Ask::Statuses),
        };
        let (claims, statuses) = (both.claims.rate(), both.statuses.rate());
        eprintln!("{situation}: {claims:.0} claims, {statuses:.0} statuses a second");
        both
    }
}

fn deployment(data: &Path, zip: &Path) -> Local {
    let zip = zip.display().to_string();
    Local::with(data, &["--no-smoke", "--function-zip", &zip])
}

fn over_clients(zip: &Path) -> Vec<Both> {
    let data = tempdir().expect("temporary directories can be made");
    let local = deployment(data.path(), zip);
    let target = Target::new(&local.endpoint, 0);
    CLIENTS
        .map(|clients| Both::measure(&target, clients, clients as u64))
        .into()
}

fn over_sizes(zip: &Path) -> Vec<Both> {
    let measure = |size| {
        let data = tempdir().expect("temporary directories can be made");
        if size > 0 {
            let mut local = deployment(data.path(), zip);
            load::one(&Target::new(&local.endpoint, 0), Ask::Claims);
            local.stop("TERM");
            table::fill(data.path(), size);
        }
        let local = deployment(data.path(), zip);
        Both::measure(&Target::new(&local.endpoint, size), AT_A_SIZE, size)
    };
    SIZES.map(measure).into()
}

fn loads(situation: &str, measured: &[Both]) -> Table {
    let mut table = Table::new([
        situation,
        "claims a second",
        "claim: p50, ms",
        "claim: p99, ms",
        "statuses a second",
        "status: p50, ms",
        "status: p99, ms",
    ]);
    for both in measured {
        let mut row = vec![both.situation.to_string()];
        for load in [&both.claims, &both.statuses] {
            row.push(format!("{:.0}", load.rate()));
            row.push(ms(load.latencies.median()));
            row.push(ms(load.latencies.percentile(99)));
        }
        table.row(row);
    }
    table
}

fn verdict(measured: &[Both], sync: Duration, in_memory: Option<&Load>) -> String {
    let most = |rate: fn(&Both) -> f64| measured.iter().map(rate).fold(0.0, f64::max);
    let rates = [
        ("statuses", most(|both| both.statuses.rate())),
        ("claims", most(|both| both.claims.rate())),
    ];
    let words = rates.map(|(what, rate)| {
        let met = if rate >= TARGET { "met" } else { "missed" };
        format!("{met} for {what} ({rate:.0})")
    });
    let mut verdict = format!(
        "The target, {TARGET} requests a second on two cores, is {}. A claim is on the disk before it is answered, one after \
         the other: this disk takes {} ms to sync one",
        words.join(" and "),
        ms(sync)
    );
    if let Some(load) = in_memory {
        let (rate, p50) = (load.rate(), ms(load.latencies.median()));
        let more = format!(
            "; with the table in a file system in memory, {AT_A_SIZE} clients make {rate:.0} claims a second (p50 {p50} ms)"
        );
        verdict.push_str(&more);
    }
    verdict + "."
}

/// How long it takes until what was written is on the disk: the median of as much as a claim writes.
fn sync() -> Duration {
    const PAGES: [u8; 2 * 4096] = [1; 2 * 4096];
    let mut file = tempfile::tempfile().expect("temporary files can be made");
    let mut sync = || {
        file.write_all(&PAGES).expect("a file can be written");
        let since = Instant::now();
        file.sync_data().expect("a file can be written");
        since.elapsed()
    };
    (0..200).map(|_| sync()).collect::<Samples>().median()
}

/// Claims where there is no disk; none where there is no such file system.
fn in_memory(zip: &Path) -> Option<Load> {
    let data = tempdir_in("/dev/shm").ok()?;
    let local = deployment(data.path(), zip);
    let target = Target::new(&local.endpoint, 0);
    Some(load::load(&target, Ask::Claims, AT_A_SIZE, MEASURED))
}

fn plot(measured: &[Both]) -> String {
    let line = |rate: fn(&Both) -> f64| {
        let points = measured.iter();
        points
            .map(|both| (both.situation as f64, rate(both)))
            .collect()
    };
    let mut plot = Lines::new("The local deployment", "clients", "requests a second");
    plot.line("claims", line(|both| both.claims.rate()));
    plot.line("statuses", line(|both| both.statuses.rate()));
    plot.svg()
}
