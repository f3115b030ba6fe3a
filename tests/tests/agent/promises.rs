//! The guarantees, with real processes: never two clusters, and no password to an unverified host.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cbbootstrap_protocol::{
    names::{ClusterId, Node as Name, Uuid},
    trust::{ClusterKeys, Fingerprint, Statement},
};
use cbbootstrap_tests::{
    agent::{Agents, LOGIN, SECRET, fake_api, one_cluster, record, scene},
    couchbase::{Membership, Node, Servers, Then},
    http, process,
    server::Stub,
};
use serde_json::{Value, json};

/// These agents with a secret that they share, and without an authority.
fn with_secret(agents: Agents) -> Agents {
    agents.without("CBBOOTSTRAP_CA_CERT").with("CBBOOTSTRAP_SECRET", SECRET)
}

/// No request to this node brought the administrator's password.
#[track_caller]
fn assert_no_password(servers: &Servers, node: &Node) {
    let with_password = servers.requests().into_iter().filter(|seen| seen.node == node.index());
    let with_password: Vec<_> =
        with_password.filter(|seen| seen.carries_password(LOGIN.1)).collect();
    assert!(with_password.is_empty(), "{with_password:?}");
}

/// The first node has the claim and does not get to initialize its server, until this is false.
fn hold_initialization(servers: &Servers) -> Arc<AtomicBool> {
    let is_held = Arc::new(AtomicBool::new(true));
    let holds = Arc::clone(&is_held);
    servers.on_request(move |seen| {
        if seen.node == 0 && seen.path == "/clusterInit" && holds.load(Ordering::Relaxed) {
            Then::Answer(503)
        } else {
            Then::Handle
        }
    });
    is_held
}

// Never two.

/// A setting that the server refuses after the initialization is a warning; the nodes form one cluster on both editions.
#[test]
fn three_nodes_become_one_cluster_whatever_is_refused() {
    let refusing = |path: &'static str| {
        move |seen: &cbbootstrap_tests::couchbase::Seen| {
            if seen.method != "GET" && seen.path == path {
                Then::Refuse(400, r#"{"errors":{"_":"refused for good"}}"#.to_owned())
            } else {
                Then::Handle
            }
        }
    };
    let group = ["--server-group", "us-east-1a"];
    let bucket = ["--bucket", "app:256"];
    let address = ["--alternate-address", "203.0.113.6"];
    for is_community in [false, true] {
        for (what, options, refused, statuses) in [
            ("group", &group[..], None, if is_community { [6, 6, 6] } else { [0, 0, 0] }),
            ("group refused", &group, Some("/pools/default/serverGroups/0"), [6, 6, 6]),
            ("bucket refused", &bucket, Some("/pools/default/buckets"), [6, 0, 0]),
            (
                "address refused",
                &address,
                Some("/node/controller/setupAlternateAddresses/external"),
                [6, 6, 6],
            ),
        ] {
            if is_community && what == "group refused" {
                continue;
            }
            let servers =
                if is_community { Servers::start_community(3) } else { Servers::start(3) };
            let agents = Agents::with_new_api(&servers)
                .with("CBBOOTSTRAP_INSECURE", if is_community { "true" } else { "false" });
            if let Some(path) = refused {
                servers.on_request(refusing(path));
            }
            let started = Instant::now();
            let ups = agents.all_up(servers.nodes(), options);
            one_cluster(&servers, 3);
            let mut ended: Vec<_> = ups.iter().map(|up| up.status.unwrap()).collect();
            ended.sort_unstable();
            let mut statuses = statuses.to_vec();
            statuses.sort_unstable();
            let is_first_only = what == "group refused";
            if !is_first_only {
                assert_eq!(ended, statuses, "{what}, community: {is_community}\n{}", ups[0]);
            }
            let record = agents.record();
            assert_eq!(record["state"], "ready", "{what}: {record}");
            assert_eq!(record["generation"], 1, "{what}: nobody has taken the claim over");
            assert!(
                started.elapsed() < Duration::from_secs(25),
                "{what}: nobody waits for a lease"
            );
            assert_eq!(servers.count("/clusterInit"), 1, "{what}");
        }
    }
}

/// Until index and query are up, the first node's server is not balanced, and the other nodes come before its server group.
#[test]
fn a_first_node_that_is_balanced_late_still_gets_its_server_group() {
    let servers = Servers::start(3);
    servers.services_never_come_up(&["index", "n1ql"]);
    let agents = Agents::with_new_api(&servers);
    let options = ["--services", "data,index,query", "--server-group", "a", "--settle", "3s"];
    let ups: Vec<_> = servers.nodes().iter().map(|node| agents.start(node, &options)).collect();
    process::wait_until("all nodes are there", || {
        servers.clusters().first().is_some_and(|cluster| cluster.nodes.len() == 3)
    });
    servers.services_never_come_up(&[]);
    for up in ups {
        assert_eq!(up.end().document()["refused"], json!([]));
    }
    let cluster = one_cluster(&servers, 3);
    assert!(cluster.nodes.iter().all(|node| node.group == "a"), "{cluster:#?}");
}

/// Names that differ only in case, a quota that is too small, an empty variable.
#[test]
fn a_bucket_that_clashes_and_an_empty_variable_leave_one_cluster() {
    let (servers, agents) = scene(3);
    let agents =
        agents.with("CBBOOTSTRAP_SERVER_GROUP", "").with("CBBOOTSTRAP_ALTERNATE_ADDRESS", " ");
    let ups = agents.all_up(servers.nodes(), &["--bucket", "app:256", "--bucket", "APP:256"]);
    let cluster = one_cluster(&servers, 3);
    assert_eq!(cluster.buckets, ["app"]);
    let partial = ups.iter().find(|up| up.status == Some(6)).expect("the first node says so");
    assert!(partial.stderr.contains("the server refuses the bucket `APP`"), "{partial}");
    assert_eq!(ups.iter().filter(|up| up.status == Some(0)).count(), 2);
}

