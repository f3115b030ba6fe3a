//! `discover`: the nodes to connect to.

use anyhow::Context;
use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    trust::ClusterKeys,
    wire::State,
};
use serde_json::json;

use super::{
    clock::{Clock, Wait},
    refused,
};
use crate::{
    api::Unanswered,
    cli::{DiscoverArgs, Format},
    failure::{Exit, Failure},
    printer::Printer,
    record::Record,
    settings::{self, Patience},
};

pub fn run(args: DiscoverArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let clock = Clock::new(Patience::from(args.wait));
    let (api, keys) = settings::api(args.api, args.insecure, clock.deadline())?;
    let id = api.cluster_id.as_str();
    loop {
        let why = match api.status(None) {
            Ok(Some(answer)) => {
                let record = answer.now();
                if record.state == State::Ready {
                    let nodes = trusted(&record, keys.as_ref(), &api.cluster_id)?;
                    printer.line(shown(id, &record, &nodes, args.format)?)?;
                    return Ok(Exit::Done);
                }
                format!("`{}` has not reported the cluster ready yet", record.initial_node)
            }
            Ok(None) => format!("nobody has claimed the cluster `{id}`"),
            Err(Unanswered::Later(why)) => why,
            Err(error) => return Err(refused(error)),
        };
        if !args.until_ready {
            return Err(Failure::new(why).hint("`--wait` waits until it is ready").into());
        }
        clock.pause(printer, &Wait::new(why))?;
    }
}

/// The nodes that are told: with a secret, only those that are attested with it.
fn trusted<'r>(
    record: &'r Record,
    keys: Option<&ClusterKeys>,
    id: &ClusterId,
) -> Result<Vec<&'r Node>, Failure> {
    let Some(keys) = keys else {
        return Ok(record.nodes());
    };
    let is_attested = |node: &&Node| {
        let uuid = record.cluster_uuid.as_ref();
        let member = record.member(node).zip(uuid);
        member.is_some_and(|(member, uuid)| member.is_attested(keys, id, uuid))
    };
    let nodes: Vec<_> = record.nodes().into_iter().filter(is_attested).collect();
    if nodes.is_empty() {
        return Err(Failure::refused("no member of the cluster is attested with this secret")
            .hint("do the nodes have the same secret (`--secret-file`)?"));
    }
    Ok(nodes)
}

fn shown(
    cluster_id: &str,
    record: &Record,
    nodes: &[&Node],
    format: Format,
) -> anyhow::Result<String> {
    let names: Vec<_> = nodes.iter().map(|node| node.as_str()).collect();
    Ok(match format {
        Format::Text => names.join("\n"),
        Format::Json => serde_json::to_string_pretty(&json!({
            "cluster_id": cluster_id,
            "cluster_uuid": record.cluster_uuid.as_ref().map(Uuid::as_str),
            "nodes": names,
            "connection_string": connection_string(nodes),
        }))
        .context("cannot write JSON")?,
        Format::ConnectionString => connection_string(nodes),
    })
}

/// Without ports: a node's is that of the management interface, and connection strings have those of the data service.
fn connection_string(nodes: &[&Node]) -> String {
    let hosts: Vec<_> = nodes.iter().map(|node| node.host().in_url()).collect();
    format!("couchbases://{}", hosts.join(","))
}
