//! The model: the API's record, the nodes' servers and their agents, and every event that can affect them.
//!
//! [`decision::next_action`], [`ClusterRecord::new`], [`decision::admission`] and the rules of the protocol are the real ones. What
//! `commands::up` does around them is modeled by [`Setup::round`] and [`Setup::act`].
//!
//! Time is relative to the present and passes in ticks of [`TICK`] seconds at any point: an agent without a step between two ticks
//! is paused. A killed agent starts again with an empty memory; one without a step afterwards is dead.

mod agent;
mod api;
mod server;
mod steps;

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
        self, Absence, Action, Admission, Asked, Extra, Goal, Inspection, Kept, LEASE_MARGIN,
        Memory, OwnServer, StopReason, Testimony,
        tests::{ago, now as present},
    },
    record::ClusterRecord,
    server::{INITIALIZE_LIMIT, NodeInfo, View},
};

/// In seconds: the largest difference between the clocks of two instances of the service.
pub(super) const TICK: i16 = 5;

/// Deadlines further in the past make no difference.
const LONG_AGO: i16 = -15;

/// The lease of each claim in seconds: the shortest that the service accepts.
const LEASE: i16 = 30;

/// [`INITIALIZE_LIMIT`] in ticks.
const INITIALIZE_TICKS: u8 = 3;

const _: () = assert!(INITIALIZE_LIMIT.as_secs() == INITIALIZE_TICKS as u64 * TICK as u64);

/// The property that a cluster becomes ready at all.
pub(super) const READY: &str = "a cluster is ready";

/// A wrong variant of the agent or of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// The agent applies buckets, groups and addresses before the report, and waits when one is refused.
    ExtrasFirst,
    /// Only a balanced cluster is reported.
    OnlyWhenBalanced,
    /// An own claim that has expired is claimed again before the report.
    ClaimsAgain,
    /// Nodes that lost the claim are not inspected.
    NoLook,
    /// Only the node that lost the claim last is known.
    LatestPrevious,
    /// The lease counts from the answer, which arrives up to 15 s after the claim.
    LeaseFromAnswer,
    /// The server is initialized until the very end of the lease.
    NoMargin,
    /// A report does not name its claim.
    UnfencedReady,
    /// A leave does not name its claim.
    UnfencedLeave,
    /// A forgotten record leaves no tombstone.
    NoTombstone,
    /// A name is not bound to the UUID of the server.
    Nameless,
    /// One inspection that finds no server is enough.
    OneLook,
    /// An agent that starts over after a refusal no longer knows that an initialization may be under way.
    ForgetsCall,
    /// An agent whose leave got no answer goes on with its claim.
    ForgetsLeave,
    /// A server's membership is never confirmed.
    NoConfirmation,
    /// A node joins through any member of the recorded cluster.
    TrustsCopies,
}

/// The agent of before, which did not report first.
pub(super) const BEFORE: &[Mutant] =
    &[Mutant::ExtrasFirst, Mutant::OnlyWhenBalanced, Mutant::ClaimsAgain, Mutant::NoLook];

/// A violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Broken {
    /// A second server was initialized although no agent overslept and the first was visible.
    SecondCluster,
    /// Two clusters are believed to be the recorded one.
    TwoBelieved,
    /// An old copy of a member is believed to be in the recorded cluster, or a node has joined it.
    CopyBelieved,
    /// An agent decided to initialize a server of a cluster, or to let it join another.
    TouchedProvisioned,
    /// A blank server that cannot begin a cluster was claimed for.
    ClaimedUnfit,
    /// A server was initialized, its agent runs and the API answers, but its cluster is not recorded.
    NotReported,
    /// Without further faults, the agents do not all end, or end without a cluster.
    Stuck,
    /// An agent acts again and again without a wait.
    Spins,
}

/// How often each fault can still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budgets {
    /// Agents that are killed and started again.
    pub kills: u8,
    /// Requests that arrive twice or late.
    pub copies: u8,
    /// Answers that are lost.
    pub losses: u8,
    /// Initializations that the server refuses for good.
    pub refusals: u8,
    /// Initializations that the server answers without carrying them out.
    pub ignores: u8,
    /// Inspections that find no server although there are servers, for example while they start again.
    pub blinks: u8,
    /// Records that an operator forgets while nothing is initialized.
    pub forgets: u8,
    /// Clusters that an operator deletes: the record is forgotten and all servers are reset.
    pub resets: u8,
    /// First nodes that an operator restores from snapshots, made while they were alone.
    pub restores: u8,
}

