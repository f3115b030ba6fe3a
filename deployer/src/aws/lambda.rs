//! The function as Lambda has it.

use std::time::{Duration, Instant};

use aws_sdk_lambda::{
    Client,
    config::timeout::TimeoutConfig,
    error::SdkError,
    operation::{
        get_function_configuration::GetFunctionConfigurationError,
        list_versions_by_function::ListVersionsByFunctionError,
        update_function_code::UpdateFunctionCodeError,
    },
    primitives::Blob,
    types::{Architecture, LastUpdateStatus},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::Serialize;

use super::{UPLOAD_TIMEOUT, explain, is_transient};
use crate::{
    failure::Failure,
    package::artifact::{Artifact, base16},
    values::Arch,
};

/// Between two looks at a function whose code is being replaced.
const POLL: Duration = Duration::from_millis(300);

/// How long Lambda may take to replace a function's code.
const PATIENCE: Duration = Duration::from_mins(5);

/// A deployed function.
#[derive(Debug, Serialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// As Lambda names it, in lower case.
    pub state: String,
    /// How its last change went, as Lambda names it, in lower case.
    pub last_update: Option<String>,
    /// When its code or its settings were last changed, RFC 3339.
    pub last_modified: Option<String>,
    /// Of its zip, in lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Of its zip, in bytes.
    pub size: i64,
    /// In MB.
    pub memory: i32,
    /// Its processor.
    pub arch: Option<String>,
}

/// The function of this name; `None` if there is none.
pub async fn find(client: &Client, name: &str) -> anyhow::Result<Option<Function>> {
    match client.get_function_configuration().function_name(name).send().await {
        Ok(function) => Ok(Some(Function {
            name: name.to_owned(),
            state: function
                .state
                .map_or_else(|| "unknown".to_owned(), |state| state.to_string().to_lowercase()),
            last_update: function
                .last_update_status
                .map(|status| status.to_string().to_lowercase()),
            // Lambda writes the offset without a colon, which RFC 3339 does not know.
            last_modified: function
                .last_modified
                .and_then(|time| time.parse::<Timestamp>().ok())
                .map(|time| time.to_string()),
            sha256: function
                .code_sha256
                .and_then(|base64| BASE64_STANDARD.decode(base64).ok())
                .map(|hash| base16(&hash)),
            size: function.code_size,
            memory: function.memory_size.unwrap_or_default(),
            arch: function.architectures.and_then(|archs| Some(archs.first()?.to_string())),
        })),
        Err(SdkError::ServiceError(refused))
            if matches!(
                refused.err(),
                GetFunctionConfigurationError::ResourceNotFoundException(_)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(explain(format!("cannot look at function `{name}`"), &error).into()),
    }
}

/// The number of the function's last published version; `None` if none was published.
pub async fn last_version(client: &Client, name: &str) -> anyhow::Result<Option<u64>> {
    let versions =
        client.list_versions_by_function().function_name(name).into_paginator().items().send();
    match versions.collect::<Result<Vec<_>, _>>().await {
        // `$LATEST` stands among them, and is no number.
        Ok(versions) => {
            Ok(versions.iter().filter_map(|version| version.version()?.parse().ok()).max())
        }
        Err(SdkError::ServiceError(refused))
            if matches!(
                refused.err(),
                ListVersionsByFunctionError::ResourceNotFoundException(_)
            ) =>
        {
            Ok(None)
        }
        Err(error) => {
            Err(explain(format!("cannot list the versions of function `{name}`"), &error).into())
        }
    }
}

/// Replaces the function's code and nothing else, waits until it serves, and gives the version that was published.
pub async fn replace_code(
    client: &Client,
    name: &str,
    artifact: &Artifact,
    arch: Arch,
) -> anyhow::Result<Option<String>> {
    let what = || format!("cannot replace the code of function `{name}`");
    let since = Instant::now();
    let patient = TimeoutConfig::builder().operation_attempt_timeout(UPLOAD_TIMEOUT).build();
    let replaced = loop {
        let replaced = client
            .update_function_code()
            .function_name(name)
            .zip_file(Blob::new(artifact.zip.clone()))
            .architectures(Architecture::from(arch.to_string().as_str()))
            .publish(true)
            .customize()
            .config_override(aws_sdk_lambda::config::Builder::new().timeout_config(patient.clone()))
            .send()
            .await;
        match replaced {
            Ok(replaced) => break replaced,
            // Another update is not done yet; perhaps our own, whose answer was lost.
            Err(error)
                if since.elapsed() < PATIENCE
                    && error
                        .as_service_error()
                        .is_some_and(UpdateFunctionCodeError::is_resource_conflict_exception) =>
            {
                tokio::time::sleep(POLL).await;
            }
            Err(error) => return Err(explain(what(), &error).into()),
        }
    };
    loop {
        let now = client.get_function_configuration().function_name(name).send().await;
        match now {
            Ok(function) => match function.last_update_status {
                Some(LastUpdateStatus::Failed) => {
                    let why = function.last_update_status_reason.unwrap_or_default();
                    return Err(Failure::new(format!("{}: {why}", what()))
                        .hint("the function serves what it did before; mend the cause and deploy again")
                        .into());
                }
                Some(LastUpdateStatus::InProgress) => (),
                _ => return Ok(replaced.version),
            },
            Err(error) if is_transient(&error) => (),
            Err(error) => return Err(explain(what(), &error).into()),
        }
        if since.elapsed() > PATIENCE {
            return Err(Failure::new(format!(
                "{}: Lambda is still at it after {} minutes",
                what(),
                PATIENCE.as_secs() / 60
            ))
            .hint("`cbbootstrap status` shows how it ends")
            .into());
        }
        tokio::time::sleep(POLL).await;
    }
}
