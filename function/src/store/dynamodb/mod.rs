//! The DynamoDB table, through the AWS SDK.
//!
//! A cluster has two items (see [`table`](crate::table)). The *claim item* alone decides which node initializes the cluster: a claim reads
//! and writes nothing else. Once the cluster is ready, the *members item* decides who is a member, which node to join, and whether an
//! operator has ended the record; the claim item has a copy of the node to join, for claims.
//!
//! No transaction spans the two items. Every write is one conditional `UpdateItem`, and the process may stop after each of them. "Writes"
//! in `docs/protocol.md` describes, for each call, which item comes first and who completes the second write. This is safe because:
//!
//! - A members item has the generation and the time of its claim and counts for that claim only. If it is created late, for a claim that
//!   has ended, it does not replace a newer one and is never read.
//! - The claim item's copy of the node to join has the version of the members item it was copied from, so a late copy does not undo a
//!   newer one.
//! - The members item of a forgotten cluster stays as long as the tombstone, so no late report can make another one of its generation.
//! - The end of the claim item moves before that of the members item, so members never outlive their claim.

mod client;
#[cfg(feature = "lambda")]
mod connect;
#[cfg(feature = "lambda")]
mod connector;
mod items;
mod write;

use std::{sync::Arc, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
};
use cbbootstrap_protocol::{
    names::{ClusterId, Node},
    rules::{Claim, Claimed, Leave, Ready, Record, Refusal},
    trust::SecretHash,
    wire::{MAX_MEMBERS, State},
};
use jiff::Timestamp;
use tokio::task::JoinSet;

use self::write::{Conflict, Update};
use super::{Cause, Error, Page, Row, Store};
use crate::{
    item::{
        ClaimItem, Item, Items, MembersItem, Unreadable, binary, count, expires_at,
        is_members_item, member_value, string,
    },
    table::{CLUSTER_ID, INITIAL_NODE, members_key},
};

pub use client::{counting_calls, for_requests};
#[cfg(feature = "lambda")]
pub use connect::connect;

/// How often a request tries to write an item that others change.
const ROUNDS: u32 = 10;

/// The items in one page of a listing. DynamoDB reads at most 100 in one call.
const PAGE: i32 = 100;

/// The longest pause before the second try. It doubles for each later one, up to [`LONGEST_PAUSE_MILLIS`].
const FIRST_PAUSE_MILLIS: u64 = 5;
const LONGEST_PAUSE_MILLIS: u64 = 80;

/// Temporary errors of DynamoDB: throttling and internal failures.
const TRANSIENT: [&str; 6] = [
    "InternalServerError",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "ThrottlingException",
    "TransactionConflictException",
];

impl<E: Into<aws_sdk_dynamodb::Error>> From<SdkError<E>> for Error {
    fn from(error: SdkError<E>) -> Self {
        let error = error.map_service_error(Into::into);
        let (is_temporary, message) = match &error {
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                let code = error.code().unwrap_or("unknown error");
                let message = error.message().unwrap_or("no message");
                let message = format!("HTTP status {status}, {code}: {message}");
                (status >= 500 || TRANSIENT.contains(&code), message)
            }
            // The response may contain items.
            SdkError::ResponseError(_) => (true, "the answer cannot be read".to_owned()),
            SdkError::TimeoutError(_) => (true, "no response in time".to_owned()),
            SdkError::DispatchFailure(failure) => {
                let cause = failure.as_connector_error();
                let cause = cause.map(|cause| DisplayErrorContext(cause).to_string());
                let cause = cause.unwrap_or_else(|| "unknown cause".to_owned());
                (true, format!("no answer: {cause}"))
            }
            _ => (false, "the request cannot be made".to_owned()),
        };
        let cause = Cause { message, sdk: Some(Arc::new(error)) };
        if is_temporary { Self::Unavailable(cause) } else { Self::Failed(cause) }
    }
}

/// A table in DynamoDB, or in a database with the same API.
#[derive(Clone, Debug)]
pub struct DynamoDb {
    client: Client,
    table: String,
}

