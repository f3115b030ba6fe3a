//! Rebalances, failovers, and what time does to a cluster.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    model::{Cluster, Member, Membership, Recovery, World, id},
    node::Removal,
};

/// How long a rebalance runs that waits for services that never come up, unless it is stopped.
const ENDLESS: Duration = Duration::from_hours(1);

/// How long a rebalance runs before it removes the nodes that were failed over.
const PREPARATION: Duration = Duration::from_millis(100);

/// What a rebalance is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Rebalance,
    /// It fails this node over when its data is elsewhere.
    Graceful(usize),
}

/// A rebalance that runs. Halfway, the added nodes become active; near its end, the cluster is balanced.
#[derive(Clone)]
pub struct Rebalance {
    pub id: String,
    pub status_id: String,
    pub kind: Kind,
    pub ejected: Vec<usize>,
    pub began: Instant,
    pub ends: Instant,
    active_at: Instant,
    moved_at: Instant,
    /// The nodes that have to answer first, and until when they have time.
    awaited: Vec<usize>,
    gives_up: Instant,
    takes_in: usize,
    activated: bool,
    moved: bool,
    /// It fails at its end.
    fails: bool,
    /// A node was lost while it ran.
    is_broken: bool,
    stops_at: Option<Instant>,
}

impl Rebalance {
    fn new(kind: Kind, began: Instant, takes: Duration) -> Self {
        let mut rebalance = Self {
            id: id(),
            status_id: id(),
            kind,
            ejected: Vec::new(),
            began,
            ends: began,
            active_at: began,
            moved_at: began,
            awaited: Vec::new(),
            gives_up: began,
            takes_in: 0,
            activated: false,
            moved: false,
            fails: false,
            is_broken: false,
            stops_at: None,
        };
        rebalance.schedule(began, takes, takes);
        rebalance
    }

    fn schedule(&mut self, began: Instant, takes: Duration, all_takes: Duration) {
        self.began = began;
        self.active_at = began + takes / 2;
        self.moved_at = began + all_takes.mul_f64(0.875);
        self.ends = began + all_takes;
    }

    /// Whether the cluster's nodes change by it.
    fn changes_nodes(&self) -> bool {
        self.takes_in + self.ejected.len() > 0
    }

    /// Whether it waits for nodes that do not answer.
    pub fn is_preparing(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// How far it is, in percent.
    pub fn percent(&self, now: Instant) -> f64 {
        let whole = (self.ends - self.began).as_secs_f64();
        let part = now.saturating_duration_since(self.began).as_secs_f64();
        if self.is_preparing() || whole == 0.0 {
            return 0.0;
        }
        (part / whole * 100.0).floor().min(100.0)
    }
}

/// A rebalance or a failover that is over.
#[derive(Clone)]
pub struct Ended {
    pub subtype: &'static str,
    pub status_id: String,
    /// The latest report, which is an earlier one's if the leader was lost.
    pub report: Option<Report>,
    pub failed: bool,
}

/// What the leader writes down at the end.
#[derive(Clone)]
pub struct Report {
    pub id: String,
    pub rebalance: String,
    pub message: String,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Done,
    Stopped,
    Failed,
}

impl Ended {
    fn new(subtype: &'static str, rebalance: String, outcome: Outcome) -> Self {
        let what = match subtype {
            "rebalance" => "Rebalance",
            "failover" => "Failover",
            _ => "Graceful failover",
        };
        let message = match outcome {
            Outcome::Done => format!("{what} completed successfully."),
            Outcome::Stopped => format!("{what} stopped by user."),
            Outcome::Failed => format!("{what} exited with reason {{failed}}."),
        };
        Self {
            subtype,
            status_id: id(),
            report: Some(Report { id: id(), rebalance, message }),
            failed: outcome == Outcome::Failed,
        }
    }
}

/// A rebalance that was done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rebalanced {
    /// How many nodes it took in.
    pub added: usize,
    /// How many it removed.
    pub removed: usize,
}

/// What becomes of a request for a rebalance.
pub enum Start {
    Started(String),
    AlreadyRunning,
    NothingKnown,
    Mismatch,
    NoActiveNodes,
    NoDataNodes,
    NoQuorum,
}

/// Why a node is not failed over.
pub enum NotFailedOver {
    NotNamed,
    Unknown(Vec<String>),
    Inactive,
    Rebalancing,
    LastActive,
    NoQuorum,
    /// It does not answer.
    NotSynchronized,
    /// The bucket is on no other node.
    LastOfBucket(String),
    WouldLoseData,
}

