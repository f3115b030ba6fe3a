//! A node's agent: its own decisions and pauses, with a simulated server. No I/O; time and chance are arguments.

use std::time::{Duration, Instant};

use cbbootstrap_agent::{
    decision::{Action, Answers, Asked, Goal, Inspection, Memory, OwnServer, next_action},
    pauses::{Backoff, Cause, Pauses},
    record::ClusterRecord,
    server::{NodeInfo, View},
};
use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    rules::{Claim, Leave, Ready},
    wire::State,
};
use jiff::Timestamp;

/// The agent's default interval and lease.
pub const INTERVAL: Duration = Duration::from_secs(2);
pub const LEASE: Duration = Duration::from_mins(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Claim,
    Status,
    Ready { cluster_uuid: Uuid, generation: u64 },
    Leave { generation: u64 },
}

/// What the API applies to the record of a call.
pub enum Rule {
    Claim(Claim),
    Status,
    Ready(Ready),
    Leave(Leave),
}

impl Call {
    pub fn rule(
        &self,
        cluster_id: ClusterId,
        node: Node,
        node_uuid: Option<Uuid>,
        now: Timestamp,
    ) -> Rule {
        let secret = None;
        match self {
            Self::Claim => {
                let lease = Some(LEASE);
                Rule::Claim(Claim { cluster_id, node, node_uuid, lease, secret, now })
            }
            Self::Status => Rule::Status,
            Self::Ready { cluster_uuid, generation } => Rule::Ready(Ready {
                cluster_id,
                node,
                node_uuid,
                generation: Some(*generation),
                cluster_uuid: Some(cluster_uuid.clone()),
                authority: None,
                attestation: None,
                secret,
                now,
            }),
            Self::Leave { generation } => {
                let generation = Some(*generation);
                Rule::Leave(Leave { cluster_id, node, node_uuid, generation, secret, now })
            }
        }
    }
}

/// Why a call has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// It was throttled, or the API fails.
    Temporary,
    /// The list of members is full.
    TooManyNodes,
    /// By another rule.
    Refused,
}

pub type Answer = Result<Option<ClusterRecord>, CallFailure>;

/// What the agent does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Call(Call),
    Pause(Duration),
    Initialize,
    Join,
    /// Inspect the servers of nodes that lost their claims.
    Inspect(Vec<Node>),
    End(End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is a member, and lacks nothing.
    Member,
    /// A person has to decide.
    Stopped,
}

#[derive(Debug)]
pub struct Agent {
    goal: Goal,
    uuid: Uuid,
    own: OwnServer,
    answers: Answers,
    memory: Memory,
    pauses: Pauses,
    /// In this round.
    has_claimed: bool,
    /// The node that gets the claim back.
    claim_goes_to: Option<Node>,
    /// Whether the API has a place for it in its list.
    pub is_listed: bool,
}

impl Agent {
    pub fn new(node: Node, uuid: Uuid, backoff: Backoff) -> Self {
        Self {
            goal: Goal { attests: true, recovers: true, ..Goal::new(node, LEASE) },
            own: OwnServer::Blank(Some(uuid.clone())),
            uuid,
            answers: Answers::default(),
            memory: Memory::default(),
            pauses: Pauses::new(INTERVAL, backoff),
            has_claimed: false,
            claim_goes_to: None,
            is_listed: true,
        }
    }

    pub fn node(&self) -> &Node {
        &self.goal.node
    }

    /// Whether its server belongs to a cluster.
    pub fn inspection(&self) -> Inspection {
        match self.own {
            OwnServer::Member(_) => Inspection::Provisioned,
            _ => Inspection::Blank,
        }
    }

    /// Begins a round, as `up` does.
    pub fn round(&mut self, now: Instant, chance: f64) -> Step {
        self.answers.begin_round(&self.own, &mut self.memory);
        self.has_claimed = false;
        self.decide(now, chance)
    }

