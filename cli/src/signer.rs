//! Signatures for requests that require AWS credentials (Signature Version 4).

use std::time::SystemTime;

use anyhow::Context;
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use http::Uri;

use crate::failure::Failure;

/// The service name of APIs in API Gateway.
pub const API_GATEWAY: &str = "execute-api";

/// Whether a key or token can be part of a header.
pub fn is_printable(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii_graphic())
}

pub fn invalid_key(source: &str) -> Failure {
    Failure::usage(format!(
        "{source} contains a space, a control character or one outside of ASCII"
    ))
    .hint("copy the key again, without quotes and line ends")
}

/// Checks that the keys can be part of a request. The AWS SDK panics if they cannot.
pub fn check_keys(credentials: &Credentials, source: &str) -> Result<(), Failure> {
    for (name, key) in [
        ("the access key ID", credentials.access_key_id()),
        ("the secret access key", credentials.secret_access_key()),
        ("the session token", credentials.session_token().unwrap_or_default()),
    ] {
        if !is_printable(key) {
            return Err(invalid_key(name).about(source));
        }
    }
    Ok(())
}

#[derive(Clone, Debug)]
pub struct Signer {
    pub credentials: Credentials,
    pub region: String,
    /// The service's name in signatures.
    pub service: &'static str,
}

impl Signer {
    /// The headers that sign this request. They are valid for a few minutes.
    pub fn headers(
        &self,
        method: &str,
        url: &str,
        body: &str,
    ) -> anyhow::Result<Vec<(String, String)>> {
        self.headers_at(SystemTime::now(), method, url, body)
            .with_context(|| format!("cannot sign the request to `{url}`"))
    }

    fn headers_at(
        &self,
        time: SystemTime,
        method: &str,
        url: &str,
        body: &str,
    ) -> anyhow::Result<Vec<(String, String)>> {
        let identity = self.credentials.clone().into();
        // The defaults fit all services but S3: an escaped path is escaped once more.
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service)
            .time(time)
            .settings(SigningSettings::default())
            .build()?
            .into();
        // The client sends the port even if it is the scheme's default.
        let uri: Uri = url.parse()?;
        let host = uri.authority().map(|host| ("host", host.as_str()));
        let body = SignableBody::Bytes(body.as_bytes());
        let request = SignableRequest::new(method, url, host.into_iter(), body)?;
        let (instructions, _) = sign(request, &parameters)?.into_parts();
        let headers = instructions.headers();
        Ok(headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The expected signatures are those that botocore's `SigV4Auth` computes.
    #[test]
    fn signatures_equal_those_of_botocore() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_490_396);
        let aws = "https://a1b2c3.execute-api.eu-central-1.amazonaws.com";
        for (method, url, body, token, expected) in [
            (
                "GET",
                format!("{aws}/"),
                "",
                None,
                "976efa35b191426506b7c3d7856c4ef1041bdbbbe60ed8bb3b59c2ad0ffa50da",
            ),
            (
                "GET",
                format!("{aws}/cluster/a%3A1%2Fb%2Bc%3D%20d"),
                "",
                None,
                "914563de8e09d6c04943df7191e9fde41c8331526329aec3068d73add1579e89",
            ),
            (
                "POST",
                "http://a.execute-api.localhost:4566/cluster".to_owned(),
                r#"{"cluster_id":"c"}"#,
                Some("token/+="),
                "19d533b48627a8f5e89ddf829c11e74be01f7acb469dd7f515daca68b344e7e2",
            ),
        ] {
            let token = token.map(str::to_owned);
            let signer = Signer {
                credentials: Credentials::new(
                    "AKIDEXAMPLE",
                    "secret/example",
                    token.clone(),
                    None,
                    "a",
                ),
                region: "eu-central-1".to_owned(),
                service: API_GATEWAY,
            };
            let headers = signer.headers_at(time, method, &url, body).unwrap();
            let header = |name| {
                let mut named = headers.iter().filter(|(header, _)| header == name);
                named.next().map(|(_, value)| value.clone())
            };
            let authorization = header("authorization").unwrap();
            assert!(
                authorization.starts_with(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261124/eu-central-1/execute-api/aws4_request, "
                ) && authorization.ends_with(&format!(", Signature={expected}")),
                "{method} {url}: {authorization}"
            );
            assert_eq!(header("x-amz-date").as_deref(), Some("20261124T031956Z"));
            assert_eq!(header("x-amz-security-token"), token, "{url}");
        }
    }

    #[test]
    fn debug_output_hides_the_credentials() {
        let signer = Signer {
            credentials: Credentials::new("AKID", "secret", Some("token".to_owned()), None, "a"),
            region: "us-east-1".to_owned(),
            service: API_GATEWAY,
        };
        let shown = format!("{signer:?}");
        assert!(!shown.contains("secret\"") && !shown.contains("\"token"), "{shown}");
    }
}
