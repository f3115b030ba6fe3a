//! `run`: a node's whole life, on the built agent.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use cbbootstrap_tests::{
    agent::{Agents, Api, LOGIN, Resident, one_cluster, record, scene, wait_for_cluster},
    cli::write_private,
    couchbase::{Membership, Node, Servers, Then},
    http,
    instance::{HOOK, Instance},
    network::ForwardProxy,
    pattern::pattern,
    process::{free_port, wait_until},
    programs,
    server::Stub,
};
use rlimit::{Resource, prlimit};
use serde_json::json;

pub fn call(node: &Node, path: &str, form: &[(&str, &str)]) {
    let answer = node.call("POST", path, form, Some(LOGIN)).unwrap();
    assert!(answer.status < 300, "{path}: {answer:?}");
}

pub fn otp(node: &Node) -> String {
    format!("ns_1@{}", node.address())
}

pub fn membership(servers: &Servers, index: usize) -> Option<Membership> {
    let cluster = servers.clusters().into_iter().max_by_key(|cluster| cluster.nodes.len())?;
    cluster.nodes.iter().find(|node| node.index == index).map(|node| node.membership)
}

pub fn wait_for_failover(servers: &Servers, index: usize) {
    wait_until("the node is failed over", || {
        membership(servers, index) == Some(Membership::InactiveFailed)
    });
}

