//! The rules with any order of claims, reports, leaves and forgetting, including late copies of requests and forged attestations, from
//! nodes whose requests reach instances with different clocks. Each [`Property`] is checked after each step, and for each property there
//! are mistakes in the rules that violate it.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
    time::Duration,
};

use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    rules::{
        self, CLOCK_SKEW, Claim, KEEP_UNASKED, Leave, Member, RENEW_EVERY, Ready, Record, Refusal,
    },
    trust::{Attestation, ClusterKeys, Fingerprint, SecretHash, Statement},
    wire::{Cluster, MAX_MEMBERS, MAX_PREVIOUS, State},
};
use jiff::Timestamp;
use proptest::{collection, prelude::*, sample, strategy::ValueTree, test_runner::TestRunner};

/// A property that holds after each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Property {
    /// In each generation, at most one node is to initialize.
    OneInitializer,
    /// The node to join won the claim, or took the place of a member that left.
    WinnerStays,
    /// That node, and no other, gets the response that it is the first node, however often it asks.
    WinnerIsAnswered,
    /// A claim is refused only if another server has the name.
    ClaimIsAnswered,
    /// A claim without a lease is never taken over, and others not before the lease has ended by every clock.
    LeaseIsKept,
    /// The next node to ask after the lease has expired by every clock takes the claim over.
    LapsedIsTaken,
    /// Generations begin with 1 and grow by 1, even after the end of a record.
    GenerationsGrow,
    /// A record that was forgotten or has expired can be claimed, and does not exist for other requests.
    EndedIsEnded,
    /// A status keeps the record, with or without a lease, up to a day less than its time.
    AskedIsKept,
    /// The nodes whose claims were taken over are listed, the latest first, and those of an expired record, until the cluster is ready.
    PreviousAreNamed,
    /// While a cluster is claimed, another server with the first node's name is refused, and the first node learns of it.
    NameIsOne,
    /// A leave of another generation than the current one is refused.
    LeaveIsFenced,
    /// An attestation verifies only the statement that a node with the secret has attested.
    ForgedIsSeen,
    /// The attestation of a member's last report verifies.
    AttestedIsSeen,
    /// A ready cluster stays ready, in its generation.
    ReadyIsFinal,
    /// A ready cluster's UUID stays.
    UuidIsFinal,
    /// A report of another generation than the current one is refused.
    StaleIsRefused,
    /// A joiner's report is refused before the first node's.
    JoinersWait,
    /// The first node's report is accepted, with its own generation or none.
    ReportIsAccepted,
    /// Members are the nodes that reported ready and did not leave, sorted, up to the limit.
    MembersReported,
    /// The node to join of a ready cluster is a member.
    MemberToJoin,
    /// The last member cannot leave, and all others can.
    LastStays,
    /// Without the secret, a caller changes nothing and learns nothing.
    SecretIsAsked,
}
use Property as P;

const PROPERTIES: [Property; 23] = [
    P::OneInitializer,
    P::WinnerStays,
    P::WinnerIsAnswered,
    P::ClaimIsAnswered,
    P::LeaseIsKept,
    P::LapsedIsTaken,
    P::GenerationsGrow,
    P::EndedIsEnded,
    P::AskedIsKept,
    P::PreviousAreNamed,
    P::NameIsOne,
    P::LeaveIsFenced,
    P::ForgedIsSeen,
    P::AttestedIsSeen,
    P::ReadyIsFinal,
    P::UuidIsFinal,
    P::StaleIsRefused,
    P::JoinersWait,
    P::ReportIsAccepted,
    P::MembersReported,
    P::MemberToJoin,
    P::LastStays,
    P::SecretIsAsked,
];

type Done = Result<Record, Refusal>;
type Verdict = Result<(), Property>;

