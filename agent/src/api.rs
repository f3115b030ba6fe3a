//! The bootstrap service, as its clients call it.

use std::{cell::RefCell, fmt, time::Duration};

use anyhow::Context;
use cbbootstrap_function::{
    signer::Signer,
    wire::{ClaimRequest, Cluster, LeaveRequest, Problem, ReadyRequest, StatusRequest},
};
use jiff::Timestamp;
use serde::Serialize;
use ureq::{Agent, http::Uri};

use crate::{
    aws,
    failure::Failure,
    http::{self, Trust},
    secret::Secret,
};

const WHICH: &str = "is that the endpoint that `cbbootstrap status` prints?";

/// How requests are signed, where the API takes no others.
#[derive(Debug)]
struct Signing {
    region: String,
    signer: RefCell<Option<Signer>>,
}

/// One cluster's record at the API.
#[derive(Debug)]
pub struct Api {
    /// Its URL, without a slash at the end.
    pub url: String,
    /// The cluster's name.
    pub cluster_id: String,
    client: Agent,
    secret: Option<Secret>,
    signing: Option<Signing>,
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

/// What the API said of the cluster.
#[derive(Clone, Debug)]
pub struct Record {
    /// The answer.
    pub cluster: Cluster,
    /// What is left of the claim's lease, by the API's own clock.
    pub lease_left: Option<Duration>,
}

impl Api {
    /// The cluster's record at this URL, which may take signed requests only.
    pub fn new(
        url: String,
        cluster_id: String,
        secret: Option<Secret>,
        signed: bool,
        region: Option<String>,
    ) -> anyhow::Result<Self> {
        let signing = if signed {
            let host = url.parse::<Uri>().ok();
            let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
            // The name knows better than an `AWS_REGION` that is set for other things.
            let region = aws::region_of(host)
                .map(str::to_owned)
                .or(region)
                .ok_or_else(|| {
                    Failure::usage(format!("the region of the API at {url} is not known"))
                        .hint("give it: `--region`, or `AWS_REGION`")
                })?;
            Some(Signing {
                region,
                signer: RefCell::new(None),
            })
        } else {
            None
        };
        Ok(Self {
            url,
            cluster_id,
            client: http::client(&Trust::System, true),
            secret,
            signing,
        })
    }

    /// Claims the cluster for the node, or learns who has it.
    pub fn claim(&self, node: &str, lease: Option<u64>) -> Result<Record, Unanswered> {
        self.post(
            "/cluster",
            &ClaimRequest {
                cluster_id: self.cluster_id.clone(),
                node_ip_addr_or_hostname: node.to_owned(),
                lease_seconds: lease,
            },
        )
    }

    /// The record as it stands; none if nobody has claimed the cluster.
    pub fn status(&self, node: Option<&str>) -> Result<Option<Record>, Unanswered> {
        let request = StatusRequest {
            cluster_id: self.cluster_id.clone(),
            node_ip_addr_or_hostname: node.map(str::to_owned),
        };
        match self.post("/cluster/get_status", &request) {
            Ok(record) => Ok(Some(record)),
            Err(Unanswered::Refused(problem)) if problem.code == "cluster_not_found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reports the node ready.
    pub fn ready(
        &self,
        node: &str,
        generation: u64,
        cluster_uuid: &str,
    ) -> Result<Record, Unanswered> {
        self.post(
            "/cluster/ready",
            &ReadyRequest {
                cluster_id: self.cluster_id.clone(),
                node_ip_addr_or_hostname: node.to_owned(),
                generation: Some(generation),
                cluster_uuid: Some(cluster_uuid.to_owned()),
            },
        )
    }

    /// Reports the node gone.
    pub fn leave(&self, node: &str) -> Result<Record, Unanswered> {
        self.post(
            "/cluster/leave",
            &LeaveRequest {
                cluster_id: self.cluster_id.clone(),
                node_ip_addr_or_hostname: node.to_owned(),
            },
        )
    }

    fn post(&self, route: &str, request: &impl Serialize) -> Result<Record, Unanswered> {
        let url = format!("{}{route}", self.url);
        let body = serde_json::to_string(request).map_err(|e| Unanswered::Failed(e.into()))?;
        let mut call = self
            .client
            .post(&url)
            .header("Content-Type", "application/json");
        if let Some(secret) = &self.secret {
            call = call.header("Authorization", format!("Bearer {}", secret.expose()));
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
        let date = answer
            .headers()
            .get("date")
            .and_then(|date| date.to_str().ok())
            .and_then(|date| jiff::fmt::rfc2822::parse(date).ok())
            .map_or_else(Timestamp::now, |date| date.timestamp());
        let text = answer.body_mut().read_to_string().map_err(|error| {
            Unanswered::Later(format!("{}: {}", self.url, http::reason(&error)))
        })?;
        if status.is_success() {
            let cluster: Cluster = serde_json::from_str(&text).map_err(|error| {
                let failure = Failure::new(format!(
                    "{url} does not answer as the bootstrap service does: {error}"
                ));
                Unanswered::Failed(failure.hint(WHICH).into())
            })?;
            let left = cluster.lease_expires_at.map(|end| end.duration_since(date));
            return Ok(Record {
                lease_left: left.map(|left| left.try_into().unwrap_or_default()),
                cluster,
            });
        }
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) if !matches!(status.as_u16(), 429 | 500..) => {
                Err(Unanswered::Refused(problem))
            }
            Ok(problem) => Err(Unanswered::Later(problem.detail)),
            // API Gateway's own words.
            Err(_) if matches!(status.as_u16(), 429 | 500..) => Err(Unanswered::Later(format!(
                "{} answers with status {status}",
                self.url
            ))),
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
        if signer
            .as_ref()
            .is_none_or(|signer| aws::expires_soon(&signer.credentials))
        {
            *signer = Some(Signer {
                credentials: aws::credentials()?,
                region: self.region.clone(),
            });
        }
        let signer = signer.as_ref().context("there is a signer")?;
        Ok(signer.headers("POST", url, body)?)
    }
}
