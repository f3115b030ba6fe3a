//! The proxy, the terminal and the stand-in's reset, on which other tests rely.

use std::{
    cmp::Reverse,
    os::unix::process::ExitStatusExt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aws_sdk_cloudformation::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig},
    error::ProvideErrorMetadata,
    types::ResourceStatus,
};
use axum::routing::get;
use cbbootstrap_tests::{
    artifact,
    cli::User,
    http,
    ministack::MiniStack,
    process::{Guard, is_alive, wait_until},
    proxy::{Fault, Play, Proxy},
    server::Server,
    terminal::{Terminal, settled},
};
use serde_json::json;
use tokio::time::sleep;

fn deploy<'a>(zip: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    let deploy = ["deploy", "--yes", "--output", "json", "--function-zip", zip];
    [&deploy[..], options].concat()
}

#[test]
fn a_deployment_goes_through_the_proxy_and_every_call_has_a_name() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let (user, zip) = (proxy.user(), artifact::zip().to_owned());
    proxy.play(
        Play::on("ExecuteChangeSet")
            .stack("CREATE_IN_PROGRESS")
            .after(Duration::from_millis(400))
            .resource("Function", "AWS::Lambda::Function", "CREATE_IN_PROGRESS")
            .because("Taking its time")
            .resource("Function", "AWS::Lambda::Function", "CREATE_COMPLETE")
            .stack("CREATE_COMPLETE")
            .then_real(),
    );
    let deployed = user.run(&deploy(&zip, &[]));
    let document = deployed.document();
    assert_eq!(document["smoke"]["passed"], json!(true), "{deployed}");
    let seen: Vec<_> = ["CREATE_IN_PROGRESS", "Taking its time", "CREATE_COMPLETE"]
        .map(|text| deployed.stderr.find(text))
        .into();
    assert!(seen.iter().all(Option::is_some) && seen.is_sorted(), "{deployed}");
    // The roles that the stand-in created are the function's, and not part of this test.
    assert!(!deployed.stderr.contains("AWS::IAM::Role"), "{deployed}");
    let took = document["seconds"]["stack"].as_f64().unwrap();
    assert!(took > 1.2, "{deployed}");

    // A question is asked where there is a terminal, and it can be answered in each way.
    let mut terminal = Terminal::start(&user, &["destroy"]);
    terminal.wait_for("Delete in us-east-1");
    insta::assert_snapshot!(settled(&terminal.screen()), @r"
    Account 000000000000, arn:aws:iam::000000000000:root, region us-east-1, stack cbbootstrap
      - AccessLogs (AWS::Logs::LogGroup)
      - FunctionLogs (AWS::Logs::LogGroup)
      - HttpApi (AWS::ApiGatewayV2::Api)
      - ErrorAlarm (AWS::CloudWatch::Alarm)
      - Role (AWS::IAM::Role)
      - Function (AWS::Lambda::Function)
      - Dashboard (AWS::CloudWatch::Dashboard)
      - Integration (AWS::ApiGatewayV2::Integration)
      - Permission (AWS::Lambda::Permission)
      - Route (AWS::ApiGatewayV2::Route)
      - Stage (AWS::ApiGatewayV2::Stage)
      - ThrottleAlarm (AWS::CloudWatch::Alarm)
    Delete in us-east-1: stack `cbbootstrap` with its endpoint? [y/N]
    ");
    terminal.type_line("no");
    assert_eq!(terminal.wait(), Some(4), "{}", terminal.screen());
    let mut terminal = Terminal::start(&user, &["destroy"]);
    terminal.wait_for("Delete in us-east-1");
    terminal.press_ctrl_c();
    assert_eq!(terminal.wait(), Some(4), "{}", terminal.screen());
    assert_eq!(proxy.count("cloudformation:DeleteStack"), 0);
    let mut terminal = Terminal::start(&user, &["destroy"]);
    terminal.wait_for("Delete in us-east-1");
    terminal.type_line("yes");
    let deleted = proxy.wait_for("cloudformation:DeleteStack");
    assert!(!deleted.parameter("StackName").is_empty(), "{deleted}");
    assert_eq!(terminal.wait(), Some(0), "{}", terminal.screen());

    let calls = proxy.calls();
    for (call, number) in calls.iter().zip(1..) {
        assert!(!call.name.contains(' '), "{call} has no name");
        assert_eq!((call.number, call.access_key.as_str()), (number, "test"), "{call}");
        assert!(call.status.is_some_and(|status| status < 500), "{call}");
    }
    for name in [
        "sts:GetCallerIdentity",
        "s3:HeadBucket",
        "s3:CreateBucket",
        "s3:PutBucketEncryption",
        "s3:PutObject",
        "dynamodb:CreateTable",
        "cloudformation:DescribeStacks",
        "cloudformation:CreateChangeSet",
        "cloudformation:ExecuteChangeSet",
    ] {
        assert!(proxy.count(name) > 0, "{name} is missing");
    }
}

