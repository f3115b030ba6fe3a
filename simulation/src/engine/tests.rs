use cbbootstrap_protocol::wire::MAX_MEMBERS;

use super::*;
use crate::{
    limits::Limit,
    scenarios::{HOUR, boots, one_cluster, outage},
};

const BACKOFF: Backoff = Backoff::CONSTANT;

#[track_caller]
fn assert_conserved(outcome: &Outcome, clusters: u64) {
    assert_eq!(outcome.places.len() as u64, outcome.nodes, "each node knows its role once");
    assert_eq!(outcome.members, outcome.nodes);
    assert_eq!(outcome.initializations, clusters, "one node of each cluster initializes");
    assert_eq!((outcome.stopped, outcome.takeovers), (0, 0));
    let total = outcome.total();
    assert_eq!(total.requests, total.answers_200 + total.answers_429 + total.answers_503);
    assert_eq!(outcome.accepted, total.requests - total.answers_429);
}

#[test]
fn each_node_learns_its_place_and_one_of_a_cluster_initializes() {
    let mut outcome = Simulation::run(boots(500, 1, Limits::defaults(), BACKOFF), 1);
    assert_conserved(&outcome, 500);
    assert_eq!(outcome.nodes, 5_000);
    assert_eq!(outcome.first_limit(), None);
    // A joiner that asks at once waits for the initialization and, at most, a pause.
    assert!(outcome.place_known(1.0) < Some(9.0), "{:?}", outcome.place_known(1.0));
}

#[test]
fn nodes_beyond_the_list_of_members_still_join() {
    let outcome = Simulation::run(one_cluster(300, Limits::defaults(), BACKOFF), 1);
    assert_conserved(&outcome, 1);
    assert_eq!(outcome.unlisted, 300 - MAX_MEMBERS as u64);
    assert_eq!(outcome.first_limit().map(|(limit, _)| limit), Some(Limit::Stage));
}

#[test]
fn same_seed_has_the_same_outcome() {
    let run = |seed| {
        let outcome = Simulation::run(boots(50, 1, Limits::defaults(), BACKOFF), seed);
        (outcome.places, outcome.minutes)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn nodes_catch_up_after_a_throttled_table() {
    let outcome = Simulation::run(outage(10, Limits::defaults(), Backoff::DEFAULT), 1);
    assert_conserved(&outcome, 360);
    let (limit, first) = outcome.first_limit().unwrap();
    assert_eq!((limit, first / MINUTE), (Limit::Table, 20));
    assert!(outcome.refusals[Limit::Stage as usize].0 > 0);
    assert!(outcome.ended < HOUR + 5 * MINUTE, "{}", outcome.ended);
}

#[test]
fn lost_claims_are_taken_over_and_given_back() {
    // The outage is longer than the lease, and begins while servers are initialized.
    let scenario = Scenario {
        clusters: 1,
        outage: Some((2 * SECOND, 10 * MINUTE)),
        ..boots(1, 1, Limits::defaults(), BACKOFF)
    };
    let outcome = Simulation::run(scenario, 1);
    assert_eq!((outcome.members, outcome.stopped, outcome.initializations), (10, 0, 1));
}
