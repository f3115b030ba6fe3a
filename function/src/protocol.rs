//! The rules of the protocol: what a valid name is, what a claim, a report and a leave make of a cluster's record, who is
//! told what. No I/O.
//!
//! A cluster's [`Record`] comes into being with the first [`Claim`]. Each of [`Claim::on`], [`Ready::on`] and [`Leave::on`] is a
//! pure function of the record that stands. The store has DynamoDB decide the same by a condition on one write, and asks
//! these functions why where the condition fails; tests hold the two against each other.
//!
//! Each answer is a pure function of the record and the asking node, so that a winner that lost its answer, retries or
//! reboots gets the same answer again.

use std::{collections::BTreeSet, time::Duration};

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::wire::{
    Cluster, MAX_CLUSTER_ID_BYTES, MAX_CLUSTER_UUID_BYTES, MAX_NODE_BYTES, MAX_NODES, State,
};

/// The generation of a cluster's first claim.
pub const FIRST_GENERATION: u64 = 1;

/// A lease counts as lapsed only so long after its end: the clocks of two function instances may differ by as much.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// An abandoned claim may be deleted so long after the end of its lease. No decision relies on it.
pub const KEEP_ABANDONED: Duration = Duration::from_hours(7 * 24);

/// A valid cluster id: 1 to [`MAX_CLUSTER_ID_BYTES`] bytes, no white space, no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterId(String);

/// A valid node address or host name: 1 to [`MAX_NODE_BYTES`] bytes, no white space, no control characters.
///
/// Nothing more is asked of it: `mynode_ip` is a node, though no valid host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node(String);

/// A valid UUID of a cluster, as Couchbase Server says it: 1 to [`MAX_CLUSTER_UUID_BYTES`] bytes, no white space, no control
/// characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterUuid(String);

/// Why a text is no valid name; the message continues a sentence that begins with the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidName {
    /// It is empty.
    #[error("must not be empty")]
    Empty,
    /// It is longer than the limit, in bytes.
    #[error("must be at most {limit} bytes long, and is {length}")]
    TooLong {
        /// The limit.
        limit: usize,
        /// The length it has.
        length: usize,
    },
    /// It holds white space or a control character.
    #[error("must not contain white space or control characters, and has U+{:04X} at byte {position}", u32::from(*character))]
    Forbidden {
        /// The first such character.
        character: char,
        /// Its position in bytes, from 0.
        position: usize,
    },
}

fn valid_name(text: String, limit: usize) -> Result<String, InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty);
    }
    if text.len() > limit {
        return Err(InvalidName::TooLong {
            limit,
            length: text.len(),
        });
    }
    match text
        .char_indices()
        .find(|(_, c)| c.is_whitespace() || c.is_control())
    {
        Some((position, character)) => Err(InvalidName::Forbidden {
            character,
            position,
        }),
        None => Ok(text),
    }
}

impl ClusterId {
    /// Checks a cluster id against the limits.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        valid_name(text.into(), MAX_CLUSTER_ID_BYTES).map(Self)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A short name for logs, which gives the id to nobody who does not know it.
    pub fn digest(&self) -> String {
        let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(self.0.as_bytes()).into();
        format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
    }
}

impl Node {
    /// Checks a node's name against the limits.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        valid_name(text.into(), MAX_NODE_BYTES).map(Self)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClusterUuid {
    /// Checks a cluster's UUID against the limits.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        valid_name(text.into(), MAX_CLUSTER_UUID_BYTES).map(Self)
    }

    /// The UUID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is kept of a cluster's secret: a hash salted with the cluster's id.
///
/// The salt is the id and not a random one, so that a takeover compares in the one conditional write that it is. Secrets
/// are meant to be random and long, as tokens are; the hash is a fast one.
#[derive(Clone)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of a cluster's secret.
    pub fn of(cluster_id: &ClusterId, secret: &[u8]) -> Self {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
        mac.update(b"cbbootstrap cluster secret\0");
        mac.update(cluster_id.as_str().as_bytes());
        Self(mac.finalize().into_bytes().into())
    }

    /// The hash as it was kept; `None` if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The hash, to keep.
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

