//! Whether people have removed the node.

use std::time::Instant;

use cbbootstrap_protocol::wire::State;

use super::{Interrupt, Life, up};
use crate::{
    commands::leave::Leaving,
    decision::{
        OwnServer, Testimony,
        life::{Departure, Notice, Removal},
    },
    server::View,
};

impl Life<'_> {
    /// Notes whether people have removed the node while this run watched it.
    pub(super) fn track(&mut self, own: &OwnServer) {
        let Departure { is_leaving, removal, .. } = self.departing.state;
        match (own, removal) {
            // A refusal was about a member.
            (OwnServer::Blank(_), Removal::Watching(_)) if !is_leaving => self.rest_until = None,
            // Its next answers have to be confirmed.
            (OwnServer::Unreachable(_), _) => self.up.state.memory.is_confirmed = false,
            _ => {}
        }
        let knows_cluster = matches!(own, OwnServer::Member(view) if self.knows_cluster(view));
        let recovers = self.up.goal.recovers && self.up.state.memory.explains_failover();
        let has_notice = self.notice.as_ref().is_some_and(Notice::is_due);
        let departure = &mut self.departing.state;
        departure.observe(own, has_notice, knows_cluster, recovers, Instant::now());
        if !has_notice && !departure.is_leaving {
            // The next departure has nothing in common with the last one.
            self.departing.leaving = Leaving::default();
        }
    }

    /// Whether people have removed the node of a server that was a healthy member a moment ago. If the cluster still lists it, the
    /// server has lost its data.
    pub(super) fn ask_about_removal(&mut self) -> Result<Removal, Interrupt> {
        let up::Run { here, goal, .. } = &self.up;
        let (node, server) = (&here.identity.node, &here.server);
        let record = here.api.status(Some(node))?;
        let Some(record) = record.filter(|record| record.state == State::Ready) else {
            return Ok(Removal::Unknown);
        };
        if record.member(node).is_none() || !goal.trusts_members {
            return Ok(Removal::Removed);
        }
        let is_enterprise = server.pools()?.is_enterprise;
        let is_listed = |view: &View| view.member(node).is_some();
        match here.peers.ask_about(node, &record, is_enterprise, is_listed) {
            Testimony::Listed(_) => Ok(Removal::Unknown),
            Testimony::NotListed(_) => Ok(Removal::Removed),
            Testimony::Silent { why, .. } => {
                self.lock = None;
                Err(Interrupt::wait(format!(
                    "no other member can tell whether this node was removed from its cluster: {why}"
                )))
            }
        }
    }
}
