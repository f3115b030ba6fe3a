//! The stack: described, changed by change sets, watched by its events.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use aws_sdk_cloudformation::{
    Client,
    config::retry::RetryConfig,
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        create_change_set::CreateChangeSetError, delete_change_set::DeleteChangeSetError,
        describe_change_set::DescribeChangeSetOutput, describe_stacks::DescribeStacksError,
    },
    types::{
        Capability, ChangeSetStatus, ChangeSetType, DeploymentConfig, DeploymentConfigMode,
        ExecutionStatus, Parameter, RollbackConfiguration, RollbackTrigger, StackEvent,
        StackStatus, Tag, TemplateStage,
    },
};
use cbbootstrap_cli::text;
use uuid::Uuid;

use super::{OURS, explain, is_signed_out, is_transient};
use crate::{
    failure::Failure,
    printer::Step,
    signals::Signals,
    stack::{
        Change, DESCRIPTION, Detail, Event, Progress, Stack, Status,
        pace::{self, Distance},
    },
};

/// Between two looks at what is being made: soon at first, for much is done in a second, then less often.
const FIRST_POLL: Duration = Duration::from_millis(250);
const LAST_POLL: Duration = Duration::from_secs(2);

/// The most between two looks while AWS throttles or cannot be reached.
const PATIENT_POLL: Duration = Duration::from_secs(15);

/// So long nothing may be seen of a stack before the watch is given up. That says nothing about the stack.
const LOST_PATIENCE: Duration = Duration::from_mins(15);

/// After this time at the latest a change that was asked for shows in the stack's status, which is then believed, too.
const STATUS_DELAY: Duration = Duration::from_secs(10);

/// So often the stack's status is asked for beside its events.
const STATUS_POLL: Duration = Duration::from_secs(30);

/// How long `CloudFormation` may take to make a change set.
const CHANGE_SET_PATIENCE: Duration = Duration::from_mins(10);

/// How long the removal of a change set may hold up the end.
const DISCARD_PATIENCE: Duration = Duration::from_secs(15);

/// What a stack is to be.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The stack's name.
    pub name: &'a str,
    /// The template's text.
    pub template: &'a str,
    /// The value of every parameter.
    pub parameters: &'a BTreeMap<String, String>,
    /// The user's tags.
    pub tags: &'a BTreeMap<String, String>,
    /// The topics that are to hear of the stack's events; none leaves them as they are.
    pub notification_arns: &'a [String],
    /// The role that `CloudFormation` is to use; none leaves it as it is. It is no part of what the stack is, and changes
    /// with the next change of that.
    pub role_arn: Option<&'a str>,
}

/// The output that names the alarm on the function's errors.
pub const ERROR_ALARM: &str = "ErrorAlarmArn";

/// How a change is to be made.
#[derive(Clone, Debug, Default)]
pub struct Mode {
    /// Not to wait for resources to be ready.
    pub express: bool,
    /// The alarm that rolls an update back, and for how many minutes after it.
    pub rollback_alarm: Option<(String, u8)>,
}

impl Wanted<'_> {
    /// The tags that the stack is to have, ours among them.
    pub fn all_tags(&self) -> BTreeMap<String, String> {
        let ours = (OURS.0.to_owned(), OURS.1.to_owned());
        self.tags.clone().into_iter().chain([ours]).collect()
    }

    /// Whether the stack is that already.
    pub fn is_met_by(&self, stack: &Stack, template: Option<&str>) -> bool {
        template.is_some_and(|template| same_template(template, self.template))
            && stack.parameters == *self.parameters
            && stack.tags == self.all_tags()
            && (self.notification_arns.is_empty()
                || as_set(&stack.notification_arns) == as_set(self.notification_arns))
            && stack.status.is_good()
    }
}

/// Whether two templates say the same; comments are not kept by every change.
fn same_template(one: &str, other: &str) -> bool {
    let read = serde_yaml::from_str::<serde_yaml::Value>;
    one == other || matches!((read(one), read(other)), (Ok(one), Ok(other)) if one == other)
}

fn as_set(arns: &[String]) -> BTreeSet<&String> {
    arns.iter().collect()
}

/// A change set that can be executed.
#[derive(Debug)]
pub struct ChangeSet {
    name: String,
    stack: String,
    kind: ChangeSetType,
    /// The stack's ARN.
    pub stack_id: String,
    /// What it would change.
    pub changes: Vec<Change>,
}

/// What became of the wish for a change set.
#[derive(Debug)]
pub enum Prepared {
    /// It can be executed.
    Changes(ChangeSet),
    /// Nothing would change.
    Nothing,
    /// Somebody else has changed the stack meanwhile.
    Overtaken,
}

