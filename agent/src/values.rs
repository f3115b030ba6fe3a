//! What the options hold: services, quotas, buckets, times. Checked before anything is done.

use std::{
    collections::BTreeSet,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

pub use cbbootstrap_cli::values::{duration, url};
use cbbootstrap_protocol::{
    names::{ClusterId, Host, Node},
    wire::LEASE_SECONDS,
};

/// What a bucket must have at least, in MB.
pub const MIN_BUCKET_MB: u64 = 100;

/// What the data service must have at least, in MB, as Couchbase Server 7.6 says.
pub const MIN_DATA_MB: u64 = 256;

/// What is left of the memory for everything else where the quota is left to the agent, in percent: as the original.
const AUTO_PERCENT: u64 = 80;

const MB: u64 = 1024 * 1024;

/// A service of Couchbase Server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Data.
    Data,
    /// Index.
    Index,
    /// Query.
    Query,
    /// Search.
    Search,
    /// Analytics.
    Analytics,
    /// Eventing.
    Eventing,
    /// Backup.
    Backup,
}

impl Service {
    const ALL: [Self; 7] = [
        Self::Data,
        Self::Index,
        Self::Query,
        Self::Search,
        Self::Analytics,
        Self::Eventing,
        Self::Backup,
    ];

    /// Its name in Couchbase Server's REST interface.
    pub fn code(self) -> &'static str {
        match self {
            Self::Data => "kv",
            Self::Index => "index",
            Self::Query => "n1ql",
            Self::Search => "fts",
            Self::Analytics => "cbas",
            Self::Eventing => "eventing",
            Self::Backup => "backup",
        }
    }

    /// Its name for people.
    fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Index => "index",
            Self::Query => "query",
            Self::Search => "search",
            Self::Analytics => "analytics",
            Self::Eventing => "eventing",
            Self::Backup => "backup",
        }
    }

    /// The quota that the server gives it, beside that of the data service, in MB.
    fn default_mb(self) -> u64 {
        match self {
            Self::Index | Self::Search => 512,
            Self::Analytics => 1024,
            Self::Eventing => 256,
            Self::Data | Self::Query | Self::Backup => 0,
        }
    }
}

/// The services of a node: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services(BTreeSet<Service>);

impl Services {
    /// As Couchbase Server takes them.
    pub fn codes(&self) -> String {
        let codes: Vec<_> = self.0.iter().map(|service| service.code()).collect();
        codes.join(",")
    }

    /// Whether Community Edition has this combination, on any node.
    pub fn are_of_community(&self) -> bool {
        const COMBINATIONS: [&[Service]; 3] = [
            &[Service::Data],
            &[Service::Data, Service::Index, Service::Query],
            &[Service::Data, Service::Index, Service::Query, Service::Search],
        ];
        COMBINATIONS.iter().any(|combination| self.0.iter().eq(combination.iter()))
    }

    /// Whether it is among them.
    pub fn has(&self, service: Service) -> bool {
        self.0.contains(&service)
    }
}

impl FromStr for Services {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let services = text.split(',').map(|part| {
            let part = part.trim();
            Service::ALL
                .into_iter()
                .find(|service| part == service.name() || part == service.code())
                .ok_or_else(|| {
                    let names: Vec<_> = Service::ALL.into_iter().map(Service::name).collect();
                    format!("`{part}` is no service; there are {}", names.join(", "))
                })
        });
        services.collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|service| service.name()).collect();
        f.write_str(&names.join(","))
    }
}

/// How much memory the data service of each node is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Most of what there is.
    Auto,
    /// So many MB.
    Megabytes(u64),
    /// So many percent of what there is.
    Percent(u64),
}

impl Quota {
    /// In MB, of a node with so many bytes of memory and these services.
    ///
    /// Of the node's memory the server takes no more than all but 1024 MB, or 80 % where that is more.
    pub fn megabytes(self, memory_bytes: u64, services: &Services) -> Result<u64, String> {
        let total = memory_bytes / MB;
        let most = (total.saturating_sub(1024)).max(total * 80 / 100);
        let others: u64 = services.0.iter().map(|service| service.default_mb()).sum();
        let quota = match self {
            Self::Auto => (total * AUTO_PERCENT / 100).min(most).saturating_sub(others),
            Self::Megabytes(quota) => quota,
            Self::Percent(percent) => total * percent / 100,
        };
        if quota < MIN_DATA_MB {
            return Err(format!(
                "the data service would have {quota} MB of the node's {total} MB, and it needs {MIN_DATA_MB} MB"
            ));
        }
        if quota + others > most {
            let beside = if others == 0 {
                String::new()
            } else {
                format!(" and the other services {others} MB")
            };
            return Err(format!(
                "the data service would have {quota} MB{beside}, and the server allows {most} MB of the node's {total} MB"
            ));
        }
        Ok(quota)
    }
}

