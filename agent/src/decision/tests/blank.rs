//! Servers that belong to no cluster, or cannot be read.

use super::*;

#[test]
fn unreachable_server_or_one_with_other_credentials_is_not_touched() {
    let other_credentials_for =
        |time| Memory { other_credentials_since: Some(ago(time)), ..memory() };
    let almost = OTHER_CREDENTIALS_LIMIT.checked_sub(Duration::from_millis(1));
    let away = OwnServer::Unreachable("the connection is refused".to_owned());
    #[rustfmt::skip]
    let cases = [
        (away, memory(), Waits("the connection is refused")),
        (OwnServer::OtherCredentials, other_credentials_for(Duration::ZERO), Waits("the server has other credentials")),
        (OwnServer::OtherCredentials, other_credentials_for(almost.unwrap()), Waits("may be joining the cluster")),
        (OwnServer::OtherCredentials, other_credentials_for(OTHER_CREDENTIALS_LIMIT), stop(StopReason::OtherCredentials)),
    ];
    for (own, memory, expected) in cases {
        // Independent of the API.
        for asked in [NotYet, NoRecord, Has(claimed_by(ME, None)), joinable()] {
            assert_next(&format!("{own:?}, {asked:?}"), &goal(), &own, &asked, &memory, &expected);
        }
    }
}

#[test]
fn blank_server_begins_the_cluster_or_joins() {
    let join = |members: &[&str]| Then(Join(nodes(members)));
    let lost = |recorded: Option<&str>| {
        stop(StopReason::Lost { recorded: recorded.map(uuid), own: Some(uuid(OWN)) })
    };
    #[rustfmt::skip]
    let cases = [
        ("not asked", NotYet, Then(Claim)),
        ("no record", NoRecord, Then(Claim)),
        ("claimed for good", Has(claimed_by(ME, None)), Then(Initialize)),
        ("exactly the margin left", Has(claimed_by(ME, 16)), Then(Initialize)),
        ("less than the margin left", Has(claimed_by(ME, 15)), Waits("is about to expire")),
        ("an expired claim", Has(claimed_by(ME, 0)), Waits("this node's claim is about to expire")),
        (
            "another's claim",
            Has(claimed_by(FIRST, 42)),
            Waits("`10.0.0.2` has not initialized the cluster yet; its claim expires in 42 s"),
        ),
        ("another's for good", Has(claimed_by(FIRST, None)), Waits("its claim never expires")),
        ("another's, after this node's", Has(taken_over(FIRST, 20, &[ME])), Waits("expires in 20 s")),
        ("ready, of the first alone", joinable(), join(&[FIRST])),
        ("ready, no list", Has(of_cluster(None, ready(FIRST, &[]))), join(&[FIRST])),
        ("ready, the first before the others", Has(ready(THIRD, &[FIRST, THIRD])), join(&[THIRD, FIRST])),
        ("a member that is blank again", Has(ready(FIRST, &[ME, FIRST, THIRD])), join(&[FIRST, THIRD])),
        ("the first that is blank again", Has(ready(ME, &[ME, FIRST])), join(&[FIRST])),
        ("the only one that is blank again", Has(ready(ME, &[ME])), lost(Some("c4"))),
        ("the same, and its UUID was not recorded", Has(ready(ME, &[])), lost(None)),
    ];
    for (what, asked, expected) in cases {
        assert_next(what, &goal(), &blank(), &asked, &memory(), &expected);
    }
    let unknown = stop(StopReason::Lost { recorded: Some(uuid("c4")), own: None });
    let asked = Has(ready(ME, &[ME]));
    assert_next("no UUID", &goal(), &OwnServer::Blank(None), &asked, &memory(), &unknown);
}

