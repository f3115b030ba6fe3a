//! The stand-in for Couchbase Server answers as the recorded server did after the first day: dead nodes, failover, recovery,
//! certificates, reset, the Community Edition, services that do not start, missing credentials, buckets and quotas.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use cbbootstrap_tests::{
    couchbase::{CertificateView, Node, Servers},
    http::Answer,
    pattern::pattern,
    recording::{masked, repaired},
};
use regex::Captures;
use serde_json::{Value, json};
use ureq::{
    Agent,
    tls::{Certificate, RootCerts, TlsConfig},
};

const LOGIN: Option<(&str, &str)> = Some(("Administrator", "asdasd-pw"));
/// What a rebalance takes here; added nodes are active halfway, and all data is in place after 875 s.
const REBALANCE: Duration = Duration::from_secs(1000);

/// The exchanges that are not replayed, and why.
const NOT_REPLAYED: [(&str, &str); 11] = [
    (r"^(E8|E10b|E34c|F34|G15|G20|I24|J28b|J38b)#0$", "the log is not modeled"),
    (r"^F34b#0$", "reports are not modeled"),
    (r"^F33#3$", "half a second in which a failover has begun and not ended"),
    (r"^F59c#0$", "a node lost in an unsafe failover, long after: it restarts indefinitely here"),
    (r"^(G4|G22|G22b)#0$", "the agent does not use /settings/retryRebalance"),
    (r"^(J17|J18|J19|N10|N10b|N10c|N10d|N10e)#0$", "the agent does not use /settings/indexes"),
    (r"^(H26|H28|H31|H32|H33)#0$", "files in the inbox that the administrator got wrong"),
    (r"^(J33|L7|L7e)#0$", "the agent does not use /settings/rbac"),
    (r"^(L7b|L7c|L7d)#0$", "there are no other users"),
    (r"^K7#0$", "the agent does not use nodeServices"),
    (r"^L3\.(0|13)#0$", "the user interface"),
];

/// The entries of each story, first and last of each span, in the order of events.
type Spans = &'static [(&'static str, &'static str)];
const DEAD_ADDED_NODE: Spans = &[("E1", "E28"), ("G1", "G5"), ("M20", "M23"), ("G6", "G22b")];
const FAILOVER: Spans = &[("F1", "F59c")];
const LOST_MEMBERS: Spans = &[("F60", "F63d"), ("E30", "E37"), ("F70", "F76"), ("M30", "M34b")];
const CERTIFICATES: Spans = &[("H1", "I43"), ("L1", "L8.3")];
const COMMUNITY: Spans = &[("J1", "J16"), ("K1", "K3"), ("J17", "J39"), ("J40", "J49")];
const SETTINGS: Spans =
    &[("N1", "N6"), ("K4", "K7"), ("N7", "N10e"), ("N11", "N11e"), ("M0", "M19d")];

/// One request and its answer.
#[derive(Debug)]
struct Exchange {
    /// The entry and the number in it: `E20#3`.
    id: String,
    request: String,
    head: String,
    body: Vec<String>,
    /// The seconds since the event that the entry is about.
    at: Option<f64>,
}

impl Exchange {
    fn entry(&self) -> &str {
        self.id.split('#').next().unwrap()
    }
}

fn recording() -> Vec<Exchange> {
    let text = include_str!("../../couchbase-rest/recorded-7.6.8-day2.txt");
    let at = pattern(r" at t\+([0-9.]+)s");
    let mut exchanges: Vec<Exchange> = Vec::new();
    for entry in text.split("\n## ").skip(1) {
        let name = entry.split([' ', '\n']).next().unwrap();
        let first = exchanges.len();
        for line in entry.lines().skip(1) {
            if let Some(request) = line.strip_prefix("> ") {
                exchanges.push(Exchange {
                    id: format!("{name}#{}", exchanges.len() - first),
                    request: request.to_owned(),
                    head: String::new(),
                    body: Vec::new(),
                    at: None,
                });
            } else if let Some(answer) = line.strip_prefix("< ") {
                let exchange = exchanges.last_mut().unwrap();
                if exchange.head.is_empty() {
                    exchange.at = at.captures(answer).map(|at| at[1].parse().unwrap());
                    answer.clone_into(&mut exchange.head);
                } else {
                    exchange.body.push(answer.to_owned());
                }
            }
        }
    }
    exchanges
}

