//! The protocol over HTTP, on a local deployment.

use std::fs;

use cbbootstrap_function::{
    api::{self, Policy},
    event,
    store::sqlite::Sqlite,
};
use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    trust::{Attestation, ClusterKeys, Fingerprint, Statement},
    wire::Cluster,
};
use cbbootstrap_tests::{
    cli::User,
    http::{self, Answer},
    local::Local,
    process::wait_until,
};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::tempdir;

const SECRET: &str = "Bearer correct-horse-battery-staple";

/// A node's request about the cluster `c`, with more fields.
fn ask(local: &Local, route: &str, node: &str, more: Value) -> Answer {
    ask_as(local, route, node, more, None)
}

fn ask_as(local: &Local, route: &str, node: &str, more: Value, secret: Option<&str>) -> Answer {
    let mut body = json!({"cluster_id": "c", "node_ip_addr_or_hostname": node});
    let Value::Object(more) = more else { panic!("{more} has no fields") };
    body.as_object_mut().unwrap().extend(more);
    http::post_as(&local.endpoint, route, &body.to_string(), secret).unwrap()
}

#[track_caller]
fn assert_told(answer: &Answer, expected: Value) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    let Value::Object(expected) = expected else { panic!("{expected} has no fields") };
    for (field, value) in expected {
        assert_eq!(told[&field], value, "{field} in {told}");
    }
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    let said = answer.json();
    assert_eq!((answer.status, &said["code"]), (status, &json!(code)), "{answer:?}");
}

#[test]
fn a_cluster_boots() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let leased = json!({"lease_seconds": 60});
    let first = ask(&local, "/cluster", "a", leased.clone());
    assert_told(&first, json!({"is_initial_node": true, "state": "claimed", "generation": 1}));
    assert!(first.json()["lease_expires_at"].as_str().unwrap().ends_with('Z'), "{first:?}");
    assert_told(&ask(&local, "/cluster", "b", leased), json!({"is_initial_node": false}));

    let uuid = json!({"cluster_uuid": "u", "generation": 1});
    assert_refused(
        &ask(&local, "/cluster/ready", "b", uuid.clone()),
        409,
        "initial_node_not_ready",
    );
    let ready = ask(&local, "/cluster/ready", "a", uuid.clone());
    let expected =
        json!({"state": "ready", "nodes": ["a"], "cluster_uuid": "u", "lease_expires_at": null});
    assert_told(&ready, expected);
    let other = json!({"cluster_uuid": "v"});
    assert_refused(&ask(&local, "/cluster/ready", "b", other), 409, "other_cluster");
    assert_told(
        &ask(&local, "/cluster/ready", "b", uuid),
        json!({"nodes": ["a", "b"], "is_initial_node": false}),
    );

    // The first node goes, and the other is the one to join.
    let left = ask(&local, "/cluster/leave", "a", json!({}));
    assert_told(&left, json!({"initial_node_ip_addr_or_hostname": "b", "is_initial_node": false}));
    assert_told(
        &ask(&local, "/cluster", "c", json!({})),
        json!({"initial_node_ip_addr_or_hostname": "b", "nodes": null, "members": null}),
    );
    assert_refused(&ask(&local, "/cluster/leave", "b", json!({})), 409, "last_node");
    let status = http::get(&local.endpoint, "/cluster/c").unwrap();
    assert_told(&status, json!({"state": "ready", "nodes": ["b"], "generation": 1}));
}

#[test]
fn a_first_node_that_dies_is_taken_over() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let leased = json!({"lease_seconds": 30});
    assert_told(&ask(&local, "/cluster", "a", leased.clone()), json!({"is_initial_node": true}));
    local.lapse("c");
    let taken = ask(&local, "/cluster", "b", leased);
    assert_told(&taken, json!({"is_initial_node": true, "generation": 2, "state": "claimed"}));

    // It was only slow.
    let late = ask(&local, "/cluster/ready", "a", json!({"generation": 1}));
    assert_refused(&late, 409, "stale_generation");
    assert!(late.body.contains("generation is 2"), "{late:?}");
    assert_told(
        &ask(&local, "/cluster", "a", json!({})),
        json!({"is_initial_node": false, "generation": 2}),
    );
    let ready = ask(&local, "/cluster/ready", "b", json!({"generation": 2}));
    assert_told(&ready, json!({"state": "ready"}));
}

