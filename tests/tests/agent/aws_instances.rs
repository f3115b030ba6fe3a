//! The user data of `templates/couchbase-cluster.yaml`, as `cbbootstrap launch` deploys it to MiniStack, on instances that are Docker
//! containers with systemd, from their first boot to their end.

use std::{
    cell::Cell,
    fs,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use cbbootstrap_tests::{
    agent::{Api, one_cluster, wait_for_cluster},
    couchbase::{Membership, Rebalanced, Servers},
    ec2::{Host, LaunchTemplate, VirtualMachine},
    ministack::MiniStack,
    pattern::pattern,
    process::wait_until,
    programs,
    proxy::{Fault, Proxy},
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// A deployed cluster's stack, whose archive contains the built agent, and a machine for its instances.
struct Scene {
    host: Host,
    stack: MiniStack,
    /// The stack's user data, for the API at `endpoint`.
    user_data: String,
    endpoint: String,
    secrets: Vec<String>,
}

/// The scene that the tests share while one of them runs.
static SCENE: Mutex<Weak<Scene>> = Mutex::new(Weak::new());

impl Scene {
    /// If it is impossible, prints the reason and returns `None`, or fails in CI, unless the user may not create namespaces.
    fn share() -> Option<Arc<Self>> {
        let unshare = Command::new("unshare").args(["--mount", "true"]).output();
        if !unshare.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: this user may not make namespaces");
            return None;
        }
        let mut shared = SCENE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scene) = shared.upgrade() {
            return Some(scene);
        }
        match Host::start() {
            Ok(host) => {
                let scene = Arc::new(Self::new(host));
                *shared = Arc::downgrade(&scene);
                Some(scene)
            }
            Err(reason) => {
                assert!(std::env::var_os("CI").is_none(), "{reason}");
                eprintln!("skipped: {reason}");
                None
            }
        }
    }

    fn new(host: Host) -> Self {
        let stack = MiniStack::start();
        let options = ["--parameter", "Buckets=app:256:1", "--parameter", "Services=data"];
        let endpoint = stack.launch(&options);
        let scene = Self { host, stack, user_data: String::new(), endpoint, secrets: Vec::new() };
        scene.replace_agent();
        let data = scene.stack.boto(
            "client('ec2').describe_launch_template_versions(Versions=['$Latest'], LaunchTemplateId=\
             client('ec2').describe_launch_templates()['LaunchTemplates'][0]['LaunchTemplateId'])\
             ['LaunchTemplateVersions'][0]['LaunchTemplateData']['UserData']",
        );
        let data = BASE64_STANDARD.decode(data.as_str().unwrap()).unwrap();
        let user_data = String::from_utf8(data).unwrap();
        assert!(user_data.contains(&format!("api: {}\n", scene.endpoint)), "{user_data}");
        let secrets = ["AdministratorPassword", "ClusterSecret"].map(|name| {
            let secret = scene.stack.boto(&format!(
                "[client('secretsmanager').get_secret_value(SecretId=s['ARN'])['SecretString'] for s in \
                 client('secretsmanager').list_secrets()['SecretList'] if '{name}' in s['Name']][0]"
            ));
            secret.as_str().unwrap().to_owned()
        });
        Self { user_data, secrets: secrets.into(), ..scene }
    }

    /// The Auto Scaling group of a cluster with this API. Its agents have short intervals.
    fn group<'a>(&'a self, api: &str, servers: &'a Servers) -> Group<'a> {
        let variables = [("INTERVAL", "100ms"), ("SETTLE", "500ms"), ("LEASE", "30s")];
        let template = LaunchTemplate {
            user_data: self.user_data.replace(&self.endpoint, api),
            aws_url: self.stack.url.clone(),
            variables: variables
                .map(|(name, value)| (format!("CBBOOTSTRAP_{name}"), value.to_owned()))
                .into(),
        };
        Group { scene: self, template, servers, launched: Cell::new(0) }
    }

    /// Replaces the stored archive by one with the agent of this machine, which may need a newer C library than Amazon Linux has.
    fn replace_agent(&self) {
        let root = tempfile::tempdir().unwrap();
        let copy = |from: PathBuf, to: &str| {
            let to = root.path().join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        };
        copy(programs::agent(), "usr/local/bin/cbbootstrap-agent");
        let unit = programs::workspace().join("examples/cbbootstrap-agent.service");
        copy(unit, "usr/lib/systemd/system/cbbootstrap-agent.service");
        let archive = root.path().join("agent.tar.gz");
        let mut tar = Command::new("tar");
        tar.args(["--create", "--gzip", "--file"]).arg(&archive);
        assert!(tar.arg("--directory").arg(root.path()).arg("usr").status().unwrap().success());
        let stored = self.stack.boto(&format!(
            "[client('s3').upload_file('{}', b['Name'], o['Key']) for b in client('s3').list_buckets()['Buckets'] \
             for o in client('s3').list_objects_v2(Bucket=b['Name'])['Contents'] if o['Key'].endswith('.tar.gz')]",
            archive.display()
        ));
        assert_eq!(stored, json!([Value::Null]));
    }
}

