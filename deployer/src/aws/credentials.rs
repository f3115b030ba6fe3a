//! The credentials, and their renewal when they expire during a deployment.

use std::sync::{Arc, PoisonError};

use aws_config::{
    Region, default_provider::credentials::DefaultCredentialsChain,
    profile::ProfileFileCredentialsProvider, provider_config::ProviderConfig,
};
use aws_credential_types::{
    Credentials,
    provider::{error::CredentialsError, future},
};
use aws_runtime::env_config::file::EnvConfigFiles;
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
use aws_types::os_shim_internal::{Env, Fs};
use cbbootstrap_cli::environment::variable;
use thiserror::Error;

use super::{
    Access,
    error::{causes, chain, has_code},
};
use crate::failure::Failure;

/// Credentials that expire within this time are renewed before they are used.
const SPARE: std::time::Duration = std::time::Duration::from_mins(2);

const SIGN_IN: &str = "sign in (`aws sso login`, `aws configure`), choose a profile with `--profile`, or set \
     `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`";

/// AWS refused credentials as expired, and their sources have no others.
#[derive(Debug, Error)]
#[error("they have expired")]
struct Expired;

/// Credentials that are read again from their sources when AWS refuses them as expired: somebody may have signed in again, or a
/// tool may have renewed them in the profile. The SDK would go on with the old ones.
#[derive(Clone, Debug)]
pub struct Renewed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    access: Access,
    region: Region,
    http: SharedHttpClient,
    /// Those in use. The lock is held while they are renewed, so that parallel calls renew them once.
    current: tokio::sync::Mutex<Option<Credentials>>,
    /// Those that AWS refused as expired.
    refused: std::sync::Mutex<Option<Credentials>>,
}

impl Renewed {
    pub fn new(access: &Access, region: &Region, http: SharedHttpClient) -> Self {
        Self(Arc::new(Inner {
            access: access.clone(),
            region: region.clone(),
            http,
            current: tokio::sync::Mutex::default(),
            refused: std::sync::Mutex::default(),
        }))
    }

    /// Credentials that are valid for some minutes at least.
    pub async fn current(&self) -> Result<Credentials, Failure> {
        self.get().await.map_err(|error| failure(&error))
    }

    async fn get(&self) -> Result<Credentials, CredentialsError> {
        let mut current = self.0.current.lock().await;
        let refused = self.refused().clone();
        let is_refused = |credentials: &Credentials| {
            refused.as_ref().is_some_and(|refused| {
                (refused.access_key_id(), refused.session_token())
                    == (credentials.access_key_id(), credentials.session_token())
            })
        };
        let is_valid = |credentials: &Credentials| {
            credentials.expiry().is_none_or(|end| end > std::time::SystemTime::now() + SPARE)
        };
        if let Some(known) = current.as_ref().filter(|c| is_valid(c) && !is_refused(c)) {
            return Ok(known.clone());
        }
        let found = match (self.load().await, current.as_ref()) {
            (Ok(found), _) => found,
            // They are valid for another moment, and the next call tries again.
            (Err(_), Some(known)) if is_current(known) && !is_refused(known) => {
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

    async fn load(&self) -> Result<Credentials, CredentialsError> {
        let Inner { access, region, http, .. } = self.0.as_ref();
        // A new one each time, as it caches the profiles.
        let sources = ProviderConfig::default()
            .with_http_client(http.clone())
            .with_region(Some(region.clone()));
        // A profile that the user names takes precedence over keys in the environment; the SDK does it the other way round.
        if let Some(profile) = &access.profile {
            let provider = ProfileFileCredentialsProvider::builder()
                .profile_name(profile)
                .configure(&sources)
                .build();
            return provider.provide_credentials().await;
        }
        // The SDK would use a key with a byte-order mark or white space as it is.
        if let Some(credentials) = in_environment() {
            return Ok(credentials);
        }
        let mut provider =
            DefaultCredentialsChain::builder().configure(sources).region(region.clone());
        if let Some(profile) = access.profile() {
            provider = provider.profile_name(&profile);
        }
        provider.build().await.provide_credentials().await
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, Option<Credentials>> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_current(credentials: &Credentials) -> bool {
    credentials.expiry().is_none_or(|end| end > std::time::SystemTime::now())
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
        let signature = context.request().headers().get("authorization");
        if let Some(signature) = signature {
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
            && let Ok(current) = self.0.current.try_lock()
            && let Some(current) = current.as_ref()
            && signature.contains(current.access_key_id())
        {
            *self.refused() = Some(current.clone());
        }
        Ok(())
    }
}

/// Retries a call whose credentials AWS refused as expired.
impl ClassifyRetry for Renewed {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        if context.response().is_some_and(is_expired) {
            RetryAction::server_error()
        } else {
            RetryAction::NoActionIndicated
        }
    }

    fn name(&self) -> &'static str {
        "expired credentials"
    }
}

fn is_expired(response: &HttpResponse) -> bool {
    response.status().is_client_error()
        && ["ExpiredToken", "RequestExpired"].iter().any(|code| has_code(response, code))
}

fn in_environment() -> Option<Credentials> {
    let mut credentials = Credentials::builder()
        .access_key_id(variable("AWS_ACCESS_KEY_ID")?)
        .secret_access_key(variable("AWS_SECRET_ACCESS_KEY")?)
        .provider_name("environment");
    credentials.set_session_token(variable("AWS_SESSION_TOKEN"));
    credentials.set_account_id(variable("AWS_ACCOUNT_ID").map(Into::into));
    Some(credentials.build())
}

/// The profile that is chosen must exist; the SDK would use other credentials.
pub async fn check_profile(access: &Access) -> anyhow::Result<()> {
    let Some(name) = access.chosen_profile() else {
        return Ok(());
    };
    let profiles =
        aws_config::profile::load(&Fs::real(), &Env::real(), &EnvConfigFiles::default(), None)
            .await;
    let profiles = profiles.map_err(|error| {
        Failure::new(format!("cannot read the AWS profiles: {}", causes(&error)))
    })?;
    if profiles.get_profile(&name).is_some() {
        return Ok(());
    }
    let mut known = profiles.profiles().collect::<Vec<_>>();
    known.sort_unstable();
    let hint = match known.as_slice() {
        [] => "there are no profiles: `aws configure --profile NAME` makes one".to_owned(),
        known => format!("there are: {}", known.join(", ")),
    };
    Err(Failure::new(format!("there is no AWS profile `{name}`")).hint(hint).into())
}

pub fn expired() -> Failure {
    Failure::new("the AWS credentials have expired").hint(SIGN_IN)
}

/// For a refusal without a reason.
pub fn probably_expired() -> Failure {
    Failure::new("AWS refused it without a reason; most likely, the AWS credentials have expired")
        .hint(SIGN_IN)
}

pub fn not_accepted(reason: &str) -> Failure {
    Failure::new(format!("AWS does not accept the credentials ({reason})")).hint(SIGN_IN)
}

pub fn failure(error: &CredentialsError) -> Failure {
    if chain(error).any(<dyn std::error::Error>::is::<Expired>) {
        return expired();
    }
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            Failure::new("there are no AWS credentials").hint(SIGN_IN)
        }
        _ => Failure::new(format!("cannot get AWS credentials: {}", causes(error))).hint(SIGN_IN),
    }
}
