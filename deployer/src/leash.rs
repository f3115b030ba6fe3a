//! Keeps child processes from outliving this program.

use std::process::Stdio;

use anyhow::Context;
use tokio::process::{Child, ChildStdin, Command};

/// What ends child processes when this program ends, however it ends: also by `kill -9`.
///
/// A shell leads the process group that they join, and waits for the end of its input, the other side of which
/// only this program holds. The kernel closes that when the program is gone, and the shell kills the group: also a
/// child that hangs, is just starting, or has children. Linux's parent death signal would need a step in
/// the child between `fork` and `exec`, which is unsafe code or another program, and does not cover its children.
#[derive(Debug)]
pub struct Leash {
    group: i32,
    _shell: Child,
    _input: ChildStdin,
}

impl Leash {
    /// Starts the shell.
    pub fn new() -> anyhow::Result<Self> {
        // Signals that are sent to everybody, as on a terminal's end, must not end the guard before its work is done.
        // It is never killed by us: closing its input is how it ends.
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
