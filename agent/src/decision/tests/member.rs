//! Servers that belong to a cluster.

use super::*;

#[test]
fn member_of_another_cluster_is_not_touched() {
    let adopting = || Goal { adopt: true, ..goal() };
    let dataless = || Goal { can_begin: false, ..goal() };
    let alone = || cluster_of([active(ME)]);
    let both = || cluster_of([active(ME), active(FIRST)]);
    let unknown = || stop(StopReason::Unregistered(uuid(UUID)));
    let other = |record| Has(of_cluster(Some(OTHER_UUID), record));
    let of_other = || other_cluster("the one with the UUID b2");
    let waits_for_report = || Waits("`10.0.0.2` has not reported the cluster ready yet");
    let of_first = || other_cluster("the cluster of `10.0.0.2`");
    #[rustfmt::skip]
    let cases = [
        ("not asked", goal(), alone(), NotYet, Then(GetRecord)),
        ("no record", goal(), alone(), NoRecord, unknown()),
        ("adopts, not asked", adopting(), alone(), NotYet, Then(GetRecord)),
        ("adopts", adopting(), alone(), NoRecord, Then(Claim)),
        ("its own UUID", goal(), both(), joinable(), report()),
        ("another UUID", goal(), both(), other(ready(FIRST, &[FIRST])), of_other()),
        ("another UUID, though it was the first", goal(), alone(), other(ready(ME, &[ME])), of_other()),
        ("another UUID, though it adopts", adopting(), alone(), other(ready(FIRST, &[FIRST])), of_other()),
        ("another UUID, after its own claim", goal(), alone(), other(taken_over(FIRST, 0, &[ME])), of_other()),
        ("no UUID, with the first", goal(), both(), Has(of_cluster(None, ready(FIRST, &[FIRST]))), report()),
        ("no UUID, without the first", goal(), alone(), Has(of_cluster(None, ready(FIRST, &[FIRST]))), of_first()),
        ("a claim of a node elsewhere", goal(), alone(), Has(claimed_by(FIRST, 20)), of_first()),
        ("the same, expired", goal(), alone(), Has(claimed_by(FIRST, 0)), of_first()),
        ("the same, after a third node", goal(), alone(), Has(taken_over(FIRST, 0, &[THIRD])), of_first()),
        (
            "its own claim, taken over",
            goal(),
            alone(),
            Has(taken_over(FIRST, 1, &[ME])),
            Waits("`10.0.0.2` has taken over the claim of this node's cluster"),
        ),
        (
            "its own claim, taken over for good",
            goal(),
            alone(),
            Has(taken_over(FIRST, None, &[THIRD, ME])),
            Waits("it gives up the claim when it finds this cluster"),
        ),
        ("its own claim, taken over, expired again", goal(), alone(), Has(taken_over(FIRST, 0, &[THIRD, ME])), Then(Claim)),
        ("a claim of a node in it", goal(), both(), Has(claimed_by(FIRST, 20)), waits_for_report()),
        ("a claim of a node in it, for good", goal(), both(), Has(claimed_by(FIRST, None)), waits_for_report()),
        ("a claim of a node in it, expired", goal(), both(), Has(claimed_by(FIRST, 0)), Then(Claim)),
        // It has already begun the cluster.
        ("the same, of a node without data", dataless(), both(), Has(claimed_by(FIRST, 0)), Then(Claim)),
    ];
    for (what, goal, view, asked, expected) in cases {
        assert_next(what, &goal, &OwnServer::Member(view), &asked, &unreported(), &expected);
    }
}

