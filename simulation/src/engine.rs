//! The simulation: a queue of events, with simulated nodes on one side and the API with its limits on the other.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use cbbootstrap_agent::{decision::Inspection, pauses::Backoff, record::ClusterRecord};
use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    rules::{Claimed, Record, Refusal},
};
use fastrand::Rng;
use jiff::Timestamp;

use crate::{
    limits::{Gateway, Lambda, Limits, MINUTE, Micros, SECOND, Start, Table},
    node::{Agent, Answer, Call, CallFailure, End, Rule, Step},
    outcome::Outcome,
    usage::Usage,
};

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From a node to the function and back.
    pub network: Micros,
    /// Before the function's first request: Lambda's part and the function's.
    pub cold_start: Micros,
    /// The function's own time for a request.
    pub function: Micros,
    /// A call to DynamoDB.
    pub call: Micros,
    /// The initialization of the first server.
    pub initialize: Micros,
    /// From the record to an active member: addition and rebalance.
    pub join: Micros,
}

/// The SDK's attempts for a call, and the longest pause before the second; `function/src/store/dynamodb/client.rs`.
const ATTEMPTS: u8 = 3;
const FIRST_BACKOFF: Micros = 100_000;

#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub clusters: u32,
    pub nodes: u16,
    /// The clusters start evenly over this time.
    pub over: Micros,
    /// The nodes of one cluster start within this time.
    pub spread: Micros,
    pub limits: Limits,
    /// The table throttles all calls in this time.
    pub outage: Option<(Micros, Micros)>,
    pub backoff: Backoff,
    pub times: Times,
    /// The simulation ends after this time at the latest.
    pub horizon: Micros,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A cluster's nodes are started.
    Start,
    /// A node's agent begins a round.
    Round,
    /// A request arrives at the API.
    Arrive,
    /// The function calls the table.
    Table,
    /// The function answers.
    Answer,
    /// A node's server has been initialized, or has joined.
    Server,
}

/// In the order of time, then of creation.
type Event = Reverse<(Micros, u64, Kind, u32, u16)>;

struct Running {
    agent: Agent,
    booted: Micros,
    knows_place: bool,
    call: Option<Flight>,
}

/// A call on its way.
struct Flight {
    call: Call,
    sent: Micros,
    attempts: u8,
    /// The function's time before its calls to the table.
    own: Micros,
    is_unavailable: bool,
}

struct Cluster {
    record: Option<Record>,
    /// From 0 to 1, of the claim item and the members item.
    keys: [f64; 2],
    nodes: Vec<Option<Box<Running>>>,
    left: u16,
}

pub struct Simulation {
    scenario: Scenario,
    queue: BinaryHeap<Event>,
    events: u64,
    now: Micros,
    rng: Rng,
    gateway: Gateway,
    lambda: Lambda,
    table: Table,
    clusters: Vec<Option<Box<Cluster>>>,
    id: ClusterId,
    names: Vec<(Node, Uuid)>,
    start: Instant,
    outcome: Outcome,
}

impl Simulation {
    pub fn run(scenario: Scenario, seed: u64) -> Outcome {
        let name = |number| {
            let node = Node::new(format!("node-{number}")).expect("it is a host name");
            (node, Uuid::new(format!("{number:032x}")).expect("it is a UUID"))
        };
        let mut simulation = Self {
            queue: BinaryHeap::new(),
            events: 0,
            now: 0,
            rng: Rng::with_seed(seed),
            gateway: Gateway::new(&scenario.limits),
            lambda: Lambda::new(&scenario.limits),
            table: Table::new(&scenario.limits, scenario.outage),
            clusters: Vec::new(),
            id: ClusterId::new("cluster").expect("it is an id"),
            names: (0..scenario.nodes).map(name).collect(),
            start: Instant::now(),
            outcome: Outcome::default(),
            scenario,
        };
        simulation.push(0, Kind::Start, 0, 0);
        simulation.work();
        let mut outcome = simulation.outcome;
        outcome.nodes = u64::from(scenario.clusters) * u64::from(scenario.nodes);
        outcome
    }

    fn work(&mut self) {
        while let Some(Reverse((at, _, kind, cluster, node))) = self.queue.pop() {
            if at > self.scenario.horizon {
                break;
            }
            self.now = at;
            match kind {
                Kind::Start => self.start_cluster(cluster),
                Kind::Round => {
                    let (now, chance) = (self.instant(), self.rng.f64());
                    let step = self.running(cluster, node).agent.round(now, chance);
                    self.take_step(cluster, node, step, 0);
                }
                Kind::Arrive => self.arrive(cluster, node),
                Kind::Table => self.call_table(cluster, node),
                Kind::Answer => self.answer(cluster, node),
                Kind::Server => {
                    let agent = &mut self.running(cluster, node).agent;
                    let recorded = agent.recorded_cluster();
                    agent.become_member(recorded);
                    self.push(0, Kind::Round, cluster, node);
                }
            }
        }
    }

