//! Whether people have removed the node.

use std::time::Instant;

use cbbootstrap_protocol::wire::State;

use super::{Interrupt, Life, up};
use crate::{
    decision::{DEAD_AFTER, OwnServer, Testimony},
    server::{Health, Membership, NodeInfo, View},
};

/// A member, as this run last saw it.
pub(super) struct Last {
    pub(super) at: Instant,
    /// Whether only people can have removed it if it is blank soon afterwards: a rebalance ran, or another agent worked on it.
    pub(super) may_leave: bool,
    /// Whether it was well and knew its cluster. If it was failed over, this was so before a rebalance began: agents remove nodes that
    /// cannot be reached, and such a node may come back while they do.
    pub(super) sees_cluster: bool,
    /// Whether it was failed over after a failure. The agent of a machine that ends also removes such a node.
    pub(super) could_recover: bool,
}

impl Life<'_> {
    /// Notes whether people have removed the node while this run watched it.
    pub(super) fn track(&mut self, own: &OwnServer) {
        match own {
            OwnServer::Member(view) => {
                let was_well = self.last.as_ref().is_some_and(|last| last.sees_cluster);
                let is_well = self.knows_cluster(view)
                    && view.this().is_some_and(|this| match this.membership {
                        Membership::Active => true,
                        Membership::FailedOver => !view.is_rebalancing || was_well,
                        Membership::Added => false,
                    });
                // A server does not know that it was removed if it cannot reach other members. The only node cannot be removed.
                let is_lost = |node: &NodeInfo| {
                    node.membership == Membership::Active && node.health == Health::Unhealthy
                };
                let sees_cluster = is_well && view.nodes.len() > 1 && !view.others().any(is_lost);
                let may_leave = is_well && view.is_rebalancing;
                let up::Run { goal, state, .. } = &self.up;
                let could_recover = goal.recovers
                    && state.memory.explains_failover()
                    && view.this().is_some_and(|this| this.membership == Membership::FailedOver);
                let at = Instant::now();
                self.last = Some(Last { at, may_leave, sees_cluster, could_recover });
                let departure = &mut self.departing.state;
                departure.is_removed = false;
                // A rebalance that this run started goes on after the notice was withdrawn.
                departure.is_leaving &= self.notice.is_some() || view.is_rebalancing;
            }
            OwnServer::Blank(_) if self.departing.state.is_leaving => {
                self.last = None;
                self.departing.state.is_leaving = self.notice.is_some();
            }
            OwnServer::Blank(_) => {
                let last = self.last.take().filter(|last| last.at.elapsed() < DEAD_AFTER);
                if last.is_some() {
                    // A refusal was about a member.
                    self.rest_until = None;
                }
                if let Some(last) = last.filter(|last| !last.could_recover) {
                    self.departing.state.is_removed |= last.may_leave;
                    self.is_removal_unclear = last.sees_cluster && !last.may_leave;
                }
            }
            // A server that refuses the agent's password runs: nobody removes it as a dead one.
            OwnServer::OtherCredentials => {
                if let Some(last) = &mut self.last {
                    last.at = Instant::now();
                }
            }
            OwnServer::Unreachable(_) => {
                // Its next answers have to be confirmed.
                self.up.state.memory.is_confirmed = false;
                // A server that was down for longer was removed as a dead one, and joins again.
                self.last.take_if(|last| last.at.elapsed() >= DEAD_AFTER);
            }
        }
    }

    /// Whether people have removed the node of a server that was a healthy member a moment ago. If the cluster still lists it, the
    /// server has lost its data.
    pub(super) fn was_removed(&mut self) -> Result<bool, Interrupt> {
        let up::Run { here, goal, .. } = &self.up;
        let (node, server) = (&here.identity.node, &here.server);
        let Some(record) = here.api.status(Some(node))? else { return Ok(false) };
        if record.state != State::Ready {
            return Ok(false);
        }
        if record.member(node).is_none() || !goal.trusts_members {
            return Ok(true);
        }
        let is_enterprise = server.pools()?.is_enterprise;
        let is_listed = |view: &View| view.member(node).is_some();
        match here.peers.ask_about(node, &record, is_enterprise, is_listed) {
            Testimony::Listed(_) => Ok(false),
            Testimony::NotListed(_) => Ok(true),
            Testimony::Silent { why, .. } => {
                self.lock = None;
                Err(Interrupt::wait(format!(
                    "no other member says whether this node was removed from its cluster: {why}"
                )))
            }
        }
    }
}
