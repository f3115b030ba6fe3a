//! When to poll a changing stack: rarely while its resources change, and often once they are done, as the stack then follows
//! within a second or two. That notices the end sooner, and with fewer calls, than a fixed interval.

use std::time::Duration;

use super::{Progress, StackEvent};

pub const FIRST: Duration = Duration::from_millis(250);

const FAR: Duration = Duration::from_millis(3250);

/// CloudFormation takes about two seconds from the last resource to the stack.
const NEAR: Duration = Duration::from_millis(750);

/// Whether the stack may be done soon: all resources that have begun to change are done. `stack` is the last event of the stack itself.
pub fn is_near(progress: &Progress, stack: Option<&StackEvent>) -> bool {
    let cleans_up = stack.is_some_and(|event| event.status.ends_with("_CLEANUP_IN_PROGRESS"));
    let done = progress.done();
    cleans_up || (done > 0 && done == progress.rows().len())
}

/// The pause before the next poll, by the time since the watch began and since the last event.
///
/// Pauses also grow near the end: a stack may wait there for its rollback alarms.
pub fn pause(is_near: bool, since_begin: Duration, since_event: Duration) -> Duration {
    if is_near { (since_event / 2).clamp(NEAR, FAR) } else { (since_begin * 2).clamp(FIRST, FAR) }
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
            ("Role", "CREATE_FAILED"),
        ];
        let after = |count: usize, status| {
            let mut progress = Progress::default();
            for (resource, status) in &seen[..count] {
                progress.see(&event(resource, status));
            }
            is_near(&progress, Some(&event("stack", status)))
        };
        for (count, status, expected) in [
            (0, "CREATE_IN_PROGRESS", false),
            (1, "CREATE_IN_PROGRESS", false),
            (2, "CREATE_IN_PROGRESS", true),
            (3, "CREATE_IN_PROGRESS", false),
            (4, "ROLLBACK_IN_PROGRESS", true),
            (1, "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", true),
        ] {
            assert_eq!(after(count, status), expected, "{count} {status}");
        }
    }

    #[test]
    fn pauses_grow_and_end_short() {
        let ms = Duration::from_millis;
        for (is_near, since_begin, since_event, expected) in [
            (false, 0, 0, 250),
            (false, 750, 0, 1500),
            (false, 20_000, 0, 3250),
            (true, 20_000, 0, 750),
            (true, 24_000, 4000, 2000),
            (true, 60_000, 40_000, 3250),
        ] {
            assert_eq!(
                pause(is_near, ms(since_begin), ms(since_event)),
                ms(expected),
                "{is_near} {since_begin} {since_event}"
            );
        }
    }
}
