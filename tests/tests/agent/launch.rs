//! The user data of `templates/couchbase-cluster.yaml`, as `cbbootstrap launch` deploys it to MiniStack. Each instance is a shell in a
//! mount namespace, with the Couchbase stand-in as its server. What changes the host (packages, disks, systemd) is a stand-in.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use cbbootstrap_tests::{
    agent::{Agents, Api, one_cluster, wait_for_cluster},
    artifact,
    cli::User,
    couchbase::{Node, Servers},
    instance::Instance,
    ministack::MiniStack,
    process::Guard,
    programs, python,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// For a rebalance on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(5);

/// Gives the instance its own `/etc`, `/opt` and `/usr/local/bin`, and runs the user data in `$HOME`.
const BOOT: &str = r#"
set -e
cp -a /etc "$HOME/etc"
mkdir -p "$HOME/opt" "$HOME/bin" "$HOME/systemd" /usr/lib/systemd/system
for pair in etc:/etc opt:/opt bin:/usr/local/bin systemd:/usr/lib/systemd/system; do
    # Not the stand-in.
    /bin/mount --bind "$HOME/${pair%%:*}" "${pair#*:}"
    [ "${pair#*:}" -ef "$HOME/${pair%%:*}" ]
done
mkdir -p /etc/sysctl.d /etc/tmpfiles.d
touch /etc/fstab "$HOME/dev-sdf"
status=0
bash "$HOME/user-data" >"$HOME/log" 2>&1 || status=$?
echo "$status" >"$HOME/status.new"
mv "$HOME/status.new" "$HOME/status"
exec sleep infinity
"#;

/// The programs that would change the host. Each call is logged.
const STAND_INS: [(&str, &str); 9] = [
    ("mountpoint", "[ -e \"$HOME/is-mounted\" ]"),
    ("mount", "touch \"$HOME/is-mounted\""),
    ("blkid", "case \"$*\" in *UUID*) echo 0000-1111 ;; *) [ -e \"$HOME/has-fs\" ] ;; esac"),
    ("mkfs.xfs", "touch \"$HOME/has-fs\""),
    ("dnf", "mkdir -p /opt/couchbase/bin && cp /bin/true /opt/couchbase/bin/couchbase-server"),
    ("sysctl", ""),
    ("systemd-tmpfiles", ""),
    ("journalctl", "cat \"$HOME/agent-log\""),
    (
        "aws",
        "case \"$*\" in *signal-resource*) exit 0 ;; esac\nunset AWS_ENDPOINT_URL_AUTO_SCALING\nexec \"$AWS_CLI\" \"$@\"",
    ),
];

/// systemd for the agent's unit: it starts the command with the unit's environment and credentials, and knows `Type=notify`.
const SYSTEMCTL: &str = r#"#!/usr/bin/env python3
import os, shlex, socket, subprocess, sys
home, words = os.environ["HOME"], [word for word in sys.argv[1:] if not word.startswith("--")]
marker = os.path.join(home, "is-active")
if words[0] == "is-active":
    sys.exit(0 if os.path.exists(marker) else 3)
if words != ["start", "cbbootstrap-agent"]:
    sys.exit(1 if words[0] == "is-failed" else 0)
environment, command, is_notify = dict(os.environ), None, False
# The AWS CLI's here; the agent has those of the instance's role.
del environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
for line in open("/usr/lib/systemd/system/cbbootstrap-agent.service"):
    key, _, value = line.strip().partition("=")
    if key == "Environment":
        name, _, value = value.partition("=")
        environment[name] = value.replace("%d", "/etc/cbbootstrap")
    elif key == "EnvironmentFile":
        for setting in open(value.lstrip("-")):
            name, _, value = setting.strip().partition("=")
            environment[name] = value
    elif key == "ExecStart":
        command = shlex.split(value)
    elif (key, value) == ("Type", "notify") or (key, value) == ("Type", "notify-reload"):
        is_notify = True
log = open(os.path.join(home, "agent-log"), "w")
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
environment["NOTIFY_SOCKET"] = os.path.join(home, "notify")
notify.bind(environment["NOTIFY_SOCKET"])
agent = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
notify.settimeout(0.2)
while agent.poll() is None:
    try:
        if is_notify and b"READY=1" in notify.recv(4096).split(b"\n"):
            break
    except TimeoutError:
        pass
