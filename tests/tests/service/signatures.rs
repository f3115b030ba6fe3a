//! `--auth iam`: an API that accepts signed requests only, and the signatures, which botocore computes again.

use std::{fs, process::Command};

use cbbootstrap_tests::{artifact, cli::User, http, ministack::MiniStack, python, server::Stub};
use serde_json::{Value, json};

fn deploy(user: &User, options: &[&str]) -> Value {
    user.deploy_and_smoke(artifact::zip(), options).document()
}

/// Whom the gateway's routes let through.
fn routes(aws: &MiniStack) -> Value {
    aws.boto(
        "[route['AuthorizationType'] for api in client('apigatewayv2').get_apis()['Items'] \
         for route in client('apigatewayv2').get_routes(ApiId=api['ApiId'])['Items']]",
    )
}

/// Whether the smoke test's step passed; none if it was not made.
fn step(document: &Value, name: &str) -> Option<bool> {
    let steps = document["smoke"]["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["name"] == json!(name))?;
    step["passed"].as_bool()
}

#[test]
fn an_api_is_locked_and_opened_again() {
    let aws = MiniStack::start();
    let user = aws.user();
    let deployed = deploy(&user, &[]);
    assert_eq!(routes(&aws), json!(["NONE"]));
    assert_eq!(deployed["auth"], json!("none"), "{deployed}");
    assert_eq!(step(&deployed, "no signature"), None, "{deployed}");
    let endpoint = deployed["endpoint"].as_str().unwrap();

    let zip = artifact::zip();
    let plan = |options: &[&str]| {
        let plan = ["plan", "--output", "json", "--function-zip", zip];
        user.run(&[&plan, options].concat()).document()
    };
    let planned = plan(&["--auth", "iam"]);
    assert_eq!(
        planned["parameters"],
        json!([{"name": "AuthorizationType", "before": "NONE", "after": "AWS_IAM"}]),
        "{planned}"
    );
    assert_eq!(planned["losses"], json!([]), "{planned}");

    let locked = deploy(&user, &["--auth", "iam"]);
    assert_eq!(routes(&aws), json!(["AWS_IAM"]));
    assert_eq!(
        (&locked["auth"], &locked["endpoint"]),
        (&json!("iam"), &deployed["endpoint"]),
        "{locked}"
    );
    assert_eq!(locked["smoke"]["passed"], json!(true), "{locked}");
    assert_eq!(step(&locked, "no signature"), Some(true), "{locked}");
    assert_eq!(http::claim(endpoint, "c", "a").unwrap().status, 403);
    smoke_signs_its_requests(&aws, &user, endpoint);
    the_line_to_try_signs(&user, zip);

    // The code alone changes nothing about that, and is tested in the same way.
    let code_only = deploy(&user, &["--code-only"]);
    assert_eq!(code_only["smoke"]["passed"], json!(true), "{code_only}");
    // The same setting changes nothing, also if the file contains it.
    let file = "{default_environment: e, environments: {e: {auth: iam}}}";
    fs::write(user.home.path().join("cbbootstrap.yaml"), file).unwrap();
    assert_eq!(deploy(&user, &[])["changed"], json!(false));
    fs::remove_file(user.home.path().join("cbbootstrap.yaml")).unwrap();

    let loss = "makes the API public; it now accepts only signed requests";
    let planned = plan(&[]);
    assert_eq!(planned["losses"], json!([loss]), "{planned}");
    user.run(&["deploy", "--function-zip", zip]).failed(2, "without `--auth iam`, anyone");
    assert_eq!(routes(&aws), json!(["AWS_IAM"]), "not without a yes");
    let opened = deploy(&user, &["--yes"]);
    assert_eq!(routes(&aws), json!(["NONE"]));
    assert_eq!(opened["smoke"]["passed"], json!(true), "{opened}");
    assert_eq!(http::claim(endpoint, "c", "a").unwrap().status, 200);
}

#[test]
fn a_deployment_requires_tokens_and_leases() {
    let aws = MiniStack::start();
    let user = aws.user();
    let deployed = deploy(&user, &["--require-secret", "--require-lease"]);
    assert_eq!(deployed["smoke"]["passed"], json!(true), "{deployed}");
    let endpoint = deployed["endpoint"].as_str().unwrap();
    let refused = http::claim(endpoint, "c", "a").unwrap();
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (401, &json!("secret_required")),
        "{refused:?}"
    );
    let claim = json!({"cluster_id": "c", "node_ip_addr_or_hostname": "a"}).to_string();
    let token = Some("Bearer correct-horse-battery-staple");
    let refused = http::post_as(endpoint, "/cluster", &claim, token).unwrap();
    assert_eq!(refused.json()["field"], json!("lease_seconds"), "{refused:?}");

    let opened = deploy(&user, &["--yes"]);
    assert_eq!(opened["smoke"]["passed"], json!(true), "{opened}");
    assert_eq!(http::claim(endpoint, "c", "a").unwrap().status, 200);
}

