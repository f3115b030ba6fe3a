//! What a request costs at the table, as `function/src/store/dynamodb/` makes its calls.

use cbbootstrap_protocol::{
    rules::Record,
    wire::{MAX_MEMBERS, State},
};
use jiff::Timestamp;

use crate::{limits::Units, node::Call};

/// Bytes of the members item, as the benchmark of the server measures them, without a cluster secret.
const MEMBERS_ITEM: f64 = 355.0;
const MEMBER: f64 = 63.0;

/// Of an eventually consistent read.
const RECENT: f64 = 0.5;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    pub calls: u64,
    /// Whether most units are for the members item, and not for the claim item.
    pub is_of_members: bool,
    pub units: Units,
}

impl Usage {
    /// Of this call, with this record before it.
    pub fn new(call: &Call, record: Option<&Record>, now: Timestamp) -> Self {
        let members = record.map_or(0, |record| record.members.len());
        let size = |members: usize| MEMBER.mul_add(members as f64, MEMBERS_ITEM);
        let read = 1.0 + (size(members) / 4096.0).ceil();
        let write = |members| (size(members) / 1024.0).ceil();
        let is_ready = record.is_some_and(|record| record.state == State::Ready);
        let (calls, is_of_members, writes, reads) = match call {
            // The condition of the first write fails.
            Call::Claim if record.is_some_and(|record| record.is_lapsed(now)) => {
                (2, false, 2.0, 0.0)
            }
            Call::Claim => (1, false, 1.0, 0.0),
            Call::Status => (1, members > 0, 0.0, read),
            Call::Ready { .. } if members >= MAX_MEMBERS => {
                (3, true, write(members), RECENT + read)
            }
            Call::Ready { .. } if is_ready => (2, true, write(members + 1), RECENT),
            Call::Ready { .. } => (3, false, 2.0, RECENT),
            // Of a claim, which is given up.
            Call::Leave { .. } => (2, false, 1.0, 2.0),
        };
        Self { calls, is_of_members, units: Units { writes, reads } }
    }
}
