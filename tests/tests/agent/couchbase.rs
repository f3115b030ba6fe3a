//! The stand-in for Couchbase Server answers as the recorded server does.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use cbbootstrap_tests::{
    couchbase::{Membership, Node, Rebalanced, Servers, Then},
    http::Answer,
    pattern::pattern,
    process::wait_until,
    recording::{alike, masked, repaired},
};
use regex::Captures;
use serde_json::{Value, json};

const LOGIN: Option<(&str, &str)> = Some(("Administrator", "password"));

fn get(node: &Node, path: &str) -> Answer {
    node.call("GET", path, &[], LOGIN).unwrap()
}

/// Adds a blank node through a member.
fn add(through: &Node, joiner: &Node) -> Answer {
    let host = format!("https://{}", joiner.address());
    let form = [("hostname", host.as_str()), ("user", ""), ("password", "")];
    through.call("POST", "/controller/addNode", &form, LOGIN).unwrap()
}

/// Starts a rebalance of all nodes in the member's view.
fn rebalance(member: &Node, ejected: &str) -> Answer {
    let pool = get(member, "/pools/default").json();
    let nodes = pool["nodes"].as_array().unwrap();
    let known: Vec<_> = nodes.iter().map(|node| node["otpNode"].as_str().unwrap()).collect();
    let form = [("knownNodes", known.join(",")), ("ejectedNodes", ejected.to_owned())];
    let form = form.each_ref().map(|(name, value)| (*name, value.as_str()));
    member.call("POST", "/controller/rebalance", &form, LOGIN).unwrap()
}

fn wait_until_done(servers: &Servers) {
    wait_until("the rebalance has ended", || !servers.clusters()[0].is_rebalancing);
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
    assert_eq!(clusters[0].rebalances, [Rebalanced { added: 99, removed: 0 }]);
    let pools = servers[99].call_tls("GET", "/pools", &[], LOGIN).unwrap();
    assert_eq!(pools.json()["uuid"], json!(clusters[0].uuid));
    assert!(clusters[0].nodes.iter().all(|node| node.membership == Membership::Active));
}

/// One entry of the recording.
struct Entry {
    name: String,
    title: String,
    lines: Vec<String>,
}

fn recording() -> Vec<Entry> {
    let text = include_str!("../../couchbase-rest/recorded-7.6.8.txt");
    let entries = text.split("\n## ").skip(1);
    let entry = |text: &str| {
        let mut lines = text.lines();
        let (name, title) = lines.next().unwrap().split_once(' ').unwrap();
        let lines = lines.filter(|line| !line.trim().is_empty());
        Entry {
            name: name.to_owned(),
            title: title.to_owned(),
            lines: lines.map(str::to_owned).collect(),
        }
    };
    entries.map(entry).collect()
}

/// The recorded nodes were three on one host; here each has an address.
struct Place {
    servers: Servers,
}

impl Place {
    /// The node that listened on 9000 + n or 19000 + n.
    fn node(&self, port: &str) -> &Node {
        &self.servers[port[port.len() - 1..].parse::<usize>().unwrap()]
    }

    /// What was recorded, in the names and ports of here; without a port, it is the asked node's address.
    fn here(&self, text: &str, asked: &Node) -> String {
        let address = |digit: &str| match digit.parse().unwrap() {
            node @ 0..3 => self.servers[node].address(),
            // No server listens there.
            _ => format!("{}0", self.servers[0].address()),
        };
        let rules = [
            (r"127\.0\.0\.1:1900(\d)", "@:18091"),
            (r"127\.0\.0\.1:900(\d)", "@:8091"),
            (r"127\.0\.0\.1:1950(\d)", "@:18092"),
            (r"127\.0\.0\.1:950(\d)", "@:8092"),
            (r"127\.0\.0\.1(.{1,2}) on port 1900(\d)", "@$1 on port 18091"),
            (r"n_(\d)@127\.0\.0\.1", "ns_1@@"),
        ];
        let mut text = text.replace("n_0@cb.local", "ns_1@cb.local");
        for (recorded, put) in rules {
            let replaced = pattern(recorded).replace_all(&text, |found: &Captures| {
                let digit = &found[found.len() - 1];
                let put = put.replace("$1", &found[1]);
                let at = put.rfind('@').unwrap();
                format!("{}{}{}", &put[..at], address(digit), &put[at + 1..])
            });
            text = replaced.into_owned();
        }
        text.replace("127.0.0.1", &asked.address())
    }

