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

use std::{panic, process};

use anyhow::{Context, Error};
use cbbootstrap_cli::{
    command_line,
    completion::answer_shell,
    console::Console,
    environment,
    exit::{self, Exit},
    failure,
};
use cli::Cli;
use printer::Printer;
use tokio::runtime::Runtime;

fn main() -> Exit {
    abort_on_panic();
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

/// Ends the program at a panic in any thread, as the release profile does: a server without the thread that writes would seem healthy.
fn abort_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::abort();
    }));
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

#[cfg(test)]
mod tests {
    use std::{env, os::unix::process::ExitStatusExt, process::Command, thread};

    use super::*;

    #[test]
    fn a_panic_in_any_thread_ends_the_program() {
        const IS_CHILD: &str = "CBBOOTSTRAP_TEST_PANICS";
        if env::var_os(IS_CHILD).is_some() {
            abort_on_panic();
            let _ = thread::spawn(|| panic!("as a thread of the server")).join();
            return;
        }
        let mut child = Command::new(env::current_exe().unwrap());
        let ended = child.args(["--exact", "tests::a_panic_in_any_thread_ends_the_program"]);
        let ended = ended.env(IS_CHILD, "1").output().unwrap();
        let abort = 6;
        assert_eq!(ended.status.signal(), Some(abort), "{ended:?}");
    }
}
