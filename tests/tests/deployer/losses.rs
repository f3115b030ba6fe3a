//! No command deletes a table or an artifact that something living uses, or that nobody has named.

use std::fs;

use cbbootstrap_tests::{
    artifact,
    boto::Boto,
    cli::{Ended, User},
    ministack::MiniStack,
    proxy::{Fault, Proxy},
};
use serde_json::{Map, Value, json};

const ENVIRONMENTS: &str = "\
default_environment: dev
environments:
  dev: {stack_name: cbbootstrap-dev, table_name: cb-bootstrap-dev}
  prod: {stack_name: cbbootstrap-prod}
";

fn user_with_environments(aws: &MiniStack) -> User {
    let user = aws.user();
    fs::write(user.home.path().join("cbbootstrap.yaml"), ENVIRONMENTS).unwrap();
    user
}

fn destroy(user: &User, options: &[&str]) -> Ended {
    user.run(&[&["destroy", "--yes", "--delete-table", "--output", "json"], options].concat())
}

const SAME_TABLE: [&str; 2] = ["--table-name", "cb-bootstrap"];

fn tables(aws: &MiniStack) -> Value {
    aws.boto("client('dynamodb').list_tables()['TableNames']")
}

#[test]
fn another_stack_name_deletes_no_table_of_an_environment() {
    let aws = MiniStack::start();
    let user = user_with_environments(&aws);
    user.deploy(artifact::small_zip(), &["--env", "dev"]).ended_with(0);
    let no_stack = "there is no stack `cbbootstrap`";
    let other = ["--stack-name", "cbbootstrap"];
    destroy(&user, &other).failed(2, no_stack);
    destroy(&user, &["--stack-name", "cbbootstrap", "--env", "dev"]).failed(2, no_stack);
    let told = user.with("CBBOOTSTRAP_TABLE_NAME", "cb-bootstrap-dev");
    destroy(&told, &other).failed(2, no_stack);
    // Named, it is still the table of a living stack.
    destroy(&told, &[&other[..], &["--table-name", "cb-bootstrap-dev"]].concat())
        .failed(5, "table `cb-bootstrap-dev` is used by stack `cbbootstrap-dev`");
    assert_eq!(tables(&aws), json!(["cb-bootstrap-dev"]));
    destroy(&told, &["--env", "dev"]).ended_with(0);
    assert_eq!(tables(&aws), json!([]));
}

#[test]
fn another_stack_name_uses_no_table_of_an_environment() {
    let aws = MiniStack::start();
    let user = user_with_environments(&aws);
    let zip = ["--function-zip", artifact::small_zip()];
    let deploy = [&["deploy", "--yes", "--no-smoke"], &zip[..]].concat();
    let plan = [&["plan"], &zip[..]].concat();
    for command in [&deploy[..], &plan, &["iam-policy"], &["doctor"]] {
        let run = |options: &[&str]| user.run(&[command, options].concat());
        run(&["--stack-name", "other"])
            .failed(2, "belongs to the environment's stack `cbbootstrap-dev`");
        run(&["--stack-name", "cbbootstrap-dev", "--env", "prod"]).failed(2, "`cb-bootstrap`");
    }
    let other = user.with("CBBOOTSTRAP_STACK_NAME", "other");
    other.run(&plan).failed(2, "table `cb-bootstrap-dev` belongs");
    assert_eq!(tables(&aws), json!([]), "nothing was created");
    other.run(&[&plan[..], &["--table-name", "other"]].concat()).ended_with(0);
    other.with("CBBOOTSTRAP_TABLE_NAME", "other").run(&plan).ended_with(0);
}

