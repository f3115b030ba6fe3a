//! What happens to a stack: its events, how far they are, and which of them caused a failure.

use std::fmt::Display;

use aws_sdk_cloudformation::types::StackStatus;

use super::Status;
use crate::{advice, failure::Failure};

/// Something that happened to a stack.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Unique.
    pub id: String,
    /// The resource's name in the template; the stack's own for the stack itself.
    pub resource: String,
    /// The resource's type.
    pub kind: String,
    /// The resource's new status.
    pub status: String,
    /// Why, in `CloudFormation`'s words.
    pub reason: Option<String>,
    /// When, in seconds since 1970.
    pub time: f64,
}

impl Event {
    /// Whether it is about the stack as a whole.
    pub fn is_stack(&self) -> bool {
        self.kind == "AWS::CloudFormation::Stack"
    }

    fn is_failure(&self) -> bool {
        self.status.ends_with("_FAILED")
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.resource, self.status)?;
        match self.reason.as_deref() {
            Some(reason) if !reason.is_empty() => write!(f, ": {reason}"),
            _ => Ok(()),
        }
    }
}

/// How far a change is: a row for each resource that it has come to, in that order.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    rows: Vec<Row>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name in the template.
    pub resource: String,
    /// Its type.
    pub kind: String,
    /// Its last status.
    pub status: String,
    /// Why, in `CloudFormation`'s words.
    pub reason: Option<String>,
    /// When what is under way began, in seconds since 1970.
    began: f64,
    /// How long it took, in seconds, once it is done.
    pub seconds: Option<f64>,
}

impl Row {
    /// Whether nothing is under way.
    pub fn is_done(&self) -> bool {
        self.seconds.is_some()
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = match self.seconds {
            None => '…',
            Some(_) if self.status.ends_with("_FAILED") => '✗',
            Some(_) => '✓',
        };
        write!(f, "{sign} {} {} {}", self.resource, self.kind, self.status)?;
        if let Some(seconds) = self.seconds {
            write!(f, " {seconds:.1} s")?;
        }
        match self.reason.as_deref() {
            Some(reason) if self.status.ends_with("_FAILED") => write!(f, ": {reason}"),
            _ => Ok(()),
        }
    }
}

impl Progress {
    /// Takes an event in, and gives the place of its row and whether something begins there; none for the stack itself.
    pub fn see(&mut self, event: &Event) -> Option<(usize, bool)> {
        if event.is_stack() {
            return None;
        }
        let place =
            self.rows.iter().position(|row| row.resource == event.resource).unwrap_or_else(|| {
                self.rows.push(Row {
                    resource: event.resource.clone(),
                    kind: event.kind.clone(),
                    status: String::new(),
                    reason: None,
                    began: event.time,
                    seconds: Some(0.0),
                });
                self.rows.len() - 1
            });
        let row = &mut self.rows[place];
        let in_progress = event.status.ends_with("_IN_PROGRESS");
        let begins = in_progress && row.is_done();
        if begins {
            row.began = event.time;
        }
        row.seconds = (!in_progress).then(|| (event.time - row.began).max(0.0));
        row.status.clone_from(&event.status);
        row.reason.clone_from(&event.reason);
        Some((place, begins))
    }

    /// The resources.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// How many resources have nothing under way.
    pub fn done(&self) -> usize {
        self.rows.iter().filter(|row| row.is_done()).count()
    }
}

/// The event that caused the others: of the failures the first that is no mere consequence of another's. Oldest first.
///
/// What fails after the rollback has begun is not what began it.
pub fn root_cause(events: &[Event]) -> Option<&Event> {
    let rolls_back =
        |event: &&Event| event.is_stack() && event.status.contains("ROLLBACK_IN_PROGRESS");
    let begun = events.iter().position(|event| rolls_back(&event));
    let before = &events[..begun.unwrap_or(events.len())];
    let is_consequence = |event: &&Event| {
        event.is_stack()
            || event
                .reason
                .as_deref()
                .is_some_and(|reason| reason.to_lowercase().contains("cancelled"))
    };
    let failures = |events| <[Event]>::iter(events).filter(|event| event.is_failure());
    failures(before)
        .find(|event| !is_consequence(event))
        .or_else(|| {
            // A rollback that no resource's failure explains: the stack's own reason does.
            let has_reason =
                |event: &&Event| event.reason.as_deref().is_some_and(|r| !r.is_empty());
            events.iter().filter(rolls_back).find(has_reason)
        })
        .or_else(|| failures(events).find(|event| !is_consequence(event)))
        .or_else(|| failures(events).next())
}

