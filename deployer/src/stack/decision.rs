//! What a deployment does in each stack status, what it asks, and how an operation ended.

use std::collections::BTreeSet;

use super::{
    DesiredStack, Stack, StackEvent, StackStatus, StackStatus as S, aws_command, failed, name_in,
};
use crate::{exit::Exit, failure::Failure, values::Auth};

/// What a deployment does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackAction {
    Create,
    Update,
    /// Delete a stack whose creation failed and that was never in use.
    Replace,
    /// Delete the rest of a stack that was in use, after the user has confirmed it.
    ReplaceUsed,
    ContinueRollback,
    RollBack,
    Wait,
}

impl StackAction {
    /// Whether it reaches the deployment's goal. After the others, the stack is read again.
    pub fn reaches_goal(self) -> bool {
        matches!(self, Self::Create | Self::Update)
    }

    /// Whether the deployment creates all resources, perhaps after it has deleted the rest of a stack.
    pub fn creates(self) -> bool {
        matches!(self, Self::Create | Self::Replace | Self::ReplaceUsed)
    }

    /// What precedes the creation or the update, for a plan.
    pub fn preparation(self) -> Option<&'static str> {
        match self {
            Self::Create | Self::Update | Self::Wait => None,
            Self::Replace => Some("the failed stack is deleted and created again"),
            Self::ReplaceUsed => Some(
                "the rest of the stack is deleted after confirmation, and the stack is created again",
            ),
            Self::ContinueRollback => {
                Some("the failed rollback is continued, and the stack then updated")
            }
            Self::RollBack => Some("the failed update is rolled back, and the stack then updated"),
        }
    }
}

/// How to deploy over this stack, or why that is not possible.
pub fn next_action(name: &str, stack: Option<&Stack>) -> Result<StackAction, Failure> {
    let Some(stack) = stack.filter(|stack| stack.status != S::DeleteComplete) else {
        return Ok(StackAction::Create);
    };
    stack.check_ours(name)?;
    match &stack.status {
        // It has only a change set that was not executed.
        S::ReviewInProgress => Ok(StackAction::Create),
        _ if stack.is_good() => Ok(StackAction::Update),
        S::CreateFailed | S::RollbackComplete | S::RollbackFailed => {
            stack.check_unprotected(name)?;
            Ok(StackAction::Replace)
        }
        S::DeleteFailed => {
            stack.check_unprotected(name)?;
            Ok(StackAction::ReplaceUsed)
        }
        S::UpdateRollbackFailed => Ok(StackAction::ContinueRollback),
        S::UpdateFailed => Ok(StackAction::RollBack),
        _ if stack.is_busy() => Ok(StackAction::Wait),
        status => Err(Failure::needs_decision(format!(
            "cannot deploy stack `{name}` in status {status}"
        ))
        .hint("see its events in the CloudFormation console, or choose another name with `--stack-name`")),
    }
}

/// Refuses the stack of a Couchbase cluster for the API: another template would delete its nodes.
pub fn check_api(name: &str, stack: Option<&Stack>) -> Result<(), Failure> {
    let Some(cluster) = stack.and_then(Stack::cluster_id) else {
        return Ok(());
    };
    Err(Failure::needs_decision(format!(
        "stack `{name}` belongs to Couchbase cluster `{cluster}`, not to an API"
    ))
    .hint("choose another name with `--stack-name`; `cbbootstrap launch` changes a cluster"))
}

/// Whether there is nothing to change in the stack. `template` is the one that it was deployed with. The function's code is not
/// compared: it may have been replaced outside the stack.
pub fn is_up_to_date(stack: &Stack, template: Option<&str>, desired: &DesiredStack) -> bool {
    let topics = |arns: &[String]| arns.iter().cloned().collect::<BTreeSet<_>>();
    template.is_some_and(|template| is_same_template(template, desired.template))
        && stack.parameters == desired.parameters
        && stack.tags == desired.all_tags()
        && desired
            .notification_arns
            .as_ref()
            .is_none_or(|desired| topics(&stack.notification_arns) == topics(desired))
        && stack.is_good()
}

/// Comments are ignored: CloudFormation does not update a stack for them.
fn is_same_template(one: &str, other: &str) -> bool {
    let read = serde_yaml::from_str::<serde_yaml::Value>;
    one == other || matches!((read(one), read(other)), (Ok(one), Ok(other)) if one == other)
}

/// Whether a change set failed because it is empty. CloudFormation has no error code for that.
pub fn is_no_change(reason: &str) -> bool {
    reason.contains("didn't contain changes") || reason.contains("No updates are to be performed")
}

/// Whether a stack has changed, or is changing, since it was read as `before`.
pub fn has_changed(before: Option<&Stack>, now: Option<&Stack>) -> bool {
    match (before, now) {
        (None, None) => false,
        // A lost request of ours may have created it.
        (None, Some(now)) => now.status != S::ReviewInProgress,
        (Some(_), None) => true,
        (Some(before), Some(now)) => {
            now.is_busy()
                || (&before.id, &before.status, &before.updated)
                    != (&now.id, &now.status, &now.updated)
        }
    }
}

/// A step that needs the user's consent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Risk {
    OtherTable {
        current: String,
        desired: String,
    },
    /// A table that was created for another stack.
    SharedTable {
        table: String,
        owner: String,
    },
    /// Anybody may call an API that accepts only these calls now.
    OpenApi {
        calls: &'static str,
        /// The option that restricts it to them.
        option: &'static str,
    },
    /// The URL on the API's own domain would no longer answer.
    OtherEndpoint {
        current: String,
    },
    ReplaceUsedStack {
        status: StackStatus,
    },
}

