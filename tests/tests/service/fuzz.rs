//! Generated requests: the function answers each of them, without a panic or a 500.

use std::{collections::BTreeSet, sync::OnceLock};

use axum::Router;
use base64::{Engine, prelude::BASE64_STANDARD};
use cbbootstrap_function::{api, event, store::sqlite::Sqlite};
use proptest::{collection, option, prelude::*, sample};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Longer than anything that comes about by chance.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The answer to an event.
fn respond(event: &[u8]) -> Value {
    static SERVICE: OnceLock<(Runtime, Router, TempDir)> = OnceLock::new();
    let (runtime, router, _) = SERVICE.get_or_init(|| {
        let data = tempfile::tempdir().unwrap();
        let store = Sqlite::create(&data.path().join("clusters.db")).unwrap();
        let router = api::router(store, api::Policy::default());
        (Runtime::new().unwrap(), router, data)
    });
    let answer = event::respond(router.clone(), event, "id");
    serde_json::to_value(runtime.block_on(answer)).unwrap()
}

/// That it is an answer which the contract knows.
fn check(event: &str, answer: &Value) -> Result<(), TestCaseError> {
    let status = answer["statusCode"].as_u64().unwrap();
    prop_assert!((200..500).contains(&status), "{event} -> {answer}");
    let text = answer["body"].as_str().unwrap();
    prop_assert!(!text.contains(SECRET), "{event} -> {answer}");
    let content_type = answer["headers"]["content-type"].as_str().unwrap_or_default();
    if status >= 400 {
        prop_assert_eq!(content_type, "application/problem+json", "{} -> {}", event, answer);
        let document: Value = serde_json::from_str(text).unwrap_or_default();
        // The answer to a HEAD has no body.
        prop_assert!(text.is_empty() || document["code"].is_string(), "{event} -> {answer}");
    }
    Ok(())
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!(1)),
        Just(json!(60)),
        Just(json!("a")),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A name that is good, or nearly.
fn name() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => sample::select(vec!["a", "b", "c", "ready", "größe", "a/b:c+d==", "fd00::1", "A.Example."]).prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
        1 => (1000..1100_usize).prop_map(|length| "x".repeat(length).into()),
        1 => json_value(),
    ]
}

fn hash() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => "[0-9a-fA-F]{64}".prop_map(Value::from),
        1 => name(),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let fields = (
        option::weighted(0.95, name()),
        option::weighted(0.9, name()),
        option::weighted(0.5, prop_oneof![Just(json!(60)), json_value()]),
        option::weighted(0.5, prop_oneof![Just(json!(1)), Just(json!(2)), json_value()]),
        option::weighted(0.3, name()),
        option::weighted(0.3, name()),
        option::weighted(0.2, hash()),
        option::weighted(0.2, hash()),
    );
    let object =
        fields.prop_map(|(cluster, node, lease, generation, uuid, server, authority, proof)| {
            let fields = [
                ("cluster_id", cluster),
                ("node_ip_addr_or_hostname", node),
                ("lease_seconds", lease),
                ("generation", generation),
                ("cluster_uuid", uuid),
                ("node_uuid", server),
                ("authority_sha256", authority),
                ("attestation", proof),
            ];
            let given =
                fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
            Value::Object(given.collect::<Map<_, _>>()).to_string().into_bytes()
        });
    prop_oneof![
        6 => object,
        1 => json_value().prop_map(|value| value.to_string().into_bytes()),
        1 => collection::vec(any::<u8>(), 0..200),
        1 => (8000..9000_usize).prop_map(|length| vec![b' '; length]),
    ]
}

fn path() -> impl Strategy<Value = String> {
    let route = sample::select(vec![
        "/",
        "/cluster",
        "/cluster/get_status",
        "/cluster/ready",
        "/cluster/leave",
        "/swagger.yaml",
        "/docs",
        "/cluster/",
    ]);
    prop_oneof![
        6 => route.prop_map(str::to_owned),
        2 => any::<String>().prop_map(|id| format!("/cluster/{id}")),
        1 => "/cluster/(%[0-9a-fA-F]{2}|%|[a-z /?#]){0,20}",
        1 => any::<String>(),
    ]
}

