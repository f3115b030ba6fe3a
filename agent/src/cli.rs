//! The command line: what may be said, and how `--help` explains it.

use std::{path::PathBuf, time::Duration};

use cbbootstrap_cli::{
    console::{Output, OutputArgs},
    failure::Program,
    manuals::ManualCommand,
};
use cbbootstrap_protocol::names::{ClusterId, Node};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::BoolishValueParser};

use crate::values::{self, Bucket, Lease, Quota, Services};

const OPTIONS_HELP: &str = "\
Every option can be set in a YAML file (`--config`) under its name with `_` for `-`. \
The command line takes precedence over environment variables, and these over the file.

Secrets come from files, standard input or the environment: CB_REST_PASSWORD (the administrator's password), \
CBBOOTSTRAP_SECRET (the cluster's secret).";

/// Brings the Couchbase Server beside it into one healthy cluster: as the first node, or as a member.
#[derive(Debug, Parser)]
#[command(version, after_help = format!("{OPTIONS_HELP}\n\n{}", Program::Agent.exit_help()), propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum Command {
    /// Make this node the first of the cluster or a member of it, and wait until all is well
    ///
    /// It looks at what is there and does what is missing, so it may be run at every boot, and again after whatever went wrong. It
    /// is done when the node is active, the cluster balanced, and the API told.
    Up(Box<UpArgs>),
    /// Print the nodes to connect to, for Sync Gateway and applications
    Discover(DiscoverArgs),
    /// Take this node out of the cluster: its data moves to the others first
    Leave(LeaveArgs),
    /// Show what the server, its cluster and the API say
    Status(StatusArgs),
    #[command(flatten)]
    Manual(ManualCommand),
}

impl Command {
    /// The form of the result.
    pub fn output(&self) -> Output {
        match self {
            Self::Up(args) => args.output.output,
            Self::Leave(args) => args.output.output,
            Self::Status(args) => args.output.output,
            Self::Discover(_) | Self::Manual(_) => Output::Text,
        }
    }
}

/// Who may call the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// Anyone; a cluster's secret keeps others from its record.
    #[default]
    None,
    /// Signed requests: AWS Signature Version 4, with the role of the instance or the task.
    Iam,
}

/// Which record, at which API.
#[derive(Debug, Args)]
#[command(next_help_heading = "The bootstrap service")]
pub struct ApiArgs {
    /// Its endpoint, as `cbbootstrap status` prints it
    // clap would say what is wrong with the value, and the value with it: there may be a password in it.
    #[arg(long, env = "CBBOOTSTRAP_API", value_name = "URL")]
    pub api: Option<String>,
    /// The name that all nodes of the cluster share
    #[arg(long, env = "CBBOOTSTRAP_CLUSTER_ID", value_parser = values::cluster_id, value_name = "ID")]
    pub cluster_id: Option<ClusterId>,
    /// A file with the cluster's secret, the same on all nodes: nodes trust each other by it; `-` is standard input
    #[arg(long, env = "CBBOOTSTRAP_SECRET_FILE", value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Who may call the API: with `iam`, requests are signed
    #[arg(long, env = "CBBOOTSTRAP_AUTH", value_enum, default_value_t)]
    pub auth: Auth,
    /// The region of an API that takes signed requests, where its host name does not say
    #[arg(long, env = "AWS_REGION")]
    pub region: Option<String>,
    /// A YAML file with options
    #[arg(long, env = "CBBOOTSTRAP_AGENT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The Couchbase Server, and how to talk to it and to the other nodes'.
#[derive(Debug, Args)]
#[command(next_help_heading = "Couchbase Server")]
pub struct ServerArgs {
    /// The URL of this node's server; without TLS only on this host
    #[arg(
        long,
        env = "CBBOOTSTRAP_SERVER",
        default_value = "http://127.0.0.1:8091",
        value_name = "URL"
    )]
    pub server: String,
    /// This node's address or full host name, as the other nodes reach it [default: the host's full name, or what ECS or EC2 say]
    #[arg(long, env = "CBBOOTSTRAP_NODE", value_parser = values::node)]
    pub node: Option<Node>,
    /// The administrator's name
    #[arg(long, env = "CB_REST_USERNAME", default_value = "Administrator", value_name = "NAME")]
    pub username: String,
    /// A file with the administrator's password; `-` is standard input
    #[arg(long, env = "CBBOOTSTRAP_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// The authority that signed the servers' certificates, in PEM: other nodes are trusted by it where there is no secret
    #[arg(long, env = "CBBOOTSTRAP_CA_CERT", value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// Skip TLS verification of other nodes, and allow Community Edition (no TLS) and an API over http://. Any host that can
    /// impersonate another node receives the administrator's password
    #[arg(long, env = "CBBOOTSTRAP_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,
}

