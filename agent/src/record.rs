//! The API's answer, validated: the agent trusts the API to elect the first node, and takes nothing else from it unseen.

use std::time::Duration;

use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    trust::{Attestation, ClusterKeys, Fingerprint, Statement},
    wire::{self, Cluster, MAX_MEMBERS, MAX_PREVIOUS, State},
};

/// A cluster's record at the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The node that has claimed the cluster; once the cluster is ready, the one to join.
    pub initial_node: Node,
    /// Whether that is this node.
    pub is_initial: bool,
    /// How far the cluster is.
    pub state: State,
    /// Which claim it is: the fencing token.
    pub generation: u64,
    /// What is left of the claim's lease; `None` if it has none.
    pub lease_left: Option<Duration>,
    /// The nodes whose claims were taken over: each may have initialised its server without reporting it.
    pub previous: Vec<Node>,
    /// The UUID of another server that claims under the initial node's name.
    pub rival: Option<Uuid>,
    /// The cluster's UUID in Couchbase Server, once reported.
    pub cluster_uuid: Option<Uuid>,
    /// The members that reported ready.
    pub members: Vec<Member>,
}

/// A member, as it reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub node: Node,
    /// The UUID of its server.
    pub node_uuid: Option<Uuid>,
    /// The authority that has signed its server's certificate.
    pub authority: Option<Fingerprint>,
    /// Its proof that it knows the cluster's secret.
    pub attestation: Option<Attestation>,
}

impl Record {
    /// Validates an answer about this cluster to this node, or to a caller that named none. The error continues a sentence that
    /// begins with the API.
    pub fn new(answer: Cluster, asked: &ClusterId, node: Option<&Node>) -> Result<Self, String> {
        let name = |field: &str, text: &str| {
            Node::new(text).map_err(|why| format!("answers with a `{field}` that {why}"))
        };
        let uuid = |field: &str, text: Option<String>| {
            let uuid = text.map(Uuid::new).transpose();
            uuid.map_err(|why| format!("answers with a `{field}` that {why}"))
        };
        if ClusterId::new(&answer.cluster_id).as_ref() != Ok(asked) {
            return Err("answers about another cluster".to_owned());
        }
        if answer.generation == 0 {
            return Err("answers with generation 0".to_owned());
        }
        let initial_node =
            name("initial_node_ip_addr_or_hostname", &answer.initial_node_ip_addr_or_hostname)?;
        let is_initial = node == Some(&initial_node);
        if node.is_some() && answer.is_initial_node != is_initial {
            return Err(
                "contradicts itself: `is_initial_node` does not fit the initial node".to_owned()
            );
        }
        if answer.members.len().max(answer.nodes.len()) > MAX_MEMBERS
            || answer.previous_initial_nodes.len() > MAX_PREVIOUS
        {
            return Err("answers with more nodes than a cluster can have".to_owned());
        }
        let previous =
            answer.previous_initial_nodes.iter().map(|text| name("previous_initial_nodes", text));
        let members = answer.members.into_iter().map(|member| Member::new(member, name));
        let mut members = members.collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() {
            let nodes = answer.nodes.iter().map(|text| name("nodes", text).map(Member::unattested));
            members = nodes.collect::<Result<_, _>>()?;
        }
        Ok(Self {
            initial_node,
            is_initial,
            state: answer.state,
            generation: answer.generation,
            lease_left: match (answer.lease_seconds_left, answer.lease_expires_at) {
                (Some(seconds), _) => Some(Duration::from_secs(seconds)),
                // An answer that does not say how much is left leaves nothing.
                (None, Some(_)) => Some(Duration::ZERO),
                (None, None) => None,
            },
            previous: previous.collect::<Result<_, _>>()?,
            rival: uuid("rival_node_uuid", answer.rival_node_uuid)?,
            cluster_uuid: uuid("cluster_uuid", answer.cluster_uuid)?,
            members,
        })
    }

    /// The member of this name.
    pub fn member(&self, node: &Node) -> Option<&Member> {
        self.members.iter().find(|member| member.node == *node)
    }

    /// The nodes to join through or to connect to: the one that the API names, then the members.
    pub fn nodes(&self) -> Vec<&Node> {
        let members = self.members.iter().map(|member| &member.node);
        let others = members.filter(|node| **node != self.initial_node);
        std::iter::once(&self.initial_node).chain(others).collect()
    }
}

impl Member {
    fn new(
        member: wire::Member,
        name: impl Fn(&str, &str) -> Result<Node, String>,
    ) -> Result<Self, String> {
        let node_uuid = member.node_uuid.map(Uuid::new).transpose();
        Ok(Self {
            node: name("members", &member.node)?,
            node_uuid: node_uuid.map_err(|why| format!("answers with a `node_uuid` that {why}"))?,
            // What cannot be read proves nothing.
            authority: member.authority_sha256.as_deref().and_then(Fingerprint::from_hex),
            attestation: member.attestation.as_deref().and_then(Attestation::from_hex),
        })
    }

    fn unattested(node: Node) -> Self {
        Self { node, node_uuid: None, authority: None, attestation: None }
    }

    /// Whether somebody who knows the cluster's secret has attested this member of this cluster.
    pub fn is_attested(
        &self,
        keys: &ClusterKeys,
        cluster_id: &ClusterId,
        cluster_uuid: &Uuid,
    ) -> bool {
        let statement =
            Statement { cluster_id, node: &self.node, cluster_uuid, authority: self.authority };
        self.attestation.is_some_and(|attestation| keys.verify(&statement, &attestation))
    }
}

#[cfg(test)]
pub(crate) mod tests;
