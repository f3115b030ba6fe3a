//! `up` and `leave` on 1 to 100 nodes, with faults and kills at every request.

#![allow(clippy::cast_precision_loss)]

use std::{
    collections::BTreeSet,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cbbootstrap_tests::{
    agent::{Agents, Api, LOGIN, one_cluster, scene},
    cli::Ended,
    couchbase::{Node, Servers, Then},
    http,
    instance::Instance,
    process, programs,
    proxy::Proxy,
};
use serde_json::{Value, json};

/// All nodes are active members of the one balanced cluster, and the API knows them.
#[track_caller]
pub fn assert_one_cluster(agents: &Agents, servers: &Servers, count: usize) {
    let cluster = one_cluster(servers, count);
    let record = agents.record();
    assert_eq!(record["state"], "ready", "{record}");
    assert_eq!(record["cluster_uuid"], cluster.uuid.as_str(), "{record}");
    assert_eq!(record["nodes"].as_array().unwrap().len(), count, "{record}");
    assert!(servers.wiped().is_empty());
}

#[test]
fn a_blank_node_becomes_a_cluster() {
    let (servers, agents) = scene(1);
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
            "failed_over": [],
            "unhealthy": [],
            "balanced": true,
            "buckets": ["app", "cache"],
            "refused": [],
            "seconds": document["seconds"],
        })
    );
    assert_eq!(cluster.name, "demo");
    assert_eq!(cluster.buckets, ["app", "cache"]);
    assert_eq!(cluster.groups, ["us-east-1a"]);
    assert_eq!(cluster.nodes[0].services, ["kv", "index", "n1ql"]);
    println!("{up}");
}

/// An index node that joins later needs it.
#[test]
fn a_first_node_without_the_index_service_sets_the_index_storage() {
    for (servers, storage) in
        [(Servers::start(1), "plasma"), (Servers::start_community(1), "forestdb")]
    {
        Agents::with_new_api(&servers).up(&servers[0], &["--services", "data"]).document();
        let requests = servers.requests();
        let request = requests.iter().find(|seen| seen.path == "/clusterInit").unwrap();
        let expected = ("indexerStorageMode".to_owned(), storage.to_owned());
        assert!(request.form.contains(&expected), "{request:?}");
    }
}

#[test]
fn three_nodes_become_one_cluster() {
    let (servers, agents) = scene(3);
    for up in agents.join(servers.nodes(), &["--bucket", "app:256"]) {
        println!("{up}");
    }
    assert_one_cluster(&agents, &servers, 3);
}

/// Analytics has 2904 MB on the recorded server.
#[test]
fn an_automatic_quota_leaves_memory_for_the_servers_own_quotas() {
    let (servers, agents) = scene(1);
    servers[0].memory_total(8 << 30);
    agents.up(&servers[0], &["--services", "data,analytics"]).document();
    assert_eq!(servers.clusters()[0].quota, 8192 * 80 / 100 - 2904);
}

/// The quotas that fit a large first node hold on every node.
#[test]
fn a_node_that_is_too_small_for_the_quotas_of_its_services_is_refused_at_once() {
    let (servers, agents) = scene(3);
    agents.up(&servers[0], &[]).document();
    for node in &servers.nodes()[1..] {
        node.memory_total(4 << 30);
    }
    let up = agents.up(&servers[1], &["--services", "data,index"]);
    up.failed(5, "the services data,index need 19796 MB, and the server allows 3276 MB");
    assert!(up.stderr.contains("`--memory-quota`"), "{up}");
    assert_eq!(servers.count("/addNode"), 0);
    agents.up(&servers[2], &["--services", "index,query"]).document();
    assert_one_cluster(&agents, &servers, 2);
}

/// Only the first node sets the quota and creates buckets.
#[test]
fn a_joiner_ignores_options_of_a_first_node_that_do_not_fit_it() {
    let (servers, agents) = scene(3);
    agents.up(&servers[0], &[]).document();
    for (node, option) in [(1, "--memory-quota=100%"), (2, "--bucket=app:30000")] {
        let up = agents.up(&servers[node], &[option]);
        assert_eq!(up.document()["is_initial_node"], false, "{up}");
    }
    assert_one_cluster(&agents, &servers, 3);
}