/// The cluster is reported even if the server returns `balanced: false` from the beginning.
#[test]
fn services_that_never_come_up_do_not_delay_the_report() {
    let servers = Servers::start(2);
    servers.services_never_come_up(&["index", "n1ql"]);
    let agents = Agents::with_new_api(&servers);
    let first = agents.start(&servers[0], &["--services", "data,index,query"]);
    process::wait_until("the cluster is reported", || agents.record()["state"] == "ready");
    let record = agents.record();
    assert_eq!(record["generation"], 1);
    assert_eq!(record["nodes"], json!([servers[0].address()]));
    drop(first);
    assert_eq!(servers.clusters().len(), 1);
}

/// The first node has initialized and dies before it reports. The node that takes over sees that, and waits for it.
#[test]
fn a_takeover_detects_an_unreported_cluster() {
    let (servers, agents) = scene(3);
    agents.die_unreported(&servers);
    assert_eq!(agents.record()["state"], "claimed");
    agents.lapse();
    let others: Vec<_> = (1..3).map(|node| agents.start(&servers[node], &[])).collect();
    process::wait_until("the others have seen the first node's server", || {
        agents.record()["generation"].as_u64() > Some(1)
    });
    thread::sleep(Duration::from_secs(2));
    assert_eq!(servers.clusters().len(), 1, "nobody begins a second cluster");
    // The first node's machine boots again.
    agents.up(&servers[0], &[]).document();
    for other in others {
        let up = other.end();
        assert_eq!(up.document()["cluster_uuid"], servers.clusters()[0].uuid.as_str(), "{up}");
    }
    one_cluster(&servers, 3);
    assert_eq!(servers.count("/clusterInit"), 1);
}

/// B takes over from A, which has a cluster, and gives up. C takes over from B and must inspect A as well.
#[test]
fn a_takeover_checks_every_earlier_claimant() {
    let (servers, agents) = scene(3);
    let agents = agents.with("CBBOOTSTRAP_TIMEOUT", "4s");
    agents.die_unreported(&servers);
    for node in &servers.nodes()[1..] {
        agents.lapse();
        agents.up(node, &[]).failed(3, "has initialized its server and not reported it");
    }
    one_cluster(&servers, 1);
    assert_eq!(servers.count("/clusterInit"), 1);
}

/// The first node's server fails or hangs while it is inspected: it does not count as blank or gone.
#[test]
fn a_server_in_an_unclear_state_is_not_treated_as_dead() {
    let (servers, agents) = scene(2);
    // Its claim lasts for the whole test, also on a slow machine.
    let agents = agents.with("CBBOOTSTRAP_TIMEOUT", "3s").with("CBBOOTSTRAP_LEASE", "5m");
    agents.die_unreported(&servers);
    servers.on_request(|seen| match seen.node {
        0 => Then::Refuse(503, "not now".to_owned()),
        _ => Then::Handle,
    });
    agents.lapse();
    let unclear = "it is unclear whether";
    let up = agents.up(&servers[1], &[]);
    up.failed(3, unclear);
    assert!(up.stderr.contains("cluster forget demo"), "{up}");
    servers.on_request(|_| Then::Handle);
    servers[0].answer_500(true);
    agents.up(&servers[1], &[]).failed(3, unclear);
    servers[0].answer_500(false);
    // It closes every connection.
    servers.on_request(|seen| if seen.node == 0 { Then::Drop } else { Then::Handle });
    agents.up(&servers[1], &[]).failed(3, unclear);
    servers.on_request(|_| Then::Handle);
    servers[0].hang(true);
    let up = agents.up(&servers[1], &[]);
    assert_eq!(up.status, Some(3), "{up}");
    assert!(servers[1].is_blank());
    servers[0].hang(false);
    agents.up(&servers[1], &[]).failed(3, "has initialized its server and not reported it");
    one_cluster(&servers, 1);
}

/// The first node's server is down when it is inspected for the first time, and has a cluster when it is back.
#[test]
fn a_server_that_is_starting_is_not_treated_as_dead() {
    let (servers, agents) = scene(2);
    agents.die_unreported(&servers);
    servers[0].kill();
    agents.lapse();
    let second = agents.stay(&servers[1], &[], &[]);
    second.wait_for("does not answer; it is checked again before this node begins the cluster");
    servers[0].restart();
    second.wait_for("has initialized its server without reporting it");
    agents.up(&servers[0], &[]).document();
    second.wait_for("which has 2 nodes");
    one_cluster(&servers, 2);
    assert_eq!(servers.count("/clusterInit"), 1);
}

/// The unused record expired, and a new node claimed the cluster and gave up: any member of the existing cluster may report it.
#[test]
fn a_member_of_an_existing_cluster_reports_it_again() {
    let (servers, agents) = scene(2);
    agents.join(servers.nodes(), &[]);
    let first = servers[0].address();
    let before = json!({
        "previous_initial_nodes": [first],
        "lease_expires_at": "2020-01-01T00:00:00Z",
        "lease_seconds_left": 0,
    });
    let api = fake_api(move |path, asking| match path {
        "/cluster/get_status" => record(asking, "10.0.0.9", "claimed", &before),
        "/cluster" => record(asking, asking, "claimed", &before),
        _ => record(asking, asking, "ready", &json!({"nodes": [asking]})),
    });
    let agents = Agents::new(&api.url, "demo", &servers);
    agents.up(&servers[1], &[]).document();
    let reported = api.requests();
    let reported = reported.iter().find(|asked| asked.path == "/cluster/ready");
    let uuid = reported.map(|asked| asked.json()["cluster_uuid"].clone());
    assert_eq!(uuid, Some(json!(servers.clusters()[0].uuid)));
}

/// Two machines with one name: both report it.
#[test]
fn two_machines_with_one_name_are_both_warned() {
    let (servers, agents) = scene(2);
    let first = agents.start(&servers[0], &[]);
    let is_held = hold_initialization(&servers);
    process::wait_until("the first has claimed", || agents.record()["state"] == "claimed");
    let mut second = agents.command(&servers[1], &["up", "--timeout", "3s"]);
    second.env("CBBOOTSTRAP_NODE", servers[0].address());
    let second = cbbootstrap_tests::cli::Ended::of(&mut second);
    second.failed(3, "in use by another server");
    assert!(
        second.stderr.contains("another machine claims `demo` under this node's name"),
        "{second}"
    );
    is_held.store(false, Ordering::Relaxed);
    let first = first.end();
    first.document();
    assert!(first.stderr.contains("give each machine its own `--node`"), "{first}");
    assert!(servers[1].is_blank());
    one_cluster(&servers, 1);
    // Once the cluster is up, the second node stops with an error. No hint suggests to forget an existing cluster.
    let mut second = agents.command(&servers[1], &["up"]);
    second.env("CBBOOTSTRAP_NODE", servers[0].address());
    let second = cbbootstrap_tests::cli::Ended::of(&mut second);
    second.failed(5, "two machines have the same name");
}