/// Without the hash: nobody's log has a use for it.
impl std::fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// What is known of a cluster: one item of the table.
///
/// The nodes are plain text here and no [`Node`]s: a row that the original service wrote is read whatever it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The cluster.
    pub cluster_id: String,
    /// The node whose claim stands; once the cluster is ready, the one to join.
    pub initial_node: String,
    /// How far the cluster is.
    pub state: State,
    /// Which claim it is, from [`FIRST_GENERATION`].
    pub generation: u64,
    /// When that claim was made; rows of the original service do not say.
    pub claimed_at: Option<Timestamp>,
    /// The end of the claim's lease. A claim without one never lapses.
    pub lease_expires_at: Option<Timestamp>,
    /// The members that reported ready, and did not leave.
    pub nodes: BTreeSet<String>,
    /// The UUID that Couchbase Server gave the cluster, once reported.
    pub cluster_uuid: Option<String>,
    /// Of the secret that every call must bring; a cluster without one refuses calls that bring any.
    pub secret: Option<SecretHash>,
}

/// A node wants the cluster, or to know whom to join.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub node: Node,
    /// How long the claim stands unless the node reports ready; none is for ever.
    pub lease: Option<Duration>,
    /// Of the secret that the node brings.
    pub secret: Option<SecretHash>,
    /// The time.
    pub now: Timestamp,
}

/// What a [`Claim`] came to. In each case the record says who is the initial node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The cluster is the node's: nobody had claimed it.
    First,
    /// The cluster is the node's: the claim before had lapsed.
    Takeover,
    /// The cluster was the node's already.
    Again,
    /// The cluster is another node's.
    Joined,
}

/// A node has initialised the cluster, or become a member of it.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub node: Node,
    /// The generation that the node was told, if it says.
    pub generation: Option<u64>,
    /// The UUID of the cluster that it is a member of, if it says.
    pub cluster_uuid: Option<ClusterUuid>,
    /// Of the secret that the node brings.
    pub secret: Option<SecretHash>,
}

/// A node is gone.
#[derive(Clone, Debug)]
pub struct Leave {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub node: Node,
    /// Of the secret that the caller brings.
    pub secret: Option<SecretHash>,
    /// The time.
    pub now: Timestamp,
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Nobody has claimed the cluster.
    #[error("nobody has claimed the cluster")]
    NotFound,
    /// The secret is missing or wrong, or there is one where the cluster has none. Says nothing about the cluster.
    #[error("the cluster has another secret")]
    Forbidden,
    /// The generation is not the one that stands.
    #[error(
        "the cluster's generation is {current}, and not {given}: another node has taken the claim over"
    )]
    StaleGeneration {
        /// The one that the caller brought.
        given: u64,
        /// The one that stands.
        current: u64,
    },
    /// The UUID is not the cluster's: somebody has built a second cluster.
    #[error("the cluster's UUID is {current}, and not {given}: there are two clusters")]
    OtherCluster {
        /// The one that the caller brought.
        given: String,
        /// The one that was reported first.
        current: String,
    },
    /// A joiner reports before the initial node has.
    #[error("`{initial_node}` has not reported the cluster ready yet")]
    NotReady {
        /// The initial node.
        initial_node: String,
    },
    /// The cluster has as many members as fit.
    #[error("the cluster has {MAX_NODES} nodes, and there is no room for more")]
    TooManyNodes,
    /// The last member cannot leave: a ready cluster stays ready, and there is nobody to take its place.
    #[error("it is the last node of the cluster, and no other can take its place")]
    LastNode,
}

impl Record {
    /// Whether the claim may be taken over.
    pub fn is_lapsed(&self, now: Timestamp) -> bool {
        self.state == State::Claimed
            && self
                .lease_expires_at
                .is_some_and(|end| end < lapsed_before(now))
    }

