//! `status`: the stack, the endpoint, the function and the table at a glance.

use std::fmt::Display;

use serde::Serialize;

use crate::{
    aws::{
        Aws, cloudformation,
        dynamodb::{self, Table},
        lambda,
    },
    cli::StatusArgs,
    failure::Failure,
    printer::Printer,
    settings::Place,
};

#[derive(Debug, Serialize)]
struct Status {
    stack_name: String,
    region: String,
    stack_status: String,
    /// Why the stack is in that status, where `CloudFormation` says.
    reason: Option<String>,
    /// When the stack was last changed, RFC 3339.
    updated: Option<String>,
    endpoint: Option<String>,
    function: Option<FunctionStatus>,
    table: Option<TableStatus>,
}

#[derive(Debug, Serialize)]
struct FunctionStatus {
    name: String,
    state: String,
    /// Of the deployed zip, in lower-case hexadecimal, as `deploy` prints it.
    sha256: Option<String>,
    /// In bytes.
    size: i64,
    /// In MB.
    memory: i32,
}

#[derive(Debug, Serialize)]
struct TableStatus {
    name: String,
    status: String,
    /// As `DynamoDB` counted them within the last six hours.
    items: i64,
    deletion_protection: bool,
}

impl Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "Endpoint: {}",
            self.endpoint.as_deref().unwrap_or("none")
        )?;
        write!(
            f,
            "Stack:    {} in {}, {}",
            self.stack_name, self.region, self.stack_status
        )?;
        if let Some(updated) = &self.updated {
            write!(f, " since {updated}")?;
        }
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        match &self.function {
            Some(FunctionStatus {
                name,
                state,
                sha256,
                size,
                memory,
            }) => {
                write!(
                    f,
                    "\nFunction: {name}, {state}, {size} bytes, {memory} MB of memory"
                )?;
                write!(f, ", sha256 {}", sha256.as_deref().unwrap_or("unknown"))?;
            }
            None => f.write_str("\nFunction: none")?,
        }
        match &self.table {
            Some(TableStatus {
                name,
                status,
                items,
                deletion_protection,
            }) => {
                let protected = if *deletion_protection {
                    "protected"
                } else {
                    "not protected"
                };
                write!(
                    f,
                    "\nTable:    {name}, {status}, about {items} clusters, {protected} against deletion"
                )
            }
            None => f.write_str("\nTable:    none"),
        }
    }
}

/// Shows the status.
pub async fn run(args: StatusArgs, printer: &Printer) -> anyhow::Result<()> {
    let place = Place::of(args.stack)?;
    let aws = Aws::connect(&place.access).await?;
    let (stack_name, region) = (place.stack_name, aws.region.clone());
    let stack = cloudformation::find(&aws.cloudformation, &stack_name)
        .await?
        .ok_or_else(|| {
            Failure::new(format!("there is no stack `{stack_name}` in {region}")).hint(
                "`cbbootstrap deploy` makes one; `--stack-name` and `--region` choose another",
            )
        })?;
    let output = |name: &str| stack.outputs.get(name).cloned();
    let function = async {
        match output("FunctionName") {
            Some(name) => lambda::find(&aws.lambda, &name).await,
            None => Ok(None),
        }
    };
    let table = async {
        match output("TableName") {
            Some(name) => Ok(Table::find(&aws.dynamodb, &name, dynamodb::Place::Aws)
                .await?
                .map(|table| (name, table.glance()))),
            None => anyhow::Ok(None),
        }
    };
    let (function, table) = tokio::try_join!(function, table)?;
    printer.result(&Status {
        region,
        stack_status: stack.status.to_string(),
        reason: stack.reason.clone().filter(|reason| !reason.is_empty()),
        updated: stack.updated.clone(),
        endpoint: output("Endpoint"),
        function: function.map(|function| FunctionStatus {
            name: function.name,
            state: function.state,
            sha256: function.sha256,
            size: function.size,
            memory: function.memory,
        }),
        table: table.map(|(name, glance)| TableStatus {
            name,
            status: glance.status,
            items: glance.items,
            deletion_protection: glance.deletion_protection,
        }),
        stack_name,
    })
}
