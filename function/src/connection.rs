//! One HTTP connection: its requests, one after the other.

use std::{net::IpAddr, time::Duration};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tower::Service;

use crate::guard::LocalAddress;

/// The time limit for a request's head, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// The most bytes of a request's head, and of a body's read buffer.
const MAX_HEAD: usize = 16 * 1024;

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Answers requests until the client closes the connection or the server stops, after the running request. Not generic, for the same
/// reason as [`api::over_sqlite`](crate::api::over_sqlite).
pub async fn answer(
    stream: Box<dyn Stream>,
    api: Router,
    local_address: IpAddr,
    mut stopping: watch::Receiver<bool>,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(LocalAddress(local_address));
        api.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        // A client may close its side and still wait for the response.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // An error ends this connection only.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopping.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
