//! Compiles a program for AWS with cargo-zigbuild, or with plain cargo where that is missing.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context;
use cbbootstrap_cli::environment;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Command,
};

use super::{BuildArgs, BuilderChoice, Program, elf::LAMBDA_GLIBC, source};
use crate::{
    failure::Failure,
    leash::Leash,
    printer::{HEARTBEAT, Step},
    values::Arch,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Builder {
    /// `cargo zigbuild`, which links for Lambda's glibc on any machine.
    Zigbuild,
    /// `cargo build`. The result runs in Lambda if this machine's glibc is not newer than Lambda's, which the check of the
    /// artifact finds out.
    Cargo,
}

#[derive(Clone, Debug, Default)]
struct Toolchain {
    /// The host's target triple.
    host: String,
    /// Whether Rust's standard library is installed for the function's target.
    has_target: bool,
    has_zigbuild: bool,
    has_zig: bool,
}

/// A build that can begin.
#[derive(Debug)]
pub struct Compiler {
    pub program: &'static Program,
    source: PathBuf,
    profile: String,
    pub arch: Arch,
    builder: Builder,
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
    pub async fn find(program: &'static Program, args: &BuildArgs) -> anyhow::Result<Self> {
        let source = source::find(program, args.source.as_deref())?;
        let arch = args.arch;
        let toolchain = Toolchain::detect(program, arch, &source).await?;
        let builder = choose(program, args.builder, arch, &toolchain)?;
        Ok(Self { program, source, profile: args.cargo_profile.clone(), arch, builder })
    }

    /// Builds the program and returns the path of the executable.
    pub async fn build(&self, step: &mut Step) -> anyhow::Result<PathBuf> {
        // Cargo starts compilers, and these start linkers: all end with this program, and with this future.
        let leash = Leash::new()?;
        step.busy("downloading crates");
        // So that the directories of the crates exist, and their paths can be remapped. If it fails, the build names the reason.
        let mut fetch = self.cargo("fetch");
        fetch.args(["--quiet", "--target", self.arch.target()]).process_group(leash.group());
        let _ = fetch.stdout(Stdio::null()).stderr(Stdio::null()).status().await;

        let mut command = self.command();
        let shown = describe(&command);
        step.note(format!("`{shown}`"));
        let mut cargo = command
            .process_group(leash.group())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                Failure::new(format!("cannot run cargo ({error})")).hint(no_rust(self.program))
            })?;
        let stdout = cargo.stdout.take().context("cargo has no stdout")?;
        let stderr = cargo.stderr.take().context("cargo has no stderr")?;
        let (executable, log) = tokio::join!(
            read_executable(stdout, self.program.executable),
            show_progress(stderr, step)
        );
        let status = cargo.wait().await.context("cannot wait for cargo")?;
        if !status.success() {
            for line in log.iter().skip_while(|line| !line.starts_with("error")) {
                step.line(line);
            }
            return Err(Failure::new(format!(
                "cannot build the {}: `{shown}` failed ({status})",
                self.program.name
            ))
            .hint("cargo's errors are printed above")
            .into());
        }
        executable.filter(|path| path.is_file()).ok_or_else(|| {
            Failure::new(format!("cargo built no executable `{}`", self.program.executable)).into()
        })
    }

    /// Cargo in the directory of the sources.
    fn cargo(&self, subcommand: &str) -> Command {
        let cargo = environment::variable_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        // `cargo run` sets variables about this package. A build that inherits them sees a change and builds *ring* and
        // all that depends on it again, as the next `cargo run` does.
        for (name, _) in std::env::vars_os() {
            if PACKAGE_VARIABLES.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.arg(subcommand).current_dir(&self.source).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn command(&self) -> Command {
        let triple = self.arch.target();
        let (subcommand, target) = match self.builder {
            Builder::Zigbuild => ("zigbuild", format!("{triple}.{LAMBDA_GLIBC}")),
            Builder::Cargo => ("build", triple.to_owned()),
        };
        let mut command = self.cargo(subcommand);
        command
            .args(["--package", self.program.package])
            .args(["--bin", self.program.executable])
            .args(["--profile", &self.profile, "--target", &target])
            // Messages for this program on stdout, those for people on stderr.
            .args(["--message-format", "json-render-diagnostics"]);
        let paths = remapped_paths(&self.source);
        command.env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&paths));
        let variable = format!("CFLAGS_{}", triple.replace('-', "_"));
        // Compilers for C read the flags as words: a path with a space cannot be remapped.
        let words = paths.iter().filter(|pair| !pair.contains(char::is_whitespace));
        let ours = words.map(|pair| format!("-ffile-prefix-map={pair}"));
        let flags: Vec<_> = std::env::var(&variable).into_iter().chain(ours).collect();
        command.env(variable, flags.join(" "));
        // The result of an incremental build depends on the builds before it.
        command.env("CARGO_INCREMENTAL", "0");
        command
    }
}

