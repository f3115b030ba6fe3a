//! The stack in moto, which shares no code with MiniStack, from its creation to its deletion, so that no single stand-in's leniency
//! decides what works.
//!
//! moto ignores resources of API Gateway V2 and alarms, and has no outputs of a stack with such resources. So there is no endpoint, and
//! `deploy` fails for this reason after the stack is complete. It applies a bucket policy's `Deny` without its condition, so the test
//! brings its own bucket. It runs no function, and checks neither signatures nor permissions.

use cbbootstrap_tests::{
    artifact,
    boto::Boto,
    cli::{Ended, User},
    moto::Moto,
};
use serde_json::{Value, json};

const BUCKET: &str = "artifacts";

/// The functions with their memory, the start of the roles' and log groups' names, and the dashboards.
fn resources(boto: &Boto) -> Value {
    boto.value(
        "[[[f['MemorySize'], f['Runtime'], f['Environment']['Variables']['TABLE_NAME']] for f in client('lambda').list_functions()['Functions']], \
         [r['RoleName'].rsplit('-', 1)[0] for r in client('iam').list_roles()['Roles']], \
         sorted(g['logGroupName'].rsplit('-', 1)[0] for g in client('logs').describe_log_groups()['logGroups']), \
         len(client('cloudwatch').list_dashboards()['DashboardEntries'])]",
    )
}

fn names(boto: &Boto) -> Value {
    boto.value(
        "[client('dynamodb').list_tables()['TableNames'], \
         [s['StackName'] for s in client('cloudformation').describe_stacks()['Stacks']], \
         len(client('dynamodb').list_backups()['BackupSummaries'])]",
    )
}

fn run(user: &User, command: &str, options: &[&str]) -> Ended {
    let zip = artifact::small_zip();
    let args = [command, "--output", "json", "--bucket", BUCKET, "--function-zip", zip];
    user.run(&[&args, options].concat())
}

#[test]
fn the_stack_is_created_updated_and_deleted_in_moto() {
    let moto = Moto::start();
    let boto = Boto::new(&moto.url);
    boto.value(&format!("client('s3').create_bucket(Bucket='{BUCKET}') and None"));
    let user = User::default()
        .with("AWS_ENDPOINT_URL", &moto.url)
        .with("AWS_REGION", "us-east-1")
        .with("AWS_ACCESS_KEY_ID", "test")
        .with("AWS_SECRET_ACCESS_KEY", "test");
    let plan = |options: &[&str]| run(&user, "plan", options).document();
    let deploy = |options: &[&str]| {
        let deployed = run(&user, "deploy", &[&["--yes", "--no-smoke"], options].concat());
        deployed.failed(1, "has no output `Endpoint`");
        assert!(deployed.stderr.contains("_COMPLETE"), "{deployed}");
    };

    let planned = plan(&[]);
    let added = planned["changes"].as_array().unwrap();
    assert!(added.len() >= 9 && added.iter().all(|change| change["action"] == "Add"), "{planned}");
    assert_eq!(names(&boto), json!([[], [], 0]), "a plan makes nothing");

    deploy(&[]);
    let groups = ["/aws/vendedlogs/cbbootstrap-AccessLogs", "cbbootstrap-FunctionLogs"];
    let created = |memory: u32| {
        let function = [json!(memory), json!("provided.al2023"), json!("cb-bootstrap")];
        json!([[function], ["cbbootstrap-Role"], groups, 1])
    };
    assert_eq!(resources(&boto), created(256));
    assert_eq!(plan(&[])["changed"], json!(false));

    let larger = ["--parameter", "MemorySize=512"];
    let planned = plan(&larger);
    assert_eq!(planned["changed"], json!(true), "{planned}");
    assert_eq!(resources(&boto), created(256), "a plan changes nothing");
    deploy(&larger);
    assert_eq!(resources(&boto), created(512));

    user.run(&["destroy"]).failed(2, "not a terminal");
    let destroyed = user.run(&["destroy", "--yes", "--output", "json"]).document();
    assert_eq!(destroyed["stack_deleted"], json!(true), "{destroyed}");
    assert_eq!(resources(&boto), json!([[], [], [], 0]));
    assert_eq!(names(&boto), json!([["cb-bootstrap"], [], 0]), "the table is kept");
    let delete = ["destroy", "--yes", "--delete-table", "--table-name", "cb-bootstrap"];
    user.run(&delete).ended_with(0);
    assert_eq!(names(&boto), json!([[], [], 1]), "a backup is kept");
}
