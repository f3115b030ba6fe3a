//! The rules of the protocol: what a claim, a report and a leave do to a cluster's record, and the response to each caller.
//!
//! A cluster's [`Record`] begins with the first [`Claim`]. Each of [`Claim::on`], [`Ready::on`], [`Leave::on`] and [`forget`] is a pure
//! function of the stored record. A store applies them; where DynamoDB can decide the same with a condition on one write, it does, and
//! tests compare the two.
//!
//! Each response is a pure function of the record and the calling node: a first node that loses its response, retries or reboots gets the
//! same response again.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp, TimestampArithmetic};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    names::{ClusterId, Node, Uuid, is_smoke_test},
    trust::{Attestation, Fingerprint, SecretHash},
    wire::{self, Cluster, MAX_MEMBERS, MAX_PREVIOUS, State},
};

pub const FIRST_GENERATION: u64 = 1;

/// A lease counts as expired only this long after its end: the clocks of two instances of the API may differ by this much.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// How long a record without a lease is kept after the last request about it.
pub const KEEP_UNASKED: Duration = Duration::from_hours(400 * 24);

/// A record is renewed at most once in this time.
pub const RENEW_EVERY: SignedDuration = SignedDuration::from_hours(24);

/// How long the generation of a record outlives it, so that the fencing token does not go back.
pub const KEEP_GENERATION: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What the API stores about a cluster.
///
/// Nodes are plain text: an item of the original service may contain anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub cluster_id: String,
    /// The node that claimed the cluster; once the cluster is ready, the one to join.
    pub initial_node: String,
    /// The UUID that its server had when it claimed, if it sent one.
    pub initial_node_uuid: Option<String>,
    /// The nodes that had the cluster before: those whose claims were taken over and not given up, the latest first, and the initial
    /// node and the members of a record that expired; at most [`MAX_PREVIOUS`]. The server of each may be a cluster.
    pub previous_initial_nodes: Vec<String>,
    /// The UUID of another server that tried to claim under the first node's name. It is kept when the cluster is ready, because the
    /// response to that report is often the first one that shows it to the node.
    pub rival_node_uuid: Option<String>,
    /// The first node has given its claim up, so it has not initialized its server.
    pub is_given_up: bool,
    pub state: State,
    /// The number of the claim, from [`FIRST_GENERATION`]. It only grows.
    pub generation: u64,
    /// The time of that claim. Items of the original service have none.
    pub claimed_at: Option<Timestamp>,
    /// A claim without a lease is never taken over.
    pub lease_expires_at: Option<Timestamp>,
    /// The end of the record. Requests renew it. Items of the original service have none until then.
    pub kept_until: Option<Timestamp>,
    /// An operator has ended the record: only its generation is left.
    pub is_forgotten: bool,
    /// The members that reported ready and did not leave, by name.
    #[serde(skip)]
    pub members: BTreeMap<String, Member>,
    /// The UUID that Couchbase Server gave the cluster, once reported.
    pub cluster_uuid: Option<String>,
    /// The hash of the token that every call must have. A cluster without one refuses calls with a token.
    pub secret: Option<SecretHash>,
}

/// A member's latest report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub reported_at: Timestamp,
    pub node_uuid: Option<String>,
    /// The authority that signed the certificate of its server.
    pub authority: Option<Fingerprint>,
    pub attestation: Option<Attestation>,
}

/// A node's request to initialize the cluster, or to learn which node to join.
#[derive(Clone, Debug)]
pub struct Claim {
    pub cluster_id: ClusterId,
    pub node: Node,
    pub node_uuid: Option<Uuid>,
    /// The time within which the node must report ready. A claim without a lease never expires.
    pub lease: Option<Duration>,
    pub secret: Option<SecretHash>,
    pub now: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The node has the cluster: nobody had claimed it.
    First,
    /// The node has the cluster: the lease of the previous claim had expired.
    Takeover,
    /// The node had the cluster already.
    Again,
    /// Another node has the cluster.
    Joined,
}

/// A node's report that it has initialized the cluster, or joined it.
#[derive(Clone, Debug)]
pub struct Ready {
    pub cluster_id: ClusterId,
    pub node: Node,
    pub node_uuid: Option<Uuid>,
    pub generation: Option<u64>,
    pub cluster_uuid: Option<Uuid>,
    /// The authority that signed the certificate of the node's server.
    pub authority: Option<Fingerprint>,
    pub attestation: Option<Attestation>,
    pub secret: Option<SecretHash>,
    pub now: Timestamp,
}

/// A report that a node has left.
#[derive(Clone, Debug)]
pub struct Leave {
    pub cluster_id: ClusterId,
    pub node: Node,
    pub node_uuid: Option<Uuid>,
    pub generation: Option<u64>,
    pub secret: Option<SecretHash>,
    pub now: Timestamp,
}

