//! Every permission in AWS that the commands need. The policies that `iam-policy` prints and the roles for CI are made from
//! this one list.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use serde::Serialize;

use crate::cli::PolicyFor;

/// The longest stack name that stands in full before the names that CloudFormation makes up for functions and roles: 64
/// characters, of which a hyphen, `Function`, a hyphen and 13 random characters are taken.
const WHOLE_STACK_NAME: usize = 40;

/// So much of a longer name is sure to stand there.
const CUT_STACK_NAME: usize = 24;

/// What needs a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// `plan`, and the look around that every command begins with.
    Plan,
    /// `status` and `logs`.
    Watch,
    /// `deploy`, and `status --drift`.
    Deploy,
    /// `destroy`, with `--delete-table` and `--delete-artifacts`.
    Destroy,
    /// `cluster`.
    Clusters,
    /// CloudFormation, which makes the stack's resources with the caller's permissions, or with those of `--role-arn`.
    CloudFormation,
}

/// What a permission is for. Each is a statement of the policy, but for those about the same resources, which share one: a
/// policy is limited in length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Stack,
    ChangeSets,
    /// The bucket of the artifacts, whoever made it.
    Bucket,
    /// The bucket that `deploy` makes.
    OwnBucket,
    Artifacts,
    OwnArtifacts,
    Table,
    Function,
    LogGroups,
    Api,
    /// The API, when it is called.
    Endpoint,
    /// The alarms and the dashboard.
    Monitors,
    /// Every alarm: a look at one is authorised as a look at all.
    Alarms,
    FunctionRole,
    /// The function's role, when Lambda is given it.
    RoleToLambda,
    /// The role that API Gateway makes for itself in an account that has none yet.
    GatewayRole,
    /// The role of `--role-arn`, when CloudFormation is given it.
    RoleToCloudFormation,
    /// For actions that do not know resources.
    Anything,
}

/// A row of the list.
#[derive(Debug)]
struct Permission {
    by: By,
    on: On,
    actions: &'static [&'static str],
    why: &'static str,
}

const fn needs(by: By, on: On, actions: &'static [&'static str], why: &'static str) -> Permission {
    Permission { by, on, actions, why }
}

