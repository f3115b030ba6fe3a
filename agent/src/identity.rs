//! The node's name where `--node` is not given.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use cbbootstrap_cli::{failure::Failure, text};
use cbbootstrap_protocol::names::Node;
use gethostname::gethostname;

use crate::{
    aws::{self, Metadata},
    http::Deadline,
    values,
};

/// How long EC2's metadata service may be silent, for example while the machine boots, and the pause between two attempts.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(1);

/// The host's fully qualified name, or the name that ECS gives the container or EC2 the machine.
///
/// ECS comes first: a container's host name means nothing to other nodes.
///
/// Without a name, this is wrong usage (2) only if no service could have given one: after a failure (1), systemd starts the agent again.
pub fn find_node(deadline: Deadline) -> anyhow::Result<Node> {
    let host = gethostname().to_string_lossy().into_owned();
    let parse = |name: String| values::node(&name).ok();
    if let Some(node) =
        container_name().and_then(parse).or_else(|| full_name(&host).and_then(parse))
    {
        return Ok(node);
    }
    let asked = if Metadata::is_off() {
        Ok(None)
    } else {
        machine_name(SILENCE_LIMIT.min(deadline.time_left() / 2))
    };
    let why = format!("other nodes cannot reach this host by its host name `{host}`");
    let failure = match asked.map(|name| name.and_then(parse)) {
        Ok(Some(node)) => return Ok(node),
        Ok(None) => Failure::usage(why),
        Err(silence) => Failure::new(format!("{why}, and {silence}")),
    };
    let hint = "pass its fully qualified name or its address: `--node`, or `CBBOOTSTRAP_NODE`";
    Err(failure.hint(hint).into())
}

/// The machine's name in EC2, if it has one. The error says that the metadata service is silent.
fn machine_name(limit: Duration) -> Result<Option<String>, &'static str> {
    let started = Instant::now();
    loop {
        if let Some(Ok(name)) = Metadata::connect().map(|metadata| metadata.find("local-hostname"))
        {
            return Ok(name);
        }
        if started.elapsed() + PAUSE >= limit {
            return Err("EC2's metadata service does not answer");
        }
        thread::sleep(PAUSE);
    }
}

/// The name or address of the container's first network.
fn container_name() -> Option<String> {
    let network = &aws::container_metadata()?["Networks"][0];
    let name = network["PrivateDNSName"].as_str().or(network["IPv4Addresses"][0].as_str());
    name.map(str::to_owned)
}

/// The host's name if it is a full one, or the full one in `/etc/hosts`, where Kubernetes writes a pod's.
fn full_name(host: &str) -> Option<String> {
    if host.contains('.') {
        return Some(host.to_owned());
    }
    full_name_in(&std::fs::read("/etc/hosts").ok()?, host)
}

/// The full name on the line of a host. Lines of loopback addresses are skipped: other nodes cannot use their names. As to resolvers,
/// comments may have any encoding, and the case of names does not matter.
fn full_name_in(hosts: &[u8], host: &str) -> Option<String> {
    let hosts = String::from_utf8_lossy(hosts);
    text::clean(&hosts).lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        let names: Vec<_> = words.collect();
        if address.is_loopback() || !names.iter().any(|name| name.eq_ignore_ascii_case(host)) {
            return None;
        }
        let is_full = |name: &&str| {
            name.split_once('.').is_some_and(|(first, _)| first.eq_ignore_ascii_case(host))
        };
        names.into_iter().find(is_full).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_name_of_a_pod_comes_from_its_hosts_file() {
        let pod = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n\
                   10.244.1.7\tcb-0.cb.default.svc.cluster.local\tcb-0\n";
        let full_name_in = |hosts: &str, host| full_name_in(hosts.as_bytes(), host);
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
    #[test]
    fn hosts_file_is_read_as_resolvers_read_it() {
        for hosts in [
            &b"# caf\xe9\n10.9.0.1 n1.example.com n1"[..],
            b"10.9.0.1 n1.example.com n1 # caf\xe9",
            b"10.9.0.2 caf\xe9\n10.9.0.1 n1.example.com caf\xe9 n1",
            b"\xef\xbb\xbf10.9.0.1 n1.example.com n1\r\n",
            b"10.9.0.1 n1.example.com N1",
        ] {
            let name = full_name_in(hosts, "n1");
            assert_eq!(name.as_deref(), Some("n1.example.com"), "{}", hosts.escape_ascii());
        }
        let name = full_name_in(b"10.9.0.1 N1.Example.com n1", "n1");
        assert_eq!(name.as_deref(), Some("N1.Example.com"));
        assert_eq!(full_name_in(b"10.9.0.1 n\xff.example.com n\xff", "n"), None);
    }
}