/// What became of the wish to execute a change set, or to roll a stack back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// The stack changes.
    Begun,
    /// Somebody else has changed the stack meanwhile, and the wish is void.
    Overtaken,
}

/// The stack of this name or ARN; `None` if there is none.
pub async fn find(client: &Client, name: &str) -> anyhow::Result<Option<Stack>> {
    describe(client, name)
        .await
        .map_err(|error| explain(format!("cannot look at stack `{name}`"), &error).into())
}

/// The stack after a change of it. The change is done: that AWS throttles now must not make a failure of it.
pub async fn find_changed(client: &Client, name: &str) -> anyhow::Result<Stack> {
    let since = Instant::now();
    loop {
        match describe(client, name).await {
            // Its status can lag behind its events.
            Ok(Some(stack)) if !stack.status.is_busy() || since.elapsed() > 3 * STATUS_DELAY => {
                return Ok(stack);
            }
            Ok(Some(_)) => tokio::time::sleep(jittered(FIRST_POLL)).await,
            Ok(None) => {
                return Err(Failure::new(format!(
                    "stack `{name}` is gone: somebody else deleted it"
                ))
                .hint("deploy again to have it back")
                .into());
            }
            Err(error) if is_transient(&error) && since.elapsed() < LOST_PATIENCE => {
                tokio::time::sleep(jittered(LAST_POLL)).await;
            }
            Err(error) => {
                let what = format!("stack `{name}` is changed, and cannot be looked at");
                return Err(explain(what, &error).into());
            }
        }
    }
}

