//! The commands with which a program documents itself: completion scripts and manual pages.

use std::{fs, path::PathBuf};

use clap::{Command, Subcommand};
use clap_complete::Shell;

use crate::{console::Console, failure::Failure};

#[derive(Debug, Subcommand)]
pub enum ManualCommand {
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    ManPages {
        /// The directory to write them to
        directory: PathBuf,
    },
}

impl ManualCommand {
    /// Prints the script or writes the pages of a program.
    pub fn run(self, mut program: Command, console: &Console) -> anyhow::Result<()> {
        let name = program.get_name().to_owned();
        match self {
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut program, name, &mut script);
                console.line(String::from_utf8_lossy(&script).trim_end())?;
            }
            Self::ManPages { directory } => {
                let pages = count(&program);
                let shown = directory.display();
                fs::create_dir_all(&directory)
                    .and_then(|()| clap_mangen::generate_to(program, &directory))
                    .map_err(|error| {
                        Failure::new(format!("cannot write the manual to `{shown}`: {error}")).hint(
                            "name a directory that you can write to, or one that does not exist",
                        )
                    })?;
                let first = directory.join(format!("{name}.1"));
                console.message(format_args!(
                    "{pages} pages in `{shown}`; `man -l {}` shows the first",
                    first.display()
                ));
            }
        }
        Ok(())
    }
}

/// One page for the command, and one for each below it.
fn count(command: &Command) -> usize {
    1 + command.get_subcommands().map(count).sum::<usize>()
}
