//! The smoke test: what a cluster's nodes ask, asked of an endpoint.

use std::{
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use cbbootstrap_cli::signer::Signer;
use cbbootstrap_protocol::wire;
use serde::Serialize;
use serde_json::{Value, json};
use ureq::{
    Agent, RequestBuilder,
    config::Config,
    http::{Method, Response, Uri},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{DefaultConnector, NextTimeout},
    },
};
use uuid::Uuid;

use crate::{
    failure::{Exit, Failure},
    values::Auth,
};

/// The most that one request may take; a cold start takes well under a second.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How long a new endpoint may take until it answers at all: its name has to spread.
const WARM_UP: Duration = Duration::from_secs(45);

/// Between two tries of an endpoint that does not answer yet.
const PAUSE: Duration = Duration::from_millis(500);

/// What the test found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was tested.
    pub endpoint: String,
    /// As whom: `iam` is with signed requests.
    pub auth: Auth,
    /// Whether every step passed.
    pub passed: bool,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One request, and what became of it.
#[derive(Debug, Serialize)]
pub struct Step {
    /// What was done.
    pub name: &'static str,
    /// What should have come.
    pub expected: String,
    /// What came.
    pub saw: String,
    /// Whether that is the same.
    pub passed: bool,
    /// How long it took.
    pub milliseconds: f64,
}

impl Report {
    /// As an error, if the test failed.
    pub fn verdict(&self) -> Result<(), Failure> {
        match self.steps.iter().find(|step| !step.passed) {
            None => Ok(()),
            Some(step) => Err(Failure::new(format!(
                "the smoke test of {} failed at `{}`: expected {}, saw {}",
                self.endpoint, step.name, step.expected, step.saw
            ))
            .hint(self.way_out(step))
            .exit(Exit::SmokeFailed)),
        }
    }

    fn way_out(&self, step: &Step) -> &'static str {
        // The function's own refusals have a code. This is API Gateway's word, which does not let the request through.
        let is_locked = step.saw.starts_with("403, `");
        match self.auth {
            Auth::None if is_locked => {
                "it may take signed requests only: `cbbootstrap smoke URL --auth iam` signs them"
            }
            Auth::Iam if is_locked => {
                "sign as someone who may `execute-api:Invoke` in the API's account, and for its region (`--profile`, `--region`)"
            }
            _ => "the function's log says more, where it was reached",
        }
    }

    /// What to say of it in a line.
    pub fn summary(&self) -> String {
        let passed = self.steps.iter().filter(|step| step.passed).count();
        format!("{passed} of {} steps passed", self.steps.len())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for step in &self.steps {
            let Step { name, saw, expected, milliseconds, .. } = step;
            if step.passed {
                writeln!(f, "  ok      {name}: {saw} ({milliseconds:.0} ms)")?;
            } else {
                writeln!(
                    f,
                    "  FAILED  {name}: expected {expected}, saw {saw} ({milliseconds:.0} ms)"
                )?;
            }
        }
        write!(f, "{} at {}", self.summary(), self.endpoint)
    }
}

