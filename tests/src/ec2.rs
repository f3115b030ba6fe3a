//! EC2 instances as Docker containers of Debian's packages, with systemd as their first process. At their first boot they run their
//! user data, as cloud-init does. They share the network of this test.
//!
//! systemd, its journal and the agent's unit with its sandbox are real, and the AWS CLI calls a stand-in for AWS. What would change this
//! machine (disks, kernel settings) and packages are stand-ins, as is Couchbase Server, whose service switches a [`Node`] on and off.

use std::{
    fs, iter,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    cli::Ended, couchbase::Node, debian, docker::Machine, instance::Instance, programs, python,
    server::Server,
};

const IMAGE: &str = "debian:instance";

/// For a boot or a rebalance on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(5);

/// systemd passes files to services by mounts that it makes in another namespace.
const INIT: &str = "/usr/bin/mount --make-rshared / && exec /usr/lib/systemd/systemd";

/// Without them, systemd refuses the first version of control groups.
const FIRST_CONTROL_GROUPS: &str =
    "SYSTEMD_PROC_CMDLINE=systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1";

/// What cloud-init does with user data that is a script. The device is the data volume.
const CLOUD_INIT: &str = r#"#!/bin/sh
touch /dev/sdf
[ -e /var/lib/cloud/has-run ] && exit
touch /var/lib/cloud/has-run
/var/lib/cloud/user-data >/var/log/cloud-init-output.log 2>&1
echo "$?" >/var/log/status.new
mv /var/log/status.new /var/log/status
"#;

const CLOUD_INIT_UNIT: &str = "[Unit]
Wants=network-online.target
After=network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutSec=0
KillMode=process
ExecStart=/usr/local/bin/cloud-init
";

/// The server is on as long as this process is connected.
const SERVER: &str = "#!/usr/bin/env python3
import os, socket
connection = socket.create_connection(os.environ['COUCHBASE_POWER'].split(':'))
while connection.recv(1):
    pass
";

const SERVER_UNIT: &str = "[Unit]
After=network.target
[Service]
ExecStart=/opt/couchbase/bin/couchbase-server
Restart=on-failure
[Install]
WantedBy=multi-user.target
";

/// Programs that would change this machine, or whose AWS service has no stand-in. Each call is logged. The AWS CLI takes half a second of a
/// processor to read a secret, so instances share what they have read.
const STAND_INS: [(&str, &str); 8] = [
    ("mountpoint", "[ -e /run/is-mounted ]"),
    ("mount", "touch /run/is-mounted"),
    ("blkid", "case \"$*\" in *UUID*) echo 0000-1111 ;; *) [ -e /var/has-file-system ] ;; esac"),
    ("mkfs.xfs", "touch /var/has-file-system"),
    (
        "dnf",
        "install -D /usr/share/couchbase/couchbase-server -t /opt/couchbase/bin\n\
         install -D -m 644 /usr/share/couchbase/couchbase-server.service -t /usr/lib/systemd/system\n\
         systemctl daemon-reload",
    ),
    ("sysctl", ""),
    ("systemd-tmpfiles", ""),
    (
        "aws",
        "case \"$*\" in *signal-resource*) exit ;; esac\n\
         unset AWS_ENDPOINT_URL_AUTO_SCALING\n\
         export PYTHONPATH=/opt/aws-cli PYTHONPYCACHEPREFIX=/var/cache/python\n\
         export AWS_ENDPOINT_URL=\"$INSTANCE_AWS_URL\" AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test\n\
         case \"$*\" in *get-secret-value*) ;; *) exec python3 -m awscli \"$@\" ;; esac\n\
         answer=/opt/aws-answers/$(echo \"$*\" | md5sum | cut -d ' ' -f 1)\n\
         [ -e \"$answer\" ] || { new=$(mktemp -p \"${answer%/*}\") && python3 -m awscli \"$@\" >\"$new\" && mv \"$new\" \"$answer\"; } || exit\n\
         cat \"$answer\"",
    ),
];

/// Units that have nothing to do in a container.
const MASKED: [&str; 4] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "systemd-logind.service",
];