    /// Whether a call that brings this secret, or none, may know anything of the cluster.
    fn admit(&self, secret: Option<&SecretHash>) -> Result<(), Refusal> {
        if self.secret.as_ref() == secret {
            Ok(())
        } else {
            Err(Refusal::Forbidden)
        }
    }

    /// The record, for a status that brings this secret, or none.
    pub fn shown_to(self, secret: Option<&SecretHash>) -> Result<Self, Refusal> {
        self.admit(secret)?;
        Ok(self)
    }

    /// The answer to a node, or to someone who names none.
    pub fn answer(self, asking: Option<&Node>) -> Cluster {
        Cluster {
            is_initial_node: asking.is_none_or(|node| node.as_str() == self.initial_node),
            cluster_id: self.cluster_id,
            initial_node_ip_addr_or_hostname: self.initial_node,
            state: self.state,
            generation: self.generation,
            lease_expires_at: self.lease_expires_at,
            nodes: self.nodes.into_iter().collect(),
            cluster_uuid: self.cluster_uuid,
        }
    }
}

/// Leases that ended before this have lapsed.
pub fn lapsed_before(now: Timestamp) -> Timestamp {
    whole_seconds(now) - CLOCK_SKEW
}

/// What the table keeps of a time.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

impl Claim {
    /// When its lease will end.
    pub fn lease_expires_at(&self) -> Option<Timestamp> {
        self.lease.map(|lease| whole_seconds(self.now) + lease)
    }

    /// What it makes of what stands.
    pub fn on(&self, standing: Option<Record>) -> Result<(Claimed, Record), Refusal> {
        let Some(record) = standing else {
            return Ok((Claimed::First, self.record(FIRST_GENERATION)));
        };
        record.admit(self.secret.as_ref())?;
        if record.is_lapsed(self.now) {
            return Ok((Claimed::Takeover, self.record(record.generation + 1)));
        }
        let claimed = if record.initial_node == self.node.as_str() {
            Claimed::Again
        } else {
            Claimed::Joined
        };
        Ok((claimed, record))
    }

    fn record(&self, generation: u64) -> Record {
        Record {
            cluster_id: self.cluster_id.as_str().to_owned(),
            initial_node: self.node.as_str().to_owned(),
            state: State::Claimed,
            generation,
            claimed_at: Some(whole_seconds(self.now)),
            lease_expires_at: self.lease_expires_at(),
            nodes: BTreeSet::new(),
            cluster_uuid: None,
            secret: self.secret.clone(),
        }
    }
}

impl Ready {
    /// What it makes of what stands.
    pub fn on(&self, standing: Option<Record>) -> Result<Record, Refusal> {
        let mut record = standing.ok_or(Refusal::NotFound)?;
        record.admit(self.secret.as_ref())?;
        let node = self.node.as_str();
        if let Some(given) = self.generation.filter(|given| *given != record.generation) {
            return Err(Refusal::StaleGeneration {
                given,
                current: record.generation,
            });
        }
        if let (Some(given), Some(current)) = (&self.cluster_uuid, &record.cluster_uuid)
            && given.as_str() != current
        {
            return Err(Refusal::OtherCluster {
                given: given.as_str().to_owned(),
                current: current.clone(),
            });
        }
        if record.state != State::Ready && record.initial_node != node {
            return Err(Refusal::NotReady {
                initial_node: record.initial_node,
            });
        }
        if record.nodes.len() >= MAX_NODES && !record.nodes.contains(node) {
            return Err(Refusal::TooManyNodes);
        }
        record.state = State::Ready;
        record.lease_expires_at = None;
        record.nodes.insert(node.to_owned());
        if let Some(uuid) = &self.cluster_uuid {
            record.cluster_uuid = Some(uuid.as_str().to_owned());
        }
        Ok(record)
    }
}

impl Leave {
    /// The end of a lease that has lapsed by now.
    pub fn lapsed(&self) -> Timestamp {
        lapsed_before(self.now) - Duration::from_secs(1)
    }

