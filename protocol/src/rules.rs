//! The rules of the protocol: what a claim, a report and a leave make of a cluster's record, and who is answered what.
//!
//! A cluster's [`Record`] begins with the first [`Claim`]. Each of [`Claim::on`], [`Ready::on`], [`Leave::on`] and [`forget`] is
//! a pure function of the record that stands. A store applies them; where DynamoDB can decide the same by a condition on one
//! write, it does, and tests compare the two.
//!
//! Each answer is a pure function of the record and the asking node: a winner that lost its answer, retries or reboots gets the
//! same answer again.

use std::{collections::BTreeMap, time::Duration};

use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::{
    names::{ClusterId, Node, Uuid},
    trust::{Attestation, Fingerprint},
    wire::{self, Cluster, MAX_MEMBERS, MAX_PREVIOUS, State},
};

/// The generation of a cluster's first claim.
pub const FIRST_GENERATION: u64 = 1;

/// A lease counts as expired only this long after its end: the clocks of two instances of the service may differ by as much.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// How long an abandoned claim with a lease is kept after the end of the lease.
pub const KEEP_ABANDONED: Duration = Duration::from_hours(7 * 24);

/// How long every other record is kept after somebody last asked about it.
pub const KEEP_UNASKED: Duration = Duration::from_hours(400 * 24);

/// The end of a record is moved at most this often.
pub const RENEW_EVERY: SignedDuration = SignedDuration::from_hours(24);

/// How long the generation of a record outlives it, so that the fencing token does not go back.
pub const KEEP_GENERATION: Duration = Duration::from_hours(30 * 24);

/// What the service keeps of a cluster's bearer token: a hash salted with the cluster's id.
///
/// Tokens are random and long, so the hash is a fast one.
#[derive(Clone)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of a cluster's bearer token.
    pub fn of(cluster_id: &ClusterId, token: &[u8]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(token).expect("HMAC takes keys of any length");
        mac.update(b"cbbootstrap cluster secret\0");
        mac.update(cluster_id.as_str().as_bytes());
        Self(mac.finalize().into_bytes().into())
    }

    /// A hash as it was kept; `None` if it has not 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes to keep.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// In constant time.
impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretHash {}

/// Hides the hash.
impl std::fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// What is known of a cluster.
///
/// Nodes are plain text here: a row that the original service wrote is read whatever it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The cluster.
    pub cluster_id: String,
    /// The node whose claim stands; once the cluster is ready, the one to join.
    pub initial_node: String,
    /// The UUID of that node's server when it claimed, if it said.
    pub initial_node_uuid: Option<String>,
    /// The nodes that had the cluster before: those whose claims were taken over and not given up, the latest first, and the initial
    /// node of a record that ended because nobody asked; at most [`MAX_PREVIOUS`]. The server of each may be a cluster.
    pub previous_initial_nodes: Vec<String>,
    /// The UUID of another server that tried to claim under the initial node's name.
    pub rival_node_uuid: Option<String>,
    /// Whether the initial node has given its claim up: it says that it has not initialised its server.
    pub is_given_up: bool,
    /// How far the cluster is.
    pub state: State,
    /// Which claim it is, from [`FIRST_GENERATION`]. It only grows.
    pub generation: u64,
    /// When that claim was made. Rows of the original service do not say.
    pub claimed_at: Option<Timestamp>,
    /// The end of the claim's lease. A claim without one is never taken over.
    pub lease_expires_at: Option<Timestamp>,
    /// When the record ends unless somebody asks about it. Rows of the original service have no end until then.
    pub kept_until: Option<Timestamp>,
    /// Whether an operator has ended the record: only its generation is left.
    pub is_forgotten: bool,
    /// The members that reported ready and did not leave, by name.
    pub members: BTreeMap<String, Member>,
    /// The UUID that Couchbase Server gave the cluster, once reported.
    pub cluster_uuid: Option<String>,
    /// The hash of the token that every call must bring. A cluster without one refuses calls that bring any.
    pub secret: Option<SecretHash>,
}

/// A member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// When it last reported.
    pub reported_at: Timestamp,
    /// The UUID of its server, if it said.
    pub node_uuid: Option<String>,
    /// The authority that has signed the certificate of its server, as the member says.
    pub authority: Option<Fingerprint>,
    /// Its proof that it knows the cluster's secret.
    pub attestation: Option<Attestation>,
}

