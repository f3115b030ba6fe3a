//! Members that are asked to add a node.

use super::*;

/// The first node's view.
fn seen_by_first(mut view: View) -> View {
    for node in &mut view.nodes {
        node.is_asked = node.name == FIRST;
    }
    view
}

#[test]
fn unfit_member_adds_no_node() {
    for first in
        [added(FIRST), failed(FIRST), recovering(FIRST), dead(active(FIRST)), active(THIRD)]
    {
        let view = seen_by_first(cluster_of([first]));
        assert_eq!(
            admission(&node(ME), None, &view, Some(&uuid(UUID)), false),
            Admission::UnfitMember,
            "{view:?}"
        );
    }
}

#[test]
fn member_that_knows_no_other_recorded_one_may_be_an_old_copy() {
    let cases = [
        (vec![active(FIRST)], vec![FIRST], false),
        (vec![active(FIRST)], vec![FIRST, ME], false),
        (vec![active(FIRST)], vec![FIRST, THIRD], true),
        (vec![active(FIRST), active(ME)], vec![FIRST, ME, THIRD], true),
        (vec![active(FIRST), active(THIRD)], vec![FIRST, THIRD, "10.0.0.4"], false),
    ];
    for (nodes, members, expected) in cases {
        let view = seen_by_first(cluster_of(nodes));
        let record = ready(FIRST, &members);
        let decided = may_be_copy(&node(ME), &node(FIRST), &view, &record);
        assert_eq!(decided, expected, "{members:?} {view:?}");
    }
}

#[test]
fn member_adds_only_a_new_node() {
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
            "a server of the name without a UUID",
            cluster_of([active(FIRST), NodeInfo { uuid: None, ..active(ME) }]),
            Some(&own),
            later("lists `10.0.0.1` as a member that it cannot reach"),
        ),
    ];
    for (what, view, own, expected) in cases {
        for recorded in [None, Some(&cluster)] {
            let through = admission(&node(ME), own, &seen_by_first(view.clone()), recorded, false);
            let is_so = match (&through, expected) {
                (Admission::Add, (None, false)) => true,
                (Admission::Later(why), (Some(part), _)) => why.contains(part),
                (Admission::NameTaken(uuid), (None, true)) => uuid.as_str() == OWN,
                _ => false,
            };
            assert!(is_so, "{what}: {through:?}, not {expected:?}");
        }
        // A member of another cluster adds no node.
        let skipped =
            admission(&node(ME), own, &seen_by_first(view), Some(&uuid(OTHER_UUID)), false);
        assert!(
            matches!(&skipped, Admission::OtherCluster(why) if why.contains(UUID)),
            "{what}: {skipped:?}"
        );
    }
}

#[test]
fn dead_twin_is_replaced_only_if_the_others_have_its_data() {
    let (own, twin) = (uuid("77"), || dead(failed(ME)));
    let with = |nodes: &[NodeInfo]| seen_by_first(cluster_of(nodes.iter().cloned()));
    let healthy = with(&[active(FIRST), active(THIRD), twin()]);
    let rebalances = View { is_rebalancing: true, ..healthy.clone() };
    let copies = |replicas| View { fewest_replicas: Some(replicas), ..healthy.clone() };
    #[rustfmt::skip]
    let cases = [
        ("no bucket", healthy.clone(), None),
        ("a replica", copies(1), None),
        ("no replicas", copies(0), Some("a bucket has no replicas")),
        ("not failed over", with(&[active(FIRST), active(THIRD), dead(active(ME))]), Some("once that member has been failed over")),
        ("it runs", with(&[active(FIRST), active(THIRD), NodeInfo { uuid: Some(own.clone()), ..failed(ME) }]), Some("it is running")),
        ("this very server", with(&[active(FIRST), NodeInfo { uuid: Some(own.clone()), ..twin() }]), Some("this server may be that member")),
        ("unknown server", with(&[active(FIRST), NodeInfo { uuid: None, ..twin() }]), Some("this server may be that member")),
        ("a rebalance runs", rebalances, Some("a rebalance runs")),
        ("another is down", with(&[active(FIRST), dead(active(THIRD)), twin()]), Some("`10.0.0.3` is not active and healthy")),
        ("another is failed over", with(&[active(FIRST), failed(THIRD), twin()]), Some("`10.0.0.3` is not active")),
        ("another recovers", with(&[active(FIRST), recovering(THIRD), twin()]), Some("`10.0.0.3` is not active")),
        ("another warms up", with(&[active(FIRST), warming_up(active(THIRD)), twin()]), Some("`10.0.0.3` is not active and healthy")),
    ];
    for (what, view, obstacle) in cases {
        let through = admission(&node(ME), Some(&own), &view, None, true);
        let is_so = match (&through, obstacle) {
            (Admission::Replace(replaced), None) => *replaced == otp(ME),
            (Admission::Later(why), Some(part)) => why.contains(part),
            _ => false,
        };
        assert!(is_so, "{what}: {through:?}, not {obstacle:?}");
        let without = admission(&node(ME), Some(&own), &view, None, false);
        assert!(!matches!(without, Admission::Replace(_)), "{what}: {without:?}");
    }
}
