//! The bootstrap service, as its clients call it.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use anyhow::Context;
use cbbootstrap_cli::signer::Signer;
use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    trust::{Attestation, Fingerprint},
    wire::{ClaimRequest, Cluster, LeaveRequest, Problem, ReadyRequest, State, StatusRequest},
};
use serde::Serialize;
use thiserror::Error;
use ureq::Agent;

use crate::{
    aws,
    failure::Failure,
    http::{self, Deadline, NoAnswer, Trust},
    record::Record,
};

const CHECK_ENDPOINT: &str = "is that the endpoint that `cbbootstrap status` prints? `cbbootstrap cluster show` prints what it knows of the cluster";

/// Signs requests, for an API that accepts no others. Credentials are fetched when they are first needed.
#[derive(Debug)]
struct Signing {
    region: String,
    signer: RefCell<Option<Signer>>,
}

/// The API, for one cluster.
pub struct Api {
    /// Without a slash at the end.
    pub url: String,
    pub cluster_id: ClusterId,
    client: Agent,
    token: Option<String>,
    signing: Option<Signing>,
    deadline: Deadline,
}

/// Why a call to the API failed.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The same call may succeed later.
    #[error("{0}")]
    Temporary(String),
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// The request could not be made, or something else than the API answers.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl ApiError {
    fn unexpected_answer(why: String) -> Self {
        Self::Failed(Failure::new(why).hint(CHECK_ENDPOINT).into())
    }
}

/// A claim: its generation, and when its lease ends by this node's clock.
pub type Claim = (u64, Option<Instant>);

/// A validated answer.
#[derive(Clone, Debug)]
pub struct Answer {
    record: Record,
    lease_end: Option<Instant>,
    pub cluster: Cluster,
}

impl Answer {
    /// The lease counts from before the request was sent: the time on the network has already passed.
    fn new(record: Record, cluster: Cluster, sent: Instant) -> Self {
        // A lease of centuries never ends.
        let lease_end = record.lease_left.and_then(|left| sent.checked_add(left));
        Self { record, lease_end, cluster }
    }

    /// The current record.
    pub fn record(&self) -> Record {
        let left = self.lease_end.map(|end| end.saturating_duration_since(Instant::now()));
        Record { lease_left: left.or(self.record.lease_left), ..self.record.clone() }
    }

    /// Whether nothing but the members can change any more.
    pub fn is_final(&self) -> bool {
        self.record.state == State::Ready
    }

    /// Keeps the end of the lease at the earliest that is known: leases are not renewed within a generation.
    pub fn bounded_by(mut self, (generation, lease_end): Claim) -> Self {
        if self.record.generation == generation && self.lease_end.is_some() {
            self.lease_end = self.lease_end.into_iter().chain(lease_end).min();
        }
        self
    }

    pub fn claim(&self) -> Claim {
        (self.record.generation, self.lease_end)
    }
}

impl Api {
    /// The API at this URL. With `signed`, requests carry a signature instead of the token.
    pub fn new(
        url: String,
        cluster_id: ClusterId,
        token: Option<String>,
        signed: bool,
        region: Option<String>,
        deadline: Deadline,
    ) -> anyhow::Result<Self> {
        let signing = if signed {
            // The host name takes precedence over an `AWS_REGION` that is set for other purposes.
            let region = aws::region_in(&http::host(&url)).map(str::to_owned).or(region);
            let region = region.ok_or_else(|| {
                Failure::usage(format!("the region of the API at {url} is not known"))
                    .hint("give it: `--region`, or `AWS_REGION`")
            })?;
            Some(Signing { region, signer: RefCell::new(None) })
        } else {
            None
        };
        let client = http::client(&Trust::System, !http::is_loopback(&url), http::ANSWER_LIMIT);
        let token = token.filter(|_| !signed);
        Ok(Self { url, cluster_id, client, token, signing, deadline })
    }

    /// Claims the cluster for the node. The answer names the node that has the claim.
    pub fn claim(
        &self,
        node: &Node,
        node_uuid: Option<&Uuid>,
        lease: Option<u64>,
    ) -> Result<Answer, ApiError> {
        let request = ClaimRequest {
            cluster_id: self.cluster_id.as_str().to_owned(),
            node_ip_addr_or_hostname: node.to_string(),
            node_uuid: node_uuid.map(Uuid::to_string),
            lease_seconds: lease,
        };
        let sent = Instant::now();
        let mut answer = self.post("/cluster", &request, Some(node), sent)?;
        // This node's claim never lasts longer than it asked for, whatever the API answers.
        if answer.record.is_initial
            && let (Some(_), Some(lease)) = (answer.record.lease_left, lease)
        {
            let requested_end = sent + Duration::from_secs(lease);
            answer.lease_end = answer.lease_end.into_iter().chain([requested_end]).min();
        }
        Ok(answer)
    }

