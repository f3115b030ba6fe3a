//! The HTTP client of all calls that leave this machine: proxies, trusted authorities, and errors that name them.

mod names;
mod trust;

use std::{path::PathBuf, sync::Arc, time::Duration};

use aws_smithy_http_client::{
    Builder, Connector,
    proxy::ProxyConfig,
    tls::{self, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
        SharedHttpConnector, http_client_fn,
    },
    orchestrator::HttpRequest,
    result::ConnectorError,
};
use aws_smithy_types::{body::SdkBody, byte_stream::ByteStream};
use axum::http::{Request, Uri};
use cbbootstrap_cli::{
    certificates,
    environment::variable_os,
    proxy::{self, Proxies, Proxy},
};
use thiserror::Error;

use crate::{causes::causes, failure::Failure};
use names::Resolver;
use trust::Trust;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most that is read of an answer: those of the API are far shorter.
const LONGEST_ANSWER: usize = 1 << 20;

/// A file with certificates, and the setting that names it.
#[derive(Debug)]
pub struct Bundle {
    pub path: PathBuf,
    pub setting: String,
}

/// An endpoint that is called instead of AWS's, and the setting that names it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub origin: String,
    pub setting: String,
}

/// How to call hosts: through which proxy, and whose certificates to accept.
#[derive(Clone, Debug)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    proxies: Proxies,
    trust: Trust,
    /// For messages.
    endpoint: Option<Endpoint>,
}

impl Network {
    /// The proxies of the environment, and the authorities of the bundle or else of the system.
    pub fn new(bundle: Option<Bundle>, endpoint: Option<Endpoint>) -> Result<Self, Failure> {
        Self::with(Proxies::read(variable_os)?, bundle, endpoint)
    }

    /// Without proxies.
    pub fn direct(bundle: Option<Bundle>) -> Result<Self, Failure> {
        Self::with(Proxies::default(), bundle, None)
    }

    fn with(
        proxies: Proxies,
        bundle: Option<Bundle>,
        endpoint: Option<Endpoint>,
    ) -> Result<Self, Failure> {
        let trust = bundle.map_or_else(Trust::system, Trust::read)?;
        Ok(Self(Arc::new(Inner { proxies, trust, endpoint })))
    }

    pub fn client(&self) -> SharedHttpClient {
        let clients = self.routes(|route| {
            let (network, route) = (self.clone(), route.clone());
            Builder::new().build_with_connector_fn(move |settings, _| {
                network.connector(route.as_ref(), settings.cloned().unwrap_or_default())
            })
        });
        let network = self.clone();
        http_client_fn(move |settings, components| {
            let connectors = clients.iter().map(|(client, route)| {
                (client.http_connector(settings, components), route.clone())
            });
            let connectors = connectors.collect();
            SharedHttpConnector::new(Connectors { network: network.clone(), connectors })
        })
    }

    /// Sends a request and reads the answer, all within a time limit.
    pub fn sender(&self, timeout: Duration) -> Sender {
        let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
        let connectors = self.routes(|route| {
            SharedHttpConnector::new(self.connector(route.as_ref(), settings.clone()))
        });
        Sender { connectors: Connectors { network: self.clone(), connectors }, timeout }
    }

    /// The proxy for a URL, and the authorities that are trusted instead of the system's.
    pub fn route(&self, url: &Uri) -> (Option<String>, Option<String>) {
        let Inner { proxies, trust, .. } = &*self.0;
        (proxies.for_url(url).map(ToString::to_string), trust.source.clone())
    }

    /// The setting that names the endpoint at this origin.
    pub fn endpoint_setting(&self, origin: &str) -> Option<&str> {
        let endpoint = self.0.endpoint.as_ref().filter(|endpoint| endpoint.origin == origin);
        endpoint.map(|endpoint| endpoint.setting.as_str())
    }

