//! Machines that are about to end.

use super::*;
use crate::decision::life::{
    Cause, Departure, Ending, FAILOVER_LEAD, Notice, RETIREMENT_LEAD, Removable, Removal, Sighting,
    Step, failover_obstacle, next_step, removable, time_to_leave,
};

fn ending(time_left: Duration, comes_back: bool) -> Notice {
    Notice::Ending(Ending { cause: Cause::SpotInterruption, time_left, comes_back })
}

fn retirement(time_left: Duration, comes_back: bool) -> Notice {
    Notice::Ending(Ending { cause: Cause::Retirement, time_left, comes_back })
}

/// A Spot interruption in two minutes, of an instance that its group terminates.
fn interrupted_scale_in() -> Notice {
    let (cause, time_left) = (Cause::SpotInterruption, Duration::from_mins(2));
    Notice::ScaleIn(Some(Ending { cause, time_left, comes_back: false }))
}

fn with_bucket(view: View) -> View {
    View { buckets: names(&["app"]), ..view }
}

fn sized(bytes: u64, node: NodeInfo) -> NodeInfo {
    NodeInfo { disk_bytes: Some(bytes), ..node }
}

/// The expected step. A rest is named by a part of its reason.
#[derive(Debug)]
enum Next {
    Stay,
    Leave,
    /// Without enough time, because of this obstacle to a failover.
    LeaveLate(&'static str),
    FailOver,
    Release,
    Rest(&'static str),
}

#[track_caller]
fn assert_step(
    what: &str,
    notice: Option<&Notice>,
    own: &OwnServer,
    departure: Departure,
    fewest_replicas: Option<u32>,
    expected: &Next,
) {
    let step = next_step(notice, own, departure, fewest_replicas);
    let is_expected = match (&step, expected) {
        (Step::Stay, Next::Stay)
        | (Step::Leave(None), Next::Leave)
        | (Step::Release, Next::Release) => true,
        (Step::FailOver(node), Next::FailOver) => *node == otp(ME),
        (Step::Rest(why), Next::Rest(part)) | (Step::Leave(Some(why)), Next::LeaveLate(part)) => {
            why.contains(part)
        }
        _ => false,
    };
    assert!(is_expected, "{what}: {step:?}, not {expected:?}");
}

const NONE: Departure = Departure {
    is_leaving: false,
    is_failover_refused: false,
    is_complete: false,
    is_released: false,
    removal: Removal::Unknown,
};

#[test]
fn notice_decides_whether_a_node_stays_or_leaves() {
    let member = || OwnServer::Member(cluster_of([active(ME), active(FIRST)]));
    let away = || OwnServer::Unreachable("no answer".to_owned());
    let (scale_in, pool) = (|| Some(Notice::ScaleIn(None)), || Some(Notice::WarmPool));
    let leaving = Departure { is_leaving: true, ..NONE };
    let complete = Departure { is_complete: true, ..leaving };
    let released = Departure { is_released: true, ..complete };
    let removed = Departure { removal: Removal::Removed, ..NONE };
    let soon = || Some(ending(Duration::from_mins(2), false));
    let both = || Some(interrupted_scale_in());
    let later = || Some(ending(RETIREMENT_LEAD + Duration::from_secs(1), false));
    #[rustfmt::skip]
    let cases = [
        ("no notice", None, member(), NONE, Next::Stay),
        ("no notice, blank", None, blank(), NONE, Next::Stay),
        ("removed by people", None, blank(), removed, Next::Rest("was removed from its cluster")),
        ("removed, and a member again", None, member(), removed, Next::Stay),
        ("scale-in", scale_in(), member(), NONE, Next::Leave),
        ("scale-in, the server is away", scale_in(), away(), NONE, Next::Leave),
        ("scale-in, other credentials", scale_in(), OwnServer::OtherCredentials, NONE, Next::Leave),
        ("scale-in, blank: the record may list it", scale_in(), blank(), NONE, Next::Leave),
        ("scale-in, has left", scale_in(), blank(), complete, Next::Release),
        ("scale-in, has left, the server is away", scale_in(), away(), complete, Next::Release),
        ("scale-in, has left, hook completed", scale_in(), blank(), released, Next::Rest("has left")),
        ("scale-in and interruption", both(), member(), NONE, Next::Leave),
        ("scale-in and interruption, the server is away", both(), away(), NONE, Next::Leave),
        ("scale-in and interruption, blank", both(), blank(), NONE, Next::Leave),
        ("scale-in and interruption, has left", both(), blank(), complete, Next::Release),
        ("scale-in and interruption, hook completed", both(), blank(), released, Next::Rest("has left")),
        ("warm pool, never joined", pool(), blank(), NONE, Next::Rest("when it is in service")),
        ("warm pool, a member", pool(), member(), NONE, Next::Leave),
        ("warm pool, on its way", pool(), blank(), leaving, Next::Leave),
        ("warm pool, has left", pool(), blank(), complete, Next::Release),
        ("warm pool, has left, hook completed", pool(), blank(), released, Next::Rest("has left")),
        ("ends soon, blank", soon(), blank(), NONE, Next::Leave),
        ("ends soon, the server is away", soon(), away(), NONE, Next::Rest("no answer")),
        ("ends soon, away on its way out", soon(), away(), leaving, Next::Leave),
        ("ends soon, other credentials", soon(), OwnServer::OtherCredentials, NONE, Next::Rest("other credentials")),
        ("ends soon, has left", soon(), blank(), complete, Next::Rest("has left")),
        ("ends much later", later(), member(), NONE, Next::Stay),
        ("ends much later, blank", later(), blank(), NONE, Next::Stay),
        ("ends much later, removed by people", later(), blank(), removed, Next::Rest("was removed from its cluster")),
    ];
    for (what, notice, own, departure, expected) in cases {
        assert_step(what, notice.as_ref(), &own, departure, None, &expected);
    }
}

#[test]
fn ending_machine_leaves_in_time_or_fails_over_where_that_is_safe() {
    let two = || cluster_of([active(ME), active(FIRST)]);
    let data = |bytes| with_bucket(cluster_of([sized(bytes, active(ME)), active(FIRST)]));
    let unknown = || with_bucket(two());
    let rebalances = || with_bucket(rebalancing([active(ME), active(FIRST)]));
    let refused = Departure { is_failover_refused: true, ..NONE };
    let (in_two, in_ten) =
        (ending(Duration::from_mins(2), false), ending(Duration::from_mins(10), false));
    let (stops, now) = (ending(Duration::from_mins(10), true), ending(Duration::ZERO, false));
    #[rustfmt::skip]
    let cases = [
        ("no bucket", &in_two, two(), NONE, None, Next::Leave),
        ("no bucket, no time", &now, two(), NONE, None, Next::FailOver),
        ("little data", &in_two, data(900_000_000), NONE, Some(1), Next::Leave),
        ("too much data", &in_two, data(910_000_000), NONE, Some(1), Next::FailOver),
        ("enough time", &in_ten, data(910_000_000), NONE, Some(1), Next::Leave),
        ("unknown size", &in_ten, unknown(), NONE, Some(1), Next::FailOver),
        ("it comes back", &stops, data(0), NONE, Some(1), Next::FailOver),
        ("it comes back, no replicas", &stops, data(0), NONE, Some(0), Next::Leave),
        ("no replicas", &in_two, unknown(), NONE, Some(0), Next::LeaveLate("a bucket has no replicas")),
        ("failover refused", &in_two, unknown(), refused, Some(1), Next::LeaveLate("the server refuses it")),
        ("another is dead", &in_two, with_bucket(cluster_of([active(ME), dead(active(FIRST)), active(THIRD)])), NONE, Some(1), Next::LeaveLate("`10.0.0.2` is not active and healthy")),
        ("another warms up", &in_two, with_bucket(cluster_of([active(ME), warming_up(active(FIRST))])), NONE, Some(1), Next::LeaveLate("`10.0.0.2` is not")),
        ("another is failed over", &in_two, with_bucket(cluster_of([active(ME), active(FIRST), failed(THIRD)])), NONE, Some(1), Next::LeaveLate("`10.0.0.3` is not")),
        ("another was added", &in_two, with_bucket(cluster_of([active(ME), active(FIRST), added(THIRD)])), NONE, Some(1), Next::LeaveLate("`10.0.0.3` is not")),
        ("not balanced", &in_two, with_bucket(unbalanced([active(ME), active(FIRST)])), NONE, Some(1), Next::LeaveLate("the cluster is not balanced")),
        ("not healthy", &in_two, with_bucket(cluster_of([dead(active(ME)), active(FIRST)])), NONE, Some(1), Next::LeaveLate("this node is not healthy")),
        ("alone: `leave` refuses it", &in_two, with_bucket(cluster_of([active(ME)])), NONE, Some(1), Next::LeaveLate("there is no other node")),
        ("a rebalance runs", &in_two, rebalances(), NONE, Some(1), Next::Rest("a rebalance runs")),
        ("on its way out", &in_two, rebalances(), Departure { is_leaving: true, ..NONE }, Some(1), Next::Leave),
        ("failed over", &in_two, unbalanced([failed(ME), active(FIRST)]), NONE, Some(1), Next::Rest("has been failed over")),
        ("added, and not in yet", &in_two, unbalanced([added(ME), active(FIRST)]), NONE, Some(1), Next::Leave),
        ("not listed", &in_two, cluster_of([active(FIRST)]), NONE, Some(1), Next::Rest("does not list itself")),
    ];
    for (what, notice, view, departure, replicas, expected) in cases {
        assert_step(what, Some(notice), &OwnServer::Member(view), departure, replicas, &expected);
    }
}

/// While a node is failed over, no other node joins or leaves.
#[test]
fn failover_waits_until_shortly_before_a_retirement() {
    let hours = Duration::from_hours(20);
    let data = |bytes| with_bucket(cluster_of([sized(bytes, active(ME)), active(FIRST)]));
    let unknown = || with_bucket(cluster_of([active(ME), active(FIRST)]));
    let beside_dead =
        || with_bucket(cluster_of([sized(0, active(ME)), dead(active(FIRST)), active(THIRD)]));
    let failed_over = || unbalanced([failed(ME), active(FIRST)]);
    let (stops, ends) = (|| retirement(hours, true), || retirement(hours, false));
    let (stops_soon, ends_soon) =
        (|| retirement(FAILOVER_LEAD, true), || retirement(FAILOVER_LEAD, false));
    let huge = 1_000_000_000_000;
    #[rustfmt::skip]
    let cases = [
        ("it comes back", stops(), data(0), Some(1), Next::Stay),
        ("it comes back, soon", stops_soon(), data(0), Some(1), Next::FailOver),
        ("it comes back, no replicas", stops(), data(0), Some(0), Next::Leave),
        ("it comes back, another is dead", stops(), beside_dead(), Some(1), Next::Stay),
        ("it comes back, soon, another is dead", stops_soon(), beside_dead(), Some(1), Next::Leave),
        ("it ends, enough time", ends(), data(0), Some(1), Next::Leave),
        ("it ends, too much data", ends(), data(huge), Some(1), Next::Stay),
        ("it ends soon, too much data", ends_soon(), data(huge), Some(1), Next::FailOver),
        ("it ends, unknown size", ends(), unknown(), Some(1), Next::Stay),
        ("it ends, unknown size, no replicas", ends(), unknown(), Some(0), Next::LeaveLate("a bucket has no replicas")),
        ("failed over: it may recover", stops(), failed_over(), Some(1), Next::Stay),
        ("failed over, soon", stops_soon(), failed_over(), Some(1), Next::Rest("has been failed over")),
        ("a Spot interruption by a wrong clock", ending(hours, true), data(0), Some(1), Next::FailOver),
    ];
    for (what, notice, view, replicas, expected) in cases {
        assert_step(what, Some(&notice), &OwnServer::Member(view), NONE, replicas, &expected);
    }
}

/// A Spot interruption leaves two minutes, also to a node that already leaves with its data.
#[test]
fn interruption_of_a_scale_in_decides_as_any_interruption() {
    let both = || interrupted_scale_in();
    let leaving = Departure { is_leaving: true, ..NONE };
    let small = || with_bucket(cluster_of([sized(0, active(ME)), active(FIRST)]));
    let two = || with_bucket(cluster_of([active(ME), active(FIRST)]));
    let moving = || with_bucket(rebalancing([active(ME), active(FIRST)]));
    let half_moved = || with_bucket(unbalanced([active(ME), active(FIRST)]));
    let out = || with_bucket(unbalanced([failed(ME), active(FIRST)]));
    let spot = || ending(Duration::from_mins(2), false);
    #[rustfmt::skip]
    let cases = [
        ("little data", both(), small(), NONE, Some(1), Next::Leave),
        ("too much data", both(), two(), NONE, Some(1), Next::FailOver),
        ("no replicas", both(), two(), NONE, Some(0), Next::LeaveLate("a bucket has no replicas")),
        ("a rebalance of others", both(), moving(), NONE, Some(1), Next::Rest("a rebalance runs")),
        ("its data moves", both(), moving(), leaving, Some(1), Next::Leave),
        ("its rebalance failed before anything moved", both(), two(), leaving, Some(1), Next::FailOver),
        ("its rebalance failed", both(), half_moved(), leaving, Some(1), Next::LeaveLate("the cluster is not balanced")),
        ("failed over", both(), out(), NONE, Some(1), Next::Rest("its machine ends")),
        ("failed over on its way out", both(), out(), leaving, Some(1), Next::Leave),
        ("no scale-in, its rebalance failed before anything moved", spot(), two(), leaving, Some(1), Next::FailOver),
        ("no scale-in, failed over on its way out", spot(), out(), leaving, Some(1), Next::Leave),
    ];
    for (what, notice, view, departure, replicas, expected) in cases {
        assert_step(what, Some(&notice), &OwnServer::Member(view), departure, replicas, &expected);
    }
    // The group does not wait for a better time.
    let later = Ending { cause: Cause::Retirement, time_left: FAILOVER_LEAD * 2, comes_back: true };
    let later = Notice::ScaleIn(Some(later));
    assert_step("later", Some(&later), &OwnServer::Member(two()), NONE, Some(1), &Next::Leave);
}

#[test]
fn notice_is_like_another_if_only_the_time_differs_and_both_are_due_or_neither() {
    let (none, both) = (|| Notice::ScaleIn(None), || interrupted_scale_in());
    let sooner = Ending {
        cause: Cause::SpotInterruption,
        time_left: Duration::from_secs(5),
        comes_back: false,
    };
    let spot = |seconds| ending(Duration::from_secs(seconds), false);
    for (one, other, is_like) in [
        (spot(9), spot(8), true),
        (spot(9), ending(Duration::from_secs(9), true), false),
        (spot(9), retirement(Duration::from_secs(9), false), false),
        (retirement(RETIREMENT_LEAD, false), retirement(RETIREMENT_LEAD * 2, false), false),
        (retirement(RETIREMENT_LEAD * 3, false), retirement(RETIREMENT_LEAD * 2, false), true),
        (both(), Notice::ScaleIn(Some(sooner)), true),
        (both(), none(), false),
        (both(), spot(120), false),
        (none(), none(), true),
        (none(), Notice::WarmPool, false),
    ] {
        assert_eq!(one.is_like(&other), is_like, "{one}, {other}");
        assert_eq!(one.ends_machine() && other.ends_machine(), other != Notice::WarmPool);
    }
}

/// Whatever the cluster's state, a node is failed over only if all others are well and each bucket has a replica.
#[test]
fn failover_never_costs_data() {
    let others =
        [active(FIRST), dead(active(FIRST)), failed(FIRST), added(FIRST), recovering(FIRST)];
    for (index, other) in others.into_iter().enumerate() {
        for is_balanced in [true, false] {
            for is_rebalancing in [true, false] {
                for replicas in [None, Some(0), Some(1), Some(2)] {
                    for time in [0, 60, 600] {
                        for comes_back in [true, false] {
                            let view = View {
                                is_balanced,
                                is_rebalancing,
                                ..with_bucket(cluster_of([active(ME), other.clone()]))
                            };
                            let notice = ending(Duration::from_secs(time), comes_back);
                            let own = OwnServer::Member(view);
                            let is_safe =
                                index == 0 && is_balanced && !is_rebalancing && replicas != Some(0);
                            for is_leaving in [true, false] {
                                let departure = Departure { is_leaving, ..NONE };
                                let step = next_step(Some(&notice), &own, departure, replicas);
                                assert!(
                                    is_safe || !matches!(step, Step::FailOver(_)),
                                    "{own:?}: {step:?}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The server deletes the data of failed-over nodes before it moves any.
#[test]
fn failed_over_node_is_removed_only_if_its_data_stays_elsewhere() {
    let spot = |seconds| Some(ending(Duration::from_secs(seconds), false));
    let retires = |time_left, comes_back| Some(retirement(time_left, comes_back));
    let (small, huge) = (|| sized(0, active(ME)), || sized(1_000_000_000_000, active(ME)));
    let day = Duration::from_hours(24);
    #[rustfmt::skip]
    let cases = [
        ("no end", None, huge(), 1, Removable::Dead),
        ("no end, no replicas", None, small(), 0, Removable::Nothing),
        ("enough time", spot(120), small(), 1, Removable::All),
        ("enough time, no replicas", spot(120), small(), 0, Removable::Nothing),
        ("too much data", spot(120), huge(), 1, Removable::Nothing),
        ("too much data, two replicas", spot(120), huge(), 2, Removable::All),
        ("unknown size", spot(120), active(ME), 1, Removable::Nothing),
        ("no time", spot(20), small(), 1, Removable::Nothing),
        ("failed over: nothing moves", spot(20), failed(ME), 1, Removable::Nothing),
        ("failed over, two replicas", spot(20), failed(ME), 2, Removable::All),
        ("added: it has no data", spot(20), added(ME), 1, Removable::All),
        ("tomorrow", retires(day, false), small(), 1, Removable::Dead),
        ("tomorrow, too much data", retires(day, false), huge(), 1, Removable::Nothing),
        ("it comes back", Some(ending(Duration::from_mins(2), true)), small(), 1, Removable::Dead),
        ("it comes back, too much data", retires(FAILOVER_LEAD, true), huge(), 1, Removable::Nothing),
    ];
    for (what, notice, this, replicas, expected) in cases {
        let view = with_bucket(cluster_of([this, active(FIRST), failed(THIRD)]));
        let view = View { fewest_replicas: Some(replicas), ..view };
        let ending = notice.as_ref().and_then(Notice::ending);
        assert_eq!(removable(ending, &view), expected, "{what}");
    }
}

#[test]
fn operator_has_time_until_the_data_must_move() {
    let view = with_bucket(cluster_of([active(ME), active(FIRST)]));
    let minutes = |minutes| Ending {
        cause: Cause::Retirement,
        time_left: Duration::from_mins(minutes),
        comes_back: false,
    };
    let spot = Ending { cause: Cause::SpotInterruption, ..minutes(20 * 60) };
    // 30 GB take 50 minutes.
    for (what, ending, node, expected) in [
        ("enough", minutes(61), sized(30_000_000_000, active(ME)), true),
        ("not enough", minutes(60), sized(30_000_000_000, active(ME)), false),
        ("little data", minutes(20), sized(0, active(ME)), true),
        ("unknown data", minutes(20 * 60), active(ME), false),
        ("a Spot interruption", spot, sized(0, active(ME)), false),
    ] {
        assert_eq!(ending.can_wait(&node, &view), expected, "{what}");
    }
}

#[test]
fn time_to_leave_depends_on_the_data() {
    let view = with_bucket(cluster_of([active(ME)]));
    assert_eq!(time_to_leave(&active(ME), &view), None);
    let time = time_to_leave(&sized(1_000_000_000, active(ME)), &view);
    assert_eq!(time, Some(Duration::from_secs(130)));
    let empty = time_to_leave(&active(ME), &cluster_of([active(ME)]));
    assert_eq!(empty, Some(Duration::from_secs(30)));
    let obstacle = failover_obstacle(&active(ME), &cluster_of([active(ME)]), Some(1));
    assert_eq!(obstacle.as_deref(), Some("there is no other node"));
}

/// In a run that stays, a change of the server makes what was observed before untrue.
#[test]
fn memory_follows_the_server() {
    let complete = Memory {
        is_confirmed: true,
        is_attested: true,
        done_extras: [group()].into(),
        rebalance_is_under_way: true,
        kept: Kept { has_initialized: true, ..Kept::default() },
        ..memory()
    };
    let observe = |own: &OwnServer, mut memory: Memory| {
        memory.observe(own);
        memory
    };
    let was_away = |memory: &Memory| memory.kept.failover_cause == FailoverCause::Outage;
    let away = observe(&OwnServer::Unreachable(String::new()), complete.clone());
    assert!(was_away(&away) && !away.is_confirmed);
    assert!(away.is_reported && !away.done_extras.is_empty());
    let refused = observe(&OwnServer::OtherCredentials, complete.clone());
    assert!(!was_away(&refused) && !refused.is_confirmed);
    let lost = observe(&blank(), complete.clone());
    assert!(was_away(&lost) && !lost.is_reported && !lost.is_attested);
    assert!(lost.done_extras.is_empty() && !lost.rebalance_is_under_way);
    let seen = |nodes: Vec<NodeInfo>, was_away| {
        let cause = if was_away { FailoverCause::Outage } else { FailoverCause::Unknown };
        let kept = Kept { failover_cause: cause, ..complete.kept.clone() };
        let memory = Memory { kept, is_delta_refused: true, ..complete.clone() };
        observe(&OwnServer::Member(unbalanced(nodes)), memory)
    };
    #[rustfmt::skip]
    let cases = [
        ("well", vec![active(ME), active(FIRST)], true, false),
        ("failed over while it was well", vec![failed(ME), active(FIRST)], false, false),
        ("failed over after it was away", vec![failed(ME), active(FIRST)], true, true),
        ("it cannot reach another", vec![active(ME), dead(active(FIRST))], false, true),
        ("it is not healthy", vec![dead(active(ME)), active(FIRST)], false, true),
        ("failed over, just restarted", vec![up_for(179, failed(ME)), active(FIRST)], false, true),
        ("failed over, restarted before", vec![up_for(180, failed(ME)), active(FIRST)], false, false),
        ("a failed-over node is dead", vec![active(ME), dead(failed(FIRST))], false, false),
    ];
    for (what, nodes, before, after) in cases {
        let memory = seen(nodes, before);
        assert_eq!(was_away(&memory), after, "{what}");
        assert!(!memory.kept.has_initialized, "{what}");
    }
    assert!(!seen(vec![active(ME)], false).is_delta_refused);

    // A failover that this run has begun goes on while a rebalance runs.
    let own = with(failed_over_by(FailoverCause::Agent), complete.clone());
    let two = || [active(ME), active(FIRST)];
    for (view, is_own) in [
        (rebalancing(two()), true),
        (unbalanced([failed(ME), active(FIRST)]), true),
        (cluster_of(two()), false),
    ] {
        let memory = observe(&OwnServer::Member(view), own.keep());
        assert_eq!(memory.kept.failover_cause == FailoverCause::Agent, is_own);
    }

    // A person's failover stays one, whatever fails afterwards.
    let intended = || with(failed_over_by(FailoverCause::Person), complete.clone());
    let failed_over = || vec![up_for(0, failed(ME)), dead(active(FIRST))];
    for (what, own, is_intended, is_away) in [
        ("away", OwnServer::Unreachable(String::new()), true, false),
        ("back", OwnServer::Member(unbalanced(failed_over())), true, false),
        ("recovered by people", OwnServer::Member(cluster_of([active(ME)])), false, false),
        (
            "active, and cannot reach another",
            OwnServer::Member(cluster_of([active(ME), dead(active(FIRST))])),
            false,
            true,
        ),
        ("removed", blank(), false, true),
    ] {
        let memory = observe(&own, intended().keep());
        let is_still_intended = memory.kept.failover_cause == FailoverCause::Person;
        assert_eq!((is_still_intended, was_away(&memory)), (is_intended, is_away), "{what}");
    }
}

#[test]
fn node_that_goes_blank_was_removed_only_if_people_can_have_done_it() {
    let two = || [active(ME), active(FIRST)];
    let failed_over = || [failed(ME), active(FIRST)];
    let member = OwnServer::Member;
    let away = || OwnServer::Unreachable(String::new());
    let (soon, late) = (Duration::from_secs(59), DEAD_AFTER);
    let (removed, unclear, unknown) = (Removal::Removed, Removal::Unclear, Removal::Unknown);
    #[rustfmt::skip]
    let cases = [
        ("a rebalance ran", vec![member(rebalancing(two()))], soon, removed),
        ("a rebalance ran, long ago", vec![member(rebalancing(two()))], late, unknown),
        ("well", vec![member(cluster_of(two()))], soon, unclear),
        ("well, long ago", vec![member(cluster_of(two()))], late, unknown),
        ("away shortly", vec![member(cluster_of(two())), away()], soon, unclear),
        ("other credentials", vec![member(cluster_of(two())), OwnServer::OtherCredentials], soon, unclear),
        ("the only node", vec![member(cluster_of([active(ME)]))], soon, unknown),
        ("another cannot be reached", vec![member(cluster_of([active(ME), dead(active(FIRST))]))], soon, unknown),
        ("added", vec![member(cluster_of([added(ME), active(FIRST)]))], soon, unknown),
        ("added, a rebalance ran", vec![member(rebalancing([added(ME), active(FIRST)]))], soon, unknown),
        ("failed over by people", vec![member(unbalanced(failed_over()))], soon, unclear),
        ("failed over, and removed", vec![member(unbalanced(failed_over())), member(rebalancing(failed_over()))], soon, removed),
        ("failed over, and back while it is removed", vec![member(rebalancing(failed_over()))], soon, unknown),
        ("never seen as a member", vec![away()], soon, unknown),
    ];
    let lose = |mut departure: Departure, states: &[OwnServer], has_notice, since, recovers| {
        for own in states {
            departure.observe(own, has_notice, true, recovers, since);
        }
        departure.observe(&blank(), has_notice, false, recovers, now());
        departure.removal
    };
    for (what, states, time, expected) in cases {
        assert_eq!(lose(NONE, &states, false, ago(time), false), expected, "{what}");
        let leaving = Departure { is_leaving: true, ..NONE };
        let left = lose(leaving, &states, true, ago(time), false);
        assert_eq!(left, unknown, "{what}, on its way out");
    }
    // An agent may have removed it after a failure.
    let states = [member(unbalanced(failed_over())), member(rebalancing(failed_over()))];
    assert_eq!(lose(NONE, &states, true, ago(soon), true), unknown);

    // A server that refuses the password runs; one that is away, or does not know its cluster, may be anything.
    for (knows_cluster, own, expected) in [
        (true, OwnServer::OtherCredentials, unclear),
        (true, away(), unknown),
        (false, OwnServer::OtherCredentials, unknown),
    ] {
        let mut departure = NONE;
        departure.observe(&member(cluster_of(two())), true, knows_cluster, false, ago(late));
        for own in [own, blank()] {
            departure.observe(&own, true, false, false, now());
        }
        assert_eq!(departure.removal, expected);
    }

    // What was decided stays until the node is a member again.
    let mut departure = Departure { removal: removed, ..NONE };
    for own in [blank(), away(), OwnServer::OtherCredentials, blank()] {
        departure.observe(&own, false, false, true, now());
        assert_eq!(departure.removal, removed);
    }
    departure.observe(&member(cluster_of(two())), false, true, true, now());
    let seen = Sighting {
        at: now(),
        rebalance_ran: false,
        was_well: true,
        could_recover: false,
        may_be_own: false,
    };
    assert_eq!(departure.removal, Removal::Watching(seen));

    // A rebalance that this run started goes on after the notice was withdrawn.
    let mut leaving = Departure { is_leaving: true, ..NONE };
    for (own, is_leaving) in
        [(member(rebalancing(two())), true), (member(cluster_of(two())), false)]
    {
        leaving.observe(&own, false, true, true, now());
        assert_eq!(leaving.is_leaving, is_leaving);
    }
    let mut out = Departure { is_leaving: true, ..NONE };
    out.observe(&blank(), false, true, true, now());
    assert_eq!((out.is_leaving, out.removal), (false, unknown));
}

/// An earlier run may have begun a rebalance that this one finds under way, to leave.
#[test]
fn node_that_a_rebalance_removes_may_have_left_by_itself() {
    let (removed, unknown) = (Removal::Removed, Removal::Unknown);
    let two = || [active(ME), active(FIRST)];
    let (still, moving) = (|| cluster_of(two()), || rebalancing(two()));
    for (what, states, expected) in [
        ("found with a notice", vec![(moving(), true)], unknown),
        ("withdrawn while it runs", vec![(moving(), true), (moving(), false)], unknown),
        ("the notice comes later", vec![(moving(), false), (moving(), true)], removed),
        ("seen before it", vec![(still(), true), (moving(), true)], removed),
        ("another one", vec![(moving(), true), (still(), true), (moving(), true)], removed),
    ] {
        let (mut departure, mut has_notice) = (NONE, false);
        for (view, noticed) in states {
            has_notice = noticed;
            departure.observe(&OwnServer::Member(view), has_notice, true, false, now());
        }
        departure.observe(&blank(), has_notice, false, false, now());
        assert_eq!(departure.removal, expected, "{what}");
    }
}
