//! Options of `deploy`: what each changes, and what it leaves alone.

use std::{fs, path::Path, time::Duration};

use cbbootstrap_tests::{
    artifact, http,
    ministack::{BUCKET, MiniStack},
    proxy::{Call, Fault, Proxy, Rounds},
};
use serde_json::{Value, json};
use tempfile::tempdir;

fn stack(aws: &MiniStack) -> Value {
    aws.boto("client('cloudformation').describe_stacks(StackName='cbbootstrap')['Stacks'][0]")
}

fn function(aws: &MiniStack) -> Value {
    aws.boto(
        "client('lambda').get_function_configuration(FunctionName=client('cloudformation').describe_stack_resource(\
         StackName='cbbootstrap', LogicalResourceId='Function')['StackResourceDetail']['PhysicalResourceId'])",
    )
}

#[test]
fn an_unchanged_deployment_takes_two_rounds_of_calls() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    aws.user().deploy(artifact::small_zip(), &[]).document();
    proxy.fault(|_| Some(Fault::Delay(Duration::from_secs(1))));
    let again = proxy.user().deploy(artifact::small_zip(), &[]).document();
    assert_eq!(again["changed"], json!(false), "{again}");
    let rounds = Rounds::new(&proxy.calls());
    assert!(rounds.count() <= 2, "{rounds}");
    for call in ["cloudformation:CreateChangeSet", "s3:PutObject", "s3:HeadObject"] {
        assert_eq!(proxy.count(call), 0, "{rounds}");
    }
}

#[test]
fn code_only_is_settled_by_the_next_deployment() {
    let aws = MiniStack::start();
    let user = aws.user();
    let changed = artifact::changed_zip();
    let code_only = ["deploy", "--code-only", "--function-zip", changed];
    user.run(&code_only).failed(5, "there is no stack `cbbootstrap`");

    let deployed = user.deploy(artifact::zip(), &["--parameter", "LogLevel=debug"]).document();
    let (stack_before, before) = (stack(&aws), function(&aws));
    let replaced = user.run(&[&code_only[..], &["--output", "json"]].concat()).document();
    assert_eq!(replaced["changed"], json!(true), "{replaced}");
    assert_eq!(replaced["smoke"]["passed"], json!(true), "{replaced}");
    assert_eq!(replaced["function_version"], json!("1"), "{replaced}");
    assert_ne!(replaced["function_sha256"], deployed["function_sha256"]);
    let after = function(&aws);
    assert_eq!(after["Environment"], before["Environment"], "the environment stays");
    assert_eq!(after["Environment"]["Variables"]["RUST_LOG"], json!("debug"));
    assert_ne!(after["CodeSha256"], before["CodeSha256"]);
    assert_eq!(stack(&aws), stack_before, "the stack is not touched");
    let again = user.run(&[&code_only[..], &["--output", "json"]].concat()).document();
    assert_eq!(again["changed"], json!(false), "{again}");
    assert_eq!(again["function_version"], Value::Null, "{again}");

    // The stack still names the old code: a full deployment of it sees that, and settles it.
    let options = ["--parameter", "LogLevel=debug"];
    let plan_of_old = user.plan(artifact::zip(), &options);
    assert_eq!(
        (&plan_of_old["changed"], &plan_of_old["restores_code"]),
        (&json!(true), &json!(true)),
        "{plan_of_old}"
    );
    let settled = user.deploy(artifact::zip(), &options).document();
    assert_eq!(settled["changed"], json!(true), "{settled}");
    assert_eq!(function(&aws)["CodeSha256"], before["CodeSha256"]);
    assert_eq!(user.deploy(artifact::zip(), &options).document()["changed"], json!(false));
    // Even where the stack changes otherwise: CloudFormation itself leaves code alone that the template did not change.
    user.run(&code_only).ended_with(0);
    let settled = user.deploy(artifact::zip(), &["--parameter", "LogLevel=info"]).document();
    assert_eq!(settled["changed"], json!(true), "{settled}");
    let now = function(&aws);
    assert_eq!(now["CodeSha256"], before["CodeSha256"]);
    assert_eq!(now["Environment"]["Variables"]["RUST_LOG"], json!("info"));
    // So does one of the new code, through the stack.
    user.run(&code_only).ended_with(0);
    let settled = user.deploy(changed, &options).document();
    assert_eq!(settled["changed"], json!(true), "{settled}");
    assert_eq!(function(&aws)["CodeSha256"], after["CodeSha256"]);

    // What would take more than code is refused.
    user.run(&[&code_only[..], &["--table-name", "other"]].concat())
        .failed(2, "parameter `TableName`");
}

