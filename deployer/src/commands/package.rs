//! `package`: builds the function's zip, or the agent's archive.

use std::{fmt::Display, path::PathBuf};

use cbbootstrap_cli::files;
use serde::Serialize;

use crate::{
    cli::PackageArgs,
    deployment,
    fields::serialize_path,
    package::{AGENT, ArtifactSource, FUNCTION},
    printer::Printer,
    values::Arch,
};

#[derive(Debug, Serialize)]
struct PackageReport {
    #[serde(serialize_with = "serialize_path")]
    file: PathBuf,
    /// In bytes.
    size: usize,
    sha256: String,
    arch: Arch,
}

impl Display for PackageReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, size, sha256, arch } = self;
        write!(f, "{}: {size} bytes, {arch}, sha256 {sha256}", file.display())
    }
}

pub async fn run(args: PackageArgs, printer: &Printer) -> anyhow::Result<()> {
    let program = if args.agent { &AGENT } else { &FUNCTION };
    let source = ArtifactSource::find(program, None, &args.build).await?;
    let artifact = deployment::build(source, printer).await?;
    let file = args.out.unwrap_or_else(|| program.file.into());
    let is_on_stdout = files::replace(&file, &artifact.bytes, "--out")?;
    let report = PackageReport {
        file,
        size: artifact.bytes.len(),
        sha256: artifact.sha256,
        arch: args.build.arch,
    };
    if is_on_stdout {
        printer.message(report);
        return Ok(());
    }
    printer.result(&report)
}
