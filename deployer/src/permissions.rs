//! The IAM policies that the commands need, selected from `permissions.yaml`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::LazyLock,
};

use serde::{Deserialize, Serialize};

use crate::{
    cli::{PolicyFor, ScopeArgs},
    values::NO_TOPICS,
};

/// CloudFormation shortens a stack name above this length in the names that it generates: 64 characters, less a hyphen,
/// `Function`, a hyphen and 13 random characters.
const LONGEST_FULL_NAME: usize = 40;

/// The most characters that a managed policy may have, white space apart.
const MOST_CHARACTERS: usize = 6144;

/// CloudFormation keeps at least this much of a longer stack name.
const SHORTENED_NAME: usize = 24;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let table = serde_yaml::from_str(include_str!("../permissions.yaml"));
    table.expect("a test reads the same file")
});

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    resources: BTreeMap<String, Resource>,
    permissions: Vec<Permission>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    arns: Vec<String>,
    condition: Option<Condition>,
}

type Condition = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Permission {
    command: String,
    resource: String,
    why: String,
    actions: Vec<String>,
}

/// The values of the placeholders in `permissions.yaml`. An unknown value is `*`.
#[derive(Clone, Debug)]
pub struct Scope(BTreeMap<&'static str, String>);

/// The partition that a region belongs to.
pub fn partition(region: &str) -> &'static str {
    [
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("us-isob-", "aws-iso-b"),
        ("us-isof-", "aws-iso-f"),
        ("us-iso-", "aws-iso"),
        ("eu-isoe-", "aws-iso-e"),
        ("eusc-", "aws-eusc"),
    ]
    .iter()
    .find(|(prefix, _)| region.starts_with(prefix))
    .map_or("aws", |(_, partition)| partition)
}

impl Scope {
    pub fn new(args: &ScopeArgs, partition: &str, account: &str, region: &str) -> Self {
        let options = [
            ("bucket", &args.bucket),
            ("role_arn", &args.role_arn),
            ("permissions_boundary", &args.permissions_boundary),
            ("kms_key", &args.kms_key),
            ("domain", &args.domain),
            ("hosted_zone", &args.hosted_zone),
        ];
        let known = [
            ("partition", partition),
            ("account", account),
            ("region", region),
            ("stack_name", &args.stack.stack_name),
            ("table_name", &args.table.table_name),
        ];
        let options = options.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let topics = args.notification_arns.iter().filter(|topic| *topic != NO_TOPICS);
        let topics = topics.map(String::as_str).collect::<Vec<_>>().join(",");
        let topics = Some(("notification_arns", topics.as_str())).filter(|(_, it)| !it.is_empty());
        Self::with(known.into_iter().chain(options).chain(topics))
    }

