//! `status`: the stack, the endpoint, the function and the table at a glance.

use std::{collections::BTreeMap, fmt::Display};

use indicatif::HumanBytes;
use jiff::{
    RoundMode, Span, SpanRound, Timestamp, Unit,
    fmt::friendly::{Designator, Direction, Spacing, SpanPrinter},
};
use serde::Serialize;

use crate::{
    aws::{
        Aws,
        cloudformation::{self, Watch},
        drift::{self, Drifted},
        dynamodb::Table,
        lambda::{self, Function},
    },
    cli::StatusArgs,
    deployment::settle,
    failure::Failure,
    permissions::partition,
    printer::Printer,
    stack::{self, Stack, StackEvent, StackStatus},
    values::Auth,
};

#[derive(Debug, Serialize)]
struct Status {
    stack_name: String,
    region: String,
    stack_status: String,
    /// Why the stack is in that status, where `CloudFormation` says.
    reason: Option<String>,
    /// What made the last change fail, where it did.
    cause: Option<String>,
    /// When the stack was created, RFC 3339.
    created: Option<String>,
    /// When the stack was last changed, RFC 3339.
    updated: Option<String>,
    /// How long ago that was.
    age_seconds: Option<i64>,
    termination_protection: bool,
    drift: DriftStatus,
    endpoint: Option<String>,
    /// Who may call it; none where there is none to call.
    auth: Option<Auth>,
    /// The dashboard's name.
    dashboard: Option<String>,
    function: Option<FunctionStatus>,
    table: Option<TableStatus>,
    /// What these credentials may not see, and why.
    unknown: BTreeMap<&'static str, String>,
    /// Which moment the ages are told from.
    #[serde(skip)]
    now: Timestamp,
}

#[derive(Debug, Serialize)]
struct DriftStatus {
    /// `IN_SYNC`, `DRIFTED`, `NOT_CHECKED`, …, as `CloudFormation` names it.
    status: String,
    /// When that was found, RFC 3339.
    checked: Option<String>,
    /// Why not every resource could be looked at.
    reason: Option<String>,
    /// What has drifted; none where nobody asked now.
    resources: Option<Vec<Drifted>>,
}

#[derive(Debug, Serialize)]
struct FunctionStatus {
    name: String,
    state: String,
    last_update: Option<String>,
    /// RFC 3339.
    last_modified: Option<String>,
    /// The last published version; none where none was.
    version: Option<u64>,
    /// Of the deployed zip, in lower-case hexadecimal, as `deploy` prints it.
    sha256: Option<String>,
    /// Whether that is another zip than the one that the stack names; none where that cannot be told.
    replaced: Option<bool>,
    /// In bytes.
    size: i64,
    /// In MB.
    memory: i32,
    arch: Option<String>,
}

#[derive(Debug, Serialize)]
struct TableStatus {
    name: String,
    status: String,
    /// As `DynamoDB` counted them within the last six hours.
    items: i64,
    /// In bytes, counted with the items.
    size: i64,
    deletion_protection: bool,
    point_in_time_recovery: Option<bool>,
}

impl Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoint = self.endpoint.as_deref().unwrap_or("none");
        writeln!(f, "Endpoint: {endpoint}")?;
        match self.auth {
            Some(Auth::None) => writeln!(f, "          for everyone who knows it")?,
            Some(Auth::Iam) => writeln!(f, "          for signed requests only (IAM)")?,
            None => (),
        }
        let ago = |time: &Option<String>| ago(time.as_deref(), self.now);
        write!(f, "Stack:    {} in {}, {}", self.stack_name, self.region, self.stack_status)?;
        if let Some(updated) = &self.updated {
            write!(f, " since {updated}{}", ago(&self.updated))?;
        }
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        if let Some(cause) = self.cause.as_ref().or(self.unknown.get("cause")) {
            write!(f, "\n          because of {cause}")?;
        }
        if let Some(created) = &self.created {
            write!(f, "\n          created {created}{}", ago(&self.created))?;
        }
        write!(f, "\n          termination protection {}", on(self.termination_protection))?;
        self.write_drift(f)?;
        self.write_function(f)?;
        self.write_table(f)?;
        match &self.dashboard {
            Some(name) => write!(f, "\nWatch it: {}", dashboard(&self.region, name)),
            None => Ok(()),
        }
    }
}

