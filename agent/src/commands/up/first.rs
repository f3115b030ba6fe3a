//! The first node: checks before the claim, and the initialization.

use std::{
    net::{IpAddr, ToSocketAddrs},
    time::{Duration, Instant},
};

use cbbootstrap_cli::failure::Failure;
use cbbootstrap_protocol::names::{Host, Node};

use super::{Interrupt, Run};
use crate::{
    api::ApiError,
    decision::LEASE_MARGIN,
    http::{self, CallError},
    record::ClusterRecord,
    server::NewCluster,
    values::BucketSpec,
};

/// A command with less time left does not initialize the cluster, which takes some tenths of a second.
const INITIALIZATION_TIME: Duration = Duration::from_secs(1);

/// Checks that each bucket is given once, and that all of them fit into the data service's quota in MB.
pub(super) fn check_buckets(buckets: &[BucketSpec], quota: u64) -> Result<(), Failure> {
    for (index, bucket) in buckets.iter().enumerate() {
        if buckets[..index].iter().any(|other| other.name == bucket.name) {
            return Err(Failure::usage(format!("the bucket `{}` is passed twice", bucket.name))
                .hint("pass each `--bucket` once; an existing one is not changed"));
        }
    }
    let needed: u64 = buckets.iter().map(|bucket| bucket.quota).sum();
    if needed > quota {
        return Err(Failure::usage(format!(
            "the buckets need {needed} MB on each node, and the data service has {quota} MB"
        ))
        .hint("raise `--memory-quota`, or give the buckets less (`--bucket`)"));
    }
    Ok(())
}

