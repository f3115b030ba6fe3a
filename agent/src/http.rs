//! The HTTP client for Couchbase Servers, the API and AWS's metadata services: time limits, trust, and bounded answers.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use cbbootstrap_cli::{
    certificates,
    environment::variable_os,
    failure::Failure,
    proxy::{Proxy, REFUSES, read_for_url},
    values::{is_localhost, is_this_machine, loopback_addresses},
};
use thiserror::Error;
use ureq::{
    Agent, Body, Timeout,
    config::Config,
    http::{Response, StatusCode, Uri},
    tls::{Certificate, RootCerts, TlsConfig},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{DefaultConnector, NextTimeout},
    },
};

/// Time limit for a connection: a host that is gone does not answer at all.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);

pub const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// The usual size limit for an answer. A record with 256 members has about 120 KB.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// The time at which a command ends, whatever it is doing.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// No end in a node's life.
    pub fn never() -> Self {
        Self::after(Duration::from_hours(24 * 366 * 100))
    }

    /// The earlier of this deadline and one after this time from now.
    #[must_use]
    pub fn or_after(self, time: Duration) -> Self {
        Self(self.0.min(Instant::now() + time))
    }

    pub fn time_left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The limit of a call, cut to the time that is left.
    pub fn cut(self, limit: Duration) -> Duration {
        // To ureq, zero means no limit.
        limit.min(self.time_left()).max(Duration::from_millis(50))
    }
}

#[derive(Clone, Debug)]
pub enum Trust {
    System,
    Authorities(RootCerts),
    Anyone,
}

impl Trust {
    /// Trusts the authorities in the file that `--ca-cert` names.
    pub fn from_file(file: &Path) -> Result<Self, Failure> {
        let hint = "`--ca-cert` names the PEM file with the authority's certificate";
        let certificates =
            certificates::read(file).map_err(|why| Failure::usage(why).hint(hint))?;
        if certificates.is_empty() {
            let why = format!("`{}` contains no certificate", file.display());
            return Err(Failure::usage(why).hint(hint));
        }
        Ok(Self::Authorities(RootCerts::new_with_certs(&for_client(&certificates))))
    }

    pub fn from_authority(certificate: Certificate<'static>) -> Self {
        Self::Authorities(RootCerts::new_with_certs(&[certificate]))
    }
}

/// The certificates in the form of the client's library.
pub fn for_client(certificates: &[impl AsRef<[u8]>]) -> Vec<Certificate<'static>> {
    let certificates = certificates.iter().map(AsRef::as_ref);
    certificates.map(|der| Certificate::from_der(der).to_owned()).collect()
}

/// The environment's proxy for a URL that is neither on this host nor in the cluster.
pub fn proxy(url: &str) -> Result<Option<Proxy>, Failure> {
    url.parse().map_or(Ok(None), |url| read_for_url(&url, variable_os))
}

/// A URL and the way to it, for errors.
pub fn route(url: &str, proxy: Option<&Proxy>) -> String {
    proxy.map_or_else(|| url.to_owned(), |proxy| format!("{url} through the proxy {proxy}"))
}

/// A client that returns answers of every status, follows no redirect, and gives up after the limit.
pub fn client(trust: &Trust, proxy: Option<&Proxy>, limit: Duration) -> Agent {
    let tls = TlsConfig::builder();
    let tls = match trust {
        Trust::System => tls.root_certs(RootCerts::PlatformVerifier),
        Trust::Authorities(roots) => tls.root_certs(roots.clone()),
        Trust::Anyone => tls.disable_verification(true),
    };
    let config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT_LIMIT.min(limit)))
        .timeout_global(Some(limit))
        .tls_config(tls.build())
        // By default, ureq would choose one by other rules.
        .proxy(proxy.and_then(|proxy| ureq::Proxy::new(&proxy.url()).ok()))
        .user_agent(concat!("cbbootstrap-agent/", env!("CARGO_PKG_VERSION")));
    Agent::with_parts(config.build(), DefaultConnector::default(), LocalResolver::default())
}

/// Resolves `localhost` and names below it to this host (RFC 6761), which a name server need not do.
#[derive(Debug, Default)]
struct LocalResolver(DefaultResolver);

impl Resolver for LocalResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        if !uri.host().is_some_and(is_localhost) {
            return self.0.resolve(uri, config, timeout);
        }
        let port = port(&uri.to_string());
        let mut addresses = self.empty();
        for address in loopback_addresses() {
            addresses.push(SocketAddr::new(address, port));
        }
        Ok(addresses)
    }
}

/// Why a call failed. An error never contains a password or a form that holds one.
#[derive(Debug, Error)]
pub enum CallError {
    /// There was no connection, or it broke.
    #[error("{0}")]
    Unreachable(String),
    /// The server accepted the connection and did not answer in time, or answered that it fails.
    #[error("{0}")]
    Failing(String),
    /// Its certificate is not trusted, or nothing vouches for it.
    #[error("{0}")]
    Untrusted(String),
    #[error("it refuses this user name and password")]
    Unauthorized,
    /// It refused with this status and message.
    #[error("{1}")]
    Refused(StatusCode, String),
    /// Its answer is not that of the expected program.
    #[error("{0}")]
    Unexpected(String),
}