#[test]
fn twenty_nodes_share_rebalances() {
    let (servers, agents) = scene(20);
    agents.join(servers.nodes(), &[]);
    assert_one_cluster(&agents, &servers, 20);
    let rebalances = &servers.clusters()[0].rebalances;
    assert!(rebalances.len() <= 5, "{rebalances:?}");
}

#[test]
#[ignore = "takes 25 s of a processor; `just bench agent` has a hundred nodes, too"]
fn a_hundred_nodes_become_one_cluster() {
    let servers = Servers::start(100);
    servers.rebalance_takes(Duration::from_secs(3));
    let agents = Agents::with_new_api(&servers)
        .with("CBBOOTSTRAP_INTERVAL", "1s")
        .with("CBBOOTSTRAP_SETTLE", "3s")
        .with("CBBOOTSTRAP_TIMEOUT", "10m");
    agents.join(servers.nodes(), &["--bucket", "app:256"]);
    assert_one_cluster(&agents, &servers, 100);
    let cluster = &servers.clusters()[0];
    assert_eq!(cluster.buckets, ["app"]);
    println!(
        "{} rebalances, {} additions refused during them",
        cluster.rebalances.len(),
        cluster.refused.len()
    );
}

/// While authorities are replaced, some members may still have a certificate of the other one. Two nodes, because their names decide which
/// member each asks first.
#[test]
fn member_that_cannot_be_verified_is_skipped() {
    let (servers, strangers) = (Servers::start(3), Servers::start(1));
    let agents = Agents::with_new_api(&servers);
    agents.up(&servers[0], &[]).ended_with(0);
    let stranger = json!({
        "cluster_id": "demo",
        "node_ip_addr_or_hostname": strangers[0].address(),
        "cluster_uuid": servers.clusters()[0].uuid,
    });
    let reported = http::post(&agents.api, "/cluster/ready", &stranger.to_string()).unwrap();
    assert_eq!(reported.status, 200, "{reported:?}");
    agents.join(&servers.nodes()[1..], &[]);
    one_cluster(&servers, 3);
}

#[test]
fn server_is_not_reported_under_second_name() {
    let (servers, agents) = scene(1);
    agents.up(&servers[0], &[]).ended_with(0);
    let name = servers[0].address();
    agents
        .up(&servers[0], &["--node", "127.9.9.9"])
        .failed(5, &format!("the API knows this server as `{name}`"));
    let record = agents.record();
    assert_eq!(record["nodes"], json!([name]), "{record}");
}

/// A member adds one node at a time.
#[test]
fn nodes_that_join_at_once_use_different_members() {
    let (servers, agents) = scene(6);
    agents.join(&servers.nodes()[..3], &[]);
    let before = servers.requests().len();
    agents.join(&servers.nodes()[3..], &[]);
    let requests = servers.requests().into_iter().skip(before);
    let additions = requests.filter(|seen| seen.path == "/controller/addNode");
    let members: BTreeSet<_> = additions.map(|seen| seen.node).collect();
    assert_eq!(members.len(), 3, "{members:?}");
    assert_one_cluster(&agents, &servers, 6);
}

#[test]
fn a_first_node_makes_two_requests_and_a_joiner_three() {
    let (servers, agents) = scene(2);
    let (front, agents) = agents.behind_front();
    agents.up(&servers[0], &[]).document();
    let paths = || front.requests().into_iter().map(|request| request.path).collect::<Vec<_>>();
    assert_eq!(paths(), ["/cluster", "/cluster/ready"]);
    agents.up(&servers[1], &[]).document();
    assert_eq!(paths()[2..], ["/cluster", "/cluster/get_status", "/cluster/ready"]);
}

#[test]
fn a_node_that_waits_for_the_first_reads_the_record_and_claims_when_the_lease_expires() {
    let (servers, agents) = scene(2);
    agents.die_unreported(&servers);
    servers[0].reset();
    let (front, waiting) = agents.behind_front();
    let up = waiting.start(&servers[1], &[]);
    let count = |path: &str| front.requests().iter().filter(|seen| seen.path == path).count();
    process::wait_until("the record is read", || count("/cluster/get_status") > 5);
    assert_eq!(count("/cluster"), 1);
    waiting.lapse();
    up.end().document();
    assert_one_cluster(&waiting, &servers, 1);
}

