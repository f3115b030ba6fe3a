//! Deployments that are killed, and calls that fail: the next deployment completes what this one left. Signals end every command.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::{Child, Command},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use cbbootstrap_tests::{
    artifact,
    boto::Boto,
    cli::{Ended, User},
    http,
    ministack::{BUCKET, MiniStack},
    process::{is_alive, kill, wait_until},
    programs,
    proxy::{Call, Fault, Play, Proxy},
};
use serde_json::{Value, json};

/// How many stand-ins each test uses at once.
const WORKERS: usize = 2;

/// A stand-in and the proxy in front of it.
struct Aws {
    stack: MiniStack,
    proxy: Proxy,
}

impl Aws {
    fn start() -> Self {
        let stack = MiniStack::start();
        let proxy = Proxy::start(&stack);
        Self { stack, proxy }
    }

    /// Removes everything, the proxy's faults included.
    fn reset(&self) {
        self.stack.reset();
        self.proxy.reset();
    }

    fn user(&self) -> User {
        self.proxy.user()
    }

    /// Asserts that there is what one deployment creates, and nothing else.
    #[track_caller]
    fn is_complete(&self, artifacts: usize, what: &str) {
        let there = self.stack.boto(&format!(
            "{{'buckets': [b['Name'] for b in client('s3').list_buckets()['Buckets']], \
             'artifacts': len(client('s3').list_objects_v2(Bucket='{BUCKET}').get('Contents', [])), \
             'encrypted': len(client('s3').get_bucket_encryption(Bucket='{BUCKET}')['ServerSideEncryptionConfiguration']['Rules']), \
             'private': client('s3').get_public_access_block(Bucket='{BUCKET}')['PublicAccessBlockConfiguration']['BlockPublicAcls'], \
             'tls': 'SecureTransport' in client('s3').get_bucket_policy(Bucket='{BUCKET}')['Policy'], \
             'tables': client('dynamodb').list_tables()['TableNames'], \
             'ttl': client('dynamodb').describe_time_to_live(TableName='cb-bootstrap')['TimeToLiveDescription']['TimeToLiveStatus'], \
             'recovery': client('dynamodb').describe_continuous_backups(TableName='cb-bootstrap')['ContinuousBackupsDescription']\
             ['PointInTimeRecoveryDescription']['PointInTimeRecoveryStatus'], \
             'stacks': [s['StackName'] for s in client('cloudformation').describe_stacks()['Stacks']], \
             'change_sets': [c['ExecutionStatus'] for c in client('cloudformation').list_change_sets(StackName='cbbootstrap')['Summaries'] \
             if c['ExecutionStatus'] != 'EXECUTE_COMPLETE' and \
             c['StackId'] == client('cloudformation').describe_stacks(StackName='cbbootstrap')['Stacks'][0]['StackId']], \
             'functions': len(client('lambda').list_functions()['Functions']), \
             'apis': len(client('apigatewayv2').get_apis()['Items']), \
             'roles': len(client('iam').list_roles()['Roles']), \
             'alarms': len(client('cloudwatch').describe_alarms()['MetricAlarms']), \
             'dashboards': len(client('cloudwatch').list_dashboards()['DashboardEntries'])}}"
        ));
        let expected = json!({
            "buckets": [BUCKET], "artifacts": artifacts, "encrypted": 1, "private": true, "tls": true,
            "tables": ["cb-bootstrap"], "ttl": "ENABLED", "recovery": "ENABLED",
            "stacks": ["cbbootstrap"], "change_sets": [], "functions": 1, "apis": 1, "roles": 1, "alarms": 2,
            "dashboards": 1,
        });
        assert_eq!(there, expected, "{what}");
    }
}

fn deploy(user: &User, zip: &str) -> Ended {
    user.deploy(zip, &["--yes"])
}

/// Prepares an empty stand-in.
type Before<'a> = &'a (dyn Fn(&Aws) + Sync);

