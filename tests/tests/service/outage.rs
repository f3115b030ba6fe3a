//! A table that throttles, fails, hangs or is away: callers get a 503 in time, and the service recovers.

use std::time::{Duration, Instant};

use cbbootstrap_tests::{
    artifact,
    http::{self, Answer},
    ministack::MiniStack,
    proxy::{Fault, Proxy},
};
use serde_json::{Value, json};

/// The least time limit that the function can be given. Every answer comes before.
const TIME_LIMIT: Duration = Duration::from_secs(6);

/// A deployment whose function's calls to the table go through a proxy.
struct Deployment {
    endpoint: String,
    table: Proxy,
    _aws: MiniStack,
}

impl Deployment {
    fn start() -> Self {
        let mut table = None;
        let aws = MiniStack::start_with(|url| table.insert(Proxy::before(url)).url.clone());
        let zip = artifact::zip().to_owned();
        let deployed = aws
            .user()
            .run(&["deploy", "--yes", "--no-smoke", "--output", "json", "--function-zip", &zip])
            .document();
        Self {
            endpoint: deployed["endpoint"].as_str().unwrap().to_owned(),
            table: table.unwrap(),
            _aws: aws,
        }
    }

    fn ask(&self, route: &str, cluster: &str, node: &str) -> Answer {
        let body = json!({"cluster_id": cluster, "node_ip_addr_or_hostname": node}).to_string();
        http::post(&self.endpoint, route, &body).unwrap()
    }

    /// Calls of the table since the last time that this was asked.
    fn calls(&self) -> usize {
        let calls = self.table.calls().len();
        self.table.reset();
        calls
    }

    #[track_caller]
    fn assert_unavailable(&self, what: &str, route: &str, cluster: &str) {
        let since = Instant::now();
        let answer = self.ask(route, cluster, "a");
        let took = since.elapsed();
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (503, &json!("unavailable")),
            "{what}, {route}: {answer:?}"
        );
        assert_eq!(answer.headers["retry-after"], "1", "{what}, {route}");
        assert!(took < TIME_LIMIT, "{what}, {route} took {took:?}");
    }
}

#[test]
fn an_outage_is_answered_in_time() {
    let deployment = Deployment::start();
    let Deployment { table, .. } = &deployment;

    // From the function's first moment on.
    table.fault(|_| Some(Fault::Throttle));
    deployment.assert_unavailable("a cold start", "/cluster", "c");
    table.fault(|_| None);
    assert_eq!(deployment.ask("/cluster", "c", "a").status, 200);

    for fault in [
        Fault::Throttle,
        Fault::InternalError,
        Fault::Unavailable,
        Fault::DropRequest,
        Fault::Delay(Duration::from_mins(1)),
    ] {
        let what = format!("{fault:?}");
        deployment.calls();
        let every = fault.clone();
        table.fault(move |_| Some(every.clone()));
        deployment.assert_unavailable(&what, "/cluster", &what.replace(' ', ""));
        let calls = deployment.calls();
        assert_eq!(calls, 3, "{what} is tried so often");
        for route in ["/cluster/get_status", "/cluster/ready", "/cluster/leave"] {
            let every = fault.clone();
            table.fault(move |_| Some(every.clone()));
            deployment.assert_unavailable(&what, route, "c");
        }
        table.reset();
        // Nothing of it was done.
        let status = deployment.ask("/cluster/get_status", &what.replace(' ', ""), "a");
        assert_eq!(status.status, 404, "{what}: {status:?}");
        let status = deployment.ask("/cluster/get_status", "c", "a").json();
        assert_eq!((&status["state"], status["nodes"].clone()), (&json!("claimed"), Value::Null));
    }
}

#[test]
fn a_call_that_fails_once_is_retried() {
    let deployment = Deployment::start();
    let Deployment { table, .. } = &deployment;
    deployment.ask("/cluster", "warm", "a");
    for (number, fault) in [
        Fault::Throttle,
        Fault::InternalError,
        Fault::DropRequest,
        // Done, and nobody told.
        Fault::DropAnswer,
    ]
    .into_iter()
    .enumerate()
    {
        let (what, cluster) = (format!("{fault:?}"), format!("c{number}"));
        for (route, node, expected) in [
            ("/cluster", "a", json!({"is_initial_node": true, "generation": 1})),
            ("/cluster", "b", json!({"is_initial_node": false, "generation": 1})),
            ("/cluster/ready", "a", json!({"state": "ready", "nodes": ["a"]})),
            ("/cluster/ready", "b", json!({"nodes": ["a", "b"]})),
            (
                "/cluster/leave",
                "a",
                json!({"initial_node_ip_addr_or_hostname": "b", "nodes": ["b"]}),
            ),
            ("/cluster/get_status", "b", json!({"is_initial_node": true})),
        ] {
            let mut left = 1;
            let once = fault.clone();
            table.fault(move |_| {
                left -= 1;
                (left == 0).then(|| once.clone())
            });
            let answer = deployment.ask(route, &cluster, node);
            let told = answer.json();
            for (field, value) in expected.as_object().unwrap() {
                assert_eq!(&told[field], value, "{what}, {route}: {answer:?}");
            }
        }
    }
}