#[test]
fn a_second_run_changes_nothing() {
    let (servers, agents) = scene(2);
    let options =
        ["--bucket", "app:256", "--server-group", "rack", "--alternate-address", "203.0.113.6"];
    agents.join(servers.nodes(), &options);
    let before = servers.requests().len();
    for node in servers.nodes() {
        let document = agents.up(node, &options).document();
        let record = agents.record();
        let first = &record["initial_node_ip_addr_or_hostname"];
        assert_eq!(document["is_initial_node"], json!(*first == node.address()));
    }
    let requests = servers.requests();
    let changes: Vec<_> = requests[before..].iter().filter(|r| r.method != "GET").collect();
    assert!(changes.is_empty(), "{changes:?}");
}

/// A restarted first node stays the first.
#[test]
fn a_restarted_node_keeps_its_role() {
    let (servers, agents) = scene(3);
    agents.join(servers.nodes(), &[]);
    for node in servers.nodes() {
        node.kill();
        let agent = agents.start(node, &[]);
        thread::sleep(Duration::from_millis(500));
        node.restart();
        agent.end().document();
    }
    assert_one_cluster(&agents, &servers, 3);
}

#[test]
fn a_first_node_that_never_comes_back_is_taken_over() {
    let (servers, agents) = scene(4);
    // It claims, and is killed before its server does anything.
    let first = servers.node(0);
    let dead = agents.start(&first, &[]);
    let id = dead.id();
    servers.on_request(move |seen| {
        if seen.path == "/clusterInit" && seen.node == 0 {
            process::kill("KILL", &id.to_string());
            return Then::Drop;
        }
        Then::Handle
    });
    assert_eq!(dead.end().status, None);
    let others: Vec<_> = (1..4).map(|node| agents.start(&servers[node], &[])).collect();
    thread::sleep(Duration::from_secs(1));
    assert!(servers.clusters().is_empty());
    agents.lapse();
    for up in others {
        assert_eq!(up.end().document()["generation"], 2);
    }
    assert_one_cluster(&agents, &servers, 3);
    // When its machine is back, it joins as everyone.
    servers.on_request(|_| Then::Handle);
    let document = agents.up(&first, &[]).document();
    assert_eq!(document["is_initial_node"], false);
    assert_one_cluster(&agents, &servers, 4);
}

/// It sleeps after its initialization until its lease has expired. The node that takes over sees its server, and lets it report.
#[test]
fn a_first_node_that_sleeps_through_its_lease_still_reports_its_cluster() {
    let (servers, agents) = scene(2);
    let sleeper = agents.start(&servers[0], &[]);
    let id = sleeper.id().to_string();
    let asleep = id.clone();
    servers.on_request(move |seen| {
        if seen.path == "/clusterInit" && seen.node == 0 {
            process::kill("STOP", &asleep);
        }
        Then::Handle
    });
    process::wait_until("the first node sleeps", || {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"));
        stat.is_ok_and(|stat| stat.contains(") T "))
    });
    agents.lapse();
    let other = agents.start(&servers[1], &[]);
    process::wait_until("the other node has given the claim up", || {
        let record = agents.record();
        record["generation"].as_u64() > Some(1) && record["lease_seconds_left"] == 0
    });
    process::kill("CONT", &id);
    assert_eq!(sleeper.end().document()["is_initial_node"], true);
    other.end().document();
    assert_one_cluster(&agents, &servers, 2);
}

