//! The agent's own time limits, of 30 s and 60 s. These tests start first, because the name of this module sorts first.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cbbootstrap_tests::{
    agent::{Agents, LOGIN, fake_api, one_cluster, record, scene, wait_for_cluster},
    cli::write_private,
    couchbase::{Membership, Node, Servers, Then},
    http,
    instance::Instance,
    process::{self, wait_until},
    server::Stub,
};
use serde_json::{Value, json};

use crate::run::{BUCKET, assert_never, call, membership, otp, seconds, wait_for_failover};

/// More than a hundred checks of the server.
#[test]
fn idle_agents_ask_the_api_at_most_once_a_minute() {
    let (servers, agents) = scene(2);
    let (front, agents) = agents.behind_front();
    let residents = agents.all_stay(&servers, &[]);
    let before = front.requests().len();
    thread::sleep(Duration::from_secs(62));
    let requests: Vec<_> = front.requests().into_iter().skip(before).collect();
    assert!(requests.len() <= residents.len(), "{requests:?}");
}

#[test]
fn a_joiner_skips_dead_members() {
    let (servers, agents) = scene(4);
    agents.join(&servers.nodes()[..3], &[]);
    let first = agents.first_node(&servers);
    first.kill();
    servers.auto_failover_after(Duration::from_secs(3));
    // The dead node keeps the first rebalances from succeeding, until it is failed over.
    let document = agents.up(&servers[3], &[]).document();
    let nodes = document["nodes"].as_array().unwrap();
    assert!(nodes.contains(&json!(servers[3].address())));
    assert!(!nodes.contains(&json!(first.address())), "{document}");
}

#[test]
fn an_unhealthy_member_does_not_block_a_joiner() {
    let (servers, agents) = scene(5);
    agents.join(&servers.nodes()[..4], &[]);
    let record = agents.record();
    let is_first = |node: &Node| record["initial_node_ip_addr_or_hostname"] == node.address();
    let sick = servers.nodes()[..4].iter().find(|node| !is_first(node)).unwrap();
    sick.hang(true);
    servers.auto_failover_after(Duration::from_secs(3));
    agents.up(&servers[4], &[]).document();
    sick.hang(false);
    // The rebalance has removed it, as it was failed over.
    let cluster = &servers.clusters()[0];
    assert!(cluster.is_balanced, "{cluster:#?}");
}

/// A node that was added and died before the rebalance would make every rebalance fail.
#[test]
fn a_node_that_dies_while_joining_is_removed() {
    let (servers, agents) = scene(3);
    let agents = agents.with("CBBOOTSTRAP_SETTLE", "2s");
    agents.up(&servers[0], &[]).document();
    let dying = agents.start(&servers[1], &[]);
    process::wait_until("the node is added", || servers.clusters()[0].nodes.len() == 2);
    dying.kill();
    servers[1].kill();
    let up = agents.up(&servers[2], &[]);
    let document = up.document();
    let expected = [servers[0].address(), servers[2].address()];
    assert_eq!(document["nodes"], json!(expected), "{up}");
    assert!(up.stderr.contains("cannot be reached: it was removed again"), "{up}");
}

#[test]
fn nodes_of_other_clusters_are_never_changed() {
    let (servers, agents) = scene(4);
    servers[1].provision(LOGIN.0, LOGIN.1);
    servers[1].holds_data(1000);
    servers[2].provision(LOGIN.0, "another password");
    agents.up(&servers[1], &[]).failed(5, "the API has no cluster `demo`");
    assert_eq!(agents.record(), Value::Null);
    agents.up(&servers[0], &[]).document();
    agents.up(&servers[1], &[]).failed(5, "belongs to the cluster");
    agents.up(&servers[2], &[]).failed(5, "another user name or password");
    let changes = servers.requests().into_iter();
    let changes: Vec<_> = changes.filter(|seen| seen.method != "GET" && seen.node != 0).collect();
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(servers.clusters().len(), 3);
    assert!(servers.wiped().is_empty());
}

/// If nobody runs the agent on that node again, the other nodes' agents end after the length of a lease.
#[test]
fn an_unreported_cluster_stops_the_others_after_a_lease() {
    let (servers, agents) = scene(2);
    agents.die_unreported(&servers);
    agents.lapse();
    let up = agents.up(&servers[1], &[]);
    up.failed(5, "has initialized a cluster for `demo` but not reported it");
    assert!(up.stderr.contains("cbbootstrap-agent up"), "{up}");
    assert!(servers[1].is_blank());
    one_cluster(&servers, 1);
}

/// The API's answer takes half of the lease: what is left is too little to initialize.
#[test]
fn a_lease_counts_from_before_the_request() {
    let servers = Servers::start(1);
    let mut delay = Duration::from_millis(14_500);
    let api = fake_api(move |_, asking| {
        let lease = json!({"lease_expires_at": "2036-01-01T00:00:30Z", "lease_seconds_left": 30});
        thread::sleep(mem::take(&mut delay));
        record(asking, asking, "claimed", &lease)
    });
    let agents = Agents::new(&api.url, "demo", &servers);
    let up = agents.up(&servers[0], &["--lease", "30s", "--timeout", "16s"]);
    assert_eq!(up.status, Some(3), "{up}");
    assert!(up.stderr.contains("is about to expire"), "{up}");
    assert_eq!(servers.count("/clusterInit"), 0);
}

