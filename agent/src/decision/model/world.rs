//! The model: the API's record, the nodes' servers and their agents, and everything that can happen to them.
//!
//! [`decision::next_action`], [`Record::new`], [`decision::admission`] and the rules of the protocol are the real ones. What
//! `commands::up` does around them is repeated here in small, as [`Setup::round`] and [`Setup::act`].
//!
//! Time is relative to the present and passes in ticks of [`TICK`] seconds, at any point: an agent that does nothing while time
//! passes is paused. An agent that is killed begins again with an empty memory, and one that never does anything afterwards is
//! dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    rules::{self, Claim, Leave, Ready},
    wire::State,
};
use jiff::Timestamp;
use stateright::{Model, Property};

use crate::{
    decision::{
        self, Action, Admission, Asked, Extra, Goal, Inspection, LEASE_MARGIN, Memory, OwnServer,
        Refusal,
    },
    record::Record,
    server::{Health, INITIALISE_LIMIT, Membership, NodeInfo, View},
};

/// Seconds. As much as the clocks of two instances of the service may differ by.
pub(super) const TICK: i16 = 5;

/// No deadline further in the past makes a difference.
const LONG_AGO: i16 = -15;

/// The lease of each claim in seconds: the shortest that the service takes.
const LEASE: i16 = 30;

/// [`INITIALISE_LIMIT`] in ticks.
const INITIALISE_TICKS: u8 = 3;

const _: () = assert!(INITIALISE_LIMIT.as_secs() == INITIALISE_TICKS as u64 * TICK as u64);

/// The property that something happens at all.
pub(super) const READY: &str = "a cluster is ready";

/// A wrong variant of the agent or of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// Buckets, groups and addresses are settled before the report, and refusals are waited on.
    ExtrasFirst,
    /// Only a balanced cluster is reported.
    OnlyWhenBalanced,
    /// An own claim that has expired is claimed again before the report.
    ClaimsAgain,
    /// Nodes that lost the claim are not looked at.
    NoLook,
    /// Only the node that lost the claim last is known.
    LatestPrevious,
    /// The lease counts from the answer, which arrives up to 15 s after the claim was made.
    LeaseFromAnswer,
    /// The server is initialised as long as the lease lasts.
    NoMargin,
    /// A report does not say which claim it is for.
    UnfencedReady,
    /// A leave does not say which claim it is for.
    UnfencedLeave,
    /// A forgotten record leaves nothing behind.
    NoTombstone,
    /// A name is not bound to the UUID of the server.
    Nameless,
}

/// What the agent did before the report came first.
pub(super) const BEFORE: &[Mutant] =
    &[Mutant::ExtrasFirst, Mutant::OnlyWhenBalanced, Mutant::ClaimsAgain, Mutant::NoLook];

/// What must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Broken {
    /// A second server was initialised although no agent overslept and the first could be seen.
    SecondCluster,
    /// Two clusters are believed to be the recorded one.
    TwoBelieved,
    /// A server that belongs to a cluster was to be initialised, or to join another.
    TouchedProvisioned,
    /// A blank server that cannot begin a cluster was claimed for.
    ClaimedUnfit,
    /// A server was initialised, its agent runs and the API answers, and nothing is recorded.
    NotReported,
    /// Left alone, the agents do not all end, or end without a cluster.
    Stuck,
    /// An agent acts again and again without a wait.
    Spins,
}

/// How often what goes wrong can still go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budgets {
    /// Agents that are killed and started again.
    pub kills: u8,
    /// Requests that arrive once more, or only later.
    pub copies: u8,
    /// Answers that are lost.
    pub losses: u8,
    /// Initialisations that the server refuses for good.
    pub refusals: u8,
    /// Initialisations that the server answers and does not carry out.
    pub ignores: u8,
    /// Records that an operator forgets while nothing is initialised.
    pub forgets: u8,
    /// Clusters that an operator ends: the record is forgotten and all servers are reset.
    pub resets: u8,
}

/// What is to be explored.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// The nodes, by the numbers of their names.
    pub names: Vec<u8>,
    /// The nodes without the data service.
    pub unfit: Vec<usize>,
    /// Whether a server already belongs to another cluster.
    pub foreign: Option<usize>,
    /// A server that was initialised by an agent that died before it reported.
    pub abandoned: Option<usize>,
    pub mutants: &'static [Mutant],
    /// Whether servers say their UUIDs.
    pub tells_uuid: bool,
    /// Whether an agent whose server refuses its initialisation gives the claim up although an earlier call may be carried out.
    pub leaves_too_early: bool,
    /// Whether buckets, groups and addresses are goal, and all of them refused for good.
    pub extras_refused: bool,
    /// Whether the servers' services never come up.
    pub services_down: bool,
    pub budgets: Budgets,
    /// Whether agents may be paused between the last look at the lease and the initialisation for longer than the margin.
    pub oversleeps: bool,
    /// Whether a server may be unreachable for the node that inspections at it.
    pub partitions: bool,
    /// Whether the clocks of the service's instances differ.
    pub skew: bool,
    /// Whether time passes at all.
    pub ticks: bool,
    /// The claims that are explored.
    pub generations: u8,
    /// One in so many states is continued without faults to see where it leads; 0 for none.
    pub continue_one_in: u64,
}

