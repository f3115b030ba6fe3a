//! The command line: what may be said, and how `--help` explains it.

use std::{net::IpAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use cbbootstrap_cli::{
    CommandLine,
    command_line::Variables,
    console::{Output, OutputArgs},
    failure::Program,
    manuals::ManualCommand,
    values::duration,
};
use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::NonEmptyStringValueParser, error::ErrorKind,
};

use crate::{
    local::LogFormat,
    values::{
        Arch, Auth, account, bucket_name, host_name, pair, region_name, role_arn, stack_name,
        table_name, topic_arn,
    },
};

/// Deploys and operates the API that tells the nodes of a new Couchbase cluster which of them is the first.
#[derive(Debug, Parser)]
#[command(version, after_help = Program::Deployer.exit_help(), propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `--local` does not go with as an option, and does not mind as an environment variable.
const NOT_LOCAL: [&str; 5] = ["stack_name", "environment", "config", "bucket", "table_name"];

impl Cli {
    /// The command line, and the variables that stand in for options. Ends the program with clap's message if it is wrong.
    pub fn read() -> (Self, Variables) {
        Self::of(&CommandLine::new(Self::command()))
            .unwrap_or_else(|error| error.format(&mut Self::command()).exit())
    }

    fn of(line: &CommandLine) -> Result<(Self, Variables), clap::Error> {
        let parsed = line.parse()?;
        let mut command = &parsed.matches;
        while let Some((_, inner)) = command.subcommand() {
            command = inner;
        }
        if matches!(command.try_get_one("local"), Ok(Some(true)))
            && let Some(id) = NOT_LOCAL.iter().find(|id| parsed.is_typed(id))
        {
            let option = if *id == "environment" { "env" } else { id };
            let option = option.replace('_', "-");
            let message = format!("the argument '--local' cannot be used with '--{option}'");
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, message));
        }
        Ok((Self::from_arg_matches(&parsed.matches)?, parsed.variables))
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum Command {
    /// Build the function and put the API up, in AWS or on this machine
    Deploy(Box<DeployArgs>),
    /// Serve the API from this machine, over a database of its own or over a DynamoDB table
    Serve(Box<ServeArgs>),
    /// Show what `deploy` would change, and change nothing
    Plan(PlanArgs),
    /// Show the stack, the endpoint, the function and the table
    Status(StatusArgs),
    /// Show the function's log
    Logs(LogsArgs),
    /// Test an endpoint: claims, joins, bad input
    ///
    /// The names of the clusters that it claims begin with `cbbootstrap-smoke`; DynamoDB deletes them about 37 days later.
    Smoke(SmokeArgs),
    /// Check that an API answers at a URL: a health check for containers
    Ping(PingArgs),
    /// List, show and forget the clusters' records
    ///
    /// It works on the table itself, and asks for no cluster's secret: whoever may read the table may see the records.
    #[command(subcommand, disable_help_subcommand = true)]
    Cluster(ClusterCommand),
    /// Write the function's zip, built from source unless this program carries it
    Package(PackageArgs),
    /// Delete the stack; the table stays unless told otherwise
    Destroy(DestroyArgs),
    /// Write a `cbbootstrap.yaml` to fill in
    Init(InitArgs),
    /// Print the IAM policy that a deployment needs
    IamPolicy(IamPolicyArgs),
    #[command(flatten)]
    Manual(ManualCommand),
}

impl Command {
    /// The form of the result.
    pub fn output(&self) -> Output {
        match self {
            Self::Deploy(args) => args.output.output,
            Self::Serve(args) => args.output.output,
            Self::Plan(args) => args.output.output,
            Self::Status(args) => args.output.output,
            Self::Smoke(args) => args.output.output,
            Self::Cluster(command) => command.output(),
            Self::Package(args) => args.output.output,
            Self::Destroy(args) => args.output.output,
            Self::Logs(_)
            | Self::Ping(_)
            | Self::Init(_)
            | Self::IamPolicy(_)
            | Self::Manual(_) => Output::Text,
        }
    }
}

