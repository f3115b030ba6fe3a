//! The values of options and their rules: services, quotas, buckets, times, names.

use std::{
    collections::BTreeSet,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use cbbootstrap_cli::values::is_localhost;
pub use cbbootstrap_cli::values::{duration, url, url_of_host};
use cbbootstrap_protocol::{
    names::{ClusterId, Host, Node, SMOKE_TEST_PREFIX, is_smoke_test},
    wire::{LEASE_SECONDS, MAX_MEMBERS},
};

const MIN_BUCKET_MB: u64 = 100;

/// The smallest quota of the data service that Couchbase Server 7.6 accepts, in MB.
const MIN_DATA_MB: u64 = 256;

const MAX_MB: u64 = (1 << 32) - 1;

/// The part of the node's memory that [`Quota::Auto`] gives to all services, in percent, as the original did.
const AUTO_PERCENT: u64 = 80;

const MB: u64 = 1024 * 1024;

/// Each service: its name, and its name in the REST interface.
const SERVICES: [(&str, &str); 7] = [
    ("data", "kv"),
    ("index", "index"),
    ("query", "n1ql"),
    ("search", "fts"),
    ("analytics", "cbas"),
    ("eventing", "eventing"),
    ("backup", "backup"),
];

/// The services of a node, as indices of [`SERVICES`]: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services(BTreeSet<usize>);

impl Services {
    fn rows(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.0.iter().map(|index| SERVICES[*index])
    }

    /// Their names in the REST interface.
    pub fn codes(&self) -> String {
        self.rows().map(|(_, code)| code).collect::<Vec<_>>().join(",")
    }

    /// Whether Community Edition supports this combination on a node.
    pub fn exist_in_community(&self) -> bool {
        matches!(self.to_string().as_str(), "data" | "data,index,query" | "data,index,query,search")
    }

    pub fn has(&self, name: &str) -> bool {
        self.rows().any(|(service, _)| service == name)
    }
}

impl FromStr for Services {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let services = text.split(',').map(|part| {
            let part = part.trim();
            SERVICES.iter().position(|(name, code)| [*name, *code].contains(&part)).ok_or_else(
                || {
                    let names = SERVICES.map(|(name, _)| name).join(", ");
                    format!("`{part}` is not a service; the services are {names}")
                },
            )
        });
        services.collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rows().map(|(name, _)| name).collect::<Vec<_>>().join(","))
    }
}

/// The memory of the data service on each node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// [`AUTO_PERCENT`] of the node's memory, less the other services' quotas.
    Auto,
    Megabytes(u64),
    /// Of the node's memory.
    Percent(u64),
}

/// The most that the server allows the services of a node with this memory together: all but 1024 MB, or 80 % where that is more.
pub fn allowed_megabytes(memory_bytes: u64) -> u64 {
    let total = memory_bytes / MB;
    (total.saturating_sub(1024)).max(total * 80 / 100)
}

impl Quota {
    /// In MB, on a node with this memory whose other services have `others` MB.
    pub fn megabytes(self, memory_bytes: u64, others: u64) -> Result<u64, String> {
        let (total, allowed) = (memory_bytes / MB, allowed_megabytes(memory_bytes));
        let quota = match self {
            Self::Auto => (total * AUTO_PERCENT / 100).min(allowed).saturating_sub(others),
            Self::Megabytes(quota) => quota,
            Self::Percent(percent) => total * percent / 100,
        };
        if quota < MIN_DATA_MB {
            return Err(format!(
                "the data service would have {quota} MB of the node's {total} MB, and it needs {MIN_DATA_MB} MB"
            ));
        }
        if quota.saturating_add(others) > allowed {
            let beside = (others > 0).then(|| format!(" and the other services {others} MB"));
            let beside = beside.unwrap_or_default();
            return Err(format!(
                "the data service would have {quota} MB{beside}, and the server allows {allowed} MB of the node's {total} MB"
            ));
        }
        Ok(quota)
    }
}

impl FromStr for Quota {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let quota = match text.strip_suffix('%') {
            _ if text == "auto" => Some(Self::Auto),
            Some(percent) => parse_number(percent.trim(), 1..=100).map(Self::Percent),
            None => parse_number(text.trim(), MIN_DATA_MB..=MAX_MB).map(Self::Megabytes),
        };
        quota.ok_or_else(|| {
            "a quota is a number of MB (at least 256), a percentage (1% to 100%) of the node's memory, or `auto`".to_owned()
        })
    }
}