/// The Availability Zones of the instances, in turn.
const ZONES: [&str; 3] = ["us-east-1a", "us-east-1b", "us-east-1c"];

struct Group<'a> {
    scene: &'a Scene,
    template: LaunchTemplate,
    servers: &'a Servers,
    /// How many instances it has launched.
    launched: Cell<usize>,
}

impl<'a> Group<'a> {
    /// Launches an instance on the next blank server.
    fn launch(&self) -> VirtualMachine<'a> {
        let index = self.launched.replace(self.launched.get() + 1);
        self.scene.host.boot(&self.template, &self.servers.nodes()[index], ZONES[index % 3])
    }

    /// Launches instances at once, and waits until their user data has ended.
    #[track_caller]
    fn launch_all(&self, count: usize) -> Vec<VirtualMachine<'a>> {
        let machines: Vec<_> = (0..count).map(|_| self.launch()).collect();
        machines.iter().for_each(VirtualMachine::wait_until_up);
        machines
    }

    /// Terminates instances at once. Each leaves before its hook is completed; then it ends.
    #[track_caller]
    fn terminate(machines: Vec<VirtualMachine>) {
        for machine in &machines {
            machine.instance.terminate();
        }
        for machine in machines {
            machine.wait_until("the hook is completed", || machine.instance.is_complete());
            assert!(machine.node.is_blank(), "{}", machine.logs());
        }
    }

    /// The rebalances that the cluster has done.
    fn rebalances(&self) -> Vec<Rebalanced> {
        self.servers.clusters().remove(0).rebalances
    }
}

#[track_caller]
fn wait_for_failover(servers: &Servers) {
    wait_until("a node is failed over", || {
        let nodes = servers.clusters().remove(0).nodes;
        nodes.iter().any(|node| node.membership == Membership::InactiveFailed)
    });
}

/// Asserts that the secrets are in their files, which only root can read, and in no other file.
#[track_caller]
fn check_secrets(machine: &VirtualMachine, secrets: &[String]) {
    for (file, secret) in ["password", "secret"].iter().zip(secrets) {
        let file = format!("/etc/cbbootstrap/{file}");
        let stored = machine.run(&format!("cat {file}; stat -c '%a %u' {file}"));
        assert_eq!(stored.stdout, format!("{secret}\n600 0\n"), "{stored}");
        let search = format!("grep -rlaF --no-messages -f {file} /etc /root /tmp /var");
        let files = machine.run(&search);
        assert_eq!(files.stdout, format!("{file}\n"), "{files}");
    }
}

#[track_caller]
fn check_user_data(machine: &VirtualMachine) {
    let calls = machine.log("calls");
    for call in [
        "--unique-id i-0123456789abcdef0 --status SUCCESS",
        "dnf install --assumeyes https://packages.couchbase.com/",
        "sysctl --quiet --load=/etc/sysctl.d/90-couchbase.conf",
    ] {
        assert!(calls.contains(call), "{calls}");
    }
    assert_eq!(calls.matches("mkfs.xfs").count(), 1, "{calls}");
}

