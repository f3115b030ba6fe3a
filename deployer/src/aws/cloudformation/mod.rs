//! CloudFormation: stacks, change sets, and the progress of a change.

mod change_set;
mod stack;
mod validation;

use aws_sdk_cloudformation::{
    error::{ProvideErrorMetadata, SdkError},
    types,
};
use cbbootstrap_cli::text;
use uuid::Uuid;

pub use change_set::{ChangeSet, UpdateMode};
pub use stack::{
    cancel_update, describe, events_after, find, find_all, find_changed, find_to_change,
    newest_events, protect, request_deletion, require, resources, roll_back, template,
};

use crate::stack::StackEvent;

/// `None` if the stack or the change set does not exist. CloudFormation has no error code for a missing stack.
#[expect(clippy::result_large_err, reason = "it is the SDK's")]
fn unless_missing<T, E: ProvideErrorMetadata>(
    answer: Result<T, SdkError<E>>,
) -> Result<Option<T>, SdkError<E>> {
    let is_missing = |error: &SdkError<E>| match error.code() {
        Some("ChangeSetNotFound") => true,
        Some("ValidationError") => error.message().is_some_and(|it| it.contains("does not exist")),
        _ => false,
    };
    match answer {
        Err(error) if is_missing(&error) => Ok(None),
        answer => answer.map(Some),
    }
}

const TOKEN_PREFIX: &str = "cbbootstrap-";

/// A unique name, by which CloudFormation recognizes a request that the SDK repeats.
fn token() -> String {
    format!("{TOKEN_PREFIX}{}", Uuid::new_v4())
}

impl From<types::StackEvent> for StackEvent {
    fn from(event: types::StackEvent) -> Self {
        Self {
            id: event.event_id.unwrap_or_default(),
            resource: event.logical_resource_id.unwrap_or_default(),
            kind: event.resource_type.unwrap_or_default(),
            status: event.resource_status.map(|status| status.to_string()).unwrap_or_default(),
            reason: event.resource_status_reason.map(|reason| text::escape_hidden(&reason)),
            time: event.timestamp.map_or(0.0, |time| time.as_secs_f64()),
        }
    }
}