impl World {
    pub fn start_rebalance(
        &mut self,
        node: usize,
        known: &BTreeSet<String>,
        ejected: &BTreeSet<String>,
        now: Instant,
    ) -> Start {
        if known.is_empty() {
            return Start::NothingKnown;
        }
        let Some(cluster) = self.nodes[node].cluster else {
            return Start::Mismatch;
        };
        let members = &self.clusters[cluster].members;
        let all: BTreeSet<_> = members.iter().map(Member::otp).collect();
        if *known != all || !ejected.is_subset(known) {
            return Start::Mismatch;
        }
        if self.clusters[cluster].rebalance.is_some() {
            return Start::AlreadyRunning;
        }
        let (ejected, kept): (Vec<_>, Vec<_>) = members
            .iter()
            .partition(|member| member.is_failed_over() || ejected.contains(&member.otp()));
        if kept.is_empty() {
            return Start::NoActiveNodes;
        }
        if !kept.iter().any(|member| member.has_data_service()) {
            return Start::NoDataNodes;
        }
        if !self.has_quorum(cluster, now) {
            return Start::NoQuorum;
        }
        // Those that are warming up make it wait before it does anything.
        let loading = kept.iter().filter_map(|member| self.nodes[member.node].loading);
        let began = loading.map(|(_, to)| to).max();
        let began = began.map_or(now, |warm| warm.max(now));
        let mut rebalance = Rebalance::new(Kind::Rebalance, began, self.knobs.rebalance_takes);
        rebalance.ejected = ejected.iter().map(|member| member.node).collect();
        let added = kept.iter().filter(|member| !member.is_active());
        rebalance.takes_in = added.count();
        rebalance.fails = self.knobs.failing_rebalances > 0;
        rebalance.gives_up = now + self.knobs.prepare_takes;
        let needed = members.iter().filter(|member| !member.is_failed_over());
        let silent = needed.filter(|member| !self.is_healthy(cluster, member, now));
        rebalance.awaited = silent.map(|member| member.node).collect();
        let waits_for_services = kept
            .iter()
            .flat_map(|member| &member.services)
            .any(|service| self.knobs.absent_services.contains(service));
        if waits_for_services {
            let takes = self.knobs.rebalance_takes;
            rebalance.schedule(began, takes, takes.max(ENDLESS));
            rebalance.moved_at = rebalance.ends;
        }
        self.knobs.failing_rebalances = self.knobs.failing_rebalances.saturating_sub(1);
        let id = rebalance.id.clone();
        let cluster = &mut self.clusters[cluster];
        if !rebalance.is_preparing() {
            for member in &mut cluster.members {
                if member.recovery == Recovery::Full {
                    member.recovery = Recovery::None;
                }
            }
        }
        cluster.rebalance = Some(rebalance);
        cluster.orphaned = None;
        Start::Started(id)
    }

    /// Stops what runs; added nodes are active by then.
    pub fn stop_rebalance(&mut self, node: usize, now: Instant) {
        let stops_at = now + self.knobs.stop_takes;
        let cluster = self.cluster_mut(node);
        if let Some(rebalance) = cluster.and_then(|cluster| cluster.rebalance.as_mut()) {
            rebalance.stops_at.get_or_insert(stops_at);
        }
        self.settle(now);
    }

    /// Brings about what time has: rebalances go on and end, silent nodes are failed over, leaders elected.
    pub fn settle(&mut self, now: Instant) {
        self.become_blank(now);
        for cluster in 0..self.clusters.len() {
            self.go_on(cluster, now);
            if !self.clusters[cluster].is_memory {
                self.fail_over_silent(cluster, now);
            }
            self.elect(cluster, now);
        }
    }

    /// Ends the rebalances that run, as if their time had come.
    pub fn end_rebalances(&mut self, now: Instant) {
        for cluster in 0..self.clusters.len() {
            self.go_on(cluster, now);
            if let Some(rebalance) = &mut self.clusters[cluster].rebalance {
                rebalance.schedule(now, Duration::ZERO, Duration::ZERO);
                rebalance.gives_up = now;
            }
            self.go_on(cluster, now);
        }
    }

