//! Why CloudFormation refuses a change set: its early validation, and the hooks of the account or the organization.

use aws_sdk_cloudformation::{
    Client,
    types::{EventFilter, HookFailureMode, HookStatus, OperationEvent, ValidationStatus},
};

use super::super::error::Answer;

/// The failed validations and hooks of a change set, each with its reason. They are gone with the change set.
///
/// # Errors
///
/// Among others, that the caller may not read them.
pub(super) async fn failures(client: &Client, change_set_arn: &str) -> anyhow::Result<Vec<String>> {
    let filter = EventFilter::builder().failed_events(true).build();
    let pages = client.describe_events().change_set_name(change_set_arn).filters(filter);
    let pages = pages.into_paginator().send().collect::<Result<Vec<_>, _>>().await;
    let pages = pages.explain("cannot read why")?;
    let events = pages.into_iter().flat_map(|page| page.operation_events.unwrap_or_default());
    Ok(events.filter_map(|event| failure(&event)).collect())
}

/// ``Dashboard: it already exists (/Resources/Dashboard, AWS::EarlyValidation::…)``; `None` if the event is not a failure, or a failure
/// that only warns.
fn failure(event: &OperationEvent) -> Option<String> {
    let hook_failed =
        matches!(event.hook_status, Some(HookStatus::HookFailed | HookStatus::HookCompleteFailed));
    let (mode, rule, reason) = if event.validation_status == Some(ValidationStatus::Failed) {
        (&event.validation_failure_mode, &event.validation_name, &event.validation_status_reason)
    } else if hook_failed {
        (&event.hook_failure_mode, &event.hook_type, &event.hook_status_reason)
    } else {
        return None;
    };
    if *mode == Some(HookFailureMode::Warn) {
        return None;
    }
    let resource = event.logical_resource_id.as_deref().unwrap_or("the stack");
    let reason = reason.as_deref().unwrap_or("refused; AWS gave no reason");
    let sources = [event.validation_path.as_deref(), rule.as_deref()];
    let sources: Vec<_> = sources.into_iter().flatten().collect();
    Some(format!("{resource}: {} ({})", reason.trim_end_matches('.'), sources.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_resource_reason_and_rule() {
        let event = || OperationEvent::builder().logical_resource_id("Dashboard");
        let validation = || {
            event()
                .validation_name("AWS::EarlyValidation::ResourceExistenceCheck")
                .validation_path("/Resources/Dashboard")
                .validation_status_reason("It already exists.")
        };
        let hook =
            || event().hook_type("Our::Org::Guard").hook_status_reason("dashboards are forbidden");
        for (event, expected) in [
            (
                validation().validation_status(ValidationStatus::Failed),
                Some(
                    "Dashboard: It already exists (/Resources/Dashboard, AWS::EarlyValidation::ResourceExistenceCheck)",
                ),
            ),
            (
                validation()
                    .validation_status(ValidationStatus::Failed)
                    .validation_failure_mode(HookFailureMode::Warn),
                None,
            ),
            (validation().validation_status(ValidationStatus::Skipped), None),
            (
                hook().hook_status(HookStatus::HookCompleteFailed),
                Some("Dashboard: dashboards are forbidden (Our::Org::Guard)"),
            ),
            (hook().hook_status(HookStatus::HookCompleteSucceeded), None),
            (
                hook().hook_status(HookStatus::HookFailed).hook_failure_mode(HookFailureMode::Warn),
                None,
            ),
            (event(), None),
        ] {
            assert_eq!(failure(&event.build()).as_deref(), expected);
        }
    }
}