/// Other nodes wait for the report, and its generation fences it.
#[test]
fn first_node_reports_before_everything_else() {
    let wants_all =
        Goal { extras: vec![group(), bucket("app"), address()], attests: true, ..goal() };
    #[rustfmt::skip]
    let cases = [
        ("balanced", cluster_of([active(ME)])),
        ("services that never come up", unbalanced([active(ME)])),
        ("a rebalance runs", rebalancing([active(ME)])),
        ("loads its data", cluster_of([warming_up(active(ME))])),
        ("not healthy", unbalanced([dead(active(ME))])),
        ("does not list itself", cluster_of([])),
        ("Community Edition", cluster_of([NodeInfo { group: None, ..active(ME) }])),
        ("has just started", cluster_of([up_for(0, active(ME)), active(FIRST)])),
    ];
    for (what, view) in cases {
        for left in [None, Some(0), Some(1), Some(60)] {
            for memory in [Memory::default(), memory()] {
                let own = OwnServer::Member(view.clone());
                assert_next(what, &wants_all, &own, &Has(claimed_by(ME, left)), &memory, &report());
            }
        }
    }
}

#[test]
fn server_that_may_not_know_its_cluster_needs_a_confirmation() {
    let confirm = || Then(Confirm);
    let three = || Has(ready(FIRST, &[FIRST, ME, THIRD]));
    let unreported = || Memory { is_reported: false, ..unconfirmed() };
    let both = || cluster_of([active(ME), active(FIRST)]);
    let alone = || cluster_of([active(ME)]);
    #[rustfmt::skip]
    let cases = [
        ("just started", cluster_of([up_for(59, active(ME)), active(FIRST)]), joinable(), unconfirmed(), confirm()),
        ("up for long enough", cluster_of([up_for(60, active(ME)), active(FIRST)]), joinable(), unconfirmed(), Then(Done)),
        ("confirmed", cluster_of([up_for(0, active(ME)), active(FIRST)]), joinable(), memory(), Then(Done)),
        ("alone", cluster_of([up_for(0, active(ME))]), Has(ready(ME, &[ME])), unconfirmed(), Then(Done)),
        ("no other active member", cluster_of([up_for(0, active(ME)), failed(FIRST), added(THIRD)]), joinable(), unconfirmed(), confirm()),
        ("a rebalance runs", rebalancing([up_for(0, added(ME)), active(FIRST)]), joinable(), unconfirmed(), confirm()),
        ("warms up", cluster_of([up_for(0, warming_up(active(ME))), active(FIRST)]), joinable(), unconfirmed(), confirm()),
        ("failed over", cluster_of([up_for(0, failed(ME)), active(FIRST)]), joinable(), unconfirmed(), stop(StopReason::FailedOver)),
        ("all others are recorded", alone(), joinable(), unconfirmed(), confirm()),
        ("the same, before it reports", alone(), three(), unreported(), confirm()),
        ("it is the recorded first one", alone(), Has(ready(ME, &[ME, THIRD])), unconfirmed(), confirm()),
        ("one of the others is recorded", both(), three(), unconfirmed(), confirm()),
        ("the same, confirmed", both(), three(), memory(), Then(Done)),
        ("an own claim", alone(), Has(claimed_by(ME, 20)), unreported(), report()),
    ];
    for (what, view, asked, memory, expected) in cases {
        assert_next(what, &goal(), &OwnServer::Member(view), &asked, &memory, &expected);
    }
}

