//! The second phase: the stack changes, and signals are watched.

use aws_sdk_cloudformation::Client;

use super::Follower;
use crate::{
    aws::cloudformation::{self, ChangeSet, Execution, Watch},
    printer::Step,
    signals::Signals,
    stack::{Operation, Stack, StackAction},
};

/// A change set that is ready to be executed.
pub struct Change {
    pub client: Client,
    pub change_set: ChangeSet,
    pub is_update: bool,
    pub follower: Follower,
    pub watch: Watch,
    pub step: Step,
}

impl Change {
    /// Executes it; returns the stack after it, or `None` if somebody else was faster.
    pub async fn apply(self, signals: &mut Signals) -> anyhow::Result<Option<Stack>> {
        let Self { client, change_set, is_update, follower, watch, mut step } = self;
        match change_set.execute().await {
            Ok(Execution::Begun) => (),
            Ok(Execution::Overtaken) => {
                change_set.discard_overtaken().await;
                step.line("somebody else changed the stack; reading it again");
                return Ok(None);
            }
            Err(error) => {
                let _ = change_set.discard().await;
                return Err(error);
            }
        }
        let (operation, outcome) =
            if is_update { (Operation::Update, "updated") } else { (Operation::Create, "created") };
        follower.follow(operation, watch, &mut step, signals).await?;
        let find = cloudformation::find_changed(&client, follower.stack_name());
        let stack = signals.or_stopped(find).await?;
        step.done(outcome);
        Ok(Some(stack))
    }
}

/// A stack that must be rolled back or deleted before it can be deployed.
pub struct Recovery {
    pub client: Client,
    pub stack: Stack,
    pub action: StackAction,
    pub role_arn: Option<String>,
    pub follower: Follower,
    pub watch: Watch,
    pub step: Step,
}

impl Recovery {
    pub async fn apply(self, signals: &mut Signals) -> anyhow::Result<()> {
        let Self { client, stack, action, role_arn, follower, watch, mut step } = self;
        let (role, status) = (role_arn.as_deref(), &stack.status);
        let (execution, operation, outcome) = match action {
            StackAction::ContinueRollback => {
                step.line(format_args!("{status}: continuing the rollback"));
                let execution = cloudformation::continue_rollback(&client, &stack, role).await?;
                (execution, Operation::Rollback, "rolled back")
            }
            StackAction::RollBack => {
                step.line(format_args!("{status}: rolling back first"));
                let execution = cloudformation::roll_back(&client, &stack, role).await?;
                (execution, Operation::Rollback, "rolled back")
            }
            _ => {
                step.line(format_args!("{status} after an earlier failure; deleting what is left"));
                cloudformation::request_deletion(&client, &stack.id, role).await?;
                (Execution::Begun, Operation::Delete, "deleted")
            }
        };
        if execution == Execution::Overtaken {
            step.line("somebody else was faster; reading the stack again");
            return Ok(());
        }
        follower.follow(operation, watch, &mut step, signals).await?;
        step.done(outcome);
        Ok(())
    }
}
