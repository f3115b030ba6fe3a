//! Model checking with `stateright`: agents with the real decisions, the API with the real rules, and the faults of [`world`]. In
//! [`adversary`], the API lies.
//!
//! # Properties
//!
//! - No second server is initialized while an earlier initialized one is visible, with the exceptions below.
//! - At most one cluster is ever believed to be the recorded one: reported without an error, or the end of a successful run.
//! - A server that belongs to a cluster is neither initialized nor joined elsewhere, and a node that cannot begin a cluster does
//!   not claim while its server is blank.
//! - From the continued states (one in `continue_one_in`): an agent that has initialized its server and is the only one alive gets
//!   its cluster recorded, or ends with exit status 5 because another one is. If all agents continue, each ends as a member of the
//!   recorded cluster, or with a reason. Until then no agent acts more than 40 times between waits.
//!
//! # Exceptions
//!
//! A second cluster of one node can arise in three ways only. It is never reported: its agent ends with exit status 5
//! (`OtherCluster`).
//!
//! - An agent is paused between its last check of the lease and `/clusterInit` until less than `LEASE_MARGIN` is left
//!   (`overslept`).
//! - The server that was initialized first was unreachable for the agent that inspected it, at both inspections (`was_blind`).
//! - Two machines have the same name, and the first does not report before its lease ends: no node inspects its own name.
//!   `ticks: false` excludes this.
//!
//! # Size
//!
//! Debug build, two threads on two idle cores. All states of two nodes and three claims, except where a depth or other claims are given;
//! the clocks of the service differ by up to 5 s in the first setup.
//!
//! | setup | states | depth | seconds |
//! | --- | --- | --- | --- |
//! | two nodes | 26,559 | 40 | 2 |
//! | overslept | 35,971 | 42 | 3 |
//! | partitioned | 48,569 | 48 | 4 |
//! | an agent is killed and started again | 57,943 | 42 | 4 |
//! | a server is not found by one inspection | 29,991 | 41 | 3 |
//! | a request arrives twice or late | 140,957 | 45 | 11 |
//! | an answer is lost | 80,199 | 44 | 6 |
//! | an answer is lost, and an initialization refused | 94,413 | 44 | 8 |
//! | the same with two refusals, agents that stay and two claims | 50,805 | 44 | 5 |
//! | an initialization is refused, and a request of an agent that stays is late | 53,999 | 35 | 5 |
//! | an initialization is refused, or ignored | 13,859 and 16,789 | 42 | 2 |
//! | extras refused, services never up | 13,285 and 13,075 | 39 | 3 |
//! | a foreign server, an unfit node, an agent that is dead | 3,676, 1,360 and 2,827 | 37 | 2 |
//! | started over, with a late request | 31,973 | 36 | 4 |
//! | three nodes, up to depth 24 | 37,631 | 24 | 4 |
//! | three nodes, a kill, a copy and a loss, up to depth 13 | 85,522 | 13 | 10 |
//! | the first node is restored from a snapshot; two and three nodes | 73 and 1,804 | 24 | 1 |
//! | an API that lies about members, or about the claim | 2,876 and 7,112 | 10 | 8 |
//!
//! Depths differ by a few from run to run, since two threads do not search strictly in breadth.
//!
//! Not modeled: rebalances, failover and servers with other credentials (see `tests`), claims without a lease, `--adopt`, and
//! `leave` of members. The model repeats what `commands::up` does around the decisions.

mod adversary;
mod world;

use std::{
    fmt::Debug,
    hash::Hash,
    time::{Duration, Instant},
};

use stateright::{Checker, HasDiscoveries, Model};

use self::{
    adversary::{Adversary, Pace},
    world::{BEFORE, Broken, Budgets, Mutant, READY, Setup},
};