/// Which AWS account and region.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "AWS")]
pub struct AwsArgs {
    /// The AWS region; otherwise that of the environment, of `cbbootstrap.yaml` or of the profile
    #[arg(long, value_name = "REGION", value_parser = region_name)]
    pub region: Option<String>,
    /// The AWS profile; otherwise `AWS_PROFILE`, that of `cbbootstrap.yaml`, or the default credentials
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
}

/// Which of the environments in `cbbootstrap.yaml`.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// The environment in `cbbootstrap.yaml` that options not given here are taken from
    #[arg(long = "env", env = "CBBOOTSTRAP_ENV", value_name = "NAME")]
    pub environment: Option<String>,
    /// The file of environments [default: cbbootstrap.yaml, where there is one]
    #[arg(long, env = "CBBOOTSTRAP_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Which stack.
#[derive(Clone, Debug, Default, Args)]
pub struct StackArgs {
    /// The CloudFormation stack [default: cbbootstrap]
    #[arg(long, env = "CBBOOTSTRAP_STACK_NAME", value_name = "NAME", value_parser = stack_name)]
    pub stack_name: Option<String>,
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub aws: AwsArgs,
}

/// Where the function's zip goes.
#[derive(Clone, Debug, Default, Args)]
pub struct BucketArgs {
    /// Upload the function to this bucket, which must exist; otherwise to one made for the purpose
    #[arg(
        long,
        env = "CBBOOTSTRAP_BUCKET",
        value_name = "NAME",
        help_heading = "AWS",
        value_parser = bucket_name
    )]
    pub bucket: Option<String>,
}

/// Which table.
#[derive(Clone, Debug, Default, Args)]
pub struct TableArgs {
    /// The DynamoDB table that keeps the clusters [default: cb-bootstrap]
    #[arg(long, env = "CBBOOTSTRAP_TABLE_NAME", value_name = "NAME", value_parser = table_name)]
    pub table_name: Option<String>,
}

/// What is to stand in AWS, the function apart.
#[derive(Clone, Debug, Default, Args)]
pub struct TargetArgs {
    #[command(flatten)]
    pub table: TableArgs,
    #[command(flatten)]
    pub stack: StackArgs,
    #[command(flatten)]
    pub bucket: BucketArgs,
    /// Who may call the API [default: none]
    #[arg(long, value_enum, value_name = "WHO", help_heading = "Stack")]
    pub auth: Option<Auth>,
    /// Refuse calls without a cluster token; `--require-secret=false` accepts them again
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Stack"
    )]
    pub require_secret: Option<bool>,
    /// Refuse claims without a lease; `--require-lease=false` accepts them again
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Stack"
    )]
    pub require_lease: Option<bool>,
    /// A parameter of the stack's template, such as `MemorySize=512`
    #[arg(long = "parameter", value_name = "NAME=VALUE", help_heading = "Stack", value_parser = pair)]
    pub parameters: Vec<(String, String)>,
    /// A tag for the stack and all that is in it
    #[arg(long = "tag", value_name = "KEY=VALUE", help_heading = "Stack", value_parser = pair)]
    pub tags: Vec<(String, String)>,
    /// The role with which CloudFormation makes the changes; otherwise it uses these credentials
    #[arg(long, value_name = "ARN", help_heading = "Stack", value_parser = role_arn)]
    pub role_arn: Option<String>,
    /// An SNS topic that hears of the stack's events
    #[arg(long = "notification-arn", value_name = "ARN", help_heading = "Stack", value_parser = topic_arn)]
    pub notification_arns: Vec<String>,
    /// Protect the stack against deletion; `--protect=false` ends that
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Stack"
    )]
    pub protect: Option<bool>,
}

/// How long to wait for a stack that somebody else is changing.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct WaitArgs {
    /// Wait so long for a stack that somebody else is changing; 0s does not wait [default: 30m, and on a terminal it asks]
    #[arg(long, value_name = "TIME", help_heading = "Stack", value_parser = duration)]
    pub wait_for_stack: Option<Duration>,
}

/// Which function: built from source, or a zip.
#[derive(Debug, Args)]
#[command(next_help_heading = "Function")]
pub struct FunctionArgs {
    /// Take this zip instead of building the function
    #[arg(long, value_name = "FILE", conflicts_with = "from_source")]
    pub function_zip: Option<PathBuf>,
    #[command(flatten)]
    pub build: BuildArgs,
}

