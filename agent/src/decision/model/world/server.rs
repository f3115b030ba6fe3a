//! A server: `/clusterInit` on its way, its effect, and its answer.

use super::*;

impl Server {
    pub(super) fn incarnation(&self, number: usize) -> Incarnation {
        (u8::try_from(number).unwrap(), self.resets)
    }

    /// Drops a `/clusterInit`. One that was sent before is still under way.
    pub(super) fn drop_init(&mut self) {
        self.init = self
            .init
            .filter(|init| init.is_doubled)
            .map(|init| Flight { is_doubled: false, ..init });
    }
}

impl Setup {
    pub(super) fn send(&self, world: &mut World, node: usize) {
        let agent = &mut world.agents[node];
        let left = agent.lease_left.unwrap_or(i16::MAX);
        let flight = Flight {
            ticks: 0,
            overslept: seconds(left) < LEASE_MARGIN && !self.has(Mutant::NoMargin),
            was_blind: agent.was_blind,
            is_doubled: false,
        };
        agent.phase = Phase::Initializing;
        agent.asked = None;
        let init = &mut world.servers[node].init;
        *init = Some(init.map_or(flight, |earlier| Flight {
            ticks: 0,
            overslept: flight.overslept || earlier.overslept,
            was_blind: flight.was_blind || earlier.was_blind,
            is_doubled: true,
        }));
    }

    pub(super) fn take_effect(&self, world: &mut World, node: usize, is_answered: bool) {
        let Some(flight) = world.servers[node].init.take() else {
            unreachable!("nothing is under way")
        };
        if world.servers[node].cluster.is_none() {
            let others = world.servers.iter().enumerate();
            let mut others = others.filter(|(other, server)| {
                server.cluster.is_some_and(|cluster| usize::from(cluster.0) == *other)
                    && Some(*other) != self.foreign
            });
            let is_excused = flight.overslept
                || flight.was_blind
                || others.clone().any(|(_, server)| server.overslept);
            if others.next().is_some() && !is_excused {
                world.broken = Some(Broken::SecondCluster);
            }
            let server = &mut world.servers[node];
            server.cluster = Some(server.incarnation(node));
            server.overslept = flight.overslept || flight.was_blind;
        }
        self.receive_answer(world, node, is_answered.then_some(true));
    }

    /// The agent gets the answer to its `/clusterInit`: accepted, refused, or none.
    pub(super) fn receive_answer(&self, world: &mut World, node: usize, answer: Option<bool>) {
        self.receive(world, node, answer, Call::default());
    }

    pub(super) fn receive_refusal(&self, world: &mut World, node: usize, call: Call) {
        self.receive(world, node, Some(false), call);
    }

    fn receive(&self, world: &mut World, node: usize, answer: Option<bool>, call: Call) {
        if world.agents[node].phase != Phase::Initializing {
            return;
        }
        match answer {
            None => world.agents[node].may_be_under_way = true,
            Some(true) => {
                // It reports with the generation of its claim.
                let agent = &mut world.agents[node];
                (agent.has_initialized, agent.phase) = (true, Phase::Idle);
                return;
            }
            Some(false) if world.servers[node].cluster.is_some() => {}
            Some(false) => {
                let may_leave = !world.agents[node].may_be_under_way;
                if may_leave || self.leaves_too_early {
                    let is_answered = self.leave_claim(world, node, call).is_some();
                    if !is_answered && !self.has(Mutant::ForgetsLeave) {
                        world.agents[node].rest();
                        return;
                    }
                }
                if self.resides {
                    world.agents[node].start_over(!self.has(Mutant::ForgetsCall));
                } else {
                    world.agents[node].end(End::Failed);
                }
                return;
            }
        }
        world.agents[node].rest();
    }
}