/// Runs `at` for the first call, the second and so on, each time on a new stack, until it returns that there is no such call.
fn at_each_call(before: Before, at: impl Fn(&Aws, usize) -> bool + Sync) -> usize {
    let (next, last) = (AtomicUsize::new(1), AtomicUsize::new(usize::MAX));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let aws = Aws::start();
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number > last.load(Ordering::SeqCst) {
                        break;
                    }
                    aws.reset();
                    before(&aws);
                    aws.proxy.reset();
                    if !at(&aws, number) {
                        last.fetch_min(number - 1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    last.load(Ordering::SeqCst)
}

/// Runs a command, kills it after this one of the calls that change something, and returns whether it made as many.
fn killed(aws: &Aws, number: usize, args: &[&str]) -> bool {
    let mut changes = 0;
    aws.proxy.fault(move |call| {
        changes += usize::from(!call.is_read());
        (!call.is_read() && changes == number).then_some(Fault::Kill)
    });
    let user = aws.user();
    let mut child = user.command(args).spawn().unwrap();
    aws.proxy.target(child.id());
    let ended = child.wait().unwrap();
    let calls = aws.proxy.calls();
    let has_call = calls.iter().filter(|call| !call.is_read()).count() >= number;
    assert_eq!(ended.code().is_none(), has_call, "killed after call {number}: {calls:?}");
    has_call
}

fn last_call(aws: &Aws) -> String {
    aws.proxy.calls().last().map_or_else(String::new, ToString::to_string)
}

fn nothing(_: &Aws) {}

#[test]
fn killed_after_any_change_of_the_first_deployment_the_next_completes_it() {
    let zip = artifact::small_zip();
    let args = ["deploy", "--yes", "--no-smoke", "--function-zip", zip];
    let calls = at_each_call(&nothing, |aws, number| {
        let was_killed = killed(aws, number, &args);
        let call = last_call(aws);
        aws.proxy.reset();
        let what = format!("killed after {call}");
        let next = deploy(&aws.user(), zip);
        assert_eq!(next.status, Some(0), "{what}: {next}");
        aws.is_complete(1, &what);
        was_killed
    });
    assert!(calls >= 10, "{calls}");
}

fn deploy_first(aws: &Aws) {
    deploy(&aws.stack.user(), artifact::small_zip()).ended_with(0);
}

#[test]
fn killed_after_any_change_of_an_update_the_next_deployment_completes_it() {
    let changed = artifact::small_zip_number(1);
    let args = ["deploy", "--yes", "--no-smoke", "--function-zip", changed];
    let calls = at_each_call(&deploy_first, |aws, number| {
        let was_killed = killed(aws, number, &args);
        let call = last_call(aws);
        aws.proxy.reset();
        let what = format!("killed after {call}");
        let next = deploy(&aws.user(), changed).document();
        aws.is_complete(2, &what);
        let served = aws.stack.boto(
            "__import__('base64').b64decode(client('lambda').list_functions()['Functions'][0]['CodeSha256']).hex()",
        );
        assert_eq!(served, next["function_sha256"], "{what}");
        was_killed
    });
    assert!(calls >= 5, "{calls}");
}

#[test]
fn killed_after_any_change_of_a_destruction_the_next_completes_it() {
    let args = [
        "destroy",
        "--yes",
        "--delete-table",
        "--delete-artifacts",
        "--table-name",
        "cb-bootstrap",
    ];
    let calls = at_each_call(&deploy_first, |aws, number| {
        let was_killed = killed(aws, number, &args);
        let call = last_call(aws);
        aws.proxy.reset();
        let next = aws.user().run(&args);
        assert_eq!(next.status, Some(0), "killed after {call}: {next}");
        assert_eq!(aws.stack.inventory(), json!([[], [], []]), "{call}");
        was_killed
    });
    assert!(calls >= 6, "{calls}");
}

#[test]
fn a_destruction_that_waits_for_an_earlier_one_deletes_its_table() {
    let aws = Aws::start();
    deploy_first(&aws);
    // An earlier run has ended, and CloudFormation deletes the stack.
    aws.proxy.play(
        Play::now()
            .stack("DELETE_IN_PROGRESS")
            .after(Duration::from_secs(1))
            .stack("DELETE_COMPLETE")
            .then_real(),
    );
    let (boto, mut is_gone) = (Boto::new(&aws.stack.url), false);
    aws.proxy.fault(move |call| {
        if call.name == "cloudformation:DescribeStackEvents" && !is_gone {
            is_gone = true;
            boto.value("client('cloudformation').delete_stack(StackName='cbbootstrap')");
        }
        None
    });
    let destroy = ["destroy", "--yes", "--delete-table", "--no-backup"];
    let ended = aws.user().run(&destroy).ended_with(0);
    assert_eq!(aws.stack.inventory(), json!([[BUCKET], [], []]), "{ended}");
}

/// A command that listens to signals.
fn listening(command: &mut Command) -> Child {
    let child = command.spawn().unwrap();
    let threads = format!("/proc/{}/task", child.id());
    wait_until("it listens to signals", || {
        let threads = fs::read_dir(&threads).into_iter().flatten().flatten();
        let names = threads.filter_map(|it| fs::read_to_string(it.path().join("comm")).ok());
        names.into_iter().any(|name| name == "signals\n")
    });
    child
}

#[test]
fn signals_end_commands_that_wait_for_a_reader() {
    let aws = MiniStack::start();
    let user = aws.user();
    user.deploy(artifact::small_zip(), &[]).ended_with(0);
    let zip = artifact::small_zip();
    for (number, args) in [
        &["template"][..],
        &["list", "--output", "json"],
        &["cluster", "list"],
        &["plan", "--function-zip", zip],
        &["destroy", "--yes", "--output", "json"],
    ]
    .into_iter()
    .enumerate()
    {
        let (reader, mut writer) = io::pipe().unwrap();
        // As much as a pipe holds.
        writer.write_all(&vec![0; 65536]).unwrap();
        let child = listening(user.command(args).stdout(writer));
        let (signal, name) =
            [("TERM", "SIGTERM"), ("INT", "Ctrl-C"), ("HUP", "SIGHUP")][number % 3];
        // By then, it usually has its result. Before, a signal ends it in another way.
        thread::sleep(Duration::from_secs(3));
        assert!(is_alive(child.id()), "{args:?}");
        kill(signal, &child.id().to_string());
        let ended = Ended::of_child(child).ended_with(4);
        assert!(ended.stderr.contains(&format!("error: stopped by {name}")), "{args:?}: {ended}");
        drop(reader);
    }
}

/// A user whose commands wait for a file.
fn waiting_user() -> User {
    let user = User::default();
    let file = user.home.path().join("config").display().to_string();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    user.with("AWS_CONFIG_FILE", file)
}

#[test]
fn nohup_protects_from_a_closed_terminal() {
    let user = waiting_user();
    let list = [programs::cbbootstrap(), "list".into()];
    let child = listening(&mut user.program(Path::new("nohup"), &list));
    kill("HUP", &child.id().to_string());
    thread::sleep(Duration::from_secs(1));
    kill("INT", &child.id().to_string());
    let ended = Ended::of_child(child).ended_with(4);
    assert!(ended.stderr.contains("error: stopped by Ctrl-C\n"), "{ended}");
}

#[test]
fn signals_end_commands_that_wait_for_a_file() {
    let user = waiting_user();
    for args in [&["iam-policy"][..], &["list"]] {
        let child = listening(&mut user.command(args));
        kill("INT", &child.id().to_string());
        let ended = Ended::of_child(child).ended_with(4);
        assert!(ended.stderr.contains("error: stopped by Ctrl-C\n"), "{args:?}: {ended}");
    }
}

/// Faults after which a retry succeeds.
const PASSING: [Fault; 5] = [
    Fault::Throttle,
    Fault::InternalError,
    Fault::Unavailable,
    Fault::DropRequest,
    Fault::DropAnswer,
];

/// Makes the first attempt of every call fail.
fn every_first_try(proxy: &Proxy, fault: &Fault) {
    let (fault, mut seen) = (fault.clone(), std::collections::BTreeSet::new());
    proxy.fault(move |call: &Call| {
        seen.insert((call.name.clone(), call.parameters.to_string())).then(|| fault.clone())
    });
}

#[test]
fn a_deployment_survives_one_failure_of_every_call() {
    let (zip, changed) = (artifact::small_zip(), artifact::small_zip_number(1));
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let aws = Aws::start();
                while let Some(fault) = PASSING.get(next.fetch_add(1, Ordering::SeqCst)) {
                    aws.reset();
                    for (round, (zip, artifacts)) in
                        [(zip, 1), (changed, 2)].into_iter().enumerate()
                    {
                        aws.proxy.reset();
                        every_first_try(&aws.proxy, fault);
                        let ended = deploy(&aws.user(), zip);
                        assert_eq!(ended.status, Some(0), "{fault:?}: {ended}");
                        aws.is_complete(artifacts, &format!("{fault:?}, round {round}"));
                    }
                    aws.proxy.reset();
                    every_first_try(&aws.proxy, fault);
                    let args = ["destroy", "--yes", "--delete-table", "--delete-artifacts"];
                    let ended = aws.user().run(&args);
                    assert_eq!(ended.status, Some(0), "{fault:?}: {ended}");
                    assert_eq!(aws.stack.inventory(), json!([[], [], []]), "{fault:?}");
                }
            });
        }
    });
}

