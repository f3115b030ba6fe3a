//! Names, processors and other values that options take, and the rules of AWS for them.

pub use cbbootstrap_cli::values::Auth;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A processor that Lambda offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// Intel and AMD.
    #[default]
    #[serde(rename = "x86_64")]
    #[value(name = "x86_64")]
    X86_64,
    /// AWS Graviton.
    Arm64,
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        })
    }
}

/// `NAME=VALUE`
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it takes a name, `=` and a value".to_owned()),
    }
}

/// An account's number.
pub fn account(number: &str) -> Result<String, String> {
    if number.len() == 12 && number.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(number.to_owned())
    } else {
        Err("an account's number has 12 digits".to_owned())
    }
}

/// An ARN of a role.
pub fn role_arn(arn: &str) -> Result<String, String> {
    arn_of("iam", arn).ok_or_else(|| "a role's ARN is arn:aws:iam::ACCOUNT:role/NAME".to_owned())
}

/// An ARN of an SNS topic.
pub fn topic_arn(arn: &str) -> Result<String, String> {
    arn_of("sns", arn).ok_or_else(|| "a topic's ARN is arn:aws:sns:REGION:ACCOUNT:NAME".to_owned())
}

fn arn_of(service: &str, arn: &str) -> Option<String> {
    let mut parts = arn.splitn(6, ':');
    let good = parts.next() == Some("arn")
        && parts.next().is_some_and(|partition| !partition.is_empty())
        && parts.next() == Some(service)
        && parts.nth(2).is_some_and(|resource| !resource.is_empty());
    good.then(|| arn.to_owned())
}

/// `CloudFormation`'s rule for a stack's name.
pub fn stack_name(name: &str) -> Result<String, String> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if starts_well
        && name.len() <= 128
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    {
        Ok(name.to_owned())
    } else {
        Err("a stack's name is at most 128 letters, digits and hyphens, and starts with a letter"
            .to_owned())
    }
}

/// S3's rule for a bucket's name.
pub fn bucket_name(name: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    if (3..=63).contains(&name.len()) && name.chars().all(good) {
        Ok(name.to_owned())
    } else {
        Err("a bucket's name is 3 to 63 lower-case letters, digits, hyphens and dots, and no ARN"
            .to_owned())
    }
}

/// A region becomes a part of host names.
pub fn region_name(name: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.is_empty() && name.len() <= 63 && name.chars().all(good) {
        Ok(name.to_owned())
    } else {
        Err("a region's name is lower-case letters, digits and hyphens, such as us-east-1"
            .to_owned())
    }
}

/// `DynamoDB`'s rule for a table's name.
pub fn table_name(name: &str) -> Result<String, String> {
    if (3..=255).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        Ok(name.to_owned())
    } else {
        Err("a table's name is 3 to 255 letters, digits, hyphens, underscores and dots".to_owned())
    }
}

/// A host's name without a port.
pub fn host_name(name: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) {
        Ok(name.to_owned())
    } else {
        Err("a host's name has letters, digits, hyphens and dots, and no port".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_services_rules() {
        for (name, stack, table) in [
            ("cbbootstrap", true, true),
            ("cb-bootstrap", true, true),
            ("a", true, false),
            ("1stack", false, true),
            ("my_table.1", false, true),
            ("", false, false),
            ("a b", false, false),
            ("größe", false, false),
        ] {
            assert_eq!(stack_name(name).is_ok(), stack, "stack {name:?}");
            assert_eq!(table_name(name).is_ok(), table, "table {name:?}");
        }
        assert!(region_name("us-gov-west-1").is_ok() && region_name("no where").is_err());
        for (name, good) in [
            ("my-bucket.1", true),
            ("My Bucket", false),
            ("", false),
            ("arn:aws:s3:::x", false),
            ("a/b/c", false),
        ] {
            assert_eq!(bucket_name(name).is_ok(), good, "bucket {name:?}");
        }
        assert!(stack_name(&"s".repeat(129)).is_err());
        assert!(table_name(&"t".repeat(256)).is_err());
    }
}
