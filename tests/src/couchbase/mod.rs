//! Many Couchbase Servers in the test's process, as far as their management REST interface goes. Each has its own
//! loopback address with the real ports, 8091 and 18091 for TLS, and they answer and refuse as 7.6.8 does.
//!
//! ```text
//! let servers = Servers::start(3);
//! let login = Some(("Administrator", "password"));
//! servers[0].provision("Administrator", "password");
//! let joiner = format!("https://{}", servers[1].address());
//! let form = [("hostname", joiner.as_str()), ("user", ""), ("password", ""), ("services", "kv")];
//! let added = servers[0].call("POST", "/controller/addNode", &form, login).unwrap();
//! assert_eq!(added.status, 200);
//! assert_eq!(servers.clusters()[0].nodes.len(), 2);
//! ```
//!
//! All nodes of a cluster see the same: the network between them never splits. What was not recorded with a real server
//! (`tests/couchbase-rest`) is as its documentation and its source say. What takes long in reality is short here, or takes
//! no time at first; a test sets it, or lets time pass with [`Servers::skip_time`]. All of 127.0.0.0/8 must be this machine, as on
//! Linux.

mod add;
mod buckets;
mod certificates;
mod change;
pub mod containers;
mod groups;
mod model;
mod net;
mod node;
mod rebalance;
mod rest;
mod show;

use std::{
    fmt,
    net::Ipv4Addr,
    ops::Index,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle, ThreadId},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;
use ureq::{
    Agent,
    tls::{Certificate, RootCerts, TlsConfig},
};

use self::{
    certificates::Authority,
    model::{Knobs, World},
    net::{Shared, Sockets},
};
pub use self::{
    model::{Membership, Recovery, Wiped},
    rebalance::Rebalanced,
};
use crate::http::Answer;

/// What a test takes to find a free block of addresses, at most.
const TRIES: usize = 50;

/// Running servers, which end with the test.
pub struct Servers {
    nodes: Vec<Node>,
    shared: Arc<Shared>,
    ca_cert: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _directory: TempDir,
}

/// One of them; clones are the same node.
#[derive(Clone)]
pub struct Node {
    index: usize,
    address: Ipv4Addr,
    shared: Arc<Shared>,
    /// The nodes' own thread, which must not wait for itself.
    thread: ThreadId,
    agent: Agent,
}

/// A copy of a machine's disk.
pub struct Snapshot(node::Node, model::Cluster);

/// A request that a node got.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Counted over all nodes, from 1.
    pub number: usize,
    pub node: usize,
    pub method: String,
    /// The path, without a query.
    pub path: String,
    /// The form's fields, without passwords.
    pub form: Vec<(String, String)>,
    /// The user of its credentials; none without an `Authorization` header.
    pub user: Option<String>,
    /// The answer's status, once it is there.
    pub status: Option<u16>,
    passwords: Passwords,
}

/// The password of the credentials, and those in the form.
#[derive(Clone, Default)]
struct Passwords {
    login: Option<String>,
    form: Vec<String>,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl Seen {
    fn of(node: usize, request: &rest::Request) -> Self {
        let fields = request.form.0.iter();
        let (passwords, fields): (Vec<_>, Vec<_>) =
            fields.cloned().partition(|field| field.0 == "password");
        let login = request.login();
        Self {
            number: 0,
            node,
            method: request.method.clone(),
            path: request.path.clone(),
            form: fields,
            user: login.map(|(user, _)| user.to_owned()),
            status: None,
            passwords: Passwords {
                login: login.map(|(_, password)| password.to_owned()),
                form: passwords.into_iter().map(|field| field.1).collect(),
            },
        }
    }

    /// The password of its credentials.
    pub fn password(&self) -> Option<&str> {
        self.passwords.login.as_deref()
    }

    /// Whether the request gave this password to the node, as credentials or in its form.
    pub fn carries_password(&self, password: &str) -> bool {
        let mut form = self.passwords.form.iter();
        self.password() == Some(password) || form.any(|given| given == password)
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Then {
    Handle,
    /// The connection is closed, and nothing happens.
    Drop,
    /// It is handled, and the answer is lost.
    Lose,
    /// It is answered with this status, and nothing else happens.
    Answer(u16),
    /// It is answered with this status and body, and nothing else happens.
    Refuse(u16, String),
}

/// A cluster, as all its nodes see it.
#[derive(Clone, Debug)]
pub struct ClusterView {
    pub uuid: String,
    pub name: String,
    /// The data service's quota on each node, in MB.
    pub quota: u64,
    /// Its nodes in the order of their coming.
    pub nodes: Vec<NodeView>,
    /// The names of its buckets.
    pub buckets: Vec<String>,
    /// The names of its server groups.
    pub groups: Vec<String>,
    /// Whether all nodes are active and hold what they should, and no rebalance runs.
    pub is_balanced: bool,
    pub is_rebalancing: bool,
    /// The rebalances that were done.
    pub rebalances: Vec<Rebalanced>,
    /// Its reasons for refusing to add nodes.
    pub refused: Vec<String>,
}

/// A node of a cluster.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub index: usize,
    /// The host name that the cluster knows it by.
    pub name: String,
    /// What it is there.
    pub membership: Membership,
    /// How it is to be recovered after a failover.
    pub recovery: Recovery,
    /// Whether the other nodes receive its heartbeats.
    pub is_healthy: bool,
    /// The server's word for that: `healthy`, `warmup` or `unhealthy`.
    pub status: String,
    pub services: Vec<String>,
    /// The name of its server group.
    pub group: String,
    /// Its address for those outside; null if it has none.
    pub alternate: Value,
}

/// A node's certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateView {
    /// The subject, `CN=…`.
    pub subject: String,
    /// The subject of the authority that issued it.
    pub issuer: String,
    /// The host name or address that it is for.
    pub name: String,
    pub pem: String,
    /// The authority's certificate as PEM.
    pub authority: String,
    /// Whether a server made it, and not the administrator.
    pub is_generated: bool,
}

impl Servers {
    /// Starts this many blank nodes of the Enterprise Edition. The administrator has loaded certificates of a separate
    /// authority, [`Servers::ca_cert`], on all of them; a node that leaves a cluster loses its certificate.
    pub fn start(count: usize) -> Self {
        Self::start_edition(count, false, true)
    }

