//! Decides what a node does when its machine is about to end. No I/O.

use std::{
    fmt,
    mem::discriminant,
    time::{Duration, Instant},
};

use super::{DEAD_AFTER, OwnServer};
use crate::server::{Health, Membership, NodeInfo, View};

/// A node leaves this long before the retirement of its machine, which AWS announces weeks ahead.
pub const RETIREMENT_LEAD: Duration = Duration::from_hours(24);

/// A node is failed over at most this long before its machine ends: until the node is back or removed, no other node joins or leaves.
pub const FAILOVER_LEAD: Duration = Duration::from_mins(10);

/// An assumption: a rebalance moves at least this many bytes from a node each second.
const MOVED_PER_SECOND: u64 = 10_000_000;

/// What a rebalance takes beside moving data.
const REBALANCE_MARGIN: Duration = Duration::from_secs(30);

/// What AWS announces for this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The Auto Scaling group terminates the instance, and its lifecycle hook waits. A Spot interruption may end it sooner.
    ScaleIn(Option<Ending>),
    WarmPool,
    Ending(Ending),
}

/// The machine stops or ends at some time, whatever the node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub cause: Cause,
    pub time_left: Duration,
    /// The machine is stopped, with its disks, and may start again.
    pub comes_back: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    SpotInterruption,
    Retirement,
}

impl Notice {
    /// Whether the node acts on it. AWS announces a retirement weeks ahead: until it is due, it is like no notice.
    pub fn is_due(&self) -> bool {
        self.ending().is_none_or(|ending| ending.time_left <= RETIREMENT_LEAD)
    }

    /// Whether another notice means the same, apart from the time that is left.
    pub fn is_like(&self, other: &Self) -> bool {
        let ending = |notice: &Self| notice.ending().map(|it| (it.cause, it.comes_back));
        self.is_due() == other.is_due()
            && discriminant(self) == discriminant(other)
            && ending(self) == ending(other)
    }

    pub fn is_scale_in(&self) -> bool {
        matches!(self, Self::ScaleIn(_))
    }

    /// The end of the machine at a known time.
    pub fn ending(&self) -> Option<&Ending> {
        match self {
            Self::ScaleIn(ending) => ending.as_ref(),
            Self::WarmPool => None,
            Self::Ending(ending) => Some(ending),
        }
    }

    /// Whether the machine ends, and does not only rest in a warm pool.
    pub fn ends_machine(&self) -> bool {
        *self != Self::WarmPool
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ScaleIn(None) => f.write_str("the Auto Scaling group terminates this instance"),
            Self::ScaleIn(Some(ending)) => {
                write!(f, "the Auto Scaling group terminates this instance, and {ending}")
            }
            Self::WarmPool => f.write_str("this instance is in a warm pool or moves there"),
            Self::Ending(ending) => ending.fmt(f),
        }
    }
}

impl Ending {
    /// Whether nothing is to be gained by waiting. A Spot interruption comes two minutes before the end, even if this machine's clock is
    /// wrong.
    pub fn is_imminent(&self) -> bool {
        self.cause == Cause::SpotInterruption || self.time_left <= FAILOVER_LEAD
    }

    /// Whether an operator has time to act before this node's data must begin to move.
    pub fn can_wait(&self, this: &NodeInfo, view: &View) -> bool {
        self.cause == Cause::Retirement
            && time_to_leave(this, view).is_some_and(|time| time + FAILOVER_LEAD <= self.time_left)
    }

    /// Whether this node's data can move away before the end.
    fn leaves_time(&self, this: &NodeInfo, view: &View) -> bool {
        time_to_leave(this, view).is_some_and(|time| time <= self.time_left)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self.cause {
            Cause::SpotInterruption => "a Spot interruption",
            Cause::Retirement => "a scheduled retirement",
        };
        let ends = if self.comes_back { "stops" } else { "ends" };
        write!(f, "{cause} {ends} this instance in {} s", self.time_left.as_secs())
    }
}

/// What this run has done since the notice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Departure {
    /// The node is on its way out: a rebalance that moves its data away was started, or, for a warm pool, is to start.
    pub is_leaving: bool,
    pub is_failover_refused: bool,
    /// The node has left, and the API knows.
    pub is_complete: bool,
    /// The lifecycle hook of the present notice was completed.
    pub is_released: bool,
    pub removal: Removal,
}

/// Whether people have removed the node while this run watched it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Removal {
    #[default]
    Unknown,
    /// Not yet: it is a member, or was one a moment ago.
    Watching(Sighting),
    /// Its server was that of a healthy member and is blank: other members may show why.
    Unclear,
    Removed,
}

