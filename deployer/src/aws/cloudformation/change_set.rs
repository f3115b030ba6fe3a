//! Change sets: created, read, executed, and removed again.

use std::time::Duration;

use aws_sdk_cloudformation::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::describe_change_set::{DescribeChangeSetError, DescribeChangeSetOutput},
    types::{
        Capability, ChangeSetStatus, ChangeSetType, DeploymentConfig, DeploymentConfigMode,
        ExecutionStatus as E, Parameter, PolicyAction as P, ResourceChange, ResourceChangeDetail,
        RollbackConfiguration, RollbackTrigger, StackStatus as S, Tag,
    },
};
use cbbootstrap_cli::values::number;
use clap::Args;

use super::{
    super::{
        error::{Answer, is_transient},
        poll::Poll,
    },
    stack::{after_error, find, request_deletion},
    token, unless_missing, validation,
};
use crate::{
    advice,
    failure::Failure,
    stack::{Change, DesiredStack, ERROR_ALARM, Stack, ValueChange, is_no_change, overtaken},
};

const CREATION: Poll =
    Poll { patience: Duration::from_mins(10), hint: "nothing was changed; deploy again" };

/// Short, because the program is about to end, perhaps after Ctrl-C.
const REMOVAL: Poll = Poll {
    patience: Duration::from_secs(15),
    hint: "nothing was changed; the next deployment makes a new one",
};

/// How CloudFormation updates a stack.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Stack")]
pub struct UpdateMode {
    /// Do not wait until the new resources can be used; `--rollback-minutes` is then not possible
    #[arg(long)]
    pub express: bool,
    /// Minutes to watch an update, at most 180; it is rolled back if more than 5 % of the requests fail. 0 does not watch
    #[arg(
        long,
        value_name = "MINUTES",
        default_value_t = 0,
        value_parser = number::<u8>(0..=180),
        conflicts_with = "express"
    )]
    pub rollback_minutes: u8,
}

/// A change set of this run, which CloudFormation may not have received yet.
///
/// It has a name before it is created, so that it can be removed if its creation is interrupted.
#[derive(Debug)]
pub struct ChangeSet {
    client: Client,
    name: String,
    stack: String,
    kind: ChangeSetType,
}

impl ChangeSet {
    /// A change set that updates the stack `before`, or creates one without it.
    pub fn new(client: &Client, stack: &str, before: Option<&Stack>) -> Self {
        let is_update = before.is_some_and(Stack::is_good);
        let kind = if is_update { ChangeSetType::Update } else { ChangeSetType::Create };
        Self { client: client.clone(), name: token(), stack: stack.to_owned(), kind }
    }

    /// Requests its creation, which [`ChangeSet::read`] awaits. Returns the stack's ARN. Unless the change set is executed, remove it
    /// with [`ChangeSet::discard`], also after an error.
    pub async fn request(
        &self,
        desired: &DesiredStack,
        mode: UpdateMode,
        before: Option<&Stack>,
    ) -> anyhow::Result<String> {
        let parameters = desired.parameters.iter().map(|(key, value)| {
            Parameter::builder().parameter_key(key).parameter_value(value).build()
        });
        let tags = desired.all_tags().into_iter();
        let tags = tags.map(|(key, value)| Tag::builder().key(key).value(value).build());
        let express = mode.express.then(|| {
            let express = DeploymentConfig::builder().mode(DeploymentConfigMode::Express);
            express.disable_rollback(false).build()
        });
        let created = self
            .client
            .create_change_set()
            .stack_name(&self.stack)
            .change_set_name(&self.name)
            .client_token(&self.name)
            .change_set_type(self.kind.clone())
            .template_body(desired.template)
            .set_parameters(Some(parameters.collect()))
            .capabilities(Capability::CapabilityIam)
            .set_tags(Some(tags.collect()))
            .set_notification_arns(desired.notification_arns.clone())
            .set_role_arn(desired.role_arn.clone())
            .set_rollback_configuration(before.map(|stack| rollback(stack, mode.rollback_minutes)))
            .set_deployment_config(express)
            .send()
            .await;
        // Only this run uses the name, so if it exists, the change set is this one.
        let is_repeated =
            async |error: &SdkError<_>| Ok(error.code() == Some("AlreadyExistsException"));
        let (client, name) = (&self.client, &self.stack);
        match after_error(client, name, before, self.purpose(), created, is_repeated).await? {
            Some(created) => Ok(created.stack_id.unwrap_or_else(|| name.clone())),
            None => Ok(self.find_stack().await?.ok_or_else(|| overtaken(name))?.id),
        }
    }