    /// One for calls without a proxy, and one for each proxy.
    fn routes<T>(&self, make: impl Fn(&Option<Proxy>) -> T) -> Routes<T> {
        let proxies = self.0.proxies.all().map(Some);
        [None].into_iter().chain(proxies).map(|route| (make(&route), route)).collect()
    }

    fn connector(&self, route: Option<&Proxy>, settings: HttpConnectorSettings) -> Connector {
        let mut builder = Connector::builder()
            .connector_settings(settings)
            .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
            .tls_context(self.0.trust.tls_context());
        builder.set_proxy_config(route.and_then(|proxy| ProxyConfig::all(proxy.url()).ok()));
        builder.build_with_resolver(Resolver)
    }
}

type Routes<T> = Vec<(T, Option<Proxy>)>;

/// Chooses the connector for each request.
#[derive(Clone, Debug)]
struct Connectors {
    network: Network,
    connectors: Routes<SharedHttpConnector>,
}

impl HttpConnector for Connectors {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Inner { proxies, trust, .. } = &*self.network.0;
        let url = request.uri().parse::<Uri>().unwrap_or_default();
        let proxy = proxies.for_url(&url);
        let connector = self.connectors.iter().find(|(_, route)| route.as_ref() == proxy);
        let Some((connector, _)) = connector else {
            let error = ConnectorError::user("no connector for this proxy".into());
            return HttpConnectorFuture::ready(Err(error));
        };
        let is_tls = url.scheme_str() == Some("https");
        let origin = origin(&url).unwrap_or_default();
        let unreachable = Unreachable {
            setting: self.network.endpoint_setting(&origin).map(ToOwned::to_owned),
            origin,
            proxy: proxy.map(ToString::to_string),
            authorities: trust.source.clone().filter(|_| is_tls),
            source: "the proxy asks for a user name and password".into(),
        };
        let answer = connector.call(request);
        HttpConnectorFuture::new(async move {
            match answer.await {
                // To a tunnel, the same answer is an error already.
                Ok(answer) if answer.status().as_u16() == 407 => {
                    Err(ConnectorError::user(unreachable.into()))
                }
                Ok(mut answer) => {
                    answer.add_extension(Responder(unreachable.way()));
                    Ok(answer)
                }
                Err(error) => Err(unreachable.explain(error)),
            }
        })
    }
}

/// A URL's scheme, host and port: the rest may hold a password.
pub fn origin(url: &Uri) -> Option<String> {
    let port = url.port_u16().map_or_else(String::new, |port| format!(":{port}"));
    Some(format!("{}://{}{port}", url.scheme_str()?, url.host()?))
}

/// Where an answer comes from: its extension.
#[derive(Clone, Debug)]
pub struct Responder(pub String);

/// A host that could not be reached, and by which way.
#[derive(Debug, Error)]
#[error(
    "cannot reach {}{}", self.way(), clause(" with the certificates of ", .authorities.as_deref())
)]
pub struct Unreachable {
    /// Scheme, host and port.
    origin: String,
    /// The one that leads there instead of to AWS.
    setting: Option<String>,
    proxy: Option<String>,
    /// Where the trusted authorities come from, unless they are the system's.
    authorities: Option<String>,
    source: BoxError,
}

fn clause(before: &str, value: Option<&str>) -> String {
    value.map(|value| format!("{before}{value}")).unwrap_or_default()
}

impl Unreachable {
    fn way(&self) -> String {
        let setting = self.setting.as_ref().map(|setting| format!(" ({setting})"));
        let proxy = clause(" through the proxy ", self.proxy.as_deref());
        format!("`{}`{}{proxy}", self.origin, setting.unwrap_or_default())
    }