async fn describe(
    client: &Client,
    name: &str,
) -> Result<Option<Stack>, SdkError<DescribeStacksError>> {
    let stack = match client.describe_stacks().stack_name(name).send().await {
        Ok(output) => output.stacks.unwrap_or_default().into_iter().next(),
        Err(error) if is_missing(&error) => None,
        Err(error) => return Err(error),
    };
    Ok(stack.map(|stack| Stack {
        ours: is_ours(stack.description.as_deref(), stack.tags.as_deref()),
        id: stack.stack_id.unwrap_or_else(|| name.to_owned()),
        status: stack.stack_status.map(Status).unwrap_or_default(),
        reason: stack.stack_status_reason,
        parameters: pairs(stack.parameters.unwrap_or_default(), |p| {
            (p.parameter_key, p.parameter_value)
        }),
        tags: pairs(stack.tags.unwrap_or_default(), |tag| (tag.key, tag.value)),
        outputs: pairs(stack.outputs.unwrap_or_default(), |o| (o.output_key, o.output_value)),
        rollback_triggers: stack
            .rollback_configuration
            .and_then(|configuration| configuration.rollback_triggers)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|trigger| Some((trigger.arn?, trigger.r#type?)))
            .collect(),
        notification_arns: stack.notification_arns.unwrap_or_default(),
        protected: stack.enable_termination_protection.unwrap_or_default(),
        created: stack.creation_time.map(|time| time.to_string()),
        updated: stack.last_updated_time.or(stack.creation_time).map(|time| time.to_string()),
        drift: stack
            .drift_information
            .as_ref()
            .and_then(|drift| Some(drift.stack_drift_status.as_ref()?.to_string())),
        drift_checked: stack
            .drift_information
            .and_then(|drift| Some(drift.last_check_timestamp?.to_string())),
    }))
}

fn is_ours(description: Option<&str>, tags: Option<&[Tag]>) -> bool {
    let tagged = tags
        .unwrap_or_default()
        .iter()
        .any(|tag| (tag.key(), tag.value()) == (Some(OURS.0), Some(OURS.1)));
    tagged || description.is_some_and(|said| said.starts_with(DESCRIPTION))
}

fn pairs<T>(
    items: Vec<T>,
    pair: impl Fn(T) -> (Option<String>, Option<String>),
) -> BTreeMap<String, String> {
    items.into_iter().map(pair).filter_map(|(key, value)| Some((key?, value?))).collect()
}

/// The text of the template that the stack was deployed with; `None` if there is no stack.
pub async fn template(client: &Client, name: &str) -> anyhow::Result<Option<String>> {
    match client
        .get_template()
        .stack_name(name)
        .template_stage(TemplateStage::Original)
        .send()
        .await
    {
        Ok(output) => Ok(output.template_body),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => {
            Err(explain(format!("cannot read the template of stack `{name}`"), &error).into())
        }
    }
}

/// Whether there is no such stack, for which `CloudFormation` has no code of its own, or no such change set.
fn is_missing<E: ProvideErrorMetadata, R>(
    error: &aws_sdk_cloudformation::error::SdkError<E, R>,
) -> bool {
    error.as_service_error().is_some_and(|error| {
        let said = error.message().unwrap_or_default();
        match error.code() {
            Some("ChangeSetNotFound") => true,
            Some("ValidationError") => said.contains("does not exist"),
            _ => false,
        }
    })
}

/// Works out what would change, and changes nothing yet.
///
/// `before` is the stack as it was found. Whatever goes wrong, and when a signal comes, the change set is removed again.
pub async fn change_set(
    client: &Client,
    wanted: &Wanted<'_>,
    mode: &Mode,
    before: Option<&Stack>,
    signals: &mut Signals,
) -> anyhow::Result<Prepared> {
    let creates = before.is_none_or(|stack| !stack.status.is_good());
    let set = ChangeSet {
        name: token(),
        stack: wanted.name.to_owned(),
        kind: if creates { ChangeSetType::Create } else { ChangeSetType::Update },
        stack_id: String::new(),
        changes: Vec::new(),
    };
    let outcome = signals.or_stopped(set.make(client, wanted, mode, before)).await;
    match outcome {
        Ok(Made::Changes(stack_id, changes)) => {
            Ok(Prepared::Changes(ChangeSet { stack_id, changes, ..set }))
        }
        Ok(Made::Nothing) if !creates => {
            set.discard(client).await?;
            Ok(Prepared::Nothing)
        }
        // A creation without changes is one that somebody else has made.
        Ok(Made::Nothing | Made::Overtaken) => {
            set.discard_overtaken(client).await;
            Ok(Prepared::Overtaken)
        }
        Err(error) => {
            // The first error is the one to tell.
            let _ = set.discard(client).await;
            Err(error)
        }
    }
}

enum Made {
    Changes(String, Vec<Change>),
    Nothing,
    Overtaken,
}

impl ChangeSet {
    /// Makes it and gives its changes, of which there may be none.
    async fn make(
        &self,
        client: &Client,
        wanted: &Wanted<'_>,
        mode: &Mode,
        before: Option<&Stack>,
    ) -> anyhow::Result<Made> {
        let what = format!("cannot prepare the change of stack `{}`", self.stack);
        let parameters = wanted.parameters.iter().map(|(key, value)| {
            Parameter::builder().parameter_key(key).parameter_value(value).build()
        });
        let tags = wanted
            .all_tags()
            .into_iter()
            .map(|(key, value)| Tag::builder().key(key).value(value).build());
        let created = client
            .create_change_set()
            .stack_name(&self.stack)
            .change_set_name(&self.name)
            .client_token(&self.name)
            .change_set_type(self.kind.clone())
            .template_body(wanted.template)
            .set_parameters(Some(parameters.collect()))
            .capabilities(Capability::CapabilityIam)
            .set_tags(Some(tags.collect()))
            .set_notification_arns(
                Some(wanted.notification_arns.to_vec()).filter(|arns| !arns.is_empty()),
            )
            .set_role_arn(wanted.role_arn.map(str::to_owned))
            .set_rollback_configuration(rollback(mode, before))
            .set_deployment_config(mode.express.then(|| {
                DeploymentConfig::builder()
                    .mode(DeploymentConfigMode::Express)
                    .disable_rollback(false)
                    .build()
            }))
            .send()
            .await;
        match created {
            Ok(_) => (),
            // An answer was lost, and the SDK asked again: nobody else's has this name.
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(CreateChangeSetError::is_already_exists_exception) => {}
            Err(error @ SdkError::ServiceError(_)) if self.overtaken(client, before).await? => {
                drop(error);
                return Ok(Made::Overtaken);
            }
            Err(error) => return Err(explain(&what, &error).into()),
        }
        // Somebody else's change set that is executed takes all others of the stack with it.
        let Some((id, refused)) = self.wait(client, &what).await? else {
            return Ok(Made::Overtaken);
        };
        match refused {
            None => Ok(match self.read_changes(client).await? {
                Some(changes) => Made::Changes(id, changes),
                None => Made::Overtaken,
            }),
            // The one way in which CloudFormation says that there is nothing to do.
            Some(refused)
                if refused.contains("didn't contain changes")
                    || refused.contains("No updates are to be performed") =>
            {
                Ok(Made::Nothing)
            }
            Some(refused) => Err(Failure::new(format!("{what}: {refused}"))
                .hint("see what is wrong with the parameters; `cbbootstrap deploy --help` lists what can be set")
                .into()),
        }
    }

    /// Whether the stack is no longer as it was found.
    async fn overtaken(&self, client: &Client, before: Option<&Stack>) -> anyhow::Result<bool> {
        let now = find(client, &self.stack).await?;
        Ok(match (before, &now) {
            (None, None) => false,
            // An attempt of ours may have brought it into being.
            (None, Some(now)) => now.status.0 != StackStatus::ReviewInProgress,
            (Some(before), Some(now)) => now.status.is_busy() || before.is_overtaken_by(now),
            (Some(_), None) => true,
        })
    }

    async fn describe(
        &self,
        client: &Client,
    ) -> Result<
        DescribeChangeSetOutput,
        SdkError<aws_sdk_cloudformation::operation::describe_change_set::DescribeChangeSetError>,
    > {
        client
            .describe_change_set()
            .stack_name(&self.stack)
            .change_set_name(&self.name)
            .send()
            .await
    }

    /// Waits until it is made, and gives the stack's ARN and, if it was not made, the reason; `None` if it is gone.
    async fn wait(
        &self,
        client: &Client,
        what: &str,
    ) -> anyhow::Result<Option<(String, Option<String>)>> {
        let (since, mut pause) = (Instant::now(), FIRST_POLL);
        loop {
            match self.describe(client).await {
                Ok(set) => match set.status {
                    Some(ChangeSetStatus::CreateComplete) => {
                        return Ok(Some((set.stack_id.unwrap_or_default(), None)));
                    }
                    Some(ChangeSetStatus::Failed) => {
                        let reason = set.status_reason.unwrap_or_default();
                        return Ok(Some((set.stack_id.unwrap_or_default(), Some(reason))));
                    }
                    _ if since.elapsed() > CHANGE_SET_PATIENCE => {
                        return Err(Failure::new(format!(
                            "{what}: it takes CloudFormation more than {} minutes",
                            CHANGE_SET_PATIENCE.as_secs() / 60
                        ))
                        .hint("nothing was changed; deploy again")
                        .into());
                    }
                    _ => (),
                },
                Err(error) if is_missing(&error) => return Ok(None),
                Err(error) if is_transient(&error) && since.elapsed() < CHANGE_SET_PATIENCE => (),
                Err(error) => return Err(explain(what, &error).into()),
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 3 / 2).min(LAST_POLL);
        }
    }

    /// What it would change; `None` if it is gone.
    async fn read_changes(&self, client: &Client) -> anyhow::Result<Option<Vec<Change>>> {
        let pages = client
            .describe_change_set()
            .stack_name(&self.stack)
            .change_set_name(&self.name)
            .include_property_values(true)
            .into_paginator()
            .items()
            .send();
        let changes = pages.collect::<Result<Vec<_>, _>>().await;
        let changes = match changes {
            Ok(changes) => changes,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(explain("cannot read the change set", &error).into()),
        };
        let resources = changes.into_iter().filter_map(|change| change.resource_change);
        let changes = resources
            .map(|change| {
                let details = change.details.unwrap_or_default();
                let mut details: Vec<_> = details
                    .into_iter()
                    .filter_map(|detail| detail.target)
                    .map(|target| {
                        let attribute = target.attribute.map(|a| a.to_string());
                        let place = [attribute, target.name].into_iter().flatten();
                        Detail {
                            path: target.path.map_or_else(
                                || place.collect::<Vec<_>>().join("."),
                                |path| path.trim_start_matches('/').replace('/', "."),
                            ),
                            before: target.before_value,
                            after: target.after_value,
                            recreation: target.requires_recreation.map(|r| r.to_string()),
                        }
                    })
                    .collect();
                // CloudFormation tells one twice where both a parameter and a resource cause it.
                details.sort_by(|one, other| one.path.cmp(&other.path));
                details.dedup_by(|one, other| one.path == other.path);
                Change {
                    action: change.action.map(|a| a.to_string()).unwrap_or_default(),
                    resource: change.logical_resource_id.unwrap_or_default(),
                    kind: change.resource_type.unwrap_or_default(),
                    replacement: change.replacement.map(|r| r.to_string()),
                    scope: change
                        .scope
                        .unwrap_or_default()
                        .iter()
                        .map(ToString::to_string)
                        .collect(),
                    details,
                }
            })
            .collect();
        Ok(Some(changes))
    }

    /// Makes the changes. The stack's [`Watch`] must have begun before.
    pub async fn execute(&self, client: &Client) -> anyhow::Result<Execution> {
        let executed = client
            .execute_change_set()
            .stack_name(&self.stack)
            .change_set_name(&self.name)
            .client_request_token(&self.name)
            .send()
            .await;
        let Err(error) = executed else {
            return Ok(Execution::Begun);
        };
        // The answer may have been lost, and not the request: the change set itself knows.
        match self.describe(client).await {
            Ok(set) => match set.execution_status {
                Some(
                    ExecutionStatus::ExecuteInProgress
                    | ExecutionStatus::ExecuteComplete
                    | ExecutionStatus::ExecuteFailed,
                ) => Ok(Execution::Begun),
                Some(ExecutionStatus::Obsolete | ExecutionStatus::Unavailable) => {
                    Ok(Execution::Overtaken)
                }
                _ if self.stack_is_busy(client).await => Ok(Execution::Overtaken),
                _ => Err(explain("cannot execute the change set", &error).into()),
            },
            Err(gone) if is_missing(&gone) => Ok(Execution::Overtaken),
            Err(_) => Err(explain("cannot execute the change set", &error).into()),
        }
    }

    async fn stack_is_busy(&self, client: &Client) -> bool {
        matches!(find(client, &self.stack_id).await, Ok(Some(stack)) if stack.status.is_busy())
    }

    /// Removes it after somebody else has changed the stack, if it is there at all. The stack is theirs.
    pub async fn discard_overtaken(&self, client: &Client) {
        let _ = tokio::time::timeout(DISCARD_PATIENCE, self.delete(client)).await;
    }

    /// Removes it, and the stack that it brought into being to hold it.
    pub async fn discard(&self, client: &Client) -> anyhow::Result<()> {
        let discard = async {
            self.delete(client).await?;
            if self.kind == ChangeSetType::Create {
                self.delete_empty_stack(client).await?;
            }
            Ok(())
        };
        tokio::time::timeout(DISCARD_PATIENCE, discard).await.unwrap_or_else(|_| {
            Err(Failure::new(format!(
                "change set `{}` of stack `{}` is left",
                self.name, self.stack
            ))
            .hint("nothing was changed; the next deployment makes a new one")
            .into())
        })
    }

    async fn delete(&self, client: &Client) -> anyhow::Result<()> {
        loop {
            let deleted = client
                .delete_change_set()
                .stack_name(&self.stack)
                .change_set_name(&self.name)
                .send()
                .await;
            match deleted {
                Ok(_) => return Ok(()),
                Err(error) if is_missing(&error) => return Ok(()),
                // It is still being made.
                Err(error)
                    if error.as_service_error().is_some_and(
                        DeleteChangeSetError::is_invalid_change_set_status_exception,
                    ) =>
                {
                    tokio::time::sleep(FIRST_POLL).await;
                }
                Err(error) => return Err(explain("cannot delete the change set", &error).into()),
            }
        }
    }

    /// Deletes the stack that only held the change set, unless it holds somebody else's, too.
    async fn delete_empty_stack(&self, client: &Client) -> anyhow::Result<()> {
        let Some(stack) = find(client, &self.stack).await? else {
            return Ok(());
        };
        if stack.status.0 != StackStatus::ReviewInProgress {
            return Ok(());
        }
        let others = client.list_change_sets().stack_name(&stack.id).send().await;
        let others = others.map_err(|error| explain("cannot list the change sets", &error))?;
        if !others.summaries().is_empty() {
            return Ok(());
        }
        match request_deletion(client, &stack.id, None).await {
            // Who may only plan leaves an empty stack, which the first deployment fills.
            Err(error) if error.downcast_ref::<Failure>().is_some_and(|f| f.denied) => {
                return Ok(());
            }
            other => other?,
        }
        while find(client, &self.stack)
            .await?
            .is_some_and(|stack| stack.status.0 != StackStatus::DeleteComplete)
        {
            tokio::time::sleep(FIRST_POLL).await;
        }
        Ok(())
    }
}

/// A name that nobody else has, by which `CloudFormation` knows a request again that the SDK repeats.
fn token() -> String {
    format!("cbbootstrap-{}", Uuid::new_v4())
}

/// Asks for the stack's deletion; a [`Watch`] sees how it goes.
pub async fn request_deletion(
    client: &Client,
    stack_id: &str,
    role_arn: Option<&str>,
) -> anyhow::Result<()> {
    let deleted = client
        .delete_stack()
        .stack_name(stack_id)
        .set_role_arn(role_arn.map(str::to_owned))
        .send()
        .await;
    deleted.map_err(|error| explain(format!("cannot delete stack `{stack_id}`"), &error))?;
    Ok(())
}

/// Asks for the running update to be cancelled, which rolls it back; `false` if it is too late for that.
pub async fn cancel_update(client: &Client, stack_id: &str) -> anyhow::Result<bool> {
    match client.cancel_update_stack().stack_name(stack_id).send().await {
        Ok(_) => Ok(true),
        // It is no longer in UPDATE_IN_PROGRESS.
        Err(error) if error.code() == Some("ValidationError") => Ok(false),
        Err(error) => Err(explain("cannot cancel the update", &error).into()),
    }
}

/// Asks for a failed rollback to be continued.
pub async fn continue_rollback(
    client: &Client,
    stack: &Stack,
    role_arn: Option<&str>,
) -> anyhow::Result<Execution> {
    let continued = client
        .continue_update_rollback()
        .stack_name(&stack.id)
        .client_request_token(token())
        .set_role_arn(role_arn.map(str::to_owned))
        .send()
        .await;
    begun(client, stack, continued, "cannot continue the rollback").await
}

/// Asks for a failed update, which was left as it was, to be rolled back.
pub async fn roll_back(
    client: &Client,
    stack: &Stack,
    role_arn: Option<&str>,
) -> anyhow::Result<Execution> {
    let rolled_back = client
        .rollback_stack()
        .stack_name(&stack.id)
        .client_request_token(token())
        .set_role_arn(role_arn.map(str::to_owned))
        .send()
        .await;
    let what = "cannot roll the failed update back";
    begun(client, stack, rolled_back, what).await
}

/// What an answer means for a stack that somebody else may have got at first.
async fn begun<T, E>(
    client: &Client,
    before: &Stack,
    answer: Result<T, SdkError<E>>,
    what: &str,
) -> anyhow::Result<Execution>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let Err(error) = answer else {
        return Ok(Execution::Begun);
    };
    if error.code() == Some("ValidationError") {
        let now = find(client, &before.id).await?;
        if now.is_none_or(|now| now.status != before.status) {
            return Ok(Execution::Overtaken);
        }
    }
    Err(explain(what, &error).into())
}

/// Protects the stack against deletion, or no longer.
pub async fn protect(client: &Client, name: &str, protect: bool) -> anyhow::Result<()> {
    let set = client
        .update_termination_protection()
        .stack_name(name)
        .enable_termination_protection(protect)
        .send()
        .await;
    set.map_err(|error| {
        explain(format!("cannot set the termination protection of stack `{name}`"), &error)
    })?;
    Ok(())
}

/// The resources in the stack: name in the template, and type.
pub async fn resources(client: &Client, stack_id: &str) -> anyhow::Result<Vec<(String, String)>> {
    let pages = client.list_stack_resources().stack_name(stack_id).into_paginator().items().send();
    let resources = pages.collect::<Result<Vec<_>, _>>().await;
    let resources =
        resources.map_err(|error| explain("cannot list the stack's resources", &error))?;
    Ok(resources
        .into_iter()
        .filter(|resource| {
            resource.resource_status.as_ref().map(AsRef::as_ref) != Some("DELETE_COMPLETE")
        })
        .map(|resource| {
            (
                resource.logical_resource_id.unwrap_or_default(),
                resource.resource_type.unwrap_or_default(),
            )
        })
        .collect())
}

/// So that many deployers do not ask in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f32(0.75 + 0.5 * fastrand::f32())
}

