//! Checks the answers that a service's clients got against the protocol.
//!
//! [`check`] uses only the requests, the answers and their times. Answers may be lost, and requests may be repeated, late or
//! concurrent. An answer is known to be of an earlier state than another only if it arrived before the other request was sent. Every
//! violation that it reports is one in any order of the requests; it does not find all violations.
//!
//! Leases must last longer than the history. They expire only by an [`Operation::Lapse`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
    time::Duration,
};

use cbbootstrap_protocol::wire::{Cluster, State};

/// A request and its outcome.
#[derive(Clone, Debug)]
pub struct Event {
    pub cluster: String,
    pub node: String,
    pub operation: Operation,
    /// Whether it had a wrong secret.
    pub is_intruder: bool,
    /// When it was sent, since the start of the history.
    pub invoked: Duration,
    /// When the outcome was known.
    pub completed: Duration,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `POST /cluster`.
    Claim,
    /// `POST /cluster/ready`.
    Ready { generation: Option<u64>, uuid: Option<String> },
    /// `POST /cluster/leave`.
    Leave { generation: Option<u64> },
    /// `POST /cluster/get_status`.
    Status,
    /// A write to the table that makes the current claim's lease expire.
    Lapse,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Told(Cluster),
    /// A refusal with this code. A late copy of the request may still take effect.
    Refused(String),
    /// The lease of this generation has expired.
    Lapsed(u64),
    /// No answer, or one without information. The request may have taken effect, or still do.
    Lost,
}

/// The guarantees of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// In a generation, at most one node initializes.
    OneInitializer,
    /// The node to join of a ready cluster is the winner of the claim, unless it leaves.
    WinnerStays,
    /// The winner of the claim gets the answer that it is the first node.
    WinnerIsTold,
    /// A claim is only taken over after its lease has expired or its node has left.
    LeaseIsKept,
    /// Generations never decrease.
    GenerationsGrow,
    /// A ready cluster stays ready, in its generation.
    ReadyIsFinal,
    /// A cluster's UUID never changes.
    UuidIsFinal,
    /// A report is only accepted in its generation.
    StaleIsRefused,
    /// The winner's report makes a cluster ready.
    JoinersWait,
    /// Members are those that reported ready and did not leave, sorted; answers to claims have none.
    MembersReported,
    /// The node to join of a ready cluster is a member.
    MemberToJoin,
    /// A caller without the secret gets no information.
    SecretIsAsked,
    /// A refusal has a reason.
    ReasonToRefuse,
}

/// A violation of a property.
#[derive(Clone, Debug)]
pub struct Violation {
    pub property: Property,
    pub event: Event,
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { property, event } = self;
        write!(f, "{property:?}: {event:?}")
    }
}

/// All violations in the history, in no particular order.
pub fn check(events: &[Event]) -> Vec<Violation> {
    let mut clusters: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in events {
        clusters.entry(&event.cluster).or_default().push(event);
    }
    let checked = clusters.into_values().map(check_cluster);
    checked.collect::<Vec<_>>().concat()
}

fn check_cluster(mut events: Vec<&Event>) -> Vec<Violation> {
    let history = History::of(&events);
    let mut answered = events.clone();
    answered.sort_by_key(|event| event.completed);
    let mut answered = answered.into_iter().peekable();
    events.sort_by_key(|event| event.invoked);

    let mut known = Known::default();
    let mut violations = Vec::new();
    for event in events {
        while let Some(before) = answered.next_if(|answer| answer.completed < event.invoked) {
            known.learn(before);
        }
        let broken = history.broken_by(event, &known);
        violations.extend(
            broken.into_iter().map(|property| Violation { property, event: event.clone() }),
        );
    }
    violations
}

/// Facts about a cluster that never change.
#[derive(Default)]
struct Known<'a> {
    generation: u64,
    is_ready: bool,
    has_uuid: bool,
    /// The nodes whose report was accepted.
    members: BTreeSet<&'a str>,
}