#[derive(Clone, Copy)]
enum Kind {
    FirstDeployment,
    Update,
}

/// Makes one call of a deployment fail, each in turn. `judge` gets how the deployment ended, what it deployed, how many artifacts
/// there are in the end, and the call.
fn at_each_call_of(
    kind: Kind,
    fault: &Fault,
    judge: impl Fn(&Aws, &Ended, (&str, usize), &str) + Sync,
) {
    let (before, wanted): (Before, _) = match kind {
        Kind::FirstDeployment => (&nothing, (artifact::small_zip(), 1)),
        Kind::Update => (&deploy_first, (artifact::small_zip_number(1), 2)),
    };
    // A read whose answer is lost is only repeated.
    let skips_reads = matches!(fault, Fault::DropAnswer);
    let fewest = if skips_reads { 5 } else { 16 };
    let counts = move |call: &Call| !(skips_reads && call.is_read());
    let calls = at_each_call(before, |aws, number| {
        let (fault, mut count) = (fault.clone(), 0);
        aws.proxy.fault(move |call| {
            count += usize::from(counts(call));
            (counts(call) && count == number).then(|| fault.clone())
        });
        let ended = deploy(&aws.user(), wanted.0);
        let calls = aws.proxy.calls();
        let call = calls.iter().find(|call| call.fault.is_some());
        let what = call.map_or_else(String::new, ToString::to_string);
        judge(aws, &ended, wanted, &what);
        call.is_some()
    });
    assert!(calls >= fewest, "{calls}");
}