/// The endpoint as a base for paths: `http` or `https`, no query, no slash at its end. Without a scheme it is `https`,
/// but `http` on this machine.
pub fn endpoint(text: &str) -> anyhow::Result<String> {
    let host = text.split(['/', ':']).next().unwrap_or_default();
    let is_here = host == "localhost"
        || host.ends_with(".localhost")
        || host.starts_with("127.")
        || text.starts_with("[::1]");
    // Not said again: it may hold a password.
    if text.contains('@') {
        return Err(Failure::new("an endpoint has no user name or password in it")
            .hint("give it as `https://HOST` or `http://HOST:PORT`")
            .exit(Exit::Usage)
            .into());
    }
    let with_scheme = match (text.contains("://"), is_here) {
        (true, _) => text.to_owned(),
        (false, true) => format!("http://{text}"),
        (false, false) => format!("https://{text}"),
    };
    let refuse = |reason: &str| {
        Failure::new(format!("`{text}` is no endpoint: {reason}"))
            .hint("give it as `https://HOST` or `http://HOST:PORT`")
            .exit(Exit::Usage)
    };
    let uri: Uri = with_scheme.parse().map_err(|error| refuse(&format!("{error}")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(refuse("it must be http or https").into());
    }
    if uri.query().is_some() || text.contains('#') {
        return Err(refuse("it must have no query and no fragment").into());
    }
    Ok(with_scheme.trim_end_matches('/').to_owned())
}

/// Tests the endpoint, with signed requests if there is a signer. A `fresh` one is given time to appear.
pub async fn test(endpoint: &str, signer: Option<Signer>, fresh: bool) -> anyhow::Result<Report> {
    let endpoint = endpoint.to_owned();
    let test = move || Tester::new(endpoint, signer, fresh).run();
    Ok(tokio::task::spawn_blocking(test).await?)
}

/// The nodes that ask.
const FIRST: &str = "node-1.smoke.invalid";
const SECOND: &str = "node-2.smoke.invalid";

/// What a node asks about a cluster.
fn node(cluster: &str, node: &str) -> Value {
    json!({"cluster_id": cluster, "node_ip_addr_or_hostname": node})
}

/// A claim that will not last.
fn claim(cluster: &str, name: &str) -> Value {
    with(node(cluster, name), "lease_seconds", *wire::LEASE_SECONDS.start())
}

fn with(mut body: Value, field: &str, value: u64) -> Value {
    body[field] = value.into();
    body
}

struct Tester {
    agent: Agent,
    endpoint: String,
    signer: Option<Signer>,
    /// The token of the test's clusters, as the API may require one; none where the header is the signature's.
    token: Option<String>,
    /// Until when an endpoint may still be appearing.
    appears_until: Instant,
    steps: Vec<Step>,
}

/// An answer: status, content type and body.
type Answer = (u16, String, Value);

impl Tester {
    fn new(endpoint: String, signer: Option<Signer>, fresh: bool) -> Self {
        let config = Config::builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("cbbootstrap/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::new(), Localhost::default());
        let warm_up = if fresh { WARM_UP } else { Duration::ZERO };
        Self {
            agent,
            endpoint,
            token: signer.is_none().then(|| Uuid::new_v4().simple().to_string()),
            signer,
            appears_until: Instant::now() + warm_up,
            steps: Vec::new(),
        }
    }

    fn run(mut self) -> Report {
        // Ids that nobody has claimed. All claims have leases and no node reports ready, so that the table gets rid of them.
        let unique = Uuid::new_v4().simple().to_string();
        // Without an answer to the first there is no point in asking on.
        if self.hello() {
            self.unsigned_is_refused();
            self.first_nodes(&format!("cbbootstrap-smoke-{unique}"));
            // With the characters of ARNs and base64 in it.
            self.odd_ids(&format!("cbbootstrap-smoke:{unique}/a+b="));
            self.secrets(&format!("cbbootstrap-smoke-closed-{unique}"));
            self.refusals(&format!("cbbootstrap-smoke-unknown-{unique}"));
        }
        Report {
            passed: self.steps.iter().all(|step| step.passed),
            endpoint: self.endpoint,
            auth: self.signer.map_or(Auth::None, |_| Auth::Iam),
            steps: self.steps,
        }
    }

    /// Whether it is the service.
    fn hello(&mut self) -> bool {
        let expected = "200, the service's name";
        let since = Instant::now();
        let (passed, saw) = match self.settled(|tester| tester.send_get("/")) {
            Ok((200, _, body)) if body["name"] == "cbbootstrap" => {
                (true, format!("200, cbbootstrap {}", body["version"].as_str().unwrap_or_default()))
            }
            Ok(answer) => (false, described(&answer)),
            Err(error) => (false, error),
        };
        self.note("the service answers", expected.to_owned(), saw, passed, since);
        passed
    }

    /// Where requests are signed, that one without a signature does not get through.
    fn unsigned_is_refused(&mut self) {
        if self.signer.is_none() {
            return;
        }
        let since = Instant::now();
        let send = || read(self.agent.get(format!("{}/", self.endpoint)).call());
        let (passed, saw) = loop {
            // In the gateway's words, whatever they are.
            let (passed, saw) = match send() {
                Ok((403, _, body)) if !body["code"].is_string() => (true, "403".to_owned()),
                Ok(answer) => (false, described(&answer)),
                Err(error) => (false, error),
            };
            // A lock that is new spreads, as an endpoint does.
            if passed || Instant::now() >= self.appears_until {
                break (passed, saw);
            }
            std::thread::sleep(PAUSE);
        };
        let expected = "403".to_owned();
        self.note("no signature", expected, saw, passed, since);
    }

    /// Two nodes claim a cluster, and the first gives up.
    fn first_nodes(&mut self, cluster: &str) {
        self.post("first node claims", "/cluster", &claim(cluster, FIRST), &told(FIRST, true));
        self.post("second node joins", "/cluster", &claim(cluster, SECOND), &told(FIRST, false));
        self.post("first node asks again", "/cluster", &claim(cluster, FIRST), &told(FIRST, true));
        self.get("status", &format!("/cluster/{cluster}"), &told(FIRST, true));
        self.post(
            "status by POST",
            "/cluster/get_status",
            &node(cluster, SECOND),
            &told(FIRST, false),
        );
        self.post(
            "second node is ready too early",
            "/cluster/ready",
            &node(cluster, SECOND),
            &problem(409, "initial_node_not_ready"),
        );
        self.post(
            "ready of another generation",
            "/cluster/ready",
            &with(node(cluster, FIRST), "generation", 2),
            &problem(409, "stale_generation"),
        );
        self.post(
            "first node gives up",
            "/cluster/leave",
            &node(cluster, FIRST),
            &told(FIRST, true),
        );
        self.post(
            "second node takes over",
            "/cluster",
            &claim(cluster, SECOND),
            &told(SECOND, true),
        );
    }

    fn odd_ids(&mut self, cluster: &str) {
        self.post("odd id is claimed", "/cluster", &claim(cluster, FIRST), &told(FIRST, true));
        self.get("odd id, status", &format!("/cluster/{}", escaped(cluster)), &told(FIRST, true));
        self.post(
            "odd id, status by POST",
            "/cluster/get_status",
            &node(cluster, SECOND),
            &told(FIRST, false),
        );
    }

    fn refusals(&mut self, unknown: &str) {
        self.get(
            "unknown cluster",
            &format!("/cluster/{unknown}"),
            &problem(404, "cluster_not_found"),
        );
        self.post(
            "id with a space",
            "/cluster",
            &claim("a b", FIRST),
            &problem(400, "invalid_field"),
        );
        self.get("id with a space, by GET", "/cluster/a%20b", &problem(400, "invalid_field"));
        self.post(
            "lease too short",
            "/cluster",
            &with(node(unknown, FIRST), "lease_seconds", 29),
            &problem(400, "invalid_field"),
        );
        self.post(
            "no node",
            "/cluster",
            &json!({"cluster_id": unknown}),
            &problem(400, "missing_field"),
        );
        self.step("no JSON", &problem(400, "invalid_json"), |tester| {
            tester.send_post("/cluster", "cluster_id=a", tester.token.as_deref())
        });
    }

    /// A cluster's token keeps others out. Where requests are signed there is none.
    fn secrets(&mut self, cluster: &str) {
        if self.token.is_none() {
            return;
        }
        let (claim, told) = (claim(cluster, FIRST).to_string(), told(FIRST, true));
        let status = json!({"cluster_id": cluster}).to_string();
        self.step("cluster with a secret is claimed", &told, |tester| {
            tester.send_post("/cluster", &claim, tester.token.as_deref())
        });
        self.step("with the secret", &told, |tester| {
            tester.send_post("/cluster/get_status", &status, tester.token.as_deref())
        });
        self.step("with another secret", &problem(403, "forbidden"), |tester| {
            tester.send_post("/cluster/get_status", &status, Some("another"))
        });
        let since = Instant::now();
        let answer = self.settled(|tester| tester.send_post("/cluster", &claim, None));
        let saw = answer.map_or_else(|error| error, |answer| described(&answer));
        // The second where the deployment requires a token.
        let refusals = [problem(403, "forbidden"), problem(401, "secret_required")];
        let passed = refusals.contains(&saw);
        let expected = refusals.join(" or ");
        self.note("without a secret", expected, saw, passed, since);
    }

    /// The answer of an endpoint that has appeared: names, routes, roles and policies spread one by one, and until then
    /// it is somebody else who answers, or the function without its table. Every step can be repeated.
    fn settled(&self, send: impl Fn(&Self) -> Result<Answer, String>) -> Result<Answer, String> {
        loop {
            let answer = send(self);
            let appeared = match &answer {
                Err(_) => false,
                Ok((403 | 404, _, body)) => body["code"].is_string(),
                Ok((status, ..)) => *status < 429,
            };
            if appeared || Instant::now() >= self.appears_until {
                return answer;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn get(&mut self, name: &'static str, path: &str, expected: &str) {
        self.step(name, expected, |tester| tester.send_get(path));
    }

    /// As the README's `curl -d` does, with a content type that is not JSON's.
    fn post(&mut self, name: &'static str, path: &str, body: &Value, expected: &str) {
        let body = body.to_string();
        self.step(name, expected, |tester| tester.send_post(path, &body, tester.token.as_deref()));
    }

    fn step(
        &mut self,
        name: &'static str,
        expected: &str,
        send: impl Fn(&Self) -> Result<Answer, String>,
    ) {
        let since = Instant::now();
        let saw = self.settled(send).map_or_else(|error| error, |answer| described(&answer));
        let passed = saw == expected;
        self.note(name, expected.to_owned(), saw, passed, since);
    }

    fn note(
        &mut self,
        name: &'static str,
        expected: String,
        saw: String,
        passed: bool,
        since: Instant,
    ) {
        let milliseconds = (since.elapsed().as_secs_f64() * 1e4).round() / 10.0;
        self.steps.push(Step { name, expected, saw, passed, milliseconds });
    }

    fn send_get(&self, path: &str) -> Result<Answer, String> {
        let url = format!("{}{path}", self.endpoint);
        let mut request = self.signed(self.agent.get(&url), &url, "")?;
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        read(request.call())
    }

    fn send_post(&self, path: &str, body: &str, secret: Option<&str>) -> Result<Answer, String> {
        let url = format!("{}{path}", self.endpoint);
        let mut request = self.signed(self.agent.post(&url), &url, body)?;
        if let Some(secret) = secret {
            request = request.header("authorization", format!("Bearer {secret}"));
        }
        read(request.content_type("application/x-www-form-urlencoded").send(body))
    }

    /// The request with a signature, where there is a signer.
    fn signed<B>(
        &self,
        request: RequestBuilder<B>,
        url: &str,
        body: &str,
    ) -> Result<RequestBuilder<B>, String> {
        let Some(signer) = &self.signer else {
            return Ok(request);
        };
        let method = request.method_ref().map_or("GET", Method::as_str);
        let headers = signer.headers(method, url, body).map_err(|error| format!("{error:#}"))?;
        Ok(headers.into_iter().fold(request, |request, (name, value)| request.header(name, value)))
    }
}

fn read(answer: Result<Response<ureq::Body>, ureq::Error>) -> Result<Answer, String> {
    let mut answer = answer.map_err(|error| format!("no answer ({error})"))?;
    let content_type = answer
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let content_type = content_type.to_owned();
    let body =
        answer.body_mut().read_to_string().map_err(|error| format!("half an answer ({error})"))?;
    Ok((
        answer.status().as_u16(),
        content_type,
        serde_json::from_str(&body).unwrap_or(Value::String(body)),
    ))
}

/// What an answer says, in the words of [`told`] and [`problem`] where it is one of these.
fn described((status, content_type, body): &Answer) -> String {
    if let (200, Ok(cluster)) = (status, serde_json::from_value::<wire::Cluster>(body.clone())) {
        return told(&cluster.initial_node_ip_addr_or_hostname, cluster.is_initial_node);
    }
    match body["code"].as_str() {
        Some(code) if content_type.starts_with("application/problem+json") => {
            problem(*status, code)
        }
        _ => {
            let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
            let start: String =
                body.chars().take(100).map(|c| if c.is_control() { ' ' } else { c }).collect();
            format!("{status}, `{start}`")
        }
    }
}

fn told(initial_node: &str, is_initial_node: bool) -> String {
    let role = if is_initial_node { "you are the first" } else { "join it" };
    format!("200, {initial_node}, {role}")
}

fn problem(status: u16, code: &str) -> String {
    format!("{status}, {code}")
}

/// The id as one segment of a path.
fn escaped(id: &str) -> String {
    percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Resolves `localhost` and the names below it to this machine, as RFC 6761 says; not every C library does.
#[derive(Debug, Default)]
struct Localhost(DefaultResolver);

impl Resolver for Localhost {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        if !host.ends_with(".localhost") {
            return self.0.resolve(uri, config, timeout);
        }
        let default_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let mut addresses = self.empty();
        addresses
            .push(SocketAddr::from((Ipv4Addr::LOCALHOST, uri.port_u16().unwrap_or(default_port))));
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_told_from_other_things() {
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
            assert_eq!(endpoint(text).ok().as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn answers_are_described() {
        let cluster = json!({
            "cluster_id": "c", "initial_node_ip_addr_or_hostname": "n", "is_initial_node": false,
            "state": "claimed", "generation": 1,
        });
        let json = "application/json".to_owned();
        assert_eq!(described(&(200, json.clone(), cluster)), "200, n, join it");
        let refusal = json!({"code": "cluster_not_found"});
        assert_eq!(
            described(&(404, "application/problem+json".to_owned(), refusal.clone())),
            "404, cluster_not_found"
        );
        assert_eq!(
            described(&(404, json.clone(), refusal)),
            "404, `{\"code\":\"cluster_not_found\"}`"
        );
        assert_eq!(described(&(502, json, Value::String("<html>\n".to_owned()))), "502, `<html> `");
    }

    #[test]
    fn a_locked_endpoint_is_told_from_one_that_fails() {
        for (auth, saw, hint) in [
            (Auth::None, "403, `{\"message\":\"Forbidden\"}`", "--auth iam"),
            (Auth::Iam, "403, `{\"message\":\"Forbidden\"}`", "`execute-api:Invoke`"),
            (Auth::None, "403, wrong_secret", "log says more"),
            (Auth::None, "500, internal", "log says more"),
        ] {
            let report = Report {
                endpoint: "https://a.example".to_owned(),
                auth,
                passed: false,
                steps: vec![Step {
                    name: "the service answers",
                    expected: "200".to_owned(),
                    saw: saw.to_owned(),
                    passed: false,
                    milliseconds: 1.0,
                }],
            };
            let said = report.verdict().unwrap_err().hint.unwrap();
            assert!(said.contains(hint), "{auth:?}, {saw}: {said}");
        }
    }

    #[test]
    fn a_dead_endpoint_fails_at_once() {
        // Bound and not listening any more: nobody answers there.
        let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let report = Tester::new(format!("http://nobody.localhost:{port}"), None, false).run();
        assert!(!report.passed && report.steps.len() == 1, "{report}");
        let failure = report.verdict().unwrap_err();
        assert_eq!(failure.exit, Exit::SmokeFailed);
        assert!(failure.to_string().contains("no answer"), "{failure}");
    }
}
