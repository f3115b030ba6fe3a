//! Many nodes of many clusters that call a service at once, and record its answers.
//!
//! Each node mostly continues as its last answer suggests. It may also repeat requests, report too early or late, leave, or use a
//! wrong secret. Claims have a long lease or none; sometimes a node makes the current lease expire, in the table. The seed
//! determines the requests of each node, but not their order among nodes.

use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::Client;
use axum::Router;
use cbbootstrap_function::event;
use cbbootstrap_protocol::wire::{Cluster, State};
use fastrand::Rng;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Uri, body::Bytes, header::HOST};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Map, Value, json};
use tokio::{task::JoinSet, time};

use crate::{
    dynamodb,
    history::{Event, Operation, Outcome},
    local,
    proxy::{Fault, Proxy},
};

/// A node gives up after this time. Other tests can slow the stand-in down.
const PATIENCE: Duration = Duration::from_secs(30);

/// The number of requests about a cluster before another one replaces it.
const LIFE: usize = 120;

/// Longer than any history.
const LEASE: u64 = 86_400;

/// The size of a workload.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Clusters at a time.
    pub clusters: usize,
    /// Concurrent nodes.
    pub nodes: usize,
    pub requests: usize,
}

/// The service's records, to make leases expire.
#[derive(Clone, Debug)]
pub enum Table {
    DynamoDb(Client),
    Sqlite(PathBuf),
}

#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub enum Service {
    Http(Http),
    Here(Here),
}

/// A service at a URL.
#[derive(Clone)]
pub struct Http {
    client: legacy::Client<HttpConnector, Full<Bytes>>,
    /// Each with its `Host` header. Requests take turns.
    urls: Vec<(String, String)>,
    next: Arc<AtomicUsize>,
}

/// The function's router, behind a network that loses, delays and repeats some requests and answers.
#[derive(Clone)]
pub struct Here {
    router: Router,
    share: f64,
    random: Arc<std::sync::Mutex<Rng>>,
    faults: Arc<AtomicUsize>,
}

impl Service {
    /// An endpoint, behind a proxy.
    pub fn behind(proxy: &Proxy, endpoint: &str) -> Self {
        Self::at(vec![(proxy.url.clone(), host(endpoint))])
    }

    /// Endpoints that each node uses in turn.
    pub fn among(endpoints: &[&str]) -> Self {
        let urls = endpoints.iter();
        Self::at(urls.map(|url| ((*url).to_owned(), host(url))).collect())
    }

    fn at(urls: Vec<(String, String)>) -> Self {
        // On a kept connection, the client would repeat lost requests.
        let mut client = legacy::Client::builder(TokioExecutor::new());
        let client = client.pool_max_idle_per_host(0).build_http();
        let next = Arc::default();
        Self::Http(Http { client, urls, next })
    }

    /// The router, with faults in this share of the requests.
    pub fn here(router: Router, seed: u64, share: f64) -> Self {
        let random = Arc::new(Rng::with_seed(seed).into());
        let faults = Arc::default();
        Self::Here(Here { router, share, random, faults })
    }

    /// The number of requests with a fault.
    pub fn faults(&self) -> usize {
        match self {
            Self::Http(_) => 0,
            Self::Here(here) => here.faults.load(Ordering::Relaxed),
        }
    }

    /// Status and body of the answer.
    async fn ask(&self, path: &str, body: Value, secret: Option<&str>) -> Option<(u16, Value)> {
        let asked = async {
            match self {
                Self::Http(http) => http.ask(path, body, secret).await,
                Self::Here(here) => here.ask(path, body, secret).await,
            }
        };
        time::timeout(PATIENCE, asked).await.ok().flatten()
    }
}

/// The host and port of an endpoint.
fn host(endpoint: &str) -> String {
    let endpoint: Uri = endpoint.parse().expect("an endpoint is a URL");
    endpoint.authority().expect("with a host").to_string()
}

impl Http {
    async fn ask(&self, path: &str, body: Value, secret: Option<&str>) -> Option<(u16, Value)> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.urls.len();
        let (url, host) = &self.urls[turn];
        let mut request = Request::post(format!("{url}{path}")).header(HOST, host);
        if let Some(secret) = secret {
            request = request.header("authorization", format!("Bearer {secret}"));
        }
        let request = request.body(Full::from(body.to_string())).ok()?;
        let answer = self.client.request(request).await.ok()?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}