    /// Sends the entry's request and compares the answers.
    fn replay(&self, entry: &Entry) {
        let [request, head, body] = entry.lines.as_slice() else {
            panic!("{} is not a request with its answer", entry.name);
        };
        let parts = pattern(r"^> (\w+) :(\d+)(\S*) (.*) auth=(\S+)$");
        let parts = parts.captures(request).unwrap();
        let asked = self.node(&parts[2]);
        let form = self.here(&parts[4], asked);
        let fields: Vec<_> = pattern("'([^']*)': '([^']*)'")
            .captures_iter(&form)
            .map(|field| field.extract().1)
            .map(|[name, value]| (name, value))
            .collect();
        let answer = asked.call(&parts[1], &parts[3], &fields, parts[5].split_once(':')).unwrap();

        let name = &entry.name;
        let head = pattern(r"^< (\d+) (\{.*\})").captures(head).unwrap();
        assert_eq!(answer.status.to_string(), head[1], "{name}: {answer:?}");
        let headers: Value = serde_json::from_str(&pythonic(&head[2])).unwrap();
        for (header, value) in headers.as_object().unwrap() {
            let told = answer.headers.get(header).map(|told| told.to_str().unwrap());
            if header != "Connection" {
                assert_eq!(told, value.as_str(), "{name}: {header}");
            }
        }
        let body = body.strip_prefix("< '").unwrap().strip_suffix('\'').unwrap();
        let body = body.replace(r"\'", "'").replace(r"\\", r"\");
        let (body, is_cut) = match body.split_once("...") {
            Some((body, _)) => (body, true),
            None => (body.as_str(), false),
        };
        let body = self.here(body, asked);
        if is_cut {
            alike(name, &repaired(&body), &answer.json());
        } else if let Ok(expected) = serde_json::from_str(&body) {
            if answer.status >= 400 {
                assert_eq!(answer.json(), expected, "{name}");
            }
            alike(name, &expected, &answer.json());
        } else {
            assert_eq!(answer.body, body, "{name}");
        }
    }

    /// Compares the nodes that were listed, and the state of the cluster.
    fn compare_nodes(&self, entry: &Entry) {
        let [nodes, state] = entry.lines.as_slice() else {
            panic!("{} is not a list of nodes with its state", entry.name);
        };
        let asked = &self.servers[0];
        let login = Some(("Administrator", "asdasd-pw"));
        let told = asked.call("GET", "/pools/default", &[], login).unwrap().json();
        let nodes: Value = serde_json::from_str(&self.here(nodes, asked)).unwrap();
        assert_eq!(told["nodes"].as_array().unwrap().len(), nodes.as_array().unwrap().len());
        alike(&entry.name, &nodes, &told["nodes"]);
        let state = pattern(r"^ rebalanceStatus=(\w+) balanced=(\w+) servicesNeedRebalance=(.*)$")
            .captures(state)
            .unwrap()
            .extract::<3>()
            .1;
        let [status, balanced, services] = state.map(pythonic);
        let services: Value = serde_json::from_str(&services).unwrap();
        assert_eq!(told["rebalanceStatus"], json!(status), "{}", entry.name);
        assert_eq!(told["balanced"].to_string(), balanced, "{}", entry.name);
        assert_eq!(told["servicesNeedRebalance"], services, "{}", entry.name);
    }

    /// Sends a request to several nodes at once. The answers are the recorded ones, in any order.
    fn replay_together(&self, entry: &Entry, path: &str, form: &[(&str, &str)]) {
        let told: Vec<_> = thread::scope(|scope| {
            let asked = entry.lines.iter().map(|line| self.node(&line[..4]));
            let login = Some(("Administrator", "asdasd-pw"));
            let asked = asked.map(|node| scope.spawn(move || node.call("POST", path, form, login)));
            let asked: Vec<_> = asked.collect();
            asked.into_iter().map(|answer| answer.join().unwrap().unwrap()).collect()
        });
        let told = told.iter().map(|answer| format!("{} {}", answer.status, masked(&answer.body)));
        let expected = entry.lines.iter().map(|line| {
            let line = line[5..].replace('\'', "");
            masked(&self.here(&line, &self.servers[2]))
        });
        assert_eq!(
            told.collect::<BTreeSet<_>>(),
            expected.collect::<BTreeSet<_>>(),
            "{}",
            entry.name
        );
    }
}

/// A Python literal as JSON: strings with double quotes in them are in single ones.
fn pythonic(literal: &str) -> String {
    match literal {
        "True" => "true".to_owned(),
        "False" => "false".to_owned(),
        "None" => "null".to_owned(),
        _ => literal.replace('"', r#"\""#).replace('\'', "\""),
    }
}

#[test]
fn recorded_requests_get_the_recorded_answers() {
    let servers = Servers::start_generated(3);
    let place = Place { servers };
    let servers = &place.servers;
    let long = Duration::from_hours(1);
    let mut replayed = 0;
    let mut compared = Vec::new();
    let mut together = Vec::new();
    for entry in recording() {
        println!("{} {}", entry.name, entry.title);
        match entry.name.as_str() {
            "B22" | "C18" => servers.rebalance_takes(long),
            "B32" | "C14" | "C19" => servers.end_rebalances(),
            "C5" => servers.warm_up_takes(long),
            "C11" => {
                servers.add_takes(Duration::from_millis(500));
                servers.add_timeout(Duration::from_millis(600));
            }
            "C13" => servers.fail_rebalances(1),
            _ => {}
        }
        if entry.lines[0].starts_with('>') {
            place.replay(&entry);
            replayed += 1;
        } else if entry.lines[0].starts_with('[') {
            place.compare_nodes(&entry);
            compared.push(entry.name);
        } else if entry.name == "C11" {
            let joiner = servers[2].address();
            let form = [("hostname", joiner.as_str()), ("user", ""), ("password", "")];
            place.replay_together(&entry, "/controller/addNode", &form);
            together.push(entry.name);
        } else {
            let nodes = [&servers[0], &servers[1]].map(|node| format!("ns_1@{}", node.address()));
            let form = [("knownNodes", &*nodes.join(","))];
            place.replay_together(&entry, "/controller/rebalance", &form);
            together.push(entry.name);
        }
    }
    assert_eq!(replayed, 94);
    assert_eq!(compared, ["B11", "B21", "B31", "B34", "C6", "C12", "C16", "C19"]);
    assert_eq!(together, ["C11", "C18"]);
    assert_eq!(servers.wiped().len(), 1);
}

#[test]
fn a_machine_dies_and_comes_back() {
    let servers = cluster(3, 3);
    let dead = servers.node(1);
    dead.kill();
    assert!(dead.call("GET", "/pools", &[], LOGIN).is_err());
    assert!(dead.call_tls("GET", "/pools", &[], LOGIN).is_err());
    let status = || get(&servers[0], "/pools/default").json()["nodes"][1]["status"].clone();
    assert_eq!(status(), "unhealthy");
    // It cannot be added again, and nothing can be balanced without it.
    let told = add(&servers[0], &dead).body;
    assert!(told.contains("Could not connect to"), "{told}");
    rebalance(&servers[0], "");
    wait_until_done(&servers);
    let failed = get(&servers[0], "/pools/default/rebalanceProgress").json();
    assert_eq!(
        failed["errorMessage"],
        "Rebalance failed. See logs for detailed reason. You can try again."
    );

    dead.restart();
    assert_eq!(get(&dead, "/pools").status, 200);
    assert_eq!(status(), "healthy");
    rebalance(&servers[0], "");
    wait_until_done(&servers);
    assert_eq!(servers.clusters()[0].rebalances.len(), 2);
}

#[test]
fn a_new_machine_at_an_old_address_is_blank() {
    let servers = cluster(2, 2);
    servers[1].reset();
    assert!(servers[1].is_blank());
    assert!(!servers.clusters()[0].nodes[1].is_healthy);
    let told = add(&servers[0], &servers[1]);
    assert!(told.body.contains("loss of quorum"), "{told:?}");
    let servers = cluster(3, 3);
    servers[1].reset();
    let told = add(&servers[0], &servers[1]);
    assert!(told.body.contains("Node already exists in cluster"), "{told:?}");
    assert_eq!(servers.clusters()[0].refused.len(), 1);
}

#[test]
fn servers_fail_and_hang() {
    let servers = cluster(2, 3);
    servers[1].answer_500(true);
    assert_eq!(get(&servers[1], "/pools").status, 500);
    servers[1].answer_500(false);
    assert_eq!(get(&servers[1], "/pools").status, 200);

    servers[2].hang(true);
    servers.add_timeout(Duration::from_millis(100));
    let told = add(&servers[0], &servers[2]);
    assert!(told.body.contains("Timeout connecting to"), "{told:?}");
    let hanging = servers.node(2);
    let waiting = thread::spawn(move || hanging.call("GET", "/pools", &[], None));
    wait_until("the request is there", || servers.requests().iter().any(|seen| seen.node == 2));
    assert!(!waiting.is_finished());
    servers[2].kill();
    assert!(waiting.join().unwrap().is_err());
    assert_eq!(servers.requests().last().unwrap().status, None);
}

#[test]
fn an_added_node_is_active_before_all_is_balanced() {
    let servers = cluster(1, 2);
    servers.rebalance_takes(Duration::from_secs(1));
    add(&servers[0], &servers[1]);
    servers.fail_rebalances(1);
    rebalance(&servers[0], "");
    let membership = || servers.clusters()[0].nodes[1].membership;
    assert_eq!(membership(), Membership::InactiveAdded);
    wait_until_done(&servers);
    assert_eq!(membership(), Membership::Active);
    assert!(!servers.clusters()[0].is_balanced);
    assert_eq!(rebalance(&servers[0], "").status, 200);
    servers.end_rebalances();
    assert!(servers.clusters()[0].is_balanced);
}

#[test]
fn dead_added_node_can_only_be_ejected_without_a_rebalance() {
    let servers = cluster(2, 3);
    add(&servers[0], &servers[2]);
    servers[2].kill();
    let otp = format!("ns_1@{}", servers[2].address());
    for ejected in ["", &otp] {
        assert_eq!(rebalance(&servers[0], ejected).status, 200);
        wait_until_done(&servers);
        assert_eq!(servers.clusters()[0].nodes[2].membership, Membership::InactiveAdded);
    }
    let form = [("otpNode", otp.as_str())];
    let ejected = servers[0].call("POST", "/controller/ejectNode", &form, LOGIN);
    assert_eq!(ejected.unwrap().status, 200);
    let clusters = servers.clusters();
    assert_eq!((clusters[0].nodes.len(), clusters[0].is_balanced), (2, true));
    servers[2].restart();
    assert_eq!(get(&servers[2], "/pools").json()["pools"], json!([]));
}

#[test]
fn a_node_that_dies_in_a_rebalance_ends_it() {
    let servers = cluster(2, 3);
    servers.rebalance_takes(Duration::from_hours(1));
    add(&servers[0], &servers[2]);
    rebalance(&servers[0], "");
    assert_eq!(
        add(&servers[0], &servers[2]).body,
        r#"["Node addition is disallowed while rebalance is in progress"]"#
    );
    servers[1].kill();
    servers.end_rebalances();
    let clusters = servers.clusters();
    assert_eq!((clusters[0].is_rebalancing, clusters[0].rebalances.len()), (false, 1));
}

#[test]
fn one_silent_node_is_failed_over() {
    let servers = cluster(5, 5);
    servers.auto_failover_after(Duration::from_millis(50));
    servers[3].kill();
    let failed_over = || {
        let nodes = servers.clusters().remove(0).nodes.into_iter();
        nodes
            .filter(|node| node.membership == Membership::InactiveFailed)
            .map(|node| node.index)
            .collect::<Vec<_>>()
    };
    wait_until("it is failed over", || failed_over() == [3]);
    servers[4].kill();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(failed_over(), [3]);
    // A rebalance removes the one, if the other is back.
    servers[4].restart();
    rebalance(&servers[0], "");
    wait_until_done(&servers);
    assert_eq!(servers.clusters()[0].nodes.len(), 4);
    servers[3].restart();
    assert!(servers[3].is_blank());
}

#[test]
fn a_test_can_decide_how_a_request_ends() {
    let servers = cluster(1, 3);
    servers.on_request(|seen| match (seen.path.as_str(), seen.node) {
        ("/pools", 0) => Then::Answer(503),
        ("/pools", _) => Then::Drop,
        ("/controller/addNode", _) => Then::Lose,
        _ => Then::Handle,
    });
    assert_eq!(get(&servers[0], "/pools").status, 503);
    assert!(servers[1].call("GET", "/pools", &[], None).is_err());
    let host = servers[1].address();
    let form = [("hostname", &*host), ("user", "x"), ("password", "secret")];
    let lost = servers[0].call("POST", "/controller/addNode", &form, LOGIN);
    assert!(lost.is_err());
    assert_eq!(servers.clusters()[0].nodes.len(), 2);
    let seen = servers.requests().pop().unwrap();
    assert_eq!((seen.method.as_str(), seen.status), ("POST", Some(200)));
    assert!(!format!("{seen:?}").contains("secret"));

    // A node may die at its own request.
    let victim = servers.node(0);
    servers.on_request(move |_| {
        victim.kill();
        Then::Handle
    });
    assert!(servers[0].call("GET", "/pools", &[], LOGIN).is_err());
}

#[test]
fn one_member_adds_several_nodes_and_the_same_only_once() {
    let servers = cluster(2, 4);
    servers.add_takes(Duration::from_millis(50));
    let add_at_once = |pairs: [(usize, usize); 2]| {
        thread::scope(|scope| {
            let add = |(through, joiner): (usize, usize)| add(&servers[through], &servers[joiner]);
            let adding = pairs.map(|pair| scope.spawn(move || add(pair)));
            adding.map(|adding| adding.join().unwrap().status)
        })
    };
    let since = Instant::now();
    assert_eq!(add_at_once([(0, 2), (0, 3)]), [200, 200]);
    assert!(since.elapsed() >= Duration::from_millis(100), "one after the other");
    let otp = format!("ns_1@{}", servers[2].address());
    let form = [("otpNode", otp.as_str())];
    servers[0].call("POST", "/controller/ejectNode", &form, LOGIN).unwrap();
    servers[2].load_certificate();
    let mut told = add_at_once([(0, 2), (0, 2)]);
    told.sort_unstable();
    assert_eq!(told, [200, 400]);
}

#[test]
fn adding_a_node_deletes_its_data() {
    let servers = cluster(1, 2);
    servers[1].provision("Administrator", "password");
    servers[1].holds_data(42);
    let host = servers[1].address();
    let form = [("hostname", &*host), ("user", "Administrator"), ("password", "password")];
    let added = servers[0].call("POST", "/controller/addNode", &form, LOGIN).unwrap();
    assert_eq!(added.status, 200);
    let wiped = servers.wiped();
    assert_eq!((wiped[0].node.as_str(), wiped[0].items), (host.as_str(), 42));
}

#[test]
fn a_node_joins_by_itself_and_into_a_group() {
    let servers = cluster(1, 3);
    let host = servers[0].address();
    let form = [("hostname", &*host), ("user", "Administrator"), ("password", "password")];
    let joined = servers[1].call("POST", "/node/controller/doJoinCluster", &form, None).unwrap();
    assert_eq!((joined.status, joined.body.as_str()), (200, ""));

    let groups = "/pools/default/serverGroups";
    servers[0].call("POST", groups, &[("name", "b")], LOGIN).unwrap();
    let uri = get(&servers[0], groups).json()["groups"][1]["addNodeURI"].clone();
    let host = servers[2].address();
    let form = [("hostname", &*host), ("user", ""), ("password", ""), ("services", "kv,n1ql")];
    let added = servers[0].call("POST", uri.as_str().unwrap(), &form, LOGIN).unwrap();
    assert_eq!(added.status, 200, "{added:?}");
    let nodes = servers.clusters().remove(0).nodes;
    assert_eq!((nodes[1].group.as_str(), nodes[2].group.as_str()), ("Group 1", "b"));
    assert_eq!(nodes[2].services, ["kv", "n1ql"]);
}

#[test]
fn the_community_edition_has_no_tls() {
    let servers = Servers::start_community(2);
    servers[0].provision("Administrator", "password");
    assert_eq!(get(&servers[0], "/pools").json()["isEnterprise"], false);
    assert!(servers[0].call_tls("GET", "/pools", &[], LOGIN).is_err());
    let host = servers[1].address();
    let form = [("hostname", &*host), ("user", ""), ("password", "")];
    let added = servers[0].call("POST", "/controller/addNode", &form, LOGIN).unwrap();
    assert_eq!(added.status, 200, "{added:?}");
}

#[test]
fn a_small_machine_has_a_small_quota() {
    let servers = cluster(1, 2);
    servers[1].memory_total(4 << 30);
    let ask = |quota| {
        let form = [("memoryQuota", quota)];
        servers[1].call("POST", "/pools/default", &form, None).unwrap()
    };
    assert_eq!(ask("3276").status, 200);
    let told = ask("3277");
    assert!(told.body.contains("(3276MB)"), "{told:?}");
    servers[1].memory_total(256 << 20);
    let told = add(&servers[0], &servers[1]);
    assert!(told.body.contains("sufficient memory"), "{told:?}");
}

/// Ejects a node that is not active.
fn eject(through: &Node, node: &Node) -> Answer {
    let otp = format!("ns_1@{}", node.address());
    let form = [("otpNode", otp.as_str())];
    through.call("POST", "/controller/ejectNode", &form, LOGIN).unwrap()
}

#[test]
fn generated_certificates_are_reissued_by_the_cluster() {
    let servers = Servers::start_generated(2);
    servers.add_takes(Duration::ZERO);
    let reach = |node: usize| servers[node].call_tls("GET", "/whoami", &[], None).is_ok();
    let blank = servers[1].certificate();
    assert_eq!((blank.name.as_str(), blank.is_generated), ("127.0.0.1", true));
    assert!(!reach(0) && !reach(1));

    servers[0].provision("Administrator", "password");
    assert!(reach(0) && !reach(1));
    add(&servers[0], &servers[1]);
    assert!(reach(1));
    let joined = servers[1].certificate();
    assert_eq!(joined.name, servers[1].address());
    assert_eq!(joined.issuer, servers[0].certificate().issuer);

    assert_eq!(eject(&servers[0], &servers[1]).status, 200);
    let ejected = servers[1].certificate();
    assert_eq!(ejected.name, servers[1].address());
    assert!(ejected.issuer != joined.issuer && ejected.issuer != blank.issuer);
    assert!(!reach(1));
}

#[test]
fn trusted_authorities_are_shown_without_credentials() {
    let servers = Servers::start_generated(1);
    servers[0].provision("Administrator", "password");
    let path = "/pools/default/trustedCAs";
    let shown = servers[0].call("GET", path, &[], None).unwrap().json();
    let keys: Vec<_> = shown[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["id", "notAfter", "notBefore", "pem", "subject"]);
    assert_eq!(shown[0]["pem"], servers[0].certificate().authority);
    let wrong = Some(("Administrator", "wrong"));
    assert_eq!(servers[0].call("GET", path, &[], wrong).unwrap().status, 401);
    assert_eq!(get(&servers[0], path).json()[0]["type"], "generated");
}

#[test]
fn custom_certificate_is_lost_on_leaving_and_needed_to_join() {
    let servers = cluster(1, 2);
    add(&servers[0], &servers[1]);
    assert!(!servers[1].certificate().is_generated);
    assert_eq!(eject(&servers[0], &servers[1]).status, 200);
    assert!(servers[1].certificate().is_generated);
    let refused = add(&servers[0], &servers[1]);
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("unknown CA"), "{refused:?}");
    servers[1].load_certificate();
    assert_eq!(add(&servers[0], &servers[1]).status, 200);
}

#[test]
fn dead_added_node_is_ejected_while_a_rebalance_fails() {
    let servers = cluster(2, 3);
    servers.prepare_takes(Duration::from_secs(30));
    add(&servers[0], &servers[2]);
    servers[2].kill();
    assert_eq!(rebalance(&servers[0], "").status, 200);
    assert_eq!(eject(&servers[0], &servers[2]).status, 200);
    let progress = || get(&servers[0], "/pools/default/rebalanceProgress").json();
    assert_eq!(progress()["status"], "running");
    servers.skip_time(Duration::from_secs(31));
    assert_eq!(
        progress()["errorMessage"],
        "Rebalance failed. See logs for detailed reason. You can try again."
    );
    assert!(servers.clusters()[0].is_balanced);
}

#[test]
fn rebalance_goes_on_when_a_dead_node_is_back_in_time() {
    let servers = cluster(3, 3);
    servers.prepare_takes(Duration::from_secs(30));
    servers[2].kill();
    rebalance(&servers[0], "");
    servers[2].restart();
    wait_until_done(&servers);
    assert_eq!(servers.clusters()[0].rebalances.len(), 2);
}

#[test]
fn node_removed_while_down_remembers_its_cluster_for_a_while() {
    let servers = cluster(3, 3);
    let (answers, closed) = (Duration::from_secs(10), Duration::from_secs(4));
    servers.removed_nodes_remember_for(answers, closed);
    servers[2].kill();
    let otp = format!("ns_1@{}", servers[2].address());
    let form = [("otpNode", otp.as_str())];
    let failed_over = servers[0].call("POST", "/controller/failOver", &form, LOGIN);
    assert_eq!(failed_over.unwrap().status, 200);
    rebalance(&servers[0], "");
    wait_until_done(&servers);
    assert_eq!(servers.clusters()[0].nodes.len(), 2);

    servers[2].restart();
    let pool = get(&servers[2], "/pools/default").json();
    assert_eq!(pool["balanced"], true);
    assert_eq!(pool["nodes"][2]["clusterMembership"], "active");
    let changed = rebalance(&servers[2], "");
    assert_eq!(changed.status, 500, "{changed:?}");
    assert_eq!(servers.clusters().len(), 1);
    servers.skip_time(answers);
    assert!(servers[2].call("GET", "/pools", &[], None).is_err());
    servers.skip_time(closed);
    let pools = servers[2].call("GET", "/pools", &[], None).unwrap();
    assert_eq!(pools.json()["pools"], json!([]));
}

#[test]
fn uptime_counts_from_the_restart() {
    let servers = Servers::start(1);
    let uptime = || {
        let told = get(&servers[0], "/nodes/self").json()["uptime"].clone();
        told.as_str().unwrap().parse::<u64>().unwrap()
    };
    assert!((204..300).contains(&uptime()));
    servers.skip_time(Duration::from_secs(1000));
    assert!(uptime() >= 1204);
    servers[0].kill();
    servers[0].restart();
    assert!(uptime() < 100);
    servers[0].set_uptime(Duration::from_secs(5000));
    assert!(uptime() >= 5000);
}

#[test]
fn each_join_and_leave_changes_the_uuid_of_a_node() {
    let servers = cluster(1, 2);
    let mut uuids = BTreeSet::from([servers[1].uuid()]);
    let form = [("hostname", &*servers[1].address())];
    servers[1].call("POST", "/nodeInit", &form, None).unwrap();
    assert!(!uuids.insert(servers[1].uuid()));
    add(&servers[0], &servers[1]);
    assert!(uuids.insert(servers[1].uuid()));
    eject(&servers[0], &servers[1]);
    assert!(uuids.insert(servers[1].uuid()));
    let reset = servers[1].call("POST", "/controller/hardResetNode", &[], None);
    assert_eq!(reset.unwrap().status, 200);
    assert!(uuids.insert(servers[1].uuid()));
}

#[test]
fn requests_show_whose_password_they_carry() {
    let servers = Servers::start(2);
    get(&servers[0], "/pools");
    servers[1].call("GET", "/pools", &[], None).unwrap();
    let form = [("username", "x"), ("password", "in-the-form")];
    servers[1].call("POST", "/settings/web", &form, None).unwrap();
    let seen = servers.requests();
    assert_eq!(seen[0].user.as_deref(), Some("Administrator"));
    assert_eq!(seen[0].password(), LOGIN.map(|(_, password)| password));
    assert_eq!((seen[1].user.as_deref(), seen[1].password()), (None, None));
    let carries = |password| seen.iter().position(|seen| seen.carries_password(password));
    assert_eq!(carries("password"), Some(0));
    assert_eq!(carries("in-the-form"), Some(2));
    assert!(!format!("{:?}", seen[2]).contains("in-the-form"));
}

#[test]
fn test_refuses_a_request_in_its_own_words() {
    let servers = Servers::start(1);
    let mut is_first = true;
    servers.on_request(move |_| {
        if std::mem::take(&mut is_first) {
            return Then::Refuse(400, r#"["No."]"#.to_owned());
        }
        Then::Handle
    });
    let refused = get(&servers[0], "/pools");
    assert_eq!((refused.status, refused.json()), (400, json!(["No."])));
    assert_eq!(get(&servers[0], "/pools").status, 200);
}

#[test]
fn nodes_move_between_server_groups() {
    let servers = cluster(2, 2);
    let path = "/pools/default/serverGroups";
    let form = [("name", "b")];
    servers[0].call("POST", path, &form, LOGIN).unwrap();
    let groups = get(&servers[0], path).json();
    let nodes = [0, 1].map(|node| json!({"otpNode": format!("ns_1@{}", servers[node].address())}));
    let [first, second] = [0, 1].map(|group| groups["groups"][group]["uri"].clone());
    let body = |first_nodes: Value, second_nodes: Value| {
        json!({"groups": [
            {"uri": first, "name": "Group 1", "nodes": first_nodes},
            {"uri": second, "nodes": second_nodes},
        ]})
    };
    let put = |uri: &str, body: &Value| servers[0].call_json("PUT", uri, body, LOGIN).unwrap();
    let uri = groups["uri"].as_str().unwrap();
    // Every node has to be there, once.
    let missing = body(json!([nodes[0]]), json!([]));
    assert_eq!(put(uri, &missing).status, 400);
    let twice = body(json!(nodes), json!([nodes[1]]));
    assert_eq!(put(uri, &twice).status, 400);
    let good = body(json!([nodes[0]]), json!([nodes[1]]));
    assert_eq!(put(uri, &good).status, 200);
    assert_eq!(servers.clusters()[0].nodes[1].group, "b");
    assert_eq!(put(uri, &good).status, 409);

    let servers = Servers::start_community(1);
    servers[0].provision("Administrator", "password");
    let refused = servers[0].call_json("PUT", uri, &good, LOGIN).unwrap();
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (400, "This http API endpoint requires enterprise edition")
    );
}

#[test]
fn new_bucket_makes_its_nodes_warm_up() {
    let servers = cluster(2, 2);
    servers.bucket_nodes_appear_after(Duration::from_secs(4));
    servers.bucket_warm_up_takes(Duration::from_secs(10));
    let form = [("name", "app"), ("ramQuota", "100")];
    let made = servers[0].call("POST", "/pools/default/buckets", &form, LOGIN);
    assert_eq!(made.unwrap().status, 202);
    let bucket = || get(&servers[0], "/pools/default/buckets/app").json()["nodes"].clone();
    let status = || servers.clusters()[0].nodes[1].status.clone();
    assert_eq!((bucket(), status().as_str()), (json!([]), "healthy"));
    servers.skip_time(Duration::from_secs(5));
    assert_eq!(bucket()[1]["status"], "warmup");
    assert_eq!(status(), "warmup");
    assert!(servers.clusters()[0].is_balanced);
    servers.skip_time(Duration::from_secs(10));
    assert_eq!((bucket().as_array().unwrap().len(), status().as_str()), (2, "healthy"));
}

#[test]
fn rebalance_does_not_help_services_that_never_come_up() {
    let servers = Servers::start(1);
    servers.services_never_come_up(&["index", "n1ql"]);
    let form = [
        ("services", "kv,index,n1ql"),
        ("username", "Administrator"),
        ("password", "password"),
        ("port", "SAME"),
    ];
    let made = servers[0].call("POST", "/clusterInit", &form, None).unwrap();
    assert_eq!(made.status, 200, "{made:?}");
    let pending = || get(&servers[0], "/pools/default").json()["servicesNeedRebalance"].clone();
    assert_eq!(pending()[0]["services"], json!(["n1ql", "index"]));
    rebalance(&servers[0], "");
    servers.skip_time(Duration::from_secs(100));
    assert!(servers.clusters()[0].is_rebalancing);
    servers.end_rebalances();
    assert_eq!(pending()[0]["code"], "service_not_balanced");
}