/// An API that claims to have given a longer lease than the node asked for is not trusted.
#[test]
fn a_longer_lease_than_requested_is_not_trusted() {
    let check = |seconds: u64| {
        let servers = Servers::start(1);
        servers.on_request(|seen| match seen.path.as_str() {
            "/clusterInit" => Then::Answer(503),
            _ => Then::Handle,
        });
        let api = fake_api(move |_, asking| {
            let lease =
                json!({"lease_expires_at": "2036-01-01T00:00:00Z", "lease_seconds_left": seconds});
            record(asking, asking, "claimed", &lease)
        });
        let agents = Agents::new(&api.url, "demo", &servers);
        let up = agents.up(&servers[0], &["--lease", "30s", "--timeout", "20s"]);
        assert_eq!(up.status, Some(3), "{up}");
        assert!(up.stderr.contains("is about to expire"), "{up}");
    };
    thread::scope(|scope| {
        scope.spawn(|| check(1_000_000));
        // More than a clock holds.
        scope.spawn(|| check(u64::MAX));
    });
}

#[test]
fn a_dead_node_without_copies_is_not_removed() {
    let (servers, agents) = scene(4);
    agents.join(&servers.nodes()[..3], &["--bucket", "app:100:0"]);
    let form = [("otpNode", format!("ns_1@{}", servers[2].address()))];
    let form = form.each_ref().map(|(name, value)| (*name, value.as_str()));
    servers[2].kill();
    servers[0].call("POST", "/controller/failOver", &form, Some(LOGIN)).unwrap();
    let joiner = agents.up(&servers[3], &["--timeout", "70s"]);
    joiner.failed(3, "would remove it with data that may have no other copy");
    assert_eq!(servers.clusters()[0].nodes.len(), 4);
}

/// It cannot report itself that it left, and others would go on to join through it.
#[test]
fn dead_member_that_a_rebalance_removes_leaves_the_record() {
    let (servers, agents) = scene(4);
    let nodes = servers.nodes()[..3].iter();
    let mut residents: Vec<_> =
        nodes.map(|node| agents.stay(node, &["--nodes", "3"], &[])).collect();
    for resident in &residents {
        resident.wait_for("which has 3 nodes");
    }
    let dead = agents.first_node(&servers);
    drop(residents.remove(dead.index()));
    servers.auto_failover_after(Duration::from_millis(500));
    dead.kill();
    wait_for_failover(&servers, dead.index());
    residents.push(agents.stay(&servers[3], &[], &[]));
    let is_listed =
        |record: &Value| record["nodes"].as_array().unwrap().contains(&json!(dead.address()));
    wait_for_removal(|| !is_listed(&agents.record()), || format!("{:#}", agents.record()));
    one_cluster(&servers, 3);
    assert_ne!(agents.first_node(&servers).index(), dead.index());
    wait_until("all others have reported", || {
        agents.record()["nodes"].as_array().unwrap().len() == 3
    });
    // It joins again, although it knows its cluster for a moment: nobody has removed a living node.
    servers.removed_nodes_remember_for(seconds(2), Duration::from_millis(500));
    dead.restart();
    residents.push(agents.stay(dead, &[], &[]));
    wait_until("the node is out", || dead.is_blank());
    dead.load_certificate();
    wait_for_cluster(&servers, 4);
}

/// Waits for what follows the removal of a dead member, which may come back for a minute.
#[track_caller]
fn wait_for_removal(holds: impl Fn() -> bool, state: impl Fn() -> String) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < seconds(150), "{}", state());
        thread::sleep(Duration::from_millis(100));
    }
}

/// Only the agent that started the rebalance knows that.
#[test]
fn joiner_that_leaves_at_once_reports_the_dead_member_that_its_rebalance_removes() {
    let (servers, agents) = scene(4);
    agents.join(&servers.nodes()[..3], &[]);
    servers.auto_failover_after(Duration::from_millis(500));
    servers[1].kill();
    wait_for_failover(&servers, 1);
    servers.rebalance_takes(seconds(4));
    let instance = Instance::start();
    let _joiner = agents.stay(&servers[3], &[], &instance.variables());
    wait_for_removal(|| membership(&servers, 1).is_none(), || format!("{:?}", servers.clusters()));
    assert!(servers.clusters()[0].is_rebalancing);
    instance.terminate();
    wait_until("the hook is completed", || instance.is_complete());
    let record = agents.record();
    let mut listed: Vec<_> = record["nodes"].as_array().unwrap().iter().collect();
    listed.sort_by_key(|node| node.as_str());
    assert_eq!(json!(listed), json!([servers[0].address(), servers[2].address()]));
}

