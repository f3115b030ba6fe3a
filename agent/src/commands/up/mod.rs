//! `up`: makes the node a member of the one cluster, round by round.

mod extras;
mod first;
mod join;
mod outcome;
mod report;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use cbbootstrap_protocol::names::{Node, Uuid};

use self::join::Joining;
use super::{
    api_failure,
    clock::{Attempt, Clock, jitter, time_since},
    lock,
    rebalances::Rebalances,
};
use crate::{
    api::{Answer, Api, ApiError, Claim},
    cli::UpArgs,
    decision::{self, Action, Asked, Goal, Memory, OwnServer},
    failure::{Exit, Failure},
    printer::Printer,
    record::Record,
    server::{Error, Membership, Pools, View},
    settings::{self, Here, Patience, Plan},
    values::{Lease, Service},
};

/// This many refusals in a row end the command.
const MAX_REFUSALS: u32 = 10;

/// After this many actions without a pause the agent pauses. A node needs fewer until it waits for something.
const MAX_ACTIONS: u32 = 10;

/// How long a node waits for one that lost its claim but has a cluster, if claims never expire.
const OCCUPIED_LIMIT: Duration = Duration::from_mins(5);

pub fn run(args: UpArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let clock = Clock::new(Patience::from(args.wait), printer);
    let (here, api) = settings::here(args.api, args.server, clock.deadline())?;
    let plan = Plan::try_from(args.cluster)?;
    if here.peers.is_insecure {
        printer.warning(
            "--insecure: TLS certificates are not verified. Any host that can impersonate another node receives the administrator's password",
        );
    }
    let _lock = lock(&here.server, &clock)?;
    let mut run = Run::new(&here, &api, &plan, printer);
    let (view, record) = *clock.repeat(|| run.round_with_pauses())?;
    let outcome = run.outcome(view, &record, started.elapsed());
    printer.result(&outcome)?;
    Ok(if outcome.is_complete() { Exit::Done } else { Exit::Partial })
}

type Round = Attempt<Box<(View, Record)>>;

/// A run: its settings and its state.
struct Run<'r> {
    here: &'r Here,
    api: &'r Api,
    plan: &'r Plan,
    printer: &'r Printer,
    goal: Goal,
    state: State,
}

/// The state of a run from round to round.
#[derive(Default)]
struct State {
    /// The API's answer, if it is final or of this round.
    answer: Known,
    /// The latest claim.
    claim: Claim,
    pools: Option<Pools>,
    own_uuid: Option<Uuid>,
    /// The memory in bytes that the server may use.
    memory_bytes: u64,
    rebalances: Rebalances,
    joining: Joining,
    other_credentials_since: Option<Instant>,
    nodes: Vec<(String, Membership)>,
    same_since: Option<Instant>,
    /// A node that lost its claim and has initialised its server.
    occupied: Option<(Node, Instant)>,
    /// What was requested and refused for good.
    refused: Vec<String>,
    /// The buckets that this run has created. Each appears a little later.
    created: BTreeSet<String>,
    /// Whether a request to initialise the server broke off, and may still be carried out.
    may_be_under_way: bool,
    failed_attestations: u32,
    /// The parts of the memory that have no duration.
    done: Memory,
    last: Option<Action>,
    /// Without a pause.
    actions: u32,
}

#[derive(Default)]
enum Known {
    #[default]
    NotYet,
    NoRecord,
    Answer(Box<Answer>),
}

impl<'r> Run<'r> {
    fn new(here: &'r Here, api: &'r Api, plan: &'r Plan, printer: &'r Printer) -> Self {
        Self {
            here,
            api,
            plan,
            printer,
            goal: Goal {
                node: here.node.clone(),
                can_begin: plan.services.has(Service::Data),
                trusts_members: here.peers.are_distinguishable(),
                buckets: plan.buckets.iter().map(|bucket| bucket.name.clone()).collect(),
                group: plan.group.clone(),
                has_alternate_address: plan.alternate_address.is_some(),
                attests: here.peers.keys.is_some(),
                adopt: plan.adopt,
                settle: jitter(plan.settle),
                lease: match plan.lease {
                    Lease::For(lease) => lease,
                    Lease::Never => OCCUPIED_LIMIT,
                },
            },
            state: State::default(),
        }
    }

    /// A round that pauses after many actions, or after one that is decided on again although it was done: whatever servers and
    /// the API answer, the agent never spins.
    fn round_with_pauses(&mut self) -> anyhow::Result<Round> {
        let last = self.state.last.take();
        let round = self.round()?;
        let is_again = matches!(round, Attempt::Again);
        self.state.actions = if is_again { self.state.actions + 1 } else { 0 };
        let is_repeated = last.is_some() && last == self.state.last;
        if is_again && (is_repeated || self.state.actions >= MAX_ACTIONS) {
            self.state.actions = 0;
            return Ok(Attempt::wait("the last step has no effect yet"));
        }
        Ok(round)
    }

