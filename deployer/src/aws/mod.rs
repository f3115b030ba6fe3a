//! AWS, one file a service. What is to be done is decided elsewhere; here it is said to AWS, and what AWS says back is
//! made plain.

pub mod cloudformation;
pub mod dynamodb;
pub mod lambda;
pub mod s3;

use std::{error::Error, fmt::Display, time::Duration};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, profile::ProfileFileCredentialsProvider,
    provider_config::ProviderConfig, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_sdk_dynamodb::config::{
    AppName, Credentials, ProvideCredentials, SharedCredentialsProvider, SharedHttpClient,
};
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use aws_types::os_shim_internal::{Env, Fs};

use crate::{
    cli::region_name,
    failure::{Exit, Failure},
};

/// The tag of what this program made, by which it knows its own from what others made.
pub const OURS: (&str, &str) = ("created-by", "cbbootstrap");

/// How often a call is tried: a deployment is worth some patience with throttling.
const ATTEMPTS: u32 = 6;

/// How long one try may wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one try of a call may take. Uploads have more.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Which account and region.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The region, if the user names one.
    pub region: Option<String>,
    /// The profile, if the user names one. It beats the keys in the environment.
    pub profile: Option<String>,
    /// The region where neither the user nor the environment names one.
    pub fallback_region: Option<String>,
    /// The profile where neither the user nor the environment names one. Keys in the environment beat it.
    pub fallback_profile: Option<String>,
}

/// AWS: one account, one region, a client a service.
#[derive(Clone, Debug)]
pub struct Aws {
    /// The region.
    pub region: String,
    /// `CloudFormation`.
    pub cloudformation: aws_sdk_cloudformation::Client,
    /// `CloudWatch` Logs.
    pub logs: aws_sdk_cloudwatchlogs::Client,
    /// `DynamoDB`.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// Lambda.
    pub lambda: aws_sdk_lambda::Client,
    /// S3.
    pub s3: aws_sdk_s3::Client,
    sts: aws_sdk_sts::Client,
}

impl Aws {
    /// Settles region and credentials, as the AWS CLI does: an option beats the environment, and that the profile. No
    /// call to the region's services is made.
    pub async fn connect(access: &Access) -> anyhow::Result<Self> {
        check_profile(access.profile.as_deref()).await?;
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
            .app_name(AppName::new(env!("CARGO_PKG_NAME"))?);
        if let Some(region) = &access.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &access.profile {
            loader = loader.profile_name(profile);
        }
        let mut config = loader.load().await;
        let Some(region) = config.region().cloned() else {
            return Err(Failure::new("no AWS region is set")
                .hint("give `--region`, set `AWS_REGION`, or put `region` into the profile")
                .into());
        };
        region_name(region.as_ref()).map_err(|rule| {
            Failure::new(format!("`{region}` is no AWS region"))
                .hint(rule)
                .exit(Exit::Usage)
        })?;
        if let Some(profile) = &access.profile {
            // A profile that was named beats the keys in the environment. Left to itself, the SDK takes these.
            let sources = ProviderConfig::default()
                .with_http_client(http)
                .with_region(Some(region.clone()));
            let provider = ProfileFileCredentialsProvider::builder()
                .profile_name(profile)
                .configure(&sources)
                .build();
            config = config
                .into_builder()
                .credentials_provider(SharedCredentialsProvider::new(provider))
                .build();
        }
        check_credentials(&config).await?;
        Ok(Self::new(&config, region.to_string()))
    }

    fn new(config: &SdkConfig, region: String) -> Self {
        // An endpoint of one's own has no host name for each bucket.
        let own_endpoint =
            config.endpoint_url().is_some() || std::env::var_os("AWS_ENDPOINT_URL_S3").is_some();
        let s3 = aws_sdk_s3::config::Builder::from(config)
            .force_path_style(own_endpoint)
            .build();
        Self {
            region,
            cloudformation: aws_sdk_cloudformation::Client::new(config),
            logs: aws_sdk_cloudwatchlogs::Client::new(config),
            dynamodb: aws_sdk_dynamodb::Client::new(config),
            lambda: aws_sdk_lambda::Client::new(config),
            s3: aws_sdk_s3::Client::from_conf(s3),
            sts: aws_sdk_sts::Client::new(config),
        }
    }

    /// Whom the credentials belong to.
    pub async fn identity(&self) -> anyhow::Result<Identity> {
        let identity = self.sts.get_caller_identity().send().await;
        let identity = identity.map_err(|error| explain("cannot sign in to AWS", &error))?;
        let partition = identity.arn().and_then(|arn| arn.split(':').nth(1));
        match (partition, identity.account()) {
            (Some(partition), Some(account)) => Ok(Identity {
                partition: partition.to_owned(),
                account: account.to_owned(),
            }),
            _ => Err(Failure::new("AWS does not say whose the credentials are").into()),
        }
    }
}

