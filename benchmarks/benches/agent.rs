//! How long new nodes take to become one balanced cluster, with the agent and with the original's node script, on stand-ins for
//! Couchbase Server.

#![expect(clippy::cast_precision_loss, reason = "all counts are far below 2^52")]

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
        "Seconds from the start of all nodes at once to the end of the last program, medians. A rebalance takes {} s, and adding a \
         node {} s; a member adds one node at a time. Each run of the agent, with its default options, ends as one balanced cluster of \
         all nodes. In the original's node script, each joiner adds itself through the first node and then rebalances; it tries each \
         step ten times, 10 s apart, and then gives up.",
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

/// The original's node script (`cbbootstrap.py` of couchbase/sync-gateway-ami), step by step, with the REST calls that
/// `couchbase-cli` makes for it. Its two buckets are left out.
mod script {
    use std::{
        thread::sleep,
        time::{Duration, Instant},
    };

    use cbbootstrap_tests::{agent::LOGIN, couchbase::Node, http};
    use serde_json::Value;

    /// Tries of each step.
    const TRIES: usize = 10;

    /// Polls for a running rebalance.
    const POLLS: usize = 200;

    /// Between two tries or polls.
    const PAUSE: Duration = Duration::from_secs(10);

    /// Before it renames the node: works around a bug of Couchbase Server.
    const WORKAROUND: Duration = Duration::from_secs(2);

    /// Between two polls of `couchbase-cli rebalance`.
    const PROGRESS: Duration = Duration::from_secs(1);

    pub struct Script<'a> {
        pub api: &'a str,
        pub cluster: &'a str,
        pub node: &'a Node,
        /// All nodes, to find the first one by its address.
        pub nodes: &'a [Node],
        /// When to give up in any case.
        pub until: Instant,
    }

    impl Script<'_> {
        /// Creates or joins the cluster. The error names the step at which it gave up.
        pub fn run(&self) -> Result<(), String> {
            let address = self.node.address();
            // It asks only once.
            let answer = http::claim(self.api, self.cluster, &address);
            let answer = answer.map_err(|error| error.to_string())?.json();
            let first = answer["initial_node_ip_addr_or_hostname"].as_str();
            let first = self.nodes.iter().find(|node| first == Some(&node.address()));
            let first = first.ok_or(format!("the API answered {answer}"))?;
            self.retry("server", || {
                self.node.call("GET", "/", &[], None).map(drop).map_err(|error| error.to_string())
            })?;
            if answer["is_initial_node"] == true { self.create() } else { self.join(first) }
        }

        fn create(&self) -> Result<(), String> {
            let (user, password) = LOGIN;
            let init = [
                ("services", "kv"),
                ("memoryQuota", "1024"),
                ("username", user),
                ("password", password),
                ("port", "SAME"),
                ("sendStats", "false"),
            ];
            self.retry("cluster-init", || post(self.node, "/clusterInit", &init))?;
            self.retry("server-list", || healthy(self.node, "").map(drop))?;
            sleep(WORKAROUND);
            let address = self.node.address();
            let name = [("hostname", address.as_str())];
            self.retry("node-init", || post(self.node, "/node/controller/rename", &name))
        }

        fn join(&self, first: &Node) -> Result<(), String> {
            let (user, password) = LOGIN;
            let address = self.node.address();
            self.retry("server-list", || healthy(first, &first.address()).map(drop))?;
            let add = [
                ("hostname", address.as_str()),
                ("user", user),
                ("password", password),
                ("services", "kv"),
            ];
            self.retry("server-add", || post(first, "/controller/addNode", &add))?;
            for _ in 0..POLLS {
                if !rebalance(first)?.0 {
                    break;
                }
                self.pause("rebalance-status")?;
            }
            self.retry("rebalance", || self.rebalance(first))
        }

        /// Starts a rebalance of all nodes, and waits for its end.
        fn rebalance(&self, first: &Node) -> Result<(), String> {
            let known = healthy(first, "")?.join(",");
            let form = [("knownNodes", known.as_str()), ("ejectedNodes", "")];
            post(first, "/controller/rebalance", &form)?;
            while Instant::now() < self.until {
                match rebalance(first)? {
                    (true, _) => sleep(PROGRESS),
                    (false, None) => return Ok(()),
                    (false, Some(error)) => return Err(error),
                }
            }
            Err("timed out waiting for the rebalance".to_owned())
        }

        fn retry(
            &self,
            step: &str,
            mut run: impl FnMut() -> Result<(), String>,
        ) -> Result<(), String> {
            let mut last = String::new();
            for _ in 0..TRIES {
                match run() {
                    Ok(()) => return Ok(()),
                    Err(error) => last = error,
                }
                self.pause(step)?;
            }
            Err(format!("gave up at {step}: {last}"))
        }

        fn pause(&self, step: &str) -> Result<(), String> {
            if Instant::now() >= self.until {
                return Err(format!("ran out of time at {step}"));
            }
            sleep(PAUSE);
            Ok(())
        }
    }

    fn get(node: &Node, path: &str) -> Result<Value, String> {
        let answer = node.call("GET", path, &[], Some(LOGIN));
        match answer {
            Ok(answer) if answer.status == 200 => Ok(answer.json()),
            Ok(answer) => Err(format!("{path}: {} {}", answer.status, answer.body)),
            Err(error) => Err(format!("{path}: {error}")),
        }
    }

    fn post(node: &Node, path: &str, form: &[(&str, &str)]) -> Result<(), String> {
        let answer = node.call("POST", path, form, Some(LOGIN));
        match answer {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(format!("{path}: {} {}", answer.status, answer.body)),
            Err(error) => Err(format!("{path}: {error}")),
        }
    }

    /// The nodes' names for rebalances, if one contains this address and no node is unhealthy.
    ///
    /// The script accepts any mention of the address, so it can add a node between the first node's `cluster-init` and `node-init`,
    /// which then fails. On the stand-in, which initialises at once, that would happen every time.
    fn healthy(node: &Node, address: &str) -> Result<Vec<String>, String> {
        let pool = get(node, "/pools/default")?;
        let nodes = pool["nodes"].as_array().ok_or("there are no nodes")?;
        let names = nodes.iter().filter_map(|node| node["otpNode"].as_str());
        let names: Vec<_> = names.map(str::to_owned).collect();
        if !names.iter().any(|name| name.contains(address)) {
            return Err(format!("{address} is not among the nodes"));
        }
        if nodes.iter().any(|node| node["status"] == "unhealthy") {
            return Err("some nodes are unhealthy".to_owned());
        }
        Ok(names)
    }

    /// Whether a rebalance is running, and the error of the last one.
    fn rebalance(node: &Node) -> Result<(bool, Option<String>), String> {
        let tasks = get(node, "/pools/default/tasks")?;
        let mut tasks = tasks.as_array().into_iter().flatten();
        let task = tasks.find(|task| task["type"] == "rebalance");
        let task = task.ok_or("there is no such task")?;
        let error = task["errorMessage"].as_str().map(str::to_owned);
        Ok((task["status"] == "running", error))
    }
}
