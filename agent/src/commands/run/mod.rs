//! `run`: does what `up` does, and stays for the node's whole life.

mod departure;
mod machine;
mod monitor;
mod reload;
mod removal;
mod signals;
mod systemd;

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use cbbootstrap_cli::{
    exit::Exit,
    failure::{Failure, one_line},
};
use cbbootstrap_protocol::wire::State;

use self::{departure::Departing, machine::Machine, monitor::Monitor};
use super::{clock::Interrupt, rebalances, try_lock, up};
use crate::{
    api::ApiError,
    cli::{LifeArgs, PauseArgs, Recover, RunArgs},
    decision::{
        self, Asked, FailoverCause, OwnServer,
        life::{self, Notice, Removal, Step},
    },
    http::Deadline,
    lock::Lock,
    pauses::{Backoff, Cause, IDLE_INTERVALS, Pauses},
    printer::Printer,
    server::{Health, NodeInfo, View},
    settings,
};

/// Before the next attempt after a refusal or an API that does not answer.
const RETRY: Duration = Duration::from_mins(1);

const API_AWAY: &str = "the API does not answer; the node stays a member";

/// The longest pause: the machine's notices and its hook wait for nothing else.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The maximum age of the record while the node is complete.
const RECORD_AGE: Duration = Duration::from_mins(10);

pub fn run(args: RunArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let reloads = signals::listen()?;
    let monitor = Monitor::new();
    monitor.watch();
    let life = Life::new(args, printer, &monitor)?;
    if let Some(port) = life.options.metrics_port {
        let url = monitor.serve(port)?;
        printer.step(format_args!("metrics: {url}/metrics and {url}/healthz"));
    }
    life.live(&reloads)
}

struct Life<'r> {
    up: up::Run<'r>,
    options: LifeArgs,
    config: Option<PathBuf>,
    printer: &'r Printer,
    monitor: &'r Monitor,
    machine: Machine,
    departing: Departing,
    notice: Option<Notice>,
    lock: Option<Lock>,
    api_watch: ApiWatch,
    announced: Announced,
    /// Whether the node is well, and neither its server nor the API has refused anything.
    is_complete: bool,
    /// When the secrets were last read.
    secrets_read_at: Instant,
    /// Until when nothing is tried after a refusal.
    rest_until: Option<(Instant, String)>,
    pauses: Pauses,
}

/// How the API answers a member.
#[derive(Default)]
struct ApiWatch {
    /// When the agent last read the record, or tried to.
    asked_at: Option<Instant>,
    /// Whether the API did not answer, although the node is complete as far as the agent can know.
    is_away: bool,
    is_outage_logged: bool,
}

/// What people and systemd know about the node.
#[derive(Default)]
struct Announced {
    /// Whether the node was complete once, as far as the agent could know while the API was away. The node is ready as soon as it is also
    /// healthy.
    was_complete: bool,
    /// Whether systemd knows that the node is ready.
    is_ready: bool,
    /// The last state that was printed, and whether the agent has waited for something since.
    printed: String,
    was_busy: bool,
}

impl ApiWatch {
    /// Logs the first failure since the API last answered.
    fn note_outage(&mut self, printer: &Printer, why: &str) {
        if !std::mem::replace(&mut self.is_outage_logged, true) {
            printer.warning(why);
        }
    }
}

impl Announced {
    /// Prints a state of the node when it changes.
    fn print_once(&mut self, printer: &Printer, what: &str) -> bool {
        let is_new = self.printed != what;
        if is_new {
            printer.step(what);
            what.clone_into(&mut self.printed);
        }
        is_new
    }
}

/// The result of a step that waits for nothing.
enum Outcome {
    /// The agent has done something, and the next step follows at once.
    Acted,
    /// Nothing is to be done at the moment, in this state.
    Rest(String),
}

