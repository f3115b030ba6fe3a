//! `cbbootstrap serve` with many clusters in its database and many open connections.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use cbbootstrap_benchmarks::{
    Table,
    samples::{median, megabytes, ms, number, percentile},
};
use cbbootstrap_tests::{local::Local, process};
use tempfile::tempdir;

use crate::{
    Loads, Plan,
    load::{self, Kind, Load, Operation, Target, is_whole},
    table,
};

/// Clients that send requests.
pub const CLIENTS: usize = 16;

/// Clusters in the database, and open connections. The first is the empty server. `serve` accepts 10,000 connections by default.
const SCALES: [(u64, usize); 6] = [
    (0, CLIENTS),
    (10_000, CLIENTS),
    (100_000, CLIENTS),
    (1_000_000, CLIENTS),
    (0, 10_000),
    (1_000_000, 10_000),
];

/// The target for the p99 with everything, compared with the empty server's.
const P99_TARGET: f64 = 1.5;

/// The targets for the memory with a million clusters, and with 10,000 connections, in MB.
const MEMORY_TARGETS: [(&str, usize, f64); 3] =
    [("a million clusters", 3, 50.0), ("10,000 connections", 4, 150.0), ("both", 5, 150.0)];

/// The measurements of one server.
pub struct Measurement {
    loads: Loads,
    /// The server's peak, in MB.
    memory: f64,
}

/// Measures each of [`SCALES`].
pub fn measure(plan: Plan) -> Vec<Measurement> {
    let files = rlimit::increase_nofile_limit(11_000).expect("the limit can be read");
    assert!(files >= 11_000, "raise the limit of open files to 11,000 (`ulimit -Hn`)");
    let mut rounds: [Vec<Measurement>; SCALES.len()] = Default::default();
    for _ in 0..plan.rounds {
        for (measured, (clusters, connections)) in rounds.iter_mut().zip(SCALES) {
            measured.push(measure_one(plan.measured, clusters, connections));
        }
    }
    rounds.into_iter().map(Measurement::merge).collect()
}

fn measure_one(time: Duration, clusters: u64, connections: usize) -> Measurement {
    let data = tempdir().expect("temporary directories can be created");
    if clusters > 0 {
        let mut local = Local::serve(data.path(), &[]);
        load::send_one(&Target::new(&local.endpoint, Kind::Api, 0), Operation::Claim);
        local.stop("TERM");
        table::fill(&local.database(), clusters);
    }
    let local = Local::serve(data.path(), &[]);
    let mut idle = Idle::open(&local.endpoint, connections - CLIENTS);
    let target = Target::new(&local.endpoint, Kind::Api, clusters);
    let what = format!("{clusters} clusters, {connections} connections");
    let loads = Loads::measure(&target, CLIENTS, time, &what);
    let memory = megabytes(process::peak_memory(local.id()));
    idle.send_requests();
    Measurement { loads, memory }
}

impl Measurement {
    fn merge(rounds: Vec<Self>) -> Self {
        let memory = rounds.iter().map(|round| round.memory).fold(0.0, f64::max);
        Self { loads: Loads::merge(rounds.into_iter().map(|round| round.loads).collect()), memory }
    }
}

/// Connections that are kept open. The server closes them after 20 s without a request.
struct Idle(Vec<TcpStream>);

impl Idle {
    fn open(endpoint: &str, connections: usize) -> Self {
        let address = endpoint.strip_prefix("http://").expect("the endpoint is local HTTP");
        let connect = |_| {
            let mut stream = TcpStream::connect(address).expect("the server accepts connections");
            send_request(&mut stream);
            stream
        };
        Self((0..connections).map(connect).collect())
    }

    /// Sends another request on each, which shows that all are open.
    fn send_requests(&mut self) {
        self.0.iter_mut().for_each(send_request);
    }
}

fn send_request(stream: &mut TcpStream) {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    stream.write_all(REQUEST).expect("connections are kept");
    let (mut response, mut buffer) = (Vec::new(), [0; 4096]);
    while !is_whole(&response) {
        let read = stream.read(&mut buffer).expect("connections are kept");
        assert!(read > 0, "connections are kept");
        response.extend_from_slice(&buffer[..read]);
    }
}

pub fn table(measured: &[Measurement]) -> Table {
    let mut table = Table::new([
        "clusters",
        "open connections",
        "claims a second",
        "claim: p50, ms",
        "claim: p99, ms",
        "statuses a second",
        "status: p50, ms",
        "status: p99, ms",
        "memory, MB",
    ]);
    for ((clusters, connections), Measurement { loads, memory }) in SCALES.iter().zip(measured) {
        let mut row = vec![clusters.to_string(), connections.to_string()];
        for load in [&loads.claims, &loads.statuses] {
            row.push(format!("{:.0}", load.rate()));
            row.push(ms(median(&load.latencies)));
            row.push(ms(percentile(&load.latencies, 99)));
        }
        row.push(number(*memory));
        table.row(row);
    }
    table
}

pub fn targets(measured: &[Measurement]) -> Vec<(String, String, bool)> {
    let (empty, full) = (&measured[0], &measured[SCALES.len() - 1]);
    let slower = |load: fn(&Loads) -> &Load| {
        let p99 = |at: &Measurement| percentile(&load(&at.loads).latencies, 99).as_secs_f64();
        p99(full) / p99(empty)
    };
    let (claims, statuses) = (slower(|loads| &loads.claims), slower(|loads| &loads.statuses));
    let p99 = (
        format!(
            "p99 with a million clusters and 10,000 connections: at most {P99_TARGET} × the empty server's"
        ),
        format!("claims {} ×, statuses {} ×", number(claims), number(statuses)),
        claims.max(statuses) <= P99_TARGET,
    );
    let memory = MEMORY_TARGETS.map(|(what, scale, most)| {
        let memory = measured[scale].memory;
        (
            format!("memory with {what}: at most {most} MB"),
            format!("{} MB", number(memory)),
            memory <= most,
        )
    });
    [p99].into_iter().chain(memory).collect()
}
