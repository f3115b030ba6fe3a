//! Builds: the same sources give the same function in any directory and with any cargo home, and a released deployer contains it.
//!
//! These are the longest tests. They start first, because the name of this module sorts first.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
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
pub fn carrier() -> &'static Path {
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

/// Runs that program with nothing on the path.
fn alone(user: &User, args: &[&str]) -> Ended {
    let mut command: Command = user.program(carrier(), args);
    Ended::of(command.env("PATH", "/nowhere").env_remove("CARGO"))
}

#[test]
fn two_places_build_the_same_function() {
    // The dependencies that were built there stay, as those here do.
    let elsewhere = programs::target().join("reproducible");
    let copy = elsewhere.join("a copy");
    fs::create_dir_all(&copy).unwrap();
    let parts = [
        "Cargo.toml",
        "Cargo.lock",
        "swagger.yaml",
        "function",
        "deployer",
        "agent",
        "cli",
        "protocol",
        "scripts",
        "benchmarks",
        "simulation",
        "tests",
        "templates",
    ];
    for part in parts {
        let _ = fs::remove_dir_all(copy.join(part));
    }
    let copied = Command::new("cp")
        .args(["-R", "--preserve=timestamps"])
        .args(parts.map(|part| programs::workspace().join(part)))
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    // As on a machine that has never built anything: cargo finds its configuration and the downloaded archives, and unpacks these.
    let home = std::env::var_os("CARGO_HOME")
        .map_or_else(|| std::env::home_dir().unwrap().join(".cargo"), Into::into);
    let other_home = elsewhere.join("cargo");
    let _ = fs::remove_dir_all(&other_home);
    fs::create_dir_all(other_home.join("registry")).unwrap();
    for part in ["config.toml", "registry/index", "registry/cache"] {
        symlink(home.join(part), other_home.join(part)).unwrap();
    }

    let here = artifact::executable();
    let there = artifact::executable_built_in(&copy, &other_home);
    assert!(here == there, "{} and {} bytes", here.len(), there.len());
    for path in [programs::workspace(), copy.as_path()] {
        let path = path.display().to_string();
        let found = there.windows(path.len()).any(|part| part == path.as_bytes());
        assert!(!found, "`{path}` is in it");
    }
}

#[test]
fn a_bundled_deployer_needs_no_other_tools() {
    let expected = fs::read(artifact::zip()).unwrap();
    let user = User::default();
    let out = user.home.path().join("function.zip");
    let shown = out.display().to_string();
    alone(&user, &["package", "--out", &shown]).ended_with(0);
    assert!(fs::read(&out).unwrap() == expected, "it is another zip");
    // A link keeps its place.
    let link = user.home.path().join("link.zip");
    std::os::unix::fs::symlink("linked.zip", &link).unwrap();
    alone(&user, &["package", "--out", link.to_str().unwrap()]).ended_with(0);
    assert!(link.is_symlink() && fs::read(&link).unwrap() == expected);
    // On a standard output, it is alone.
    let mut package = user.program(carrier(), &["package", "--out", "/dev/stdout"]);
    let packaged = package.env("PATH", "/nowhere").stdout(fs::File::create(&out).unwrap()).output();
    let report = String::from_utf8(packaged.unwrap().stderr).unwrap();
    assert!(fs::read(&out).unwrap() == expected && report.contains("sha256"), "{report}");

    let aws = MiniStack::start();
    let deployed = alone(&aws.user(), &["deploy", "--yes", "--output", "json"]).document();
    let packaged = alone(&user, &["package", "--out", &shown, "--output", "json"]).document();
    assert_eq!(deployed["function_sha256"], packaged["sha256"]);

    let source = programs::workspace().display().to_string();
    // A build on request, or for another processor, needs the build tools.
    for (options, missing) in [
        (&["--build"][..], "cannot find cbbootstrap's sources"),
        (&["--source", &source], "there is no Rust compiler"),
        (&["--arch", "arm64"], "cannot find cbbootstrap's sources"),
    ] {
        let args = [&["package", "--out", &shown], options].concat();
        alone(&user, &args).failed(1, missing);
    }
}

/// A program of this machine that becomes the function under qemu. Lambda's stand-in starts it, and the check of the executable
/// accepts it.
fn write_launcher(directory: &Path, function: &Path) -> PathBuf {
    let launcher = directory.join("launcher");
    let code = format!(
        r#"#include <unistd.h>
        int main(void) {{ return execlp("qemu-aarch64", "qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "{}", (char *)0); }}"#,
        function.display()
    );
    let source = directory.join("launcher.c");
    fs::write(&source, code).unwrap();
    let compiled = Command::new("cc").arg("-o").arg(&launcher).arg(source).status();
    assert!(compiled.unwrap().success());
    launcher
}

#[test]
#[ignore = "needs Debian's qemu-user and libc6-arm64-cross, and Rust's target for arm64 unless ARM64_ZIP names a zip"]
fn arm64_function_passes_the_smoke_test_under_qemu() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let zip = std::env::var_os("ARM64_ZIP").map_or_else(|| path("arm64.zip"), PathBuf::from);
    if !zip.exists() {
        artifact::package_for_arm64(&zip).ended_with(0);
    }
    fs::write(path("function"), artifact::executable_of(&zip)).unwrap();
    fs::set_permissions(path("function"), PermissionsExt::from_mode(0o755)).unwrap();
    let launcher = fs::read(write_launcher(directory.path(), &path("function"))).unwrap();
    let launcher = artifact::zip_of(&path("launcher.zip"), "bootstrap", 0o755, &launcher);

    let aws = MiniStack::start();
    let deployed = aws.user().deploy_and_smoke(&launcher, &["--yes"]).document();
    assert_eq!(deployed["smoke"]["passed"], true, "{deployed}");
}