/// `FROM=TO` for each directory whose path compilers write into their output: the same sources then give the same function,
/// wherever they and cargo's cache are.
fn remapped_paths(source: &Path) -> Vec<String> {
    // The last entry that matches a path counts.
    let mut paths = Vec::new();
    if let Some(home) = cargo_home() {
        // Each registry has a directory, a mirror another one.
        let registries = std::fs::read_dir(home.join("registry/src")).into_iter().flatten();
        let registries: Vec<_> = registries.flatten().map(|registry| registry.path()).collect();
        paths.push((home, "/cargo"));
        paths.extend(registries.into_iter().map(|registry| (registry, "/registry")));
    }
    paths.push((source.canonicalize().unwrap_or_else(|_| source.to_owned()), "/cbbootstrap"));
    paths.iter().map(|(from, to)| format!("{}={to}", from.display())).collect()
}

/// Flags for rustc in the form of `CARGO_ENCODED_RUSTFLAGS`, after those of the environment. Those of cargo's configuration are
/// for this machine's own programs and are omitted.
fn rust_flags(paths: &[String]) -> String {
    let unencoded = |flags: String| flags.split_whitespace().collect::<Vec<_>>().join("\x1f");
    let given = std::env::var("CARGO_ENCODED_RUSTFLAGS")
        .or_else(|_| std::env::var("RUSTFLAGS").map(unencoded))
        .unwrap_or_default();
    let given = Some(given).filter(|flags| !flags.is_empty());
    let ours = paths.iter().map(|pair| format!("--remap-path-prefix={pair}"));
    given.into_iter().chain(ours).collect::<Vec<_>>().join("\x1f")
}

fn cargo_home() -> Option<PathBuf> {
    let home = environment::variable_os("CARGO_HOME");
    home.map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cargo")))
}

/// The prefixes of the variables by which cargo describes its package to a program.
const PACKAGE_VARIABLES: [&str; 3] = ["CARGO_MANIFEST_", "CARGO_PKG_", "OUT_DIR"];

fn no_rust(program: &Program) -> String {
    format!("install Rust (https://rustup.rs), or {}", program.alternative)
}

/// The command as a user would type it.
fn describe(command: &Command) -> String {
    let args = command.as_std().get_args().map(|arg| arg.to_string_lossy());
    let shown = args.take_while(|arg| arg != "--message-format");
    format!("cargo {}", shown.collect::<Vec<_>>().join(" "))
}

/// The path of the executable, from cargo's messages.
async fn read_executable(stdout: impl AsyncRead + Unpin, name: &str) -> Option<PathBuf> {
    let mut lines = BufReader::new(stdout).lines();
    let mut path = None;
    while let Ok(Some(line)) = lines.next_line().await {
        let message: Value = serde_json::from_str(&line).unwrap_or_default();
        if message["target"]["name"] == name {
            path = message["executable"].as_str().map(PathBuf::from).or(path);
        }
    }
    path
}