#[test]
fn a_rebalance_that_runs_is_waited_for() {
    let (servers, agents) = scene(3);
    agents.join(&servers.nodes()[..2], &[]);
    servers.rebalance_takes(Duration::from_hours(1));
    let known = servers.clusters()[0]
        .nodes
        .iter()
        .map(|node| format!("ns_1@{}", node.name))
        .collect::<Vec<_>>()
        .join(",");
    let form = [("knownNodes", known.as_str()), ("ejectedNodes", "")];
    let started = servers[0].call("POST", "/controller/rebalance", &form, Some(LOGIN));
    assert_eq!(started.unwrap().status, 200);
    let mut agent = agents.start(&servers[2], &[]);
    thread::sleep(Duration::from_secs(2));
    assert!(agent.is_running());
    assert_eq!(servers.clusters()[0].nodes.len(), 2);
    // A new bucket has to wait, too.
    let first = agents.first_node(&servers);
    let bucket = agents.start(first, &["--bucket", "app:256"]);
    thread::sleep(Duration::from_secs(1));
    assert!(servers.clusters()[0].buckets.is_empty());
    servers.rebalance_takes(Duration::from_millis(200));
    servers.end_rebalances();
    agent.end().document();
    bucket.end().document();
    assert_one_cluster(&agents, &servers, 3);
    assert_eq!(servers.clusters()[0].buckets, ["app"]);
}

#[test]
fn rebalances_that_fail_are_tried_again() {
    let (servers, agents) = scene(3);
    agents.up(&servers[0], &[]).document();
    servers.fail_rebalances(2);
    for up in agents.all_up(&servers.nodes()[1..], &[]) {
        let document = up.document();
        assert_eq!(document["nodes"].as_array().unwrap().len(), 3, "{up}");
    }
    assert_one_cluster(&agents, &servers, 3);
}

/// All members that the API knows belong to another cluster now: someone built a second one in their place.
#[test]
fn a_second_cluster_is_not_joined() {
    let (servers, agents) = scene(2);
    agents.up(&servers[0], &[]).document();
    servers[0].reset();
    agents.up(&servers[0], &[]).failed(5, "has lost its data");
    servers[0].provision(LOGIN.0, LOGIN.1);
    agents.up(&servers[1], &[]).failed(5, "there is a second cluster");
    assert!(servers[1].is_blank());
}

#[test]
fn an_existing_cluster_is_adopted_only_on_demand() {
    let (servers, agents) = scene(2);
    servers[0].provision(LOGIN.0, LOGIN.1);
    servers[0].holds_data(1000);
    agents.up(&servers[0], &[]).failed(5, "the API has no cluster");
    // A blank server, which may have lost its data, begins no second cluster.
    agents.up(&servers[1], &["--adopt"]).failed(5, "belongs to none that `--adopt` could register");
    let second = Agents::new(&agents.api, "second", &servers);
    http::claim(&second.api, "second", &servers[1].address()).unwrap();
    let claimed = second.up(&servers[1], &["--adopt"]);
    claimed.failed(5, "this node has claimed `second`, so `--adopt` can register no cluster");
    let hint =
        "stop the agents of nodes that are in no cluster, run `cbbootstrap cluster forget second`";
    assert!(claimed.stderr.contains(hint), "{claimed}");
    assert!(servers[1].is_blank());
    // Nor is a member told to give up its data, if a blank server was quicker.
    let (quicker, ready) = scene(1);
    ready.join(quicker.nodes(), &[]);
    for other in [&second, &Agents::new(&ready.api, "demo", &servers)] {
        let late = other.up(&servers[0], &["--adopt"]);
        late.failed(5, "the server belongs to the cluster");
        let hint = "if this cluster has the data, stop the agents of all nodes that are not its members, \
                    run `cbbootstrap cluster forget";
        assert!(late.stderr.contains(hint) && !late.stderr.contains("reset"), "{late}");
    }
    agents.up(&servers[0], &["--adopt"]).document();
    agents.up(&servers[1], &["--adopt"]).document();
    assert_one_cluster(&agents, &servers, 2);
}

#[test]
fn two_agents_on_one_node_take_turns() {
    let (servers, agents) = scene(2);
    for node in servers.nodes() {
        let both = [agents.start(node, &[]), agents.start(node, &[])];
        for agent in both {
            agent.end().document();
        }
    }
    assert_one_cluster(&agents, &servers, 2);
    let added = servers.requests().into_iter();
    assert_eq!(added.filter(|seen| seen.path.ends_with("/addNode")).count(), 1);
}

