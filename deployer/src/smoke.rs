//! The smoke test: sends an endpoint the requests of a cluster's nodes and checks the answers.

mod client;
mod steps;

use std::{
    fmt::{Display, Formatter},
    sync::Arc,
    time::{Duration, Instant},
};

use cbbootstrap_cli::{certificates, proxy, signer::Signer};
use cbbootstrap_function::store::Store;
use serde::Serialize;

use crate::{exit::Exit, failure::Failure, network::Network, values::Auth};
pub use client::parse_endpoint;
use client::{Answer, Client};
use steps::{Clusters, LOCKED, Step};

/// How long a new endpoint may take to answer: DNS servers learn its name one by one.
const WARM_UP: Duration = Duration::from_secs(45);

/// How long a throttled request is repeated: the test itself may have used up a low limit.
const THROTTLED: Duration = Duration::from_secs(5);

/// The pause between two attempts of a step.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize)]
pub struct Report {
    pub endpoint: String,
    /// `iam` means signed requests.
    pub auth: Auth,
    pub passed: bool,
    /// In the order in which they are declared.
    pub steps: Vec<StepResult>,
}

#[derive(Debug, Serialize)]
pub struct StepResult {
    pub name: &'static str,
    pub expected: &'static str,
    pub saw: String,
    pub passed: bool,
    pub milliseconds: f64,
}

impl Report {
    /// An error if the test failed.
    pub fn verdict(&self) -> Result<(), Failure> {
        let Some(step) = self.steps.iter().find(|step| !step.passed) else {
            return Ok(());
        };
        let StepResult { name, expected, saw, .. } = step;
        let message = format!(
            "the smoke test of {} failed at `{name}`: expected {expected}, saw {saw}",
            self.endpoint
        );
        // The function's own refusals have a code. API Gateway's do not.
        let hint = match self.auth {
            Auth::None if saw.starts_with("403, `") => {
                "the API may require signed requests: `cbbootstrap smoke URL --auth iam` signs them"
            }
            Auth::Iam if saw.starts_with("403, `") => {
                "sign with credentials that allow `execute-api:Invoke` in the API's account, and for its region (`--profile`, `--region`)"
            }
            _ if saw.contains("UnknownIssuer") => {
                "if a private authority signed its certificate, `AWS_CA_BUNDLE` must name a PEM file with that one"
            }
            _ if saw.contains(proxy::REFUSES) => proxy::advice(saw),
            _ if saw.starts_with("no answer") => {
                "check the URL, and that the API runs; `cbbootstrap status` prints a stack's endpoint"
            }
            _ if saw.ends_with("route_not_found") => {
                "pass the endpoint as `serve` or `status` prints it, without a path"
            }
            _ => "if the request reached the function, see its log: `cbbootstrap logs`",
        };
        let hint = certificates::advice(saw).unwrap_or(hint);
        Err(Failure::new(message).hint(hint).exit(Exit::SmokeFailed))
    }

    /// The failed steps, a line for each.
    pub fn failures(&self) -> impl Iterator<Item = String> {
        let failed = self.steps.iter().filter(|step| !step.passed);
        failed.map(|StepResult { name, expected, saw, .. }| {
            format!("{name}: expected {expected}, saw {saw}")
        })
    }

    pub fn summary(&self) -> String {
        let passed = self.steps.iter().filter(|step| step.passed).count();
        format!("{passed} of {} steps passed", self.steps.len())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        for StepResult { name, saw, expected, passed, milliseconds } in &self.steps {
            if *passed {
                writeln!(f, "  ok      {name}: {saw} ({milliseconds:.0} ms)")?;
            } else {
                let answers = format!("expected {expected}, saw {saw}");
                writeln!(f, "  FAILED  {name}: {answers} ({milliseconds:.0} ms)")?;
            }
        }
        write!(f, "{} at {}", self.summary(), self.endpoint)
    }
}

