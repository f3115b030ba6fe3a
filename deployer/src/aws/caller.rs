//! The caller's credentials, and where its calls go.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_sts::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextRef,
    },
    error::BoxError,
};
use aws_types::endpoint_config::EndpointUrl;
use axum::http::Uri;
use jiff::Timestamp;

use super::{Aws, Identity};

/// Where a call goes.
#[derive(Clone, Debug)]
pub struct Destination {
    pub url: Uri,
    /// Whether a setting leads there instead of to AWS.
    pub is_custom: bool,
}

impl Aws {
    pub async fn credentials_expiry(&self) -> anyhow::Result<Option<Timestamp>> {
        let expiry = self.credentials.current().await?.expiry();
        Ok(expiry.and_then(|time| Timestamp::try_from(time).ok()))
    }

    /// The identity, and where the call went; `None` if there was none.
    pub async fn identity_and_destination(
        &self,
    ) -> (anyhow::Result<Identity>, Option<Destination>) {
        let destination = Noted::default();
        let call = self.sts.get_caller_identity().customize().interceptor(destination.clone());
        let identity = Identity::read(call.send().await);
        let destination = destination.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        (identity, destination)
    }
}

/// Notes the URL that the SDK chooses by region, partition, profile and variables.
#[derive(Clone, Debug, Default)]
struct Noted(Arc<Mutex<Option<Destination>>>);

impl Intercept for Noted {
    fn name(&self) -> &'static str {
        "destination"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let url = context.request().uri().parse()?;
        let is_custom = config.load::<EndpointUrl>().is_some();
        let mut destination = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *destination = Some(Destination { url, is_custom });
        Ok(())
    }
}
