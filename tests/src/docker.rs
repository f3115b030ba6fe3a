//! Machines with Docker: each is a daemon in its own namespaces, so its networks, mounts and processes are invisible outside and
//! end with it.
//!
//! The daemon is the system's. No image is pulled: mmdebstrap creates the base image, under the tag that the Dockerfile uses.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    cli::{Ended, User},
    debian, process, programs,
};

const BASE: &str = "debian:stable-slim";

/// The tag of the stand-in's image.
pub const COUCHBASE: &str = "couchbase:enterprise-7.6.8";

/// How long a daemon may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A bridge that connects the machines. It ends when this process closes the pipe.
const SWITCH: &str =
    "ip link add bridge type bridge && ip link set bridge up && echo up && read -r end";

/// Connects a machine to the bridge, if there is one, and becomes its daemon, the first process of its namespace. Without a bridge, the
/// daemon changes nothing of the network.
const MACHINE: &str = r#"
set -e
if [ "$SWITCH" ]; then
    ip link add eth0 type veth peer name "$NAME" netns "$SWITCH"
    ip address add "$ADDRESS/24" dev eth0
    ip link set lo up
    ip link set eth0 up
    nsenter --target "$SWITCH" --net ip link set "$NAME" master bridge up
else
    set -- --bridge none --iptables=false --ip-forward=false
fi
hostname "$NAME"
mount -t tmpfs tmpfs /run
exec unshare --pid --fork --kill-child --mount-proc dockerd "$@" --data-root "$HOME/data" --exec-root "$HOME/exec" \
    --pidfile "$HOME/pid" --host "unix://$HOME/socket" --cgroup-parent "$CGROUP" --dns-opt timeout:1 --dns-opt attempts:1
"#;

/// The files from which the stand-in's image is built. The first process of a container ignores `SIGTERM` unless it has a handler.
const STANDIN: [(&str, &str); 2] = [
    (
        "Dockerfile",
        "FROM debian:stable-slim\n\
         COPY couchbase-standin /usr/local/bin/\n\
         COPY entrypoint.sh /\n\
         RUN mkdir --parents /opt/couchbase/var\n\
         VOLUME /opt/couchbase/var\n\
         ENTRYPOINT [\"/entrypoint.sh\"]\n\
         CMD [\"couchbase-server\"]\n",
    ),
    ("entrypoint.sh", "#!/bin/sh\ntrap 'exit 0' TERM\ncouchbase-standin \"$@\" &\nwait $!\n"),
];

/// Machines on one network.
#[derive(Debug)]
pub struct Machines {
    list: Vec<Machine>,
    switch: Child,
    directory: TempDir,
}

#[derive(Debug)]
pub struct Machine {
    pub name: String,
    /// In the machines' network.
    pub address: String,
    /// A user of the machine's daemon.
    pub user: User,
    home: PathBuf,
    cgroup: String,
    daemon: Child,
    _starter: mpsc::Sender<()>,
}

impl Machines {
    /// Starts machines and builds the images of the Dockerfile and of the stand-in on each. The error names what is missing.
    pub fn start(count: usize) -> Result<Self, String> {
        needs()?;
        let base = debian::file_system("debian-stable-slim", "ca-certificates")?;
        let directory = tempfile::tempdir().expect("temporary directories can be made");
        let switch = switch()?;
        let mut machines = Self { list: Vec::new(), switch, directory };
        for number in 1..=count {
            let (switch, home) = (machines.switch.id(), machines.directory.path());
            machines.list.push(Machine::start(number, home, Some(switch))?);
        }
        for machine in &machines.list {
            machine.wait_until_up()?;
        }
        let context = Contexts::new();
        thread::scope(|scope| {
            for machine in &machines.list {
                scope.spawn(|| {
                    machine.docker(&["import", &base.display().to_string(), BASE]);
                    context.build_on(machine);
                });
            }
        });
        Ok(machines)
    }

    pub fn all(&self) -> &[Machine] {
        &self.list
    }
}

impl Machine {
    /// Starts a machine whose containers use the network of this test, with its files in this directory. The error names what is
    /// missing.
    pub fn on_this_network(directory: &Path) -> Result<Self, String> {
        needs()?;
        let machine = Self::start(0, directory, None)?;
        machine.wait_until_up()?;
        Ok(machine)
    }

