//! What a function in Lambda takes until it answers, and from then on: ours, the least that one in Rust can be, ours as the
//! documentation has one write it, and what others write.

use std::time::Duration;

use cbbootstrap_benchmarks::{
    Bars, Report, Samples, Table,
    cold_start::{self, Database, Function, WARM},
    samples::{ms, number},
};

/// Runs of each function, one of each in turn.
const RUNS: usize = 10;

fn main() {
    let functions = cold_start::functions();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let (database, figures, round_trip) = runtime.block_on(measure(&functions));

    let mut report = Report::new("cold_start");
    for version in cold_start::versions() {
        report.version(version);
    }
    report.say(&format!(
        "A function's process: from its start until it asks for its first event (init), with that event, a claim (first \
         request), and with {WARM} more. DynamoDB is a server on the same machine with a fixed answer, over TLS; a client that \
         does nothing else has it in {} ms (p50). {} certificates are there to be trusted, about as many as in Lambda. \
         Medians of {RUNS} runs; memory is the most that was resident; 1 MB is 10⁶ bytes. Python runs AWS's runtime client, Node \
         a loop that does less than AWS's, which would have to be compiled.",
        ms(round_trip),
        database.certificates(),
    ));
    report.table(&table(&functions, &figures));
    report.plot("Init and first request of each function", plot(&functions, &figures));
    report.table(&targets(&figures, round_trip));
    report.finish();
}

/// All runs of one function.
#[derive(Debug)]
struct Figures {
    init: Samples,
    first: Samples,
    /// Init and first request of the same run.
    cold: Samples,
    warm: Samples,
    /// In bytes.
    memory: u64,
    /// In bytes.
    zip: Option<u64>,
}

type Of<T> = [T; cold_start::COUNT];

async fn measure(functions: &Of<Function>) -> (Database, Of<Figures>, Duration) {
    let database = Database::start(&cold_start::item()).await;
    let mut runs = functions.each_ref().map(|_| Vec::new());
    let mut round_trips = Samples::default();
    // The first round brings the programs into memory, and does not count.
    for round in 0..=RUNS {
        eprintln!("round {round} of {RUNS}");
        for (function, runs) in functions.iter().zip(&mut runs) {
            let run = cold_start::run(function, &database).await;
            if function.is_ours {
                let update = run.update.clone().expect("it calls the database");
                let again = database.round_trips(update, WARM).await;
                round_trips.extend(again);
            }
            if round > 0 {
                runs.push(run);
            }
        }
    }
    let mut zips = functions.iter().map(|function| function.zip);
    let figures = runs.map(|runs| {
        let mut memory: Vec<_> = runs.iter().map(|run| run.memory).collect();
        memory.sort_unstable();
        Figures {
            init: runs.iter().map(|run| run.init).collect(),
            first: runs.iter().map(|run| run.first).collect(),
            cold: runs.iter().map(|run| run.init + run.first).collect(),
            memory: memory[memory.len().div_ceil(2) - 1],
            warm: runs.into_iter().flat_map(|run| run.warm).collect(),
            zip: zips.next().flatten(),
        }
    });
    (database, figures, round_trips.median())
}

fn table(functions: &Of<Function>, figures: &Of<Figures>) -> Table {
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
    for (function, figures) in functions.iter().zip(figures) {
        let size = |bytes: Option<u64>| bytes.map_or_else(String::new, megabytes);
        table.row([
            function.name.to_owned(),
            ms(figures.init.median()),
            ms(figures.first.median()),
            ms(figures.cold.median()),
            ms(figures.warm.median()),
            ms(figures.warm.percentile(99)),
            megabytes(figures.memory),
            size(function.binary),
            size(function.zip),
        ]);
    }
    table
}

fn plot(functions: &Of<Function>, figures: &Of<Figures>) -> String {
    let mut bars = Bars::new("Init and first request, ms (logarithmic)");
    for (function, figures) in functions.iter().zip(figures) {
        let cold = figures.cold.median();
        let value = cold.as_secs_f64() * 1000.0;
        if function.is_ours {
            bars.ours(function.name, value, ms(cold));
        } else {
            bars.other(function.name, value, ms(cold));
        }
    }
    bars.svg()
}

/// What was to be reached, and whether it was.
fn targets(figures: &Of<Figures>, round_trip: Duration) -> Table {
    let [ours, bare, default_features, python, _] = figures;
    let cold = |figures: &Figures| figures.cold.median().as_secs_f64();
    let warm = |figures: &Figures| figures.warm.median().as_secs_f64() * 1000.0;
    let at_most = |value: f64, most: f64, unit| (format!("{}{unit}", number(value)), value <= most);
    let at_least = |value: f64, least| (format!("{}×", number(value)), value >= least);
    let own = warm(ours) - warm(bare) - round_trip.as_secs_f64() * 1000.0;
    let zip = ours.zip.map_or(f64::INFINITY, in_megabytes);

    let mut table = Table::new(["target", "measured", "met"]);
    for (target, (measured, is_met)) in [
        (
            "init and first request: at most 3 × bare `lambda_http`",
            at_most(cold(ours) / cold(bare), 3.0, "×"),
        ),
        (
            "at least 5 × faster than with the SDK's default features",
            at_least(cold(default_features) / cold(ours), 5.0),
        ),
        ("at least 50 × faster than Python", at_least(cold(python) / cold(ours), 50.0)),
        (
            "warm p50: at most 0.15 ms over bare and one call to the database",
            at_most(own, 0.15, " ms"),
        ),
        ("zip: at most 2.6 MB", at_most(zip, 2.6, " MB")),
        ("memory: at most 8 MB", at_most(in_megabytes(ours.memory), 8.0, " MB")),
    ] {
        let met = if is_met { "yes" } else { "no" };
        table.row([target, &measured, met]);
    }
    table
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2}", in_megabytes(bytes))
}

#[expect(clippy::cast_precision_loss, reason = "it is shown to two digits")]
fn in_megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
