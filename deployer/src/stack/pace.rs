//! When to poll a changing stack: rarely while its resources change, and often once they are done, as the stack then follows
//! within a second or two. That notices the end sooner, and with fewer calls, than a fixed interval.

use std::time::Duration;

use super::{Progress, StackEvent};

pub const FIRST: Duration = Duration::from_millis(250);

const FAR: Duration = Duration::from_millis(3250);
const UNKNOWN: Duration = Duration::from_secs(2);

/// CloudFormation takes about two seconds from the last resource to the stack.
const NEAR: Duration = Duration::from_millis(750);

/// How far the end of a change is, judged by its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// The number of changing resources is not known.
    Unknown,
    /// Resources are in progress, or have yet to begin.
    Far,
    /// All expected resources are done.
    Near,
}

/// `expected` is the least number of resources that change, `stack` the last event of the stack itself.
pub fn distance(
    expected: Option<usize>,
    progress: &Progress,
    stack: Option<&StackEvent>,
) -> Distance {
    let status = stack.map_or("", |event| event.status.as_str());
    let done = progress.done();
    match expected {
        _ if status.ends_with("_CLEANUP_IN_PROGRESS") => Distance::Near,
        // A rollback changes other resources than the update did.
        _ if status.contains("ROLLBACK") => Distance::Unknown,
        None => Distance::Unknown,
        Some(expected) if done >= expected.max(1) && done == progress.rows().len() => {
            Distance::Near
        }
        Some(_) => Distance::Far,
    }
}

/// The pause before the next poll, by the time since the watch began and since the last event.
///
/// Pauses also grow near the end: a stack may wait there for its rollback alarms.
pub fn pause(distance: Distance, since_begin: Duration, since_event: Duration) -> Duration {
    match distance {
        Distance::Unknown => (since_begin * 2).clamp(FIRST, UNKNOWN),
        Distance::Far => (since_begin * 2).clamp(FIRST, FAR),
        Distance::Near => (since_event / 2).clamp(NEAR, FAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(resource: &str, status: &str) -> StackEvent {
        StackEvent {
            resource: resource.to_owned(),
            status: status.to_owned(),
            ..StackEvent::default()
        }
    }

    #[test]
    fn the_end_is_near_when_all_is_done() {
        let seen = [
            ("Logs", "CREATE_IN_PROGRESS"),
            ("Logs", "CREATE_COMPLETE"),
            ("Role", "CREATE_IN_PROGRESS"),
            ("Role", "CREATE_COMPLETE"),
            ("Function", "CREATE_IN_PROGRESS"),
            ("Function", "CREATE_COMPLETE"),
        ];
        let after = |count: usize, expected, status| {
            let mut progress = Progress::default();
            for (resource, status) in &seen[..count] {
                progress.see(&event(resource, status));
            }
            distance(expected, &progress, Some(&event("stack", status)))
        };
        for (count, expected, status, is) in [
            (0, Some(3), "CREATE_IN_PROGRESS", Distance::Far),
            (5, Some(3), "CREATE_IN_PROGRESS", Distance::Far),
            (6, Some(3), "CREATE_IN_PROGRESS", Distance::Near),
            (6, Some(4), "CREATE_IN_PROGRESS", Distance::Far),
            // An update may come to no resource of those that it names.
            (0, Some(0), "UPDATE_IN_PROGRESS", Distance::Far),
            (3, Some(0), "UPDATE_IN_PROGRESS", Distance::Far),
            (4, Some(0), "UPDATE_IN_PROGRESS", Distance::Near),
            (6, None, "DELETE_IN_PROGRESS", Distance::Unknown),
            (6, Some(3), "ROLLBACK_IN_PROGRESS", Distance::Unknown),
            (2, Some(3), "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", Distance::Near),
        ] {
            assert_eq!(after(count, expected, status), is, "{count} {expected:?} {status}");
        }
    }

    #[test]
    fn pauses_grow_and_end_short() {
        let ms = Duration::from_millis;
        for (distance, since_begin, since_event, is) in [
            (Distance::Far, 0, 0, 250),
            (Distance::Far, 750, 0, 1500),
            (Distance::Far, 20_000, 0, 3250),
            (Distance::Unknown, 20_000, 0, 2000),
            (Distance::Near, 20_000, 0, 750),
            (Distance::Near, 24_000, 4000, 2000),
            (Distance::Near, 60_000, 40_000, 3250),
        ] {
            assert_eq!(
                pause(distance, ms(since_begin), ms(since_event)),
                ms(is),
                "{distance:?} {since_begin} {since_event}"
            );
        }
    }
}
