//! From source to the artifact: [`source`] finds the sources, [`compiler`] builds them, [`elf`] checks the executable and
//! [`artifact`] packs it, for a node by [`agent`]. This program may carry the artifact.

mod agent;
pub mod artifact;
pub mod compiler;
mod elf;
mod options;
pub mod source;

use std::path::Path;

use anyhow::Context;
use tokio::task::spawn_blocking;

pub use options::{BuildArgs, BuilderChoice};

use crate::{failure::Failure, printer::Step, values::Arch};
use artifact::Artifact;
use compiler::Compiler;

/// A program that runs in AWS.
#[derive(Debug)]
pub struct Program {
    /// In messages.
    pub name: &'static str,
    package: &'static str,
    executable: &'static str,
    /// The artifact, as `package` writes it by default.
    pub file: &'static str,
    /// How the artifact's file name ends.
    pub extension: &'static str,
    pub content_type: &'static str,
    /// What to do without the sources or the tools to build it.
    pub alternative: &'static str,
    /// How to get an artifact.
    hint: &'static str,
    /// The command that builds one with any of the tools.
    package_command: &'static str,
    pack: fn(&[u8]) -> anyhow::Result<Vec<u8>>,
    /// The executable in an artifact, or what is wrong with the artifact.
    unpack: fn(&[u8]) -> Result<Vec<u8>, String>,
    /// The artifacts in this program for x86_64 and arm64, empty if it carries none. A build takes them from the files named by
    /// `CBBOOTSTRAP_FUNCTION_ZIP`, `CBBOOTSTRAP_AGENT_ARCHIVE`, and the same names with `_ARM64`.
    bundled: [&'static [u8]; 2],
}

macro_rules! bundled {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name))
    };
}

pub static FUNCTION: Program = Program {
    name: "function",
    package: "cbbootstrap-function",
    executable: artifact::BOOTSTRAP,
    file: "bootstrap.zip",
    extension: "zip",
    content_type: "application/zip",
    alternative: "pass a zip to `deploy` with `--function-zip FILE`",
    hint: "`cbbootstrap package --out FILE` builds a valid one",
    package_command: "cbbootstrap package",
    pack: artifact::zip,
    unpack: artifact::unzip,
    bundled: [bundled!("function-x86_64"), bundled!("function-arm64")],
};

pub static AGENT: Program = Program {
    name: "agent",
    package: "cbbootstrap-agent",
    executable: "cbbootstrap-agent",
    file: "cbbootstrap-agent.tar.gz",
    extension: "tar.gz",
    content_type: "application/gzip",
    alternative: "pass an archive to `launch` with `--agent FILE`",
    hint: "`cbbootstrap package --agent` writes a valid one; or omit `--agent` to build it from source",
    package_command: "cbbootstrap package --agent",
    pack: agent::archive,
    unpack: agent::executable,
    bundled: [bundled!("agent-x86_64"), bundled!("agent-arm64")],
};

impl Program {
    /// The artifact in this program; `None` if there is none, or if the options ask for a build.
    fn bundled(&'static self, args: &BuildArgs) -> Result<Option<Artifact>, Failure> {
        let [x86_64, arm64] = self.bundled;
        let bytes = if args.arch == Arch::Arm64 { arm64 } else { x86_64 };
        if bytes.is_empty() || args.from_source || args.source.is_some() {
            return Ok(None);
        }
        let artifact = Artifact::check(self, bytes.to_vec(), args.arch);
        artifact.map(Some).map_err(|failure| {
            failure.about(format!("the {} that this program carries", self.name))
        })
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
        program: &'static Program,
        file: Option<&Path>,
        args: &BuildArgs,
    ) -> anyhow::Result<Self> {
        // Unpacking and hashing take some tens of milliseconds, in which calls to AWS can be made.
        let (file, own_args) = (file.map(Path::to_owned), args.clone());
        let ready = spawn_blocking(move || match file {
            Some(file) => Artifact::read(program, &file, own_args.arch).map(Some),
            None => Ok(program.bundled(&own_args)?),
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