fn reason_not_to_replay(id: &str) -> Option<&'static str> {
    let mut reasons = NOT_REPLAYED.iter();
    let reason = reasons.find(|(ids, _)| pattern(ids).is_match(id));
    reason.map(|(_, reason)| *reason)
}

/// When the polls of an entry are repeated here, in seconds, for each time at which they were recorded.
fn times(entry: &str) -> Option<&'static [f64]> {
    Some(match entry {
        // A rebalance: begun, halfway, near its end, done.
        "F12+" | "F44b" => &[0.0, 1010.0],
        "F10+" | "F21b+" => &[0.0, 600.0, 1010.0],
        "F14+" | "F19+" => &[0.0, 600.0, 900.0, 1010.0],
        "F27+" => &[0.0, 600.0, 800.0, 1010.0],
        "F20d" => &[0.0, 600.0, 700.0, 1010.0],
        "F23" | "J43" => &[0.0, 900.0, 1010.0],
        "E37" => &[0.0, 14.0, 20.0, 1050.0],
        // It is stopped.
        "F22d" | "G11" => &[0.0, 40.0],
        // A removed node remembers its cluster for 11 s and is closed for 4 s.
        "E20" | "F45" => &[0.0, 9.0, 12.0, 17.0],
        // It restarts indefinitely, and is closed for one second in eleven.
        "F57" => &[0.0, 10.05, 11.05, 21.05, 22.05, 32.05, 33.05, 43.05, 44.05],
        // A cluster has no orchestrator for 8 s.
        "F61" | "F72" | "I33" => &[0.0, 9.0],
        // A bucket shows its nodes after 10 s.
        "M31" => &[0.0, 11.0],
        _ => return None,
    })
}

/// The name of an authority that a server generated, with its id.
const AUTHORITY: &str = r"Couchbase Server ([0-9a-f]{8})\b";

/// The nodes of the recording, which are node1 to node8 there.
struct Place {
    servers: Servers,
    /// The recorded ids and authorities, and what they are here.
    known: RefCell<BTreeMap<String, String>>,
    /// Whether the end of the answer that is compared was not recorded.
    is_cut: Cell<bool>,
}

impl Place {
    fn new(servers: Servers) -> Self {
        servers.add_takes(Duration::ZERO);
        servers.rebalance_takes(REBALANCE);
        servers.prepare_takes(Duration::from_secs(30));
        servers.quorum_timeout(Duration::from_millis(10));
        servers.election_takes(Duration::from_secs(8));
        servers.removed_nodes_remember_for(Duration::from_secs(11), Duration::from_secs(4));
        Self { servers, known: RefCell::default(), is_cut: Cell::new(false) }
    }

    /// The node of this number, as in the recording.
    fn node(&self, number: usize) -> &Node {
        &self.servers[number - 1]
    }

    fn skip(&self, seconds: u64) {
        self.servers.skip_time(Duration::from_secs(seconds));
    }

    /// Sends a request that was not recorded and has to succeed.
    fn call(&self, number: usize, method: &str, path: &str, form: &[(&str, &str)]) -> Answer {
        let answer = self.node(number).call(method, path, form, LOGIN).unwrap();
        assert!(answer.status < 300, "{path}: {answer:?}");
        answer
    }

    fn add(&self, through: usize, number: usize) {
        let host = format!("https://{}:18091", self.node(number).address());
        let form = [("hostname", &*host), ("user", "x"), ("password", "y")];
        self.call(through, "POST", "/controller/addNode", &form);
    }

    fn eject(&self, through: usize, number: usize) {
        let otp = format!("ns_1@{}", self.node(number).address());
        self.call(through, "POST", "/controller/ejectNode", &[("otpNode", &otp)]);
    }

    /// Rebalances the nodes into one cluster.
    fn rebalance(&self, numbers: &[usize]) {
        let known: Vec<_> =
            numbers.iter().map(|number| format!("ns_1@{}", self.node(*number).address())).collect();
        let form = [("knownNodes", &*known.join(",")), ("ejectedNodes", "")];
        self.call(numbers[0], "POST", "/controller/rebalance", &form);
        self.servers.end_rebalances();
    }

