//! What a command works from: an option beats the environment variable, that beats `cbbootstrap.yaml`, and that the default.

use std::{collections::BTreeMap, time::Duration};

use cbbootstrap_function::table::DEFAULT_TABLE_NAME;

use crate::{
    aws::Access,
    cli::{Arch, DestroyArgs, FunctionArgs, StackArgs, TableArgs, TargetArgs, WaitArgs},
    config::{self, Environment},
};

const DEFAULT_STACK_NAME: &str = "cbbootstrap";

/// Which stack, and where.
#[derive(Clone, Debug)]
pub struct Place {
    /// The stack's name.
    pub stack_name: String,
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

    /// A command line about this stack, for hints.
    pub fn command(&self, command: &str) -> String {
        let options = [
            (
                "--stack-name",
                Some(&self.stack_name).filter(|name| *name != DEFAULT_STACK_NAME),
            ),
            (
                "--region",
                self.access
                    .region
                    .as_ref()
                    .or(self.access.fallback_region.as_ref()),
            ),
            ("--profile", self.access.profile.as_ref()),
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
            access: Access {
                region: args.aws.region,
                profile: args.aws.profile,
                fallback_region: environment.region.clone(),
                fallback_profile: environment.profile.clone(),
            },
        }
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
        Ok(Self {
            place: Place::with(args.stack, &environment),
            table_name: table_name(args.table, &environment),
            bucket: args.bucket.or(environment.bucket),
            arch,
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
        })
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