#[test]
fn blank_node_without_the_data_service_never_claims() {
    let goal = Goal { can_begin: false, ..goal() };
    #[rustfmt::skip]
    let cases = [
        ("not asked", NotYet, Then(GetRecord)),
        ("no record", NoRecord, Waits("no node with the data service has claimed the cluster yet")),
        ("its claim from before", Has(claimed_by(ME, 60)), Waits("its claim has to expire")),
        ("its claim for good", Has(claimed_by(ME, None)), Waits("its claim has to expire")),
        ("another's claim", Has(claimed_by(FIRST, 7)), Waits("expires in 7 s")),
        ("another's expired claim", Has(claimed_by(FIRST, 0)), Waits("expires in 0 s")),
        ("ready", joinable(), Then(Join(nodes(&[FIRST])))),
    ];
    for (what, asked, expected) in cases {
        assert_next(what, &goal, &blank(), &asked, &memory(), &expected);
    }
}

/// The cluster that is to be registered exists: this server may have lost its data.
#[test]
fn blank_node_that_adopts_never_begins_a_cluster() {
    let goal = Goal { adopt: true, ..goal() };
    #[rustfmt::skip]
    let cases = [
        ("not asked", NotYet, Then(GetRecord)),
        ("no record", NoRecord, stop(StopReason::NothingToAdopt)),
        ("its claim from before", Has(claimed_by(ME, 60)), stop(StopReason::OwnClaim)),
        ("its claim for good", Has(claimed_by(ME, None)), stop(StopReason::OwnClaim)),
        ("another's claim", Has(claimed_by(FIRST, 7)), Waits("expires in 7 s")),
        ("another's expired claim", Has(claimed_by(FIRST, 0)), stop(StopReason::NothingToAdopt)),
        ("ready", joinable(), Then(Join(nodes(&[FIRST])))),
    ];
    for (what, asked, expected) in cases {
        assert_next(what, &goal, &blank(), &asked, &memory(), &expected);
        let query = Goal { can_begin: false, ..goal.clone() };
        assert_next(what, &query, &blank(), &asked, &memory(), &expected);
    }
}

#[test]
fn node_that_waits_for_another_reads_the_record_until_the_claim_expires() {
    let memory = Memory { is_claimed_by_other: true, ..memory() };
    #[rustfmt::skip]
    let cases = [
        ("not asked", NotYet, Then(GetRecord)),
        ("forgotten", NoRecord, Then(Claim)),
        ("claimed by the other", Has(claimed_by(FIRST, 1)), Waits("its claim expires in 1 s")),
        ("claimed for good", Has(claimed_by(FIRST, None)), Waits("its claim never expires")),
        ("expired", Has(claimed_by(FIRST, 0)), Then(Claim)),
        ("claimed by this node, or by another machine of its name", Has(claimed_by(ME, 60)), Then(Claim)),
        ("ready", joinable(), Then(Join(nodes(&[FIRST])))),
    ];
    for (what, asked, expected) in cases {
        assert_next(what, &goal(), &blank(), &asked, &memory, &expected);
    }
    let occupied = Memory {
        occupied_by: Some((node(FIRST), now())),
        ..inspected(&[(FIRST, Inspection::Provisioned)])
    };
    let unfit = Goal { can_begin: false, ..goal() };
    for (goal, memory) in
        [(unfit, memory.clone()), (goal(), Memory { is_claimed_by_other: true, ..occupied })]
    {
        for asked in [NotYet, Has(claimed_by(ME, 0)), Has(claimed_by(FIRST, 0))] {
            let decided = next_action(&goal, &blank(), &asked, &memory, now());
            assert_ne!(decided, Claim, "{asked:?}");
        }
    }
}

