//! How each function is built and started.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{Cursor, Write},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
};

use cbbootstrap_tests::{artifact, programs, python};
use serde_json::Value;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::Database;
use crate::machine;

/// A function that can be started.
#[derive(Debug)]
pub struct Function {
    pub name: &'static str,
    pub is_ours: bool,
    pub calls_database: bool,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// The working directory, which has the code.
    pub directory: PathBuf,
    /// The value of `_HANDLER`.
    pub handler: &'static str,
    /// The size of the executable, in bytes.
    pub binary: Option<u64>,
    /// The size of the zip, in bytes, if it contains most of the code.
    pub zip: Option<u64>,
    /// The variable that makes the function trust the database, and its file.
    pub trust: (&'static str, fn(&Database) -> PathBuf),
}

pub const COUNT: usize = 5;

/// Builds all functions, which takes many minutes the first time.
pub fn functions() -> [Function; COUNT] {
    [ours(), bare(), default_features(), in_python(), in_node()]
}

/// The versions of what the functions are built with.
pub fn versions() -> Vec<String> {
    let boto3 = ["-c", "import boto3; print('boto3', boto3.__version__)"];
    let node = machine::version("node", &["--version"]);
    vec![
        machine::version(python(), &["--version"]),
        machine::version(python(), &boto3),
        format!("Node {}", node.trim_start_matches('v')),
        format!("@aws-sdk/client-dynamodb {}", node_sdk()),
    ]
}

/// The released function.
pub fn ours() -> Function {
    let zip = artifact::released_zip();
    let directory = target("ours");
    let program = directory.join("bootstrap");
    let executable = artifact::executable_of(&zip);
    // A file that still runs cannot be overwritten.
    let _ = fs::remove_file(&program);
    fs::write(&program, &executable).expect("the target directory can be written");
    let executable_by_all = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&program, executable_by_all).expect("the target directory can be written");
    let zip = fs::metadata(zip).expect("the zip is there").len();
    Function {
        is_ours: true,
        zip: Some(zip),
        trust: ("SSL_CERT_FILE", Database::amazon),
        ..in_rust("cbbootstrap", program, directory)
    }
}

fn bare() -> Function {
    Function { calls_database: false, ..build("bare lambda_http, no database: the limit", "bare") }
}

fn default_features() -> Function {
    build("cbbootstrap, the SDK's default features", "default-features")
}

/// Builds a package of `benchmarks/functions`. Each is a separate workspace with its own features.
fn build(name: &'static str, package: &str) -> Function {
    let target = target(package);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .args(["build", "--release", "--quiet"])
        .current_dir(sources(package))
        .env("CARGO_TARGET_DIR", &target);
    // With these variables of `cargo bench`, each build would recompile everything.
    for (name, _) in std::env::vars_os() {
        let of_the_package = ["CARGO_MANIFEST_", "CARGO_PKG_"]
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix));
        if of_the_package {
            build.env_remove(name);
        }
    }
    run(&mut build);
    let directory = target.join("release");
    let program = directory.join("bootstrap");
    let executable = fs::read(&program).expect("it has been built");
    Function { zip: Some(zip_size("bootstrap", &executable)), ..in_rust(name, program, directory) }
}

fn in_rust(name: &'static str, program: PathBuf, directory: PathBuf) -> Function {
    let binary = fs::metadata(&program).expect("it has been built").len();
    Function {
        name,
        is_ours: false,
        calls_database: true,
        program,
        arguments: Vec::new(),
        directory,
        handler: "bootstrap",
        binary: Some(binary),
        zip: None,
        trust: ("SSL_CERT_FILE", Database::trusted),
    }
}

/// Python in an environment with boto3.
fn python() -> PathBuf {
    python::environment(&sources("python").join("requirements.txt")).join("python")
}

fn in_python() -> Function {
    let arguments = ["-B", "-m", "awslambdaric", "handler.handler"];
    Function {
        name: "Python, boto3",
        is_ours: false,
        calls_database: true,
        program: python(),
        arguments: arguments.map(str::to_owned).into(),
        directory: sources("python"),
        handler: "handler.handler",
        binary: None,
        zip: None,
        trust: ("AWS_CA_BUNDLE", Database::trusted),
    }
}

fn in_node() -> Function {
    let directory = bundle();
    let code = fs::read(directory.join("index.cjs")).expect("it has been bundled");
    let runtime = sources("node").join("runtime.mjs").display().to_string();
    Function {
        name: "Node, SDK v3, bundled",
        is_ours: false,
        calls_database: true,
        program: find_program("node"),
        arguments: vec![runtime],
        directory,
        handler: "index.handler",
        binary: None,
        zip: Some(zip_size("index.js", &code)),
        trust: ("NODE_EXTRA_CA_CERTS", Database::own_certificate),
    }
}

/// Bundles the JavaScript handler with the SDK into one file, as is usual for Lambda; returns its directory.
fn bundle() -> PathBuf {
    let files = ["package.json", "package-lock.json", ".npmrc", "index.mjs"];
    let contents =
        files.map(|file| fs::read(sources("node").join(file)).expect("the sources are there"));
    let mut hash = DefaultHasher::new();
    contents.hash(&mut hash);
    let packages = target(&format!("node-{:016x}", hash.finish()));
    let directory = packages.join("function");
    if !directory.join("index.cjs").exists() {
        for (file, content) in files.iter().zip(contents) {
            fs::write(packages.join(file), content).expect("the target directory can be written");
        }
        let install = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
        run(Command::new("npm").args(install).current_dir(&packages));
        let bundle = [
            "index.mjs",
            "--bundle",
            "--minify",
            "--platform=node",
            "--target=node20",
            "--outfile=function/index.cjs",
        ];
        let esbuild = packages.join("node_modules/.bin/esbuild");
        run(Command::new(esbuild).args(bundle).current_dir(&packages));
    }
    directory
}

fn node_sdk() -> String {
    let package = fs::read(sources("node").join("package.json")).expect("the sources are there");
    let package: Value = serde_json::from_slice(&package).expect("it is JSON");
    let version = package["dependencies"]["@aws-sdk/client-dynamodb"].as_str();
    version.expect("it needs the SDK").to_owned()
}

fn sources(name: &str) -> PathBuf {
    programs::workspace().join("benchmarks/functions").join(name)
}

/// A directory below `target/`, created if missing.
fn target(name: &str) -> PathBuf {
    let directory = programs::target().join("benchmarks").join(name);
    fs::create_dir_all(&directory).expect("the target directory can be written");
    directory
}

/// The path of a program, for a process with another `PATH`.
fn find_program(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|directory| directory.join(program));
    let place = places.find(|place| File::open(place).is_ok());
    place.unwrap_or_else(|| panic!("`{program}` is needed"))
}

/// The size of a zip with the compression of ours.
fn zip_size(name: &str, content: &[u8]) -> u64 {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(9));
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file(name, options).expect("it fits in memory");
    writer.write_all(content).expect("it fits in memory");
    let zip = writer.finish().expect("it fits in memory");
    zip.into_inner().len() as u64
}

fn run(command: &mut Command) {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed\n{said}");
}
