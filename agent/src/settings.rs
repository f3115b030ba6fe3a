//! What a command works from: the options, checked together, and the secrets.

use std::{net::IpAddr, path::Path, time::Duration};

use cbbootstrap_function::wire::MAX_SECRET_BYTES;
use ureq::http::Uri;

use crate::{
    api::Api,
    aws,
    cli::{ApiArgs, Auth, ClusterArgs, ServerArgs, WaitArgs},
    failure::Failure,
    http::Trust,
    identity,
    secret::Secret,
    server::{Administrator, Server},
    values::{self, Bucket, Lease, Quota, Services},
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
    let url = self::url("api", &url)?;
    let cluster_id = args
        .cluster_id
        .ok_or_else(|| missing("cluster-id", "CBBOOTSTRAP_CLUSTER_ID"))?;
    let secret = Secret::read(args.secret_file.as_deref(), "CBBOOTSTRAP_SECRET")?;
    // The API would say so as well, and a header cannot hold all of what else there may be.
    let is_token = |secret: &Secret| {
        let secret = secret.expose();
        secret.len() <= MAX_SECRET_BYTES && secret.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if secret.as_ref().is_some_and(|secret| !is_token(secret)) {
        return Err(Failure::usage(format!(
            "the cluster's secret is to have 1 to {MAX_SECRET_BYTES} printable ASCII characters, and no spaces"
        ))
        .hint("`openssl rand -base64 32` makes one")
        .into());
    }
    let is_signed = args.auth == Auth::Iam;
    if is_signed && secret.is_some() {
        return Err(Failure::usage(
            "an API that takes signed requests has no cluster secrets: the signature takes their place",
        )
        .hint("leave the secret or `--auth iam` out")
        .into());
    }
    let region = args.region.or_else(|| aws::variable("AWS_DEFAULT_REGION"));
    Api::new(url, cluster_id, secret, is_signed, region)
}

/// This node and its server.
pub fn here(args: ServerArgs, secret_file: Option<&Path>) -> anyhow::Result<Here> {
    let stdin = Some(Path::new("-"));
    if args.password_file.as_deref() == stdin && secret_file == stdin {
        return Err(Failure::usage(
            "standard input holds one secret: the password or the cluster's",
        )
        .hint("put the other into a file or the environment")
        .into());
    }
    let url = self::url("server", &args.server)?;
    let is_local = is_local(&url);
    if !is_local && !args.insecure && !url.starts_with("https://") {
        return Err(Failure::usage(format!(
            "the password would go to {url} in the clear"
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
        server: Server::at(url, &trust, administrator.clone()),
        is_local,
        trust,
        administrator,
    })
}

/// The URL that an option gives.
fn url(option: &str, text: &str) -> Result<String, Failure> {
    values::url(text).map_err(|why| {
        let failure = Failure::usage(format!("`--{option}`: {why}"));
        match option {
            "api" => failure.hint("`cbbootstrap status` prints the API's"),
            _ => failure.hint("Couchbase Server listens on 8091, and on 18091 with TLS"),
        }
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
                return Err(
                    Failure::usage(format!("the bucket `{}` is given twice", bucket.name))
                        .hint("give each `--bucket` once; one that is there stays as it is"),
                );
            }
        }
        // A quota in other forms depends on the node's memory: that is checked when it is known.
        let buckets: u64 = args.bucket.iter().map(|bucket| bucket.quota).sum();
        if let Quota::Megabytes(quota) = args.memory_quota
            && buckets > quota
        {
            return Err(buckets_too_big(buckets, quota));
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

/// All of the buckets in MB, on each node, and the data service's quota.
pub fn buckets_too_big(buckets: u64, quota: u64) -> Failure {
    Failure::usage(format!(
        "the buckets need {buckets} MB on each node, and the data service has {quota} MB"
    ))
    .hint("give it more (`--memory-quota`), or them less (`--bucket`)")
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
