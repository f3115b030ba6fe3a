//! An HTTP request as the event of an API Gateway HTTP API (payload 2.0, stage and route `$default`), and a function's
//! answer as an HTTP response. Nothing here does I/O.

use std::{collections::BTreeMap, net::SocketAddr, time::SystemTime};

use anyhow::{Context, bail, ensure};
use axum::{
    body::{Body, Bytes},
    http::{
        HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header, request::Parts,
        uri::Authority,
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{ACCOUNT_ID, FUNCTION_NAME};

/// The largest body that an HTTP API takes, in bytes.
pub const MAX_BODY: usize = 10 * 1024 * 1024;

/// The largest event and the largest answer of a function, in bytes.
pub const MAX_PAYLOAD: usize = 6 * 1024 * 1024;

/// Headers that concern one connection. Neither side sees those of the other.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The answers that API Gateway gives by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request could not be read.
    BadRequest,
    /// The body, or the event made of it, is too large.
    TooLarge,
    /// The function failed, or its answer is none.
    FunctionFailed,
    /// The function took too long, or too many requests wait for it.
    Unavailable,
}

impl Refusal {
    /// The response.
    pub fn response(self) -> Response<Body> {
        let (status, message) = match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, "Bad Request"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large"),
            Self::FunctionFailed => (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"),
        };
        let mut response = Response::new(Body::from(json!({"message": message}).to_string()));
        *response.status_mut() = status;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }
}

/// The event that stands for a request.
pub fn event(
    request: &Parts,
    body: &[u8],
    peer: SocketAddr,
    request_id: &str,
    now: SystemTime,
) -> Value {
    let headers = &request.headers;
    let path = decode_path(request.uri.path());
    let query = request.uri.query().unwrap_or_default();
    let host = text(headers, header::HOST).unwrap_or_default();
    let authority = host.parse::<Authority>().ok();
    let host_name = authority.as_ref().map_or(&*host, Authority::host);
    let port = authority.as_ref().and_then(Authority::port_u16);
    let time = Timestamp::try_from(now).unwrap_or_default();

    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": forwarded(headers, peer, port.unwrap_or(80)),
        "requestContext": {
            "accountId": ACCOUNT_ID,
            "apiId": FUNCTION_NAME,
            "domainName": host_name,
            "domainPrefix": host_name.split('.').next(),
            "http": {
                "method": request.method.as_str(),
                "path": path,
                "protocol": protocol(request.version),
                "sourceIp": peer.ip().to_canonical().to_string(),
                "userAgent": text(headers, header::USER_AGENT).unwrap_or_default(),
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S %z").to_string(),
            "timeEpoch": time.as_millisecond(),
        },
        "isBase64Encoded": false,
    });
    if let Some(cookies) = text(headers, header::COOKIE) {
        event["cookies"] = cookies.split(';').map(str::trim).collect();
    }
    let parameters = query_parameters(query);
    if !parameters.is_empty() {
        event["queryStringParameters"] = json!(parameters);
    }
    if !body.is_empty() {
        let content_type = text(headers, header::CONTENT_TYPE).unwrap_or_default();
        let text = std::str::from_utf8(body).ok();
        if let Some(text) = text.filter(|_| is_textual(&content_type)) {
            event["body"] = text.into();
        } else {
            event["body"] = BASE64_STANDARD.encode(body).into();
            event["isBase64Encoded"] = true.into();
        }
    }
    event
}

/// A path as an HTTP API hands it on: every escape decoded but `%25`. That is what the real one was seen to do.
///
/// A path that is no UTF-8 once decoded stays as it was sent, since JSON could not hold it.
fn decode_path(path: &str) -> String {
    let parts: Vec<Vec<u8>> = path
        .split("%25")
        .map(|part| percent_decode_str(part).collect())
        .collect();
    String::from_utf8(parts.join(&b"%25"[..])).unwrap_or_else(|_| path.to_owned())
}

/// The query's parameters, decoded; a repeated one's values with commas between.
fn query_parameters(query: &str) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::<String, String>::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let [name, value] = [name, value].map(|part| {
            let part = part.replace('+', " ");
            percent_decode_str(&part).decode_utf8_lossy().into_owned()
        });
        parameters
            .entry(name)
            .and_modify(|values| {
                values.push(',');
                values.push_str(&value);
            })
            .or_insert(value);
    }
    parameters
}

