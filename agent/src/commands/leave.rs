//! `leave`: moves the node's data to the others, takes it out of its cluster, and tells the API.

use std::{collections::BTreeMap, fmt, time::Instant};

use cbbootstrap_protocol::wire::State;
use serde::Serialize;

use super::{
    clock::{Clock, Wait},
    lock,
    rebalances::Rebalances,
    refused,
    up::note_unreachable,
};
use crate::{
    api::{Api, Unanswered},
    cli::LeaveArgs,
    decision::{self, Memory, Through, obstacle, resting},
    failure::{Exit, Failure},
    printer::Printer,
    server::{Error, Membership, View},
    settings::{self, Here, Patience},
};

/// So many members are asked about the node's name: each may take a while not to answer.
const MOST_ASKED: usize = 3;

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    cluster_id: String,
    node: String,
    /// The node that others join now; `None` if the API knows of no cluster.
    initial_node: Option<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster_id, node, .. } = self;
        write!(f, "`{node}` has left `{cluster_id}`")?;
        match &self.initial_node {
            Some(next) => write!(f, "; the node to join is `{next}`"),
            None => write!(f, "; the API knows of no such cluster"),
        }
    }
}

/// What to do next about the server.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Wait(String),
    /// Start a rebalance of these nodes, the first list, without the others.
    Rebalance(String, String),
    /// Take a node out that was never rebalanced in.
    Eject(String),
    LastNode,
}

pub fn run(args: LeaveArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let clock = Clock::new(Patience::from(args.wait));
    let (here, api) = settings::here(args.api, args.server, clock.deadline())?;
    let _lock = lock(&here.server, &clock, printer)?;
    let mut leaving = Leaving::new(&here, &api, printer);
    let generation = leaving.until_blank(&clock)?;
    if !leaving.is_on_its_way {
        leaving.check_name()?;
    }
    // A claim is given up only by the server that has made it.
    let node_uuid = here.server.own().ok().and_then(|own| own.uuid);
    let initial_node = loop {
        match api.leave(&here.node, node_uuid.as_ref(), generation) {
            Ok(answer) => break Some(answer.now().initial_node.to_string()),
            Err(Unanswered::Later(why)) => clock.pause(printer, &Wait::new(why))?,
            Err(Unanswered::Refused(problem)) if problem.code == "cluster_not_found" => break None,
            Err(error) => return Err(refused(error)),
        }
    };
    printer.result(&Outcome {
        cluster_id: api.cluster_id.as_str().to_owned(),
        node: here.node.to_string(),
        initial_node,
    })?;
    Ok(Exit::Done)
}

/// What a run works with, and what it remembers.
struct Leaving<'r> {
    here: &'r Here,
    api: &'r Api,
    printer: &'r Printer,
    /// The record's generation, once the API was asked.
    generation: Option<u64>,
    has_asked: bool,
    is_on_its_way: bool,
    rebalances: Rebalances,
    unreachable: BTreeMap<String, Instant>,
}

impl<'r> Leaving<'r> {
    fn new(here: &'r Here, api: &'r Api, printer: &'r Printer) -> Self {
        Self {
            here,
            api,
            printer,
            generation: None,
            has_asked: false,
            is_on_its_way: false,
            rebalances: Rebalances::default(),
            unreachable: BTreeMap::new(),
        }
    }

    /// Until the server belongs to no cluster. Returns the generation of the record, where it is known.
    fn until_blank(&mut self, clock: &Clock) -> anyhow::Result<Option<u64>> {
        loop {
            let why = match self.here.server.cluster() {
                Ok(None) => {
                    self.printer.step("server: belongs to no cluster");
                    if self.is_on_its_way {
                        self.printer.step(
                            "certificates: the server has a new one of its own; load yours again before the next `up`, if it had one of yours",
                        );
                    }
                    return Ok(self.generation);
                }
                // While it is reset, it may have lost the password already.
                Err(Error::Unauthorized) if !self.is_on_its_way => {
                    return Err(Failure::refused(
                        "the server has another user name or password; nothing was changed",
                    )
                    .hint("give the cluster's user name and password")
                    .into());
                }
                Err(error) => error.to_string(),
                Ok(Some(view)) => self.take_out(&view)?,
            };
            clock.pause(self.printer, &Wait::new(why))?;
        }
    }

