//! What API Gateway hands to Lambda, to an HTTP request; and the answer back. HTTP APIs (payload 2.0) and REST APIs
//! (1.0) alike.
//!
//! `lambda_http` does this too, and panics where a path or header that anyone can send makes no valid URI. Nothing here
//! can: an event becomes a request or an error.

use std::collections::HashMap;

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri},
    response::IntoResponse,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tower::ServiceExt;

use crate::{log::RequestId, problem::Problem};

/// An invocation through API Gateway: the fields of both payloads that make a request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// 2.0 only.
    raw_path: Option<String>,
    /// 1.0 only.
    path: Option<String>,
    /// 1.0 only.
    http_method: Option<String>,
    #[serde(default)]
    request_context: Context,
    headers: Option<HashMap<String, Option<String>>>,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Context {
    stage: Option<String>,
    /// 2.0 only.
    http: Option<ContextHttp>,
    /// 1.0 only: the path as it was sent, stage and all.
    path: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ContextHttp {
    method: String,
}

/// The answer, in the form that both payloads understand.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    status_code: u16,
    headers: HashMap<String, String>,
    body: String,
    is_base64_encoded: bool,
}

/// Why an event is no request. It was not made by API Gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It names no method and path, or holds something that no event does.
    #[error("the event is no HTTP request: call the function through its API")]
    NotHttp,
    /// Its body says that it is base64, and is not.
    #[error("the event's body is not base64")]
    NotBase64,
    /// Its method is no HTTP method.
    #[error("the event's method is not an HTTP method")]
    BadMethod,
}

/// The answer to an invocation, whatever came.
pub async fn respond(router: Router, event: &[u8], request_id: &str) -> Answer {
    let request = serde_json::from_slice::<Event>(event)
        .map_err(|_| Error::NotHttp)
        .and_then(Event::into_request);
    let response = match request {
        Ok(mut request) => {
            let id = RequestId(request_id.to_owned());
            request.extensions_mut().insert(id);
            router.oneshot(request).await.into_response()
        }
        Err(error) => {
            tracing::warn!(%error, "an invocation that is no request");
            Problem::InvalidRequest(error).into_response()
        }
    };
    match Answer::read(response).await {
        Ok(answer) => answer,
        // Our responses are in memory.
        Err(error) => {
            tracing::error!(%error, "a response could not be read");
            Answer::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                &[].into_iter().collect(),
                Bytes::new(),
            )
        }
    }
}

impl Event {
    /// The request that the event stands for. Headers that HTTP does not allow are left out.
    pub fn into_request(self) -> Result<Request<Body>, Error> {
        let method = self
            .request_context
            .http
            .map(|http| http.method)
            .or(self.http_method)
            .ok_or(Error::NotHttp)?;
        let stage = self.request_context.stage.as_deref();
        let path = match (self.raw_path, self.path) {
            (Some(path), _) => without_stage(&path, stage).to_owned(),
            // Under the API's own name the path has lost its stage already; under a domain with a base path of the
            // stage's name it has not.
            (None, Some(path)) => match (&self.request_context.path, stage) {
                (Some(whole), Some(stage)) if *whole == format!("/{stage}{path}") => path,
                _ => without_stage(&path, stage).to_owned(),
            },
            (None, None) => return Err(Error::NotHttp),
        };
        let body = self.body.unwrap_or_default();
        let body = if self.is_base64_encoded {
            BASE64_STANDARD.decode(body).map_err(|_| Error::NotBase64)?
        } else {
            body.into_bytes()
        };

        let mut request = Request::new(Body::from(body));
        *request.method_mut() =
            Method::from_bytes(method.as_bytes()).map_err(|_| Error::BadMethod)?;
        *request.uri_mut() = uri(&path);
        for (name, value) in self.headers.into_iter().flatten() {
            let value = value.as_deref().map(HeaderValue::from_str);
            if let (Ok(name), Some(Ok(value))) = (HeaderName::from_bytes(name.as_bytes()), value) {
                request.headers_mut().append(name, value);
            }
        }
        Ok(request)
    }
}

/// The path below the stage, which an HTTP API's events have in their path, unless it is `$default`.
fn without_stage<'p>(path: &'p str, stage: Option<&str>) -> &'p str {
    let below = stage.and_then(|stage| path.strip_prefix('/')?.strip_prefix(stage));
    match below {
        Some("") => "/",
        Some(below) if below.starts_with('/') => below,
        _ => path,
    }
}

/// What a URI's path cannot hold as it is. `%` is seen to by [`uri`].
const NOT_IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A path as API Gateway gives it, as a URI. HTTP APIs decode every escape but `%25`; REST APIs and function URLs leave
/// the path as it was sent. So escapes stay, and what cannot stand in a URI is escaped again.
fn uri(path: &str) -> Uri {
    let mut encoded = String::with_capacity(path.len() + 16);
    let mut rest = path;
    while let Some(percent) = rest.find('%') {
        let (before, after) = (&rest[..percent], &rest[percent + 1..]);
        encoded.extend(utf8_percent_encode(before, NOT_IN_PATH));
        let is_escape = after
            .as_bytes()
            .get(..2)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        encoded.push_str(if is_escape { "%" } else { "%25" });
        rest = after;
    }
    encoded.extend(utf8_percent_encode(rest, NOT_IN_PATH));
    // What is still no path is one that no route has.
    let path = Some(encoded).filter(|path| path.starts_with('/'));
    path.and_then(|path| Uri::try_from(path).ok())
        .unwrap_or_else(|| Uri::from_static("/no/such/path"))
}