    fn bucket(&self, number: usize, name: &str) {
        let form = [("name", name), ("ramQuota", "256"), ("replicaNumber", "1")];
        self.call(number, "POST", "/pools/default/buckets", &form);
    }

    /// A balanced cluster with this quota.
    fn cluster(&self, numbers: &[usize], quota: &str) {
        let first = numbers[0];
        let address = self.node(first).address();
        let form = [
            ("hostname", &*address),
            ("services", "kv"),
            ("memoryQuota", quota),
            ("username", "Administrator"),
            ("password", "asdasd-pw"),
            ("port", "SAME"),
        ];
        self.call(first, "POST", "/clusterInit", &form);
        for number in &numbers[1..] {
            self.add(first, *number);
        }
        self.rebalance(numbers);
    }

    /// What was recorded, in the names of here; without a name, it is the asked node's address.
    fn here(&self, text: &str, asked: &Node) -> String {
        let text = pattern(r"node(\d)\.cb\.test").replace_all(text, |found: &Captures| {
            match found[1].parse::<usize>().unwrap() {
                number @ 1..=8 => self.node(number).address(),
                // There is none.
                _ => format!("{}0", self.node(1).address()),
            }
        });
        text.replace("My own CA", "Couchbase Server stand-in")
            .replace("Node (127.0.0.1)", "Node (localhost)")
            .replace("127.0.0.1", &asked.address())
            .replace("Node (localhost)", "Node (127.0.0.1)")
    }

    /// What was recorded is always the same here, and nothing else is.
    fn is_known(&self, at: &str, recorded: &str, actual: &str) {
        let mut known = self.known.borrow_mut();
        let is_new = !known.values().any(|known| known == actual);
        if let Some(known) = known.get(recorded) {
            return assert_eq!(known, actual, "{at}: {recorded} is another now");
        }
        assert!(is_new, "{at}: {actual} is not {recorded}");
        known.insert(recorded.to_owned(), actual.to_owned());
    }

    fn replay(&self, exchange: &Exchange) {
        let id = &exchange.id;
        println!("{id} {}", exchange.request);
        if let Some(shown) = exchange.request.strip_prefix("openssl s_client -connect node") {
            let number = shown[..1].parse().unwrap();
            return self.compare_certificate(exchange, number);
        }
        let parts =
            pattern(r"^(\w+) node(\d):8091(\S*) (.*) auth=(\S+)$").captures(&exchange.request);
        let parts = parts.unwrap_or_else(|| panic!("{id}: {}", exchange.request));
        let asked = self.node(parts[2].parse().unwrap());
        let form = self.here(&parts[4], asked);
        let fields: Vec<(String, String)> = match form.trim().strip_prefix("body: ") {
            Some(body) => form_urlencoded::parse(body.as_bytes()).into_owned().collect(),
            None => pattern("'([^']*)': '([^']*)'")
                .captures_iter(&form)
                .map(|field| (field[1].to_owned(), field[2].to_owned()))
                .collect(),
        };
        let fields: Vec<_> = fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let path = self.here(&parts[3], asked);
        let answer = asked.call(&parts[1], &path, &fields, parts[5].split_once(':'));
        if exchange.head.starts_with("no answer") {
            assert!(answer.is_err(), "{id}: {answer:?}");
            return;
        }
        let answer = answer.unwrap_or_else(|error| panic!("{id}: {error}"));
        self.compare(exchange, asked, &path, &answer);
    }

