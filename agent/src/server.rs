//! A Couchbase Server's management REST interface: the calls that the agent makes, and what they say.
//!
//! Wording differs between the server's versions, so nothing here looks at the text of a message. Neither the password nor a form
//! that holds it is ever part of an error.

use std::{fmt, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use ureq::{Agent, http::StatusCode};

use crate::{
    http::{self, Trust},
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

/// One server, and how to talk to it.
#[derive(Debug)]
pub struct Server {
    /// Its URL.
    pub url: String,
    client: Agent,
    administrator: Administrator,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub enum Error {
    /// There was no answer, or it broke off.
    Away(String),
    /// Its certificate is not trusted.
    Untrusted(String),
    /// It has other credentials.
    Unauthorized,
    /// It said no, with this status and these words.
    Refused(StatusCode, String),
    /// It said something that is not understood.
    Strange(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(why) | Self::Untrusted(why) | Self::Strange(why) | Self::Refused(_, why) => {
                f.write_str(why)
            }
            Self::Unauthorized => f.write_str("it takes another user name or password"),
        }
    }
}

/// What a server says of itself, to anyone while it belongs to no cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pools {
    /// The UUID of its cluster; none if it is not provisioned.
    pub uuid: Option<String>,
    /// Its version.
    pub version: String,
    /// Whether it is the Enterprise Edition.
    pub enterprise: bool,
}

/// How a node belongs to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It is in.
    Active,
    /// It was added, and waits for a rebalance.
    Added,
    /// It was failed over.
    Failed,
}

/// A node, as a member of its cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its address or host name.
    pub name: String,
    /// Its name for rebalances.
    pub otp: String,
    /// How it belongs to the cluster.
    pub membership: Membership,
    /// Whether the asked server can reach it.
    pub healthy: bool,
    /// Whether it is the server that was asked.
    pub asked: bool,
    /// Its server group.
    pub group: String,
}

/// A cluster, as a member sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its UUID.
    pub uuid: String,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Whether each node has its share.
    pub balanced: bool,
    /// Whether a rebalance runs.
    pub rebalancing: bool,
    /// The names of its buckets.
    pub buckets: Vec<String>,
}

