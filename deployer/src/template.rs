//! The templates, which are part of this program.

use std::{collections::BTreeMap, fmt::Display};

use anyhow::Context;
use cbbootstrap_cli::{failure::Problems, suggestion::did_you_mean};
use regex_lite::Regex;
use serde::Deserialize;

use crate::{failure::Failure, values::TOPIC_ARN};

/// The API's.
pub const TEMPLATE: &str = include_str!("../../templates/stack.yaml");

/// A Couchbase cluster's.
pub const CLUSTER_TEMPLATE: &str = include_str!("../../templates/couchbase-cluster.yaml");

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Declaration {
    r#type: String,
    pub description: Option<String>,
    /// A string even for a number.
    default: Option<String>,
    #[serde(default)]
    pub allowed_values: Vec<String>,
    min_value: Option<i64>,
    max_value: Option<i64>,
    min_length: Option<usize>,
    max_length: Option<usize>,
    allowed_pattern: Option<String>,
    /// What the value must be, as a predicate.
    constraint_description: Option<String>,
    #[serde(default)]
    no_echo: bool,
}

fn declarations(template: &str) -> anyhow::Result<BTreeMap<String, Declaration>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Template {
        parameters: BTreeMap<String, Declaration>,
    }
    let template: Template = serde_yaml::from_str(template).context("cannot parse the template")?;
    Ok(template.parameters)
}

/// The parameters that users set, without those of options.
pub fn free_declarations(
    template: &str,
    has_option: &[(&str, &str)],
) -> anyhow::Result<BTreeMap<String, Declaration>> {
    let mut declarations = declarations(template)?;
    declarations.retain(|name, _| has_option.iter().all(|(parameter, _)| parameter != name));
    Ok(declarations)
}

/// The default of every parameter that has one. A deployment sets all of them, as CloudFormation would otherwise keep old values.
pub fn defaults(template: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let declarations = declarations(template)?.into_iter();
    Ok(declarations.filter_map(|(name, declaration)| Some((name, declaration.default?))).collect())
}

/// Checks the user's parameters, which CloudFormation would do only after the upload. Those of `has_option` are set by options.
pub fn check(
    template: &str,
    users: &BTreeMap<String, String>,
    has_option: &[(&str, &str)],
) -> Result<(), Failure> {
    let declarations = free_declarations(template, has_option)
        .map_err(|error| Failure::usage(format!("{error:#}")))?;
    let mut problems = Problems::default();
    for (name, value) in users {
        problems.keep(check_parameter(&declarations, name, value, has_option));
    }
    problems.report()
}

fn check_parameter(
    declarations: &BTreeMap<String, Declaration>,
    name: &str,
    value: &str,
    has_option: &[(&str, &str)],
) -> Result<(), Failure> {
    if let Some((_, option)) = has_option.iter().find(|(parameter, _)| *parameter == name) {
        let message = format!("parameter `{name}` has its own option");
        return Err(Failure::usage(message).hint(format!("`{option}` sets it")));
    }
    let Some(declaration) = declarations.get(name) else {
        let known = || declarations.keys().map(String::as_str);
        let hint = did_you_mean(name, known()).unwrap_or_else(|| {
            format!("the parameters are: {}", known().collect::<Vec<_>>().join(", "))
        });
        let message = format!("the template has no parameter `{name}`");
        return Err(Failure::usage(message).hint(hint));
    };
    let broken_rule = match name {
        "AlarmTopicArn" if !value.is_empty() => TOPIC_ARN.check(value).err(),
        _ => declaration.broken_rule(value).map(|rule| format!("`{name}` {rule}")),
    };
    let Some(rule) = broken_rule else {
        return Ok(());
    };
    let value = if declaration.no_echo { "this value".to_owned() } else { format!("`{value}`") };
    Err(Failure::usage(format!("parameter `{name}` cannot be {value}")).hint(rule))
}

impl Declaration {
    /// What the value must be, if it is not.
    fn broken_rule(&self, value: &str) -> Option<String> {
        let rule = self.broken_constraint(value)?;
        Some(self.constraint_description.clone().unwrap_or(rule))
    }

    fn broken_constraint(&self, value: &str) -> Option<String> {
        let allowed = &self.allowed_values;
        if !allowed.is_empty() && !allowed.iter().any(|allowed| allowed == value) {
            return Some(format!("must be one of: {}", allowed.join(", ")));
        }
        if self.r#type == "Number" {
            let range = self.min_value.unwrap_or(i64::MIN)..=self.max_value.unwrap_or(i64::MAX);
            // CloudFormation accepts fractions, but none of these parameters is one.
            let is_good = value.parse().is_ok_and(|number| range.contains(&number));
            let range = describe_range(self.min_value, self.max_value);
            return (!is_good).then(|| format!("must be a whole number{range}"));
        }
        let length = self.min_length.unwrap_or(0)..=self.max_length.unwrap_or(usize::MAX);
        if !length.contains(&value.chars().count()) {
            let range = describe_range(self.min_length, self.max_length);
            return Some(format!("must have a number of characters{range}"));
        }
        let pattern = self.allowed_pattern.as_ref()?;
        // A pattern that this library cannot read is left to CloudFormation.
        let is_good = Regex::new(&format!("^(?:{pattern})$")).map_or(true, |it| it.is_match(value));
        (!is_good).then(|| format!("must match `{pattern}`"))
    }
}

