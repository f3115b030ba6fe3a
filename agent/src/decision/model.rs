//! The whole, model-checked.

mod world;

use std::time::Instant;

use stateright::{Checker, Model};

use self::world::{BEFORE, Broken, Budgets, Mutant, Setup, World};

/// Explores all states, or those up to a depth, and prints how many there were.
#[track_caller]
fn explore(what: &str, setup: Setup, depth: Option<usize>) -> Option<Broken> {
    let started = Instant::now();
    let checker = setup.checker().threads(2);
    let checker = if let Some(depth) = depth { checker.target_max_depth(depth) } else { checker };
    let checker = checker.finish_when(stateright::HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (states, reached) = (checker.unique_state_count(), checker.max_depth());
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {states} states, depth {reached}, {seconds:.1} s");
    let discoveries = checker.discoveries();
    let mut broken = None;
    for (name, path) in discoveries {
        if let Some(found) = path.last_state().broken {
            println!("{what}: {name} is violated:");
            for step in path.clone().into_actions() {
                println!("  {step:?}");
            }
            println!("  {:?}", path.last_state());
            broken = Some(found);
        }
    }
    broken
}


#[test]
fn two() {
    let all = Budgets { kills: 1, copies: 1, losses: 1, ..Budgets::default() };
    for (what, budgets, oversleeps, partitions) in [
        ("nothing", Budgets::default(), false, false),
        ("oversleeps", Budgets::default(), true, false),
        ("partitions", Budgets::default(), false, true),
        ("kill", Budgets { kills: 1, ..Budgets::default() }, false, false),
        ("copy", Budgets { copies: 1, ..Budgets::default() }, false, false),
        ("loss", Budgets { losses: 1, ..Budgets::default() }, false, false),
        ("refusal", Budgets { refusals: 1, kills: 1, ..Budgets::default() }, false, false),
        ("ignore", Budgets { ignores: 1, ..Budgets::default() }, false, false),
        ("kill, loss", Budgets { kills: 1, losses: 1, ..Budgets::default() }, false, false),
    ] {
        let setup = Setup { budgets, oversleeps, partitions, continue_one_in: 100, generations: 3, ..Setup::default() };
        assert_eq!(explore(what, setup, None), None);
    }
    let _ = all;
}

fn assert_found(what: &str, expected: &[Broken], setup: &Setup, mutants: &'static [Mutant]) {
    let fixed = explore(&format!("{what} (real)"), setup.clone(), None);
    let broken = explore(what, Setup { mutants, ..setup.clone() }, None);
    println!("=== {what}: {fixed:?} {broken:?} of {expected:?}");
}

#[test]
fn mutants() {
    let base = Setup { continue_one_in: 0, generations: 2, skew: false, ..Setup::default() };
    let second = &[Broken::SecondCluster][..];
    assert_found("facts A", second, &Setup { extras_refused: true, ..base.clone() }, BEFORE);
    assert_found("real server 3", second, &Setup { services_down: true, ..base.clone() }, BEFORE);
    let base1 = Setup { continue_one_in: 10, ..base.clone() };
    assert_found("extras", second, &Setup { extras_refused: true, ..base1.clone() }, &[Mutant::ExtrasFirst]);
    assert_found("balanced", second, &Setup { services_down: true, ..base1.clone() }, &[Mutant::OnlyWhenBalanced]);
    assert_found("no look", second, &base, &[Mutant::NoLook]);
    assert_found("from answer", second, &Setup { skew: true, ..base.clone() }, &[Mutant::LeaseFromAnswer]);
    assert_found("no margin", second, &base, &[Mutant::NoMargin]);
    let budgets = Budgets { copies: 1, kills: 1, refusals: 1, ..Budgets::default() };
    assert_found("leave", second, &Setup { budgets, skew: false, generations: 3, ..base.clone() }, &[Mutant::UnfencedLeave]);
    let budgets = Budgets { copies: 1, kills: 1, refusals: 1, forgets: 1, ..Budgets::default() };
    assert_found("tombstone", second, &Setup { budgets, skew: false, generations: 3, ..base.clone() }, &[Mutant::NoTombstone]);
    let budgets = Budgets { copies: 1, resets: 1, ..Budgets::default() };
    assert_found("ready", second, &Setup { budgets, tells_uuid: false, continue_one_in: 10, generations: 2, ..base.clone() }, &[Mutant::UnfencedReady]);
    assert_found("nameless", second, &Setup { names: vec![0, 0], ticks: false, ..base.clone() }, &[Mutant::Nameless]);
}