/// Shows what cargo does, and returns its lines.
async fn show_progress(stderr: impl AsyncRead + Unpin, step: &mut Step) -> Vec<String> {
    let mut printed = Vec::new();
    let mut lines = BufReader::new(stderr).lines();
    let mut compiled = 0;
    loop {
        let line = match tokio::time::timeout(HEARTBEAT, lines.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(_) => break,
            // The last crate can take minutes, in which cargo prints nothing.
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
        printed.push(line);
    }
    printed
}

impl Toolchain {
    async fn detect(program: &'static Program, arch: Arch, source: &Path) -> anyhow::Result<Self> {
        let rustc = environment::variable_os("RUSTC").unwrap_or_else(|| "rustc".into());
        // In the sources' directory, for which rustup may choose another toolchain.
        let output = async |program: &OsStr, args: &[&str]| {
            let output = Command::new(program)
                .args(args)
                .current_dir(source)
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output()
                .await;
            let output = output.ok().filter(|output| output.status.success())?;
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let libraries = ["--print", "target-libdir", "--target", arch.target()];
        let zigbuild = OsStr::new("cargo-zigbuild");
        let (version, libraries, zigbuild, zig) = tokio::join!(
            output(&rustc, &["-vV"]),
            output(&rustc, &libraries),
            output(zigbuild, &["--version"]),
            // It also finds zig outside of `PATH`, and has no other command that checks for it.
            output(zigbuild, &["zig", "cc", "--", "--version"]),
        );
        let version = version.ok_or_else(|| {
            let rustc = rustc.display();
            Failure::new(format!("there is no Rust compiler (`{rustc} -vV` fails)"))
                .hint(no_rust(program))
        })?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        Ok(Self {
            host: host.unwrap_or_default().to_owned(),
            has_target: libraries.is_some_and(|directory| Path::new(directory.trim()).is_dir()),
            has_zigbuild: zigbuild.is_some(),
            has_zig: zig.is_some(),
        })
    }
}

fn choose(
    program: &'static Program,
    choice: BuilderChoice,
    arch: Arch,
    tools: &Toolchain,
) -> Result<Builder, Failure> {
    const INSTALL: &str = "`pip install cargo-zigbuild ziglang` installs it";
    let (target, host) = (arch.target(), &tools.host);
    if !tools.has_target {
        let hint = format!(
            "run `rustup target add {target}`, or without rustup, install it as Rust was installed; or {}",
            program.alternative
        );
        return Err(Failure::new(format!("Rust's target `{target}` is not installed")).hint(hint));
    }
    match choice {
        BuilderChoice::Auto | BuilderChoice::Zigbuild if tools.has_zigbuild && tools.has_zig => {
            Ok(Builder::Zigbuild)
        }
        BuilderChoice::Auto | BuilderChoice::Cargo if host == target => Ok(Builder::Cargo),
        BuilderChoice::Cargo => {
            let message = format!("`cargo build` builds for {host}, but AWS needs `{target}`");
            Err(Failure::new(message).hint(format!("build with `--builder zigbuild`; {INSTALL}")))
        }
        _ if tools.has_zigbuild => {
            Err(Failure::new("`cargo zigbuild` needs zig, which is not installed")
                .hint("`pip install ziglang` installs it"))
        }
        _ => {
            let message = format!(
                "building for `{target}` on {host} needs `cargo-zigbuild`, which is not installed"
            );
            Err(Failure::new(message).hint(format!("{INSTALL}; or {}", program.alternative)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::FUNCTION, *};

    fn toolchain(tools: &str) -> Toolchain {
        let mac = tools.contains("mac").then_some("aarch64-apple-darwin");
        Toolchain {
            host: mac.unwrap_or("x86_64-unknown-linux-gnu").to_owned(),
            has_target: !tools.contains("no-target"),
            has_zigbuild: tools.contains("zigbuild"),
            has_zig: tools.contains("ziglang"),
        }
    }

    #[test]
    fn builder_follows_from_choice_and_tools() {
        use BuilderChoice::{Auto, Cargo, Zigbuild};
        let no_zigbuild = Err("needs `cargo-zigbuild`, which is not installed");
        let no_target = Err("rustup target add aarch64-unknown-linux-gnu");
        for (choice, arch, tools, expected) in [
            (Auto, Arch::X86_64, "", Ok(Builder::Cargo)),
            (Auto, Arch::X86_64, "zigbuild", Ok(Builder::Cargo)),
            (Auto, Arch::X86_64, "zigbuild ziglang", Ok(Builder::Zigbuild)),
            (Auto, Arch::X86_64, "mac zigbuild ziglang", Ok(Builder::Zigbuild)),
            (Auto, Arch::X86_64, "mac", no_zigbuild),
            (Auto, Arch::Arm64, "", no_zigbuild),
            (Auto, Arch::Arm64, "no-target", no_target),
            (Zigbuild, Arch::X86_64, "", no_zigbuild),
            (Zigbuild, Arch::X86_64, "zigbuild", Err("pip install ziglang")),
            (Auto, Arch::Arm64, "zigbuild", Err("pip install ziglang")),
            (Zigbuild, Arch::Arm64, "zigbuild ziglang", Ok(Builder::Zigbuild)),
            (Cargo, Arch::X86_64, "zigbuild ziglang", Ok(Builder::Cargo)),
            (Cargo, Arch::Arm64, "zigbuild ziglang", Err("`cargo build` builds for")),
        ] {
            let chosen = choose(&FUNCTION, choice, arch, &toolchain(tools));
            match (&chosen, expected) {
                (Ok(builder), Ok(expected)) => {
                    assert_eq!(*builder, expected, "{choice:?} {arch:?} {tools:?}");
                }
                (Err(failure), Err(part)) => {
                    let text = format!("{failure} {}", failure.hint.as_deref().unwrap_or_default());
                    assert!(text.contains(part), "{text}");
                }
                _ => panic!("{choice:?} {arch:?} {tools:?}: {chosen:?}"),
            }
        }
    }

    #[test]
    fn command_is_shown_as_a_user_would_type_it() {
        let compiler = Compiler {
            program: &FUNCTION,
            source: PathBuf::new(),
            profile: "lambda".to_owned(),
            arch: Arch::X86_64,
            builder: Builder::Zigbuild,
        };
        assert_eq!(
            describe(&compiler.command()),
            "cargo zigbuild --package cbbootstrap-function --bin bootstrap --profile lambda --target x86_64-unknown-linux-gnu.2.34"
        );
    }
}