impl CallError {
    fn without_answer(url: &str, error: &ureq::Error) -> Self {
        let why = format!("{url} does not answer: {}", reason(error));
        match error {
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => Self::Unreachable(why),
            ureq::Error::Timeout(_) => Self::Failing(why),
            ureq::Error::Rustls(_) => Self::Untrusted(why),
            // An I/O error carries the error of a TLS handshake.
            ureq::Error::Io(error) if error.to_string().contains("certificate") => {
                Self::Untrusted(why)
            }
            _ => Self::Unreachable(why),
        }
    }

    /// Whether the server will refuse the same call again.
    pub fn is_permanent(&self) -> bool {
        // Request timeout, conflict, locked, too many requests.
        matches!(self, Self::Refused(status, _)
            if status.is_client_error() && !matches!(status.as_u16(), 408 | 409 | 423 | 429))
    }
}

/// Reads the answer of a server at this URL, up to this many bytes.
pub fn read(
    url: &str,
    sent: Result<Response<Body>, ureq::Error>,
    max_bytes: u64,
) -> Result<(StatusCode, String), CallError> {
    let read = sent.and_then(|mut answer| {
        let body = answer.body_mut().with_config().limit(max_bytes);
        let text = body.read_to_string()?;
        Ok((answer.status(), text))
    });
    read.map_err(|error| CallError::without_answer(url, &error))
}

fn reason(error: &ureq::Error) -> String {
    if error.to_string().contains("CertificateRequired") {
        return "it requires a client certificate (`clientCertAuth` is `mandatory`), and the agent has none".to_owned();
    }
    let reason = match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => "no connection in time",
        ureq::Error::Timeout(_) => "no response in time",
        ureq::Error::ConnectProxyFailed(why) => match why.rsplit_once('/') {
            Some((_, status)) => return format!("{REFUSES} (status {status})"),
            None => "the proxy does not answer",
        },
        ureq::Error::HostNotFound => "its name cannot be resolved",
        ureq::Error::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => "the connection is refused",
            io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => "the connection broke",
            _ if error.to_string().contains("InvalidContentType") => "it does not speak TLS",
            _ => return error.to_string(),
        },
        error => return error.to_string(),
    };
    reason.to_owned()
}

/// The host in a URL, without the brackets of an IPv6 address.
pub fn host(url: &str) -> String {
    let uri = url.parse::<Uri>().unwrap_or_default();
    uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// The port in a URL, or the usual one of its scheme.
pub fn port(url: &str) -> u16 {
    let uri = url.parse::<Uri>().unwrap_or_default();
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
}

/// The addresses of a host; none if its name cannot be resolved.
pub fn addresses(host: &str) -> Vec<IpAddr> {
    if is_localhost(host) {
        return loopback_addresses().collect();
    }
    let addresses = (host, 0).to_socket_addrs().into_iter().flatten();
    addresses.map(|address| address.ip()).collect()
}

/// Whether something accepts connections at a URL. `false` means that every connection was refused or got no answer in
/// time, that there is no route, or that the name was not resolved, perhaps because no name server answers. The error says why it is
/// unclear.
pub fn accepts_connections(url: &str, deadline: Deadline) -> Result<bool, String> {
    let limit = deadline.cut(CONNECT_LIMIT);
    for address in addresses(&host(url)) {
        let address = SocketAddr::new(address, port(url));
        match TcpStream::connect_timeout(&address, limit).map_err(|error| error.kind()) {
            Ok(_) => return Ok(true),
            Err(
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable,
            ) => {}
            // A slow host may need the whole time.
            Err(io::ErrorKind::TimedOut) if limit == CONNECT_LIMIT => {}
            Err(kind) => return Err(format!("{url}: {kind}")),
        }
    }
    Ok(false)
}

/// Whether requests to a URL stay on this host.
pub fn is_local(url: &str) -> bool {
    is_this_machine(&host(url))
}

/// Whether it is an address of this host. Only those can be bound, unless the system allows all (`net.ipv4.ip_nonlocal_bind`).
pub fn is_own_address(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_and_localhost_are_local() {
        for (url, expected) in [
            ("http://127.0.0.1:8091", true),
            ("http://127.5.0.9:8091", true),
            ("http://localhost:8091", true),
            ("http://a1.execute-api.localhost:4566", true),
            ("http://[::1]:8091", true),
            ("http://[::ffff:127.0.0.1]:8091", true),
            ("http://LocalHost.:8091", true),
            ("http://api.LOCALHOST.:8091", true),
            ("http://10.0.0.1:8091", false),
            ("http://[::ffff:10.0.0.1]:8091", false),
            ("http://localhost.example.com:8091", false),
            ("http://notlocalhost:8091", false),
        ] {
            assert_eq!(is_local(url), expected, "{url}");
        }
    }

    #[test]
    fn localhost_and_names_below_it_resolve_to_this_host() {
        for (url, port) in [
            ("http://localhost:8091", 8091),
            ("http://LocalHost.:8091", 8091),
            ("http://a1.execute-api.localhost:4566", 4566),
            ("http://a1.localhost/cluster", 80),
            ("https://a1.localhost", 443),
        ] {
            let (url_parts, config) = (url.parse().unwrap(), Config::default());
            let resolved =
                LocalResolver::default().resolve(&url_parts, &config, NextTimeout::default());
            assert!(loopback_addresses().next().is_some_and(|address| address.is_ipv4()));
            let expected = loopback_addresses().map(|address| SocketAddr::new(address, port));
            assert_eq!(resolved.unwrap()[..], expected.collect::<Vec<_>>(), "{url}");
        }
    }
}