#[test]
fn a_client_of_the_original_sees_no_difference() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let original = |answer: Answer| {
        let mut told = answer.json();
        let fields = told.as_object_mut().unwrap();
        fields.retain(|field, _| {
            field.contains("node_ip") || field.starts_with("is_") || field == "cluster_id"
        });
        (answer.status, told)
    };
    let expected = |cluster: &str, first| {
        let told = json!({"cluster_id": cluster, "initial_node_ip_addr_or_hostname": "a", "is_initial_node": first});
        (200, told)
    };
    // A cluster may be called as a route is.
    for cluster in ["mycluster", "ready", "leave", "get_status"] {
        let claim = |node| http::claim(&local.endpoint, cluster, node).unwrap();
        assert_eq!(original(claim("a")), expected(cluster, true));
        assert_eq!(original(claim("b")), expected(cluster, false));
        // It boots again.
        assert_eq!(original(claim("a")), expected(cluster, true));
        let status = http::get(&local.endpoint, &format!("/cluster/{cluster}")).unwrap();
        assert_eq!(original(status), expected(cluster, true));
        let body = json!({"cluster_id": cluster}).to_string();
        let status = http::post(&local.endpoint, "/cluster/get_status", &body).unwrap();
        assert_eq!(original(status), expected(cluster, true));
    }
}

/// All that a refusal shows, but what is another in each answer.
fn shown(answer: &Answer) -> (u16, String, Vec<String>) {
    let headers = answer.headers.iter();
    let mut headers: Vec<_> = headers
        .filter(|(name, _)| !["date", "apigw-requestid"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    (answer.status, answer.body.clone(), headers)
}

#[test]
fn callers_without_the_token_learn_nothing() {
    let data = tempdir().unwrap();
    // Whatever level is asked for.
    let user = User::default().with("RUST_LOG", "trace");
    let local = Local::of(user, data.path(), &[]);
    let mut refusals = Vec::new();
    let mut refuse_all = |state: &str| {
        for secret in [None, Some("Bearer wrong"), Some("Bearer correct-horse-battery-stapl")] {
            for route in ["/cluster", "/cluster/get_status", "/cluster/ready", "/cluster/leave"] {
                // The first node and another, with what does and does not fit.
                for (node, more) in
                    [("a", json!({})), ("x", json!({"generation": 7, "cluster_uuid": "v"}))]
                {
                    let refused = ask_as(&local, route, node, more, secret);
                    assert_refused(&refused, 403, "forbidden");
                    refusals.push((format!("{state}, {route}"), shown(&refused)));
                }
            }
            let refused = http::get_as(&local.endpoint, "/cluster/c", secret).unwrap();
            refusals.push((format!("{state}, GET"), shown(&refused)));
        }
    };
    let good = |route, node, more| ask_as(&local, route, node, more, Some(SECRET));
    let leased = json!({"lease_seconds": 30});
    assert_told(&good("/cluster", "a", leased.clone()), json!({"is_initial_node": true}));
    refuse_all("claimed");
    local.lapse("c");
    refuse_all("lapsed");
    assert_told(&good("/cluster", "b", leased), json!({"is_initial_node": true, "generation": 2}));
    refuse_all("taken over");
    assert_told(
        &good("/cluster/ready", "b", json!({"cluster_uuid": "u"})),
        json!({"state": "ready"}),
    );
    refuse_all("ready");
    assert_told(&good("/cluster/ready", "c", json!({})), json!({"nodes": ["b", "c"]}));
    refuse_all("with members");
    let (_, first) = &refusals[0];
    for (what, refused) in &refusals {
        assert_eq!(refused, first, "{what}");
    }
    let status = http::get_as(&local.endpoint, "/cluster/c", Some(SECRET)).unwrap();
    assert_told(&status, json!({"nodes": ["b", "c"], "generation": 2}));

    // A cluster without a secret refuses calls with one, and no cluster's secret opens another.
    http::claim(&local.endpoint, "open", "a").unwrap();
    let refused = http::get_as(&local.endpoint, "/cluster/open", Some(SECRET)).unwrap();
    assert_eq!(&shown(&refused), first);

    let said = local.said();
    let secret = SECRET.strip_prefix("Bearer ").unwrap();
    assert!(!said.contains(secret), "the secret is in the log");
    drop(local);
    for file in fs::read_dir(data.path()).unwrap() {
        let content = fs::read(file.unwrap().path()).unwrap();
        let found = content.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!found, "the secret is in the table");
    }
}

#[test]
fn requests_are_logged_after_the_start() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    assert!(
        !local.said().contains("POST /cluster"),
        "not those of the smoke test: {}",
        local.said()
    );
    ask(&local, "/cluster", "a", json!({}));
    http::get(&local.endpoint, "/cluster/a%20b").unwrap();
    wait_until("both are told", || {
        let said = local.said();
        said.contains("200 POST /cluster: claimed 2e7d2c03 (")
            && said.contains("400 GET /cluster/{cluster_id}: invalid_field (")
    });
}

