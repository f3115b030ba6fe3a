//! AWS's clock, as its answers show it.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_sts::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, http::HttpResponse,
        interceptors::BeforeDeserializationInterceptorContextRef,
    },
    error::BoxError,
};
use jiff::{SignedDuration, Timestamp, fmt::rfc2822};

/// How far AWS's clock is ahead of this machine's, by the last answer. A refusal shows the time, too.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Mutex<Option<SignedDuration>>>);

impl Clock {
    /// `None` before the first answer.
    pub fn ahead(&self) -> Option<SignedDuration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by AWS's clock, or by this machine's before the first answer.
    pub fn now(&self) -> Timestamp {
        let (now, ahead) = (Timestamp::now(), self.ahead().unwrap_or_default());
        now.checked_add(ahead).unwrap_or(now)
    }
}

impl Intercept for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(ahead) = read_ahead(context.response()) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ahead);
        }
        Ok(())
    }
}

/// How far the clock of the server that gave this answer is ahead of this machine's.
pub fn read_ahead(answer: &HttpResponse) -> Option<SignedDuration> {
    let date = rfc2822::parse(answer.headers().get("date")?).ok()?;
    Some(least_ahead(date.timestamp(), Timestamp::now()))
}

/// The least difference that explains a date, which has no fraction of a second.
fn least_ahead(date: Timestamp, now: Timestamp) -> SignedDuration {
    let ahead = date.duration_since(now);
    if ahead.is_negative() {
        (ahead + SignedDuration::from_secs(1)).min(SignedDuration::ZERO)
    } else {
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_without_fractions_do_not_move_the_clock() {
        let now = Timestamp::from_millisecond(1_700_000_000_300).unwrap();
        for (seconds, expected) in [(0, 0), (-1, -300), (-600, -599_300), (1, 700), (600, 599_700)]
        {
            let date = Timestamp::from_second(1_700_000_000 + seconds).unwrap();
            assert_eq!(least_ahead(date, now).as_millis(), expected, "{seconds}");
        }
    }
}
