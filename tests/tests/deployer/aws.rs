//! `deploy`, `plan`, `status` and `destroy` against an AWS stand-in that enforces signatures and policies.

use std::{fs, thread};

use cbbootstrap_tests::{
    artifact,
    cli::{Ended, User},
    http,
    ministack::{BUCKET, MiniStack},
    proxy::{Fault, Proxy},
};
use serde_json::{Value, json};
use tempfile::tempdir;

fn deploy(user: &User, zip: &str, options: &[&str]) -> Value {
    user.deploy_and_smoke(zip, &[&["--yes"], options].concat()).document()
}

/// What an update would leave its mark on: the stack's events and the bucket's objects.
fn traces(aws: &MiniStack) -> Value {
    aws.boto(&format!(
        "[len(client('cloudformation').describe_stack_events(StackName='cbbootstrap')['StackEvents']), \
         [[o['Key'], o['LastModified']] for o in client('s3').list_objects_v2(Bucket='{BUCKET}')['Contents']], \
         client('cloudformation').list_change_sets(StackName='cbbootstrap')['Summaries'], \
         client('lambda').get_function_configuration(FunctionName=client('cloudformation')\
         .describe_stack_resource(StackName='cbbootstrap', LogicalResourceId='Function')\
         ['StackResourceDetail']['PhysicalResourceId'])['LastModified']]"
    ))
}

#[test]
fn a_stack_goes_from_plan_to_destroy() {
    let aws = MiniStack::start();
    let user = aws.user();
    plan_makes_nothing(&aws, &user);
    let deployed = deploy_all(&user);
    the_bucket_is_closed(&aws);
    the_table_is_safe(&aws);
    the_dashboard_and_the_alarms_are_about_this_stack(&aws);
    deploy_again_changes_nothing(&aws, &user, &deployed);
    deploy_replaces_the_code(&aws, &user, &deployed);
    destroy_keeps_the_table_until_it_is_named(&aws, &user);
}

fn plan_makes_nothing(aws: &MiniStack, user: &User) {
    let nothing = aws.inventory();
    let plan = user.plan(artifact::zip(), &[]);
    assert_eq!(
        (&plan["changed"], &plan["creates_table"]),
        (&json!(true), &json!("cb-bootstrap")),
        "{plan}"
    );
    let added = plan["changes"].as_array().unwrap();
    assert!(
        added.len() >= 9 && added.iter().all(|change| change["action"] == json!("Add")),
        "{plan}"
    );
    assert_eq!(aws.inventory(), nothing, "a plan makes nothing");
}

fn deploy_all(user: &User) -> Value {
    let deployed = deploy(user, artifact::zip(), &[]);
    for (field, expected) in [
        ("changed", json!(true)),
        ("stack_name", json!("cbbootstrap")),
        ("region", json!("us-east-1")),
        ("table", json!("cb-bootstrap")),
    ] {
        assert_eq!(deployed[field], expected, "{deployed}");
    }
    assert_eq!(deployed["smoke"]["passed"], json!(true), "{deployed}");
    assert!(deployed["seconds"]["stack"].is_number(), "{deployed}");

    // The README's call, word for word, and a second node's.
    let endpoint = deployed["endpoint"].as_str().unwrap();
    let body = r#"{"cluster_id": "mycluster", "node_ip_addr_or_hostname": "mynode_ip"}"#;
    let answer = http::post(endpoint, "/cluster", body).unwrap();
    assert_eq!(
        (answer.status, &answer.json()["is_initial_node"]),
        (200, &json!(true)),
        "{answer:?}"
    );
    let joiner = http::claim(endpoint, "mycluster", "another").unwrap().json();
    assert_eq!(joiner["is_initial_node"], json!(false), "{joiner}");
    assert_eq!(joiner["initial_node_ip_addr_or_hostname"], json!("mynode_ip"), "{joiner}");
    deployed
}

