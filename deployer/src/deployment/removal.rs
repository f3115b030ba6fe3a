//! `destroy`: the stack, and its table and artifacts on request.

use std::fmt::Display;

use aws_sdk_dynamodb::types::TableStatus;
use serde::Serialize;

use super::Follower;
use crate::{
    aws::{
        Aws,
        cloudformation::{self, Watch},
        dynamodb::{self, Table},
        s3::Bucket,
    },
    failure::{Exit, Failure},
    printer::Printer,
    prompt::confirm,
    settings,
    signals::Signals,
    stack::{self, Operation, Stack},
};

/// What is going to be deleted.
pub struct Removal {
    stack: Option<Stack>,
    /// Follows the stack's deletion.
    watch: Option<Watch>,
    /// Name in the template, and type.
    resources: Vec<(String, String)>,
    /// The stack's table, or the one that the user names if there is no stack.
    table_name: Option<String>,
    /// That table, if it is to be deleted.
    table: Option<Table>,
    /// The bucket, if the stack's artifacts are to be deleted.
    bucket: Option<Bucket>,
    scope: RemovalScope,
    follower: Follower,
    role_arn: Option<String>,
    /// Continues a removal whose stack is deleted already.
    destroy_command: String,
}

/// The result of `destroy`.
#[derive(Debug, Serialize)]
pub struct DestroyReport {
    stack_name: String,
    region: String,
    /// Whether anything had to be deleted.
    changed: bool,
    stack_deleted: bool,
    /// The stack's, or the one that the user named.
    table: Option<String>,
    /// Made before the table was deleted.
    backup_arn: Option<String>,
    table_deleted: bool,
    artifacts_deleted: usize,
    bucket_deleted: bool,
}

impl Display for DestroyReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stack = if self.stack_deleted { "deleted" } else { "was not there" };
        writeln!(f, "Stack: {} in {} {stack}", self.stack_name, self.region)?;
        if let Some(table) = &self.table {
            let outcome = if self.table_deleted { "deleted" } else { "not touched" };
            writeln!(f, "Table: {table} {outcome}")?;
        }
        if let Some(backup) = &self.backup_arn {
            writeln!(f, "Backup: {backup}")?;
        }
        match (self.artifacts_deleted, self.bucket_deleted) {
            (0, false) => Ok(()),
            (artifacts, false) => write!(f, "Artifacts: {artifacts} deleted"),
            (artifacts, true) => write!(f, "Artifacts: {artifacts} deleted, and their bucket"),
        }
    }
}

/// What to delete besides the stack, and whether the user has confirmed that in advance.
#[derive(Clone, Copy, Debug)]
pub struct RemovalScope {
    pub table: bool,
    /// Whether to back the table up first.
    pub backup: bool,
    pub artifacts: bool,
    pub yes: bool,
}

