//! The command line of `cbbootstrap-agent`: options, files, variables, errors and output.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    thread,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use cbbootstrap_protocol::{names::ClusterId, trust::ClusterKeys};
use cbbootstrap_tests::{
    agent::{Agents, LOGIN, SECRET},
    artifact,
    cli::{Ended, User, write_private},
    couchbase::{Node, Servers, Then},
    http,
    instance::Instance,
    local::Local,
    ministack::MiniStack,
    network::ForwardProxy,
    pattern::pattern,
    process::wait_until,
    programs,
    server::Stub,
    terminal::{Terminal, settled},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Some servers, a local deployment of the API, and the agents between them.
struct Scene {
    servers: Servers,
    agents: Agents,
    local: Local,
    data: TempDir,
}

impl Scene {
    fn of(servers: Servers) -> Self {
        let data = tempfile::tempdir().unwrap();
        let local = Local::with(data.path(), &["--no-smoke"]);
        Self { agents: Agents::new(&local.endpoint, "demo", &servers), servers, local, data }
    }

    fn start(count: usize) -> Self {
        Self::of(Servers::start(count))
    }

    /// With an environment variable of all agents.
    fn with(mut self, name: &str, value: &str) -> Self {
        self.agents = self.agents.with(name, value);
        self
    }

    /// The agent beside a node with these arguments, to be changed before it runs.
    fn command(&self, node: usize, args: &[&str]) -> Command {
        self.agents.command(&self.servers[node], args)
    }

    fn run(&self, node: usize, args: &[&str]) -> Ended {
        Ended::of(&mut self.command(node, args))
    }

    fn node(&self, node: usize) -> &Node {
        &self.servers[node]
    }

    /// A file with this text that only its owner may read.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.data.path().join(name);
        write_private(&path, text);
        path.display().to_string()
    }

    /// No server received a request to change anything.
    #[track_caller]
    fn assert_nothing_changed(&self) {
        let changes = self.servers.requests();
        let changes: Vec<_> = changes.iter().filter(|seen| seen.method != "GET").collect();
        assert!(changes.is_empty(), "{changes:?}");
    }

    /// Nothing was claimed either.
    #[track_caller]
    fn assert_nothing_claimed(&self) {
        assert_eq!(self.agents.record(), Value::Null);
    }
}

/// Checks the exit status, the error and its hint.
#[track_caller]
fn assert_fails(ended: &Ended, status: i32, error: &str, hint: &str) {
    ended.failed(status, error);
    let mut lines = ended.stderr.lines();
    assert!(
        lines.any(|line| line.starts_with("hint: ") && line.contains(hint)),
        "{hint:?} is not in the hint\n{ended}"
    );
}

fn with_stdin(mut command: Command, text: &str) -> Ended {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    Ended::of_child(child)
}

#[test]
fn wrong_usage_is_reported_before_anything_changes() {
    let scene = Scene::start(1);
    let up = |options: &[&str]| scene.run(0, &[&["up"], options].concat());
    for (options, error) in [
        (&["--memory-quota", "0%"][..], "a quota is"),
        (&["--memory-quota", "101%"], "a quota is"),
        (&["--memory-quota", "255"], "at least 256"),
        (&["--services", "data,bogus"], "`bogus` is not a service"),
        (&["--services", ""], "is not a service"),
        (&["--bucket", "app"], "NAME:MB"),
        (&["--bucket", "app:99"], "at least 100"),
        (&["--bucket", "app:256:4"], "0 to 3"),
        (&["--bucket", "a/b:256"], "`a/b` is not a bucket name"),
        (&["--node", "couchbase-0"], "is a short name"),
        (&["--node", "http://10.0.0.1"], "without scheme and port"),
        (&["--node", "127.0.0.1"], "is a different host on each node"),
        (&["--node", "localhost.localdomain"], "is a different host on each node"),
        (&["--lease", "29s"], "a lease lasts 30s to 24h"),
        (&["--lease", "soon"], "a number with a unit"),
        (&["--timeout", "9223372036854775807s"], "at most ten years"),
        (&["--interval=-1s"], "a number with a unit"),
        (&["--interval", "0s"], "an interval is 50ms to 1m"),
        (&["--interval", "5m"], "an interval is 50ms to 1m"),
        (&["--cluster-id", ""], "a cluster ID must not be empty"),
        (&["--cluster-id", "a b"], "must not contain white space"),
        (&["--cluster-id", "cbbootstrap-smoke-1"], "are reserved for `cbbootstrap smoke`"),
        (&["--auth", "basic"], "--auth"),
        (&["--frobnicate"], "--frobnicate"),
    ] {
        up(options).failed(2, error);
    }
    scene.run(0, &["down"]).failed(2, "down");
    scene.run(0, &[]).ended_with(2);
    assert!(scene.servers.requests().is_empty());
    scene.assert_nothing_claimed();
}

/// In PEM, but not a certificate.
const BROKEN: &str = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydA==\n-----END CERTIFICATE-----\n";

#[test]
fn wrong_usage_gets_a_hint() {
    let scene = Scene::start(1);
    let pem = scene.file("empty.pem", "nothing");
    let broken = scene.file("broken.pem", BROKEN);
    let cut = scene.file("cut.pem", BROKEN.split_once("-----END").unwrap().0);
    let large = scene.file("large", "");
    fs::File::options().write(true).open(&large).unwrap().set_len(1 << 40).unwrap();
    let empty = scene.file("empty", "\n");
    let spaces = scene.file("spaces", "open sesame");
    let up = |options: &[&str]| scene.run(0, &[&["up"], options].concat());
    for (options, error, hint) in [
        (
            &["--bucket", "app:256", "--bucket", "app:300"][..],
            "the bucket `app` is passed twice",
            "--bucket",
        ),
        (
            &["--bucket=a:200,b:200", "--memory-quota=300"],
            "the buckets need 400 MB on each node, and the data service has 300 MB",
            "--memory-quota",
        ),
        (&["--api", "ftp://api.example.com"], "`--api`: a URL is", "`cbbootstrap status`"),
        (&["--server", "ftp://127.0.0.1"], "`--server`: a URL is", "8091"),
        (
            &["--server", "http://192.0.2.10:8091"],
            "the password would be sent to http://192.0.2.10:8091 unencrypted",
            "https://",
        ),
        (&["--server", "HTTP://192.0.2.10:8091"], "unencrypted", "https://"),
        (
            &["--password-file", "-", "--secret-file", "-"],
            "standard input cannot hold both",
            "a file or the environment",
        ),
        (
            &["--password-file", "nowhere"],
            "cannot read the administrator's password from `nowhere`",
            "must exist",
        ),
        (&["--secret-file", &empty], "the cluster secret in `", "write the cluster secret there"),
        (
            &["--password-file", &empty],
            "the administrator's password in `",
            "write the administrator",
        ),
        (&["--secret-file", &spaces], "must have 16 to 512 bytes, and has 11", "openssl rand"),
        (&["--ca-cert", "nowhere"], "cannot read `nowhere`", "authority's certificate"),
        (&["--ca-cert", &pem], "contains no certificate", "PEM"),
        (&["--ca-cert", &broken], "contains no certificate", "PEM"),
        (&["--ca-cert", &cut], "its last block has no `-----END` line", "PEM"),
        (&["--ca-cert", &large], "it has more than 16 MiB", "PEM"),
        (&["--password-file", &large], "it has more than 16 MiB", "must exist"),
        (&["--config", &large], "it has more than 16 MiB", "`cluster_id: NAME`"),
        (&["--config", "nowhere"], "cannot read `nowhere`", "`cluster_id: NAME`"),
        (
            &["--api", "http://192.0.2.10:8080"],
            "is not on this host, and `http://` is not encrypted",
            "`--insecure`",
        ),
        (&["--auth=iam"], "the region of the API at", "`--region` or set `AWS_REGION`"),
    ] {
        assert_fails(&up(options), 2, error, hint);
    }
    // A password in a URL is not repeated.
    for option in ["--api", "--server"] {
        let refused = up(&[option, "https://user:t0p-s3cret@10.0.0.1"]);
        refused.failed(2, "no user name or password in it");
        assert!(!refused.stderr.contains("t0p-s3cret"), "{refused}");
    }
    for (variable, error, hint) in [
        ("CBBOOTSTRAP_API", "`--api` is missing", "CBBOOTSTRAP_API"),
        ("CBBOOTSTRAP_CLUSTER_ID", "`--cluster-id` is missing", "`--config`"),
        ("CB_REST_PASSWORD", "password is missing", "`--password-file`"),
    ] {
        let ended = Ended::of(scene.command(0, &["up"]).env_remove(variable));
        assert_fails(&ended, 2, error, hint);
    }
    let ended = Ended::of(scene.command(0, &["up"]).env("CB_REST_PASSWORD", ""));
    assert_fails(&ended, 2, "password is missing", "`CB_REST_PASSWORD`");
    every_problem_is_reported_at_once(&scene);
    assert!(scene.servers.requests().is_empty());
    scene.assert_nothing_claimed();
}

