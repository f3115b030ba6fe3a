//! Credentials from every source that the AWS CLI knows.

use std::{fs, time::Duration};

use axum::{
    Router,
    routing::{get, put},
};
use cbbootstrap_tests::{
    artifact,
    cli::{Ended, User, write_private},
    front::Front,
    ministack::MiniStack,
    programs::write_script,
    server::Server,
};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

const STATUS: [&str; 3] = ["status", "--output", "json"];

/// What `status` says once it has signed in.
const SIGNED_IN: &str = "there is no stack `cbbootstrap`";

/// A user without credentials and without a region.
fn unsigned(url: &str) -> User {
    User::default().with("AWS_ENDPOINT_URL", url)
}

/// The user with these files in `~/.aws`.
pub fn with_files(user: User, config: &str, credentials: &str) -> User {
    let directory = user.home.path().join(".aws");
    fs::create_dir_all(&directory).unwrap();
    write_private(&directory.join("config"), config);
    write_private(&directory.join("credentials"), credentials);
    user
}

fn status(user: &User, options: &[&str]) -> Ended {
    user.run(&[&STATUS[..], options].concat())
}

#[test]
fn profiles_are_read_however_they_are_written() {
    let aws = MiniStack::start();
    let keys = "aws_access_key_id = test\naws_secret_access_key = test\n";
    let plain = format!("[default]\nregion = us-east-1\n{keys}");
    for config in [
        plain.clone(),
        format!("\u{feff}{plain}"),
        plain.replace('\n', "\r\n"),
        plain.replace('\n', "\n  "),
        format!("  {}", plain.replace('\n', "\n  ")),
        plain.replace(" =", ":"),
        plain.replace('\n', "\n  # comment\n"),
    ] {
        let user = with_files(unsigned(&aws.url), &config, "");
        status(&user, &[]).failed(1, SIGNED_IN);
    }
    let team = "[profile \"my team\"]\nregion = us-east-1\n";
    let user = with_files(unsigned(&aws.url), team, &format!("[my team]\n{keys}"));
    status(&user, &["--profile", "my team"]).failed(1, SIGNED_IN);
    status(&user.with("AWS_PROFILE", "my team"), &[]).failed(1, SIGNED_IN);

    let utf16: Vec<u8> =
        format!("\u{feff}{plain}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let user = with_files(unsigned(&aws.url), "", "");
    write_private(&user.home.path().join(".aws/config"), utf16);
    status(&user, &[]).failed(1, SIGNED_IN);

    let user = with_files(unsigned(&aws.url), "[default]\nregion = us-east-1\nnonsense\n", "");
    status(&user, &[]).failed(1, "cannot read the AWS profiles in `~/.aws/config`: line 3");
}

#[test]
fn white_space_around_keys_is_ignored_and_control_characters_are_refused() {
    let aws = MiniStack::start();
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"] {
        let value = if name == "AWS_REGION" { "us-east-1" } else { "test" };
        for around in ["\r", "\n", "\r\n", " ", "\t"] {
            for value in
                [format!("{value}{around}"), format!("{around}{value}"), format!("\u{feff}{value}")]
            {
                status(&aws.user().with(name, value), &[]).failed(1, SIGNED_IN);
            }
        }
        for within in ["\r", "\n", "\u{1b}", "\t", " "] {
            let ended = status(&aws.user().with(name, format!("a{within}b")), &[]);
            assert_eq!(ended.status, Some(2), "{name}: {ended}");
            assert!(ended.stderr.contains(name), "{ended}");
        }
    }
    let token = aws.user().with("AWS_SESSION_TOKEN", "tökën");
    status(&token, &[]).failed(2, "`AWS_SESSION_TOKEN`");
    let role =
        "[default]\nrole_arn = arn:aws:iam::000000000000:role/r\ncredential_source = Environment\n";
    let token = with_files(token, role, "");
    status(&token, &["--profile", "default"]).failed(2, "`AWS_SESSION_TOKEN`");
    let keys = "[default]\naws_access_key_id = te\u{7f}st\naws_secret_access_key = test\n";
    let user = with_files(unsigned(&aws.url).with("AWS_REGION", "us-east-1"), "", keys);
    status(&user, &[]).failed(2, "`aws_access_key_id` of the profile `default`");
    let half = aws.user().with("AWS_SECRET_ACCESS_KEY", "");
    status(&half, &[]).failed(2, "`AWS_SECRET_ACCESS_KEY` is not");
}

