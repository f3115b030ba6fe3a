//! What a person has to decide, in words.

use super::Run;
use crate::{decision::Refusal, failure::Failure};

/// The way out of a second cluster.
pub(super) const RESET: &str = "if nothing in it is needed, reset the server and run this again";

impl Run<'_> {
    /// A decision for a person, in words.
    pub(super) fn refusal(&self, refusal: &Refusal) -> Failure {
        let (node, id) = (&self.here.node, &self.api.cluster_id);
        let untouched = "nothing on this server was changed";
        match refusal {
            Refusal::Stranger => Failure::refused(format!(
                "the server belongs to a cluster with another user name or password than the given ones; {untouched}"
            ))
            .hint("give the right ones, or a server that belongs to no cluster"),
            Refusal::Unknown { uuid } => Failure::refused(format!(
                "the server belongs to the cluster {uuid} already, and the API knows of no cluster `{id}`; {untouched}"
            ))
            .hint("`--adopt` makes that cluster the one that others join"),
            Refusal::OtherCluster { own, recorded } => Failure::refused(format!(
                "the server belongs to another cluster: its own is {own}, that of `{id}` is {recorded}; it is left as it is"
            ))
            .hint(RESET),
            Refusal::FailedOver => Failure::refused(format!(
                "the cluster has failed `{node}` over; {untouched}"
            ))
            .hint("recover it, or rebalance it out, in Couchbase Server; then run this again"),
            Refusal::Lost => Failure::refused(format!(
                "`{id}` is ready, its only member is this node, and its server is blank: it has lost its data"
            ))
            .hint("restore it, or forget the cluster (`cbbootstrap cluster forget`) and begin anew"),
        }
    }
}