/// Explores all states, or those up to a depth, and prints their number. Returns the first violation.
fn explore<M, B>(
    what: &str,
    model: M,
    depth: Option<usize>,
    broken: fn(&M::State) -> Option<B>,
) -> (Option<B>, Vec<&'static str>)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let started = Instant::now();
    let mut checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures);
    if let Some(depth) = depth {
        checker = checker.target_max_depth(depth);
    }
    let checker = checker.spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{what}: {states} states, depth {depth}, {:.1} s", started.elapsed().as_secs_f64());
    let discoveries = checker.discoveries();
    let violation = discoveries.values().find_map(|path| {
        let broken = broken(path.last_state())?;
        println!("{what}: violated by {:#?}", path.clone().into_actions());
        println!("  {:?}", path.last_state());
        Some(broken)
    });
    (violation, discoveries.into_keys().collect())
}

fn explore_world(what: &str, setup: &Setup, depth: Option<usize>) -> Option<Broken> {
    let (violation, seen) = explore(what, setup.clone(), depth, |world| world.broken);
    assert!(violation.is_some() || seen.contains(&READY), "{what}: no cluster ever becomes ready");
    violation
}

#[track_caller]
fn assert_holds(what: &str, setup: &Setup) {
    assert_eq!(explore_world(what, setup, None), None, "{what}");
}

/// The wrong variant causes a violation. Other tests explore the right one in the same setups.
#[track_caller]
fn assert_caught(setup: &Setup, mutants: &'static [Mutant], expected: &[Broken]) {
    let what = format!("{mutants:?}");
    let broken = explore_world(&what, &Setup { mutants, ..setup.clone() }, None);
    assert!(
        broken.is_some_and(|broken| expected.contains(&broken)),
        "{what}: {broken:?}, not {expected:?}"
    );
}

fn one(budgets: Budgets) -> Setup {
    Setup { budgets, generations: 3, continue_one_in: 1000, ..Setup::default() }
}

const KILL: Budgets = Budgets { kills: 1, ..Budgets::NONE };
const COPY: Budgets = Budgets { copies: 1, ..Budgets::NONE };
const LOSS: Budgets = Budgets { losses: 1, ..Budgets::NONE };

const SECOND: &[Broken] = &[Broken::SecondCluster];
const UNREPORTED: &[Broken] = &[Broken::NotReported, Broken::Stuck];

#[test]
fn two_nodes_begin_one_cluster_despite_pauses_and_partitions() {
    let plain = Setup { continue_one_in: 50, ..one(Budgets::NONE) };
    assert_holds("two nodes", &plain);
    assert_holds("two nodes, overslept", &Setup { oversleeps: true, skew: false, ..plain.clone() });
    assert_holds("two nodes, partitioned", &Setup { partitions: true, skew: false, ..plain });
}

#[test]
fn two_nodes_begin_one_cluster_despite_a_killed_agent() {
    assert_holds("two nodes, a kill", &Setup { skew: false, ..one(KILL) });
}

#[test]
fn two_nodes_begin_one_cluster_despite_a_late_or_repeated_request() {
    assert_holds("two nodes, a copy", &Setup { skew: false, ..one(COPY) });
}

#[test]
fn two_nodes_begin_one_cluster_despite_a_lost_answer() {
    assert_holds("two nodes, a loss", &Setup { skew: false, ..one(LOSS) });
}

#[test]
fn two_nodes_begin_one_cluster_despite_a_refused_or_ignored_initialization() {
    let plain = Setup { skew: false, ..one(Budgets::NONE) };
    let refusal = Budgets { refusals: 1, ..Budgets::NONE };
    let ignored = Budgets { ignores: 1, ..Budgets::NONE };
    assert_holds("two nodes, a refusal", &Setup { budgets: refusal, ..plain.clone() });
    assert_holds("two nodes, an ignored call", &Setup { budgets: ignored, ..plain });
}

#[test]
fn refused_extras_and_services_that_stay_down_do_not_delay_the_report() {
    let plain = Setup { skew: false, continue_one_in: 200, ..one(Budgets::NONE) };
    assert_holds("extras refused", &Setup { extras_refused: true, ..plain.clone() });
    assert_holds("services down", &Setup { services_down: true, extras_refused: true, ..plain });
}

