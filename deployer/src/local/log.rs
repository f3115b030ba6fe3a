//! One line a request. It never holds an id, a node, a secret, or anything else that came with the request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use cbbootstrap_function::{
    log::{Cluster, Outcome, known, milliseconds},
    problem::Code,
};
use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use super::metrics::Metrics;
use crate::lines::Lines;

/// The format of the request log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people
    #[default]
    Text,
    /// A JSON document a line
    Json,
    /// Nothing
    None,
}

/// Where requests are logged and counted.
#[derive(Clone, Debug)]
pub struct RequestLog {
    format: LogFormat,
    lines: Lines,
    is_on: Arc<AtomicBool>,
    metrics: Metrics,
}

/// A request that was answered.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: Timestamp,
    level: &'static str,
    method: &'static str,
    /// The route's path in the contract; none if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    status: u16,
    outcome: Outcome,
    /// Why the caller was refused: the problem's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// A short hash of the cluster's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    milliseconds: f64,
}

impl RequestLog {
    /// A log in this format. It records requests after [`RequestLog::begin`], and the API's warnings at once.
    pub fn new(format: LogFormat, metrics: Metrics) -> Self {
        let lines = Lines::to_stderr();
        let waiting = lines.clone();
        let warnings = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_target(false)
            .with_writer(move || waiting.clone());
        // A second server in one process has the first one's.
        let _ = match format {
            LogFormat::Json => warnings.json().flatten_event(true).try_init(),
            _ => warnings.try_init(),
        };
        Self { format, lines, is_on: Arc::default(), metrics }
    }

    /// Logs a message about the server.
    pub fn say(&self, message: &str) {
        let line = match self.format {
            LogFormat::Json => {
                let (time, level) = (Timestamp::now(), "INFO");
                serde_json::json!({"time": time, "level": level, "message": message}).to_string()
            }
            _ => message.to_owned(),
        };
        self.lines.push(format!("{line}\n").as_bytes());
    }

    /// Waits until all is written, but not for long.
    pub fn flush(&self) {
        self.lines.flush();
    }

    /// Begins to log requests.
    pub fn begin(&self) {
        let is_on = self.format != LogFormat::None;
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    fn write(&self, line: &Line<'_>) {
        let mut text = match self.format {
            LogFormat::Json => serde_json::to_string(line).unwrap_or_default(),
            _ => line.to_string(),
        };
        text.push('\n');
        self.lines.push(text.as_bytes());
    }
}

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { method, status, milliseconds, .. } = self;
        let route = self.route.unwrap_or("(no such route)");
        let outcome = self.code.unwrap_or_else(|| self.outcome.as_str());
        write!(f, "{status} {method} {route}: {outcome}")?;
        if let Some(cluster) = self.cluster {
            write!(f, " {cluster}")?;
        }
        write!(f, " ({milliseconds:.1} ms)")
    }
}

/// Answers the request, counts it and logs it.
pub async fn log(State(log): State<RequestLog>, request: Request, next: Next) -> Response {
    let since = Instant::now();
    let method = known(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let took = since.elapsed();
    let about = response.extensions();
    let status = response.status();
    let outcome = about.get().copied().unwrap_or_else(|| Outcome::of(status));
    log.metrics.count(outcome, status.as_u16(), took);
    if log.is_on.load(Ordering::Relaxed) {
        let route = route.map(|route| route.as_str().replace("{*", "{"));
        log.write(&Line {
            time: Timestamp::now(),
            level: "INFO",
            method,
            route: route.as_deref(),
            status: status.as_u16(),
            outcome,
            code: about.get().map(|Code(code)| *code),
            cluster: about.get().map(|Cluster(digest)| digest.as_str()),
            milliseconds: milliseconds(took),
        });
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_route_and_the_outcome() {
        let mut line = Line {
            time: Timestamp::UNIX_EPOCH,
            level: "INFO",
            method: "POST",
            route: Some("/cluster"),
            status: 200,
            outcome: Outcome::Joined,
            code: None,
            cluster: Some("0123abcd"),
            milliseconds: 2.345,
        };
        assert_eq!(line.to_string(), "200 POST /cluster: joined 0123abcd (2.3 ms)");
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"time":"1970-01-01T00:00:00Z","level":"INFO","method":"POST","route":"/cluster","status":200,"outcome":"joined","cluster":"0123abcd","milliseconds":2.345}"#
        );
        (line.route, line.status, line.code, line.cluster) =
            (None, 404, Some("route_not_found"), None);
        assert_eq!(line.to_string(), "404 POST (no such route): route_not_found (2.3 ms)");
    }
}
