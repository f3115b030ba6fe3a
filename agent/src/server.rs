//! A Couchbase Server's management REST interface: the calls that the agent makes, and what they say.
//!
//! Wording differs between the server's versions, so nothing here looks at the text of a message. Neither the password nor a form
//! that holds it is ever part of an error.

use std::{fmt, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use cbbootstrap_protocol::names::{self, Uuid};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use ureq::{Agent, RequestBuilder, http::StatusCode};

use crate::{
    decision::INITIALISE_LIMIT,
    http::{self, Deadline, Trust},
    secret::Secret,
};

/// The port of the management interface.
pub const PORT: u16 = 8091;

/// The same with TLS.
pub const TLS_PORT: u16 = 18091;

/// How long a server that adds a node may take: it gives up after 30 s by itself.
const ADDING: Duration = Duration::from_secs(90);

/// Who may administer the cluster.
#[derive(Clone, Debug)]
pub struct Administrator {
    /// The user's name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// What the first node of a cluster is to be.
#[derive(Debug)]
pub struct FirstNode<'a> {
    /// Its host name or address.
    pub node: &'a str,
    /// Its services, by their names in the REST interface.
    pub services: &'a str,
    /// The data service's memory in MB.
    pub quota: u64,
    /// The cluster's name.
    pub cluster_name: Option<&'a str>,
    /// Who is to administer it.
    pub administrator: &'a Administrator,
    /// Its edition, which decides on the storage of indexes.
    pub is_enterprise: bool,
}

/// One server, and how to talk to it.
#[derive(Debug)]
pub struct Server {
    /// Its URL.
    pub url: String,
    client: Agent,
    /// `None` sends no credentials.
    administrator: Option<Administrator>,
    deadline: Deadline,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub enum Error {
    /// There was no answer, or it broke off.
    Away(String),
    /// It takes connections and does not answer in time, or answers that it fails.
    Failing(String),
    /// Its certificate is not trusted.
    Untrusted(String),
    /// It has other credentials.
    Unauthorized,
    /// It refused with this status and these words.
    Refused(StatusCode, String),
    /// Its answer is not understood.
    Strange(String),
}

impl Error {
    /// Whether the server will refuse the same call again. This is the one place that tells transient refusals from permanent
    /// ones, by status: wording differs between the server's versions.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Refused(status, _) => {
                const TRANSIENT: [StatusCode; 4] = [
                    StatusCode::REQUEST_TIMEOUT,
                    StatusCode::CONFLICT,
                    StatusCode::LOCKED,
                    StatusCode::TOO_MANY_REQUESTS,
                ];
                status.is_client_error() && !TRANSIENT.contains(status)
            }
            Self::Away(_)
            | Self::Failing(_)
            | Self::Untrusted(_)
            | Self::Unauthorized
            | Self::Strange(_) => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(why)
            | Self::Failing(why)
            | Self::Untrusted(why)
            | Self::Strange(why)
            | Self::Refused(_, why) => f.write_str(why),
            Self::Unauthorized => f.write_str("it has another user name or password"),
        }
    }
}

/// What a server says of itself, to anyone while it belongs to no cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pools {
    /// The UUID of its cluster; `None` if it is not provisioned.
    pub uuid: Option<Uuid>,
    /// Its version.
    pub version: String,
    /// Whether it is the Enterprise Edition.
    pub is_enterprise: bool,
}

/// What a server says of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnInfo {
    /// The server's UUID. It changes each time the node joins a cluster, leaves one or is reset.
    pub uuid: Option<Uuid>,
    /// The memory that it may use, in bytes: it knows its container's limit.
    pub memory: u64,
}

/// How a node belongs to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It is in.
    Active,
    /// It was added, or is marked for recovery, and waits for a rebalance.
    Added,
    /// It was failed over.
    Failed,
}

/// How well a node is, as the asked server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Healthy,
    /// It answers, and loads its data.
    WarmingUp,
    /// It cannot be reached.
    Unhealthy,
}

/// A node, as a member of its cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its address or host name, without the port.
    pub name: String,
    /// Its name for rebalances.
    pub otp: String,
    /// Its server's UUID.
    pub uuid: Option<Uuid>,
    /// How it belongs to the cluster.
    pub membership: Membership,
    /// Whether it was failed over and is marked to be recovered by the next rebalance.
    pub is_recovering: bool,
    /// How well it is.
    pub health: Health,
    /// For how long its server has been running.
    pub uptime: Duration,
    /// Whether it is the server that was asked.
    pub is_asked: bool,
    /// Its server group. Community Edition has none.
    pub group: Option<String>,
}

