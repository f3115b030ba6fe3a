//! The steps of the model, and where each state leads without further faults.

use super::*;

impl World {
    /// Notes a decision that no agent may make.
    pub(super) fn check_decision(&mut self, goal: &Goal, own: &OwnServer, action: &Action) {
        let is_blank = matches!(own, OwnServer::Blank(_));
        let is_for_blank = matches!(
            action,
            Action::Initialize
                | Action::Join(_)
                | Action::Inspect(_)
                | Action::GiveUpClaim(_)
                | Action::LeaveClaim
        );
        if !is_blank && is_for_blank {
            self.broken = Some(Broken::TouchedProvisioned);
        }
        if is_blank && !goal.can_begin && *action == Action::Claim {
            self.broken = Some(Broken::ClaimedUnfit);
        }
    }

    pub(super) fn believe(&mut self, node: usize, cluster: Incarnation) {
        if self.servers[node].is_copy {
            self.broken = Some(Broken::CopyBelieved);
        }
        if self.believed.is_some_and(|believed| believed != cluster) {
            self.broken = Some(Broken::TwoBelieved);
        }
        self.believed = Some(cluster);
    }
}

impl Setup {
    /// Lets time pass, unless another step must come first.
    pub(super) fn tick(&self, world: &mut World) -> bool {
        let must_be_sent = |agent: &Agent| {
            let left = agent.lease_left.unwrap_or(i16::MAX);
            agent.phase == Phase::Checked && seconds(left - TICK) < LEASE_MARGIN && !self.oversleeps
        };
        let is_due =
            |server: &Server| server.init.is_some_and(|init| init.ticks >= INITIALIZE_TICKS);
        if world.agents.iter().any(must_be_sent) || world.servers.iter().any(is_due) {
            return false;
        }
        if let Some(left) = world.record.as_mut().and_then(|row| row.lease_left.as_mut()) {
            *left = (*left - TICK).max(LONG_AGO);
        }
        for server in &mut world.servers {
            if let Some(init) = &mut server.init {
                init.ticks += 1;
            }
        }
        for agent in &mut world.agents {
            if let Some((_, Some(left))) = &mut agent.claim {
                *left = (*left - TICK).max(0);
            }
            if let Some(left) = &mut agent.lease_left {
                *left = (*left - TICK).max(0);
            }
            for time in agent.absent.values_mut() {
                *time = TICK;
            }
            if let Some((_, time)) = &mut agent.occupied {
                *time = (*time + TICK).min(LEASE);
            }
        }
        true
    }

    /// Lets these agents continue without faults, one after the other. The others are dead.
    pub(super) fn continued(&self, mut world: World, nodes: &[usize]) -> World {
        world.late.clear();
        for (node, agent) in world.agents.iter_mut().enumerate() {
            if agent.is_running() && !nodes.contains(&node) {
                *agent = Agent::default();
            }
        }
        for node in 0..world.servers.len() {
            if world.servers[node].init.is_some() {
                self.take_effect(&mut world, node, true);
            }
        }
        for _ in 0..60 {
            for &node in nodes {
                let mut acts = 0;
                while world.agents[node].is_running() {
                    let goes_on = match world.agents[node].phase {
                        Phase::Idle => self.round(&mut world, node, Call::default()),
                        Phase::Chosen(_) => {
                            !self.act(&mut world, node, Call::default(), Sight::Clear)
                        }
                        Phase::Checked => {
                            self.send(&mut world, node);
                            true
                        }
                        Phase::Initializing => {
                            if world.servers[node].init.is_some() {
                                self.take_effect(&mut world, node, true);
                            } else {
                                world.agents[node].rest();
                            }
                            true
                        }
                        Phase::Ended(_) => false,
                    };
                    acts += 1;
                    if acts > 40 {
                        world.broken = Some(Broken::Spins);
                    }
                    if !goes_on || world.broken.is_some() {
                        break;
                    }
                }
            }
            if world.broken.is_some() || nodes.iter().all(|node| !world.agents[*node].is_running())
            {
                break;
            }
            self.tick(&mut world);
        }
        world
    }

