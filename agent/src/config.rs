//! `--config`: a YAML file with options for all commands.

use std::{collections::BTreeSet, path::PathBuf};

use cbbootstrap_cli::{
    command_line::Parsed,
    failure::Failure,
    files,
    options_file::{self, Setting, check_keys},
    text,
};
use clap::{Arg, Command};
use serde_yaml::{Mapping, Value};

/// What a file cannot set: itself, and what belongs to one call of a command.
const NOT_IN_FILES: [&str; 6] = ["help", "version", "config", "output", "format", "until_ready"];

const EXAMPLE: &str = "give each option a line, such as `cluster_id: NAME`";

/// The options in the file that `--config` names, for the command that is called.
pub fn options(cli: &Command, parsed: &Parsed) -> anyhow::Result<Vec<Setting>> {
    let Some(file) = parsed.value::<PathBuf>("config") else {
        return Ok(Vec::new());
    };
    files::check_trusted(file)?;
    let text = text::read_text(file).map_err(|error| {
        Failure::usage(error.to_string())
            .hint("`--config` names a YAML file with options, such as `cluster_id: NAME`")
    })?;
    let name = file.display().to_string();
    let options = parse(cli, parsed.called().0, &text)
        .map_err(|failure| failure.about(format_args!("`{name}`")))?;
    Ok(options.into_iter().map(|option| option.of_file(&name)).collect())
}

fn parse(cli: &Command, called: &str, text: &str) -> Result<Vec<Setting>, Failure> {
    let (file, written) = options_file::parse(text, EXAMPLE)?;
    let settings = match file {
        Value::Mapping(settings) => settings,
        Value::Null => Mapping::new(),
        _ => return Err(Failure::usage("it must contain `key: value` pairs").hint(EXAMPLE)),
    };
    let commands = cli.get_subcommands();
    let known: BTreeSet<_> =
        commands.flat_map(options_of).map(|arg| arg.get_id().as_str()).collect();
    let known: Vec<_> = known.into_iter().collect();
    check_keys(&settings, &known, "")?;
    let command = cli.find_subcommand(called).unwrap_or(cli);
    // One file serves all commands: each takes its own options.
    let settings =
        options_of(command).filter_map(|arg| Some((arg, settings.get(arg.get_id().as_str())?)));
    let option = |(arg, value): (&Arg, &Value)| {
        Setting::new(arg, value, &written[arg.get_id().as_str()]).map_err(|rule| {
            Failure::usage(format!("`{}` {rule}", arg.get_id()))
                .hint(format!("`cbbootstrap-agent {called} --help` describes it"))
        })
    };
    settings.map(option).collect()
}

fn options_of(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| arg.get_long().is_some() && !NOT_IN_FILES.contains(&arg.get_id().as_str()))
}
