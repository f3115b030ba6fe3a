//! The stack: described, changed by change sets, watched by its events.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_cloudformation::{
    Client,
    error::ProvideErrorMetadata,
    operation::delete_change_set::DeleteChangeSetError,
    types::{
        Capability, ChangeSetStatus, ChangeSetType, Parameter, StackStatus, Tag, TemplateStage,
    },
};
use uuid::Uuid;

use super::{OURS, explain, is_transient};
use crate::{
    failure::Failure,
    printer::Step,
    signals::Signals,
    stack::{self, Action, Change, DESCRIPTION, Event, Stack},
};

/// Between two looks at a stack: soon at first, for much is done in a second, then less often.
const FIRST_POLL: Duration = Duration::from_millis(200);
const LAST_POLL: Duration = Duration::from_secs(3);

/// So many looks in a row may fail before the watch is given up. Such a failure says nothing about the stack.
const LOST_POLLS: u32 = 30;

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
}

impl Wanted<'_> {
    /// Whether the stack is that already.
    pub fn is_met_by(&self, stack: &Stack, template: Option<&str>) -> bool {
        template.map(str::trim) == Some(self.template.trim())
            && stack.parameters == *self.parameters
            && matches!(stack::action(self.name, Some(stack)), Ok(Action::Update))
    }
}

/// A change set that can be executed.
#[derive(Debug)]
pub struct ChangeSet {
    name: String,
    stack: String,
    kind: ChangeSetType,
    /// Whether the stack is there only to hold it.
    creates_stack: bool,
    /// What it would change.
    pub changes: Vec<Change>,
}

