//! The API: the rules of the protocol, applied to the record.

use super::*;

pub(super) enum Reply {
    Row(Row),
    NotFound,
    Refused(rules::Refusal),
}

/// The clock of an instance of the service.
fn clock(is_fast: bool) -> Timestamp {
    if is_fast { now() + rules::CLOCK_SKEW } else { now() }
}

impl Row {
    pub(super) fn to_record(&self) -> rules::Record {
        let member = rules::Member {
            reported_at: now(),
            node_uuid: None,
            authority: None,
            attestation: None,
        };
        let names =
            |numbers: &[u8]| numbers.iter().map(|number| format!("n{number}")).collect::<Vec<_>>();
        rules::Record {
            cluster_id: id().as_str().to_owned(),
            initial_node: format!("n{}", self.first),
            initial_node_uuid: self.first_server.map(|server| uuid(server).as_str().to_owned()),
            previous_initial_nodes: names(&self.previous),
            rival_node_uuid: None,
            is_given_up: self.is_given_up,
            state: if self.is_ready { State::Ready } else { State::Claimed },
            generation: u64::from(self.generation),
            claimed_at: None,
            lease_expires_at: self
                .lease_left
                .map(|left| now() + jiff::SignedDuration::from_secs(i64::from(left))),
            kept_until: None,
            is_forgotten: self.is_forgotten,
            members: names(&self.members).into_iter().map(|name| (name, member.clone())).collect(),
            cluster_uuid: self.cluster.map(|cluster| uuid(cluster).as_str().to_owned()),
            secret: None,
        }
    }

    pub(super) fn of(record: &rules::Record) -> Self {
        let left = |end: Timestamp| {
            i16::try_from(end.as_second() - now().as_second()).unwrap().max(LONG_AGO)
        };
        Self {
            first: number(&record.initial_node),
            first_server: record.initial_node_uuid.as_deref().map(incarnation),
            previous: record.previous_initial_nodes.iter().map(|node| number(node)).collect(),
            is_ready: record.state == State::Ready,
            generation: u8::try_from(record.generation).unwrap(),
            lease_left: record.lease_expires_at.map(left),
            is_given_up: record.is_given_up,
            is_forgotten: record.is_forgotten,
            members: record.members.keys().map(|node| number(node)).collect(),
            cluster: record.cluster_uuid.as_deref().map(incarnation),
        }
    }

    /// The answer to a node, as the agent validates it.
    pub(super) fn answer(&self, asking: u8, is_fast: bool) -> ClusterRecord {
        let answer = self.to_record().answer(Some(&name(asking)), clock(is_fast));
        ClusterRecord::new(answer, &id(), Some(&name(asking)), present()).unwrap()
    }

    pub(super) fn is_lapsed(&self) -> bool {
        self.to_record().is_lapsed(now())
    }
}

impl Setup {
    /// Applies a request to the record, by the real rules as the mutants change them.
    pub(super) fn answer(
        &self,
        record: &mut Option<Row>,
        request: &Request,
        is_fast: bool,
    ) -> Reply {
        let standing = record.as_ref().map(Row::to_record);
        let now = clock(is_fast);
        let server = |server: &Option<Incarnation>| {
            server.filter(|_| self.tells_uuid && !self.has(Mutant::Nameless)).map(uuid)
        };
        let generation =
            |given: Option<u8>, mutant| given.filter(|_| !self.has(mutant)).map(u64::from);
        let ruled = match request {
            Request::Status => {
                rules::Record::shown_to(standing.clone(), None, now).map(|_| standing)
            }
            Request::Claim(node, by) => {
                let claim = Claim {
                    cluster_id: id(),
                    node: name(*node),
                    node_uuid: server(by),
                    lease: Some(seconds(LEASE)),
                    secret: None,
                    now,
                };
                claim.on(standing).map(|(_, mut record)| {
                    if self.has(Mutant::LatestPrevious) {
                        record.previous_initial_nodes.truncate(1);
                    }
                    Some(record)
                })
            }
            Request::Ready { name: node, server: by, generation: given, cluster } => {
                let ready = Ready {
                    cluster_id: id(),
                    node: name(*node),
                    node_uuid: server(by),
                    generation: generation(*given, Mutant::UnfencedReady),
                    cluster_uuid: Some(uuid(*cluster)),
                    authority: None,
                    attestation: None,
                    secret: None,
                    now,
                };
                ready.on(standing).map(Some)
            }
            Request::Leave { name: node, server: by, generation: given } => {
                let generation = generation(*given, Mutant::UnfencedLeave);
                let leave = Leave {
                    cluster_id: id(),
                    node: name(*node),
                    node_uuid: server(by),
                    generation,
                    secret: None,
                    now,
                };
                leave.on(standing).map(Some)
            }
        };
        match ruled {
            Ok(Some(ruled)) => {
                let row = Row::of(&ruled);
                *record = Some(row.clone());
                Reply::Row(row)
            }
            Ok(None) | Err(rules::Refusal::NotFound) => Reply::NotFound,
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    /// A call to the API through the network.
    pub(super) fn call(&self, world: &mut World, request: &Request, call: Call) -> Option<Reply> {
        if call.is_copied || call.is_late {
            world.late.insert(request.clone());
            world.budgets.copies -= 1;
        }
        if call.is_late {
            return None;
        }
        let reply = self.answer(&mut world.record, request, call.is_fast);
        if call.is_lost {
            world.budgets.losses -= 1;
            return None;
        }
        Some(reply)
    }

    pub(super) fn forget(&self, world: &mut World) {
        let record = world.record.as_ref().map(Row::to_record);
        world.record = if self.has(Mutant::NoTombstone) {
            None
        } else {
            record.map(|record| Row::of(&rules::forget(record, now())))
        };
    }
}