#[test]
fn a_missing_half_of_the_credentials_is_named() {
    const ROLE: &str = "arn:aws:iam::000000000000:role/r";
    let aws = MiniStack::start();
    let user = || unsigned(&aws.url).with("AWS_REGION", "us-east-1");
    for (set, missing) in [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ] {
        let error = format!("`{set}` is set, but `{missing}` is not");
        status(&user().with(set, ROLE), &[]).failed(2, &error);
        let empty = with_files(user(), "[profile a]\nregion = us-east-1\n", "");
        if set != "AWS_ACCESS_KEY_ID" {
            status(&empty.with(set, ROLE), &["--profile", "a"]).failed(2, &error);
            // It is not used.
            status(&aws.user().with(set, "test"), &[]).failed(1, SIGNED_IN);
        }
    }
    // For the AWS CLI as well, it has no effect.
    let role = user().with("AWS_ROLE_ARN", ROLE);
    let ended = status(&role, &[]);
    ended.failed(1, "there are no AWS credentials");
    assert!(ended.stderr.contains("`AWS_ROLE_ARN` has no effect without"), "{ended}");
    status(&aws.user().with("AWS_ROLE_ARN", ROLE), &[]).failed(1, SIGNED_IN);
    for (property, missing) in [
        ("web_identity_token_file = token", "role_arn"),
        (&format!("role_arn = {ROLE}"), "source_profile"),
    ] {
        let user = with_files(user(), &format!("[default]\n{property}\n"), "");
        let ended = status(&user, &[]);
        ended.failed(1, "cannot get AWS credentials");
        assert!(ended.stderr.contains(missing), "{ended}");
    }
}

#[test]
fn empty_variables_are_absent() {
    let aws = MiniStack::start();
    let mut user = aws.user().without("AWS_REGION").with("AWS_DEFAULT_REGION", "us-east-1");
    for name in [
        "AWS_REGION",
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CA_BUNDLE",
        "AWS_MAX_ATTEMPTS",
        "AWS_RETRY_MODE",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_USE_DUALSTACK_ENDPOINT",
        "AWS_ENDPOINT_URL_STS",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_EXECUTION_ENV",
        "HTTPS_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "CBBOOTSTRAP_OUTPUT",
    ] {
        user = user.with(name, if name.len() % 2 == 0 { "" } else { " \r\n" });
    }
    status(&user, &[]).failed(1, SIGNED_IN);
    let no_keys = user.with("AWS_ACCESS_KEY_ID", "").with("AWS_SECRET_ACCESS_KEY", "");
    status(&no_keys, &[]).failed(1, "there are no AWS credentials");
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let ended = status(&User::default(), &[]);
    ended.failed(1, "error: no AWS region is set");
    ended.failed(1, "error: there are no AWS credentials");
    for hint in ["`AWS_REGION`", "`AWS_ACCESS_KEY_ID`"] {
        assert!(ended.stderr.contains(hint), "{ended}");
    }
    let wrong = [
        "--require-secret",
        "--auth=iam",
        "--parameter=MemorySize=1",
        "--tag=aws:a=b",
        "--function-zip=nowhere",
    ];
    let ended = User::default().run(&[&["plan"], &wrong[..]].concat());
    for part in ["`--require-secret` cannot", "`MemorySize` cannot", "tag `aws:a=b` is refused"] {
        ended.failed(2, part);
    }
}

/// A profile as `aws login` writes it.
pub const LOGIN_PROFILE: &str =
    "[default]\nregion = us-east-1\nlogin_session = arn:aws:iam::000000000000:user/me\n";

/// Stores the session's token.
pub fn log_in(user: &User, aws: &MiniStack) {
    let cache = user.home.path().join(".aws/login/cache");
    let keys = aws.boto("client('sts').get_session_token()['Credentials']");
    let expires = Timestamp::now() + Duration::from_hours(1);
    let token = json!({
        "accessToken": {
            "accessKeyId": keys["AccessKeyId"],
            "secretAccessKey": keys["SecretAccessKey"],
            "sessionToken": keys["SessionToken"],
            "accountId": "000000000000",
            "expiresAt": expires.to_string(),
        },
        "tokenType": "aws_sigv4",
        "refreshToken": "refresh",
        "clientId": "arn:aws:signin:::devtools/same-device",
        "dpopKey": "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIFDZHUzOG1Pzq+6F0mjMlOSp1syN9LRPBuHMoCFXTcXhoAoGCCqGSM49\nAwEHoUQDQgAE9qhj+KtcdHj1kVgwxWWWw++tqoh7H7UHs7oXh8jBbgF47rrYGC+t\ndjiIaHK3dBvvdE7MGj5HsepzLm3Kj91bqA==\n-----END EC PRIVATE KEY-----\n",
    });
    fs::create_dir_all(&cache).unwrap();
    // The SHA-256 of the session.
    let name = "db1d1f673983ce4d599497d9b7c439466deca81592af118e57558f3cd72d3bf9.json";
    write_private(&cache.join(name), token.to_string());
}

