//! The command line: what may be said, and how `--help` explains it.

use std::{net::IpAddr, num::NonZeroUsize, path::PathBuf};

use cbbootstrap_function::table::DEFAULT_TABLE_NAME;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde::Serialize;

const EXIT_STATUSES: &str = "\
Exit status:
  0  done, or nothing to do
  1  failed
  2  wrong usage
  3  the smoke test failed
  4  stopped by the user or a signal (a local deployment that is up ends with 0)
  5  the stack is busy, or in a state that needs a decision";

/// Deploys and operates the API that tells the nodes of a new Couchbase cluster which of them is the first.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_STATUSES, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum Command {
    /// Build the function and put the API up, in AWS or on this machine
    Deploy(Box<DeployArgs>),
    /// Show what `deploy` would change, and change nothing
    Plan(PlanArgs),
    /// Show the stack, the endpoint, the function and the table
    Status(StatusArgs),
    /// Test an endpoint: claims, joins, bad input
    ///
    /// It leaves the records of two clusters in the table, whose names begin with `cbbootstrap-smoke`.
    Smoke(SmokeArgs),
    /// Build the function's zip
    Package(PackageArgs),
    /// Delete the stack; the table stays unless told otherwise
    Destroy(DestroyArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Command {
    /// The form of the result.
    pub fn output(&self) -> Output {
        match self {
            Self::Deploy(args) => args.output.output,
            Self::Plan(args) => args.output.output,
            Self::Status(args) => args.output.output,
            Self::Smoke(args) => args.output.output,
            Self::Package(args) => args.output.output,
            Self::Destroy(args) => args.output.output,
            Self::Completions { .. } => Output::Text,
        }
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON document on stdout, and nothing else there.
    Json,
}

/// The form of the result.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// The form of the result on stdout; progress and messages go to stderr
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    pub output: Output,
}

/// Which AWS account and region.
#[derive(Debug, Args)]
#[command(next_help_heading = "AWS")]
pub struct AwsArgs {
    /// The AWS region; otherwise that of the environment or the profile
    #[arg(long, value_name = "REGION", value_parser = region_name)]
    pub region: Option<String>,
    /// The AWS profile; otherwise `AWS_PROFILE`, or the default credentials
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
}

/// Which stack.
#[derive(Debug, Args)]
pub struct StackArgs {
    /// The CloudFormation stack
    #[arg(long, value_name = "NAME", default_value = "cbbootstrap", value_parser = stack_name)]
    pub stack_name: String,
    #[command(flatten)]
    pub aws: AwsArgs,
}

/// Which table.
#[derive(Debug, Args)]
pub struct TableArgs {
    /// The DynamoDB table that keeps the clusters
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TABLE_NAME, value_parser = table_name)]
    pub table_name: String,
}

/// Which function: built from source, or a zip.
#[derive(Debug, Args)]
#[command(next_help_heading = "Function")]
pub struct FunctionArgs {
    /// Take this zip instead of building the function
    #[arg(long, value_name = "FILE")]
    pub function_zip: Option<PathBuf>,
    #[command(flatten)]
    pub build: BuildArgs,
}

/// How the function is built.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Function")]
pub struct BuildArgs {
    /// The function's processor
    #[arg(long, value_enum, default_value_t)]
    pub arch: Arch,
    /// What builds it
    #[arg(long, value_enum, default_value_t)]
    pub builder: BuilderChoice,
    /// The cargo profile: `lambda` is small and starts fast, `dev` is built fast
    #[arg(long, value_name = "NAME", default_value = "lambda")]
    pub cargo_profile: String,
    /// The directory of cbbootstrap's sources; otherwise found from the current directory or this program's
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
}

/// A processor that Lambda offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// Intel and AMD.
    #[default]
    #[serde(rename = "x86_64")]
    #[value(name = "x86_64")]
    X86_64,
    /// AWS Graviton.
    Arm64,
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        })
    }
}

/// What may build the function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BuilderChoice {
    /// The first of the following that is installed and can.
    #[default]
    Auto,
    /// `cargo zigbuild`
    Zigbuild,
    /// `cargo lambda build`
    CargoLambda,
    /// `cargo build`, on a host like Lambda's
    Cargo,
}

/// `deploy`
#[derive(Debug, Args)]
pub struct DeployArgs {
    /// Ask nothing
    #[arg(long, short)]
    pub yes: bool,
    /// Do not test the endpoint afterwards
    #[arg(long)]
    pub no_smoke: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub table: TableArgs,
    #[command(flatten)]
    pub stack: StackArgs,
    /// Upload the function to this bucket, which must exist; otherwise to one made for the purpose
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "AWS",
        value_parser = bucket_name
    )]
    pub bucket: Option<String>,
    #[command(flatten)]
    pub function: FunctionArgs,
    #[command(flatten)]
    pub local: LocalArgs,
}

