//! How a program ends: exit statuses, and errors that tell the reader what to do next.

use std::{
    env,
    fmt::{Display, Write},
    process::{ExitCode, Termination},
};

use thiserror::Error;

use crate::text::printable;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    /// clap exits with the same status.
    Usage,
    /// Shares its status with wrong usage.
    WouldChange,
    SmokeFailed,
    TimedOut,
    Stopped,
    /// Another deployment is changing the stack.
    Busy,
    /// The stack or the record has changed since it was read.
    Changed,
    /// Someone must decide what to do with a stack in this state.
    NeedsDecision,
    /// Someone must decide before the agent changes anything.
    Refused,
    /// The node is a member, but not everything that was requested was done.
    Partial,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Deployer,
    Agent,
}

/// Every exit status: its number, the programs that use it, and its meaning there.
const STATUSES: [(Exit, u8, &[Program], &str); 13] = {
    use Program::{Agent, Deployer};
    [
        (Exit::Done, 0, &[Deployer, Agent], "success, or nothing to do"),
        (Exit::Failed, 1, &[Deployer], "failed; with `plan --exit-code`: also wrong usage"),
        (
            Exit::Failed,
            1,
            &[Agent],
            "failed; for `status`: the node is not healthy, the cluster is not balanced, or the API does not list the node",
        ),
        (
            Exit::Usage,
            2,
            &[Deployer, Agent],
            "wrong usage, or a file of options or secrets that cannot be read",
        ),
        (Exit::WouldChange, 2, &[Deployer], "with `plan --exit-code`: something would change"),
        (Exit::SmokeFailed, 3, &[Deployer], "the smoke test failed"),
        (Exit::TimedOut, 3, &[Agent], "timed out; run the command again to continue"),
        (
            Exit::Stopped,
            4,
            &[Deployer],
            "stopped by the user or a signal (`serve`, `deploy --local` and `logs --follow` exit with 0)",
        ),
        (Exit::Busy, 5, &[Deployer], "another deployment is changing the stack"),
        (
            Exit::Changed,
            5,
            &[Deployer],
            "the stack or the cluster's record changed while the command ran",
        ),
        (
            Exit::NeedsDecision,
            5,
            &[Deployer],
            "the stack or the cluster's record is in a state that needs a decision",
        ),
        (
            Exit::Refused,
            5,
            &[Agent],
            "you have to decide how to go on, as the hint explains; for example, the server belongs to another cluster",
        ),
        (
            Exit::Partial,
            6,
            &[Agent],
            "the node is a member, but a requested setting was refused or the cluster is not balanced",
        ),
    ]
};

impl Exit {
    pub fn status(self) -> u8 {
        // As Terraform does, so that a pipeline does not take an error for a change.
        let tells_changes = || {
            ["plan", "--exit-code"].iter().all(|it| env::args_os().any(|argument| argument == *it))
        };
        if self == Self::Usage && tells_changes() {
            return Self::Failed.status();
        }
        STATUSES.iter().find(|(exit, ..)| *exit == self).map_or(1, |(_, status, ..)| *status)
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.status())
    }
}

impl Program {
    /// The program's exit statuses with their meanings.
    pub fn exit_statuses(self) -> Vec<(u8, String)> {
        let mut statuses: Vec<(u8, String)> = Vec::new();
        for (_, status, programs, meaning) in STATUSES {
            match statuses.last_mut() {
                _ if !programs.contains(&self) => (),
                Some((last, meanings)) if *last == status => {
                    let _ = write!(meanings, "; {meaning}");
                }
                _ => statuses.push((status, meaning.to_owned())),
            }
        }
        statuses
    }

    /// The same as a section of `--help`.
    pub fn exit_help(self) -> String {
        let lines = self.exit_statuses().into_iter();
        let lines = lines.map(|(status, meaning)| format!("\n  {status}  {meaning}"));
        format!("Exit status:{}", lines.collect::<String>())
    }
}

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

    #[test]
    fn each_program_lists_its_own_statuses_once() {
        for (program, expected) in [
            (Program::Deployer, [0, 1, 2, 3, 4, 5].as_slice()),
            (Program::Agent, &[0, 1, 2, 3, 5, 6]),
        ] {
            let statuses = program.exit_statuses();
            assert!(statuses.iter().map(|(status, _)| status).eq(expected), "{statuses:?}");
        }
        let help = Program::Deployer.exit_help();
        let usage = "\n  2  wrong usage, or a file of options or secrets that cannot be read; with `plan --exit-code`: something would change\n";
        assert!(help.contains(usage) && !help.contains("timed out"), "{help}");
    }
}
