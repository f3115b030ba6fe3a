//! The commands, one file each.

mod clock;
mod discover;
mod leave;
mod rebalances;
mod run;
mod status;
mod up;

use cbbootstrap_cli::{exit::Exit, failure::Failure};
use cbbootstrap_protocol::names::Uuid;
use clap::CommandFactory;

use self::clock::{Clock, Interrupt};
use crate::{
    api::Identity,
    cli::{Cli, Command},
    lock::{Lock, describe_holder},
    printer::Printer,
    server::Server,
};

pub fn run(command: Command, printer: &Printer) -> anyhow::Result<Exit> {
    match command {
        Command::Up(args) => up::run(*args, printer),
        Command::Run(args) => run::run(*args, printer),
        Command::Discover(args) => discover::run(args, printer),
        Command::Leave(args) => leave::run(args, printer),
        Command::Status(args) => status::run(args, printer),
        Command::Manual(command) => {
            command.run(Cli::command(), &[], printer)?;
            Ok(Exit::Done)
        }
    }
}

/// Waits for the server's lock, which another agent may hold.
fn lock(server: &Server, clock: &Clock<'_>) -> anyhow::Result<Lock> {
    clock.repeat(|| try_lock(server).map(Some))
}

fn try_lock(server: &Server) -> Result<Lock, Interrupt> {
    let lock = Lock::acquire(&server.url).map_err(|error| Interrupt::Fail(error.into()))?;
    lock.ok_or_else(|| Interrupt::wait(describe_holder(&server.url)))
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
