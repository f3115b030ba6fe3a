//! Names, processors and other values that options take, and the rules of AWS for them.

use std::ops::RangeInclusive;

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
        _ => Err("it must be a name, `=` and a value".to_owned()),
    }
}

pub fn account(number: &str) -> Result<String, String> {
    let is_good = consists_of(number, 12..=12, |c| c.is_ascii_digit());
    accept(number, is_good, "an account's number has 12 digits")
}

pub fn role_arn(arn: &str) -> Result<String, String> {
    accept(arn, is_arn(arn, "iam"), "a role's ARN is arn:aws:iam::ACCOUNT:role/NAME")
}

pub fn policy_arn(arn: &str) -> Result<String, String> {
    let is_good = is_arn(arn, "iam") && arn.contains(":policy/");
    accept(arn, is_good, "a policy's ARN is arn:aws:iam::ACCOUNT:policy/NAME")
}

/// Not an alias: it is compared with what AWS returns.
pub fn key_arn(arn: &str) -> Result<String, String> {
    let is_good = is_arn(arn, "kms") && arn.contains(":key/");
    accept(arn, is_good, "a key's ARN is arn:aws:kms:REGION:ACCOUNT:key/ID")
}

pub fn topic_arn(arn: &str) -> Result<String, String> {
    accept(arn, is_arn(arn, "sns"), "a topic's ARN is arn:aws:sns:REGION:ACCOUNT:NAME")
}

pub fn stack_name(name: &str) -> Result<String, String> {
    let is_good = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && consists_of(name, 1..=128, |c| c.is_ascii_alphanumeric() || c == '-');
    let rule =
        "a stack's name is at most 128 letters, digits and hyphens, and starts with a letter";
    accept(name, is_good, rule)
}

pub fn bucket_name(name: &str) -> Result<String, String> {
    let is_good = consists_of(name, 3..=63, |c| is_lower(c) || "-.".contains(c));
    let rule =
        "a bucket's name is 3 to 63 lower-case letters, digits, hyphens and dots, and not an ARN";
    accept(name, is_good, rule)
}

/// A region becomes a part of host names.
pub fn region_name(name: &str) -> Result<String, String> {
    let is_good = consists_of(name, 1..=63, |c| is_lower(c) || c == '-');
    let rule = "a region's name is lower-case letters, digits and hyphens, such as us-east-1";
    accept(name, is_good, rule)
}

pub fn table_name(name: &str) -> Result<String, String> {
    let rule = "a table's name is 3 to 255 letters, digits, hyphens, underscores and dots";
    accept(name, consists_of(name, 3..=255, is_plain), rule)
}

/// A cluster ID that can be a part of a template. The API itself accepts more.
pub fn cluster_id(id: &str) -> Result<String, String> {
    let rule =
        "the ID of a launched cluster is 1 to 128 letters, digits, hyphens, underscores and dots";
    accept(id, consists_of(id, 1..=128, is_plain), rule)
}

/// A host's name without a port.
pub fn host_name(name: &str) -> Result<String, String> {
    let is_good = consists_of(name, 1..=usize::MAX, is_plain);
    accept(name, is_good, "a host's name has letters, digits, hyphens and dots, and no port")
}

fn accept(value: &str, is_good: bool, rule: &str) -> Result<String, String> {
    if is_good { Ok(value.to_owned()) } else { Err(rule.to_owned()) }
}

fn consists_of(text: &str, length: RangeInclusive<usize>, is_good: fn(char) -> bool) -> bool {
    length.contains(&text.len()) && text.chars().all(is_good)
}

fn is_lower(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

/// `arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`
fn is_arn(arn: &str, service: &str) -> bool {
    let parts: Vec<_> = arn.splitn(6, ':').collect();
    matches!(parts[..], ["arn", partition, of, _, _, resource]
        if of == service && !partition.is_empty() && !resource.is_empty())
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
