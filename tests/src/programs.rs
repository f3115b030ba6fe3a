//! The built programs.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the workspace")
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    let directory = built_with_this();
    let target = directory.parent().expect("it is three levels deep");
    target.to_owned()
}

/// The directory of programs with this one's profile: `target/debug`, or `target/release` for benchmarks.
fn built_with_this() -> PathBuf {
    let this = std::env::current_exe().expect("a program knows where it is");
    // target/debug/deps/this
    let directory = this.ancestors().nth(2);
    directory.expect("it is three levels deep").to_owned()
}

pub fn cbbootstrap() -> PathBuf {
    built().join("cbbootstrap")
}

pub fn agent() -> PathBuf {
    built().join("cbbootstrap-agent")
}

/// The function, built for this machine.
pub fn bootstrap() -> PathBuf {
    built().join("bootstrap")
}

/// This program's profile.
fn profile() -> &'static str {
    if built_with_this().ends_with("release") { "release" } else { "dev" }
}

/// The directory of the programs, built with this one's profile.
///
/// They are copies, because [`carrying`] makes cargo replace its own.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = built_with_this();
        let copies = directory.join("tested");
        fs::create_dir_all(&copies).expect("the target directory can be written");
        let _lock = lock();
        build(&["--workspace", "--bins", "--profile", profile()]);
        for program in ["cbbootstrap", "cbbootstrap-agent", "bootstrap", "couchbase-standin"] {
            copy(&directory.join(program), &copies.join(program));
        }
        copies
    })
}

/// Copies a program without its symbols, which are half of it, also over one that is running.
///
/// A separate process writes the file. This one may be starting another program in another thread, whose process would keep
/// the file open for a moment, and a file that is open for writing cannot be executed.
pub fn copy(from: &Path, to: &Path) {
    let new = to.with_extension(format!("{}", std::process::id()));
    let copied = Command::new("strip").arg("-o").arg(&new).arg(from).status();
    assert!(copied.expect("strip runs").success(), "{} cannot be copied", from.display());
    fs::rename(new, to).expect("the directory can be written");
}

/// Writes an executable shell script, in a separate process as [`copy`] does.
pub fn write_script(path: &Path, text: &str) {
    let write = r#"cat >"$0" && chmod 755 "$0""#;
    let mut sh = Command::new("sh");
    let mut sh = sh.args(["-c", write]).arg(path).stdin(Stdio::piped()).spawn().expect("sh runs");
    sh.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("sh reads");
    assert!(sh.wait().expect("it is a child").success(), "{} cannot be written", path.display());
}

/// Keeps other test programs from building until the programs are copied.
fn lock() -> File {
    let lock = File::create(target().join("tested.lock"));
    let lock = lock.expect("the target directory can be written");
    lock.lock().expect("files can be locked");
    lock
}

/// The agent as it is released, which takes minutes to build.
pub fn released_agent() -> PathBuf {
    build(&["--profile", "lambda", "--bin", "cbbootstrap-agent"]);
    target().join("lambda/cbbootstrap-agent")
}

/// The command `cbbootstrap` without a function, built with the options of `scripts/release`, which takes minutes.
pub fn released_cbbootstrap() -> PathBuf {
    let released = target().join("released");
    let directory = released.to_str().expect("the target directory's name is UTF-8");
    let args = ["--release", "--package", "cbbootstrap", "--target-dir", directory];
    build_with(&args, &[("RUSTFLAGS", "-Cforce-unwind-tables=no")]);
    released.join("release/cbbootstrap")
}

/// The command `cbbootstrap` with this zip inside.
pub fn carrying(zip: &str) -> PathBuf {
    let program = built().join("cbbootstrap-carrying");
    let _lock = lock();
    // With another profile for this package, cargo keeps both builds of it.
    let profile = profile();
    let bins = ["--workspace", "--bins", "--profile", profile];
    let other = format!("profile.{profile}.package.cbbootstrap.debug={}", profile == "release");
    build_with(&[&bins[..], &["--config", &other]].concat(), &[("CBBOOTSTRAP_FUNCTION_ZIP", zip)]);
    copy(&built_with_this().join("cbbootstrap"), &program);
    build(&bins);
    program
}

fn build(what: &[&str]) {
    build_with(what, &[]);
}

fn build_with(what: &[&str], variables: &[(&str, &str)]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.arg("build").args(what).envs(variables.iter().copied()).current_dir(workspace());
    // `cargo test` sets variables about this package. Cargo would rebuild *ring* and its dependents, now and in the next build outside
    // of a test, because they have changed.
    for (name, _) in std::env::vars_os() {
        let of_the_package = ["CARGO_MANIFEST_", "CARGO_PKG_"]
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix));
        if of_the_package {
            build.env_remove(name);
        }
    }
    // Set for `--report-time`; some dependencies build differently with it.
    build.env_remove("RUSTC_BOOTSTRAP");
    let build = build.output().expect("cargo can be run");
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
}
