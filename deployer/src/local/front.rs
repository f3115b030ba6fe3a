//! The HTTP front, in the place of API Gateway: every request goes to the function.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::{HeaderValue, Response},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};
use uuid::Uuid;

use super::{
    gateway::{self, MAX_BODY, MAX_PAYLOAD, Refusal},
    host::{Event, Host, OnEvent},
    process::Program,
};
use crate::{failure::Failure, leash::Leash};

/// How long a request may take in all, waiting for a process included; API Gateway's limit.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a process may take to start. In Lambda it is 10 s; this machine may be busy with something else.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of a body is read, in bytes. Whoever sends more than is allowed gets to see the refusal only when it is all
/// sent; far above that, the connection ends.
const MAX_READ: usize = 4 * MAX_BODY;

/// How long requests that already run may hold up the end.
const GRACE: Duration = Duration::from_secs(3);

/// Listens on an address. Port 0 picks a free one.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let another_port = "choose another with `--port`, or `--port 0` to have one picked";
        let (why, hint) = match error.kind() {
            ErrorKind::AddrInUse => ("another program listens there".to_owned(), another_port),
            ErrorKind::PermissionDenied => {
                ("ports this low need privileges".to_owned(), another_port)
            }
            ErrorKind::AddrNotAvailable => (
                "this machine has no such address".to_owned(),
                "choose another with `--host`",
            ),
            _ => (
                error.to_string(),
                "choose another with `--host` and `--port`",
            ),
        };
        Failure::new(format!("cannot listen on {address}: {why}"))
            .hint(hint)
            .into()
    })
}

/// What [`Service::start`] needs.
pub struct ServiceOptions {
    /// Where to serve the API; from [`bind`].
    pub listener: TcpListener,
    /// The function's binary.
    pub bootstrap: PathBuf,
    /// The database that it calls.
    pub database_url: String,
    /// The table in it.
    pub table_name: String,
    /// The most processes.
    pub concurrency: NonZeroUsize,
    /// How long one invocation may take, usually [`FUNCTION_TIMEOUT`](super::FUNCTION_TIMEOUT).
    pub timeout: Duration,
    /// Who hears of events. It is called on the tasks that serve, so it must not block for long.
    pub on_event: OnEvent,
}

/// The running API. Dropped, it ends at once; [`Service::shutdown`] lets requests finish.
pub struct Service {
    url: String,
    host: Arc<Host>,
    leash: Option<Leash>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Service {
    /// Starts the function's first process, then the front. A function that does not start is an error that says why.
    pub async fn start(options: ServiceOptions) -> anyhow::Result<Self> {
        let address = options.listener.local_addr()?;
        let bootstrap = std::path::absolute(&options.bootstrap)
            .with_context(|| format!("cannot run `{}`", options.bootstrap.display()))?;
        let leash = Leash::new()?;
        let program = Program {
            bootstrap,
            database_url: options.database_url,
            table_name: options.table_name,
            init_timeout: INIT_TIMEOUT,
            timeout: options.timeout,
            group: leash.group(),
        };
        let host = Host::start(program, options.concurrency, options.on_event)
            .await
            .map_err(|error| {
                Failure::new(format!("the function does not start: {error:#}"))
                    .hint("what it printed stands above; of a zip, see that it holds cbbootstrap's function")
            })?;

        let app = Router::new()
            .fallback(handle)
            .with_state(Arc::clone(&host))
            .into_make_service_with_connect_info::<SocketAddr>();
        let (stop, stop_requested) = oneshot::channel::<()>();
        let server = axum::serve(options.listener, app).with_graceful_shutdown(async {
            // Dropped is as good as sent.
            let _ = stop_requested.await;
        });
        let server = tokio::spawn(async {
            // It never fails: what goes wrong with one connection ends that one.
            let _ = server.await;
        });
        Ok(Self {
            url: format!("http://{}", reachable(address)),
            host,
            leash: Some(leash),
            stop: Some(stop),
            server,
        })
    }

    /// Where the API is, as seen from this machine. It ends without a slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends it: no new requests, a few seconds for those that run, and no process left.
    pub async fn shutdown(mut self) {
        drop(self.stop.take());
        let _ = timeout(GRACE, &mut self.server).await;
        self.host.close();
        if let Some(leash) = self.leash.take() {
            leash.pull().await;
        }
        self.host.closed().await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.host.close();
        self.server.abort();
    }
}

/// The address to call: a socket that listens on every address is reached through the loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn handle(
    State(host): State<Arc<Host>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    let id = Uuid::new_v4().to_string();
    let answered = timeout(REQUEST_TIMEOUT, answer(&host, peer, request, &id)).await;
    let mut response = answered
        .unwrap_or(Err(Refusal::Unavailable))
        .unwrap_or_else(Refusal::response);
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert("apigw-requestid", id);
    }
    response
}

async fn answer(
    host: &Arc<Host>,
    peer: SocketAddr,
    request: Request,
    id: &str,
) -> Result<Response<Body>, Refusal> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_READ)
        .await
        .map_err(|_| Refusal::BadRequest)?;
    if body.len() > MAX_BODY {
        return Err(Refusal::TooLarge);
    }
    let event = gateway::event(&parts, &body, peer, id, SystemTime::now()).to_string();
    if event.len() > MAX_PAYLOAD {
        return Err(Refusal::TooLarge);
    }
    let answer = host.invoke(id.to_owned(), event.into()).await?;
    gateway::response(&answer).map_err(|error| {
        host.say(Event::Malformed {
            reason: format!("{error:#}"),
        });
        Refusal::FunctionFailed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_that_cannot_be_had_are_named() {
        let taken = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
        for (address, why, way_out) in [
            (taken.1, "another program listens there", "`--port 0`"),
            // Set aside for documentation: no machine has it.
            (
                ([192, 0, 2, 1], 0).into(),
                "this machine has no such address",
                "`--host`",
            ),
        ] {
            let error = bind(address).await.unwrap_err();
            let failure = error.downcast_ref::<Failure>().unwrap();
            let message = failure.to_string();
            assert!(message.contains(&address.to_string()), "{message}");
            assert!(message.contains(why), "{message}");
            assert!(failure.hint.as_ref().unwrap().contains(way_out));
        }
    }

    #[test]
    fn the_url_can_be_called() {
        for (address, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("192.0.2.1:1", "192.0.2.1:1"),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(reachable(address).to_string(), expected);
        }
    }
}
