//! Compiles the function: looks at the tools first, chooses, then lets cargo do it and shows how far it is.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context;
use cbbootstrap_cli::environment;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Command,
};

use super::{elf::LAMBDA_GLIBC, source};
use crate::{
    failure::Failure,
    leash::Leash,
    printer::{HEARTBEAT, Step},
    settings::{BuildArgs, BuilderChoice},
    values::Arch,
};

/// The lines of cargo's that are kept for when it fails.
const KEPT_LINES: usize = 400;

/// What builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Builder {
    Zigbuild,
    CargoLambda,
    Cargo,
}

/// The tools of this machine.
#[derive(Clone, Debug, Default)]
struct Toolchain {
    /// The host's target triple.
    host: String,
    /// Whether Rust's standard library is here for the function's target.
    target_installed: bool,
    /// Whether rustup is here to install it.
    rustup: bool,
    cargo_zigbuild: bool,
    zig: bool,
    cargo_lambda: bool,
}

/// A build that can begin.
#[derive(Debug)]
pub struct Compiler {
    source: PathBuf,
    profile: String,
    arch: Arch,
    builder: Builder,
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    /// The executable.
    pub path: PathBuf,
    /// What the executable may be in, which goes with this.
    _directory: TempDir,
}

impl Arch {
    fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

impl Compiler {
    /// Finds the sources, looks at the tools and chooses among them.
    pub async fn find(args: &BuildArgs) -> anyhow::Result<Self> {
        let source = source::find(args.source.as_deref())?;
        let arch = args.arch;
        let toolchain = Toolchain::look(arch, &source).await?;
        let builder = choose(args.builder, arch, &toolchain)?;
        Ok(Self { source, profile: args.cargo_profile.clone(), arch, builder })
    }

    /// The processor that it builds for.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Builds the function.
    pub async fn build(&self, step: &mut Step) -> anyhow::Result<Built> {
        let lambda_directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let mut command = self.command(lambda_directory.path());
        step.note(format!("`{}`", described(&command)));
        // Cargo starts compilers, and they others: all end with this program, and with this future.
        let leash = Leash::new()?;
        let mut cargo = command
            .current_dir(&self.source)
            .process_group(leash.group())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| no_cargo(&error))?;
        let (stdout, stderr) = (cargo.stdout.take(), cargo.stderr.take());
        let (executable, log) = tokio::join!(executable(stdout), progress(stderr, step));
        let status = cargo.wait().await.context("cannot wait for cargo")?;
        if !status.success() {
            for line in log.iter().skip_while(|line| !line.starts_with("error")) {
                step.line(line);
            }
            return Err(Failure::new(format!(
                "the function was not built: `{}` failed ({status})",
                described(&command)
            ))
            .hint("cargo's own words stand above")
            .into());
        }
        let path = match self.builder {
            // It tells no path, but takes a directory.
            Builder::CargoLambda => Some(lambda_directory.path().join("bootstrap/bootstrap")),
            _ => executable,
        };
        match path.filter(|path| path.is_file()) {
            Some(path) => Ok(Built { path, _directory: lambda_directory }),
            None => Err(Failure::new("cargo built no executable `bootstrap`").into()),
        }
    }