    /// The error of the same kind, on which retries depend, with the way to the host.
    fn explain(self, error: ConnectorError) -> ConnectorError {
        let (is_timeout, is_io, is_user) = (error.is_timeout(), error.is_io(), error.is_user());
        let (kind, connection) = (error.as_other(), error.connection_metadata().cloned());
        let mut source = error.into_source();
        if causes(&*source).contains("tunnel error: unsuccessful") {
            // It does not tell the status.
            source = format!("{}, or is not an HTTP proxy", proxy::REFUSES).into();
        }
        let source = Box::new(Self { source, ..self });
        let error = match (is_timeout, is_io, is_user) {
            (true, ..) => ConnectorError::timeout(source),
            (_, true, _) => ConnectorError::io(source),
            (_, _, true) => ConnectorError::user(source),
            _ => ConnectorError::other(source, kind),
        };
        match connection {
            Some(connection) => error.with_connection(connection),
            None => error,
        }
    }

    pub fn hint(&self) -> &'static str {
        let causes = causes(self);
        // The user cannot change a certificate of AWS, or of a network that inspects TLS.
        if self.setting.is_some()
            && let Some(advice) = certificates::advice(&causes)
        {
            return advice;
        }
        let is_of_another_time =
            causes.contains("certificate expired") || causes.contains("not valid yet");
        match (causes.contains("certificate:"), &self.authorities, &self.proxy) {
            (true, ..) if is_of_another_time => {
                "check this machine's clock; if it is right, the server or the inspecting proxy needs another certificate"
            }
            (true, Some(_), _) => {
                "add the authority that signed the server's or the inspecting proxy's certificate to that file"
            }
            (true, None, _) => {
                "if your network inspects TLS, set `AWS_CA_BUNDLE` to a PEM file with its authority's certificate"
            }
            (_, _, Some(_)) => proxy::advice(&causes),
            _ => {
                "check that the region exists, and that the network allows the connection; behind a proxy, set `HTTPS_PROXY`"
            }
        }
    }
}

/// Sends requests other than the SDK's.
#[derive(Clone, Debug)]
pub struct Sender {
    connectors: Connectors,
    /// For one request and its answer.
    timeout: Duration,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub text: String,
}

impl Sender {
    pub async fn send(&self, request: Request<String>) -> Result<Answer, BoxError> {
        let answer = tokio::time::timeout(self.timeout, self.exchange(request));
        answer.await.unwrap_or_else(|_| Err("no response in time".into()))
    }

    async fn exchange(&self, request: Request<String>) -> Result<Answer, BoxError> {
        let request = HttpRequest::try_from(request.map(SdkBody::from))?;
        let answer = self.connectors.call(request).await.map_err(ConnectorError::into_source)?;
        let (status, content_type) =
            (answer.status().as_u16(), answer.headers().get("content-type"));
        let content_type = content_type.unwrap_or_default().to_owned();
        let (mut body, mut bytes) = (ByteStream::new(answer.into_body()), Vec::new());
        while let Some(part) = body.next().await {
            bytes.extend_from_slice(&part?);
            if bytes.len() > LONGEST_ANSWER {
                return Err("the answer is too long".into());
            }
        }
        Ok(Answer { status, content_type, text: String::from_utf8_lossy(&bytes).into_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_that_the_user_can_change_are_explained() {
        let hint = |setting: Option<&str>, why: &str| {
            let unreachable = Unreachable {
                origin: "https://sts.amazonaws.com".to_owned(),
                setting: setting.map(ToOwned::to_owned),
                proxy: None,
                authorities: None,
                source: format!("invalid peer certificate: {why}").into(),
            };
            unreachable.hint()
        };
        let (own, name) = (Some("`AWS_ENDPOINT_URL`"), "certificate not valid for name \"a\"");
        assert!(hint(own, name).starts_with("use a name in the server's"));
        assert!(hint(None, name).starts_with("if your network inspects TLS"));
        for why in ["certificate expired: verification time 1", "certificate not valid yet"] {
            assert!(hint(own, why).contains("correct the clock"));
            assert!(hint(None, why).starts_with("check this machine's clock"));
        }
    }
}
