//! A stack, and what to do about it: pure functions of what `CloudFormation` says.

mod changes;
mod decision;
mod events;
pub mod pace;

use std::{collections::BTreeMap, fmt::Display};

use aws_sdk_cloudformation::types::StackStatus;

pub use changes::{Change, Detail, ValueChange, losses, value_changes};
pub use decision::{Next, Operation, Reaction, next, reaction};
pub use events::{Event, Progress, failed, root_cause};

use crate::{
    failure::{Exit, Failure},
    values::Auth,
};

/// How the template's description begins, by which a stack is known that was made from it without this program.
pub const DESCRIPTION: &str = "cbbootstrap:";

/// A stack as it stands.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    /// Its ARN, by which it is found even when deleted.
    pub id: String,
    /// Whether it is the service's, and no other stack of the same name.
    pub ours: bool,
    /// Its status.
    pub status: Status,
    /// Why it is in that status, where `CloudFormation` says.
    pub reason: Option<String>,
    /// The values of its parameters.
    pub parameters: BTreeMap<String, String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its outputs.
    pub outputs: BTreeMap<String, String>,
    /// The alarms that roll an update of it back: ARN and type.
    pub rollback_triggers: Vec<(String, String)>,
    /// The topics that hear of its events.
    pub notification_arns: Vec<String>,
    /// Whether it refuses to be deleted.
    pub protected: bool,
    /// When it was created, RFC 3339.
    pub created: Option<String>,
    /// When it was last created or updated, RFC 3339.
    pub updated: Option<String>,
    /// Whether its resources were changed behind its back, as `CloudFormation` last knew.
    pub drift: Option<String>,
    /// When `CloudFormation` last looked for that, RFC 3339.
    pub drift_checked: Option<String>,
}

/// A stack's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status(pub StackStatus);

impl Default for Status {
    fn default() -> Self {
        Self::from("UNKNOWN")
    }
}

impl From<&str> for Status {
    fn from(status: &str) -> Self {
        Self(StackStatus::from(status))
    }
}

impl Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl Status {
    /// Whether `CloudFormation` is at work on the stack.
    pub fn is_busy(&self) -> bool {
        self.0.as_str().ends_with("_IN_PROGRESS") && self.0 != StackStatus::ReviewInProgress
    }

    /// Whether the stack stands, as it was or as it was to become.
    pub fn is_good(&self) -> bool {
        use StackStatus as S;
        matches!(
            self.0,
            S::CreateComplete
                | S::UpdateComplete
                | S::UpdateRollbackComplete
                | S::ImportComplete
                | S::ImportRollbackComplete
        )
    }
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

    /// Who may call its API. Those of an older template have no such parameter, and are public.
    pub fn auth(&self) -> Auth {
        let named = self.parameters.get("AuthorizationType");
        if named.is_some_and(|named| named == Auth::Iam.authorization_type()) {
            Auth::Iam
        } else {
            Auth::None
        }
    }

    /// That it is the service's.
    pub fn check_ours(&self, name: &str) -> Result<(), Failure> {
        // What only waits for a first change set has nothing in it yet.
        if self.ours || self.status.0 == StackStatus::ReviewInProgress {
            return Ok(());
        }
        Err(Failure::new(format!("stack `{name}` was made by something else than cbbootstrap"))
            .hint("choose another name with `--stack-name`")
            .exit(Exit::NeedsDecision))
    }

    /// That it may be deleted.
    pub fn check_unprotected(&self, name: &str) -> Result<(), Failure> {
        if !self.protected {
            return Ok(());
        }
        // What cannot be deployed cannot be deployed without protection either.
        let deploy = if self.status.is_good() {
            ", as `cbbootstrap deploy --protect=false` does"
        } else {
            ""
        };
        Err(
            Failure::new(format!("stack `{name}` is protected against deletion"))
                .hint(format!(
                    "`aws cloudformation update-termination-protection --no-enable-termination-protection --stack-name {name}` \
                     ends that{deploy}"
                ))
                .exit(Exit::NeedsDecision),
        )
    }

    /// Whether somebody has touched the stack since it was seen like this; `now` is how it is seen now.
    pub fn is_overtaken_by(&self, now: &Self) -> bool {
        (&self.id, &self.status, &self.updated) != (&now.id, &now.status, &now.updated)
    }
}