#[test]
fn the_caller_sees_each_fault() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    // Each once for each service; from there on, what a HEAD sees.
    let faults = [
        Fault::Throttle,
        Fault::InternalError,
        Fault::Unavailable,
        Fault::ExpireToken,
        Fault::refuse("Some", "<said> & done"),
        Fault::Delay(Duration::from_millis(300)),
        Fault::DropRequest,
    ];
    let (services, tries) = (5, faults.len() + 1);
    proxy.fault(move |call| {
        if call.number > services * tries {
            return Some(Fault::Throttle);
        }
        let fault = faults.get((call.number - 1) % tries);
        Some(fault.cloned().unwrap_or_else(|| Fault::denied(call)))
    });
    let seen = proxy.boto(&format!(
        "[[tried(call) for _ in range({tries})] for call in [\
         lambda: client('cloudformation').list_stacks()['StackSummaries'], \
         lambda: client('dynamodb').list_tables()['TableNames'], \
         lambda: client('logs').describe_log_groups()['logGroups'], \
         lambda: client('lambda').list_functions()['Functions'], \
         lambda: client('s3').list_buckets()['Buckets']]] \
         + [tried(lambda: client('s3').head_bucket(Bucket='b'))]"
    ));
    let json = json!([
        [400, "ThrottlingException"],
        [500, "InternalServerError"],
        [503, "ServiceUnavailableException"],
        [400, "ExpiredTokenException"],
        [400, "Some"],
        [],
        "ConnectionClosedError",
        [400, "AccessDeniedException"],
    ]);
    let expected = json!([
        [
            [400, "Throttling"],
            [500, "InternalFailure"],
            [503, "ServiceUnavailable"],
            [403, "ExpiredToken"],
            [400, "Some"],
            [],
            "ConnectionClosedError",
            [403, "AccessDenied"],
        ],
        json,
        json,
        [
            [429, "TooManyRequestsException"],
            [500, "ServiceException"],
            [503, "ServiceUnavailableException"],
            [403, "ExpiredTokenException"],
            [400, "Some"],
            [],
            "ConnectionClosedError",
            [403, "AccessDeniedException"],
        ],
        [
            [503, "SlowDown"],
            [500, "InternalError"],
            [503, "ServiceUnavailable"],
            [400, "ExpiredToken"],
            [400, "Some"],
            [],
            "ConnectionClosedError",
            [403, "AccessDenied"],
        ],
        // No body, so no code but the status.
        [503, "503"],
    ]);
    assert_eq!(seen, expected);
}

#[test]
fn a_call_whose_answer_is_lost_has_its_effect() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    proxy.fault_on("dynamodb:CreateTable", 1, Fault::DropAnswer);
    let answers = proxy.boto(
        "[tried(lambda: client('dynamodb').create_table(TableName='table', BillingMode='PAY_PER_REQUEST', \
         KeySchema=[{'AttributeName': 'k', 'KeyType': 'HASH'}], \
         AttributeDefinitions=[{'AttributeName': 'k', 'AttributeType': 'S'}])), \
         client('dynamodb').list_tables()['TableNames']]",
    );
    assert_eq!(answers, json!(["ConnectionClosedError", ["table"]]));
    let [create, list] = &proxy.calls()[..] else { panic!("two calls were made") };
    assert_eq!((create.number, create.parameter("TableName")), (1, "table"));
    assert_eq!((create.status, &create.fault), (None, &Some(Fault::DropAnswer)));
    assert_eq!((list.status, &list.fault), (Some(200), &None));
}

