//! A front before a server. Before the AWS stand-in it marks requests as sent over TLS, as those to AWS are: the artifact bucket's
//! policy refuses any others. Before an API it plays a stage.

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

use crate::server::Server;

/// A running front; it ends when dropped.
#[derive(Debug)]
pub struct Front {
    /// Where it is, without a slash at the end: the value of `AWS_ENDPOINT_URL`.
    pub url: String,
    _server: Server,
}

impl Front {
    /// Starts one on a free port.
    pub fn before(upstream: &str) -> Self {
        Self::with_stage(upstream, "")
    }

    /// Starts one that takes a stage (`/prod`) off the beginning of each path.
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
                // Of all services: the SDK reads the code in XML, and in the header of JSON.
                let code = "RequestTimeTooSkewed";
                let xml =
                    format!("<ErrorResponse><Error><Code>{code}</Code></Error></ErrorResponse>");
                let answer = Response::builder().status(403).header("x-amzn-errortype", code);
                answer.body(Either::Left(Full::<Bytes>::from(xml))).expect("an answer is complete")
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

/// Whether the request is signed at this time, give or take a quarter of an hour.
fn is_signed_at(request: &Request<Incoming>, now: Timestamp) -> bool {
    let date = request.headers().get("x-amz-date").and_then(|date| date.to_str().ok());
    let signed = date.and_then(|date| civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date).ok());
    let signed = signed.and_then(|signed| TimeZone::UTC.to_timestamp(signed).ok());
    signed.is_some_and(|signed| signed.duration_since(now).abs() < SignedDuration::from_mins(15))
}
