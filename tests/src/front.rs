//! A front for a server. For the AWS stand-in it marks requests as sent over TLS, because the artifact bucket's policy refuses others.
//! For an API it removes a stage from paths.

use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
    header::HeaderValue,
    rt::{Read, Write},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};
use serde_json::json;

use crate::server::Server;

/// Of a refusal because of the time of a signature.
const CLOCK_CODE: &str = "RequestTimeTooSkewed";

#[derive(Debug)]
pub struct Front {
    /// Without a slash at the end: a value of `AWS_ENDPOINT_URL`.
    pub url: String,
    _server: Server,
}

impl Front {
    pub fn before(upstream: &str) -> Self {
        Self::with_stage(upstream, "")
    }

    /// Starts one that removes a stage (`/prod`) from the start of each path.
    pub fn with_stage(upstream: &str, stage: &'static str) -> Self {
        Self::with(upstream, stage, None)
    }

    /// Starts one whose clock is that far ahead, and which refuses signatures by another clock as AWS does.
    pub fn with_clock(upstream: &str, ahead: Duration) -> Self {
        Self::with(upstream, "", Some(ahead))
    }

    fn with(upstream: &str, stage: &'static str, ahead: Option<Duration>) -> Self {
        let upstream = upstream.to_owned();
        let server = Server::start(async move |listener| {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(TokioIo::new(stream), upstream.clone(), stage, ahead));
            }
        });
        Self { url: format!("{}{stage}", server.url), _server: server }
    }
}

/// Passes the requests of a connection on.
pub(crate) async fn pass(
    stream: impl Read + Write + Unpin,
    upstream: String,
    stage: &'static str,
    ahead: Option<Duration>,
) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Incoming>();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let path = path.strip_prefix(stage).unwrap_or(path);
        let uri = format!("{upstream}{path}").parse::<Uri>();
        let now = ahead.map(|ahead| Timestamp::now() + ahead);
        let is_late = now.is_some_and(|now| !is_signed_at(&request, now));
        let client = client.clone();
        async move {
            let mut answer = if is_late {
                let refusal = clock_refusal(&request);
                let answer = Response::builder().status(403).header("x-amzn-errortype", CLOCK_CODE);
                answer
                    .body(Either::Left(Full::<Bytes>::from(refusal)))
                    .expect("an answer is complete")
            } else {
                *request.uri_mut() = uri.expect("a path remains one");
                let https = HeaderValue::from_static("https");
                request.headers_mut().insert("x-forwarded-proto", https);
                client.request(request).await?.map(Either::Right)
            };
            if let Some(now) = now {
                let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                let date = date.parse().expect("a date is a header");
                answer.headers_mut().insert("date", date);
            }
            Ok::<_, hyper_util::client::legacy::Error>(answer)
        }
    });
    let _ = http1::Builder::new().serve_connection(stream, service).await;
}

/// The refusal of a request that is signed at another time, in the format of its service.
fn clock_refusal(request: &Request<Incoming>) -> String {
    let signature = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let is_for = |service: &str| signature.is_some_and(|text| text.contains(service));
    let error = format!("<Error><Code>{CLOCK_CODE}</Code><Message>late</Message></Error>");
    if is_for("/s3/") {
        error
    } else if is_for("/sts/") || is_for("/cloudformation/") {
        format!("<ErrorResponse>{error}</ErrorResponse>")
    } else {
        json!({"__type": CLOCK_CODE, "message": "late"}).to_string()
    }
}

/// Whether the request is signed at this time, give or take a quarter of an hour.
fn is_signed_at(request: &Request<Incoming>, now: Timestamp) -> bool {
    let date = request.headers().get("x-amz-date").and_then(|date| date.to_str().ok());
    let signed = date.and_then(|date| civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date).ok());
    let signed = signed.and_then(|signed| TimeZone::UTC.to_timestamp(signed).ok());
    signed.is_some_and(|signed| signed.duration_since(now).abs() < SignedDuration::from_mins(15))
}
