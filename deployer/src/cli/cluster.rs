//! The commands about records.

use cbbootstrap_cli::{console::OutputArgs, values::number};
use cbbootstrap_protocol::names::Node;
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use crate::settings::RecordsArgs;

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// List the clusters in the order of the table
    List(ClusterListArgs),
    /// Show a cluster's record
    Show(ClusterShowArgs),
    /// Delete a cluster's record
    ///
    /// The next node to ask starts a new cluster, even if nodes of the old one still run. Forget only clusters that are gone, or
    /// whose first node died before it was ready. A record that changes before you confirm is not deleted.
    Forget(ClusterForgetArgs),
    /// Remove a member that no longer exists from a cluster's record
    ///
    /// For a node that ended without `cbbootstrap-agent leave`, so that other nodes no longer try to join through it. The cluster
    /// itself does not change. If the node still runs, its agent reports it again. The last member cannot be removed.
    ForgetMember(ClusterForgetMemberArgs),
}

#[derive(Debug, Args)]
pub struct ClusterListArgs {
    /// Number of clusters to list
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = number::<usize>(1..=u64::MAX))]
    pub limit: usize,
    /// List the clusters after this one
    #[arg(long, value_name = "CLUSTER_ID", value_parser = NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    pub after: Option<String>,
    /// List all clusters, also those of smoke tests
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub records: RecordsArgs,
}

#[derive(Debug, Args)]
pub struct ClusterShowArgs {
    /// Cluster ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub cluster_id: String,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub records: RecordsArgs,
}

#[derive(Debug, Args)]
pub struct ClusterForgetArgs {
    /// Cluster ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub cluster_id: String,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub records: RecordsArgs,
}

#[derive(Debug, Args)]
pub struct ClusterForgetMemberArgs {
    #[command(flatten)]
    pub cluster: ClusterForgetArgs,
    /// Name of the member, as `cluster show` prints it
    // Otherwise it gets the heading of the options before it.
    #[arg(help_heading = None::<&str>, value_parser = |text: &str| Node::new(text))]
    pub node: Node,
}
