//! The API, as its clients call it.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use cbbootstrap_cli::{
    certificates,
    failure::Failure,
    proxy::{self, Proxy},
    signer::{API_GATEWAY, Signer},
};
use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    trust::ClusterKeys,
    wire::{Cluster, Problem, Request},
};
use thiserror::Error;
use ureq::Agent;

use crate::{
    aws::{self, NoCredentials},
    http::{self, CallError, Deadline, Trust},
    peers::Attested,
    record::ClusterRecord,
};

const CHECK_ENDPOINT: &str = "compare the URL with the endpoint that `cbbootstrap status` prints; `cbbootstrap cluster show` prints the cluster's record";

/// A detail names at most two nodes.
const MAX_DETAIL_CHARS: usize = 1000;

/// Signs requests, for an API that accepts no others. Credentials are fetched when they are first needed.
#[derive(Debug)]
struct Signing {
    region: String,
    signer: RefCell<Option<Signer>>,
}

/// A node as it identifies itself to the API.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node: Node,
    /// The UUID of its server, once known. It distinguishes two machines with one name.
    pub node_uuid: Option<Uuid>,
}

pub struct Api {
    /// Without a slash at the end.
    pub url: String,
    pub cluster_id: ClusterId,
    pub keys: Option<ClusterKeys>,
    client: Agent,
    /// The URL and its proxy, for errors.
    route: String,
    signing: Option<Signing>,
    deadline: Deadline,
    /// Whether the API answered the last request.
    has_answered: Cell<bool>,
}

#[derive(Debug, Error)]
pub enum ApiError {
    /// The same call may succeed later.
    #[error("{0}")]
    Temporary(Failure),
    /// There are no credentials to sign the request with. The same call may succeed later.
    #[error("{0}")]
    Unsigned(Failure),
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// The request could not be made, or something other than the API answered.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl From<NoCredentials> for ApiError {
    fn from(error: NoCredentials) -> Self {
        match error {
            NoCredentials::Temporary(why) => Self::Unsigned(why),
            NoCredentials::Failed(error) => Self::Failed(error),
        }
    }
}

impl ApiError {
    fn temporary(why: String) -> Self {
        Self::Temporary(Failure::new(why))
    }

    fn unexpected_answer(why: String) -> Self {
        Self::Failed(Failure::new(why).hint(CHECK_ENDPOINT).into())
    }
}

impl Api {
    /// The API at this URL. With a region, requests carry a signature instead of the secret's token.
    pub fn new(
        url: String,
        proxy: Option<&Proxy>,
        cluster_id: ClusterId,
        keys: Option<ClusterKeys>,
        region: Option<String>,
        deadline: Deadline,
    ) -> Self {
        let client = http::client(&Trust::System, proxy, http::ANSWER_LIMIT);
        let route = http::route(&url, proxy);
        let signing = region.map(|region| Signing { region, signer: RefCell::default() });
        let has_answered = Cell::new(false);
        Self { url, cluster_id, keys, client, route, signing, deadline, has_answered }
    }

    /// Whether the last request had an answer; `false` before the first, and if the answer was a temporary failure.
    pub fn has_answered(&self) -> bool {
        self.has_answered.get()
    }

    /// Claims the cluster for the node. The record names the node that has the claim.
    pub fn claim(
        &self,
        identity: &Identity,
        lease: Option<Duration>,
    ) -> Result<ClusterRecord, ApiError> {
        let lease_seconds = lease.map(|lease| lease.as_secs());
        let request = Request { lease_seconds, ..self.request_of(identity) };
        let sent = Instant::now();
        let (mut record, _) = self.post("/cluster", &request, Some(&identity.node))?;
        // This node's claim never lasts longer than it asked for, whatever the API answers.
        if record.is_initial
            && let (Some(end), Some(lease)) = (&mut record.lease_end, lease)
        {
            *end = (*end).min(sent + lease);
        }
        Ok(record)
    }

    /// The cluster's record; `None` if nobody has claimed the cluster.
    pub fn status(&self, node: Option<&Node>) -> Result<Option<ClusterRecord>, ApiError> {
        Ok(self.raw_status(node)?.map(|(record, _)| record))
    }

