//! What a command works from: an option beats the environment variable, that beats `cbbootstrap.yaml`, and that the default.

use std::{
    collections::BTreeMap,
    fmt::{Display, Formatter},
    path::PathBuf,
    time::Duration,
};

use cbbootstrap_function::table::DEFAULT_TABLE_NAME;
use cbbootstrap_protocol::names::is_hidden;
use serde::Serialize;

use crate::{
    aws::Access,
    cli::{
        AwsArgs, ConfigArgs, DestroyArgs, FunctionArgs, RecordsArgs, StackArgs, TableArgs,
        TargetArgs, WaitArgs,
    },
    config::{self, Environment},
    failure::{Exit, Failure},
    local::data,
    template,
    values::{Arch, Auth},
};

const DEFAULT_STACK_NAME: &str = "cbbootstrap";

/// Which stack, and where.
#[derive(Clone, Debug)]
pub struct Place {
    /// The stack's name.
    pub stack_name: String,
    /// The environment that it was taken from.
    pub config: ConfigArgs,
    /// Account and region.
    pub access: Access,
}

/// What is to stand in AWS, the function apart.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where.
    pub place: Place,
    /// The table's name.
    pub table_name: String,
    /// The bucket that the user brings.
    pub bucket: Option<String>,
    /// The function's processor.
    pub arch: Arch,
    /// Who may call the API.
    pub auth: Auth,
    /// Whether every call must bring a cluster token.
    pub require_secret: bool,
    /// Whether every claim must have a lease.
    pub require_lease: bool,
    /// Parameters of the template that are not the default.
    pub parameters: BTreeMap<String, String>,
    /// Tags, ours not among them.
    pub tags: BTreeMap<String, String>,
    /// The role that CloudFormation is to use.
    pub role_arn: Option<String>,
    /// The topics that hear of the stack's events.
    pub notification_arns: Vec<String>,
    /// Whether the stack is to be protected against deletion; none leaves it as it is.
    pub protect: Option<bool>,
    /// How long to wait for somebody else's change; none asks on a terminal.
    pub wait_for_stack: Option<Duration>,
}

/// Whose records: those of a table in AWS, or of a server on this machine.
#[derive(Clone, Debug)]
pub struct Records {
    /// Where they are.
    pub keeper: Keeper,
    /// The environment that it was taken from.
    config: ConfigArgs,
}

/// Where records are kept.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Keeper {
    /// A table in AWS.
    Aws {
        /// Its name.
        table: String,
        /// Account and region.
        #[serde(skip)]
        access: Access,
    },
    /// This machine.
    ThisMachine {
        /// The directory.
        data: PathBuf,
    },
}

impl Display for Keeper {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Aws { table, .. } => write!(f, "table `{table}`"),
            Self::ThisMachine { data } => write!(f, "`{}`", data.display()),
        }
    }
}

/// What is to be destroyed, and how.
#[derive(Clone, Debug)]
pub struct Doomed {
    /// Where.
    pub place: Place,
    /// The table that is named, by the user or the file.
    pub table_name: Option<String>,
    /// The role that CloudFormation is to use.
    pub role_arn: Option<String>,
    /// How long to wait for somebody else's change; none asks on a terminal.
    pub wait_for_stack: Option<Duration>,
}

impl Place {
    /// Of a command that is about a stack.
    pub fn of(args: StackArgs) -> anyhow::Result<Self> {
        let environment = config::environment(&args.config)?;
        Ok(Self::with(args, &environment))
    }

    /// A command line about this very stack, for hints.
    pub fn command(&self, command: &str) -> String {
        let config = self.config.config.as_ref();
        let config = config.map(|file| file.display().to_string());
        let options = [
            ("--config", config.as_deref()),
            ("--env", self.config.environment.as_deref()),
            ("--stack-name", Some(self.stack_name.as_str())),
            ("--region", self.access.region.as_deref()),
            ("--profile", self.access.profile.as_deref()),
        ];
        let options: String = options
            .into_iter()
            .filter_map(|(option, value)| Some(format!(" {option} {}", value?)))
            .collect();
        format!("cbbootstrap {command}{options}")
    }

