//! The result of `up`, and its refusals.

use std::{fmt, time::Duration};

use cbbootstrap_cli::{failure::Failure, text::shell_argument};
use cbbootstrap_protocol::names::Uuid;
use serde::Serialize;

use super::{Run, count_nodes};
use crate::{
    decision::StopReason,
    record::ClusterRecord,
    server::{Health, Membership, NodeInfo, View},
};

/// The way out of a second cluster.
pub(super) const RESET: &str =
    "if you do not need its data, reset the server and run this command again";

#[derive(Debug, Serialize)]
pub(super) struct UpOutcome {
    cluster_id: String,
    cluster_uuid: String,
    node: String,
    /// Whether the node is the one that others join.
    is_initial_node: bool,
    generation: u64,
    nodes: Vec<String>,
    failed_over: Vec<String>,
    /// Active nodes that cannot be reached.
    unhealthy: Vec<String>,
    balanced: bool,
    buckets: Vec<String>,
    refused: Vec<String>,
    seconds: f64,
}

impl UpOutcome {
    pub(super) fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.balanced && self.failed_over.is_empty()
    }
}

impl fmt::Display for UpOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster_id, cluster_uuid, node, nodes, .. } = self;
        let balanced = if self.balanced { "is balanced" } else { "is not balanced" };
        let nodes = count_nodes(nodes.len());
        write!(
            f,
            "`{node}` is an active member of `{cluster_id}` ({cluster_uuid}), which {balanced} and has {nodes}"
        )?;
        for (names, what) in [
            (&self.failed_over, "failed over"),
            (&self.unhealthy, "not reachable"),
            (&self.refused, "refused"),
        ] {
            if !names.is_empty() {
                write!(f, "; {what}: {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

impl Run<'_> {
    pub(super) fn outcome(
        &mut self,
        view: View,
        record: &ClusterRecord,
        time: Duration,
    ) -> UpOutcome {
        let names = |is_listed: fn(&NodeInfo) -> bool| -> Vec<String> {
            let nodes = view.nodes.iter().filter(|node| is_listed(node));
            nodes.map(|node| node.name.clone()).collect()
        };
        UpOutcome {
            cluster_id: self.here.api.cluster_id.as_str().to_owned(),
            cluster_uuid: view.uuid.to_string(),
            node: self.node().to_string(),
            is_initial_node: record.is_initial,
            generation: record.generation,
            nodes: names(|_| true),
            failed_over: names(NodeInfo::is_failed_over),
            unhealthy: names(|node| {
                node.health == Health::Unhealthy && node.membership == Membership::Active
            }),
            balanced: view.is_balanced,
            buckets: view.buckets,
            refused: std::mem::take(&mut self.state.refused),
            seconds: (time.as_secs_f64() * 1000.0).round() / 1000.0,
        }
    }

    pub(super) fn explain(&self, reason: &StopReason) -> Failure {
        let (node, id) = (self.node(), self.here.api.cluster_id.as_str());
        let untouched = "nothing on this server was changed";
        let forget = |whose: &str| {
            let id = shell_argument(id);
            format!(
                "stop the agents of {whose}, run `cbbootstrap cluster forget {id}`, then this command on a member of the cluster"
            )
        };
        let (why, hint) = match reason {
            StopReason::OtherCredentials => (
                format!("the server belongs to a cluster with another user name or password; {untouched}"),
                "pass that cluster's user name and password, or use a server that belongs to no cluster",
            ),
            StopReason::Unregistered(uuid) => (
                format!("the server already belongs to the cluster {uuid}, and the API has no cluster `{id}`; {untouched}"),
                "pass `--adopt` to register that cluster, so that other nodes join it",
            ),
            StopReason::NothingToAdopt => (
                format!("the API has no ready cluster `{id}`, and this server belongs to none that `--adopt` could register; {untouched}"),
                "run this command on a member of the cluster, or begin a new one without `--adopt`",
            ),
            StopReason::OwnClaim => (
                format!("this node has claimed `{id}`, so `--adopt` can register no cluster; {untouched}"),
                &*forget("nodes that are in no cluster"),
            ),
            StopReason::OtherCluster { own, recorded } => (
                format!("the server belongs to the cluster {own}, but `{id}` is {recorded}; {untouched}"),
                // A blank node may have been quicker than the operator.
                &*if self.goal.adopt {
                    format!("if this cluster has the data, {}", forget("all nodes that are not its members"))
                } else {
                    RESET.to_owned()
                },
            ),
            StopReason::OldCopy(member) => (
                format!("`{member}` is a member of the same cluster and does not list this server, which is an old copy of a member, such as a restored snapshot; {untouched}"),
                RESET,
            ),
            StopReason::FailedOver => (
                format!("the cluster has failed `{node}` over; {untouched}"),
                "recover it, or rebalance it out, in Couchbase Server; then run this command again",
            ),
            StopReason::Lost { recorded, own } => {
                let [recorded, own] =
                    [recorded, own].map(|uuid| uuid.as_ref().map_or("unknown", Uuid::as_str));
                (
                    format!(
                        "`{id}` is ready, and its only member is a server named `{node}` (UUID {recorded}); this server is blank \
                         (UUID {own}): either it has lost its data or left its cluster, or two machines have the same name"
                    ),
                    "give each machine its own `--node`; if another member has the data, run `cbbootstrap-agent up` there, and then this \
                     command again; if no machine has it, restore it, or run `cbbootstrap cluster forget` to start a new cluster",
                )
            }
            StopReason::Occupied(first) => (
                format!("`{first}` has initialized a cluster for `{id}` but not reported it, so this node does not start a second one; {untouched}"),
                &*format!("run `cbbootstrap-agent up` on `{first}`, or reset its server if you do not need its data"),
            ),
            StopReason::NoTrust => (
                "there is a cluster to join, but no way to verify its members; no password was sent".to_owned(),
                "give all nodes the same secret (`--secret-file`), or pass the authority that signed the servers' certificates (`--ca-cert`)",
            ),
        };
        Failure::refused(why).hint(hint)
    }
}
