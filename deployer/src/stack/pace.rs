//! When to look at a changing stack again: seldom while its resources are at work, and often once they are done, for then it
//! is a matter of a second or two. So its end is noticed sooner, and with fewer calls, than by looking in equal steps.

use std::time::Duration;

use super::{Event, Progress};

/// The least between two looks: much is done in a moment.
const FIRST: Duration = Duration::from_millis(250);

/// The most between two looks.
const FAR: Duration = Duration::from_millis(3250);
const UNKNOWN: Duration = Duration::from_secs(2);

/// The least between two looks near the end. `CloudFormation` takes some two seconds from the last resource to the stack.
const NEAR: Duration = Duration::from_millis(750);

/// How far the end is, as far as the events tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// Nobody knows what there is to do.
    Unknown,
    /// Resources are at work, or are still to come.
    Far,
    /// All that was to be done is done, as it seems.
    Near,
}

/// How far the end is of a change that comes to so many resources at least, after these events of the stack and its resources.
pub fn distance(expected: Option<usize>, progress: &Progress, stack: Option<&Event>) -> Distance {
    let status = stack.map_or("", |event| event.status.as_str());
    let done = progress.done();
    match expected {
        _ if status.ends_with("_CLEANUP_IN_PROGRESS") => Distance::Near,
        // On the way back, other resources are done than on the way there.
        _ if status.contains("ROLLBACK") => Distance::Unknown,
        None => Distance::Unknown,
        Some(expected) if done >= expected.max(1) && done == progress.rows().len() => {
            Distance::Near
        }
        Some(_) => Distance::Far,
    }
}

/// How long to wait before the next look, with the time since the watch began, and since the end has been near.
///
/// The pauses grow from the beginning on, and from where the end is near anew: a stack that then takes its time, as one whose
/// alarms are watched first, is not asked many times in vain.
pub fn pause(distance: Distance, since_begin: Duration, since_near: Duration) -> Duration {
    match distance {
        Distance::Unknown => (since_begin * 2).clamp(FIRST, UNKNOWN),
        Distance::Far => (since_begin * 2).clamp(FIRST, FAR),
        Distance::Near => (since_near / 2).clamp(NEAR, FAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(resource: &str, status: &str) -> Event {
        Event { resource: resource.to_owned(), status: status.to_owned(), ..Event::default() }
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
        for (distance, since_begin, since_near, is) in [
            (Distance::Far, 0, 0, 250),
            (Distance::Far, 750, 0, 1500),
            (Distance::Far, 20_000, 0, 3250),
            (Distance::Unknown, 20_000, 0, 2000),
            (Distance::Near, 20_000, 0, 750),
            (Distance::Near, 24_000, 4000, 2000),
            (Distance::Near, 60_000, 40_000, 3250),
        ] {
            assert_eq!(
                pause(distance, ms(since_begin), ms(since_near)),
                ms(is),
                "{distance:?} {since_begin} {since_near}"
            );
        }
    }
}