#[test]
fn old_copy_of_a_member_stops_and_a_last_survivor_goes_on() {
    let silent = |are_gone| Testimony::Silent { are_gone, why: "down".to_owned() };
    let not_listed = || Testimony::NotListed(node(FIRST));
    let alone = |uptime| cluster_of([up_for(uptime, active(ME))]);
    let both = || cluster_of([active(ME), dead(active(THIRD))]);
    let waits = || Some(Waits("no other member has confirmed"));
    let by_third = || {
        let is_asked = |it: &NodeInfo| it.name == active(THIRD).name;
        let nodes = [active(ME), active(THIRD)];
        Testimony::Listed(cluster_of(nodes.map(|it| NodeInfo { is_asked: is_asked(&it), ..it })))
    };
    #[rustfmt::skip]
    let cases = [
        ("listed", both(), by_third(), None),
        ("listed by one that it does not know", alone(3600), by_third(), Some(Waits("may be an old copy"))),
        ("a copy of a cluster of one node", alone(5), not_listed(), Some(stop(StopReason::OldCopy(node(FIRST))))),
        ("removed, or a copy of a larger cluster", both(), not_listed(), Some(Waits("`10.0.0.2` does not list this server"))),
        ("all others are gone", alone(60), silent(true), None),
        ("the same, just started", alone(59), silent(true), waits()),
        ("another one gives no clear answer", alone(3600), silent(false), waits()),
    ];
    for (what, view, testimony, expected) in cases {
        let decided = confirm(&view, &testimony);
        let is_expected = match (&decided, &expected) {
            (Some(Action::Wait(why)), Some(Waits(part))) => why.contains(part),
            (Some(decided), Some(Then(expected))) => decided == expected,
            (decided, expected) => decided.is_none() && expected.is_none(),
        };
        assert!(is_expected, "{what}: {decided:?}, not {expected:?}");
    }
}

#[test]
fn removed_member_is_reported_when_the_cluster_no_longer_lists_it() {
    let removed = || with(Kept { removed: [THIRD.to_owned()].into(), ..Kept::default() }, memory());
    let recorded = || Has(ready(FIRST, &[FIRST, ME, THIRD]));
    let two = || cluster_of([active(ME), active(FIRST)]);
    let three = || cluster_of([active(ME), active(FIRST), active(THIRD)]);
    let unreported = Memory { is_reported: false, ..removed() };
    #[rustfmt::skip]
    let cases = [
        ("removed", two(), recorded(), removed(), Then(Action::ReportRemoved(node(THIRD)))),
        ("it reports itself first", two(), recorded(), unreported, report()),
        ("another node removed it", two(), recorded(), memory(), Then(Done)),
        ("it is back", three(), recorded(), removed(), Then(Done)),
        ("already reported", two(), Has(ready(FIRST, &[FIRST, ME])), removed(), Then(Done)),
        ("a rebalance runs", rebalancing([active(ME), active(FIRST)]), recorded(), removed(), Waits("a rebalance runs")),
    ];
    for (what, view, asked, memory, expected) in cases {
        assert_next(what, &goal(), &OwnServer::Member(view), &asked, &memory, &expected);
    }
}

