//! Options that a YAML file sets: each becomes arguments, which clap validates like typed ones.

use std::{error::Error as _, ffi::OsString};

use clap::{
    Arg, ArgAction, Command,
    error::{ContextKind, ContextValue, Error},
};
use serde_yaml::{Mapping, Value};

use crate::{failure::Failure, suggestion::did_you_mean};

/// An option that a variable or a file sets.
#[derive(Clone, Debug)]
pub struct Setting {
    pub id: String,
    /// `env: NAME` or `file: NAME`, for messages.
    pub source: String,
    pub arguments: Vec<OsString>,
    /// Whether values on the command line are added to these instead of replacing them.
    pub adds: bool,
}

impl Setting {
    /// The option that sets this key of a file to this value. The error continues a sentence whose subject is the key.
    pub fn new(arg: &Arg, value: &Value) -> Result<Self, &'static str> {
        Ok(Self {
            id: arg.get_id().to_string(),
            source: String::new(),
            arguments: arguments(arg, value)?.into_iter().map(OsString::from).collect(),
            adds: value.is_mapping(),
        })
    }

    #[must_use]
    pub fn of_file(self, name: &str) -> Self {
        Self { source: format!("file: {name}"), ..self }
    }

    /// Checks the value of a key by the rules of its option in `command`.
    pub fn check(&self, command: &Command, key: &str) -> Result<(), Failure> {
        let name = OsString::from(command.get_name());
        let arguments = [&name].into_iter().chain(&self.arguments);
        let Err(error) = command.clone().try_get_matches_from(arguments) else {
            return Ok(());
        };
        let value = match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => value.as_str(),
            _ => "",
        };
        Err(Failure::usage(format!("`{key}` cannot be `{value}`")).hint(rule(&error)))
    }
}

/// Refuses YAML's merge keys (`<<: *NAME`), which would be read as keys of that name, wherever they are in a file.
pub fn refuse_merge_keys(value: &Value) -> Result<(), Failure> {
    match value {
        Value::Sequence(values) => values.iter().try_for_each(refuse_merge_keys),
        Value::Mapping(mapping) if mapping.contains_key("<<") => Err(Failure::usage(
            "merge keys (`<<`) are not supported",
        )
        .hint("write the keys out, or use an alias for a whole value, such as `KEY: *NAME`")),
        Value::Mapping(mapping) => mapping.values().try_for_each(refuse_merge_keys),
        _ => Ok(()),
    }
}

/// `place` follows an unknown key in the message.
pub fn check_keys(mapping: &Mapping, known: &[&str], place: &str) -> Result<(), Failure> {
    for key in mapping.keys() {
        let key = key_text(key)?;
        if !known.contains(&key) {
            let hint = did_you_mean(key, known.iter().copied())
                .unwrap_or_else(|| format!("the keys are: {}", known.join(", ")));
            return Err(Failure::usage(format!("unknown key `{key}`{place}")).hint(hint));
        }
    }
    Ok(())
}

pub fn key_text(key: &Value) -> Result<&str, Failure> {
    key.as_str().ok_or_else(|| {
        let shown = serde_yaml::to_string(key).unwrap_or_default();
        Failure::usage(format!("key `{}` must be a string", shown.trim())).hint("put it in quotes")
    })
}

/// The rule that clap applied to a wrong value.
fn rule(error: &Error) -> String {
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => format!("possible values: {}", values.join(", ")),
        _ => error.source().map_or_else(|| error.kind().to_string(), ToString::to_string),
    }
}

fn arguments(arg: &Arg, value: &Value) -> Result<Vec<String>, &'static str> {
    let long = arg.get_long().unwrap_or_default();
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return match value {
            Value::Bool(true) => Ok(vec![format!("--{long}")]),
            Value::Bool(false) => Ok(Vec::new()),
            _ => Err("must be `true` or `false`"),
        };
    }
    // As in `NAME=VALUE` and `NAME,...`.
    let value_has = |part: char| {
        arg.get_value_names().unwrap_or_default().iter().any(|name| name.contains(part))
    };
    let one = |value: &Value| match value {
        Value::String(text) => Ok(format!("--{long}={text}")),
        // `1.10` would be 1.1.
        Value::Number(number) if !number.is_f64() => Ok(format!("--{long}={number}")),
        Value::Bool(yes)
            if arg.get_possible_values().iter().any(|value| value.matches("true", false)) =>
        {
            Ok(format!("--{long}={yes}"))
        }
        Value::Number(_) | Value::Bool(_) => Err("must be a string: put it in quotes"),
        Value::Null => Err("must have a value"),
        _ => Err("must be a single value"),
    };
    match value {
        Value::Sequence(values) if matches!(arg.get_action(), ArgAction::Append) => {
            values.iter().map(one).collect()
        }
        Value::Sequence(values) if value_has(',') => {
            let names = values.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
            let names = names.ok_or("must be a list of names")?;
            Ok(vec![format!("--{long}={}", names.join(","))])
        }
        Value::Mapping(pairs) if value_has('=') => {
            let pair = |(key, value): (&Value, &Value)| {
                let pair = key.as_str().zip(value.as_str());
                let (key, value) = pair.ok_or("must map strings to strings")?;
                Ok(format!("--{long}={key}={value}"))
            };
            pairs.iter().map(pair).collect()
        }
        value => one(value).map(|argument| vec![argument]),
    }
}
