//! Sync Gateway of `templates/couchbase-cluster.yaml`: its user data, as `cbbootstrap launch` deploys it to MiniStack, in a mount namespace,
//! and the user that the nodes create for it. What changes the host (packages, systemd) is a stand-in.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use cbbootstrap_tests::{
    agent::{Agents, Api, LOGIN, SECRET},
    couchbase::{Servers, Then},
    instance::Instance,
    ministack::MiniStack,
    process::Guard,
    programs, python,
};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

const PATIENCE: Duration = Duration::from_mins(5);

/// Gives the instance its own `/etc`, `/opt`, `/var/log` and `/usr/local/bin`, and runs the user data in `$HOME`.
const BOOT: &str = r#"
set -e
cp -a /etc "$HOME/etc"
mkdir -p "$HOME/opt" "$HOME/log" "$HOME/bin"
cp "$AGENT" "$HOME/bin/cbbootstrap-agent"
for pair in etc:/etc opt:/opt log:/var/log bin:/usr/local/bin; do
    mount --bind "$HOME/${pair%%:*}" "${pair#*:}"
done
mkdir -p /etc/systemd/system
status=0
bash "$HOME/user-data" >"$HOME/output" 2>&1 || status=$?
echo "$status" >"$HOME/status.new"
mv "$HOME/status.new" "$HOME/status"
exec sleep infinity
"#;

/// systemd for one unit: it runs the commands before the start, and restarts the service after a failure.
const SYSTEMCTL: &str = r#"#!/usr/bin/env python3
import os, shlex, subprocess, sys
words = [word for word in sys.argv[1:] if not word.startswith("--")]
if words != ["restart", "sync_gateway"]:
    sys.exit(0)
