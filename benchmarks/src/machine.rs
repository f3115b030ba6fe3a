//! What was measured on, and with what.

use std::{fs, path::Path, process::Command, thread::available_parallelism};

/// The processor, how many of it, and the system.
pub fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let cores = available_parallelism().map_or(1, usize::from);
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or(std::env::consts::OS, |name| name.trim_matches('"'));
    format!("{cores} cores of {model}, {system}")
}

/// What a program says of its version: its first line; or that it says nothing.
pub fn version(program: impl AsRef<Path>, args: &[&str]) -> String {
    let program = program.as_ref();
    let output = Command::new(program).args(args).output();
    let said = output.map(|output| [output.stdout, output.stderr].concat());
    let said = said.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    match said.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => line.trim().to_owned(),
        None => format!("{} of unknown version", program.display()),
    }
}

/// The compiler's version.
pub fn rust() -> String {
    let version = version("rustc", &["--version"]);
    let words: Vec<_> = version.split(' ').take(2).collect();
    words.join(" ")
}