impl Budgets {
    pub(super) const NONE: Self =
        Self { kills: 0, copies: 0, losses: 0, refusals: 0, ignores: 0, forgets: 0, resets: 0 };
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            names: vec![0, 1],
            unfit: Vec::new(),
            foreign: None,
            abandoned: None,
            mutants: &[],
            tells_uuid: true,
            leaves_too_early: false,
            extras_refused: false,
            services_down: false,
            budgets: Budgets::default(),
            oversleeps: false,
            partitions: false,
            skew: true,
            ticks: true,
            generations: 4,
            continue_one_in: 0,
        }
    }
}

/// A server's number, and how often it was reset: together its UUID, and that of the cluster that it begins.
type Incarnation = (u8, u8);

/// The API's record, with names as numbers and times relative to the present.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Row {
    first: u8,
    first_server: Option<Incarnation>,
    previous: Vec<u8>,
    pub is_ready: bool,
    pub generation: u8,
    /// Seconds.
    lease_left: Option<i16>,
    is_given_up: bool,
    is_forgotten: bool,
    members: Vec<u8>,
    pub cluster: Option<Incarnation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub cluster: Option<Incarnation>,
    resets: u8,
    /// `/clusterInit`, on its way.
    init: Option<Flight>,
    /// Whether its agent overslept before it was initialised.
    overslept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flight {
    ticks: u8,
    overslept: bool,
    /// Whether the agent could not see a server that had been initialised.
    was_blind: bool,
    /// Whether it was sent again while it was under way.
    is_doubled: bool,
}

/// An agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Agent {
    pub phase: Phase,
    /// The record that the phase follows from, or the final one.
    asked: Option<Row>,
    /// The claim that inspections and deadlines belong to: its generation, and its end in seconds from now by this node's clock.
    claim: Option<(u8, Option<i16>)>,
    /// What is left of the lease of `asked`.
    lease_left: Option<i16>,
    inspections: BTreeMap<u8, bool>,
    was_blind: bool,
    occupied: Option<(u8, i16)>,
    has_initialised: bool,
    /// An earlier `/clusterInit` of this run was not answered.
    may_be_under_way: bool,
    is_reported: bool,
    are_extras_settled: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// The next round begins, or the agent waits.
    #[default]
    Idle,
    /// It has decided, and does it next.
    Chosen(Act),
    /// It has looked at the lease for the last time, and calls `/clusterInit` next.
    Checked,
    /// It waits for the answer of `/clusterInit`.
    Initialising,
    Ended(End),
}

/// What is done in a step of its own, with names as numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Act {
    Inspect(Vec<u8>),
    GiveUpClaim(u8),
    Initialise,
    Join,
    Report(Incarnation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// Exit status 0 or 6.
    Member(Incarnation),
    /// Exit status 5: there is another cluster.
    OtherCluster,
    /// Exit status 5: a node that lost its claim has a cluster.
    Occupied,
    /// Exit status 5 for another reason.
    Refused,
    /// Exit status 1.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Request {
    Claim(u8, Option<Incarnation>),
    Status,
    Ready { name: u8, server: Option<Incarnation>, generation: Option<u8>, cluster: Incarnation },
    Leave { name: u8, server: Option<Incarnation>, generation: Option<u8> },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub record: Option<Row>,
    pub servers: Vec<Server>,
    pub agents: Vec<Agent>,
    late: BTreeSet<Request>,
    budgets: Budgets,
    /// The cluster that an agent knows to be the recorded one.
    believed: Option<Incarnation>,
    pub broken: Option<Broken>,
}

/// How a call to the API goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Call {
    /// Whether the instance that answers has a fast clock.
    is_fast: bool,
    /// Whether the request arrives again later.
    is_copied: bool,
    /// Whether the answer is lost.
    is_lost: bool,
    /// Whether the request arrives only later.
    is_late: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Looks at the server, asks the API and decides.
    Round(usize, Call),
    /// Does what was decided. The flag says that servers cannot be seen.
    Do(usize, Call, bool),
    /// `/clusterInit` is sent.
    Send(usize),
    /// `/clusterInit` is carried out; the flag says whether the answer arrives.
    Effect(usize, bool),
    /// `/clusterInit` is refused for good.
    Refuse(usize),
    /// `/clusterInit` is answered and not carried out.
    Ignore(usize),
    /// The connection breaks while `/clusterInit` is under way.
    Break(usize),
    Kill(usize),
    /// A late request arrives.
    Arrive(Request, bool),
    Forget,
    Reset,
    Tick,
}

enum Reply {
    Row(Row),
    NotFound,
    Refused(rules::Refusal),
}

fn id() -> ClusterId {
    ClusterId::new("c").unwrap()
}

fn name(number: u8) -> Node {
    Node::new(format!("n{number}")).unwrap()
}

fn number(node: &str) -> u8 {
    node[1..].parse().unwrap()
}

fn uuid((server, resets): Incarnation) -> Uuid {
    Uuid::new(format!("{server}-{resets}")).unwrap()
}

fn incarnation(uuid: &str) -> Incarnation {
    let (server, resets) = uuid.split_once('-').unwrap();
    (server.parse().unwrap(), resets.parse().unwrap())
}

/// The present.
fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

/// As an instance of the service knows it.
fn clock(is_fast: bool) -> Timestamp {
    if is_fast { now() + rules::CLOCK_SKEW } else { now() }
}

fn seconds(time: i16) -> Duration {
    Duration::from_secs(u64::try_from(time).unwrap_or(0))
}