    /// Waits for its creation and reads its changes; `None` if it has none.
    pub async fn read(&self) -> anyhow::Result<Option<Vec<Change>>> {
        let set = self.wait().await?;
        if set.status == Some(ChangeSetStatus::CreateComplete) {
            return Ok(Some(self.changes(set).await?));
        }
        let reason = set.status_reason.unwrap_or_default();
        match self.kind {
            ChangeSetType::Update if is_no_change(&reason) => Ok(None),
            // Someone else has created the stack.
            _ if is_no_change(&reason) => Err(overtaken(&self.stack).into()),
            _ => {
                let arn = set.change_set_id.unwrap_or_default();
                Err(self.explain_refusal(reason, &arn).await.into())
            }
        }
    }

    fn purpose(&self) -> String {
        format!("cannot prepare the change of stack `{}`", self.stack)
    }

    /// The refusal's own reason may only name the validation or the hook that failed.
    async fn explain_refusal(&self, reason: String, change_set_arn: &str) -> Failure {
        let failures = validation::failures(&self.client, change_set_arn).await;
        let (reasons, hint) = match failures {
            Ok(failures) if !failures.is_empty() => (failures.join("; "), None),
            Ok(_) => (reason, None),
            Err(error) => {
                let hint = Failure::find_in(&error).and_then(|failure| failure.hint.clone());
                (format!("{reason}; {error:#}"), hint)
            }
        };
        let hint = hint.or_else(|| advice::for_reason(&reasons)).unwrap_or_else(|| {
            "fix the cause above; `cbbootstrap deploy --help` lists the options".to_owned()
        });
        Failure::new(format!("{}: {reasons}", self.purpose())).hint(hint)
    }

    /// Waits until it is created or refused. Returns it with its first page of changes.
    async fn wait(&self) -> anyhow::Result<DescribeChangeSetOutput> {
        let what = self.purpose();
        let overdue = format!("{what}: CloudFormation has not created the change set");
        CREATION
            .until(&overdue, async || {
                let Some(set) = self.describe(None).await.unless_transient(&what)? else {
                    return Ok(None);
                };
                // A change set that someone else executes removes all others of the stack.
                let set = set.ok_or_else(|| overtaken(&self.stack))?;
                let has_ended = matches!(
                    set.status,
                    Some(ChangeSetStatus::CreateComplete | ChangeSetStatus::Failed)
                );
                Ok(has_ended.then_some(set))
            })
            .await
    }

    async fn find_stack(&self) -> anyhow::Result<Option<Stack>> {
        find(&self.client, &self.stack).await
    }

    async fn describe(
        &self,
        page: Option<String>,
    ) -> Result<Option<DescribeChangeSetOutput>, SdkError<DescribeChangeSetError>> {
        let describe = self.client.describe_change_set();
        let describe = describe.stack_name(&self.stack).change_set_name(&self.name);
        let describe = describe.include_property_values(true).set_next_token(page);
        unless_missing(describe.send().await)
    }

    /// Its changes, on this page and all after it.
    async fn changes(&self, mut page: DescribeChangeSetOutput) -> anyhow::Result<Vec<Change>> {
        let mut changes = Vec::new();
        loop {
            let resources = page.changes.into_iter().flatten();
            changes.extend(resources.filter_map(|it| it.resource_change).map(Change::from));
            let Some(next) = page.next_token else {
                return Ok(changes);
            };
            let next = self.describe(Some(next)).await.explain("cannot read the change set")?;
            page = next.ok_or_else(|| overtaken(&self.stack))?;
        }
    }