#[test]
fn a_proxy_works_before_any_server() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let count = move || async move { counter.fetch_add(1, Ordering::SeqCst).to_string() };
    let server = Server::route(axum::Router::new().route("/count", get(count)));
    let proxy = Proxy::before(&server.url);

    let count = || http::get(&proxy.url, "/count").ok();
    assert_eq!(count().unwrap().body, "0");
    proxy.fault(|_| Some(Fault::Duplicate(Duration::from_millis(100))));
    assert_eq!(count().unwrap().body, "1");
    wait_until("it comes once more", || requests.load(Ordering::SeqCst) == 3);

    proxy.fault_at_random(1, 1.0);
    let answers: Vec<_> = (0..50).map(|_| count().map(|a| a.status)).collect();
    for outcome in [None, Some(200), Some(429), Some(500), Some(503)] {
        assert!(answers.contains(&outcome), "{outcome:?} in {answers:?}");
    }
    let faults = || {
        let calls = proxy.calls().into_iter();
        calls.filter_map(|call| call.fault).collect::<Vec<_>>()
    };
    let first = faults();
    proxy.reset();
    proxy.fault_at_random(1, 1.0);
    (0..50).for_each(|_| drop(count()));
    assert_eq!(faults(), first[1..], "the same again");
    proxy.fault_at_random(1, 0.0);
    assert!(count().is_some());
}

#[test]
fn the_proxy_can_kill_a_deployer_between_call_and_answer() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let (user, zip) = (proxy.user(), artifact::zip().to_owned());
    proxy.fault_on("dynamodb:CreateTable", 1, Fault::Kill);
    let mut deployer = Guard(user.command(&deploy(&zip, &[])).spawn().unwrap());
    proxy.target(deployer.0.id());
    assert_eq!(deployer.0.wait().unwrap().signal(), Some(9));
    assert_eq!(aws.inventory()[1], json!(["cb-bootstrap"]));
}

/// `CloudFormation` as the proxy shows it, of a stack `s`.
struct Seen(Client);

impl Seen {
    fn through(proxy: &Proxy) -> Self {
        let config = aws_sdk_cloudformation::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(&proxy.url)
            .retry_config(RetryConfig::disabled());
        Self(Client::from_conf(config.build()))
    }

    /// Makes the stack, with a queue in it, and gives its ARN.
    async fn create(&self) -> String {
        let create = self.0.create_stack().stack_name("s");
        let created = create.template_body(queue(0)).send().await.unwrap();
        let id = created.stack_id.unwrap();
        while self.status("s").await != "CREATE_COMPLETE" {
            sleep(TICK / 4).await;
        }
        id
    }

    async fn update(&self, delay: u32, token: &str) {
        let update = self.0.update_stack().stack_name("s");
        let update = update.template_body(queue(delay));
        update.client_request_token(token).send().await.unwrap();
    }

    /// Its status and the reason for it, or the error's code.
    async fn status(&self, stack: &str) -> String {
        match self.0.describe_stacks().stack_name(stack).send().await {
            Ok(found) => {
                let stack = &found.stacks()[0];
                let status = stack.stack_status().unwrap().as_str();
                let reason = stack.stack_status_reason().unwrap_or_default();
                format!("{status} {reason}").trim().to_owned()
            }
            Err(error) => error.code().unwrap().to_owned(),
        }
    }