#[test]
fn another_stack_does_not_use_the_default_table() {
    let user = User::default();
    let config = user.home.path().join("environments.yaml");
    fs::write(&config, "{environments: {dev: {stack_name: dev}, prod: {}}}").unwrap();
    let environment = |name| ["--config", config.to_str().unwrap(), "--env", name];
    let variable = User::default().with("CBBOOTSTRAP_STACK_NAME", "dev");
    for command in [
        &["deploy", "--function-zip", artifact::small_zip()][..],
        &["plan", "--function-zip", artifact::small_zip()],
        &["iam-policy"],
        &["doctor"],
        &["cluster", "list"],
        &["cluster", "show", "c"],
        &["cluster", "forget", "--yes", "c"],
    ] {
        let refused = |user: &User, options: &[&str]| {
            let ended = user.run(&[command, options].concat());
            ended.failed(2, "stack `dev` does not use the default table, `cb-bootstrap`");
            assert!(ended.stderr.contains("`--table-name`"), "{ended}");
        };
        if command[0] != "cluster" {
            refused(&user, &["--stack-name", "dev"]);
        }
        refused(&user, &environment("dev"));
        refused(&variable, &[]);
        refused(&variable, &environment("prod"));
    }
    for options in [&["--stack-name", "dev", "--table-name", "cb-bootstrap"][..], &[]] {
        user.run(&[&["iam-policy"], options].concat()).ended_with(0);
    }
    let local = ["cluster", "list", "--local", "--data", "nowhere"];
    variable.run(&local).failed(1, "there is no database");
}

#[test]
fn a_table_of_two_stacks_goes_with_the_last() {
    let aws = MiniStack::start();
    let user = aws.user();
    let deploy = ["deploy", "--no-smoke", "--function-zip", artifact::small_zip()];
    let second = [&deploy[..], &["--stack-name", "b"], &SAME_TABLE].concat();
    let first = [&["--stack-name", "a"], &SAME_TABLE[..]].concat();
    user.deploy(artifact::small_zip(), &first).ended_with(0);
    user.run(&second).failed(2, "was created for stack `a`");
    let plan = [&["--stack-name", "b"], &SAME_TABLE[..]].concat();
    let plan = user.plan(artifact::small_zip(), &plan);
    let risk = "uses table `cb-bootstrap`, which was created for stack `a`";
    assert_eq!(plan["losses"], json!([risk]), "{plan}");
    user.run(&[&second[..], &["--yes"]].concat()).ended_with(0);
    // The stack has it now.
    user.run(&second).ended_with(0);

    let before = aws.inventory();
    destroy(&user, &["--stack-name", "a"]).failed(5, "table `cb-bootstrap` is used by stack `b`");
    assert_eq!(aws.inventory(), before, "nothing is half-deleted");
    user.run(&["destroy", "--yes", "--stack-name", "a"]).ended_with(0);
    destroy(&user, &["--stack-name", "a", "--table-name", "cb-bootstrap"])
        .failed(5, "table `cb-bootstrap` is used by stack `b`");
    destroy(&user, &["--stack-name", "b"]).ended_with(0);
    assert_eq!(tables(&aws), json!([]));
}

#[test]
fn a_table_of_a_stack_without_parameters_stays() {
    let aws = MiniStack::start();
    let user = aws.user();
    user.deploy(artifact::small_zip(), &[]).ended_with(0);
    // As by CDK, which replaces the template's parameters.
    aws.boto(
        "client('cloudformation').create_stack(StackName='cdk', TemplateBody=json.dumps({\
         'Description': 'cbbootstrap: by CDK', 'Resources': {'Q': {'Type': 'AWS::SQS::Queue'}}, \
         'Outputs': {'TableName': {'Value': 'cb-bootstrap'}}}))",
    );
    destroy(&user, &[]).failed(5, "table `cb-bootstrap` is used by stack `cdk`");
    aws.boto("client('cloudformation').delete_stack(StackName='cdk')");
    destroy(&user, &["--no-backup"]).ended_with(0);
    assert_eq!(tables(&aws), json!([]));
}

