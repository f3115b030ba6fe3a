//! The bootstrap service, as its clients call it.

use std::{
    cell::RefCell,
    fmt,
    net::IpAddr,
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
use ureq::{Agent, http::Uri};

use crate::{
    aws,
    failure::Failure,
    http::{self, Deadline, Trust},
    record::Record,
};

/// The most of an answer that is read. A record with all its members has some 120 KB.
const MOST_BYTES: u64 = 1024 * 1024;

const WHICH: &str = "is that the endpoint that `cbbootstrap status` prints? `cbbootstrap cluster show` prints what it knows of the cluster";

/// How requests are signed, where the API takes no others.
#[derive(Debug)]
struct Signing {
    region: String,
    signer: RefCell<Option<Signer>>,
}

/// One cluster's record at the API.
pub struct Api {
    /// Its URL, without a slash at the end.
    pub url: String,
    /// The cluster's name.
    pub cluster_id: ClusterId,
    client: Agent,
    token: Option<String>,
    signing: Option<Signing>,
    deadline: Deadline,
}

/// Why there is no record.
#[derive(Debug)]
pub enum Unanswered {
    /// It may work when asked again.
    Later(String),
    /// It says no, and will say so again.
    Refused(Problem),
    /// The request could not be made, or the answer is none of this API's.
    Failed(anyhow::Error),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Later(why) => f.write_str(why),
            Self::Refused(problem) => f.write_str(&problem.detail),
            Self::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

/// A record, and when the lease in it ends by this node's clock.
#[derive(Clone, Debug)]
pub struct Answer {
    record: Record,
    lease_ends: Option<Instant>,
    /// The answer itself, which has been validated.
    pub cluster: Cluster,
}

impl Answer {
    /// The lease starts before the request was sent: time that the answer spent on the network has already passed.
    fn new(record: Record, cluster: Cluster, sent: Instant) -> Self {
        // A lease of centuries does not end.
        let lease_ends = record.lease_left.and_then(|left| sent.checked_add(left));
        Self { record, lease_ends, cluster }
    }

    /// The record as of now.
    pub fn now(&self) -> Record {
        let left = self.lease_ends.map(|end| end.saturating_duration_since(Instant::now()));
        Record { lease_left: left.or(self.record.lease_left), ..self.record.clone() }
    }

    /// Whether nothing of it but the members can change any more.
    pub fn is_final(&self) -> bool {
        self.record.state == State::Ready
    }

    /// With a lease that ends no later than this node knows it to: within a generation, leases are not renewed.
    pub fn bounded(mut self, generation: u64, lease_ends: Option<Instant>) -> Self {
        if self.record.generation == generation && self.lease_ends.is_some() {
            self.lease_ends = self.lease_ends.min(lease_ends.or(self.lease_ends));
        }
        self
    }

    /// The generation, and when the lease ends.
    pub fn lease(&self) -> (u64, Option<Instant>) {
        (self.record.generation, self.lease_ends)
    }
}

/// What a node reports.
#[derive(Clone, Debug)]
pub struct Report {
    /// The generation from the API's answer.
    pub generation: u64,
    /// The cluster that it is a member of.
    pub cluster_uuid: Uuid,
    /// Its server's UUID.
    pub node_uuid: Option<Uuid>,
    /// The authority that has signed its server's certificate.
    pub authority: Option<Fingerprint>,
    /// Its proof that it knows the cluster's secret.
    pub attestation: Option<Attestation>,
}

/// Hides the token.
impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("url", &self.url)
            .field("cluster_id", &self.cluster_id)
            .finish_non_exhaustive()
    }
}

impl Api {
    /// The cluster's record at this URL, which may take signed requests only.
    pub fn new(
        url: String,
        cluster_id: ClusterId,
        token: Option<String>,
        signed: bool,
        region: Option<String>,
        deadline: Deadline,
    ) -> anyhow::Result<Self> {
        let signing = if signed {
            let host = url.parse::<Uri>().ok();
            let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
            // The name knows better than an `AWS_REGION` that is set for other things.
            let region = aws::region_of(host).map(str::to_owned).or(region).ok_or_else(|| {
                Failure::usage(format!("the region of the API at {url} is not known"))
                    .hint("give it: `--region`, or `AWS_REGION`")
            })?;
            Some(Signing { region, signer: RefCell::new(None) })
        } else {
            None
        };
        // No proxy is asked for what does not leave this host.
        let host = url.parse::<Uri>().ok();
        let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let is_on_this_host = is_loopback || host == "localhost";
        Ok(Self {
            url,
            cluster_id,
            client: http::client(&Trust::System, !is_on_this_host),
            token: token.filter(|_| signing.is_none()),
            signing,
            deadline,
        })
    }

    /// Claims the cluster for the node, or learns who has it.
    pub fn claim(
        &self,
        node: &Node,
        node_uuid: Option<&Uuid>,
        lease: Option<u64>,
    ) -> Result<Answer, Unanswered> {
        let request = ClaimRequest {
            cluster_id: self.cluster_id.as_str().to_owned(),
            node_ip_addr_or_hostname: node.as_str().to_owned(),
            node_uuid: node_uuid.map(|uuid| uuid.as_str().to_owned()),
            lease_seconds: lease,
        };
        let sent = Instant::now();
        let mut answer = self.post("/cluster", &request, Some(node), sent)?;
        // No claim of this node is longer than it asked for, whatever the API says.
        if answer.record.is_initial
            && let (Some(_), Some(lease)) = (answer.record.lease_left, lease)
        {
            let asked_for = sent + Duration::from_secs(lease);
            answer.lease_ends = Some(answer.lease_ends.map_or(asked_for, |end| end.min(asked_for)));
        }
        Ok(answer)
    }

