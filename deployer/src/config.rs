//! `cbbootstrap.yaml`: the environments of a project, and what is deployed where.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    time::Duration,
};

use cbbootstrap_cli::{suggestion::did_you_mean, text};
use serde::{Deserialize, Deserializer, de};
use serde_yaml::{Mapping, Value};

use crate::{
    aws::OURS,
    cli::ConfigArgs,
    failure::{Exit, Failure},
    template,
    values::{self, Arch, Auth},
};

/// The file that is read where none is named.
pub const FILE: &str = "cbbootstrap.yaml";

/// What `cbbootstrap init` writes.
pub const SAMPLE: &str = include_str!("../../templates/cbbootstrap.yaml");

/// The most tags that AWS lets a stack have.
const MOST_TAGS: usize = 50;

/// The most topics that a stack may tell.
const MOST_TOPICS: usize = 5;

const FILE_KEYS: [&str; 2] = ["default_environment", "environments"];

/// The fields of [`Environment`].
const ENVIRONMENT_KEYS: [&str; 15] = [
    "stack_name",
    "table_name",
    "bucket",
    "region",
    "profile",
    "arch",
    "auth",
    "require_secret",
    "require_lease",
    "parameters",
    "tags",
    "role_arn",
    "notification_arns",
    "protect",
    "wait_for_stack",
];

const EXPECTED: &str = "it is to hold `environments:` and below it a name, such as `dev:`, with its settings; \
     `cbbootstrap init --config example.yaml` writes an example";

const EXAMPLE: &str = "`cbbootstrap init --config example.yaml` writes an example";

/// One environment: what stands in for options that are not given. All of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Environment {
    /// `--stack-name`
    pub stack_name: Option<String>,
    /// `--table-name`
    pub table_name: Option<String>,
    /// `--bucket`
    pub bucket: Option<String>,
    /// `--region`
    pub region: Option<String>,
    /// `--profile`
    pub profile: Option<String>,
    /// `--arch`
    pub arch: Option<Arch>,
    /// `--auth`
    pub auth: Option<Auth>,
    /// `--require-secret`
    pub require_secret: Option<bool>,
    /// `--require-lease`
    pub require_lease: Option<bool>,
    /// `--parameter`
    pub parameters: BTreeMap<String, String>,
    /// `--tag`
    pub tags: BTreeMap<String, String>,
    /// `--role-arn`
    pub role_arn: Option<String>,
    /// `--notification-arn`
    pub notification_arns: Vec<String>,
    /// `--protect`
    pub protect: Option<bool>,
    /// `--wait-for-stack`
    #[serde(deserialize_with = "duration")]
    pub wait_for_stack: Option<Duration>,
}

