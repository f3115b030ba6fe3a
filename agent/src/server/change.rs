//! Changing a server or its cluster.

use std::time::Duration;

use cbbootstrap_protocol::names::Node;
use serde_json::json;

use super::{Administrator, Group, GroupNode, Groups, PORT, Recovery, Server, TLS_PORT};
use crate::{
    http::{ANSWER_LIMIT, CallError},
    values::{BucketSpec, Services},
};

pub const INITIALIZE_LIMIT: Duration = Duration::from_secs(15);

/// A server that adds a node gives up after 30 s by itself.
const ADD_LIMIT: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, Debug)]
pub struct NewCluster<'c> {
    pub services: &'c Services,
    /// The data service's memory in MB.
    pub quota: u64,
    pub name: Option<&'c str>,
    pub is_enterprise: bool,
    /// Whether the node can be reached by IPv6 only. Enterprise Edition can use it.
    pub is_ipv6: bool,
}

impl Server {
    /// Makes the server the first node of a cluster. The server checks everything before it changes anything, and sets the credentials
    /// last.
    pub fn initialize(
        &self,
        node: &Node,
        cluster: &NewCluster<'_>,
        administrator: &Administrator,
    ) -> Result<(), CallError> {
        let NewCluster { services, quota, name, is_enterprise, is_ipv6 } = *cluster;
        let (host, codes, quota) = (node.host().to_string(), services.codes(), quota.to_string());
        let storage = if is_enterprise { "plasma" } else { "forestdb" };
        let mut form = vec![
            ("hostname", &*host),
            ("services", &codes),
            ("memoryQuota", &quota),
            ("username", &administrator.username),
            ("password", administrator.password.expose()),
            ("port", "SAME"),
            ("sendStats", "false"),
            // Without it, an index node that joins later cannot create an index.
            ("indexerStorageMode", storage),
        ];
        form.extend(name.map(|name| ("clusterName", name)));
        // A server uses IPv4 by default. A node that joins gets the family of the cluster.
        form.extend(is_ipv6.then_some(("afamily", "ipv6")));
        let request = self.client.post(self.url_of("/clusterInit"));
        self.send_form(request, &form, INITIALIZE_LIMIT).map(drop)
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
    ) -> Result<(), CallError> {
        let (scheme, port) = if tls { ("https", TLS_PORT) } else { ("http", PORT) };
        let form = [
            ("hostname", &*format!("{scheme}://{}:{port}", node.host().in_url())),
            ("user", "cbbootstrap"),
            ("password", "not-provisioned"),
            ("services", services),
        ];
        let request = self.client.post(self.url_of(group_path.unwrap_or("/controller/addNode")));
        self.send_form(request, &form, ADD_LIMIT).map(drop)
    }

    /// Removes a node that is not active, by its name for rebalances. The node may be dead.
    pub fn eject(&self, otp: &str) -> Result<(), CallError> {
        self.post("/controller/ejectNode", &[("otpNode", otp)]).map(drop)
    }

    /// Marks a failed-over node to be recovered by the next rebalance, which would remove it otherwise.
    pub fn set_recovery(&self, otp: &str, recovery: Recovery) -> Result<(), CallError> {
        let kind = if recovery == Recovery::Delta { "delta" } else { "full" };
        let form = [("otpNode", otp), ("recoveryType", kind)];
        self.post("/controller/setRecoveryType", &form).map(drop)
    }

    /// Starts to move a node's active data to its replicas, and then fails the node over. The server refuses it where data could be
    /// lost.
    pub fn fail_over_gracefully(&self, otp: &str) -> Result<(), CallError> {
        self.post("/controller/startGracefulFailover", &[("otpNode", otp)]).map(drop)
    }

    /// Starts a rebalance of these nodes, the ejected among them, by their names for rebalances. Returns `false` if one runs
    /// already.
    pub fn start_rebalance(&self, known: &[String], ejected: &str) -> Result<bool, CallError> {
        let form = [("knownNodes", &*known.join(",")), ("ejectedNodes", ejected)];
        Ok(!self.post("/controller/rebalance", &form)?.trim().is_empty())
    }

    /// Creates a bucket, which appears a little later.
    pub fn create_bucket(&self, bucket: &BucketSpec) -> Result<(), CallError> {
        let quota = bucket.quota.to_string();
        let replicas = bucket.replicas.map(|replicas| replicas.to_string());
        let mut form =
            vec![("name", &*bucket.name), ("ramQuota", &quota), ("bucketType", "couchbase")];
        form.extend(replicas.as_deref().map(|replicas| ("replicaNumber", replicas)));
        self.post("/pools/default/buckets", &form).map(drop)
    }

    /// Moves a node into a server group, both as they were listed.
    pub fn move_to_group(&self, groups: &Groups, otp: &str, into: &Group) -> Result<(), CallError> {
        let moved = groups.groups.iter().map(|group| {
            let others = group.nodes.iter().filter(|node| node.otp != otp).cloned();
            let node = (group.uri == into.uri).then(|| GroupNode { otp: otp.to_owned() });
            let nodes: Vec<_> = others.chain(node).collect();
            json!({"name": group.name, "uri": group.uri, "nodes": nodes})
        });
        let body = json!({"groups": moved.collect::<Vec<_>>()}).to_string();
        let request = self.prepare(self.client.put(self.url_of(&groups.uri)), ANSWER_LIMIT);
        self.read(request.header("Content-Type", "application/json").send(body)).map(drop)
    }

    pub fn create_group(&self, name: &str) -> Result<(), CallError> {
        self.post("/pools/default/serverGroups", &[("name", name)]).map(drop)
    }

    pub fn rename_group(&self, group: &Group, name: &str) -> Result<(), CallError> {
        self.put(&group.uri, &[("name", name)])
    }

    /// Sets the address for clients outside the cluster's network.
    pub fn set_alternate_address(&self, hostname: &str) -> Result<(), CallError> {
        self.put("/node/controller/setupAlternateAddresses/external", &[("hostname", hostname)])
    }

    fn post(&self, path: &str, form: &[(&str, &str)]) -> Result<String, CallError> {
        self.send_form(self.client.post(self.url_of(path)), form, ANSWER_LIMIT)
    }

    fn put(&self, path: &str, form: &[(&str, &str)]) -> Result<(), CallError> {
        self.send_form(self.client.put(self.url_of(path)), form, ANSWER_LIMIT).map(drop)
    }
}