/// The pause between two attempts: short enough to notice what happens, and long enough not to keep a processor busy.
pub fn interval(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let limits = Duration::from_millis(50)..=Duration::from_mins(1);
    limits.contains(&time).then_some(time).ok_or_else(|| "an interval is 50ms to 1m".to_owned())
}

/// A number in digits only, within these limits.
fn parse_number(text: &str, limits: RangeInclusive<u64>) -> Option<u64> {
    text.parse().ok().filter(|number| !text.starts_with('+') && limits.contains(number))
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketSpec {
    pub name: String,
    /// Its memory on each node, in MB.
    pub quota: u64,
    /// The number of copies beside the first; `None` leaves it to the server (1).
    pub replicas: Option<u64>,
}

impl FromStr for BucketSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.trim().split(':').collect();
        let (name, quota, replicas) = match parts[..] {
            [name, quota] => (name, quota, None),
            [name, quota, replicas] => (name, quota, Some(replicas)),
            _ => return Err("a bucket is NAME:MB or NAME:MB:REPLICAS".to_owned()),
        };
        let is_valid = |c: char| c.is_ascii_alphanumeric() || "._%-".contains(c);
        let has_valid_length = (1..=100).contains(&name.len());
        if !has_valid_length || name.starts_with('.') || !name.chars().all(is_valid) {
            return Err(format!(
                "`{name}` is not a bucket name: 1 to 100 of A-Z a-z 0-9 . _ % -, and no dot at its beginning"
            ));
        }
        let quota = parse_number(quota, MIN_BUCKET_MB..=MAX_MB).ok_or_else(|| {
            format!("`{quota}` is not a bucket quota: a number of MB, at least {MIN_BUCKET_MB}")
        })?;
        let replicas = replicas.map(|text| {
            parse_number(text, 0..=3)
                .ok_or_else(|| format!("`{text}` is not a number of replicas: 0 to 3"))
        });
        Ok(Self { name: name.to_owned(), quota, replicas: replicas.transpose()? })
    }
}

/// How long a claim is valid while the cluster is not ready; `None` means forever, so no node replaces a first node that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease(pub Option<Duration>);

impl FromStr for Lease {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        let lease = duration(text)?;
        if LEASE_SECONDS.contains(&lease.as_secs()) {
            return Ok(Self(Some(Duration::from_secs(lease.as_secs()))));
        }
        Err("a lease lasts 30s to 24h, or is `never`".to_owned())
    }
}

pub fn cluster_id(text: &str) -> Result<ClusterId, String> {
    if is_smoke_test(text) {
        return Err(format!(
            "IDs that begin with `{SMOKE_TEST_PREFIX}` are reserved for `cbbootstrap smoke`"
        ));
    }
    ClusterId::new(text).map_err(|why| format!("a cluster ID {why}"))
}

/// An IP address or a host name, without a port.
pub fn host(text: &str) -> Result<Node, String> {
    let rule = || "pass an IP address or a host name, without scheme and port".to_owned();
    if text.contains("://") {
        return Err(rule());
    }
    let node = Node::new(text).map_err(|why| format!("`{text}` {why}"))?;
    if node.port().is_some() { Err(rule()) } else { Ok(node) }
}

pub fn node_count(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_MEMBERS).contains(number));
    number.ok_or_else(|| format!("pass a number from 1 to {MAX_MEMBERS}"))
}

/// A node's name, as the other nodes reach it.
pub fn node(text: &str) -> Result<Node, String> {
    let node = host(text)?;
    let is_own = match node.host() {
        // Only the usual one: many nodes may run on a host's other loopback addresses.
        Host::V4(address) => *address == Ipv4Addr::LOCALHOST || address.is_unspecified(),
        Host::V6(address) => *address == Ipv6Addr::LOCALHOST || address.is_unspecified(),
        Host::Name(name) => is_localhost(name) || name.starts_with("localhost."),
    };
    if is_own {
        return Err(format!(
            "`{node}` is a different host on each node: pass the address or the full name by which other nodes reach this one"
        ));
    }
    if !node.as_str().contains(['.', ':']) {
        return Err(format!(
            "`{node}` is a short name, and Couchbase Server accepts only full ones: pass the node's fully qualified domain name or its address"
        ));
    }
    Ok(node)
}

#[cfg(test)]
mod tests;
