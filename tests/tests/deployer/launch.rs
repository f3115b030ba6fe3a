//! `launch`: the stack of a Couchbase cluster. MiniStack creates its resources, but starts no instances.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use cbbootstrap_tests::{
    artifact,
    cli::{Ended, User},
    ministack::{BUCKET, MiniStack},
    process::kill,
    proxy::{Fault, Play, Proxy},
};
use serde_json::{Value, json};

struct Scene {
    aws: MiniStack,
    user: User,
}

impl Scene {
    /// A deployed API.
    fn new() -> Self {
        let aws = MiniStack::start();
        let user = aws.user();
        user.deploy(artifact::small_zip(), &[]).ended_with(0);
        Self { aws, user }
    }

    /// An archive of the agent in the user's directory.
    fn agent(&self) -> String {
        let path = self.user.home.path().join("agent.tar.gz");
        if !path.exists() {
            artifact::small_agent(&path);
        }
        path.display().to_string()
    }

    fn launch(&self, options: &[&str]) -> Ended {
        self.launch_as(&self.user, options)
    }

    fn launch_as(&self, user: &User, options: &[&str]) -> Ended {
        let cluster = ["launch", "c1", "--vpc=vpc-1", "--subnet=subnet-1, subnet-2"];
        let agent = self.agent();
        let defaults = ["--agent", &agent, "--output", "json"];
        user.run(&[&cluster, &defaults[..], options].concat())
    }

    /// Records in this table what the nodes report before CloudFormation completes their stack.
    fn report_ready(&self, table: &str) {
        self.aws.boto(&format!(
            "client('dynamodb').put_item(TableName='{table}', Item={{'cluster_id': {{'S': 'c1'}}, \
             'initial_node_ip_addr_or_hostname': {{'S': '10.0.0.1'}}, 'state': {{'S': 'ready'}}}}) and None"
        ));
    }

    fn stack(&self) -> Value {
        self.aws
            .boto("client('cloudformation').describe_stacks(StackName='couchbase-c1')['Stacks'][0]")
    }

    fn parameters(&self) -> Value {
        self.aws.boto(
            "{p['ParameterKey']: p['ParameterValue'] for p in \
             client('cloudformation').describe_stacks(StackName='couchbase-c1')['Stacks'][0]['Parameters']}",
        )
    }

    /// How many versions the launch template has.
    fn versions(&self) -> u64 {
        let newest = self.aws.boto(
            "client('ec2').describe_launch_templates()['LaunchTemplates'][0]['LatestVersionNumber']",
        );
        newest.as_u64().unwrap()
    }

    fn group(&self) -> Value {
        self.aws.boto(
            "[[g['AutoScalingGroupName'], g['DesiredCapacity']] for g in \
             client('autoscaling').describe_auto_scaling_groups()['AutoScalingGroups']]",
        )
    }
}

