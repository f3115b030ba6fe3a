//! Shell completion, in real shells where they are installed.

use std::{fs, path::Path, process::Command, time::Instant};

use cbbootstrap_tests::{
    cli::{Ended, User},
    http,
    local::Local,
    programs,
    terminal::Terminal,
};
use tempfile::tempdir;

const ENVIRONMENTS: &str = "{environments: {development: {}, demo: {}, prod: {}}}";

fn user() -> User {
    let directory = programs::cbbootstrap().parent().unwrap().to_owned();
    let user = User::default().with_programs(&directory);
    fs::write(user.home.path().join("cbbootstrap.yaml"), ENVIRONMENTS).unwrap();
    user
}

/// The candidates for the last of these words, as bash gets them.
fn candidates(user: &User, words: &[&str]) -> Vec<String> {
    const COMPLETE: &str = r#"source <(cbbootstrap completions bash)
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _clap_complete_cbbootstrap cbbootstrap "${@: -1}" "${@: -2:1}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let args = [&["--norc", "-c", COMPLETE, "bash", "cbbootstrap"][..], words].concat();
    let ended = Ended::of(&mut user.program(Path::new("/bin/bash"), &args)).ended_with(0);
    assert_eq!(ended.stderr, "", "{words:?}");
    ended.stdout.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn environments_parameters_and_profiles_are_completed() {
    let user = user();
    let other = user.home.path().join("other.yaml");
    fs::write(&other, "{environments: {dublin: {}}}").unwrap();
    let other = other.display().to_string();
    fs::create_dir(user.home.path().join(".aws")).unwrap();
    // A profile that would ask a question if it were used.
    let profiles = "[profile work]\ncredential_process = sh -c 'echo asked >>asked; sleep 60'\n[profile $(id)]\n";
    fs::write(user.home.path().join(".aws/config"), profiles).unwrap();
    for (words, expected) in [
        (&["deploy", "--env", "d"][..], &["development", "demo"][..]),
        (&["deploy", "--env", "=", "p"], &["prod"]),
        (&["cluster", "list", "--env", ""], &["development", "demo", "prod"]),
        (&["deploy", "--config", &other, "--env", "d"], &["dublin"]),
        (&["deploy", "--parameter", "LogL"], &["LogLevel="]),
        // `--arch` sets it.
        (&["deploy", "--parameter", "Arch"], &[]),
        (&["deploy", "--arch", "a"], &["arm64"]),
        (&["status", "--profile", ""], &["work"]),
        (&["dep"], &["deploy"]),
        (&["cluster", "show", "--profile", "work", "my"], &[]),
        (&["man"], &["man-pages"]),
    ] {
        assert_eq!(candidates(&user, words), expected, "{words:?}");
    }
    assert!(!user.home.path().join("asked").exists());

    // Without a file, or with a wrong one, there are none, and nothing is printed.
    let config = user.home.path().join("cbbootstrap.yaml");
    for text in ["", "[", "environments: {a: {unknown: 1}}"] {
        fs::write(&config, text).unwrap();
        let expected: &[&str] = if text.contains('a') { &["a"] } else { &[] };
        assert_eq!(candidates(&user, &["deploy", "--env", ""]), expected, "{text}");
    }
}

#[test]
fn clusters_of_this_machine_are_completed() {
    let (user, data) = (user(), tempdir().unwrap());
    let directory = data.path().display().to_string();
    let local = ["--local", "--data", &directory];
    let show =
        |word: &str| candidates(&user, &[&["cluster", "show"], &local[..], &[word]].concat());
    assert!(show("a").is_empty(), "there is no database");
    let server = Local::serve(data.path(), &[]);
    user.run(&["smoke", &server.endpoint]).ended_with(0);
    for id in ["alpha", "alps", "beta", "$(touch${IFS}owned)", "-dash", "a;b"] {
        http::claim(&server.endpoint, id, "a").unwrap();
    }
    assert_eq!(show("al"), ["alpha", "alps"]);
    assert_eq!(show("alpha"), ["alpha"]);
    assert_eq!(show("$"), [""; 0]);
    let forget = [&["cluster", "forget"], &local[..], &["b"]].concat();
    assert_eq!(candidates(&user, &forget), ["beta"]);
    assert_eq!(show("cbb"), [""; 0], "those of the smoke test are hidden");
}

#[test]
fn a_file_that_nobody_writes_does_not_hang_the_shell() {
    let user = user();
    let pipe = user.home.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let since = Instant::now();
    let pipe = pipe.display().to_string();
    assert_eq!(candidates(&user, &["deploy", "--config", &pipe, "--env", ""]), [""; 0]);
    assert!(since.elapsed().as_secs() < 20);
}

#[test]
fn tab_completes_in_each_shell() {
    for (shell, options, load) in [
        ("bash", &["--norc", "-i"][..], "source <(cbbootstrap completions bash)"),
        (
            "zsh",
            &["-f", "-i"],
            "autoload -U compinit; compinit -u -D; source <(cbbootstrap completions zsh)",
        ),
        ("fish", &["--no-config", "-i"], "cbbootstrap completions fish | source"),
    ] {
        let program = Path::new("/usr/bin").join(shell);
        if !program.exists() {
            let missing = format!("there is no {shell}; `apt-get install {shell}` installs it");
            assert!(shell != "bash", "{missing}");
            eprintln!("skipped: {missing}");
            continue;
        }
        let user = user();
        let mut terminal = Terminal::of(&user.program(&program, options), (120, 30));
        // The quotes keep the word out of the echo of the line itself.
        terminal.type_line(&format!("{load}; echo load''ed"));
        terminal.wait_for("loaded");
        terminal.press("cbbootstrap stat\t--env pr\t--loc");
        terminal.wait_for("cbbootstrap status --env prod --loc");
    }
}