    /// Starts blank nodes with certificates that they generated, each of its own authority and for 127.0.0.1.
    pub fn start_generated(count: usize) -> Self {
        Self::start_edition(count, false, false)
    }

    /// Starts nodes of the Community Edition: they have no TLS, and add nodes by plain HTTP.
    pub fn start_community(count: usize) -> Self {
        Self::start_edition(count, true, false)
    }

    fn start_edition(count: usize, community: bool, has_custom_certificates: bool) -> Self {
        let (addresses, sockets) = bind(count, !community);
        let world = World::new(&addresses, community, has_custom_certificates);
        let authority: &Authority = match world.nodes.first() {
            Some(first) if !has_custom_certificates => &first.authority,
            _ => &world.administrator,
        };
        let pem = authority.pem();
        let directory = tempfile::tempdir().expect("temporary directories can be made");
        let ca_cert = directory.path().join("ca.pem");
        std::fs::write(&ca_cert, &pem).expect("a file can be written");
        let shared = Arc::new(Shared::new(world));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let serve = async {
                for (node, sockets) in sockets.into_iter().enumerate() {
                    tokio::spawn(net::serve(Arc::clone(&serving), node, sockets));
                }
                let _ = stopped.await;
            };
            runtime.expect("a runtime can be made").block_on(serve);
        });
        let agent = agent(&pem);
        let node = |(index, address)| Node {
            index,
            address,
            shared: Arc::clone(&shared),
            thread: thread.thread().id(),
            agent: agent.clone(),
        };
        Self {
            nodes: addresses.into_iter().enumerate().map(node).collect(),
            shared,
            ca_cert,
            stop: Some(stop),
            thread: Some(thread),
            _directory: directory,
        }
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A handle of a node, for a hook or another thread.
    pub fn node(&self, index: usize) -> Node {
        self.nodes[index].clone()
    }

    /// The certificate of the authority that has signed the nodes' certificates, a PEM file. With generated
    /// certificates it is the first node's, which becomes that of the cluster that this node is the first of.
    pub fn ca_cert(&self) -> &Path {
        &self.ca_cert
    }

    fn knobs(&self, turn: impl FnOnce(&mut Knobs)) {
        turn(&mut lock(&self.shared.world).knobs);
    }

    /// How long a rebalance takes; 200 ms at first. Halfway, the nodes that were added become active, and near its end
    /// the cluster is balanced while it still runs.
    pub fn rebalance_takes(&self, time: Duration) {
        self.knobs(|knobs| knobs.rebalance_takes = time);
    }

    /// Ends the rebalances that run, as if their time had come.
    pub fn end_rebalances(&self) {
        let mut world = lock(&self.shared.world);
        let now = world.now();
        world.end_rebalances(now);
    }

    /// Advances the clock, except for requests in progress.
    pub fn skip_time(&self, time: Duration) {
        let mut world = lock(&self.shared.world);
        world.skipped += time;
        let now = world.now();
        world.settle(now);
    }