#[test]
fn foreign_server_and_node_without_data_service_stay_out_of_the_election() {
    let plain = Setup { skew: false, continue_one_in: 50, ..one(KILL) };
    assert_holds("a foreign server", &Setup { foreign: Some(1), ..plain.clone() });
    assert_holds("an unfit node", &Setup { unfit: vec![1], ..plain });
}

#[test]
fn unreported_cluster_of_a_dead_agent_prevents_a_second_one() {
    let plain = Setup { abandoned: Some(0), skew: false, ..one(KILL) };
    assert_holds("two nodes, one abandoned", &plain);
}

#[test]
fn machines_with_the_same_name_are_distinguished_while_the_claim_lasts() {
    let twins = Setup { names: vec![0, 0], ticks: false, ..one(Budgets::NONE) };
    assert_holds("twins", &twins);
    assert_caught(&twins, &[Mutant::Nameless], SECOND);
}

#[test]
fn three_nodes_begin_one_cluster() {
    let three = Setup { names: vec![0, 1, 2], skew: false, ..one(Budgets::NONE) };
    let depth =
        |depth, setup: &Setup| assert_eq!(explore_world("three nodes", setup, Some(depth)), None);
    depth(24, &three);
    depth(
        13,
        &Setup {
            budgets: Budgets { kills: 1, copies: 1, losses: 1, ..Budgets::NONE },
            ..three.clone()
        },
    );
    depth(16, &Setup { abandoned: Some(0), budgets: KILL, ..three });
}

#[test]
fn report_after_optional_work_is_caught() {
    let plain = Setup { skew: false, ..one(Budgets::NONE) };
    let refused = Setup { extras_refused: true, ..plain.clone() };
    let down = Setup { services_down: true, ..plain };
    // The agent of before: the clusters split.
    assert_caught(&Setup { continue_one_in: 0, ..refused.clone() }, BEFORE, SECOND);
    assert_caught(&Setup { continue_one_in: 0, ..down.clone() }, BEFORE, SECOND);
    // Agents that inspect do not begin a second cluster, but no agent ever learns of the first.
    let all = Setup { continue_one_in: 1, ..refused };
    assert_caught(&all, &[Mutant::ExtrasFirst], UNREPORTED);
    assert_caught(&Setup { continue_one_in: 1, ..down }, &[Mutant::OnlyWhenBalanced], UNREPORTED);
}

#[test]
fn takeover_without_inspection_is_caught() {
    let plain = Setup { skew: false, continue_one_in: 0, ..one(Budgets::NONE) };
    assert_caught(&plain, &[Mutant::NoLook], SECOND);
    // B gives up and becomes the latest node that lost the claim.
    let three = Setup { names: vec![0, 1, 2], abandoned: Some(0), ..plain };
    assert_caught(&three, &[Mutant::LatestPrevious], SECOND);
}

#[test]
fn lease_without_a_margin_or_counted_from_the_answer_is_caught() {
    let plain = Setup { continue_one_in: 0, ..one(Budgets::NONE) };
    assert_caught(&plain, &[Mutant::NoMargin], SECOND);
    assert_caught(&plain, &[Mutant::LeaseFromAnswer], SECOND);
}

/// A server that starts again is not found by one inspection.
#[test]
fn two_nodes_begin_one_cluster_despite_a_server_that_is_not_found_once() {
    let blink = Budgets { blinks: 1, ..Budgets::NONE };
    let plain = Setup { skew: false, ..one(blink) };
    let budgets = Budgets { kills: 1, ..blink };
    let abandoned = Setup { abandoned: Some(0), budgets, ..plain.clone() };
    assert_holds("two nodes, a blink", &plain);
    assert_holds("two nodes, one abandoned, a blink", &abandoned);
    assert_caught(&Setup { continue_one_in: 0, ..abandoned }, &[Mutant::OneLook], SECOND);
}

