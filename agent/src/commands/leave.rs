//! `leave`: moves the node's data to the other nodes, removes the node from its cluster, and reports that to the API.

use std::{fmt, time::Instant};

use cbbootstrap_cli::{exit::Exit, failure::Failure};
use cbbootstrap_protocol::{names::Node, wire::State};
use serde::Serialize;

use super::{
    clock::{Clock, Interrupt},
    lock, name_taken, rebalances,
};
use crate::{
    api::{ApiError, Identity},
    cli::LeaveArgs,
    decision::{
        self, Action, Admission, Memory, Testimony,
        life::{self, Ending},
    },
    http::CallError,
    printer::Printer,
    record::ClusterRecord,
    server::{Health, Membership, NodeInfo, Server, View},
    settings::{self, Here},
};

#[derive(Debug, Serialize)]
struct LeaveOutcome {
    cluster_id: String,
    node: String,
    /// The node that others join now; `None` if the API has no such cluster.
    initial_node: Option<String>,
}

impl fmt::Display for LeaveOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster_id, node, .. } = self;
        write!(f, "`{node}` has left `{cluster_id}`")?;
        match &self.initial_node {
            Some(next) => write!(f, "; the node to join is `{next}`"),
            None => write!(f, "; the API has no such cluster"),
        }
    }
}

pub fn run(args: LeaveArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let clock = Clock::new(args.wait, printer);
    let here = settings::here(args.node.api, args.node.server, clock.deadline)?;
    let _lock = lock(&here.server, &clock)?;
    let mut leaving = Leaving { is_by_hand: true, ..Leaving::default() };
    let mut memory = Memory::default();
    clock.repeat(|| leaving.round(&here, &mut memory, None, printer))?;
    let initial_node = clock.repeat(|| leaving.report(&here, &memory).map(Some))?;
    let (cluster_id, node) =
        (here.api.cluster_id.as_str().to_owned(), here.identity.node.to_string());
    printer.result(&LeaveOutcome { cluster_id, node, initial_node })?;
    Ok(Exit::Done)
}

#[derive(Default)]
pub(super) struct Leaving {
    /// Whether an operator runs `leave`. A node whose machine is about to end leaves even where an operator would have to decide.
    is_by_hand: bool,
    /// Whether the API has been asked about this node. A run that starts over asks again, and keeps the other fields.
    pub(super) is_checked: bool,
    /// The server's name in its cluster.
    server_name: String,
    /// The record's generation, where it is known.
    pub(super) generation: Option<u64>,
    pub(super) is_on_its_way: bool,
    /// Whether the API, the cluster or the node's name was another one when that began: the report needs a check.
    pub(super) was_other: bool,
    /// Whether this run has started the rebalance that is under way.
    is_own_rebalance: bool,
}

