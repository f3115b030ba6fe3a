//! Stacks and decisions about them: pure functions of CloudFormation's answers.

mod changes;
mod decision;
mod drift;
mod events;
pub mod pace;

use std::collections::BTreeMap;

use cbbootstrap_cli::text::shell_word;
use jiff::{SignedDuration, Timestamp};

use StackStatus as S;
pub use aws_sdk_cloudformation::types::StackStatus;

pub use changes::{Change, ValueChange, losses, update_lines, value_changes};
pub use decision::{
    Cancellation, Operation, Risk, StackAction, check_api, has_changed, is_no_change,
    is_up_to_date, lost_domain, next_action, risks, verdict,
};
pub use drift::{Difference, Drift, Drifted};
pub use events::{Progress, StackEvent, failed, last_change, root_cause};

use crate::{exit::Exit, failure::Failure, values::Auth};

/// How the template's description begins. It marks stacks that were made from the template without this program.
pub const DESCRIPTION: &str = "cbbootstrap:";

/// The tag of everything that this program makes.
pub const OWNER_TAG: (&str, &str) = ("created-by", "cbbootstrap");

/// The tag of a table that names the stack for which it was created.
pub const STACK_TAG: &str = "cbbootstrap-stack";

/// The output that holds the ARN of the alarm on failed requests.
pub const ERROR_ALARM: &str = "ErrorAlarmArn";

/// How long after the beginning of a change an endpoint may not be known everywhere yet. A change takes about a minute.
const FRESH: SignedDuration = SignedDuration::from_mins(5);

/// A stack as CloudFormation describes it.
#[derive(Clone, Debug)]
pub struct Stack {
    /// The ARN, which also finds a deleted stack.
    pub id: String,
    /// Whether it is a stack of this service, and not an unrelated one of the same name.
    pub ours: bool,
    pub status: StackStatus,
    pub reason: Option<String>,
    pub parameters: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
    pub outputs: BTreeMap<String, String>,
    /// The alarms that roll back an update: ARN and type.
    pub rollback_triggers: Vec<(String, String)>,
    /// How long they are watched after an update.
    pub monitoring_minutes: i32,
    pub notification_arns: Vec<String>,
    pub protected: bool,
    /// RFC 3339, as are the other times.
    pub created: Option<String>,
    /// When it was last created or updated.
    pub updated: Option<String>,
    /// The result of the last check.
    pub drift: Drift,
}

/// The stack that a deployment is to create.
#[derive(Clone, Debug, Default)]
pub struct DesiredStack {
    pub name: String,
    pub template: &'static str,
    /// A value for every parameter of the template.
    pub parameters: BTreeMap<String, String>,
    /// The user's tags; [`DesiredStack::all_tags`] adds [`OWNER_TAG`].
    pub tags: BTreeMap<String, String>,
    /// Topics for the stack's events; `None` leaves the current ones.
    pub notification_arns: Option<Vec<String>>,
    /// The role that CloudFormation assumes; `None` leaves the current one. A different role alone is not a change: it
    /// takes effect with the next one.
    pub role_arn: Option<String>,
}

impl DesiredStack {
    /// Whether it is an API that anybody may call.
    pub fn is_public_api(&self) -> bool {
        self.parameters.contains_key("AuthorizationType") && restriction(&self.parameters).is_none()
    }

    pub fn all_tags(&self) -> BTreeMap<String, String> {
        let (key, value) = OWNER_TAG;
        self.tags.clone().into_iter().chain([(key.to_owned(), value.to_owned())]).collect()
    }
}

impl Stack {
    /// Whether CloudFormation is changing it.
    pub fn is_busy(&self) -> bool {
        self.status.as_str().ends_with("_IN_PROGRESS") && self.status != S::ReviewInProgress
    }

    /// Whether it is complete, either changed or rolled back, and can be updated.
    pub fn is_good(&self) -> bool {
        matches!(
            self.status,
            S::CreateComplete
                | S::UpdateComplete
                | S::UpdateRollbackComplete
                | S::ImportComplete
                | S::ImportRollbackComplete
        )
    }

