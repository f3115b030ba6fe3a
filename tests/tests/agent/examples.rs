//! The agent's examples: runs the unchanged EC2 user data, and checks the others without Docker. `containers.rs` runs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
    routing::{get, put},
};
use cbbootstrap_tests::{
    agent::{Agents, Api, LOGIN, SECRET, one_cluster},
    cli::{Ended, User, write_private},
    couchbase::{Node, Servers},
    ministack::MiniStack,
    pattern::pattern,
    pods,
    process::{self, Guard, wait_until},
    programs, python,
    server::Server,
};
use serde_json::Value;

/// The metadata service of an instance in this zone, version 2 alone.
struct Metadata(Server);

impl Metadata {
    fn of(zone: &'static str) -> Self {
        const TOKEN: &str = "AQAEAF-token";
        let at = move |what: &'static str| {
            get(move |headers: HeaderMap| async move {
                let token = headers.get("x-aws-ec2-metadata-token");
                if token.is_some_and(|token| token == TOKEN) {
                    (StatusCode::OK, what)
                } else {
                    (StatusCode::UNAUTHORIZED, "")
                }
            })
        };
        let token = |headers: HeaderMap| async move {
            if headers.contains_key("x-aws-ec2-metadata-token-ttl-seconds") {
                (StatusCode::OK, TOKEN)
            } else {
                (StatusCode::BAD_REQUEST, "")
            }
        };
        let region = &zone[..zone.len() - 1];
        let service = Router::new()
            .route("/latest/api/token", put(token))
            .route("/latest/meta-data/placement/availability-zone", at(zone))
            .route("/latest/meta-data/placement/region", at(region));
        Self(Server::route(service))
    }
}

/// Looks for a secret in the arguments and environments of all processes that start after it.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, BTreeSet<String>)>,
}

