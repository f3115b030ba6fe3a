//! The stack's template, which is part of this program.

use std::collections::BTreeMap;

use anyhow::Context;
use cbbootstrap_cli::suggestion::did_you_mean;
use serde::Deserialize;

use crate::{
    failure::{Exit, Failure},
    values::topic_arn,
};

pub const TEMPLATE: &str = include_str!("../../templates/stack.yaml");

/// The parameters that a deployment sets itself, and the options that choose their values.
const OURS: [(&str, &str); 7] = [
    ("ArtifactBucket", "`--bucket` names the bucket"),
    ("ArtifactKey", "`deploy` uploads the function there; `--function-zip` chooses it"),
    ("TableName", "`--table-name` names the table"),
    ("Architecture", "`--arch` chooses the processor"),
    ("AuthorizationType", "`--auth` chooses who may call the API"),
    ("RequireSecret", "`--require-secret` sets it"),
    ("RequireLease", "`--require-lease` sets it"),
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Declaration {
    r#type: String,
    /// A string even for a number.
    default: Option<String>,
    #[serde(default)]
    allowed_values: Vec<String>,
    min_value: Option<i64>,
    max_value: Option<i64>,
}

fn declarations() -> anyhow::Result<BTreeMap<String, Declaration>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Template {
        parameters: BTreeMap<String, Declaration>,
    }
    let template: Template = serde_yaml::from_str(TEMPLATE).context("cannot parse the template")?;
    Ok(template.parameters)
}

/// The value of every parameter: the deployment's own, else the user's, else the template's default.
///
/// None is left out, as CloudFormation would keep the old value of that one.
pub fn parameters<const N: usize>(
    ours: [(&str, String); N],
    users: &BTreeMap<String, String>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let defaults = declarations()?
        .into_iter()
        .filter_map(|(name, declaration)| Some((name, declaration.default?)));
    let users = users.clone().into_iter();
    let ours = ours.into_iter().map(|(name, value)| (name.to_owned(), value));
    Ok(defaults.chain(users).chain(ours).collect())
}

/// Checks the user's parameters, which CloudFormation would do only after the build.
pub fn check(users: &BTreeMap<String, String>) -> Result<(), Failure> {
    let declarations = declarations().map_err(|error| Failure::new(format!("{error:#}")))?;
    for (name, value) in users {
        check_one(&declarations, name, value).map_err(|failure| failure.exit(Exit::Usage))?;
    }
    Ok(())
}

fn check_one(
    declarations: &BTreeMap<String, Declaration>,
    name: &str,
    value: &str,
) -> Result<(), Failure> {
    if let Some((_, hint)) = OURS.iter().find(|(ours, _)| *ours == name) {
        let message = format!("`{name}` is not set as a parameter of the template");
        return Err(Failure::new(message).hint(*hint));
    }
    let Some(declaration) = declarations.get(name) else {
        let known = || {
            declarations
                .keys()
                .map(String::as_str)
                .filter(|known| OURS.iter().all(|(ours, _)| ours != known))
        };
        let hint = did_you_mean(name, known())
            .unwrap_or_else(|| format!("there are: {}", known().collect::<Vec<_>>().join(", ")));
        return Err(Failure::new(format!("the template has no parameter `{name}`")).hint(hint));
    };
    let broken_rule = match name {
        // The only one with a pattern.
        "AlarmTopicArn" if !value.is_empty() => topic_arn(value).err(),
        _ => declaration.broken_rule(value),
    };
    match broken_rule {
        Some(rule) => {
            Err(Failure::new(format!("parameter `{name}` cannot be `{value}`")).hint(rule))
        }
        None => Ok(()),
    }
}