/// A server refuses, its agent gives the claim up, starts again and claims, and then the leave arrives a second time. With a
/// tombstone the new claim has another generation, even if an operator has forgotten the record in between.
#[test]
fn leave_without_a_generation_and_a_missing_tombstone_are_caught() {
    let budgets = Budgets { kills: 1, copies: 1, refusals: 1, ..Budgets::NONE };
    let plain = Setup { budgets, skew: false, continue_one_in: 0, ..one(Budgets::NONE) };
    assert_caught(&plain, &[Mutant::UnfencedLeave], SECOND);
    let forgotten = Setup { budgets: Budgets { forgets: 1, ..budgets }, ..plain };
    assert_caught(&forgotten, &[Mutant::NoTombstone], SECOND);
}

/// An operator starts over, and a report of the previous cluster arrives a second time: no node joins or begins. Server UUIDs, where
/// they are known, fence the report as well.
#[test]
fn ready_without_a_generation_is_caught() {
    let budgets = Budgets { copies: 1, resets: 1, ..Budgets::NONE };
    let plain = Setup {
        budgets,
        tells_uuid: false,
        skew: false,
        continue_one_in: 10,
        generations: 2,
        ..one(budgets)
    };
    assert_holds("two nodes, started over", &Setup { continue_one_in: 1000, ..plain.clone() });
    assert_caught(&plain, &[Mutant::UnfencedReady], &[Broken::Stuck]);
}

/// After the node that has a cluster, more nodes give up than the record can name.
#[test]
fn node_with_a_cluster_is_remembered_after_many_nodes_give_up() {
    let many =
        Setup { names: (0..12).collect(), abandoned: Some(0), skew: false, ..one(Budgets::NONE) };
    let world = many.init_states().remove(0);
    assert_eq!(many.lookahead(&world), None);
}

/// The first call breaks off and is carried out late, and the second is refused: the agent keeps its claim.
#[test]
fn two_nodes_begin_one_cluster_despite_a_broken_and_a_refused_call() {
    assert_holds("two nodes, a loss and a refusal", &refused_after_a_loss());
}

/// If the agent gave its claim up while the first call may still be carried out, a second cluster could arise.
#[test]
fn claim_given_up_while_a_call_is_under_way_is_caught() {
    let setup = Setup { leaves_too_early: true, ..refused_after_a_loss() };
    let broken = explore_world("two nodes, given up too early", &setup, None);
    assert_eq!(broken, Some(Broken::SecondCluster));
}

/// The same, and the agent stays: after each refusal it tries again.
#[test]
fn resident_agent_keeps_its_claim_while_a_call_may_be_under_way() {
    let budgets = Budgets { losses: 1, refusals: 2, ..Budgets::NONE };
    let resident = Setup { resides: true, skew: false, generations: 2, ..one(budgets) };
    assert_holds("two nodes, resident, a loss and two refusals", &resident);
    assert_caught(&Setup { continue_one_in: 0, ..resident }, &[Mutant::ForgetsCall], SECOND);
}

/// The server refuses, and its agent gives the claim up with a request that arrives late: the agent goes on only with another claim.
#[test]
fn claim_with_an_unanswered_leave_is_not_used() {
    let budgets = Budgets { refusals: 1, ..COPY };
    let resident = Setup { resides: true, skew: false, generations: 2, ..one(budgets) };
    assert_holds("two nodes, resident, a refusal and a late leave", &resident);
    let eager = Setup { continue_one_in: 0, ..resident };
    assert_caught(&eager, &[Mutant::ForgetsLeave], SECOND);
}

/// Its first node is restored from a snapshot that was made before others joined: the copy is not reported, and no node joins it.
#[test]
fn restored_copy_of_the_first_node_is_no_second_cluster() {
    let restore = Budgets { restores: 1, ..Budgets::NONE };
    let two = Setup { skew: false, ticks: false, ..one(restore) };
    let three = Setup { names: vec![0, 1, 2], ..two.clone() };
    assert_holds("two nodes, a restored copy", &two);
    assert_holds("three nodes, a restored copy", &three);
    assert_caught(&two, &[Mutant::NoConfirmation], &[Broken::CopyBelieved]);
    assert_caught(&three, &[Mutant::TrustsCopies], &[Broken::CopyBelieved]);
}

