//! The status as text.

use std::fmt::{Display, Formatter, Write};

use indicatif::HumanBytes;

use super::{DriftStatus, FunctionStatus, Status};
use crate::{
    aws::drift::Drifted,
    fields::{ago, write_fields},
    permissions::partition,
    values::Auth,
};

impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let dashboard = self.dashboard.as_deref().map(|name| dashboard_url(&self.region, name));
        let fields = [
            ("Endpoint:", self.endpoint_text()),
            ("Stack:", self.stack_text()?),
            ("Drift:", self.drift_text()?),
            ("Function:", self.function_text()?),
            ("Table:", self.table_text()),
            ("Watch it:", dashboard.unwrap_or_default()),
        ];
        write_fields(f, 9, fields)
    }
}

impl Status {
    fn endpoint_text(&self) -> String {
        let endpoint = self.endpoint.as_deref().unwrap_or("none");
        match self.auth {
            Some(Auth::None) => format!("{endpoint}\nfor everyone who knows it"),
            Some(Auth::Iam) => format!("{endpoint}\nfor signed requests only (IAM)"),
            None => endpoint.to_owned(),
        }
    }

    fn stack_text(&self) -> Result<String, std::fmt::Error> {
        let mut text = format!("{} in {}, {}", self.stack_name, self.region, self.stack_status);
        if let Some(updated) = &self.updated {
            write!(text, " since {updated}{}", ago(Some(updated), self.now))?;
        }
        if let Some(reason) = &self.reason {
            write!(text, ": {reason}")?;
        }
        if let Some(cause) = self.cause.as_ref().or(self.unknown.get("cause")) {
            write!(text, "\nbecause of {cause}")?;
        }
        if let Some(created) = &self.created {
            write!(text, "\ncreated {created}{}", ago(Some(created), self.now))?;
        }
        Ok(text + "\ntermination protection " + on_or_off(self.termination_protection))
    }

    fn drift_text(&self) -> Result<String, std::fmt::Error> {
        if let Some(reason) = self.unknown.get("drift") {
            return Ok(format!("unknown: {reason}"));
        }
        let DriftStatus { status, checked, reason, resources } = &self.drift;
        let mut text = match (status.as_str(), resources) {
            ("IN_SYNC", _) => "none",
            ("DRIFTED", Some(_)) => "resources were changed outside the stack",
            ("DRIFTED", None) => "resources were changed outside the stack; `--drift` lists them",
            ("NOT_CHECKED", None) => "not checked; `--drift` checks",
            (other, _) => other,
        }
        .to_owned();
        if let Some(checked) = checked {
            write!(text, ", as of {checked}{}", ago(Some(checked), self.now))?;
        }
        if let Some(reason) = reason {
            write!(text, ": {reason}")?;
        }
        for Drifted { resource, kind, status, differences } in resources.iter().flatten() {
            write!(text, "\n{resource} ({kind}) {}", status.to_lowercase())?;
            for difference in differences {
                let (actual, expected) = (&difference.actual, &difference.expected);
                write!(text, "\n  {}: {actual} instead of {expected}", difference.property)?;
            }
        }
        Ok(text)
    }

    fn function_text(&self) -> Result<String, std::fmt::Error> {
        let Some(FunctionStatus { function, version, replaced }) = &self.function else {
            return Ok(self.absence_text("function"));
        };
        let mut text = format!("{}, {}", function.name, function.state);
        if let Some(last_update) = &function.last_update {
            write!(text, ", last update {last_update}")?;
        }
        if let Some(modified) = &function.last_modified {
            write!(text, ", modified {modified}{}", ago(Some(modified), self.now))?;
        }
        write!(text, "\n{}, {} MB of memory", bytes(function.size), function.memory)?;
        if let Some(arch) = &function.arch {
            write!(text, ", {arch}")?;
        }
        match (version, self.unknown.get("version")) {
            (Some(version), _) => write!(text, ", version {version}")?,
            (None, None) => text += ", no published version",
            (None, Some(reason)) => write!(text, ", version unknown: {reason}")?,
        }
        write!(text, "\nsha256 {}", function.sha256.as_deref().unwrap_or("unknown"))?;
        if *replaced == Some(true) {
            text += "\nreplaced outside the stack, for example by `deploy --code-only`; the next `deploy` updates the stack";
        }
        Ok(text)
    }

    fn table_text(&self) -> String {
        let Some(table) = &self.table else {
            return self.absence_text("table");
        };
        format!(
            "{}, {}, about {} clusters in {}\ndeletion protection {}, point-in-time recovery {}",
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

/// The dashboard's page. The consoles of other partitions are not known.
pub(super) fn dashboard_url(region: &str, name: &str) -> String {
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

fn on_or_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

fn bytes(size: i64) -> HumanBytes {
    HumanBytes(size.try_into().unwrap_or_default())
}