#[test]
fn member_waits_for_a_rebalance_or_starts_it() {
    let settled = Duration::from_secs(5);
    let same_for = |time| Memory { same_since: Some(ago(time)), ..memory() };
    let just_before = |time: Duration| same_for(time.saturating_sub(Duration::from_millis(1)));
    let starts = || rebalance(&[ME, FIRST], &[]);
    let this_added = || unbalanced([added(ME), active(FIRST)]);
    let other_added = || unbalanced([active(ME), added(FIRST)]);
    let this_active = || unbalanced([active(ME), active(FIRST)]);
    let stopped = |view: &View| {
        with(
            Kept { stopped_among: Some(view.memberships()), ..Kept::default() },
            same_for(settled * 4),
        )
    };
    let resting = || Memory { rest_until: Some(now() + Duration::from_millis(4500)), ..memory() };
    #[rustfmt::skip]
    let cases = [
        ("it does not list itself", cluster_of([active(FIRST)]), memory(), Waits("does not list itself")),
        ("failed over", cluster_of([failed(ME), active(FIRST)]), memory(), stop(StopReason::FailedOver)),
        (
            "failed over, while a rebalance runs",
            View { is_rebalancing: true, ..unbalanced([failed(ME), active(FIRST)]) },
            memory(),
            stop(StopReason::FailedOver),
        ),
        ("a rebalance runs", rebalancing([added(ME), active(FIRST)]), memory(), Waits("a rebalance runs")),
        ("someone stopped the rebalance", this_active(), stopped(&this_active()), Then(Done)),
        ("the same, and it is not in yet", this_added(), stopped(&this_added()), Waits("someone stopped the rebalance")),
        ("the same, and another node has come", unbalanced([active(ME), active(FIRST), added(THIRD)]), stopped(&this_active()), rebalance(&[ME, FIRST, THIRD], &[])),
        ("it warms up", cluster_of([warming_up(active(ME))]), memory(), Waits("`warmup`")),
        ("it is not healthy", cluster_of([dead(active(ME))]), memory(), Waits("it is not healthy")),
        ("another warms up", cluster_of([active(ME), warming_up(active(FIRST))]), memory(), Then(Done)),
        ("balanced", cluster_of([active(ME), active(FIRST)]), same_for(Duration::ZERO), Then(Done)),
        ("balanced, and an active one is dead", cluster_of([active(ME), dead(active(FIRST))]), memory(), Then(Done)),
        ("added, and others may come", this_added(), just_before(settled), Waits("1 node waits for a rebalance")),
        ("added", this_added(), same_for(settled), starts()),
        ("another was added, and may start it", other_added(), just_before(4 * settled), Waits("1 node waits for a rebalance")),
        ("another was added, and does not", other_added(), same_for(4 * settled), starts()),
        ("another was added to a balanced cluster", cluster_of([active(ME), added(FIRST)]), same_for(4 * settled), starts()),
        (
            "none was added, and others may come",
            unbalanced([active(ME), active(FIRST)]),
            same_for(settled),
            Waits("the cluster waits for a rebalance"),
        ),
        (
            "two were added, and others may come",
            unbalanced([added(ME), active(FIRST), added(THIRD)]),
            same_for(Duration::ZERO),
            Waits("2 nodes wait for a rebalance"),
        ),
        ("none was added, and it is not balanced", unbalanced([active(ME), active(FIRST)]), same_for(4 * settled), starts()),
        ("the last one failed", this_added(), resting(), Waits("the last rebalance failed; the next begins in 5 s")),
        ("it is marked for recovery itself", unbalanced([recovering(ME), active(FIRST)]), same_for(settled), starts()),
    ];
    for (what, view, memory, expected) in cases {
        assert_next(what, &goal(), &OwnServer::Member(view), &joinable(), &memory, &expected);
    }
}

#[test]
fn dead_nodes_are_removed_and_living_ones_stay() {
    let away_for = |seconds| Memory {
        unreachable_since: BTreeMap::from([(otp(THIRD), ago(Duration::from_secs(seconds)))]),
        ..memory()
    };
    let away = || Waits("`10.0.0.3` cannot be reached: no rebalance can succeed");
    let back = || Waits("`10.0.0.3` has been failed over and is back");
    let added_away = || Waits("`10.0.0.3` was added and cannot be reached yet");
    let starts = || rebalance(&[ME, FIRST, THIRD], &[]);
    let with = |third: NodeInfo| unbalanced([added(ME), active(FIRST), third]);
    #[rustfmt::skip]
    let cases = [
        ("added, and not there yet", with(dead(added(THIRD))), away_for(59), added_away()),
        ("added, and just gone", with(dead(added(THIRD))), memory(), added_away()),
        ("added, and dead", with(dead(added(THIRD))), away_for(60), Then(Eject(otp(THIRD)))),
        (
            "added, and dead, seen by one that is in",
            unbalanced([active(ME), dead(added(THIRD))]),
            away_for(60),
            Then(Eject(otp(THIRD))),
        ),
        (
            "marked for recovery, and dead",
            with(dead(recovering(THIRD))),
            away_for(3600),
            Waits("`10.0.0.3` is marked for recovery and cannot be reached"),
        ),
        ("marked for recovery, and well", with(recovering(THIRD)), memory(), starts()),
        ("active, and just gone", with(dead(active(THIRD))), memory(), away()),
        ("active, and dead", with(dead(active(THIRD))), away_for(3600), away()),
        ("failed over, and back", with(failed(THIRD)), memory(), back()),
        ("failed over, and back in warm-up", with(warming_up(failed(THIRD))), away_for(3600), back()),
        (
            "failed over, and away for a moment",
            with(dead(failed(THIRD))),
            away_for(59),
            Waits("`10.0.0.3` has been failed over; it may come back"),
        ),
        ("failed over, and dead", with(dead(failed(THIRD))), away_for(60), rebalance(&[ME, FIRST, THIRD], &[THIRD])),
        (
            "failed over, and dead, and none was added",
            unbalanced([active(ME), active(FIRST), dead(failed(THIRD))]),
            away_for(60),
            Then(Done),
        ),
        (
            "failed over, and back, and none was added",
            unbalanced([active(ME), active(FIRST), failed(THIRD)]),
            memory(),
            Then(Done),
        ),
        (
            "failed over, and dead, beside a dead active one",
            unbalanced([added(ME), dead(failed(THIRD)), dead(active(FIRST))]),
            away_for(60),
            Waits("`10.0.0.2` cannot be reached"),
        ),
        ("warming up", with(warming_up(active(THIRD))), memory(), starts()),
    ];
    for (what, view, memory, expected) in cases {
        assert_next(what, &goal(), &OwnServer::Member(view), &joinable(), &memory, &expected);
    }
}

