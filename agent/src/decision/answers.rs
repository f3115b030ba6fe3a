//! What the API has answered, from round to round.

use std::time::Instant;

use cbbootstrap_protocol::wire::State;

use super::{Memory, OwnServer};
use crate::record::ClusterRecord;

/// The API's record, as far as it is known.
#[derive(Clone, Debug, Default)]
pub enum Asked {
    #[default]
    NotYet,
    NoRecord,
    Record(ClusterRecord),
}

impl Asked {
    /// Whether the record need not be read again in the next round. Once a cluster is ready, only its members change, and a node that
    /// has left needs the current ones. The first node reports at once: the API refuses the report by its generation if the claim was
    /// taken over.
    pub(super) fn is_current(&self, own: &OwnServer, memory: &Memory) -> bool {
        let Self::Record(record) = self else { return false };
        match (record.state, own) {
            (State::Ready, OwnServer::Blank(_)) => !memory.is_reported,
            (State::Ready, _) => true,
            (State::Claimed, OwnServer::Member(_)) => record.is_initial,
            (State::Claimed, _) => false,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// The last one, if it is final or of this round.
    pub asked: Asked,
    /// The generation of the latest record, and the end of its lease.
    pub claim: (u64, Option<Instant>),
}

impl Answers {
    /// Drops what no longer holds for this state of the server.
    pub fn begin_round(&mut self, own: &OwnServer, memory: &mut Memory) {
        if !self.asked.is_current(own, memory) {
            self.asked = Asked::NotYet;
        }
        memory.observe(own);
    }

    /// Stores a record. Returns whether it has another claim than the last one.
    pub fn learn(&mut self, mut record: ClusterRecord, memory: &mut Memory) -> bool {
        let (generation, lease_end) = self.claim;
        let is_other = record.generation != generation;
        if is_other {
            // The node that lost this claim has not been inspected.
            memory.inspections.clear();
        } else {
            // Leases are not renewed within a generation: the earliest known end counts.
            record.lease_end = record.lease_end.map(|end| end.min(lease_end.unwrap_or(end)));
        }
        self.claim = (record.generation, record.lease_end);
        self.asked = Asked::Record(record);
        is_other
    }
}