    /// The violation that follows without further faults: with one agent that has initialized its server, or with all.
    pub(in crate::decision::model) fn lookahead(&self, world: &World) -> Option<Broken> {
        for (node, server) in world.servers.iter().enumerate() {
            let own = server.incarnation(node);
            if server.cluster != Some(own)
                || !world.agents[node].is_running()
                || server.is_copy
                || self.foreign == Some(node)
            {
                continue;
            }
            let after = self.continued(world.clone(), &[node]);
            let recorded = after.record.filter(|row| row.is_ready).and_then(|row| row.cluster);
            let is_refused = matches!(after.agents[node].phase, Phase::Ended(End::OtherCluster));
            let is_well = recorded.is_some_and(|cluster| cluster == own || is_refused);
            if after.broken.is_some() || !is_well {
                return after.broken.or(Some(Broken::NotReported));
            }
        }
        let all: Vec<_> = (0..world.agents.len()).collect();
        let after = self.continued(world.clone(), &all);
        let recorded = after.record.as_ref().filter(|row| row.is_ready).and_then(|row| row.cluster);
        let is_well =
            after.agents.iter().zip(&after.servers).all(|(agent, server)| match agent.phase {
                Phase::Ended(End::Member(cluster)) => {
                    recorded == Some(cluster) && server.cluster == recorded
                }
                Phase::Ended(End::OtherCluster) => server.cluster != recorded,
                // Another node has a cluster, and its agent has ended.
                Phase::Ended(End::Occupied) => server.cluster.is_none(),
                Phase::Ended(_) => true,
                // It waits until its timeout: for its services, or for another node after an initialization without effect.
                _ if server.cluster.is_none() => agent.has_initialized,
                _ => self.services_down && server.cluster == recorded,
            });
        after.broken.or_else(|| (!is_well).then_some(Broken::Stuck))
    }

    pub(super) fn is_continued(&self, world: &World) -> bool {
        use std::hash::{DefaultHasher, Hash, Hasher};
        if self.continue_one_in == 0 {
            return false;
        }
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        hasher.finish().is_multiple_of(self.continue_one_in)
    }

    /// Whether a snapshot of this server could be from before another one joined its cluster, which has reported.
    fn can_restore(&self, world: &World, node: usize) -> bool {
        let own = Some(world.servers[node].incarnation(node));
        let members = world.record.iter().flat_map(|row| &row.members);
        let mut others = members.filter(|member| **member != self.names[node]);
        world.servers[node].cluster == own
            && others.any(|member| {
                let at = self.names.iter().position(|other| other == member).unwrap();
                world.servers[at].cluster == own
            })
    }

    /// The calls that the network allows.
    pub(super) fn calls(&self, world: &World) -> impl Iterator<Item = Call> {
        let clocks = if self.skew { &[false, true][..] } else { &[false][..] };
        let (copies, losses) = (world.budgets.copies > 0, world.budgets.losses > 0);
        clocks.iter().flat_map(move |&is_fast| {
            let calls = [
                Some(Call { is_fast, ..Call::default() }),
                losses.then_some(Call { is_fast, is_lost: true, ..Call::default() }),
                copies.then_some(Call { is_fast, is_copied: true, ..Call::default() }),
                (copies && !is_fast).then_some(Call { is_late: true, ..Call::default() }),
            ];
            calls.into_iter().flatten()
        })
    }
}