    /// The same, and the API's answer as it is.
    pub fn raw_status(
        &self,
        node: Option<&Node>,
    ) -> Result<Option<(ClusterRecord, Cluster)>, ApiError> {
        let node_ip_addr_or_hostname = node.map(Node::to_string);
        let request = Request { node_ip_addr_or_hostname, ..self.request() };
        match self.post("/cluster/get_status", &request, node) {
            Ok(answer) => Ok(Some(answer)),
            Err(ApiError::Refused(problem)) if problem.code == "cluster_not_found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reports the node as a member of a cluster, with its attestation if it has one.
    pub fn report_ready(
        &self,
        identity: &Identity,
        cluster_uuid: &Uuid,
        generation: u64,
        attested: Option<Attested>,
    ) -> Result<ClusterRecord, ApiError> {
        let (authority, attestation) = attested.unzip();
        let request = Request {
            generation: Some(generation),
            cluster_uuid: Some(cluster_uuid.to_string()),
            authority_sha256: authority.flatten().map(|authority| authority.to_string()),
            attestation: attestation.map(|attestation| attestation.to_string()),
            ..self.request_of(identity)
        };
        Ok(self.post("/cluster/ready", &request, Some(&identity.node))?.0)
    }

    /// Reports that the node has left, or gives its claim up.
    pub fn leave(
        &self,
        identity: &Identity,
        generation: Option<u64>,
    ) -> Result<ClusterRecord, ApiError> {
        let request = Request { generation, ..self.request_of(identity) };
        Ok(self.post("/cluster/leave", &request, Some(&identity.node))?.0)
    }

    fn request(&self) -> Request {
        Request { cluster_id: self.cluster_id.as_str().to_owned(), ..Request::default() }
    }

    fn request_of(&self, Identity { node, node_uuid }: &Identity) -> Request {
        Request {
            node_ip_addr_or_hostname: Some(node.to_string()),
            node_uuid: node_uuid.as_ref().map(Uuid::to_string),
            ..self.request()
        }
    }

    fn post(
        &self,
        route: &str,
        request: &Request,
        node: Option<&Node>,
    ) -> Result<(ClusterRecord, Cluster), ApiError> {
        let answer = self.try_post(route, request, node);
        self.has_answered.set(matches!(answer, Ok(_) | Err(ApiError::Refused(_))));
        answer
    }

    fn try_post(
        &self,
        route: &str,
        request: &Request,
        node: Option<&Node>,
    ) -> Result<(ClusterRecord, Cluster), ApiError> {
        let url = format!("{}{route}", self.url);
        // The lease counts from before the request is sent: time passes on the network.
        let sent = Instant::now();
        let (status, text) = self.send(&url, request)?;
        if (200..300).contains(&status) {
            let cluster: Cluster = serde_json::from_str(&text).map_err(|error| {
                ApiError::unexpected_answer(format!("{url} is not a cbbootstrap API: {error}"))
            })?;
            let record = ClusterRecord::new(cluster.clone(), &self.cluster_id, node, sent);
            let record =
                record.map_err(|why| ApiError::unexpected_answer(format!("{url} {why}")))?;
            return Ok((record, cluster));
        }
        let is_temporary = matches!(status, 429 | 500..);
        Err(match serde_json::from_str::<Problem>(&text).map(shorten) {
            Ok(problem) if is_temporary => ApiError::temporary(problem.detail),
            Ok(problem) => ApiError::Refused(problem),
            // API Gateway answers, not the function.
            Err(_) if is_temporary => {
                ApiError::temporary(format!("{} returned status {status}", self.url))
            }
            Err(_) => ApiError::Failed(self.explain_foreign_answer(status).into()),
        })
    }

    fn send(&self, url: &str, request: &Request) -> Result<(u16, String), ApiError> {
        let body =
            serde_json::to_string(request).map_err(|error| ApiError::Failed(error.into()))?;
        let limit = self.deadline.cut(http::ANSWER_LIMIT);
        let mut call = self.client.post(url).config().timeout_global(Some(limit)).build();
        call = call.header("Content-Type", "application/json");
        if let Some(signing) = &self.signing {
            for (name, value) in signing.headers(url, &body)? {
                call = call.header(name, value);
            }
        } else if let Some(keys) = &self.keys {
            call = call.header("Authorization", format!("Bearer {}", keys.token()));
        }
        match http::read(&self.route, call.send(&body), http::MAX_BYTES) {
            Ok((status, text)) => Ok((status.as_u16(), text)),
            Err(CallError::Untrusted(why)) => {
                let hint = certificates::advice(&why).unwrap_or(
                    "the system must trust the API's certificate; `SSL_CERT_FILE` can name another authority",
                );
                Err(ApiError::Failed(Failure::new(why).hint(hint).into()))
            }
            Err(CallError::Unreachable(why)) if self.client.config().proxy().is_some() => {
                let hint = proxy::advice(&why);
                Err(ApiError::Temporary(Failure::new(why).hint(hint)))
            }
            Err(error) => Err(ApiError::temporary(error.to_string())),
        }
    }

    fn explain_foreign_answer(&self, status: u16) -> Failure {
        let failure = Failure::new(format!(
            "{} returned status {status} in a form that cbbootstrap's API does not use",
            self.url
        ));
        failure.hint(match (status, &self.signing) {
            (401 | 403, None) => "the API may require signed requests: `--auth iam` signs them",
            (401 | 403, Some(_)) => {
                "the role needs `execute-api:Invoke` on the API; `--region` must be the API's"
            }
            _ => CHECK_ENDPOINT,
        })
    }
}

/// The problem, with a detail that fits into a log. The API may be dishonest.
fn shorten(problem: Problem) -> Problem {
    Problem { detail: problem.detail.chars().take(MAX_DETAIL_CHARS).collect(), ..problem }
}

impl Signing {
    fn headers(&self, url: &str, body: &str) -> Result<Vec<(String, String)>, ApiError> {
        let mut known = self.signer.borrow_mut();
        let signer = match &mut *known {
            Some(signer) if !aws::expires_soon(&signer.credentials) => signer,
            known => {
                let (credentials, region) = (aws::find_credentials()?, self.region.clone());
                known.insert(Signer { credentials, region, service: API_GATEWAY })
            }
        };
        signer.headers("POST", url, body).map_err(ApiError::Failed)
    }
}
