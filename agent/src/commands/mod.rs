//! The commands, one file each.

mod clock;
mod discover;
mod leave;
mod rebalances;
mod status;
mod up;

use clap::CommandFactory;

use self::clock::{Clock, Wait};
use crate::{
    api::Unanswered,
    cli::{Cli, Command},
    failure::{Exit, Failure},
    lock::Lock,
    printer::Printer,
    server::Server,
};

/// Does what was asked for.
pub fn run(command: Command, printer: &Printer) -> anyhow::Result<Exit> {
    match command {
        Command::Up(args) => up::run(*args, printer),
        Command::Discover(args) => discover::run(args, printer),
        Command::Leave(args) => leave::run(args, printer),
        Command::Status(args) => status::run(args, printer),
        Command::Manual(command) => {
            command.run(Cli::command(), printer)?;
            Ok(Exit::Done)
        }
    }
}

/// Waits for the server's lock, which another agent may hold.
fn lock(server: &Server, clock: &Clock, printer: &Printer) -> anyhow::Result<Lock> {
    loop {
        if let Some(lock) = Lock::take(&server.url)? {
            return Ok(lock);
        }
        clock.pause(printer, &Wait::new("another agent works on this server"))?;
    }
}

/// What the API refuses for good, as the end of the program.
fn refused(error: Unanswered) -> anyhow::Error {
    match error {
        Unanswered::Later(why) => Failure::new(why).into(),
        Unanswered::Failed(error) => error,
        Unanswered::Refused(problem) => {
            let message = format!("the API refuses: {}", problem.detail);
            match (problem.status, problem.code.as_str()) {
                (401 | 403, _) => Failure::refused(message).hint(
                    "give all nodes the same secret: `--secret-file`, or `CBBOOTSTRAP_SECRET`",
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
