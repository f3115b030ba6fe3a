//! `logs`, `status` and the manual pages.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use cbbootstrap_tests::{
    artifact,
    cli::{Ended, User},
    http,
    ministack::MiniStack,
    process::{Guard, kill, wait_until},
};
use serde_json::{Value, json};
use tempfile::tempdir;

/// The value of a Python expression about the stack, in which `output(name)` is an output of it.
fn boto(aws: &MiniStack, expression: &str) -> Value {
    aws.boto(&format!(
        "(lambda output: {expression})(lambda name: next(o['OutputValue'] for o in client('cloudformation')\
         .describe_stacks(StackName='cbbootstrap')['Stacks'][0]['Outputs'] if o['OutputKey'] == name))"
    ))
}

/// Logs a line, as the function would.
fn log(aws: &MiniStack, stream: &str, message: &str) {
    let message = json!(message);
    boto(
        aws,
        &format!(
            "[client('logs').create_log_stream(logGroupName=output('LogGroupName'), logStreamName='{stream}') \
             if not client('logs').describe_log_streams(logGroupName=output('LogGroupName'), \
             logStreamNamePrefix='{stream}')['logStreams'] else None, \
             client('logs').put_log_events(logGroupName=output('LogGroupName'), logStreamName='{stream}', \
             logEvents=[{{'timestamp': int(__import__('time').time() * 1000), 'message': {message}}}])]"
        ),
    );
}

fn status(user: &User, options: &[&str]) -> Value {
    user.run(&[&["status", "--output", "json"], options].concat()).document()
}

#[test]
fn logs_and_status_show_the_state_of_a_deployment() {
    let aws = MiniStack::start();
    let user = aws.user();
    user.run(&["logs"]).failed(1, "there is no stack `cbbootstrap`");
    user.run(&["status"]).failed(1, "there is no stack `cbbootstrap`");

    let zip = artifact::zip().to_owned();
    let deploy = ["deploy", "--yes", "--no-smoke", "--output", "json", "--function-zip", &zip];
    let deployed = user.run(&deploy).document();
    let silent = user.run(&["logs", "--since", "1h 30m"]).ended_with(0);
    assert_eq!(silent.stdout, "");
    assert!(silent.stderr.contains("no log lines in the last 1h 30m"), "{silent}");

    the_log_is_shown(&aws, &user, deployed["endpoint"].as_str().unwrap());
    the_log_is_followed(&aws, &user);
    the_status_tells_all(&aws, &user);
    status_shows_what_the_permissions_allow(&aws);
    drift_is_found(&aws, &user);
    replaced_code_is_noticed(&aws, &user, &zip);

    boto(&aws, "client('logs').delete_log_group(logGroupName=output('LogGroupName'))");
    user.run(&["logs"]).failed(1, "there is no log group");
}

fn the_log_is_shown(aws: &MiniStack, user: &User, endpoint: &str) {
    for node in ["a", "b"] {
        http::claim(endpoint, "mycluster", node).unwrap();
    }
    wait_until("the calls are logged", || {
        let shown = user.run(&["logs", "--raw"]).ended_with(0).stdout;
        shown.matches("REPORT RequestId").count() == 2
    });
    log(aws, "odd", "it said \"no\\yes\" \u{1b}[31m\nin two lines\n");
    log(aws, "odd", "It Said something else");

    let all = user.run(&["logs", "--raw"]).ended_with(0);
    assert_eq!(all.stderr, "");
    let requests: Vec<Value> = all
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line.split_once("  ")?.1).ok())
        .collect();
    let told = |request: &Value| {
        let fields = ["route", "status", "Outcome", "DynamoDBCalls"];
        fields.map(|field| request[field].clone())
    };
    let expected = |outcome| [json!("/cluster"), json!(200), json!(outcome), json!(1)];
    let outcomes: Vec<_> = requests.iter().map(told).collect();
    assert_eq!(outcomes, [expected("claimed"), expected("joined")], "{all}");
    assert_eq!(requests[0]["cluster"], requests[1]["cluster"]);
    let metrics = &requests[0]["_aws"]["CloudWatchMetrics"][0];
    assert_eq!(metrics["Namespace"], "cbbootstrap", "{all}");
    assert!(!all.stdout.contains("mycluster"), "{all}");
    let times: Vec<_> = all
        .stdout
        .lines()
        .map(|line| {
            let (time, message) = line.split_once("  ").unwrap_or_else(|| panic!("{all}"));
            assert!(time.len() == 24 && time.ends_with('Z') && message == message.trim(), "{line}");
            time
        })
        .collect();
    assert!(times.is_sorted(), "the oldest first: {all}");
    assert_eq!(all.stdout.matches("START RequestId").count(), 2, "{all}");

    for (filter, lines) in [
        ("REPORT RequestId", 2),
        ("it said \"no\\yes\"", 1),
        ("it said \"no\\yes,\"", 0),
        ("It Said", 1),
        ("said", 1),
        ("-START", 0),
    ] {
        let found = user.run(&["logs", "--filter", filter]).ended_with(0);
        assert_eq!(found.stdout.lines().count(), lines, "{filter}: {found}");
        assert_eq!(found.stderr.contains("no log lines with"), lines == 0, "{found}");
    }
    let odd = user.run(&["logs", "--filter", "it said"]).stdout;
    assert!(odd.ends_with("  it said \"no\\yes\" \\u{1b}[31m\\nin two lines\n"), "{odd}");
    user.run(&["logs", "--filter", ""]).failed(2, "--filter");
    user.run(&["logs", "--since", "10"]).failed(2, "--since");
    let later = user.run(&["logs", "--since", "0s"]).ended_with(0);
    assert_eq!(later.stdout, "");

    // A reader that has had enough.
    let mut child = user.command(&["logs"]).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