fn every_problem_is_reported_at_once(scene: &Scene) {
    let given = ["CBBOOTSTRAP_API", "CBBOOTSTRAP_CLUSTER_ID", "CB_REST_PASSWORD"];
    let mut nothing = scene.command(0, &["up"]);
    for variable in given {
        nothing.env_remove(variable);
    }
    let ended = Ended::of(&mut nothing);
    for (error, hint) in [
        ("`--api` is missing", "`--api`, or set `CBBOOTSTRAP_API`, or `api`"),
        (
            "`--cluster-id` is missing",
            "`--cluster-id`, or set `CBBOOTSTRAP_CLUSTER_ID`, or `cluster_id`",
        ),
        (
            "the administrator's password is missing",
            "`--password-file`, `CBBOOTSTRAP_PASSWORD_FILE`, or `password_file`",
        ),
    ] {
        assert_fails(&ended, 2, error, hint);
    }
    let wrong = ["up", "--api=http://192.0.2.10", "--server=http://192.0.2.10:8091"];
    let wrong = [&wrong[..], &["--password-file=-", "--secret-file=-"]].concat();
    let ended = Ended::of(&mut scene.command(0, &wrong));
    for (error, hint) in [
        ("the API at http://192.0.2.10 is not on this host", "`--insecure`"),
        ("the password would be sent to http://192.0.2.10:8091", "https://"),
        ("standard input cannot hold both", "put one of them"),
    ] {
        assert_fails(&ended, 2, error, hint);
    }
}

/// This needs a look at the server, or the API's word that the node is the first.
#[test]
fn an_impossible_first_node_stays_blank() {
    let scene = Scene::start(1);
    for (options, error, hint) in [
        (
            &["--node", "192.0.2.10"][..],
            "`192.0.2.10` is not an address of this host",
            "`--alternate-address`",
        ),
        (&["--memory-quota=100%"], "--memory-quota: the data service would have", ""),
        (
            &["--bucket=app:20000", "--bucket=cache:20000"],
            "the buckets need 40000 MB",
            "`--bucket`",
        ),
    ] {
        let cluster = format!("--cluster-id={}", options[0].trim_start_matches('-'));
        let ended = scene.run(0, &[&["up", &cluster], options].concat());
        ended.failed(2, error);
        assert!(ended.stderr.contains(hint), "{ended}");
    }
    scene.assert_nothing_changed();
    assert!(scene.node(0).is_blank());
}

/// The agent with these arguments, without configuration.
fn alone(user: &User, args: &[&str]) -> Ended {
    Ended::of(&mut user.program(&programs::agent(), args))
}

/// The options of a command, as its help lists them, each with its environment variable.
fn options_of(command: &str) -> Vec<(String, Option<String>)> {
    let help = alone(&User::default(), &[command, "--help"]).ended_with(0).stdout;
    let option = pattern(r"(?m)^ {2,6}(?:-\w, )?--([a-z-]+)");
    let variable = pattern(r"\[env: (\w+)=");
    let starts: Vec<_> = option.captures_iter(&help).collect();
    let ends = starts.iter().skip(1).map(|next| next.get(0).unwrap().start());
    let ends: Vec<_> = ends.chain([help.len()]).collect();
    let options = starts.iter().zip(ends).map(|(start, end)| {
        let said = &help[start.get(0).unwrap().start()..end];
        let variable = variable.captures(said).map(|found| found[1].to_owned());
        (start[1].to_owned(), variable)
    });
    options.collect()
}

#[test]
fn a_file_can_set_every_option_of_up() {
    let scene = Scene::start(1);
    let (node, ca_cert) = (scene.node(0), scene.servers.ca_cert().display().to_string());
    let (password, secret) =
        (scene.file("password", &format!("{}\n", LOGIN.1)), scene.file("secret", SECRET));
    let settings = json!({
        "api": scene.local.endpoint,
        "cluster_id": "filed",
        "secret_file": secret,
        "auth": "none",
        "region": "eu-west-1",
        "server": node.url(),
        "node": node.address(),
        "username": "admin",
        "password_file": password,
        "ca_cert": ca_cert,
        "insecure": true,
        "timeout": "1m",
        "interval": "100ms",
        "services": ["data", "query"],
        "memory_quota": 1024,
        "bucket": ["app:256:0", "cache:100"],
        "server_group": "us-east-1a",
        "alternate_address": "localhost",
        "cluster_name": "demo",
        "lease": "never",
        "settle": "0s",
        "adopt": false,
        "nodes": 1,
    });
    let all: Vec<_> = settings.as_object().unwrap().keys().cloned().collect();
    let of_up: Vec<_> = options_of("up")
        .into_iter()
        .filter(|(long, variable)| {
            assert!(
                variable.is_some() || ["help", "version", "output"].contains(&long.as_str()),
                "{long} has no environment variable"
            );
            !["help", "version", "output", "config"].contains(&long.as_str())
        })
        .map(|(long, _)| long.replace('-', "_"))
        .collect();
    let missing: Vec<_> = of_up.iter().filter(|key| !all.contains(key)).collect();
    assert!(missing.is_empty() && of_up.len() == all.len(), "{missing:?}");

    let file = scene.file("agent.yaml", &serde_yaml::to_string(&settings).unwrap());
    let user = User::default();
    let run = |args: &[&str]| alone(&user, &[args, &["--config", &file]].concat());
    let up = run(&["up", "--output", "json"]);
    let document = up.document();
    assert_eq!(document["cluster_id"], "filed", "{document}");
    assert_eq!(document["buckets"], json!(["app", "cache"]), "{document}");
    assert!(up.stderr.contains("warning: --insecure"), "{up}");
    let cluster = &scene.servers.clusters()[0];
    assert_eq!((cluster.name.as_str(), cluster.quota), ("demo", 1024));
    assert_eq!(cluster.groups, ["us-east-1a"]);
    assert_eq!(cluster.nodes[0].services, ["kv", "n1ql"]);
    assert_eq!(cluster.nodes[0].alternate["hostname"], "localhost");
    let login = Some(("admin", LOGIN.1));
    let pool = node.call("GET", "/pools/default", &[], login).unwrap();
    assert_eq!(pool.status, 200);

    // The other commands ignore options that they do not have.
    let discovered = run(&["discover"]).ended_with(0);
    assert_eq!(discovered.stdout, format!("{}\n", node.address()));
    run(&["status"]).ended_with(0);
}

