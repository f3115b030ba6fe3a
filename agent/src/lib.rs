//! `cbbootstrap-agent`: runs on each node of a new Couchbase cluster, asks the API which one is the first, and brings
//! the Couchbase Server beside it into the one cluster.
//!
//! - [`commands`]: `up`, `run`, `discover`, `leave`, `status`
//! - [`decision`]: the next step, decided without I/O
//! - [`server`]: a Couchbase Server; [`peers`]: those of other members, and how they are verified
//! - [`api`]: the API; [`record`]: its answers, validated
//! - [`aws`]: EC2 metadata, credentials, and the Auto Scaling group's lifecycle hook
//! - [`pauses`]: how long it waits before it tries again
//! - [`cli`], [`config`], [`settings`]: the options, the options file, and what a command builds from them
//!
//! A library, so that the simulation runs the same decisions and pauses.

pub mod api;
mod aws;
mod cli;
mod commands;
mod config;
pub mod decision;
pub mod http;
mod identity;
mod lock;
pub mod pauses;
mod peers;
mod printer;
pub mod record;
mod secret;
pub mod server;
mod settings;
mod values;

use cbbootstrap_cli::{command_line, completion::answer_shell, console::Console, exit::Exit};
use clap::CommandFactory;
use cli::Cli;
use printer::Printer;

pub fn run() -> Exit {
    answer_shell(Cli::command);
    let (Cli { command }, parsed) = match command_line::read(config::options) {
        Ok(read) => read,
        Err(error) => return Console::from_arguments().failure(&error),
    };
    let printer = Printer::new(command.output());
    commands::run(command, &printer).unwrap_or_else(|error| printer.failure(&parsed.explain(error)))
}
