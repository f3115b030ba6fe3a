//! Credentials from IAM Identity Center (SSO), keys that cannot be signed with, and the old names of the session token.

use std::{collections::BTreeSet, fs, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use cbbootstrap_tests::{
    cli::{Ended, User, write_private},
    ministack::MiniStack,
    network::ForwardProxy,
    server::{Server, Stub},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// What `status` prints once it has signed in.
const SIGNED_IN: &str = "there is no stack `cbbootstrap`";

const PROFILE: &str = "\
sso_session = company
sso_account_id = 000000000000
sso_role_name = admin
[sso-session company]
sso_region = eu-west-1
sso_start_url = https://company.awsapps.com/start
";

/// The SHA-1 of the session's name.
const CACHE: &str = ".aws/sso/cache/71b21161ffa1e6516bcc072aaf5ef38cbe85b511.json";

const ROLE: &str = "arn:aws:iam::000000000000:role/r";

/// The hosts `portal.sso.REGION.amazonaws.com` and `oidc.REGION.amazonaws.com`: they accept the access token `valid`, and give one for the
/// refresh token `refresh`.
fn sso(keys: Value) -> Server {
    const INVALID: [(&str, &str); 1] = [("x-amzn-errortype", "UnauthorizedException")];
    async fn credentials(State(keys): State<Arc<Value>>, headers: HeaderMap, uri: Uri) -> Response {
        let token = headers.get("x-amz-sso_bearer_token").map(HeaderValue::as_bytes);
        let query: BTreeSet<_> = uri.query().unwrap_or_default().split('&').collect();
        let role = BTreeSet::from(["account_id=000000000000", "role_name=admin"]);
        if token != Some(b"valid") || query != role {
            let message = Json(json!({"message": "Session token not found or invalid"}));
            return (StatusCode::UNAUTHORIZED, INVALID, message).into_response();
        }
        Json(json!({"roleCredentials": *keys})).into_response()
    }
    async fn token(Json(request): Json<Value>) -> Response {
        let fields = ["clientId", "clientSecret", "grantType", "refreshToken"].map(|f| &request[f]);
        if json!(fields) != json!(["id", "secret", "refresh_token", "refresh"]) {
            return (StatusCode::BAD_REQUEST, Json(json!({"error": "invalid_grant"})))
                .into_response();
        }
        Json(json!({"accessToken": "valid", "expiresIn": 3600, "tokenType": "Bearer"}))
            .into_response()
    }
    let router = Router::new()
        .route("/federation/credentials", get(credentials))
        .route("/token", post(token));
    Server::route(router.with_state(Arc::new(keys)))
}

/// The keys in the form of the portal.
fn sso_keys(id: &str, secret: &str, token: &str) -> Value {
    let end = Timestamp::now() + SignedDuration::from_hours(1);
    json!({
        "accessKeyId": id,
        "secretAccessKey": secret,
        "sessionToken": token,
        "expiration": end.as_millisecond(),
    })
}

/// A user behind the proxy that leads to the portal, with this configuration. All other calls go to the stand-in directly.
fn user(aws: &MiniStack, proxy: &ForwardProxy, config: &str) -> User {
    let user = User::default();
    let home = user.home.path().to_owned();
    fs::create_dir_all(home.join(".aws/sso/cache")).unwrap();
    write_private(&home.join(".aws/config"), config);
    fs::write(home.join("ca.pem"), proxy.authority()).unwrap();
    user.with("HTTPS_PROXY", &proxy.url)
        .with("AWS_CA_BUNDLE", home.join("ca.pem").display().to_string())
        .with("AWS_REGION", "us-east-1")
        .with("AWS_ENDPOINT_URL_CLOUDFORMATION", &aws.url)
        .with("AWS_ENDPOINT_URL_STS", &aws.url)
}

/// The cached token, valid for this many hours.
fn sign_in(user: &User, access_token: &str, hours: i64, refresh_token: Option<&str>) {
    sign_in_to(CACHE, user, access_token, hours, refresh_token);
}

/// The same for the session with this file.
fn sign_in_to(
    cache: &str,
    user: &User,
    access_token: &str,
    hours: i64,
    refresh_token: Option<&str>,
) {
    let end = |hours| (Timestamp::now() + SignedDuration::from_hours(hours)).to_string();
    let mut token = json!({
        "accessToken": access_token,
        "expiresAt": end(hours),
        "clientId": "id",
        "clientSecret": "secret",
        "registrationExpiresAt": end(1000),
        "region": "eu-west-1",
        "startUrl": "https://company.awsapps.com/start",
    });
    if let Some(refresh_token) = refresh_token {
        token["refreshToken"] = refresh_token.into();
    }
    write_private(&user.home.path().join(cache), token.to_string());
}

fn status(user: &User) -> Ended {
    user.run(&["status"])
}

#[test]
fn a_session_of_sso_signs_in_until_its_token_expires() {
    let aws = MiniStack::start();
    let keys = aws.boto("client('sts').get_session_token()['Credentials']");
    let part = |part: &str| keys[part].as_str().unwrap();
    let portal = sso(sso_keys(part("AccessKeyId"), part("SecretAccessKey"), part("SessionToken")));
    let proxy = ForwardProxy::before(&portal.url, None);
    let user = user(&aws, &proxy, &format!("[default]\n{PROFILE}"));

    let missing = status(&user);
    missing.failed(1, "cannot get AWS credentials");
    assert!(missing.stderr.contains("`aws sso login`"), "{missing}");
    assert!(proxy.targets().is_empty());

    sign_in(&user, "valid", 1, None);
    status(&user).failed(1, SIGNED_IN);
    assert!(proxy.targets().contains(&"portal.sso.eu-west-1.amazonaws.com:443".to_owned()));

    for (token, hours, refresh_token, signs_in) in [
        ("valid", -1, None, false),
        ("revoked", 1, None, false),
        ("expired", -1, Some("refresh"), true),
        ("expired", -1, Some("revoked"), false),
    ] {
        sign_in(&user, token, hours, refresh_token);
        let ended = status(&user);
        let expected = if signs_in { SIGNED_IN } else { "cannot get AWS credentials" };
        ended.failed(1, expected);
        assert!(signs_in || ended.stderr.contains("`aws sso login`"), "{token} {hours}: {ended}");
    }
    fs::write(user.home.path().join(CACHE), "{").unwrap();
    status(&user).failed(1, "cannot get AWS credentials");
}

#[test]
fn sessions_may_have_any_name() {
    let aws = MiniStack::start();
    let policy = |statement: Value| json!({"Version": "2012-10-17", "Statement": [statement]});
    let trust =
        policy(json!({"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}));
    let all = policy(json!({"Effect": "Allow", "Action": "*", "Resource": "*"}));
    for call in [
        format!("create_role(RoleName='r', AssumeRolePolicyDocument='{trust}')"),
        format!("put_role_policy(RoleName='r', PolicyName='p', PolicyDocument='{all}')"),
    ] {
        aws.boto(&format!("client('iam').{call} and None"));
    }
    let keys = aws.boto("client('sts').get_session_token()['Credentials']");
    let part = |part: &str| keys[part].as_str().unwrap();
    let portal = sso(sso_keys(part("AccessKeyId"), part("SecretAccessKey"), part("SessionToken")));
    let proxy = ForwardProxy::before(&portal.url, None);
    for (name, section, hash) in [
        ("my company", "'my company'", "7bd56751335bdc475a370672bf83e31e7c842a9a"),
        ("Größe 50%", "Größe 50%", "41ae03038977aa36f6948ca8114b381c1aa3268d"),
    ] {
        let cache = format!(".aws/sso/cache/{hash}.json");
        let profile = PROFILE
            .replace("sso_session = company", &format!("sso_session = {name}"))
            .replace("[sso-session company]", &format!("[sso-session {section}]"));
        let role = format!("role_arn = {ROLE}\nsource_profile");
        for config in [
            format!("[default]\n{profile}"),
            format!("[default]\n{role} = my team\n[profile my team]\n{profile}"),
            format!("[default]\n{role} = default\n{profile}"),
        ] {
            let user = user(&aws, &proxy, &config);
            status(&user).failed(1, "cannot get AWS credentials");
            for (token, hours, refresh_token) in
                [("valid", 1, None), ("expired", -1, Some("refresh"))]
            {
                sign_in_to(&cache, &user, token, hours, refresh_token);
                status(&user).failed(1, SIGNED_IN);
            }
            let named = user.run(&["status", "--profile", "default"]);
            named.failed(1, SIGNED_IN);
            let takes_role = config.contains("role_arn");
            assert_eq!(named.stderr.contains("assumed-role/r/"), takes_role, "{named}");
        }
    }
}

/// Keys of which one cannot be in a header, and the message's name for it.
const BAD_KEYS: [(&str, &str, &str, &str); 5] = [
    ("te\u{1b}st", "test", "test", "the access key ID"),
    ("test\n", "test", "test", "the access key ID"),
    ("test", "te st", "test", "the secret access key"),
    ("test", "test", "te\u{7f}st", "the session token"),
    ("test", "test", "t\u{f6}st", "the session token"),
];

/// Asserts that the keys are refused with their source named.
fn assert_refused(user: &User, key: &str, source: &str) {
    let ended = status(user);
    ended.failed(2, &format!("{source}: {key} contains"));
    assert!(!ended.stderr.contains("panicked"), "{ended}");
}

#[test]
fn keys_that_cannot_be_signed_with_are_refused_at_the_start_of_each_chain_of_roles() {
    let aws = MiniStack::start();
    for (id, secret, token, key) in BAD_KEYS {
        let portal = sso(sso_keys(id, secret, token));
        let proxy = ForwardProxy::before(&portal.url, None);
        let issued = json!({
            "Version": 1,
            "Code": "Success",
            "Type": "AWS-HMAC",
            "LastUpdated": "2026-01-01T00:00:00Z",
            "AccessKeyId": id,
            "SecretAccessKey": secret,
            "SessionToken": token,
            "Token": token,
            "Expiration": (Timestamp::now() + SignedDuration::from_hours(1)).to_string(),
        });
        let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "3600")];
        let answer = issued.to_string();
        let metadata = Server::route(
            Router::new()
                .route("/latest/api/token", put(async move || (ttl, "token")))
                .route("/latest/meta-data/iam/security-credentials/", get(async || "role"))
                .fallback(async move || answer),
        );
        let chain = format!("[default]\nrole_arn = {ROLE}\nsource_profile = middle\n");
        let middle = "[profile middle]\nrole_arn = arn:aws:iam::000000000000:role/m\nsource_profile = base\n[profile base]\n";
        let role = |source: &str| format!("[default]\nrole_arn = {ROLE}\n{source}\n");
        let process = "credential_process = cat keys.json";
        for (config, source) in [
            (format!("{chain}{middle}{process}"), "`credential_process` of the profile `base`"),
            (format!("{chain}{middle}{PROFILE}"), "`sso_session` of the profile `base`"),
            (
                role(&format!("source_profile = default\n{process}")),
                "`credential_process` of the profile `default`",
            ),
            (
                role("credential_source = Ec2InstanceMetadata"),
                "`credential_source` of the profile `default`",
            ),
            (
                role("credential_source = EcsContainer"),
                "`credential_source` of the profile `default`",
            ),
        ] {
            let user = user(&aws, &proxy, &config)
                .without("AWS_EC2_METADATA_DISABLED")
                .with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.url)
                .with("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/keys", metadata.url));
            write_private(&user.home.path().join("keys.json"), issued.to_string());
            sign_in(&user, "valid", 1, None);
            assert_refused(&user, key, source);
            assert_refused(&user.with("AWS_PROFILE", "default"), key, source);
        }
    }
}

#[test]
fn account_ids_are_part_of_the_endpoint_only_if_they_are_numbers() {
    let api = Stub::start(|_| (403, json!({"message": "no"}).to_string()));
    for (id, host) in [
        ("123456789012", "123456789012.ddb.us-east-1.amazonaws.com:443"),
        ("1@evil.example", "dynamodb.us-east-1.amazonaws.com:443"),
        ("te\u{1b}st", "dynamodb.us-east-1.amazonaws.com:443"),
    ] {
        let keys =
            json!({"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "AccountId": id});
        let aws = ForwardProxy::before(&api.url, None);
        let user = User::default().with("HTTPS_PROXY", &aws.url).with("AWS_REGION", "us-east-1");
        let home = user.home.path().to_owned();
        fs::create_dir(home.join(".aws")).unwrap();
        write_private(&home.join(".aws/config"), "[default]\ncredential_process = cat keys.json\n");
        write_private(&home.join("keys.json"), keys.to_string());
        fs::write(home.join("ca.pem"), aws.authority()).unwrap();
        let user = user.with("AWS_CA_BUNDLE", home.join("ca.pem").display().to_string());
        user.run(&["cluster", "list"]).ended_with(1);
        assert_eq!(aws.targets(), [host], "{id}");
    }
}

#[test]
fn the_old_names_of_the_session_token_are_read_as_the_aws_cli_does() {
    let aws = Stub::start(|_| (403, json!({"message": "no"}).to_string()));
    let token = |user: User| {
        user.run(&["list"]).ended_with(1);
        let requests = aws.requests();
        requests.last().unwrap().header("x-amz-security-token").map(str::to_owned)
    };
    let user = || {
        User::default()
            .with("AWS_ENDPOINT_URL", &aws.url)
            .with("AWS_REGION", "us-east-1")
            .with("AWS_MAX_ATTEMPTS", "1")
    };
    let keys = || user().with("AWS_ACCESS_KEY_ID", "a").with("AWS_SECRET_ACCESS_KEY", "b");
    assert_eq!(token(keys()), None);
    let old = || keys().with("AWS_SECURITY_TOKEN", "old");
    assert_eq!(token(old()).as_deref(), Some("old"));
    assert_eq!(token(old().with("AWS_SESSION_TOKEN", "new")).as_deref(), Some("old"));
    let new = keys().with("AWS_SECURITY_TOKEN", "").with("AWS_SESSION_TOKEN", "new");
    assert_eq!(token(new).as_deref(), Some("new"));

    let user = user();
    fs::create_dir(user.home.path().join(".aws")).unwrap();
    let profile =
        "[default]\naws_access_key_id = a\naws_secret_access_key = b\naws_security_token = old\n";
    write_private(&user.home.path().join(".aws/credentials"), profile);
    assert_eq!(token(user).as_deref(), Some("old"));
    old().with("AWS_SECURITY_TOKEN", "a\u{1b}b").run(&["list"]).failed(2, "`AWS_SECURITY_TOKEN`");
}