fn deploy_again_changes_nothing(aws: &MiniStack, user: &User, deployed: &Value) {
    let before = traces(aws);
    let again = deploy(user, artifact::zip(), &[]);
    assert_eq!(
        (&again["changed"], &again["endpoint"]),
        (&json!(false), &deployed["endpoint"]),
        "{again}"
    );
    let plan = user.plan(artifact::zip(), &[]);
    assert_eq!((&plan["changed"], &plan["changes"]), (&json!(false), &json!([])), "{plan}");
    assert_eq!(traces(aws), before, "nothing to do leaves no trace");

    let status = user.run(&["status", "--output", "json"]).document();
    assert_eq!(status["function"]["sha256"], deployed["function_sha256"], "{status}");
    assert_eq!(
        (&status["endpoint"], &status["table"]["status"]),
        (&deployed["endpoint"], &json!("active")),
        "{status}"
    );
    user.run(&["smoke"]).ended_with(0);
}

fn deploy_replaces_the_code(aws: &MiniStack, user: &User, deployed: &Value) {
    let changed = artifact::changed_zip();
    let before = traces(aws);
    let plan = user.plan(changed, &[]);
    let mut rows = plan["changes"].as_array().unwrap().iter();
    assert!(rows.any(|change| change["resource"] == json!("Function")), "{plan}");
    assert_eq!(traces(aws), before, "a plan changes nothing");
    let updated = deploy(user, changed, &[]);
    assert_eq!(
        (&updated["changed"], &updated["endpoint"]),
        (&json!(true), &deployed["endpoint"]),
        "{updated}"
    );
    assert_ne!(updated["function_sha256"], deployed["function_sha256"]);
    let status = user.run(&["status", "--output", "json"]).document();
    assert_eq!(status["function"]["sha256"], updated["function_sha256"], "{status}");
    let endpoint = deployed["endpoint"].as_str().unwrap();
    let cluster = http::get(endpoint, "/cluster/mycluster").unwrap().json();
    assert_eq!(cluster["initial_node_ip_addr_or_hostname"], json!("mynode_ip"), "{cluster}");
}

fn destroy_keeps_the_table_until_it_is_named(aws: &MiniStack, user: &User) {
    user.run(&["destroy"]).failed(2, "not a terminal");
    user.run(&["smoke"]).ended_with(0);
    let destroyed = user.run(&["destroy", "--yes", "--output", "json"]).document();
    assert_eq!(
        (&destroyed["stack_deleted"], &destroyed["table_deleted"]),
        (&json!(true), &json!(false)),
        "{destroyed}"
    );
    assert_eq!(aws.inventory(), json!([[BUCKET], ["cb-bootstrap"], []]), "the table is kept");
    // Without a stack, the table's name is not known.
    user.run(&["destroy", "--yes", "--delete-table"]).failed(2, "there is no stack `cbbootstrap`");
    let destroy_table =
        ["destroy", "--yes", "--delete-table", "--table-name", "cb-bootstrap", "--output", "json"];
    let destroyed = user.run(&destroy_table).document();
    assert_eq!(
        (&destroyed["stack_deleted"], &destroyed["table_deleted"]),
        (&json!(false), &json!(true)),
        "{destroyed}"
    );
    assert_eq!(aws.inventory(), json!([[BUCKET], [], []]));
    let destroyed = user.run(&destroy_table).document();
    assert_eq!(
        destroyed["changed"],
        json!(false),
        "nothing left to do is not an error: {destroyed}"
    );
}

