//! What to do about a stack: pure functions of what `CloudFormation` says.

use std::{collections::BTreeMap, fmt::Display};

use aws_sdk_cloudformation::types::StackStatus;
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// How the template's description begins, by which a stack is known that was made from it without this program.
pub const DESCRIPTION: &str = "cbbootstrap:";

/// A stack as it stands.
#[derive(Clone, Debug)]
pub struct Stack {
    /// Its ARN, by which it is found even when deleted.
    pub id: String,
    /// Whether it is the service's, and no other stack of the same name.
    pub ours: bool,
    /// Its status.
    pub status: StackStatus,
    /// Why it is in that status, where `CloudFormation` says.
    pub reason: Option<String>,
    /// The values of its parameters.
    pub parameters: BTreeMap<String, String>,
    /// Its outputs.
    pub outputs: BTreeMap<String, String>,
    /// When it was last created or updated, RFC 3339.
    pub updated: Option<String>,
    /// When it was created, RFC 3339.
    pub created: Option<String>,
    /// Whether it refuses to be deleted.
    pub protected: bool,
    /// Whether its resources are as it made them, as `CloudFormation` last saw it.
    pub drift: Option<String>,
    /// When `CloudFormation` last looked for that, RFC 3339.
    pub drift_checked: Option<String>,
}

impl Stack {
    /// An output that the template promises.
    pub fn output(&self, name: &str) -> Result<&str, Failure> {
        self.outputs.get(name).map(String::as_str).ok_or_else(|| {
            Failure::new(format!(
                "stack `{}` has no output `{name}` (it is {})",
                self.id, self.status
            ))
            .hint("was it deployed by something else? choose another name with `--stack-name`")
        })
    }

    /// That it is the service's.
    pub fn check_ours(&self, name: &str) -> Result<(), Failure> {
        // What only waits for a first change set has nothing in it yet.
        if self.ours || self.status == StackStatus::ReviewInProgress {
            return Ok(());
        }
        Err(Failure::new(format!(
            "stack `{name}` was made by something else than cbbootstrap"
        ))
        .hint("choose another name with `--stack-name`")
        .exit(Exit::Stack))
    }
}

/// How a deployment begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// By a new stack.
    Create,
    /// By an update of the stack.
    Update,
    /// By the deletion of what a failed creation or deletion left; nothing of the user's is in the stack.
    Recreate,
}

/// How to deploy over this stack, or why not.
pub fn action(name: &str, stack: Option<&Stack>) -> Result<Action, Failure> {
    use StackStatus as S;
    let Some(stack) = stack else {
        return Ok(Action::Create);
    };
    stack.check_ours(name)?;
    let status = &stack.status;
    let refuse = |hint: String| {
        Err(Failure::new(format!(
            "stack `{name}` is in {status}, in which it cannot be deployed"
        ))
        .hint(hint)
        .exit(Exit::Stack))
    };
    match status {
        S::DeleteComplete | S::ReviewInProgress => Ok(Action::Create),
        S::CreateComplete
        | S::UpdateComplete
        | S::UpdateRollbackComplete
        | S::ImportComplete
        | S::ImportRollbackComplete => Ok(Action::Update),
        S::CreateFailed | S::RollbackComplete | S::RollbackFailed | S::DeleteFailed => {
            Ok(Action::Recreate)
        }
        S::UpdateRollbackFailed => refuse(format!(
            "`aws cloudformation continue-update-rollback --stack-name {name}` brings it back; then deploy again"
        )),
        S::UpdateFailed => refuse(format!(
            "`aws cloudformation rollback-stack --stack-name {name}` brings it back; then deploy again"
        )),
        status if is_busy(status) => Err(busy(name, status)),
        _ => refuse("look at its events in the CloudFormation console".to_owned()),
    }
}

/// Whether `CloudFormation` is at work on the stack.
pub fn is_busy(status: &StackStatus) -> bool {
    status.as_str().ends_with("_IN_PROGRESS") && *status != StackStatus::ReviewInProgress
}

