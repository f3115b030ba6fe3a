//! `package`: builds the function's zip.

use std::{fmt::Display, path::PathBuf};

use serde::Serialize;

use crate::{
    cli::PackageArgs,
    deployment,
    failure::Failure,
    package::{ArtifactSource, Program},
    printer::Printer,
    values::Arch,
};

#[derive(Debug, Serialize)]
struct PackageReport {
    file: PathBuf,
    /// In bytes.
    size: usize,
    function_sha256: String,
    arch: Arch,
}

impl Display for PackageReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, size, function_sha256, arch } = self;
        write!(f, "{}: {size} bytes, {arch}, sha256 {function_sha256}", file.display())
    }
}

/// Builds the zip and writes it.
pub async fn run(args: PackageArgs, printer: &Printer) -> anyhow::Result<()> {
    let function = ArtifactSource::find(Program::Function, None, &args.build).await?;
    let artifact = deployment::build(function, printer).await?;
    write_whole(&args.out, &artifact.bytes).map_err(|error| {
        Failure::new(format!("cannot write `{}`: {error}", args.out.display()))
            .hint("choose another file with `--out`")
    })?;
    printer.result(&PackageReport {
        file: args.out,
        size: artifact.bytes.len(),
        function_sha256: artifact.sha256,
        arch: args.build.arch,
    })
}

/// Replaces the file in one step, so that nobody reads an incomplete one.
fn write_whole(path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    // By default only its owner can read a temporary file; the umask applies to this mode.
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(directory.unwrap_or_else(|| ".".as_ref()))?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.persist(path)?;
    Ok(())
}
