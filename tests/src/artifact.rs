//! The function's zip, built as for AWS, and zips that are wrong in one way.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::{
    cli::{Ended, User},
    programs, python,
};

/// A user with the tools to cross-build.
fn builder() -> User {
    // Shared, because Zig would otherwise rebuild its libraries each time.
    let cache = programs::target().join("zig-cache").display().to_string();
    User::default()
        .with_programs(python::bin())
        .with("ZIG_GLOBAL_CACHE_DIR", &cache)
        .with("ZIG_LOCAL_CACHE_DIR", &cache)
        .with("XDG_CACHE_HOME", &cache)
}

/// The zip that [`package`] builds, once for all tests.
pub fn zip() -> &'static str {
    static ZIP: OnceLock<String> = OnceLock::new();
    ZIP.get_or_init(|| make("function.zip", |path| drop(package(path).ended_with(0))))
}

/// The zip of changed code: the same executable, one byte longer.
pub fn changed_zip() -> &'static str {
    static ZIP: OnceLock<String> = OnceLock::new();
    ZIP.get_or_init(|| {
        let mut executable = executable();
        executable.push(0);
        make("changed-function.zip", |path| drop(zip_of(path, "bootstrap", 0o755, &executable)))
    })
}

/// A zip that deploys in no time, because its executable is nothing but a header. No function runs it.
pub fn small_zip() -> &'static str {
    small_zip_number(0)
}

/// One of 256 different zips like [`small_zip`].
pub fn small_zip_number(number: u8) -> &'static str {
    static ZIPS: [OnceLock<String>; 256] = [const { OnceLock::new() }; 256];
    ZIPS[usize::from(number)].get_or_init(|| {
        let name = format!("small-function-{number}.zip");
        let header = header(number);
        make(&name, |path| drop(zip_of(path, "bootstrap", 0o755, &header)))
    })
}

/// An executable for x86-64 without segments and sections.
fn header(number: u8) -> [u8; 65] {
    // 64 bits, little-endian, version 1.
    let mut header = [0; 65];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[16..21].copy_from_slice(&[2, 0, 62, 0, 1]);
    header[52] = 64;
    header[64] = number;
    header
}

/// Writes an archive of the agent whose executable is nothing but a header.
pub fn small_agent(path: &Path) {
    let root = tempfile::tempdir().expect("temporary directories can be made");
    let bin = root.path().join("usr/local/bin");
    fs::create_dir_all(&bin).expect("it is ours");
    fs::write(bin.join("cbbootstrap-agent"), header(0)).expect("it is ours");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--file"]).arg(path).arg("--directory").arg(root.path());
    assert!(tar.arg("usr").status().expect("`tar` can be run").success());
}

/// Makes a file under `target/`. Test programs may run side by side.
fn make(name: &str, write: impl FnOnce(&Path)) -> String {
    let path = programs::target().join(name);
    let new = path.with_extension(format!("{}.zip", std::process::id()));
    write(&new);
    fs::rename(&new, &path).expect("the target directory can be written");
    path.display().to_string()
}

/// Runs `package`: a cross-build without the optimizations that take minutes.
pub fn package(out: &Path) -> Ended {
    package_from(&builder(), programs::workspace(), out)
}

fn package_from(user: &User, source: &Path, out: &Path) -> Ended {
    package_as("test-artifact", "x86_64", user, source, out)
}

fn package_as(profile: &str, arch: &str, user: &User, source: &Path, out: &Path) -> Ended {
    let (source, out) = (source.display().to_string(), out.display().to_string());
    user.run(&[
        "package",
        "--builder",
        "zigbuild",
        "--cargo-profile",
        profile,
        "--arch",
        arch,
        "--source",
        &source,
        "--out",
        &out,
        "--output",
        "json",
    ])
}

/// Builds the zip for arm64.
pub fn package_for_arm64(out: &Path) -> Ended {
    package_as("test-artifact", "arm64", &builder(), programs::workspace(), out)
}

/// The zip as it is released, which takes minutes to build: once for each benchmark.
pub fn released_zip() -> PathBuf {
    let path = programs::target().join("released-function.zip");
    let (source, out) = (programs::workspace(), &path);
    package_as("lambda", "x86_64", &builder(), source, out).ended_with(0);
    path
}

/// The executable in it.
pub fn executable() -> Vec<u8> {
    executable_of(Path::new(zip()))
}

/// The executable that is built from a copy of the sources, with another home of cargo's.
pub fn executable_built_in(source: &Path, cargo_home: &Path) -> Vec<u8> {
    let user = builder().with("CARGO_HOME", cargo_home.display().to_string());
    let zip = source.join("function.zip");
    package_from(&user, source, &zip).ended_with(0);
    executable_of(&zip)
}

/// The executable in this zip.
pub fn executable_of(zip: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = File::open(zip).expect("the zip is there");
    let mut archive = ZipArchive::new(file).expect("it is a zip");
    let mut entry = archive.by_name("bootstrap").expect("`bootstrap` is in it");
    entry.read_to_end(&mut bytes).expect("it can be unpacked");
    bytes
}

/// A zip with one file in it.
pub fn zip_of(path: &Path, name: &str, mode: u32, content: &[u8]) -> String {
    let mut writer = ZipWriter::new(File::create(path).expect("a file can be made"));
    let options = SimpleFileOptions::default().unix_permissions(mode);
    writer.start_file(name, options).expect("a zip can be written");
    writer.write_all(content).expect("a zip can be written");
    writer.finish().expect("a zip can be written");
    path.display().to_string()
}