fn the_log_is_followed(aws: &MiniStack, user: &User) {
    for (signal, marker) in [("INT", "marker-1"), ("TERM", "marker-2")] {
        let before = format!("{marker} before");
        log(aws, "followed", &before);
        let mut child = user.command(&["logs", "--follow", "--filter", marker]).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut guard = Guard(child);
        let (lines, shown) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                lines.send(line).unwrap();
            }
        });
        let next = || shown.recv_timeout(Duration::from_mins(1)).unwrap();
        let line = next();
        assert!(line.ends_with(&before), "{line}");
        for number in 0..2 {
            let later = format!("{marker} later {number}");
            log(aws, "other", "not looked for");
            log(aws, "followed", &later);
            let line = next();
            assert!(line.ends_with(&later), "no other, and none twice: {line}");
        }
        kill(signal, &guard.0.id().to_string());
        assert_eq!(guard.0.wait().unwrap().code(), Some(0), "SIG{signal}");
        assert!(shown.recv().is_err(), "nothing more on stdout");
        let mut said = String::new();
        let mut stderr = guard.0.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("Following log group") && said.lines().count() == 1, "{said}");
    }
}

fn the_status_tells_all(aws: &MiniStack, user: &User) {
    let shown = status(user, &[]);
    for (pointer, expected) in [
        ("/stack_name", json!("cbbootstrap")),
        ("/region", json!("us-east-1")),
        ("/stack_status", json!("CREATE_COMPLETE")),
        ("/cause", Value::Null),
        ("/termination_protection", json!(false)),
        ("/drift/status", json!("NOT_CHECKED")),
        ("/drift/resources", Value::Null),
        ("/function/state", json!("active")),
        ("/function/last_update", json!("successful")),
        ("/function/version", Value::Null),
        ("/function/replaced", json!(false)),
        ("/function/arch", json!("x86_64")),
        ("/function/memory", json!(256)),
        ("/auth", json!("none")),
        ("/table/name", json!("cb-bootstrap")),
        ("/table/deletion_protection", json!(true)),
        ("/table/point_in_time_recovery", json!(true)),
        ("/unknown", json!({})),
    ] {
        assert_eq!(shown.pointer(pointer), Some(&expected), "{pointer} {shown}");
    }
    let dashboard = shown["dashboard"].as_str().unwrap().to_owned();
    assert!(dashboard.starts_with("cbbootstrap-us-east-1-"), "{shown}");
    assert!(shown["age_seconds"].as_i64().unwrap() >= 0, "{shown}");
    for time in [&shown["created"], &shown["updated"], &shown["function"]["last_modified"]] {
        assert!(time.as_str().unwrap().ends_with('Z'), "{shown}");
    }
    assert!(shown["table"]["items"].as_i64().unwrap() >= 1, "{shown}");

    boto(
        aws,
        "[client('cloudformation').update_termination_protection(StackName='cbbootstrap', \
         EnableTerminationProtection=True), \
         [client('lambda').publish_version(FunctionName=output('FunctionName')) for _ in 'x']]",
    );
    let shown = status(user, &[]);
    assert_eq!(shown["termination_protection"], json!(true), "{shown}");
    assert_eq!(shown["function"]["version"], json!(1), "{shown}");
    let text = user.run(&["status"]).ended_with(0).stdout;
    for part in [
        "CREATE_COMPLETE since 20",
        " ago)",
        "termination protection on",
        "not checked; `--drift` checks",
        "version 1",
        "point-in-time recovery on",
        "public: anyone who knows the URL can call it",
        &format!("#dashboards/dashboard/{dashboard}"),
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

fn status_shows_what_the_permissions_allow(aws: &MiniStack) {
    let key = aws.boto(
        "[client('iam').create_user(UserName='reader'), client('iam').put_user_policy(UserName='reader', \
         PolicyName='p', PolicyDocument=json.dumps({'Version': '2012-10-17', 'Statement': [{'Effect': 'Allow', \
         'Action': ['cloudformation:DescribeStacks', 'lambda:GetFunctionConfiguration'], 'Resource': '*'}]})), \
         client('iam').create_access_key(UserName='reader')['AccessKey']][2]",
    );
    let reader = aws
        .user()
        .with("AWS_ACCESS_KEY_ID", key["AccessKeyId"].as_str().unwrap())
        .with("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"].as_str().unwrap());
    let shown = status(&reader, &["--drift"]);
    assert_eq!(shown["function"]["state"], json!("active"), "{shown}");
    assert_eq!(shown["table"], Value::Null, "{shown}");
    let unknown = shown["unknown"].as_object().unwrap();
    for what in ["drift", "table", "version"] {
        let why = unknown[what].as_str().unwrap();
        assert!(why.contains("access denied"), "{what}: {shown}");
    }
    assert_eq!(unknown.len(), 3, "{shown}");
    let text = reader.run(&["status"]).ended_with(0).stdout;
    assert!(text.contains("Table:    unknown: "), "{text}");
    reader.run(&["logs"]).failed(1, "access denied");
}

fn drift_is_found(aws: &MiniStack, user: &User) {
    let shown = status(user, &["--drift"]);
    assert_eq!(
        (&shown["drift"]["status"], &shown["drift"]["resources"]),
        (&json!("IN_SYNC"), &json!([])),
        "{shown}"
    );
    boto(
        aws,
        "client('lambda').update_function_configuration(FunctionName=output('FunctionName'), MemorySize=512)",
    );
    let shown = status(user, &["--drift"]);
    assert_eq!(shown["drift"]["status"], json!("DRIFTED"), "{shown}");
    assert_eq!(
        shown["drift"]["resources"],
        json!([{
            "resource": "Function",
            "type": "AWS::Lambda::Function",
            "status": "MODIFIED",
            "differences": [{"property": "/MemorySize", "expected": "256", "actual": "512"}],
        }]),
        "{shown}"
    );
    let drifted = user.run(&["status", "--drift"]).ended_with(0);
    assert!(
        drifted.stdout.contains("Function (AWS::Lambda::Function) modified")
            && drifted.stdout.contains("/MemorySize: 512 instead of 256"),
        "{drifted}"
    );
    assert!(drifted.stderr.contains("one resource has drifted"), "{drifted}");
    let remembered = status(user, &[]);
    assert_eq!(
        (&remembered["drift"]["status"], &remembered["drift"]["resources"]),
        (&json!("DRIFTED"), &Value::Null),
        "{remembered}"
    );
    assert!(remembered["drift"]["checked"].is_string(), "{remembered}");
}

fn replaced_code_is_noticed(aws: &MiniStack, user: &User, zip: &str) {
    let directory = tempdir().unwrap();
    let other =
        artifact::zip_of(&directory.path().join("other.zip"), "bootstrap", 0o755, b"#!/bin/sh\n");
    let replace = |zip: &str| {
        boto(
            aws,
            &format!(
                "client('lambda').update_function_code(FunctionName=output('FunctionName'), \
                 ZipFile=open('{zip}', 'rb').read())"
            ),
        )
    };
    replace(&other);
    let shown = status(user, &[]);
    assert_eq!(shown["function"]["replaced"], json!(true), "{shown}");
    let text = user.run(&["status"]).ended_with(0).stdout;
    assert!(text.contains("replaced outside the stack"), "{text}");
    replace(zip);
    let shown = status(user, &[]);
    assert_eq!(shown["function"]["replaced"], json!(false), "{shown}");
}

#[test]
fn a_failed_stack_shows_its_cause() {
    let aws = MiniStack::start();
    aws.boto(
        "client('cloudformation').create_stack(StackName='cbbootstrap', TemplateBody=json.dumps({\
         'Description': 'cbbootstrap: of an earlier day', 'Resources': {'Broken': {'Type': 'AWS::Logs::LogStream', \
         'Properties': {'LogGroupName': 'no-such-group'}}}}))",
    );
    let user = aws.user();
    let shown = status(&user, &[]);
    assert_eq!(
        (&shown["stack_status"], &shown["function"], &shown["table"]),
        (&json!("ROLLBACK_COMPLETE"), &Value::Null, &Value::Null),
        "{shown}"
    );
    let cause = shown["cause"].as_str().unwrap();
    assert!(cause.starts_with("Broken CREATE_FAILED: "), "{shown}");
    let text = user.run(&["status"]).ended_with(0).stdout;
    assert!(text.contains("because of Broken CREATE_FAILED"), "{text}");
    user.run(&["status", "--drift"]).failed(1, "ROLLBACK_COMPLETE");
    user.run(&["logs"]).failed(1, "has no output `LogGroupName`");
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let (user, directory) = (User::default(), tempdir().unwrap());
    let pages = directory.path().join("share").join("man1");
    let written = user.run(&["man-pages", &pages.display().to_string()]).ended_with(0);
    assert_eq!(written.stdout, "");
    let names = fs::read_dir(&pages)
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect::<Vec<_>>();
    assert!(written.stderr.starts_with(&format!("{} pages", names.len())), "{written}");
    for name in [
        "cbbootstrap.1",
        "cbbootstrap-deploy.1",
        "cbbootstrap-logs.1",
        "cbbootstrap-cluster-forget.1",
    ] {
        assert!(names.iter().any(|page| page == name), "{name} is not in {names:?}");
    }
    for name in &names {
        let page = fs::read_to_string(pages.join(name)).unwrap();
        assert!(page.contains(".TH cbbootstrap"), "{name}");
        // Says what it does not understand, where it is installed.
        let groff = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-z"])
            .arg(pages.join(name))
            .stdin(Stdio::null())
            .output();
        if let Ok(output) = groff {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{name}: {said}");
        }
    }
    let main = fs::read_to_string(pages.join("cbbootstrap.1")).unwrap();
    for section in [".SH \"EXIT STATUS\"", ".SH FILES"] {
        assert!(main.contains(section), "{section}: {main}");
    }
    let deploy = fs::read_to_string(pages.join("cbbootstrap-deploy.1")).unwrap();
    assert!(deploy.contains(".SH EXAMPLES"), "{deploy}");

    fs::write(directory.path().join("file"), "").unwrap();
    let file = directory.path().join("file").display().to_string();
    user.run(&["man-pages", &file]).failed(1, "cannot write the manual");
}

#[test]
fn full_disk_is_named() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = Ended::of(User::default().command(&["iam-policy"]).stdout(full));
    ended.failed(1, "cannot write the result to stdout: No space left");
}

