//! Every branch, in tables of what is seen and what is decided; and what must never be decided, whatever is seen.

#![expect(clippy::large_stack_arrays, reason = "tables are long")]

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::record::Member;

const ME: &str = "10.0.0.1";
const FIRST: &str = "10.0.0.2";
const THIRD: &str = "10.0.0.3";
const UUID: &str = "a1";
const OTHER_UUID: &str = "b2";
/// The UUID of this node's server.
const OWN: &str = "e5";

/// The expected decision.
#[derive(Debug)]
enum Expected {
    Action(Action),
    /// A wait for a reason that contains this text.
    Wait(&'static str),
}
use Action::{
    Claim, Confirm, Done, Eject, GetRecord, GiveUpClaim, Initialise, Inspect, Join, Refuse, Settle,
};
use Asked::{NoRecord, NotYet, Record as Has};
use Expected::{Action as Then, Wait as Waits};

#[track_caller]
fn assert_next(
    what: &str,
    goal: &Goal,
    own: &OwnServer,
    asked: &Asked,
    memory: &Memory,
    expected: &Expected,
) {
    let decided = next_action(goal, own, asked, memory);
    let is_expected = match (&decided, expected) {
        (Action::Wait(why), Waits(part)) => why.contains(part),
        (decided, Then(expected)) => decided == expected,
        (_, Waits(_)) => false,
    };
    assert!(is_expected, "{what}: {decided:?}, not {expected:?}");
}

fn node(name: &str) -> Node {
    Node::new(name).unwrap()
}

fn uuid(text: &str) -> Uuid {
    Uuid::new(text).unwrap()
}

/// A node that can begin a cluster, tells members from impostors and wants nothing beside its membership.
fn goal() -> Goal {
    Goal {
        node: node(ME),
        can_begin: true,
        trusts_members: true,
        buckets: Vec::new(),
        group: None,
        has_alternate_address: false,
        attests: false,
        adopt: false,
        settle: Duration::from_secs(5),
        lease: Duration::from_secs(40),
    }
}

/// Of a run that has seen the list of nodes for a while and has reported.
fn memory() -> Memory {
    Memory { same_for: Duration::from_mins(1), is_reported: true, ..Memory::default() }
}

fn unreported() -> Memory {
    Memory { is_reported: false, ..memory() }
}

fn otp(name: &str) -> String {
    format!("ns_1@{name}")
}

fn member_of(name: &str, membership: Membership) -> NodeInfo {
    NodeInfo {
        name: name.to_owned(),
        otp: otp(name),
        uuid: Some(uuid(if name == ME { OWN } else { "0ff" })),
        membership,
        is_recovering: false,
        health: Health::Healthy,
        uptime: Duration::from_hours(1),
        is_asked: name == ME,
        group: Some("Group 1".to_owned()),
    }
}

fn active(name: &str) -> NodeInfo {
    member_of(name, Membership::Active)
}

fn added(name: &str) -> NodeInfo {
    member_of(name, Membership::Added)
}

fn failed(name: &str) -> NodeInfo {
    member_of(name, Membership::FailedOver)
}

fn recovering(name: &str) -> NodeInfo {
    NodeInfo { is_recovering: true, ..added(name) }
}

fn dead(node: NodeInfo) -> NodeInfo {
    NodeInfo { health: Health::Unhealthy, ..node }
}

fn warming_up(node: NodeInfo) -> NodeInfo {
    NodeInfo { health: Health::Warmup, ..node }
}

fn up_for(seconds: u64, node: NodeInfo) -> NodeInfo {
    NodeInfo { uptime: Duration::from_secs(seconds), ..node }
}

/// A balanced cluster of these nodes.
fn cluster_of(nodes: impl IntoIterator<Item = NodeInfo>) -> View {
    View {
        uuid: uuid(UUID),
        nodes: nodes.into_iter().collect(),
        is_balanced: true,
        is_rebalancing: false,
        buckets: Vec::new(),
    }
}

fn unbalanced(nodes: impl IntoIterator<Item = NodeInfo>) -> View {
    View { is_balanced: false, ..cluster_of(nodes) }
}

fn rebalancing(nodes: impl IntoIterator<Item = NodeInfo>) -> View {
    View { is_rebalancing: true, ..cluster_of(nodes) }
}

/// The record of a cluster that this node has claimed, or the other.
fn claimed_by(first: &str, lease_left: impl Into<Option<u64>>) -> Record {
    Record {
        initial_node: node(first),
        is_initial: first == ME,
        state: State::Claimed,
        generation: 1,
        lease_left: lease_left.into().map(Duration::from_secs),
        previous: Vec::new(),
        rival: None,
        cluster_uuid: None,
        members: Vec::new(),
    }
}

/// The same, taken over from these nodes.
fn taken_over(first: &str, lease_left: impl Into<Option<u64>>, previous: &[&str]) -> Record {
    let previous = nodes(previous);
    Record { generation: 1 + previous.len() as u64, previous, ..claimed_by(first, lease_left) }
}

/// The record of a cluster that is ready, with these members.
fn ready(first: &str, members: &[&str]) -> Record {
    let members = members.iter().map(|name| Member {
        node: node(name),
        node_uuid: Some(uuid(if *name == ME { "c4" } else { "0ff" })),
        authority: None,
        attestation: None,
    });
    Record {
        state: State::Ready,
        cluster_uuid: Some(uuid(UUID)),
        members: members.collect(),
        ..claimed_by(first, None)
    }
}

/// The record, with this UUID of the cluster.
fn of_cluster(cluster_uuid: Option<&str>, record: Record) -> Record {
    Record { cluster_uuid: cluster_uuid.map(uuid), ..record }
}

/// The record of a cluster that this node may join, or has joined.
fn joinable() -> Asked {
    Has(ready(FIRST, &[FIRST]))
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn nodes(names: &[&str]) -> Vec<Node> {
    names.iter().map(|name| node(name)).collect()
}

fn rebalance(known: &[&str], removed: &[&str]) -> Expected {
    let known = known.iter().map(|name| otp(name)).collect();
    Then(Action::Rebalance { known, removed: names(removed) })
}

fn refusal(refusal: Refusal) -> Expected {
    Then(Refuse(refusal))
}

fn other_cluster(recorded: &str) -> Expected {
    refusal(Refusal::OtherCluster { own: uuid(UUID), recorded: recorded.to_owned() })
}

fn report() -> Expected {
    Then(Action::Report(uuid(UUID)))
}

fn blank() -> OwnServer {
    OwnServer::Blank(Some(uuid(OWN)))
}

fn inspected(inspections: &[(&str, Inspection)]) -> Memory {
    let inspections = inspections.iter().map(|(name, state)| (node(name), *state));
    Memory { inspections: inspections.collect(), ..Memory::default() }
}

#[test]
fn server_that_is_away_or_has_other_credentials_is_waited_for_and_never_touched() {
    let other_credentials_for = |time| Memory { other_credentials_for: time, ..memory() };
    let almost = OTHER_CREDENTIALS_LIMIT.checked_sub(Duration::from_millis(1));
    let away = OwnServer::Unreachable("the connection is refused".to_owned());
    #[rustfmt::skip]
    let cases = [
        (away, memory(), Waits("the connection is refused")),
        (OwnServer::OtherCredentials, other_credentials_for(Duration::ZERO), Waits("the server has other credentials")),
        (OwnServer::OtherCredentials, other_credentials_for(almost.unwrap()), Waits("may be on its way into the cluster")),
        (OwnServer::OtherCredentials, other_credentials_for(OTHER_CREDENTIALS_LIMIT), refusal(Refusal::OtherCredentials)),
    ];
    for (own, memory, expected) in cases {
        // Whatever the API says.
        for asked in [NotYet, NoRecord, Has(claimed_by(ME, None)), joinable()] {
            assert_next(&format!("{own:?}, {asked:?}"), &goal(), &own, &asked, &memory, &expected);
        }
    }
}

#[test]
fn blank_server_becomes_the_first_or_joins() {
    let join = |members: &[&str]| Then(Join(nodes(members)));
    let lost = |recorded: Option<&str>| {
        refusal(Refusal::Lost { recorded: recorded.map(uuid), own: Some(uuid(OWN)) })
    };
    #[rustfmt::skip]
    let cases = [
        ("not asked", NotYet, Then(Claim)),
        ("no record", NoRecord, Then(Claim)),
        ("claimed for good", Has(claimed_by(ME, None)), Then(Initialise)),
        ("exactly the margin left", Has(claimed_by(ME, 16)), Then(Initialise)),
        ("less than the margin left", Has(claimed_by(ME, 15)), Waits("is about to expire")),
        ("an expired claim", Has(claimed_by(ME, 0)), Waits("this node's claim is about to expire")),
        (
            "another's claim",
            Has(claimed_by(FIRST, 42)),
            Waits("`10.0.0.2` is to initialise the cluster; its claim expires in 42 s"),
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
    let unknown = refusal(Refusal::Lost { recorded: Some(uuid("c4")), own: None });
    let asked = Has(ready(ME, &[ME]));
    assert_next("no UUID", &goal(), &OwnServer::Blank(None), &asked, &memory(), &unknown);
}

#[test]
fn node_without_the_data_service_only_asks_and_waits_while_blank() {
    let goal = Goal { can_begin: false, ..goal() };
    #[rustfmt::skip]
    let cases = [
        ("not asked", NotYet, Then(GetRecord)),
        ("no record", NoRecord, Waits("no node with the data service has claimed the cluster yet")),
        ("its claim from before", Has(claimed_by(ME, 60)), Waits("this node's claim has to expire")),
        ("its claim for good", Has(claimed_by(ME, None)), Waits("this node's claim has to expire")),
        ("another's claim", Has(claimed_by(FIRST, 7)), Waits("expires in 7 s")),
        ("another's expired claim", Has(claimed_by(FIRST, 0)), Waits("expires in 0 s")),
        ("ready", joinable(), Then(Join(nodes(&[FIRST])))),
    ];
    for (what, asked, expected) in cases {
        assert_next(what, &goal, &blank(), &asked, &memory(), &expected);
    }
}

#[test]
fn nodes_that_lost_the_claim_are_looked_at_before_the_server_is_initialised() {
    use Inspection::{Blank, Provisioned, Unreachable};
    let has_initialised = Memory { has_initialised: true, ..Memory::default() };
    #[rustfmt::skip]
    let cases = [
        ("nobody was looked at", taken_over(ME, 30, &[FIRST, THIRD]), inspected(&[]), Then(Inspect(nodes(&[FIRST, THIRD])))),
        (
            "one was, though it has a cluster",
            taken_over(ME, 30, &[FIRST, THIRD]),
            inspected(&[(THIRD, Provisioned)]),
            Then(Inspect(nodes(&[FIRST]))),
        ),
        (
            "none has a cluster",
            taken_over(ME, 30, &[FIRST, THIRD]),
            inspected(&[(FIRST, Blank), (THIRD, Unreachable)]),
            Then(Initialise),
        ),
        (
            "the earlier one has a cluster",
            taken_over(ME, 30, &[FIRST, THIRD]),
            inspected(&[(FIRST, Blank), (THIRD, Provisioned)]),
            Then(GiveUpClaim(node(THIRD))),
        ),
        (
            "a node that did not lose this claim has a cluster",
            taken_over(ME, 30, &[FIRST]),
            inspected(&[(FIRST, Blank), (THIRD, Provisioned)]),
            Then(Initialise),
        ),
        ("too little time is left to look", taken_over(ME, 15, &[FIRST]), inspected(&[]), Waits("is about to expire")),
        (
            "the server took its initialisation before",
            taken_over(ME, 30, &[FIRST]),
            has_initialised,
            Waits("has accepted its initialisation and still belongs to no cluster"),
        ),
    ];
    for (what, record, memory, expected) in cases {
        assert_next(what, &goal(), &blank(), &Has(record), &memory, &expected);
    }
}

#[test]
fn server_that_was_initialised_without_effect_leaves_the_claim_to_others() {
    let memory = Memory { has_initialised: true, ..Memory::default() };
    let waits = || Waits("has accepted its initialisation and still belongs to no cluster");
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
fn node_that_gave_up_waits_for_the_cluster_it_has_seen_and_claims_no_more() {
    let occupied_for = |seconds| Memory {
        occupied_by: Some((node(FIRST), Duration::from_secs(seconds))),
        ..inspected(&[(FIRST, Inspection::Provisioned)])
    };
    let occupied = || refusal(Refusal::Occupied(node(FIRST)));
    #[rustfmt::skip]
    let cases = [
        ("not asked", NotYet, 0, Then(GetRecord)),
        ("not asked, for long", NotYet, 40, Then(GetRecord)),
        ("its own claim", Has(taken_over(ME, 0, &[FIRST])), 39, Waits("`10.0.0.2` has initialised")),
        ("its own claim, for long", Has(taken_over(ME, 0, &[FIRST])), 40, occupied()),
        ("its new claim", Has(taken_over(ME, 60, &[FIRST])), 0, Waits("`10.0.0.2` has initialised")),
        ("another's", Has(taken_over(THIRD, 30, &[ME, FIRST])), 39, Waits("does not begin a second")),
        ("another's, for long", Has(taken_over(THIRD, 30, &[ME, FIRST])), 40, occupied()),
        ("reported", joinable(), 40, Then(Join(nodes(&[FIRST])))),
    ];
    for (what, asked, known_for, expected) in cases {
        assert_next(what, &goal(), &blank(), &asked, &occupied_for(known_for), &expected);
    }
}

#[test]
fn nothing_is_joined_without_a_way_to_tell_members_from_impostors() {
    let untrusting = Goal { trusts_members: false, ..goal() };
    #[rustfmt::skip]
    let cases = [
        (joinable(), refusal(Refusal::NoTrust)),
        // The first node needs nobody.
        (NotYet, Then(Claim)),
        (Has(claimed_by(ME, None)), Then(Initialise)),
    ];
    for (asked, expected) in cases {
        assert_next(&format!("{asked:?}"), &untrusting, &blank(), &asked, &memory(), &expected);
    }
}

#[test]
fn member_of_another_cluster_is_left_alone() {
    let adopting = || Goal { adopt: true, ..goal() };
    let dataless = || Goal { can_begin: false, ..goal() };
    let alone = || cluster_of([active(ME)]);
    let both = || cluster_of([active(ME), active(FIRST)]);
    let unknown = || refusal(Refusal::Unregistered(uuid(UUID)));
    let of_first = || other_cluster("that of `10.0.0.2`");
    #[rustfmt::skip]
    let cases = [
        ("not asked", goal(), alone(), NotYet, Then(GetRecord)),
        ("no record", goal(), alone(), NoRecord, unknown()),
        ("adopts, not asked", adopting(), alone(), NotYet, Then(GetRecord)),
        ("adopts", adopting(), alone(), NoRecord, Then(Claim)),
        ("its own UUID", goal(), both(), joinable(), report()),
        (
            "another UUID",
            goal(),
            both(),
            Has(of_cluster(Some(OTHER_UUID), ready(FIRST, &[FIRST]))),
            other_cluster("the one with the UUID b2"),
        ),
        (
            "another UUID, though it was the first",
            goal(),
            alone(),
            Has(of_cluster(Some(OTHER_UUID), ready(ME, &[ME]))),
            other_cluster("the one with the UUID b2"),
        ),
        (
            "another UUID, and to be adopted",
            adopting(),
            alone(),
            Has(of_cluster(Some(OTHER_UUID), ready(FIRST, &[FIRST]))),
            other_cluster("the one with the UUID b2"),
        ),
        (
            "another UUID, after this node's claim",
            goal(),
            alone(),
            Has(of_cluster(Some(OTHER_UUID), taken_over(FIRST, 0, &[ME]))),
            other_cluster("the one with the UUID b2"),
        ),
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
            Waits("it gives the claim back when it sees that cluster"),
        ),
        ("its own claim, taken over, expired again", goal(), alone(), Has(taken_over(FIRST, 0, &[THIRD, ME])), Then(Claim)),
        (
            "a claim of a node in it",
            goal(),
            both(),
            Has(claimed_by(FIRST, 20)),
            Waits("`10.0.0.2` is to report the cluster ready"),
        ),
        (
            "a claim of a node in it, for good",
            goal(),
            both(),
            Has(claimed_by(FIRST, None)),
            Waits("`10.0.0.2` is to report the cluster ready"),
        ),
        ("a claim of a node in it, expired", goal(), both(), Has(claimed_by(FIRST, 0)), Then(Claim)),
        // It has begun already.
        ("the same, of a node without data", dataless(), both(), Has(claimed_by(FIRST, 0)), Then(Claim)),
    ];
    for (what, goal, view, asked, expected) in cases {
        assert_next(what, &goal, &OwnServer::Member(view), &asked, &unreported(), &expected);
    }
}

/// Others wait for nothing else, and the generation tells whether the report comes too late.
#[test]
fn first_node_reports_before_everything_else() {
    let wants_all = Goal {
        buckets: names(&["app"]),
        group: Some("us-east-1a".to_owned()),
        has_alternate_address: true,
        attests: true,
        ..goal()
    };
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
fn member_that_has_just_started_is_believed_once_a_peer_confirms_it() {
    let confirm = |members: &[&str]| Then(Confirm(names(members)));
    let confirmed = Memory { is_confirmed: true, ..memory() };
    #[rustfmt::skip]
    let cases = [
        ("just started", cluster_of([up_for(59, active(ME)), active(FIRST)]), memory(), confirm(&[FIRST])),
        ("up for long enough", cluster_of([up_for(60, active(ME)), active(FIRST)]), memory(), Then(Done)),
        ("confirmed", cluster_of([up_for(0, active(ME)), active(FIRST)]), confirmed, Then(Done)),
        ("alone", cluster_of([up_for(0, active(ME))]), memory(), Then(Done)),
        ("no other active member", cluster_of([up_for(0, active(ME)), failed(FIRST), added(THIRD)]), memory(), confirm(&[])),
        ("a rebalance runs", rebalancing([up_for(0, added(ME)), active(FIRST)]), memory(), confirm(&[FIRST])),
        ("warms up", cluster_of([up_for(0, warming_up(active(ME))), active(FIRST)]), memory(), confirm(&[FIRST])),
        ("failed over", cluster_of([up_for(0, failed(ME)), active(FIRST)]), memory(), refusal(Refusal::FailedOver)),
    ];
    for (what, view, memory, expected) in cases {
        assert_next(what, &goal(), &OwnServer::Member(view), &joinable(), &memory, &expected);
    }
}

#[test]
fn member_waits_for_the_balance_or_sees_to_it() {
    let settled = Duration::from_secs(5);
    let same_for = |time| Memory { same_for: time, ..memory() };
    let just_before = |time: Duration| same_for(time.saturating_sub(Duration::from_millis(1)));
    let resting = || Memory { rest: Duration::from_millis(4500), ..memory() };
    #[rustfmt::skip]
    let cases = [
        ("it does not list itself", cluster_of([active(FIRST)]), memory(), Waits("does not list itself")),
        ("failed over", cluster_of([failed(ME), active(FIRST)]), memory(), refusal(Refusal::FailedOver)),
        (
            "failed over, while a rebalance runs",
            View { is_rebalancing: true, ..unbalanced([failed(ME), active(FIRST)]) },
            memory(),
            refusal(Refusal::FailedOver),
        ),
        ("a rebalance runs", rebalancing([added(ME), active(FIRST)]), memory(), Waits("a rebalance runs")),
        ("it warms up", cluster_of([warming_up(active(ME))]), memory(), Waits("`warmup`")),
        ("it is not healthy", cluster_of([dead(active(ME))]), memory(), Waits("it is not healthy")),
        ("another warms up", cluster_of([active(ME), warming_up(active(FIRST))]), memory(), Then(Done)),
        ("balanced", cluster_of([active(ME), active(FIRST)]), same_for(Duration::ZERO), Then(Done)),
        ("balanced, and an active one is dead", cluster_of([active(ME), dead(active(FIRST))]), memory(), Then(Done)),
        (
            "added, and others may come",
            unbalanced([added(ME), active(FIRST)]),
            just_before(settled),
            Waits("1 node waits for a rebalance"),
        ),
        ("added", unbalanced([added(ME), active(FIRST)]), same_for(settled), rebalance(&[ME, FIRST], &[])),
        (
            "another was added, and sees to it itself",
            unbalanced([active(ME), added(FIRST)]),
            just_before(4 * settled),
            Waits("1 node waits for a rebalance"),
        ),
        (
            "another was added, and does not",
            unbalanced([active(ME), added(FIRST)]),
            same_for(4 * settled),
            rebalance(&[ME, FIRST], &[]),
        ),
        (
            "another was added, and the cluster calls itself balanced",
            cluster_of([active(ME), added(FIRST)]),
            same_for(4 * settled),
            rebalance(&[ME, FIRST], &[]),
        ),
        (
            "nobody was added, and others may come",
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
        (
            "nobody was added, and it is not balanced",
            unbalanced([active(ME), active(FIRST)]),
            same_for(4 * settled),
            rebalance(&[ME, FIRST], &[]),
        ),
        (
            "the last one failed",
            unbalanced([added(ME), active(FIRST)]),
            resting(),
            Waits("the last rebalance failed; the next begins in 5 s"),
        ),
        (
            "it is to be recovered itself",
            unbalanced([recovering(ME), active(FIRST)]),
            same_for(settled),
            rebalance(&[ME, FIRST], &[]),
        ),
    ];
    for (what, view, memory, expected) in cases {
        assert_next(what, &goal(), &OwnServer::Member(view), &joinable(), &memory, &expected);
    }
}

#[test]
fn dead_nodes_are_ejected_named_or_removed_and_living_ones_stay() {
    let unreachable_for = |name: &str, seconds| Memory {
        unreachable_for: BTreeMap::from([(otp(name), Duration::from_secs(seconds))]),
        ..memory()
    };
    let with = |third: NodeInfo| unbalanced([added(ME), active(FIRST), third]);
    #[rustfmt::skip]
    let cases = [
        (
            "added, and not there yet",
            with(dead(added(THIRD))),
            unreachable_for(THIRD, 59),
            Waits("`10.0.0.3` was added and cannot be reached yet"),
        ),
        (
            "added, and just seen to be away",
            with(dead(added(THIRD))),
            memory(),
            Waits("`10.0.0.3` was added and cannot be reached yet"),
        ),
        ("added, and dead", with(dead(added(THIRD))), unreachable_for(THIRD, 60), Then(Eject(otp(THIRD)))),
        (
            "added, and dead, seen by one that is in",
            unbalanced([active(ME), dead(added(THIRD))]),
            unreachable_for(THIRD, 60),
            Then(Eject(otp(THIRD))),
        ),
        (
            "to be recovered, and dead",
            with(dead(recovering(THIRD))),
            unreachable_for(THIRD, 3600),
            Waits("`10.0.0.3` is marked for recovery and cannot be reached"),
        ),
        ("to be recovered, and well", with(recovering(THIRD)), memory(), rebalance(&[ME, FIRST, THIRD], &[])),
        (
            "active, and just seen to be away",
            with(dead(active(THIRD))),
            memory(),
            Waits("`10.0.0.3` cannot be reached: no rebalance can succeed"),
        ),
        (
            "active, and dead",
            with(dead(active(THIRD))),
            unreachable_for(THIRD, 3600),
            Waits("`10.0.0.3` cannot be reached: no rebalance can succeed"),
        ),
        ("failed over, and back", with(failed(THIRD)), memory(), Waits("`10.0.0.3` has been failed over and is back")),
        (
            "failed over, and back in warm-up",
            with(warming_up(failed(THIRD))),
            unreachable_for(THIRD, 3600),
            Waits("`10.0.0.3` has been failed over and is back"),
        ),
        (
            "failed over, and away for a moment",
            with(dead(failed(THIRD))),
            unreachable_for(THIRD, 59),
            Waits("`10.0.0.3` has been failed over; it may come back"),
        ),
        (
            "failed over, and dead",
            with(dead(failed(THIRD))),
            unreachable_for(THIRD, 60),
            rebalance(&[ME, FIRST, THIRD], &[THIRD]),
        ),
        (
            "failed over, and dead, with nobody to be added",
            unbalanced([active(ME), active(FIRST), dead(failed(THIRD))]),
            unreachable_for(THIRD, 60),
            Then(Done),
        ),
        (
            "failed over, and back, with nobody to be added",
            unbalanced([active(ME), active(FIRST), failed(THIRD)]),
            memory(),
            Then(Done),
        ),
        (
            "failed over, and dead, beside an active one that is dead",
            unbalanced([added(ME), dead(failed(THIRD)), dead(active(FIRST))]),
            unreachable_for(THIRD, 60),
            Waits("`10.0.0.2` cannot be reached"),
        ),
        ("warming up", with(warming_up(active(THIRD))), memory(), rebalance(&[ME, FIRST, THIRD], &[])),
    ];
    for (what, view, memory, expected) in cases {
        assert_next(what, &goal(), &OwnServer::Member(view), &joinable(), &memory, &expected);
    }
}

#[test]
fn member_reports_then_attests_then_settles_the_extras() {
    let group = || Goal { group: Some("us-east-1a".to_owned()), ..goal() };
    let two_buckets = || Goal { buckets: names(&["app", "cache"]), ..goal() };
    let address = || Goal { has_alternate_address: true, ..goal() };
    let attests = || Goal { attests: true, ..goal() };
    let wants_all = || Goal {
        group: group().group,
        buckets: two_buckets().buckets,
        has_alternate_address: true,
        attests: true,
        ..goal()
    };
    let holding = |buckets: &[&str]| View { buckets: names(buckets), ..cluster_of([active(ME)]) };
    let alone = || cluster_of([active(ME)]);
    let in_group = || cluster_of([NodeInfo { group: Some("us-east-1a".to_owned()), ..active(ME) }]);
    let without_groups = || cluster_of([NodeInfo { group: None, ..active(ME) }]);
    let (first, joiner) = (|| ready(ME, &[ME]), || ready(FIRST, &[FIRST]));
    let bucket = |name: &str| Extra::Bucket(name.to_owned());
    let settle = |extra| Then(Settle(extra));
    let settled = |extras: &[Extra]| Memory {
        settled: extras.iter().cloned().collect(),
        is_attested: true,
        ..memory()
    };
    #[rustfmt::skip]
    let cases = [
        ("nothing goal", goal(), alone(), joiner(), memory(), Then(Done)),
        ("no report", wants_all(), alone(), first(), unreported(), report()),
        ("no report of a joiner", wants_all(), alone(), joiner(), unreported(), report()),
        ("no report, and services that never come up", wants_all(), unbalanced([active(ME)]), first(), unreported(), report()),
        (
            "no report, and not in yet",
            goal(),
            unbalanced([added(ME), active(FIRST)]),
            joiner(),
            unreported(),
            rebalance(&[ME, FIRST], &[]),
        ),
        ("no attestation", wants_all(), alone(), first(), memory(), report()),
        ("attested", attests(), alone(), first(), settled(&[]), Then(Done)),
        (
            "no attestation, and not balanced",
            attests(),
            unbalanced([active(ME), active(FIRST)]),
            joiner(),
            memory(),
            rebalance(&[ME, FIRST], &[]),
        ),
        ("another group", group(), alone(), first(), memory(), settle(Extra::Group)),
        ("another group, as a joiner", group(), alone(), joiner(), memory(), settle(Extra::Group)),
        ("another group, refused", group(), alone(), joiner(), settled(&[Extra::Group]), Then(Done)),
        ("the right group", group(), in_group(), first(), memory(), Then(Done)),
        ("Community Edition", group(), without_groups(), first(), memory(), settle(Extra::Group)),
        ("Community Edition, refused", group(), without_groups(), first(), settled(&[Extra::Group]), Then(Done)),
        ("Community Edition, no group goal", goal(), without_groups(), first(), memory(), Then(Done)),
        ("no bucket", two_buckets(), holding(&[]), first(), memory(), settle(bucket("app"))),
        ("one of them", two_buckets(), holding(&["app", "mine"]), first(), memory(), settle(bucket("cache"))),
        ("one refused", two_buckets(), holding(&[]), first(), settled(&[bucket("app")]), settle(bucket("cache"))),
        ("one refused, the other there", two_buckets(), holding(&["cache"]), first(), settled(&[bucket("app")]), Then(Done)),
        ("all of them", two_buckets(), holding(&["cache", "app"]), first(), memory(), Then(Done)),
        ("no bucket, as a joiner", two_buckets(), holding(&[]), joiner(), memory(), Then(Done)),
        ("no address", address(), alone(), joiner(), memory(), settle(Extra::AlternateAddress)),
        ("address set", address(), alone(), joiner(), settled(&[Extra::AlternateAddress]), Then(Done)),
        ("group before buckets", wants_all(), alone(), first(), settled(&[]), settle(Extra::Group)),
        ("buckets before the address", wants_all(), alone(), first(), settled(&[Extra::Group]), settle(bucket("app"))),
        (
            "the address last",
            wants_all(),
            in_group(),
            first(),
            settled(&[bucket("app"), bucket("cache")]),
            settle(Extra::AlternateAddress),
        ),
        (
            "all",
            wants_all(),
            holding(&["app"]),
            first(),
            settled(&[Extra::Group, bucket("cache"), Extra::AlternateAddress]),
            Then(Done),
        ),
    ];
    for (what, goal, view, record, memory, expected) in cases {
        assert_next(what, &goal, &OwnServer::Member(view), &Has(record), &memory, &expected);
    }
}

/// As the first node sees it, and not this one.
fn seen_by_first(mut view: View) -> View {
    for node in &mut view.nodes {
        node.is_asked = node.name == FIRST;
    }
    view
}

#[test]
fn member_that_is_not_in_itself_adds_nobody() {
    for first in
        [added(FIRST), failed(FIRST), recovering(FIRST), dead(active(FIRST)), active(THIRD)]
    {
        let view = seen_by_first(cluster_of([first]));
        assert_eq!(
            admission(&node(ME), None, &view, Some(&uuid(UUID))),
            Admission::UnfitMember,
            "{view:?}"
        );
    }
}

#[test]
fn member_adds_a_node_that_is_new_to_it() {
    let (own, other, cluster) = (uuid(OWN), uuid("77"), uuid(UUID));
    let later = |part| (Some(part), false);
    let (add, taken) = ((None, false), (None, true));
    #[rustfmt::skip]
    let cases = [
        ("new", cluster_of([active(FIRST)]), Some(&own), add),
        ("new, and the member warms up", cluster_of([warming_up(active(FIRST))]), Some(&own), add),
        ("new, without a UUID", cluster_of([active(FIRST)]), None, add),
        ("while a rebalance runs", rebalancing([active(FIRST)]), Some(&own), later("a rebalance runs")),
        ("added", cluster_of([active(FIRST), added(ME)]), Some(&own), later("its server is still joining")),
        ("added, while a rebalance runs", rebalancing([active(FIRST), added(ME)]), None, later("its server is still joining")),
        (
            "a member",
            cluster_of([active(FIRST), active(ME)]),
            Some(&own),
            later("lists `10.0.0.1` as a member that it cannot reach"),
        ),
        ("failed over", cluster_of([active(FIRST), failed(ME)]), Some(&own), later("has failed `10.0.0.1` over")),
        ("another server of the name", cluster_of([active(FIRST), active(ME)]), Some(&other), taken),
        ("another server of the name, added", cluster_of([active(FIRST), added(ME)]), Some(&other), taken),
        (
            "another server of the name, dead",
            cluster_of([active(FIRST), dead(active(ME))]),
            Some(&other),
            later("lists `10.0.0.1` as a member that it cannot reach"),
        ),
        (
            "a server of the name that does not say its UUID",
            cluster_of([active(FIRST), NodeInfo { uuid: None, ..active(ME) }]),
            Some(&own),
            later("lists `10.0.0.1` as a member that it cannot reach"),
        ),
    ];
    for (what, view, own, expected) in cases {
        for recorded in [None, Some(&cluster)] {
            let through = admission(&node(ME), own, &seen_by_first(view.clone()), recorded);
            let is_so = match (&through, expected) {
                (Admission::Add, (None, false)) => true,
                (Admission::Later(why), (Some(part), _)) => why.contains(part),
                (Admission::NameTaken(uuid), (None, true)) => uuid.as_str() == OWN,
                _ => false,
            };
            assert!(is_so, "{what}: {through:?}, not {expected:?}");
        }
        // Of another cluster, whatever it says of the node.
        let skipped = admission(&node(ME), own, &seen_by_first(view), Some(&uuid(OTHER_UUID)));
        assert!(
            matches!(&skipped, Admission::OtherCluster(why) if why.contains(UUID)),
            "{what}: {skipped:?}"
        );
    }
}

fn any_node(name: &'static str) -> impl Strategy<Value = NodeInfo> {
    let membership = select(vec![Membership::Active, Membership::Added, Membership::FailedOver]);
    let health = select(vec![Health::Healthy, Health::Warmup, Health::Unhealthy]);
    (membership, health, any::<[bool; 2]>(), 0..120_u64).prop_map(
        move |(membership, health, [recovers, groups], up)| NodeInfo {
            health,
            is_recovering: recovers,
            group: groups.then(|| "Group 1".to_owned()),
            ..up_for(up, member_of(name, membership))
        },
    )
}

prop_compose! {
    fn any_view()(
        this in any_node(ME),
        others in (any_node(FIRST), any_node(THIRD)),
        count in 1..=3_usize,
        is_balanced: bool,
        is_rebalancing: bool,
        cluster in select(vec![UUID, OTHER_UUID]),
    ) -> View {
        let nodes = [this, others.0, others.1].into_iter().take(count);
        View { is_balanced, is_rebalancing, uuid: uuid(cluster), ..cluster_of(nodes) }
    }
}

prop_compose! {
    fn any_record()(
        first in select(vec![ME, FIRST, THIRD]),
        lease in option::of(0..60_u64),
        is_ready: bool,
        previous in vec(select(vec![ME, FIRST, THIRD]), 0..3),
        members in vec(select(vec![ME, FIRST, THIRD]), 0..4),
        cluster in option::of(select(vec![UUID, OTHER_UUID])),
    ) -> Record {
        if is_ready { of_cluster(cluster, ready(first, &members)) } else { taken_over(first, lease, &previous) }
    }
}

prop_compose! {
    fn any_memory()(
        times in [0..100_u64, 0..100, 0..100, 0..100, 0..100, 0..100],
        done in any::<[bool; 4]>(),
        inspections in vec(option::of(select(vec![Inspection::Blank, Inspection::Provisioned, Inspection::Unreachable])), 3),
        occupied: bool,
        settled in any::<[bool; 3]>(),
    ) -> Memory {
        let [stranger, same, second, third, rest, occupied_for] = times.map(Duration::from_secs);
        let inspections = [ME, FIRST, THIRD].into_iter().zip(inspections);
        let extras = [Extra::Group, Extra::Bucket("app".to_owned()), Extra::AlternateAddress].into_iter().zip(settled);
        Memory {
            other_credentials_for: stranger,
            same_for: same,
            unreachable_for: [(otp(FIRST), second), (otp(THIRD), third)].into(),
            rest,
            has_initialised: done[0],
            inspections: inspections.filter_map(|(name, look)| Some((node(name), look?))).collect(),
            occupied_by: occupied.then(|| (node(FIRST), occupied_for)),
            is_confirmed: done[1],
            settled: extras.filter(|(_, is_settled)| *is_settled).map(|(extra, _)| extra).collect(),
            is_reported: done[2],
            is_attested: done[3],
        }
    }
}

prop_compose! {
    fn any_wanted()(flags in any::<[bool; 6]>(), buckets in 0..3_usize) -> Goal {
        let [adopt, has_group, can_begin, trusts_members, address, attests] = flags;
        Goal {
            adopt,
            can_begin,
            trusts_members,
            has_alternate_address: address,
            attests,
            group: has_group.then(|| "us-east-1a".to_owned()),
            buckets: names(&["app", "cache"][..buckets.min(2)]),
            ..goal()
        }
    }
}

prop_compose! {
    fn any_asked()(record in option::of(any_record()), is_asked: bool) -> Asked {
        match record {
            Some(record) => Asked::Record(record),
            None if is_asked => Asked::NoRecord,
            None => Asked::NotYet,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// The one mistake that loses data: a server that belongs to a cluster is never initialised, and one that belongs
    /// to another cluster than the recorded one is never touched.
    #[test]
    fn provisioned_server_is_never_initialised_and_joins_nobody(
        goal in any_wanted(),
        view in any_view(),
        asked in any_asked(),
        memory in any_memory(),
    ) {
        let decided = next_action(&goal, &OwnServer::Member(view.clone()), &asked, &memory);
        let is_for_blank = matches!(decided, Action::Initialise | Action::Join(_) | Action::Inspect(_) | Action::GiveUpClaim(_));
        prop_assert!(!is_for_blank, "{decided:?}");
        let Asked::Record(record) = asked else { return Ok(()) };
        if record.cluster_uuid.is_some_and(|uuid| uuid != view.uuid) {
            let is_refused = matches!(decided, Action::Refuse(Refusal::OtherCluster { .. }));
            prop_assert!(is_refused, "{decided:?}");
        }
    }

    /// A blank server is initialised by the holder of the claim that has the time and has looked, and joins only a cluster that is
    /// ready; never through itself.
    #[test]
    fn blank_server_is_initialised_in_time_and_after_looking(
        goal in any_wanted(),
        asked in any_asked(),
        memory in any_memory(),
    ) {
        let decided = next_action(&goal, &blank(), &asked, &memory);
        let is_free = memory.occupied_by.is_none() && !memory.has_initialised;
        let may_claim = goal.can_begin && (is_free || matches!(asked, Asked::NoRecord));
        prop_assert!(may_claim || decided != Action::Claim, "{decided:?}");
        let Asked::Record(record) = asked else { return Ok(()) };
        match decided {
            Action::Initialise => {
                prop_assert!(record.is_initial && record.state == State::Claimed && goal.can_begin);
                prop_assert!(record.lease_left.is_none_or(|left| left >= LEASE_MARGIN));
                prop_assert!(!memory.has_initialised && memory.occupied_by.is_none());
                for node in &record.previous {
                    let look = memory.inspections.get(node);
                    prop_assert!(matches!(look, Some(Inspection::Blank | Inspection::Unreachable)), "{node}: {look:?}");
                }
            }
            Action::Join(members) => {
                prop_assert!(record.state == State::Ready && !members.is_empty() && goal.trusts_members);
                prop_assert!(!members.contains(&goal.node), "{members:?}");
            }
            Action::Inspect(nodes) => {
                prop_assert!(!nodes.is_empty() && nodes.iter().all(|node| record.previous.contains(node)));
            }
            Action::GiveUpClaim(node) => prop_assert_eq!(memory.inspections.get(&node), Some(&Inspection::Provisioned)),
            Action::Wait(_) | Action::Refuse(Refusal::Lost { .. } | Refusal::NoTrust | Refusal::Occupied(_)) => {}
            other => prop_assert!(false, "{other:?}"),
        }
    }

    /// A rebalance knows all nodes, begins only where all but dead failed-over ones can take part, and names those that it removes.
    #[test]
    fn rebalance_removes_no_node_that_lives(
        goal in any_wanted(),
        view in any_view(),
        record in any_record(),
        memory in any_memory(),
    ) {
        let decided = next_action(&goal, &OwnServer::Member(view.clone()), &Asked::Record(record), &memory);
        if let Action::Rebalance { known, removed } = decided {
            let all: Vec<_> = view.nodes.iter().map(|node| node.otp.clone()).collect();
            prop_assert_eq!(known, all);
            prop_assert!(!view.is_rebalancing);
            for node in &view.nodes {
                let is_removed = removed.contains(&node.name);
                prop_assert_eq!(is_removed, node.membership == Membership::FailedOver, "{:?}", node);
                let unreachable_for = memory.unreachable_for.get(&node.otp).copied().unwrap_or_default();
                let is_dead = node.health == Health::Unhealthy && unreachable_for >= DEAD_AFTER;
                prop_assert!(if is_removed { is_dead } else { node.health != Health::Unhealthy }, "{node:?}");
            }
        }
    }

    /// Only an added node that has been dead for a minute is ejected; never one that is active, failed over or to be recovered.
    #[test]
    fn only_dead_added_nodes_are_ejected(
        goal in any_wanted(),
        view in any_view(),
        record in any_record(),
        memory in any_memory(),
    ) {
        let decided = next_action(&goal, &OwnServer::Member(view.clone()), &Asked::Record(record), &memory);
        if let Action::Eject(otp) = decided {
            let node = view.nodes.iter().find(|node| node.otp == otp).unwrap();
            prop_assert!(node.membership == Membership::Added && !node.is_recovering, "{node:?}");
            prop_assert!(node.health == Health::Unhealthy && !node.is_asked, "{node:?}");
            prop_assert!(memory.unreachable_for[&otp] >= DEAD_AFTER && !view.is_rebalancing);
        }
    }

    /// While the record is claimed by this node, a member reports and does nothing else.
    #[test]
    fn nothing_comes_before_the_first_report(
        goal in any_wanted(),
        view in any_view(),
        lease in option::of(0..60_u64),
        memory in any_memory(),
    ) {
        let asked = Asked::Record(claimed_by(ME, lease));
        let decided = next_action(&goal, &OwnServer::Member(view.clone()), &asked, &memory);
        prop_assert_eq!(decided, Action::Report(view.uuid));
    }

    /// A run ends well only as a reported, active, healthy member of the recorded cluster.
    #[test]
    fn done_means_reported_and_in(
        goal in any_wanted(),
        view in any_view(),
        record in any_record(),
        memory in any_memory(),
    ) {
        let decided = next_action(&goal, &OwnServer::Member(view.clone()), &Asked::Record(record.clone()), &memory);
        if decided == Action::Done {
            let this = view.this().unwrap();
            prop_assert!(memory.is_reported && record.state == State::Ready && !view.is_rebalancing);
            prop_assert!(this.membership == Membership::Active && this.health == Health::Healthy);
            prop_assert!(record.cluster_uuid.is_none_or(|uuid| uuid == view.uuid));
        }
    }
}