/// A node wants the cluster, or to learn whom to join.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub node: Node,
    /// The UUID of its server, if it says.
    pub node_uuid: Option<Uuid>,
    /// How long the claim stands unless the node reports ready; without it, for good.
    pub lease: Option<Duration>,
    /// The hash of the token that the node brings.
    pub secret: Option<SecretHash>,
    /// The time.
    pub now: Timestamp,
}

/// What a [`Claim`] came to. In each case the record says who is the initial node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The node has the cluster: nobody had claimed it.
    First,
    /// The node has the cluster: the lease of the claim before had expired.
    Takeover,
    /// The node had the cluster already.
    Again,
    /// Another node has the cluster.
    Joined,
}

/// A node has initialised the cluster, or become a member of it.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub node: Node,
    /// The UUID of its server, if it says.
    pub node_uuid: Option<Uuid>,
    /// The generation that the node was told, if it says.
    pub generation: Option<u64>,
    /// The UUID of the cluster that it is a member of, if it says.
    pub cluster_uuid: Option<Uuid>,
    /// The authority that has signed the certificate of its server, if it says.
    pub authority: Option<Fingerprint>,
    /// Its proof that it knows the cluster's secret.
    pub attestation: Option<Attestation>,
    /// The hash of the token that the node brings.
    pub secret: Option<SecretHash>,
    /// The time.
    pub now: Timestamp,
}

/// A node has left.
#[derive(Clone, Debug)]
pub struct Leave {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub node: Node,
    /// The UUID of its server, if it says.
    pub node_uuid: Option<Uuid>,
    /// The generation that the node was told, if it says.
    pub generation: Option<u64>,
    /// The hash of the token that the caller brings.
    pub secret: Option<SecretHash>,
    /// The time.
    pub now: Timestamp,
}

/// Why nothing was changed. The messages end with what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("nobody has claimed the cluster; claim it with `POST /cluster`")]
    NotFound,
    /// The token is missing or wrong, or the call brings one and the cluster has none. Reveals nothing about the cluster.
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
    /// Another server has claimed the cluster under the same node name. Its UUID is secret: it authorises calls for the node.
    #[error("the node name `{node}` is in use by another server; give each server its own name")]
    NameTaken { node: String },
    /// A joiner reports before the initial node has.
    #[error(
        "`{initial_node}` has not reported the cluster ready yet; join the cluster first, then report ready"
    )]
    NotReady { initial_node: String },
    #[error(
        "the cluster has {MAX_MEMBERS} members, the most that a cluster can have; send `POST /cluster/leave` for members that are gone"
    )]
    TooManyNodes,
    /// Each node that lost its claim may have an initialised server. If one were dropped from the list, its cluster could be missed.
    #[error(
        "{MAX_PREVIOUS} nodes have claimed the cluster one after the other and not reported it ready; if none of their servers \
         belongs to a cluster, run `cbbootstrap cluster forget` to start again"
    )]
    TooManyTakeovers,
    /// A ready cluster stays ready, so another member must be there to join.
    #[error(
        "it is the last member of the cluster, and no other can take its place; let another member report ready first, or end the \
         record of a cluster that is gone with `cbbootstrap cluster forget`"
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

    /// Whether the claim may be taken over.
    pub fn is_lapsed(&self, now: Timestamp) -> bool {
        self.state == State::Claimed
            && self.lease_expires_at.is_some_and(|end| end < whole_seconds(now) - CLOCK_SKEW)
    }

    /// The later end that somebody's asking gives the record, if it is time to move it.
    pub fn renewal(&self, now: Timestamp) -> Option<Timestamp> {
        if self.is_forgotten || self.lease_expires_at.is_some() {
            return None;
        }
        let end = whole_seconds(now) + KEEP_UNASKED;
        self.kept_until.is_none_or(|kept| end.duration_since(kept) >= RENEW_EVERY).then_some(end)
    }

    /// The record after somebody has asked about it: with a later end, if it is time for one.
    #[must_use]
    pub fn renewed(self, now: Timestamp) -> Self {
        let kept_until = self.renewal(now).or(self.kept_until);
        Self { kept_until, ..self }
    }

    /// Whether nothing but its end differs from the record that was seen.
    pub fn is_as_seen(&self, seen: &Self) -> bool {
        let kept_until = self.kept_until;
        *self == Self { kept_until, ..seen.clone() }
    }

    /// The record, for a status with this token's hash, or none.
    pub fn shown_to(
        standing: Option<Self>,
        secret: Option<&SecretHash>,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        admitted(standing, secret, now)
    }

    /// The answer to a node, or to a caller that names none.
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
            // Whoever knows the whole of it could speak for that server, should it take the claim over.
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

