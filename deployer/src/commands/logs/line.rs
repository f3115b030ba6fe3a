//! Lines of the function's log, as people and programs read them.

use std::fmt::{Display, Formatter};

use cbbootstrap_cli::{color::by_http_status, text::escape_hidden};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Lambda's lines about an invocation, as text; only those that report an error matter to people.
const PLATFORM: [&str; 4] =
    ["START RequestId: ", "END RequestId: ", "REPORT RequestId: ", "INIT_START "];

/// The start of the types of the same lines as JSON.
const PLATFORM_TYPE: &str = "platform.";

/// Fields of `tracing` and of Lambda that a line shows elsewhere, or not at all.
const KNOWN_FIELDS: [&str; 5] = ["timestamp", "time", "level", "message", "target"];

/// A line and when it was logged.
#[derive(Debug, Serialize)]
pub struct Line {
    time: Timestamp,
    #[serde(flatten)]
    content: Content,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Content {
    Request(Request),
    /// A message of the function.
    Event(Map<String, Value>),
    /// A message of Lambda, or of a crash.
    Message {
        message: String,
    },
}

/// The function's line about a request: `EmbeddedMetrics` in its `log.rs`.
#[derive(Debug, Deserialize, Serialize)]
struct Request {
    method: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    status: u16,
    #[serde(rename(deserialize = "Outcome"))]
    outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(rename(deserialize = "Milliseconds"))]
    milliseconds: f64,
    #[serde(rename(deserialize = "DynamoDBCalls"))]
    dynamodb_calls: u32,
    request_id: String,
}

/// The line as it was logged, after its time in milliseconds since 1970.
pub fn raw(time: i64, message: &str) -> String {
    format!("{:.3}  {}", timestamp(time), escape_hidden(message.trim()))
}

fn timestamp(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or_default()
}

/// Whether a line only tells that an invocation began or ended.
pub fn is_routine(message: &str) -> bool {
    if PLATFORM.iter().any(|start| message.starts_with(start)) {
        return !message.contains("\tStatus: ");
    }
    let line: Value = serde_json::from_str(message).unwrap_or_default();
    let is_platform = line["type"].as_str().is_some_and(|kind| kind.starts_with(PLATFORM_TYPE));
    is_platform && line["record"]["status"].as_str().is_none_or(|status| status == "success")
}

impl Line {
    pub fn parse(time: i64, message: &str) -> Self {
        let message = message.trim();
        let content = serde_json::from_str(message)
            .unwrap_or_else(|_| Content::Message { message: message.to_owned() });
        Self { time: timestamp(time), content }
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let text = escape_hidden(&self.content.to_string());
        write!(f, "{:.3}  ", self.time)?;
        match &self.content {
            Content::Request(Request { status, .. }) => f.write_str(&by_http_status(*status, text)),
            _ => f.write_str(&text),
        }
    }
}

impl Display for Content {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request(request) => request.fmt(f),
            Self::Message { message } => f.write_str(message),
            Self::Event(fields) => {
                let texts = ["level", "message"].map(|name| fields.get(name)?.as_str());
                let mut parts: Vec<_> = texts.into_iter().flatten().map(str::to_owned).collect();
                let others =
                    fields.iter().filter(|(name, _)| !KNOWN_FIELDS.contains(&name.as_str()));
                parts.extend(others.map(|(name, value)| format!("{name}={value}")));
                f.write_str(&parts.join(" "))
            }
        }
    }
}