/// A member, as this run last saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub at: Instant,
    /// Whether a rebalance ran, or another agent worked on it: only people can have removed it if it is blank soon afterwards.
    pub rebalance_ran: bool,
    /// Whether it was well and knew its cluster. If it was failed over, this was so before a rebalance began: agents remove nodes that
    /// cannot be reached, and such a node may come back while they do.
    pub was_well: bool,
    /// Whether it was failed over after a failure. The agent of a machine that ends also removes such a node.
    pub could_recover: bool,
    /// Whether a rebalance runs that an earlier run may have begun to leave: this run has found it under way, with a notice.
    pub may_be_own: bool,
}

impl Departure {
    /// Notes the server's state. A notice may be due; the node may know its cluster, and may recover after a failover.
    pub fn observe(
        &mut self,
        own: &OwnServer,
        has_notice: bool,
        knows_cluster: bool,
        recovers: bool,
        now: Instant,
    ) {
        self.removal = match (own, self.removal) {
            (OwnServer::Member(view), before) => {
                // A rebalance that this run started goes on after the notice was withdrawn.
                self.is_leaving &= has_notice || view.is_rebalancing;
                let was_well = matches!(before, Removal::Watching(seen) if seen.was_well);
                let membership = view.this().map(|this| this.membership);
                let is_failed_over = membership == Some(Membership::FailedOver);
                let may_be_own = view.is_rebalancing
                    && match before {
                        Removal::Watching(seen) => seen.may_be_own,
                        _ => has_notice,
                    };
                let is_well = knows_cluster
                    && !may_be_own
                    && (membership == Some(Membership::Active)
                        || is_failed_over && (!view.is_rebalancing || was_well));
                // A server does not know that it was removed if it cannot reach other members. The only node cannot be removed.
                let is_lost = |node: &NodeInfo| {
                    node.membership == Membership::Active && node.health == Health::Unhealthy
                };
                Removal::Watching(Sighting {
                    at: now,
                    rebalance_ran: is_well && view.is_rebalancing,
                    was_well: is_well && view.nodes.len() > 1 && !view.others().any(is_lost),
                    could_recover: recovers && is_failed_over,
                    may_be_own,
                })
            }
            (OwnServer::Blank(_), _) if self.is_leaving => {
                self.is_leaving = has_notice;
                Removal::Unknown
            }
            // A server that refuses the agent's password runs: nobody removes it as a dead one.
            (OwnServer::OtherCredentials, Removal::Watching(seen)) => {
                Removal::Watching(Sighting { at: now, ..seen })
            }
            // A server that was down for longer was removed as a dead one, and joins again.
            (_, Removal::Watching(seen)) if now - seen.at >= DEAD_AFTER => Removal::Unknown,
            (OwnServer::Blank(_), Removal::Watching(seen)) => match seen {
                Sighting { could_recover: false, rebalance_ran: true, .. } => Removal::Removed,
                Sighting { could_recover: false, was_well: true, .. } => Removal::Unclear,
                _ => Removal::Unknown,
            },
            (_, before) => before,
        };
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Do what `up` does.
    Stay,
    /// If the time may not be enough, with the reason why the node is not failed over instead.
    Leave(Option<String>),
    /// Fail this node over gracefully, by its name for rebalances.
    FailOver(String),
    /// Complete the lifecycle hook, so that the group terminates the instance.
    Release,
    /// Do nothing, for this reason.
    Rest(String),
}

fn rest(reason: impl Into<String>) -> Step {
    Step::Rest(reason.into())
}

/// The next step of a node whose cluster has buckets with at least this many replicas, or no buckets.
pub fn next_step(
    notice: Option<&Notice>,
    own: &OwnServer,
    departure: Departure,
    fewest_replicas: Option<u32>,
) -> Step {
    let is_blank = matches!(own, OwnServer::Blank(_));
    match notice.filter(|notice| notice.is_due()) {
        None if departure.removal == Removal::Removed && is_blank => {
            rest("this node was removed from its cluster; restart the agent to let it join again")
        }
        None => Step::Stay,
        Some(Notice::ScaleIn(_) | Notice::WarmPool)
            if departure.is_complete && !departure.is_released =>
        {
            Step::Release
        }
        Some(_) if departure.is_complete => rest("this node has left its cluster"),
        Some(Notice::WarmPool) if is_blank && !departure.is_leaving => {
            rest("this instance is in a warm pool; it joins when it is in service")
        }
        Some(Notice::ScaleIn(Some(ending))) => match own {
            OwnServer::Member(view) => match end(ending, view, departure, fewest_replicas) {
                // The group terminates the instance anyway.
                Step::Stay => Step::Leave(None),
                step => step,
            },
            _ => Step::Leave(None),
        },
        Some(Notice::ScaleIn(None) | Notice::WarmPool) => Step::Leave(None),
        Some(Notice::Ending(ending)) => match own {
            OwnServer::Member(view) => end(ending, view, departure, fewest_replicas),
            // A server that leaves is reset.
            _ if departure.is_leaving || is_blank => Step::Leave(None),
            OwnServer::Unreachable(why) => rest(why),
            _ => rest("the server has other credentials"),
        },
    }
}

/// Which failed-over nodes a rebalance may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removable {
    Nothing,
    /// Those that cannot be reached any more.
    Dead,
    /// Also those that could recover.
    All,
}

