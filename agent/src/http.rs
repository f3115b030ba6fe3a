//! HTTP to Couchbase Servers and to the API: time-outs, certificates, and what went wrong in words.

use std::{fs, path::Path, time::Duration};

use ureq::{
    Agent, Error, Timeout,
    config::Config,
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use crate::failure::Failure;

/// How long a connection may take. A host that is gone does not answer at all.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may take, where nothing else is said.
pub const ANSWER: Duration = Duration::from_secs(15);

/// The most of an answer that is read. A cluster of a hundred nodes describes itself in some 200 KB.
pub const MOST_BYTES: u64 = 16 * 1024 * 1024;

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
    /// What `--ca-cert` and `--insecure` ask for.
    pub fn of(ca_cert: Option<&Path>, insecure: bool) -> anyhow::Result<Self> {
        if insecure {
            return Ok(Self::Anyone);
        }
        let Some(file) = ca_cert else {
            return Ok(Self::System);
        };
        let shown = file.display();
        let pem = fs::read(file).map_err(|error| {
            Failure::usage(format!("cannot read `{shown}`: {error}"))
                .hint("`--ca-cert` is the file of the authority's certificate")
        })?;
        let certificates = parse_pem(&pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(|error| {
            Failure::usage(format!("`{shown}` is no PEM file: {error}"))
                .hint("give the authority's certificate in the PEM format")
        })?;
        if certificates.is_empty() {
            return Err(Failure::usage(format!("`{shown}` holds no certificate"))
                .hint("give the authority's certificate in the PEM format")
                .into());
        }
        Ok(Self::Authorities(RootCerts::new_with_certs(&certificates)))
    }

    /// Whether no certificate is checked.
    pub fn is_anyone(&self) -> bool {
        matches!(self, Self::Anyone)
    }
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
        Error::HostNotFound => "its name is not known".to_owned(),
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

/// Whether it is the certificate that was not taken.
pub fn is_certificate(error: &Error) -> bool {
    match error {
        Error::Rustls(_) => true,
        // A handshake's error is handed on in an I/O error.
        Error::Io(error) => error.to_string().contains("certificate"),
        _ => false,
    }
}

/// An address for a URL: version 6 in brackets.
pub fn host(node: &str) -> String {
    if node.contains(':') {
        format!("[{node}]")
    } else {
        node.to_owned()
    }
}