    /// In this environment.
    pub fn with(args: StackArgs, environment: &Environment) -> Self {
        Self {
            stack_name: args
                .stack_name
                .or_else(|| environment.stack_name.clone())
                .unwrap_or_else(|| DEFAULT_STACK_NAME.to_owned()),
            config: args.config,
            access: access(args.aws, environment),
        }
    }
}

fn access(args: AwsArgs, environment: &Environment) -> Access {
    Access {
        region: args.region,
        profile: args.profile,
        fallback_region: environment.region.clone(),
        fallback_profile: environment.profile.clone(),
    }
}

impl Target {
    /// Of `deploy` and `plan`. The function's processor is settled in its options, too.
    pub fn of(
        args: TargetArgs,
        wait: WaitArgs,
        function: &mut FunctionArgs,
    ) -> anyhow::Result<Self> {
        let environment = config::environment(&args.stack.config)?;
        let arch = function.build.arch.or(environment.arch).unwrap_or_default();
        function.build.arch = Some(arch);
        let target = Self {
            place: Place::with(args.stack, &environment),
            table_name: table_name(args.table, &environment),
            bucket: args.bucket.bucket.or(environment.bucket),
            arch,
            auth: args.auth.or(environment.auth).unwrap_or_default(),
            require_secret: args.require_secret.or(environment.require_secret).unwrap_or_default(),
            require_lease: args.require_lease.or(environment.require_lease).unwrap_or_default(),
            parameters: merged(environment.parameters, args.parameters),
            tags: merged(environment.tags, args.tags),
            role_arn: args.role_arn.or(environment.role_arn),
            notification_arns: if args.notification_arns.is_empty() {
                environment.notification_arns
            } else {
                args.notification_arns
            },
            protect: args.protect.or(environment.protect),
            wait_for_stack: wait.wait_for_stack.or(environment.wait_for_stack),
        };
        // The file's were checked with it. Here are the options, too, before anything is asked of AWS.
        if target.require_secret && target.auth == Auth::Iam {
            let message = "`--require-secret` cannot be combined with `--auth iam`";
            return Err(Failure::new(message)
                .hint(
                    "signatures and tokens share the header `Authorization`; choose one of the two",
                )
                .exit(Exit::Usage)
                .into());
        }
        template::check(&target.parameters)?;
        config::check_tags(&target.tags)?;
        config::check_topics(&target.notification_arns)?;
        Ok(target)
    }
}

impl Doomed {
    /// Of `destroy`.
    pub fn of(args: &DestroyArgs) -> anyhow::Result<Self> {
        let environment = config::environment(&args.stack.config)?;
        Ok(Self {
            place: Place::with(args.stack.clone(), &environment),
            table_name: args.table_name.clone().or(environment.table_name),
            role_arn: args.role_arn.clone().or(environment.role_arn),
            wait_for_stack: args.wait.wait_for_stack.or(environment.wait_for_stack),
        })
    }
}

impl Records {
    /// Of `cluster`.
    pub fn of(args: RecordsArgs) -> anyhow::Result<Self> {
        let RecordsArgs { table, config, local, aws } = args;
        // As `deploy --local` has it: the file is about AWS, and the environment variables that choose from it.
        let keeper = if local.local {
            let data = data::directory(local.data.as_deref())?;
            Keeper::ThisMachine { data }
        } else {
            let environment = config::environment(&config)?;
            Keeper::Aws {
                table: table_name(table, &environment),
                access: access(aws, &environment),
            }
        };
        Ok(Self { keeper, config })
    }