/// A mistake in the rules for one kind of request, or in the response.
enum Mistake {
    /// Changes the input of the rules.
    Sees(Kind, fn(&mut Request, &mut Record)),
    /// Changes the resulting record.
    Makes(Kind, fn(&str, &Record, &mut Record)),
    /// Changes the whole result.
    Comes(Kind, fn(&str, &Record, Done) -> Done),
    /// Changes the response, given whether the request has changed the record.
    Tells(fn(bool, &mut Cluster)),
    /// Changes a forgotten record.
    Forgets(fn(&mut Option<Record>)),
    /// Changes the record after a status.
    Renews(fn(&Record, &mut Record)),
    /// Changes the verification by a joiner.
    Verifies(fn(&ClusterKeys, &Statement<'_>, &Attestation) -> bool),
}
use Mistake::{Comes, Forgets, Makes, Renews, Sees, Tells, Verifies};

#[derive(Clone, Debug)]
struct Step {
    /// The seconds before the action.
    wait: u64,
    /// The seconds by which the clock of the instance is fast.
    fast: u64,
    action: Action,
}

#[derive(Clone, Debug)]
enum Action {
    Claim(Caller, Option<u64>),
    Ready(Caller, Generation, Option<&'static str>, Proof),
    Leave(Caller, Generation),
    /// A node with the secret reads the record.
    Status,
    /// An operator ends the record.
    Forget,
    /// An earlier request arrives once more.
    Again(sample::Index),
    /// Other nodes report ready until there is room for one more.
    Crowd,
}

#[derive(Clone, Copy, Debug)]
struct Caller {
    node: usize,
    has_secret: bool,
    /// The number of its server among those with its name; some do not send it.
    server: Option<u8>,
}

/// The attestation of a report.
#[derive(Clone, Debug)]
enum Proof {
    Nothing,
    /// Its own, for this authority or none.
    Own(Option<u8>),
    /// That of an earlier report, with the authority of that report or another.
    Replayed(sample::Index, Option<u8>),
    Invented(u8),
}

/// The generation in a request.
#[derive(Clone, Copy, Debug)]
enum Generation {
    Missing,
    /// The last one that the node got.
    Known,
    /// One that no node got.
    Invented,
}

/// The steps of up to eight nodes, and whether the cluster has a secret.
fn story() -> impl Strategy<Value = (bool, Vec<Step>)> {
    let steps = (2..=8_usize).prop_flat_map(|nodes| collection::vec(step(nodes), 1..80));
    (any::<bool>(), steps)
}

fn step(nodes: usize) -> impl Strategy<Value = Step> {
    const DAY: u64 = 86_400;
    let wait = prop_oneof![
        80 => 0..3_u64,
        40 => 25..45_u64,
        20 => 80..200_u64,
        2 => DAY..3 * DAY,
        3 => 399 * DAY..402 * DAY,
    ];
    let fast = 0..=CLOCK_SKEW.as_secs();
    (wait, fast, action(nodes)).prop_map(|(wait, fast, action)| Step { wait, fast, action })
}

fn action(nodes: usize) -> impl Strategy<Value = Action> {
    let server = sample::select(vec![None, Some(0), Some(0), Some(0), Some(1)]);
    let caller = (0..nodes, prop::bool::weighted(0.95), server);
    let caller = caller.prop_map(|(node, has_secret, server)| Caller { node, has_secret, server });
    let authority = || sample::select(vec![None, Some(0), Some(1)]);
    let proof = prop_oneof![
        1 => Just(Proof::Nothing),
        3 => authority().prop_map(Proof::Own),
        2 => (any::<sample::Index>(), authority())
            .prop_map(|(index, authority)| Proof::Replayed(index, authority)),
        1 => any::<u8>().prop_map(Proof::Invented),
    ];
    let lease = sample::select(vec![None, Some(30), Some(30), Some(60)]);
    let generation = prop_oneof![
        2 => Just(Generation::Missing),
        6 => Just(Generation::Known),
        1 => Just(Generation::Invented),
    ];
    let uuid = sample::select(vec![None, Some("u"), Some("u"), Some("v")]);
    prop_oneof![
        400 => (caller.clone(), lease).prop_map(|(caller, lease)| Action::Claim(caller, lease)),
        200 => (caller.clone(), generation.clone(), uuid, proof)
            .prop_map(|(caller, generation, uuid, proof)| Action::Ready(caller, generation, uuid, proof)),
        100 => (caller, generation).prop_map(|(caller, generation)| Action::Leave(caller, generation)),
        30 => Just(Action::Status),
        15 => Just(Action::Forget),
        200 => any::<sample::Index>().prop_map(Action::Again),
        2 => Just(Action::Crowd),
    ]
}

#[derive(Clone, Debug)]
enum Request {
    Claim(Claim),
    Ready(Ready),
    Leave(Leave),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Claims,
    Reports,
    Leaves,
}
use Kind::{Claims, Leaves, Reports};

impl Request {
    fn parts(&self) -> (Kind, &str, Option<&SecretHash>) {
        match self {
            Self::Claim(claim) => (Claims, claim.node.as_str(), claim.secret.as_ref()),
            Self::Ready(ready) => (Reports, ready.node.as_str(), ready.secret.as_ref()),
            Self::Leave(leave) => (Leaves, leave.node.as_str(), leave.secret.as_ref()),
        }
    }

    fn node(&self) -> &str {
        self.parts().1
    }

    fn clock(&self) -> Timestamp {
        match self {
            Self::Claim(claim) => claim.now,
            Self::Ready(ready) => ready.now,
            Self::Leave(leave) => leave.now,
        }
    }

    fn secret(&self) -> Option<&SecretHash> {
        self.parts().2
    }

    /// The same request at an instance with this clock.
    fn at(mut self, clock: Timestamp) -> Self {
        match &mut self {
            Self::Claim(claim) => claim.now = clock,
            Self::Ready(ready) => ready.now = clock,
            Self::Leave(leave) => leave.now = clock,
        }
        self
    }

    fn on(&self, stored: Option<Record>) -> Done {
        match self {
            Self::Claim(claim) => claim.on(stored).map(|(_, record)| record),
            Self::Ready(ready) => ready.on(stored),
            Self::Leave(leave) => leave.on(stored),
        }
    }

    /// The result of the rules with this mistake.
    fn mistaken(&self, mistake: Option<&Mistake>, stored: Option<&Record>) -> Done {
        let (kind, node, _) = self.parts();
        let Some(before) = stored else {
            return self.on(None);
        };
        let done = || self.on(Some(before.clone()));
        match mistake {
            Some(Sees(of, change)) if *of == kind => {
                let (mut request, mut record) = (self.clone(), before.clone());
                change(&mut request, &mut record);
                request.on(Some(record))
            }
            Some(Makes(of, change)) if *of == kind => done().map(|mut after| {
                change(node, before, &mut after);
                after
            }),
            Some(Comes(of, change)) if *of == kind => change(node, before, done()),
            _ => done(),
        }
    }
}

/// A cluster, and its expected state.
#[derive(Default)]
struct World<'a> {
    mistake: Option<&'a Mistake>,
    secret: Option<SecretHash>,
    /// By the slowest clock.
    now: Timestamp,
    record: Option<Record>,
    requests: Vec<Request>,
    /// The last generation that each node got.
    known_generations: BTreeMap<String, u64>,
    /// The node that was to initialize in each generation.
    initializers: BTreeMap<u64, String>,
    generation: u64,
    initial: String,
    initial_uuid: Option<String>,
    previous: Vec<String>,
    /// Whether the first node has given its claim up.
    is_given_up: bool,
    rival: Option<String>,
    lease_end: Option<Timestamp>,
    kept_until: Option<Timestamp>,
    is_forgotten: bool,
    members: BTreeSet<String>,
    /// All statements of nodes with the secret: node, UUID and authority.
    attested: BTreeSet<(String, String, Option<Fingerprint>)>,
    /// The members whose last report has their own attestation.
    proven: BTreeSet<String>,
}

fn id() -> ClusterId {
    ClusterId::new("c").unwrap()
}

fn node(number: usize) -> Node {
    Node::new(format!("node-{number}")).unwrap()
}

fn keys() -> &'static ClusterKeys {
    static KEYS: OnceLock<ClusterKeys> = OnceLock::new();
    KEYS.get_or_init(|| ClusterKeys::derive(b"the operator's secret", &id()))
}

fn authority(number: u8) -> Fingerprint {
    Fingerprint::of_certificate(&[number])
}

fn server_uuid(caller: Caller) -> Option<Uuid> {
    let number = caller.server?;
    Some(Uuid::new(format!("{}-{number}", caller.node)).unwrap())
}

fn hold(holds: bool, property: Property) -> Verdict {
    if holds { Ok(()) } else { Err(property) }
}

/// Takes the steps, with this mistake in the rules or none, up to the first property that does not hold.
fn play(mistake: Option<&Mistake>, (has_secret, steps): &(bool, Vec<Step>)) -> Verdict {
    let mut world = World {
        mistake,
        secret: has_secret.then(|| SecretHash::new(&id(), b"right")),
        now: Timestamp::from_second(1_700_000_000).unwrap(),
        ..World::default()
    };
    steps.iter().try_for_each(|step| world.take(step))
}

impl World<'_> {
    fn take(&mut self, step: &Step) -> Verdict {
        self.now += Duration::from_secs(step.wait);
        let clock = self.now + Duration::from_secs(step.fast);
        let request = match &step.action {
            Action::Claim(caller, lease) => Request::Claim(Claim {
                cluster_id: id(),
                node: node(caller.node),
                node_uuid: server_uuid(*caller),
                lease: lease.map(Duration::from_secs),
                secret: self.secret(*caller),
                now: clock,
            }),
            Action::Ready(caller, generation, uuid, proof) => {
                let cluster_uuid = uuid.map(|uuid| Uuid::new(uuid).unwrap());
                let (authority, attestation) =
                    self.proof(&node(caller.node), cluster_uuid.as_ref(), proof);
                Request::Ready(Ready {
                    cluster_id: id(),
                    node: node(caller.node),
                    node_uuid: server_uuid(*caller),
                    generation: self.generation_of(*caller, *generation),
                    cluster_uuid,
                    authority,
                    attestation,
                    secret: self.secret(*caller),
                    now: clock,
                })
            }
            Action::Leave(caller, generation) => Request::Leave(Leave {
                cluster_id: id(),
                node: node(caller.node),
                node_uuid: server_uuid(*caller),
                generation: self.generation_of(*caller, *generation),
                secret: self.secret(*caller),
                now: clock,
            }),
            Action::Status => return self.read(clock),
            Action::Forget => {
                self.forget(clock);
                return Ok(());
            }
            Action::Again(_) if self.requests.is_empty() => return Ok(()),
            Action::Again(index) => index.get(&self.requests).clone().at(clock),
            Action::Crowd => {
                self.crowd();
                return Ok(());
            }
        };
        self.requests.push(request.clone());
        self.deliver(&request)
    }