    fn command(&self, lambda_directory: &Path) -> Command {
        let mut command = Command::new(cargo());
        // `cargo run` tells this program which package it is, and a build that inherits that takes it for a change: *ring*
        // and all that depends on it would be built again, now and by the next `cargo run`.
        for (name, _) in std::env::vars_os() {
            if OF_THE_PACKAGE.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        match self.builder {
            Builder::Zigbuild => command.arg("zigbuild"),
            Builder::CargoLambda => command.args(["lambda", "build"]),
            Builder::Cargo => command.arg("build"),
        };
        command.args([
            "--package",
            "cbbootstrap-function",
            "--bin",
            "bootstrap",
            "--profile",
            &self.profile,
        ]);
        let triple = self.arch.target();
        let target = format!("{triple}.{LAMBDA_GLIBC}");
        match self.builder {
            Builder::Zigbuild => command.args(["--target", &target, "--message-format", JSON]),
            Builder::CargoLambda => {
                command.args(["--target", &target, "--lambda-dir"]).arg(lambda_directory)
            }
            Builder::Cargo => command.args(["--target", triple, "--message-format", JSON]),
        };
        let moved = Moved::of(&self.source);
        command.env("CARGO_ENCODED_RUSTFLAGS", moved.for_rust());
        let variable = format!("CFLAGS_{}", triple.replace('-', "_"));
        let flags = moved.for_c(std::env::var(&variable).ok());
        command.env(variable, flags);
        // What an incremental build makes depends on the builds before.
        command.env("CARGO_INCREMENTAL", "0");
        command
    }
}

/// The directories whose paths compilers write into what they build, and what they are to write instead: the same sources
/// then give the same function, wherever they and cargo's cache are.
#[derive(Debug)]
struct Moved(Vec<(PathBuf, &'static str)>);

impl Moved {
    fn of(source: &Path) -> Self {
        let mut moved = Vec::new();
        // Of several that fit, the last counts.
        if let Some(home) = cargo_home() {
            moved.push((home.clone(), "/cargo"));
            // Each registry has a directory; which one a mirror has must not matter.
            let registries = std::fs::read_dir(home.join("registry/src"));
            let registries = registries.into_iter().flatten().flatten();
            moved.extend(registries.map(|registry| (registry.path(), "/registry")));
        }
        let source = source.canonicalize().unwrap_or_else(|_| source.to_owned());
        moved.push((source, "/cbbootstrap"));
        Self(moved)
    }

    fn pairs(&self) -> impl Iterator<Item = String> {
        let pairs = self.0.iter();
        pairs.map(|(from, to)| format!("{}={to}", from.display()))
    }

    /// Flags for rustc in the form of `CARGO_ENCODED_RUSTFLAGS`, after those of the environment. Those that stand in cargo's
    /// configuration are for this machine's own programs, and not taken.
    fn for_rust(&self) -> String {
        let given: Vec<String> = if let Ok(flags) = std::env::var("CARGO_ENCODED_RUSTFLAGS") {
            flags.split('\x1f').map(str::to_owned).collect()
        } else {
            let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
            flags.split_whitespace().map(str::to_owned).collect()
        };
        let given = given.into_iter().filter(|flag| !flag.is_empty());
        let ours = self.pairs().map(|pair| format!("--remap-path-prefix={pair}"));
        given.chain(ours).collect::<Vec<_>>().join("\x1f")
    }

    /// Flags for the C compiler, after those of the environment.
    fn for_c(&self, given: Option<String>) -> String {
        let ours = self.pairs().map(|pair| format!("-ffile-prefix-map={pair}"));
        given.into_iter().chain(ours).collect::<Vec<_>>().join(" ")
    }
}

/// Where cargo keeps what it downloads.
fn cargo_home() -> Option<PathBuf> {
    let home = environment::variable_os("CARGO_HOME");
    home.map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cargo")))
}

/// How the variables begin by which cargo tells a program of its package.
const OF_THE_PACKAGE: [&str; 3] = ["CARGO_MANIFEST_", "CARGO_PKG_", "OUT_DIR"];

/// Machine-readable on stdout, readable on stderr.
const JSON: &str = "json-render-diagnostics";

/// The cargo that started this program, or the one on the path.
fn cargo() -> std::ffi::OsString {
    environment::variable_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn no_cargo(error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot run cargo ({error})")).hint(NO_RUST)
}

const NO_RUST: &str = "install Rust (https://rustup.rs), or bring a zip with `--function-zip FILE`";

/// The command as one would type it.
fn described(command: &Command) -> String {
    let args = command.as_std().get_args().map(|arg| arg.to_string_lossy());
    let shown = args.take_while(|arg| arg != "--message-format" && arg != "--lambda-dir");
    format!("cargo {}", shown.collect::<Vec<_>>().join(" "))
}

/// The path of the executable, from cargo's messages.
async fn executable(stdout: Option<impl AsyncRead + Unpin>) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        target: Option<Target>,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }

    let mut lines = BufReader::new(stdout?).lines();
    let mut found = None;
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(Message { target: Some(target), executable: Some(executable) }) =
            serde_json::from_str(&line)
            && target.name == "bootstrap"
        {
            found = Some(executable);
        }
    }
    found
}

/// Shows what cargo does, and keeps its last lines.
async fn progress(stderr: Option<impl AsyncRead + Unpin>, step: &mut Step) -> VecDeque<String> {
    let mut kept = VecDeque::new();
    let Some(stderr) = stderr else { return kept };
    let mut lines = BufReader::new(stderr).lines();
    let mut compiled = 0;
    loop {
        let line = match tokio::time::timeout(HEARTBEAT, lines.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(_) => break,
            // The last crate can take minutes, in which cargo says nothing.
            Err(_) => {
                step.busy("still compiling");
                continue;
            }
        };
        let words = line.trim_start();
        if let Some(crate_and_version) = words.strip_prefix("Compiling ") {
            compiled += 1;
            step.busy(format!("compiling, {compiled} crates so far: {crate_and_version}"));
        } else if words.starts_with("Downloading ") || words.starts_with("Blocking ") {
            step.note(line.trim().to_owned());
        }
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    kept
}

impl Toolchain {
    async fn look(arch: Arch, source: &Path) -> anyhow::Result<Self> {
        // In the sources' directory, where rustup may choose another toolchain than here.
        let said = async |program: &str, args: &[&str]| {
            let output = Command::new(program)
                .args(args)
                .current_dir(source)
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output()
                .await;
            output.ok().filter(|output| output.status.success())
        };
        let libdir = ["--print", "target-libdir", "--target", arch.target()];
        let (rustc, libdir, rustup, cargo_zigbuild, zig, cargo_lambda) = tokio::join!(
            said("rustc", &["-vV"]),
            said("rustc", &libdir),
            said("rustup", &["--version"]),
            said("cargo-zigbuild", &["--version"]),
            // It finds zig in more places than the path; so it is asked, in the one way there is.
            said("cargo-zigbuild", &["zig", "cc", "--", "--version"]),
            said("cargo-lambda", &["lambda", "--version"]),
        );
        let rustc = rustc.ok_or_else(|| {
            Failure::new("there is no Rust compiler (`rustc -vV` fails)").hint(NO_RUST)
        })?;
        let version = String::from_utf8_lossy(&rustc.stdout);
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
        let libdir =
            libdir.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
        Ok(Self {
            host: host.to_owned(),
            target_installed: libdir.is_some_and(|libdir| libdir.is_dir()),
            rustup: rustup.is_some(),
            cargo_zigbuild: cargo_zigbuild.is_some(),
            zig: zig.is_some(),
            cargo_lambda: cargo_lambda.is_some(),
        })
    }
}

/// What builds, of what is there.
fn choose(wish: BuilderChoice, arch: Arch, toolchain: &Toolchain) -> Result<Builder, Failure> {
    let target = arch.target();
    if !toolchain.target_installed {
        let way_out = if toolchain.rustup {
            format!(
                "`rustup target add {target}` installs it; or bring a zip with `--function-zip FILE`"
            )
        } else {
            format!(
                "install Rust's standard library for it the way that Rust was installed; with rustup it is `rustup target add {target}`"
            )
        };
        return Err(
            Failure::new(format!("Rust's target `{target}` is not installed")).hint(way_out)
        );
    }
    let native = toolchain.host == target;
    let install_zigbuild = "`pip install cargo-zigbuild ziglang` installs it";
    let missing = |what: &str| Failure::new(format!("{what} is not installed"));
    match wish {
        BuilderChoice::Auto | BuilderChoice::Zigbuild if toolchain.cargo_zigbuild && toolchain.zig => Ok(Builder::Zigbuild),
        BuilderChoice::Auto | BuilderChoice::CargoLambda if toolchain.cargo_lambda => Ok(Builder::CargoLambda),
        BuilderChoice::Auto | BuilderChoice::Cargo if native => Ok(Builder::Cargo),
        BuilderChoice::Auto => Err(Failure::new(format!("nothing here can build for `{target}` on {}", toolchain.host))
            .hint("`pip install cargo-zigbuild ziglang` installs what can; or bring a zip with `--function-zip FILE`".to_string())),
        BuilderChoice::Zigbuild if !toolchain.cargo_zigbuild => Err(missing("`cargo-zigbuild`").hint(install_zigbuild)),
        BuilderChoice::Zigbuild => {
            Err(missing("zig, with which `cargo zigbuild` links,").hint("`pip install ziglang` installs it"))
        }
        BuilderChoice::CargoLambda => Err(missing("`cargo-lambda`").hint("`pip install cargo-lambda` installs it")),
        BuilderChoice::Cargo => {
            Err(Failure::new(format!("`cargo build` builds for {}, and Lambda needs `{target}`", toolchain.host))
                .hint(format!("build with `--builder zigbuild`; {install_zigbuild}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A toolchain on Lambda's own target, with the parts named.
    fn toolchain(parts: &str) -> Toolchain {
        Toolchain {
            host: if parts.contains("mac") {
                "aarch64-apple-darwin"
            } else {
                "x86_64-unknown-linux-gnu"
            }
            .to_owned(),
            target_installed: !parts.contains("no-target"),
            rustup: parts.contains("rustup"),
            cargo_zigbuild: parts.contains("zigbuild"),
            zig: parts.contains("ziglang"),
            cargo_lambda: parts.contains("cargo-lambda"),
        }
    }

    #[test]
    fn the_builder_follows_from_wish_and_tools() {
        use BuilderChoice as Wish;
        for (wish, arch, parts, expected) in [
            (Wish::Auto, Arch::X86_64, "", Ok(Builder::Cargo)),
            (Wish::Auto, Arch::X86_64, "cargo-lambda", Ok(Builder::CargoLambda)),
            (Wish::Auto, Arch::X86_64, "zigbuild", Ok(Builder::Cargo)),
            (Wish::Auto, Arch::X86_64, "zigbuild ziglang cargo-lambda", Ok(Builder::Zigbuild)),
            (Wish::Auto, Arch::X86_64, "mac zigbuild ziglang", Ok(Builder::Zigbuild)),
            (Wish::Auto, Arch::X86_64, "mac", Err("nothing here can build")),
            (Wish::Auto, Arch::Arm64, "", Err("nothing here can build")),
            (
                Wish::Auto,
                Arch::Arm64,
                "no-target rustup",
                Err("rustup target add aarch64-unknown-linux-gnu"),
            ),
            (Wish::Zigbuild, Arch::X86_64, "", Err("`cargo-zigbuild` is not installed")),
            (Wish::Zigbuild, Arch::X86_64, "zigbuild", Err("pip install ziglang")),
            (Wish::Zigbuild, Arch::Arm64, "zigbuild ziglang", Ok(Builder::Zigbuild)),
            (Wish::CargoLambda, Arch::X86_64, "cargo-lambda", Ok(Builder::CargoLambda)),
            (
                Wish::CargoLambda,
                Arch::X86_64,
                "zigbuild ziglang",
                Err("`cargo-lambda` is not installed"),
            ),
            (Wish::Cargo, Arch::X86_64, "zigbuild ziglang", Ok(Builder::Cargo)),
            (Wish::Cargo, Arch::Arm64, "zigbuild ziglang", Err("`cargo build` builds for")),
        ] {
            let chosen = choose(wish, arch, &toolchain(parts));
            match (&chosen, expected) {
                (Ok(builder), Ok(expected)) => {
                    assert_eq!(*builder, expected, "{wish:?} {arch:?} {parts:?}");
                }
                (Err(failure), Err(part)) => {
                    let said = format!("{failure} {}", failure.hint.as_deref().unwrap_or_default());
                    assert!(said.contains(part), "{said}");
                }
                _ => panic!("{wish:?} {arch:?} {parts:?}: {chosen:?}"),
            }
        }
    }

    #[test]
    fn the_command_is_told_as_one_would_type_it() {
        let compiler = Compiler {
            source: PathBuf::new(),
            profile: "lambda".to_owned(),
            arch: Arch::X86_64,
            builder: Builder::Zigbuild,
        };
        assert_eq!(
            described(&compiler.command(Path::new("dir"))),
            "cargo zigbuild --package cbbootstrap-function --bin bootstrap --profile lambda --target x86_64-unknown-linux-gnu.2.34"
        );
    }
}