/// The list. What CloudFormation needs for a type of resource is what the type's own schema says (`aws cloudformation
/// describe-type`), without what our template leaves out.
const PERMISSIONS: &[Permission] = &[
    needs(
        By::Plan,
        On::Anything,
        &["sts:GetCallerIdentity"],
        "learns the account, which the bucket is named after (AWS knows no resource here)",
    ),
    needs(
        By::Plan,
        On::Stack,
        &["cloudformation:DescribeStacks", "cloudformation:GetTemplate"],
        "compares the stack with what is wanted",
    ),
    needs(
        By::Plan,
        On::Stack,
        &[
            "cloudformation:CreateChangeSet",
            "cloudformation:DescribeChangeSet",
            "cloudformation:DeleteChangeSet",
            "cloudformation:ListChangeSets",
        ],
        "has CloudFormation work out what would change",
    ),
    needs(
        By::Plan,
        On::Stack,
        &["cloudformation:TagResource", "cloudformation:UntagResource"],
        "tags the stack as one of ours, and with `--tag`",
    ),
    needs(
        By::Plan,
        On::ChangeSets,
        &["cloudformation:TagResource", "cloudformation:UntagResource"],
        "tags go by way of the change set",
    ),
    needs(
        By::Plan,
        On::Bucket,
        &["s3:ListBucket"],
        "looks whether the bucket and the artifact are there",
    ),
    needs(
        By::Plan,
        On::Table,
        &[
            "dynamodb:DescribeTable",
            "dynamodb:DescribeTimeToLive",
            "dynamodb:DescribeContinuousBackups",
            "dynamodb:ListTagsOfResource",
        ],
        "looks whether the table is there, ours, and complete",
    ),
    needs(
        By::Plan,
        On::Function,
        &["lambda:GetFunctionConfiguration"],
        "looks whether the function has the code that the stack names",
    ),
    needs(
        By::Watch,
        On::Stack,
        &["cloudformation:DescribeStackEvents"],
        "shows the events of a change",
    ),
    needs(
        By::Watch,
        On::Function,
        &["lambda:ListVersionsByFunction"],
        "shows the function's version",
    ),
    needs(By::Watch, On::LogGroups, &["logs:FilterLogEvents"], "shows the function's log"),
    needs(
        By::Deploy,
        On::OwnBucket,
        &[
            "s3:CreateBucket",
            "s3:PutBucketPolicy",
            "s3:PutBucketPublicAccessBlock",
            "s3:PutEncryptionConfiguration",
        ],
        "makes the bucket: encrypted, not public, TLS only",
    ),
    needs(
        By::Deploy,
        On::Artifacts,
        &["s3:GetObject", "s3:PutObject"],
        "uploads the function's zip, and hands it to Lambda",
    ),
    needs(
        By::Deploy,
        On::Table,
        &[
            "dynamodb:CreateTable",
            "dynamodb:TagResource",
            "dynamodb:UpdateTimeToLive",
            "dynamodb:UpdateContinuousBackups",
        ],
        "makes the table, lets abandoned claims expire and the table be restored",
    ),
    needs(
        By::Deploy,
        On::OwnArtifacts,
        &["s3:DeleteObject"],
        "deletes artifacts that are too old to go back to",
    ),
    needs(By::Deploy, On::Stack, &["cloudformation:ExecuteChangeSet"], "makes the change"),
    needs(
        By::Deploy,
        On::Stack,
        &[
            "cloudformation:CancelUpdateStack",
            "cloudformation:ContinueUpdateRollback",
            "cloudformation:RollbackStack",
            "cloudformation:DeleteStack",
        ],
        "brings a stack back that is stuck, and deletes what a failed first deployment left",
    ),
    needs(By::Deploy, On::Stack, &["cloudformation:UpdateTerminationProtection"], "`--protect`"),
    needs(
        By::Deploy,
        On::Stack,
        &[
            "cloudformation:DetectStackDrift",
            "cloudformation:DetectStackResourceDrift",
            "cloudformation:DescribeStackResourceDrifts",
        ],
        "`status --drift`",
    ),
    needs(
        By::Deploy,
        On::Anything,
        &["cloudformation:DescribeStackDriftDetectionStatus"],
        "`status --drift` (AWS knows no resource here)",
    ),
    needs(
        By::Deploy,
        On::Function,
        &["lambda:UpdateFunctionCode", "lambda:PublishVersion"],
        "`--code-only`, and the way back from it",
    ),
    needs(
        By::Deploy,
        On::Endpoint,
        &["execute-api:Invoke"],
        "tests an API that takes signed requests only (`--auth iam`)",
    ),
    needs(By::Plan, On::RoleToCloudFormation, &["iam:PassRole"], "`--role-arn`"),
    needs(
        By::Destroy,
        On::Table,
        &["dynamodb:UpdateTable", "dynamodb:DeleteTable"],
        "`--delete-table`: lifts the protection, and deletes",
    ),
    needs(By::Destroy, On::Stack, &["cloudformation:ListStackResources"], "shows what goes"),
    needs(
        By::Destroy,
        On::OwnBucket,
        &["s3:DeleteBucket"],
        "`--delete-artifacts`, when the bucket is empty then",
    ),
    needs(
        By::Clusters,
        On::Table,
        &["dynamodb:Scan", "dynamodb:BatchGetItem", "dynamodb:UpdateItem"],
        "lists, shows and forgets the clusters' records",
    ),
    needs(By::CloudFormation, On::Artifacts, &["s3:GetObject"], "gives Lambda the function's zip"),
    needs(
        By::CloudFormation,
        On::Function,
        &[
            "lambda:CreateFunction",
            "lambda:DeleteFunction",
            "lambda:UpdateFunctionCode",
            "lambda:UpdateFunctionConfiguration",
            "lambda:GetFunction",
            "lambda:GetFunctionConfiguration",
            "lambda:GetFunctionCodeSigningConfig",
            "lambda:GetFunctionRecursionConfig",
            "lambda:GetRuntimeManagementConfig",
            "lambda:ListTags",
            "lambda:TagResource",
            "lambda:UntagResource",
        ],
        "the function",
    ),
    needs(
        By::CloudFormation,
        On::Function,
        &["lambda:AddPermission", "lambda:RemovePermission", "lambda:GetPolicy"],
        "lets the API call the function",
    ),
    needs(
        By::CloudFormation,
        On::FunctionRole,
        &[
            "iam:CreateRole",
            "iam:DeleteRole",
            "iam:GetRole",
            "iam:UpdateRole",
            "iam:UpdateRoleDescription",
            "iam:UpdateAssumeRolePolicy",
            "iam:PutRolePolicy",
            "iam:GetRolePolicy",
            "iam:DeleteRolePolicy",
            "iam:ListRolePolicies",
            "iam:ListAttachedRolePolicies",
            "iam:TagRole",
            "iam:UntagRole",
        ],
        "the function's role",
    ),
    needs(By::CloudFormation, On::RoleToLambda, &["iam:PassRole"], "the function runs as its role"),
    needs(
        By::CloudFormation,
        On::LogGroups,
        &[
            "logs:CreateLogGroup",
            "logs:DeleteLogGroup",
            "logs:PutRetentionPolicy",
            "logs:DeleteRetentionPolicy",
            "logs:GetDataProtectionPolicy",
            "logs:ListTagsForResource",
            "logs:TagResource",
            "logs:UntagResource",
        ],
        "the logs of the function and of the API",
    ),
    needs(
        By::CloudFormation,
        On::Anything,
        &["logs:DescribeLogGroups", "logs:DescribeIndexPolicies"],
        "finds the log groups (AWS lists them all, or none)",
    ),
    needs(
        By::CloudFormation,
        On::Anything,
        &[
            "logs:CreateLogDelivery",
            "logs:GetLogDelivery",
            "logs:UpdateLogDelivery",
            "logs:DeleteLogDelivery",
            "logs:ListLogDeliveries",
            "logs:PutResourcePolicy",
            "logs:DescribeResourcePolicies",
        ],
        "the API's access log (AWS knows no resource here)",
    ),
    needs(
        By::CloudFormation,
        On::Api,
        &[
            "apigateway:GET",
            "apigateway:POST",
            "apigateway:PUT",
            "apigateway:PATCH",
            "apigateway:DELETE",
            "apigateway:TagResource",
            "apigateway:UntagResource",
        ],
        "the API, whose id nobody knows before it is there",
    ),
    needs(
        By::CloudFormation,
        On::GatewayRole,
        &["iam:CreateServiceLinkedRole"],
        "the first API of an account brings API Gateway's own role with it",
    ),
    needs(
        By::CloudFormation,
        On::Monitors,
        &[
            "cloudwatch:PutMetricAlarm",
            "cloudwatch:DeleteAlarms",
            "cloudwatch:ListTagsForResource",
            "cloudwatch:TagResource",
            "cloudwatch:UntagResource",
        ],
        "the alarms on failed and on throttled requests",
    ),
    needs(
        By::CloudFormation,
        On::Monitors,
        &[
            "cloudwatch:PutDashboard",
            "cloudwatch:GetDashboard",
            "cloudwatch:DeleteDashboards",
            "cloudwatch:ListTagsForResource",
            "cloudwatch:TagResource",
            "cloudwatch:UntagResource",
        ],
        "the dashboard",
    ),
    needs(
        By::CloudFormation,
        On::Alarms,
        &["cloudwatch:DescribeAlarms"],
        "watches the alarm during an update (a look at one alarm is authorised as a look at all)",
    ),
];

