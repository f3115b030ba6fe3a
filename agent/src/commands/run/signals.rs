//! Signals: SIGHUP reads the options again, SIGTERM and SIGINT end the agent.

use std::{
    process,
    sync::mpsc::{self, Receiver},
    thread,
};

use anyhow::Context;
use cbbootstrap_cli::console::Console;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::systemd;

/// Ends the process on SIGTERM and SIGINT, whatever it is doing: an agent can be killed at any time. Each SIGHUP is a message.
pub(super) fn listen() -> anyhow::Result<Receiver<()>> {
    let signals = Signals::new([SIGHUP, SIGINT, SIGTERM]);
    let mut signals = signals.context("cannot wait for signals")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                let _ = sender.send(());
                continue;
            }
            systemd::notify("STOPPING", "1");
            Console::default().message("the agent exits; the node's membership does not change");
            process::exit(0);
        }
    });
    Ok(receiver)
}