impl Row {
    fn to_record(&self) -> rules::Record {
        let member = rules::Member {
            reported_at: now(),
            node_uuid: None,
            authority: None,
            attestation: None,
        };
        let names =
            |numbers: &[u8]| numbers.iter().map(|number| format!("n{number}")).collect::<Vec<_>>();
        rules::Record {
            cluster_id: id().as_str().to_owned(),
            initial_node: format!("n{}", self.first),
            initial_node_uuid: self.first_server.map(|server| uuid(server).as_str().to_owned()),
            previous_initial_nodes: names(&self.previous),
            rival_node_uuid: None,
            is_given_up: self.is_given_up,
            state: if self.is_ready { State::Ready } else { State::Claimed },
            generation: u64::from(self.generation),
            claimed_at: None,
            lease_expires_at: self
                .lease_left
                .map(|left| now() + jiff::SignedDuration::from_secs(i64::from(left))),
            kept_until: None,
            is_forgotten: self.is_forgotten,
            members: names(&self.members).into_iter().map(|name| (name, member.clone())).collect(),
            cluster_uuid: self.cluster.map(|cluster| uuid(cluster).as_str().to_owned()),
            secret: None,
        }
    }

    fn of(record: &rules::Record) -> Self {
        let left = |end: Timestamp| {
            i16::try_from(end.as_second() - now().as_second()).unwrap().max(LONG_AGO)
        };
        Self {
            first: number(&record.initial_node),
            first_server: record.initial_node_uuid.as_deref().map(incarnation),
            previous: record.previous_initial_nodes.iter().map(|node| number(node)).collect(),
            is_ready: record.state == State::Ready,
            generation: u8::try_from(record.generation).unwrap(),
            lease_left: record.lease_expires_at.map(left),
            is_given_up: record.is_given_up,
            is_forgotten: record.is_forgotten,
            members: record.members.keys().map(|node| number(node)).collect(),
            cluster: record.cluster_uuid.as_deref().map(incarnation),
        }
    }

    /// What a node is told, as the agent validates it.
    fn answer(&self, asking: u8, is_fast: bool) -> Record {
        let answer = self.to_record().answer(Some(&name(asking)), clock(is_fast));
        Record::new(answer, &id(), Some(&name(asking))).unwrap()
    }

    fn is_lapsed(&self) -> bool {
        self.to_record().is_lapsed(now())
    }
}

impl Server {
    fn incarnation(&self, number: usize) -> Incarnation {
        (u8::try_from(number).unwrap(), self.resets)
    }
}

impl Server {
    /// One `/clusterInit` comes to nothing. One that was sent before is still under way.
    fn drop_init(&mut self) {
        self.init = self
            .init
            .filter(|init| init.is_doubled)
            .map(|init| Flight { is_doubled: false, ..init });
    }
}

impl Agent {
    fn is_running(&self) -> bool {
        !matches!(self.phase, Phase::Ended(_))
    }

    /// Waits, or begins the next round.
    fn rest(&mut self) {
        self.phase = Phase::Idle;
        self.asked.take_if(|row| !row.is_ready);
        if self.asked.is_none() {
            self.lease_left = None;
        }
    }

    fn end(&mut self, end: End) {
        *self = Self { phase: Phase::Ended(end), ..Self::default() };
    }

    /// Keeps an answer, as `commands::up` does: within a generation the lease is not renewed, and inspections count for one generation.
    fn learn(&mut self, row: Row, is_initial: bool, lease_left: Option<i16>) {
        let known = self.claim.filter(|(generation, _)| *generation == row.generation);
        if known.is_none() {
            self.inspections.clear();
            self.was_blind = false;
        }
        let ends = match (lease_left, known) {
            (Some(left), Some((_, Some(end)))) => Some(left.min(end)),
            (left, _) => left,
        };
        // The lease of another node's claim is only asked for again.
        self.claim = (is_initial || !self.inspections.is_empty()).then_some((row.generation, ends));
        self.lease_left = ends;
        self.asked = Some(row);
    }

    /// The record, as of now.
    fn record(&self, asking: u8) -> Option<Record> {
        let row = self.asked.as_ref()?;
        let lease_left = self.lease_left.map(seconds);
        Some(Record { lease_left, ..row.answer(asking, false) })
    }
}

impl Setup {
    fn has(&self, mutant: Mutant) -> bool {
        self.mutants.contains(&mutant)
    }

    fn goal(&self, node: usize) -> Goal {
        Goal {
            node: name(self.names[node]),
            can_begin: !self.unfit.contains(&node),
            trusts_members: true,
            buckets: if self.extras_refused { vec!["app".to_owned()] } else { Vec::new() },
            group: self.extras_refused.then(|| "zone".to_owned()),
            has_alternate_address: self.extras_refused,
            attests: false,
            adopt: false,
            settle: Duration::from_secs(5),
            lease: seconds(LEASE),
        }
    }

    /// A cluster, as the server of one of its nodes sees it.
    fn view(&self, world: &World, node: usize) -> Option<View> {
        let cluster = world.servers[node].cluster?;
        let members =
            world.servers.iter().enumerate().filter(|(_, server)| server.cluster == Some(cluster));
        let nodes = members.map(|(number, server)| NodeInfo {
            name: name(self.names[number]).host().to_string(),
            otp: format!("ns_1@{number}"),
            uuid: Some(uuid(server.incarnation(number))),
            membership: Membership::Active,
            is_recovering: false,
            health: Health::Healthy,
            uptime: Duration::from_hours(1),
            is_asked: number == node,
            group: None,
        });
        Some(View {
            uuid: uuid(cluster),
            nodes: nodes.collect(),
            is_balanced: !self.services_down,
            is_rebalancing: false,
            buckets: Vec::new(),
        })
    }

