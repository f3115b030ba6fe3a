//! Empty variables, byte-order marks and Windows line ends, in every variable and file of both programs.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    thread,
};

use cbbootstrap_tests::{
    agent::{Agents, Api, LOGIN, one_cluster},
    cli::{Ended, User, write_private},
    couchbase::Servers,
    pattern::pattern,
    programs,
};

/// The forms of an absent variable.
const BLANK: [&str; 4] = ["", " \t", "\r\n", "\u{feff}"];

/// A variable's value as editors and tools on Windows leave it.
const FORMS: [fn(&str) -> String; 4] = [
    |value| format!("\u{feff}{value}"),
    |value| format!("{value}\r\n"),
    |value| format!(" {value} "),
    |value| format!("\u{feff}{value}\r\n"),
];

/// Commands of the deployer that end soon: without credentials, or with what they print.
const DEPLOYER: [&[&str]; 11] = [
    &["deploy", "--yes"],
    &["plan"],
    &["status"],
    &["logs"],
    &["smoke"],
    &["cluster", "list"],
    &["cluster", "show", "x"],
    &["cluster", "forget", "x", "--yes"],
    &["destroy", "--yes"],
    &["init"],
    &["iam-policy"],
];

/// And of the agent: an API is not named.
const AGENT: [&[&str]; 5] = [&["up"], &["run"], &["discover"], &["leave"], &["status"]];

const CONFIG: &str = "\
default_environment: dev
environments:
  dev: {stack_name: dev-stack, table_name: dev-table, region: eu-central-1}
  prod: {stack_name: prod-stack, table_name: prod-table, region: eu-west-1}
";

/// Values for a variable: one that is right, and one that is wrong where there is such a thing.
fn values(variable: &str) -> (&'static str, Option<&'static str>) {
    match variable {
        "CBBOOTSTRAP_STACK_NAME" => ("my-stack", Some("my stack")),
        "CBBOOTSTRAP_TABLE_NAME" => ("my-table", Some("my table")),
        "CBBOOTSTRAP_BUCKET" => ("my-bucket", Some("My Bucket")),
        "CBBOOTSTRAP_ENV" => ("prod", Some("prdo")),
        "CBBOOTSTRAP_CONFIG" => ("other.yaml", Some("nowhere.yaml")),

        // At the API's place, a wrong URL ends the agent before it speaks to anybody.
        "CBBOOTSTRAP_API" => ("ftp://api.example.com", None),
        "CBBOOTSTRAP_CLUSTER_ID" => ("demo", Some("a b")),
        "CBBOOTSTRAP_SECRET_FILE" => ("secret", None),
        "CBBOOTSTRAP_PASSWORD_FILE" => ("password", None),
        "CBBOOTSTRAP_CA_CERT" => ("nowhere.pem", None),
        "CBBOOTSTRAP_WRITE_CA_CERT" => ("ca.pem", None),
        "CBBOOTSTRAP_AUTH" => ("iam", Some("basic")),
        "AWS_REGION" => ("us-east-1", None),
        "CBBOOTSTRAP_AGENT_CONFIG" => ("agent.yaml", Some("nowhere.yaml")),
        "CBBOOTSTRAP_SERVER" => ("ftp://127.0.0.1", None),
        "CBBOOTSTRAP_NODE" => ("10.0.0.1", Some("couchbase-0")),
        "CB_REST_USERNAME" => ("admin", None),
        "CBBOOTSTRAP_INSECURE" | "CBBOOTSTRAP_ADOPT" | "CBBOOTSTRAP_REPLACE" => {
            ("yes", Some("perhaps"))
        }
        "CBBOOTSTRAP_TIMEOUT" => ("1s", Some("soon")),
        "CBBOOTSTRAP_INTERVAL" | "CBBOOTSTRAP_SETTLE" => ("1s", Some("-1s")),
        "CBBOOTSTRAP_SERVICES" => ("data,index", Some("data,bogus")),
        "CBBOOTSTRAP_MEMORY_QUOTA" => ("50%", Some("0%")),
        "CBBOOTSTRAP_BUCKETS" => ("app:256:1,b:100", Some("app")),
        "CBBOOTSTRAP_SERVER_GROUP" => ("zone a", None),
        "CBBOOTSTRAP_ALTERNATE_ADDRESS" => ("203.0.113.1", Some("http://a")),
        "CBBOOTSTRAP_CLUSTER_NAME" => ("My cluster", None),
        "CBBOOTSTRAP_NODES" => ("3", Some("0")),
        "CBBOOTSTRAP_RECOVER" => ("never", Some("soon")),
        "CBBOOTSTRAP_LIFECYCLE_HOOK" => ("leave", None),
        "CBBOOTSTRAP_METRICS_PORT" => ("9999", Some("a")),
        "CBBOOTSTRAP_LEASE" => ("10m", Some("1s")),
        _ => panic!("there is no value for `{variable}`: add one"),
    }
}