/// Creates the stack `foreign` without tags.
fn create_foreign_stack(aws: &MiniStack, description: &str, parameters: &[(&str, &str)]) {
    let types: Map<_, _> =
        parameters.iter().map(|(name, _)| (name.to_string(), json!({"Type": "String"}))).collect();
    let template = json!({
        "Description": description, "Parameters": types, "Resources": {"Q": {"Type": "AWS::SQS::Queue"}},
    });
    let values: Value = parameters
        .iter()
        .map(|(name, value)| json!({"ParameterKey": name, "ParameterValue": value}))
        .collect();
    aws.boto(&format!(
        "client('cloudformation').create_stack(StackName='foreign', TemplateBody=json.dumps({template}), Parameters={values})"
    ));
}

#[test]
fn nothing_that_a_stack_of_another_tool_uses_is_deleted() {
    let aws = MiniStack::start();
    let user = aws.user();
    let deployed = user.deploy(artifact::small_zip(), &[]).document();
    let endpoint = deployed["endpoint"].as_str().unwrap();
    let bucket = aws.boto("client('s3').list_buckets()['Buckets'][0]['Name']");
    let bucket = bucket.as_str().unwrap();
    let artifact = [("ArtifactBucket", bucket), ("ArtifactKey", "cbbootstrap/used.zip")];
    // The first is as by CDK, which joins a stack's description and the template's.
    for description in ["My API\ncbbootstrap: tells the nodes", "A shop"] {
        for (parameters, options, error, hint) in [
            (
                &[("TableName", "cb-bootstrap")][..],
                &["--delete-table"][..],
                "table `cb-bootstrap` is used by stack `foreign`",
                "omit `--delete-table`, or delete stack `foreign` first",
            ),
            (
                &artifact,
                &["--delete-artifacts"],
                "is used by stack `foreign`",
                "omit `--delete-artifacts`, or delete stack `foreign` first",
            ),
            (
                &[("ApiEndpoint", endpoint)],
                &[],
                "stack `foreign` uses the API of stack `cbbootstrap`",
                "delete stack `foreign` first, with the tool that created it",
            ),
        ] {
            create_foreign_stack(&aws, description, parameters);
            let before = aws.inventory();
            let refused = user.run(&[&["destroy", "--yes"], options].concat());
            refused.failed(5, error);
            assert!(refused.stderr.contains(hint), "{refused}");
            assert_eq!(aws.inventory(), before, "nothing is half-deleted");
            aws.boto("client('cloudformation').delete_stack(StackName='foreign')");
        }
    }
    create_foreign_stack(&aws, "A shop", &[("ArtifactBucket", bucket)]);
    let list = user.run(&["list"]).ended_with(0).stdout;
    assert!(list.contains("cbbootstrap") && !list.contains("foreign"), "{list}");
    let options = ["--delete-artifacts", "--no-backup"];
    let destroyed = destroy(&user, &options).document();
    assert_eq!(destroyed["bucket_deleted"], json!(false), "{destroyed}");
    assert_eq!(tables(&aws), json!([]));
}

#[test]
fn without_the_list_of_stacks_only_the_own_table_is_deleted() {
    let aws = MiniStack::start();
    let user = aws.user();
    for stack in ["a", "b"] {
        let options = [&["--stack-name", stack, "--yes"], &SAME_TABLE[..]].concat();
        user.deploy(artifact::small_zip(), &options).ended_with(0);
    }
    user.run(&["destroy", "--yes", "--stack-name", "a"]).ended_with(0);
    let proxy = Proxy::start(&aws);
    proxy.fault(|call| {
        let lists = call.name == "cloudformation:DescribeStacks";
        (lists && call.parameter("StackName").is_empty()).then(|| Fault::denied(call))
    });
    // The table was created for a stack that is gone; stacks that use it are not known.
    let before = aws.inventory();
    destroy(&proxy.user(), &["--stack-name", "b"]).failed(1, "cannot list the stacks");
    assert_eq!(aws.inventory(), before, "nothing is half-deleted");
    user.run(&["destroy", "--yes", "--stack-name", "b"]).ended_with(0);

    let named = ["--stack-name", "a", "--table-name", "cb-bootstrap", "--delete-artifacts"];
    let destroyed = destroy(&proxy.user(), &named).ended_with(0);
    let warning = "so another stack might use table `cb-bootstrap` and the stack's artifacts";
    assert_eq!(destroyed.stderr.matches(warning).count(), 1, "{destroyed}");
    assert_eq!(tables(&aws), json!([]));
}

