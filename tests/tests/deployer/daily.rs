//! Daily use: the first line, `list`, `open`, `template`, `doctor`, `help`, the lines of `logs`, colors and annotations.

use std::fs;

use cbbootstrap_tests::{
    artifact, cli::User, http, ministack::MiniStack, network::ForwardProxy, process::wait_until,
};
use serde_json::{Value, json};

use crate::sign_in::with_files;

#[test]
fn stacks_are_listed_and_their_pages_open() {
    let aws = MiniStack::start();
    let user = aws.user();
    let none = user.run(&["list"]).ended_with(0);
    assert_eq!(none.stdout, "No stacks of cbbootstrap in us-east-1\n");

    user.deploy(artifact::small_zip(), &[]).ended_with(0);
    let endpoint = user.run(&["status", "--output", "json"]).document()["endpoint"].clone();
    let endpoint = endpoint.as_str().unwrap();
    let list = user.run(&["list", "--output", "json"]).document();
    let stack = &list["stacks"][0];
    let fields =
        ["stack_name", "stack_status", "table", "endpoint", "auth"].map(|field| &stack[field]);
    assert_eq!(
        json!(fields),
        json!(["cbbootstrap", "CREATE_COMPLETE", "cb-bootstrap", endpoint, "none"]),
        "{list}"
    );
    let text = user.run(&["list"]).ended_with(0).stdout;
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("STACK        STATUS"), "{text}");
    assert!(lines[1].ends_with(endpoint), "{text}");

    a_page_opens(&user, endpoint);
    user.run(&["open", "--stack-name", "other"]).failed(1, "there is no stack `other`");
}

fn a_page_opens(user: &User, endpoint: &str) {
    let docs = format!("{endpoint}/docs");
    // No screen and no browser.
    assert_eq!(user.run(&["open"]).ended_with(0).stdout, format!("{docs}\n"));
    for (page, part) in [("console", "stackId=arn%3Aaws"), ("dashboard", "#dashboards/dashboard/")]
    {
        let printed = user.run(&["open", page, "--print"]).ended_with(0).stdout;
        assert!(printed.starts_with("https://us-east-1.console.aws.amazon.com/"), "{printed}");
        assert!(printed.contains(part), "{printed}");
    }
    let browser = user.home.path().join("browser");
    fs::write(&browser, "#!/bin/sh\necho \"$1\" > opened\n").unwrap();
    executable(&browser);
    let with_browser = |user: &User, browser: &str| {
        user.program(&cbbootstrap_tests::programs::cbbootstrap(), &["open"])
            .env("BROWSER", browser)
            .output()
            .unwrap()
    };
    let opened = with_browser(user, &browser.display().to_string());
    assert!(opened.status.success() && opened.stdout.is_empty(), "{opened:?}");
    let file = user.home.path().join("opened");
    wait_until("the browser has the URL", || {
        fs::read_to_string(&file).is_ok_and(|url| url.trim() == docs)
    });
    // A browser that cannot start.
    let printed = with_browser(user, "/bin/false").stdout;
    assert_eq!(String::from_utf8(printed).unwrap(), format!("{docs}\n"));
}

