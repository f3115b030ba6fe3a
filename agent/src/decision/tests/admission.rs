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