impl Run<'_> {
    /// Makes slow checks and finds wrong options: before a claim, because the lease only covers the initialization, and before a member
    /// adds the server that the name leads to.
    pub(super) fn check_name_and_services(&mut self) -> Result<(), Interrupt> {
        self.check_node()?;
        let services = &self.args.services;
        if !self.is_enterprise() && !services.exist_in_community() {
            return Err(Failure::usage(format!(
                "Community Edition does not support the services {services} on one node"
            ))
            .hint("it supports `data`, `data,index,query` or `data,index,query,search`")
            .into());
        }
        if !self.is_enterprise() && self.state.is_ipv6 {
            let node = self.node();
            return Err(Failure::usage(format!(
                "Community Edition uses IPv4, and `{node}` is IPv6 only"
            ))
            .hint("pass a name or an address of the host with IPv4 (`--node`)")
            .into());
        }
        self.state.is_checked = true;
        Ok(())
    }

    /// The data service's memory in MB. Fails if the quota and the buckets do not fit the node.
    pub(super) fn quota(&self) -> Result<u64, Failure> {
        let others = self.state.quotas.sum_without_data(&self.args.services);
        let quota = self.args.memory_quota.megabytes(self.state.memory_bytes, others);
        let quota = quota.map_err(|why| {
            Failure::usage(format!("--memory-quota: {why}"))
                .hint("`auto` chooses a quota that fits the node")
        })?;
        check_buckets(&self.args.buckets, quota)?;
        Ok(quota)
    }

    /// Couchbase Server accepts a name only if it leads to the host.
    fn check_node(&mut self) -> Result<(), Interrupt> {
        self.state.is_ipv6 = matches!(self.node().host(), Host::V6(_));
        if !http::is_local(&self.here.server.url) {
            return Ok(());
        }
        let node = self.node();
        let addresses = (node.host().to_string().as_str(), 0).to_socket_addrs();
        let addresses = addresses.map_err(|error| {
            Interrupt::wait(format!("`{node}` cannot be resolved yet: {error}"))
        })?;
        let addresses: Vec<_> = addresses.map(|address| address.ip()).collect();
        if addresses.iter().any(|address| http::is_own_address(*address)) {
            self.misnamed_since = None;
            self.state.is_ipv6 = addresses.iter().all(IpAddr::is_ipv6);
            return Ok(());
        }
        let subject = match node.host() {
            Host::Name(_) => {
                let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                format!("`{node}` resolves to {}, which", shown.join(", "))
            }
            Host::V4(_) | Host::V6(_) => format!("`{node}`"),
        };
        let failure = Failure::usage(format!("{subject} is not an address of this host")).hint(
            "pass an address of this host that other nodes can reach; pass a public address behind NAT with `--alternate-address`",
        );
        let since = *self.misnamed_since.get_or_insert_with(Instant::now);
        Err(if self.is_lasting(since) { failure.into() } else { Interrupt::unfinished(failure) })
    }

    /// Gives the claim up: a node that lost it has a cluster, and may claim again and report it.
    pub(super) fn give_up_claim(&mut self, node: &Node, generation: u64) -> Result<(), Interrupt> {
        self.leave_claim(generation)?;
        self.printer.warning(format_args!(
            "`{node}` has initialized its server without reporting it: this node gives its claim up, so that `{node}` can report"
        ));
        self.state.memory.occupied_by = Some((node.clone(), Instant::now()));
        Ok(())
    }

    /// Initializes the cluster. If the server refuses, the claim is given up: other nodes need not wait until it expires.
    pub(super) fn initialize(&mut self, record: &ClusterRecord) -> Result<(), Interrupt> {
        // Right before the call: it must end before the lease does.
        if record.lease_left(Instant::now()).is_some_and(|left| left < LEASE_MARGIN) {
            return Ok(());
        }
        if self.here.peers.deadline.time_left() < INITIALIZATION_TIME {
            return Err(Interrupt::wait("initialize: too little time is left"));
        }
        let (generation, quota, services) = (record.generation, self.quota()?, &self.args.services);
        // The answer may be lost.
        self.state.memory.kept.has_begun_cluster = true;
        let cluster = NewCluster {
            services,
            quota,
            name: self.args.cluster_name.as_deref(),
            is_enterprise: self.is_enterprise(),
            is_ipv6: self.state.is_ipv6,
        };
        let administrator = &self.here.peers.administrator;
        match self.here.server.initialize(self.node(), &cluster, administrator) {
            Ok(()) => {
                self.state.memory.kept.has_initialized = true;
                self.printer.step(format_args!(
                    "initialize: a cluster of one node, {quota} MB, {services}"
                ));
                Ok(())
            }
            Err(error) if error.is_permanent() => Err(self.end_refused(&error, generation)),
            // The next round shows the effect. The server may also carry it out later.
            Err(error) => {
                self.state.memory.kept.may_be_under_way = true;
                Err(Interrupt::wait(format!("initialize: {error}")))
            }
        }
    }

    /// The server has refused. It may still have carried out an earlier request with a lost answer.
    fn end_refused(&mut self, error: &CallError, generation: u64) -> Interrupt {
        if !self.here.server.pools().is_ok_and(|pools| pools.uuid.is_none()) {
            return Interrupt::wait(format!("initialize: {error}"));
        }
        let why = format!("the server refuses to initialize the cluster: {error}");
        let hint = if self.state.memory.kept.may_be_under_way {
            "an earlier request may still take effect, so this node keeps its claim until it expires; then run the command again"
        } else {
            match self.leave_claim(generation) {
                Ok(()) => "nothing was changed, and another node can begin the cluster",
                Err(interrupt @ Interrupt::Pause(..)) => {
                    self.printer.warning_once(&why);
                    return interrupt;
                }
                Err(Interrupt::Fail(_)) => {
                    "nothing was changed; the API did not release the claim, so another node can begin the cluster only when the claim expires"
                }
            }
        };
        Failure::new(why).hint(hint).into()
    }

    /// Gives the claim up. The request may arrive late, so the claim is not used any more.
    pub(super) fn leave_claim(&mut self, generation: u64) -> Result<(), Interrupt> {
        self.state.memory.kept.left_claim = Some(generation);
        match self.here.api.leave(&self.here.identity, Some(generation)) {
            // After a refusal, the claim is not this node's any more.
            Ok(_) | Err(ApiError::Refused(_)) => Ok(()),
            Err(error @ ApiError::Failed(_)) => Err(error.into()),
            Err(error) => {
                Err(Interrupt::wait(format!("the claim cannot be given up yet: {error}")))
            }
        }
    }
}
