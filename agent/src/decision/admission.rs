//! Decides whether a node can join through a member.

use cbbootstrap_protocol::names::{Node, Uuid};

use crate::{
    record::ClusterRecord,
    server::{Health, Membership, NodeInfo, View},
};

/// Whether a node can join through a member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    Add,
    /// Not yet, for this reason.
    Later(String),
    /// Another server, with this UUID, is a healthy member under the node's name.
    NameTaken(Uuid),
    /// The member belongs to another cluster: try the next one.
    OtherCluster(String),
    /// First remove the failed-over member that this node replaces, by its name for rebalances.
    Replace(String),
    /// The member is not healthy and active itself: try the next one.
    UnfitMember,
}

/// Decides whether the node, with this server UUID, can join through a member with this view of the cluster. The API may know the
/// cluster's UUID. With `replaces`, a failed-over member with the node's name may be removed.
pub fn admission(
    node: &Node,
    own: Option<&Uuid>,
    view: &View,
    cluster_uuid: Option<&Uuid>,
    replaces: bool,
) -> Admission {
    if cluster_uuid.is_some_and(|uuid| *uuid != view.uuid) {
        let uuid = &view.uuid;
        return Admission::OtherCluster(format!(
            "it belongs to another cluster, the one with the UUID {uuid}"
        ));
    }
    let is_in =
        |this: &NodeInfo| this.membership == Membership::Active && this.health != Health::Unhealthy;
    if !view.this().is_some_and(is_in) {
        return Admission::UnfitMember;
    }
    let Some(listed) = view.member(node) else {
        return if view.is_rebalancing {
            Admission::Later("a rebalance runs; no node can be added until it ends".to_owned())
        } else {
            Admission::Add
        };
    };
    let is_other =
        listed.health != Health::Unhealthy && own.is_some() && listed.uuid.as_ref() != own;
    Admission::Later(match (listed.membership, listed.uuid.clone()) {
        (_, Some(uuid)) if is_other => return Admission::NameTaken(uuid),
        (Membership::Added, _) => "it has been added, and its server is still joining".to_owned(),
        (Membership::Active, _) => format!(
            "the cluster lists `{node}` as a member that it cannot reach, and this server is blank: once that member has been failed over and removed, this node can join again"
        ),
        (Membership::FailedOver, _) if replaces => match obstacle_to_replacement(listed, own, view)
        {
            None => return Admission::Replace(listed.otp.clone()),
            Some(why) => {
                format!("the cluster has failed `{node}` over, and it cannot be replaced: {why}")
            }
        },
        (Membership::FailedOver, _) => {
            format!(
                "the cluster has failed `{node}` over: once it has been removed, this node can join again"
            )
        }
    })
}

/// Whether a member may be an old copy, such as a restored snapshot, because it knows none of the other recorded members besides the
/// asking node. If one of them does not list it, no node may join through it.
pub fn may_be_copy(node: &Node, member: &Node, view: &View, record: &ClusterRecord) -> bool {
    let others = record.nodes().into_iter().filter(|other| *other != node && *other != member);
    let mut others = others.peekable();
    others.peek().is_some() && others.all(|other| view.member(other).is_none())
}

/// Why a failed-over member must stay in the cluster. It is dead for good only if its server is another one than this node's, and its
/// data is not needed only if all other nodes are well and have copies.
fn obstacle_to_replacement(listed: &NodeInfo, own: Option<&Uuid>, view: &View) -> Option<String> {
    if listed.health != Health::Unhealthy {
        return Some("it is running".to_owned());
    }
    if own.is_none() || listed.uuid.is_none() || listed.uuid.as_ref() == own {
        return Some("this server may be that member".to_owned());
    }
    if view.is_rebalancing {
        return Some("a rebalance runs".to_owned());
    }
    let mut others = view.nodes.iter().filter(|node| node.otp != listed.otp);
    if let Some(other) = others.find(|node| !node.is_well()) {
        return Some(format!("`{}` is not active and healthy", other.name));
    }
    (!view.can_lose(1)).then(|| "a bucket has no replicas, so its data would be lost".to_owned())
}
