//! `--config`: a YAML file with options. What it says is said as if on the command line, after what is given there and in the
//! environment, so that everything is checked in one place.

use std::path::PathBuf;

use cbbootstrap_cli::{files, suggestion::did_you_mean, text};
use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use serde_yaml::{Mapping, Value};

use crate::failure::Failure;

/// What a file may not hold: the commands' own switches, and itself.
const NOT_IN_FILES: [&str; 6] = ["help", "version", "config", "output", "format", "until_ready"];

/// The arguments that the file of these arguments adds to them.
pub fn arguments(cli: &Command, matches: &ArgMatches) -> anyhow::Result<Vec<String>> {
    let Some((name, matches)) = matches.subcommand() else {
        return Ok(Vec::new());
    };
    let Ok(Some(file)) = matches.try_get_one::<PathBuf>("config") else {
        return Ok(Vec::new());
    };
    let shown = file.display();
    files::check_trusted(file).map_err(Failure::from)?;
    let text = text::read_text(file).map_err(|error| {
        Failure::usage(error.to_string())
            .hint("`--config` is a YAML file with options, such as `cluster_id: NAME`")
    })?;
    let settings: Mapping = match serde_yaml::from_str(&text) {
        Ok(Value::Mapping(settings)) => settings,
        Ok(Value::Null) => Mapping::new(),
        Ok(_) => {
            return Err(Failure::usage(format!("`{shown}` holds no options"))
                .hint("give each a line, such as `cluster_id: NAME`")
                .into());
        }
        Err(error) => {
            return Err(Failure::usage(format!("`{shown}` is no valid YAML: {error}"))
                .hint("give each option a line, such as `cluster_id: NAME`")
                .into());
        }
    };
    let command = cli.find_subcommand(name).unwrap_or(cli);
    let mut arguments = Vec::new();
    for (key, value) in &settings {
        let key = match key {
            Value::String(key) => key.clone(),
            other => serde_yaml::to_string(other).unwrap_or_default(),
        };
        let key = key.trim();
        let Some(option) = option(command, key) else {
            // One file serves all commands.
            if cli.get_subcommands().any(|other| option(other, key).is_some()) {
                continue;
            }
            return Err(unknown(cli, &shown.to_string(), key).into());
        };
        let source = matches.value_source(option.get_id().as_str());
        if matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        arguments.extend(said(option, value).map_err(|why| {
            Failure::usage(format!("`{shown}`: `{key}` {why}"))
                .hint(format!("`cbbootstrap-agent {name} --help` says what it takes"))
        })?);
    }
    Ok(arguments)
}

fn option<'c>(command: &'c Command, key: &str) -> Option<&'c Arg> {
    command.get_arguments().filter(|arg| is_for_files(arg)).find(|arg| arg.get_id() == key)
}

fn is_for_files(arg: &Arg) -> bool {
    arg.get_long().is_some() && !NOT_IN_FILES.contains(&arg.get_id().as_str())
}

/// The arguments that give an option its value.
fn said(option: &Arg, value: &Value) -> Result<Vec<String>, &'static str> {
    let long = option.get_long().unwrap_or_default();
    if matches!(option.get_action(), ArgAction::SetTrue) {
        return match value {
            Value::Bool(true) => Ok(vec![format!("--{long}")]),
            Value::Bool(false) => Ok(Vec::new()),
            _ => Err("is `true` or `false`"),
        };
    }
    let one = |value: &Value| match value {
        Value::String(text) => Ok(format!("--{long}={text}")),
        // `1.10` would be 1.1.
        Value::Number(number) if !number.is_f64() => Ok(format!("--{long}={number}")),
        Value::Number(_) | Value::Bool(_) => Err("is a text: put it into quotes"),
        Value::Null => Err("has no value"),
        _ => Err("is one value"),
    };
    match value {
        Value::Sequence(values) if matches!(option.get_action(), ArgAction::Append) => {
            values.iter().map(one).collect()
        }
        Value::Sequence(values) if option.get_id() == "services" => {
            let names = values.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
            let names = names.ok_or("is a list of names")?;
            Ok(vec![format!("--{long}={}", names.join(","))])
        }
        value => one(value).map(|argument| vec![argument]),
    }
}

fn unknown(cli: &Command, file: &str, key: &str) -> Failure {
    let known = cli.get_subcommands().flat_map(Command::get_arguments);
    let known = known.filter(|arg| is_for_files(arg));
    let failure = Failure::usage(format!("`{file}`: there is no option `{key}`"));
    failure.hint(
        did_you_mean(key, known.map(|arg| arg.get_id().as_str()))
            .unwrap_or_else(|| "`cbbootstrap-agent up --help` lists them".to_owned()),
    )
}