    /// Whether its last change, perhaps by someone else, began so recently that its endpoint may be new.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let changed = self.updated.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
        changed.is_some_and(|changed| now.duration_since(changed) < FRESH)
    }

    /// Whether its last change failed, even if it has been rolled back.
    pub fn has_failed(&self) -> bool {
        let status = self.status.as_str();
        status.ends_with("_FAILED") || status.contains("ROLLBACK")
    }

    pub fn name(&self) -> &str {
        name_in(&self.id)
    }

    /// The value of a parameter, unless it is empty.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// An output that the template promises.
    pub fn output(&self, name: &str) -> Result<&str, Failure> {
        self.outputs.get(name).map(String::as_str).ok_or_else(|| {
            let hint = match self.cluster_id() {
                Some(_) => "it is a Couchbase cluster; name the API's stack with `--stack-name`",
                None => "was it created by something else? choose another name with `--stack-name`",
            };
            let (stack, status) = (self.name(), self.status.as_str());
            Failure::new(format!("stack `{stack}` has no output `{name}` (it is {status})"))
                .hint(hint)
        })
    }

    /// The callers that its API accepts. A stack of an older template has no such parameter, and accepts all.
    pub fn auth(&self) -> Auth {
        if is_signed(&self.parameters) { Auth::Iam } else { Auth::None }
    }

    /// The only calls that its API accepts, and the option that restricts it to them; `None` if anybody may call it.
    pub fn restriction(&self) -> Option<(&'static str, &'static str)> {
        restriction(&self.parameters)
    }

    /// The API's own domain name, and its endpoint by API Gateway's.
    pub fn domain(&self) -> Option<(&str, &str)> {
        Some((self.parameter("DomainName")?, self.outputs.get("DefaultEndpoint")?))
    }

    /// Whether its API has this URL.
    pub fn serves(&self, url: &str) -> bool {
        let mut endpoints = ["Endpoint", "DefaultEndpoint"]
            .into_iter()
            .filter_map(|output| self.outputs.get(output));
        endpoints.any(|it| it.trim_end_matches('/') == url.trim_end_matches('/'))
    }

    /// The value of the parameter or else of the output. A template with fixed values, such as one that CDK includes, has no
    /// parameters, but keeps the outputs.
    fn value(&self, name: &str) -> Option<&str> {
        self.parameter(name).or_else(|| self.outputs.get(name).map(String::as_str))
    }

    /// The API's table.
    pub fn table(&self) -> Option<&str> {
        self.value("TableName")
    }

    /// The Couchbase cluster, if it is the stack of one.
    pub fn cluster_id(&self) -> Option<&str> {
        self.value("ClusterId")
    }

    /// The S3 key of the function's zip, or of the agent's archive.
    pub fn artifact_key(&self) -> Option<&str> {
        self.value("ArtifactKey").or_else(|| self.value("AgentKey"))
    }

    /// The values of the parameters and outputs of these names.
    fn values(&self, names: &[&str]) -> impl Iterator<Item = &String> {
        let values = self.parameters.iter().chain(&self.outputs);
        values.filter(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| value)
    }

    pub fn uses_table(&self, table: &str) -> bool {
        self.values(&["TableName"]).any(|it| it == table)
    }

    pub fn uses_bucket(&self, bucket: &str) -> bool {
        self.values(&["ArtifactBucket", "AgentBucket"]).any(|it| it == bucket)
    }

    /// Whether it uses an object of the bucket whose key begins so.
    pub fn uses_artifact(&self, bucket: &str, prefix: &str) -> bool {
        let mut keys = self.values(&["ArtifactKey", "AgentKey"]);
        self.uses_bucket(bucket) && keys.any(|key| key.starts_with(prefix))
    }

    pub fn check_ours(&self, name: &str) -> Result<(), Failure> {
        if self.ours {
            return Ok(());
        }
        Err(Failure::needs_decision(format!("stack `{name}` was not created by cbbootstrap"))
            .hint("choose another name with `--stack-name`"))
    }

    pub fn check_unprotected(&self, name: &str) -> Result<(), Failure> {
        if !self.protected {
            return Ok(());
        }
        // A stack that cannot be deployed cannot be deployed without protection either.
        let deploy = match self.cluster_id().filter(|_| self.is_good()) {
            Some(id) => {
                format!(", as `cbbootstrap launch {} … --protect=false` does", shell_word(id))
            }
            None if self.is_good() => ", as `cbbootstrap deploy … --protect=false` does".to_owned(),
            None => String::new(),
        };
        let disable = aws_command(
            "update-termination-protection --no-enable-termination-protection",
            &self.id,
        );
        Err(Failure::needs_decision(format!("stack `{name}` is protected against deletion"))
            .hint(format!("`{disable}` disables it{deploy}")))
    }
}

fn is_signed(parameters: &BTreeMap<String, String>) -> bool {
    let parameter = parameters.get("AuthorizationType");
    parameter.is_some_and(|value| value == Auth::Iam.authorization_type())
}

fn restriction(parameters: &BTreeMap<String, String>) -> Option<(&'static str, &'static str)> {
    if is_signed(parameters) {
        Some(("signed requests", "--auth iam"))
    } else if parameters.get("RequireSecret").is_some_and(|value| value == "true") {
        Some(("calls with a cluster's token", "--require-secret"))
    } else {
        None
    }
}

/// The name of a stack, which is a part of its ARN.
pub fn name_in(id: &str) -> &str {
    id.split('/').nth(1).unwrap_or(id)
}