    /// These values, and those that follow from them.
    fn with<'v>(values: impl IntoIterator<Item = (&'static str, &'v str)>) -> Self {
        let values = values.into_iter().map(|(name, value)| (name, value.to_owned()));
        let mut values: BTreeMap<_, _> = values.collect();
        if !values.contains_key("bucket") {
            let own = format!("cbbootstrap-artifacts-{}-{}", values["account"], values["region"]);
            values.extend([("bucket", own.clone()), ("own_bucket", own)]);
        }
        let name = &values["stack_name"];
        // A template's parameter cannot be shortened; the template limits its length.
        let is_shortened = name.len() > LONGEST_FULL_NAME && !name.contains('$');
        let start = name.get(..SHORTENED_NAME).filter(|_| is_shortened).unwrap_or(name).to_owned();
        values.insert("generated_names", start);
        Self(values)
    }

    /// The resource's ARNs with the values of this scope; `None` if one of them has no value here.
    fn arns(&self, resource: &str) -> Option<Vec<String>> {
        let arns = TABLE.resources[resource].arns.iter().map(|arn| self.fill_in(arn));
        let arns = arns.collect::<Option<Vec<_>>>()?;
        Some(arns.iter().flat_map(|arn| arn.split(',')).map(str::to_owned).collect())
    }

    /// The condition on the resource with the values of this scope; `None` if one of them has no value here.
    fn condition(&self, resource: &str) -> Option<Condition> {
        let mut condition = TABLE.resources[resource].condition.clone()?;
        for value in condition.values_mut().flat_map(BTreeMap::values_mut) {
            *value = self.fill_in(value)?;
        }
        Some(condition)
    }

    /// The text with the values of this scope for its placeholders; `None` if one of them has no value here.
    fn fill_in(&self, text: &str) -> Option<String> {
        let mut parts = text.split('{');
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}')?;
            filled += self.0.get(name)?;
            filled += rest;
        }
        Some(filled)
    }

    /// The rows of the table that a policy is made of, with their resources.
    fn select(
        &self,
        policy_for: PolicyFor,
    ) -> impl Iterator<Item = (&'static Permission, Vec<String>)> {
        let commands: &[&str] = match policy_for {
            PolicyFor::Plan => &["plan"],
            PolicyFor::Deploy => &["plan", "status, logs", "deploy"],
            PolicyFor::All => &["plan", "status, logs", "deploy", "smoke", "destroy", "cluster"],
            PolicyFor::Launch => &["launch"],
            PolicyFor::Clusters => &["cluster"],
            PolicyFor::Doctor => &["doctor"],
            PolicyFor::CloudFormation => &["CloudFormation"],
        };
        let acts_for_cloudformation = !self.0.contains_key("role_arn")
            && matches!(policy_for, PolicyFor::Deploy | PolicyFor::All);
        TABLE.permissions.iter().filter_map(move |permission| {
            let command = permission.command.as_str();
            let is_needed = commands.contains(&command)
                || (acts_for_cloudformation && command == "CloudFormation");
            is_needed.then_some(permission).zip(self.arns(&permission.resource))
        })
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Policy {
    version: &'static str,
    statement: Vec<Statement>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    /// Empty if the statement is about several kinds of resources.
    #[serde(skip_serializing_if = "str::is_empty")]
    sid: &'static str,
    effect: &'static str,
    action: BTreeSet<&'static str>,
    resource: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<Condition>,
}

/// The least policy for these commands. Permissions about the same resources share a statement, because IAM limits a
/// policy's length.
pub fn policy(scope: &Scope, policy_for: PolicyFor) -> Policy {
    let mut statements: Vec<Statement> = Vec::new();
    for (permission, resource) in scope.select(policy_for) {
        let condition = scope.condition(&permission.resource);
        let actions = permission.actions.iter().map(String::as_str);
        let same_resource = statements
            .iter_mut()
            .find(|other| other.resource == resource && other.condition == condition);
        match same_resource {
            Some(statement) => statement.action.extend(actions),
            None => statements.push(Statement {
                sid: &permission.resource,
                effect: "Allow",
                action: actions.collect(),
                resource,
                condition,
            }),
        }
    }
    Policy { version: "2012-10-17", statement: statements }
}

impl Policy {
    /// Joins statements if the policy would otherwise be longer than IAM allows.
    pub fn fit(mut self) -> serde_json::Result<Self> {
        if serde_json::to_string(&self)?.len() > MOST_CHARACTERS {
            self.statement = join(self.statement);
            // IDs are optional.
            self.statement.iter_mut().for_each(|statement| statement.sid = "");
        }
        Ok(self)
    }
}

/// Joins statements that have no service in common, or allow the same actions of those they have in common. That allows nothing more: an
/// action applies only to resources of its service.
fn join(statements: Vec<Statement>) -> Vec<Statement> {
    let service = |action: &&'static str| action.split(':').next();
    // The actions of the services of another statement.
    let shared = |one: &Statement, other: &Statement| {
        let services: BTreeSet<_> = other.action.iter().filter_map(service).collect();
        let actions = one.action.iter().copied();
        actions.filter(|it| service(it).is_some_and(|it| services.contains(it))).collect::<Vec<_>>()
    };
    let is_plain = |statement: &Statement| {
        statement.condition.is_none() && !statement.resource.iter().any(|arn| arn == "*")
    };
    let mut joined: Vec<Statement> = Vec::new();
    for statement in statements {
        let other = joined.iter_mut().find(|other| {
            let are_plain = is_plain(other) && is_plain(&statement);
            are_plain && shared(other, &statement) == shared(&statement, other)
        });
        match other {
            Some(other) => {
                other.action.extend(statement.action);
                other.resource.extend(statement.resource);
            }
            None => joined.push(statement),
        }
    }
    joined
}

pub fn explain(scope: &Scope, policy_for: PolicyFor) -> String {
    let mut text = String::new();
    for (Permission { command, why, actions, .. }, resources) in scope.select(policy_for) {
        let _ = writeln!(text, "{command}: {why}\n    {}", actions.join(" "));
        for resource in resources {
            let _ = writeln!(text, "    on {resource}");
        }
    }
    text
}

#[cfg(test)]
mod tests;