    fn compare(&self, exchange: &Exchange, asked: &Node, path: &str, answer: &Answer) {
        let id = &exchange.id;
        let head = pattern(r"^(\d+)(?: (\{.*?\}))?").captures(&exchange.head).unwrap();
        assert_eq!(answer.status.to_string(), head[1], "{id}: {answer:?}");
        let headers = head.get(2).map_or("{}", |headers| headers.as_str());
        let headers = headers.replace('"', "\\\"").replace('\'', "\"");
        let headers: BTreeMap<String, String> = serde_json::from_str(&headers).unwrap();
        for (name, value) in headers.iter().filter(|(name, _)| *name != "Server") {
            let actual = answer.headers.get(name).map(|actual| actual.to_str().unwrap());
            assert_eq!(actual, Some(value.as_str()), "{id}: {name}");
        }
        let body = exchange.body.first().map_or("''", String::as_str);
        let body = body.strip_suffix(" (trimmed)").unwrap_or(body);
        let body = unescaped(&body[1..body.len() - 1]);
        let body = self.here(&body, asked).replace("{(cut)}", "\"(cut)\"");
        let expected = serde_json::from_str(&body).ok();
        if let Some(expected) = expected {
            let actual = project(exchange.entry(), path, answer.json());
            return self.alike(id, &expected, &actual);
        }
        match body.split_once("...[") {
            Some((body, _)) if body.starts_with(['{', '[']) => {
                self.is_cut.set(true);
                self.alike(id, &repaired(body), &answer.json());
                self.is_cut.set(false);
            }
            Some(_) => assert!(answer.body.starts_with("-----BEGIN CERTIFICATE-----"), "{id}"),
            None => assert_eq!(answer.body, body, "{id}"),
        }
    }

    fn compare_certificate(&self, exchange: &Exchange, number: usize) {
        let node = self.node(number);
        let own = node.certificate();
        let shown = |name: &str| {
            let shown = pattern(&format!(r"(?:^|\| ?){name} ?= ?CN = ([^|]*?) \|"));
            let line = format!("{} |{}", exchange.head, exchange.body.join("|"));
            let found = shown.captures(&line).map(|found| found[1].to_owned());
            self.here(&found.unwrap(), node)
        };
        let (subject, issuer) = (shown("subject"), shown("issuer"));
        let CertificateView { subject: own_subject, issuer: own_issuer, .. } = &own;
        self.same_text(&exchange.id, &format!("CN={issuer}"), own_issuer);
        if own.is_generated {
            assert_eq!(*own_subject, format!("CN={subject}"), "{}", exchange.id);
        }
        let name = pattern(r"(?:DNS:|IP Address:)(\S+)");
        let name = name.captures(&exchange.head).unwrap()[1].to_owned();
        let name = match name.as_str() {
            "127.0.0.1" => name,
            _ => self.here(&name, node),
        };
        assert_eq!(own.name, name, "{}", exchange.id);
        assert_eq!(is_trusted(node, &own.authority), name == node.address(), "{}", exchange.id);
    }

    /// Compares texts, except for times and ids.
    fn same_text(&self, at: &str, recorded: &str, actual: &str) {
        if recorded.contains("(cut)") || recorded == "-----BEGIN CERTIFICATE-----" {
            return;
        }
        if recorded.contains("BEGIN CERTIFICATE") {
            return assert!(actual.starts_with("-----BEGIN CERTIFICATE-----"), "{at}");
        }
        let pair = [recorded, actual].map(|text| pattern(AUTHORITY).captures(text));
        if let [Some(recorded), Some(actual)] = pair {
            self.is_known(at, &recorded[1], &actual[1]);
        }
        let plain = |text: &str| {
            let text = pattern(AUTHORITY).replace_all(text, "Couchbase Server ID");
            let times = pattern(r"\d{4}-\d\d-\d\dT[0-9:.]+Z");
            let text = times.replace_all(&text, |time: &Captures| match &time[0][..4] {
                "2013" | "2049" => time[0].to_owned(),
                _ => "TIME".to_owned(),
            });
            masked(&text)
        };
        assert_eq!(plain(recorded), plain(actual), "{at}");
    }