/// A program and its user.
struct Program {
    path: PathBuf,
    user: User,
}

impl Program {
    fn deployer() -> Self {
        let user = User::default();
        for name in ["cbbootstrap.yaml", "other.yaml"] {
            fs::write(user.home.path().join(name), CONFIG).unwrap();
        }
        Self { path: programs::cbbootstrap(), user }
    }

    fn agent() -> Self {
        let user = User::default();
        for (name, text) in [
            ("password", LOGIN.1),
            ("secret", "0123456789abcdef"),
            ("agent.yaml", "node: 10.0.0.2\napi: ftp://file.example.com"),
        ] {
            write_private(&user.home.path().join(name), text);
        }
        Self { path: programs::agent(), user }
    }

    fn command(&self, args: &[&str]) -> Command {
        self.user.program(&self.path, args)
    }

    /// How it ends with this variable: status, stdout, stderr.
    fn run(&self, args: &[&str], variable: Option<(&str, &str)>) -> (Option<i32>, String) {
        let mut command = self.command(args);
        let ended = match variable {
            Some((name, value)) => Ended::of(command.env(name, value)),
            None => Ended::of(&mut command),
        };
        (ended.status, format!("--- stdout\n{}\n--- stderr\n{}", ended.stdout, ended.stderr))
    }

    /// The variables that its help shows for a command.
    fn variables(&self, args: &[&str]) -> BTreeSet<String> {
        let help = self.run(&[args, &["--help"]].concat(), None).1;
        let variable = pattern(r"\[env:\s+(\w+)=");
        let found = variable.captures_iter(&help);
        found.map(|found| found[1].to_owned()).collect()
    }

    /// Checks one variable of a command that ends like this without it: in all forms, or in the one with everything around it.
    fn check(
        &self,
        args: &[&str],
        variable: &str,
        absent: &(Option<i32>, String),
        in_all_forms: bool,
    ) {
        let (right, wrong) = values(variable);
        let first = |count: usize| if in_all_forms { 0 } else { count - 1 };
        for blank in &BLANK[first(BLANK.len())..] {
            let ended = self.run(args, Some((variable, blank)));
            assert_eq!(ended, *absent, "{args:?} with {variable}={blank:?}");
        }
        for value in [Some(right), wrong].into_iter().flatten() {
            let clean = self.run(args, Some((variable, value)));
            for form in &FORMS[first(FORMS.len())..] {
                let value = form(value);
                let ended = self.run(args, Some((variable, &value)));
                assert_eq!(ended, clean, "{args:?} with {variable}={value:?}");
            }
            if Some(value) == wrong && args != ["init"] {
                let (status, output) = clean;
                assert_eq!(status, Some(2), "{args:?} with {variable}={value}: {output}");
                let is_named = output.contains(variable);
                assert!(is_named, "{args:?} with {variable}={value}: {output}");
            }
        }
    }

    /// Checks the variables of these commands, each in all forms with the first command that reads it.
    fn check_all(&self, commands: &[&[&str]]) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        thread::scope(|scope| {
            for &args in commands {
                let variables = self.variables(args).into_iter();
                let variables: Vec<_> =
                    variables.map(|variable| (all.insert(variable.clone()), variable)).collect();
                scope.spawn(move || {
                    let absent = self.run(args, None);
                    for (is_new, variable) in variables {
                        self.check(args, &variable, &absent, is_new);
                    }
                });
            }
        });
        all
    }
}