/// Why nothing was changed. The messages end with what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("nobody has claimed the cluster; claim it with `POST /cluster`")]
    NotFound,
    /// The token is missing or wrong, or the cluster has none. The message reveals nothing about the cluster.
    #[error(
        "send the token of the cluster's first claim as `Authorization: Bearer TOKEN`, or no token if it was claimed without one"
    )]
    Forbidden,
    #[error(
        "the cluster's generation is {current}, not {given}: another node has taken the claim over; ask `POST /cluster` for the node to join"
    )]
    StaleGeneration { given: u64, current: u64 },
    #[error(
        "the cluster's UUID is {current}, not {given}: there are two clusters; check which one this node belongs to"
    )]
    OtherCluster { given: String, current: String },
    /// Another server has claimed the cluster under the same node name. Its UUID is secret: it authorizes calls for the node.
    #[error("the node name `{node}` is in use by another server; give each server its own name")]
    NameTaken { node: String },
    /// A joiner reports before the first node has.
    #[error(
        "`{initial_node}` has not reported the cluster ready yet; join the cluster first, then report ready"
    )]
    NotReady { initial_node: String },
    #[error(
        "the cluster has {MAX_MEMBERS} members, the maximum; remove those that no longer exist with `cbbootstrap cluster forget-member`"
    )]
    TooManyNodes,
    /// Each node that lost its claim may have a cluster. If one were dropped from the list, its cluster could be missed.
    #[error(
        "{MAX_PREVIOUS} nodes have claimed the cluster without reporting it ready; if none of their servers \
         belongs to a cluster, run `cbbootstrap cluster forget` to start again"
    )]
    TooManyTakeovers,
    /// A ready cluster stays ready, so it needs another member to join.
    #[error(
        "the node is the last member of the cluster that is known; let another one report ready first, or, if no machine has the cluster's data, run `cbbootstrap cluster forget`"
    )]
    LastNode,
}

impl Record {
    /// Whether the record has ended, so that only its generation is left.
    pub fn is_gone(&self, now: Timestamp) -> bool {
        self.is_forgotten
            || (self.lease_expires_at.is_none()
                && self.kept_until.is_some_and(|end| end < whole_seconds(now)))
    }

    /// Whether another node may take the claim over. A claim that was given up has expired for every clock.
    pub fn is_lapsed(&self, now: Timestamp) -> bool {
        let has_ended = |end| self.is_given_up || end < whole_seconds(now) - CLOCK_SKEW;
        self.state == State::Claimed && self.lease_expires_at.is_some_and(has_ended)
    }

    /// Whether it is a claim of a smoke test. A cluster that reported ready is not one, whatever its id.
    pub fn is_smoke_test(&self) -> bool {
        let is_temporary = self.lease_expires_at.is_some() || self.is_forgotten;
        is_smoke_test(&self.cluster_id) && self.state == State::Claimed && is_temporary
    }

    /// The later end that a request gives the record, at most once in [`RENEW_EVERY`].
    pub fn renewal(&self, now: Timestamp) -> Option<Timestamp> {
        if self.is_gone(now) {
            return None;
        }
        let end = match self.lease_expires_at {
            Some(_) => later(whole_seconds(now), keep_abandoned(&self.cluster_id)),
            None => later(whole_seconds(now), KEEP_UNASKED),
        };
        self.kept_until.is_none_or(|kept| end.duration_since(kept) >= RENEW_EVERY).then_some(end)
    }

    /// The record after a request, with its [`renewal`](Self::renewal).
    #[must_use]
    pub fn renewed(self, now: Timestamp) -> Self {
        let kept_until = self.renewal(now).or(self.kept_until);
        Self { kept_until, ..self }
    }

    /// Whether nothing but the end differs from the earlier record.
    pub fn is_as_seen(&self, seen: &Self) -> bool {
        *self == Self { kept_until: self.kept_until, ..seen.clone() }
    }

    /// The record, if there is one and the caller's token admits it.
    pub fn shown_to(
        stored: Option<Self>,
        secret: Option<&SecretHash>,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let record = stored.filter(|record| !record.is_gone(now)).ok_or(Refusal::NotFound)?;
        if record.secret.as_ref() == secret { Ok(record) } else { Err(Refusal::Forbidden) }
    }

