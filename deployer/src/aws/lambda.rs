//! The function as Lambda has it.

use std::time::{Duration, Instant};

use aws_sdk_lambda::{
    Client,
    operation::update_function_code::UpdateFunctionCodeError,
    primitives::Blob,
    types::{Architecture, LastUpdateStatus},
};
use base64::{Engine, prelude::BASE64_STANDARD};

use super::{explain, is_transient};
use crate::{
    build::artifact::{Artifact, base16},
    cli::Arch,
    failure::Failure,
};

/// Between two looks at a function whose code is being replaced.
const POLL: Duration = Duration::from_millis(300);

/// How long Lambda may take to replace a function's code.
const PATIENCE: Duration = Duration::from_mins(5);

/// A deployed function.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// As Lambda names it, in lower case.
    pub state: String,
    /// Of its zip, in lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Of its zip, in bytes.
    pub size: i64,
    /// In MB.
    pub memory: i32,
}

/// The function of this name; `None` if there is none.
pub async fn find(client: &Client, name: &str) -> anyhow::Result<Option<Function>> {
    match client
        .get_function_configuration()
        .function_name(name)
        .send()
        .await
    {
        Ok(function) => Ok(Some(Function {
            name: name.to_owned(),
            state: function.state.map_or_else(
                || "unknown".to_owned(),
                |state| state.to_string().to_lowercase(),
            ),
            sha256: function
                .code_sha256
                .and_then(|base64| BASE64_STANDARD.decode(base64).ok())
                .map(|hash| base16(&hash)),
            size: function.code_size,
            memory: function.memory_size.unwrap_or_default(),
        })),
        Err(error)
            if error
                .as_service_error()
                .is_some_and(aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationError::is_resource_not_found_exception) =>
        {
            Ok(None)
        }
        Err(error) => Err(explain(format!("cannot look at function `{name}`"), &error).into()),
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
    let replaced = loop {
        let replaced = client
            .update_function_code()
            .function_name(name)
            .zip_file(Blob::new(artifact.zip.clone()))
            .architectures(Architecture::from(arch.to_string().as_str()))
            .publish(true)
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
        let now = client
            .get_function_configuration()
            .function_name(name)
            .send()
            .await;
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
