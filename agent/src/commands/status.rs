//! `status`: shows the state of the server, its cluster and the API's record, and whether they agree.

use std::{fmt, time::Duration};

use cbbootstrap_cli::exit::Exit;
use cbbootstrap_protocol::{
    names::Node,
    wire::{Cluster, State},
};
use serde::Serialize;

use crate::{
    cli::NodeArgs,
    http::Deadline,
    printer::Printer,
    record::ClusterRecord,
    server::{Health, Membership, NodeInfo, Server, View},
    settings::{self, Here},
};

/// The time limit of the whole command.
const LIMIT: Duration = Duration::from_mins(1);

#[derive(Debug, Serialize)]
struct Status {
    /// Whether the node is an active, healthy member of the recorded cluster, which is ready and balanced and lists it.
    healthy: bool,
    node: String,
    server: ServerStatus,
    api: ApiStatus,
}

#[derive(Debug, Default, Serialize)]
struct ServerStatus {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterStatus>,
}

#[derive(Debug, Serialize)]
struct ClusterStatus {
    uuid: String,
    balanced: bool,
    rebalancing: bool,
    nodes: Vec<NodeStatus>,
    buckets: Vec<String>,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    name: String,
    membership: &'static str,
    healthy: bool,
    status: Health,
    group: Option<String>,
}

#[derive(Debug, Serialize)]
struct ApiStatus {
    url: String,
    cluster_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// `None` if nobody has claimed the cluster.
    cluster: Option<Cluster>,
}

pub fn run(args: NodeArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let Here { identity, api, server, .. } =
        settings::here(args.api, args.server, Deadline::after(LIMIT))?;
    let node = identity.node;
    let (answer, error) = match api.raw_status(Some(&node)) {
        Ok(answer) => (answer, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let (server, view) = read_server(&server);
    let (record, cluster) = answer.unzip();
    let status = Status {
        healthy: is_healthy(&node, view.as_ref(), record.as_ref()),
        node: node.to_string(),
        server,
        api: ApiStatus {
            url: api.url,
            cluster_id: api.cluster_id.as_str().to_owned(),
            error,
            cluster,
        },
    };
    printer.result(&status)?;
    Ok(if status.healthy { Exit::Done } else { Exit::Failed })
}

fn read_server(server: &Server) -> (ServerStatus, Option<View>) {
    let mut status = ServerStatus { url: server.url.clone(), ..ServerStatus::default() };
    let read = server.pools().and_then(|pools| {
        status.version = Some(pools.version);
        pools.uuid.map_or(Ok(None), |uuid| server.view(uuid))
    });
    let view = read.unwrap_or_else(|error| {
        status.error = Some(error.to_string());
        None
    });
    status.cluster = view.as_ref().map(ClusterStatus::from);
    (status, view)
}

fn is_healthy(node: &Node, view: Option<&View>, record: Option<&ClusterRecord>) -> bool {
    let (Some(view), Some(record)) = (view, record) else {
        return false;
    };
    view.this().is_some_and(NodeInfo::is_well)
        && view.is_balanced
        && !view.is_rebalancing
        && record.state == State::Ready
        && record.cluster_uuid.as_ref().is_none_or(|uuid| *uuid == view.uuid)
        && record.member(node).is_some()
}

impl From<&View> for ClusterStatus {
    fn from(view: &View) -> Self {
        let nodes = view.nodes.iter().map(|node| NodeStatus {
            name: node.name.clone(),
            membership: match node.membership {
                Membership::Active => "active",
                Membership::Added if node.is_recovering() => "to be recovered",
                Membership::Added => "added",
                Membership::FailedOver => "failed over",
            },
            healthy: node.health == Health::Healthy,
            status: node.health,
            group: node.group.clone(),
        });
        Self {
            uuid: view.uuid.to_string(),
            balanced: view.is_balanced,
            rebalancing: view.is_rebalancing,
            nodes: nodes.collect(),
            buckets: view.buckets.clone(),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerStatus { url, error, version, cluster } = &self.server;
        writeln!(f, "node     {}", self.node)?;
        writeln!(f, "server   {url} {}", version.as_deref().unwrap_or_default())?;
        match (error, cluster) {
            (Some(error), _) => writeln!(f, "         {error}")?,
            (None, None) => writeln!(f, "         belongs to no cluster")?,
            (None, Some(cluster)) => write!(f, "{cluster}")?,
        }
        let ApiStatus { url, cluster_id, error, cluster } = &self.api;
        writeln!(f, "api      {url}, cluster `{cluster_id}`")?;
        match (error, cluster) {
            (Some(error), _) => writeln!(f, "         {error}")?,
            (None, None) => writeln!(f, "         nobody has claimed it")?,
            (None, Some(cluster)) => {
                let first = &cluster.initial_node_ip_addr_or_hostname;
                let (state, generation) = (cluster.state.as_str(), cluster.generation);
                writeln!(f, "         {state}, generation {generation}, to join: {first}")?;
                writeln!(f, "         reported ready: {}", list(&cluster.nodes))?;
                if let Some(uuid) = &cluster.rival_node_uuid {
                    writeln!(
                        f,
                        "         another server (its UUID begins with {uuid}) claims the cluster under the first node's name"
                    )?;
                }
            }
        }
        f.write_str(if self.healthy { "healthy" } else { "not healthy" })
    }
}

impl fmt::Display for ClusterStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let balanced = match (self.rebalancing, self.balanced) {
            (true, _) => "a rebalance runs",
            (false, true) => "balanced",
            (false, false) => "not balanced",
        };
        writeln!(f, "cluster  {}, {balanced}", self.uuid)?;
        for NodeStatus { name, membership, status, group, .. } in &self.nodes {
            let health = match status {
                Health::Healthy => "",
                Health::Warmup => ", warmup",
                Health::Unhealthy => ", unhealthy",
            };
            let group = group.as_ref().map(|group| format!(", {group}")).unwrap_or_default();
            writeln!(f, "         {name}: {membership}{health}{group}")?;
        }
        writeln!(f, "         buckets: {}", list(&self.buckets))
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
