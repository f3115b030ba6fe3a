//! The client of the service, and what is counted of its calls.

use std::{cell::Cell, time::Duration};

use aws_config::{
    BehaviorVersion,
    environment::{EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider},
    meta::region::ProvideRegion,
    retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_dynamodb::{
    Client,
    config::{
        Builder, ConfigBag, Intercept, RuntimeComponents,
        interceptors::BeforeTransmitInterceptorContextRef,
    },
    error::BoxError,
};
use aws_smithy_http_client::{
    Connector,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::{SharedHttpConnector, http_client_fn};

use super::{DynamoDb, Error};

/// One try of one call. A call to DynamoDB takes a few milliseconds, and a lost one is worth a quick second try.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1200);

/// A call with its retries: inside the [deadline](crate::api::DEADLINE) of a request, so that the caller gets an answer.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);

/// Tries of one call. Every call is safe to repeat: a write that was carried out although its answer got lost fails its condition
/// on the second try, and the rules then find what it has done.
const ATTEMPTS: u32 = 3;

/// The longest pause before a second try; the third's is twice as long. The SDK's own is a second.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The key of no item, for [`DynamoDb::warm_up`]: cluster ids have no white space.
const NO_CLUSTER: &str = " ";

impl DynamoDb {
    /// Does in advance what the first call would wait for: credentials, name resolution, connection, TLS. The error says why the
    /// table cannot be read.
    pub async fn warm_up(&self) -> Result<(), Error> {
        self.items(NO_CLUSTER).await.map(drop)
    }
}

tokio::task_local! {
    static CALLS: Cell<u32>;
}

/// What the work comes to, and how many calls to the table it took, repeated ones among them.
pub async fn counting_calls<T>(work: impl Future<Output = T>) -> (T, u32) {
    CALLS
        .scope(Cell::new(0), async {
            let done = work.await;
            (done, CALLS.with(Cell::get))
        })
        .await
}

/// Counts the calls, as they are sent.
#[derive(Debug)]
struct Counter;

impl Intercept for Counter {
    fn name(&self) -> &'static str {
        "Counter"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // Outside of a request nobody counts.
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
        Ok(())
    }
}

/// A client for DynamoDB, set up as the environment says: `AWS_REGION`, the credentials' variables, `AWS_ENDPOINT_URL_DYNAMODB` or
/// `AWS_ENDPOINT_URL`, and `AWS_USE_FIPS_ENDPOINT`.
///
/// Lambda gives a function all of them there. The SDK's whole chain (profiles, instance metadata, STS, …) would find the same, and
/// be a quarter of the function and a third of its start.
///
/// TLS comes from *ring*: the SDK's default provider spends 38 ms of CPU on entropy before its first connection, half a
/// second of a small function's cold start. And there is one connector, made here: left to itself, the SDK makes a first one, to
/// see whether it can, and a second to use, each with all the certificates that are to be trusted.
pub async fn client() -> Client {
    let connector = Connector::builder().tls_provider(Provider::Rustls(CryptoMode::Ring)).build();
    let connector = SharedHttpConnector::new(connector);
    let http = http_client_fn(move |_, _| connector.clone());
    let mut config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(EnvironmentVariableRegionProvider::new().region().await)
        .credentials_provider(EnvironmentVariableCredentialsProvider::new())
        .http_client(http);
    config.set_endpoint_url(
        variable("AWS_ENDPOINT_URL_DYNAMODB").or_else(|| variable("AWS_ENDPOINT_URL")),
    );
    config.set_use_fips(variable("AWS_USE_FIPS_ENDPOINT").map(|wanted| wanted == "true"));
    Client::from_conf(for_requests(config).build())
}

/// The time limits and retries that fit into a request's [deadline](crate::api::DEADLINE), and the count of calls for the log.
pub fn for_requests(config: Builder) -> Builder {
    config
        .retry_config(
            RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(FIRST_BACKOFF),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .operation_timeout(OPERATION_TIMEOUT)
                .build(),
        )
        .interceptor(Counter)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