/// The dead member may recover: it is still in the cluster.
#[test]
fn joiner_that_leaves_after_a_failed_rebalance_does_not_report_the_dead_member() {
    let (servers, agents) = scene(4);
    agents.join(&servers.nodes()[..3], &[]);
    servers.auto_failover_after(Duration::from_millis(500));
    servers[1].kill();
    wait_for_failover(&servers, 1);
    let instance = Instance::start();
    let joiner = agents.stay(&servers[3], &[], &instance.variables());
    // It fails before it removes anything.
    servers.on_request(|seen| match seen.path.as_str() {
        "/controller/rebalance" => Then::Answer(200),
        _ => Then::Handle,
    });
    wait_for_removal(|| joiner.log().contains("a rebalance failed"), || joiner.log());
    instance.terminate();
    wait_until("the hook is completed", || instance.is_complete());
    assert!(membership(&servers, 1).is_some());
    let record = agents.record();
    let is_listed = record["nodes"].as_array().unwrap().contains(&json!(servers[1].address()));
    assert!(is_listed, "{record}");
}

/// The first request may still take effect, so another node must not begin before it has inspected this one.
#[test]
fn node_whose_initialization_broke_off_keeps_its_claim_after_refusals() {
    let (servers, agents) = scene(1);
    let (front, agents) = agents.with("CBBOOTSTRAP_LEASE", "10m").behind_front();
    let calls = AtomicU32::new(0);
    servers.on_request(move |seen| {
        if seen.path != "/clusterInit" {
            Then::Handle
        } else if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            Then::Drop
        } else {
            Then::Refuse(400, r#"["refused for now"]"#.to_owned())
        }
    });
    let resident = agents.stay(&servers[0], &[], &[]);
    resident.wait_for("the server refuses to initialize the cluster");
    resident.signal("HUP");
    wait_until("it is refused again", || servers.count("/clusterInit") == 3);
    let since = Instant::now();
    while servers.count("/clusterInit") < 4 {
        assert!(since.elapsed() < seconds(90), "{}", resident.log());
        thread::sleep(seconds(1));
    }
    let gives_up = |path: &str| front.requests().iter().any(|request| request.path == path);
    assert_never("the claim is given up", || gives_up("/cluster/leave"));
    assert_eq!(agents.record()["generation"], 1);
    // A life prints what is known once.
    let log = resident.log();
    for line in ["server: ", "claim: ", "the server refuses to initialize the cluster"] {
        assert_eq!(log.matches(line).count(), 2, "{line}: {log}");
    }
}

#[test]
fn each_outage_of_the_api_is_logged_with_its_end() {
    let (servers, agents) = scene(1);
    agents.up(&servers[0], &[]).document();
    let (api, is_away) = (agents.api.clone(), Arc::new(AtomicBool::new(true)));
    let fails = Arc::clone(&is_away);
    let front = Stub::start(move |request| {
        if fails.load(Ordering::Relaxed) {
            return (503, String::new());
        }
        let answer = http::post(&api, &request.path, &request.body).unwrap();
        (answer.status, answer.body)
    });
    let agents = agents.with("CBBOOTSTRAP_API", &front.url);
    let resident = agents.stay(&servers[0], &[], &[]);
    resident.wait_for("warning: ");
    is_away.store(false, Ordering::Relaxed);
    let since = Instant::now();
    while !resident.log().contains("the API answers again") {
        assert!(since.elapsed() < seconds(90), "{}", resident.log());
        thread::sleep(seconds(1));
    }
    let log = resident.log();
    assert_eq!(log.matches("warning: ").count(), 1, "{log}");
}

/// The server refuses the agent, but it runs: people who fail its node over then decide that.
#[test]
fn changed_password_is_read_again_and_failover_before_it_is_respected() {
    let (servers, agents) = scene(3);
    let file = agents.user.home.path().join("password");
    let password_file = file.display().to_string();
    write_private(&file, LOGIN.1);
    let agents =
        agents.without("CB_REST_PASSWORD").with("CBBOOTSTRAP_PASSWORD_FILE", &password_file);
    let options = [&BUCKET[..], &["--nodes", "3"]].concat();
    let residents = agents.all_stay(&servers, &options);
    let new = (LOGIN.0, "another horse");
    let login = [("username", new.0), ("password", new.1), ("port", "SAME")];
    call(&servers[0], "/settings/web", &login);
    let failed_over = [("otpNode", &*otp(&servers[2]))];
    let answer = servers[0].call("POST", "/controller/failOver", &failed_over, Some(new));
    assert_eq!(answer.unwrap().status, 200);
    residents[2].wait_for("another user name or password");

    write_private(&file, new.1);
    residents[0].wait_for("reload: the options were read again");
    residents[2].wait_for("recover it, or rebalance it out, in Couchbase Server");
    assert_never("it recovers", || membership(&servers, 2) != Some(Membership::InactiveFailed));
    assert_eq!(servers.count("/controller/setRecoveryType"), 0);
}