/// The rollback triggers of an update: ours if it is wanted, and those that others have set. A creation has none.
fn rollback(mode: &Mode, before: Option<&Stack>) -> Option<RollbackConfiguration> {
    let before = before?;
    let ours = before.outputs.get(ERROR_ALARM);
    let theirs = before
        .rollback_triggers
        .iter()
        .filter(|(arn, _)| Some(arn) != ours)
        .map(|(arn, kind)| (arn.as_str(), kind.as_str()));
    let (alarm, minutes) = mode
        .rollback_alarm
        .as_ref()
        .map_or((None, 0), |(arn, minutes)| (Some(arn.as_str()), *minutes));
    let triggers = theirs
        .chain(alarm.map(|arn| (arn, "AWS::CloudWatch::Alarm")))
        .map(|(arn, kind)| RollbackTrigger::builder().arn(arn).r#type(kind).build());
    let configuration = RollbackConfiguration::builder()
        .set_rollback_triggers(Some(triggers.collect()))
        .monitoring_time_in_minutes(i32::from(minutes));
    Some(configuration.build())
}

/// Why nothing is seen of a stack.
enum Blind {
    /// AWS throttles, or cannot be reached.
    ForNow(Failure),
    /// It is refused, and waiting will not mend that.
    ForGood(Failure),
    /// There are no credentials any more, for this or any other call.
    SignedOut(Failure),
}

impl Blind {
    fn of<E>(error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let failure = explain("lost sight of the stack", error);
        if is_transient(error) {
            Self::ForNow(failure)
        } else if is_signed_out(error) {
            Self::SignedOut(failure)
        } else {
            Self::ForGood(failure)
        }
    }
}

/// Follows a stack's events from a moment on.
#[derive(Debug)]
pub struct Watch {
    /// It tries twice at most: this watch has its own patience.
    client: Client,
    stack_id: String,
    /// The last event before, or the last that was seen.
    last: Option<String>,
    events: Vec<Event>,
    progress: Progress,
    /// How many resources the change comes to at least, where it is known what it is.
    expected: Option<usize>,
    began: Instant,
    /// Since when the end has been near, if it is.
    near: Option<Instant>,
    /// From when on the stack's status can no longer be the one from before; none until the watch is on.
    status_counts: Option<Instant>,
    /// When the status was last asked for, or the watch began; none if it has never been, and counts at once.
    asked: Option<Instant>,
    /// Whether only the stack's deletion is its end.
    deleting: bool,
    /// The settled status that was seen last, if it was.
    settled: Option<Status>,
    seen: Instant,
}

impl Watch {
    /// From now on. Begin it before what is to be watched is asked for. `None` if there is no such stack any more.
    pub async fn begin(client: &Client, stack_id: &str) -> anyhow::Result<Option<Self>> {
        let newest = client.describe_stack_events().stack_name(stack_id).send().await;
        let newest = match newest {
            Ok(newest) => newest,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(explain("cannot read the stack's events", &error).into()),
        };
        let last = newest.stack_events().first().and_then(|event| event.event_id.clone());
        let quick = client
            .config()
            .to_builder()
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .build();
        Ok(Some(Self {
            client: Client::from_conf(quick),
            stack_id: stack_id.to_owned(),
            last,
            events: Vec::new(),
            progress: Progress::default(),
            expected: None,
            began: Instant::now(),
            near: None,
            status_counts: None,
            asked: Some(Instant::now()),
            deleting: false,
            settled: None,
            seen: Instant::now(),
        }))
    }

    /// Of a change that is under way already: the stack's status counts at once.
    pub async fn join(client: &Client, stack_id: &str) -> anyhow::Result<Option<Self>> {
        let watch = Self::begin(client, stack_id).await?;
        Ok(watch.map(|watch| Self { status_counts: Some(Instant::now()), asked: None, ..watch }))
    }

    /// Of these changes.
    #[must_use]
    pub fn of(self, changes: &[Change]) -> Self {
        // The others may turn out to be none, or come after the end of the rest.
        let sure = changes.iter().filter(|change| change.action == "Add");
        Self { expected: Some(sure.count()), ..self }
    }

    /// The stack's ARN.
    pub fn stack_id(&self) -> &str {
        &self.stack_id
    }

    /// What happened since the beginning, oldest first.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// From now on only the stack's deletion is its end: it was asked for in the middle of something else.
    pub fn expect_deletion(&mut self) {
        self.deleting = true;
        self.expected = None;
        self.settled = None;
        self.status_counts = None;
    }

    /// Shows the events until the stack has settled, and gives the status in which it did. It can be dropped and called
    /// again.
    ///
    /// A look that fails says nothing about the stack, and the watch goes on.
    pub async fn settle(&mut self, step: &mut Step) -> Result<Status, Failure> {
        let (mut pause, mut looks) = (FIRST_POLL, 0);
        loop {
            let at_status = looks % 5 == 0 && self.wants_status();
            match self.look(at_status, step).await {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => {
                    self.seen = Instant::now();
                    pause = self.pause();
                    step.busy(self.last_status());
                }
                Err(Blind::ForNow(_)) if self.seen.elapsed() < LOST_PATIENCE => {
                    pause = (pause * 2).min(PATIENT_POLL);
                    step.busy("cannot see the stack at the moment; looking again");
                }
                Err(
                    Blind::ForNow(failure) | Blind::ForGood(failure) | Blind::SignedOut(failure),
                ) => return Err(failure),
            }
            looks += 1;
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    /// One look at the stack: the status in which it has settled, if it has.
    ///
    /// The stack's own events tell the end. Its status can still be the one from before; it is asked for where events are
    /// refused, and now and then, lest the last event be missed.
    async fn look(&mut self, at_status: bool, step: &mut Step) -> Result<Option<Status>, Blind> {
        let unseen = match self.fresh().await {
            Ok(fresh) => {
                for event in fresh {
                    step.event(&event);
                    self.progress.see(&event);
                    self.last = Some(event.id.clone());
                    self.events.push(event);
                }
                if let Some(status) = self.end() {
                    return Ok(Some(status));
                }
                None
            }
            Err(error) => Some(Blind::of(&error)),
        };
        let refused = matches!(unseen, Some(Blind::ForGood(_)));
        let status_counts =
            *self.status_counts.get_or_insert_with(|| Instant::now() + STATUS_DELAY);
        if (at_status || refused) && Instant::now() >= status_counts {
            self.asked = Some(Instant::now());
            return match describe(&self.client, &self.stack_id).await {
                Ok(stack) => Ok(self.believe(stack)),
                Err(error) => match unseen {
                    None => Ok(None),
                    Some(Blind::ForGood(_)) => Err(Blind::of(&error)),
                    Some(other) => Err(other),
                },
            };
        }
        match unseen {
            // The stack's status does not count yet, and will be asked for.
            None | Some(Blind::ForGood(_)) => Ok(None),
            Some(other) => Err(other),
        }
    }

    /// Whether the stack's status is to be asked for, too: once in a while, and to make sure of the end that it told.
    fn wants_status(&self) -> bool {
        let asked = self.asked.map(|asked| asked.elapsed());
        self.settled.is_some() || asked.is_none_or(|ago| ago >= STATUS_POLL)
    }

    /// How long to wait before the next look.
    fn pause(&mut self) -> Duration {
        let distance = pace::distance(self.expected, &self.progress, self.last_of_stack());
        self.near = (distance == Distance::Near).then(|| self.near.unwrap_or_else(Instant::now));
        let since_near = self.near.map_or(Duration::ZERO, |near| near.elapsed());
        pace::pause(distance, self.began.elapsed(), since_near)
    }

    fn last_of_stack(&self) -> Option<&Event> {
        self.events.iter().rev().find(|event| event.is_stack())
    }

    /// What is to be told while nothing happens.
    fn last_status(&self) -> String {
        let last = self.last_of_stack();
        last.map_or("waiting for CloudFormation", |event| &event.status).to_owned()
    }

    /// The status that the stack's own events end in.
    fn end(&self) -> Option<Status> {
        let last = self.last_of_stack()?;
        Some(Status::from(last.status.as_str())).filter(|status| self.is_end(status))
    }

    fn is_end(&self, status: &Status) -> bool {
        let status = status.0.as_str();
        !status.ends_with("_IN_PROGRESS") && (!self.deleting || status.starts_with("DELETE_"))
    }

    /// The status that the stack is in, once it has been seen settled in it twice.
    fn believe(&mut self, stack: Option<Stack>) -> Option<Status> {
        let status = stack.map_or_else(|| Status::from("DELETE_COMPLETE"), |stack| stack.status);
        let settled = Some(status).filter(|status| self.is_end(status));
        let before = std::mem::replace(&mut self.settled, settled.clone());
        settled.filter(|settled| before.as_ref() == Some(settled))
    }

    /// The events since the last, oldest first.
    async fn fresh(
        &self,
    ) -> Result<
        Vec<Event>,
        SdkError<
            aws_sdk_cloudformation::operation::describe_stack_events::DescribeStackEventsError,
        >,
    > {
        let mut pages = self
            .client
            .describe_stack_events()
            .stack_name(&self.stack_id)
            .into_paginator()
            .items()
            .send();
        let mut fresh = Vec::new();
        while let Some(event) = pages.next().await.transpose()? {
            let event = plain(event);
            if self.last.as_ref() == Some(&event.id) {
                break;
            }
            fresh.push(event);
        }
        fresh.reverse();
        Ok(fresh)
    }
}

/// The last events of a stack, the newest first: as many as one call gives, which is far more than a deployment has.
pub async fn last_events(client: &Client, stack_id: &str) -> anyhow::Result<Vec<Event>> {
    let page = client.describe_stack_events().stack_name(stack_id).send().await;
    let page = page.map_err(|error| explain("cannot read the stack's events", &error))?;
    let events = page.stack_events.unwrap_or_default().into_iter();
    Ok(events.map(plain).collect())
}

fn plain(event: StackEvent) -> Event {
    Event {
        id: event.event_id.unwrap_or_default(),
        resource: event.logical_resource_id.unwrap_or_default(),
        kind: event.resource_type.unwrap_or_default(),
        status: event.resource_status.map(|status| status.to_string()).unwrap_or_default(),
        reason: event.resource_status_reason.map(|reason| text::escape_hidden(&reason)),
        time: event.timestamp.map_or(0.0, |time| time.as_secs_f64()),
    }
}