/// A cluster, as a member sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its nodes.
    pub nodes: Vec<NodeInfo>,
    /// Whether each node has its share of the data.
    pub is_balanced: bool,
    /// Whether a rebalance runs.
    pub is_rebalancing: bool,
    /// The names of its buckets.
    pub buckets: Vec<String>,
}

impl View {
    /// The node that was asked.
    pub fn this(&self) -> Option<&NodeInfo> {
        self.nodes.iter().find(|node| node.is_asked)
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

/// A rebalance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rebalance {
    /// How far it is, in percent, if it runs.
    pub progress: Option<f64>,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
}

/// A server group.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The path to rename it.
    pub uri: String,
    /// The path to add a node to it.
    #[serde(rename = "addNodeURI")]
    pub add_node_uri: String,
    /// Its nodes.
    #[serde(default)]
    pub nodes: Vec<GroupNode>,
}

/// A node of a server group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupNode {
    /// Its name for rebalances.
    #[serde(rename = "otpNode")]
    pub otp: String,
}

/// All server groups of a cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Groups {
    /// The groups.
    pub groups: Vec<Group>,
    /// The path to change which nodes are in which: it names the revision that is changed.
    pub uri: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPools {
    /// An empty list while the server belongs to no cluster. A Couchbase Server always says something here.
    uuid: Value,
    #[serde(default)]
    pools: Vec<Value>,
    implementation_version: String,
    #[serde(default)]
    is_enterprise: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPool {
    nodes: Vec<RawNode>,
    #[serde(default)]
    balanced: bool,
    #[serde(default)]
    rebalance_status: String,
    #[serde(default)]
    bucket_names: Vec<RawBucket>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawNode {
    hostname: String,
    otp_node: String,
    cluster_membership: String,
    status: String,
    #[serde(default)]
    this_node: bool,
    server_group: Option<String>,
    #[serde(rename = "nodeUUID")]
    node_uuid: Option<String>,
    #[serde(default)]
    recovery_type: String,
    /// Seconds, as text.
    #[serde(default)]
    uptime: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBucket {
    bucket_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTask {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    status: String,
    progress: Option<f64>,
    error_message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSelf {
    memory_total: u64,
    #[serde(rename = "nodeUUID")]
    node_uuid: Option<String>,
}

#[derive(Deserialize)]
struct RawAuthority {
    #[serde(default)]
    pem: String,
}

impl RawPools {
    /// A server that is neither surely blank nor surely provisioned must not be taken for blank.
    fn parse(self) -> Option<Pools> {
        let is_blank = self.pools.is_empty() && self.uuid.as_array().is_some_and(Vec::is_empty);
        let cluster = self.uuid.as_str().and_then(|text| Uuid::new(text).ok());
        (is_blank != cluster.is_some()).then_some(Pools {
            uuid: cluster,
            version: self.implementation_version,
            is_enterprise: self.is_enterprise,
        })
    }
}

impl RawPool {
    fn view(self, uuid: Uuid) -> View {
        View {
            uuid,
            nodes: self.nodes.into_iter().map(NodeInfo::from).collect(),
            is_balanced: self.balanced,
            is_rebalancing: !matches!(self.rebalance_status.as_str(), "" | "none" | "notRunning"),
            buckets: self.bucket_names.into_iter().map(|b| b.bucket_name).collect(),
        }
    }
}

impl From<RawNode> for NodeInfo {
    fn from(raw: RawNode) -> Self {
        let membership = match raw.cluster_membership.as_str() {
            "active" => Membership::Active,
            "inactiveAdded" => Membership::Added,
            _ => Membership::Failed,
        };
        Self {
            name: host_of(&raw.hostname),
            otp: raw.otp_node,
            uuid: uuid(raw.node_uuid),
            membership,
            is_recovering: !matches!(raw.recovery_type.as_str(), "" | "none"),
            health: match raw.status.as_str() {
                "healthy" => Health::Healthy,
                "warmup" => Health::WarmingUp,
                _ => Health::Unhealthy,
            },
            // A server that does not say has run for long enough.
            uptime: raw.uptime.parse().map_or(Duration::MAX, Duration::from_secs),
            is_asked: raw.this_node,
            group: raw.server_group,
        }
    }
}

/// `10.0.0.1` of `10.0.0.1:8091`, and `::1` of `[::1]:8091`, in the canonical form.
fn host_of(hostname: &str) -> String {
    let node = names::Node::new(hostname);
    node.map_or_else(|_| hostname.to_owned(), |node| node.host().to_string())
}

fn uuid(text: Option<String>) -> Option<Uuid> {
    text.and_then(|text| Uuid::new(text).ok())
}

impl Server {
    /// The server at a URL. Without an administrator, no credentials are sent.
    pub fn at(
        url: String,
        trust: &Trust,
        administrator: Option<Administrator>,
        deadline: Deadline,
    ) -> Self {
        Self { url, client: http::client(trust, false), administrator, deadline }
    }

    /// A node's server over TLS.
    pub fn of_node(
        node: &names::Node,
        trust: &Trust,
        administrator: Option<Administrator>,
        deadline: Deadline,
    ) -> Self {
        let port = node.port().unwrap_or(TLS_PORT);
        Self::at(format!("https://{}:{port}", node.host().in_url()), trust, administrator, deadline)
    }

    /// A node's server without TLS.
    pub fn of_node_without_tls(
        node: &names::Node,
        administrator: Option<Administrator>,
        deadline: Deadline,
    ) -> Self {
        let port = node.port().unwrap_or(PORT);
        Self::at(
            format!("http://{}:{port}", node.host().in_url()),
            &Trust::System,
            administrator,
            deadline,
        )
    }

    /// The same server for questions that anyone may ask, with another deadline.
    pub fn anonymous(&self, deadline: Deadline) -> Self {
        Self { url: self.url.clone(), client: self.client.clone(), administrator: None, deadline }
    }

    /// What it says of itself.
    pub fn pools(&self) -> Result<Pools, Error> {
        let raw: RawPools = self.get("/pools")?;
        raw.parse().ok_or_else(|| {
            Error::Strange(format!(
                "{}/pools says neither that it belongs to a cluster nor that it does not",
                self.url
            ))
        })
    }

    /// Its cluster; `None` if it is not provisioned.
    pub fn view(&self, uuid: Uuid) -> Result<Option<View>, Error> {
        let raw: RawPool = match self.get("/pools/default") {
            Err(Error::Refused(StatusCode::NOT_FOUND, _)) => return Ok(None),
            other => other?,
        };
        Ok(Some(raw.view(uuid)))
    }

    /// Its cluster, whichever that is; `None` if it is not provisioned.
    pub fn cluster(&self) -> Result<Option<View>, Error> {
        match self.pools()?.uuid {
            Some(uuid) => self.view(uuid),
            None => Ok(None),
        }
    }

    /// The certificates of the authorities that it trusts, its own one among them, in PEM. Anyone may ask.
    pub fn authorities(&self) -> Result<Vec<String>, Error> {
        let raw: Vec<RawAuthority> = self.get("/pools/default/trustedCAs")?;
        Ok(raw.into_iter().map(|authority| authority.pem).collect())
    }

    /// Whether it belongs to a cluster, as it tells anyone.
    pub fn is_provisioned(&self) -> Result<bool, Error> {
        match self.pools() {
            Ok(pools) => Ok(pools.uuid.is_some()),
            Err(Error::Unauthorized) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The rebalance that runs, or how the last one ended.
    pub fn rebalance(&self) -> Result<Rebalance, Error> {
        let tasks: Vec<RawTask> = self.get("/pools/default/tasks")?;
        let task = tasks.into_iter().find(|task| task.kind == "rebalance");
        Ok(task.map_or_else(Rebalance::default, |task| Rebalance {
            progress: (task.status == "running").then(|| task.progress.unwrap_or_default()),
            error: task.error_message,
        }))
    }

    /// What it says of its node.
    pub fn own(&self) -> Result<OwnInfo, Error> {
        let raw: RawSelf = self.get("/nodes/self")?;
        Ok(OwnInfo { uuid: uuid(raw.node_uuid), memory: raw.memory_total })
    }

    /// Makes it the first node of a cluster. It checks everything before it does anything, and sets the credentials last.
    pub fn initialise(&self, first: &FirstNode<'_>) -> Result<(), Error> {
        let quota = first.quota.to_string();
        let mut form = vec![
            ("hostname", first.node),
            ("services", first.services),
            ("memoryQuota", &quota),
            ("username", &first.administrator.username),
            ("password", first.administrator.password.expose()),
            ("port", "SAME"),
            ("sendStats", "false"),
        ];
        if let Some(name) = first.cluster_name {
            form.push(("clusterName", name));
        }
        if first.services.split(',').any(|service| service == "index") {
            form.push((
                "indexerStorageMode",
                if first.is_enterprise { "plasma" } else { "forestdb" },
            ));
        }
        self.patient_post("/clusterInit", &form, INITIALISE_LIMIT).map(drop)
    }

    /// Adds a node that belongs to no cluster, by the path of a server group or the usual one.
    ///
    /// Such a node takes any credentials. These are not the cluster's: a node that has become somebody else's in the meantime
    /// must not be taken out of its cluster.
    pub fn add(
        &self,
        node: &names::Node,
        services: &str,
        path: Option<&str>,
        tls: bool,
    ) -> Result<(), Error> {
        let host = node.host().in_url();
        let hostname = if tls {
            format!("https://{host}:{TLS_PORT}")
        } else {
            format!("http://{host}:{PORT}")
        };
        let form = [
            ("hostname", hostname.as_str()),
            ("user", "cbbootstrap"),
            ("password", "not-provisioned"),
            ("services", services),
        ];
        let path = path.unwrap_or("/controller/addNode");
        self.patient_post(path, &form, ADDING).map(drop)
    }

    /// Takes a node out that is not active, by its name for rebalances. Works also where the node is dead.
    pub fn eject(&self, otp: &str) -> Result<(), Error> {
        self.post("/controller/ejectNode", &[("otpNode", otp)]).map(drop)
    }

    /// Starts a rebalance of these nodes, by their names for rebalances and with commas between, the ejected among them. `false`
    /// if one runs already.
    pub fn start_rebalance(&self, known: &str, ejected: &str) -> Result<bool, Error> {
        let form = [("knownNodes", known), ("ejectedNodes", ejected)];
        let answer = self.post("/controller/rebalance", &form)?;
        Ok(!answer.trim().is_empty())
    }

    /// Creates a bucket. It is there a little later.
    pub fn create_bucket(&self, bucket: &crate::values::Bucket) -> Result<(), Error> {
        let mut form = vec![
            ("name", bucket.name.clone()),
            ("ramQuota", bucket.quota.to_string()),
            ("bucketType", "couchbase".to_owned()),
        ];
        if let Some(replicas) = bucket.replicas {
            form.push(("replicaNumber", replicas.to_string()));
        }
        self.post("/pools/default/buckets", &form).map(drop)
    }

    /// The server groups.
    pub fn groups(&self) -> Result<Groups, Error> {
        self.get("/pools/default/serverGroups")
    }

    /// Moves a node into a server group, both as they were listed.
    pub fn move_to_group(&self, groups: &Groups, otp: &str, into: &Group) -> Result<(), Error> {
        let groups_after = groups.groups.iter().map(|group| {
            let mut nodes: Vec<_> =
                group.nodes.iter().filter(|node| node.otp != otp).cloned().collect();
            if group.uri == into.uri {
                nodes.push(GroupNode { otp: otp.to_owned() });
            }
            json!({"name": group.name, "uri": group.uri, "nodes": nodes})
        });
        let body = json!({"groups": groups_after.collect::<Vec<_>>()}).to_string();
        let asked = self.client.put(format!("{}{}", self.url, groups.uri));
        let asked = self.authorized(self.timed(asked, http::ANSWER));
        self.answer(asked.header("Content-Type", "application/json").send(body)).map(drop)
    }

    /// Creates a server group.
    pub fn create_group(&self, name: &str) -> Result<(), Error> {
        self.post("/pools/default/serverGroups", &[("name", name)]).map(drop)
    }

    /// Renames a server group.
    pub fn rename_group(&self, group: &Group, name: &str) -> Result<(), Error> {
        self.put(&group.uri, &[("name", name)])
    }

    /// Sets the address that clients outside the cluster's network use.
    pub fn set_alternate_address(&self, hostname: &str) -> Result<(), Error> {
        let path = "/node/controller/setupAlternateAddresses/external";
        self.put(path, &[("hostname", hostname)])
    }

    fn authorized<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        let Some(Administrator { username, password }) = &self.administrator else {
            return request;
        };
        let pair = BASE64_STANDARD.encode(format!("{username}:{}", password.expose()));
        request.header("Authorization", format!("Basic {pair}"))
    }

    fn timed<B>(&self, request: RequestBuilder<B>, limit: Duration) -> RequestBuilder<B> {
        request.config().timeout_global(Some(self.deadline.limit(limit))).build()
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let asked = self.client.get(format!("{}{path}", self.url));
        let text = self.answer(self.authorized(self.timed(asked, http::ANSWER)).call())?;
        serde_json::from_str(&text).map_err(|error| {
            Error::Strange(format!(
                "{}{path} does not answer as Couchbase Server does: {error}",
                self.url
            ))
        })
    }

    fn post<V: AsRef<str>>(&self, path: &str, form: &[(&str, V)]) -> Result<String, Error> {
        self.patient_post(path, form, http::ANSWER)
    }

    fn patient_post<V: AsRef<str>>(
        &self,
        path: &str,
        form: &[(&str, V)],
        limit: Duration,
    ) -> Result<String, Error> {
        let asked =
            self.authorized(self.timed(self.client.post(format!("{}{path}", self.url)), limit));
        self.answer(asked.send_form(form.iter().map(|(name, value)| (*name, value.as_ref()))))
    }

    fn put(&self, path: &str, form: &[(&str, &str)]) -> Result<(), Error> {
        let asked = self
            .authorized(self.timed(self.client.put(format!("{}{path}", self.url)), http::ANSWER));
        self.answer(asked.send_form(form.iter().copied())).map(drop)
    }

    fn answer(
        &self,
        asked: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<String, Error> {
        let away = |error: &ureq::Error| {
            let why = format!("{} does not answer: {}", self.url, http::reason(error));
            if http::is_certificate(error) {
                Error::Untrusted(why)
            } else if http::is_late(error) {
                Error::Failing(why)
            } else {
                Error::Away(why)
            }
        };
        let mut answer = asked.map_err(|error| away(&error))?;
        let status = answer.status();
        let most = match self.administrator {
            Some(_) => http::MOST_BYTES,
            None => http::MOST_BYTES_UNPROVEN,
        };
        let body = answer.body_mut().with_config().limit(most);
        let text = body.read_to_string().map_err(|error| away(&error))?;
        match status {
            status if status.is_success() => Ok(text),
            StatusCode::UNAUTHORIZED => Err(Error::Unauthorized),
            status if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE => {
                Err(Error::Failing(format!("{} answers with status {status}", self.url)))
            }
            status => {
                let said = words(&text);
                // Another program's page, or nothing at all.
                let is_strange = said.is_empty() || said.trim_start().starts_with('<');
                let why = if is_strange {
                    format!("{} answers with status {status}", self.url)
                } else {
                    said
                };
                Err(Error::Refused(status, why))
            }
        }
    }
}

/// The messages in a refusal, whichever of its forms it has.
fn words(text: &str) -> String {
    fn collect(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::String(text) => into.push(text.clone()),
            Value::Array(values) => values.iter().for_each(|value| collect(value, into)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        // How much memory there is.
                        _ if name == "summaries" => {}
                        Value::String(text) if name != "_" => into.push(format!("{name}: {text}")),
                        Value::Number(_) => into.push(name.clone()),
                        value => collect(value, into),
                    }
                }
            }
            _ => {}
        }
    }
    let mut messages = Vec::new();
    match serde_json::from_str(text) {
        Ok(value) => collect(&value, &mut messages),
        Err(_) => messages.push(text.chars().take(200).collect()),
    }
    messages.join("; ")
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_have_no_port() {
        for (hostname, name) in [
            ("10.0.0.1:8091", "10.0.0.1"),
            ("a.example:9000", "a.example"),
            ("[fd00::1]:8091", "fd00::1"),
            ("Node1.CB.test:8091", "node1.cb.test"),
        ] {
            assert_eq!(host_of(hostname), name);
        }
    }

    /// The forms that are in the recordings.
    #[test]
    fn refusals_keep_the_words_of_the_server() {
        for (body, expected) in [
            (
                r#"["Prepare join failed. Node is already part of cluster."]"#,
                "Prepare join failed. Node is already part of cluster.",
            ),
            (
                r#"{"errors":{"name":"Bucket with given name already exists"},"summaries":{"ramSummary":{"total":5}}}"#,
                "name: Bucket with given name already exists",
            ),
            (r#"{"errors":{"_":"too much"}}"#, "too much"),
            (
                r#"{"_":"Cannot create buckets during rebalance"}"#,
                "Cannot create buckets during rebalance",
            ),
            (r#"{"mismatch":1}"#, "mismatch"),
            (r#""unknown pool""#, "unknown pool"),
            ("Not found.", "Not found."),
            ("", ""),
        ] {
            assert_eq!(words(body), expected, "{body}");
        }
    }
}