impl View {
    /// The node that was asked.
    pub fn this(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.asked)
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
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
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPools {
    /// An empty list while the server belongs to no cluster. Whoever says nothing here is no Couchbase Server.
    uuid: Value,
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
    #[serde(default)]
    server_group: String,
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
}

#[derive(Deserialize)]
struct RawGroups {
    groups: Vec<Group>,
}

impl From<RawNode> for Node {
    fn from(raw: RawNode) -> Self {
        let membership = match raw.cluster_membership.as_str() {
            "active" => Membership::Active,
            "inactiveAdded" => Membership::Added,
            _ => Membership::Failed,
        };
        Self {
            name: without_port(&raw.hostname).to_owned(),
            otp: raw.otp_node,
            membership,
            healthy: raw.status == "healthy",
            asked: raw.this_node,
            group: raw.server_group,
        }
    }
}

/// `10.0.0.1` of `10.0.0.1:8091`, and `::1` of `[::1]:8091`.
fn without_port(hostname: &str) -> &str {
    let host = hostname.rsplit_once(':').map_or(hostname, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

impl Server {
    /// The server at a URL.
    pub fn at(url: String, trust: &Trust, administrator: Administrator) -> Self {
        Self {
            url,
            client: http::client(trust, false),
            administrator,
        }
    }

    /// Another server, over TLS.
    pub fn of_node(node: &str, trust: &Trust, administrator: Administrator) -> Self {
        let url = format!("https://{}:{TLS_PORT}", http::host(node));
        Self::at(url, trust, administrator)
    }

    /// Another server, without TLS.
    pub fn of_node_in_the_clear(node: &str, trust: &Trust, administrator: Administrator) -> Self {
        let url = format!("http://{}:{PORT}", http::host(node));
        Self::at(url, trust, administrator)
    }

    /// What it says of itself.
    pub fn pools(&self) -> Result<Pools, Error> {
        let raw: RawPools = self.get("/pools")?;
        Ok(Pools {
            uuid: raw.uuid.as_str().map(str::to_owned),
            version: raw.implementation_version,
            enterprise: raw.is_enterprise,
        })
    }

    /// Its cluster; none if it is not provisioned.
    pub fn view(&self, uuid: String) -> Result<Option<View>, Error> {
        let raw: RawPool = match self.get("/pools/default") {
            Err(Error::Refused(StatusCode::NOT_FOUND, _)) => return Ok(None),
            other => other?,
        };
        Ok(Some(View {
            uuid,
            nodes: raw.nodes.into_iter().map(Node::from).collect(),
            balanced: raw.balanced,
            rebalancing: !matches!(raw.rebalance_status.as_str(), "" | "none" | "notRunning"),
            buckets: raw
                .bucket_names
                .into_iter()
                .map(|b| b.bucket_name)
                .collect(),
        }))
    }

    /// Its cluster, whichever that is; none if it is not provisioned.
    pub fn cluster(&self) -> Result<Option<View>, Error> {
        match self.pools()?.uuid {
            Some(uuid) => self.view(uuid),
            None => Ok(None),
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

    /// The memory that it may use, in bytes: it knows its container's limit.
    pub fn memory(&self) -> Result<u64, Error> {
        self.get("/nodes/self").map(|raw: RawSelf| raw.memory_total)
    }

    /// Makes it the first node of a cluster, with the agent's administrator. It checks everything before it does anything, and
    /// sets the credentials last.
    pub fn initialise(
        &self,
        node: &str,
        services: &str,
        quota: u64,
        cluster_name: Option<&str>,
    ) -> Result<(), Error> {
        let quota = quota.to_string();
        let mut form = vec![
            ("hostname", node),
            ("services", services),
            ("memoryQuota", &quota),
            ("username", &self.administrator.username),
            ("password", self.administrator.password.expose()),
            ("port", "SAME"),
            ("sendStats", "false"),
        ];
        if let Some(name) = cluster_name {
            form.push(("clusterName", name));
        }
        if services.split(',').any(|service| service == "index") {
            form.push(("indexerStorageMode", "plasma"));
        }
        self.post("/clusterInit", &form).map(drop)
    }

    /// Adds a node that belongs to no cluster, by the path of a server group or the usual one.
    ///
    /// Such a node takes any credentials. These are not the cluster's: a node that has become somebody else's meanwhile must
    /// not be taken out of its cluster.
    pub fn add(
        &self,
        node: &str,
        services: &str,
        path: Option<&str>,
        tls: bool,
    ) -> Result<(), Error> {
        let host = http::host(node);
        let hostname = if tls {
            format!("https://{host}:{TLS_PORT}")
        } else {
            format!("{host}:{PORT}")
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
    pub fn groups(&self) -> Result<Vec<Group>, Error> {
        self.get("/pools/default/serverGroups")
            .map(|raw: RawGroups| raw.groups)
    }

    /// Creates a server group.
    pub fn create_group(&self, name: &str) -> Result<(), Error> {
        self.post("/pools/default/serverGroups", &[("name", name)])
            .map(drop)
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

    fn authorization(&self) -> String {
        let Administrator { username, password } = &self.administrator;
        let pair = BASE64_STANDARD.encode(format!("{username}:{}", password.expose()));
        format!("Basic {pair}")
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let asked = self
            .client
            .get(format!("{}{path}", self.url))
            .header("Authorization", self.authorization())
            .call();
        let text = self.answer(asked)?;
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
        patience: Duration,
    ) -> Result<String, Error> {
        let asked = self
            .client
            .post(format!("{}{path}", self.url))
            .config()
            .timeout_global(Some(patience))
            .build()
            .header("Authorization", self.authorization())
            .send_form(form.iter().map(|(name, value)| (*name, value.as_ref())));
        self.answer(asked)
    }

    fn put(&self, path: &str, form: &[(&str, &str)]) -> Result<(), Error> {
        let asked = self
            .client
            .put(format!("{}{path}", self.url))
            .header("Authorization", self.authorization())
            .send_form(form.iter().copied());
        self.answer(asked).map(drop)
    }

    fn answer(
        &self,
        asked: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<String, Error> {
        let away = |error: &ureq::Error| {
            let why = format!("{} does not answer: {}", self.url, http::reason(error));
            if http::is_certificate(error) {
                Error::Untrusted(why)
            } else {
                Error::Away(why)
            }
        };
        let mut answer = asked.map_err(|error| away(&error))?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(http::MOST_BYTES);
        let text = body.read_to_string().map_err(|error| away(&error))?;
        match status {
            status if status.is_success() => Ok(text),
            StatusCode::UNAUTHORIZED => Err(Error::Unauthorized),
            status if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE => Err(
                Error::Away(format!("{} answers with status {status}", self.url)),
            ),
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
mod tests {
    use super::*;

    #[test]
    fn ports_go() {
        for (hostname, name) in [
            ("10.0.0.1:8091", "10.0.0.1"),
            ("a.example:9000", "a.example"),
            ("[fd00::1]:8091", "fd00::1"),
        ] {
            assert_eq!(without_port(hostname), name);
        }
    }

    /// The forms that are in the recordings.
    #[test]
    fn refusals_are_told_in_their_words() {
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
