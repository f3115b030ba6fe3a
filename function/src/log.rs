//! One record for each request, without ids, nodes, secrets, or anything else that came with the request. [`observed`] passes it to
//! whatever logs or counts it; [`logged`] writes it as CloudWatch's embedded metric format, from which CloudWatch makes the metrics of
//! the namespace [`NAMESPACE`] without a call from here.

use std::{io::Write, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    http::{Method, StatusCode},
    middleware::{self, Next},
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use cbbootstrap_protocol::{names::ClusterId, rules::Claimed};

use crate::{problem::Code, store::dynamodb};

/// The namespace of the metrics.
const NAMESPACE: &str = "cbbootstrap";

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The node is the first to claim the cluster.
    Claimed,
    /// The initial node asked again.
    Repeated,
    /// The node learned which one to join.
    Joined,
    /// The node took over an expired claim.
    Takeover,
    Ready,
    Left,
    /// A status.
    Read,
    /// A route that is not about a cluster.
    Served,
    /// The caller made a mistake.
    #[default]
    Refused,
    /// The table throttles or cannot be reached.
    Unavailable,
    /// The service is broken or misconfigured.
    Failed,
}

impl Outcome {
    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Repeated => "repeated",
            Self::Joined => "joined",
            Self::Takeover => "takeover",
            Self::Ready => "ready",
            Self::Left => "left",
            Self::Read => "read",
            Self::Served => "served",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
        }
    }

    /// The outcome of a response that has none.
    fn from_status(status: StatusCode) -> Self {
        match status.as_u16() {
            503 => Self::Unavailable,
            500.. => Self::Failed,
            400.. => Self::Refused,
            _ => Self::Served,
        }
    }
}

impl From<Claimed> for Outcome {
    fn from(claimed: Claimed) -> Self {
        match claimed {
            Claimed::First => Self::Claimed,
            Claimed::Again => Self::Repeated,
            Claimed::Joined => Self::Joined,
            Claimed::Takeover => Self::Takeover,
        }
    }
}

/// A response's extension: a short hash of the cluster's id.
#[derive(Clone, Debug)]
pub struct ClusterDigest(pub String);

impl From<&ClusterId> for ClusterDigest {
    fn from(id: &ClusterId) -> Self {
        Self(id.digest())
    }
}

/// A request's extension: Lambda's id of the invocation.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// A request that was answered.
#[derive(Clone, Debug, Serialize)]
pub struct RequestRecord<'a> {
    /// `other` for methods that no API uses.
    pub method: &'static str,
    /// The route's path in the OpenAPI document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    pub status: u16,
    pub outcome: Outcome,
    /// The problem's code, if the request was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<&'a str>,
    /// The duration, to a thousandth.
    pub milliseconds: f64,
    /// Calls to DynamoDB, including retries.
    #[serde(skip)]
    pub calls: u32,
    /// Lambda's id of the invocation; empty elsewhere.
    #[serde(skip)]
    pub request_id: &'a str,
}

/// The router, with every request passed to this observer after its response is known.
pub fn observed(
    router: Router,
    observe: impl Fn(&RequestRecord<'_>) + Send + Sync + 'static,
) -> Router {
    let observe = Arc::new(observe);
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let observe = Arc::clone(&observe);
        async move {
            let start = Instant::now();
            let method = method_name(request.method());
            let route = request.extensions().get::<MatchedPath>();
            let route = route.map(|route| route.as_str().replace("{*", "{"));
            let id = request.extensions().get::<RequestId>().cloned();
            let (response, calls) = dynamodb::counting_calls(next.run(request)).await;
            let (status, extensions) = (response.status(), response.extensions());
            observe(&RequestRecord {
                method,
                route,
                status: status.as_u16(),
                outcome: extensions.get().copied().unwrap_or_else(|| Outcome::from_status(status)),
                code: extensions.get().map(|Code(code)| *code),
                cluster: extensions.get().map(|ClusterDigest(digest)| digest.as_str()),
                milliseconds: (start.elapsed().as_secs_f64() * 1e6).round() / 1e3,
                calls,
                request_id: id.as_ref().map_or("", |RequestId(id)| id),
            });
            response
        }
    }))
}

