//! From source to the artifact: [`source`] finds the sources, [`compiler`] builds them, [`elf`] checks the executable and
//! [`artifact`] packs it. A program may carry the artifact: [`bundle`].

pub mod artifact;
pub mod bundle;
pub mod compiler;
mod elf;
mod options;
pub mod source;

use std::path::Path;

use anyhow::Context;

pub use options::{BuildArgs, BuilderChoice};

use crate::{printer::Step, values::Arch};
use artifact::Artifact;
use compiler::Compiler;

/// Where the function comes from, checked as far as possible without building.
#[derive(Debug)]
pub enum FunctionSource {
    Ready(Artifact),
    Source(Compiler),
}

impl FunctionSource {
    /// Reads this zip, or takes the one that this program carries, or finds the sources and the tools.
    pub async fn find(zip: Option<&Path>, args: &BuildArgs) -> anyhow::Result<Self> {
        let arch = args.arch;
        if let Some(zip) = zip {
            return Ok(Self::Ready(Artifact::read(zip, arch)?));
        }
        match bundle::find(args, arch)? {
            Some(artifact) => Ok(Self::Ready(artifact)),
            None => Ok(Self::Source(Compiler::find(args).await?)),
        }
    }

    pub fn arch(&self) -> Arch {
        match self {
            Self::Ready(artifact) => artifact.arch,
            Self::Source(compiler) => compiler.arch,
        }
    }

    /// Builds the artifact unless it is ready.
    pub async fn artifact(self, step: &mut Step) -> anyhow::Result<Artifact> {
        match self {
            Self::Ready(artifact) => Ok(artifact),
            Self::Source(compiler) => {
                let path = compiler.build(step).await?;
                let executable = std::fs::read(&path)
                    .with_context(|| format!("cannot read `{}`", path.display()))?;
                Artifact::pack(&executable, compiler.arch)
            }
        }
    }
}
