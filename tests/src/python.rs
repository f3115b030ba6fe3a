//! The Python programs that the tests use, in a virtual environment under `target/`, made on first use.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::programs;

const REQUIREMENTS: &str = include_str!("../requirements.txt");

/// The environment's directory of programs.
pub fn bin() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let mut hash = DefaultHasher::new();
        REQUIREMENTS.hash(&mut hash);
        let directory = programs::target().join(format!("python-{:016x}", hash.finish()));
        // Test programs may run side by side; one makes it, the others wait.
        let lock = File::create(directory.with_extension("lock"))
            .expect("the target directory can be written");
        lock.lock().expect("files can be locked");
        let complete = directory.join("complete");
        if !complete.exists() {
            let _ = fs::remove_dir_all(&directory);
            run(Command::new("python3").args(["-m", "venv"]).arg(&directory));
            let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/requirements.txt");
            let pip = [
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
                requirements,
            ];
            run(Command::new(directory.join("bin/python")).args(pip));
            fs::write(complete, "").expect("the target directory can be written");
        }
        directory.join("bin")
    })
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} failed; Python 3.10 or newer with venv is needed\n{said}"
    );
}
