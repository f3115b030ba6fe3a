//! Examples in the help of each command, and the files in the manual.

use clap::Command;

/// Sections by command, each as its help shows it.
const EXAMPLES: &str = include_str!("examples.txt");

/// The files that the program reads and writes: path, and content.
pub const FILES: [(&str, &str); 4] = [
    ("cbbootstrap.yaml", "Environments in the current directory; `--config` names another file."),
    ("~/.aws/config, ~/.aws/credentials", "Profiles of the AWS CLI."),
    (
        "~/.local/share/cbbootstrap",
        "The database of `serve` and `deploy --local`; `--data` names another directory.",
    ),
    ("bootstrap.zip", "The function, as `package` writes it."),
];

/// Adds examples to the help of a command and of those below it.
pub fn add(parent: &str, command: Command) -> Command {
    let name = format!("{parent} {}", command.get_name()).trim_start().to_owned();
    let command = command.mut_subcommands(|command| add(&name, command));
    match section(&name) {
        Some(examples) => command.after_help(format!("Examples:\n{examples}")),
        None => command,
    }
}

fn section(command: &str) -> Option<&'static str> {
    let (_, rest) = EXAMPLES.split_once(&format!("[{command}]\n"))?;
    Some(rest.split("\n[").next().unwrap_or_default().trim_end())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn leaves(command: &Command, parent: &str) -> Vec<(String, bool)> {
        let below = command.get_subcommands().filter(|command| command.get_name() != "help");
        let named = below.map(|command| (command, format!("{parent} {}", command.get_name())));
        named
            .flat_map(|(command, name)| {
                if command.has_subcommands() {
                    return leaves(command, &name);
                }
                vec![(name.trim_start().to_owned(), command.get_after_help().is_some())]
            })
            .collect()
    }

    #[test]
    fn every_command_has_examples() {
        let commands = leaves(&Cli::command(), "");
        assert!(commands.iter().all(|(_, has_examples)| *has_examples), "{commands:?}");
        let sections = EXAMPLES.lines().filter(|line| line.starts_with('[')).count();
        assert_eq!(commands.len(), sections, "each section is about a command");
    }

    #[test]
    fn every_example_is_valid() {
        for (command, _) in leaves(&Cli::command(), "") {
            let lines = section(&command).unwrap().lines().map(str::trim_start);
            for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
                assert!(line.starts_with(&format!("cbbootstrap {command}")), "{line}: {command}");
                let line = line.split(['|', '>']).next().unwrap();
                let parsed = Cli::command().try_get_matches_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }
}