    fn go_on(&mut self, index: usize, now: Instant) {
        let Some(rebalance) = &self.clusters[index].rebalance else {
            return;
        };
        if rebalance.stops_at.is_some_and(|at| at <= now) {
            return self.stop(index, now);
        }
        if rebalance.is_broken {
            return self.end_rebalance(index, true, now);
        }
        if rebalance.is_preparing() && !self.prepare(index, now) {
            return;
        }
        self.eject_failed_over(index, now);
        let Some(rebalance) = &mut self.clusters[index].rebalance else {
            return;
        };
        let (moved_at, ends, fails) = (rebalance.moved_at, rebalance.ends, rebalance.fails);
        if now >= rebalance.active_at {
            self.activate(index, now);
        }
        if now >= moved_at && !fails {
            self.finish_moves(index);
        }
        if now >= ends {
            self.end_rebalance(index, fails, now);
        }
    }

    /// Whether all nodes answer. If they do not in time, the rebalance fails.
    fn prepare(&mut self, index: usize, now: Instant) -> bool {
        let takes = self.knobs.rebalance_takes;
        let cluster = &self.clusters[index];
        let Some(rebalance) = &cluster.rebalance else {
            return false;
        };
        let answers = |node: &usize| {
            let mut members = cluster.members.iter();
            members.any(|member| member.node == *node && self.is_healthy(index, member, now))
        };
        let (answer, gives_up) = (rebalance.awaited.iter().all(answers), rebalance.gives_up);
        if answer {
            if let Some(rebalance) = &mut self.clusters[index].rebalance {
                let all_takes = rebalance.ends - rebalance.began;
                rebalance.awaited.clear();
                rebalance.schedule(now, takes, all_takes);
            }
            return true;
        }
        if now >= gives_up {
            self.end_rebalance(index, true, now);
        }
        false
    }

    /// Nodes that were failed over leave before any data moves.
    fn eject_failed_over(&mut self, index: usize, now: Instant) {
        let cluster = &self.clusters[index];
        let Some(rebalance) = cluster.rebalance.as_ref().filter(|r| now >= r.began + PREPARATION)
        else {
            return;
        };
        let leaves =
            |member: &&Member| member.is_failed_over() && rebalance.ejected.contains(&member.node);
        let nodes: Vec<_> = cluster.members.iter().filter(leaves).map(|m| m.node).collect();
        if !nodes.is_empty() {
            self.remove(index, &nodes, Removal::Clean);
        }
    }

    /// The added nodes become active.
    fn activate(&mut self, index: usize, now: Instant) {
        let warm_up = self.knobs.bucket_warm_up;
        let cluster = &mut self.clusters[index];
        let has_data = cluster.has_data();
        let Some(rebalance) = cluster.rebalance.as_mut().filter(|r| !r.activated) else {
            return;
        };
        rebalance.activated = true;
        if rebalance.kind != Kind::Rebalance {
            cluster.unbalanced |= has_data;
            return;
        }
        cluster.unbalanced |= rebalance.changes_nodes() && has_data;
        for member in &mut cluster.members {
            if rebalance.ejected.contains(&member.node) || member.is_active() {
                continue;
            }
            if has_data && member.recovery != Recovery::Delta {
                self.nodes[member.node].loading = Some((now, now + warm_up));
            }
            (member.membership, member.recovery) = (Membership::Active, Recovery::None);
        }
    }

    /// All data is where it belongs, while the rebalance runs.
    fn finish_moves(&mut self, index: usize) {
        let cluster = &mut self.clusters[index];
        let Some(rebalance) = cluster.rebalance.as_mut().filter(|r| !r.moved) else {
            return;
        };
        rebalance.moved = true;
        match rebalance.kind {
            Kind::Rebalance => cluster.unbalanced = false,
            Kind::Graceful(node) => cluster.fail_over(node),
        }
    }

    fn end_rebalance(&mut self, index: usize, failed: bool, now: Instant) {
        let cluster = &mut self.clusters[index];
        let Some(rebalance) = cluster.rebalance.take() else {
            return;
        };
        let subtype = match rebalance.kind {
            Kind::Rebalance => "rebalance",
            Kind::Graceful(_) => "gracefulFailover",
        };
        let outcome = if failed { Outcome::Failed } else { Outcome::Done };
        cluster.last_rebalance = Some(Ended::new(subtype, rebalance.id.clone(), outcome));
        cluster.unbalanced |= failed && rebalance.activated && rebalance.changes_nodes();
        if failed || rebalance.kind != Kind::Rebalance {
            return;
        }
        cluster.unbalanced = false;
        cluster.failovers = 0;
        cluster
            .rebalanced
            .push(Rebalanced { added: rebalance.takes_in, removed: rebalance.ejected.len() });
        self.remove(index, &rebalance.ejected, Removal::Clean);
        self.elect(index, now);
    }

