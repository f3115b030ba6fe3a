//! `destroy`: deletes the stack, and the table and the artifacts on request.

use std::fmt::Display;

use serde::Serialize;

use crate::{
    aws::Aws,
    cli::DestroyArgs,
    deployment::{Removal, RemovalScope},
    printer::Printer,
    settings::Doomed,
    signals::Signals,
};

#[derive(Debug, Serialize)]
struct DestroyReport {
    stack_name: String,
    region: String,
    /// Whether anything had to be deleted.
    changed: bool,
    stack_deleted: bool,
    /// The stack's, or the one that the user named.
    table: Option<String>,
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
        match (self.artifacts_deleted, self.bucket_deleted) {
            (0, false) => Ok(()),
            (artifacts, false) => write!(f, "Artifacts: {artifacts} deleted"),
            (artifacts, true) => write!(f, "Artifacts: {artifacts} deleted, and their bucket"),
        }
    }
}

/// Deletes, after asking.
pub async fn run(
    args: DestroyArgs,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let settings = Doomed::of(&args)?;
    let scope =
        RemovalScope { table: args.delete_table, artifacts: args.delete_artifacts, yes: args.yes };
    let prepare = async {
        let aws = Aws::connect(&settings.place.access).await?;
        let removal = Removal::prepare(&aws, &settings, scope, printer).await?;
        anyhow::Ok((aws, removal))
    };
    let (aws, removal) = signals.or_stopped(prepare).await?;
    let removed = removal.apply(&aws, printer, signals).await?;
    printer.result(&DestroyReport {
        stack_name: settings.place.stack_name,
        changed: removed.stack || removed.table || removed.artifacts > 0 || removed.bucket,
        region: aws.region,
        stack_deleted: removed.stack,
        table: removed.table_name,
        table_deleted: removed.table,
        artifacts_deleted: removed.artifacts,
        bucket_deleted: removed.bucket,
    })
}
