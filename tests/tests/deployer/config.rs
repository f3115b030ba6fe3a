//! `cbbootstrap.yaml`, as a user writes it and gets it wrong.

use std::fs;

use cbbootstrap_tests::{artifact, cli::User, ministack::MiniStack};
use serde_json::json;

const FILE: &str = "\
environments:
  dev:
    stack_name: dev-stack
    table_name: cb-bootstrap
    region: eu-central-1
  prod:
    stack_name: prod-stack
";

fn write(user: &User, name: &str, text: &str) {
    fs::write(user.home.path().join(name), text).unwrap();
}

#[test]
fn errors_in_the_file_are_reported_before_aws_is_called() {
    let user = User::default();
    let fails = |text: &str, args: &[&str], message: &str, hint: &str| {
        write(&user, "cbbootstrap.yaml", text);
        let ended = user.run(args);
        ended.failed(2, message);
        assert!(
            ended.stderr.lines().any(|line| line.starts_with("hint: ") && line.contains(hint)),
            "{hint:?} is not in the hint\n{ended}"
        );
    };
    for command in ["deploy", "plan", "status", "destroy", "smoke"] {
        fails(
            "environments: {dev: , prod: {stak_name: s}}",
            &[command, "--env", "dev"],
            "`cbbootstrap.yaml`: unknown key `stak_name` in environment `prod`",
            "did you mean `stack_name`?",
        );
    }
    fails(FILE, &["status"], "no environment selected; the file has dev, prod", "`--env NAME`");
    fails(
        FILE,
        &["status", "--env", "prdo"],
        "there is no environment `prdo`",
        "did you mean `prod`? there are: dev, prod",
    );
    fails("", &["status"], "it is empty", "`environments: {dev: ");
    fails(
        "environments:\n  dev: {\n",
        &["status"],
        "at line 3 column 1",
        "`cbbootstrap init --config example.yaml`",
    );
    fails(
        FILE,
        &["deploy", "--env=dev", "--parameter=Memory=512"],
        "no parameter `Memory`",
        "did you mean `MemorySize`?",
    );
    fails(
        FILE,
        &["plan", "--env=dev", "--tag=aws:x=1"],
        "tag `aws:x=1` is refused",
        "reserved by AWS",
    );
}

#[test]
fn missing_files_are_reported() {
    let user = User::default();
    let ended = user.run(&["status", "--env", "prod"]);
    ended.failed(2, "there is no `cbbootstrap.yaml` in this directory");
    assert!(ended.stderr.contains("`cbbootstrap init`"), "{ended}");
    user.run(&["status", "--config", "mine.yaml"]).failed(2, "cannot read `mine.yaml`");
    User::default()
        .with("CBBOOTSTRAP_CONFIG", "mine.yaml")
        .run(&["status"])
        .failed(2, "cannot read `mine.yaml`");
    // Without either, there need be none.
    user.run(&["status", "--region", "us-east-1"]).failed(1, "there are no AWS credentials");
}

#[test]
fn options_override_variables_and_variables_override_the_file() {
    let aws = MiniStack::start();
    let user = || {
        let user = aws.user();
        write(&user, "cbbootstrap.yaml", FILE);
        write(
            &user,
            "mine.yaml",
            "{default_environment: mine, environments: {mine: {stack_name: my-stack}}}",
        );
        user
    };
    let (stack, env, config) = ("CBBOOTSTRAP_STACK_NAME", "CBBOOTSTRAP_ENV", "CBBOOTSTRAP_CONFIG");
    for (variables, options, expected) in [
        (&[][..], &["--env=dev"][..], "dev-stack"),
        (&[(env, "prod")], &[], "prod-stack"),
        (&[(env, "prod")], &["--env=dev"], "dev-stack"),
        (&[(env, "dev"), (stack, "variable")], &[], "variable"),
        (&[(env, "dev"), (stack, "variable")], &["--stack-name=option"], "option"),
        (&[(config, "mine.yaml")], &[], "my-stack"),
        (&[(config, "mine.yaml")], &["--config=cbbootstrap.yaml", "--env=prod"], "prod-stack"),
    ] {
        let user = variables.iter().fold(user(), |user, (name, value)| user.with(name, *value));
        let ended = user.run(&[&["status"], options].concat());
        // The region of the variable beats the one of the file.
        ended.failed(1, &format!("there is no stack `{expected}` in us-east-1"));
    }
    let elsewhere = user().run(&["status", "--env=dev", "--region=us-west-2"]);
    elsewhere.failed(1, "there is no stack `dev-stack` in us-west-2");
}

#[test]
fn a_template_file_is_printed() {
    let user = User::default();
    let written = user.run(&["init"]).ended_with(0);
    assert_eq!(written.stdout, "", "{written}");
    assert!(
        written.stderr.contains("wrote `cbbootstrap.yaml`")
            && written.stderr.contains("`cbbootstrap plan --env dev`"),
        "{written}"
    );
    let path = user.home.path().join("cbbootstrap.yaml");
    let sample = fs::read_to_string(&path).unwrap();
    assert!(sample.starts_with("# "), "it is commented\n{sample}");

    // Both of its environments are valid: only the credentials are missing.
    for options in [&[][..], &["--env=dev"], &["--env=prod"]] {
        user.run(&[&["status", "--region=us-east-1"], options].concat())
            .failed(1, "there are no AWS credentials");
    }

    fs::write(&path, "mine").unwrap();
    user.run(&["init"]).failed(1, "`cbbootstrap.yaml` already exists");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");

    let another = user.run(&["init", "--config", "other.yaml"]).ended_with(0);
    assert!(
        another.stderr.contains("`cbbootstrap plan --config other.yaml --env dev`"),
        "{another}"
    );
    assert_eq!(fs::read_to_string(user.home.path().join("other.yaml")).unwrap(), sample);
    user.run(&["init", "--config", "nowhere/other.yaml"])
        .failed(1, "cannot write `nowhere/other.yaml`");
}

#[test]
fn parameters_reach_the_stack() {
    let (aws, zip) = (MiniStack::start(), artifact::zip().to_owned());
    let user = aws.user();
    write(
        &user,
        "cbbootstrap.yaml",
        "environments: {dev: {stack_name: dev-stack, table_name: cb-bootstrap, parameters: {MemorySize: 512, LogLevel: debug}}}",
    );
    let deploy = |options: &[&str]| {
        let always = ["deploy", "--env=dev", "--yes", "--no-smoke", "--output=json"];
        let deployed = user.run(&[&always[..], &["--function-zip", &zip], options].concat());
        let parameters = aws.boto(
            "{p['ParameterKey']: p['ParameterValue'] for p in client('cloudformation')\
             .describe_stacks(StackName='dev-stack')['Stacks'][0]['Parameters']}",
        );
        (
            deployed.document()["changed"].clone(),
            parameters["MemorySize"].clone(),
            parameters["LogLevel"].clone(),
        )
    };
    let (yes, no) = (json!(true), json!(false));
    let (half, whole, level) = (json!("512"), json!("1024"), json!("debug"));
    assert_eq!(deploy(&[]), (yes.clone(), half.clone(), level.clone()));
    assert_eq!(deploy(&[]), (no, half, level.clone()));
    assert_eq!(deploy(&["--parameter", "MemorySize=1024"]), (yes, whole, level));
}