/// The record, if there is one and the caller's token admits it.
fn admitted(
    standing: Option<Record>,
    secret: Option<&SecretHash>,
    now: Timestamp,
) -> Result<Record, Refusal> {
    let record = standing.filter(|record| !record.is_gone(now)).ok_or(Refusal::NotFound)?;
    if record.secret.as_ref() == secret { Ok(record) } else { Err(Refusal::Forbidden) }
}

/// Times are kept in whole seconds.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

impl Claim {
    /// Applies the claim to the record that stands.
    pub fn on(&self, standing: Option<Record>) -> Result<(Claimed, Record), Refusal> {
        let Some(record) = standing else {
            return Ok((Claimed::First, self.record(FIRST_GENERATION)));
        };
        if record.is_gone(self.now) {
            let mut first = self.record(record.generation + 1);
            // That nobody has asked does not mean that the cluster is gone.
            if !record.is_forgotten {
                self.note_previous(&mut first, record)?;
            }
            return Ok((Claimed::First, first));
        }
        let record = admitted(Some(record), self.secret.as_ref(), self.now)?;
        if record.is_lapsed(self.now) {
            let mut taken_over = self.record(record.generation + 1);
            self.note_previous(&mut taken_over, record)?;
            return Ok((Claimed::Takeover, taken_over));
        }
        if record.initial_node != self.node.as_str() {
            return Ok((Claimed::Joined, record));
        }
        match &record.initial_node_uuid {
            Some(current) if record.state == State::Claimed && self.is_rival_of(current) => {
                Err(Refusal::NameTaken { node: record.initial_node })
            }
            _ => Ok((Claimed::Again, record)),
        }
    }

    /// The record that stands, with this claim noted as a rival's, so that the initial node is told, too.
    pub fn noted_on(&self, mut record: Record) -> Record {
        if let Some(uuid) = &self.node_uuid {
            record.rival_node_uuid = Some(uuid.as_str().to_owned());
        }
        record
    }

    /// Names in the claim's record the nodes that had the cluster before it. Rows of the original service may name what is not a
    /// node. A node that gave its claim up has not initialised its server, and none that may have is forgotten for another.
    fn note_previous(&self, claimed: &mut Record, before: Record) -> Result<(), Refusal> {
        let last = (!before.is_given_up).then_some(before.initial_node);
        let previous = last.into_iter().chain(before.previous_initial_nodes);
        let known = &mut claimed.previous_initial_nodes;
        for node in previous.filter(|node| node != self.node.as_str() && Node::new(node).is_ok()) {
            if !known.contains(&node) {
                known.push(node);
            }
        }
        if known.len() > MAX_PREVIOUS {
            return Err(Refusal::TooManyTakeovers);
        }
        Ok(())
    }

    fn is_rival_of(&self, current: &str) -> bool {
        self.node_uuid.as_ref().is_some_and(|uuid| uuid.as_str() != current)
    }

    fn record(&self, generation: u64) -> Record {
        let now = whole_seconds(self.now);
        let lease_expires_at = self.lease.map(|lease| now + lease);
        Record {
            cluster_id: self.cluster_id.as_str().to_owned(),
            initial_node: self.node.as_str().to_owned(),
            initial_node_uuid: self.node_uuid.as_ref().map(|uuid| uuid.as_str().to_owned()),
            previous_initial_nodes: Vec::new(),
            rival_node_uuid: None,
            is_given_up: false,
            state: State::Claimed,
            generation,
            claimed_at: Some(now),
            lease_expires_at,
            kept_until: Some(
                lease_expires_at.map_or(now + KEEP_UNASKED, |end| end + KEEP_ABANDONED),
            ),
            is_forgotten: false,
            members: BTreeMap::new(),
            cluster_uuid: None,
            secret: self.secret.clone(),
        }
    }
}

