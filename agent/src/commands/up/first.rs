//! The first node: what it checks before it claims, what it looks at after, and its initialisation.

use std::{
    net::{ToSocketAddrs, UdpSocket},
    thread,
    time::Instant,
};

use cbbootstrap_protocol::names::{Host, Node};

use super::{Round, Run};
use crate::{
    commands::clock::Wait,
    decision::{LEASE_MARGIN, Look},
    failure::Failure,
    http::Trust,
    server::{Error, FirstNode, Server},
    settings::buckets_too_big,
};

impl Run<'_> {
    /// Runs slow checks and finds wrong options before the claim, because the lease only covers the initialisation. Returns why to wait.
    pub(super) fn check_before_claim(&mut self) -> Result<Option<String>, Failure> {
        if let Some(why) = self.check_node()? {
            return Ok(Some(why));
        }
        let services = &self.plan.services;
        if !self.is_enterprise() && !services.are_of_community() {
            return Err(Failure::usage(format!(
                "Community Edition does not have the services {services} on one node"
            ))
            .hint("it has `data`, `data,index,query` or `data,index,query,search`"));
        }
        self.quota()?;
        Ok(None)
    }

    /// The data service's memory in MB.
    fn quota(&self) -> Result<u64, Failure> {
        let quota =
            self.plan.quota.megabytes(self.memory_bytes, &self.plan.services).map_err(|why| {
                Failure::usage(format!("--memory-quota: {why}"))
                    .hint("`auto` takes what is right for the node")
            })?;
        let buckets: u64 = self.plan.buckets.iter().map(|bucket| bucket.quota).sum();
        if buckets > quota {
            return Err(buckets_too_big(buckets, quota));
        }
        Ok(quota)
    }

    /// Couchbase Server takes a name only if it leads to the host. Returns why to wait if the name cannot be resolved yet.
    fn check_node(&self) -> Result<Option<String>, Failure> {
        if !self.here.is_local {
            return Ok(None);
        }
        let node = &self.here.node;
        let addresses = match (node.host().to_string().as_str(), 0).to_socket_addrs() {
            Ok(addresses) => addresses,
            Err(error) => return Ok(Some(format!("`{node}` cannot be resolved yet: {error}"))),
        };
        let addresses: Vec<_> = addresses.map(|address| address.ip()).collect();
        // Only a host's own addresses can be bound.
        if addresses.iter().any(|ip| UdpSocket::bind((*ip, 0)).is_ok()) {
            return Ok(None);
        }
        let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let is = match node.host() {
            Host::Name(_) => format!("`{node}` resolves to {}, which", shown.join(", ")),
            Host::V4(_) | Host::V6(_) => format!("`{node}`"),
        };
        Err(Failure::usage(format!("{is} is not an address of this host")).hint(
            "give the host's own, which the other nodes reach; a public one behind NAT goes into `--alternate-address`",
        ))
    }

    /// Looks at the servers of nodes that lost their claims, all at once and without credentials. One that is there and does not say
    /// what it is may be a cluster: it is looked at again.
    pub(super) fn look_at(&mut self, nodes: &[Node]) -> Round {
        let deadline = self.here.peers.deadline;
        let look = |node: &Node| {
            let by_tls = Server::of_node(node, &Trust::Anyone, None, deadline).is_provisioned();
            // Community Edition has no TLS.
            let answers = [by_tls].into_iter().chain(std::iter::once_with(|| {
                Server::of_node_without_tls(node, None, deadline).is_provisioned()
            }));
            let mut unclear = None;
            for answer in answers {
                match answer {
                    Ok(true) => return Ok(Look::Provisioned),
                    Ok(false) => return Ok(Look::Blank),
                    Err(Error::Away(_) | Error::Untrusted(_)) => {}
                    Err(error) => unclear = Some(error.to_string()),
                }
            }
            unclear.map_or(Ok(Look::Unreachable), Err)
        };
        let looks: Vec<_> = thread::scope(|scope| {
            let looking: Vec<_> = nodes.iter().map(|node| scope.spawn(|| look(node))).collect();
            looking
                .into_iter()
                .map(|look| {
                    let look = look.join();
                    look.unwrap_or_else(|_| Err("the look at it failed".to_owned()))
                })
                .collect()
        });
        let mut unclear = None;
        for (node, look) in nodes.iter().zip(looks) {
            let look = match look {
                Ok(look) => look,
                Err(why) => {
                    unclear = Some((node, why));
                    continue;
                }
            };
            let is = match look {
                Look::Blank => "belongs to no cluster",
                Look::Provisioned => "belongs to a cluster",
                Look::Unreachable => "does not answer",
            };
            self.printer.step(format_args!("look: `{node}`, which lost its claim, {is}"));
            self.done.looks.insert(node.clone(), look);
        }
        let Some((node, why)) = unclear else {
            return Round::Again;
        };
        let id = self.api.cluster_id.as_str();
        Round::Wait(
            Wait::new(format!(
                "`{node}`, which lost its claim, is there and does not say whether it belongs to a cluster: {why}"
            ))
            .hint(format!(
                "repair or stop that server; if there is no cluster, `cbbootstrap cluster forget {id}` lets a new one begin"
            )),
        )
    }

    /// Gives the claim up: a node that lost it has a cluster, and may claim again and report it.
    pub(super) fn give_up(&mut self, node: &Node) -> Round {
        let generation = self.record().map(|record| record.generation);
        if let Err(error) = self.api.leave(&self.here.node, self.own_uuid.as_ref(), generation) {
            return Round::wait(format!("the claim cannot be given up yet: {error}"));
        }
        self.printer.warning(format_args!(
            "`{node}` has initialised its server without reporting it: this node gives its claim up, so that `{node}` can report"
        ));
        self.seen.occupied = Some((node.clone(), Instant::now()));
        Round::Again
    }

    /// Initialises the cluster. Where that cannot be, the claim is given up: another node need not wait until it expires.
    pub(super) fn initialise(&mut self) -> anyhow::Result<Round> {
        let Some(record) = self.record() else {
            return Ok(Round::Again);
        };
        // Right before the call: it must end before the lease does.
        if record.lease_left.is_some_and(|left| left < LEASE_MARGIN) {
            return Ok(Round::Again);
        }
        let quota = self.quota()?;
        let services = self.plan.services.codes();
        let first = FirstNode {
            node: &self.here.node.host().to_string(),
            services: &services,
            quota,
            cluster_name: self.plan.cluster_name.as_deref(),
            administrator: &self.here.peers.administrator,
            is_enterprise: self.is_enterprise(),
        };
        match self.here.server.initialise(&first) {
            Ok(()) => {
                self.done.has_initialised = true;
                let services = &self.plan.services;
                self.printer.step(format_args!(
                    "initialise: a cluster of one node, {quota} MB, {services}"
                ));
                Ok(Round::Again)
            }
            Err(error) if error.is_permanent() => self.not_initialised(&error, record.generation),
            // Whatever it was: the next look shows what came of it. It may also come of it later.
            Err(error) => {
                self.may_be_under_way = true;
                Ok(Round::wait(format!("initialise: {error}")))
            }
        }
    }

    /// The server has refused. An earlier request, whose answer was lost, may have been carried out all the same.
    fn not_initialised(&self, error: &Error, generation: u64) -> anyhow::Result<Round> {
        match self.here.server.pools() {
            Ok(pools) if pools.uuid.is_none() => {}
            _ => return Ok(Round::wait(format!("initialise: {error}"))),
        }
        if self.may_be_under_way {
            return Err(Failure::new(format!("the server refuses to initialise the cluster: {error}"))
                .hint("an earlier request may still be carried out, so this node keeps its claim until it expires; run it again then")
                .into());
        }
        // What cannot be given up expires.
        let _ = self.api.leave(&self.here.node, self.own_uuid.as_ref(), Some(generation));
        Err(Failure::new(format!("the server refuses to initialise the cluster: {error}"))
            .hint(
                "these are the server's own words; nothing was changed, and another node may begin",
            )
            .into())
    }
}