/// Asserts that an agent that waits does not hold up the boot, and is stopped before Couchbase Server at a shutdown.
#[track_caller]
fn check_ordering(machine: &VirtualMachine) {
    let show = |property: &str, unit: &str| {
        let show = format!("systemctl show --property={property} --value {unit}");
        machine.run(&show).ended_with(0).stdout
    };
    let unit = "cbbootstrap-agent.service";
    assert!(show("Wants", "multi-user.target").contains(unit));
    let after = show("After", "multi-user.target");
    assert!(!after.contains(unit), "{after}");
    for (property, target) in [
        ("After", "basic.target"),
        ("After", "couchbase-server.service"),
        ("After", "network-online.target"),
        ("Before", "shutdown.target"),
        ("Conflicts", "shutdown.target"),
    ] {
        let targets = show(property, unit);
        assert!(targets.contains(target), "{property}: {targets}");
    }
}

/// The block of `docs/agent.md` that this pattern captures.
fn documented(block: &str) -> String {
    let page = fs::read_to_string(programs::workspace().join("docs/agent.md")).unwrap();
    pattern(block).captures(&page).unwrap()[1].to_owned()
}

/// Runs the documented `leave` on a node that has its name only from `agent.env`.
#[track_caller]
fn leave_by_hand(machine: &VirtualMachine) {
    let command = documented(r"(?s)```sh\nsudo (systemd-run .*?)```");
    // systemd-run waits with the help of D-Bus, which the instance does not have.
    let waits = "--wait --pipe --collect";
    assert!(command.contains(waits), "{command}");
    let command = command.replace(waits, "--unit=leave --remain-after-exit");
    let name = machine.node.address();
    let script = format!(
        "echo CBBOOTSTRAP_NODE={name} >>/etc/cbbootstrap/agent.env
        systemctl set-environment CBBOOTSTRAP_NODE=other.example.com
        {command}"
    );
    machine.run(&script).ended_with(0);
    let substate = "systemctl show --property=SubState --value leave";
    machine.wait_until("the node has left", || machine.run(substate).stdout.trim() != "running");
    let journal = machine.run("journalctl --unit leave --output cat --no-pager");
    assert!(journal.stdout.contains(&format!("`{name}` has left")), "{journal}");
    assert!(machine.node.is_blank());
}

/// Asserts that the agent starts without the cluster secret with the documented drop-in.
#[track_caller]
fn check_drop_in(machine: &VirtualMachine) {
    let directory = "/etc/systemd/system/cbbootstrap-agent.service.d";
    let script = format!(
        "mkdir {directory}
        cat >{directory}/no-secret.conf <<'END'\n{}END
        rm /etc/cbbootstrap/secret
        systemctl daemon-reload
        systemctl restart --no-block cbbootstrap-agent",
        documented(r"(?s)```ini\n(.*?)```")
    );
    machine.run(&script).ended_with(0);
    // It asks the API, which knows the cluster token.
    machine.wait_until("the API refuses the agent", || {
        machine.logs().contains("give all nodes the same secret")
    });
}

#[test]
fn instances_become_one_cluster_and_shrink() {
    let Some(scene) = Scene::share() else { return };
    let api = Api::start();
    // With the certificates that Couchbase Server makes itself.
    let servers = Servers::start_generated(5);
    let group = scene.group(&api.local.endpoint, &servers);
    let mut machines = group.launch_all(3);
    for machine in &machines {
        check_secrets(machine, &scene.secrets);
        check_user_data(machine);
    }
    let cluster = one_cluster(&servers, 3);
    for node in &cluster.nodes {
        assert_eq!(
            (&node.group[..], &node.services[..]),
            (ZONES[node.index], &["kv".to_owned()][..])
        );
    }

    machines.extend(group.launch_all(2));
    wait_for_cluster(&servers, 5);
    let before = group.rebalances();

    Group::terminate(machines.split_off(3));
    wait_for_cluster(&servers, 3);
    let removed = group.rebalances().split_off(before.len());
    assert_eq!(removed.iter().map(|rebalance| rebalance.removed).sum::<usize>(), 2, "{removed:?}");
    assert!(removed.iter().all(|rebalance| rebalance.removed > 0), "{removed:?}");

    leave_by_hand(&machines[0]);
    wait_for_cluster(&servers, 2);
    assert!(servers.wiped().is_empty());
    check_drop_in(&machines[0]);
}