/// Without a secret, anyone may call the API, so only the first node's server decides whether it has a cluster.
#[test]
fn a_stranger_cannot_break_a_boot() {
    let (servers, agents) = scene(2);
    let is_held = hold_initialization(&servers);
    let first = agents.start(&servers[0], &[]);
    process::wait_until("the first has claimed", || agents.record()["state"] == "claimed");
    let node = servers[0].address();
    for (path, more) in [
        ("/cluster/leave", json!({})),
        ("/cluster/leave", json!({"generation": 1})),
        ("/cluster/ready", json!({"generation": 1})),
        (
            "/cluster/ready",
            json!({"generation": 1, "cluster_uuid": "0123456789abcdef0123456789abcdef"}),
        ),
        ("/cluster/ready", json!({"node_uuid": "0123456789abcdef0123456789abcdef"})),
    ] {
        let mut body = json!({"cluster_id": "demo", "node_ip_addr_or_hostname": node});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = http::post(&agents.api, path, &body.to_string()).unwrap();
        assert_eq!(answer.status, 409, "{path} {body}: {answer:?}");
        assert_eq!(answer.json()["code"], "name_taken", "{answer:?}");
        assert!(!answer.body.contains(&servers[0].uuid()), "{answer:?}");
    }
    assert!(!agents.record().to_string().contains(&servers[0].uuid()));
    is_held.store(false, Ordering::Relaxed);
    assert_eq!(first.end().document()["generation"], 1);
    agents.up(&servers[1], &[]).document();
    one_cluster(&servers, 2);
}

/// The first node has lost its disk. Other members are up, so no message says that the cluster is lost.
#[test]
fn a_first_node_that_lost_its_disk_is_sent_to_the_other_members() {
    let (servers, agents) = scene(3);
    agents.join(servers.nodes(), &[]);
    let first = agents.first_node(&servers);
    first.reset();
    let up = agents.up(first, &["--timeout", "3s"]);
    up.failed(3, "as a member that it cannot reach, and this server is blank");
    assert!(first.is_blank());
}

/// The way out is named: the record outlived its cluster.
#[test]
fn unreachable_members_are_named_with_a_hint() {
    for (id, in_a_shell) in [("demo", "demo"), ("-a;b", "-- '-a;b'")] {
        let (servers, agents) = scene(2);
        let agents = agents.with("CBBOOTSTRAP_CLUSTER_ID", id);
        agents.up(&servers[0], &[]).document();
        servers[0].kill();
        let up = agents.up(&servers[1], &["--timeout", "2s"]);
        assert_eq!(up.status, Some(3), "{up}");
        let command = format!("`cbbootstrap cluster forget {in_a_shell}`");
        assert!(up.stderr.contains(&command), "{up}");
    }
}

#[test]
fn a_node_without_the_data_service_waits_for_one_that_has_it() {
    let (servers, agents) = scene(2);
    let query = agents.start(&servers[0], &["--services", "index,query"]);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(agents.record(), Value::Null, "it claims nothing");
    agents.up(&servers[1], &[]).document();
    query.end().document();
    one_cluster(&servers, 2);
}

/// A copy of the first node from before others joined has the cluster's UUID, the password and the secret, and nothing tells it that
/// it was removed.
#[test]
fn restored_snapshot_of_a_removed_member_is_no_second_cluster() {
    let servers = Servers::start(6);
    let agents = with_secret(Agents::with_new_api(&servers));
    let keys = ClusterKeys::derive(SECRET.as_bytes(), &ClusterId::new("demo").unwrap());
    agents.up(&servers[0], &[]).document();
    let snapshot = servers[0].snapshot();
    agents.join(&servers.nodes()[1..3], &[]);
    // People remove it, so the record keeps it.
    let otp = format!("ns_1@{}", servers[0].address());
    let known: Vec<_> =
        servers.nodes()[..3].iter().map(|node| format!("ns_1@{}", node.address())).collect();
    let form = [("knownNodes", &*known.join(",")), ("ejectedNodes", &*otp)];
    let started = servers[1].call("POST", "/controller/rebalance", &form, Some(LOGIN)).unwrap();
    assert_eq!(started.status, 200);
    process::wait_until("it is out", || servers.clusters()[0].nodes.len() == 2);
    let record = agents.record_with(keys.token());
    servers[0].restore(&snapshot);
    let copy = "is a member of the same cluster and does not list this server";
    agents.up(&servers[0], &[]).failed(5, copy);
    assert_eq!(agents.record_with(keys.token())["members"], record["members"]);
    // The copy would add a node. Nodes with consecutive names begin with different members.
    for joiner in &servers.nodes()[3..] {
        agents.up(joiner, &[]).document();
        let clusters = servers.clusters();
        let sizes: Vec<_> = clusters.iter().map(|cluster| cluster.nodes.len()).collect();
        assert_eq!(sizes, [3, 1], "{clusters:#?}");
        agents.run(joiner, &["leave"]).ended_with(0);
    }
    // The last survivor of its cluster reports itself, although the record names others.
    servers[0].reset();
    servers[1].kill();
    let up = agents.up(&servers[2], &[]).ended_with(0);
    assert!(up.stderr.contains("ready: reported"), "{up}");
}

/// Members whose certificates were replaced are neither down nor reset, although nobody has reported the new ones.
#[test]
fn old_copy_does_not_go_on_without_members_with_new_certificates() {
    let servers = Servers::start_generated(3);
    let agents = with_secret(Agents::with_new_api(&servers));
    agents.up(&servers[0], &[]).document();
    let snapshot = servers[0].snapshot();
    agents.join(&servers.nodes()[1..], &[]);
    for node in &servers.nodes()[1..] {
        node.load_certificate();
    }
    servers[0].reset();
    servers[0].restore(&snapshot);
    servers[0].set_uptime(Duration::from_mins(2));
    let up = agents.up(&servers[0], &["--timeout", "3s"]);
    up.failed(3, "no other member has confirmed its membership");
}