impl Here {
    async fn ask(&self, path: &str, body: Value, secret: Option<&str>) -> Option<(u16, Value)> {
        let mut headers = Map::new();
        if let Some(secret) = secret {
            headers.insert("authorization".to_owned(), json!(format!("Bearer {secret}")));
        }
        let event = json!({
            "rawPath": path,
            "requestContext": {"http": {"method": "POST"}},
            "headers": headers,
            "body": body.to_string(),
        });
        match self.fault() {
            None => self.answer(event).await,
            Some(Fault::Delay(time)) => {
                time::sleep(time).await;
                self.answer(event).await
            }
            Some(Fault::Duplicate(later)) => {
                let copy = self.answer(event.clone());
                tokio::spawn(async move {
                    time::sleep(later).await;
                    copy.await
                });
                self.answer(event).await
            }
            Some(Fault::DropAnswer) => {
                tokio::spawn(self.answer(event));
                None
            }
            Some(_) => None,
        }
    }

    fn fault(&self) -> Option<Fault> {
        let mut random = self.random.lock().expect("nobody panics with it");
        (random.f64() < self.share).then(|| {
            self.faults.fetch_add(1, Ordering::Relaxed);
            Fault::at_random(&mut random)
        })
    }

    fn answer(&self, event: Value) -> impl Future<Output = Option<(u16, Value)>> + Send + 'static {
        let router = self.router.clone();
        async move {
            let event = event.to_string();
            let answer = event::respond(router, event.as_bytes(), "id", "").await;
            let answer = serde_json::to_value(answer).ok()?;
            let status = answer["statusCode"].as_u64()?.try_into().ok()?;
            let body = serde_json::from_str(answer["body"].as_str()?);
            Some((status, body.unwrap_or_default()))
        }
    }
}

/// Runs a workload and returns its history. The table is the service's.
pub async fn run(service: &Service, table: &Table, plan: Plan) -> Vec<Event> {
    let shared = Arc::new(Shared {
        service: service.clone(),
        table: table.clone(),
        plan,
        begin: Instant::now(),
        asked: (0..plan.clusters).map(|_| AtomicUsize::new(0)).collect(),
    });
    let mut nodes = JoinSet::new();
    for number in 0..plan.nodes {
        nodes.spawn(Node::new(&shared, number).live());
    }
    let mut events = nodes.join_all().await.concat();
    // No request is in progress: read the final records.
    let mut clusters: Vec<_> = events.iter().map(|event| event.cluster.clone()).collect();
    clusters.sort();
    clusters.dedup();
    let mut observer = Node::new(&shared, plan.nodes);
    for cluster in clusters {
        events.push(observer.ask(&cluster, Operation::Status, false).await);
    }
    events
}

struct Shared {
    service: Service,
    table: Table,
    plan: Plan,
    begin: Instant,
    /// The number of requests about each cluster and the ones that it replaced.
    asked: Vec<AtomicUsize>,
}

struct Node {
    shared: Arc<Shared>,
    name: String,
    /// Which cluster it is of.
    place: usize,
    random: Rng,
    /// The last answer about its cluster.
    told: Option<Cluster>,
    cluster: String,
}

impl Node {
    fn new(shared: &Arc<Shared>, number: usize) -> Self {
        let place = number % shared.plan.clusters;
        Self {
            shared: Arc::clone(shared),
            name: format!("node-{number}"),
            place,
            random: Rng::with_seed(shared.plan.seed.wrapping_add(number as u64)),
            told: None,
            cluster: String::new(),
        }
    }