#[test]
fn artifacts_of_another_stack_stay() {
    let aws = MiniStack::start();
    let user = aws.user();
    user.deploy(artifact::small_zip(), &[]).ended_with(0);
    let bucket = aws.boto("client('s3').list_buckets()['Buckets'][0]['Name']");
    let by_hand = |key: &str| {
        aws.boto(&format!(
            "client('cloudformation').create_stack(StackName='by-hand', TemplateBody=json.dumps({{\
             'Description': 'cbbootstrap: by hand', 'Resources': {{'Q': {{'Type': 'AWS::SQS::Queue'}}}}, \
             'Parameters': {{'ArtifactBucket': {{'Type': 'String'}}, 'ArtifactKey': {{'Type': 'String'}}}}}}), \
             Parameters=[{{'ParameterKey': 'ArtifactBucket', 'ParameterValue': {bucket}}}, \
             {{'ParameterKey': 'ArtifactKey', 'ParameterValue': '{key}'}}])"
        ))
    };
    by_hand("cbbootstrap/used.zip");
    let destroy = ["destroy", "--yes", "--delete-artifacts", "--output", "json"];
    user.run(&destroy).failed(5, "is used by stack `by-hand`");
    aws.boto("client('cloudformation').delete_stack(StackName='by-hand')");
    by_hand("elsewhere/used.zip");
    let destroyed = user.run(&destroy).document();
    assert_eq!(destroyed["bucket_deleted"], json!(false), "{destroyed}");
    assert_eq!(destroyed["artifacts_deleted"], json!(1), "{destroyed}");
}

#[test]
fn statements_of_others_in_the_policy_of_the_bucket_stay() {
    let aws = MiniStack::start();
    let user = aws.user();
    user.deploy(artifact::small_zip(), &[]).ended_with(0);
    let bucket = "cbbootstrap-artifacts-000000000000-us-east-1";
    let statement = json!({
        "Sid": "Nodes", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "s3:GetObject",
        "Resource": format!("arn:aws:s3:::{bucket}/packages/*"),
    });
    let policy = json!({"Version": "2012-10-17", "Statement": [statement]});
    aws.boto(&format!(
        "client('s3').put_bucket_policy(Bucket='{bucket}', Policy=json.dumps({policy}))"
    ));
    user.deploy(artifact::small_zip_number(1), &[]).ended_with(0);
    let ids = aws.boto(&format!(
        "[s['Sid'] for s in json.loads(client('s3').get_bucket_policy(Bucket='{bucket}')['Policy'])['Statement']]"
    ));
    assert_eq!(ids, json!(["Nodes", "TlsOnly"]));
}

#[test]
fn a_table_is_backed_up_before_it_is_deleted() {
    let aws = MiniStack::start();
    let user = aws.user();
    let backups = || {
        aws.boto("[b['BackupArn'] for b in client('dynamodb').list_backups()['BackupSummaries']]")
    };
    user.deploy(artifact::small_zip(), &[]).ended_with(0);
    let destroyed = destroy(&user, &[]).document();
    assert_eq!(backups(), json!([destroyed["backup_arn"]]), "{destroyed}");
    user.deploy(artifact::small_zip(), &[]).ended_with(0);
    let destroyed = destroy(&user, &["--no-backup"]).document();
    assert_eq!(
        (&destroyed["backup_arn"], &destroyed["table_deleted"]),
        (&Value::Null, &json!(true))
    );
    assert_eq!(backups().as_array().unwrap().len(), 1);
}