/// `deploy --local`
#[derive(Debug, Args)]
#[command(next_help_heading = "On this machine")]
pub struct LocalArgs {
    /// Run the API on this machine, without an AWS account, until Ctrl-C
    #[arg(long, conflicts_with_all = [
        "stack_name", "region", "profile", "bucket", "arch", "builder", "cargo_profile"
    ])]
    pub local: bool,
    /// End after the smoke test
    #[arg(long, requires = "local")]
    pub exit: bool,
    /// The port; 0 picks one
    #[arg(long, value_name = "PORT", default_value_t = 8080, requires = "local")]
    pub port: u16,
    /// The address to listen on; `0.0.0.0` serves other machines, and anyone on them
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1",
        requires = "local"
    )]
    pub host: IpAddr,
    /// The directory that keeps the table; otherwise `cbbootstrap` in the user's data directory
    #[arg(long, value_name = "DIR", requires = "local")]
    pub data: Option<PathBuf>,
    /// The most function processes; otherwise as many as there are processor cores
    #[arg(long, value_name = "NUMBER", requires = "local")]
    pub concurrency: Option<NonZeroUsize>,
}

/// `plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub table: TableArgs,
    #[command(flatten)]
    pub stack: StackArgs,
    /// The bucket that `deploy` would be given
    #[arg(long, value_name = "NAME", help_heading = "AWS", value_parser = bucket_name)]
    pub bucket: Option<String>,
    #[command(flatten)]
    pub function: FunctionArgs,
}

/// `status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub stack: StackArgs,
}

/// `smoke`
#[derive(Debug, Args)]
pub struct SmokeArgs {
    /// The endpoint; otherwise that of the stack
    pub url: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub stack: StackArgs,
}

/// `package`
#[derive(Debug, Args)]
pub struct PackageArgs {
    /// Where to write the zip
    #[arg(long, value_name = "FILE", default_value = "bootstrap.zip")]
    pub out: PathBuf,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub build: BuildArgs,
}

/// `destroy`
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// Delete the stack's table and the record of every cluster, too
    #[arg(long)]
    pub delete_table: bool,
    /// Ask nothing
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    /// The DynamoDB table, where the stack that names it is gone already
    #[arg(long, value_name = "NAME", value_parser = table_name)]
    pub table_name: Option<String>,
    #[command(flatten)]
    pub stack: StackArgs,
}

/// `CloudFormation`'s rule for a stack's name.
fn stack_name(name: &str) -> Result<String, String> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if starts_well
        && name.len() <= 128
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    {
        Ok(name.to_owned())
    } else {
        Err(
            "a stack's name is at most 128 letters, digits and hyphens, and starts with a letter"
                .to_owned(),
        )
    }
}

/// S3's rule for a bucket's name.
fn bucket_name(name: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    if (3..=63).contains(&name.len()) && name.chars().all(good) {
        Ok(name.to_owned())
    } else {
        Err(
            "a bucket's name is 3 to 63 lower-case letters, digits, hyphens and dots, and no ARN"
                .to_owned(),
        )
    }
}

/// A region becomes a part of host names.
pub fn region_name(name: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.is_empty() && name.len() <= 63 && name.chars().all(good) {
        Ok(name.to_owned())
    } else {
        Err(
            "a region's name is lower-case letters, digits and hyphens, such as us-east-1"
                .to_owned(),
        )
    }
}

/// `DynamoDB`'s rule for a table's name.
fn table_name(name: &str) -> Result<String, String> {
    if (3..=255).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        Ok(name.to_owned())
    } else {
        Err("a table's name is 3 to 255 letters, digits, hyphens, underscores and dots".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names_follow_the_services_rules() {
        for (name, stack, table) in [
            ("cbbootstrap", true, true),
            ("cb-bootstrap", true, true),
            ("a", true, false),
            ("1stack", false, true),
            ("my_table.1", false, true),
            ("", false, false),
            ("a b", false, false),
            ("größe", false, false),
        ] {
            assert_eq!(stack_name(name).is_ok(), stack, "stack {name:?}");
            assert_eq!(table_name(name).is_ok(), table, "table {name:?}");
        }
        assert!(region_name("us-gov-west-1").is_ok() && region_name("no where").is_err());
        for (name, good) in [
            ("my-bucket.1", true),
            ("My Bucket", false),
            ("", false),
            ("arn:aws:s3:::x", false),
            ("a/b/c", false),
        ] {
            assert_eq!(bucket_name(name).is_ok(), good, "bucket {name:?}");
        }
        assert!(stack_name(&"s".repeat(129)).is_err());
        assert!(table_name(&"t".repeat(256)).is_err());
    }
}
