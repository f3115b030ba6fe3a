//! `man-pages`: the manual, a page a command.

use std::path::Path;

use clap::CommandFactory;

use crate::{cli::Cli, failure::Failure, printer::Printer};

/// Writes the pages.
pub fn run(directory: &Path, printer: &Printer) -> anyhow::Result<()> {
    let cli = Cli::command();
    let pages = pages(&cli);
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(cli, directory))
        .map_err(|error| {
            Failure::new(format!("cannot write the manual to `{}`: {error}", directory.display()))
                .hint("name a directory that you may write to, or one that is not there yet")
        })?;
    printer.message(format_args!(
        "{pages} pages in `{}`; `man -l {}` shows the first",
        directory.display(),
        directory.join("cbbootstrap.1").display()
    ));
    Ok(())
}

/// One for the command, and one for each below it.
fn pages(command: &clap::Command) -> usize {
    1 + command.get_subcommands().map(pages).sum::<usize>()
}
