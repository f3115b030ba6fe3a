//! `discover`: prints the nodes to connect to.

use cbbootstrap_cli::failure::{Exit, Failure};
use cbbootstrap_protocol::{
    names::{Node, Uuid},
    wire::State,
};
use serde_json::json;

use super::clock::{Clock, Interrupt};
use crate::{
    api::{Api, ApiError},
    cli::{DiscoverArgs, Format},
    printer::Printer,
    record::ClusterRecord,
    settings,
};

pub fn run(args: DiscoverArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let clock = Clock::new(args.wait, printer);
    let api = settings::api(args.api, args.insecure, clock.deadline)?;
    let id = &api.cluster_id;
    let expected = args.size.nodes.filter(|_| args.until_ready).unwrap_or(1);
    let record = clock.repeat(|| {
        let why = match api.status(None) {
            Ok(Some(record)) if record.state == State::Ready => {
                let count = trusted_nodes(&record, &api)?.len();
                if count >= expected {
                    return Ok(Some(record));
                }
                format!("{count} of {expected} nodes have reported")
            }
            Ok(Some(record)) => {
                format!("`{}` has not reported the cluster ready yet", record.initial_node)
            }
            Ok(None) => format!("nobody has claimed the cluster `{}`", id.as_str()),
            Err(ApiError::Temporary(why)) if !args.until_ready => why,
            Err(error) => return Err(error.into()),
        };
        if !args.until_ready {
            return Err(Failure::new(why).hint("`--wait` waits until it is ready").into());
        }
        Err(Interrupt::wait(why))
    })?;
    let nodes = trusted_nodes(&record, &api)?;
    let names: Vec<_> = nodes.iter().map(|node| node.as_str()).collect();
    printer.line(match args.format {
        Format::Text => names.join("\n"),
        Format::Json => serde_json::to_string_pretty(&json!({
            "cluster_id": id.as_str(),
            "cluster_uuid": record.cluster_uuid.as_ref().map(Uuid::as_str),
            "nodes": names,
            "connection_string": connection_string(&nodes),
        }))?,
        Format::ConnectionString => connection_string(&nodes),
    })?;
    Ok(Exit::Done)
}

/// The nodes of the record; with a secret, only those that are attested with it.
fn trusted_nodes<'r>(record: &'r ClusterRecord, api: &Api) -> Result<Vec<&'r Node>, Failure> {
    let mut nodes = record.nodes();
    let Some(keys) = &api.keys else {
        return Ok(nodes);
    };
    nodes.retain(|node| record.attested_member(node, &api.cluster_id, keys).is_ok());
    if nodes.is_empty() {
        return Err(Failure::refused("no member of the cluster is attested with this secret")
            .hint("give all nodes the same secret (`--secret-file`)"));
    }
    Ok(nodes)
}

/// Without ports: a node's is that of the management interface, a connection string's that of the data service.
fn connection_string(nodes: &[&Node]) -> String {
    let hosts: Vec<_> = nodes.iter().map(|node| node.host().in_url()).collect();
    format!("couchbases://{}", hosts.join(","))
}
