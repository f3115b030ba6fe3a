//! `up`: looks, does what is missing, looks again, until the node is a member of the one cluster and all is well.

mod extras;
mod first;
mod join;
mod refusal;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use cbbootstrap_protocol::names::{Node, Uuid};
use serde::Serialize;

use super::{
    clock::{Clock, Wait, jitter, since},
    lock,
    rebalances::Rebalances,
    refused,
};
use crate::{
    api::{Answer, Api, Unanswered},
    cli::UpArgs,
    decision::{self, Asked, Memory, Next, Own, Wanted},
    failure::{Exit, Failure},
    printer::Printer,
    record::Record,
    server::{Error, Health, Membership, Pools, View},
    settings::{self, Here, Patience, Plan},
    values::{Lease, Service},
};

/// An addition may fail this often before the agent gives up.
const TRIES: u32 = 10;

/// After this many actions without a pause the agent pauses. A node needs fewer until it waits for something.
const ACTIONS: u32 = 10;

/// How long a node whose claim never expires waits for one that lost its claim but has a cluster.
const OCCUPIED_LIMIT: Duration = Duration::from_mins(5);

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    cluster_id: String,
    cluster_uuid: String,
    node: String,
    /// Whether it is the one that others join.
    is_initial_node: bool,
    generation: u64,
    /// All nodes of the cluster.
    nodes: Vec<String>,
    /// Those among them that were failed over.
    failed_over: Vec<String>,
    /// Those that cannot be reached.
    unhealthy: Vec<String>,
    balanced: bool,
    buckets: Vec<String>,
    /// What was asked for and refused.
    refused: Vec<String>,
    seconds: f64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster_id, cluster_uuid, node, nodes, .. } = self;
        let balanced = if self.balanced { "is balanced" } else { "is not balanced" };
        let count = count(nodes.len(), "node");
        write!(
            f,
            "`{node}` is an active member of `{cluster_id}` ({cluster_uuid}), which {balanced} and has {count}"
        )?;
        for (names, what) in
            [(&self.failed_over, "failed over"), (&self.unhealthy, "not reachable")]
        {
            if !names.is_empty() {
                write!(f, "; {what}: {}", names.join(", "))?;
            }
        }
        if !self.refused.is_empty() {
            write!(f, "; refused: {}", self.refused.join(", "))?;
        }
        Ok(())
    }
}

pub fn run(args: UpArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let clock = Clock::new(Patience::from(args.wait));
    let (here, api) = settings::here(args.api, args.server, clock.deadline())?;
    let plan = Plan::try_from(args.cluster)?;
    if here.peers.is_insecure {
        printer.warning(
            "--insecure: TLS certificates are not verified. Any host that can impersonate another node receives the administrator's password",
        );
    }
    let _lock = lock(&here.server, &clock, printer)?;
    let mut run = Run::new(&here, &api, &plan, printer);
    let (view, record) = run.until_done(&clock)?;
    let named = |keep: &dyn Fn(&crate::server::NodeInfo) -> bool| -> Vec<String> {
        view.nodes.iter().filter(|node| keep(node)).map(|node| node.name.clone()).collect()
    };
    let outcome = Outcome {
        cluster_id: api.cluster_id.as_str().to_owned(),
        cluster_uuid: view.uuid.as_str().to_owned(),
        node: here.node.to_string(),
        is_initial_node: record.is_initial,
        generation: record.generation,
        nodes: named(&|_| true),
        failed_over: named(&|node| node.membership == Membership::Failed),
        unhealthy: named(&|node| {
            node.health == Health::Unhealthy && node.membership == Membership::Active
        }),
        balanced: view.is_balanced,
        buckets: view.buckets,
        refused: run.refused,
        seconds: (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    };
    printer.result(&outcome)?;
    let is_all_well =
        outcome.refused.is_empty() && outcome.balanced && outcome.failed_over.is_empty();
    Ok(if is_all_well { Exit::Done } else { Exit::Partial })
}

/// How a round ended.
enum Round {
    Wait(Wait),
    /// Something was done.
    Again,
    Done(Box<(View, Record)>),
}

impl Round {
    fn wait(reason: impl Into<String>) -> Self {
        Self::Wait(Wait::new(reason))
    }
}

/// A run: what it works with, and what it remembers from round to round.
struct Run<'r> {
    here: &'r Here,
    api: &'r Api,
    plan: &'r Plan,
    printer: &'r Printer,
    wanted: Wanted,
    /// The API's answer, once it is final or was asked for in this round.
    asked: Known,
    seen: Seen,
    /// The generation that was last printed.
    told: Option<u64>,
    /// The rival that the user was last warned of.
    told_rival: Option<Uuid>,
    /// The server's own words of itself, once it has been heard.
    pools: Option<Pools>,
    own_uuid: Option<Uuid>,
    /// The memory that the server may use, in bytes.
    memory_bytes: u64,
    rebalances: Rebalances,
    refusals: u32,
    avoid: BTreeMap<Node, Instant>,
    adding: Option<(Node, Instant)>,
    /// The latest claim: its generation, and when its lease ends.
    lease: (u64, Option<Instant>),
    refused: Vec<String>,
    /// The buckets that this run has created. Each appears a little later.
    created: BTreeSet<String>,
    /// Whether a request to initialise the server broke off, and may be carried out later.
    may_be_under_way: bool,
    /// How often the membership could not be attested.
    unattested: u32,
    done: Memory,
    /// What was done in the round before.
    last: Option<Next>,
}

