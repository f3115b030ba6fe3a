//! Compares the simulation with 300 of the agent's API clients, and the server `cbbootstrap serve` behind a request limit.
//!
//! `cargo test -p cbbootstrap-simulation --test check -- --ignored --nocapture`

#![expect(clippy::cast_precision_loss, reason = "all counts are small")]

use std::{
    thread,
    time::{Duration, Instant},
};

use cbbootstrap_agent::{
    api::{Api, ApiError, Identity},
    http::Deadline,
    pauses::Backoff,
};
use cbbootstrap_protocol::names::{ClusterId, Node, Uuid};
use cbbootstrap_simulation::{
    engine::{Scenario, Simulation, Times},
    limits::{Bucket, Limits, Micros, SECOND},
    node::{Agent, Answer, Call, CallFailure, LEASE, Step},
    outcome::Outcome,
    scenarios::one_cluster,
};
use cbbootstrap_tests::{http, local::Local, server::Stub};

const NODES: u16 = 300;

/// Requests a second, and at once.
const LIMIT: (f64, f64) = (50.0, 100.0);

/// The largest relative difference.
const TOLERANCE: f64 = 0.35;

/// What a server of this machine takes, instead of AWS.
const TIMES: Times = Times {
    network: 3_000,
    cold_start: 0,
    function: 1_000,
    call: 1_000,
    initialize: 5 * SECOND,
    join: 2 * SECOND,
};

#[test]
#[ignore = "takes a minute, and compares times: run it on an idle machine"]
fn simulation_agrees_with_real_clients_and_a_real_server() {
    let unlimited = (1e9, 1e9);
    let limits = Limits {
        stage: LIMIT,
        account: unlimited,
        concurrency: 1e9,
        ramp: unlimited,
        table: unlimited,
        table_quota: 1e9,
        partition: unlimited,
    };
    let scenario = Scenario { times: TIMES, ..one_cluster(NODES, limits, Backoff::DEFAULT) };
    let mut simulated = Simulation::run(scenario, 1);
    let (requests, places) = run_clients(scenario.spread);
    let place = |percent: usize| places[(places.len() * percent).div_ceil(100) - 1].as_secs_f64();
    let known = |outcome: &mut Outcome, share| {
        outcome.place_known(share).expect("all nodes know their role")
    };
    let rows = [
        (
            "requests a node",
            simulated.total().requests as f64 / f64::from(NODES),
            requests as f64 / f64::from(NODES),
        ),
        ("p50, s", known(&mut simulated, 0.5), place(50)),
        ("p99, s", known(&mut simulated, 0.99), place(99)),
        ("max, s", known(&mut simulated, 1.0), place(100)),
    ];
    println!("{:<20}{:>10}{:>10}{:>12}", "", "simulated", "real", "difference");
    for (name, simulated, real) in rows {
        let difference = (simulated / real - 1.0) * 100.0;
        println!("{name:<20}{simulated:>10.1}{real:>10.1}{difference:>10.0} %");
    }
    for (name, simulated, real) in rows {
        assert!((simulated / real - 1.0).abs() < TOLERANCE, "{name}: {simulated}, really {real}");
    }
}

/// Runs the clients. Returns their number of requests, and the sorted times in which they knew their places.
fn run_clients(spread: Micros) -> (usize, Vec<Duration>) {
    let data = tempfile::tempdir().expect("a directory can be made");
    let server = Local::serve(data.path(), &[]);
    let (endpoint, start) = (server.endpoint.clone(), Instant::now());
    let mut bucket = Bucket::new(LIMIT);
    let limited = Stub::start(move |request| {
        let now = Micros::try_from(start.elapsed().as_micros()).expect("it is short");
        if !bucket.take(now, 1.0) {
            return (429, r#"{"message":"Too Many Requests"}"#.to_owned());
        }
        let answer = http::post(&endpoint, &request.path, &request.body);
        let answer = answer.expect("the server answers");
        (answer.status, answer.body)
    });
    let mut places: Vec<_> = thread::scope(|scope| {
        let url = &limited.url;
        let nodes = (0..NODES).map(|number| scope.spawn(move || run_client(url, number, spread)));
        let nodes: Vec<_> = nodes.collect();
        nodes.into_iter().map(|node| node.join().expect("a client ends")).collect()
    });
    places.sort_unstable();
    (limited.requests().len(), places)
}

/// Runs one client until it is a member. Returns the time in which it knew its place.
fn run_client(url: &str, number: u16, spread: Micros) -> Duration {
    let node = Node::new(format!("node-{number}")).expect("it is a host name");
    let uuid = Uuid::new(format!("{number:032x}")).expect("it is a UUID");
    let cluster_id = ClusterId::new("check").expect("it is an id");
    let api = Api::new(url.to_owned(), None, cluster_id, None, None, Deadline::never());
    let identity = Identity { node: node.clone(), node_uuid: Some(uuid.clone()) };
    let mut agent = Agent::new(node, uuid, Backoff::DEFAULT);
    thread::sleep(Duration::from_micros(fastrand::u64(0..spread)));
    let (booted, mut place) = (Instant::now(), None);
    let mut step = agent.round(Instant::now(), fastrand::f64());
    loop {
        step = match step {
            Step::Call(call) => {
                let answer = send(&api, &identity, &call);
                agent.receive(&call, answer, Instant::now(), fastrand::f64())
            }
            Step::Pause(pause) => {
                thread::sleep(pause);
                agent.round(Instant::now(), fastrand::f64())
            }
            Step::Initialize | Step::Join => {
                place = Some(booted.elapsed());
                let micros = if step == Step::Join { TIMES.join } else { TIMES.initialize };
                thread::sleep(Duration::from_micros(micros));
                agent.become_member(agent.recorded_cluster());
                agent.round(Instant::now(), fastrand::f64())
            }
            Step::Inspect(_) => unreachable!("no lease ends"),
            Step::End(_) => return place.expect("it knew its place before it ended"),
        };
    }
}

fn send(api: &Api, identity: &Identity, call: &Call) -> Answer {
    let answer = match call {
        Call::Claim => api.claim(identity, Some(LEASE)).map(Some),
        Call::Status => api.status(Some(&identity.node)),
        Call::Ready { cluster_uuid, generation } => {
            api.report_ready(identity, cluster_uuid, *generation, None).map(Some)
        }
        Call::Leave { generation } => api.leave(identity, Some(*generation)).map(Some),
    };
    answer.map_err(|error| match error {
        ApiError::Temporary(_) | ApiError::Unsigned(_) => CallFailure::Temporary,
        ApiError::Refused(problem) if problem.code == "too_many_nodes" => CallFailure::TooManyNodes,
        ApiError::Refused(_) => CallFailure::Refused,
        ApiError::Failed(error) => panic!("{error:#}"),
    })
}
