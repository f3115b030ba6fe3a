//! How long a deployment takes with `cbbootstrap` and with what people would use instead, and how soon each notices that the
//! stack is done.

#[path = "deploy/end.rs"]
mod end;
#[path = "deploy/profile.rs"]
mod profile;
#[path = "deploy/tools.rs"]
mod tools;

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cbbootstrap_benchmarks::{
    Bars, Report, Samples, Table, machine,
    samples::{ms, number, seconds},
};
use cbbootstrap_tests::{ministack::MiniStack, programs, python};

use self::{
    end::{Seen, Wait, median},
    tools::{Code, Directory, Tool},
};

/// Runs of each tool, one of each in turn.
const RUNS: usize = 7;

/// Starts of the program alone.
const STARTS: usize = 50;

/// What is deployed: to an empty account, the same once more, and changed code.
const KINDS: [&str; 3] = ["first deploy", "nothing to do", "code change"];

/// What one tool took, by [`KINDS`].
type Took = [Samples; KINDS.len()];

fn main() {
    let code = Code::build();
    let directory = tempfile::tempdir().expect("temporary directories can be made");
    let changed = code.changed(directory.path());
    let took = deployments(&code, &changed);
    let profile = profile::table(&code, RUNS);
    let seen = end::measure(&code, &changed);
    let start = start();
    let size = fs::metadata(programs::cbbootstrap());
    let size = size.expect("the program is there").len();

    let mut report = Report::new("deploy");
    for version in versions() {
        report.version(version);
    }
    report.say(&format!(
        "Deployments of a ready zip ({} MB) to [MiniStack](https://pypi.org/project/ministack/), an AWS stand-in on the same \
         machine, from the start of the process to its end, in seconds: to an empty account, the same once more, and changed \
         code. Medians of {RUNS} runs of each in turn. The others deploy the same template and find the bucket there, \
         which `cbbootstrap` makes, with the table; `cargo lambda` deploys the function alone, packs it itself, and finds \
         bucket and role there. None of them tests what it has deployed.",
        number(megabytes(code.zip_bytes())),
    ));
    report.table(&deployment_table(&took));
    report.plot("How long a deployment takes", plot(&took));
    report.folded("Where the time of a first deployment goes", |report| {
        report.say(
            "The same through a proxy that keeps the time. Calls are under way from when the proxy has one until it has \
             answered it; what is asked at once counts once.",
        );
        report.table(&profile);
    });
    report.say(&format!(
        "How soon the end of a stack is noticed, where each call takes {} ms more and the stack {} s or a little more, {} s of \
         it after its last resource: medians of {} runs. Calls count from the one that begins the change.",
        end::DELAY.as_millis(),
        (end::WORK + end::TAIL).as_secs(),
        end::TAIL.as_secs(),
        seen[0].looks.len(),
    ));
    report.table(&end_table(&seen));
    report.table(&targets(&took, &seen, start, size));
    report.finish();
}

/// Every tool's deployments, in the order of [`Tool::ALL`].
fn deployments(code: &Code, changed: &Code) -> [Took; Tool::ALL.len()] {
    let aws = MiniStack::start();
    let mut took: [Took; Tool::ALL.len()] = Default::default();
    // The first round brings the programs into memory, and does not count.
    for round in 0..=RUNS {
        eprintln!("deployments: round {round} of {RUNS}");
        for (tool, took) in Tool::ALL.into_iter().zip(&mut took) {
            tools::prepare(&aws);
            let directory = Directory::of(aws.user());
            for (code, took) in [code, code, changed].into_iter().zip(took) {
                directory.put(code);
                let time = directory.deploy(tool);
                directory.check(&aws, tool);
                if round > 0 {
                    took.push(time);
                }
            }
        }
    }
    took
}

/// How long the program alone takes.
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
    starts.collect::<Samples>().median()
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

fn deployment_table(took: &[Took]) -> Table {
    let mut table = Table::new(["tool"].iter().chain(&KINDS).copied());
    for (tool, took) in Tool::ALL.into_iter().zip(took) {
        let times = took.iter().map(|samples| seconds(samples.median()));
        table.row([format!("`{}`", tool.name())].into_iter().chain(times));
    }
    table
}

fn plot(took: &[Took]) -> String {
    let mut bars = Bars::new("A deployment to a stand-in on the same machine, seconds");
    for (number, kind) in KINDS.into_iter().enumerate() {
        for (tool, took) in Tool::ALL.into_iter().zip(took) {
            let time = took[number].median();
            let label = format!("{kind}: {}", tool.name());
            if tool.is_ours() {
                bars.ours(label, time.as_secs_f64(), seconds(time));
            } else {
                bars.other(label, time.as_secs_f64(), seconds(time));
            }
        }
    }
    bars.svg()
}

fn end_table(seen: &[Seen]) -> Table {
    let mut table = Table::new([
        "who waits",
        "noticed after, s",
        "process ends after, s",
        "calls until noticed",
        "calls until the process ends",
    ]);
    for (wait, seen) in Wait::ALL.into_iter().zip(seen) {
        let name = match wait {
            Wait::OursCreate => "`cbbootstrap deploy`, creation",
            Wait::OursUpdate => "`cbbootstrap deploy`, update",
            Wait::Poller => "boto3's waiter, every 2 s",
            Wait::Aws => "`aws cloudformation deploy`, creation",
            Wait::Sam => "`sam deploy`, creation",
        };
        table.row([
            name.to_owned(),
            seconds(seen.noticed.median()),
            seconds(seen.ended.median()),
            median(&seen.looks).to_string(),
            median(&seen.calls).to_string(),
        ]);
    }
    table
}

fn targets(took: &[Took], seen: &[Seen], start: Duration, size: u64) -> Table {
    let mut table = Table::new(["target", "measured", "met"]);
    let mut target = |what: &str, measured: String, met: bool| {
        let met = if met { "yes" } else { "no" };
        table.row([what.to_owned(), measured, met.to_owned()]);
    };
    for (kind_number, kind) in KINDS.into_iter().enumerate().take(2) {
        let median_of = |took: &Took| took[kind_number].median().as_secs_f64();
        let others = Tool::ALL.into_iter().zip(took);
        let others = others.filter(|(tool, _)| !tool.is_ours());
        let fastest = others.map(|(_, took)| median_of(took)).reduce(f64::min);
        let ratio = fastest.expect("there are others") / median_of(&took[0]);
        target(
            &format!("{kind}: 5 times as fast as the fastest of the others"),
            format!("{} times", number(ratio)),
            ratio >= 5.0,
        );
    }
    let poller = median(&seen[2].looks);
    for (seen, kind) in seen.iter().zip(["creation", "update"]) {
        let noticed = seen.noticed.median();
        target(
            &format!("{kind}: its end noticed within 1 s"),
            format!("{} s", seconds(noticed)),
            noticed <= Duration::from_secs(1),
        );
        let looks = median(&seen.looks);
        target(
            &format!("{kind}: fewer calls until then than by looking every 2 s"),
            format!("{looks}, and {poller} by looking every 2 s"),
            looks < poller,
        );
    }
    target(
        "`cbbootstrap --help` in less than 10 ms",
        format!("{} ms", ms(start)),
        start < Duration::from_millis(10),
    );
    target(
        "the program smaller than 20 MB",
        format!("{} MB", number(megabytes(size))),
        size < 20_000_000,
    );
    table
}

#[expect(clippy::cast_precision_loss, reason = "it is rounded anyway")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