    /// What was recorded is there. Numbers may differ, but those of quotas.
    fn alike(&self, at: &str, expected: &Value, actual: &Value) {
        match (expected, actual) {
            (Value::Object(expected), Value::Object(actual)) => {
                for (key, expected) in expected {
                    let at = format!("{at}.{key}");
                    match (key.as_str(), actual.get(key)) {
                        // Other versions of the parts.
                        ("componentsVersion" | "uptime", _) => {}
                        (key, Some(Value::Number(actual))) if key.ends_with("emoryQuota") => {
                            assert_eq!(expected.to_string(), actual.to_string(), "{at}");
                        }
                        ("nodeUUID", Some(actual)) => {
                            self.is_known(
                                &at,
                                expected.as_str().unwrap(),
                                actual.as_str().unwrap(),
                            );
                        }
                        (_, actual) => self.alike(&at, expected, actual.unwrap_or(&Value::Null)),
                    }
                }
                if expected.contains_key("rebalanceStatus") {
                    let [expected, actual] =
                        [expected, actual].map(|pool| pool.contains_key("servicesNeedRebalance"));
                    assert_eq!(expected, actual, "{at}: servicesNeedRebalance");
                }
            }
            (Value::Array(expected), Value::Array(actual)) => {
                if expected.iter().any(|text| text.as_str().is_some_and(|t| t.contains("(cut)"))) {
                    return assert!(!actual.is_empty(), "{at}");
                }
                let [expected, actual] = [expected, actual].map(|all| {
                    let mut all: Vec<_> = all.iter().collect();
                    if at.ends_with("odes") {
                        all.sort_by_key(|item| match &item["hostname"] {
                            Value::Null => item.to_string(),
                            host => host.to_string(),
                        });
                    }
                    all
                });
                let is_complete = expected.len() == actual.len();
                let is_cut = self.is_cut.get() && expected.len() < actual.len();
                assert!(is_complete || is_cut, "{at}: {actual:?}");
                for (index, (expected, actual)) in expected.iter().zip(actual).enumerate() {
                    self.alike(&format!("{at}[{index}]"), expected, actual);
                }
            }
            (Value::String(expected), Value::String(actual)) => {
                self.same_text(at, expected, actual);
            }
            (Value::String(expected), _) if expected == "(cut)" => {}
            (Value::Number(_), Value::Number(_)) => {}
            _ => assert_eq!(expected, actual, "{at}"),
        }
    }
}

/// Whether a client that trusts this authority accepts the node's certificate.
fn is_trusted(node: &Node, authority: &str) -> bool {
    let authority = Certificate::from_pem(authority.as_bytes()).unwrap();
    let roots = RootCerts::new_with_certs(&[authority]);
    let tls = TlsConfig::builder().root_certs(roots).build();
    let agent: Agent = Agent::config_builder().tls_config(tls).build().into();
    agent.get(format!("{}/whoami", node.tls_url())).call().is_ok()
}

/// A Python string without its escapes.
fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next().unwrap() {
                'n' => plain.push('\n'),
                'r' => plain.push('\r'),
                other => plain.push(other),
            },
            other => plain.push(other),
        }
    }
    plain
}

/// The part of an answer that was kept in the recording.
fn project(entry: &str, path: &str, actual: Value) -> Value {
    let list = |value: &Value, part: &dyn Fn(&Value) -> Value| -> Value {
        value.as_array().unwrap().iter().map(part).collect()
    };
    match (entry, path) {
        ("J34e", _) => list(&actual["nodes"], &|node| {
            json!([node["hostname"], node["services"], node["clusterMembership"]])
        }),
        ("M31", "/pools/default") => json!({
            "nodes": list(&actual["nodes"], &|node| {
                json!([node["hostname"], node["status"], node["clusterMembership"]])
            }),
            "balanced": actual["balanced"],
            "rebalanceStatus": actual["rebalanceStatus"],
        }),
        ("I7" | "M11.0" | "M11.1" | "M11.2" | "M11.3", _) => actual["nodes"].clone(),
        ("M19", _) => list(&actual, &|bucket| {
            json!({
                "name": bucket["name"],
                "type": bucket["bucketType"],
                "replicaNumber": bucket["replicaNumber"],
                "quota": bucket["quota"],
                "nodes": list(&bucket["nodes"], &|node| node["status"].clone()),
            })
        }),
        ("N3b" | "N3d" | "N7" | "N8d", _) => actual["storage"].clone(),
        ("N4b", _) => json!([actual["hostname"], actual["storage"]]),
        _ => actual,
    }
}

/// The exchanges of a span.
fn span<'a>(recording: &'a [Exchange], (first, last): (&str, &str)) -> &'a [Exchange] {
    let from = recording.iter().position(|e| e.entry() == first).unwrap();
    let to = recording.iter().rposition(|e| e.entry() == last).unwrap();
    &recording[from..=to]
}

