//! The management REST interface: what a request says, what the model makes of it, and how the server puts the answer.

use std::{collections::HashMap, net::Ipv4Addr, time::Instant};

use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::{
    lock,
    model::{Addition, NO_NAME, NotAdded, World},
    net::Shared,
};

pub const VERSION: &str = "7.6.8-7151";
pub const HTTP: u16 = 8091;
pub const HTTPS: u16 = 18091;

/// Form fields, or a query's.
#[derive(Clone, Debug, Default)]
pub struct Form(pub Vec<(String, String)>);

impl Form {
    pub fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let mut fields = self.0.iter();
        fields
            .find(|field| field.0 == name)
            .map(|field| field.1.as_str())
    }

    pub fn unknown(&self, known: &[&str]) -> Vec<&str> {
        let names = self.0.iter().map(|field| field.0.as_str());
        names.filter(|name| !known.contains(name)).collect()
    }
}

/// A request as it came to a node.
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: Form,
    pub form: Form,
    pub login: Option<(String, String)>,
    /// The addresses of the hosts that the form names.
    pub resolved: HashMap<String, Ipv4Addr>,
}

/// An answer.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Reply {
    pub fn empty(status: u16) -> Self {
        let headers = Vec::new();
        let body = String::new();
        Self {
            status,
            headers,
            body,
        }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        let body = body.to_string();
        Self {
            status,
            headers,
            body,
        }
    }

    pub fn text(status: u16, body: &str) -> Self {
        let headers = vec![("content-type", "text/plain".to_owned())];
        let body = body.to_owned();
        Self {
            status,
            headers,
            body,
        }
    }

    pub fn ok(body: &Value) -> Self {
        Self::json(200, body)
    }

    /// A refusal in one sentence.
    pub fn refused(why: &str) -> Self {
        Self::json(400, &json!([why]))
    }

    /// A refusal that names fields.
    pub fn errors(errors: &Map<String, Value>) -> Self {
        Self::json(400, &json!({"errors": errors}))
    }

    pub fn error(field: &str, why: &str) -> Self {
        Self::json(400, &json!({"errors": {field: why}}))
    }

    pub fn unauthorized() -> Self {
        let realm = "Basic realm=\"Couchbase Server Admin / REST\"".to_owned();
        let headers = vec![("www-authenticate", realm)];
        let body = String::new();
        Self {
            status: 401,
            headers,
            body,
        }
    }
}

/// A URL's scheme, host and port, those that it has.
pub fn parts(url: &str) -> (Option<&str>, &str, Option<u16>) {
    let (scheme, rest) = url
        .split_once("://")
        .map_or((None, url), |(s, rest)| (Some(s), rest));
    let rest = rest.split('/').next().unwrap_or_default();
    match rest.split_once(':') {
        Some((host, port)) => (scheme, host, port.parse().ok()),
        None => (scheme, rest, None),
    }
}

/// The hosts that a form names.
pub fn hosts(form: &Form) -> impl Iterator<Item = &str> {
    let names = ["hostname", "newNodeHostname"];
    names
        .into_iter()
        .filter_map(|name| Some(parts(form.get(name)?).1))
}

/// Answers as the node.
pub async fn answer(shared: &Shared, node: usize, request: &Request) -> Reply {
    let login = request.login.as_ref();
    let login = login.map(|(user, password)| (user.as_str(), password.as_str()));
    if !lock(&shared.world).admits(node, login) {
        return Reply::unauthorized();
    }
    let path: Vec<_> = request.path.trim_matches('/').split('/').collect();
    match (request.method.as_str(), path.as_slice()) {
        ("POST", ["controller", "addNode" | "addNodeV2"]) => {
            add_node(shared, node, request, None).await
        }
        ("POST", ["pools", "default", "serverGroups", group, "addNode"]) => {
            add_node(shared, node, request, Some((*group).to_owned())).await
        }
        ("POST", ["node", "controller", "doJoinCluster"]) => join(shared, node, request).await,
        (method, path) => {
            let mut world = lock(&shared.world);
            let now = Instant::now();
            world.settle(now);
            let mut call = Call {
                world: &mut world,
                node,
                request,
                now,
            };
            call.answer(method, path)
        }
    }
}

/// What is to be added to where, as a request says it.
struct Target {
    scheme: String,
    host: String,
    port: u16,
    services: Vec<String>,
}

