//! Hundreds of nodes at once, on ways where requests and answers get lost, late and doubled: what they see is what a service
//! that keeps the protocol can show; and what broken ones show is not.
//!
//! `HISTORY_SEED` chooses the seed, which is printed. The long run is
//! `cargo test --workspace --test history -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeSet, HashMap},
    sync::Mutex,
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::{
    Client,
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{BeforeSerializationInterceptorContextMut, FinalizerInterceptorContextMut},
        retry::RetryConfig,
    },
    error::BoxError,
    operation::{batch_get_item::BatchGetItemOutput, update_item::UpdateItemInput},
    types::AttributeValue,
};
use cbbootstrap_function::{
    api,
    store::Store,
    table::{CLUSTER_ID, LEASE_EXPIRES_AT},
};
use cbbootstrap_tests::{
    artifact,
    dynamodb::{Dynoxide, TABLE, client, create_table},
    history::{Property, Violation, check},
    local::Local,
    ministack::MiniStack,
    proxy::Proxy,
    workload::{Figures, Plan, Service, run},
};
use tempfile::tempdir;

/// Something is done to this share of the requests, wherever they pass.
const SHARE: f64 = 0.1;

/// A few nodes for each cluster, and this many requests.
fn plan(nodes: usize, requests: usize) -> Plan {
    let seed = std::env::var("HISTORY_SEED").ok();
    let seed = seed.map_or_else(|| fastrand::u64(..1_000_000), |seed| seed.parse().unwrap());
    Plan {
        seed,
        clusters: nodes.div_ceil(8),
        nodes,
        requests,
    }
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
    table: &Client,
    plan: Plan,
    proxies: &[&Proxy],
) -> Vec<Violation> {
    let begin = Instant::now();
    let events = run(service, table, plan).await;
    let seconds = begin.elapsed().as_secs();
    let violations = check(&events);
    let calls = proxies.iter().flat_map(|proxy| proxy.calls());
    let faults = service.faults() + calls.filter(|call| call.fault.is_some()).count();
    let Figures {
        requests,
        told,
        refused,
        lost,
        clusters,
        ready,
        takeovers,
        generation,
    } = Figures::of(&events);
    println!(
        "{what:>14} {requests:>8} {told:>8} {refused:>8} {lost:>6} {faults:>7} {clusters:>8} {ready:>6} {takeovers:>9} \
         {generation:>10} {:>10} {seconds:>7} {:>8}",
        violations.len(),
        plan.seed,
    );
    assert!(told > requests / 2, "hardly anybody was told anything");
    violations
}

#[track_caller]
fn assert_none(violations: &[Violation]) {
    let violations: Vec<_> = violations.iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

async fn on_a_local_deployment(nodes: usize, requests: usize) {
    let data = tempdir().unwrap();
    let local = Local::with(data.path(), &["--concurrency", "4"]);
    let table = client(&local.database_url());
    let proxy = Proxy::before(&local.endpoint);
    let service = Service::behind(&proxy, &local.endpoint);
    let plan = plan(nodes, requests);
    proxy.fault_at_random(plan.seed, SHARE);
    assert_none(&violations("local", &service, &table, plan, &[&proxy]).await);
}

async fn on_ministack(nodes: usize, number: usize) {
    let mut proxy = None;
    let aws = MiniStack::start_with(|url| proxy.insert(Proxy::before(url)).url.clone());
    let (calls, requests) = (proxy.unwrap(), Proxy::before(&aws.url));
    let zip = artifact::zip().display().to_string();
    let deploy = [
        "deploy",
        "--yes",
        "--output",
        "json",
        "--function-zip",
        &zip,
    ];
    let deployed = aws.user().run(&deploy).document();
    let endpoint = deployed["endpoint"].as_str().unwrap();
    assert!(
        !calls.calls().is_empty(),
        "the function calls through the proxy"
    );

    let plan = plan(nodes, number);
    calls.fault_at_random(plan.seed, SHARE);
    requests.fault_at_random(plan.seed + 1, SHARE);
    let service = Service::behind(&requests, endpoint);
    let proxies = [&calls, &requests];
    assert_none(&violations("MiniStack", &service, &client(&aws.url), plan, &proxies).await);
}

/// A client that tries again as the function's does.
fn trying_again(url: &str) -> aws_sdk_dynamodb::config::Builder {
    let retries = RetryConfig::standard().with_initial_backoff(Duration::from_millis(20));
    client(url).config().to_builder().retry_config(retries)
}

async fn here(nodes: usize, requests: usize) {
    let database = Dynoxide::start();
    let table = client(&database.url);
    create_table(&table).await;
    let proxy = Proxy::before(&database.url);
    let store = Store::new(Client::from_conf(trying_again(&proxy.url).build()), TABLE);
    let plan = plan(nodes, requests);
    proxy.fault_at_random(plan.seed, SHARE);
    let service = Service::here(
        api::router(store, api::Policy::default()),
        plan.seed + 1,
        SHARE,
    );
    assert_none(&violations("here", &service, &table, plan, &[&proxy]).await);
}

#[tokio::test]
async fn what_nodes_of_a_local_deployment_see_keeps_the_protocol() {
    print_header();
    on_a_local_deployment(200, 1200).await;
}

#[tokio::test]
async fn what_nodes_of_a_deployment_see_keeps_the_protocol() {
    print_header();
    on_ministack(24, 300).await;
}

#[tokio::test]
async fn what_nodes_see_here_keeps_the_protocol() {
    print_header();
    here(200, 1200).await;
}

#[tokio::test]
#[ignore = "it takes its time"]
async fn a_hundred_thousand_requests_keep_the_protocol() {
    print_header();
    here(300, 85_000).await;
    on_a_local_deployment(300, 20_000).await;
    on_ministack(32, 5_000).await;
}

/// A mistake between the function and its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// Every write is done, whatever its condition.
    WritesAlways,
    /// A lease ends before it begins.
    IgnoresLeases,
    /// Reads return an earlier state.
    ReadsLate,
}

