//! The protocol over HTTP, on a local deployment: what the nodes of a cluster go through.

#![allow(clippy::unwrap_used)]

use std::fs;

use cbbootstrap_tests::{
    cli::User,
    http::{self, Answer},
    local::Local,
    process::wait_until,
};
use serde_json::{Value, json};
use tempfile::tempdir;

const SECRET: &str = "Bearer correct-horse-battery-staple";

/// A node's request about the cluster `c`, with more fields.
fn ask(local: &Local, route: &str, node: &str, more: Value) -> Answer {
    ask_as(local, route, node, more, None)
}

fn ask_as(local: &Local, route: &str, node: &str, more: Value, secret: Option<&str>) -> Answer {
    let mut body = json!({"cluster_id": "c", "node_ip_addr_or_hostname": node});
    let Value::Object(more) = more else {
        panic!("{more} has no fields")
    };
    body.as_object_mut().unwrap().extend(more);
    http::post_as(&local.endpoint, route, &body.to_string(), secret).unwrap()
}

#[track_caller]
fn assert_told(answer: &Answer, expected: Value) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    let Value::Object(expected) = expected else {
        panic!("{expected} has no fields")
    };
    for (field, value) in expected {
        assert_eq!(told[&field], value, "{field} in {told}");
    }
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    let said = answer.json();
    assert_eq!(
        (answer.status, &said["code"]),
        (status, &json!(code)),
        "{answer:?}"
    );
}

#[test]
fn a_cluster_boots() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let leased = json!({"lease_seconds": 60});
    let first = ask(&local, "/cluster", "a", leased.clone());
    assert_told(
        &first,
        json!({"is_initial_node": true, "state": "claimed", "generation": 1}),
    );
    assert!(
        first.json()["lease_expires_at"]
            .as_str()
            .unwrap()
            .ends_with('Z'),
        "{first:?}"
    );
    assert_told(
        &ask(&local, "/cluster", "b", leased),
        json!({"is_initial_node": false}),
    );

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
    assert_refused(
        &ask(&local, "/cluster/ready", "b", other),
        409,
        "other_cluster",
    );
    assert_told(
        &ask(&local, "/cluster/ready", "b", uuid),
        json!({"nodes": ["a", "b"], "is_initial_node": false}),
    );

    // The first node goes, and the other is the one to join.
    let left = ask(&local, "/cluster/leave", "a", json!({}));
    assert_told(
        &left,
        json!({"initial_node_ip_addr_or_hostname": "b", "is_initial_node": false}),
    );
    assert_told(
        &ask(&local, "/cluster", "c", json!({})),
        json!({"initial_node_ip_addr_or_hostname": "b"}),
    );
    assert_refused(
        &ask(&local, "/cluster/leave", "b", json!({})),
        409,
        "last_node",
    );
    let status = http::get(&local.endpoint, "/cluster/c").unwrap();
    assert_told(
        &status,
        json!({"state": "ready", "nodes": ["b"], "generation": 1}),
    );
}

#[test]
fn a_first_node_that_dies_is_taken_over() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let leased = json!({"lease_seconds": 30});
    assert_told(
        &ask(&local, "/cluster", "a", leased.clone()),
        json!({"is_initial_node": true}),
    );
    local.lapse("c");
    let taken = ask(&local, "/cluster", "b", leased);
    assert_told(
        &taken,
        json!({"is_initial_node": true, "generation": 2, "state": "claimed"}),
    );

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
fn who_has_not_the_secret_learns_nothing() {
    let data = tempdir().unwrap();
    // The log says all that it can.
    let user = User::default().with("RUST_LOG", "trace");
    let local = Local::of(user, data.path(), &[]);
    let mut refusals = Vec::new();
    let mut refuse_all = |state: &str| {
        for secret in [
            None,
            Some("Bearer wrong"),
            Some("Bearer correct-horse-battery-stapl"),
        ] {
            for route in [
                "/cluster",
                "/cluster/get_status",
                "/cluster/ready",
                "/cluster/leave",
            ] {
                // The first node and another, with what does and does not fit.
                for (node, more) in [
                    ("a", json!({})),
                    ("x", json!({"generation": 7, "cluster_uuid": "v"})),
                ] {
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
    assert_told(
        &good("/cluster", "a", leased.clone()),
        json!({"is_initial_node": true}),
    );
    refuse_all("claimed");
    local.lapse("c");
    refuse_all("lapsed");
    assert_told(
        &good("/cluster", "b", leased),
        json!({"is_initial_node": true, "generation": 2}),
    );
    refuse_all("taken over");
    assert_told(
        &good("/cluster/ready", "b", json!({"cluster_uuid": "u"})),
        json!({"state": "ready"}),
    );
    refuse_all("ready");
    assert_told(
        &good("/cluster/ready", "c", json!({})),
        json!({"nodes": ["b", "c"]}),
    );
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
    assert!(said.contains("TRACE") || said.contains("DEBUG"), "{said}");
    let secret = SECRET.strip_prefix("Bearer ").unwrap();
    assert!(!said.contains(secret), "the secret is in the log");
    drop(local);
    for file in fs::read_dir(data.path()).unwrap() {
        let content = fs::read(file.unwrap().path()).unwrap();
        let found = content
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!found, "the secret is in the table");
    }
}

#[test]
fn requests_are_told_once_it_serves() {
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
        said.contains("200 POST /cluster: claimed (")
            && said.contains("400 GET /cluster/{cluster_id}: invalid_field (")
    });
}
