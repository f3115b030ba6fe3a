//! An agent: what `commands::up` does around the decisions, in small.

use super::{api::Reply, *};

fn extras() -> [Extra; 3] {
    let bucket = "app:100".parse().unwrap();
    let address = "203.0.113.1".to_owned();
    [Extra::Group("zone".to_owned()), Extra::Bucket(bucket), Extra::AlternateAddress(address)]
}

impl Agent {
    pub(super) fn is_running(&self) -> bool {
        !matches!(self.phase, Phase::Ended(_))
    }

    /// Waits, or begins the next round.
    pub(super) fn rest(&mut self) {
        self.phase = Phase::Idle;
        self.asked.take_if(|row| !row.is_ready);
        if self.asked.is_none() {
            self.lease_left = None;
        }
    }

    pub(super) fn end(&mut self, end: End) {
        *self = Self { phase: Phase::Ended(end), ..Self::default() };
    }

    /// Begins again after a refusal, as `run` does.
    pub(super) fn start_over(&mut self, knows_call: bool) {
        *self = Self {
            claim: self.claim,
            absent: std::mem::take(&mut self.absent),
            has_initialized: self.has_initialized,
            may_be_under_way: self.may_be_under_way && knows_call,
            left_claim: self.left_claim,
            ..Self::default()
        };
    }

    /// Stores an answer. Within a generation the lease is not renewed, and inspections count for one generation.
    pub(super) fn learn(&mut self, row: Row, is_initial: bool, lease_left: Option<i16>) {
        let known = self.claim.filter(|(generation, _)| *generation == row.generation);
        if known.is_none() {
            self.inspections.clear();
            self.was_blind = false;
        }
        let ends = match (lease_left, known) {
            (Some(left), Some((_, Some(end)))) => Some(left.min(end)),
            (left, _) => left,
        };
        // The next answer has the lease of another node's claim.
        self.claim = (is_initial || !self.inspections.is_empty()).then_some((row.generation, ends));
        self.lease_left = ends;
        self.asked = Some(row);
    }

    /// The current record.
    pub(super) fn record(&self, asking: u8) -> Option<ClusterRecord> {
        let row = self.asked.as_ref()?;
        let lease_end = self.lease_left.map(|left| present() + seconds(left));
        Some(ClusterRecord { lease_end, ..row.answer(asking, false) })
    }
}

impl Setup {
    pub(super) fn goal(&self, node: usize) -> Goal {
        Goal {
            can_begin: !self.unfit.contains(&node),
            extras: if self.extras_refused { extras().into() } else { Vec::new() },
            settle: Duration::from_secs(5),
            ..Goal::new(name(self.names[node]), seconds(LEASE))
        }
    }

    /// A cluster, as the server of one of its nodes sees it.
    pub(super) fn view(&self, world: &World, node: usize) -> Option<View> {
        let cluster = world.servers[node].cluster?;
        let is_alone = world.servers[node].is_copy;
        let members = world.servers.iter().enumerate().filter(|(number, server)| {
            let is_other = *number != node && (is_alone || server.is_copy);
            server.cluster == Some(cluster) && !is_other
        });
        let nodes = members.map(|(number, server)| NodeInfo {
            // Two nodes may have the same name.
            otp: format!("ns_1@{number}"),
            uuid: Some(uuid(server.incarnation(number))),
            is_asked: number == node,
            ..NodeInfo::healthy(name(self.names[number]).host().to_string())
        });
        let view = View::balanced(uuid(cluster), nodes.collect());
        Some(View { is_balanced: !self.services_down, ..view })
    }

    pub(super) fn own(&self, world: &World, node: usize) -> OwnServer {
        match self.view(world, node) {
            Some(view) => OwnServer::Member(view),
            None => OwnServer::Blank(Some(uuid(world.servers[node].incarnation(node)))),
        }
    }

    pub(super) fn memory(agent: &Agent) -> Memory {
        let inspections = agent.inspections.iter().map(|(number, state)| (name(*number), *state));
        let absent = agent.absent.iter();
        let absence = |time| Absence { since: ago(seconds(time)), last: ago(seconds(time)) };
        let absences = absent.map(|(number, time)| (name(*number), absence(*time)));
        Memory {
            same_since: Some(ago(Duration::from_hours(1))),
            is_claimed_by_other: agent.is_claimed_by_other,
            inspections: inspections.collect(),
            occupied_by: agent.occupied.map(|(number, time)| (name(number), ago(seconds(time)))),
            is_confirmed: agent.is_confirmed,
            is_reported: agent.is_reported,
            done_extras: if agent.are_extras_done { extras().into() } else { BTreeSet::new() },
            kept: Kept {
                has_initialized: agent.has_initialized,
                may_be_under_way: agent.may_be_under_way,
                left_claim: agent.left_claim.map(u64::from),
                absences: absences.collect(),
                ..Kept::default()
            },
            ..Memory::default()
        }
    }

