//! A front before a server. Before the AWS stand-in it marks requests as sent over TLS, as those to AWS are: the artifact bucket's
//! policy refuses any others. Before an API it plays a stage.

use hyper::{
    Request, Uri, body::Incoming, header::HeaderValue, server::conn::http1, service::service_fn,
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::TcpListener;

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
        let upstream = upstream.to_owned();
        let server = Server::start(move |listener| serve(listener, upstream, stage));
        Self { url: format!("{}{stage}", server.url), _server: server }
    }
}

async fn serve(listener: TcpListener, upstream: String, stage: &'static str) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Incoming>();
    while let Ok((stream, _)) = listener.accept().await {
        let (client, upstream) = (client.clone(), upstream.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let path = path.strip_prefix(stage).unwrap_or(path);
            let uri = format!("{upstream}{path}").parse::<Uri>();
            let client = client.clone();
            async move {
                *request.uri_mut() = uri.expect("a path remains one");
                let https = HeaderValue::from_static("https");
                request.headers_mut().insert("x-forwarded-proto", https);
                client.request(request).await
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