    fn generation_of(&self, caller: Caller, generation: Generation) -> Option<u64> {
        let known = self.known_generations.get(node(caller.node).as_str()).copied();
        match generation {
            Generation::Missing => None,
            Generation::Known => known,
            Generation::Invented => Some(known.unwrap_or_default() + 1),
        }
    }

    fn proof(
        &mut self,
        node: &Node,
        uuid: Option<&Uuid>,
        proof: &Proof,
    ) -> (Option<Fingerprint>, Option<Attestation>) {
        match (proof, uuid) {
            (Proof::Own(number), Some(uuid)) => {
                let authority = number.map(authority);
                let statement =
                    Statement { cluster_id: &id(), node, cluster_uuid: uuid, authority };
                let [name, uuid] = [node.as_str(), uuid.as_str()].map(str::to_owned);
                self.attested.insert((name, uuid, authority));
                (authority, Some(keys().attest(&statement)))
            }
            (Proof::Replayed(index, number), _) => {
                let reports = self.requests.iter().filter_map(|request| match request {
                    Request::Ready(ready) => Some((ready.authority, ready.attestation?)),
                    _ => None,
                });
                let reports: Vec<_> = reports.collect();
                if reports.is_empty() {
                    return (None, None);
                }
                let (theirs, attestation) = *index.get(&reports);
                (number.map(authority).or(theirs), Some(attestation))
            }
            (Proof::Invented(byte), _) => {
                (Some(authority(*byte)), Attestation::from_bytes(&[*byte; 32]))
            }
            _ => (None, None),
        }
    }