/// The region in an ARN.
pub fn region_in(arn: &str) -> Option<&str> {
    arn.split(':').nth(3)
}

/// A command of the AWS CLI for exactly this stack, in hints: another account or region has none with its ARN.
fn aws_command(command: &str, id: &str) -> String {
    let region = region_in(id).map(|region| format!(" --region {region}"));
    format!("aws cloudformation {command}{} --stack-name {id}", region.unwrap_or_default())
}

/// The error for a stack that does not exist.
pub fn missing(name: &str, region: &str) -> Failure {
    Failure::new(format!("there is no stack `{name}` in {region}"))
        .hint("`cbbootstrap deploy` creates it; `--stack-name` and `--region` select another")
}

/// The error for a stack that changed after it was read.
pub fn overtaken(name: &str) -> Failure {
    Failure::new(format!("another deployment has just changed stack `{name}`"))
        .hint("run the same command again")
        .exit(Exit::Changed)
}

/// The table that `destroy` deletes: the stack's own, or the one that the user names if there is no stack.
pub fn table_to_delete(
    name: &str,
    stack: Option<&Stack>,
    asked: Option<&str>,
) -> Result<Option<String>, Failure> {
    let own = stack.and_then(Stack::table);
    match (own, asked) {
        (Some(own), Some(asked)) if own != asked => Err(Failure::usage(format!(
            "stack `{name}` keeps its clusters in table `{own}`, not in `{asked}`"
        ))
        .hint("omit `--table-name`")),
        _ => Ok(own.or(asked).map(str::to_owned)),
    }
}

/// Refuses to delete what one of these stacks uses. `keep` begins the hint: ``omit `--delete-table` ``
pub fn check_unused<'s>(
    thing: &str,
    keep: &str,
    mut users: impl Iterator<Item = &'s Stack>,
) -> Result<(), Failure> {
    let Some(user) = users.next() else {
        return Ok(());
    };
    let name = user.name();
    Err(Failure::needs_decision(format!("{thing} is used by stack `{name}`"))
        .hint(format!("{keep}, or delete stack `{name}` first")))
}

