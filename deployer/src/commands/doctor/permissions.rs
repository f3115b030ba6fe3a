//! Simulates the caller's policies with the permissions that the commands need.

use std::collections::BTreeSet;

use clap::{ValueEnum, builder::PossibleValue};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{Check, Verdict};
use crate::{
    aws::{
        Aws, Identity,
        iam::{self, Request},
    },
    cli::{DoctorArgs, PolicyFor},
    failure::Failure,
    permissions::{self, Scope},
};

/// The most actions that the text names.
const SHOWN: usize = 5;

/// Those whose policies decide about a caller.
#[derive(Debug, PartialEq, Eq)]
enum Principal<'a> {
    /// The ARN of a user.
    User(&'a str),
    /// The name of the role of a session.
    Role(&'a str),
    /// The account's root user, who may do everything.
    Root,
    /// IAM simulates no policies of this one.
    Other,
}

impl<'a> Principal<'a> {
    fn of_arn(arn: &'a str) -> Self {
        let resource = arn.splitn(6, ':').nth(5).unwrap_or_default();
        match resource.split('/').collect::<Vec<_>>()[..] {
            ["root"] => Self::Root,
            ["user", ..] => Self::User(arn),
            ["assumed-role", role, _] => Self::Role(role),
            _ => Self::Other,
        }
    }
}

pub async fn check(aws: &Aws, identity: &Identity, args: &DoctorArgs) -> Check {
    const CHECK: &str = "permissions";
    let principal = match Principal::of_arn(&identity.arn) {
        Principal::Root => return Check::ok(CHECK, "all: this is the account's root user"),
        Principal::Other => {
            return Check::skipped(CHECK, "IAM simulates only the policies of users and roles");
        }
        Principal::User(arn) => Ok(arn.to_owned()),
        Principal::Role(name) => iam::role_arn(&aws.iam, name).await,
    };
    let scope = Scope::new(&args.scope, &identity.partition, &identity.account, &aws.region);
    let policy = serde_json::to_value(permissions::policy(&scope, args.policy_for));
    let requests = requests(&policy.unwrap_or_default());
    let number: usize = requests.iter().map(|request| request.actions.len()).sum();
    let denied = match principal {
        Ok(principal) => simulate(aws, principal, requests).await,
        Err(failure) => Err(failure),
    };
    match denied {
        Err(failure) => Check::skipped(CHECK, failure.to_string())
            .hint("`cbbootstrap iam-policy --for doctor` prints the policy that allows this check"),
        Ok(denied) if denied.is_empty() => {
            Check::ok(CHECK, format!("all {number} that the commands need, by simulation"))
        }
        Ok(denied) => {
            Check::new(Verdict::Fail, CHECK, missing(&denied)).hint(hint(args.policy_for))
        }
    }
}

fn hint(policy_for: PolicyFor) -> String {
    let name = policy_for.to_possible_value();
    let name = name.as_ref().map_or("all", PossibleValue::get_name);
    format!("`cbbootstrap iam-policy --for {name}` prints the policy that allows them")
}

async fn simulate(
    aws: &Aws,
    principal: String,
    requests: Vec<Request>,
) -> Result<BTreeSet<String>, Failure> {
    let mut calls = JoinSet::new();
    for request in requests {
        let (client, principal) = (aws.iam.clone(), principal.clone());
        calls.spawn(async move { iam::denied_actions(&client, &principal, request).await });
    }
    let mut denied = BTreeSet::new();
    for actions in calls.join_all().await {
        denied.extend(actions?);
    }
    Ok(denied)
}

fn missing(denied: &BTreeSet<String>) -> String {
    let shown: Vec<_> = denied.iter().take(SHOWN).map(String::as_str).collect();
    let more = match denied.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("not allowed: {}{more}", shown.join(", "))
}

/// A request for each statement of a policy.
fn requests(policy: &Value) -> Vec<Request> {
    let texts = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    // IAM simulates no patterns.
    let simulated = |action: String| match action.as_str() {
        "autoscaling:Describe*" => "autoscaling:DescribeAutoScalingGroups".to_owned(),
        "elasticloadbalancing:Describe*" => "elasticloadbalancing:DescribeTargetGroups".to_owned(),
        _ => action,
    };
    let request = |statement: &Value| Request {
        actions: texts(&statement["Action"]).into_iter().map(simulated).collect(),
        resources: texts(&statement["Resource"]).iter().map(|arn| example(arn)).collect(),
        // `StringEquals`, `StringLike`
        context: statement["Condition"]
            .as_object()
            .into_iter()
            .flat_map(|operators| operators.values().filter_map(Value::as_object).flatten())
            .filter_map(|(key, value)| Some((key.clone(), example(value.as_str()?))))
            .collect(),
    };
    policy["Statement"].as_array().into_iter().flatten().map(request).collect()
}

/// A resource or a value that the pattern matches.
fn example(pattern: &str) -> String {
    match pattern.strip_suffix('*') {
        Some("") => pattern.to_owned(),
        // A service, whose name may be longer in China.
        Some(service) if service.ends_with(".amazonaws.com") => service.to_owned(),
        _ => pattern.replace('*', "example"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies_of_users_and_roles_decide() {
        for (arn, expected) in [
            ("arn:aws:iam::123456789012:root", Principal::Root),
            (
                "arn:aws:iam::123456789012:user/team/me",
                Principal::User("arn:aws:iam::123456789012:user/team/me"),
            ),
            ("arn:aws:sts::123456789012:assumed-role/ci/session", Principal::Role("ci")),
            ("arn:aws:sts::123456789012:federated-user/me", Principal::Other),
            ("", Principal::Other),
        ] {
            assert_eq!(Principal::of_arn(arn), expected, "{arn}");
        }
    }

    #[test]
    fn each_statement_is_a_request() {
        let policy = json!({"Statement": [
            {"Action": ["sts:GetCallerIdentity", "autoscaling:Describe*"], "Resource": ["*"]},
            {
                "Action": ["iam:PassRole"], "Resource": ["arn:aws:iam::1:role/s-*"],
                "Condition": {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}},
            },
            {
                "Action": ["ec2:DeleteTags"], "Resource": ["*"],
                "Condition": {"StringLike": {"aws:ResourceTag/Name": "couchbase-*"}},
            },
            {
                "Action": ["iam:PassRole"], "Resource": ["*"],
                "Condition": {"StringLike": {"iam:PassedToService": "ec2.amazonaws.com*"}},
            },
        ]});
        let [plain, conditional, like, service] = &requests(&policy)[..] else {
            panic!("four requests")
        };
        assert_eq!((plain.resources[0].as_str(), plain.context.len()), ("*", 0));
        assert_eq!(
            plain.actions,
            ["sts:GetCallerIdentity", "autoscaling:DescribeAutoScalingGroups"]
        );
        assert_eq!(conditional.actions, ["iam:PassRole"]);
        assert_eq!(conditional.resources, ["arn:aws:iam::1:role/s-example"]);
        let context = ("iam:PassedToService".to_owned(), "lambda.amazonaws.com".to_owned());
        assert_eq!(conditional.context, [context]);
        let context = ("aws:ResourceTag/Name".to_owned(), "couchbase-example".to_owned());
        assert_eq!(like.context, [context]);
        let context = ("iam:PassedToService".to_owned(), "ec2.amazonaws.com".to_owned());
        assert_eq!(service.context, [context]);
    }

    #[test]
    fn the_first_missing_actions_are_named() {
        let denied = |number: usize| (0..number).map(|it| format!("s3:A{it}")).collect();
        assert_eq!(missing(&denied(2)), "not allowed: s3:A0, s3:A1");
        assert_eq!(
            missing(&denied(7)),
            "not allowed: s3:A0, s3:A1, s3:A2, s3:A3, s3:A4 and 2 more"
        );
    }
}
