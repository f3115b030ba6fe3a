//! `cbbootstrap.yaml`: the environments of a project, and the options that each sets.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use cbbootstrap_cli::{
    command_line::Parsed,
    options_file::{self, Setting, check_keys, key_text},
    suggestion::did_you_mean,
    text,
};
use cbbootstrap_function::table::DEFAULT_TABLE_NAME;
use clap::{Args, Command, FromArgMatches, builder::Resettable};
use serde_yaml::{Mapping, Value};

use crate::{
    exit::Exit,
    failure::Failure,
    package::BuildArgs,
    settings::{DEFAULT_STACK_NAME, Target, WaitArgs},
    values::{Auth, NO_TOPICS},
};

/// The file that is read unless `--config` names another.
pub const FILE: &str = "cbbootstrap.yaml";

pub const SAMPLE: &str = include_str!("../../templates/cbbootstrap.yaml");

const FILE_KEYS: [&str; 2] = ["default_environment", "environments"];

/// Options that an environment cannot set: those that choose it.
const NOT_IN_FILES: [&str; 2] = ["environment", "config"];

/// An option of this prefix ranks below the environment variables of AWS. An environment sets it by the name without it.
const FALLBACK: &str = "fallback_";

const EXPECTED: &str = "define environments, such as `environments: {dev: {stack_name: NAME}}`; \
     `cbbootstrap init --config example.yaml` writes an example";

const EXAMPLE: &str = "`cbbootstrap init --config example.yaml` writes an example";