fn smoke_signs_its_requests(aws: &MiniStack, user: &User, endpoint: &str) {
    let status = user.run(&["status", "--output", "json"]).document();
    assert_eq!(status["auth"], json!("iam"), "{status}");
    user.run(&["smoke"]).ended_with(0);
    user.run(&["smoke", endpoint, "--auth", "iam"]).ended_with(0);
    let refused = user.run(&["smoke", endpoint]).ended_with(3);
    assert!(
        refused.stderr.contains("hint: the API may require signed requests")
            && refused.stderr.contains("--auth iam"),
        "{refused}"
    );
    // Valid credentials without the permission.
    let key = aws.boto(
        "[client('iam').create_user(UserName='stranger'), \
         client('iam').create_access_key(UserName='stranger')['AccessKey']][1]",
    );
    let part = |part: &str| key[part].as_str().unwrap();
    let stranger = aws
        .user()
        .with("AWS_ACCESS_KEY_ID", part("AccessKeyId"))
        .with("AWS_SECRET_ACCESS_KEY", part("SecretAccessKey"));
    let refused = stranger.run(&["smoke", endpoint, "--auth", "iam"]);
    assert!(
        refused.status == Some(3) && refused.stderr.contains("`execute-api:Invoke`"),
        "{refused}"
    );
}

/// With curl, where there is one that can sign.
fn the_line_to_try_signs(user: &User, zip: &str) {
    let deployed =
        user.run(&["deploy", "--auth=iam", "--no-smoke", "--function-zip", zip]).ended_with(0);
    let (_, line) = deployed.stdout.split_once("Try it:   ").unwrap();
    let help = Command::new("curl").args(["--help", "all"]).output();
    if !help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--aws-sigv4")) {
        return;
    }
    let output = Command::new("sh")
        .args(["-c", line])
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env_remove("AWS_SESSION_TOKEN")
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["is_initial_node"], json!(true), "{line}: {answer}");
}

#[test]
fn an_endpoint_takes_credentials_only_where_requests_are_signed() {
    let signed = ["smoke", "http://127.0.0.1:1", "--auth", "iam"];
    let nobody = User::default();
    nobody.run(&signed).failed(1, "no AWS region");
    nobody.run(&[&signed[..], &["--region", "us-east-1"]].concat()).failed(1, "no AWS credentials");
    // This one gets as far as the endpoint.
    let open = nobody.run(&signed[..2]).ended_with(3);
    assert!(open.stderr.contains("no answer"), "{open}");
    nobody.run(&["smoke", "--auth", "iam"]).failed(2, "required arguments");
    nobody
        .run(&["deploy", "--auth", "iam", "--require-secret"])
        .failed(2, "`--require-secret` cannot be combined with `--auth iam`");
    nobody.run(&["deploy", "--local", "--auth", "iam"]).failed(2, "--auth");
    nobody
        .run(&["deploy", "--parameter", "AuthorizationType=AWS_IAM"])
        .failed(2, "parameter `AuthorizationType` has its own option");
}

/// What is wrong with each recorded request's signature: botocore signs it again, at the time that it names.
const JUDGE: &str = r#"
import datetime, json, sys
import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

key, secret, token, region, requests = sys.argv[1:]
said = []
for request in json.loads(requests):
    headers = dict(request["headers"])
    authorization = headers.pop("authorization", None)
    if authorization is None:
        said.append("unsigned")
        continue
    time = datetime.datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
    botocore.auth.get_current_datetime = lambda: time
    names = authorization.split("SignedHeaders=")[1].split(",")[0].split(";")
    repeated = AWSRequest(
        method=request["method"],
        url="http://" + headers["host"] + request["path"],
        headers={name: headers[name] for name in names},
        data=request["body"].encode(),
    )
    botocore.auth.SigV4Auth(Credentials(key, secret, token or None), "execute-api", region).add_auth(repeated)
    if headers.get("x-amz-security-token", "") != token:
        said.append("another token")
    elif repeated.headers["Authorization"] != authorization:
        said.append(f"{request['path']}: {authorization}, not {repeated.headers['Authorization']}")
    else:
        said.append("good")
print(json.dumps(said))
"#;

#[test]
fn signatures_are_those_of_awss_own_library() {
    let (key, secret, region) = ("AKIDEXAMPLE", "secret/with+odd=characters", "eu-west-1");
    for token in ["", "a/token+with=odd//characters=="] {
        let api = Stub::start(|_| (200, r#"{"name":"cbbootstrap"}"#.to_owned()));
        let mut user =
            User::default().with("AWS_ACCESS_KEY_ID", key).with("AWS_SECRET_ACCESS_KEY", secret);
        if !token.is_empty() {
            user = user.with("AWS_SESSION_TOKEN", token);
        }
        let endpoint = format!("{}/a%20stage~", api.url);
        user.run(&["smoke", &endpoint, "--auth=iam", "--region", region]).ended_with(3);
        let recorded = api.requests().into_iter().map(|request| {
            let headers = request.headers.iter();
            let headers: Vec<_> =
                headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
            json!({"method": request.method, "path": request.path, "headers": headers, "body": request.body})
        });
        let requests: Value = recorded.collect();
        let output = Command::new(python::bin().join("python"))
            .args(["-c", JUDGE, key, secret, token, region, &requests.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let said: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
        // One is sent without, to see that it is refused.
        let (good, others): (Vec<_>, Vec<_>) = said.iter().partition(|said| *said == "good");
        assert_eq!(others, ["unsigned"], "{said:?}");
        let paths = requests.as_array().unwrap().iter();
        let escaped = paths
            .filter(|request| request["path"].as_str().unwrap().contains("%2Fa%2Bb%3D"))
            .count();
        assert!(good.len() > 10 && escaped > 0, "{requests}");
    }
}
