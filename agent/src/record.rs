//! The API's answer, validated: the agent trusts the API to elect the first node, and nothing else.

use std::time::{Duration, Instant};

use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    trust::{Attestation, ClusterKeys, Fingerprint, Statement},
    wire::{self, Cluster, MAX_MEMBERS, MAX_PREVIOUS, State},
};

/// A lease ends after a century at the latest, in seconds: a later time may not be representable.
const MAX_LEASE: u64 = 100 * 366 * 24 * 3600;

/// A cluster's record at the API, as a node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRecord {
    /// The node that has claimed the cluster; once the cluster is ready, the one to join.
    pub initial_node: Node,
    /// Whether this is the asking node.
    pub is_initial: bool,
    pub state: State,
    /// The number of the claim: the fencing token.
    pub generation: u64,
    /// The end of the claim's lease by this node's clock; `None` without a lease.
    pub lease_end: Option<Instant>,
    /// The nodes whose claims were taken over: each may have initialized its server without reporting it.
    pub previous: Vec<Node>,
    /// The UUID of another server that claims the cluster under the initial node's name.
    pub rival: Option<Uuid>,
    pub cluster_uuid: Option<Uuid>,
    pub members: Vec<RecordedMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedMember {
    pub node: Node,
    pub node_uuid: Option<Uuid>,
    /// The authority that has signed its server's certificate.
    pub authority: Option<Fingerprint>,
    pub attestation: Option<Attestation>,
}

impl ClusterRecord {
    /// Validates the answer about this cluster to a request of this node, or of a caller without a name, sent at this time. The
    /// error is a predicate of the API.
    pub fn new(
        answer: Cluster,
        asked: &ClusterId,
        node: Option<&Node>,
        sent: Instant,
    ) -> Result<Self, String> {
        if ClusterId::new(&answer.cluster_id).as_ref() != Ok(asked) {
            return Err("returned another cluster's record".to_owned());
        }
        if answer.generation == 0 {
            return Err("returned generation 0".to_owned());
        }
        let initial_node = parse_node(
            "initial_node_ip_addr_or_hostname",
            &answer.initial_node_ip_addr_or_hostname,
        )?;
        let is_initial = node == Some(&initial_node);
        if node.is_some() && answer.is_initial_node != is_initial {
            return Err(
                "contradicts itself: `is_initial_node` does not fit the initial node".to_owned()
            );
        }
        if answer.members.len().max(answer.nodes.len()) > MAX_MEMBERS
            || answer.previous_initial_nodes.len() > MAX_PREVIOUS
        {
            return Err("returned more nodes than a cluster can have".to_owned());
        }
        let previous = answer.previous_initial_nodes.iter();
        let previous = previous.map(|text| parse_node("previous_initial_nodes", text));
        let members = answer.members.into_iter().map(RecordedMember::new);
        let mut members = members.collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() {
            let nodes = answer.nodes.iter().map(|text| parse_node("nodes", text));
            let unattested =
                |node| RecordedMember { node, node_uuid: None, authority: None, attestation: None };
            members = nodes.map(|node| node.map(unattested)).collect::<Result<_, _>>()?;
        }
        Ok(Self {
            initial_node,
            is_initial,
            state: answer.state,
            generation: answer.generation,
            lease_end: match (answer.lease_seconds_left, answer.lease_expires_at) {
                (Some(seconds), _) => Some(sent + Duration::from_secs(seconds.min(MAX_LEASE))),
                // Without the time left, the lease counts as ended.
                (None, Some(_)) => Some(sent),
                (None, None) => None,
            },
            previous: previous.collect::<Result<_, _>>()?,
            rival: parse_uuid("rival_node_uuid", answer.rival_node_uuid)?,
            cluster_uuid: parse_uuid("cluster_uuid", answer.cluster_uuid)?,
            members,
        })
    }

    pub fn lease_left(&self, now: Instant) -> Option<Duration> {
        self.lease_end.map(|end| end.saturating_duration_since(now))
    }

    pub fn member(&self, node: &Node) -> Option<&RecordedMember> {
        self.members.iter().find(|member| member.node == *node)
    }

    /// The member of this name, if it is attested with the cluster secret. The error is a predicate of the node.
    pub fn attested_member(
        &self,
        node: &Node,
        cluster_id: &ClusterId,
        keys: &ClusterKeys,
    ) -> Result<&RecordedMember, &'static str> {
        let unknown = "the API does not know the cluster's UUID";
        let cluster_uuid = self.cluster_uuid.as_ref().ok_or(unknown)?;
        let member = self.member(node).ok_or("it has not reported to the API")?;
        let statement = Statement { cluster_id, node, cluster_uuid, authority: member.authority };
        let is_attested = member.attestation.is_some_and(|proof| keys.verify(&statement, &proof));
        is_attested.then_some(member).ok_or("it is not attested with the cluster secret")
    }

    /// The node under which the record lists the server of this name, if that is another one: its host got another name, or its agent
    /// another `--node`. Servers of one image may have one UUID.
    pub fn other_name(&self, node: &Node, name: &str) -> Option<&Node> {
        self.nodes().into_iter().find(|other| *other != node && other.host().to_string() == name)
    }

    /// The nodes to join through or to connect to: the initial node, then the other members.
    pub fn nodes(&self) -> Vec<&Node> {
        let members = self.members.iter().map(|member| &member.node);
        let others = members.filter(|node| **node != self.initial_node);
        std::iter::once(&self.initial_node).chain(others).collect()
    }
}

impl RecordedMember {
    fn new(member: wire::Member) -> Result<Self, String> {
        Ok(Self {
            node: parse_node("members", &member.node)?,
            node_uuid: parse_uuid("node_uuid", member.node_uuid)?,
            // An unreadable value proves nothing.
            authority: member.authority_sha256.as_deref().and_then(Fingerprint::from_hex),
            attestation: member.attestation.as_deref().and_then(Attestation::from_hex),
        })
    }
}

fn parse_node(field: &str, text: &str) -> Result<Node, String> {
    Node::new(text).map_err(|why| format!("returned a `{field}` that {why}"))
}

fn parse_uuid(field: &str, text: Option<String>) -> Result<Option<Uuid>, String> {
    let uuid = text.map(Uuid::new).transpose();
    uuid.map_err(|why| format!("returned a `{field}` that {why}"))
}

#[cfg(test)]
pub(crate) mod tests;