fn describe_range<T: Display>(min: Option<T>, max: Option<T>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!(" from {min} to {max}"),
        (Some(min), None) => format!(", at least {min}"),
        (None, Some(max)) => format!(", at most {max}"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn users(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    const HAS_OPTION: [(&str, &str); 13] = [
        ("ArtifactBucket", "--bucket"),
        ("ArtifactKey", "--function-zip"),
        ("TableName", "--table-name"),
        ("Architecture", "--arch"),
        ("AuthorizationType", "--auth"),
        ("RequireSecret", "--require-secret"),
        ("RequireLease", "--require-lease"),
        ("PermissionsBoundary", "--permissions-boundary"),
        ("KmsKeyArn", "--kms-key"),
        ("DomainName", "--domain"),
        ("CertificateArn", "--certificate-arn"),
        ("BasePath", "--base-path"),
        ("HostedZoneId", "--hosted-zone"),
    ];

    #[track_caller]
    fn assert_refused(name: &str, value: &str, message: &str, hint: &str) {
        let failure = check(TEMPLATE, &users(name, value), &HAS_OPTION).unwrap_err();
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
                "the parameters are: AlarmTopicArn, HideDocs, LogLevel, LogRetentionDays, ",
            ),
            ("TableName", "t", "`TableName` has its own option", "`--table-name`"),
            ("Architecture", "arm64", "`Architecture` has its own option", "`--arch`"),
            ("AuthorizationType", "AWS_IAM", "`AuthorizationType` has its own option", "`--auth`"),
            ("ArtifactBucket", "b", "`ArtifactBucket` has its own option", "`--bucket`"),
            ("ArtifactKey", "k", "`ArtifactKey` has its own option", "`--function-zip`"),
            ("KmsKeyArn", "k", "`KmsKeyArn` has its own option", "`--kms-key`"),
            ("PermissionsBoundary", "b", "has its own option", "`--permissions-boundary`"),
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
            ("ReservedConcurrency", "-1", "cannot be `-1`", "whole number, or empty"),
            ("ReservedConcurrency", "few", "cannot be `few`", "whole number, or empty"),
            ("RequestAlarmThreshold", "-1", "cannot be `-1`", "at least 0"),
            ("LogRetentionDays", "2", "`LogRetentionDays` cannot be `2`", "1, 3, 5"),
            ("AlarmTopicArn", "me", "cannot be `me`", "arn:aws:sns:"),
        ] {
            assert_refused(name, value, message, hint);
        }
    }

    #[test]
    fn every_constraint_is_checked_and_all_problems_are_reported() {
        let template = "
Parameters:
  Word: {Type: String, AllowedPattern: '[a-z]+|[0-9]+', MinLength: 2, MaxLength: 4}
  Code: {Type: String, AllowedPattern: '[a-z]+', ConstraintDescription: must be a word}
  Pin: {Type: String, NoEcho: true, AllowedPattern: '[0-9]+'}
";
        let check = |users: &[(&str, &str)]| {
            let users = users.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            check(template, &users.collect(), &[])
        };
        assert!(check(&[("Word", "ab"), ("Code", "a"), ("Pin", "1234")]).is_ok());
        for (word, rule) in [
            ("a", "must have a number of characters from 2 to 4"),
            ("abcde", "must have a number of characters from 2 to 4"),
            ("ab1", "must match `[a-z]+|[0-9]+`"),
            ("ab\n", "must match `[a-z]+|[0-9]+`"),
        ] {
            let failure = check(&[("Word", word)]).unwrap_err();
            assert_eq!(failure.hint, Some(format!("`Word` {rule}")), "{word}");
        }
        let failure = check(&[("Code", "1"), ("Pin", "secret"), ("Wort", "a")]).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "parameter `Code` cannot be `1`; parameter `Pin` cannot be this value; \
             the template has no parameter `Wort`"
        );
        assert_eq!(
            failure.hint.as_deref(),
            Some("`Code` must be a word; `Pin` must match `[0-9]+`; did you mean `Word`?")
        );
    }

    #[test]
    fn every_pattern_can_be_checked() {
        for template in [TEMPLATE, CLUSTER_TEMPLATE] {
            for (name, Declaration { allowed_pattern, default, .. }) in
                declarations(template).unwrap()
            {
                let pattern = Regex::new(&format!("^(?:{})$", allowed_pattern.unwrap_or_default()));
                assert!(pattern.is_ok(), "{name}: {pattern:?}");
                if let Some(default) = default {
                    let checked = check(template, &users(&name, &default), &[]);
                    assert!(checked.is_ok(), "{name}: {checked:?}");
                }
            }
        }
    }

    /// Without parameters, only the outputs show `destroy` what a stack uses.
    #[test]
    fn outputs_show_what_a_stack_uses() {
        for (template, names) in [
            (TEMPLATE, &["TableName", "ArtifactBucket", "ArtifactKey"]),
            (CLUSTER_TEMPLATE, &["ApiEndpoint", "AgentBucket", "AgentKey"]),
        ] {
            let template: serde_yaml::Value = serde_yaml::from_str(template).unwrap();
            for name in names {
                let output = serde_yaml::to_string(&template["Outputs"][name]["Value"]).unwrap();
                assert_eq!(output.trim(), format!("!Ref {name}"));
            }
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
            ("ReservedConcurrency", ""),
            ("ReservedConcurrency", "20"),
            ("RequestAlarmThreshold", "30000"),
            ("AlarmTopicArn", ""),
            ("AlarmTopicArn", "arn:aws:sns:eu-central-1:123456789012:alarms"),
        ] {
            assert!(check(TEMPLATE, &users(name, value), &HAS_OPTION).is_ok(), "{name}={value}");
        }
        assert!(check(TEMPLATE, &BTreeMap::new(), &HAS_OPTION).is_ok());
    }
}
