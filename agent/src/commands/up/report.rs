//! What a member tells the API, and what it asks another member before.

use std::time::Duration;

use cbbootstrap_protocol::{
    names::{Node, Uuid},
    wire::State,
};

use super::{Known, Round, Run, TRIES};
use crate::{
    api::{Report, Unanswered},
    commands::refused,
    decision::Own,
    failure::Failure,
    server::{Error, View},
};

/// How long the first report of a cluster may wait for its attestation.
const FIRST_ATTESTATION: Duration = Duration::from_secs(5);

impl Run<'_> {
    /// Reports this node ready. The first report of a cluster does not wait for an attestation: others must not take the claim
    /// over because of it.
    pub(super) fn report(&mut self, uuid: &Uuid, own: &Own) -> anyhow::Result<Round> {
        let (Some(record), Own::Member(view)) = (self.record(), own) else {
            return Ok(Round::Again);
        };
        // Others wait for the first report, and its lease runs.
        let deadline = match record.state {
            State::Claimed => self.here.peers.deadline.or_after(FIRST_ATTESTATION),
            State::Ready => self.here.peers.deadline,
        };
        let (node, server) = (&self.here.node, &self.here.server);
        let is_enterprise = self.is_enterprise();
        let attested = self.here.peers.attest(node, server, view, is_enterprise, deadline);
        let attested = match attested {
            Ok(attested) => attested,
            Err(error) if self.done.is_reported => return Ok(self.not_attested(&error)),
            Err(error) => {
                self.printer.warning(format_args!(
                    "the report is not attested yet, and other nodes cannot join through this one: {error}"
                ));
                None
            }
        };
        let is_attested = attested.is_some();
        let report = Report {
            generation: record.generation,
            cluster_uuid: uuid.clone(),
            node_uuid: self.own_uuid.clone(),
            authority: attested.and_then(|(authority, _)| authority),
            attestation: attested.map(|(_, attestation)| attestation),
        };
        match self.api.ready(&self.here.node, &report) {
            Ok(answer) => {
                self.printer.step(if is_attested {
                    "ready: reported and attested"
                } else {
                    "ready: reported"
                });
                self.learn(answer);
                self.done.is_reported = true;
                self.done.is_attested = is_attested;
                Ok(Round::Again)
            }
            Err(Unanswered::Later(why)) => Ok(Round::wait(why)),
            Err(Unanswered::Refused(problem)) => match problem.code.as_str() {
                // Asked again, the API says who has the cluster now.
                "stale_generation" | "initial_node_not_ready" | "cluster_not_found" => {
                    self.asked = Known::NotYet;
                    Ok(Round::wait(problem.detail))
                }
                "other_cluster" => {
                    let why = format!("there is a second cluster: {}", problem.detail);
                    Err(Failure::refused(why).hint(super::refusal::RESET).into())
                }
                "too_many_nodes" => {
                    self.printer.warning(&problem.detail);
                    self.refused.push("a place in the API's list of members".to_owned());
                    self.done.is_reported = true;
                    self.done.is_attested = true;
                    Ok(Round::Again)
                }
                _ => Err(refused(Unanswered::Refused(problem))),
            },
            Err(error) => Err(refused(error)),
        }
    }

    /// The membership is reported, and could not be attested again.
    fn not_attested(&mut self, error: &Error) -> Round {
        self.unattested += 1;
        if self.unattested < TRIES {
            return Round::wait(format!("this node cannot attest its membership yet: {error}"));
        }
        self.printer.warning(format_args!(
            "this node cannot attest its membership: {error}; nobody joins through it"
        ));
        self.refused.push("attestation".to_owned());
        self.done.is_attested = true;
        Round::Again
    }

    /// Asks other members whether this node is one of them: a server that has just started may not know that it was removed.
    pub(super) fn confirm(&mut self, members: &[String], own: &Own) -> Round {
        let (Some(record), Own::Member(view)) = (self.record(), own) else {
            return Round::Again;
        };
        let mut reasons = Vec::new();
        for name in members {
            let Ok(node) = Node::new(name) else { continue };
            let seen = self
                .here
                .peers
                .connect(&node, &record, self.is_enterprise())
                .and_then(|server| server.cluster());
            match seen {
                Ok(Some(theirs)) if self.is_listed(view, &theirs) => {
                    self.done.is_confirmed = true;
                    return Round::Again;
                }
                Ok(Some(theirs)) if theirs.uuid == view.uuid => {
                    return Round::wait(format!(
                        "`{name}` does not list this node any more: its server has just started and does not know yet"
                    ));
                }
                Ok(_) => reasons.push(format!("`{name}` belongs to another cluster or to none")),
                Err(Error::Unauthorized) => reasons.push(format!("`{name}` has other credentials")),
                Err(error) => reasons.push(format!("`{name}`: {error}")),
            }
        }
        Round::wait(format!(
            "the server has just started, and no other member has confirmed what it says: {}",
            reasons.join("; ")
        ))
    }

    /// Whether another member lists this very server.
    fn is_listed(&self, ours: &View, theirs: &View) -> bool {
        let own = ours.this().and_then(|this| this.uuid.as_ref());
        let listed = theirs.node(&self.here.node.host().to_string());
        let listed = listed.or_else(|| ours.this().and_then(|this| theirs.node(&this.name)));
        theirs.uuid == ours.uuid
            && listed.is_some_and(|node| own.is_none() || node.uuid.as_ref() == own)
    }
}