    pub fn answer(self, asking: Option<&Node>, now: Timestamp) -> Cluster {
        let left =
            |end: Timestamp| u64::try_from(end.as_second() - now.as_second()).unwrap_or_default();
        Cluster {
            is_initial_node: asking.is_none_or(|node| node.as_str() == self.initial_node),
            cluster_id: self.cluster_id,
            initial_node_ip_addr_or_hostname: self.initial_node,
            state: self.state,
            generation: self.generation,
            lease_seconds_left: self.lease_expires_at.map(left),
            lease_expires_at: self.lease_expires_at,
            previous_initial_nodes: self.previous_initial_nodes,
            // With the whole UUID, a caller could act as that server after a takeover.
            rival_node_uuid: self.rival_node_uuid.map(|uuid| uuid.chars().take(8).collect()),
            nodes: self.members.keys().cloned().collect(),
            members: self.members.into_iter().map(|(node, member)| member.answer(node)).collect(),
            cluster_uuid: self.cluster_uuid,
        }
    }
}

impl Member {
    fn answer(self, node: String) -> wire::Member {
        wire::Member {
            node,
            reported_at: self.reported_at,
            node_uuid: self.node_uuid,
            authority_sha256: self.authority.map(|fingerprint| fingerprint.to_string()),
            attestation: self.attestation.map(|attestation| attestation.to_string()),
        }
    }
}

/// The time as stored, in whole seconds.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// A later time, at most the last of the calendar: the clock of a machine may be set to any time.
pub fn later(time: Timestamp, by: impl Into<TimestampArithmetic>) -> Timestamp {
    // Only units that no duration has are refused.
    time.saturating_add(by).unwrap_or(time)
}

impl Claim {
    pub fn on(&self, stored: Option<Record>) -> Result<(Claimed, Record), Refusal> {
        let Some(record) = stored else {
            return Ok((Claimed::First, self.record(FIRST_GENERATION)));
        };
        if record.is_gone(self.now) {
            let mut first = self.record(record.generation + 1);
            // The record expired without requests, but the cluster may still run: on any member, as others may have left it since.
            // A refusal would end with the record's deletion, so it would not protect those that do not fit.
            if !record.is_forgotten {
                first.previous_initial_nodes = self.previous_nodes(record);
                first.previous_initial_nodes.truncate(MAX_PREVIOUS);
            }
            return Ok((Claimed::First, first));
        }
        let record = Record::shown_to(Some(record), self.secret.as_ref(), self.now)?;
        if record.is_lapsed(self.now) {
            let mut taken_over = self.record(record.generation + 1);
            taken_over.previous_initial_nodes = self.previous_nodes(record);
            if taken_over.previous_initial_nodes.len() > MAX_PREVIOUS {
                return Err(Refusal::TooManyTakeovers);
            }
            return Ok((Claimed::Takeover, taken_over));
        }
        if record.initial_node != self.node.as_str() {
            return Ok((Claimed::Joined, record));
        }
        if record.state == State::Claimed && self.node_uuid.is_some() {
            check_server(self.node_uuid.as_ref(), &record)?;
        }
        Ok((Claimed::Again, record))
    }

    /// Applies the claim to the stored record, and returns the response and the record to store: a rival of the first node is refused,
    /// but noted, and the nodes of earlier claims are kept as long as others ask.
    pub fn change(
        &self,
        stored: Option<Record>,
    ) -> Result<(Result<Claimed, Refusal>, Record), Refusal> {
        match (self.on(stored.clone()), stored) {
            (Err(refusal @ Refusal::NameTaken { .. }), Some(record)) => {
                Ok((Err(refusal), self.noted_on(record)))
            }
            (Err(refusal @ Refusal::TooManyTakeovers), Some(record)) => {
                Ok((Err(refusal), record.renewed(self.now)))
            }
            (result, _) => result.map(|(claimed, record)| (Ok(claimed), record)),
        }
    }

    /// The stored record with this claim noted as a rival's, so that the first node learns of it.
    pub fn noted_on(&self, mut record: Record) -> Record {
        if let Some(uuid) = &self.node_uuid {
            record.rival_node_uuid = Some(uuid.as_str().to_owned());
        }
        record
    }

