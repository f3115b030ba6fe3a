//! A Couchbase Server's management REST interface: the calls that the agent makes.

mod change;
mod error;
mod quotas;
mod read;

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use cbbootstrap_protocol::names::Node;
use serde::de::DeserializeOwned;
use ureq::{Agent, RequestBuilder, http::Response, typestate::WithBody};

pub use self::{
    change::{INITIALIZE_LIMIT, NewCluster},
    quotas::Quotas,
    read::{
        Group, GroupNode, Groups, Health, Membership, NodeInfo, Pools, Rebalance, Recovery, View,
    },
};
use crate::{
    http::{self, ANSWER_LIMIT, CallError, Deadline, Trust},
    secret::Secret,
};

pub const PORT: u16 = 8091;

/// The same with TLS.
pub const TLS_PORT: u16 = 18091;

/// The size limit for answers of servers that get credentials. A cluster of a hundred nodes describes itself in about 200 KB. A
/// server that nothing vouches for yet may send [`http::MAX_BYTES`]: a list of authorities has about 5 KB for each.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct Administrator {
    pub username: String,
    pub password: Secret,
}

#[derive(Debug)]
pub struct Server {
    pub url: String,
    client: Agent,
    /// `None` sends no credentials.
    administrator: Option<Administrator>,
    deadline: Deadline,
}

impl Server {
    /// The server at a URL. Without an administrator, no credentials are sent.
    pub fn new(
        url: String,
        trust: &Trust,
        administrator: Option<Administrator>,
        deadline: Deadline,
    ) -> Self {
        Self { url, client: http::client(trust, None, ANSWER_LIMIT), administrator, deadline }
    }

    /// A node's server over TLS; without `trust`, over plain HTTP.
    pub fn on_node(
        node: &Node,
        trust: Option<&Trust>,
        administrator: Option<Administrator>,
        deadline: Deadline,
    ) -> Self {
        let (scheme, port) = if trust.is_some() { ("https", TLS_PORT) } else { ("http", PORT) };
        let port = node.port().unwrap_or(port);
        let url = format!("{scheme}://{}:{port}", node.host().in_url());
        Self::new(url, trust.unwrap_or(&Trust::System), administrator, deadline)
    }

    /// The same server without credentials, with another deadline.
    #[must_use]
    pub fn anonymous(&self, deadline: Deadline) -> Self {
        Self { url: self.url.clone(), client: self.client.clone(), administrator: None, deadline }
    }

    fn url_of(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let url = self.url_of(path);
        let text = self.read(self.prepare(self.client.get(&url), ANSWER_LIMIT).call())?;
        serde_json::from_str(&text).map_err(|error| {
            CallError::Unexpected(format!(
                "{url} does not answer as Couchbase Server does: {error}"
            ))
        })
    }

    fn send_form(
        &self,
        request: RequestBuilder<WithBody>,
        form: &[(&str, &str)],
        limit: Duration,
    ) -> Result<String, CallError> {
        self.read(self.prepare(request, limit).send_form(form.iter().copied()))
    }

    fn prepare<B>(&self, request: RequestBuilder<B>, limit: Duration) -> RequestBuilder<B> {
        let limit = self.deadline.cut(limit);
        let request = request.config().timeout_global(Some(limit)).build();
        let Some(Administrator { username, password }) = &self.administrator else {
            return request;
        };
        let pair = BASE64_STANDARD.encode(format!("{username}:{}", password.expose()));
        request.header("Authorization", format!("Basic {pair}"))
    }

    fn read(&self, sent: Result<Response<ureq::Body>, ureq::Error>) -> Result<String, CallError> {
        let max_bytes = if self.administrator.is_some() { MAX_BYTES } else { http::MAX_BYTES };
        let (status, text) = http::read(&self.url, sent, max_bytes)?;
        error::check(&self.url, status, text)
    }
}

#[cfg(test)]
mod hostile;
