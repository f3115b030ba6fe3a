//! Names, processors and other values that options take, and the rules of AWS for them.

use std::net::IpAddr;

pub use cbbootstrap_cli::values::Auth;
use clap::{ValueEnum, builder::TypedValueParser};
use regex_lite::Regex;
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

/// The address of a network interface.
pub fn address(text: &str) -> Result<IpAddr, String> {
    let text = if text == "localhost" { "127.0.0.1" } else { text };
    let rule = |_| "an address is an IP address, such as 127.0.0.1 or 0.0.0.0".to_owned();
    text.parse().map_err(rule)
}

/// `NAME=VALUE`
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it must be a name, `=` and a value".to_owned()),
    }
}

/// A rule for a value: a pattern of the whole value, and the rule in words.
#[derive(Clone, Copy, Debug)]
pub struct Rule(&'static str, &'static str);

impl Rule {
    pub fn check(self, value: &str) -> Result<String, String> {
        let pattern = Regex::new(self.0).expect("a test compiles all patterns");
        if pattern.is_match(value) { Ok(value.to_owned()) } else { Err(self.1.to_owned()) }
    }

    pub fn parser(self) -> impl TypedValueParser<Value = String> {
        move |value: &str| self.check(value)
    }
}

pub const ACCOUNT: Rule = Rule(r"^[0-9]{12}$", "an account's number has 12 digits");
pub const ROLE_ARN: Rule =
    Rule(r"^arn:[^:]+:iam:[^:]*:[^:]*:.", "a role's ARN is arn:aws:iam::ACCOUNT:role/NAME");
pub const POLICY_ARN: Rule = Rule(
    r"^arn:[^:]+:iam:[^:]*:[^:]*:policy/",
    "a policy's ARN is arn:aws:iam::ACCOUNT:policy/NAME",
);
/// Not an alias: it is compared with what AWS returns.
pub const KEY_ARN: Rule = Rule(
    r"^arn:[^:]+:kms:[a-z0-9-]+:[0-9]{12}:key/",
    "a key's ARN is arn:aws:kms:REGION:ACCOUNT:key/ID",
);
pub const CERTIFICATE_ARN: Rule = Rule(
    r"^arn:[^:]+:acm:[a-z0-9-]+:[0-9]{12}:certificate/",
    "a certificate's ARN is arn:aws:acm:REGION:ACCOUNT:certificate/ID",
);
/// Complete: CloudFormation accepts others for a change set, and then can neither execute nor delete it.
pub const TOPIC_ARN: Rule = Rule(
    r"^arn:[^:]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_.-]+$",
    "a topic's ARN is arn:aws:sns:REGION:ACCOUNT:NAME",
);
/// The topic that stands for no topics: an absent option leaves those of the stack.
pub const NO_TOPICS: &str = "none";

pub fn topic(value: &str) -> Result<String, String> {
    if value == NO_TOPICS { Ok(value.to_owned()) } else { TOPIC_ARN.check(value) }
}

pub const STACK_NAME: Rule = Rule(
    r"^[A-Za-z][A-Za-z0-9-]{0,127}$",
    "a stack's name is at most 128 letters, digits and hyphens, and starts with a letter",
);
pub const BUCKET_NAME: Rule = Rule(
    r"^[a-z0-9.-]{3,63}$",
    "a bucket's name is 3 to 63 lower-case letters, digits, hyphens and dots, and not an ARN",
);
/// A region becomes a part of host names.
pub const REGION_NAME: Rule = Rule(
    r"^[a-z0-9-]{1,63}$",
    "a region's name is lower-case letters, digits and hyphens, such as us-east-1",
);
pub const TABLE_NAME: Rule = Rule(
    r"^[A-Za-z0-9_.-]{3,255}$",
    "a table's name is 3 to 255 letters, digits, hyphens, underscores and dots",
);
/// A cluster ID that can be a part of a template. The API itself accepts more.
pub const CLUSTER_ID: Rule = Rule(
    r"^[A-Za-z0-9_.-]{1,128}$",
    "the ID of a launched cluster is 1 to 128 letters, digits, hyphens, underscores and dots",
);
pub const HOSTED_ZONE: Rule = Rule(
    r"^[A-Z0-9]{1,32}$",
    "a hosted zone's ID is capital letters and digits, such as Z0123456789ABCDEFGHIJ",
);
/// A host's name without a port.
pub const HOST_NAME: Rule =
    Rule(r"^[A-Za-z0-9_.-]+$", "a host's name has letters, digits, hyphens and dots, and no port");