    fn stop(&mut self, index: usize, now: Instant) {
        let rebalance = self.clusters[index].rebalance.as_ref();
        if rebalance.is_some_and(|rebalance| !rebalance.is_preparing()) {
            self.activate(index, now);
        }
        let cluster = &mut self.clusters[index];
        let Some(rebalance) = cluster.rebalance.take() else {
            return;
        };
        let is_graceful = rebalance.kind != Kind::Rebalance;
        let subtype = if is_graceful { "gracefulFailover" } else { "rebalance" };
        cluster.last_rebalance = Some(Ended::new(subtype, rebalance.id.clone(), Outcome::Stopped));
        cluster.unbalanced |= rebalance.activated && rebalance.changes_nodes();
    }

    /// Up to the number of nodes in the settings, and only with a majority.
    fn fail_over_silent(&mut self, index: usize, now: Instant) {
        let Some(after) = self.knobs.auto_failover_after else {
            return;
        };
        let cluster = &self.clusters[index];
        let settings = &cluster.auto_failover;
        let is_allowed = settings.enabled && cluster.failovers < settings.max_count;
        if !is_allowed || !self.has_quorum(index, now) {
            return;
        }
        let is_lost = |member: &&Member| {
            let since = self.nodes[member.node].silent_since;
            member.is_active() && since.is_some_and(|since| now >= since + after)
        };
        let Some(lost) = cluster.members.iter().find(is_lost) else {
            return;
        };
        let lost = lost.node;
        self.end_rebalance(index, true, now);
        let cluster = &mut self.clusters[index];
        cluster.fail_over(lost);
        cluster.last_rebalance = Some(Ended::new("failover", id(), Outcome::Done));
        cluster.failovers += 1;
    }

    /// The members that a request names, if they may be failed over.
    fn to_fail_over(&self, node: usize, otps: &[&str]) -> Result<Vec<usize>, NotFailedOver> {
        if otps.is_empty() {
            return Err(NotFailedOver::NotNamed);
        }
        let members = self.cluster(node).map_or(&[][..], |cluster| &cluster.members);
        let find = |otp: &&str| members.iter().find(|member| member.otp() == *otp);
        let unknown = otps.iter().filter(|otp| find(otp).is_none());
        let unknown: Vec<_> = unknown.map(|otp| (*otp).to_owned()).collect();
        if !unknown.is_empty() {
            return Err(NotFailedOver::Unknown(unknown));
        }
        let found: Vec<_> = otps.iter().filter_map(find).collect();
        if found.iter().any(|member| !member.is_active()) {
            return Err(NotFailedOver::Inactive);
        }
        if self.cluster(node).is_some_and(|cluster| cluster.rebalance.is_some()) {
            return Err(NotFailedOver::Rebalancing);
        }
        let nodes: Vec<_> = found.iter().map(|member| member.node).collect();
        let mut left =
            members.iter().filter(|member| member.is_active() && !nodes.contains(&member.node));
        if left.next().is_none() {
            return Err(NotFailedOver::LastActive);
        }
        Ok(nodes)
    }

    /// Fails nodes over at once. Without a majority this is unsafe, and the nodes are removed outright.
    pub fn fail_over(
        &mut self,
        node: usize,
        otps: &[&str],
        allow_unsafe: bool,
        now: Instant,
    ) -> Result<(), NotFailedOver> {
        let nodes = self.to_fail_over(node, otps)?;
        let Some(index) = self.nodes[node].cluster else {
            return Err(NotFailedOver::NotNamed);
        };
        let has_quorum = self.has_quorum(index, now);
        if !has_quorum && !allow_unsafe {
            return Err(NotFailedOver::NoQuorum);
        }
        let cluster = &mut self.clusters[index];
        for node in &nodes {
            cluster.fail_over(*node);
        }
        cluster.last_rebalance = Some(Ended::new("failover", id(), Outcome::Done));
        if !has_quorum {
            self.remove(index, &nodes, Removal::Unsafe);
        }
        self.settle(now);
        Ok(())
    }