impl<'a> Known<'a> {
    fn learn(&mut self, event: &'a Event) {
        match &event.outcome {
            Outcome::Told(cluster) => {
                self.generation = self.generation.max(cluster.generation);
                self.is_ready |= cluster.state == State::Ready;
                self.has_uuid |= cluster.cluster_uuid.is_some();
                if matches!(event.operation, Operation::Ready { .. }) {
                    self.members.insert(&event.node);
                }
            }
            Outcome::Lapsed(generation) => self.generation = self.generation.max(*generation),
            Outcome::Refused(code) => {
                self.is_ready |= code == "last_node" || code == "other_cluster";
            }
            Outcome::Lost => {}
        }
    }
}

/// All requests and answers about one cluster.
#[derive(Default)]
struct History<'a> {
    answers: Vec<(&'a Event, &'a Cluster)>,
    /// Reports: node, generation, and when.
    reports: Vec<(&'a str, Option<u64>, Duration)>,
    /// When each node first asked to leave.
    leaves: BTreeMap<&'a str, Duration>,
    /// When each generation's lease was first made to expire.
    lapses: BTreeMap<u64, Duration>,
    /// When a lease of an unknown generation was first made to expire.
    lost_lapse: Option<Duration>,
    /// The known winners of the generations.
    winners: BTreeMap<u64, &'a str>,
    ready: Option<u64>,
    uuid: Option<&'a str>,
}

