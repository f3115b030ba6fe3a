//! What AWS announces for this machine, from its metadata.

use std::time::{Duration, Instant};

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use serde::Deserialize;

use crate::{
    aws::Metadata,
    decision::life::{Cause, Ending, Notice},
};

/// How long to wait before trying an absent metadata service again: shortly at first, when it may only be slow.
const FIRST_ABSENCE: Duration = Duration::from_secs(15);
const ABSENCE: Duration = Duration::from_mins(5);

/// How often an absent service is tried shortly afterwards.
const FIRST_TRIES: u32 = 10;

/// A session with the metadata service, and the last notice.
#[derive(Debug, Default)]
pub(super) struct Machine {
    session: Option<Metadata>,
    /// When the service was last found to be absent; `None` once it has answered.
    absent_since: Option<Instant>,
    /// Before the service answered for the first time.
    tries: u32,
    exists: bool,
    notice: Option<Notice>,
    /// When the announced Spot interruption comes at the latest.
    spot_end: Option<Instant>,
}

impl Machine {
    /// The service, if this machine has one.
    pub(super) fn metadata(&mut self) -> Option<&Metadata> {
        let pause = if self.tries < FIRST_TRIES { FIRST_ABSENCE } else { ABSENCE };
        if self.session.is_none() && self.absent_since.is_none_or(|at| at.elapsed() >= pause) {
            self.session = Metadata::connect();
            self.tries = self.tries.saturating_add(1);
            self.exists |= self.session.is_some();
            self.absent_since = (!self.exists).then(Instant::now);
        }
        self.session.as_ref()
    }

    /// The notice that applies now. While the service fails, it is the last one.
    pub(super) fn notice(&mut self) -> Option<Notice> {
        if let Some(metadata) = self.metadata() {
            match read(metadata) {
                Ok(notice) => self.notice = notice,
                // Its token may have expired.
                Err(_) => self.session = None,
            }
        }
        self.count_down(Instant::now());
        self.notice.clone()
    }

    /// By a wrong clock, or while the service fails, the two minutes would not pass.
    fn count_down(&mut self, now: Instant) {
        self.spot_end = match &mut self.notice {
            Some(Notice::ScaleIn(Some(ending)) | Notice::Ending(ending))
                if ending.cause == Cause::SpotInterruption =>
            {
                let latest = now + ending.time_left;
                let end = self.spot_end.map_or(latest, |known| known.min(latest));
                ending.time_left = end.saturating_duration_since(now);
                Some(end)
            }
            _ => None,
        };
    }
}

#[derive(Deserialize)]
struct SpotAction {
    action: String,
    time: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    code: String,
    not_before: String,
    state: String,
}

/// AWS announces a Spot interruption this long before it. If the interruption seems to be further away, this machine's clock is behind.
const SPOT_NOTICE: Duration = Duration::from_mins(2);

fn read(metadata: &Metadata) -> Result<Option<Notice>, String> {
    let spot = metadata.find("spot/instance-action")?;
    let spot = spot.as_deref().and_then(spot_interruption);
    let target = metadata.find("autoscaling/target-lifecycle-state")?;
    match (target.as_deref(), spot) {
        (Some("Terminated" | "Warmed:Terminated"), spot) => {
            // The group terminates also an instance that is only stopped.
            let ending = spot.map(|ending| Ending { comes_back: false, ..ending });
            return Ok(Some(Notice::ScaleIn(ending)));
        }
        (Some(target), _) if target.starts_with("Warmed:") => return Ok(Some(Notice::WarmPool)),
        (_, Some(ending)) => return Ok(Some(Notice::Ending(ending))),
        (_, None) => {}
    }
    let events = metadata.find("events/maintenance/scheduled")?;
    Ok(events.as_deref().and_then(retirement).map(Notice::Ending))
}

fn spot_interruption(text: &str) -> Option<Ending> {
    let SpotAction { action, time } = serde_json::from_str(text).ok()?;
    let comes_back = action != "terminate";
    let time_left = until(time).min(SPOT_NOTICE);
    Some(Ending { cause: Cause::SpotInterruption, time_left, comes_back })
}

/// The first event that stops the machine or ends it. Others only reboot it.
fn retirement(text: &str) -> Option<Ending> {
    let events: Vec<Event> = serde_json::from_str(text).ok()?;
    let ends = events.into_iter().filter(|event| {
        event.state == "active"
            && matches!(event.code.as_str(), "instance-retirement" | "instance-stop")
    });
    let ends = ends.filter_map(|Event { code, not_before, .. }| {
        let time = DateTimeParser::new().parse_timestamp(&not_before).ok()?;
        let comes_back = code == "instance-stop";
        Some(Ending { cause: Cause::Retirement, time_left: until(time), comes_back })
    });
    ends.min_by_key(|ending| ending.time_left)
}