impl Watch {
    fn start(secret: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, secret) = (Arc::clone(&stop), secret.as_bytes().to_owned());
        let thread = thread::spawn(move || {
            let processes = || {
                let entries = fs::read_dir("/proc").unwrap().flatten();
                entries.map(|entry| entry.path()).collect::<BTreeSet<_>>()
            };
            let (mut agents, mut found) = (0, BTreeSet::new());
            let older = processes();
            while !asked.load(Ordering::Relaxed) {
                for process in processes().difference(&older) {
                    for file in ["cmdline", "environ"] {
                        // It may be gone, or another's.
                        let Ok(said) = fs::read(process.join(file)) else {
                            continue;
                        };
                        if file == "cmdline" && said.starts_with(b"cbbootstrap-agent\0up\0") {
                            agents += 1;
                        }
                        if said.windows(secret.len()).any(|part| part == secret) {
                            found.insert(format!("{file}: {}", String::from_utf8_lossy(&said)));
                        }
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
            (agents, found)
        });
        Self { stop, thread }
    }

    /// Asserts that it saw agents at work and the secret nowhere.
    #[track_caller]
    fn saw_nothing(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (agents, found) = self.thread.join().unwrap();
        assert!(agents > 0, "no agent was seen");
        assert_eq!(found, BTreeSet::new());
    }
}

/// A password that no other process of this machine has.
fn password() -> String {
    format!("pass word {}", fastrand::u64(..))
}

/// An instance's environment: the AWS CLI, the stand-ins, the settings; and the agent, unless it is to be installed.
fn instance(api: &Api, stack: &MiniStack, servers: &Servers, has_agent: bool) -> User {
    let user = Agents::new(&api.local.endpoint, "demo", servers)
        .user
        .without("CB_REST_PASSWORD")
        .without("CBBOOTSTRAP_CA_CERT")
        .without("AWS_EC2_METADATA_DISABLED")
        .with("AWS_ENDPOINT_URL", &stack.url)
        .with("AWS_ACCESS_KEY_ID", "test")
        .with("AWS_SECRET_ACCESS_KEY", "test")
        .with("TRIES", "1")
        .with_programs(python::bin());
    if has_agent { user.with_programs(programs::agent().parent().unwrap()) } else { user }
}

/// The secret by which the nodes trust each other.
fn create_cluster_secret(stack: &MiniStack) {
    stack.boto(&format!(
        "client('secretsmanager').create_secret(Name='couchbase/cluster-secret', SecretString='{SECRET}')"
    ));
}

/// Runs the unchanged user data on this node in the zone of this metadata service.
fn user_data(user: &User, node: &Node, metadata: &Metadata) -> Command {
    let script = programs::workspace().join("examples/user-data.sh");
    let mut command = user.program(Path::new("bash"), &[script]);
    command
        .env("CBBOOTSTRAP_SERVER", node.url())
        .env("CBBOOTSTRAP_NODE", node.address())
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.0.url);
    command
}

/// On all nodes at once, each to its end.
fn on_all(user: &User, servers: &Servers, metadata: &[Metadata]) -> Vec<Ended> {
    let nodes = servers.nodes().iter().zip(metadata);
    let running: Vec<Child> =
        nodes.map(|(node, metadata)| user_data(user, node, metadata).spawn().unwrap()).collect();
    thread::scope(|scope| {
        let ends: Vec<_> =
            running.into_iter().map(|child| scope.spawn(|| Ended::of_child(child))).collect();
        ends.into_iter().map(|end| end.join().unwrap()).collect()
    })
}

#[test]
fn user_data_on_three_instances_makes_one_cluster() {
    let (api, stack) = (Api::start(), MiniStack::start());
    // With the certificates that Couchbase Server makes itself.
    let servers = Servers::start_generated(3);
    let zones = ["us-east-1a", "us-east-1b", "us-east-1c"];
    let metadata = zones.map(Metadata::of);
    let password = password();
    stack.boto(&format!(
        "client('secretsmanager').create_secret(Name='couchbase/administrator', SecretString='{password}')"
    ));
    create_cluster_secret(&stack);
    let user = instance(&api, &stack, &servers, true);
    let watch = Watch::start(&password);
    for ended in on_all(&user, &servers, &metadata) {
        let ended = ended.ended_with(0);
        assert!(!ended.to_string().contains(&password), "{ended}");
        assert!(ended.stdout.contains("active member of `demo`"), "{ended}");
    }
    let cluster = one_cluster(&servers, 3);
    assert!(servers.wiped().is_empty());
    for node in &cluster.nodes {
        assert_eq!(node.group, zones[node.index], "{node:?}");
        assert_eq!(node.services, ["kv", "index", "n1ql"], "{node:?}");
    }

    // At the next boot there is nothing to do.
    let before = servers.requests().len();
    for ended in on_all(&user, &servers, &metadata) {
        let ended = ended.ended_with(0);
        assert!(!ended.to_string().contains(&password), "{ended}");
    }
    watch.saw_nothing();
    let requests = servers.requests();
    assert!(requests.len() > before);
    for request in &requests[before..] {
        assert_eq!(request.method, "GET", "{request:?}");
    }
    one_cluster(&servers, 3);
}

#[test]
fn user_data_installs_only_the_agent_with_the_given_checksum() {
    let (api, stack) = (Api::start(), MiniStack::start());
    let servers = Servers::start(1);
    let metadata = Metadata::of("us-east-1b");
    let password = password();
    let agent = programs::agent();
    stack.boto(&format!(
        "[client('s3').create_bucket(Bucket='programs'), client('s3').upload_file('{}', 'programs', 'v1/agent'), \
         client('ssm').put_parameter(Name='/couchbase/administrator', Type='SecureString', Value='{password}')]",
        agent.display()
    ));
    create_cluster_secret(&stack);
    let sum = Command::new("sha256sum").arg(&agent).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let user = instance(&api, &stack, &servers, false)
        .with("AGENT_URL", "s3://programs/v1/agent")
        .with("AGENT_DIRECTORY", directory.path().to_str().unwrap())
        .with("PASSWORD_FROM", "ssm:/couchbase/administrator");
    let installed = || {
        let names = fs::read_dir(directory.path()).unwrap().flatten();
        names.map(|entry| entry.file_name()).collect::<Vec<_>>()
    };

    // Another program than was promised, none at all, no promise.
    let other = "0".repeat(64);
    for (url, promised) in [
        ("s3://programs/v1/agent", other.as_str()),
        ("s3://programs/v2/agent", &sum[..64]),
        ("s3://programs/v1/agent", ""),
    ] {
        let mut command = user_data(&user, &servers[0], &metadata);
        command.env("AGENT_URL", url).env("AGENT_SHA256", promised);
        let ended = Ended::of(&mut command).ended_with(1);
        assert!(ended.stderr.contains("was not installed"), "{ended}");
        assert!(installed().is_empty(), "{:?}", installed());
    }
    assert!(servers[0].is_blank());

    let user = user.with("AGENT_SHA256", &sum[..64]);
    for _ in 0..2 {
        let mut command = user_data(&user, &servers[0], &metadata);
        Ended::of(&mut command).ended_with(0);
        assert_eq!(installed(), ["cbbootstrap-agent"]);
        let cluster = one_cluster(&servers, 1);
        assert_eq!(cluster.groups, ["us-east-1b"]);
    }
}

#[test]
fn user_data_without_a_password_changes_nothing() {
    let (api, stack) = (Api::start(), MiniStack::start());
    let servers = Servers::start(1);
    let metadata = Metadata::of("us-east-1a");
    let user = instance(&api, &stack, &servers, true);
    for (from, status, why) in [
        ("secretsmanager:nowhere", None, "ResourceNotFoundException"),
        ("ssm:/nowhere", None, "ParameterNotFound"),
        ("nowhere", Some(2), "PASSWORD_FROM and SECRET_FROM are"),
    ] {
        let mut command = user_data(&user, &servers[0], &metadata);
        let ended = Ended::of(command.env("PASSWORD_FROM", from));
        assert!(ended.status != Some(0), "{ended}");
        assert!(status.is_none_or(|status| ended.status == Some(status)), "{ended}");
        assert!(ended.stderr.contains(why), "{ended}");
    }
    assert!(servers[0].is_blank());
    assert!(servers.requests().is_empty());
}

/// A file of the repository.
fn read(path: &str) -> String {
    fs::read_to_string(programs::workspace().join(path)).unwrap()
}

/// The examples and the agent's page: paths and texts.
fn texts() -> Vec<(String, String)> {
    let examples = fs::read_dir(programs::workspace().join("examples")).unwrap();
    let mut paths: Vec<_> = examples
        .map(|entry| format!("examples/{}", entry.unwrap().file_name().display()))
        .collect();
    paths.sort();
    paths.extend(
        ["docs/agent.md", "docs/kubernetes.md", "docs/swarm.md", "README.md"].map(str::to_owned),
    );
    paths
        .into_iter()
        .map(|path| {
            let text = read(&path);
            (path, text)
        })
        .collect()
}

/// The documents of a YAML file.
fn documents(path: &str) -> Vec<Value> {
    let text = read(path);
    let documents = text.split("\n---\n");
    documents.map(|document| serde_yaml::from_str(document).unwrap()).collect()
}

/// The agent's command lines in a text: after its name, up to what ends a command in a shell, in a list of YAML or in prose.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let text = text.replace("\\\n", " ").replace("\", \"", " ");
    let line = pattern(
        r#"cbbootstrap-agent ((?:up|run|discover|leave|status|completions)\b[^\n`;&|)"']*)"#,
    );
    line.captures_iter(&text)
        .map(|found| {
            let words = found[1].split('#').next().unwrap().split_whitespace();
            words.map(str::to_owned).collect()
        })
        .collect()
}