impl Ready {
    /// Applies the report to the record that stands.
    pub fn on(&self, standing: Option<Record>) -> Result<Record, Refusal> {
        let mut record = admitted(standing, self.secret.as_ref(), self.now)?;
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
            record.kept_until = Some(whole_seconds(self.now) + KEEP_UNASKED);
            record.initial_node_uuid = None;
            record.previous_initial_nodes = Vec::new();
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

    /// The member that reports.
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
    /// Applies the leave to the record that stands.
    ///
    /// The initial node of a cluster that is not ready gives its claim up: the next node that asks takes it over.
    pub fn on(&self, standing: Option<Record>) -> Result<Record, Refusal> {
        let mut record = admitted(standing, self.secret.as_ref(), self.now)?;
        check_generation(self.generation, &record)?;
        let node = self.node.as_str();
        if record.initial_node == node {
            match record.state {
                State::Claimed => {
                    check_server(self.node_uuid.as_ref(), &record)?;
                    record.is_given_up = true;
                    let lapsed = whole_seconds(self.now) - CLOCK_SKEW - Duration::from_secs(1);
                    record.lease_expires_at = Some(lapsed);
                    record.kept_until = Some(lapsed + KEEP_ABANDONED);
                }
                State::Ready => {
                    let mut others = record.members.keys().filter(|other| *other != node);
                    record.initial_node = others.next().ok_or(Refusal::LastNode)?.clone();
                }
            }
        }
        record.members.remove(node);
        Ok(record)
    }
}

/// What is left of a record that an operator ends: its generation, for [`KEEP_GENERATION`].
pub fn forget(record: Record, now: Timestamp) -> Record {
    Record {
        initial_node_uuid: None,
        previous_initial_nodes: Vec::new(),
        rival_node_uuid: None,
        is_given_up: false,
        lease_expires_at: None,
        kept_until: Some(whole_seconds(now)),
        is_forgotten: true,
        members: BTreeMap::new(),
        cluster_uuid: None,
        secret: None,
        ..record
    }
}

/// Whoever speaks for the initial node of a claim must know the UUID that it claimed with: without a cluster secret, nothing else
/// tells the node from a stranger who has read the record.
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
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn id() -> ClusterId {
        ClusterId::new("c").unwrap()
    }

    fn claim(node: &str, lease: Option<u64>, now: i64) -> Claim {
        Claim {
            cluster_id: id(),
            node: Node::new(node).unwrap(),
            node_uuid: None,
            lease: lease.map(Duration::from_secs),
            secret: None,
            now: at(now),
        }
    }

    fn ready(node: &str, generation: Option<u64>, uuid: Option<&str>) -> Ready {
        Ready {
            cluster_id: id(),
            node: Node::new(node).unwrap(),
            node_uuid: None,
            generation,
            cluster_uuid: uuid.map(|uuid| Uuid::new(uuid).unwrap()),
            authority: None,
            attestation: None,
            secret: None,
            now: at(0),
        }
    }

    fn leave(node: &str, now: i64) -> Leave {
        Leave {
            cluster_id: id(),
            node: Node::new(node).unwrap(),
            node_uuid: None,
            generation: None,
            secret: None,
            now: at(now),
        }
    }

    fn claimed(lease: Option<u64>) -> Record {
        claim("a", lease, 0).on(None).unwrap().1
    }

    fn names(record: &Record) -> Vec<&str> {
        record.members.keys().map(String::as_str).collect()
    }

    fn with_members(members: &[&str]) -> Record {
        members.iter().fold(claimed(None), |record, member| {
            ready(member, Some(1), Some("u")).on(Some(record)).unwrap()
        })
    }