/// The environment that is asked for, or that the file says to take; without a file, one that says nothing.
pub fn environment(args: &ConfigArgs) -> anyhow::Result<Environment> {
    let (named, wanted) = (args.config.as_deref(), args.environment.as_deref());
    let path = named.unwrap_or(FILE.as_ref());
    let environment = match text::read_text(path) {
        Ok(text) => File::parse(&text)
            .and_then(|file| file.choose(wanted))
            .map_err(|failure| failure.about(format_args!("`{}`", path.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => match wanted {
            None => Ok(Environment::default()),
            Some(name) => Err(Failure::new(format!(
                "there is no `{FILE}` here to take environment `{name}` from"
            ))
            .hint("`cbbootstrap init` writes one, and `--config FILE` names another")),
        },
        Err(error) => Err(Failure::new(error.to_string())
            .hint("`--config FILE` names another, and `cbbootstrap init` writes one")),
    };
    Ok(environment.map_err(|failure| failure.exit(Exit::Usage))?)
}

/// That AWS takes these tags beside ours.
pub fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Failure> {
    // That of IAM, whose roles are stricter than the other services, and get the stack's tags.
    let allowed = |text: &str| {
        text.chars().all(|c| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c))
    };
    let mut folded = BTreeSet::new();
    for (key, value) in tags {
        let (key_length, value_length) = (key.chars().count(), value.chars().count());
        let rule = if key.eq_ignore_ascii_case(OURS.0) {
            "by this tag cbbootstrap knows what it made; choose another key"
        } else if key.to_ascii_lowercase().starts_with("aws:") {
            "keys that begin with `aws:` are AWS's own"
        } else if !(1..=128).contains(&key_length) || !(1..=256).contains(&value_length) {
            "a tag's key has 1 to 128 characters, and its value 1 to 256"
        } else if !allowed(key) || !allowed(value) {
            "a tag is letters, digits, spaces and _.:/=+-@"
        } else if !folded.insert(key.to_lowercase()) {
            "there is another whose key differs only in case, which a role's tags may not"
        } else {
            continue;
        };
        return Err(Failure::new(format!("tag `{key}` cannot be `{value}`"))
            .hint(rule)
            .exit(Exit::Usage));
    }
    if tags.len() >= MOST_TAGS {
        return Err(Failure::new(format!("{} tags are too many", tags.len()))
            .hint(format!("AWS takes {MOST_TAGS}, and cbbootstrap's `{}` is one of them", OURS.0))
            .exit(Exit::Usage));
    }
    Ok(())
}

/// That a stack may tell so many topics.
pub fn check_topics(topics: &[String]) -> Result<(), Failure> {
    if topics.len() <= MOST_TOPICS {
        return Ok(());
    }
    Err(Failure::new(format!("{} topics are too many", topics.len()))
        .hint(format!("a stack tells {MOST_TOPICS} at most"))
        .exit(Exit::Usage))
}

/// The whole file.
#[derive(Debug, Deserialize)]
struct File {
    default_environment: Option<String>,
    environments: BTreeMap<String, Environment>,
}

impl File {
    fn parse(text: &str) -> Result<Self, Failure> {
        // As values first, which knows of keys that stand there twice, and lets unknown ones be told with the nearest.
        // Then as what is meant, from the text again: so `1.10` for a text is just that, and not a number that was rounded.
        let value: Value = serde_yaml::from_str(text).map_err(|error| unreadable(&error))?;
        check_keys(&value)?;
        let file: Self = serde_yaml::from_str(text).map_err(|error| unreadable(&error))?;
        for (name, environment) in &file.environments {
            environment
                .check()
                .map_err(|failure| failure.about(format_args!("environment `{name}`")))?;
        }
        if let Some(name) = &file.default_environment {
            file.has(name).map_err(|failure| failure.about("`default_environment`"))?;
        }
        Ok(file)
    }

    /// The environment of that name, or the one that the file says to take. None is guessed, not even an only one:
    /// what is deployed where must not change because a second one is added.
    fn choose(mut self, wanted: Option<&str>) -> Result<Environment, Failure> {
        let Some(name) = wanted.or(self.default_environment.as_deref()) else {
            return Err(Failure::new(format!("no environment is chosen from {}", self.names()))
                .hint(
                    "choose one with `--env NAME`, or with `default_environment: NAME` in the file",
                ));
        };
        self.has(name)?;
        Ok(self.environments.remove(name).unwrap_or_default())
    }

    fn has(&self, name: &str) -> Result<(), Failure> {
        if self.environments.contains_key(name) {
            return Ok(());
        }
        let known = format!("there are: {}", self.names());
        let names = self.environments.keys().map(String::as_str);
        let hint = did_you_mean(name, names).map(|question| format!("{question} {known}"));
        Err(Failure::new(format!("there is no environment `{name}`")).hint(hint.unwrap_or(known)))
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.environments.keys().map(String::as_str).collect();
        names.join(", ")
    }
}

impl Environment {
    /// That the values follow the rules that they would follow as options.
    fn check(&self) -> Result<(), Failure> {
        type Rule = fn(&str) -> Result<String, String>;
        let rules: [(_, _, Rule); 5] = [
            ("stack_name", &self.stack_name, values::stack_name),
            ("table_name", &self.table_name, values::table_name),
            ("bucket", &self.bucket, values::bucket_name),
            ("region", &self.region, values::region_name),
            ("role_arn", &self.role_arn, values::role_arn),
        ];
        let single =
            rules.into_iter().filter_map(|(key, value, rule)| Some((key, value.as_ref()?, rule)));
        let topics = self
            .notification_arns
            .iter()
            .map(|arn| ("notification_arns", arn, values::topic_arn as Rule));
        for (key, value, rule) in single.chain(topics) {
            rule(value)
                .map_err(|rule| Failure::new(format!("`{key}` cannot be `{value}`")).hint(rule))?;
        }
        check_topics(&self.notification_arns)?;
        template::check(&self.parameters)?;
        check_tags(&self.tags)
    }
}

/// That every key is known, and every name of an environment is one.
fn check_keys(file: &Value) -> Result<(), Failure> {
    let file = mapping(file, "it")?.ok_or_else(|| Failure::new("it is empty").hint(EXPECTED))?;
    check_known(file, &FILE_KEYS, "")?;
    let environments = match file.get("environments") {
        Some(environments) => mapping(environments, "`environments`")?,
        None => None,
    };
    let environments = environments
        .filter(|environments| !environments.is_empty())
        .ok_or_else(|| Failure::new("it holds no environments").hint(EXPECTED))?;
    for (name, environment) in environments {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        let name = text(name)?;
        if name.is_empty() || !name.chars().all(good) {
            return Err(Failure::new(format!("an environment cannot be called `{name}`"))
                .hint("its name is letters, digits, hyphens and underscores"));
        }
        let place = format!("environment `{name}`");
        if let Some(environment) = mapping(environment, &place)? {
            check_known(environment, &ENVIRONMENT_KEYS, &format!(" in {place}"))?;
        }
    }
    Ok(())
}

fn check_known(mapping: &Mapping, known: &[&str], place: &str) -> Result<(), Failure> {
    for key in mapping.keys() {
        let key = text(key)?;
        if !known.contains(&key) {
            let hint = did_you_mean(key, known.iter().copied())
                .unwrap_or_else(|| format!("the keys are: {}", known.join(", ")));
            return Err(Failure::new(format!("unknown key `{key}`{place}")).hint(hint));
        }
    }
    Ok(())
}

/// A mapping, where there is anything.
fn mapping<'v>(value: &'v Value, what: &str) -> Result<Option<&'v Mapping>, Failure> {
    match value {
        Value::Null => Ok(None),
        Value::Mapping(mapping) => Ok(Some(mapping)),
        _ => Err(Failure::new(format!("{what} holds no `key: value`")).hint(EXPECTED)),
    }
}