/// A rebalance removes a dead node only if the others have all its data.
#[test]
fn dead_nodes_with_the_only_copy_stay() {
    let away = Memory {
        unreachable_since: [FIRST, THIRD]
            .map(|name| (otp(name), ago(Duration::from_hours(1))))
            .into(),
        ..memory()
    };
    let stays = || Waits("with data that may have no other copy");
    let one = || unbalanced([added(ME), active(FIRST), dead(failed(THIRD))]);
    let two = || unbalanced([added(ME), dead(failed(FIRST)), dead(failed(THIRD))]);
    let beside = || unbalanced([recovering(ME), active(FIRST), dead(failed(THIRD))]);
    let [all, first_two] =
        [rebalance(&[ME, FIRST, THIRD], &[THIRD]), rebalance(&[ME, FIRST, THIRD], &[FIRST, THIRD])];
    #[rustfmt::skip]
    let cases = [
        ("no bucket", one(), None, all),
        ("a bucket without replicas", one(), Some(0), stays()),
        ("a replica, one dead", one(), Some(1), rebalance(&[ME, FIRST, THIRD], &[THIRD])),
        ("a replica, two dead", two(), Some(1), stays()),
        ("two replicas, two dead", two(), Some(2), first_two),
        ("a replica, one dead beside one that recovers", beside(), Some(1), stays()),
        ("two replicas, one dead beside one that recovers", beside(), Some(2), rebalance(&[ME, FIRST, THIRD], &[THIRD])),
    ];
    for (what, view, fewest_replicas, expected) in cases {
        let own = OwnServer::Member(View { fewest_replicas, ..view });
        assert_next(what, &goal(), &own, &joinable(), &away, &expected);
    }
}

