//! Keeps child processes from outliving this program.

use std::process::Stdio;

use anyhow::Context;
use tokio::process::{Child, ChildStdin, Command};

/// Ends child processes when this program ends, also by `kill -9`.
///
/// A shell leads the process group that they join, and reads from a pipe whose other end only this program has. When the program
/// is gone, the kernel closes the pipe, and the shell kills the group, with the children's children. Linux's parent death signal
/// does not reach those, and would need unsafe code between `fork` and `exec`.
#[derive(Debug)]
pub struct Leash {
    group: i32,
    _shell: Child,
    _input: ChildStdin,
}

impl Leash {
    /// Starts the shell.
    pub fn new() -> anyhow::Result<Self> {
        // Signals to the whole group, for example when a terminal closes, must not end the shell first.
        let mut shell = Command::new("/bin/sh")
            .args(["-c", "trap '' HUP INT TERM; read -r _; kill -s KILL 0"])
            .env_clear()
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run `/bin/sh`, which ends child processes with this program")?;
        let group = shell.id().and_then(|id| i32::try_from(id).ok());
        let group = group.context("`/bin/sh` has no process id")?;
        let input = shell.stdin.take().context("`/bin/sh` has no input")?;
        Ok(Self { group, _shell: shell, _input: input })
    }

    /// The process group to join.
    pub fn group(&self) -> i32 {
        self.group
    }
}
