//! The function as Lambda has it.

use aws_sdk_lambda::{
    Client,
    error::SdkError,
    operation::{
        get_function_configuration::GetFunctionConfigurationError,
        list_versions_by_function::ListVersionsByFunctionError,
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;

use super::explain;
use crate::build::artifact::base16;

/// A deployed function.
#[derive(Debug)]
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
            arch: function
                .architectures
                .and_then(|archs| Some(archs.first()?.to_string())),
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
    let versions = client
        .list_versions_by_function()
        .function_name(name)
        .into_paginator()
        .items()
        .send();
    match versions.collect::<Result<Vec<_>, _>>().await {
        // `$LATEST` stands among them, and is no number.
        Ok(versions) => Ok(versions
            .iter()
            .filter_map(|version| version.version()?.parse().ok())
            .max()),
        Err(SdkError::ServiceError(refused))
            if matches!(
                refused.err(),
                ListVersionsByFunctionError::ResourceNotFoundException(_)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(explain(
            format!("cannot list the versions of function `{name}`"),
            &error,
        )
        .into()),
    }
}
