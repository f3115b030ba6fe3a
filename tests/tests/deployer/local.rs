//! `deploy --local`: the API on this machine.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    thread,
};

use cbbootstrap_tests::{
    cli::User,
    http,
    local::Local,
    process::{is_alive, kill, wait_until},
    programs,
};
use serde_json::json;
use tempfile::tempdir;

#[test]
fn it_starts_passes_the_smoke_test_and_ends() {
    // As a new user runs it, with nothing that could build a function; the data goes to the user's data directory.
    let user = User::default().with("PATH", "/nowhere").with("CARGO", "/nowhere/cargo");
    let ended = user.run(&["deploy", "--local", "--exit", "--port", "0"]);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(ended.stdout.starts_with("Endpoint: http://127.0.0.1:"), "{ended}");
    assert!(ended.stdout.contains("curl -X POST -d '{\"cluster_id\": \"mycluster\""), "{ended}");
    assert!(ended.stderr.contains("23 of 23 steps passed"), "{ended}");
    let database = ".local/share/cbbootstrap/clusters.db";
    assert!(user.home.path().join(database).exists());

    let json = ["deploy", "--local", "--exit", "--port", "0", "--output", "json"];
    let document = user.run(&json).document();
    assert_eq!(document["smoke"]["passed"], json!(true), "{document}");
    let data = document["data"].as_str().unwrap();
    assert!(data.ends_with(".local/share/cbbootstrap"), "{document}");
}

#[test]
fn one_of_five_hundred_nodes_is_first_even_after_a_crash() {
    let data = tempdir().unwrap();
    let mut local = Local::start(data.path());
    let answers: Vec<_> = thread::scope(|scope| {
        let endpoint = local.endpoint.as_str();
        let nodes: Vec<_> = (0..500)
            .map(|number| {
                scope.spawn(move || {
                    http::claim(endpoint, "big", &format!("10.0.{}.{}", number / 250, number % 250))
                })
            })
            .collect();
        nodes.into_iter().map(|node| node.join().unwrap().unwrap()).collect()
    });
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(refused.is_empty(), "{refused:?}\n{}", local.said());
    let answers: Vec<_> = answers.iter().map(http::Answer::json).collect();
    let firsts: HashSet<_> = answers
        .iter()
        .map(|answer| answer["initial_node_ip_addr_or_hostname"].to_string())
        .collect();
    assert_eq!(firsts.len(), 1, "everyone agrees: {firsts:?}");
    assert_eq!(answers.iter().filter(|answer| answer["is_initial_node"] == json!(true)).count(), 1);

    local.stop("KILL");

    let local = Local::start(data.path());
    let again = http::get(&local.endpoint, "/cluster/big").unwrap().json();
    assert_eq!(firsts, HashSet::from([again["initial_node_ip_addr_or_hostname"].to_string()]));
}

#[test]
fn signals_end_it_cleanly() {
    for signal in ["TERM", "INT", "HUP"] {
        let data = tempdir().unwrap();
        let mut local = Local::start(data.path());
        assert_eq!(local.stop(signal), Some(0), "{signal}\n{}", local.said());
        assert!(!local.database().with_extension("db-wal").exists(), "{signal}");
    }
}

/// A user whose cargo is this shell script.
fn user_with_cargo(directory: &Path, script: &str) -> User {
    let cargo = directory.join("cargo");
    programs::write_script(&cargo, &format!("#!/bin/sh\n{script}\n"));
    User::default().with("CARGO", cargo.display().to_string())
}

#[test]
fn a_build_does_not_inherit_the_environment_of_cargo() {
    let (directory, source) = (tempdir().unwrap(), source());
    let environment = directory.path().join("environment");
    let script = format!("env >{}; exit 1", environment.display());
    let zip = directory.path().join("zip").display().to_string();
    // As `cargo run` starts it.
    user_with_cargo(directory.path(), &script)
        .with("CARGO_MANIFEST_DIR", "/somewhere")
        .with("CARGO_PKG_NAME", "cbbootstrap")
        .with("OUT_DIR", "/somewhere/out")
        .run(&package(&zip, &source))
        .failed(1, "cannot build the function");
    let environment = fs::read_to_string(environment).unwrap();
    assert!(
        environment.contains("CARGO_HOME=") && !environment.contains("/somewhere"),
        "{environment}"
    );
    assert!(!environment.contains("CARGO_PKG_"), "{environment}");
}