// Never the password.

#[test]
fn a_secret_alone_gives_verified_tls_between_generated_certificates() {
    let servers = Servers::start_generated(3);
    let agents = with_secret(Agents::with_new_api(&servers));
    for up in agents.join(servers.nodes(), &[]) {
        assert!(!up.stderr.contains("--insecure"), "{up}");
    }
    one_cluster(&servers, 3);
    // The API got a token, and never the secret.
    let keys = ClusterKeys::derive(SECRET.as_bytes(), &ClusterId::new("demo").unwrap());
    let record = agents.record_with(keys.token());
    assert_eq!(record["members"].as_array().unwrap().len(), 3, "{record}");
    for member in record["members"].as_array().unwrap() {
        assert!(
            member["attestation"].is_string() && member["authority_sha256"].is_string(),
            "{member}"
        );
    }
    // Again, and out and in again, with the certificate that the server has then.
    agents.up(&servers[2], &[]).document();
    agents.run(&servers[2], &["leave"]).ended_with(0);
    agents.up(&servers[2], &[]).document();
    one_cluster(&servers, 3);
}

#[test]
fn a_node_does_not_join_unverified_members() {
    let (servers, agents) = scene(2);
    let agents = agents.without("CBBOOTSTRAP_CA_CERT");
    agents.up(&servers[0], &[]).document();
    let up = agents.up(&servers[1], &[]);
    up.failed(5, "no way to verify its members");
    assert!(up.stderr.contains("--secret-file"), "{up}");
    assert!(servers[1].is_blank());
}

/// The first report of a cluster may lack its attestation, which a later one adds.
#[test]
fn discover_waits_until_a_member_is_attested() {
    let servers = Servers::start(1);
    let (id, first) = (ClusterId::new("demo").unwrap(), servers[0].address());
    let uuid = Uuid::new("0123456789abcdef0123456789abcdef").unwrap();
    let keys = ClusterKeys::derive(SECRET.as_bytes(), &id);
    let statement = Statement {
        cluster_id: &id,
        node: &Name::new(first.as_str()).unwrap(),
        cluster_uuid: &uuid,
        authority: None,
    };
    let attestation = keys.attest(&statement).to_string();
    let (name, mut asked) = (first.clone(), 0);
    let attests = Arc::new(AtomicBool::new(false));
    let from = Arc::clone(&attests);
    let api = fake_api(move |_, asking| {
        let mut member = json!({"node": name, "reported_at": "2026-01-01T00:00:00Z"});
        asked += u32::from(from.load(Ordering::Relaxed));
        if asked > 3 {
            member["attestation"] = json!(attestation);
        }
        let more = json!({"cluster_uuid": uuid.as_str(), "nodes": [name], "members": [member]});
        record(asking, &name, "ready", &more)
    });
    let agents = with_secret(Agents::new(&api.url, "demo", &servers));
    let none = "no member of the cluster is attested with this secret";
    agents.run(&servers[0], &["discover"]).failed(5, none);
    let late = agents.run(&servers[0], &["discover", "--wait", "--timeout", "1s"]);
    late.failed(3, none);
    assert!(late.stderr.contains("`--secret-file`"), "{late}");
    attests.store(true, Ordering::Relaxed);
    let waited = agents.run(&servers[0], &["discover", "--wait"]).ended_with(0);
    assert_eq!(waited.stdout, format!("{first}\n"));
}

/// It stays in the record, with an authority that the cluster may no longer use.
#[test]
fn dead_member_does_not_keep_the_authorities_of_the_others_from_discover() {
    let servers = Servers::start_generated(2);
    let agents = with_secret(Agents::with_new_api(&servers));
    agents.up(&servers[0], &[]).document();
    let (api, dead) = (agents.api.clone(), servers[1].address());
    servers[1].kill();
    let (id, node) = (ClusterId::new("demo").unwrap(), Name::new(&dead).unwrap());
    let keys = ClusterKeys::derive(SECRET.as_bytes(), &id);
    let token = format!("Bearer {}", keys.token());
    let front = Stub::start(move |request| {
        let answer = http::post_as(&api, &request.path, &request.body, Some(&token)).unwrap();
        let mut record = answer.json();
        let authority = Fingerprint::of_certificate(b"another authority");
        let uuid = Uuid::new(record["cluster_uuid"].as_str().unwrap()).unwrap();
        let statement = Statement {
            cluster_id: &id,
            node: &node,
            cluster_uuid: &uuid,
            authority: Some(authority),
        };
        record["nodes"].as_array_mut().unwrap().push(json!(node.to_string()));
        record["members"].as_array_mut().unwrap().push(json!({
            "node": node.to_string(), "reported_at": "2026-01-01T00:00:00Z",
            "authority_sha256": authority.to_string(), "attestation": keys.attest(&statement).to_string(),
        }));
        (answer.status, record.to_string())
    });
    let agents = agents.with("CBBOOTSTRAP_API", &front.url);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let path = file.display().to_string();
    let discover = ["discover", "--write-ca-cert", &path];
    let discovered = agents.run(&servers[0], &discover).ended_with(0);
    assert!(discovered.stdout.contains(&dead), "{discovered}");
    assert!(discovered.stderr.contains("the file lacks the authority of members"), "{discovered}");
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(written.trim(), servers[0].certificate().authority.trim());
    // On a standard output, which stays what it is, the file is alone.
    let stdout = directory.path().join("stdout");
    std::os::unix::fs::symlink("/proc/self/fd/1", &stdout).unwrap();
    let to_pipe = ["discover", "--write-ca-cert", stdout.to_str().unwrap()];
    let piped = agents.run(&servers[0], &to_pipe).ended_with(0);
    assert_eq!((&piped.stdout, piped.stderr.contains(&dead)), (&written, true), "{piped}");
    let redirected = directory.path().join("redirected");
    for file in [stdout.to_str().unwrap(), "/dev/stdout", "/dev/stderr"] {
        let mut command = agents.command(&servers[0], &["discover", "--write-ca-cert", file]);
        let both = File::create(&redirected).unwrap();
        command.stdout(both.try_clone().unwrap()).stderr(both);
        assert!(command.status().unwrap().success());
        let text = std::fs::read_to_string(&redirected).unwrap();
        assert!(text.contains(&written) && text.contains(&dead), "{file}: {text}");
    }
    assert!(stdout.is_symlink());
    let missing = agents.run(&servers[0], &["discover", "--write-ca-cert", "/nowhere/ca.pem"]);
    missing.failed(1, "cannot write `/nowhere/ca.pem`: No such file or directory");
    let hint = "(os error 2)\nhint: choose another file with `--write-ca-cert`";
    assert!(missing.stderr.contains(hint), "{missing}");
    // Without any of them, there is nothing to write.
    servers[0].kill();
    agents.run(&servers[0], &discover).failed(1, "does not answer");
}

