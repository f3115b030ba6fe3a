//! The rules under any interleaving of claims, reports and leaves, late copies of them among it, by nodes whose requests
//! reach function instances with different clocks. Each [`Property`] is checked at each step, and for each there are mistakes
//! in the rules that break it.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cbbootstrap_function::{
    protocol::{
        CLOCK_SKEW, Claim, ClusterId, ClusterUuid, Leave, Node, Ready, Record, Refusal, SecretHash,
    },
    wire::{Cluster, MAX_NODES, State},
};
use jiff::Timestamp;
use proptest::{collection, prelude::*, sample, strategy::ValueTree, test_runner::TestRunner};

/// What holds at each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Property {
    /// In a generation one node at most is told to initialise.
    OneInitialiser,
    /// Whom to join is who won the claim; of a ready cluster, whom those that left made way for.
    WinnerStays,
    /// That node, and no other, is told that it is the one, however often it asks.
    WinnerIsTold,
    /// A claim is never refused.
    ClaimIsAnswered,
    /// A claim without a lease is never taken over, and no other before its lease has ended by every clock.
    LeaseIsKept,
    /// It is taken over by who asks after its lease has lapsed by every clock.
    LapsedIsTaken,
    /// Generations begin with 1 and grow by 1.
    GenerationsGrow,
    /// A ready cluster stays ready, in its generation.
    ReadyIsFinal,
    /// A ready cluster's UUID stays.
    UuidIsFinal,
    /// A report of another generation than the one that stands is refused.
    StaleIsRefused,
    /// A joiner's report is refused before the initial node's.
    JoinersWait,
    /// The initial node's report is accepted, with its own generation or none.
    ReportIsAccepted,
    /// Members are those that reported ready and did not leave, sorted, and no more than fit.
    MembersReported,
    /// The node to join of a ready cluster is a member.
    MemberToJoin,
    /// The last member cannot leave, and everybody else can.
    LastStays,
    /// Who has not the secret changes nothing and learns nothing.
    SecretIsAsked,
}
use Property as P;

