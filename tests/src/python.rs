//! Python programs in a virtual environment under `target/`, created on first use.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::programs;

/// The environment's directory of programs.
pub fn bin() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/requirements.txt");
        environment(Path::new(requirements))
    })
}

/// The directory of its packages, which other versions of Python can use as well.
pub fn packages() -> PathBuf {
    let libraries = bin().with_file_name("lib");
    let versions = fs::read_dir(libraries).expect("the environment is complete");
    let mut packages = versions.flatten().map(|version| version.path().join("site-packages"));
    packages.find(|packages| packages.exists()).expect("the environment has packages")
}

/// The directory of programs of an environment with the packages that this file names.
pub fn environment(requirements: &Path) -> PathBuf {
    let packages = fs::read_to_string(requirements).expect("the requirements can be read");
    let mut hash = DefaultHasher::new();
    // An environment cannot be moved.
    (packages, programs::target()).hash(&mut hash);
    let directory = programs::target().join(format!("python-{:016x}", hash.finish()));
    // Other test programs may run at the same time.
    let lock = File::create(directory.with_extension("lock"))
        .expect("the target directory can be written");
    lock.lock().expect("files can be locked");
    let complete = directory.join("complete");
    if !complete.exists() {
        let _ = fs::remove_dir_all(&directory);
        run(Command::new("python3").args(["-m", "venv"]).arg(&directory));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        run(Command::new(directory.join("bin/python")).args(pip).arg(requirements));
        fs::write(complete, "").expect("the target directory can be written");
    }
    directory.join("bin")
}

fn run(command: &mut Command) {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} failed; Python 3.10 or newer with venv is needed\n{said}"
    );
}