    async fn live(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let Plan { clusters, requests, .. } = self.shared.plan;
        loop {
            let asked = self.shared.asked[self.place].fetch_add(1, Ordering::Relaxed);
            if asked >= requests.div_ceil(clusters) {
                return events;
            }
            let kind = ["open", "locked"][self.place % 2];
            let cluster = format!("{kind}-{}-{}", self.place, asked / LIFE);
            if cluster != self.cluster {
                self.cluster.clone_from(&cluster);
                self.told = None;
            }
            match self.next() {
                Operation::Lapse => events.extend(self.lapse(&cluster).await),
                operation => {
                    let is_intruder = self.told.is_some() && self.random.f64() < 0.03;
                    let event = self.ask(&cluster, operation, is_intruder).await;
                    if let (Outcome::Told(told), false) = (&event.outcome, is_intruder) {
                        self.told = Some(told.clone());
                    }
                    events.push(event);
                }
            }
            let pause = self.random.u64(..10);
            time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Chooses the next request.
    fn next(&mut self) -> Operation {
        let chance = self.random.u8(..100);
        let Some(told) = &self.told else {
            return match chance {
                ..85 => Operation::Claim,
                85..95 => Operation::Status,
                _ => Operation::Ready { generation: None, uuid: None },
            };
        };
        let own = format!("uuid-of-{}", self.name);
        let report = |uuid| Operation::Ready {
            generation: (!chance.is_multiple_of(8)).then_some(told.generation),
            uuid,
        };
        let leave =
            Operation::Leave { generation: (!chance.is_multiple_of(4)).then_some(told.generation) };
        match told.state {
            State::Claimed if told.is_initial_node => match chance {
                ..50 => Operation::Claim,
                50..60 => Operation::Status,
                60..72 => leave,
                72..86 => Operation::Lapse,
                _ => report(Some(own)),
            },
            State::Claimed => match chance {
                ..60 => Operation::Claim,
                60..75 => Operation::Status,
                75..80 => leave,
                80..88 => Operation::Lapse,
                _ => report(Some(own)),
            },
            State::Ready => match chance {
                ..25 => Operation::Claim,
                25..50 => Operation::Status,
                50..65 => leave,
                65..70 => report(Some(own)),
                70..75 => Operation::Lapse,
                _ => report(told.cluster_uuid.clone()),
            },
        }
    }

    async fn ask(&mut self, cluster: &str, operation: Operation, is_intruder: bool) -> Event {
        let mut body = json!({"cluster_id": cluster, "node_ip_addr_or_hostname": self.name});
        let path = match &operation {
            Operation::Claim => {
                if self.random.f64() < 0.9 {
                    body["lease_seconds"] = json!(LEASE);
                }
                "/cluster"
            }
            Operation::Ready { generation, uuid } => {
                if let Some(generation) = generation {
                    body["generation"] = json!(generation);
                }
                if let Some(uuid) = uuid {
                    body["cluster_uuid"] = json!(uuid);
                }
                "/cluster/ready"
            }
            Operation::Leave { generation } => {
                if let Some(generation) = generation {
                    body["generation"] = json!(generation);
                }
                "/cluster/leave"
            }
            Operation::Status | Operation::Lapse => "/cluster/get_status",
        };
        let secret = match cluster.starts_with("locked") {
            _ if is_intruder => Some("wrong"),
            true => Some("right"),
            false => None,
        };
        let invoked = self.shared.begin.elapsed();
        let answer = self.shared.service.ask(path, body, secret).await;
        self.event(cluster, operation, is_intruder, invoked, answer.map_or(Outcome::Lost, outcome))
    }

    /// `None` if no lease runs.
    async fn lapse(&self, cluster: &str) -> Option<Event> {
        let invoked = self.shared.begin.elapsed();
        let lapsed = match &self.shared.table {
            Table::DynamoDb(client) => dynamodb::lapse(client, cluster).await.ok(),
            Table::Sqlite(database) => local::lapse(database, cluster).ok(),
        };
        let outcome = match lapsed {
            Some(generation) => Outcome::Lapsed(generation?),
            None => Outcome::Lost,
        };
        Some(self.event(cluster, Operation::Lapse, false, invoked, outcome))
    }

    fn event(
        &self,
        cluster: &str,
        operation: Operation,
        is_intruder: bool,
        invoked: Duration,
        outcome: Outcome,
    ) -> Event {
        Event {
            cluster: cluster.to_owned(),
            node: self.name.clone(),
            operation,
            is_intruder,
            invoked,
            completed: self.shared.begin.elapsed(),
            outcome,
        }
    }
}

/// The outcome of a request by its answer.
fn outcome((status, body): (u16, Value)) -> Outcome {
    let code = body["code"].as_str().unwrap_or_default().to_owned();
    match status {
        200 => serde_json::from_value(body).map_or(Outcome::Refused(code), Outcome::Told),
        // The proxy's throttling.
        429 => Outcome::Lost,
        500.. if code != "internal" => Outcome::Lost,
        _ => Outcome::Refused(code),
    }
}

/// The sums of a history.
#[derive(Debug)]
pub struct Figures {
    pub requests: usize,
    /// Those whose answer had a record.
    pub told: usize,
    pub refused: usize,
    /// Those with an unknown outcome.
    pub lost: usize,
    pub clusters: usize,
    /// Clusters that became ready.
    pub ready: usize,
    /// Takeovers in the answers.
    pub takeovers: u64,
    pub generation: u64,
}

impl Figures {
    pub fn of(events: &[Event]) -> Self {
        let mut clusters: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
        for event in events {
            if let Outcome::Told(told) = &event.outcome {
                let (generation, is_ready) = clusters.entry(&event.cluster).or_default();
                *generation = told.generation.max(*generation);
                *is_ready |= told.state == State::Ready;
            }
        }
        let count = |is: fn(&Outcome) -> bool| {
            let outcomes = events.iter().map(|event| &event.outcome);
            outcomes.filter(|outcome| is(outcome)).count()
        };
        let generations = || clusters.values().map(|(generation, _)| *generation);
        Self {
            requests: events.len(),
            told: count(|outcome| matches!(outcome, Outcome::Told(_))),
            refused: count(|outcome| matches!(outcome, Outcome::Refused(_))),
            lost: count(|outcome| *outcome == Outcome::Lost),
            clusters: clusters.len(),
            ready: clusters.values().filter(|(_, is_ready)| *is_ready).count(),
            takeovers: generations().map(|generation| generation - 1).sum(),
            generation: generations().max().unwrap_or_default(),
        }
    }
}
