//! The DynamoDB table, through the AWS SDK.
//!
//! A cluster has two items (see [`table`](crate::table)). The *claim item* alone decides which node initialises the cluster: a claim reads
//! and writes nothing else. Once the cluster is ready, the *members item* decides who is a member, which node to join, and whether an
//! operator has ended the record; the claim item has a copy of the node to join, for claims.
//!
//! No transaction spans the two items. Every write is one conditional `UpdateItem`, and the process may stop after each of them. "Writes"
//! in `docs/protocol.md` says, for each call, which item comes first and who completes the second write. What makes that safe:
//!
//! - A members item has the generation and the time of its claim and counts for that claim only. One that is made late, for a claim that
//!   has ended, does not replace a newer one and is never read.
//! - The claim item's copy of the node to join has the version of the members item that it was made from, so a late copy does not undo a
//!   newer one.
//! - The members item of a forgotten cluster stays as long as the tombstone, so no late report can make another one of its generation.
//! - The end of the claim item moves before that of the members item, so members never outlive their claim.

mod items;
mod write;

mod client;

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
};
use cbbootstrap_protocol::{
    names::ClusterId,
    rules::{
        self, Claim, Claimed, KEEP_GENERATION, Leave, Ready, Record, Refusal, SecretHash,
        whole_seconds,
    },
    wire::{MAX_MEMBERS, State},
};
use jiff::Timestamp;

use self::write::{Update, Written};
use super::{Error, Store};
use crate::{
    item::{ClaimItem, Items, MembersItem, count, seconds, string},
    table::{CLUSTER_UUID, INITIAL_NODE, members_key},
};

pub use client::{client, counting_calls, for_requests};

/// How often a request tries to write while others change the same item.
const ROUNDS: u32 = 10;

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

impl<E> From<SdkError<E>> for Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    fn from(error: SdkError<E>) -> Self {
        match &error {
            SdkError::ServiceError(service) => {
                let (status, error) = (service.raw().status().as_u16(), service.err());
                let code = error.code().unwrap_or("unknown error");
                let message = error.message().unwrap_or("no message");
                let message = format!("HTTP status {status}, {code}: {message}");
                if status >= 500 || TRANSIENT.contains(&code) {
                    Self::Unavailable(message)
                } else {
                    Self::Failed(message)
                }
            }
            // The response may contain items.
            SdkError::ResponseError(_) => Self::Unavailable("the answer cannot be read".to_owned()),
            SdkError::TimeoutError(_) => Self::Unavailable("no answer in time".to_owned()),
            SdkError::DispatchFailure(failure) => {
                let cause = failure.as_connector_error();
                let cause = cause.map(|cause| DisplayErrorContext(cause).to_string());
                Self::Unavailable(format!(
                    "no answer: {}",
                    cause.as_deref().unwrap_or("unknown cause")
                ))
            }
            _ => Self::Failed("the request cannot be made".to_owned()),
        }
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

    /// Adds the member to the members item in one conditional write. `None` if its condition fails.
    async fn report(&self, ready: &Ready) -> Result<Option<Record>, Error> {
        let alive = seconds(whole_seconds(ready.now) + KEEP_GENERATION);
        let mut update = Update::new(members_key(ready.cluster_id.as_str()))
            .member(ready.node.as_str(), &ready.member())
            .only_if("#state = :ready AND #expires_at >= :alive")
            .value(":ready", string(State::Ready.as_str()))
            .value(":alive", alive)
            .only_if("(size(#members) < :most OR attribute_exists(#members.#node))")
            .value(":most", count(MAX_MEMBERS as u64))
            .only_if_secret(ready.secret.as_ref());
        if let Some(generation) = ready.generation {
            update =
                update.only_if("#generation = :generation").value(":generation", count(generation));
        }
        // A new UUID goes into the claim item first, so this write requires one that the members item has.
        update = match &ready.cluster_uuid {
            Some(uuid) => {
                update.only_if("#cluster_uuid = :uuid").value(":uuid", string(uuid.as_str()))
            }
            None => update.only_if("attribute_exists(#cluster_uuid)"),
        };
        match self.update(update.next_version(0)).await? {
            Written::Done(item) => Ok(Some(MembersItem::read(item)?.record)),
            Written::Conflict(_) => Ok(None),
        }
    }

    /// Writes the record after a report. `false` if the items have changed since they were read.
    async fn write_ready(
        &self,
        ready: &Ready,
        items: &Items,
        after: &Record,
    ) -> Result<bool, Error> {
        let mut claim = items.claim.clone();
        if claim.record.state == State::Claimed {
            claim.first_member = Some(ready.member());
            claim.copied_version = 0;
        }
        if claim.record.state == State::Claimed || claim.record.cluster_uuid != after.cluster_uuid {
            claim.record = Record { members: BTreeMap::new(), ..after.clone() };
            if let Written::Conflict(_) = self.write_claim(Some(&items.claim), &claim).await? {
                return Ok(false);
            }
        }
        let written = match &items.members {
            None => self.make_members(&claim, after, ready.now).await?,
            Some(members) => {
                let update = Update::new(members_key(&after.cluster_id))
                    .member(ready.node.as_str(), &ready.member())
                    .attribute(CLUSTER_UUID, after.cluster_uuid.as_ref().map(string))
                    .only_if_version(members.version)
                    .next_version(0);
                self.update(update).await?
            }
        };
        Ok(matches!(written, Written::Done(_)))
    }
}

