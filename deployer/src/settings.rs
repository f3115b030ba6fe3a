//! Options that several commands share, and the values that the commands work with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Display, Formatter},
    path::{Path, PathBuf},
    time::Duration,
};

use cbbootstrap_cli::{
    failure::Problems,
    text::{shell_argument, shell_word},
    values::duration,
};
use cbbootstrap_function::table::DEFAULT_TABLE_NAME;
use clap::{ArgAction, Args, Command, Id};
use serde::Serialize;

use crate::{
    aws::{Access, Aws, dynamodb::TableSettings},
    domain::DomainArgs,
    failure::Failure,
    fields::serialize_path,
    local::data,
    package::{ArtifactSource, BuildArgs, FUNCTION},
    stack::{OWNER_TAG, STACK_TAG, region_in},
    template::{self, Declaration},
    values::{
        Arch, Auth, BUCKET_NAME, NO_TOPICS, POLICY_ARN, ROLE_ARN, STACK_NAME, TABLE_NAME, pair,
        topic,
    },
};

pub const DEFAULT_STACK_NAME: &str = "cbbootstrap";

/// AWS's limits for a stack.
const MOST_TAGS: usize = 50;
/// How many tags this program adds at most to those of the user: two to a table.
const OWN_TAGS: usize = 2;
const MOST_TOPICS: usize = 5;

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Environment")]
pub struct ConfigArgs {
    /// Environment of `cbbootstrap.yaml`; options and variables override it
    #[arg(long = "env", env = "CBBOOTSTRAP_ENV", value_name = "NAME")]
    pub environment: Option<String>,
    /// File of environments [default: `cbbootstrap.yaml` if it exists]
    #[arg(long, env = "CBBOOTSTRAP_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigArgs {
    fn options(&self) -> [(&'static str, Option<String>); 2] {
        let config = self.config.as_ref().map(|file| file.display().to_string());
        [("--config", config), ("--env", self.environment.clone())]
    }
}

/// Which stack, and where.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// CloudFormation stack
    #[arg(
        long,
        env = "CBBOOTSTRAP_STACK_NAME",
        value_name = "NAME",
        help_heading = "Stack",
        value_parser = STACK_NAME.parser(),
        default_value = DEFAULT_STACK_NAME
    )]
    pub stack_name: String,
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub access: Access,
}

impl Place {
    /// A command line for this stack, in hints.
    pub fn command(&self, command: &str) -> String {
        let stack = [("--stack-name", Some(self.stack_name.clone()))];
        let options = self.config.options().into_iter().chain(stack).chain(self.access.options());
        command_line(command, options, &[])
    }
}

/// The desired stack, except for the function.
#[derive(Clone, Debug, Args)]
pub struct Target {
    #[command(flatten)]
    pub table: TableArgs,
    #[command(flatten)]
    pub place: Place,
    /// Existing bucket for the function's zip [default: a bucket that `deploy` creates]
    #[arg(long, env = "CBBOOTSTRAP_BUCKET", value_name = "NAME", help_heading = "AWS", value_parser = BUCKET_NAME.parser())]
    pub bucket: Option<String>,
    #[command(flatten)]
    pub stack: StackOptions,
}

#[derive(Clone, Debug, Default, Args)]
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
    /// Role that CloudFormation uses to change resources [default: that of the last change, or the caller's credentials]
    #[arg(long, value_name = "ARN", value_parser = ROLE_ARN.parser())]
    pub role_arn: Option<String>,
    /// Policy that is the permissions boundary of the function's role
    #[arg(long, value_name = "ARN", value_parser = POLICY_ARN.parser())]
    pub permissions_boundary: Option<String>,
    /// SNS topic for the stack's events, or `none` to remove all; can be repeated [default: unchanged]
    #[arg(long = "notification-arn", value_name = "ARN", value_parser = topic)]
    pub notification_arns: Vec<String>,
    #[command(flatten)]
    pub table: TableSettings,
    #[command(flatten)]
    pub domain: DomainArgs,
    /// Enable the stack's termination protection; `false` disables it [default: unchanged]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub protect: Option<bool>,
}

