//! Hundreds of nodes at once, while requests and answers are lost, late or repeated: every answer is checked against the
//! protocol, and services that are broken on purpose are caught.
//!
//! `HISTORY_SEED` chooses the seed, which is printed. The long run is
//! `cargo test --workspace --test service -- --ignored --nocapture`.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use cbbootstrap_function::{
    api,
    store::{Error, Page, Row, Store, sqlite::Sqlite},
};
use cbbootstrap_protocol::{
    names::ClusterId,
    rules::{Claim, Claimed, Record, Refusal},
    trust::SecretHash,
};
use cbbootstrap_tests::{
    artifact,
    dynamodb::{TABLE, client, create_table},
    history::{Property, Violation, check},
    local::{self, Local},
    ministack::MiniStack,
    proxy::Proxy,
    workload::{Figures, Plan, Service, Table, run},
};
use jiff::Timestamp;
use rusqlite::Connection;
use tempfile::tempdir;

/// Something is done to this share of the requests, wherever they pass.
const SHARE: f64 = 0.1;

/// A few nodes for each cluster, and this many requests.
fn plan(nodes: usize, requests: usize) -> Plan {
    let seed = std::env::var("HISTORY_SEED").ok();
    let seed = seed.map_or_else(|| fastrand::u64(..1_000_000), |seed| seed.parse().unwrap());
    Plan { seed, clusters: nodes.div_ceil(8), nodes, requests }
}

fn print_header() {
    println!(
        "{:>14} {:>8} {:>8} {:>8} {:>6} {:>7} {:>8} {:>6} {:>9} {:>10} {:>10} {:>7} {:>8}",
        "service",
        "requests",
        "told",
        "refused",
        "lost",
        "faults",
        "clusters",
        "ready",
        "takeovers",
        "generation",
        "violations",
        "seconds",
        "seed",
    );
}

/// Runs the plan, and prints how it went below the header.
async fn violations(
    what: &str,
    service: &Service,
    table: &Table,
    plan: Plan,
    proxies: &[&Proxy],
) -> Vec<Violation> {
    let begin = Instant::now();
    let events = run(service, table, plan).await;
    let seconds = begin.elapsed().as_secs();
    let violations = check(&events);
    let calls = proxies.iter().flat_map(|proxy| proxy.calls());
    let faults = service.faults() + calls.filter(|call| call.fault.is_some()).count();
    let Figures { requests, told, refused, lost, clusters, ready, takeovers, generation } =
        Figures::of(&events);
    println!(
        "{what:>14} {requests:>8} {told:>8} {refused:>8} {lost:>6} {faults:>7} {clusters:>8} {ready:>6} {takeovers:>9} \
         {generation:>10} {:>10} {seconds:>7} {:>8}",
        violations.len(),
        plan.seed,
    );
    assert!(told > requests / 2, "{told} of {requests} requests were answered");
    violations
}

#[track_caller]
fn assert_none(violations: &[Violation]) {
    let violations: Vec<_> = violations.iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

async fn on_a_server(nodes: usize, requests: usize) {
    let data = tempdir().unwrap();
    let server = Local::serve(data.path(), &[]);
    let proxy = Proxy::before(&server.endpoint);
    let service = Service::behind(&proxy, &server.endpoint);
    let plan = plan(nodes, requests);
    proxy.fault_at_random(plan.seed, SHARE);
    let table = Table::Sqlite(server.database());
    assert_none(&violations("server", &service, &table, plan, &[&proxy]).await);
}

/// Three servers over one table, to which a tenth of their calls fail; each node asks now one, now another.
async fn on_three_servers(nodes: usize, requests: usize) {
    let aws = MiniStack::start();
    let table = client(&aws.url);
    create_table(&table).await;
    let calls = Proxy::before(&aws.url);
    let user = || aws.user().with("AWS_ENDPOINT_URL", &calls.url);
    let servers = [(); 3].map(|()| Local::over_table(user(), TABLE, &[]));
    let endpoints = servers.each_ref().map(|server| server.endpoint.as_str());
    let plan = plan(nodes, requests);
    calls.fault_at_random(plan.seed, SHARE);
    let service = Service::among(&endpoints);
    let table = Table::DynamoDb(table);
    assert_none(&violations("three servers", &service, &table, plan, &[&calls]).await);
}

async fn on_ministack(nodes: usize, number: usize) {
    let mut proxy = None;
    let aws = MiniStack::start_with(|url| proxy.insert(Proxy::before(url)).url.clone());
    let (calls, requests) = (proxy.unwrap(), Proxy::before(&aws.url));
    let zip = artifact::zip().to_owned();
    let deploy = ["deploy", "--yes", "--output", "json", "--function-zip", &zip];
    let deployed = aws.user().run(&deploy).document();
    let endpoint = deployed["endpoint"].as_str().unwrap();
    assert!(!calls.calls().is_empty(), "the function calls through the proxy");

    let plan = plan(nodes, number);
    calls.fault_at_random(plan.seed, SHARE);
    requests.fault_at_random(plan.seed + 1, SHARE);
    let service = Service::behind(&requests, endpoint);
    let proxies = [&calls, &requests];
    let table = Table::DynamoDb(client(&aws.url));
    assert_none(&violations("MiniStack", &service, &table, plan, &proxies).await);
}

/// The router over a database, in this process.
async fn here(nodes: usize, requests: usize) {
    let data = tempdir().unwrap();
    let database = data.path().join("clusters.db");
    let store = Sqlite::create(&database).unwrap();
    let plan = plan(nodes, requests);
    let router = api::router(store, api::Policy::default());
    let service = Service::here(router, plan.seed, SHARE);
    let table = Table::Sqlite(database);
    assert_none(&violations("here", &service, &table, plan, &[]).await);
}

#[tokio::test]
async fn one_server_keeps_the_protocol() {
    print_header();
    on_a_server(200, 1200).await;
}

#[tokio::test]
async fn three_servers_over_one_table_keep_the_protocol() {
    print_header();
    on_three_servers(24, 600).await;
}

#[tokio::test]
async fn a_deployment_keeps_the_protocol() {
    print_header();
    on_ministack(24, 300).await;
}

#[tokio::test]
async fn the_router_keeps_the_protocol() {
    print_header();
    here(200, 1200).await;
}

#[tokio::test]
#[ignore = "sends 100,000 requests"]
async fn a_hundred_thousand_requests_keep_the_protocol() {
    print_header();
    here(300, 85_000).await;
    on_a_server(300, 85_000).await;
    on_three_servers(64, 10_000).await;
    on_ministack(32, 5_000).await;
}

/// A mistake of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// Every claim finds nothing.
    ClaimsAlways,
    /// A lease ends before it begins.
    IgnoresLeases,
    /// Reads return an earlier state.
    ReadsLate,
}