/// What the resources of a policy are called. What is not known is `*`.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The part of AWS: `aws`, `aws-cn`, …
    pub partition: String,
    /// The account's number.
    pub account: String,
    /// The region.
    pub region: String,
    /// The stack's name.
    pub stack_name: String,
    /// The table's name.
    pub table_name: String,
    /// The bucket that the user brings; none is the one that `deploy` makes.
    pub bucket: Option<String>,
    /// The role that CloudFormation is given. The caller then needs none of CloudFormation's permissions.
    pub role_arn: Option<String>,
}

/// The partition that a region belongs to.
pub fn partition(region: &str) -> &'static str {
    [
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("us-isob-", "aws-iso-b"),
        ("us-isof-", "aws-iso-f"),
        ("us-iso-", "aws-iso"),
        ("eu-isoe-", "aws-iso-e"),
        ("eusc-", "aws-eusc"),
    ]
    .iter()
    .find(|(prefix, _)| region.starts_with(prefix))
    .map_or("aws", |(_, partition)| partition)
}

/// A policy, in IAM's form.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Policy {
    version: &'static str,
    statement: Vec<Statement>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    sid: String,
    effect: &'static str,
    action: BTreeSet<&'static str>,
    resource: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<BTreeMap<&'static str, BTreeMap<&'static str, &'static str>>>,
}