#[test]
fn a_failed_verdict_is_more_important_than_a_full_disk() {
    let user =
        User::default().with("AWS_REGION", "us-east-1").with("AWS_EC2_METADATA_DISABLED", "true");
    for (args, status, error) in [
        (&["smoke", "http://127.0.0.1:1"][..], 3, "the smoke test of http://127.0.0.1:1 failed"),
        (&["doctor"], 1, "failed"),
        (&["deploy", "--local", "--exit", "--port", "0"], 1, "cannot write the result to stdout"),
        (&["--version"], 1, ""),
        (&["list", "--help"], 1, ""),
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = Ended::of(user.command(args).stdout(full)).ended_with(status);
        assert!(ended.stderr.contains(error), "{args:?}: {ended}");
        let is_verdict = args[0] == "smoke" || args[0] == "doctor";
        assert!(!is_verdict || !ended.stderr.contains("to stdout"), "{args:?}: {ended}");
    }
}

#[test]
fn completions_end_quietly_when_the_reader_closes_the_pipe() {
    let user = User::default();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = user.run(&["completions", shell]).ended_with(0).stdout;
        assert!(script.contains("CBBOOTSTRAP_COMPLETE"), "{shell}");
        let mut child = user.command(&["completions", shell]).spawn().unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
    }
}
