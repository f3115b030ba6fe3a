//! Plain HTTP, as a node's script speaks it.

use std::{sync::LazyLock, time::Duration};

use serde_json::Value;
use ureq::{
    Agent,
    http::{HeaderMap, Response, Uri},
};

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// The body as it came.
    pub body: String,
}

impl Answer {
    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Connections are not kept: a test may kill the server between two requests.
static AGENT: LazyLock<Agent> = LazyLock::new(|| {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_idle_connections(0)
        .timeout_global(Some(Duration::from_mins(1)))
        .build();
    config.into()
});

pub fn get(endpoint: &str, path: &str) -> Result<Answer, ureq::Error> {
    get_as(endpoint, path, None)
}

/// `GET`s the path with this `Authorization`.
pub fn get_as(
    endpoint: &str,
    path: &str,
    authorization: Option<&str>,
) -> Result<Answer, ureq::Error> {
    let (url, host) = here(endpoint, path);
    let mut request = AGENT.get(url).header("host", host);
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    answer(request.call())
}

/// `POST`s the body as `curl -d` does: as a form, whatever it is.
pub fn post(endpoint: &str, path: &str, body: &str) -> Result<Answer, ureq::Error> {
    post_as(endpoint, path, body, None)
}

/// `POST`s the body with this `Authorization`.
pub fn post_as(
    endpoint: &str,
    path: &str,
    body: &str,
    authorization: Option<&str>,
) -> Result<Answer, ureq::Error> {
    let (url, host) = here(endpoint, path);
    let mut request = AGENT.post(url).header("host", host);
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    answer(request.content_type("application/x-www-form-urlencoded").send(body))
}

pub fn claim(endpoint: &str, cluster: &str, node: &str) -> Result<Answer, ureq::Error> {
    let body = serde_json::json!({"cluster_id": cluster, "node_ip_addr_or_hostname": node});
    post(endpoint, "/cluster", &body.to_string())
}

/// The URL by address: not every C library knows that names under `.localhost` are this machine.
fn here(endpoint: &str, path: &str) -> (String, String) {
    let uri: Uri = endpoint.parse().expect("an endpoint is a URL");
    let port = uri.port_u16().expect("an endpoint here has a port");
    (format!("http://127.0.0.1:{port}{path}"), uri.authority().expect("and a host").to_string())
}

fn answer(response: Result<Response<ureq::Body>, ureq::Error>) -> Result<Answer, ureq::Error> {
    let mut response = response?;
    Ok(Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.body_mut().read_to_string()?,
    })
}
