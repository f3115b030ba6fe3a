//! The node's own name, where none is given.

use cbbootstrap_protocol::names::Node;
use gethostname::gethostname;
use serde::Deserialize;

use crate::{
    aws::{self, Metadata},
    failure::Failure,
    http::{self, Trust},
    values,
};

/// What ECS says of a container.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    #[serde(default)]
    networks: Vec<Network>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    #[serde(default)]
    i_pv4_addresses: Vec<String>,
    #[serde(rename = "PrivateDNSName")]
    private_dns_name: Option<String>,
}

/// The host's fully qualified name; or what ECS says of the container, or EC2 of the machine.
///
/// A container's task has a metadata service of its own, and a host name that means nothing to others: it goes first.
pub fn node() -> anyhow::Result<Node> {
    let host = gethostname().to_string_lossy().into_owned();
    let node = |name: String| values::node(&name).ok();
    let found = of_container()
        .and_then(node)
        .or_else(|| full_name(&host).and_then(node))
        .or_else(|| Metadata::session()?.get("local-hostname").and_then(node));
    found.ok_or_else(|| {
        Failure::usage(format!(
            "this host calls itself `{host}`, which is not a name that other nodes can reach it by"
        ))
        .hint("give its fully qualified name or its address: `--node`, or `CBBOOTSTRAP_NODE`")
        .into()
    })
}

fn of_container() -> Option<String> {
    let url = aws::variable("ECS_CONTAINER_METADATA_URI_V4")?;
    let mut answer = http::client(&Trust::System, false).get(url).call().ok()?;
    let text = answer.body_mut().read_to_string().ok()?;
    let container: Container = serde_json::from_str(&text).ok()?;
    let network = container.networks.into_iter().next()?;
    network.private_dns_name.or_else(|| network.i_pv4_addresses.into_iter().next())
}

/// The host's name, if it is a full one; or what the resolver makes of it, which `/etc/hosts` says in a Kubernetes pod.
fn full_name(host: &str) -> Option<String> {
    if host.contains('.') {
        return Some(host.to_owned());
    }
    let hosts = std::fs::read_to_string("/etc/hosts").ok()?;
    full_name_in(&hosts, host)
}

/// The full name on the line that names the host. The host names itself on a loopback address, too: that one is not taken.
fn full_name_in(hosts: &str, host: &str) -> Option<String> {
    let mut lines = hosts.lines().filter_map(|line| {
        let line = line.split('#').next()?;
        let mut words = line.split_whitespace();
        let address: std::net::IpAddr = words.next()?.parse().ok()?;
        let names: Vec<_> = words.collect();
        (!address.is_loopback() && names.contains(&host)).then_some(names)
    });
    let full = |names: Vec<&str>| {
        let mut names = names.into_iter();
        names
            .find(|name| name.strip_prefix(host).is_some_and(|rest| rest.starts_with('.')))
            .map(str::to_owned)
    };
    lines.find_map(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_full_name_stands_in_its_hosts_file() {
        let pod = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n\
                   10.244.1.7\tcb-0.cb.default.svc.cluster.local\tcb-0\n";
        assert_eq!(full_name_in(pod, "cb-0").as_deref(), Some("cb-0.cb.default.svc.cluster.local"));
        for (hosts, host) in [
            (pod, "cb"),
            ("127.0.1.1 laptop.lan laptop", "laptop"),
            ("10.0.0.5 abc", "abc"),
            ("10.0.0.5 xabc.example.com abc", "abc"),
            ("", "abc"),
        ] {
            assert_eq!(full_name_in(hosts, host), None, "{hosts:?}");
        }
    }
}