#[test]
fn a_lost_answer_to_any_call_does_no_harm() {
    for kind in [Kind::FirstDeployment, Kind::Update] {
        at_each_call_of(kind, &Fault::DropAnswer, |aws, ended, (_, artifacts), what| {
            assert_eq!(ended.status, Some(0), "{what}: {ended}");
            aws.is_complete(artifacts, what);
        });
    }
}

/// A deployment of which one call is refused fails with the cause, or did not need the call and is complete.
fn refused_at_each_call_of(kind: Kind, fault: &Fault, cause: &str) {
    at_each_call_of(kind, fault, |aws, ended, (zip, artifacts), what| {
        if ended.status != Some(0) {
            assert_eq!(ended.status, Some(1), "{what}: {ended}");
            assert!(ended.stderr.contains(cause), "{what}: {ended}");
            assert_eq!(ended.stdout, "", "{what}: {ended}");
            aws.proxy.reset();
            let next = deploy(&aws.user(), zip);
            assert_eq!(next.status, Some(0), "after {what}: {next}");
        }
        aws.is_complete(artifacts, what);
    });
}

const EXPIRED: &str = "the AWS credentials have expired";

#[test]
fn credentials_that_expire_at_any_call_are_named() {
    refused_at_each_call_of(Kind::FirstDeployment, &Fault::ExpireToken, EXPIRED);
}

#[test]
fn credentials_that_expire_at_any_call_of_an_update_are_named() {
    refused_at_each_call_of(Kind::Update, &Fault::ExpireToken, EXPIRED);
}

#[test]
fn a_permission_that_is_missing_at_any_call_is_named() {
    let denied = Fault::refuse(
        "AccessDenied",
        "User: arn:aws:iam::1:user/ci is not authorized to perform: some:Action on resource: some-thing",
    );
    for kind in [Kind::FirstDeployment, Kind::Update] {
        refused_at_each_call_of(kind, &denied, "cbbootstrap iam-policy");
    }
}

#[test]
fn slow_answers_are_waited_for() {
    let aws = Aws::start();
    aws.proxy.fault(|_| Some(Fault::Delay(Duration::from_millis(200))));
    let deployed: Value = deploy(&aws.user(), artifact::zip()).document();
    assert_eq!(deployed["changed"], json!(true));
    aws.is_complete(1, "slow");
    let endpoint = deployed["endpoint"].as_str().unwrap();
    assert_eq!(http::claim(endpoint, "c", "a").unwrap().status, 200);
}