#[test]
fn a_session_of_aws_login_signs_in() {
    let aws = MiniStack::start();
    let user = with_files(unsigned(&aws.url), LOGIN_PROFILE, "");
    status(&user, &[]).failed(1, "cannot get AWS credentials");
    log_in(&user, &aws);
    status(&user, &[]).failed(1, SIGNED_IN);
}

#[test]
fn processes_and_tokens_sign_in() {
    let aws = MiniStack::start();
    let user = with_files(unsigned(&aws.url), "", "").with("AWS_REGION", "us-east-1");
    let home = user.home.path().to_owned();
    let script = home.join("keys with spaces");
    let keys = json!({"Version": 1, "AccessKeyId": "test\r\n", "SecretAccessKey": "test\n"});
    let print = |keys: &Value| format!("#!/bin/sh\ncat <<'END'\n{keys}\nEND\n");
    write_script(&script, &print(&keys));
    let config = format!("[default]\ncredential_process = \"{}\"\n", script.display());
    write_private(&home.join(".aws/config"), &config);
    status(&user, &[]).failed(1, SIGNED_IN);
    write_script(&script, "#!/bin/sh\necho no keys >&2\nexit 1\n");
    status(&user, &[]).failed(1, "cannot get AWS credentials");
    let keys = json!({"Version": 1, "AccessKeyId": "te\u{1b}st", "SecretAccessKey": "test"});
    write_script(&script, &print(&keys));
    status(&user, &[]).failed(2, "the access key ID contains");

    let role = aws.boto(
        "client('iam').create_role(RoleName='r', AssumeRolePolicyDocument='{}')['Role']['Arn']",
    );
    let role = role.as_str().unwrap();
    write_private(&home.join("token"), "a.b.c");
    let config = format!("[default]\nrole_arn = {role}\nweb_identity_token_file = token\n");
    write_private(&home.join(".aws/config"), &config);
    let ended = status(&user, &[]);
    assert_eq!(ended.status, Some(1), "{ended}");
    assert!(!ended.stderr.contains("there are no AWS credentials"), "{ended}");

    let config = format!(
        "[default]\nrole_arn = {role}\nsource_profile = keys\n[profile keys]\naws_access_key_id = test\naws_secret_access_key = test\n"
    );
    write_private(&home.join(".aws/config"), config.clone());
    status(&user, &[]);
    let config = config.replace(
        "source_profile = keys\n",
        "source_profile = keys\nmfa_serial = arn:aws:iam::000000000000:mfa/me\n",
    );
    write_private(&home.join(".aws/config"), config);
    let ended = status(&user, &[]);
    assert!(ended.stderr.contains("aws configure export-credentials"), "{ended}");
    ended.failed(1, "requires an MFA code");
    // Keys in the environment take precedence over the profile.
    let user = user.with("AWS_ACCESS_KEY_ID", "test").with("AWS_SECRET_ACCESS_KEY", "test");
    status(&user, &[]).failed(1, SIGNED_IN);
}

