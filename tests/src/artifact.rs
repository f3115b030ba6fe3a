//! The function's zip, built as for AWS, and zips that are wrong in one way.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::{
    cli::{Ended, User},
    programs, python,
};

/// Someone who has the tools to cross-build.
fn builder() -> User {
    // Zig keeps what it builds; a home of its own would have it do that each time.
    let cache = programs::target().join("zig-cache").display().to_string();
    User::default()
        .with_programs(python::bin())
        .with("ZIG_GLOBAL_CACHE_DIR", &cache)
        .with("ZIG_LOCAL_CACHE_DIR", &cache)
        .with("XDG_CACHE_HOME", &cache)
}

/// The zip that [`package`] builds, once for all tests.
pub fn zip() -> &'static Path {
    static ZIP: OnceLock<PathBuf> = OnceLock::new();
    ZIP.get_or_init(|| {
        let path = programs::target().join(format!("function-{}.zip", std::process::id()));
        package(&path).ended_with(0);
        let shared = programs::target().join("function.zip");
        fs::rename(&path, &shared).expect("the target directory can be written");
        shared
    })
}

/// Runs `package`: a cross-build without the optimisations that take minutes.
pub fn package(out: &Path) -> Ended {
    package_from(&builder(), programs::workspace(), out)
}

fn package_from(user: &User, source: &Path, out: &Path) -> Ended {
    package_as("test-artifact", user, source, out)
}

fn package_as(profile: &str, user: &User, source: &Path, out: &Path) -> Ended {
    let (source, out) = (source.display().to_string(), out.display().to_string());
    user.run(&[
        "package",
        "--builder",
        "zigbuild",
        "--cargo-profile",
        profile,
        "--source",
        &source,
        "--out",
        &out,
        "--output",
        "json",
    ])
}

/// The zip as it is released, which takes minutes to build: once for each benchmark.
pub fn released_zip() -> PathBuf {
    let path = programs::target().join("released-function.zip");
    let (source, out) = (programs::workspace(), &path);
    package_as("lambda", &builder(), source, out).ended_with(0);
    path
}

/// The executable in it.
pub fn executable() -> Vec<u8> {
    executable_of(zip())
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

/// The zip of changed code: the same executable, one byte longer.
pub fn changed_zip(directory: &Path) -> String {
    let mut executable = executable();
    executable.push(0);
    zip_of(&directory.join("changed.zip"), "bootstrap", 0o755, &executable)
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
