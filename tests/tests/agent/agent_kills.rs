//! Agents that are killed at each step, and run again. The name of this module lets these tests start first, because they take long.

use std::thread;

use cbbootstrap_tests::{
    agent::{Agents, Api},
    cli::Ended,
    couchbase::{Servers, Then},
    process,
    proxy::{Fault, Proxy},
};

use crate::up::assert_one_cluster;

/// An agent that is killed at whichever request, and run again, comes to the same end.
#[test]
fn an_agent_may_be_killed_at_every_step() {
    let api = Api::start();
    thread::scope(|scope| {
        // Before the request is handled, and after: the caller gets no answer in both cases.
        for then in [Then::Drop, Then::Handle] {
            for is_first in [true, false] {
                let (api, then) = (&api, then.clone());
                scope.spawn(move || kill_at_every_request(api, &then, is_first));
            }
        }
    });
}

/// Kills the agent of the first node, or of a joiner, at its first request, at its second, and so on.
fn kill_at_every_request(api: &Api, then: &Then, is_first: bool) {
    let options = ["--bucket", "app:256", "--server-group", "rack"];
    let mut at = 1;
    loop {
        let servers = Servers::start(2);
        let cluster_id = format!("{is_first}-{at}-{then:?}");
        let agents = Agents::new(&api.local.endpoint, &cluster_id, &servers);
        let node = &servers[usize::from(!is_first)];
        if !is_first {
            agents.up(&servers[0], &options).document();
        }
        let victim = agents.start(node, &options);
        let (id, then) = (victim.id().to_string(), then.clone());
        let mut number = 0;
        servers.on_request(move |_| {
            number += 1;
            if number == at {
                process::kill("KILL", &id);
                return then.clone();
            }
            Then::Handle
        });
        let was_killed = victim.end().status.is_none();
        servers.on_request(|_| Then::Handle);
        agents.up(node, &options).document();
        assert_one_cluster(&agents, &servers, if is_first { 1 } else { 2 });
        assert_eq!(servers.clusters()[0].buckets, ["app"]);
        if !was_killed {
            break;
        }
        at += 1;
    }
    assert!(at > 5, "only {at} requests");
}

/// After an agent was killed while leaving, a second `leave` completes it.
#[test]
fn an_agent_may_be_killed_at_every_step_of_leaving() {
    let api = Api::start();
    let mut at = 1;
    loop {
        let servers = Servers::start(2);
        let cluster_id = format!("leaver-{at}");
        let agents = Agents::new(&api.local.endpoint, &cluster_id, &servers);
        agents.join(servers.nodes(), &[]);
        let victim = agents.command(&servers[1], &["leave"]).spawn().unwrap();
        let id = victim.id().to_string();
        let mut number = 0;
        servers.on_request(move |_| {
            number += 1;
            if number == at {
                process::kill("KILL", &id);
            }
            Then::Handle
        });
        let was_killed = Ended::of_child(victim).status.is_none();
        servers.on_request(|_| Then::Handle);
        agents.run(&servers[1], &["leave"]).ended_with(0);
        assert!(servers[1].is_blank());
        assert_one_cluster(&agents, &servers, 1);
        if !was_killed {
            break;
        }
        at += 1;
    }
    assert!(at > 4, "only {at} requests");
}

/// As above, but at the calls of the API: the API handles them, and the agent dies before it gets the answer.
#[test]
fn an_agent_may_be_killed_at_every_call_of_the_api() {
    let api = Api::start();
    let proxy = Proxy::before(&api.local.endpoint);
    for role in 0..2 {
        let mut at = 1;
        loop {
            let servers = Servers::start(2);
            let agents = Agents::new(&proxy.url, &format!("{role}-{at}"), &servers);
            for node in &servers.nodes()[..role] {
                agents.up(node, &[]).document();
            }
            proxy.reset();
            proxy.fault_at(at, Fault::Kill);
            let victim = agents.start(&servers[role], &[]);
            proxy.target(victim.id());
            let was_killed = victim.end().status.is_none();
            proxy.reset();
            agents.up(&servers[role], &[]).document();
            assert_one_cluster(&agents, &servers, role + 1);
            if !was_killed {
                break;
            }
            at += 1;
        }
        assert!(at >= 3, "only {at} calls");
    }
}
