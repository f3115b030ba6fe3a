//! `discover`: the nodes to connect to.

use anyhow::Context;
use cbbootstrap_function::wire::{Cluster, State};
use serde_json::json;

use super::{Clock, refused};
use crate::{
    api::Unanswered,
    cli::{DiscoverArgs, Format},
    failure::{Exit, Failure},
    http,
    printer::{Printer, print},
    settings,
};

pub fn run(args: DiscoverArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let api = settings::api(args.api)?;
    let clock = Clock::new(args.wait.into());
    loop {
        let why = match api.status(None) {
            Ok(Some(record)) if record.cluster.state == State::Ready => {
                print(&shown(&record.cluster, args.format)?)?;
                return Ok(Exit::Done);
            }
            Ok(Some(record)) => format!(
                "`{}` has not reported the cluster ready yet",
                record.cluster.initial_node_ip_addr_or_hostname
            ),
            Ok(None) => format!("nobody has claimed the cluster `{}`", api.cluster_id),
            Err(Unanswered::Later(why)) => why,
            Err(error) => return Err(refused(error)),
        };
        if !args.until_ready {
            return Err(Failure::new(why)
                .hint("`--wait` waits until it is ready")
                .into());
        }
        clock.pause(printer, &why)?;
    }
}

/// The node to join, and then the others.
fn nodes(cluster: &Cluster) -> Vec<&str> {
    let first = cluster.initial_node_ip_addr_or_hostname.as_str();
    let others = cluster.nodes.iter().map(String::as_str);
    std::iter::once(first)
        .chain(others.filter(|node| *node != first))
        .collect()
}

fn shown(cluster: &Cluster, format: Format) -> anyhow::Result<String> {
    let nodes = nodes(cluster);
    Ok(match format {
        Format::Text => nodes.join("\n"),
        Format::Json => serde_json::to_string_pretty(&json!({
            "cluster_id": cluster.cluster_id,
            "cluster_uuid": cluster.cluster_uuid,
            "nodes": nodes,
            "connection_string": connection_string(&nodes),
        }))
        .context("cannot write JSON")?,
        Format::ConnectionString => connection_string(&nodes),
    })
}

fn connection_string(nodes: &[&str]) -> String {
    let hosts: Vec<_> = nodes.iter().map(|node| http::host(node)).collect();
    format!("couchbases://{}", hosts.join(","))
}
