//! What AWS tells a machine or a container about itself, and the credentials it gives to sign requests with.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use aws_credential_types::Credentials;
pub use cbbootstrap_cli::environment::variable;
use jiff::Timestamp;
use serde::Deserialize;
use ureq::Agent;

use crate::{
    failure::Failure,
    http::{self, Trust},
};

/// The metadata service is on the same host: it answers at once, or it is not there.
const PATIENCE: Duration = Duration::from_secs(2);

/// Credentials are fetched anew so long before they expire.
const RENEW_BEFORE: Duration = Duration::from_mins(5);

/// EC2's metadata service, version 2.
#[derive(Debug)]
pub struct Metadata {
    client: Agent,
    endpoint: String,
    token: String,
}

impl Metadata {
    /// A session with it; none where it is switched off or not there.
    pub fn session() -> Option<Self> {
        let is_off = variable("AWS_EC2_METADATA_DISABLED")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if is_off {
            return None;
        }
        let endpoint = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT")
            .unwrap_or_else(|| "http://169.254.169.254".to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let client = http::client(&Trust::System, false);
        let mut answer = client
            .put(format!("{endpoint}/latest/api/token"))
            .config()
            .timeout_global(Some(PATIENCE))
            .build()
            .header("X-aws-ec2-metadata-token-ttl-seconds", "300")
            .send_empty()
            .ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let token = answer.body_mut().read_to_string().ok()?;
        Some(Self { client, endpoint, token })
    }

    /// What it says at this path below `latest/meta-data`; none if it knows nothing there.
    pub fn get(&self, path: &str) -> Option<String> {
        let mut answer = self
            .client
            .get(format!("{}/latest/meta-data/{path}", self.endpoint))
            .config()
            .timeout_global(Some(PATIENCE))
            .build()
            .header("X-aws-ec2-metadata-token", &self.token)
            .call()
            .ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        let text = text.trim();
        (answer.status().is_success() && !text.is_empty()).then(|| text.to_owned())
    }
}

/// What the metadata services give.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<Timestamp>,
}

/// The credentials of the environment, the container or the machine, in this order.
pub fn credentials() -> anyhow::Result<Credentials> {
    if let (Some(key), Some(secret)) =
        (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"))
    {
        let token = variable("AWS_SESSION_TOKEN");
        return Ok(Credentials::new(key, secret, token, None, "environment"));
    }
    let text = match of_container()? {
        Some(text) => text,
        None => of_machine().ok_or_else(|| {
            Failure::new("there are no AWS credentials to sign requests with").hint(
                "give the instance or the task a role that may `execute-api:Invoke`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        })?,
    };
    let given: Given =
        serde_json::from_str(&text).context("the metadata service gave no credentials")?;
    let expiry = given.expiration.map(|end| {
        let seconds = u64::try_from(end.as_second()).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    });
    Ok(Credentials::new(
        given.access_key_id,
        given.secret_access_key,
        given.token,
        expiry,
        "metadata",
    ))
}

/// Whether they have to be fetched anew.
pub fn expires_soon(credentials: &Credentials) -> bool {
    credentials.expiry().is_some_and(|end| end < SystemTime::now() + RENEW_BEFORE)
}

/// ECS and EKS hand them out at an address that stands in the environment.
fn of_container() -> anyhow::Result<Option<String>> {
    let url = match (
        variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    ) {
        (Some(path), _) => format!("http://169.254.170.2{path}"),
        (_, Some(url)) => url,
        _ => return Ok(None),
    };
    let mut request = http::client(&Trust::System, false).get(&url);
    let token = match variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => Some(
            fs::read_to_string(&file)
                .with_context(|| format!("cannot read the token of the container in `{file}`"))?,
        ),
        None => variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
    };
    if let Some(token) = token {
        request = request.header("Authorization", token.trim());
    }
    let asked = request.config().timeout_global(Some(PATIENCE)).build().call();
    let none = |why: String| {
        Failure::new(format!("no credentials from `{url}`: {why}"))
            .hint("does the task or the pod have a role, and is the token that stands in its environment the right one?")
    };
    let mut answer = asked.map_err(|error| none(http::reason(&error)))?;
    if !answer.status().is_success() {
        return Err(none(format!("status {}", answer.status())).into());
    }
    Ok(Some(answer.body_mut().read_to_string()?))
}

/// The role of the EC2 instance.
fn of_machine() -> Option<String> {
    let metadata = Metadata::session()?;
    let roles = metadata.get("iam/security-credentials/")?;
    let role = roles.lines().next()?;
    metadata.get(&format!("iam/security-credentials/{role}"))
}

/// The region that stands in the host name of an API, as API Gateway gives it out.
pub fn region_of(host: &str) -> Option<&str> {
    let (_, rest) = host.split_once(".execute-api.")?;
    let (region, domain) = rest.split_once('.')?;
    domain.starts_with("amazonaws.com").then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apis_name_has_its_region() {
        for (host, region) in [
            ("a1b2.execute-api.eu-central-1.amazonaws.com", Some("eu-central-1")),
            ("a1b2.execute-api.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("bootstrap.example.com", None),
            ("a.execute-api.localhost", None),
        ] {
            assert_eq!(region_of(host), region, "{host}");
        }
    }
}
