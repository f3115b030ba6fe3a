//! Options that several commands share, and the values that the commands work with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Display, Formatter},
    path::PathBuf,
    time::Duration,
};

use cbbootstrap_cli::values::duration;
use cbbootstrap_function::table::DEFAULT_TABLE_NAME;
use cbbootstrap_protocol::names::is_hidden;
use clap::{ArgAction, Args};
use serde::Serialize;

use crate::{
    aws::Access,
    failure::{Exit, Failure},
    local::data,
    package::BuildArgs,
    stack::{OWNER_TAG, STACK_TAG},
    template,
    values::{Arch, Auth, bucket_name, pair, role_arn, stack_name, table_name, topic_arn},
};

pub const DEFAULT_STACK_NAME: &str = "cbbootstrap";

/// AWS allows this many tags on a stack.
const MOST_TAGS: usize = 50;

/// CloudFormation allows this many notification topics on a stack.
const MOST_TOPICS: usize = 5;

/// Which of the environments in `cbbootstrap.yaml`.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// Environment in `cbbootstrap.yaml` that sets the options not given here
    #[arg(long = "env", env = "CBBOOTSTRAP_ENV", value_name = "NAME")]
    pub environment: Option<String>,
    /// File of environments [default: `cbbootstrap.yaml` if it exists]
    #[arg(long, env = "CBBOOTSTRAP_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Which stack, and where.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// CloudFormation stack
    #[arg(
        long,
        env = "CBBOOTSTRAP_STACK_NAME",
        value_name = "NAME",
        value_parser = stack_name,
        default_value = DEFAULT_STACK_NAME
    )]
    pub stack_name: String,
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub access: Access,
}

impl Place {
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
}

/// The stack that `deploy` and `plan` compare with, except for the function.
#[derive(Clone, Debug, Args)]
pub struct TargetArgs {
    #[command(flatten)]
    pub table: TableArgs,
    #[command(flatten)]
    pub place: Place,
    /// Existing bucket for the function's zip [default: a bucket that `deploy` creates]
    #[arg(long, env = "CBBOOTSTRAP_BUCKET", value_name = "NAME", help_heading = "AWS", value_parser = bucket_name)]
    pub bucket: Option<String>,
    #[command(flatten)]
    pub stack: StackOptions,
}

/// Settings of the stack itself.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Stack")]
pub struct StackOptions {
    /// Who can call the API
    #[arg(long, value_enum, value_name = "WHO", default_value_t)]
    pub auth: Auth,
    /// Refuse calls without a cluster token
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    pub require_secret: bool,
    /// Refuse claims without a lease
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    pub require_lease: bool,
    /// Parameter of the stack's template, such as `MemorySize=512`; can be repeated
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = pair)]
    pub parameters: Vec<(String, String)>,
    /// Tag for the stack and its resources; can be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = pair)]
    pub tags: Vec<(String, String)>,
    /// Role with which CloudFormation makes the changes [default: the caller's credentials]
    #[arg(long, value_name = "ARN", value_parser = role_arn)]
    pub role_arn: Option<String>,
    /// SNS topic for the stack's events; can be repeated
    #[arg(long = "notification-arn", value_name = "ARN", value_parser = topic_arn)]
    pub notification_arns: Vec<String>,
    /// Protect the stack against deletion, or with `false` no longer [default: unchanged]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub protect: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, Args)]
pub struct WaitArgs {
    /// How long to wait for another deployment to finish; `0s` fails at once [default: 30m; a terminal is asked]
    #[arg(long, value_name = "TIME", help_heading = "Stack", value_parser = duration)]
    pub wait_for_stack: Option<Duration>,
}

/// Which function: built from source, or a zip.
#[derive(Debug, Args)]
#[command(next_help_heading = "Function")]
pub struct FunctionArgs {
    /// Deploy this zip instead of building the function
    #[arg(long, value_name = "FILE", conflicts_with = "from_source")]
    pub function_zip: Option<PathBuf>,
    #[command(flatten)]
    pub build: BuildArgs,
}

/// The desired stack, except for the function.
#[derive(Clone, Debug)]
pub struct Target {
    pub table_name: String,
    pub place: Place,
    pub bucket: Option<String>,
    pub stack: StackOptions,
    pub arch: Arch,
    pub parameters: BTreeMap<String, String>,
    /// The user's tags; cbbootstrap adds its own.
    pub tags: BTreeMap<String, String>,
    /// How long to wait for another deployment; `None` asks on a terminal.
    pub wait_for_stack: Option<Duration>,
}

impl TargetArgs {
    /// Checks parameters, tags and topics before anything is asked of AWS.
    pub fn check(&self) -> Result<(), Failure> {
        template::check(&map(&self.stack.parameters))?;
        check_tags(&map(&self.stack.tags))?;
        check_topics(&self.stack.notification_arns)
    }
}

