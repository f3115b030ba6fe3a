//! `destroy`: the stack, and its table and artifacts on request.

use std::fmt::Display;

use serde::Serialize;

use super::{Follower, Watch};
use crate::{
    aws::{
        Aws, cloudformation,
        dynamodb::{self, Table},
        s3::Bucket,
    },
    cli::DestroyArgs,
    exit::Exit,
    failure::Failure,
    fields::write_fields,
    printer::Printer,
    prompt::confirm,
    settings::Place,
    signals::Signals,
    stack::{self, Operation, Stack},
};

/// A removal that the user has confirmed.
pub struct Removal<'a> {
    aws: &'a Aws,
    args: &'a DestroyArgs,
    printer: &'a Printer,
    stack: Option<Stack>,
    /// Name in the template, and type.
    resources: Vec<(String, String)>,
    /// The stack's table, or the one that the user names if there is no stack.
    table_name: Option<String>,
    /// That table, if it is to be deleted.
    table: Option<Table>,
    /// The bucket, if the stack's artifacts are to be deleted.
    bucket: Option<Bucket>,
    /// Whether these credentials may list the stacks.
    lists_stacks: bool,
}

#[derive(Debug, Serialize)]
pub struct DestroyReport {
    stack_name: String,
    #[serde(skip)]
    region: String,
    /// Whether anything had to be deleted.
    changed: bool,
    stack_deleted: bool,
    /// The stack's, or the one that the user named.
    table: Option<String>,
    #[serde(skip)]
    deletes_table: bool,
    /// Made before the table was deleted.
    backup_arn: Option<String>,
    table_deleted: bool,
    artifacts_deleted: usize,
    bucket_deleted: bool,
}

impl Display for DestroyReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stack = if self.stack_deleted { "deleted" } else { "did not exist" };
        let table = self.table.as_ref().map(|table| {
            let outcome = match (self.table_deleted, self.deletes_table) {
                (true, _) => "deleted",
                (false, true) => "did not exist",
                (false, false) => "kept",
            };
            format!("{table} {outcome}")
        });
        let artifacts = match (self.artifacts_deleted, self.bucket_deleted) {
            (0, false) => String::new(),
            (number, false) => format!("{number} deleted"),
            (number, true) => format!("{number} deleted, and their bucket"),
        };
        let fields = [
            ("Stack:", format!("{} in {} {stack}", self.stack_name, self.region)),
            ("Table:", table.unwrap_or_default()),
            ("Backup:", self.backup_arn.clone().unwrap_or_default()),
            ("Artifacts:", artifacts),
        ];
        write_fields(f, 10, fields)
    }
}

impl<'a> Removal<'a> {
    /// Reads everything that is to be deleted, and asks. Changes nothing.
    pub async fn prepare(
        aws: &'a Aws,
        args: &'a DestroyArgs,
        printer: &'a Printer,
    ) -> anyhow::Result<Self> {
        let (stack, waited_for) = find_idle(aws, args, printer).await?;
        let name = &args.place.stack_name;
        let asked = args.table_name.as_deref().filter(|_| args.delete_table);
        // A stack that an earlier run is deleting still names its table.
        let named_by = stack.as_ref().or(waited_for.as_ref());
        let table_name = stack::table_to_delete(name, named_by, asked)?;
        let table = async {
            match &table_name {
                _ if !args.delete_table => Ok(None),
                Some(table_name) => dynamodb::find_ours(&aws.dynamodb, table_name).await,
                None => Err(no_table(stack.as_ref(), name, &aws.region).into()),
            }
        };
        let bucket = async {
            if !args.delete_artifacts {
                return Ok(None);
            }
            let bucket = Bucket::find(aws, None, name).await?;
            anyhow::Ok(bucket.exists.then_some(bucket))
        };
        let resources = async {
            let Some(stack) = &stack else {
                return Ok(Vec::new());
            };
            match cloudformation::resources(&aws.cloudformation, &stack.id).await {
                // They are only shown.
                Err(error) if Failure::is_denial(&error) => Ok(Vec::new()),
                resources => resources,
            }
        };
        let stacks = async {
            let is_api = stack.as_ref().is_some_and(|stack| stack.cluster_id().is_none());
            let needs_stacks = is_api || args.delete_table || args.delete_artifacts;
            if !needs_stacks {
                return Ok(Ok(Vec::new()));
            }
            match cloudformation::find_all(&aws.cloudformation).await {
                Err(error) if !Failure::is_denial(&error) => Err(error),
                stacks => Ok(stacks),
            }
        };
        let (table, bucket, resources, stacks) =
            tokio::try_join!(table, bucket, resources, stacks)?;
        let lists_stacks = stacks.is_ok();
        let removal =
            Self { aws, args, printer, stack, resources, table_name, table, bucket, lists_stacks };
        let stacks = stacks.or_else(|denied| removal.continue_without_stacks(denied))?;
        removal.check_clusters(&stacks)?;
        removal.check_unused(&stacks)?;
        removal.ask().await?;
        Ok(removal)
    }

