//! Drift: resources of a stack that were changed outside CloudFormation.

use std::time::Duration;

use aws_sdk_cloudformation::{
    Client,
    types::{
        PropertyDifference, StackDriftDetectionStatus, StackResourceDrift, StackResourceDriftStatus,
    },
};
use serde::Serialize;

use super::{error::Answer, poll::Poll};

/// It takes about a minute for a stack like this.
const DETECTION: Poll = Poll {
    first: Duration::from_millis(300),
    longest: Duration::from_secs(3),
    patience: Duration::from_mins(5),
    hint: "`cbbootstrap status`, some time later, shows whether it found any",
};

#[derive(Debug)]
pub struct Drift {
    /// CloudFormation's name: `IN_SYNC`, `DRIFTED`, …
    pub status: String,
    /// RFC 3339.
    pub checked: Option<String>,
    /// Why not every resource could be checked.
    pub reason: Option<String>,
    pub resources: Vec<Drifted>,
}

/// A resource that differs from the stack's template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drifted {
    /// Its name in the template.
    pub resource: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// `MODIFIED` or `DELETED`.
    pub status: String,
    pub differences: Vec<Difference>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// A path such as `/MemorySize`.
    pub property: String,
    pub expected: String,
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

impl Drift {
    /// The number of drifted resources in words.
    pub fn summary(&self) -> String {
        match self.resources.len() {
            0 => "none found".to_owned(),
            1 => "one resource has drifted".to_owned(),
            number => format!("{number} resources have drifted"),
        }
    }
}

/// Lets CloudFormation compare every resource of the stack with its template.
pub async fn detect(client: &Client, stack_id: &str) -> anyhow::Result<Drift> {
    let begun = client.detect_stack_drift().stack_name(stack_id).send().await;
    let begun = begun.explain("cannot check for drift").map_err(|failure| {
        let hint =
            "leave out `--drift`; CloudFormation checks only stacks whose last change succeeded";
        if failure.hint.is_some() { failure } else { failure.hint(hint) }
    })?;
    let id = begun.stack_drift_detection_id.unwrap_or_default();
    let detection = DETECTION.until("CloudFormation still checks for drift", async || {
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
    Ok(Drift {
        status: detection
            .stack_drift_status
            .map_or_else(|| "UNKNOWN".to_owned(), |status| status.to_string()),
        checked: detection.timestamp.map(|time| time.to_string()),
        reason: detection.detection_status_reason,
        resources: pages
            .flat_map(|page| page.stack_resource_drifts.unwrap_or_default())
            .map(Drifted::from)
            .collect(),
    })
}