/// The refusal to touch a stack that `CloudFormation` is at work on.
pub fn busy(name: &str, status: &StackStatus) -> Failure {
    Failure::new(format!(
        "stack `{name}` is being changed already ({status})"
    ))
    .hint("wait until `cbbootstrap status` shows it settled, then run the same command again")
    .exit(Exit::Stack)
}

/// Whether what was begun has come to its good end.
pub fn is_success(status: &StackStatus) -> bool {
    matches!(
        status,
        StackStatus::CreateComplete | StackStatus::UpdateComplete | StackStatus::DeleteComplete
    )
}

/// Something that happened to a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unique.
    pub id: String,
    /// The resource's name in the template; the stack's own for the stack itself.
    pub resource: String,
    /// The resource's type.
    pub kind: String,
    /// The resource's new status.
    pub status: String,
    /// Why, in `CloudFormation`'s words.
    pub reason: Option<String>,
}

impl Event {
    /// Whether it is about the stack as a whole.
    pub fn is_stack(&self) -> bool {
        self.kind == "AWS::CloudFormation::Stack"
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.resource, self.status)?;
        match self.reason.as_deref() {
            Some(reason) if !reason.is_empty() => write!(f, ": {reason}"),
            _ => Ok(()),
        }
    }
}

/// What to ask before the stack's API is given another table: it knows nothing of the clusters in the old one.
pub fn question_about_table(name: &str, stack: Option<&Stack>, table: &str) -> Option<String> {
    let current = stack?
        .parameters
        .get("TableName")
        .filter(|current| *current != table)?;
    Some(format!(
        "Stack `{name}` keeps its clusters in table `{current}`; with table `{table}` it would know none of them. Go on?"
    ))
}

/// The table that `destroy` is about: the stack's own, or the one that is named where there is no stack.
pub fn table_to_delete(
    name: &str,
    stack: Option<&Stack>,
    asked: Option<&str>,
) -> Result<Option<String>, Failure> {
    let its_own = stack
        .and_then(|stack| stack.parameters.get("TableName"))
        .map(String::as_str);
    match (its_own, asked) {
        (Some(its_own), Some(asked)) if its_own != asked => Err(Failure::new(format!(
            "stack `{name}` keeps its clusters in table `{its_own}`, not in `{asked}`"
        ))
        .hint("leave `--table-name` out")
        .exit(Exit::Usage)),
        _ => Ok(its_own.or(asked).map(str::to_owned)),
    }
}

/// The event that caused the others: of the failures the first that is no mere consequence of another's. Oldest first.
pub fn root_cause(events: &[Event]) -> Option<&Event> {
    let failures = || {
        events
            .iter()
            .filter(|event| event.status.ends_with("_FAILED"))
    };
    let is_consequence = |event: &&Event| {
        event.is_stack()
            || event
                .reason
                .as_deref()
                .is_some_and(|reason| reason.to_lowercase().contains("cancelled"))
    };
    failures()
        .find(|event| !is_consequence(event))
        .or_else(|| failures().next())
        .or_else(|| {
            // A rollback that no resource's failure explains: the stack's own reason does.
            events.iter().find(|event| {
                event.status.contains("ROLLBACK_IN_PROGRESS") && event.reason.is_some()
            })
        })
}

/// The failure that a stack's bad end is.
pub fn failed(name: &str, status: &StackStatus, events: &[Event]) -> Failure {
    let failure = match root_cause(events) {
        Some(event) => Failure::new(format!(
            "stack `{name}` ended in {status}: {event} ({})",
            event.kind
        )),
        None => Failure::new(format!("stack `{name}` ended in {status}")),
    };
    failure.hint(match status {
        StackStatus::UpdateRollbackComplete => {
            "the stack is as it was before; mend the cause and deploy again"
        }
        StackStatus::RollbackComplete | StackStatus::CreateFailed | StackStatus::RollbackFailed => {
            "mend the cause and deploy again; what is left of the stack is then replaced"
        }
        _ => "mend the cause and run the same command again",
    })
}

