//! Options that a YAML file sets: each becomes arguments, which clap validates like typed ones.

use std::{
    error::Error as _,
    ffi::OsString,
    fmt::{self, Formatter},
};

use clap::{
    Arg, ArgAction, Command,
    error::{ContextKind, ContextValue, Error},
};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
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
    pub fn new(arg: &Arg, value: &Value, written: &Value) -> Result<Self, &'static str> {
        let arguments = arguments(arg, value, written)?;
        Ok(Self {
            id: arg.get_id().to_string(),
            source: String::new(),
            arguments: arguments.into_iter().map(OsString::from).collect(),
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

/// Reads a file: its values, and the same ones with each scalar as it is written, because the number `0x10` would be 16, and `1.10`
/// would be 1.1. `example` is the hint of an error. Duplicate keys are errors.
pub fn parse(text: &str, example: &str) -> Result<(Value, Value), Failure> {
    let invalid = |error: serde_yaml::Error| {
        let message = match error.location() {
            // The message omits the first position.
            Some(place) if place.index() == 0 => format!("{error} at line 1 column 1"),
            _ => error.to_string(),
        };
        // The largest number has 64 bits.
        let is_number = message.contains("128, expected any YAML value");
        let hint = if is_number { "put the number in quotes" } else { example };
        Failure::usage(format!("invalid YAML: {message}")).hint(hint)
    };
    let file: Value = serde_yaml::from_str(text).map_err(invalid)?;
    refuse_merge_keys(&file)?;
    if !file.is_mapping() {
        return Ok((file, Value::Null));
    }
    let parser = serde_yaml::Deserializer::from_str(text);
    let written = AsWritten(&file).deserialize(parser).map_err(invalid)?;
    Ok((file, written))
}

/// Reads values of this structure with each scalar as it is written.
struct AsWritten<'v>(&'v Value);

impl<'de> DeserializeSeed<'de> for AsWritten<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Value, D::Error> {
        match self.0 {
            Value::Sequence(_) => parser.deserialize_seq(self),
            Value::Mapping(_) => parser.deserialize_map(self),
            // No option takes one.
            Value::Tagged(_) => IgnoredAny::deserialize(parser).map(|_| Value::Null),
            _ => String::deserialize(parser).map(Value::String),
        }
    }
}

impl<'de> Visitor<'de> for AsWritten<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str("the same YAML value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut written = Vec::new();
        for value in self.0.as_sequence().into_iter().flatten() {
            written.extend(elements.next_element_seed(AsWritten(value))?);
        }
        Ok(written.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
        let mut written = Mapping::new();
        for (key, value) in self.0.as_mapping().into_iter().flatten() {
            let key = pairs.next_key_seed(AsWritten(key))?;
            written.extend(key.zip(Some(pairs.next_value_seed(AsWritten(value))?)));
        }
        Ok(written.into())
    }
}

/// Refuses YAML's merge keys (`<<: *NAME`), which would be read as keys of that name, wherever they are in a file.
fn refuse_merge_keys(value: &Value) -> Result<(), Failure> {
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

fn arguments(arg: &Arg, value: &Value, written: &Value) -> Result<Vec<String>, &'static str> {
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
    let one = |(value, written): (&Value, &Value)| match (value, written.as_str()) {
        (Value::String(_) | Value::Number(_), Some(text)) => Ok(format!("--{long}={text}")),
        (Value::Bool(yes), _)
            if arg.get_possible_values().iter().any(|value| value.matches("true", false)) =>
        {
            Ok(format!("--{long}={yes}"))
        }
        (Value::Bool(_), _) => Err("must be a string: put it in quotes"),
        (Value::Null, _) => Err("must have a value"),
        _ => Err("must be a single value"),
    };
    match (value, written) {
        (Value::Sequence(values), Value::Sequence(written))
            if matches!(arg.get_action(), ArgAction::Append) =>
        {
            values.iter().zip(written).map(one).collect()
        }
        (Value::Sequence(values), _) if value_has(',') => {
            let names = values.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
            let names = names.ok_or("must be a list of names")?;
            Ok(vec![format!("--{long}={}", names.join(","))])
        }
        (_, Value::Mapping(pairs)) if value_has('=') => {
            let pair = |(key, value): (&Value, &Value)| {
                let pair = key.as_str().zip(value.as_str());
                let (key, value) = pair.ok_or("must map strings to strings")?;
                Ok(format!("--{long}={key}={value}"))
            };
            pairs.iter().map(pair).collect()
        }
        pair => one(pair).map(|argument| vec![argument]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of the option that a file with this one value sets.
    fn read(arg: &Arg, value: &str) -> Result<String, String> {
        let (file, written) =
            parse(&format!("option: {value}"), "").map_err(|failure| failure.hint.unwrap())?;
        let setting = Setting::new(arg, &file["option"], &written["option"])?;
        let values = setting.arguments.iter().map(|argument| argument.to_str().unwrap());
        let values = values.map(|argument| argument.strip_prefix("--option=").unwrap());
        Ok(values.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn numbers_are_text_as_they_are_written() {
        let one = Arg::new("option").long("option");
        for text in [
            "0x10",
            "0o17",
            "0b11",
            "+5",
            "-0x1",
            "007",
            "1_000",
            "10",
            "-3",
            "1e3",
            "1.10",
            ".5",
            "5.",
            ".inf",
            ".nan",
            "2026-01-02",
            "12:30:00",
            "yes",
            "0x",
            "18446744073709551615",
        ] {
            assert_eq!(read(&one, text).as_deref(), Ok(text));
            assert_eq!(read(&one, &format!("'{text}'")).as_deref(), Ok(text));
        }
        for (text, rule) in [
            ("null", "must have a value"),
            ("~", "must have a value"),
            ("", "must have a value"),
            ("true", "must be a string: put it in quotes"),
            ("False", "must be a string: put it in quotes"),
            ("[1]", "must be a single value"),
            ("[[1], {a: 2}]", "must be a single value"),
            // A template's expression.
            ("{{ cluster }}", "must be a single value"),
            ("{[a]: !x b, !y [c]: d}", "must be a single value"),
            ("18446744073709551616", "put the number in quotes"),
            ("-123456789012345678901234", "put the number in quotes"),
        ] {
            assert_eq!(read(&one, text).unwrap_err(), rule, "{text}");
        }
        let many = one.clone().action(ArgAction::Append);
        assert_eq!(read(&many, "[0x10, a, &b 1.0, *b]").as_deref(), Ok("0x10 a 1.0 1.0"));
        let pairs = many.value_name("NAME=VALUE");
        let expected = "0x1=1.10 a=true b=~ c=0x1";
        assert_eq!(read(&pairs, "{&k 0x1: 1.10, a: true, b: ~, c: *k}").as_deref(), Ok(expected));
    }
}
