//! Which account and region, from options, variables and profiles in the AWS CLI's order of precedence.

use std::{env, time::Duration};

use aws_config::{
    BehaviorVersion, Region, SdkConfig,
    identity::IdentityCache,
    retry::{RetryConfig, RetryMode},
    timeout::TimeoutConfig,
};
use aws_credential_types::{Credentials, attributes::AccountId};
use aws_sdk_sts::config::{AppName, SharedHttpClient};
use axum::http::Uri;
use cbbootstrap_cli::{
    environment::variable,
    signer::{invalid_key, is_printable},
};
use clap::Args;

use super::profiles::{Profiles, Setting};
use crate::{exit::Exit, failure::Failure, network::CONNECT_TIMEOUT, values::REGION_NAME};

/// More than the SDK's default of 3: throttling should not fail a deployment.
const ATTEMPTS: u32 = 6;

const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// In order of precedence.
const REGION_VARIABLES: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
const PROFILE_VARIABLES: [&str; 2] = ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"];

const KEY_VARIABLES: [&str; 4] =
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", TOKEN_VARIABLES[0], TOKEN_VARIABLES[1]];

/// In the AWS CLI's order of precedence; the SDK knows the second only.
const TOKEN_VARIABLES: [&str; 2] = ["AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"];

/// Prefixes of the variables that the SDK (aws-config 1.13) or this program reads. Any other variable may hold anything, such as a
/// PEM key.
const READ_BY_SDK: [&str; 33] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_ACCOUNT_ID",
    "AWS_AUTH_SCHEME_PREFERENCE",
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_",
    "AWS_DEFAULT_PROFILE",
    "AWS_DEFAULT_REGION",
    "AWS_DISABLE_",
    "AWS_EC2_METADATA_",
    "AWS_ENDPOINT_URL",
    "AWS_EXECUTION_ENV",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LOGIN_",
    "AWS_MAX_ATTEMPTS",
    "AWS_NEW_RETRIES_",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_REQUEST_",
    "AWS_RESPONSE_",
    "AWS_RETRY_MODE",
    "AWS_ROLE_",
    "AWS_S3_",
    "AWS_SDK_",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_SIGV4A_",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// Which account and region.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "AWS")]
pub struct Access {
    /// AWS region [default: AWS_REGION, `cbbootstrap.yaml` or the profile]
    #[arg(long, value_name = "REGION", value_parser = REGION_NAME.parser())]
    pub region: Option<String>,
    /// AWS profile [default: AWS_PROFILE, `cbbootstrap.yaml` or the default credentials]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// The region in `cbbootstrap.yaml`: AWS_REGION and AWS_DEFAULT_REGION take precedence.
    #[arg(long, hide = true, value_parser = REGION_NAME.parser())]
    pub fallback_region: Option<String>,
    /// The profile in `cbbootstrap.yaml`: AWS_PROFILE and keys in the environment take precedence.
    #[arg(long, hide = true)]
    pub fallback_profile: Option<String>,
}

impl Access {
    /// The options that the user gave.
    pub fn options(&self) -> [(&'static str, Option<String>); 2] {
        [("--region", self.region.clone()), ("--profile", self.profile.clone())]
    }

    /// The region that the user, the environment or `cbbootstrap.yaml` names, in this order.
    pub fn region(&self) -> Option<String> {
        self.region
            .clone()
            .or_else(|| REGION_VARIABLES.into_iter().find_map(variable))
            .or_else(|| self.fallback_region.clone())
    }

    /// Checks the name of a region, as it becomes part of host names.
    pub fn check_region(&self, region: &str) -> Result<String, Failure> {
        REGION_NAME.check(region).map_err(|rule| {
            let failure = Failure::new(format!("`{region}` is not an AWS region"))
                .hint(rule)
                .exit(Exit::Usage);
            let holds_it = |name: &&&str| variable(name).as_deref() == Some(region);
            match REGION_VARIABLES.iter().find(holds_it) {
                Some(name) if self.region.is_none() => failure.about(format_args!("`{name}`")),
                _ => failure,
            }
        })
    }

    /// The profile that the user or the environment names.
    pub fn named_profile(&self) -> Option<String> {
        self.profile.clone().or_else(|| PROFILE_VARIABLES.into_iter().find_map(variable))
    }

    /// The profile that the user, the environment or, unless the environment has keys, `cbbootstrap.yaml` names.
    pub fn chosen_profile(&self) -> Option<String> {
        let fallback = || self.fallback_profile.clone().filter(|_| !has_keys());
        self.named_profile().or_else(fallback)
    }

    /// Whether credentials come from a profile, if they are in one: a profile that the user names takes precedence over keys in
    /// the environment.
    pub fn prefers_profile(&self) -> bool {
        self.profile.is_some() || !has_keys()
    }

    /// The profiles, after a check that a chosen one exists.
    pub async fn profiles(&self) -> Result<Profiles, Failure> {
        let chosen = self.chosen_profile();
        let profiles = Profiles::read(chosen.as_deref()).await?;
        if chosen.is_some() {
            profiles.check_selected()?;
        }
        Ok(profiles)
    }

    /// The SDK's configuration, and with it its default sources of credentials.
    pub async fn load(
        &self,
        profiles: &Profiles,
        http: SharedHttpClient,
    ) -> Result<SdkConfig, Failure> {
        let endpoint = profiles.setting("AWS_ENDPOINT_URL", "endpoint_url");
        if let Some(endpoint) = endpoint.filter(|endpoint| !is_url(&endpoint.value)) {
            return Err(not_a_url(&endpoint.source));
        }
        let attempts = profiles.setting("AWS_MAX_ATTEMPTS", "max_attempts");
        let mode = profiles.setting("AWS_RETRY_MODE", "retry_mode");
        for setting in [
            profiles.setting("AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint"),
            profiles.setting("AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint"),
        ] {
            // The AWS CLI and the SDK take all else for `false`: nobody would learn that calls leave the FIPS endpoints.
            let is_valid = |it: &Setting| it.value.to_ascii_lowercase().parse::<bool>().is_ok();
            if let Some(setting) = setting.filter(|it| !is_valid(it)) {
                return Err(invalid(&setting, "it must be `true` or `false`"));
            }
        }
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .profile_files(profiles.files.clone())
            .profile_name(&profiles.selected)
            .retry_config(retry_config(attempts.as_ref(), mode.as_ref())?)
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .build(),
            )
            // `Renewed` caches the credentials.
            .identity_cache(IdentityCache::no_cache())
            .app_name(AppName::new(env!("CARGO_PKG_NAME")).expect("a valid name"));
        if let Some(region) = self.region() {
            loader = loader.region(Region::new(region));
        }
        Ok(loader.load().await)
    }