/// It would never come.
#[test]
fn discover_does_not_wait_for_an_authority_in_community_edition() {
    let servers = Servers::start_community(1);
    let agents = with_secret(Agents::with_new_api(&servers));
    agents.up(&servers[0], &[]).document();
    for wait in [&[][..], &["--wait"]] {
        let discovered =
            agents.run(&servers[0], &[&["discover", "--write-ca-cert", "ca.pem"], wait].concat());
        discovered.failed(5, "Community Edition has no TLS");
        assert!(discovered.stderr.contains("omit `--write-ca-cert`"), "{discovered}");
    }
}

/// Clients would find no TLS port.
#[test]
fn discover_connects_to_community_edition_without_tls() {
    let servers = Servers::start_community(1);
    let agents = with_secret(Agents::with_new_api(&servers));
    agents.up(&servers[0], &[]).document();
    let string = format!("couchbase://{}", servers[0].address());
    let discover = |format| agents.run(&servers[0], &["discover", "--format", format]);
    assert_eq!(discover("connection-string").ended_with(0).stdout, format!("{string}\n"));
    assert_eq!(discover("json").document()["connection_string"], string.as_str());
}

/// Only a host that the secret verifies gets the password, whatever the API returns and whichever certificate the host has.
#[test]
fn a_host_that_the_api_names_gets_no_password() {
    // The impostors serve TLS with certificates of another authority and accept any password.
    let impostors = Servers::start_generated(2);
    impostors[0].provision(LOGIN.0, LOGIN.1);
    let impostor = impostors[0].address();
    let id = ClusterId::new("demo").unwrap();
    let keys = ClusterKeys::derive(SECRET.as_bytes(), &id);
    let uuid = Uuid::new(impostors.clusters()[0].uuid.as_str()).unwrap();
    let other_uuid = Uuid::new("0123456789abcdef0123456789abcdef").unwrap();
    let name = |text: &str| Name::new(text).unwrap();
    let authority = Fingerprint::of_certificate(b"not a certificate that anybody has");
    let attest = |id: &ClusterId, node: &str, uuid: &Uuid, keys: &ClusterKeys| {
        let node = name(node);
        let statement = Statement {
            cluster_id: id,
            node: &node,
            cluster_uuid: uuid,
            authority: Some(authority),
        };
        keys.attest(&statement).to_string()
    };
    let other_id = ClusterId::new("other").unwrap();
    let other_keys = ClusterKeys::derive(b"a secret of someone else", &id);
    for (what, attestation) in [
        ("no attestation", Value::Null),
        ("zeros", json!("0".repeat(64))),
        ("not hexadecimal", json!("z".repeat(64))),
        ("of another secret", json!(attest(&id, &impostor, &uuid, &other_keys))),
        ("replayed from another cluster id", json!(attest(&other_id, &impostor, &uuid, &keys))),
        ("replayed from another node", json!(attest(&id, "10.0.0.1", &uuid, &keys))),
        ("replayed from an earlier cluster", json!(attest(&id, &impostor, &other_uuid, &keys))),
        // A real one, of a server that has lost this address in the meantime.
        (
            "replayed, but the authority is not the host's",
            json!(attest(&id, &impostor, &uuid, &keys)),
        ),
    ] {
        let servers = Servers::start_generated(1);
        let (first, told) = (impostor.clone(), uuid.to_string());
        let api = fake_api(move |_, asking| {
            let mut member = json!({
                "node": first, "reported_at": "2026-01-01T00:00:00Z", "authority_sha256": authority.to_string(),
            });
            if !attestation.is_null() {
                member["attestation"] = attestation.clone();
            }
            let more = json!({"cluster_uuid": told, "nodes": [first], "members": [member]});
            record(asking, &first, "ready", &more)
        });
        let agents =
            with_secret(Agents::new(&api.url, "demo", &servers)).with("CBBOOTSTRAP_TIMEOUT", "1s");
        let up = agents.up(&servers[0], &[]);
        assert_eq!(up.status, Some(3), "{what}: {up}");
        assert_no_password(&impostors, &impostors[0]);
        assert!(servers[0].is_blank(), "{what}");
        // Neither does the API get it, nor the secret.
        for asked in api.requests() {
            let sent = format!("{asked:?}");
            assert!(!sent.contains(SECRET) && !sent.contains(LOGIN.1), "{what}: {sent}");
        }
    }
}

/// With an authority of the operator's, its certificates count, and the system's do not.
#[test]
fn only_the_given_authority_is_trusted() {
    let impostors = Servers::start_generated(1);
    impostors[0].provision(LOGIN.0, LOGIN.1);
    let servers = Servers::start(1);
    let (impostor, uuid) = (impostors[0].address(), impostors.clusters()[0].uuid.clone());
    let api = fake_api(move |_, asking| {
        record(asking, &impostor, "ready", &json!({"cluster_uuid": uuid, "nodes": [impostor]}))
    });
    let agents = Agents::new(&api.url, "demo", &servers).with("CBBOOTSTRAP_TIMEOUT", "1s");
    let up = agents.up(&servers[0], &[]);
    assert_ne!(up.status, Some(0), "{up}");
    assert_no_password(&impostors, &impostors[0]);
}