    fn own(&self, world: &World, node: usize) -> OwnServer {
        match self.view(world, node) {
            Some(view) => OwnServer::Member(view),
            None => OwnServer::Blank(Some(uuid(world.servers[node].incarnation(node)))),
        }
    }

    fn memory(agent: &Agent) -> Memory {
        let inspections = agent.inspections.iter();
        let look = |is_provisioned: bool| {
            if is_provisioned { Inspection::Provisioned } else { Inspection::Unreachable }
        };
        let settled = [Extra::Group, Extra::Bucket("app".to_owned()), Extra::AlternateAddress];
        Memory {
            same_for: Duration::from_hours(1),
            has_initialised: agent.has_initialised,
            inspections: inspections
                .map(|(number, is_provisioned)| (name(*number), look(*is_provisioned)))
                .collect(),
            occupied_by: agent.occupied.map(|(number, time)| (name(number), seconds(time))),
            is_reported: agent.is_reported,
            settled: if agent.are_extras_settled { settled.into() } else { BTreeSet::new() },
            ..Memory::default()
        }
    }

    /// The real decision, with what the mutants do to it.
    fn decide(&self, goal: &Goal, own: &OwnServer, asked: &Asked, memory: &Memory) -> Action {
        let mut asked = asked.clone();
        if let Asked::Record(record) = &mut asked {
            if self.has(Mutant::NoLook) {
                record.previous.clear();
            }
            if self.has(Mutant::NoMargin) && record.is_initial {
                record.lease_left = record.lease_left.map(|left| left + LEASE_MARGIN);
            }
            if let OwnServer::Member(_) = own
                && record.is_initial
                && record.state == State::Claimed
            {
                if self.has(Mutant::ClaimsAgain) && record.lease_left == Some(Duration::ZERO) {
                    return Action::Claim;
                }
                // What comes after the report.
                let reported = Asked::Record(Record { state: State::Ready, ..record.clone() });
                let after = decision::next_action(
                    goal,
                    own,
                    &reported,
                    &Memory { is_reported: true, ..memory.clone() },
                );
                match after {
                    Action::Settle(_) if self.has(Mutant::ExtrasFirst) => return after,
                    Action::Wait(_) | Action::Rebalance { .. }
                        if self.has(Mutant::OnlyWhenBalanced) =>
                    {
                        return after;
                    }
                    _ => {}
                }
            }
        }
        decision::next_action(goal, own, &asked, memory)
    }

