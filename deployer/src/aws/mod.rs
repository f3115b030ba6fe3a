//! AWS's services, one file each. Other modules decide; these make the calls and return plain values.

mod access;
mod caller;
mod clock;
pub mod cloudformation;
mod credentials;
pub mod drift;
pub mod dynamodb;
mod error;
pub mod iam;
pub mod lambda;
pub mod logs;
pub mod poll;
mod profiles;
pub mod s3;

use std::{sync::Arc, time::Duration};

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::{Client, config::SharedCredentialsProvider};
use aws_sdk_sts::{
    error::SdkError,
    operation::get_caller_identity::{GetCallerIdentityError, GetCallerIdentityOutput},
};
use cbbootstrap_cli::{
    environment::variable,
    failure::Problems,
    signer::{API_GATEWAY, Signer},
};
use cbbootstrap_function::store::dynamodb::{DynamoDb, for_requests};
use tokio::sync::OnceCell;

use crate::{failure::Failure, network::Network, values::Auth};
use clock::Clock;
use credentials::Renewed;
use error::Answer;

pub use access::Access;
pub use caller::Destination;
pub use error::{explain, is_transient};
pub use profiles::Profiles;

/// Of one attempt to upload the function.
const UPLOAD_TIMEOUT: Duration = Duration::from_mins(5);

/// One account and region, with a client for each service.
#[derive(Clone, Debug)]
pub struct Aws {
    pub region: String,
    pub network: Network,
    pub cloudformation: aws_sdk_cloudformation::Client,
    pub logs: aws_sdk_cloudwatchlogs::Client,
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub iam: aws_sdk_iam::Client,
    pub lambda: aws_sdk_lambda::Client,
    pub s3: aws_sdk_s3::Client,
    pub clock: Clock,
    sts: aws_sdk_sts::Client,
    credentials: Renewed,
    identity: Arc<OnceCell<Identity>>,
}

impl Aws {
    /// Finds region and credentials as the AWS CLI does: from options, then the environment, then the profile. It makes no call
    /// to the region's services.
    pub async fn connect(access: &Access) -> anyhow::Result<Self> {
        access.check_variables()?;
        let profiles = access.profiles().await?;
        let network = profiles.network()?;
        let config = access.load(&profiles, network.client()).await?;
        let Some(region) = config.region().cloned() else {
            return Err(no_region(access, &profiles, &network).await.into());
        };
        access.check_region(region.as_ref())?;
        let credentials = Renewed::new(access, &region, network.client());
        // Fail now, before a useless build.
        credentials.current().await?;
        let config = config
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(credentials.clone()))
            .build();
        Ok(Self::new(&config, network, &credentials, region.to_string()))
    }

    fn new(config: &SdkConfig, network: Network, credentials: &Renewed, region: String) -> Self {
        // A custom endpoint has no host name for each bucket.
        let own_endpoint =
            config.endpoint_url().is_some() || variable("AWS_ENDPOINT_URL_S3").is_some();
        let clock = Clock::default();
        macro_rules! client {
            ($service:ident $(, $option:ident($value:expr))*) => {
                $service::Client::from_conf(
                    $service::config::Builder::from(config)
                        .interceptor(credentials.clone())
                        .interceptor(clock.clone())
                        .retry_classifier(credentials.clone())
                        $(.$option($value))*
                        .build(),
                )
            };
        }
        Self {
            region,
            network,
            cloudformation: client!(aws_sdk_cloudformation),
            dynamodb: client!(aws_sdk_dynamodb),
            iam: client!(aws_sdk_iam),
            lambda: client!(aws_sdk_lambda),
            logs: client!(aws_sdk_cloudwatchlogs),
            s3: client!(aws_sdk_s3, force_path_style(own_endpoint), retry_classifier(s3::Retries)),
            sts: client!(aws_sdk_sts),
            clock,
            credentials: credentials.clone(),
            identity: Arc::default(),
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
                service: API_GATEWAY,
            }),
        })
    }

    /// Asks once.
    pub async fn identity(&self) -> anyhow::Result<Identity> {
        let read = async || Identity::read(self.sts.get_caller_identity().send().await);
        self.identity.get_or_try_init(read).await.cloned()
    }
}

/// Names missing credentials, too, unless a profile names their source: that may need a region.
async fn no_region(access: &Access, profiles: &Profiles, network: &Network) -> Failure {
    let mut problems = Problems::default();
    problems.add(
        Failure::new("no AWS region is set")
            .hint("pass `--region`, set `AWS_REGION`, or put `region` into the profile"),
    );
    if profiles.source().is_none() {
        let credentials = Renewed::new(access, &Region::from_static("us-east-1"), network.client());
        problems.keep(credentials.current().await);
    }
    problems.report().expect_err("there is no region")
}

/// The owner of the credentials.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `aws`, `aws-cn`, `aws-us-gov`, …
    pub partition: String,
    pub account: String,
    /// The user or the role's session.
    pub arn: String,
}

impl Identity {
    fn read(
        answer: Result<GetCallerIdentityOutput, SdkError<GetCallerIdentityError>>,
    ) -> anyhow::Result<Self> {
        let identity = answer.explain("cannot sign in to AWS")?;
        let arn = identity.arn.unwrap_or_default();
        match (arn.split(':').nth(1), identity.account) {
            (Some(partition), Some(account)) => {
                Ok(Self { partition: partition.to_owned(), account, arn })
            }
            _ => Err(Failure::new("AWS returned no account for the credentials").into()),
        }
    }
}