    fn push(&mut self, after: Micros, kind: Kind, cluster: u32, node: u16) {
        self.events += 1;
        self.queue.push(Reverse((self.now + after, self.events, kind, cluster, node)));
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_micros(self.now)
    }

    fn timestamp(&self) -> Timestamp {
        let second = i64::try_from(self.now / SECOND).expect("it is below a century");
        Timestamp::from_second(1_800_000_000 + second).expect("it is a valid time")
    }

    fn cluster(&mut self, number: u32) -> &mut Cluster {
        self.clusters[number as usize].as_mut().expect("the cluster has nodes that run")
    }

    fn running(&mut self, cluster: u32, node: u16) -> &mut Running {
        self.cluster(cluster).nodes[usize::from(node)].as_mut().expect("the node runs")
    }

    fn flight(&mut self, cluster: u32, node: u16) -> &mut Flight {
        self.running(cluster, node).call.as_mut().expect("a call is on its way")
    }

    fn start_cluster(&mut self, number: u32) {
        let Scenario { clusters, nodes, over, spread, backoff, .. } = self.scenario;
        let (now, chance) = (self.now, self.rng.f64());
        let keys = [chance, (chance + 0.5).fract()];
        let mut all = Vec::with_capacity(usize::from(nodes));
        for node in 0..nodes {
            let after = self.rng.u64(0..=spread);
            let (name, uuid) = self.names[usize::from(node)].clone();
            let agent = Agent::new(name, uuid, backoff);
            let booted = now + after;
            all.push(Some(Box::new(Running { agent, booted, knows_place: false, call: None })));
            self.push(after, Kind::Round, number, node);
        }
        self.clusters.push(Some(Box::new(Cluster { record: None, keys, nodes: all, left: nodes })));
        if number + 1 < clusters {
            let next = over * u64::from(number + 1) / u64::from(clusters);
            self.push(next - now, Kind::Start, number + 1, 0);
        }
    }

    /// Carries a step of an agent out. A call that follows another is on the network first.
    fn take_step(&mut self, cluster: u32, node: u16, step: Step, network: Micros) {
        let (now, times) = (self.now, self.scenario.times);
        match step {
            Step::Call(call) => {
                let flight = Flight { call, sent: now, attempts: 0, own: 0, is_unavailable: false };
                self.running(cluster, node).call = Some(flight);
                if network == 0 {
                    self.arrive(cluster, node);
                } else {
                    self.push(network, Kind::Arrive, cluster, node);
                }
            }
            Step::Pause(pause) => {
                let pause = u64::try_from(pause.as_micros()).expect("pauses are short");
                self.push(pause + times.network, Kind::Round, cluster, node);
            }
            Step::Initialize => {
                self.note_place(cluster, node);
                self.outcome.initializations += 1;
                self.push(times.initialize, Kind::Server, cluster, node);
            }
            Step::Join => {
                self.note_place(cluster, node);
                self.push(times.join, Kind::Server, cluster, node);
            }
            Step::Inspect(others) => {
                for other in others {
                    let inspection = self.inspect(cluster, &other);
                    self.running(cluster, node).agent.note_inspection(other, inspection);
                }
                self.push(times.network, Kind::Round, cluster, node);
            }
            Step::End(end) => self.end(cluster, node, end),
        }
    }

    fn inspect(&mut self, cluster: u32, other: &Node) -> Inspection {
        let mut others = self.cluster(cluster).nodes.iter().flatten();
        let other = others.find(|running| running.agent.node() == other);
        // One that has ended is a member.
        other.map_or(Inspection::Provisioned, |running| running.agent.inspection())
    }

    fn note_place(&mut self, cluster: u32, node: u16) {
        let now = self.now;
        let running = self.running(cluster, node);
        if !std::mem::replace(&mut running.knows_place, true) {
            let took = now - running.booted;
            self.outcome.places.push(milliseconds(took));
        }
    }

    fn end(&mut self, cluster: u32, node: u16, end: End) {
        let now = self.now;
        let state = self.cluster(cluster);
        let running = state.nodes[usize::from(node)].take().expect("the node runs");
        state.left -= 1;
        if state.left == 0 {
            self.clusters[cluster as usize] = None;
        }
        match end {
            End::Member => {
                self.outcome.unlisted += u64::from(!running.agent.is_listed);
                self.outcome.members += 1;
                self.outcome.ended = now;
            }
            End::Stopped => self.outcome.stopped += 1,
        }
    }

