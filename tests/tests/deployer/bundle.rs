//! A deployer that carries its function needs no Rust, zig or sources.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use cbbootstrap_tests::{
    artifact,
    cli::{Ended, User},
    ministack::MiniStack,
    programs,
};
use tempfile::TempDir;

/// `cbbootstrap` with the function's zip inside, away from the sources.
fn carrier() -> &'static Path {
    static CARRIER: OnceLock<(PathBuf, TempDir)> = OnceLock::new();
    let (program, _) = CARRIER.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("cbbootstrap");
        let zip = artifact::zip().to_owned();
        programs::copy(programs::carrying(&zip).as_ref(), &program);
        (program, directory)
    });
    program
}

/// Someone with that program on a machine with nothing on the path.
fn alone(user: &User, args: &[&str]) -> Ended {
    let mut command: Command = user.program(carrier(), args);
    Ended::of(command.env("PATH", "/nowhere").env_remove("CARGO"))
}

#[test]
fn a_bundled_deployer_needs_no_other_tools() {
    let expected = fs::read(artifact::zip()).unwrap();
    let user = User::default();
    let out = user.home.path().join("function.zip");
    let shown = out.display().to_string();
    alone(&user, &["package", "--out", &shown]).ended_with(0);
    assert!(fs::read(&out).unwrap() == expected, "it is another zip");

    let aws = MiniStack::start();
    let deployed = alone(&aws.user(), &["deploy", "--yes", "--output", "json"]).document();
    let packaged = alone(&user, &["package", "--out", &shown, "--output", "json"]).document();
    assert_eq!(deployed["function_sha256"], packaged["function_sha256"]);

    // A build on request, or for another processor, needs the build tools.
    for (options, missing) in [
        (&["--build"][..], "cannot find cbbootstrap's sources"),
        (&["--source", &workspace()], "there is no Rust compiler"),
        (&["--arch", "arm64"], "cannot find cbbootstrap's sources"),
    ] {
        let args = [&["package", "--out", &shown], options].concat();
        alone(&user, &args).failed(1, missing);
    }
}

fn workspace() -> String {
    programs::workspace().display().to_string()
}
