//! The error in an answer of a Couchbase Server.
//!
//! Messages differ between the server's versions, so only statuses decide what follows.

use serde_json::Value;
use ureq::http::StatusCode;

use crate::http::CallError;

/// The text of a successful answer of a server at this URL.
pub(super) fn check(url: &str, status: StatusCode, text: String) -> Result<String, CallError> {
    let plain = || format!("{url} returned status {status}");
    Err(match status {
        status if status.is_success() => return Ok(text),
        StatusCode::UNAUTHORIZED => CallError::Unauthorized,
        status if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE => {
            CallError::Failing(plain())
        }
        status => {
            let message = message_in(&text);
            // Another program's page, or an empty answer.
            let is_foreign = message.is_empty() || message.trim_start().starts_with('<');
            CallError::Refused(
                status,
                if is_foreign { plain() } else { format!("{message} ({url})") },
            )
        }
    })
}

/// The messages in a refusal, in any of its forms.
pub(super) fn message_in(text: &str) -> String {
    fn collect(value: &Value, messages: &mut Vec<String>) {
        match value {
            Value::String(text) => messages.push(text.clone()),
            Value::Array(values) => values.iter().for_each(|value| collect(value, messages)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        // Memory statistics.
                        _ if name == "summaries" => {}
                        Value::String(text) if name != "_" => {
                            messages.push(format!("{name}: {text}"));
                        }
                        Value::Number(number) => messages.push(format!("{name}: {number}")),
                        value => collect(value, messages),
                    }
                }
            }
            _ => {}
        }
    }
    let mut messages = Vec::new();
    match serde_json::from_str(text) {
        Ok(value) => collect(&value, &mut messages),
        Err(_) => messages.push(text.chars().take(200).collect()),
    }
    messages.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forms in the recordings.
    #[test]
    fn refusal_keeps_the_message_of_the_server() {
        for (body, expected) in [
            (
                r#"["Prepare join failed. Node is already part of cluster."]"#,
                "Prepare join failed. Node is already part of cluster.",
            ),
            (
                r#"{"errors":{"name":"Bucket with given name already exists"},"summaries":{"ramSummary":{"total":5}}}"#,
                "name: Bucket with given name already exists",
            ),
            (r#"{"errors":{"_":"too much"}}"#, "too much"),
            (
                r#"{"_":"Cannot create buckets during rebalance"}"#,
                "Cannot create buckets during rebalance",
            ),
            (r#"{"mismatch":1}"#, "mismatch: 1"),
            (r#""unknown pool""#, "unknown pool"),
            ("Not found.", "Not found."),
            ("", ""),
        ] {
            assert_eq!(message_in(body), expected, "{body}");
        }
    }
}