    /// What the API makes of a request, by the real rules, with what the mutants do to them.
    fn answer(&self, record: &mut Option<Row>, request: &Request, is_fast: bool) -> Reply {
        let standing = record.as_ref().map(Row::to_record);
        let now = clock(is_fast);
        let server = |server: &Option<Incarnation>| {
            server.filter(|_| self.tells_uuid && !self.has(Mutant::Nameless)).map(uuid)
        };
        let generation =
            |given: Option<u8>, mutant| given.filter(|_| !self.has(mutant)).map(u64::from);
        let ruled = match request {
            Request::Status => {
                rules::Record::shown_to(standing.clone(), None, now).map(|_| standing)
            }
            Request::Claim(node, by) => {
                let claim = Claim {
                    cluster_id: id(),
                    node: name(*node),
                    node_uuid: server(by),
                    lease: Some(seconds(LEASE)),
                    secret: None,
                    now,
                };
                claim.on(standing).map(|(_, mut record)| {
                    if self.has(Mutant::LatestPrevious) {
                        record.previous_initial_nodes.truncate(1);
                    }
                    Some(record)
                })
            }
            Request::Ready { name: node, server: by, generation: given, cluster } => {
                let ready = Ready {
                    cluster_id: id(),
                    node: name(*node),
                    node_uuid: server(by),
                    generation: generation(*given, Mutant::UnfencedReady),
                    cluster_uuid: Some(uuid(*cluster)),
                    authority: None,
                    attestation: None,
                    secret: None,
                    now,
                };
                ready.on(standing).map(Some)
            }
            Request::Leave { name: node, server: by, generation: given } => {
                let generation = generation(*given, Mutant::UnfencedLeave);
                let leave = Leave {
                    cluster_id: id(),
                    node: name(*node),
                    node_uuid: server(by),
                    generation,
                    secret: None,
                    now,
                };
                leave.on(standing).map(Some)
            }
        };
        match ruled {
            Ok(Some(ruled)) => {
                let row = Row::of(&ruled);
                *record = Some(row.clone());
                Reply::Row(row)
            }
            Ok(None) | Err(rules::Refusal::NotFound) => Reply::NotFound,
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    /// A call to the API, with what the network makes of it.
    fn call(&self, world: &mut World, request: &Request, call: Call) -> Option<Reply> {
        if call.is_copied || call.is_late {
            world.late.insert(request.clone());
            world.budgets.copies -= 1;
        }
        if call.is_late {
            return None;
        }
        let reply = self.answer(&mut world.record, request, call.is_fast);
        if call.is_lost {
            world.budgets.losses -= 1;
            return None;
        }
        Some(reply)
    }

    /// The deadline of an answer's lease, in seconds from now.
    fn lease_left(&self, record: &Record) -> Option<i16> {
        let left = i16::try_from(record.lease_left?.as_secs()).unwrap();
        if self.has(Mutant::LeaseFromAnswer) {
            return Some(left + 15);
        }
        Some(if record.is_initial { left.min(LEASE) } else { left })
    }

    fn learn(&self, world: &mut World, node: usize, row: Row, is_fast: bool) {
        let record = row.answer(self.names[node], is_fast);
        let left = self.lease_left(&record);
        world.agents[node].learn(row, record.is_initial, left);
    }

    /// One round of `up`, up to what is done next. Returns whether something was done already.
    fn round(&self, world: &mut World, node: usize, call: Call) -> bool {
        let own = self.own(world, node);
        let goal = self.goal(node);
        let this = self.names[node];
        let mut is_known_to_be_nothing = false;
        let (mut has_claimed, mut has_acted) = (false, false);
        loop {
            let asked = match world.agents[node].record(this) {
                Some(record) => Asked::Record(record),
                None if is_known_to_be_nothing => Asked::NoRecord,
                None => Asked::NotYet,
            };
            let next = self.decide(&goal, &own, &asked, &Self::memory(&world.agents[node]));
            let is_blank = matches!(own, OwnServer::Blank(_));
            if !is_blank
                && matches!(
                    next,
                    Action::Initialise
                        | Action::Join(_)
                        | Action::Inspect(_)
                        | Action::GiveUpClaim(_)
                )
            {
                world.broken = Some(Broken::TouchedProvisioned);
            }
            if is_blank && !goal.can_begin && next == Action::Claim {
                world.broken = Some(Broken::ClaimedUnfit);
            }
            let act = match next {
                Action::GetRecord | Action::Claim if !has_claimed => {
                    has_claimed = next == Action::Claim;
                    let server = world.servers[node].incarnation(node);
                    let request = if has_claimed {
                        Request::Claim(this, Some(server))
                    } else {
                        Request::Status
                    };
                    // An answer to a status that is lost or late changes nothing.
                    let call = if has_claimed {
                        call
                    } else {
                        Call { is_fast: call.is_fast, ..Call::default() }
                    };
                    match self.call(world, &request, call) {
                        Some(Reply::Row(row)) => self.learn(world, node, row, call.is_fast),
                        Some(Reply::NotFound) => is_known_to_be_nothing = true,
                        Some(Reply::Refused(rules::Refusal::NameTaken { .. })) | None => {
                            world.agents[node].rest();
                            return false;
                        }
                        Some(Reply::Refused(_)) => {
                            world.agents[node].end(End::Refused);
                            return true;
                        }
                    }
                    continue;
                }
                Action::Settle(_) if !self.has(Mutant::ExtrasFirst) => {
                    world.agents[node].are_extras_settled = true;
                    has_acted = true;
                    continue;
                }
                Action::Done => {
                    let OwnServer::Member(view) = own else {
                        unreachable!("only members are done")
                    };
                    let cluster = incarnation(view.uuid.as_str());
                    world.believe(cluster);
                    world.agents[node].end(End::Member(cluster));
                    return true;
                }
                Action::Refuse(refusal) => {
                    world.agents[node].end(match refusal {
                        Refusal::OtherCluster { .. } => End::OtherCluster,
                        Refusal::Occupied(_) => End::Occupied,
                        _ => End::Refused,
                    });
                    return true;
                }
                Action::Inspect(nodes) => {
                    Act::Inspect(nodes.iter().map(|node| number(node.as_str())).collect())
                }
                Action::GiveUpClaim(node) => Act::GiveUpClaim(number(node.as_str())),
                Action::Initialise => Act::Initialise,
                Action::Join(_) => Act::Join,
                Action::Report(uuid) => Act::Report(incarnation(uuid.as_str())),
                _ => {
                    world.agents[node].rest();
                    return has_acted;
                }
            };
            world.agents[node].phase = Phase::Chosen(act);
            return true;
        }
    }

    /// Does what was decided. Returns whether it waits afterwards.
    fn act(&self, world: &mut World, node: usize, call: Call, is_blind: bool) -> bool {
        let Phase::Chosen(act) = world.agents[node].phase.clone() else {
            unreachable!("nothing was chosen")
        };
        match act {
            Act::Inspect(names) => {
                for name in names {
                    let at = self.names.iter().position(|other| *other == name).unwrap();
                    let is_provisioned = world.servers[at].cluster.is_some();
                    world.agents[node].inspections.insert(name, is_provisioned && !is_blind);
                    world.agents[node].was_blind |= is_provisioned && is_blind;
                }
                world.agents[node].rest();
                false
            }
            Act::GiveUpClaim(name) => {
                let generation = world.agents[node].asked.as_ref().map(|row| row.generation);
                let request = Request::Leave {
                    name: self.names[node],
                    server: Some(world.servers[node].incarnation(node)),
                    generation,
                };
                let reply = self.call(world, &request, call);
                if matches!(reply, Some(Reply::Row(_))) {
                    world.agents[node].occupied = Some((name, 0));
                }
                world.agents[node].rest();
                !matches!(reply, Some(Reply::Row(_)))
            }
            Act::Initialise => {
                let left = world.agents[node].lease_left.unwrap_or(i16::MAX);
                if seconds(left) < LEASE_MARGIN && !self.has(Mutant::NoMargin) {
                    world.agents[node].rest();
                } else {
                    world.agents[node].phase = Phase::Checked;
                }
                false
            }
            Act::Join => self.join(world, node),
            Act::Report(cluster) => self.report(world, node, cluster, call),
        }
    }

    /// Joins through the first member that will do.
    fn join(&self, world: &mut World, node: usize) -> bool {
        let Some(record) = world.agents[node].record(self.names[node]) else {
            unreachable!("a record says whom to join")
        };
        let own = uuid(world.servers[node].incarnation(node));
        let mut others = 0;
        let members: Vec<_> =
            record.nodes().into_iter().filter(|other| **other != name(self.names[node])).collect();
        for member in &members {
            let at = self.names.iter().position(|other| name(*other) == **member).unwrap();
            let Some(view) = self.view(world, at) else {
                continue;
            };
            match decision::admission(
                &name(self.names[node]),
                Some(&own),
                &view,
                record.cluster_uuid.as_ref(),
            ) {
                // The server takes part only while it belongs to no cluster.
                Admission::Add if world.servers[node].cluster.is_none() => {
                    world.servers[node].cluster = world.servers[at].cluster;
                    world.agents[node].phase = Phase::Idle;
                    return false;
                }
                Admission::OtherCluster(_) => others += 1,
                _ => {}
            }
        }
        if others == members.len() {
            world.agents[node].end(End::OtherCluster);
        } else {
            world.agents[node].asked = None;
            world.agents[node].rest();
        }
        true
    }

    fn report(&self, world: &mut World, node: usize, cluster: Incarnation, call: Call) -> bool {
        let request = Request::Ready {
            name: self.names[node],
            server: Some(world.servers[node].incarnation(node)),
            generation: world.agents[node].asked.as_ref().map(|row| row.generation),
            cluster,
        };
        match self.call(world, &request, call) {
            Some(Reply::Row(row)) => {
                self.learn(world, node, row, call.is_fast);
                world.believe(cluster);
                world.agents[node].is_reported = true;
                world.agents[node].rest();
                false
            }
            Some(Reply::Refused(rules::Refusal::OtherCluster { .. })) => {
                world.agents[node].end(End::OtherCluster);
                true
            }
            Some(Reply::Refused(rules::Refusal::NameTaken { .. })) => {
                world.agents[node].end(End::Refused);
                true
            }
            Some(Reply::NotFound | Reply::Refused(_)) => {
                world.agents[node].asked = None;
                world.agents[node].rest();
                true
            }
            None => {
                world.agents[node].rest();
                true
            }
        }
    }

    fn send(&self, world: &mut World, node: usize) {
        let agent = &mut world.agents[node];
        let left = agent.lease_left.unwrap_or(i16::MAX);
        let flight = Flight {
            ticks: 0,
            overslept: seconds(left) < LEASE_MARGIN && !self.has(Mutant::NoMargin),
            was_blind: agent.was_blind,
            is_doubled: false,
        };
        agent.phase = Phase::Initialising;
        agent.asked = None;
        let init = &mut world.servers[node].init;
        *init = Some(init.map_or(flight, |earlier| Flight {
            ticks: 0,
            overslept: flight.overslept || earlier.overslept,
            was_blind: flight.was_blind || earlier.was_blind,
            is_doubled: true,
        }));
    }

    fn take_effect(&self, world: &mut World, node: usize, is_answered: bool) {
        let Some(flight) = world.servers[node].init.take() else {
            unreachable!("nothing is under way")
        };
        if world.servers[node].cluster.is_none() {
            let others = world.servers.iter().enumerate();
            let mut others = others.filter(|(other, server)| {
                server.cluster.is_some_and(|cluster| usize::from(cluster.0) == *other)
                    && Some(*other) != self.foreign
            });
            let is_excused = flight.overslept
                || flight.was_blind
                || others.clone().any(|(_, server)| server.overslept);
            if others.next().is_some() && !is_excused {
                world.broken = Some(Broken::SecondCluster);
            }
            let server = &mut world.servers[node];
            server.cluster = Some(server.incarnation(node));
            server.overslept = flight.overslept || flight.was_blind;
        }
        self.hear(world, node, is_answered.then_some(true));
    }

    /// The agent hears of its `/clusterInit`: that it was taken, that it was refused, or nothing.
    fn hear(&self, world: &mut World, node: usize, answer: Option<bool>) {
        if world.agents[node].phase != Phase::Initialising {
            return;
        }
        match answer {
            None => world.agents[node].may_be_under_way = true,
            Some(true) => world.agents[node].has_initialised = true,
            Some(false) if world.servers[node].cluster.is_some() => {}
            Some(false) => {
                let may_leave = !world.agents[node].may_be_under_way;
                if may_leave || self.leaves_too_early {
                    let generation = world.agents[node].claim.map(|(generation, _)| generation);
                    let request = Request::Leave {
                        name: self.names[node],
                        server: Some(world.servers[node].incarnation(node)),
                        generation,
                    };
                    let call = Call { is_copied: world.budgets.copies > 0, ..Call::default() };
                    let _ = self.call(world, &request, call);
                }
                world.agents[node].end(End::Failed);
                return;
            }
        }
        world.agents[node].rest();
    }

    /// Lets time pass, unless something must happen before.
    fn tick(&self, world: &mut World) -> bool {
        let must_be_sent = |agent: &Agent| {
            let left = agent.lease_left.unwrap_or(i16::MAX);
            agent.phase == Phase::Checked && seconds(left - TICK) < LEASE_MARGIN && !self.oversleeps
        };
        let is_due =
            |server: &Server| server.init.is_some_and(|init| init.ticks >= INITIALISE_TICKS);
        if world.agents.iter().any(must_be_sent) || world.servers.iter().any(is_due) {
            return false;
        }
        if let Some(left) = world.record.as_mut().and_then(|row| row.lease_left.as_mut()) {
            *left = (*left - TICK).max(LONG_AGO);
        }
        for server in &mut world.servers {
            if let Some(init) = &mut server.init {
                init.ticks += 1;
            }
        }
        for agent in &mut world.agents {
            if let Some((_, Some(left))) = &mut agent.claim {
                *left = (*left - TICK).max(0);
            }
            if let Some(left) = &mut agent.lease_left {
                *left = (*left - TICK).max(0);
            }
            if let Some((_, time)) = &mut agent.occupied {
                *time = (*time + TICK).min(LEASE);
            }
        }
        true
    }

    /// Lets these agents run on without faults, one after the other. The others are dead.
    fn continued(&self, mut world: World, nodes: &[usize]) -> World {
        world.late.clear();
        for (node, agent) in world.agents.iter_mut().enumerate() {
            if agent.is_running() && !nodes.contains(&node) {
                *agent = Agent::default();
            }
        }
        for node in 0..world.servers.len() {
            if world.servers[node].init.is_some() {
                self.take_effect(&mut world, node, true);
            }
        }
        for _ in 0..60 {
            for &node in nodes {
                let mut acts = 0;
                while world.agents[node].is_running() {
                    let goes_on = match world.agents[node].phase {
                        Phase::Idle => self.round(&mut world, node, Call::default()),
                        Phase::Chosen(_) => !self.act(&mut world, node, Call::default(), false),
                        Phase::Checked => {
                            self.send(&mut world, node);
                            true
                        }
                        Phase::Initialising => {
                            if world.servers[node].init.is_some() {
                                self.take_effect(&mut world, node, true);
                            } else {
                                world.agents[node].rest();
                            }
                            true
                        }
                        Phase::Ended(_) => false,
                    };
                    acts += 1;
                    if acts > 40 {
                        world.broken = Some(Broken::Spins);
                    }
                    if !goes_on || world.broken.is_some() {
                        break;
                    }
                }
            }
            if world.broken.is_some() || nodes.iter().all(|node| !world.agents[*node].is_running())
            {
                break;
            }
            self.tick(&mut world);
        }
        world
    }

    /// Where the world leads without further faults: with one agent that has initialised its server, and with all.
    pub(super) fn lookahead(&self, world: &World) -> Option<Broken> {
        for (node, server) in world.servers.iter().enumerate() {
            let own = server.incarnation(node);
            if server.cluster != Some(own)
                || !world.agents[node].is_running()
                || self.foreign == Some(node)
            {
                continue;
            }
            let after = self.continued(world.clone(), &[node]);
            let recorded = after.record.filter(|row| row.is_ready).and_then(|row| row.cluster);
            let is_refused = matches!(after.agents[node].phase, Phase::Ended(End::OtherCluster));
            let is_well = recorded.is_some_and(|cluster| cluster == own || is_refused);
            if after.broken.is_some() || !is_well {
                return after.broken.or(Some(Broken::NotReported));
            }
        }
        let all: Vec<_> = (0..world.agents.len()).collect();
        let after = self.continued(world.clone(), &all);
        let recorded = after.record.as_ref().filter(|row| row.is_ready).and_then(|row| row.cluster);
        let is_well =
            after.agents.iter().zip(&after.servers).all(|(agent, server)| match agent.phase {
                Phase::Ended(End::Member(cluster)) => {
                    recorded == Some(cluster) && server.cluster == recorded
                }
                Phase::Ended(End::OtherCluster) => server.cluster != recorded,
                // Another node has a cluster, and its agent has ended.
                Phase::Ended(End::Occupied) => server.cluster.is_none(),
                Phase::Ended(_) => true,
                // It waits until its time is up: for its services, or for another node, since its server took the initialisation
                // without effect.
                _ if server.cluster.is_none() => agent.has_initialised,
                _ => self.services_down && server.cluster == recorded,
            });
        after.broken.or_else(|| (!is_well).then_some(Broken::Stuck))
    }

    fn is_continued(&self, world: &World) -> bool {
        use std::hash::{DefaultHasher, Hash, Hasher};
        if self.continue_one_in == 0 {
            return false;
        }
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        hasher.finish().is_multiple_of(self.continue_one_in)
    }

    /// The calls that the network allows.
    fn calls(&self, world: &World) -> impl Iterator<Item = Call> {
        let clocks = if self.skew { &[false, true][..] } else { &[false][..] };
        let (copies, losses) = (world.budgets.copies > 0, world.budgets.losses > 0);
        clocks.iter().flat_map(move |&is_fast| {
            let calls = [
                Some(Call { is_fast, ..Call::default() }),
                losses.then_some(Call { is_fast, is_lost: true, ..Call::default() }),
                copies.then_some(Call { is_fast, is_copied: true, ..Call::default() }),
                (copies && !is_fast).then_some(Call { is_late: true, ..Call::default() }),
            ];
            calls.into_iter().flatten()
        })
    }
}

impl World {
    fn believe(&mut self, cluster: Incarnation) {
        if self.believed.is_some_and(|believed| believed != cluster) {
            self.broken = Some(Broken::TwoBelieved);
        }
        self.believed = Some(cluster);
    }
}

impl Model for Setup {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let server = Server { cluster: None, resets: 0, init: None, overslept: false };
        let mut world = World {
            record: None,
            servers: vec![server; self.names.len()],
            agents: vec![Agent::default(); self.names.len()],
            late: BTreeSet::new(),
            budgets: self.budgets,
            believed: None,
            broken: None,
        };
        if let Some(node) = self.foreign {
            world.servers[node].cluster = Some((99, 0));
        }
        if let Some(node) = self.abandoned {
            let server = world.servers[node].incarnation(node);
            self.answer(&mut world.record, &Request::Claim(self.names[node], Some(server)), false);
            world.servers[node].cluster = Some(server);
            world.agents[node].end(End::Failed);
        }
        vec![world]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (node, agent) in world.agents.iter().enumerate() {
            match &agent.phase {
                Phase::Idle => steps.extend(self.calls(world).map(|call| Step::Round(node, call))),
                Phase::Chosen(Act::Inspect(_)) => {
                    steps.push(Step::Do(node, Call::default(), false));
                    if self.partitions {
                        steps.push(Step::Do(node, Call::default(), true));
                    }
                }
                Phase::Chosen(Act::GiveUpClaim(_) | Act::Report(_)) => {
                    steps.extend(self.calls(world).map(|call| Step::Do(node, call, false)));
                }
                Phase::Chosen(_) => steps.push(Step::Do(node, Call::default(), false)),
                Phase::Checked => steps.push(Step::Send(node)),
                Phase::Initialising if world.budgets.losses > 0 => steps.push(Step::Break(node)),
                Phase::Initialising | Phase::Ended(_) => {}
            }
            if world.budgets.kills > 0
                && *agent != Agent::default()
                && !matches!(agent.phase, Phase::Ended(End::Member(_)))
            {
                steps.push(Step::Kill(node));
            }
        }
        for (node, server) in world.servers.iter().enumerate() {
            if server.init.is_some() {
                steps.push(Step::Effect(node, true));
                if world.agents[node].phase == Phase::Initialising {
                    if world.budgets.losses > 0 {
                        steps.push(Step::Effect(node, false));
                    }
                    if world.budgets.refusals > 0 {
                        steps.push(Step::Refuse(node));
                    }
                    if world.budgets.ignores > 0 {
                        steps.push(Step::Ignore(node));
                    }
                }
            }
        }
        for request in &world.late {
            steps.push(Step::Arrive(request.clone(), false));
            if self.skew {
                steps.push(Step::Arrive(request.clone(), true));
            }
        }
        let is_nothing_under_way =
            world.servers.iter().all(|server| server.cluster.is_none() && server.init.is_none())
                && world
                    .agents
                    .iter()
                    .all(|agent| matches!(agent.phase, Phase::Idle | Phase::Ended(_)));
        let is_lapsed = world.record.as_ref().is_some_and(Row::is_lapsed);
        if world.budgets.forgets > 0 && is_nothing_under_way && is_lapsed {
            steps.push(Step::Forget);
        }
        if world.budgets.resets > 0 && world.record.is_some() {
            steps.push(Step::Reset);
        }
        if self.ticks {
            steps.push(Step::Tick);
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        match step {
            Step::Round(node, call) => {
                self.round(&mut world, node, call);
            }
            Step::Do(node, call, is_blind) => {
                self.act(&mut world, node, call, is_blind);
            }
            Step::Send(node) => self.send(&mut world, node),
            Step::Effect(node, is_answered) => {
                if !is_answered {
                    world.budgets.losses -= 1;
                }
                self.take_effect(&mut world, node, is_answered);
            }
            Step::Refuse(node) => {
                world.budgets.refusals -= 1;
                world.servers[node].drop_init();
                self.hear(&mut world, node, Some(false));
            }
            Step::Ignore(node) => {
                world.budgets.ignores -= 1;
                world.servers[node].drop_init();
                self.hear(&mut world, node, Some(true));
            }
            Step::Break(node) => {
                world.budgets.losses -= 1;
                self.hear(&mut world, node, None);
            }
            Step::Kill(node) => {
                world.budgets.kills -= 1;
                world.agents[node] = Agent::default();
            }
            Step::Arrive(request, is_fast) => {
                world.late.remove(&request);
                self.answer(&mut world.record, &request, is_fast);
            }
            Step::Forget => {
                world.budgets.forgets -= 1;
                self.forget(&mut world);
            }
            Step::Reset => {
                world.budgets.resets -= 1;
                self.forget(&mut world);
                for server in &mut world.servers {
                    *server = Server {
                        cluster: None,
                        resets: server.resets + 1,
                        init: None,
                        overslept: false,
                    };
                }
                world.agents.fill(Agent::default());
                world.believed = None;
            }
            Step::Tick => {
                if !self.tick(&mut world) {
                    return None;
                }
            }
        }
        if world.broken.is_none() && self.is_continued(&world) {
            world.broken = self.lookahead(&world);
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no second cluster", |_, world: &World| {
                world.broken != Some(Broken::SecondCluster)
            }),
            Property::always("one cluster is believed", |_, world: &World| {
                world.broken != Some(Broken::TwoBelieved)
            }),
            Property::always("provisioned servers are left alone", |_, world: &World| {
                world.broken != Some(Broken::TouchedProvisioned)
            }),
            Property::always("unfit nodes do not claim", |_, world: &World| {
                world.broken != Some(Broken::ClaimedUnfit)
            }),
            Property::always("an initialised server is reported", |_, world: &World| {
                world.broken != Some(Broken::NotReported)
            }),
            Property::always("all agents end well", |_, world: &World| {
                world.broken != Some(Broken::Stuck)
            }),
            Property::always("no agent spins", |_, world: &World| {
                world.broken != Some(Broken::Spins)
            }),
            Property::sometimes(READY, |_, world: &World| {
                world.record.as_ref().is_some_and(|row| row.is_ready)
            }),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.broken.is_some()
            || world.record.as_ref().is_none_or(|row| row.generation <= self.generations)
    }
}

impl Setup {
    fn forget(&self, world: &mut World) {
        let record = world.record.as_ref().map(Row::to_record);
        world.record = if self.has(Mutant::NoTombstone) {
            None
        } else {
            record.map(|record| Row::of(&rules::forget(record, now())))
        };
    }
}
