//! `destroy`: deletes the stack, and the table and the artifacts only if told so.

use std::fmt::Display;

use serde::Serialize;

use super::{confirm, follow};
use crate::{
    aws::{
        Aws,
        cloudformation::{self, Watch},
        dynamodb::{self, Table},
        s3::Bucket,
    },
    cli::DestroyArgs,
    failure::{Exit, Failure},
    printer::Printer,
    settings,
    signals::Signals,
    stack::{self, Operation, Stack},
};

#[derive(Debug, Serialize)]
struct Destroyed {
    stack_name: String,
    region: String,
    /// Whether anything had to be deleted.
    changed: bool,
    stack_deleted: bool,
    /// The stack's, or the one that was named.
    table: Option<String>,
    table_deleted: bool,
    /// How many artifacts were deleted.
    artifacts_deleted: usize,
    bucket_deleted: bool,
}

impl Display for Destroyed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let deleted = |deleted| if deleted { "deleted" } else { "was not there" };
        writeln!(
            f,
            "Stack: {} in {} {}",
            self.stack_name,
            self.region,
            deleted(self.stack_deleted)
        )?;
        match (&self.table, self.table_deleted) {
            (Some(table), true) => writeln!(f, "Table: {table} deleted")?,
            (Some(table), false) => writeln!(f, "Table: {table} not touched")?,
            (None, _) => (),
        }
        match (self.artifacts_deleted, self.bucket_deleted) {
            (0, false) => Ok(()),
            (artifacts, false) => write!(f, "Artifacts: {artifacts} deleted"),
            (artifacts, true) => write!(f, "Artifacts: {artifacts} deleted, and their bucket"),
        }
    }
}

/// What is to be deleted.
struct Doomed {
    stack: Option<Stack>,
    /// Its resources: name in the template, and type.
    resources: Vec<(String, String)>,
    /// The name of the stack's table, or of the one that the user names where there is no stack.
    table_name: Option<String>,
    /// That table, if it is to be deleted, too.
    table: Option<Table>,
    /// The bucket, if the stack's artifacts are to be deleted, too.
    bucket: Option<Bucket>,
}

/// Deletes, after asking.
pub async fn run(
    args: DestroyArgs,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let settings = args.doomed.clone();
    let place = &settings.place;
    let name = place.stack_name.as_str();
    let aws = signals.or_stopped(Aws::connect(&place.access)).await?;
    let begin = async {
        wait_for_others(&aws, &args, &settings, printer).await?;
        let doomed = look(&aws, &args, &settings).await?;
        if let Some(question) = question(name, &aws.region, &doomed) {
            if !args.yes {
                for (resource, kind) in &doomed.resources {
                    printer.message(format_args!("  - {resource} ({kind})"));
                }
            }
            confirm(&question, args.yes, printer).await?;
        }
        anyhow::Ok(doomed)
    };
    let doomed = signals.or_stopped(begin).await?;

    if let Some(stack) = &doomed.stack {
        let mut step = printer.step("stack");
        step.expect(doomed.resources.len());
        let client = &aws.cloudformation;
        // Somebody else may have deleted it meanwhile.
        if let Some(watch) = signals.or_stopped(Watch::begin(client, &stack.id)).await? {
            let role = settings.role_arn.as_deref();
            cloudformation::request_deletion(client, &stack.id, role).await?;
            follow::settled(&aws, place, Operation::Delete, watch, &mut step, signals).await?;
        }
        step.done("deleted");
    }
    // After the stack: while it stands, its function needs the table.
    let rest = async {
        let table = async {
            let (Some(_), Some(table)) = (&doomed.table, &doomed.table_name) else {
                return Ok(false);
            };
            let step = printer.step("table");
            let deleted = dynamodb::delete(&aws.dynamodb, table).await?;
            step.done("deleted");
            anyhow::Ok(deleted)
        };
        let artifacts = async {
            let Some(bucket) = &doomed.bucket else {
                return Ok((0, false));
            };
            let step = printer.step("bucket");
            let (artifacts, gone) = bucket.empty(&aws.s3).await?;
            step.done(if gone {
                format!("`{}` deleted", bucket.name)
            } else {
                format!("{artifacts} artifacts deleted; others are in `{}`", bucket.name)
            });
            anyhow::Ok((artifacts, gone))
        };
        tokio::try_join!(table, artifacts)
    };
    let rest = signals.or_stopped(rest).await;
    let (table_deleted, (artifacts_deleted, bucket_deleted)) =
        rest.map_err(|error| match &doomed.table_name {
            // Nothing but its name leads to it any more.
            Some(table) if doomed.table.is_some() => error.context(format!(
                "the stack is deleted, and table `{table}` perhaps not: `{} --delete-table --table-name {table}` goes on",
                place.command("destroy")
            )),
            _ => error,
        })?;
    printer.result(&Destroyed {
        region: aws.region.clone(),
        changed: doomed.stack.is_some() || table_deleted || artifacts_deleted > 0 || bucket_deleted,
        stack_deleted: doomed.stack.is_some(),
        table: doomed.table_name,
        table_deleted,
        artifacts_deleted,
        bucket_deleted,
        stack_name: name.to_owned(),
    })
}