impl StackOptions {
    /// The topics for the stack's events; `None` leaves the current ones.
    pub fn topics(&self) -> Option<Vec<String>> {
        let topics = Some(&self.notification_arns).filter(|topics| !topics.is_empty())?;
        Some(topics.iter().filter(|topic| *topic != NO_TOPICS).cloned().collect())
    }

    /// Whether anybody may call the API.
    pub fn is_public(&self) -> bool {
        self.auth == Auth::None && !self.require_secret
    }
}

#[derive(Clone, Copy, Debug, Default, Args)]
pub struct WaitArgs {
    /// How long to wait for another deployment to finish; `0s` fails at once [default: 30m; on a terminal, asks before it waits]
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

impl FunctionArgs {
    pub async fn source(&self) -> anyhow::Result<ArtifactSource> {
        ArtifactSource::find(&FUNCTION, self.function_zip.as_deref(), &self.build).await
    }
}

/// A parameter of the stack's template, the option that sets it, and its value; `None` is empty.
pub type OptionParameter = (&'static str, &'static str, fn(&Target, &StoredCode) -> Option<String>);

/// The function's zip in its bucket.
pub struct StoredCode {
    pub bucket: String,
    pub key: String,
    pub arch: Arch,
}

/// The parameters that have options.
pub const OPTION_PARAMETERS: [OptionParameter; 13] = [
    ("ArtifactBucket", "--bucket", |_, code| Some(code.bucket.clone())),
    ("ArtifactKey", "--function-zip", |_, code| Some(code.key.clone())),
    ("TableName", "--table-name", |it, _| Some(it.table.table_name.clone())),
    ("Architecture", "--arch", |_, code| Some(code.arch.to_string())),
    ("AuthorizationType", "--auth", |it, _| Some(it.stack.auth.authorization_type().to_owned())),
    ("RequireSecret", "--require-secret", |it, _| Some(it.stack.require_secret.to_string())),
    ("RequireLease", "--require-lease", |it, _| Some(it.stack.require_lease.to_string())),
    ("KmsKeyArn", "--kms-key", |it, _| it.stack.table.kms_key.clone()),
    ("PermissionsBoundary", "--permissions-boundary", |it, _| {
        it.stack.permissions_boundary.clone()
    }),
    ("DomainName", "--domain", |it, _| it.stack.domain.domain.clone()),
    ("CertificateArn", "--certificate-arn", |it, _| it.stack.domain.certificate_arn.clone()),
    ("BasePath", "--base-path", |it, _| it.stack.domain.base_path.clone()),
    ("HostedZoneId", "--hosted-zone", |it, _| it.stack.domain.hosted_zone.clone()),
];

/// The parameters that `--parameter` sets.
pub fn free_parameters() -> anyhow::Result<BTreeMap<String, Declaration>> {
    template::free_declarations(template::TEMPLATE, &has_option())
}

fn has_option() -> [(&'static str, &'static str); OPTION_PARAMETERS.len()] {
    OPTION_PARAMETERS.map(|(parameter, option, _)| (parameter, option))
}

impl Target {
    /// Checks the options before any call to AWS.
    pub fn check(&self) -> Result<(), Failure> {
        let mut problems = Problems::default();
        if self.stack.require_secret && self.stack.auth == Auth::Iam {
            let hint = "signatures and tokens use the same header, `Authorization`: choose one";
            let message = "`--require-secret` cannot be combined with `--auth iam`";
            problems.add(Failure::usage(message).hint(hint));
        }
        problems.keep(self.stack.domain.check());
        problems.keep(self.check_lists());
        problems.report()
    }

    /// Reads region and credentials, and checks the options that depend on the region, before any call to AWS.
    pub async fn connect(&self) -> anyhow::Result<Aws> {
        let aws = Aws::connect(&self.place.access).await?;
        self.check_region(&aws.region)?;
        Ok(aws)
    }