#[test]
fn agents_with_different_urls_of_one_server_take_turns() {
    let (servers, agents) = scene(1);
    let node = &servers[0];
    http::claim(&agents.api, "demo", "10.0.0.9").unwrap();
    // The list of sockets, in which the other agent is found, may hold any bytes.
    let name = format!("cbbootstrap test {}", std::process::id()).into_bytes();
    let address = SocketAddr::from_abstract_name([&name[..], b"\xff"].concat()).unwrap();
    let _other = UnixListener::bind_addr(&address).unwrap();
    let waits = agents.start(node, &[]);
    process::wait_until("the agent has its server's lock", || !servers.requests().is_empty());
    let second = agents.up(node, &["--server", &node.tls_url(), "--timeout", "500ms"]);
    second.failed(3, &format!("another agent works on this server (process {})", waits.id()));
}

/// Where the answer of a member that adds a node is lost, another member is not asked while the first may still be at it.
#[test]
fn lost_answers_and_errors_are_survived() {
    for then in [Then::Lose, Then::Drop, Then::Answer(500), Then::Answer(503)] {
        let (servers, agents) = scene(3);
        let mut seen_before = BTreeSet::new();
        // The first request of each kind to each node.
        servers.on_request(move |seen| {
            if seen_before.insert((seen.node, seen.method.clone(), seen.path.clone())) {
                then.clone()
            } else {
                Then::Handle
            }
        });
        agents.join(servers.nodes(), &["--bucket", "app:256"]);
        assert_one_cluster(&agents, &servers, 3);
        let refused = &servers.clusters()[0].refused;
        assert!(!refused.iter().any(|why| why.contains("Timeout")), "{refused:?}");
    }
}

#[test]
fn a_node_leaves_and_its_data_stays() {
    let (servers, agents) = scene(3);
    agents.join(servers.nodes(), &[]);
    let node = agents.first_node(&servers);
    let left = agents.run(node, &["leave", "--output", "json"]).document();
    let record = agents.record();
    assert_eq!(left["initial_node"], record["initial_node_ip_addr_or_hostname"]);
    assert_ne!(left["initial_node"], node.address());
    assert!(node.is_blank());
    // A second run does no harm.
    agents.run(node, &["leave"]).ended_with(0);
    // It lost its certificate on leaving.
    node.load_certificate();
    agents.up(node, &[]).document();
    assert_one_cluster(&agents, &servers, 3);
    assert_eq!(servers.clusters()[0].rebalances.iter().map(|r| r.removed).sum::<usize>(), 1);
}

/// A claim whose node is to go is given up: others need not wait until it expires.
#[test]
fn a_blank_node_that_leaves_gives_its_claim_up() {
    let (servers, agents) = scene(2);
    servers.on_request(|seen| {
        if seen.path == "/clusterInit" && seen.node == 0 { Then::Answer(503) } else { Then::Handle }
    });
    let up = agents.up(&servers[0], &["--timeout", "2s", "--lease", "1h"]);
    assert_eq!(up.status, Some(3), "{up}");
    agents.run(&servers[0], &["leave"]).ended_with(0);
    agents.up(&servers[1], &[]).document();
}

/// A second machine with the name of a member does not take that member's entry out of the record.
#[test]
fn a_blank_machine_cannot_leave_under_a_members_name() {
    let (servers, agents) = scene(3);
    agents.join(&servers.nodes()[..2], &[]);
    let mut twin = agents.command(&servers[2], &["leave"]);
    twin.env("CBBOOTSTRAP_NODE", servers[1].address());
    let twin = Ended::of(&mut twin);
    twin.failed(5, "two machines have the same name");
    let nodes = &agents.record()["nodes"];
    assert_eq!(nodes.as_array().map(Vec::len), Some(2), "{nodes}");
    // Where the cluster lists it no more, the entry goes.
    agents.run(&servers[1], &["leave"]).ended_with(0);
    assert_eq!(agents.record()["nodes"], json!([servers[0].address()]));
}

