//! How the program ends: exit statuses, and errors that say what to do next.

use std::process::{ExitCode, Termination};

use cbbootstrap_cli::files::Unsafe;
use cbbootstrap_protocol::names::is_hidden;
use thiserror::Error;

/// The exit statuses, as `--help` and the documentation list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// Wrong usage; clap exits with the same status.
    Usage = 2,
    /// The time was up. Running it again goes on where this run stopped.
    TimedOut = 3,
    /// Something is not as it should be, and a person has to decide. Nothing was changed.
    Refused = 5,
    /// The node is a member of its cluster, but not all that was asked for could be done.
    Partial = 6,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// An error for people: one line that says what happened to which thing, and one that says what to do.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct Failure {
    message: String,
    /// The way out.
    pub hint: Option<String>,
    /// How the program ends.
    pub exit: Exit,
}

impl Failure {
    fn with(message: impl Into<String>, exit: Exit) -> Self {
        Self { message: message.into(), hint: None, exit }
    }

    /// It failed.
    pub fn new(message: impl Into<String>) -> Self {
        Self::with(message, Exit::Failed)
    }

    /// What was asked for makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::with(message, Exit::Usage)
    }

    /// The time was up.
    pub fn timed_out(message: impl Into<String>) -> Self {
        Self::with(message, Exit::TimedOut)
    }

    /// A person has to decide.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::with(message, Exit::Refused)
    }

    /// With a way out.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Other users' files may contain `insecure: true`, or a secret that is no longer one.
impl From<Unsafe> for Failure {
    fn from(file: Unsafe) -> Self {
        Self::usage(file.message).hint(file.hint)
    }
}

/// The failure that the error is, below its context.
pub fn of(error: &anyhow::Error) -> Option<&Failure> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// The most of a text that is printed: a server may answer with megabytes.
const MOST_CHARACTERS: usize = 2000;

/// A text on one line in which nothing commands a terminal or misleads a reader: the words of a server or of the API may be part
/// of it.
pub fn printable(text: &str) -> String {
    let shown = text.chars().take(MOST_CHARACTERS).map(|c| match c {
        _ if c.is_control() => '\n',
        _ if c.is_whitespace() => ' ',
        _ if is_hidden(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    });
    let shown: String = shown.collect();
    shown.split('\n').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_mislead() {
        for (text, expected) in [
            ("plain words", "plain words"),
            ("two\nlines", "two lines"),
            ("\u{1b}[2Jgone", "[2Jgone"),
            ("a\u{202e}b\u{200b}c", "a\u{fffd}b\u{fffd}c"),
            ("a\u{a0}b\u{2028}c", "a b c"),
        ] {
            assert_eq!(printable(text), expected, "{text:?}");
        }
    }
}