/// The request's headers as the function sees them.
fn forwarded(headers: &HeaderMap, peer: SocketAddr, port: u16) -> BTreeMap<String, String> {
    let mut forwarded: BTreeMap<_, _> = headers
        .keys()
        .filter(|name| **name != header::COOKIE && !is_hop_by_hop(name, headers))
        .filter_map(|name| Some((name.to_string(), text(headers, name.clone())?)))
        .collect();
    let peer = peer.ip().to_canonical().to_string();
    forwarded
        .entry("x-forwarded-for".to_owned())
        .and_modify(|hops| *hops = format!("{hops}, {peer}"))
        .or_insert(peer);
    forwarded.insert("x-forwarded-port".to_owned(), port.to_string());
    forwarded.insert("x-forwarded-proto".to_owned(), "http".to_owned());
    forwarded
}

/// A header's values with commas between; cookies as the one header that they are.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let separator = if name == header::COOKIE { ";" } else { "," };
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    (!values.is_empty()).then(|| values.join(separator))
}

fn is_hop_by_hop(name: &HeaderName, headers: &HeaderMap) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
        || text(headers, header::CONNECTION).is_some_and(|names| {
            names
                .split(',')
                .any(|listed| listed.trim().eq_ignore_ascii_case(name.as_str()))
        })
}

/// Whether API Gateway hands a body of this type on as text. `curl -d`'s (`application/x-www-form-urlencoded`) it does
/// not.
fn is_textual(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    match essence.split_once('/') {
        Some(("text", _)) => true,
        Some(("application", subtype)) => {
            matches!(subtype, "json" | "javascript" | "xml")
                || subtype.ends_with("+json")
                || subtype.ends_with("+xml")
        }
        _ => false,
    }
}

fn protocol(version: Version) -> &'static str {
    if version == Version::HTTP_10 {
        "HTTP/1.0"
    } else {
        "HTTP/1.1"
    }
}

/// The response that a function's answer stands for.
///
/// Fails where API Gateway would call the answer malformed and say 500.
pub fn response(answer: &[u8]) -> anyhow::Result<Response<Body>> {
    ensure!(
        answer.len() <= MAX_PAYLOAD,
        "it is larger than {MAX_PAYLOAD} bytes"
    );
    let answer: Value = serde_json::from_slice(answer).context("it is not JSON")?;
    let Some(status) = answer.get("statusCode") else {
        return Ok(inferred(&answer));
    };

    let mut response = Response::new(Body::from(answer_body(&answer)?));
    *response.status_mut() = status
        .as_u64()
        .or_else(|| status.as_str()?.parse().ok())
        .and_then(|status| u16::try_from(status).ok())
        // A status below is no answer yet: HTTP would make the client wait for another.
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .with_context(|| format!("its `statusCode` {status} is no HTTP status"))?;

    let headers = response.headers_mut();
    for (name, value) in members(&answer, "headers")? {
        headers.insert(header_name(name)?, header_value(name, value)?);
    }
    for (name, values) in members(&answer, "multiValueHeaders")? {
        let values = values
            .as_array()
            .with_context(|| format!("the values of its header `{name}` are no list"))?;
        headers.remove(name);
        for value in values {
            headers.append(header_name(name)?, header_value(name, value)?);
        }
    }
    match answer.get("cookies") {
        None | Some(Value::Null) => {}
        Some(Value::Array(cookies)) => {
            for cookie in cookies {
                headers.append(header::SET_COOKIE, header_value("set-cookie", cookie)?);
            }
        }
        Some(_) => bail!("its `cookies` are no list"),
    }

    // The front's own connection decides these.
    headers.remove(header::CONTENT_LENGTH);
    let hop_by_hop: Vec<_> = headers
        .keys()
        .filter(|name| is_hop_by_hop(name, headers))
        .cloned()
        .collect();
    for name in hop_by_hop {
        headers.remove(name);
    }
    Ok(response)
}

/// What payload 2.0 makes of an answer without a status: the answer is the body.
fn inferred(answer: &Value) -> Response<Body> {
    let body = answer
        .as_str()
        .map_or_else(|| answer.to_string(), str::to_owned);
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn answer_body(answer: &Value) -> anyhow::Result<Bytes> {
    let body = match answer.get("body") {
        None | Some(Value::Null) => "",
        Some(Value::String(body)) => body,
        Some(_) => bail!("its `body` is no text"),
    };
    match answer.get("isBase64Encoded") {
        None | Some(Value::Null | Value::Bool(false)) => Ok(Bytes::from(body.to_owned())),
        Some(Value::Bool(true)) => {
            let body = BASE64_STANDARD.decode(body);
            Ok(body
                .context("its `body` is not the base64 it claims")?
                .into())
        }
        Some(_) => bail!("its `isBase64Encoded` is neither true nor false"),
    }
}

/// The members of an object in the answer; none where there is no object.
fn members<'a>(
    answer: &'a Value,
    field: &str,
) -> anyhow::Result<impl Iterator<Item = (&'a String, &'a Value)>> {
    let object = match answer.get(field) {
        None | Some(Value::Null) => None,
        Some(Value::Object(object)) => Some(object),
        Some(_) => bail!("its `{field}` are no object"),
    };
    Ok(object.into_iter().flatten())
}