impl Leaving {
    /// Takes one step, after which the next round reads the cluster again. Done when the server belongs to no cluster. `run` uses one
    /// memory for staying and leaving, because it must also report what it began before the node began to leave, or decided to stay after
    /// all.
    pub(super) fn round(
        &mut self,
        here: &Here,
        memory: &mut Memory,
        ending: Option<&Ending>,
        printer: &Printer,
    ) -> Result<Option<()>, Interrupt> {
        let view = match here.server.cluster() {
            Ok(Some(view)) => view,
            Ok(None) => {
                printer.step("server: belongs to no cluster");
                if self.is_on_its_way {
                    printer.step(
                        "certificates: the server has generated a new one; if you use your own, load it again before the next `up`",
                    );
                }
                return Ok(Some(()));
            }
            // While it is reset, it may already have lost the password.
            Err(CallError::Unauthorized) if !self.is_on_its_way => {
                return Err(Failure::refused(
                    "the server refuses this user name and password; nothing was changed",
                )
                .hint("pass the cluster's user name and password")
                .into());
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(this) = view.this() {
            self.server_name.clone_from(&this.name);
        }
        if !self.is_checked {
            self.check(here, &view, ending, printer)?;
            self.is_checked = view.this().is_some();
            if self.is_checked {
                return Ok(None);
            }
        }
        // A rebalance that this run started has reached its purpose only when the node is out.
        let is_purpose_reached = view.is_balanced && !self.is_own_rebalance;
        self.is_own_rebalance &= view.is_rebalancing;
        rebalances::watch(memory, &here.server, &view, is_purpose_reached, printer)?;
        if let Some(this) = view.this() {
            self.check_is_not_last(this, &view)?;
        }
        let action = next_action(&view, memory, Instant::now(), ending);
        Err(Interrupt::wait(self.act(action, &view, memory, &here.server, printer)))
    }

    /// Reports to the API that the node has left. Returns the node that others join now; `None` if the API has no such cluster.
    pub(super) fn report(&self, here: &Here, memory: &Memory) -> Result<Option<String>, Interrupt> {
        // Only the server that made a claim can give it up.
        let node_uuid = here.server.own_info().ok().and_then(|own| own.uuid);
        let mut identity = Identity { node_uuid, ..here.identity.clone() };
        if !self.is_by_hand && self.has_other_name(here) {
            let record = here.api.status(Some(&identity.node))?;
            let other =
                record.and_then(|it| it.other_name(&identity.node, &self.server_name).cloned());
            identity.node = other.unwrap_or(identity.node);
        }
        if !self.is_on_its_way || self.was_other {
            check_name(here, &identity)?;
        }
        match here.api.leave(&identity, self.generation) {
            Ok(record) => {
                // Otherwise the node left in an earlier run, and the nodes that it removed then may be back.
                let removed =
                    if self.is_on_its_way { self.report_removed(here, memory) } else { None };
                let record = removed.unwrap_or(record);
                Ok(Some(record.initial_node.to_string()))
            }
            Err(ApiError::Refused(problem)) if problem.code == "cluster_not_found" => Ok(None),
            // Another member may still report.
            Err(ApiError::Refused(problem)) if problem.code == "last_node" && !self.is_by_hand => {
                Err(Interrupt::wait(format!(
                    "the API knows no other member of `{}`: run `cbbootstrap-agent up` on a member that has the data; this node reports its departure then",
                    here.api.cluster_id.as_str()
                )))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reports the dead nodes that rebalances of this run have removed, once. Returns the last answer.
    fn report_removed(&self, here: &Here, memory: &Memory) -> Option<ClusterRecord> {
        let nodes = memory.kept.removed.iter().filter_map(|name| Node::new(name).ok());
        let answers = nodes.filter_map(|node| {
            let removed = Identity { node, node_uuid: None };
            // If it fails, the API only lists a dead node.
            here.api.leave(&removed, self.generation).ok()
        });
        answers.last()
    }

    fn has_other_name(&self, here: &Here) -> bool {
        !self.server_name.is_empty() && self.server_name != here.identity.node.host().to_string()
    }

    /// Returns why to wait afterwards.
    fn act(
        &mut self,
        action: Action,
        view: &View,
        memory: &mut Memory,
        server: &Server,
        printer: &Printer,
    ) -> String {
        let this = view.this().map(|this| this.otp.as_str()).unwrap_or_default();
        match action {
            Action::Wait(why) => why,
            Action::Eject(otp) => match server.eject(&otp) {
                Ok(()) => {
                    self.is_on_its_way |= this == otp;
                    printer.step(format_args!("eject: `{otp}`, which was never rebalanced in"));
                    format!("`{otp}` is being removed")
                }
                Err(error) => format!("`{otp}` cannot be removed yet: {error}"),
            },
            Action::Rebalance { known, removed } => {
                let (is_started, why) =
                    rebalances::start(memory, server, &known, this, &removed, printer);
                self.is_on_its_way |= is_started != Some(false);
                if is_started == Some(true) {
                    self.is_own_rebalance = true;
                    printer.step("rebalance: this node's data moves to the others");
                }
                why
            }
            // Nothing else leads out of a cluster.
            _ => "this node does not leave".to_owned(),
        }
    }

    /// The server must belong to the API's cluster, if the API has one, under this node's name, and another member must remain.
    ///
    /// A machine that ends does not wait for an API that does not answer or refuses: the data can already move, and only the last step,
    /// the report, needs the API.
    fn check(
        &mut self,
        here: &Here,
        view: &View,
        ending: Option<&Ending>,
        printer: &Printer,
    ) -> Result<(), Interrupt> {
        let node = &here.identity.node;
        let this = view.this();
        let untouched = self.untouched();
        let record = match here.api.status(Some(node)) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(()),
            Err(error) if !self.is_by_hand => {
                printer.warning_once(format_args!(
                    "this node leaves if it can, although the API does not confirm its membership: {error}"
                ));
                return Ok(());
            }
            Err(ApiError::Temporary(_)) if !self.has_other_name(here) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.generation = Some(record.generation);
        // The server also has another name than its agent if an operator added it, or if it has none (`127.0.0.1`). The record then does
        // not list the server's name.
        let other_name = record.other_name(node, &self.server_name);
        // The rebalance with which this node leaves removes the failed-over ones, too.
        let stays = |it: &NodeInfo| !it.is_failed_over();
        let leaves = |other: &Node| {
            let is_this = other == node || Some(other) == other_name;
            is_this || view.member(other).is_some_and(|it| !stays(it))
        };
        let is_only_member = record.state == State::Ready
            && record.nodes().into_iter().all(leaves)
            && view.others().any(stays);
        let (id, own) = (here.api.cluster_id.as_str(), &view.uuid);
        // Others can take its data, which would be lost with the machine.
        let is_urgent = |ending: &Ending| this.is_some_and(|this| !ending.can_wait(this, view));
        let failure = match (&record.cluster_uuid, other_name.filter(|_| self.is_by_hand)) {
            (Some(recorded), _) if recorded != own => Failure::refused(format!(
                "the server belongs to the cluster {own}, but `{id}` has the UUID {recorded}{untouched}"
            ))
            .hint("pass the `--cluster-id` with which `up` ran on this node"),
            (_, Some(recorded)) => Failure::refused(format!(
                "the API knows this server as `{recorded}`, which would stay in its list if `{node}` left{untouched}"
            ))
            .hint(format!("pass the name with which `up` ran on this node: `--node {recorded}`")),
            _ if !is_only_member => return Ok(()),
            _ => {
                // Then a report of another member would not help.
                if let Some(this) = this {
                    self.check_is_not_last(this, view)?;
                }
                if ending.is_some_and(is_urgent) {
                    printer.warning_once(format_args!(
                        "this node leaves if it can, although it is the only member of `{id}` that the API knows, apart from failed-over ones: afterwards, no node can join before you run `cbbootstrap-agent up` on another member; if the record still lists `{node}` then, run `cbbootstrap cluster forget-member`"
                    ));
                    return Ok(());
                }
                Failure::refused(format!(
                    "this is the only member of `{id}` that the API knows, apart from failed-over ones, so no node could join without it{untouched}"
                ))
                .hint("run `cbbootstrap-agent up` on another member, and then this command again")
            }
        };
        Err(failure.into())
    }

    /// Couchbase Server refuses a rebalance after which no node, or none with the data service, would be left. Added nodes stay.
    fn check_is_not_last(&self, this: &NodeInfo, view: &View) -> Result<(), Failure> {
        let stays = |node: &&NodeInfo| match node.membership {
            Membership::Active => true,
            // One that is dead would be removed first, for which only the end of the machine is a reason.
            Membership::Added => {
                !self.is_by_hand || node.health != Health::Unhealthy || view.is_rebalancing
            }
            Membership::FailedOver => false,
        };
        let is_active = this.membership == Membership::Active;
        let mut others = view.others().filter(stays).peekable();
        let (why, hint) = if others.peek().is_none() {
            ("this is the cluster's last active node", "")
        } else if is_active && this.has_data_service() && !others.any(NodeInfo::has_data_service) {
            (
                "this is the cluster's last node with the data service, apart from failed-over ones",
                "let another node with the data service join first; or, ",
            )
        } else {
            return Ok(());
        };
        let untouched = self.untouched();
        Err(Failure::refused(format!("{why}, and the data would be lost with it{untouched}")).hint(
            format!("{hint}to remove the whole cluster, stop its machines and run `cbbootstrap cluster forget`"),
        ))
    }

    /// Ends an error.
    fn untouched(&self) -> &'static str {
        if self.is_on_its_way { "" } else { "; nothing was changed" }
    }
}

/// A server that is blank from the start may have the name of a living member, which must stay in the record.
fn check_name(
    Here { api, server, peers, .. }: &Here,
    identity: &Identity,
) -> Result<(), Interrupt> {
    let Identity { node, node_uuid } = identity;
    let Some(record) = api.status(Some(node))? else { return Ok(()) };
    let has_others = record.nodes().into_iter().any(|other| other != node);
    if record.state != State::Ready || record.member(node).is_none() || !has_others {
        return Ok(());
    }
    let taken_by = |view: &View| {
        let uuid = record.cluster_uuid.as_ref();
        match decision::admission(node, node_uuid.as_ref(), view, uuid, false) {
            Admission::NameTaken(uuid) => Some(uuid),
            _ => None,
        }
    };
    let is_enterprise = server.pools()?.is_enterprise;
    match peers.ask_about(node, &record, is_enterprise, |view| taken_by(view).is_some()) {
        Testimony::Listed(view) => {
            taken_by(&view).map_or(Ok(()), |uuid| Err(name_taken(identity, &uuid).into()))
        }
        Testimony::Silent { why, .. } if peers.can_verify_members() => {
            let failure = Failure::new(format!(
                "no other member can tell whether another machine has the name `{node}`: {why}"
            ));
            Err(Interrupt::unfinished(failure.hint("start another member, and then run this command again; if the cluster no longer exists, run `cbbootstrap cluster forget`")))
        }
        _ => Ok(()),
    }
}

/// Decides the next step out of the cluster, for a node that is not the last active one.
fn next_action(view: &View, memory: &Memory, now: Instant, ending: Option<&Ending>) -> Action {
    let Some(this) = view.this() else {
        return Action::Wait("the server does not list itself yet".to_owned());
    };
    if view.is_rebalancing {
        return Action::Wait("a rebalance runs".to_owned());
    }
    if this.membership == Membership::Added && !this.is_recovering() {
        return Action::Eject(this.otp.clone());
    }
    // The rebalance drops such a node without moving its data.
    if this.was_failed_over() && !view.can_lose(view.count_failed_over()) {
        return Action::Wait(
            "this node has been failed over, and other nodes may not have all of its data: recover it or remove it in Couchbase Server"
                .to_owned(),
        );
    }
    if let Some(action) = decision::obstacle(view, memory, now, life::removable(ending, view)) {
        return action;
    }
    let failed_over = view.others().filter(|node| node.is_failed_over());
    let removed = failed_over.map(|node| node.name.clone()).collect();
    decision::rebalance(view, removed, memory, now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cbbootstrap_protocol::names::Uuid;

    use super::*;
    use crate::server::Recovery;

    const ME: &str = "10.0.0.1";
    const OTHER: &str = "10.0.0.2";

    /// A cluster of three nodes, with buckets of this many replicas.
    fn view(this: NodeInfo, other: NodeInfo, replicas: u32) -> View {
        let other = NodeInfo { is_asked: false, ..other };
        let third = NodeInfo { is_asked: false, ..NodeInfo::healthy("10.0.0.3") };
        let uuid = Uuid::new("a1").unwrap();
        View { fewest_replicas: Some(replicas), ..View::balanced(uuid, vec![this, other, third]) }
    }

    /// A rebalance drops a failed-over node without moving its data.
    #[test]
    fn failed_over_node_leaves_only_if_others_have_its_data() {
        let active = NodeInfo::healthy;
        let added = |name| NodeInfo { membership: Membership::Added, ..active(name) };
        let failed = |name| NodeInfo { membership: Membership::FailedOver, ..active(name) };
        let recovering = |name| NodeInfo { recovery: Recovery::Delta, ..added(name) };
        let dead = |node| NodeInfo { health: Health::Unhealthy, ..node };
        let waits = "other nodes may not have all of its data";
        let since = Instant::now();
        let memory = Memory {
            unreachable_since: [("ns_1@10.0.0.2".to_owned(), since)].into(),
            ..Memory::default()
        };
        #[rustfmt::skip]
        let cases = [
            ("active", view(active(ME), active(OTHER), 0), None),
            ("failed over, no replicas", view(failed(ME), active(OTHER), 0), Some(waits)),
            ("failed over, a replica", view(failed(ME), active(OTHER), 1), None),
            ("it recovers, no replicas", view(recovering(ME), active(OTHER), 0), Some(waits)),
            ("it recovers, a replica", view(recovering(ME), active(OTHER), 1), None),
            ("two failed over, a replica", view(failed(ME), dead(failed(OTHER)), 1), Some(waits)),
            ("two failed over, two replicas", view(failed(ME), dead(failed(OTHER)), 2), None),
            ("active beside a dead one, no replicas", view(active(ME), dead(failed(OTHER)), 0), Some("no other copy")),
            ("a rebalance runs", View { is_rebalancing: true, ..view(failed(ME), active(OTHER), 0) }, Some("a rebalance runs")),
        ];
        for (what, view, reason) in cases {
            match (next_action(&view, &memory, since + decision::DEAD_AFTER, None), reason) {
                (Action::Rebalance { .. }, None) => {}
                (Action::Wait(why), Some(part)) if why.contains(part) => {}
                (action, _) => panic!("{what}: {action:?}, not {reason:?}"),
            }
        }
        let never_in = view(added(ME), active(OTHER), 0);
        let action = next_action(&never_in, &memory, since, None);
        assert_eq!(action, Action::Eject("ns_1@10.0.0.1".to_owned()));

        // Two Spot interruptions at once: the other node has been failed over for its own, and still runs.
        let ending = |seconds| Ending {
            cause: life::Cause::SpotInterruption,
            time_left: Duration::from_secs(seconds),
            comes_back: false,
        };
        for (replicas, ending, rebalances) in [
            (1, Some(ending(120)), true),
            (1, Some(ending(20)), false),
            (2, Some(ending(20)), true),
            (1, None, false),
            (0, Some(ending(120)), false),
        ] {
            let view = view(active(ME), failed(OTHER), replicas);
            let action = next_action(&view, &memory, since, ending.as_ref());
            assert_eq!(matches!(action, Action::Rebalance { .. }), rebalances, "{action:?}");
        }
    }
}