#[test]
fn nodes_that_lost_the_claim_are_inspected_before_the_initialization() {
    use Inspection::{Blank, Dead, Provisioned, Unreachable};
    let of_both = || taken_over(ME, 30, &[FIRST, THIRD]);
    let has_initialized =
        with(Kept { has_initialized: true, ..Kept::default() }, Memory::default());
    #[rustfmt::skip]
    let cases = [
        ("no node was inspected", of_both(), inspected(&[]), Then(Inspect(nodes(&[FIRST, THIRD])))),
        ("one was, though it has a cluster", of_both(), inspected(&[(THIRD, Provisioned)]), Then(Inspect(nodes(&[FIRST])))),
        ("none has a cluster", of_both(), inspected(&[(FIRST, Blank), (THIRD, Dead)]), Then(Initialize)),
        ("one is absent", of_both(), absent_for(13, &[(FIRST, Blank), (THIRD, Unreachable)]), Waits("`10.0.0.3`, which lost its claim, does not answer")),
        (
            "one has been absent for some time: the others are inspected again as well",
            of_both(),
            absent_for(14, &[(FIRST, Blank), (THIRD, Unreachable)]),
            Then(Inspect(nodes(&[FIRST, THIRD]))),
        ),
        (
            "one is absent, and the other has a cluster",
            of_both(),
            absent_for(0, &[(FIRST, Unreachable), (THIRD, Provisioned)]),
            Then(GiveUpClaim(node(THIRD))),
        ),
        ("absent, and too little time is left", taken_over(ME, 15, &[FIRST]), absent_for(14, &[(FIRST, Unreachable)]), Waits("is about to expire")),
        (
            "the earlier one has a cluster",
            of_both(),
            inspected(&[(FIRST, Blank), (THIRD, Provisioned)]),
            Then(GiveUpClaim(node(THIRD))),
        ),
        (
            "a node outside the list has a cluster",
            taken_over(ME, 30, &[FIRST]),
            inspected(&[(FIRST, Blank), (THIRD, Provisioned)]),
            Then(Initialize),
        ),
        ("too little time is left", taken_over(ME, 15, &[FIRST]), inspected(&[]), Waits("is about to expire")),
        (
            "the server took its initialization before",
            taken_over(ME, 30, &[FIRST]),
            has_initialized,
            Waits("has accepted its initialization and still belongs to no cluster"),
        ),
    ];
    for (what, record, memory, expected) in cases {
        assert_next(what, &goal(), &blank(), &Has(record), &memory, &expected);
    }
}

#[test]
fn claim_that_this_node_gives_up_is_not_used_again() {
    let has_left =
        |generation| with(Kept { left_claim: Some(generation), ..Kept::default() }, memory());
    let generation = claimed_by(ME, 60).generation;
    #[rustfmt::skip]
    let cases = [
        ("the API has not confirmed it", claimed_by(ME, 60), has_left(generation), Then(LeaveClaim)),
        ("a later claim", claimed_by(ME, 60), has_left(generation - 1), Then(Initialize)),
        ("taken over", claimed_by(FIRST, 60), has_left(generation), Waits("claim expires in 60 s")),
    ];
    for (what, record, memory, expected) in cases {
        assert_next(what, &goal(), &blank(), &Has(record), &memory, &expected);
    }
}

#[test]
fn server_initialized_without_effect_leaves_the_claim_to_others() {
    let memory = with(Kept { has_initialized: true, ..Kept::default() }, Memory::default());
    let waits = || Waits("has accepted its initialization and still belongs to no cluster");
    #[rustfmt::skip]
    let cases = [
        ("not asked", NotYet, Then(GetRecord)),
        ("its own claim", Has(claimed_by(ME, 30)), waits()),
        ("its own expired claim", Has(claimed_by(ME, 0)), waits()),
        ("another's claim", Has(taken_over(FIRST, 30, &[ME])), Waits("expires in 30 s")),
        ("ready", joinable(), Then(Join(nodes(&[FIRST])))),
    ];
    for (what, asked, expected) in cases {
        assert_next(what, &goal(), &blank(), &asked, &memory, &expected);
    }
}

