use super::*;

/// The arguments that the chosen environment sets.
fn chosen(text: &str, wanted: Option<&str>) -> Result<Vec<String>, Failure> {
    let options = File::parse(text)?.choose(wanted)?;
    let arguments = options.into_iter().flat_map(|option| option.arguments);
    Ok(arguments.map(|argument| argument.into_string().unwrap()).collect())
}

#[test]
fn an_environment_sets_every_option() {
    let text = r#"
environments:
  prod:
    stack_name: cbbootstrap-prod
    table_name: cb-bootstrap-prod
    bucket: artifacts
    region: eu-central-1
    profile: prod
    arch: arm64
    auth: iam
    require_secret: false
    require_lease: true
    parameters: {MemorySize: 512, LogLevel: "debug"}
    tags: {team: data, version: 1.10, paid: true, number: 0123}
    role_arn: arn:aws:iam::123456789012:role/r
    permissions_boundary: arn:aws:iam::123456789012:policy/p
    notification_arns: ["arn:aws:sns:eu-central-1:123456789012:t"]
    max_read_units: 100
    max_write_units: 50
    kms_key: arn:aws:kms:eu-central-1:123456789012:key/k
    domain: api.example.com
    certificate_arn: arn:aws:acm:eu-central-1:123456789012:certificate/c
    base_path: v1
    hosted_zone: Z0123456789ABC
    protect: true
    wait_for_stack: 30m
"#;
    let expected = [
        "--stack-name=cbbootstrap-prod",
        "--table-name=cb-bootstrap-prod",
        "--bucket=artifacts",
        "--fallback-region=eu-central-1",
        "--fallback-profile=prod",
        "--arch=arm64",
        "--auth=iam",
        "--require-secret=false",
        "--require-lease=true",
        "--parameter=MemorySize=512",
        "--parameter=LogLevel=debug",
        "--tag=team=data",
        "--tag=version=1.10",
        "--tag=paid=true",
        "--tag=number=0123",
        "--role-arn=arn:aws:iam::123456789012:role/r",
        "--permissions-boundary=arn:aws:iam::123456789012:policy/p",
        "--notification-arn=arn:aws:sns:eu-central-1:123456789012:t",
        "--max-read-units=100",
        "--max-write-units=50",
        "--kms-key=arn:aws:kms:eu-central-1:123456789012:key/k",
        "--domain=api.example.com",
        "--certificate-arn=arn:aws:acm:eu-central-1:123456789012:certificate/c",
        "--base-path=v1",
        "--hosted-zone=Z0123456789ABC",
        "--protect=true",
        "--wait-for-stack=30m",
    ];
    assert_eq!(chosen(text, Some("prod")).unwrap(), expected);
    for key in keys(&environment_options()) {
        assert!(text.contains(&format!("    {key}: ")), "{key}");
    }
}

#[test]
fn numbers_are_names_as_they_are_written() {
    let text = "default_environment: 1e3
environments:
  1e3: {stack_name: &s cb, table_name: 0x1F1, profile: 0x10, bucket: 0123.10, tags: {1.0: .5, b: *s}, protect: True}";
    let expected = [
        "--stack-name=cb",
        "--table-name=0x1F1",
        "--fallback-profile=0x10",
        "--bucket=0123.10",
        "--tag=1.0=.5",
        "--tag=b=cb",
        "--protect=true",
    ];
    let quoted = text.replace("  1e3:", "  '1e3':");
    assert_eq!(chosen(&quoted, None).unwrap(), expected);
    assert_wrong(text, "key `1000.0` must be a string", "quotes");
}

#[test]
fn empty_settings_are_not_set() {
    for text in [
        "environments: {dev: }",
        "environments: {dev: {}}",
        "environments: {dev: {parameters: , tags: , stack_name: , wait_for_stack: }}",
    ] {
        assert_eq!(chosen(text, Some("dev")).unwrap(), [""; 0], "{text}");
    }
}

#[test]
fn the_sample_is_valid() {
    let dev = chosen(SAMPLE, None).unwrap();
    let prod = chosen(SAMPLE, Some("prod")).unwrap();
    let sets = |options: &[String], argument: &str| options.iter().any(|set| set == argument);
    assert!(sets(&dev, "--stack-name=cbbootstrap-dev") && sets(&prod, "--stack-name=cbbootstrap"));
    assert!(sets(&dev, "--table-name=cb-bootstrap-dev"));
    assert!(sets(&prod, "--protect=true") && !sets(&dev, "--protect=true"));
    let names_account = |option: &String| option.starts_with("--fallback-");
    assert!(!dev.iter().chain(&prod).any(names_account), "it names nobody's region or profile");
}

