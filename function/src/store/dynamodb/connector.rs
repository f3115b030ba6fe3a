//! HTTP/1.1 over TLS to DynamoDB, for the Lambda function. The SDK's connector can also do HTTP/2 and proxies, which the function does
//! not need, but each cold start would load.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        http::{HttpConnector, HttpConnectorFuture},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
    },
};
use aws_smithy_types::body::SdkBody;
use http_body_util::BodyExt;
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// Sends requests, each on a separate connection, which later ones use again. There is no time limit, because the SDK drops the future
/// of a call that takes too long, and the connection with it.
#[derive(Clone, Debug)]
pub struct Connector {
    tls: Arc<ClientConfig>,
    /// The connections that no request uses.
    idle: Arc<Mutex<Vec<Connection>>>,
}

#[derive(Debug)]
struct Connection {
    origin: Origin,
    sender: SendRequest<SdkBody>,
}

impl Connector {
    pub fn new(authorities: RootCertStore) -> Self {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports these versions of TLS")
            .with_root_certificates(authorities)
            .with_no_client_auth();
        Self { tls: Arc::new(tls), idle: Arc::default() }
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let (origin, mut request) = for_connection(request).map_err(ConnectorError::user)?;
        while let Some(mut connection) = self.take(&origin) {
            // The server may have closed the connection.
            if connection.sender.ready().await.is_err() {
                continue;
            }
            match connection.sender.try_send_request(request).await {
                Ok(response) => return self.finish(connection, response).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(ConnectorError::io(error.into_error().into())),
                },
            }
        }
        let mut connection = self.connect(origin).await.map_err(ConnectorError::io)?;
        match connection.sender.send_request(request).await {
            Ok(response) => self.finish(connection, response).await,
            Err(error) => Err(ConnectorError::io(error.into())),
        }
    }

    /// Reads the response. After an internal error of the server, the connection is closed, so that a retry may reach another one.
    async fn finish(
        &self,
        connection: Connection,
        response: Response<Incoming>,
    ) -> Result<HttpResponse, ConnectorError> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| ConnectorError::io(error.into()))?;
        if !head.status.is_server_error() {
            self.idle().push(connection);
        }
        Response::from_parts(head, SdkBody::from(body.to_bytes()))
            .try_into()
            .map_err(|error| ConnectorError::other(BoxError::from(error), None))
    }

    /// The connection to this origin that was used last.
    fn take(&self, origin: &Origin) -> Option<Connection> {
        let mut idle = self.idle();
        idle.retain(|connection| !connection.sender.is_closed());
        let last = idle.iter().rposition(|connection| connection.origin == *origin)?;
        Some(idle.remove(last))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, origin: Origin) -> Result<Connection, BoxError> {
        let stream = TcpStream::connect((origin.name(), origin.port)).await?;
        stream.set_nodelay(true)?;
        let sender = if origin.is_tls {
            let name = ServerName::try_from(origin.name().to_owned())?;
            let tls = TlsConnector::from(Arc::clone(&self.tls));
            start(tls.connect(name, stream).await?).await?
        } else {
            start(stream).await?
        };
        Ok(Connection { origin, sender })
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connector = self.clone();
        HttpConnectorFuture::new(async move { connector.send(request).await })
    }
}

/// Starts the task that reads and writes the stream.
async fn start(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> hyper::Result<SendRequest<SdkBody>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Requests get its errors.
    tokio::spawn(async { drop(connection.await) });
    Ok(sender)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    is_tls: bool,
    /// IPv6 addresses are in brackets.
    host: String,
    port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let is_tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(Self::default_port(is_tls));
        Some(Self { is_tls, host: uri.host()?.to_owned(), port })
    }

    const fn default_port(is_tls: bool) -> u16 {
        if is_tls { 443 } else { 80 }
    }

    fn name(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// The value of the header `Host`, as the SDK signs it.
    fn header(&self) -> String {
        if self.port == Self::default_port(self.is_tls) {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The request as it is sent on a connection: with the path only, and the host in a header.
fn for_connection(request: HttpRequest) -> Result<(Origin, Request<SdkBody>), BoxError> {
    let mut request = request.try_into_http1x()?;
    let uri = request.uri();
    let origin = Origin::of(uri).ok_or_else(|| format!("`{uri}` is not an endpoint's URL"))?;
    *request.uri_mut() = uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    request.headers_mut().insert(HOST, HeaderValue::try_from(origin.header())?);
    Ok((origin, request))
}

#[cfg(test)]
mod tests;
