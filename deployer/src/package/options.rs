//! The options that say how the function is built.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::values::Arch;

/// How the function is built.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Function")]
pub struct BuildArgs {
    /// Processor of the function
    #[arg(long, value_enum, default_value_t)]
    pub arch: Arch,
    /// Build the function from source even if this program contains it; implied by `--source`
    #[arg(long = "build")]
    pub from_source: bool,
    /// Tool that builds the function
    #[arg(long, value_enum, default_value_t)]
    pub builder: BuilderChoice,
    /// Cargo profile: `lambda` is small and starts fast, `dev` builds fast
    #[arg(long, value_name = "NAME", default_value = "lambda")]
    pub cargo_profile: String,
    /// Directory of cbbootstrap's sources [default: found from the current directory or this program's]
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
}

/// The tools that can build the function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BuilderChoice {
    /// `zigbuild` if it is installed, otherwise `cargo` on a machine like Lambda's
    #[default]
    Auto,
    /// `cargo zigbuild`
    Zigbuild,
    /// `cargo build`, for which this machine's glibc must not be newer than Lambda's
    Cargo,
}
