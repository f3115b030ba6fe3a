//! AWS's metadata services for machines and containers, and the credentials that they hand out. `commands/run/machine.rs` reads the
//! notices.

pub mod autoscaling;

use std::time::{Duration, SystemTime};

use anyhow::Context;
use aws_credential_types::Credentials;
use cbbootstrap_cli::{environment::variable, failure::Failure, signer::check_keys, text};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use ureq::{
    Agent, Body,
    http::{Response, StatusCode},
};

use crate::http::{self, Trust};

/// EC2's service, and those that hand out credentials, answer at once or are not there.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How long a session's token is valid: the longest that the service grants.
const TOKEN_SECONDS: &str = "21600";

const RENEW_BEFORE_EXPIRY: Duration = Duration::from_mins(5);

const WITHOUT_WEB_IDENTITY: &str = "associate the role with the pod's service account by EKS Pod Identity, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

fn client() -> Agent {
    http::client(&Trust::System, None, ANSWER_LIMIT)
}

/// The body of a successful answer; `None` if there is nothing at the URL.
fn read(url: &str, sent: Result<Response<Body>, ureq::Error>) -> Result<Option<String>, String> {
    match http::read(url, sent, http::MAX_BYTES) {
        Ok((StatusCode::NOT_FOUND, _)) => Ok(None),
        Ok((status, text)) if status.is_success() => Ok(Some(text.trim().to_owned())),
        Ok((status, _)) => Err(format!("{url} returned status {status}")),
        Err(error) => Err(error.to_string()),
    }
}

/// A session with EC2's metadata service, version 2.
#[derive(Debug)]
pub struct Metadata {
    client: Agent,
    endpoint: String,
    token: String,
}

