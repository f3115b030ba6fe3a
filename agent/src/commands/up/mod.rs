//! `up`: looks, does what is missing, looks again, until the node is a member of the one cluster and all is well.

mod join;
mod refusal;
mod steps;

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use cbbootstrap_function::wire::State;
use serde::Serialize;

use super::{Clock, jitter, lock, rebalances::Rebalances, refused};
use crate::{
    api::{Api, Record, Unanswered},
    cli::UpArgs,
    decision::{self, Asked, Memory, Next, Own, Wanted},
    failure::{Exit, Failure},
    printer::Printer,
    server::{Error, Membership, View},
    settings::{self, Here, Plan},
};

/// So often an addition may fail before that is enough.
const TRIES: u32 = 10;

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
    buckets: Vec<String>,
    seconds: f64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cluster_id,
            cluster_uuid,
            node,
            nodes,
            ..
        } = self;
        write!(
            f,
            "`{node}` is an active member of `{cluster_id}` ({cluster_uuid}), which is balanced and has {}",
            count(nodes.len(), "node")
        )
    }
}

pub fn run(args: UpArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let insecure = args.server.insecure;
    let here = settings::here(args.server, args.api.secret_file.as_deref())?;
    let api = settings::api(args.api)?;
    let plan = Plan::try_from(args.cluster)?;
    let clock = Clock::new(args.wait.into());
    if insecure {
        printer.warning(
            "--insecure: no certificate is checked. Whoever can answer for another node on this network gets the administrator's password",
        );
    }
    let _lock = lock(&here.server, &clock, printer)?;
    let mut run = Run::new(&here, &api, &plan, printer);
    let (view, record) = loop {
        match run.round()? {
            Round::Wait(reason) => clock.pause(printer, &reason)?,
            Round::Again => {}
            Round::Done(seen) => break *seen,
        }
    };
    printer.result(&Outcome {
        cluster_id: api.cluster_id.clone(),
        cluster_uuid: view.uuid,
        node: here.node,
        is_initial_node: record.cluster.is_initial_node,
        generation: record.cluster.generation,
        nodes: view.nodes.into_iter().map(|node| node.name).collect(),
        buckets: view.buckets,
        seconds: (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    })?;
    Ok(Exit::Done)
}

/// How a round ended.
enum Round {
    Wait(String),
    Again,
    Done(Box<(View, Record)>),
}

/// A run: what it works with, and what it remembers from round to round.
struct Run<'r> {
    here: &'r Here,
    api: &'r Api,
    plan: &'r Plan,
    printer: &'r Printer,
    wanted: Wanted,
    /// The API's record, once it is final or was asked for in this round.
    record: Asked,
    seen: Seen,
    /// The generation that was told last.
    told: Option<u64>,
    /// Whether the server has been heard.
    is_up: bool,
    is_enterprise: bool,
    rebalances: Rebalances,
    refusals: u32,
    avoid: BTreeMap<String, Instant>,
    adding: Option<(String, Instant)>,
    done: Memory,
}