fn help(command: &str) -> String {
    let args: Vec<&str> = [command, "--help"].into_iter().filter(|arg| !arg.is_empty()).collect();
    let user = User::default();
    let mut command = user.program(&programs::agent(), &args);
    Ended::of(&mut command).ended_with(0).stdout
}

#[test]
fn the_agent_accepts_every_command_line_in_the_examples() {
    // With `--help` at its end, a command line is read, its values are checked, and nothing is done.
    let status = |args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["--help"]).collect();
        Ended::of(&mut User::default().program(&programs::agent(), &args))
    };
    for wrong in ["up --nothing", "leave --auth all", "status --bucket app:100"] {
        let words: Vec<_> = wrong.split(' ').map(str::to_owned).collect();
        assert_eq!(status(&words).status, Some(2), "{wrong}");
    }
    let mut count = BTreeMap::new();
    for (path, text) in texts() {
        for words in command_lines(&text) {
            let ended = status(&words);
            assert_eq!(ended.status, Some(0), "{path}: {words:?}\n{ended}");
            *count.entry(path.clone()).or_insert(0) += 1;
        }
    }
    for path in [
        "README.md",
        "docs/agent.md",
        "examples/cbbootstrap-agent.service",
        "examples/compose.yaml",
        "examples/kubernetes.yaml",
        "examples/swarm.yaml",
        "examples/user-data.sh",
    ] {
        assert!(count.contains_key(path), "no command line in {path}: {count:?}");
    }
}