/// How often the nodes got this request.
fn count(servers: &Servers, path: &str, field: (&str, &str)) -> usize {
    let requests = servers.requests().into_iter();
    let sent = requests.filter(|seen| {
        let mut form = seen.form.iter();
        seen.path == path && form.any(|(name, value)| (name.as_str(), value.as_str()) == field)
    });
    sent.count()
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Asserts that something does not happen for two seconds, which is four checks of an idle agent.
#[track_caller]
pub fn assert_never(what: &str, happens: impl Fn() -> bool) {
    let since = Instant::now();
    while since.elapsed() < seconds(2) {
        assert!(!happens(), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub const BUCKET: [&str; 2] = ["--bucket", "app:100:1"];

#[test]
fn nodes_join_stay_and_remain_members_after_sigterm() {
    let (servers, agents) = scene(3);
    let residents = agents.all_stay(&servers, &[]);
    let requests = || servers.requests().iter().filter(|seen| seen.method != "GET").count();
    let before = requests();
    assert_never("an idle agent changes something", || requests() != before);
    for resident in residents {
        let (status, log) = resident.end();
        assert_eq!(status, Some(0), "{log}");
        assert!(log.contains("the agent exits; the node's membership does not change"), "{log}");
    }
    one_cluster(&servers, 3);
    // A restarted agent finds its node.
    let again = agents.stay(&servers[1], &[], &[]);
    again.wait_for("which has 3 nodes");
    one_cluster(&servers, 3);
}

#[test]
fn expected_nodes_share_the_first_rebalance_without_a_settling_time() {
    let (servers, agents) = scene(3);
    let agents = agents.with("CBBOOTSTRAP_SETTLE", "30m").with("CBBOOTSTRAP_NODES", "3");
    let first = [agents.stay(&servers[0], &[], &[]), agents.stay(&servers[1], &[], &[])];
    first[1].wait_for("2 of the 3 nodes that the cluster begins with");
    let early = agents.run(&servers[0], &["discover", "--wait", "--timeout", "500ms"]);
    early.failed(3, "nodes have reported");
    agents.run(&servers[0], &["discover"]).ended_with(0);
    let _third = agents.stay(&servers[2], &[], &[]);
    wait_for_cluster(&servers, 3);
    assert_eq!(servers.clusters()[0].rebalances.len(), 1);
    let all = agents.run(&servers[0], &["discover", "--wait"]).ended_with(0);
    assert_eq!(all.stdout.lines().count(), 3, "{all}");
}

/// Three nodes, of which the last is on this instance.
fn with_instance(options: &[&str]) -> (Servers, Agents, Instance, Vec<Resident>) {
    let (servers, agents) = scene(3);
    join_with_instance(servers, agents, options)
}

fn join_with_instance(
    servers: Servers,
    agents: Agents,
    options: &[&str],
) -> (Servers, Agents, Instance, Vec<Resident>) {
    let instance = Instance::start();
    let agents = agents.with("CBBOOTSTRAP_NODES", "3");
    let nodes = servers.nodes().iter().enumerate();
    let residents = nodes.map(|(index, node)| {
        let variables = instance.variables();
        agents.stay(node, options, if index == 2 { &variables } else { &[] })
    });
    let residents: Vec<_> = residents.collect();
    wait_for_cluster(&servers, 3);
    residents[2].wait_for("which has 3 nodes");
    (servers, agents, instance, residents)
}

#[test]
fn scale_in_moves_the_data_before_the_hook_is_completed() {
    let (servers, agents, instance, residents) = with_instance(&BUCKET);
    servers.rebalance_takes(seconds(3));
    instance.terminate();
    wait_until("a heartbeat", || !instance.actions().is_empty());
    assert!(!instance.is_complete());
    assert_eq!(membership(&servers, 2), Some(Membership::Active));
    wait_until("the hook is completed", || instance.is_complete());
    assert!(servers[2].is_blank());
    one_cluster(&servers, 2);
    let record = agents.record();
    let nodes: Vec<_> = record["nodes"].as_array().unwrap().iter().collect();
    assert_eq!(nodes.len(), 2, "{record}");
    assert_eq!(instance.actions()[0], "RecordLifecycleActionHeartbeat");
    assert_never("the node joins again", || !servers[2].is_blank());
    let log = residents[2].log();
    assert!(log.contains("notice: the Auto Scaling group terminates this instance"), "{log}");
    assert_eq!(log.matches("lifecycle hook: completed").count(), 1, "{log}");
}

#[test]
fn agent_that_is_killed_while_it_leaves_completes_the_hook_later() {
    let (servers, agents, instance, mut residents) = with_instance(&[]);
    servers.rebalance_takes(seconds(2));
    instance.terminate();
    wait_until("the rebalance", || servers.clusters()[0].is_rebalancing);
    residents.remove(2).signal("KILL");
    wait_until("the node is out", || servers[2].is_blank());
    assert!(!instance.is_complete());
    let _again = agents.stay(&servers[2], &[], &instance.variables());
    wait_until("the hook is completed", || instance.is_complete());
    assert_eq!(agents.record()["nodes"].as_array().unwrap().len(), 2);
    assert!(servers[2].is_blank());
}

#[test]
fn throttled_completion_of_the_hook_is_repeated() {
    let (servers, _agents, instance, residents) = with_instance(&[]);
    instance.throttle(2);
    instance.terminate();
    residents[2].wait_for("the lifecycle hook is not completed yet");
    wait_until("the hook is completed", || instance.is_complete());
    assert!(servers[2].is_blank());
    residents[2].wait_for("lifecycle hook: completed");
}

#[test]
fn only_calls_to_the_group_go_through_the_proxy() {
    let (servers, agents) = scene(2);
    let instance = Instance::start();
    let [is_off, metadata, (endpoint, group)] = instance.variables();
    let proxy = ForwardProxy::before(group, None);
    let authority = tempfile::NamedTempFile::new().unwrap();
    fs::write(authority.path(), proxy.authority()).unwrap();
    let agents = agents
        .with("CBBOOTSTRAP_NODES", "2")
        .with("ALL_PROXY", &proxy.url)
        .with("SSL_CERT_FILE", authority.path().to_str().unwrap());
    let variables = [is_off, metadata, (endpoint, "https://autoscaling.us-east-1.amazonaws.com")];
    let residents = [agents.stay(&servers[0], &[], &[]), agents.stay(&servers[1], &[], &variables)];
    wait_for_cluster(&servers, 2);
    residents[1].wait_for("which has 2 nodes");
    instance.terminate();
    wait_until("the hook is completed", || instance.is_complete());
    let targets = proxy.targets();
    let is_of_group = |target: &String| target == "autoscaling.us-east-1.amazonaws.com:443";
    assert!(targets.iter().all(is_of_group), "{targets:?}");
    assert!(servers[1].is_blank());
}

/// The group may replace an instance before its Spot interruption.
#[test]
fn hook_is_completed_after_a_departure_for_another_reason() {
    let (_servers, _agents, instance, residents) = with_instance(&[]);
    interrupt(&instance, "terminate", seconds(120));
    residents[2].wait_for("leave: this node has left its cluster");
    assert!(!instance.is_complete());
    instance.terminate();
    wait_until("the hook is completed", || instance.is_complete());
}

#[test]
fn last_node_keeps_its_instance_instead_of_losing_the_data() {
    let (servers, agents) = scene(1);
    let instance = Instance::start();
    let resident = agents.stay(&servers[0], &BUCKET, &instance.variables());
    resident.wait_for("which has 1 node");
    instance.terminate();
    resident.wait_for("the data would be lost");
    wait_until("a heartbeat", || !instance.actions().is_empty());
    assert_never("the hook is completed", || instance.is_complete());
    assert!(!servers[0].is_blank());
}

/// A rebalance drops a failed-over node without moving its data.
#[test]
fn failed_over_node_leaves_only_if_others_have_its_data() {
    for (bucket, leaves) in [("app:100:1", true), ("app:100:0", false)] {
        let options = ["--bucket", bucket, "--recover", "never"];
        let (servers, agents, instance, residents) = with_instance(&options);
        call(&servers[0], "/controller/failOver", &[("otpNode", &otp(&servers[2]))]);
        wait_for_failover(&servers, 2);
        instance.terminate();
        if leaves {
            wait_until("the hook is completed", || instance.is_complete());
            wait_for_cluster(&servers, 2);
            continue;
        }
        let why = "this node has been failed over, and other nodes may not have all of its data";
        residents[2].wait_for(why);
        wait_until("a heartbeat", || !instance.actions().is_empty());
        assert_never("it leaves", || servers[2].is_blank() || instance.is_complete());
        drop(residents);
        agents.run(&servers[2], &["leave", "--timeout", "2s"]).failed(3, why);
        assert!(!servers[2].is_blank());
    }
}

/// A node keeps its instance from the moment on that it should leave, whatever it waits for.
#[test]
fn node_that_moves_to_a_warm_pool_keeps_its_instance_until_it_has_left() {
    let (servers, agents) = scene(1);
    let instance = Instance::start();
    let last = agents.stay(&servers[0], &BUCKET, &instance.variables());
    last.wait_for("which has 1 node");
    instance.move_to_warm_pool();
    last.wait_for("the data would be lost");
    wait_until("a heartbeat", || !instance.actions().is_empty());
    assert_never("the hook is completed", || instance.is_complete());

    let (servers, agents, instance, mut residents) = with_instance(&[]);
    servers.rebalance_takes(seconds(4));
    instance.move_to_warm_pool();
    wait_until("the rebalance", || servers.clusters()[0].is_rebalancing);
    residents[2].signal("HUP");
    residents[2].wait_for("reload: the options were read again");
    residents.remove(2).signal("KILL");
    let again = agents.stay(&servers[2], &[], &instance.variables());
    wait_until("the hook is completed", || instance.is_complete());
    again.wait_for("lifecycle hook: completed");
    assert!(servers[2].is_blank());
    one_cluster(&servers, 2);
}

#[test]
fn reload_in_the_middle_of_a_departure_changes_nothing() {
    let (servers, _agents, instance, residents) = with_instance(&[]);
    servers.rebalance_takes(seconds(2));
    instance.move_to_warm_pool();
    wait_until("the rebalance", || servers.clusters()[0].is_rebalancing);
    residents[2].signal("STOP");
    wait_until("the node is out", || servers[2].is_blank());
    residents[2].signal("HUP");
    residents[2].signal("CONT");
    wait_until("the hook is completed", || instance.is_complete());
    assert!(residents[2].log().contains("reload: the options were read again"));
    assert!(servers[2].is_blank());
}

/// A server that is reset may refuse the password before it is blank.
#[test]
fn departure_goes_on_after_a_reload_with_another_name_of_the_api() {
    let (servers, agents) = scene(3);
    let file = agents.user.home.path().join("agent.yaml");
    let path = file.display().to_string();
    let (agents, front, _) = with_failing_api(agents, 503);
    let other = front.url.replace("127.0.0.1", "localhost");
    write_private(&file, format!("api: {}\n", front.url));
    let agents = agents.without("CBBOOTSTRAP_API");
    let options = ["--config", &path];
    let (servers, agents, instance, residents) = join_with_instance(servers, agents, &options);
    servers.rebalance_takes(seconds(60));
    instance.terminate();
    wait_until("the rebalance", || servers.clusters()[0].is_rebalancing);
    let checks = || front.requests().iter().filter(|it| it.path == "/cluster/get_status").count();
    let before = checks();
    write_private(&file, format!("api: {other}\n"));
    residents[2].signal("HUP");
    residents[2].wait_for("reload: the options were read again");
    wait_until("it asks the API about this node", || checks() > before);
    servers.on_request(|seen| if seen.node == 2 { Then::Answer(401) } else { Then::Handle });
    residents[2].wait_for("refuses this user name and password");
    servers.end_rebalances();
    servers.on_request(|_| Then::Handle);
    wait_until("the hook is completed", || instance.is_complete());
    let log = residents[2].log();
    assert!(!log.contains("nothing was changed"), "{log}");
    assert_eq!(agents.record()["nodes"].as_array().unwrap().len(), 2);
}

/// A machine's metadata service may be silent when the agent starts.
#[test]
fn silent_metadata_service_is_tried_again_soon() {
    let (servers, agents) = scene(2);
    let instance = Instance::start();
    instance.fail(true);
    let residents =
        [agents.stay(&servers[0], &[], &[]), agents.stay(&servers[1], &[], &instance.variables())];
    residents[1].wait_for("which has 2 nodes");
    instance.fail(false);
    instance.terminate();
    wait_until("the hook is completed", || instance.is_complete());
}

/// A role may lack the permission to describe instances, which the name of the group in the metadata makes unnecessary.
#[test]
fn metadata_that_cannot_be_read_once_is_not_taken_for_absent() {
    let (servers, _agents, instance, residents) = {
        let (servers, agents) = scene(3);
        join_with_instance(servers, agents, &["--lifecycle-hook", HOOK])
    };
    let path = "tags/instance/aws:autoscaling:groupName";
    instance.set(path, "couchbase & co");
    instance.fail_once(path);
    instance.terminate();
    wait_until("the hook is completed", || instance.is_complete());
    residents[2].wait_for("returned status 503");
    assert!(servers[2].is_blank());
    assert_eq!(instance.descriptions(), 0);
}

#[test]
fn ambiguous_hook_is_named_by_an_option() {
    let (servers, agents) = scene(2);
    let instance = Instance::start();
    instance.add_hook("other");
    instance.set("tags/instance/aws:autoscaling:groupName", "couchbase & co");
    let _first = agents.stay(&servers[0], &[], &[]);
    let resident = agents.stay(&servers[1], &[], &instance.variables());
    resident.wait_for("which has 2 nodes");
    servers.rebalance_takes(seconds(60));
    instance.terminate();
    resident.wait_for("several lifecycle hooks (leave, other): pass one with `--lifecycle-hook`");
    drop(resident);
    let _named = agents.stay(&servers[1], &["--lifecycle-hook", HOOK], &instance.variables());
    wait_until("a heartbeat", || !instance.actions().is_empty());
    wait_until("the rebalance", || servers.clusters()[0].is_rebalancing);
    servers.rebalance_takes(Duration::from_millis(200));
    servers.end_rebalances();
    wait_until("the hook is completed", || instance.is_complete());
}

/// While the metadata service fails, the last notice counts: the node does not join again.
#[test]
fn notice_is_remembered_while_the_metadata_service_fails() {
    let (servers, _agents, instance, residents) = with_instance(&[]);
    instance.terminate();
    instance.set("autoscaling/target-lifecycle-state", "Warmed:Stopped");
    wait_until("the node leaves", || servers[2].is_blank());
    residents[2].wait_for("this node has left its cluster");
    servers[2].load_certificate();
    instance.fail(true);
    // Also when the options are read again.
    residents[2].signal("HUP");
    residents[2].wait_for("reload: the options were read again");
    assert_never("the node joins again", || !servers[2].is_blank());
    instance.fail(false);
    instance.set("autoscaling/target-lifecycle-state", "InService");
    wait_for_cluster(&servers, 3);
}

/// Its own report, the first, named no other member.
#[test]
fn first_node_that_has_left_joins_again() {
    let servers = Servers::start(2);
    let (agents, instance) = (Agents::with_new_api(&servers), Instance::start());
    let first = agents.stay(&servers[0], &[], &instance.variables());
    first.wait_for("which has 1 node");
    let second = agents.stay(&servers[1], &[], &[]);
    second.wait_for("which has 2 nodes");
    instance.terminate();
    instance.set("autoscaling/target-lifecycle-state", "Warmed:Stopped");
    first.wait_for("this node has left its cluster");
    servers[0].load_certificate();
    instance.set("autoscaling/target-lifecycle-state", "InService");
    wait_for_cluster(&servers, 2);
}

fn interrupt(instance: &Instance, action: &str, time_left: Duration) {
    let time = jiff::Timestamp::now() + time_left;
    let document = format!(r#"{{"action": "{action}", "time": "{time}"}}"#);
    instance.set("spot/instance-action", &document);
}

#[test]
fn spot_interruption_moves_little_data_away() {
    let (servers, _agents, instance, residents) = with_instance(&[]);
    interrupt(&instance, "terminate", seconds(120));
    wait_until("the node is out", || servers[2].is_blank());
    residents[2].wait_for("leave: this node has left its cluster");
    one_cluster(&servers, 2);
}

/// Adds a blank node to the first one's cluster, as people do.
pub fn add(servers: &Servers, index: usize) {
    let host = format!("https://{}", servers[index].address());
    let form = [("hostname", host.as_str()), ("user", ""), ("password", ""), ("services", "kv")];
    call(&servers[0], "/controller/addNode", &form);
}

/// It leaves two minutes, of which a pause after failed rebalances would take some.
#[test]
fn spot_interruption_does_not_wait_because_other_rebalances_failed() {
    let (servers, agents) = scene(3);
    agents.join(&servers.nodes()[..2], &[]);
    let instance = Instance::start();
    let resident = agents.stay(&servers[1], &[], &instance.variables());
    resident.wait_for("which has 2 nodes");
    servers.fail_rebalances(2);
    add(&servers, 2);
    wait_until("the second failure", || resident.log().matches("a rebalance failed").count() == 2);
    interrupt(&instance, "terminate", seconds(120));
    let since = Instant::now();
    wait_until("the node is out", || servers[1].is_blank());
    assert!(since.elapsed() < seconds(5), "{}", resident.log());
}

#[test]
fn spot_interruption_without_time_fails_the_node_over_gracefully() {
    let (servers, _agents, instance, residents) = with_instance(&BUCKET);
    servers.rebalance_takes(seconds(2));
    // By a clock that is a day behind: AWS announces it two minutes ahead.
    interrupt(&instance, "terminate", Duration::from_hours(24));
    wait_for_failover(&servers, 2);
    residents[0].wait_for("failover: done");
    assert_eq!(
        count(&servers, "/controller/startGracefulFailover", ("otpNode", &otp(&servers[2]))),
        1
    );
    assert_eq!(servers.count("/controller/failOver"), 0);
    residents[2].wait_for("this node has been failed over; its machine ends");
    // It does not recover while its machine is about to end.
    assert_never("it recovers", || membership(&servers, 2) != Some(Membership::InactiveFailed));
    // A notice that is withdrawn: the node was failed over for it, and comes back.
    instance.remove("spot/instance-action");
    wait_for_cluster(&servers, 3);
}

/// The server has answered that another one runs, or refused it, or has not answered.
#[test]
fn rebalance_that_did_not_begin_is_not_the_nodes_departure() {
    let refuse = |status| Then::Refuse(status, String::new());
    for then in [refuse(200), refuse(400), refuse(500), Then::Drop] {
        let (servers, agents) = scene(4);
        agents.join(&servers.nodes()[..3], &BUCKET);
        let instance = Instance::start();
        let resident = agents.stay(&servers[2], &[], &instance.variables());
        resident.wait_for("which has 3 nodes");
        servers.on_request(move |seen| match seen.path.as_str() {
            "/controller/rebalance" => then.clone(),
            _ => Then::Handle,
        });
        add(&servers, 3);
        interrupt(&instance, "stop", seconds(120));
        resident.wait_for("notice: a Spot interruption");
        let tries = servers.count("/controller/rebalance");
        wait_until("it tries", || servers.count("/controller/rebalance") > tries + 1);
        // What keeps it from being failed over ends.
        call(&servers[0], "/controller/ejectNode", &[("otpNode", &otp(&servers[3]))]);
        wait_for_failover(&servers, 2);
        servers.on_request(|_| Then::Handle);
        resident.wait_for("this node has been failed over; its machine ends");
        assert_never("it is removed", || servers[2].is_blank());
    }
}

/// The failover goes on after the notice is withdrawn, and was not a person's decision.
#[test]
fn node_recovers_from_a_failover_that_ends_after_the_notice() {
    let (servers, _agents, instance, residents) = with_instance(&BUCKET);
    servers.rebalance_takes(seconds(4));
    interrupt(&instance, "terminate", seconds(120));
    wait_until("the failover", || servers.clusters()[0].is_rebalancing);
    instance.remove("spot/instance-action");
    residents[2].wait_for("notice: withdrawn");
    assert!(servers.clusters()[0].is_rebalancing);
    wait_until("it recovers", || servers.count("/controller/setRecoveryType") > 0);
    wait_for_cluster(&servers, 3);
}

#[test]
fn node_with_a_bucket_without_replicas_is_never_failed_over() {
    let (servers, _agents, instance, residents) = with_instance(&["--bucket", "app:100:0"]);
    servers.rebalance_takes(seconds(2));
    interrupt(&instance, "terminate", seconds(10));
    wait_until("the node is out", || servers[2].is_blank());
    assert_eq!(servers.count("/controller/startGracefulFailover"), 0);
    residents[2].wait_for("the node is not failed over instead: a bucket has no replicas");
}

/// A rebalance deletes the data of failed-over nodes before it moves any, and this one does not end in time.
#[test]
fn spot_interruption_without_time_keeps_the_only_other_copy_of_data() {
    for (bucket, is_removed) in [("app:100:1", false), ("app:100:2", true)] {
        let (servers, _agents, instance, residents) = with_instance(&["--bucket", bucket]);
        call(&servers[0], "/controller/failOver", &[("otpNode", &otp(&servers[1]))]);
        residents[1].wait_for("recover it, or rebalance it out, in Couchbase Server");
        servers.rebalance_takes(seconds(60));
        interrupt(&instance, "terminate", seconds(120));
        if is_removed {
            wait_until("the failed-over node is out", || servers[1].is_blank());
            assert!(servers.clusters()[0].is_rebalancing);
            continue;
        }
        residents[2].wait_for("has been failed over and is back");
        let failed_over = Some(Membership::InactiveFailed);
        assert_never("it is removed", || membership(&servers, 1) != failed_over);
    }
}

/// The interruption does not wait for the lifecycle hook.
#[test]
fn spot_interruption_during_a_scale_in_fails_the_node_over_gracefully() {
    let (servers, _agents, instance, residents) = with_instance(&BUCKET);
    // Both are there when the metadata service answers again.
    instance.fail(true);
    instance.terminate();
    interrupt(&instance, "stop", seconds(120));
    instance.fail(false);
    wait_for_failover(&servers, 2);
    let notice = "the Auto Scaling group terminates this instance, and a Spot interruption ends";
    residents[2].wait_for(notice);
    residents[2].wait_for("this node has been failed over; its machine ends");
    wait_until("a heartbeat", || !instance.actions().is_empty());
    assert_never("the hook is completed", || instance.is_complete());
}

#[test]
fn node_that_leaves_for_its_group_goes_on_after_a_spot_interruption() {
    let (servers, _agents, instance, residents) = with_instance(&BUCKET);
    servers.rebalance_takes(seconds(60));
    instance.terminate();
    wait_until("the rebalance", || servers.clusters()[0].is_rebalancing);
    interrupt(&instance, "terminate", seconds(120));
    residents[2].wait_for("and a Spot interruption ends this instance");
    assert_never("it is failed over", || servers.count("/controller/startGracefulFailover") > 0);
    servers.end_rebalances();
    wait_until("the hook is completed", || instance.is_complete());
    assert!(servers[2].is_blank());
}

/// Only the run whose rebalance removes a dead node knows that.
#[test]
fn dead_node_that_a_departure_removes_is_reported_however_it_ends() {
    for (fails_first, is_lost, is_withdrawn, is_terminated) in [
        (true, false, false, false),
        (false, false, true, false),
        (false, false, true, true),
        (false, true, false, false),
        (false, true, true, false),
    ] {
        let (servers, agents, instance, mut residents) = with_instance(&[]);
        drop(residents.remove(1));
        servers[1].kill();
        call(&servers[0], "/controller/failOver", &[("otpNode", &otp(&servers[1]))]);
        servers.fail_rebalances(usize::from(fails_first));
        servers.on_request(move |seen| match seen.path.as_str() {
            "/controller/rebalance" if is_lost => Then::Lose,
            _ => Then::Handle,
        });
        servers.rebalance_takes(seconds(if is_withdrawn { 4 } else { 1 }));
        interrupt(&instance, "terminate", seconds(120));
        wait_until("the dead node is out", || membership(&servers, 1).is_none());
        if is_withdrawn {
            instance.remove("spot/instance-action");
            residents[1].wait_for("notice: withdrawn");
        }
        if is_terminated {
            instance.terminate();
        }
        wait_until("the node is out", || servers[2].is_blank());
        let mut expected = vec![servers[0].address()];
        if is_withdrawn && !is_terminated {
            servers[2].load_certificate();
            expected.push(servers[2].address());
        }
        wait_until("the record lists those that stay", || {
            let record = agents.record();
            let listed = record["nodes"].as_array().unwrap();
            listed.len() == expected.len()
                && expected.iter().all(|node| listed.contains(&json!(node)))
        });
    }
}

/// Later, it may be a member again.
#[test]
fn dead_node_that_a_departure_removes_is_not_reported_with_the_next_one() {
    let (servers, agents) = scene(3);
    let (agents, front, is_away) = with_failing_api(agents, 503);
    let (servers, _agents, instance, mut residents) = join_with_instance(servers, agents, &[]);
    drop(residents.remove(1));
    servers[1].kill();
    call(&servers[0], "/controller/failOver", &[("otpNode", &otp(&servers[1]))]);
    interrupt(&instance, "terminate", seconds(120));
    residents[1].wait_for("leave: this node has left its cluster");
    is_away.store(true, Ordering::Relaxed);
    instance.remove("spot/instance-action");
    residents[1].wait_for("notice: withdrawn");
    instance.terminate();
    residents[1].wait_for("notice: the Auto Scaling group");
    is_away.store(false, Ordering::Relaxed);
    wait_until("the hook is completed", || instance.is_complete());
    let (mut requests, dead) = (front.requests(), servers[1].address());
    requests.retain(|it| it.path == "/cluster/leave" && it.body.contains(&dead));
    assert_eq!(requests.len(), 1, "{requests:?}");
}

/// It may have a member of the same name, which must stay in its record.
#[test]
fn departure_is_not_reported_to_another_cluster() {
    let new_api = Api::start();
    for (other_api, other_id) in [(None, "other"), (Some(&new_api.local.endpoint), "demo")] {
        let (servers, agents) = scene(3);
        let file = agents.user.home.path().join("agent.yaml");
        let path = file.display().to_string();
        let other = Agents::new(other_api.unwrap_or(&agents.api), other_id, &servers);
        let members = ["127.99.99.99".to_owned(), servers[2].address()];
        for node in &members {
            http::claim(&other.api, other_id, node).unwrap();
            let body = json!({"cluster_id": other_id, "node_ip_addr_or_hostname": node});
            let ready = http::post(&other.api, "/cluster/ready", &body.to_string()).unwrap();
            assert_eq!(ready.status, 200, "{ready:?}");
        }
        let (agents, front, is_away) = with_failing_api(agents, 503);
        let write = |api: &str, id| write_private(&file, format!("api: {api}\ncluster_id: {id}\n"));
        write(&front.url, "demo");
        let agents = agents.without("CBBOOTSTRAP_CLUSTER_ID").without("CBBOOTSTRAP_API");
        let options = ["--config", &path];
        let (servers, _agents, instance, residents) = join_with_instance(servers, agents, &options);
        is_away.store(true, Ordering::Relaxed);
        instance.terminate();
        wait_until("the node is out", || servers[2].is_blank());
        residents[2].wait_for("returned status 503");
        write(other_api.unwrap_or(&front.url), other_id);
        residents[2].signal("HUP");
        residents[2].wait_for("reload: the options were read again");
        is_away.store(false, Ordering::Relaxed);
        residents[2].wait_for("no other member can tell whether another machine has the name");
        assert_eq!(other.record()["nodes"].as_array().unwrap().len(), members.len());
    }
}

/// The options may be those of another node by mistake.
#[test]
fn departure_is_not_reported_for_another_member() {
    let (servers, agents) = scene(3);
    agents.join(servers.nodes(), &[]);
    agents.remove_from_record(&servers[2].address());
    let file = agents.user.home.path().join("agent.yaml");
    let path = file.display().to_string();
    write_private(&file, "node: node.example.com\n");
    let (agents, _front, is_away) = with_failing_api(agents, 503);
    let instance = Instance::start();
    let variables = [&instance.variables()[..], &[("CBBOOTSTRAP_NODE", "")]].concat();
    let resident = agents.stay(&servers[2], &["--config", &path], &variables);
    resident.wait_for("which has 3 nodes");
    is_away.store(true, Ordering::Relaxed);
    instance.terminate();
    wait_until("the node is out", || servers[2].is_blank());
    resident.wait_for("returned status 503");
    write_private(&file, format!("node: {}\n", servers[1].address()));
    resident.signal("HUP");
    resident.wait_for("reload: the options were read again");
    is_away.store(false, Ordering::Relaxed);
    resident.wait_for("this node has left its cluster, but that could not be reported to the API");
    let record = agents.record();
    assert_eq!(record["nodes"].as_array().unwrap().len(), 3, "{record}");
}

fn schedule(instance: &Instance, code: &str, time_left: Duration) {
    let time = (jiff::Timestamp::now() + time_left).strftime("%d %b %Y %H:%M:%S GMT");
    let event = format!(r#"[{{"Code": "{code}", "NotBefore": "{time}", "State": "active"}}]"#);
    instance.set("events/maintenance/scheduled", &event);
}

#[test]
fn retirement_in_a_month_is_no_hurry() {
    let (servers, _agents, instance, residents) = with_instance(&[]);
    schedule(&instance, "instance-retirement", Duration::from_hours(30 * 24));
    residents[2].wait_for("notice: a scheduled retirement ends this instance");
    assert_never("the node leaves", || servers.clusters()[0].nodes.len() < 3);
    schedule(&instance, "instance-retirement", Duration::from_hours(1));
    wait_until("the node is out", || servers[2].is_blank());
}

/// Until it is due again, it is like no notice.
#[test]
fn retirement_that_is_put_off_ends_the_departure() {
    let (servers, _agents, instance, residents) = with_instance(&[]);
    servers.rebalance_takes(seconds(2));
    schedule(&instance, "instance-retirement", Duration::from_hours(20));
    wait_until("the rebalance", || servers.clusters()[0].is_rebalancing);
    schedule(&instance, "instance-retirement", Duration::from_hours(30));
    wait_until("the node is out", || servers[2].is_blank());
    servers[2].load_certificate();
    wait_for_cluster(&servers, 3);
    residents[2].wait_for("which has 3 nodes");

    remove_last(&servers);
    residents[2].wait_for("this node was removed from its cluster");
    instance.remove("events/maintenance/scheduled");
    residents[2].wait_for("notice: withdrawn");
    schedule(&instance, "instance-retirement", Duration::from_hours(1));
    residents[2].wait_for("leave: this node has left its cluster");
    instance.remove("events/maintenance/scheduled");
    assert_never("it joins again", || !servers[2].is_blank());
}

/// It need not know that the rebalance is its own.
#[test]
fn node_that_leaves_despite_a_restart_or_a_lost_answer_joins_again_after_the_notice() {
    for is_restarted in [true, false] {
        let (servers, agents, instance, mut residents) = with_instance(&[]);
        servers.rebalance_takes(seconds(3));
        servers.on_request(move |seen| match seen.path.as_str() {
            "/controller/rebalance" if !is_restarted => Then::Lose,
            _ => Then::Handle,
        });
        schedule(&instance, "instance-retirement", Duration::from_hours(2));
        wait_until("the rebalance", || servers.clusters()[0].is_rebalancing);
        servers.on_request(|_| Then::Handle);
        let mut resident = residents.remove(2);
        if is_restarted {
            resident.signal("KILL");
            resident = agents.stay(&servers[2], &[], &instance.variables());
            resident.wait_for("a rebalance runs");
        }
        resident.wait_for("leave: this node has left its cluster");
        servers[2].load_certificate();
        instance.remove("events/maintenance/scheduled");
        wait_for_cluster(&servers, 3);
    }
}

/// People remove the last node with a rebalance.
fn remove_last(servers: &Servers) {
    let known: Vec<_> = servers.nodes().iter().map(otp).collect();
    let ejected = known.last().unwrap();
    let form = [("knownNodes", &*known.join(",")), ("ejectedNodes", ejected)];
    call(&servers[0], "/controller/rebalance", &form);
    wait_until("the node is out", || servers[2].is_blank());
    servers[2].load_certificate();
}

/// Until it is back, no other node could join or leave.
#[test]
fn instance_that_stops_is_failed_over_shortly_before() {
    let (servers, _agents, instance, residents) = with_instance(&BUCKET);
    schedule(&instance, "instance-stop", Duration::from_hours(20));
    residents[2].wait_for("notice: a scheduled retirement stops this instance");
    assert_never("it is failed over", || servers.count("/controller/startGracefulFailover") > 0);
    schedule(&instance, "instance-stop", Duration::from_mins(5));
    wait_for_failover(&servers, 2);
    residents[2].wait_for("this node has been failed over; its machine ends");
}

#[test]
fn bucket_that_people_delete_stays_away_until_the_agent_restarts() {
    let (servers, agents) = scene(1);
    let resident = agents.stay(&servers[0], &BUCKET, &[]);
    resident.wait_for("which has 1 node");
    let delete = |path| servers[0].call("DELETE", path, &[], Some(LOGIN)).unwrap().status;
    assert_eq!(delete("/pools/default/buckets/app"), 200);
    let is_there = || !servers.clusters()[0].buckets.is_empty();
    assert_never("the bucket comes back", is_there);
    resident.signal("HUP");
    resident.wait_for("reload: the options were read again");
    assert_never("the bucket comes back", is_there);
    drop(resident);
    let _again = agents.stay(&servers[0], &BUCKET, &[]);
    wait_until("the bucket is created", is_there);
}

/// Three nodes with a bucket. The last one fails, is failed over, and comes back.
fn fail_and_return(servers: &Servers) {
    servers.auto_failover_after(Duration::from_millis(500));
    servers[2].kill();
    wait_for_failover(servers, 2);
    servers[2].restart();
}

#[test]
fn rebalance_that_people_stop_is_left_to_them_until_the_nodes_change() {
    let (servers, agents) = scene(4);
    let mut residents: Vec<_> =
        servers.nodes()[..2].iter().map(|node| agents.stay(node, &[], &[])).collect();
    wait_for_cluster(&servers, 2);
    servers.rebalance_takes(seconds(60));
    residents.push(agents.stay(&servers[2], &[], &[]));
    for resident in &residents {
        resident.wait_for("waiting: a rebalance runs (0 %)");
    }
    call(&servers[0], "/controller/stopRebalance", &[]);
    for resident in &residents {
        resident.wait_for("warning: someone stopped the rebalance");
        resident.wait_for("which has 3 nodes and is not balanced");
    }
    let rebalances = servers.count("/controller/rebalance");
    assert_never("an agent rebalances", || servers.count("/controller/rebalance") > rebalances);
    // Also when the options are read again.
    residents[0].signal("HUP");
    residents[0].wait_for("reload: the options were read again");
    assert_never("an agent rebalances", || servers.count("/controller/rebalance") > rebalances);
    // The orchestrator dies, so the report of the stopped rebalance stays the last one.
    residents.push(agents.stay(&servers[3], &[], &[]));
    wait_until("the next rebalance", || servers.clusters()[0].is_rebalancing);
    residents[3].wait_for("waiting: a rebalance runs (0 %)");
    servers[0].kill();
    servers.rebalance_takes(Duration::from_millis(200));
    servers[0].restart();
    wait_for_cluster(&servers, 4);
}

/// Each member that is down costs a time limit.
#[test]
fn server_that_has_just_started_asks_three_members_at_most() {
    let (servers, agents) = scene(5);
    agents.join(servers.nodes(), &["--nodes", "5"]);
    servers[4].set_uptime(seconds(1));
    for node in &servers.nodes()[..4] {
        node.answer_500(true);
    }
    let resident = agents.stay(&servers[4], &[], &[]);
    resident.wait_for("no other member has confirmed its membership");
    let log = resident.log();
    let line = log.lines().find(|line| line.contains("no other member has confirmed"));
    assert_eq!(line.unwrap().matches("status 500").count(), 3, "{log}");
}

#[test]
fn failed_over_node_that_is_back_recovers_with_its_data() {
    let (servers, agents) = scene(3);
    let residents = agents.all_stay(&servers, &[&BUCKET[..], &["--nodes", "3"]].concat());
    fail_and_return(&servers);
    wait_for_cluster(&servers, 3);
    let recovery = |kind| count(&servers, "/controller/setRecoveryType", ("recoveryType", kind));
    assert_eq!((recovery("delta"), recovery("full")), (1, 0));
    residents[2].wait_for("recover: the next rebalance takes this node in again with its data");
    let rebalances = servers.clusters()[0].rebalances.clone();
    assert!(rebalances.iter().all(|rebalance| rebalance.removed == 0), "{rebalances:?}");
}

#[test]
fn refused_delta_recovery_becomes_a_full_one_only_with_replicas() {
    for (bucket, recovers) in [("app:100:1", true), ("app:100:0", false)] {
        let (servers, agents) = scene(3);
        let residents = agents.all_stay(&servers, &["--bucket", bucket, "--nodes", "3"]);
        servers.on_request(|seen| {
            let is_delta = seen.path == "/controller/setRecoveryType"
                && seen.form.iter().any(|(_, value)| value == "delta");
            let why = r#"{"otpNode":"invalid node name or node can't be used for delta recovery"}"#;
            if is_delta { Then::Refuse(400, why.to_owned()) } else { Then::Handle }
        });
        fail_and_return(&servers);
        if recovers {
            wait_for_cluster(&servers, 3);
            let full = ("recoveryType", "full");
            assert_eq!(count(&servers, "/controller/setRecoveryType", full), 1);
        } else {
            residents[2]
                .wait_for("the server offers only a full recovery, which deletes this node's data");
            assert_never("it is removed", || {
                membership(&servers, 2) != Some(Membership::InactiveFailed)
            });
        }
    }
}

#[test]
fn recovery_is_left_to_people_on_demand_and_after_a_failover_by_people() {
    let (servers, agents) = scene(3);
    let options = [&BUCKET[..], &["--nodes", "3"]].concat();
    let mut residents = agents.all_stay(&servers, &options);
    // A person has failed over a node that was well all the time.
    call(&servers[0], "/controller/failOver", &[("otpNode", &otp(&servers[2]))]);
    residents[2].wait_for("recover it, or rebalance it out, in Couchbase Server");
    assert_never("it recovers", || membership(&servers, 2) != Some(Membership::InactiveFailed));
    // Nor after a restart of its server, which the agent sees as it tries again at once.
    servers[2].kill();
    residents[2].signal("HUP");
    residents[2].wait_for("does not answer");
    servers[2].restart();
    assert_never("it recovers", || membership(&servers, 2) != Some(Membership::InactiveFailed));
    drop(residents.remove(2));
    let never = agents.stay(&servers[2], &[&options[..], &["--recover", "never"]].concat(), &[]);
    never.wait_for("recover it, or rebalance it out, in Couchbase Server");
    assert_never("it recovers", || membership(&servers, 2) != Some(Membership::InactiveFailed));
}

#[test]
fn recovery_waits_while_another_node_is_down() {
    let (servers, agents) = scene(4);
    let residents = agents.all_stay(&servers, &[&BUCKET[..], &["--nodes", "4"]].concat());
    servers.auto_failover_after(Duration::from_millis(500));
    servers[2].kill();
    wait_for_failover(&servers, 2);
    // Only one node is failed over automatically.
    servers[3].kill();
    servers[2].restart();
    residents[2].wait_for(&format!("its recovery waits until `{}` is back", servers[3].address()));
    assert_never("it recovers", || servers.count("/controller/setRecoveryType") > 0);
    servers[3].restart();
    wait_for_cluster(&servers, 4);
}

#[test]
fn two_failed_over_nodes_recover_without_removing_each_other() {
    let (servers, agents) = scene(5);
    let residents = agents.all_stay(&servers, &[&BUCKET[..], &["--nodes", "5"]].concat());
    let lost = [&servers[3], &servers[4]];
    for node in lost {
        node.kill();
    }
    for index in [3, 4] {
        residents[index].wait_for("does not answer");
    }
    let otps = lost.map(otp);
    let form = otps.each_ref().map(|otp| ("otpNode", otp.as_str()));
    call(&servers[0], "/controller/failOver", &form);
    for node in lost {
        node.restart();
    }
    wait_for_cluster(&servers, 5);
    let rebalances = servers.clusters()[0].rebalances.clone();
    assert!(rebalances.iter().all(|rebalance| rebalance.removed == 0), "{rebalances:?}");
}

/// The machine of a failed-over node has lost its disk.
fn lose_disk(servers: &Servers, agents: &Agents, bucket: &str) -> Vec<Resident> {
    let options = ["--bucket", bucket, "--nodes", "3"];
    let mut residents = agents.all_stay(servers, &options);
    drop(residents.pop());
    servers.auto_failover_after(Duration::from_millis(500));
    servers[2].kill();
    wait_for_failover(servers, 2);
    servers[2].reset();
    servers[2].restart();
    residents
}

#[test]
fn dead_twin_is_replaced_on_demand() {
    let (servers, agents) = scene(3);
    let _others = lose_disk(&servers, &agents, "app:100:1");
    let without = agents.stay(&servers[2], &[], &[]);
    without.wait_for("once it has been removed, this node can join again");
    assert_never("it is removed", || membership(&servers, 2).is_none());
    drop(without);
    let with = agents.stay(&servers[2], &["--replace"], &[]);
    with.wait_for("it was removed, and this node joins in its place");
    wait_for_cluster(&servers, 3);
    assert!(!servers[2].is_blank());
    // The same while the agent runs.
    with.wait_for("which has 3 nodes");
    servers[2].kill();
    servers[2].reset();
    servers[2].restart();
    with.wait_for("once that member has been failed over and removed, this node can join again");
    call(&servers[0], "/controller/failOver", &[("otpNode", &otp(&servers[2]))]);
    wait_until("it is replaced again", || {
        with.log().matches("it was removed, and this node joins in its place").count() == 2
    });
    wait_for_cluster(&servers, 3);
}

#[test]
fn twin_is_not_replaced_where_data_would_be_lost() {
    let (servers, agents) = scene(3);
    let _others = lose_disk(&servers, &agents, "app:100:0");
    let replacing = agents.stay(&servers[2], &["--replace"], &[]);
    replacing.wait_for("it cannot be replaced: a bucket has no replicas");
    assert_never("it is removed", || membership(&servers, 2).is_none());
}

#[test]
fn node_that_people_remove_stays_out_until_the_agent_restarts() {
    // Some rebalances are too short to be seen, and the last begins before the cause of the failover is known.
    let (known, unclear) = ("recover it, or rebalance it out, in", "may count that in a moment");
    for (takes, failed_over) in
        [(3, None), (0, None), (3, Some(known)), (0, Some(known)), (3, Some(unclear))]
    {
        let (servers, agents) = scene(3);
        let mut residents = agents.all_stay(&servers, &["--nodes", "3"]);
        if let Some(why) = failed_over {
            call(&servers[0], "/controller/failOver", &[("otpNode", &otp(&servers[2]))]);
            residents[2].wait_for(why);
        }
        servers.rebalance_takes(seconds(takes));
        remove_last(&servers);
        residents[2].wait_for("this node was removed from its cluster");
        assert_never("it joins again", || !servers[2].is_blank());
        drop(residents.remove(2));
        let _again = agents.stay(&servers[2], &["--nodes", "3"], &[]);
        wait_for_cluster(&servers, 3);
    }
}

#[test]
fn leave_by_hand_works_beside_a_running_agent() {
    for is_failed_over in [false, true] {
        let (servers, agents) = scene(3);
        let residents = agents.all_stay(&servers, &["--nodes", "3"]);
        if is_failed_over {
            call(&servers[0], "/controller/failOver", &[("otpNode", &otp(&servers[2]))]);
            residents[2].wait_for("recover it, or rebalance it out, in Couchbase Server");
        }
        agents.run(&servers[2], &["leave"]).ended_with(0);
        residents[2].wait_for("this node was removed from its cluster");
        assert_never("it joins again", || !servers[2].is_blank());
    }
}

#[test]
fn leave_by_hand_works_beside_an_agent_that_waits() {
    let (servers, agents) = scene(2);
    agents.up(&servers[0], &[]).document();
    let waiting = agents.stay(&servers[1], &["--settle", "30m"], &[]);
    waiting.wait_for("1 node waits for a rebalance");
    agents.run(&servers[1], &["leave", "--timeout", "20s"]).ended_with(0);
    assert!(servers[1].is_blank());
}

/// Otherwise a log would tell of the start of an incident only.
#[test]
fn end_of_an_incident_is_logged() {
    let (servers, agents) = scene(1);
    let resident = agents.stay(&servers[0], &[], &[]);
    resident.wait_for("which has 1 node");
    servers[0].kill();
    resident.wait_for("does not answer");
    servers[0].restart();
    wait_until("the node is a member again", || {
        resident.log().matches("  member of the cluster").count() == 2
    });
}

#[test]
fn members_stay_while_the_api_is_away() {
    let (servers, agents) = scene(2);
    agents.join(servers.nodes(), &[]);
    let away = agents.with("CBBOOTSTRAP_API", &format!("http://127.0.0.1:{}", free_port()));
    let port = free_port().to_string();
    servers[1].set_uptime(seconds(120));
    let resident = away.stay(&servers[1], &["--metrics-port", &port], &[]);
    resident.wait_for("the node stays a member");
    let health = http::get(&format!("http://127.0.0.1:{port}"), "/healthz").unwrap();
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    let metrics = http::get(&format!("http://127.0.0.1:{port}"), "/metrics").unwrap().body;
    assert!(metrics.contains("cbbootstrap_agent_api_reachable 0\n"), "{metrics}");
    one_cluster(&servers, 2);
}

/// Agents whose API answers with this status while the flag is set, as API Gateway does without a permission.
fn with_failing_api(agents: Agents, status: u16) -> (Agents, Stub, Arc<AtomicBool>) {
    let (api, is_failing) = (agents.api.clone(), Arc::new(AtomicBool::new(false)));
    let fails = Arc::clone(&is_failing);
    let front = Stub::start(move |request| {
        if fails.load(Ordering::Relaxed) {
            return (status, r#"{"message":"Forbidden"}"#.to_owned());
        }
        let answer = http::post(&api, &request.path, &request.body).unwrap();
        (answer.status, answer.body)
    });
    let agents = agents.with("CBBOOTSTRAP_API", &front.url);
    (agents, front, is_failing)
}

#[test]
fn machine_that_ends_leaves_although_the_api_refuses() {
    for is_scale_in in [true, false] {
        let (servers, agents) = scene(3);
        let (agents, _front, is_forbidding) = with_failing_api(agents, 403);
        let (servers, _agents, instance, residents) = join_with_instance(servers, agents, &[]);
        is_forbidding.store(true, Ordering::Relaxed);
        if is_scale_in {
            instance.terminate();
            wait_until("the hook is completed", || instance.is_complete());
        } else {
            interrupt(&instance, "terminate", seconds(120));
        }
        residents[2].wait_for("this node has left its cluster, but that could not be reported");
        assert!(servers[2].is_blank());
        one_cluster(&servers, 2);
        let log = residents[2].log();
        assert_eq!(log.matches("the API does not confirm its membership").count(), 1, "{log}");
    }
}

/// The record lists the server of a machine that got another name under the old one.
#[test]
fn renamed_machine_leaves_under_the_recorded_name() {
    let (servers, agents) = scene(3);
    agents.join(servers.nodes(), &[]);
    for node in [&servers[0], &servers[2]] {
        agents.remove_from_record(&node.address());
    }
    let (agents, _front, is_away) = with_failing_api(agents, 503);
    let instance = Instance::start();
    let variables = [&instance.variables()[..], &[("CBBOOTSTRAP_NODE", "node.example.com")]];
    let resident = agents.stay(&servers[1], &[], &variables.concat());
    instance.terminate();
    resident.wait_for("this is the only member of `demo` that the API knows");
    assert!(!servers[1].is_blank());
    drop(resident);

    agents.up(&servers[0], &[]).document();
    servers.rebalance_takes(seconds(2));
    let resident = agents.stay(&servers[1], &[], &variables.concat());
    wait_until("the rebalance", || servers.clusters()[0].is_rebalancing);
    is_away.store(true, Ordering::Relaxed);
    wait_until("the node is out", || servers[1].is_blank());
    resident.wait_for("returned status 503");
    // The report comes after the options were read again.
    resident.signal("HUP");
    resident.wait_for("reload: the options were read again");
    is_away.store(false, Ordering::Relaxed);
    wait_until("the hook is completed", || instance.is_complete());
    assert_eq!(agents.record()["nodes"], json!([servers[0].address()]));
}

/// Three nodes, of which the record lists the last two, and the last is failed over.
fn with_last_recorded_member() -> (Servers, Agents) {
    let (servers, agents) = scene(3);
    agents.join(servers.nodes(), &[]);
    agents.remove_from_record(&servers[0].address());
    call(&servers[0], "/controller/failOver", &[("otpNode", &otp(&servers[2]))]);
    wait_for_failover(&servers, 2);
    (servers, agents)
}

/// The rebalance with which it leaves removes the failed-over member, too.
#[test]
fn last_recorded_member_beside_a_failed_over_one_stays() {
    let (servers, agents) = with_last_recorded_member();
    let leave = || agents.run(&servers[1], &["leave", "--timeout", "2s"]);
    let why = "this is the only member of `demo` that the API knows, apart from failed-over";
    leave().failed(5, why);
    // No other one could report.
    call(&servers[1], "/controller/failOver", &[("otpNode", &otp(&servers[0]))]);
    wait_for_failover(&servers, 0);
    leave().failed(5, "this is the cluster's last active node");
}

/// Others have its data afterwards, and can report themselves.
#[test]
fn last_recorded_member_leaves_if_its_machine_ends() {
    let (servers, agents) = with_last_recorded_member();
    let instance = Instance::start();
    let resident = agents.stay(&servers[1], &[], &instance.variables());
    resident.wait_for("which has 3 nodes");
    interrupt(&instance, "terminate", seconds(120));
    wait_until("the node is out", || servers[1].is_blank());
    resident.wait_for("no node can join before you run `cbbootstrap-agent up` on another member");
    agents.up(&servers[0], &[]).document();
    let record = agents.record();
    assert!(record["nodes"].as_array().unwrap().contains(&json!(servers[0].address())), "{record}");
}

/// An operator has the time to report another one.
#[test]
fn last_recorded_member_waits_long_before_its_machine_ends() {
    let (servers, agents) = with_last_recorded_member();
    let instance = Instance::start();
    let resident = agents.stay(&servers[1], &[], &instance.variables());
    resident.wait_for("which has 3 nodes");
    schedule(&instance, "instance-retirement", Duration::from_hours(20));
    resident.wait_for("run `cbbootstrap-agent up` on another member");
    assert_never("it leaves", || servers[1].is_blank());
    // The failed-over node is left to people.
    agents.up(&servers[0], &[]).ended_with(6);
    resident.signal("HUP");
    resident.wait_for("this node is leaving");
}

/// The rebalance with which it leaves makes an added node active.
#[test]
fn last_recorded_member_moves_its_data_to_an_added_node() {
    let (servers, agents) = scene(2);
    agents.join(&servers.nodes()[..1], &[]);
    let instance = Instance::start();
    let resident = agents.stay(&servers[0], &["--settle", "1m"], &instance.variables());
    resident.wait_for("which has 1 node");
    add(&servers, 1);
    interrupt(&instance, "terminate", seconds(120));
    wait_until("the node is out", || servers[0].is_blank());
    resident.wait_for("no node can join before you run `cbbootstrap-agent up` on another member");
    assert_eq!(membership(&servers, 1), Some(Membership::Active));
}

/// Couchbase Server does not remove it, so the agent does not say that it leaves.
#[test]
fn last_recorded_member_with_the_data_service_stays() {
    let (servers, agents) = scene(2);
    agents.join(&servers.nodes()[..1], &[]);
    agents.join(&servers.nodes()[1..], &["--services", "query"]);
    agents.remove_from_record(&servers[1].address());
    let instance = Instance::start();
    let resident = agents.stay(&servers[0], &[], &instance.variables());
    resident.wait_for("which has 2 nodes");
    interrupt(&instance, "terminate", seconds(120));
    let why = "this is the cluster's last node with the data service";
    resident.wait_for(why);
    // A report of the other member would not help.
    assert!(!resident.log().contains("cbbootstrap-agent up"), "{}", resident.log());
    drop(resident);
    agents.run(&servers[0], &["leave", "--timeout", "2s"]).failed(5, why);
}

#[test]
fn last_recorded_member_does_not_leave_beside_a_dead_one() {
    let (servers, agents) = scene(2);
    agents.join(servers.nodes(), &[]);
    agents.remove_from_record(&servers[1].address());
    let instance = Instance::start();
    let resident = agents.stay(&servers[0], &[], &instance.variables());
    resident.wait_for("which has 2 nodes");
    servers[1].kill();
    interrupt(&instance, "terminate", seconds(120));
    resident.wait_for("no rebalance can succeed until it is back");
    assert!(!servers[0].is_blank());
}

#[test]
fn machine_that_ends_waits_for_a_silent_joiner() {
    let (servers, agents) = scene(2);
    agents.join(&servers.nodes()[..1], &[]);
    let instance = Instance::start();
    let resident = agents.stay(&servers[0], &[], &instance.variables());
    resident.wait_for("which has 1 node");
    servers.on_request(|seen| match seen.path.as_str() {
        "/controller/rebalance" => Then::Refuse(200, String::new()),
        _ => Then::Handle,
    });
    add(&servers, 1);
    servers[1].kill();
    interrupt(&instance, "terminate", seconds(120));
    resident.wait_for("was added and cannot be reached yet");
    servers[1].restart();
    servers.on_request(|_| Then::Handle);
    wait_until("the node is out", || servers[0].is_blank());
    assert!(!resident.log().contains("last active node"), "{}", resident.log());
}

/// The report of another member may come when the last recorded one has left.
#[test]
fn departure_of_last_recorded_member_is_reported_when_another_one_reports() {
    for is_restarted in [false, true] {
        let (servers, agents) = scene(2);
        agents.join(servers.nodes(), &[]);
        agents.remove_from_record(&servers[1].address());
        let instance = Instance::start();
        let mut resident = agents.stay(&servers[0], &[], &instance.variables());
        resident.wait_for("which has 2 nodes");
        schedule(&instance, "instance-retirement", Duration::from_mins(8));
        wait_until("the node is out", || servers[0].is_blank());
        let why = "the API knows no other member of `demo`";
        resident.wait_for(why);
        if is_restarted {
            drop(resident);
            let up = agents.up(&servers[0], &[]);
            up.failed(5, "either it has lost its data or left its cluster, or two machines");
            assert!(up.stderr.contains("if another member has the data"), "{up}");
            resident = agents.stay(&servers[0], &[], &instance.variables());
            resident.wait_for(why);
        }
        agents.up(&servers[1], &[]).document();
        resident.wait_for("leave: this node has left its cluster");
        let log = resident.log();
        assert!(!log.contains("cluster forget demo") && !log.contains("cluster forget`"), "{log}");
        assert_eq!(agents.record()["nodes"], json!([servers[1].address()]));
        // The node to join creates the buckets.
        let up = agents.up(&servers[1], &["--bucket", "app:100"]).document();
        assert_eq!(up["buckets"], json!(["app"]));
    }
}

#[test]
fn restarted_member_is_ready_although_the_api_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(seconds(30))).unwrap();
    let (servers, agents) = scene(2);
    agents.join(servers.nodes(), &[]);
    let (agents, _front, is_forbidding) = with_failing_api(agents, 403);
    is_forbidding.store(true, Ordering::Relaxed);
    servers[1].set_uptime(seconds(120));
    let notify = path.display().to_string();
    let resident = agents.stay(&servers[1], &[], &[("NOTIFY_SOCKET", &notify)]);
    let mut buffer = [0; 4096];
    let since = Instant::now();
    while socket.recv(&mut buffer).map(|length| &buffer[..length]).unwrap() != b"READY=1" {
        assert!(since.elapsed() < seconds(45), "{}", resident.log());
    }
    resident.wait_for("returned status 403");
}

#[test]
fn idle_agent_asks_the_api_rarely() {
    let (servers, agents) = scene(1);
    let (front, agents) = agents.behind_front();
    let resident = agents.stay(&servers[0], &[], &[]);
    resident.wait_for("which has 1 node");
    let before = front.requests().len();
    assert_never("the API is called", || front.requests().len() != before);
}

#[test]
fn health_and_metrics_follow_the_node() {
    let (servers, agents) = scene(1);
    let resident = agents.stay(&servers[0], &["--metrics-port", "0"], &[]);
    resident.wait_for("/healthz");
    let log = resident.log();
    let url = pattern(r"metrics: (http://127\.0\.0\.1:\d+)/metrics").captures(&log).unwrap();
    let url = url[1].to_owned();
    let get = |path: &str| {
        let answer = http::get(&url, path).unwrap();
        (answer.status, answer.body)
    };
    resident.wait_for("which has 1 node");
    wait_until("the node is healthy", || get("/healthz") == (200, "ok\n".to_owned()));
    let metrics = get("/metrics").1;
    for line in [
        "# TYPE cbbootstrap_agent_healthy gauge",
        "cbbootstrap_agent_healthy 1",
        "cbbootstrap_agent_api_reachable 1",
        "cbbootstrap_agent_machine_ends 0",
        "cbbootstrap_agent_cluster_balanced 1",
        r#"cbbootstrap_agent_cluster_nodes{membership="active"} 1"#,
        concat!("cbbootstrap_agent_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "cbbootstrap_agent_refusals_total 0",
    ] {
        assert!(metrics.lines().any(|actual| actual == line), "{line}: {metrics}");
    }
    assert_eq!(get("/").0, 404);
    assert_eq!(http::post(&url, "/healthz", "").unwrap().status, 405);
    servers[0].kill();
    wait_until("the node is not healthy", || get("/healthz").0 == 503);
    assert!(get("/healthz").1.contains("does not answer"));
    servers[0].restart();
    wait_until("the node is healthy", || get("/healthz").0 == 200);
}

/// `api_reachable` is about the last request, and an instance in a warm pool starts again.
#[test]
fn metrics_show_an_api_that_fails_and_a_machine_that_ends() {
    let (servers, agents) = scene(1);
    let (api, fails) = (agents.api.clone(), Arc::new(AtomicBool::new(true)));
    let is_failing = Arc::clone(&fails);
    let front = Stub::start(move |request| {
        if request.path == "/cluster/ready" && is_failing.load(Ordering::Relaxed) {
            return (503, String::new());
        }
        let answer = http::post(&api, &request.path, &request.body).unwrap();
        (answer.status, answer.body)
    });
    let (agents, instance) = (agents.with("CBBOOTSTRAP_API", &front.url), Instance::start());
    let port = free_port().to_string();
    let options = ["--metrics-port", &port];
    let resident = agents.stay(&servers[0], &options, &instance.variables());
    resident.wait_for("returned status 503");
    let shows = |metric: &str| {
        let metrics = http::get(&format!("http://127.0.0.1:{port}"), "/metrics").unwrap().body;
        metrics.contains(&format!("cbbootstrap_agent_{metric}\n"))
    };
    wait_until("the node is a member", || shows("healthy 1"));
    assert_never("the API counts as reachable", || shows("api_reachable 1"));
    fails.store(false, Ordering::Relaxed);
    wait_until("the API answers", || shows("api_reachable 1"));
    instance.set("autoscaling/target-lifecycle-state", "Warmed:Stopped");
    resident.wait_for("notice: this instance is in a warm pool");
    assert_never("the machine ends", || shows("machine_ends 1"));
    instance.terminate();
    wait_until("the machine ends", || shows("machine_ends 1"));
}

#[test]
fn agent_without_free_file_descriptors_does_not_accept_in_a_loop() {
    let (servers, agents) = scene(1);
    let port = free_port();
    let resident = agents.stay(&servers[0], &["--metrics-port", &port.to_string()], &[]);
    resident.wait_for("which has 1 node");
    let id = i32::try_from(resident.id()).unwrap();
    let (files, most) = Resource::NOFILE.get().unwrap();
    let limit = |files| prlimit(id, Resource::NOFILE, Some((files, most)), None).unwrap();
    limit(3);
    // The call that waits already has its descriptor.
    drop(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap());
    let (start, _) = usage(resident.id());
    std::thread::sleep(seconds(2));
    let ticks = usage(resident.id()).0 - start;
    assert!(ticks < 50, "{ticks}");
    limit(files);
    let get = || http::get(&format!("http://127.0.0.1:{port}"), "/healthz").unwrap().status;
    wait_until("the node is healthy", || get() == 200);
}

/// As "Moving to another database or API" in docs/server.md describes it.
#[test]
fn members_move_to_another_api() {
    let (servers, agents) = scene(3);
    let new_api = Api::start();
    let other = Agents::new(&new_api.local.endpoint, "demo", &servers);
    let file = agents.user.home.path().join("agent.yaml");
    write_private(&file, format!("api: {}\n", agents.api));
    let path = file.display().to_string();
    let options = ["--config", &path];
    let agents = agents.without("CBBOOTSTRAP_API");
    let stay = |node| agents.stay(node, &options, &[]);
    let residents: Vec<_> = servers.nodes()[..2].iter().map(stay).collect();
    wait_for_cluster(&servers, 2);
    for resident in &residents {
        resident.wait_for("which has 2 nodes");
    }
    agents.up(&servers[0], &["--config", &path, "--adopt", "--api", &other.api]).document();
    assert_eq!(other.record()["nodes"], json!([servers[0].address()]));

    write_private(&file, format!("api: {}\n", other.api));
    for resident in &residents {
        resident.signal("HUP");
    }
    wait_until("both are members", || {
        other.record()["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2)
    });
    let _third = stay(&servers[2]);
    wait_for_cluster(&servers, 3);
}

#[test]
fn sighup_reads_the_options_file_again() {
    let (servers, agents) = scene(2);
    let file = agents.user.home.path().join("agent.yaml");
    let path = file.display().to_string();
    write_private(&file, "settle: 30m\n");
    let agents = agents.without("CBBOOTSTRAP_SETTLE");
    let residents = servers.nodes().iter().map(|node| agents.stay(node, &["--config", &path], &[]));
    let residents: Vec<_> = residents.collect();
    wait_until("a node waits", || {
        residents.iter().any(|resident| resident.log().contains("waits for a rebalance"))
    });
    write_private(&file, "settle: soon\n");
    for resident in &residents {
        resident.signal("HUP");
    }
    for resident in &residents {
        resident.wait_for("the new options are not valid, and the old ones stay");
        assert!(resident.log().contains("soon"), "{}", resident.log());
    }
    write_private(&file, "settle: 1s\n");
    for resident in &residents {
        resident.signal("HUP");
    }
    wait_for_cluster(&servers, 2);
    residents[0].wait_for("reload: the options were read again");
}

/// A pipe that nobody writes to would block the agent.
#[test]
fn password_from_a_pipe_is_read_once() {
    let (servers, agents) = scene(2);
    let agents = agents.with("CBBOOTSTRAP_NODES", "2");
    let pipe = agents.user.home.path().join("password");
    let made = Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status();
    assert!(made.unwrap().success());
    let path = pipe.display().to_string();
    let options = ["--services", "query", "--password-file", &path];
    let resident = agents.stay(&servers[1], &options, &[]);
    fs::write(&pipe, LOGIN.1).unwrap();
    let why = "is not a regular file and is read only once";
    resident.wait_for(why);
    resident.signal("HUP");
    wait_until("the reload is refused", || resident.log().matches(why).count() == 2);
    let _first = agents.stay(&servers[0], &[], &[]);
    wait_for_cluster(&servers, 2);
}

/// A terminal or a pipe as standard input would block the agent.
#[test]
fn changed_options_cannot_name_standard_input() {
    let (servers, agents) = scene(1);
    let file = agents.user.home.path().join("agent.yaml");
    let path = file.display().to_string();
    write_private(&file, "services: [query]\n");
    let resident = agents.stay(&servers[0], &["--config", &path], &[]);
    resident.wait_for("no node with the data service has claimed the cluster yet");
    write_private(&file, "services: [query]\npassword_file: \"-\"\n");
    let why = "`-` is not a regular file";
    resident.wait_for(why);
    resident.signal("HUP");
    wait_until("the reload is refused", || resident.log().matches(why).count() == 2);
}

#[test]
fn systemd_learns_of_readiness_status_reload_and_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let name = format!("cbbootstrap-test-{}", fastrand::u64(..));
    for (address, variable) in [
        (SocketAddr::from_pathname(&path).unwrap(), path.display().to_string()),
        (SocketAddr::from_abstract_name(&name).unwrap(), format!("@{name}")),
    ] {
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(seconds(30))).unwrap();
        let receive_until = |wanted: &str| {
            let mut all = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let length =
                    socket.recv(&mut buffer).unwrap_or_else(|_| panic!("{wanted}: {all:?}"));
                let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                all.push(message.clone());
                if message == wanted {
                    return all;
                }
            }
        };
        let (servers, agents) = scene(1);
        let variables = [("NOTIFY_SOCKET", variable.as_str()), ("WATCHDOG_USEC", "400000")];
        let resident = agents.stay(&servers[0], &[], &variables);
        let before = receive_until("READY=1");
        assert!(before.iter().any(|message| message.starts_with("STATUS=")), "{before:?}");
        receive_until("WATCHDOG=1");
        receive_until("WATCHDOG=1");
        resident.signal("HUP");
        receive_until("RELOADING=1");
        receive_until("READY=1");
        let (status, _) = resident.end();
        assert_eq!(status, Some(0));
        receive_until("STOPPING=1");
        drop(fs::remove_file(&path));
    }
}

/// The API may then be away again: the node does not become ready without its answer.
#[test]
fn node_whose_claim_was_taken_over_is_neither_ready_nor_healthy() {
    let name = format!("cbbootstrap-test-{}", fastrand::u64(..));
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let servers = Servers::start(1);
    let node = servers[0].address();
    let (state, reports) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (is, count) = (Arc::clone(&state), Arc::clone(&reports));
    let api = Stub::start(move |request| {
        if request.path == "/cluster/ready" {
            count.fetch_add(1, Ordering::Relaxed);
            let problem = json!({"status": 409, "title": "", "code": "stale_generation", "detail": "taken over"});
            return (409, problem.to_string());
        }
        let more = json!({"generation": 2, "cluster_uuid": "b2", "nodes": ["cb-2.test"]});
        match (count.load(Ordering::Relaxed), is.load(Ordering::Relaxed)) {
            (0, _) => (
                200,
                record(&node, &node, "claimed", &json!({"lease_seconds_left": 60})).to_string(),
            ),
            (_, 0) => (503, String::new()),
            _ => (200, record(&node, "cb-2.test", "ready", &more).to_string()),
        }
    });
    let agents = Agents::new(&api.url, "demo", &servers);
    let port = free_port().to_string();
    let variables = [("NOTIFY_SOCKET", format!("@{name}"))];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let resident = agents.stay(&servers[0], &["--metrics-port", &port], &variables);
    let is_never_well = |why: &str| {
        resident.wait_for(why);
        let metrics = || http::get(&format!("http://127.0.0.1:{port}"), "/metrics").unwrap().body;
        wait_until("the node is not healthy", || metrics().contains("agent_healthy 0\n"));
        assert_never("the node is ready and healthy", || {
            let mut buffer = [0; 4096];
            let is_ready = || {
                let length = socket.recv(&mut buffer).ok()?;
                Some(buffer[..length] == *b"READY=1")
            };
            std::iter::from_fn(is_ready).any(|is_ready| is_ready)
                || metrics().contains("agent_healthy 1\n")
        });
    };
    is_never_well("taken over");
    assert_eq!(reports.load(Ordering::Relaxed), 1);
    state.store(1, Ordering::Relaxed);
    is_never_well("is the one with the UUID b2");
}

/// systemd takes each line for an assignment.
#[test]
fn api_does_not_speak_to_systemd_through_its_refusals() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(seconds(30))).unwrap();
    let (servers, agents) = scene(1);
    let front = Stub::start(|_| {
        let detail = "later\nREADY=1\r\n\u{85}WATCHDOG=trigger";
        let problem = json!({"status": 503, "title": "t", "code": "c", "detail": detail});
        (503, problem.to_string())
    });
    let agents = agents.with("CBBOOTSTRAP_API", &front.url);
    let notify = path.display().to_string();
    let _resident = agents.stay(&servers[0], &[], &[("NOTIFY_SOCKET", &notify)]);
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).unwrap();
        let message = str::from_utf8(&buffer[..length]).unwrap();
        assert!(!message.contains(char::is_control), "{message:?}");
        if message == "STATUS=later READY=1 WATCHDOG=trigger" {
            return;
        }
    }
}