/// The stack of this name or ARN; `None` if there is none.
pub async fn find(client: &Client, name: &str) -> anyhow::Result<Option<Stack>> {
    let stack = match client.describe_stacks().stack_name(name).send().await {
        Ok(output) => output.stacks.unwrap_or_default().into_iter().next(),
        Err(error) if is_missing(&error) => None,
        Err(error) => return Err(explain(format!("cannot look at stack `{name}`"), &error).into()),
    };
    Ok(stack.map(|stack| Stack {
        id: stack.stack_id.unwrap_or_else(|| name.to_owned()),
        ours: is_ours(stack.description.as_deref(), stack.tags.as_deref()),
        status: stack
            .stack_status
            .unwrap_or_else(|| StackStatus::from("UNKNOWN")),
        reason: stack.stack_status_reason,
        parameters: pairs(stack.parameters.unwrap_or_default(), |p| {
            (p.parameter_key, p.parameter_value)
        }),
        outputs: pairs(stack.outputs.unwrap_or_default(), |o| {
            (o.output_key, o.output_value)
        }),
        updated: stack
            .last_updated_time
            .or(stack.creation_time)
            .map(|time| time.to_string()),
        created: stack.creation_time.map(|time| time.to_string()),
        protected: stack.enable_termination_protection.unwrap_or_default(),
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
    items
        .into_iter()
        .map(pair)
        .filter_map(|(key, value)| Some((key?, value?)))
        .collect()
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
        Err(error) => Err(explain(
            format!("cannot read the template of stack `{name}`"),
            &error,
        )
        .into()),
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

/// Works out what would change, and changes nothing yet; `None` if nothing would.
///
/// `before` is the stack as it was found. Whatever goes wrong, and when a signal comes, the change set is removed again.
pub async fn change_set(
    client: &Client,
    wanted: &Wanted<'_>,
    before: Option<&Stack>,
    action: Action,
    signals: &mut Signals,
) -> anyhow::Result<Option<ChangeSet>> {
    let mut set = ChangeSet {
        name: format!("cbbootstrap-{}", Uuid::new_v4()),
        stack: wanted.name.to_owned(),
        kind: match action {
            Action::Create | Action::Recreate => ChangeSetType::Create,
            Action::Update => ChangeSetType::Update,
        },
        creates_stack: before.is_none() || action == Action::Recreate,
        changes: Vec::new(),
    };
    let made = signals.or_stopped(set.make(client, wanted)).await;
    match made {
        Ok(Some(changes)) => {
            set.changes = changes;
            Ok(Some(set))
        }
        Ok(None) => {
            set.discard(client).await?;
            Ok(None)
        }
        Err(error) => {
            // The first error is the one to tell.
            let _ = set.discard(client).await;
            Err(error)
        }
    }
}

impl ChangeSet {
    /// Makes it and gives its changes, of which there may be none.
    async fn make(
        &self,
        client: &Client,
        wanted: &Wanted<'_>,
    ) -> anyhow::Result<Option<Vec<Change>>> {
        let what = format!("cannot prepare the change of stack `{}`", self.stack);
        let parameters = wanted.parameters.iter().map(|(key, value)| {
            Parameter::builder()
                .parameter_key(key)
                .parameter_value(value)
                .build()
        });
        let tag = Tag::builder().key(OURS.0).value(OURS.1).build();
        let created = client
            .create_change_set()
            .stack_name(&self.stack)
            .change_set_name(&self.name)
            .change_set_type(self.kind.clone())
            .template_body(wanted.template)
            .set_parameters(Some(parameters.collect()))
            .capabilities(Capability::CapabilityIam)
            .tags(tag)
            .send()
            .await;
        created.map_err(|error| explain(&what, &error))?;
        match self.wait(client, &what).await? {
            None => Ok(Some(self.read_changes(client).await?)),
            // The one way in which CloudFormation says that there is nothing to do.
            Some(refused)
                if refused.contains("didn't contain changes")
                    || refused.contains("No updates are to be performed") =>
            {
                Ok(None)
            }
            Some(refused) => Err(Failure::new(format!("{what}: {refused}")).into()),
        }
    }

    /// Waits until it is made. `Some` is the reason why it was not.
    async fn wait(&self, client: &Client, what: &str) -> anyhow::Result<Option<String>> {
        let mut pause = FIRST_POLL;
        loop {
            let set = client
                .describe_change_set()
                .stack_name(&self.stack)
                .change_set_name(&self.name)
                .send()
                .await;
            let set = set.map_err(|error| explain(what, &error))?;
            match set.status {
                Some(ChangeSetStatus::CreateComplete) => return Ok(None),
                Some(ChangeSetStatus::Failed) => {
                    return Ok(Some(set.status_reason.unwrap_or_default()));
                }
                _ => tokio::time::sleep(pause).await,
            }
            pause = (pause * 3 / 2).min(LAST_POLL);
        }
    }

    async fn read_changes(&self, client: &Client) -> anyhow::Result<Vec<Change>> {
        let pages = client
            .describe_change_set()
            .stack_name(&self.stack)
            .change_set_name(&self.name)
            .into_paginator()
            .items()
            .send();
        let changes = pages.collect::<Result<Vec<_>, _>>().await;
        let changes = changes.map_err(|error| explain("cannot read the change set", &error))?;
        let resources = changes
            .into_iter()
            .filter_map(|change| change.resource_change);
        Ok(resources
            .map(|change| Change {
                action: change
                    .action
                    .map(|action| action.to_string())
                    .unwrap_or_default(),
                resource: change.logical_resource_id.unwrap_or_default(),
                kind: change.resource_type.unwrap_or_default(),
                replacement: change
                    .replacement
                    .map(|replacement| replacement.to_string()),
                scope: change
                    .scope
                    .unwrap_or_default()
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            })
            .collect())
    }

    /// Makes the changes. The stack's [`Watch`] must have begun before.
    pub async fn execute(&self, client: &Client) -> anyhow::Result<()> {
        let executed = client
            .execute_change_set()
            .stack_name(&self.stack)
            .change_set_name(&self.name)
            .send()
            .await;
        executed.map_err(|error| explain("cannot execute the change set", &error))?;
        Ok(())
    }

    /// Removes it, and the stack that it brought into being to hold it.
    pub async fn discard(&self, client: &Client) -> anyhow::Result<()> {
        tokio::time::timeout(DISCARD_PATIENCE, self.try_discard(client))
            .await
            .unwrap_or_else(|_| {
                Err(Failure::new(format!(
                    "change set `{}` of stack `{}` is left",
                    self.name, self.stack
                ))
                .hint("nothing was changed; the next deployment makes a new one")
                .into())
            })
    }

    async fn try_discard(&self, client: &Client) -> anyhow::Result<()> {
        loop {
            let deleted = client
                .delete_change_set()
                .stack_name(&self.stack)
                .change_set_name(&self.name)
                .send()
                .await;
            match deleted {
                Ok(_) => break,
                Err(error) if is_missing(&error) => break,
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
        if !self.creates_stack {
            return Ok(());
        }
        let Some(stack) = find(client, &self.stack).await? else {
            return Ok(());
        };
        if stack.status == StackStatus::ReviewInProgress {
            request_deletion(client, &stack.id).await?;
            while find(client, &self.stack)
                .await?
                .is_some_and(|stack| stack.status != StackStatus::DeleteComplete)
            {
                tokio::time::sleep(FIRST_POLL).await;
            }
        }
        Ok(())
    }
}

/// Asks for the stack's deletion; a [`Watch`] sees how it goes.
pub async fn request_deletion(client: &Client, stack_id: &str) -> anyhow::Result<()> {
    let deleted = client.delete_stack().stack_name(stack_id).send().await;
    deleted.map_err(|error| explain(format!("cannot delete stack `{stack_id}`"), &error))?;
    Ok(())
}

/// Follows a stack's events from a moment on.
#[derive(Debug)]
pub struct Watch<'a> {
    client: &'a Client,
    stack_id: &'a str,
    /// The last event before, or the last that was seen.
    last: Option<String>,
    events: Vec<Event>,
}

impl<'a> Watch<'a> {
    /// From now on. Begin it before what is to be watched is asked for.
    pub async fn begin(client: &'a Client, stack_id: &'a str) -> anyhow::Result<Self> {
        let newest = client
            .describe_stack_events()
            .stack_name(stack_id)
            .send()
            .await;
        let newest = newest.map_err(|error| explain("cannot read the stack's events", &error))?;
        let last = newest
            .stack_events()
            .first()
            .and_then(|event| event.event_id.clone());
        Ok(Self {
            client,
            stack_id,
            last,
            events: Vec::new(),
        })
    }

    /// Shows the events until the stack has settled, and gives the status in which it did with all the events.
    ///
    /// The stack's own events tell the end, and not its status: that can still be the one from before.
    pub async fn settle(mut self, step: &mut Step) -> anyhow::Result<(StackStatus, Vec<Event>)> {
        let (mut pause, mut lost) = (FIRST_POLL, 0);
        loop {
            match self.fresh().await {
                Ok(fresh) => {
                    lost = 0;
                    for event in fresh {
                        step.line(&event);
                        self.last = Some(event.id.clone());
                        self.events.push(event);
                    }
                    let status = self
                        .events
                        .iter()
                        .rev()
                        .find(|event| event.is_stack())
                        .map(|event| event.status.as_str());
                    if let Some(status) = status.filter(|status| !status.ends_with("_IN_PROGRESS"))
                    {
                        return Ok((StackStatus::from(status), self.events));
                    }
                }
                Err(error) if is_transient(&error) && lost < LOST_POLLS => {
                    lost += 1;
                    pause = LAST_POLL;
                    step.note("cannot see the stack at the moment; looking again");
                }
                Err(error) => {
                    return Err(
                        explain("lost sight of the stack, which goes on changing", &error)
                            .hint("`cbbootstrap status` shows how it ends")
                            .into(),
                    );
                }
            }
            step.busy("waiting for CloudFormation");
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(LAST_POLL);
        }
    }

    /// The events since the last, oldest first.
    async fn fresh(
        &self,
    ) -> Result<
        Vec<Event>,
        aws_sdk_cloudformation::error::SdkError<
            aws_sdk_cloudformation::operation::describe_stack_events::DescribeStackEventsError,
        >,
    > {
        let mut pages = self
            .client
            .describe_stack_events()
            .stack_name(self.stack_id)
            .into_paginator()
            .items()
            .send();
        let mut fresh = Vec::new();
        while let Some(event) = pages.next().await.transpose()? {
            let id = event.event_id.unwrap_or_default();
            if self.last.as_deref() == Some(id.as_str()) {
                break;
            }
            fresh.push(Event {
                id,
                resource: event.logical_resource_id.unwrap_or_default(),
                kind: event.resource_type.unwrap_or_default(),
                status: event
                    .resource_status
                    .map(|status| status.to_string())
                    .unwrap_or_default(),
                reason: event.resource_status_reason,
            });
        }
        fresh.reverse();
        Ok(fresh)
    }
}

/// The last events of a stack, the newest first: as many as one call gives, which is far more than a deployment has.
pub async fn last_events(client: &Client, stack_id: &str) -> anyhow::Result<Vec<Event>> {
    let page = client
        .describe_stack_events()
        .stack_name(stack_id)
        .send()
        .await;
    let page = page.map_err(|error| explain("cannot read the stack's events", &error))?;
    let events = page.stack_events.unwrap_or_default().into_iter();
    Ok(events
        .map(|event| Event {
            id: event.event_id.unwrap_or_default(),
            resource: event.logical_resource_id.unwrap_or_default(),
            kind: event.resource_type.unwrap_or_default(),
            status: event
                .resource_status
                .map(|status| status.to_string())
                .unwrap_or_default(),
            reason: event.resource_status_reason,
        })
        .collect())
}