    /// One step on the way out. Returns why to wait.
    fn take_out(&mut self, view: &View) -> anyhow::Result<String> {
        if !self.has_asked {
            self.check(view)?;
            self.has_asked = true;
        }
        note_unreachable(&mut self.unreachable, view);
        // Nothing but the node's absence will do.
        self.rebalances.watch(&self.here.server, view, false, self.printer)?;
        let unreachable = self.unreachable.iter();
        let memory = Memory {
            unreachable_for: unreachable
                .map(|(otp, since)| (otp.clone(), since.elapsed()))
                .collect(),
            rest: self.rebalances.rest(),
            ..Memory::default()
        };
        let server = &self.here.server;
        Ok(match next(view, &memory) {
            Next::Wait(why) => why,
            Next::LastNode => {
                return Err(Failure::refused(
                    "it is the cluster's last active node, and without it the data is gone; nothing was changed",
                )
                .hint("if the whole cluster is to go, end its machines, and `cbbootstrap cluster forget` its record")
                .into());
            }
            Next::Eject(otp) => match server.eject(&otp) {
                Ok(()) => {
                    self.is_on_its_way |= view.this().is_some_and(|this| this.otp == otp);
                    self.printer
                        .step(format_args!("eject: `{otp}`, which was never rebalanced in"));
                    format!("`{otp}` is being removed")
                }
                Err(error) => format!("`{otp}` cannot be removed yet: {error}"),
            },
            Next::Rebalance(known, ejected) => match server.start_rebalance(&known, &ejected) {
                Ok(true) => {
                    for node in view
                        .nodes
                        .iter()
                        .filter(|node| node.membership == Membership::Failed && !node.is_asked)
                    {
                        self.printer.warning(format_args!(
                            "`{}` has been failed over and cannot be reached: the rebalance removes it", node.name
                        ));
                    }
                    self.is_on_its_way = true;
                    self.rebalances.begin();
                    self.printer.step("rebalance: this node's data moves to the others");
                    "a rebalance runs".to_owned()
                }
                Ok(false) => "another rebalance runs".to_owned(),
                Err(error) => format!("the rebalance does not begin yet: {error}"),
            },
        })
    }

    /// A server that is blank from the beginning may be that of a second machine with the name of a living member, whose entry must
    /// stay. Members that cannot be asked do not keep a node from leaving.
    fn check_name(&self) -> anyhow::Result<()> {
        let Here { node, server, peers, .. } = self.here;
        let (Ok(pools), Ok(own)) = (server.pools(), server.own()) else {
            return Ok(());
        };
        let Ok(Some(answer)) = self.api.status(Some(node)) else {
            return Ok(());
        };
        let record = answer.now();
        if record.state != State::Ready || record.member(node).is_none() {
            return Ok(());
        }
        let others = record.nodes().into_iter().filter(|other| *other != node);
        let seen = others.take(MOST_ASKED).find_map(|member| {
            let member = peers.connect(member, &record, pools.is_enterprise).ok()?;
            member.cluster().ok().flatten()
        });
        let Some(view) = seen else { return Ok(()) };
        let through =
            decision::through(node, own.uuid.as_ref(), &view, record.cluster_uuid.as_ref());
        let Through::NameTaken(uuid) = through else {
            return Ok(());
        };
        Err(Failure::refused(format!(
            "the cluster has a healthy member `{node}` whose server has the UUID {uuid}, and this server is another one: two machines have the same name; nothing was changed"
        ))
        .hint("give each machine a `--node` of its own")
        .into())
    }

    /// The server must belong to the cluster that the API tells of, if it tells of one.
    fn check(&mut self, view: &View) -> anyhow::Result<()> {
        let record = match self.api.status(Some(&self.here.node)) {
            Ok(answer) => answer.map(|answer| answer.now()),
            // It can be told later; the data moves already.
            Err(Unanswered::Later(_)) => None,
            Err(error) => return Err(refused(error)),
        };
        self.generation = record.as_ref().map(|record| record.generation);
        let is_only_member = record.as_ref().is_some_and(|record| {
            let mut nodes = record.nodes().into_iter();
            record.state == State::Ready && nodes.all(|node| *node == self.here.node)
        });
        let id = self.api.cluster_id.as_str();
        match record.and_then(|record| record.cluster_uuid) {
            Some(recorded) if recorded != view.uuid => Err(Failure::refused(format!(
                "the server belongs to the cluster {}, and that of `{id}` is {recorded}; nothing was changed",
                view.uuid
            ))
            .hint("is `--cluster-id` the one that this node came up with?")
            .into()),
            _ if is_only_member && view.nodes.len() > 1 => Err(Failure::refused(format!(
                "the API knows of no other member of `{id}`, and without this one nobody could join; nothing was changed"
            ))
            .hint("run `cbbootstrap-agent up` on another member, and this again")
            .into()),
            _ => Ok(()),
        }
    }
}

/// How the node gets out of what it sees.
fn next(view: &View, memory: &Memory) -> Next {
    let Some(this) = view.this() else {
        return Next::Wait("the server does not know itself yet".to_owned());
    };
    let mut others = view.nodes.iter().filter(|node| !node.is_asked);
    if !others.any(|node| node.membership == Membership::Active) {
        return Next::LastNode;
    }
    if view.is_rebalancing {
        return Next::Wait("a rebalance runs".to_owned());
    }
    if this.membership == Membership::Added && !this.is_recovering {
        return Next::Eject(this.otp.clone());
    }
    match obstacle(view, memory) {
        Some(decision::Next::Eject(otp)) => return Next::Eject(otp),
        Some(decision::Next::Wait(why)) => return Next::Wait(why),
        _ => {}
    }
    if !memory.rest.is_zero() {
        return Next::Wait(resting(memory.rest));
    }
    let known: Vec<_> = view.nodes.iter().map(|node| node.otp.as_str()).collect();
    Next::Rebalance(known.join(","), this.otp.clone())
}