#[derive(Debug)]
struct Broken {
    mistake: Mistake,
    /// What was read of each cluster, and when.
    read: Mutex<HashMap<String, (Instant, BatchGetItemOutput)>>,
}

impl Intercept for Broken {
    fn name(&self) -> &'static str {
        "Broken"
    }

    fn modify_before_serialization(
        &self,
        context: &mut BeforeSerializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(write) = context.input_mut().downcast_mut::<UpdateItemInput>() else {
            return Ok(());
        };
        match (
            self.mistake,
            &mut write.condition_expression,
            &mut write.expression_attribute_values,
        ) {
            (Mistake::WritesAlways, Some(condition), _) => {
                // It still has to name all that comes with it.
                *condition = format!(
                    "({condition}) OR attribute_exists({CLUSTER_ID}) OR attribute_not_exists({CLUSTER_ID})"
                );
            }
            (Mistake::IgnoresLeases, _, Some(values)) => {
                if let Some(end) = values.get_mut(&format!(":{LEASE_EXPIRES_AT}")) {
                    *end = AttributeValue::N("1".to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn modify_before_completion(
        &self,
        context: &mut FinalizerInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(Ok(output)) = context.output_or_error_mut() else {
            return Ok(());
        };
        let output = output.downcast_mut::<BatchGetItemOutput>();
        let id = |output: &BatchGetItemOutput| {
            let items = output.responses()?.values().flatten();
            let ids = items.filter_map(|item| item.get(CLUSTER_ID)?.as_s().ok().cloned());
            ids.max_by_key(|id| !id.starts_with("members "))
        };
        if let (Mistake::ReadsLate, Some(output)) = (self.mistake, output)
            && let Some(id) = id(output)
        {
            let mut read = self.read.lock().unwrap();
            let (at, before) = read
                .entry(id.clone())
                .or_insert_with(|| (Instant::now(), output.clone()));
            if at.elapsed() > Duration::from_secs(1) {
                (*at, *before) = (Instant::now(), output.clone());
            }
            output.clone_from(before);
        }
        Ok(())
    }
}

/// Of a service with this mistake.
async fn broken(mistake: Mistake) -> BTreeSet<Property> {
    let database = Dynoxide::start();
    let table = client(&database.url);
    create_table(&table).await;
    let read = Mutex::default();
    let client = trying_again(&database.url).interceptor(Broken { mistake, read });
    let store = Store::new(Client::from_conf(client.build()), TABLE);
    let plan = plan(64, 800);
    let service = Service::here(api::router(store, api::Policy::default()), plan.seed, SHARE);
    let violations = violations(&format!("{mistake:?}"), &service, &table, plan, &[]).await;
    violations
        .into_iter()
        .map(|violation| violation.property)
        .collect()
}

#[tokio::test]
async fn a_broken_service_shows_it() {
    print_header();
    for (mistake, property) in [
        (Mistake::WritesAlways, Property::OneInitialiser),
        (Mistake::IgnoresLeases, Property::LeaseIsKept),
        (Mistake::ReadsLate, Property::GenerationsGrow),
    ] {
        let seen = broken(mistake).await;
        assert!(seen.contains(&property), "{mistake:?}: {seen:?}");
    }
}
