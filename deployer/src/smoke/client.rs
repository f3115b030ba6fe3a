//! The HTTP client of the smoke test, and its answers.

use std::time::Duration;

use axum::http;
use cbbootstrap_cli::{signer::Signer, values};
use cbbootstrap_protocol::wire;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::steps::Step;
use crate::{
    causes::causes,
    failure::Failure,
    network::{Network, Sender},
};

/// The most that one request may take; a cold start takes well under a second.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The endpoint as a base for paths.
pub fn parse_endpoint(text: &str) -> Result<String, Failure> {
    values::url_of_host(text).map_err(|rule| {
        Failure::usage(format!("the endpoint is not a URL: {rule}"))
            .hint("`cbbootstrap status` prints the endpoint of a deployment")
    })
}

#[derive(Clone)]
pub enum Authorization {
    /// A signature if there is a signer, otherwise the token of the test's clusters, as an API may require one.
    Caller,
    Token(String),
    None,
}

pub struct Client {
    sender: Sender,
    url: String,
    signer: Option<Signer>,
    token: String,
}

impl Client {
    pub fn new(network: &Network, endpoint: &str, signer: Option<Signer>) -> Self {
        let token = Uuid::new_v4().simple().to_string();
        Self { sender: network.sender(TIMEOUT), url: endpoint.to_owned(), signer, token }
    }

    /// Sends the request; an error says that there is no answer.
    pub async fn send(&self, step: &Step) -> Result<Answer, String> {
        let Step { path, body, authorization, .. } = step;
        let url = format!("{}{path}", self.url);
        let method = if body.is_some() { "POST" } else { "GET" };
        let mut builder = http::Request::builder()
            .method(method)
            .uri(&url)
            .header("user-agent", concat!("cbbootstrap/", env!("CARGO_PKG_VERSION")));
        let token = match (authorization, &self.signer) {
            (Authorization::None, _) => None,
            (Authorization::Token(token), _) => Some(token),
            (Authorization::Caller, None) => Some(&self.token),
            (Authorization::Caller, Some(signer)) => {
                let headers = signer.headers(method, &url, body.as_deref().unwrap_or_default());
                for (name, value) in headers.map_err(|error| format!("{error:#}"))? {
                    builder = builder.header(name, value);
                }
                None
            }
        };
        if let Some(token) = token {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            // The content type of the README's `curl -d`.
            builder = builder.header("content-type", "application/x-www-form-urlencoded");
        }
        let request = builder.body(body.clone().unwrap_or_default());
        let request = request.map_err(|error| error.to_string())?;
        let answer = self.sender.send(request).await;
        let answer = answer.map_err(|error| format!("no answer ({})", causes(&*error)))?;
        let is_problem = answer.content_type.starts_with("application/problem+json");
        Ok(Answer::new(answer.status, is_problem, &answer.text))
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Whether it is a refusal by the function, and not one by API Gateway.
    pub has_code: bool,
    /// The answer as people read it.
    pub description: String,
}

impl Answer {
    fn new(status: u16, is_problem: bool, text: &str) -> Self {
        let body: Value = serde_json::from_str(text).unwrap_or_default();
        let code = body["code"].as_str();
        let is_service = status == 200 && body["name"] == "cbbootstrap";
        let cluster = wire::Cluster::deserialize(&body).ok().filter(|_| status == 200);
        let description = match (cluster, code) {
            (Some(cluster), _) => {
                let role = if cluster.is_initial_node { "you are the first" } else { "join it" };
                format!("200, {}, {role}", cluster.initial_node_ip_addr_or_hostname)
            }
            (_, Some(code)) if is_problem => format!("{status}, {code}"),
            _ if is_service => {
                format!("200, cbbootstrap {}", body["version"].as_str().unwrap_or_default())
            }
            _ => {
                let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
                format!("{status}, `{}`", printable.take(100).collect::<String>())
            }
        };
        Self { status, has_code: code.is_some(), description }
    }
}

/// The id as one segment of a path.
pub fn escape(id: &str) -> String {
    percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_parsed() {
        for (text, expected) in [
            ("https://a.example", Some("https://a.example")),
            ("https://a.example/", Some("https://a.example")),
            ("https://a.example/prod/", Some("https://a.example/prod")),
            ("a.example", Some("https://a.example")),
            ("localhost:8080", Some("http://localhost:8080")),
            ("127.0.0.1:8080", Some("http://127.0.0.1:8080")),
            ("http://x.execute-api.localhost:4566", Some("http://x.execute-api.localhost:4566")),
            ("ftp://a.example", None),
            ("https://", None),
            ("https://a.example?x=y", None),
            ("a b", None),
            ("", None),
        ] {
            assert_eq!(parse_endpoint(text).ok().as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn answers_are_described() {
        let described =
            |status, is_problem, text| Answer::new(status, is_problem, text).description;
        let cluster = r#"{"cluster_id": "c", "initial_node_ip_addr_or_hostname": "n", "is_initial_node": false,
            "state": "claimed", "generation": 1}"#;
        let refusal = r#"{"code":"cluster_not_found"}"#;
        assert_eq!(described(200, false, cluster), "200, n, join it");
        assert_eq!(described(404, true, refusal), "404, cluster_not_found");
        assert_eq!(described(404, false, refusal), format!("404, `{refusal}`"));
        assert_eq!(described(502, false, "<html>\n"), "502, `<html> `");
    }
}