    async fn ask(&self) -> anyhow::Result<()> {
        let (name, region) = (&self.args.place.stack_name, &self.aws.region);
        let table = self.table_name.as_deref().filter(|_| self.table.is_some());
        let parts = [
            self.stack.as_ref().map(|stack| match stack.cluster_id() {
                Some(cluster) => {
                    format!("stack `{name}` with all nodes of cluster `{cluster}` and their data")
                }
                None => format!("stack `{name}` with its endpoint"),
            }),
            table.map(|table| format!("table `{table}` with the record of every cluster")),
            self.bucket
                .as_ref()
                .map(|bucket| format!("the stack's artifacts in bucket `{}`", bucket.name)),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            return Ok(());
        }
        if !self.args.yes {
            for (resource, kind) in &self.resources {
                self.printer.message(format_args!("  - {resource} ({kind})"));
            }
        }
        let question = format!("Delete in {region}: {}?", parts.join(", "));
        confirm(&question, self.args.yes, self.printer).await
    }

    pub async fn apply(self, signals: &mut Signals) -> anyhow::Result<DestroyReport> {
        let place = &self.args.place;
        if let Some(stack) = &self.stack {
            let deleted = self.delete_stack(stack, signals).await;
            deleted.map_err(|error| match &self.table {
                Some(Table { name, .. }) => {
                    let command = self.rest_command(name);
                    error.context(format!("table `{name}` was not deleted; after the stack is deleted, run `{command}`"))
                }
                None => error,
            })?;
        }
        // After the stack, whose function needs the table.
        let rest = async {
            if self.table.is_none() && self.bucket.is_none() {
                return Ok(Default::default());
            }
            let keep_bucket = self.check_unused(&self.find_stacks().await?)?;
            tokio::try_join!(self.delete_table(), self.delete_artifacts(keep_bucket))
        };
        let rest = signals.or_stopped(rest).await;
        let rest = rest.map_err(|error| match (&self.stack, &self.table) {
            // The stack, which named the table, is gone.
            (Some(_), Some(Table { name: table, .. })) => {
                let command = self.rest_command(table);
                error.context(format!(
                    "the stack is deleted, but table `{table}` may not be: continue with `{command}`"
                ))
            }
            _ => error,
        });
        let ((table_deleted, backup_arn), (artifacts_deleted, bucket_deleted)) = rest?;
        let stack_deleted = self.stack.is_some();
        Ok(DestroyReport {
            stack_name: place.stack_name.clone(),
            region: self.aws.region.clone(),
            changed: stack_deleted || table_deleted || artifacts_deleted > 0 || bucket_deleted,
            stack_deleted,
            table: self.table_name,
            deletes_table: self.args.delete_table,
            backup_arn,
            table_deleted,
            artifacts_deleted,
            bucket_deleted,
        })
    }

    /// The command that continues without the stack, which names the table.
    fn rest_command(&self, table: &str) -> String {
        let DestroyArgs { delete_artifacts, no_backup, ref place, .. } = *self.args;
        let flags = [(delete_artifacts, " --delete-artifacts"), (no_backup, " --no-backup")];
        let flags: String = flags.iter().filter(|(is_set, _)| *is_set).map(|it| it.1).collect();
        let command = place.command("destroy");
        format!("{command} --delete-table --table-name {table}{flags}")
    }

    async fn delete_stack(&self, stack: &Stack, signals: &mut Signals) -> anyhow::Result<()> {
        let (client, args) = (&self.aws.cloudformation, self.args);
        let mut step = self.printer.step("stack");
        step.expect(self.resources.len());
        // `None`: someone else has deleted it.
        if let Some(watch) =
            signals.or_stopped(Watch::begin(client, &stack.id, Some(stack))).await?
        {
            cloudformation::request_deletion(client, &stack.id, args.role_arn.clone()).await?;
            let follower = Follower { client, place: &args.place, remains: None };
            follower.follow(Operation::Delete, watch, &mut step, signals).await?;
        }
        step.done(Operation::Delete.outcome());
        Ok(())
    }

    /// All stacks of the region; none if these credentials may not list them, which [`Removal::prepare`] has accepted.
    async fn find_stacks(&self) -> anyhow::Result<Vec<Stack>> {
        if self.lists_stacks {
            cloudformation::find_all(&self.aws.cloudformation).await
        } else {
            Ok(Vec::new())
        }
    }

