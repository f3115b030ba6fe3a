//! Lambda's events as HTTP requests, and the responses: for HTTP APIs and function URLs (payload 2.0), and REST APIs (1.0).
//!
//! `lambda_http` is not used because it panics on paths and headers that do not form a valid URI, and anyone can send those.

use std::{collections::BTreeMap, slice};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri},
    response::IntoResponse,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{log::RequestId, problem::Problem};

const NOT_HTTP: Problem =
    Problem::InvalidRequest("the event is not an HTTP request: call the function through its API");

/// Answers an event, whatever it contains. `base_path` is the API's path on its own domain, without a slash at its start; it may be
/// empty.
pub async fn respond(router: Router, event: &[u8], invocation_id: &str, base_path: &str) -> Value {
    let event = serde_json::from_slice(event).unwrap_or(Value::Null);
    let response = match into_request(&event, base_path) {
        Ok(mut request) => {
            let id = event["requestContext"]["requestId"].as_str().unwrap_or(invocation_id);
            request.extensions_mut().insert(RequestId(id.to_owned()));
            router.oneshot(request).await.into_response()
        }
        Err(error) => {
            tracing::warn!(%error, "the invocation is not a request");
            error.into_response()
        }
    };
    let (parts, body) = response.into_parts();
    match axum::body::to_bytes(body, usize::MAX).await {
        Ok(body) => event_response(parts.status, &parts.headers, body),
        Err(error) => {
            tracing::error!(%error, "a response could not be read");
            let (status, headers) = (StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new());
            event_response(status, &headers, Bytes::new())
        }
    }
}

/// The response to an event, in the form that all payloads understand.
fn event_response(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Value {
    let (body, is_base64_encoded) = match String::from_utf8(body.into()) {
        Ok(text) => (text, false),
        Err(binary) => (BASE64_STANDARD.encode(binary.as_bytes()), true),
    };
    let headers = headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())));
    json!({
        "statusCode": status.as_u16(), "headers": headers.collect::<BTreeMap<_, _>>(), "body": body,
        "isBase64Encoded": is_base64_encoded,
    })
}

/// The request of an event, without headers that HTTP does not allow.
fn into_request(event: &Value, base_path: &str) -> Result<Request<Body>, Problem> {
    let context = &event["requestContext"];
    // Payload 2.0 has the first of each pair, 1.0 the second.
    let method = context["http"]["method"].as_str().or(event["httpMethod"].as_str());
    let method = method.ok_or(NOT_HTTP)?;
    let path = match event["rawPath"].as_str() {
        Some(path) => without_prefix(path, context["stage"].as_str()),
        None => event["path"].as_str().ok_or(NOT_HTTP)?,
    };
    // By AWS's documentation, HTTP APIs leave the base path out of `rawPath`, but REST APIs keep it. No path of the API begins with a
    // base path, because `deploy` refuses such base paths.
    let path = without_prefix(path, Some(base_path).filter(|path| !path.is_empty()));
    let body = match (&event["body"], &event["isBase64Encoded"]) {
        (Value::String(body), Value::Bool(true)) => {
            let decoded = BASE64_STANDARD.decode(body);
            decoded.map_err(|_| Problem::InvalidRequest("the event's body is not base64"))?
        }
        (Value::String(body), _) => body.clone().into_bytes(),
        (Value::Null, _) => Vec::new(),
        _ => return Err(NOT_HTTP),
    };
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = Method::from_bytes(method.as_bytes())
        .map_err(|_| Problem::InvalidRequest("the event's method is not an HTTP method"))?;
    *request.uri_mut() = uri(path);
    // REST APIs send each header in both fields, and every value in the multi-value one.
    let headers = event["multiValueHeaders"].as_object().filter(|headers| !headers.is_empty());
    for (name, values) in headers.or(event["headers"].as_object()).into_iter().flatten() {
        let values = values.as_array().map_or(slice::from_ref(values), Vec::as_slice);
        for value in values.iter().filter_map(Value::as_str) {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                request.headers_mut().append(name, value);
            }
        }
    }
    Ok(request)
}

/// The path without the stage, which HTTP APIs put before it unless the stage is `$default`, or without the base path.
fn without_prefix<'p>(path: &'p str, prefix: Option<&str>) -> &'p str {
    let below = prefix.and_then(|prefix| path.strip_prefix('/')?.strip_prefix(prefix));
    match below {
        Some("") => "/",
        Some(below) if below.starts_with('/') => below,
        _ => path,
    }
}