#[test]
fn a_cluster_is_launched_changed_and_destroyed() {
    let scene = Scene::new();
    let endpoint = scene.user.run(&["status", "--output", "json"]).document()["endpoint"].clone();
    let launched = scene.launch(&[]).document();
    let stack = scene.stack();
    for (field, expected) in [
        ("cluster_id", json!("c1")),
        ("stack_name", json!("couchbase-c1")),
        ("changed", json!(true)),
        ("nodes", json!([])),
        ("connection_string", json!(null)),
    ] {
        assert_eq!(launched[field], expected, "{launched}");
    }
    let secret = launched["password_arn"].as_str().unwrap();
    assert!(secret.contains("AdministratorPassword"), "{launched}");
    assert_eq!(stack["StackStatus"], "CREATE_COMPLETE");
    assert_eq!(scene.group(), json!([["couchbase-c1", 3]]));
    let parameters = scene.parameters();
    for (name, expected) in [
        ("ApiEndpoint", &endpoint),
        ("ApiAuthorizationType", &json!("NONE")),
        ("AgentBucket", &json!(BUCKET)),
        ("SubnetIds", &json!("subnet-1,subnet-2")),
    ] {
        assert_eq!(&parameters[name], expected, "{parameters}");
    }
    let key = parameters["AgentKey"].as_str().unwrap();
    assert!(key.starts_with("couchbase-c1/") && key.ends_with(".tar.gz"), "{key}");
    let stored = scene.aws.boto(&format!(
        "client('s3').head_object(Bucket='{BUCKET}', Key='{key}')['ContentLength'] > 0"
    ));
    assert_eq!(stored, json!(true));

    scene.report_ready("cb-bootstrap");
    let again = scene.launch(&[]).document();
    assert_eq!(
        (&again["changed"], &again["password_arn"]),
        (&json!(false), &launched["password_arn"])
    );

    // MiniStack reports every change of a group as its replacement, which needs confirmation.
    let larger = ["--nodes", "5"];
    scene.launch(&larger).failed(2, "replaces `Nodes`, which deletes the nodes and their data");
    let larger = scene.launch(&[&larger[..], &["--yes"]].concat()).document();
    assert_eq!(larger["changed"], json!(true));
    assert_eq!(scene.group(), json!([["couchbase-c1", 5]]));
    assert_eq!(scene.versions(), 1, "a new version would replace all instances");
    let changed = scene.launch(&["--parameter", "Buckets=app:256:1", "--yes"]).document();
    assert_eq!(changed["changed"], json!(true));
    assert_eq!(scene.parameters()["Buckets"], "app:256:1");
    assert_eq!((scene.group(), scene.versions()), (json!([["couchbase-c1", 5]]), 2));

    // The API's template would delete the nodes.
    for command in ["deploy", "plan"] {
        let zip = artifact::small_zip();
        let args =
            [command, "--stack-name=couchbase-c1", "--table-name=t-c1", "--function-zip", zip];
        let yes = if command == "deploy" { &["--yes"][..] } else { &[] };
        let message = "stack `couchbase-c1` belongs to Couchbase cluster `c1`";
        scene.aws.user().run(&[&args[..], yes].concat()).failed(5, message);
    }

    let other = scene.launch(&["--cluster-stack", "cbbootstrap"]);
    other.failed(5, "stack `cbbootstrap` does not belong to cluster `c1`");

    let listed = scene.user.run(&["list", "--output", "json"]).document();
    let names = listed["stacks"].as_array().unwrap().iter().map(|stack| &stack["stack_name"]);
    assert_eq!(names.collect::<Vec<_>>(), [&json!("cbbootstrap"), &json!("couchbase-c1")]);

    let destroy = ["destroy", "--stack-name", "couchbase-c1"];
    scene.user.run(&destroy).failed(2, "all nodes of cluster `c1` and their data");
    assert_eq!(scene.stack()["StackStatus"], "UPDATE_COMPLETE");
    let with_table = [&destroy[..], &["--yes", "--delete-table"]].concat();
    scene.user.run(&with_table).failed(2, "stack `couchbase-c1` has no table");
    let destroyed = scene.user.run(&[&destroy[..], &["--yes", "--output", "json"]].concat());
    assert_eq!(destroyed.document()["stack_deleted"], json!(true));
    assert_eq!(scene.group(), json!([]));
}

#[test]
fn sync_gateway_is_added_changed_and_removed() {
    let scene = Scene::new();
    let nodes = || {
        let groups = scene.group();
        let mut nodes: Vec<_> = groups.as_array().unwrap().iter().map(|it| it[1].clone()).collect();
        nodes.sort_by_key(Value::as_u64);
        nodes
    };
    let launch = |count: &str| {
        let options = ["--parameter", count, "--parameter", "SyncGatewayCidr=10.0.0.0/16", "--yes"];
        scene.launch(&options).document()
    };
    launch("SyncGatewayNodes=1");
    scene.report_ready("cb-bootstrap");
    assert_eq!(nodes(), [json!(1), json!(3)]);
    launch("SyncGatewayNodes=2");
    assert_eq!(nodes(), [json!(2), json!(3)]);
    let rules = scene.aws.boto(
        "[[p['FromPort'], p['ToPort'], [r['CidrIp'] for r in p['IpRanges']]] for g in \
         client('ec2').describe_security_groups()['SecurityGroups'] if 'of Sync Gateway' in g['Description'] \
         for p in g['IpPermissions']]",
    );
    assert_eq!(rules, json!([[4984, 4984, ["10.0.0.0/16"]]]));
    let outputs = scene.stack()["Outputs"].to_string();
    assert!(outputs.contains("SyncGatewayPasswordArn"), "{outputs}");

    launch("SyncGatewayNodes=0");
    assert_eq!(nodes(), [json!(3)]);
    let outputs = scene.stack()["Outputs"].to_string();
    assert!(!outputs.contains("SyncGateway"), "{outputs}");
    let destroy = ["destroy", "--stack-name", "couchbase-c1", "--yes"];
    scene.user.run(&destroy).ended_with(0);
    assert!(nodes().is_empty());
}

