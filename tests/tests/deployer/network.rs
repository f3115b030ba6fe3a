//! Proxies, and certificates that the system does not trust.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use cbbootstrap_tests::{
    artifact,
    cli::User,
    ministack::MiniStack,
    network::{Authority, ForwardProxy, TlsFront},
    server::Stub,
};
use serde_json::Value;

use crate::sign_in::{LOGIN_PROFILE, log_in, with_files};

const STATUS: [&str; 3] = ["status", "--output", "json"];

/// The user of AWS itself, which only a proxy leads to.
fn of_aws(aws: &MiniStack) -> User {
    aws.user().without("AWS_ENDPOINT_URL")
}

/// The user with a file, and a variable that names it.
fn with_file(user: User, variable: &str, text: &str) -> User {
    let path = user.home.path().join(variable);
    fs::write(&path, text).unwrap();
    user.with(variable, path.display().to_string())
}

#[test]
fn a_deployment_goes_through_a_proxy_that_inspects_tls() {
    let aws = MiniStack::start();
    let proxy = ForwardProxy::before(&aws.url, Some("a user:p@ss"));
    let url = proxy.url.replace("http://", "http://a%20user:p%40ss@");
    let user = with_file(of_aws(&aws), "AWS_CA_BUNDLE", &proxy.authority());
    // Signed in by `aws login`.
    let user = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"]
        .into_iter()
        .fold(user, User::without);
    let user = with_files(user, LOGIN_PROFILE, "");
    log_in(&user, &aws);
    let user = user.with("HTTPS_PROXY", url).with("NO_PROXY", "example.com, 10.0.0.0/8");
    let deployed = user.deploy_and_smoke(artifact::zip(), &["--yes"]);
    assert_eq!(deployed.document()["smoke"]["passed"], Value::Bool(true), "{deployed}");
    let targets = proxy.targets();
    for host in [
        "sts.us-east-1.amazonaws.com:443",
        "cloudformation.us-east-1.amazonaws.com:443",
        // The session names the account.
        "000000000000.ddb.us-east-1.amazonaws.com:443",
    ] {
        assert!(targets.iter().any(|target| target == host), "{host}: {targets:?}");
    }
    // The endpoint is on this machine.
    assert!(!targets.iter().any(|target| target.contains("localhost")), "{targets:?}");
}

/// RFC 6761 gives names below `.localhost` to this machine, but not every C library resolves them.
#[test]
fn names_below_localhost_are_this_machine() {
    let (aws, authority) = (MiniStack::start(), Authority::default());
    // MiniStack takes longer names for buckets.
    let url = aws.url.replace("127.0.0.1", "a.localhost");
    assert_ne!(url, aws.url);
    let user = aws.user().with("AWS_ENDPOINT_URL", url).with("HTTP_PROXY", "http://127.0.0.1:9");
    user.run(&STATUS).failed(1, "there is no stack `cbbootstrap`");
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let front = TlsFront::at(socket, "a.localhost", &aws.url, &authority);
    let user = with_file(aws.user(), "AWS_CA_BUNDLE", &authority.pem());
    let user = user.with("AWS_ENDPOINT_URL", &front.url);
    user.run(&STATUS).failed(1, "there is no stack `cbbootstrap`");
}

#[test]
fn every_variable_for_a_proxy_is_read() {
    let aws = MiniStack::start();
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        let proxy = ForwardProxy::before(&aws.url, None);
        let user = with_file(of_aws(&aws), "AWS_CA_BUNDLE", &proxy.authority());
        let user = user.with(variable, &proxy.url);
        user.run(&STATUS).failed(1, "there is no stack `cbbootstrap`");
        assert!(!proxy.targets().is_empty(), "{variable}");

        // An empty variable is absent, and a host in `NO_PROXY` is called directly.
        let empty =
            user.with("https_proxy", if variable == "https_proxy" { &proxy.url } else { "" });
        empty.run(&STATUS).failed(1, "there is no stack `cbbootstrap`");
        let count = proxy.targets().len();
        let direct = empty.with("no_proxy", ".amazonaws.com:443").with("AWS_MAX_ATTEMPTS", "1");
        direct
            .run(&STATUS)
            .failed(1, "cannot reach `https://cloudformation.us-east-1.amazonaws.com` with");
        assert_eq!(proxy.targets().len(), count, "{variable}");
    }
}