    #[test]
    fn who_is_told_what() {
        let [first, second] = ["a", "b"].map(|node| Node::new(node).unwrap());
        for (asking, is_initial_node) in
            [(Some(&first), true), (Some(&second), false), (None, true)]
        {
            assert_eq!(
                claimed(Some(60)).answer(asking, at(20)),
                Cluster {
                    cluster_id: "c".to_owned(),
                    initial_node_ip_addr_or_hostname: "a".to_owned(),
                    is_initial_node,
                    state: State::Claimed,
                    generation: 1,
                    lease_expires_at: Some(at(60)),
                    lease_seconds_left: Some(40),
                    previous_initial_nodes: Vec::new(),
                    rival_node_uuid: None,
                    nodes: Vec::new(),
                    members: Vec::new(),
                    cluster_uuid: None,
                },
                "{asking:?}"
            );
        }
        let answer = with_members(&["a", "c", "b"]).answer(Some(&second), at(0));
        assert_eq!(answer.nodes, ["a", "b", "c"], "sorted");
        assert_eq!(
            (answer.state, answer.lease_expires_at, answer.cluster_uuid),
            (State::Ready, None, Some("u".to_owned()))
        );
    }

    #[test]
    fn a_claim_lapses_with_its_lease_and_not_without() {
        for (lease, node, now, outcome, generation) in [
            (None, "a", 400 * 86_400, Claimed::Again, 1),
            (None, "b", 400 * 86_400, Claimed::Joined, 1),
            // Nobody has asked for 400 days.
            (None, "b", 400 * 86_400 + 1, Claimed::First, 2),
            (Some(60), "b", 0, Claimed::Joined, 1),
            (Some(60), "b", 60, Claimed::Joined, 1),
            // Clocks differ.
            (Some(60), "b", 65, Claimed::Joined, 1),
            (Some(60), "b", 66, Claimed::Takeover, 2),
            (Some(60), "a", 65, Claimed::Again, 1),
            (Some(60), "a", 66, Claimed::Takeover, 2),
        ] {
            let claim = claim(node, Some(30), now);
            let (was, record) = claim.on(Some(claimed(lease))).unwrap();
            assert_eq!((was, record.generation), (outcome, generation), "{claim:?}");
            let is_initial = record.answer(Some(&claim.node), at(0)).is_initial_node;
            assert_eq!(is_initial, !matches!(outcome, Claimed::Joined), "{claim:?}");
        }
    }

    #[test]
    fn ready_is_final() {
        let record = ready("a", None, None).on(Some(claimed(Some(60)))).unwrap();
        assert_eq!(record.state, State::Ready);
        let (outcome, after) = claim("b", Some(30), 1_000_000).on(Some(record.clone())).unwrap();
        assert_eq!((outcome, &after), (Claimed::Joined, &record));
        assert_eq!(ready("a", None, None).on(Some(after)).unwrap(), record, "again");
        // Late, and nobody has taken it over.
        let late = ready("a", Some(1), None).on(Some(claimed(Some(30))));
        assert_eq!(late.unwrap().state, State::Ready);
    }

    #[test]
    fn reports_that_do_not_fit_are_refused() {
        let (_, taken_over) = claim("b", None, 100).on(Some(claimed(Some(30)))).unwrap();
        let stale = Refusal::StaleGeneration { given: 1, current: 2 };
        let not_ready = |node: &str| Refusal::NotReady { initial_node: node.to_owned() };
        let other = Refusal::OtherCluster { given: "v".to_owned(), current: "u".to_owned() };
        let mut full = with_members(&["a"]);
        let member = full.members["a"].clone();
        full.members.extend((1..MAX_MEMBERS).map(|number| (format!("m{number}"), member.clone())));
        for (standing, report, expected) in [
            (None, ready("a", None, None), Refusal::NotFound),
            (Some(claimed(None)), ready("b", None, None), not_ready("a")),
            (Some(claimed(None)), ready("b", Some(1), Some("u")), not_ready("a")),
            (Some(taken_over.clone()), ready("a", Some(1), None), stale.clone()),
            (Some(taken_over.clone()), ready("b", Some(1), None), stale),
            (Some(taken_over), ready("a", None, None), not_ready("b")),
            (Some(with_members(&["a"])), ready("b", Some(1), Some("v")), other.clone()),
            (Some(with_members(&["a"])), ready("a", None, Some("v")), other),
            (Some(full.clone()), ready("b", None, None), Refusal::TooManyNodes),
        ] {
            assert_eq!(report.on(standing), Err(expected), "{report:?}");
        }
        let again = ready("m1", None, None).on(Some(full.clone()));
        assert_eq!(again, Ok(full), "a member may say so again");
    }

