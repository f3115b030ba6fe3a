//! The policy that `iam-policy` prints, checked by AWS's list of actions and by a stand-in that enforces it.

use std::{fs, path::Path, process::Command};

use cbbootstrap_tests::{
    artifact, cli::User, front::Front, ministack::MiniStack, programs, python,
};
use serde_json::{Value, json};
use tempfile::tempdir;

/// The stand-in's only account.
const ACCOUNT: &str = "000000000000";

/// The policy, printed without credentials.
fn printed(options: &[&str]) -> Value {
    let mut args = vec!["iam-policy"];
    args.extend(options);
    User::default().run(&args).document()
}

#[test]
fn unknown_accounts_and_regions_are_wildcards() {
    let text = |options: &[&str]| printed(options).to_string();
    let anywhere = text(&[]);
    assert!(anywhere.contains("arn:aws:dynamodb:*:*:table/cb-bootstrap"), "{anywhere}");
    let known = text(&[
        "--region",
        "cn-north-1",
        "--account",
        "123456789012",
        "--table-name",
        "team-a",
        "--stack-name",
        "team",
    ]);
    for arn in [
        "arn:aws-cn:dynamodb:cn-north-1:123456789012:table/team-a",
        "arn:aws-cn:cloudformation:cn-north-1:123456789012:stack/team/*",
        "arn:aws-cn:s3:::cbbootstrap-artifacts-123456789012-cn-north-1",
        "arn:aws-cn:iam::123456789012:role/team-*",
    ] {
        assert!(known.contains(arn), "{arn} in {known}");
    }

    let home = User::default().with("AWS_DEFAULT_REGION", "eu-west-1");
    let policy = home.run(&["iam-policy"]).document().to_string();
    assert!(policy.contains(":eu-west-1:"), "{policy}");
    let config = "[profile team]\nregion = ap-south-1\n";
    let home = User::default();
    fs::create_dir(home.home.path().join(".aws")).unwrap();
    fs::write(home.home.path().join(".aws/config"), config).unwrap();
    let policy = home.run(&["iam-policy", "--profile", "team"]).document();
    assert!(policy.to_string().contains(":ap-south-1:"), "{policy}");

    User::default().run(&["iam-policy", "--account", "me"]).failed(2, "12 digits");
    let explained = User::default().run(&["iam-policy", "--explain"]).stdout;
    assert!(explained.contains("plan: compares the stack"), "{explained}");
}

#[test]
fn permissions_boundary_is_a_condition_on_creating_roles() {
    let boundary = "arn:aws:iam::123456789012:policy/boundary";
    let policy = printed(&["--permissions-boundary", boundary]);
    let statements = policy["Statement"].as_array().unwrap();
    let creates = |statement: &&Value| {
        statement["Action"].as_array().unwrap().contains(&json!("iam:CreateRole"))
    };
    let statement = statements.iter().find(creates).unwrap();
    assert_eq!(
        statement["Condition"],
        json!({"StringEquals": {"iam:PermissionsBoundary": boundary}}),
        "{statement}"
    );
}

/// Checks a policy's statements against AWS's list of actions and their resources, which is part of cfn-lint.
const JUDGE: &str = r#"
import json, pathlib, re, sys
import cfnlint

services = json.loads((pathlib.Path(cfnlint.__file__).parent / "data/AdditionalSpecs/Policies.json").read_text())
# AWS asks for them, and does not list them.
unlisted = {"apigateway:TagResource", "apigateway:UntagResource"}
said = []
for statement in json.loads(sys.argv[1])["Statement"]:
    for action in set(statement["Action"]) - unlisted:
        service, name = action.split(":")
        listed = services[service]
        known = listed["Actions"].get(name.lower())
        if name == "Describe*":
            # As in the handlers' schemas.
            continue
        if known is None:
            said.append(f"there is no {action}")
            continue
        forms = [
            re.sub(r"\\\$\\\{\w+\\\}", "[^:]*", re.escape(form).replace(r"\.\*", ".*"))
            for kind in known.get("Resources", [])
            for form in listed["Resources"][kind.lower()]["ARNFormats"]
        ]
        if statement["Resource"] == ["*"]:
            if forms:
                said.append(f"{action} could be limited to {forms}")
        elif not any(re.fullmatch(form, arn) for form in forms for arn in statement["Resource"]):
            said.append(f"{action} is not about {statement['Resource']} but {forms}")
print(json.dumps(said))
"#;

