//! The machine and the programs that a benchmark ran on.

use std::{fs, path::Path, process::Command, thread::available_parallelism};

/// The processor, the number of cores and the operating system.
pub fn machine() -> String {
    let value = |file, key| {
        let content = fs::read_to_string(file).unwrap_or_default();
        let mut lines = content.lines();
        lines.find_map(|line| {
            Some(line.strip_prefix(key)?.trim_matches([' ', '\t', ':', '=', '"']).to_owned())
        })
    };
    let model =
        value("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let system =
        value("/etc/os-release", "PRETTY_NAME").unwrap_or_else(|| std::env::consts::OS.to_owned());
    let cores = available_parallelism().map_or(1, usize::from);
    format!("{cores} cores of {model}, {system}")
}

/// The first line that a program prints.
pub fn version(program: impl AsRef<Path>, args: &[&str]) -> String {
    let program = program.as_ref();
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    match text.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => line.trim().to_owned(),
        None => format!("{} of unknown version", program.display()),
    }
}

/// The compiler's version.
pub fn rust() -> String {
    let version = version("rustc", &["--version"]);
    version.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