    /// How long a rebalance waits for nodes that do not answer until it fails; 300 ms at first, 30 s in reality.
    pub fn prepare_takes(&self, time: Duration) {
        self.knobs(|knobs| knobs.prepare_takes = time);
    }

    /// How long a rebalance runs on after it was stopped; no time at first.
    pub fn stop_takes(&self, time: Duration) {
        self.knobs(|knobs| knobs.stop_takes = time);
    }

    /// How long a cluster has no orchestrator after it was lost, and a restarted node knows none; no time at first.
    pub fn election_takes(&self, time: Duration) {
        self.knobs(|knobs| knobs.election_takes = time);
    }

    /// How long writes wait for a majority of the nodes until they are refused; 300 ms at first, 15 s in reality.
    pub fn quorum_timeout(&self, time: Duration) {
        self.knobs(|knobs| knobs.quorum_timeout = time);
    }

    /// How long nodes are `warmup` when they get a bucket, and when they restart with one; no time at first.
    pub fn bucket_warm_up_takes(&self, time: Duration) {
        self.knobs(|knobs| knobs.bucket_warm_up = time);
    }

    /// How long the `nodes` of a new bucket are empty, before they warm up; no time at first.
    pub fn bucket_nodes_appear_after(&self, time: Duration) {
        self.knobs(|knobs| knobs.bucket_appears = time);
    }

    /// For how long a node that was removed while it was down answers as a member after its start, and for how long it
    /// accepts no connection then, before it is blank; no time at first, 10 s and 4 s in reality.
    pub fn removed_nodes_remember_for(&self, answers: Duration, closed: Duration) {
        self.knobs(|knobs| knobs.memory = (answers, closed));
    }

    /// Makes these services never come up: clusters with them are not balanced, and their rebalances take an hour.
    pub fn services_never_come_up(&self, services: &[&str]) {
        let services = services.iter().map(|service| (*service).to_owned());
        self.knobs(|knobs| knobs.absent_services = services.collect());
    }

    /// How long it takes to add a node; 50 ms at first.
    pub fn add_takes(&self, time: Duration) {
        self.knobs(|knobs| knobs.add_takes = time);
    }

    /// How long it takes until adding a node fails that does not answer, or that another member is adding; 1 s at first.
    pub fn add_timeout(&self, time: Duration) {
        self.knobs(|knobs| knobs.add_timeout = time);
    }

    /// How long a node is unhealthy that was a separate cluster and is added to another; no time at first.
    pub fn warm_up_takes(&self, time: Duration) {
        self.knobs(|knobs| knobs.warm_up = time);
    }

    /// Makes the next rebalances fail at their end, when added nodes are already active and nothing is balanced.
    pub fn fail_rebalances(&self, count: usize) {
        self.knobs(|knobs| knobs.failing_rebalances = count);
    }

    /// Enables auto-failover of one node that does not answer for this long, until the next rebalance.
    pub fn auto_failover_after(&self, time: Duration) {
        self.knobs(|knobs| knobs.auto_failover_after = Some(time));
    }

    /// Decides from now on what becomes of each request, before anything does. It runs in the nodes' thread: it may do
    /// anything to a [`Node`] or a process but send requests, and must not set another hook.
    pub fn on_request(&self, hook: impl FnMut(&Seen) -> Then + Send + 'static) {
        *lock(&self.shared.hook) = Box::new(hook);
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// How many requests to a path with this end the nodes got.
    pub fn count(&self, path: &str) -> usize {
        lock(&self.shared.seen).iter().filter(|seen| seen.path.ends_with(path)).count()
    }

    pub fn clusters(&self) -> Vec<ClusterView> {
        views(&mut lock(&self.shared.world))
    }

    /// The clusters that were lost because their only node was added to another.
    pub fn wiped(&self) -> Vec<Wiped> {
        lock(&self.shared.world).wiped.clone()
    }
}

impl Index<usize> for Servers {
    type Output = Node;

    fn index(&self, index: usize) -> &Node {
        &self.nodes[index]
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Node {
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its address, which is its name as well.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The base of its URLs.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.address, rest::HTTP)
    }

    /// The base of its URLs with TLS.
    pub fn tls_url(&self) -> String {
        format!("https://{}:{}", self.address, rest::HTTPS)
    }

    /// Switches the machine off. It keeps its data.
    pub fn kill(&self) {
        self.shared.switch(self.index, false, Some(self.thread));
    }

    /// Switches the machine on again.
    pub fn restart(&self) {
        self.shared.switch(self.index, true, Some(self.thread));
    }