if agent.poll() not in (None, 0):
    sys.exit(1)
open(marker, "w").close()
"#;

/// An instance of the group.
struct Machine<'a> {
    node: &'a Node,
    instance: Instance,
    home: TempDir,
    _guard: Guard,
}

impl<'a> Machine<'a> {
    fn boot(user: &User, user_data: &str, node: &'a Node, zone: &str) -> Self {
        let instance = Instance::start();
        instance.set("placement/availability-zone", zone);
        let home = tempfile::tempdir().unwrap();
        let programs = home.path().join("programs");
        fs::create_dir(&programs).unwrap();
        for (name, body) in STAND_INS {
            let log = format!("echo \"{name} $*\" >>\"$HOME/calls\"");
            executable(&programs.join(name), &format!("#!/bin/sh\n{log}\n{body}\n"));
        }
        executable(&programs.join("systemctl"), SYSTEMCTL);
        // The data volume of this machine.
        let device = home.path().join("dev-sdf").display().to_string();
        let user_data = user_data.replace("/dev/sdf", &device);
        fs::write(home.path().join("user-data"), user_data).unwrap();
        let args = ["--mount", "--propagation", "private", "bash", "-c", BOOT];
        let mut command = user.leashed(Path::new("unshare"), &args);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", programs.display());
        command
            .env("PATH", path)
            .env("HOME", home.path())
            .env("AWS_CLI", python::bin().join("aws"))
            .env("CBBOOTSTRAP_SERVER", node.url())
            .env("CBBOOTSTRAP_NODE", node.address())
            .envs(instance.variables());
        let guard = Guard(command.spawn().unwrap());
        Self { node, instance, home, _guard: guard }
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.home.path().join(file)).unwrap_or_default()
    }

    #[track_caller]
    fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let since = Instant::now();
        while !holds() {
            let logs = || format!("{}\n{}", self.read("log"), self.read("agent-log"));
            assert!(since.elapsed() < PATIENCE, "timed out waiting until {what}: {}", logs());
            sleep(Duration::from_millis(100));
        }
    }

    /// Waits for the end of the user data.
    #[track_caller]
    fn wait(&self) {
        self.wait_until("the user data ends", || self.home.path().join("status").exists());
        let logs = || format!("{}\n{}", self.read("log"), self.read("agent-log"));
        assert_eq!(self.read("status"), "0\n", "{}", logs());
    }

    /// Asserts that the secrets are in files of root alone, and nowhere else.
    fn check_secrets(&self, secrets: &[String]) {
        for (file, secret) in ["password", "secret"].iter().zip(secrets) {
            let path = self.home.path().join("etc/cbbootstrap").join(file);
            assert_eq!(fs::read_to_string(&path).unwrap().trim_end(), secret);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            for shown in ["log", "agent-log", "calls", "etc/cbbootstrap/agent.yaml"] {
                assert!(!self.read(shown).contains(secret), "{shown}");
            }
        }
    }
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A deployed cluster's stack, whose archive contains the built agent.
struct Launched {
    stack: MiniStack,
    /// The stack's user data, for the agents' own API.
    user_data: String,
    secrets: Vec<String>,
}