#[test]
fn errors_name_the_proxy_and_never_its_password() {
    let aws = MiniStack::start();
    let proxy = ForwardProxy::before(&aws.url, Some("user:password"));
    let wrong = proxy.url.replace("http://", "http://user:geheim@");
    for (url, status, parts) in [
        (wrong.as_str(), 1, [proxy.url.as_str(), "proxy authorization required"]),
        ("http://user:geheim@127.0.0.1:9", 1, ["http://127.0.0.1:9", "refused"]),
        (
            "socks5://user:geheim@127.0.0.1:9",
            2,
            ["is not the URL of an HTTP proxy", "https://HOST:PORT"],
        ),
    ] {
        let user = of_aws(&aws).with("AWS_MAX_ATTEMPTS", "1").with("HTTPS_PROXY", url);
        let ended = user.run(&STATUS);
        assert_eq!(ended.status, Some(status), "{ended}");
        for part in parts.iter().chain(&["`HTTPS_PROXY`"]) {
            assert!(ended.stderr.contains(part), "{part}: {ended}");
        }
        assert!(!ended.stderr.contains("geheim"), "{ended}");
    }
}

#[test]
fn authorities_come_from_variables_and_the_profile() {
    let (aws, authority) = (MiniStack::start(), Authority::default());
    let front = TlsFront::before(&aws.url, &authority);
    let user = || aws.user().with("AWS_ENDPOINT_URL", &front.url).with("AWS_MAX_ATTEMPTS", "1");
    let none = "there is no stack `cbbootstrap`";

    let ended = user().run(&STATUS);
    ended.failed(1, "cannot reach `https://localhost:");
    assert!(ended.stderr.contains("`AWS_CA_BUNDLE`"), "{ended}");
    let other = with_file(user(), "AWS_CA_BUNDLE", &Authority::default().pem());
    let ended = other.run(&STATUS);
    ended.failed(1, "with the certificates of `AWS_CA_BUNDLE`");

    for variable in ["AWS_CA_BUNDLE", "SSL_CERT_FILE"] {
        for pem in [authority.pem(), format!("\u{feff}{}", authority.pem().replace('\n', "\r\n"))] {
            if variable == "SSL_CERT_FILE" && pem.starts_with('\u{feff}') {
                continue;
            }
            with_file(user(), variable, &pem).run(&STATUS).failed(1, none);
        }
        with_file(user(), variable, "no certificate").run(&STATUS).failed(2, "no certificate in");
        let ended = user().with(variable, "/nowhere").run(&STATUS);
        assert!(ended.stderr.contains(variable), "{ended}");
    }
    let cut = authority.pem() + authority.pem().split_once("-----END").unwrap().0;
    with_file(user(), "AWS_CA_BUNDLE", &cut).run(&STATUS).failed(2, "it is cut off");
    let in_profile = with_file(user(), "AWS_CONFIG_FILE", "[default]\nca_bundle = ~/company.pem\n");
    fs::write(in_profile.home.path().join("company.pem"), authority.pem()).unwrap();
    in_profile.run(&STATUS).failed(1, none);
}

