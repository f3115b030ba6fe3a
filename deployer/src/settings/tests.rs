use cbbootstrap_cli::CommandLine;
use clap::{CommandFactory, FromArgMatches};

use super::*;
use crate::{
    cli::{Cli, ClusterCommand, Command, DeployArgs},
    config,
    exit::Exit,
};

const FILE: &str = "
environments:
  dev:
    stack_name: file-stack
    table_name: file-table
    region: eu-central-1
    profile: file-profile
    bucket: file-bucket
    arch: arm64
    auth: iam
    require_lease: true
    parameters: {MemorySize: 512, LogLevel: debug}
    tags: {team: file, stage: dev}
    role_arn: arn:aws:iam::123456789012:role/file
    permissions_boundary: arn:aws:iam::123456789012:policy/file
    notification_arns: ['arn:aws:sns:eu-central-1:123456789012:file']
    protect: true
    wait_for_stack: 5m
";

fn parsed(options: &[&str], file: Option<&str>) -> Command {
    let directory = tempfile::tempdir().unwrap();
    let mut args = vec!["cbbootstrap".to_owned()];
    args.extend(options.iter().map(|&option| option.to_owned()));
    if let Some(file) = file {
        let path = directory.path().join("environments.yaml");
        std::fs::write(&path, file).unwrap();
        args.push(format!("--config={}", path.display()));
        args.push("--env=dev".to_owned());
    }
    let line = CommandLine::with(Cli::command(), args, |_| None);
    let file = config::options(&Cli::command(), &line.parse().unwrap()).unwrap();
    let parsed = line.with_file(file).parse().unwrap();
    Cli::from_arg_matches(&parsed.matches).unwrap().command
}

fn deploy(options: &[&str], file: Option<&str>) -> Result<DeployArgs, Failure> {
    let Command::Deploy(args) = parsed(&[&["deploy"], options].concat(), file) else {
        panic!("not a deployment");
    };
    args.target.check().map(|()| *args)
}

/// The options in lines.
fn lines(args: &DeployArgs) -> Vec<String> {
    let DeployArgs { wait: WaitArgs { wait_for_stack }, target, function, .. } = args;
    let Target { table: TableArgs { table_name }, place, bucket, stack } = target;
    let (arch, parameters, tags) = (function.build.arch, map(&stack.parameters), target.tags());
    let Place { stack_name, access, .. } = place;
    let StackOptions {
        auth,
        require_secret,
        require_lease,
        role_arn,
        permissions_boundary,
        notification_arns,
        protect,
        ..
    } = stack;
    let Access { region, profile, fallback_region, fallback_profile } = access;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    vec![
        format!("{stack_name} {table_name} {} {arch} {auth:?}", text(bucket)),
        format!("{require_secret} {require_lease}"),
        format!("{} or {}", text(region), text(fallback_region)),
        format!("{} or {}", text(profile), text(fallback_profile)),
        format!("{parameters:?}"),
        format!("{tags:?}"),
        format!("{} {notification_arns:?}", text(role_arn)),
        format!("{protect:?} {wait_for_stack:?} {}", text(permissions_boundary)),
    ]
}

#[test]
fn options_take_precedence_over_the_file_and_this_over_defaults() {
    let target = deploy(&[], None).unwrap();
    let defaults = [
        "cbbootstrap cb-bootstrap  x86_64 None",
        "false false",
        " or ",
        " or ",
        "{}",
        "{}",
        " []",
        "None None ",
    ];
    assert_eq!(lines(&target), defaults);

    let target = deploy(&[], Some(FILE)).unwrap();
    let file = [
        "file-stack file-table file-bucket arm64 Iam",
        "false true",
        " or eu-central-1",
        " or file-profile",
        r#"{"LogLevel": "debug", "MemorySize": "512"}"#,
        r#"{"stage": "dev", "team": "file"}"#,
        r#"arn:aws:iam::123456789012:role/file ["arn:aws:sns:eu-central-1:123456789012:file"]"#,
        "Some(true) Some(300s) arn:aws:iam::123456789012:policy/file",
    ];
    assert_eq!(lines(&target), file);

    let options = [
        "--stack-name=stack",
        "--table-name=table",
        "--bucket=bucket",
        "--arch=x86_64",
        "--auth=none",
        "--require-secret",
        "--require-lease=false",
        "--region=us-west-2",
        "--profile=mine",
        "--parameter=MemorySize=1024",
        "--tag=team=option",
        "--role-arn=arn:aws:iam::123456789012:role/option",
        "--permissions-boundary=arn:aws:iam::123456789012:policy/option",
        "--notification-arn=arn:aws:sns:eu-central-1:123456789012:option",
        "--protect=false",
        "--wait-for-stack=0s",
    ];
    let target = deploy(&options, Some(FILE)).unwrap();
    let options = [
        "stack table bucket x86_64 None",
        "true false",
        "us-west-2 or eu-central-1",
        "mine or file-profile",
        r#"{"LogLevel": "debug", "MemorySize": "1024"}"#,
        r#"{"stage": "dev", "team": "option"}"#,
        r#"arn:aws:iam::123456789012:role/option ["arn:aws:sns:eu-central-1:123456789012:option"]"#,
        "Some(false) Some(0ns) arn:aws:iam::123456789012:policy/option",
    ];
    assert_eq!(lines(&target), options);
}