impl<'a> History<'a> {
    fn of(events: &[&'a Event]) -> Self {
        let mut history = Self::default();
        for event in events.iter().filter(|event| !event.is_intruder) {
            history.take(event);
        }
        history
    }

    fn take(&mut self, event: &'a Event) {
        let (node, invoked) = (event.node.as_str(), event.invoked);
        let first = |time: &mut Duration| *time = invoked.min(*time);
        match (&event.operation, &event.outcome) {
            (Operation::Ready { generation, .. }, _) => {
                self.reports.push((node, *generation, invoked));
            }
            (Operation::Leave { .. }, _) => {
                self.leaves.entry(node).and_modify(first).or_insert(invoked);
            }
            (Operation::Lapse, Outcome::Lapsed(of)) => {
                self.lapses.entry(*of).and_modify(first).or_insert(invoked);
            }
            (Operation::Lapse, _) => {
                let lost = self.lost_lapse.unwrap_or(invoked);
                self.lost_lapse = Some(lost.min(invoked));
            }
            (Operation::Claim | Operation::Status, _) => {}
        }
        if let Outcome::Told(cluster) = &event.outcome {
            self.answers.push((event, cluster));
            match cluster.state {
                State::Claimed => {
                    let winner = self.winners.entry(cluster.generation);
                    winner.or_insert(&cluster.initial_node_ip_addr_or_hostname);
                }
                State::Ready => {
                    self.ready.get_or_insert(cluster.generation);
                }
            }
            self.uuid = self.uuid.or(cluster.cluster_uuid.as_deref());
        }
    }

    fn has_left(&self, node: &str, by: Duration) -> bool {
        self.leaves.get(node).is_some_and(|left| *left < by)
    }

    /// Whether the generation's claim may have been taken over by then.
    fn can_be_taken(&self, generation: u64, by: Duration) -> bool {
        let has_lapsed = |since: Option<&Duration>| since.is_some_and(|since| *since < by);
        let is_given_up = match self.winners.get(&generation) {
            Some(winner) => self.has_left(winner, by),
            None => self.leaves.values().any(|left| *left < by),
        };
        let lost = self.lost_lapse.as_ref();
        is_given_up || has_lapsed(self.lapses.get(&generation)) || has_lapsed(lost)
    }

    /// Whether a report that makes the generation ready was sent by then.
    fn can_be_ready(&self, generation: u64, by: Duration) -> bool {
        let winner = self.winners.get(&generation);
        self.reports.iter().any(|(node, said, sent)| {
            let is_the_winner = winner.is_none_or(|winner| winner == node);
            *sent < by && is_the_winner && said.is_none_or(|said| said == generation)
        })
    }

    fn broken_by(&self, event: &Event, known: &Known) -> BTreeSet<Property> {
        match &event.outcome {
            Outcome::Told(_) if event.is_intruder => [Property::SecretIsAsked].into(),
            Outcome::Told(cluster) => self.broken_by_answer(event, cluster, known),
            Outcome::Refused(code) if event.is_intruder => {
                let is_unclaimed = code == "cluster_not_found" && known.generation == 0;
                let says_nothing = code == "forbidden" || is_unclaimed;
                (!says_nothing).then_some(Property::SecretIsAsked).into_iter().collect()
            }
            Outcome::Refused(code) => {
                let has_reason = self.has_reason(event, code, known);
                (!has_reason).then_some(Property::ReasonToRefuse).into_iter().collect()
            }
            Outcome::Lapsed(_) if known.is_ready => [Property::ReadyIsFinal].into(),
            Outcome::Lapsed(generation) if *generation < known.generation => {
                [Property::GenerationsGrow].into()
            }
            Outcome::Lapsed(_) | Outcome::Lost => BTreeSet::new(),
        }
    }

    fn broken_by_answer(&self, event: &Event, told: &Cluster, known: &Known) -> BTreeSet<Property> {
        let by = event.completed;
        let initial = told.initial_node_ip_addr_or_hostname.as_str();
        let winner = self.winners.get(&told.generation).copied();
        let is_winner = winner.is_none_or(|winner| winner == initial);
        let is_ready = told.state == State::Ready;
        let is_member = |node: &str| told.nodes.iter().any(|member| member == node);
        let has_reported = |node: &str| {
            let mut reports = self.reports.iter();
            reports.any(|(reporter, _, sent)| *reporter == node && *sent < by)
        };
        let mut stayed = known.members.iter().filter(|node| !self.has_left(node, by));
        let is_claim = event.operation == Operation::Claim;
        let members = if is_claim {
            told.nodes.is_empty() && told.members.is_empty()
        } else {
            told.nodes.iter().all(|node| has_reported(node))
                && told.nodes.is_sorted_by(|a, b| a < b)
                && stayed.all(|node| is_member(node))
                && (is_ready || told.nodes.is_empty())
                && told.nodes.iter().eq(told.members.iter().map(|member| &member.node))
        };
        let uuid = told.cluster_uuid.as_deref();

        let mut properties = vec![
            (Property::OneInitializer, is_ready || is_winner),
            (
                Property::WinnerStays,
                !is_ready || is_winner || winner.is_some_and(|winner| self.has_left(winner, by)),
            ),
            (Property::WinnerIsTold, told.is_initial_node == (initial == event.node)),
            (
                Property::LeaseIsKept,
                (1..told.generation).all(|generation| self.can_be_taken(generation, by)),
            ),
            (Property::GenerationsGrow, told.generation >= known.generation.max(1)),
            (
                Property::ReadyIsFinal,
                (is_ready || !known.is_ready)
                    && self.ready.is_none_or(|ready| {
                        told.generation == ready || !is_ready && told.generation < ready
                    }),
            ),
            (
                Property::UuidIsFinal,
                if uuid.is_some() { is_ready && uuid == self.uuid } else { !known.has_uuid },
            ),
            (Property::JoinersWait, !is_ready || self.can_be_ready(told.generation, by)),
            (Property::MembersReported, members),
            (Property::MemberToJoin, !is_ready || is_claim || is_member(initial)),
        ];
        match &event.operation {
            Operation::Ready { generation, .. } => {
                let is_accepted = is_ready && is_member(&event.node);
                properties.push((Property::MembersReported, is_accepted));
                let fits = generation.is_none_or(|said| said == told.generation);
                properties.push((Property::StaleIsRefused, fits));
            }
            Operation::Leave { generation } => {
                let fits = generation.is_none_or(|given| given == told.generation);
                properties.push((Property::StaleIsRefused, fits));
                properties.push((Property::MembersReported, !is_member(&event.node)));
            }
            Operation::Claim | Operation::Status | Operation::Lapse => {}
        }
        let broken = properties.into_iter().filter(|(_, holds)| !holds);
        broken.map(|(property, _)| property).collect()
    }

    /// Whether a request with the right secret may have been refused with this code.
    fn has_reason(&self, event: &Event, code: &str, known: &Known) -> bool {
        match (&event.operation, code) {
            (Operation::Claim | Operation::Lapse, _) => false,
            (_, "cluster_not_found") => known.generation == 0,
            (
                Operation::Ready { generation, .. } | Operation::Leave { generation },
                "stale_generation",
            ) => {
                generation.is_some_and(|said| {
                    // A generation before and after the event also existed during it.
                    let stood_after = self.answers.iter().any(|(answer, told)| {
                        answer.invoked > event.completed && told.generation == said
                    });
                    known.generation != said || !stood_after
                })
            }
            (Operation::Ready { generation, .. }, "initial_node_not_ready") => {
                let winner = generation.and_then(|said| self.winners.get(&said));
                !known.is_ready && winner.is_none_or(|winner| *winner != event.node)
            }
            (Operation::Ready { uuid, .. }, "other_cluster") => {
                uuid.is_some() && uuid.as_deref() != self.uuid
            }
            (Operation::Leave { .. }, "last_node") => {
                let mut others = known.members.iter().filter(|node| **node != event.node);
                others.all(|node| self.has_left(node, event.completed))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use cbbootstrap_protocol::wire::Member;

    use super::{Property as P, *};

    const LEAVE: Operation = Operation::Leave { generation: None };

    /// A node's request, between two times in seconds.
    fn event(times: (u64, u64), node: &str, operation: Operation, outcome: Outcome) -> Event {
        let [invoked, completed] = [times.0, times.1].map(Duration::from_secs);
        let (cluster, node) = ("c".to_owned(), node.to_owned());
        Event { cluster, node, operation, is_intruder: false, invoked, completed, outcome }
    }

    fn claim(times: (u64, u64), node: &str, told: Cluster) -> Event {
        event(times, node, Operation::Claim, tell(node, told))
    }

    fn status(times: (u64, u64), node: &str, told: Cluster) -> Event {
        event(times, node, Operation::Status, tell(node, told))
    }

    fn ready(times: (u64, u64), node: &str, said: u64, told: Cluster) -> Event {
        event(times, node, report(said), tell(node, told))
    }

    fn leave(times: (u64, u64), node: &str, told: Cluster) -> Event {
        event(times, node, LEAVE, tell(node, told))
    }

    fn lapse(times: (u64, u64), generation: u64) -> Event {
        event(times, "", Operation::Lapse, Outcome::Lapsed(generation))
    }

    fn lost(times: (u64, u64), node: &str, operation: Operation) -> Event {
        event(times, node, operation, Outcome::Lost)
    }

    fn refused(times: (u64, u64), node: &str, operation: Operation, code: &str) -> Event {
        event(times, node, operation, Outcome::Refused(code.to_owned()))
    }

    fn report(generation: u64) -> Operation {
        let (generation, uuid) = (Some(generation), Some("u".to_owned()));
        Operation::Ready { generation, uuid }
    }

    fn tell(node: &str, cluster: Cluster) -> Outcome {
        let is_initial_node = cluster.initial_node_ip_addr_or_hostname == node;
        Outcome::Told(Cluster { is_initial_node, ..cluster })
    }

    fn claimed(generation: u64, initial: &str) -> Cluster {
        Cluster {
            cluster_id: "c".to_owned(),
            initial_node_ip_addr_or_hostname: initial.to_owned(),
            is_initial_node: false,
            state: State::Claimed,
            generation,
            lease_expires_at: None,
            lease_seconds_left: None,
            previous_initial_nodes: Vec::new(),
            rival_node_uuid: None,
            nodes: Vec::new(),
            members: Vec::new(),
            cluster_uuid: None,
        }
    }

    fn member(node: &str) -> Member {
        Member {
            node: node.to_owned(),
            reported_at: jiff::Timestamp::UNIX_EPOCH,
            node_uuid: None,
            authority_sha256: None,
            attestation: None,
        }
    }

    fn made(generation: u64, initial: &str, nodes: &[&str]) -> Cluster {
        Cluster {
            state: State::Ready,
            nodes: nodes.iter().map(|&node| node.to_owned()).collect(),
            members: nodes.iter().map(|node| member(node)).collect(),
            cluster_uuid: Some("u".to_owned()),
            ..claimed(generation, initial)
        }
    }

    fn broken(events: &[Event]) -> BTreeSet<Property> {
        check(events).into_iter().map(|violation| violation.property).collect()
    }

    /// Histories that follow the protocol.
    fn good() -> Vec<Event> {
        vec![
            lost((0, 5), "a", Operation::Claim),
            claim((1, 2), "b", claimed(1, "a")),
            claim((6, 7), "a", claimed(1, "a")),
            refused((7, 8), "b", report(1), "initial_node_not_ready"),
            lapse((8, 9), 1),
            // A node sends its claim before the takeover and gets the answer later.
            claim((9, 20), "c", claimed(1, "a")),
            claim((9, 10), "b", claimed(2, "b")),
            refused((11, 12), "a", report(1), "stale_generation"),
            leave((12, 13), "b", claimed(2, "b")),
            claim((13, 14), "c", claimed(3, "c")),
            lost((15, 16), "c", report(3)),
            claim((17, 18), "a", made(3, "c", &[])),
            ready((21, 22), "a", 3, made(3, "c", &["a", "c"])),
            // The answer to the first node's leave was lost.
            lost((23, 24), "c", LEAVE),
            status((25, 26), "b", made(3, "a", &["a"])),
            refused((27, 28), "a", Operation::Leave { generation: Some(2) }, "stale_generation"),
            refused((29, 30), "a", LEAVE, "last_node"),
        ]
    }

    #[test]
    fn correct_history_has_no_violation() {
        assert_eq!(broken(&good()), BTreeSet::new(), "{:#?}", check(&good()));
        for left_out in 0..good().len() {
            // A lost answer is not a violation either.
            let mut events = good();
            events[left_out].outcome = Outcome::Lost;
            assert_eq!(broken(&events), BTreeSet::new(), "without {left_out}");
        }
        let mut stranger = refused((30, 31), "x", Operation::Status, "forbidden");
        stranger.is_intruder = true;
        assert_eq!(broken(&[good(), vec![stranger]].concat()), BTreeSet::new());
    }

    #[test]
    fn concurrent_events_may_take_effect_in_any_order() {
        let events = [
            lapse((0, 1), 1),
            claim((2, 9), "b", claimed(2, "b")),
            claim((3, 5), "a", claimed(2, "b")),
            claim((2, 6), "c", claimed(1, "a")),
        ];
        assert_eq!(broken(&events), BTreeSet::new());
    }

    /// The history before another node than the first asks to leave, and one more event.
    fn after(event: Event) -> Vec<Event> {
        [&good()[..15], &[event]].concat()
    }

    fn assert_seen(violations: impl IntoIterator<Item = (Property, Vec<Event>)>) {
        for (property, events) in violations {
            assert!(broken(&events).contains(&property), "{property:?}: {events:#?}");
        }
    }

    #[test]
    fn violations_of_claims_and_leases_are_seen() {
        assert_seen([
            (
                P::OneInitializer,
                vec![claim((0, 3), "a", claimed(1, "a")), claim((1, 2), "b", claimed(1, "b"))],
            ),
            (P::OneInitializer, after(status((3, 4), "b", claimed(3, "b")))),
            (
                P::WinnerStays,
                vec![
                    claim((0, 1), "a", claimed(1, "a")),
                    ready((1, 2), "a", 1, made(1, "a", &["a"])),
                    ready((3, 4), "b", 1, made(1, "b", &["a", "b"])),
                ],
            ),
            (
                P::WinnerIsTold,
                vec![event((0, 1), "a", Operation::Claim, Outcome::Told(claimed(1, "a")))],
            ),
            (
                P::WinnerIsTold,
                vec![event((0, 1), "a", Operation::Claim, tell("b", claimed(1, "b")))],
            ),
            (
                P::LeaseIsKept,
                vec![
                    claim((0, 1), "a", claimed(1, "a")),
                    lapse((5, 6), 1),
                    claim((2, 4), "b", claimed(2, "b")),
                ],
            ),
            (P::LeaseIsKept, vec![lapse((0, 1), 1), claim((2, 3), "b", claimed(3, "b"))]),
            (
                P::GenerationsGrow,
                vec![
                    lapse((0, 1), 1),
                    claim((2, 3), "b", claimed(2, "b")),
                    status((4, 5), "a", claimed(1, "a")),
                ],
            ),
            (P::GenerationsGrow, after(lapse((15, 16), 2))),
            (P::ReadyIsFinal, after(status((30, 31), "c", claimed(3, "c")))),
            (P::ReadyIsFinal, after(lapse((30, 31), 3))),
            (
                P::ReadyIsFinal,
                [after(lapse((14, 15), 3)), vec![claim((16, 29), "b", claimed(4, "b"))]].concat(),
            ),
            (
                P::UuidIsFinal,
                after(status(
                    (30, 31),
                    "b",
                    Cluster { cluster_uuid: Some("v".to_owned()), ..made(3, "a", &["a"]) },
                )),
            ),
            (
                P::UuidIsFinal,
                after(status(
                    (30, 31),
                    "b",
                    Cluster { cluster_uuid: None, ..made(3, "a", &["a"]) },
                )),
            ),
        ]);
    }

    #[test]
    fn violations_of_records_and_refusals_are_seen() {
        let nodes = ["a"];
        assert_seen([
            (P::StaleIsRefused, after(ready((30, 31), "b", 2, made(3, "a", &["a", "b"])))),
            (
                P::StaleIsRefused,
                after(event(
                    (30, 31),
                    "b",
                    Operation::Leave { generation: Some(2) },
                    tell("b", made(3, "a", &nodes)),
                )),
            ),
            (
                P::ReasonToRefuse,
                after(refused(
                    (30, 31),
                    "b",
                    Operation::Leave { generation: None },
                    "stale_generation",
                )),
            ),
            (P::MembersReported, after(claim((30, 31), "b", made(3, "a", &nodes)))),
            (
                P::JoinersWait,
                vec![
                    claim((0, 1), "a", claimed(1, "a")),
                    ready((2, 3), "b", 1, made(1, "b", &["b"])),
                ],
            ),
            (P::MembersReported, after(status((30, 31), "b", made(3, "a", &["a", "x"])))),
            (P::MembersReported, after(status((30, 31), "b", made(3, "c", &["c"])))),
            (P::MembersReported, after(status((30, 31), "b", made(3, "c", &["c", "a"])))),
            (P::MembersReported, after(leave((30, 31), "c", made(3, "c", &["a", "c"])))),
            (P::MemberToJoin, after(status((30, 31), "b", made(3, "c", &nodes)))),
            (
                P::SecretIsAsked,
                after(Event { is_intruder: true, ..status((30, 31), "x", made(3, "a", &nodes)) }),
            ),
            (
                P::SecretIsAsked,
                after(Event {
                    is_intruder: true,
                    ..refused((30, 31), "x", LEAVE, "cluster_not_found")
                }),
            ),
            (P::ReasonToRefuse, after(refused((30, 31), "a", Operation::Claim, "forbidden"))),
            (P::ReasonToRefuse, after(refused((30, 31), "a", Operation::Status, "internal"))),
            (
                P::ReasonToRefuse,
                after(refused((30, 31), "a", Operation::Status, "cluster_not_found")),
            ),
            (P::ReasonToRefuse, after(refused((30, 31), "b", report(3), "initial_node_not_ready"))),
            (P::ReasonToRefuse, after(refused((30, 31), "b", report(3), "other_cluster"))),
            (P::ReasonToRefuse, after(refused((19, 20), "b", report(3), "stale_generation"))),
            (P::ReasonToRefuse, after(refused((30, 31), "c", LEAVE, "last_node"))),
        ]);
    }
}