#[test]
fn the_sample_is_valid_when_its_comments_are_filled_in() {
    let command = environment_options();
    let known = keys(&command);
    let is_setting = |text: &str| {
        let key = text.split_once(':').map(|(key, _)| key);
        key.is_some_and(|key| known.contains(&key)) || text.starts_with("  - ")
    };
    let filled: Vec<_> = SAMPLE
        .lines()
        .map(|line| match line.split_once("# ") {
            Some((indent, text)) if is_setting(text) => format!("{indent}{text}"),
            _ => line.to_owned(),
        })
        .collect();
    let filled = filled.join("\n");
    for key in &known {
        assert!(SAMPLE.contains(&format!("{key}:")), "{key} is not in it");
    }
    let prod = chosen(&filled, Some("prod")).unwrap();
    for key in ["arch=arm64", "auth=iam", "role-arn=", "wait-for-stack=", "notification-arn="] {
        let argument = format!("--{key}");
        assert!(prod.iter().any(|set| set.starts_with(&argument)), "{key}: {filled}");
    }
}

#[test]
fn an_environment_is_chosen_and_never_guessed() {
    const TWO: &str = "environments: {dev: {stack_name: d}, prod: {stack_name: p}}";
    const DEFAULT: &str =
        "{default_environment: dev, environments: {dev: {stack_name: d}, prod: {stack_name: p}}}";
    const ONE: &str = "environments: {dev: {stack_name: d}}";
    for (text, wanted, expected) in [
        (TWO, Some("dev"), Ok("d")),
        (TWO, Some("prod"), Ok("p")),
        (DEFAULT, None, Ok("d")),
        (DEFAULT, Some("prod"), Ok("p")),
        (
            TWO,
            None,
            Err((
                "no environment selected; the file has dev, prod",
                "choose one with `--env NAME`, or with `default_environment: NAME` in the file",
            )),
        ),
        (
            ONE,
            None,
            Err((
                "no environment selected; the file has dev",
                "choose one with `--env NAME`, or with `default_environment: NAME` in the file",
            )),
        ),
        (
            TWO,
            Some("prdo"),
            Err(("there is no environment `prdo`", "did you mean `prod`? there are: dev, prod")),
        ),
        (TWO, Some("staging"), Err(("there is no environment `staging`", "there are: dev, prod"))),
        (TWO, Some(""), Err(("there is no environment ``", "there are: dev, prod"))),
        (
            "{default_environment: de, environments: {dev: }}",
            Some("dev"),
            Err((
                "`default_environment`: there is no environment `de`",
                "did you mean `dev`? there are: dev",
            )),
        ),
    ] {
        let chosen = chosen(text, wanted);
        match expected {
            Ok(stack) => {
                assert_eq!(chosen.unwrap(), [format!("--stack-name={stack}")], "{text}");
            }
            Err((message, hint)) => {
                let failure = chosen.unwrap_err();
                assert_eq!(failure.to_string(), message, "{text}");
                assert_eq!(failure.hint.as_deref(), Some(hint), "{text}");
            }
        }
    }
}

#[track_caller]
fn assert_wrong(text: &str, message: &str, hint: &str) {
    let failure = chosen(text, Some("dev")).unwrap_err();
    let actual = failure.hint.as_deref().unwrap_or_default();
    assert!(failure.to_string().contains(message), "{text:?}: {failure}");
    assert!(actual.contains(hint), "{text:?}: {actual}");
}

