//! The management REST interface: what a request says, what the model makes of it, and how the server puts the answer.

use std::{collections::HashMap, net::Ipv4Addr, time::Instant};

use serde_json::{Value, json};

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

impl Request {
    fn login(&self) -> Option<(&str, &str)> {
        let login = self.login.as_ref();
        login.map(|(user, password)| (user.as_str(), password.as_str()))
    }
}

/// An answer.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Reply {
    fn new(status: u16, header: Option<(&'static str, &str)>, body: String) -> Self {
        let headers = header.map(|(name, value)| (name, value.to_owned()));
        Self {
            status,
            headers: headers.into_iter().collect(),
            body,
        }
    }

    pub fn empty(status: u16) -> Self {
        Self::new(status, None, String::new())
    }

    pub fn text(status: u16, body: &str) -> Self {
        Self::new(
            status,
            Some(("content-type", "text/plain")),
            body.to_owned(),
        )
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

    fn unauthorized() -> Self {
        let realm = "Basic realm=\"Couchbase Server Admin / REST\"";
        Self::new(401, Some(("www-authenticate", realm)), String::new())
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
    if !lock(&shared.world).admits(node, request.login()) {
        return Reply::unauthorized();
    }
    let path: Vec<_> = request.path.trim_matches('/').split('/').collect();
    let answered = match (request.method.as_str(), path.as_slice()) {
        ("POST", ["controller", "addNode" | "addNodeV2"]) => {
            add::to_cluster(shared, node, request, "0").await
        }
        ("POST", ["pools", "default", "serverGroups", group, "addNode"]) => {
            add::to_cluster(shared, node, request, group).await
        }
        ("POST", ["node", "controller", "doJoinCluster"]) => add::join(shared, node, request).await,
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
    };
    answered.unwrap_or_else(|refused| refused)
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

/// A request that is answered at once.
pub struct Call<'a> {
    pub world: &'a mut World,
    pub node: usize,
    pub request: &'a Request,
    pub now: Instant,
}

impl Call<'_> {
    fn answer(&mut self, method: &str, path: &[&str]) -> Result<Reply, Reply> {
        let is_provisioned = self.world.nodes[self.node].cluster.is_some();
        let reply = match (method, path) {
            ("GET", ["pools"]) => self.pools(),
            ("GET", ["nodes", "self"]) => self.own(),
            ("GET", ["pools", "default", "tasks"]) => self.tasks(),
            ("GET", ["pools", "default", "rebalanceProgress"]) => self.progress(),
            ("GET", ["pools", "default", "pendingRetryRebalance"]) => {
                Reply::ok(&json!({"retry_rebalance": "not_pending"}))
            }
            ("GET", ["settings", "autoFailover"]) => self.auto_failover(),
            ("POST", ["settings", "autoFailover"]) => self.set_auto_failover()?,
            ("POST", ["clusterInit"]) => self.cluster_init()?,
            ("POST", ["nodeInit"]) => self.node_init()?,
            ("POST", ["settings", "web"]) => self.set_credentials()?,
            ("POST", ["pools", "default"]) => self.set_quota()?,
            ("POST", ["nodes", "self", "controller", "settings"]) => self.set_paths()?,
            ("POST", ["node", "controller", "rename"]) => self.rename()?,
            ("POST", ["node", "controller", "setupServices"]) => self.set_services()?,
            ("POST", ["node", "controller", "setupNetConfig"]) => self.set_network()?,
            ("PUT" | "DELETE", ["node", "controller", "setupAlternateAddresses", "external"]) => {
                self.set_alternate(method == "PUT")?
            }
            ("POST", ["controller", "rebalance"]) => self.rebalance(),
            ("POST", ["controller", "ejectNode"]) => self.eject()?,
            (_, ["pools", "default", ..]) if !is_provisioned => {
                Reply::json(404, &json!("unknown pool"))
            }
            ("GET", ["pools", "default"]) => self.pool(),
            ("GET", ["pools", "default", "terseClusterInfo"]) => self.terse(),
            ("GET", ["pools", "default", "buckets"]) => self.buckets(None),
            ("GET", ["pools", "default", "buckets", name]) => self.buckets(Some(name)),
            ("POST", ["pools", "default", "buckets"]) => self.create_bucket()?,
            ("GET", ["pools", "default", "serverGroups"]) => self.groups(),
            ("POST", ["pools", "default", "serverGroups"]) => self.name_group(None)?,
            ("PUT", ["pools", "default", "serverGroups", group]) => self.name_group(Some(group))?,
            _ => Reply::text(404, "Not found."),
        };
        Ok(reply)
    }
}
