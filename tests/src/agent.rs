//! The agents of a cluster's nodes: one program beside each Couchbase Server, with the same settings except for the node.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command},
    sync::Arc,
    thread,
};

use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use crate::{
    cli::{Ended, User},
    couchbase::{ClusterView, Membership, Node, NodeView, Servers, Then},
    http,
    local::Local,
    process, programs,
    server::Stub,
};

/// The administrator's name and password.
pub const LOGIN: (&str, &str) = ("Administrator", "correct horse");

pub const SECRET: &str = "open/sesame+0123456789==";

/// A local deployment of the API with its own table.
#[derive(Debug)]
pub struct Api {
    pub local: Local,
    _data: TempDir,
}

impl Api {
    pub fn start() -> Self {
        let data = tempfile::tempdir().expect("temporary directories can be made");
        Self { local: Local::with(data.path(), &["--no-smoke"]), _data: data }
    }
}

/// The settings that all nodes share.
#[derive(Debug)]
pub struct Agents {
    pub user: User,
    program: PathBuf,
    pub api: String,
    /// The API, if these agents have started it.
    own_api: Option<Api>,
    cluster_id: String,
}

/// A running agent, which ends with the test.
#[derive(Debug)]
pub struct Agent(Option<Child>);

/// An agent that runs until the test ends it, and its log.
#[derive(Debug)]
pub struct Resident {
    agent: Agent,
    log: Arc<NamedTempFile>,
}

impl Agents {
    /// Agents for this cluster, which trust the authority of the servers' certificates. Their intervals are short.
    pub fn new(api: &str, cluster_id: &str, servers: &Servers) -> Self {
        let user = User::default()
            .with("CBBOOTSTRAP_API", api)
            .with("CBBOOTSTRAP_CLUSTER_ID", cluster_id)
            .with("CB_REST_PASSWORD", LOGIN.1)
            .with("CBBOOTSTRAP_CA_CERT", servers.ca_cert().display().to_string())
            .with("CBBOOTSTRAP_INTERVAL", "100ms")
            .with("CBBOOTSTRAP_SETTLE", "500ms")
            .with("CBBOOTSTRAP_LEASE", "30s")
            .with("CBBOOTSTRAP_TIMEOUT", "3m");
        Self {
            user,
            program: programs::agent(),
            api: api.to_owned(),
            own_api: None,
            cluster_id: cluster_id.to_owned(),
        }
    }