/// The refusal to touch a stack that `CloudFormation` is at work on. `watch` is the command that shows how that goes.
pub fn busy(name: &str, status: &Status, watch: &str) -> Failure {
    Failure::new(format!("stack `{name}` is being changed already ({status})"))
        .hint(format!("`{watch}` shows how it goes; then run the same command again"))
        .exit(Exit::Busy)
}

/// What to ask before the stack's API is given another table: it knows nothing of the clusters in the old one.
pub fn question_about_table(name: &str, stack: Option<&Stack>, table: &str) -> Option<String> {
    let current = stack?.parameters.get("TableName").filter(|current| *current != table)?;
    Some(format!(
        "Stack `{name}` keeps its clusters in table `{current}`; with table `{table}` it would know none of them. Go on?"
    ))
}

/// What to ask before the stack's API is opened to everyone: so far, callers had to sign their requests.
pub fn question_about_access(name: &str, stack: Option<&Stack>, auth: Auth) -> Option<String> {
    let opens = stack?.auth() == Auth::Iam && auth == Auth::None;
    opens.then(|| {
        format!(
            "The API of stack `{name}` takes signed requests only; without `--auth iam` everyone who knows its address could \
             call it. Go on?"
        )
    })
}

/// The table that `destroy` is about: the stack's own, or the one that is named where there is no stack.
pub fn table_to_delete(
    name: &str,
    stack: Option<&Stack>,
    asked: Option<&str>,
) -> Result<Option<String>, Failure> {
    let its_own = stack.and_then(|stack| stack.parameters.get("TableName")).map(String::as_str);
    match (its_own, asked) {
        (Some(its_own), Some(asked)) if its_own != asked => Err(Failure::new(format!(
            "stack `{name}` keeps its clusters in table `{its_own}`, not in `{asked}`"
        ))
        .hint("leave `--table-name` out, and see what CBBOOTSTRAP_TABLE_NAME and `cbbootstrap.yaml` say")
        .exit(Exit::Usage)),
        _ => Ok(its_own.or(asked).map(str::to_owned)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn stack(status: &str, table: &str) -> Stack {
        Stack {
            id: "arn".to_owned(),
            ours: true,
            status: Status::from(status),
            parameters: BTreeMap::from([("TableName".to_owned(), table.to_owned())]),
            ..Stack::default()
        }
    }

    #[test]
    fn another_table_is_asked_about() {
        let stack = |table| stack("CREATE_COMPLETE", table);
        assert_eq!(question_about_table("s", None, "t"), None);
        assert_eq!(question_about_table("s", Some(&stack("t")), "t"), None);
        assert!(question_about_table("s", Some(&stack("old")), "t").unwrap().contains("`old`"));
    }

    #[test]
    fn an_api_is_not_opened_unasked() {
        let stack = |authorization: Option<&str>| {
            let mut stack = stack("CREATE_COMPLETE", "t");
            let parameter = authorization.map(|it| ("AuthorizationType".to_owned(), it.to_owned()));
            stack.parameters.extend(parameter);
            stack
        };
        for (now, wanted, asks) in [
            (Some("AWS_IAM"), Auth::None, true),
            (Some("AWS_IAM"), Auth::Iam, false),
            (Some("NONE"), Auth::None, false),
            (Some("NONE"), Auth::Iam, false),
            (None, Auth::None, false),
        ] {
            let question = question_about_access("s", Some(&stack(now)), wanted);
            assert_eq!(question.is_some(), asks, "{now:?} to {wanted:?}");
        }
        assert_eq!(question_about_access("s", None, Auth::None), None);
    }

    #[test]
    fn a_stack_goes_with_its_own_table() {
        let its_own = stack("CREATE_COMPLETE", "team-a");
        let table = |stack, asked| table_to_delete("s", stack, asked).map_err(|no| no.exit);
        let team_a = Ok(Some("team-a".to_owned()));
        assert_eq!(table(Some(&its_own), None), team_a);
        assert_eq!(table(Some(&its_own), Some("team-a")), team_a);
        assert_eq!(table(Some(&its_own), Some("cb-bootstrap")), Err(Exit::Usage));
        assert_eq!(table(None, Some("team-a")), team_a);
        assert_eq!(table(None, None), Ok(None));
    }
}
