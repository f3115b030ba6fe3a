//! Faults of calls, and their responses in each service's format.

use std::{fmt::Write, time::Duration};

use fastrand::Rng;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::json;

use super::{
    Answer,
    call::{Call, Protocol},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Carried out later, unless the caller has given up by then.
    Delay(Duration),
    /// Carried out and answered, and carried out once more after this time.
    Duplicate(Duration),
    /// Not carried out: too many calls.
    Throttle,
    /// Not carried out: 500.
    InternalError,
    /// Not carried out: 503.
    Unavailable,
    /// Not carried out: the session token has expired.
    ExpireToken,
    /// Not carried out: an error of the test's choice. See [`Fault::denied`].
    Refuse {
        /// The error's code, as the service spells it.
        code: String,
        message: String,
    },
    /// Not carried out: answered with this result, as XML for the query protocol, and as it is for others.
    Answer(String),
    /// Carried out, and the first text replaced by the second wherever the answer contains it.
    Replace(String, String),
    /// Not carried out, and the connection closed.
    DropRequest,
    /// Carried out, and the connection closed without an answer.
    DropAnswer,
    /// Carried out, and the process group of the proxy's target killed before there is an answer.
    Kill,
}

/// A service's error: its status, code and message.
struct Refusal<'a> {
    status: u16,
    code: &'a str,
    message: &'a str,
}

impl Fault {
    /// A random fault of a network or of an overloaded service.
    pub fn at_random(random: &mut Rng) -> Self {
        let time = Duration::from_millis(random.u64(..100));
        let faults = [
            Self::Delay(time),
            Self::Duplicate(time),
            Self::Throttle,
            Self::InternalError,
            Self::Unavailable,
            Self::DropRequest,
            Self::DropAnswer,
        ];
        random.choice(faults).expect("there are some")
    }

    /// A refusal with this code and message.
    pub fn refuse(code: &str, message: &str) -> Self {
        Self::Refuse { code: code.to_owned(), message: message.to_owned() }
    }

    /// A refusal for a missing permission.
    pub fn denied(call: &Call) -> Self {
        let code = match call.protocol {
            Protocol::Query | Protocol::S3 => "AccessDenied",
            Protocol::Json | Protocol::Rest => "AccessDeniedException",
        };
        let message = format!(
            "User: arn:aws:iam::000000000000:user/deployer is not authorized to perform: {} because no identity-based \
             policy allows the {} action",
            call.name, call.name
        );
        Self::refuse(code, &message)
    }

    /// The service's response, if the fault has one.
    pub(super) fn answer(&self, call: &Call) -> Option<Answer> {
        use Protocol as P;
        if let Self::Answer(result) = self {
            return Some(success(call, result));
        }
        let (status, code, message) = match (self, call.protocol) {
            (Self::Throttle, P::Query) => (400, "Throttling", "Rate exceeded"),
            (Self::Throttle, P::Json) => (400, "ThrottlingException", "Rate exceeded"),
            (Self::Throttle, P::Rest) => (429, "TooManyRequestsException", "Rate Exceeded."),
            (Self::Throttle, P::S3) => (503, "SlowDown", "Please reduce your request rate."),
            (Self::InternalError, protocol) => {
                let code = match protocol {
                    P::Query => "InternalFailure",
                    P::Json => "InternalServerError",
                    P::Rest => "ServiceException",
                    P::S3 => "InternalError",
                };
                (500, code, "We encountered an internal error. Please try again.")
            }
            (Self::Unavailable, protocol) => {
                let code = match protocol {
                    P::Query | P::S3 => "ServiceUnavailable",
                    P::Json | P::Rest => "ServiceUnavailableException",
                };
                (503, code, "Service is unable to handle request.")
            }
            (Self::ExpireToken, protocol) => {
                let (status, code) = match protocol {
                    P::Query => (403, "ExpiredToken"),
                    P::Json => (400, "ExpiredTokenException"),
                    P::Rest => (403, "ExpiredTokenException"),
                    P::S3 => (400, "ExpiredToken"),
                };
                (status, code, "The security token included in the request is expired")
            }
            (Self::Refuse { code, message }, protocol) => {
                let denied = code.starts_with("AccessDenied");
                let status = if denied && protocol != P::Json { 403 } else { 400 };
                (status, code.as_str(), message.as_str())
            }
            (
                Self::Delay(_)
                | Self::Duplicate(_)
                | Self::Answer(_)
                | Self::Replace(..)
                | Self::DropRequest
                | Self::DropAnswer
                | Self::Kill,
                _,
            ) => return None,
        };
        let refusal = Refusal { status, code, message };
        Some(refusal.of(call))
    }
}

impl Refusal<'_> {
    /// In the format of the call's protocol.
    fn of(&self, call: &Call) -> Answer {
        let Self { status, code, message } = *self;
        let (content_type, body) = match call.protocol {
            Protocol::Query => {
                let sender = if status < 500 { "Sender" } else { "Receiver" };
                let error = [("Type", sender), ("Code", code), ("Message", message)];
                let body = format!(
                    "<ErrorResponse xmlns=\"{}\"><Error>{}</Error><RequestId>{REQUEST_ID}</RequestId></ErrorResponse>",
                    namespace(call.service()),
                    elements(error),
                );
                ("text/xml", body)
            }
            Protocol::S3 => {
                let error = [("Code", code), ("Message", message), ("RequestId", REQUEST_ID)];
                ("application/xml", format!("{XML}<Error>{}</Error>", elements(error)))
            }
            Protocol::Json => (
                "application/x-amz-json-1.0",
                json!({"__type": code, "message": message}).to_string(),
            ),
            Protocol::Rest => (
                "application/json",
                json!({"Type": "User", "message": message, "Message": message}).to_string(),
            ),
        };
        let mut answer = Response::new(if call.is_head { Bytes::new() } else { body.into() });
        *answer.status_mut() = StatusCode::from_u16(status).expect("it is a status");
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert("x-amzn-requestid", HeaderValue::from_static(REQUEST_ID));
        if call.protocol == Protocol::Rest {
            let code = HeaderValue::from_str(code).expect("a code is ASCII");
            headers.insert("x-amzn-errortype", code);
        }
        answer
    }
}

const XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>"#;
const REQUEST_ID: &str = "00000000-0000-4000-8000-000000000000";

/// A response with this result.
pub(super) fn success(call: &Call, result: &str) -> Answer {
    if call.protocol != Protocol::Query {
        return Response::new(Bytes::from(result.to_owned()));
    }
    let operation = call.operation();
    let body = format!(
        "{XML}<{operation}Response xmlns=\"{}\"><{operation}Result>{result}</{operation}Result>\
         <ResponseMetadata><RequestId>{REQUEST_ID}</RequestId></ResponseMetadata></{operation}Response>",
        namespace(call.service()),
    );
    let mut answer = Response::new(body.into());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    answer
}

/// Elements with text in them, in this order.
pub(super) fn elements<'a>(elements: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut xml = String::new();
    for (name, text) in elements {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = write!(xml, "<{name}>{text}</{name}>");
    }
    xml
}

fn namespace(service: &str) -> &'static str {
    match service {
        "sts" => "https://sts.amazonaws.com/doc/2011-06-15/",
        _ => "http://cloudformation.amazonaws.com/doc/2010-05-15/",
    }
}
