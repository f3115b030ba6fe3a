//! Prints the size of the code and the duration of its tests beside their limits: `just figures`.
//!
//! Production code is what the crates in [`PRODUCTION`] compile into the programs, comments and blank lines included. Items under
//! `#[cfg(test)]` do not count, and neither do the files of modules under it.

mod source;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::source::{Function, Kind, Source};

const PRODUCTION: [&str; 5] = ["protocol", "function", "cli", "deployer", "agent"];

fn main() -> Result<()> {
    let targets = read_targets()?;
    let mut all_sources = Vec::new();
    let mut total = 0;
    println!("production code, lines");
    for package in PRODUCTION {
        let mut lines = 0;
        for target in targets.iter().filter(|target| target.directory == package) {
            let sources = source::read_crate(&target.path, target.is_test())?;
            lines += sources.iter().map(|source| source.production_lines).sum::<usize>();
            all_sources.extend(sources);
        }
        println!("  {package:<30}{lines:>7}");
        total += lines;
    }
    for target in targets.iter().filter(|target| !PRODUCTION.contains(&target.directory.as_str())) {
        // Only their tests are of interest.
        all_sources.extend(source::read_crate(&target.path, true)?);
    }

    println!("limits");
    print_figure("production code, lines", total, 15_000, "");
    let files = all_sources
        .iter()
        .map(|source| (source.production_lines, source.path.display().to_string()));
    print_longest("longest file, lines", 500, files.collect());
    print_longest("longest function, lines", 80, functions(&all_sources, Kind::Production));
    print_longest("longest test, lines", 80, functions(&all_sources, Kind::Test));
    let programs =
        targets.iter().filter(|target| target.kind == "test" && target.directory == "tests");
    print_figure("end-to-end test programs", programs.count(), 3, "");
    print_figure("README.md, lines", fs::read_to_string("README.md")?.lines().count(), 160, "");
    print_duration("cargo test --workspace, s", "target/durations/test", 6 * 60);
    print_duration(".ci/run, s", "target/durations/ci", 18 * 60);
    Ok(())
}

fn print_figure(name: &str, value: usize, limit: usize, place: &str) {
    let verdict = if value <= limit { "" } else { "OVER" };
    println!("  {name:<30}{value:>7}  of {limit:>6}  {verdict:<4}  {place}");
}

/// Prints the largest value, and the places of all others that exceed the limit.
fn print_longest(name: &str, limit: usize, mut values: Vec<(usize, String)>) {
    values.sort_unstable_by(|a, b| b.cmp(a));
    for (number, (lines, place)) in values.iter().enumerate() {
        match number {
            0 => print_figure(name, *lines, limit, place),
            _ if *lines > limit => println!("  {:<30}{lines:>7}{:>19}{place}", "", ""),
            _ => break,
        }
    }
}

fn functions(sources: &[Source], kind: Kind) -> Vec<(usize, String)> {
    let of_kind = |source: &Source| {
        let functions = source.functions.iter().filter(|function| function.kind == kind);
        let place = |function: &Function| {
            (function.lines, format!("{}: {}", source.path.display(), function.name))
        };
        functions.map(place).collect::<Vec<_>>()
    };
    sources.iter().flat_map(of_kind).collect()
}

/// Prints what `scripts/timed` recorded.
fn print_duration(name: &str, record: &str, limit: usize) {
    match fs::read_to_string(record).ok().and_then(|record| {
        let (seconds, date) = record.trim().split_once(' ')?;
        Some((seconds.parse().ok()?, date.to_owned()))
    }) {
        Some((seconds, date)) => print_figure(name, seconds, limit, &date),
        None => println!("  {name:<30}      -  of {limit:>6}        not recorded"),
    }
}

/// A library, program, test or benchmark of the workspace.
struct Target {
    /// The package's directory, relative to the workspace.
    directory: String,
    kind: String,
    path: PathBuf,
}

impl Target {
    fn is_test(&self) -> bool {
        ["test", "bench", "example"].contains(&self.kind.as_str())
    }
}

fn read_targets() -> Result<Vec<Target>> {
    let cargo = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version=1", "--locked"])
        .output()?;
    ensure!(cargo.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&cargo.stderr));
    let metadata: Value = serde_json::from_slice(&cargo.stdout)?;
    let text = |value: &Value| {
        value.as_str().map(str::to_owned).context("cargo metadata has another format")
    };
    let list =
        |value: &Value| value.as_array().cloned().context("cargo metadata has another format");
    let root = text(&metadata["workspace_root"])?;
    std::env::set_current_dir(&root)?;
    let relative = |path: &str| Path::new(path).strip_prefix(&root).map(Path::to_owned);
    let mut targets = Vec::new();
    for package in list(&metadata["packages"])? {
        let manifest = relative(&text(&package["manifest_path"])?)?;
        let directory = manifest.parent().unwrap_or(Path::new("")).display().to_string();
        for target in list(&package["targets"])? {
            let path = relative(&text(&target["src_path"])?)?;
            targets.push(Target {
                directory: directory.clone(),
                kind: text(&target["kind"][0])?,
                path,
            });
        }
    }
    Ok(targets)
}
