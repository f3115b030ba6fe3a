//! `status`: what the server, its cluster and the API say, and whether they agree.

use std::{fmt, time::Duration};

use cbbootstrap_protocol::{
    names::Node,
    wire::{Cluster, State},
};
use serde::Serialize;

use crate::{
    api::Answer,
    cli::StatusArgs,
    failure::Exit,
    http::Deadline,
    printer::Printer,
    record::Record,
    server::{Error, Health, Membership, View},
    settings::{self, Here},
};

/// What they say.
#[derive(Debug, Serialize)]
struct Status {
    /// Whether the node is an active, healthy member of the cluster that the API tells of and knows it in, and that is ready and
    /// balanced.
    healthy: bool,
    node: String,
    server: ServerStatus,
    api: ApiStatus,
}

#[derive(Debug, Serialize)]
struct ServerStatus {
    url: String,
    /// Why it says nothing.
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
    /// Couchbase Server's word for it.
    status: &'static str,
    group: Option<String>,
}

#[derive(Debug, Serialize)]
struct ApiStatus {
    url: String,
    cluster_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The record; `None` if nobody has claimed the cluster.
    cluster: Option<Cluster>,
}

/// The most time that all of it may take.
const LIMIT: Duration = Duration::from_mins(1);

pub fn run(args: StatusArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let (here, api) = settings::here(args.api, args.server, Deadline::after(LIMIT))?;
    let (answer, error) = match api.status(Some(&here.node)) {
        Ok(answer) => (answer, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let (server, view) = look(&here);
    let record = answer.as_ref().map(Answer::now);
    let status = Status {
        healthy: is_healthy(&here.node, view.as_ref(), record.as_ref()),
        node: here.node.to_string(),
        server,
        api: ApiStatus {
            url: api.url,
            cluster_id: api.cluster_id.as_str().to_owned(),
            error,
            cluster: answer.map(|answer| answer.cluster),
        },
    };
    printer.result(&status)?;
    Ok(if status.healthy { Exit::Done } else { Exit::Failed })
}

fn look(here: &Here) -> (ServerStatus, Option<View>) {
    let mut status =
        ServerStatus { url: here.server.url.clone(), error: None, version: None, cluster: None };
    let seen = here.server.pools().and_then(|pools| {
        status.version = Some(pools.version);
        pools.uuid.map_or(Ok(None), |uuid| here.server.view(uuid))
    });
    match seen {
        Ok(view) => {
            status.cluster = view.as_ref().map(ClusterStatus::from);
            (status, view)
        }
        Err(error) => {
            status.error = Some(match error {
                Error::Unauthorized => "it has another user name or password".to_owned(),
                error => error.to_string(),
            });
            (status, None)
        }
    }
}

fn is_healthy(node: &Node, view: Option<&View>, record: Option<&Record>) -> bool {
    let (Some(view), Some(record)) = (view, record) else {
        return false;
    };
    let is_in = view.this().is_some_and(|this| {
        this.membership == Membership::Active && this.health == Health::Healthy
    });
    is_in
        && view.is_balanced
        && !view.is_rebalancing
        && record.state == State::Ready
        && record.cluster_uuid.as_ref().is_none_or(|uuid| *uuid == view.uuid)
        && record.member(node).is_some()
}

impl From<&View> for ClusterStatus {
    fn from(view: &View) -> Self {
        Self {
            uuid: view.uuid.to_string(),
            balanced: view.is_balanced,
            rebalancing: view.is_rebalancing,
            nodes: view
                .nodes
                .iter()
                .map(|node| NodeStatus {
                    name: node.name.clone(),
                    membership: match node.membership {
                        Membership::Active => "active",
                        Membership::Added if node.is_recovering => "to be recovered",
                        Membership::Added => "added",
                        Membership::Failed => "failed over",
                    },
                    healthy: node.health == Health::Healthy,
                    status: match node.health {
                        Health::Healthy => "healthy",
                        Health::WarmingUp => "warmup",
                        Health::Unhealthy => "unhealthy",
                    },
                    group: node.group.clone(),
                })
                .collect(),
            buckets: view.buckets.clone(),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerStatus { url, version, .. } = &self.server;
        let version = version.as_deref().unwrap_or("");
        writeln!(f, "node     {}", self.node)?;
        writeln!(f, "server   {url} {version}")?;
        match (&self.server.error, &self.server.cluster) {
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
        let verdict = if self.healthy { "all is well" } else { "not well" };
        write!(f, "{verdict}")
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
        for node in &self.nodes {
            let NodeStatus { name, membership, healthy, status, group } = node;
            let health = if *healthy { String::new() } else { format!(", {status}") };
            let group = group.as_ref().map_or_else(String::new, |group| format!(", {group}"));
            writeln!(f, "         {name}: {membership}{health}{group}")?;
        }
        writeln!(f, "         buckets: {}", list(&self.buckets))
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
