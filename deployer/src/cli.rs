//! The commands and their options. Options that several commands share are in [`settings`](crate::settings).

mod cluster;
mod launch;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use cbbootstrap_cli::{
    color::ColorArgs,
    console::OutputArgs,
    exit::Program,
    manuals::ManualCommand,
    values::{duration, number},
};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};

pub use cluster::{
    ClusterCommand, ClusterForgetArgs, ClusterForgetMemberArgs, ClusterListArgs, ClusterShowArgs,
};
pub use launch::LaunchArgs;

use crate::{
    aws::{Access, cloudformation::UpdateMode},
    examples,
    local::LogFormat,
    package::BuildArgs,
    settings::{ConfigArgs, FunctionArgs, Place, StackOptions, TableArgs, Target, WaitArgs, ids},
    values::{
        ACCOUNT, Auth, BUCKET_NAME, HOST_NAME, HOSTED_ZONE, KEY_ARN, POLICY_ARN, ROLE_ARN,
        TABLE_NAME, address, domain_name, topic,
    },
};

/// The help of `completions`, whose candidates are more than the agent's.
const COMPLETIONS_HELP: &str = "\
Print a completion script for a shell

The script asks this program for candidates, including environments, profiles, parameters and, with `--local`, clusters. Completion \
reads only files on this machine and never calls AWS.";

/// Deploys and operates the API that tells the nodes of a new Couchbase cluster which one initializes it.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = Program::Deployer.exit_help(),
    propagate_version = true,
    mut_subcommand("completions", |command| command.long_about(COMPLETIONS_HELP)),
    mut_subcommands(|command| examples::add("", command))
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub color: ColorArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build the function and deploy the API, in AWS or on this machine
    Deploy(Box<DeployArgs>),
    /// Create or update a Couchbase cluster on EC2
    ///
    /// Deploys a stack with an Auto Scaling group, whose nodes become one cluster through the API. Run the command again to
    /// change the number of nodes or a parameter; omitted ones keep their values. Always pass `--vpc`, `--subnet`, `--arch` and
    /// all tags: omitted tags are removed. Changes to the instances replace the nodes one at a time.
    /// `cbbootstrap template couchbase-cluster` prints the template.
    Launch(Box<LaunchArgs>),
    /// Serve the API from this machine, over a local database or a DynamoDB table
    Serve(Box<ServeArgs>),
    /// Show what `deploy` would change
    Plan(Box<PlanArgs>),
    /// Show stack, endpoint, function and table
    Status(StatusArgs),
    /// List all stacks of cbbootstrap in a region
    List(ListArgs),
    /// Show the function's log: a line for each request
    ///
    /// Lambda's lines about invocations are omitted unless they report an error, or you pass `--raw` or `--filter`. With `--output json`,
    /// each line is a JSON object.
    Logs(LogsArgs),
    /// Open the API's documentation or the AWS console in a browser
    ///
    /// Without a browser, the URL is printed.
    Open(OpenArgs),
    /// Test an endpoint: claims, joins, bad input
    ///
    /// The IDs of the test's clusters begin with `cbbootstrap-smoke-`. Their records are deleted if you may do that; otherwise,
    /// `cluster list` hides them, and they expire after about an hour.
    Smoke(SmokeArgs),
    /// Check that an API answers at a URL: a health check for containers
    Ping(PingArgs),
    /// List, show and forget the clusters' records
    ///
    /// The commands read and write the table directly, so they need access to the table and no cluster secret.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Write the function's zip, or the agent's archive
    Package(PackageArgs),
    /// Delete the stack and, with `--delete-table`, the table
    Destroy(DestroyArgs),
    /// Check credentials, clock, network, tools and permissions
    ///
    /// The command exits with 1 if a check fails. Warnings and skipped checks do not count. The permission check itself
    /// needs the permissions of `iam-policy --for doctor`.
    Doctor(Box<DoctorArgs>),
    /// Write an example `cbbootstrap.yaml` with the environments `dev` and `prod`
    Init(InitArgs),
    /// Print the IAM policy that commands need
    IamPolicy(IamPolicyArgs),
    /// Print a CloudFormation template, for Terraform, CDK or StackSets
    ///
    /// Upload the zip that `cbbootstrap package` writes, and name it with the parameters `ArtifactBucket` and `ArtifactKey` of
    /// the API's template. The template does not create the table, which needs the string key `cluster_id`, and expiry (TTL) by
    /// `expires_at`.
    Template(TemplateArgs),
    #[command(flatten)]
    Manual(ManualCommand),
}

