//! What stays of a life when the options are read again.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use cbbootstrap_cli::{
    command_line,
    failure::{Failure, one_line},
    files,
};

use super::{Life, systemd};
use crate::{
    cli::{Cli, Command, RunArgs},
    config,
    http::Deadline,
    settings::{self, Here},
};

/// The secrets are read after each pause while the node lacks something, unless the last read is younger than this.
const SECRETS_AGE: Duration = Duration::from_secs(1);

/// Reads the command line, the environment and the options file, which was this one before, again.
fn read_options(config: Option<&PathBuf>) -> anyhow::Result<RunArgs> {
    config.map_or(Ok(()), |file| files::check_readable_again(file))?;
    let (Cli { command }, _) = command_line::try_read::<Cli>(config::options)?;
    let Command::Run(args) = command else {
        return Err(Failure::usage("the arguments are not those of `run`").into());
    };
    let RunArgs { api, server, .. } = &*args;
    let named = [&api.secret_file, &server.password_file, &server.ca_cert];
    named.into_iter().flatten().try_for_each(|file| files::check_readable_again(file))?;
    Ok(*args)
}

impl Life<'_> {
    /// Whether the password or the cluster secret is now another one, while a server or the API may have refused the old one. Then the
    /// options are read again as on SIGHUP.
    pub(super) fn has_new_secrets(&mut self) -> bool {
        if self.is_complete || self.secrets_read_at.elapsed() < SECRETS_AGE {
            return false;
        }
        self.secrets_read_at = Instant::now();
        let here = &self.up.here;
        let read = || {
            let RunArgs { api, mut server, .. } = read_options(self.config.as_ref())?;
            server.node = Some(here.identity.node.clone());
            settings::here(api, server, Deadline::never())
        };
        let token = |here: &Here| here.api.keys.as_ref().map(|keys| keys.token().to_owned());
        match read() {
            Ok(new) => {
                new.peers.administrator.password != here.peers.administrator.password
                    || new.api.cluster_id == here.api.cluster_id && token(&new) != token(here)
            }
            Err(error) => {
                let why = one_line(&error);
                self.printer.warning_once(format_args!("the options cannot be read again: {why}"));
                false
            }
        }
    }

    /// Begins a life with the options as they are now, unless they are not valid.
    pub(super) fn reload(self, is_requested: bool) -> Self {
        // READY=1 would end the start of a node that still joins.
        let notify = |state| self.announced.is_ready.then(|| systemd::notify(state, "1"));
        notify("RELOADING");
        let new = read_options(self.config.as_ref())
            .and_then(|args| Self::new(args, self.printer, self.monitor));
        notify("READY");
        match new {
            Ok(new) => {
                self.printer.step("reload: the options were read again");
                self.monitor.count_reload();
                new.after(self)
            }
            Err(error) => {
                let why = one_line(&error);
                let why = format!("the new options are not valid, and the old ones stay: {why}");
                if is_requested {
                    self.printer.warning(why);
                } else {
                    self.printer.warning_once(why);
                }
                self
            }
        }
    }

    /// Takes over what it must know of the life before. With another server, that is only what concerns the machine.
    fn after(mut self, before: Self) -> Self {
        self.machine = before.machine;
        self.announced.is_ready = before.announced.is_ready;
        if self.up.here.server.url == before.up.here.server.url {
            self.up.state.memory = before.up.state.memory.keep();
            self.departing = before.departing.keep();
            self.notice = before.notice;
            let (new, old) = (&self.up.here, &before.up.here);
            if (&new.api.url, &new.api.cluster_id, &new.identity.node)
                != (&old.api.url, &old.api.cluster_id, &old.identity.node)
            {
                // What the node has begun must not be reported to another cluster, or of another node, without a check.
                let leaving = &mut self.departing.leaving;
                (leaving.was_other, leaving.generation) = (true, None);
                self.up.state.memory.kept.removed.clear();
            }
        }
        self
    }
}
