//! The caller's credentials, and AWS's clock.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_sts::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::BeforeDeserializationInterceptorContextRef,
    },
    error::BoxError,
};
use jiff::{SignedDuration, Timestamp, fmt::rfc2822};

use super::{Aws, Identity};

impl Aws {
    pub async fn credentials_expiry(&self) -> anyhow::Result<Option<Timestamp>> {
        let expiry = self.credentials.current().await?.expiry();
        Ok(expiry.and_then(|time| Timestamp::try_from(time).ok()))
    }

    /// The identity, and how far AWS's clock is ahead of this machine's. A refusal tells the time, too.
    pub async fn identity_and_clock(&self) -> (anyhow::Result<Identity>, Option<SignedDuration>) {
        let clock = Clock::default();
        let call = self.sts.get_caller_identity().customize().interceptor(clock.clone());
        let identity = Identity::read(call.send().await);
        let ahead = *clock.0.lock().unwrap_or_else(PoisonError::into_inner);
        (identity, ahead)
    }
}

/// Compares the `Date` header of an answer with this machine's clock.
#[derive(Clone, Debug, Default)]
struct Clock(Arc<Mutex<Option<SignedDuration>>>);

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
        let date = context.response().headers().get("date");
        if let Some(date) = date.and_then(|date| rfc2822::parse(date).ok()) {
            let ahead = date.timestamp().duration_since(Timestamp::now());
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ahead);
        }
        Ok(())
    }
}
