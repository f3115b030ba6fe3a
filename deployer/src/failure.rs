//! How the program ends: exit statuses, and errors that say what to do next.

use std::{
    fmt::Display,
    process::{ExitCode, Termination},
};

use thiserror::Error;

/// The exit statuses, as `--help` and `docs/operations.md` list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// Wrong usage; clap exits with the same status.
    Usage = 2,
    /// The smoke test failed.
    Smoke = 3,
    /// The user or a signal stopped it.
    Stopped = 4,
    /// The stack is busy, or in a state that needs a decision; or a record changed meanwhile.
    Stack = 5,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// An error and its context, on one line.
pub fn line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// The failure that the error is, below its context.
pub fn of(error: &anyhow::Error) -> Option<&Failure> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// An error for people: one line that says what happened to which thing, and one that says what to do.
///
/// It ends the program with [`Exit::Failed`] unless told otherwise. Context around it is printed before it.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct Failure {
    message: String,
    /// The way out.
    pub hint: Option<String>,
    /// How the program ends.
    pub exit: Exit,
    /// Whether the credentials lack a permission, and nothing else is wrong.
    pub denied: bool,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: Exit::Failed, denied: false }
    }

    /// With a way out.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the thing that it is about before the message.
    pub fn about(mut self, thing: impl Display) -> Self {
        self.message = format!("{thing}: {}", self.message);
        self
    }

    /// As one that a permission would mend.
    pub fn denied(mut self) -> Self {
        self.denied = true;
        self
    }

    /// With another exit status.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
}

/// Asks whether the nearest of the known names was meant, where one is near, whatever its case.
pub fn did_you_mean<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
    /// Half of the longer name. Jaro's measure, which clap uses, finds `dev` near to `default_environment`.
    const NEAR: f64 = 0.5;
    let folded = name.to_lowercase();
    let nearness =
        |known: &str| strsim::normalized_damerau_levenshtein(&folded, &known.to_lowercase());
    let (nearness, nearest) = known
        .map(|known| (nearness(known), known))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (nearness >= NEAR).then(|| format!("did you mean `{nearest}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_if_it_is_near() {
        let known = ["stack_name", "table_name", "role_arn", "MemorySize"];
        for (name, suggested) in [
            ("stak_name", Some("stack_name")),
            ("stack-name", Some("stack_name")),
            ("tablename", Some("table_name")),
            ("Memory", Some("MemorySize")),
            ("role", Some("role_arn")),
            ("memorysize", Some("MemorySize")),
            ("quorum", None),
            ("mem", None),
            ("", None),
        ] {
            let hint = did_you_mean(name, known.into_iter());
            let expected = suggested.map(|known| format!("did you mean `{known}`?"));
            assert_eq!(hint, expected, "{name:?}");
        }
        assert_eq!(did_you_mean("name", [].into_iter()), None);
    }
}
