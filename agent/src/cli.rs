//! The commands and their options, with their help texts.

use std::{path::PathBuf, time::Duration};

use cbbootstrap_cli::{
    console::{Output, OutputArgs},
    exit::Program,
    manuals::ManualCommand,
    values::{Auth, boolean, number},
};
use cbbootstrap_protocol::names::{ClusterId, Node};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::values::{self, BucketSpec, Lease, Quota, Services};

const OPTIONS_HELP: &str = "\
Every option except `--config`, `--output`, `--format` and `--wait` can be set in a YAML file (`--config`) under its name with `_` \
for `-`. The command line takes precedence over environment variables, and these over the file.

Secrets come from files, standard input or the environment: CB_REST_PASSWORD (the administrator's password), \
CBBOOTSTRAP_SECRET (the cluster secret).";

/// Makes the Couchbase Server on this node the first node or a member of its cluster.
#[derive(Debug, Parser)]
#[command(version, after_help = format!("{OPTIONS_HELP}\n\n{}", Program::Agent.exit_help()), propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Initialize the cluster or join it, and wait until it is balanced
    ///
    /// Does only what is missing: run it at every boot, and again after an error. Succeeds when the node is active, the cluster
    /// is balanced and the API lists the node.
    Up(Box<UpArgs>),
    /// Do what `up` does, then keep the node in its cluster
    ///
    /// Recovers the node after a failover. On EC2, leaves before the Auto Scaling group, a Spot interruption or a retirement ends
    /// the instance. SIGTERM ends only the agent: the node stays a member. SIGHUP reads the options file again.
    Run(Box<RunArgs>),
    /// Show the state of the server, its cluster and the API's record
    Status(NodeArgs),
    /// Move this node's data to the other nodes and remove the node from the cluster
    Leave(LeaveArgs),
    /// Print the nodes to connect to, for Sync Gateway and applications
    Discover(DiscoverArgs),
    #[command(flatten)]
    Manual(ManualCommand),
}

impl Command {
    /// The form of the result.
    pub fn output(&self) -> Output {
        match self {
            Self::Up(args) => args.node.output.output,
            Self::Leave(args) => args.node.output.output,
            Self::Status(args) => args.output.output,
            Self::Run(_) | Self::Discover(_) | Self::Manual(_) => Output::Text,
        }
    }
}

