//! Properties of all decisions.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;

fn any_node(name: &'static str) -> impl Strategy<Value = NodeInfo> {
    let membership = select(vec![Membership::Active, Membership::Added, Membership::FailedOver]);
    let health = select(vec![Health::Healthy, Health::Warmup, Health::Unhealthy]);
    (membership, health, any::<[bool; 2]>(), 0..120_u64).prop_map(
        move |(membership, health, [recovers, groups], up)| NodeInfo {
            health,
            recovery: if recovers { Recovery::Delta } else { Recovery::None },
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
        fewest_replicas in option::of(0..3_u32),
    ) -> View {
        let nodes = [this, others.0, others.1].into_iter().take(count);
        View { is_balanced, is_rebalancing, uuid: uuid(cluster), fewest_replicas, ..cluster_of(nodes) }
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
    ) -> ClusterRecord {
        if is_ready { of_cluster(cluster, ready(first, &members)) } else { taken_over(first, lease, &previous) }
    }
}

prop_compose! {
    fn any_memory()(
        times in [0..100_u64, 0..100, 0..100, 0..100, 0..100, 0..100],
        done in any::<[bool; 7]>(),
        absent in [0..40_u64, 0..40, 0..40],
        inspections in vec(option::of(select(vec![Inspection::Blank, Inspection::Provisioned, Inspection::Unreachable, Inspection::Dead])), 3),
        occupied: bool,
        extras_done in any::<[bool; 3]>(),
    ) -> Memory {
        let [stranger, same, second, third, rest, occupied_for] = times.map(Duration::from_secs);
        let inspections = [ME, FIRST, THIRD].into_iter().zip(inspections);
        let absent = [ME, FIRST, THIRD].into_iter().zip(absent);
        let extras = [group(), bucket("app"), address()].into_iter().zip(extras_done);
        Memory {
            other_credentials_since: Some(ago(stranger)),
            same_since: Some(ago(same)),
            unreachable_since: [(otp(FIRST), ago(second)), (otp(THIRD), ago(third))].into(),
            rest_until: Some(now() + rest),
            inspections: inspections.filter_map(|(name, state)| Some((node(name), state?))).collect(),
            occupied_by: occupied.then(|| (node(FIRST), ago(occupied_for))),
            is_confirmed: done[1],
            done_extras: extras.filter(|(_, is_done)| *is_done).map(|(extra, _)| extra).collect(),
            is_reported: done[2],
            is_attested: done[3],
            is_delta_refused: done[5],
            is_claimed_by_other: done[6],
            kept: Kept {
                has_initialized: done[0],
                absences: absent.map(|(name, time)| (node(name), absent_since(time))).collect(),
                failover_cause: if done[4] { FailoverCause::Outage } else { FailoverCause::Unknown },
                ..Kept::default()
            },
            ..Memory::default()
        }
    }
}

prop_compose! {
    fn any_wanted()(
        flags in any::<[bool; 5]>(),
        wanted in any::<[bool; 4]>(),
        nodes in option::of(1..5_usize),
    ) -> Goal {
        let [adopt, can_begin, trusts_members, attests, recovers] = flags;
        let extras = [group(), bucket("app"), bucket("cache"), address()].into_iter().zip(wanted);
        Goal {
            adopt,
            can_begin,
            trusts_members,
            attests,
            recovers,
            nodes,
            extras: extras.filter(|(_, is_wanted)| *is_wanted).map(|(extra, _)| extra).collect(),
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

    /// The one mistake that loses data: a server that belongs to a cluster is never initialized, and one that belongs
    /// to another cluster than the recorded one is never touched.
    #[test]
    fn provisioned_server_is_never_initialized_and_never_joins(
        goal in any_wanted(),
        view in any_view(),
        asked in any_asked(),
        memory in any_memory(),
    ) {
        let decided = next_action(&goal, &OwnServer::Member(view.clone()), &asked, &memory, now());
        let is_for_blank = matches!(decided, Action::Initialize | Action::Join(_) | Action::Inspect(_) | Action::GiveUpClaim(_) | Action::LeaveClaim);
        prop_assert!(!is_for_blank, "{decided:?}");
        let Asked::Record(record) = asked else { return Ok(()) };
        if record.cluster_uuid.is_some_and(|uuid| uuid != view.uuid) {
            let is_refused = matches!(decided, Action::Stop(StopReason::OtherCluster { .. }));
            prop_assert!(is_refused, "{decided:?}");
        }
    }

    /// A blank server is initialized only with the claim, in time and after the inspections. It joins only a ready cluster, and
    /// never through itself.
    #[test]
    fn blank_server_is_initialized_in_time_and_after_inspections(
        goal in any_wanted(),
        asked in any_asked(),
        memory in any_memory(),
    ) {
        let decided = next_action(&goal, &blank(), &asked, &memory, now());
        let is_free = memory.occupied_by.is_none() && !memory.kept.has_initialized;
        let can_begin = goal.can_begin && !goal.adopt;
        let may_claim = can_begin && (is_free || matches!(asked, Asked::NoRecord));
        prop_assert!(may_claim || decided != Action::Claim, "{decided:?}");
        let Asked::Record(record) = asked else { return Ok(()) };
        match decided {
            Action::Initialize => {
                prop_assert!(record.is_initial && record.state == State::Claimed && can_begin);
                prop_assert!(record.lease_left(now()).is_none_or(|left| left >= LEASE_MARGIN));
                prop_assert!(!memory.kept.has_initialized && memory.occupied_by.is_none() && !memory.is_claimed_by_other);
                for node in &record.previous {
                    let inspection = memory.inspections.get(node);
                    prop_assert!(matches!(inspection, Some(Inspection::Blank | Inspection::Dead)), "{node}: {inspection:?}");
                }
            }
            Action::Join(members) => {
                prop_assert!(record.state == State::Ready && !members.is_empty() && goal.trusts_members);
                prop_assert!(!members.contains(&goal.node), "{members:?}");
            }
            Action::Inspect(nodes) => {
                prop_assert!(!nodes.is_empty() && nodes.iter().all(|node| record.previous.contains(node)));
            }
            Action::Claim => {
                let is_free = record.is_initial || record.lease_left(now()) == Some(Duration::ZERO);
                prop_assert!(record.state == State::Claimed && memory.is_claimed_by_other && is_free);
            }
            Action::GiveUpClaim(node) => prop_assert_eq!(memory.inspections.get(&node), Some(&Inspection::Provisioned)),
            Action::Wait(_) | Action::Stop(StopReason::Lost { .. } | StopReason::NoTrust | StopReason::Occupied(_)) => {}
            Action::Stop(StopReason::OwnClaim | StopReason::NothingToAdopt) => prop_assert!(goal.adopt),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    /// A rebalance knows all nodes, begins only if all but dead failed-over ones can take part, and names those that it removes.
    #[test]
    fn rebalance_never_removes_a_living_node(
        goal in any_wanted(),
        view in any_view(),
        record in any_record(),
        memory in any_memory(),
    ) {
        let decided = next_action(&goal, &OwnServer::Member(view.clone()), &Asked::Record(record), &memory, now());
        if let Action::Rebalance { known, removed } = decided {
            let all: Vec<_> = view.nodes.iter().map(|node| node.otp.clone()).collect();
            prop_assert_eq!(known, all);
            prop_assert!(!view.is_rebalancing);
            prop_assert!(removed.is_empty() || view.can_lose(view.count_failed_over()));
            for node in &view.nodes {
                let is_removed = removed.contains(&node.name);
                prop_assert_eq!(is_removed, node.membership == Membership::FailedOver, "{:?}", node);
                let unreachable_for = time_since(memory.unreachable_since.get(&node.otp).copied(), now());
                let is_dead = node.health == Health::Unhealthy && unreachable_for >= DEAD_AFTER;
                prop_assert!(if is_removed { is_dead } else { node.health != Health::Unhealthy }, "{node:?}");
            }
        }
    }

    /// A node recovers only by itself, while all others can be reached or may be removed, and gives its data up only if all of it has
    /// copies.
    #[test]
    fn recovery_never_costs_data(
        goal in any_wanted(),
        view in any_view(),
        record in any_record(),
        memory in any_memory(),
    ) {
        let decided = next_action(&goal, &OwnServer::Member(view.clone()), &Asked::Record(record), &memory, now());
        if let Action::Recover { otp, recovery } = decided {
            let this = view.this().unwrap();
            prop_assert_eq!(&otp, &this.otp);
            prop_assert!(!view.is_rebalancing && memory.kept.failover_cause == FailoverCause::Outage);
            let can_lose = view.can_lose(view.count_failed_over());
            for node in view.nodes.iter().filter(|node| node.health == Health::Unhealthy) {
                let unreachable_for = time_since(memory.unreachable_since.get(&node.otp).copied(), now());
                let is_out = node.membership == Membership::FailedOver && unreachable_for >= DEAD_AFTER;
                prop_assert!(is_out && can_lose, "{view:?}");
            }
            prop_assert!(recovery == Recovery::Delta || can_lose);
            // A node that is active keeps running.
            prop_assert!(this.membership != Membership::Active, "{this:?}");
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
        let decided = next_action(&goal, &OwnServer::Member(view.clone()), &Asked::Record(record), &memory, now());
        if let Action::Eject(otp) = decided {
            let node = view.nodes.iter().find(|node| node.otp == otp).unwrap();
            prop_assert!(node.membership == Membership::Added && !node.is_recovering(), "{node:?}");
            prop_assert!(node.health == Health::Unhealthy && !node.is_asked, "{node:?}");
            prop_assert!(now() - memory.unreachable_since[&otp] >= DEAD_AFTER && !view.is_rebalancing);
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
        let decided = next_action(&goal, &OwnServer::Member(view.clone()), &asked, &memory, now());
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
        let decided = next_action(&goal, &OwnServer::Member(view.clone()), &Asked::Record(record.clone()), &memory, now());
        if decided == Action::Done {
            let this = view.this().unwrap();
            prop_assert!(memory.is_reported && record.state == State::Ready && !view.is_rebalancing);
            prop_assert!(this.membership == Membership::Active && this.health == Health::Healthy);
            prop_assert!(record.cluster_uuid.is_none_or(|uuid| uuid == view.uuid));
        }
    }
}
