//! Takes the function's zips into the program, where the environment names some: see `src/package/bundle.rs`.

use std::{env, fs, path::Path};

/// Each processor's name, and the variable that names its zip.
const ZIPS: [(&str, &str); 2] =
    [("x86_64", "CBBOOTSTRAP_FUNCTION_ZIP"), ("arm64", "CBBOOTSTRAP_FUNCTION_ZIP_ARM64")];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let directory = env::var_os("OUT_DIR").expect("cargo sets it");
    for (arch, variable) in ZIPS {
        println!("cargo::rerun-if-env-changed={variable}");
        let zip = env::var_os(variable).filter(|file| !file.is_empty());
        let zip = zip.map(|file| {
            println!("cargo::rerun-if-changed={}", Path::new(&file).display());
            let bytes = fs::read(&file).unwrap_or_else(|error| {
                panic!("{variable}: cannot read `{}`: {error}", Path::new(&file).display())
            });
            assert!(
                bytes.starts_with(b"PK\x03\x04"),
                "{variable}: `{}` is not a zip; `cbbootstrap package --out FILE` builds one",
                Path::new(&file).display()
            );
            bytes
        });
        // Empty where there is none.
        let path = Path::new(&directory).join(format!("function-{arch}.zip"));
        fs::write(path, zip.unwrap_or_default()).expect("OUT_DIR can be written");
    }
}