#[test]
fn code_is_uploaded_again_only_after_another_update() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    aws.user().deploy(artifact::small_zip(), &[]).ended_with(0);
    let (mut uploads, mut reads) = (0, 0);
    proxy.fault(move |call| match call.name.as_str() {
        "lambda:UpdateFunctionCode" => {
            uploads += 1;
            (uploads == 1)
                .then(|| Fault::refuse("ResourceConflictException", "An update is in progress"))
        }
        "lambda:GetFunctionConfiguration" if uploads == 1 => {
            reads += 1;
            let busy = json!({"State": "Active", "LastUpdateStatus": "InProgress"});
            (reads <= 3).then(|| Fault::Answer(busy.to_string()))
        }
        _ => None,
    });
    let zip = artifact::small_zip_number(2);
    let code_only = ["deploy", "--code-only", "--no-smoke", "--function-zip", zip];
    proxy.user().run(&code_only).ended_with(0);
    assert_eq!(proxy.count("lambda:UpdateFunctionCode"), 2);
    assert!(proxy.count("lambda:GetFunctionConfiguration") > 4);
}

#[test]
fn topics_are_removed_only_on_request() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let topics = |options: &[&str]| {
        proxy.reset();
        proxy.user().plan(artifact::small_zip(), options);
        let create = proxy.wait_for("cloudformation:CreateChangeSet");
        let parameters = create.parameters.as_object().unwrap().clone();
        parameters.into_iter().filter(|(name, _)| name.starts_with("Notif")).collect::<Value>()
    };
    assert_eq!(topics(&[]), json!({}));
    assert_eq!(topics(&["--notification-arn=none"]), json!({"NotificationARNs": ""}));
}

#[test]
fn stack_options_apply_and_return_to_their_defaults() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let user = proxy.user();
    let topic = "arn:aws:sns:us-east-1:000000000000:deployments";
    let alarm_topic = format!("AlarmTopicArn={topic}");
    let options = [
        "--tag",
        "team=data",
        "--parameter",
        &alarm_topic,
        "--parameter",
        "MemorySize=512",
        "--protect",
        "--notification-arn",
        topic,
    ];
    user.deploy(artifact::small_zip(), &options).document();
    let made = stack(&aws);
    assert!(
        made["Tags"].as_array().unwrap().contains(&json!({"Key": "team", "Value": "data"})),
        "{made}"
    );
    assert_eq!(made["EnableTerminationProtection"], json!(true), "{made}");
    assert_eq!(function(&aws)["MemorySize"], json!(512));
    let alarms = || {
        aws.boto(
            "[a['AlarmActions'] for a in client('cloudwatch').describe_alarms()['MetricAlarms']]",
        )
    };
    assert_eq!(alarms(), json!([[topic], [topic]]));
    let table_tags = aws.boto(
        "client('dynamodb').list_tags_of_resource(ResourceArn=client('dynamodb').describe_table(TableName='cb-bootstrap')\
         ['Table']['TableArn'])['Tags']",
    );
    assert!(
        table_tags.as_array().unwrap().contains(&json!({"Key": "team", "Value": "data"})),
        "{table_tags}"
    );
    let create = proxy.wait_for("cloudformation:CreateChangeSet");
    assert_eq!(create.parameter("NotificationARNs.member.1"), topic, "{create}");

    user.run(&["destroy", "--yes"]).failed(5, "protected against deletion");
    // Another size, no tag, no protection.
    let options = ["--parameter", "MemorySize=1024", "--protect=false"];
    let planned = user.plan(artifact::small_zip(), &options);
    assert_eq!(
        planned["parameters"],
        json!([
            {"name": "AlarmTopicArn", "before": topic, "after": ""},
            {"name": "MemorySize", "before": "512", "after": "1024"},
        ]),
        "{planned}"
    );
    assert_eq!(
        planned["tags"],
        json!([{"name": "team", "before": "data", "after": null}]),
        "{planned}"
    );
    assert_eq!(planned["protect"], json!(false), "{planned}");
    user.deploy(artifact::small_zip(), &options).document();
    assert_eq!(function(&aws)["MemorySize"], json!(1024));
    assert_eq!(alarms(), json!([[], []]));
    assert_eq!(stack(&aws)["EnableTerminationProtection"], json!(false));
    let exit_code = [
        "plan",
        "--exit-code",
        "--function-zip",
        artifact::small_zip(),
        "--parameter",
        "MemorySize=1024",
    ];
    user.run(&exit_code).ended_with(0);
    user.run(&exit_code[..4]).ended_with(2);
    user.run(&["destroy", "--yes"]).ended_with(0);
}

