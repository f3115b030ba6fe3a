//! Passwords and the cluster's secret: from a file, standard input or the environment, never from the command line, and never
//! shown.

use std::{
    fmt::{self, Debug},
    fs,
    io::{self, Read},
    path::Path,
};

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
                    .map_err(|error| unreadable("standard input", &error))?;
                text
            }
            Some(file) => fs::read_to_string(file)
                .map_err(|error| unreadable(&format!("`{}`", file.display()), &error))?,
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
            return Err(Failure::usage(format!("the secret in {from} is empty"))
                .hint("give one, or leave it out")
                .into());
        }
        Ok(Some(Self(text.to_owned())))
    }

    /// The secret itself, to be sent where it belongs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

fn unreadable(from: &str, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read the secret from {from}: {error}"))
        .hint("it is to be there, in UTF-8, and the agent's user may read it")
}

impl Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