impl Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = serde_json::to_string_pretty(self).map_err(|_| std::fmt::Error)?;
        f.write_str(&text)
    }
}

/// The least policy for these commands.
pub fn policy(scope: &Scope, policy_for: PolicyFor) -> Policy {
    let mut statement: Vec<Statement> = Vec::new();
    for permission in needed(scope, policy_for) {
        let resource = permission.on.resources(scope);
        let condition = permission
            .on
            .condition()
            .map(|(key, value)| BTreeMap::from([("StringEquals", [(key, value)].into())]));
        let same = |statement: &&mut Statement| {
            (&statement.resource, &statement.condition) == (&resource, &condition)
        };
        match statement.iter_mut().find(same) {
            Some(statement) => statement.action.extend(permission.actions),
            None => statement.push(Statement {
                sid: format!("{:?}", permission.on),
                effect: "Allow",
                action: permission.actions.iter().copied().collect(),
                resource,
                condition,
            }),
        }
    }
    Policy { version: "2012-10-17", statement }
}

/// What each permission of that policy is for, for people.
pub fn explanation(scope: &Scope, policy_for: PolicyFor) -> Explanation {
    Explanation(
        needed(scope, policy_for)
            .map(|permission| Explained {
                by: permission.by.name(),
                why: permission.why,
                actions: permission.actions,
                resources: permission.on.resources(scope),
            })
            .collect(),
    )
}

/// What permissions are for.
#[derive(Debug, Serialize)]
pub struct Explanation(Vec<Explained>);

#[derive(Debug, Serialize)]
struct Explained {
    by: &'static str,
    why: &'static str,
    actions: &'static [&'static str],
    resources: Vec<String>,
}

impl Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for Explained { by, why, actions, resources } in &self.0 {
            writeln!(f, "{by}: {why}")?;
            writeln!(f, "    {}", actions.join(" "))?;
            for resource in resources {
                writeln!(f, "    on {resource}")?;
            }
        }
        Ok(())
    }
}

fn needed(scope: &Scope, policy_for: PolicyFor) -> impl Iterator<Item = &'static Permission> {
    let by_itself: &[By] = match policy_for {
        PolicyFor::Plan => &[By::Plan],
        PolicyFor::Deploy => &[By::Plan, By::Watch, By::Deploy],
        PolicyFor::All => &[By::Plan, By::Watch, By::Deploy, By::Destroy, By::Clusters],
        PolicyFor::Clusters => &[By::Clusters],
        PolicyFor::CloudFormation => &[],
    };
    let for_cloudformation = match policy_for {
        PolicyFor::Plan | PolicyFor::Clusters => false,
        PolicyFor::Deploy | PolicyFor::All => scope.role_arn.is_none(),
        PolicyFor::CloudFormation => true,
    };
    PERMISSIONS.iter().filter(move |permission| {
        let needed = if permission.by == By::CloudFormation {
            for_cloudformation
        } else {
            by_itself.contains(&permission.by)
        };
        needed && !permission.on.resources(scope).is_empty()
    })
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Watch => "status, logs",
            Self::Deploy => "deploy",
            Self::Destroy => "destroy",
            Self::Clusters => "cluster",
            Self::CloudFormation => "CloudFormation",
        }
    }
}