#[test]
fn the_smoke_test_uses_the_same_network() {
    let api = Stub::start(|_| (200, r#"{"name": "cbbootstrap", "version": "0"}"#.to_owned()));
    let proxy = ForwardProxy::before(&api.url, None);
    let user = with_file(User::default(), "AWS_CA_BUNDLE", &proxy.authority());
    let user = user.with("HTTPS_PROXY", &proxy.url);
    user.run(&["smoke", "https://api.example", "--output", "json"]);
    assert!(proxy.targets().contains(&"api.example:443".to_owned()), "{:?}", proxy.targets());
    assert!(!api.requests().is_empty());
}

/// A user of this endpoint who makes one attempt.
fn of_endpoint(url: &str) -> User {
    User::default()
        .with("AWS_ENDPOINT_URL", url)
        .with("AWS_MAX_ATTEMPTS", "1")
        .with("AWS_REGION", "us-east-1")
        .with("AWS_ACCESS_KEY_ID", "a")
        .with("AWS_SECRET_ACCESS_KEY", "b")
}

#[test]
fn answers_of_other_servers_are_named() {
    for status in [200, 302, 400, 403, 404, 502] {
        let portal = Stub::start(move |_| (status, "<html>please sign in</html>".to_owned()));
        for command in ["list", "status"] {
            let ended = of_endpoint(&portal.url).run(&[command]);
            let expected = format!(
                "`{}` (`AWS_ENDPOINT_URL`) answered with status {status} and no error of AWS (application/json)",
                portal.url
            );
            ended.failed(1, &expected);
            assert!(ended.stderr.contains("cbbootstrap doctor"), "{ended}");
        }
    }
}

#[test]
fn a_proxy_that_refuses_a_host_is_named() {
    for answer in ["HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "SSH-2.0-OpenSSH\r\n"] {
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", proxy.local_addr().unwrap());
        thread::spawn(move || {
            for mut stream in proxy.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let user = of_endpoint("").with("HTTPS_PROXY", &url);
        for (args, status) in [(&["list"][..], 1), (&["smoke", "https://api.example"], 3)] {
            let ended = user.run(args).ended_with(status);
            for part in [
                "the proxy refuses the connection, or is not an HTTP proxy",
                "check the proxy's URL, and that it allows this host",
            ] {
                assert!(ended.stderr.contains(part), "{ended}");
            }
        }
    }
}

#[test]
fn retries_are_limited_by_variables_and_the_profile() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    let user = || of_endpoint(&url).without("AWS_MAX_ATTEMPTS");
    let connections = |user: User| {
        let before = count.load(Ordering::SeqCst);
        // It makes one call.
        user.run(&["list"]).failed(1, "cannot reach");
        count.load(Ordering::SeqCst) - before
    };
    assert_eq!(connections(user().with("AWS_MAX_ATTEMPTS", "1")), 1);
    let profile = "[default]\nmax_attempts = 2\nretry_mode = legacy\n";
    assert_eq!(connections(with_file(user(), "AWS_CONFIG_FILE", profile)), 2);
    for (name, value) in [
        ("AWS_MAX_ATTEMPTS", "0"),
        ("AWS_RETRY_MODE", "never"),
        ("AWS_USE_FIPS_ENDPOINT", "1"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "yes"),
    ] {
        user().with(name, value).run(&STATUS).failed(2, &format!("`{name}` cannot be `{value}`"));
    }
}

#[test]
fn fips_and_dual_stack_endpoints_are_called() {
    let aws = MiniStack::start();
    let token =
        "[default]\nrole_arn = arn:aws:iam::000000000000:role/r\nweb_identity_token_file = token\n";
    for (name, host) in [
        ("AWS_USE_FIPS_ENDPOINT", "sts-fips.us-east-1.amazonaws.com:443"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "sts.us-east-1.api.aws:443"),
    ] {
        for profile in [&[][..], &["--profile", "default"]] {
            let proxy = ForwardProxy::before(&aws.url, None);
            let user = with_file(User::default(), "AWS_CA_BUNDLE", &proxy.authority());
            let user = with_file(user, "AWS_CONFIG_FILE", token)
                .with("HTTPS_PROXY", &proxy.url)
                .with("AWS_REGION", "us-east-1")
                .with(name, "true");
            fs::write(user.home.path().join("token"), "a.b.c").unwrap();
            user.run(&[&STATUS[..], profile].concat());
            assert_eq!(proxy.targets().first().map(String::as_str), Some(host), "{profile:?}");
        }
    }
}