/// A member would add the server that the name leads to, which is another machine's.
#[test]
fn a_node_that_cannot_be_first_does_not_join_under_the_name_of_another_host() {
    let (servers, agents) = scene(2);
    agents.up(&servers[0], &[]).document();
    let options = ["--services", "query", "--node", "192.0.2.10"];
    agents.up(&servers[1], &options).failed(2, "`192.0.2.10` is not an address of this host");
    assert_eq!(servers.count("/controller/addNode"), 0);
}

/// The server itself would refuse the address, because it uses IPv4 by default.
#[test]
fn an_ipv6_node_begins_an_ipv6_cluster_on_enterprise_edition_only() {
    // An IPv6 address that every host has.
    let address = |servers: &Servers| format!("::ffff:{}", servers[0].address());
    let (servers, agents) = scene(1);
    let up = agents.up(&servers[0], &["--node", &address(&servers)]).document();
    assert_eq!(up["node"], address(&servers));
    let servers = Servers::start_community(1);
    let agents = Agents::with_new_api(&servers);
    let up = agents.up(&servers[0], &["--node", &address(&servers)]);
    up.failed(2, "Community Edition uses IPv4");
    assert_eq!((servers.count("/clusterInit"), agents.record()), (0, Value::Null));
}

/// Dead members stay in the record, and say nothing about a name.
#[test]
fn dead_members_do_not_hide_a_member_of_the_same_name() {
    let (servers, agents) = scene(6);
    agents.up(&servers[0], &[]).document();
    agents.join(&servers.nodes()[1..5], &[]);
    let leave = || {
        let mut twin = agents.command(&servers[5], &["leave", "--timeout", "3s"]);
        Ended::of(twin.env("CBBOOTSTRAP_NODE", servers[4].address()))
    };
    servers.nodes()[..3].iter().for_each(Node::kill);
    leave().failed(5, "two machines have the same name");
    servers[3].kill();
    let unclear = "no other member can tell whether another machine has the name";
    leave().failed(3, unclear);
    assert_eq!(agents.record()["nodes"].as_array().unwrap().len(), 5);
    servers[3].restart();
    leave().failed(5, "two machines have the same name");
}

/// The server would leave, and the record would keep the name with which it joined.
#[test]
fn a_node_does_not_leave_under_another_name() {
    let (servers, agents) = scene(3);
    agents.join(servers.nodes(), &[]);
    let leave = |args: &[&str], name: &str| {
        let args = [&["leave"], args].concat();
        Ended::of(agents.command(&servers[1], &args).env("CBBOOTSTRAP_NODE", name))
    };
    let own = servers[1].address();
    let refused = leave(&[], "node.example.com");
    refused.failed(5, &format!("the API knows this server as `{own}`"));
    assert!(refused.stderr.contains(&format!("`--node {own}`")), "{refused}");
    // Only the record tells.
    let away = ["--api", "http://127.0.0.1:1", "--timeout", "2s"];
    leave(&away, "node.example.com").failed(3, "does not answer");
    one_cluster(&servers, 3);
    assert_eq!(agents.record()["nodes"].as_array().map(Vec::len), Some(3));

    // A server that is not in the record under its own name, because an operator added it, leaves under any.
    agents.remove_from_record(&own);
    leave(&[], "node.example.com").ended_with(0);
    assert!(servers[1].is_blank());
    assert_eq!(agents.record()["nodes"].as_array().map(Vec::len), Some(2));
}

/// The record would name a node that is gone as the only one to join: nothing is moved.
#[test]
fn the_only_recorded_member_does_not_leave() {
    let (servers, agents) = scene(2);
    agents.join(servers.nodes(), &[]);
    let other = servers[1].address();
    agents.remove_from_record(&other);
    let leave = agents.run(&servers[0], &["leave"]);
    leave.failed(5, "the only member of `demo` that the API knows");
    assert!(leave.stderr.contains("cbbootstrap-agent up"), "{leave}");
    assert!(!servers[0].is_blank());
    agents.up(&servers[1], &[]).document();
    agents.run(&servers[0], &["leave"]).ended_with(0);
}