impl On {
    /// The ARNs, as narrow as names can make them. There are none where the scope has no such thing.
    fn resources(self, scope: &Scope) -> Vec<String> {
        let Scope { partition, account, region, stack_name, table_name, bucket, role_arn } = scope;
        let here = |service: &str, resource: &str| {
            format!("arn:{partition}:{service}:{region}:{account}:{resource}")
        };
        let iam = |role: &str| format!("arn:{partition}:iam::{account}:role/{role}");
        let gateway = |path: &str| format!("arn:{partition}:apigateway:{region}::{path}");
        let own_bucket = format!("arn:{partition}:s3:::cbbootstrap-artifacts-{account}-{region}");
        let any_bucket = bucket
            .as_ref()
            .map_or(own_bucket.clone(), |name| format!("arn:{partition}:s3:::{name}"));
        let only_own = |arn: String| {
            if bucket.is_none() { vec![arn] } else { Vec::new() }
        };
        // A parameter of a template cannot be cut; the template limits its length.
        let start_of_name = if stack_name.len() > WHOLE_STACK_NAME && !stack_name.contains('$') {
            stack_name.get(..CUT_STACK_NAME).unwrap_or(stack_name)
        } else {
            stack_name
        };
        match self {
            Self::Stack => vec![here("cloudformation", &format!("stack/{stack_name}/*"))],
            Self::ChangeSets => vec![here("cloudformation", "changeSet/cbbootstrap-*")],
            Self::Bucket => vec![any_bucket],
            Self::OwnBucket => only_own(own_bucket),
            Self::Artifacts => vec![format!("{any_bucket}/{stack_name}/*")],
            Self::OwnArtifacts => only_own(format!("{own_bucket}/{stack_name}/*")),
            Self::Table => vec![here("dynamodb", &format!("table/{table_name}"))],
            Self::Function => vec![here("lambda", &format!("function:{start_of_name}-*"))],
            Self::LogGroups => vec![here("logs", &format!("log-group:{stack_name}-*"))],
            Self::Api => ["/apis", "/apis/*", "/tags/*"].map(gateway).into(),
            Self::Endpoint => vec![here("execute-api", "*/$default/*")],
            // Dashboards have no region.
            Self::Monitors => vec![
                here("cloudwatch", &format!("alarm:{stack_name}-*")),
                format!("arn:{partition}:cloudwatch::{account}:dashboard/{stack_name}-*"),
            ],
            Self::Alarms => vec![here("cloudwatch", "alarm:*")],
            Self::FunctionRole | Self::RoleToLambda => {
                vec![iam(&format!("{start_of_name}-*"))]
            }
            Self::GatewayRole => vec![iam(
                "aws-service-role/ops.apigateway.amazonaws.com/AWSServiceRoleForAPIGateway",
            )],
            Self::RoleToCloudFormation => role_arn.iter().cloned().collect(),
            Self::Anything => vec!["*".to_owned()],
        }
    }

