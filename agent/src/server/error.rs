//! Why a call to a Couchbase Server failed.
//!
//! Messages differ between the server's versions, so only statuses decide what follows. An error never contains the password or
//! a form that holds it.

use serde_json::Value;
use thiserror::Error;
use ureq::http::StatusCode;

use crate::http::NoAnswer;

#[derive(Debug, Error)]
pub enum Error {
    /// There was no answer, or it broke off.
    #[error("{0}")]
    Unreachable(String),
    /// The server accepted the connection and did not answer in time, or answered that it fails.
    #[error("{0}")]
    Failing(String),
    /// Its certificate is not trusted, or nothing vouches for it.
    #[error("{0}")]
    Untrusted(String),
    #[error("it has another user name or password")]
    Unauthorized,
    /// It refused with this status and message.
    #[error("{1}")]
    Refused(StatusCode, String),
    /// Its answer is not Couchbase Server's.
    #[error("{0}")]
    Unexpected(String),
}

impl Error {
    /// The error in an answer of a server at this URL; `None` if the answer is a success.
    pub(super) fn in_answer(url: &str, status: StatusCode, text: &str) -> Option<Self> {
        let plain = || format!("{url} answers with status {status}");
        if status.is_success() {
            return None;
        }
        Some(match status {
            StatusCode::UNAUTHORIZED => Self::Unauthorized,
            status if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE => {
                Self::Failing(plain())
            }
            status => {
                let message = message_in(text);
                // Another program's page, or nothing at all.
                let is_foreign = message.is_empty() || message.trim_start().starts_with('<');
                Self::Refused(status, if is_foreign { plain() } else { message })
            }
        })
    }

    /// Whether the server will refuse the same call again.
    pub fn is_permanent(&self) -> bool {
        const TRANSIENT: [StatusCode; 4] = [
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::CONFLICT,
            StatusCode::LOCKED,
            StatusCode::TOO_MANY_REQUESTS,
        ];
        matches!(self, Self::Refused(status, _) if status.is_client_error() && !TRANSIENT.contains(status))
    }
}

impl From<NoAnswer> for Error {
    fn from(error: NoAnswer) -> Self {
        match error {
            NoAnswer::Unreachable(why) => Self::Unreachable(why),
            NoAnswer::Late(why) => Self::Failing(why),
            NoAnswer::UntrustedCertificate(why) => Self::Untrusted(why),
        }
    }
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
                        Value::Number(_) => messages.push(name.clone()),
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
            (r#"{"mismatch":1}"#, "mismatch"),
            (r#""unknown pool""#, "unknown pool"),
            ("Not found.", "Not found."),
            ("", ""),
        ] {
            assert_eq!(message_in(body), expected, "{body}");
        }
    }
}