#[test]
fn failed_over_node_recovers_only_without_risk() {
    let recovers = || Goal { recovers: true, ..goal() };
    let was_away = || with(failed_over_by(FailoverCause::Outage), memory());
    let no_delta = || Memory { is_delta_refused: true, ..was_away() };
    let third_away = |seconds, memory| Memory {
        unreachable_since: [(otp(THIRD), ago(Duration::from_secs(seconds)))].into(),
        ..memory
    };
    let beside_dead = || unbalanced([failed(ME), active(FIRST), dead(failed(THIRD))]);
    let marked_beside_dead = || unbalanced([recovering(ME), active(FIRST), dead(failed(THIRD))]);
    let mark = |recovery| Then(Recover { otp: otp(ME), recovery });
    let both = || unbalanced([failed(ME), active(FIRST)]);
    let full = |node| NodeInfo { recovery: Recovery::Full, ..node };
    let starts = || rebalance(&[ME, FIRST], &[]);
    let with_replicas = |replicas, view| View { fewest_replicas: Some(replicas), ..view };
    #[rustfmt::skip]
    let cases = [
        ("`up`", goal(), both(), was_away(), stop(StopReason::FailedOver)),
        ("back", recovers(), both(), was_away(), mark(Recovery::Delta)),
        ("back, without replicas: its data is all there", recovers(), with_replicas(0, both()), was_away(), mark(Recovery::Delta)),
        ("failed over by this agent", recovers(), both(), with(failed_over_by(FailoverCause::Agent), memory()), mark(Recovery::Delta)),
        ("failed over by people", recovers(), both(), memory(), stop(StopReason::FailedOver)),
        ("just started", recovers(), unbalanced([up_for(5, failed(ME)), active(FIRST)]), with(failed_over_by(FailoverCause::Outage), unconfirmed()), Then(Confirm)),
        ("a rebalance runs", recovers(), rebalancing([failed(ME), active(FIRST)]), was_away(), Waits("a rebalance runs")),
        ("warming up", recovers(), unbalanced([warming_up(failed(ME)), active(FIRST)]), was_away(), Waits("warmup")),
        ("not healthy", recovers(), unbalanced([dead(failed(ME)), active(FIRST)]), was_away(), Waits("not healthy")),
        ("an active node is down", recovers(), unbalanced([failed(ME), active(FIRST), dead(active(THIRD))]), was_away(), Waits("waits until `10.0.0.3` is back")),
        ("a failed-over node is down", recovers(), unbalanced([failed(ME), active(FIRST), dead(failed(THIRD))]), was_away(), Waits("waits until `10.0.0.3` is back")),
        ("a failed-over node is dead, and its data is elsewhere", recovers(), with_replicas(2, beside_dead()), third_away(60, was_away()), mark(Recovery::Delta)),
        ("a failed-over node is dead, no buckets", recovers(), beside_dead(), third_away(60, was_away()), mark(Recovery::Delta)),
        ("a failed-over node is away for less than a minute", recovers(), with_replicas(2, beside_dead()), third_away(59, was_away()), Waits("waits until `10.0.0.3` is back")),
        ("a failed-over node is dead, too few replicas", recovers(), with_replicas(1, beside_dead()), third_away(3600, was_away()), Waits("waits until `10.0.0.3` is back")),
        ("an active node is dead", recovers(), with_replicas(2, unbalanced([failed(ME), active(FIRST), dead(active(THIRD))])), third_away(3600, was_away()), Waits("waits until `10.0.0.3` is back")),
        ("marked beside a dead failed-over node", recovers(), with_replicas(2, marked_beside_dead()), third_away(60, was_away()), rebalance(&[ME, FIRST, THIRD], &[THIRD])),
        ("no delta beside a dead failed-over node", recovers(), with_replicas(2, marked_beside_dead()), third_away(60, no_delta()), mark(Recovery::Full)),
        ("another is back, too", recovers(), unbalanced([failed(ME), active(FIRST), failed(THIRD)]), was_away(), mark(Recovery::Delta)),
        ("marked, and another is not yet", recovers(), unbalanced([recovering(ME), active(FIRST), failed(THIRD)]), was_away(), Waits("a rebalance now would remove it")),
        ("marked", recovers(), unbalanced([recovering(ME), active(FIRST)]), was_away(), starts()),
        ("no delta, a replica", recovers(), with_replicas(1, both()), no_delta(), mark(Recovery::Full)),
        ("no delta, no replicas", recovers(), with_replicas(0, both()), no_delta(), Waits("a full recovery, which deletes this node's data")),
        ("no delta, a replica, two failed over", recovers(), with_replicas(1, unbalanced([failed(ME), active(FIRST), failed(THIRD)])), no_delta(), Waits("a full recovery")),
        ("delta refused by the rebalance", recovers(), with_replicas(1, unbalanced([recovering(ME), active(FIRST)])), no_delta(), mark(Recovery::Full)),
        ("marked for full recovery", recovers(), with_replicas(1, unbalanced([full(added(ME)), active(FIRST)])), no_delta(), starts()),
    ];
    for (what, goal, view, memory, expected) in cases {
        assert_next(what, &goal, &OwnServer::Member(view), &joinable(), &memory, &expected);
    }
}