    /// Agents for the cluster `demo`, with a new API.
    pub fn with_new_api(servers: &Servers) -> Self {
        let api = Api::start();
        let agents = Self::new(&api.local.endpoint, "demo", servers);
        Self { own_api: Some(api), ..agents }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.user = self.user.with(name, value);
        self
    }

    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.user = self.user.without(name);
        self
    }

    /// With the agent's default intervals and time limits.
    #[must_use]
    pub fn patient(mut self) -> Self {
        for name in ["INTERVAL", "SETTLE", "LEASE", "TIMEOUT"] {
            self.user = self.user.without(&format!("CBBOOTSTRAP_{name}"));
        }
        self
    }

    /// With another build of the agent.
    #[must_use]
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// The command of this node's agent with these arguments.
    pub fn command(&self, node: &Node, args: &[&str]) -> Command {
        on_node(node, self.user.program(&self.program, args))
    }

    fn leashed(&self, node: &Node, args: &[&str]) -> Command {
        on_node(node, self.user.leashed(&self.program, args))
    }

    /// Runs this node's agent to its end.
    pub fn run(&self, node: &Node, args: &[&str]) -> Ended {
        Ended::of(&mut self.leashed(node, args))
    }

    /// Runs `up` on this node to its end.
    pub fn up(&self, node: &Node, options: &[&str]) -> Ended {
        self.run(node, &[&["up", "--output", "json"], options].concat())
    }

    /// Starts `up` on this node.
    pub fn start(&self, node: &Node, options: &[&str]) -> Agent {
        let args = [&["up", "--output", "json"], options].concat();
        let child = self.leashed(node, &args).spawn();
        Agent(Some(child.expect("the agent can be run")))
    }

    /// Starts `run` on this node, with these variables.
    pub fn stay(&self, node: &Node, options: &[&str], variables: &[(&str, &str)]) -> Resident {
        let args = [&["run"], options].concat();
        let log = Arc::new(NamedTempFile::new().expect("temporary files can be made"));
        let file = log.reopen().expect("the file can be opened");
        let mut command = on_node(node, self.user.leashed(&self.program, &args));
        command.envs(variables.iter().copied()).stderr(file);
        let child = command.spawn().expect("the agent can be run");
        Resident { agent: Agent(Some(child)), log }
    }

    /// Starts `run` on all of these nodes, and waits until all are in one cluster.
    #[track_caller]
    pub fn all_stay(&self, servers: &Servers, options: &[&str]) -> Vec<Resident> {
        let count = servers.nodes().len();
        let residents = servers.nodes().iter().map(|node| self.stay(node, options, &[]));
        let residents: Vec<_> = residents.collect();
        wait_for_cluster(servers, count);
        for resident in &residents {
            resident.wait_for(&format!("which has {count} nodes"));
        }
        residents
    }

    /// Runs `up` on all of these nodes at once.
    pub fn all_up(&self, nodes: &[Node], options: &[&str]) -> Vec<Ended> {
        let agents: Vec<_> = nodes.iter().map(|node| self.start(node, options)).collect();
        thread::scope(|scope| {
            let ends: Vec<_> =
                agents.into_iter().map(|agent| scope.spawn(|| agent.end())).collect();
            ends.into_iter().map(|end| end.join().expect("an agent ends")).collect()
        })
    }

    /// Runs `up` on all of these nodes at once, and asserts that each succeeds.
    #[track_caller]
    pub fn join(&self, nodes: &[Node], options: &[&str]) -> Vec<Ended> {
        self.all_up(nodes, options).into_iter().map(|up| up.ended_with(0)).collect()
    }

    /// The first node initializes its server, and its agent is killed before it reports that.
    #[track_caller]
    pub fn die_unreported(&self, servers: &Servers) {
        let first = self.start(&servers[0], &[]);
        let id = first.id().to_string();
        servers.on_request(move |seen| {
            if seen.node == 0 && seen.path == "/clusterInit" {
                process::kill("KILL", &id);
            }
            Then::Handle
        });
        assert_eq!(first.end().status, None);
        servers.on_request(|_| Then::Handle);
        // The server handles the request after its sender's death.
        process::wait_until("the server is initialized", || !servers.clusters().is_empty());
    }

    /// With a server in front of the API, which lists the agents' requests.
    #[must_use]
    pub fn behind_front(self) -> (Stub, Self) {
        let api = self.api.clone();
        let front = Stub::start(move |request| {
            let answer = http::post(&api, &request.path, &request.body);
            let answer = answer.expect("the API answers");
            (answer.status, answer.body)
        });
        let agents = self.with("CBBOOTSTRAP_API", &front.url);
        (front, agents)
    }

    /// Ends the lease of the first node's claim.
    #[track_caller]
    pub fn lapse(&self) {
        let api = self.own_api.as_ref().expect("the agents have started their API");
        api.local.lapse(&self.cluster_id);
    }

    /// The server that the API's record names as the first node.
    pub fn first_node<'a>(&self, servers: &'a Servers) -> &'a Node {
        let first = &self.record()["initial_node_ip_addr_or_hostname"];
        let first = servers.nodes().iter().find(|node| *first == node.address());
        first.expect("the record names one of the servers")
    }

    /// The API's record of the cluster, or null.
    pub fn record(&self) -> Value {
        self.record_as(None)
    }

    /// Reports that a node has left, which stays in its cluster.
    pub fn remove_from_record(&self, node: &str) {
        let body =
            serde_json::json!({"cluster_id": self.cluster_id, "node_ip_addr_or_hostname": node});
        let left = http::post(&self.api, "/cluster/leave", &body.to_string());
        assert!(left.as_ref().is_ok_and(|answer| answer.status == 200), "{left:?}");
    }

    /// The API's record for a caller with this token.
    pub fn record_with(&self, token: &str) -> Value {
        self.record_as(Some(&format!("Bearer {token}")))
    }

    fn record_as(&self, authorization: Option<&str>) -> Value {
        let body = serde_json::json!({"cluster_id": self.cluster_id}).to_string();
        let answer = http::post_as(&self.api, "/cluster/get_status", &body, authorization);
        let answer = answer.expect("the API answers");
        if answer.status == 404 { Value::Null } else { answer.json() }
    }
}