#[test]
fn variables_of_the_deployer_are_cleaned() {
    let program = Program::deployer();
    // `init` then refuses to write.
    fs::write(program.user.home.path().join("nowhere.yaml"), "").unwrap();
    let [init, others] = [0, 1].map(|part| {
        let commands = DEPLOYER.iter().copied();
        let chosen = commands.filter(|args| (args[0] == "init") == (part == 0));
        chosen.collect::<Vec<_>>()
    });
    program.check_all(&init);
    fs::remove_file(program.user.home.path().join("nowhere.yaml")).unwrap();
    assert_eq!(program.check_all(&others).len(), 5);
}

#[test]
fn variables_of_the_agent_are_cleaned() {
    let program = Program::agent();
    assert_eq!(program.check_all(&AGENT).len(), 29);
}

#[test]
fn variables_of_a_node_take_effect() {
    let (api, servers) = (Api::start(), Servers::start(1));
    let agents = Agents::new(&api.local.endpoint, "other", &servers);
    let user = &agents.user;
    let file = |name: &str, text: &str| {
        let path = user.home.path().join(name);
        write_private(&path, format!("\u{feff}{text}\r\n"));
        path.display().to_string()
    };
    let variables = [
        ("CBBOOTSTRAP_API", api.local.endpoint.clone()),
        ("CBBOOTSTRAP_CLUSTER_ID", "demo".to_owned()),
        ("CBBOOTSTRAP_PASSWORD_FILE", file("password", LOGIN.1)),
        ("CBBOOTSTRAP_SECRET_FILE", file("secret", "0123456789abcdef")),
        ("CBBOOTSTRAP_AGENT_CONFIG", file("agent.yaml", "bucket:\r\n- app:100")),
        ("CBBOOTSTRAP_CA_CERT", servers.ca_cert().display().to_string()),
        ("CBBOOTSTRAP_SERVER", servers[0].url()),
        ("CBBOOTSTRAP_NODE", servers[0].address()),
        ("CBBOOTSTRAP_AUTH", "none".to_owned()),
        ("CBBOOTSTRAP_INSECURE", "false".to_owned()),
        ("CBBOOTSTRAP_ADOPT", "false".to_owned()),
        ("CBBOOTSTRAP_INTERVAL", "100ms".to_owned()),
        ("CBBOOTSTRAP_SETTLE", "500ms".to_owned()),
        ("CBBOOTSTRAP_SERVICES", "data,index".to_owned()),
        ("CBBOOTSTRAP_SERVER_GROUP", "zone a".to_owned()),
        ("CBBOOTSTRAP_ALTERNATE_ADDRESS", "203.0.113.1".to_owned()),
        ("CBBOOTSTRAP_CLUSTER_NAME", "My cluster".to_owned()),
        ("CBBOOTSTRAP_NODES", "1".to_owned()),
        ("CBBOOTSTRAP_MEMORY_QUOTA", "300".to_owned()),
        ("CB_REST_USERNAME", LOGIN.0.to_owned()),
    ];
    let mut up = agents.command(&servers[0], &["up"]);
    up.env("CB_REST_PASSWORD", "").env("CBBOOTSTRAP_BUCKETS", " ");
    for (name, value) in &variables {
        up.env(name, format!("\u{feff}{value}\r\n"));
    }
    Ended::of(&mut up).ended_with(0);
    let cluster = one_cluster(&servers, 1);
    assert_eq!((cluster.name.as_str(), cluster.quota), ("My cluster", 300));
    assert_eq!(cluster.buckets, ["app"]);
    assert_eq!(cluster.nodes[0].services, ["kv", "index"]);
    assert_eq!(cluster.nodes[0].group, "zone a");
    assert!(cluster.nodes[0].alternate.to_string().contains("203.0.113.1"));
    // The password is the one without what was around it in the file.
    let status = |name: &str, value: &str| {
        let mut status = agents.command(&servers[0], &["status"]);
        let secret = &variables[3].1;
        status
            .env("CBBOOTSTRAP_CLUSTER_ID", "demo")
            .env("CBBOOTSTRAP_SECRET_FILE", secret)
            .env_remove("CB_REST_PASSWORD");
        Ended::of(status.env(name, value))
    };
    let [with_mark, with_line_end, with_spaces, with_both] = FORMS;
    for form in [with_mark, with_line_end, with_both] {
        status("CB_REST_PASSWORD", &form(LOGIN.1)).ended_with(0);
    }
    // Spaces may be a part of it.
    let ended = status("CB_REST_PASSWORD", &with_spaces(LOGIN.1));
    assert_ne!(ended.status, Some(0), "{ended}");
    for blank in BLANK {
        status("CB_REST_PASSWORD", blank).failed(2, "password is missing");
    }
}