#[test]
fn first_rebalance_waits_for_the_expected_nodes() {
    let expects = |nodes| Goal { nodes: Some(nodes), ..goal() };
    let same_for = |time| Memory { same_since: Some(ago(time)), ..memory() };
    let fresh = || same_for(Duration::ZERO);
    let two = || unbalanced([added(ME), active(FIRST)]);
    let three = || unbalanced([added(ME), active(FIRST), added(THIRD)]);
    let starts = || rebalance(&[ME, FIRST], &[]);
    #[rustfmt::skip]
    let cases = [
        ("one is missing", expects(3), two(), same_for(Duration::from_mins(1)), Waits("2 of the 3 nodes")),
        ("all are there", expects(3), three(), fresh(), rebalance(&[ME, FIRST, THIRD], &[])),
        ("more are there", expects(2), three(), fresh(), rebalance(&[ME, FIRST, THIRD], &[])),
        ("the first node starts it, too", expects(2), unbalanced([active(ME), added(FIRST)]), fresh(), starts()),
        ("one never comes", expects(3), two(), same_for(NEXT_NODE_LIMIT), starts()),
        ("a later node", expects(3), unbalanced([added(ME), active(FIRST), active(THIRD)]), fresh(), Waits("1 node waits for a rebalance")),
        ("the first node alone", expects(3), cluster_of([active(ME)]), fresh(), Then(Done)),
        ("all are there, one is dead", expects(3), unbalanced([added(ME), active(FIRST), dead(added(THIRD))]), fresh(), Waits("cannot be reached yet")),
    ];
    for (what, goal, view, memory, expected) in cases {
        assert_next(what, &goal, &OwnServer::Member(view), &joinable(), &memory, &expected);
    }
}