/// Tests the endpoint, with signed requests if there is a signer. A `fresh` endpoint gets time to appear. `store` is that of the endpoint,
/// if it is known.
pub async fn test(
    network: &Network,
    endpoint: &str,
    signer: Option<Signer>,
    fresh: bool,
    store: Option<&impl Store>,
) -> anyhow::Result<Report> {
    let auth = if signer.is_some() { Auth::Iam } else { Auth::None };
    let tester = Arc::new(Tester {
        client: Client::new(network, endpoint, signer),
        ready_by: Instant::now() + if fresh { WARM_UP } else { Duration::ZERO },
    });
    let clusters = Clusters::new();
    let mut steps: Vec<StepResult> = Vec::new();
    for round in clusters.rounds(auth == Auth::Iam) {
        let tester = tester.clone();
        let tasks = round.into_iter().map(|step| {
            let tester = tester.clone();
            tokio::spawn(async move { tester.try_step(&step).await })
        });
        for task in tasks.collect::<Vec<_>>() {
            steps.push(task.await?);
        }
        // If this is not the service, no other step can pass.
        if !steps[0].passed {
            steps.truncate(1);
            break;
        }
    }
    if let Some(store) = store {
        // If the caller may not do that, listings hide the records, and they expire an hour after their lease.
        let _ = store.delete_smoke_test(&clusters.ids()).await;
    }
    let passed = steps.iter().all(|step| step.passed);
    Ok(Report { endpoint: endpoint.to_owned(), auth, passed, steps })
}

struct Tester {
    client: Client,
    /// When the endpoint must have appeared.
    ready_by: Instant,
}

impl Tester {
    /// Repeats a step, which does no harm, until its answer comes from the deployed API: names, routes, roles and policies
    /// spread one by one, and until then another service answers, or the function without its table.
    async fn try_step(&self, step: &Step) -> StepResult {
        let started = Instant::now();
        loop {
            let (saw, deadline) = match self.client.send(step).await {
                Err(error) => (error, Some(self.ready_by)),
                Ok(answer) => {
                    let deadline = self.deadline(step, &answer, started);
                    (answer.description, deadline)
                }
            };
            let passed = step.accepts(&saw);
            if passed || deadline.is_none_or(|deadline| Instant::now() >= deadline) {
                let milliseconds = (started.elapsed().as_secs_f64() * 1e4).round() / 10.0;
                let Step { name, expected, .. } = *step;
                return StepResult { name, expected, saw, passed, milliseconds };
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The deadline for another answer; `None` if this one is final.
    fn deadline(&self, step: &Step, answer: &Answer, started: Instant) -> Option<Instant> {
        let is_final = match answer.status {
            403 | 404 => answer.has_code,
            status => status < 429,
        };
        match answer.status {
            // The function's own refusals have a code. These come from API Gateway or Lambda.
            429 | 503 if !answer.has_code => Some(self.ready_by.max(started + THROTTLED)),
            // A route that is not locked yet is open.
            _ if is_final && step.expected != LOCKED => None,
            _ => Some(self.ready_by),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use cbbootstrap_function::store::dynamodb::DynamoDb;
    use cbbootstrap_protocol::rules::CLOCK_SKEW;

    use super::{steps::LEASE_SECONDS, *};

    #[test]
    fn leases_outlast_the_test() {
        let throttled = THROTTLED * u32::try_from(Clusters::new().rounds(false).len()).unwrap();
        // The steps themselves may take as long again.
        let longest = 2 * (WARM_UP + throttled + CLOCK_SKEW);
        assert!(Duration::from_secs(LEASE_SECONDS) > longest, "{longest:?}");
    }

    #[test]
    fn hint_depends_on_who_refused() {
        for (auth, saw, hint) in [
            (Auth::None, "403, `{\"message\":\"Forbidden\"}`", "--auth iam"),
            (Auth::Iam, "403, `{\"message\":\"Forbidden\"}`", "`execute-api:Invoke`"),
            (Auth::None, "403, wrong_secret", "see its log"),
            (Auth::None, "500, internal", "see its log"),
            (Auth::Iam, "no answer (connection refused)", "check the URL"),
            (Auth::None, "404, route_not_found", "without a path"),
        ] {
            let report = Report {
                endpoint: "https://a.example".to_owned(),
                auth,
                passed: false,
                steps: vec![StepResult {
                    name: "the API answers",
                    expected: "200",
                    saw: saw.to_owned(),
                    passed: false,
                    milliseconds: 1.0,
                }],
            };
            let actual = report.verdict().unwrap_err().hint.unwrap();
            assert!(actual.contains(hint), "{auth:?}, {saw}: {actual}");
        }
    }

    #[tokio::test]
    async fn dead_endpoint_fails_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let endpoint = format!("http://nobody.localhost:{port}");
        let network = Network::direct(None).unwrap();
        let report = test(&network, &endpoint, None, false, None::<&DynamoDb>).await.unwrap();
        assert!(!report.passed && report.steps.len() == 1, "{report}");
        let failure = report.verdict().unwrap_err();
        assert_eq!(failure.exit, Exit::SmokeFailed);
        assert!(failure.to_string().contains("no answer"), "{failure}");
    }
}
