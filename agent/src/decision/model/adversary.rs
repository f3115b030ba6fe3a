//! An API with arbitrary answers, different at every call.
//!
//! One agent with the cluster secret, and its server. Two members exist, `b` and `c`; `evil` is a host of the adversary's. The
//! agent signs in where the real [`Peers::proof`] accepts the host.

use std::{collections::BTreeMap, time::Duration};

use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    trust::{ClusterKeys, Fingerprint, Statement},
    wire::{self, Cluster, State},
};
use stateright::{Model, Property};

use crate::{
    decision::{
        self, Action, Admission, Asked, Goal, Inspection, Kept, Memory, OwnServer, tests::now,
    },
    http::Deadline,
    peers::{Peers, Proof},
    record::ClusterRecord,
    secret::Secret,
    server::{Administrator, NodeInfo, View},
};

const LEASE: Duration = Duration::from_secs(30);

/// More actions than this without a wait count as spinning.
const MOST_ACTS: u8 = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Broken {
    /// The administrator's password goes to a host that no member vouches for.
    Exposed,
    /// A server was initialized although it belongs to a cluster or had accepted an initialization.
    InitializedTwice,
    /// The agent acts again and again without a wait.
    Spins,
}

/// When the agent waits although it has decided on an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// After the same action.
    Repeats,
    /// After this many actions.
    Counts(u8),
}

