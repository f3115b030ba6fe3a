//! Follows a change of a stack to its end, and shows it. Signals cancel the change, or leave it to CloudFormation.

use std::time::Duration;

use aws_sdk_cloudformation::Client;

use crate::{
    aws::cloudformation::{self, Sighting, Watch},
    failure::{Exit, Failure},
    printer::{Printer, Step},
    prompt,
    settings::Place,
    signals::{self, Reaction, Signal, Signals},
    stack::{self, Cancellation, Operation, Stack, StackEvent, StackStatus},
};

/// How long to wait for somebody else's change by default.
const DEFAULT_PATIENCE: Duration = Duration::from_mins(30);

/// How often to try to cancel an update that may not have begun, once a second.
const CANCEL_ATTEMPTS: u32 = 8;

/// A stack whose changes are followed.
#[derive(Clone, Debug)]
pub struct Follower {
    pub client: Client,
    pub stack_name: String,
    /// The command that shows the stack's progress, for hints.
    status_command: String,
}

/// Shows the watch's sightings until the stack has settled. It can be dropped and called again.
pub async fn settle(watch: &mut Watch, step: &mut Step) -> Result<StackStatus, Failure> {
    loop {
        match watch.next().await? {
            Sighting::Event(event) => step.event(&event),
            Sighting::Idle(status) => step.busy(status),
            Sighting::OutOfSight => step.busy("cannot see the stack at the moment; trying again"),
            Sighting::Settled(status) => return Ok(status),
        }
    }
}

impl Follower {
    pub fn new(client: &Client, place: &Place) -> Self {
        Self {
            client: client.clone(),
            stack_name: place.stack_name.clone(),
            status_command: place.command("status --wait"),
        }
    }

    /// Follows a change of ours. The first Ctrl-C cancels it if possible; a second one, or SIGTERM, leaves it to CloudFormation.
    pub async fn follow(
        &self,
        operation: Operation,
        mut watch: Watch,
        step: &mut Step,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let mut cancellation = Cancellation::None;
        let status = loop {
            let signal = tokio::select! {
                status = settle(&mut watch, step) => break status.map_err(|it| self.lost(it))?,
                signal = signals.next() => signal,
            };
            let reaction = signals::reaction(operation, cancellation, signal);
            let cancels = match reaction {
                Reaction::Detach => return Err(self.detached(signal)),
                Reaction::CancelUpdate => "cancelling the update",
                Reaction::DeleteStack => "deleting the stack again",
            };
            step.line(format_args!("Ctrl-C: {cancels}; a second one leaves it to CloudFormation"));
            let cancelled = tokio::select! {
                cancelled = self.cancel(reaction, &watch) => cancelled,
                signal = signals.next() => return Err(self.detached(signal)),
            };
            cancellation = match cancelled {
                Ok(true) => {
                    if reaction == Reaction::DeleteStack {
                        watch.expect_deletion();
                    }
                    Cancellation::Accepted
                }
                Ok(false) => {
                    step.line("it is too late to cancel; waiting for the end");
                    Cancellation::Refused
                }
                Err(error) => {
                    step.line(format_args!("{error:#}; waiting for the end"));
                    Cancellation::Refused
                }
            };
        };
        let name = &self.stack_name;
        Ok(stack::verdict(name, operation, cancellation, &status, watch.events())?)
    }

    /// `false` if it is too late.
    async fn cancel(&self, reaction: Reaction, watch: &Watch) -> anyhow::Result<bool> {
        let stack_id = watch.stack_id();
        if reaction == Reaction::DeleteStack {
            cloudformation::request_deletion(&self.client, stack_id, None).await?;
            return Ok(true);
        }
        // The status may not show yet that the update has begun.
        let has_begun = watch.events().iter().any(StackEvent::is_stack);
        for _ in 0..CANCEL_ATTEMPTS {
            if cloudformation::cancel_update(&self.client, stack_id).await? {
                return Ok(true);
            }
            if has_begun {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(false)
    }

    fn lost(&self, failure: Failure) -> Failure {
        let status = &self.status_command;
        let continues = format!("the stack goes on changing: `{status}` shows how it ends");
        let hint = match &failure.hint {
            Some(hint) => format!("{hint}; {continues}"),
            None => continues,
        };
        failure.hint(hint)
    }

    fn detached(&self, signal: Signal) -> anyhow::Error {
        let Self { stack_name, status_command, .. } = self;
        Failure::new(format!("stopped by {signal}, and stack `{stack_name}` goes on changing"))
            .hint(format!("`{status_command}` shows how it ends"))
            .exit(Exit::Stopped)
            .into()
    }

    /// Makes sure that the user wants to wait for somebody else's change. On a terminal it asks, unless there is a time limit.
    pub async fn check_patience(
        &self,
        stack: &Stack,
        patience: Option<Duration>,
        yes: bool,
        printer: &Printer,
    ) -> anyhow::Result<()> {
        let waits = match patience {
            Some(patience) => patience > Duration::ZERO,
            None if yes || !prompt::is_interactive() => true,
            None => {
                let question = format!(
                    "Stack `{}` is being changed by somebody else ({}). Wait until that is done?",
                    self.stack_name, stack.status
                );
                prompt::ask(&question, printer).await?
            }
        };
        if waits { Ok(()) } else { Err(self.busy(stack).into()) }
    }

    /// Waits for the end of somebody else's change, whether it succeeds or not.
    pub async fn wait(
        &self,
        stack: &Stack,
        patience: Option<Duration>,
        printer: &Printer,
    ) -> anyhow::Result<()> {
        let mut step = printer.step("wait");
        step.line(format_args!(
            "stack `{}` is being changed by somebody else ({}); waiting until that is done",
            self.stack_name, stack.status
        ));
        let Some(mut watch) = Watch::join(&self.client, &stack.id).await? else {
            step.done("the stack is deleted");
            return Ok(());
        };
        let patience = patience.unwrap_or(DEFAULT_PATIENCE);
        let settled = tokio::time::timeout(patience, settle(&mut watch, &mut step)).await;
        let Ok(status) = settled else {
            let after = format!("after {} s", patience.as_secs());
            return Err(self.busy(stack).about(after).into());
        };
        step.done(format_args!("the stack is in {}", status?));
        Ok(())
    }

    /// The refusal to touch a stack that somebody else is changing.
    pub fn busy(&self, stack: &Stack) -> Failure {
        stack::busy(&self.stack_name, &stack.status, &self.status_command)
    }
}
