//! A stack's events: progress by resource, and the cause of a failure.

use std::fmt::Display;

use super::{StackStatus, StackStatus as S};
use crate::{advice, failure::Failure};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct StackEvent {
    pub id: String,
    /// The resource's name in the template, or the stack's name.
    pub resource: String,
    pub kind: String,
    pub status: String,
    pub reason: Option<String>,
    /// In seconds since 1970.
    pub time: f64,
}

impl StackEvent {
    /// Whether it is about the stack itself, and not one of its resources.
    pub fn is_stack(&self) -> bool {
        self.kind == "AWS::CloudFormation::Stack"
    }

    fn is_failure(&self) -> bool {
        self.status.ends_with("_FAILED")
    }
}

impl Display for StackEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.resource, self.status)?;
        match self.reason.as_deref() {
            Some(reason) if !reason.is_empty() => write!(f, ": {reason}"),
            _ => Ok(()),
        }
    }
}

/// The progress of a change: a row for each resource so far, in order of first appearance.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    last: StackEvent,
    /// When the last operation began, in seconds since 1970.
    began: f64,
    /// How long the last operation took; `None` while one is in progress.
    seconds: Option<f64>,
}

impl Row {
    pub fn is_done(&self) -> bool {
        self.seconds.is_some()
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let StackEvent { resource, kind, status, reason, .. } = &self.last;
        let sign = match self.seconds {
            None => '…',
            Some(_) if self.last.is_failure() => '✗',
            Some(_) => '✓',
        };
        write!(f, "{sign} {resource} {kind} {status}")?;
        if let Some(seconds) = self.seconds {
            write!(f, " {seconds:.1} s")?;
        }
        match reason {
            Some(reason) if self.last.is_failure() => write!(f, ": {reason}"),
            _ => Ok(()),
        }
    }
}