/// Which failed-over nodes a leaving node's rebalance may remove. The server deletes their data at the start, before it moves any: data
/// that cannot move before the machine ends needs yet another copy.
pub fn removable(ending: Option<&Ending>, view: &View) -> Removable {
    let is_late = |this: &NodeInfo| {
        this.membership == Membership::Active
            && ending.is_some_and(|ending| !ending.leaves_time(this, view))
    };
    let lost = view.count_failed_over() + usize::from(view.this().is_some_and(is_late));
    match ending {
        _ if !view.can_lose(lost) => Removable::Nothing,
        // What stays on this machine is lost. The others are to be removed or to recover later.
        Some(ending) if ending.is_imminent() && !ending.comes_back => Removable::All,
        _ => Removable::Dead,
    }
}

/// For a member of a cluster whose machine ends.
fn end(ending: &Ending, view: &View, departure: Departure, fewest_replicas: Option<u32>) -> Step {
    let Some(this) = view.this() else {
        return rest("the server does not list itself yet");
    };
    let is_early = !ending.is_imminent();
    match this.membership {
        Membership::FailedOver if departure.is_leaving => return Step::Leave(None),
        Membership::FailedOver if is_early => return Step::Stay,
        Membership::FailedOver => return rest("this node has been failed over; its machine ends"),
        // It has no data yet.
        Membership::Added => return Step::Leave(None),
        Membership::Active => {}
    }
    match (view.is_rebalancing, departure.is_leaving) {
        // What moves before the end is saved. A stopped rebalance would leave the cluster unbalanced, which is an obstacle to a
        // failover.
        (true, true) => return Step::Leave(None),
        (true, false) => return rest("a rebalance runs"),
        (false, _) => {}
    }
    let is_time = ending.leaves_time(this, view);
    let obstacle = if departure.is_failover_refused {
        Some("the server refuses it".to_owned())
    } else {
        failover_obstacle(this, view, fewest_replicas)
    };
    match obstacle {
        None if (ending.comes_back || !is_time) && is_early => Step::Stay,
        None if ending.comes_back || !is_time => Step::FailOver(this.otp.clone()),
        // It may pass.
        Some(_) if ending.comes_back && is_early && fewest_replicas != Some(0) => Step::Stay,
        // What moves before the end is saved.
        Some(why) if !is_time => Step::Leave(Some(why)),
        _ => Step::Leave(None),
    }
}

/// How long a rebalance takes that moves this node's data away; `None` if its size is not known.
pub fn time_to_leave(this: &NodeInfo, view: &View) -> Option<Duration> {
    let bytes = if view.buckets.is_empty() { 0 } else { this.disk_bytes? };
    Some(REBALANCE_MARGIN + Duration::from_secs(bytes / MOVED_PER_SECOND))
}

/// Why this node must not be failed over, even gracefully: its data would be on no other node, or on one that is not well.
pub fn failover_obstacle(
    this: &NodeInfo,
    view: &View,
    fewest_replicas: Option<u32>,
) -> Option<String> {
    if this.health != Health::Healthy {
        return Some("this node is not healthy".to_owned());
    }
    if fewest_replicas == Some(0) {
        return Some("a bucket has no replicas".to_owned());
    }
    let mut others = view.others().peekable();
    if others.peek().is_none() {
        return Some("there is no other node".to_owned());
    }
    if let Some(other) = others.find(|node| !node.is_well()) {
        return Some(format!("`{}` is not active and healthy", other.name));
    }
    (!view.is_balanced).then(|| "the cluster is not balanced".to_owned())
}