#[test]
fn blank_regions_and_profiles_are_absent() {
    let program = Program::deployer();
    let home = program.user.home.path();
    fs::create_dir(home.join(".aws")).unwrap();
    let profiles = "[default]\nregion = sa-east-1\n[profile other]\nregion = ca-west-1\n";
    fs::write(home.join(".aws/config"), profiles).unwrap();
    fs::remove_file(home.join("cbbootstrap.yaml")).unwrap();
    let region = |variables: &[(&str, &str)]| {
        let mut policy = program.command(&["iam-policy"]);
        let policy = Ended::of(policy.envs(variables.iter().copied())).ended_with(0);
        let mut regions = ["us-east-1", "us-east-2", "sa-east-1", "ca-west-1", "eu-west-1"]
            .into_iter()
            .filter(|region| policy.stdout.contains(region));
        let region = regions.next().unwrap_or("none");
        assert_eq!(regions.next(), None, "{policy}");
        region
    };
    for blank in BLANK {
        for (variables, expected) in [
            (&[("AWS_REGION", blank)][..], "sa-east-1"),
            (&[("AWS_REGION", blank), ("AWS_PROFILE", blank)], "sa-east-1"),
            (&[("AWS_REGION", blank), ("AWS_PROFILE", "other\r\n")], "ca-west-1"),
            (&[("AWS_REGION", blank), ("AWS_DEFAULT_REGION", "us-east-2")], "us-east-2"),
            (&[("AWS_REGION", "us-east-1\r\n"), ("AWS_DEFAULT_REGION", "us-east-2")], "us-east-1"),
            (
                &[
                    ("AWS_REGION", blank),
                    ("AWS_DEFAULT_REGION", blank),
                    ("CBBOOTSTRAP_CONFIG", "other.yaml"),
                    ("CBBOOTSTRAP_ENV", "prod"),
                ],
                "eu-west-1",
            ),
        ] {
            assert_eq!(region(variables), expected, "{variables:?}");
        }
        // The same where AWS is asked.
        let status = |variables: &[(&str, &str)]| {
            let mut status = program.command(&["status"]);
            status
                .env("AWS_REGION", blank)
                .env("AWS_PROFILE", blank)
                .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
            Ended::of(status.envs(variables.iter().copied()))
        };
        status(&[("AWS_DEFAULT_REGION", "no where")])
            .failed(2, "`AWS_DEFAULT_REGION`: `no where` is not an AWS region");
        status(&[]).failed(1, "there are no AWS credentials");
        status(&[("AWS_ACCESS_KEY_ID", blank), ("AWS_SESSION_TOKEN", "x")])
            .failed(1, "there are no AWS credentials");
    }
    // A key of more than one line would end the SDK.
    let mut status = program.command(&["status"]);
    status
        .env("AWS_ACCESS_KEY_ID", "\u{feff}test\r\n")
        .env("AWS_SECRET_ACCESS_KEY", "test\r\n")
        .env("AWS_SESSION_TOKEN", "\r\n")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9\r\n");
    Ended::of(&mut status).failed(1, "cannot reach `http://127.0.0.1:9`");

    let program = Program::agent();
    let mut discover = program.command(&["discover", "--auth=iam", "--timeout=1s"]);
    discover
        .env("CBBOOTSTRAP_API", "https://127.0.0.1:9")
        .env("CBBOOTSTRAP_CLUSTER_ID", "demo")
        .env("AWS_REGION", "\r\n");
    Ended::of(&mut discover).failed(2, "region");
    discover.env("AWS_DEFAULT_REGION", "us-east-1\r\n");
    Ended::of(&mut discover).failed(1, "no AWS credentials found");
}