#[derive(Debug, Args)]
pub struct DeployArgs {
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
    /// Skip the smoke test of the endpoint
    #[arg(long)]
    pub no_smoke: bool,
    /// Replace only the function's code, in seconds, and leave the stack unchanged
    #[arg(long, conflicts_with_all = [ids::<StackOptions>(), ids::<UpdateMode>(), ids::<WaitArgs>()].concat())]
    pub code_only: bool,
    #[command(flatten)]
    pub update: UpdateMode,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub function: FunctionArgs,
    #[command(flatten)]
    pub local: LocalArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "On this machine")]
#[command(mut_group("ListenArgs", |group| group.requires("local")))]
pub struct LocalArgs {
    /// Run the API on this machine until Ctrl-C, without an AWS account
    #[arg(
        long,
        conflicts_with = "code_only",
        conflicts_with_all = [ids::<Target>(), ids::<FunctionArgs>(), ids::<UpdateMode>(), ids::<WaitArgs>()].concat()
    )]
    pub local: bool,
    /// Exit after the smoke test
    #[arg(long, requires = "local")]
    pub exit: bool,
    #[command(flatten)]
    pub listen: ListenArgs,
}

/// Where a server listens, and where it keeps the records.
#[derive(Debug, Args)]
pub struct ListenArgs {
    /// Port to listen on; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = number::<u16>(0..=65_535))]
    pub port: u16,
    /// Address to listen on; `0.0.0.0` accepts connections from other machines
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = address)]
    pub host: IpAddr,
    /// Directory of the database, on a local disk [default: `cbbootstrap` in your data directory, on Linux `~/.local/share`]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct TemplateArgs {
    /// Template to print
    #[arg(value_enum, default_value_t)]
    pub template: TemplateName,
}

/// A template of this program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TemplateName {
    /// The API, as `deploy` deploys it
    #[default]
    Api,
    /// A Couchbase cluster, as `launch` deploys it
    CouchbaseCluster,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub listen: ListenArgs,
    /// DynamoDB table to use instead, which servers can share; AWS_ENDPOINT_URL_DYNAMODB sets the URL of a compatible database
    #[arg(long, value_name = "NAME", value_parser = TABLE_NAME.parser(), conflicts_with = "data")]
    pub table: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub access: Access,
}

/// How a server serves. The default is that of `deploy --local`.
#[derive(Debug, Default, Args)]
pub struct ServerArgs {
    /// PEM file of the server's certificate chain; reloaded when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Security")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's private key
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Security")]
    pub tls_key: Option<PathBuf>,
    /// Host name that requests can use besides `localhost`; can be repeated [default: any, but none on a loopback address]
    #[arg(long = "allowed-host", value_name = "NAME", help_heading = "Security", value_parser = HOST_NAME.parser())]
    pub allowed_hosts: Vec<String>,
    /// Refuse calls without a cluster token
    #[arg(long, help_heading = "Security")]
    pub require_secret: bool,
    /// Refuse claims without a lease
    #[arg(long, help_heading = "Security")]
    pub require_lease: bool,
    /// Maximum number of connections; others wait
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 10_000,
        value_parser = number::<u32>(1..=u64::MAX),
        help_heading = "Operation"
    )]
    pub max_connections: u32,
    /// Format of the request log on stderr
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t, help_heading = "Operation")]
    pub log: LogFormat,
    /// Serve `GET /metrics` for Prometheus
    #[arg(long, help_heading = "Operation")]
    pub metrics: bool,
}