    #[test]
    fn who_leaves_is_replaced_where_that_can_be() {
        let gone = |record: Record, node| leave(node, 0).on(Some(record));
        let members = || with_members(&["a", "b", "c"]);
        let left = gone(members(), "b").unwrap();
        assert_eq!(left.initial_node, "a");
        assert_eq!(names(&left), ["a", "c"]);
        assert_eq!(gone(left.clone(), "b"), Ok(left), "again");

        let left = gone(members(), "a").unwrap();
        assert_eq!((left.initial_node.as_str(), left.state), ("b", State::Ready));
        assert_eq!(names(&left), ["b", "c"]);
        assert_eq!(gone(left.clone(), "a"), Ok(left), "again");

        assert_eq!(gone(with_members(&["a"]), "a"), Err(Refusal::LastNode));
        assert_eq!(gone(members(), "x"), Ok(members()));
        assert_eq!(leave("a", 0).on(None), Err(Refusal::NotFound));
    }

    #[test]
    fn an_initial_node_that_leaves_before_it_is_ready_gives_its_claim_up() {
        for lease in [None, Some(3600)] {
            let left = leave("a", 10).on(Some(claimed(lease))).unwrap();
            assert!(left.is_lapsed(at(10)) && left.state == State::Claimed);
            let (outcome, record) = claim("b", None, 10).on(Some(left)).unwrap();
            assert_eq!((outcome, record.generation), (Claimed::Takeover, 2));
        }
    }

    #[test]
    fn a_secret_is_asked_for_before_anything_is_told() {
        let hash = |secret: &str| Some(SecretHash::of(&id(), secret.as_bytes()));
        let mut open = claimed(Some(30));
        let mut closed = Record { secret: hash("right"), ..open.clone() };
        for state in [State::Claimed, State::Ready] {
            (open.state, closed.state) = (state, state);
            for (record, secret) in [
                (&closed, None),
                (&closed, hash("wrong")),
                (&closed, hash("")),
                (&open, hash("right")),
            ] {
                let standing = || Some(record.clone());
                // Lapsed or not.
                for now in [0, 1_000_000] {
                    let claim = Claim { secret: secret.clone(), ..claim("b", None, now) };
                    assert_eq!(claim.on(standing()), Err(Refusal::Forbidden));
                }
                let ready = Ready { secret: secret.clone(), ..ready("x", Some(9), Some("v")) };
                assert_eq!(ready.on(standing()), Err(Refusal::Forbidden));
                let leave = Leave { secret: secret.clone(), ..leave("a", 0) };
                assert_eq!(leave.on(standing()), Err(Refusal::Forbidden));
                let shown = Record::shown_to(standing(), secret.as_ref(), at(0));
                assert_eq!(shown, Err(Refusal::Forbidden));
            }
            assert!(Record::shown_to(Some(closed.clone()), hash("right").as_ref(), at(0)).is_ok());
            assert!(Record::shown_to(Some(open.clone()), None, at(0)).is_ok());
        }
    }

    #[test]
    fn secrets_are_kept_as_hashes_of_their_cluster() {
        let [one, other] = ["c", "d"].map(|id| ClusterId::new(id).unwrap());
        let hash = SecretHash::of(&one, b"secret");
        assert_eq!(hash, SecretHash::of(&one, b"secret"));
        assert_ne!(hash, SecretHash::of(&other, b"secret"));
        assert_ne!(hash, SecretHash::of(&one, b"Secret"));
        assert_eq!(SecretHash::from_bytes(hash.as_bytes()), Some(hash.clone()));
        assert_eq!(SecretHash::from_bytes(b"short"), None);
        assert_eq!(format!("{hash:?}"), "SecretHash(..)");
    }

    #[test]
    fn a_digest_is_short_and_tells_clusters_apart() {
        assert_eq!(id().digest(), "2e7d2c03");
        assert_ne!(ClusterId::new("d").unwrap().digest(), id().digest());
    }

