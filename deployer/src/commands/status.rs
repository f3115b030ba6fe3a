//! `status`: the stack, the endpoint, the function and the table.

mod text;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    aws::{
        Aws, cloudformation, drift,
        dynamodb::Table,
        lambda::{self, Function},
    },
    cli::StatusArgs,
    deployment::Watch,
    domain::DnsRecord,
    failure::Failure,
    origin::introduce,
    printer::Printer,
    stack::{self, Drift, Stack, StackEvent},
    values::Auth,
};

/// Times are RFC 3339.
#[derive(Debug, Serialize)]
struct Status {
    stack_name: String,
    #[serde(skip)]
    region: String,
    stack_status: String,
    /// Why the stack is in that status, in CloudFormation's words.
    reason: Option<String>,
    /// Why the last change failed.
    cause: Option<String>,
    created: Option<String>,
    updated: Option<String>,
    /// Since the last change.
    age_seconds: Option<i64>,
    termination_protection: bool,
    drift: Drift,
    endpoint: Option<String>,
    /// The record that the endpoint needs, if the stack does not create it.
    dns_record: Option<DnsRecord>,
    auth: Option<Auth>,
    dashboard: Option<String>,
    function: Option<FunctionStatus>,
    table: Option<Table>,
    /// The parts that these credentials may not read, and why.
    unknown: BTreeMap<&'static str, String>,
    /// The moment that ages are relative to.
    #[serde(skip)]
    now: Timestamp,
}

#[derive(Debug, Serialize)]
struct FunctionStatus {
    #[serde(flatten)]
    function: Function,
    /// The last published version.
    version: Option<u64>,
    /// Whether the code differs from the zip that the stack names; `None` if that is unknown.
    replaced: Option<bool>,
}

pub async fn run(args: StatusArgs, printer: &Printer) -> anyhow::Result<()> {
    let aws = Aws::connect(&args.stack.access).await?;
    let (status, verdict) =
        introduce(&aws, &args.stack, printer, find(&aws, &args, printer)).await?;
    let written = printer.result(&status);
    verdict?;
    written
}

/// The status, and the error of the change that was waited for.
async fn find(
    aws: &Aws,
    args: &StatusArgs,
    printer: &Printer,
) -> anyhow::Result<(Status, Result<(), Failure>)> {
    let (name, client) = (&args.stack.stack_name, &aws.cloudformation);
    let mut stack = cloudformation::require(client, name, &aws.region).await?;
    if args.wait
        && stack.is_busy()
        && let Some(mut watch) = Watch::join(client, &stack.id).await?
    {
        let mut step = printer.step("stack");
        let status = watch.wait_for_end(&mut step).await?;
        step.done(&status);
        // By its ARN, because it may be deleted now.
        let current = cloudformation::find(client, &stack.id).await?;
        stack = Stack { status, ..current.unwrap_or(stack) };
    }
    let verdict = if args.wait && stack.has_failed() {
        Err(stack::failed(name, &stack.status, &last_change(aws, &stack.id).await?))
    } else {
        Ok(())
    };
    Ok((read(aws, name.clone(), stack, args.drift, printer).await?, verdict))
}

async fn last_change(aws: &Aws, stack_id: &str) -> anyhow::Result<Vec<StackEvent>> {
    let events = cloudformation::newest_events(&aws.cloudformation, stack_id).await?;
    Ok(stack::last_change(events.unwrap_or_default()))
}

/// Reads everything about the stack at once.
async fn read(
    aws: &Aws,
    stack_name: String,
    stack: Stack,
    detect_drift: bool,
    printer: &Printer,
) -> anyhow::Result<Status> {
    let output = |name: &str| stack.outputs.get(name).cloned();
    let (function_name, table_name) = (output("FunctionName"), output("TableName"));
    let (function_name, table_name) = (function_name.as_deref(), table_name.as_deref());
    let function = read_if(function_name, |name| lambda::find(&aws.lambda, name));
    let version = read_if(function_name, |name| lambda::last_version(&aws.lambda, name));
    let table = read_if(table_name, |name| Table::find(&aws.dynamodb, name));
    let cause = read_if(stack.has_failed().then_some(&stack.id), async |id| {
        let events = last_change(aws, id).await?;
        Ok(stack::root_cause(&events).map(ToString::to_string))
    });
    let drift = read_if(detect_drift.then_some(&stack.id), async |id| {
        let mut step = printer.step("drift");
        step.note("CloudFormation checks each resource");
        let drift = drift::detect(&aws.cloudformation, id).await?;
        step.done(drift.summary());
        Ok(Some(drift))
    });
    let (function, version, table, cause, drift) =
        tokio::join!(function, version, table, cause, drift);

    let mut unknown = BTreeMap::new();
    let function = unless_denied("function", function, &mut unknown)?;
    let version = unless_denied("version", version, &mut unknown)?;
    let now = Timestamp::now();
    let updated = stack.updated.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
    Ok(Status {
        region: aws.region.clone(),
        stack_status: stack.status.to_string(),
        reason: stack.reason.clone().filter(|reason| !reason.is_empty()),
        cause: unless_denied("cause", cause, &mut unknown)?,
        age_seconds: updated.map(|updated| now.duration_since(updated).as_secs()),
        termination_protection: stack.protected,
        drift: unless_denied("drift", drift, &mut unknown)?.unwrap_or_else(|| stack.drift.clone()),
        endpoint: output("Endpoint"),
        dns_record: DnsRecord::find(&stack),
        auth: output("Endpoint").map(|_| stack.auth()),
        dashboard: output("DashboardName"),
        function: function.map(|function| FunctionStatus {
            replaced: is_replaced(&stack, &function),
            version,
            function,
        }),
        table: unless_denied("table", table, &mut unknown)?,
        created: stack.created,
        updated: stack.updated,
        unknown,
        stack_name,
        now,
    })
}

/// Reads what belongs to this key, if there is one.
async fn read_if<K, T>(
    key: Option<K>,
    read: impl AsyncFnOnce(K) -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    match key {
        Some(key) => read(key).await,
        None => Ok(None),
    }
}

/// Notes a missing permission, and continues without this part.
fn unless_denied<T>(
    part: &'static str,
    result: anyhow::Result<Option<T>>,
    unknown: &mut BTreeMap<&'static str, String>,
) -> anyhow::Result<Option<T>> {
    match result {
        Err(error) if Failure::is_denial(&error) => {
            unknown.insert(part, error.to_string());
            Ok(None)
        }
        result => result,
    }
}

/// Whether the function's code differs from the zip that the stack names by its hash, as `deploy` does.
fn is_replaced(stack: &Stack, function: &Function) -> Option<bool> {
    // During a change, either may be ahead of the other.
    if stack.is_busy() {
        return None;
    }
    let named = stack.artifact_key()?.rsplit('/').next()?.strip_suffix(".zip")?;
    let is_hash = named.len() == 64 && named.bytes().all(|b| b.is_ascii_hexdigit());
    let sha256 = function.sha256.as_deref()?;
    is_hash.then(|| !named.eq_ignore_ascii_case(sha256))
}

#[cfg(test)]
mod tests;