    /// What else must hold: a key of IAM's, and its value.
    fn condition(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::RoleToLambda => Some(("iam:PassedToService", "lambda.amazonaws.com")),
            Self::RoleToCloudFormation => {
                Some(("iam:PassedToService", "cloudformation.amazonaws.com"))
            }
            Self::GatewayRole => Some(("iam:AWSServiceName", "ops.apigateway.amazonaws.com")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// The most characters that a managed policy may have, white space apart.
    const MOST_CHARACTERS: usize = 6144;

    fn scope() -> Scope {
        Scope {
            partition: "aws".to_owned(),
            account: "123456789012".to_owned(),
            region: "eu-central-1".to_owned(),
            stack_name: "cbbootstrap".to_owned(),
            table_name: "cb-bootstrap".to_owned(),
            bucket: None,
            role_arn: None,
        }
    }

    /// As a template says it.
    fn template_scope() -> Scope {
        Scope {
            partition: "${AWS::Partition}".to_owned(),
            account: "${AWS::AccountId}".to_owned(),
            region: "${AWS::Region}".to_owned(),
            stack_name: "${StackName}".to_owned(),
            table_name: "${TableName}".to_owned(),
            bucket: None,
            role_arn: None,
        }
    }

    fn allows(policy: &Policy, action: &str) -> bool {
        policy.statement.iter().any(|statement| statement.action.contains(action))
    }

    #[test]
    fn each_command_gets_what_it_needs_and_no_more() {
        use PolicyFor::{All, CloudFormation, Clusters, Deploy, Plan};
        let with_role =
            Scope { role_arn: Some("arn:aws:iam::123456789012:role/cfn".to_owned()), ..scope() };
        for (action, whose) in [
            ("cloudformation:CreateChangeSet", &[Plan, Deploy, All][..]),
            ("cloudformation:ExecuteChangeSet", &[Deploy, All]),
            ("cloudformation:DeleteStack", &[Deploy, All]),
            ("dynamodb:CreateTable", &[Deploy, All]),
            ("dynamodb:DeleteTable", &[All]),
            ("dynamodb:Scan", &[All, Clusters]),
            ("dynamodb:UpdateItem", &[All, Clusters]),
            ("s3:DeleteBucket", &[All]),
            ("s3:PutObject", &[Deploy, All]),
            ("s3:GetObject", &[Deploy, All, CloudFormation]),
            ("lambda:CreateFunction", &[Deploy, All, CloudFormation]),
            ("cloudwatch:PutDashboard", &[Deploy, All, CloudFormation]),
            ("execute-api:Invoke", &[Deploy, All]),
            ("sts:GetCallerIdentity", &[Plan, Deploy, All]),
        ] {
            for who in [Plan, Deploy, All, Clusters, CloudFormation] {
                let allowed = allows(&policy(&scope(), who), action);
                assert_eq!(allowed, whose.contains(&who), "{action} for {who:?}");
            }
        }
        let caller = policy(&with_role, All);
        assert!(!allows(&caller, "lambda:CreateFunction") && !allows(&caller, "apigateway:POST"));
        let passed =
            caller.statement.iter().find(|statement| statement.action.contains("iam:PassRole"));
        assert_eq!(
            passed.map(|statement| statement.resource.clone()),
            Some(with_role.role_arn.iter().cloned().collect()),
            "{caller}"
        );
        assert!(allows(&policy(&with_role, CloudFormation), "lambda:CreateFunction"));
    }

    #[test]
    fn a_bucket_that_the_user_brings_is_used_and_not_set_up() {
        let theirs = Scope { bucket: Some("theirs".to_owned()), ..scope() };
        let policy = policy(&theirs, PolicyFor::All);
        for (action, allowed) in [
            ("s3:ListBucket", true),
            ("s3:PutObject", true),
            ("s3:CreateBucket", false),
            ("s3:PutBucketPolicy", false),
            ("s3:DeleteObject", false),
        ] {
            assert_eq!(allows(&policy, action), allowed, "{action}");
        }
        let text = policy.to_string();
        assert!(
            text.contains("arn:aws:s3:::theirs/cbbootstrap/*") && !text.contains("artifacts"),
            "{text}"
        );
    }

    #[test]
    fn resources_are_narrow() {
        let policy = policy(&scope(), PolicyFor::All);
        for statement in &policy.statement {
            let wide = statement.resource.contains(&"*".to_owned());
            assert_eq!(wide, statement.sid == "Anything", "{statement:?}");
            assert!(
                statement.sid.bytes().all(|byte| byte.is_ascii_alphanumeric()),
                "{statement:?}"
            );
            assert!(statement.action.iter().all(|action| !action.contains('*')), "{statement:?}");
        }
        let passes =
            policy.statement.iter().filter(|statement| statement.action.contains("iam:PassRole"));
        for statement in passes {
            assert!(statement.condition.is_some(), "{statement:?}");
        }
    }

    #[test]
    fn names_that_cloudformation_cuts_are_matched_by_their_start() {
        for (stack_name, start) in [
            ("cbbootstrap".to_owned(), "cbbootstrap-*".to_owned()),
            ("s".repeat(40), format!("{}-*", "s".repeat(40))),
            ("s".repeat(41), format!("{}-*", "s".repeat(24))),
        ] {
            let scope = Scope { stack_name, ..scope() };
            for on in [On::Function, On::FunctionRole] {
                let resources = on.resources(&scope);
                assert!(resources[0].ends_with(&start), "{resources:?} {start}");
            }
        }
    }

    #[test]
    fn the_longest_names_leave_room() {
        let long = Scope {
            partition: "aws-us-gov".to_owned(),
            region: "ap-southeast-99".to_owned(),
            stack_name: "s".repeat(128),
            table_name: "t".repeat(255),
            ..scope()
        };
        for policy_for in [PolicyFor::All, PolicyFor::CloudFormation] {
            let text = serde_json::to_string(&policy(&long, policy_for)).unwrap();
            assert!(text.len() <= MOST_CHARACTERS, "{} characters", text.len());
        }
    }

    #[test]
    fn a_region_has_its_partition() {
        for (region, expected) in [
            ("us-east-1", "aws"),
            ("", "aws"),
            ("cn-north-1", "aws-cn"),
            ("us-gov-west-1", "aws-us-gov"),
            ("us-iso-east-1", "aws-iso"),
            ("us-isob-east-1", "aws-iso-b"),
            ("eusc-de-east-1", "aws-eusc"),
        ] {
            assert_eq!(partition(region), expected, "{region}");
        }
    }

    #[test]
    fn the_explanation_has_every_action() {
        let said = explanation(&scope(), PolicyFor::All).to_string();
        let policy = policy(&scope(), PolicyFor::All);
        for action in policy.statement.iter().flat_map(|s| &s.action) {
            assert!(said.contains(action), "{action}");
        }
    }

    /// The template with its policies made anew. `None` if it has no place for one.
    fn regenerated(template: &str) -> Option<String> {
        let mut text = template.to_owned();
        for (mark, policy_for) in [("plan", PolicyFor::Plan), ("deploy", PolicyFor::Deploy)] {
            let begin = text.find(&format!("# begin: {mark}\n"))?;
            let indent = begin - text[..begin].rfind('\n')? - 1;
            let begin = begin + text[begin..].find('\n')? + 1;
            let end = begin + text[begin..].find(&format!("# end: {mark}\n"))? - indent;
            let policy = policy(&template_scope(), policy_for);
            let mut statements = serde_yaml::to_value(policy.statement).ok()?;
            substitute(&mut statements);
            let mut made = String::new();
            for line in serde_yaml::to_string(&statements).ok()?.lines() {
                let _ = writeln!(made, "{:indent$}{line}", "");
            }
            text.replace_range(begin..end, &made);
        }
        Some(text)
    }

    /// Marks the strings that CloudFormation is to fill in.
    fn substitute(value: &mut serde_yaml::Value) {
        use serde_yaml::{Value, value::Tag, value::TaggedValue};
        match value {
            Value::String(text) if text.contains("${") => {
                *value = Value::Tagged(Box::new(TaggedValue {
                    tag: Tag::new("Sub"),
                    value: Value::String(text.clone()),
                }));
            }
            Value::Sequence(items) => items.iter_mut().for_each(substitute),
            Value::Mapping(mapping) => mapping.values_mut().for_each(substitute),
            _ => {}
        }
    }

    #[test]
    fn the_roles_for_ci_have_these_policies() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../templates/github-oidc-role.yaml");
        let template = std::fs::read_to_string(file).unwrap();
        let made = regenerated(&template).unwrap();
        if std::env::var_os("UPDATE_TEMPLATES").is_some() {
            std::fs::write(file, made).unwrap();
            return;
        }
        assert!(
            template == made,
            "templates/github-oidc-role.yaml is not what the list of permissions says\n\
             hint: UPDATE_TEMPLATES=1 cargo test --workspace --bin cbbootstrap permissions"
        );
    }
}
