//! A [`Store`] keeps the records of clusters and applies the protocol's rules to them. [`dynamodb`] does so with one conditional write
//! for each call, [`sqlite`] with the rules themselves inside a transaction.

pub mod dynamodb;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use cbbootstrap_protocol::{
    names::ClusterId,
    rules::{Claim, Claimed, Leave, Ready, Record, Refusal, SecretHash},
};
use jiff::Timestamp;

/// The records of all clusters. Every call may be repeated: one that was carried out although its answer was lost has no further effect.
pub trait Store: Clone + Send + Sync + 'static {
    /// Claims the cluster for the node. Returns the resulting record without members: the node's own, or that of an earlier node.
    fn claim(&self, claim: &Claim)
    -> impl Future<Output = Result<(Claimed, Record), Error>> + Send;

    fn ready(&self, ready: &Ready) -> impl Future<Output = Result<Record, Error>> + Send;

    fn leave(&self, leave: &Leave) -> impl Future<Output = Result<Record, Error>> + Send;

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
    ) -> impl Future<Output = Result<bool, Error>> + Send;
}

/// The messages are for the log, never for a caller, and contain no ids and no nodes.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store throttles, is busy, cannot be reached, or its disk is full. A retry may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// The store refused: no such table, no permission, a damaged file.
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Unreadable(#[from] crate::item::Unreadable),
    /// A record in the database cannot be read.
    #[error("{0}")]
    Damaged(String),
    /// The table refused a write although the item that it returned satisfies the condition.
    #[error("the table refused a write that the rules allow")]
    Contradiction,
}