/// How the function is built.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Function")]
pub struct BuildArgs {
    /// The function's processor [default: x86_64]
    #[arg(long, value_enum)]
    pub arch: Option<Arch>,
    /// Build it from source, also where this program carries it ready; `--source` does as well
    #[arg(long = "build")]
    pub from_source: bool,
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

/// What may build the function.
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

/// `deploy`
#[derive(Debug, Args)]
pub struct DeployArgs {
    /// Ask nothing
    #[arg(long, short)]
    pub yes: bool,
    /// Do not test the endpoint afterwards
    #[arg(long)]
    pub no_smoke: bool,
    /// Replace only the function's code, not touching the stack: a matter of seconds
    #[arg(long, conflicts_with_all = [
        "express", "protect", "auth", "require_secret", "require_lease", "parameters", "tags", "notification_arns", "role_arn", "wait_for_stack",
        "no_rollback_alarm", "rollback_minutes"
    ])]
    pub code_only: bool,
    /// Let CloudFormation report completion before the resources serve traffic, and name no rollback alarm
    #[arg(long, help_heading = "Stack")]
    pub express: bool,
    /// Do not roll an update back when the alarm on failed requests goes off meanwhile
    #[arg(long, help_heading = "Stack")]
    pub no_rollback_alarm: bool,
    /// Go on watching that alarm so many minutes after an update
    #[arg(
        long,
        value_name = "MINUTES",
        default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=180),
        conflicts_with_all = ["no_rollback_alarm", "express"],
        help_heading = "Stack"
    )]
    pub rollback_minutes: u8,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub target: TargetArgs,
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
        "region", "profile", "auth", "require_secret", "require_lease", "parameters", "tags", "role_arn", "notification_arns", "protect", "wait_for_stack",
        "code_only", "express", "no_rollback_alarm", "rollback_minutes", "function_zip", "arch", "from_source", "builder",
        "cargo_profile", "source"
    ])]
    pub local: bool,
    /// End after the smoke test
    #[arg(long, requires = "local")]
    pub exit: bool,
    /// The port; 0 picks one
    #[arg(long, value_name = "PORT", default_value_t = 8080, requires = "local")]
    pub port: u16,
    /// The address to listen on; `0.0.0.0` serves other machines, and anyone on them
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", requires = "local")]
    pub host: IpAddr,
    /// The directory that keeps the clusters [default: `cbbootstrap` in your data directory]
    #[arg(long, value_name = "DIR", requires = "local")]
    pub data: Option<PathBuf>,
}

/// `serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The port; 0 picks one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// The address to listen on; `0.0.0.0` serves other machines, and anyone on them
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// The directory that keeps the clusters, on a local disk [default: `cbbootstrap` in your data directory]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Keep the clusters in this DynamoDB table instead, which any number of servers may share; `AWS_ENDPOINT_URL_DYNAMODB` names a
    /// database that is compatible
    #[arg(long, value_name = "NAME", value_parser = table_name, conflicts_with = "data")]
    pub table: Option<String>,
    /// The certificate of the server and those that signed it, in PEM; read again when the file changes
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Security")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Security")]
    pub tls_key: Option<PathBuf>,
    /// A name that requests may use for this server; with it, no other names but `localhost`. Without it, every name will do but on
    /// the loopback address
    #[arg(long = "allowed-host", value_name = "NAME", help_heading = "Security", value_parser = host_name)]
    pub allowed_hosts: Vec<String>,
    /// Refuse calls without a cluster token
    #[arg(long, help_heading = "Security")]
    pub require_secret: bool,
    /// Refuse claims without a lease
    #[arg(long, help_heading = "Security")]
    pub require_lease: bool,
    /// The most connections at once; others wait
    #[arg(long, value_name = "NUMBER", default_value = "10000", help_heading = "Operation")]
    pub max_connections: NonZeroUsize,
    /// How requests are logged on stderr, one line each
    #[arg(long, value_enum, value_name = "FORM", default_value_t, help_heading = "Operation")]
    pub log: LogFormat,
    /// Serve `GET /metrics` for Prometheus
    #[arg(long, help_heading = "Operation")]
    pub metrics: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub aws: AwsArgs,
}

