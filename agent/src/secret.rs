//! Passwords and the cluster secret: from a file, standard input or the environment, never from the command line, and never
//! shown.

use std::{
    env,
    fmt::{self, Debug, Display},
    io,
    path::Path,
};

use cbbootstrap_cli::{environment, failure::Failure, files, text};

/// A secret. Its `Debug` form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Reads it from the file, `-` being standard input, or else from the environment variable. A variable that is empty is absent.
    /// `name` is what errors call it.
    pub fn read(file: Option<&Path>, variable: &str, name: &str) -> anyhow::Result<Option<Self>> {
        let unreadable = |from: &str, error: &dyn Display| {
            Failure::usage(format!("cannot read {name} from {from}: {error}"))
                .hint("the file must exist and be text that the agent's user can read")
        };
        let (from, read) = match file {
            Some(file) if file == Path::new("-") => {
                let read = files::read_from(io::stdin(), files::MAX_TEXT);
                ("standard input".to_owned(), read)
            }
            Some(file) => {
                files::check_private(file)?;
                (format!("`{}`", file.display()), files::read(file))
            }
            None => match env::var_os(variable) {
                Some(value) if !environment::is_blank(variable) => {
                    (format!("`{variable}`"), Ok(value.into_encoded_bytes()))
                }
                _ => return Ok(None),
            },
        };
        let bytes = read.map_err(|error| unreadable(&from, &error))?;
        let text = text::decode(&bytes).map_err(|error| unreadable(&from, &error))?;
        // Spaces can be part of a secret; editors and `echo` add a byte-order mark or a line end.
        let secret = text::clean(&text);
        if secret.is_empty() {
            return Err(Failure::usage(format!("{name} in {from} is empty"))
                .hint(format!("write {name} there, without anything else"))
                .into());
        }
        Ok(Some(Self(secret.to_owned())))
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
