//! Other members of the cluster: who is one, and a connection that may carry the administrator's password.
//!
//! The API names the members, and is not trusted to: no credentials leave before the member's certificate was verified against
//! what the cluster's secret or `--ca-cert` vouches for.

use cbbootstrap_protocol::{
    names::{ClusterId, Node},
    trust::{Attestation, ClusterKeys, Fingerprint, Statement},
};

use crate::{
    http::{self, Deadline, Trust},
    record::Record,
    server::{Administrator, Error, Server, View},
};

/// How members are told from impostors.
#[derive(Debug)]
pub struct Peers {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The keys of the cluster's secret.
    pub keys: Option<ClusterKeys>,
    /// The authority that the operator named.
    pub authority: Option<Trust>,
    /// Whether the operator said to trust anyone.
    pub is_insecure: bool,
    /// Who administers the cluster.
    pub administrator: Administrator,
    /// When the command ends.
    pub deadline: Deadline,
}

/// What vouches for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The cluster's secret: the member's certificate is signed by this authority. Community Edition has none.
    Attested(Option<Fingerprint>),
    /// The operator's authority, which has to have signed the member's certificate.
    Authority,
    /// Nothing: the operator said to trust anyone.
    Anyone,
}

impl Peers {
    /// Whether there is a way to tell members from impostors, or none is wanted.
    pub fn are_distinguishable(&self) -> bool {
        self.keys.is_some() || self.authority.is_some() || self.is_insecure
    }

    /// What vouches for a node that the API calls a member. The error continues a sentence that begins with the node.
    pub fn proof(&self, node: &Node, record: &Record) -> Result<Proof, &'static str> {
        if let Some(keys) = &self.keys {
            let uuid =
                record.cluster_uuid.as_ref().ok_or("the API does not know the cluster's UUID")?;
            let member = record.member(node).ok_or("it has not reported to the API")?;
            return if member.is_attested(keys, &self.cluster_id, uuid) {
                Ok(Proof::Attested(member.authority))
            } else {
                Err("it is not attested with this cluster's secret")
            };
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
        record: &Record,
        is_enterprise: bool,
    ) -> Result<Server, Error> {
        let proof = self.proof(node, record).map_err(|why| Error::Untrusted(why.to_owned()))?;
        let administrator = Some(self.administrator.clone());
        let trust = match proof {
            Proof::Attested(Some(authority)) if is_enterprise => {
                self.attested_authority(node, authority)?
            }
            Proof::Authority if is_enterprise => self.authority.clone().unwrap_or(Trust::System),
            _ if !self.is_insecure => {
                return Err(Error::Untrusted(
                    "its edition has no TLS: the password would cross the network in the clear"
                        .to_owned(),
                ));
            }
            _ if is_enterprise => Trust::Anyone,
            _ => {
                return Ok(Server::of_node_without_tls(node, administrator, self.deadline));
            }
        };
        Ok(Server::of_node(node, &trust, administrator, self.deadline))
    }

    /// Fetches the attested authority from the member itself. Nothing is sent but the question, so anyone may answer it: the
    /// fingerprint tells.
    fn attested_authority(&self, node: &Node, fingerprint: Fingerprint) -> Result<Trust, Error> {
        let anyone = Server::of_node(node, &Trust::Anyone, None, self.deadline);
        let authorities = anyone.authorities()?;
        let certificates =
            authorities.iter().filter_map(|pem| http::certificates(pem.as_bytes()).ok()).flatten();
        let mut attested = certificates
            .filter(|certificate| Fingerprint::of_certificate(certificate.der()) == fingerprint);
        let attested = attested.next().ok_or_else(|| {
            Error::Untrusted(format!("{} does not have the authority that it attested", anyone.url))
        })?;
        Ok(Trust::of_authority(attested))
    }

    /// This node's attestation that it is a member of the cluster that its server sees, and the authority that has signed its
    /// server's certificate; `None` where the cluster has no secret.
    pub fn attest(
        &self,
        node: &Node,
        own: &Server,
        view: &View,
        is_enterprise: bool,
        deadline: Deadline,
    ) -> Result<Option<(Option<Fingerprint>, Attestation)>, Error> {
        let Some(keys) = &self.keys else {
            return Ok(None);
        };
        let authority = if is_enterprise {
            Some(own_authority(node, &own.anonymous(deadline), deadline)?)
        } else {
            None
        };
        let statement =
            Statement { cluster_id: &self.cluster_id, node, cluster_uuid: &view.uuid, authority };
        Ok(Some((authority, keys.attest(&statement))))
    }
}

/// The authority with which this node's certificate can be verified by other nodes: the one with which it can be from here.
fn own_authority(node: &Node, own: &Server, deadline: Deadline) -> Result<Fingerprint, Error> {
    let mut last = Error::Strange(format!("{} names no certificate authority", own.url));
    for pem in own.authorities()? {
        for certificate in http::certificates(pem.as_bytes()).into_iter().flatten() {
            let fingerprint = Fingerprint::of_certificate(certificate.der());
            let trust = Trust::of_authority(certificate);
            match Server::of_node(node, &trust, None, deadline).is_provisioned() {
                Ok(_) => return Ok(fingerprint),
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}