impl Removal {
    /// Reads everything that is to be deleted, and asks. Dropping it harms nothing.
    pub async fn prepare(
        aws: &Aws,
        settings: &settings::RemovalArgs,
        scope: RemovalScope,
        printer: &Printer,
    ) -> anyhow::Result<Self> {
        let name = &settings.place.stack_name;
        let follower = Follower::new(&aws.cloudformation, &settings.place);
        let mut stack = find_removable(aws, name).await?;
        if let Some(busy) = stack.as_ref().filter(|stack| stack.status.is_busy()) {
            let patience = settings.wait.wait_for_stack;
            follower.check_patience(busy, patience, scope.yes, printer).await?;
            follower.wait(busy, patience, printer).await?;
            stack = find_removable(aws, name).await?;
            if let Some(stack) = stack.as_ref().filter(|stack| stack.status.is_busy()) {
                return Err(follower.busy(stack).into());
            }
        }
        let asked = settings.table_name.as_deref().filter(|_| scope.table);
        let table_name = stack::table_to_delete(name, stack.as_ref(), asked)?;
        let table = async {
            match &table_name {
                _ if !scope.table => Ok(None),
                Some(table_name) => dynamodb::find_ours(&aws.dynamodb, table_name).await,
                None => Err(stack::missing(name, &aws.region)
                    .hint("name the table with `--table-name`")
                    .exit(Exit::Usage)
                    .into()),
            }
        };
        let bucket = async {
            if !scope.artifacts {
                return Ok(None);
            }
            let bucket = Bucket::new(None, aws.identity().await?, &aws.region, name);
            let exists = bucket.exists(&aws.s3, &aws.region).await?;
            anyhow::Ok(exists.then_some(bucket))
        };
        let resources = async {
            let Some(stack) = &stack else {
                return Ok(Vec::new());
            };
            match cloudformation::resources(&aws.cloudformation, &stack.id).await {
                // They are only shown.
                Err(error) if Failure::find_in(&error).is_some_and(|it| it.denied) => {
                    Ok(Vec::new())
                }
                resources => resources,
            }
        };
        let (table, bucket, resources) = tokio::try_join!(table, bucket, resources)?;
        let mut removal = Self {
            stack,
            watch: None,
            resources,
            table_name,
            table,
            bucket,
            scope,
            follower,
            role_arn: settings.role_arn.clone(),
            destroy_command: settings.place.command("destroy"),
        };
        removal.check_unused(aws).await?;
        if let Some(question) = removal.question(name, &aws.region) {
            if !scope.yes {
                for (resource, kind) in &removal.resources {
                    printer.message(format_args!("  - {resource} ({kind})"));
                }
            }
            confirm(&question, scope.yes, printer).await?;
        }
        if let Some(stack) = &removal.stack {
            removal.watch = Watch::begin(&aws.cloudformation, &stack.id).await?;
        }
        Ok(removal)
    }