#[test]
fn foreign_resources_are_not_changed() {
    let aws = MiniStack::start();
    let user = aws.user();
    // A stack of the same name, and a table like ours that is someone else's.
    aws.boto(
        "client('cloudformation').create_stack(StackName='shop', TemplateBody=json.dumps({'Description': 'A shop', \
         'Resources': {'Orders': {'Type': 'AWS::SQS::Queue'}}}))",
    );
    aws.boto(
        "client('dynamodb').create_table(TableName='theirs', BillingMode='PAY_PER_REQUEST', \
         KeySchema=[{'AttributeName': 'cluster_id', 'KeyType': 'HASH'}], \
         AttributeDefinitions=[{'AttributeName': 'cluster_id', 'AttributeType': 'S'}])",
    );
    let before = aws.inventory();
    let shop = ["--stack-name", "shop", "--yes"];
    let not_ours = "stack `shop` was not created by cbbootstrap";
    let deploy_shop = ["deploy", "--table-name", "shop", "--function-zip", artifact::zip()];
    user.run(&[&deploy_shop[..], &shop].concat()).failed(5, not_ours);
    user.run(&[&["destroy"], &shop[..]].concat()).failed(5, not_ours);
    assert_eq!(aws.inventory(), before);

    // Two teams: each stack goes with its own table.
    let theirs = ["--stack-name", "b", "--table-name", "theirs"];
    deploy(&user, artifact::zip(), &["--stack-name", "a", "--table-name", "team-a"]);
    deploy(&user, artifact::zip(), &theirs);
    let destroy =
        |options: &[&str]| user.run(&[&["destroy", "--yes", "--delete-table"], options].concat());
    let missing = destroy(&["--stack-name", "c", "--table-name", "missing"]).ended_with(0);
    assert!(missing.stdout.contains("Table:     missing did not exist"), "{missing}");
    destroy(&["--stack-name", "a", "--table-name", "theirs"])
        .failed(2, "stack `a` keeps its clusters in table `team-a`");
    destroy(&["--stack-name", "a"]).ended_with(0);
    destroy(&["--stack-name", "b"]).failed(1, "table `theirs` was not created by cbbootstrap");
    assert_eq!(aws.inventory(), json!([[BUCKET], ["theirs"], ["shop", "b"]]));
}

fn the_bucket_is_closed(aws: &MiniStack) {
    let s3 = |call: &str| aws.boto(&format!("client('s3').{call}(Bucket='{BUCKET}')"));
    let encryption = s3("get_bucket_encryption");
    let rule = &encryption["ServerSideEncryptionConfiguration"]["Rules"][0]["ApplyServerSideEncryptionByDefault"];
    assert_eq!(rule["SSEAlgorithm"], json!("AES256"), "{encryption}");
    let block = s3("get_public_access_block");
    let block = block["PublicAccessBlockConfiguration"].as_object().unwrap();
    assert!(block.len() == 4 && block.values().all(|on| *on == json!(true)), "{block:?}");
    let policy: Value =
        serde_json::from_str(s3("get_bucket_policy")["Policy"].as_str().unwrap()).unwrap();
    let statement = &policy["Statement"][0];
    assert_eq!(statement["Effect"], json!("Deny"), "{policy}");
    assert_eq!(
        statement["Condition"],
        json!({"Bool": {"aws:SecureTransport": "false"}}),
        "{policy}"
    );
}

fn the_dashboard_and_the_alarms_are_about_this_stack(aws: &MiniStack) {
    let body = aws.boto(
        "client('cloudwatch').get_dashboard(DashboardName=[o['OutputValue'] for o in client('cloudformation')\
         .describe_stacks(StackName='cbbootstrap')['Stacks'][0]['Outputs'] if o['OutputKey'] == 'DashboardName'][0])\
         ['DashboardBody']",
    );
    let body = body.as_str().unwrap();
    let ids = aws.boto(
        "{r['LogicalResourceId']: r['PhysicalResourceId'] for r in client('cloudformation')\
         .describe_stack_resources(StackName='cbbootstrap')['StackResources']}",
    );
    let id = |resource: &str| ids[resource].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(body).unwrap();
    for widget in dashboard["widgets"].as_array().unwrap() {
        let text = widget.to_string();
        let about = [id("Function"), id("HttpApi"), id("FunctionLogs")];
        assert!(about.iter().any(|id| text.contains(id)), "{widget}");
        let properties = &widget["properties"];
        assert_eq!(properties["region"], json!("us-east-1"), "{widget}");
        assert_eq!(properties["metrics"].is_array(), widget["type"] == json!("metric"));
    }
    let left = body.replace("${PROP('Dim.Outcome')}", "");
    assert!(!left.contains("${") && left.contains("cb-bootstrap"), "{body}");

    let alarms = aws.boto(
        "[[a['Namespace'], a['MetricName'], a['Dimensions'][0]['Value'], a['AlarmActions']] \
         for a in client('cloudwatch').describe_alarms()['MetricAlarms']]",
    );
    let mut alarms: Vec<Value> = serde_json::from_value(alarms).unwrap();
    alarms.sort_by_key(ToString::to_string);
    assert_eq!(
        json!(alarms),
        json!([
            ["AWS/ApiGateway", "5xx", id("HttpApi"), []],
            ["AWS/Lambda", "Throttles", id("Function"), []],
        ])
    );
}