/// The API's answer.
enum Known {
    NotYet,
    Nothing,
    Answer(Box<Answer>),
}

impl Known {
    fn as_of_now(&self) -> Asked {
        match self {
            Self::NotYet => Asked::NotYet,
            Self::Nothing => Asked::Nothing,
            Self::Answer(answer) => Asked::Record(answer.now()),
        }
    }
}

/// Since when things are as they are.
#[derive(Default)]
struct Seen {
    stranger: Option<Instant>,
    nodes: Vec<(String, Membership)>,
    same: Option<Instant>,
    unreachable: BTreeMap<String, Instant>,
    occupied: Option<(Node, Instant)>,
    /// Since when a member has listed another server under this node's name.
    name_taken: Option<Instant>,
}

impl Seen {
    fn own(&mut self, own: &Own) {
        let now = Instant::now();
        match own {
            Own::Stranger => {
                self.stranger.get_or_insert(now);
            }
            _ => self.stranger = None,
        }
        let Own::Member(view) = own else { return };
        let nodes = view.nodes.iter().map(|node| (node.otp.clone(), node.membership));
        let nodes: Vec<_> = nodes.collect();
        if self.nodes != nodes || view.is_rebalancing {
            self.nodes = nodes;
            self.same = Some(now);
        }
        note_unreachable(&mut self.unreachable, view);
    }
}

/// Notes since when each node has been unreachable.
pub(super) fn note_unreachable(unreachable: &mut BTreeMap<String, Instant>, view: &View) {
    let is_away = |otp: &String| {
        view.nodes.iter().any(|node| node.otp == *otp && node.health == Health::Unhealthy)
    };
    unreachable.retain(|otp, _| is_away(otp));
    for node in view.nodes.iter().filter(|node| node.health == Health::Unhealthy) {
        unreachable.entry(node.otp.clone()).or_insert_with(Instant::now);
    }
}

impl<'r> Run<'r> {
    fn new(here: &'r Here, api: &'r Api, plan: &'r Plan, printer: &'r Printer) -> Self {
        Self {
            here,
            api,
            plan,
            printer,
            wanted: Wanted {
                node: here.node.clone(),
                can_begin: plan.services.has(Service::Data),
                trusts_members: here.peers.are_distinguishable(),
                buckets: plan.buckets.iter().map(|b| b.name.clone()).collect(),
                group: plan.group.clone(),
                address: plan.alternate_address.is_some(),
                attests: here.peers.keys.is_some(),
                adopt: plan.adopt,
                settle: jitter(plan.settle),
                lease: match plan.lease {
                    Lease::For(lease) => lease,
                    Lease::Never => OCCUPIED_LIMIT,
                },
            },
            asked: Known::NotYet,
            seen: Seen::default(),
            told: None,
            told_rival: None,
            pools: None,
            own_uuid: None,
            memory_bytes: 0,
            rebalances: Rebalances::default(),
            refusals: 0,
            avoid: BTreeMap::new(),
            adding: None,
            lease: (0, None),
            refused: Vec::new(),
            created: BTreeSet::new(),
            may_be_under_way: false,
            unattested: 0,
            done: Memory::default(),
            last: None,
        }
    }

    /// Rounds until the node is a member and all is settled. An action that is decided on again although it was done waits like
    /// anything else, so whatever servers and the API answer, the agent never spins.
    fn until_done(&mut self, clock: &Clock) -> anyhow::Result<(View, Record)> {
        let mut before = None;
        let mut actions = 0;
        loop {
            match self.round()? {
                Round::Done(seen) => return Ok(*seen),
                Round::Wait(wait) => {
                    actions = 0;
                    clock.pause(self.printer, &wait)?;
                }
                Round::Again => {
                    actions += 1;
                    let again = Wait::new("what was done last has no effect yet");
                    let is_repeated = before.is_some() && before == self.last;
                    if is_repeated || actions >= ACTIONS {
                        actions = 0;
                        clock.pause(self.printer, &again)?;
                    }
                    clock.check(&again)?;
                }
            }
            before = self.last.take();
        }
    }