    fn start(number: usize, directory: &Path, switch: Option<u32>) -> Result<Self, String> {
        let name = format!("machine-{number}");
        let home = directory.join(&name);
        fs::create_dir(&home).expect("temporary directories can be written");
        let address = format!("10.99.0.{number}");
        let unique = directory.file_name().unwrap_or_default().display();
        let cgroup = format!("/cbbootstrap-tests{unique}-{name}");
        let log = File::create(home.join("log")).expect("temporary directories can be written");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--uts", "--mount"]);
        if switch.is_some() {
            command.arg("--net");
        }
        command
            .args(["sh", "-c", MACHINE, "sh"])
            .env("NAME", &name)
            .env("HOME", &home)
            .env("ADDRESS", &address)
            .env("SWITCH", switch.map_or_else(String::new, |switch| switch.to_string()))
            .env("CGROUP", &cgroup)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("files can be shared"))
            .stderr(log);
        let (daemon, starter) = spawn(command).map_err(|error| format!("setpriv: {error}"))?;
        let socket = format!("unix://{}", home.join("socket").display());
        // The classic builder needs no plugin and does not pull images that exist.
        let user = User::default().with("DOCKER_HOST", socket).with("DOCKER_BUILDKIT", "0");
        Ok(Self { name, address, user, home, cgroup, daemon, _starter: starter })
    }

    fn wait_until_up(&self) -> Result<(), String> {
        let since = Instant::now();
        while UnixStream::connect(self.home.join("socket")).is_err() {
            let has_ended = !process::is_alive(self.daemon.id());
            if has_ended || since.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it wrote nothing");
                return Err(format!("dockerd does not run here: {last}"));
            }
            thread::sleep(Duration::from_millis(100));
        }
        self.docker(&["version"]);
        Ok(())
    }

    /// The directory of its files.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Runs `docker` with these arguments.
    pub fn try_docker<A: AsRef<OsStr>>(&self, args: &[A]) -> Ended {
        Ended::of(&mut self.user.program(Path::new("docker"), args))
    }

    /// The trimmed output of `docker` with these arguments.
    #[track_caller]
    pub fn docker<A: AsRef<OsStr>>(&self, args: &[A]) -> String {
        self.try_docker(args).ended_with(0).stdout.trim().to_owned()
    }

    /// Docker Compose, as a plugin or as a program.
    pub fn compose(&self) -> Command {
        if self.try_docker(&["compose", "version"]).status == Some(0) {
            self.user.program(Path::new("docker"), &["compose"])
        } else {
            self.user.program::<&str>(Path::new("docker-compose"), &[])
        }
    }

    /// The running containers that match a filter of `docker ps`.
    pub fn containers(&self, filter: &str) -> Vec<String> {
        let ids = self.docker(&["ps", "--quiet", "--no-trunc", "--filter", filter]);
        ids.lines().map(str::to_owned).collect()
    }

    /// Kills a container's processes from outside of Docker, which therefore restarts it.
    pub fn crash(&self, container: &str) {
        let first = self.docker(&["inspect", "--format", "{{.State.Pid}}", container]);
        let [daemon] = process::children(self.daemon.id())[..] else {
            panic!("{} has no daemon", self.name);
        };
        let killed = Command::new("nsenter")
            .args(["--pid", "--mount", "--target", &daemon.to_string()])
            .args(["kill", "-KILL", &first])
            .status();
        assert!(killed.is_ok_and(|status| status.success()), "{container}");
    }
}

impl Machine {
    /// Prints the containers and the last lines of their logs.
    fn explain(&self) {
        let all =
            ["ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Image}} {{.Names}}: {{.Status}}"];
        for container in self.try_docker(&all).stdout.lines() {
            let id = container.split(' ').next().unwrap_or_default();
            let logs = self.try_docker(&["logs", "--tail", "20", id]);
            eprintln!("{}: {container}\n{logs}", self.name);
        }
    }
}