fn header_name(name: &str) -> anyhow::Result<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).with_context(|| format!("{name:?} is no header name"))
}

fn header_value(name: &str, value: &Value) -> anyhow::Result<HeaderValue> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => bail!("its header `{name}` is no text"),
    };
    HeaderValue::from_str(&text)
        .with_context(|| format!("its header `{name}` has a value that HTTP does not allow"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use std::time::{Duration, UNIX_EPOCH};

    fn event_of(request: axum::http::request::Builder, body: &[u8]) -> Value {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let now = UNIX_EPOCH + Duration::from_millis(1_583_348_638_390);
        event(&parts, body, "192.0.2.7:4711".parse().unwrap(), "id", now)
    }

    #[test]
    fn a_request_becomes_an_event() {
        let request = Request::post("/cluster/a%2Fb?x=1&y=a%20b&x=2&flag")
            .header("Host", "api.example.com:8080")
            .header("User-Agent", "curl/8")
            .header("Cookie", "a=1; b=2")
            .header("Cookie", "c=3")
            .header("X-Twice", "1")
            .header("X-Twice", "2")
            .header("X-Forwarded-For", "203.0.113.1")
            .header("Connection", "keep-alive, X-Private")
            .header("X-Private", "secret")
            .header("Transfer-Encoding", "chunked")
            .header("Content-Type", "application/json; charset=utf-8");
        let expected = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/cluster/a/b",
            "rawQueryString": "x=1&y=a%20b&x=2&flag",
            "cookies": ["a=1", "b=2", "c=3"],
            "headers": {
                "content-type": "application/json; charset=utf-8",
                "host": "api.example.com:8080",
                "user-agent": "curl/8",
                "x-forwarded-for": "203.0.113.1, 192.0.2.7",
                "x-forwarded-port": "8080",
                "x-forwarded-proto": "http",
                "x-twice": "1,2",
            },
            "queryStringParameters": {"x": "1,2", "y": "a b", "flag": ""},
            "requestContext": {
                "accountId": "000000000000",
                "apiId": "cbbootstrap",
                "domainName": "api.example.com",
                "domainPrefix": "api",
                "http": {
                    "method": "POST",
                    "path": "/cluster/a/b",
                    "protocol": "HTTP/1.1",
                    "sourceIp": "192.0.2.7",
                    "userAgent": "curl/8",
                },
                "requestId": "id",
                "routeKey": "$default",
                "stage": "$default",
                "time": "04/Mar/2020:19:03:58 +0000",
                "timeEpoch": 1_583_348_638_390_u64,
            },
            "body": "{}",
            "isBase64Encoded": false,
        });
        assert_eq!(event_of(request, b"{}"), expected);
    }

    #[test]
    fn what_a_request_lacks_its_event_lacks() {
        let event = event_of(Request::get("/"), b"");
        for field in ["cookies", "queryStringParameters", "body"] {
            assert_eq!(event.get(field), None, "{field}");
        }
        assert_eq!(event["rawQueryString"], "");
        assert_eq!(event["requestContext"]["http"]["userAgent"], "");
    }

    #[test]
    fn paths_are_decoded_as_http_apis_do() {
        for (path, expected) in [
            ("/", "/"),
            ("/cluster/arn:aws:x+y=", "/cluster/arn:aws:x+y="),
            ("/a%2Fb%3a%20c", "/a/b: c"),
            ("/%C3%B6", "/ö"),
            ("/100%25", "/100%25"),
            ("/a%252Fb", "/a%252Fb"),
            ("/%2541", "/%2541"),
            ("/a%2525b", "/a%2525b"),
            ("/%ff", "/%ff"),
            ("/%20%ff%25", "/%20%ff%25"),
            ("/%zz%", "/%zz%"),
            ("/%00", "/\0"),
            ("*", "*"),
        ] {
            assert_eq!(decode_path(path), expected, "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        for (query, expected) in [
            ("", json!({})),
            ("&&", json!({})),
            ("a", json!({"a": ""})),
            ("a=b=c&=d", json!({"a": "b=c", "": "d"})),
            ("a+b=%2B&a%20b=%ff", json!({"a b": "+,\u{fffd}"})),
        ] {
            assert_eq!(json!(query_parameters(query)), expected, "{query}");
        }
    }

    #[test]
    fn bodies_are_text_or_base64_by_their_type() {
        let json: &[u8] = b"{\"a\": 1}";
        for (content_type, body, is_text) in [
            (Some("application/json"), json, true),
            (Some("Application/JSON;charset=utf-8"), json, true),
            (Some("application/problem+json"), json, true),
            (Some("application/soap+xml"), json, true),
            (Some("application/javascript"), json, true),
            (Some("text/plain"), json, true),
            (Some("text/plain"), b"\xff", false),
            (Some("application/x-www-form-urlencoded"), json, false),
            (Some("application/octet-stream"), json, false),
            (Some("image/svg+xml"), json, false),
            (Some("json"), json, false),
            (None, json, false),
        ] {
            let mut request = Request::post("/");
            if let Some(content_type) = content_type {
                request = request.header("content-type", content_type);
            }
            let event = event_of(request, body);
            assert_eq!(event["isBase64Encoded"], !is_text, "{content_type:?}");
            let sent = event["body"].as_str().unwrap();
            let sent = if is_text {
                sent.as_bytes().to_vec()
            } else {
                BASE64_STANDARD.decode(sent).unwrap()
            };
            assert_eq!(sent, body, "{content_type:?}");
        }
    }

    #[test]
    fn headers_that_are_no_text_do_not_stop_a_request() {
        let value = HeaderValue::from_bytes(b"\xe9").unwrap();
        let event = event_of(Request::get("/").header("x-latin", value), b"");
        assert_eq!(event["headers"]["x-latin"], "\u{fffd}");
    }

    async fn body(response: Response<Body>) -> Bytes {
        axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn an_answer_becomes_a_response() {
        let answer = json!({
            "statusCode": 201,
            "headers": {
                "Content-Type": "text/plain", "X-Number": 7, "Content-Length": "999", "Connection": "X-Hop",
                "X-Hop": "1", "Transfer-Encoding": "chunked",
            },
            "multiValueHeaders": {"X-Many": ["1", "2"]},
            "cookies": ["a=1", "b=2"],
            "body": "/w==",
            "isBase64Encoded": true,
        });
        let response = response(answer.to_string().as_bytes()).unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        let mut headers: Vec<_> = response
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        assert_eq!(
            headers,
            [
                "content-type: text/plain",
                "set-cookie: a=1",
                "set-cookie: b=2",
                "x-many: 1",
                "x-many: 2",
                "x-number: 7"
            ]
        );
        assert_eq!(body(response).await, &b"\xff"[..]);
    }

    #[tokio::test]
    async fn an_answer_without_a_status_is_a_body() {
        for (answer, expected) in [
            (r#"{"message": "hello"}"#, r#"{"message":"hello"}"#),
            (r#""hello""#, "hello"),
            ("[1]", "[1]"),
            ("null", "null"),
        ] {
            let response = response(answer.as_bytes()).unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{answer}");
            assert_eq!(response.headers()["content-type"], "application/json");
            assert_eq!(body(response).await, expected, "{answer}");
        }
    }

    #[test]
    fn malformed_answers_are_refused() {
        for answer in [
            "",
            "{",
            r#"{"statusCode": null}"#,
            r#"{"statusCode": "many"}"#,
            r#"{"statusCode": 99}"#,
            r#"{"statusCode": 101}"#,
            r#"{"statusCode": 600}"#,
            r#"{"statusCode": 65736}"#,
            r#"{"statusCode": 200, "headers": []}"#,
            r#"{"statusCode": 200, "headers": {"a b": "c"}}"#,
            r#"{"statusCode": 200, "headers": {"a": "b\nc"}}"#,
            r#"{"statusCode": 200, "headers": {"a": ["b"]}}"#,
            r#"{"statusCode": 200, "multiValueHeaders": {"a": "b"}}"#,
            r#"{"statusCode": 200, "cookies": "a=b"}"#,
            r#"{"statusCode": 200, "body": {}}"#,
            r#"{"statusCode": 200, "body": "?", "isBase64Encoded": true}"#,
            r#"{"statusCode": 200, "isBase64Encoded": "yes"}"#,
        ] {
            assert!(response(answer.as_bytes()).is_err(), "{answer}");
        }
        let large = json!("x".repeat(MAX_PAYLOAD)).to_string();
        assert!(response(large.as_bytes()).is_err());
        assert!(response(br#"{"statusCode": "204"}"#).is_ok());
    }

    #[tokio::test]
    async fn refusals_are_those_of_api_gateway() {
        for (refusal, status, message) in [
            (Refusal::BadRequest, 400, "Bad Request"),
            (Refusal::TooLarge, 413, "Request Entity Too Large"),
            (Refusal::FunctionFailed, 500, "Internal Server Error"),
            (Refusal::Unavailable, 503, "Service Unavailable"),
        ] {
            let response = refusal.response();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["content-type"], "application/json");
            let expected = json!({"message": message}).to_string();
            assert_eq!(body(response).await, expected);
        }
    }
}
