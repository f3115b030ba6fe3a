//! The same sources give the same function, to the byte, in any directory and with any cargo home.

use std::{fs, os::unix::fs::symlink, process::Command};

use cbbootstrap_tests::{artifact, programs};

#[test]
fn two_places_build_the_same_function() {
    // The dependencies that were built there stay, as those here do.
    let elsewhere = programs::target().join("reproducible");
    let copy = elsewhere.join("a/copy");
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
    // Cargo's downloads under another name.
    let home = std::env::var_os("CARGO_HOME")
        .map_or_else(|| std::env::home_dir().unwrap().join(".cargo"), Into::into);
    let other_home = elsewhere.join("cargo");
    fs::create_dir_all(&other_home).unwrap();
    for entry in fs::read_dir(home).unwrap().flatten() {
        let link = other_home.join(entry.file_name());
        let _ = fs::remove_file(&link);
        symlink(entry.path(), link).unwrap();
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