    fn check_region(&self, region: &str) -> Result<(), Failure> {
        let StackOptions { parameters, notification_arns, table, domain, .. } = &self.stack;
        let certificate = domain.certificate_arn.iter().map(|arn| ("the certificate", arn));
        let key = table.kms_key.iter().map(|arn| ("the KMS key", arn));
        let topics = notification_arns.iter().map(|arn| ("the notification topic", arn));
        let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value));
        check_regions(certificate.chain(key).chain(topics).chain(parameters), region)
    }

    /// Checks parameters, tags and topics alone: options that are added later can change `--auth` and `--require-secret`.
    pub fn check_lists(&self) -> Result<(), Failure> {
        let mut problems = Problems::default();
        problems.keep(template::check(
            template::TEMPLATE,
            &map(&self.stack.parameters),
            &has_option(),
        ));
        problems.keep(check_tags(&self.tags()));
        problems.keep(check_topics(&self.stack.notification_arns));
        problems.report()
    }

    /// A value for every parameter of the template.
    pub fn parameters(&self, code: &StoredCode) -> anyhow::Result<BTreeMap<String, String>> {
        let set = OPTION_PARAMETERS.map(|(parameter, _, value)| {
            (parameter.to_owned(), value(self, code).unwrap_or_default())
        });
        Ok(template::defaults(template::TEMPLATE)?
            .into_iter()
            .chain(map(&self.stack.parameters))
            .chain(set)
            .collect())
    }

    /// The user's tags; cbbootstrap adds its own.
    pub fn tags(&self) -> BTreeMap<String, String> {
        map(&self.stack.tags)
    }

    /// All tags of the table.
    pub fn table_tags(&self) -> BTreeMap<String, String> {
        let ours = [OWNER_TAG, (STACK_TAG, &self.place.stack_name)];
        let ours = ours.map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.tags().into_iter().chain(ours).collect()
    }
}

/// The ids of these options, for conflicts.
pub fn ids<A: Args>() -> Vec<Id> {
    let command = A::augment_args(Command::new(""));
    command.get_arguments().map(|arg| arg.get_id().clone()).collect()
}

/// Later pairs replace earlier ones of the same name; those of the file come first.
pub fn map(pairs: &[(String, String)]) -> BTreeMap<String, String> {
    pairs.iter().cloned().collect()
}

/// Checks that these resources are in the stack's region: each value that is an ARN, with its name in a message.
pub fn check_regions<'v>(
    values: impl IntoIterator<Item = (&'v str, &'v String)>,
    region: &str,
) -> Result<(), Failure> {
    for (name, value) in values {
        let other = region_in(value).filter(|_| value.starts_with("arn:"));
        if let Some(other) = other.filter(|other| !other.is_empty() && *other != region) {
            let message = format!("{name} is in {other}, but the stack is in {region}");
            let hint = format!("pass the ARN of one in {region}");
            return Err(Failure::usage(message).hint(hint));
        }
    }
    Ok(())
}

/// Checks that AWS accepts these tags beside cbbootstrap's.
pub fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Failure> {
    // The rule of IAM: roles get the stack's tags, and IAM is stricter than other services.
    let allowed = |text: &str| {
        text.chars().all(|c| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c))
    };
    let mut folded = BTreeSet::new();
    for (key, value) in tags {
        let (key_length, value_length) = (key.chars().count(), value.chars().count());
        let rule = if [OWNER_TAG.0, STACK_TAG].iter().any(|ours| key.eq_ignore_ascii_case(ours)) {
            "cbbootstrap marks its resources with this tag; choose another key"
        } else if key.to_ascii_lowercase().starts_with("aws:") {
            "keys that begin with `aws:` are reserved by AWS"
        } else if !(1..=128).contains(&key_length) || !(1..=256).contains(&value_length) {
            "a tag's key has 1 to 128 characters, and its value 1 to 256"
        } else if !allowed(key) || !allowed(value) {
            "tags may contain letters, digits, spaces and _.:/=+-@"
        } else if !folded.insert(key.to_lowercase()) {
            "another tag's key differs only in case, which IAM does not allow for a role"
        } else {
            continue;
        };
        return Err(Failure::usage(format!("tag `{key}={value}` is refused")).hint(rule));
    }
    if tags.len() + OWN_TAGS > MOST_TAGS {
        return Err(Failure::usage(format!("too many tags: {}", tags.len()))
            .hint(format!("AWS allows {MOST_TAGS}, and cbbootstrap adds {OWN_TAGS}")));
    }
    Ok(())
}

