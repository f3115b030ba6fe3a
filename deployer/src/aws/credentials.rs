//! The credentials, and their renewal when they expire during a deployment.

use std::{
    pin::pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
};

use aws_config::{
    Region, ecs::EcsCredentialsProvider, imds::credentials::ImdsCredentialsProvider,
    meta::credentials::CredentialsProviderChain, profile::ProfileFileCredentialsProvider,
    provider_config::ProviderConfig, sso::SsoCredentialsProvider,
    web_identity_token::WebIdentityTokenCredentialsProvider,
};
use aws_credential_types::{
    Credentials,
    attributes::AccountId,
    provider::{error::CredentialsError, future},
};
use aws_runtime::auth::sigv4::SCHEME_ID;
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
use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnectorSettings, SharedHttpConnector},
    identity::ResolveIdentity,
    runtime_components::GetIdentityResolver,
};
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use cbbootstrap_cli::signer::check_keys;

use super::{
    access::{Access, environment_keys},
    error::{Expired, explain_credentials, has_code},
    profiles::{SSO_SOURCE, SsoSession},
};
use crate::failure::Failure;

/// Credentials that expire within this time are renewed before they are used.
const SPARE: std::time::Duration = std::time::Duration::from_mins(2);

/// The sources of credentials if the environment and the profile have none, for messages.
const OTHER_SOURCES: &str = "the container, the web identity or the instance metadata";

/// Credentials that are read again from their sources when AWS refuses them as expired: someone may have signed in again, or a
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
        self.get().await.map_err(|error| explain_credentials(&error))
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
        let profiles = access.profiles().await.map_err(CredentialsError::provider_error)?;
        if access.prefers_profile() {
            profiles.check_credentials().map_err(CredentialsError::provider_error)?;
        }
        let environment = environment_keys();
        if let Some(keys) = environment.as_ref().filter(|_| !access.prefers_profile()) {
            return checked(keys, "the environment");
        }
        let source = profiles.source().unwrap_or_else(|| OTHER_SOURCES.to_owned());
        let http = CheckedClient { client: http.clone(), source: source.clone() };
        let http = SharedHttpClient::new(http);
        // A new one each time, as it caches the profiles.
        let config = access.load(&profiles, http.clone()).await;
        let config = config.map_err(CredentialsError::provider_error)?;
        // The SDK's own chain begins with keys in the environment rather than a profile that the user names, and takes no other
        // source of a profile's keys.
        let credentials = if access.profile.is_some() || profiles.sso.is_some() {
            let mut sources = ProviderConfig::default()
                .with_http_client(http)
                .with_region(Some(region.clone()))
                .with_use_fips(config.use_fips())
                .with_use_dual_stack(config.use_dual_stack());
            if let Some(retries) = config.retry_config() {
                sources = sources.with_retry_config(retries.clone());
            }
            if let Some(timeouts) = config.timeout_config() {
                sources = sources.with_timeout_config(timeouts.clone());
            }
            if profiles.has_credentials() {
                let mut provider = ProfileFileCredentialsProvider::builder()
                    .profile_files(profiles.files.clone())
                    .profile_name(&profiles.selected)
                    .configure(&sources);
                if let Some(keys) = environment {
                    provider = provider.with_custom_provider("Environment", keys);
                }
                if let Some(session) = profiles.sso {
                    provider = provider.with_custom_provider(SSO_SOURCE, sso(session, &sources));
                }
                provider.build().provide_credentials().await?
            } else {
                // As for a profile that only names a region.
                elsewhere(&sources).provide_credentials().await?
            }
        } else {
            let provider = config.credentials_provider();
            let provider = provider.ok_or_else(|| CredentialsError::not_loaded("no sources"))?;
            provider.provide_credentials().await?
        };
        checked(&credentials, &source)
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, Option<Credentials>> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sso(session: SsoSession, config: &ProviderConfig) -> SsoCredentialsProvider {
    SsoCredentialsProvider::builder()
        .configure(config)
        .session_name(session.name)
        .region(Region::new(session.region))
        .start_url(session.start_url)
        .account_id(session.account_id)
        .role_name(session.role_name)
        .build()
}

/// The SDK's sources besides the environment's keys and the profile.
fn elsewhere(config: &ProviderConfig) -> CredentialsProviderChain {
    let web_identity = WebIdentityTokenCredentialsProvider::builder().configure(config).build();
    let container = EcsCredentialsProvider::builder().configure(config).build();
    let instance = ImdsCredentialsProvider::builder().configure(config).build();
    CredentialsProviderChain::first_try("WebIdentityToken", web_identity)
        .or_else("EcsContainer", container)
        .or_else("Ec2InstanceMetadata", instance)
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

/// Credentials that can be signed with. Only the white space around them is not part of them.
fn checked(credentials: &Credentials, source: &str) -> Result<Credentials, CredentialsError> {
    let (id, secret) = (credentials.access_key_id().trim(), credentials.secret_access_key().trim());
    let token = credentials.session_token().map(str::trim).filter(|token| !token.is_empty());
    let mut checked = Credentials::builder().provider_name("checked");
    // It becomes part of host names. Without it, the endpoint is the region's.
    let is_number = |id: &&AccountId| id.as_str().bytes().all(|byte| byte.is_ascii_digit());
    checked.set_account_id(credentials.account_id().filter(is_number).cloned());
    checked.set_expiry(credentials.expiry());
    checked.set_session_token(token.map(ToOwned::to_owned));
    let checked = checked.access_key_id(id).secret_access_key(secret).build();
    check_keys(&checked, source).map_err(CredentialsError::provider_error)?;
    Ok(checked)
}

/// The HTTP client of the sources of credentials. The SDK checks the configuration of each call with it, and so it also sees the keys
/// with which a profile takes a role: the SDK would sign with them, and panic if they cannot be in a header.
#[derive(Debug)]
struct CheckedClient {
    client: SharedHttpClient,
    /// Where the keys come from.
    source: String,
}

impl HttpClient for CheckedClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        self.client.http_connector(settings, components)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(resolver) = components.identity_resolver(SCHEME_ID) else {
            return Ok(());
        };
        let identity = pin!(resolver.resolve_identity(components, config));
        // The keys for a role are known already, so nothing has to be waited for.
        let Poll::Ready(identity) = identity.poll(&mut Context::from_waker(Waker::noop())) else {
            return Ok(());
        };
        let identity = identity?;
        let Some(keys) = identity.data::<Credentials>() else {
            return Ok(());
        };
        Ok(check_keys(keys, &self.source)?)
    }
}