/// Waits for whoever is changing the stack.
async fn wait_for_others(
    aws: &Aws,
    args: &DestroyArgs,
    settings: &settings::Doomed,
    printer: &Printer,
) -> anyhow::Result<()> {
    let name = settings.place.stack_name.as_str();
    let Some(stack) = cloudformation::find(&aws.cloudformation, name).await? else {
        return Ok(());
    };
    stack.check_ours(name)?;
    stack.check_unprotected(name)?;
    if !stack.status.is_busy() {
        return Ok(());
    }
    let asked = settings.wait_for_stack;
    let patience = follow::patience(&settings.place, &stack, asked, args.yes, printer).await?;
    follow::wait(aws, &settings.place, &stack, patience, printer).await
}

/// Looks at the stack and all that belongs to it, and sees that it may be deleted.
async fn look(
    aws: &Aws,
    args: &DestroyArgs,
    settings: &settings::Doomed,
) -> anyhow::Result<Doomed> {
    let name = &settings.place.stack_name;
    let stack = cloudformation::find(&aws.cloudformation, name).await?;
    if let Some(stack) = &stack {
        stack.check_ours(name)?;
        stack.check_unprotected(name)?;
        if stack.status.is_busy() {
            return Err(follow::busy(&settings.place, stack).into());
        }
    }
    let asked = settings.table_name.as_deref().filter(|_| args.delete_table);
    let table_name = stack::table_to_delete(name, stack.as_ref(), asked)?;
    let table = async {
        match &table_name {
            _ if !args.delete_table => Ok(None),
            Some(table_name) => dynamodb::find_ours(&aws.dynamodb, table_name).await,
            None => {
                Err(Failure::new(format!("there is no stack `{name}` that tells its table's name"))
                    .hint("give it with `--table-name`")
                    .exit(Exit::Usage)
                    .into())
            }
        }
    };
    let bucket = async {
        if !args.delete_artifacts {
            return Ok(None);
        }
        let bucket = Bucket::new(None, aws.identity().await?, &aws.region, name);
        let exists = bucket.exists(&aws.s3, &aws.region).await?;
        anyhow::Ok(exists.then_some(bucket))
    };
    let resources = async {
        match &stack {
            Some(stack) => match cloudformation::resources(&aws.cloudformation, &stack.id).await {
                // They are only shown.
                Err(error) if Failure::find_in(&error).is_some_and(|failure| failure.denied) => {
                    Ok(Vec::new())
                }
                resources => resources,
            },
            None => Ok(Vec::new()),
        }
    };
    let (table, bucket, resources) = tokio::try_join!(table, bucket, resources)?;
    Ok(Doomed { stack, resources, table_name, table, bucket })
}

fn question(name: &str, region: &str, doomed: &Doomed) -> Option<String> {
    let table = doomed.table_name.as_deref().unwrap_or_default();
    let parts = [
        doomed.stack.as_ref().map(|_| format!("stack `{name}` with its endpoint")),
        doomed.table.as_ref().map(|_| format!("table `{table}` with the record of every cluster")),
        doomed
            .bucket
            .as_ref()
            .map(|bucket| format!("the stack's artifacts in bucket `{}`", bucket.name)),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("Delete in {region}: {}?", parts.join(", ")))
}