impl Display for Request {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { method, status, outcome, milliseconds, .. } = self;
        let route = self.route.as_deref().unwrap_or("(no such route)");
        let outcome = self.code.as_ref().unwrap_or(outcome);
        write!(f, "{status} {method:4} {route:21} {outcome:22} {milliseconds:7.1} ms")?;
        self.cluster.iter().try_for_each(|cluster| write!(f, "  {cluster}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: i64 = 1_795_490_396_123;

    const REQUEST: &str = r#"{"method":"POST","route":"/cluster","status":200,"Outcome":"joined","cluster":"0123abcd","Milliseconds":2.345,"DynamoDBCalls":1,"request_id":"id","FunctionName":"f","_aws":{}}"#;

    const TIMEOUT: &str =
        r#"{"time":"2026","type":"platform.report","record":{"requestId":"1","status":"timeout"}}"#;

    #[test]
    fn a_request_is_one_readable_line() {
        let refused = r#"{"method":"POST","status":404,"Outcome":"refused","code":"route_not_found","Milliseconds":0.1,"DynamoDBCalls":0,"request_id":"id"}"#;
        let event = r#"{"timestamp":"2026","level":"ERROR","message":"no table","target":"t","attempts":3}"#;
        let request = |status, text| by_http_status(status, text);
        for (message, expected) in [
            (
                REQUEST,
                request(
                    200,
                    "200 POST /cluster              joined                     2.3 ms  0123abcd",
                ),
            ),
            (
                refused,
                request(404, "404 POST (no such route)       route_not_found            0.1 ms"),
            ),
            (event, "ERROR no table attempts=3".to_owned()),
            (
                TIMEOUT,
                r#"record={"requestId":"1","status":"timeout"} type="platform.report""#.to_owned(),
            ),
            ("Task timed out\n", "Task timed out".to_owned()),
            ("[1, 2]", "[1, 2]".to_owned()),
            ("two\n\u{1b}[31mlines", r"two\n\u{1b}[31mlines".to_owned()),
        ] {
            let line = Line::parse(TIME, message).to_string();
            assert_eq!(line, format!("2026-11-24T03:19:56.123Z  {expected}"), "{message:?}");
        }
    }

    #[test]
    fn a_line_is_a_json_object() {
        for (message, expected) in [
            (
                REQUEST,
                r#"{"time":"2026-11-24T03:19:56.123Z","method":"POST","route":"/cluster","status":200,"outcome":"joined","cluster":"0123abcd","milliseconds":2.345,"dynamodb_calls":1,"request_id":"id"}"#,
            ),
            (
                r#"{"level":"ERROR","message":"no table"}"#,
                r#"{"time":"2026-11-24T03:19:56.123Z","level":"ERROR","message":"no table"}"#,
            ),
            (
                "Task timed out\n",
                r#"{"time":"2026-11-24T03:19:56.123Z","message":"Task timed out"}"#,
            ),
        ] {
            let line = Line::parse(TIME, message);
            assert_eq!(serde_json::to_string(&line).unwrap(), expected, "{message}");
        }
    }

    #[test]
    fn only_platform_lines_without_an_error_are_routine() {
        for (message, expected) in [
            ("START RequestId: 1 Version: $LATEST\n", true),
            ("REPORT RequestId: 1\tDuration: 2 ms\t\n", true),
            ("REPORT RequestId: 1\tDuration: 3000 ms\tStatus: timeout\n", false),
            (r#"{"time":"2026","type":"platform.start","record":{"requestId":"1"}}"#, true),
            (&TIMEOUT.replace("timeout", "success"), true),
            (TIMEOUT, false),
            ("RequestId: 1 Error: Runtime exited", false),
            (REQUEST, false),
        ] {
            assert_eq!(is_routine(message), expected, "{message}");
        }
    }

    #[test]
    fn a_raw_line_has_its_time() {
        for (message, expected) in [
            ("REPORT\tDuration: 2 ms\t\n", "REPORT\tDuration: 2 ms"),
            ("two\nlines", r"two\nlines"),
            ("\u{1b}]0;title\u{7}red", r"\u{1b}]0;title\u{7}red"),
            ("größe \u{9b}31m", r"größe \u{9b}31m"),
            (r#"{"a\n":1}"#, r#"{"a\n":1}"#),
            ("", ""),
        ] {
            let expected = format!("2026-11-24T03:19:56.123Z  {expected}");
            assert_eq!(raw(TIME, message), expected, "{message:?}");
        }
    }
}
