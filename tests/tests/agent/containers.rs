//! The Dockerfile's images and the examples for Compose, Swarm and Kubernetes, on Docker daemons that the tests start, with the
//! stand-in for Couchbase Server.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread::{self, sleep},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cbbootstrap_tests::{
    cli::{Ended, User},
    couchbase::containers::HOST,
    docker::{COUCHBASE, Machine, Machines},
    pattern::pattern,
    pods::{NETWORK, Pod, Pods, Secrets},
    process::Guard,
    programs,
};
use serde_json::Value;
use tempfile::TempDir;

/// The images as the examples name them.
const SERVER: &str = concat!("cbbootstrap:", env!("CARGO_PKG_VERSION"));
const AGENT: &str = concat!("cbbootstrap-agent:", env!("CARGO_PKG_VERSION"));

/// For containers on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Starts machines with Docker. If that is impossible, prints the reason and returns `None`, or fails in CI, unless the user may not
/// create namespaces.
fn machines(count: usize) -> Option<Machines> {
    let unshare = Command::new("unshare").args(["--mount", "--net", "true"]).output();
    if !unshare.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this user may not make namespaces");
        return None;
    }
    match Machines::start(count) {
        Ok(machines) => Some(machines),
        Err(reason) => {
            assert!(std::env::var_os("CI").is_none(), "{reason}");
            eprintln!("skipped: {reason}");
            None
        }
    }
}

/// Waits until there is no reason left.
#[track_caller]
fn wait_until(what: &str, reason: impl Fn() -> Option<String>) {
    let since = Instant::now();
    while let Some(reason) = reason() {
        assert!(since.elapsed() < PATIENCE, "timed out waiting until {what}: {reason}");
        // A call of Docker takes a tenth of a second of a processor.
        sleep(Duration::from_secs(1));
    }
    println!("{:5.1} s until {what}", since.elapsed().as_secs_f64());
}

/// An example, copied to a directory in which the commands of its comment run.
struct Example {
    name: &'static str,
    text: String,
    /// Its page in `docs/`, if it has a separate one.
    page: String,
    directory: TempDir,
}

impl Example {
    fn new(name: &'static str) -> Self {
        let example = programs::workspace().join("examples").join(name);
        let text = fs::read_to_string(example).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(name), &text).unwrap();
        let page = programs::workspace().join("docs").join(name).with_extension("md");
        let page = fs::read_to_string(page).unwrap_or_default();
        Self { name, text, page, directory }
    }

    /// The commands in its comment, then those on its page, with placeholders replaced.
    fn commands(&self, names: &[(&str, &str)]) -> Vec<String> {
        let comment = self.text.lines().take_while(|line| line.starts_with('#'));
        let lines = comment.filter_map(|line| line.strip_prefix("#   "));
        let blocks =
            self.page.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
        let lines = lines.chain(blocks.flat_map(str::lines));
        let text = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
        let text = names.iter().fold(text, |text, (name, here)| text.replace(name, here));
        let commands = text.lines().map(|line| line.split("  #").next().unwrap());
        commands.map(|line| line.trim_end_matches("&&").trim().to_owned()).collect()
    }

    /// The first command with this start.
    #[track_caller]
    fn command(&self, start: &str, names: &[(&str, &str)]) -> Vec<String> {
        let commands = self.commands(names);
        let mut commands = commands.iter().filter(|command| command.starts_with(start));
        let command = commands.next().unwrap_or_else(|| panic!("no {start}"));
        command.split_whitespace().map(str::to_owned).collect()
    }

    /// Runs its commands before the first one with this start, as root.
    fn prepare(&self, user: &User, end: &str) {
        let commands = self.commands(&[("sudo ", "")]);
        let before = commands.iter().take_while(|line| !line.starts_with(end));
        let script: Vec<_> = before.map(String::as_str).collect();
        let mut script = user.program(Path::new("sh"), &["-ec", &script.join("\n")]);
        Ended::of(script.current_dir(self.directory.path())).ended_with(0);
    }

    /// Adds a file to the directory.
    fn add(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn path(&self) -> String {
        self.directory.path().join(self.name).display().to_string()
    }
}

/// The stand-in's clusters, which one container keeps.
struct Model {
    /// One every 0.3 s, with the time after which it was read.
    states: Receiver<(SystemTime, Value)>,
    _show: Guard,
}

