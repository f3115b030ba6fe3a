//! Deployments with `cbbootstrap` and with other tools: how long they take, and how soon each notices the end of the stack's change.

mod end;
mod profile;
mod round_trips;
mod tools;

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Result;
use cbbootstrap_benchmarks::{
    Bars, Report, Table, machine,
    samples::{median, megabytes, ms, number, seconds},
};
use cbbootstrap_tests::{ministack::MiniStack, programs, python};

use self::{
    end::{EndOfStack, Waiter},
    round_trips::RoundTrips,
    tools::{Code, Directory, Tool},
};

/// Runs of each tool, in turn.
const RUNS: usize = 7;

/// Runs of `cbbootstrap --help`.
const STARTS: usize = 50;

/// To an empty account, the same again, and with changed code.
const KINDS: [&str; 3] = ["first deploy", "nothing to do", "code change"];

/// The durations of one tool, by [`KINDS`].
type Durations = [Vec<Duration>; KINDS.len()];

fn main() -> Result<()> {
    let code = Code::build();
    let directory = tempfile::tempdir().expect("temporary directories can be created");
    let changed = code.changed(directory.path());
    let durations = deploy_with_all(&code, &changed);
    let profile = profile::table(&code, RUNS);
    let round_trips = round_trips::measure(&code, &changed, RUNS);
    let ends = end::measure(&code, &changed);
    let start = start();
    let size = fs::metadata(programs::released_cbbootstrap())?.len();

    let mut report = Report::new("deploy", versions());
    report.text(format!(
        "Seconds that a command takes, medians of {RUNS} alternating runs: a deployment to an empty account, the same again, and \
         with changed code. All tools deploy the same zip ({} MB) to a local AWS stand-in, \
         [MiniStack](https://pypi.org/project/ministack/). `cbbootstrap` also creates the bucket and the table; for the other \
         tools, which deploy the same template, the bucket exists. `cargo lambda` deploys only the function, packs it itself, and \
         has its bucket and role. Only `cbbootstrap deploy` without `--no-smoke` tests the result.",
        number(megabytes(code.zip_bytes())),
    ));
    report.table(deployment_table(&durations));
    report.plot("Duration of a deployment", &plot(&durations));
    report.details("Where the time of a first deployment goes", |report| {
        report.text(
            "Medians, measured by a proxy that records each request and response. Parallel calls count once.",
        );
        report.table(profile);
    });
    report.text(format!(
        "How many round trips of calls a deployment waits for, one after another, and its duration if each call takes {} ms longer, \
         medians of {RUNS} runs. Polls during the change of the stack or the function are calls, but not round trips.",
        end::DELAY.as_millis(),
    ));
    report.table(round_trips::table(&round_trips));
    report.text(format!(
        "How soon each tool notices that a stack's change is complete, medians of {} runs. Each call takes {} ms longer, and the \
         change takes {} s or slightly more, of which {} s follow the last resource. Calls are counted from the one that starts the \
         change.",
        ends[0].polls.len(),
        end::DELAY.as_millis(),
        (end::WORK + end::TAIL).as_secs(),
        end::TAIL.as_secs(),
    ));
    report.table(end_table(&ends));
    report.targets(targets(&durations, &round_trips, &ends, start, size));
    report.finish()
}

/// The durations of each tool, in the order of [`Tool::ALL`].
fn deploy_with_all(code: &Code, changed: &Code) -> [Durations; Tool::ALL.len()] {
    let aws = MiniStack::start();
    let mut durations: [Durations; Tool::ALL.len()] = Default::default();
    // The first round loads the programs into memory and does not count.
    for round in 0..=RUNS {
        eprintln!("deployments: round {round} of {RUNS}");
        for (tool, durations) in Tool::ALL.into_iter().zip(&mut durations) {
            tools::prepare(&aws);
            let directory = Directory::new(aws.user());
            for (code, durations) in [code, code, changed].into_iter().zip(durations) {
                directory.put(code);
                let time = directory.deploy(tool);
                directory.check(&aws, tool);
                if round > 0 {
                    durations.push(time);
                }
            }
        }
    }
    durations
}

/// How long the program takes to start.
fn start() -> Duration {
    let program = programs::cbbootstrap();
    let starts = (0..STARTS).map(|_| {
        let mut command = Command::new(&program);
        command.arg("--help").stdout(Stdio::null());
        let since = Instant::now();
        let status = command.status().expect("a program can be run");
        assert!(status.success(), "{status}");
        since.elapsed()
    });
    median(&starts.collect::<Vec<_>>())
}

