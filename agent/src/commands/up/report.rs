//! A member confirms its membership with other members, and reports it to the API.

use std::time::{Duration, Instant};

use cbbootstrap_cli::failure::Failure;
use cbbootstrap_protocol::{names::Node, wire::State};

use super::{Interrupt, Run, outcome::RESET};
use crate::{
    api::{ApiError, Identity},
    decision::{self, Action, Asked, Testimony},
    http::CallError,
    peers::{Attested, Peers},
    record::ClusterRecord,
    server::View,
};

/// How long the first report of a cluster may wait for its attestation: other nodes wait for the report, and its lease runs.
const FIRST_ATTESTATION_LIMIT: Duration = Duration::from_secs(5);

impl Run<'_> {
    /// Reports this node ready, with its attestation. The first report of a cluster does not wait for it, and a later one adds it:
    /// otherwise another node could take the claim over.
    pub(super) fn report(&mut self, view: &View, record: &ClusterRecord) -> Result<(), Interrupt> {
        let name = view.this().map_or("", |this| &this.name);
        if let Some(other) = record.other_name(self.node(), name) {
            let node = self.node();
            return Err(Failure::refused(format!(
                "the API knows this server as `{other}`, and would list it a second time as `{node}`; nothing was changed"
            ))
            .hint(format!("pass the name with which it was reported: `--node {other}`"))
            .into());
        }
        let is_first = record.state == State::Claimed;
        let peers = &self.here.peers;
        let deadline = if is_first {
            peers.deadline.or_after(FIRST_ATTESTATION_LIMIT)
        } else {
            peers.deadline
        };
        let (server, is_enterprise) = (&self.here.server, self.is_enterprise());
        let attested = match peers.attest(self.node(), server, view, is_enterprise, deadline) {
            Ok(attested) => {
                self.state.unattested_since = None;
                if self.is_recorded(attested, record) {
                    self.state.memory.is_attested = true;
                    return Ok(());
                }
                attested
            }
            Err(error) if is_first => {
                self.printer.warning(format_args!(
                    "the report is not attested yet, and other nodes cannot join through this one: {error}"
                ));
                None
            }
            Err(error) => {
                self.give_up_attestation(&error)?;
                if self.state.memory.is_reported || self.has_attestation(record) {
                    // A report without an attestation would replace the recorded one.
                    (self.state.memory.is_reported, self.state.memory.is_attested) = (true, true);
                    return Ok(());
                }
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
                    let memory = &mut self.state.memory;
                    (memory.is_reported, memory.kept.is_disowned) = (true, false);
                    memory.is_attested = attested.is_some() || !is_first;
                    return Ok(());
                }
                Err(ApiError::Refused(problem)) => problem,
                Err(error) => return Err(error.into()),
            };
        let code = problem.code.as_str();
        self.state.memory.kept.is_disowned |= matches!(code, "stale_generation" | "other_cluster");
        match code {
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
                (self.state.memory.is_reported, self.state.memory.is_attested) = (true, true);
                Ok(())
            }
            _ => Err(ApiError::Refused(problem).into()),
        }
    }

    /// Reports that this run's rebalance has removed a dead member, which cannot do that itself. Others would try to join through it,
    /// and the node to join creates the buckets.
    pub(super) fn report_removed(&mut self, node: &Node, generation: u64) -> Result<(), Interrupt> {
        let removed = Identity { node: node.clone(), node_uuid: None };
        match self.here.api.leave(&removed, Some(generation)) {
            Ok(_) => {
                self.printer.step(format_args!("left: reported for `{node}`, which was removed"));
            }
            Err(error @ (ApiError::Temporary(_) | ApiError::Unsigned(_))) => {
                return Err(error.into());
            }
            Err(error) => self
                .printer
                .warning(format_args!("the API still lists `{node}`, which was removed: {error}")),
        }
        self.state.memory.kept.removed.remove(&node.host().to_string());
        // That answer was for the other node.
        self.state.answers.asked = Asked::NotYet;
        Ok(())
    }

    /// Whether the record lists this node with this very attestation.
    fn is_recorded(&self, attested: Option<Attested>, record: &ClusterRecord) -> bool {
        let Some((authority, attestation)) = attested else { return false };
        self.state.memory.is_reported
            && record.member(self.node()).is_some_and(|member| {
                member.authority == authority && member.attestation == Some(attestation)
            })
    }

    /// Whether the record lists this node with an attestation that other nodes accept.
    fn has_attestation(&self, record: &ClusterRecord) -> bool {
        let Peers { cluster_id, keys, .. } = &self.here.peers;
        let keys = keys.as_ref();
        keys.is_some_and(|keys| record.attested_member(self.node(), cluster_id, keys).is_ok())
    }

    /// Waits while this node cannot attest its membership, and warns if that lasts.
    fn give_up_attestation(&mut self, error: &CallError) -> Result<(), Interrupt> {
        let since = *self.state.unattested_since.get_or_insert_with(Instant::now);
        if !self.is_lasting(since) {
            return Err(Interrupt::wait(format!(
                "this node cannot attest its membership yet: {error}"
            )));
        }
        self.printer.warning_once(format_args!(
            "this node cannot attest its membership: {error}; other nodes do not join through it"
        ));
        let refused = "attestation".to_owned();
        if !self.state.refused.contains(&refused) {
            self.state.refused.push(refused);
        }
        Ok(())
    }

    /// Asks other members whether this server is one of theirs.
    pub(super) fn confirm(&mut self, view: &View, record: &ClusterRecord) -> Result<(), Interrupt> {
        let node = self.node();
        let is_listed = |theirs: &View| decision::is_listed(node, view, theirs);
        let peers = &self.here.peers;
        let mut testimony = peers.ask_about(node, record, self.is_enterprise(), is_listed);
        self.state.memory.kept.is_disowned |= matches!(testimony, Testimony::NotListed(_));
        // Servers that run, but never answer clearly, do not hold the last survivor up.
        if let Testimony::Silent { are_gone, .. } = &mut testimony {
            let since = *self.state.unconfirmed_since.get_or_insert_with(Instant::now);
            *are_gone |= self.is_lasting(since);
        } else {
            self.state.unconfirmed_since = None;
        }
        match decision::confirm(view, &testimony) {
            Some(Action::Stop(reason)) => return Err(self.explain(&reason).into()),
            Some(Action::Wait(why)) => {
                // Other members may report before the next attempt.
                if let Some(record) = self.here.api.status(Some(self.node()))? {
                    self.learn(record);
                }
                return Err(Interrupt::wait(why));
            }
            _ => self.state.memory.is_confirmed = true,
        }
        Ok(())
    }
}