/// CloudFormation describes a stack with the name of an SSM parameter, and MiniStack with the ID that it resolved.
#[test]
fn every_launch_asks_cloudformation_for_the_newest_image() {
    let scene = Scene::new();
    scene.launch(&[]).ended_with(0);
    scene.report_ready("cb-bootstrap");
    let proxy = Proxy::start(&scene.aws);
    let image = scene.parameters()["ImageId"].as_str().unwrap().to_owned();
    assert!(image.starts_with("ami-"), "{image}");
    proxy.fault(move |call| {
        let name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64";
        let reads_stack = call.name == "cloudformation:DescribeStacks";
        reads_stack.then(|| Fault::Replace(image.clone(), name.to_owned()))
    });
    let again = scene.launch_as(&proxy.user(), &[]).document();
    assert_eq!(again["changed"], json!(false), "{again}");
    assert_eq!(proxy.count("cloudformation:CreateChangeSet"), 1);
    assert_eq!(proxy.count("cloudformation:ExecuteChangeSet"), 0);
}

#[test]
fn an_archive_that_the_nodes_cannot_decrypt_is_uploaded_again() {
    let scene = Scene::new();
    scene.launch(&[]).ended_with(0);
    scene.report_ready("cb-bootstrap");
    let key = scene.parameters()["AgentKey"].clone();
    let object = format!("Bucket='{BUCKET}', Key={key}");
    scene.aws.boto(&format!(
        "client('s3').copy_object({object}, CopySource={{'Bucket': '{BUCKET}', 'Key': {key}}}, MetadataDirective='REPLACE', \
         ServerSideEncryption='aws:kms', SSEKMSKeyId='arn:aws:kms:us-east-1:000000000000:key/other') and None"
    ));
    let kms_key =
        || scene.aws.boto(&format!("client('s3').head_object({object}).get('SSEKMSKeyId')"));
    assert!(kms_key().is_string());
    let again = scene.launch(&[]).ended_with(0);
    assert!(again.stderr.contains("to bucket"), "{again}");
    assert_eq!(kms_key(), json!(null));
    let again = scene.launch(&[]).ended_with(0);
    assert!(again.stderr.contains("the bucket has it already"), "{again}");
}

#[test]
fn an_api_that_a_cluster_uses_is_not_destroyed() {
    let scene = Scene::new();
    scene.launch(&[]).ended_with(0);
    let proxy = Proxy::start(&scene.aws);
    let destroy = ["destroy", "--yes"];
    let before = scene.aws.inventory();
    for options in [&[][..], &["--delete-table"]] {
        let refused = proxy.user().run(&[&destroy[..], options].concat());
        let hint = "`cbbootstrap destroy --stack-name couchbase-c1";
        assert!(refused.stderr.contains(hint), "{refused}");
        refused.failed(5, "stack `couchbase-c1` uses the API of stack `cbbootstrap`");
    }
    assert_eq!(scene.aws.inventory(), before);
    // Without the permission to list the stacks, only the named one is looked at.
    proxy.fault(|call| {
        let lists =
            call.name == "cloudformation:DescribeStacks" && call.parameter("StackName").is_empty();
        lists.then(|| Fault::denied(call))
    });
    let destroyed = proxy.user().run(&destroy).ended_with(0);
    let warning = "not allowed to list stacks, so another stack might use the API\n";
    assert!(destroyed.stderr.contains(warning), "{destroyed}");
    proxy.fault(|_| None);
    proxy.user().run(&["destroy", "--yes", "--stack-name", "couchbase-c1"]).ended_with(0);
}

#[test]
fn a_first_launch_wants_no_record_of_the_cluster() {
    let scene = Scene::new();
    scene.aws.boto(
        "client('dynamodb').put_item(TableName='cb-bootstrap', Item={'cluster_id': {'S': 'c1'}, \
         'initial_node_ip_addr_or_hostname': {'S': '10.0.0.1'}}) and None",
    );
    let refused = scene.launch(&[]);
    let hint = "`cbbootstrap cluster forget --table-name cb-bootstrap c1`";
    assert!(refused.stderr.contains(hint), "{refused}");
    refused
        .failed(5, "the API has a record of cluster `c1`, but stack `couchbase-c1` has no nodes");
    scene.user.run(&["cluster", "forget", "c1", "--yes"]).ended_with(0);
    scene.launch(&[]).ended_with(0);
}