    /// One look and what follows from it.
    fn round(&mut self) -> anyhow::Result<Round> {
        let own = self.look()?;
        self.seen.own(&own);
        if let Own::Member(view) = &own {
            self.rebalances.watch(&self.here.server, view, view.is_balanced, self.printer)?;
        }
        // An answer that is not final may have changed.
        if !matches!(&self.asked, Known::Answer(answer) if answer.is_final()) {
            self.asked = Known::NotYet;
        }
        let mut has_claimed = false;
        loop {
            let asked = self.asked.as_of_now();
            let next = decision::next(&self.wanted, &own, &asked, &self.memory());
            match next {
                Next::Claim if has_claimed => {
                    return Ok(Round::wait("the claim before is about to expire"));
                }
                Next::Ask | Next::Claim => {
                    has_claimed = next == Next::Claim;
                    if let Some(why) = self.ask(has_claimed, &own)? {
                        return Ok(Round::wait(why));
                    }
                }
                Next::Done => {
                    let (Own::Member(view), Asked::Record(record)) = (own, asked) else {
                        return Ok(Round::Again);
                    };
                    return Ok(Round::Done(Box::new((view, record))));
                }
                next => {
                    self.last = Some(next.clone());
                    return self.act(next, &own);
                }
            }
        }
    }

    /// The record, as of now.
    fn record(&self) -> Option<Record> {
        match &self.asked {
            Known::Answer(answer) => Some(answer.now()),
            Known::NotYet | Known::Nothing => None,
        }
    }

    fn memory(&self) -> Memory {
        Memory {
            stranger_for: since(self.seen.stranger),
            same_for: since(self.seen.same),
            unreachable_for: self
                .seen
                .unreachable
                .iter()
                .map(|(otp, time)| (otp.clone(), time.elapsed()))
                .collect(),
            rest: self.rebalances.rest(),
            occupied_by: self
                .seen
                .occupied
                .as_ref()
                .map(|(node, time)| (node.clone(), time.elapsed())),
            ..self.done.clone()
        }
    }

    fn is_enterprise(&self) -> bool {
        self.pools.as_ref().is_none_or(|pools| pools.is_enterprise)
    }

    fn look(&mut self) -> Result<Own, Failure> {
        let server = &self.here.server;
        let pools = match server.pools() {
            Ok(pools) => pools,
            Err(Error::Unauthorized) => return Ok(Own::Stranger),
            Err(Error::Untrusted(why)) => return Err(join::untrusted(&why)),
            Err(error) => return Ok(Own::Away(error.to_string())),
        };
        if self.pools.is_none() {
            let state = match &pools.uuid {
                None => "belongs to no cluster yet".to_owned(),
                Some(uuid) => format!("belongs to the cluster {uuid}"),
            };
            let (url, version) = (&server.url, &pools.version);
            self.printer.step(format_args!("server: {url} runs {version} and {state}"));
        }
        let uuid = pools.uuid.clone();
        self.pools = Some(pools);
        let Some(uuid) = uuid else {
            return Ok(self.look_at_blank());
        };
        Ok(match server.view(uuid) {
            Ok(Some(view)) => {
                let uuid = view.this().and_then(|this| this.uuid.clone());
                // A server that does not say here has said before.
                self.own_uuid = uuid.or(self.own_uuid.take());
                Own::Member(view)
            }
            Ok(None) => {
                Own::Away("the server is on its way into a cluster or out of one".to_owned())
            }
            Err(Error::Unauthorized) => Own::Stranger,
            Err(error) => Own::Away(error.to_string()),
        })
    }

    /// All that is slow or may be refused is looked at here, before a claim.
    fn look_at_blank(&mut self) -> Own {
        match self.here.server.own() {
            Ok(own) => {
                self.own_uuid.clone_from(&own.uuid);
                self.memory_bytes = own.memory;
                Own::Blank(own.uuid)
            }
            Err(Error::Unauthorized) => Own::Stranger,
            Err(error) => Own::Away(error.to_string()),
        }
    }