impl Store for DynamoDb {
    /// One call, two for a takeover, and one or two more once a day for the renewal.
    async fn claim(&self, claim: &Claim) -> Result<(Claimed, Record), Error> {
        let (outcome, first) = claim.on(None)?;
        let mut standing = match self.write_claim(None, &ClaimItem::new(first.clone())).await? {
            Written::Done(()) => return Ok((outcome, first)),
            Written::Conflict(standing) => standing,
        };
        for round in 0..ROUNDS {
            let record = standing.as_ref().map(|item| item.record.clone());
            let (next, answer) = match (claim.on(record.clone()), &standing) {
                (Ok((outcome, after)), Some(item)) if after == item.record => {
                    let mut items = Items { claim: item.clone(), members: None };
                    self.renew(&mut items, claim.now).await;
                    return Ok((outcome, items.claim.record));
                }
                (Ok((outcome, after)), _) => (ClaimItem::new(after.clone()), Ok((outcome, after))),
                (Err(refusal @ Refusal::NameTaken { .. }), Some(item)) => {
                    let mut noted = item.clone();
                    noted.record = claim.noted_on(noted.record);
                    if noted == *item {
                        return Err(refusal.into());
                    }
                    (noted, Err(refusal.into()))
                }
                (Err(refusal), _) => return Err(refusal.into()),
            };
            match self.write_claim(standing.as_ref(), &next).await? {
                Written::Done(()) => return answer,
                Written::Conflict(now_standing) => standing = now_standing,
            }
            pause(round).await;
        }
        Err(contended())
    }

    /// One call for a joiner once the cluster's UUID is known; four for the initial node's first report.
    async fn ready(&self, ready: &Ready) -> Result<Record, Error> {
        let id = ready.cluster_id.as_str();
        for round in 0..ROUNDS {
            if let Some(record) = self.report(ready).await? {
                return self.renewed(record, ready.now).await;
            }
            let items = self.settled(id).await?;
            let after = ready.on(items.as_ref().map(Items::record))?;
            let items = items.ok_or(Error::Contradiction)?;
            if self.write_ready(ready, &items, &after).await? {
                return self.renewed(after, ready.now).await;
            }
            pause(round).await;
        }
        Err(contended())
    }

    /// Two calls, and two more if it is the node to join.
    async fn leave(&self, leave: &Leave) -> Result<Record, Error> {
        let (id, node) = (leave.cluster_id.as_str(), leave.node.as_str());
        for round in 0..ROUNDS {
            let items = self.settled(id).await?;
            let before = items.as_ref().map(Items::record);
            let after = leave.on(before.clone())?;
            let (Some(items), Some(before)) = (items, before) else {
                return Err(Error::Contradiction);
            };
            if after == before {
                return Ok(after);
            }
            let Some(members) = &items.members else {
                let mut next = items.claim.clone();
                next.record = after.clone();
                match self.write_claim(Some(&items.claim), &next).await? {
                    Written::Done(()) => return Ok(after),
                    Written::Conflict(_) => pause(round).await,
                }
                continue;
            };
            let is_handed_over = after.initial_node != before.initial_node;
            let update = Update::new(members_key(id))
                .alias("#node", node)
                .remove("#members.#node")
                .next_version(0);
            let update = if is_handed_over {
                update
                    .attribute(INITIAL_NODE, Some(string(&after.initial_node)))
                    .only_if_version(members.version)
            } else {
                update
                    .only_if_claim(&before)
                    .only_if(&format!("#{INITIAL_NODE} <> :node"))
                    .value(":node", string(node))
            };
            if let Written::Done(item) = self.update(update).await? {
                if is_handed_over {
                    self.settled(id).await?;
                }
                let left = MembersItem::read(item)?.record;
                return Ok(Record {
                    kept_until: after.kept_until,
                    cluster_uuid: after.cluster_uuid,
                    ..left
                });
            }
            pause(round).await;
        }
        Err(contended())
    }

    /// One call, and one or two more once a day for the renewal.
    async fn status(
        &self,
        cluster_id: &ClusterId,
        secret: Option<&SecretHash>,
        now: Timestamp,
    ) -> Result<Record, Error> {
        let items = self.settled(cluster_id.as_str()).await?;
        Record::shown_to(items.as_ref().map(Items::record), secret, now)?;
        let mut items = items.ok_or(Error::Contradiction)?;
        self.renew(&mut items, now).await;
        Ok(items.record())
    }

    async fn forget(&self, seen: &Record, now: Timestamp) -> Result<bool, Error> {
        for round in 0..ROUNDS {
            let Some(items) = self.settled(&seen.cluster_id).await? else {
                return Ok(true);
            };
            let record = items.record();
            if record.is_forgotten {
                return Ok(true);
            }
            if !record.is_as_seen(seen) {
                return Ok(false);
            }
            let forgotten = rules::forget(record.clone(), now);
            if record.state == State::Ready {
                let marked = match &items.members {
                    None => self.make_members(&items.claim, &forgotten, now).await?,
                    Some(members) => {
                        let update = Update::new(members_key(&record.cluster_id))
                            .attributes(MembersItem::attributes(&forgotten))
                            .only_if_version(members.version)
                            .next_version(0);
                        self.update(update).await?
                    }
                };
                if let Written::Conflict(_) = marked {
                    pause(round).await;
                    continue;
                }
            }
            let tombstone = ClaimItem::new(forgotten);
            match self.write_claim(Some(&items.claim), &tombstone).await? {
                Written::Done(()) => return Ok(true),
                Written::Conflict(_) => pause(round).await,
            }
        }
        Err(contended())
    }
}

async fn pause(round: u32) {
    let most = (FIRST_PAUSE_MILLIS << round).min(LONGEST_PAUSE_MILLIS);
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..=most))).await;
}

fn contended() -> Error {
    Error::Unavailable(format!("others changed the record {ROUNDS} times"))
}
