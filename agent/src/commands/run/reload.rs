//! The options of a life, and what stays when they are read again.

use std::time::Instant;

use cbbootstrap_cli::{command_line, failure::Failure};

use super::{Life, departure::Departing, machine::Machine};
use crate::{
    cli::{Cli, ClusterArgs, Command, LifeArgs, PauseArgs, RunArgs},
    commands::up,
    config,
    decision::{Memory, life::Notice},
    http::Deadline,
    printer::Printer,
    settings::{self, Here},
};

/// The options of a life, apart from those in [`Here`].
pub(super) struct Options {
    pub(super) pause: PauseArgs,
    pub(super) cluster: ClusterArgs,
    pub(super) life: LifeArgs,
}

/// What a life with new options must know of the one before. With another server, that is only what concerns the machine.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) machine: Machine,
    pub(super) departing: Departing,
    pub(super) notice: Option<Notice>,
    pub(super) is_ready: bool,
    pub(super) last: Option<Last>,
    pub(super) is_removal_unclear: bool,
    pub(super) memory: Memory,
}

/// A member, as this run last saw it.
pub(super) struct Last {
    pub(super) at: Instant,
    /// Whether it may have been about to leave: a rebalance ran, or another agent worked on it.
    pub(super) may_leave: bool,
}

pub(super) fn prepare(args: RunArgs, printer: &Printer) -> anyhow::Result<(Here, Options)> {
    let RunArgs { api, server, pause, cluster, life } = args;
    // Each call has its own time limit.
    let here = settings::here(api, server, Deadline::never())?;
    up::check_options(&here, &cluster, printer)?;
    Ok((here, Options { pause, cluster, life }))
}

/// Reads the command line, the environment and the options file again.
pub(super) fn reload(printer: &Printer) -> anyhow::Result<(Here, Options)> {
    let (Cli { command }, _) = command_line::try_read::<Cli>(config::options)?;
    match command {
        Command::Run(args) => prepare(*args, printer),
        _ => Err(Failure::usage("the arguments are not those of `run`").into()),
    }
}

impl Life<'_> {
    /// What a life with these options must know of this one.
    pub(super) fn keep(self, here: &Here) -> Kept {
        let kept = Kept { machine: self.machine, is_ready: self.is_ready, ..Kept::default() };
        if here.server.url != self.up.here.server.url {
            return kept;
        }
        Kept {
            departing: self.departing.keep(),
            notice: self.notice,
            last: self.last,
            is_removal_unclear: self.is_removal_unclear,
            memory: self.up.state.memory.keep(),
            ..kept
        }
    }
}