impl Answer {
    /// The answer that stands for a response, whose body has been read.
    fn new(status: StatusCode, headers: &axum::http::HeaderMap, body: Bytes) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect();
        let (body, is_base64_encoded) = match String::from_utf8(body.into()) {
            Ok(text) => (text, false),
            Err(binary) => (BASE64_STANDARD.encode(binary.as_bytes()), true),
        };
        Self {
            status_code: status.as_u16(),
            headers,
            body,
            is_base64_encoded,
        }
    }

    /// Reads the response to its end.
    async fn read(response: Response<Body>) -> Result<Self, axum::Error> {
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await?;
        Ok(Self::new(parts.status, &parts.headers, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(event: serde_json::Value) -> Result<Request<Body>, Error> {
        serde_json::from_value::<Event>(event)
            .unwrap()
            .into_request()
    }

    #[test]
    fn an_http_api_event_becomes_a_request() {
        let request = request(json!({
            "version": "2.0", "routeKey": "$default", "rawPath": "/cluster", "rawQueryString": "a=b",
            "headers": {"content-type": "application/json", "x-null": null, "bad name": "x", "bad-value": "a\nb"},
            "requestContext": {"stage": "$default", "http": {"method": "POST", "path": "/cluster"}},
            "body": "eyJhIjogMX0=", "isBase64Encoded": true,
        }))
        .unwrap();
        assert_eq!(
            (request.method(), request.uri().path()),
            (&Method::POST, "/cluster")
        );
        assert_eq!(request.headers().len(), 1);
        assert_eq!(request.headers()["content-type"], "application/json");
    }

    #[test]
    fn a_rest_api_event_becomes_a_request() {
        let request = request(json!({
            "resource": "/{proxy+}", "path": "/cluster/a%2Fb", "httpMethod": "GET", "headers": null,
            "requestContext": {"stage": "Prod", "path": "/Prod/cluster/a%2Fb"}, "body": null,
        }))
        .unwrap();
        assert_eq!(
            (request.method(), request.uri().path()),
            (&Method::GET, "/cluster/a%2Fb")
        );
    }

    #[test]
    fn a_rest_api_event_loses_its_stage_once() {
        for (path, whole, expected) in [
            // The API's own name.
            ("/cluster", "/cluster/cluster", "/cluster"),
            ("/cluster/c", "/cluster/cluster/c", "/cluster/c"),
            // A domain with a base path.
            ("/cluster/cluster", "/cluster/cluster", "/cluster"),
            // A domain without one.
            ("/cluster/c", "/cluster/c", "/c"),
        ] {
            let request = request(json!({
                "path": path, "httpMethod": "GET", "requestContext": {"stage": "cluster", "path": whole},
            }));
            assert_eq!(request.unwrap().uri().path(), expected, "{path} {whole}");
        }
    }

    #[test]
    fn what_is_no_request_is_an_error() {
        let with = |method, body| {
            json!({
                "rawPath": "/", "requestContext": {"http": {"method": method}}, "body": body, "isBase64Encoded": true,
            })
        };
        assert_eq!(request(json!({})).unwrap_err(), Error::NotHttp);
        assert_eq!(request(with("GET", "?")).unwrap_err(), Error::NotBase64);
        assert_eq!(request(with("a b", "")).unwrap_err(), Error::BadMethod);
    }

    #[test]
    fn paths_lose_their_stage() {
        for (path, stage, expected) in [
            ("/cluster", None, "/cluster"),
            ("/cluster", Some("$default"), "/cluster"),
            ("/cluster", Some("Prod"), "/cluster"),
            ("/Prod/cluster", Some("Prod"), "/cluster"),
            ("/Prod", Some("Prod"), "/"),
            ("/Production", Some("Prod"), "/Production"),
            ("Prod", Some("Prod"), "Prod"),
        ] {
            assert_eq!(without_stage(path, stage), expected, "{path} {stage:?}");
        }
    }

    #[test]
    fn decoded_and_undecoded_paths_mean_the_same() {
        for (path, expected) in [
            ("/cluster/arn:aws:x+y=", "/cluster/arn:aws:x+y="),
            ("/cluster/a%2Fb", "/cluster/a%2Fb"),
            ("/cluster/a b", "/cluster/a%20b"),
            ("/cluster/ö", "/cluster/%C3%B6"),
            ("/cluster/a%252Fb", "/cluster/a%252Fb"),
            ("/cluster/100%", "/cluster/100%25"),
            ("/cluster/%zz%é", "/cluster/%25zz%25%C3%A9"),
            ("/cluster/a?b#c", "/cluster/a%3Fb%23c"),
            ("", "/no/such/path"),
            ("//x", "//x"),
            ("no-slash", "/no/such/path"),
        ] {
            assert_eq!(uri(path).path(), expected, "{path:?}");
        }
    }

    #[test]
    fn binary_answers_are_base64() {
        let headers = axum::http::HeaderMap::new();
        let answer = |body: &'static [u8]| {
            serde_json::to_value(Answer::new(
                StatusCode::OK,
                &headers,
                Bytes::from_static(body),
            ))
            .unwrap()
        };
        let expected = |body, base64| json!({"statusCode": 200, "headers": {}, "body": body, "isBase64Encoded": base64});
        assert_eq!(answer(b"text"), expected("text", false));
        assert_eq!(answer(&[0xff]), expected("/w==", true));
    }
}