impl Model for Setup {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        assert!(self.goal(0).inspection_gap() <= seconds(TICK));
        let server =
            Server { cluster: None, is_copy: false, resets: 0, init: None, overslept: false };
        let mut world = World {
            record: None,
            servers: vec![server; self.names.len()],
            agents: vec![Agent::default(); self.names.len()],
            late: BTreeSet::new(),
            budgets: self.budgets,
            believed: None,
            broken: None,
        };
        if let Some(node) = self.foreign {
            world.servers[node].cluster = Some((99, 0));
        }
        if let Some(node) = self.abandoned {
            let server = world.servers[node].incarnation(node);
            self.answer(&mut world.record, &Request::Claim(self.names[node], Some(server)), false);
            world.servers[node].cluster = Some(server);
            world.agents[node].end(End::Failed);
        }
        vec![world]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (node, agent) in world.agents.iter().enumerate() {
            match &agent.phase {
                Phase::Idle => steps.extend(self.calls(world).map(|call| Step::Round(node, call))),
                Phase::Chosen(Act::Inspect(_)) => {
                    steps.push(Step::Do(node, Call::default(), Sight::Clear));
                    if self.partitions {
                        steps.push(Step::Do(node, Call::default(), Sight::Blind));
                    }
                    if world.budgets.blinks > 0 {
                        steps.push(Step::Do(node, Call::default(), Sight::Blink));
                    }
                }
                Phase::Chosen(Act::GiveUpClaim(_) | Act::LeaveClaim | Act::Report(_)) => {
                    steps.extend(self.calls(world).map(|call| Step::Do(node, call, Sight::Clear)));
                }
                Phase::Chosen(_) => steps.push(Step::Do(node, Call::default(), Sight::Clear)),
                Phase::Checked => steps.push(Step::Send(node)),
                Phase::Initializing if world.budgets.losses > 0 => steps.push(Step::Break(node)),
                Phase::Initializing | Phase::Ended(_) => {}
            }
            if world.budgets.kills > 0
                && *agent != Agent::default()
                && !matches!(agent.phase, Phase::Ended(End::Member(_)))
            {
                steps.push(Step::Kill(node));
            }
        }
        for (node, server) in world.servers.iter().enumerate() {
            if server.init.is_some() {
                steps.push(Step::Effect(node, true));
                if world.agents[node].phase == Phase::Initializing {
                    if world.budgets.losses > 0 {
                        steps.push(Step::Effect(node, false));
                    }
                    if world.budgets.refusals > 0 {
                        steps.extend(self.calls(world).map(|call| Step::Refuse(node, call)));
                    }
                    if world.budgets.ignores > 0 {
                        steps.push(Step::Ignore(node));
                    }
                }
            }
        }
        for request in &world.late {
            steps.push(Step::Arrive(request.clone(), false));
            if self.skew {
                steps.push(Step::Arrive(request.clone(), true));
            }
        }
        let is_nothing_under_way =
            world.servers.iter().all(|server| server.cluster.is_none() && server.init.is_none())
                && world
                    .agents
                    .iter()
                    .all(|agent| matches!(agent.phase, Phase::Idle | Phase::Ended(_)));
        let is_lapsed = world.record.as_ref().is_some_and(Row::is_lapsed);
        if world.budgets.forgets > 0 && is_nothing_under_way && is_lapsed {
            steps.push(Step::Forget);
        }
        if world.budgets.resets > 0 && world.record.is_some() {
            steps.push(Step::Reset);
        }
        if world.budgets.restores > 0 {
            let nodes = 0..world.servers.len();
            steps.extend(nodes.filter(|node| self.can_restore(world, *node)).map(Step::Restore));
        }
        if self.ticks {
            steps.push(Step::Tick);
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        match step {
            Step::Round(node, call) => {
                self.round(&mut world, node, call);
            }
            Step::Do(node, call, sight) => {
                self.act(&mut world, node, call, sight);
            }
            Step::Send(node) => self.send(&mut world, node),
            Step::Effect(node, is_answered) => {
                if !is_answered {
                    world.budgets.losses -= 1;
                }
                self.take_effect(&mut world, node, is_answered);
            }
            Step::Refuse(node, call) => {
                world.budgets.refusals -= 1;
                world.servers[node].drop_init();
                self.receive_refusal(&mut world, node, call);
            }
            Step::Ignore(node) => {
                world.budgets.ignores -= 1;
                world.servers[node].drop_init();
                self.receive_answer(&mut world, node, Some(true));
            }
            Step::Break(node) => {
                world.budgets.losses -= 1;
                self.receive_answer(&mut world, node, None);
            }
            Step::Kill(node) => {
                world.budgets.kills -= 1;
                world.agents[node] = Agent::default();
            }
            Step::Arrive(request, is_fast) => {
                world.late.remove(&request);
                self.answer(&mut world.record, &request, is_fast);
            }
            Step::Forget => {
                world.budgets.forgets -= 1;
                self.forget(&mut world);
            }
            Step::Reset => {
                world.budgets.resets -= 1;
                self.forget(&mut world);
                for server in &mut world.servers {
                    *server = Server {
                        cluster: None,
                        is_copy: false,
                        resets: server.resets + 1,
                        init: None,
                        overslept: false,
                    };
                }
                world.agents.fill(Agent::default());
                world.believed = None;
            }
            Step::Restore(node) => {
                world.budgets.restores -= 1;
                world.servers[node].is_copy = true;
                world.agents[node] = Agent::default();
                // By then, each node that joins has read the record again.
                for (agent, server) in world.agents.iter_mut().zip(&world.servers) {
                    if agent.is_running() && server.cluster.is_none() {
                        agent.asked = None;
                        agent.rest();
                    }
                }
            }
            Step::Tick => {
                if !self.tick(&mut world) {
                    return None;
                }
            }
        }
        if world.broken.is_none() && self.is_continued(&world) {
            world.broken = self.lookahead(&world);
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing is broken", |_, world: &World| world.broken.is_none()),
            Property::sometimes(READY, |_, world: &World| {
                world.record.as_ref().is_some_and(|row| row.is_ready)
            }),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.broken.is_some()
            || world.record.as_ref().is_none_or(|row| row.generation <= self.generations)
    }
}
