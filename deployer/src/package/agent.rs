//! The agent's archive: a `tar.gz` of the executable and its systemd unit, which a node unpacks in `/`.

use std::io::{self, Read, Write};

use anyhow::Context;
use flate2::{Compression, GzBuilder, read::GzDecoder};
use tar::{Archive, Builder, EntryType, Header};

/// Where the unit expects the executable.
const EXECUTABLE: &str = "usr/local/bin/cbbootstrap-agent";

const UNIT: (&str, &str) = (
    "usr/lib/systemd/system/cbbootstrap-agent.service",
    include_str!("../../../examples/cbbootstrap-agent.service"),
);

/// The largest executable, in bytes. A release of the agent has under 4 MB, a debug build 100 MB.
const MAX_UNPACKED: u64 = 500 * 1024 * 1024;

/// Packs the executable. Owner, date and order are fixed.
pub fn archive(executable: &[u8]) -> anyhow::Result<Vec<u8>> {
    let gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    let mut tar = Builder::new(gzip);
    append(&mut tar, EXECUTABLE, 0o755, executable)
        .and_then(|()| append(&mut tar, UNIT.0, 0o644, UNIT.1.as_bytes()))
        .and_then(|()| tar.into_inner()?.finish())
        .context("cannot make the archive")
}

fn append(tar: &mut Builder<impl Write>, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)
}

/// The executable in an archive, or what is wrong with the archive.
pub fn executable(archive: &[u8]) -> Result<Vec<u8>, String> {
    let broken = |error| format!("this is not an archive of the agent ({error})");
    let mut archive = Archive::new(GzDecoder::new(archive));
    let mut executable = None;
    // All of it is read, so that an incomplete archive is refused.
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if entry.path().is_ok_and(|path| path.ends_with(EXECUTABLE)) {
            let mut bytes = Vec::new();
            entry.by_ref().take(MAX_UNPACKED).read_to_end(&mut bytes).map_err(broken)?;
            executable = Some(bytes);
        }
    }
    executable.ok_or_else(|| format!("the archive has no file `{EXECUTABLE}`"))
}

#[cfg(test)]
mod tests {
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn an_archive_holds_executable_and_unit() {
        let packed = archive(b"agent").unwrap();
        assert_eq!(packed, archive(b"agent").unwrap());
        assert_eq!(executable(&packed).unwrap(), b"agent");
        assert!(UNIT.1.contains(&format!("\nExecStart=/{EXECUTABLE} ")));
    }

    #[test]
    fn other_files_are_refused() {
        assert!(executable(b"PK").unwrap_err().contains("not an archive"));
        let bytes: Vec<_> = (0..1_000_u32).flat_map(|i| (i * i).to_be_bytes()).collect();
        let whole = archive(&bytes).unwrap();
        for length in [whole.len() / 2, whole.len() - 100] {
            let refused = executable(&whole[..length]).map(|bytes| bytes.len());
            assert!(refused.unwrap_err().contains("not an archive"), "{length}");
        }
        let empty = Builder::new(GzBuilder::new().write(Vec::new(), Compression::fast()));
        let empty = empty.into_inner().and_then(GzEncoder::finish).unwrap();
        assert!(executable(&empty).unwrap_err().contains("no file"));
    }
}