    #[test]
    fn a_takeover_names_every_node_that_may_have_initialised() {
        let take = |node: &str, now, record| claim(node, Some(30), now).on(Some(record)).unwrap().1;
        let record = take("b", 100, claimed(Some(30)));
        assert_eq!(record.previous_initial_nodes, ["a"]);
        let record = take("c", 200, record);
        assert_eq!(record.previous_initial_nodes, ["b", "a"]);
        let record = take("a", 300, record);
        assert_eq!(record.previous_initial_nodes, ["c", "b"], "not itself");
        // A node that gives its claim up has not initialised its server.
        let given_up = leave("a", 301).on(Some(record.clone())).unwrap();
        assert!(given_up.is_given_up);
        let record = take("d", 302, given_up);
        assert_eq!(record.previous_initial_nodes, ["c", "b"]);
        assert!(!record.is_given_up);
        // None is forgotten: there is an end to takeovers.
        let full = (0..6)
            .fold(record, |record, number| take(&format!("n{number}"), 400 + 100 * number, record));
        assert_eq!(full.previous_initial_nodes.len(), MAX_PREVIOUS);
        let one_more = claim("n6", Some(30), 2000).on(Some(full.clone()));
        assert_eq!(one_more, Err(Refusal::TooManyTakeovers));
        assert!(claim("n5", Some(30), 2000).on(Some(full.clone())).is_ok());
        let ready = ready("n5", None, None).on(Some(full)).unwrap();
        assert!(ready.previous_initial_nodes.is_empty());
    }

    #[test]
    fn a_claim_after_an_unasked_record_names_the_node_that_had_it() {
        let late = 401 * 86_400;
        for record in [claimed(None), with_members(&["a", "b"])] {
            let (outcome, record) = claim("c", Some(30), late).on(Some(record)).unwrap();
            assert_eq!((outcome, record.generation), (Claimed::First, 2));
            assert_eq!(record.previous_initial_nodes, ["a"]);
        }
        let own = claim("a", Some(30), late).on(Some(claimed(None))).unwrap();
        assert!(own.1.previous_initial_nodes.is_empty(), "not itself");
        let odd = Record { initial_node: "not a node".to_owned(), ..claimed(None) };
        let (_, record) = claim("c", Some(30), late).on(Some(odd)).unwrap();
        assert!(record.previous_initial_nodes.is_empty());
        let forgotten = forget(with_members(&["a"]), at(10));
        let (_, record) = claim("c", Some(30), 11).on(Some(forgotten)).unwrap();
        assert!(record.previous_initial_nodes.is_empty());
    }

    #[test]
    fn two_servers_with_one_name_are_told_apart() {
        let with_uuid = |uuid: &str, now| Claim {
            node_uuid: Some(Uuid::new(uuid).unwrap()),
            ..claim("a", Some(60), now)
        };
        let (_, record) = with_uuid("u1", 0).on(None).unwrap();
        let taken = || Refusal::NameTaken { node: "a".to_owned() };
        assert_eq!(with_uuid("u1", 1).on(Some(record.clone())).unwrap().0, Claimed::Again);
        assert_eq!(with_uuid("u2", 1).on(Some(record.clone())), Err(taken()));
        // A caller that does not say is believed, as the original's were.
        assert_eq!(claim("a", None, 1).on(Some(record.clone())).unwrap().0, Claimed::Again);
        let report = |uuid: &str| Ready {
            node_uuid: Some(Uuid::new(uuid).unwrap()),
            ..ready("a", Some(1), None)
        };
        assert_eq!(report("u2").on(Some(record.clone())), Err(taken()));
        // A stranger who has read the record neither reports for the node nor gives its claim up.
        let anonymous = ready("a", Some(1), None);
        assert_eq!(anonymous.on(Some(record.clone())), Err(taken()));
        let leaving = |uuid: Option<&str>| Leave {
            node_uuid: uuid.map(|uuid| Uuid::new(uuid).unwrap()),
            ..leave("a", 1)
        };
        for uuid in [None, Some("u2")] {
            assert_eq!(leaving(uuid).on(Some(record.clone())), Err(taken()));
        }
        assert!(leaving(Some("u1")).on(Some(record.clone())).is_ok());
        // The first is told of the second.
        let noted = with_uuid("u2", 1).noted_on(record);
        let asked = with_uuid("u1", 2).on(Some(noted.clone())).unwrap().1;
        assert_eq!(asked.rival_node_uuid.as_deref(), Some("u2"));
        assert_eq!(
            report("u1").on(Some(noted.clone())).unwrap().rival_node_uuid.as_deref(),
            Some("u2")
        );
        // Not enough of it to speak for the second.
        let long = Record { rival_node_uuid: Some("0123456789abcdef".to_owned()), ..noted.clone() };
        let told = long.answer(None, at(2)).rival_node_uuid;
        assert_eq!(told.as_deref(), Some("01234567"));
        // After the lease the second may have the name.
        let (outcome, record) = with_uuid("u2", 100).on(Some(noted)).unwrap();
        assert_eq!((outcome, record.rival_node_uuid), (Claimed::Takeover, None));
    }

