//! Changing a server or its cluster.

use std::time::Duration;

use cbbootstrap_protocol::names::Node;
use serde_json::json;

use super::{Administrator, Body, Error, Group, GroupNode, Groups, Method, PORT, Server, TLS_PORT};
use crate::{http::ANSWER_LIMIT, values::Bucket};

/// The time limit of the call that initialises a cluster.
pub const INITIALISE_LIMIT: Duration = Duration::from_secs(15);

/// A server that adds a node gives up after 30 s by itself.
const ADD_LIMIT: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub struct FirstNode<'a> {
    pub node: &'a str,
    /// By their names in the REST interface.
    pub services: &'a str,
    /// The data service's memory in MB.
    pub quota: u64,
    pub cluster_name: Option<&'a str>,
    pub administrator: &'a Administrator,
    /// The edition decides on the storage of indexes.
    pub is_enterprise: bool,
}

impl Server {
    /// Makes the server the first node of a cluster. It checks everything before it changes anything, and sets the credentials last.
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
        form.extend(first.cluster_name.map(|name| ("clusterName", name)));
        if first.services.split(',').any(|service| service == "index") {
            let storage = if first.is_enterprise { "plasma" } else { "forestdb" };
            form.push(("indexerStorageMode", storage));
        }
        self.send(Method::Post, "/clusterInit", Body::Form(&form), INITIALISE_LIMIT).map(drop)
    }

    /// Adds a node that belongs to no cluster, by the path of a server group or the usual one.
    ///
    /// Sends no credentials of the cluster to the node, which accepts any. If another cluster has added the node since, the call
    /// fails instead of taking the node away from that cluster.
    pub fn add(
        &self,
        node: &Node,
        services: &str,
        group_path: Option<&str>,
        tls: bool,
    ) -> Result<(), Error> {
        let (scheme, port) = if tls { ("https", TLS_PORT) } else { ("http", PORT) };
        let form = [
            ("hostname", &*format!("{scheme}://{}:{port}", node.host().in_url())),
            ("user", "cbbootstrap"),
            ("password", "not-provisioned"),
            ("services", services),
        ];
        let path = group_path.unwrap_or("/controller/addNode");
        self.send(Method::Post, path, Body::Form(&form), ADD_LIMIT).map(drop)
    }

    /// Removes a node that is not active, by its name for rebalances. The node may be dead.
    pub fn eject(&self, otp: &str) -> Result<(), Error> {
        self.post("/controller/ejectNode", &[("otpNode", otp)]).map(drop)
    }

    /// Starts a rebalance of these nodes, the ejected among them, by their names for rebalances. Returns `false` if one runs
    /// already.
    pub fn start_rebalance(&self, known: &[String], ejected: &str) -> Result<bool, Error> {
        let form = [("knownNodes", &*known.join(",")), ("ejectedNodes", ejected)];
        Ok(!self.post("/controller/rebalance", &form)?.trim().is_empty())
    }

    /// Creates a bucket, which appears a little later.
    pub fn create_bucket(&self, bucket: &Bucket) -> Result<(), Error> {
        let quota = bucket.quota.to_string();
        let replicas = bucket.replicas.map(|replicas| replicas.to_string());
        let mut form =
            vec![("name", &*bucket.name), ("ramQuota", &quota), ("bucketType", "couchbase")];
        form.extend(replicas.as_deref().map(|replicas| ("replicaNumber", replicas)));
        self.post("/pools/default/buckets", &form).map(drop)
    }

    /// Moves a node into a server group, both as they were listed.
    pub fn move_to_group(&self, groups: &Groups, otp: &str, into: &Group) -> Result<(), Error> {
        let moved = groups.groups.iter().map(|group| {
            let others = group.nodes.iter().filter(|node| node.otp != otp).cloned();
            let node = (group.uri == into.uri).then(|| GroupNode { otp: otp.to_owned() });
            let nodes: Vec<_> = others.chain(node).collect();
            json!({"name": group.name, "uri": group.uri, "nodes": nodes})
        });
        let body = json!({"groups": moved.collect::<Vec<_>>()}).to_string();
        self.send(Method::Put, &groups.uri, Body::Json(body), ANSWER_LIMIT).map(drop)
    }

    pub fn create_group(&self, name: &str) -> Result<(), Error> {
        self.post("/pools/default/serverGroups", &[("name", name)]).map(drop)
    }

    pub fn rename_group(&self, group: &Group, name: &str) -> Result<(), Error> {
        self.send(Method::Put, &group.uri, Body::Form(&[("name", name)]), ANSWER_LIMIT).map(drop)
    }

    /// Sets the address for clients outside the cluster's network.
    pub fn set_alternate_address(&self, hostname: &str) -> Result<(), Error> {
        let path = "/node/controller/setupAlternateAddresses/external";
        let form = [("hostname", hostname)];
        self.send(Method::Put, path, Body::Form(&form), ANSWER_LIMIT).map(drop)
    }

    fn post(&self, path: &str, form: &[(&str, &str)]) -> Result<String, Error> {
        self.send(Method::Post, path, Body::Form(form), ANSWER_LIMIT)
    }
}
