//! The artifacts in this program. A build takes them from the files named by `CBBOOTSTRAP_FUNCTION_ZIP`,
//! `CBBOOTSTRAP_AGENT_ARCHIVE`, and the same names with `_ARM64`.

use super::{BuildArgs, Program, artifact::Artifact};
use crate::{failure::Failure, values::Arch};

macro_rules! bundled {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name))
    };
}

/// An artifact is empty if this program carries none.
const BUNDLED: [(Program, Arch, &[u8]); 4] = [
    (Program::Function, Arch::X86_64, bundled!("function-x86_64")),
    (Program::Function, Arch::Arm64, bundled!("function-arm64")),
    (Program::Agent, Arch::X86_64, bundled!("agent-x86_64")),
    (Program::Agent, Arch::Arm64, bundled!("agent-arm64")),
];

/// The artifact for this processor; `None` if there is none, or if the options ask for a build.
pub fn find(program: Program, args: &BuildArgs, arch: Arch) -> Result<Option<Artifact>, Failure> {
    if args.from_source || args.source.is_some() {
        return Ok(None);
    }
    let bundled = BUNDLED.iter().find(|bundled| bundled.0 == program && bundled.1 == arch);
    let Some((.., bytes)) = bundled.filter(|(.., bytes)| !bytes.is_empty()) else {
        return Ok(None);
    };
    let artifact = Artifact::check(program, bytes.to_vec(), arch);
    artifact.map(Some).map_err(|failure| {
        failure.about(format!("the {} that this program carries", program.name()))
    })
}
