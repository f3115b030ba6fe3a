//! The rebalance that takes nodes in, and the recovery of this one before it.

use super::{Interrupt, Run, count_nodes};
use crate::{
    commands::rebalances,
    server::{Recovery, View},
};

impl Run<'_> {
    /// Starts a rebalance of these nodes, which removes these failed-over ones, unless someone has stopped the last one.
    pub(super) fn rebalance(
        &mut self,
        known: &[String],
        removed: &[String],
        view: &View,
    ) -> Result<(), Interrupt> {
        let (server, printer) = (&self.here.server, self.printer);
        let memory = &mut self.state.memory;
        let last = memory.kept.rebalance_id.as_ref();
        // A rebalance whose orchestrator died has no report.
        if last.is_some_and(|id| server.was_stopped(id).unwrap_or_default()) {
            (memory.kept.rebalance_id, memory.kept.stopped_among) =
                (None, Some(view.memberships()));
            printer.warning(
                "someone stopped the rebalance: this node does not start another one before the cluster's nodes change",
            );
            return Ok(());
        }
        let (is_started, why) = rebalances::start(memory, server, known, "", removed, printer);
        if is_started == Some(true) {
            printer.step(format_args!("rebalance: of {}", count_nodes(known.len())));
        }
        Err(Interrupt::watch(why))
    }

    /// Marks this failed-over node to be recovered by the next rebalance.
    pub(super) fn recover(&mut self, otp: &str, recovery: Recovery) -> Result<(), Interrupt> {
        let memory = &mut self.state.memory;
        match self.here.server.set_recovery(otp, recovery) {
            Ok(()) => {
                let is_delta = recovery == Recovery::Delta;
                let data = if is_delta { "its data" } else { "the data of the other nodes" };
                self.printer.step(format_args!(
                    "recover: the next rebalance takes this node in again with {data}"
                ));
            }
            Err(error) if error.is_permanent() && recovery == Recovery::Delta => {
                memory.is_delta_refused = true;
                self.printer.warning(format_args!(
                    "the server refuses to recover this node with its data: {error}"
                ));
            }
            Err(error) => {
                return Err(Interrupt::wait(format!("this node cannot be recovered yet: {error}")));
            }
        }
        Ok(())
    }
}