    /// What it makes of what stands.
    ///
    /// The initial node of a cluster that is not ready gives its claim up: whoever asks next takes it over.
    pub fn on(&self, standing: Option<Record>) -> Result<Record, Refusal> {
        let mut record = standing.ok_or(Refusal::NotFound)?;
        record.admit(self.secret.as_ref())?;
        let node = self.node.as_str();
        if record.initial_node == node {
            match record.state {
                State::Claimed => record.lease_expires_at = Some(self.lapsed()),
                State::Ready => {
                    let others = record.nodes.iter().filter(|other| *other != node);
                    let next = others.min().ok_or(Refusal::LastNode)?;
                    record.initial_node.clone_from(next);
                }
            }
        }
        record.nodes.remove(node);
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_limits() {
        let forbidden = |character, position| {
            Err(InvalidName::Forbidden {
                character,
                position,
            })
        };
        for (text, expected) in [
            ("mycluster", Ok(())),
            ("mynode_ip", Ok(())),
            ("10.1.1.1", Ok(())),
            ("fe80::1%eth0", Ok(())),
            ("arn:aws:cloudformation:us-east-1:1:stack/a+b=/c", Ok(())),
            ("größe-東京", Ok(())),
            ("", Err(InvalidName::Empty)),
            ("a b", forbidden(' ', 1)),
            ("a\u{a0}b", forbidden('\u{a0}', 1)),
            ("a\u{3000}", forbidden('\u{3000}', 1)),
            ("\n", forbidden('\n', 0)),
            ("é\0", forbidden('\0', 2)),
            ("a\u{7f}", forbidden('\u{7f}', 1)),
        ] {
            assert_eq!(
                ClusterId::new(text).map(|_| ()),
                expected,
                "cluster id {text:?}"
            );
            assert_eq!(Node::new(text).map(|_| ()), expected, "node {text:?}");
        }
    }

    #[test]
    fn limits_count_bytes() {
        assert!(ClusterId::new("c".repeat(1024)).is_ok());
        assert_eq!(
            ClusterId::new("c".repeat(1025)),
            Err(InvalidName::TooLong {
                limit: 1024,
                length: 1025
            })
        );
        assert_eq!(
            ClusterId::new("é".repeat(513)),
            Err(InvalidName::TooLong {
                limit: 1024,
                length: 1026
            })
        );
        assert!(Node::new("n".repeat(255)).is_ok());
        assert_eq!(
            Node::new("n".repeat(256)),
            Err(InvalidName::TooLong {
                limit: 255,
                length: 256
            })
        );
    }

    #[test]
    fn a_refusal_says_what_and_where() {
        let message = ClusterId::new("my cluster")
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "must not contain white space or control characters, and has U+0020 at byte 2"
        );
    }

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
            lease: lease.map(Duration::from_secs),
            secret: None,
            now: at(now),
        }
    }

    fn ready(node: &str, generation: Option<u64>, uuid: Option<&str>) -> Ready {
        Ready {
            cluster_id: id(),
            node: Node::new(node).unwrap(),
            generation,
            cluster_uuid: uuid.map(|uuid| ClusterUuid::new(uuid).unwrap()),
            secret: None,
        }
    }

    fn leave(node: &str, now: i64) -> Leave {
        Leave {
            cluster_id: id(),
            node: Node::new(node).unwrap(),
            secret: None,
            now: at(now),
        }
    }

    fn claimed(lease: Option<u64>) -> Record {
        claim("a", lease, 0).on(None).unwrap().1
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
                claimed(Some(60)).answer(asking),
                Cluster {
                    cluster_id: "c".to_owned(),
                    initial_node_ip_addr_or_hostname: "a".to_owned(),
                    is_initial_node,
                    state: State::Claimed,
                    generation: 1,
                    lease_expires_at: Some(at(60)),
                    nodes: Vec::new(),
                    cluster_uuid: None,
                },
                "{asking:?}"
            );
        }
        let answer = with_members(&["a", "c", "b"]).answer(Some(&second));
        assert_eq!(answer.nodes, ["a", "b", "c"], "sorted");
        assert_eq!(
            (answer.state, answer.lease_expires_at, answer.cluster_uuid),
            (State::Ready, None, Some("u".to_owned()))
        );
    }

    #[test]
    fn a_claim_lapses_with_its_lease_and_not_without() {
        for (lease, node, now, outcome, generation) in [
            (None, "a", 1_000_000_000, Claimed::Again, 1),
            (None, "b", 1_000_000_000, Claimed::Joined, 1),
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
            let is_initial = record.answer(Some(&claim.node)).is_initial_node;
            assert_eq!(is_initial, !matches!(outcome, Claimed::Joined), "{claim:?}");
        }
    }

    #[test]
    fn ready_is_final() {
        let record = ready("a", None, None).on(Some(claimed(Some(60)))).unwrap();
        assert_eq!(record.state, State::Ready);
        let (outcome, after) = claim("b", Some(30), 1_000_000)
            .on(Some(record.clone()))
            .unwrap();
        assert_eq!((outcome, &after), (Claimed::Joined, &record));
        assert_eq!(
            ready("a", None, None).on(Some(after)).unwrap(),
            record,
            "again"
        );
        // Late, and nobody has taken it over.
        let late = ready("a", Some(1), None).on(Some(claimed(Some(30))));
        assert_eq!(late.unwrap().state, State::Ready);
    }

    #[test]
    fn reports_that_do_not_fit_are_refused() {
        let (_, taken_over) = claim("b", None, 100).on(Some(claimed(Some(30)))).unwrap();
        let stale = Refusal::StaleGeneration {
            given: 1,
            current: 2,
        };
        let not_ready = |node: &str| Refusal::NotReady {
            initial_node: node.to_owned(),
        };
        let other = Refusal::OtherCluster {
            given: "v".to_owned(),
            current: "u".to_owned(),
        };
        let mut full = with_members(&["a"]);
        full.nodes
            .extend((1..MAX_NODES).map(|number| format!("m{number}")));
        for (standing, report, expected) in [
            (None, ready("a", None, None), Refusal::NotFound),
            (Some(claimed(None)), ready("b", None, None), not_ready("a")),
            (
                Some(claimed(None)),
                ready("b", Some(1), Some("u")),
                not_ready("a"),
            ),
            (
                Some(taken_over.clone()),
                ready("a", Some(1), None),
                stale.clone(),
            ),
            (Some(taken_over.clone()), ready("b", Some(1), None), stale),
            (Some(taken_over), ready("a", None, None), not_ready("b")),
            (
                Some(with_members(&["a"])),
                ready("b", Some(1), Some("v")),
                other.clone(),
            ),
            (
                Some(with_members(&["a"])),
                ready("a", None, Some("v")),
                other,
            ),
            (
                Some(full.clone()),
                ready("b", None, None),
                Refusal::TooManyNodes,
            ),
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
        assert_eq!(left.nodes, ["a".to_owned(), "c".to_owned()].into());
        assert_eq!(gone(left.clone(), "b"), Ok(left), "again");

        let left = gone(members(), "a").unwrap();
        assert_eq!(
            (left.initial_node.as_str(), left.state),
            ("b", State::Ready)
        );
        assert_eq!(left.nodes, ["b".to_owned(), "c".to_owned()].into());
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
        let mut closed = Record {
            secret: hash("right"),
            ..open.clone()
        };
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
                    let claim = Claim {
                        secret: secret.clone(),
                        ..claim("b", None, now)
                    };
                    assert_eq!(claim.on(standing()), Err(Refusal::Forbidden));
                }
                let ready = Ready {
                    secret: secret.clone(),
                    ..ready("x", Some(9), Some("v"))
                };
                assert_eq!(ready.on(standing()), Err(Refusal::Forbidden));
                let leave = Leave {
                    secret: secret.clone(),
                    ..leave("a", 0)
                };
                assert_eq!(leave.on(standing()), Err(Refusal::Forbidden));
                let shown = record.clone().shown_to(secret.as_ref());
                assert_eq!(shown, Err(Refusal::Forbidden));
            }
            assert!(closed.clone().shown_to(hash("right").as_ref()).is_ok());
            assert!(open.clone().shown_to(None).is_ok());
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
}