    /// By the clock of the request.
    fn has_ended(&self, clock: Timestamp) -> bool {
        let has_expired =
            self.lease_end.is_none() && self.kept_until.is_some_and(|end| end < clock);
        self.is_forgotten || has_expired
    }

    fn forget(&mut self, clock: Timestamp) {
        let Some(record) = self.record.take() else {
            return;
        };
        self.record = Some(rules::forget(record, clock));
        self.is_forgotten = true;
        if let Some(Forgets(change)) = self.mistake {
            change(&mut self.record);
        }
    }

    /// How long the record is kept after a request.
    fn keep(&self) -> Duration {
        if self.lease_end.is_some() { KEEP_ABANDONED } else { KEEP_UNASKED }
    }

    /// A request renews the record.
    fn renew(&mut self, record: &mut Record, clock: Timestamp) {
        record.kept_until = record.renewal(clock).or(record.kept_until);
        let end = clock + self.keep();
        if self.kept_until.is_some_and(|kept| kept + RENEW_EVERY <= end) {
            self.kept_until = Some(end);
        }
    }

    fn read(&mut self, clock: Timestamp) -> Verdict {
        let Some(before) = self.record.take() else {
            return Ok(());
        };
        let mut after = before.clone();
        if !self.has_ended(clock) {
            self.renew(&mut after, clock);
        }
        if let Some(Renews(change)) = self.mistake {
            change(&before, &mut after);
        }
        let is_kept = self.is_forgotten || after.kept_until == self.kept_until;
        self.record = Some(after);
        hold(is_kept, P::AskedIsKept)
    }

    fn secret(&self, caller: Caller) -> Option<SecretHash> {
        match &self.secret {
            secret if caller.has_secret => secret.clone(),
            Some(_) => None,
            None => Some(SecretHash::new(&id(), b"wrong")),
        }
    }

    fn crowd(&mut self) {
        let Some(record) = &mut self.record else {
            return;
        };
        let room = MAX_MEMBERS.saturating_sub(record.members.len() + 1);
        if record.state == State::Ready && !record.is_forgotten {
            let member = Member {
                reported_at: self.now,
                node_uuid: None,
                authority: None,
                attestation: None,
            };
            let others = (0..room).map(|number| format!("other-{number}"));
            for other in others {
                record.members.insert(other.clone(), member.clone());
                self.members.insert(other);
            }
        }
    }

    fn deliver(&mut self, request: &Request) -> Verdict {
        let (before, node) = (self.record.take(), request.node());
        let clock = request.clock();
        let done = request.mistaken(self.mistake, before.as_ref());
        let mut after = match done {
            Ok(after) => after,
            Err(refusal) => {
                let verdict = self.refused(request, before.as_ref(), &refusal);
                self.record = before;
                if let (Refusal::NameTaken { .. }, Request::Claim(claim)) = (&refusal, request) {
                    self.record = self.record.take().map(|record| claim.noted_on(record));
                    self.rival = claim.node_uuid.as_ref().map(|uuid| uuid.as_str().to_owned());
                }
                return verdict;
            }
        };
        let is_admitted = |record: &Record| record.secret.as_ref() == request.secret();
        let current = before.as_ref().filter(|_| !self.has_ended(clock));
        let is_secret = is_admitted(&after) && current.is_none_or(is_admitted);
        hold(is_secret, P::SecretIsAsked)?;
        let is_claim = matches!(request, Request::Claim(_));
        hold(is_claim || current.is_some() || before.is_none(), P::EndedIsEnded)?;
        let current = current.cloned();

        let mut answer = after.clone().answer(Some(&Node::new(node).unwrap()), clock);
        if let Some(Tells(change)) = self.mistake {
            change(before.as_ref() != Some(&after), &mut answer);
        }
        if answer.is_initial_node && answer.state == State::Claimed {
            let initializer = self.initializers.entry(answer.generation);
            let initializer = initializer.or_insert_with(|| node.to_owned());
            hold(initializer == node, P::OneInitializer)?;
        }
        match request {
            Request::Claim(claim) => self.claimed(claim, current.as_ref(), &mut after)?,
            Request::Ready(ready) => self.reported(ready, current.as_ref(), &after)?,
            Request::Leave(leave) => self.left(leave, current.as_ref(), &after)?,
        }
        if let Some(before) = &current {
            let stays = before.state == State::Claimed || after.state == State::Ready;
            hold(stays, P::ReadyIsFinal)?;
            let uuid = &before.cluster_uuid;
            let stays = uuid.is_none() || *uuid == after.cluster_uuid;
            hold(stays, P::UuidIsFinal)?;
        }
        hold(after.initial_node == self.initial, P::WinnerStays)?;
        let is_initial = node == self.initial;
        hold(answer.is_initial_node == is_initial, P::WinnerIsAnswered)?;
        let (nodes, to_join) = (&answer.nodes, &answer.initial_node_ip_addr_or_hostname);
        let fit = nodes.len() <= MAX_MEMBERS;
        hold(fit && nodes.iter().eq(&self.members), P::MembersReported)?;
        let is_claim = answer.state == State::Claimed;
        hold(is_claim || nodes.contains(to_join), P::MemberToJoin)?;

        hold(answer.previous_initial_nodes == self.previous, P::PreviousAreNamed)?;
        hold(answer.rival_node_uuid == self.rival, P::NameIsOne)?;
        self.verify(&answer)?;

        self.known_generations.insert(node.to_owned(), answer.generation);
        self.record = Some(after);
        Ok(())
    }