fn text(key: &Value) -> Result<&str, Failure> {
    key.as_str().ok_or_else(|| {
        let shown = serde_yaml::to_string(key).unwrap_or_default();
        Failure::new(format!("the key `{}` is no text", shown.trim())).hint("put it in quotes")
    })
}

fn unreadable(error: &serde_yaml::Error) -> Failure {
    let message = match error.location() {
        // The first place of all is left out of the message.
        Some(place) if place.index() == 0 => format!("{error} at line 1 column 1"),
        _ => error.to_string(),
    };
    Failure::new(message).hint(EXAMPLE)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let duration = text.as_deref().map(cbbootstrap_cli::values::duration).transpose();
    duration.map_err(|rule| de::Error::custom(format_args!("`wait_for_stack`: {rule}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(text: &str, wanted: Option<&str>) -> Result<Environment, Failure> {
        File::parse(text)?.choose(wanted)
    }

    #[test]
    fn everything_that_an_environment_may_hold() {
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
    notification_arns: ["arn:aws:sns:eu-central-1:123456789012:t"]
    protect: true
    wait_for_stack: 30m
"#;
        let texts = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let expected = Environment {
            stack_name: Some("cbbootstrap-prod".to_owned()),
            table_name: Some("cb-bootstrap-prod".to_owned()),
            bucket: Some("artifacts".to_owned()),
            region: Some("eu-central-1".to_owned()),
            profile: Some("prod".to_owned()),
            arch: Some(Arch::Arm64),
            auth: Some(Auth::Iam),
            require_secret: Some(false),
            require_lease: Some(true),
            parameters: texts(&[("MemorySize", "512"), ("LogLevel", "debug")]),
            tags: texts(&[
                ("team", "data"),
                ("version", "1.10"),
                ("paid", "true"),
                ("number", "0123"),
            ]),
            role_arn: Some("arn:aws:iam::123456789012:role/r".to_owned()),
            notification_arns: vec!["arn:aws:sns:eu-central-1:123456789012:t".to_owned()],
            protect: Some(true),
            wait_for_stack: Some(Duration::from_mins(30)),
        };
        assert_eq!(chosen(text, Some("prod")).unwrap(), expected);
        for key in ENVIRONMENT_KEYS {
            assert!(text.contains(&format!("    {key}: ")), "{key}");
        }
    }

    #[test]
    fn what_is_left_empty_is_not_given() {
        for text in [
            "environments: {dev: }",
            "environments: {dev: {}}",
            "environments: {dev: {parameters: , tags: , stack_name: , wait_for_stack: }}",
        ] {
            let environment = chosen(text, Some("dev"));
            assert_eq!(environment.unwrap(), Environment::default(), "{text}");
        }
    }

    #[test]
    fn the_sample_is_read_as_it_stands() {
        let dev = chosen(SAMPLE, None).unwrap();
        let prod = chosen(SAMPLE, Some("prod")).unwrap();
        assert_eq!(dev.stack_name.as_deref(), Some("cbbootstrap-dev"));
        assert_eq!((dev.protect, prod.protect), (None, Some(true)));
        assert_ne!(dev.stack_name, prod.stack_name);
        assert_ne!(dev.table_name, prod.table_name);
        assert_eq!((dev.region, dev.profile), (None, None), "it names nobody's");
    }

    #[test]
    fn the_sample_stays_good_when_its_comments_are_filled_in() {
        let is_setting = |text: &str| {
            let key = text.split_once(':').map(|(key, _)| key);
            key.is_some_and(|key| ENVIRONMENT_KEYS.contains(&key)) || text.starts_with("  - ")
        };
        let filled: Vec<_> = SAMPLE
            .lines()
            .map(|line| match line.split_once("# ") {
                Some((indent, text)) if is_setting(text) => format!("{indent}{text}"),
                _ => line.to_owned(),
            })
            .collect();
        let filled = filled.join("\n");
        for key in ENVIRONMENT_KEYS {
            assert!(SAMPLE.contains(&format!("{key}:")), "it tells of {key}");
        }
        let prod = chosen(&filled, Some("prod")).unwrap();
        assert_eq!(prod.arch, Some(Arch::Arm64), "{filled}");
        assert_eq!(prod.auth, Some(Auth::Iam), "{filled}");
        assert!(prod.role_arn.is_some() && prod.wait_for_stack.is_some());
        assert_eq!(prod.notification_arns.len(), 1);
    }

    #[test]
    fn an_environment_is_chosen_and_never_guessed() {
        const TWO: &str = "environments: {dev: {stack_name: d}, prod: {stack_name: p}}";
        const DEFAULT: &str = "{default_environment: dev, environments: {dev: {stack_name: d}, prod: {stack_name: p}}}";
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
                    "no environment is chosen from dev, prod",
                    "choose one with `--env NAME`, or with `default_environment: NAME` in the file",
                )),
            ),
            (
                ONE,
                None,
                Err((
                    "no environment is chosen from dev",
                    "choose one with `--env NAME`, or with `default_environment: NAME` in the file",
                )),
            ),
            (
                TWO,
                Some("prdo"),
                Err((
                    "there is no environment `prdo`",
                    "did you mean `prod`? there are: dev, prod",
                )),
            ),
            (
                TWO,
                Some("staging"),
                Err(("there is no environment `staging`", "there are: dev, prod")),
            ),
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
                    let environment = chosen.unwrap();
                    assert_eq!(environment.stack_name.as_deref(), Some(stack), "{text}");
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
        let said = failure.hint.as_deref().unwrap_or_default();
        assert!(failure.to_string().contains(message), "{text:?}: {failure}");
        assert!(said.contains(hint), "{text:?}: {said}");
    }

    #[test]
    fn a_file_that_is_none_is_told_where_it_goes_wrong() {
        for (text, message, hint) in [
            ("", "it is empty", "`environments:`"),
            ("# nothing but this\n", "it is empty", "`environments:`"),
            ("dev", "it holds no `key: value`", EXPECTED),
            ("environments:", "it holds no environments", EXPECTED),
            ("environments: {}", "it holds no environments", EXPECTED),
            ("default_environment: dev", "it holds no environments", EXPECTED),
            ("environments: [dev]", "`environments` holds no `key: value`", EXPECTED),
            (
                "environments: {dev: [stack_name]}",
                "environment `dev` holds no `key: value`",
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
                "the keys are: stack_name, table_name, ",
            ),
            ("environments: {1: }", "the key `1` is no text", "quotes"),
            (
                "environments: {a b: }",
                "an environment cannot be called `a b`",
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
            ("environments: {dev: }\n---\na: b", "more than one document", EXAMPLE),
        ] {
            assert_wrong(text, message, hint);
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key_and_environment() {
        for (text, message, hint) in [
            (
                "environments: {dev: {stack_name: [s]}}",
                "environments.dev.stack_name: invalid type: sequence, expected a string at line 1",
                EXAMPLE,
            ),
            (
                "environments: {dev: {protect: yes}}",
                "environments.dev.protect: invalid type: string \"yes\", expected a boolean",
                EXAMPLE,
            ),
            (
                "environments: {dev: {arch: arm}}",
                "environments.dev.arch: unknown variant `arm`, expected `x86_64` or `arm64`",
                EXAMPLE,
            ),
            (
                "environments: {dev: {auth: everyone}}",
                "environments.dev.auth: unknown variant `everyone`, expected `none` or `iam`",
                EXAMPLE,
            ),
            (
                "environments: {dev: {wait_for_stack: soon}}",
                "environments.dev: `wait_for_stack`: a time is a number and a unit",
                EXAMPLE,
            ),
            (
                "environments: {dev: {parameters: {MemorySize: [512]}}}",
                "environments.dev.parameters.MemorySize: invalid type: sequence",
                EXAMPLE,
            ),
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
                "environment `dev`: tag `created-by` cannot be `me`",
                "another key",
            ),
            // One that is not chosen is checked, too.
            (
                "environments: {dev: , prod: {protect: 1}}",
                "environments.prod.protect: invalid type",
                EXAMPLE,
            ),
        ] {
            assert_wrong(text, message, hint);
        }
    }

    #[test]
    fn tags_follow_awss_rules() {
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
        assert!(check_tags(&tags(49)).is_ok());
        assert!(check_tags(&tags(50)).is_err(), "ours is one, too");
    }

    #[test]
    fn a_stack_tells_five_topics_at_most() {
        assert!(check_topics(&vec![String::new(); 5]).is_ok());
        assert!(check_topics(&vec![String::new(); 6]).is_err());
    }
}
