//! The table, through the AWS SDK: one call a request.
//!
//! Every write is one conditional `UpdateItem`. Its condition is that of the [rules](crate::protocol), in DynamoDB's words; where
//! it fails, DynamoDB answers with the item that stands, and the rules say what follows from it.

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
        ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextRef,
    },
    error::{BoxError, DisplayErrorContext, ProvideErrorMetadata, SdkError},
    operation::update_item::UpdateItemError,
    primitives::Blob,
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure as OnFailure},
};
use aws_smithy_http_client::{
    Connector,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::{SharedHttpConnector, http_client_fn};
use jiff::Timestamp;

use crate::{
    item::{self, Item, Unreadable},
    protocol::{
        Claim, Claimed, ClusterId, FIRST_GENERATION, KEEP_ABANDONED, Leave, Node, Ready, Record,
        Refusal, SecretHash, lapsed_before,
    },
    table::{
        CLAIMED_AT, CLUSTER_ID, CLUSTER_UUID, EXPIRES_AT, GENERATION, INITIAL_NODE,
        LEASE_EXPIRES_AT, NODES, SECRET_HASH, STATE,
    },
    wire::{MAX_NODES, State},
};

/// One try of one call. A call to DynamoDB takes a few milliseconds, and a lost one is worth a quick second try.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1200);

/// A call with its retries: inside the [deadline](crate::api::DEADLINE) of a request, so that the caller gets an answer.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);

/// Tries of one call. Every call is safe to repeat: a claim that was carried out although its answer got lost fails its
/// condition on the second try and finds itself.
const ATTEMPTS: u32 = 3;

/// The longest pause before a second try; the third's is twice as long. The SDK's own is a second.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// How often a leave looks again because others were quicker.
const ROUNDS: usize = 4;

/// The id of no cluster, for [`Store::warm_up`]: real ones have no white space.
const NO_CLUSTER: &str = " ";

/// Why there is no record to answer with. The messages are for the log, never for a caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules say no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The table throttles or cannot be reached: worth another try later.
    #[error("{0}")]
    Unavailable(String),
    /// The table refused: no such table, no permission.
    #[error("{0}")]
    Failed(String),
    /// The item is no record.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The table refused what the rules allow.
    #[error("the table refused a write that the rules allow")]
    Contradiction,
}

/// Errors of DynamoDB that pass: the throttling ones and its own.
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

/// How the expressions name the attributes: some of the names are DynamoDB's own words.
const NAMES: [(&str, &str); 10] = [
    ("#id", CLUSTER_ID),
    ("#initial", INITIAL_NODE),
    ("#state", STATE),
    ("#generation", GENERATION),
    ("#claimed_at", CLAIMED_AT),
    ("#lease", LEASE_EXPIRES_AT),
    ("#nodes", NODES),
    ("#uuid", CLUSTER_UUID),
    ("#secret", SECRET_HASH),
    ("#expires", EXPIRES_AT),
];

/// One conditional write.
struct Write {
    condition: String,
    update: String,
    values: Vec<(&'static str, AttributeValue)>,
}

/// What became of it.
enum Written {
    /// The record, as it is now.
    Done(Record),
    /// The condition does not hold for the record that stands.
    Refused(Option<Record>),
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

    /// Claims the cluster for the node, and returns the record that stands afterwards: the node's own, or that of whoever
    /// came first. One call.
    pub async fn claim(&self, claim: &Claim) -> Result<(Claimed, Record), Error> {
        match self.write(&claim.cluster_id, claim_write(claim)).await? {
            Written::Done(record) if record.generation == FIRST_GENERATION => {
                Ok((Claimed::First, record))
            }
            Written::Done(record) => Ok((Claimed::Takeover, record)),
            Written::Refused(standing) => match claim.on(standing)? {
                (Claimed::First | Claimed::Takeover, _) => Err(Error::Contradiction),
                joined => Ok(joined),
            },
        }
    }

    /// Notes that the node is ready. One call.
    pub async fn ready(&self, ready: &Ready) -> Result<Record, Error> {
        match self.write(&ready.cluster_id, ready_write(ready)).await? {
            Written::Done(record) => Ok(record),
            Written::Refused(standing) => match ready.on(standing) {
                Ok(_) => Err(Error::Contradiction),
                Err(refusal) => Err(refusal.into()),
            },
        }
    }

