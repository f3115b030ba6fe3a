//! The function as Lambda has it.

use aws_sdk_lambda::Client;
use base64::{Engine, prelude::BASE64_STANDARD};

use super::explain;
use crate::build::artifact::base16;

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