    /// The record as it stands; `None` if nobody has claimed the cluster.
    pub fn status(&self, node: Option<&Node>) -> Result<Option<Answer>, Unanswered> {
        let request = StatusRequest {
            cluster_id: self.cluster_id.as_str().to_owned(),
            node_ip_addr_or_hostname: node.map(|node| node.as_str().to_owned()),
        };
        match self.post("/cluster/get_status", &request, node, Instant::now()) {
            Ok(answer) => Ok(Some(answer)),
            Err(Unanswered::Refused(problem)) if problem.code == "cluster_not_found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reports the node ready.
    pub fn ready(&self, node: &Node, report: &Report) -> Result<Answer, Unanswered> {
        let request = ReadyRequest {
            cluster_id: self.cluster_id.as_str().to_owned(),
            node_ip_addr_or_hostname: node.as_str().to_owned(),
            generation: Some(report.generation),
            cluster_uuid: Some(report.cluster_uuid.as_str().to_owned()),
            node_uuid: report.node_uuid.as_ref().map(|uuid| uuid.as_str().to_owned()),
            authority_sha256: report.authority.map(|authority| authority.to_string()),
            attestation: report.attestation.map(|attestation| attestation.to_string()),
        };
        self.post("/cluster/ready", &request, Some(node), Instant::now())
    }

    /// Reports the node gone, or gives its claim up.
    pub fn leave(
        &self,
        node: &Node,
        node_uuid: Option<&Uuid>,
        generation: Option<u64>,
    ) -> Result<Answer, Unanswered> {
        let request = LeaveRequest {
            cluster_id: self.cluster_id.as_str().to_owned(),
            node_ip_addr_or_hostname: node.as_str().to_owned(),
            node_uuid: node_uuid.map(|uuid| uuid.as_str().to_owned()),
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
    ) -> Result<Answer, Unanswered> {
        let url = format!("{}{route}", self.url);
        let body = serde_json::to_string(request).map_err(|e| Unanswered::Failed(e.into()))?;
        let mut call = self
            .client
            .post(&url)
            .config()
            .timeout_global(Some(self.deadline.limit(http::ANSWER)))
            .build()
            .header("Content-Type", "application/json");
        if let Some(token) = &self.token {
            call = call.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(signing) = &self.signing {
            let headers = signing.headers(&url, &body).map_err(Unanswered::Failed)?;
            for (name, value) in headers {
                call = call.header(name, value);
            }
        }
        let mut answer = call.send(&body).map_err(|error| {
            let why = format!("{} does not answer: {}", self.url, http::reason(&error));
            if http::is_certificate(&error) {
                let failure = Failure::new(why).hint(
                    "the API's certificate has to be one that the system trusts; `SSL_CERT_FILE` names another authority's",
                );
                Unanswered::Failed(failure.into())
            } else {
                Unanswered::Later(why)
            }
        })?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(MOST_BYTES);
        let text = body.read_to_string().map_err(|error| {
            Unanswered::Later(format!("{}: {}", self.url, http::reason(&error)))
        })?;
        if status.is_success() {
            let strange = |why: String| Unanswered::Failed(Failure::new(why).hint(WHICH).into());
            let cluster: Cluster = serde_json::from_str(&text).map_err(|error| {
                strange(format!("{url} does not answer as the bootstrap service does: {error}"))
            })?;
            let record = Record::new(cluster.clone(), &self.cluster_id, node);
            let record = record.map_err(|why| strange(format!("{url} {why}")))?;
            return Ok(Answer::new(record, cluster, sent));
        }
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) if !matches!(status.as_u16(), 429 | 500..) => {
                Err(Unanswered::Refused(problem))
            }
            Ok(problem) => Err(Unanswered::Later(problem.detail)),
            // API Gateway's own words.
            Err(_) if matches!(status.as_u16(), 429 | 500..) => {
                Err(Unanswered::Later(format!("{} answers with status {status}", self.url)))
            }
            Err(_) => Err(Unanswered::Failed(self.foreign(status.as_u16()).into())),
        }
    }

    /// An answer that is not the function's.
    fn foreign(&self, status: u16) -> Failure {
        let failure = Failure::new(format!(
            "{} answers with status {status}, and not as the bootstrap service does",
            self.url
        ));
        match (status, &self.signing) {
            (401 | 403, None) => {
                failure.hint("it may take signed requests only: `--auth iam` signs them")
            }
            (401 | 403, Some(_)) => failure.hint(
                "the role needs `execute-api:Invoke` on the API; `--region` has to be the API's",
            ),
            _ => failure.hint(WHICH),
        }
    }
}

impl Signing {
    fn headers(&self, url: &str, body: &str) -> anyhow::Result<Vec<(String, String)>> {
        let mut signer = self.signer.borrow_mut();
        if signer.as_ref().is_none_or(|signer| aws::expires_soon(&signer.credentials)) {
            *signer =
                Some(Signer { credentials: aws::credentials()?, region: self.region.clone() });
        }
        let signer = signer.as_ref().context("there is a signer")?;
        Ok(signer.headers("POST", url, body)?)
    }
}
