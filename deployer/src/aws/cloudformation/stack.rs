//! Stacks: described, deleted, rolled back, protected.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt::Display,
    time::{Duration, Instant},
};

use aws_sdk_cloudformation::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        describe_stack_events::{DescribeStackEventsError, DescribeStackEventsOutput},
        describe_stacks::DescribeStacksError,
    },
    types::{self, StackStatus as S, TemplateStage},
};

use super::{
    super::{
        error::{Answer, explain},
        poll::Poll,
    },
    TOKEN_PREFIX, token, unless_missing,
};
use crate::{
    failure::Failure,
    stack::{self, DESCRIPTION, Drift, OWNER_TAG, Stack, StackEvent},
};

/// For a stack whose change is over: its status can lag behind its events, and AWS may throttle.
const CHANGED: Poll =
    Poll { patience: Duration::from_mins(15), hint: "`cbbootstrap status` shows it" };

/// How long a stack's status may lag behind its events.
const STATUS_LAG: Duration = Duration::from_secs(30);

/// The stack of this name or ARN.
pub async fn find(client: &Client, name: &str) -> anyhow::Result<Option<Stack>> {
    Ok(describe(client, name).await.explain(format!("cannot read stack `{name}`"))?)
}

/// The stack of this name, to change or delete it. Before its first change set is executed, a stack is empty, and belongs to the
/// change set's creator.
pub async fn find_to_change(client: &Client, name: &str) -> anyhow::Result<Option<Stack>> {
    match find(client, name).await? {
        Some(stack) if stack.status == S::ReviewInProgress && !stack.ours => {
            let sets = unless_missing(client.list_change_sets().stack_name(name).send().await);
            let sets = sets.explain(format!("cannot list the change sets of stack `{name}`"))?;
            // It may have been deleted in between.
            Ok(sets.map(|sets| {
                let is_ours = |name: &str| name.starts_with(TOKEN_PREFIX);
                let mut sets = sets.summaries().iter();
                let ours = sets.all(|set| set.change_set_name().is_some_and(is_ours));
                Stack { ours, ..stack }
            }))
        }
        stack => Ok(stack),
    }
}

/// All stacks of the region, also those of other tools.
pub async fn find_all(client: &Client) -> anyhow::Result<Vec<Stack>> {
    let stacks = client.describe_stacks().into_paginator().items().send();
    let stacks = stacks.collect::<Result<Vec<_>, _>>().await;
    let stacks = stacks.explain("cannot list the stacks")?;
    Ok(stacks.into_iter().map(Stack::from).collect())
}

/// The stack of this name, which must exist. `region` is for the error.
pub async fn require(client: &Client, name: &str, region: &str) -> anyhow::Result<Stack> {
    Ok(find(client, name).await?.ok_or_else(|| stack::missing(name, region))?)
}

/// The stack after a change. A completed change must not fail because AWS throttles this read.
pub async fn find_changed(client: &Client, name: &str) -> anyhow::Result<Stack> {
    let overdue =
        format!("the change of stack `{name}` is complete, but its status does not show it yet");
    let since = Instant::now();
    CHANGED
        .until(&overdue, async || {
            let what = format!("stack `{name}` has changed, but cannot be read");
            let Some(stack) = describe(client, name).await.unless_transient(what)? else {
                return Ok(None);
            };
            let stack = stack.ok_or_else(|| {
                Failure::new(format!("stack `{name}` no longer exists: someone else deleted it"))
                    .hint("deploy again to create it")
            })?;
            // If it is still busy after that, someone else is changing it.
            let has_ended = !stack.is_busy() || since.elapsed() > STATUS_LAG;
            Ok(has_ended.then_some(stack))
        })
        .await
}

/// Like [`find`], with the SDK's error.
pub async fn describe(
    client: &Client,
    name: &str,
) -> Result<Option<Stack>, SdkError<DescribeStacksError>> {
    let answer = unless_missing(client.describe_stacks().stack_name(name).send().await)?;
    Ok(answer.and_then(|answer| answer.stacks?.into_iter().next()).map(Stack::from))
}

