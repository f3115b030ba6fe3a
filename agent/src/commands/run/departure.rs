//! The node leaves before its machine ends.

use std::time::{Duration, Instant};

use cbbootstrap_cli::failure::{Failure, one_line};

use super::{Interrupt, machine::Machine};
use crate::{
    aws::autoscaling::{HEARTBEAT_INTERVAL, Hook},
    cli::LifeArgs,
    commands::leave::Leaving,
    decision::{
        Memory,
        life::{self, Ending, Notice},
    },
    pauses::Cause,
    printer::Printer,
    server::Server,
    settings::Here,
};

/// How long a node that has left tries to report that to the API before it completes the lifecycle hook.
const REPORT_LIMIT: Duration = Duration::from_mins(5);

/// The longest timeout of a lifecycle hook, after which the group terminates the instance anyway.
const RELEASE_LIMIT: Duration = Duration::from_hours(2);

#[derive(Default)]
pub(super) struct Departing {
    pub(super) state: life::Departure,
    pub(super) leaving: Leaving,
    out_since: Option<Instant>,
    hook: Option<Hook>,
    last_heartbeat: Option<Instant>,
    /// Since when the node has tried to complete the hook.
    releasing_since: Option<Instant>,
}

impl Departing {
    /// Asks the API about this node again, after a refusal.
    pub(super) fn start_over(&mut self) {
        self.leaving.is_checked = false;
    }

    /// What stays when the options are read again, which may name another hook.
    pub(super) fn keep(mut self) -> Self {
        self.start_over();
        Self { hook: None, ..self }
    }

    /// Ends the departure for this notice, which was withdrawn or put off. What the node has begun may go on.
    pub(super) fn withdraw(&mut self, notice: &Notice) {
        let Self { state: life::Departure { is_leaving, removal, .. }, leaving, .. } =
            std::mem::take(self);
        (self.leaving, self.state.is_leaving) = (leaving, is_leaving);
        // A machine that comes out of a warm pool joins, even if people have removed it before.
        if *notice != Notice::WarmPool {
            self.state.removal = removal;
        }
    }

    /// Fails the node over gracefully. Returns what to wait for.
    pub(super) fn fail_over(&mut self, server: &Server, otp: &str, printer: &Printer) -> String {
        // A rebalance that was to move its data away did not begin, or has failed.
        self.state.is_leaving = false;
        match server.fail_over_gracefully(otp) {
            Ok(()) => {
                printer.step("failover: the replicas of this node's data become active");
                "this node is being failed over".to_owned()
            }
            Err(error) if error.is_permanent() => {
                self.state.is_failover_refused = true;
                printer.warning(format_args!("the server refuses to fail this node over: {error}"));
                "this node leaves instead".to_owned()
            }
            Err(error) => format!("this node cannot be failed over yet: {error}"),
        }
    }

    /// One step out of the cluster. Succeeds when the node is out and the API knows, or does not take the report for long although the
    /// instance waits for that.
    pub(super) fn leave(
        &mut self,
        here: &Here,
        memory: &mut Memory,
        ending: Option<&Ending>,
        printer: &Printer,
    ) -> Result<(), Interrupt> {
        if self.out_since.is_none() {
            let left = self.leaving.round(here, memory, ending, printer);
            self.state.is_leaving |= self.leaving.is_on_its_way;
            if left?.is_none() {
                return Err(Interrupt::wait("this node is leaving"));
            }
            self.out_since = Some(Instant::now());
        }
        let is_late =
            ending.is_none() && self.out_since.is_some_and(|since| since.elapsed() >= REPORT_LIMIT);
        match self.leaving.report(here, memory) {
            Ok(_) => printer.step("leave: this node has left its cluster"),
            // Pauses must not grow while the machine waits for its end.
            Err(Interrupt::Pause(_, why)) if !is_late => return Err(Interrupt::unfinished(why)),
            // Its data is on the other nodes: nothing keeps the machine.
            Err(Interrupt::Pause(_, why)) => warn(printer, &why.into()),
            Err(Interrupt::Fail(error)) => warn(printer, &error),
        }
        self.state.is_complete = true;
        Ok(())
    }

    /// Keeps the instance until the node has left, even if the node cannot leave: otherwise the data would be lost.
    pub(super) fn hold(&mut self, machine: &mut Machine, args: &LifeArgs, printer: &Printer) {
        let is_recent = self.last_heartbeat.is_some_and(|at| at.elapsed() < HEARTBEAT_INTERVAL);
        if self.state.is_complete || is_recent {
            return;
        }
        self.last_heartbeat = Some(Instant::now());
        let held = self.hook(machine, args).and_then(Hook::record_heartbeat);
        if let Err(why) = held {
            printer.warning_once(format_args!(
                "cannot extend the lifecycle hook; the instance may terminate before its node has left: {why}"
            ));
        }
    }

    /// Each notice has a hook to complete.
    pub(super) fn expect_hook(&mut self) {
        (self.state.is_released, self.releasing_since) = (false, None);
    }

    /// Completes the hook: the node has left. Auto Scaling may throttle the call, so it is repeated.
    pub(super) fn release(
        &mut self,
        machine: &mut Machine,
        args: &LifeArgs,
        printer: &Printer,
    ) -> Result<(), Interrupt> {
        let since = *self.releasing_since.get_or_insert_with(Instant::now);
        match self.hook(machine, args).and_then(Hook::complete) {
            Ok(()) => printer.step("lifecycle hook: completed; the instance may end"),
            Err(why) if since.elapsed() < RELEASE_LIMIT => {
                let why = format!("the lifecycle hook is not completed yet: {why}");
                return Err(Interrupt::Pause(Cause::ApiFailure, Failure::new(why)));
            }
            Err(why) => {
                printer.warning(format_args!("the lifecycle hook was not completed: {why}"));
            }
        }
        self.state.is_released = true;
        Ok(())
    }

    fn hook(&mut self, machine: &mut Machine, args: &LifeArgs) -> Result<&Hook, String> {
        match &mut self.hook {
            Some(hook) => Ok(hook),
            hook @ None => {
                let metadata =
                    machine.metadata().ok_or("the instance's metadata does not answer")?;
                Ok(hook.insert(Hook::find(metadata, args.lifecycle_hook.as_deref())?))
            }
        }
    }
}

fn warn(printer: &Printer, error: &anyhow::Error) {
    printer.warning(format_args!(
        "this node has left its cluster, but that could not be reported to the API: {}",
        one_line(error)
    ));
}
