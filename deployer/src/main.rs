//! `cbbootstrap`: deploys and operates the API for Couchbase clusters.
//!
//! - [`cli`], [`config`], [`settings`], [`values`]: the options, those of `cbbootstrap.yaml`, and the resulting settings;
//!   [`completion`] of their values in a shell
//! - [`commands`]: a file for each command; [`examples`] of each
//! - [`deployment`]: deploys and removes a stack; [`stack`] decides, [`aws`] calls; [`network`] is their HTTP client
//! - [`package`]: builds and checks the function; [`template`], [`permissions`]: what is deployed, and what that needs
//! - [`smoke`]: tests an endpoint; [`local`]: serves one
//! - [`printer`], [`prompt`], [`origin`], [`fields`], [`links`], [`lines`], [`github`]: progress, questions and results
//! - [`signals`], [`leash`]: how a command and its child processes end; [`advice`], [`causes`]: errors explained

mod advice;
mod aws;
mod causes;
mod cli;
mod commands;
mod completion;
mod config;
mod deployment;
mod domain;
mod examples;
mod fields;
mod github;
mod leash;
mod lines;
mod links;
mod local;
mod network;
mod origin;
mod package;
mod permissions;
mod printer;
mod prompt;
mod settings;
mod signals;
mod smoke;
mod stack;
mod template;
mod values;

use anyhow::{Context, Error};
use cbbootstrap_cli::{
    command_line,
    completion::answer_shell,
    console::Console,
    environment,
    failure::{self, Exit},
};
use cli::Cli;
use printer::Printer;
use tokio::runtime::Runtime;

fn main() -> Exit {
    answer_shell(completion::program);
    if let Err(error) = environment::restart_if_unclean(is_read_by_libraries) {
        let error = Error::new(error).context("cannot restart with cleaned variables");
        return Console::default().failure(&error);
    }
    let (Cli { command, color }, parsed) = match command_line::read(config::options) {
        Ok(read) => read,
        Err(error) => return fail(&Console::from_arguments(), &error),
    };
    color.apply();
    let printer = Printer::new(parsed.value("output").copied().unwrap_or_default());
    let run = Runtime::new().context("cannot start").and_then(|runtime| {
        let exit = runtime.block_on(commands::run(command, &printer, signals::listen()?));
        // A thread that still waits, for an answer to a question for example, must not delay the end.
        runtime.shutdown_background();
        exit
    });
    run.unwrap_or_else(|error: Error| fail(&printer, &parsed.explain(error)))
}

/// Prints the error that ends the program.
fn fail(console: &Console, error: &Error) -> Exit {
    let exit = console.failure(error);
    github::annotate(console, error);
    exit
}

/// Whether the AWS SDK or rustls may read a variable.
fn is_read_by_libraries(name: &str) -> bool {
    ["AWS_", "SSL_CERT_"].iter().any(|prefix| name.starts_with(prefix))
}