/// Names that would be more than a host in a URL or a connection string.
#[test]
fn names_that_are_not_hosts_are_refused() {
    for name in [
        "10.0.0.1@evil",
        "evil/any/path?x=1#",
        "a,evil",
        "a?tls_verify=none",
        "$(id)",
        "a;rm",
        "a\u{1b}[2J",
        "a\u{202e}b",
        "",
    ] {
        let servers = Servers::start(1);
        let api =
            fake_api(move |_, asking| record(asking, name, "ready", &json!({"nodes": [name]})));
        let agents = Agents::new(&api.url, "demo", &servers);
        for args in [
            &["up"][..],
            &["discover"],
            &["discover", "--format", "connection-string"],
            &["status"],
        ] {
            let ended = agents.run(&servers[0], args);
            assert_eq!(ended.status, Some(1), "{name:?}: {ended}");
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert!(!said.contains(['\u{1b}', '\u{202e}']), "{said:?}");
        }
        assert!(servers[0].is_blank());
    }
}

/// What an API answers besides to the node that asks.
type Lie = fn(&str) -> Value;

/// An API with contradictory or unrelated responses.
#[test]
fn answers_that_cannot_be_true_are_refused() {
    let lies: [(&str, Lie); 6] = [
        (
            "another cluster",
            |me| json!({"cluster_id": "other", "initial_node_ip_addr_or_hostname": me}),
        ),
        ("generation 0", |_| json!({"generation": 0})),
        (
            "the flag contradicts the name",
            |_| json!({"initial_node_ip_addr_or_hostname": "10.9.9.9", "is_initial_node": true}),
        ),
        ("a UUID with a path", |_| json!({"cluster_uuid": "../../evil"})),
        (
            "thousands of nodes",
            |_| json!({"nodes": (0..5000).map(|n| format!("n{n}")).collect::<Vec<_>>()}),
        ),
        ("a state that there is not", |_| json!({"state": "done"})),
    ];
    for (what, lie) in lies {
        let servers = Servers::start(1);
        let api = fake_api(move |_, asking| record(asking, asking, "claimed", &lie(asking)));
        let up = Agents::new(&api.url, "demo", &servers).up(&servers[0], &[]);
        assert_eq!(up.status, Some(1), "{what}: {up}");
        assert!(servers[0].is_blank(), "{what}");
        assert_eq!(servers.count("/clusterInit"), 0, "{what}");
    }
}

// Never spinning, and always ending in time.

#[test]
fn an_initialization_without_effect_is_not_repeated() {
    let servers = Servers::start(1);
    servers.on_request(
        |seen| {
            if seen.path == "/clusterInit" { Then::Answer(200) } else { Then::Handle }
        },
    );
    let agents = Agents::with_new_api(&servers).with("CBBOOTSTRAP_TIMEOUT", "3s");
    agents.up(&servers[0], &[]).failed(3, "still belongs to no cluster");
    assert_eq!(servers.count("/clusterInit"), 1);
    assert!(servers.requests().len() < 150, "{} requests", servers.requests().len());
}

#[test]
fn an_addition_without_effect_is_not_repeated_at_once() {
    let (servers, agents) = scene(2);
    agents.up(&servers[0], &[]).document();
    servers.on_request(|seen| {
        if seen.path.ends_with("/addNode") { Then::Answer(200) } else { Then::Handle }
    });
    let since = Instant::now();
    let up = agents.up(&servers[1], &["--timeout", "3s"]);
    assert_eq!(up.status, Some(3), "{up}");
    assert!(since.elapsed() < Duration::from_secs(9));
    assert!(servers.count("/addNode") < 45, "{} additions", servers.count("/addNode"));
}

/// The server would be initialized after the command had failed.
#[test]
fn a_claim_at_the_end_of_the_time_limit_initializes_nothing() {
    let servers = Servers::start(1);
    let api = fake_api(|_, asking| {
        thread::sleep(Duration::from_millis(2500));
        record(asking, asking, "claimed", &json!({}))
    });
    let agents = Agents::new(&api.url, "demo", &servers);
    let up = agents.up(&servers[0], &["--timeout", "3s"]);
    up.failed(3, "initialize: too little time is left");
    assert_eq!(servers.count("/clusterInit"), 0);
}

#[test]
fn every_command_ends_by_its_timeout() {
    let (servers, agents) = scene(2);
    agents.up(&servers[0], &[]).document();
    servers[0].hang(true);
    servers[1].hang(true);
    for (node, args) in [
        (0, &["up", "--timeout", "2s"][..]),
        (1, &["up", "--timeout", "2s"]),
        (0, &["leave", "--timeout", "2s"]),
    ] {
        let since = Instant::now();
        agents.run(&servers[node], args).ended_with(3);
        assert!(since.elapsed() < Duration::from_secs(8), "{args:?}: {:?}", since.elapsed());
    }
    // An API that never answers, too.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let agents = Agents::new(&url, "demo", &servers);
    for args in [&["discover", "--wait", "--timeout", "2s"][..], &["up", "--timeout", "2s"]] {
        let since = Instant::now();
        agents.run(&servers[1], args).ended_with(3);
        assert!(since.elapsed() < Duration::from_secs(8), "{args:?}: {:?}", since.elapsed());
    }
}

#[test]
fn plain_http_is_allowed_only_on_this_host() {
    let servers = Servers::start(1);
    let agents =
        Agents::new("http://192.0.2.1:8080", "demo", &servers).with("CBBOOTSTRAP_TIMEOUT", "1s");
    for args in [&["up"][..], &["leave"], &["status"], &["discover"]] {
        let ended = agents.run(&servers[0], args);
        ended.failed(2, "is not on this host");
        assert!(ended.stderr.contains("--insecure"), "{ended}");
    }
    let ended = agents.run(&servers[0], &["up", "--insecure"]);
    assert_eq!(ended.status, Some(3), "{ended}");
}

/// Requests to this host bypass the proxy, or the token would leave it unencrypted.
#[test]
fn an_api_on_this_host_is_called_without_a_proxy() {
    let servers = Servers::start(1);
    let mut agents = with_secret(Agents::with_new_api(&servers));
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        agents = agents.with(variable, "http://127.0.0.1:1");
    }
    agents.up(&servers[0], &[]).document();
    // A name server need not know names below `localhost`.
    let named = agents.api.replace("127.0.0.1", "api.localhost");
    assert_ne!(named, agents.api);
    for api in [&agents.api, &named] {
        agents.run(&servers[0], &["discover", "--api", api]).ended_with(0);
    }
}

// What a real server does.