    pub async fn execute(&self, before: Option<&Stack>) -> anyhow::Result<()> {
        let executed = self
            .client
            .execute_change_set()
            .stack_name(&self.stack)
            .change_set_name(&self.name)
            .client_request_token(&self.name)
            .send()
            .await;
        // If only the answer was lost, the change set itself shows that it is executed. After a refusal, for example of a notification
        // topic, it may show that as well, although nothing changes.
        let is_repeated = async |error: &SdkError<_>| {
            let may_be_executed = is_transient(error)
                || matches!(
                    error.code(),
                    Some("InvalidChangeSetStatus" | "TokenAlreadyExistsException")
                );
            let Ok(set) = self.describe(None).await else {
                return Ok(false);
            };
            match set.ok_or_else(|| overtaken(&self.stack))?.execution_status {
                Some(E::Obsolete | E::Unavailable) => Err(overtaken(&self.stack).into()),
                Some(E::ExecuteInProgress | E::ExecuteComplete | E::ExecuteFailed) => {
                    Ok(may_be_executed)
                }
                _ => Ok(false),
            }
        };
        let what = "cannot execute the change set";
        after_error(&self.client, &self.stack, before, what, executed, is_repeated).await.map(drop)
    }

    /// Removes it, and the empty stack that CloudFormation made for it.
    pub async fn discard(&self) -> anyhow::Result<()> {
        self.delete().await?;
        if self.kind == ChangeSetType::Create {
            self.delete_empty_stack().await?;
        }
        Ok(())
    }

    fn is_left(&self) -> String {
        format!("change set `{}` of stack `{}` was not deleted", self.name, self.stack)
    }

    /// Removes it, and keeps the stack.
    pub async fn delete(&self) -> anyhow::Result<()> {
        REMOVAL
            .until(&self.is_left(), async || {
                let delete = self.client.delete_change_set();
                let delete = delete.stack_name(&self.stack).change_set_name(&self.name);
                // `None` while it is being created.
                let deleted = unless_missing(delete.send().await);
                Ok(deleted
                    .absent_on("InvalidChangeSetStatus")
                    .explain("cannot delete the change set")?)
            })
            .await
            .map(drop)
    }

    /// Deletes the stack if it was made for the change set, and holds no other.
    async fn delete_empty_stack(&self) -> anyhow::Result<()> {
        let stack = self.find_stack().await?;
        let Some(stack) = stack.filter(|it| it.status == S::ReviewInProgress) else {
            return Ok(());
        };
        let others = self.client.list_change_sets().stack_name(&self.stack).send().await;
        if !others.explain("cannot list the change sets")?.summaries().is_empty() {
            return Ok(());
        }
        match request_deletion(&self.client, &stack.id, None).await {
            // With only the permissions for `plan`, the empty stack is left to the first deployment.
            Err(error) if Failure::is_denial(&error) => return Ok(()),
            requested => requested?,
        }
        REMOVAL
            .until(&self.is_left(), async || {
                let stack = self.find_stack().await?;
                let is_gone = stack.is_none_or(|it| it.status == S::DeleteComplete);
                Ok(is_gone.then_some(()))
            })
            .await
    }
}

