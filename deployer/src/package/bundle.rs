//! The function's zips in this program. A build takes them from the files named by `CBBOOTSTRAP_FUNCTION_ZIP` and
//! `CBBOOTSTRAP_FUNCTION_ZIP_ARM64`.

use super::{BuildArgs, artifact::Artifact};
use crate::{failure::Failure, values::Arch};

const X86_64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/function-x86_64.zip"));
const ARM64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/function-arm64.zip"));

/// The zip for this processor; `None` if there is none, or if the options ask for a build.
pub fn find(args: &BuildArgs, arch: Arch) -> Result<Option<Artifact>, Failure> {
    if args.from_source || args.source.is_some() {
        return Ok(None);
    }
    let zip = match arch {
        Arch::X86_64 => X86_64,
        Arch::Arm64 => ARM64,
    };
    if zip.is_empty() {
        return Ok(None);
    }
    let artifact = Artifact::check(zip.to_vec(), arch);
    artifact.map(Some).map_err(|failure| failure.about("the function that this program carries"))
}