impl DynamoDb {
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self { client, table: table.into() }
    }

    /// Applies a rule that usually changes one member only, which needs no more than this write: its conditions are those of the rule, so
    /// requests about other members do not disturb it.
    async fn change_member(
        &self,
        cluster_id: &str,
        now: Timestamp,
        rule: impl Fn(Option<Record>) -> Result<Record, Refusal> + Sync,
        update: Update,
    ) -> Result<Record, Error> {
        retry(|| async {
            match self.try_member(cluster_id, now, &rule, &update).await {
                Err(Error::Contended) => self.try_change(cluster_id, now, &rule).await,
                result => result,
            }
        })
        .await
    }

    /// Applies the rule in as few calls as possible. It is contended if the rule does not fit the claim item as read, which may be out of
    /// date: a write that fails costs as much as one of all members.
    async fn try_member(
        &self,
        cluster_id: &str,
        now: Timestamp,
        rule: &(impl Fn(Option<Record>) -> Result<Record, Refusal> + Sync),
        update: &Update,
    ) -> Result<Record, Error> {
        let claim = self.recent_claim(cluster_id).await?.ok_or(Error::Contended)?;
        let before = claim.record.clone();
        let after = rule(Some(before.clone())).map_err(|_| Error::Contended)?;
        if before.state == State::Claimed && after != before {
            return self.save(&Items::new(claim, None), &before, after, now).await;
        }
        // A new UUID goes into the claim item first.
        if before.state == State::Claimed || before.cluster_uuid != after.cluster_uuid {
            return Err(Error::Contended);
        }
        let written = MembersItem::read(self.update(update.clone()).await??)?.record;
        let cluster_uuid = written.cluster_uuid.or(before.cluster_uuid);
        Ok(Record { cluster_uuid, ..written })
    }

    /// Applies a rule to the record as read.
    async fn try_change(
        &self,
        cluster_id: &str,
        now: Timestamp,
        rule: &(impl Fn(Option<Record>) -> Result<Record, Refusal> + Sync),
    ) -> Result<Record, Error> {
        let items = self.consistent(cluster_id).await?;
        let before = items.as_ref().map(Items::record);
        let after = rule(before.clone())?;
        let (items, before) = items.zip(before).ok_or(Error::Contradiction)?;
        if after == before { Ok(after) } else { self.save(&items, &before, after, now).await }
    }

    /// The record after its renewal, if one is due. If that fails, the next request repeats it.
    async fn renewed(&self, record: Record, now: Timestamp) -> Record {
        if record.renewal(now).is_none() {
            return record;
        }
        let renew = move |stored: Option<Record>| {
            stored.map(|record| record.renewed(now)).ok_or(Refusal::NotFound)
        };
        match self.change(&record.cluster_id, now, renew).await {
            Ok(renewed) => Record { kept_until: renewed.kept_until, ..record },
            Err(_) => record,
        }
    }
}

impl Store for DynamoDb {
    /// One call, two for a takeover, three after a ready record has expired, and up to three more once a day for the renewal.
    async fn claim(&self, claim: &Claim) -> Result<(Claimed, Record), Error> {
        let mut seen: Option<ClaimItem> = None;
        for round in 0..ROUNDS {
            let mut record = seen.as_ref().map(|item| item.record.clone());
            // The claim notes the members of an expired record.
            if let Some(record) = &mut record
                && record.state == State::Ready
                && record.is_gone(claim.now)
                && let Some(items) = self.items(&record.cluster_id).await?
            {
                record.members = items.record().members;
            }
            let (claimed, after) = claim.change(record.clone())?;
            if record.as_ref() == Some(&after) {
                return Ok((claimed?, self.renewed(after, claim.now).await));
            }
            let next = match (&claimed, &seen) {
                // A rival was noted.
                (Err(_), Some(item)) => ClaimItem { record: after.clone(), ..item.clone() },
                _ => ClaimItem::new(after.clone()),
            };
            match self.write_claim(seen.as_ref(), &next).await? {
                Ok(()) => return Ok((claimed?, after)),
                Err(Conflict(item)) => seen = item,
            }
            if round > 0 {
                pause(round).await;
            }
        }
        Err(Error::Contended)
    }

    async fn change(
        &self,
        cluster_id: &str,
        now: Timestamp,
        rule: impl Fn(Option<Record>) -> Result<Record, Refusal> + Send + Sync + 'static,
    ) -> Result<Record, Error> {
        retry(|| self.try_change(cluster_id, now, &rule)).await
    }

    /// Two calls for a joiner once the cluster's UUID is known; three for the first node.
    async fn ready(&self, ready: &Ready) -> Result<Record, Error> {
        let rule = |stored| Ok(ready.on(stored)?.renewed(ready.now));
        let (id, update) = (ready.cluster_id.as_str(), report(ready));
        let record = self.change_member(id, ready.now, rule, update).await?;
        Ok(self.renewed(record, ready.now).await)
    }

    /// Two calls, and three more for the node to join.
    async fn leave(&self, leave: &Leave) -> Result<Record, Error> {
        let rule = |stored| leave.on(stored);
        self.change_member(leave.cluster_id.as_str(), leave.now, rule, departure(leave)).await
    }

    /// One call, and up to three more once a day for the renewal.
    async fn status(
        &self,
        cluster_id: &ClusterId,
        secret: Option<&SecretHash>,
        now: Timestamp,
    ) -> Result<Record, Error> {
        let items = retry(|| self.consistent(cluster_id.as_str())).await?;
        let record = Record::shown_to(items.as_ref().map(Items::record), secret, now)?;
        Ok(self.renewed(record, now).await)
    }