#[test]
fn options_take_precedence_over_variables_and_these_over_the_file() {
    let scene = Scene::start(1);
    let file = scene.file(
        "agent.yaml",
        "{cluster_id: filed, node: filed, bucket: ['filed:100', 'filed:200'], services: [data, filed]}",
    );
    // The error shows which one is used.
    for (command, option, variable, error, status) in [
        ("discover", "cluster-id", "CBBOOTSTRAP_CLUSTER_ID", "claimed the cluster `NAMEd`", 1),
        ("status", "node", "CBBOOTSTRAP_NODE", "`NAMEd` is a short name", 2),
        ("up", "services", "CBBOOTSTRAP_SERVICES", "`NAMEd` is not a service", 2),
    ] {
        let option = format!("--{option}=optioned");
        for (options, value, expected) in [
            (&[][..], None, "file"),
            (&[], Some("varied"), "varie"),
            (&[option.as_str()], None, "optione"),
            (&[option.as_str()], Some("varied"), "optione"),
        ] {
            let args = [&[command, "--config", &file], options].concat();
            let mut command = scene.command(0, &args);
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
            Ended::of(&mut command).failed(status, &error.replace("NAME", expected));
        }
    }
    // A list is replaced, not added to.
    let up = |options: &[&str]| scene.run(0, &[&["up", "--config", &file], options].concat());
    let data = "--services=data";
    up(&[data]).failed(2, "the bucket `filed` is passed twice");
    up(&[data, "--bucket=mine:100", "--bucket=mine:200"])
        .failed(2, "the bucket `mine` is passed twice");
    scene.assert_nothing_changed();
    scene.assert_nothing_claimed();
}

#[test]
fn errors_name_what_is_wrong_with_the_file() {
    let scene = Scene::start(1);
    for (text, error, hint) in [
        ("clusterid: demo", "unknown key `clusterid`", "did you mean `cluster_id`?"),
        ("password: secret", "unknown key `password`", "did you mean `password_file`?"),
        ("color: red", "unknown key `color`", "the keys are: adopt, alternate_address"),
        ("output: json", "unknown key `output`", ""),
        ("config: other.yaml", "unknown key `config`", ""),
        ("shell: bash", "unknown key `shell`", ""),
        ("<<: {cluster_id: demo}", "merge keys (`<<`) are not supported", "`KEY: *NAME`"),
        ("1: 2", "key `1` must be a string", "quotes"),
        ("a: [", "invalid YAML", "cluster_id: NAME"),
        ("[a, b]", "must contain `key: value` pairs", "cluster_id: NAME"),
        ("text", "must contain `key: value` pairs", "cluster_id: NAME"),
        ("insecure: 5", "`insecure` must be `true` or `false`", "--help"),
        (
            "cluster_id: 123456789012345678901234",
            "invalid type: integer `123456789012345678901234`",
            "put the number in quotes",
        ),
        ("cluster_id: true", "`cluster_id` must be a string", "--help"),
        ("cluster_id:", "`cluster_id` must have a value", "--help"),
        ("node: [a, b]", "`node` must be a single value", "--help"),
        ("bucket: {app: 256}", "`bucket` must be a single value", "--help"),
        ("services: [1]", "`services` must be a list of names", "--help"),
    ] {
        let file = scene.file("agent.yaml", text);
        // The environment sets none of the file's options.
        let mut command = scene.command(0, &["up", "--config", &file]);
        command.env_remove("CBBOOTSTRAP_CLUSTER_ID").env_remove("CBBOOTSTRAP_NODE");
        let ended = Ended::of(&mut command);
        assert_fails(&ended, 2, error, hint);
        assert!(ended.stderr.contains(&format!("`{file}`")), "{ended}");
    }
    // A number is the name that the same characters are on the command line.
    for id in ["0x10", "0o17", "+5", "1e3", "1.10", "007", "1_000", "2026-01-02", "yes"] {
        let file = scene.file("agent.yaml", &format!("cluster_id: {id}"));
        let mut discover = scene.command(0, &["discover", "--config", &file]);
        discover.env_remove("CBBOOTSTRAP_CLUSTER_ID");
        let typed = scene.run(0, &["discover", "--cluster-id", id]);
        assert_eq!(Ended::of(&mut discover).stderr, typed.stderr, "{id}");
    }
    // What an option must hold holds for the file, too.
    let file = scene.file("agent.yaml", "memory_quota: 255");
    scene.run(0, &["up", "--config", &file]).failed(2, "at least 256");
    // An empty one is fine, and need not be named on the command line.
    let file = scene.file("agent.yaml", "# nothing yet\n");
    let mut discover = scene.command(0, &["discover"]);
    Ended::of(discover.env("CBBOOTSTRAP_AGENT_CONFIG", file))
        .failed(1, "nobody has claimed the cluster `demo`");
    scene.assert_nothing_changed();
}

/// The output contains neither the password nor the cluster secret in any encoding.
#[track_caller]
fn assert_hides(ended: &Ended) {
    let pair = format!("{}:{}", LOGIN.0, LOGIN.1);
    let escaped: String = form_urlencoded::byte_serialize(LOGIN.1.as_bytes()).collect();
    for secret in [LOGIN.1, SECRET, &escaped, &BASE64_STANDARD.encode(pair)] {
        let said = ended.stdout.contains(secret) || ended.stderr.contains(secret);
        assert!(!said, "it says {secret:?}\n{ended}");
    }
}

#[test]
fn secrets_come_from_files_standard_input_and_the_environment() {
    let scene = Scene::start(1);
    // As an editor and as `printf` end them.
    let password = scene.file("password", &format!("{}\r\n", LOGIN.1));
    let secret = scene.file("secret", SECRET);
    let (by_password, by_secret) = ("--password-file", "--secret-file");
    for (options, variables, stdin) in [
        (vec![], vec![("CB_REST_PASSWORD", LOGIN.1), ("CBBOOTSTRAP_SECRET", SECRET)], ""),
        (vec![by_password, &password, by_secret, &secret], vec![], ""),
        (vec![by_password, "-", by_secret, &secret], vec![], LOGIN.1),
        (vec![by_password, &password, by_secret, "-"], vec![], SECRET),
        (vec![by_secret, "-"], vec![("CBBOOTSTRAP_PASSWORD_FILE", password.as_str())], SECRET),
        (vec![by_password, "-"], vec![("CBBOOTSTRAP_SECRET_FILE", secret.as_str())], LOGIN.1),
        // A file beats the environment.
        (
            vec![by_password, &password, by_secret, &secret],
            vec![("CB_REST_PASSWORD", "wrong"), ("CBBOOTSTRAP_SECRET", "wrong")],
            "",
        ),
    ] {
        let mut command = scene.command(0, &[&["up"][..], &options].concat());
        command.env_remove("CB_REST_PASSWORD").envs(variables);
        let up = with_stdin(command, stdin).ended_with(0);
        assert_hides(&up);
    }
    assert_eq!(scene.servers.clusters().len(), 1);
    let keys = ClusterKeys::derive(SECRET.as_bytes(), &ClusterId::new("demo").unwrap());
    let record = scene.agents.record_with(keys.token());
    assert_eq!(record["state"], "ready", "{record}");
}