    /// The real decision, as the mutants change it.
    pub(super) fn decide(
        &self,
        goal: &Goal,
        own: &OwnServer,
        asked: &Asked,
        memory: &Memory,
    ) -> Action {
        let mut asked = asked.clone();
        let mut memory = memory.clone();
        if self.has(Mutant::ForgetsLeave) {
            memory.kept.left_claim = None;
        }
        memory.is_confirmed |= self.has(Mutant::NoConfirmation);
        let memory = &memory;
        if let Asked::Record(record) = &mut asked {
            if self.has(Mutant::NoLook) {
                record.previous.clear();
            }
            if self.has(Mutant::NoMargin) && record.is_initial {
                record.lease_end = record.lease_end.map(|end| end + LEASE_MARGIN);
            }
            if let OwnServer::Member(_) = own
                && record.is_initial
                && record.state == State::Claimed
            {
                if self.has(Mutant::ClaimsAgain)
                    && record.lease_left(present()) == Some(Duration::ZERO)
                {
                    return Action::Claim;
                }
                // What comes after the report.
                let reported =
                    Asked::Record(ClusterRecord { state: State::Ready, ..record.clone() });
                let after = decision::next_action(
                    goal,
                    own,
                    &reported,
                    &Memory { is_reported: true, ..memory.clone() },
                    present(),
                );
                match after {
                    Action::Apply(_) if self.has(Mutant::ExtrasFirst) => return after,
                    Action::Wait(_) | Action::Rebalance { .. }
                        if self.has(Mutant::OnlyWhenBalanced) =>
                    {
                        return after;
                    }
                    _ => {}
                }
            }
        }
        decision::next_action(goal, own, &asked, memory, present())
    }

    /// The deadline of an answer's lease, in seconds from now.
    pub(super) fn lease_left(&self, record: &ClusterRecord) -> Option<i16> {
        let left = i16::try_from(record.lease_left(present())?.as_secs()).unwrap();
        if self.has(Mutant::LeaseFromAnswer) {
            return Some(left + 15);
        }
        Some(if record.is_initial { left.min(LEASE) } else { left })
    }

    pub(super) fn learn(&self, world: &mut World, node: usize, row: Row, is_fast: bool) {
        let record = row.answer(self.names[node], is_fast);
        let left = self.lease_left(&record);
        world.agents[node].learn(row, record.is_initial, left);
    }

    /// One round of `up`, up to the next action. Returns whether something was done already.
    pub(super) fn round(&self, world: &mut World, node: usize, call: Call) -> bool {
        let (own, goal) = (self.own(world, node), self.goal(node));
        if matches!(own, OwnServer::Blank(_)) {
            // Also after an initialization without effect.
            world.agents[node].rest();
        }
        let mut is_unclaimed = false;
        let (mut has_claimed, mut has_acted) = (false, false);
        loop {
            let asked = match world.agents[node].record(self.names[node]) {
                Some(record) => Asked::Record(record),
                None if is_unclaimed => Asked::NoRecord,
                None => Asked::NotYet,
            };
            let action = self.decide(&goal, &own, &asked, &Self::memory(&world.agents[node]));
            world.check_decision(&goal, &own, &action);
            match action {
                Action::GetRecord | Action::Claim if !has_claimed => {
                    has_claimed = action == Action::Claim;
                    match self.ask(world, node, call, has_claimed) {
                        Some(is_claimed) => is_unclaimed = !is_claimed,
                        None => return !world.agents[node].is_running(),
                    }
                }
                Action::Apply(_) if !self.has(Mutant::ExtrasFirst) => {
                    world.agents[node].are_extras_done = true;
                    has_acted = true;
                }
                action => return Self::choose(world, node, action) || has_acted,
            }
        }
    }