#[test]
fn node_names_are_hosts_and_addresses_in_one_form() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    for node in [
        "10.0.0.1@evil",
        "evil/any/path?x=1#",
        "a,evil",
        "a?tls_verify=none",
        "$(id)",
        "a;rm",
        "a\u{1b}[2J",
        "a\u{202e}b",
        "größe.example",
        "2130706433",
        "user:pw@a",
    ] {
        for route in ["/cluster", "/cluster/ready", "/cluster/leave", "/cluster/get_status"] {
            let refused = ask(&local, route, node, json!({}));
            assert_refused(&refused, 400, "invalid_field");
            assert_eq!(refused.json()["field"], "node_ip_addr_or_hostname");
        }
    }
    assert_eq!(http::get(&local.endpoint, "/cluster/c").unwrap().status, 404);
    for (cluster, claimed, canonical, again) in [
        ("case", "CB-0.Example.COM.", "cb-0.example.com", "cb-0.EXAMPLE.com"),
        ("ipv6", "[FD00:0::0001]", "fd00::1", "fd00:0:0::1"),
        ("port", "[fd00:0::1]:9000", "[fd00::1]:9000", "[FD00::1]:9000"),
    ] {
        for node in [claimed, again] {
            let told = http::claim(&local.endpoint, cluster, node).unwrap();
            assert_told(
                &told,
                json!({"initial_node_ip_addr_or_hostname": canonical, "is_initial_node": true, "generation": 1}),
            );
        }
    }
    // The same name in two of Unicode's forms is one cluster.
    let told = http::claim(&local.endpoint, "gro\u{308}ße", "a").unwrap();
    assert_told(&told, json!({"cluster_id": "größe"}));
    let told = http::claim(&local.endpoint, "größe", "b").unwrap();
    assert_told(&told, json!({"is_initial_node": false}));
    for hidden in ["a\u{200b}", "a\u{202e}b", "\u{feff}a"] {
        assert_refused(&http::claim(&local.endpoint, hidden, "a").unwrap(), 400, "invalid_field");
    }
}

#[test]
fn a_path_loses_its_prefix_once() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    http::claim(&local.endpoint, "x", "a").unwrap();
    let status = http::get(&local.endpoint, "/cluster/%2Fcluster%2Fx").unwrap();
    assert_refused(&status, 404, "cluster_not_found");
    http::claim(&local.endpoint, "/cluster/x", "b").unwrap();
    for (path, node) in [("/cluster/%2Fcluster%2Fx", "b"), ("/cluster/x", "a")] {
        let status = http::get(&local.endpoint, path).unwrap();
        assert_told(&status, json!({"initial_node_ip_addr_or_hostname": node}));
    }
}

#[test]
fn a_record_stays_small_however_much_strangers_report() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    ask(&local, "/cluster", "a", json!({}));
    ask(&local, "/cluster/ready", "a", json!({"cluster_uuid": "u"}));
    let label = "x".repeat(60);
    for number in 1..256 {
        let node = format!("n{number}.{label}.{label}.{label}.{label}");
        assert_eq!(ask(&local, "/cluster/ready", &node, json!({})).status, 200);
    }
    let refused = ask(&local, "/cluster/ready", "one-too-many", json!({}));
    assert_refused(&refused, 409, "too_many_nodes");
    let claimed = ask(&local, "/cluster", "late", json!({}));
    assert_told(&claimed, json!({"state": "ready", "cluster_uuid": "u"}));
    assert!(claimed.body.len() < 1024, "{claimed:?}");
}