fn on_node(node: &Node, mut command: Command) -> Command {
    command.env("CBBOOTSTRAP_SERVER", node.url()).env("CBBOOTSTRAP_NODE", node.address());
    command
}

impl Agent {
    pub fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    pub fn end(mut self) -> Ended {
        Ended::of_child(self.0.take().expect("it is ended once"))
    }

    /// Kills it.
    pub fn kill(self) -> Ended {
        process::kill("KILL", &self.id().to_string());
        self.end()
    }

    pub fn is_running(&mut self) -> bool {
        let child = self.0.as_mut().expect("it is ended once");
        child.try_wait().expect("a child can be waited for").is_none()
    }
}

impl Resident {
    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path()).expect("the log can be read")
    }

    /// Waits until its log contains this text.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        process::wait_until(&format!("the log contains {text:?}: {}", self.log()), || {
            let log = self.log();
            let is_found = log.contains(text);
            assert!(is_found || process::is_alive(self.id()), "the agent has ended: {log}");
            is_found
        });
    }

    pub fn id(&self) -> u32 {
        self.agent.id()
    }

    pub fn signal(&self, signal: &str) {
        process::kill(signal, &self.id().to_string());
    }

    /// Sends it SIGTERM. Returns its status and its log.
    pub fn end(mut self) -> (Option<i32>, String) {
        self.signal("TERM");
        let agent = std::mem::replace(&mut self.agent, Agent(None));
        let status = agent.end().status;
        (status, fs::read_to_string(self.log.path()).expect("the log can be read"))
    }
}

/// Waits until this many nodes are one balanced cluster.
#[track_caller]
pub fn wait_for_cluster(servers: &Servers, count: usize) {
    process::wait_until(
        &format!("{count} nodes are one cluster: {:#?}", servers.clusters()),
        || {
            let clusters = servers.clusters();
            let is_in = |node: &NodeView| node.membership == Membership::Active && node.is_healthy;
            clusters.len() == 1
                && clusters[0].is_balanced
                && clusters[0].nodes.len() == count
                && clusters[0].nodes.iter().all(is_in)
        },
    );
}

impl Drop for Resident {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of an agent\n{}", self.log());
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            process::kill("KILL", &format!("-{}", child.id()));
            let _ = child.wait();
        }
    }
}

/// Starts blank servers, and agents with a new API.
pub fn scene(count: usize) -> (Servers, Agents) {
    let servers = Servers::start(count);
    let agents = Agents::with_new_api(&servers);
    (servers, agents)
}

/// An API whose answers are chosen by the path and the asking node.
pub fn fake_api(mut answer: impl FnMut(&str, &str) -> Value + Send + 'static) -> Stub {
    Stub::start(move |request| {
        let body = request.json();
        let asking = body["node_ip_addr_or_hostname"].as_str().unwrap_or_default();
        (200, answer(&request.path, asking).to_string())
    })
}

/// An answer about the cluster `demo`, with these fields added or replaced.
pub fn record(asking: &str, first: &str, state: &str, more: &Value) -> Value {
    let mut answer = serde_json::json!({
        "cluster_id": "demo",
        "initial_node_ip_addr_or_hostname": first,
        "is_initial_node": asking == first,
        "state": state,
        "generation": 1,
    });
    if let (Value::Object(answer), Value::Object(more)) = (&mut answer, more) {
        answer.extend(more.clone());
    }
    answer
}

/// Asserts that there is one balanced cluster of this many active, healthy nodes.
#[track_caller]
pub fn one_cluster(servers: &Servers, count: usize) -> ClusterView {
    let mut clusters = servers.clusters();
    assert_eq!(clusters.len(), 1, "{clusters:#?}");
    let cluster = clusters.remove(0);
    assert_eq!(cluster.nodes.len(), count, "{cluster:#?}");
    assert!(cluster.is_balanced && !cluster.is_rebalancing);
    for node in &cluster.nodes {
        assert!(node.membership == Membership::Active && node.is_healthy, "{node:?}");
    }
    cluster
}