    fn arrive(&mut self, cluster: u32, node: u16) {
        let now = self.now;
        self.outcome.minute(now / MINUTE).requests += 1;
        if let Err(limit) = self.gateway.accept(now) {
            self.outcome.refuse(limit, now);
            self.outcome.minute(now / MINUTE).answers_429 += 1;
            self.fail(cluster, node);
            return;
        }
        self.outcome.accepted += 1;
        let times = self.scenario.times;
        match self.lambda.start(now) {
            Err(limit) => {
                self.outcome.refuse(limit, now);
                self.outcome.minute(now / MINUTE).answers_503 += 1;
                self.fail(cluster, node);
            }
            Ok(start) => {
                self.outcome.invocations += 1;
                let cold = if start == Start::Cold { times.cold_start } else { 0 };
                let flight = self.flight(cluster, node);
                flight.own = cold + times.function;
                self.call_table(cluster, node);
            }
        }
    }

    /// The request is refused before the function runs.
    fn fail(&mut self, cluster: u32, node: u16) {
        self.deliver(cluster, node, Err(CallFailure::Temporary));
    }

    fn call_table(&mut self, cluster: u32, node: u16) {
        let (now, times, time) = (self.now, self.scenario.times, self.timestamp());
        let call = self.flight(cluster, node).call.clone();
        let state = self.cluster(cluster);
        let Usage { calls, is_of_members, units } = Usage::new(&call, state.record.as_ref(), time);
        let key = state.keys[usize::from(is_of_members)];
        let taken = self.table.take(now, key, units);
        let flight = self.flight(cluster, node);
        flight.attempts += 1;
        let (attempts, own) = (flight.attempts, flight.own);
        flight.is_unavailable = taken.is_err() && attempts == ATTEMPTS;
        match taken {
            Ok(()) => {
                self.outcome.units.writes += units.writes;
                self.outcome.units.reads += units.reads;
                let took = own + times.call * calls;
                self.outcome.busy_time += took;
                self.push(took, Kind::Answer, cluster, node);
            }
            Err(limit) => {
                self.outcome.refuse(limit, now);
                if attempts < ATTEMPTS {
                    let pause = self.rng.u64(0..=FIRST_BACKOFF << (attempts - 1));
                    self.outcome.busy_time += times.call + pause;
                    self.push(times.call + pause, Kind::Table, cluster, node);
                } else {
                    self.outcome.busy_time += own + times.call;
                    self.push(own + times.call, Kind::Answer, cluster, node);
                }
            }
        }
    }

    fn answer(&mut self, cluster: u32, node: u16) {
        self.lambda.end();
        let now = self.now;
        let flight = self.flight(cluster, node);
        if flight.is_unavailable {
            self.outcome.minute(now / MINUTE).answers_503 += 1;
            return self.fail(cluster, node);
        }
        let (call, sent) = (flight.call.clone(), flight.sent);
        self.outcome.minute(now / MINUTE).answers_200 += 1;
        let answer = self.apply(cluster, node, &call, sent);
        self.deliver(cluster, node, answer);
    }

    fn deliver(&mut self, cluster: u32, node: u16, answer: Answer) {
        let (now, chance, network) = (self.instant(), self.rng.f64(), self.scenario.times.network);
        let running = self.running(cluster, node);
        let flight = running.call.take().expect("a call is answered");
        let step = running.agent.receive(&flight.call, answer, now, chance);
        self.take_step(cluster, node, step, network);
    }

    /// Applies the protocol's rules to the record, and reads the answer as the agent does.
    fn apply(&mut self, cluster: u32, node: u16, call: &Call, sent: Micros) -> Answer {
        let (now, cluster_id) = (self.timestamp(), self.id.clone());
        let (name, uuid) = self.names[usize::from(node)].clone();
        let stored = self.cluster(cluster).record.clone();
        let changed = match call.rule(cluster_id, name.clone(), Some(uuid), now) {
            Rule::Claim(claim) => claim.on(stored).map(|(claimed, record)| {
                self.outcome.takeovers += u64::from(claimed == Claimed::Takeover);
                record
            }),
            Rule::Status => Record::shown_to(stored, None, now),
            Rule::Ready(ready) => ready.on(stored),
            Rule::Leave(leave) => leave.on(stored),
        };
        let record = match changed {
            Err(Refusal::NotFound) if *call == Call::Status => return Ok(None),
            Err(Refusal::TooManyNodes) => return Err(CallFailure::TooManyNodes),
            Err(_) => return Err(CallFailure::Refused),
            Ok(record) => record,
        };
        let mut answer = record.clone().answer(Some(&name), now);
        if *call == Call::Claim {
            (answer.nodes, answer.members) = (Vec::new(), Vec::new());
        }
        self.cluster(cluster).record = Some(record);
        let sent = self.start + Duration::from_micros(sent);
        let record = ClusterRecord::new(answer, &self.id, Some(&name), sent);
        Ok(Some(record.expect("the protocol's answers are valid")))
    }
}

/// Whole milliseconds, which fit for seven weeks.
fn milliseconds(time: Micros) -> u32 {
    u32::try_from(time / 1_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
