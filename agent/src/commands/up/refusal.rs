//! What a person has to decide, in words.

use super::Run;
use crate::{decision::Refusal, failure::Failure};

/// The way out of a second cluster.
pub(super) const RESET: &str = "if nothing in it is needed, reset the server and run this again";

impl Run<'_> {
    /// A decision for a person, in words.
    pub(super) fn refusal(&self, refusal: &Refusal) -> Failure {
        let (node, id) = (&self.here.node, self.api.cluster_id.as_str());
        let untouched = "nothing on this server was changed";
        match refusal {
            Refusal::Stranger => Failure::refused(format!(
                "the server belongs to a cluster with another user name or password; {untouched}"
            ))
            .hint("give that cluster's user name and password, or a server that belongs to no cluster"),
            Refusal::Unknown { uuid } => Failure::refused(format!(
                "the server belongs to the cluster {uuid} already, and the API knows of no cluster `{id}`; {untouched}"
            ))
            .hint("`--adopt` makes that cluster the one that others join"),
            Refusal::OtherCluster { own, recorded } => Failure::refused(format!(
                "the server belongs to another cluster: its own is {own}, that of `{id}` is {recorded}; it is left as it is"
            ))
            .hint(RESET),
            Refusal::FailedOver => Failure::refused(format!("the cluster has failed `{node}` over; {untouched}"))
                .hint("recover it, or rebalance it out, in Couchbase Server; then run this again"),
            Refusal::Lost { recorded, own } => {
                let uuid = |uuid: &Option<_>| uuid.as_ref().map_or_else(|| "unknown".to_owned(), |uuid| format!("{uuid}"));
                Failure::refused(format!(
                    "`{id}` is ready, and its only member is a server named `{node}` (UUID {}); this server is blank (UUID {}): \
                     either it has lost its data, or two machines have the same name",
                    uuid(recorded),
                    uuid(own)
                ))
                .hint(
                    "give each machine a `--node` of its own; if the data is lost, restore it, or run `cbbootstrap cluster forget` \
                     to begin a new cluster",
                )
            }
            Refusal::Occupied(first) => Failure::refused(format!(
                "`{first}` has initialised a cluster for `{id}` and not reported it, and this node does not begin a second one; {untouched}"
            ))
            .hint(format!("run `cbbootstrap-agent up` on `{first}`, or reset its server if nothing in it is needed")),
            Refusal::NoTrust => Failure::refused(
                "there is a cluster to join, and nothing tells its members from impostors; no password was sent",
            )
            .hint(
                "give all nodes the same secret (`--secret-file`), or the authority that signed the servers' certificates (`--ca-cert`)",
            ),
        }
    }
}