#[test]
fn resources_are_in_the_region_of_the_api() {
    let arn =
        |service: &str, rest: &str| format!("arn:aws:{service}:eu-west-1:123456789012:{rest}");
    let (topic, key, certificate) =
        (arn("sns", "t"), arn("kms", "key/k"), arn("acm", "certificate/c"));
    for (options, name) in [
        (&[format!("--notification-arn={topic}")][..], "the notification topic"),
        (&[format!("--parameter=AlarmTopicArn={topic}")], "AlarmTopicArn"),
        (&[format!("--kms-key={key}")], "the KMS key"),
        (
            &["--domain=a.example".to_owned(), format!("--certificate-arn={certificate}")],
            "the certificate",
        ),
    ] {
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let target = deploy(&options, None).unwrap().target;
        assert!(target.check_region("eu-west-1").is_ok());
        let failure = target.check_region("us-east-1").unwrap_err();
        let message = format!("{name} is in eu-west-1, but the stack is in us-east-1");
        assert_eq!((failure.to_string(), failure.exit), (message, Exit::Usage));
    }
    let other = ["--notification-arn=none", "--parameter=MemorySize=512"];
    assert!(deploy(&other, None).unwrap().target.check_region("us-east-1").is_ok());
}

#[test]
fn topics_stay_unless_the_list_is_empty() {
    let topic = "arn:aws:sns:eu-central-1:123456789012:t".to_owned();
    let file = |list: &str| format!("environments: {{dev: {{notification_arns: {list}}}}}");
    let listed = file(&format!("[\"{topic}\"]"));
    let (one, none) = (format!("--notification-arn={topic}"), "--notification-arn=none");
    for (options, file, expected) in [
        (&[][..], "", None),
        (&[], &listed, Some(vec![topic.clone()])),
        (&[], &file("[]"), Some(vec![])),
        (&[none], &listed, Some(vec![])),
        (&[&one], &file("[]"), Some(vec![topic.clone()])),
    ] {
        let args = deploy(options, Some(file).filter(|file| !file.is_empty())).unwrap();
        assert_eq!(args.target.stack.topics(), expected, "{options:?} {file}");
    }
    assert_eq!(deploy(&[none, &one], None).unwrap_err().exit, Exit::Usage);
}

#[test]
fn other_commands_read_the_file_too() {
    let destroy = |file| match parsed(&["destroy"], file) {
        Command::Destroy(args) => args,
        command => panic!("{command:?}"),
    };
    let removal = destroy(Some(FILE));
    assert_eq!(removal.place.stack_name, "file-stack");
    assert_eq!(removal.table_name, None, "only the command line names a table to delete");
    assert!(removal.role_arn.is_some_and(|arn| arn.ends_with("file")));
    assert_eq!(removal.wait.wait_for_stack, Some(Duration::from_mins(5)));

    let Command::Status(args) = parsed(&["status", "--stack-name=stack"], Some(FILE)) else {
        panic!("not a status");
    };
    assert_eq!(args.stack.stack_name, "stack");

    // What conflicts with an option on the command line does not apply.
    let Command::Deploy(args) = parsed(&["deploy", "--code-only"], Some(FILE)) else {
        panic!("not a deployment");
    };
    assert_eq!(
        (args.target.stack.auth, args.target.place.stack_name.as_str()),
        (Auth::None, "file-stack")
    );
}

fn records(options: &[&str], file: Option<&str>) -> RecordsArgs {
    let command = parsed(&[&["cluster", "list"], options].concat(), file);
    let Command::Cluster(ClusterCommand::List(args)) = command else {
        panic!("not a list of clusters");
    };
    args.records
}

#[test]
fn records_are_those_of_the_environment_or_of_this_machine() {
    for (options, file, table, access) in [
        (&[][..], None, "cb-bootstrap", [None, None, None]),
        (&[], Some(FILE), "file-table", [None, Some("eu-central-1"), Some("file-profile")]),
        (
            &["--table-name=table", "--region=us-west-2"],
            Some(FILE),
            "table",
            [Some("us-west-2"), Some("eu-central-1"), Some("file-profile")],
        ),
    ] {
        let database = records(options, file).database().unwrap();
        let Database::Aws { table: name, access: found } = database else {
            panic!("{options:?} is in AWS");
        };
        assert_eq!(name, table);
        let found = [
            found.region.as_deref(),
            found.fallback_region.as_deref(),
            found.fallback_profile.as_deref(),
        ];
        assert_eq!(found, access, "{options:?}");
    }
    let local = records(&["--local", "--data=dir"], None).database().unwrap();
    assert!(matches!(&local, Database::ThisMachine { data } if data.ends_with("dir")), "{local:?}");
}

