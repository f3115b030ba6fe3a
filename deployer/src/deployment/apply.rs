//! The second phase: the stack changes, and signals are watched.

use super::Follower;
use crate::{
    aws::cloudformation::{self, ChangeSet, Execution, Watch},
    printer::Step,
    signals::Signals,
    stack::{Operation, Stack, StackAction},
};

/// A change of the stack that is ready to be requested.
pub struct PendingChange {
    pub request: Request,
    pub follower: Follower,
    pub watch: Watch,
    pub step: Step,
}

#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Request {
    /// Deploy the stack.
    Execute { change_set: ChangeSet, is_update: bool },
    /// Bring the stack into a state in which it can be deployed.
    Recover { stack: Stack, action: StackAction, role_arn: Option<String> },
}

impl PendingChange {
    /// Makes the change. Returns whether the stack is deployed; otherwise it must be read again.
    pub async fn apply(self, signals: &mut Signals) -> anyhow::Result<bool> {
        let Self { request, follower, watch, mut step } = self;
        let (execution, operation, outcome) = match &request {
            Request::Execute { change_set, is_update: true } => {
                (execute(change_set).await?, Operation::Update, "updated")
            }
            Request::Execute { change_set, is_update: false } => {
                (execute(change_set).await?, Operation::Create, "created")
            }
            Request::Recover { stack, action, role_arn } => {
                recover(&follower, stack, *action, role_arn.as_deref(), &mut step).await?
            }
        };
        if execution == Execution::Overtaken {
            step.line("somebody else changed the stack; reading it again");
            return Ok(false);
        }
        follower.follow(operation, watch, &mut step, signals).await?;
        step.done(outcome);
        Ok(matches!(request, Request::Execute { .. }))
    }
}

async fn execute(change_set: &ChangeSet) -> anyhow::Result<Execution> {
    let execution = change_set.execute().await;
    match &execution {
        Ok(Execution::Begun) => (),
        Ok(Execution::Overtaken) => change_set.discard_overtaken().await,
        // The first error is the one to report.
        Err(_) => drop(change_set.discard().await),
    }
    execution
}

async fn recover(
    follower: &Follower,
    stack: &Stack,
    action: StackAction,
    role_arn: Option<&str>,
    step: &mut Step,
) -> anyhow::Result<(Execution, Operation, &'static str)> {
    let (client, status) = (&follower.client, &stack.status);
    let recovers = match action {
        StackAction::ContinueRollback => "continuing the rollback",
        StackAction::RollBack => "rolling back first",
        _ => {
            step.line(format_args!("{status} after an earlier failure; deleting what is left"));
            cloudformation::request_deletion(client, &stack.id, role_arn).await?;
            return Ok((Execution::Begun, Operation::Delete, "deleted"));
        }
    };
    step.line(format_args!("{status}: {recovers}"));
    let execution = cloudformation::roll_back(client, stack, role_arn).await?;
    Ok((execution, Operation::Rollback, "rolled back"))
}