    fn question(&self, name: &str, region: &str) -> Option<String> {
        let table = self.table_name.as_deref().unwrap_or_default();
        let stack = self.stack.as_ref().map(|_| format!("stack `{name}` with its endpoint"));
        let table = self
            .table
            .as_ref()
            .map(|_| format!("table `{table}` with the record of every cluster"));
        let bucket = self.bucket.as_ref();
        let artifacts =
            bucket.map(|bucket| format!("the stack's artifacts in bucket `{}`", bucket.name));
        let parts: Vec<_> = [stack, table, artifacts].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("Delete in {region}: {}?", parts.join(", ")))
    }

    /// Deletes it.
    pub async fn apply(
        mut self,
        aws: &Aws,
        printer: &Printer,
        signals: &mut Signals,
    ) -> anyhow::Result<DestroyReport> {
        if let Some(stack) = &self.stack {
            let mut step = printer.step("stack");
            step.expect(self.resources.len());
            // Without a watch, somebody else has deleted it.
            if let Some(watch) = self.watch.take() {
                let (client, role) = (&aws.cloudformation, self.role_arn.as_deref());
                cloudformation::request_deletion(client, &stack.id, role).await?;
                self.follower.follow(Operation::Delete, watch, &mut step, signals).await?;
            }
            step.done("deleted");
        }
        // After the stack, whose function needs the table.
        let rest = async {
            let keep_bucket = self.check_unused(aws).await?;
            let table = self.delete_table(aws, printer);
            let artifacts = self.delete_artifacts(aws, keep_bucket, printer);
            tokio::try_join!(table, artifacts)
        };
        let rest = signals.or_stopped(rest).await;
        let ((table_deleted, backup_arn), (artifacts_deleted, bucket_deleted)) = rest.map_err(|error| match &self.table_name {
            // The stack, which named the table, is gone.
            Some(table) if self.table.is_some() => {
                let command = &self.destroy_command;
                error.context(format!(
                    "the stack is deleted, and table `{table}` perhaps not: `{command} --delete-table --table-name {table}` continues"
                ))
            }
            _ => error,
        })?;
        let stack_deleted = self.stack.is_some();
        Ok(DestroyReport {
            stack_name: self.follower.stack_name,
            region: aws.region.clone(),
            changed: stack_deleted || table_deleted || artifacts_deleted > 0 || bucket_deleted,
            stack_deleted,
            table: self.table_name,
            backup_arn,
            table_deleted,
            artifacts_deleted,
            bucket_deleted,
        })
    }

    /// Refuses if another stack uses what is to be deleted. Returns whether another one uses the bucket.
    async fn check_unused(&self, aws: &Aws) -> anyhow::Result<bool> {
        let own = self.stack.as_ref().map(|stack| stack.id.as_str());
        if self.table.is_none() && self.bucket.is_none() {
            return Ok(false);
        }
        let stacks = match cloudformation::find_all(&aws.cloudformation).await {
            Err(error) if Failure::find_in(&error).is_some_and(|it| it.denied) => {
                self.find_table_owner(aws, error).await?
            }
            stacks => stacks?,
        };
        let others = || stacks.iter().filter(|stack| Some(stack.id.as_str()) != own);
        if let (Some(_), Some(table)) = (&self.table, &self.table_name) {
            let users = others().filter(|stack| stack.table() == Some(table));
            stack::check_unused(&format!("table `{table}`"), "leave out `--delete-table`", users)?;
        }
        let Some(bucket) = &self.bucket else {
            return Ok(false);
        };
        let in_bucket = |stack: &&Stack| {
            stack.parameters.get("ArtifactBucket").is_some_and(|name| *name == bucket.name)
        };
        let prefix = bucket.prefix();
        let users = others()
            .filter(in_bucket)
            .filter(|stack| stack.artifact_key().is_some_and(|key| key.starts_with(&prefix)));
        let thing = format!("an artifact in `{}/{prefix}`", bucket.name);
        stack::check_unused(&thing, "leave out `--delete-artifacts`", users)?;
        Ok(others().any(|stack| in_bucket(&stack)))
    }

    /// The stack that the table's tag names, for a caller who may not list the stacks.
    async fn find_table_owner(
        &self,
        aws: &Aws,
        denied: anyhow::Error,
    ) -> anyhow::Result<Vec<Stack>> {
        let Some(table) = &self.table else {
            return Ok(Vec::new());
        };
        match table.stack() {
            Some(owner) if owner == self.follower.stack_name => Ok(Vec::new()),
            Some(owner) => {
                Ok(cloudformation::find(&aws.cloudformation, owner).await?.into_iter().collect())
            }
            None => Err(denied),
        }
    }

    /// Returns whether there was a table, and the ARN of its backup.
    async fn delete_table(
        &self,
        aws: &Aws,
        printer: &Printer,
    ) -> anyhow::Result<(bool, Option<String>)> {
        let (Some(table), Some(name)) = (&self.table, &self.table_name) else {
            return Ok((false, None));
        };
        let mut backup_arn = None;
        if self.scope.backup && table.status != TableStatus::Deleting {
            let step = printer.step("backup");
            let arn = dynamodb::back_up(&aws.dynamodb, name).await?;
            step.done(&arn);
            backup_arn = Some(arn);
        }
        let step = printer.step("table");
        let deleted = dynamodb::delete(&aws.dynamodb, name).await?;
        step.done("deleted");
        Ok((deleted, backup_arn))
    }

    /// Returns the number of artifacts, and whether the bucket is deleted as well.
    async fn delete_artifacts(
        &self,
        aws: &Aws,
        keep_bucket: bool,
        printer: &Printer,
    ) -> anyhow::Result<(usize, bool)> {
        let Some(bucket) = &self.bucket else {
            return Ok((0, false));
        };
        let step = printer.step("bucket");
        let (artifacts, is_gone) = bucket.empty(&aws.s3, keep_bucket).await?;
        step.done(if is_gone {
            format!("`{}` deleted", bucket.name)
        } else {
            format!("{artifacts} artifacts deleted; others are in `{}`", bucket.name)
        });
        Ok((artifacts, is_gone))
    }
}

/// The stack, if it may be deleted.
async fn find_removable(aws: &Aws, name: &str) -> anyhow::Result<Option<Stack>> {
    let stack = cloudformation::find(&aws.cloudformation, name).await?;
    if let Some(stack) = &stack {
        stack.check_ours(name)?;
        stack.check_unprotected(name)?;
    }
    Ok(stack)
}