/// Replays a story. Before each entry or exchange, `prepare` does what was done to the nodes then. Returns how many
/// exchanges were replayed.
fn replay(place: &Place, spans: Spans, prepare: impl Fn(&Place, &str)) -> usize {
    let recording = recording();
    let mut replayed = 0;
    for ends in spans {
        let (mut entry, mut recorded, mut at, mut polls) = ("", None, 0.0, 0);
        for exchange in span(&recording, *ends) {
            if exchange.entry() != entry {
                entry = exchange.entry();
                (recorded, at, polls) = (None, 0.0, 0);
                prepare(place, entry);
            }
            if let Some(time) = exchange.at {
                let is_later = recorded.is_some_and(|recorded| recorded < time);
                polls += usize::from(is_later);
                let next = match times(entry) {
                    Some(times) => times[polls],
                    None => at + recorded.map_or(0.0, |recorded| time - recorded),
                };
                place.servers.skip_time(Duration::from_secs_f64(next - at));
                (recorded, at) = (Some(time), next);
            }
            prepare(place, &exchange.id);
            if reason_not_to_replay(&exchange.id).is_none() {
                place.replay(exchange);
                replayed += 1;
            }
        }
    }
    replayed
}

/// A dead added node; how a rebalance is handled; buckets while one runs.
#[test]
fn dead_added_node_is_answered_as_recorded() {
    let place = Place::new(Servers::start_generated(8));
    place.cluster(&[1, 2, 3], "256");
    place.bucket(1, "b1");
    let replayed = replay(&place, DEAD_ADDED_NODE, |place, event| match event {
        // The others do not know it yet.
        "E2" => place.node(4).hang(true),
        "E3" => place.node(4).kill(),
        "E19" => {
            place.node(4).hang(false);
            place.node(4).restart();
        }
        "E28" => place.skip(600),
        "G10" => place.servers.stop_takes(Duration::from_secs(30)),
        _ => {}
    });
    assert_eq!(replayed, 75);
}

/// Failover, recovery, automatic failover, and the loss of the majority.
#[test]
fn failover_is_answered_as_recorded() {
    let place = Place::new(Servers::start_generated(8));
    place.cluster(&[1, 2, 3], "256");
    place.bucket(1, "b1");
    place.servers.bucket_warm_up_takes(Duration::from_secs(100));
    place.cluster(&[4], "256");
    place.node(4).warm_up_for(Duration::ZERO);
    let replayed = replay(&place, FAILOVER, |place, event| match event {
        "F22c" => {
            place.skip(600);
            place.servers.stop_takes(Duration::from_secs(30));
        }
        "F33" => {
            let after = Duration::from_secs_f64(6.8);
            place.servers.auto_failover_after(after);
            place.node(3).kill();
        }
        "F37" | "F45" => place.node(3).restart(),
        "F38c" | "F56b" => place.servers.end_rebalances(),
        "F40" => place.node(3).kill(),
        "F50" => {
            place.add(1, 3);
            place.rebalance(&[1, 2, 3]);
            place.skip(200);
        }
        "F51" => {
            place.node(2).kill();
            place.node(3).kill();
        }
        "F57" => {
            place.node(2).restart();
            place.node(3).restart();
        }
        _ => {}
    });
    assert_eq!(replayed, 217);
}

/// Members that come back, joiners and orchestrators that die in a rebalance, and the warm-up of a bucket.
#[test]
fn lost_members_are_answered_as_recorded() {
    let place = Place::new(Servers::start_generated(8));
    place.cluster(&[4, 5, 6], "1024");
    place.bucket(4, "b1");
    let replayed = replay(&place, LOST_MEMBERS, |place, event| match event {
        "F60" => place.node(6).kill(),
        "F61" => place.node(6).restart(),
        "F63d" | "M34#5" => place.servers.end_rebalances(),
        "E31" => {
            place.node(7).kill();
            place.node(7).restart();
        }
        "E33" => {
            place.skip(600);
            place.node(7).kill();
        }
        "E36" => {
            place.servers.bucket_warm_up_takes(Duration::from_secs(11));
            place.node(7).restart();
        }
        "E37#5" => place.node(7).warm_up_for(Duration::from_secs(10)),
        "F72" => place.node(4).kill(),
        "F74" => {
            place.node(4).restart();
            place.skip(20);
            place.servers.end_rebalances();
        }
        "M30" => {
            // The first node leads again.
            place.node(5).kill();
            place.node(5).restart();
            place.skip(20);
            let long = Duration::from_secs(100_000);
            place.servers.bucket_warm_up_takes(long);
            place.servers.bucket_nodes_appear_after(Duration::from_secs(10));
        }
        "M34#2" => place.node(5).warm_up_for(Duration::ZERO),
        "M34#3" => {
            place.node(4).warm_up_for(Duration::ZERO);
            place.node(6).warm_up_for(Duration::ZERO);
        }
        _ => {}
    });
    assert_eq!(replayed, 61);
}