#[derive(Debug, Args)]
pub struct PingArgs {
    /// URL of the API; without a scheme, `https`, or `http` for this machine
    pub url: String,
    /// PEM file of the certificate authorities to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Exit with 2 if something would change; wrong usage then exits with 1
    #[arg(long)]
    pub exit_code: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub function: FunctionArgs,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// First wait for a change of the stack to end, and show its events
    #[arg(long)]
    pub wait: bool,
    /// Detect changes made to the stack's resources outside CloudFormation
    #[arg(long)]
    pub drift: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub stack: Place,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Show new lines until Ctrl-C
    #[arg(long, short)]
    pub follow: bool,
    /// How far back to begin
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub since: Duration,
    /// Show only lines that contain this text
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    pub filter: Option<String>,
    /// Show the lines as they are logged, including Lambda's own
    #[arg(long, conflicts_with = "output")]
    pub raw: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub stack: Place,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub access: Access,
}

/// The deployment that a policy is for.
#[derive(Debug, Args)]
pub struct ScopeArgs {
    /// Role that `deploy` passes to CloudFormation; the caller then needs fewer permissions
    #[arg(long, value_name = "ARN", value_parser = ROLE_ARN.parser())]
    pub role_arn: Option<String>,
    /// Permissions boundary that the function's role must have
    #[arg(long, value_name = "ARN", value_parser = POLICY_ARN.parser())]
    pub permissions_boundary: Option<String>,
    /// Key of `deploy --kms-key`
    #[arg(long, value_name = "ARN", value_parser = KEY_ARN.parser())]
    pub kms_key: Option<String>,
    /// Domain of `deploy --domain`
    #[arg(long, value_name = "NAME", value_parser = domain_name)]
    pub domain: Option<String>,
    /// Hosted zone of `deploy --hosted-zone`
    #[arg(long, value_name = "ID", value_parser = HOSTED_ZONE.parser())]
    pub hosted_zone: Option<String>,
    /// Topic of `deploy --notification-arn`; can be repeated
    #[arg(long = "notification-arn", value_name = "ARN", value_parser = topic)]
    pub notification_arns: Vec<String>,
    #[command(flatten)]
    pub stack: Place,
    #[command(flatten)]
    pub table: TableArgs,
    /// Bucket for the function's zip [default: a bucket that `deploy` creates]
    #[arg(long, env = "CBBOOTSTRAP_BUCKET", value_name = "NAME", help_heading = "AWS", value_parser = BUCKET_NAME.parser())]
    pub bucket: Option<String>,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Commands to check
    #[arg(long = "for", value_name = "WHAT", value_enum, default_value = "deploy")]
    pub policy_for: PolicyFor,
    #[command(flatten)]
    pub scope: ScopeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub build: BuildArgs,
}

#[derive(Debug, Args)]
pub struct OpenArgs {
    /// Page to open
    #[arg(value_enum, default_value_t)]
    pub page: Page,
    /// Print the URL instead of opening it
    #[arg(long)]
    pub print: bool,
    #[command(flatten)]
    pub stack: Place,
}

/// A page about a stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Page {
    /// The API's documentation
    #[default]
    Docs,
    /// The stack in the AWS console
    Console,
    /// The stack's CloudWatch dashboard
    Dashboard,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// File to write; it must not exist
    #[arg(long, env = "CBBOOTSTRAP_CONFIG", value_name = "FILE", default_value = crate::config::FILE)]
    pub config: PathBuf,
}

#[derive(Debug, Args)]
pub struct IamPolicyArgs {
    /// Commands to allow
    #[arg(long = "for", value_name = "WHAT", value_enum, default_value_t)]
    pub policy_for: PolicyFor,
    /// AWS account ID [default: any account]
    #[arg(long, value_name = "NUMBER", value_parser = ACCOUNT.parser())]
    pub account: Option<String>,
    /// Show what each permission is for instead of the policy
    #[arg(long)]
    pub explain: bool,
    #[command(flatten)]
    pub scope: ScopeArgs,
}

/// The commands that a policy is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PolicyFor {
    /// `plan`, which changes nothing
    Plan,
    /// `plan`, `deploy`, `status` and `logs`: what a pipeline needs
    Deploy,
    /// The commands of `deploy`, `destroy` with table and artifacts, `list` and `cluster`; not `launch` and `doctor`
    #[default]
    All,
    /// `launch`, and `destroy` and `cluster forget` for its clusters
    Launch,
    /// `cluster`, which lists, shows and forgets the clusters' records
    Clusters,
    /// `doctor`, which simulates the caller's policies
    Doctor,
    /// What CloudFormation does with the role of `--role-arn`
    #[value(name = "cloudformation")]
    CloudFormation,
}

