//! How long new nodes take to become one balanced cluster, with the agent and with the original's node script, on stand-ins for
//! Couchbase Server.

#![expect(clippy::cast_precision_loss, reason = "all counts are far below 2^52")]

mod script;

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use cbbootstrap_benchmarks::{
    Lines, Report, Table, machine,
    samples::{median, seconds},
};
use cbbootstrap_tests::{
    agent::{Agents, Api, one_cluster},
    couchbase::{Membership, Servers},
    programs,
};

use self::script::Script;

/// Nodes of a cluster.
const SIZES: [usize; 3] = [1, 10, 100];

/// The duration of a rebalance without data.
const REBALANCE: Duration = Duration::from_secs(5);

/// How long a member takes to add a node. It adds one at a time.
const ADDITION: Duration = Duration::from_millis(200);

/// A script stops after this time.
const LIMIT: Duration = Duration::from_mins(12);

fn main() -> Result<()> {
    let api = Api::start();
    let by_agent: Vec<_> = SIZES.map(|size| measure_agents(&api, size)).into();
    let by_script = measure_scripts(&api.local.endpoint);

    let mut table = Table::new([
        "nodes",
        "runs",
        "agent: s",
        "rebalances",
        "API requests per node",
        "original script: s",
        "rebalances",
        "members",
        "gave up",
    ]);
    for ((size, ours), theirs) in SIZES.iter().zip(&by_agent).zip(&by_script) {
        table.row([
            size.to_string(),
            runs(*size).to_string(),
            seconds(ours.took),
            ours.rebalances.to_string(),
            format!("{:.1}", ours.requests as f64 / *size as f64),
            seconds(theirs.took),
            theirs.rebalances.to_string(),
            theirs.members.to_string(),
            theirs.gave_up.to_string(),
        ]);
    }
    let line = |outcomes: &[Outcome]| {
        let points = SIZES.iter().zip(outcomes);
        points.map(|(size, outcome)| (*size as f64, outcome.took.as_secs_f64())).collect()
    };
    let mut plot = Lines::new("From new nodes to one cluster", "nodes", "seconds");
    plot.line("cbbootstrap-agent", line(&by_agent));
    let last = by_script.last().expect("there are sizes");
    plot.line(
        format!(
            "original script ({} of {} nodes became members)",
            last.members,
            SIZES[SIZES.len() - 1]
        ),
        line(&by_script),
    );

    let mut report = Report::new("agent", [machine::version(programs::agent(), &["--version"])]);
    report.text(format!(
        "Median seconds from the start of all nodes at once until the last program ends. A rebalance takes {} s and adding a node \
         {} s; a member adds one node at a time. The agent runs with its default options, and each run ends with one balanced \
         cluster of all nodes. In the original's node script, each joiner adds itself through the first node and then rebalances. \
         It tries each step ten times, 10 s apart, and then gives up.",
        seconds(REBALANCE),
        seconds(ADDITION)
    ));
    report.table(table);
    report.plot("Seconds by the number of nodes, on logarithmic scales", &plot.svg());
    report.finish()
}

/// The result of one run.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    took: Duration,
    rebalances: usize,
    /// Active members of the first node's cluster.
    members: usize,
    gave_up: usize,
    /// To the API.
    requests: usize,
}

/// Runs of a size.
fn runs(size: usize) -> usize {
    if size < 100 { 3 } else { 1 }
}

/// The run with the median time.
fn median_run(outcomes: &[Outcome]) -> Outcome {
    let middle = median(outcomes.iter().map(|outcome| outcome.took));
    let mut outcomes = outcomes.iter().filter(|outcome| outcome.took == middle);
    *outcomes.next().expect("the median is one of them")
}

fn servers(size: usize) -> Servers {
    let servers = Servers::start(size);
    servers.rebalance_takes(REBALANCE);
    servers.add_takes(ADDITION);
    servers
}

/// Runs the agents of all nodes, one run after the other.
fn measure_agents(api: &Api, size: usize) -> Outcome {
    let run = |run| {
        let servers = servers(size);
        let cluster = format!("agents-{size}-{run}");
        let agents = Agents::new(&api.local.endpoint, &cluster, &servers).patient();
        let before = requests(api);
        let since = Instant::now();
        for up in agents.all_up(servers.nodes(), &[]) {
            let seconds = up.document()["seconds"].clone();
            if size == 1 {
                eprintln!("one agent, by its own clock: {seconds} s\n{}", up.stderr);
            }
        }
        let took = since.elapsed();
        let cluster = one_cluster(&servers, size);
        assert_eq!(agents.record()["state"], "ready");
        let outcome = Outcome {
            took,
            rebalances: cluster.rebalances.len(),
            members: size,
            gave_up: 0,
            requests: requests(api) - before,
        };
        eprintln!("agents of {size}: {outcome:?}");
        outcome
    };
    median_run(&(0..runs(size)).map(run).collect::<Vec<_>>())
}

/// Requests that the API has answered, from its log.
fn requests(api: &Api) -> usize {
    api.local.said().matches(" /cluster").count()
}

/// Runs the scripts of all sizes in parallel: they sleep most of the time.
fn measure_scripts(api: &str) -> Vec<Outcome> {
    let all_runs = SIZES.iter().flat_map(|size| {
        let runs = 0..runs(*size);
        runs.map(|run| (*size, run))
    });
    let outcomes: Vec<_> = thread::scope(|scope| {
        let runs: Vec<_> = all_runs
            .map(|(size, run)| {
                let run =
                    scope.spawn(move || run_scripts(api, &format!("scripts-{size}-{run}"), size));
                (size, run)
            })
            .collect();
        runs.into_iter().map(|(size, run)| (size, run.join().expect("a run ends"))).collect()
    });
    SIZES
        .map(|size| {
            let same = outcomes.iter().filter(|(of, _)| *of == size);
            median_run(&same.map(|(_, outcome)| *outcome).collect::<Vec<_>>())
        })
        .into()
}

/// Runs the scripts of all nodes, each on a thread.
fn run_scripts(api: &str, cluster: &str, size: usize) -> Outcome {
    let servers = servers(size);
    let since = Instant::now();
    let ends: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = servers
            .nodes()
            .iter()
            .map(|node| {
                let script =
                    Script { api, cluster, node, nodes: servers.nodes(), until: since + LIMIT };
                scope.spawn(move || script.run())
            })
            .collect();
        let ends = threads.into_iter().map(thread::ScopedJoinHandle::join);
        ends.map(|end| end.expect("a script ends")).collect()
    });
    let took = since.elapsed();
    let mut reasons = BTreeMap::<_, usize>::new();
    for why in ends.iter().filter_map(|end| end.as_ref().err()) {
        *reasons.entry(why).or_default() += 1;
    }
    for (why, count) in reasons {
        eprintln!("scripts of {size}: {count} {why}");
    }
    let clusters = servers.clusters();
    let (members, rebalances) = clusters.first().map_or((0, 0), |cluster| {
        let members = cluster.nodes.iter();
        let active = members.filter(|node| node.membership == Membership::Active);
        (active.count(), cluster.rebalances.len())
    });
    let outcome = Outcome {
        took,
        rebalances,
        members,
        gave_up: ends.iter().filter(|end| end.is_err()).count(),
        requests: size,
    };
    eprintln!("scripts of {size}: {outcome:?}");
    outcome
}