/// The nodes, faults and limits that the model checker explores.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// The nodes, by the numbers of their names.
    pub names: Vec<u8>,
    /// The nodes without the data service.
    pub unfit: Vec<usize>,
    /// Whether a server already belongs to another cluster.
    pub foreign: Option<usize>,
    /// A server that was initialized by an agent that died before it reported.
    pub abandoned: Option<usize>,
    pub mutants: &'static [Mutant],
    /// Whether servers report their UUIDs.
    pub tells_uuid: bool,
    /// Whether an agent gives its claim up after a refused initialization although an earlier call may still be carried out.
    pub leaves_too_early: bool,
    /// Whether agents try again after a refused initialization, as `run` does.
    pub resides: bool,
    /// Whether buckets, groups and addresses are requested, and all of them refused for good.
    pub extras_refused: bool,
    /// Whether the servers' services never start.
    pub services_down: bool,
    pub budgets: Budgets,
    /// Whether agents may be paused for longer than the margin between their last check of the lease and the initialization.
    pub oversleeps: bool,
    /// Whether a server may be unreachable for the node that inspects it.
    pub partitions: bool,
    /// Whether the clocks of the service's instances differ.
    pub skew: bool,
    /// Whether time passes at all.
    pub ticks: bool,
    /// The number of claims that are explored.
    pub generations: u8,
    /// One in this many states is continued without faults to see where it leads; 0 for none.
    pub continue_one_in: u64,
}

impl Budgets {
    pub(super) const NONE: Self = Self {
        kills: 0,
        copies: 0,
        losses: 0,
        refusals: 0,
        ignores: 0,
        blinks: 0,
        forgets: 0,
        resets: 0,
        restores: 0,
    };
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
            resides: false,
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

/// A server's number and its number of resets: together its UUID, and that of the cluster that it begins.
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
    /// Whether it was restored from a snapshot: it and the other nodes of its cluster do not list each other.
    is_copy: bool,
    resets: u8,
    /// `/clusterInit`, on its way.
    init: Option<Flight>,
    /// Whether its agent overslept before it was initialized.
    overslept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flight {
    ticks: u8,
    overslept: bool,
    /// Whether an initialized server was invisible to the agent.
    was_blind: bool,
    /// Whether it was sent again while under way.
    is_doubled: bool,
}

/// An agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Agent {
    pub phase: Phase,
    /// The record that the phase follows from, or the final one.
    asked: Option<Row>,
    /// The claim of the inspections and deadlines: its generation, and its end in seconds from now by this node's clock.
    claim: Option<(u8, Option<i16>)>,
    /// Time left of the lease of `asked`.
    lease_left: Option<i16>,
    inspections: BTreeMap<u8, Inspection>,
    /// The nodes whose servers were not found, and for how many seconds, at most a tick.
    absent: BTreeMap<u8, i16>,
    was_blind: bool,
    occupied: Option<(u8, i16)>,
    has_initialized: bool,
    is_claimed_by_other: bool,
    /// An earlier `/clusterInit` of this run was not answered.
    may_be_under_way: bool,
    left_claim: Option<u8>,
    is_confirmed: bool,
    is_reported: bool,
    are_extras_done: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// The next round begins, or the agent waits.
    #[default]
    Idle,
    /// It has decided, and acts next.
    Chosen(Act),
    /// It has checked the lease for the last time, and calls `/clusterInit` next.
    Checked,
    /// It waits for the answer of `/clusterInit`.
    Initializing,
    Ended(End),
}

/// An action that takes a separate step, with names as numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Act {
    Inspect(Vec<u8>),
    GiveUpClaim(u8),
    LeaveClaim,
    Initialize,
    Join,
    Confirm,
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
    /// Exit status 5, for another reason.
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
    /// The cluster that an agent believes to be the recorded one.
    believed: Option<Incarnation>,
    pub broken: Option<Broken>,
}

/// What an inspection sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    Clear,
    /// No server, because the network is partitioned.
    Blind,
    /// No server, this time.
    Blink,
}

/// How the network treats a call to the API.
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
    /// Reads the server, asks the API and decides.
    Round(usize, Call),
    /// Acts on the decision.
    Do(usize, Call, Sight),
    /// `/clusterInit` is sent.
    Send(usize),
    /// `/clusterInit` is carried out. With the flag, the answer arrives.
    Effect(usize, bool),
    /// `/clusterInit` is refused for good, and the claim is given up.
    Refuse(usize, Call),
    /// `/clusterInit` is answered without being carried out.
    Ignore(usize),
    /// The connection breaks while `/clusterInit` is under way.
    Break(usize),
    Kill(usize),
    /// A late request arrives.
    Arrive(Request, bool),
    Forget,
    Reset,
    Restore(usize),
    Tick,
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

/// The present of the service; that of the agents is [`present`].
fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn seconds(time: i16) -> Duration {
    Duration::from_secs(u64::try_from(time).unwrap_or(0))
}

impl Setup {
    fn has(&self, mutant: Mutant) -> bool {
        self.mutants.contains(&mutant)
    }
}