    /// Makes it accept requests and never answer, or answer again.
    pub fn hang(&self, hangs: bool) {
        let mut world = lock(&self.shared.world);
        let (is_up, now) = (world.nodes[self.index].is_up, world.now());
        world.settle(now);
        world.set_power(self.index, is_up, hangs, now);
    }

    /// Makes it answer every request with 500, or properly again.
    pub fn answer_500(&self, fails: bool) {
        lock(&self.shared.world).nodes[self.index].answers_500 = fails;
    }

    /// Makes it a blank node, as a new machine at the same address. A cluster that it was in knows nothing of that.
    pub fn reset(&self) {
        let mut world = lock(&self.shared.world);
        let now = world.now();
        world.settle(now);
        world.reset(self.index, now);
    }

    /// Copies the disk of the only node of a cluster.
    pub fn snapshot(&self) -> Snapshot {
        let world = lock(&self.shared.world);
        let cluster = world.cluster(self.index).expect("it is in a cluster");
        assert_eq!(cluster.members.len(), 1, "other nodes would see the copy");
        Snapshot(world.nodes[self.index].clone(), cluster.clone())
    }

    /// Starts a blank node with the copy of its disk. No other node sees it.
    pub fn restore(&self, Snapshot(node, cluster): &Snapshot) {
        let mut world = lock(&self.shared.world);
        let now = world.now();
        let cluster_index = world.clusters.len();
        world.clusters.push(cluster.clone());
        world.nodes[self.index] = node::Node {
            cluster: Some(cluster_index),
            uptime: Duration::ZERO,
            booted: now,
            ..node.clone()
        };
    }

    /// Sets how much memory it has, in bytes; 24 GB at first.
    pub fn memory_total(&self, bytes: u64) {
        let mut world = lock(&self.shared.world);
        let node = &mut world.nodes[self.index];
        node.memory_total = bytes;
        let quota = node.quota_limit() / 2;
        node.quotas.insert("memoryQuota", quota);
    }

    /// Sets for how long it has been up: 204 s at first, and nothing after a restart.
    pub fn set_uptime(&self, time: Duration) {
        let mut world = lock(&self.shared.world);
        let now = world.now();
        let node = &mut world.nodes[self.index];
        (node.uptime, node.booted) = (time, now);
    }

    /// Makes an active node `warmup` for this long.
    pub fn warm_up_for(&self, time: Duration) {
        let mut world = lock(&self.shared.world);
        let now = world.now();
        world.nodes[self.index].loading = Some((now, now + time));
    }

    /// The UUID that it has now; each join, leave and reset changes it.
    pub fn uuid(&self) -> String {
        lock(&self.shared.world).nodes[self.index].uuid.clone()
    }

    /// Puts the administrator's authority and a certificate for the node into the directory from which it loads them.
    pub fn fill_inbox(&self) {
        lock(&self.shared.world).nodes[self.index].has_inbox = true;
    }

    /// Loads the administrator's authority and a certificate for its address, as the administrator may at any time.
    pub fn load_certificate(&self) {
        lock(&self.shared.world).load_certificate(self.index);
    }

    /// The certificate that it shows.
    pub fn certificate(&self) -> CertificateView {
        let world = lock(&self.shared.world);
        let identity = &world.nodes[self.index].identity;
        CertificateView {
            subject: identity.subject.clone(),
            issuer: identity.authority.subject.clone(),
            name: identity.name.clone(),
            pem: identity.pem.clone(),
            authority: identity.authority.pem(),
            is_generated: identity.authority.is_generated,
        }
    }

    /// Makes it a separate cluster, unless it is in one.
    pub fn provision(&self, user: &str, password: &str) {
        let mut world = lock(&self.shared.world);
        if world.nodes[self.index].cluster.is_none() {
            world.rename(self.index, &self.address());
            world.nodes[self.index].quotas.insert("memoryQuota", 256);
            world.provision(self.index, "", user, password);
        }
    }

    /// Sets the number of documents in its cluster.
    pub fn holds_data(&self, items: u64) {
        let mut world = lock(&self.shared.world);
        let cluster = world.cluster_mut(self.index);
        cluster.expect("only a cluster holds data").items = items;
    }

    pub fn is_blank(&self) -> bool {
        lock(&self.shared.world).nodes[self.index].cluster.is_none()
    }

    /// Sends a request to it by plain HTTP.
    pub fn call(
        &self,
        method: &str,
        path: &str,
        form: &[(&str, &str)],
        login: Option<(&str, &str)>,
    ) -> Result<Answer, ureq::Error> {
        self.send(&self.url(), method, path, form, login)
    }

