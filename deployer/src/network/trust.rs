//! The authorities whose certificates are accepted.

use std::fmt::Write;

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use base64::{Engine, prelude::BASE64_STANDARD};
use cbbootstrap_cli::{
    certificates::{self, usable},
    environment::variable_os,
};
use rustls::pki_types::CertificateDer;

use super::Bundle;
use crate::failure::Failure;

/// Replace the system's authorities.
const SYSTEM_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

#[derive(Clone, Debug)]
pub struct Trust {
    /// Where they come from, for error messages; none if they are the system's.
    pub source: Option<String>,
    /// As the SDK takes them, which panics at a certificate that it cannot parse.
    pem: String,
}

impl Trust {
    /// The system's authorities, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    pub fn system() -> Result<Self, Failure> {
        let certificates = usable(rustls_native_certs::load_native_certs().certs);
        let set = SYSTEM_VARIABLES.into_iter().find_map(|name| Some((name, variable_os(name)?)));
        match set {
            Some((name, path)) => {
                Self::of(&certificates, format!("`{name}` (`{}`)", path.display()))
            }
            // A machine without authorities can still call `http` endpoints.
            None => Ok(Self { source: None, pem: encode(&certificates) }),
        }
    }

    /// The authorities of a PEM file or a directory of them.
    pub fn read(Bundle { path, setting }: Bundle) -> Result<Self, Failure> {
        let source = format!("{setting} (`{}`)", path.display());
        let certificates = if path.is_dir() {
            usable(rustls_native_certs::load_certs_from_paths(None, Some(&path)).certs)
        } else {
            certificates::read(&path).map_err(|why| {
                Failure::usage(format!("{setting}: {why}"))
                    .hint("it must be a PEM file, or a directory of them")
            })?
        };
        Self::of(&certificates, source)
    }

    /// Usable certificates, of which there must be one.
    fn of(certificates: &[CertificateDer], source: String) -> Result<Self, Failure> {
        if certificates.is_empty() {
            return Err(Failure::usage(format!("there is no certificate in {source}"))
                .hint("pass the authorities' certificates in PEM format"));
        }
        Ok(Self { pem: encode(certificates), source: Some(source) })
    }

    pub fn tls_context(&self) -> TlsContext {
        let store = TrustStore::empty().with_pem_certificate(self.pem.as_bytes());
        TlsContext::builder().with_trust_store(store).build().unwrap_or_default()
    }
}

fn encode(certificates: &[CertificateDer]) -> String {
    let mut pem = String::new();
    for certificate in certificates {
        let text = BASE64_STANDARD.encode(certificate);
        let _ = writeln!(pem, "-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----");
    }
    pem
}