/// A new node asks the API that `launch` names, and then old ones leave.
#[test]
fn an_update_does_not_begin_a_second_cluster() {
    let scene = Scene::new();
    let other = ["--stack-name", "other", "--table-name", "other"];
    scene.user.deploy(artifact::small_zip(), &other).ended_with(0);
    scene.launch(&[]).ended_with(0);
    scene.report_ready("cb-bootstrap");
    let before = scene.parameters();
    let larger = ["--nodes", "4", "--yes"];
    let at_other = [&larger[..], &other[..2]].concat();
    let refused = scene.launch(&at_other);
    let hint =
        format!("the nodes use {}; choose the stack", before["ApiEndpoint"].as_str().unwrap());
    assert!(refused.stderr.contains(&hint), "{refused}");
    refused.failed(5, "the API of stack `other` does not know cluster `c1`");
    scene.user.run(&["cluster", "forget", "c1", "--yes"]).ended_with(0);
    let forgotten = scene.launch(&larger);
    assert!(forgotten.stderr.contains("`cbbootstrap-agent up --adopt`"), "{forgotten}");
    forgotten.failed(5, "the API of stack `cbbootstrap` does not know cluster `c1`");
    assert_eq!(scene.parameters(), before);

    // Without permission to read the record, only the API of the nodes is accepted.
    let proxy = Proxy::start(&scene.aws);
    proxy.fault(|call| (call.name == "dynamodb:BatchGetItem").then(|| Fault::denied(call)));
    let message = "cannot check that the API of stack `other` knows cluster `c1`";
    scene.launch_as(&proxy.user(), &at_other).failed(5, message);
    let unchecked = scene.launch_as(&proxy.user(), &larger).ended_with(0);
    let warning = "not allowed to read cluster `c1` in table `cb-bootstrap` (`dynamodb:BatchGetItem`), so `launch` cannot check whether the API knows it";
    assert_eq!(unchecked.stderr.matches(warning).count(), 1, "{unchecked}");
    assert_eq!(scene.group(), json!([["couchbase-c1", 4]]));
    scene.user.run(&["destroy", "--yes", "--stack-name", "couchbase-c1"]).ended_with(0);
    let unchecked = scene.launch_as(&proxy.user(), &[]).ended_with(0);
    assert!(
        unchecked.stderr.contains("cannot check whether the API has an old record of it"),
        "{unchecked}"
    );
}

#[test]
fn a_creation_that_fails_or_is_cancelled_names_what_it_leaves() {
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.aws);
    let hint =
        "run `cbbootstrap cluster forget --table-name cb-bootstrap c1` before you launch it again";
    proxy.play(
        Play::on("ExecuteChangeSet")
            .instead()
            .stack("CREATE_IN_PROGRESS")
            .resource("Nodes", "AWS::AutoScaling::AutoScalingGroup", "CREATE_IN_PROGRESS")
            .because("Received FAILURE signal with UniqueId i-0abc")
            .resource("Nodes", "AWS::AutoScaling::AutoScalingGroup", "CREATE_FAILED")
            .because("Received 1 FAILURE signal(s) out of 3. Unable to satisfy 100% MinSuccessfulInstancesPercent requirement")
            .stack("ROLLBACK_IN_PROGRESS")
            .stack("ROLLBACK_COMPLETE"),
    );
    let failed = scene.launch_as(&proxy.user(), &[]).ended_with(1);
    for text in [hint, "`aws ec2 get-console-output --output text --instance-id i-0abc`"] {
        assert!(failed.stderr.contains(text), "{failed}");
    }

    proxy.reset();
    proxy.play(Play::on("ExecuteChangeSet").stack("CREATE_IN_PROGRESS"));
    let agent = scene.agent();
    let args = ["launch", "c1", "--vpc=vpc-1", "--subnet=subnet-1", "--agent", &agent];
    let child = proxy.user().command(&args).stderr(Stdio::piped()).spawn().unwrap();
    proxy.wait_for("cloudformation:ExecuteChangeSet");
    kill("INT", &child.id().to_string());
    let cancelled = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&cancelled.stderr);
    assert_eq!(cancelled.status.code(), Some(4), "{said}");
    for text in ["cancelled by Ctrl-C: stack `couchbase-c1` was deleted", hint] {
        assert!(said.contains(text), "{said}");
    }
}

#[test]
fn tags_that_a_launch_omits_are_removed() {
    let scene = Scene::new();
    let has_tag = || scene.stack()["Tags"].to_string().contains("\"team\"");
    scene.launch(&["--tag", "team=data"]).ended_with(0);
    scene.report_ready("cb-bootstrap");
    assert!(has_tag());
    let again = scene.launch(&["--yes"]).ended_with(0);
    assert!(again.stderr.contains("~ tag team: data → none"), "{again}");
    assert!(!has_tag());
}