#[test]
fn late_copies_of_an_old_generation_change_nothing() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let leased = json!({"lease_seconds": 30});
    ask(&local, "/cluster", "a", leased.clone());
    local.lapse("c");
    let taken = ask(&local, "/cluster", "b", leased.clone());
    assert_told(&taken, json!({"generation": 2, "previous_initial_nodes": ["a"]}));
    local.lapse("c");
    let taken = ask(&local, "/cluster", "a", leased);
    assert_told(&taken, json!({"generation": 3, "previous_initial_nodes": ["b"]}));
    assert!(taken.json()["lease_seconds_left"].as_u64().unwrap() <= 30);
    let late = ask(&local, "/cluster/leave", "a", json!({"generation": 1}));
    assert_refused(&late, 409, "stale_generation");
    let status = ask(&local, "/cluster/get_status", "a", json!({}));
    assert_told(&status, json!({"generation": 3, "is_initial_node": true}));
    assert_told(
        &ask(&local, "/cluster/leave", "a", json!({"generation": 3})),
        json!({"generation": 3}),
    );
    assert_told(
        &ask(&local, "/cluster", "b", json!({})),
        json!({"generation": 4, "is_initial_node": true}),
    );
}

#[test]
fn two_servers_with_one_name_are_both_warned() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let claim =
        |uuid: &str| ask(&local, "/cluster", "a", json!({"node_uuid": uuid, "lease_seconds": 60}));
    assert_told(&claim("U-1"), json!({"is_initial_node": true, "rival_node_uuid": null}));
    let refused = claim("u-2");
    assert_refused(&refused, 409, "name_taken");
    assert!(!refused.body.contains("u-1"), "{refused:?}");
    let report = json!({"node_uuid": "u-2", "generation": 1});
    assert_refused(&ask(&local, "/cluster/ready", "a", report), 409, "name_taken");
    assert_told(&claim("u-1"), json!({"is_initial_node": true, "rival_node_uuid": "u-2"}));
    let report = json!({"node_uuid": "u-1", "generation": 1});
    assert_told(&ask(&local, "/cluster/ready", "a", report), json!({"rival_node_uuid": "u-2"}));
    assert_refused(&claim("not a uuid"), 400, "invalid_field");
}

#[test]
fn attestations_are_returned_unchanged() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let id = ClusterId::new("c").unwrap();
    let keys = ClusterKeys::derive(b"a secret that the API never gets", &id);
    let authorization = format!("Bearer {}", keys.token());
    let ask = |route, node, more| ask_as(&local, route, node, more, Some(&authorization));
    let statement = |node: &Node, authority| {
        let (cluster_id, cluster_uuid) = (&id, &Uuid::new("5cb8a1d0").unwrap());
        let statement = Statement { cluster_id, node, cluster_uuid, authority };
        keys.attest(&statement).to_string()
    };
    let [a, b, c] = ["a", "b", "c"].map(|name| Node::new(name).unwrap());
    let authority = Fingerprint::of_certificate(b"an authority");
    ask("/cluster", "a", json!({}));
    let attested = json!({
        "cluster_uuid": "5CB8A1D0", "node_uuid": "n-1", "authority_sha256": authority.to_string(),
        "attestation": statement(&a, Some(authority)),
    });
    ask("/cluster/ready", "a", attested);
    // Community Edition has no authority.
    let attested = json!({"cluster_uuid": "5cb8a1d0", "attestation": statement(&b, None)});
    ask("/cluster/ready", "b", attested);
    // Someone with the token, such as the API itself, repeats another member's attestation.
    let stolen = json!({
        "authority_sha256": Fingerprint::of_certificate(b"mine").to_string(),
        "attestation": statement(&a, Some(authority)),
    });
    let told = ask("/cluster/ready", "c", stolen).json();
    let told: Cluster = serde_json::from_value(told).unwrap();
    assert_eq!(told.nodes, ["a", "b", "c"]);
    let uuid = Uuid::new(told.cluster_uuid.unwrap()).unwrap();
    let verified = told.members.iter().zip([&a, &b, &c]).map(|(member, node)| {
        let hash = member.authority_sha256.as_deref();
        let statement = Statement {
            cluster_id: &id,
            node,
            cluster_uuid: &uuid,
            authority: hash.map(|hash| Fingerprint::from_hex(hash).unwrap()),
        };
        let attestation = member.attestation.as_deref().unwrap();
        keys.verify(&statement, &Attestation::from_hex(attestation).unwrap())
    });
    assert_eq!(verified.collect::<Vec<_>>(), [true, true, false]);

    let alone = json!({"authority_sha256": authority.to_string()});
    let refused = ask("/cluster/ready", "a", alone);
    assert_refused(&refused, 400, "missing_field");
    assert_eq!(refused.json()["field"], "attestation");
    for wrong in [json!("00"), json!(1), json!(null), json!("g".repeat(64))] {
        let refused = ask("/cluster/ready", "a", json!({"attestation": wrong}));
        assert_refused(&refused, 400, "invalid_field");
    }
}