#[test]
fn a_command_about_the_same_records_can_be_pasted() {
    for (options, rest, expected) in [
        (&[][..], "--after=c", "cbbootstrap cluster list --table-name cb-bootstrap --after=c"),
        (
            &["--region=eu-west-1", "--profile=a b"],
            "--after=it's $5",
            r"cbbootstrap cluster list --region eu-west-1 --profile 'a b' --table-name cb-bootstrap '--after=it'\''s $5'",
        ),
        (
            &["--local", "--data=/d"],
            "--after=a\u{1b}[1m'\\\u{9b}ü",
            r"cbbootstrap cluster list --local --data /d $'--after=a\U0000001b[1m\'\\\U0000009bü'",
        ),
    ] {
        let command = records(options, None).command("list", &[rest.to_owned()]);
        assert_eq!(command, expected);
    }
}

#[test]
fn parameters_and_tags_are_checked_before_any_call_to_aws() {
    for (option, message) in [
        ("--parameter=Memory=512", "no parameter `Memory`"),
        ("--parameter=TableName=t", "`TableName` has its own option"),
        ("--require-secret", "cannot be combined with `--auth iam`"),
        ("--parameter=RequireSecret=true", "`RequireSecret` has its own option"),
        ("--parameter=AuthorizationType=NONE", "`AuthorizationType` has its own option"),
        ("--parameter=MemorySize=1", "`MemorySize` cannot be `1`"),
        ("--tag=aws:x=1", "tag `aws:x=1`"),
        ("--tag=created-by=me", "tag `created-by=me`"),
    ] {
        let failure = deploy(&[option], Some(FILE)).unwrap_err();
        assert!(failure.to_string().contains(message), "{option}: {failure}");
        assert_eq!(failure.exit, Exit::Usage, "{option}");
    }
}

#[test]
fn tags_follow_the_rules_of_aws() {
    let long = |length| "ü".repeat(length);
    for (key, value, good) in [
        ("team", "data", true),
        ("cost center", "a+b=c@d/e:f.g_h-1", true),
        (&long(128), &long(256), true),
        (&long(129), "v", false),
        ("k", &long(257), false),
        ("k", "", false),
        ("", "v", false),
        ("aws:x", "v", false),
        ("AWS:x", "v", false),
        ("awsome", "v", true),
        ("created-by", "cbbootstrap", false),
        ("Created-By", "me", false),
        ("k", "a\nb", false),
        ("k", "a;b", false),
    ] {
        let tags = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert_eq!(check_tags(&tags).is_ok(), good, "{key:?}: {value:?}");
    }
    let twice = ["team", "Team"].map(|key| (key.to_owned(), "v".to_owned()));
    assert!(check_tags(&twice.into()).is_err(), "the role's would be one");
    let tags = |count: usize| {
        let tags = (0..count).map(|number| (format!("k{number}"), "v".to_owned()));
        tags.collect::<BTreeMap<_, _>>()
    };
    assert!(check_tags(&tags(48)).is_ok());
    assert!(check_tags(&tags(49)).is_err(), "a table has two of ours, too");
}

#[test]
fn a_stack_has_at_most_five_topics() {
    assert!(check_topics(&vec![String::new(); 5]).is_ok());
    assert!(check_topics(&vec![String::new(); 6]).is_err());
}

#[test]
fn every_parameter_of_the_template_has_a_value() {
    let args = deploy(&["--parameter=LogLevel=debug", "--table-name=table"], None).unwrap();
    let code = StoredCode { bucket: "b".to_owned(), key: "k".to_owned(), arch: Arch::Arm64 };
    let parameters = args.target.parameters(&code).unwrap();
    let template: serde_yaml::Value = serde_yaml::from_str(template::TEMPLATE).unwrap();
    let declared = template["Parameters"].as_mapping().unwrap();
    assert_eq!(parameters.len(), declared.len());
    assert!(parameters.keys().all(|name| declared.contains_key(name)), "{parameters:?}");
    for (name, value) in [
        ("ArtifactBucket", "b"),
        ("ArtifactKey", "k"),
        ("Architecture", "arm64"),
        ("TableName", "table"),
        ("AuthorizationType", "NONE"),
        ("LogLevel", "debug"),
        ("MemorySize", "256"),
    ] {
        assert_eq!(parameters[name], value, "{name}");
    }
}