#[test]
fn errors_name_what_is_wrong_with_the_file() {
    for (text, message, hint) in [
        ("", "it is empty", "`environments: {dev: "),
        ("# nothing but this\n", "it is empty", "`environments: {dev: "),
        ("dev", "it must contain `key: value` pairs", EXPECTED),
        ("environments:", "it defines no environments", EXPECTED),
        ("environments: {}", "it defines no environments", EXPECTED),
        ("default_environment: dev", "it defines no environments", EXPECTED),
        ("environments: [dev]", "`environments` must contain `key: value` pairs", EXPECTED),
        ("environments: [{name: dev}]", "`environments` must contain `key: value` pairs", EXPECTED),
        ("jobs: {a: [{b: !c [d]}]}", "unknown key `jobs`", "the keys are: default"),
        (
            "environments: {dev: [stack_name]}",
            "environment `dev` must contain `key: value` pairs",
            EXPECTED,
        ),
        ("environment: {dev: }", "unknown key `environment`", "did you mean `environments`?"),
        (
            "dev: {stack_name: s}",
            "unknown key `dev`",
            "the keys are: default_environment, environments",
        ),
        (
            "environments: {prod: {stak_name: s}}",
            "unknown key `stak_name` in environment `prod`",
            "did you mean `stack_name`?",
        ),
        (
            "environments: {prod: {quorum: 3}}",
            "unknown key `quorum` in environment `prod`",
            "the keys are: table_name, stack_name, ",
        ),
        ("environments: {1: }", "key `1` must be a string", "quotes"),
        (
            "environments: {a b: }",
            "`a b` is not a valid environment name",
            "letters, digits, hyphens and underscores",
        ),
        (
            "environments:\n  dev: {stack_name: s\n",
            "did not find expected ',' or '}' at line 3 column 1",
            EXAMPLE,
        ),
        ("\tenvironments:", "while scanning for the next token at line 1 column 1", EXAMPLE),
        (
            "environments:\n  dev:\n  dev:\n",
            "environments: duplicate entry with key \"dev\" at line 2 column 3",
            EXAMPLE,
        ),
        (
            "environments:\n  dev:\n    arch: arm64\n    arch: x86_64\n",
            "environments.dev: duplicate entry with key \"arch\" at line 3",
            EXAMPLE,
        ),
        (
            "environments: {dev: {tags: {a: b, a: c}}}",
            "environments.dev.tags: duplicate entry with key \"a\" at line 1",
            EXAMPLE,
        ),
        (
            "{default_environment: [dev], environments: {dev: }}",
            "`default_environment` must be a single value",
            "",
        ),
        ("environments: {dev: }\n---\na: b", "more than one document", EXAMPLE),
        (
            "environments: {dev: &dev {protect: true}, prod: {<<: *dev, stack_name: s}}",
            "merge keys (`<<`) are not supported",
            "an alias for a whole value",
        ),
        (
            "environments: {dev: {tags: &tags {a: b}}, prod: {tags: {<<: *tags, c: d}}}",
            "merge keys (`<<`) are not supported",
            "an alias for a whole value",
        ),
        ("{<<: {default_environment: dev}}", "merge keys (`<<`) are not supported", "`KEY: *NAME`"),
    ] {
        assert_wrong(text, message, hint);
    }
}

#[test]
fn a_wrong_value_is_named_with_its_key_and_environment() {
    for (text, message, hint) in [
        (
            "environments: {dev: {stack_name: [s]}}",
            "environment `dev`: `stack_name` must be a single value",
            EXAMPLE,
        ),
        (
            "environments: {dev: {protect: yes}}",
            "environment `dev`: `protect` cannot be `yes`",
            "possible values: true, false",
        ),
        (
            "environments: {dev: {arch: arm}}",
            "environment `dev`: `arch` cannot be `arm`",
            "possible values: x86_64, arm64",
        ),
        (
            "environments: {dev: {auth: everyone}}",
            "environment `dev`: `auth` cannot be `everyone`",
            "possible values: none, iam",
        ),
        (
            "environments: {dev: {wait_for_stack: soon}}",
            "environment `dev`: `wait_for_stack` cannot be `soon`",
            "a time is a number with a unit",
        ),
        (
            "environments: {dev: {parameters: {MemorySize: [512]}}}",
            "environment `dev`: `parameters` must map strings to strings",
            EXAMPLE,
        ),
    ] {
        assert_wrong(text, message, hint);
    }
}

#[test]
fn a_value_that_aws_refuses_is_named_with_its_key_and_environment() {
    for (text, message, hint) in [
        (
            "environments: {dev: {stack_name: 1st}}",
            "environment `dev`: `stack_name` cannot be `1st`",
            "a stack's name is",
        ),
        (
            "environments: {dev: {table_name: t}}",
            "environment `dev`: `table_name` cannot be `t`",
            "a table's name is",
        ),
        (
            "environments: {dev: {bucket: A}}",
            "environment `dev`: `bucket` cannot be `A`",
            "a bucket's name is",
        ),
        (
            "environments: {dev: {region: no where}}",
            "environment `dev`: `region` cannot be `no where`",
            "a region's name is",
        ),
        (
            "environments: {dev: {role_arn: r}}",
            "environment `dev`: `role_arn` cannot be `r`",
            "a role's ARN is",
        ),
        (
            "environments: {dev: {notification_arns: [t]}}",
            "environment `dev`: `notification_arns` cannot be `t`",
            "a topic's ARN is",
        ),
        (
            "environments: {dev: {parameters: {Memory: 512}}}",
            "environment `dev`: the template has no parameter `Memory`",
            "did you mean `MemorySize`?",
        ),
        (
            "environments: {dev: {tags: {created-by: me}}}",
            "environment `dev`: tag `created-by=me` is refused",
            "another key",
        ),
        // One that is not chosen is checked, too.
        (
            "environments: {dev: , prod: {protect: 1}}",
            "environment `prod`: `protect` cannot be `1`",
            "possible values: true, false",
        ),
    ] {
        assert_wrong(text, message, hint);
    }
}
