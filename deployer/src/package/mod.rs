//! From source to the artifact: [`source`] finds the sources, [`compiler`] builds them, [`elf`] checks the executable and
//! [`artifact`] packs it, for a node by [`agent`]. This program may carry the artifact: [`bundle`].

mod agent;
pub mod artifact;
pub mod bundle;
pub mod compiler;
mod elf;
mod options;
pub mod source;

use std::path::Path;

use anyhow::Context;
use tokio::task::spawn_blocking;

pub use options::{BuildArgs, BuilderChoice};

use crate::{printer::Step, values::Arch};
use artifact::Artifact;
use compiler::Compiler;

/// A program that runs in AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Function,
    Agent,
}

impl Program {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Agent => "agent",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Function => "cbbootstrap-function",
            Self::Agent => "cbbootstrap-agent",
        }
    }

    fn executable(self) -> &'static str {
        match self {
            Self::Function => "bootstrap",
            Self::Agent => "cbbootstrap-agent",
        }
    }

    /// How the artifact's file name ends.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Function => "zip",
            Self::Agent => "tar.gz",
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Function => "application/zip",
            Self::Agent => "application/gzip",
        }
    }

    /// What to do without the sources or the tools to build it.
    pub fn alternative(self) -> &'static str {
        match self {
            Self::Function => "pass a zip with `--function-zip FILE`",
            Self::Agent => "pass an archive to `launch` with `--agent FILE`",
        }
    }

    /// How to get an artifact.
    fn hint(self) -> &'static str {
        match self {
            Self::Function => "`cbbootstrap package --out FILE` builds a valid one",
            Self::Agent => {
                "`cbbootstrap package --agent` writes a valid one; or omit `--agent` to build it from source"
            }
        }
    }
}

/// Where a program for AWS comes from, checked as far as possible without building.
#[derive(Debug)]
pub enum ArtifactSource {
    Ready(Artifact),
    Source(Compiler),
}

impl ArtifactSource {
    /// Reads this file, or takes the artifact that this program carries, or finds the sources and the tools.
    pub async fn find(
        program: Program,
        file: Option<&Path>,
        args: &BuildArgs,
    ) -> anyhow::Result<Self> {
        let arch = args.arch;
        // Unpacking and hashing take some tens of milliseconds, in which calls to AWS can be made.
        let (file, own_args) = (file.map(Path::to_owned), args.clone());
        let ready = spawn_blocking(move || match file {
            Some(file) => Artifact::read(program, &file, arch).map(Some),
            None => Ok(bundle::find(program, &own_args, arch)?),
        });
        match ready.await?? {
            Some(artifact) => Ok(Self::Ready(artifact)),
            None => Ok(Self::Source(Compiler::find(program, args).await?)),
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
                Artifact::pack(compiler.program, &executable, compiler.arch)
            }
        }
    }
}