#[test]
fn a_table_that_cannot_be_backed_up_is_kept() {
    let aws = MiniStack::start();
    aws.user().deploy(artifact::small_zip(), &[]).ended_with(0);
    let proxy = Proxy::start(&aws);
    proxy.fault(|call| (call.name == "dynamodb:CreateBackup").then(|| Fault::denied(call)));
    let stopped = destroy(&proxy.user(), &[]).ended_with(1);
    for part in ["the stack is deleted, but table", "cannot back up table `cb-bootstrap`"] {
        assert!(stopped.stderr.contains(part), "{stopped}");
    }
    let again = destroy(&proxy.user(), &["--table-name", "cb-bootstrap"]).ended_with(1);
    assert!(again.stderr.contains("error: cannot back up table"), "{again}");
    assert_eq!(tables(&aws), json!(["cb-bootstrap"]));
}

#[test]
fn a_table_that_is_used_again_during_its_backup_is_kept() {
    let aws = MiniStack::start();
    let other = aws.user();
    other.deploy(artifact::small_zip(), &[]).ended_with(0);
    let proxy = Proxy::start(&aws);
    let mut has_deployed = false;
    proxy.fault(move |call| {
        if call.name == "dynamodb:DescribeBackup" && !has_deployed {
            has_deployed = true;
            other.deploy(artifact::small_zip(), &[]).ended_with(0);
        }
        None
    });
    let stopped = destroy(&proxy.user(), &[]).ended_with(5);
    let used = "table `cb-bootstrap` is used by stack `cbbootstrap`";
    assert!(stopped.stderr.contains(used), "{stopped}");
    assert_eq!(tables(&aws), json!(["cb-bootstrap"]));
}

#[test]
fn a_table_that_is_deleted_with_the_stack_during_a_deployment_is_created_again() {
    let aws = MiniStack::start();
    let other = aws.user();
    other.deploy(artifact::small_zip(), &[]).ended_with(0);
    let proxy = Proxy::start(&aws);
    let mut has_destroyed = false;
    proxy.fault(move |call| {
        if call.name == "cloudformation:CreateChangeSet" && !has_destroyed {
            has_destroyed = true;
            destroy(&other, &["--no-backup"]).ended_with(0);
        }
        None
    });
    let deployed = proxy.user().deploy(artifact::small_zip_number(1), &[]).ended_with(0);
    assert!(deployed.stderr.contains("another deployment changed the stack"), "{deployed}");
    assert_eq!(tables(&aws), json!(["cb-bootstrap"]));
}

#[test]
fn a_table_that_is_deleted_while_its_stack_is_created_is_created_again() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let boto = Boto::new(&aws.url);
    let mut has_deleted = false;
    proxy.fault(move |call| {
        if call.name == "cloudformation:ExecuteChangeSet" && !has_deleted {
            has_deleted = true;
            boto.value(
                "[client('dynamodb').update_table(TableName='cb-bootstrap', DeletionProtectionEnabled=False), \
                 client('dynamodb').delete_table(TableName='cb-bootstrap')]",
            );
        }
        None
    });
    let deployed = proxy.user().deploy(artifact::small_zip(), &[]).ended_with(0);
    assert!(deployed.stderr.contains("`cb-bootstrap` created again"), "{deployed}");
    assert_eq!(tables(&aws), json!(["cb-bootstrap"]));
}

#[test]
fn a_table_that_cannot_be_deleted_is_protected_again() {
    let aws = MiniStack::start();
    aws.user().deploy(artifact::small_zip(), &[]).ended_with(0);
    let proxy = Proxy::start(&aws);
    let is_protected = || {
        let table = "client('dynamodb').describe_table(TableName='cb-bootstrap')['Table']";
        aws.boto(&format!("{table}['DeletionProtectionEnabled']"))
    };
    let options = ["--no-backup", "--table-name", "cb-bootstrap"];
    proxy.fault(|call| (call.name == "dynamodb:DeleteTable").then(|| Fault::denied(call)));
    let denied = destroy(&proxy.user(), &options).ended_with(1);
    assert!(denied.stderr.contains("cannot delete table `cb-bootstrap`"), "{denied}");
    assert!(!denied.stderr.contains("no longer protected"), "{denied}");
    assert_eq!(is_protected(), json!(true));

    proxy.fault(|call| {
        let protects = call.parameters["DeletionProtectionEnabled"] == true;
        (protects || call.name == "dynamodb:DeleteTable").then(|| Fault::denied(call))
    });
    let denied = destroy(&proxy.user(), &options).ended_with(1);
    let hint = "--table-name arn:aws:dynamodb:us-east-1:000000000000:table/cb-bootstrap --deletion-protection-enabled";
    assert!(denied.stderr.contains(hint), "{denied}");
    assert_eq!(is_protected(), json!(false));
}

