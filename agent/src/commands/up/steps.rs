//! What is done on the way, once it is decided.

use std::net::{ToSocketAddrs, UdpSocket};

use super::{super::refused, Round, Run, count};
use crate::{
    api::Unanswered,
    decision::{Asked, Own},
    failure::Failure,
    server::Error,
    settings::buckets_too_big,
    values::Service,
};

impl Run<'_> {
    /// Couchbase Server takes a name only if it leads to the host. Tells why to wait if nobody knows it yet.
    pub(super) fn check_node(&self) -> Result<Option<String>, Failure> {
        if !self.here.is_local {
            return Ok(None);
        }
        let node = &self.here.node;
        let addresses = match (node.as_str(), 0).to_socket_addrs() {
            Ok(addresses) => addresses,
            Err(error) => {
                return Ok(Some(format!("`{node}` is not known by name yet: {error}")));
            }
        };
        let addresses: Vec<_> = addresses.map(|address| address.ip()).collect();
        // Only a host's own addresses can be bound.
        if addresses.iter().any(|ip| UdpSocket::bind((*ip, 0)).is_ok()) {
            return Ok(None);
        }
        let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let shown = shown.join(", ");
        let is = if shown == *node {
            format!("`{node}`")
        } else {
            format!("`{node}` is {shown}, and that")
        };
        Err(Failure::usage(format!("{is} is no address of this host")).hint(
            "give the host's own, which the other nodes reach; a public one behind NAT goes into `--alternate-address`",
        ))
    }

    /// Initialises the cluster. Where that cannot be, the claim is given up: another node need not wait until it lapses.
    pub(super) fn initialise(&mut self) -> anyhow::Result<Round> {
        let round = self.try_to_initialise();
        if round.is_err() {
            // What cannot be told will lapse.
            let _ = self.api.leave(&self.here.node);
        }
        Ok(round?)
    }

    fn try_to_initialise(&mut self) -> Result<Round, Failure> {
        if !self.plan.services.has(Service::Data) {
            return Err(Failure::usage(
                "this node is the first, and the first needs the data service",
            )
            .hint("begin with a node that has `data` among its `--services`"));
        }
        let server = &self.here.server;
        let memory = match server.memory() {
            Ok(memory) => memory,
            Err(error) => return Ok(Round::Wait(error.to_string())),
        };
        let quota = self
            .plan
            .quota
            .megabytes(memory, &self.plan.services)
            .map_err(|why| {
                Failure::usage(format!("--memory-quota: {why}"))
                    .hint("`auto` takes what is right for the node")
            })?;
        let buckets: u64 = self.plan.buckets.iter().map(|bucket| bucket.quota).sum();
        if buckets > quota {
            return Err(buckets_too_big(buckets, quota));
        }
        let services = self.plan.services.codes();
        let name = self.plan.cluster_name.as_deref();
        match server.initialise(&self.here.node, &services, quota, name) {
            Ok(()) => {
                let services = &self.plan.services;
                self.printer.step(format_args!(
                    "initialise: a cluster of one node, {quota} MB, {services}"
                ));
                Ok(Round::Again)
            }
            Err(Error::Refused(status, why)) if status.is_client_error() => Err(Failure::new(
                format!("the server does not initialise the cluster: {why}"),
            )
            .hint("these are the server's own words; nothing was changed")),
            // Whatever it was: the next look shows what came of it.
            Err(error) => Ok(Round::Wait(format!("initialise: {error}"))),
        }
    }

    pub(super) fn rebalance(&mut self, known: &[String], ejected: &[String]) -> Round {
        let names = |list: &[String]| {
            list.iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(",")
        };
        match self
            .here
            .server
            .start_rebalance(&names(known), &names(ejected))
        {
            Ok(started) => {
                self.rebalances.begin();
                if started {
                    self.printer
                        .step(format_args!("rebalance: of {}", count(known.len(), "node")));
                }
                for node in ejected {
                    self.printer.warning(format_args!(
                        "`{node}` was added and cannot be reached: the rebalance leaves it out"
                    ));
                }
                Round::Wait("a rebalance runs".to_owned())
            }
            // The list has changed meanwhile, or another rebalance is about to begin.
            Err(error) => Round::Wait(format!("the rebalance does not begin yet: {error}")),
        }
    }

    /// The first node begins in a group of the server's own: that one is given the name.
    pub(super) fn group(&mut self, own: &Own) -> Round {
        let (Own::Member(view), Some(wanted)) = (own, &self.plan.group) else {
            return Round::Again;
        };
        let server = &self.here.server;
        let groups = match server.groups() {
            Ok(groups) => groups,
            Err(error) => return Round::Wait(error.to_string()),
        };
        match groups.as_slice() {
            [only] if view.nodes.len() == 1 => match server.rename_group(only, wanted) {
                Ok(()) => self.printer.step(format_args!("group: `{wanted}`")),
                Err(error) => return Round::Wait(error.to_string()),
            },
            _ => {
                let group = view.this().map_or("another", |this| &this.group);
                self.printer.warning(format_args!(
                    "the node is in the server group `{group}`, and not in `{wanted}`: moving it is left to you"
                ));
            }
        }
        self.done.group_done = true;
        Round::Again
    }

    pub(super) fn create_bucket(&mut self, name: &str) -> anyhow::Result<Round> {
        let Some(bucket) = self.plan.buckets.iter().find(|bucket| bucket.name == name) else {
            return Ok(Round::Again);
        };
        match self.here.server.create_bucket(bucket) {
            Ok(()) => {
                self.refusals = 0;
                self.printer
                    .step(format_args!("bucket: `{name}`, {} MB a node", bucket.quota));
                Ok(Round::Wait(format!("the bucket `{name}` is to appear")))
            }
            Err(Error::Refused(status, why)) if status.is_client_error() => {
                // It may have appeared since the last look.
                self.refusals += 1;
                if self.refusals < 3 {
                    return Ok(Round::Wait(why));
                }
                Err(
                    Failure::new(format!("the bucket `{name}` cannot be made: {why}"))
                        .hint("these are the server's own words; the cluster is up without it")
                        .into(),
                )
            }
            Err(error) => Ok(Round::Wait(error.to_string())),
        }
    }

    pub(super) fn address(&mut self) -> anyhow::Result<Round> {
        if let Some(address) = &self.plan.alternate_address {
            match self.here.server.set_alternate_address(address) {
                Ok(()) => self
                    .printer
                    .step(format_args!("alternate address: {address}")),
                Err(Error::Refused(status, why)) if status.is_client_error() => {
                    return Err(
                        Failure::new(format!("the alternate address is refused: {why}"))
                            .hint(
                                "these are the server's own words; the node is a member without it",
                            )
                            .into(),
                    );
                }
                Err(error) => return Ok(Round::Wait(error.to_string())),
            }
        }
        self.done.address_done = true;
        Ok(Round::Again)
    }

    pub(super) fn report(&mut self, uuid: &str) -> anyhow::Result<Round> {
        let Some(record) = self.known() else {
            return Ok(Round::Again);
        };
        let generation = record.cluster.generation;
        match self.api.ready(&self.here.node, generation, uuid) {
            Ok(record) => {
                self.printer.step("ready: the API has it");
                self.record = Asked::Record(record);
                self.done.reported = true;
                Ok(Round::Again)
            }
            Err(Unanswered::Later(why)) => Ok(Round::Wait(why)),
            Err(Unanswered::Refused(problem)) => match problem.code.as_str() {
                // Asked anew, the API says who has the cluster now.
                "stale_generation" | "initial_node_not_ready" | "cluster_not_found" => {
                    self.record = Asked::NotYet;
                    Ok(Round::Wait(problem.detail))
                }
                "other_cluster" => {
                    let why = format!("there is a second cluster: {}", problem.detail);
                    Err(Failure::refused(why).hint(super::refusal::RESET).into())
                }
                "too_many_nodes" => {
                    self.printer.warning(problem.detail);
                    self.done.reported = true;
                    Ok(Round::Again)
                }
                _ => Err(refused(Unanswered::Refused(problem))),
            },
            Err(error) => Err(refused(error)),
        }
    }
}
