//! A member confirms its membership with other members, and reports it to the API.

use std::time::Duration;

use cbbootstrap_cli::failure::Failure;
use cbbootstrap_protocol::{names::Node, wire::State};

use super::{Interrupt, MAX_REFUSALS, Run, outcome::RESET};
use crate::{api::ApiError, decision::Asked, http::CallError, record::ClusterRecord, server::View};

/// At most this many members are asked about this node: one that is down costs a time limit.
const MAX_ASKED: usize = 3;

/// How long the first report of a cluster may wait for its attestation: other nodes wait for the report, and its lease runs.
const FIRST_ATTESTATION_LIMIT: Duration = Duration::from_secs(5);

impl Run<'_> {
    /// Reports this node ready. The first report does not need the attestation, which a later one adds: otherwise another node
    /// could take the claim over.
    pub(super) fn report(&mut self, view: &View, record: &ClusterRecord) -> Result<(), Interrupt> {
        let peers = &self.here.peers;
        let deadline = match record.state {
            State::Claimed => peers.deadline.or_after(FIRST_ATTESTATION_LIMIT),
            State::Ready => peers.deadline,
        };
        let server = &self.here.server;
        let attested = match peers.attest(self.node(), server, view, self.is_enterprise(), deadline)
        {
            Ok(attested) => attested,
            Err(error) if self.state.memory.is_reported => return self.retry_attestation(&error),
            Err(error) => {
                self.printer.warning(format_args!(
                    "the report is not attested yet, and other nodes cannot join through this one: {error}"
                ));
                None
            }
        };
        let identity = &self.here.identity;
        let problem =
            match self.here.api.report_ready(identity, &view.uuid, record.generation, attested) {
                Ok(record) => {
                    let and = if attested.is_some() { " and attested" } else { "" };
                    self.printer.step(format_args!("ready: reported{and}"));
                    self.learn(record);
                    self.state.memory.is_reported = true;
                    self.state.memory.is_attested = attested.is_some();
                    return Ok(());
                }
                Err(ApiError::Refused(problem)) => problem,
                Err(error) => return Err(error.into()),
            };
        match problem.code.as_str() {
            // The API's next answer names the node that has the cluster now.
            "stale_generation" | "initial_node_not_ready" | "cluster_not_found" => {
                self.state.answers.asked = Asked::NotYet;
                Err(Interrupt::wait(problem.detail))
            }
            "other_cluster" => {
                let why = format!("there is a second cluster: {}", problem.detail);
                Err(Failure::refused(why).hint(RESET).into())
            }
            "too_many_nodes" => {
                self.printer.warning(&problem.detail);
                self.state.refused.push("a place in the API's list of members".to_owned());
                self.state.memory.is_reported = true;
                self.state.memory.is_attested = true;
                Ok(())
            }
            _ => Err(ApiError::Refused(problem).into()),
        }
    }

    /// The membership is reported, but its attestation failed.
    fn retry_attestation(&mut self, error: &CallError) -> Result<(), Interrupt> {
        self.state.failed_attestations += 1;
        if self.state.failed_attestations < MAX_REFUSALS {
            return Err(Interrupt::wait(format!(
                "this node cannot attest its membership yet: {error}"
            )));
        }
        self.printer.warning(format_args!(
            "this node cannot attest its membership: {error}; other nodes do not join through it"
        ));
        self.state.refused.push("attestation".to_owned());
        self.state.memory.is_attested = true;
        Ok(())
    }

    /// Asks other members whether this node is one of them: a server that has just started may not know that it was removed.
    pub(super) fn confirm(
        &mut self,
        members: &[String],
        view: &View,
        record: &ClusterRecord,
    ) -> Result<(), Interrupt> {
        let mut reasons = Vec::new();
        for name in members.iter().take(MAX_ASKED) {
            let Ok(node) = Node::new(name) else { continue };
            let connected = self.here.peers.connect(&node, record, self.is_enterprise());
            reasons.push(match connected.and_then(|server| server.cluster()) {
                Ok(Some(theirs)) if self.is_listed(view, &theirs) => {
                    self.state.memory.is_confirmed = true;
                    return Ok(());
                }
                Ok(Some(theirs)) if theirs.uuid == view.uuid => {
                    return Err(Interrupt::wait(format!(
                        "`{name}` no longer lists this node; this server has just started and does not know yet"
                    )));
                }
                Ok(_) => format!("`{name}` belongs to another cluster or to none"),
                Err(CallError::Unauthorized) => format!("`{name}` has other credentials"),
                Err(error) => format!("`{name}`: {error}"),
            });
        }
        Err(Interrupt::wait(format!(
            "the server has just started, and no other member has confirmed its membership: {}",
            reasons.join("; ")
        )))
    }

    /// Whether another member lists this very server.
    fn is_listed(&self, ours: &View, theirs: &View) -> bool {
        let this = ours.this();
        let own = this.and_then(|this| this.uuid.as_ref());
        let listed = theirs.member(self.node());
        let listed = listed.or_else(|| this.and_then(|this| theirs.node(&this.name)));
        theirs.uuid == ours.uuid
            && listed.is_some_and(|node| own.is_none() || node.uuid.as_ref() == own)
    }
}