impl<'r> Life<'r> {
    fn new(args: RunArgs, printer: &'r Printer, monitor: &'r Monitor) -> anyhow::Result<Self> {
        let RunArgs { api, server, pause: PauseArgs { interval }, cluster, life } = args;
        let stdin = Some(Path::new("-"));
        if api.secret_file.as_deref() == stdin || server.password_file.as_deref() == stdin {
            let why =
                "`run` cannot read a secret from standard input, because SIGHUP reads it again";
            return Err(Failure::usage(why)
                .hint("pass files: `--password-file`, `--secret-file`")
                .into());
        }
        let config = api.config.clone();
        // Each call has its own time limit.
        let here = settings::here(api, server, Deadline::never())?;
        up::check_options(&here, &cluster, printer)?;
        let mut up = up::Run::new(here, cluster, interval, printer);
        up.goal.recovers = life.recover == Recover::Auto;
        up.goal.replaces = life.replace;
        Ok(Self {
            up,
            options: life,
            config,
            printer,
            monitor,
            machine: Machine::default(),
            departing: Departing::default(),
            notice: None,
            lock: None,
            api_watch: ApiWatch::default(),
            announced: Announced::default(),
            is_complete: false,
            secrets_read_at: Instant::now(),
            rest_until: None,
            pauses: Pauses::new(interval, Backoff::DEFAULT),
        })
    }

