//! The table, through the AWS SDK: one call a request.

use std::{collections::HashMap, time::Duration};

use aws_config::{BehaviorVersion, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_dynamodb::{
    Client,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    operation::update_item::UpdateItemError,
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use crate::{
    protocol::{ClusterId, FIRST_GENERATION, Node, Record},
    table::{CLUSTER_ID, GENERATION, INITIAL_NODE, STATE},
    wire::State,
};

/// One try of one call. A call to `DynamoDB` takes a few milliseconds, and a lost one is worth a quick second try.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1500);

/// A call with its retries: well inside the function's time limit (10 s), so that the caller gets an answer.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);

/// Tries of one call. Every call is safe to repeat: a claim that was carried out although its answer got lost fails its
/// condition on the second try and finds itself.
const ATTEMPTS: u32 = 3;

/// The id of no cluster, for [`Store::warm_up`]: real ones have no white space.
const NO_CLUSTER: &str = " ";

/// Why the table gave no answer. The messages are for the log, never for a caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It throttles or cannot be reached: worth another try later.
    #[error("{0}")]
    Unavailable(String),
    /// It refused: no such table, no permission.
    #[error("{0}")]
    Failed(String),
    /// The item lacks what every item has.
    #[error("the item has no text attribute `{0}`")]
    Unreadable(&'static str),
}

/// Errors of `DynamoDB` that pass: the throttling ones and its own.
const TRANSIENT: [&str; 6] = [
    "InternalServerError",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "ThrottlingException",
    "TransactionConflictException",
];

impl<E> From<SdkError<E>> for Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    fn from(error: SdkError<E>) -> Self {
        let passes = match &error {
            SdkError::TimeoutError(_)
            | SdkError::DispatchFailure(_)
            | SdkError::ResponseError(_) => true,
            SdkError::ServiceError(service) => {
                service.raw().status().as_u16() >= 500
                    || service
                        .err()
                        .code()
                        .is_some_and(|code| TRANSIENT.contains(&code))
            }
            _ => false,
        };
        let message = DisplayErrorContext(&error).to_string();
        if passes {
            Self::Unavailable(message)
        } else {
            Self::Failed(message)
        }
    }
}

/// The records of all clusters.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    table: String,
}

impl Store {
    /// The table of this name, through a client made by [`client`] or otherwise.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self {
            client,
            table: table.into(),
        }
    }

    /// Claims the cluster for the node in one conditional write, and returns the record that stands afterwards: the
    /// node's own, or that of whoever came first.
    pub async fn claim(&self, cluster_id: &ClusterId, node: &Node) -> Result<Record, Error> {
        let claim = Record::first_claim(cluster_id, node);
        let outcome = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(CLUSTER_ID, AttributeValue::S(claim.cluster_id.clone()))
            .condition_expression("attribute_not_exists(#id)")
            .update_expression("SET #node = :node, #state = :state, #generation = :generation")
            .expression_attribute_names("#id", CLUSTER_ID)
            .expression_attribute_names("#node", INITIAL_NODE)
            .expression_attribute_names("#state", STATE)
            .expression_attribute_names("#generation", GENERATION)
            .expression_attribute_values(":node", AttributeValue::S(claim.initial_node.clone()))
            .expression_attribute_values(
                ":state",
                AttributeValue::S(claim.state.as_str().to_owned()),
            )
            .expression_attribute_values(
                ":generation",
                AttributeValue::N(claim.generation.to_string()),
            )
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match outcome {
            Ok(_) => Ok(claim),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(standing)) => {
                    read(standing.item.clone().unwrap_or_default())
                }
                _ => Err(error.into()),
            },
        }
    }

    /// Reads the cluster's record, consistently; `None` if nobody has claimed it.
    pub async fn status(&self, cluster_id: &ClusterId) -> Result<Option<Record>, Error> {
        self.get(cluster_id.as_str(), true)
            .await?
            .map(read)
            .transpose()
    }

    /// Does what the first call would have to wait for: credentials, name resolution, connection, TLS. It asks for an
    /// item that cannot exist. A failure only means that the first call does it.
    pub async fn warm_up(&self) {
        if let Err(error) = self.get(NO_CLUSTER, false).await {
            tracing::warn!(%error, "the first call to the table failed");
        }
    }

    async fn get(
        &self,
        key: &str,
        consistent: bool,
    ) -> Result<Option<HashMap<String, AttributeValue>>, Error> {
        let output = self
            .client
            .get_item()
            .table_name(&self.table)
            .key(CLUSTER_ID, AttributeValue::S(key.to_owned()))
            .consistent_read(consistent)
            .send()
            .await?;
        Ok(output.item)
    }
}

/// An item as a record. Rows of the original service have neither state nor generation.
fn read(mut item: HashMap<String, AttributeValue>) -> Result<Record, Error> {
    let mut text = |name: &'static str| match item.remove(name) {
        Some(AttributeValue::S(text)) => Ok(text),
        _ => Err(Error::Unreadable(name)),
    };
    let (cluster_id, initial_node) = (text(CLUSTER_ID)?, text(INITIAL_NODE)?);
    let state = match text(STATE).as_deref() {
        Ok("ready") => State::Ready,
        _ => State::Claimed,
    };
    let generation = item
        .get(GENERATION)
        .and_then(|value| value.as_n().ok())
        .and_then(|number| number.parse().ok())
        .unwrap_or(FIRST_GENERATION);
    Ok(Record {
        cluster_id,
        initial_node,
        state,
        generation,
    })
}

/// A client for `DynamoDB`, set up as the environment says (`AWS_REGION`, `AWS_ENDPOINT_URL`, …).
///
/// TLS comes from *ring*: the SDK's default provider spends 38 ms of CPU on entropy before its first connection, half a
/// second of a small function's cold start.
pub async fn client() -> Client {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .operation_timeout(OPERATION_TIMEOUT)
                .build(),
        )
        .load()
        .await;
    Client::new(&config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(attributes: &[(&str, AttributeValue)]) -> HashMap<String, AttributeValue> {
        attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect()
    }

    #[test]
    fn a_row_of_the_original_is_a_claim() {
        let row = item(&[
            ("cluster_id", AttributeValue::S("c".into())),
            (
                "initial_node_ip_addr_or_hostname",
                AttributeValue::S("n".into()),
            ),
        ]);
        let expected = Record {
            cluster_id: "c".into(),
            initial_node: "n".into(),
            state: State::Claimed,
            generation: 1,
        };
        assert_eq!(read(row).unwrap(), expected);
    }

    #[test]
    fn a_row_without_a_node_is_an_error() {
        let row = item(&[("cluster_id", AttributeValue::S("c".into()))]);
        assert!(matches!(
            read(row),
            Err(Error::Unreadable("initial_node_ip_addr_or_hostname"))
        ));
    }
}