    /// Its events, newest first: resource, status, reason and token.
    async fn events(&self, stack: &str) -> Vec<String> {
        let events = self.0.describe_stack_events().stack_name(stack);
        let events = events.send().await.unwrap().stack_events.unwrap();
        let mut ids: Vec<_> = events.iter().map(|event| event.event_id()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), events.len(), "each has its own id");
        assert!(events.iter().is_sorted_by_key(|event| Reverse(event.timestamp().copied())));
        events
            .iter()
            .map(|event| {
                let parts = [
                    event.logical_resource_id(),
                    event.resource_status().map(ResourceStatus::as_str),
                    event.resource_status_reason(),
                    event.client_request_token(),
                ];
                let parts = parts.map(Option::unwrap_or_default);
                parts.join(" ").trim().to_owned()
            })
            .collect()
    }
}

fn queue(delay: u32) -> String {
    let queue = json!({"Type": "AWS::SQS::Queue", "Properties": {"DelaySeconds": delay}});
    json!({"Resources": {"Queue": queue}}).to_string()
}

/// Between two scenes.
const TICK: Duration = Duration::from_secs(1);

#[tokio::test]
async fn an_update_is_played_cancelled_and_forgotten() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let seen = Seen::through(&proxy);
    let id = seen.create().await;
    let created = seen.events("s").await;

    proxy.play(
        Play::on("UpdateStack")
            .stack("UPDATE_IN_PROGRESS")
            .resource("Queue", "AWS::SQS::Queue", "UPDATE_IN_PROGRESS")
            .after(TICK)
            .resource("Queue", "AWS::SQS::Queue", "UPDATE_COMPLETE")
            .after(TICK * 100)
            .stack("UPDATE_COMPLETE"),
    );
    proxy.play(
        Play::on("CancelUpdateStack")
            .instead()
            .stack("UPDATE_ROLLBACK_IN_PROGRESS")
            .because("User Initiated <&>")
            .after(TICK)
            .stack("UPDATE_ROLLBACK_FAILED")
            .because("no way back"),
    );
    assert_eq!(seen.status("s").await, "CREATE_COMPLETE");
    seen.update(1, "t1").await;
    let begun = ["Queue UPDATE_IN_PROGRESS  t1", "s UPDATE_IN_PROGRESS  t1"];
    assert_eq!(seen.events("s").await, [strings(&begun), created.clone()].concat());
    for name in ["s", &id] {
        assert_eq!(seen.status(name).await, "UPDATE_IN_PROGRESS");
    }
    // What was lost and sent once more is the same update.
    seen.update(1, "t1").await;
    sleep(TICK).await;
    let done = [&["Queue UPDATE_COMPLETE  t1"], &begun[..]].concat();
    assert_eq!(seen.events(&id).await, [strings(&done), created.clone()].concat());

    let cancel = seen.0.cancel_update_stack().stack_name("s");
    cancel.client_request_token("t2").send().await.unwrap();
    assert_eq!(seen.status("s").await, "UPDATE_ROLLBACK_IN_PROGRESS User Initiated <&>");
    sleep(TICK).await;
    let cancelled = [
        &[
            "s UPDATE_ROLLBACK_FAILED no way back t2",
            "s UPDATE_ROLLBACK_IN_PROGRESS User Initiated <&> t2",
        ],
        &done[..],
    ]
    .concat();
    assert_eq!(seen.events("s").await, [strings(&cancelled), created.clone()].concat());
    assert_eq!(seen.status("s").await, "UPDATE_ROLLBACK_FAILED no way back");

    // The update has really been made.
    proxy.curtain();
    assert_eq!(seen.status("s").await, "UPDATE_COMPLETE");
    seen.update(2, "t3").await;
    let history = [strings(&cancelled), created].concat();
    while !seen.events("s").await[0].starts_with("s UPDATE_COMPLETE") {
        sleep(TICK / 4).await;
    }
    let events = seen.events("s").await;
    assert!(events.ends_with(&history), "what was shown stays: {events:?}");

    proxy.stack_is_because("UPDATE_IN_PROGRESS", "someone else");
    assert_eq!(seen.status("s").await, "UPDATE_IN_PROGRESS someone else");
    proxy.play(
        Play::now()
            .stack("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
            .after(TICK)
            .stack("UPDATE_COMPLETE")
            .because("at last")
            .then_real(),
    );
    assert_eq!(seen.status(&id).await, "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS");
    sleep(TICK).await;
    assert_eq!(seen.status(&id).await, "UPDATE_COMPLETE");
    let names: Vec<_> = proxy.calls().into_iter().map(|call| call.name).collect();
    assert!(names.iter().all(|name| name.starts_with("cloudformation:")));
}