impl Status {
    fn write_drift(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let DriftStatus { status, checked, reason, resources } = &self.drift;
        f.write_str("\nDrift:    ")?;
        if let Some(why) = self.unknown.get("drift") {
            return write!(f, "unknown: {why}");
        }
        f.write_str(match (status.as_str(), resources) {
            ("IN_SYNC", _) => "none, the resources are as the stack made them",
            ("DRIFTED", Some(_)) => "resources were changed, not by the stack",
            ("DRIFTED", None) => "resources were changed, not by the stack; `--drift` shows which",
            ("NOT_CHECKED", None) => "not looked for; `--drift` does",
            (other, _) => other,
        })?;
        if let Some(checked) = checked {
            write!(f, ", as of {checked}{}", ago(Some(checked), self.now))?;
        }
        if let Some(reason) = reason {
            write!(f, ": {reason}")?;
        }
        for drifted in resources.iter().flatten() {
            let Drifted { resource, kind, status, differences } = drifted;
            write!(f, "\n          {resource} ({kind}) {}", status.to_lowercase())?;
            for difference in differences {
                write!(
                    f,
                    "\n            {}: {} instead of {}",
                    difference.property, difference.actual, difference.expected
                )?;
            }
        }
        Ok(())
    }

    fn write_function(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("\nFunction: ")?;
        let Some(function) = &self.function else {
            return self.write_absence(f, "function");
        };
        write!(f, "{}, {}", function.name, function.state)?;
        if let Some(last_update) = &function.last_update {
            write!(f, ", last update {last_update}")?;
        }
        if let Some(modified) = &function.last_modified {
            write!(f, ", modified {modified}{}", ago(Some(modified), self.now))?;
        }
        write!(f, "\n          {}, {} MB of memory", bytes(function.size), function.memory)?;
        if let Some(arch) = &function.arch {
            write!(f, ", {arch}")?;
        }
        match (&function.version, self.unknown.get("version")) {
            (Some(version), _) => write!(f, ", version {version}")?,
            (None, None) => f.write_str(", no published version")?,
            (None, Some(why)) => write!(f, ", version unknown: {why}")?,
        }
        let sha256 = function.sha256.as_deref().unwrap_or("unknown");
        write!(f, "\n          sha256 {sha256}")?;
        if function.replaced == Some(true) {
            f.write_str(
                "\n          replaced outside the stack, by `deploy --code-only` say; the next `deploy` settles it",
            )?;
        }
        Ok(())
    }

    fn write_table(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("\nTable:    ")?;
        let Some(table) = &self.table else {
            return self.write_absence(f, "table");
        };
        write!(
            f,
            "{}, {}, about {} clusters in {}\n          deletion protection {}, point-in-time recovery ",
            table.name,
            table.status,
            table.items,
            bytes(table.size),
            on(table.deletion_protection),
        )?;
        f.write_str(table.point_in_time_recovery.map_or("unknown", on))
    }

    fn write_absence(&self, f: &mut std::fmt::Formatter<'_>, what: &str) -> std::fmt::Result {
        match self.unknown.get(what) {
            Some(why) => write!(f, "unknown: {why}"),
            None => f.write_str("none"),
        }
    }
}

/// Where the dashboard is, as far as is known: other parts of AWS have consoles of their own.
fn dashboard(region: &str, name: &str) -> String {
    let console = match partition(region) {
        "aws" => "console.aws.amazon.com",
        "aws-us-gov" => "console.amazonaws-us-gov.com",
        "aws-cn" => "console.amazonaws.cn",
        _ => return format!("dashboard {name} in CloudWatch"),
    };
    format!(
        "https://{region}.{console}/cloudwatch/home?region={region}#dashboards/dashboard/{name}"
    )
}