    /// Reads the state, decides, and acts.
    fn round(&mut self) -> anyhow::Result<Round> {
        let own = self.read_own_server()?;
        self.observe(&own)?;
        // An answer that is not final may have changed.
        if !matches!(&self.state.answer, Known::Answer(answer) if answer.is_final()) {
            self.state.answer = Known::NotYet;
        }
        let mut has_claimed = false;
        loop {
            let asked = self.asked();
            let action = decision::next_action(&self.goal, &own, &asked, &self.memory());
            match action {
                Action::Claim if has_claimed => {
                    return Ok(Attempt::wait("the previous claim is about to expire"));
                }
                Action::GetRecord | Action::Claim => {
                    has_claimed = action == Action::Claim;
                    if let Some(why) = self.ask(has_claimed, &own)? {
                        return Ok(Attempt::wait(why));
                    }
                }
                action => {
                    self.state.last = Some(action.clone());
                    let view = if let OwnServer::Member(view) = own { Some(view) } else { None };
                    return self.act(action, view, self.record());
                }
            }
        }
    }

    /// Notes since when the state is as it is.
    fn observe(&mut self, own: &OwnServer) -> Result<(), Failure> {
        let now = Instant::now();
        match own {
            OwnServer::OtherCredentials => {
                self.state.other_credentials_since.get_or_insert(now);
            }
            _ => self.state.other_credentials_since = None,
        }
        let OwnServer::Member(view) = own else {
            return Ok(());
        };
        let nodes = view.nodes.iter().map(|node| (node.otp.clone(), node.membership));
        let nodes: Vec<_> = nodes.collect();
        if self.state.nodes != nodes || view.is_rebalancing {
            self.state.nodes = nodes;
            self.state.same_since = Some(now);
        }
        self.state.rebalances.watch(&self.here.server, view, view.is_balanced, self.printer)
    }

    /// The API's last answer.
    fn asked(&self) -> Asked {
        match &self.state.answer {
            Known::NotYet => Asked::NotYet,
            Known::NoRecord => Asked::NoRecord,
            Known::Answer(answer) => Asked::Record(answer.record()),
        }
    }

    fn record(&self) -> Option<Record> {
        if let Asked::Record(record) = self.asked() { Some(record) } else { None }
    }

    fn memory(&self) -> Memory {
        let Memory { rest, unreachable_for, .. } = self.state.rebalances.memory();
        let occupied = self.state.occupied.as_ref();
        Memory {
            other_credentials_for: time_since(self.state.other_credentials_since),
            same_for: time_since(self.state.same_since),
            unreachable_for,
            rest,
            occupied_by: occupied.map(|(node, since)| (node.clone(), since.elapsed())),
            ..self.state.done.clone()
        }
    }

    fn is_enterprise(&self) -> bool {
        self.state.pools.as_ref().is_none_or(|pools| pools.is_enterprise)
    }

    fn read_own_server(&mut self) -> Result<OwnServer, Failure> {
        let server = &self.here.server;
        let pools = match server.pools() {
            Err(Error::Untrusted(why)) => return Err(untrusted(&why)),
            Err(error) => return Ok(unusable(error)),
            Ok(pools) => pools,
        };
        if self.state.pools.is_none() {
            let state = match &pools.uuid {
                None => "belongs to no cluster yet".to_owned(),
                Some(uuid) => format!("belongs to the cluster {uuid}"),
            };
            let (url, version) = (&server.url, &pools.version);
            self.printer.step(format_args!("server: {url} runs {version} and {state}"));
        }
        let uuid = pools.uuid.clone();
        self.state.pools = Some(pools);
        Ok(match uuid.map(|uuid| server.view(uuid)) {
            // Everything slow, or that may be refused, comes before a claim.
            None => match server.own_info() {
                Ok(own) => {
                    self.state.own_uuid.clone_from(&own.uuid);
                    self.state.memory_bytes = own.memory_total;
                    OwnServer::Blank(own.uuid)
                }
                Err(error) => unusable(error),
            },
            Some(Ok(Some(view))) => {
                let uuid = view.this().and_then(|this| this.uuid.clone());
                // This answer may lack the UUID of an earlier one.
                self.state.own_uuid = uuid.or(self.state.own_uuid.take());
                OwnServer::Member(view)
            }
            Some(Ok(None)) => {
                OwnServer::Unreachable("the server is joining or leaving a cluster".to_owned())
            }
            Some(Err(error)) => unusable(error),
        })
    }