#[test]
fn containers_and_machines_sign_in_without_the_proxy() {
    let aws = MiniStack::start();
    let keys = json!({
        "Code": "Success",
        "Type": "AWS-HMAC",
        "LastUpdated": "2026-01-01T00:00:00Z",
        "AccessKeyId": "test",
        "SecretAccessKey": "test",
        "Token": "",
        "Expiration": (Timestamp::now() + Duration::from_hours(1)).to_string(),
    });
    let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "3600")];
    let metadata = Server::route(
        Router::new()
            .route("/latest/api/token", put(async move || (ttl, "token")))
            .route("/latest/meta-data/iam/security-credentials/", get(async || "role"))
            .fallback(async move || keys.to_string()),
    );
    let user = || {
        unsigned(&aws.url)
            .with("AWS_REGION", "us-east-1")
            .with("HTTP_PROXY", "http://127.0.0.1:9")
            .with("HTTPS_PROXY", "http://127.0.0.1:9")
    };
    let container =
        user().with("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/keys", metadata.url));
    status(&container, &[]).failed(1, SIGNED_IN);
    // As with the AWS CLI, a named profile without keys excludes those of the environment, but does not end the search.
    let with_keys = user()
        .with("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/keys", metadata.url))
        .with("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        .with("AWS_SECRET_ACCESS_KEY", "wrong");
    fs::create_dir(with_keys.home.path().join(".aws")).unwrap();
    fs::write(with_keys.home.path().join(".aws/config"), "[profile place]\nregion = us-east-1\n")
        .unwrap();
    status(&with_keys, &["--profile", "place"]).failed(1, SIGNED_IN);
    // A wrong one does not lead to another identity.
    let role = "[profile place]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = typo\n";
    fs::write(with_keys.home.path().join(".aws/config"), role).unwrap();
    status(&with_keys, &["--profile", "place"]).failed(1, "there is no AWS profile `typo`");
    let machine = user()
        .without("AWS_EC2_METADATA_DISABLED")
        .with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.url);
    status(&machine, &[]).failed(1, SIGNED_IN);
}

#[test]
fn a_wrong_clock_is_corrected_or_named() {
    let aws = MiniStack::start();
    let front = Front::with_clock(&aws.url, Duration::from_hours(2));
    let user = aws.user().with("AWS_ENDPOINT_URL", &front.url);
    user.deploy(artifact::zip(), &["--yes"]).ended_with(0);
    let once = user.with("AWS_MAX_ATTEMPTS", "1");
    once.deploy(artifact::zip(), &["--yes"])
        .failed(1, "this machine's clock is 120 minutes behind AWS's");
}

fn variable() -> impl Strategy<Value = (&'static str, String)> {
    let name = prop::sample::select(vec![
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_PROFILE",
        "AWS_MAX_ATTEMPTS",
        "AWS_RETRY_MODE",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_EXECUTION_ENV",
        "AWS_SDK_UA_APP_ID",
        "AWS_CA_BUNDLE",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "AWS_ENDPOINT_URL_STS",
        "AWS_ACCOUNT_ID",
        "SSL_CERT_FILE",
        "HTTPS_PROXY",
        "NO_PROXY",
    ]);
    let text = prop_oneof![
        Just(String::new()),
        "[ -~]{1,12}",
        "[a-z0-9:/@.-]{1,16}",
        "[^\0]{1,8}",
        Just("http://127.0.0.1:9".to_owned()),
    ];
    (name, text)
}

fn line() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "region",
        "role_arn",
        "source_profile",
        "credential_source",
        "sso_session",
        "sso_region",
        "sso_start_url",
        "sso_account_id",
        "sso_role_name",
        "login_session",
        "max_attempts",
        "retry_mode",
        "ca_bundle",
        "endpoint_url",
        "services",
        "web_identity_token_file",
    ]);
    prop_oneof![
        4 => (name, "[ -~]{0,10}").prop_map(|(name, value)| format!("{name} = {value}")),
        1 => Just("source_profile = default".to_owned()),
        1 => Just("credential_source = Environment".to_owned()),
        1 => "\\PC{0,10}",
        1 => Just("[profile a]".to_owned()),
        1 => "[\\[\\] \t=:a-z\r]{0,10}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every start ends with an error in one line, whatever is in the environment and the files.
    #[test]
    fn no_environment_and_no_file_makes_it_panic(
        variables in prop::collection::vec(variable(), 0..5),
        lines in prop::collection::vec(line(), 0..8),
    ) {
        let config = format!("[default]\n{}\n", lines.join("\n"));
        let mut user = with_files(unsigned("http://127.0.0.1:9"), &config, "")
            .with("AWS_REGION", "us-east-1")
            .with("AWS_MAX_ATTEMPTS", "1");
        for (name, value) in variables {
            user = user.with(name, value);
        }
        let ended = status(&user, &[]);
        prop_assert!(matches!(ended.status, Some(1 | 2)), "{ended}");
        prop_assert!(!ended.stderr.contains("panicked"), "{ended}");
        let json = ended.stderr.lines().find(|line| line.starts_with('{')).unwrap_or_default();
        let error: Value = serde_json::from_str(json).unwrap();
        prop_assert_eq!(error["error"]["exit"].as_i64(), ended.status.map(i64::from));
    }
}