/// `ping`
#[derive(Debug, Args)]
pub struct PingArgs {
    /// The API's URL
    pub url: String,
    /// The authority that signed the API's certificate, in PEM, beside those that the system trusts
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
}

/// `plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Exit with 2 when something would change, as `git diff --exit-code` does with 1
    #[arg(long)]
    pub exit_code: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub function: FunctionArgs,
}

/// `status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// First wait until a change of the stack that is under way has ended, and show its events
    #[arg(long)]
    pub wait: bool,
    /// Let CloudFormation find out whether somebody changed the stack's resources behind its back
    #[arg(long)]
    pub drift: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub stack: StackArgs,
}

/// `logs`
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on showing what is logged, until Ctrl-C
    #[arg(long, short)]
    pub follow: bool,
    /// Begin so long ago
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub since: Duration,
    /// Show only lines that hold this text
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    pub filter: Option<String>,
    #[command(flatten)]
    pub stack: StackArgs,
}

/// `init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The file to write, which must not exist
    #[arg(long, env = "CBBOOTSTRAP_CONFIG", value_name = "FILE", default_value = crate::config::FILE)]
    pub config: PathBuf,
}

/// `iam-policy`
#[derive(Debug, Args)]
pub struct IamPolicyArgs {
    /// What the policy is to allow
    #[arg(long = "for", value_name = "WHAT", value_enum, default_value_t)]
    pub policy_for: PolicyFor,
    /// The account's number [default: any account]
    #[arg(long, value_name = "NUMBER", value_parser = account)]
    pub account: Option<String>,
    /// Say what each permission is for, in place of the policy
    #[arg(long)]
    pub explain: bool,
    /// The role that `deploy` is told to give to CloudFormation; whoever deploys then needs much less
    #[arg(long, value_name = "ARN", value_parser = role_arn)]
    pub role_arn: Option<String>,
    #[command(flatten)]
    pub stack: StackArgs,
    #[command(flatten)]
    pub table: TableArgs,
    #[command(flatten)]
    pub bucket: BucketArgs,
}

/// `cluster`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// List the clusters, in the table's own order
    List(ClusterListArgs),
    /// Show all that is known of a cluster
    Show(ClusterShowArgs),
    /// Delete a cluster's record
    ///
    /// The next node that asks is told that it is the first, whatever nodes the cluster has, and builds a new cluster; its
    /// generations begin at 1 again. So forget only clusters that are gone, or whose first node died before it was ready.
    /// A record that changes between the question and the deletion stays.
    Forget(ClusterForgetArgs),
}

impl ClusterCommand {
    fn output(&self) -> Output {
        match self {
            Self::List(args) => args.output.output,
            Self::Show(args) => args.output.output,
            Self::Forget(args) => args.output.output,
        }
    }
}

/// `cluster list`
#[derive(Debug, Args)]
pub struct ClusterListArgs {
    /// The most clusters to list
    #[arg(long, value_name = "NUMBER", default_value = "100")]
    pub limit: NonZeroUsize,
    /// Begin with the cluster that comes after this one
    #[arg(long, value_name = "CLUSTER_ID", value_parser = NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    pub after: Option<String>,
    /// List every cluster
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub records: RecordsArgs,
}

/// `cluster show`
#[derive(Debug, Args)]
pub struct ClusterShowArgs {
    /// The cluster
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub cluster_id: String,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub records: RecordsArgs,
}

/// `cluster forget`
#[derive(Debug, Args)]
pub struct ClusterForgetArgs {
    /// The cluster
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub cluster_id: String,
    /// Ask nothing
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub records: RecordsArgs,
}

/// Which table of records.
#[derive(Debug, Args)]
pub struct RecordsArgs {
    #[command(flatten)]
    pub table: TableArgs,
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub local: LocalTableArgs,
    #[command(flatten)]
    pub aws: AwsArgs,
}

