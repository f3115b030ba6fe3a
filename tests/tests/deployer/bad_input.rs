//! Wrong input: one error line and a hint, and nothing half-made.

use std::fs;

use cbbootstrap_tests::{
    artifact::{self, zip_of},
    cli::User,
    ministack::MiniStack,
    programs, python,
};
use serde_json::json;
use tempfile::tempdir;

#[test]
fn missing_credentials_and_regions_are_reported() {
    let aws = MiniStack::start();
    let user = || aws.user();
    let zip = artifact::zip().to_owned();
    let deploy = ["deploy", "--yes", "--function-zip", &zip];

    user().without("AWS_ACCESS_KEY_ID").run(&deploy).failed(1, "there are no AWS credentials");
    user().without("AWS_REGION").run(&deploy).failed(1, "no AWS region is set");
    user().with("AWS_PROFILE", "nobody").run(&deploy).failed(1, "there is no AWS profile `nobody`");
    user()
        .run(&[&deploy[..], &["--profile", "nobody"]].concat())
        .failed(1, "there is no AWS profile `nobody`");
    user().run(&[&deploy[..], &["--region", "no where"]].concat()).failed(2, "no where");
    user().with("AWS_REGION", "no where").run(&deploy).failed(2, "`no where` is not an AWS region");
    for bucket in ["My Bucket", "a/b", "", "arn:aws:s3:::x"] {
        user().run(&[&deploy[..], &["--bucket", bucket]].concat()).failed(2, "a bucket's name is");
    }
    user()
        .with("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        .run(&deploy)
        .failed(1, "AWS does not accept the credentials");
    let key = aws.boto(
        "client('iam').create_user(UserName='u') and client('iam').create_access_key(UserName='u')['AccessKey']['AccessKeyId']",
    );
    let someone = user().with("AWS_ACCESS_KEY_ID", key.as_str().unwrap());
    someone
        .with("AWS_SECRET_ACCESS_KEY", "wrong")
        .run(&deploy)
        .failed(1, "AWS does not accept the credentials");
    user()
        .with("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        .run(&deploy)
        .failed(1, "cannot reach `http://127.0.0.1:9`");

    // A profile that is named beats the keys in the environment, as with the AWS CLI.
    let in_files = user().with("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE");
    fs::create_dir(in_files.home.path().join(".aws")).unwrap();
    let credentials = "[mine]\naws_access_key_id = test\naws_secret_access_key = test\n";
    fs::write(in_files.home.path().join(".aws/credentials"), credentials).unwrap();
    in_files.run(&["status", "--profile", "mine"]).failed(1, "there is no stack `cbbootstrap`");
    in_files.run(&["status", "--profile", "yours"]).failed(1, "there is no AWS profile `yours`");

    // What neither the SDK nor this program reads may be anything.
    user().with("AWS_SSH_KEY", "-----BEGIN\nx").run(&["list"]).ended_with(0);
    user().with("AWS_SESSION_TOKEN", "a\nb").run(&["list"]).failed(2, "`AWS_SESSION_TOKEN`");

    assert_eq!(aws.inventory(), json!([[], [], []]), "nothing is made");
}

#[test]
fn wrong_options_are_json_for_programs_that_read_it() {
    let user = User::default();
    let error = |args: &[&str]| {
        let ended = user.run(args).ended_with(2);
        let document = ended.stderr.lines().next().unwrap();
        serde_json::from_str::<serde_json::Value>(document).unwrap()["error"].clone()
    };
    let unknown = error(&["status", "--output", "json", "--stack", "s"]);
    assert_eq!(unknown["exit"], json!(2), "{unknown}");
    assert_eq!(unknown["message"], "unexpected argument '--stack' found", "{unknown}");
    assert!(unknown["hint"].as_str().unwrap().contains("--stack-name"), "{unknown}");
    let missing = error(&["status", "--output=json", "--env", "nosuch"]);
    assert!(missing["message"].as_str().unwrap().contains("nosuch"), "{missing}");
    assert!(!user.run(&["status", "--stack", "s"]).ended_with(2).stderr.starts_with('{'));
}

#[test]
fn wrong_usage_is_not_a_change() {
    let user = User::default();
    for wrong in [&["plan", "--env", "nosuch"][..], &["plan", "--stack", "s"]] {
        user.run(wrong).ended_with(2);
        let exit_code = [wrong, &["--exit-code", "--output=json"]].concat();
        let ended = user.run(&exit_code).ended_with(1);
        assert!(ended.stderr.contains("\"exit\":1"), "{ended}");
    }
}

#[test]
fn expired_credentials_are_reported() {
    let aws = MiniStack::start();
    let zip = artifact::zip().to_owned();
    // The stand-in lets a session be shorter than AWS does.
    let session = aws.boto("client('sts').get_session_token(DurationSeconds=1)['Credentials']");
    let user = aws
        .user()
        .with("AWS_ACCESS_KEY_ID", session["AccessKeyId"].as_str().unwrap())
        .with("AWS_SECRET_ACCESS_KEY", session["SecretAccessKey"].as_str().unwrap())
        .with("AWS_SESSION_TOKEN", session["SessionToken"].as_str().unwrap());
    std::thread::sleep(std::time::Duration::from_millis(1500));
    user.run(&["deploy", "--yes", "--function-zip", &zip])
        .failed(1, "the AWS credentials have expired");
}

#[test]
fn unusable_buckets_and_tables_are_reported() {
    let aws = MiniStack::start();
    let zip = artifact::zip().to_owned();
    let deploy = ["deploy", "--yes", "--function-zip", &zip];
    let user = aws.user();
    // The bucket that would be made is someone else's already; names are everybody's.
    aws.boto("client('s3', '111111111111').create_bucket(Bucket='theirs')");
    aws.boto(
        "client('dynamodb').create_table(TableName='wrong', BillingMode='PAY_PER_REQUEST', \
         KeySchema=[{'AttributeName': 'id', 'KeyType': 'HASH'}], \
         AttributeDefinitions=[{'AttributeName': 'id', 'AttributeType': 'S'}])",
    );
    let before = aws.inventory();
    user.run(&[&deploy[..], &["--bucket", "theirs"]].concat()).failed(1, "`theirs`");
    user.run(&[&deploy[..], &["--bucket", "nobodys"]].concat())
        .failed(1, "there is no bucket `nobodys`");
    user.run(&[&deploy[..], &["--table-name", "wrong"]].concat())
        .failed(1, "table `wrong` has the key `id`");
    user.run(&[&deploy[..], &["--table-name", "no good"]].concat()).failed(2, "'no good'");
    user.run(&[&deploy[..], &["--stack-name", "1st"]].concat()).failed(2, "'1st'");
    user.run(&[&deploy[..], &["--stack-name", &"s".repeat(129)]].concat()).failed(2, "128");
    assert_eq!(aws.inventory(), before, "nothing is made");
}

#[test]
fn zips_that_lambda_cannot_run_are_rejected() {
    let (aws, directory) = (MiniStack::start(), tempdir().unwrap());
    let path = |name: &str| directory.path().join(name);
    let executable = artifact::executable();
    let patched = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = executable.clone();
        change(&mut bytes);
        bytes
    };
    // The machine is at offset 18 of every ELF header: 183 is AArch64, 243 RISC-V.
    let for_arm = patched(&|bytes| bytes[18..20].copy_from_slice(&[183, 0]));
    let for_riscv = patched(&|bytes| bytes[18..20].copy_from_slice(&[243, 0]));
    let newer = patched(&|bytes| {
        let version = b"GLIBC_2.34\0";
        let position = bytes.windows(version.len()).rposition(|window| window == version).unwrap();
        bytes[position..position + version.len()].copy_from_slice(b"GLIBC_2.99\0");
    });
    fs::write(path("text.zip"), "no zip at all").unwrap();
    for (zip, reason) in [
        (path("missing.zip").display().to_string(), "cannot read"),
        (path("text.zip").display().to_string(), "this is not a zip"),
        (zip_of(&path("other.zip"), "main", 0o755, &executable), "has no file `bootstrap`"),
        (zip_of(&path("mode.zip"), "bootstrap", 0o644, &executable), "is not executable"),
        (
            zip_of(&path("script.zip"), "bootstrap", 0o755, b"#!/bin/sh\n"),
            "not a 64-bit Linux executable",
        ),
        (zip_of(&path("arm.zip"), "bootstrap", 0o755, &for_arm), "built for arm64"),
        (zip_of(&path("riscv.zip"), "bootstrap", 0o755, &for_riscv), "built for machine 243"),
        (zip_of(&path("glibc.zip"), "bootstrap", 0o755, &newer), "needs glibc 2.99"),
    ] {
        let ended = aws.user().run(&["deploy", "--yes", "--function-zip", &zip]);
        ended.failed(1, reason);
        ended.failed(1, &zip);
    }
    let good = artifact::zip().to_owned();
    let ended = aws.user().run(&["deploy", "--yes", "--arch", "arm64", "--function-zip", &good]);
    ended.failed(1, "built for x86_64, but arm64 is requested");
    assert_eq!(aws.inventory(), json!([[], [], []]), "nothing is made");
}

#[test]
fn missing_tools_are_reported() {
    let aws = MiniStack::start();
    let source = programs::workspace().display().to_string();
    let deploy = ["deploy", "--yes", "--source", &source];
    let with = |user: User, options: &[&str]| user.run(&[&deploy[..], options].concat());
    let without_zigbuild = || aws.user().without_program("cargo-zigbuild");
    with(without_zigbuild(), &["--builder", "zigbuild"])
        .failed(1, "needs `cargo-zigbuild`, which is not installed");
    with(aws.user().without("CARGO").with("PATH", "/nowhere"), &[])
        .failed(1, "there is no Rust compiler");
    with(aws.user().with("RUSTC", "/nowhere/rustc"), &[]).failed(1, "`/nowhere/rustc -vV` fails");

    let no_zig = tempdir().unwrap();
    std::os::unix::fs::symlink(
        python::bin().join("cargo-zigbuild"),
        no_zig.path().join("cargo-zigbuild"),
    )
    .unwrap();
    with(without_zigbuild().with_programs(no_zig.path()), &["--builder", "zigbuild"])
        .failed(1, "zig");

    let elsewhere = tempdir().unwrap();
    let empty = elsewhere.path().display().to_string();
    aws.user()
        .run(&["deploy", "--yes", "--source", &empty])
        .failed(1, "does not hold cbbootstrap's sources");

    let libraries = std::process::Command::new("rustc")
        .args(["--print", "target-libdir", "--target", "aarch64-unknown-linux-gnu"])
        .output()
        .unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    // Only where it is missing can its absence be seen.
    if !std::path::Path::new(libraries.trim()).exists() {
        let ended = with(aws.user(), &["--arch", "arm64"]);
        ended.failed(1, "target `aarch64-unknown-linux-gnu` is not installed");
        assert!(
            ended.stderr.contains("rustup target add")
                || ended.stderr.contains("the way that Rust"),
            "{ended}"
        );
    }
    assert_eq!(aws.inventory(), json!([[], [], []]), "nothing is made");
}
