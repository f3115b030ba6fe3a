//! Every branch, in tables of what is seen and what is decided; and what must never be decided, whatever is seen.

#![allow(clippy::unwrap_used)]
#![expect(clippy::too_many_lines, reason = "tables are long")]

use cbbootstrap_function::wire::Cluster;
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::server::Node;

const ME: &str = "10.0.0.1";
const FIRST: &str = "10.0.0.2";
const THIRD: &str = "10.0.0.3";
const UUID: &str = "a1";
const OTHER_UUID: &str = "b2";

/// What is expected of a look.
#[derive(Debug)]
enum Is {
    /// This.
    Next(Next),
    /// A wait, for a reason that says this.
    Wait(&'static str),
}
use Is::{Next as Then, Wait as Waits};

#[track_caller]
fn assert_next(what: &str, decided: &Next, expected: &Is) {
    let is_so = match (decided, expected) {
        (Next::Wait(why), Waits(part)) => why.contains(part),
        (decided, Then(expected)) => decided == expected,
        (_, Waits(_)) => false,
    };
    assert!(is_so, "{what}: {decided:?}, not {expected:?}");
}

fn wanted() -> Wanted {
    Wanted {
        node: ME.to_owned(),
        buckets: Vec::new(),
        group: None,
        adopt: false,
        settle: Duration::from_secs(5),
    }
}

/// Of a run that has seen the list of nodes for a while, and has nothing left to set.
fn memory() -> Memory {
    Memory {
        same_for: Duration::from_mins(1),
        address_done: true,
        ..Memory::default()
    }
}

fn otp(name: &str) -> String {
    format!("ns_1@{name}")
}

fn member_of(name: &str, membership: Membership) -> Node {
    Node {
        name: name.to_owned(),
        otp: otp(name),
        membership,
        healthy: true,
        asked: name == ME,
        group: "Group 1".to_owned(),
    }
}

fn active(name: &str) -> Node {
    member_of(name, Membership::Active)
}

fn added(name: &str) -> Node {
    member_of(name, Membership::Added)
}

fn failed(name: &str) -> Node {
    member_of(name, Membership::Failed)
}

fn dead(node: Node) -> Node {
    Node {
        healthy: false,
        ..node
    }
}

/// A balanced cluster of these nodes.
fn cluster_of(nodes: impl IntoIterator<Item = Node>) -> View {
    View {
        uuid: UUID.to_owned(),
        nodes: nodes.into_iter().collect(),
        balanced: true,
        rebalancing: false,
        buckets: Vec::new(),
    }
}

fn unbalanced(nodes: impl IntoIterator<Item = Node>) -> View {
    View {
        balanced: false,
        ..cluster_of(nodes)
    }
}

/// The record of a cluster that this node has claimed, or the other.
fn claimed_by(first: &str, lease_left: Option<u64>) -> Record {
    Record {
        cluster: Cluster {
            cluster_id: "demo".to_owned(),
            initial_node_ip_addr_or_hostname: first.to_owned(),
            is_initial_node: first == ME,
            state: State::Claimed,
            generation: 1,
            lease_expires_at: None,
            nodes: Vec::new(),
            cluster_uuid: None,
        },
        lease_left: lease_left.map(Duration::from_secs),
    }
}

/// The record of a cluster that is ready, with these members.
fn ready(first: &str, nodes: &[&str], uuid: Option<&str>) -> Record {
    let mut record = claimed_by(first, None);
    record.cluster.state = State::Ready;
    record.cluster.nodes = nodes.iter().map(ToString::to_string).collect();
    record.cluster.cluster_uuid = uuid.map(str::to_owned);
    record
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn rebalance(known: &[&str], ejected: &[&str]) -> Is {
    let otps = |names: &[&str]| names.iter().map(|name| otp(name)).collect();
    Then(Next::Rebalance {
        known: otps(known),
        ejected: otps(ejected),
    })
}

fn other_cluster(recorded: &str) -> Is {
    Then(Next::Refuse(Refusal::OtherCluster {
        own: UUID.to_owned(),
        recorded: recorded.to_owned(),
    }))
}

#[test]
fn a_server_that_says_nothing_or_no() {
    let stranger_for = |time| Memory {
        stranger_for: time,
        ..memory()
    };
    let almost = STRANGER_AFTER.checked_sub(Duration::from_millis(1));
    let away = Own::Away("the connection is refused".to_owned());
    for (own, memory, expected) in [
        (away, memory(), Waits("the connection is refused")),
        (
            Own::Stranger,
            stranger_for(Duration::ZERO),
            Waits("another user name or password"),
        ),
        (
            Own::Stranger,
            stranger_for(almost.unwrap()),
            Waits("may be on its way into the cluster"),
        ),
        (
            Own::Stranger,
            stranger_for(STRANGER_AFTER),
            Then(Next::Refuse(Refusal::Stranger)),
        ),
    ] {
        // Whatever the API says.
        for asked in [
            Asked::NotYet,
            Asked::Nothing,
            Asked::Record(claimed_by(ME, None)),
            Asked::Record(ready(FIRST, &[FIRST], Some(UUID))),
        ] {
            let decided = next(&wanted(), &own, &asked, &memory);
            assert_next(&format!("{own:?}, {asked:?}"), &decided, &expected);
        }
    }
}

#[test]
fn a_blank_server_is_made_the_first_or_joins() {
    let join = |members: &[&str]| Then(Next::Join(names(members)));
    for (what, asked, expected) in [
        ("not asked", Asked::NotYet, Then(Next::Claim)),
        ("no record", Asked::Nothing, Then(Next::Claim)),
        (
            "claimed for good",
            Asked::Record(claimed_by(ME, None)),
            Then(Next::Initialise),
        ),
        (
            "enough of a lease",
            Asked::Record(claimed_by(ME, Some(10))),
            Then(Next::Initialise),
        ),
        (
            "too little of it",
            Asked::Record(claimed_by(ME, Some(9))),
            Waits("this node's claim is about to lapse"),
        ),
        (
            "nothing of it",
            Asked::Record(claimed_by(ME, Some(0))),
            Waits("this node's claim is about to lapse"),
        ),
        (
            "another's claim",
            Asked::Record(claimed_by(FIRST, Some(42))),
            Waits("`10.0.0.2` is to initialise the cluster; its claim lapses in 42 s"),
        ),
        (
            "another's for good",
            Asked::Record(claimed_by(FIRST, None)),
            Waits("its claim never lapses"),
        ),
        (
            "ready, of the first alone",
            Asked::Record(ready(FIRST, &[FIRST], Some(UUID))),
            join(&[FIRST]),
        ),
        (
            "ready, no list",
            Asked::Record(ready(FIRST, &[], None)),
            join(&[FIRST]),
        ),
        (
            "ready, the first before the others",
            Asked::Record(ready(THIRD, &[FIRST, THIRD], Some(UUID))),
            join(&[THIRD, FIRST]),
        ),
        (
            "a member that is blank again",
            Asked::Record(ready(FIRST, &[ME, FIRST, THIRD], Some(UUID))),
            join(&[FIRST, THIRD]),
        ),
        (
            "the first that is blank again",
            Asked::Record(ready(ME, &[ME, FIRST], Some(UUID))),
            join(&[FIRST]),
        ),
        (
            "the only one that is blank again",
            Asked::Record(ready(ME, &[ME], Some(UUID))),
            Then(Next::Refuse(Refusal::Lost)),
        ),
    ] {
        let decided = next(&wanted(), &Own::Blank, &asked, &memory());
        assert_next(what, &decided, &expected);
    }
}

#[test]
fn a_member_is_of_the_right_cluster_or_left_alone() {
    let adopting = Wanted {
        adopt: true,
        ..wanted()
    };
    let alone = || cluster_of([active(ME)]);
    let both = || cluster_of([active(ME), active(FIRST)]);
    let unknown = Refusal::Unknown {
        uuid: UUID.to_owned(),
    };
    let report = || Then(Next::Report(UUID.to_owned()));
    for (what, wanted, view, asked, expected) in [
        (
            "not asked",
            wanted(),
            alone(),
            Asked::NotYet,
            Then(Next::Ask),
        ),
        (
            "no record",
            wanted(),
            alone(),
            Asked::Nothing,
            Then(Next::Refuse(unknown)),
        ),
        (
            "adopts, not asked",
            adopting.clone(),
            alone(),
            Asked::NotYet,
            Then(Next::Ask),
        ),
        (
            "adopts",
            adopting.clone(),
            alone(),
            Asked::Nothing,
            Then(Next::Claim),
        ),
        (
            "its own UUID",
            wanted(),
            both(),
            Asked::Record(ready(FIRST, &[FIRST], Some(UUID))),
            report(),
        ),
        (
            "another UUID",
            wanted(),
            both(),
            Asked::Record(ready(FIRST, &[FIRST], Some(OTHER_UUID))),
            other_cluster("the one with the UUID b2"),
        ),
        (
            "another UUID, though it was the first",
            wanted(),
            alone(),
            Asked::Record(ready(ME, &[ME], Some(OTHER_UUID))),
            other_cluster("the one with the UUID b2"),
        ),
        (
            "another UUID, and to be adopted",
            adopting,
            alone(),
            Asked::Record(ready(FIRST, &[FIRST], Some(OTHER_UUID))),
            other_cluster("the one with the UUID b2"),
        ),
        (
            "no UUID, with the first in it",
            wanted(),
            both(),
            Asked::Record(ready(FIRST, &[FIRST], None)),
            report(),
        ),
        (
            "no UUID, without the first",
            wanted(),
            alone(),
            Asked::Record(ready(FIRST, &[FIRST], None)),
            other_cluster("that of `10.0.0.2`"),
        ),
        (
            "its own claim",
            wanted(),
            alone(),
            Asked::Record(claimed_by(ME, Some(1))),
            report(),
        ),
        (
            "its own claim for good",
            wanted(),
            alone(),
            Asked::Record(claimed_by(ME, None)),
            report(),
        ),
        (
            "its own claim, lapsed",
            wanted(),
            alone(),
            Asked::Record(claimed_by(ME, Some(0))),
            Then(Next::Claim),
        ),
        (
            "a claim of a node in it",
            wanted(),
            both(),
            Asked::Record(claimed_by(FIRST, Some(20))),
            Waits("`10.0.0.2` is to report the cluster ready"),
        ),
        (
            "a claim of a node in it, for good",
            wanted(),
            both(),
            Asked::Record(claimed_by(FIRST, None)),
            Waits("`10.0.0.2` is to report the cluster ready"),
        ),
        (
            "a claim of a node in it, lapsed",
            wanted(),
            both(),
            Asked::Record(claimed_by(FIRST, Some(0))),
            Then(Next::Claim),
        ),
        (
            "a claim of a node elsewhere",
            wanted(),
            alone(),
            Asked::Record(claimed_by(FIRST, Some(20))),
            other_cluster("that of `10.0.0.2`"),
        ),
        (
            "a claim of a node elsewhere, lapsed",
            wanted(),
            alone(),
            Asked::Record(claimed_by(FIRST, Some(0))),
            other_cluster("that of `10.0.0.2`"),
        ),
    ] {
        let decided = next(&wanted, &Own::Member(view), &asked, &memory());
        assert_next(what, &decided, &expected);
    }
}

#[test]
fn a_member_waits_for_the_balance_or_sees_to_it() {
    let settled = Duration::from_secs(5);
    let same_for = |time| Memory {
        same_for: time,
        ..memory()
    };
    let just_before = |time: Duration| same_for(time.saturating_sub(Duration::from_millis(1)));
    let unreachable_for = |name: &str, time| Memory {
        unreachable_for: BTreeMap::from([(otp(name), time)]),
        ..memory()
    };
    let resting = Memory {
        rest: Duration::from_millis(4500),
        ..memory()
    };
    let report = || Then(Next::Report(UUID.to_owned()));
    let rebalancing = View {
        rebalancing: true,
        ..cluster_of([added(ME), active(FIRST)])
    };
    for (what, view, memory, expected) in [
        (
            "it does not know itself",
            cluster_of([active(FIRST)]),
            memory(),
            Waits("does not know itself"),
        ),
        (
            "failed over",
            cluster_of([failed(ME), active(FIRST)]),
            memory(),
            Then(Next::Refuse(Refusal::FailedOver)),
        ),
        (
            "failed over, while a rebalance runs",
            View {
                rebalancing: true,
                ..unbalanced([failed(ME), active(FIRST)])
            },
            memory(),
            Then(Next::Refuse(Refusal::FailedOver)),
        ),
        (
            "a rebalance runs",
            rebalancing,
            memory(),
            Waits("a rebalance runs"),
        ),
        (
            "balanced",
            cluster_of([active(ME), active(FIRST)]),
            same_for(Duration::ZERO),
            report(),
        ),
        (
            "added, and others may come",
            unbalanced([added(ME), active(FIRST)]),
            just_before(settled),
            Waits("1 node waits for a rebalance"),
        ),
        (
            "added",
            unbalanced([added(ME), active(FIRST)]),
            same_for(settled),
            rebalance(&[ME, FIRST], &[]),
        ),
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
            resting,
            Waits("the last rebalance failed; the next begins in 5 s"),
        ),
        (
            "another was added, and is not there yet",
            unbalanced([added(ME), active(FIRST), dead(added(THIRD))]),
            unreachable_for(THIRD, Duration::from_secs(59)),
            Waits("`10.0.0.3` was added and cannot be reached yet"),
        ),
        (
            "another was added, and was just seen to be away",
            unbalanced([added(ME), active(FIRST), dead(added(THIRD))]),
            memory(),
            Waits("`10.0.0.3` was added and cannot be reached yet"),
        ),
        (
            "another was added, and died",
            unbalanced([added(ME), active(FIRST), dead(added(THIRD))]),
            unreachable_for(THIRD, DEAD_AFTER),
            rebalance(&[ME, FIRST, THIRD], &[THIRD]),
        ),
        (
            "an active one is away: the rebalance says so",
            unbalanced([added(ME), dead(active(FIRST))]),
            unreachable_for(FIRST, DEAD_AFTER),
            rebalance(&[ME, FIRST], &[]),
        ),
        (
            "another was failed over: a rebalance would throw it out",
            unbalanced([active(ME), failed(FIRST)]),
            memory(),
            report(),
        ),
        (
            "it was added to a cluster with one that was failed over",
            unbalanced([added(ME), failed(FIRST), active(THIRD)]),
            memory(),
            rebalance(&[ME, FIRST, THIRD], &[]),
        ),
    ] {
        let asked = Asked::Record(ready(FIRST, &[FIRST], Some(UUID)));
        let decided = next(&wanted(), &Own::Member(view), &asked, &memory);
        assert_next(what, &decided, &expected);
    }
}

#[test]
fn a_member_gets_its_group_buckets_and_address_and_reports() {
    let zoned = || Wanted {
        group: Some("us-east-1a".to_owned()),
        ..wanted()
    };
    let with_buckets = || Wanted {
        buckets: names(&["app", "cache"]),
        ..wanted()
    };
    let holding = |buckets: &[&str]| View {
        buckets: names(buckets),
        ..cluster_of([active(ME)])
    };
    let in_group = cluster_of([Node {
        group: "us-east-1a".to_owned(),
        ..active(ME)
    }]);
    let (first, joiner) = (
        || ready(ME, &[ME], Some(UUID)),
        || ready(FIRST, &[FIRST], Some(UUID)),
    );
    let bucket = |name: &str| Then(Next::CreateBucket(name.to_owned()));
    let report = || Then(Next::Report(UUID.to_owned()));
    let no_address = Memory {
        address_done: false,
        ..memory()
    };
    let grouped = Memory {
        group_done: true,
        ..memory()
    };
    let reported = Memory {
        reported: true,
        ..memory()
    };
    for (what, wanted, view, record, memory, expected) in [
        (
            "another group",
            zoned(),
            holding(&[]),
            first(),
            memory(),
            Then(Next::Group),
        ),
        (
            "another group, and nothing to be done about it",
            zoned(),
            holding(&[]),
            joiner(),
            grouped,
            report(),
        ),
        (
            "the right group",
            zoned(),
            in_group,
            first(),
            memory(),
            report(),
        ),
        (
            "no bucket",
            with_buckets(),
            holding(&[]),
            first(),
            memory(),
            bucket("app"),
        ),
        (
            "one of them",
            with_buckets(),
            holding(&["app", "mine"]),
            first(),
            memory(),
            bucket("cache"),
        ),
        (
            "all of them",
            with_buckets(),
            holding(&["cache", "app"]),
            first(),
            memory(),
            report(),
        ),
        (
            "no bucket, and no matter of this node's",
            with_buckets(),
            holding(&[]),
            joiner(),
            memory(),
            report(),
        ),
        (
            "buckets before the address",
            with_buckets(),
            holding(&[]),
            first(),
            no_address.clone(),
            bucket("app"),
        ),
        (
            "no address",
            wanted(),
            holding(&[]),
            joiner(),
            no_address,
            Then(Next::Address),
        ),
        (
            "no report",
            wanted(),
            holding(&[]),
            joiner(),
            memory(),
            report(),
        ),
        (
            "all",
            wanted(),
            holding(&[]),
            joiner(),
            reported,
            Then(Next::Done),
        ),
    ] {
        let decided = next(&wanted, &Own::Member(view), &Asked::Record(record), &memory);
        assert_next(what, &decided, &expected);
    }
}

/// As the first node tells it, and not this one.
fn seen_by_first(mut view: View) -> View {
    for node in &mut view.nodes {
        node.asked = node.name == FIRST;
    }
    view
}

#[test]
fn who_is_not_in_itself_adds_nobody() {
    let unhealthy = Node {
        healthy: false,
        ..active(FIRST)
    };
    for first in [added(FIRST), failed(FIRST), unhealthy, active(THIRD)] {
        let view = seen_by_first(cluster_of([first]));
        assert_eq!(through(ME, &view, Some(UUID)), Through::Unfit);
    }
}

#[test]
fn a_member_adds_who_is_new_to_it() {
    let rebalancing = |nodes: Vec<Node>| View {
        rebalancing: true,
        ..cluster_of(nodes)
    };
    for (view, uuid, part) in [
        (cluster_of([active(FIRST)]), Some(UUID), None),
        (cluster_of([active(FIRST)]), None, None),
        (
            cluster_of([active(FIRST), added(ME)]),
            Some(UUID),
            Some("its server is still on its way"),
        ),
        (
            rebalancing(vec![active(FIRST), added(ME)]),
            None,
            Some("its server is still on its way"),
        ),
        (
            cluster_of([active(FIRST), active(ME)]),
            Some(UUID),
            Some("still lists `10.0.0.1` as a member"),
        ),
        (
            cluster_of([active(FIRST), failed(ME)]),
            Some(UUID),
            Some("has failed `10.0.0.1` over"),
        ),
        (
            rebalancing(vec![active(FIRST)]),
            Some(UUID),
            Some("a rebalance runs"),
        ),
    ] {
        match (through(ME, &seen_by_first(view.clone()), uuid), part) {
            (Through::Add, None) => {}
            (Through::Later(why), Some(part)) if why.contains(part) => {}
            (other, part) => panic!("{view:?}: {other:?}, not {part:?}"),
        }
    }
    // Of another cluster, whatever it says of the node.
    for nodes in [vec![active(FIRST)], vec![active(FIRST), added(ME)]] {
        let skipped = through(ME, &cluster_of(nodes), Some(OTHER_UUID));
        assert!(matches!(&skipped, Through::Other(why) if why.contains(UUID)));
    }
}

fn any_node(name: &'static str) -> impl Strategy<Value = Node> {
    let membership = select(vec![
        Membership::Active,
        Membership::Added,
        Membership::Failed,
    ]);
    (membership, any::<bool>()).prop_map(move |(membership, healthy)| Node {
        healthy,
        ..member_of(name, membership)
    })
}

prop_compose! {
    fn any_view()(
        this in any_node(ME),
        others in (any_node(FIRST), any_node(THIRD)),
        count in 1..=3_usize,
        balanced: bool,
        rebalancing: bool,
        uuid in select(vec![UUID, OTHER_UUID]),
    ) -> View {
        let nodes = [this, others.0, others.1].into_iter().take(count);
        View { balanced, rebalancing, uuid: uuid.to_owned(), ..cluster_of(nodes) }
    }
}

prop_compose! {
    fn any_record()(
        first in select(vec![ME, FIRST, THIRD]),
        lease in option::of(0..60_u64),
        is_ready: bool,
        nodes in vec(select(vec![ME, FIRST, THIRD]), 0..4),
        uuid in option::of(select(vec![UUID, OTHER_UUID])),
    ) -> Record {
        if is_ready { ready(first, &nodes, uuid) } else { claimed_by(first, lease) }
    }
}

prop_compose! {
    fn any_memory()(
        times in [0..100_u64, 0..100, 0..100, 0..100, 0..100],
        done in any::<[bool; 3]>(),
    ) -> Memory {
        let [stranger, same, second, third, rest] = times.map(Duration::from_secs);
        Memory {
            stranger_for: stranger,
            same_for: same,
            unreachable_for: [(otp(FIRST), second), (otp(THIRD), third)].into(),
            rest,
            group_done: done[0],
            address_done: done[1],
            reported: done[2],
        }
    }
}

prop_compose! {
    fn any_wanted()(adopt: bool, grouped: bool, buckets in 0..3_usize) -> Wanted {
        Wanted {
            adopt,
            group: grouped.then(|| "us-east-1a".to_owned()),
            buckets: names(&["app", "cache"][..buckets.min(2)]),
            ..wanted()
        }
    }
}

proptest! {
    /// The one mistake that loses data: a server that belongs to a cluster is never made blank, and one that belongs
    /// to another cluster than the recorded one is never touched.
    #[test]
    fn a_member_is_never_initialised_and_joins_nobody(
        wanted in any_wanted(),
        view in any_view(),
        record in option::of(any_record()),
        memory in any_memory(),
    ) {
        let asked = record.clone().map_or(Asked::Nothing, Asked::Record);
        let decided = next(&wanted, &Own::Member(view.clone()), &asked, &memory);
        prop_assert!(!matches!(decided, Next::Initialise | Next::Join(_)), "{decided:?}");
        let recorded = record.and_then(|record| record.cluster.cluster_uuid);
        if recorded.is_some_and(|uuid| uuid != view.uuid) {
            let is_refused = matches!(decided, Next::Refuse(Refusal::OtherCluster { .. }));
            prop_assert!(is_refused, "{decided:?}");
        }
    }

    /// A blank server is initialised by who holds the claim, and joins only what is ready; never through itself.
    #[test]
    fn a_blank_server_does_what_the_record_says(
        wanted in any_wanted(),
        record in any_record(),
        memory in any_memory(),
    ) {
        let cluster = record.cluster.clone();
        match next(&wanted, &Own::Blank, &Asked::Record(record), &memory) {
            Next::Initialise => {
                prop_assert!(cluster.is_initial_node && cluster.state == State::Claimed);
            }
            Next::Join(members) => {
                prop_assert!(cluster.state == State::Ready && !members.is_empty());
                prop_assert!(!members.contains(&wanted.node), "{members:?}");
            }
            Next::Wait(_) | Next::Refuse(Refusal::Lost) => {}
            other => prop_assert!(false, "{other:?}"),
        }
    }

    /// A rebalance knows all nodes, and leaves out only who was added and died.
    #[test]
    fn a_rebalance_throws_no_member_out(
        wanted in any_wanted(),
        view in any_view(),
        record in any_record(),
        memory in any_memory(),
    ) {
        let decided = next(&wanted, &Own::Member(view.clone()), &Asked::Record(record), &memory);
        if let Next::Rebalance { known, ejected } = decided {
            let all: Vec<_> = view.nodes.iter().map(|node| node.otp.clone()).collect();
            prop_assert_eq!(known, all);
            prop_assert!(!view.rebalancing);
            for node in view.nodes.iter().filter(|node| ejected.contains(&node.otp)) {
                prop_assert!(node.membership == Membership::Added && !node.healthy, "{node:?}");
            }
        }
    }
}