#[test]
fn a_failed_rebalance_is_explained_and_leaving_is_retried() {
    let (servers, agents) = scene(2);
    agents.join(servers.nodes(), &[]);
    servers.fail_rebalances(1);
    let left = agents.run(&servers[1], &["leave"]).ended_with(0);
    let warnings = left.stderr.matches("a rebalance failed: ").count();
    assert_eq!(warnings, 1, "{left}");
    assert!(servers[1].is_blank());
    assert_one_cluster(&agents, &servers, 1);
}

/// Its own rebalance begins as soon as another one is done.
#[test]
fn a_node_that_leaves_waits_for_a_rebalance_of_others() {
    let (servers, agents) = scene(3);
    agents.join(servers.nodes(), &[]);
    servers.rebalance_takes(Duration::from_secs(2));
    let known: Vec<_> =
        servers.nodes().iter().map(|node| format!("ns_1@{}", node.address())).collect();
    let form = [("knownNodes", &*known.join(",")), ("ejectedNodes", "")];
    let started = servers[0].call("POST", "/controller/rebalance", &form, Some(LOGIN)).unwrap();
    assert_eq!(started.status, 200, "{started:?}");
    let left = agents.run(&servers[2], &["leave"]).ended_with(0);
    for (part, is_printed) in
        [("a rebalance runs", true), ("rebalance: done", true), ("a rebalance failed", false)]
    {
        assert_eq!(left.stderr.contains(part), is_printed, "{part}: {left}");
    }
    assert_one_cluster(&agents, &servers, 2);
}

#[test]
fn the_last_node_does_not_leave() {
    let (servers, agents) = scene(3);
    agents.up(&servers[0], &[]).document();
    agents.run(&servers[0], &["leave"]).failed(5, "the cluster's last active node");
    assert!(!servers[0].is_blank());
    // Nor does the last one with the data service.
    agents.up(&servers[2], &["--services", "query"]).document();
    let left = agents.run(&servers[0], &["leave"]);
    left.failed(5, "this is the cluster's last node with the data service");
    assert_eq!(one_cluster(&servers, 2).nodes.len(), 2);
    // Nor does one leave that belongs to another cluster.
    servers[1].provision(LOGIN.0, LOGIN.1);
    agents.run(&servers[1], &["leave"]).failed(5, "nothing was changed");
    assert_eq!(servers.clusters().len(), 2);
}

/// It would not stay either.
#[test]
fn a_node_does_not_leave_to_an_added_one_that_is_down() {
    let (servers, agents) = scene(2);
    agents.up(&servers[0], &[]).document();
    let body = json!({"cluster_id": "demo", "node_ip_addr_or_hostname": "127.99.99.99"});
    let ready = http::post(&agents.api, "/cluster/ready", &body.to_string()).unwrap();
    assert_eq!(ready.status, 200, "{ready:?}");
    crate::run::add(&servers, 1);
    servers[1].kill();
    let is_down = || servers.clusters()[0].nodes.iter().any(|node| !node.is_healthy);
    process::wait_until("the added node is down", is_down);
    let leave = agents.run(&servers[0], &["leave", "--timeout", "5s"]);
    leave.failed(5, "the cluster's last active node");
    assert_eq!(servers.clusters()[0].nodes.len(), 2, "{leave}");
}

/// A server that starts late, hangs, or fails for a while is waited for.
#[test]
fn a_server_that_is_not_well_is_waited_for() {
    let (servers, agents) = scene(2);
    servers[0].kill();
    servers[1].answer_500(true);
    let up: Vec<_> = servers.nodes().iter().map(|node| agents.start(node, &[])).collect();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(agents.record(), Value::Null, "nobody claims for a server that is down");
    servers[0].hang(true);
    servers[0].restart();
    servers[1].answer_500(false);
    thread::sleep(Duration::from_secs(1));
    servers[0].hang(false);
    for agent in up {
        agent.end().document();
    }
    assert_one_cluster(&agents, &servers, 2);
}

/// The API is away for a while: at the first claim, and at the report.
#[test]
fn an_api_that_is_away_is_waited_for() {
    let api = Api::start();
    let servers = Servers::start(2);
    let proxy = Proxy::before(&api.local.endpoint);
    let agents = Agents::new(&proxy.url, "demo", &servers);
    proxy.fault_at_random(7, 0.6);
    agents.join(servers.nodes(), &[]);
    proxy.reset();
    assert!(proxy.calls().is_empty());
    assert_one_cluster(&agents, &servers, 2);
}