#[derive(Debug)]
pub(super) struct Adversary {
    answers: Vec<ClusterRecord>,
    /// The result of [`Peers::proof`] for each node in each answer.
    proofs: BTreeMap<(usize, String), Option<Proof>>,
    goal: Goal,
    pace: Pace,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Run {
    /// The cluster of the server, once it has one.
    cluster: Option<Uuid>,
    /// The final answer.
    asked: Option<usize>,
    generation: u64,
    inspections: BTreeMap<String, bool>,
    occupied: Option<String>,
    has_initialized: bool,
    is_claimed_by_other: bool,
    is_reported: bool,
    is_attested: bool,
    /// The last action without a wait.
    last: Option<String>,
    /// The number of actions without a wait.
    acts: u8,
    has_ended: bool,
    pub broken: Option<Broken>,
}

/// The API's answer, and whether the following action works, is answered without an effect, or fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    answer: Option<usize>,
    works: Works,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Works {
    Yes,
    WithoutEffect,
    No,
}

fn node(text: &str) -> Node {
    Node::new(text).unwrap()
}

fn uuid(text: &str) -> Uuid {
    Uuid::new(text).unwrap()
}

fn id() -> ClusterId {
    ClusterId::new("c").unwrap()
}

fn authority() -> Fingerprint {
    Fingerprint::of_certificate(b"the cluster's authority")
}

/// The members' attestations, in this cluster and in a forgotten one.
fn genuine() -> Vec<(&'static str, &'static str, Fingerprint)> {
    vec![("b", "u1", authority()), ("c", "u1", authority()), ("b", "u2", authority())]
}

/// Members as the adversary can present them: with attestations of the real members, and with forged ones.
fn presented() -> Vec<Vec<wire::Member>> {
    let (keys, others) =
        (ClusterKeys::derive(b"secret", &id()), ClusterKeys::derive(b"guessed", &id()));
    let elsewhere = ClusterId::new("other").unwrap();
    let keys_elsewhere = ClusterKeys::derive(b"secret", &elsewhere);
    let evil = Fingerprint::of_certificate(b"the adversary's authority");
    let attested = |keys: &ClusterKeys,
                    cluster_id: &ClusterId,
                    name: &str,
                    cluster: &str,
                    authority| {
        let (node, cluster_uuid) = (node(name), uuid(cluster));
        keys.attest(&Statement { cluster_id, node: &node, cluster_uuid: &cluster_uuid, authority })
            .to_string()
    };
    let member =
        |name: &str, authority: Option<Fingerprint>, attestation: Option<String>| wire::Member {
            node: name.to_owned(),
            reported_at: jiff::Timestamp::UNIX_EPOCH,
            node_uuid: None,
            authority_sha256: authority.map(|authority| authority.to_string()),
            attestation,
        };
    let genuine = attested(&keys, &id(), "b", "u1", Some(authority()));
    let previous = attested(&keys, &id(), "b", "u2", Some(authority()));
    let other_cluster = attested(&keys_elsewhere, &elsewhere, "b", "u1", Some(evil));
    let guessed = attested(&others, &id(), "evil", "u1", Some(evil));
    let by_b = || Some(genuine.clone());
    let unreadable = Some("zz".to_owned());
    vec![
        vec![],
        vec![member("b", Some(authority()), by_b())],
        // Of a previous cluster.
        vec![member("b", Some(authority()), Some(previous))],
        // Under another name.
        vec![member("evil", Some(authority()), by_b())],
        // With another authority, without one, and with an unreadable one.
        vec![member("b", Some(evil), by_b())],
        vec![member("b", None, by_b())],
        vec![wire::Member { authority_sha256: unreadable, ..member("b", None, by_b()) }],
        // Of another cluster of the same secret, and with a guessed secret.
        vec![member("b", Some(evil), Some(other_cluster))],
        vec![member("evil", Some(evil), Some(guessed))],
        // Without any.
        vec![member("evil", Some(evil), None), member("b", Some(authority()), by_b())],
    ]
}

/// Arbitrary answers in the relevant fields. [`ClusterRecord::new`] rejects those that contradict themselves or contain invalid names.
fn answers(is_about_members: bool) -> Vec<ClusterRecord> {
    let any = |generation,
               lease_seconds_left,
               previous: &str,
               is_initial_node,
               cluster_uuid: Option<&str>| Cluster {
        cluster_id: "c".to_owned(),
        initial_node_ip_addr_or_hostname: String::new(),
        is_initial_node,
        state: State::Claimed,
        generation,
        lease_expires_at: None,
        lease_seconds_left,
        previous_initial_nodes: previous.split_terminator(',').map(str::to_owned).collect(),
        rival_node_uuid: None,
        nodes: Vec::new(),
        members: Vec::new(),
        cluster_uuid: cluster_uuid.map(str::to_owned),
    };
    let mut answers = Vec::new();
    for is_initial_node in [false, true] {
        for cluster_uuid in [None, Some("u1"), Some("u2"), Some("u/")] {
            for generation in [0, 1, 2] {
                for lease in [None, Some(0), Some(30)] {
                    for previous in ["", "b", "c", "-"] {
                        answers.push(any(
                            generation,
                            lease,
                            previous,
                            is_initial_node,
                            cluster_uuid,
                        ));
                    }
                }
            }
            for members in presented() {
                let state = State::Ready;
                answers.push(Cluster {
                    members,
                    state,
                    ..any(1, None, "", is_initial_node, cluster_uuid)
                });
            }
        }
    }
    let is_relevant = |answer: &Cluster| match answer.state {
        State::Ready => {
            is_about_members
                || (answer.members.len() == 1 && answer.cluster_uuid.as_deref() == Some("u1"))
        }
        State::Claimed if is_about_members => answer.previous_initial_nodes.is_empty(),
        // Only an expired or a long enough lease makes a difference, and no other previous cluster.
        State::Claimed => {
            answer.lease_seconds_left.is_some() && answer.cluster_uuid.as_deref() != Some("u2")
        }
    };
    let names = if is_about_members { &["a", "b", "evil"][..] } else { &["a", "b"][..] };
    let asked = answers.into_iter().filter(is_relevant).flat_map(|answer| {
        let with_name = move |name: &&str| Cluster {
            initial_node_ip_addr_or_hostname: (*name).to_owned(),
            ..answer.clone()
        };
        names.iter().map(with_name)
    });
    let records: Vec<_> =
        asked.map(|answer| ClusterRecord::new(answer, &id(), Some(&node("a")), now())).collect();
    let all = records.len();
    let records: Vec<_> = records.into_iter().flatten().collect();
    println!("adversary: {} of {all} answers accepted", records.len());
    records
}

impl Adversary {
    pub(super) fn new(is_about_members: bool, pace: Pace) -> Self {
        let password = Secret::read(None, "CARGO_PKG_NAME", "").unwrap().unwrap();
        let peers = Peers {
            cluster_id: id(),
            keys: Some(ClusterKeys::derive(b"secret", &id())),
            authority: None,
            is_insecure: false,
            administrator: Administrator { username: "admin".to_owned(), password },
            deadline: Deadline::after(Duration::ZERO),
        };
        let answers = answers(is_about_members);
        let mut proofs = BTreeMap::new();
        for (number, record) in answers.iter().enumerate() {
            for node in record.nodes() {
                let key = (number, node.as_str().to_owned());
                proofs.insert(key, peers.proof(node, record).ok());
            }
        }
        let goal = Goal { attests: true, ..Goal::new(node("a"), LEASE) };
        Self { answers, proofs, goal, pace }
    }