impl Model {
    /// Shows its states from inside of the container, because each call of Docker takes a third of a second of a processor.
    fn in_container(machine: &Machine, container: &str) -> Self {
        let script = "while date +%s%N | tr '\\n' ' '; do couchbase-standin show | tr -d '\\n'; echo; sleep 0.3; done";
        let args = ["exec", container, "sh", "-c", script];
        let mut show = machine.user.program(Path::new("docker"), &args);
        let mut show = Guard(show.stderr(Stdio::null()).spawn().unwrap());
        let lines = BufReader::new(show.0.stdout.take().unwrap()).lines();
        let (sender, states) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let (time, state) = line.split_once(' ').unwrap();
                let time = UNIX_EPOCH + Duration::from_nanos(time.parse().unwrap());
                // There is no state before the model has started.
                if !state.is_empty()
                    && sender.send((time, serde_json::from_str(state).unwrap())).is_err()
                {
                    return;
                }
            }
        });
        Self { states, _show: show }
    }

    /// Waits until there is no reason left, from now on.
    #[track_caller]
    fn wait_until(&self, what: &str, reason: impl Fn(&Value) -> Option<String>) {
        let (since, begin) = (Instant::now(), SystemTime::now());
        let next = || loop {
            let next = self.states.recv_timeout(PATIENCE);
            let (time, state) = next.expect("the model shows its state");
            if time >= begin {
                return state;
            }
        };
        while let Some(reason) = reason(&next()) {
            assert!(since.elapsed() < PATIENCE, "timed out waiting until {what}: {reason}");
        }
        println!("{:5.1} s until {what}", since.elapsed().as_secs_f64());
    }

    /// Waits until Couchbase Server has failed a node over.
    #[track_caller]
    fn wait_for_failover(&self) {
        self.wait_until("the lost node is failed over", |state| {
            let shown = state.to_string();
            (!shown.contains("inactiveFailed")).then_some(shown)
        });
    }

    /// Waits until there is one cluster of these nodes, all healthy, and asserts that no data was ever lost.
    #[track_caller]
    fn wait_for<N: AsRef<str>>(&self, what: &str, names: &[N]) {
        let mut names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
        names.sort_unstable();
        self.wait_until(what, |state| {
            assert_eq!(state["wiped"], 0, "{state:#}");
            let [cluster] = state["clusters"].as_array().unwrap().as_slice() else {
                return Some(state.to_string());
            };
            let nodes = cluster["nodes"].as_array().unwrap().iter();
            let mut well: Vec<_> = nodes
                .filter(|node| node["membership"] == "active" && node["is_healthy"] == true)
                .map(|node| node["name"].as_str().unwrap())
                .collect();
            well.sort_unstable();
            let count = cluster["nodes"].as_array().unwrap().len();
            let is_well = count == well.len() && cluster["is_balanced"] == true;
            (!is_well || well != names).then(|| state.to_string())
        });
    }
}

/// Waits until `status` succeeds in this container.
fn wait_until_well(machine: &Machine, container: &str) {
    let limit = PATIENCE.as_secs();
    let wait = format!(
        "for i in $(seq {limit}); do cbbootstrap-agent status && exit; sleep 1; done; exit 1"
    );
    machine.docker(&["exec", container, "sh", "-c", &wait]);
}

/// Crashes a container and waits until Docker has started it again.
fn crash_and_wait(machine: &Machine, container: &str) {
    machine.crash(container);
    let state = ["inspect", "--format", "{{.RestartCount}} {{.State.Status}}"];
    wait_until(&format!("{container:.12} runs again"), || {
        let state = machine.docker(&[&state[..], &[container]].concat());
        (state != "1 running").then_some(state)
    });
}