/// Every line of the function, at the level that tells most.
#[test]
fn ids_nodes_and_tokens_are_in_no_log() {
    const ID: &str = "cluster-that-nobody-logs";
    const NODE: &str = "node-that-nobody-logs";
    const TOKEN: &str = "token-that-nobody-logs";
    let data = tempdir().unwrap();
    let user = User::default().with("RUST_LOG", "trace,cbbootstrap_function=trace,hyper=trace");
    let mut local = Local::of(user, data.path(), &["--no-smoke"]);
    let token = format!("Bearer {TOKEN}");
    let ask = |route: &str, more: Value| {
        let mut body = json!({"cluster_id": ID, "node_ip_addr_or_hostname": NODE});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        http::post_as(&local.endpoint, route, &body.to_string(), Some(&token)).unwrap().status
    };
    assert_eq!(ask("/cluster", json!({"lease_seconds": 60})), 200);
    assert_eq!(ask("/cluster", json!({"lease_seconds": 1})), 400);
    assert_eq!(ask("/cluster/ready", json!({"generation": 2})), 409);
    assert_eq!(ask("/cluster/ready", json!({"cluster_uuid": "u"})), 200);
    assert_eq!(ask("/cluster/get_status", json!({})), 200);
    assert_eq!(ask("/cluster/leave", json!({})), 409);
    let path = format!("/cluster/{ID}");
    assert_eq!(http::get_as(&local.endpoint, &path, Some(&token)).unwrap().status, 200);
    // A record that cannot be read.
    let database = Connection::open(local.database()).unwrap();
    let broken = "UPDATE clusters SET record = json_set(record, '$.state', 'half-ready')";
    assert_eq!(database.execute(broken, []).unwrap(), 1);
    assert_eq!(ask("/cluster", json!({})), 500);
    // No table at all.
    database.execute_batch("DROP TABLE clusters").unwrap();
    assert_eq!(ask("/cluster", json!({})), 500);
    local.stop("TERM");
    let said = local.said();
    for logged in ["500 POST /cluster: internal", "are not usable", "no such table"] {
        assert!(said.contains(logged), "{logged} is not in {said}");
    }
    for text in [ID, NODE, TOKEN] {
        assert!(!said.contains(text), "{text} is in the log: {said}");
    }
}

