//! From source to the artifact: [`source`] finds the sources, [`compiler`] builds them, [`elf`] looks at what came out
//! and [`artifact`] packs it. A program may carry it ready: [`bundle`].

pub mod artifact;
pub mod bundle;
pub mod compiler;
mod elf;
pub mod source;

use std::path::Path;

use anyhow::Context;

use crate::{printer::Step, settings::BuildArgs};
use artifact::Artifact;
use compiler::Compiler;

/// Where the function comes from, checked as far as can be without building.
#[derive(Debug)]
pub enum Function {
    /// A zip, read and found good.
    Ready(Artifact),
    /// Sources, and what can build them.
    Source(Compiler),
}

impl Function {
    /// Reads the zip that is named, takes the one that this program carries, or looks for the sources and the tools.
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

    /// The artifact, built if it must be.
    pub async fn artifact(self, step: &mut Step) -> anyhow::Result<Artifact> {
        match self {
            Self::Ready(artifact) => Ok(artifact),
            Self::Source(compiler) => {
                let (arch, built) = (compiler.arch(), compiler.build(step).await?);
                let bytes = std::fs::read(&built.path)
                    .with_context(|| format!("cannot read `{}`", built.path.display()))?;
                Artifact::pack(&bytes, arch)
            }
        }
    }
}
