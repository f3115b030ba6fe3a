//! A [`Store`] keeps the records of clusters and applies the protocol's rules to them. [`dynamodb`] does so with one conditional write
//! for each call, [`sqlite`] with the rules themselves inside a transaction.

pub mod dynamodb;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::{
    fmt::{Display, Formatter},
    sync::Arc,
};

use aws_sdk_dynamodb::error::SdkError;
use cbbootstrap_protocol::{
    names::{ClusterId, Node},
    rules::{self, Claim, Claimed, FIRST_GENERATION, Leave, Ready, Record, Refusal, whole_seconds},
    trust::SecretHash,
};
use jiff::Timestamp;

use crate::item::Unreadable;

/// The records of all clusters. Every call may be repeated: after a lost response, the repetition has no further effect.
pub trait Store: Clone + Send + Sync + 'static {
    /// The time by the store's clock, which decides when leases and records end.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Claims the cluster for the node. Returns the resulting record without members.
    fn claim(&self, claim: &Claim)
    -> impl Future<Output = Result<(Claimed, Record), Error>> + Send;

    /// Applies a rule to the cluster's record, and returns the resulting record.
    fn change(
        &self,
        cluster_id: &str,
        now: Timestamp,
        rule: impl Fn(Option<Record>) -> Result<Record, Refusal> + Send + Sync + 'static,
    ) -> impl Future<Output = Result<Record, Error>> + Send;

    fn ready(&self, ready: &Ready) -> impl Future<Output = Result<Record, Error>> + Send {
        let (id, now, ready) = (ready.cluster_id.clone(), ready.now, ready.clone());
        async move {
            let rule = move |stored| Ok(ready.on(stored)?.renewed(now));
            self.change(id.as_str(), now, rule).await
        }
    }

    fn leave(&self, leave: &Leave) -> impl Future<Output = Result<Record, Error>> + Send {
        let (id, leave) = (leave.cluster_id.clone(), leave.clone());
        async move { self.change(id.as_str(), leave.now, move |stored| leave.on(stored)).await }
    }

    /// Reads the cluster's record with every acknowledged change.
    fn status(
        &self,
        cluster_id: &ClusterId,
        secret: Option<&SecretHash>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Record, Error>> + Send;

    /// Ends the record that an operator has seen, so that only its generation is left. Returns `false` if it has changed.
    fn forget(
        &self,
        seen: &Record,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Error>> + Send {
        let seen = seen.clone();
        async move {
            let id = seen.cluster_id.clone();
            let rule = move |stored: Option<Record>| {
                let record = stored.ok_or(Refusal::NotFound)?;
                Ok(if record.is_as_seen(&seen) { rules::forget(record, now) } else { record })
            };
            match self.change(&id, now, rule).await {
                Err(Error::Refused(Refusal::NotFound)) => Ok(true),
                changed => Ok(changed?.is_forgotten),
            }
        }
    }

    /// Removes a member that an operator has seen, as its own leave would. Returns `false` if the member has reported since.
    fn forget_member(
        &self,
        seen: &Record,
        node: &Node,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Error>> + Send {
        let (seen, node) = (seen.clone(), node.clone());
        async move {
            let Ok(cluster_id) = ClusterId::new(&seen.cluster_id) else {
                // The API refuses it, so it never got members.
                return Ok(true);
            };
            let (id, name) = (seen.cluster_id, node.as_str().to_owned());
            let (member, secret) = (seen.members.get(&name).cloned(), seen.secret);
            let leave = Leave { cluster_id, node, node_uuid: None, generation: None, secret, now };
            let rule = move |stored: Option<Record>| {
                let record = stored.ok_or(Refusal::NotFound)?;
                let current = record.members.get(leave.node.as_str());
                // Without a member, it could give up a claim.
                if current.is_some() && current == member.as_ref() {
                    leave.on(Some(record))
                } else {
                    Ok(record)
                }
            };
            match self.change(&id, now, rule).await {
                Err(Error::Refused(Refusal::NotFound)) => Ok(true),
                changed => Ok(!changed?.members.contains_key(&name)),
            }
        }
    }

    /// Ends a record that cannot be read. Returns `false` if it can be read, or has changed.
    fn forget_unreadable(
        &self,
        cluster_id: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Deletes the records of a smoke test's clusters. Clusters that reported ready are kept.
    fn delete_smoke_test(
        &self,
        cluster_ids: &[String],
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// The cluster's record for an operator. Any text may be its id.
    fn find(&self, cluster_id: &str) -> impl Future<Output = Result<Option<Row>, Error>> + Send;

    /// Some records after this cluster, which need not exist any more.
    fn list(&self, after: Option<&str>) -> impl Future<Output = Result<Page, Error>> + Send;
}

/// A cluster for an operator.
#[derive(Clone, Debug)]
pub struct Row {
    pub cluster_id: String,
    /// `Err` if it cannot be read.
    pub record: Result<Record, Unreadable>,
}

impl Row {
    /// The row of a record as found; `None` if there is none.
    fn new(cluster_id: &str, found: Result<Option<Record>, Error>) -> Result<Option<Self>, Error> {
        let record = match found {
            Err(Error::Unreadable(why)) => Some(Err(why)),
            found => found?.map(Ok),
        };
        Ok(record.map(|record| Self { cluster_id: cluster_id.to_owned(), record }))
    }

    /// Whether it is a claim of a smoke test.
    pub fn is_smoke_test(&self) -> bool {
        self.record.as_ref().is_ok_and(Record::is_smoke_test)
    }
}

/// The tombstone of a record that cannot be read, with its generation if that can be.
fn tombstone(cluster_id: &str, generation: Option<u64>, now: Timestamp) -> Record {
    Record {
        cluster_id: cluster_id.to_owned(),
        initial_node: "unknown".to_owned(),
        generation: generation.unwrap_or(FIRST_GENERATION),
        kept_until: Some(whole_seconds(now)),
        is_forgotten: true,
        ..Record::default()
    }
}

#[derive(Debug)]
pub struct Page {
    /// In the order of the store.
    pub rows: Vec<Row>,
    /// What the next page begins after; `None` for the last page.
    pub next: Option<String>,
}

/// The messages are for the log, never for a caller, and contain no ids and no nodes.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store throttles, is busy, cannot be reached, or its disk is full. A retry may succeed.
    #[error("{0}")]
    Unavailable(Cause),
    /// Other requests have changed the same record in between. A retry may succeed.
    #[error("others changed the record too often")]
    Contended,
    /// The store refused: no such table, no permission, a damaged file.
    #[error("{0}")]
    Failed(Cause),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The table refused a write although the item that it returned satisfies the condition.
    #[error("the table refused a write that the rules allow")]
    Contradiction,
}

/// Why a store does not work.
#[derive(Clone, Debug)]
pub struct Cause {
    message: String,
    /// The error of the AWS SDK, if it is one. It may contain ids.
    sdk: Option<Arc<SdkError<aws_sdk_dynamodb::Error>>>,
}

impl<M: Into<String>> From<M> for Cause {
    fn from(message: M) -> Self {
        Self { message: message.into(), sdk: None }
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error {
    /// The error of the AWS SDK, if it is one.
    pub fn sdk(&self) -> Option<&SdkError<aws_sdk_dynamodb::Error>> {
        match self {
            Self::Unavailable(cause) | Self::Failed(cause) => cause.sdk.as_deref(),
            _ => None,
        }
    }
}
