//! Cold starts and warm requests in Lambda: the function, the smallest possible one in Rust, the same function with the SDK's default
//! features, and one each in Python and JavaScript.

use std::time::Duration;

use anyhow::Result;
use cbbootstrap_benchmarks::{
    Bars, Report, Table, block_on,
    cold_start::{self, COUNT, Database, Function, Run, WARM},
    samples::{median, megabytes, ms, number, percentile},
};

/// Runs of each function, in turn.
const RUNS: usize = 30;

fn main() -> Result<()> {
    let functions = cold_start::functions();
    let (database, figures, round_trip) = block_on(measure(&functions));

    let mut report = Report::new("cold_start", cold_start::versions());
    report.text(format!(
        "Medians of {RUNS} runs. A run starts the function's process and waits until it asks for its first event (init), then sends \
         one claim (first request) and {WARM} more (warm). DynamoDB is a local TLS server with a fixed response, which a minimal \
         client gets in {} ms (p50). The functions trust {} certificate authorities, about as many as in Lambda; cbbootstrap reads only \
         Amazon's five and the local server's. Memory is the peak resident memory. Python uses AWS's runtime client; Node.js uses a \
         loop that does less than AWS's, which has to be compiled.",
        ms(round_trip),
        database.certificates(),
    ));
    report.table(table(&functions, &figures));
    report.plot("Init and first request of each function", &plot(&functions, &figures));
    report.targets(targets(&figures, round_trip));
    report.finish()
}

/// All runs of one function.
#[derive(Debug)]
struct Figures {
    init: Vec<Duration>,
    first: Vec<Duration>,
    /// Init and first request of the same run.
    cold: Vec<Duration>,
    warm: Vec<Duration>,
    /// In bytes.
    memory: u64,
    /// In bytes.
    zip: Option<u64>,
}

impl Figures {
    fn new(function: &Function, runs: Vec<Run>) -> Self {
        Self {
            init: runs.iter().map(|run| run.init).collect(),
            first: runs.iter().map(|run| run.first).collect(),
            cold: runs.iter().map(|run| run.init + run.first).collect(),
            memory: median(&runs.iter().map(|run| run.memory).collect::<Vec<_>>()),
            warm: runs.into_iter().flat_map(|run| run.warm).collect(),
            zip: function.zip,
        }
    }
}

async fn measure(functions: &[Function; COUNT]) -> (Database, [Figures; COUNT], Duration) {
    let database = Database::start(&cold_start::item()).await;
    let mut runs = functions.each_ref().map(|_| Vec::new());
    let mut round_trips = Vec::new();
    // The first round loads the programs into memory and does not count.
    for round in 0..=RUNS {
        eprintln!("round {round} of {RUNS}");
        for (function, runs) in functions.iter().zip(&mut runs) {
            let run = cold_start::run(function, &database).await;
            if function.is_ours {
                let update = run.update.clone().expect("it calls the database");
                round_trips.extend(database.round_trips(update, WARM).await);
            }
            if round > 0 {
                runs.push(run);
            }
        }
    }
    let mut functions = functions.iter();
    let figures =
        runs.map(|runs| Figures::new(functions.next().expect("as many functions as runs"), runs));
    (database, figures, median(&round_trips))
}

fn table(functions: &[Function], figures: &[Figures]) -> Table {
    let mut table = Table::new([
        "function",
        "init, ms",
        "first request, ms",
        "both, ms",
        "warm p50, ms",
        "warm p99, ms",
        "memory, MB",
        "binary, MB",
        "zip, MB",
    ]);
    let size = |bytes: Option<u64>| {
        bytes.map_or_else(String::new, |bytes| format!("{:.2}", megabytes(bytes)))
    };
    for (function, figures) in functions.iter().zip(figures) {
        table.row([
            function.name.to_owned(),
            ms(median(&figures.init)),
            ms(median(&figures.first)),
            ms(median(&figures.cold)),
            ms(median(&figures.warm)),
            ms(percentile(&figures.warm, 99)),
            size(Some(figures.memory)),
            size(function.binary),
            size(function.zip),
        ]);
    }
    table
}

fn plot(functions: &[Function], figures: &[Figures]) -> String {
    let mut bars = Bars::new("Init and first request, ms (logarithmic)");
    for (function, figures) in functions.iter().zip(figures) {
        let cold = median(&figures.cold);
        bars.bar(function.is_ours, function.name, cold.as_secs_f64() * 1e3, ms(cold));
    }
    bars.svg()
}

fn targets(figures: &[Figures; COUNT], round_trip: Duration) -> [(&'static str, String, bool); 6] {
    let [ours, bare, default_features, python, _] = figures;
    let cold = |figures: &Figures| median(&figures.cold).as_secs_f64();
    let warm = |figures: &Figures| median(&figures.warm).as_secs_f64() * 1e3;
    let at_most =
        |value: f64, limit: f64, unit| (format!("{}{unit}", number(value)), value <= limit);
    let at_least = |value: f64, limit| (format!("{}×", number(value)), value >= limit);
    let own_time = warm(ours) - warm(bare) - round_trip.as_secs_f64() * 1e3;
    let zip = ours.zip.map_or(f64::INFINITY, megabytes);
    [
        (
            "init and first request: at most 2 × bare `lambda_http`",
            at_most(cold(ours) / cold(bare), 2.0, "×"),
        ),
        (
            "5 × faster than with the SDK's default features",
            at_least(cold(default_features) / cold(ours), 5.0),
        ),
        ("50 × faster than Python", at_least(cold(python) / cold(ours), 50.0)),
        (
            "warm p50: at most 0.20 ms more than bare and a database call",
            at_most(own_time, 0.20, " ms"),
        ),
        ("zip: at most 2.4 MB", at_most(zip, 2.4, " MB")),
        ("memory: at most 6.5 MB", at_most(megabytes(ours.memory), 6.5, " MB")),
    ]
    .map(|(target, (measured, is_met))| (target, measured, is_met))
}
