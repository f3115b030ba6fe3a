//! The HTTP server: connections, and their limits.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::Router;
use cbbootstrap_function::connection::answer;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use super::Metrics;
use crate::failure::Failure;

/// The time limit for a client to read a part of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long running requests may take at the end: less than the 10 s after which Docker kills a container.
const GRACE: Duration = Duration::from_secs(8);

/// How many connections may wait to be accepted, up to the limit of the system: Linux's default. With the 128 of
/// `TcpListener::bind`, clients that connect at once wait for a second or more until they try again.
const BACKLOG: u32 = 4096;

/// The pause after a temporary error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// File descriptors for other purposes than connections, besides two for each thread that reads the database.
const OTHER_FILES: usize = 56;

/// The number of connections to serve at once: as many as wanted, or as the system's limit on open files allows, which is raised if
/// possible. Each connection needs this number of files. Further connections wait until one ends.
pub fn max_connections(wanted: usize, files_each: usize) -> anyhow::Result<usize> {
    let others = OTHER_FILES + 2 * std::thread::available_parallelism()?.get();
    let needed = wanted.saturating_mul(files_each).saturating_add(others);
    let files = rlimit::increase_nofile_limit(needed as u64)?;
    let most = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(others) / files_each;
    if most == 0 {
        let message = format!("the limit of {files} open files is too low to accept connections");
        let hint = format!("raise it above {others} with `ulimit -n`");
        return Err(Failure::new(message).hint(hint).into());
    }
    Ok(wanted.min(most).min(Semaphore::MAX_PERMITS))
}

/// Listens on an address. Port 0 picks a free one.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // As `TcpListener::bind` does, so that a restarted server gets its port back.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| {
        Failure::new(format!("cannot listen on {address}: {error}"))
            .hint("choose another with `--host` and `--port`; `--port 0` picks a free one")
            .into()
    })
}

#[derive(Debug)]
pub struct Server {
    url: String,
    /// The tasks that accept and serve connections have receivers.
    stop: watch::Sender<bool>,
}

impl Server {
    pub fn start(
        listener: TcpListener,
        api: Router,
        tls: Option<Arc<ArcSwap<ServerConfig>>>,
        max_connections: usize,
        metrics: Metrics,
    ) -> io::Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", reachable(listener.local_addr()?));
        let (stop, stopping) = watch::channel(false);
        let accepting = Accepting { listener, api, tls, metrics, stopping };
        tokio::spawn(accepting.run(max_connections));
        Ok(Self { url, stop })
    }

    /// The URL of the API for programs on this machine, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops accepting connections, and waits for running requests up to [`GRACE`]. Afterwards, nothing uses the API.
    pub async fn shutdown(self) {
        let _ = self.stop.send(true);
        let _ = timeout(GRACE, self.stop.closed()).await;
    }
}

/// The address to call: the loopback address if the server listens on all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

struct Accepting {
    listener: TcpListener,
    api: Router,
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    metrics: Metrics,
    stopping: watch::Receiver<bool>,
}

impl Accepting {
    async fn run(self, max_connections: usize) {
        let connections = Arc::new(Semaphore::new(max_connections));
        let mut stopping = self.stopping.clone();
        loop {
            let accepted = async {
                // First, because a connection that is not accepted needs no file descriptor.
                let permit = Arc::clone(&connections).acquire_owned().await;
                (permit.expect("it is never closed"), self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                accepted = accepted => accepted,
                _ = stopping.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((stream, _)) => self.serve(stream, permit),
                Err(error) if is_of_one_connection(&error) => (),
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection in its own task.
    fn serve(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let Ok(address) = stream.local_addr() else {
            return;
        };
        let (api, stopping, open) =
            (self.api.clone(), self.stopping.clone(), self.stopping.clone());
        let connections = self.metrics.connections.clone();
        let tls = self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.load_full()));
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let stream = Box::pin(stream);
        // Not in one future, because connections without TLS would also have the size of a handshake, which is 1.5 KB more than theirs.
        let answering: Pin<Box<dyn Future<Output = ()> + Send>> = match tls {
            None => Box::pin(answer(Box::new(stream), api, address.ip(), stopping)),
            Some(tls) => Box::pin(answer_over_tls(tls, stream, api, address.ip(), stopping)),
        };
        tokio::spawn(async move {
            connections.inc();
            answering.await;
            connections.dec();
            // Last, because nothing may use the API afterwards.
            drop((permit, open));
        });
    }
}

async fn answer_over_tls(
    tls: TlsAcceptor,
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    api: Router,
    local_address: IpAddr,
    stopping: watch::Receiver<bool>,
) {
    if let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        answer(Box::new(stream), api, local_address, stopping).await;
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_has_a_reachable_address() {
        const URLS: [[&str; 2]; 2] = [["0.0.0.0:1", "127.0.0.1:1"], ["[::]:1", "[::1]:1"]];
        for [address, expected] in URLS {
            let reached = reachable(address.parse().unwrap());
            assert_eq!(reached.to_string(), expected);
        }
    }
}
