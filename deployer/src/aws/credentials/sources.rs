//! The sources of credentials, in the order of `docs/operations.md`.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use aws_config::{
    Region, ecs::EcsCredentialsProvider, imds::credentials::ImdsCredentialsProvider,
    meta::credentials::CredentialsProviderChain, profile::ProfileFileCredentialsProvider,
    provider_config::ProviderConfig, sso::SsoCredentialsProvider,
    web_identity_token::WebIdentityTokenCredentialsProvider,
};
use aws_credential_types::{
    Credentials, attributes::AccountId, provider::SharedCredentialsProvider,
    provider::error::CredentialsError,
};
use aws_runtime::auth::sigv4::SCHEME_ID;
use aws_sdk_sts::{
    config::{ConfigBag, ProvideCredentials, RuntimeComponents, SharedHttpClient},
    error::BoxError,
};
use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnectorSettings, SharedHttpConnector},
    identity::ResolveIdentity,
    runtime_components::GetIdentityResolver,
};
use cbbootstrap_cli::signer::check_keys;

use crate::aws::{
    access::{Access, check_pair, environment_keys},
    profiles::{SSO_SOURCE, SsoSession},
};

/// The sources of credentials if the environment and the profile have none, for messages.
const OTHER_SOURCES: &str = "the container, the web identity or the instance metadata";

#[derive(Debug)]
pub struct Sources {
    pub access: Access,
    pub region: Region,
    pub http: SharedHttpClient,
}

impl Sources {
    /// Credentials from the first source that has some.
    pub async fn load(&self) -> Result<Credentials, CredentialsError> {
        let Self { access, region, http } = self;
        let profiles = access.profiles().await.map_err(CredentialsError::provider_error)?;
        let environment = environment_keys();
        if let Some(keys) = environment.as_ref().filter(|_| !access.prefers_profile()) {
            return checked(keys, "the environment");
        }
        profiles.check_credentials().map_err(CredentialsError::provider_error)?;
        if !profiles.has_credentials() {
            // The SDK would use the credentials of this machine.
            let pair = check_pair("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN");
            pair.map_err(CredentialsError::provider_error)?;
        }
        let source = profiles.source().unwrap_or_else(|| OTHER_SOURCES.to_owned());
        let http = CheckedClient { client: http.clone(), source: source.clone() };
        let http = SharedHttpClient::new(http);
        // A new one each time, as it caches the profiles.
        let config = access.load(&profiles, http.clone()).await;
        let config = config.map_err(CredentialsError::provider_error)?;
        let mut settings = ProviderConfig::default()
            .with_http_client(http)
            .with_region(Some(region.clone()))
            .with_use_fips(config.use_fips())
            .with_use_dual_stack(config.use_dual_stack());
        if let Some(retries) = config.retry_config() {
            settings = settings.with_retry_config(retries.clone());
        }
        if let Some(timeouts) = config.timeout_config() {
            settings = settings.with_timeout_config(timeouts.clone());
        }
        let provider = if access.profile.is_none() && profiles.sso.is_none() {
            // The SDK's own chain. It would prefer keys in the environment to a profile that the user names, and takes no other source of
            // a profile's keys.
            config
                .credentials_provider()
                .ok_or_else(|| CredentialsError::not_loaded("no sources"))?
        } else if profiles.has_credentials() {
            let mut provider = ProfileFileCredentialsProvider::builder()
                .profile_files(profiles.files)
                .profile_name(&profiles.selected)
                .configure(&settings);
            if let Some(keys) = environment {
                provider = provider.with_custom_provider("Environment", keys);
            }
            if let Some(session) = profiles.sso {
                provider = provider.with_custom_provider(SSO_SOURCE, sso(session, &settings));
            }
            SharedCredentialsProvider::new(provider.build())
        } else {
            // As for a profile that only names a region.
            SharedCredentialsProvider::new(elsewhere(&settings))
        };
        let found = provider.provide_credentials().await?;
        checked(&found, &source)
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
        // The keys for a role are known already, so nothing has to be waited for.
        if let Some(resolver) = components.identity_resolver(SCHEME_ID)
            && let Poll::Ready(identity) = pin!(resolver.resolve_identity(components, config))
                .poll(&mut Context::from_waker(Waker::noop()))
            && let Some(keys) = identity?.data::<Credentials>()
        {
            check_keys(keys, &self.source)?;
        }
        Ok(())
    }
}