    fn view(cluster: &Uuid, name: &str) -> View {
        View::balanced(cluster.clone(), vec![NodeInfo::healthy(name)])
    }

    fn memory(run: &Run) -> Memory {
        let inspection = |is_provisioned: bool| {
            if is_provisioned { Inspection::Provisioned } else { Inspection::Blank }
        };
        Memory {
            is_claimed_by_other: run.is_claimed_by_other,
            inspections: run
                .inspections
                .iter()
                .map(|(name, is)| (node(name), inspection(*is)))
                .collect(),
            occupied_by: run.occupied.as_deref().map(|name| (node(name), now())),
            is_reported: run.is_reported,
            is_attested: run.is_attested,
            kept: Kept { has_initialized: run.has_initialized, ..Kept::default() },
            ..Memory::default()
        }
    }

    /// Signs in at a member that something vouches for.
    fn connect(&self, run: &mut Run, member: &Node, record: &ClusterRecord) -> bool {
        let answer = run.asked.unwrap();
        match self.proofs[&(answer, member.as_str().to_owned())] {
            Some(Proof::Attested(authority)) => {
                let is_vouched_for = genuine().into_iter().any(|(name, cluster, genuine)| {
                    name == member.as_str()
                        && Some(uuid(cluster)) == record.cluster_uuid
                        && Some(genuine) == authority
                });
                if !is_vouched_for {
                    run.broken = Some(Broken::Exposed);
                }
                true
            }
            Some(_) => {
                run.broken = Some(Broken::Exposed);
                true
            }
            None => false,
        }
    }

    fn learn(&self, run: &mut Run, answer: usize) {
        let record = &self.answers[answer];
        if record.generation != run.generation {
            run.inspections.clear();
        }
        run.generation = record.generation;
        run.asked = Some(answer);
    }

    /// One round of `up`. Returns whether it waits.
    fn round(&self, run: &mut Run, round: Turn) -> bool {
        let own = match &run.cluster {
            Some(cluster) => OwnServer::Member(Self::view(cluster, "a")),
            None => OwnServer::Blank(None),
        };
        let (mut has_claimed, mut is_nothing) = (false, false);
        loop {
            let asked = match run.asked {
                Some(answer) => Asked::Record(self.answers[answer].clone()),
                None if is_nothing => Asked::NoRecord,
                None => Asked::NotYet,
            };
            let next = decision::next_action(&self.goal, &own, &asked, &Self::memory(run), now());
            match (&next, round.answer) {
                (Action::Claim, _) if has_claimed => return true,
                // The API does not answer a claim, and answers a status without a record.
                (Action::Claim, None) => return true,
                (Action::GetRecord, None) => {
                    is_nothing = true;
                    continue;
                }
                (Action::GetRecord | Action::Claim, Some(answer)) => {
                    has_claimed = next == Action::Claim;
                    if has_claimed {
                        let record = &self.answers[answer];
                        run.is_claimed_by_other =
                            !(record.is_initial && record.state == State::Claimed);
                    }
                    self.learn(run, answer);
                    continue;
                }
                (Action::Done | Action::Stop(_), _) => {
                    run.has_ended = true;
                    return true;
                }
                _ => {}
            }
            let Asked::Record(record) = asked else {
                return true;
            };
            let does_wait = self.act(run, &next, &record, round);
            let done = Some(format!("{next:?}"));
            let is_repeated = run.last == done;
            return does_wait
                || match self.pace {
                    Pace::Repeats => {
                        run.last = done;
                        is_repeated
                    }
                    Pace::Counts(most) => run.acts >= most,
                };
        }
    }