    /// Notes that the node is gone. One call, and another if it is the node to join.
    pub async fn leave(&self, leave: &Leave) -> Result<Record, Error> {
        let mut write = leave_write(leave);
        for _ in 0..ROUNDS {
            let standing = match self.write(&leave.cluster_id, write).await? {
                Written::Done(record) => return Ok(record),
                Written::Refused(standing) => standing,
            };
            let after = leave.on(standing.clone())?;
            write = match standing {
                Some(before) if before.initial_node == leave.node.as_str() => {
                    hand_over_write(leave, &before, &after)
                }
                _ => leave_write(leave),
            };
        }
        Err(Error::Unavailable(
            "others changed the record again and again".to_owned(),
        ))
    }

    /// Reads the cluster's record, consistently. One call.
    pub async fn status(
        &self,
        cluster_id: &ClusterId,
        secret: Option<&SecretHash>,
    ) -> Result<Record, Error> {
        let item = self.get(cluster_id.as_str(), true).await?;
        let record = item::read(item.ok_or(Refusal::NotFound)?)?;
        Ok(record.shown_to(secret)?)
    }

    /// Does what the first call would have to wait for: credentials, name resolution, connection, TLS. It asks for an
    /// item that cannot exist. A failure only means that the first call does it.
    pub async fn warm_up(&self) {
        if let Err(error) = self.get(NO_CLUSTER, false).await {
            tracing::warn!(%error, "the first call to the table failed");
        }
    }

    async fn get(&self, key: &str, consistent: bool) -> Result<Option<Item>, Error> {
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

    async fn write(&self, cluster_id: &ClusterId, write: Write) -> Result<Written, Error> {
        let Write {
            condition,
            update,
            values,
        } = write;
        let mut call = self.client.update_item().table_name(&self.table);
        for (alias, name) in NAMES {
            if [&condition, &update].iter().any(|text| names(text, alias)) {
                call = call.expression_attribute_names(alias, name);
            }
        }
        for (alias, value) in values {
            call = call.expression_attribute_values(alias, value);
        }
        let outcome = call
            .key(CLUSTER_ID, string(cluster_id.as_str()))
            .condition_expression(condition)
            .update_expression(update)
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .send()
            .await;
        match outcome {
            Ok(output) => Ok(Written::Done(item::read(
                output.attributes.unwrap_or_default(),
            )?)),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(standing)) => {
                    let standing = standing.item.clone().map(item::read).transpose()?;
                    Ok(Written::Refused(standing))
                }
                _ => Err(error.into()),
            },
        }
    }
}

/// Whether the expression uses this name.
fn names(expression: &str, alias: &str) -> bool {
    expression
        .split(|c: char| c != '#' && c != '_' && !c.is_ascii_alphanumeric())
        .any(|word| word == alias)
}

fn claim_write(claim: &Claim) -> Write {
    let mut values = vec![
        (":node", string(claim.node.as_str())),
        (":claimed", string(State::Claimed.as_str())),
        (":zero", number(0)),
        (":one", number(1)),
        (":now", seconds(claim.now)),
        (":lapsed", seconds(lapsed_before(claim.now))),
    ];
    let admitted = admits(claim.secret.as_ref(), &mut values);
    let condition = format!(
        "attribute_not_exists(#id) OR (#state = :claimed AND #lease < :lapsed AND {admitted})"
    );
    let mut update = "SET #initial = :node, #state = :claimed, #claimed_at = :now, \
                      #generation = if_not_exists(#generation, :zero) + :one"
        .to_owned();
    if claim.secret.is_some() {
        update.push_str(", #secret = :secret");
    }
    if let Some(end) = claim.lease_expires_at() {
        update.push_str(", #lease = :lease, #expires = :expires");
        values.push((":lease", seconds(end)));
        values.push((":expires", seconds(end + KEEP_ABANDONED)));
    } else {
        update.push_str(" REMOVE #lease, #expires");
    }
    Write {
        condition,
        update,
        values,
    }
}

