//! What a command works with, from its options and secrets.

use std::path::Path;

use anyhow::Context;
use cbbootstrap_cli::{
    environment::variable,
    failure::{Failure, Problems},
    values::Auth,
};
use cbbootstrap_protocol::{names::ClusterId, trust::ClusterKeys, wire::MAX_SECRET_BYTES};

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

/// A cluster secret has at least this many bytes: the API gets a token that is derived from it, and could guess a short one.
const MIN_SECRET_BYTES: usize = 16;

/// This node and its server, the API, and the way to the servers of other nodes.
pub struct Here {
    pub identity: Identity,
    pub api: Api,
    pub server: Server,
    pub peers: Peers,
}

pub fn api(args: ApiArgs, insecure: bool, deadline: Deadline) -> anyhow::Result<Api> {
    let mut problems = Problems::default();
    let api = check_api(args, insecure, deadline, &mut problems);
    problems.report()?;
    api.context("an option is missing")
}

/// The API, unless an option is wrong or missing.
fn check_api(
    args: ApiArgs,
    insecure: bool,
    deadline: Deadline,
    problems: &mut Problems,
) -> Option<Api> {
    let url = args.api.ok_or_else(|| missing("api", "CBBOOTSTRAP_API"));
    let url = problems.keep(url.and_then(|url| api_url(&url, insecure)));
    let cluster_id = args.cluster_id.ok_or_else(|| missing("cluster-id", "CBBOOTSTRAP_CLUSTER_ID"));
    let cluster_id = problems.keep(cluster_id);
    let file = args.secret_file.as_deref();
    let secret = problems.keep(Secret::read(file, "CBBOOTSTRAP_SECRET", "the cluster secret"));
    let keys = secret.flatten().zip(cluster_id.as_ref());
    let keys = problems.keep(keys.map(|(secret, id)| self::keys(&secret, id)).transpose())?;
    let proxy = problems.keep(url.as_deref().map_or(Ok(None), http::proxy));
    let (url, cluster_id, proxy) = (url?, cluster_id?, proxy?);
    let region = match args.auth {
        Auth::None => None,
        Auth::Iam => Some(problems.keep(region(&url, args.region))?),
    };
    Some(Api::new(url, proxy.as_ref(), cluster_id, keys, region, deadline))
}

fn missing(option: &str, variable: &str) -> Failure {
    let key = option.replace('-', "_");
    Failure::usage(format!("`--{option}` is missing")).hint(format!(
        "pass `--{option}`, or set `{variable}`, or `{key}` in the file of `--config`"
    ))
}

fn api_url(url: &str, insecure: bool) -> Result<String, Failure> {
    let hint = "`cbbootstrap status` prints the API's";
    let url = values::url_of_host(url).map_err(|why| wrong_url("api", &why, hint))?;
    if !insecure && !url.starts_with("https://") && !http::is_local(&url) {
        return Err(Failure::usage(format!(
            "the API at {url} is not on this host, and `http://` is not encrypted"
        ))
        .hint("pass an https:// URL; `--insecure` sends requests over http:// anyway"));
    }
    Ok(url)
}

fn region(url: &str, option: Option<String>) -> Result<String, Failure> {
    // The host name takes precedence over an `AWS_REGION` that is set for other purposes.
    let region = aws::region_in(&http::host(url)).map(str::to_owned);
    let region = region.or(option).or_else(|| variable("AWS_DEFAULT_REGION"));
    region.ok_or_else(|| {
        Failure::usage(format!("the region of the API at {url} is not known"))
            .hint("pass `--region` or set `AWS_REGION`")
    })
}

fn keys(secret: &Secret, cluster_id: &ClusterId) -> Result<ClusterKeys, Failure> {
    let secret = secret.expose().as_bytes();
    if !(MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&secret.len()) {
        return Err(Failure::usage(format!(
            "the cluster secret must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, and has {}",
            secret.len()
        ))
        .hint("`openssl rand -base64 32` generates one"));
    }
    Ok(ClusterKeys::derive(secret, cluster_id))
}

pub fn here(api_args: ApiArgs, args: ServerArgs, deadline: Deadline) -> anyhow::Result<Here> {
    let mut problems = Problems::default();
    let url = problems.keep(server_url(&args.server, args.insecure));
    let stdin = Some(Path::new("-"));
    let password = if args.password_file.as_deref() == stdin
        && api_args.secret_file.as_deref() == stdin
    {
        problems.add(
            Failure::usage("standard input cannot hold both the password and the cluster secret")
                .hint("put one of them into a file or the environment"),
        );
        None
    } else {
        problems.keep(password(args.password_file.as_deref()))
    };
    let authority = problems.keep(args.ca_cert.as_deref().map(Trust::from_file).transpose());
    let api = check_api(api_args, args.insecure, deadline, &mut problems);
    problems.report()?;
    let options = url.zip(password).zip(authority).zip(api);
    let (((url, password), authority), api) = options.context("an option is missing")?;
    let administrator = Administrator { username: args.username, password };
    let node = args.node.map_or_else(|| identity::find_node(deadline), Ok)?;
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

fn server_url(url: &str, insecure: bool) -> Result<String, Failure> {
    let hint = "Couchbase Server listens on 8091, and on 18091 with TLS";
    let url = values::url(url).map_err(|why| wrong_url("server", &why, hint))?;
    if !http::is_local(&url) && !insecure && !url.starts_with("https://") {
        return Err(Failure::usage(format!("the password would be sent to {url} unencrypted"))
            .hint("pass an https:// URL, or run the agent on the server's host; `--insecure` sends it anyway"));
    }
    Ok(url)
}

fn password(file: Option<&Path>) -> anyhow::Result<Secret> {
    Secret::read(file, "CB_REST_PASSWORD", "the administrator's password")?.ok_or_else(|| {
        Failure::usage("the administrator's password is missing").hint(
            "pass a file with it (`--password-file`, `CBBOOTSTRAP_PASSWORD_FILE`, or `password_file` in the file of `--config`), \
             or set `CB_REST_PASSWORD`",
        ).into()
    })
}

fn wrong_url(option: &str, why: &str, hint: &str) -> Failure {
    Failure::usage(format!("`--{option}`: {why}")).hint(hint)
}