/// The first of these stacks that is a cluster whose nodes call the API of this one.
pub fn cluster_with<'s>(api: &Stack, stacks: &'s [Stack]) -> Option<&'s Stack> {
    let mut others = stacks.iter().filter(|stack| stack.id != api.id);
    others.find(|stack| stack.values(&["ApiEndpoint"]).any(|url| api.serves(url)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn stack(status: &str, table: &str) -> Stack {
        Stack {
            id: "arn".to_owned(),
            ours: true,
            status: StackStatus::from(status),
            reason: None,
            parameters: BTreeMap::from([("TableName".to_owned(), table.to_owned())]),
            tags: BTreeMap::new(),
            outputs: BTreeMap::new(),
            rollback_triggers: Vec::new(),
            monitoring_minutes: 0,
            notification_arns: Vec::new(),
            protected: false,
            created: None,
            updated: None,
            drift: Drift::new(None, None),
        }
    }

    #[test]
    fn a_stack_is_fresh_for_some_minutes_after_a_change() {
        let now = "2026-11-27T03:00:00Z".parse().unwrap();
        for (updated, expected) in [
            (None, false),
            (Some("2026-11-27T02:59:00Z"), true),
            (Some("2026-11-27T02:55:00Z"), false),
            // This machine's clock is behind.
            (Some("2026-11-27T03:01:00Z"), true),
            (Some("2025-11-27T03:00:00Z"), false),
        ] {
            let updated = updated.map(str::to_owned);
            let stack = Stack { updated, ..stack("CREATE_COMPLETE", "t") };
            assert_eq!(stack.is_fresh(now), expected, "{:?}", stack.updated);
        }
    }

    #[test]
    fn failure_is_reported_until_a_change_succeeds() {
        for (status, failed) in [
            ("CREATE_COMPLETE", false),
            ("UPDATE_IN_PROGRESS", false),
            ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", false),
            ("CREATE_FAILED", true),
            ("ROLLBACK_IN_PROGRESS", true),
            ("UPDATE_ROLLBACK_COMPLETE", true),
            ("DELETE_FAILED", true),
        ] {
            assert_eq!(stack(status, "t").has_failed(), failed, "{status}");
        }
    }

    #[test]
    fn only_the_stacks_own_table_is_deleted() {
        let own = stack("CREATE_COMPLETE", "team-a");
        let table = |stack, asked| table_to_delete("s", stack, asked).map_err(|no| no.exit);
        let team_a = Ok(Some("team-a".to_owned()));
        assert_eq!(table(Some(&own), None), team_a);
        assert_eq!(table(Some(&own), Some("team-a")), team_a);
        assert_eq!(table(Some(&own), Some("cb-bootstrap")), Err(Exit::Usage));
        assert_eq!(table(None, Some("team-a")), team_a);
        assert_eq!(table(None, None), Ok(None));
    }

    #[test]
    fn clusters_of_an_api_are_found_by_its_endpoints() {
        let with = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let api = Stack {
            outputs: with(&[("Endpoint", "https://own/v1"), ("DefaultEndpoint", "https://a1")]),
            ..stack("CREATE_COMPLETE", "t")
        };
        let cluster = |id: &str, url: &str| Stack {
            id: id.to_owned(),
            parameters: with(&[("ClusterId", "c"), ("ApiEndpoint", url)]),
            ..stack("CREATE_COMPLETE", "t")
        };
        let other = cluster("other", "https://a2");
        for (url, is_found) in [
            ("https://own/v1", true),
            ("https://own/v1/", true),
            ("https://a1", true),
            ("https://own", false),
            ("https://a2", false),
        ] {
            let stacks = [api.clone(), other.clone(), cluster("c", url)];
            let found = cluster_with(&api, &stacks).map(|stack| stack.id.as_str());
            assert_eq!(found, is_found.then_some("c"), "{url}");
        }
        let fixed = Stack {
            parameters: BTreeMap::new(),
            outputs: with(&[("ApiEndpoint", "https://a1")]),
            ..cluster("c", "")
        };
        assert!(cluster_with(&api, &[fixed]).is_some());
        let own = with(&[("ApiEndpoint", "https://a1")]);
        assert!(cluster_with(&api, &[Stack { parameters: own, ..api.clone() }]).is_none());
        let empty = stack("REVIEW_IN_PROGRESS", "t");
        assert!(cluster_with(&empty, &[cluster("c", "https://a1")]).is_none());
    }

    #[test]
    fn commands_for_people_name_exactly_one_stack() {
        let id = "arn:aws:cloudformation:eu-west-1:123456789012:stack/s/uuid";
        let stack = Stack { id: id.to_owned(), protected: true, ..stack("CREATE_COMPLETE", "t") };
        let hint = stack.check_unprotected("s").unwrap_err().hint.unwrap();
        assert!(hint.contains(&format!(" --region eu-west-1 --stack-name {id}`")), "{hint}");
    }

    #[test]
    fn parameters_and_outputs_name_what_a_stack_uses() {
        let with = |parameters: &[(&str, &str)], outputs: &[(&str, &str)]| {
            let [parameters, outputs] = [parameters, outputs].map(|pairs| {
                let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
                pairs.iter().map(owned).collect()
            });
            Stack { ours: false, parameters, outputs, ..stack("UPDATE_IN_PROGRESS", "t") }
        };
        for (parameters, outputs, expected) in [
            (&[("TableName", "t")][..], &[][..], true),
            (&[], &[("TableName", "t")], true),
            // During an update, or if the parameter names another one that holds the value.
            (&[("TableName", "/t")], &[("TableName", "t")], true),
            (&[("TableName", "t")], &[("TableName", "before")], true),
            (&[("TableName", "other"), ("Table", "t")], &[], false),
            (&[], &[], false),
        ] {
            let actual = with(parameters, outputs).uses_table("t");
            assert_eq!(actual, expected, "{parameters:?} {outputs:?}");
        }
        let code = [("ArtifactBucket", "b"), ("ArtifactKey", "api/1")];
        let agent = [("AgentBucket", "b"), ("AgentKey", "nodes/1")];
        let both = [&code[..], &agent].concat();
        for (parameters, bucket, prefix, expected) in [
            (&code[..], "b", "api/", (true, true)),
            (&code, "b", "nodes/", (true, false)),
            (&agent, "b", "nodes/", (true, true)),
            (&both, "b", "nodes/", (true, true)),
            (&both, "other", "nodes/", (false, false)),
            (&both[..1], "b", "api/", (true, false)),
        ] {
            let user = with(parameters, &[]);
            let actual = (user.uses_bucket(bucket), user.uses_artifact(bucket, prefix));
            assert_eq!(actual, expected, "{parameters:?} {bucket} {prefix}");
        }
    }

    #[test]
    fn used_things_are_not_deleted() {
        let user = Stack {
            id: "arn:aws:cloudformation:us-east-1:123456789012:stack/living/uuid".to_owned(),
            ..stack("CREATE_COMPLETE", "t")
        };
        let check = |users: &[Stack]| check_unused("table `t`", "keep it", users.iter());
        assert!(check(&[]).is_ok());
        let failure = check(&[user]).unwrap_err();
        assert_eq!(failure.to_string(), "table `t` is used by stack `living`");
        assert_eq!(failure.exit, Exit::NeedsDecision);
    }
}
