//! A company's network: a TLS server with a certificate of a private authority, and a forward proxy that inspects TLS.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

use crate::{front, server::Server};

/// An authority that no system trusts.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Default for Authority {
    fn default() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "The company's authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("keys can be made");
        Self(CertifiedIssuer::self_signed(params, key).expect("certificates can be made"))
    }
}

impl Authority {
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// Accepts TLS connections to this host.
    pub fn acceptor(&self, host: &str) -> TlsAcceptor {
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("it is a host");
        // Python requires it.
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.0).expect("certificates can be made");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("rcgen writes PKCS#8");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider knows the versions")
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(certificate)], key);
        TlsAcceptor::from(Arc::new(config.expect("the key fits")))
    }
}

/// A TLS server before a server that speaks plain HTTP.
pub struct TlsFront {
    pub url: String,
    _server: Server,
}

impl TlsFront {
    /// Starts one for `localhost` on a free port.
    pub fn before(upstream: &str, authority: &Authority) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        Self::at(socket.expect("there is a free port"), "localhost", upstream, authority)
    }

    /// Starts one for this host.
    pub fn at(socket: TcpListener, host: &str, upstream: &str, authority: &Authority) -> Self {
        let address = socket.local_addr().expect("a socket has an address");
        let (upstream, acceptor) = (upstream.to_owned(), authority.acceptor(host));
        let server = Server::on(socket, async move |listener| {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await?;
                    front::pass(TokioIo::new(stream), upstream, "", None).await;
                    io::Result::Ok(())
                });
            }
        });
        Self { url: format!("https://{host}:{}", address.port()), _server: server }
    }
}

/// A forward proxy. It ends the TLS of each tunnel itself, and passes all requests to one server whatever host they are for.
pub struct ForwardProxy {
    pub url: String,
    shared: Arc<Shared>,
    _server: Server,
}

struct Shared {
    authority: Authority,
    upstream: String,
    /// `USER:PASSWORD`.
    credentials: Option<String>,
    targets: Mutex<Vec<String>>,
}

impl ForwardProxy {
    pub fn before(upstream: &str, credentials: Option<&str>) -> Self {
        let shared = Arc::new(Shared {
            authority: Authority::default(),
            upstream: upstream.to_owned(),
            credentials: credentials.map(ToOwned::to_owned),
            targets: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        let server = Server::start(async move |listener| {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                tokio::spawn(async move { shared.serve(stream).await });
            }
        });
        Self { url: server.url.clone(), shared, _server: server }
    }

    /// The certificate of the authority that signs for all hosts.
    pub fn authority(&self) -> String {
        self.shared.authority.pem()
    }

    /// The hosts that were asked for, with their ports.
    pub fn targets(&self) -> Vec<String> {
        self.shared.targets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).push(target.to_owned());
        let expected =
            self.credentials.as_ref().map(|c| format!("Basic {}", BASE64_STANDARD.encode(c)));
        let is_allowed = expected.is_none_or(|expected| {
            head.lines().any(|line| {
                line.split_once(": ").is_some_and(|(name, value)| {
                    name.eq_ignore_ascii_case("proxy-authorization") && value == expected
                })
            })
        });
        if !is_allowed {
            let refusal =
                b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
            return stream.write_all(refusal).await;
        }
        if method != "CONNECT" {
            // One request is enough for a test.
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            return stream.write_all(answer).await;
        }
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
        let stream = self.authority.acceptor(host).accept(stream).await?;
        front::pass(TokioIo::new(stream), self.upstream.clone(), "", None).await;
        Ok(())
    }
}