/// The rollback triggers of an update: the alarm on failed requests, unless `minutes` is 0, and those that others have set, which are
/// watched for at least as long as before.
fn rollback(before: &Stack, minutes: u8) -> RollbackConfiguration {
    let alarm = before.outputs.get(ERROR_ALARM);
    let others = before.rollback_triggers.iter().filter(|(arn, _)| Some(arn) != alarm);
    let others = others.map(|(arn, kind)| (arn.as_str(), kind.as_str()));
    let alarm = alarm.filter(|_| minutes > 0).map(|arn| (arn.as_str(), "AWS::CloudWatch::Alarm"));
    let monitored = alarm.map_or(0, |_| i32::from(minutes));
    let mut others = others.peekable();
    let for_others = others.peek().map_or(0, |_| before.monitoring_minutes);
    let triggers = others
        .chain(alarm)
        .map(|(arn, kind)| RollbackTrigger::builder().arn(arn).r#type(kind).build());
    RollbackConfiguration::builder()
        .set_rollback_triggers(Some(triggers.collect()))
        .monitoring_time_in_minutes(monitored.max(for_others))
        .build()
}

impl From<ResourceChange> for Change {
    fn from(change: ResourceChange) -> Self {
        let mut details: Vec<_> = change.details.into_iter().flatten().filter_map(detail).collect();
        // A detail that both a parameter and a resource cause is listed twice.
        details.sort_by(|one, other| one.name.cmp(&other.name));
        details.dedup_by(|one, other| one.name == other.name);
        Self {
            action: change.action.map(|action| action.to_string()).unwrap_or_default(),
            resource: change.logical_resource_id.unwrap_or_default(),
            kind: change.resource_type.unwrap_or_default(),
            replacement: change.replacement.map(|replacement| replacement.to_string()),
            scope: change.scope.into_iter().flatten().map(|scope| scope.to_string()).collect(),
            details,
            is_kept: matches!(
                change.policy_action,
                Some(P::Retain | P::Snapshot | P::ReplaceAndRetain | P::ReplaceAndSnapshot)
            ),
        }
    }
}

fn detail(detail: ResourceChangeDetail) -> Option<ValueChange> {
    let target = detail.target?;
    let attribute = target.attribute.map(|attribute| attribute.to_string());
    let name = || [attribute, target.name].into_iter().flatten().collect::<Vec<_>>().join(".");
    let path = target.path.map(|path| path.trim_start_matches('/').replace('/', "."));
    let name = path.unwrap_or_else(name);
    Some(ValueChange { name, before: target.before_value, after: target.after_value })
}

#[cfg(test)]
mod tests {
    use aws_sdk_cloudformation::types::{ResourceAttribute, ResourceTargetDefinition};

    use super::*;

    #[test]
    fn an_update_keeps_the_triggers_of_others() {
        let before = Stack {
            outputs: [(ERROR_ALARM.to_owned(), "ours".to_owned())].into(),
            rollback_triggers: ["ours", "theirs"]
                .map(|arn| (arn.to_owned(), "T".to_owned()))
                .into(),
            monitoring_minutes: 10,
            ..crate::stack::tests::stack("UPDATE_COMPLETE", "t")
        };
        let without_alarm = Stack { outputs: [].into(), ..before.clone() };
        let only_ours =
            Stack { rollback_triggers: before.rollback_triggers[..1].to_vec(), ..before.clone() };
        for (before, minutes, expected, monitored) in [
            (&before, 3, &["theirs", "ours"][..], 10),
            (&before, 30, &["theirs", "ours"], 30),
            (&before, 0, &["theirs"], 10),
            (&without_alarm, 3, &["ours", "theirs"], 10),
            (&only_ours, 3, &["ours"], 3),
            (&only_ours, 0, &[], 0),
        ] {
            let configuration = rollback(before, minutes);
            let triggers = configuration.rollback_triggers().iter();
            let arns: Vec<_> = triggers.filter_map(|trigger| trigger.arn()).collect();
            assert_eq!(arns, expected, "{minutes:?}");
            assert_eq!(configuration.monitoring_time_in_minutes(), Some(monitored), "{minutes:?}");
        }
    }

    #[test]
    fn a_detail_is_listed_once_by_its_path() {
        let target = || ResourceTargetDefinition::builder();
        let details = [
            target().path("/Properties/MemorySize").before_value("256").after_value("512"),
            target().path("/Properties/MemorySize").before_value("256").after_value("512"),
            target().attribute(ResourceAttribute::Properties).name("Code"),
            target().attribute(ResourceAttribute::Tags),
        ];
        let details = details.map(|it| ResourceChangeDetail::builder().target(it.build()).build());
        let change = ResourceChange::builder().set_details(Some(details.into())).build();
        let details = Change::from(change).details;
        let paths: Vec<_> = details.iter().map(|detail| detail.name.as_str()).collect();
        assert_eq!(paths, ["Properties.Code", "Properties.MemorySize", "Tags"]);
        assert_eq!(details[1].after.as_deref(), Some("512"));
    }
}