impl Target {
    /// All that is wrong with the request, or the target.
    pub fn of(world: &World, form: &Form, known: &[&str]) -> Result<Self, Reply> {
        let mut wrong = Vec::new();
        for name in ["user", "password"] {
            if form.get(name).is_none() {
                wrong.push(format!("{name} is missing"));
            }
        }
        let hostname = form.get("hostname").unwrap_or_default().trim();
        if hostname.is_empty() {
            wrong.push("Hostname is required.".to_owned());
        }
        let unknown = form.unknown(known);
        if !known.is_empty() && !unknown.is_empty() {
            wrong.push(format!("Got unknown parameters: {unknown:?}"));
        }
        let services = services(world, form.get("services").unwrap_or("kv"));
        if let Err(why) = &services {
            wrong.push(why.clone());
        }
        let (user, password) = (form.get("user"), form.get("password"));
        if wrong.is_empty() && password == Some("") && user != Some("") {
            wrong.push("A password must be supplied.".to_owned());
        }
        if !wrong.is_empty() {
            return Err(Reply::json(400, &json!(wrong)));
        }
        let (scheme, host, port) = parts(hostname);
        let is_default_http = world.knobs.community;
        let scheme = scheme.unwrap_or(if is_default_http { "http" } else { "https" });
        Ok(Self {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port: port.unwrap_or(if scheme == "http" { HTTP } else { HTTPS }),
            services: services.unwrap_or_default(),
        })
    }

    /// The node that listens there.
    pub fn node(
        &self,
        world: &World,
        resolved: &HashMap<String, Ipv4Addr>,
    ) -> Result<usize, String> {
        let address = resolved.get(&self.host);
        let is_it = |node: &super::model::Node| node.is_up && Some(&node.address) == address;
        let port = match self.scheme.as_str() {
            "http" => HTTP,
            _ if world.knobs.community => 0,
            _ => HTTPS,
        };
        let node = world
            .nodes
            .iter()
            .position(is_it)
            .filter(|_| self.port == port);
        node.ok_or_else(|| {
            format!(
                "Failed to connect to {}://{}:{}. Could not connect to {}",
                self.scheme,
                self.host,
                self.port,
                self.blocked()
            )
        })
    }

    pub fn blocked(&self) -> String {
        format!(
            "\"{}\" on port {}.  This could be due to an incorrect host/port combination or a firewall in place \
             between the servers.",
            self.host, self.port
        )
    }
}

pub fn services(world: &World, list: &str) -> Result<Vec<String>, String> {
    let allowed = allowed_services(world);
    let services: Vec<_> = list
        .split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .collect();
    let unknown: Vec<_> = services.iter().filter(|s| !allowed.contains(s)).collect();
    if !unknown.is_empty() {
        return Err(format!("Unknown services: {unknown:?}"));
    }
    if services.is_empty() {
        return Err("At least one service has to be selected".to_owned());
    }
    Ok(services.into_iter().map(str::to_owned).collect())
}

pub fn allowed_services(world: &World) -> &'static [&'static str] {
    if world.knobs.community {
        &["kv", "n1ql", "index", "fts"]
    } else {
        &["kv", "n1ql", "index", "fts", "cbas", "eventing", "backup"]
    }
}

async fn add_node(shared: &Shared, node: usize, request: &Request, group: Option<String>) -> Reply {
    let form = &request.form;
    let known = ["hostname", "user", "password", "services"];
    let target = Target::of(&lock(&shared.world), form, &known);
    let target = match target {
        Ok(target) => target,
        Err(reply) => return reply,
    };
    let credential = |name| form.get(name).unwrap_or_default().to_owned();
    let login = (credential("user"), credential("password"));
    match add(shared, node, &target, login, group, &request.resolved).await {
        Ok(otp) => Reply::ok(&json!({"otpNode": otp})),
        Err(why) => Reply::refused(&why),
    }
}

async fn join(shared: &Shared, node: usize, request: &Request) -> Reply {
    let form = &request.form;
    let (target, member, host, resolved) = {
        let world = lock(&shared.world);
        if world.nodes[node].cluster.is_some() {
            let why =
                "Node is already provisioned. To join use controller/addNode api of the cluster";
            return Reply::refused(why);
        }
        let target = match Target::of(&world, form, &[]) {
            Ok(target) => target,
            Err(reply) => return reply,
        };
        let member = match target.node(&world, &request.resolved) {
            Ok(member) => member,
            Err(why) => return Reply::refused(&why),
        };
        let login = form.get("user").zip(form.get("password"));
        if !world.admits(member, login) {
            return Reply::refused("Authentication failed. Verify username and password.");
        }
        let own = &world.nodes[node];
        let host = match form.get("newNodeHostname") {
            Some(host) if !["", "127.0.0.1"].contains(&host) => host.to_owned(),
            _ if own.name == NO_NAME => own.address.to_string(),
            _ => own.name.clone(),
        };
        let mut resolved = request.resolved.clone();
        resolved.insert(own.address.to_string(), own.address);
        (target, member, host, resolved)
    };
    let port = if target.scheme == "http" { HTTP } else { HTTPS };
    let own = Target {
        host,
        port,
        ..target
    };
    match add(
        shared,
        member,
        &own,
        (String::new(), String::new()),
        None,
        &resolved,
    )
    .await
    {
        Ok(_) => Reply::empty(200),
        Err(why) => Reply::refused(&why),
    }
}

