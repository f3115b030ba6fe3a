//! Where the records of clusters are kept: a [`Store`] applies the protocol's rules to them. There are two: a [`dynamodb`] table, by
//! one conditional write a call, and an embedded [`sqlite`] database, by the rules themselves inside a transaction.

pub mod dynamodb;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use cbbootstrap_protocol::{
    names::ClusterId,
    rules::{Claim, Claimed, Leave, Ready, Record, Refusal, SecretHash},
};
use jiff::Timestamp;

/// The records of all clusters. Every call may be repeated: one that was carried out although its answer got lost is carried out once.
pub trait Store: Clone + Send + Sync + 'static {
    /// Claims the cluster for the node, and returns the record that stands afterwards: the node's own, or that of the node which
    /// came first, without members.
    fn claim(&self, claim: &Claim)
    -> impl Future<Output = Result<(Claimed, Record), Error>> + Send;

    /// Notes that the node is ready.
    fn ready(&self, ready: &Ready) -> impl Future<Output = Result<Record, Error>> + Send;

    /// Notes that the node has left.
    fn leave(&self, leave: &Leave) -> impl Future<Output = Result<Record, Error>> + Send;

    /// Reads the cluster's record as it is after everything that was acknowledged.
    fn status(
        &self,
        cluster_id: &ClusterId,
        secret: Option<&SecretHash>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Record, Error>> + Send;

    /// Ends the record of a cluster that an operator has seen, so that only its generation is left; `false` if it has changed since.
    fn forget(
        &self,
        seen: &Record,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Error>> + Send;
}

/// Why there is no record to answer with. The messages are for the log, never for a caller, and hold no id and no node.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The rules refuse.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store throttles, is busy or cannot be reached, or its disk is full: worth another try later.
    #[error("{0}")]
    Unavailable(String),
    /// The store refused: no such table, no permission, a damaged file.
    #[error("{0}")]
    Failed(String),
    /// The item is not a record.
    #[error(transparent)]
    Unreadable(#[from] crate::item::Unreadable),
    /// A record in the database cannot be read.
    #[error("{0}")]
    Damaged(String),
    /// The table refused a write whose condition holds for the item that it answered with.
    #[error("the table refused a write that the rules allow")]
    Contradiction,
}
