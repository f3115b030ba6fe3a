//! Follows a change of a stack to its end, and shows it. Signals cancel the change, or leave it to CloudFormation.

use std::time::Duration;

use aws_sdk_cloudformation::Client;

use super::Watch;
use crate::{
    aws::cloudformation,
    exit::Exit,
    failure::Failure,
    printer::{Printer, Step},
    prompt,
    settings::Place,
    signals::{self, Signal, Signals},
    stack::{self, Cancellation, Operation, Stack, StackEvent},
};

/// How long to wait for someone else's change by default.
const DEFAULT_PATIENCE: Duration = Duration::from_mins(30);

/// How often to try to cancel an update that may not have begun, once a second.
const CANCEL_ATTEMPTS: u32 = 8;

#[derive(Clone, Copy, Debug)]
pub struct Follower<'a> {
    pub client: &'a Client,
    pub place: &'a Place,
    /// The hint about what a failed creation leaves behind, if there is one.
    pub remains: Option<&'a str>,
}

impl Follower<'_> {
    /// Follows a change that this run requested. The first Ctrl-C cancels it if possible; a second one, or another signal, leaves it to CloudFormation.
    pub async fn follow(
        self,
        operation: Operation,
        mut watch: Watch,
        step: &mut Step,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let mut cancellation = Cancellation::None;
        let status = loop {
            let signal = tokio::select! {
                status = watch.wait_for_end(step) => {
                    break status.map_err(|it| {
                        if watch.never_began() { it } else { self.lost(operation, cancellation, it) }
                    })?;
                }
                signal = signals.next() => signal,
            };
            let Some(reverse) = signals::reaction(operation, cancellation, signal) else {
                return Err(self.detached(operation, cancellation, signal));
            };
            let cancels = match reverse {
                Operation::Delete => "deleting the new stack",
                _ => "cancelling the update",
            };
            step.line(format_args!(
                "Ctrl-C: {cancels}; press Ctrl-C again to leave it to CloudFormation"
            ));
            let cancelled = tokio::select! {
                cancelled = self.cancel(reverse, &mut watch) => cancelled,
                signal = signals.next() => {
                    return Err(self.detached(operation, Cancellation::Accepted, signal));
                }
            };
            cancellation = match cancelled {
                Ok(true) => Cancellation::Accepted,
                Ok(false) => {
                    step.line("too late to cancel; waiting for the change to finish");
                    Cancellation::Refused
                }
                Err(error) => {
                    step.line(format_args!("{error:#}; waiting for the change to finish"));
                    Cancellation::Refused
                }
            };
        };
        let (id, events) = (watch.stack_id(), watch.events());
        let verdict = stack::verdict(id, operation, cancellation, &status, events);
        let has_failed = operation == Operation::Create && !operation.succeeds_in(&status);
        match self.remains.filter(|_| has_failed) {
            Some(remains) => Ok(verdict.map_err(|failure| failure.also(remains))?),
            None => Ok(verdict?),
        }
    }

    /// `false` if it is too late.
    async fn cancel(self, reverse: Operation, watch: &mut Watch) -> anyhow::Result<bool> {
        if reverse == Operation::Delete {
            cloudformation::request_deletion(self.client, watch.stack_id(), None).await?;
            watch.expect_deletion();
            return Ok(true);
        }
        // The status may not show yet that the update has begun.
        let has_begun = watch.events().iter().any(StackEvent::is_stack);
        let mut attempts = if has_begun { 1 } else { CANCEL_ATTEMPTS };
        loop {
            let is_cancelled = cloudformation::cancel_update(self.client, watch.stack_id()).await?;
            attempts -= 1;
            if is_cancelled || attempts == 0 {
                return Ok(is_cancelled);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// How to learn the end of a change that this run no longer follows, and to finish what follows it, as a hint.
    fn continuation(self, operation: Operation, cancellation: Cancellation) -> String {
        let status = self.place.command("status --wait");
        match (operation, cancellation) {
            // `status` fails once the stack is gone.
            (Operation::Delete, _) => "run the same command again to continue".to_owned(),
            (Operation::Create, Cancellation::Accepted) => {
                format!("`{}` waits until it is deleted", self.place.command("destroy"))
            }
            (_, Cancellation::Accepted) => format!("`{status}` shows the result"),
            _ => format!("`{status}` shows the result; then run the same command again to finish"),
        }
    }

    fn lost(self, operation: Operation, cancellation: Cancellation, failure: Failure) -> Failure {
        let continuation = self.continuation(operation, cancellation);
        failure.also(&format!("the stack keeps changing; {continuation}"))
    }

    fn detached(
        self,
        operation: Operation,
        cancellation: Cancellation,
        signal: Signal,
    ) -> anyhow::Error {
        let name = &self.place.stack_name;
        Failure::new(format!("stopped by {signal}; stack `{name}` keeps changing"))
            .hint(self.continuation(operation, cancellation))
            .exit(Exit::Stopped)
            .into()
    }

    /// Makes sure that the user wants to wait for someone else's change. On a terminal it asks, unless there is a time limit.
    pub async fn check_patience(
        self,
        stack: &Stack,
        patience: Option<Duration>,
        yes: bool,
        printer: &Printer,
    ) -> anyhow::Result<()> {
        let waits = match patience {
            Some(patience) => patience > Duration::ZERO,
            None if yes || !prompt::is_interactive() => true,
            None => {
                let (name, status) = (&self.place.stack_name, &stack.status);
                let question = format!(
                    "Another deployment is changing stack `{name}` ({status}). Wait for it to finish?"
                );
                prompt::ask(&question, printer).await?
            }
        };
        if waits { Ok(()) } else { Err(self.busy(stack).into()) }
    }

    /// Waits for the end of someone else's change, whether it succeeds or not.
    pub async fn wait(
        self,
        stack: &Stack,
        patience: Option<Duration>,
        printer: &Printer,
    ) -> anyhow::Result<()> {
        let mut step = printer.step("wait");
        step.line(format_args!(
            "another deployment is changing stack `{}` ({}); waiting for it to finish",
            self.place.stack_name, stack.status
        ));
        let Some(mut watch) = Watch::join(self.client, &stack.id).await? else {
            step.done("the stack is deleted");
            return Ok(());
        };
        let patience = patience.unwrap_or(DEFAULT_PATIENCE);
        let ended = tokio::time::timeout(patience, watch.wait_for_end(&mut step)).await;
        let Ok(status) = ended else {
            let after = format!("after {} s", patience.as_secs());
            return Err(self.busy(stack).about(after).into());
        };
        step.done(format_args!("the stack is in {}", status?));
        Ok(())
    }

    /// The refusal to touch a stack that someone else is changing.
    pub fn busy(self, stack: &Stack) -> Failure {
        let (name, status) = (&self.place.stack_name, &stack.status);
        let command = self.place.command("status --wait");
        Failure::new(format!("another deployment is changing stack `{name}` ({status})"))
            .hint(format!("`{command}` shows its progress; then run the same command again"))
            .exit(Exit::Busy)
    }
}
