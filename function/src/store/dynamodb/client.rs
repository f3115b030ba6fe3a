//! What every client of the table has: time limits, retries, and the count of its calls.

use std::{cell::Cell, time::Duration};

use aws_config::{retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_dynamodb::{
    config::{
        Builder, ConfigBag, Intercept, RuntimeComponents,
        interceptors::BeforeTransmitInterceptorContextRef,
    },
    error::BoxError,
};

use super::{DynamoDb, Error};

/// The time limit of one attempt. Short, because a call to DynamoDB takes a few milliseconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1200);

/// The time limit of a call with its retries: within the [deadline](crate::api::DEADLINE) of a request.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);

/// Every call is safe to repeat: after a lost response, the condition of the repeated write fails, and the rules recognize the effect of
/// the first one.
const ATTEMPTS: u32 = 3;

/// The longest pause before the second attempt; twice as long before the third. The SDK's default is a second.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// A key without an item, for [`DynamoDb::warm_up`]: cluster IDs have no white space.
const NO_CLUSTER: &str = " ";

impl DynamoDb {
    /// Loads credentials and connects.
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