/// A store that makes a mistake.
#[derive(Clone)]
struct Broken {
    mistake: Mistake,
    store: Sqlite,
    database: PathBuf,
    /// What was read of each cluster, and when.
    read: Arc<Mutex<HashMap<String, (Instant, Record)>>>,
}

impl Store for Broken {
    async fn claim(&self, claim: &Claim) -> Result<(Claimed, Record), Error> {
        let id = claim.cluster_id.as_str();
        if self.mistake == Mistake::ClaimsAlways {
            let connection = Connection::open(&self.database).unwrap();
            connection.busy_timeout(Duration::from_secs(10)).unwrap();
            let delete = "DELETE FROM clusters WHERE cluster_id = ?";
            connection.execute(delete, [id]).unwrap();
        }
        let claimed = self.store.claim(claim).await;
        if self.mistake == Mistake::IgnoresLeases {
            local::lapse(&self.database, id).unwrap();
        }
        claimed
    }

    async fn change(
        &self,
        cluster_id: &str,
        now: Timestamp,
        rule: impl Fn(Option<Record>) -> Result<Record, Refusal> + Send + Sync + 'static,
    ) -> Result<Record, Error> {
        self.store.change(cluster_id, now, rule).await
    }

    async fn status(
        &self,
        cluster_id: &ClusterId,
        secret: Option<&SecretHash>,
        now: Timestamp,
    ) -> Result<Record, Error> {
        let record = self.store.status(cluster_id, secret, now).await?;
        if self.mistake != Mistake::ReadsLate {
            return Ok(record);
        }
        let mut read = self.read.lock().unwrap();
        let (at, before) = read
            .entry(record.cluster_id.clone())
            .or_insert_with(|| (Instant::now(), record.clone()));
        if at.elapsed() > Duration::from_secs(1) {
            (*at, *before) = (Instant::now(), record);
        }
        Ok(before.clone())
    }

    async fn forget_unreadable(&self, cluster_id: &str, now: Timestamp) -> Result<bool, Error> {
        self.store.forget_unreadable(cluster_id, now).await
    }

    async fn delete_smoke_test(&self, cluster_ids: &[String]) -> Result<(), Error> {
        self.store.delete_smoke_test(cluster_ids).await
    }

    async fn find(&self, cluster_id: &str) -> Result<Option<Row>, Error> {
        Store::find(&self.store, cluster_id).await
    }

    async fn list(&self, after: Option<&str>) -> Result<Page, Error> {
        self.store.list(after).await
    }
}

/// What the check finds of a service with this mistake.
async fn broken(mistake: Mistake) -> BTreeSet<Property> {
    let data = tempdir().unwrap();
    let database = data.path().join("clusters.db");
    let store = Broken {
        mistake,
        store: Sqlite::create(&database).unwrap(),
        database: database.clone(),
        read: Arc::default(),
    };
    let plan = plan(64, 800);
    let service = Service::here(api::router(store, api::Policy::default()), plan.seed, SHARE);
    let table = Table::Sqlite(database);
    let violations = violations(&format!("{mistake:?}"), &service, &table, plan, &[]).await;
    violations.into_iter().map(|violation| violation.property).collect()
}

#[tokio::test]
async fn a_broken_service_is_detected() {
    print_header();
    for (mistake, property) in [
        (Mistake::ClaimsAlways, Property::OneInitializer),
        (Mistake::IgnoresLeases, Property::LeaseIsKept),
        (Mistake::ReadsLate, Property::GenerationsGrow),
    ] {
        let seen = broken(mistake).await;
        assert!(seen.contains(&property), "{mistake:?}: {seen:?}");
    }
}
