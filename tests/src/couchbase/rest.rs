//! The management REST interface: what a request says, what the model makes of it, and how the server puts the answer.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{add, lock, model::World, net::Shared};

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
        fields.find(|field| field.0 == name).map(|field| field.1.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.0.iter().filter(|field| field.0 == name);
        fields.map(|field| field.1.as_str()).collect()
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
    /// The body, if it is JSON.
    pub json: Option<Value>,
    pub login: Option<(String, String)>,
    /// The addresses of the hosts that the form names.
    pub resolved: HashMap<String, Ipv4Addr>,
}

impl Request {
    pub fn login(&self) -> Option<(&str, &str)> {
        let login = self.login.as_ref();
        login.map(|(user, password)| (user.as_str(), password.as_str()))
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// How long the server thinks about it.
    pub delay: Duration,
}

impl Reply {
    fn new(status: u16, header: Option<(&'static str, &str)>, body: String) -> Self {
        let headers = header.map(|(name, value)| (name, value.to_owned()));
        Self { status, headers: headers.into_iter().collect(), body, delay: Duration::ZERO }
    }

    pub fn empty(status: u16) -> Self {
        Self::new(status, None, String::new())
    }

    pub fn text(status: u16, body: &str) -> Self {
        Self::new(status, Some(("content-type", "text/plain")), body.to_owned())
    }

    pub fn json(status: u16, body: &Value) -> Self {
        let header = Some(("content-type", "application/json"));
        Self::new(status, header, body.to_string())
    }

    pub fn ok(body: &Value) -> Self {
        Self::json(200, body)
    }

    /// A refusal in one sentence.
    pub fn refused(why: &str) -> Self {
        Self::json(400, &json!([why]))
    }

    /// A refusal that names a field.
    pub fn error(field: &str, why: &str) -> Self {
        Self::json(400, &json!({"errors": {field: why}}))
    }

    /// A refusal in a test's words.
    pub fn refuse_with(status: u16, body: String) -> Self {
        let kind = match serde_json::from_str::<Value>(&body) {
            Ok(_) => "application/json",
            Err(_) => "text/plain",
        };
        Self::new(status, Some(("content-type", kind)), body)
    }

    pub fn unexpected() -> Self {
        Self::json(500, &json!(["Unexpected server error, request logged."]))
    }

    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    fn not_found() -> Self {
        Self::text(404, "Not found.")
    }

    fn unauthorized() -> Self {
        let realm = "Basic realm=\"Couchbase Server Admin / REST\"";
        Self::new(401, Some(("www-authenticate", realm)), String::new())
    }
}

/// A URL's scheme, host and port, those that it has.
pub fn parts(url: &str) -> (Option<&str>, &str, Option<u16>) {
    let (scheme, rest) = url.split_once("://").map_or((None, url), |(s, rest)| (Some(s), rest));
    let rest = rest.split('/').next().unwrap_or_default();
    match rest.split_once(':') {
        Some((host, port)) => (scheme, host, port.parse().ok()),
        None => (scheme, rest, None),
    }
}

/// The hosts that a form names.
pub fn hosts(form: &Form) -> impl Iterator<Item = &str> {
    let names = ["hostname", "newNodeHostname"];
    names.into_iter().filter_map(|name| Some(parts(form.get(name)?).1))
}

/// What anybody may ask for.
fn is_public(method: &str, path: &[&str]) -> bool {
    method == "GET"
        && matches!(path, ["whoami"] | ["pools", "default", "trustedCAs" | "certificate"])
}

/// Whether there is no such path, which a server says before it asks for credentials.
fn is_unknown(method: &str, path: &[&str]) -> bool {
    method == "GET"
        && matches!(
            path,
            ["uilogin" | "engageCluster2" | "isNodeProvisioned"]
                | ["node", "controller", _]
                | ["pools", "default", "b"]
        )
}

/// Answers as the node.
pub async fn answer(shared: &Shared, node: usize, request: &Request) -> Reply {
    let path: Vec<_> = request.path.trim_matches('/').split('/').collect();
    let method = request.method.as_str();
    if is_unknown(method, &path) {
        return Reply::not_found();
    }
    let is_anonymous = is_public(method, &path) && request.login().is_none();
    if !is_anonymous && !lock(&shared.world).admits(node, request.login()) {
        return Reply::unauthorized();
    }
    let answered = match (method, path.as_slice()) {
        ("POST", ["controller", "addNode" | "addNodeV2"]) => {
            add::to_cluster(shared, node, request, "0").await
        }
        ("POST", ["pools", "default", "serverGroups", group, "addNode"]) => {
            add::to_cluster(shared, node, request, group).await
        }
        ("POST", ["node", "controller", "doJoinCluster"]) => add::join(shared, node, request).await,
        (method, path) => {
            let mut world = lock(&shared.world);
            let now = world.now();
            world.settle(now);
            let mut call = Call { world: &mut world, node, request, now };
            call.answer(method, path)
        }
    };
    let reply = answered.unwrap_or_else(|refused| refused);
    sleep(reply.delay).await;
    reply
}

/// The services of a list, each once.
pub fn services(world: &World, list: &str) -> Result<Vec<String>, String> {
    let allowed = allowed_services(world);
    let mut services: Vec<_> = list.split(',').filter(|s| !s.is_empty()).collect();
    let unknown: Vec<_> = services.iter().filter(|s| !allowed.contains(s)).collect();
    if !unknown.is_empty() {
        return Err(format!("Unknown services: {unknown:?}").replace(", ", ","));
    }
    if services.is_empty() {
        return Err("At least one service has to be selected".to_owned());
    }
    let mut seen = BTreeSet::new();
    services.retain(|service| seen.insert(*service));
    Ok(services.into_iter().map(str::to_owned).collect())
}

/// The Community Edition has few combinations of services.
pub fn check_combination(world: &World, services: &[String]) -> Result<(), String> {
    let mut services: Vec<_> = services.iter().map(String::as_str).collect();
    services.sort_unstable();
    let is_supported = matches!(
        services.as_slice(),
        ["kv"] | ["index", "kv", "n1ql"] | ["fts", "index", "kv", "n1ql"]
    );
    if world.knobs.community && !is_supported {
        let why = "Unsupported service combination. Community edition supports only the following combinations: \
                   \"data\", \"data, index, query\", \"data, index, query, full text search\"";
        return Err(why.to_owned());
    }
    Ok(())
}

pub fn allowed_services(world: &World) -> &'static [&'static str] {
    if world.knobs.community {
        &["kv", "n1ql", "index", "fts"]
    } else {
        &["kv", "n1ql", "index", "fts", "cbas", "eventing", "backup"]
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
    /// Whether the request may do all, as it is not only answered because anybody may ask.
    pub fn is_admin(&self) -> bool {
        self.world.admits(self.node, self.request.login())
    }

    fn answer(&mut self, method: &str, path: &[&str]) -> Result<Reply, Reply> {
        let cluster = self.world.cluster(self.node);
        let is_memory = cluster.is_some_and(|cluster| cluster.is_memory);
        if is_memory && method != "GET" && path != ["controller", "hardResetNode"] {
            return Err(Reply::unexpected());
        }
        match path {
            ["pools", "default", rest @ ..] => self.answer_pool(method, rest),
            ["controller", command] if method == "POST" => self.control(command),
            ["node" | "nodes" | "nodeInit" | "clusterInit", ..] => self.answer_node(method, path),
            _ => self.answer_other(method, path),
        }
    }

    fn answer_other(&mut self, method: &str, path: &[&str]) -> Result<Reply, Reply> {
        Ok(match (method, path) {
            ("GET", ["pools"]) => self.pools(),
            ("GET", ["whoami"]) => self.whoami(),
            ("GET", ["logs", "rebalanceReport"]) => self.report(),
            ("GET", ["settings", "autoFailover"]) => self.auto_failover(),
            ("POST", ["settings", "autoFailover"]) => self.set_auto_failover()?,
            ("POST", ["settings", "autoFailover", "resetCount"]) => self.reset_failovers(),
            ("POST", ["settings", "web"]) => self.set_credentials()?,
            _ => Reply::not_found(),
        })
    }

    /// What is below `/node`, `/nodes`, `/nodeInit` and `/clusterInit`.
    fn answer_node(&mut self, method: &str, path: &[&str]) -> Result<Reply, Reply> {
        Ok(match (method, path) {
            ("GET", ["nodes", "self"]) => self.own(),
            ("POST", ["clusterInit"]) => self.cluster_init()?,
            ("POST", ["nodeInit"]) => self.node_init()?,
            ("POST", ["nodes", "self", "controller", "settings"]) => self.set_paths()?,
            ("POST", ["node", "controller", "rename"]) => self.rename()?,
            ("POST", ["node", "controller", "setupServices"]) => self.set_services()?,
            ("POST", ["node", "controller", "setupNetConfig"]) => self.set_network()?,
            ("POST", ["node", "controller", "loadTrustedCAs"]) => self.load_authorities()?,
            ("POST", ["node", "controller", "reloadCertificate"]) => self.reload_certificate()?,
            ("PUT" | "DELETE", ["node", "controller", "setupAlternateAddresses", "external"]) => {
                self.set_alternate(method == "PUT")?
            }
            _ => Reply::not_found(),
        })
    }

    /// What is below `/controller`.
    fn control(&mut self, command: &str) -> Result<Reply, Reply> {
        Ok(match command {
            "rebalance" => self.rebalance(),
            "stopRebalance" => self.stop_rebalance(),
            "ejectNode" => self.eject()?,
            "failOver" => self.fail_over()?,
            "startGracefulFailover" => self.start_graceful_failover()?,
            "setRecoveryType" => self.set_recovery_type()?,
            "reAddNode" => self.add_again()?,
            "reFailOver" => self.fail_over_again()?,
            "hardResetNode" => self.hard_reset(),
            _ => Reply::not_found(),
        })
    }

    /// What is below `/pools/default`.
    fn answer_pool(&mut self, method: &str, path: &[&str]) -> Result<Reply, Reply> {
        let is_provisioned = self.world.nodes[self.node].cluster.is_some();
        Ok(match (method, path) {
            ("GET", ["tasks"]) => self.tasks(),
            ("GET", ["rebalanceProgress"]) => self.progress(),
            ("GET", ["pendingRetryRebalance"]) => {
                Reply::ok(&json!({"retry_rebalance": "not_pending"}))
            }
            ("POST", []) => self.set_quota()?,
            ("GET", ["trustedCAs"]) => self.authorities()?,
            ("DELETE", ["trustedCAs", id]) => self.delete_authority(id)?,
            ("GET", ["certificate"]) => self.authority()?,
            ("GET", ["certificates"]) => self.certificates(),
            ("GET", ["certificate", "node", name]) => self.certificate(name)?,
            ("GET" | "POST" | "PUT", ["serverGroups", ..]) if self.world.knobs.community => {
                return Err(self.needs_enterprise().err().unwrap_or_else(Reply::not_found));
            }
            _ if !is_provisioned => Reply::json(404, &json!("unknown pool")),
            ("GET", []) => self.pool()?,
            ("GET", ["terseClusterInfo"]) => self.terse(),
            ("GET", ["buckets"]) => self.buckets(None),
            ("GET", ["buckets", name]) => self.buckets(Some(name)),
            ("POST", ["buckets"]) => self.create_bucket()?,
            ("POST", ["buckets", name]) => self.edit_bucket(name)?,
            ("DELETE", ["buckets", name]) => self.delete_bucket(name)?,
            ("GET", ["serverGroups"]) => self.groups(),
            ("POST", ["serverGroups"]) => self.name_group(None)?,
            ("PUT", ["serverGroups"]) => self.move_nodes()?,
            ("PUT", ["serverGroups", group]) => self.name_group(Some(group))?,
            _ => Reply::not_found(),
        })
    }
}
