//! What to do next: every status of a stack, and every signal while it changes, has an answer here.

use aws_sdk_cloudformation::types::StackStatus;

use super::{Stack, Status};
use crate::{
    failure::{Exit, Failure},
    signals::Signal,
};

/// What a deployment does next about a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Create it.
    Create,
    /// Update it.
    Update,
    /// Delete what a failed creation left; no user ever had anything of it. Then look again.
    Replace,
    /// The same of a stack that was in use once, which takes a yes.
    ReplaceUsed,
    /// Have `CloudFormation` continue a rollback that failed. Then look again.
    ContinueRollback,
    /// Have `CloudFormation` roll an update back that failed and was left as it was. Then look again.
    RollBack,
    /// Wait until somebody else's change is done. Then look again.
    Wait,
}

/// How to deploy over this stack, or why not.
pub fn next(name: &str, stack: Option<&Stack>) -> Result<Next, Failure> {
    use StackStatus as S;
    let Some(stack) = stack else {
        return Ok(Next::Create);
    };
    if stack.status.0 == S::DeleteComplete {
        return Ok(Next::Create);
    }
    stack.check_ours(name)?;
    match &stack.status.0 {
        // Nothing is in it but a change set that nobody executed.
        S::ReviewInProgress => Ok(Next::Create),
        _ if stack.status.is_good() => Ok(Next::Update),
        S::CreateFailed | S::RollbackComplete | S::RollbackFailed => {
            stack.check_unprotected(name)?;
            Ok(Next::Replace)
        }
        S::DeleteFailed => {
            stack.check_unprotected(name)?;
            Ok(Next::ReplaceUsed)
        }
        S::UpdateRollbackFailed => Ok(Next::ContinueRollback),
        S::UpdateFailed => Ok(Next::RollBack),
        _ if stack.status.is_busy() => Ok(Next::Wait),
        status => Err(Failure::new(format!(
            "stack `{name}` is in {status}, in which it cannot be deployed"
        ))
        .hint("look at its events in the CloudFormation console, or choose another name with `--stack-name`")
        .exit(Exit::NeedsDecision)),
    }
}

/// What is under way on a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Its creation.
    Create,
    /// An update.
    Update,
    /// Its deletion.
    Delete,
    /// A rollback.
    Rollback,
}

impl Operation {
    /// Whether this is the status in which it ends well.
    pub fn ends_well_in(self, status: &Status) -> bool {
        matches!(
            (self, &status.0),
            (Self::Create, StackStatus::CreateComplete)
                | (Self::Update, StackStatus::UpdateComplete)
                | (Self::Delete, StackStatus::DeleteComplete)
                | (Self::Rollback, StackStatus::UpdateRollbackComplete)
        )
    }
}

/// What a signal does to what is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Cancel the update, which rolls it back, and go on watching.
    Cancel,
    /// Delete the stack that is being created, and go on watching.
    Delete,
    /// Leave it to `CloudFormation` and end.
    Detach,
}

