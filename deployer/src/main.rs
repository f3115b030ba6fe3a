//! `cbbootstrap`: deploys and operates the bootstrap service for Couchbase clusters.

mod advice;
mod aws;
mod build;
mod cli;
mod commands;
mod config;
mod failure;
mod github;
mod leash;
mod local;
mod permissions;
mod printer;
mod settings;
mod signals;
mod smoke;
mod stack;
mod template;

use failure::Exit;

fn main() -> Exit {
    let command = cli::Cli::read().command;
    let printer = printer::Printer::new(command.output());
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return printer.failure(&anyhow::Error::new(error).context("cannot start")),
    };
    let exit = match runtime.block_on(commands::run(command, &printer)) {
        Ok(exit) => exit,
        Err(error) => printer.failure(&error),
    };
    // A thread that still waits, for an answer to a question say, must not hold up the end.
    runtime.shutdown_background();
    exit
}