unit = [line.strip().partition("=") for line in open("/etc/systemd/system/sync_gateway.service")]
commands = lambda key: [shlex.split(value.lstrip("+")) for name, _, value in unit if name == key]
settings = {name: value for name, _, value in unit}
assert settings["Restart"] == "always" and settings["User"] == "sync_gateway", settings
# The role's credentials, and not those of the AWS CLI.
environment = {name: value for name, value in os.environ.items() if name not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
if os.fork() == 0:
    while True:
        if all(subprocess.run(command, env=environment).returncode == 0 for command in commands("ExecStartPre")):
            subprocess.run(commands("ExecStart")[0], env=environment)
"#;

/// Sync Gateway: it verifies the cluster's certificate with the configured authority before it serves.
const GATEWAY: &str = r#"#!/usr/bin/env python3
import http.server, json, socket, ssl, sys
config = json.load(open(sys.argv[1]))
server = config["bootstrap"]["server"]
assert server.startswith("couchbases://"), server
context = ssl.create_default_context(cafile=config["bootstrap"]["ca_cert_path"])
for host in server.removeprefix("couchbases://").split(","):
    with socket.create_connection((host, 18091)) as plain:
        context.wrap_socket(plain, server_hostname=host).close()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
port = int(config["api"]["public_interface"].lstrip(":"))
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"#;

fn may_make_namespaces() -> bool {
    let unshare = Command::new("unshare").args(["--mount", "true"]).output();
    let may = unshare.is_ok_and(|output| output.status.success());
    if !may {
        eprintln!("skipped: this user may not make namespaces");
    }
    may
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A deployed stack of the cluster `c1` with Sync Gateway.
struct Launched {
    stack: MiniStack,
    endpoint: String,
}

impl Launched {
    fn new() -> Self {
        let stack = MiniStack::start();
        let endpoint = stack.launch(&["--nodes", "1", "--parameter", "SyncGatewayNodes=1"]);
        Self { stack, endpoint }
    }

    /// The user data of the launch template that contains this text.
    fn user_data(&self, text: &str) -> String {
        let data = self.stack.boto(
            "[client('ec2').describe_launch_template_versions(Versions=['$Latest'], LaunchTemplateId=t['LaunchTemplateId'])\
             ['LaunchTemplateVersions'][0]['LaunchTemplateData']['UserData'] for t in \
             client('ec2').describe_launch_templates()['LaunchTemplates']]",
        );
        let decode = |data: &Value| {
            String::from_utf8(BASE64_STANDARD.decode(data.as_str().unwrap()).unwrap()).unwrap()
        };
        let mut all = data.as_array().unwrap().iter().map(decode);
        all.find(|data| data.contains(text)).unwrap()
    }

    fn set_secret(&self, name: &str, value: &str) {
        let set = self.stack.boto(&format!(
            "[client('secretsmanager').put_secret_value(SecretId=s['ARN'], SecretString='{value}') and 1 for s in \
             client('secretsmanager').list_secrets()['SecretList'] if '{name}' in s['Name']]"
        ));
        assert_eq!(set, json!([1]), "{name}");
    }
}

/// Runs this script in a mount namespace.
fn boot(agents: &Agents, launched: &Launched, home: &TempDir, script: &str) -> Guard {
    let programs = home.path().join("programs");
    fs::create_dir(&programs).unwrap();
    let gateway = home.path().join("gateway");
    executable(&gateway, GATEWAY);
    let dnf = format!(
        "echo \"$*\" >>\"$HOME/dnf\"\nmkdir -p /opt/couchbase-sync-gateway/bin && cp '{}' /opt/couchbase-sync-gateway/bin/sync_gateway",
        gateway.display()
    );
    let aws = "case \"$*\" in *signal-resource*) echo \"$*\" >>\"$HOME/signals\"; exit 0 ;; esac\nexec \"$AWS_CLI\" \"$@\"";
    for (name, body) in [("dnf", dnf.as_str()), ("aws", aws), ("journalctl", "")] {
        executable(&programs.join(name), &format!("#!/bin/sh\n{body}\n"));
    }
    executable(&programs.join("systemctl"), SYSTEMCTL);
    let args = ["--mount", "--propagation", "private", "bash", "-c", script];
    let mut command = agents.user.leashed(Path::new("unshare"), &args);
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", programs.display());
    command
        .env("PATH", path)
        .env("HOME", home.path())
        .env("AGENT", programs::agent())
        .env("AWS_CLI", python::bin().join("aws"))
        .env("AWS_ENDPOINT_URL", &launched.stack.url)
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env_remove("CB_REST_PASSWORD")
        .env_remove("CBBOOTSTRAP_SECRET");
    Guard(command.spawn().unwrap())
}

#[track_caller]
fn wait_for_end(home: &TempDir) {
    let since = Instant::now();
    let read = |file: &str| fs::read_to_string(home.path().join(file)).unwrap_or_default();
    while !home.path().join("status").exists() {
        assert!(since.elapsed() < PATIENCE, "timed out: {}", read("output"));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(read("status"), "0\n", "{}", read("output"));
}

#[test]
fn sync_gateway_waits_for_the_cluster_and_verifies_it() {
    if !may_make_namespaces() {
        return;
    }
    let (launched, api, servers) = (Launched::new(), Api::start(), Servers::start_generated(1));
    launched.set_secret("ClusterSecret", SECRET);
    launched.set_secret("SyncGatewayPassword", "gatewaysecret");
    let agents = Agents::new(&api.local.endpoint, "c1", &servers)
        .without("CBBOOTSTRAP_CA_CERT")
        .with("CBBOOTSTRAP_SECRET", SECRET);
    let instance = Instance::start();
    let mut gateway = Agents::new(&api.local.endpoint, "c1", &servers);
    for variable in ["CBBOOTSTRAP_CA_CERT", "CBBOOTSTRAP_API", "CBBOOTSTRAP_CLUSTER_ID"] {
        gateway = gateway.without(variable);
    }
    for (name, value) in instance.variables() {
        gateway = gateway.with(name, value);
    }
    let home = tempdir().unwrap();
    let user_data = launched.user_data("configure-sync-gateway");
    let user_data = user_data.replace(&launched.endpoint, &api.local.endpoint);
    fs::write(home.path().join("user-data"), user_data).unwrap();
    let _machine = boot(&gateway, &launched, &home, BOOT);
    let read = |file: &str| fs::read_to_string(home.path().join(file)).unwrap_or_default();
    // It starts before the cluster.
    let since = Instant::now();
    while !read("output").contains("nobody has claimed the cluster `c1`") {
        assert!(since.elapsed() < PATIENCE, "{}", read("output"));
        std::thread::sleep(Duration::from_millis(100));
    }
    agents.join(servers.nodes(), &[]);
    wait_for_end(&home);

    assert!(read("dnf").contains("couchbase-sync-gateway-enterprise_3."), "{}", read("dnf"));
    assert!(read("signals").contains("--logical-resource-id SyncGateways"), "{}", read("signals"));
    assert!(read("signals").ends_with("--status SUCCESS\n"), "{}", read("signals"));
    let config = home.path().join("etc/sync_gateway/sync_gateway.json");
    assert_eq!(fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o600);
    let config: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    assert_eq!(
        (&config["bootstrap"], &config["api"]),
        (
            &json!({
                "server": format!("couchbases://{}", servers[0].address()),
                "username": "sync_gateway",
                "password": "gatewaysecret",
                "use_tls_server": true,
                "server_tls_skip_verify": false,
                "ca_cert_path": "/etc/sync_gateway/ca.pem",
            }),
            &json!({
                "public_interface": ":4984",
                "admin_interface": "127.0.0.1:4985",
                "metrics_interface": "127.0.0.1:4986",
            })
        )
    );
    for secret in ["gatewaysecret", SECRET, LOGIN.1] {
        assert!(!read("output").contains(secret), "{}", read("output"));
    }
}

/// A boot whose first step fails, or with `SECONDS` the wait for Sync Gateway at its end.
struct FailedBoot {
    /// A text in the user data.
    user_data: &'static str,
    /// The status of the AWS CLI when it sends the signal.
    signal: i32,
    /// The server's answer, if the agent has been started before.
    pool: Option<&'static str>,
    /// What the shell's clock begins with.
    seconds: u32,
}

impl FailedBoot {
    /// Runs the user data, with stand-ins for all that it calls. Returns the calls.
    fn run(&self, launched: &Launched) -> String {
        let home = tempdir().unwrap();
        let programs = home.path().join("programs");
        fs::create_dir(&programs).unwrap();
        let log = "echo \"$(basename \"$0\") $*\" >>\"$HOME/calls\"";
        let curl = "case \"$*\" in *pools/default*) printf '%s' \"$POOL\" ;; *:4984*) exit 7 ;; *) exit \"$METADATA\" ;; esac";
        let aws = "case \"$*\" in *signal-resource*) exit \"$SIGNAL\" ;; esac";
        for (name, body) in [("curl", curl), ("aws", aws)]
            .into_iter()
            .chain(["journalctl", "shutdown", "dnf", "systemctl", "id", "sleep"].map(|it| (it, "")))
        {
            executable(&programs.join(name), &format!("#!/bin/sh\n{log}\n{body}\n"));
        }
        let was_started = self.pool.map(|_| "install -D /dev/null /etc/cbbootstrap/secret\n");
        let script = [was_started.unwrap_or_default(), &launched.user_data(self.user_data)];
        fs::write(home.path().join("user-data"), script.concat()).unwrap();
        let metadata = if self.seconds > 0 { "0" } else { "22" };
        let ended = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash", "-c", BOOT])
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", programs.display()))
            .env("HOME", home.path())
            .env("AGENT", programs::agent())
            .env("METADATA", metadata)
            .env("SIGNAL", self.signal.to_string())
            .env("POOL", self.pool.unwrap_or("000"))
            .env("SECONDS", self.seconds.to_string())
            .stdin(Stdio::null())
            .status();
        assert!(ended.unwrap().success());
        let read = |file: &str| fs::read_to_string(home.path().join(file)).unwrap_or_default();
        assert!(!["", "0\n"].contains(&read("status").as_str()), "{}", read("output"));
        read("calls")
    }
}

#[test]
fn an_instance_whose_boot_fails_outside_of_an_operation_stops() {
    const NODE: &str = "--logical-resource-id Nodes";
    const GATEWAY: &str = "configure-sync-gateway";
    if !may_make_namespaces() {
        return;
    }
    let launched = Launched::new();
    for (user_data, signal, pool, seconds, stops) in [
        (NODE, 255, None, 0, true),
        // An operation of the stack waits for it.
        (NODE, 0, None, 0, false),
        (NODE, 255, Some("404"), 0, true),
        // A member, and a server whose state is not known.
        (NODE, 255, Some("401"), 0, false),
        (NODE, 255, Some("000"), 0, false),
        (GATEWAY, 255, None, 0, true),
        (GATEWAY, 0, None, 0, false),
        // systemd keeps starting it.
        (GATEWAY, 255, None, 2000, false),
    ] {
        let boot = FailedBoot { user_data, signal, pool, seconds };
        let calls = boot.run(&launched);
        let what = format!("{user_data} {signal} {pool:?} {seconds}: {calls}");
        assert_eq!(calls.contains("shutdown -h +1\n"), stops, "{what}");
        assert!(calls.contains("--status FAILURE\n"), "{what}");
        assert!(calls.contains("--lines 50 --no-pager\n"), "{what}");
    }
}

/// The part of the nodes' user data that creates the user, with the server at another address.
#[test]
fn nodes_create_the_user_of_sync_gateway() {
    if !may_make_namespaces() {
        return;
    }
    let (launched, servers) = (Launched::new(), Servers::start_generated(1));
    servers[0].provision(LOGIN.0, "admin0password");
    launched.set_secret("SyncGatewayPassword", "gatewaysecret");
    let path = "/settings/rbac/users/local/sync_gateway";
    servers.on_request(move |seen| {
        let is_allowed = seen.user.as_deref() == Some(LOGIN.0)
            && seen.password() == Some("admin0password")
            && seen.carries_password("gatewaysecret")
            && seen.form == [("roles".to_owned(), "mobile_sync_gateway[*]".to_owned())];
        match (seen.method.as_str(), seen.path == path, is_allowed) {
            (_, false, _) => Then::Handle,
            ("PUT", true, true) => Then::Refuse(200, "\"\"".to_owned()),
            _ => Then::Refuse(400, r#"{"errors":{"_":"not expected"}}"#.to_owned()),
        }
    });
    let data = launched.user_data("--logical-resource-id Nodes");
    let part = |begin: &str, end: &str| {
        let begin = data.find(begin).unwrap_or_else(|| panic!("{begin} in {data}"));
        &data[begin..begin + data[begin..].find(end).unwrap()]
    };
    let script = [
        "set -euo pipefail\ninstall -d -m 700 /etc/cbbootstrap\nprintf admin0password >/etc/cbbootstrap/password\n",
        part("with_patience() {", "# The data volume"),
        part("store() (", "with_patience store password"),
        &part("# Sync Gateway's user.", "signal SUCCESS")
            .replace("http://127.0.0.1:8091", &servers[0].url()),
        "! [ -e /etc/cbbootstrap/gateway-password ]\n",
    ];
    let home = tempdir().unwrap();
    fs::write(home.path().join("user-data"), script.concat()).unwrap();
    let agents = Agents::new("http://127.0.0.1:1", "c1", &servers);
    let _machine = boot(&agents, &launched, &home, BOOT);
    wait_for_end(&home);
    assert_eq!(servers.count(path), 1);
    let output = fs::read_to_string(home.path().join("output")).unwrap();
    assert!(!output.contains("gatewaysecret") && !output.contains("admin0password"), "{output}");
}