/// What to do about a signal; `cancelled` says that there was one before. `CloudFormation` cannot cancel a deletion, nor a
/// rollback. SIGTERM comes from a supervisor that soon kills: there is no time to cancel anything.
pub fn reaction(operation: Operation, cancelled: bool, signal: Signal) -> Reaction {
    match (signal, operation) {
        (Signal::CtrlC, Operation::Update) if !cancelled => Reaction::Cancel,
        (Signal::CtrlC, Operation::Create) if !cancelled => Reaction::Delete,
        _ => Reaction::Detach,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::tests::stack, *};

    /// The answers, by status.
    fn answers(change: impl Fn(&mut Stack)) -> BTreeMap<String, Vec<&'static str>> {
        let mut answers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        // All of CloudFormation's statuses: a new one in the SDK shows here.
        for status in StackStatus::values().iter().copied() {
            let mut stack = stack(status, "t");
            change(&mut stack);
            let answer = match next("s", Some(&stack)) {
                Ok(next) => format!("{next:?}"),
                Err(failure) => {
                    assert_eq!(failure.exit, Exit::NeedsDecision, "{status}");
                    assert!(failure.hint.is_some(), "{status}");
                    failure.to_string()
                }
            };
            answers.entry(answer).or_default().push(status);
        }
        answers
    }

    fn table<const N: usize>(
        rows: [(&str, &[&'static str]); N],
    ) -> BTreeMap<String, Vec<&'static str>> {
        rows.map(|(answer, statuses)| (answer.to_owned(), statuses.to_vec())).into()
    }

    const BUSY: &[&str] = &[
        "CREATE_IN_PROGRESS",
        "DELETE_IN_PROGRESS",
        "IMPORT_IN_PROGRESS",
        "IMPORT_ROLLBACK_IN_PROGRESS",
        "ROLLBACK_IN_PROGRESS",
        "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
        "UPDATE_IN_PROGRESS",
        "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS",
        "UPDATE_ROLLBACK_IN_PROGRESS",
    ];
    const GOOD: &[&str] = &[
        "CREATE_COMPLETE",
        "IMPORT_COMPLETE",
        "IMPORT_ROLLBACK_COMPLETE",
        "UPDATE_COMPLETE",
        "UPDATE_ROLLBACK_COMPLETE",
    ];
    const STUCK: (&str, &[&str]) = (
        "stack `s` is in IMPORT_ROLLBACK_FAILED, in which it cannot be deployed",
        &["IMPORT_ROLLBACK_FAILED"],
    );

    #[test]
    fn every_status_has_an_answer() {
        assert_eq!(next("s", None).unwrap(), Next::Create);
        assert_eq!(
            answers(|_| ()),
            table([
                ("Create", &["DELETE_COMPLETE", "REVIEW_IN_PROGRESS"]),
                ("Update", GOOD),
                ("Replace", &["CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"]),
                ("ReplaceUsed", &["DELETE_FAILED"]),
                ("ContinueRollback", &["UPDATE_ROLLBACK_FAILED"]),
                ("RollBack", &["UPDATE_FAILED"]),
                ("Wait", BUSY),
                STUCK,
            ])
        );
    }

    #[test]
    fn a_protected_stack_is_not_replaced() {
        assert_eq!(
            answers(|stack| stack.protected = true),
            table([
                ("Create", &["DELETE_COMPLETE", "REVIEW_IN_PROGRESS"]),
                ("Update", GOOD),
                (
                    "stack `s` is protected against deletion",
                    &["CREATE_FAILED", "DELETE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"]
                ),
                ("ContinueRollback", &["UPDATE_ROLLBACK_FAILED"]),
                ("RollBack", &["UPDATE_FAILED"]),
                ("Wait", BUSY),
                STUCK,
            ])
        );
    }

    #[test]
    fn only_our_own_stacks_are_touched() {
        assert!(crate::template::TEMPLATE.contains(super::super::DESCRIPTION));
        let answers = answers(|stack| stack.ours = false);
        assert_eq!(
            answers["Create"],
            ["DELETE_COMPLETE", "REVIEW_IN_PROGRESS"],
            "there is nothing in these"
        );
        assert_eq!(answers.len(), 2, "{answers:?}");
        assert!(answers.contains_key("stack `s` was made by something else than cbbootstrap"));
    }

    #[test]
    fn signals_cancel_what_can_be_cancelled() {
        use {Operation as O, Reaction as R, Signal as S};
        for (operation, signal, first, second) in [
            (O::Create, S::CtrlC, R::Delete, R::Detach),
            (O::Update, S::CtrlC, R::Cancel, R::Detach),
            (O::Delete, S::CtrlC, R::Detach, R::Detach),
            (O::Rollback, S::CtrlC, R::Detach, R::Detach),
            (O::Create, S::Terminate, R::Detach, R::Detach),
            (O::Update, S::Terminate, R::Detach, R::Detach),
            (O::Delete, S::Terminate, R::Detach, R::Detach),
            (O::Rollback, S::Terminate, R::Detach, R::Detach),
        ] {
            for (cancelled, expected) in [(false, first), (true, second)] {
                assert_eq!(
                    reaction(operation, cancelled, signal),
                    expected,
                    "{operation:?} {signal:?} {cancelled}"
                );
            }
        }
    }
}
