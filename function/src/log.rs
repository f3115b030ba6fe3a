//! One line a request, for people, for queries and for metrics: JSON in CloudWatch's embedded metric format, from which
//! CloudWatch makes the metrics of the namespace [`NAMESPACE`] without a call from here.
//!
//! A line never holds an id, a node, a secret or anything else that came with a request.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode},
    middleware::{self, Next},
    response::Response,
};
use serde::Serialize;

use cbbootstrap_protocol::{names::ClusterId, rules::Claimed};

use crate::{problem::Code, store::dynamodb};

/// The metrics' namespace.
pub const NAMESPACE: &str = "cbbootstrap";

/// What a request came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The node is the first to claim the cluster.
    Claimed,
    /// The initial node asked again.
    Repeated,
    /// The node learned whom to join.
    Joined,
    /// A lapsed claim was taken over.
    Takeover,
    /// A node reported ready.
    Ready,
    /// A node left.
    Left,
    /// A status.
    Read,
    /// Something that is no cluster's.
    Served,
    /// The caller is wrong.
    #[default]
    Refused,
    /// The table throttles or is away.
    Unavailable,
    /// The service is broken or set up wrongly.
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

    /// Of an answer that says nothing more.
    pub fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            503 => Self::Unavailable,
            500.. => Self::Failed,
            400.. => Self::Refused,
            _ => Self::Served,
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
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

/// A response's extension: which cluster the request was about, in a form that may be logged.
#[derive(Clone, Debug)]
pub struct Cluster(pub String);

impl Cluster {
    /// The cluster of this id.
    pub fn of(id: &ClusterId) -> Self {
        Self(id.digest())
    }
}

/// A request's extension: Lambda's id of the invocation.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Has a line logged of each request, if the log takes lines of this level, under this name of the function.
pub fn logged(router: Router, function: &str) -> Router {
    router.layer(middleware::from_fn_with_state(Arc::<str>::from(function), log))
}

async fn log(State(function): State<Arc<str>>, request: Request, next: Next) -> Response {
    if !tracing::enabled!(tracing::Level::INFO) {
        return next.run(request).await;
    }
    let since = Instant::now();
    let method = request.method().clone();
    let extensions = request.extensions();
    let route = extensions.get::<MatchedPath>().cloned();
    let id = extensions.get::<RequestId>().cloned();
    let (response, calls) = dynamodb::counting_calls(next.run(request)).await;

    let mut line = Line::new(&function, &method, response.status(), since.elapsed());
    let said = response.extensions();
    line.calls = calls;
    line.request_id = id.as_ref().map_or("", |RequestId(id)| id);
    let route = route.map(|route| route.as_str().replace("{*", "{"));
    line.route = route.as_deref();
    line.outcome = said.get().copied().unwrap_or(line.outcome);
    line.cluster = said.get().map(|Cluster(digest)| digest.as_str());
    line.code = said.get().map(|Code(code)| *code);
    line.write();
    response
}

/// The line. What people look for comes first.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// In capitals, as the other lines have it.
    level: &'static str,
    /// The method; of those that nobody uses, only that it is another.
    method: &'static str,
    /// The route's path in the contract; none if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    /// The answer's HTTP status.
    status: u16,
    /// A dimension of the metrics.
    #[serde(rename = "Outcome")]
    outcome: Outcome,
    /// Why the caller was refused: the problem's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    /// A short hash of the cluster's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    /// How long the answer took, of which nothing is known before the function has the request. A metric.
    #[serde(rename = "Milliseconds")]
    milliseconds: f64,
    /// Calls to the table, repeated ones among them. A metric.
    #[serde(rename = "DynamoDBCalls")]
    calls: u32,
    /// Lambda's id of the invocation.
    request_id: &'a str,
    /// The function's name in Lambda, a dimension, too.
    #[serde(rename = "FunctionName")]
    function: &'a str,
    #[serde(rename = "_aws")]
    metadata: Metadata,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    /// Milliseconds since 1970.
    timestamp: u64,
    cloud_watch_metrics: [Directive; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Directive {
    namespace: &'static str,
    dimensions: [[&'static str; 2]; 1],
    metrics: [Metric; 2],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metric {
    name: &'static str,
    unit: &'static str,
}

impl<'a> Line<'a> {
    /// A line of an answer with this status that took so long; what else there is to say is filled in.
    fn new(function: &'a str, method: &Method, status: StatusCode, took: Duration) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let timestamp = since_1970.unwrap_or_default().as_millis();
        let metric = |name, unit| Metric { name, unit };
        Self {
            metadata: Metadata {
                timestamp: u64::try_from(timestamp).unwrap_or_default(),
                cloud_watch_metrics: [Directive {
                    namespace: NAMESPACE,
                    dimensions: [["FunctionName", "Outcome"]],
                    metrics: [
                        metric("Milliseconds", "Milliseconds"),
                        metric("DynamoDBCalls", "Count"),
                    ],
                }],
            },
            function,
            outcome: Outcome::of(status),
            milliseconds: milliseconds(took),
            calls: 0,
            level: "INFO",
            request_id: "",
            method: known(method),
            route: None,
            status: status.as_u16(),
            cluster: None,
            code: None,
        }
    }

    /// Writes it to stdout, in one piece, where Lambda takes it for the log.
    fn write(&self) {
        if let Ok(mut line) = serde_json::to_vec(self) {
            line.push(b'\n');
            // Nobody is left to tell when stdout is gone.
            let _ = std::io::stdout().lock().write_all(&line);
        }
    }
}

/// The milliseconds of a time, to a thousandth.
pub fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

/// The method's name, or `other`: a name can be whatever the caller wants.
pub fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_is_in_the_embedded_metric_format() {
        let took = Duration::from_micros(1234);
        let mut line = Line::new("f", &Method::POST, StatusCode::OK, took);
        line.outcome = Claimed::Takeover.into();
        line.route = Some("/cluster");
        line.cluster = Some("0123abcd");
        line.request_id = "id";
        line.calls = 1;
        let mut written = serde_json::to_value(&line).unwrap();
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
    fn a_status_has_its_outcome() {
        for (status, outcome) in [
            (200, Outcome::Served),
            (400, Outcome::Refused),
            (403, Outcome::Refused),
            (409, Outcome::Refused),
            (500, Outcome::Failed),
            (503, Outcome::Unavailable),
        ] {
            assert_eq!(Outcome::of(StatusCode::from_u16(status).unwrap()), outcome);
        }
    }
}
