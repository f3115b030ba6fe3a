//! How many requests a second a server of one machine answers and how soon, beside etcd, with more clients and with more clusters in
//! its database; what a request costs of DynamoDB; and what a million bootstraps cost in AWS.

#![expect(clippy::cast_precision_loss, reason = "what is counted is far below 2^52")]

#[path = "service/cost.rs"]
mod cost;
#[path = "service/etcd.rs"]
mod etcd;
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
use tempfile::tempdir;

use self::{
    etcd::Etcd,
    load::{Ask, Kind, Load, Target},
};

/// Clients that ask at once.
const CLIENTS: [usize; 4] = [1, 16, 64, 256];

/// How often both are measured, in turn. The median of the rates counts.
const ROUNDS: usize = 3;

/// Clusters in the database, before requests are measured.
const SIZES: [u64; 4] = [0, 10_000, 100_000, 1_000_000];

/// Clients that ask while the database grows.
const AT_A_SIZE: usize = 16;

/// How long each kind of request is measured.
const MEASURED: Duration = Duration::from_secs(5);

/// How many times as many claims a second as etcd the server is to make, with so many clients.
const CLAIMS_TARGET: [(usize, f64); 3] = [(1, 1.5), (16, 4.0), (64, 4.0)];

/// How many times as many statuses as etcd's reads.
const STATUSES_TARGET: f64 = 5.0;

fn main() {
    let over_clients = over_clients();
    let over_sizes = over_sizes();
    let sync = sync();
    let requests = table::requests();
    let said = cost::said(&artifact::released_zip());

    let mut report = Report::new("service");
    report.version(machine::version(programs::cbbootstrap(), &["--version"]));
    report.version(machine::version("etcd", &["--version"]));
    report.say(&format!(
        "`cbbootstrap serve`, logging each request, beside etcd, both with their data on this disk and synced before they answer, \
         {ROUNDS} times in turn for {} s each; the rate is the median of those, the latency that of all requests. The load generator \
         shares these {} cores. Each client waits for its answer before it asks again, over a connection that it keeps. A claim is \
         one of a new cluster, for etcd one transaction that puts a key unless it is there; a status is one of any cluster that is \
         there, for etcd a linearizable read.",
        MEASURED.as_secs(),
        available_parallelism().map_or(1, usize::from)
    ));
    report.table(&beside(&over_clients));
    report.say(&verdict(&over_clients, sync));
    report.plot("requests a second over clients", plot(&over_clients));
    report.folded("With up to a million clusters in the database", |report| {
        report.say(&format!(
            "With {AT_A_SIZE} clients, over a database that has so many clusters at first:"
        ));
        report.table(&loads(&over_sizes));
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
    claims: Load,
    statuses: Load,
}

impl Both {
    fn measure(target: &Arc<Target>, clients: usize, what: &str) -> Self {
        let measured = |ask| load::load(target, ask, clients, MEASURED);
        let both = Self { claims: measured(Ask::Claims), statuses: measured(Ask::Statuses) };
        let (claims, statuses) = (both.claims.rate(), both.statuses.rate());
        eprintln!("{what}, {clients} clients: {claims:.0} claims, {statuses:.0} statuses a second");
        both
    }

    /// The loads of several rounds as one.
    fn of(rounds: Vec<Self>) -> Self {
        let (claims, statuses): (Vec<_>, Vec<_>) =
            rounds.into_iter().map(|both| (both.claims, both.statuses)).unzip();
        Self { claims: Load::of(claims), statuses: Load::of(statuses) }
    }
}

/// So many clients of both.
struct Beside {
    clients: usize,
    ours: Both,
    etcd: Both,
}

fn server(data: &Path) -> Local {
    Local::serve(data, &[])
}

fn over_clients() -> Vec<Beside> {
    let data = [(); 2].map(|()| tempdir().expect("temporary directories can be made"));
    let (local, etcd) = (server(data[0].path()), Etcd::start(data[1].path()));
    let ours = Target::new(&local.endpoint, Kind::Api, 0);
    let theirs = Target::new(&etcd.endpoint, Kind::Etcd, 0);
    let measure = |clients| {
        let rounds = (0..ROUNDS).map(|_| {
            let ours = Both::measure(&ours, clients, "cbbootstrap");
            (ours, Both::measure(&theirs, clients, "etcd"))
        });
        let (ours, theirs) = rounds.unzip();
        Beside { clients, ours: Both::of(ours), etcd: Both::of(theirs) }
    };
    CLIENTS.map(measure).into()
}

fn over_sizes() -> Vec<(u64, Both)> {
    let measure = |size| {
        let data = tempdir().expect("temporary directories can be made");
        if size > 0 {
            let mut local = server(data.path());
            load::one(&Target::new(&local.endpoint, Kind::Api, 0), Ask::Claims);
            local.stop("TERM");
            table::fill(&local.database(), size);
        }
        let local = server(data.path());
        let target = Target::new(&local.endpoint, Kind::Api, size);
        (size, Both::measure(&target, AT_A_SIZE, &format!("{size} clusters")))
    };
    SIZES.map(measure).into()
}

fn beside(measured: &[Beside]) -> Table {
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
    for Beside { clients, ours, etcd } in measured {
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

fn loads(measured: &[(u64, Both)]) -> Table {
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

/// Which targets are met.
fn verdict(measured: &[Beside], sync: Duration) -> String {
    let met = |is_met: bool| if is_met { "met" } else { "missed" };
    let mut words = Vec::new();
    for (clients, target) in CLAIMS_TARGET {
        let found = measured.iter().find(|beside| beside.clients == clients);
        let ratio = found.map_or(0.0, |both| both.ours.claims.rate() / both.etcd.claims.rate());
        words.push(format!(
            "{target} × etcd's claims at {clients} clients: {} ({ratio:.1})",
            met(ratio >= target)
        ));
    }
    let ratios = measured.iter().map(|both| both.ours.statuses.rate() / both.etcd.statuses.rate());
    let least = ratios.fold(f64::INFINITY, f64::min);
    words.push(format!(
        "{STATUSES_TARGET} × its reads: {} ({least:.1} at the least)",
        met(least >= STATUSES_TARGET)
    ));
    let p99 = |load: &Load| load.latencies.percentile(99);
    let is_sooner = measured.iter().all(|both| {
        p99(&both.ours.claims) < p99(&both.etcd.claims)
            && p99(&both.ours.statuses) < p99(&both.etcd.statuses)
    });
    words.push(format!("a lower p99: {}", met(is_sooner)));
    format!(
        "Targets: {}. Claims that wait together share one sync; this disk takes {} ms for one (median).",
        words.join("; "),
        ms(sync)
    )
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

fn plot(measured: &[Beside]) -> String {
    let line = |rate: fn(&Beside) -> f64| {
        let points = measured.iter();
        points.map(|beside| (beside.clients as f64, rate(beside))).collect()
    };
    let mut plot = Lines::new("One machine", "clients", "requests a second");
    plot.line("claims", line(|both| both.ours.claims.rate()));
    plot.line("statuses", line(|both| both.ours.statuses.rate()));
    plot.line("etcd: claims", line(|both| both.etcd.claims.rate()));
    plot.line("etcd: reads", line(|both| both.etcd.statuses.rate()));
    plot.svg()
}
