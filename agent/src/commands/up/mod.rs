//! `up`: makes the node a member of the one cluster, round by round.

mod extras;
mod first;
mod inspect;
mod join;
mod outcome;
mod rebalance;
mod report;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use cbbootstrap_cli::{exit::Exit, failure::Failure};
use cbbootstrap_protocol::{names::Node, wire};

use self::{first::check_buckets, join::Joining};
use super::{
    clock::{Clock, Interrupt, jitter},
    lock, rebalances,
};
use crate::{
    api::ApiError,
    cli::{ClusterArgs, UpArgs},
    decision::{
        self, Action, Answers, Asked, Extra, FailoverCause, Goal, Memory, OwnServer, StopReason,
    },
    http::CallError,
    pauses::Cause,
    printer::Printer,
    record::ClusterRecord,
    server::{Membership, NodeInfo, Pools, Quotas, View},
    settings::{self, Here},
    values::Quota,
};

/// How long to wait for a problem to pass by itself: this many of the longest pauses between two attempts, and at most this long. After a
/// restart of the host, a name may resolve to its old address for a while, an IPv6 address is tentative at first, and a server's TLS port
/// opens late.
const PASSING_INTERVALS: u32 = 60;
const PASSING_LIMIT: Duration = Duration::from_mins(2);

/// After this many actions without a pause the agent pauses. A node needs fewer until it waits for something.
const MAX_ACTIONS: u32 = 10;

/// How long a node waits for one that lost its claim but has a cluster, if claims never expire.
const OCCUPIED_LIMIT: Duration = Duration::from_mins(5);

/// The server counts an automatic failover a moment after it.
const COUNTED_WITHIN: Duration = Duration::from_secs(2);

pub fn run(args: UpArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let interval = args.wait.pause.interval;
    let clock = Clock::new(args.wait, printer);
    let here = settings::here(args.node.api, args.node.server, clock.deadline)?;
    check_options(&here, &args.cluster, printer)?;
    let _lock = lock(&here.server, &clock)?;
    let mut run = Run::new(here, args.cluster, interval, printer);
    let (view, record) = clock.repeat(|| {
        let own = run.read_own_server()?;
        run.round(own)
    })?;
    let outcome = run.outcome(view, &record, started.elapsed());
    printer.result(&outcome)?;
    Ok(if outcome.is_complete() { Exit::Done } else { Exit::Partial })
}

pub(super) fn check_options(
    here: &Here,
    args: &ClusterArgs,
    printer: &Printer,
) -> Result<(), Failure> {
    // A quota in another form depends on the node's memory: that is checked when it is known.
    let quota = if let Quota::Megabytes(quota) = args.memory_quota { quota } else { u64::MAX };
    check_buckets(&args.buckets, quota)?;
    if here.peers.is_insecure {
        printer.warning(
            "--insecure: TLS certificates are not verified. Any host that can impersonate another node receives the administrator's password",
        );
    }
    Ok(())
}

pub(super) struct Run<'r> {
    pub(super) here: Here,
    args: ClusterArgs,
    printer: &'r Printer,
    /// The longest pause between two attempts.
    pub(super) interval: Duration,
    pub(super) goal: Goal,
    pub(super) state: RunState,
    /// Since when the node's name has not led to this host.
    misnamed_since: Option<Instant>,
}

#[derive(Default)]
pub(super) struct RunState {
    pub(super) memory: Memory,
    pub(super) answers: Answers,
    /// Whether the last round has asked the API for the record, and whether the API did not show it.
    has_asked: bool,
    pub(super) is_record_hidden: bool,
    pools: Option<Pools>,
    /// Whether the node's name leads to this host, and the edition has its services.
    is_checked: bool,
    /// Whether the name leads to IPv6 addresses only.
    is_ipv6: bool,
    /// The memory in bytes that the server may use.
    memory_bytes: u64,
    /// Those that the server, which is blank, would begin a cluster with.
    quotas: Quotas,
    joining: Joining,
    nodes: Vec<(String, Membership)>,
    /// What was requested and refused for good.
    refused: Vec<String>,
    /// The buckets that this run has created. Each appears a little later.
    created: BTreeSet<String>,
    /// Since when this node could not attest its membership.
    unattested_since: Option<Instant>,
    /// Since when no other member has given a clear answer about this server.
    unconfirmed_since: Option<Instant>,
    last: Option<Action>,
    /// Without a pause.
    actions: u32,
}