#[test]
fn requests_without_the_cluster_secret_are_refused() {
    let scene = Scene::start(2).with("CBBOOTSTRAP_SECRET", SECRET);
    scene.run(0, &["up"]).ended_with(0);
    let before = scene.servers.requests().len();
    for (name, value) in
        [("CBBOOTSTRAP_SECRET", Some("a wrong one, and long enough")), ("CBBOOTSTRAP_SECRET", None)]
    {
        for command in ["up", "discover", "leave"] {
            // The first one's server: to leave, one must be in.
            let node = usize::from(command == "up");
            let mut command = scene.command(node, &[command]);
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
            let refused = Ended::of(&mut command);
            assert_fails(&refused, 5, "the API refused the request", "`--secret-file`");
            assert_hides(&refused);
        }
        let mut status = scene.command(0, &["status"]);
        let status =
            Ended::of(status.env(name, value.unwrap_or("another wrong one"))).ended_with(1);
        assert!(status.stdout.contains("not healthy"), "{status}");
        assert_hides(&status);
    }
    let changes = scene.servers.requests().split_off(before);
    assert!(changes.iter().all(|seen| seen.method == "GET"), "{changes:?}");
    assert!(scene.node(1).is_blank());
    scene.run(1, &["up"]).ended_with(0);
    assert_eq!(scene.servers.clusters()[0].nodes.len(), 2);
}

#[test]
fn errors_do_not_print_secrets() {
    let scene = Scene::start(2).with("CBBOOTSTRAP_SECRET", SECRET);
    let (first, node) = (scene.node(0), scene.node(1));
    let up = |node, options: &[&str]| {
        let ended = scene.run(node, &[&["up"], options].concat());
        assert_hides(&ended);
        ended
    };
    // Not by a process that waits, either.
    node.kill();
    let waiting = scene.agents.start(node, &[]);
    let command_line = || fs::read_to_string(format!("/proc/{}/cmdline", waiting.id())).unwrap();
    wait_until("it runs", || command_line().contains("--output"));
    let command_line = command_line();
    assert!(!command_line.contains(SECRET) && !command_line.contains(LOGIN.1));
    assert_hides(&waiting.kill());
    let soon = "--timeout=1s";
    up(1, &[soon]).failed(3, "timed out after");
    node.restart();

    node.answer_500(true);
    up(1, &[soon]).failed(3, "returned status 500");
    node.answer_500(false);

    scene.servers.on_request(|seen| match seen.path.as_str() {
        "/clusterInit" => Then::Answer(400),
        _ => Then::Handle,
    });
    let refused = up(0, &[]).ended_with(1);
    assert!(
        refused.stderr.contains("refuses to initialize the cluster: This is a test."),
        "{refused}"
    );
    scene.servers.on_request(|seen| match seen.path.as_str() {
        "/clusterInit" => Then::Drop,
        _ => Then::Handle,
    });
    up(0, &["--timeout=2s"]).failed(3, "s: initialize");
    scene.servers.on_request(|_| Then::Handle);
    up(0, &[]).ended_with(0);

    // Its password is another one now.
    let another = [("username", LOGIN.0), ("password", "another"), ("port", "SAME")];
    let changed = first.call("POST", "/settings/web", &another, Some(LOGIN));
    assert_eq!(changed.unwrap().status, 200);
    up(0, &[soon]).failed(3, "the server has other credentials");
    let status = scene.run(0, &["status"]).ended_with(1);
    assert!(status.stdout.contains("refuses this user name and password"));
    assert_hides(&status);

    // Nor where more is asked for than there is.
    let mut untrusting = scene.command(1, &["up", soon]);
    untrusting
        .env_remove("CBBOOTSTRAP_CA_CERT")
        .env("RUST_BACKTRACE", "1")
        .env("RUST_LOG", "trace");
    let untrusting = Ended::of(&mut untrusting).ended_with(3);
    assert_hides(&untrusting);

    node.hang(true);
    up(1, &[soon]).failed(3, "no response in time");
}

#[test]
fn certificates_are_checked() {
    let scene = Scene::start(3);
    scene.run(0, &["up"]).ended_with(0);
    let before = scene.servers.requests().len();
    let strangers = Servers::start(1);
    let strange = strangers.ca_cert().display().to_string();
    let mut up = scene.command(1, &["up"]);
    let refused = Ended::of(up.env("CBBOOTSTRAP_CA_CERT", strange));
    assert_fails(&refused, 1, &scene.node(0).tls_url(), "`--ca-cert`");
    // Without an authority or a secret, the system's authorities do not count.
    let mut up = scene.command(1, &["up"]);
    let refused = Ended::of(up.env_remove("CBBOOTSTRAP_CA_CERT"));
    assert_fails(&refused, 5, "no way to verify its members", "`--secret-file`");
    // They sent the member no password and no request.
    let seen = scene.servers.requests().split_off(before);
    assert!(seen.iter().all(|seen| seen.node == 1), "{seen:?}");
    assert!(scene.node(1).is_blank());
    scene.run(1, &["up"]).ended_with(0);

    // As environments often contain it.
    let mut insecure = scene.command(2, &["up"]);
    insecure.env_remove("CBBOOTSTRAP_CA_CERT").env("CBBOOTSTRAP_INSECURE", "1");
    let insecure = Ended::of(&mut insecure).ended_with(0);
    assert!(
        insecure.stderr.contains("warning: --insecure: TLS certificates are not verified."),
        "{insecure}"
    );
    assert_eq!(scene.servers.clusters()[0].nodes.len(), 3);
    // A node's own server may be spoken to with TLS, too.
    let mut status = scene.command(1, &["status"]);
    Ended::of(status.env("CBBOOTSTRAP_SERVER", scene.node(1).tls_url())).ended_with(0);
}

#[test]
fn the_community_edition_has_no_tls() {
    let scene = Scene::of(Servers::start_community(2));
    scene.run(0, &["up"]).ended_with(0);
    let before = scene.servers.requests().len();
    let refused = scene.run(1, &["up"]);
    assert_fails(&refused, 5, "Community Edition has no TLS", "`--insecure`");
    let seen = scene.servers.requests().split_off(before);
    assert!(seen.iter().all(|seen| seen.node == 1), "{seen:?}");
    assert!(scene.node(1).is_blank());
    let joined = scene.run(1, &["up", "--insecure"]).ended_with(0);
    assert!(joined.stderr.contains("warning: --insecure"), "{joined}");
    assert_eq!(scene.servers.clusters()[0].nodes.len(), 2);
}

