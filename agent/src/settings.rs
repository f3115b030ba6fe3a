//! What a command works from: the options, checked together, and the secrets.

use std::{env, net::IpAddr, path::Path, time::Duration};

use ureq::http::Uri;

use crate::{
    api::Api,
    cli::{ApiArgs, Auth, ClusterArgs, ServerArgs, WaitArgs},
    failure::Failure,
    http::Trust,
    identity,
    secret::Secret,
    server::{Administrator, Server},
    values::{Bucket, Lease, Quota, Services},
};

/// The least time between two looks.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// This node, its server, and how to reach those of other nodes.
#[derive(Debug)]
pub struct Here {
    /// The node's name.
    pub node: String,
    /// Its server.
    pub server: Server,
    /// Whether that runs on this host.
    pub is_local: bool,
    /// Whose certificates are taken.
    pub trust: Trust,
    /// Who administers the cluster.
    pub administrator: Administrator,
}

/// How long to wait, and how often to look.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// All in all.
    pub timeout: Duration,
    /// Between two looks.
    pub interval: Duration,
}

/// What the node and its cluster are to be.
#[derive(Debug)]
pub struct Plan {
    /// The node's services.
    pub services: Services,
    /// The data service's memory.
    pub quota: Quota,
    /// The buckets.
    pub buckets: Vec<Bucket>,
    /// The node's server group.
    pub group: Option<String>,
    /// The address for clients outside.
    pub alternate_address: Option<String>,
    /// The cluster's name in Couchbase Server.
    pub cluster_name: Option<String>,
    /// How long a claim stands.
    pub lease: Lease,
    /// How long the list of nodes has to stay the same before a rebalance.
    pub settle: Duration,
    /// Whether a cluster that is there already may be registered.
    pub adopt: bool,
}

/// The cluster's record at the API.
pub fn api(args: ApiArgs) -> anyhow::Result<Api> {
    let missing = |option: &str, variable: &str| {
        Failure::usage(format!("`--{option}` is missing")).hint(format!(
            "it may also stand in the environment (`{variable}`) or in a file (`--config`)"
        ))
    };
    let url = args.api.ok_or_else(|| missing("api", "CBBOOTSTRAP_API"))?;
    let cluster_id = args
        .cluster_id
        .ok_or_else(|| missing("cluster-id", "CBBOOTSTRAP_CLUSTER_ID"))?;
    let secret = Secret::read(args.secret_file.as_deref(), "CBBOOTSTRAP_SECRET")?;
    let is_signed = args.auth == Auth::Iam;
    if is_signed && secret.is_some() {
        return Err(Failure::usage(
            "an API that takes signed requests has no cluster secrets: the signature takes their place",
        )
        .hint("leave the secret or `--auth iam` out")
        .into());
    }
    let region = args.region.or_else(|| env::var("AWS_DEFAULT_REGION").ok());
    Api::new(url, cluster_id, secret, is_signed, region)
}

/// This node and its server.
pub fn here(args: ServerArgs, secret_file: Option<&Path>) -> anyhow::Result<Here> {
    let stdin = Some(Path::new("-"));
    if args.password_file.as_deref() == stdin && secret_file == stdin {
        return Err(Failure::usage(
            "standard input holds one secret: the password or the cluster's",
        )
        .into());
    }
    let is_local = is_local(&args.server);
    if args.server.starts_with("http://") && !is_local && !args.insecure {
        return Err(Failure::usage(format!(
            "the password would go to {} in the clear",
            args.server
        ))
        .hint("give an https:// URL, or run the agent on the server's host; `--insecure` sends it all the same")
        .into());
    }
    let password = Secret::read(args.password_file.as_deref(), "CB_REST_PASSWORD")?;
    let password = password.ok_or_else(|| {
        Failure::usage("the administrator's password is missing").hint(
            "give it in a file (`--password-file`) or in the environment (`CB_REST_PASSWORD`)",
        )
    })?;
    let administrator = Administrator {
        username: args.username,
        password,
    };
    let trust = Trust::of(args.ca_cert.as_deref(), args.insecure)?;
    let node = match args.node {
        Some(node) => node,
        None => identity::node()?,
    };
    Ok(Here {
        node,
        server: Server::at(args.server, &trust, administrator.clone()),
        is_local,
        trust,
        administrator,
    })
}

/// Whether the URL names this host by a loopback address.
fn is_local(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl From<WaitArgs> for Patience {
    fn from(args: WaitArgs) -> Self {
        Self {
            timeout: args.timeout,
            interval: args.interval.max(MIN_INTERVAL),
        }
    }
}

impl TryFrom<ClusterArgs> for Plan {
    type Error = Failure;

    fn try_from(args: ClusterArgs) -> Result<Self, Failure> {
        for (place, bucket) in args.bucket.iter().enumerate() {
            if args.bucket[..place]
                .iter()
                .any(|other| other.name == bucket.name)
            {
                return Err(Failure::usage(format!(
                    "the bucket `{}` is given twice",
                    bucket.name
                )));
            }
        }
        Ok(Self {
            services: args.services,
            quota: args.memory_quota,
            buckets: args.bucket,
            group: args.server_group,
            alternate_address: args.alternate_address,
            cluster_name: args.cluster_name,
            lease: args.lease,
            settle: args.settle,
            adopt: args.adopt,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_loopback_addresses() {
        for (url, expected) in [
            ("http://127.0.0.1:8091", true),
            ("http://127.5.0.9:8091", true),
            ("http://localhost:8091", true),
            ("http://[::1]:8091", true),
            ("http://10.0.0.1:8091", false),
            ("http://localhost.example.com:8091", false),
        ] {
            assert_eq!(is_local(url), expected, "{url}");
        }
    }
}