#[test]
fn options_reach_cloudformation() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let user = proxy.user();
    let changed = artifact::small_zip_number(1);
    let role = "arn:aws:iam::000000000000:role/deployer";
    let told = || -> Call {
        let calls = proxy.calls();
        let made = calls.iter().rfind(|call| call.name == "cloudformation:CreateChangeSet");
        made.cloned().unwrap()
    };
    let trigger = "RollbackConfiguration.RollbackTriggers.member.1.Arn";
    user.deploy(artifact::small_zip(), &["--role-arn", role]).document();
    assert_eq!(told().parameter("RoleARN"), role);
    assert_eq!(told().parameter(trigger), "", "there is no alarm yet");

    user.deploy(changed, &["--rollback-minutes", "3"]).document();
    let update = told();
    assert!(update.parameter(trigger).contains(":alarm:"), "{update}");
    assert_eq!(update.parameter("RollbackConfiguration.MonitoringTimeInMinutes"), "3");
    assert_eq!(update.parameter("StackPolicyBody"), "", "the stack policy is the user's");

    user.deploy(artifact::small_zip(), &[]).document();
    assert_eq!(told().parameter(trigger), "");
    let express =
        user.run(&["deploy", "--no-smoke", "--express", "--function-zip", changed]).ended_with(0);
    assert!(express.stderr.contains("before the resources are ready"), "{express}");
    assert_eq!(told().parameter("DeploymentConfig.Mode"), "EXPRESS");
    assert_eq!(told().parameter(trigger), "");
}

#[test]
fn permissions_boundary_reaches_the_role() {
    let aws = MiniStack::start();
    let user = aws.user();
    let boundary = "arn:aws:iam::000000000000:policy/boundary";
    user.run(&["plan", "--permissions-boundary", "boundary"]).failed(2, "policy/NAME");
    user.deploy(artifact::small_zip(), &["--permissions-boundary", boundary]).document();
    let parameters = stack(&aws)["Parameters"].clone();
    let expected = json!({"ParameterKey": "PermissionsBoundary", "ParameterValue": boundary});
    assert!(parameters.as_array().unwrap().contains(&expected), "{parameters}");
    let planned = user.plan(artifact::small_zip(), &[]);
    assert_eq!(
        planned["parameters"],
        json!([{"name": "PermissionsBoundary", "before": boundary, "after": ""}]),
        "{planned}"
    );
}

#[test]
fn concurrency_and_requests_have_limits_on_request() {
    let aws = MiniStack::start();
    let user = aws.user();
    let limits =
        ["--parameter", "ReservedConcurrency=20", "--parameter", "RequestAlarmThreshold=3000"];
    let request_alarms = || {
        aws.boto(
            "[[a['MetricName'], a['Threshold'], a['Period']] for a in client('cloudwatch')\
             .describe_alarms()['MetricAlarms'] if 'RequestAlarm' in a['AlarmName']]",
        )
    };
    user.deploy(artifact::small_zip(), &limits).document();
    assert_eq!(request_alarms(), json!([["Count", 3000.0, 300]]));
    let parameters = stack(&aws)["Parameters"].clone();
    let expected = json!({"ParameterKey": "ReservedConcurrency", "ParameterValue": "20"});
    assert!(parameters.as_array().unwrap().contains(&expected), "{parameters}");
    user.deploy(artifact::small_zip(), &[]).document();
    assert_eq!(request_alarms(), json!([]));
}