    /// Asks the API whether the cluster is claimed. `None` ends the round.
    fn ask(&self, world: &mut World, node: usize, call: Call, claims: bool) -> Option<bool> {
        let server = world.servers[node].incarnation(node);
        let (request, call) = if claims {
            (Request::Claim(self.names[node], Some(server)), call)
        } else {
            // A lost or late answer to a status changes nothing.
            (Request::Status, Call { is_fast: call.is_fast, ..Call::default() })
        };
        match self.call(world, &request, call) {
            Some(Reply::Row(row)) => {
                if claims {
                    world.agents[node].is_claimed_by_other =
                        row.is_ready || row.first != self.names[node];
                }
                self.learn(world, node, row, call.is_fast);
                Some(true)
            }
            Some(Reply::NotFound) => Some(false),
            Some(Reply::Refused(rules::Refusal::NameTaken { .. })) | None => {
                world.agents[node].rest();
                None
            }
            Some(Reply::Refused(_)) => {
                world.agents[node].end(End::Refused);
                None
            }
        }
    }

    /// Takes an action as the next step, ends, or waits. Returns whether the agent does not wait.
    fn choose(world: &mut World, node: usize, action: Action) -> bool {
        let act = match action {
            Action::Done => {
                let cluster = world.servers[node].cluster.unwrap();
                world.believe(node, cluster);
                world.agents[node].end(End::Member(cluster));
                return true;
            }
            Action::Stop(reason) => {
                world.agents[node].end(match reason {
                    StopReason::OtherCluster { .. } => End::OtherCluster,
                    StopReason::Occupied(_) => End::Occupied,
                    _ => End::Refused,
                });
                return true;
            }
            Action::Inspect(nodes) => {
                Act::Inspect(nodes.iter().map(|node| number(node.as_str())).collect())
            }
            Action::GiveUpClaim(node) => Act::GiveUpClaim(number(node.as_str())),
            Action::LeaveClaim => Act::LeaveClaim,
            Action::Initialize => Act::Initialize,
            Action::Join(_) => Act::Join,
            Action::Confirm => Act::Confirm,
            Action::Report(uuid) => Act::Report(incarnation(uuid.as_str())),
            _ => {
                world.agents[node].rest();
                return false;
            }
        };
        world.agents[node].phase = Phase::Chosen(act);
        true
    }

    /// Acts on the decision. Returns whether the agent waits afterwards.
    pub(super) fn act(&self, world: &mut World, node: usize, call: Call, sight: Sight) -> bool {
        let Phase::Chosen(act) = world.agents[node].phase.clone() else {
            unreachable!("nothing was chosen")
        };
        match act {
            Act::Inspect(names) => {
                self.inspect(world, node, &names, sight);
                world.agents[node].rest();
                false
            }
            Act::GiveUpClaim(name) => {
                let reply = self.leave_claim(world, node, call);
                if matches!(reply, Some(Reply::Row(_))) {
                    world.agents[node].occupied = Some((name, 0));
                }
                world.agents[node].rest();
                !matches!(reply, Some(Reply::Row(_)))
            }
            Act::LeaveClaim => {
                self.leave_claim(world, node, call);
                world.agents[node].rest();
                true
            }
            Act::Initialize => {
                let left = world.agents[node].lease_left.unwrap_or(i16::MAX);
                if seconds(left) < LEASE_MARGIN && !self.has(Mutant::NoMargin) {
                    world.agents[node].rest();
                } else {
                    world.agents[node].phase = Phase::Checked;
                }
                false
            }
            Act::Join => self.join(world, node),
            Act::Confirm => self.confirm(world, node),
            Act::Report(cluster) => self.report(world, node, cluster, call),
        }
    }

    pub(super) fn leave_claim(&self, world: &mut World, node: usize, call: Call) -> Option<Reply> {
        let agent = &mut world.agents[node];
        agent.left_claim = agent.claim.map(|(generation, _)| generation);
        let request = Request::Leave {
            name: self.names[node],
            server: Some(world.servers[node].incarnation(node)),
            generation: agent.left_claim,
        };
        self.call(world, &request, call)
    }

    /// Inspects the servers of these nodes.
    fn inspect(&self, world: &mut World, node: usize, names: &[u8], sight: Sight) {
        if sight == Sight::Blink {
            world.budgets.blinks -= 1;
        }
        let gap = if self.has(Mutant::OneLook) {
            Duration::ZERO
        } else {
            self.goal(node).inspection_gap()
        };
        for &number in names {
            let at = self.names.iter().position(|other| *other == number).unwrap();
            let is_provisioned = world.servers[at].cluster.is_some();
            let inspection = match sight {
                Sight::Clear if is_provisioned => Inspection::Provisioned,
                Sight::Clear => Inspection::Blank,
                Sight::Blind | Sight::Blink => Inspection::Unreachable,
            };
            let agent = &mut world.agents[node];
            let mut memory = Self::memory(agent);
            let times = (present(), present());
            memory.note_inspection(&name(number), Some(inspection), gap, times);
            agent.inspections.insert(number, memory.inspections[&name(number)]);
            if memory.kept.absences.contains_key(&name(number)) {
                agent.absent.entry(number).or_default();
            } else {
                agent.absent.remove(&number);
            }
            agent.was_blind |= is_provisioned && sight == Sight::Blind;
        }
    }