fn refused_after_a_loss() -> Setup {
    let budgets = Budgets { losses: 1, refusals: 1, ..Budgets::NONE };
    Setup { skew: false, ..one(budgets) }
}

/// The effect of a leave on a later claim, and on a forgotten record: 715,573 states, depth 53, one minute in a debug build.
#[test]
#[ignore = "takes a minute"]
fn two_nodes_begin_one_cluster_despite_faults_and_a_forgotten_record() {
    let budgets = Budgets { kills: 1, copies: 1, refusals: 1, forgets: 1, ..Budgets::NONE };
    assert_holds(
        "two nodes, forgotten",
        &Setup { skew: false, continue_one_in: 0, ..one(budgets) },
    );
}

/// All faults at once, for ten minutes.
///
/// `cargo test --release -p cbbootstrap-agent --lib model::two_nodes -- --ignored --nocapture`
#[test]
#[ignore = "takes ten minutes"]
fn two_nodes_begin_one_cluster_despite_all_faults() {
    let budgets =
        Budgets { kills: 1, copies: 1, losses: 1, refusals: 1, ignores: 1, ..Budgets::NONE };
    let all = Setup { oversleeps: true, partitions: true, continue_one_in: 10_000, ..one(budgets) };
    let checker = all
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .timeout(Duration::from_mins(10));
    let checker = checker.spawn_bfs().join();
    println!("everything: {} states, depth {}", checker.unique_state_count(), checker.max_depth());
    assert!(checker.discoveries().keys().all(|name| *name == READY), "{:?}", checker.discoveries());
}

/// Takes random walks of up to 400 steps.
fn walk(setup: &Setup, walks: u64) {
    for seed in 0..walks {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = setup.init_states().remove(0);
        let mut steps = Vec::new();
        for _ in 0..400 {
            let mut possible = Vec::new();
            setup.actions(&world, &mut possible);
            let Some(step) = random.choice(possible) else {
                break;
            };
            let Some(next) = setup.next_state(&world, step.clone()) else {
                continue;
            };
            steps.push(step);
            world = next;
            assert_eq!(world.broken, None, "seed {seed}: {steps:?}");
            if !setup.within_boundary(&world) {
                break;
            }
        }
    }
}

fn many(nodes: u8) -> Setup {
    let budgets =
        Budgets { kills: 3, copies: 3, losses: 3, refusals: 1, ignores: 1, ..Budgets::NONE };
    let names = (0..nodes).collect();
    Setup {
        names,
        oversleeps: true,
        partitions: true,
        generations: 8,
        continue_one_in: 500,
        ..one(budgets)
    }
}

#[test]
fn three_to_five_nodes_begin_one_cluster_on_random_walks() {
    for nodes in 3..=5 {
        walk(&many(nodes), 40);
    }
}

/// `cargo test --release -p cbbootstrap-agent --lib model::long -- --ignored`
#[test]
#[ignore = "takes minutes"]
fn long_random_walks_of_three_to_five_nodes() {
    for nodes in 3..=5 {
        walk(&many(nodes), 20_000);
    }
}

fn face(what: &str, adversary: Adversary, depth: usize) -> Option<adversary::Broken> {
    explore(what, adversary, Some(depth), |run| run.broken).0
}

#[test]
fn api_that_lies_about_members_gets_no_password() {
    assert_eq!(face("lies about members", Adversary::new(true, Pace::Counts(2)), 16), None);
}

#[test]
fn api_that_lies_about_the_claim_only_delays() {
    assert_eq!(face("lies about the claim", Adversary::new(false, Pace::Counts(2)), 16), None);
}

/// A pause between equal actions alone would not be enough.
#[test]
fn alternating_api_makes_an_agent_spin_that_only_compares_actions() {
    let spins = face("alternates", Adversary::new(false, Pace::Repeats), 20);
    assert!(spins.is_some());
}