#[test]
fn files_are_read_as_editors_on_windows_write_them() {
    let (deployer, agent) = (Program::deployer(), Program::agent());
    let utf16 = |text: &str| -> Vec<u8> {
        let text = format!("\u{feff}{text}");
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    };
    let crlf = CONFIG.replace('\n', "\r\n");
    let options = "node: couchbase-0\r\n";
    for encode in [
        |text: &str| format!("\u{feff}{text}").into_bytes(),
        |text: &str| text.as_bytes().to_vec(),
        utf16,
    ] {
        fs::write(deployer.user.home.path().join("cbbootstrap.yaml"), encode(&crlf)).unwrap();
        let policy = Ended::of(&mut deployer.command(&["iam-policy", "--env=prod"]));
        assert!(policy.document().to_string().contains("prod-stack"), "{policy}");

        write_private(&agent.user.home.path().join("agent.yaml"), encode(options));
        let mut up = agent.command(&["up", "--config=agent.yaml"]);
        Ended::of(&mut up).failed(2, "'couchbase-0'");
    }
    let wrong = b"gr\xf6\xdfe: 1";
    fs::write(deployer.user.home.path().join("cbbootstrap.yaml"), wrong).unwrap();
    Ended::of(&mut deployer.command(&["iam-policy"]))
        .failed(2, "cannot read `cbbootstrap.yaml`: it is neither UTF-8 nor UTF-16");
    write_private(&agent.user.home.path().join("agent.yaml"), wrong);
    Ended::of(&mut agent.command(&["up", "--config=agent.yaml"]))
        .failed(2, "cannot read `agent.yaml`: it is neither UTF-8 nor UTF-16");
}

#[test]
fn files_that_others_may_read_or_change_are_refused() {
    let program = Program::agent();
    let home = program.user.home.path();
    let refused = |ended: &Ended, error: &str, hint: &str| {
        ended.failed(2, error);
        let mut lines = ended.stderr.lines();
        assert!(
            lines.any(|line| line.starts_with("hint: ") && line.contains(hint)),
            "{hint:?} is not in the hint\n{ended}"
        );
    };
    let mode = |file: &str, mode| {
        fs::set_permissions(home.join(file), Permissions::from_mode(mode)).unwrap();
    };
    std::os::unix::fs::symlink("password", home.join("link")).unwrap();
    for (bits, error) in [
        (0o644, "can be read by every user (mode 0644)"),
        (0o604, "can be read by every user (mode 0604)"),
        (0o620, "can be changed by other users (mode 0620)"),
        (0o660, "can be changed by other users (mode 0660)"),
    ] {
        mode("password", bits);
        for file in ["password", "link"] {
            let ended = Ended::of(&mut program.command(&["status", "--password-file", file]));
            refused(&ended, &format!("`{file}` {error}"), "`chmod 600 ");
        }
        mode("secret", bits);
        let mut discover = program.command(&[
            "discover",
            "--secret-file=secret",
            "--api=https://api.example.com",
            "--cluster-id=demo",
        ]);
        refused(&Ended::of(&mut discover), error, "`defaultMode: 0400`");
    }
    // Its group may read it, and a pipe belongs to nobody else.
    mode("password", 0o640);
    Ended::of(&mut program.command(&["status", "--password-file=password", "--node=10.0.0.1"]))
        .failed(2, "`--api` is missing");
    let shell = format!(
        "printf 'open sesame' | {} status --node 10.0.0.1 --password-file /dev/stdin",
        program.path.display()
    );
    Ended::of(&mut program.user.program("/bin/sh".as_ref(), &["-c", &shell]))
        .failed(2, "`--api` is missing");

    for bits in [0o664, 0o646] {
        mode("agent.yaml", bits);
        for (option, variable) in [(Some("--config=agent.yaml"), None), (None, Some("agent.yaml"))]
        {
            let args: Vec<_> = ["status"].into_iter().chain(option).collect();
            let mut status = program.command(&args);
            status.envs(variable.map(|file| ("CBBOOTSTRAP_AGENT_CONFIG", file)));
            let ended = Ended::of(&mut status);
            refused(&ended, "`agent.yaml` can be changed by other users", "`chmod go-w ");
            assert_eq!(ended.stderr.contains("CBBOOTSTRAP_AGENT_CONFIG"), option.is_none());
        }
    }
    mode("agent.yaml", 0o644);
    Ended::of(&mut program.command(&["status", "--config=agent.yaml"]))
        .failed(2, "password is missing");
}
