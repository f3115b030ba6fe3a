//! CloudFormation's check of each resource of a stack.

use std::time::Duration;

use aws_sdk_cloudformation::{
    Client,
    types::{
        PropertyDifference, StackDriftDetectionStatus, StackResourceDrift, StackResourceDriftStatus,
    },
};

use super::{error::Answer, poll::Poll};
use crate::stack::{Difference, Drift, Drifted};

/// A check of this stack takes about a minute.
const DETECTION: Poll =
    Poll { patience: Duration::from_mins(5), hint: "`cbbootstrap status` shows the result later" };

/// Lets CloudFormation compare every resource of the stack with its template.
pub async fn detect(client: &Client, stack_id: &str) -> anyhow::Result<Drift> {
    let begun = client.detect_stack_drift().stack_name(stack_id).send().await;
    let begun = begun.explain("cannot check for drift").map_err(|failure| {
        let hint = "omit `--drift`; CloudFormation checks only stacks whose last change succeeded";
        if failure.hint.is_some() { failure } else { failure.hint(hint) }
    })?;
    let id = begun.stack_drift_detection_id.unwrap_or_default();
    let detection = DETECTION.until("CloudFormation is still checking for drift", async || {
        let detection = client.describe_stack_drift_detection_status();
        let detection = detection.stack_drift_detection_id(&id).send().await;
        let detection = detection.unless_transient("cannot follow the check for drift")?;
        let in_progress = Some(StackDriftDetectionStatus::DetectionInProgress);
        Ok(detection.filter(|detection| detection.detection_status != in_progress))
    });
    let detection = detection.await?;
    let pages = client
        .describe_stack_resource_drifts()
        .stack_name(stack_id)
        .stack_resource_drift_status_filters(StackResourceDriftStatus::Modified)
        .stack_resource_drift_status_filters(StackResourceDriftStatus::Deleted)
        .into_paginator()
        .send();
    let pages = pages.collect::<Result<Vec<_>, _>>().await;
    let pages = pages.explain("cannot read what has drifted")?.into_iter();
    let drifted = pages.flat_map(|page| page.stack_resource_drifts.unwrap_or_default());
    let checked = detection.timestamp.map(|time| time.to_string());
    Ok(Drift {
        reason: detection.detection_status_reason,
        resources: Some(drifted.map(drifted_resource).collect()),
        ..Drift::new(detection.stack_drift_status, checked)
    })
}

fn drifted_resource(drift: StackResourceDrift) -> Drifted {
    let difference = |it: PropertyDifference| Difference {
        property: it.property_path.unwrap_or_default(),
        expected: it.expected_value.unwrap_or_default(),
        actual: it.actual_value.unwrap_or_default(),
    };
    Drifted {
        resource: drift.logical_resource_id.unwrap_or_default(),
        kind: drift.resource_type.unwrap_or_default(),
        status: drift.stack_resource_drift_status.map(|it| it.to_string()).unwrap_or_default(),
        differences: drift.property_differences.into_iter().flatten().map(difference).collect(),
    }
}