/// Whom credentials belong to.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The part of AWS that ARNs begin with: `aws`, `aws-cn`, `aws-us-gov`, …
    pub partition: String,
    /// The account's number.
    pub account: String,
}

/// A client for a `DynamoDB` on this machine, which takes any credentials.
pub fn local_dynamodb(endpoint_url: &str) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http_client())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"))
        .endpoint_url(endpoint_url)
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

/// TLS by *ring*, as in the function.
fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .build_https()
}

/// That the profile exists which the option or the environment names. The SDK would look for credentials elsewhere.
async fn check_profile(asked: Option<&str>) -> anyhow::Result<()> {
    let from_environment = std::env::var("AWS_PROFILE")
        .ok()
        .filter(|name| !name.is_empty());
    let Some(name) = asked.map(str::to_owned).or(from_environment) else {
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
    let way_out = match known.as_slice() {
        [] => "there are no profiles: `aws configure --profile NAME` makes one".to_owned(),
        known => format!("there are: {}", known.join(", ")),
    };
    Err(Failure::new(format!("there is no AWS profile `{name}`"))
        .hint(way_out)
        .into())
}

/// That there are credentials, before anything is done that would be in vain without.
async fn check_credentials(config: &SdkConfig) -> anyhow::Result<()> {
    let provider = config.credentials_provider().ok_or_else(no_credentials)?;
    match provider.provide_credentials().await {
        Ok(_) => Ok(()),
        Err(error) => Err(credentials_failure(&error).into()),
    }
}

const SIGN_IN: &str = "sign in (`aws sso login`, `aws configure`), choose a profile with `--profile`, or set \
     `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`";

fn no_credentials() -> Failure {
    Failure::new("there are no AWS credentials").hint(SIGN_IN)
}

fn credentials_failure(error: &CredentialsError) -> Failure {
    match error {
        CredentialsError::CredentialsNotLoaded(_) => no_credentials(),
        _ => Failure::new(format!("cannot get AWS credentials: {}", causes(error))).hint(SIGN_IN),
    }
}

/// What AWS's refusal means, for people: what could not be done, why, and the way out where there is one.
pub fn explain<E, R>(what: impl Display, error: &SdkError<E, R>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
    R: std::fmt::Debug + 'static,
{
    if let Some(credentials) =
        chain(error).find_map(|cause| cause.downcast_ref::<CredentialsError>())
    {
        return credentials_failure(credentials).about(what);
    }
    match error {
        SdkError::ServiceError(_) => refusal(
            error.code().unwrap_or_default(),
            error.message().unwrap_or_default(),
        )
        .about(what),
        SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) => {
            let endpoint = std::env::var("AWS_ENDPOINT_URL").ok();
            let at = endpoint.map_or_else(
                || "AWS".to_owned(),
                |url| format!("`{url}` (`AWS_ENDPOINT_URL`)"),
            );
            Failure::new(format!("{what}: cannot reach {at}: {}", causes(error))).hint(
                "see that the region exists, and that network and proxy let the connection through",
            )
        }
        _ => Failure::new(format!("{what}: {}", causes(error))),
    }
}

/// A service's refusal, by its code.
fn refusal(code: &str, message: &str) -> Failure {
    let said = if message.is_empty() { code } else { message };
    match code {
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => {
            Failure::new("the AWS credentials have expired").hint(SIGN_IN)
        }
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "InvalidToken"
        | "AuthFailure"
        | "IncompleteSignature" => {
            Failure::new(format!("AWS does not accept the credentials ({said})")).hint(SIGN_IN)
        }
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "403" => {
            Failure::new(format!("access denied: {said}"))
                .hint("ask for the permission named above, or sign in as someone who has it")
        }
        "" => Failure::new(if said.is_empty() {
            "AWS refused and does not say why"
        } else {
            said
        }),
        _ if message.is_empty() => Failure::new(code),
        _ => Failure::new(format!("{message} ({code})")),
    }
}

/// Whether the same call may succeed later: AWS throttles, or could not be reached.
pub fn is_transient<E, R>(error: &SdkError<E, R>) -> bool
where
    E: ProvideErrorMetadata,
{
    match error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or_default();
            [
                "Throttling",
                "ThrottlingException",
                "RequestLimitExceeded",
                "TooManyRequestsException",
                "ServiceUnavailable",
                "InternalFailure",
                "InternalError",
            ]
            .contains(&code)
        }
        SdkError::ResponseError(_) | SdkError::TimeoutError(_) => true,
        // Missing credentials are a dispatch failure, too, and stay one.
        SdkError::DispatchFailure(failure) => {
            !failure.is_user() && (failure.is_io() || failure.is_timeout())
        }
        _ => false,
    }
}

fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// An error and what caused it, on one line; the SDK's own messages name only the outermost.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    for cause in chain(error).map(ToString::to_string) {
        if !said.iter().any(|before| before.contains(&cause)) {
            said.push(cause);
        }
    }
    said.join(": ")
}