/// The node was removed while it was down, and reports for a while after its start that it is a member.
#[test]
fn a_removed_server_that_still_reports_membership_joins_again() {
    let servers = Servers::start_generated(3);
    servers.removed_nodes_remember_for(Duration::from_secs(2), Duration::from_millis(500));
    let agents = with_secret(Agents::with_new_api(&servers));
    agents.join(servers.nodes(), &[]);
    let removed = servers.node(2);
    removed.kill();
    let login = Some(LOGIN);
    let otp = format!("ns_1@{}", removed.address());
    let failed =
        servers[0].call("POST", "/controller/failOver", &[("otpNode", &otp)], login).unwrap();
    assert_eq!(failed.status, 200, "{failed:?}");
    let ejected =
        servers[0].call("POST", "/controller/ejectNode", &[("otpNode", &otp)], login).unwrap();
    assert_eq!(ejected.status, 200, "{ejected:?}");
    removed.restart();
    let up = agents.up(&removed, &[]);
    up.document();
    assert_eq!(servers.clusters()[0].nodes.len(), 3, "it has joined again: {up}");
    one_cluster(&servers, 3);
}

/// A failed-over node that is back: no agent removes it.
#[test]
fn a_failed_over_node_that_is_back_is_not_removed() {
    let (servers, agents) = scene(4);
    agents.join(&servers.nodes()[..3], &[]);
    let otp = format!("ns_1@{}", servers[2].address());
    let form = [("otpNode", otp.as_str())];
    servers[0].call("POST", "/controller/failOver", &form, Some(LOGIN)).unwrap();
    // A member reports the cluster's actual state.
    let member = agents.run(&servers[1], &["up"]).ended_with(6);
    assert!(
        member.stdout.contains("is not balanced") && member.stdout.contains("failed over"),
        "{member}"
    );
    // A joiner waits and logs the reason.
    let joiner = agents.up(&servers[3], &["--timeout", "4s"]);
    joiner.failed(3, "has been failed over and is back");
    assert_eq!(servers.clusters()[0].nodes.len(), 4);
    // Marked for recovery, it comes back with the next rebalance.
    let recovery = [("otpNode", otp.as_str()), ("recoveryType", "full")];
    servers[0].call("POST", "/controller/setRecoveryType", &recovery, Some(LOGIN)).unwrap();
    agents.up(&servers[3], &[]).document();
    one_cluster(&servers, 4);
}

#[test]
fn a_bucket_that_warms_up_is_waited_for() {
    let servers = Servers::start(1);
    servers.bucket_warm_up_takes(Duration::from_secs(2));
    let agents = Agents::with_new_api(&servers);
    let up = agents.up(&servers[0], &["--bucket", "app:256"]);
    up.document();
    assert!(up.stderr.contains("warmup"), "{up}");
    agents.run(&servers[0], &["status"]).ended_with(0);
}

#[test]
fn community_edition_works_from_up_to_leave() {
    let servers = Servers::start_community(3);
    let agents = Agents::with_new_api(&servers).with("CBBOOTSTRAP_INSECURE", "true");
    let options = ["--services", "data,index,query", "--bucket", "app:256"];
    agents.join(servers.nodes(), &options);
    one_cluster(&servers, 3);
    agents.run(&servers[1], &["status"]).ended_with(0);
    agents.run(&servers[1], &["leave"]).ended_with(0);
    one_cluster(&servers, 2);
    // Missing features are reported before the claim.
    let other = Servers::start_community(1);
    let agents = Agents::new(&agents.api, "other", &other);
    agents
        .up(&other[0], &["--services", "data,query"])
        .failed(2, "Community Edition does not support the services");
    assert_eq!(agents.record(), Value::Null);
}

/// A member attests the authority of its certificate: a new certificate needs a new report, and `up` makes it.
#[test]
fn a_member_with_a_new_certificate_attests_it_again() {
    let servers = Servers::start_generated(2);
    let agents = with_secret(Agents::with_new_api(&servers));
    agents.up(&servers[0], &[]).document();
    servers[0].load_certificate();
    let up = agents.up(&servers[1], &["--timeout", "2s"]);
    assert_eq!(up.status, Some(3), "{up}");
    assert!(up.stderr.contains("certificate has changed"), "{up}");
    agents.up(&servers[0], &[]).document();
    // A member with its own certificate adds only nodes with one of the same authority.
    servers[1].load_certificate();
    agents.up(&servers[1], &[]).document();
    one_cluster(&servers, 2);
}

/// A server's TLS port may open late after a restart. A report without an attestation would replace the recorded one.
#[test]
fn a_member_that_cannot_attest_keeps_its_recorded_attestation() {
    let servers = Servers::start_generated(2);
    let agents = with_secret(Agents::with_new_api(&servers));
    agents.join(servers.nodes(), &[]);
    let keys = ClusterKeys::derive(SECRET.as_bytes(), &ClusterId::new("demo").unwrap());
    let assert_attested = || {
        let record = agents.record_with(keys.token());
        let members = record["members"].as_array().unwrap();
        assert_eq!(members.len(), 2, "{record}");
        assert!(members.iter().all(|member| member["attestation"].is_string()), "{record}");
    };
    let close_tls = |is_closed| {
        servers.on_request(move |seen| {
            // Nothing else asks a member this without credentials.
            let is_check = seen.node == 1 && seen.path == "/pools" && seen.user.is_none();
            if is_closed && is_check { Then::Drop } else { Then::Handle }
        });
    };
    close_tls(true);
    servers[1].kill();
    servers[1].restart();
    let up = agents.start(&servers[1], &[]);
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(100));
        assert_attested();
    }
    close_tls(false);
    up.end().document();
    assert_attested();
    close_tls(true);
    let up = agents.up(&servers[1], &["--interval", "50ms"]).ended_with(6);
    assert!(up.stderr.contains("cannot attest its membership"), "{up}");
    assert_attested();
}

/// Without `--insecure` no password crosses the network unencrypted, whether or not there is a secret.
#[test]
fn community_edition_joins_nobody_without_insecure() {
    let servers = Servers::start_community(2);
    let agents = with_secret(Agents::with_new_api(&servers));
    agents.up(&servers[0], &[]).document();
    let before = servers.requests().len();
    agents.up(&servers[1], &[]).failed(5, "Community Edition has no TLS");
    let to_member: Vec<_> =
        servers.requests()[before..].iter().filter(|seen| seen.node == 0).cloned().collect();
    assert!(to_member.is_empty(), "{to_member:?}");
}

