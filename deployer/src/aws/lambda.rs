//! The function in Lambda.

use std::time::Duration;

use aws_sdk_lambda::{
    Client,
    config::timeout::TimeoutConfig,
    primitives::Blob,
    types::{Architecture, LastUpdateStatus, State},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::Serialize;

use super::{UPLOAD_TIMEOUT, error::Answer, poll::Poll};
use crate::{failure::Failure, package::artifact::Artifact, values::Arch};

const UPDATE: Poll =
    Poll { patience: Duration::from_mins(10), hint: "`cbbootstrap status` shows the result" };

#[derive(Debug, Serialize)]
pub struct Function {
    pub name: String,
    /// Lambda's name in lower case, as is `last_update`.
    pub state: String,
    pub last_update: Option<String>,
    /// When its code or configuration last changed, RFC 3339.
    pub last_modified: Option<String>,
    /// Of its zip, in lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Of its zip, in bytes.
    pub size: i64,
    /// In MB.
    pub memory: i32,
    pub arch: Option<String>,
}

pub async fn find(client: &Client, name: &str) -> anyhow::Result<Option<Function>> {
    let function = client.get_function_configuration().function_name(name).send().await;
    let function = function
        .absent_on("ResourceNotFoundException")
        .explain(format!("cannot read function `{name}`"))?;
    Ok(function.map(|function| Function {
        name: name.to_owned(),
        state: function
            .state
            .map_or_else(|| "unknown".to_owned(), |state| state.to_string().to_lowercase()),
        last_update: function.last_update_status.map(|status| status.to_string().to_lowercase()),
        // Lambda's offset has no colon, which RFC 3339 does not allow.
        last_modified: function
            .last_modified
            .and_then(|time| time.parse::<Timestamp>().ok())
            .map(|time| time.to_string()),
        sha256: function
            .code_sha256
            .and_then(|base64| BASE64_STANDARD.decode(base64).ok())
            .map(hex::encode),
        size: function.code_size,
        memory: function.memory_size.unwrap_or_default(),
        arch: function.architectures.and_then(|archs| Some(archs.first()?.to_string())),
    }))
}

/// The function's last published version; `None` if there is none.
pub async fn last_version(client: &Client, name: &str) -> anyhow::Result<Option<u64>> {
    let versions = client.list_versions_by_function().function_name(name);
    let versions = versions.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let versions = versions
        .absent_on("ResourceNotFoundException")
        .explain(format!("cannot list the versions of function `{name}`"))?;
    // `$LATEST` is one of them, but not a number.
    let numbers = versions.iter().flatten().filter_map(|it| it.version()?.parse().ok());
    Ok(numbers.max())
}

/// Replaces only the function's code, waits until it is active, and returns the published version.
pub async fn replace_code(
    client: &Client,
    name: &str,
    artifact: &Artifact,
    arch: Arch,
) -> anyhow::Result<Option<String>> {
    let what = format!("cannot replace the code of function `{name}`");
    let overdue = format!("{what}: Lambda is not done");
    let patient = TimeoutConfig::builder().operation_attempt_timeout(UPLOAD_TIMEOUT).build();
    let replaced = UPDATE.until(&overdue, async || {
        let replaced = client
            .update_function_code()
            .function_name(name)
            .zip_file(Blob::new(artifact.bytes.clone()))
            .architectures(Architecture::from(arch.to_string().as_str()))
            .publish(true)
            .customize()
            .config_override(aws_sdk_lambda::config::Builder::new().timeout_config(patient.clone()))
            .send()
            .await;
        let replaced = replaced.absent_on("ResourceConflictException").explain(&what)?;
        if replaced.is_none() {
            // Another update is in progress, perhaps our own after a lost answer. Lambda refuses each upload until it has ended.
            wait_for_update(client, name, &what).await?;
        }
        Ok(replaced)
    });
    let replaced = replaced.await?;
    let (status, reason) = match replaced.last_update_status {
        Some(LastUpdateStatus::InProgress) => wait_for_update(client, name, &what).await?,
        status => (status, replaced.last_update_status_reason),
    };
    if status == Some(LastUpdateStatus::Failed) {
        return Err(Failure::new(format!("{what}: {}", reason.unwrap_or_default()))
            .hint("the function still runs the previous code; fix the cause and deploy again")
            .into());
    }
    Ok(replaced.version)
}

/// Waits until Lambda accepts another update. Returns the last one's status and the reason for it.
async fn wait_for_update(
    client: &Client,
    name: &str,
    what: &str,
) -> anyhow::Result<(Option<LastUpdateStatus>, Option<String>)> {
    UPDATE
        .until(&format!("{what}: Lambda is not done"), async || {
            let read = client.get_function_configuration().function_name(name);
            let Some(function) = read.send().await.unless_transient(what)? else {
                return Ok(None);
            };
            let is_busy = function.state == Some(State::Pending)
                || function.last_update_status == Some(LastUpdateStatus::InProgress);
            Ok((!is_busy)
                .then_some((function.last_update_status, function.last_update_status_reason)))
        })
        .await
}