/// The failure that a stack's bad end is.
pub fn failed(name: &str, status: &Status, events: &[Event]) -> Failure {
    let cause = root_cause(events);
    let failure = match cause {
        Some(event) => {
            Failure::new(format!("stack `{name}` ended in {status}: {event} ({})", event.kind))
        }
        None => Failure::new(format!("stack `{name}` ended in {status}")),
    };
    let state = match status.0 {
        StackStatus::UpdateRollbackComplete => "the stack is as it was before",
        StackStatus::RollbackComplete | StackStatus::CreateFailed | StackStatus::RollbackFailed => {
            "the next deployment replaces what is left of the stack"
        }
        StackStatus::UpdateRollbackFailed => "the next deployment continues the rollback first",
        StackStatus::UpdateFailed => "the next deployment rolls it back first",
        StackStatus::DeleteFailed => "the rest of the stack is still there",
        _ => "look at it with `cbbootstrap status`",
    };
    let advice = cause
        .and_then(|event| event.reason.as_deref())
        .and_then(advice::for_reason)
        .unwrap_or_else(|| "mend the cause and run the same command again".to_owned());
    failure.hint(format!("{advice} ({state})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(resource: &str, status: &str, reason: &str) -> Event {
        let kind = if resource == "stack" { "AWS::CloudFormation::Stack" } else { "AWS::X::Y" };
        Event {
            resource: resource.to_owned(),
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            ..Event::default()
        }
    }

    #[test]
    fn the_first_failure_is_the_cause() {
        let cancelled = "Resource creation cancelled";
        let denied = "User: ci is not authorized to perform: iam:CreateRole on resource: r";
        let events = [
            event("stack", "CREATE_IN_PROGRESS", "User Initiated"),
            event("Api", "CREATE_FAILED", cancelled),
            event("Role", "CREATE_FAILED", denied),
            event("Function", "CREATE_FAILED", cancelled),
            event(
                "stack",
                "ROLLBACK_IN_PROGRESS",
                "The following resource(s) failed to create: [Role].",
            ),
            event("Api", "DELETE_FAILED", "too late"),
        ];
        assert_eq!(root_cause(&events).unwrap().resource, "Role");
        let failure = failed("s", &Status::from("ROLLBACK_COMPLETE"), &events);
        assert_eq!(
            failure.to_string(),
            format!(
                "stack `s` ended in ROLLBACK_COMPLETE: Role CREATE_FAILED: {denied} (AWS::X::Y)"
            )
        );
        let hint = failure.hint.unwrap();
        assert!(hint.starts_with("allow `iam:CreateRole` on `r`"), "{hint}");

        for (events, cause) in [
            (&events[..2], Some("Api")),
            (&events[4..5], Some("stack")),
            (&[events[1].clone(), events[4].clone()], Some("stack")),
            (&events[..1], None),
        ] {
            let found = root_cause(events).map(|event| event.resource.as_str());
            assert_eq!(found, cause, "{events:?}");
        }
    }

    #[test]
    fn every_bad_end_says_what_comes_next() {
        for status in [
            "ROLLBACK_COMPLETE",
            "ROLLBACK_FAILED",
            "CREATE_FAILED",
            "UPDATE_FAILED",
            "UPDATE_ROLLBACK_COMPLETE",
            "UPDATE_ROLLBACK_FAILED",
            "DELETE_FAILED",
        ] {
            let failure = failed("s", &Status::from(status), &[]);
            let hint = failure.hint.unwrap();
            assert!(!hint.contains("look at it"), "{status}: {hint}");
        }
    }

    #[test]
    fn a_row_follows_its_resource() {
        let at = |time, resource: &str, status: &str| Event { time, ..event(resource, status, "") };
        let mut progress = Progress::default();
        assert_eq!(progress.see(&at(1.0, "stack", "UPDATE_IN_PROGRESS")), None);
        assert_eq!(progress.see(&at(1.0, "Role", "UPDATE_IN_PROGRESS")), Some((0, true)));
        assert_eq!(progress.see(&at(1.5, "Api", "UPDATE_IN_PROGRESS")), Some((1, true)));
        assert_eq!(progress.done(), 0);
        assert_eq!(progress.see(&at(2.0, "Role", "UPDATE_IN_PROGRESS")), Some((0, false)));
        assert_eq!(progress.see(&at(3.5, "Role", "UPDATE_COMPLETE")), Some((0, false)));
        assert_eq!(progress.done(), 1);
        assert_eq!(progress.rows()[0].to_string(), "✓ Role AWS::X::Y UPDATE_COMPLETE 2.5 s");
        let failed = event("Api", "UPDATE_FAILED", "no");
        progress.see(&Event { time: 2.0, ..failed });
        // The rollback begins anew.
        progress.see(&at(4.0, "Role", "UPDATE_IN_PROGRESS"));
        let rows: Vec<_> = progress.rows().iter().map(ToString::to_string).collect();
        assert_eq!(
            rows,
            ["… Role AWS::X::Y UPDATE_IN_PROGRESS", "✗ Api AWS::X::Y UPDATE_FAILED 0.5 s: no"]
        );
    }
}
