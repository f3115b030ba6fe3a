//! HTTP to Couchbase Servers and to the API: time-outs, certificates, and what went wrong in words.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use ureq::{
    Agent, Error, Timeout,
    config::Config,
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

use crate::failure::Failure;

/// How long a connection may take. A host that is gone does not answer at all.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may take, where nothing else is said.
pub const ANSWER: Duration = Duration::from_secs(15);

/// The most of an answer that is read. A cluster of a hundred nodes describes itself in some 200 KB.
pub const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// The same for a host that nothing vouches for yet: it may be anyone's. A list of authorities has some 5 KB for each.
pub const MOST_BYTES_UNPROVEN: u64 = 1024 * 1024;

/// The time at which a command ends, whatever it is doing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Ends after this time from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now().checked_add(time))
    }

    /// This deadline, or an earlier one after this time from now.
    pub fn or_after(self, time: Duration) -> Self {
        let sooner = Self::after(time);
        Self(match (self.0, sooner.0) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        })
    }

    /// How much time is left.
    pub fn left(self) -> Duration {
        self.0.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()))
    }

    /// How long a call may take that may take this long.
    pub fn limit(self, limit: Duration) -> Duration {
        // No time at all would mean no limit.
        limit.min(self.left()).max(Duration::from_millis(50))
    }
}

/// Whose certificates are taken.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those that the system trusts.
    System,
    /// Those of these authorities.
    Authorities(RootCerts),
    /// Anyone's.
    Anyone,
}

impl Trust {
    /// The authority that `--ca-cert` names.
    pub fn of_file(file: &Path) -> Result<Self, Failure> {
        let shown = file.display();
        let pem = fs::read(file).map_err(|error| {
            Failure::usage(format!("cannot read `{shown}`: {error}"))
                .hint("`--ca-cert` is the file of the authority's certificate")
        })?;
        let certificates = certificates(&pem).map_err(|error| {
            Failure::usage(format!("`{shown}` is not a PEM file: {error}"))
                .hint("give the authority's certificate in the PEM format")
        })?;
        if certificates.is_empty() {
            return Err(Failure::usage(format!("`{shown}` contains no certificate"))
                .hint("give the authority's certificate in the PEM format"));
        }
        Ok(Self::Authorities(RootCerts::new_with_certs(&certificates)))
    }

    /// One authority.
    pub fn of_authority(certificate: Certificate<'static>) -> Self {
        Self::Authorities(RootCerts::new_with_certs(&[certificate]))
    }
}

/// The certificates in a PEM text.
pub fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, Error> {
    let items = parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    });
    items.collect()
}

/// A client that hands every status on, follows no redirection, and takes no longer than it should.
pub fn client(trust: &Trust, proxied: bool) -> Agent {
    let tls = TlsConfig::builder();
    let tls = match trust {
        Trust::System => tls.root_certs(RootCerts::PlatformVerifier),
        Trust::Authorities(roots) => tls.root_certs(roots.clone()),
        Trust::Anyone => tls.disable_verification(true),
    };
    let mut config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_global(Some(ANSWER))
        .tls_config(tls.build())
        .user_agent(concat!("cbbootstrap-agent/", env!("CARGO_PKG_VERSION")));
    if !proxied {
        config = config.proxy(None);
    }
    config.build().new_agent()
}

/// Why there was no answer, in a few words.
pub fn reason(error: &Error) -> String {
    match error {
        Error::Timeout(Timeout::Resolve | Timeout::Connect) => "no connection in time".to_owned(),
        Error::Timeout(_) => "no answer in time".to_owned(),
        Error::HostNotFound => "its name cannot be resolved".to_owned(),
        Error::Io(error) => match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "the connection is refused".to_owned(),
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof => {
                "the connection broke".to_owned()
            }
            // It is there, and says something else.
            _ if error.to_string().contains("InvalidContentType") => {
                "it does not speak TLS".to_owned()
            }
            _ => error.to_string(),
        },
        error => error.to_string(),
    }
}

/// Whether there was a connection, and no answer in time.
pub fn is_late(error: &Error) -> bool {
    matches!(error, Error::Timeout(time) if !matches!(time, Timeout::Resolve | Timeout::Connect))
}

/// Whether it is the certificate that was not taken.
pub fn is_certificate(error: &Error) -> bool {
    match error {
        Error::Rustls(_) => true,
        // A handshake's error is handed on in an I/O error.
        Error::Io(error) => error.to_string().contains("certificate"),
        _ => false,
    }
}