/// The actions of the handlers of a template's resource types that a policy lacks, by their schemas, which are part of cfn-lint.
const HANDLERS: &str = r#"
import fnmatch, json, pathlib, sys
import cfnlint

allowed = {action for statement in json.loads(sys.argv[1])["Statement"] for action in statement["Action"]}
text = pathlib.Path(sys.argv[2]).read_text()
lacking = set()
for file in (pathlib.Path(cfnlint.__file__).parent / "data/schemas/resources").glob("*.json"):
    schema = json.loads(file.read_text())
    if "Type: " + schema.get("typeName", "none") + "\n" not in text:
        continue
    for handler, needs in schema.get("handlers", {}).items():
        if handler != "list":
            lacking |= {need for need in needs["permissions"] if not any(fnmatch.fnmatch(need, it) for it in allowed)}
print(json.dumps(sorted(lacking)))
"#;

/// What the handlers in a template ask for and a policy does not allow.
fn lacking(policy: &Value, template: &str) -> Value {
    let template = programs::workspace().join("templates").join(template);
    let output = Command::new(python::bin().join("python"))
        .args(["-c", HANDLERS, &policy.to_string(), &template.display().to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn only_actions_for_unused_properties_are_omitted() {
    // Load balancers but by target groups, metrics, notifications, instance refreshes, other fleets and lattices; attached policies;
    // replicas of secrets; and the values of secrets. Of EC2 and SSM, the policy lists the actions.
    let launch = lacking(&printed(&["--for", "launch"]), "couchbase-cluster.yaml");
    let omitted = json!([
        "autoscaling:AttachLoadBalancers",
        "autoscaling:AttachTrafficSources",
        "autoscaling:CancelInstanceRefresh",
        "autoscaling:DeleteNotificationConfiguration",
        "autoscaling:DetachLoadBalancers",
        "autoscaling:DetachTrafficSources",
        "autoscaling:DisableMetricsCollection",
        "autoscaling:EnableMetricsCollection",
        "autoscaling:PutNotificationConfiguration",
        "autoscaling:StartInstanceRefresh",
        "cloudwatch:PutMetricAlarm",
        "ec2:Describe*",
        "ec2:Get*",
        "iam:AttachRolePolicy",
        "iam:DeleteRolePermissionsBoundary",
        "iam:DetachRolePolicy",
        "managed-fleets:CreateAutoScalingGroup",
        "managed-fleets:DeleteAutoScalingGroup",
        "managed-fleets:DeregisterAutoScalingGroup",
        "managed-fleets:Get*",
        "managed-fleets:RegisterAutoScalingGroup",
        "managed-fleets:UpdateAutoScalingGroup",
        "secretsmanager:GetSecretValue",
        "secretsmanager:RemoveRegionsFromReplication",
        "secretsmanager:ReplicateSecretToRegions",
        "ssm:Get*",
        "vpc-lattice:DeregisterTargets",
        "vpc-lattice:GetTargetGroup",
        "vpc-lattice:ListTargets",
        "vpc-lattice:RegisterTargets",
    ]);
    assert_eq!(launch, omitted);

    // Mutual TLS, networks and file systems; attached policies; code signing, layers and other settings of functions; protection, indexes
    // and policies of log groups; and what is not an action of IAM.
    let key = "arn:aws:kms:us-east-1:123456789012:key/k";
    let options = ["--domain", "a.example", "--hosted-zone", "Z0123456789ABC", "--kms-key", key];
    let deploy = lacking(&printed(&options), "stack.yaml");
    let omitted = json!([
        "apigateway:AddCertificateToDomain",
        "apigateway:RemoveCertificateFromDomain",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcs",
        "elasticfilesystem:DescribeMountTargets",
        "firehose:TagDeliveryStream",
        "iam:AttachRolePolicy",
        "iam:DeleteRolePermissionsBoundary",
        "iam:DetachRolePolicy",
        "lambda:AssociateRuntimeAlias",
        "lambda:DeleteFunctionCodeSigningConfig",
        "lambda:GetCodeSigningConfig",
        "lambda:GetLayerVersion",
        "lambda:PassCapacityProvider",
        "lambda:PutFunctionCodeSigningConfig",
        "lambda:PutFunctionRecursionConfig",
        "lambda:PutFunctionScalingConfig",
        "lambda:PutRuntimeManagementConfig",
        "logs:DeleteDataProtectionPolicy",
        "logs:DeleteIndexPolicy",
        "logs:DeleteResourcePolicy",
        "logs:PutBearerTokenAuthentication",
        "logs:PutDataProtectionPolicy",
        "logs:PutIndexPolicy",
        "logs:PutLogGroupDeletionProtection",
        "route53:ListHostedZones",
        "s3:GetObjectVersion",
        "s3:REST.PUT.OBJECT",
        "s3:getObject",
        "s3files:ListMountTargets",
    ]);
    assert_eq!(deploy, omitted);
}

#[test]
fn every_action_exists_and_is_scoped() {
    let judge = |policy: &Value| -> Value {
        let output = Command::new(python::bin().join("python"))
            .args(["-c", JUDGE, &policy.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let place = ["--region", "us-east-1", "--account", "123456789012"];
    let role = ["--role-arn", "arn:aws:iam::123456789012:role/cfn"];
    for options in [
        &["--for", "all"][..],
        &["--for", "cloudformation"],
        &["--for", "clusters"],
        &["--for", "launch"],
        &["--for", "doctor"],
        &["--domain", "api.example.com", "--hosted-zone", "Z0123456789ABC"],
        &[role[0], role[1]],
    ] {
        let policy = printed(&[&place, options].concat());
        assert_eq!(judge(&policy), json!([]), "{policy}");
    }
    let wrong = json!({"Statement": [
        {"Action": ["s3:MakeBucket"], "Resource": ["*"]},
        {"Action": ["s3:PutObject"], "Resource": ["*"]},
        {"Action": ["s3:PutObject"], "Resource": ["arn:aws:dynamodb:us-east-1:123456789012:table/t"]},
        {"Action": ["sts:GetCallerIdentity"], "Resource": ["arn:aws:s3:::b"]},
    ]});
    assert_eq!(judge(&wrong).as_array().map(Vec::len), Some(4), "the judge judges");
}

/// What the stand-in takes for a question about everything, and AWS for one about the table; and a log group that
/// CloudFormation would name after the stack.
const STAND_IN: &str = r#"{"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["dynamodb:ListTagsOfResource", "dynamodb:DescribeBackup"], "Resource": "*"},
    {"Effect": "Allow", "Action": "logs:FilterLogEvents", "Resource": "arn:aws:logs:*:*:log-group:/aws/cloudformation/*"}
]}"#;

/// A user of the stand-in with only these permissions.
fn someone(aws: &MiniStack, front: &Front, name: &str, policy: &Value) -> User {
    let policy = policy.to_string();
    assert!(!policy.contains(['\'', '\\']), "it is a literal below");
    aws.boto(&format!(
        "[client('iam').create_user(UserName='{name}'), \
         client('iam').put_user_policy(UserName='{name}', PolicyName='p', PolicyDocument='{policy}'), \
         client('iam').put_user_policy(UserName='{name}', PolicyName='s', PolicyDocument='''{STAND_IN}''')]"
    ));
    let key = aws.boto(&format!("client('iam').create_access_key(UserName='{name}')['AccessKey']"));
    let part = |part: &str| key[part].as_str().unwrap();
    aws.user()
        .with("AWS_ENDPOINT_URL", &front.url)
        .with("AWS_ACCESS_KEY_ID", part("AccessKeyId"))
        .with("AWS_SECRET_ACCESS_KEY", part("SecretAccessKey"))
}

/// The policy without one action.
fn without(policy: &Value, action: &str) -> Value {
    let mut policy = policy.clone();
    let mut removed = 0;
    for statement in policy["Statement"].as_array_mut().unwrap() {
        let actions = statement["Action"].as_array_mut().unwrap();
        let before = actions.len();
        actions.retain(|other| other != action);
        removed += before - actions.len();
    }
    assert!(removed > 0, "{action} is in the policy");
    policy["Statement"]
        .as_array_mut()
        .unwrap()
        .retain(|statement| statement["Action"] != json!([]));
    policy
}

fn deploy<'a>(zip: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    let deploy = ["deploy", "--yes", "--output", "json", "--function-zip", zip];
    [&deploy, options].concat()
}

#[test]
fn the_printed_policy_allows_every_command() {
    let (aws, directory) = (MiniStack::start(), tempdir().unwrap());
    let front = Front::before(&aws.url);
    let policy = printed(&["--region", "us-east-1", "--account", ACCOUNT]);
    let user = someone(&aws, &front, "operator", &policy);
    let zip = artifact::zip().to_owned();
    let plan = ["plan", "--output", "json", "--function-zip", &zip];

    let planned = user.run(&plan).document();
    assert_eq!(planned["changed"], json!(true), "{planned}");
    let deployed = user.run(&deploy(&zip, &[])).document();
    assert_eq!(deployed["smoke"]["passed"], json!(true), "{deployed}");
    let planned = user.run(&plan).document();
    assert_eq!(planned["changed"], json!(false), "{planned}");
    let status = user.run(&["status", "--output", "json"]).document();
    assert_eq!(status["endpoint"], deployed["endpoint"], "{status}");
    assert!(status["function"].is_object() && status["table"].is_object(), "{status}");
    let updated = user.run(&deploy(artifact::changed_zip(), &[])).document();
    assert_eq!(updated["changed"], json!(true), "{updated}");
    let locked = user.run(&deploy(&zip, &["--auth", "iam"])).document();
    assert_eq!(locked["smoke"]["passed"], json!(true), "{locked}");
    let user = told_to_github(user, directory.path());
    user.run(&deploy(&zip, &["--code-only", "--no-smoke"])).ended_with(0);
    user.run(&deploy(&zip, &["--protect"])).ended_with(0);
    user.run(&deploy(&zip, &["--protect=false"])).ended_with(0);
    let status = user.run(&["status", "--drift", "--wait", "--output", "json"]).document();
    assert_eq!(status["unknown"], json!({}), "{status}");
    user.run(&["logs"]).ended_with(0);
    user.run(&["cluster", "list"]).ended_with(0);
    // The stand-in takes a listing for a question about everything, and AWS for one about all stacks.
    aws.boto(
        "client('iam').put_user_policy(UserName='operator', PolicyName='list', PolicyDocument=json.dumps({\
         'Version': '2012-10-17', 'Statement': [{'Effect': 'Allow', 'Action': 'cloudformation:DescribeStacks', \
         'Resource': '*'}]}))",
    );
    user.run(&["list"]).ended_with(0);

    user.run(&deploy(&zip, &["--auth", "none"])).ended_with(0);

    // The policy is about one stack and one table.
    let stack = ["--stack-name", "other", "--table-name", "cb-bootstrap"];
    user.run(&[&["plan", "--function-zip", &zip], &stack[..]].concat())
        .failed(1, "cloudformation:GetTemplate");
    let other = ["--table-name", "other-table", "--no-smoke"];
    user.run(&deploy(&zip, &other)).failed(1, "dynamodb:DescribeTable");

    let destroyed = user
        .run(&["destroy", "--yes", "--delete-table", "--delete-artifacts", "--output", "json"])
        .document();
    for part in ["stack_deleted", "table_deleted", "bucket_deleted"] {
        assert_eq!(destroyed[part], json!(true), "{destroyed}");
    }
}

/// Runs the smoke test as a step of a workflow.
fn told_to_github(user: User, directory: &Path) -> User {
    let file = |name: &str| directory.join(name).display().to_string();
    let user =
        user.with("GITHUB_OUTPUT", file("output")).with("GITHUB_STEP_SUMMARY", file("summary"));
    user.run(&["smoke"]).ended_with(0);
    let output = fs::read_to_string(file("output")).unwrap();
    assert!(output.contains("passed=true\n") && output.contains("endpoint=http"), "{output}");
    let summary = fs::read_to_string(file("summary")).unwrap();
    assert!(summary.starts_with("### cbbootstrap smoke: passed\n"), "{summary}");

    let user = user.with("GITHUB_OUTPUT", "").with("GITHUB_STEP_SUMMARY", file("nowhere/summary"));
    let ended = user.run(&["smoke"]).ended_with(0);
    assert!(
        ended.stderr.contains("warning: cannot write `")
            && ended.stderr.contains("GITHUB_STEP_SUMMARY"),
        "{ended}"
    );
    user.without("GITHUB_OUTPUT").without("GITHUB_STEP_SUMMARY")
}

#[test]
fn an_operator_of_clusters_needs_three_permissions() {
    let aws = MiniStack::start();
    let front = Front::before(&aws.url);
    aws.boto(
        "[client('dynamodb').create_table(TableName='cb-bootstrap', BillingMode='PAY_PER_REQUEST', \
         KeySchema=[{'AttributeName': 'cluster_id', 'KeyType': 'HASH'}], \
         AttributeDefinitions=[{'AttributeName': 'cluster_id', 'AttributeType': 'S'}]), \
         client('dynamodb').put_item(TableName='cb-bootstrap', Item={'cluster_id': {'S': 'c'}, \
         'initial_node_ip_addr_or_hostname': {'S': 'a'}}), \
         client('dynamodb').put_item(TableName='cb-bootstrap', Item={'cluster_id': {'S': 'odd'}})]",
    );
    let place = ["--region", "us-east-1", "--account", ACCOUNT];
    let policy = printed(&[&place[..], &["--for", "clusters"]].concat());
    assert_eq!(
        policy["Statement"],
        json!([{
            "Sid": "Table",
            "Effect": "Allow",
            "Action": ["dynamodb:BatchGetItem", "dynamodb:Scan", "dynamodb:UpdateItem"],
            "Resource": [format!("arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/cb-bootstrap")],
        }])
    );
    let commands = [
        (&["cluster", "list"][..], "dynamodb:Scan"),
        (&["cluster", "show", "c"], "dynamodb:BatchGetItem"),
        (&["cluster", "forget", "--yes", "c"], "dynamodb:UpdateItem"),
        (&["cluster", "forget", "--yes", "odd"], "dynamodb:UpdateItem"),
    ];
    let operator = someone(&aws, &front, "operator", &policy);
    for (number, (command, action)) in commands.iter().enumerate() {
        let name = format!("lacks-{number}");
        someone(&aws, &front, &name, &without(&policy, action)).run(command).failed(1, action);
        operator.run(command).ended_with(0);
    }
}

#[test]
fn a_missing_permission_is_named() {
    let aws = MiniStack::start();
    let front = Front::before(&aws.url);
    let zip = artifact::zip().to_owned();
    let place = ["--region", "us-east-1", "--account", ACCOUNT];
    let all = printed(&[&place[..], &["--for", "deploy"]].concat());
    for (number, action) in [
        "cloudformation:DescribeStacks",
        "s3:PutObject",
        "dynamodb:CreateTable",
        "cloudformation:CreateChangeSet",
        "cloudformation:ExecuteChangeSet",
    ]
    .into_iter()
    .enumerate()
    {
        // The deployment before has created it beside the step that failed.
        aws.boto(
            "[tried(lambda: client('dynamodb').update_table(TableName='cb-bootstrap', DeletionProtectionEnabled=False)), \
              tried(lambda: client('dynamodb').delete_table(TableName='cb-bootstrap'))]",
        );
        let user = someone(&aws, &front, &format!("lacks-{number}"), &without(&all, action));
        user.run(&deploy(&zip, &["--no-smoke"])).failed(1, action);
    }

    // What only a locked API asks for, its smoke test finds missing.
    let policy = without(&all, "execute-api:Invoke");
    let caller = someone(&aws, &front, "lacks-call", &policy);
    caller.run(&deploy(&zip, &["--auth", "iam", "--no-smoke"])).ended_with(0);
    let locked = caller.run(&["smoke"]).ended_with(3);
    assert!(locked.stderr.contains("`execute-api:Invoke`"), "{locked}");

    // The permissions for `plan` do not suffice for `deploy`.
    let plan = printed(&[&place[..], &["--for", "plan"]].concat());
    let deployer = someone(&aws, &front, "deployer", &all);
    deployer.run(&deploy(&zip, &[])).document();
    let planner = someone(&aws, &front, "planner", &plan);
    for (zip, changed) in [(zip.as_str(), false), (artifact::changed_zip(), true)] {
        let plan = planner.run(&["plan", "--output", "json", "--function-zip", zip]).document();
        assert_eq!(plan["changed"], json!(changed), "{plan}");
    }
    let denied = planner.run(&deploy(artifact::changed_zip(), &["--no-smoke"])).ended_with(1);
    // Steps that run side by side name what each of them lacks.
    for action in ["s3:PutEncryptionConfiguration", "cloudformation:DescribeStackEvents"] {
        assert!(denied.stderr.contains(&format!("hint: allow `{action}`")), "{denied}");
    }
    // The permissions for `deploy` do not include deleting the table.
    deployer.run(&["destroy", "--yes", "--delete-table"]).failed(1, "dynamodb:CreateBackup");
    deployer
        .run(&["destroy", "--yes", "--delete-table", "--no-backup", "--table-name", "cb-bootstrap"])
        .failed(1, "dynamodb:DeleteTable");
}
