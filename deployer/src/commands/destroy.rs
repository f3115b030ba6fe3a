//! `destroy`: deletes the stack, and the table only if told so.

use std::fmt::Display;

use serde::Serialize;

use super::{confirm, settled};
use crate::{
    aws::{
        Aws,
        cloudformation::{self, Watch},
        dynamodb::{self, Table},
    },
    cli::DestroyArgs,
    failure::{Exit, Failure},
    printer::Printer,
    settings,
    signals::Signals,
    stack::{self, Stack},
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
            (Some(table), true) => write!(f, "Table: {table} deleted"),
            (Some(table), false) => write!(f, "Table: {table} not touched"),
            (None, _) => Ok(()),
        }
    }
}

/// What is to be deleted.
struct Doomed {
    stack: Option<Stack>,
    /// The name of the stack's table, or of the one that the user names where there is no stack.
    table_name: Option<String>,
    /// That table, if it is to be deleted, too.
    table: Option<Table>,
}

/// Deletes, after asking.
pub async fn run(
    args: DestroyArgs,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let settings = settings::Doomed::of(&args)?;
    let name = &settings.place.stack_name;
    let look = async {
        let aws = Aws::connect(&settings.place.access).await?;
        let doomed = look(&aws, &args, &settings).await?;
        if let Some(question) = question(name, &aws.region, &doomed) {
            confirm(&question, args.yes, printer).await?;
        }
        anyhow::Ok((aws, doomed))
    };
    let (aws, doomed) = signals.or_stopped(look).await?;

    if let Some(stack) = &doomed.stack {
        let mut step = printer.step("stack");
        let watch = Watch::begin(&aws.cloudformation, &stack.id).await?;
        cloudformation::request_deletion(&aws.cloudformation, &stack.id).await?;
        settled(name, watch, &mut step, signals).await?;
        step.done("deleted");
    }
    // After the stack: while it stands, its function needs the table.
    let table_deleted = match (&doomed.table, &doomed.table_name) {
        (Some(_), Some(name)) => {
            let step = printer.step("table");
            let delete = dynamodb::delete(&aws.dynamodb, name);
            let deleted = signals.or_stopped(delete).await?;
            step.done("deleted");
            deleted
        }
        _ => false,
    };
    printer.result(&Destroyed {
        stack_name: settings.place.stack_name,
        region: aws.region,
        changed: doomed.stack.is_some() || table_deleted,
        stack_deleted: doomed.stack.is_some(),
        table: doomed.table_name,
        table_deleted,
    })
}

/// Looks at the stack and at its table, and sees that they may be deleted.
async fn look(
    aws: &Aws,
    args: &DestroyArgs,
    settings: &settings::Doomed,
) -> anyhow::Result<Doomed> {
    let name = &settings.place.stack_name;
    let stack = cloudformation::find(&aws.cloudformation, name).await?;
    if let Some(stack) = &stack {
        stack.check_ours(name)?;
        if stack::is_busy(&stack.status) {
            return Err(stack::busy(name, &stack.status).into());
        }
    }
    let table_name = stack::table_to_delete(name, stack.as_ref(), settings.table_name.as_deref())?;
    let table = match &table_name {
        _ if !args.delete_table => None,
        Some(table_name) => dynamodb::find_ours(&aws.dynamodb, table_name).await?,
        None => {
            return Err(Failure::new(format!(
                "there is no stack `{name}` that tells its table's name"
            ))
            .hint("give it with `--table-name`")
            .exit(Exit::Usage)
            .into());
        }
    };
    Ok(Doomed {
        stack,
        table_name,
        table,
    })
}

fn question(name: &str, region: &str, doomed: &Doomed) -> Option<String> {
    let table = doomed.table_name.as_deref().unwrap_or_default();
    match (&doomed.stack, &doomed.table) {
        (Some(_), None) => Some(format!(
            "Delete stack `{name}` in {region} and with it the endpoint?"
        )),
        (Some(_), Some(_)) => Some(format!(
            "Delete stack `{name}` in {region}, table `{table}` and the record of every cluster in it?"
        )),
        (None, Some(_)) => Some(format!(
            "Delete table `{table}` in {region} and the record of every cluster in it?"
        )),
        (None, None) => None,
    }
}