/// The table of a local deployment.
#[derive(Debug, Args)]
#[command(next_help_heading = "On this machine")]
pub struct LocalTableArgs {
    /// The clusters of `serve` and `deploy --local` on this machine, whether it is running or not
    #[arg(long, conflicts_with_all = ["region", "profile"])]
    pub local: bool,
    /// The directory that keeps them [default: `cbbootstrap` in your data directory]
    #[arg(long, value_name = "DIR", requires = "local")]
    pub data: Option<PathBuf>,
}

/// What a policy is to allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PolicyFor {
    /// `plan`, which changes nothing
    Plan,
    /// `plan`, `deploy`, `status` and `logs`: what a pipeline needs
    Deploy,
    /// Those, `destroy`, table and artifacts included, and `cluster`
    #[default]
    All,
    /// `cluster`, which lists, shows and forgets the clusters' records
    Clusters,
    /// What the role of `--role-arn` does for `CloudFormation`
    #[value(name = "cloudformation")]
    CloudFormation,
}

/// `smoke`
#[derive(Debug, Args)]
pub struct SmokeArgs {
    /// The endpoint; otherwise that of the stack
    pub url: Option<String>,
    /// Whom the endpoint serves: `iam` signs the requests; the stack's own tells that itself [default: none]
    #[arg(long, value_enum, value_name = "WHO", requires = "url")]
    pub auth: Option<Auth>,
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
    /// Delete the stack's artifacts from the bucket that `deploy` made, and the bucket where that leaves it empty
    #[arg(long)]
    pub delete_artifacts: bool,
    /// Ask nothing
    #[arg(long, short)]
    pub yes: bool,
    /// The role with which CloudFormation deletes; otherwise the one of the last change
    #[arg(long, value_name = "ARN", help_heading = "Stack", value_parser = role_arn)]
    pub role_arn: Option<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// The DynamoDB table, where the stack that names it is gone already
    #[arg(long, env = "CBBOOTSTRAP_TABLE_NAME", value_name = "NAME", value_parser = table_name)]
    pub table_name: Option<String>,
    #[command(flatten)]
    pub stack: StackArgs,
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_local_deployment_knows_no_stack() {
        let read = |args: &[&str]| {
            let args = [&["cbbootstrap", "deploy", "--local"], args].concat();
            // Variables that are about AWS do no harm.
            let variables = |_: &OsStr| Some("name".into());
            Cli::of(&CommandLine::with(Cli::command(), args, variables)).map(drop)
        };
        assert!(read(&[]).is_ok());
        for option in ["--stack-name", "--env", "--config", "--bucket", "--table-name"] {
            let error = read(&[option, "name"]).unwrap_err();
            assert!(error.to_string().contains(option), "{error}");
        }
        assert!(read(&["--region", "us-east-1"]).is_err() && read(&["--auth", "iam"]).is_err());

        let read = |args: &[&str]| {
            let args = [&["cbbootstrap", "cluster", "list"], args].concat();
            Cli::of(&CommandLine::with(Cli::command(), args, |_| None)).map(drop)
        };
        assert!(read(&["--env", "name"]).is_ok());
        assert!(read(&["--local", "--data", "dir"]).is_ok());
        for wrong in [
            &["--local", "--env", "name"][..],
            &["--local", "--config", "name"],
            &["--local", "--profile", "name"],
            &["--data", "dir"],
            &["--limit", "0"],
            &["--limit", "1", "--all"],
            &["--after", ""],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
        assert!(read(&["--after", "-c", "--all"]).is_ok());
    }

    #[test]
    fn who_may_call_is_the_stacks_to_say() {
        for (args, good) in [
            (&["deploy", "--auth", "iam"][..], true),
            (&["plan", "--auth", "none"], true),
            (&["plan", "--require-secret", "--require-lease=false"], true),
            (&["deploy", "--local", "--require-secret"], false),
            (&["deploy", "--code-only", "--require-lease"], false),
            (&["deploy", "--auth", "everyone"], false),
            (&["deploy", "--code-only", "--auth", "iam"], false),
            (&["smoke", "https://a.example", "--auth", "iam"], true),
            (&["smoke", "--auth", "iam"], false),
        ] {
            let args = [&["cbbootstrap"], args].concat();
            let read = Cli::command().try_get_matches_from(&args);
            assert_eq!(read.is_ok(), good, "{args:?}");
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
