//! `discover`: prints the nodes to connect to.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use cbbootstrap_cli::{exit::Exit, failure::Failure, files};
use cbbootstrap_protocol::{
    names::{Node, Uuid},
    trust::Fingerprint,
    wire::State,
};
use serde_json::json;
use ureq::tls::Certificate;

use super::clock::{Clock, Interrupt};
use crate::{
    api::{Api, ApiError},
    cli::{DiscoverArgs, Format},
    http::{CallError, Deadline},
    peers::fetch_authority,
    printer::Printer,
    record::ClusterRecord,
    settings,
};

pub fn run(args: DiscoverArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let clock = Clock::new(args.wait, printer);
    let api = settings::api(args.api, args.insecure, clock.deadline)?;
    if args.write_ca_cert.is_some() && api.keys.is_none() {
        return Err(Failure::usage("`--write-ca-cert` needs the cluster secret")
            .hint("pass the secret of the nodes: `--secret-file`, or `CBBOOTSTRAP_SECRET`")
            .into());
    }
    let id = &api.cluster_id;
    let expected = args.size.nodes.filter(|_| args.until_ready).unwrap_or(1);
    let (record, nodes, authorities) = clock.repeat(|| {
        let ready = "`--wait` waits until the cluster is ready";
        let (why, hint) = match api.status(None) {
            Ok(Some(record)) if record.state == State::Ready => {
                let nodes = match trusted_nodes(&record, &api) {
                    Ok(nodes) => nodes,
                    // The first report of a cluster may lack its attestation, which a later one adds.
                    Err(failure) if args.until_ready => return Err(Interrupt::unfinished(failure)),
                    Err(failure) => return Err(failure.into()),
                };
                let has_authority = |node: &Node| authority(&record, node).is_some();
                let authorities = match &args.write_ca_cert {
                    Some(_) if !nodes.iter().any(has_authority) => {
                        return Err(Failure::refused(
                            "no attested member has a certificate authority (Community Edition has no TLS)",
                        )
                        .hint("omit `--write-ca-cert`")
                        .into());
                    }
                    Some(_) => attested_authorities(&record, &nodes, clock.deadline, printer),
                    None => Ok(String::new()),
                };
                match authorities {
                    Ok(authorities) if nodes.len() >= expected => {
                        return Ok(Some((record, nodes, authorities)));
                    }
                    Ok(_) => (format!("{} of {expected} nodes have reported", nodes.len()), ready),
                    Err(error) => (error.to_string(), "check that the members run"),
                }
            }
            Ok(Some(record)) => {
                (format!("`{}` has not reported the cluster ready yet", record.initial_node), ready)
            }
            Ok(None) => (
                format!("nobody has claimed the cluster `{}`", id.as_str()),
                "check `--cluster-id`; `--wait` waits for the first node",
            ),
            Err(ApiError::Temporary(why)) if !args.until_ready && why.hint.is_none() => {
                (why.to_string(), "check `--api`, and that the API runs")
            }
            Err(ApiError::Temporary(why) | ApiError::Unsigned(why)) if !args.until_ready => {
                return Err(why.into());
            }
            Err(error) => return Err(error.into()),
        };
        if !args.until_ready {
            return Err(Failure::new(why).hint(hint).into());
        }
        Err(Interrupt::wait(why))
    })?;
    let is_on_stdout = match &args.write_ca_cert {
        Some(file) => files::replace(file, authorities.as_bytes(), "--write-ca-cert")?,
        None => false,
    };
    // Without a secret, the edition is not known.
    let has_tls = api.keys.is_none() || nodes.iter().any(|node| authority(&record, node).is_some());
    let names: Vec<_> = nodes.iter().map(Node::as_str).collect();
    let result = match args.format {
        Format::Text => names.join("\n"),
        Format::Json => serde_json::to_string_pretty(&json!({
            "cluster_id": id.as_str(),
            "cluster_uuid": record.cluster_uuid.as_ref().map(Uuid::as_str),
            "nodes": names,
            "connection_string": connection_string(&nodes, has_tls),
        }))?,
        Format::ConnectionString => connection_string(&nodes, has_tls),
    };
    if is_on_stdout {
        printer.message(result);
    } else {
        printer.line(result)?;
    }
    Ok(Exit::Done)
}

/// The nodes of the record; with a secret, only those that are attested with it.
fn trusted_nodes(record: &ClusterRecord, api: &Api) -> Result<Vec<Node>, Failure> {
    let is_trusted = |node: &&Node| match &api.keys {
        Some(keys) => record.attested_member(node, &api.cluster_id, keys).is_ok(),
        None => true,
    };
    let nodes: Vec<_> = record.nodes().into_iter().filter(is_trusted).cloned().collect();
    if nodes.is_empty() {
        return Err(Failure::refused("no member of the cluster is attested with this secret")
            .hint("give all nodes the same secret (`--secret-file`)"));
    }
    Ok(nodes)
}

/// The authority that has signed the member's certificate.
fn authority(record: &ClusterRecord, node: &Node) -> Option<Fingerprint> {
    record.member(node)?.authority
}

/// The authorities that have signed the members' certificates, in PEM. Warns about those that no member gives out: it may be dead, with
/// an authority that the cluster no longer uses. Fails if there are no others.
fn attested_authorities(
    record: &ClusterRecord,
    nodes: &[Node],
    deadline: Deadline,
    printer: &Printer,
) -> Result<String, CallError> {
    let mut certificates = BTreeMap::<Fingerprint, Result<Certificate<'static>, CallError>>::new();
    for node in nodes {
        let Some(fingerprint) = authority(record, node) else {
            printer.warning_once(format_args!("`{node}` has no certificate authority"));
            continue;
        };
        if !matches!(certificates.get(&fingerprint), Some(Ok(_))) {
            certificates.insert(fingerprint, fetch_authority(node, fingerprint, deadline));
        }
    }
    let (mut text, mut failure) = (String::new(), None);
    for certificate in certificates.into_values() {
        match certificate {
            Ok(certificate) => text.push_str(&pem(certificate.der())),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if text.is_empty() => return Err(error),
        Some(error) => printer.warning_once(format_args!(
            "the file lacks the authority of members that do not answer: {error}"
        )),
        None => {}
    }
    Ok(text)
}

fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Without ports: a node's is that of the management interface, a connection string's that of the data service.
fn connection_string(nodes: &[Node], has_tls: bool) -> String {
    let scheme = if has_tls { "couchbases" } else { "couchbase" };
    let hosts: Vec<_> = nodes.iter().map(|node| node.host().in_url()).collect();
    format!("{scheme}://{}", hosts.join(","))
}