/// Since when things are as they are.
#[derive(Default)]
struct Seen {
    stranger: Option<Instant>,
    nodes: Vec<(String, Membership)>,
    same: Option<Instant>,
    unreachable: BTreeMap<String, Instant>,
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
        let nodes = view
            .nodes
            .iter()
            .map(|node| (node.otp.clone(), node.membership));
        let nodes: Vec<_> = nodes.collect();
        if self.nodes != nodes || view.rebalancing {
            self.nodes = nodes;
            self.same = Some(now);
        }
        self.unreachable.retain(|otp, _| {
            view.nodes
                .iter()
                .any(|node| node.otp == *otp && !node.healthy)
        });
        for node in view.nodes.iter().filter(|node| !node.healthy) {
            self.unreachable.entry(node.otp.clone()).or_insert(now);
        }
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
                buckets: plan.buckets.iter().map(|b| b.name.clone()).collect(),
                group: plan.group.clone(),
                adopt: plan.adopt,
                settle: jitter(plan.settle),
            },
            record: Asked::NotYet,
            seen: Seen::default(),
            told: None,
            is_up: false,
            is_enterprise: true,
            rebalances: Rebalances::default(),
            refusals: 0,
            avoid: BTreeMap::new(),
            adding: None,
            done: Memory {
                address_done: plan.alternate_address.is_none(),
                ..Memory::default()
            },
        }
    }

    /// One look and what follows from it.
    fn round(&mut self) -> anyhow::Result<Round> {
        let own = self.look()?;
        self.seen.own(&own);
        if let Own::Member(view) = &own {
            let server = &self.here.server;
            self.rebalances
                .watch(server, view, view.balanced, self.printer)?;
        }
        // A record that is not final may have changed.
        if self.known().is_none_or(|record| !is_final(record)) {
            self.record = Asked::NotYet;
        }
        let mut has_claimed = false;
        loop {
            let next = decision::next(&self.wanted, &own, &self.record, &self.memory());
            if matches!(next, Next::Claim) && has_claimed {
                return Ok(Round::Wait("the claim before is about to lapse".to_owned()));
            }
            match next {
                Next::Ask | Next::Claim => {
                    if let Some(why) = self.ask(matches!(next, Next::Claim))? {
                        return Ok(Round::Wait(why));
                    }
                    has_claimed = matches!(next, Next::Claim);
                }
                Next::Done => {
                    let (Own::Member(view), Some(record)) = (own, self.known()) else {
                        return Ok(Round::Again);
                    };
                    return Ok(Round::Done(Box::new((view, record.clone()))));
                }
                next => return self.act(next, &own),
            }
        }
    }

    fn known(&self) -> Option<&Record> {
        self.record.record()
    }

    fn memory(&self) -> Memory {
        let now = Instant::now();
        let since = |time: Option<Instant>| time.map_or(Duration::ZERO, |time| now - time);
        Memory {
            stranger_for: since(self.seen.stranger),
            same_for: since(self.seen.same),
            unreachable_for: self
                .seen
                .unreachable
                .iter()
                .map(|(otp, time)| (otp.clone(), now - *time))
                .collect(),
            rest: self.rebalances.rest(),
            ..self.done.clone()
        }
    }

    fn look(&mut self) -> Result<Own, Failure> {
        let server = &self.here.server;
        let pools = match server.pools() {
            Ok(pools) => pools,
            Err(Error::Unauthorized) => return Ok(Own::Stranger),
            Err(Error::Untrusted(why)) => return Err(join::untrusted(&why)),
            Err(error) => return Ok(Own::Away(error.to_string())),
        };
        self.is_enterprise = pools.enterprise;
        if !self.is_up {
            self.is_up = true;
            let state = match &pools.uuid {
                None => "belongs to no cluster yet".to_owned(),
                Some(uuid) => format!("belongs to the cluster {uuid}"),
            };
            let (url, version) = (&server.url, &pools.version);
            self.printer
                .step(format_args!("server: {url} runs {version} and {state}"));
        }
        let Some(uuid) = pools.uuid else {
            return Ok(Own::Blank);
        };
        Ok(match server.view(uuid) {
            Ok(Some(view)) => Own::Member(view),
            Ok(None) => Own::Blank,
            Err(Error::Unauthorized) => Own::Stranger,
            Err(error) => Own::Away(error.to_string()),
        })
    }

    /// Asks the API. Tells why to wait if it does not say.
    fn ask(&mut self, claim: bool) -> anyhow::Result<Option<String>> {
        // Who claims must be able to go on.
        if claim && let Some(why) = self.check_node()? {
            return Ok(Some(why));
        }
        let node = &self.here.node;
        let answer = if claim {
            self.api.claim(node, self.plan.lease.seconds()).map(Some)
        } else {
            self.api.status(Some(node))
        };
        match answer {
            Ok(record) => {
                if let Some(record) = &record {
                    self.tell(record);
                }
                self.record = record.map_or(Asked::Nothing, Asked::Record);
                Ok(None)
            }
            Err(Unanswered::Later(why)) => Ok(Some(why)),
            Err(error) => Err(refused(error)),
        }
    }

    /// Says who is the first, when that is new.
    fn tell(&mut self, record: &Record) {
        let cluster = &record.cluster;
        let generation = cluster.generation;
        if self.told.replace(generation) == Some(generation) {
            return;
        }
        let first = if cluster.is_initial_node {
            "this node"
        } else {
            &cluster.initial_node_ip_addr_or_hostname
        };
        self.printer.step(format_args!(
            "claim: {first} is the first (generation {generation})"
        ));
    }

    /// Does what is next.
    fn act(&mut self, next: Next, own: &Own) -> anyhow::Result<Round> {
        match next {
            Next::Wait(why) => Ok(Round::Wait(self.with_progress(why, own))),
            Next::Refuse(refusal) => Err(self.refusal(&refusal).into()),
            Next::Initialise => self.initialise(),
            Next::Join(members) => self.join(&members),
            Next::Rebalance { known, ejected } => Ok(self.rebalance(&known, &ejected)),
            Next::Group => Ok(self.group(own)),
            Next::CreateBucket(name) => self.create_bucket(&name),
            Next::Address => self.address(),
            Next::Report(uuid) => self.report(&uuid),
            Next::Ask | Next::Claim | Next::Done => Ok(Round::Again),
        }
    }

    fn with_progress(&self, why: String, own: &Own) -> String {
        let is_running = matches!(own, Own::Member(view) if view.rebalancing);
        let progress = is_running
            .then(|| self.here.server.rebalance().ok()?.progress)
            .flatten();
        match progress {
            Some(percent) => format!("{why} ({percent:.0} %)"),
            None => why,
        }
    }
}

fn is_final(record: &Record) -> bool {
    record.cluster.state == State::Ready
}

/// `1 node`, `2 nodes`.
fn count(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}