#[test]
fn a_protected_cluster_is_not_destroyed() {
    let scene = Scene::new();
    let is_protected = || scene.stack()["EnableTerminationProtection"].clone();
    scene.launch(&["--protect"]).ended_with(0);
    scene.report_ready("cb-bootstrap");
    assert_eq!(is_protected(), json!(true));
    let destroy = ["destroy", "--stack-name", "couchbase-c1", "--yes"];
    let refused = scene.user.run(&destroy).ended_with(5);
    for text in ["`couchbase-c1` is protected", "`cbbootstrap launch c1 … --protect=false`"] {
        assert!(refused.stderr.contains(text), "{refused}");
    }
    let again = scene.launch(&[]).document();
    assert_eq!((&again["changed"], is_protected()), (&json!(false), json!(true)));
    let changed = scene.launch(&["--protect=false"]).document();
    assert_eq!((&changed["changed"], is_protected()), (&json!(true), json!(false)));
    scene.user.run(&destroy).ended_with(0);
}

#[test]
fn the_second_of_two_first_launches_keeps_the_values_of_the_first() {
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.aws);
    let is_launched = Arc::new(AtomicBool::new(false));
    let (launched, mut is_refused) = (Arc::clone(&is_launched), false);
    proxy.fault(move |call| {
        if call.name != "cloudformation:CreateChangeSet" {
            return None;
        }
        if !launched.load(Ordering::SeqCst) {
            return Some(Fault::Throttle);
        }
        let is_first = !std::mem::replace(&mut is_refused, true);
        is_first.then(|| {
            assert_eq!(call.parameter("ChangeSetType"), "CREATE");
            let message = "Stack [couchbase-c1] already exists and cannot be created again with the changeSet";
            Fault::refuse("ValidationError", message)
        })
    });
    let second = thread::scope(|scope| {
        let user = proxy.user();
        let buckets = ["--parameter", "Buckets=app:256", "--yes"];
        let scene = &scene;
        let second = scope.spawn(move || scene.launch_as(&user, &buckets));
        proxy.wait_for("cloudformation:CreateChangeSet");
        scene.launch(&["--nodes", "5", "--parameter", "DataVolumeSize=200"]).ended_with(0);
        scene.report_ready("cb-bootstrap");
        is_launched.store(true, Ordering::SeqCst);
        second.join().unwrap().ended_with(0)
    });
    assert!(second.stderr.contains("another deployment changed the stack"), "{second}");
    let parameters = scene.parameters();
    for (name, value) in [("NodeCount", "5"), ("DataVolumeSize", "200"), ("Buckets", "app:256")] {
        assert_eq!(parameters[name], value, "{parameters}");
    }
    assert_eq!(scene.group(), json!([["couchbase-c1", 5]]));

    let reads = || proxy.count("dynamodb:BatchGetItem");
    let before = reads();
    let again = scene.launch_as(&proxy.user(), &[]).document();
    assert_eq!((&again["changed"], reads() - before), (&json!(false), 1), "members are read once");
}

#[test]
fn wrong_launches_change_nothing() {
    let scene = Scene::new();
    let before = scene.aws.inventory();
    for (options, status, message) in [
        (&["--vpc", "x"][..], 2, "`--vpc` cannot be `x`"),
        (&["--parameter", "Nodes=5"], 2, "no parameter `Nodes`"),
        (&["--parameter", "NodeCount=5"], 2, "`NodeCount` has its own option"),
        (
            &["--parameter", "Services=n1ql", "--parameter", "ClientCidr=any"],
            2,
            "error: parameter `Services` cannot be `n1ql`",
        ),
        (
            &["--parameter", "SyncGatewayNodes=1", "--parameter", "Edition=community"],
            2,
            "Sync Gateway needs Enterprise Edition",
        ),
        (&["--stack-name", "missing"], 1, "there is no stack `missing`"),
        (&["--agent", "missing.tar.gz"], 1, "cannot read `missing.tar.gz`"),
        (&["--agent", artifact::small_zip()], 1, "not an archive of the agent"),
        (&["--arch", "arm64"], 1, "built for x86_64"),
    ] {
        let agent = scene.agent();
        let mut args = vec!["launch", "c1"];
        for (option, value) in
            [("--vpc", "vpc-1"), ("--subnet", "subnet-1"), ("--agent", agent.as_str())]
        {
            if !options.contains(&option) {
                args.extend([option, value]);
            }
        }
        args.extend(options);
        scene.user.run(&args).failed(status, message);
    }
    let unnamed = ["launch", "my_cluster", "--vpc=vpc-1", "--subnet=subnet-1"];
    let unnamed = scene.user.run(&unnamed).ended_with(2);
    assert!(unnamed.stderr.contains("--cluster-stack"), "{unnamed}");
    let missing = scene.user.run(&["launch", "c1"]).ended_with(2);
    assert!(missing.stderr.contains("--vpc") && missing.stderr.contains("--subnet"), "{missing}");
    assert_eq!(scene.aws.inventory(), before);
}