#[test]
fn images_have_the_version_of_the_workspace() {
    let image = pattern(r"\bcbbootstrap(?:-agent)?:(\d+\.[\w.-]+)");
    for (path, count) in [
        ("Dockerfile", 2),
        ("examples/compose.yaml", 1),
        ("examples/kubernetes.yaml", 2),
        ("examples/swarm.yaml", 1),
    ] {
        let text = read(path);
        let versions: Vec<_> =
            image.captures_iter(&text).map(|found| found[1].to_owned()).collect();
        assert_eq!(versions, vec![env!("CARGO_PKG_VERSION"); count], "{path}");
    }
}

/// The volume of a node that has not left may have the only copy of data.
#[test]
fn a_volume_is_deleted_only_after_its_node_has_left() {
    for (path, joined) in [
        ("docs/kubernetes.md", &["leave --timeout 12h", "--replicas=3"][..]),
        ("examples/compose.yaml", &["leave --timeout 12h"]),
        // The commands run on several machines.
        ("examples/swarm.yaml", &["docker container prune"]),
    ] {
        let text = read(path);
        for part in joined {
            let line = text.lines().find(|line| line.contains(part));
            assert!(line.is_some_and(|line| line.ends_with(" &&")), "{path}: {line:?}");
        }
        assert!(
            text.contains("until `leave` exits with 0") || text.contains("until it exits with 0"),
            "{path}"
        );
    }
}

#[test]
fn the_units_header_links_to_the_command_and_the_drop_in() {
    let header = read("examples/cbbootstrap-agent.service");
    assert!(header.contains("/docs/agent.md#systemd-and-monitoring\n"), "{header}");
    let page = read("docs/agent.md");
    let (_, section) = page.split_once("\n### systemd and monitoring\n").unwrap();
    let section = section.split("\n#").next().unwrap();
    for block in ["```sh\nsudo systemd-run ", "```ini\n[Service]\n"] {
        assert!(section.contains(block), "{block}\n{section}");
    }
}

#[test]
fn the_examples_use_only_known_variables_and_options() {
    let known = ["", "up", "run", "discover", "leave", "status"].map(help).concat();
    let variable = pattern(r"\bCB(?:BOOTSTRAP|_REST)_[A-Z_]+\b");
    let option = pattern(r"`(--[a-z-]+)");
    let of_the_deployer =
        ["deploy", "serve"].map(|command| User::default().run(&[command, "--help"]).stdout);
    for (path, text) in texts().iter().filter(|(path, _)| path != "README.md") {
        for name in variable.find_iter(text) {
            assert!(known.contains(name.as_str()), "{path}: {}", name.as_str());
        }
        for name in option.captures_iter(text) {
            let is_known = known.contains(&name[1]) || of_the_deployer.concat().contains(&name[1]);
            assert!(is_known, "{path}: {}", &name[1]);
        }
    }
}

#[test]
fn the_agent_accepts_the_documented_options_file() {
    let page = read("docs/agent.md");
    let file = pattern(r"(?s)```yaml\n(.*?)```");
    let file = &file.captures(&page).unwrap()[1];
    let user = User::default()
        .with("CB_REST_PASSWORD", LOGIN.1)
        .with("CBBOOTSTRAP_SERVER", "http://127.0.0.1:1")
        .with("CBBOOTSTRAP_NODE", "10.0.0.1");
    let path = user.home.path().join("agent.yaml");
    // What it names is not on this machine.
    let file = file.replace("secret_file:", "#");
    write_private(&path, file);
    for command in ["up", "leave"] {
        let args = [command, "--timeout", "100ms", "--config", path.to_str().unwrap()];
        let ended = Ended::of(&mut user.program(&programs::agent(), &args));
        assert_eq!(ended.status, Some(3), "{ended}");
    }
}