    /// Begins to move a node's data elsewhere, to fail it over then.
    pub fn start_graceful_failover(
        &mut self,
        node: usize,
        otps: &[&str],
        now: Instant,
    ) -> Result<(), NotFailedOver> {
        let nodes = self.to_fail_over(node, otps)?;
        let Some(index) = self.nodes[node].cluster else {
            return Err(NotFailedOver::NotNamed);
        };
        let cluster = &self.clusters[index];
        let mut members = cluster.members.iter();
        let is_lost =
            |member: &Member| nodes.contains(&member.node) && !self.is_healthy(index, member, now);
        if members.any(is_lost) {
            return Err(NotFailedOver::NotSynchronized);
        }
        let appears = self.knobs.bucket_appears;
        let mut buckets = cluster.buckets.iter();
        if let Some(bucket) = buckets.find(|bucket| now < bucket.created + appears) {
            return Err(NotFailedOver::LastOfBucket(bucket.name.clone()));
        }
        if cluster.has_data() && cluster.members.iter().any(Member::is_failed_over) {
            return Err(NotFailedOver::WouldLoseData);
        }
        let kind = Kind::Graceful(nodes[0]);
        let rebalance = Rebalance::new(kind, now, self.knobs.rebalance_takes);
        self.clusters[index].rebalance = Some(rebalance);
        Ok(())
    }

    /// A node is lost: a rebalance that runs does not survive it, and neither does a leader.
    pub fn lose(&mut self, node: usize, now: Instant) {
        let election_takes = self.knobs.election_takes;
        let Some(cluster) = self.cluster_mut(node) else {
            return;
        };
        let is_leader = cluster.leader == Some(node);
        let is_failed =
            cluster.members.iter().any(|member| member.node == node && member.is_failed_over());
        let Some(rebalance) = cluster.rebalance.as_mut().filter(|_| !is_failed) else {
            return;
        };
        if is_leader {
            // The next leader knows nothing of it but that it ran.
            cluster.unbalanced |= rebalance.changes_nodes();
            cluster.rebalance = None;
            let report = cluster.last_rebalance.take().and_then(|last| last.report);
            let (subtype, status_id) = ("rebalance", id());
            cluster.last_rebalance = Some(Ended { subtype, status_id, report, failed: false });
            cluster.orphaned = Some(now + election_takes);
        } else if rebalance.is_preparing() {
            rebalance.awaited.push(node);
        } else {
            rebalance.is_broken = true;
        }
    }

    /// Members follow a leader while it is well, and then the first by name that is.
    fn elect(&mut self, index: usize, now: Instant) {
        let leads = |member: &&Member| member.is_active() && self.is_healthy(index, member, now);
        let cluster = &self.clusters[index];
        let mut members = cluster.members.iter();
        let is_well = cluster.leader.is_some_and(|leader| {
            let mut members = cluster.members.iter();
            cluster.is_memory || members.any(|member| member.node == leader && leads(&member))
        });
        // What a removed node remembers, it leads whatever it is.
        let next = if cluster.is_memory {
            members.find(|member| self.nodes[member.node].cluster == Some(index))
        } else {
            members.filter(leads).min_by_key(|member| member.otp())
        };
        let next = next.map(|member| member.node);
        let since = cluster.leaderless.unwrap_or(now);
        let is_over = now >= since + self.knobs.election_takes;
        let cluster = &mut self.clusters[index];
        if is_well {
            cluster.leaderless = None;
        } else if is_over {
            (cluster.leader, cluster.leaderless) = (next, None);
        } else {
            (cluster.leader, cluster.leaderless) = (None, Some(since));
        }
    }
}

impl Cluster {
    fn fail_over(&mut self, node: usize) {
        self.unbalanced |= self.has_data();
        for member in &mut self.members {
            if member.node == node {
                member.membership = Membership::InactiveFailed;
                member.recovery = Recovery::None;
            }
        }
    }

    /// Marks a failed-over node to be taken in again, or says that it cannot be.
    pub fn set_recovery(&mut self, otp: &str, recovery: Recovery) -> bool {
        let mut members = self.members.iter_mut();
        let member = members.find(|member| {
            member.otp() == otp && (member.is_failed_over() || member.recovery != Recovery::None)
        });
        member.is_some_and(|member| {
            (member.membership, member.recovery) = (Membership::InactiveAdded, recovery);
            true
        })
    }

    /// Undoes that.
    pub fn undo_recovery(&mut self, otp: &str) -> bool {
        let mut members = self.members.iter_mut();
        let member =
            members.find(|member| member.otp() == otp && member.recovery != Recovery::None);
        member.is_some_and(|member| {
            (member.membership, member.recovery) = (Membership::InactiveFailed, Recovery::None);
            true
        })
    }
}