impl<'r> Run<'r> {
    pub(super) fn new(
        here: Here,
        args: ClusterArgs,
        interval: Duration,
        printer: &'r Printer,
    ) -> Self {
        let group = args.server_group.iter().cloned().map(Extra::Group);
        let buckets = args.buckets.iter().cloned().map(Extra::Bucket);
        let address = args.alternate_address.iter().map(|address| address.host().to_string());
        let goal = Goal {
            can_begin: args.services.has("data"),
            trusts_members: here.peers.can_verify_members(),
            extras: group.chain(buckets).chain(address.map(Extra::AlternateAddress)).collect(),
            attests: here.peers.keys.is_some(),
            adopt: args.adopt,
            settle: jitter(args.settle),
            nodes: args.size.nodes,
            ..Goal::new(here.identity.node.clone(), args.lease.0.unwrap_or(OCCUPIED_LIMIT))
        };
        let state = RunState::default();
        Self { here, args, printer, interval, goal, state, misnamed_since: None }
    }

    /// Forgets what this run has observed and done, except what it must still know, and what it has printed.
    pub(super) fn start_over(&mut self) {
        let RunState { memory, answers, pools, .. } = std::mem::take(&mut self.state);
        let answers = Answers { asked: Asked::NotYet, ..answers };
        self.state = RunState { memory: memory.keep(), answers, pools, ..RunState::default() };
    }

    fn node(&self) -> &Node {
        &self.here.identity.node
    }

    /// Whether a problem has lasted too long to pass by itself.
    fn is_lasting(&self, since: Instant) -> bool {
        since.elapsed() >= PASSING_LIMIT.min(self.interval * PASSING_INTERVALS)
    }

    /// A round for this state of the server. It pauses after many actions, or after one that is decided on again although it was
    /// done: whatever servers and the API answer, the agent never spins.
    pub(super) fn round(
        &mut self,
        own: OwnServer,
    ) -> Result<Option<(View, ClusterRecord)>, Interrupt> {
        let last = self.state.last.take();
        let actions = std::mem::take(&mut self.state.actions) + 1;
        let after_failure = Cause::after_failure(&own, &self.state.answers.asked);
        (self.state.has_asked, self.state.is_record_hidden) = (false, false);
        let done = self.decide_and_act(own).map_err(|interrupt| match interrupt {
            Interrupt::Pause(Cause::ApiFailure, why) => Interrupt::Pause(after_failure, why),
            Interrupt::Pause(Cause::OwnServer, why) if self.state.has_asked => {
                Interrupt::unfinished(why)
            }
            other => other,
        })?;
        let is_repeated = last.is_some() && last == self.state.last;
        if done.is_none() && (is_repeated || actions >= MAX_ACTIONS) {
            return Err(Interrupt::wait("the last step has no effect yet"));
        }
        self.state.actions = if done.is_none() { actions } else { 0 };
        Ok(done)
    }

    fn decide_and_act(
        &mut self,
        own: OwnServer,
    ) -> Result<Option<(View, ClusterRecord)>, Interrupt> {
        self.state.answers.begin_round(&own, &mut self.state.memory);
        self.observe(&own)?;
        let mut has_claimed = false;
        let is_member = matches!(own, OwnServer::Member(_));
        loop {
            let RunState { answers, memory, .. } = &self.state;
            let now = Instant::now();
            let action = decision::next_action(&self.goal, &own, &answers.asked, memory, now);
            match action {
                Action::Claim if has_claimed => {
                    return Err(Interrupt::wait("the previous claim is about to expire"));
                }
                Action::GetRecord | Action::Claim => {
                    has_claimed = action == Action::Claim;
                    let answer = self.ask(has_claimed, &own);
                    self.state.has_asked = true;
                    self.state.is_record_hidden = answer.is_err() && !has_claimed;
                    answer?;
                    // The API may take long to answer, and a rebalance removes nodes that were failed over since: the next round
                    // reads the cluster again.
                    if is_member
                        && self.record().is_some_and(|record| record.state == wire::State::Ready)
                    {
                        return Ok(None);
                    }
                }
                action => {
                    self.state.last = Some(action.clone());
                    let view = if let OwnServer::Member(view) = own { Some(view) } else { None };
                    return self.act(action, view, self.record().cloned());
                }
            }
        }
    }

