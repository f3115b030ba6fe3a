//! `cbbootstrap`: deploys and operates the bootstrap service for Couchbase clusters.

mod advice;
mod aws;
mod cli;
mod commands;
mod config;
mod github;
mod leash;
mod lines;
mod local;
mod package;
mod permissions;
mod printer;
mod report;
mod settings;
mod signals;
mod smoke;
mod stack;
mod template;
mod values;

use cbbootstrap_cli::{
    command_line::Variables,
    failure::{self, Exit, Failure},
};

fn main() -> Exit {
    let (cli::Cli { command }, variables) = cli::Cli::read();
    let printer = printer::Printer::new(command.output());
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return printer.failure(&anyhow::Error::new(error).context("cannot start")),
    };
    let exit = match runtime.block_on(commands::run(command, &printer)) {
        Ok(exit) => exit,
        Err(error) => printer.failure(&naming(&variables, error)),
    };
    // A thread that still waits, for an answer to a question say, must not hold up the end.
    runtime.shutdown_background();
    exit
}

/// The error, with the variable's name if it is about the value of a variable.
fn naming(variables: &Variables, error: anyhow::Error) -> anyhow::Error {
    let is_usage = Failure::find_in(&error).is_some_and(|failure| failure.exit == Exit::Usage);
    match variables.named_by(&failure::one_line(&error)) {
        Some(variable) if is_usage => error.context(format!("`{variable}`")),
        _ => error,
    }
}