    /// The nodes that had the cluster before this claim, except invalid names, which items of the original service may have. A node that
    /// gave its claim up has not initialized its server, so it is not among them.
    fn previous_nodes(&self, before: Record) -> Vec<String> {
        let last = (!before.is_given_up).then_some(before.initial_node);
        let others = before.members.into_keys().chain(before.previous_initial_nodes);
        let mut nodes = Vec::new();
        for node in last.into_iter().chain(others) {
            if node != self.node.as_str() && Node::new(&node).is_ok() && !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }

    fn record(&self, generation: u64) -> Record {
        let now = whole_seconds(self.now);
        let (id, lease_expires_at) =
            (self.cluster_id.as_str(), self.lease.map(|lease| later(now, lease)));
        Record {
            cluster_id: id.to_owned(),
            initial_node: self.node.as_str().to_owned(),
            initial_node_uuid: self.node_uuid.as_ref().map(|uuid| uuid.as_str().to_owned()),
            generation,
            claimed_at: Some(now),
            lease_expires_at,
            kept_until: Some(
                lease_expires_at
                    .map_or(later(now, KEEP_UNASKED), |end| later(end, keep_abandoned(id))),
            ),
            secret: self.secret.clone(),
            ..Record::default()
        }
    }
}

impl Ready {
    pub fn on(&self, stored: Option<Record>) -> Result<Record, Refusal> {
        let mut record = Record::shown_to(stored, self.secret.as_ref(), self.now)?;
        let node = self.node.as_str();
        check_generation(self.generation, &record)?;
        if let (Some(given), Some(current)) = (&self.cluster_uuid, &record.cluster_uuid)
            && given.as_str() != current
        {
            return Err(Refusal::OtherCluster {
                given: given.as_str().to_owned(),
                current: current.clone(),
            });
        }
        if record.state == State::Claimed {
            if record.initial_node != node {
                return Err(Refusal::NotReady { initial_node: record.initial_node });
            }
            check_server(self.node_uuid.as_ref(), &record)?;
            record.state = State::Ready;
            record.lease_expires_at = None;
            record.kept_until = Some(later(whole_seconds(self.now), KEEP_UNASKED));
            record.initial_node_uuid = None;
            record.previous_initial_nodes = Vec::new();
            record.is_given_up = false;
        }
        if record.members.len() >= MAX_MEMBERS && !record.members.contains_key(node) {
            return Err(Refusal::TooManyNodes);
        }
        record.members.insert(node.to_owned(), self.member());
        if let Some(uuid) = &self.cluster_uuid {
            record.cluster_uuid = Some(uuid.as_str().to_owned());
        }
        Ok(record)
    }

    pub fn member(&self) -> Member {
        Member {
            reported_at: whole_seconds(self.now),
            node_uuid: self.node_uuid.as_ref().map(|uuid| uuid.as_str().to_owned()),
            authority: self.authority,
            attestation: self.attestation,
        }
    }
}

impl Leave {
    /// Applies the leave to the stored record.
    ///
    /// The first node of a cluster that is not ready gives its claim up: the next node to ask takes it over.
    pub fn on(&self, stored: Option<Record>) -> Result<Record, Refusal> {
        let mut record = Record::shown_to(stored, self.secret.as_ref(), self.now)?;
        check_generation(self.generation, &record)?;
        let node = self.node.as_str();
        if record.initial_node == node {
            match record.state {
                State::Claimed => {
                    check_server(self.node_uuid.as_ref(), &record)?;
                    record.is_given_up = true;
                    let expired = whole_seconds(self.now) - CLOCK_SKEW - Duration::from_secs(1);
                    record.lease_expires_at = Some(expired);
                    record.kept_until = Some(later(expired, keep_abandoned(&record.cluster_id)));
                }
                State::Ready => {
                    let mut others = record.members.keys().filter(|other| *other != node);
                    record.initial_node = others.next().ok_or(Refusal::LastNode)?.clone();
                    record.rival_node_uuid = None;
                }
            }
        }
        record.members.remove(node);
        Ok(record)
    }
}

/// How long an abandoned claim is kept after the end of its lease. That of a smoke test ends early, so that its generation, which
/// nobody needs, is kept for an hour only.
fn keep_abandoned(cluster_id: &str) -> SignedDuration {
    let hours = if is_smoke_test(cluster_id) { 1 - KEEP_GENERATION.as_hours() } else { 7 * 24 };
    SignedDuration::from_hours(hours)
}

/// The record after an operator has ended it: only its generation counts, for [`KEEP_GENERATION`].
pub fn forget(record: Record, now: Timestamp) -> Record {
    Record {
        cluster_id: record.cluster_id,
        initial_node: record.initial_node,
        state: record.state,
        generation: record.generation,
        claimed_at: record.claimed_at,
        kept_until: Some(whole_seconds(now)),
        is_forgotten: true,
        ..Record::default()
    }
}

/// A report or leave of the first node of a claim must have the UUID that the node claimed with: without a cluster secret, nothing else
/// distinguishes the node from a stranger who has read the record.
fn check_server(given: Option<&Uuid>, record: &Record) -> Result<(), Refusal> {
    match &record.initial_node_uuid {
        Some(current) if given.is_none_or(|given| given.as_str() != current) => {
            Err(Refusal::NameTaken { node: record.initial_node.clone() })
        }
        _ => Ok(()),
    }
}

fn check_generation(given: Option<u64>, record: &Record) -> Result<(), Refusal> {
    match given {
        Some(given) if given != record.generation => {
            Err(Refusal::StaleGeneration { given, current: record.generation })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
