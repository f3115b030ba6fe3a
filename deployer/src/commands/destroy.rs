//! `destroy`: deletes the stack, and the table only if told so.

use std::fmt::Display;

use serde::Serialize;

use super::confirm;
use crate::{
    aws::{
        Aws,
        cloudformation::{self, Watch},
        dynamodb::{self, Table},
    },
    cli::DestroyArgs,
    failure::{Exit, Failure},
    printer::Printer,
    stack,
};

#[derive(Debug, Serialize)]
struct Destroyed {
    stack_name: String,
    region: String,
    /// Whether anything had to be deleted.
    changed: bool,
    stack_deleted: bool,
    table: String,
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
        if self.table_deleted {
            write!(f, "Table: {} deleted", self.table)
        } else {
            write!(f, "Table: {} not touched", self.table)
        }
    }
}

/// Deletes, after asking.
pub async fn run(args: DestroyArgs, printer: &Printer) -> anyhow::Result<()> {
    let aws = Aws::connect(&args.stack.aws).await?;
    let (name, table) = (args.stack.stack_name, args.table.table_name);
    let find_table = async {
        if args.delete_table {
            Table::find(&aws.dynamodb, &table).await
        } else {
            Ok(None)
        }
    };
    let (found, found_table) =
        tokio::try_join!(cloudformation::find(&aws.cloudformation, &name), find_table)?;
    if let Some(busy) = found.as_ref().filter(|stack| stack::is_busy(&stack.status)) {
        return Err(Failure::new(format!(
            "stack `{name}` is being changed by someone else ({})",
            busy.status
        ))
        .hint("wait until that is done, then try again")
        .exit(Exit::Stack)
        .into());
    }
    let question = match (&found, &found_table) {
        (Some(_), None) => Some(format!(
            "Delete stack `{name}` in {} and with it the endpoint?",
            aws.region
        )),
        (Some(_), Some(_)) => Some(format!(
            "Delete stack `{name}` in {}, table `{table}` and the record of every cluster in it?",
            aws.region
        )),
        (None, Some(_)) => Some(format!(
            "Delete table `{table}` and the record of every cluster in it?"
        )),
        (None, None) => None,
    };
    if let Some(question) = question {
        confirm(&question, args.yes, printer).await?;
    }

    if let Some(stack) = &found {
        let mut step = printer.step("stack");
        let watch = Watch::begin(&aws.cloudformation, &stack.id).await?;
        cloudformation::request_deletion(&aws.cloudformation, &stack.id).await?;
        let (status, events) = watch.settle(&mut step).await?;
        if !stack::is_success(&status) {
            return Err(stack::failed(&name, &status, &events).into());
        }
        step.done("deleted");
    }
    // After the stack: while it stands, its function needs the table.
    let table_deleted = if found_table.is_some() {
        let step = printer.step("table");
        let deleted = dynamodb::delete(&aws.dynamodb, &table).await?;
        step.done("deleted");
        deleted
    } else {
        false
    };
    printer.result(&Destroyed {
        stack_name: name,
        region: aws.region,
        changed: found.is_some() || table_deleted,
        stack_deleted: found.is_some(),
        table,
        table_deleted,
    })
}