const PROPERTIES: [Property; 16] = [
    P::OneInitialiser,
    P::WinnerStays,
    P::WinnerIsTold,
    P::ClaimIsAnswered,
    P::LeaseIsKept,
    P::LapsedIsTaken,
    P::GenerationsGrow,
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

/// A mistake in the rules for one kind of request, or in what is told.
enum Mistake {
    /// The rules see something else.
    Sees(Kind, fn(&mut Request, &mut Record)),
    /// What stood before becomes something else.
    Makes(Kind, fn(&str, &Record, &mut Record)),
    /// They come to something else.
    Comes(Kind, fn(&str, &Record, Done) -> Done),
    /// The node is told something else; whether its request has changed the record.
    Tells(fn(bool, &mut Cluster)),
}
use Mistake::{Comes, Makes, Sees, Tells};

/// One thing that happens.
#[derive(Clone, Debug)]
struct Step {
    /// The seconds that pass before it.
    wait: u64,
    /// By how many seconds the clock of the instance that serves it is fast.
    fast: u64,
    action: Action,
}

#[derive(Clone, Debug)]
enum Action {
    Claim(Caller, Option<u64>),
    Ready(Caller, Generation, Option<&'static str>),
    Leave(Caller),
    /// An earlier request arrives once more.
    Again(sample::Index),
    /// Others report ready, if it is, until there is room for one more.
    Crowd,
}

#[derive(Clone, Copy, Debug)]
struct Caller {
    node: usize,
    has_secret: bool,
}

/// What a node says of its generation.
#[derive(Clone, Copy, Debug)]
enum Generation {
    /// Nothing.
    Untold,
    /// The one that it heard of last.
    Told,
    /// One that nobody was told.
    Invented,
}

/// Up to eight nodes and some steps; whether the cluster has a secret.
fn story() -> impl Strategy<Value = (bool, Vec<Step>)> {
    let steps = (2..=8_usize).prop_flat_map(|nodes| collection::vec(step(nodes), 1..80));
    (any::<bool>(), steps)
}

fn step(nodes: usize) -> impl Strategy<Value = Step> {
    let wait = prop_oneof![4 => 0..3_u64, 2 => 25..45_u64, 1 => 80..200_u64];
    let fast = 0..=CLOCK_SKEW.as_secs();
    (wait, fast, action(nodes)).prop_map(|(wait, fast, action)| Step { wait, fast, action })
}

fn action(nodes: usize) -> impl Strategy<Value = Action> {
    let caller = (0..nodes, prop::bool::weighted(0.95));
    let caller = caller.prop_map(|(node, has_secret)| Caller { node, has_secret });
    let lease = sample::select(vec![None, Some(30), Some(30), Some(60)]);
    let generation = prop_oneof![
        2 => Just(Generation::Untold),
        6 => Just(Generation::Told),
        1 => Just(Generation::Invented),
    ];
    let uuid = sample::select(vec![None, Some("u"), Some("u"), Some("v")]);
    prop_oneof![
        400 => (caller.clone(), lease).prop_map(|(caller, lease)| Action::Claim(caller, lease)),
        200 => (caller.clone(), generation, uuid)
            .prop_map(|(caller, generation, uuid)| Action::Ready(caller, generation, uuid)),
        100 => caller.prop_map(Action::Leave),
        200 => any::<sample::Index>().prop_map(Action::Again),
        2 => Just(Action::Crowd),
    ]
}

/// A request as the function sees it.
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

    fn secret(&self) -> Option<&SecretHash> {
        self.parts().2
    }

    /// The same, as an instance with this clock sees it.
    fn at(mut self, clock: Timestamp) -> Self {
        match &mut self {
            Self::Claim(claim) => claim.now = clock,
            Self::Ready(_) => {}
            Self::Leave(leave) => leave.now = clock,
        }
        self
    }

    fn on(&self, standing: Option<Record>) -> Done {
        match self {
            Self::Claim(claim) => claim.on(standing).map(|(_, record)| record),
            Self::Ready(ready) => ready.on(standing),
            Self::Leave(leave) => leave.on(standing),
        }
    }

    /// What the rules with this mistake make of what stands.
    fn mistaken(&self, mistake: Option<&Mistake>, standing: Option<&Record>) -> Done {
        let (kind, node, _) = self.parts();
        let Some(before) = standing else {
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

/// A cluster, and what is expected of it.
struct World<'a> {
    mistake: Option<&'a Mistake>,
    secret: Option<SecretHash>,
    /// By the slowest clock.
    now: Timestamp,
    record: Option<Record>,
    requests: Vec<Request>,
    /// The generation that each node was told last.
    told: BTreeMap<String, u64>,
    /// Who was told to initialise, in each generation.
    initialisers: BTreeMap<u64, String>,
    initial: String,
    lease_end: Option<Timestamp>,
    members: BTreeSet<String>,
}

fn id() -> ClusterId {
    ClusterId::new("c").unwrap()
}

fn node(number: usize) -> Node {
    Node::new(format!("node-{number}")).unwrap()
}

fn hold(holds: bool, property: Property) -> Verdict {
    if holds { Ok(()) } else { Err(property) }
}

/// Plays the story, with this mistake in the rules or none, up to the first property that does not hold.
fn play(mistake: Option<&Mistake>, (has_secret, steps): &(bool, Vec<Step>)) -> Verdict {
    let mut world = World {
        mistake,
        secret: has_secret.then(|| SecretHash::of(&id(), b"right")),
        now: Timestamp::from_second(1_700_000_000).unwrap(),
        record: None,
        requests: Vec::new(),
        told: BTreeMap::new(),
        initialisers: BTreeMap::new(),
        initial: String::new(),
        lease_end: None,
        members: BTreeSet::new(),
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
                lease: lease.map(Duration::from_secs),
                secret: self.secret(*caller),
                now: clock,
            }),
            Action::Ready(caller, generation, uuid) => {
                let node = node(caller.node);
                let told = self.told.get(node.as_str()).copied();
                Request::Ready(Ready {
                    cluster_id: id(),
                    generation: match generation {
                        Generation::Untold => None,
                        Generation::Told => told,
                        Generation::Invented => Some(told.unwrap_or_default() + 1),
                    },
                    cluster_uuid: uuid.map(|uuid| ClusterUuid::new(uuid).unwrap()),
                    secret: self.secret(*caller),
                    node,
                })
            }
            Action::Leave(caller) => Request::Leave(Leave {
                cluster_id: id(),
                node: node(caller.node),
                secret: self.secret(*caller),
                now: clock,
            }),
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

    fn secret(&self, caller: Caller) -> Option<SecretHash> {
        match &self.secret {
            secret if caller.has_secret => secret.clone(),
            Some(_) => None,
            None => Some(SecretHash::of(&id(), b"wrong")),
        }
    }

    fn crowd(&mut self) {
        let Some(record) = &mut self.record else {
            return;
        };
        let room = MAX_NODES.saturating_sub(record.nodes.len() + 1);
        if record.state == State::Ready {
            let others: Vec<_> = (0..room).map(|number| format!("other-{number}")).collect();
            record.nodes.extend(others.iter().cloned());
            self.members.extend(others);
        }
    }

    fn deliver(&mut self, request: &Request) -> Verdict {
        let (before, node) = (self.record.take(), request.node());
        let done = request.mistaken(self.mistake, before.as_ref());
        let after = match done {
            Ok(after) => after,
            Err(refusal) => {
                let verdict = self.refused(request, before.as_ref(), &refusal);
                self.record = before;
                return verdict;
            }
        };
        let is_admitted = |record: &Record| record.secret.as_ref() == request.secret();
        let is_secret = is_admitted(&after) && before.as_ref().is_none_or(is_admitted);
        hold(is_secret, P::SecretIsAsked)?;

        let mut answer = after.clone().answer(Some(&Node::new(node).unwrap()));
        if let Some(Tells(change)) = self.mistake {
            change(before.as_ref() != Some(&after), &mut answer);
        }
        if answer.is_initial_node && answer.state == State::Claimed {
            let initialiser = self.initialisers.entry(answer.generation);
            let initialiser = initialiser.or_insert_with(|| node.to_owned());
            hold(initialiser == node, P::OneInitialiser)?;
        }
        match request {
            Request::Claim(claim) => self.claimed(claim, before.as_ref(), &after)?,
            Request::Ready(ready) => self.reported(ready, before.as_ref(), &after)?,
            Request::Leave(leave) => self.left(leave, before.as_ref(), &after)?,
        }
        if let Some(before) = &before {
            let stays = before.state == State::Claimed || after.state == State::Ready;
            hold(stays, P::ReadyIsFinal)?;
            let uuid = &before.cluster_uuid;
            let stays = uuid.is_none() || *uuid == after.cluster_uuid;
            hold(stays, P::UuidIsFinal)?;
        }
        hold(after.initial_node == self.initial, P::WinnerStays)?;
        let is_initial = node == self.initial;
        hold(answer.is_initial_node == is_initial, P::WinnerIsTold)?;
        let (nodes, to_join) = (&answer.nodes, &answer.initial_node_ip_addr_or_hostname);
        let fit = nodes.len() <= MAX_NODES;
        hold(fit && nodes.iter().eq(&self.members), P::MembersReported)?;
        let is_claim = answer.state == State::Claimed;
        hold(is_claim || nodes.contains(to_join), P::MemberToJoin)?;

        self.told.insert(node.to_owned(), answer.generation);
        self.record = Some(after);
        Ok(())
    }

    fn claimed(&mut self, claim: &Claim, before: Option<&Record>, after: &Record) -> Verdict {
        let before = before.map(|before| (before.state, before.generation));
        let ended = |by| self.lease_end.is_some_and(|end| end < by);
        match before {
            Some((state, generation)) if generation == after.generation => {
                let has_lapsed = state == State::Claimed && ended(self.now - CLOCK_SKEW);
                return hold(!has_lapsed, P::LapsedIsTaken);
            }
            Some((state, _)) => {
                hold(state == State::Claimed, P::ReadyIsFinal)?;
                hold(ended(self.now), P::LeaseIsKept)?;
            }
            None => {}
        }
        let next = before.map_or(1, |(_, generation)| generation + 1);
        hold(after.generation == next, P::GenerationsGrow)?;
        claim.node.as_str().clone_into(&mut self.initial);
        self.lease_end = claim.lease.map(|lease| claim.now + lease);
        Ok(())
    }

    fn reported(&mut self, ready: &Ready, before: Option<&Record>, after: &Record) -> Verdict {
        let (node, standing) = (ready.node.as_str(), before.map(|before| before.generation));
        let fits = ready.generation.is_none() || ready.generation == standing;
        hold(fits, P::StaleIsRefused)?;
        hold(standing == Some(after.generation), P::GenerationsGrow)?;
        let was_ready = before.is_some_and(|before| before.state == State::Ready);
        hold(was_ready || node == self.initial, P::JoinersWait)?;
        hold(after.state == State::Ready, P::ReportIsAccepted)?;
        self.members.insert(node.to_owned());
        Ok(())
    }

    fn left(&mut self, leave: &Leave, before: Option<&Record>, after: &Record) -> Verdict {
        let node = leave.node.as_str();
        let standing = before.map(|before| before.generation);
        hold(standing == Some(after.generation), P::GenerationsGrow)?;
        self.members.remove(node);
        if node == self.initial {
            if after.state == State::Ready {
                hold(!self.members.is_empty(), P::LastStays)?;
                hold(after.initial_node != node, P::WinnerStays)?;
                after.initial_node.clone_into(&mut self.initial);
            } else {
                self.lease_end = Some(leave.lapsed());
            }
        }
        Ok(())
    }

    fn refused(&self, request: &Request, before: Option<&Record>, refusal: &Refusal) -> Verdict {
        let Some(before) = before else {
            return hold(*refusal == Refusal::NotFound, P::SecretIsAsked);
        };
        if before.secret.as_ref() != request.secret() {
            return hold(*refusal == Refusal::Forbidden, P::SecretIsAsked);
        }
        let node = request.node();
        match request {
            Request::Claim(_) => Err(P::ClaimIsAnswered),
            Request::Ready(ready) => {
                let is_own = ready.generation.is_none_or(|own| own == before.generation);
                let is_other = matches!(refusal, Refusal::OtherCluster { .. });
                let must = node == self.initial && is_own && !is_other;
                hold(!must, P::ReportIsAccepted)
            }
            Request::Leave(_) => {
                let is_last = self.members.iter().eq([node]);
                hold(is_last && *refusal == Refusal::LastNode, P::LastStays)
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_properties_hold(story in story()) {
        prop_assert_eq!(play(None, &story), Ok(()));
    }
}

const LONG_AGO: Option<Timestamp> = Some(Timestamp::UNIX_EPOCH);

/// Mistakes that break the property.
#[expect(clippy::too_many_lines, reason = "it is a list")]
fn mistakes(property: Property) -> Vec<Mistake> {
    match property {
        P::OneInitialiser => vec![
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
        P::WinnerIsTold => vec![
            // Once, and not when it asks again.
            Tells(|is_new, cluster| cluster.is_initial_node &= is_new),
            Tells(|_, cluster| cluster.is_initial_node &= cluster.state == State::Claimed),
        ],
        P::ClaimIsAnswered => vec![Comes(Claims, |_, before, done| match before.state {
            State::Claimed => done,
            State::Ready => Err(Refusal::LastNode),
        })],
        P::LeaseIsKept => vec![
            Sees(Claims, |_, record| record.lease_expires_at = LONG_AGO),
            // Who has no lease has the least one.
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
            // Who asks extends the lease.
            Makes(Claims, |_, _, after| {
                after.lease_expires_at = after.lease_expires_at.map(|end| end + CLOCK_SKEW);
            }),
            // Who leaves keeps its claim.
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
        ],
        P::ReadyIsFinal => vec![
            Sees(Claims, |_, record| {
                record.state = State::Claimed;
                record.lease_expires_at = LONG_AGO;
            }),
            Makes(Leaves, |_, _, after| after.state = State::Claimed),
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
            // Of the first generation alone.
            Comes(Reports, |_, before, done| match before.generation {
                1 => done,
                _ => Err(Refusal::TooManyNodes),
            }),
        ],
        P::MembersReported => vec![
            Makes(Reports, |_, before, after| {
                after.nodes.clone_from(&before.nodes);
            }),
            Makes(Leaves, |_, before, after| {
                after.nodes.clone_from(&before.nodes);
            }),
            // There is always room for one more.
            Comes(Reports, |node, before, done| match done {
                Err(Refusal::TooManyNodes) => {
                    let mut after = before.clone();
                    after.nodes.insert(node.to_owned());
                    Ok(after)
                }
                done => done,
            }),
        ],
        P::MemberToJoin => vec![Makes(Leaves, |_, _, after| {
            "somebody".clone_into(&mut after.initial_node);
        })],
        P::LastStays => vec![
            Comes(Leaves, |_, before, done| match done {
                Err(Refusal::LastNode) => Ok(before.clone()),
                done => done,
            }),
            // As if it were the last.
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
            // A stale report is told so first.
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
    for property in PROPERTIES {
        for (mistake, number) in mistakes(property).iter().zip(1..) {
            let caught = stories
                .iter()
                .filter_map(|story| play(Some(mistake), story).err());
            let caught: BTreeSet<_> = caught.collect();
            assert!(
                caught.contains(&property),
                "{property:?}, mistake {number}: {caught:?}"
            );
        }
    }
}
