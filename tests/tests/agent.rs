//! The agents of real clusters' nodes: they ask a local deployment of the API, and drive the stand-in of Couchbase Server.

#![allow(clippy::unwrap_used)]

use cbbootstrap_tests::{
    agent::Agents,
    couchbase::{Membership, Servers},
    local::Local,
};
use serde_json::json;
use tempfile::TempDir;

/// A local deployment of the API.
struct Api {
    local: Local,
    _data: TempDir,
}

impl Api {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        Self {
            local: Local::with(data.path(), &["--no-smoke"]),
            _data: data,
        }
    }

    /// Agents of these servers' nodes.
    fn agents(&self, servers: &Servers) -> Agents {
        Agents::new(&self.local.endpoint, "demo", servers)
    }
}

/// All nodes are active members of the one balanced cluster, and the API knows them.
#[track_caller]
fn assert_one_cluster(agents: &Agents, servers: &Servers, count: usize) {
    let clusters = servers.clusters();
    let [cluster] = clusters.as_slice() else {
        panic!("{} clusters: {clusters:#?}", clusters.len());
    };
    assert_eq!(cluster.nodes.len(), count, "{cluster:#?}");
    assert!(cluster.is_balanced && !cluster.is_rebalancing);
    for node in &cluster.nodes {
        assert!(
            node.membership == Membership::Active && node.is_healthy,
            "{node:?}"
        );
    }
    let record = agents.record();
    assert_eq!(record["state"], "ready", "{record}");
    assert_eq!(record["cluster_uuid"], cluster.uuid.as_str(), "{record}");
    assert_eq!(record["nodes"].as_array().unwrap().len(), count, "{record}");
    assert!(servers.wiped().is_empty());
}

#[test]
fn a_blank_node_becomes_a_cluster() {
    let api = Api::start();
    let servers = Servers::start(1);
    let agents = api.agents(&servers);
    let node = &servers[0];
    let options = [
        "--services",
        "data,index,query",
        "--memory-quota",
        "50%",
        "--bucket",
        "app:256:1",
        "--bucket=cache:100",
        "--server-group",
        "us-east-1a",
        "--alternate-address",
        "ec2-1-2-3-4.compute-1.amazonaws.com",
        "--cluster-name",
        "demo",
    ];
    let up = agents.up(node, &options);
    let document = up.document();
    assert_one_cluster(&agents, &servers, 1);
    let cluster = &servers.clusters()[0];
    assert_eq!(
        document,
        json!({
            "cluster_id": "demo",
            "cluster_uuid": cluster.uuid,
            "node": node.address(),
            "is_initial_node": true,
            "generation": 1,
            "nodes": [node.address()],
            "buckets": ["app", "cache"],
            "seconds": document["seconds"],
        })
    );
    assert_eq!(cluster.name, "demo");
    assert_eq!(cluster.buckets, ["app", "cache"]);
    assert_eq!(cluster.groups, ["us-east-1a"]);
    assert_eq!(cluster.nodes[0].services, ["kv", "index", "n1ql"]);
    println!("{up}");
}

#[test]
fn three_nodes_become_one_cluster() {
    let api = Api::start();
    let servers = Servers::start(3);
    let agents = api.agents(&servers);
    for up in agents.all_up(servers.nodes(), &["--bucket", "app:256"]) {
        up.document();
        println!("{up}");
    }
    assert_one_cluster(&agents, &servers, 3);
}