/// Certificates, UUIDs, reset, and what is answered without credentials.
#[test]
fn certificates_and_reset_are_answered_as_recorded() {
    let place = Place::new(Servers::start_generated(8));
    let replayed = replay(&place, CERTIFICATES, |place, event| match event {
        "H21" | "H41" | "I14" | "I32" => place.servers.end_rebalances(),
        "H27" => place.node(3).fill_inbox(),
        "I40" => {
            let base = "/opt/couchbase/var/lib/couchbase";
            let (data, index) = (format!("{base}/p1"), format!("{base}/i1"));
            let form = [("path", &*data), ("index_path", &*index)];
            place.call(8, "POST", "/nodes/self/controller/settings", &form);
            place.cluster(&[8], "300");
            let form = [
                ("hostname", "203.0.113.8"),
                ("mgmt", "8091"),
                ("mgmtSSL", "18091"),
                ("kv", "11210"),
                ("capi", "8092"),
                ("capiSSL", "18092"),
            ];
            let path = "/node/controller/setupAlternateAddresses/external";
            place.call(8, "PUT", path, &form);
        }
        _ => {}
    });
    assert_eq!(replayed, 139);
}

/// The Community Edition.
#[test]
fn community_edition_is_answered_as_recorded() {
    let place = Place::new(Servers::start_community(8));
    place.servers.services_never_come_up(&["index", "n1ql"]);
    let replayed = replay(&place, COMMUNITY, |place, event| match event {
        "J34d" | "J34f" => place.eject(6, 7),
        "J40" => {
            place.node(6).reset();
            place.node(7).reset();
        }
        "J46" => {
            let long = Duration::from_secs(1000);
            place.servers.bucket_nodes_appear_after(long);
        }
        _ => {}
    });
    assert_eq!(replayed, 82);
}

/// Quotas, paths, services that never come up, and buckets.
#[test]
fn settings_and_buckets_are_answered_as_recorded() {
    let place = Place::new(Servers::start_generated(8));
    place.servers.services_never_come_up(&["index", "n1ql"]);
    let replayed = replay(&place, SETTINGS, |place, event| match event {
        "N11" | "M0" => place.node(5).reset(),
        "M9" => {
            for name in ["mag", "_x", "memcached-config", "old", "mc", "r3"] {
                let path = format!("/pools/default/buckets/{name}");
                place.call(5, "DELETE", &path, &[]);
            }
            place.servers.bucket_nodes_appear_after(Duration::from_secs(40));
            place.servers.bucket_warm_up_takes(Duration::from_secs(40));
        }
        "M13" => place.skip(90),
        "M15" => place.skip(20),
        "M19" => place.skip(30),
        _ => {}
    });
    assert_eq!(replayed, 108);
}

#[test]
fn every_recorded_exchange_is_replayed_once() {
    let recording = recording();
    let all = recording.iter().map(|exchange| exchange.id.as_str());
    let stories = [DEAD_ADDED_NODE, FAILOVER, LOST_MEMBERS, CERTIFICATES, COMMUNITY, SETTINGS];
    let actual = stories.concat().into_iter().flat_map(|ends| span(&recording, ends));
    let mut actual: Vec<_> = actual.map(|exchange| exchange.id.as_str()).collect();
    actual.sort_unstable();
    let mut all: Vec<_> = all.collect();
    all.sort_unstable();
    assert_eq!(actual, all);
    let left_out = all.iter().filter(|id| reason_not_to_replay(id).is_some());
    assert_eq!((all.len(), left_out.count()), (719, 37));
}
