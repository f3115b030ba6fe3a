//! AWS, one file a service. What is to be done is decided elsewhere; here it is said to AWS, and what AWS says back is
//! made plain.

pub mod cloudformation;
pub mod clusters;
mod credentials;
pub mod drift;
pub mod dynamodb;
pub mod lambda;
pub mod logs;
pub mod s3;

use std::{error::Error, fmt::Display, time::Duration};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, identity::IdentityCache, imds::region::ImdsRegionProvider,
    meta::region::RegionProviderChain, profile::region::ProfileFileRegionProvider,
    provider_config::ProviderConfig, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::{
    Client,
    config::{AppName, SharedCredentialsProvider, SharedHttpClient, http::HttpResponse},
};
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use axum::http::Uri;
use cbbootstrap_cli::environment::{is_blank, variable};
use cbbootstrap_cli::signer::Signer;
use cbbootstrap_function::store::dynamodb::{DynamoDb, for_requests};
use clap::Args;

use crate::{
    advice,
    failure::{Exit, Failure},
    values::{Auth, region_name},
};
use credentials::Renewed;

/// The tag of what this program made, by which it knows its own from what others made.
pub const OURS: (&str, &str) = ("created-by", "cbbootstrap");

/// How often a call is tried: a deployment is worth some patience with throttling.
const ATTEMPTS: u32 = 6;

/// How long one try may wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one try of a call may take. Uploads have more.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// The variables that may name the region; the first one counts.
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

    /// Checks the name of a region, which becomes a part of host names.
    pub fn check_region(&self, region: &str) -> Result<String, Failure> {
        region_name(region).map_err(|rule| {
            let failure =
                Failure::new(format!("`{region}` is no AWS region")).hint(rule).exit(Exit::Usage);
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

    /// The profile that the SDK is told. Left to itself, it looks for one without a name if `AWS_PROFILE` is set to nothing.
    pub fn profile(&self) -> Option<String> {
        self.chosen_profile().or_else(|| is_blank("AWS_PROFILE").then(|| "default".to_owned()))
    }
}

/// How long one try of an upload may take.
const UPLOAD_TIMEOUT: Duration = Duration::from_mins(5);

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
    credentials: Renewed,
}

impl Aws {
    /// Settles region and credentials, as the AWS CLI does: an option beats the environment, and that the profile. No
    /// call to the region's services is made.
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
            // The credentials below keep themselves.
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
        // The SDK drops what it cannot parse, and would turn to AWS itself.
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
        // Before anything is done that would be in vain without.
        credentials.current().await?;
        let config = config
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(credentials.clone()))
            .build();
        Ok(Self::new(&config, &credentials, region.to_string()))
    }

    fn new(config: &SdkConfig, credentials: &Renewed, region: String) -> Self {
        // An endpoint of one's own has no host name for each bucket.
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

    /// The records of a table, for an API that is served from here.
    pub fn store(&self, table: &str) -> DynamoDb {
        let config = self.dynamodb.config().to_builder();
        DynamoDb::new(Client::from_conf(for_requests(config).build()), table)
    }

    /// What signs requests to an API in this region; nothing where it takes requests without a signature.
    pub async fn signer(&self, auth: Auth) -> anyhow::Result<Option<Signer>> {
        Ok(match auth {
            Auth::None => None,
            Auth::Iam => Some(Signer {
                credentials: self.credentials.current().await?,
                region: self.region.clone(),
            }),
        })
    }

    /// Whom the credentials belong to.
    pub async fn identity(&self) -> anyhow::Result<Identity> {
        let identity = self.sts.get_caller_identity().send().await;
        let identity = identity.map_err(|error| explain("cannot sign in to AWS", &error))?;
        let partition = identity.arn().and_then(|arn| arn.split(':').nth(1));
        match (partition, identity.account()) {
            (Some(partition), Some(account)) => {
                Ok(Identity { partition: partition.to_owned(), account: account.to_owned() })
            }
            _ => Err(Failure::new("AWS does not say whose the credentials are").into()),
        }
    }
}

