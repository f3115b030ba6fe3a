//! The credentials, and their renewal when they expire during a deployment.

mod sources;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_config::Region;
use aws_credential_types::{
    Credentials,
    provider::{error::CredentialsError, future},
};
use aws_sdk_sts::{
    config::{
        ConfigBag, Intercept, ProvideCredentials, RuntimeComponents, SharedHttpClient,
        http::HttpResponse,
        interceptors::{
            BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef, InterceptorContext,
        },
        retry::{ClassifyRetry, RetryAction},
    },
    error::BoxError,
};
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use tokio::sync::Mutex;

use self::sources::Sources;
use super::{
    access::Access,
    error::{Expired, explain_credentials, has_code},
};
use crate::failure::Failure;

/// Credentials that expire within this time are renewed before they are used.
const SPARE: Duration = Duration::from_mins(2);

/// Credentials that are read again from their sources when AWS refuses them as expired: someone may have signed in again, or a
/// tool may have renewed them in the profile. The SDK would go on with the old ones.
#[derive(Clone, Debug)]
pub struct Renewed {
    sources: Arc<Sources>,
    /// The lock is held while credentials are renewed, so that parallel calls renew them once.
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Those in use.
    current: Option<Credentials>,
    /// Those that AWS refused as expired.
    refused: Option<Credentials>,
}

impl Renewed {
    pub fn new(access: &Access, region: &Region, http: SharedHttpClient) -> Self {
        let sources = Sources { access: access.clone(), region: region.clone(), http };
        Self { sources: Arc::new(sources), known: Arc::default() }
    }

    /// Credentials that are valid for some minutes at least.
    pub async fn current(&self) -> Result<Credentials, Failure> {
        self.get().await.map_err(|error| explain_credentials(&error))
    }

    async fn get(&self) -> Result<Credentials, CredentialsError> {
        let Known { current, refused } = &mut *self.known.lock().await;
        let is_refused = |credentials: &Credentials| {
            refused.as_ref().is_some_and(|refused| {
                (refused.access_key_id(), refused.session_token())
                    == (credentials.access_key_id(), credentials.session_token())
            })
        };
        let known = current.as_ref().filter(|known| !is_refused(known));
        if let Some(known) = known.filter(|known| is_valid_for(known, SPARE)) {
            return Ok(known.clone());
        }
        let found = match (self.sources.load().await, known) {
            (Ok(found), _) => found,
            // They are valid for another moment, and the next call tries again.
            (Err(_), Some(known)) if is_valid_for(known, Duration::ZERO) => {
                return Ok(known.clone());
            }
            (Err(error), _) => return Err(error),
        };
        if is_refused(&found) {
            return Err(CredentialsError::provider_error(Expired));
        }
        *current = Some(found.clone());
        Ok(found)
    }
}

fn is_valid_for(credentials: &Credentials, time: Duration) -> bool {
    credentials.expiry().is_none_or(|end| end > SystemTime::now() + time)
}

impl ProvideCredentials for Renewed {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.get())
    }
}

/// The signature of an attempt, which contains the access key.
#[derive(Debug)]
struct SignedBy(String);

impl Storable for SignedBy {
    type Storer = StoreReplace<Self>;
}

/// Notes credentials that AWS refuses as expired. It compares them with those of the attempt, as they may have been renewed since.
impl Intercept for Renewed {
    fn name(&self) -> &'static str {
        "expired credentials"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(signature) = context.request().headers().get("authorization") {
            config.interceptor_state().store_put(SignedBy(signature.to_owned()));
        }
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // If the lock is held, they are being renewed already.
        if context.response().is_some_and(is_expired)
            && let Some(SignedBy(signature)) = config.load::<SignedBy>()
            && let Ok(mut known) = self.known.try_lock()
            && let Some(current) = &known.current
            && signature.contains(current.access_key_id())
        {
            known.refused = Some(current.clone());
        }
        Ok(())
    }
}

/// Retries a call whose credentials AWS refused as expired.
impl ClassifyRetry for Renewed {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let expired = context.response().filter(|response| is_expired(response));
        expired.map_or(RetryAction::NoActionIndicated, |_| RetryAction::server_error())
    }

    fn name(&self) -> &'static str {
        "expired credentials"
    }
}

fn is_expired(response: &HttpResponse) -> bool {
    response.status().is_client_error()
        && ["ExpiredToken", "RequestExpired"].iter().any(|code| has_code(response, code))
}