    fn act(&self, run: &mut Run, next: &Action, record: &ClusterRecord, round: Turn) -> bool {
        match next {
            Action::Inspect(nodes) => {
                for node in nodes {
                    run.inspections.insert(node.as_str().to_owned(), round.works == Works::No);
                }
                false
            }
            Action::GiveUpClaim(node) if round.works == Works::Yes => {
                run.occupied = Some(node.as_str().to_owned());
                false
            }
            Action::Initialize => {
                if run.cluster.is_some() || run.has_initialized {
                    run.broken = Some(Broken::InitializedTwice);
                }
                match round.works {
                    Works::Yes => {
                        run.cluster = Some(uuid("mine"));
                        run.has_initialized = true;
                        false
                    }
                    Works::WithoutEffect => {
                        run.has_initialized = true;
                        false
                    }
                    Works::No => true,
                }
            }
            Action::Join(members) => self.join(run, members, record, round.works),
            Action::Report(_) => match (round.answer, round.works) {
                (Some(answer), Works::Yes) => {
                    self.learn(run, answer);
                    run.is_reported = true;
                    run.is_attested = true;
                    false
                }
                (Some(answer), Works::WithoutEffect) => {
                    self.learn(run, answer);
                    run.is_reported = true;
                    false
                }
                _ => {
                    run.asked = None;
                    true
                }
            },
            _ => true,
        }
    }

    fn join(&self, run: &mut Run, members: &[Node], record: &ClusterRecord, works: Works) -> bool {
        for member in members {
            if !self.connect(run, member, record) {
                continue;
            }
            let view = Self::view(&uuid("u1"), member.as_str());
            match decision::admission(
                &self.goal.node,
                None,
                &view,
                record.cluster_uuid.as_ref(),
                false,
            ) {
                Admission::Add => {
                    if works == Works::Yes {
                        run.cluster = Some(uuid("u1"));
                    }
                    return works == Works::No;
                }
                Admission::OtherCluster(_) if members.len() == 1 => {
                    run.has_ended = true;
                    return true;
                }
                _ => {}
            }
        }
        run.asked = None;
        true
    }
}

impl Model for Adversary {
    type State = Run;
    type Action = Turn;

    fn init_states(&self) -> Vec<Run> {
        vec![Run::default()]
    }

    fn actions(&self, run: &Run, rounds: &mut Vec<Turn>) {
        if run.has_ended {
            return;
        }
        let answers = (0..self.answers.len()).map(Some).chain([None]);
        rounds.extend(answers.flat_map(|answer| {
            [Works::Yes, Works::WithoutEffect, Works::No].map(|works| Turn { answer, works })
        }));
    }

    fn next_state(&self, last: &Run, round: Turn) -> Option<Run> {
        let mut run = last.clone();
        if self.round(&mut run, round) {
            run.acts = 0;
            run.last = None;
        } else {
            run.acts += 1;
        }
        // The next round asks again, except after the initialization.
        let has_begun = run.has_initialized && last.cluster.is_none() && run.cluster.is_some();
        run.asked.take_if(|answer| !has_begun && self.answers[*answer].state != State::Ready);
        if run.acts > MOST_ACTS && run.broken.is_none() {
            run.broken = Some(Broken::Spins);
        }
        if run.has_ended {
            run = Run { has_ended: true, broken: run.broken, ..Run::default() };
        }
        (run != *last).then_some(run)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing is broken", |_, run: &Run| run.broken.is_none()),
            Property::sometimes("an agent joins", |_, run: &Run| {
                run.cluster.as_ref().is_some_and(|cluster| cluster.as_str() == "u1")
            }),
        ]
    }

    fn within_boundary(&self, run: &Run) -> bool {
        run.acts <= MOST_ACTS + 1
    }
}