/// Characters to escape in a URI's path, except `%`, which [`uri`] handles.
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

/// The URI for a path as API Gateway sends it. HTTP APIs decode every escape but `%25`; REST APIs and function URLs decode none. So
/// escapes stay, and characters that a URI cannot contain are escaped again.
fn uri(path: &str) -> Uri {
    let mut encoded = String::with_capacity(path.len() + 16);
    for (number, part) in path.split('%').enumerate() {
        if number > 0 {
            let digits = part.as_bytes().get(..2);
            let is_escape = digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
            encoded.push_str(if is_escape { "%" } else { "%25" });
        }
        encoded.extend(utf8_percent_encode(part, NOT_IN_PATH));
    }
    // An invalid path is replaced by one that matches no route.
    let path = Some(encoded).filter(|path| path.starts_with('/'));
    path.and_then(|path| Uri::try_from(path).ok())
        .unwrap_or_else(|| Uri::from_static("/no/such/path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "the tests are shorter")]
    fn request(event: Value) -> Result<Request<Body>, Problem> {
        into_request(&event, "")
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
        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/cluster"));
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
        assert_eq!((request.method(), request.uri().path()), (&Method::GET, "/cluster/a%2Fb"));
    }

    #[test]
    fn headers_of_a_rest_api_are_not_repeated() {
        let request = request(json!({
            "path": "/", "httpMethod": "GET", "headers": {"a": "2"}, "multiValueHeaders": {"a": ["1", null, "2"], "b": null},
        }));
        let request = request.unwrap();
        let values: Vec<_> = request.headers().get_all("a").iter().collect();
        assert_eq!(values, ["1", "2"]);
    }

    #[test]
    fn invalid_events_are_errors() {
        let with = |method, body| {
            json!({
                "rawPath": "/", "requestContext": {"http": {"method": method}}, "body": body, "isBase64Encoded": true,
            })
        };
        for (event, reason) in [
            (json!({}), "is not an HTTP request"),
            (with("GET", "?"), "is not base64"),
            (with("a b", ""), "is not an HTTP method"),
        ] {
            let error = request(event).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_stage_is_removed_from_the_path() {
        for (path, stage, expected) in [
            ("/cluster", None, "/cluster"),
            ("/cluster", Some("$default"), "/cluster"),
            ("/cluster", Some("Prod"), "/cluster"),
            ("/Prod/cluster", Some("Prod"), "/cluster"),
            ("/Prod", Some("Prod"), "/"),
            ("/Production", Some("Prod"), "/Production"),
            ("Prod", Some("Prod"), "Prod"),
        ] {
            assert_eq!(without_prefix(path, stage), expected, "{path} {stage:?}");
        }
    }

    #[test]
    fn base_path_is_removed_once() {
        for (path, base_path, expected) in [
            ("/v1/cluster", "v1", "/cluster"),
            ("/v1", "v1", "/"),
            ("/v1/", "v1", "/"),
            ("/v1/v1", "v1", "/v1"),
            ("/team/v1/cluster/c", "team/v1", "/cluster/c"),
            // API Gateway has removed it, or the request came through the other endpoint.
            ("/cluster", "v1", "/cluster"),
            ("/cluster/v1", "v1", "/cluster/v1"),
            ("/v10/cluster", "v1", "/v10/cluster"),
            ("/v1/cluster", "", "/v1/cluster"),
            ("//x", "", "//x"),
        ] {
            let event = json!({
                "version": "2.0", "rawPath": path,
                "requestContext": {"stage": "$default", "http": {"method": "GET", "path": path}},
            });
            let request = into_request(&event, base_path).unwrap();
            assert_eq!(request.uri().path(), expected, "{path} below {base_path}");
        }
    }

    #[test]
    fn decoded_and_encoded_paths_are_equivalent() {
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
    fn binary_bodies_are_base64() {
        let headers = HeaderMap::new();
        let answer = |body: &'static [u8]| {
            event_response(StatusCode::OK, &headers, Bytes::from_static(body))
        };
        let expected = |body, base64| json!({"statusCode": 200, "headers": {}, "body": body, "isBase64Encoded": base64});
        assert_eq!(answer(b"text"), expected("text", false));
        assert_eq!(answer(&[0xff]), expected("/w==", true));
    }
}