fn check_topics(topics: &[String]) -> Result<(), Failure> {
    if topics.len() > 1 && topics.iter().any(|topic| topic == NO_TOPICS) {
        let message = format!("`--notification-arn {NO_TOPICS}` cannot be combined with topics");
        return Err(Failure::usage(message).hint("omit one of them"));
    }
    if topics.len() <= MOST_TOPICS {
        return Ok(());
    }
    let hint = format!("CloudFormation allows at most {MOST_TOPICS} notification topics per stack");
    Err(Failure::usage(format!("too many topics: {}", topics.len())).hint(hint))
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "AWS")]
pub struct TableArgs {
    /// DynamoDB table with the records of the clusters
    #[arg(
        long,
        env = "CBBOOTSTRAP_TABLE_NAME",
        value_name = "NAME",
        value_parser = TABLE_NAME.parser(),
        default_value = DEFAULT_TABLE_NAME
    )]
    pub table_name: String,
}

#[derive(Clone, Debug, Args)]
pub struct RecordsArgs {
    #[command(flatten)]
    pub table: TableArgs,
    // A stack that only a variable or an environment names has another table than the default one, too.
    #[arg(long, env = "CBBOOTSTRAP_STACK_NAME", value_parser = STACK_NAME.parser(), hide = true)]
    pub stack_name: Option<String>,
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Use the database of `serve` and `deploy --local` on this machine, even while a server uses it
    #[arg(
        long,
        conflicts_with_all = [ids::<Access>(), ids::<ConfigArgs>(), ids::<TableArgs>()].concat(),
        help_heading = "On this machine"
    )]
    pub local: bool,
    /// Directory of the database [default: `cbbootstrap` in your data directory, on Linux `~/.local/share`]
    #[arg(long, value_name = "DIR", requires = "local", help_heading = "On this machine")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub access: Access,
}

/// Where the records of the clusters are.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Database {
    Aws {
        table: String,
        #[serde(skip)]
        access: Access,
    },
    ThisMachine {
        #[serde(serialize_with = "serialize_path")]
        data: PathBuf,
    },
}

impl Database {
    /// The one in this directory, or in the default directory.
    pub fn this_machine(directory: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self::ThisMachine { data: data::directory(directory)? })
    }
}

impl Display for Database {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Aws { table, .. } => write!(f, "table `{table}`"),
            Self::ThisMachine { data } => write!(f, "`{}`", data.display()),
        }
    }
}

impl RecordsArgs {
    pub fn database(&self) -> anyhow::Result<Database> {
        if self.local {
            return Database::this_machine(self.data.as_deref());
        }
        Ok(Database::Aws { table: self.table.table_name.clone(), access: self.access.clone() })
    }

    /// A command line for one cluster of these records, in hints.
    pub fn command_for(&self, command: &str, cluster_id: &str) -> String {
        format!("{} {}", self.command(command, &[]), shell_argument(cluster_id))
    }

    /// A command line for these records, in hints. `rest` is what follows the command.
    pub fn command(&self, command: &str, rest: &[String]) -> String {
        if self.local {
            let data = [("--data", self.data.as_ref().map(|data| data.display().to_string()))];
            return command_line(&format!("cluster {command} --local"), data, rest);
        }
        let table = [("--table-name", Some(self.table.table_name.clone()))];
        let options = self.config.options().into_iter().chain(self.access.options());
        command_line(&format!("cluster {command}"), options.chain(table), rest)
    }
}

/// A command line with the options that have a value.
fn command_line(
    command: &str,
    options: impl IntoIterator<Item = (&'static str, Option<String>)>,
    rest: &[String],
) -> String {
    let options = options.into_iter().filter_map(|(option, value)| Some([option.into(), value?]));
    let words = options.flatten().chain(rest.iter().cloned()).map(|word| shell_word(&word));
    [format!("cbbootstrap {command}")].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
