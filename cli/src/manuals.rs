//! The commands with which a program documents itself: completion scripts and manual pages.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use clap::{Command, Subcommand, builder::Resettable};
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::{completion, console::Console, failure::Failure};

#[derive(Debug, Subcommand)]
pub enum ManualCommand {
    /// Print a completion script for a shell
    ///
    /// The script asks this program for candidates. Completion reads only files on this machine and never calls AWS.
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
    /// Prints the script or writes the pages of a program. `files` are its paths, and what they contain.
    pub fn run(
        self,
        mut program: Command,
        files: &[(&str, &str)],
        console: &Console,
    ) -> anyhow::Result<()> {
        match self {
            Self::Completions { shell } => {
                console.line(completion::script(&program, shell)?.trim_end())?;
            }
            Self::ManPages { directory } => {
                let shown = directory.display();
                program = program.disable_help_subcommand(true);
                program.build();
                let pages = fs::create_dir_all(&directory)
                    .and_then(|()| write_pages(&program, files, &directory))
                    .map_err(|error| {
                        Failure::new(format!("cannot write the manual to `{shown}`: {error}")).hint(
                            "pass a directory that you can write to, or one that does not exist",
                        )
                    })?;
                let first = directory.join(format!("{}.1", program.get_name()));
                console.message(format_args!(
                    "{pages} pages in `{shown}`; `man -l {}` shows the first",
                    first.display()
                ));
            }
        }
        Ok(())
    }
}

/// Writes a page for the command and for each below it. Returns their number.
fn write_pages(command: &Command, files: &[(&str, &str)], directory: &Path) -> io::Result<usize> {
    let below = command.get_subcommands().filter(|command| !command.is_hide_set());
    let below = below.map(|command| write_pages(command, files, directory));
    let number = below.sum::<io::Result<usize>>()?;
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut about = command.get_long_about().or(command.get_about()).cloned().unwrap_or_default();
    let mut sections = Roff::new();
    // `Examples:`, `Exit status:`, or a paragraph without a heading
    for part in help.split("\n\n") {
        let Some((heading, text)) = part.split_once(":\n") else {
            about = format!("{about}\n\n{part}").into();
            continue;
        };
        sections.control("SH", [heading.to_uppercase().as_str()]).control("nf", []);
        for line in text.lines() {
            sections.text([roman(line)]);
        }
        sections.control("fi", []);
    }
    let page = Man::new(command.clone().after_help(Resettable::Reset).long_about(about));
    let mut file = File::create(directory.join(page.get_filename()))?;
    page.render(&mut file)?;
    if !files.is_empty() {
        sections.control("SH", ["FILES"]);
        for (path, content) in files {
            sections.control("TP", []).text([bold(*path)]).text([roman(*content)]);
        }
    }
    sections.to_writer(&mut file)?;
    Ok(number + 1)
}