impl FromStr for Quota {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const RULE: &str = "a quota is a number of MB (at least 256), a percentage (1% to 100%) of the node's memory, or `auto`";
        let number = |digits: &str| {
            let digits = digits.trim();
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse::<u64>().ok()).flatten()
        };
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let quota = match text.strip_suffix('%') {
            Some(percent) => {
                number(percent).filter(|percent| (1..=100).contains(percent)).map(Self::Percent)
            }
            None => number(text)
                .filter(|quota| (MIN_DATA_MB..=u64::from(u32::MAX)).contains(quota))
                .map(Self::Megabytes),
        };
        quota.ok_or_else(|| RULE.to_owned())
    }
}

/// A bucket that is to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// Its memory on each node, in MB.
    pub quota: u64,
    /// How many copies of its data there are beside the first; none leaves it to the server (1).
    pub replicas: Option<u8>,
}

impl FromStr for Bucket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let (Some(name), Some(quota), replicas, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("a bucket is NAME:MB or NAME:MB:REPLICAS".to_owned());
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || "._%-".contains(c);
        if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(valid)
        {
            return Err(format!(
                "`{name}` is no bucket's name: 1 to 100 of A-Z a-z 0-9 . _ % -, and no dot at its beginning"
            ));
        }
        let quota = quota
            .parse()
            .ok()
            .filter(|quota| (MIN_BUCKET_MB..=u64::from(u32::MAX)).contains(quota))
            .ok_or_else(|| {
                format!("`{quota}` is no bucket's quota: a number of MB, at least {MIN_BUCKET_MB}")
            })?;
        let replicas = replicas
            .map(|text| {
                text.parse()
                    .ok()
                    .filter(|replicas| *replicas <= 3)
                    .ok_or_else(|| format!("`{text}` is no number of replicas: 0 to 3"))
            })
            .transpose()?;
        Ok(Self { name: name.to_owned(), quota, replicas })
    }
}

/// How long a claim stands while the cluster is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// For ever: nobody takes the place of a first node that dies.
    Never,
    /// So long.
    For(Duration),
}

impl Lease {
    /// As the API takes it.
    pub fn seconds(self) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::For(duration) => Some(duration.as_secs()),
        }
    }
}

impl FromStr for Lease {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self::Never);
        }
        let lease = duration(text)?;
        if LEASE_SECONDS.contains(&lease.as_secs()) {
            Ok(Self::For(lease))
        } else {
            Err(format!(
                "a lease is {} s to {} s long, or `never` ends",
                LEASE_SECONDS.start(),
                LEASE_SECONDS.end()
            ))
        }
    }
}

/// A cluster's name at the API.
pub fn cluster_id(text: &str) -> Result<ClusterId, String> {
    ClusterId::new(text).map_err(|why| format!("a cluster's name {why}"))
}

/// An IP address or a host name, without a port.
pub fn host(text: &str) -> Result<Node, String> {
    const RULE: &str = "give an IP address or a host name, without scheme and port";
    if text.contains("://") {
        return Err(RULE.to_owned());
    }
    let node = Node::new(text).map_err(|why| format!("`{text}` {why}"))?;
    if node.port().is_some() {
        return Err(RULE.to_owned());
    }
    Ok(node)
}