    /// Watches the node, and reads the options again on demand.
    fn live(mut self, reloads: &Receiver<()>) -> ! {
        loop {
            let pause = self.round();
            match reloads.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) if self.has_new_secrets() => {
                    self = self.reload(false);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(pause),
                Ok(()) => self = self.reload(true),
            }
        }
    }

    /// Checks the node once, does what is necessary, and returns how long to pause.
    fn round(&mut self) -> Duration {
        self.read_notice();
        let own = self.up.read_own_server();
        let own = own.unwrap_or_else(|failure| OwnServer::Unreachable(failure.to_string()));
        self.track(&own);
        let view = if let OwnServer::Member(view) = &own { Some(view.clone()) } else { None };
        let (cause, status) = match self.step(own) {
            Ok(Outcome::Acted) => {
                self.pauses.restart();
                return Duration::ZERO;
            }
            Ok(Outcome::Rest(why)) => (Cause::Idle, why),
            Err(Interrupt::Pause(cause, why)) => (cause, why.to_string()),
            Err(Interrupt::Fail(error)) => (Cause::Idle, self.refuse(&error)),
        };
        if cause == Cause::Idle {
            self.announced.print_once(self.printer, &status);
            self.lock = None;
        } else {
            self.printer.waiting(&status);
            self.announced.was_busy = true;
        }
        let is_healthy = view.as_ref().is_some_and(|view| self.is_healthy(view));
        self.is_complete = is_healthy
            && cause == Cause::Idle
            && self.rest_until.is_none()
            && !self.api_watch.is_away;
        self.publish(is_healthy, status, view);
        let longest = LONGEST_PAUSE.min(self.up.interval * IDLE_INTERVALS);
        self.pauses.next(cause, fastrand::f64()).min(longest)
    }

    fn step(&mut self, own: OwnServer) -> Result<Outcome, Interrupt> {
        let ending = self.notice.as_ref().and_then(Notice::ending);
        let is_member = matches!(own, OwnServer::Member(_));
        let fewest_replicas = match ending {
            // An unknown answer counts as unsafe.
            Some(_) if is_member => self.up.here.server.fewest_replicas().unwrap_or(Some(0)),
            _ => None,
        };
        let departure = self.departing.state;
        let step = life::next_step(self.notice.as_ref(), &own, departure, fewest_replicas);
        let is_for_pool = self.notice == Some(Notice::WarmPool);
        // Otherwise it would later look like an instance that was never in service.
        self.departing.state.is_leaving |=
            is_for_pool && is_member && matches!(step, Step::Leave(_));
        let is_scale_in = self.notice.as_ref().is_some_and(Notice::is_scale_in);
        if is_scale_in || is_for_pool && self.departing.state.is_leaving {
            self.departing.hold(&mut self.machine, &self.options, self.printer);
        }
        if !matches!(step, Step::Rest(_) | Step::Release) {
            self.acquire_lock()?;
            self.rest_until.take_if(|(until, _)| *until <= Instant::now());
            if let Some((_, why)) = &self.rest_until {
                return Ok(Outcome::Rest(why.clone()));
            }
        }
        match step {
            Step::Stay => self.stay(own),
            Step::FailOver(otp) => {
                // Should the machine stay after all, this failover was not a person's decision.
                self.up.state.memory.note_failover(FailoverCause::Agent);
                let server = &self.up.here.server;
                Err(Interrupt::wait(self.departing.fail_over(server, &otp, self.printer)))
            }
            Step::Rest(why) => Ok(Outcome::Rest(why)),
            Step::Leave(late) => {
                if let Some(why) = late {
                    self.printer.warning_once(format_args!(
                        "the time may not be enough to move this node's data, and the node is not failed over instead: {why}"
                    ));
                }
                let ending = self.notice.as_ref().and_then(Notice::ending);
                let up::Run { here, state, .. } = &mut self.up;
                self.departing.leave(here, &mut state.memory, ending, self.printer)?;
                Ok(Outcome::Acted)
            }
            Step::Release => {
                self.departing.release(&mut self.machine, &self.options, self.printer)?;
                Ok(Outcome::Acted)
            }
        }
    }

    /// Acquires the server's lock. Also after a refusal, a `leave` by hand has to be noticed.
    fn acquire_lock(&mut self) -> Result<(), Interrupt> {
        if self.lock.is_none() {
            let lock = try_lock(&self.up.here.server);
            if let (Err(Interrupt::Pause(..)), Removal::Watching(seen)) =
                (&lock, &mut self.departing.state.removal)
            {
                (seen.rebalance_ran, seen.could_recover) = (true, false);
            }
            self.lock = Some(lock?);
        }
        Ok(())
    }

    /// Does what `up` does. A member that lacks nothing asks the API rarely.
    fn stay(&mut self, own: OwnServer) -> Result<Outcome, Interrupt> {
        if matches!(own, OwnServer::Blank(_)) && self.departing.state.removal == Removal::Unclear {
            self.departing.state.removal = self.ask_about_removal()?;
            return Ok(Outcome::Acted);
        }
        let (is_healthy, is_balanced) = match &own {
            OwnServer::Member(view) => {
                (self.is_healthy(view), view.is_balanced && !view.is_rebalancing)
            }
            _ => (false, false),
        };
        let is_asked = !matches!(self.up.state.answers.asked, Asked::NotYet);
        let is_recent = |limit| self.api_watch.asked_at.is_some_and(|at| at.elapsed() < limit);
        if is_healthy && !is_asked && self.api_watch.is_away && is_recent(RETRY) {
            return Ok(Outcome::Rest(API_AWAY.to_owned()));
        }
        if is_asked && is_healthy && self.api_watch.asked_at.is_some() && !is_recent(RECORD_AGE) {
            self.refresh_record()?;
            // The API may take long to answer: the next round reads the cluster again.
            return Ok(Outcome::Acted);
        }
        if !is_asked {
            self.api_watch.asked_at = Some(Instant::now());
        }
        let done = self.up.round(own);
        let has_api_failed =
            matches!(done, Err(Interrupt::Pause(Cause::ApiFailure | Cause::ReportFailure, _)));
        // An API that refuses to show the record is like one that does not answer.
        let is_unknown = self.up.state.is_record_hidden && is_healthy;
        self.announced.was_complete |= is_unknown && is_balanced;
        self.api_watch.is_away = is_unknown && has_api_failed;
        if self.up.here.api.has_answered() && std::mem::take(&mut self.api_watch.is_outage_logged) {
            self.printer.step("the API answers again");
        }
        match done {
            Err(Interrupt::Pause(_, why)) if self.api_watch.is_away => {
                self.api_watch.note_outage(self.printer, &why.to_string());
                Ok(Outcome::Rest(API_AWAY.to_owned()))
            }
            Err(error) => {
                if self.up.only_waits() {
                    self.lock = None;
                }
                Err(error)
            }
            Ok(None) => Ok(Outcome::Acted),
            Ok(Some((view, _))) => {
                self.announced.was_complete = true;
                // The log shows also the end of what the agent waited for.
                if std::mem::take(&mut self.announced.was_busy) {
                    self.announced.printed.clear();
                }
                let (uuid, count) = (&view.uuid, up::count_nodes(view.nodes.len()));
                let unbalanced = if view.is_balanced { "" } else { " and is not balanced" };
                Ok(Outcome::Rest(format!(
                    "member of the cluster {uuid}, which has {count}{unbalanced}"
                )))
            }
        }
    }

    /// Reads the record of a cluster that lacks nothing, which someone may have forgotten. Each request renews it, too.
    fn refresh_record(&mut self) -> Result<(), Interrupt> {
        self.api_watch.asked_at = Some(Instant::now());
        let node = self.up.here.identity.node.clone();
        match self.up.here.api.status(Some(&node)) {
            Ok(Some(record)) => {
                let is_listed = record.state == State::Ready && record.member(&node).is_some();
                self.up.state.memory.is_reported &= is_listed;
                // The certificate may have changed.
                self.up.state.memory.is_attested = false;
                self.up.learn(record);
            }
            Ok(None) => self.up.state.answers.asked = Asked::NoRecord,
            Err(ApiError::Temporary(why) | ApiError::Unsigned(why)) => {
                self.api_watch
                    .note_outage(self.printer, &format!("the API does not answer: {why}"));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// An operator has to decide. The agent tries again later, with a fresh run.
    fn refuse(&mut self, error: &anyhow::Error) -> String {
        let hint = Failure::find_in(error).and_then(|failure| failure.hint.clone());
        let why = one_line(error);
        if self.announced.print_once(self.printer, &why)
            && let Some(hint) = hint
        {
            self.printer.step(format_args!("hint: {hint}"));
        }
        self.monitor.count_refusal();
        self.up.start_over();
        self.departing.start_over();
        self.rest_until = Some((Instant::now() + RETRY, why.clone()));
        why
    }

    fn read_notice(&mut self) {
        let notice = self.machine.notice();
        match (&notice, &self.notice) {
            (Some(new), Some(old)) if new.is_like(old) => {}
            (Some(new), _) => {
                self.rest_until = None;
                rebalances::forgive(&mut self.up.state.memory);
                let is_same_hook =
                    new.is_scale_in() && self.notice.as_ref().is_some_and(Notice::is_scale_in);
                if !is_same_hook {
                    self.departing.expect_hook();
                }
                self.printer.step(format_args!("notice: {new}"));
            }
            (None, Some(old)) => {
                rebalances::forgive(&mut self.up.state.memory);
                self.printer.step(format_args!("notice: withdrawn ({old})"));
            }
            (None, None) => {}
        }
        let has_notice = notice.as_ref().is_some_and(Notice::is_due);
        if let Some(old) = self.notice.as_ref().filter(|old| old.is_due() && !has_notice) {
            self.departing.withdraw(old);
        }
        self.notice = notice;
    }

    /// Whether the node is an active, healthy member, as far as it can know.
    fn is_healthy(&self, view: &View) -> bool {
        view.this().is_some_and(NodeInfo::is_well) && self.knows_cluster(view)
    }

    /// Whether the server is healthy, failed over or not, and its cluster is the recorded one as far as it can know.
    fn knows_cluster(&self, view: &View) -> bool {
        let (node, memory) = (&self.up.here.identity.node, &self.up.state.memory);
        view.this().is_some_and(|this| this.health != Health::Unhealthy)
            && !memory.kept.is_disowned
            && !decision::needs_confirmation(node, view, self.up.record(), memory)
    }

    fn publish(&mut self, is_healthy: bool, status: String, view: Option<View>) {
        systemd::notify("STATUS", &status);
        if is_healthy && self.announced.was_complete && !self.announced.is_ready {
            self.announced.is_ready = true;
            systemd::notify("READY", "1");
        }
        self.monitor.publish(monitor::Report {
            is_healthy,
            status,
            is_api_reachable: self.up.here.api.has_answered(),
            has_notice: self.notice.as_ref().is_some_and(Notice::ends_machine),
            view,
        });
    }
}