#[test]
fn systemd_accepts_the_unit() {
    let unit = read("examples/cbbootstrap-agent.service");
    let lines: Vec<_> = unit.lines().collect();
    for line in [
        "After=network-online.target couchbase-server.service",
        "DefaultDependencies=no",
        "Requires=sysinit.target",
        "After=sysinit.target basic.target",
        "Conflicts=shutdown.target",
        "Before=shutdown.target",
        "Restart=always",
        "RestartPreventExitStatus=2",
        "Type=notify",
        "TimeoutStartSec=infinity",
        "WatchdogSec=3min",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "WantedBy=multi-user.target",
    ] {
        assert!(lines.contains(&line), "{line}");
    }
    assert!(!lines.iter().any(|line| line.starts_with("ExecStop")));
    // The packages require only systemd 247, which has no specifier for the credentials' directory.
    for (path, requirement) in [
        ("packaging/deb/control", "systemd (>= 247)"),
        ("packaging/agent.spec", "Requires: systemd >= 247\n"),
        ("docs/agent.md", "systemd 247"),
    ] {
        assert!(read(path).contains(requirement), "{path}");
    }
    assert!(!lines.iter().any(|line| line.contains("=%d")));
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cbbootstrap-agent.service");
    let agent = programs::agent().display().to_string();
    fs::write(&path, unit.replace("/usr/local/bin/cbbootstrap-agent run", &format!("{agent} run")))
        .unwrap();
    let verified = Ended::of(
        User::default()
            .program(Path::new("systemd-analyze"), &["verify", "--man=no", path.to_str().unwrap()])
            .env("SYSTEMD_LOG_LEVEL", "warning"),
    );
    assert_eq!(verified.status, Some(0), "{verified}");
    assert!(!verified.stderr.contains("cbbootstrap-agent.service"), "{verified}");
}

/// Runs the agent's container or entrypoint with the variables of an example, except those that this machine needs to replace.
fn in_container(
    api: &Api,
    servers: &Servers,
    variables: &BTreeMap<String, String>,
    programs_before: &Path,
    script: &str,
) -> Guard {
    let mut user =
        Agents::new(&api.local.endpoint, "demo", servers).user.without("CB_REST_PASSWORD");
    let (password, secret) = (user.home.path().join("password"), user.home.path().join("secret"));
    write_private(&password, format!("{}\n", LOGIN.1));
    write_private(&secret, "0123456789abcdef\n");
    for (name, value) in variables {
        let here = match name.as_str() {
            "CBBOOTSTRAP_API" | "CBBOOTSTRAP_CLUSTER_ID" | "SSL_CERT_FILE" => continue,
            "CBBOOTSTRAP_NODE" => servers[0].address(),
            "CBBOOTSTRAP_PASSWORD_FILE" => password.display().to_string(),
            "CBBOOTSTRAP_SECRET_FILE" => secret.display().to_string(),
            _ => value.clone(),
        };
        user = user.with(name, here);
    }
    let user = user
        .with("CBBOOTSTRAP_SERVER", servers[0].url())
        .with_programs(programs::agent().parent().unwrap())
        .with_programs(programs_before);
    let output = fs::File::create(programs_before.join("output")).unwrap();
    let child = user
        .program(Path::new("/bin/sh"), &["-c", script])
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn();
    let guard = Guard(child.unwrap());
    // The agent reads the secrets in the user's home.
    wait_until("the cluster is there", || {
        let said = fs::read_to_string(programs_before.join("output")).unwrap();
        assert!(!said.contains("error: "), "{said}");
        said.contains("member of the cluster")
    });
    let cluster = one_cluster(servers, 1);
    assert_eq!(cluster.buckets, ["app"]);
    assert_eq!(cluster.nodes[0].services, ["kv", "index", "n1ql"]);
    guard
}

#[test]
fn the_kubernetes_example_matches_the_schemas() {
    let example = programs::workspace().join("examples/kubernetes.yaml");
    let path = example.to_str().unwrap();
    let validate = |version: &str, path: &str| {
        let args = ["--strict", "--kubernetes-version", version, path];
        let program = python::bin().join("kubernetes-validate");
        Ended::of(&mut User::default().program(&program, &args))
    };
    for version in ["1.25", "1.37"] {
        validate(version, path).ended_with(0);
    }

    let directory = tempfile::tempdir().unwrap();
    let wrong = directory.path().join("wrong.yaml");
    let text = read("examples/kubernetes.yaml");
    fs::write(&wrong, text.replace("fsGroupChangePolicy:", "fsGroupPolicy:")).unwrap();
    let ended = validate("1.37", wrong.to_str().unwrap());
    assert!(ended.status != Some(0), "{ended}");
}

