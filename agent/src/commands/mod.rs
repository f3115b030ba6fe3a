//! The commands, one file each.

mod discover;
mod leave;
mod rebalances;
mod status;
mod up;

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::CommandFactory;

use crate::{
    api::Unanswered,
    cli::{Cli, Command},
    failure::{Exit, Failure},
    lock::Lock,
    printer::{Printer, print},
    server::Server,
    settings::Patience,
};

/// Does what was asked for.
pub fn run(command: Command, printer: &Printer) -> anyhow::Result<Exit> {
    match command {
        Command::Up(args) => up::run(*args, printer),
        Command::Discover(args) => discover::run(args, printer),
        Command::Leave(args) => leave::run(args, printer),
        Command::Status(args) => status::run(args, printer),
        Command::ManPages { directory } => {
            std::fs::create_dir_all(&directory)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), &directory))
                .map_err(|error| {
                    Failure::new(format!(
                        "cannot write the manual to `{}`: {error}",
                        directory.display()
                    ))
                    .hint("name a directory that you may write to, or one that is not there yet")
                })?;
            Ok(Exit::Done)
        }
        Command::Completions { shell } => {
            let mut command = Cli::command();
            let name = command.get_name().to_owned();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, name, &mut script);
            print(&String::from_utf8(script)?)?;
            Ok(Exit::Done)
        }
    }
}

/// The time that a command has, and its pauses.
struct Clock {
    patience: Patience,
    end: Instant,
}

impl Clock {
    fn new(patience: Patience) -> Self {
        Self {
            patience,
            end: Instant::now() + patience.timeout,
        }
    }

    /// Waits until it is time to look again, and tells why; fails when the time is up.
    ///
    /// The pauses differ a little, so that nodes that boot together do not ask together for ever.
    fn pause(&self, printer: &Printer, reason: &str) -> Result<(), Failure> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = self.patience.timeout.as_secs_f64();
            return Err(Failure::timed_out(format!(
                "not done after {seconds} s, still waiting: {reason}"
            ))
            .hint("run it again to go on from here; `--timeout` gives it longer"));
        }
        printer.waiting(reason);
        thread::sleep(jitter(self.patience.interval).min(left));
        Ok(())
    }
}

/// Waits for the server's lock, which another agent may hold.
fn lock(server: &Server, clock: &Clock, printer: &Printer) -> anyhow::Result<Lock> {
    loop {
        if let Some(lock) = Lock::take(&server.url)? {
            return Ok(lock);
        }
        clock.pause(printer, "another agent works on this server")?;
    }
}

/// The time, a quarter less to a quarter more.
fn jitter(time: Duration) -> Duration {
    time.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// What the API refuses for good, as the end of the program.
fn refused(error: Unanswered) -> anyhow::Error {
    match error {
        Unanswered::Later(why) => Failure::new(why).into(),
        Unanswered::Failed(error) => error,
        Unanswered::Refused(problem) => {
            let message = format!("the API refuses: {}", problem.detail);
            match (problem.status, problem.code.as_str()) {
                (403, _) => Failure::refused(message).hint(
                    "give the secret that the cluster's first node gave: `--secret-file`, or `CBBOOTSTRAP_SECRET`",
                ),
                (409, "last_node") => Failure::refused(message).hint(
                    "the other members have not reported: run `cbbootstrap-agent up` on one of them, and this again",
                ),
                (409, _) => Failure::refused(message).hint("`cbbootstrap-agent status` shows both sides"),
                (404, _) => Failure::new(message)
                    .hint("is `--api` the endpoint that `cbbootstrap status` prints?"),
                _ => Failure::new(message).hint("`cbbootstrap-agent up --help` explains the options"),
            }
            .into()
        }
    }
}
