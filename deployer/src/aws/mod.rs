//! AWS's services, one file each. Other modules decide; these make the calls and return plain values.

pub mod cloudformation;
pub mod clusters;
mod credentials;
pub mod drift;
pub mod dynamodb;
mod error;
pub mod lambda;
pub mod logs;
pub mod poll;
pub mod s3;

use std::time::Duration;

use aws_config::{
    BehaviorVersion, Region, SdkConfig, identity::IdentityCache, imds::region::ImdsRegionProvider,
    meta::region::RegionProviderChain, profile::region::ProfileFileRegionProvider,
    provider_config::ProviderConfig, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_sdk_dynamodb::{
    Client,
    config::{AppName, SharedCredentialsProvider, SharedHttpClient},
};
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use cbbootstrap_cli::environment::{is_blank, variable};
use cbbootstrap_cli::signer::Signer;
use cbbootstrap_function::store::dynamodb::{DynamoDb, for_requests};
use clap::Args;

use crate::{
    failure::{Exit, Failure},
    values::{Auth, region_name},
};
use credentials::Renewed;
use error::Answer;

pub use error::{explain, is_transient};

/// More than the SDK's default of 3: throttling should not fail a deployment.
const ATTEMPTS: u32 = 6;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Of one attempt to upload the function.
const UPLOAD_TIMEOUT: Duration = Duration::from_mins(5);

/// In order of precedence.
const REGION_VARIABLES: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/// Which account and region.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "AWS")]
pub struct Access {
    /// AWS region [default: AWS_REGION, `cbbootstrap.yaml` or the profile]
    #[arg(long, value_name = "REGION", value_parser = region_name)]
    pub region: Option<String>,
    /// AWS profile [default: AWS_PROFILE, `cbbootstrap.yaml` or the default credentials]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// The region in `cbbootstrap.yaml`: AWS_REGION and AWS_DEFAULT_REGION take precedence.
    #[arg(long, hide = true, value_parser = region_name)]
    pub fallback_region: Option<String>,
    /// The profile in `cbbootstrap.yaml`: AWS_PROFILE and keys in the environment take precedence.
    #[arg(long, hide = true)]
    pub fallback_profile: Option<String>,
}

impl Access {
    /// The region that the user, the environment or `cbbootstrap.yaml` names, in this order.
    pub fn region(&self) -> Option<String> {
        self.region
            .clone()
            .or_else(|| REGION_VARIABLES.into_iter().find_map(variable))
            .or_else(|| self.fallback_region.clone())
    }

    /// Checks the name of a region, as it becomes part of host names.
    pub fn check_region(&self, region: &str) -> Result<String, Failure> {
        region_name(region).map_err(|rule| {
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
        self.profile.clone().or_else(|| variable("AWS_PROFILE"))
    }

    /// The profile that the user, the environment or, unless the environment has keys, `cbbootstrap.yaml` names.
    fn chosen_profile(&self) -> Option<String> {
        self.named_profile().or_else(|| {
            self.fallback_profile.clone().filter(|_| variable("AWS_ACCESS_KEY_ID").is_none())
        })
    }

    /// The profile to pass to the SDK, which would search for a profile without a name if `AWS_PROFILE` is empty.
    pub fn profile(&self) -> Option<String> {
        self.chosen_profile().or_else(|| is_blank("AWS_PROFILE").then(|| "default".to_owned()))
    }
}

/// One account and region, with a client for each service.
#[derive(Clone, Debug)]
pub struct Aws {
    pub region: String,
    pub cloudformation: aws_sdk_cloudformation::Client,
    pub logs: aws_sdk_cloudwatchlogs::Client,
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub lambda: aws_sdk_lambda::Client,
    pub s3: aws_sdk_s3::Client,
    sts: aws_sdk_sts::Client,
    credentials: Renewed,
}

impl Aws {
    /// Finds region and credentials as the AWS CLI does: from options, then the environment, then the profile. It makes no call
    /// to the region's services.
    pub async fn connect(access: &Access) -> anyhow::Result<Self> {
        credentials::check_profile(access).await?;
        let http = http_client();
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http.clone())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .build(),
            )
            // `Renewed` caches the credentials.
            .identity_cache(IdentityCache::no_cache())
            .app_name(AppName::new(env!("CARGO_PKG_NAME"))?);
        let profile = access.profile();
        if let Some(region) = access.region() {
            loader = loader.region(Region::new(region));
        } else if REGION_VARIABLES.into_iter().any(is_blank) {
            loader = loader.region(region_without_variables(profile.as_deref(), &http));
        }
        if let Some(profile) = profile {
            loader = loader.profile_name(profile);
        }
        // The SDK ignores a URL that it cannot parse, and would call AWS instead.
        if let Some(url) = variable("AWS_ENDPOINT_URL")
            && std::env::var("AWS_ENDPOINT_URL").is_ok_and(|given| given != url)
        {
            loader = loader.endpoint_url(url);
        }
        let config = loader.load().await;
        let Some(region) = config.region().cloned() else {
            return Err(Failure::new("no AWS region is set")
                .hint("give `--region`, set `AWS_REGION`, or put `region` into the profile")
                .into());
        };
        access.check_region(region.as_ref())?;
        let credentials = Renewed::new(access, &region, http);
        // Fail now, before a useless build.
        credentials.current().await?;
        let config = config
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(credentials.clone()))
            .build();
        Ok(Self::new(&config, &credentials, region.to_string()))
    }

    fn new(config: &SdkConfig, credentials: &Renewed, region: String) -> Self {
        // A custom endpoint has no host name for each bucket.
        let own_endpoint =
            config.endpoint_url().is_some() || variable("AWS_ENDPOINT_URL_S3").is_some();
        macro_rules! client {
            ($service:ident $(, $option:ident($value:expr))*) => {
                $service::Client::from_conf(
                    $service::config::Builder::from(config)
                        .interceptor(credentials.clone())
                        .retry_classifier(credentials.clone())
                        $(.$option($value))*
                        .build(),
                )
            };
        }
        Self {
            region,
            cloudformation: client!(aws_sdk_cloudformation),
            dynamodb: client!(aws_sdk_dynamodb),
            lambda: client!(aws_sdk_lambda),
            logs: client!(aws_sdk_cloudwatchlogs),
            s3: client!(aws_sdk_s3, force_path_style(own_endpoint), retry_classifier(s3::Conflict)),
            sts: client!(aws_sdk_sts),
            credentials: credentials.clone(),
        }
    }

    /// The store of a table, for `serve`.
    pub fn store(&self, table: &str) -> DynamoDb {
        let config = self.dynamodb.config().to_builder();
        DynamoDb::new(Client::from_conf(for_requests(config).build()), table)
    }

    /// Signs requests to an API in this region; `None` if it accepts unsigned ones.
    pub async fn signer(&self, auth: Auth) -> anyhow::Result<Option<Signer>> {
        Ok(match auth {
            Auth::None => None,
            Auth::Iam => Some(Signer {
                credentials: self.credentials.current().await?,
                region: self.region.clone(),
            }),
        })
    }

    pub async fn identity(&self) -> anyhow::Result<Identity> {
        let identity = self.sts.get_caller_identity().send().await;
        let identity = identity.explain("cannot sign in to AWS")?;
        let partition = identity.arn().and_then(|arn| arn.split(':').nth(1));
        match (partition, identity.account()) {
            (Some(partition), Some(account)) => {
                Ok(Identity { partition: partition.to_owned(), account: account.to_owned() })
            }
            _ => Err(Failure::new("AWS returned no account for the credentials").into()),
        }
    }
}

/// The region of the profile or the machine. The SDK's own chain would use an empty variable as a name.
fn region_without_variables(profile: Option<&str>, http: &SharedHttpClient) -> RegionProviderChain {
    let sources = ProviderConfig::default().with_http_client(http.clone());
    let mut of_profile = ProfileFileRegionProvider::builder().configure(&sources);
    if let Some(profile) = profile {
        of_profile = of_profile.profile_name(profile);
    }
    let of_machine = ImdsRegionProvider::builder().configure(&sources);
    RegionProviderChain::first_try(of_profile.build()).or_else(of_machine.build())
}

/// The owner of the credentials.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `aws`, `aws-cn`, `aws-us-gov`, …
    pub partition: String,
    pub account: String,
}

/// TLS by *ring*, as in the function.
fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .build_https()
}