impl Launched {
    fn new(api: &Api) -> Self {
        let stack = MiniStack::start();
        let user = stack.user();
        user.deploy(artifact::small_zip(), &[]).ended_with(0);
        let status = user.run(&["status", "--output", "json"]).document();
        let archive = user.home.path().join("agent.tar.gz");
        artifact::small_agent(&archive);
        let archive = archive.display().to_string();
        let launch = ["launch", "c1", "--vpc=vpc-1", "--subnet=subnet-1", "--agent", &archive];
        let options = ["--parameter", "Buckets=app:256:1", "--parameter", "Services=data"];
        user.run(&[&launch[..], &options, &["--output", "json"]].concat()).document();
        let launched = Self { user_data: String::new(), secrets: Vec::new(), stack };
        launched.replace_agent();
        let data = launched.stack.boto(
            "client('ec2').describe_launch_template_versions(Versions=['$Latest'], LaunchTemplateId=\
             client('ec2').describe_launch_templates()['LaunchTemplates'][0]['LaunchTemplateId'])\
             ['LaunchTemplateVersions'][0]['LaunchTemplateData']['UserData']",
        );
        let data = BASE64_STANDARD.decode(data.as_str().unwrap()).unwrap();
        let data = String::from_utf8(data).unwrap();
        let endpoint = status["endpoint"].as_str().unwrap();
        assert!(data.contains(&format!("api: {endpoint}\n")), "{data}");
        let secrets = ["AdministratorPassword", "ClusterSecret"].map(|name| {
            let secret = launched.stack.boto(&format!(
                "[client('secretsmanager').get_secret_value(SecretId=s['ARN'])['SecretString'] for s in \
                 client('secretsmanager').list_secrets()['SecretList'] if '{name}' in s['Name']][0]"
            ));
            secret.as_str().unwrap().to_owned()
        });
        let user_data = data.replace(endpoint, &api.local.endpoint);
        Self { user_data, secrets: secrets.into(), ..launched }
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

#[test]
fn instances_become_one_cluster_shrink_and_are_replaced() {
    let unshare = Command::new("unshare").args(["--mount", "true"]).output();
    if !unshare.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this user may not make namespaces");
        return;
    }
    let api = Api::start();
    let launched = Launched::new(&api);
    // With the certificates that Couchbase Server makes itself.
    let servers = Servers::start_generated(6);
    let user = Agents::new(&api.local.endpoint, "c1", &servers)
        .user
        .without("CB_REST_PASSWORD")
        .without("CBBOOTSTRAP_CA_CERT")
        .without("CBBOOTSTRAP_API")
        .without("CBBOOTSTRAP_CLUSTER_ID")
        .with("AWS_ENDPOINT_URL", &launched.stack.url)
        .with("AWS_ACCESS_KEY_ID", "test")
        .with("AWS_SECRET_ACCESS_KEY", "test");
    let zones =
        ["us-east-1a", "us-east-1b", "us-east-1c", "us-east-1a", "us-east-1b", "us-east-1c"];
    let boot =
        |index: usize| Machine::boot(&user, &launched.user_data, &servers[index], zones[index]);
    let mut machines: Vec<_> = (0..3).map(boot).collect();
    for machine in &machines {
        machine.wait();
        machine.check_secrets(&launched.secrets);
        let calls = machine.read("calls");
        assert!(calls.contains("--unique-id i-0123456789abcdef0 --status SUCCESS"), "{calls}");
        assert!(
            calls.contains("dnf install --assumeyes https://packages.couchbase.com/"),
            "{calls}"
        );
        assert_eq!(calls.matches("mkfs.xfs").count(), 1, "{calls}");
    }
    let cluster = one_cluster(&servers, 3);
    for node in &cluster.nodes {
        assert_eq!(
            (&node.group[..], &node.services[..]),
            (zones[node.index], &["kv".to_owned()][..])
        );
    }

    machines.extend((3..5).map(boot));
    machines.iter().for_each(Machine::wait);
    wait_for_cluster(&servers, 5);

    // The group terminates two instances: each leaves before its hook is completed.
    for machine in &machines[3..] {
        machine.instance.terminate();
    }
    for machine in &machines[3..] {
        machine.wait_until("the hook is completed", || machine.instance.is_complete());
        assert!(machine.node.is_blank(), "{}", machine.read("agent-log"));
    }
    wait_for_cluster(&servers, 3);

    // An instance dies, and Couchbase Server fails its node over. The new instance's rebalance removes it.
    let dead = machines.remove(2);
    dead.node.kill();
    let (otp_node, password) = (format!("ns_1@{}", dead.node.address()), &launched.secrets[0]);
    drop(dead);
    let login = Some(("Administrator", password.as_str()));
    let form = [("otpNode", otp_node.as_str())];
    let failed_over = servers[0].call("POST", "/controller/failOver", &form, login).unwrap();
    assert_eq!(failed_over.status, 200, "{failed_over:?}");
    machines.push(boot(5));
    machines.last().unwrap().wait();
    wait_for_cluster(&servers, 3);
    assert!(servers.wiped().is_empty());
}
