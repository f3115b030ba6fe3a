//! What a command works with, from its options and secrets.

use std::path::Path;

use cbbootstrap_cli::{environment::variable, failure::Failure, values::Auth};
use cbbootstrap_protocol::{names::ClusterId, trust::ClusterKeys};

use crate::{
    api::{Api, Identity},
    aws,
    cli::{ApiArgs, ServerArgs},
    http::{self, Deadline, Trust},
    identity,
    peers::Peers,
    secret::Secret,
    server::{Administrator, Server},
    values,
};

/// A cluster's secret has at least this many bytes: the API gets a token that is derived from it, and could guess a short one.
const MIN_SECRET_BYTES: usize = 16;

const MAX_SECRET_BYTES: usize = 512;

/// This node and its server, the API, and the way to the servers of other nodes.
pub struct Here {
    pub identity: Identity,
    pub api: Api,
    pub server: Server,
    pub peers: Peers,
}

/// The API, for the cluster and with its secret.
pub fn api(args: ApiArgs, insecure: bool, deadline: Deadline) -> anyhow::Result<Api> {
    let missing = |option: &str, variable: &str| {
        Failure::usage(format!("`--{option}` is missing")).hint(format!(
            "give it as an option, in the environment (`{variable}`) or in a file (`--config`)"
        ))
    };
    let url = args.api.ok_or_else(|| missing("api", "CBBOOTSTRAP_API"))?;
    let url = parse_url("api", &url, "`cbbootstrap status` prints the API's")?;
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
    let region = match args.auth {
        Auth::None => None,
        Auth::Iam => {
            // The host name takes precedence over an `AWS_REGION` that is set for other purposes.
            let region = aws::region_in(&http::host(&url)).map(str::to_owned);
            let region = region.or(args.region).or_else(|| variable("AWS_DEFAULT_REGION"));
            Some(region.ok_or_else(|| {
                Failure::usage(format!("the region of the API at {url} is not known"))
                    .hint("give it: `--region`, or `AWS_REGION`")
            })?)
        }
    };
    Ok(Api::new(url, cluster_id, keys, region, deadline))
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

pub fn here(api_args: ApiArgs, args: ServerArgs, deadline: Deadline) -> anyhow::Result<Here> {
    let stdin = Some(Path::new("-"));
    if args.password_file.as_deref() == stdin && api_args.secret_file.as_deref() == stdin {
        return Err(Failure::usage(
            "standard input cannot hold both the password and the cluster's secret",
        )
        .hint("put the other into a file or the environment")
        .into());
    }
    let hint = "Couchbase Server listens on 8091, and on 18091 with TLS";
    let url = parse_url("server", &args.server, hint)?;
    if !http::is_local(&url) && !args.insecure && !url.starts_with("https://") {
        return Err(Failure::usage(format!("the password would be sent to {url} unencrypted"))
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
    let api = self::api(api_args, args.insecure, deadline)?;
    let node = args.node.map_or_else(identity::find_node, Ok)?;
    // The operator has named this server, so the system's authorities will do.
    let trust = match &authority {
        _ if args.insecure => Trust::Anyone,
        Some(authority) => authority.clone(),
        None => Trust::System,
    };
    Ok(Here {
        identity: Identity { node, node_uuid: None },
        server: Server::new(url, &trust, Some(administrator.clone()), deadline),
        peers: Peers {
            cluster_id: api.cluster_id.clone(),
            keys: api.keys.clone(),
            authority,
            is_insecure: args.insecure,
            administrator,
            deadline,
        },
        api,
    })
}

/// The URL that an option gives.
fn parse_url(option: &str, text: &str, hint: &str) -> Result<String, Failure> {
    values::url(text).map_err(|why| Failure::usage(format!("`--{option}`: {why}")).hint(hint))
}