/// A machine for instances.
#[derive(Debug)]
pub struct Host {
    docker: Machine,
    /// Declared after the machine, which writes there.
    _directory: TempDir,
}

/// What instances are launched with.
#[derive(Debug)]
pub struct LaunchTemplate {
    pub user_data: String,
    /// The URL of AWS's stand-in.
    pub aws_url: String,
    /// For all services of an instance.
    pub variables: Vec<(String, String)>,
}

/// A running instance, which ends when this is dropped.
pub struct VirtualMachine<'a> {
    pub node: &'a Node,
    /// Its metadata service and its Auto Scaling group.
    pub instance: Instance,
    docker: &'a Machine,
    name: String,
    directory: TempDir,
    _power: Server,
}

impl Host {
    /// Starts one. The error names what is missing.
    pub fn start() -> Result<Self, String> {
        let archive = debian::with_systemd()?;
        let directory = tempfile::tempdir().expect("temporary directories can be made");
        let docker = Machine::on_this_network(directory.path())?;
        docker.docker(&["import", &archive.display().to_string(), IMAGE]);
        Ok(Self { docker, _directory: directory })
    }

    /// Boots a new instance in this Availability Zone. Its server is a blank node.
    pub fn boot<'a>(
        &'a self,
        template: &LaunchTemplate,
        node: &'a Node,
        zone: &str,
    ) -> VirtualMachine<'a> {
        let instance = Instance::start();
        instance.set("placement/availability-zone", zone);
        node.kill();
        let switched = node.clone();
        let power = Server::start(move |socket| switch(socket, switched));
        let directory = tempfile::tempdir().expect("temporary directories can be made");
        let (power_address, url, address) =
            (power.url.trim_start_matches("http://"), node.url(), node.address());
        let variables: Vec<_> = template
            .variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .chain(instance.variables())
            .chain([
                ("INSTANCE_AWS_URL", template.aws_url.as_str()),
                ("COUCHBASE_POWER", power_address),
                ("CBBOOTSTRAP_SERVER", &url),
                ("CBBOOTSTRAP_NODE", &address),
            ])
            .collect();
        write_root(&directory.path().join("root"), &template.user_data, &variables);
        fs::create_dir(directory.path().join("log")).expect("the directory can be written");
        let name = format!("node-{}", node.address());
        let docker = &self.docker;
        let vm = VirtualMachine { node, instance, docker, name, directory, _power: power };
        vm.create();
        vm
    }
}

/// Switches a node on while a client is connected.
async fn switch(socket: TcpListener, node: Node) {
    while let Ok((mut service, _)) = socket.accept().await {
        node.restart();
        let _ = service.write_all(b"on").await;
        let _ = service.read(&mut [0]).await;
        node.kill();
    }
}

/// Writes what an instance has beside Debian's files.
fn write_root(root: &Path, user_data: &str, variables: &[(&str, &str)]) {
    let script = |path: PathBuf, text: &str| {
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("it can be made");
        programs::write_script(&path, text);
    };
    let programs = root.join("usr/local/bin");
    for (name, body) in STAND_INS {
        let log = format!("echo \"{name} $*\" >>/var/log/calls");
        script(programs.join(name), &format!("#!/bin/sh\n{log}\n{body}\n"));
    }
    script(programs.join("cloud-init"), CLOUD_INIT);
    script(root.join("var/lib/cloud/user-data"), user_data);
    script(root.join("usr/share/couchbase/couchbase-server"), SERVER);
    script(root.join("usr/share/couchbase/couchbase-server.service"), SERVER_UNIT);
    let units = root.join("etc/systemd/system");
    script(units.join("cloud-final.service"), CLOUD_INIT_UNIT);
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir(&wanted).expect("the directory can be written");
    symlink("../cloud-final.service", wanted.join("cloud-final.service"))
        .expect("it can be linked");
    for unit in MASKED {
        symlink("/dev/null", units.join(unit)).expect("it can be linked");
    }
    let variables = variables.iter().map(|(name, value)| format!(" \"{name}={value}\""));
    let manager = format!("[Manager]\nDefaultEnvironment={}\n", variables.collect::<String>());
    script(root.join("etc/systemd/system.conf.d/instance.conf"), &manager);
}

