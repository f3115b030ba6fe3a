//! The commands, one file each.

mod clock;
mod discover;
mod leave;
mod rebalances;
mod status;
mod up;

use cbbootstrap_cli::failure::{Exit, Failure};
use cbbootstrap_protocol::names::Uuid;
use clap::CommandFactory;

use self::clock::{Attempt, Clock};
use crate::{
    api::{ApiError, Identity},
    cli::{Cli, Command},
    lock::Lock,
    printer::Printer,
    server::Server,
};

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
fn lock(server: &Server, clock: &Clock<'_>) -> anyhow::Result<Lock> {
    clock.repeat(|| {
        let lock = Lock::acquire(&server.url)?;
        Ok(lock.map_or_else(|| Attempt::wait("another agent works on this server"), Attempt::Done))
    })
}

/// Another server, with this UUID, is a healthy member under this node's name.
fn name_taken(identity: &Identity, uuid: &Uuid) -> Failure {
    let Identity { node, node_uuid } = identity;
    let own = node_uuid.as_ref().map_or("an unknown UUID", Uuid::as_str);
    Failure::refused(format!(
        "the cluster has a healthy member `{node}` whose server has the UUID {uuid}, and this server has {own}: two machines have the same name"
    ))
    .hint("give each machine its own `--node`")
}

/// A permanent error of the API, with its way out.
fn api_failure(error: ApiError) -> anyhow::Error {
    let problem = match error {
        ApiError::Temporary(why) => return Failure::new(why).into(),
        ApiError::Failed(error) => return error,
        ApiError::Refused(problem) => problem,
    };
    let (exit, hint) = match (problem.status, problem.code.as_str()) {
        (401 | 403, _) => (
            Exit::Refused,
            "give all nodes the same secret: `--secret-file`, or `CBBOOTSTRAP_SECRET`",
        ),
        (409, "last_node") => (
            Exit::Refused,
            "the other members have not reported: run `cbbootstrap-agent up` on one of them, and this again",
        ),
        (409, _) => (Exit::Refused, "`cbbootstrap-agent status` shows both sides"),
        (404, _) => (Exit::Failed, "is `--api` the endpoint that `cbbootstrap status` prints?"),
        _ => (Exit::Failed, "`cbbootstrap-agent up --help` explains the options"),
    };
    Failure::new(format!("the API refuses: {}", problem.detail)).exit(exit).hint(hint).into()
}