#[test]
fn the_kubernetes_objects_fit_together() {
    let objects = documents("examples/kubernetes.yaml");
    let find = |kind: &str, name: &str| {
        let mut objects = objects.iter();
        let object =
            objects.find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        object.unwrap_or_else(|| panic!("no {kind} `{name}`"))
    };
    let (service, set) = (find("Service", "couchbase"), find("StatefulSet", "couchbase"));
    let budget = find("PodDisruptionBudget", "couchbase");
    assert_eq!(service["spec"]["clusterIP"], "None");
    assert_eq!(service["spec"]["publishNotReadyAddresses"], true);
    assert_eq!(set["spec"]["serviceName"], service["metadata"]["name"]);
    let (api, deployment) = (find("Service", "cbbootstrap"), find("Deployment", "cbbootstrap"));
    for (pods, selectors) in [
        (
            set,
            vec![
                &service["spec"]["selector"],
                &set["spec"]["selector"]["matchLabels"],
                &budget["spec"]["selector"]["matchLabels"],
            ],
        ),
        (
            deployment,
            vec![&api["spec"]["selector"], &deployment["spec"]["selector"]["matchLabels"]],
        ),
    ] {
        let labels = &pods["spec"]["template"]["metadata"]["labels"];
        assert!(labels.is_object());
        assert!(selectors.iter().all(|selector| *selector == labels));
    }

    // One process at a time has the API's database.
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["strategy"]["type"], "Recreate");
    let volume = &deployment["spec"]["template"]["spec"]["volumes"][0];
    let claim = volume["persistentVolumeClaim"]["claimName"].as_str();
    find("PersistentVolumeClaim", claim.unwrap());

    let pod = &set["spec"]["template"]["spec"];
    let agent = &pod["containers"][1];
    assert_eq!(
        agent["readinessProbe"]["exec"]["command"],
        serde_json::json!(["cbbootstrap-agent", "status"])
    );
    // The agent refuses a secret that everybody may read, and its user is not root: the file's group is `fsGroup`.
    // The mode is octal for Kubernetes, and text for this parser.
    assert_eq!(pod["volumes"][0]["secret"]["defaultMode"], "0400");
    assert!(pod["securityContext"]["fsGroup"].is_u64());
    // The agents get the API's certificate, and not its key.
    let certificate = &pod["volumes"][1]["secret"]["items"];
    assert_eq!(certificate, &serde_json::json!([{"key": "tls.crt", "path": "tls.crt"}]));
}

#[test]
fn the_agents_container_in_kubernetes_stays_until_sigterm() {
    let objects = documents("examples/kubernetes.yaml");
    let mut objects = objects.iter();
    let set = objects.find(|object| object["kind"] == "StatefulSet");
    let agent = &set.unwrap()["spec"]["template"]["spec"]["containers"][1];
    let variables: BTreeMap<_, _> = pods::variables("couchbase-0", agent).into_iter().collect();
    assert_eq!(variables["CBBOOTSTRAP_NODE"], "couchbase-0.couchbase.default.svc.cluster.local");
    let (api, servers) = (Api::start(), Servers::start(1));
    let directory = tempfile::tempdir().unwrap();
    // The image's entrypoint is the agent.
    assert!(agent["command"].is_null());
    let args: Vec<String> = serde_json::from_value(agent["args"].clone()).unwrap();
    let script = format!("exec cbbootstrap-agent {}", args.join(" "));
    let mut guard = in_container(&api, &servers, &variables, directory.path(), &script);
    assert!(guard.0.try_wait().unwrap().is_none());
    process::kill("TERM", &guard.0.id().to_string());
    assert_eq!(guard.0.wait().unwrap().code(), Some(0));
}