#[test]
fn ceilings_of_the_table_change_only_on_request() {
    let aws = MiniStack::start();
    let user = aws.user();
    let ceilings = |table: &str| {
        let throughput = aws.boto(&format!(
            "client('dynamodb').describe_table(TableName='{table}')['Table'].get('OnDemandThroughput')"
        ));
        ["MaxReadRequestUnits", "MaxWriteRequestUnits"].map(|name| throughput[name].clone())
    };
    let deploy = |options: &[&str]| user.deploy(artifact::small_zip(), options).document();
    deploy(&["--max-read-units", "100", "--max-write-units", "50"]);
    assert_eq!(ceilings("cb-bootstrap"), [json!(100), json!(50)]);
    assert_eq!(deploy(&[])["changed"], json!(false));
    assert_eq!(ceilings("cb-bootstrap"), [json!(100), json!(50)]);

    let options = ["--max-read-units", "200", "--max-write-units", "0"];
    let planned = user.plan(artifact::small_zip(), &options);
    assert_eq!(
        planned["table"],
        json!([
            {"name": "max-read-units", "before": "100", "after": "200"},
            {"name": "max-write-units", "before": "50", "after": null},
        ]),
        "{planned}"
    );
    assert_eq!(deploy(&options)["changed"], json!(true));
    assert_eq!(ceilings("cb-bootstrap"), [json!(200), json!(-1)]);
    assert_eq!(user.plan(artifact::small_zip(), &options)["changed"], json!(false));
    let status = user.run(&["status", "--output", "json"]).document();
    assert_eq!(status["table"]["max_read_units"], json!(200), "{status}");
    assert_eq!(status["table"]["max_write_units"], Value::Null, "{status}");

    // A table of the user.
    aws.boto(
        "client('dynamodb').create_table(TableName='theirs', BillingMode='PAY_PER_REQUEST', \
         KeySchema=[{'AttributeName': 'cluster_id', 'KeyType': 'HASH'}], \
         AttributeDefinitions=[{'AttributeName': 'cluster_id', 'AttributeType': 'S'}])",
    );
    deploy(&["--stack-name", "other", "--table-name", "theirs", "--max-read-units", "100"]);
    assert_eq!(ceilings("theirs"), [Value::Null, Value::Null]);
}

