//! Connections to other members of the cluster that may carry the administrator's password.
//!
//! The API names the members, but is not trusted to: credentials are sent only after the member's certificate was verified against
//! an authority that the cluster secret or `--ca-cert` vouches for.

use cbbootstrap_protocol::{
    names::{ClusterId, Node},
    trust::{Attestation, ClusterKeys, Fingerprint, Statement},
};

use ureq::tls::Certificate;

use crate::{
    http::{CallError, Deadline, Trust},
    record::ClusterRecord,
    server::{Administrator, Server, View},
};

/// At most this many members are asked about a node: one that is down costs a time limit.
const MAX_ASKED: usize = 3;

#[derive(Debug)]
pub struct Peers {
    pub cluster_id: ClusterId,
    pub keys: Option<ClusterKeys>,
    /// The authority that the operator named.
    pub authority: Option<Trust>,
    pub is_insecure: bool,
    pub administrator: Administrator,
    pub deadline: Deadline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The cluster secret: this authority has signed the member's certificate. Community Edition has none.
    Attested(Option<Fingerprint>),
    /// The operator's authority, which must have signed the member's certificate.
    Authority,
    /// Nothing, with `--insecure`.
    Anyone,
}

/// A node's attestation, with the authority that has signed its server's certificate. Community Edition has none.
pub type Attested = (Option<Fingerprint>, Attestation);

impl Peers {
    /// Whether members can be verified, or need not be.
    pub fn can_verify_members(&self) -> bool {
        self.keys.is_some() || self.authority.is_some() || self.is_insecure
    }

    /// What vouches for a node that the API calls a member. The error is a predicate of the node.
    pub fn proof(&self, node: &Node, record: &ClusterRecord) -> Result<Proof, &'static str> {
        if let Some(keys) = &self.keys {
            let member = record.attested_member(node, &self.cluster_id, keys)?;
            return Ok(Proof::Attested(member.authority));
        }
        match (self.is_insecure, &self.authority) {
            (true, _) => Ok(Proof::Anyone),
            (false, Some(_)) => Ok(Proof::Authority),
            (false, None) => Err("nothing vouches for it"),
        }
    }

    /// The server of a member, verified before it gets credentials.
    pub fn connect(
        &self,
        node: &Node,
        record: &ClusterRecord,
        is_enterprise: bool,
    ) -> Result<Server, CallError> {
        let untrusted = |why: &str| CallError::Untrusted(why.to_owned());
        let proof = self.proof(node, record).map_err(untrusted)?;
        let trust = match (proof, &self.authority) {
            (Proof::Attested(Some(fingerprint)), _) if is_enterprise => {
                Some(Trust::from_authority(fetch_authority(node, fingerprint, self.deadline)?))
            }
            (Proof::Authority, Some(authority)) if is_enterprise => Some(authority.clone()),
            _ if !self.is_insecure => {
                return Err(untrusted(
                    "its edition has no TLS: the password would cross the network unencrypted",
                ));
            }
            _ => is_enterprise.then_some(Trust::Anyone),
        };
        let administrator = Some(self.administrator.clone());
        Ok(Server::on_node(node, trust.as_ref(), administrator, self.deadline))
    }

    /// The cluster as another member of the record sees it, if one can be asked.
    pub fn find_view(
        &self,
        node: &Node,
        record: &ClusterRecord,
        is_enterprise: bool,
    ) -> Option<View> {
        let others = record.nodes().into_iter().filter(|other| *other != node);
        others.take(MAX_ASKED).find_map(|member| {
            let member = self.connect(member, record, is_enterprise).ok()?;
            member.cluster().ok().flatten()
        })
    }

    /// Attests that this node is a member of the cluster that its server sees; `None` where the cluster has no secret.
    pub fn attest(
        &self,
        node: &Node,
        own: &Server,
        view: &View,
        is_enterprise: bool,
        deadline: Deadline,
    ) -> Result<Option<Attested>, CallError> {
        let Some(keys) = &self.keys else {
            return Ok(None);
        };
        let authority = if is_enterprise {
            Some(own_authority(node, &own.anonymous(deadline), deadline)?)
        } else {
            None
        };
        let (cluster_id, cluster_uuid) = (&self.cluster_id, &view.uuid);
        let statement = Statement { cluster_id, node, cluster_uuid, authority };
        Ok(Some((authority, keys.attest(&statement))))
    }
}

/// Fetches the attested authority from the member itself. The connection needs no trust: no credentials are sent, and the
/// fingerprint proves the answer.
pub fn fetch_authority(
    node: &Node,
    fingerprint: Fingerprint,
    deadline: Deadline,
) -> Result<Certificate<'static>, CallError> {
    let anyone = Server::on_node(node, Some(&Trust::Anyone), None, deadline);
    let mut certificates = anyone.authorities()?.into_iter();
    let attested = certificates.find(|one| Fingerprint::of_certificate(one.der()) == fingerprint);
    attested.ok_or_else(|| {
        CallError::Untrusted(format!("{} does not have the authority that it attested", anyone.url))
    })
}

/// The authority by which other nodes can verify this node's certificate: the one by which this node can.
fn own_authority(node: &Node, own: &Server, deadline: Deadline) -> Result<Fingerprint, CallError> {
    let mut last = CallError::Unexpected(format!("{} names no certificate authority", own.url));
    for certificate in own.authorities()? {
        let fingerprint = Fingerprint::of_certificate(certificate.der());
        let trust = Trust::from_authority(certificate);
        match Server::on_node(node, Some(&trust), None, deadline).is_provisioned() {
            Ok(_) => return Ok(fingerprint),
            Err(error) => last = error,
        }
    }
    Err(last)
}