#[test]
fn member_reports_then_attests_then_applies_the_extras() {
    let wants = |extras: &[Extra]| Goal { extras: extras.to_vec(), ..goal() };
    let (wants_group, wants_address) = (|| wants(&[group()]), || wants(&[address()]));
    let two_buckets = || wants(&[bucket("app"), bucket("cache")]);
    let attests = || Goal { attests: true, ..goal() };
    let wants_all =
        || Goal { attests: true, ..wants(&[group(), bucket("app"), bucket("cache"), address()]) };
    let holding = |buckets: &[&str]| View { buckets: names(buckets), ..cluster_of([active(ME)]) };
    let alone = || cluster_of([active(ME)]);
    let in_group = || cluster_of([NodeInfo { group: Some("us-east-1a".to_owned()), ..active(ME) }]);
    let with_address = |host: &str| {
        cluster_of([NodeInfo { alternate_address: Some(host.to_owned()), ..active(ME) }])
    };
    let without_groups = || cluster_of([NodeInfo { group: None, ..active(ME) }]);
    let (first, joiner) = (|| ready(ME, &[ME]), || ready(FIRST, &[FIRST]));
    let starts = || rebalance(&[ME, FIRST], &[]);
    let apply = |extra| Then(Apply(extra));
    let done = |extras: &[Extra]| Memory {
        done_extras: extras.iter().cloned().collect(),
        is_attested: true,
        ..memory()
    };
    #[rustfmt::skip]
    let cases = [
        ("no extras", goal(), alone(), joiner(), memory(), Then(Done)),
        ("no report", wants_all(), alone(), first(), unreported(), report()),
        ("no report of a joiner", wants_all(), alone(), joiner(), unreported(), report()),
        ("no report, and services that stay down", wants_all(), unbalanced([active(ME)]), first(), unreported(), report()),
        ("no report, and not in yet", goal(), unbalanced([added(ME), active(FIRST)]), joiner(), unreported(), starts()),
        ("no attestation", wants_all(), alone(), first(), memory(), report()),
        ("attested", attests(), alone(), first(), done(&[]), Then(Done)),
        ("no attestation, and not balanced", attests(), unbalanced([active(ME), active(FIRST)]), joiner(), memory(), report()),
        ("no attestation, and not in yet", attests(), unbalanced([added(ME), active(FIRST)]), joiner(), memory(), starts()),
        ("another group", wants_group(), alone(), first(), memory(), apply(group())),
        ("another group, as a joiner", wants_group(), alone(), joiner(), memory(), apply(group())),
        ("another group, refused", wants_group(), alone(), joiner(), done(&[group()]), Then(Done)),
        ("the right group", wants_group(), in_group(), first(), memory(), Then(Done)),
        ("Community Edition", wants_group(), without_groups(), first(), memory(), apply(group())),
        ("Community Edition, refused", wants_group(), without_groups(), first(), done(&[group()]), Then(Done)),
        ("Community Edition, no group wanted", goal(), without_groups(), first(), memory(), Then(Done)),
        ("no bucket", two_buckets(), holding(&[]), first(), memory(), apply(bucket("app"))),
        ("one of them", two_buckets(), holding(&["app", "mine"]), first(), memory(), apply(bucket("cache"))),
        ("one refused", two_buckets(), holding(&[]), first(), done(&[bucket("app")]), apply(bucket("cache"))),
        ("one refused, the other there", two_buckets(), holding(&["cache"]), first(), done(&[bucket("app")]), Then(Done)),
        ("all of them", two_buckets(), holding(&["cache", "app"]), first(), memory(), Then(Done)),
        ("a deleted bucket", two_buckets(), holding(&["cache"]), first(), with(Kept { buckets: ["app".to_owned()].into(), ..Kept::default() }, memory()), Then(Done)),
        ("no bucket, as a joiner", two_buckets(), holding(&[]), joiner(), memory(), Then(Done)),
        ("no address", wants_address(), alone(), joiner(), memory(), apply(address())),
        ("the right address", wants_address(), with_address("203.0.113.1"), joiner(), memory(), Then(Done)),
        ("another address", wants_address(), with_address("203.0.113.2"), joiner(), memory(), apply(address())),
        ("address set", wants_address(), alone(), joiner(), done(&[address()]), Then(Done)),
        ("group before buckets", wants_all(), alone(), first(), done(&[]), apply(group())),
        ("buckets before the address", wants_all(), alone(), first(), done(&[group()]), apply(bucket("app"))),
        (
            "the address last",
            wants_all(),
            in_group(),
            first(),
            done(&[bucket("app"), bucket("cache")]),
            apply(address()),
        ),
        ("all", wants_all(), holding(&["app"]), first(), done(&[group(), bucket("cache"), address()]), Then(Done)),
    ];
    for (what, goal, view, record, memory, expected) in cases {
        assert_next(what, &goal, &OwnServer::Member(view), &Has(record), &memory, &expected);
    }
}

/// The next rebalance may be another node's, which then reports what it removes.
#[test]
fn node_that_a_failed_rebalance_has_not_removed_is_not_reported() {
    let two = || [active(ME), active(THIRD)];
    let with_first = |node| [active(ME), node, active(THIRD)];
    let dead_one = || dead(failed(FIRST));
    for (what, view, is_kept) in [
        ("removed", cluster_of(two()), true),
        ("removed, and the rebalance runs", rebalancing(two()), true),
        ("to be removed", rebalancing(with_first(dead_one())), true),
        ("the rebalance has failed", unbalanced(with_first(dead_one())), false),
        ("recovers", rebalancing(with_first(recovering(FIRST))), false),
        ("joins again", rebalancing(with_first(added(FIRST))), false),
        ("back", cluster_of(with_first(active(FIRST))), false),
    ] {
        assert_eq!(may_go(FIRST, &view), is_kept, "{what}");
    }
}
