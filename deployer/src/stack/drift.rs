//! Drift: resources of a stack that were changed outside CloudFormation.

use std::fmt::{Display, Formatter};

use aws_sdk_cloudformation::types::StackDriftStatus;
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Drift {
    /// `IN_SYNC`, `DRIFTED`, `NOT_CHECKED`, …, as CloudFormation names it.
    pub status: String,
    /// When it was checked, RFC 3339.
    pub checked: Option<String>,
    /// Why some resources could not be checked.
    pub reason: Option<String>,
    /// The resources that have drifted; `None` unless they were just checked.
    pub resources: Option<Vec<Drifted>>,
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

impl Drift {
    /// A result without details.
    pub fn new(status: Option<StackDriftStatus>, checked: Option<String>) -> Self {
        let status = status.map_or_else(|| "UNKNOWN".to_owned(), |status| status.to_string());
        Self { status, checked, reason: None, resources: None }
    }

    /// The number of drifted resources in words.
    pub fn summary(&self) -> String {
        match self.resources.as_deref() {
            None | Some([]) => "none found".to_owned(),
            Some([_]) => "one resource has drifted".to_owned(),
            Some(resources) => format!("{} resources have drifted", resources.len()),
        }
    }
}

impl Display for Drifted {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { resource, kind, status, differences } = self;
        write!(f, "{resource} ({kind}) {}", status.to_lowercase())?;
        differences.iter().try_for_each(|Difference { property, expected, actual }| {
            write!(f, "\n  {property}: {actual} instead of {expected}")
        })
    }
}