/// Couchbase Server fails the node of a dead instance over, and the rebalance of the next instance removes it.
#[test]
#[ignore = "takes one and a half minutes"]
fn a_dead_instance_is_replaced() {
    let Some(scene) = Scene::share() else { return };
    let api = Api::start();
    let servers = Servers::start_generated(4);
    let group = scene.group(&api.local.endpoint, &servers);
    let mut machines = group.launch_all(3);
    wait_for_cluster(&servers, 3);
    servers.auto_failover_after(Duration::from_secs(1));
    machines.pop();
    wait_for_failover(&servers);
    machines.extend(group.launch_all(1));
    wait_for_cluster(&servers, 3);
    assert!(servers.wiped().is_empty());
}

#[test]
#[ignore = "takes two minutes"]
fn spot_interruption_reboot_and_rolling_update_keep_the_cluster() {
    let Some(scene) = Scene::share() else { return };
    let api = Api::start();
    let servers = Servers::start_generated(7);
    let group = scene.group(&api.local.endpoint, &servers);
    let mut machines = group.launch_all(3);

    // AWS announces it two minutes ahead, and the data may take longer to move.
    let interrupted = machines.remove(0);
    let end = Timestamp::now() + Duration::from_mins(2);
    let action = json!({"action": "terminate", "time": end.to_string()}).to_string();
    interrupted.instance.set("spot/instance-action", &action);
    wait_for_failover(&servers);
    assert_eq!(servers.count("/controller/failOver"), 0);
    drop(interrupted);
    machines.extend(group.launch_all(1));
    wait_for_cluster(&servers, 3);

    let rebalances = group.rebalances();
    let rebooted = &machines[0];
    rebooted.reboot();
    rebooted.wait_until_ready();
    check_ordering(rebooted);
    one_cluster(&servers, 3);
    assert_eq!(group.rebalances(), rebalances);
    // The user data has not run again.
    check_user_data(rebooted);

    // As an update of the stack does it: a new instance joins, then an old one leaves.
    let before = rebalances.len();
    let mut new = Vec::new();
    for old in machines {
        new.extend(group.launch_all(1));
        wait_for_cluster(&servers, 4);
        Group::terminate(vec![old]);
        wait_for_cluster(&servers, 3);
    }
    assert!(servers.wiped().is_empty());
    let rebalances = group.rebalances().split_off(before);
    let expected = [(1, 0), (0, 1)].repeat(3);
    let rebalances = rebalances.iter().map(|rebalance| (rebalance.added, rebalance.removed));
    assert_eq!(rebalances.collect::<Vec<_>>(), expected);
}

/// How long the API is away, in place of an hour: longer than a member waits to ask again, and than a server that has rebooted is not
/// trusted, which is a minute each. A new node asks as often as in 20 minutes at the default interval. The five minutes for which a node
/// that has left waits for the API do not pass.
const OUTAGE: Duration = Duration::from_secs(65);

#[test]
#[ignore = "takes two minutes"]
fn nodes_become_one_cluster_after_long_outage_of_api() {
    let Some(scene) = Scene::share() else { return };
    let api = Api::start();
    let proxy = Proxy::before(&api.local.endpoint);
    let servers = Servers::start_generated(5);
    let group = scene.group(&proxy.url, &servers);
    let mut machines = group.launch_all(3);

    proxy.fault(|_| Some(Fault::DropRequest));
    let since = Instant::now();
    let new = [group.launch(), group.launch()];
    let leaving = machines.remove(0);
    leaving.instance.terminate();
    leaving.wait_until("the node has left", || leaving.node.is_blank());
    wait_for_cluster(&servers, 2);
    machines[0].reboot();
    machines[0].wait_until_ready();
    for machine in &new {
        machine.wait_for_status("does not answer");
    }
    wait_until("the outage is over", || since.elapsed() > OUTAGE);
    one_cluster(&servers, 2);
    assert!(new.iter().all(|machine| machine.node.is_blank()));

    proxy.fault(|_| None);
    new.iter().for_each(VirtualMachine::wait_until_up);
    wait_for_cluster(&servers, 4);
    Group::terminate(vec![leaving]);
    assert!(servers.wiped().is_empty());
}