#[test]
fn node_that_gave_its_claim_up_waits_for_the_other_cluster() {
    let occupied_for = |seconds| Memory {
        occupied_by: Some((node(FIRST), ago(Duration::from_secs(seconds)))),
        ..inspected(&[(FIRST, Inspection::Provisioned)])
    };
    let occupied = || stop(StopReason::Occupied(node(FIRST)));
    #[rustfmt::skip]
    let cases = [
        ("not asked", NotYet, 0, Then(GetRecord)),
        ("not asked, for long", NotYet, 40, Then(GetRecord)),
        ("its own claim", Has(taken_over(ME, 0, &[FIRST])), 39, Waits("`10.0.0.2` has initialized")),
        ("its own claim, for long", Has(taken_over(ME, 0, &[FIRST])), 40, occupied()),
        ("its new claim", Has(taken_over(ME, 60, &[FIRST])), 0, Waits("`10.0.0.2` has initialized")),
        ("another's", Has(taken_over(THIRD, 30, &[ME, FIRST])), 39, Waits("does not begin a second")),
        ("another's, for long", Has(taken_over(THIRD, 30, &[ME, FIRST])), 40, occupied()),
        ("reported", joinable(), 40, Then(Join(nodes(&[FIRST])))),
    ];
    for (what, asked, known_for, expected) in cases {
        assert_next(what, &goal(), &blank(), &asked, &occupied_for(known_for), &expected);
    }
}

#[test]
fn node_joins_only_if_members_can_be_verified() {
    let untrusting = Goal { trusts_members: false, ..goal() };
    #[rustfmt::skip]
    let cases = [
        (joinable(), stop(StopReason::NoTrust)),
        // The first node needs no other.
        (NotYet, Then(Claim)),
        (Has(claimed_by(ME, None)), Then(Initialize)),
    ];
    for (asked, expected) in cases {
        assert_next(&format!("{asked:?}"), &untrusting, &blank(), &asked, &memory(), &expected);
    }
}

#[test]
fn record_is_read_again_only_where_it_can_have_changed() {
    let member = || OwnServer::Member(cluster_of([active(ME)]));
    let unreported = Memory { is_reported: false, ..memory() };
    #[rustfmt::skip]
    let cases = [
        ("its claim, blank", blank(), memory(), Has(claimed_by(ME, 42)), false),
        ("its claim, initialized", member(), memory(), Has(claimed_by(ME, 42)), true),
        ("another's claim", member(), memory(), Has(claimed_by(FIRST, 42)), false),
        ("ready, blank", blank(), unreported, joinable(), true),
        ("ready, and it has left", blank(), memory(), joinable(), false),
        ("ready, member", member(), memory(), joinable(), true),
        ("not asked", member(), memory(), NotYet, false),
        ("no record", member(), memory(), NoRecord, false),
    ];
    for (what, own, memory, asked, expected) in cases {
        assert_eq!(asked.is_current(&own, &memory), expected, "{what}");
    }
}

#[test]
fn lease_is_not_renewed_and_inspections_hold_within_a_generation() {
    let record = |generation, left: u64| ClusterRecord { generation, ..claimed_by(FIRST, left) };
    let (mut answers, mut memory) = (Answers::default(), Memory::default());
    for (generation, left, is_other, known) in
        [(1, 60, true, 60), (1, 70, false, 60), (1, 50, false, 50), (2, 90, true, 90)]
    {
        assert_eq!(answers.learn(record(generation, left), &mut memory), is_other);
        assert!(matches!(&answers.asked, Has(stored) if *stored == record(generation, known)));
        assert_eq!(memory.inspections.is_empty(), is_other);
        memory.inspections.insert(node(THIRD), Inspection::Blank);
    }
}

/// The same, and the unreachable ones have been absent for this long.
fn absent_for(seconds: u64, inspections: &[(&str, Inspection)]) -> Memory {
    let absent = inspections.iter().filter(|(_, state)| *state == Inspection::Unreachable);
    let absences = absent.map(|(name, _)| (node(name), absent_since(seconds))).collect();
    with(Kept { absences, ..Kept::default() }, inspected(inspections))
}