/// A name below a top-level domain, as API Gateway and certificates have it.
pub fn domain_name(name: &str) -> Result<String, String> {
    const DOMAIN_NAME: Rule = Rule(
        r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        "a domain name is lower-case letters, digits and hyphens between dots, such as api.example.com",
    );
    let has_number =
        name.rsplit('.').next().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit()));
    // An IPv4 address is not a domain name.
    DOMAIN_NAME.check(if name.len() > 253 || has_number { "" } else { name })
}

/// Slashes at its ends are removed.
pub fn base_path(path: &str) -> Result<String, String> {
    /// The first segments of the API's own paths, which the function could not tell from a base path.
    const OWN: [&str; 3] = ["cluster", "docs", "swagger.yaml"];
    const BASE_PATH: Rule = Rule(
        r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$",
        "a base path is at most 300 letters, digits, hyphens, underscores, dots, and slashes between them",
    );
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    if OWN.contains(&path.split('/').next().unwrap_or_default()) {
        return Err(
            "the first segment of a base path cannot be `cluster`, `docs` or `swagger.yaml`"
                .to_owned(),
        );
    }
    let has_dots = path.split('/').any(|segment| segment.bytes().all(|byte| byte == b'.'));
    BASE_PATH.check(if path.len() > 300 || has_dots { "" } else { path })
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
            assert_eq!(STACK_NAME.check(name).is_ok(), stack, "stack {name:?}");
            assert_eq!(TABLE_NAME.check(name).is_ok(), table, "table {name:?}");
        }
        assert!(
            REGION_NAME.check("us-gov-west-1").is_ok() && REGION_NAME.check("no where").is_err()
        );
        for (name, good) in [
            ("my-bucket.1", true),
            ("My Bucket", false),
            ("", false),
            ("arn:aws:s3:::x", false),
            ("a/b/c", false),
        ] {
            assert_eq!(BUCKET_NAME.check(name).is_ok(), good, "bucket {name:?}");
        }
        assert!(STACK_NAME.check(&"s".repeat(129)).is_err());
        assert!(TABLE_NAME.check(&"t".repeat(256)).is_err());
    }

    #[test]
    fn every_pattern_compiles() {
        for rule in [
            ACCOUNT,
            ROLE_ARN,
            POLICY_ARN,
            KEY_ARN,
            CERTIFICATE_ARN,
            TOPIC_ARN,
            STACK_NAME,
            BUCKET_NAME,
            REGION_NAME,
            TABLE_NAME,
            CLUSTER_ID,
            HOSTED_ZONE,
            HOST_NAME,
        ] {
            assert_eq!(rule.check(""), Err(rule.1.to_owned()));
        }
        let role = "arn:aws:iam::123456789012:role/r";
        assert!(ROLE_ARN.check(role).is_ok() && POLICY_ARN.check(role).is_err());
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
            assert_eq!(HOSTED_ZONE.check(id).is_ok(), good, "hosted zone {id:?}");
        }
        for (arn, good) in [
            ("arn:aws:acm:us-east-1:123456789012:certificate/c", true),
            ("arn:aws-cn:acm:cn-north-1:123456789012:certificate/c", true),
            ("arn:aws:iam::123456789012:server-certificate/c", false),
            ("arn:aws:acm:us-east-1:123456789012:c", false),
            ("c", false),
        ] {
            assert_eq!(CERTIFICATE_ARN.check(arn).is_ok(), good, "{arn}");
        }
        for (arn, good) in [
            ("arn:aws:sns:us-east-1:123456789012:t", true),
            ("arn:aws-us-gov:sns:us-gov-west-1:123456789012:my_topic-1", true),
            ("arn:aws:sns:us-east-1::t", false),
            ("arn:aws:sns::123456789012:t", false),
            ("arn:aws:sns:us-east-1:123456789012:", false),
            ("arn:aws:sns:us-east-1:123456789012:t:00000000-0000-4000-8000-000000000000", false),
            (NO_TOPICS, true),
        ] {
            assert_eq!(topic(arn).is_ok(), good, "{arn}");
        }
        assert!(KEY_ARN.check("arn:aws:kms:us-east-1:123456789012:key/k").is_ok());
        assert!(KEY_ARN.check("arn:aws:kms:us-east-1::key/k").is_err());
    }
}