fn wait_until_healthy(machine: &Machine, container: &str) {
    let health = ["inspect", "--format", "{{json .State.Health}}", container];
    wait_until(&format!("{container:.12} is healthy"), || {
        let health = machine.docker(&health);
        (!health.contains(r#""Status":"healthy""#)).then_some(health)
    });
}

/// Asserts that Docker shows neither the password nor the secret of the example, for any container.
fn check_secrecy(machine: &Machine, example: &Example) {
    let read = |file: &str| fs::read_to_string(example.directory.path().join(file)).ok();
    let secrets: Vec<_> = ["password", "cluster-secret"].into_iter().filter_map(read).collect();
    assert!(!secrets.is_empty());
    let containers = machine.docker(&["ps", "--all", "--quiet"]);
    assert!(containers.lines().count() >= 3, "{containers}");
    for container in containers.lines() {
        let shown = machine.docker(&["inspect", container]);
        let shown = format!("{shown}{}", machine.try_docker(&["logs", container]));
        for secret in &secrets {
            assert!(!shown.contains(secret.trim_end()), "{container}: {shown}");
        }
    }
}

/// Checks the Dockerfile's images without an example.
fn check_images(machine: &Machine) {
    let format = |image: &str, format: &str| {
        machine.docker(&["image", "inspect", "--format", format, image])
    };
    let size = |image: &str| format(image, "{{.Size}}").parse::<u64>().unwrap();
    for (image, program) in [(SERVER, programs::cbbootstrap()), (AGENT, programs::agent())] {
        assert_eq!(format(image, "{{.Config.User}}"), "10001:10001");
        assert_ne!(format(image, "{{.Config.Healthcheck}}"), "<nil>");
        let program = fs::metadata(program).unwrap().len();
        let rest = size(image) - size("debian:stable-slim") - program;
        assert!(rest < 100_000, "{image} holds {rest} bytes more");
    }
    let version = ["run", "--rm", AGENT, "--version"];
    assert!(machine.docker(&version).contains(env!("CARGO_PKG_VERSION")));
}

/// The server's image becomes healthy, and ends on SIGTERM.
fn check_server(machine: &Machine, container: &str) {
    wait_until_healthy(machine, container);
    assert_eq!(machine.docker(&["exec", container, "id", "-u"]), "10001");
    machine.docker(&["stop", container]);
    let status = ["inspect", "--format", "{{.State.ExitCode}}", container];
    assert_eq!(machine.docker(&status), "0");
}

#[test]
fn compose_services_become_one_cluster() {
    let Some(machines) = machines(1) else { return };
    let machine = &machines.all()[0];
    check_images(machine);
    let plain = machine.docker(&["run", "--detach", SERVER]);

    let example = Example::new("compose.yaml");
    example.prepare(&machine.user, "docker compose up");
    let service = format!("{{image: '{COUCHBASE}', command: [model], networks: [nodes]}}");
    let with_model = example.add("model.yaml", &format!("services: {{model: {service}}}"));
    let compose = |args: &[String]| {
        let mut command = machine.compose();
        command.args(["--project-name", "couchbase", "--file", &example.path()]);
        let ended = Ended::of(command.args(["--file", &with_model]).args(args));
        ended.ended_with(0).stdout.trim().to_owned()
    };
    // Runs the comment's command with this start.
    let documented = |start: &str| {
        let mut command = example.command(&format!("docker compose {start}"), &[]);
        if start == "exec" {
            command.insert(3, "-T".to_owned());
        }
        compose(&command[2..])
    };
    let container = |service: &str| compose(&["ps", "--quiet", service].map(str::to_owned));
    documented("up");
    let model = Model::in_container(machine, &container("model"));
    let name = |number: usize| format!("couchbase-{number}.couchbase.internal");
    model.wait_for("three services are one cluster", &[1, 2, 3].map(name));
    let nodes = [1, 2, 3].map(|number| container(&format!("couchbase-{number}")));
    for node in &nodes {
        wait_until_well(machine, node);
    }
    let api = container("cbbootstrap");
    wait_until_healthy(machine, &api);

    crash_and_wait(machine, &nodes[1]);
    crash_and_wait(machine, &api);
    model.wait_for("the crashed node is back", &[1, 2, 3].map(name));
    wait_until_well(machine, &nodes[1]);

    documented("exec");
    documented("rm");
    model.wait_for("the third node has left", &[1, 2].map(name));
    machine.docker(&["volume", "rm", "couchbase_couchbase-3"]);
    documented("up");
    model.wait_for("a new third node is in", &[1, 2, 3].map(name));

    // Without `leave`, the volume of the third node is lost.
    documented("rm");
    machine.docker(&["volume", "rm", "couchbase_couchbase-3"]);
    model.wait_for_failover();
    documented("up");
    model.wait_for("the lost node is replaced", &[1, 2, 3].map(name));
    check_server(machine, &plain);
    check_secrecy(machine, &example);
}

/// Deploys the stack with the stand-in's model, and without encryption between machines, which some kernels lack.
fn deploy_stack(manager: &Machine, example: &Example) {
    let encrypted = "    driver_opts:\n      encrypted: \"true\"\n";
    assert!(example.text.contains(encrypted));
    fs::write(example.path(), example.text.replace(encrypted, "")).unwrap();
    let with_model = example.add(
        "model.yaml",
        &format!(
            "version: '3.8'\n\
             services:\n  \
               model:\n    \
                 image: '{COUCHBASE}'\n    \
                 command: [model]\n    \
                 networks: [nodes]\n    \
                 deploy: {{endpoint_mode: dnsrr, placement: {{constraints: [node.role == manager]}}}}\n"
        ),
    );
    let mut deploy = example.command("docker stack deploy", &[("swarm.yaml", &example.path())]);
    let name = deploy.pop().unwrap();
    // The images are local.
    let more = ["--compose-file", &with_model, "--resolve-image", "never", &name];
    deploy.extend(more.map(str::to_owned));
    manager.docker(&deploy[1..]);
}

/// Creates a swarm, with the first machine as its manager.
fn join_swarm(machines: &[Machine]) {
    let manager = &machines[0];
    manager.docker(&["swarm", "init", "--advertise-addr", &manager.address]);
    let token = manager.docker(&["swarm", "join-token", "--quiet", "worker"]);
    for worker in &machines[1..] {
        let address = format!("{}:2377", manager.address);
        worker.docker(&["swarm", "join", "--token", &token, &address]);
    }
}

/// Waits for a container of this service on this machine, other than `not`.
fn task(machine: &Machine, service: &str, not: &str) -> String {
    let filter = format!("name=^couchbase_{service}\\.");
    let find = || {
        let mut found = machine.containers(&filter).into_iter();
        found.find(|container| container != not)
    };
    wait_until(&format!("{service} runs on {}", machine.name), || {
        find().is_none().then(|| machine.docker(&["ps", "--all"]))
    });
    find().unwrap()
}

#[test]
#[ignore = "takes one and a half minutes"]
fn swarm_machines_become_one_cluster() {
    let Some(machines) = machines(3) else { return };
    let [manager, second, third] = machines.all() else {
        panic!("{machines:?}");
    };
    join_swarm(machines.all());
    let example = Example::new("swarm.yaml");
    example.prepare(&manager.user, "docker node update");
    let label = |label: &str, machine: &Machine| {
        let command = format!("docker node update {label}");
        let command = example.command(&command, &[("MACHINE", &machine.name)]);
        manager.docker(&command[1..]);
    };
    label("--label-add cbbootstrap=true", second);
    for machine in machines.all() {
        label("--label-add couchbase=true", machine);
    }
    deploy_stack(manager, &example);
    let model = Model::in_container(manager, &task(manager, "model", ""));
    let name = |machine: &Machine| format!("{}.couchbase.internal", machine.name);
    let all = [manager, second, third].map(name);
    model.wait_for("three machines are one cluster", &all);
    let [_, _, last] = [manager, second, third].map(|machine| {
        let container = task(machine, "couchbase", "");
        wait_until_well(machine, &container);
        container
    });

    // Swarm replaces the tasks of a node and of the API.
    let api = task(second, "cbbootstrap", "");
    third.crash(&last);
    second.crash(&api);
    let last = task(third, "couchbase", &last);
    task(second, "cbbootstrap", &api);
    model.wait_for("the crashed node is back", &all);
    wait_until_well(third, &last);

    // One machine leaves and loses its data, and joins again as a new node. The volume is also in use by the crashed container.
    let leave = example.command("docker exec", &[("CONTAINER", &last)]);
    third.docker(&leave[1..]);
    label("--label-rm couchbase", third);
    model.wait_for("the third machine has left", &all[..2]);
    wait_until("its task is gone", || third.containers("name=couchbase_couchbase").pop());
    for start in ["docker container prune", "docker volume rm"] {
        let remove = example.command(start, &[]);
        third.docker(&remove[1..]);
    }
    label("--label-add couchbase=true", third);
    model.wait_for("the third machine has joined again", &all);
    check_secrecy(second, &example);
}

/// The secrets that the example's comment creates.
fn secrets(example: &Example) -> Secrets {
    let create = pattern("^kubectl create secret (generic|tls) ([a-z-]+) (.*)$");
    let mut secrets = Secrets::new();
    for command in example.commands(&[]) {
        let Some(found) = create.captures(&command) else {
            continue;
        };
        // Its page changes them later.
        if secrets.contains_key(&found[2]) {
            continue;
        }
        let mut files = BTreeMap::new();
        for option in found[3].split(' ') {
            let (option, file) = option.split_once('=').unwrap();
            let key = match option {
                "--from-file" => file,
                "--cert" => "tls.crt",
                "--key" => "tls.key",
                _ => panic!("{command}"),
            };
            let content = fs::read(example.directory.path().join(file)).unwrap();
            files.insert(key.to_owned(), content);
        }
        secrets.insert(found[2].to_owned(), files);
    }
    secrets
}

fn wait_until_ready(pod: &Pod, what: &str) {
    wait_until(what, || (!pod.is_ready()).then(|| format!("{pod:?}")));
}

#[test]
fn kubernetes_pods_become_one_cluster() {
    let Some(machines) = machines(1) else { return };
    let machine = &machines.all()[0];
    let example = Example::new("kubernetes.yaml");
    example.prepare(&machine.user, "kubectl create");
    let objects: Vec<Value> = example
        .text
        .split("\n---\n")
        .map(|document| serde_yaml::from_str(document).unwrap())
        .collect();
    let find = |kind: &str, name: &str| {
        let mut objects = objects.iter();
        let object =
            objects.find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        object.unwrap_or_else(|| panic!("no {kind} {name}"))
    };
    let pods = Pods::new(machine, secrets(&example));
    let model = ["run", "--detach", "--network", NETWORK, "--network-alias", HOST];
    let model = machine.docker(&[&model[..], &[COUCHBASE, "model"]].concat());
    let model = Model::in_container(machine, &model);
    let start_api =
        || pods.of_deployment(find("Deployment", "cbbootstrap"), find("Service", "cbbootstrap"));
    let start = |ordinal| pods.of_stateful_set(find("StatefulSet", "couchbase"), ordinal);
    let name = |ordinal| format!("couchbase-{ordinal}.couchbase.default.svc.cluster.local");

    let (mut nodes, api) = (Vec::from([0, 1, 2].map(start)), start_api());
    wait_until_ready(&api, "the API is ready");
    model.wait_for("three pods are one cluster", &[0, 1, 2].map(name));
    for node in &nodes {
        wait_until_ready(node, "a pod is ready");
    }

    // The containers of one pod restart; another pod and the API are replaced, and keep only their names and volumes.
    for container in ["couchbase-server", "agent"] {
        crash_and_wait(machine, &nodes[0].container(container));
    }
    nodes.remove(1).delete();
    api.delete();
    let api = start_api();
    nodes.insert(1, start(1));
    model.wait_for("the pods are back", &[0, 1, 2].map(name));
    for pod in nodes.iter().chain([&api]) {
        wait_until_ready(pod, "a pod is ready again");
    }

    let last = [("couchbase-3", "couchbase-2")];
    let show = example.command("kubectl exec deployment/cbbootstrap", &[]);
    let show: Vec<_> = show[4..].iter().map(String::as_str).collect();
    api.exec("server", &show).ended_with(0);

    let leave = example.command("kubectl exec couchbase-2", &last);
    let leave: Vec<_> = leave[6..].iter().map(String::as_str).collect();
    nodes[2].exec("agent", &leave).ended_with(0);
    nodes.remove(2).delete();
    let claim = example.command("kubectl delete pvc data-couchbase-2", &last);
    pods.delete_claim(&claim[3]);
    model.wait_for("the last pod has left", &[0, 1].map(name));
    nodes.push(start(2));
    model.wait_for("a new last pod has joined", &[0, 1, 2].map(name));

    // A pod that lost its volume replaces the member of its name.
    nodes.remove(1).delete();
    let claim = example.command("kubectl delete pvc data-couchbase-1", &[]);
    pods.delete_claim(&claim[3]);
    model.wait_for_failover();
    nodes.insert(1, start(1));
    model.wait_for("the lost pod is replaced", &[0, 1, 2].map(name));
    check_secrecy(machine, &example);
}