fn until(time: Timestamp) -> Duration {
    time.duration_since(Timestamp::now()).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spot_interruption_comes_closer_even_by_a_wrong_clock() {
        let (mut machine, since) = (Machine::default(), Instant::now());
        let spot = |seconds| Ending {
            cause: Cause::SpotInterruption,
            time_left: Duration::from_secs(seconds),
            comes_back: false,
        };
        let retirement = Ending { cause: Cause::Retirement, ..spot(7200) };
        for (second, notice, time_left) in [
            (0, Some(Notice::Ending(spot(120))), Some(120)),
            (50, Some(Notice::Ending(spot(120))), Some(70)),
            (60, Some(Notice::ScaleIn(Some(spot(120)))), Some(60)),
            (70, Some(Notice::Ending(spot(40))), Some(40)),
            (80, Some(Notice::Ending(spot(40))), Some(30)),
            (130, Some(Notice::Ending(spot(120))), Some(0)),
            (140, None, None),
            (150, Some(Notice::Ending(spot(120))), Some(120)),
            (160, Some(Notice::Ending(retirement.clone())), Some(7200)),
            // It was put off.
            (170, Some(Notice::Ending(retirement)), Some(7200)),
            (180, Some(Notice::ScaleIn(None)), None),
        ] {
            machine.notice = notice;
            machine.count_down(since + Duration::from_secs(second));
            let ending = machine.notice.as_ref().and_then(Notice::ending);
            assert_eq!(ending.map(|ending| ending.time_left.as_secs()), time_left, "{second} s");
        }
        machine.notice = Some(Notice::Ending(spot(120)));
        for (second, time_left) in [(200, 120), (230, 90)] {
            // The service fails, and the notice stays.
            machine.count_down(since + Duration::from_secs(second));
            let ending = machine.notice.as_ref().and_then(Notice::ending).unwrap();
            assert_eq!(ending.time_left.as_secs(), time_left);
        }
    }

    #[test]
    fn announcements_of_aws_are_read() {
        let minutes = |ending: Option<Ending>| {
            ending.map(|ending| (ending.time_left.as_secs().div_ceil(60), ending.comes_back))
        };
        let spot = |action: &str, minutes: i64| {
            let time = Timestamp::now() + jiff::SignedDuration::from_mins(minutes);
            format!(r#"{{"action": "{action}", "time": "{time}"}}"#)
        };
        for (text, expected) in [
            (spot("terminate", 1), Some((1, false))),
            (spot("stop", 1), Some((1, true))),
            (spot("hibernate", 1), Some((1, true))),
            (spot("terminate", -60), Some((0, false))),
            // By a wrong clock.
            (spot("terminate", 3), Some((2, false))),
            (spot("terminate", 25 * 60), Some((2, false))),
            ("{}".to_owned(), None),
            ("<html>".to_owned(), None),
        ] {
            assert_eq!(minutes(spot_interruption(&text)), expected, "{text}");
        }
        let hour = |ending: Option<Ending>| {
            ending.map(|ending| (ending.time_left.as_secs().div_ceil(3600), ending.comes_back))
        };
        let at = |hours| {
            (Timestamp::now() + Duration::from_hours(hours)).strftime("%d %b %Y %H:%M:%S GMT")
        };
        let event = |code: &str, state: &str, hours| {
            format!(
                r#"{{"Code": "{code}", "NotBefore": "{}", "State": "{state}", "EventId": "e"}}"#,
                at(hours)
            )
        };
        for (events, expected) in [
            (vec![event("instance-retirement", "active", 2)], Some((2, false))),
            (vec![event("instance-stop", "active", 2)], Some((2, true))),
            (
                vec![
                    event("instance-stop", "active", 5),
                    event("instance-retirement", "active", 2),
                ],
                Some((2, false)),
            ),
            (vec![event("instance-retirement", "completed", 2)], None),
            (vec![event("instance-retirement", "canceled", 2)], None),
            (
                vec![event("system-reboot", "active", 2), event("instance-reboot", "active", 2)],
                None,
            ),
            (vec![], None),
        ] {
            let text = format!("[{}]", events.join(","));
            assert_eq!(hour(retirement(&text)), expected, "{text}");
        }
    }
}