/// The options of the chosen environment; none if the command has no environments, or if there is no file.
pub fn options(_: &Command, parsed: &Parsed) -> anyhow::Result<Vec<Setting>> {
    // A URL that needs no signature needs no environment either, and no valid file.
    let is_for_url = parsed.value::<String>("url").is_some()
        && parsed.value::<Auth>("endpoint_auth") != Some(&Auth::Iam);
    if is_for_url || !parsed.takes("environment") {
        return Ok(Vec::new());
    }
    let named = parsed.value::<PathBuf>("config");
    let wanted = parsed.value::<String>("environment").map(String::as_str);
    let path = named.map_or(Path::new(FILE), PathBuf::as_path);
    let options = match text::read_text(path) {
        Ok(text) => File::parse(&text)
            .and_then(|file| {
                let default = file.default_environment.clone();
                let mut options = file.choose(wanted)?;
                // Results and hints name the environment.
                options.extend(default.filter(|_| wanted.is_none()).map(|name| Setting {
                    id: NOT_IN_FILES[0].to_owned(),
                    source: String::new(),
                    arguments: vec![format!("--env={name}").into()],
                    adds: false,
                }));
                Ok(options)
            })
            .map_err(|failure| failure.about(format_args!("`{}`", path.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => match wanted {
            None => Ok(Vec::new()),
            Some(name) => Err(Failure::new(format!(
                "cannot use environment `{name}`: there is no `{FILE}` in this directory"
            ))
            .hint("`cbbootstrap init` creates one; `--config FILE` selects another")),
        },
        Err(error) => Err(Failure::new(error.to_string())
            .hint("`--config FILE` selects another; `cbbootstrap init` creates one")),
    };
    let options = options.map_err(|failure| failure.exit(Exit::Usage))?;
    check_stack_and_table(parsed, &options)?;
    let name = path.display().to_string();
    Ok(options.into_iter().map(|option| option.of_file(&name)).collect())
}

pub fn environment_names(file: Option<&Path>) -> Option<Vec<String>> {
    let text = text::read_text(file.unwrap_or(Path::new(FILE))).ok()?;
    let environments = environments(&serde_yaml::from_str(&text).ok()?).ok()?;
    Some(environments.into_iter().map(|(name, _)| name).collect())
}

/// An environment is a stack with its table, and so are the two defaults. Another stack does not get that table unless the user
/// names it.
fn check_stack_and_table(parsed: &Parsed, environment: &[Setting]) -> Result<(), Failure> {
    if !parsed.takes("table_name")
        || parsed.is_set("table_name")
        || parsed.value("code_only") == Some(&true)
    {
        return Ok(());
    }
    let setting = |id: &str| {
        let option = environment.iter().find(|option| option.id == id)?;
        option.arguments.first()?.to_str()?.split_once('=').map(|(_, value)| value)
    };
    let own = setting("stack_name").unwrap_or(DEFAULT_STACK_NAME);
    let given = parsed.value::<String>("stack_name").filter(|_| parsed.is_set("stack_name"));
    let stack = given.map_or(own, String::as_str);
    let problem = match setting("table_name") {
        Some(table) if stack != own => Failure::usage(format!(
            "table `{table}` belongs to the environment's stack `{own}`, and `--stack-name` is `{stack}`"
        )),
        None if stack != DEFAULT_STACK_NAME => Failure::usage(format!(
            "stack `{stack}` does not use the default table, `{DEFAULT_TABLE_NAME}`, unless you name it"
        )),
        _ => return Ok(()),
    };
    Err(problem.hint(
        "pass the table of that stack with `--table-name`, or choose its environment with `--env`",
    ))
}

/// All that an environment can set: options of `deploy`.
fn environment_options() -> Command {
    let build = BuildArgs::augment_args(Command::new("build"));
    let arch = build.get_arguments().filter(|arg| arg.get_id() == "arch").cloned();
    let options = WaitArgs::augment_args(Target::augment_args(Command::new("environment")));
    // Only the file is read here, no variables.
    options.args(arch).mut_args(|arg| arg.env(Resettable::Reset))
}

fn keys(command: &Command) -> Vec<&str> {
    let ids = command.get_arguments().map(|arg| arg.get_id().as_str());
    ids.filter(|id| !NOT_IN_FILES.contains(id) && !id.starts_with(FALLBACK)).collect()
}

/// The whole file: the options of each environment.
#[derive(Debug)]
struct File {
    default_environment: Option<String>,
    environments: BTreeMap<String, Vec<Setting>>,
}

impl File {
    fn parse(text: &str) -> Result<Self, Failure> {
        let (file, written) = options_file::parse(text, EXAMPLE)?;
        let command = environment_options();
        let known = keys(&command);
        let mut options = BTreeMap::new();
        for (name, environment) in environments(&file)? {
            check_keys(&environment, &known, &format!(" in environment `{name}`"))?;
            let written = &written["environments"][name.as_str()];
            let read = read_environment(&command, &environment, written)
                .map_err(|failure| failure.about(format_args!("environment `{name}`")))?;
            options.insert(name, read);
        }
        let default_environment = match (&file[FILE_KEYS[0]], &written[FILE_KEYS[0]]) {
            (Value::Null, _) => None,
            (_, Value::String(name)) => Some(name.clone()),
            _ => return Err(Failure::new("`default_environment` must be a single value")),
        };
        let file = Self { default_environment, environments: options };
        if let Some(name) = &file.default_environment {
            file.has(name).map_err(|failure| failure.about("`default_environment`"))?;
        }
        Ok(file)
    }

    /// The environment of that name, or the default one. None is guessed, not even an only one: what is deployed where must
    /// not change because a second one is added.
    fn choose(mut self, wanted: Option<&str>) -> Result<Vec<Setting>, Failure> {
        let Some(name) = wanted.or(self.default_environment.as_deref()) else {
            return Err(Failure::new(format!(
                "no environment selected; the file has {}",
                self.names()
            ))
            .hint(
                "choose one with `--env NAME`, or with `default_environment: NAME` in the file",
            ));
        };
        self.has(name)?;
        Ok(self.environments.remove(name).unwrap_or_default())
    }

    fn has(&self, name: &str) -> Result<(), Failure> {
        if self.environments.contains_key(name) {
            return Ok(());
        }
        let known = format!("there are: {}", self.names());
        let names = self.environments.keys().map(String::as_str);
        let hint = did_you_mean(name, names).map(|question| format!("{question} {known}"));
        Err(Failure::new(format!("there is no environment `{name}`")).hint(hint.unwrap_or(known)))
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.environments.keys().map(String::as_str).collect();
        names.join(", ")
    }
}

/// The options that an environment sets, checked by the rules that they follow on the command line.
fn read_environment(
    command: &Command,
    settings: &Mapping,
    written: &Value,
) -> Result<Vec<Setting>, Failure> {
    let find = |id: &str| command.get_arguments().find(|arg| arg.get_id() == id);
    let mut options = Vec::new();
    for (key, value) in settings.iter().filter(|(_, value)| !value.is_null()) {
        let key = key_text(key)?;
        let Some(arg) = find(&format!("{FALLBACK}{key}")).or_else(|| find(key)) else {
            continue;
        };
        let is_empty = value.as_sequence().is_some_and(Vec::is_empty);
        let none = (is_empty && key == "notification_arns").then(|| Value::from(NO_TOPICS));
        let (value, written) =
            (none.as_ref().unwrap_or(value), none.as_ref().unwrap_or(&written[key]));
        let option = Setting::new(arg, value, written)
            .map_err(|rule| Failure::new(format!("`{key}` {rule}")).hint(EXAMPLE))?;
        option.check(command, key)?;
        options.push(option);
    }
    let name = OsString::from(command.get_name());
    let arguments = options.iter().flat_map(|option| &option.arguments);
    let target = command
        .clone()
        .try_get_matches_from([&name].into_iter().chain(arguments))
        .and_then(|matches| Target::from_arg_matches(&matches))
        .map_err(|error| Failure::new(error.to_string()))?;
    target.check_lists()?;
    Ok(options)
}

/// The environments by name, each with its settings.
fn environments(file: &Value) -> Result<Vec<(String, Mapping)>, Failure> {
    let file = mapping(file, "it")?.ok_or_else(|| Failure::new("it is empty").hint(EXPECTED))?;
    check_keys(file, &FILE_KEYS, "")?;
    let environments = match file.get("environments") {
        Some(environments) => mapping(environments, "`environments`")?,
        None => None,
    };
    let environments = environments
        .filter(|environments| !environments.is_empty())
        .ok_or_else(|| Failure::new("it defines no environments").hint(EXPECTED))?;
    let environment = |(name, environment): (&Value, &Value)| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        let name = key_text(name)?;
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(Failure::new(format!("`{name}` is not a valid environment name"))
                .hint("its name is letters, digits, hyphens and underscores"));
        }
        let settings = mapping(environment, &format!("environment `{name}`"))?;
        Ok((name.to_owned(), settings.cloned().unwrap_or_default()))
    };
    environments.iter().map(environment).collect()
}

/// A mapping; `None` if there is nothing.
fn mapping<'v>(value: &'v Value, what: &str) -> Result<Option<&'v Mapping>, Failure> {
    match value {
        Value::Null => Ok(None),
        Value::Mapping(mapping) => Ok(Some(mapping)),
        _ => Err(Failure::new(format!("{what} must contain `key: value` pairs")).hint(EXPECTED)),
    }
}

#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