    /// Checks the variables that the SDK would panic at or ignore.
    pub fn check_variables(&self) -> Result<(), Failure> {
        for (name, value) in env::vars_os() {
            let is_read = |name: &&str| READ_BY_SDK.iter().any(|read| name.starts_with(read));
            let Some(name) = name.to_str().filter(is_read) else {
                continue;
            };
            let is_text = value.to_str().is_some_and(|value| !value.contains(char::is_control));
            if !is_text {
                let message =
                    format!("`{name}` contains a control character, or is not UTF-8 text");
                return Err(
                    Failure::usage(message).hint(format!("set it again, or `unset {name}`"))
                );
            }
            if name.starts_with("AWS_ENDPOINT_URL_") && !value.to_str().is_some_and(is_url) {
                return Err(not_a_url(&format!("`{name}`")));
            }
        }
        // A profile may use them, too (`credential_source = Environment`).
        let invalid = |name: &&&str| variable(name).is_some_and(|value| !is_printable(&value));
        if let Some(name) = KEY_VARIABLES.iter().find(invalid) {
            return Err(invalid_key(&format!("`{name}`")));
        }
        if self.profile.is_none() {
            check_pair("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")?;
        }
        Ok(())
    }
}

/// Checks that the second variable is set if the first one is.
pub fn check_pair(set: &str, other: &str) -> Result<(), Failure> {
    if variable(set).is_none() || variable(other).is_some() {
        return Ok(());
    }
    Err(Failure::usage(format!("`{set}` is set, but `{other}` is not"))
        .hint("set both, or neither"))
}

pub fn environment_keys() -> Option<Credentials> {
    let (id, secret) = (variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?);
    let token = TOKEN_VARIABLES.into_iter().find_map(variable);
    let mut keys = Credentials::builder().provider_name("environment");
    keys.set_session_token(token);
    keys.set_account_id(variable("AWS_ACCOUNT_ID").map(AccountId::from));
    Some(keys.access_key_id(id).secret_access_key(secret).build())
}

fn has_keys() -> bool {
    variable("AWS_ACCESS_KEY_ID").is_some()
}

fn not_a_url(source: &str) -> Failure {
    Failure::usage(format!("{source} is not a URL"))
        .hint("a URL is https://HOST or http://HOST:PORT")
}

fn is_url(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https"))
            && url.host().is_some_and(|host| !host.is_empty())
    })
}

/// How often calls are repeated. The SDK's own reader of these settings panics at invalid ones.
fn retry_config(
    attempts: Option<&Setting>,
    mode: Option<&Setting>,
) -> Result<RetryConfig, Failure> {
    let mut config = RetryConfig::standard().with_max_attempts(ATTEMPTS);
    if let Some(setting) = attempts {
        let number = setting.value.parse().ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| invalid(setting, "it must be a number of at least 1"))?;
        config = config.with_max_attempts(number);
    }
    if let Some(setting) = mode {
        config = config.with_retry_mode(match setting.value.to_ascii_lowercase().as_str() {
            // The SDK has no legacy mode.
            "standard" | "legacy" => RetryMode::Standard,
            "adaptive" => RetryMode::Adaptive,
            _ => return Err(invalid(setting, "it must be `standard`, `adaptive` or `legacy`")),
        });
    }
    Ok(config)
}

fn invalid(setting: &Setting, rule: &str) -> Failure {
    Failure::usage(format!("{} cannot be `{}`", setting.source, setting.value)).hint(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_configured_and_limited() {
        let setting = |value: &str| Setting { value: value.to_owned(), source: "`X`".to_owned() };
        for (attempts, mode, expected) in [
            (None, None, Some((6, RetryMode::Standard))),
            (Some("1"), None, Some((1, RetryMode::Standard))),
            (Some("10"), Some("adaptive"), Some((10, RetryMode::Adaptive))),
            (None, Some("Standard"), Some((6, RetryMode::Standard))),
            (None, Some("legacy"), Some((6, RetryMode::Standard))),
            (Some("0"), None, None),
            (Some("-1"), None, None),
            (Some("many"), None, None),
            (None, Some("never"), None),
        ] {
            let [attempts, mode] = [attempts, mode].map(|value| value.map(setting));
            let config = retry_config(attempts.as_ref(), mode.as_ref());
            let actual = config.ok().map(|config| (config.max_attempts(), config.mode()));
            assert_eq!(actual, expected, "{attempts:?} {mode:?}");
        }
    }

    #[test]
    fn endpoints_are_urls() {
        for (text, expected) in [
            ("http://127.0.0.1:4566", true),
            ("https://u:p@host/path", true),
            ("127.0.0.1:4566", false),
            ("ftp://host", false),
            ("http://", false),
            ("http:// host", false),
        ] {
            assert_eq!(is_url(text), expected, "{text}");
        }
    }
}