    /// Asks the API. Returns why to wait if it has no answer.
    fn ask(&mut self, claim: bool, own: &OwnServer) -> anyhow::Result<Option<String>> {
        if claim
            && matches!(own, OwnServer::Blank(_))
            && let Some(why) = self.check_before_claim()?
        {
            return Ok(Some(why));
        }
        let node = &self.here.node;
        let answer = if claim {
            self.api.claim(node, self.state.own_uuid.as_ref(), self.plan.lease.seconds()).map(Some)
        } else {
            self.api.status(Some(node))
        };
        let answer = match answer {
            // An answer to a claim does not name the members.
            Ok(Some(answer)) if claim && answer.is_final() => self.api.status(Some(node)),
            answer => answer,
        };
        match answer {
            Ok(None) => self.state.answer = Known::NoRecord,
            Ok(Some(answer)) => self.learn(answer),
            Err(ApiError::Temporary(why)) => return Ok(Some(why)),
            Err(ApiError::Refused(problem)) if problem.code == "name_taken" => {
                let (id, why) = (self.api.cluster_id.as_str(), problem.detail);
                self.printer.warning_once(format_args!(
                    "another machine claims `{id}` under this node's name: {why}"
                ));
                return Ok(Some(format!("{why}; give each machine its own `--node`")));
            }
            Err(error) => return Err(api_failure(error)),
        }
        Ok(None)
    }

    /// Stores an answer and prints what is new in it.
    fn learn(&mut self, answer: Answer) {
        let answer = answer.bounded_by(self.state.claim);
        let record = answer.record();
        let (id, node, generation) =
            (self.api.cluster_id.as_str(), &self.here.node, record.generation);
        if generation != self.state.claim.0 {
            // The node that lost this claim has not been inspected.
            self.state.done.inspections.clear();
            let first = if record.is_initial { "this node" } else { record.initial_node.as_str() };
            self.printer
                .step(format_args!("claim: {first} is the first (generation {generation})"));
        }
        self.state.claim = answer.claim();
        if let (true, Some(rival)) = (record.is_initial, &record.rival) {
            self.printer.warning_once(format_args!(
                "another server (its UUID begins with {rival}) claims `{id}` under this node's name `{node}`: give each machine its own `--node`"
            ));
        }
        self.state.answer = Known::Answer(Box::new(answer));
    }

    fn act(
        &mut self,
        action: Action,
        view: Option<View>,
        record: Option<Record>,
    ) -> anyhow::Result<Round> {
        match (action, view, record) {
            (Action::Wait(why), view, _) => {
                let is_running = view.is_some_and(|view| view.is_rebalancing);
                let rebalance = if is_running { self.here.server.rebalance().ok() } else { None };
                Ok(Attempt::wait(match rebalance.and_then(|rebalance| rebalance.progress) {
                    Some(percent) => format!("{why} ({percent:.0} %)"),
                    None => why,
                }))
            }
            (Action::Refuse(refusal), ..) => Err(self.explain(&refusal).into()),
            (Action::Done, Some(view), Some(record)) => Ok(Attempt::Done(Box::new((view, record)))),
            (Action::Inspect(nodes), ..) => Ok(self.inspect(&nodes)),
            (Action::GiveUpClaim(node), ..) => Ok(self.give_up_claim(&node)),
            (Action::Initialise, ..) => self.initialise(),
            (Action::Join(members), _, Some(record)) => self.join(&members, &record),
            (Action::Confirm(members), Some(view), Some(record)) => {
                Ok(self.confirm(&members, &view, &record))
            }
            (Action::Report(_), Some(view), Some(record)) => self.report(&view, &record),
            (Action::Settle(extra), Some(view), _) => Ok(self.settle(&extra, &view)),
            (Action::Eject(otp), ..) => Ok(match self.here.server.eject(&otp) {
                Ok(()) => {
                    self.printer.warning(format_args!(
                        "`{otp}` was added and cannot be reached: it was removed again"
                    ));
                    Attempt::Again
                }
                Err(error) => {
                    Attempt::wait(format!("`{otp}` is dead and cannot be removed yet: {error}"))
                }
            }),
            (Action::Rebalance { known, removed }, ..) => {
                let (server, printer) = (&self.here.server, self.printer);
                let started = self.state.rebalances.start(server, &known, "", &removed, printer);
                if started == Ok(true) {
                    printer.step(format_args!("rebalance: of {}", count_nodes(known.len())));
                }
                Ok(Attempt::wait(started.err().unwrap_or_else(|| "a rebalance runs".to_owned())))
            }
            _ => Ok(Attempt::Again),
        }
    }
}

fn unusable(error: Error) -> OwnServer {
    match error {
        Error::Unauthorized => OwnServer::OtherCredentials,
        error => OwnServer::Unreachable(error.to_string()),
    }
}

fn untrusted(why: &str) -> Failure {
    Failure::new(why).hint(
        "give the authority that signed the servers' certificates (`--ca-cert`), or all nodes the same secret (`--secret-file`)",
    )
}

fn count_nodes(number: usize) -> String {
    format!("{number} node{}", if number == 1 { "" } else { "s" })
}
