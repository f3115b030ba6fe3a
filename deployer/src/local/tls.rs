//! TLS with a certificate that is reloaded when its file changes.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use cbbootstrap_cli::{certificates, files, text};
use rustls::{
    CertificateError, Error, RootCertStore, ServerConfig,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::ring::default_provider,
    pki_types::{PrivateKeyDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio::task::spawn_blocking;

use crate::failure::Failure;

/// How often the files are read.
const RELOAD_EVERY: Duration = Duration::from_secs(2);

/// A certificate and its key, in two PEM files.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    pem: (Vec<u8>, Vec<u8>),
    /// The configuration for new connections.
    pub current: Arc<ArcSwap<ServerConfig>>,
}

impl Tls {
    pub fn open(certificate: PathBuf, key: PathBuf) -> Result<Self, Failure> {
        let unusable = |reason: String| {
            let (certificate, key) = (certificate.display(), key.display());
            Failure::usage(format!("cannot use the TLS certificate `{certificate}` with the key `{key}`: {reason}"))
                .hint("`--tls-cert` and `--tls-key` take PEM files: the certificate with its chain, and its private key")
        };
        let read = |file: &PathBuf| {
            files::read(file).map_err(|error| unusable(format!("`{}`: {error}", file.display())))
        };
        let pem = (read(&certificate)?, read(&key)?);
        let config = server_config(&pem.0, &pem.1).map_err(unusable)?;
        let current = Arc::new(ArcSwap::from_pointee(config));
        Ok(Self { certificate, key, pem, current })
    }

    /// Why clients will refuse the certificate, whatever authorities they trust.
    pub fn warning(&self) -> Option<String> {
        let chain = certificates::chain(&self.pem.0).ok()?;
        let certificate = ParsedCertificate::try_from(chain.first()?).ok()?;
        let algorithms = default_provider().signature_verification_algorithms.all;
        let (none, now) = (RootCertStore::empty(), UnixTime::now());
        let verified =
            verify_server_cert_signed_by_trust_anchor(&certificate, &none, &[], now, algorithms);
        // Without authorities, this is the last check.
        let last = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let error = verified.err().filter(|error| *error != last)?.to_string();
        let advice = certificates::advice(&error).unwrap_or("replace it");
        let file = self.certificate.display();
        Some(format!("warning: clients will refuse the certificate `{file}` ({error}): {advice}"))
    }

    /// Reads the files from time to time. The two are not replaced at the same moment, so files that do not match are read again.
    pub async fn reload(mut self, report: impl Fn(String)) {
        let mut paths = [&self.certificate, &self.key].into_iter();
        if let Err(why) = paths.try_for_each(|file| files::check_readable_again(file)) {
            return report(why.to_string());
        }
        let mut unusable = None;
        loop {
            tokio::time::sleep(RELOAD_EVERY).await;
            let paths = [self.certificate.clone(), self.key.clone()];
            // A file that cannot be read counts as empty, and is reported once.
            let read = |path: PathBuf| files::read(&path).unwrap_or_default();
            let pem =
                spawn_blocking(move || <(_, _)>::from(paths.map(read))).await.unwrap_or_default();
            if pem == self.pem || unusable.as_ref() == Some(&pem) {
                continue;
            }
            match server_config(&pem.0, &pem.1) {
                Ok(config) => {
                    self.current.store(Arc::new(config));
                    self.pem = pem;
                    report("the TLS certificate was replaced".to_owned());
                    self.warning().map(&report);
                }
                Err(reason) => {
                    report(format!(
                        "keeping the current TLS certificate, because the new one cannot be used: {reason}"
                    ));
                    unusable = Some(pem);
                }
            }
        }
    }
}

fn server_config(certificate: &[u8], key: &[u8]) -> Result<ServerConfig, String> {
    let chain =
        certificates::chain(certificate).map_err(|why| format!("the certificate's file: {why}"))?;
    if chain.is_empty() {
        return Err("the certificate's file cannot be read, or has no certificate".to_owned());
    }
    let key = text::unmarked(key);
    if String::from_utf8_lossy(&key).contains("ENCRYPTED") {
        return Err("the key is encrypted; `openssl pkey -in FILE` decrypts it".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| "the key's file cannot be read, or has no private key in PEM".to_owned())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                "the first certificate does not belong to the key".to_owned()
            }
            // The provider does not support the key. Its error has no type.
            Error::General(_) => {
                "the key must be RSA with 2048 to 4096 bits, P-256, P-384 or Ed25519".to_owned()
            }
            error => error.to_string(),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
