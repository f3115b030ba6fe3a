//! The original's node script (`cbbootstrap.py` of couchbase/sync-gateway-ami), step by step, with the REST calls that
//! `couchbase-cli` makes for it. Its two buckets are left out.

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

    fn retry(&self, step: &str, mut run: impl FnMut() -> Result<(), String>) -> Result<(), String> {
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
/// which then fails. On the stand-in, which initializes at once, that would happen every time.
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
