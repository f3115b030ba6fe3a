//! The rounds of a command's calls: how often it waits for AWS.

use std::{
    fmt::{Display, Formatter},
    time::Instant,
};

use super::Call;

/// Calls by round. A call belongs to the first round after those of all calls that were answered before it.
///
/// The number of rounds is the length of the longest chain of calls that wait for one another. It is reliable if each call takes
/// longer than the program's own work between two of them.
#[derive(Debug)]
pub struct Rounds(Vec<Vec<Call>>);

impl Rounds {
    /// The rounds of all answered calls. Polls of a stack and all but the last of a function are left out, because the change
    /// determines their number.
    pub fn new(calls: &[Call]) -> Self {
        let last = |operation| calls.iter().rev().find(|call| call.operation() == operation);
        let changed =
            last("ExecuteChangeSet").or(last("DeleteStack")).and_then(|call| call.answered);
        let replaced = last("UpdateFunctionCode").and_then(|call| call.answered);
        let last_read = last("GetFunctionConfiguration").map_or(0, |call| call.number);
        let is_after =
            |call: &Call, begin: Option<Instant>| begin.is_some_and(|it| call.asked >= it);
        let is_poll = |call: &Call| match call.operation() {
            "DescribeStackEvents" => is_after(call, changed),
            "GetFunctionConfiguration" => is_after(call, replaced) && call.number != last_read,
            _ => false,
        };
        let mut rounds: Vec<Vec<Call>> = Vec::new();
        // A round's calls are asked after the first answer of the round before, so this order has all that came before a call.
        let mut calls: Vec<_> =
            calls.iter().filter(|call| call.answered.is_some() && !is_poll(call)).collect();
        calls.sort_by_key(|call| call.asked);
        for call in calls {
            let is_before = |other: &Call| other.answered.is_some_and(|at| at <= call.asked);
            let last = rounds.iter().rposition(|round| round.iter().any(is_before));
            let number = last.map_or(0, |last| last + 1);
            if number == rounds.len() {
                rounds.push(Vec::new());
            }
            rounds[number].push(call.clone());
        }
        Self(rounds)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// One line for each round.
impl Display for Rounds {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        for (round, number) in self.0.iter().zip(1..) {
            let names: Vec<_> = round.iter().map(|call| call.name.as_str()).collect();
            writeln!(f, "{number:2}: {}", names.join(", "))?;
        }
        Ok(())
    }
}
