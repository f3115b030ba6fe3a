//! The artifact: an archive that holds an executable, and its SHA-256. The function's is a zip with `bootstrap`.

use std::{
    fs::File,
    io::{Cursor, Read, Write},
    path::Path,
};

use anyhow::Context;
use cbbootstrap_cli::files;
use sha2::{Digest, Sha256};
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter, write::SimpleFileOptions};

use super::{Program, elf};
use crate::{failure::Failure, values::Arch};

/// The name of the executable that Lambda's `provided` runtimes start.
pub const BOOTSTRAP: &str = "bootstrap";

/// Lambda's limit for an unpacked function, in bytes: 250 MB.
const MAX_UNPACKED: u64 = 250 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct Artifact {
    pub program: &'static Program,
    pub bytes: Vec<u8>,
    /// Of the bytes, in lower-case hexadecimal.
    pub sha256: String,
    pub arch: Arch,
}

impl Artifact {
    /// Packs an executable for Amazon Linux 2023 on this processor. The same executable always gives the same bytes: names, dates,
    /// modes and order are fixed.
    pub fn pack(program: &'static Program, executable: &[u8], arch: Arch) -> anyhow::Result<Self> {
        elf::check(program, executable, arch)?;
        Ok(Self::new(program, (program.pack)(executable)?, arch))
    }

    pub fn read(program: &'static Program, path: &Path, arch: Arch) -> anyhow::Result<Self> {
        let bytes = File::open(path)
            .and_then(|file| files::read_from(file, MAX_UNPACKED))
            .map_err(|error| {
                Failure::new(format!("cannot read `{}`: {error}", path.display()))
                    .hint(program.hint)
            })?;
        let checked = Self::check(program, bytes, arch);
        Ok(checked.map_err(|failure| failure.about(format!("`{}`", path.display())))?)
    }

    /// Checks the archive's executable.
    pub fn check(program: &'static Program, bytes: Vec<u8>, arch: Arch) -> Result<Self, Failure> {
        let artifact = Self::new(program, bytes, arch);
        elf::check(program, &artifact.executable()?, arch)?;
        Ok(artifact)
    }

    fn new(program: &'static Program, bytes: Vec<u8>, arch: Arch) -> Self {
        let sha256 = hex::encode(Sha256::digest(&bytes));
        Self { program, bytes, sha256, arch }
    }

    fn executable(&self) -> Result<Vec<u8>, Failure> {
        let executable = (self.program.unpack)(&self.bytes);
        executable.map_err(|reason| Failure::new(reason).hint(self.program.hint))
    }
}

pub fn zip(executable: &[u8]) -> anyhow::Result<Vec<u8>> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(9))
        .last_modified_time(DateTime::DEFAULT)
        .unix_permissions(0o755);
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file(BOOTSTRAP, options).context("cannot make the zip")?;
    writer.write_all(executable).context("cannot make the zip")?;
    Ok(writer.finish().context("cannot make the zip")?.into_inner())
}

/// The executable in a function's zip, or what is wrong with the zip.
pub fn unzip(zip: &[u8]) -> Result<Vec<u8>, String> {
    let mut archive = ZipArchive::new(Cursor::new(zip))
        .map_err(|error| format!("this is not a zip ({error})"))?;
    let mut entry = archive
        .by_name(BOOTSTRAP)
        .map_err(|_| format!("the zip has no file `{BOOTSTRAP}` at its root"))?;
    if entry.unix_mode().is_some_and(|mode| mode & 0o111 == 0) {
        return Err(format!("`{BOOTSTRAP}` in the zip is not executable"));
    }
    if entry.size() > MAX_UNPACKED {
        return Err(format!("`{BOOTSTRAP}` in the zip is over Lambda's 250 MB"));
    }
    let mut executable = Vec::new();
    let read = entry.by_ref().take(MAX_UNPACKED).read_to_end(&mut executable);
    read.map_err(|error| format!("the zip is damaged ({error})"))?;
    Ok(executable)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{super::FUNCTION, *};

    fn this_machine() -> Option<Arch> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Arch::X86_64),
            "aarch64" => Some(Arch::Arm64),
            _ => None,
        }
    }

    fn executable() -> Vec<u8> {
        std::fs::read("/bin/sh").expect("every Linux has it")
    }

    fn zip(name: &str, mode: u32) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().unix_permissions(mode);
        writer.start_file(name, options).expect("memory takes it");
        writer.write_all(&executable()).expect("memory takes it");
        writer.finish().expect("memory takes it").into_inner()
    }

    #[test]
    fn the_same_executable_gives_the_same_zip() {
        let Some(arch) = this_machine() else {
            return;
        };
        let (executable, directory) = (executable(), tempfile::tempdir().unwrap());
        let [one, two] = [(); 2].map(|()| Artifact::pack(&FUNCTION, &executable, arch).unwrap());
        assert!(one.bytes == two.bytes);
        assert_eq!((one.sha256.len(), &one.sha256), (64, &two.sha256));

        let path = directory.path().join("a.zip");
        std::fs::write(&path, &one.bytes).unwrap();
        let read = Artifact::read(&FUNCTION, &path, arch).unwrap();
        assert_eq!(read.sha256, one.sha256);
        let unpacked = read.executable().unwrap();
        assert!(unpacked == executable);
    }

    #[test]
    fn bad_zips_are_refused_with_their_names() {
        let Some(arch) = this_machine() else {
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bad.zip");
        let mut damaged = zip("bootstrap", 0o755);
        damaged[200..400].fill(0xff);
        for (bytes, reason) in [
            (b"not a zip".to_vec(), "this is not a zip"),
            (Vec::new(), "this is not a zip"),
            (zip("main", 0o755), "has no file `bootstrap`"),
            (zip("bin/bootstrap", 0o755), "has no file `bootstrap`"),
            (zip("bootstrap", 0o644), "is not executable"),
            (damaged, "is damaged"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", Artifact::read(&FUNCTION, &path, arch).unwrap_err());
            assert!(error.contains("bad.zip") && error.contains(reason), "{error}");
        }
        File::create(&path).unwrap().set_len(MAX_UNPACKED + 1).unwrap();
        let error = Artifact::read(&FUNCTION, &path, arch).unwrap_err().to_string();
        assert!(error.contains("it has more than 250 MiB"), "{error}");
        let error =
            Artifact::read(&FUNCTION, Path::new("no/such.zip"), arch).unwrap_err().to_string();
        assert!(error.contains("cannot read `no/such.zip`"), "{error}");
    }
}