    /// Warns a caller who may not list the stacks that others may use what is to be deleted. Refuses to delete a table that was not
    /// created for this stack: another one uses it or did.
    fn continue_without_stacks(&self, denied: anyhow::Error) -> anyhow::Result<Vec<Stack>> {
        let owner = self.table.as_ref().map(|table| table.stack.as_deref());
        if owner.is_some_and(|owner| owner != Some(&self.args.place.stack_name)) {
            return Err(denied);
        }
        let api = self.stack.as_ref().filter(|stack| stack.cluster_id().is_none());
        let used: Vec<_> = [
            api.map(|_| "the API".to_owned()),
            self.table.as_ref().map(|table| format!("table `{}`", table.name)),
            self.bucket.as_ref().map(|_| "the stack's artifacts".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !used.is_empty() {
            self.printer.message(format_args!(
                "warning: these credentials are not allowed to list stacks, so another stack might use {}",
                used.join(" and ")
            ));
        }
        Ok(Vec::new())
    }

    /// Refuses to delete an API while nodes of a cluster of the region call it: without it, they can neither join nor leave. A caller
    /// who may not list the stacks is trusted.
    fn check_clusters(&self, stacks: &[Stack]) -> Result<(), Failure> {
        let Some(cluster) = self.stack.as_ref().and_then(|api| stack::cluster_with(api, stacks))
        else {
            return Ok(());
        };
        let (place, stack_name) = (&self.args.place, cluster.name().to_owned());
        let message = format!("stack `{stack_name}` uses the API of stack `{}`", place.stack_name);
        let hint = if cluster.ours {
            let place = Place { stack_name, ..place.clone() };
            format!("destroy it first: `{}`", place.command("destroy"))
        } else {
            format!("delete stack `{stack_name}` first, with the tool that created it")
        };
        Err(Failure::needs_decision(message).hint(hint))
    }

    /// Refuses if another stack of the region uses what is to be deleted. Returns whether another one uses the bucket.
    fn check_unused(&self, stacks: &[Stack]) -> Result<bool, Failure> {
        let own = self.stack.as_ref().map(|stack| stack.id.as_str());
        let others = || stacks.iter().filter(|stack| Some(stack.id.as_str()) != own);
        if let Some(table) = &self.table {
            let users = others().filter(|stack| stack.uses_table(&table.name));
            let thing = format!("table `{}`", table.name);
            stack::check_unused(&thing, "omit `--delete-table`", users)?;
        }
        let Some(bucket) = &self.bucket else {
            return Ok(false);
        };
        let prefix = bucket.prefix();
        let users = others().filter(|stack| stack.uses_artifact(&bucket.name, &prefix));
        let thing = format!("an artifact in `{}/{prefix}`", bucket.name);
        stack::check_unused(&thing, "omit `--delete-artifacts`", users)?;
        Ok(others().any(|stack| stack.uses_bucket(&bucket.name)))
    }

    /// Returns whether there was a table, and the ARN of its backup.
    async fn delete_table(&self) -> anyhow::Result<(bool, Option<String>)> {
        let Some(Table { name, status, .. }) = &self.table else {
            return Ok((false, None));
        };
        let mut backup_arn = None;
        if !self.args.no_backup && status != "deleting" {
            let step = self.printer.step("backup");
            let arn = dynamodb::back_up(&self.aws.dynamodb, name).await?;
            step.done(&arn);
            backup_arn = Some(arn);
            // A backup can take minutes, in which someone else may have deployed.
            self.check_unused(&self.find_stacks().await?)?;
        }
        let step = self.printer.step("table");
        let deleted = dynamodb::delete(&self.aws.dynamodb, name).await?;
        step.done("deleted");
        Ok((deleted, backup_arn))
    }

    /// Returns the number of artifacts, and whether the bucket is deleted as well.
    async fn delete_artifacts(&self, keep_bucket: bool) -> anyhow::Result<(usize, bool)> {
        let Some(bucket) = &self.bucket else {
            return Ok((0, false));
        };
        let step = self.printer.step("bucket");
        let (artifacts, is_gone) = bucket.empty(keep_bucket).await?;
        step.done(if is_gone {
            format!("`{}` deleted", bucket.name)
        } else {
            format!("{artifacts} artifacts deleted; others are in `{}`", bucket.name)
        });
        Ok((artifacts, is_gone))
    }
}

/// The error for a table that is to be deleted, but that neither the stack nor the user names.
fn no_table(stack: Option<&Stack>, name: &str, region: &str) -> Failure {
    let failure = match stack {
        // That of a Couchbase cluster, or one that was never deployed.
        Some(_) => Failure::new(format!("stack `{name}` has no table"))
            .hint("omit `--delete-table`, or pass `--table-name`"),
        None => stack::missing(name, region).hint("pass the table with `--table-name`"),
    };
    failure.exit(Exit::Usage)
}

/// The stack, if it may be deleted, once nobody changes it, and the stack before the change that was waited for.
async fn find_idle(
    aws: &Aws,
    args: &DestroyArgs,
    printer: &Printer,
) -> anyhow::Result<(Option<Stack>, Option<Stack>)> {
    let (place, patience) = (&args.place, args.wait.wait_for_stack);
    let follower = Follower { client: &aws.cloudformation, place, remains: None };
    let find = async || {
        let name = &place.stack_name;
        let stack = cloudformation::find_to_change(&aws.cloudformation, name).await?;
        if let Some(stack) = &stack {
            stack.check_ours(name)?;
            stack.check_unprotected(name)?;
        }
        anyhow::Ok(stack)
    };
    let busy = match find().await? {
        Some(stack) if stack.is_busy() => stack,
        stack => return Ok((stack, None)),
    };
    follower.check_patience(&busy, patience, args.yes, printer).await?;
    follower.wait(&busy, patience, printer).await?;
    match find().await? {
        Some(stack) if stack.is_busy() => Err(follower.busy(&stack).into()),
        stack => Ok((stack, Some(busy))),
    }
}
