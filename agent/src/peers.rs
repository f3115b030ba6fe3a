//! Connections to other members of the cluster that may carry the administrator's password.
//!
//! The API names the members, but is not trusted to: credentials are sent only after the member's certificate was verified against
//! an authority that the cluster secret or `--ca-cert` vouches for.

use std::{thread, time::Duration};

use cbbootstrap_protocol::{
    names::{ClusterId, Node},
    trust::{Attestation, ClusterKeys, Fingerprint, Statement},
};
use ureq::tls::Certificate;

use crate::{
    decision::Testimony,
    http::{CallError, Deadline, Trust},
    record::ClusterRecord,
    server::{Administrator, Server, View},
};

/// After this many members that run and give no clear answer, no more are asked about a node: each may cost a time limit.
const MAX_UNCLEAR: usize = 3;

/// How long members are asked about a node. In this time, 255 members that are all down can be asked.
const ASKING_LIMIT: Duration = Duration::from_mins(1);

/// More reasons do not fit on a screen.
const MAX_REASONS: usize = 5;

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
        deadline: Deadline,
    ) -> Result<Server, CallError> {
        let untrusted = |why: &str| CallError::Untrusted(why.to_owned());
        let proof = self.proof(node, record).map_err(untrusted)?;
        let trust = match (proof, &self.authority) {
            (Proof::Attested(Some(fingerprint)), _) if is_enterprise => {
                Some(Trust::from_authority(fetch_authority(node, fingerprint, deadline)?))
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
        Ok(Server::on_node(node, trust.as_ref(), administrator, deadline))
    }

    /// Asks the other recorded members about a node, twice as many at a time as before, until one lists it.
    pub fn ask_about(
        &self,
        node: &Node,
        record: &ClusterRecord,
        is_enterprise: bool,
        is_listed: impl Fn(&View) -> bool,
    ) -> Testimony {
        let deadline = self.deadline.or_after(ASKING_LIMIT);
        let others = record.nodes().into_iter().filter(|other| *other != node);
        let mut others: Vec<_> = others.collect();
        // The next attempt asks others first.
        fastrand::shuffle(&mut others);
        let (mut denied_by, mut unclear, mut reasons, mut count) = (None, 0, Vec::new(), 1);
        let mut are_verified = true;
        while !others.is_empty() && unclear < MAX_UNCLEAR && !deadline.time_left().is_zero() {
            let asked = others.split_off(others.len().saturating_sub(count));
            count *= 2;
            let views = thread::scope(|scope| {
                let ask = |member| self.ask(member, record, is_enterprise, deadline);
                let threads: Vec<_> =
                    asked.iter().map(|member| scope.spawn(move || ask(member))).collect();
                let failed = |_| Err(CallError::Unexpected("the request failed".to_owned()));
                let views = threads.into_iter().map(|thread| thread.join().unwrap_or_else(failed));
                views.collect::<Vec<_>>()
            });
            for (member, view) in asked.into_iter().zip(views) {
                let is_of_cluster = |view: &View| {
                    record.cluster_uuid.as_ref().is_none_or(|uuid| *uuid == view.uuid)
                };
                match view {
                    Ok(Some(view)) if is_of_cluster(&view) && is_listed(&view) => {
                        return Testimony::Listed(view);
                    }
                    Ok(Some(view)) if is_of_cluster(&view) => denied_by = Some(member.clone()),
                    Ok(_) => {
                        reasons.push(format!("`{member}` belongs to another cluster or to none"));
                    }
                    Err(error) => {
                        match &error {
                            CallError::Unreachable(_) => {}
                            CallError::Untrusted(_) => are_verified = false,
                            _ => unclear += 1,
                        }
                        reasons.push(format!("`{member}`: {error}"));
                    }
                }
            }
        }
        if reasons.is_empty() {
            reasons.push("the API lists no other member".to_owned());
        }
        match denied_by {
            Some(member) => Testimony::NotListed(member),
            None => Testimony::Silent {
                are_gone: unclear == 0 && are_verified && others.is_empty(),
                why: join_reasons(reasons),
            },
        }
    }

    /// Reads a member's cluster; `None` if its server belongs to none.
    fn ask(
        &self,
        member: &Node,
        record: &ClusterRecord,
        is_enterprise: bool,
        deadline: Deadline,
    ) -> Result<Option<View>, CallError> {
        let answer = self.connect(member, record, is_enterprise, deadline);
        let answer = answer.and_then(|server| server.cluster());
        let Err(CallError::Untrusted(_)) = answer else { return answer };
        // A server that was reset has another certificate, but a member may have a new one, too. This needs no credentials.
        let trust = is_enterprise.then_some(&Trust::Anyone);
        match Server::on_node(member, trust, None, deadline).is_provisioned() {
            Ok(false) => Ok(None),
            Err(CallError::Unreachable(why)) => Err(CallError::Unreachable(why)),
            _ => answer,
        }
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
        let authority =
            is_enterprise.then(|| own_authority(node, &own.anonymous(deadline), deadline));
        let authority = authority.transpose()?;
        let (cluster_id, cluster_uuid) = (&self.cluster_id, &view.uuid);
        let statement = Statement { cluster_id, node, cluster_uuid, authority };
        Ok(Some((authority, keys.attest(&statement))))
    }
}

/// Joins what members have answered, as far as it fits on a screen.
pub fn join_reasons(mut reasons: Vec<String>) -> String {
    if reasons.len() > MAX_REASONS {
        let more = reasons.split_off(MAX_REASONS).len();
        reasons.push(format!("and {more} more"));
    }
    reasons.join("; ")
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
