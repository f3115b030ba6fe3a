//! A front before a server. Before the AWS stand-in it tells that requests came by TLS, as those to AWS do: without it our
//! bucket's own policy, which refuses anything else, would be enforced against us. Before an API it can be its stage.

use std::{
    net::{Ipv4Addr, TcpListener},
    thread,
};

use hyper::{
    Request, Uri, body::Incoming, header::HeaderValue, server::conn::http1, service::service_fn,
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::sync::oneshot;

/// A running front; it ends when dropped.
#[derive(Debug)]
pub struct Front {
    /// Where it is, without a slash at the end: what `AWS_ENDPOINT_URL` is to be.
    pub url: String,
    _stop: oneshot::Sender<()>,
}

impl Front {
    /// Starts one on a free port.
    pub fn before(upstream: &str) -> Self {
        Self::with_stage(upstream, "")
    }

    /// One whose paths begin with a stage (`/prod`), which the server's have not.
    pub fn with_stage(upstream: &str, stage: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        listener.set_nonblocking(true).expect("a socket can be without blocking");
        let address = listener.local_addr().expect("a socket has an address");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let (stop, stopped) = oneshot::channel();
        let upstream = upstream.to_owned();
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, upstream, stage) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { url: format!("http://{address}{stage}"), _stop: stop }
    }
}

async fn serve(listener: TcpListener, upstream: String, stage: &'static str) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime runs");
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