#[test]
fn discover_prints_the_nodes_to_connect_to() {
    let scene = Scene::start(2);
    let discover = |options: &[&str]| scene.run(0, &[&["discover"], options].concat());
    assert_fails(&discover(&[]), 1, "nobody has claimed the cluster `demo`", "`--cluster-id`");
    let elsewhere = discover(&["--api=http://127.0.0.1:1"]);
    assert_fails(&elsewhere, 1, "does not answer", "check `--api`");
    http::claim(&scene.local.endpoint, "claimed", "10.0.0.9").unwrap();
    assert_fails(
        &discover(&["--cluster-id", "claimed"]),
        1,
        "`10.0.0.9` has not reported the cluster ready yet",
        "`--wait`",
    );
    discover(&["--wait", "--timeout=3s"]).failed(3, "nobody has claimed the cluster `demo`");
    discover(&["--format", "xml"]).failed(2, "--format");
    let unverified = discover(&["--write-ca-cert", "ca.pem"]);
    assert_fails(&unverified, 2, "`--write-ca-cert` needs the cluster secret", "`--secret-file`");

    // It needs neither a server nor a password.
    let mut waiting = scene.command(0, &["discover", "--wait"]);
    waiting.env_remove("CB_REST_PASSWORD");
    let waiting = waiting.spawn().unwrap();
    for node in 0..2 {
        scene.run(node, &["up"]).ended_with(0);
    }
    let (first, second) = (scene.node(0).address(), scene.node(1).address());
    let waited = Ended::of_child(waiting).ended_with(0);
    assert!(waited.stdout.starts_with(&first), "{waited}");
    // For the claim, or if the first node was quicker, for its report.
    assert!(waited.stderr.contains("waiting: "), "{waited}");

    let text = discover(&[]).ended_with(0);
    assert_eq!(text.stdout, format!("{first}\n{second}\n"));
    assert_eq!(text.stderr, "");
    let string = format!("couchbases://{first},{second}");
    assert_eq!(
        discover(&["--format", "json"]).document(),
        json!({
            "cluster_id": "demo",
            "cluster_uuid": scene.servers.clusters()[0].uuid,
            "nodes": [first, second],
            "connection_string": string,
        })
    );
    let connection = discover(&["--format", "connection-string"]).ended_with(0);
    assert_eq!(connection.stdout, format!("{string}\n"));

    // IPv6 addresses are written in brackets.
    http::claim(&scene.local.endpoint, "six", "fd00::1").unwrap();
    let ready = r#"{"cluster_id": "six", "node_ip_addr_or_hostname": "fd00::1"}"#;
    let ready = http::post(&scene.local.endpoint, "/cluster/ready", ready).unwrap();
    assert_eq!(ready.status, 200, "{ready:?}");
    let six = discover(&["--cluster-id=six", "--format=connection-string"]).ended_with(0);
    assert_eq!(six.stdout, "couchbases://[fd00::1]\n");

    // A reader that closes the pipe after the first line does not cause a failure.
    let mut piped = scene.command(0, &["discover"]);
    let mut piped = piped.spawn().unwrap();
    drop(piped.stdout.take());
    Ended::of_child(piped).ended_with(0);
}

#[test]
fn status_shows_the_server_and_the_api() {
    let scene = Scene::start(2);
    let status = |node, options: &[&str]| scene.run(node, &[&["status"], options].concat());
    let says = |ended: &Ended, parts: &[&str]| {
        for part in parts {
            assert!(ended.stdout.contains(part), "{part:?}\n{ended}");
        }
    };
    let blank = status(0, &[]).ended_with(1);
    says(&blank, &["belongs to no cluster", "nobody has claimed it", "not healthy"]);
    scene.run(0, &["up", "--bucket=app:256"]).ended_with(0);
    let well = status(0, &[]).ended_with(0);
    let (first, second) = (scene.node(0).address(), scene.node(1).address());
    let uuid = scene.servers.clusters()[0].uuid.clone();
    says(
        &well,
        &[
            &format!("cluster  {uuid}, balanced"),
            &format!("{first}: active, Group 1"),
            "buckets: app",
            &format!("ready, generation 1, to join: {first}"),
            &format!("reported ready: {first}"),
            "healthy",
        ],
    );
    assert_eq!(well.stderr, "");
    assert_eq!(
        status(0, &["--output", "json"]).document(),
        json!({
            "healthy": true,
            "node": first,
            "server": {
                "url": scene.node(0).url(),
                "version": "7.6.8-7151-enterprise",
                "cluster": {
                    "uuid": uuid,
                    "balanced": true,
                    "rebalancing": false,
                    "nodes": [{"name": first, "membership": "active", "healthy": true, "status": "healthy", "group": "Group 1"}],
                    "buckets": ["app"],
                },
            },
            "api": {
                "url": scene.local.endpoint,
                "cluster_id": "demo",
                "cluster": scene.agents.record(),
            },
        })
    );

    // Added by hand, and no rebalance since.
    let host = format!("https://{second}");
    let form = [("hostname", host.as_str()), ("user", ""), ("password", ""), ("services", "kv")];
    let added = scene.node(0).call("POST", "/controller/addNode", &form, Some(LOGIN));
    assert_eq!(added.unwrap().status, 200);
    let added = status(1, &[]).ended_with(1);
    says(&added, &["not balanced", &format!("{second}: added"), "not healthy"]);
    scene.run(1, &["up"]).ended_with(0);
    status(1, &[]).ended_with(0);

    // Another cluster's record, and none that can be asked.
    let other = status(0, &["--cluster-id", "other"]).ended_with(1);
    says(&other, &["nobody has claimed it", "not healthy"]);
    let away = status(0, &["--api", "http://127.0.0.1:1"]).ended_with(1);
    says(&away, &["the connection is refused", "balanced", "not healthy"]);
    scene.node(0).kill();
    let down = status(0, &["--output", "json"]).ended_with(1);
    let down: Value = serde_json::from_str(&down.stdout).unwrap();
    assert_eq!(down["healthy"], false, "{down}");
    let error = down["server"]["error"].as_str().unwrap();
    assert!(error.contains("the connection is refused"), "{down}");
    assert_eq!(down["api"]["cluster"]["state"], "ready", "{down}");
}

#[test]
fn keys_that_cannot_be_signed_with_are_refused() {
    let api = ["--api=http://127.0.0.1:9", "--cluster-id=c", "--auth=iam"];
    let discover = [&["discover"], &api[..]].concat();
    for (variable, value, key) in [
        ("AWS_ACCESS_KEY_ID", "te\u{1b}st", "the access key ID"),
        ("AWS_SECRET_ACCESS_KEY", "te st", "the secret access key"),
        ("AWS_SESSION_TOKEN", "t\u{f6}st", "the session token"),
        ("AWS_SECURITY_TOKEN", "te\nst", "the session token"),
    ] {
        let user = User::default()
            .with("AWS_REGION", "us-east-1")
            .with("AWS_ACCESS_KEY_ID", "a")
            .with("AWS_SECRET_ACCESS_KEY", "b")
            .with(variable, value);
        let error = format!("the environment: {key} contains");
        assert_fails(&alone(&user, &discover), 2, &error, "copy the key again");
    }
}