#[test]
fn server_is_dead_only_after_two_inspections_with_a_gap() {
    use Inspection::{Blank, Dead, Provisioned, Unreachable};
    type Inspections = &'static [(u64, Option<Inspection>)];
    let gap = Duration::from_secs(20);
    let at = |seconds| now() + Duration::from_secs(seconds);
    // Each inspection with the second in which it begins; it takes ten seconds.
    #[rustfmt::skip]
    let cases: [(&str, Inspections, Option<Inspection>); 10] = [
        ("never found once", &[(0, Some(Unreachable))], Some(Unreachable)),
        ("twice, too soon", &[(0, Some(Unreachable)), (29, Some(Unreachable))], Some(Unreachable)),
        ("twice", &[(0, Some(Unreachable)), (30, Some(Unreachable))], Some(Dead)),
        ("twice, and the server may have run in between", &[(0, Some(Unreachable)), (311, Some(Unreachable))], Some(Unreachable)),
        ("twice after a long time", &[(0, Some(Unreachable)), (310, Some(Unreachable))], Some(Dead)),
        ("three times", &[(0, Some(Unreachable)), (15, Some(Unreachable)), (30, Some(Unreachable))], Some(Dead)),
        ("blank in between", &[(0, Some(Unreachable)), (15, Some(Blank)), (40, Some(Unreachable))], Some(Unreachable)),
        ("unclear in between", &[(0, Some(Unreachable)), (15, None), (40, Some(Unreachable))], Some(Unreachable)),
        ("unclear after it was dead", &[(0, Some(Unreachable)), (30, Some(Unreachable)), (60, None)], None),
        ("a cluster after it was dead", &[(0, Some(Unreachable)), (30, Some(Unreachable)), (60, Some(Provisioned))], Some(Provisioned)),
    ];
    for (what, inspections, expected) in cases {
        let mut memory = memory();
        for (began, inspection) in inspections {
            memory.note_inspection(&node(FIRST), *inspection, gap, (at(*began), at(*began + 10)));
        }
        assert_eq!(memory.inspections.get(&node(FIRST)).copied(), expected, "{what}");
    }
    // The first of two inspections may be one of an earlier claim.
    let mut memory = memory();
    memory.note_inspection(&node(FIRST), Some(Unreachable), gap, (at(0), at(1)));
    memory.inspections.clear();
    memory.note_inspection(&node(FIRST), Some(Unreachable), gap, (at(30), at(31)));
    assert_eq!(memory.inspections[&node(FIRST)], Dead);
}

#[test]
fn short_lease_shortens_the_gap_between_inspections() {
    for (lease, gap) in [(30, 4), (40, 14), (46, 20), (300, 20)] {
        let goal = Goal { lease: Duration::from_secs(lease), ..goal() };
        assert_eq!(goal.inspection_gap(), Duration::from_secs(gap), "{lease}");
    }
}

#[test]
fn agent_that_starts_over_still_knows_what_may_take_effect() {
    let absent = absent_for(3, &[(FIRST, Inspection::Unreachable)]);
    let before = Memory {
        kept: Kept {
            has_initialized: true,
            may_be_under_way: true,
            failover_cause: FailoverCause::Outage,
            ..absent.kept
        },
        is_claimed_by_other: true,
        ..absent
    };
    let mut after = before.keep();
    assert!(
        after.kept.has_initialized
            && after.kept.may_be_under_way
            && after.kept.failover_cause == FailoverCause::Outage
    );
    assert_eq!(after.kept.absences, before.kept.absences);
    assert!(after.inspections.is_empty() && !after.is_claimed_by_other && !after.is_reported);
    // The server does not accept a second initialization.
    after.observe(&blank());
    assert!(after.kept.has_initialized && after.kept.may_be_under_way);
    after.observe(&OwnServer::Member(cluster_of([active(ME)])));
    assert!(!after.kept.has_initialized && !after.kept.may_be_under_way);
}