#[test]
fn a_kms_key_encrypts_what_a_deployment_stores() {
    let aws = MiniStack::start();
    let user = aws.user();
    let key = aws.boto("client('kms').create_key()['KeyMetadata']['Arn']");
    let key = key.as_str().unwrap();
    let table_key = || {
        let table =
            aws.boto("client('dynamodb').describe_table(TableName='cb-bootstrap')['Table']");
        let encryption = &table["SSEDescription"];
        let is_on = encryption["Status"] == "ENABLED";
        if is_on { encryption["KMSMasterKeyArn"].clone() } else { Value::Null }
    };
    let log_keys = || {
        aws.boto(
            "[g.get('kmsKeyId') for g in client('logs').describe_log_groups()['logGroups'] \
             if g['logGroupName'].endswith('x') or 'Logs' in g['logGroupName']]",
        )
    };
    user.run(&["plan", "--kms-key", "alias/mine"]).failed(2, "key/ID");
    // A table that exists gets the key after the stack.
    user.deploy(artifact::small_zip(), &[]).document();
    assert_eq!(table_key(), Value::Null);
    let planned = user.plan(artifact::small_zip(), &["--kms-key", key]);
    assert_eq!(planned["table"], json!([{"name": "kms-key", "before": null, "after": key}]));
    // The stand-in replaces log groups for another key, which AWS does not.
    let deployed = user.deploy(artifact::small_zip(), &["--yes", "--kms-key", key]).document();
    assert_eq!(deployed["changed"], json!(true), "{deployed}");
    assert_eq!(table_key(), json!(key));
    assert_eq!(log_keys(), json!([key, key]));
    let parameters = stack(&aws)["Parameters"].clone();
    let expected = json!({"ParameterKey": "KmsKeyArn", "ParameterValue": key});
    assert!(parameters.as_array().unwrap().contains(&expected), "{parameters}");
    let again = user.deploy(artifact::small_zip(), &["--kms-key", key]).document();
    assert_eq!(again["changed"], json!(false), "{again}");
    // The function may use the table's former key until the table has the new one, and Lambda the key of the environment.
    let keys = function_may_use_keys(&aws);
    assert_eq!(
        (&keys[0][0], &keys[1]),
        (&json!("arn:aws:kms:us-east-1:*:key/*"), &json!([key, null]))
    );

    // Without the option, AWS's key returns, also if a change of the key was interrupted before it reached the table.
    aws.boto(
        "client('dynamodb').update_table(TableName='cb-bootstrap', SSESpecification={'Enabled': True, 'SSEType': 'KMS', \
         'KMSMasterKeyId': 'arn:aws:kms:us-east-1:000000000000:key/former'})",
    );
    user.deploy(artifact::small_zip(), &["--yes"]).document();
    assert_eq!(table_key(), Value::Null);
    assert_eq!(log_keys(), json!([null, null]));

    // A new table has the key from the start, and the bucket gets it with the next zip.
    user.run(&["destroy", "--yes", "--delete-table", "--no-backup"]).ended_with(0);
    user.deploy(artifact::small_zip_number(1), &["--kms-key", key]).document();
    assert_eq!(table_key(), json!(key));
    let bucket = aws.boto(&format!(
        "client('s3').get_bucket_encryption(Bucket='{BUCKET}')['ServerSideEncryptionConfiguration']['Rules'][0]\
         ['ApplyServerSideEncryptionByDefault']"
    ));
    assert_eq!(bucket, json!({"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}));

    // A stack without a key can use a table with one.
    user.run(&["destroy", "--yes"]).ended_with(0);
    user.deploy(artifact::small_zip(), &[]).document();
    assert_eq!(table_key(), json!(key));
    assert_eq!(
        function_may_use_keys(&aws),
        json!([["arn:aws:kms:us-east-1:*:key/*", {
            "StringEquals": {"kms:EncryptionContext:aws:dynamodb:tableName": "cb-bootstrap"},
            "StringLike": {"kms:ViaService": "dynamodb.us-east-1.*"},
        }]])
    );
}

/// With which keys the function's role may decrypt, and on which conditions.
fn function_may_use_keys(aws: &MiniStack) -> Value {
    aws.boto(
        "[[s['Resource'], s.get('Condition')] for s in client('iam').get_role_policy(PolicyName='table-and-log', RoleName=\
         client('cloudformation').describe_stack_resource(StackName='cbbootstrap', LogicalResourceId='Role')\
         ['StackResourceDetail']['PhysicalResourceId'])['PolicyDocument']['Statement'] if 'kms:Decrypt' in s['Action']]",
    )
}

#[test]
fn losing_stored_data_needs_confirmation() {
    let (aws, directory) = (MiniStack::start(), tempdir().unwrap());
    let proxy = Proxy::start(&aws);
    let user = proxy.user();
    // A stack of an earlier template, with a log group that is no longer in it, and a queue that somebody added.
    let template =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates/stack.yaml"))
            .unwrap();
    let older = template
        .replace("\nOutputs:\n", "\n  OldLogs:\n    Type: AWS::Logs::LogGroup\n\n  Queue:\n    Type: AWS::SQS::Queue\n\nOutputs:\n");
    user.deploy(artifact::small_zip(), &[]).document();
    let file = directory.path().join("older.yaml");
    fs::write(&file, &older).unwrap();
    aws.boto(&format!(
        "client('cloudformation').update_stack(StackName='cbbootstrap', TemplateBody=open('{}').read(), \
         Capabilities=['CAPABILITY_IAM'], Parameters=[{{'ParameterKey': p['ParameterKey'], 'UsePreviousValue': True}} \
         for p in client('cloudformation').describe_stacks(StackName='cbbootstrap')['Stacks'][0]['Parameters']])",
        file.display()
    ));
    let lost = "removes `OldLogs`, which deletes the logs in it";
    let queue = "removes `Queue` (AWS::SQS::Queue), which deletes any data in it";
    let planned = user.plan(artifact::small_zip(), &[]);
    assert_eq!(planned["losses"], json!([lost, queue]), "{planned}");
    let mut args = vec![
        "deploy",
        "--no-smoke",
        "--function-zip",
        artifact::small_zip(),
        "--max-write-units=7",
    ];
    user.run(&args).failed(2, lost);
    let changed = || proxy.count("dynamodb:UpdateTable");
    assert_eq!(changed(), 0, "the table changes after the question");
    let left = aws.boto(
        "[c['ExecutionStatus'] for c in client('cloudformation').list_change_sets(StackName='cbbootstrap')['Summaries']]",
    );
    assert!(!left.as_array().unwrap().contains(&json!("AVAILABLE")), "{left}");
    args.push("--yes");
    user.run(&args).ended_with(0);
    assert_eq!(changed(), 1);
    let again = user.deploy(artifact::small_zip(), &[]).document();
    assert_eq!(again["changed"], json!(false), "{again}");
}

#[test]
fn artifacts_are_kept_by_count_and_by_name() {
    let aws = MiniStack::start();
    let user = aws.user();
    let keys = || {
        let objects = aws.boto(&format!(
            "[o['Key'] for o in client('s3').list_objects_v2(Bucket='{BUCKET}')['Contents']]"
        ));
        let keys: Vec<String> = serde_json::from_value(objects).unwrap();
        keys
    };
    let key = |sha256: &Value| format!("cbbootstrap/{}.zip", sha256.as_str().unwrap());
    // Another stack's, and something that is nobody's.
    aws.boto("client('s3').create_bucket(Bucket='cbbootstrap-artifacts-000000000000-us-east-1')");
    for name in ["other/a.zip", "notes.txt"] {
        aws.boto(&format!("client('s3').put_object(Bucket='{BUCKET}', Key='{name}', Body=b'x')"));
    }
    let mut deployed = Vec::new();
    for number in 0..7 {
        let zip = artifact::small_zip_number(number);
        deployed.push(key(&user.deploy(zip, &[]).document()["function_sha256"]));
    }
    let kept = keys();
    for (number, key) in deployed.iter().enumerate() {
        assert_eq!(kept.contains(key), number >= 2, "{number}: {kept:?}");
    }
    assert!(
        kept.iter().any(|key| key == "other/a.zip") && kept.iter().any(|key| key == "notes.txt")
    );

    let destroyed =
        user.run(&["destroy", "--yes", "--delete-artifacts", "--output", "json"]).document();
    assert_eq!(destroyed["artifacts_deleted"], json!(5), "{destroyed}");
    assert_eq!(destroyed["bucket_deleted"], json!(false), "{destroyed}");
    assert_eq!(keys(), ["notes.txt", "other/a.zip"]);
}

#[test]
fn an_artifact_that_is_used_again_becomes_the_newest() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let user = proxy.user();
    let old = artifact::small_zip();
    user.deploy(old, &[]).ended_with(0);
    user.deploy(artifact::small_zip_number(1), &[]).ended_with(0);
    proxy.reset();
    user.deploy(old, &[]).ended_with(0);
    assert_eq!(proxy.count("s3:PutObject"), 1);
    // The stack names it now, so nobody deletes it.
    user.deploy(old, &["--parameter", "MemorySize=512"]).ended_with(0);
    assert_eq!(proxy.count("s3:PutObject"), 1);
}

#[test]
fn results_are_written_for_github_actions() {
    let (aws, directory) = (MiniStack::start(), tempdir().unwrap());
    let file = |name: &str| directory.path().join(name).display().to_string();
    let user = aws
        .user()
        .with("GITHUB_OUTPUT", file("output"))
        .with("GITHUB_STEP_SUMMARY", file("summary"));
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    user.plan(artifact::zip(), &[]);
    assert!(read("output").contains("changed=true\n"), "{}", read("output"));
    assert!(read("summary").contains("table cb-bootstrap"), "{}", read("summary"));
    let deployed =
        user.run(&["deploy", "--output", "json", "--function-zip", artifact::zip()]).document();
    let endpoint = deployed["endpoint"].as_str().unwrap();
    assert!(read("output").contains(&format!("endpoint={endpoint}\n")), "{}", read("output"));
    assert!(read("output").contains("smoke_passed=true\n"), "{}", read("output"));
    assert!(read("summary").contains("Smoke test"), "{}", read("summary"));
    assert_eq!(http::claim(endpoint, "c", "a").unwrap().status, 200);
    user.run(&["deploy", "--table-name", "other", "--function-zip", artifact::zip()])
        .failed(2, "`cb-bootstrap`");
    assert!(read("summary").contains("pass `--yes` to confirm"), "{}", read("summary"));
}