fn the_table_is_safe(aws: &MiniStack) {
    let dynamodb =
        |call: &str| aws.boto(&format!("client('dynamodb').{call}(TableName='cb-bootstrap')"));
    let table = dynamodb("describe_table")["Table"].clone();
    assert_eq!(table["DeletionProtectionEnabled"], json!(true), "{table}");
    assert_eq!(table["BillingModeSummary"]["BillingMode"], json!("PAY_PER_REQUEST"), "{table}");
    assert_eq!(
        table["KeySchema"],
        json!([{"AttributeName": "cluster_id", "KeyType": "HASH"}]),
        "{table}"
    );
    let expiry = dynamodb("describe_time_to_live")["TimeToLiveDescription"].clone();
    assert_eq!(expiry, json!({"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}));
    let backups = dynamodb("describe_continuous_backups")["ContinuousBackupsDescription"].clone();
    assert_eq!(
        backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"],
        json!("ENABLED"),
        "{backups}"
    );
}

#[test]
fn the_function_role_allows_only_what_it_needs() {
    let aws = MiniStack::start();
    let user = aws.user();
    let deployed = deploy(&user, artifact::zip(), &[]);
    let endpoint = deployed["endpoint"].as_str().unwrap();

    let policies = aws.boto(
        "[client('iam').get_role_policy(RoleName=r['RoleName'], PolicyName=p)['PolicyDocument'] \
         for r in client('iam').list_roles()['Roles'] \
         for p in client('iam').list_role_policies(RoleName=r['RoleName'])['PolicyNames']]",
    );
    let statements = policies[0]["Statement"].as_array().unwrap();
    let actions: Vec<_> = statements.iter().map(|statement| &statement["Action"]).collect();
    assert_eq!(
        json!(actions),
        json!([
            ["dynamodb:BatchGetItem", "dynamodb:UpdateItem"],
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"],
            "kms:DescribeKey"
        ])
    );
    assert!(statements.iter().all(|s| s["Resource"] != json!("*")), "{policies}");
    // Any key, but only through DynamoDB, and only for the table.
    let through = json!({"kms:ViaService": "dynamodb.us-east-1.*"});
    assert!(statements[2..].iter().all(|s| s["Condition"]["StringLike"] == through), "{policies}");
    let table = json!({"kms:EncryptionContext:aws:dynamodb:tableName": "cb-bootstrap"});
    assert_eq!(statements[2]["Condition"]["StringEquals"], table, "{policies}");

    // Without the right to write, a claim is refused; so the policy is what allowed it before.
    aws.boto(
        "[client('iam').put_role_policy(RoleName=r['RoleName'], PolicyName=p, PolicyDocument=json.dumps({\
         'Version': '2012-10-17', 'Statement': [{'Effect': 'Allow', 'Action': 'dynamodb:BatchGetItem', 'Resource': '*'}]})) \
         for r in client('iam').list_roles()['Roles'] \
         for p in client('iam').list_role_policies(RoleName=r['RoleName'])['PolicyNames']]",
    );
    let answer = http::claim(endpoint, "c", "a").unwrap();
    assert_eq!((answer.status, &answer.json()["code"]), (500, &json!("internal")), "{answer:?}");
    assert!(
        !answer.body.contains("dynamodb") && !answer.body.contains("arn:"),
        "nothing internal is told: {answer:?}"
    );
    assert_eq!(http::get(endpoint, "/cluster/c").unwrap().status, 404, "reading is still allowed");

    let smoke = user.run(&["smoke"]).ended_with(3);
    assert!(smoke.stderr.contains("first node claims"), "{smoke}");
    // A deployment whose endpoint does not work has not gone well, though there is nothing to change.
    let again = user
        .run(&["deploy", "--yes", "--output", "json", "--function-zip", artifact::zip()])
        .ended_with(3);
    let document: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(
        (&document["changed"], &document["smoke"]["passed"]),
        (&json!(false), &json!(false)),
        "{again}"
    );
    user.run(&["deploy", "--yes", "--no-smoke", "--function-zip", artifact::zip()]).ended_with(0);
}

#[test]
fn the_remains_of_a_failed_creation_are_replaced() {
    let aws = MiniStack::start();
    aws.boto(
        "client('cloudformation').create_stack(StackName='cbbootstrap', TemplateBody=json.dumps({\
         'Description': 'cbbootstrap: of an earlier day', 'Resources': {'Broken': {'Type': 'AWS::Logs::LogStream', 'Properties': {'LogGroupName': 'no-such-group'}}}}))",
    );
    let status = "client('cloudformation').describe_stacks(StackName='cbbootstrap')['Stacks'][0]['StackStatus']";
    assert_eq!(aws.boto(status), json!("ROLLBACK_COMPLETE"));

    let user = aws.user();
    let plan = user.plan(artifact::zip(), &[]);
    let first = plan["first"].as_str().unwrap();
    assert!(first.contains("is deleted"), "{plan}");
    assert_eq!(aws.boto(status), json!("ROLLBACK_COMPLETE"));
    let deployed = deploy(&user, artifact::zip(), &[]);
    assert_eq!(
        (&deployed["changed"], &deployed["smoke"]["passed"]),
        (&json!(true), &json!(true)),
        "{deployed}"
    );
    assert_eq!(aws.boto(status), json!("CREATE_COMPLETE"));
}

#[test]
fn a_half_made_deployment_is_completed() {
    let aws = MiniStack::start();
    // A deployment that was killed after these two calls.
    aws.boto(
        "client('dynamodb').create_table(TableName='cb-bootstrap', BillingMode='PAY_PER_REQUEST', DeletionProtectionEnabled=True, \
         KeySchema=[{'AttributeName': 'cluster_id', 'KeyType': 'HASH'}], \
         AttributeDefinitions=[{'AttributeName': 'cluster_id', 'AttributeType': 'S'}], \
         Tags=[{'Key': 'created-by', 'Value': 'cbbootstrap'}])",
    );
    aws.boto(&format!("client('s3').create_bucket(Bucket='{BUCKET}')"));
    deploy(&aws.user(), artifact::zip(), &[]);
    the_table_is_safe(&aws);
    the_bucket_is_closed(&aws);
    // An interrupted `destroy --delete-table`.
    aws.boto(
        "client('dynamodb').update_table(TableName='cb-bootstrap', DeletionProtectionEnabled=False)",
    );
    let planned = aws.user().plan(artifact::zip(), &[]);
    let expected = json!([{"name": "deletion protection", "before": "off", "after": "on"}]);
    assert_eq!((&planned["changed"], &planned["table"]), (&json!(true), &expected), "{planned}");
    let deployed = deploy(&aws.user(), artifact::zip(), &["--no-smoke"]);
    assert_eq!(deployed["changed"], json!(true), "{deployed}");
    the_table_is_safe(&aws);
}

#[test]
fn an_existing_bucket_and_table_are_used_unchanged() {
    let aws = MiniStack::start();
    aws.boto("client('s3').create_bucket(Bucket='my-bucket')");
    aws.boto(
        "client('dynamodb').create_table(TableName='cb-bootstrap', BillingMode='PAY_PER_REQUEST', \
         KeySchema=[{'AttributeName': 'cluster_id', 'KeyType': 'HASH'}], \
         AttributeDefinitions=[{'AttributeName': 'cluster_id', 'AttributeType': 'S'}])",
    );
    aws.boto(
        "client('dynamodb').put_item(TableName='cb-bootstrap', Item={'cluster_id': {'S': 'old'}, \
         'initial_node_ip_addr_or_hostname': {'S': '10.0.0.1'}})",
    );
    let mine = ["--stack-name", "mine", "--table-name", "cb-bootstrap", "--bucket", "my-bucket"];
    let deployed = deploy(&aws.user(), artifact::zip(), &mine);
    assert_eq!(
        (&deployed["changed"], &deployed["stack_name"]),
        (&json!(true), &json!("mine")),
        "{deployed}"
    );
    assert_eq!(aws.inventory()[0], json!(["my-bucket"]), "no other bucket is made");
    let expiry = aws.boto("client('dynamodb').describe_time_to_live(TableName='cb-bootstrap')['TimeToLiveDescription']");
    assert_eq!(
        expiry["TimeToLiveStatus"],
        json!("DISABLED"),
        "someone else's table keeps its settings"
    );
    // A cluster that the original service knew.
    let old =
        http::claim(deployed["endpoint"].as_str().unwrap(), "old", "10.0.0.2").unwrap().json();
    assert_eq!(old["initial_node_ip_addr_or_hostname"], json!("10.0.0.1"), "{old}");
}

#[test]
fn another_table_needs_confirmation() {
    let aws = MiniStack::start();
    let user = aws.user();
    deploy(&user, artifact::zip(), &["--no-smoke"]);
    let before = aws.inventory();
    user.run(&["deploy", "--table-name", "other", "--function-zip", artifact::zip()])
        .failed(2, "`cb-bootstrap`");
    assert_eq!(aws.inventory(), before, "nothing is made without the yes");
    deploy(&user, artifact::zip(), &["--no-smoke", "--table-name", "other"]);
}

/// Runs two deployments of this zip at once.
fn two_at_once(user: &User, zip: &str) -> [Ended; 2] {
    thread::scope(|scope| {
        let deployers =
            [(); 2].map(|()| scope.spawn(|| user.run(&["deploy", "--yes", "--function-zip", zip])));
        deployers.map(|deployer| deployer.join().unwrap())
    })
}

#[test]
fn the_second_of_two_deployers_waits() {
    let aws = MiniStack::start();
    let user = aws.user();
    let changed = artifact::changed_zip();
    deploy(&user, artifact::zip(), &["--no-smoke"]);
    // One goes first; the other waits for it, and finds nothing to do.
    for ended in two_at_once(&user, changed) {
        assert_eq!(ended.status, Some(0), "{ended}");
    }
    let settled = deploy(&user, changed, &[]);
    assert_eq!(
        (&settled["changed"], &settled["smoke"]["passed"]),
        (&json!(false), &json!(true)),
        "{settled}"
    );
}

#[test]
fn two_first_deployers_at_once_do_no_harm() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let user = proxy.user();
    // For the stand-in, two change sets that create a stack of one name are about two stacks, and it executes both. CloudFormation
    // keeps them in one stack and executes one, so here the second comes after the first is executed.
    let (mut first, mut is_executing, mut is_executed) = (None, false, false);
    proxy.fault(move |call| {
        match call.operation() {
            "CreateChangeSet" => {
                let change_set = call.parameter("ChangeSetName").to_owned();
                let is_first = *first.get_or_insert_with(|| change_set.clone()) == change_set;
                return (!is_first && !is_executed).then_some(Fault::Throttle);
            }
            "ExecuteChangeSet" => is_executing = true,
            // A deployer reads the events once the execution is answered.
            "DescribeStackEvents" => is_executed = is_executing,
            _ => (),
        }
        None
    });
    for ended in two_at_once(&user, artifact::zip()) {
        assert_eq!(ended.status, Some(0), "{ended}");
    }
    let settled = deploy(&user, artifact::zip(), &[]);
    assert_eq!(settled["smoke"]["passed"], json!(true), "{settled}");
}

#[test]
fn the_cross_build_gives_the_same_zip_each_time() {
    let directory = tempdir().unwrap();
    let out = directory.path().join("again.zip");
    let packaged = artifact::package(&out).document();
    assert_eq!(
        (&packaged["file"], &packaged["arch"]),
        (&json!(out), &json!("x86_64")),
        "{packaged}"
    );
    assert!(fs::read(&out).unwrap() == fs::read(artifact::zip()).unwrap());
    let hash = std::process::Command::new("sha256sum").arg(&out).output().unwrap().stdout;
    assert!(
        String::from_utf8_lossy(&hash).starts_with(packaged["sha256"].as_str().unwrap()),
        "{packaged}"
    );
}