#[tokio::test]
async fn a_deployment_may_require_tokens_and_leases_and_hide_its_docs() {
    let data = tempdir().unwrap();
    let store = Sqlite::create(&data.path().join("clusters.db")).unwrap();
    let policy = Policy { requires_secret: true, requires_lease: true, hides_docs: true };
    let router = api::router(store, policy);
    let ask = async |method: &str, path: &str, authorization: Option<&str>, body: Value| {
        let headers = authorization.map(|value| json!({"authorization": value}));
        let event = json!({
            "rawPath": path, "requestContext": {"http": {"method": method}}, "headers": headers, "body": body.to_string(),
        });
        let answer = event::respond(router.clone(), event.to_string().as_bytes(), "id", "").await;
        serde_json::to_value(answer).unwrap()
    };
    let code = |answer: &Value| {
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        body["code"].as_str().map(str::to_owned)
    };
    let claim = json!({"cluster_id": "c", "node_ip_addr_or_hostname": "a", "lease_seconds": 60});
    let token = Some("Bearer correct-horse-battery-staple");
    let signatures = ["AWS4-HMAC-SHA256 Credential=x", " AWS4-a b", "\tAWS4-a b"];
    for authorization in signatures.map(Some).into_iter().chain([None]) {
        for (method, path) in [
            ("POST", "/cluster"),
            ("POST", "/cluster/get_status"),
            ("POST", "/cluster/ready"),
            ("POST", "/cluster/leave"),
            ("GET", "/cluster/c"),
            ("GET", "/cluster/ready"),
        ] {
            let refused = ask(method, path, authorization, claim.clone()).await;
            assert_eq!(
                (
                    &refused["statusCode"],
                    &refused["headers"]["www-authenticate"],
                    code(&refused).as_deref()
                ),
                (&json!(401), &json!("Bearer"), Some("secret_required")),
                "{method} {path}"
            );
        }
    }
    let docs = "/docs/swagger-ui-bundle.js";
    for (path, status) in [("/", 200), ("/swagger.yaml", 200), ("/docs", 404), (docs, 404)] {
        assert_eq!(ask("GET", path, None, json!({})).await["statusCode"], status, "{path}");
    }
    let hidden = ask("GET", "/docs", None, json!({})).await;
    assert_eq!(code(&hidden).as_deref(), Some("route_not_found"));
    let about = ask("GET", "/", None, json!({})).await;
    assert!(!about["body"].as_str().unwrap().contains("docs"), "{about}");
    let without = json!({"cluster_id": "c", "node_ip_addr_or_hostname": "a"});
    let refused = ask("POST", "/cluster", token, without).await;
    assert_eq!(code(&refused).as_deref(), Some("missing_field"));
    let malformed = ask("POST", "/cluster", Some("Basic YTpi"), claim.clone()).await;
    assert_eq!(code(&malformed).as_deref(), Some("invalid_field"));
    assert_eq!(ask("POST", "/cluster", token, claim).await["statusCode"], 200);
    assert_eq!(ask("GET", "/cluster/c", token, json!({})).await["statusCode"], 200);
}

/// An event of an HTTP API behind a custom domain with the API mapping `v1`, in the form of AWS's documentation of payload 2.0.
/// `rawPath` and `http.path` are the test's.
const MAPPED_EVENT: &str = r#"{
  "version": "2.0",
  "routeKey": "$default",
  "rawPath": "PATH",
  "rawQueryString": "",
  "headers": {
    "accept": "*/*",
    "content-length": "55",
    "content-type": "application/json",
    "host": "api.example.com",
    "user-agent": "curl/8.14.1",
    "x-amzn-trace-id": "Root=1-69271d3e-3f1f2a0b5c6d7e8f90a1b2c3",
    "x-forwarded-for": "2001:db8::1",
    "x-forwarded-port": "443",
    "x-forwarded-proto": "https"
  },
  "requestContext": {
    "accountId": "123456789012",
    "apiId": "a1b2c3d4e5",
    "domainName": "api.example.com",
    "domainPrefix": "api",
    "http": {
      "method": "POST",
      "path": "PATH",
      "protocol": "HTTP/1.1",
      "sourceIp": "2001:db8::1",
      "userAgent": "curl/8.14.1"
    },
    "requestId": "TwL2bhsxIAMEVnw=",
    "routeKey": "$default",
    "stage": "$default",
    "time": "27/Nov/2026:07:39:53 +0000",
    "timeEpoch": 1795765193000
  },
  "body": "{\"cluster_id\": \"c\", \"node_ip_addr_or_hostname\": \"a\"}",
  "isBase64Encoded": false
}"#;

#[tokio::test]
async fn the_base_path_of_a_domain_is_not_part_of_a_route() {
    let data = tempdir().unwrap();
    let store = Sqlite::create(&data.path().join("clusters.db")).unwrap();
    let router = api::router(store, Policy::default());
    for (path, status) in [
        ("/v1/cluster", 200),
        ("/cluster", 200),
        ("/v1/cluster/get_status", 200),
        ("/v1/v1/cluster", 404),
        ("/v2/cluster", 404),
    ] {
        let event = MAPPED_EVENT.replace("PATH", path);
        let answer = event::respond(router.clone(), event.as_bytes(), "id", "v1").await;
        assert_eq!(answer["statusCode"], status, "{path}: {answer}");
    }
}