fn on(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

fn bytes(size: i64) -> HumanBytes {
    HumanBytes(size.try_into().unwrap_or_default())
}

/// ` (3 days ago)`: how long ago an RFC 3339 time was, in its largest unit; empty where there is no time.
pub fn ago(time: Option<&str>, now: Timestamp) -> String {
    let Some(time) = time.and_then(|time| time.parse::<Timestamp>().ok()) else {
        return String::new();
    };
    let unit = match now.duration_since(time).as_secs() {
        ..1 => return " (just now)".to_owned(),
        1..60 => Unit::Second,
        60..3600 => Unit::Minute,
        3600..86400 => Unit::Hour,
        _ => Unit::Day,
    };
    let round =
        SpanRound::new().largest(unit).smallest(unit).mode(RoundMode::Trunc).days_are_24_hours();
    let span = Span::try_from(time - now).and_then(|span| span.round(round));
    let printer = SpanPrinter::new()
        .designator(Designator::Verbose)
        .spacing(Spacing::BetweenUnitsAndDesignators)
        .direction(Direction::Suffix);
    span.map_or_else(|_| String::new(), |span| format!(" ({})", printer.span_to_string(&span)))
}

/// Shows the status.
pub async fn run(args: StatusArgs, printer: &Printer) -> anyhow::Result<()> {
    let place = args.stack;
    let aws = Aws::connect(&place.access).await?;
    let name = place.stack_name;
    let client = &aws.cloudformation;
    let mut stack = cloudformation::require(client, &name, &aws.region).await?;
    if args.wait
        && stack.status.is_busy()
        && let Some(mut watch) = Watch::join(client, &stack.id).await?
    {
        let mut step = printer.step("stack");
        let settled = settle(&mut watch, &mut step).await?;
        step.done(&settled);
        // By its ARN, for it may be deleted now.
        let found = cloudformation::find(client, &stack.id).await?;
        stack = Stack { status: settled, ..found.unwrap_or(stack) };
    }
    let verdict = if args.wait && has_failed(&stack.status) {
        let events = cloudformation::last_events(client, &stack.id).await?;
        Err(stack::failed(&name, &stack.status, &last_change(events)))
    } else {
        Ok(())
    };
    let status = gather(&aws, name, stack, args.drift, printer).await?;
    printer.result(&status)?;
    Ok(verdict?)
}

/// Everything about the stack, by calls that run side by side.
async fn gather(
    aws: &Aws,
    stack_name: String,
    stack: Stack,
    look_for_drift: bool,
    printer: &Printer,
) -> anyhow::Result<Status> {
    let output = |name: &str| stack.outputs.get(name).map(String::as_str);
    let (function_name, table_name) = (output("FunctionName"), output("TableName"));
    let function = of(function_name, |name| lambda::find(&aws.lambda, name));
    let version = of(function_name, |name| lambda::last_version(&aws.lambda, name));
    let table = of(table_name, |name| Table::find(&aws.dynamodb, name));
    let cause = of(has_failed(&stack.status).then_some(&stack.id), async |id| {
        let events = cloudformation::last_events(&aws.cloudformation, id).await?;
        let events = last_change(events);
        Ok(stack::root_cause(&events).map(ToString::to_string))
    });
    let drift = of(look_for_drift.then_some(&stack.id), async |id| {
        let mut step = printer.step("drift");
        step.note("CloudFormation checks each resource");
        let drift = drift::detect(&aws.cloudformation, id).await?;
        step.done(drift.summary());
        Ok(Some(drift))
    });
    let (function, version, table, cause, drift) =
        tokio::join!(function, version, table, cause, drift);

    let mut unknown = Unknown::default();
    let function = unknown.unless_denied("function", function)?;
    let version = unknown.unless_denied("version", version)?;
    let table = unknown.unless_denied("table", table)?;
    let cause = unknown.unless_denied("cause", cause)?;
    let drift = unknown.unless_denied("drift", drift)?;
    let now = Timestamp::now();
    Ok(Status {
        region: aws.region.clone(),
        stack_status: stack.status.to_string(),
        reason: stack.reason.clone().filter(|reason| !reason.is_empty()),
        cause,
        age_seconds: stack
            .updated
            .as_deref()
            .and_then(|updated| updated.parse::<Timestamp>().ok())
            .map(|updated| now.duration_since(updated).as_secs()),
        termination_protection: stack.protected,
        drift: match drift {
            Some(found) => DriftStatus {
                status: found.status,
                checked: found.checked,
                reason: found.reason,
                resources: Some(found.resources),
            },
            None => DriftStatus {
                status: stack.drift.clone().unwrap_or_else(|| "UNKNOWN".to_owned()),
                checked: stack.drift_checked.clone(),
                reason: None,
                resources: None,
            },
        },
        endpoint: output("Endpoint").map(str::to_owned),
        auth: output("Endpoint").map(|_| stack.auth()),
        dashboard: output("DashboardName").map(str::to_owned),
        function: function.map(|function| FunctionStatus {
            replaced: is_replaced(&stack, &function),
            name: function.name,
            state: function.state,
            last_update: function.last_update,
            last_modified: function.last_modified,
            version,
            sha256: function.sha256,
            size: function.size,
            memory: function.memory,
            arch: function.arch,
        }),
        table: table_name.zip(table).map(|(name, table)| TableStatus {
            name: name.to_owned(),
            status: table.status.as_str().to_lowercase(),
            items: table.items,
            size: table.size,
            deletion_protection: table.deletion_protection,
            point_in_time_recovery: table.recovery,
        }),
        created: stack.created.clone(),
        updated: stack.updated.clone(),
        unknown: unknown.0,
        stack_name,
        now,
    })
}

/// What there is to say of a thing; nothing of one that there is not.
async fn of<T, R>(
    thing: Option<T>,
    look: impl AsyncFnOnce(T) -> anyhow::Result<Option<R>>,
) -> anyhow::Result<Option<R>> {
    match thing {
        Some(thing) => look(thing).await,
        None => Ok(None),
    }
}

/// What these credentials may not see, and why.
#[derive(Debug, Default)]
struct Unknown(BTreeMap<&'static str, String>);

impl Unknown {
    /// What was found. A missing permission is noted here, and spoils nothing else.
    fn unless_denied<T>(
        &mut self,
        what: &'static str,
        found: anyhow::Result<Option<T>>,
    ) -> anyhow::Result<Option<T>> {
        match found {
            Err(error) if error.downcast_ref::<Failure>().is_some_and(|failure| failure.denied) => {
                self.0.insert(what, error.to_string());
                Ok(None)
            }
            found => found,
        }
    }
}

/// Whether the last change of the stack went wrong, be it that all was rolled back since.
fn has_failed(status: &StackStatus) -> bool {
    let status = status.0.as_str();
    status.ends_with("_FAILED") || status.contains("ROLLBACK")
}

/// Of the last events of a stack, the newest first, those of its last change, the oldest first.
fn last_change(newest_first: Vec<StackEvent>) -> Vec<StackEvent> {
    let begins = |event: &StackEvent| {
        event.is_stack()
            && matches!(
                event.status.as_str(),
                "CREATE_IN_PROGRESS"
                    | "UPDATE_IN_PROGRESS"
                    | "DELETE_IN_PROGRESS"
                    | "IMPORT_IN_PROGRESS"
            )
    };
    let begin = newest_first.iter().position(begins);
    let mut events = newest_first;
    events.truncate(begin.map_or(usize::MAX, |begin| begin + 1));
    events.reverse();
    events
}

/// Whether the function's code is another than the one that the stack names by its hash, as `deploy` does.
fn is_replaced(stack: &Stack, function: &Function) -> Option<bool> {
    // In the middle of a change either may be ahead.
    if stack.status.is_busy() {
        return None;
    }
    let key = stack.parameters.get("ArtifactKey")?;
    let named = key.rsplit('/').next()?.strip_suffix(".zip")?;
    let is_hash = named.len() == 64 && named.bytes().all(|b| b.is_ascii_hexdigit());
    let sha256 = function.sha256.as_deref()?;
    is_hash.then(|| !named.eq_ignore_ascii_case(sha256))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-24T03:19:56Z";

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        let now = NOW.parse().unwrap();
        for (time, expected) in [
            (Some("2026-11-24T03:19:56.4Z"), " (just now)"),
            (Some("2026-11-24T03:20:56Z"), " (just now)"),
            (Some("2026-11-24T03:19:55Z"), " (1 second ago)"),
            (Some("2026-11-24T03:18:57Z"), " (59 seconds ago)"),
            (Some("2026-11-24T03:18:00.123Z"), " (1 minute ago)"),
            (Some("2026-11-23T23:20:00Z"), " (3 hours ago)"),
            (Some("2026-11-21T03:19:56Z"), " (3 days ago)"),
            (Some("2025-11-24T03:19:56Z"), " (365 days ago)"),
            (Some("yesterday"), ""),
            (None, ""),
        ] {
            assert_eq!(ago(time, now), expected, "{time:?}");
        }
    }

    fn event(resource: &str, status: &str) -> StackEvent {
        let kind = if resource == "stack" { "AWS::CloudFormation::Stack" } else { "AWS::X::Y" };
        StackEvent {
            resource: resource.to_owned(),
            kind: kind.to_owned(),
            status: status.to_owned(),
            ..StackEvent::default()
        }
    }

    #[test]
    fn only_the_last_change_tells_why_it_failed() {
        let oldest_first = [
            event("stack", "CREATE_IN_PROGRESS"),
            event("Role", "CREATE_COMPLETE"),
            event("stack", "CREATE_COMPLETE"),
            event("stack", "UPDATE_IN_PROGRESS"),
            event("Role", "UPDATE_FAILED"),
            event("stack", "UPDATE_ROLLBACK_IN_PROGRESS"),
            event("Role", "UPDATE_COMPLETE"),
            event("stack", "UPDATE_ROLLBACK_COMPLETE"),
        ];
        let newest_first = |events: &[StackEvent]| events.iter().rev().cloned().collect();
        assert_eq!(last_change(newest_first(&oldest_first)), oldest_first[3..]);
        assert_eq!(last_change(newest_first(&oldest_first[..3])), oldest_first[..3]);
        assert_eq!(
            last_change(newest_first(&oldest_first[4..])),
            oldest_first[4..],
            "all there is, where its begin is not among them"
        );
        assert_eq!(last_change(Vec::new()), []);
    }

    #[test]
    fn a_failure_is_told_of_until_something_succeeds() {
        for (status, failed) in [
            ("CREATE_COMPLETE", false),
            ("UPDATE_IN_PROGRESS", false),
            ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", false),
            ("CREATE_FAILED", true),
            ("ROLLBACK_IN_PROGRESS", true),
            ("UPDATE_ROLLBACK_COMPLETE", true),
            ("DELETE_FAILED", true),
        ] {
            assert_eq!(has_failed(&StackStatus::from(status)), failed, "{status}");
        }
    }

    fn stack(status: &str, key: Option<&str>) -> Stack {
        let key = key.map(|key| ("ArtifactKey".to_owned(), key.to_owned()));
        Stack {
            ours: true,
            status: StackStatus::from(status),
            parameters: key.into_iter().collect(),
            ..Stack::default()
        }
    }

    #[test]
    fn code_that_the_stack_does_not_name_is_noticed() {
        let (here, there) = ("a1".repeat(32), "b2".repeat(32));
        let key = |hash: &str| Some(format!("cbbootstrap/{hash}.zip"));
        let done = "UPDATE_COMPLETE";
        for (status, key, expected) in [
            (done, key(&here), Some(false)),
            (done, key(&there), Some(true)),
            (done, Some(format!("{there}.zip")), Some(true)),
            ("UPDATE_IN_PROGRESS", key(&there), None),
            // A key of the user's own says nothing of the code.
            (done, key("function-1.2"), None),
            (done, Some(there.clone()), None),
            (done, None, None),
        ] {
            let function = Function {
                name: "f".to_owned(),
                state: "active".to_owned(),
                last_update: None,
                last_modified: None,
                sha256: Some(here.clone()),
                size: 0,
                memory: 256,
                arch: None,
            };
            let stack = stack(status, key.as_deref());
            assert_eq!(is_replaced(&stack, &function), expected, "{key:?}");
        }
    }

    #[test]
    fn a_dashboard_is_where_its_part_of_aws_has_it() {
        for (region, expected) in [
            (
                "eu-west-1",
                "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#dashboards/dashboard/d",
            ),
            (
                "cn-north-1",
                "https://cn-north-1.console.amazonaws.cn/cloudwatch/home?region=cn-north-1#dashboards/dashboard/d",
            ),
            ("us-iso-east-1", "dashboard d in CloudWatch"),
        ] {
            assert_eq!(dashboard(region, "d"), expected);
        }
    }

    #[test]
    fn the_text_tells_what_matters() {
        let mut status = Status {
            stack_name: "s".to_owned(),
            region: "us-east-1".to_owned(),
            stack_status: "UPDATE_ROLLBACK_COMPLETE".to_owned(),
            reason: None,
            cause: Some("Role UPDATE_FAILED: no".to_owned()),
            created: Some("2026-11-14T03:19:56Z".to_owned()),
            updated: Some("2026-11-24T03:18:56Z".to_owned()),
            age_seconds: Some(60),
            termination_protection: true,
            drift: DriftStatus {
                status: "DRIFTED".to_owned(),
                checked: Some(NOW.to_owned()),
                reason: None,
                resources: Some(vec![Drifted {
                    resource: "Role".to_owned(),
                    kind: "AWS::IAM::Role".to_owned(),
                    status: "MODIFIED".to_owned(),
                    differences: vec![drift::Difference {
                        property: "/Path".to_owned(),
                        expected: "/".to_owned(),
                        actual: "/x/".to_owned(),
                    }],
                }]),
            },
            endpoint: Some("https://e".to_owned()),
            auth: Some(Auth::Iam),
            dashboard: Some("s-us-east-1".to_owned()),
            function: Some(FunctionStatus {
                name: "f".to_owned(),
                state: "active".to_owned(),
                last_update: Some("successful".to_owned()),
                last_modified: Some("2026-11-24T02:19:56Z".to_owned()),
                version: Some(3),
                sha256: Some("a1".to_owned()),
                replaced: Some(true),
                size: 1536,
                memory: 256,
                arch: Some("arm64".to_owned()),
            }),
            table: Some(TableStatus {
                name: "t".to_owned(),
                status: "active".to_owned(),
                items: 3,
                size: 310,
                deletion_protection: true,
                point_in_time_recovery: Some(false),
            }),
            unknown: BTreeMap::new(),
            now: NOW.parse().unwrap(),
        };
        assert_eq!(
            status.to_string(),
            "\
Endpoint: https://e
          for signed requests only (IAM)
Stack:    s in us-east-1, UPDATE_ROLLBACK_COMPLETE since 2026-11-24T03:18:56Z (1 minute ago)
          because of Role UPDATE_FAILED: no
          created 2026-11-14T03:19:56Z (10 days ago)
          termination protection on
Drift:    resources were changed, not by the stack, as of 2026-11-24T03:19:56Z (just now)
          Role (AWS::IAM::Role) modified
            /Path: /x/ instead of /
Function: f, active, last update successful, modified 2026-11-24T02:19:56Z (1 hour ago)
          1.50 KiB, 256 MB of memory, arm64, version 3
          sha256 a1
          replaced outside the stack, by `deploy --code-only` say; the next `deploy` settles it
Table:    t, active, about 3 clusters in 310 B
          deletion protection on, point-in-time recovery off
Watch it: https://us-east-1.console.aws.amazon.com/cloudwatch/home?region=us-east-1#dashboards/dashboard/s-us-east-1"
        );

        status.function = None;
        status.table = None;
        status.unknown = BTreeMap::from([("table", "access denied: no".to_owned())]);
        let text = status.to_string();
        assert!(text.contains("\nFunction: none\n"), "{text}");
        assert!(text.contains("\nTable:    unknown: access denied: no\n"), "{text}");
    }
}