#[tokio::test]
async fn a_deletion_is_played_by_name_and_by_arn() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let seen = Seen::through(&proxy);
    let id = seen.create().await;
    // So that boto3 has started before time counts.
    aws.inventory();
    proxy.play(
        Play::on("DeleteStack")
            .stack("DELETE_IN_PROGRESS")
            .after(TICK * 4)
            .stack("DELETE_COMPLETE"),
    );
    seen.0.delete_stack().stack_name(&id).send().await.unwrap();
    let begun = Instant::now();
    // The stand-in has no stack of this name any more.
    while aws.inventory()[2] != json!([]) {}
    for name in ["s", &id] {
        assert_eq!(seen.status(name).await, "DELETE_IN_PROGRESS");
    }
    sleep((TICK * 4).saturating_sub(begun.elapsed())).await;
    assert_eq!(seen.status("s").await, "ValidationError");
    assert_eq!(seen.status(&id).await, "DELETE_COMPLETE");
    // Another of the same name has nothing to do with it.
    seen.create().await;
    let events = seen.events("s").await;
    assert!(events.iter().all(|event| event.contains("CREATE")), "{events:?}");
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn a_reset_stand_in_is_empty() {
    let aws = MiniStack::start();
    let (user, zip) = (aws.user(), artifact::zip().to_owned());
    // What a deployment and its function make, and what is not theirs.
    let everything = "[client('s3').list_buckets()['Buckets'], client('dynamodb').list_tables()['TableNames'], \
                      client('cloudformation').list_stacks()['StackSummaries'], \
                      client('lambda').list_functions()['Functions'], client('apigatewayv2').get_apis()['Items'], \
                      client('logs').describe_log_groups()['logGroups'], \
                      client('iam').list_roles()['Roles'], client('iam').list_users()['Users']]";
    aws.boto("client('iam').create_user(UserName='u')");
    let first = user.run(&deploy(&zip, &[])).document();
    let functions = aws.functions();
    assert!(!functions.is_empty(), "the smoke test has used one");
    let made = aws.boto(everything);
    assert!(made.as_array().unwrap().iter().all(|kind| *kind != json!([])), "{made}");

    aws.reset();
    wait_until("no function runs", || !functions.iter().any(|function| is_alive(*function)));
    assert_eq!(aws.boto(everything), json!([[], [], [], [], [], [], [], []]));
    let endpoint = first["endpoint"].as_str().unwrap();
    assert_ne!(http::get(endpoint, "/").unwrap().status, 200);
    let second = user.run(&deploy(&zip, &[])).document();
    assert_eq!(
        (&second["changed"], &second["smoke"]["passed"]),
        (&json!(true), &json!(true)),
        "{second}"
    );
}

#[test]
fn a_terminal_shows_what_a_user_sees() {
    let user = User::default();
    let mut terminal = Terminal::sized(&user, &["--help"], (80, 10));
    assert_eq!(terminal.wait(), Some(0));
    let (screen, transcript) = (terminal.screen(), terminal.transcript());
    assert!(transcript.contains("Usage: cbbootstrap"), "{transcript}");
    assert!(transcript.ends_with(&screen) && transcript.lines().count() > 10);
    assert!(transcript.lines().all(|line| line.chars().count() <= 80));

    let mut terminal = Terminal::start(&user, &["no-such-command"]);
    terminal.wait_for("unrecognized subcommand");
    assert_eq!(terminal.wait(), Some(2));
}