#[derive(Debug, Args)]
pub struct SmokeArgs {
    /// URL of the endpoint; without a scheme, `https`, or `http` for this machine [default: the stack's]
    pub url: Option<String>,
    /// How the endpoint authorizes requests; `iam` signs them [default: none]
    // Its id is not `auth`, which an environment sets for its stack.
    #[arg(long = "auth", value_enum, value_name = "WHO", requires = "url")]
    pub endpoint_auth: Option<Auth>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub stack: Place,
}

#[derive(Debug, Args)]
pub struct PackageArgs {
    /// File to write [default: `bootstrap.zip`, or `cbbootstrap-agent.tar.gz`]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write the agent's archive for `launch`
    #[arg(long)]
    pub agent: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub build: BuildArgs,
}

#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// Also delete the table and every cluster's record, after a backup
    #[arg(long)]
    pub delete_table: bool,
    /// Delete the table without a backup
    #[arg(long, requires = "delete_table")]
    pub no_backup: bool,
    /// Also delete the stack's zips, and the bucket if `deploy` created it and it is then empty
    #[arg(long)]
    pub delete_artifacts: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    /// Role with which CloudFormation deletes [default: that of the last change]
    #[arg(long, value_name = "ARN", help_heading = "Stack", value_parser = ROLE_ARN.parser())]
    pub role_arn: Option<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// DynamoDB table to delete if the stack no longer exists
    // Its id is not `table_name`: a file or a variable must not choose what is deleted.
    #[arg(id = "deleted_table", long = "table-name", value_name = "NAME", help_heading = "AWS", value_parser = TABLE_NAME.parser())]
    pub table_name: Option<String>,
    #[command(flatten)]
    pub place: Place,
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        ffi::OsStr,
    };

    use cbbootstrap_cli::{CommandLine, reference};
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_local_deployment_knows_no_stack() {
        let read = |args: &[&str]| {
            let args = [&["cbbootstrap", "deploy", "--local"], args].concat();
            // Variables for AWS are ignored.
            let variables = |_: &OsStr| Some("name".into());
            CommandLine::with(Cli::command(), args, variables).parse().map(drop)
        };
        assert!(read(&[]).is_ok());
        for option in ["--stack-name", "--env", "--config", "--bucket", "--table-name"] {
            let error = read(&[option, "name"]).unwrap_err();
            assert!(error.to_string().contains(option), "{error}");
        }
        assert!(read(&["--region", "us-east-1"]).is_err() && read(&["--auth", "iam"]).is_err());

        let read = |args: &[&str]| {
            let args = [&["cbbootstrap", "cluster", "list"], args].concat();
            CommandLine::with(Cli::command(), args, |_| None).parse().map(drop)
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
    fn access_options_are_accepted_only_where_they_apply() {
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
    fn shared_options_have_one_heading() {
        let mut commands = vec![Cli::command()];
        let mut headings = BTreeMap::<String, BTreeSet<Option<String>>>::new();
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            // Its `--config` is the file to write.
            for arg in command
                .get_arguments()
                .filter(|arg| !arg.is_hide_set() && command.get_name() != "init")
            {
                let heading = arg.get_help_heading().map(str::to_owned);
                headings
                    .entry(format!("--{}", arg.get_long().unwrap_or_default()))
                    .or_default()
                    .insert(heading);
            }
        }
        for (option, heading) in [
            ("--output", "Output"),
            ("--env", "Environment"),
            ("--config", "Environment"),
            ("--stack-name", "Stack"),
            ("--table-name", "AWS"),
            ("--bucket", "AWS"),
            ("--region", "AWS"),
            ("--profile", "AWS"),
        ] {
            assert_eq!(headings[option], [Some(heading.to_owned())].into(), "{option}");
        }
        for option in
            ["--yes", "--for", "--wait", "--follow", "--delete-table", "--limit", "--local"]
        {
            assert_eq!(headings[option].len(), 1, "{option}: {:?}", headings[option]);
        }
    }

    #[test]
    fn definition_is_consistent_and_reference_up_to_date() {
        Cli::command().debug_assert();
        reference::check(Program::Deployer, Cli::command());
    }
}
