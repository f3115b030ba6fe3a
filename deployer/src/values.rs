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

pub fn certificate_arn(arn: &str) -> Result<String, String> {
    let is_good = is_arn(arn, "acm") && arn.contains(":certificate/");
    accept(arn, is_good, "a certificate's ARN is arn:aws:acm:REGION:ACCOUNT:certificate/ID")
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

/// A name below a top-level domain, as API Gateway and certificates have it.
pub fn domain_name(name: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        consists_of(label, 1..=63, |c| is_lower(c) || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_below =
        name.rsplit_once('.').is_some_and(|(_, top)| !top.bytes().all(|b| b.is_ascii_digit()));
    let is_good = name.len() <= 253 && is_below && name.split('.').all(is_label);
    let rule = "a domain name is lower-case letters, digits and hyphens between dots, such as api.example.com";
    accept(name, is_good, rule)
}

/// Slashes at its ends are removed.
pub fn base_path(path: &str) -> Result<String, String> {
    /// The first segments of the API's own paths, which the function could not tell from a base path.
    const OWN: [&str; 3] = ["cluster", "docs", "swagger.yaml"];
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    if OWN.contains(&path.split('/').next().unwrap_or_default()) {
        return Err(
            "the first segment of a base path cannot be `cluster`, `docs` or `swagger.yaml`"
                .to_owned(),
        );
    }
    let is_segment = |segment: &str| {
        consists_of(segment, 1..=300, is_plain) && !segment.bytes().all(|byte| byte == b'.')
    };
    let is_good = path.len() <= 300 && path.split('/').all(is_segment);
    let rule = "a base path is at most 300 letters, digits, hyphens, underscores, dots, and slashes between them";
    accept(path, is_good, rule)
}

pub fn hosted_zone(id: &str) -> Result<String, String> {
    let is_good = consists_of(id, 1..=32, |c| c.is_ascii_uppercase() || c.is_ascii_digit());
    accept(
        id,
        is_good,
        "a hosted zone's ID is capital letters and digits, such as Z0123456789ABCDEFGHIJ",
    )
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
    #[test]
    fn domains_and_their_settings_follow_the_services_rules() {
        for (name, good) in [
            ("api.example.com", true),
            ("xn--bcher-kva.example", true),
            ("1.2.example", true),
            ("localhost", false),
            ("API.example.com", false),
            ("api.example.com.", false),
            ("api..example", false),
            ("-api.example", false),
            ("api-.example", false),
            ("*.example.com", false),
            ("https://api.example.com", false),
            ("api.example.com:443", false),
            ("api_1.example.com", false),
            ("10.0.0.1", false),
            (&format!("{}.example", "a".repeat(64)), false),
        ] {
            assert_eq!(domain_name(name).is_ok(), good, "domain {name:?}");
        }
        for (path, expected) in [
            ("v1", Some("v1")),
            ("/v1/", Some("v1")),
            ("team-a/v1.2_x", Some("team-a/v1.2_x")),
            ("clusters", Some("clusters")),
            ("cluster", None),
            ("/docs/v1", None),
            ("swagger.yaml", None),
            ("", None),
            ("/", None),
            ("//v1", None),
            ("a//b", None),
            ("a/../b", None),
            ("a b", None),
            ("a?b", None),
            ("a%20b", None),
        ] {
            assert_eq!(base_path(path).ok().as_deref(), expected, "base path {path:?}");
        }
        for (id, good) in
            [("Z0123456789ABC", true), ("/hostedzone/Z01", false), ("z01", false), ("", false)]
        {
            assert_eq!(hosted_zone(id).is_ok(), good, "hosted zone {id:?}");
        }
        for (arn, good) in [
            ("arn:aws:acm:us-east-1:123456789012:certificate/c", true),
            ("arn:aws-cn:acm:cn-north-1:123456789012:certificate/c", true),
            ("arn:aws:iam::123456789012:server-certificate/c", false),
            ("arn:aws:acm:us-east-1:123456789012:c", false),
            ("c", false),
        ] {
            assert_eq!(certificate_arn(arn).is_ok(), good, "{arn}");
        }
    }
}