/// A change that a change set would make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `Add`, `Modify`, `Remove`, …, as `CloudFormation` names it.
    pub action: String,
    /// The resource's name in the template.
    pub resource: String,
    /// The resource's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether the resource is replaced by a new one: `True`, `False`, `Conditional`; none where it does not apply.
    pub replacement: Option<String>,
    /// What of it changes.
    pub scope: Vec<String>,
}

impl Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = match self.action.as_str() {
            "Add" => '+',
            "Remove" => '-',
            _ => '~',
        };
        write!(f, "{sign} {} ({})", self.resource, self.kind)?;
        if !self.scope.is_empty() {
            write!(f, ": {}", self.scope.join(", "))?;
        }
        match self.replacement.as_deref() {
            Some("True") => f.write_str(", replaced"),
            Some("Conditional") => f.write_str(", perhaps replaced"),
            _ => Ok(()),
        }
    }
}

/// The changes that give the API another endpoint, which everyone who calls it must then learn.
pub fn moves_endpoint(changes: &[Change]) -> bool {
    changes.iter().any(|change| {
        change.kind == "AWS::ApiGatewayV2::Api"
            && (change.action == "Remove" || change.replacement.as_deref() == Some("True"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(status: &str, table: &str) -> Stack {
        Stack {
            id: "arn".to_owned(),
            ours: true,
            status: StackStatus::from(status),
            reason: None,
            parameters: BTreeMap::from([("TableName".to_owned(), table.to_owned())]),
            outputs: BTreeMap::new(),
            updated: None,
            created: None,
            protected: false,
            drift: None,
            drift_checked: None,
        }
    }

    #[test]
    fn only_our_own_stacks_are_touched() {
        assert!(crate::template::TEMPLATE.contains(DESCRIPTION));
        for status in StackStatus::values().iter().copied() {
            let foreign = Stack {
                ours: false,
                ..stack(status, "t")
            };
            match action("shop", Some(&foreign)) {
                Ok(action) => assert_eq!((action, status), (Action::Create, "REVIEW_IN_PROGRESS")),
                Err(failure) => {
                    assert_eq!(failure.exit, Exit::Stack);
                    assert!(
                        failure.to_string().contains("made by something else"),
                        "{failure}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_status_has_an_answer() {
        let mut answers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        // All of CloudFormation's statuses: a new one in the SDK shows here.
        for status in StackStatus::values().iter().copied() {
            let answer = match action("s", Some(&stack(status, "t"))) {
                Ok(action) => format!("{action:?}"),
                Err(failure) => {
                    assert_eq!(failure.exit, Exit::Stack, "{status}");
                    assert!(failure.to_string().contains(status), "{failure}");
                    if failure.to_string().contains("already") {
                        "busy"
                    } else {
                        "refused"
                    }
                    .to_owned()
                }
            };
            answers.entry(answer).or_default().push(status);
        }
        let expected = BTreeMap::from(
            [
                ("Create", vec!["DELETE_COMPLETE", "REVIEW_IN_PROGRESS"]),
                (
                    "Update",
                    vec![
                        "CREATE_COMPLETE",
                        "IMPORT_COMPLETE",
                        "IMPORT_ROLLBACK_COMPLETE",
                        "UPDATE_COMPLETE",
                        "UPDATE_ROLLBACK_COMPLETE",
                    ],
                ),
                (
                    "Recreate",
                    vec![
                        "CREATE_FAILED",
                        "DELETE_FAILED",
                        "ROLLBACK_COMPLETE",
                        "ROLLBACK_FAILED",
                    ],
                ),
                (
                    "busy",
                    vec![
                        "CREATE_IN_PROGRESS",
                        "DELETE_IN_PROGRESS",
                        "IMPORT_IN_PROGRESS",
                        "IMPORT_ROLLBACK_IN_PROGRESS",
                        "ROLLBACK_IN_PROGRESS",
                        "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
                        "UPDATE_IN_PROGRESS",
                        "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS",
                        "UPDATE_ROLLBACK_IN_PROGRESS",
                    ],
                ),
                (
                    "refused",
                    vec![
                        "IMPORT_ROLLBACK_FAILED",
                        "UPDATE_FAILED",
                        "UPDATE_ROLLBACK_FAILED",
                    ],
                ),
            ]
            .map(|(answer, statuses)| (answer.to_owned(), statuses)),
        );
        assert_eq!(answers, expected);
        assert_eq!(action("s", None).unwrap(), Action::Create);
    }

    fn event(resource: &str, status: &str, reason: &str) -> Event {
        let kind = if resource == "stack" {
            "AWS::CloudFormation::Stack"
        } else {
            "AWS::X::Y"
        };
        Event {
            id: String::new(),
            resource: resource.to_owned(),
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
        }
    }

    #[test]
    fn the_first_failure_is_the_cause() {
        let cancelled = "Resource creation cancelled";
        let events = [
            event("stack", "CREATE_IN_PROGRESS", "User Initiated"),
            event("Api", "CREATE_FAILED", cancelled),
            event(
                "Role",
                "CREATE_FAILED",
                "not authorized to perform: iam:CreateRole",
            ),
            event("Function", "CREATE_FAILED", cancelled),
            event(
                "stack",
                "ROLLBACK_IN_PROGRESS",
                "The following resource(s) failed to create: [Role].",
            ),
            event("Api", "DELETE_FAILED", "too late"),
        ];
        assert_eq!(root_cause(&events).unwrap().resource, "Role");
        let message = failed("s", &StackStatus::RollbackComplete, &events).to_string();
        assert_eq!(
            message,
            "stack `s` ended in ROLLBACK_COMPLETE: Role CREATE_FAILED: not authorized to perform: iam:CreateRole (AWS::X::Y)"
        );

        assert_eq!(
            root_cause(&events[..2]).unwrap().resource,
            "Api",
            "better than nothing"
        );
        assert_eq!(
            root_cause(&events[4..5]).unwrap().resource,
            "stack",
            "the stack's own reason"
        );
        assert_eq!(root_cause(&events[..1]), None);
    }

    #[test]
    fn another_table_is_asked_about() {
        let stack = |table| stack("CREATE_COMPLETE", table);
        assert_eq!(question_about_table("s", None, "t"), None);
        assert_eq!(question_about_table("s", Some(&stack("t")), "t"), None);
        assert!(
            question_about_table("s", Some(&stack("old")), "t")
                .unwrap()
                .contains("`old`")
        );
    }

    #[test]
    fn a_stack_goes_with_its_own_table() {
        let its_own = stack("CREATE_COMPLETE", "team-a");
        let table = |stack, asked| table_to_delete("s", stack, asked).map_err(|no| no.exit);
        let team_a = Ok(Some("team-a".to_owned()));
        assert_eq!(table(Some(&its_own), None), team_a);
        assert_eq!(table(Some(&its_own), Some("team-a")), team_a);
        assert_eq!(
            table(Some(&its_own), Some("cb-bootstrap")),
            Err(Exit::Usage)
        );
        assert_eq!(table(None, Some("team-a")), team_a);
        assert_eq!(table(None, None), Ok(None));
    }

    #[test]
    fn an_endpoint_moves_with_its_api() {
        let change = |action: &str, kind: &str, replacement: Option<&str>| Change {
            action: action.to_owned(),
            resource: "R".to_owned(),
            kind: kind.to_owned(),
            replacement: replacement.map(str::to_owned),
            scope: Vec::new(),
        };
        let api = "AWS::ApiGatewayV2::Api";
        assert!(moves_endpoint(&[change("Modify", api, Some("True"))]));
        assert!(moves_endpoint(&[change("Remove", api, None)]));
        assert!(!moves_endpoint(&[
            change("Modify", api, Some("False")),
            change("Add", api, None)
        ]));
        assert!(!moves_endpoint(&[change(
            "Modify",
            "AWS::Lambda::Function",
            Some("True")
        )]));
    }
}
