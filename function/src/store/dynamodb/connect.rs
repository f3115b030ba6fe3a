//! The Lambda function's connection to the table.

use aws_config::{
    BehaviorVersion,
    environment::{EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider},
    meta::region::ProvideRegion,
};
use aws_sdk_dynamodb::Client;
use aws_smithy_runtime_api::client::http::{SharedHttpConnector, http_client_fn};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{DynamoDb, client::for_requests, connector::Connector};

/// Amazon's own certificate authorities, which sign the certificates of all AWS endpoints:
/// <https://www.amazontrust.com/repository/>
const AMAZON: &[u8] = include_bytes!("amazon.pem");

/// The certificate authorities that a client trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authorities {
    /// Reading the system's, about 145, takes a fifth of the function's start.
    Amazon,
    System,
}

impl Authorities {
    /// The system's where the environment names an endpoint or certificates, or the endpoint is not in AWS's usual regions.
    fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        const OTHERS: [&str; 5] =
            [ENDPOINT, DYNAMODB_ENDPOINT, FIPS, "SSL_CERT_FILE", "SSL_CERT_DIR"];
        // China, the European sovereign cloud and the isolated partitions.
        const PARTITIONS: [&str; 4] = ["cn-", "eusc-", "us-iso", "eu-iso"];
        let region = variable("AWS_REGION").unwrap_or_default();
        let is_usual = !PARTITIONS.iter().any(|prefix| region.starts_with(prefix))
            && OTHERS.iter().all(|name| variable(name).is_none());
        if is_usual { Self::Amazon } else { Self::System }
    }

    fn certificates(self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(match self {
            Self::Amazon => CertificateDer::pem_slice_iter(AMAZON).filter_map(Result::ok).collect(),
            Self::System => rustls_native_certs::load_native_certs().certs,
        });
        store
    }
}

const ENDPOINT: &str = "AWS_ENDPOINT_URL";
const DYNAMODB_ENDPOINT: &str = "AWS_ENDPOINT_URL_DYNAMODB";
const FIPS: &str = "AWS_USE_FIPS_ENDPOINT";

/// Connects to the table, so that the first request does not wait for it. If the call fails, the first request repeats it, and trusts the
/// system's certificate authorities.
pub async fn connect(table: &str) -> DynamoDb {
    let authorities = Authorities::new(variable);
    let store = DynamoDb::new(client(authorities).await, table);
    let Err(error) = store.warm_up().await else {
        return store;
    };
    tracing::warn!(%error, "the first call to the table failed");
    match authorities {
        Authorities::Amazon => DynamoDb::new(client(Authorities::System).await, table),
        Authorities::System => store,
    }
}

/// A client for DynamoDB, configured by the environment: `AWS_REGION`, the variables of credentials, `AWS_ENDPOINT_URL_DYNAMODB` or
/// `AWS_ENDPOINT_URL`, and `AWS_USE_FIPS_ENDPOINT`.
///
/// Lambda sets these variables. The SDK's default chain (profiles, instance metadata, STS, …) would find the same values, but makes up a
/// quarter of the function's size and a third of its start.
///
/// TLS uses *ring*: the SDK's default provider spends 38 ms of CPU on entropy before its first connection, which is half a second of a
/// small function's cold start.
async fn client(authorities: Authorities) -> Client {
    let connector = SharedHttpConnector::new(Connector::new(authorities.certificates()));
    let http = http_client_fn(move |_, _| connector.clone());
    let mut config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(EnvironmentVariableRegionProvider::new().region().await)
        .credentials_provider(EnvironmentVariableCredentialsProvider::new())
        .http_client(http);
    config.set_endpoint_url(variable(DYNAMODB_ENDPOINT).or_else(|| variable(ENDPOINT)));
    config.set_use_fips(variable(FIPS).map(|value| value == "true"));
    Client::from_conf(for_requests(config).build())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use cbbootstrap_protocol::trust::Fingerprint;

    use super::*;

    #[test]
    fn authorities_are_amazons_for_aws_endpoints_only() {
        for (variables, expected) in [
            (vec![("AWS_REGION", "us-east-1")], Authorities::Amazon),
            (vec![("AWS_REGION", "eu-isoe-west-1")], Authorities::System),
            (vec![("AWS_REGION", "cn-north-1")], Authorities::System),
            (vec![("AWS_REGION", "eusc-de-east-1")], Authorities::System),
            (vec![(ENDPOINT, "https://localhost")], Authorities::System),
            (vec![(DYNAMODB_ENDPOINT, "https://localhost")], Authorities::System),
            (vec![("SSL_CERT_FILE", "/opt/ca.pem")], Authorities::System),
            (vec![("SSL_CERT_DIR", "/opt/ca")], Authorities::System),
            (vec![(FIPS, "true")], Authorities::System),
        ] {
            let variable = |name: &str| {
                let value = variables.iter().find(|(variable, _)| *variable == name);
                value.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(Authorities::new(variable), expected, "{variables:?}");
        }
    }

    /// The SHA-256 fingerprints that Amazon publishes with the certificates.
    #[test]
    fn embedded_authorities_are_amazons() {
        const FINGERPRINTS: [&str; 5] = [
            "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e",
            "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4",
            "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4",
            "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092",
            "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5",
        ];
        let text = std::str::from_utf8(AMAZON).unwrap();
        let bodies = text.split("-----BEGIN CERTIFICATE-----").skip(1).map(|rest| {
            let body = rest.split_once("-----END").unwrap().0;
            BASE64_STANDARD.decode(body.replace('\n', "")).unwrap()
        });
        let fingerprints: Vec<_> =
            bodies.map(|der| Fingerprint::of_certificate(&der).to_string()).collect();
        assert_eq!(fingerprints, FINGERPRINTS);
    }
}