impl Progress {
    /// Adds an event. Returns the index of its resource's row, and whether an operation begins there; `None` for the stack itself.
    pub fn see(&mut self, event: &StackEvent) -> Option<(usize, bool)> {
        if event.is_stack() {
            return None;
        }
        let known = self.rows.iter().position(|row| row.last.resource == event.resource);
        let index = known.unwrap_or_else(|| {
            self.rows.push(Row { last: event.clone(), began: event.time, seconds: Some(0.0) });
            self.rows.len() - 1
        });
        let row = &mut self.rows[index];
        let in_progress = event.status.ends_with("_IN_PROGRESS");
        let begins = in_progress && row.is_done();
        if begins {
            row.began = event.time;
        }
        row.seconds = (!in_progress).then(|| (event.time - row.began).max(0.0));
        row.last.clone_from(event);
        Some((index, begins))
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The number of resources without an operation in progress.
    pub fn done(&self) -> usize {
        self.rows.iter().filter(|row| row.is_done()).count()
    }
}

/// The events of the stack's last change, oldest first.
pub fn last_change(newest_first: Vec<StackEvent>) -> Vec<StackEvent> {
    let begins = |event: &StackEvent| {
        let operation = event.status.strip_suffix("_IN_PROGRESS").unwrap_or_default();
        event.is_stack() && ["CREATE", "UPDATE", "DELETE", "IMPORT"].contains(&operation)
    };
    let begin = newest_first.iter().position(begins);
    let mut events = newest_first;
    events.truncate(begin.map_or(usize::MAX, |begin| begin + 1));
    events.reverse();
    events
}

/// The event that caused a failure: the first failure that is not a consequence of another. `events` are the oldest first.
///
/// A failure after the rollback began did not cause the rollback.
pub fn root_cause(events: &[StackEvent]) -> Option<&StackEvent> {
    let rolls_back =
        |event: &&StackEvent| event.is_stack() && event.status.contains("ROLLBACK_IN_PROGRESS");
    let begun = events.iter().position(|event| rolls_back(&event));
    let before = &events[..begun.unwrap_or(events.len())];
    let is_consequence = |event: &&StackEvent| {
        event.is_stack()
            || event
                .reason
                .as_deref()
                .is_some_and(|reason| reason.to_lowercase().contains("cancelled"))
    };
    let failures = |events| <[StackEvent]>::iter(events).filter(|event| event.is_failure());
    failures(before)
        .find(|event| !is_consequence(event))
        .or_else(|| {
            // Without a failed resource, the stack's own reason explains the rollback.
            let has_reason =
                |event: &&StackEvent| event.reason.as_deref().is_some_and(|r| !r.is_empty());
            events.iter().filter(rolls_back).find(has_reason)
        })
        .or_else(|| failures(events).find(|event| !is_consequence(event)))
        .or_else(|| failures(events).next())
}

/// The error for a failed change of a stack.
pub fn failed(name: &str, status: &StackStatus, events: &[StackEvent]) -> Failure {
    let cause = root_cause(events);
    let event = cause.map(|event| format!(": {event} ({})", event.kind)).unwrap_or_default();
    let failure = Failure::new(format!("stack `{name}` ended in {status}{event}"));
    let state = match status {
        S::UpdateRollbackComplete => "the stack is as it was before",
        S::RollbackComplete | S::CreateFailed | S::RollbackFailed => {
            "the next deployment deletes the failed stack and creates it again"
        }
        S::UpdateRollbackFailed => "the next deployment continues the rollback first",
        S::UpdateFailed => "the next deployment rolls it back first",
        S::DeleteFailed => "the rest of the stack is still there",
        _ => "`cbbootstrap status` shows it",
    };
    let advice = cause
        .and_then(|event| event.reason.as_deref())
        .and_then(advice::for_reason)
        .unwrap_or_else(|| "fix the cause and run the same command again".to_owned());
    let mut reasons = events.iter().rev().filter_map(|event| event.reason.as_deref());
    let advice = match reasons.find_map(advice::failed_instance) {
        Some(instance) => advice.replace("INSTANCE-ID", instance),
        None => advice,
    };
    failure.hint(format!("{advice} ({state})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(resource: &str, status: &str, reason: &str) -> StackEvent {
        let kind = if resource == "stack" { "AWS::CloudFormation::Stack" } else { "AWS::X::Y" };
        StackEvent {
            resource: resource.to_owned(),
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            ..StackEvent::default()
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
        let failure = failed("s", &StackStatus::from("ROLLBACK_COMPLETE"), &events);
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
    fn only_events_of_the_last_change_are_kept() {
        let event = |resource, status| event(resource, status, "");
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
            "all events, if the beginning is missing"
        );
        assert_eq!(last_change(Vec::new()), []);
    }

    #[test]
    fn the_instance_that_failed_last_is_named() {
        let events = [
            event("Nodes", "UPDATE_IN_PROGRESS", "Received FAILURE signal with UniqueId i-1"),
            event("Nodes", "UPDATE_IN_PROGRESS", "Received FAILURE signal with UniqueId i-2"),
            event("Nodes", "UPDATE_FAILED", "Received 2 FAILURE signal(s) out of 3"),
        ];
        for (events, expected) in
            [(&events[..], "--instance-id i-2`"), (&events[2..], "--instance-id INSTANCE-ID`")]
        {
            let failure = failed("s", &StackStatus::from("UPDATE_ROLLBACK_COMPLETE"), events);
            let hint = failure.hint.unwrap();
            assert!(hint.contains(expected), "{hint}");
        }
    }

    #[test]
    fn every_failed_status_has_a_next_step() {
        for status in [
            "ROLLBACK_COMPLETE",
            "ROLLBACK_FAILED",
            "CREATE_FAILED",
            "UPDATE_FAILED",
            "UPDATE_ROLLBACK_COMPLETE",
            "UPDATE_ROLLBACK_FAILED",
            "DELETE_FAILED",
        ] {
            let failure = failed("s", &StackStatus::from(status), &[]);
            let hint = failure.hint.unwrap();
            assert!(!hint.contains("cbbootstrap status"), "{status}: {hint}");
        }
    }

    #[test]
    fn a_row_follows_its_resource() {
        let at =
            |time, resource: &str, status: &str| StackEvent { time, ..event(resource, status, "") };
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
        progress.see(&StackEvent { time: 2.0, ..failed });
        // The rollback begins another operation.
        progress.see(&at(4.0, "Role", "UPDATE_IN_PROGRESS"));
        let rows: Vec<_> = progress.rows().iter().map(ToString::to_string).collect();
        assert_eq!(
            rows,
            ["… Role AWS::X::Y UPDATE_IN_PROGRESS", "✗ Api AWS::X::Y UPDATE_FAILED 0.5 s: no"]
        );
    }
}
