//! The options of `launch`.

use std::path::PathBuf;

use cbbootstrap_cli::{console::OutputArgs, values::number};
use clap::{
    Args,
    builder::{StringValueParser, TypedValueParser},
};

use crate::{
    settings::{Place, WaitArgs},
    values::{Arch, BUCKET_NAME, CLUSTER_ID, ROLE_ARN, STACK_NAME, pair},
};

#[derive(Debug, Args)]
pub struct LaunchArgs {
    /// Cluster ID at the API
    #[arg(value_parser = CLUSTER_ID.parser())]
    pub cluster_id: String,
    /// VPC of the nodes
    #[arg(long, value_name = "ID")]
    pub vpc: String,
    /// IPv4 or dual-stack subnet of the nodes, with a route to the API, AWS and Couchbase's packages; can be repeated
    #[arg(long = "subnet", value_name = "ID", required = true, value_delimiter = ',')]
    #[arg(value_parser = StringValueParser::new().map(|id| id.trim().to_owned()))]
    pub subnets: Vec<String>,
    /// Number of nodes, 1 to 99 [default: unchanged; 3 for a new cluster]
    #[arg(long, value_name = "NUMBER", value_parser = number::<u8>(1..=99))]
    pub nodes: Option<u8>,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
    // The ids of these options differ from those of `deploy`, which an environment sets for the API's stack.
    /// Stack of the Couchbase cluster [default: `couchbase-CLUSTER_ID`]
    #[arg(long, value_name = "NAME", help_heading = "Stack", value_parser = STACK_NAME.parser())]
    pub cluster_stack: Option<String>,
    /// Parameter of the cluster's template, such as `InstanceType=r6i.2xlarge`; can be repeated
    #[arg(id = "cluster_parameter", long = "parameter", value_name = "NAME=VALUE", help_heading = "Stack", value_parser = pair)]
    pub parameters: Vec<(String, String)>,
    /// Tag for the stack and its resources; can be repeated
    #[arg(id = "cluster_tag", long = "tag", value_name = "KEY=VALUE", help_heading = "Stack", value_parser = pair)]
    pub tags: Vec<(String, String)>,
    /// Role that CloudFormation uses to change resources [default: that of the last change, or the caller's credentials]
    #[arg(id = "cluster_role_arn", long = "role-arn", value_name = "ARN", help_heading = "Stack", value_parser = ROLE_ARN.parser())]
    pub role_arn: Option<String>,
    /// Enable the stack's termination protection; `false` disables it [default: unchanged]
    #[arg(id = "cluster_protect", long = "protect", value_name = "BOOL", help_heading = "Stack", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub protect: Option<bool>,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub api: Place,
    /// Existing bucket for the agent [default: the bucket that `deploy` creates]
    #[arg(long, env = "CBBOOTSTRAP_BUCKET", value_name = "NAME", help_heading = "AWS", value_parser = BUCKET_NAME.parser())]
    pub bucket: Option<String>,
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Which agent: built from source, or an archive.
#[derive(Debug, Args)]
#[command(next_help_heading = "Agent")]
pub struct AgentArgs {
    /// Install this archive instead of building the agent; `cbbootstrap package --agent` writes one
    #[arg(id = "agent", long = "agent", value_name = "FILE", conflicts_with = "source")]
    pub archive: Option<PathBuf>,
    /// Processor of the instances
    #[arg(id = "node_arch", long = "arch", value_name = "ARCH", value_enum, default_value_t)]
    pub arch: Arch,
    /// Directory of cbbootstrap's sources, to build the agent even if this program contains it
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
}