/// The first answer to `UpdateTable` is lost, and the next calls of it are refused in this way.
fn lose_update(proxy: &Proxy, times: usize, refusal: Fault) {
    let mut calls = 0;
    proxy.fault(move |call| {
        calls += usize::from(call.name == "dynamodb:UpdateTable");
        match calls {
            _ if call.name != "dynamodb:UpdateTable" => None,
            1 => Some(Fault::DropAnswer),
            _ => (calls <= times + 1).then(|| refusal.clone()),
        }
    });
}

#[test]
fn a_repeated_update_of_a_table_does_no_harm() {
    let aws = MiniStack::start();
    aws.user().deploy(artifact::small_zip(), &[]).ended_with(0);
    let proxy = Proxy::start(&aws);
    let user = proxy.user();
    let refusal = |code| Fault::refuse(code, "Attempt to change a resource which is in use");
    for option in ["--max-read-units=100", "--max-write-units=100", "--max-read-units=0"] {
        lose_update(&proxy, 1, refusal("ResourceInUseException"));
        user.deploy(artifact::small_zip(), &[option]).ended_with(0);
        assert_eq!(user.plan(artifact::small_zip(), &[option])["changed"], json!(false));
    }
    let is_protected = || {
        let table = "client('dynamodb').describe_table(TableName='cb-bootstrap')['Table']";
        aws.boto(&format!("{table}['DeletionProtectionEnabled']"))
    };
    let options = ["--no-backup", "--table-name", "cb-bootstrap"];
    lose_update(&proxy, 1, refusal("AccessDeniedException"));
    let denied = destroy(&user, &options).ended_with(1);
    assert!(!denied.stderr.contains("no longer protected"), "{denied}");
    assert_eq!(is_protected(), json!(true));
    lose_update(&proxy, 2, refusal("AccessDeniedException"));
    let denied = destroy(&user, &options).ended_with(1);
    assert!(denied.stderr.contains("no longer protected"), "{denied}");
    assert_eq!(is_protected(), json!(false));
    aws.boto(
        "client('dynamodb').update_table(TableName='cb-bootstrap', DeletionProtectionEnabled=True)",
    );
    lose_update(&proxy, 1, refusal("ResourceInUseException"));
    destroy(&user, &options).ended_with(0);
    assert_eq!(tables(&aws), json!([]));
}

#[test]
fn an_update_of_a_table_ends_before_its_deletion() {
    let aws = MiniStack::start();
    aws.user().deploy(artifact::small_zip(), &[]).ended_with(0);
    let proxy = Proxy::start(&aws);
    let mut reads = 0;
    proxy.fault(move |call| {
        reads += usize::from(call.name == "dynamodb:DescribeTable");
        let is_updating = call.name == "dynamodb:DescribeTable" && reads < 4;
        is_updating.then(|| Fault::Replace("ACTIVE".to_owned(), "UPDATING".to_owned()))
    });
    destroy(&proxy.user(), &["--no-backup"]).ended_with(0);
    let calls: Vec<_> = proxy.calls().into_iter().map(|call| call.name).collect();
    let change = calls.iter().position(|call| call == "dynamodb:UpdateTable").unwrap();
    let reads = calls[..change].iter().filter(|call| *call == "dynamodb:DescribeTable");
    assert!(reads.count() >= 4, "{calls:?}");
}