impl Declaration {
    /// What the value must be, if it is not.
    fn broken_rule(&self, value: &str) -> Option<String> {
        if !self.allowed_values.is_empty() {
            let allowed = self.allowed_values.iter().any(|allowed| allowed == value);
            return (!allowed)
                .then(|| format!("it must be one of: {}", self.allowed_values.join(", ")));
        }
        if self.r#type != "Number" {
            return None;
        }
        let (min, max) = (self.min_value.unwrap_or(i64::MIN), self.max_value.unwrap_or(i64::MAX));
        // CloudFormation accepts fractions, but none of these parameters is one.
        let good = value.parse::<i64>().is_ok_and(|number| (min..=max).contains(&number));
        (!good).then(|| match (self.min_value, self.max_value) {
            (Some(min), Some(max)) => format!("it must be a whole number from {min} to {max}"),
            (Some(min), None) => format!("it must be a whole number, at least {min}"),
            (None, Some(max)) => format!("it must be a whole number, at most {max}"),
            (None, None) => "it must be a whole number".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn every_parameter_has_a_value() {
        let ours = [("ArtifactKey", "k".to_owned()), ("TableName", "t".to_owned())];
        let parameters = parameters(ours, &users("LogLevel", "debug")).unwrap();
        let value = |name| parameters.get(name).map(String::as_str);
        assert_eq!(value("ArtifactKey"), Some("k"));
        assert_eq!(value("TableName"), Some("t"), "a value beats the default");
        assert_eq!(value("LogLevel"), Some("debug"), "so does the user's value");
        assert_eq!(value("MemorySize"), Some("256"), "a number is a string");
        assert_eq!(value("ArtifactBucket"), None, "it has no default");
    }

    #[test]
    fn our_parameters_are_declared() {
        let declarations = declarations().unwrap();
        for (name, _) in OURS {
            assert!(declarations.contains_key(name), "{name}");
        }
    }

    #[track_caller]
    fn assert_refused(name: &str, value: &str, message: &str, hint: &str) {
        let failure = check(&users(name, value)).unwrap_err();
        let text = failure.hint.as_deref().unwrap_or_default();
        assert!(failure.to_string().contains(message), "{name}={value}: {failure}");
        assert!(text.contains(hint), "{name}={value}: {text}");
        assert_eq!(failure.exit, Exit::Usage, "{name}={value}");
    }

    #[test]
    fn invalid_parameters_are_refused() {
        for (name, value, message, hint) in [
            ("Memory", "512", "no parameter `Memory`", "did you mean `MemorySize`?"),
            ("logLevel", "info", "no parameter `logLevel`", "did you mean `LogLevel`?"),
            (
                "Quorum",
                "3",
                "no parameter `Quorum`",
                "there are: AlarmTopicArn, LogLevel, LogRetentionDays, ",
            ),
            ("TableName", "t", "`TableName` is not set as", "`--table-name`"),
            ("Architecture", "arm64", "`Architecture` is not set as", "`--arch`"),
            ("AuthorizationType", "AWS_IAM", "`AuthorizationType` is not set as", "`--auth`"),
            ("ArtifactBucket", "b", "`ArtifactBucket` is not set as", "`--bucket`"),
            ("ArtifactKey", "k", "`ArtifactKey` is not set as", "`--function-zip`"),
            ("MemorySize", "lots", "`MemorySize` cannot be `lots`", "number from 128 to 10240"),
            ("MemorySize", "127", "`MemorySize` cannot be `127`", "from 128 to 10240"),
            ("MemorySize", "10241", "`MemorySize` cannot be `10241`", "from 128 to 10240"),
            ("MemorySize", "512.5", "`MemorySize` cannot be `512.5`", "whole number"),
            ("MemorySize", "", "`MemorySize` cannot be ``", "whole number"),
            ("ThrottlingRateLimit", "0", "cannot be `0`", "at least 1"),
            (
                "LogLevel",
                "verbose",
                "`LogLevel` cannot be `verbose`",
                "error, warn, info, debug, trace",
            ),
            ("LogRetentionDays", "2", "`LogRetentionDays` cannot be `2`", "1, 3, 5"),
            ("AlarmTopicArn", "me", "cannot be `me`", "arn:aws:sns:"),
        ] {
            assert_refused(name, value, message, hint);
        }
    }

    #[test]
    fn valid_parameters_are_accepted() {
        for (name, value) in [
            ("MemorySize", "128"),
            ("MemorySize", "10240"),
            ("ThrottlingBurstLimit", "100000"),
            ("LogLevel", "trace"),
            ("LogRetentionDays", "7"),
            ("AlarmTopicArn", ""),
            ("AlarmTopicArn", "arn:aws:sns:eu-central-1:123456789012:alarms"),
        ] {
            assert!(check(&users(name, value)).is_ok(), "{name}={value}");
        }
        assert!(check(&BTreeMap::new()).is_ok());
    }
}