    /// Verifies the members as a joiner with the secret does.
    fn verify(&self, answer: &Cluster) -> Verdict {
        let Some(uuid) = &answer.cluster_uuid else {
            return Ok(());
        };
        let cluster_uuid = Uuid::new(uuid).unwrap();
        for member in &answer.members {
            let hash = member.authority_sha256.as_deref();
            let authority = hash.map(|hash| Fingerprint::from_hex(hash).unwrap());
            let attestation = member.attestation.as_deref();
            let attestation = attestation.map(|proof| Attestation::from_hex(proof).unwrap());
            let statement = Statement {
                cluster_id: &id(),
                node: &Node::new(&member.node).unwrap(),
                cluster_uuid: &cluster_uuid,
                authority,
            };
            let verify = match self.mistake {
                Some(Verifies(verify)) => *verify,
                _ => ClusterKeys::verify,
            };
            let is_verified = attestation.is_some_and(|proof| verify(keys(), &statement, &proof));
            let attested = (member.node.clone(), uuid.clone(), authority);
            hold(!is_verified || self.attested.contains(&attested), P::ForgedIsSeen)?;
            let is_proven = self.proven.contains(&member.node);
            hold(is_verified || !is_proven, P::AttestedIsSeen)?;
        }
        Ok(())
    }

    fn claimed(&mut self, claim: &Claim, current: Option<&Record>, after: &mut Record) -> Verdict {
        let node = claim.node.as_str();
        let lease_end = self.lease_end;
        let ended = |by| lease_end.is_some_and(|end| end < by);
        if after.generation == self.generation {
            let Some(before) = current else {
                return Err(P::EndedIsEnded);
            };
            let is_claimed = before.state == State::Claimed;
            let is_rival =
                is_claimed && node == self.initial && self.is_rival(claim.node_uuid.as_ref());
            hold(!is_rival, P::NameIsOne)?;
            self.renew(after, claim.now);
            let has_lapsed = is_claimed && ended(self.now - CLOCK_SKEW);
            return hold(!has_lapsed, P::LapsedIsTaken);
        }
        if let Some(before) = current {
            hold(before.state == State::Claimed, P::ReadyIsFinal)?;
            hold(ended(self.now), P::LeaseIsKept)?;
        }
        let has_expired = current.is_none() && self.generation > 0 && !self.is_forgotten;
        if current.is_some() || has_expired {
            self.previous = self.previous_to(node);
        } else {
            self.previous.clear();
        }
        if has_expired {
            self.previous.truncate(MAX_PREVIOUS);
        }
        hold(after.generation == self.generation + 1, P::GenerationsGrow)?;
        self.generation = after.generation;
        node.clone_into(&mut self.initial);
        self.initial_uuid = claim.node_uuid.as_ref().map(|uuid| uuid.as_str().to_owned());
        self.rival = None;
        self.is_given_up = false;
        self.lease_end = claim.lease.map(|lease| claim.now + lease);
        self.kept_until =
            Some(self.lease_end.map_or(claim.now + KEEP_UNASKED, |end| end + KEEP_ABANDONED));
        self.is_forgotten = false;
        self.members.clear();
        self.proven.clear();
        Ok(())
    }

    /// The nodes that had the cluster before a claim of this node and may have initialized it.
    fn previous_to(&self, node: &str) -> Vec<String> {
        let initial = Some(&self.initial).filter(|_| !self.is_given_up);
        let others = self.members.iter().chain(&self.previous);
        let others = others.filter(|other| **other != self.initial);
        initial.into_iter().chain(others).filter(|other| *other != node).cloned().collect()
    }

    /// Whether this is another server than the one with the claim, if both have a UUID.
    fn is_rival(&self, uuid: Option<&Uuid>) -> bool {
        let known = self.initial_uuid.as_deref();
        uuid.is_some_and(|uuid| known.is_some_and(|known| known != uuid.as_str()))
    }

    /// Whether a call with this UUID is valid for the first node of a claim.
    fn is_its_server(&self, uuid: Option<&Uuid>) -> bool {
        let known = self.initial_uuid.as_deref();
        known.is_none_or(|known| uuid.is_some_and(|uuid| known == uuid.as_str()))
    }