fn ready_write(ready: &Ready) -> Write {
    let mut values = vec![
        (":node", string(ready.node.as_str())),
        (
            ":nodes",
            AttributeValue::Ss(vec![ready.node.as_str().to_owned()]),
        ),
        (":ready", string(State::Ready.as_str())),
        (":most", number(MAX_NODES)),
    ];
    let admitted = admits(ready.secret.as_ref(), &mut values);
    let mut condition = format!(
        "attribute_exists(#id) AND {admitted} AND (#initial = :node OR #state = :ready) AND \
         (attribute_not_exists(#nodes) OR size(#nodes) < :most OR contains(#nodes, :node))"
    );
    let mut update = "SET #state = :ready".to_owned();
    if let Some(generation) = ready.generation {
        condition.push_str(" AND ");
        condition.push_str(same_generation(generation));
        values.push((":generation", number(generation)));
    }
    if let Some(uuid) = &ready.cluster_uuid {
        condition.push_str(" AND (attribute_not_exists(#uuid) OR #uuid = :uuid)");
        update.push_str(", #uuid = :uuid");
        values.push((":uuid", string(uuid.as_str())));
    }
    update.push_str(" REMOVE #lease, #expires ADD #nodes :nodes");
    Write {
        condition,
        update,
        values,
    }
}

/// For a node that is not the one to join.
fn leave_write(leave: &Leave) -> Write {
    let mut values = leaving(&leave.node);
    let admitted = admits(leave.secret.as_ref(), &mut values);
    Write {
        condition: format!("attribute_exists(#id) AND {admitted} AND #initial <> :node"),
        update: "DELETE #nodes :nodes".to_owned(),
        values,
    }
}

/// For the node to join: what stood before becomes what the rules made of it, unless somebody was quicker.
fn hand_over_write(leave: &Leave, before: &Record, after: &Record) -> Write {
    let mut values = leaving(&leave.node);
    let admitted = admits(leave.secret.as_ref(), &mut values);
    values.push((":generation", number(before.generation)));
    values.push((":state", string(before.state.as_str())));
    let same = same_generation(before.generation);
    let mut condition = format!("#initial = :node AND {admitted} AND {same}");
    let mut update = "SET #state = :state".to_owned();
    match before.state {
        State::Ready => {
            condition.push_str(" AND #state = :state AND contains(#nodes, :next)");
            update.push_str(", #initial = :next");
            values.push((":next", string(&after.initial_node)));
        }
        State::Claimed => {
            condition.push_str(" AND (attribute_not_exists(#state) OR #state = :state)");
            update.push_str(", #generation = :generation, #lease = :lease, #expires = :expires");
            values.push((":lease", seconds(leave.lapsed())));
            values.push((":expires", seconds(leave.lapsed() + KEEP_ABANDONED)));
        }
    }
    update.push_str(" DELETE #nodes :nodes");
    Write {
        condition,
        update,
        values,
    }
}

fn leaving(node: &Node) -> Vec<(&'static str, AttributeValue)> {
    vec![
        (":node", string(node.as_str())),
        (":nodes", AttributeValue::Ss(vec![node.as_str().to_owned()])),
    ]
}

/// The condition that the caller may know anything of the cluster.
fn admits(
    secret: Option<&SecretHash>,
    values: &mut Vec<(&'static str, AttributeValue)>,
) -> &'static str {
    let Some(secret) = secret else {
        return "attribute_not_exists(#secret)";
    };
    values.push((":secret", AttributeValue::B(Blob::new(secret.as_bytes()))));
    "#secret = :secret"
}

/// The condition that this generation stands. Rows of the original service do not have the first one's number.
fn same_generation(generation: u64) -> &'static str {
    if generation == FIRST_GENERATION {
        "(attribute_not_exists(#generation) OR #generation = :generation)"
    } else {
        "#generation = :generation"
    }
}

fn string(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number<N: std::fmt::Display>(number: N) -> AttributeValue {
    AttributeValue::N(format!("{number}"))
}

fn seconds(time: Timestamp) -> AttributeValue {
    number(time.as_second())
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
    let connector = Connector::builder()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build();
    let connector = SharedHttpConnector::new(connector);
    let http = http_client_fn(move |_, _| connector.clone());
    let mut config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(EnvironmentVariableRegionProvider::new().region().await)
        .credentials_provider(EnvironmentVariableCredentialsProvider::new())
        .http_client(http)
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(ATTEMPTS)
                .with_initial_backoff(FIRST_BACKOFF),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .operation_timeout(OPERATION_TIMEOUT)
                .build(),
        )
        .interceptor(Counter);
    config.set_endpoint_url(
        variable("AWS_ENDPOINT_URL_DYNAMODB").or_else(|| variable("AWS_ENDPOINT_URL")),
    );
    config.set_use_fips(variable("AWS_USE_FIPS_ENDPOINT").map(|wanted| wanted == "true"));
    Client::from_conf(config.build())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