#[test]
fn help_version_and_completions() {
    let user = User::default();
    let run = |args: &[&str]| alone(&user, args);
    let version = run(&["--version"]).ended_with(0).stdout;
    assert_eq!(version, concat!("cbbootstrap-agent ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = run(&["--help"]).ended_with(0).stdout;
    for part in ["up", "discover", "leave", "status", "Exit status:", "CB_REST_PASSWORD"] {
        assert!(help.contains(part), "{part}\n{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).ended_with(0).stdout;
        assert!(script.contains("CBBOOTSTRAP_COMPLETE"), "{script}");
        if shell == "bash" {
            let mut bash = Command::new("bash");
            bash.args(["-n", "/dev/stdin"]).stdout(Stdio::piped()).stderr(Stdio::piped());
            let checked = with_stdin(bash, &script).ended_with(0);
            assert_eq!(checked.stderr, "");
        }
    }
    let words = ["--", "cbbootstrap-agent", "up", "--alt"];
    let mut asked = user.program(&programs::agent(), &words);
    let asked = Ended::of(asked.env("CBBOOTSTRAP_COMPLETE", "fish")).ended_with(0);
    assert!(asked.stdout.starts_with("--alternate-address\t"), "{asked}");
    // A reader that has had enough of it.
    let mut piped = user.program(&programs::agent(), &["completions", "bash"]);
    let mut piped = piped.spawn().unwrap();
    drop(piped.stdout.take());
    let piped = Ended::of_child(piped).ended_with(0);
    assert_eq!(piped.stderr, "");
    run(&["completions", "tcsh"]).failed(2, "tcsh");
}

#[test]
fn a_timeout_reports_what_the_agent_waits_for() {
    let scene = Scene::start(1);
    let soon = "--timeout=500ms";
    let up = |options: &[&str]| scene.run(0, &[&["up", soon], options].concat());
    let late = |ended: &Ended, parts: &[&str]| {
        for part in parts {
            assert_fails(ended, 3, part, "run the command again to continue");
        }
        ended.failed(3, "timed out after 0.5 s: ");
    };
    scene.node(0).kill();
    let down = up(&[]);
    late(&down, &[&scene.node(0).url(), "the connection is refused"]);
    // The reason is logged once, after any number of checks.
    let waiting = down.stderr.lines().filter(|line| line.contains("waiting: "));
    assert_eq!(waiting.count(), 1, "{down}");
    assert!(!down.stderr.contains('\u{1b}'), "{down}");
    scene.node(0).restart();

    late(
        &up(&["--api", "http://127.0.0.1:1"]),
        &["http://127.0.0.1:1 does not answer: the connection is refused"],
    );
    http::claim(&scene.local.endpoint, "demo", "10.0.0.9").unwrap();
    late(&up(&[]), &["`10.0.0.9` has not initialized the cluster yet; its claim never expires"]);
    let leased =
        r#"{"cluster_id": "leased", "node_ip_addr_or_hostname": "10.0.0.9", "lease_seconds": 600}"#;
    http::post(&scene.local.endpoint, "/cluster", leased).unwrap();
    let leased = up(&["--cluster-id", "leased"]);
    late(&leased, &["its claim expires in "]);
    // Only the seconds differ, so no line is logged.
    let waiting = leased.stderr.lines().filter(|line| line.contains("  waiting: "));
    assert_eq!(waiting.count(), 1, "{leased}");
    scene.assert_nothing_changed();
}

#[test]
fn other_services_are_not_mistaken_for_couchbase_or_the_api() {
    let scene = Scene::start(1);
    let page = Stub::start(|_| (404, "<html>\n<title>Not here</title></html>".to_owned()));
    let status = |option: &str, url: &str| {
        let status = scene.run(0, &["status", option, url]).ended_with(1);
        assert!(!status.stdout.contains("<html>"), "{status}");
        status.stdout
    };
    let server = status("--server", &page.url);
    assert!(server.contains(&format!("{} returned status 404", page.url)), "{server}");
    let refusal = r#"{"code":"route_not_found","status":404}"#;
    let other = Stub::start(|_| (404, refusal.to_owned()));
    let server = status("--server", &other.url);
    let message = "is not a Couchbase Server: code: route_not_found; status: 404";
    assert!(server.contains(&format!("{0} {message} ({0})", other.url)), "{server}");
    let api = status("--api", &page.url);
    assert!(api.contains("in a form that cbbootstrap's API does not use"), "{api}");
    let (node, endpoint) = (scene.node(0).url(), &scene.local.endpoint);
    for (option, plain) in [("--server", &node), ("--api", endpoint)] {
        let tls = status(option, &plain.replace("http:", "https:"));
        assert!(tls.contains("it does not speak TLS"), "{tls}");
    }
    let discovered = scene.run(0, &["discover", "--api", &page.url]);
    assert_fails(&discovered, 1, "returned status 404", "`cbbootstrap status`");
    let up = scene.run(0, &["up", "--timeout=300ms", "--server", &page.url]);
    assert_fails(&up, 3, &format!("{} returned status 404", page.url), "");
    // A valid response of another service.
    let json = Stub::start(|_| (200, "{}".to_owned()));
    scene.run(0, &["discover", "--api", &json.url]).failed(1, "is not a cbbootstrap API");
    let server = status("--server", &json.url);
    assert!(server.contains("does not answer as Couchbase Server does"), "{server}");
    scene.assert_nothing_changed();
}

#[test]
fn the_manual_has_sections_of_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().display().to_string();
    Ended::of(&mut User::default().program(&programs::agent(), &["man-pages", &pages]))
        .ended_with(0);
    let page = fs::read_to_string(directory.path().join("cbbootstrap-agent.1")).unwrap();
    let help = Ended::of(&mut User::default().program(&programs::agent(), &["help", "up"]));
    assert!(help.ended_with(0).stdout.contains("--cluster-id"));
    for section in [".SH \"EXIT STATUS\"\n.nf\n  0  success", "\nSecrets come from files"] {
        assert!(page.contains(section), "{section}: {page}");
    }
    let headings = page.lines().filter(|line| line.starts_with(".SH "));
    let broken = headings.filter(|line| line.contains('`') || line.matches('"').count() % 2 > 0);
    assert_eq!(broken.collect::<Vec<_>>(), [""; 0]);
}

/// Discovers the nodes with these variables. Returns its error and the hosts that the proxy at `{proxy}` was asked for.
fn discover_by_proxy(variables: &[(&str, &str)]) -> (Ended, Vec<String>) {
    let api = Stub::start(|_| (404, String::new()));
    let proxy = ForwardProxy::before(&api.url, None);
    let authority = tempfile::NamedTempFile::new().unwrap();
    fs::write(authority.path(), proxy.authority()).unwrap();
    let user = User::default();
    let mut discover = user.program(&programs::agent(), &["discover", "--cluster-id=c"]);
    discover.env("SSL_CERT_FILE", authority.path());
    for (name, value) in variables {
        discover.env(name, value.replace("{proxy}", &proxy.url));
    }
    (Ended::of(&mut discover), proxy.targets())
}

/// The same variables choose the proxy of `cbbootstrap`.
#[test]
fn variables_choose_the_proxy_for_the_api() {
    const PROXY: (&str, &str) = ("HTTPS_PROXY", "{proxy}");
    let (name, address) = ("https://api.corp.invalid", "https://240.0.0.1:8443");
    for (variables, url, target) in [
        (&[PROXY][..], name, Some("api.corp.invalid:443")),
        (&[PROXY], address, Some("240.0.0.1:8443")),
        (&[("ALL_PROXY", "{proxy}")], name, Some("api.corp.invalid:443")),
        (&[PROXY, ("ALL_PROXY", "http://127.0.0.1:1")], name, Some("api.corp.invalid:443")),
        (
            &[("https_proxy", "{proxy}"), ("HTTPS_PROXY", "http://127.0.0.1:1")],
            name,
            Some("api.corp.invalid:443"),
        ),
        (&[PROXY, ("NO_PROXY", "other.invalid, 240.0.0.1:443")], address, Some("240.0.0.1:8443")),
        (&[("HTTP_PROXY", "{proxy}")], name, None),
        (&[PROXY, ("NO_PROXY", "corp.invalid")], name, None),
        (&[PROXY, ("NO_PROXY", "other.invalid, .invalid")], name, None),
        (&[PROXY, ("NO_PROXY", ""), ("no_proxy", "corp.invalid")], name, None),
        (&[PROXY, ("NO_PROXY", "10.0.0.0/8,240.0.0.0/4")], address, None),
    ] {
        let variables = [&[("CBBOOTSTRAP_API", url)], variables].concat();
        let (ended, targets) = discover_by_proxy(&variables);
        assert_eq!(targets, Vec::from_iter(target), "{variables:?}\n{ended}");
        let why = if target.is_some() { "returned status 404" } else { "does not answer" };
        ended.failed(1, why);
    }
    let api = ("CBBOOTSTRAP_API", name);
    let (ended, _) = discover_by_proxy(&[api, ("HTTPS_PROXY", "http://u:geheim@127.0.0.1:1")]);
    ended.failed(1, "through the proxy `http://127.0.0.1:1` (`HTTPS_PROXY`) does not answer");
    assert!(!ended.stderr.contains("geheim"), "{ended}");
    assert!(ended.stderr.contains("hint: check the proxy's URL, user and password"), "{ended}");
    let strict = ForwardProxy::before("http://127.0.0.1:1", Some("user:password"));
    let (ended, _) = discover_by_proxy(&[api, ("HTTPS_PROXY", &strict.url)]);
    ended.failed(
        1,
        "(`HTTPS_PROXY`) does not answer: the proxy refuses the connection (status 407)",
    );
    assert!(ended.stderr.contains("hint: check the proxy's URL, user and password"), "{ended}");
    let (ended, _) = discover_by_proxy(&[api, ("ALL_PROXY", "socks5://127.0.0.1:1")]);
    assert_fails(&ended, 2, "`ALL_PROXY` is not the URL of an HTTP proxy", "SOCKS proxies are not");
}

#[test]
fn errors_name_the_lock_and_the_signals() {
    let (scene, user) = (Scene::start(1), User::default());
    // The first four are taken by standard streams and the signals' pipe.
    for (limit, part) in
        [(4, "cannot wait for signals"), (5, "cannot acquire the lock of the server")]
    {
        let agent = scene.command(0, &["run", "--insecure"]);
        let mut limited = user.program("/bin/sh".as_ref(), &["-c"]);
        // Without files that the caller of the tests has left open.
        limited.arg(format!(r#"ulimit -n {limit}; exec 3<&- 4<&- timeout 2 "$0" "$@""#));
        limited.arg(agent.get_program()).args(agent.get_args());
        limited.envs(agent.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ended = Ended::of(limited.env_remove("CBBOOTSTRAP_CA_CERT"));
        let line = ended.stderr.lines().find(|line| line.contains("Too many open files"));
        assert!(line.is_some_and(|line| line.contains(part)), "{limit} {ended}");
    }
}

/// EC2's metadata service, version 2: without a token it refuses.
fn instance(paths: &'static [(&'static str, &'static str)], credentials: String) -> Stub {
    Stub::start(move |request| {
        if request.method == "PUT" && request.path == "/latest/api/token" {
            let asked = request.header("x-aws-ec2-metadata-token-ttl-seconds").is_some();
            return (if asked { 200 } else { 400 }, "a-token".to_owned());
        }
        if request.header("x-aws-ec2-metadata-token") != Some("a-token") {
            return (401, String::new());
        }
        let path = request.path.strip_prefix("/latest/meta-data/").unwrap_or_default();
        if path == "iam/security-credentials/the-role" {
            return (200, credentials.clone());
        }
        match paths.iter().find(|(known, _)| *known == path) {
            Some((_, text)) => (200, (*text).to_owned()),
            None => (404, String::new()),
        }
    })
}

/// Credentials as the metadata services hand them out.
fn handed_out(credentials: &Value) -> String {
    json!({
        "AccessKeyId": credentials["AccessKeyId"],
        "SecretAccessKey": credentials["SecretAccessKey"],
        "Token": credentials["SessionToken"],
        "Expiration": "2099-01-01T00:00:00Z",
    })
    .to_string()
}

#[test]
fn requests_are_signed_with_every_kind_of_aws_credentials() {
    let aws = MiniStack::start();
    let zip = artifact::zip().to_owned();
    let deploy = ["deploy", "--no-smoke", "--auth=iam", "--output=json", "--function-zip", &zip];
    let endpoint = aws.user().run(&deploy).document()["endpoint"].clone();
    let endpoint = endpoint.as_str().unwrap();
    let credentials = aws.boto("client('sts').get_session_token()['Credentials']");
    let secret = credentials["SecretAccessKey"].as_str().unwrap();
    let instance =
        instance(&[("iam/security-credentials/", "the-role\n")], handed_out(&credentials));
    let handed = handed_out(&credentials);
    let task = Stub::start(move |request| {
        let is_known = request.path == "/v2/credentials"
            && request.header("authorization") == Some("Bearer a");
        if is_known { (200, handed.clone()) } else { (403, "no".to_owned()) }
    });
    let task_url = format!("{}/v2/credentials", task.url);
    let token = tempfile::NamedTempFile::new().unwrap();
    fs::write(token.path(), "Bearer a\n").unwrap();
    let token = token.path().display().to_string();
    let servers = Servers::start(4);
    let agents = |cluster: &str| {
        Agents::new(endpoint, cluster, &servers)
            .with("http_proxy", "http://127.0.0.1:1")
            .with("CBBOOTSTRAP_AUTH", "iam")
            .with("AWS_REGION", "us-east-1")
            .with("CBBOOTSTRAP_TIMEOUT", "30s")
    };
    let part = |name: &str| credentials[name].as_str().unwrap();
    let (full, in_full) = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", task_url.as_str());
    for (index, variables) in [
        vec![
            ("AWS_ACCESS_KEY_ID", part("AccessKeyId")),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_SESSION_TOKEN", part("SessionToken")),
        ],
        vec![
            // An empty variable counts as not set.
            ("AWS_ACCESS_KEY_ID", ""),
            ("AWS_SECRET_ACCESS_KEY", ""),
            ("AWS_EC2_METADATA_DISABLED", "false"),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &instance.url),
        ],
        vec![(full, in_full), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Bearer a")],
        vec![(full, in_full), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token)],
    ]
    .into_iter()
    .enumerate()
    {
        let agents = variables
            .iter()
            .fold(agents(&format!("c{index}")), |agents, (name, value)| agents.with(name, value));
        let up = agents.up(&servers[index], &[]);
        assert_eq!(up.document()["is_initial_node"], true, "{up}");
        assert!(!up.stderr.contains(secret), "{up}");
        agents.run(&servers[index], &["discover"]).ended_with(0);
    }

    // Requests without valid credentials.
    let none = agents("c9").run(&servers[0], &["discover"]);
    assert_fails(&none, 1, "no AWS credentials found", "AWS_ACCESS_KEY_ID");
    let unsigned = agents("c9").with("CBBOOTSTRAP_AUTH", "none");
    let unsigned = unsigned.run(&servers[0], &["discover"]);
    assert_fails(&unsigned, 1, "returned status 403", "`--auth iam`");
    let wrong = agents("c9")
        .with("AWS_ACCESS_KEY_ID", part("AccessKeyId"))
        .with("AWS_SECRET_ACCESS_KEY", "wrong");
    let wrong = wrong.run(&servers[0], &["discover"]);
    assert_fails(&wrong, 1, "returned status 403", "`execute-api:Invoke`");
    let denied =
        agents("c9").with(full, in_full).with("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Bearer b");
    let denied = denied.run(&servers[0], &["discover"]);
    assert_fails(&denied, 1, "status 403", "task");
}

/// A pod on EKS with a role of its service account (IRSA), on a machine that has another role.
#[test]
fn a_web_identity_is_refused_instead_of_the_machines_role() {
    let machine = instance(&[("iam/security-credentials/", "the-role")], "{}".to_owned());
    let api = Stub::start(|_| (403, String::new()));
    for is_off in ["true", "false"] {
        let user = User::default();
        let mut discover = user.program(&programs::agent(), &["discover", "--cluster-id=c"]);
        discover
            .env("CBBOOTSTRAP_API", &api.url)
            .env("CBBOOTSTRAP_AUTH", "iam")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ROLE_ARN", "arn:aws:iam::000000000000:role/pod")
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/eks.amazonaws.com/token")
            .env("AWS_EC2_METADATA_DISABLED", is_off)
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &machine.url);
        let refused = Ended::of(&mut discover);
        assert_fails(&refused, 1, "with a web identity (`AWS_WEB_IDENTITY", "EKS Pod Identity");
    }
    assert!(machine.requests().is_empty() && api.requests().is_empty());
}

/// Other nodes cannot use a loopback address or a short host name, so the agent reads the name from AWS.
#[test]
fn the_node_name_defaults_to_the_ecs_or_ec2_name() {
    let named = |variables: &[(&str, &str)]| {
        let user = User::default();
        let mut command = user.program(&programs::agent(), &["status", "--output=json"]);
        command
            .env("CBBOOTSTRAP_API", "http://127.0.0.1:1")
            .env("CBBOOTSTRAP_CLUSTER_ID", "demo")
            .env("CB_REST_PASSWORD", LOGIN.1)
            .env("CBBOOTSTRAP_SERVER", "http://127.0.0.1:1")
            .envs(variables.iter().copied());
        let ended = Ended::of(&mut command);
        let status: Option<Value> = serde_json::from_str(&ended.stdout).ok();
        (status.map(|status| status["node"].clone()), ended)
    };
    let task =
        |networks: Value| Stub::start(move |_| (200, json!({"Networks": networks}).to_string()));
    let ecs = "ECS_CONTAINER_METADATA_URI_V4";
    for (networks, expected) in [
        (
            json!([{"IPv4Addresses": ["127.9.0.1"], "PrivateDNSName": "ip-10-0-0-1.ec2.internal"}]),
            "ip-10-0-0-1.ec2.internal",
        ),
        (json!([{"IPv4Addresses": ["127.9.0.1"]}]), "127.9.0.1"),
    ] {
        let (node, ended) = named(&[(ecs, &task(networks).url)]);
        assert_eq!(node, Some(json!(expected)), "{ended}");
    }
    // Where the host has a full name, that is taken before EC2's.
    let (own, ended) = named(&[]);
    if own.is_some() {
        return;
    }
    assert_fails(&ended, 2, "other nodes cannot reach this host by its host name", "`--node`");
    let instance = instance(&[("local-hostname", "ip-10-0-0-2.ec2.internal")], String::new());
    let ec2 = [
        ("AWS_EC2_METADATA_DISABLED", "false"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", instance.url.as_str()),
    ];
    let (node, ended) = named(&ec2);
    assert_eq!(node, Some(json!("ip-10-0-0-2.ec2.internal")), "{ended}");
    // The service is silent while the machine boots, or for longer.
    let booting = Instance::start();
    booting.set("local-hostname", "ip-10-0-0-3.ec2.internal");
    booting.fail(true);
    let (node, ended) = thread::scope(|scope| {
        let named = scope.spawn(|| named(&booting.variables()));
        wait_until("the service is asked", || !booting.metadata_requests().is_empty());
        booting.fail(false);
        named.join().unwrap()
    });
    assert_eq!(node, Some(json!("ip-10-0-0-3.ec2.internal")), "{ended}");
    let silent = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1");
    let (_, ended) = named(&[ec2[0], silent]);
    assert_fails(&ended, 1, "EC2's metadata service does not answer", "`--node`");
    // Metadata of a task without names: the host's name in EC2 is used.
    let empty = task(json!([]));
    let (node, ended) = named(&[ec2[0], ec2[1], (ecs, &empty.url)]);
    assert_eq!(node, Some(json!("ip-10-0-0-2.ec2.internal")), "{ended}");
}

#[test]
fn a_terminal_shows_progress_in_one_line() {
    let scene = Scene::start(1);
    scene.node(0).kill();
    let up = scene.command(0, &["up", "--bucket=app:256"]);
    let mut terminal = Terminal::of(&up, (220, 40));
    terminal.wait_for("the connection is refused");
    let waiting = terminal.screen();
    assert_eq!(waiting.lines().count(), 1, "{waiting}");
    scene.node(0).restart();
    assert_eq!(terminal.wait(), Some(0), "{}", terminal.screen());
    let screen = settled(&terminal.screen())
        .replace(&scene.node(0).address(), "<node>")
        .replace(&scene.servers.clusters()[0].uuid, "<uuid>");
    insta::assert_snapshot!(screen, @r"
        <n> s  server: http://<node>:8091 runs 7.6.8-7151-enterprise and belongs to no cluster yet
        <n> s  claim: this node is the first (generation 1)
        <n> s  initialize: a cluster of one node, 19284 MB, data
        <n> s  ready: reported
        <n> s  bucket: `app`, 256 MB on each node
    `<node>` is an active member of `demo` (<uuid>), which is balanced and has 1 node
    ");

    // The same in one that is too narrow for it.
    scene.node(0).kill();
    let up = scene.command(0, &["up"]);
    let mut terminal = Terminal::of(&up, (40, 20));
    terminal.wait_for("does not");
    thread::sleep(std::time::Duration::from_secs(1));
    let waiting = terminal.transcript();
    assert_eq!(waiting.matches("does not").count(), 1, "{waiting}");
    terminal.press_ctrl_c();
    assert_eq!(terminal.wait(), None, "a signal ends it");
}
