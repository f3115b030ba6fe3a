//! The status as text.

use std::fmt::{Display, Formatter};

use indicatif::HumanBytes;

use super::{FunctionStatus, Status};
use crate::{
    aws::lambda::Function,
    fields::{ago, write_fields},
    links,
    stack::Drift,
    values::Auth,
};

impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let fields = [
            ("Endpoint:", self.endpoint_text()),
            ("Stack:", self.stack_text()),
            ("Drift:", self.drift_text()),
            ("Function:", self.function_text()),
            ("Table:", self.table_text()),
            ("Watch it:", optional(&self.dashboard, |name| dashboard_text(&self.region, name))),
        ];
        write_fields(f, 9, fields)
    }
}

impl Status {
    fn endpoint_text(&self) -> String {
        let record = self.dns_record.as_ref();
        let record = record.map(|it| format!("\nneeds the DNS record `{it}`, or an alias"));
        let endpoint = self.endpoint.as_deref().unwrap_or("none");
        let endpoint = format!("{endpoint}{}", record.unwrap_or_default());
        match self.auth {
            Some(Auth::None) => format!("{endpoint}\npublic: anyone who knows the URL can call it"),
            Some(Auth::Iam) => format!("{endpoint}\nfor signed requests only (IAM)"),
            None => endpoint,
        }
    }

    /// A time and its age.
    fn time(&self, time: &str) -> String {
        format!("{time}{}", ago(Some(time), self.now))
    }

    fn stack_text(&self) -> String {
        let Self { stack_name, region, stack_status, .. } = self;
        let since = optional(&self.updated, |at| format!(" since {}", self.time(at)));
        let reason = optional(&self.reason, |reason| format!(": {reason}"));
        let cause = self.cause.as_ref().or(self.unknown.get("cause"));
        let cause = optional(cause, |cause| format!("\nbecause of {cause}"));
        let created = optional(&self.created, |at| format!("\ncreated {}", self.time(at)));
        let protection = on_or_off(self.termination_protection);
        format!(
            "{stack_name} in {region}, {stack_status}{since}{reason}{cause}{created}\ntermination protection {protection}"
        )
    }

    fn drift_text(&self) -> String {
        if let Some(reason) = self.unknown.get("drift") {
            return format!("unknown: {reason}");
        }
        let Drift { status, checked, reason, resources } = &self.drift;
        let status = match (status.as_str(), resources) {
            ("IN_SYNC", _) => "none",
            ("DRIFTED", Some(_)) => "resources were changed outside the stack",
            ("DRIFTED", None) => "resources were changed outside the stack; `--drift` lists them",
            ("NOT_CHECKED", None) => "not checked; `--drift` checks",
            (other, _) => other,
        };
        let checked = optional(checked, |at| format!(", as of {}", self.time(at)));
        let reason = optional(reason, |reason| format!(": {reason}"));
        let resources = resources.iter().flatten().map(|drifted| format!("\n{drifted}"));
        format!("{status}{checked}{reason}{}", resources.collect::<String>())
    }

    fn function_text(&self) -> String {
        let Some(FunctionStatus { function, version, replaced }) = &self.function else {
            return self.absence_text("function");
        };
        let Function { name, state, last_update, last_modified, .. } = function;
        let last_update = optional(last_update, |it| format!(", last update {it}"));
        let modified = optional(last_modified, |at| format!(", modified {}", self.time(at)));
        let (size, memory) = (bytes(function.size), function.memory);
        let arch = optional(&function.arch, |arch| format!(", {arch}"));
        let version = match (version, self.unknown.get("version")) {
            (Some(version), _) => format!("version {version}"),
            (None, None) => "no published version".to_owned(),
            (None, Some(reason)) => format!("version unknown: {reason}"),
        };
        let sha256 = function.sha256.as_deref().unwrap_or("unknown");
        let replaced = if *replaced == Some(true) {
            "\nreplaced outside the stack, for example by `deploy --code-only`; the next `deploy` updates the stack"
        } else {
            ""
        };
        format!(
            "{name}, {state}{last_update}{modified}\n\
             {size}, {memory} MB of memory{arch}, {version}\n\
             sha256 {sha256}{replaced}"
        )
    }

    fn table_text(&self) -> String {
        let Some(table) = &self.table else {
            return self.absence_text("table");
        };
        let settings = table.settings.values().into_iter();
        let settings: Vec<_> = settings.map(|(name, value)| format!("{name} {value}")).collect();
        let settings =
            if settings.is_empty() { String::new() } else { format!("\n{}", settings.join(", ")) };
        format!(
            "{}, {}, about {} clusters in {}\ndeletion protection {}, point-in-time recovery {}{settings}",
            table.name,
            table.status,
            table.items,
            bytes(table.size),
            on_or_off(table.deletion_protection),
            table.point_in_time_recovery.map_or("unknown", on_or_off),
        )
    }

    fn absence_text(&self, resource: &str) -> String {
        let reason = self.unknown.get(resource);
        reason.map_or_else(|| "none".to_owned(), |reason| format!("unknown: {reason}"))
    }
}

/// The text for a value, which is empty without one.
fn optional<'v>(
    value: impl Into<Option<&'v String>>,
    text: impl FnOnce(&'v String) -> String,
) -> String {
    value.into().map_or_else(String::new, text)
}

/// The dashboard's page in the console, or its name where the console's address is not known.
pub(super) fn dashboard_text(region: &str, name: &str) -> String {
    links::dashboard(region, name).unwrap_or_else(|| format!("dashboard {name} in CloudWatch"))
}

fn on_or_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

fn bytes(size: i64) -> HumanBytes {
    HumanBytes(size.try_into().unwrap_or_default())
}
