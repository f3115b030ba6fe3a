//! `cbbootstrap` as a user runs it, in an environment that holds nothing of this machine's.

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    process::{self, kill},
    programs,
};

/// For any command, builds included.
const TIMEOUT: Duration = Duration::from_mins(20);

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: impl AsRef<[u8]>) {
    fs::write(path, text).expect("the directory can be written");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("the file is ours");
}

/// A user: a home directory and environment variables.
#[derive(Debug)]
pub struct User {
    /// The home directory, and the current one.
    pub home: TempDir,
    variables: Vec<(String, String)>,
}

/// The result of a command.
#[derive(Debug)]
pub struct Ended {
    /// `None` if a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Default for User {
    fn default() -> Self {
        let home = tempfile::tempdir().expect("temporary directories can be made");
        let mut user = Self { home, variables: Vec::new() };
        // Cargo and Rust are the machine's, with their proxies and registries.
        for name in ["PATH", "CARGO", "LANG", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
            if let Ok(value) = std::env::var(name) {
                user = user.with(name, value);
            }
        }
        if let (Ok(home), false) = (std::env::var("HOME"), user.has("CARGO_HOME")) {
            user = user.with("CARGO_HOME", format!("{home}/.cargo"));
        }
        if let (Ok(home), false) = (std::env::var("HOME"), user.has("RUSTUP_HOME")) {
            user = user.with("RUSTUP_HOME", format!("{home}/.rustup"));
        }
        // No request for credentials leaves this machine.
        user.with("AWS_EC2_METADATA_DISABLED", "true")
    }
}

impl User {
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.retain(|(other, _)| other != name);
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.variables.retain(|(other, _)| other != name);
        self
    }

    /// With this directory first in the path.
    #[must_use]
    pub fn with_programs(self, directory: &Path) -> Self {
        let path =
            self.variables.iter().find(|(name, _)| name == "PATH").map_or("", |(_, path)| path);
        let path = format!("{}:{path}", directory.display());
        self.with("PATH", path)
    }

    /// Without the directories of PATH that have this program.
    #[must_use]
    pub fn without_program(self, program: &str) -> Self {
        let path =
            self.variables.iter().find(|(name, _)| name == "PATH").map_or("", |(_, path)| path);
        let kept: Vec<_> = path
            .split(':')
            .filter(|directory| !Path::new(directory).join(program).exists())
            .collect();
        let path = kept.join(":");
        self.with("PATH", path)
    }

    fn has(&self, name: &str) -> bool {
        self.variables.iter().any(|(other, _)| other == name)
    }

    /// The command `cbbootstrap` with these arguments, in a new process group.
    pub fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        self.program(&programs::cbbootstrap(), args)
    }

    /// The same for another program.
    pub fn program<A: AsRef<OsStr>>(&self, program: &Path, args: &[A]) -> Command {
        use std::os::unix::process::CommandExt;
        process::pass_signals_on();
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("HOME", self.home.path())
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }

    /// A program that ends with this one, even if this one is killed.
    pub fn leashed<A: AsRef<OsStr>>(&self, program: &Path, args: &[A]) -> Command {
        let mut command = self.program(Path::new("/bin/sh"), &process::leashed(program, args));
        command.stdin(Stdio::piped());
        command
    }

    /// Runs `cbbootstrap` with these arguments to its end.
    pub fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> Ended {
        Ended::of(&mut self.leashed(&programs::cbbootstrap(), args))
    }

    /// Deploys this zip without a smoke test.
    pub fn deploy(&self, zip: &str, options: &[&str]) -> Ended {
        self.deploy_and_smoke(zip, &[&["--no-smoke"], options].concat())
    }

    /// Deploys this zip and runs the smoke test.
    pub fn deploy_and_smoke(&self, zip: &str, options: &[&str]) -> Ended {
        self.run(&[&["deploy", "--output", "json", "--function-zip", zip], options].concat())
    }

    /// The plan of a deployment of this zip.
    #[track_caller]
    pub fn plan(&self, zip: &str, options: &[&str]) -> Value {
        let plan = ["plan", "--output", "json", "--function-zip", zip];
        self.run(&[&plan, options].concat()).document()
    }
}

impl Ended {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        let child = command.spawn();
        Self::of_child(child.expect("a program can be run"))
    }

    /// Waits for the end of a process.
    pub fn of_child(mut child: Child) -> Self {
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let read = |pipe: &mut dyn Read| {
            let mut text = String::new();
            pipe.read_to_string(&mut text).expect("it writes UTF-8");
            text
        };
        thread::scope(|scope| {
            let stdout = scope.spawn(|| out.as_mut().map_or_else(String::new, |out| read(out)));
            let stderr = scope.spawn(|| err.as_mut().map_or_else(String::new, |err| read(err)));
            let since = Instant::now();
            let status = loop {
                match child.try_wait().expect("a child can be waited for") {
                    Some(status) => break status,
                    None if since.elapsed() > TIMEOUT => kill("KILL", &format!("-{}", child.id())),
                    None => thread::sleep(Duration::from_millis(10)),
                }
            };
            let [stdout, stderr] =
                [stdout, stderr].map(|reader| reader.join().expect("a pipe can be read"));
            Self { status: status.code(), stdout, stderr }
        })
    }

    /// Asserts success, and returns the JSON document on stdout.
    #[track_caller]
    pub fn document(&self) -> Value {
        assert_eq!(self.status, Some(0), "{self}");
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not one JSON document: {error}\n{self}"))
    }

    /// Asserts the exit status.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "that it holds is often all")]
    pub fn ended_with(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{self}");
        self
    }

    /// Asserts the exit status, an empty stdout, and an error on one line that contains this text, perhaps one of several.
    #[track_caller]
    pub fn failed(&self, status: i32, part: &str) {
        assert_eq!((self.status, self.stdout.as_str()), (Some(status), ""), "{self}");
        let is_error = |line: &&str| line.starts_with("error: ");
        let mut lines =
            self.stderr.lines().skip_while(|line| !is_error(line) || !line.contains(part));
        assert!(lines.next().is_some(), "{part:?} is not in the error\n{self}");
        // clap says more of wrong usage.
        let hint = lines.next();
        assert!(
            status == 2 || hint.is_some_and(|line| line.starts_with("hint: ")),
            "no hint\n{self}"
        );
        assert!(
            status == 2 || lines.next().is_none_or(|line| is_error(&line)),
            "more than error and hint\n{self}"
        );
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "status {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.status, self.stdout, self.stderr
        )
    }
}