    /// Joins through the first member that can add the node.
    pub(super) fn join(&self, world: &mut World, node: usize) -> bool {
        let Some(record) = world.agents[node].record(self.names[node]) else {
            unreachable!("a record names the members")
        };
        let own = uuid(world.servers[node].incarnation(node));
        let mut others = 0;
        let members: Vec<_> =
            record.nodes().into_iter().filter(|other| **other != name(self.names[node])).collect();
        for member in &members {
            let at = self.names.iter().position(|other| name(*other) == **member).unwrap();
            let Some(view) = self.view(world, at) else {
                continue;
            };
            if decision::may_be_copy(&name(self.names[node]), member, &view, &record)
                && matches!(self.testimony(world, at, &record), Testimony::NotListed(_))
                && !self.has(Mutant::TrustsCopies)
            {
                continue;
            }
            match decision::admission(
                &name(self.names[node]),
                Some(&own),
                &view,
                record.cluster_uuid.as_ref(),
                false,
            ) {
                // The server takes part only while it belongs to no cluster.
                Admission::Add if world.servers[node].cluster.is_none() => {
                    world.servers[node].cluster = world.servers[at].cluster;
                    if world.servers[at].is_copy {
                        world.broken = Some(Broken::CopyBelieved);
                    }
                    world.agents[node].phase = Phase::Idle;
                    return false;
                }
                Admission::OtherCluster(_) => others += 1,
                _ => {}
            }
        }
        if others == members.len() {
            world.agents[node].end(End::OtherCluster);
        } else {
            world.agents[node].asked = None;
            world.agents[node].rest();
        }
        true
    }

    /// What the other recorded members say about a server.
    fn testimony(&self, world: &World, about: usize, record: &ClusterRecord) -> Testimony {
        let (own, ours) = (name(self.names[about]), self.view(world, about).unwrap());
        let mut testimony = Testimony::Silent { are_gone: true, why: String::new() };
        for member in record.nodes().into_iter().filter(|member| **member != own) {
            let at = self.names.iter().position(|other| name(*other) == *member).unwrap();
            match self.view(world, at).filter(|theirs| theirs.uuid == ours.uuid) {
                None => {}
                Some(theirs) if decision::is_listed(&own, &ours, &theirs) => {
                    return Testimony::Listed(theirs);
                }
                Some(_) => testimony = Testimony::NotListed(member.clone()),
            }
        }
        testimony
    }

    fn confirm(&self, world: &mut World, node: usize) -> bool {
        let (record, view) = (world.agents[node].record(self.names[node]), self.view(world, node));
        let (Some(record), Some(view)) = (record, view) else {
            unreachable!("only a member of a recorded cluster is confirmed")
        };
        let decided = decision::confirm(&view, &self.testimony(world, node, &record));
        match &decided {
            None => world.agents[node].is_confirmed = true,
            Some(Action::Stop(_)) => {
                world.agents[node].end(End::Refused);
                return true;
            }
            Some(_) => world.agents[node].asked = None,
        }
        world.agents[node].rest();
        decided.is_some()
    }

    pub(super) fn report(
        &self,
        world: &mut World,
        node: usize,
        cluster: Incarnation,
        call: Call,
    ) -> bool {
        let request = Request::Ready {
            name: self.names[node],
            server: Some(world.servers[node].incarnation(node)),
            generation: world.agents[node].asked.as_ref().map(|row| row.generation),
            cluster,
        };
        match self.call(world, &request, call) {
            Some(Reply::Row(row)) => {
                self.learn(world, node, row, call.is_fast);
                world.believe(node, cluster);
                world.agents[node].is_reported = true;
                world.agents[node].rest();
                false
            }
            Some(Reply::Refused(rules::Refusal::OtherCluster { .. })) => {
                world.agents[node].end(End::OtherCluster);
                true
            }
            Some(Reply::Refused(rules::Refusal::NameTaken { .. })) => {
                world.agents[node].end(End::Refused);
                true
            }
            Some(Reply::NotFound | Reply::Refused(_)) => {
                world.agents[node].asked = None;
                world.agents[node].rest();
                true
            }
            None => {
                // Keeps the record, to report again at once.
                world.agents[node].phase = Phase::Idle;
                true
            }
        }
    }
}