    /// Notes since when the server has been in its state.
    fn observe(&mut self, own: &OwnServer) -> Result<(), Interrupt> {
        let (now, memory) = (Instant::now(), &mut self.state.memory);
        let since = memory.other_credentials_since.unwrap_or(now);
        memory.other_credentials_since = (*own == OwnServer::OtherCredentials).then_some(since);
        let OwnServer::Member(view) = own else {
            return Ok(());
        };
        let nodes = view.memberships();
        if self.state.nodes != nodes || view.is_rebalancing {
            self.state.nodes = nodes;
            memory.same_since = Some(now);
        }
        let server = &self.here.server;
        rebalances::watch(memory, server, view, view.is_balanced, self.printer)?;
        let is_failed_over = view.this().is_some_and(NodeInfo::is_failed_over);
        let cause = memory.kept.failover_cause;
        if is_failed_over && self.goal.recovers && cause == FailoverCause::Unknown {
            match server.auto_failovers() {
                // The failure was too short to be seen.
                Ok(1..) => memory.note_failover(FailoverCause::Outage),
                Ok(0) if memory.same_since.is_none_or(|since| since.elapsed() < COUNTED_WITHIN) => {
                    return Err(Interrupt::watch(
                        "the cluster has failed this node over, and may count that in a moment",
                    ));
                }
                Ok(0) => memory.note_failover(FailoverCause::Person),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether the last round left nothing unfinished that a command by hand could disturb before the next round.
    pub(super) fn only_waits(&self) -> bool {
        let RunState { memory, last, .. } = &self.state;
        let is_initializing = memory.kept.may_be_under_way || memory.kept.has_initialized;
        !is_initializing
            && matches!(last, None | Some(Action::Wait(_) | Action::Join(_) | Action::Confirm))
    }

    /// The API's last answer, if there is a record.
    pub(super) fn record(&self) -> Option<&ClusterRecord> {
        if let Asked::Record(record) = &self.state.answers.asked { Some(record) } else { None }
    }

    fn is_enterprise(&self) -> bool {
        self.state.pools.as_ref().is_none_or(|pools| pools.is_enterprise)
    }

    pub(super) fn read_own_server(&mut self) -> Result<OwnServer, Failure> {
        let server = &self.here.server;
        let pools = match server.pools() {
            Err(CallError::Untrusted(why)) => return Err(untrusted(&why)),
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
                // Right after its start, the server does not know it.
                Ok(own) if own.memory_total == 0 => {
                    OwnServer::Unreachable("the server does not know its memory yet".to_owned())
                }
                Ok(own) => {
                    self.here.identity.node_uuid.clone_from(&own.uuid);
                    (self.state.memory_bytes, self.state.quotas) = (own.memory_total, own.quotas);
                    OwnServer::Blank(own.uuid)
                }
                Err(error) => unusable(error),
            },
            Some(Ok(Some(view))) => {
                let uuid = view.this().and_then(|this| this.uuid.clone());
                // This answer may lack the UUID of an earlier one.
                let known = &mut self.here.identity.node_uuid;
                *known = uuid.or(known.take());
                OwnServer::Member(view)
            }
            Some(Ok(None)) => {
                OwnServer::Unreachable("the server is joining or leaving a cluster".to_owned())
            }
            Some(Err(error)) => unusable(error),
        })
    }

    fn ask(&mut self, claim: bool, own: &OwnServer) -> Result<(), Interrupt> {
        if claim && matches!(own, OwnServer::Blank(_)) {
            self.check_name_and_services()?;
            if let Err(wrong) = self.quota() {
                return self.expect_ready_cluster(wrong);
            }
        }
        let identity = &self.here.identity;
        let status = || self.here.api.status(Some(&identity.node));
        let record = if claim {
            self.here.api.claim(identity, self.args.lease.0).map(Some)
        } else {
            status()
        };
        if claim && let Ok(Some(record)) = &record {
            let has_claimed = record.is_initial && record.state == wire::State::Claimed;
            self.state.memory.is_claimed_by_other = !has_claimed;
        }
        let record = match record {
            // An answer to a claim does not name the members.
            Ok(Some(record)) if claim && record.state == wire::State::Ready => status()?,
            Err(ApiError::Refused(problem)) if problem.code == "name_taken" => {
                let (id, why) = (self.here.api.cluster_id.as_str(), problem.detail);
                self.printer.warning_once(format_args!(
                    "another machine claims `{id}` under this node's name: {why}"
                ));
                return Err(Interrupt::wait(format!("{why}; give each machine its own `--node`")));
            }
            record => record?,
        };
        match record {
            None => self.state.answers.asked = Asked::NoRecord,
            Some(record) => self.learn(record),
        }
        Ok(())
    }

    /// Reads the record of a cluster that is ready. A first node's options are `wrong`, but a node that joins does not need them.
    fn expect_ready_cluster(&mut self, wrong: Failure) -> Result<(), Interrupt> {
        match self.here.api.status(Some(self.node()))? {
            Some(record) if record.state == wire::State::Ready => {
                self.state.memory.is_claimed_by_other = true;
                self.learn(record);
                Ok(())
            }
            _ => Err(wrong.into()),
        }
    }

    /// Stores an answer and prints what is new in it.
    pub(super) fn learn(&mut self, record: ClusterRecord) {
        let is_other = self.state.answers.learn(record, &mut self.state.memory);
        let Some(record) = self.record() else { return };
        if is_other {
            let first = if record.is_initial { "this node" } else { record.initial_node.as_str() };
            let generation = record.generation;
            self.printer
                .step(format_args!("claim: {first} is the first (generation {generation})"));
        }
        if let (true, Some(rival)) = (record.is_initial, &record.rival) {
            self.printer.warning_once(format_args!(
                "another server (its UUID begins with {rival}) claims `{}` under this node's name `{}`: give each machine its own `--node`",
                self.here.api.cluster_id.as_str(),
                self.node(),
            ));
        }
    }

    /// Does what was decided. Returns the cluster and its record when everything is done.
    fn act(
        &mut self,
        action: Action,
        view: Option<View>,
        record: Option<ClusterRecord>,
    ) -> Result<Option<(View, ClusterRecord)>, Interrupt> {
        match (action, view, record) {
            (Action::Wait(why), view, _) => {
                let rebalancing = view.filter(|view| view.is_rebalancing);
                let task = rebalancing.and_then(|_| self.here.server.rebalance().ok().flatten());
                return Err(Interrupt::watch(match task.and_then(|task| task.progress) {
                    Some(percent) => format!("{why} ({percent:.0} %)"),
                    None => why,
                }));
            }
            (Action::Stop(reason), ..) => {
                let memory = &mut self.state.memory;
                memory.kept.is_disowned |= matches!(reason, StopReason::OtherCluster { .. });
                return Err(self.explain(&reason).into());
            }
            (Action::Done, Some(view), Some(record)) => {
                self.state.memory.kept.is_disowned = false;
                return Ok(Some((view, record)));
            }
            (Action::Inspect(nodes), ..) => self.inspect(&nodes)?,
            (Action::GiveUpClaim(node), _, Some(record)) => {
                self.give_up_claim(&node, record.generation)?;
            }
            (Action::LeaveClaim, _, Some(record)) => self.leave_claim(record.generation)?,
            (Action::Initialize, _, Some(record)) => self.initialize(&record)?,
            (Action::Join(members), _, Some(record)) => {
                if !self.state.is_checked {
                    self.check_name_and_services()?;
                }
                self.join(&members, &record)?;
            }
            (Action::Confirm, Some(view), Some(record)) => self.confirm(&view, &record)?,
            (Action::Report(_), Some(view), Some(record)) => self.report(&view, &record)?,
            (Action::ReportRemoved(node), _, Some(record)) => {
                self.report_removed(&node, record.generation)?;
            }
            (Action::Apply(extra), Some(view), _) => self.apply_extra(&extra, &view)?,
            (Action::Eject(otp), ..) => {
                self.here.server.eject(&otp).map_err(|error| {
                    Interrupt::wait(format!("`{otp}` is dead and cannot be removed yet: {error}"))
                })?;
                self.printer.warning(format_args!(
                    "`{otp}` was added and cannot be reached: it was removed again"
                ));
            }
            (Action::Recover { otp, recovery }, ..) => self.recover(&otp, recovery)?,
            (Action::Rebalance { known, removed }, Some(view), _) => {
                self.rebalance(&known, &removed, &view)?;
            }
            (action, ..) => {
                return Err(Interrupt::wait(format!(
                    "a step lacks its view or record: {action:?}"
                )));
            }
        }
        Ok(None)
    }
}

fn unusable(error: CallError) -> OwnServer {
    match error {
        CallError::Unauthorized => OwnServer::OtherCredentials,
        error => OwnServer::Unreachable(error.to_string()),
    }
}

fn untrusted(why: &str) -> Failure {
    Failure::new(why).hint(
        "pass the authority that signed the servers' certificates (`--ca-cert`), or give all nodes the same secret (`--secret-file`)",
    )
}

pub(super) fn count_nodes(number: usize) -> String {
    format!("{number} node{}", if number == 1 { "" } else { "s" })
}