/// The region of the profile or the machine, as the SDK finds it, but for variables: it takes an empty one for a name.
fn region_without_variables(profile: Option<&str>, http: &SharedHttpClient) -> RegionProviderChain {
    let sources = ProviderConfig::default().with_http_client(http.clone());
    let mut of_profile = ProfileFileRegionProvider::builder().configure(&sources);
    if let Some(profile) = profile {
        of_profile = of_profile.profile_name(profile);
    }
    let of_machine = ImdsRegionProvider::builder().configure(&sources);
    RegionProviderChain::first_try(of_profile.build()).or_else(of_machine.build())
}

/// Whom credentials belong to.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The part of AWS that ARNs begin with: `aws`, `aws-cn`, `aws-us-gov`, …
    pub partition: String,
    /// The account's number.
    pub account: String,
}

/// TLS by *ring*, as in the function.
fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .build_https()
}

/// What AWS's refusal means, for people: what could not be done, why, and the way out where there is one.
pub fn explain<E>(what: impl Display, error: &SdkError<E>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(credentials) =
        chain(error).find_map(|cause| cause.downcast_ref::<CredentialsError>())
    {
        return credentials::failure(credentials).about(what);
    }
    match error {
        // The answer to a HEAD has no body that would say why.
        SdkError::ServiceError(refused)
            if refused.raw().status().as_u16() == 400 && error.message().is_none() =>
        {
            credentials::probably_expired().about(what)
        }
        SdkError::ServiceError(_) => {
            refusal(error.code().unwrap_or_default(), error.message().unwrap_or_default())
                .about(what)
        }
        SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) => {
            let endpoint = variable("AWS_ENDPOINT_URL");
            let at = endpoint.map_or_else(
                || "AWS".to_owned(),
                |url| format!("`{}` (`AWS_ENDPOINT_URL`)", without_secrets(&url)),
            );
            Failure::new(format!("{what}: cannot reach {at}: {}", causes(error))).hint(
                "see that the region exists, and that network and proxy let the connection through",
            )
        }
        _ => Failure::new(format!("{what}: {}", causes(error))),
    }
}

/// A URL's scheme, host and port: the rest may hold a password.
fn without_secrets(url: &str) -> String {
    url.parse::<Uri>()
        .ok()
        .and_then(|url| {
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            Some(format!("{}://{}{port}", url.scheme_str()?, url.host()?))
        })
        .unwrap_or_else(|| "an address that is no URL".to_owned())
}

/// A service's refusal, by its code.
fn refusal(code: &str, message: &str) -> Failure {
    let said = if message.is_empty() { code } else { message };
    match code {
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => credentials::expired(),
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "InvalidToken"
        | "AuthFailure"
        | "IncompleteSignature" => credentials::not_accepted(said),
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "403" => {
            Failure::new(format!("access denied: {said}")).hint(advice::permission(said)).denied()
        }
        "" => Failure::new(if said.is_empty() { "AWS refused and does not say why" } else { said }),
        _ if message.is_empty() => Failure::new(code),
        _ => Failure::new(format!("{message} ({code})")),
    }
}

/// Whether the same call may succeed later: AWS throttles, or could not be reached.
pub fn is_transient<E>(error: &SdkError<E>) -> bool
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
                "SlowDown",
                "ServiceException",
                "InternalServerError",
                "TooManyRequestsException",
                "ServiceUnavailable",
                "InternalFailure",
                "InternalError",
            ]
            .contains(&code)
                || service.raw().status().as_u16() >= 500
        }
        SdkError::ResponseError(_) | SdkError::TimeoutError(_) => true,
        // Missing credentials are a dispatch failure, too, and stay one. A connection that breaks off in the middle of an
        // answer is one of an other kind, which the SDK classifies.
        SdkError::DispatchFailure(failure) => {
            failure.is_io() || failure.is_timeout() || failure.as_other().is_some()
        }
        _ => false,
    }
}

/// Whether the answer names this code, in whichever form the service answers.
fn says(response: &HttpResponse, code: &str) -> bool {
    let body = response.body().bytes().unwrap_or_default();
    body.windows(code.len()).any(|part| part == code.as_bytes())
}

/// Whether there are no credentials that AWS takes.
pub fn is_signed_out<E>(error: &SdkError<E>) -> bool
where
    E: ProvideErrorMetadata + Error + 'static,
{
    chain(error).any(<dyn Error>::is::<CredentialsError>)
        || error.code().is_some_and(|code| code.contains("ExpiredToken"))
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
