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
const SIZES: [usize; 3] = [3, 10, 100];

/// The duration of a rebalance without data.
const REBALANCE: Duration = Duration::from_secs(5);

/// How long a member takes to add a node. It adds one at a time.
const ADDITION: Duration = Duration::from_millis(200);

/// How long the list of nodes must stay the same before a rebalance, unless the agents know the number of nodes: `--settle`.
const SETTLING: Duration = Duration::from_secs(5);

/// The targets: at most this many times the limit, and this many requests.
const MAX_RATIO: f64 = 1.25;
const MAX_REQUESTS: f64 = 3.0;

/// A script stops after this time.
const SCRIPT_LIMIT: Duration = Duration::from_mins(12);

fn main() -> Result<()> {
    let api = Api::start();
    let knowing: Vec<_> = SIZES.map(|size| measure_agents(&api, size, true)).into();
    let settling: Vec<_> = SIZES.map(|size| measure_agents(&api, size, false)).into();
    let by_script = measure_scripts(&api.local.endpoint);

    let (mut table, mut targets) = (Table::new(COLUMNS), Vec::new());
    for (number, size) in SIZES.into_iter().enumerate() {
        for (outcome, knows_size) in [(&knowing[number], true), (&settling[number], false)] {
            let who = if knows_size { "agents with `--nodes`" } else { "agents" };
            let (limit, requests) =
                (limit(size, knows_size), outcome.requests as f64 / size as f64);
            let ratio = outcome.took.as_secs_f64() / limit.as_secs_f64();
            table.row([
                size.to_string(),
                who.to_owned(),
                runs(size).to_string(),
                seconds(limit),
                seconds(outcome.took),
                format!("{ratio:.2}"),
                outcome.rebalances.to_string(),
                format!("{requests:.2}"),
                outcome.members.to_string(),
            ]);
            targets.push((
                format!("{size} nodes, {who}: at most {MAX_RATIO} × the limit"),
                format!("{ratio:.2} ×"),
                ratio <= MAX_RATIO,
            ));
            targets.push((
                format!("{size} nodes, {who}: at most {MAX_REQUESTS} API requests per node"),
                format!("{requests:.2}"),
                requests <= MAX_REQUESTS,
            ));
        }
        let script = &by_script[number];
        let cells = [size.to_string(), "original script".to_owned(), runs(size).to_string()];
        let [limit, ratio, requests] = [const { String::new() }; 3];
        let rest = [
            limit,
            seconds(script.took),
            ratio,
            script.rebalances.to_string(),
            requests,
            script.members.to_string(),
        ];
        table.row(cells.into_iter().chain(rest));
    }
    let mut report = Report::new("agent", [machine::version(programs::agent(), &["--version"])]);
    report.text(format!(
        "Median seconds from the start of all nodes at once until the last program ends. A rebalance takes {} s and adding a node \
         {} s. The limit is the time that the servers take: the first node adds all others, one at a time, and one rebalance \
         follows, without `--nodes` after the default settling time of {} s. The agent runs with its default options, and each run \
         ends with one balanced cluster of all nodes. In the original's node script, each joiner adds itself through the first node \
         and then rebalances. It tries each step ten times, 10 s apart, and then gives up.",
        seconds(REBALANCE),
        seconds(ADDITION),
        seconds(SETTLING)
    ));
    report.table(table);
    report.plot(
        "Seconds by the number of nodes, on logarithmic scales",
        &plot(&knowing, &settling, &by_script),
    );
    report.targets(targets);
    report.finish()
}

/// The times by the number of nodes.
fn plot(knowing: &[Outcome], settling: &[Outcome], by_script: &[Outcome]) -> String {
    let line = |outcomes: &[Outcome]| {
        let points = SIZES.iter().zip(outcomes);
        points.map(|(size, outcome)| (*size as f64, outcome.took.as_secs_f64())).collect()
    };
    let mut plot = Lines::new("From new nodes to one cluster", "nodes", "seconds");
    plot.line("cbbootstrap-agent --nodes", line(knowing));
    plot.line("cbbootstrap-agent", line(settling));
    let last = by_script.last().expect("there are sizes");
    plot.line(
        format!(
            "original script ({} of {} nodes became members)",
            last.members,
            SIZES[SIZES.len() - 1]
        ),
        line(by_script),
    );
    plot.svg()
}

const COLUMNS: [&str; 9] = [
    "nodes",
    "by",
    "runs",
    "limit, s",
    "s",
    "ratio",
    "rebalances",
    "API requests per node",
    "members",
];

/// The least time of one balanced cluster. In a new cluster, only the first node is active and can add others, and it adds one at a
/// time.
fn limit(size: usize, knows_size: bool) -> Duration {
    let additions = u32::try_from(size - 1).expect("few nodes");
    let settling = if knows_size { Duration::ZERO } else { SETTLING };
    ADDITION * additions + settling + REBALANCE
}

/// The result of one run.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    took: Duration,
    rebalances: usize,
    /// Active members of the first node's cluster.
    members: usize,
    /// To the API.
    requests: usize,
}

/// Runs of a size.
fn runs(size: usize) -> usize {
    if size < 100 { 3 } else { 1 }
}

/// The run with the median time.
fn median_run(outcomes: &[Outcome]) -> Outcome {
    let middle = median(&outcomes.iter().map(|outcome| outcome.took).collect::<Vec<_>>());
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
fn measure_agents(api: &Api, size: usize, knows_size: bool) -> Outcome {
    let count = size.to_string();
    let options: &[&str] = if knows_size { &["--nodes", &count] } else { &[] };
    let run = |run| {
        let servers = servers(size);
        let cluster = format!("agents-{size}-{knows_size}-{run}");
        let agents = Agents::new(&api.local.endpoint, &cluster, &servers).patient();
        let before = requests(api);
        let since = Instant::now();
        for up in agents.all_up(servers.nodes(), options) {
            up.document();
        }
        let took = since.elapsed();
        let cluster = one_cluster(&servers, size);
        let requests = requests(api) - before;
        assert_eq!(agents.record()["nodes"].as_array().map(Vec::len), Some(size));
        let outcome =
            Outcome { took, rebalances: cluster.rebalances.len(), members: size, requests };
        eprintln!("agents of {size}, {options:?}: {outcome:?}");
        outcome
    };
    median_run(&(0..runs(size)).map(run).collect::<Vec<_>>())
}

/// Requests that the API has answered, from its log, which another thread writes.
fn requests(api: &Api) -> usize {
    let count = || api.local.said().matches(" /cluster").count();
    let mut last = count();
    loop {
        thread::sleep(Duration::from_millis(300));
        match count() {
            now if now == last => return now,
            now => last = now,
        }
    }
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
                let script = Script {
                    api,
                    cluster,
                    node,
                    nodes: servers.nodes(),
                    until: since + SCRIPT_LIMIT,
                };
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
    let outcome = Outcome { took, rebalances, members, requests: size };
    eprintln!("scripts of {size}: {outcome:?}");
    outcome
}
