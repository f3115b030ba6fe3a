//! Exit statuses.

use std::{
    env,
    fmt::Write,
    process::{ExitCode, Termination},
};

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

#[cfg(test)]
mod tests {
    use super::*;

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