    fn reported(&mut self, ready: &Ready, before: Option<&Record>, after: &Record) -> Verdict {
        let (node, stored) = (ready.node.as_str(), before.map(|before| before.generation));
        let fits = ready.generation.is_none() || ready.generation == stored;
        hold(fits, P::StaleIsRefused)?;
        hold(stored == Some(after.generation), P::GenerationsGrow)?;
        let was_ready = before.is_some_and(|before| before.state == State::Ready);
        hold(was_ready || node == self.initial, P::JoinersWait)?;
        hold(after.state == State::Ready, P::ReportIsAccepted)?;
        if !was_ready {
            hold(self.is_its_server(ready.node_uuid.as_ref()), P::NameIsOne)?;
            self.previous.clear();
            self.lease_end = None;
            self.is_given_up = false;
            self.kept_until = Some(ready.now + KEEP_UNASKED);
        }
        self.members.insert(node.to_owned());
        let uuid = after.cluster_uuid.as_deref().unwrap_or_default();
        let statement = (node.to_owned(), uuid.to_owned(), ready.authority);
        let cluster_uuid = Uuid::new(uuid).ok();
        let is_true = ready.attestation.is_some_and(|proof| {
            cluster_uuid.is_some_and(|uuid| {
                let statement = Statement {
                    cluster_id: &id(),
                    node: &ready.node,
                    cluster_uuid: &uuid,
                    authority: ready.authority,
                };
                proof == keys().attest(&statement)
            })
        });
        if is_true && self.attested.contains(&statement) {
            self.proven.insert(node.to_owned());
        } else {
            self.proven.remove(node);
        }
        Ok(())
    }

    fn left(&mut self, leave: &Leave, before: Option<&Record>, after: &Record) -> Verdict {
        let node = leave.node.as_str();
        let stored = before.map(|before| before.generation);
        hold(stored == Some(after.generation), P::GenerationsGrow)?;
        let fits = leave.generation.is_none() || leave.generation == stored;
        hold(fits, P::LeaveIsFenced)?;
        self.members.remove(node);
        self.proven.remove(node);
        if node == self.initial {
            if after.state == State::Ready {
                hold(!self.members.is_empty(), P::LastStays)?;
                hold(after.initial_node != node, P::WinnerStays)?;
                after.initial_node.clone_into(&mut self.initial);
                self.rival = None;
            } else {
                let lapsed = leave.now - CLOCK_SKEW - Duration::from_secs(1);
                self.lease_end = Some(lapsed);
                self.kept_until = Some(lapsed + KEEP_ABANDONED);
                self.is_given_up = true;
            }
        }
        Ok(())
    }

