//! The caller's credentials, and where its calls go.

use std::sync::{Arc, OnceLock};

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
        let noted = Noted::default();
        let call = self.sts.get_caller_identity().customize().interceptor(noted.clone());
        (Identity::read(call.send().await), noted.0.get().cloned())
    }
}

/// Notes the URL that the SDK chooses by region, partition, profile and variables.
#[derive(Clone, Debug, Default)]
struct Noted(Arc<OnceLock<Destination>>);

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
        // Each attempt goes to the same one.
        let _ = self.0.set(Destination { url, is_custom });
        Ok(())
    }
}
