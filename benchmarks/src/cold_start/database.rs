//! DynamoDB over TLS, with a fixed answer.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cbbootstrap_tests::network::Authority;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HOST},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    },
};

const NAME: &str = "localhost";
const JSON: &str = "application/x-amz-json-1.0";
const TARGET: &str = "x-amz-target";
const UPDATE_ITEM: &str = "DynamoDB_20120810.UpdateItem";

/// The trusted certificates of Linux distributions; the first is Lambda's.
const SYSTEM_BUNDLES: [&str; 3] = [
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// The certificates that our function trusts in AWS.
const AMAZON: &str = include_str!("../../../function/src/store/dynamodb/amazon.pem");

/// A database in which each claim succeeds.
#[derive(Debug)]
pub struct Database {
    address: SocketAddr,
    authority: CertificateDer<'static>,
    trusted: TempDir,
    updates: Arc<Mutex<Vec<Bytes>>>,
}

impl Database {
    /// Starts a database that answers each update with this item.
    pub async fn start(item: &Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("there is a free port");
        let address = listener.local_addr().expect("a socket has an address");
        let authority = Authority::default();
        let trusted = tempfile::tempdir().expect("temporary directories can be created");
        let roots = SYSTEM_BUNDLES.iter().find_map(|path| fs::read_to_string(path).ok());
        let write = |name, content: String| {
            fs::write(trusted.path().join(name), content).expect("a file can be written");
        };
        write("own.pem", authority.pem());
        write("amazon.pem", AMAZON.to_owned() + &authority.pem());
        write("all.pem", roots.unwrap_or_default() + &authority.pem());
        let updates = Arc::default();
        tokio::spawn(serve(listener, authority.acceptor(NAME), item.clone(), Arc::clone(&updates)));
        Self { address, authority: authority.der(), trusted, updates }
    }

    /// For `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("https://{NAME}:{}", self.address.port())
    }

    /// A file with the system's certificates and the database's: as many as a function in Lambda reads.
    pub fn trusted(&self) -> PathBuf {
        self.trusted.path().join("all.pem")
    }

    /// A file with Amazon's own certificate authorities and the database's.
    pub fn amazon(&self) -> PathBuf {
        self.trusted.path().join("amazon.pem")
    }

    /// A file with the database's certificate only, for runtimes with built-in certificates.
    pub fn own_certificate(&self) -> PathBuf {
        self.trusted.path().join("own.pem")
    }

    /// The number of certificates in [`Self::trusted`].
    pub fn certificates(&self) -> usize {
        let pem = fs::read_to_string(self.trusted()).unwrap_or_default();
        pem.matches("BEGIN CERTIFICATE").count()
    }

    /// Takes the bodies of the `UpdateItem` calls since the last call of this function.
    pub fn updates(&self) -> Vec<Bytes> {
        std::mem::take(&mut lock(&self.updates))
    }

    /// How long `UpdateItem` takes a minimal client on one connection.
    pub async fn round_trips(&self, update: Bytes, count: usize) -> Vec<Duration> {
        let (address, authority) = (self.address, self.authority.clone());
        let client = tokio::task::spawn_blocking(move || {
            crate::block_on(measure_updates(address, authority, update, count))
        });
        let samples = client.await.expect("the client does not panic");
        self.updates();
        samples
    }
}

async fn measure_updates(
    address: SocketAddr,
    authority: CertificateDer<'static>,
    update: Bytes,
    count: usize,
) -> Vec<Duration> {
    let mut roots = RootCertStore::empty();
    roots.add(authority).expect("it is a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("there are protocols")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.expect("the database listens");
    stream.set_nodelay(true).expect("a socket can be set up");
    let name = ServerName::try_from(NAME).expect("it is a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = TokioIo::new(stream.expect("the database is trusted"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.expect("it speaks HTTP");
    tokio::spawn(connection);
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        let request = Request::post("/")
            .header(HOST, NAME)
            .header(CONTENT_TYPE, JSON)
            .header(TARGET, UPDATE_ITEM)
            .body(Full::new(update.clone()))
            .expect("it is a request");
        let since = Instant::now();
        let response = sender.send_request(request).await.expect("the database answers");
        response.into_body().collect().await.expect("the database answers");
        samples.push(since.elapsed());
    }
    samples
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    item: Value,
    updates: Arc<Mutex<Vec<Bytes>>>,
) {
    let done = Bytes::from(json!({"Attributes": item}).to_string());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (tls, updates, done) = (tls.clone(), Arc::clone(&updates), done.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let service = service_fn(|request| respond(request, &updates, &done));
            // The connection ends with the function.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    updates: &Mutex<Vec<Bytes>>,
    done: &Bytes,
) -> hyper::Result<Response<Full<Bytes>>> {
    let is_update = request.headers().get(TARGET).is_some_and(|target| target == UPDATE_ITEM);
    let body = request.into_body().collect().await?.to_bytes();
    let answer = if is_update {
        lock(updates).push(body);
        done.clone()
    } else {
        // An item that does not exist.
        Bytes::from_static(b"{}")
    };
    let mut response = Response::new(Full::new(answer));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(JSON));
    headers.insert(
        "x-amzn-requestid",
        hyper::header::HeaderValue::from_static(
            "A0B1C2D3E4F5G6H7I8J9K0L1M2N3O4P5Q6R7S8T9U0VV4KQNSO5AEMVJF66Q9ASUAAJG",
        ),
    );
    Ok(response)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