/// A node's name, as the other nodes reach it.
pub fn node(text: &str) -> Result<Node, String> {
    let node = host(text)?;
    let is_own = match node.host() {
        // Only the usual ones: many nodes may run on one host's other loopback addresses.
        Host::V4(address) => *address == Ipv4Addr::LOCALHOST || address.is_unspecified(),
        Host::V6(address) => *address == Ipv6Addr::LOCALHOST || address.is_unspecified(),
        Host::Name(name) => name == "localhost" || name.starts_with("localhost."),
    };
    if is_own {
        return Err(format!(
            "`{node}` means another host on each host: give the address or the full name that the other nodes reach"
        ));
    }
    if !node.as_str().contains(['.', ':']) {
        return Err(format!(
            "`{node}` is a short name, and Couchbase Server takes only full ones: give the node's fully qualified domain name or its address"
        ));
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_two_names() {
        let services: Services = "n1ql, data,index,kv".parse().unwrap();
        assert_eq!(services.codes(), "kv,index,n1ql");
        assert_eq!(services.to_string(), "data,index,query");
        for bad in ["", "data,", "bogus", "Data"] {
            assert!(bad.parse::<Services>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn quotas_are_checked() {
        for (text, expected) in [
            ("auto", Some(Quota::Auto)),
            ("256", Some(Quota::Megabytes(256))),
            ("80%", Some(Quota::Percent(80))),
            ("100%", Some(Quota::Percent(100))),
            ("255", None),
            ("0%", None),
            ("101%", None),
            ("-5%", None),
            ("+80%", None),
            ("80 percent", None),
            ("", None),
            ("%", None),
            ("8000000000000000000000", None),
        ] {
            assert_eq!(text.parse::<Quota>().ok(), expected, "{text:?}");
        }
    }

    /// The server of the recordings has 25276514304 bytes, and allowed 23081 MB.
    #[test]
    fn a_quota_fits_into_the_node() {
        let memory = 25_276_514_304;
        let data: Services = "data".parse().unwrap();
        let more: Services = "data,index,search".parse().unwrap();
        assert_eq!(Quota::Auto.megabytes(memory, &data), Ok(19284));
        assert_eq!(Quota::Auto.megabytes(memory, &more), Ok(19284 - 1024));
        assert_eq!(Quota::Percent(50).megabytes(memory, &data), Ok(12052));
        assert_eq!(Quota::Megabytes(23081).megabytes(memory, &data), Ok(23081));
        for (quota, services, memory) in [
            (Quota::Megabytes(23082), &data, memory),
            (Quota::Megabytes(23081), &more, memory),
            (Quota::Percent(100), &data, memory),
            (Quota::Percent(1), &data, 1 << 30),
            (Quota::Auto, &more, 1 << 30),
        ] {
            assert!(quota.megabytes(memory, services).is_err(), "{quota:?}");
        }
        // A small node: 80 % of it.
        assert_eq!(Quota::Auto.megabytes(1 << 30, &data), Ok(819));
    }

    #[test]
    fn buckets_are_checked() {
        let bucket =
            |name: &str, quota, replicas| Bucket { name: name.to_owned(), quota, replicas };
        for (text, expected) in [
            ("app:256", Some(bucket("app", 256, None))),
            ("my.app-1_%:100:2", Some(bucket("my.app-1_%", 100, Some(2)))),
            ("app", None),
            ("app:99", None),
            ("app:256:4", None),
            ("app:256:1:1", None),
            (":256", None),
            (".app:256", None),
            ("a b:256", None),
            ("app:lots", None),
        ] {
            assert_eq!(text.parse::<Bucket>().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn leases_are_the_apis() {
        for (text, expected) in [
            ("never", Some(Lease::Never)),
            ("30s", Some(Lease::For(Duration::from_secs(30)))),
            ("24h", Some(Lease::For(Duration::from_hours(24)))),
            ("29s", None),
            ("25h", None),
            ("30", None),
        ] {
            assert_eq!(text.parse::<Lease>().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn clusters_have_names() {
        let longest = "x".repeat(1024);
        for (text, valid) in [
            ("demo", true),
            ("arn:aws:x:eu-west-1:1:group/a+b=", true),
            (longest.as_str(), true),
            (&format!("{longest}x"), false),
            ("a b", false),
            ("a\n", false),
            ("", false),
        ] {
            assert_eq!(cluster_id(text).is_ok(), valid, "{text:?}");
        }
    }

    #[test]
    fn nodes_are_addresses_or_full_names() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("127.5.0.9", Some("127.5.0.9")),
            ("fd00:0::0001", Some("fd00::1")),
            ("cb-0.cb.default.svc.cluster.local", Some("cb-0.cb.default.svc.cluster.local")),
            ("couchbase-0", None),
            ("couchbase-0.", None),
            (".example.com", None),
            ("a..b", None),
            ("https://10.0.0.1", None),
            ("10.0.0.1:8091", None),
            ("a b.c", None),
            ("", None),
            ("127.0.0.1", None),
            ("::1", None),
            ("0.0.0.0", None),
            ("::", None),
            ("localhost", None),
            ("localhost.localdomain", None),
        ] {
            assert_eq!(node(text).ok().as_ref().map(Node::as_str), expected, "{text:?}");
        }
    }
}