/// No rebalance can succeed with a dead active member: the agent reports that and does not start one.
#[test]
fn a_dead_active_member_is_named() {
    let (servers, agents) = scene(4);
    agents.join(&servers.nodes()[..3], &[]);
    let record = agents.record();
    let is_other = |node: &&Node| record["initial_node_ip_addr_or_hostname"] != node.address();
    let dead = servers.nodes()[..3].iter().find(is_other).unwrap();
    dead.kill();
    let before = servers.count("/controller/rebalance");
    let up = agents.up(&servers[3], &["--timeout", "4s"]);
    up.failed(3, "cannot be reached: no rebalance can succeed");
    assert!(up.stderr.contains(&dead.address()), "{up}");
    assert_eq!(servers.count("/controller/rebalance"), before);
    // It is back, and the rebalance begins.
    dead.restart();
    agents.up(&servers[3], &[]).document();
    one_cluster(&servers, 4);
}

/// After `leave`, a server has a new certificate of its own authority: the agent reports that, and explains why members refuse it.
#[test]
fn lost_certificates_are_explained() {
    let (servers, agents) = scene(2);
    agents.join(servers.nodes(), &[]);
    let left = agents.run(&servers[1], &["leave"]).ended_with(0);
    assert!(left.stderr.contains("load it again before the next `up`"), "{left}");
    let up = agents.up(&servers[1], &[]);
    up.failed(1, "no member can add this node");
    assert!(up.stderr.contains("`reloadCertificate`"), "{up}");
    servers[1].load_certificate();
    agents.up(&servers[1], &[]).document();
    one_cluster(&servers, 2);
}

/// The server's reason is printed even if the API does not release the claim.
#[test]
fn a_refused_initialization_is_explained_although_the_claim_stays() {
    let (servers, agents) = scene(1);
    servers.on_request(|seen| {
        let is_init = seen.path.ends_with("/clusterInit");
        if is_init { Then::Refuse(400, r#"["no way"]"#.to_owned()) } else { Then::Handle }
    });
    let api = agents.api.clone();
    let front = Stub::start(move |request| {
        if request.path == "/cluster/leave" {
            return (403, r#"{"message":"Forbidden"}"#.to_owned());
        }
        let answer = http::post(&api, &request.path, &request.body).unwrap();
        (answer.status, answer.body)
    });
    let refused = agents.with("CBBOOTSTRAP_API", &front.url).up(&servers[0], &[]);
    refused.failed(1, "the server refuses to initialize the cluster");
    assert!(refused.stderr.contains("no way"), "{refused}");
    assert!(refused.stderr.contains("did not release the claim"), "{refused}");
}

/// Each member of a large cluster may refuse for a moment.
#[test]
fn a_joiner_tries_again_when_every_member_refuses() {
    let (servers, agents) = scene(12);
    agents.join(&servers.nodes()[..11], &[]);
    let mut refusals = 0;
    servers.on_request(move |seen| {
        if seen.path.ends_with("/addNode") && refusals < 20 {
            refusals += 1;
            return Then::Refuse(400, r#"["not now"]"#.to_owned());
        }
        Then::Handle
    });
    agents.up(&servers[11], &[]).document();
    one_cluster(&servers, 12);
}

/// A rebalance removes nodes that are failed over, so its decision must not be older than the answer of the API.
#[test]
fn node_that_is_failed_over_while_the_api_answers_is_not_removed() {
    for command in ["up", "leave"] {
        let (servers, agents) = scene(4);
        agents.join(&servers.nodes()[..3], &["--nodes", "3", "--bucket", "app:100:0"]);
        let waiting = agents.run(&servers[3], &["up", "--settle", "30m", "--timeout", "5s"]);
        waiting.failed(3, "waits for a rebalance");
        let api = agents.api.clone();
        let (first, lost) = (servers.node(0), format!("ns_1@{}", servers[1].address()));
        let mut is_failed_over = false;
        let front = Stub::start(move |request| {
            if request.path == "/cluster/get_status"
                && !std::mem::replace(&mut is_failed_over, true)
            {
                let form = [("otpNode", lost.as_str())];
                first.call("POST", "/controller/failOver", &form, Some(LOGIN)).unwrap();
            }
            let answer = http::post(&api, &request.path, &request.body).unwrap();
            (answer.status, answer.body)
        });
        let agents = agents.with("CBBOOTSTRAP_API", &front.url).with("CBBOOTSTRAP_SETTLE", "0s");
        let index = if command == "up" { 3 } else { 2 };
        let ended = agents.run(&servers[index], &[command, "--timeout", "4s"]);
        ended.failed(3, "has been failed over and is back");
        let cluster = servers.clusters().remove(0);
        let lost = cluster.nodes.iter().find(|node| node.index == 1);
        assert_eq!(lost.map(|node| node.membership), Some(Membership::InactiveFailed), "{ended}");
    }
}

/// A rebalance that was stopped does not count as done, and people decide about the next one.
#[test]
fn a_stopped_rebalance_is_not_called_done() {
    let (servers, agents) = scene(2);
    agents.up(&servers[0], &[]).document();
    servers.rebalance_takes(Duration::from_secs(30));
    let joiner = agents.start(&servers[1], &[]);
    process::wait_until("the rebalance runs", || servers.clusters()[0].is_rebalancing);
    thread::sleep(Duration::from_millis(500));
    servers[0].call("POST", "/controller/stopRebalance", &[], Some(LOGIN)).unwrap();
    servers.rebalance_takes(Duration::from_millis(200));
    let stopped = joiner.end().ended_with(6);
    assert!(stopped.stderr.contains("it ended early: someone stopped it"), "{stopped}");
    assert!(stopped.stderr.contains("warning: someone stopped the rebalance"), "{stopped}");
    assert_eq!(stopped.stderr.matches("rebalance: done").count(), 0, "{stopped}");
    let up = agents.up(&servers[1], &[]);
    up.document();
    assert_eq!(up.stderr.matches("rebalance: done").count(), 1, "{up}");
    one_cluster(&servers, 2);
}