fn method() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => sample::select(vec!["POST", "GET"]).prop_map(str::to_owned),
        1 => sample::select(vec!["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn headers() -> impl Strategy<Value = Value> {
    let authorization = prop_oneof![
        Just(format!("Bearer {SECRET}")),
        Just("Bearer other".to_owned()),
        any::<String>(),
        any::<String>().prop_map(|secret| format!("Bearer {secret}")),
        Just("AWS4-HMAC-SHA256 Credential=x".to_owned()),
    ];
    let others = collection::btree_map(any::<String>(), option::of(any::<String>()), 0..4);
    let name = sample::select(vec!["authorization", "Authorization", "AUTHORIZATION"]);
    (option::weighted(0.4, (name, authorization)), others).prop_map(|(authorization, others)| {
        let mut headers: Map<_, _> =
            others.into_iter().map(|(name, value)| (name, json!(value))).collect();
        if let Some((name, value)) = authorization {
            headers.insert(name.to_owned(), json!(value));
        }
        Value::Object(headers)
    })
}

fn stage() -> impl Strategy<Value = Option<String>> {
    option::of(prop_oneof![
        sample::select(vec!["$default", "prod", "cluster", ""]).prop_map(str::to_owned),
        any::<String>(),
    ])
}

/// An event of an HTTP API (payload 2.0) or of a REST API (1.0), in the stage's path or not.
fn http_event() -> impl Strategy<Value = Value> {
    let parts = (method(), path(), headers(), body(), stage());
    (parts, any::<(bool, bool, bool)>()).prop_map(
        |((method, path, headers, body, stage), (is_rest, in_path, as_text))| {
            let whole = match &stage {
                Some(stage) if in_path => format!("/{stage}{path}"),
                _ => path.clone(),
            };
            let text = String::from_utf8(body).map_err(std::string::FromUtf8Error::into_bytes);
            let (body, is_base64) = match text {
                Ok(text) if as_text => (text, false),
                Ok(text) => (BASE64_STANDARD.encode(text), true),
                Err(bytes) => (BASE64_STANDARD.encode(bytes), true),
            };
            if is_rest {
                json!({
                    "resource": "/{proxy+}", "httpMethod": method, "headers": headers,
                    "path": if in_path { &whole } else { &path },
                    "requestContext": {"stage": stage, "path": whole}, "body": body, "isBase64Encoded": is_base64,
                })
            } else {
                json!({
                    "version": "2.0", "routeKey": "$default", "rawPath": whole, "rawQueryString": "", "headers": headers,
                    "requestContext": {"stage": stage, "http": {"method": method, "path": whole}},
                    "body": body, "isBase64Encoded": is_base64,
                })
            }
        },
    )
}

/// An event of a load balancer, with headers in one of its two forms.
fn load_balancer_event() -> impl Strategy<Value = Value> {
    let parts = (method(), path(), headers(), body(), any::<bool>());
    parts.prop_map(|(method, path, headers, body, has_many)| {
        let (name, headers) = if has_many {
            let twice = |value: &Value| json!([value, value]);
            let headers = headers.as_object().unwrap().iter();
            let headers = headers.map(|(name, value)| (name.clone(), twice(value)));
            ("multiValueHeaders", headers.collect::<Map<_, _>>().into())
        } else {
            ("headers", headers)
        };
        json!({
            "requestContext": {"elb": {"targetGroupArn": "arn"}}, "httpMethod": method, "path": path,
            "queryStringParameters": {}, name: headers, "body": BASE64_STANDARD.encode(body), "isBase64Encoded": true,
        })
    })
}

/// An event with a field too many, too few, or of another type.
fn broken_event() -> impl Strategy<Value = Value> {
    let places = sample::select(vec![
        "/rawPath",
        "/path",
        "/httpMethod",
        "/headers",
        "/multiValueHeaders",
        "/requestContext/elb",
        "/body",
        "/isBase64Encoded",
        "/requestContext",
        "/requestContext/http",
        "/requestContext/http/method",
        "/requestContext/stage",
        "/requestContext/path",
    ]);
    (http_event(), places, json_value()).prop_map(|(mut event, place, value)| {
        if let Some(field) = event.pointer_mut(place) {
            *field = value;
        }
        event
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_answered(event in http_event()) {
        let event = event.to_string();
        check(&event, &respond(event.as_bytes()))?;
    }

    #[test]
    fn every_load_balancer_request_is_answered_in_its_form(event in load_balancer_event()) {
        let has_many = event["multiValueHeaders"].is_object();
        let event = event.to_string();
        let mut answer = respond(event.as_bytes());
        prop_assert_eq!(answer["headers"].is_object(), !has_many);
        prop_assert!(answer["statusDescription"].is_string());
        if has_many {
            let values = answer["multiValueHeaders"]["content-type"].clone();
            prop_assert_eq!(values.as_array().map_or(1, Vec::len), 1);
            answer["headers"] = json!({"content-type": values[0]});
        }
        check(&event, &answer)?;
    }

    #[test]
    fn every_broken_event_is_answered(event in broken_event()) {
        let event = event.to_string();
        check(&event, &respond(event.as_bytes()))?;
    }

    #[test]
    fn input_that_is_not_an_event_is_answered(bytes in collection::vec(any::<u8>(), 0..300)) {
        let answer = respond(&bytes);
        check(&format!("{bytes:?}"), &answer)?;
        prop_assert_eq!(&answer["statusCode"], 400);
    }
}

/// The requests above are not all refused for the same reason. How soon each kind comes depends on what the tests beside this
/// one do to the same clusters.
#[test]
fn the_generated_requests_cover_all_outcomes() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut missing = BTreeSet::from([
        "claimed",
        "ready",
        "invalid_json",
        "missing_field",
        "invalid_field",
        "invalid_request",
        "forbidden",
        "cluster_not_found",
        "route_not_found",
        "method_not_allowed",
        "stale_generation",
        "initial_node_not_ready",
        "body_too_large",
    ]);
    let mut runner = TestRunner::deterministic();
    for _ in 0..100_000 {
        let event = http_event().new_tree(&mut runner).unwrap().current();
        let answer = respond(event.to_string().as_bytes());
        let body: Value =
            serde_json::from_str(answer["body"].as_str().unwrap()).unwrap_or_default();
        if let Some(kind) = body["code"].as_str().or(body["state"].as_str()) {
            missing.remove(kind);
        }
        if missing.is_empty() {
            return;
        }
    }
    panic!("no request came to {missing:?}");
}