    fn decide(&mut self, now: Instant, chance: f64) -> Step {
        let (generation, _) = self.answers.claim;
        match next_action(&self.goal, &self.own, &self.answers.asked, &self.memory, now) {
            Action::Claim if self.has_claimed => self.pause(Cause::Unfinished, chance),
            Action::Wait(_) => self.pause(Cause::Unfinished, chance),
            Action::Claim => {
                self.has_claimed = true;
                Step::Call(Call::Claim)
            }
            Action::GetRecord => Step::Call(Call::Status),
            Action::Report(cluster_uuid) => Step::Call(Call::Ready { cluster_uuid, generation }),
            Action::GiveUpClaim(node) => {
                self.claim_goes_to = Some(node);
                Step::Call(Call::Leave { generation })
            }
            Action::Inspect(nodes) => Step::Inspect(nodes),
            Action::Initialize => Step::Initialize,
            Action::Join(_) => Step::Join,
            // Other members list it, although its view here is of itself only. That costs the API nothing.
            Action::Confirm => {
                self.memory.is_confirmed = true;
                self.decide(now, chance)
            }
            Action::Done => Step::End(End::Member),
            Action::Stop(_) => Step::End(End::Stopped),
            action => unreachable!("a server that works needs no {action:?}"),
        }
    }

    fn pause(&mut self, cause: Cause, chance: f64) -> Step {
        Step::Pause(self.pauses.next(cause, chance))
    }

    /// Continues after an answer.
    pub fn receive(&mut self, call: &Call, answer: Answer, now: Instant, chance: f64) -> Step {
        let record = match (call, answer) {
            (Call::Leave { .. }, Err(_)) => return self.pause(Cause::Unfinished, chance),
            (_, Err(CallFailure::Temporary)) => {
                return self.pause(Cause::after_failure(&self.own, &self.answers.asked), chance);
            }
            (Call::Ready { .. }, Err(CallFailure::TooManyNodes)) => {
                self.is_listed = false;
                (self.memory.is_reported, self.memory.is_attested) = (true, true);
                return self.round(now, chance);
            }
            (Call::Ready { .. }, Err(_)) => {
                self.answers.asked = Asked::NotYet;
                return self.pause(Cause::Unfinished, chance);
            }
            (_, Err(_)) => return Step::End(End::Stopped),
            (Call::Leave { .. }, Ok(_)) => {
                self.memory.occupied_by = self.claim_goes_to.take().map(|node| (node, now));
                return self.round(now, chance);
            }
            // An answer to a claim does not name the members.
            (Call::Claim, Ok(Some(record))) if record.state == State::Ready => {
                self.memory.is_claimed_by_other = true;
                return Step::Call(Call::Status);
            }
            (_, Ok(record)) => record,
        };
        let Some(record) = record else {
            self.answers.asked = Asked::NoRecord;
            return self.decide(now, chance);
        };
        if *call == Call::Claim {
            self.memory.is_claimed_by_other = !record.is_initial;
        }
        self.answers.learn(record, &mut self.memory);
        if let Call::Ready { .. } = call {
            (self.memory.is_reported, self.memory.is_attested) = (true, true);
            return self.round(now, chance);
        }
        self.decide(now, chance)
    }

    pub fn note_inspection(&mut self, node: Node, inspection: Inspection) {
        self.memory.inspections.insert(node, inspection);
    }

    /// Its server has initialized a cluster, or joined the recorded one.
    pub fn become_member(&mut self, of: Option<Uuid>) {
        self.pauses.restart();
        self.memory.kept.has_initialized = of.is_none();
        let this = NodeInfo {
            uuid: Some(self.uuid.clone()),
            ..NodeInfo::healthy(self.goal.node.as_str())
        };
        let cluster = of.unwrap_or_else(|| self.uuid.clone());
        self.own = OwnServer::Member(View::balanced(cluster, vec![this]));
    }

    /// The cluster that the record names.
    pub fn recorded_cluster(&self) -> Option<Uuid> {
        match &self.answers.asked {
            Asked::Record(record) => record.cluster_uuid.clone(),
            _ => None,
        }
    }
}
