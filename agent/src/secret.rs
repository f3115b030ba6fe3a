//! Passwords and the cluster's secret: from a file, standard input or the environment, never from the command line, and never
//! shown.

use std::{
    fmt::{self, Debug},
    fs,
    io::{self, Read},
    path::Path,
};

use anyhow::Context;

use crate::failure::Failure;

/// A secret. Its `Debug` form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Reads it from where the file says, `-` being standard input, or else from the environment variable.
    pub fn read(file: Option<&Path>, variable: &str) -> anyhow::Result<Option<Self>> {
        let text = match file {
            Some(file) if file == Path::new("-") => {
                let mut text = String::new();
                io::stdin()
                    .read_to_string(&mut text)
                    .context("cannot read the secret from standard input")?;
                text
            }
            Some(file) => fs::read_to_string(file)
                .with_context(|| format!("cannot read the secret from `{}`", file.display()))?,
            None => match std::env::var(variable) {
                Ok(text) => text,
                Err(std::env::VarError::NotPresent) => return Ok(None),
                Err(std::env::VarError::NotUnicode(_)) => {
                    return Err(Failure::usage(format!("`{variable}` is not UTF-8")).into());
                }
            },
        };
        // Editors and `echo` end a file with a line feed that nobody means.
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            let from = file.map_or_else(
                || format!("`{variable}`"),
                |file| format!("`{}`", file.display()),
            );
            return Err(Failure::usage(format!("the secret in {from} is empty")).into());
        }
        Ok(Some(Self(text.to_owned())))
    }

    /// The secret itself, to be sent where it belongs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