    fn refused(&self, request: &Request, before: Option<&Record>, refusal: &Refusal) -> Verdict {
        let Some(before) = before else {
            return hold(*refusal == Refusal::NotFound, P::SecretIsAsked);
        };
        if self.has_ended(request.clock()) {
            let is_claim = matches!(request, Request::Claim(_));
            let is_not_found = *refusal == Refusal::NotFound;
            return hold(!is_claim && is_not_found, P::EndedIsEnded);
        }
        if before.secret.as_ref() != request.secret() {
            return hold(*refusal == Refusal::Forbidden, P::SecretIsAsked);
        }
        let node = request.node();
        let is_claimed_by_it = before.state == State::Claimed && node == self.initial;
        let is_name_taken = |uuid: &Option<Uuid>| {
            matches!(refusal, Refusal::NameTaken { .. })
                && is_claimed_by_it
                && self.is_rival(uuid.as_ref())
        };
        let is_not_its_server = |uuid: &Option<Uuid>| {
            matches!(refusal, Refusal::NameTaken { .. })
                && is_claimed_by_it
                && !self.is_its_server(uuid.as_ref())
        };
        match request {
            Request::Claim(_) if *refusal == Refusal::TooManyTakeovers => {
                hold(self.previous_to(node).len() > MAX_PREVIOUS, P::PreviousAreNamed)
            }
            Request::Claim(claim) => hold(is_name_taken(&claim.node_uuid), P::ClaimIsAnswered),
            Request::Ready(ready) => {
                let is_own = ready.generation.is_none_or(|own| own == before.generation);
                let is_other = matches!(refusal, Refusal::OtherCluster { .. });
                let must = node == self.initial
                    && is_own
                    && !is_other
                    && !is_not_its_server(&ready.node_uuid);
                let has_room =
                    before.members.contains_key(node) || before.members.len() < MAX_MEMBERS;
                hold(!must || !has_room, P::ReportIsAccepted)
            }
            Request::Leave(leave) => {
                let is_stale = leave.generation.is_some_and(|given| given != self.generation);
                let is_last = self.members.iter().eq([node]);
                match refusal {
                    Refusal::StaleGeneration { .. } => hold(is_stale, P::LeaveIsFenced),
                    Refusal::NameTaken { .. } => {
                        hold(is_not_its_server(&leave.node_uuid), P::NameIsOne)
                    }
                    refusal => hold(is_last && *refusal == Refusal::LastNode, P::LastStays),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn properties_hold_in_any_order_of_requests(story in story()) {
        prop_assert_eq!(play(None, &story), Ok(()));
    }
}

/// How long a claim with a lease is kept after its lease, or after the last status.
const KEEP_ABANDONED: Duration = Duration::from_hours(7 * 24);

const LONG_AGO: Option<Timestamp> = Some(Timestamp::UNIX_EPOCH);

/// Mistakes that violate the property.
#[expect(clippy::too_many_lines, reason = "it is a list")]
fn mistakes(property: Property) -> Vec<Mistake> {
    match property {
        P::OneInitializer => vec![
            Tells(|_, cluster| cluster.is_initial_node = true),
            // A takeover keeps the generation.
            Makes(Claims, |_, before, after| {
                after.generation = before.generation;
            }),
        ],
        P::WinnerStays => vec![
            Makes(Claims, |node, _, after| {
                node.clone_into(&mut after.initial_node);
            }),
            Makes(Reports, |node, _, after| {
                node.clone_into(&mut after.initial_node);
            }),
        ],
        P::WinnerIsAnswered => vec![
            // Only once.
            Tells(|is_new, cluster| cluster.is_initial_node &= is_new),
            Tells(|_, cluster| cluster.is_initial_node &= cluster.state == State::Claimed),
        ],
        P::ClaimIsAnswered => vec![Comes(Claims, |_, before, done| match before.state {
            State::Claimed => done,
            State::Ready => Err(Refusal::LastNode),
        })],
        P::LeaseIsKept => vec![
            Sees(Claims, |_, record| record.lease_expires_at = LONG_AGO),
            // Claims without a lease have the shortest one.
            Sees(Claims, |_, record| {
                let least = record.claimed_at.map(|at| at + Duration::from_secs(30));
                record.lease_expires_at = record.lease_expires_at.or(least);
            }),
            // All clocks are the same.
            Sees(Claims, |_, record| {
                record.lease_expires_at = record.lease_expires_at.map(|end| end - CLOCK_SKEW);
            }),
        ],
        P::LapsedIsTaken => vec![
            Sees(Claims, |_, record| record.lease_expires_at = None),
            // A claim extends the lease.
            Makes(Claims, |_, _, after| {
                after.lease_expires_at = after.lease_expires_at.map(|end| end + CLOCK_SKEW);
            }),
            // A leave keeps the claim.
            Makes(Leaves, |_, before, after| {
                after.lease_expires_at = before.lease_expires_at;
            }),
        ],
        P::GenerationsGrow => vec![
            // By two.
            Makes(Claims, |_, before, after| {
                after.generation += after.generation - before.generation;
            }),
            Makes(Reports, |_, _, after| after.generation += 1),
            Makes(Leaves, |_, _, after| after.generation -= 1),
            // A forgotten record leaves nothing.
            Forgets(|record| *record = None),
            Forgets(|record| {
                if let Some(record) = record {
                    record.generation = 0;
                }
            }),
            // An expired one leaves nothing.
            Makes(Claims, |_, before, after| {
                if before.state == State::Ready && after.state == State::Claimed {
                    after.generation = 1;
                }
            }),
        ],
        P::EndedIsEnded => vec![
            Sees(Claims, |_, record| record.is_forgotten = false),
            Sees(Claims, |_, record| record.kept_until = None),
            Sees(Reports, |request, record| {
                record.is_forgotten = false;
                record.secret = request.secret().cloned();
            }),
            Sees(Reports, |_, record| record.kept_until = None),
            Sees(Leaves, |_, record| record.kept_until = None),
            Comes(
                Claims,
                |_, before, done| {
                    if before.is_forgotten { Err(Refusal::NotFound) } else { done }
                },
            ),
        ],
        P::AskedIsKept => vec![
            // A claim with a lease is deleted although nodes ask.
            Renews(|before, after| {
                if before.lease_expires_at.is_some() {
                    after.kept_until = before.kept_until;
                }
            }),
            Renews(|before, after| after.kept_until = before.kept_until),
        ],
        P::PreviousAreNamed => vec![
            // Only the last one.
            Makes(Claims, |_, _, after| {
                after.previous_initial_nodes.truncate(1);
            }),
            Makes(Claims, |_, _, after| after.previous_initial_nodes.clear()),
            Makes(Claims, |_, _, after| after.previous_initial_nodes.reverse()),
            // The node itself.
            Makes(Claims, |node, before, after| {
                if after.generation > before.generation {
                    after.previous_initial_nodes.push(node.to_owned());
                }
            }),
            // Nodes that gave their claims up, or none of the others.
            Sees(Claims, |_, record| record.is_given_up = false),
            Sees(Claims, |_, record| record.is_given_up = true),
            Makes(Leaves, |_, _, after| after.is_given_up = false),
            // Only the first node of an expired record.
            Sees(Claims, |request, record| {
                if record.is_gone(request.clock()) {
                    record.members.clear();
                }
            }),
            // Those of a forgotten record.
            Makes(Claims, |_, before, after| {
                if before.is_forgotten {
                    after.previous_initial_nodes.push(before.initial_node.clone());
                }
            }),
            Makes(Reports, |_, before, after| {
                after.previous_initial_nodes.clone_from(&before.previous_initial_nodes);
            }),
        ],
        P::NameIsOne => vec![
            Sees(Claims, |_, record| record.initial_node_uuid = None),
            Sees(Reports, |_, record| record.initial_node_uuid = None),
            // The first does not learn of it.
            Makes(Claims, |_, _, after| after.rival_node_uuid = None),
            // A rival of an earlier claim is kept.
            Makes(Claims, |_, before, after| {
                after.rival_node_uuid.clone_from(&before.rival_node_uuid);
            }),
            // The next node to join gets that of the one that left.
            Makes(Leaves, |_, before, after| {
                after.rival_node_uuid.clone_from(&before.rival_node_uuid);
            }),
        ],
        P::LeaveIsFenced => vec![
            Sees(Leaves, |request, _| {
                if let Request::Leave(leave) = request {
                    leave.generation = None;
                }
            }),
            // Without a generation it is refused, too.
            Comes(Leaves, |_, before, _| {
                Err(Refusal::StaleGeneration { given: 0, current: before.generation })
            }),
        ],
        P::ForgedIsSeen => vec![
            // Another member's attestation.
            Verifies(|keys, statement, proof| {
                (0..8).any(|number| {
                    let node = &node(number);
                    keys.verify(&Statement { node, ..*statement }, proof)
                })
            }),
            // One of another cluster of the same name.
            Verifies(|keys, statement, proof| {
                ["u", "v"].into_iter().any(|uuid| {
                    let cluster_uuid = &Uuid::new(uuid).unwrap();
                    keys.verify(&Statement { cluster_uuid, ..*statement }, proof)
                })
            }),
            // One about another authority.
            Verifies(|keys, statement, proof| {
                [None, Some(0), Some(1)].into_iter().any(|number| {
                    let authority = number.map(authority);
                    keys.verify(&Statement { authority, ..*statement }, proof)
                })
            }),
            // Any.
            Verifies(|_, _, _| true),
        ],
        P::AttestedIsSeen => vec![
            Verifies(|_, _, _| false),
            Makes(Reports, |node, _, after| {
                if let Some(member) = after.members.get_mut(node) {
                    member.attestation = None;
                }
            }),
            // The first report stays.
            Makes(Reports, |node, before, after| {
                if let Some(member) = before.members.get(node) {
                    after.members.insert(node.to_owned(), member.clone());
                }
            }),
            // A report removes the attestations of the others.
            Makes(Reports, |node, _, after| {
                for (name, member) in &mut after.members {
                    if name != node {
                        member.attestation = None;
                    }
                }
            }),
        ],
        P::ReadyIsFinal => vec![
            Sees(Claims, |_, record| {
                record.state = State::Claimed;
                record.lease_expires_at = LONG_AGO;
            }),
            Makes(Leaves, |_, _, after| after.state = State::Claimed),
            Sees(Claims, |_, record| {
                if record.state == State::Ready {
                    record.kept_until = LONG_AGO;
                }
            }),
        ],
        P::UuidIsFinal => vec![
            Sees(Reports, |_, record| record.cluster_uuid = None),
            Makes(Leaves, |_, _, after| after.cluster_uuid = None),
        ],
        P::StaleIsRefused => vec![Sees(Reports, |request, _| {
            if let Request::Ready(ready) = request {
                ready.generation = None;
            }
        })],
        P::JoinersWait => vec![Sees(Reports, |_, record| record.state = State::Ready)],
        P::ReportIsAccepted => vec![
            Makes(Reports, |_, before, after| after.state = before.state),
            // Only of the first generation.
            Comes(Reports, |_, before, done| match before.generation {
                1 => done,
                _ => Err(Refusal::TooManyNodes),
            }),
        ],
        P::MembersReported => vec![
            Makes(Reports, |_, before, after| {
                after.members.clone_from(&before.members);
            }),
            Makes(Leaves, |_, before, after| {
                after.members.clone_from(&before.members);
            }),
            // There is no limit.
            Comes(Reports, |node, before, done| match done {
                Err(Refusal::TooManyNodes) => {
                    let mut after = before.clone();
                    let member = before.members.values().next().unwrap().clone();
                    after.members.insert(node.to_owned(), member);
                    Ok(after)
                }
                done => done,
            }),
        ],
        P::MemberToJoin => vec![Makes(Leaves, |_, _, after| {
            "someone".clone_into(&mut after.initial_node);
        })],
        P::LastStays => vec![
            Comes(Leaves, |_, before, done| match done {
                Err(Refusal::LastNode) => Ok(before.clone()),
                done => done,
            }),
            // Every member counts as the last.
            Comes(Leaves, |_, _, _| Err(Refusal::LastNode)),
        ],
        P::SecretIsAsked => vec![
            Sees(Claims, |request, record| {
                record.secret = request.secret().cloned();
            }),
            Sees(Reports, |request, record| {
                record.secret = request.secret().cloned();
            }),
            Sees(Leaves, |request, record| {
                record.secret = request.secret().cloned();
            }),
            // A takeover sets another.
            Makes(Claims, |_, before, after| {
                if after.generation > before.generation {
                    after.secret = None;
                }
            }),
            // The generation is checked before the secret.
            Comes(Reports, |_, before, done| match before.generation {
                1 => done,
                current => Err(Refusal::StaleGeneration { given: 1, current }),
            }),
        ],
    }
}

#[test]
fn mistakes_are_caught() {
    let mut runner = TestRunner::deterministic();
    let stories = (0..500).map(|_| story().new_tree(&mut runner).unwrap().current());
    let stories: Vec<_> = stories.collect();
    let mut missed = Vec::new();
    for property in PROPERTIES {
        for (mistake, number) in mistakes(property).iter().zip(1..) {
            let caught = stories.iter().filter_map(|story| play(Some(mistake), story).err());
            let caught: BTreeSet<_> = caught.collect();
            if !caught.contains(&property) {
                missed.push(format!("{property:?}, mistake {number}: {caught:?}"));
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
