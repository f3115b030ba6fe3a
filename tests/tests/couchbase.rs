//! The stand-in for Couchbase Server is like the real one.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cbbootstrap_tests::{
    couchbase::{Membership, Node, Rebalanced, Servers},
    http::Answer,
    process::wait_until,
};
use serde_json::json;

const LOGIN: Option<(&str, &str)> = Some(("Administrator", "password"));

fn get(node: &Node, path: &str) -> Answer {
    node.call("GET", path, &[], LOGIN).unwrap()
}

/// Adds a blank node through a member.
fn add(through: &Node, joiner: &Node) -> Answer {
    let host = format!("https://{}", joiner.address());
    let form = [("hostname", host.as_str()), ("user", ""), ("password", "")];
    through
        .call("POST", "/controller/addNode", &form, LOGIN)
        .unwrap()
}

/// Starts a rebalance of all nodes that the member knows.
fn rebalance(member: &Node, ejected: &str) -> Answer {
    let pool = get(member, "/pools/default").json();
    let nodes = pool["nodes"].as_array().unwrap();
    let known: Vec<_> = nodes
        .iter()
        .map(|node| node["otpNode"].as_str().unwrap())
        .collect();
    let form = [
        ("knownNodes", known.join(",")),
        ("ejectedNodes", ejected.to_owned()),
    ];
    let form = form.each_ref().map(|(name, value)| (*name, value.as_str()));
    member
        .call("POST", "/controller/rebalance", &form, LOGIN)
        .unwrap()
}

fn wait_until_done(servers: &Servers) {
    wait_until("the rebalance has ended", || {
        !servers.clusters()[0].is_rebalancing
    });
}

/// A cluster of the first so many nodes.
fn cluster(count: usize, of: usize) -> Servers {
    let servers = Servers::start(of);
    servers.rebalance_takes(Duration::from_millis(20));
    servers.add_takes(Duration::ZERO);
    servers[0].provision("Administrator", "password");
    for joiner in 1..count {
        assert_eq!(add(&servers[0], &servers[joiner]).status, 200);
    }
    rebalance(&servers[0], "");
    wait_until_done(&servers);
    assert!(servers.clusters()[0].is_balanced);
    servers
}

#[test]
fn a_hundred_nodes_become_a_cluster() {
    let servers = cluster(100, 100);
    let clusters = servers.clusters();
    assert_eq!(clusters.len(), 1);
    assert_eq!(
        clusters[0].rebalances,
        [Rebalanced {
            added: 99,
            removed: 0
        }]
    );
    let pools = servers[99].call_tls("GET", "/pools", &[], LOGIN).unwrap();
    assert_eq!(pools.json()["uuid"], json!(clusters[0].uuid));
    assert!(
        clusters[0]
            .nodes
            .iter()
            .all(|node| node.membership == Membership::Active)
    );
}