impl Drop for Machine {
    /// Stops the daemon gracefully, so that it removes its control groups, and kills it if that takes too long.
    fn drop(&mut self) {
        if thread::panicking() {
            self.explain();
        }
        for daemon in process::children(self.daemon.id()) {
            process::kill("TERM", &daemon.to_string());
        }
        let since = Instant::now();
        while since.elapsed() < PATIENCE && matches!(self.daemon.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let cgroup = self.cgroup.trim_start_matches('/');
        let top = Path::new("/sys/fs/cgroup");
        let each = fs::read_dir(top).into_iter().flatten().flatten();
        for hierarchy in each.map(|entry| entry.path()).chain([top.to_owned()]) {
            let _ = fs::remove_dir(hierarchy.join(cgroup));
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        self.list.clear();
        let _ = self.switch.kill();
        let _ = self.switch.wait();
    }
}

/// Checks that this machine has what the daemons need. The error names the missing Debian package.
fn needs() -> Result<(), String> {
    let succeeds = |script: &str| {
        let output = Command::new("sh").args(["-c", script]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !succeeds("[ $(id -u) = 0 ]") {
        return Err("Docker's daemon needs root".to_owned());
    }
    for (check, package) in [
        ("command -v dockerd", "docker.io"),
        ("command -v docker", "docker.io or docker-cli"),
        ("docker compose version || docker-compose version", "docker-compose"),
        ("command -v ip", "iproute2"),
        ("command -v openssl", "openssl"),
    ] {
        if !succeeds(check) {
            return Err(format!("Debian's package {package} is not installed"));
        }
    }
    Ok(())
}

/// Starts a command in a thread that ends when the sender is dropped: the kernel takes the end of the thread, which may be another test's,
/// for the end of the parent.
fn spawn(mut command: Command) -> io::Result<(Child, mpsc::Sender<()>)> {
    let (starter, end) = mpsc::channel();
    let (result, child) = mpsc::channel();
    thread::spawn(move || {
        let _ = result.send(command.spawn());
        let _: Result<(), _> = end.recv();
    });
    let child = child.recv().expect("the thread answers")?;
    Ok((child, starter))
}

/// Starts the bridge.
fn switch() -> Result<Child, String> {
    use std::io::{BufRead, BufReader};
    let mut switch = Command::new("unshare")
        .args(["--net", "sh", "-c", SWITCH])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("unshare: {error}"))?;
    let mut line = String::new();
    let output = switch.stdout.take().expect("it is piped");
    let _ = BufReader::new(output).read_line(&mut line);
    if line.trim() != "up" {
        let _ = switch.wait();
        return Err("networks cannot be made here".to_owned());
    }
    Ok(switch)
}

/// The directories that images are built from.
struct Contexts {
    /// The files of the repository that the Dockerfile needs, and the built programs.
    checkout: TempDir,
    standin: TempDir,
}

impl Contexts {
    fn new() -> Self {
        let directory = || tempfile::tempdir().expect("temporary directories can be made");
        let (checkout, standin) = (directory(), directory());
        let copy = |from: &Path, to: PathBuf| {
            fs::create_dir_all(to.parent().expect("it is in a directory")).expect("it can be made");
            fs::copy(from, to).expect("it can be copied");
        };
        for file in ["Dockerfile", ".dockerignore"] {
            copy(&programs::workspace().join(file), checkout.path().join(file));
        }
        for program in [programs::cbbootstrap(), programs::agent()] {
            let name = program.file_name().expect("it is a file");
            copy(&program, checkout.path().join("target/debug").join(name));
        }
        for (name, text) in STANDIN {
            fs::write(standin.path().join(name), text).expect("it can be written");
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(standin.path().join("entrypoint.sh"), mode).expect("it is ours");
        let program = programs::cbbootstrap().with_file_name("couchbase-standin");
        copy(&program, standin.path().join("couchbase-standin"));
        Self { checkout, standin }
    }

    /// Builds the stand-in's image, and the Dockerfile's images with the commands in its comment.
    fn build_on(&self, machine: &Machine) {
        let build = |directory: &TempDir, args: &[&str]| {
            let mut command = machine.user.program(Path::new("docker"), &["build", "--quiet"]);
            command.args(args).arg(".").current_dir(directory.path());
            Ended::of(&mut command).ended_with(0);
        };
        build(&self.standin, &["--tag", COUCHBASE]);
        let dockerfile = fs::read_to_string(self.checkout.path().join("Dockerfile"));
        let dockerfile = dockerfile.expect("it was copied");
        let mut targets = HashSet::new();
        for line in dockerfile.lines() {
            let Some(args) = line.strip_prefix("#   docker build ") else {
                continue;
            };
            let args: Vec<_> = args.split(' ').filter(|arg| *arg != ".").collect();
            targets.insert(args[1]);
            build(&self.checkout, &[&args[..], &["--build-arg", "PROGRAMS=target/debug"]].concat());
        }
        assert_eq!(targets, HashSet::from(["server", "agent", "couchbase"]));
    }
}