    #[test]
    fn a_late_copy_of_a_leave_does_not_undo_a_newer_claim() {
        let (_, record) = claim("a", Some(30), 100).on(Some(claimed(Some(30)))).unwrap();
        assert_eq!(record.generation, 2);
        let late = Leave { generation: Some(1), ..leave("a", 101) };
        assert_eq!(
            late.on(Some(record.clone())),
            Err(Refusal::StaleGeneration { given: 1, current: 2 })
        );
        let own = Leave { generation: Some(2), ..leave("a", 101) };
        assert!(own.on(Some(record)).unwrap().is_lapsed(at(101)));
    }

    #[test]
    fn a_forgotten_record_leaves_its_generation() {
        let gone = forget(with_members(&["a", "b"]), at(10));
        assert!(gone.is_gone(at(10)) && gone.members.is_empty() && gone.secret.is_none());
        assert_eq!(ready("a", Some(1), None).on(Some(gone.clone())), Err(Refusal::NotFound));
        assert_eq!(leave("a", 11).on(Some(gone.clone())), Err(Refusal::NotFound));
        assert_eq!(Record::shown_to(Some(gone.clone()), None, at(11)), Err(Refusal::NotFound));
        let secret = Some(SecretHash::of(&id(), b"a new one"));
        let (outcome, record) = Claim { secret, ..claim("c", None, 11) }.on(Some(gone)).unwrap();
        assert_eq!((outcome, record.generation, record.state), (Claimed::First, 2, State::Claimed));
        // A holder of the old generation is not taken for one of the new.
        assert!(ready("c", Some(1), None).on(Some(record)).is_err());
    }

    #[test]
    fn every_record_ends_unless_somebody_asks() {
        let day = 86_400;
        for record in [claimed(None), with_members(&["a"])] {
            assert_eq!(record.kept_until, Some(at(400 * day)));
            assert!(!record.is_gone(at(400 * day)) && record.is_gone(at(400 * day + 1)));
            assert_eq!(record.renewal(at(day - 1)), None, "at most once a day");
            assert_eq!(record.renewal(at(day)), Some(at(401 * day)));
        }
        let leased = claimed(Some(30));
        assert_eq!((leased.kept_until, leased.renewal(at(0))), (Some(at(30 + 7 * day)), None));
        let of_old = Record { kept_until: None, ..claimed(None) };
        assert!(!of_old.is_gone(at(1_000_000_000)), "rows of the original have no end");
        assert_eq!(of_old.renewal(at(0)), Some(at(400 * day)));
        assert_eq!(forget(of_old, at(0)).renewal(at(0)), None);
    }

    #[test]
    fn members_are_told_with_what_they_attest() {
        let authority = Fingerprint::of_certificate(b"authority");
        let attestation = Attestation::from_bytes(&[7; 32]);
        let report =
            Ready { authority: Some(authority), attestation, ..ready("a", Some(1), Some("u")) };
        let record = report.on(Some(claimed(None))).unwrap();
        let answer = record.answer(None, at(5));
        assert_eq!(answer.members[0].authority_sha256, Some(authority.to_string()));
        assert_eq!(answer.members[0].attestation, Some("07".repeat(32)));
        assert_eq!(answer.members[0].reported_at, at(0));
        // A later report replaces the earlier one.
        let again = Ready { now: at(9), ..ready("a", Some(1), Some("u")) };
        let record = again.on(Some(report.on(Some(claimed(None))).unwrap())).unwrap();
        assert_eq!(
            (record.members["a"].reported_at, record.members["a"].attestation),
            (at(9), None)
        );
    }
}