/// The first node initializes, dies before it reports, and comes back after its lease. No node has taken over the claim.
#[test]
fn a_first_node_that_comes_back_late_continues() {
    let (servers, agents) = scene(2);
    let first = agents.start(&servers[0], &[]);
    let id = first.id().to_string();
    servers.on_request(move |seen| {
        if seen.path == "/pools/default" {
            process::kill("KILL", &id);
        }
        Then::Handle
    });
    assert_eq!(first.end().status, None);
    assert_eq!(agents.record()["state"], "claimed");
    servers.on_request(|_| Then::Handle);
    agents.lapse();
    let document = agents.up(&servers[0], &[]).document();
    assert_eq!(document["generation"], 1);
    agents.up(&servers[1], &[]).document();
    assert_one_cluster(&agents, &servers, 2);
}

/// A first node that cannot continue gives up its claim, so others do not wait for its lease.
#[test]
fn a_first_node_that_cannot_start_gives_up_its_claim() {
    let (servers, agents) = scene(2);
    let agents = agents.with("CBBOOTSTRAP_LEASE", "never");
    servers.on_request(|seen| {
        if seen.node == 0 && seen.path == "/clusterInit" {
            return Then::Refuse(400, r#"{"errors":{"services":"no"}}"#.to_owned());
        }
        Then::Handle
    });
    agents
        .up(&servers[0], &[])
        .failed(1, "the server refuses to initialize the cluster: services: no");
    assert!(servers[0].is_blank());
    let document = agents.up(&servers[1], &[]).document();
    assert_eq!(document["generation"], 2);
    agents.up(&servers[0], &[]).document();
    assert_one_cluster(&agents, &servers, 2);
}

/// What the agent costs its node.
#[test]
#[ignore = "it builds the agent as it is released: cargo test --workspace --test agent -- --ignored --nocapture"]
fn figures() {
    let program = programs::released_agent();
    let size = std::fs::metadata(&program).unwrap().len();
    let mut starts: Vec<_> = (0..101)
        .map(|_| {
            let since = Instant::now();
            let status = Command::new(&program).arg("--help").stdout(Stdio::null()).status();
            assert!(status.unwrap().success());
            since.elapsed()
        })
        .collect();
    starts.sort();

    let (servers, agents) = scene(2);
    let agents = agents.program(program);
    agents.up(&servers[0], &[]).document();
    // The most memory that a joiner had, TLS and all, whenever it asked its server for something.
    let most = Arc::new(AtomicU64::new(0));
    let joiner = agents.start(&servers[1], &[]);
    let (id, highest) = (joiner.id(), Arc::clone(&most));
    servers.on_request(move |_| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        highest.fetch_max(kilobytes.unwrap_or_default(), Ordering::Relaxed);
        Then::Handle
    });
    joiner.end().document();
    println!("| binary | start (`--help`), median of 101 | memory of a joiner, at most |");
    println!("| --- | --- | --- |");
    println!(
        "| {:.1} MB | {:.1} ms | {:.1} MB |",
        size as f64 / 1e6,
        starts[50].as_secs_f64() * 1e3,
        most.load(Ordering::Relaxed) as f64 / 1e3
    );
}

/// An instance may get its role late, and its metadata service may fail for a moment.
#[test]
fn credentials_that_come_late_are_waited_for() {
    let (servers, agents) = scene(1);
    let instance = Instance::start();
    instance.fail(true);
    let signing = [("CBBOOTSTRAP_AUTH", "iam"), ("AWS_REGION", "us-east-1")];
    let variables = [&instance.variables()[..], &signing].concat();
    let run = agents.stay(&servers[0], &[], &variables);
    run.wait_for("EC2's metadata service does not answer");
    instance.remove("iam/security-credentials/");
    instance.fail(false);
    run.wait_for("the instance has no role");
    instance.set("iam/security-credentials/", "the-role");
    run.wait_for("ready: reported");
}
