//! What somebody changed of a stack's resources behind `CloudFormation`'s back, as it finds out when asked.

use std::time::Duration;

use aws_sdk_cloudformation::{
    Client,
    types::{
        PropertyDifference, StackDriftDetectionStatus, StackResourceDrift, StackResourceDriftStatus,
    },
};
use serde::Serialize;

use super::{explain, is_transient};
use crate::{failure::Failure, printer::Step};

/// Between two looks at a detection: soon at first, then less often.
const FIRST_POLL: Duration = Duration::from_millis(300);
const LAST_POLL: Duration = Duration::from_secs(3);

/// How long a detection may take; it is about a minute for a stack like this.
const PATIENCE: Duration = Duration::from_mins(5);

/// So many looks in a row may fail before the detection is given up.
const LOST_POLLS: u32 = 30;

/// What a detection found.
#[derive(Debug)]
pub struct Drift {
    /// `IN_SYNC`, `DRIFTED`, …, as `CloudFormation` names it.
    pub status: String,
    /// When, RFC 3339.
    pub checked: Option<String>,
    /// Why not every resource could be looked at.
    pub reason: Option<String>,
    /// The resources that are not as the stack made them.
    pub resources: Vec<Drifted>,
}

/// A resource that is not as the stack made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drifted {
    /// The resource's name in the template.
    pub resource: String,
    /// The resource's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `MODIFIED` or `DELETED`.
    pub status: String,
    /// What is different of it.
    pub differences: Vec<Difference>,
}

/// A property that is not as the stack made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its path, such as `/MemorySize`.
    pub property: String,
    /// As the stack made it.
    pub expected: String,
    /// As it is.
    pub actual: String,
}

impl From<StackResourceDrift> for Drifted {
    fn from(drift: StackResourceDrift) -> Self {
        let differences = drift.property_differences.unwrap_or_default();
        Self {
            resource: drift.logical_resource_id.unwrap_or_default(),
            kind: drift.resource_type.unwrap_or_default(),
            status: drift
                .stack_resource_drift_status
                .map(|status| status.to_string())
                .unwrap_or_default(),
            differences: differences.into_iter().map(Difference::from).collect(),
        }
    }
}

impl From<PropertyDifference> for Difference {
    fn from(difference: PropertyDifference) -> Self {
        Self {
            property: difference.property_path.unwrap_or_default(),
            expected: difference.expected_value.unwrap_or_default(),
            actual: difference.actual_value.unwrap_or_default(),
        }
    }
}

/// Lets `CloudFormation` compare every resource of the stack with what it made.
pub async fn detect(client: &Client, stack_id: &str, mut step: Step) -> anyhow::Result<Drift> {
    let begun = client.detect_stack_drift().stack_name(stack_id).send().await;
    let begun = begun.map_err(|error| {
        let failure = explain("cannot look for drift", &error);
        if failure.hint.is_some() {
            return failure;
        }
        failure
            .hint("leave `--drift` out; CloudFormation looks only at stacks that have settled well")
    })?;
    let id = begun.stack_drift_detection_id.unwrap_or_default();
    let mut drift = tokio::time::timeout(PATIENCE, wait(client, &id, &mut step))
        .await
        .unwrap_or_else(|_| {
            let message =
                format!("CloudFormation still looks for drift after {} s", PATIENCE.as_secs());
            Err(Failure::new(message)
                .hint("`cbbootstrap status`, some time later, shows whether it found any")
                .into())
        })?;
    let pages = client
        .describe_stack_resource_drifts()
        .stack_name(stack_id)
        .stack_resource_drift_status_filters(StackResourceDriftStatus::Modified)
        .stack_resource_drift_status_filters(StackResourceDriftStatus::Deleted)
        .into_paginator()
        .send();
    let pages = pages.collect::<Result<Vec<_>, _>>().await;
    let pages = pages.map_err(|error| explain("cannot read what has drifted", &error))?;
    drift.resources = pages
        .into_iter()
        .flat_map(|page| page.stack_resource_drifts.unwrap_or_default())
        .map(Drifted::from)
        .collect();
    step.done(match drift.resources.len() {
        0 => "none found".to_owned(),
        1 => "one resource has drifted".to_owned(),
        number => format!("{number} resources have drifted"),
    });
    Ok(drift)
}

/// Waits until the detection has ended.
async fn wait(client: &Client, id: &str, step: &mut Step) -> anyhow::Result<Drift> {
    let (mut pause, mut lost) = (FIRST_POLL, 0);
    loop {
        let detection = client
            .describe_stack_drift_detection_status()
            .stack_drift_detection_id(id)
            .send()
            .await;
        match detection {
            Ok(detection)
                if detection.detection_status
                    != Some(StackDriftDetectionStatus::DetectionInProgress) =>
            {
                return Ok(Drift {
                    status: detection
                        .stack_drift_status
                        .map_or_else(|| "UNKNOWN".to_owned(), |status| status.to_string()),
                    checked: detection.timestamp.map(|time| time.to_string()),
                    reason: detection.detection_status_reason,
                    resources: Vec::new(),
                });
            }
            Ok(_) => lost = 0,
            Err(error) if is_transient(&error) && lost < LOST_POLLS => lost += 1,
            Err(error) => return Err(explain("cannot see the search for drift", &error).into()),
        }
        step.busy("CloudFormation looks at each resource");
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LAST_POLL);
    }
}