/// A node is `active` early in its rebalance. A reload then does not make it ready.
#[test]
fn joining_node_is_not_ready_while_its_rebalance_runs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let (servers, agents) = scene(2);
    agents.up(&servers[0], &["--bucket", "app:100:1"]).document();
    servers.rebalance_takes(seconds(4));
    let notify = path.display().to_string();
    let resident = agents.stay(&servers[1], &[], &[("NOTIFY_SOCKET", &notify)]);
    let is_ready = || {
        let mut buffer = [0; 4096];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()))
            .any(|message| message == b"READY=1")
    };
    wait_until("the node is active", || membership(&servers, 1) == Some(Membership::Active));
    resident.signal("HUP");
    wait_until("the options are read again", || {
        assert!(!is_ready());
        resident.log().contains("reload: the options were read again")
    });
    assert!(servers.clusters()[0].is_rebalancing && !is_ready());
    wait_until("the node is ready", is_ready);
    one_cluster(&servers, 2);
}

/// What may pass by itself never ends the agent: systemd does not restart it after wrong options.
#[test]
fn first_node_that_cannot_begin_yet_waits_and_stays() {
    let (servers, agents) = scene(1);
    let is_starting = Arc::new(AtomicBool::new(true));
    let starts = Arc::clone(&is_starting);
    servers.on_request(move |seen| {
        if seen.path == "/nodes/self" && starts.load(Ordering::Relaxed) {
            Then::Refuse(200, r#"{"nodeUUID": "c4", "memoryTotal": 0}"#.to_owned())
        } else {
            Then::Handle
        }
    });
    let resident = agents.stay(&servers[0], &["--memory-quota", "100%"], &[]);
    resident.wait_for("the server does not know its memory yet");
    is_starting.store(false, Ordering::Relaxed);
    resident.wait_for("--memory-quota: the data service would have");
    assert_eq!(resident.end().0, Some(0));
    let elsewhere = agents.stay(&servers[0], &["--node", "192.0.2.10"], &[]);
    elsewhere.wait_for("waiting: `192.0.2.10` is not an address of this host");
    elsewhere.wait_for("  `192.0.2.10` is not an address of this host");
    assert_eq!(elsewhere.end().0, Some(0));
    assert!(servers[0].is_blank() && agents.record().is_null());
}

#[test]
fn wrong_options_end_the_agent() {
    let (servers, agents) = scene(1);
    for (options, part) in [
        (vec!["--recover", "maybe"], "maybe"),
        (vec!["--nodes", "0"], "a number from 1 to 256"),
        (vec!["--metrics-port", "70000"], "70000"),
        (vec!["--bucket", "app:1"], "app"),
        // SIGHUP could not read it again.
        (vec!["--password-file", "-"], "`run` cannot read a secret from standard input"),
        (vec!["--secret-file", "-"], "`run` cannot read a secret from standard input"),
    ] {
        let ended = agents.run(&servers[0], &[&["run"], &options[..]].concat());
        ended.failed(2, part);
    }
    assert!(servers[0].is_blank());
}

/// The time of a process on a core, in clock ticks of 10 ms, and its memory in KB.
fn usage(id: u32) -> (u32, u32) {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<u32>().unwrap();
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let memory = pattern(r"VmHWM:\s+(\d+) kB").captures(&status).unwrap()[1].parse().unwrap();
    (ticks(11) + ticks(12), memory)
}

/// What an idle agent with its default options costs its node.
#[test]
#[ignore = "it builds the agent as it is released, and takes five minutes"]
fn idle_figures() {
    let (servers, agents) = scene(3);
    let instance = Instance::start();
    let agents = agents.program(programs::released_agent()).patient();
    let nodes = servers.nodes().iter();
    let options = ["--metrics-port", "0", "--nodes", "3"];
    let residents: Vec<_> =
        nodes.map(|node| agents.stay(node, &options, &instance.variables())).collect();
    residents[2].wait_for("which has 3 nodes");
    let (before, _) = usage(residents[2].id());
    let time = Duration::from_mins(5);
    std::thread::sleep(time);
    let (after, memory) = usage(residents[2].id());
    let percent = f64::from(after - before) / time.as_secs_f64();
    println!("| idle agent | {percent:.3} % of a core | {:.1} MB |", f64::from(memory) / 1e3);
    assert!(percent <= 0.1 && memory <= 8_000, "{percent} %, {memory} KB");
}
