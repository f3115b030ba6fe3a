//! `leave`: moves the node's data to the others, takes it out of its cluster, and tells the API.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{Clock, lock, rebalances::Rebalances, refused};
use crate::{
    api::{Api, Unanswered},
    cli::LeaveArgs,
    decision::resting,
    failure::{Exit, Failure},
    printer::Printer,
    server::{Error, Membership, View},
    settings::{self, Here},
};

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    cluster_id: String,
    node: String,
    /// The node that others join now; none if the API knows of no cluster.
    initial_node: Option<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cluster_id, node, ..
        } = self;
        write!(f, "`{node}` has left `{cluster_id}`")?;
        match &self.initial_node {
            Some(next) => write!(f, "; the node to join is `{next}`"),
            None => write!(f, "; the API knows of no such cluster"),
        }
    }
}

/// What to do next about the server.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Wait(String),
    /// Start a rebalance of these nodes, the first list, without the others.
    Rebalance(String, String),
    LastNode,
}

pub fn run(args: LeaveArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let here = settings::here(args.server, args.api.secret_file.as_deref())?;
    let api = settings::api(args.api)?;
    let clock = Clock::new(args.wait.into());
    let _lock = lock(&here.server, &clock, printer)?;
    take_out(&here, &api, &clock, printer)?;
    let initial_node = loop {
        match api.leave(&here.node) {
            Ok(record) => break Some(record.cluster.initial_node_ip_addr_or_hostname),
            Err(Unanswered::Later(why)) => clock.pause(printer, &why)?,
            Err(Unanswered::Refused(problem)) if problem.code == "cluster_not_found" => break None,
            Err(error) => return Err(refused(error)),
        }
    };
    printer.result(&Outcome {
        cluster_id: api.cluster_id,
        node: here.node,
        initial_node,
    })?;
    Ok(Exit::Done)
}

/// Until the server belongs to no cluster.
fn take_out(here: &Here, api: &Api, clock: &Clock, printer: &Printer) -> anyhow::Result<()> {
    let mut has_looked = false;
    let mut is_on_its_way = false;
    let mut rebalances = Rebalances::default();
    loop {
        let why = match here.server.cluster() {
            Ok(None) => {
                printer.step("server: belongs to no cluster");
                return Ok(());
            }
            // While it is reset, it may have lost the password already.
            Err(Error::Unauthorized) if !is_on_its_way => {
                return Err(Failure::refused(
                    "the server takes another user name or password than the given ones; nothing was changed",
                )
                .hint("give the right ones")
                .into());
            }
            Err(error) => error.to_string(),
            Ok(Some(view)) => {
                if !has_looked {
                    check(&view, api, here)?;
                    has_looked = true;
                }
                // Nothing but the node's absence will do.
                rebalances.watch(&here.server, &view, false, printer)?;
                match next(&view, rebalances.rest()) {
                    Next::Wait(why) => why,
                    Next::LastNode => {
                        return Err(Failure::refused(
                            "it is the cluster's last active node, and without it the data is gone; nothing was changed",
                        )
                        .hint("if the whole cluster is to go, end its machines, and `cbbootstrap cluster forget` its record")
                        .into());
                    }
                    Next::Rebalance(known, ejected) => {
                        match here.server.start_rebalance(&known, &ejected) {
                            Ok(true) => {
                                is_on_its_way = true;
                                rebalances.begin();
                                printer.step("rebalance: this node's data moves to the others");
                                "a rebalance runs".to_owned()
                            }
                            Ok(false) => "another rebalance runs".to_owned(),
                            Err(error) => format!("the rebalance does not begin yet: {error}"),
                        }
                    }
                }
            }
        };
        clock.pause(printer, &why)?;
    }
}

/// The server must belong to the cluster that the API tells of, if it tells of one.
fn check(view: &View, api: &Api, here: &Here) -> anyhow::Result<()> {
    let record = match api.status(Some(&here.node)) {
        Ok(record) => record,
        // It can be told later; the data moves already.
        Err(Unanswered::Later(_)) => None,
        Err(error) => return Err(refused(error)),
    };
    let recorded = record.and_then(|record| record.cluster.cluster_uuid);
    match recorded {
        Some(uuid) if uuid != view.uuid => Err(Failure::refused(format!(
            "the server belongs to the cluster {}, and that of `{}` is {uuid}; nothing was changed",
            view.uuid, api.cluster_id
        ))
        .hint("is `--cluster-id` the one that this node came up with?")
        .into()),
        _ => Ok(()),
    }
}

/// How the node gets out of what it sees.
fn next(view: &View, rest: Duration) -> Next {
    let Some(this) = view.this() else {
        return Next::Wait("the server does not know itself yet".to_owned());
    };
    let others = view.nodes.iter().filter(|node| !node.asked);
    let can_take_over = others
        .clone()
        .any(|node| node.membership == Membership::Active);
    if !can_take_over {
        return Next::LastNode;
    }
    if view.rebalancing {
        return Next::Wait("a rebalance runs".to_owned());
    }
    if !rest.is_zero() {
        return Next::Wait(resting(rest));
    }
    let known: Vec<_> = view.nodes.iter().map(|node| node.otp.as_str()).collect();
    Next::Rebalance(known.join(","), this.otp.clone())
}