impl From<types::Stack> for Stack {
    fn from(stack: types::Stack) -> Self {
        let tags = pairs(stack.tags, |tag| (tag.key, tag.value));
        let (drift_status, drift_checked) = stack.drift_information.map_or((None, None), |drift| {
            (drift.stack_drift_status, drift.last_check_timestamp.map(|time| time.to_string()))
        });
        let rollback = stack.rollback_configuration;
        let has_description = stack.description.is_some_and(|text| text.starts_with(DESCRIPTION));
        Self {
            ours: has_description || tags.get(OWNER_TAG.0).is_some_and(|tag| tag == OWNER_TAG.1),
            id: stack.stack_id.or(stack.stack_name).unwrap_or_default(),
            status: stack.stack_status.unwrap_or_else(|| "UNKNOWN".into()),
            reason: stack.stack_status_reason,
            parameters: pairs(stack.parameters, |it| (it.parameter_key, it.parameter_value)),
            tags,
            outputs: pairs(stack.outputs, |it| (it.output_key, it.output_value)),
            monitoring_minutes: rollback
                .as_ref()
                .and_then(|rollback| rollback.monitoring_time_in_minutes)
                .unwrap_or_default(),
            rollback_triggers: rollback
                .and_then(|rollback| rollback.rollback_triggers)
                .unwrap_or_default()
                .into_iter()
                .filter_map(|trigger| Some((trigger.arn?, trigger.r#type?)))
                .collect(),
            notification_arns: stack.notification_arns.unwrap_or_default(),
            protected: stack.enable_termination_protection.unwrap_or_default(),
            created: stack.creation_time.map(|time| time.to_string()),
            updated: stack.last_updated_time.or(stack.creation_time).map(|time| time.to_string()),
            drift: Drift::new(drift_status, drift_checked),
        }
    }
}

fn pairs<T>(
    items: Option<Vec<T>>,
    pair: impl Fn(T) -> (Option<String>, Option<String>),
) -> BTreeMap<String, String> {
    let pairs = items.into_iter().flatten().map(pair);
    pairs.filter_map(|(key, value)| Some((key?, value?))).collect()
}

/// The template that the stack was deployed with; `None` if there is no stack.
pub async fn template(client: &Client, name: &str) -> anyhow::Result<Option<String>> {
    let template = client.get_template().stack_name(name).template_stage(TemplateStage::Original);
    let template = unless_missing(template.send().await);
    let template = template.explain(format!("cannot read the template of stack `{name}`"))?;
    Ok(template.and_then(|template| template.template_body))
}

/// The newest events first: one page holds far more than a deployment has. `None` if the stack does not exist.
pub async fn newest_events(
    client: &Client,
    stack_id: &str,
) -> anyhow::Result<Option<Vec<StackEvent>>> {
    let page = client.describe_stack_events().stack_name(stack_id).send().await;
    let page = unless_missing(page).explain("cannot read the stack's events")?;
    let events = |page: DescribeStackEventsOutput| page.stack_events.into_iter().flatten();
    Ok(page.map(|page| events(page).map(StackEvent::from).collect()))
}

/// The events after the one with this id, the oldest first.
pub async fn events_after(
    client: &Client,
    stack_id: &str,
    last: Option<&str>,
) -> Result<Vec<StackEvent>, SdkError<DescribeStackEventsError>> {
    let pages = client.describe_stack_events().stack_name(stack_id);
    let mut pages = pages.into_paginator().items().send();
    let mut events = Vec::new();
    while let Some(event) = pages.next().await.transpose()? {
        if event.event_id.as_deref() == last {
            break;
        }
        events.push(StackEvent::from(event));
    }
    events.reverse();
    Ok(events)
}

/// The stack's resources: name in the template, and type.
pub async fn resources(client: &Client, stack_id: &str) -> anyhow::Result<Vec<(String, String)>> {
    let pages = client.list_stack_resources().stack_name(stack_id).into_paginator().items().send();
    let resources = pages.collect::<Result<Vec<_>, _>>().await;
    let resources = resources.explain("cannot list the stack's resources")?.into_iter();
    Ok(resources
        .filter(|it| it.resource_status != Some(types::ResourceStatus::DeleteComplete))
        .filter_map(|it| Some((it.logical_resource_id?, it.resource_type?)))
        .collect())
}

pub async fn request_deletion(
    client: &Client,
    stack_id: &str,
    role_arn: Option<String>,
) -> anyhow::Result<()> {
    let deleted = client.delete_stack().stack_name(stack_id).set_role_arn(role_arn).send().await;
    deleted.explain(format!("cannot delete stack `{stack_id}`"))?;
    Ok(())
}

/// Requests to cancel the running update, which rolls it back; `false` if it is too late.
pub async fn cancel_update(client: &Client, stack_id: &str) -> anyhow::Result<bool> {
    let cancelled = client.cancel_update_stack().stack_name(stack_id).send().await;
    // A stack that is no longer in UPDATE_IN_PROGRESS is a validation error.
    let cancelled = cancelled.absent_on("ValidationError").explain("cannot cancel the update")?;
    Ok(cancelled.is_some())
}

/// Requests to continue a failed rollback, or to roll back a failed update.
pub async fn roll_back(
    client: &Client,
    name: &str,
    stack: &Stack,
    role_arn: Option<String>,
) -> anyhow::Result<()> {
    let (id, token) = (&stack.id, token());
    if stack.status == types::StackStatus::UpdateRollbackFailed {
        let what = "cannot continue the rollback";
        let request = client.continue_update_rollback().stack_name(id).client_request_token(token);
        let answer = request.set_role_arn(role_arn).send().await;
        after_error(client, name, Some(stack), what, answer, async |_| Ok(false)).await?;
    } else {
        let what = "cannot roll back the update";
        let request = client.rollback_stack().stack_name(id).client_request_token(token);
        let answer = request.set_role_arn(role_arn).send().await;
        after_error(client, name, Some(stack), what, answer, async |_| Ok(false)).await?;
    }
    Ok(())
}

/// The answer to a request to change the stack `name`, which was read as `before`. `None` if the error shows (`is_repeated`) that the SDK
/// has repeated the request after its answer was lost. Any other error may be because someone else has changed the stack.
pub(super) async fn after_error<T, E>(
    client: &Client,
    name: &str,
    before: Option<&Stack>,
    what: impl Display,
    answer: Result<T, SdkError<E>>,
    is_repeated: impl AsyncFnOnce(&SdkError<E>) -> anyhow::Result<bool>,
) -> anyhow::Result<Option<T>>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let error = match answer {
        Ok(answer) => return Ok(Some(answer)),
        Err(error) if is_repeated(&error).await? => return Ok(None),
        Err(error) => error,
    };
    let now = find(client, name).await;
    if now.is_ok_and(|now| stack::has_changed(before, now.as_ref())) {
        return Err(stack::overtaken(name).into());
    }
    Err(explain(what, &error).into())
}

pub async fn protect(client: &Client, name: &str, protect: bool) -> anyhow::Result<()> {
    let set = client
        .update_termination_protection()
        .stack_name(name)
        .enable_termination_protection(protect)
        .send()
        .await;
    set.explain(format!("cannot set the termination protection of stack `{name}`"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_sdk_cloudformation::types::Tag;

    use super::*;

    #[test]
    fn our_stacks_are_known_by_tag_or_description() {
        let described = |text: &str| types::Stack::builder().description(text);
        let tag = |value: &str| Tag::builder().key("created-by").value(value).build();
        for (stack, ours) in [
            (described("cbbootstrap: the API"), true),
            (described("A shop"), false),
            (described("A shop").tags(tag("cbbootstrap")), true),
            (described("A shop").tags(tag("somebody")), false),
            (types::Stack::builder(), false),
        ] {
            let stack = stack.build();
            assert_eq!(Stack::from(stack.clone()).ours, ours, "{stack:?}");
        }
    }
}
