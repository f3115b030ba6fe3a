//! The templates, which are part of this program.

use std::collections::BTreeMap;

use anyhow::Context;
use cbbootstrap_cli::suggestion::did_you_mean;
use serde::Deserialize;

use crate::{failure::Failure, values::topic_arn};

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
    allowed_pattern: Option<String>,
}

/// The pattern of a number that may be empty, because CloudFormation has no optional numbers.
const OPTIONAL_NUMBER: &str = "[0-9]*";

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

/// Checks the user's parameters, which CloudFormation would do only after the build. Those of `has_option` are set by options.
pub fn check(
    template: &str,
    users: &BTreeMap<String, String>,
    has_option: &[(&str, &str)],
) -> Result<(), Failure> {
    let declarations = free_declarations(template, has_option)
        .map_err(|error| Failure::usage(format!("{error:#}")))?;
    for (name, value) in users {
        if let Some((_, option)) = has_option.iter().find(|(parameter, _)| parameter == name) {
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
        let broken_rule = match name.as_str() {
            "AlarmTopicArn" if !value.is_empty() => topic_arn(value).err(),
            _ => declaration.broken_rule(value),
        };
        if let Some(rule) = broken_rule {
            let message = format!("parameter `{name}` cannot be `{value}`");
            return Err(Failure::usage(message).hint(rule));
        }
    }
    Ok(())
}

impl Declaration {
    /// What the value must be, if it is not.
    fn broken_rule(&self, value: &str) -> Option<String> {
        if !self.allowed_values.is_empty() {
            let is_allowed = self.allowed_values.iter().any(|allowed| allowed == value);
            let allowed = || format!("it must be one of: {}", self.allowed_values.join(", "));
            return (!is_allowed).then(allowed);
        }
        let is_optional = self.allowed_pattern.as_deref() == Some(OPTIONAL_NUMBER);
        if is_optional {
            let is_good = value.bytes().all(|byte| byte.is_ascii_digit());
            return (!is_good).then(|| "it must be a whole number, or empty".to_owned());
        }
        if self.r#type != "Number" {
            return None;
        }
        let (min, max) = (self.min_value.unwrap_or(i64::MIN), self.max_value.unwrap_or(i64::MAX));
        // CloudFormation accepts fractions, but none of these parameters is one.
        let is_good = value.parse::<i64>().is_ok_and(|number| (min..=max).contains(&number));
        let range = match (self.min_value, self.max_value) {
            (Some(min), Some(max)) => format!(" from {min} to {max}"),
            (Some(min), None) => format!(", at least {min}"),
            (None, Some(max)) => format!(", at most {max}"),
            (None, None) => String::new(),
        };
        (!is_good).then(|| format!("it must be a whole number{range}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

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
                "the parameters are: AlarmTopicArn, LogLevel, LogRetentionDays, ",
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
