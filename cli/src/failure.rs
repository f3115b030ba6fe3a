//! Errors that tell the reader what to do next.

use std::fmt::Display;

use thiserror::Error;

use crate::{exit::Exit, text::printable};

/// An error for the user: a message and an optional hint. It ends the program with [`Exit::Failed`] by default. Context is printed before
/// the message.
#[derive(Clone, Debug, Error)]
#[error("{message}")]
pub struct Failure {
    pub(crate) message: String,
    pub hint: Option<String>,
    pub exit: Exit,
    /// The only cause is a missing permission.
    pub denied: bool,
    /// The message and the hint of each problem, if there are several.
    pub problems: Vec<(String, Option<String>)>,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            exit: Exit::Failed,
            denied: false,
            problems: Vec::new(),
        }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(message).exit(Exit::Usage)
    }

    pub fn timed_out(message: impl Into<String>) -> Self {
        Self::new(message).exit(Exit::TimedOut)
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(message).exit(Exit::Refused)
    }

    /// Someone must decide what to do with the stack or the record.
    pub fn needs_decision(message: impl Into<String>) -> Self {
        Self::new(message).exit(Exit::NeedsDecision)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a hint to the one that it may have.
    #[must_use]
    pub fn also(self, hint: &str) -> Self {
        let hints: Vec<_> = self.hint.as_deref().into_iter().chain([hint]).collect();
        let hints = hints.join("; ");
        self.hint(hints)
    }

    /// Prefixes the message with the thing that it is about.
    #[must_use]
    pub fn about(mut self, thing: impl Display) -> Self {
        self.message = format!("{thing}: {}", self.message);
        for (message, _) in &mut self.problems {
            *message = format!("{thing}: {message}");
        }
        self
    }

    #[must_use]
    pub fn denied(mut self) -> Self {
        self.denied = true;
        self
    }

    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    fn into_problems(self) -> Vec<(String, Option<String>)> {
        if self.problems.is_empty() { vec![(self.message, self.hint)] } else { self.problems }
    }

    /// The failure in an error with context.
    pub fn find_in(error: &anyhow::Error) -> Option<&Self> {
        error.chain().find_map(|cause| cause.downcast_ref())
    }

    /// Whether an error, with its context, is a refusal because of a missing permission.
    pub fn is_denial(error: &anyhow::Error) -> bool {
        Self::find_in(error).is_some_and(|failure| failure.denied)
    }
}

/// Wrong and missing options, so that all of them are reported at once.
#[derive(Debug, Default)]
pub struct Problems(Vec<Failure>);

impl Problems {
    pub fn add(&mut self, failure: Failure) {
        self.0.push(failure);
    }

    /// The value; an error is kept.
    pub fn keep<T>(&mut self, result: Result<T, impl Into<anyhow::Error>>) -> Option<T> {
        let failed = |error: anyhow::Error| {
            let failure = error.downcast();
            self.add(failure.unwrap_or_else(|error| Failure::usage(one_line(&error))));
        };
        result.map_err(Into::into).map_err(failed).ok()
    }

    /// # Errors
    ///
    /// All problems in one failure with the first one's status, if there are any.
    pub fn report(self) -> Result<(), Failure> {
        let Some(exit) = self.0.first().map(|failure| failure.exit) else {
            return Ok(());
        };
        let hints = self.0.iter().filter_map(|failure| failure.hint.as_deref()).collect::<Vec<_>>();
        let messages = self.0.iter().map(ToString::to_string).collect::<Vec<_>>();
        let failure = Failure::new(messages.join("; ")).exit(exit);
        let mut failure = if hints.is_empty() { failure } else { failure.hint(hints.join("; ")) };
        failure.problems = self.0.into_iter().flat_map(Failure::into_problems).collect();
        Err(failure)
    }
}

/// An error and its context on one line, without characters that mislead a reader: it may quote a server.
pub fn one_line(error: &anyhow::Error) -> String {
    printable(&format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::error_text;

    #[test]
    fn problems_become_one_failure() {
        let mut problems = Problems::default();
        assert_eq!(problems.keep(Ok::<_, Failure>(1)), Some(1));
        assert!(Problems::default().report().is_ok());
        problems.add(Failure::usage("a is missing").hint("give a"));
        assert_eq!(problems.keep(Err::<(), _>(anyhow::anyhow!("b is wrong"))), None);
        problems.keep(Err::<(), _>(Failure::new("c is wrong").hint("change c")));
        let failure = problems.report().unwrap_err();
        assert_eq!(failure.to_string(), "a is missing; b is wrong; c is wrong");
        let text = error_text(&anyhow::Error::new(failure.clone().about("f")).context("x"));
        assert_eq!(
            text,
            "error: x: f: a is missing\nhint: give a\nerror: x: f: b is wrong\nerror: x: f: c is wrong\nhint: change c"
        );
        assert_eq!(
            (failure.hint.as_deref(), failure.exit),
            (Some("give a; change c"), Exit::Usage)
        );
    }
}
