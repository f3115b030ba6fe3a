//! The SDK client with its time limits, and the count of its calls.

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

/// The time limit of one attempt. Short, because a call to DynamoDB takes a few milliseconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1200);

/// The time limit of a call with its retries: within the [deadline](crate::api::DEADLINE) of a request.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);

/// Every call is safe to repeat: after a lost response, the condition of the repeated write fails, and the rules recognise the effect of
/// the first one.
const ATTEMPTS: u32 = 3;

/// The longest pause before the second attempt; twice as long before the third. The SDK's default is a second.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// A key without an item, for [`DynamoDb::warm_up`]: cluster IDs have no white space.
const NO_CLUSTER: &str = " ";

impl DynamoDb {
    /// Loads credentials and connects, so that the first request does not wait for it.
    pub async fn warm_up(&self) -> Result<(), Error> {
        self.items(NO_CLUSTER).await.map(drop)
    }
}

tokio::task_local! {
    static CALLS: Cell<u32>;
}

/// The result of the work, and the number of calls to the table it made, including retries.
pub async fn counting_calls<T>(work: impl Future<Output = T>) -> (T, u32) {
    CALLS
        .scope(Cell::new(0), async {
            let done = work.await;
            (done, CALLS.with(Cell::get))
        })
        .await
}

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
        // Calls outside of a request are not counted.
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
        Ok(())
    }
}

/// A client for DynamoDB, configured by the environment: `AWS_REGION`, the variables of credentials, `AWS_ENDPOINT_URL_DYNAMODB` or
/// `AWS_ENDPOINT_URL`, and `AWS_USE_FIPS_ENDPOINT`.
///
/// Lambda sets these variables. The SDK's default chain (profiles, instance metadata, STS, …) would find the same values, but makes up a
/// quarter of the function's size and a third of its start.
///
/// TLS uses *ring*: the SDK's default provider spends 38 ms of CPU on entropy before its first connection, which is half a second of a
/// small function's cold start. The connector is created here because the SDK would create two, each with all trusted certificates.
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
    config.set_use_fips(variable("AWS_USE_FIPS_ENDPOINT").map(|value| value == "true"));
    Client::from_conf(for_requests(config).build())
}

/// Sets the time limits and retries that fit into a request's [deadline](crate::api::DEADLINE), and counts the calls for the log.
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