impl Metadata {
    /// Opens a session; `None` where the service is switched off or absent, or does not answer.
    pub fn connect() -> Option<Self> {
        if Self::is_off() {
            return None;
        }
        let endpoint = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT")
            .unwrap_or_else(|| "http://169.254.169.254".to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let client = client();
        let sent = client
            .put(format!("{endpoint}/latest/api/token"))
            .header("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS)
            .send_empty();
        let token = read(&endpoint, sent).ok()??;
        Some(Self { client, endpoint, token })
    }

    /// Whether the service is switched off.
    pub fn is_off() -> bool {
        variable("AWS_EC2_METADATA_DISABLED")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The value at this path below `latest/meta-data`; `None` if the service answers that there is none.
    pub fn find(&self, path: &str) -> Result<Option<String>, String> {
        let url = format!("{}/latest/meta-data/{path}", self.endpoint);
        let request = self.client.get(&url).header("X-aws-ec2-metadata-token", &self.token);
        Ok(read(&url, request.call())?.filter(|text| !text.is_empty()))
    }
}

/// A document about this container from its task's metadata service.
pub fn container_metadata() -> Option<Value> {
    let url = variable("ECS_CONTAINER_METADATA_URI_V4")?;
    // Where the variable is set, the service is there, and worth waiting for.
    let client = http::client(&Trust::System, None, http::ANSWER_LIMIT);
    serde_json::from_str(&read(&url, client.get(&url).call()).ok()??).ok()
}

/// Why there are no credentials.
#[derive(Debug, Error)]
pub enum NoCredentials {
    /// The service that issues them does not answer, or has none yet: an instance may get its role late.
    #[error("{0}")]
    Temporary(Failure),
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl From<Failure> for NoCredentials {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure.into())
    }
}

/// The credentials of the environment, the container or the machine, in this order.
pub fn find_credentials() -> Result<Credentials, NoCredentials> {
    let keys = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
    let (credentials, place) = match keys {
        Some((key, secret)) => {
            let token = variable("AWS_SECURITY_TOKEN").or_else(|| variable("AWS_SESSION_TOKEN"));
            (Credentials::new(key, secret, token, None, "environment"), "the environment")
        }
        None => (issued_credentials()?, "the metadata service"),
    };
    check_keys(&credentials, place)?;
    Ok(credentials)
}

/// The credentials of the container or the machine.
fn issued_credentials() -> Result<Credentials, NoCredentials> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Issued {
        access_key_id: String,
        secret_access_key: String,
        token: Option<String>,
        expiration: Option<Timestamp>,
    }
    let text = match container_credentials()? {
        Some(text) => text,
        // The pod has a role, and must not sign with that of the machine that it runs on.
        None if variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() => {
            let failure = Failure::new(
                "the agent cannot sign requests with a web identity (`AWS_WEB_IDENTITY_TOKEN_FILE`, which EKS sets for IRSA)",
            );
            return Err(failure.hint(WITHOUT_WEB_IDENTITY).into());
        }
        None => instance_credentials()?,
    };
    let issued: Issued = serde_json::from_str(&text).map_err(|error| {
        let why = format!("the metadata service returned no credentials: {error}");
        NoCredentials::Temporary(Failure::new(why))
    })?;
    let Issued { access_key_id, secret_access_key, token, expiration } = issued;
    let expiry = expiration.and_then(|end| SystemTime::try_from(end).ok());
    Ok(Credentials::new(access_key_id, secret_access_key, token, expiry, "metadata"))
}

pub fn expires_soon(credentials: &Credentials) -> bool {
    credentials.expiry().is_some_and(|end| end < SystemTime::now() + RENEW_BEFORE_EXPIRY)
}

/// ECS and EKS serve them at an address from the environment.
fn container_credentials() -> Result<Option<String>, NoCredentials> {
    let path = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    let url = path.map(|path| format!("http://169.254.170.2{path}"));
    let Some(url) = url.or_else(|| variable("AWS_CONTAINER_CREDENTIALS_FULL_URI")) else {
        return Ok(None);
    };
    let mut request = client().get(&url);
    let token = match variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => {
            Some(text::read_text(file.as_ref()).context("there is no token for this container")?)
        }
        None => variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
    };
    if let Some(token) = token {
        request = request.header("Authorization", token.trim());
    }
    let failure = |why: String| {
        Failure::new(format!("no credentials for this container: {why}"))
            .hint("check the role of the task or the pod, and the token in its environment")
    };
    match http::read(&url, request.call(), http::MAX_BYTES) {
        Ok((status, text)) if status.is_success() => Ok(Some(text)),
        Ok((status, _)) => {
            let failure = failure(format!("{url} returned status {status}"));
            let is_refused = matches!(status.as_u16(), 400..=403);
            Err(if is_refused { failure.into() } else { NoCredentials::Temporary(failure) })
        }
        Err(error) => Err(NoCredentials::Temporary(failure(error.to_string()))),
    }
}

fn instance_credentials() -> Result<String, NoCredentials> {
    let failure = |why: &str| {
        Failure::new(format!("no AWS credentials found to sign requests{why}")).hint(
            "give the instance or the task a role that allows `execute-api:Invoke` on the API and the lifecycle actions of its Auto Scaling group, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    };
    if Metadata::is_off() {
        return Err(failure("").into());
    }
    let later = |why: String| NoCredentials::Temporary(failure(&format!(": {why}")));
    let no_role = || later("the instance has no role".to_owned());
    let metadata = Metadata::connect()
        .ok_or_else(|| later("EC2's metadata service does not answer".to_owned()))?;
    let path = "iam/security-credentials/";
    let roles = metadata.find(path).map_err(later)?.ok_or_else(no_role)?;
    let role = roles.lines().next().ok_or_else(no_role)?;
    metadata.find(&format!("{path}{role}")).map_err(later)?.ok_or_else(no_role)
}

/// The region in the host name that API Gateway gives an API.
pub fn region_in(host: &str) -> Option<&str> {
    let (_, rest) = host.split_once(".execute-api.")?;
    let (region, domain) = rest.split_once('.')?;
    domain.starts_with("amazonaws.com").then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_is_part_of_an_api_gateway_host() {
        for (host, region) in [
            ("a1b2.execute-api.eu-central-1.amazonaws.com", Some("eu-central-1")),
            ("a1b2.execute-api.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("bootstrap.example.com", None),
            ("a.execute-api.localhost", None),
        ] {
            assert_eq!(region_in(host), region, "{host}");
        }
    }
}