#[test]
fn the_swarm_stack_fits_together() {
    let stack = documents("examples/swarm.yaml").remove(0);
    let text = read("examples/swarm.yaml");
    for service in ["cbbootstrap", "couchbase"] {
        let service = &stack["services"][service];
        assert_eq!(service["deploy"]["endpoint_mode"], "dnsrr");
        for (kind, private) in [("secret", true), ("config", false)] {
            for used in service[format!("{kind}s")].as_array().unwrap() {
                let name = used["source"].as_str().unwrap();
                assert_eq!(stack[format!("{kind}s")][name]["external"], true);
                // The agent refuses a secret that everybody may read.
                assert!(!private || used["mode"] == "0400", "{used}");
                assert!(text.contains(&format!("docker {kind} create {name} ")), "{name}");
            }
        }
    }
    assert!(!text.replace("$$", "").contains('$'), "Docker would replace it");
    let service = &stack["services"]["couchbase"];
    assert_eq!(service["deploy"]["mode"], "global");
    // Swarm does not wait until an updated node is healthy.
    let update = &service["deploy"]["update_config"];
    assert_eq!((&update["parallelism"], &update["delay"]), (&Value::from(1), &Value::from("5m")));
    let variables: BTreeMap<String, String> =
        serde_json::from_value(service["environment"].clone()).unwrap();
    assert_eq!(service["hostname"], variables["CBBOOTSTRAP_NODE"].as_str());

    // Compose has the same entrypoint and settings, except for file locations and sizes.
    let compose = documents("examples/compose.yaml").remove(0);
    let node = &compose["services"]["couchbase-1"];
    for field in ["entrypoint", "command", "image"] {
        assert_eq!(node[field], service[field], "{field}");
    }
    for (name, value) in [
        ("CBBOOTSTRAP_API", "https://cbbootstrap:8080"),
        ("CBBOOTSTRAP_SERVICES", "data,index,query"),
    ] {
        assert_eq!(node["environment"][name], value);
        assert_eq!(variables[name], value);
    }
}

#[test]
fn the_entrypoint_restarts_an_agent_that_ends() {
    let stack = documents("examples/swarm.yaml").remove(0);
    let service = &stack["services"]["couchbase"];
    let variables: BTreeMap<String, String> =
        serde_json::from_value(service["environment"].clone()).unwrap();
    // With something else in place of the image's own entrypoint.
    assert_eq!(service["entrypoint"], serde_json::json!(["/bin/sh", "-c"]));
    let script = service["command"][0].as_str().unwrap().replace("$$", "$");
    let image = "exec /entrypoint.sh couchbase-server";
    assert!(script.contains(image), "{script}");
    let script = script.replace(image, "exec sleep 600");
    let (api, servers) = (Api::start(), Servers::start(1));
    let directory = tempfile::tempdir().unwrap();
    let _guard = in_container(&api, &servers, &variables, directory.path(), &script);

    // A real agent ends with 0 after a SIGTERM.
    for end in ["exit 0", "exit 1", "exit 137", "kill -TERM $$"] {
        let directory = tempfile::tempdir().unwrap();
        let started = directory.path().join("started");
        let program = |name: &str, text: String| {
            programs::write_script(&directory.path().join(name), &text);
        };
        // Ends the loop when it is started the second time.
        program(
            "cbbootstrap-agent",
            format!(
                "#!/bin/sh\necho x >> '{0}'\n[ $(wc -l < '{0}') -eq 1 ] || kill $PPID\n{end}\n",
                started.display()
            ),
        );
        program("sleep", "#!/bin/sh\n".to_owned());
        let script = script.replace("exec sleep 600", "wait");
        let user = User::default().with_programs(directory.path());
        Ended::of(&mut user.program(Path::new("/bin/sh"), &["-c", &script])).ended_with(0);
        assert_eq!(fs::read_to_string(started).unwrap().lines().count(), 2, "{end}");
    }
}

#[test]
fn the_scripts_are_valid() {
    for (path, text) in texts() {
        if text.starts_with("#!") {
            let checked = Command::new("bash")
                .arg("-n")
                .arg(programs::workspace().join(&path))
                .output()
                .unwrap();
            assert!(checked.status.success(), "{path}: {checked:?}");
            // It would write what it holds into the log.
            assert!(!text.contains("set -x") && !text.contains("-ex\n"), "{path}");
        }
    }
}