impl VirtualMachine<'_> {
    fn create(&self) {
        let packages = python::packages();
        // Compiling the AWS CLI takes seconds on each instance, and once for all.
        let python_cache = programs::target().join("python-on-instances");
        fs::create_dir_all(&python_cache).expect("the target directory can be written");
        let log = self.directory.path().join("log");
        let answers = self.docker.home().join("aws");
        fs::create_dir_all(&answers).expect("temporary directories can be written");
        let mounts = [
            (&*answers, "/opt/aws-answers"),
            (Path::new("/sys/fs/cgroup"), "/sys/fs/cgroup"),
            (&log, "/var/log"),
            (&packages, "/opt/aws-cli:ro"),
            (&python_cache, "/var/cache/python"),
        ];
        let mounts = mounts.map(|(from, to)| format!("--volume={}:{to}", from.display()));
        let is_first = !Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let variables =
            iter::once("container=docker").chain(is_first.then_some(FIRST_CONTROL_GROUPS));
        let options = ["--network=host", "--cgroupns=host", "--stop-signal=RTMIN+3"]
            .into_iter()
            .chain(["--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"])
            .chain(["--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--cap-add=SYS_PTRACE"])
            .map(str::to_owned)
            .chain(variables.map(|variable| format!("--env={variable}")))
            .chain(mounts);
        let create = ["create", "--name", &self.name].map(str::to_owned).into_iter();
        let init = [IMAGE, "/bin/sh", "-c", INIT].map(str::to_owned);
        self.docker.docker(&create.chain(options).chain(init).collect::<Vec<_>>());
        let root = self.directory.path().join("root/.").display().to_string();
        self.docker.docker(&["cp", &root, &format!("{}:/", self.name)]);
        self.docker.docker(&["start", &self.name]);
    }

    /// Runs a shell script on it.
    pub fn run(&self, script: &str) -> Ended {
        self.docker.try_docker(&["exec", &self.name, "sh", "-c", script])
    }

    /// A file in `/var/log`.
    pub fn log(&self, file: &str) -> String {
        fs::read_to_string(self.directory.path().join("log").join(file)).unwrap_or_default()
    }

    /// The output of the user data, and the agent's journal.
    pub fn logs(&self) -> String {
        let journal = self.run("journalctl --unit cbbootstrap-agent --output cat --no-pager");
        format!("{}\n{}", self.log("cloud-init-output.log"), journal.stdout)
    }

    #[track_caller]
    pub fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let since = Instant::now();
        while !holds() {
            let logs = || self.logs();
            assert!(since.elapsed() < PATIENCE, "timed out waiting until {what}: {}", logs());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the user data has ended successfully.
    #[track_caller]
    pub fn wait_until_up(&self) {
        self.wait_until("the user data ends", || !self.log("status").is_empty());
        assert_eq!(self.log("status"), "0\n", "{}", self.logs());
    }

    /// Waits until the agent has reported to systemd that the node is a member.
    #[track_caller]
    pub fn wait_until_ready(&self) {
        self.wait_for("systemctl --quiet is-active cbbootstrap-agent");
    }

    /// Waits until the agent's status, as `systemctl status` shows it, contains this text.
    #[track_caller]
    pub fn wait_for_status(&self, text: &str) {
        let status = "systemctl show --property StatusText --value cbbootstrap-agent";
        self.wait_for(&format!("{status} | grep -q '{text}'"));
    }

    /// Waits until a shell command on the instance succeeds. One call of Docker costs more than many on the instance.
    #[track_caller]
    fn wait_for(&self, command: &str) {
        let limit = PATIENCE.as_secs();
        let waited = self
            .run(&format!("for i in $(seq {limit}); do {command} && exit; sleep 1; done; exit 1"));
        assert_eq!(waited.status, Some(0), "{waited}\n{}", self.logs());
    }

    /// Shuts its system down, and boots it again.
    pub fn reboot(&self) {
        self.docker.docker(&["restart", "-t", "60", &self.name]);
    }
}

impl Drop for VirtualMachine<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- logs of {}\n{}", self.name, self.logs());
        }
        self.docker.try_docker(&["rm", "--force", "--volumes", &self.name]);
        self.node.kill();
    }
}