fn executable(program: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_template_is_printed_as_it_is_deployed() {
    let printed = User::default().run(&["template"]).ended_with(0);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../templates/stack.yaml");
    assert_eq!(printed.stdout, fs::read_to_string(path).unwrap());
    assert_eq!(printed.stderr, "");
}

/// The results of `doctor`, each as the name of the check and its result.
fn results(document: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = document["checks"].as_array().unwrap().iter();
    checks.map(|check| format!("{} {}", text(&check["check"]), text(&check["result"]))).collect()
}

#[test]
fn doctor_checks_what_a_deployment_needs() {
    let aws = MiniStack::start();
    let user = aws.user();
    let well = user.run(&["doctor", "--output", "json"]).document();
    let results = results(&well);
    for expected in
        ["proxy ok", "certificates ok", "endpoint warn", "region ok", "credentials ok", "clock ok"]
    {
        assert!(results.iter().any(|result| result == expected), "{expected}: {well}");
    }
    let has = |name: &str| results.iter().any(|result| result.starts_with(name));
    assert!(has("function ") && !has("agent "), "{well}");
    let for_launch = user.run(&["doctor", "--for", "launch", "--output", "json"]).document();
    let for_launch = self::results(&for_launch);
    let has = |name: &str| for_launch.iter().any(|result| result.starts_with(name));
    assert!(has("agent ") && !has("function "), "{for_launch:?}");
    let text = user.run(&["doctor"]).ended_with(0).stdout;
    assert!(text.starts_with("RESULT  CHECK"), "{text}");
    assert!(text.contains("hint: unset `AWS_ENDPOINT_URL` to use AWS"), "{text}");

    let in_profile = user.without("AWS_ENDPOINT_URL");
    let config = format!("[default]\nendpoint_url = {}\n", aws.url);
    let in_profile = with_files(in_profile, &config, "");
    let text = in_profile.run(&["doctor"]).ended_with(0).stdout;
    assert!(text.contains("hint: unset `endpoint_url` of the profile `default` to use"), "{text}");

    let signed_out = aws.user().without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    let ended = signed_out.run(&["doctor"]).ended_with(1);
    assert!(ended.stderr.starts_with("error: 1 check failed"), "{ended}");
    assert!(ended.stdout.contains("fail    credentials  there are no AWS credentials"), "{ended}");
    assert!(ended.stdout.contains("skip    permissions"), "{ended}");
    let nowhere = signed_out.without("AWS_REGION").without("AWS_DEFAULT_REGION").run(&["doctor"]);
    assert!(nowhere.stdout.contains("fail    region       no AWS region is set"), "{nowhere}");
}

#[test]
fn doctor_shows_the_route_of_the_calls() {
    let aws = MiniStack::start();
    let proxy = ForwardProxy::before(&aws.url, None);
    let doctor = |variables: &[(&str, &str)]| {
        let user = aws.user().without("AWS_ENDPOINT_URL");
        fs::write(user.home.path().join("ca.pem"), proxy.authority()).unwrap();
        let bundle = user.home.path().join("ca.pem").display().to_string();
        let user = user
            .with("HTTPS_PROXY", &proxy.url)
            .with("AWS_CA_BUNDLE", bundle)
            .with("AWS_MAX_ATTEMPTS", "1");
        let user = variables.iter().fold(user, |user, (name, value)| user.with(name, *value));
        user.run(&["doctor"]).stdout
    };
    let direct = "ok      proxy         none\n";
    let proxied = format!("ok      proxy         `{}` (`HTTPS_PROXY`)\n", proxy.url);
    for (variable, value, host) in [
        ("AWS_REGION", "cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
        ("AWS_USE_FIPS_ENDPOINT", "true", "sts-fips.us-east-1.amazonaws.com"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true", "sts.us-east-1.api.aws"),
    ] {
        let text = doctor(&[(variable, value), ("NO_PROXY", "sts.us-east-1.amazonaws.com")]);
        assert!(text.contains(&proxied), "{host}: {text}");
        assert!(proxy.targets().contains(&format!("{host}:443")), "{:?}", proxy.targets());
        let text = doctor(&[(variable, value), ("NO_PROXY", host)]);
        assert!(text.contains(direct), "{host}: {text}");
    }
    let text = doctor(&[("AWS_ENDPOINT_URL_STS", &aws.url)]);
    assert!(text.contains(&format!("warn    endpoint      {} instead of AWS", aws.url)), "{text}");
    assert!(text.contains("hint: unset `AWS_ENDPOINT_URL_STS` and"), "{text}");
    let ignored =
        [("AWS_ENDPOINT_URL", "http://x"), ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")];
    let text = doctor(&ignored);
    assert!(text.contains(&proxied) && !text.contains("endpoint  "), "{text}");
}

#[test]
fn errors_name_the_setting_of_an_endpoint() {
    let user = || {
        User::default()
            .with("AWS_ACCESS_KEY_ID", "a")
            .with("AWS_SECRET_ACCESS_KEY", "b")
            .with("AWS_REGION", "us-east-1")
            .with("AWS_MAX_ATTEMPTS", "1")
    };
    let profile = "[default]\nendpoint_url = http://127.0.0.1:9\n";
    for (user, source) in [
        (user().with("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), "`AWS_ENDPOINT_URL`"),
        (with_files(user(), profile, ""), "`endpoint_url` of the profile `default`"),
    ] {
        let expected = format!("cannot reach `http://127.0.0.1:9` ({source}): ");
        user.run(&["list"]).failed(1, &expected);
    }
}

#[test]
fn doctor_simulates_the_permissions() {
    let aws = MiniStack::start();
    let account = "000000000000";
    let policy = ["iam-policy", "--account", account, "--region", "us-east-1"];
    let policy = aws.user().run(&policy).ended_with(0).stdout;
    let allow = |name: &str, policy: &str| {
        aws.boto(&format!(
            "client('iam').put_user_policy(UserName='u', PolicyName='{name}', PolicyDocument='''{policy}''')"
        ));
    };
    aws.boto("client('iam').create_user(UserName='u')");
    allow("deploy", &policy);
    let key = aws.boto("client('iam').create_access_key(UserName='u')['AccessKey']");
    let part = |part: &str| key[part].as_str().unwrap();
    let user = aws
        .user()
        .with("AWS_ACCESS_KEY_ID", part("AccessKeyId"))
        .with("AWS_SECRET_ACCESS_KEY", part("SecretAccessKey"));
    let unknown = user.run(&["doctor"]).ended_with(0).stdout;
    assert!(unknown.contains("skip    permissions   cannot simulate the policies"), "{unknown}");
    assert!(unknown.contains("hint: `cbbootstrap iam-policy --for doctor`"), "{unknown}");
    let printed = ["iam-policy", "--for", "doctor", "--account", account, "--region", "us-east-1"];
    let mut for_doctor = aws.user().run(&printed).document();
    for statement in for_doctor["Statement"].as_array_mut().unwrap() {
        // The stand-in takes a simulation for a question about everything, and AWS for one about the user.
        statement["Resource"] = json!("*");
    }
    allow("doctor", &for_doctor.to_string());
    // The stand-in simulates no conditions, under which two actions are allowed.
    let actions = json!(["iam:PassRole", "iam:CreateServiceLinkedRole"]);
    let statement = json!({"Effect": "Allow", "Action": actions, "Resource": "*"});
    allow("conditional", &json!({"Version": "2012-10-17", "Statement": [statement]}).to_string());
    let allowed = user.run(&["doctor"]).ended_with(0).stdout;
    assert!(allowed.contains("user/u in account 000000000000"), "{allowed}");
    assert!(allowed.contains("ok      permissions   all "), "{allowed}");

    allow("deploy", &policy.replace("s3:PutObject", "s3:GetObject"));
    let denied = user.run(&["doctor", "--for", "deploy"]).ended_with(1);
    assert!(
        denied.stdout.contains("fail    permissions   not allowed: s3:PutObject\n"),
        "{denied}"
    );
    let for_launch = user.run(&["doctor", "--for", "launch"]).ended_with(1);
    for (ended, hint) in [
        (&denied, "hint: `cbbootstrap iam-policy --for deploy` prints"),
        (&for_launch, "hint: `cbbootstrap iam-policy --for launch` prints"),
    ] {
        assert!(ended.stdout.contains(hint), "{ended}");
    }
}

#[test]
fn requests_are_readable_lines_of_the_log() {
    let aws = MiniStack::start();
    let user = aws.user();
    let deployed = user.deploy(artifact::zip(), &[]).document();
    let endpoint = deployed["endpoint"].as_str().unwrap();
    for node in ["a", "b"] {
        http::claim(endpoint, "mycluster", node).unwrap();
    }
    wait_until("the calls are logged", || {
        user.run(&["logs"]).ended_with(0).stdout.lines().count() == 2
    });
    let text = user.run(&["logs"]).ended_with(0).stdout;
    let lines: Vec<_> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[0][1..5], ["200", "POST", "/cluster", "claimed"], "{text}");
    assert_eq!(lines[1][1..5], ["200", "POST", "/cluster", "joined"], "{text}");
    assert!(lines[0].len() == 8 && lines[0][7] == lines[1][7], "a digest of the cluster: {text}");

    let json = user.run(&["logs", "--output", "json"]).ended_with(0).stdout;
    let documents: Vec<Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let fields = ["status", "route", "outcome", "cluster"].map(|field| documents[1][field].clone());
    assert_eq!(
        fields,
        [json!(200), json!("/cluster"), json!("joined"), json!(lines[1][7])],
        "{json}"
    );
    assert!(user.run(&["logs", "--raw"]).stdout.contains("START RequestId"));
    user.run(&["logs", "--raw", "--output", "json"]).failed(2, "--raw");
}

#[test]
fn help_has_examples_and_variables() {
    let user = User::default();
    let help = user.run(&["help", "cluster", "list"]).ended_with(0).stdout;
    assert!(help.contains("[env: CBBOOTSTRAP_TABLE_NAME="), "{help}");
    assert!(
        help.contains("Examples:\n  # List all clusters\n  cbbootstrap cluster list --all"),
        "{help}"
    );
    assert_eq!(help, user.run(&["cluster", "list", "--help"]).ended_with(0).stdout);
}

#[test]
fn output_is_colored_on_request() {
    const RED_ERROR: &str = "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m ";
    let user = User::default();
    let colored =
        |options: &[&str]| user.run(&[&["status"], options].concat()).stderr.contains(RED_ERROR);
    assert!(!colored(&[]), "stderr is not a terminal");
    assert!(colored(&["--color", "always"]));
    assert!(user.run(&["--color=always", "status"]).stderr.contains(RED_ERROR));
    let json = user.run(&["status", "--color", "always", "--output", "json"]).stderr;
    let document = json.lines().next().unwrap();
    assert!(serde_json::from_str::<Value>(document).is_ok(), "{json}");
}

#[test]
fn errors_are_annotations_in_github_actions() {
    let ended = User::default().with("GITHUB_ACTIONS", "true").run(&["status"]).ended_with(1);
    let (errors, annotation) = ended.stderr.trim_end().rsplit_once('\n').unwrap();
    let errors = errors.replacen("error: ", "", 1).replace('\n', "%0A");
    assert_eq!(annotation, format!("::error title=cbbootstrap::{errors}"), "{ended}");
}

#[test]
fn commands_name_account_region_and_environment() {
    const IDENTITY: &str = "arn:aws:iam::000000000000:root";
    let aws = MiniStack::start();
    let user = aws.user();
    let config = "{default_environment: dev, environments: {dev: {stack_name: dev-stack, table_name: dev-table}}}";
    fs::write(user.home.path().join("cbbootstrap.yaml"), config).unwrap();
    let first_line = format!(
        "Account 000000000000, {IDENTITY}, region us-east-1, environment dev, stack dev-stack"
    );
    let zip = artifact::small_zip();
    for command in [
        &["plan", "--function-zip", zip][..],
        &["deploy", "--no-smoke", "--function-zip", zip],
        &["list"],
        &["status"],
        &["cluster", "list"],
        &["doctor"],
        &["destroy", "--yes"],
    ] {
        let ended = user.run(&[command, &["--output", "json"]].concat());
        let document = ended.document();
        let fields = ["account", "identity", "region", "environment"].map(|field| &document[field]);
        let expected = json!(["000000000000", IDENTITY, "us-east-1", "dev"]);
        assert_eq!(json!(fields), expected, "{command:?}: {ended}");
        let has_line = !["list", "cluster", "doctor"].contains(&command[0]);
        assert_eq!(
            ended.stderr.lines().next() == Some(&first_line),
            has_line,
            "{command:?}: {ended}"
        );
        assert!(ended.stdout.matches("\n  \"region\"").count() == 1, "{command:?}: {ended}");
    }
}
