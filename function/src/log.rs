//! One record for each request, without ids, nodes, secrets, or anything else that came with the request. [`observed`] passes it to an
//! observer, which logs or counts it; [`logged`] prints it in CloudWatch's embedded metric format, from which CloudWatch makes the
//! metrics.

use std::{io::Write, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    http::{Method, StatusCode},
    middleware::{self, Next},
};
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::json;

use cbbootstrap_protocol::rules::Claimed;

use crate::{problem::Code, store::dynamodb};

/// A response's extension: what became of the request, for logs and metrics.
#[derive(Clone, Copy, Debug)]
pub struct Outcome(pub &'static str);

/// The outcome of a response without an [`Outcome`].
fn default_outcome(status: StatusCode) -> &'static str {
    match status.as_u16() {
        503 => "unavailable",
        500.. => "failed",
        400.. => "refused",
        _ => "served",
    }
}

impl From<Claimed> for Outcome {
    fn from(claimed: Claimed) -> Self {
        Self(match claimed {
            Claimed::First => "claimed",
            Claimed::Again => "repeated",
            Claimed::Joined => "joined",
            Claimed::Takeover => "takeover",
        })
    }
}

/// A response's extension: a short hash of the cluster ID.
#[derive(Clone, Debug)]
pub struct ClusterDigest(pub String);

/// A request's extension: API Gateway's id of the request, as in its access log, or else Lambda's of the invocation.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

#[derive(Clone, Debug, Serialize)]
pub struct RequestRecord<'a> {
    /// `other` for uncommon methods.
    pub method: &'static str,
    /// The route's path in the OpenAPI document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    pub status: u16,
    pub outcome: &'static str,
    /// The problem's code, if the request was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<&'a str>,
    pub milliseconds: f64,
    /// Calls to DynamoDB, including retries.
    #[serde(skip)]
    pub calls: u32,
    /// The [`RequestId`]; empty outside of Lambda.
    #[serde(skip)]
    pub request_id: &'a str,
}

/// The router, which passes every answered request to this observer.
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
                outcome: extensions
                    .get()
                    .map_or_else(|| default_outcome(status), |Outcome(name)| name),
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

/// Callers can send any method, so only known ones are logged.
fn method_name(method: &Method) -> &'static str {
    const METHODS: [&str; 7] = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"];
    METHODS.into_iter().find(|known| method.as_str() == *known).unwrap_or("other")
}

/// The router, with a line on stdout for each request at log level `info`.
pub fn logged(router: Router, function: &str) -> Router {
    let function: Arc<str> = function.into();
    observed(router, move |record| {
        if tracing::enabled!(tracing::Level::INFO)
            && let Ok(mut line) =
                serde_json::to_vec(&EmbeddedMetrics { record, function: &function })
        {
            line.push(b'\n');
            // If stdout is closed, there is nowhere to report it.
            let _ = std::io::stdout().lock().write_all(&line);
        }
    })
}

/// A line in the embedded metric format. Capitalized names are metrics and dimensions. Each byte costs money, so metrics have no units.
struct EmbeddedMetrics<'a> {
    record: &'a RequestRecord<'a>,
    function: &'a str,
}

impl Serialize for EmbeddedMetrics<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.record;
        // In the order in which people read it.
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("method", record.method)?;
        if let Some(route) = &record.route {
            map.serialize_entry("route", route)?;
        }
        map.serialize_entry("status", &record.status)?;
        map.serialize_entry("Outcome", record.outcome)?;
        if let Some(code) = record.code {
            map.serialize_entry("code", code)?;
        }
        if let Some(cluster) = record.cluster {
            map.serialize_entry("cluster", cluster)?;
        }
        map.serialize_entry("Milliseconds", &record.milliseconds)?;
        map.serialize_entry("DynamoDBCalls", &record.calls)?;
        map.serialize_entry("request_id", record.request_id)?;
        map.serialize_entry("FunctionName", self.function)?;
        let metadata = json!({
            "Timestamp": Timestamp::now().as_millisecond(),
            "CloudWatchMetrics": [{
                "Namespace": "cbbootstrap",
                "Dimensions": [["FunctionName", "Outcome"]],
                "Metrics": [
                    {"Name": "Milliseconds"},
                    {"Name": "DynamoDBCalls"},
                ],
            }],
        });
        map.serialize_entry("_aws", &metadata)?;
        map.end()
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
            outcome: Outcome::from(Claimed::Takeover).0,
            code: None,
            cluster: Some("0123abcd"),
            milliseconds: 1.234,
            calls: 1,
            request_id: "id",
        };
        let mut written =
            serde_json::to_value(EmbeddedMetrics { record: &record, function: "f" }).unwrap();
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
                            {"Name": "Milliseconds"},
                            {"Name": "DynamoDBCalls"},
                        ],
                    }],
                },
                "FunctionName": "f", "Outcome": "takeover", "Milliseconds": 1.234, "DynamoDBCalls": 1,
                "request_id": "id", "method": "POST", "route": "/cluster", "status": 200,
                "cluster": "0123abcd",
            })
        );
    }

    #[test]
    fn the_status_gives_the_outcome() {
        for (status, outcome) in [
            (200, "served"),
            (400, "refused"),
            (403, "refused"),
            (409, "refused"),
            (500, "failed"),
            (503, "unavailable"),
        ] {
            assert_eq!(default_outcome(StatusCode::from_u16(status).unwrap()), outcome);
        }
    }
}