#[test]
fn a_build_ends_with_the_deployer() {
    for signal in ["TERM", "KILL"] {
        let (directory, source) = (tempdir().unwrap(), source());
        let (zip, started) = (directory.path().join("zip"), directory.path().join("pid"));
        // A cargo that starts a compiler that never ends.
        let script = format!(
            "[ \"$1\" = build ] || exit 1; sleep 1000 & echo $! >{}; wait",
            started.display()
        );
        let user = user_with_cargo(directory.path(), &script);
        let zip = zip.display().to_string();
        let mut child = user.command(&package(&zip, &source)).spawn().unwrap();
        let compiler = || -> Option<u32> { fs::read_to_string(&started).ok()?.trim().parse().ok() };
        wait_until("the compiler runs", || compiler().is_some_and(is_alive));
        kill(signal, &child.id().to_string());
        let status = child.wait().unwrap();
        assert_eq!(status.code(), (signal == "TERM").then_some(4));
        wait_until("the compiler is gone", || !compiler().is_some_and(is_alive));
    }
}

/// Builds the function with cargo from these sources.
fn package<'a>(zip: &'a str, source: &'a str) -> [&'a str; 7] {
    ["package", "--builder", "cargo", "--out", zip, "--source", source]
}

fn source() -> String {
    programs::workspace().display().to_string()
}

#[test]
fn a_used_port_or_directory_is_named() {
    let (user, data) = (User::default(), tempdir().unwrap());
    let data_option = data.path().display().to_string();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = |port: &str| {
        user.run(&["deploy", "--local", "--exit", "--port", port, "--data", &data_option])
    };
    run(&port).failed(1, &format!("127.0.0.1:{port}"));

    let _local = Local::start(data.path());
    run("0").failed(1, &data_option);
}

#[test]
fn request_limits_are_enforced() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let body = |length: usize| format!("{{\"cluster_id\": \"{}\"}}", "x".repeat(length - 18));
    for (length, status, code) in [
        (8 * 1024, 400, json!("invalid_field")),
        (8 * 1024 + 1, 413, json!("body_too_large")),
        (1000 * 1024, 413, json!("body_too_large")),
    ] {
        let answer = http::post(&local.endpoint, "/cluster", &body(length)).unwrap();
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (status, &code),
            "{length} bytes: {}",
            answer.body
        );
    }
    let answer = http::get(&local.endpoint, "/no/such/route").unwrap();
    assert_eq!((answer.status, answer.json()["code"].clone()), (404, json!("route_not_found")));
    let answer = http::get(&local.endpoint, "/cluster").unwrap();
    assert_eq!((answer.status, answer.headers["allow"].to_str().unwrap()), (405, "POST"));
}

#[test]
fn smoke_recognizes_a_working_endpoint() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let user = User::default();
    let report = user.run(&["smoke", &local.endpoint, "--output", "json"]).document();
    assert_eq!(report["passed"], json!(true), "{report}");
    assert!(
        report["steps"].as_array().unwrap().iter().all(|step| step["milliseconds"].is_number()),
        "{report}"
    );
    // RFC 6761: names under `.localhost` are this machine.
    let port = local.endpoint.rsplit(':').next().unwrap();
    let text =
        user.run(&["smoke", &format!("http://anything.localhost:{port}/")]).ended_with(0).stdout;
    assert!(text.contains("23 of 23 steps passed"), "{text}");

    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let dead = format!("http://{}", other.local_addr().unwrap());
    drop(other);
    let ended = user.run(&["smoke", &dead]).ended_with(3);
    assert!(ended.stderr.contains("no answer") && ended.stdout.contains("FAILED"), "{ended}");
}