impl Target {
    /// The target of `deploy` and `plan`.
    pub fn new(options: TargetArgs, wait: WaitArgs, arch: Arch) -> Result<Self, Failure> {
        if options.stack.require_secret && options.stack.auth == Auth::Iam {
            let message = "`--require-secret` cannot be combined with `--auth iam`";
            return Err(Failure::usage(message).hint(
                "signatures and tokens share the header `Authorization`; choose one of the two",
            ));
        }
        options.check()?;
        let TargetArgs { table: TableArgs { table_name }, place, bucket, stack } = options;
        let (parameters, tags) = (map(&stack.parameters), map(&stack.tags));
        let wait_for_stack = wait.wait_for_stack;
        Ok(Self { table_name, place, bucket, stack, arch, parameters, tags, wait_for_stack })
    }
}

/// Later pairs replace earlier ones of the same name: the command line those of the file.
fn map(pairs: &[(String, String)]) -> BTreeMap<String, String> {
    pairs.iter().cloned().collect()
}

/// Checks that AWS accepts these tags next to cbbootstrap's own.
fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Failure> {
    // The rule of IAM: roles get the stack's tags, and IAM is stricter than other services.
    let allowed = |text: &str| {
        text.chars().all(|c| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c))
    };
    let mut folded = BTreeSet::new();
    for (key, value) in tags {
        let (key_length, value_length) = (key.chars().count(), value.chars().count());
        let rule = if [OWNER_TAG.0, STACK_TAG].iter().any(|ours| key.eq_ignore_ascii_case(ours)) {
            "cbbootstrap marks what it made with this tag; choose another key"
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
            .hint(format!(
                "AWS allows {MOST_TAGS}, and cbbootstrap's `{}` is one of them",
                OWNER_TAG.0
            ))
            .exit(Exit::Usage));
    }
    Ok(())
}

/// Checks the number of notification topics.
fn check_topics(topics: &[String]) -> Result<(), Failure> {
    if topics.len() <= MOST_TOPICS {
        return Ok(());
    }
    Err(Failure::new(format!("{} topics are too many", topics.len()))
        .hint(format!("CloudFormation allows at most {MOST_TOPICS} notification topics per stack"))
        .exit(Exit::Usage))
}

/// What `destroy` deletes, and how.
#[derive(Clone, Debug, Args)]
pub struct RemovalArgs {
    /// Role with which CloudFormation deletes [default: that of the last change]
    #[arg(long, value_name = "ARN", help_heading = "Stack", value_parser = role_arn)]
    pub role_arn: Option<String>,
    /// How long to wait for another deployment to finish; `0s` fails at once [default: 30m; a terminal is asked]
    #[arg(long, value_name = "TIME", help_heading = "Stack", value_parser = duration)]
    pub wait_for_stack: Option<Duration>,
    /// DynamoDB table to delete if the stack no longer exists
    // Its id is not `table_name`: a file or a variable must not choose what is deleted.
    #[arg(id = "deleted_table", long = "table-name", value_name = "NAME", value_parser = table_name)]
    pub table_name: Option<String>,
    #[command(flatten)]
    pub place: Place,
}

/// The table, by name.
#[derive(Clone, Debug, Args)]
pub struct TableArgs {
    /// DynamoDB table with the records of the clusters
    #[arg(
        long,
        env = "CBBOOTSTRAP_TABLE_NAME",
        value_name = "NAME",
        value_parser = table_name,
        default_value = DEFAULT_TABLE_NAME
    )]
    pub table_name: String,
}

/// Which table of records.
#[derive(Clone, Debug, Args)]
pub struct RecordsArgs {
    #[command(flatten)]
    pub table: TableArgs,
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub local: LocalTableArgs,
    #[command(flatten)]
    pub access: Access,
}

/// The table of a local deployment.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "On this machine")]
pub struct LocalTableArgs {
    /// Use the database of `serve` and `deploy --local` on this machine, running or not
    #[arg(long, conflicts_with_all = ["region", "profile", "environment", "config", "table_name"])]
    pub local: bool,
    /// Directory of the database [default: `cbbootstrap` in your data directory]
    #[arg(long, value_name = "DIR", requires = "local")]
    pub data: Option<PathBuf>,
}

/// The records of a table in AWS, or of a server on this machine.
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

impl Records {
    /// Of `cluster`.
    pub fn of(args: RecordsArgs) -> anyhow::Result<Self> {
        let RecordsArgs { table: TableArgs { table_name: table }, config, local, access } = args;
        let keeper = if local.local {
            Keeper::ThisMachine { data: data::directory(local.data.as_deref())? }
        } else {
            Keeper::Aws { table, access }
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

#[cfg(test)]
mod tests;