/// Adds a node through another, or says why not. A member adds one node after the other.
async fn add(
    shared: &Shared,
    through: usize,
    target: &Target,
    (user, password): (String, String),
    group: Option<String>,
    resolved: &HashMap<String, Ipv4Addr>,
) -> Result<String, String> {
    let _turn = shared.turns[through].lock().await;
    let refused = |why: String| {
        if let Some(cluster) = lock(&shared.world).cluster_mut(through) {
            cluster.refused.push(why.clone());
        }
        why
    };
    let found = {
        let mut world = lock(&shared.world);
        world.settle(Instant::now());
        find(&world, through, target, group.as_deref(), resolved)
    };
    let adding = Adding {
        shared,
        addition: Addition {
            through,
            joiner: found.map_err(refused)?,
            host: target.host.clone(),
            user,
            password,
            services: target.services.clone(),
            group,
        },
    };
    match adding.run().await {
        Ok(otp) => Ok(otp),
        Err(NotAdded::Refused(why)) => Err(refused(why)),
        Err(NotAdded::TimedOut) => {
            let why = format!(
                "Prepare join failed. Timeout connecting to {}",
                target.blocked()
            );
            Err(refused(why))
        }
    }
}

fn find(
    world: &World,
    through: usize,
    target: &Target,
    group: Option<&str>,
    resolved: &HashMap<String, Ipv4Addr>,
) -> Result<usize, String> {
    let cluster = world.may_add(through)?;
    let joiner = target.node(world, resolved)?;
    if target.scheme == "http" && !world.knobs.community {
        return Err("http is prohibited due to security reasons, please use https".to_owned());
    }
    let mut groups = world.clusters[cluster].groups.iter();
    match group {
        Some(id) if !groups.any(|group| group.id == id) => {
            Err(format!("Could not find group with uuid: {id}"))
        }
        _ => Ok(joiner),
    }
}

/// A node that is being added. It ends with this, also when the member is switched off.
struct Adding<'a> {
    shared: &'a Shared,
    addition: Addition,
}

impl Adding<'_> {
    async fn run(&self) -> Result<String, NotAdded> {
        let (takes, timeout) = {
            let mut world = lock(&self.shared.world);
            world.begin_to_add(&self.addition, Instant::now())?;
            (world.knobs.add_takes, world.knobs.add_timeout)
        };
        sleep(takes).await;
        let added = {
            let mut world = lock(&self.shared.world);
            let now = Instant::now();
            world.settle(now);
            world.add(&self.addition, now)
        };
        if let Err(NotAdded::TimedOut) = added {
            sleep(timeout.saturating_sub(takes)).await;
        }
        added
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        lock(&self.shared.world).end_to_add(&self.addition);
    }
}

/// A request that is answered at once.
pub struct Call<'a> {
    pub world: &'a mut World,
    pub node: usize,
    pub request: &'a Request,
    pub now: Instant,
}

impl Call<'_> {
    pub fn answer(&mut self, method: &str, path: &[&str]) -> Reply {
        let is_provisioned = self.world.nodes[self.node].cluster.is_some();
        match (method, path) {
            ("GET", ["pools"]) => self.pools(),
            ("GET", ["nodes", "self"]) => self.own(),
            ("GET", ["pools", "default", "tasks"]) => self.tasks(),
            ("GET", ["pools", "default", "rebalanceProgress"]) => self.progress(),
            ("GET", ["pools", "default", "pendingRetryRebalance"]) => {
                Reply::ok(&json!({"retry_rebalance": "not_pending"}))
            }
            ("GET", ["settings", "autoFailover"]) => self.auto_failover(),
            ("POST", ["settings", "autoFailover"]) => self.set_auto_failover(),
            ("POST", ["clusterInit"]) => self.cluster_init(),
            ("POST", ["nodeInit"]) => self.node_init(),
            ("POST", ["settings", "web"]) => self.set_credentials(),
            ("POST", ["pools", "default"]) => self.set_quota(),
            ("POST", ["nodes", "self", "controller", "settings"]) => self.set_paths(),
            ("POST", ["node", "controller", "rename"]) => self.rename(),
            ("POST", ["node", "controller", "setupServices"]) => self.set_services(),
            ("POST", ["node", "controller", "setupNetConfig"]) => self.set_network(),
            ("PUT" | "DELETE", ["node", "controller", "setupAlternateAddresses", "external"]) => {
                self.set_alternate(method == "PUT")
            }
            ("POST", ["controller", "rebalance"]) => self.rebalance(),
            ("POST", ["controller", "ejectNode"]) => self.eject(),
            (_, ["pools", "default", ..]) if !is_provisioned => {
                Reply::json(404, &json!("unknown pool"))
            }
            ("GET", ["pools", "default"]) => self.pool(),
            ("GET", ["pools", "default", "terseClusterInfo"]) => self.terse(),
            ("GET", ["pools", "default", "buckets"]) => self.buckets(None),
            ("GET", ["pools", "default", "buckets", name]) => self.buckets(Some(name)),
            ("POST", ["pools", "default", "buckets"]) => self.create_bucket(),
            ("GET", ["pools", "default", "serverGroups"]) => self.groups(),
            ("POST", ["pools", "default", "serverGroups"]) => self.name_group(None),
            ("PUT", ["pools", "default", "serverGroups", group]) => self.name_group(Some(group)),
            _ => Reply::text(404, "Not found."),
        }
    }
}