    /// Sends a request to it by TLS.
    pub fn call_tls(
        &self,
        method: &str,
        path: &str,
        form: &[(&str, &str)],
        login: Option<(&str, &str)>,
    ) -> Result<Answer, ureq::Error> {
        self.send(&self.tls_url(), method, path, form, login)
    }

    /// Sends a request with a JSON body to it by plain HTTP.
    pub fn call_json(
        &self,
        method: &str,
        path: &str,
        body: &Value,
        login: Option<(&str, &str)>,
    ) -> Result<Answer, ureq::Error> {
        let request = request(method, &self.url(), path, login);
        let request = request.header("content-type", "application/json");
        self.run(request.body(body.to_string())?)
    }

    fn send(
        &self,
        base: &str,
        method: &str,
        path: &str,
        form: &[(&str, &str)],
        login: Option<(&str, &str)>,
    ) -> Result<Answer, ureq::Error> {
        let mut fields = form_urlencoded::Serializer::new(String::new());
        let body = fields.extend_pairs(form).finish();
        let request = request(method, base, path, login);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        if method == "GET" { self.run(request.body(())?) } else { self.run(request.body(body)?) }
    }

    fn run(
        &self,
        request: ureq::http::Request<impl ureq::AsSendBody>,
    ) -> Result<Answer, ureq::Error> {
        let mut response = self.agent.run(request)?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.body_mut().read_to_string()?,
        })
    }
}

fn request(
    method: &str,
    base: &str,
    path: &str,
    login: Option<(&str, &str)>,
) -> ureq::http::request::Builder {
    let request = ureq::http::Request::builder().method(method).uri(format!("{base}{path}"));
    match login {
        Some((user, password)) => {
            let login = BASE64_STANDARD.encode(format!("{user}:{password}"));
            request.header("authorization", format!("Basic {login}"))
        }
        None => request,
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.nodes).finish()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({}, {})", self.index, self.address)
    }
}

fn views(world: &mut World) -> Vec<ClusterView> {
    let now = world.now();
    world.settle(now);
    let clusters = world.clusters.iter().enumerate();
    let alive = clusters.filter(|(_, cluster)| !cluster.members.is_empty() && !cluster.is_memory);
    alive.map(|(index, cluster)| view(world, index, cluster, now)).collect()
}

fn view(
    world: &World,
    index: usize,
    cluster: &model::Cluster,
    now: std::time::Instant,
) -> ClusterView {
    let node = |member: &model::Member| NodeView {
        index: member.node,
        name: member.name.clone(),
        membership: member.membership,
        recovery: member.recovery,
        is_healthy: world.is_healthy(index, member, now),
        status: world.status(index, member, now).to_owned(),
        services: member.services.clone(),
        group: cluster.group_of(member).to_owned(),
        alternate: world.nodes[member.node].alternate.clone(),
    };
    ClusterView {
        uuid: cluster.uuid.clone(),
        name: cluster.name.clone(),
        quota: cluster.data_quota(),
        nodes: cluster.members.iter().map(node).collect(),
        buckets: cluster.buckets.iter().map(|bucket| bucket.name.clone()).collect(),
        groups: cluster.groups.iter().map(|group| group.name.clone()).collect(),
        is_balanced: cluster.is_balanced(&world.knobs.absent_services)
            && cluster.rebalance.is_none(),
        is_rebalancing: cluster.rebalance.is_some(),
        rebalances: cluster.rebalanced.clone(),
        refused: cluster.refused.clone(),
    }
}

/// A block of loopback addresses that no other test uses, and its sockets.
fn bind(count: usize, with_tls: bool) -> (Vec<Ipv4Addr>, Vec<Sockets>) {
    let last = u8::try_from(count).expect("a block has 254 addresses");
    for _ in 0..TRIES {
        let (a, b) = (fastrand::u8(1..255), fastrand::u8(..));
        let addresses: Vec<_> = (1..=last).map(|c| Ipv4Addr::new(127, a, b, c)).collect();
        let sockets = addresses.iter().map(|address| Sockets::bind(*address, with_tls));
        if let Ok(sockets) = sockets.collect() {
            return (addresses, sockets);
        }
    }
    panic!("ports 8091 and 18091 are taken on every loopback address");
}

/// A client that trusts the authority and keeps no connection.
fn agent(pem: &str) -> Agent {
    let authority = Certificate::from_pem(pem.as_bytes()).expect("it is a certificate");
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[authority]));
    let config = Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .max_idle_connections(0)
        .timeout_global(Some(Duration::from_mins(1)))
        .build();
    config.into()
}

/// A test that failed with a lock in its hands has failed already.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