/// A caller can send any method: only the usual ones get into logs.
fn method_name(method: &Method) -> &'static str {
    const METHODS: [&str; 7] = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"];
    METHODS.into_iter().find(|known| method.as_str() == *known).unwrap_or("other")
}

/// The router, with a line on stdout for each request. `RUST_LOG` decides about this crate's `info` lines, and these are some.
pub fn logged(router: Router, function: &str) -> Router {
    let function: Arc<str> = function.into();
    observed(router, move |record| {
        if tracing::enabled!(tracing::Level::INFO)
            && let Ok(mut line) = serde_json::to_vec(&EmbeddedMetrics::new(record, &function))
        {
            line.push(b'\n');
            // Nobody reads the error when stdout is closed.
            let _ = std::io::stdout().lock().write_all(&line);
        }
    })
}

/// A line in the embedded metric format. Names in capitals are those of metrics and dimensions. What people read first comes first.
#[derive(Debug, Serialize)]
struct EmbeddedMetrics<'a> {
    level: &'static str,
    method: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    status: u16,
    #[serde(rename = "Outcome")]
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    #[serde(rename = "Milliseconds")]
    milliseconds: f64,
    #[serde(rename = "DynamoDBCalls")]
    calls: u32,
    request_id: &'a str,
    #[serde(rename = "FunctionName")]
    function: &'a str,
    #[serde(rename = "_aws")]
    metadata: Value,
}

impl<'a> EmbeddedMetrics<'a> {
    fn new(record: &'a RequestRecord<'_>, function: &'a str) -> Self {
        let directive = json!({
            "Namespace": NAMESPACE,
            "Dimensions": [["FunctionName", "Outcome"]],
            "Metrics": [
                {"Name": "Milliseconds", "Unit": "Milliseconds"},
                {"Name": "DynamoDBCalls", "Unit": "Count"},
            ],
        });
        Self {
            level: "INFO",
            method: record.method,
            route: record.route.as_deref(),
            status: record.status,
            outcome: record.outcome,
            code: record.code,
            cluster: record.cluster,
            milliseconds: record.milliseconds,
            calls: record.calls,
            request_id: record.request_id,
            function,
            metadata: json!({
                "Timestamp": Timestamp::now().as_millisecond(),
                "CloudWatchMetrics": [directive],
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_in_the_embedded_metric_format() {
        let record = RequestRecord {
            method: "POST",
            route: Some("/cluster".to_owned()),
            status: 200,
            outcome: Claimed::Takeover.into(),
            code: None,
            cluster: Some("0123abcd"),
            milliseconds: 1.234,
            calls: 1,
            request_id: "id",
        };
        let mut written = serde_json::to_value(EmbeddedMetrics::new(&record, "f")).unwrap();
        let timestamp = written["_aws"]["Timestamp"].take();
        assert!(timestamp.as_u64().unwrap() > 1_700_000_000_000, "{timestamp}");
        assert_eq!(
            written,
            json!({
                "_aws": {
                    "Timestamp": null,
                    "CloudWatchMetrics": [{
                        "Namespace": "cbbootstrap",
                        "Dimensions": [["FunctionName", "Outcome"]],
                        "Metrics": [
                            {"Name": "Milliseconds", "Unit": "Milliseconds"},
                            {"Name": "DynamoDBCalls", "Unit": "Count"},
                        ],
                    }],
                },
                "FunctionName": "f", "Outcome": "takeover", "Milliseconds": 1.234, "DynamoDBCalls": 1,
                "level": "INFO", "request_id": "id", "method": "POST", "route": "/cluster", "status": 200,
                "cluster": "0123abcd",
            })
        );
    }

    #[test]
    fn the_status_gives_the_outcome() {
        for (status, outcome) in [
            (200, Outcome::Served),
            (400, Outcome::Refused),
            (403, Outcome::Refused),
            (409, Outcome::Refused),
            (500, Outcome::Failed),
            (503, Outcome::Unavailable),
        ] {
            assert_eq!(Outcome::from_status(StatusCode::from_u16(status).unwrap()), outcome);
        }
    }
}