fn versions() -> [String; 4] {
    let bin = tools::bin();
    let ministack = "import importlib.metadata as m; print('MiniStack', m.version('ministack'))";
    let aws = machine::version(bin.join("aws"), &["--version"]);
    [
        aws.split(' ').next().unwrap_or_default().replace('/', " "),
        machine::version(bin.join("sam"), &["--version"]).replace(", version", ""),
        machine::version(bin.join("cargo-lambda"), &["lambda", "--version"]),
        machine::version(python::bin().join("python"), &["-c", ministack]),
    ]
}

fn deployment_table(durations: &[Durations]) -> Table {
    let mut table = Table::new(["tool"].iter().chain(&KINDS).copied());
    for (tool, durations) in Tool::ALL.into_iter().zip(durations) {
        let times = durations.iter().map(|samples| seconds(median(samples)));
        table.row([format!("`{}`", tool.name())].into_iter().chain(times));
    }
    table
}

fn plot(durations: &[Durations]) -> String {
    let mut bars = Bars::new("Deployment to a local stand-in, seconds (logarithmic)");
    for (number, kind) in KINDS.into_iter().enumerate() {
        for (tool, durations) in Tool::ALL.into_iter().zip(durations) {
            let time = median(&durations[number]);
            let label = format!("{kind}: {}", tool.name());
            bars.bar(tool.is_ours(), label, time.as_secs_f64(), seconds(time));
        }
    }
    bars.svg()
}

fn end_table(ends: &[EndOfStack]) -> Table {
    let mut table = Table::new([
        "tool",
        "notices after, s",
        "ends after, s",
        "calls until it notices",
        "calls until it ends",
    ]);
    for (waiter, end) in Waiter::ALL.into_iter().zip(ends) {
        let name = match waiter {
            Waiter::OursCreate => "`cbbootstrap deploy`, creation",
            Waiter::OursUpdate => "`cbbootstrap deploy`, update",
            Waiter::Boto => "boto3's waiter, every 2 s",
            Waiter::Aws => "`aws cloudformation deploy`, creation",
            Waiter::Sam => "`sam deploy`, creation",
        };
        table.row([
            name.to_owned(),
            seconds(median(&end.noticed)),
            seconds(median(&end.ended)),
            median(&end.polls).to_string(),
            median(&end.calls).to_string(),
        ]);
    }
    table
}

fn targets(
    durations: &[Durations],
    round_trips: &[RoundTrips],
    ends: &[EndOfStack],
    start: Duration,
    size: u64,
) -> Vec<(String, String, bool)> {
    let mut targets = Vec::new();
    let median_of = |tool: Tool, kind: usize| {
        let position = Tool::ALL.iter().position(|other| *other == tool);
        median(&durations[position.expect("it is measured")][kind]).as_secs_f64()
    };
    for (tool, kind, least) in [
        (Tool::Aws, 0, 10.0),
        (Tool::CargoLambda, 0, 3.0),
        (Tool::Aws, 1, 5.0),
        (Tool::Sam, 1, 5.0),
        (Tool::CargoLambda, 1, 5.0),
    ] {
        let ratio = median_of(tool, kind) / median_of(Tool::Ours, kind);
        targets.push((
            format!("{}: {least} × as fast as `{}`", KINDS[kind], tool.name()),
            format!("{} ×", number(ratio)),
            ratio >= least,
        ));
    }
    // Without a code change: the stand-in then also ends the processes that the last smoke test started.
    let smoke_tests = (0..KINDS.len() - 1)
        .map(|kind| median_of(Tool::WithSmokeTest, kind) - median_of(Tool::Ours, kind));
    let longest = smoke_tests.reduce(f64::max).expect("there are kinds");
    targets.push((
        "smoke test: at most 0.4 s".to_owned(),
        format!("{} s", number(longest)),
        longest <= 0.4,
    ));
    targets.extend(round_trips::targets(round_trips));
    let boto = median(&ends[2].polls);
    for (end, kind) in ends.iter().zip(["creation", "update"]) {
        let noticed = median(&end.noticed);
        targets.push((
            format!("{kind}: end noticed within 1 s"),
            format!("{} s", seconds(noticed)),
            noticed <= Duration::from_secs(1),
        ));
        let polls = median(&end.polls);
        targets.push((
            format!("{kind}: fewer calls until then than polling every 2 s"),
            format!("{polls}, and {boto} when polling every 2 s"),
            polls < boto,
        ));
    }
    targets.push((
        "`cbbootstrap --help`: less than 10 ms".to_owned(),
        format!("{} ms", ms(start)),
        start < Duration::from_millis(10),
    ));
    targets.push((
        "program without the function: at most 18 MB".to_owned(),
        format!("{} MB", number(megabytes(size))),
        size <= 18_000_000,
    ));
    targets
}