    /// Asks the API. Returns why to wait if it does not answer.
    fn ask(&mut self, claim: bool, own: &Own) -> anyhow::Result<Option<String>> {
        if claim
            && matches!(own, Own::Blank(_))
            && let Some(why) = self.check_before_claim()?
        {
            return Ok(Some(why));
        }
        let node = &self.here.node;
        let answer = if claim {
            self.api.claim(node, self.own_uuid.as_ref(), self.plan.lease.seconds()).map(Some)
        } else {
            self.api.status(Some(node))
        };
        let answer = match answer {
            // An answer to a claim does not name the members.
            Ok(Some(answer)) if claim && answer.is_final() => self.api.status(Some(node)),
            answer => answer,
        };
        match answer {
            Ok(None) => self.asked = Known::Nothing,
            Ok(Some(answer)) => self.learn(answer),
            Err(Unanswered::Later(why)) => return Ok(Some(why)),
            Err(Unanswered::Refused(problem)) if problem.code == "name_taken" => {
                self.printer.warning_once(format_args!(
                    "another machine claims `{}` under this node's name: {}",
                    self.api.cluster_id.as_str(),
                    problem.detail
                ));
                return Ok(Some(format!(
                    "{}; give each machine a `--node` of its own",
                    problem.detail
                )));
            }
            Err(error) => return Err(refused(error)),
        }
        Ok(None)
    }

    /// Stores an answer and prints what is new in it.
    fn learn(&mut self, answer: Answer) {
        let (generation, end) = self.lease;
        let answer = answer.bounded(generation, end);
        let record = answer.now();
        if answer.lease().0 != generation {
            // Whoever lost the claim now was not looked at yet.
            self.done.looks.clear();
        }
        self.lease = answer.lease();
        if self.told.replace(record.generation) != Some(record.generation) {
            let first = if record.is_initial {
                "this node".to_owned()
            } else {
                record.initial_node.to_string()
            };
            self.printer.step(format_args!(
                "claim: {first} is the first (generation {})",
                record.generation
            ));
        }
        if record.is_initial && record.rival.is_some() && record.rival != self.told_rival {
            self.told_rival.clone_from(&record.rival);
            self.printer.warning(format_args!(
                "another server (its UUID begins with {}) claims `{}` under this node's name `{}`: give each machine a `--node` of its own",
                record.rival.as_ref().map_or("", Uuid::as_str),
                self.api.cluster_id.as_str(),
                self.here.node
            ));
        }
        self.asked = Known::Answer(Box::new(answer));
    }

    /// Does what is next.
    fn act(&mut self, next: Next, own: &Own) -> anyhow::Result<Round> {
        match next {
            Next::Wait(why) => Ok(Round::wait(self.with_progress(why, own))),
            Next::Refuse(refusal) => Err(self.refusal(&refusal).into()),
            Next::LookAt(nodes) => Ok(self.look_at(&nodes)),
            Next::GiveUp(node) => Ok(self.give_up(&node)),
            Next::Initialise => self.initialise(),
            Next::Join(members) => self.join(&members),
            Next::Confirm(members) => Ok(self.confirm(&members, own)),
            Next::Eject(otp) => Ok(self.eject(&otp)),
            Next::Rebalance { known, removed } => Ok(self.rebalance(&known, &removed)),
            Next::Report(uuid) => self.report(&uuid, own),
            Next::Settle(extra) => Ok(self.settle(&extra, own)),
            Next::Ask | Next::Claim | Next::Done => Ok(Round::Again),
        }
    }

    fn with_progress(&self, why: String, own: &Own) -> String {
        let is_running = matches!(own, Own::Member(view) if view.is_rebalancing);
        let progress = is_running.then(|| self.here.server.rebalance().ok()?.progress).flatten();
        match progress {
            Some(percent) => format!("{why} ({percent:.0} %)"),
            None => why,
        }
    }

    fn eject(&mut self, otp: &str) -> Round {
        match self.here.server.eject(otp) {
            Ok(()) => {
                self.printer.warning(format_args!(
                    "`{otp}` was added and cannot be reached: it was removed again"
                ));
                Round::Again
            }
            Err(error) => {
                Round::wait(format!("`{otp}` is dead and cannot be removed yet: {error}"))
            }
        }
    }

    fn rebalance(&mut self, known: &[String], removed: &[String]) -> Round {
        match self.here.server.start_rebalance(&known.join(","), "") {
            Ok(started) => {
                self.rebalances.begin();
                if started {
                    self.printer.step(format_args!("rebalance: of {}", count(known.len(), "node")));
                }
                for node in removed {
                    self.printer.warning(format_args!(
                        "`{node}` has been failed over and cannot be reached: the rebalance removes it"
                    ));
                }
                Round::wait("a rebalance runs")
            }
            // The list has changed, or another rebalance is about to begin.
            Err(error) => Round::wait(format!("the rebalance does not begin yet: {error}")),
        }
    }
}

/// `1 node`, `2 nodes`.
fn count(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}