    /// A command line about these very records, for hints. `rest` is what follows the command.
    pub fn command(&self, command: &str, rest: &[String]) -> String {
        let path = |path: &PathBuf| path.display().to_string();
        let mut words = vec!["cbbootstrap".to_owned(), "cluster".to_owned()];
        words.push(command.to_owned());
        let options = match &self.keeper {
            Keeper::Aws { access, table } => vec![
                ("--config", self.config.config.as_ref().map(path)),
                ("--env", self.config.environment.clone()),
                ("--region", access.region.clone()),
                ("--profile", access.profile.clone()),
                ("--table-name", Some(table.clone())),
            ],
            Keeper::ThisMachine { data } => {
                words.push("--local".to_owned());
                vec![("--data", Some(path(data)))]
            }
        };
        for (option, value) in options {
            words.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
        }
        words.extend_from_slice(rest);
        words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")
    }
}

/// A word as a shell takes it, whatever is in it.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    // Such as nobody sees, or that command a terminal. A space is visible between quotes.
    let is_hidden = |c: char| c != ' ' && is_hidden(c);
    if word.chars().any(is_hidden) {
        // Bash and zsh know this.
        let escaped = word.chars().map(|c| match c {
            '\\' | '\'' => format!("\\{c}"),
            c if is_hidden(c) => format!("\\U{:08x}", u32::from(c)),
            c => c.to_string(),
        });
        return format!("$'{}'", escaped.collect::<String>());
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The table's name.
pub fn table_name(args: TableArgs, environment: &Environment) -> String {
    args.table_name
        .or_else(|| environment.table_name.clone())
        .unwrap_or_else(|| DEFAULT_TABLE_NAME.to_owned())
}

fn merged(
    mut file: BTreeMap<String, String>,
    options: Vec<(String, String)>,
) -> BTreeMap<String, String> {
    file.extend(options);
    file
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        cli::{Cli, ClusterCommand, Command},
        failure::{Exit, Failure},
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
    notification_arns: ['arn:aws:sns:eu-central-1:123456789012:file']
    protect: true
    wait_for_stack: 5m
";

    fn parsed(options: &[&str], file: Option<&str>) -> (Command, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let mut args = vec!["cbbootstrap".to_owned()];
        args.extend(options.iter().map(|&option| option.to_owned()));
        if let Some(file) = file {
            let path = directory.path().join("environments.yaml");
            std::fs::write(&path, file).unwrap();
            args.push(format!("--config={}", path.display()));
            args.push("--env=dev".to_owned());
        }
        (Cli::parse_from(args).command, directory)
    }

    fn deploy(options: &[&str], file: Option<&str>) -> anyhow::Result<(Target, Option<Arch>)> {
        let (command, _directory) = parsed(&[&["deploy"], options].concat(), file);
        let Command::Deploy(mut args) = command else {
            panic!("that is no deployment");
        };
        let target = Target::of(args.target, args.wait, &mut args.function)?;
        Ok((target, args.function.build.arch))
    }

    /// All that is settled, as one line each.
    fn lines(target: &Target) -> Vec<String> {
        let Target {
            place: Place { stack_name, access, .. },
            table_name,
            bucket,
            arch,
            auth,
            require_secret,
            require_lease,
            parameters,
            tags,
            role_arn,
            notification_arns,
            protect,
            wait_for_stack,
        } = target;
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
            format!("{protect:?} {wait_for_stack:?}"),
        ]
    }

    #[test]
    fn an_option_beats_the_file_and_that_the_default() {
        let (target, arch) = deploy(&[], None).unwrap();
        let defaults = [
            "cbbootstrap cb-bootstrap  x86_64 None",
            "false false",
            " or ",
            " or ",
            "{}",
            "{}",
            " []",
            "None None",
        ];
        assert_eq!(lines(&target), defaults);
        assert_eq!(arch, Some(Arch::X86_64));

        let (target, arch) = deploy(&[], Some(FILE)).unwrap();
        let file = [
            "file-stack file-table file-bucket arm64 Iam",
            "false true",
            " or eu-central-1",
            " or file-profile",
            r#"{"LogLevel": "debug", "MemorySize": "512"}"#,
            r#"{"stage": "dev", "team": "file"}"#,
            r#"arn:aws:iam::123456789012:role/file ["arn:aws:sns:eu-central-1:123456789012:file"]"#,
            "Some(true) Some(300s)",
        ];
        assert_eq!(lines(&target), file);
        assert_eq!(arch, Some(Arch::Arm64), "the build learns of it");

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
            "--notification-arn=arn:aws:sns:eu-central-1:123456789012:option",
            "--protect=false",
            "--wait-for-stack=0s",
        ];
        let (target, arch) = deploy(&options, Some(FILE)).unwrap();
        let options = [
            "stack table bucket x86_64 None",
            "true false",
            "us-west-2 or eu-central-1",
            "mine or file-profile",
            r#"{"LogLevel": "debug", "MemorySize": "1024"}"#,
            r#"{"stage": "dev", "team": "option"}"#,
            r#"arn:aws:iam::123456789012:role/option ["arn:aws:sns:eu-central-1:123456789012:option"]"#,
            "Some(false) Some(0ns)",
        ];
        assert_eq!(lines(&target), options);
        assert_eq!(arch, Some(Arch::X86_64));
    }

    #[test]
    fn the_other_commands_read_the_file_too() {
        let (command, _directory) = parsed(&["destroy"], Some(FILE));
        let Command::Destroy(args) = command else {
            panic!("that is no destruction");
        };
        let doomed = Doomed::of(&args).unwrap();
        assert_eq!(doomed.place.stack_name, "file-stack");
        assert_eq!(doomed.table_name.as_deref(), Some("file-table"));
        assert!(doomed.role_arn.is_some_and(|arn| arn.ends_with("file")));
        assert_eq!(doomed.wait_for_stack, Some(Duration::from_mins(5)));

        let (command, _directory) = parsed(&["destroy"], None);
        let Command::Destroy(args) = command else {
            panic!("that is no destruction");
        };
        let table_name = Doomed::of(&args).unwrap().table_name;
        assert_eq!(table_name, None, "none is deleted by its default name");

        let (command, _directory) = parsed(&["status", "--stack-name=stack"], Some(FILE));
        let Command::Status(args) = command else {
            panic!("that is no status");
        };
        assert_eq!(Place::of(args.stack).unwrap().stack_name, "stack");
    }

    fn records(options: &[&str], file: Option<&str>) -> Records {
        let (command, _directory) = parsed(&[&["cluster", "list"], options].concat(), file);
        let Command::Cluster(ClusterCommand::List(args)) = command else {
            panic!("that lists no clusters");
        };
        Records::of(args.records).unwrap()
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
            let records = records(options, file);
            let Keeper::Aws { table: name, access: found } = records.keeper else {
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
        let local = records(&["--local", "--data=dir"], None);
        assert!(
            matches!(&local.keeper, Keeper::ThisMachine { data } if data.ends_with("dir")),
            "{local:?}"
        );
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
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn parameters_and_tags_are_checked_before_anything_is_asked_of_aws() {
        for (option, message) in [
            ("--parameter=Memory=512", "no parameter `Memory`"),
            ("--parameter=TableName=t", "`TableName` is not set"),
            ("--require-secret", "cannot be combined with `--auth iam`"),
            ("--parameter=RequireSecret=true", "`RequireSecret` is not set"),
            ("--parameter=AuthorizationType=NONE", "`AuthorizationType` is not set"),
            ("--parameter=MemorySize=1", "`MemorySize` cannot be `1`"),
            ("--tag=aws:x=1", "tag `aws:x`"),
            ("--tag=created-by=me", "tag `created-by`"),
        ] {
            let error = deploy(&[option], Some(FILE)).unwrap_err();
            let failure = error.downcast_ref::<Failure>().unwrap();
            assert!(failure.to_string().contains(message), "{option}: {failure}");
            assert_eq!(failure.exit, Exit::Usage, "{option}");
        }
    }
}