/// How long to wait, and how often to look.
#[derive(Debug, Args)]
#[command(next_help_heading = "Patience")]
pub struct WaitArgs {
    /// How long all of it may take
    #[arg(
        long,
        env = "CBBOOTSTRAP_TIMEOUT",
        value_parser = values::duration,
        default_value = "30m",
        value_name = "TIME"
    )]
    pub timeout: Duration,
    /// How long to wait between two checks, and before a failed step is retried
    #[arg(
        long,
        env = "CBBOOTSTRAP_INTERVAL",
        value_parser = values::duration,
        default_value = "2s",
        value_name = "TIME"
    )]
    pub interval: Duration,
}

/// `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What the node and its cluster are to be.
#[derive(Debug, Args)]
#[command(next_help_heading = "The node and the cluster")]
pub struct ClusterArgs {
    /// The node's services: data, index, query, search, analytics, eventing, backup
    #[arg(long, env = "CBBOOTSTRAP_SERVICES", default_value = "data", value_name = "NAME,...")]
    pub services: Services,
    /// The data service's memory on each node: MB, a percentage of the node's, or `auto`, which is 80 % less what the other
    /// services have. The first node's counts
    #[arg(long, env = "CBBOOTSTRAP_MEMORY_QUOTA", default_value = "auto", value_name = "QUOTA")]
    pub memory_quota: Quota,
    /// A bucket that is to be there, with its memory on each node in MB; may be given again. One that is there stays as it is
    #[arg(
        long = "bucket",
        env = "CBBOOTSTRAP_BUCKETS",
        value_delimiter = ',',
        value_name = "NAME:MB[:REPLICAS]"
    )]
    pub bucket: Vec<Bucket>,
    /// The node's server group, which is made if need be: its availability zone, say
    #[arg(long, env = "CBBOOTSTRAP_SERVER_GROUP", value_name = "NAME")]
    pub server_group: Option<String>,
    /// The address that clients outside the nodes' network use
    #[arg(long, env = "CBBOOTSTRAP_ALTERNATE_ADDRESS", value_parser = values::host, value_name = "ADDRESS")]
    pub alternate_address: Option<Node>,
    /// The cluster's name in Couchbase Server
    #[arg(long, env = "CBBOOTSTRAP_CLUSTER_NAME", value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// After so long another node takes the place of a first one that died before the cluster was up; `never` waits for it
    #[arg(long, env = "CBBOOTSTRAP_LEASE", default_value = "5m", value_name = "TIME")]
    pub lease: Lease,
    /// How long the list of nodes has to stay as it is before a rebalance begins: so one serves all who boot together
    #[arg(
        long,
        env = "CBBOOTSTRAP_SETTLE",
        value_parser = values::duration,
        default_value = "5s",
        value_name = "TIME"
    )]
    pub settle: Duration,
    /// Make the cluster that this server belongs to already the one that the API tells of, if it tells of none
    #[arg(long, env = "CBBOOTSTRAP_ADOPT", value_parser = BoolishValueParser::new())]
    pub adopt: bool,
}

/// The form of a list of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One node a line, the one to join first.
    #[default]
    Text,
    /// One JSON document.
    Json,
    /// What Couchbase's SDKs and Sync Gateway connect to, with TLS.
    ConnectionString,
}

/// `discover`.
#[derive(Debug, Args)]
pub struct DiscoverArgs {
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Allow an API over http:// that is not on this host
    #[arg(long, env = "CBBOOTSTRAP_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,
    /// Wait until the cluster is ready
    #[arg(long = "wait")]
    pub until_ready: bool,
    /// The form of the list
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `leave`.
#[derive(Debug, Args)]
pub struct LeaveArgs {
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[cfg(test)]
mod tests {
    use cbbootstrap_cli::reference;
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definition_is_consistent_and_reference_up_to_date() {
        Cli::command().debug_assert();
        reference::check(Program::Agent, Cli::command());
    }
}