/// Which record, at which API.
#[derive(Debug, Args)]
#[command(next_help_heading = "API")]
pub struct ApiArgs {
    /// URL of the API, as `cbbootstrap status` prints it; without a scheme, `https`, or `http` for this host
    // A string, because clap's error would quote the value, which may contain a password.
    #[arg(long, env = "CBBOOTSTRAP_API", value_name = "URL")]
    pub api: Option<String>,
    /// ID that all nodes of the cluster share
    #[arg(long, env = "CBBOOTSTRAP_CLUSTER_ID", value_parser = values::cluster_id, value_name = "ID")]
    pub cluster_id: Option<ClusterId>,
    /// File with the cluster secret, with which the nodes verify each other; `-` is standard input, except for `run`
    #[arg(long, env = "CBBOOTSTRAP_SECRET_FILE", value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// How the API authorizes requests; `iam` signs them with AWS credentials
    #[arg(long, env = "CBBOOTSTRAP_AUTH", value_enum, default_value_t)]
    pub auth: Auth,
    /// AWS region for signed requests, if the API's host name does not contain it
    #[arg(long, env = "AWS_REGION")]
    pub region: Option<String>,
    /// YAML file with options
    #[arg(long, env = "CBBOOTSTRAP_AGENT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The Couchbase Server, and how to talk to it and to the other nodes'.
#[derive(Debug, Args)]
#[command(next_help_heading = "Couchbase Server")]
pub struct ServerArgs {
    /// URL of this node's server; `http://` only on this host
    #[arg(long, env = "CBBOOTSTRAP_SERVER", value_name = "URL")]
    #[arg(default_value = "http://127.0.0.1:8091")]
    pub server: String,
    /// Address or full host name at which other nodes reach this node [default: the host's full name, or the name in ECS or EC2
    /// metadata]
    #[arg(long, env = "CBBOOTSTRAP_NODE", value_parser = values::node)]
    pub node: Option<Node>,
    /// Name of the administrator
    #[arg(long, env = "CB_REST_USERNAME", default_value = "Administrator", value_name = "NAME")]
    pub username: String,
    /// File with the administrator's password; `-` is standard input, except for `run`
    #[arg(long, env = "CBBOOTSTRAP_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// PEM file of the authority that signed the servers' certificates, to verify other nodes without a secret
    #[arg(long, env = "CBBOOTSTRAP_CA_CERT", value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// Skip TLS verification of other nodes, which receive the administrator's password; also allows Community Edition, which has no
    /// TLS, and an API over `http://`
    #[arg(long, env = "CBBOOTSTRAP_INSECURE", value_parser = boolean)]
    pub insecure: bool,
}

/// How long to wait, and how often to try.
#[derive(Debug, Args)]
#[command(next_help_heading = "Waiting")]
pub struct WaitArgs {
    /// Time limit of the command
    #[arg(long, env = "CBBOOTSTRAP_TIMEOUT", value_name = "TIME")]
    #[arg(default_value = "30m", value_parser = values::duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub pause: PauseArgs,
}

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Waiting")]
pub struct PauseArgs {
    /// Longest pause between two reads, or before a retry: 50ms to 1m
    #[arg(long, env = "CBBOOTSTRAP_INTERVAL", value_name = "TIME")]
    #[arg(default_value = "2s", value_parser = values::interval)]
    pub interval: Duration,
}

/// The options of commands that run on a node.
#[derive(Debug, Args)]
pub struct NodeArgs {
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What the node and its cluster are to be.
#[derive(Debug, Args)]
#[command(next_help_heading = "Node and cluster")]
pub struct ClusterArgs {
    /// Services of the node: data, index, query, search, analytics, eventing, backup
    #[arg(long, env = "CBBOOTSTRAP_SERVICES", default_value = "data", value_name = "NAME,...")]
    pub services: Services,
    /// Memory of the data service on each node: MB (at least 256), a percentage of the node's memory, or `auto` (80 % minus the other services'
    /// quotas); set by the first node
    #[arg(long, env = "CBBOOTSTRAP_MEMORY_QUOTA", default_value = "auto", value_name = "QUOTA")]
    pub memory_quota: Quota,
    /// Bucket to create unless it exists, with its memory on each node in MB (at least 100); can be repeated
    #[arg(id = "bucket", long = "bucket", env = "CBBOOTSTRAP_BUCKETS")]
    #[arg(value_delimiter = ',', value_name = "NAME:MB[:REPLICAS]")]
    pub buckets: Vec<BucketSpec>,
    /// Server group of the node, such as its availability zone; created if missing
    #[arg(long, env = "CBBOOTSTRAP_SERVER_GROUP", value_name = "NAME")]
    pub server_group: Option<String>,
    /// Address for clients outside the nodes' network
    #[arg(long, env = "CBBOOTSTRAP_ALTERNATE_ADDRESS", value_parser = values::host, value_name = "ADDRESS")]
    pub alternate_address: Option<Node>,
    /// Name of the cluster in Couchbase Server
    #[arg(long, env = "CBBOOTSTRAP_CLUSTER_NAME", value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// Time after which another node takes over from a first node that died before the cluster was up, 30s to 24h, or `never`
    #[arg(long, env = "CBBOOTSTRAP_LEASE", default_value = "5m", value_name = "TIME")]
    pub lease: Lease,
    /// Time to wait for more nodes before a rebalance, so that one rebalance serves all nodes that boot together
    #[arg(long, env = "CBBOOTSTRAP_SETTLE", value_name = "TIME")]
    #[arg(default_value = "5s", value_parser = values::duration)]
    pub settle: Duration,
    /// Record the cluster that this server already belongs to, if the API has no record
    #[arg(long, env = "CBBOOTSTRAP_ADOPT", value_parser = boolean)]
    pub adopt: bool,
    #[command(flatten)]
    pub size: SizeArgs,
}

#[derive(Clone, Copy, Debug, Args)]
pub struct SizeArgs {
    /// Number of nodes that the cluster begins with, 1 to 256: the first rebalance and `discover --wait` wait for them
    #[arg(long, env = "CBBOOTSTRAP_NODES", value_name = "NUMBER")]
    #[arg(value_parser = values::node_count)]
    pub nodes: Option<usize>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub pause: PauseArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub life: LifeArgs,
}

/// Whether a node recovers after a failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Recover {
    /// When the node is back: delta recovery if the server allows it, otherwise full recovery
    Auto,
    /// Do not recover: an operator decides
    Never,
}

/// What happens to the node while it is a member.
#[derive(Debug, Args)]
#[command(next_help_heading = "Lifecycle")]
pub struct LifeArgs {
    /// Whether this node recovers after a failover
    #[arg(long, env = "CBBOOTSTRAP_RECOVER", value_enum, value_name = "WHEN")]
    #[arg(default_value = "auto")]
    pub recover: Recover,
    /// If the server belongs to no cluster, replace the failed-over member of the same name; the other nodes must have all data
    #[arg(long, env = "CBBOOTSTRAP_REPLACE", value_parser = boolean)]
    pub replace: bool,
    /// Lifecycle hook to complete after the node has left a terminating instance [default: the group's only hook for terminating
    /// instances]
    #[arg(long, env = "CBBOOTSTRAP_LIFECYCLE_HOOK", value_name = "NAME")]
    pub lifecycle_hook: Option<String>,
    /// Port on 127.0.0.1 for `GET /healthz` and `GET /metrics` (Prometheus); 0 picks a free one
    #[arg(long, env = "CBBOOTSTRAP_METRICS_PORT", value_name = "PORT", value_parser = number::<u16>(0..=65_535))]
    pub metrics_port: Option<u16>,
}

/// The form of a list of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One node per line; the first one is the node to join
    #[default]
    Text,
    /// One JSON document
    Json,
    /// Connection string with TLS for Couchbase SDKs and Sync Gateway
    ConnectionString,
}

#[derive(Debug, Args)]
pub struct DiscoverArgs {
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Allow an API over `http://` on another host
    #[arg(long, env = "CBBOOTSTRAP_INSECURE", value_parser = boolean)]
    pub insecure: bool,
    /// Wait until the cluster is ready
    #[arg(long = "wait")]
    pub until_ready: bool,
    #[command(flatten)]
    pub size: SizeArgs,
    /// Write the certificate authorities that the members attest to this PEM file; needs the cluster secret
    #[arg(long, env = "CBBOOTSTRAP_WRITE_CA_CERT", value_name = "FILE")]
    pub write_ca_cert: Option<PathBuf>,
    /// Format of the list
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct LeaveArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
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
