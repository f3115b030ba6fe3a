//! `cbbootstrap-agent`: runs on each node of a new Couchbase cluster, asks the bootstrap service who is the first, and brings
//! the Couchbase Server beside it into the one cluster.
//!
//! - [`commands`]: `up`, `discover`, `leave`, `status`
//! - [`decision`]: what to do next, from what was seen, with no I/O
//! - [`server`]: a Couchbase Server; [`peers`]: those of other members, and what vouches for them
//! - [`api`]: the bootstrap service; [`record`]: its answers, validated
//! - [`cli`], [`config`], [`settings`]: what was asked for

mod api;
mod aws;
mod cli;
mod commands;
mod config;
mod decision;
mod http;
mod identity;
mod lock;
mod peers;
mod printer;
mod record;
mod secret;
mod server;
mod settings;
mod values;

use cbbootstrap_cli::{
    console::Output,
    failure::{self, Exit},
};

fn main() -> Exit {
    let (command, variables) = match cli::read() {
        Ok(read) => read,
        Err(error) => return printer::Printer::new(Output::Text).failure(&error),
    };
    let printer = printer::Printer::new(command.output());
    match commands::run(command, &printer) {
        Ok(exit) => exit,
        Err(error) => printer.failure(&cli::naming(&variables, error)),
    }
}