    async fn forget_unreadable(&self, cluster_id: &str, now: Timestamp) -> Result<bool, Error> {
        self.end_unreadable(cluster_id, now).await
    }

    /// One call for each cluster, all at once.
    async fn delete_smoke_test(&self, cluster_ids: &[String]) -> Result<(), Error> {
        let mut calls = JoinSet::new();
        for cluster_id in cluster_ids {
            let store = self.clone();
            let cluster_id = cluster_id.clone();
            calls.spawn(async move { store.delete_claim(&cluster_id).await });
        }
        calls.join_all().await.into_iter().collect()
    }

    async fn find(&self, cluster_id: &str) -> Result<Option<Row>, Error> {
        let items = self.items(cluster_id).await;
        Row::new(cluster_id, items.map(|items| items.as_ref().map(Items::record)))
    }

    async fn list(&self, after: Option<&str>) -> Result<Page, Error> {
        let scan = self.client.scan().table_name(&self.table).consistent_read(true);
        let scan = scan.limit(PAGE).set_exclusive_start_key(after.map(key));
        let scanned = scan.send().await?;
        let mut claims = Vec::new();
        for item in scanned.items.unwrap_or_default().into_iter().filter(|it| !is_members_item(it))
        {
            claims.push((item_key(&item).ok_or(Unreadable(CLUSTER_ID))?, ClaimItem::read(item)));
        }
        let is_ready = |claim: &ClaimItem| claim.record.state == State::Ready;
        let ready = claims.iter().filter(|(_, claim)| claim.as_ref().is_ok_and(is_ready));
        let mut members = self.read(ready.map(|(id, _)| members_key(id)).collect(), true).await?;
        let rows = claims.into_iter().map(|(cluster_id, claim)| {
            let members = members.remove(&members_key(&cluster_id));
            let record = claim.and_then(|claim| {
                Ok(Items::new(claim, members.map(MembersItem::read).transpose()?).record())
            });
            Row { cluster_id, record }
        });
        let next = scanned.last_evaluated_key.as_ref().and_then(item_key);
        Ok(Page { rows: rows.collect(), next })
    }
}

/// Adds the member to the members item.
fn report(ready: &Ready) -> Update {
    let Ready { cluster_id, node, secret, generation, now, .. } = ready;
    let update = change_of_member(cluster_id, node, secret.as_ref(), *generation, *now)
        .set("#members.#node = :member")
        .value(":member", member_value(&ready.member()))
        .only_if("(size(#members) < :most OR attribute_exists(#members.#node))")
        .value(":most", count(MAX_MEMBERS as u64));
    match &ready.cluster_uuid {
        Some(uuid) => update.only_if("#cluster_uuid = :uuid").value(":uuid", string(uuid.as_str())),
        None => update,
    }
}

/// Removes a member from the members item that is not the node to join.
fn departure(leave: &Leave) -> Update {
    let Leave { cluster_id, node, secret, generation, now, .. } = leave;
    change_of_member(cluster_id, node, secret.as_ref(), *generation, *now)
        .remove("#members.#node")
        .only_if(&format!("attribute_exists(#members.#node) AND #{INITIAL_NODE} <> :node"))
        .value(":node", string(node.as_str()))
}

/// The part of an update that is the same for each change of a ready cluster's members.
fn change_of_member(
    cluster_id: &ClusterId,
    node: &Node,
    secret: Option<&SecretHash>,
    generation: Option<u64>,
    now: Timestamp,
) -> Update {
    let update = Update::new(members_key(cluster_id.as_str()))
        .alias("#node", node.as_str())
        .only_if("#state = :ready AND #expires_at >= :alive")
        .value(":ready", string(State::Ready.as_str()))
        .value(":alive", expires_at(now))
        .next_version(0);
    let update = match secret {
        None => update.only_if("attribute_not_exists(#secret_hash)"),
        Some(secret) => {
            update.only_if("#secret_hash = :secret").value(":secret", binary(secret.as_bytes()))
        }
    };
    match generation {
        None => update,
        Some(generation) => {
            update.only_if("#generation = :generation").value(":generation", count(generation))
        }
    }
}

fn key(cluster_id: impl AsRef<str>) -> Item {
    Item::from([(CLUSTER_ID.to_owned(), string(cluster_id))])
}

fn item_key(item: &Item) -> Option<String> {
    item.get(CLUSTER_ID)?.as_s().ok().cloned()
}

/// Repeats the work if others have changed the items in between.
async fn retry<T, F: Future<Output = Result<T, Error>>>(work: impl Fn() -> F) -> Result<T, Error> {
    for round in 0..ROUNDS {
        match work().await {
            Err(Error::Contended) => pause(round).await,
            result => return result,
        }
    }
    Err(Error::Contended)
}

async fn pause(round: u32) {
    let most = (FIRST_PAUSE_MILLIS << round).min(LONGEST_PAUSE_MILLIS);
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..=most))).await;
}
