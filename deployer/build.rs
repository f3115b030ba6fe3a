//! Takes the artifacts into the program that the environment names: see `src/package/bundle.rs`.

use std::{env, fs, path::Path};

/// Each artifact's name, the variable that names its file, how the file begins, and the command that makes it.
const ARTIFACTS: [(&str, &str, &[u8]); 4] = [
    ("function-x86_64", "CBBOOTSTRAP_FUNCTION_ZIP", ZIP),
    ("function-arm64", "CBBOOTSTRAP_FUNCTION_ZIP_ARM64", ZIP),
    ("agent-x86_64", "CBBOOTSTRAP_AGENT_ARCHIVE", GZIP),
    ("agent-arm64", "CBBOOTSTRAP_AGENT_ARCHIVE_ARM64", GZIP),
];

const ZIP: &[u8] = b"PK\x03\x04";
const GZIP: &[u8] = b"\x1f\x8b";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let directory = env::var_os("OUT_DIR").expect("cargo sets it");
    for (name, variable, begin) in ARTIFACTS {
        println!("cargo::rerun-if-env-changed={variable}");
        let artifact = env::var_os(variable).filter(|file| !file.is_empty());
        let artifact = artifact.map(|file| {
            let file = Path::new(&file);
            println!("cargo::rerun-if-changed={}", file.display());
            let bytes = fs::read(file).unwrap_or_else(|error| {
                panic!("{variable}: cannot read `{}`: {error}", file.display())
            });
            assert!(
                bytes.starts_with(begin),
                "{variable}: `{}` is not a {name} that `cbbootstrap package` wrote",
                file.display()
            );
            bytes
        });
        // Empty where there is none.
        fs::write(Path::new(&directory).join(name), artifact.unwrap_or_default())
            .expect("OUT_DIR can be written");
    }
}