    /// The cluster's record; `None` if nobody has claimed the cluster.
    pub fn status(&self, node: Option<&Node>) -> Result<Option<Answer>, ApiError> {
        let request = StatusRequest {
            cluster_id: self.cluster_id.as_str().to_owned(),
            node_ip_addr_or_hostname: node.map(Node::to_string),
        };
        match self.post("/cluster/get_status", &request, node, Instant::now()) {
            Ok(answer) => Ok(Some(answer)),
            Err(ApiError::Refused(problem)) if problem.code == "cluster_not_found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reports the node as a member of a cluster, with its attestation if it has one.
    pub fn report_ready(
        &self,
        node: &Node,
        node_uuid: Option<&Uuid>,
        cluster_uuid: &Uuid,
        generation: u64,
        attested: Option<(Option<Fingerprint>, Attestation)>,
    ) -> Result<Answer, ApiError> {
        let (authority, attestation) = attested.unzip();
        let request = ReadyRequest {
            cluster_id: self.cluster_id.as_str().to_owned(),
            node_ip_addr_or_hostname: node.to_string(),
            generation: Some(generation),
            cluster_uuid: Some(cluster_uuid.to_string()),
            node_uuid: node_uuid.map(Uuid::to_string),
            authority_sha256: authority.flatten().map(|authority| authority.to_string()),
            attestation: attestation.map(|attestation| attestation.to_string()),
        };
        self.post("/cluster/ready", &request, Some(node), Instant::now())
    }

    /// Reports that the node has left, or gives its claim up.
    pub fn leave(
        &self,
        node: &Node,
        node_uuid: Option<&Uuid>,
        generation: Option<u64>,
    ) -> Result<Answer, ApiError> {
        let request = LeaveRequest {
            cluster_id: self.cluster_id.as_str().to_owned(),
            node_ip_addr_or_hostname: node.to_string(),
            node_uuid: node_uuid.map(Uuid::to_string),
            generation,
        };
        self.post("/cluster/leave", &request, Some(node), Instant::now())
    }

    fn post(
        &self,
        route: &str,
        request: &impl Serialize,
        node: Option<&Node>,
        sent: Instant,
    ) -> Result<Answer, ApiError> {
        let url = format!("{}{route}", self.url);
        let (status, text) = self.send(&url, request)?;
        if (200..300).contains(&status) {
            let cluster: Cluster = serde_json::from_str(&text).map_err(|error| {
                ApiError::unexpected_answer(format!(
                    "{url} does not answer as the bootstrap service does: {error}"
                ))
            })?;
            let record = Record::new(cluster.clone(), &self.cluster_id, node);
            let record =
                record.map_err(|why| ApiError::unexpected_answer(format!("{url} {why}")))?;
            return Ok(Answer::new(record, cluster, sent));
        }
        let is_temporary = matches!(status, 429 | 500..);
        Err(match serde_json::from_str::<Problem>(&text) {
            Ok(problem) if is_temporary => ApiError::Temporary(problem.detail),
            Ok(problem) => ApiError::Refused(problem),
            // API Gateway answers, not the function.
            Err(_) if is_temporary => {
                ApiError::Temporary(format!("{} answers with status {status}", self.url))
            }
            Err(_) => ApiError::Failed(self.explain_foreign_answer(status).into()),
        })
    }

    fn send(&self, url: &str, request: &impl Serialize) -> Result<(u16, String), ApiError> {
        let body =
            serde_json::to_string(request).map_err(|error| ApiError::Failed(error.into()))?;
        let limit = self.deadline.cut(http::ANSWER_LIMIT);
        let mut call = self.client.post(url).config().timeout_global(Some(limit)).build();
        call = call.header("Content-Type", "application/json");
        if let Some(token) = &self.token {
            call = call.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(signing) = &self.signing {
            for (name, value) in signing.headers(url, &body).map_err(ApiError::Failed)? {
                call = call.header(name, value);
            }
        }
        match http::read(&self.url, call.send(&body), http::MAX_BYTES) {
            Ok((status, text)) => Ok((status.as_u16(), text)),
            Err(NoAnswer::UntrustedCertificate(why)) => {
                let failure = Failure::new(why).hint(
                    "the system must trust the API's certificate; `SSL_CERT_FILE` can name another authority",
                );
                Err(ApiError::Failed(failure.into()))
            }
            Err(error) => Err(ApiError::Temporary(error.to_string())),
        }
    }

    fn explain_foreign_answer(&self, status: u16) -> Failure {
        let failure = Failure::new(format!(
            "{} answers with status {status}, and not as the bootstrap service does",
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

impl Signing {
    fn headers(&self, url: &str, body: &str) -> anyhow::Result<Vec<(String, String)>> {
        let mut signer = self.signer.borrow_mut();
        if signer.as_ref().is_none_or(|signer| aws::expires_soon(&signer.credentials)) {
            let credentials = aws::find_credentials()?;
            *signer = Some(Signer { credentials, region: self.region.clone() });
        }
        let signer = signer.as_ref().context("there is a signer")?;
        signer.headers("POST", url, body)
    }
}
