//! What a command works from: the options, checked together, and the secrets.

use std::{path::Path, time::Duration};

use cbbootstrap_protocol::{
    names::{ClusterId, Node},
    trust::ClusterKeys,
};

use crate::{
    api::Api,
    aws,
    cli::{ApiArgs, Auth, ClusterArgs, ServerArgs, WaitArgs},
    failure::Failure,
    http::{self, Deadline, Trust},
    identity,
    peers::Peers,
    secret::Secret,
    server::{Administrator, Server},
    values::{self, Bucket, Lease, Quota, Services},
};

/// The least time between two checks.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// A cluster's secret has at least this many bytes: the API gets a token that is derived from it, and could guess a short one.
const MIN_SECRET_BYTES: usize = 16;

/// And at most this many.
const MAX_SECRET_BYTES: usize = 512;

/// This node, its server, and how to reach those of other nodes.
#[derive(Debug)]
pub struct Here {
    /// The node's name.
    pub node: Node,
    /// Its server.
    pub server: Server,
    /// Whether that runs on this host.
    pub is_local: bool,
    /// The other members.
    pub peers: Peers,
}

/// How long to wait, and how often to look.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// All in all.
    pub timeout: Duration,
    /// When that is over.
    pub deadline: Deadline,
    /// Between two checks.
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
    pub alternate_address: Option<Node>,
    /// The cluster's name in Couchbase Server.
    pub cluster_name: Option<String>,
    /// How long a claim stands.
    pub lease: Lease,
    /// How long the list of nodes has to stay the same before a rebalance.
    pub settle: Duration,
    /// Whether a cluster that is there already may be registered.
    pub adopt: bool,
}

/// The cluster's record at the API, and the keys of its secret.
pub fn api(
    args: ApiArgs,
    insecure: bool,
    deadline: Deadline,
) -> anyhow::Result<(Api, Option<ClusterKeys>)> {
    let missing = |option: &str, variable: &str| {
        Failure::usage(format!("`--{option}` is missing")).hint(format!(
            "give it as an option, in the environment (`{variable}`) or in a file (`--config`)"
        ))
    };
    let url = args.api.ok_or_else(|| missing("api", "CBBOOTSTRAP_API"))?;
    let url = self::url("api", &url)?;
    if !insecure && !url.starts_with("https://") && !http::is_local(&url) {
        return Err(Failure::usage(format!(
            "the API at {url} is not on this host, and `http://` is not encrypted"
        ))
        .hint("give an https:// URL; `--insecure` sends requests over http:// anyway")
        .into());
    }
    let cluster_id =
        args.cluster_id.ok_or_else(|| missing("cluster-id", "CBBOOTSTRAP_CLUSTER_ID"))?;
    let secret = Secret::read(args.secret_file.as_deref(), "CBBOOTSTRAP_SECRET")?;
    let keys = secret.map(|secret| keys(&secret, &cluster_id)).transpose()?;
    let token = keys.as_ref().map(|keys| keys.token().to_owned());
    let region = args.region.or_else(|| aws::variable("AWS_DEFAULT_REGION"));
    let api = Api::new(url, cluster_id, token, args.auth == Auth::Iam, region, deadline)?;
    Ok((api, keys))
}

fn keys(secret: &Secret, cluster_id: &ClusterId) -> Result<ClusterKeys, Failure> {
    let secret = secret.expose().as_bytes();
    if !(MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&secret.len()) {
        return Err(Failure::usage(format!(
            "the cluster's secret must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, and has {}",
            secret.len()
        ))
        .hint("`openssl rand -base64 32` makes one"));
    }
    Ok(ClusterKeys::derive(secret, cluster_id))
}

/// This node, its server and the cluster's record.
pub fn here(
    api_args: ApiArgs,
    args: ServerArgs,
    deadline: Deadline,
) -> anyhow::Result<(Here, Api)> {
    let stdin = Some(Path::new("-"));
    if args.password_file.as_deref() == stdin && api_args.secret_file.as_deref() == stdin {
        return Err(Failure::usage(
            "standard input holds one secret: the password or the cluster's",
        )
        .hint("put the other into a file or the environment")
        .into());
    }
    let url = self::url("server", &args.server)?;
    let is_local = http::is_local(&url);
    if !is_local && !args.insecure && !url.starts_with("https://") {
        return Err(Failure::usage(format!("the password would go to {url} in the clear"))
            .hint("give an https:// URL, or run the agent on the server's host; `--insecure` sends it anyway")
            .into());
    }
    let password = Secret::read(args.password_file.as_deref(), "CB_REST_PASSWORD")?;
    let password = password.ok_or_else(|| {
        Failure::usage("the administrator's password is missing").hint(
            "give it in a file (`--password-file`) or in the environment (`CB_REST_PASSWORD`)",
        )
    })?;
    let administrator = Administrator { username: args.username, password };
    let authority = args.ca_cert.as_deref().map(Trust::from_file).transpose()?;
    let (api, keys) = self::api(api_args, args.insecure, deadline)?;
    let node = match args.node {
        Some(node) => node,
        None => identity::find_node()?,
    };
    // The operator has named this server, so the system's authorities will do.
    let trust = match &authority {
        _ if args.insecure => Trust::Anyone,
        Some(authority) => authority.clone(),
        None => Trust::System,
    };
    let here = Here {
        node,
        server: Server::new(url, &trust, Some(administrator.clone()), deadline),
        is_local,
        peers: Peers {
            cluster_id: api.cluster_id.clone(),
            keys,
            authority,
            is_insecure: args.insecure,
            administrator,
            deadline,
        },
    };
    Ok((here, api))
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

impl From<WaitArgs> for Patience {
    fn from(args: WaitArgs) -> Self {
        Self {
            timeout: args.timeout,
            deadline: Deadline::after(args.timeout),
            interval: args.interval.max(MIN_INTERVAL),
        }
    }
}

impl TryFrom<ClusterArgs> for Plan {
    type Error = Failure;

    fn try_from(args: ClusterArgs) -> Result<Self, Failure> {
        for (place, bucket) in args.bucket.iter().enumerate() {
            if args.bucket[..place].iter().any(|other| other.name == bucket.name) {
                return Err(Failure::usage(format!("the bucket `{}` is given twice", bucket.name))
                    .hint("give each `--bucket` once; one that is there stays as it is"));
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
    .hint("raise `--memory-quota`, or give the buckets less (`--bucket`)")
}
