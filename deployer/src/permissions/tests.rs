use super::*;

const KNOWN: [(&str, &str); 5] = [
    ("partition", "aws"),
    ("account", "123456789012"),
    ("region", "eu-central-1"),
    ("stack_name", "cbbootstrap"),
    ("table_name", "cb-bootstrap"),
];

fn scope() -> Scope {
    Scope::with(KNOWN)
}

/// A scope with these values, too.
fn scope_with(values: &[(&'static str, &str)]) -> Scope {
    Scope::with(KNOWN.into_iter().chain(values.iter().copied()))
}

/// The scope of the template, which CloudFormation fills in.
fn template_scope() -> Scope {
    Scope::with([
        ("partition", "${AWS::Partition}"),
        ("account", "${AWS::AccountId}"),
        ("region", "${AWS::Region}"),
        ("stack_name", "${StackName}"),
        ("table_name", "${TableName}"),
        ("permissions_boundary", "${PermissionsBoundaryArn}"),
        ("kms_key", "${KmsKeyArn}"),
        ("domain", "${DomainName}"),
        ("hosted_zone", "${HostedZoneId}"),
        ("notification_arns", "${NotificationArn}"),
    ])
}

/// The statements of the template about a bucket and a role of the user, which may be given beside the others.
fn template_options(policy_for: PolicyFor) -> Vec<Statement> {
    let options = [("bucket", "${BucketName}"), ("role_arn", "${RoleArn}")];
    let values =
        template_scope().0.into_iter().chain(options.map(|(name, it)| (name, it.to_owned())));
    let mut statements = policy(&Scope(values.collect()), policy_for).statement;
    statements.retain(|it| {
        it.resource.iter().any(|arn| options.iter().any(|(_, option)| arn.contains(option)))
    });
    for statement in &mut statements {
        // IDs are unique.
        statement.sid = match statement.sid {
            "Bucket" => "OtherBucket",
            "Artifacts" => "OtherArtifacts",
            sid => sid,
        };
    }
    statements
}

fn allows(policy: &Policy, action: &str) -> bool {
    policy.statement.iter().any(|statement| statement.action.contains(action))
}

#[test]
fn each_command_gets_only_the_permissions_it_needs() {
    use PolicyFor::{All, CloudFormation, Clusters, Deploy, Doctor, Launch, Plan};
    let role = "arn:aws:iam::123456789012:role/cfn";
    let with_role = scope_with(&[("role_arn", role)]);
    for (action, allowed_for) in [
        ("cloudformation:CreateChangeSet", &[Plan, Deploy, All, Launch][..]),
        ("cloudformation:ExecuteChangeSet", &[Deploy, All, Launch]),
        ("cloudformation:DeleteStack", &[Deploy, All, Launch]),
        ("dynamodb:CreateTable", &[Deploy, All]),
        ("dynamodb:DeleteTable", &[All]),
        ("dynamodb:Scan", &[All, Clusters]),
        ("dynamodb:UpdateItem", &[All, Clusters, Launch]),
        ("s3:DeleteBucket", &[All, Launch]),
        ("s3:PutObject", &[Deploy, All, Launch]),
        ("s3:GetObject", &[Deploy, All, CloudFormation, Launch]),
        ("lambda:CreateFunction", &[Deploy, All, CloudFormation]),
        ("cloudwatch:PutDashboard", &[Deploy, All, CloudFormation]),
        ("execute-api:Invoke", &[Deploy, All]),
        ("sts:GetCallerIdentity", &[Plan, Deploy, All, Doctor, Launch]),
        ("ec2:RunInstances", &[Launch]),
        ("iam:SimulatePrincipalPolicy", &[Doctor]),
    ] {
        for policy_for in [Plan, Deploy, All, Launch, Clusters, Doctor, CloudFormation] {
            let allowed = allows(&policy(&scope(), policy_for), action);
            assert_eq!(allowed, allowed_for.contains(&policy_for), "{action} for {policy_for:?}");
        }
    }
    let caller = policy(&with_role, All);
    assert!(!allows(&caller, "lambda:CreateFunction") && !allows(&caller, "apigateway:POST"));
    let passed =
        caller.statement.iter().find(|statement| statement.action.contains("iam:PassRole"));
    assert_eq!(passed.unwrap().resource, [role], "{caller:?}");
    assert!(allows(&policy(&with_role, CloudFormation), "lambda:CreateFunction"));
}

#[test]
fn permissions_boundary_restricts_who_creates_roles() {
    let boundary = format!("arn:aws:iam::123456789012:policy/{}", "b".repeat(128));
    let bounded = scope_with(&[("permissions_boundary", &boundary)]);
    for (scope, expected) in [(scope(), None), (bounded, Some(boundary.as_str()))] {
        for policy_for in [PolicyFor::Deploy, PolicyFor::All, PolicyFor::CloudFormation] {
            let policy = policy(&scope, policy_for);
            for action in ["iam:CreateRole", "iam:PutRolePolicy", "iam:PutRolePermissionsBoundary"]
            {
                let mut statements = policy.statement.iter();
                let statement = statements.find(|it| it.action.contains(action)).unwrap();
                let condition = statement.condition.as_ref().map(|it| &it["StringEquals"]);
                let value = condition.map(|it| it["iam:PermissionsBoundary"].as_str());
                assert_eq!(value, expected, "{statement:?}");
            }
            let statements = policy.statement.iter().map(|statement| statement.sid);
            let has_own = statements.clone().any(|sid| sid == "BoundedRole");
            assert_eq!(has_own, expected.is_some(), "one statement without a boundary");
            assert!(!allows(&policy, "iam:DeleteRolePermissionsBoundary"), "{policy:?}");
            assert!(!allows(&policy, "iam:AttachRolePolicy"), "{policy:?}");
        }
    }
}

#[test]
fn a_kms_key_is_used_only_if_it_is_given() {
    let key = "arn:aws:kms:eu-central-1:123456789012:key/k";
    let with_key = scope_with(&[("kms_key", key)]);
    for (policy_for, action) in [
        (PolicyFor::Deploy, "kms:CreateGrant"),
        (PolicyFor::All, "kms:CreateGrant"),
        (PolicyFor::CloudFormation, "kms:CreateGrant"),
        (PolicyFor::Launch, "kms:CreateGrant"),
        (PolicyFor::Clusters, "kms:Decrypt"),
    ] {
        assert!(!allows(&policy(&scope(), policy_for), action));
        let policy = policy(&with_key, policy_for);
        let uses = |it: &&Statement| it.action.contains(action);
        assert_eq!(policy.statement.iter().find(uses).unwrap().resource, [key]);
    }
}

#[test]
fn the_caller_publishes_to_notification_topics() {
    let topics = scope_with(&[("notification_arns", "arn:aws:sns:r:1:a,arn:aws:sns:r:1:b")]);
    for policy_for in [PolicyFor::Plan, PolicyFor::Deploy, PolicyFor::All] {
        assert!(!allows(&policy(&scope(), policy_for), "sns:Publish"));
        let policy = policy(&topics, policy_for);
        let publishes = policy.statement.iter().find(|it| it.action.contains("sns:Publish"));
        assert_eq!(publishes.unwrap().resource, ["arn:aws:sns:r:1:a", "arn:aws:sns:r:1:b"]);
    }
}

#[test]
fn a_domain_and_its_zone_are_changed_only_if_they_are_given() {
    let domain = ("domain", "a.example");
    let with_domain = scope_with(&[domain]);
    let with_zone = scope_with(&[domain, ("hosted_zone", "Z1")]);
    let resources = |scope: &Scope, sid| {
        let policy = policy(scope, PolicyFor::Deploy);
        let statement = policy.statement.into_iter().find(|statement| statement.sid == sid);
        statement.map(|statement| statement.resource)
    };
    assert_eq!((resources(&scope(), "Domain"), resources(&scope(), "HostedZone")), (None, None));
    let domain = resources(&with_domain, "Domain").unwrap();
    assert_eq!(domain[1], "arn:aws:apigateway:eu-central-1::/domainnames/a.example");
    // CloudFormation passes the stack's tags on, and API Gateway authorizes tagging on the domain itself.
    let statements = policy(&with_domain, PolicyFor::Deploy).statement;
    let actions = |sid| statements.iter().find(|it| it.sid == sid).map(|it| &it.action);
    assert!(actions("Domain").unwrap().contains("apigateway:TagResource"));
    assert_eq!(actions("Domain"), actions("Api"));
    assert_eq!(resources(&with_domain, "HostedZone"), None);
    let zone = resources(&with_zone, "HostedZone").unwrap();
    assert_eq!(zone, ["arn:aws:route53:::hostedzone/Z1", "arn:aws:route53:::change/*"]);
}

#[test]
fn a_bucket_of_the_user_is_used_but_not_changed() {
    let theirs = scope_with(&[("bucket", "theirs")]);
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
    for (scope, allowed) in [(&scope(), true), (&theirs, false)] {
        let policy = super::policy(scope, PolicyFor::Launch);
        assert!(allows(&policy, "s3:PutObject"));
        assert_eq!(allows(&policy, "s3:DeleteObject"), allowed, "{scope:?}");
    }
    let text = serde_json::to_string(&policy).unwrap();
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
        assert!(statement.sid.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{statement:?}");
        assert!(statement.action.iter().all(|action| !action.contains('*')), "{statement:?}");
    }
    let passes =
        policy.statement.iter().filter(|statement| statement.action.contains("iam:PassRole"));
    for statement in passes {
        assert!(statement.condition.is_some(), "{statement:?}");
    }
}

#[test]
fn shortened_names_are_matched_by_their_start() {
    for (stack_name, start) in [
        ("cbbootstrap".to_owned(), "cbbootstrap-*".to_owned()),
        ("s".repeat(40), format!("{}-*", "s".repeat(40))),
        ("s".repeat(41), format!("{}-*", "s".repeat(24))),
    ] {
        let scope = scope_with(&[("stack_name", &stack_name)]);
        for resource in ["Function", "FunctionRole"] {
            let arns = scope.arns(resource).unwrap();
            assert!(arns[0].ends_with(&start), "{arns:?} {start}");
        }
    }
}

#[test]
fn policies_with_the_longest_names_fit_the_limit() {
    let place = [("partition", "aws-us-gov"), ("region", "ap-southeast-99")];
    let boundary =
        |length| format!("arn:aws-us-gov:iam::123456789012:policy/{}", "b".repeat(length));
    // With a key, a boundary and a domain, only shorter names leave room. A longer policy fits into a role, which takes 10,240 characters.
    let key =
        "arn:aws-us-gov:kms:ap-southeast-99:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let long = [("stack_name", "s".repeat(128)), ("table_name", "t".repeat(255))];
    let with_key = [
        ("stack_name", "s".repeat(40)),
        ("table_name", "t".repeat(64)),
        ("kms_key", key.to_owned()),
        ("permissions_boundary", boundary(64)),
    ];
    let with_domain = [
        ("stack_name", "s".repeat(20)),
        ("table_name", "t".repeat(32)),
        ("kms_key", key.to_owned()),
        ("permissions_boundary", boundary(32)),
        ("domain", "bootstrap.example.com".to_owned()),
        ("hosted_zone", "Z".repeat(21)),
        ("notification_arns", "arn:aws-us-gov:sns:ap-southeast-99:123456789012:topic".to_owned()),
    ];
    for values in [&long[..], &with_key, &with_domain] {
        let values = values.iter().map(|(name, value)| (*name, value.as_str()));
        let scope = Scope::with(KNOWN.into_iter().chain(place).chain(values));
        for policy_for in [PolicyFor::All, PolicyFor::CloudFormation, PolicyFor::Launch] {
            let text = serde_json::to_string(&policy(&scope, policy_for).fit().unwrap()).unwrap();
            assert!(text.len() <= MOST_CHARACTERS, "{} characters", text.len());
        }
    }
}

#[test]
fn launch_changes_only_security_groups_and_launch_templates_of_clusters() {
    let policy = policy(&scope(), PolicyFor::Launch).fit().unwrap();
    for (action, key) in [
        ("ec2:AuthorizeSecurityGroupIngress", "aws:ResourceTag/aws:cloudformation:stack-name"),
        ("ec2:DeleteSecurityGroup", "aws:ResourceTag/aws:cloudformation:stack-name"),
        ("ec2:ModifyLaunchTemplate", "aws:ResourceTag/Name"),
        ("ec2:DeleteLaunchTemplate", "aws:ResourceTag/Name"),
    ] {
        for statement in policy.statement.iter().filter(|it| it.action.contains(action)) {
            let condition = statement.condition.as_ref().unwrap();
            assert_eq!(condition["StringLike"][key], "couchbase-*", "{action}");
        }
        assert!(allows(&policy, action), "{action}");
    }
    // A group belongs to a cluster by a tag that only CloudFormation can set.
    let are_groups = |it: &Statement| {
        let mut of_ec2 = it.resource.iter().filter(|arn| arn.contains(":ec2:"));
        of_ec2.all(|arn| arn.ends_with(":security-group/*"))
    };
    let mut tagging = policy.statement.iter().filter(|it| it.action.contains("ec2:CreateTags"));
    assert!(tagging.all(|statement| statement.condition.is_some() || are_groups(statement)));
}

#[test]
fn launch_passes_roles_to_ec2_in_china() {
    let china = scope_with(&[("partition", "aws-cn"), ("region", "cn-north-1")]);
    let policy = policy(&china, PolicyFor::Launch);
    let passes = policy.statement.iter().find(|it| it.action.contains("iam:PassRole")).unwrap();
    assert_eq!(passes.resource, ["arn:aws-cn:iam::123456789012:role/couchbase-*"]);
    let service = &passes.condition.as_ref().unwrap()["StringLike"]["iam:PassedToService"];
    for name in ["ec2.amazonaws.com", "ec2.amazonaws.com.cn"] {
        assert!(name.starts_with(service.strip_suffix('*').unwrap()), "{service}");
    }
}

#[test]
fn joined_statements_allow_nothing_more() {
    let whole = policy(&scope(), PolicyFor::All).statement;
    let joined = join(policy(&scope(), PolicyFor::All).statement);
    assert!(joined.len() < whole.len());
    let service = |text: &str, part| text.split(':').nth(part).map(str::to_owned);
    // The resources of each action that are of its service.
    let grants = |statements: &[Statement]| {
        let mut grants = BTreeSet::new();
        for statement in statements {
            for action in &statement.action {
                let applies =
                    |arn: &&String| arn.as_str() == "*" || service(arn, 2) == service(action, 0);
                let resources = statement.resource.iter().filter(applies).cloned();
                let condition = format!("{:?}", statement.condition);
                grants.extend(resources.map(|arn| (*action, arn, condition.clone())));
            }
        }
        grants
    };
    assert_eq!(grants(&joined), grants(&whole));
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
fn every_row_is_used_and_explained() {
    let with_role = scope_with(&[("role_arn", "arn:aws:iam::123456789012:role/cfn")]);
    let is_about_role = |resources: &Vec<String>| resources[0].ends_with("role/cfn");
    let only_with_role = [PolicyFor::All, PolicyFor::Launch]
        .into_iter()
        .flat_map(|policy_for| with_role.select(policy_for))
        .filter(|(_, resources)| is_about_role(resources));
    let with_all = scope_with(&[
        ("kms_key", "key"),
        ("domain", "a.example"),
        ("hosted_zone", "Z1"),
        ("notification_arns", "t"),
    ]);
    let selected = with_all.select(PolicyFor::All).count()
        + with_all.select(PolicyFor::Launch).count()
        + with_all.select(PolicyFor::Doctor).count()
        + only_with_role.count();
    assert_eq!(selected, TABLE.permissions.len());
    let text = explain(&scope(), PolicyFor::All);
    for statement in policy(&scope(), PolicyFor::All).statement {
        assert!(statement.action.iter().all(|action| text.contains(action)), "{statement:?}");
    }
    for resource in TABLE.resources.keys() {
        let is_used = TABLE.permissions.iter().any(|permission| &permission.resource == resource);
        assert!(is_used, "{resource}");
    }
}

/// The template with its policies generated again. `None` if it has no place for one.
fn regenerated(template: &str) -> Option<String> {
    let mut text = template.to_owned();
    for (mark, policy_for) in [("plan", PolicyFor::Plan), ("deploy", PolicyFor::Deploy)] {
        let begin = text.find(&format!("# begin: {mark}\n"))?;
        let indent = begin - text[..begin].rfind('\n')? - 1;
        let begin = begin + text[begin..].find('\n')? + 1;
        let end = begin + text[begin..].find(&format!("# end: {mark}\n"))? - indent;
        let mut statements = policy(&template_scope(), policy_for).statement;
        statements.extend(template_options(policy_for));
        let mut statements = serde_yaml::to_value(statements).ok()?;
        statements.as_sequence_mut()?.iter_mut().for_each(make_optional);
        substitute(&mut statements);
        let mut made = String::new();
        for line in serde_yaml::to_string(&statements).ok()?.lines() {
            let _ = writeln!(made, "{:indent$}{line}", "");
        }
        text.replace_range(begin..end, &made);
    }
    Some(text)
}

/// Leaves a statement, or the condition about the permissions boundary, out if the template's parameter for it is empty.
fn make_optional(statement: &mut serde_yaml::Value) {
    use serde_yaml::{Value, value::Tag, value::TaggedValue};
    let tagged =
        |tag: &str, value| Value::Tagged(Box::new(TaggedValue { tag: Tag::new(tag), value }));
    let only_if = |condition: &str, value: &mut Value| {
        let none = tagged("Ref", "AWS::NoValue".into());
        *value = tagged("If", Value::Sequence(vec![condition.into(), value.clone(), none]));
    };
    if let Some(condition) = statement.get_mut("Condition")
        && condition["StringEquals"].get("iam:PermissionsBoundary").is_some()
    {
        only_if("HasPermissionsBoundary", condition);
    }
    let resources = serde_yaml::to_string(&statement["Resource"]).unwrap();
    for (parameter, condition) in [
        ("${KmsKeyArn}", "HasKmsKey"),
        ("${DomainName}", "HasDomain"),
        ("${HostedZoneId}", "HasHostedZone"),
        ("${NotificationArn}", "HasNotificationArn"),
        ("${BucketName}", "HasBucket"),
        ("${RoleArn}", "HasRole"),
    ] {
        if resources.contains(parameter) {
            only_if(condition, statement);
        }
    }
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
        Value::Tagged(tagged) => substitute(&mut tagged.value),
        _ => {}
    }
}

#[test]
fn roles_for_ci_have_the_current_policies() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../templates/github-oidc-role.yaml");
    let template = std::fs::read_to_string(file).unwrap();
    let made = regenerated(&template).unwrap();
    if std::env::var_os("UPDATE_TEMPLATES").is_some() {
        std::fs::write(file, made).unwrap();
        return;
    }
    assert!(
        template == made,
        "templates/github-oidc-role.yaml does not match deployer/permissions.yaml\n\
         hint: run `just docs`"
    );
}