impl Risk {
    pub fn question(&self, stack: &str) -> String {
        match self {
            Self::OtherTable { current, desired } => format!(
                "The clusters of stack `{stack}` are in table `{current}`, not in `{desired}`. Continue with `{desired}`?"
            ),
            Self::SharedTable { table, owner } => format!(
                "Table `{table}` was created for stack `{owner}`. While both stacks use it, they serve the same clusters. Continue?"
            ),
            Self::OpenApi { calls, option } => format!(
                "The API of stack `{stack}` accepts only {calls}; without `{option}`, anyone who knows its URL can call it. Continue?"
            ),
            Self::OtherEndpoint { current } => format!(
                "Nodes may call the API of stack `{stack}` at {current}, which will no longer answer. Continue?"
            ),
            Self::ReplaceUsedStack { status } => format!(
                "Stack `{stack}` is in {status} and must be deleted before it can be deployed again. Its endpoint and logs may be lost. Continue?"
            ),
        }
    }

    /// What the step does, as a predicate.
    pub fn effect(&self) -> String {
        match self {
            Self::OtherTable { .. } => {
                "gives the API another table, without its current clusters".to_owned()
            }
            Self::SharedTable { table, owner } => {
                format!("uses table `{table}`, which was created for stack `{owner}`")
            }
            Self::OpenApi { calls, .. } => {
                format!("makes the API public; it now accepts only {calls}")
            }
            Self::OtherEndpoint { current } => {
                format!("removes the endpoint {current}, which nodes may call")
            }
            Self::ReplaceUsedStack { .. } => "deletes the rest of the stack".to_owned(),
        }
    }
}

/// What a deployment of stack `name` must ask about before it changes anything. `table_owner` is the stack for which the table
/// was created. Afterwards the API accepts only signed requests if `is_signed`, and anyone may call it if `is_public`.
pub fn risks(
    name: &str,
    stack: Option<&Stack>,
    action: StackAction,
    table: &str,
    table_owner: Option<&str>,
    is_signed: bool,
    is_public: bool,
) -> Vec<Risk> {
    let mut risks = Vec::new();
    let current = stack.and_then(Stack::table);
    if let Some(owner) = table_owner.filter(|owner| *owner != name && current != Some(table)) {
        risks.push(Risk::SharedTable { table: table.to_owned(), owner: owner.to_owned() });
    }
    let Some(stack) = stack else {
        return risks;
    };
    if let Some(current) = current.filter(|current| *current != table) {
        risks.push(Risk::OtherTable { current: current.to_owned(), desired: table.to_owned() });
    }
    let was_signed = stack.auth() == Auth::Iam;
    if let Some((calls, option)) = stack.restriction()
        && if was_signed { !is_signed } else { is_public }
    {
        risks.push(Risk::OpenApi { calls, option });
    }
    if action == StackAction::ReplaceUsed {
        risks.push(Risk::ReplaceUsedStack { status: stack.status.clone() });
    }
    risks
}

/// The risk that the API no longer answers at the endpoint on its own domain. `desired` is the new one.
pub fn lost_domain(stack: Option<&Stack>, desired: Option<&str>) -> Option<Risk> {
    let stack = stack.filter(|stack| stack.domain().is_some())?;
    let current = stack.outputs.get("Endpoint").filter(|current| desired != Some(current))?;
    Some(Risk::OtherEndpoint { current: current.clone() })
}

/// A change of a stack that is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Rollback,
}

impl Operation {
    /// The result of its success, as messages name it.
    pub fn outcome(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Update => "updated",
            Self::Delete => "deleted",
            Self::Rollback => "rolled back",
        }
    }

    /// The operation that cancels it; `None` if CloudFormation cannot cancel it.
    pub fn reverse(self) -> Option<Self> {
        match self {
            Self::Create => Some(Self::Delete),
            Self::Update => Some(Self::Rollback),
            Self::Delete | Self::Rollback => None,
        }
    }

    pub fn succeeds_in(self, status: &StackStatus) -> bool {
        matches!(
            (self, status),
            (Self::Create, S::CreateComplete)
                | (Self::Update, S::UpdateComplete)
                | (Self::Delete, S::DeleteComplete)
                | (Self::Rollback, S::UpdateRollbackComplete)
        )
    }
}

/// Whether the user has cancelled an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancellation {
    None,
    /// It was too late, or CloudFormation refused.
    Refused,
    Accepted,
}

/// The result of an operation that has ended in this status.
pub fn verdict(
    stack_id: &str,
    operation: Operation,
    cancellation: Cancellation,
    status: &StackStatus,
    events: &[StackEvent],
) -> Result<(), Failure> {
    let name = name_in(stack_id);
    if operation.succeeds_in(status) {
        return match cancellation {
            Cancellation::None => Ok(()),
            _ => Err(Failure::new(format!("Ctrl-C came too late: stack `{name}` is in {status}"))
                .hint("run the same command again to finish")
                .exit(Exit::Stopped)),
        };
    }
    match (operation.reverse(), cancellation) {
        (Some(reverse), Cancellation::Accepted) if reverse.succeeds_in(status) => {
            let message = format!("cancelled by Ctrl-C: stack `{name}` was {}", reverse.outcome());
            Err(Failure::new(message).exit(Exit::Stopped))
        }
        _ if operation == Operation::Rollback => Err(failed(name, status, events)
            .hint(format!(
                "fix the cause and deploy again, or skip resources: `{} --resources-to-skip …`",
                aws_command("continue-update-rollback", stack_id)
            ))
            .exit(Exit::NeedsDecision)),
        _ => Err(failed(name, status, events)),
    }
}

#[cfg(test)]
mod tests;
