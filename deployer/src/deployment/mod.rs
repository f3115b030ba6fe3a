//! Deploys or removes a stack.
//!
//! A deployment has three phases: *survey* reads everything, *prepare* asks, builds, uploads and creates a change set, and *apply*
//! changes the stack. A signal stops the first two, and the next deployment continues. In the third, a signal cancels the change if
//! possible, or leaves it to CloudFormation. If someone else changes the stack in between, the phases are repeated.

mod cluster;
mod code;
mod follow;
mod phases;
mod removal;
mod survey;
mod watch;

use std::time::Duration;

pub use cluster::{Known, Launch};
pub use follow::Follower;
pub use phases::{build, discard_after};
pub use removal::Removal;
pub use survey::{StackSurvey, Survey};
pub use watch::Watch;

use crate::{
    aws::{Aws, cloudformation::UpdateMode, s3::Bucket},
    failure::{Exit, Failure},
    package::{ArtifactSource, artifact::Artifact},
    printer::Printer,
    settings::{StoredCode, Target},
    signals::Signals,
    stack::{DesiredStack, Stack},
    template::{CLUSTER_TEMPLATE, TEMPLATE},
};
use phases::{Preparation, reports_overtaking};

/// How often others may change the stack before a deployment gives up.
const ROUNDS: usize = 10;

/// The options of a deployment, and the account that it changes.
#[derive(Clone, Copy, Debug)]
pub struct Deployment<'a> {
    pub aws: &'a Aws,
    pub target: &'a Target,
    pub update_mode: UpdateMode,
    /// Whether the user has confirmed everything in advance.
    pub yes: bool,
    /// How long to wait for another deployment; `None` asks on a terminal.
    pub wait_for_stack: Option<Duration>,
    pub printer: &'a Printer,
}

/// A stack that is up to date.
#[derive(Debug)]
struct Applied {
    /// The stack, if it was up to date already.
    unchanged: Option<Stack>,
    /// How often others changed the stack.
    round: usize,
}

#[derive(Debug)]
pub struct DeployedStack {
    pub stack: Stack,
    pub changed: bool,
    /// Whether this deployment or another one has changed the stack since the command began.
    pub is_fresh: bool,
    /// Of the artifact.
    pub sha256: String,
    /// The version of the function that was published.
    pub version: Option<String>,
}

impl<'a> Deployment<'a> {
    /// Deploys the API's stack with its table and bucket.
    pub async fn deploy(
        self,
        function: impl Future<Output = anyhow::Result<ArtifactSource>>,
        signals: &mut Signals,
    ) -> anyhow::Result<DeployedStack> {
        let begin = Preparation::begin(self, function, None);
        let mut preparation = signals.or_stopped(begin).await?;
        self.complete(&mut preparation, signals).await
    }

    /// Deploys the stack of a Couchbase cluster. Also returns the members that the API then knows.
    pub async fn launch(
        self,
        agent: ArtifactSource,
        launch: &Launch<'_>,
        signals: &mut Signals,
    ) -> anyhow::Result<(DeployedStack, Vec<String>)> {
        let begin = Preparation::begin(self, std::future::ready(Ok(agent)), Some(launch));
        let mut preparation = signals.or_stopped(begin).await?;
        let deployed = self.complete(&mut preparation, signals).await?;
        let known = if deployed.is_fresh {
            let known = signals.or_stopped(launch.read_known(self.aws)).await;
            known.unwrap_or_else(|error| {
                self.printer.message(format_args!("warning: {error:#}"));
                Known::default()
            })
        } else {
            preparation.into_known()
        };
        Ok((deployed, known.into_members()))
    }

    /// Repeats the phases until the stack is up to date.
    async fn complete(
        self,
        preparation: &mut Preparation<'_>,
        signals: &mut Signals,
    ) -> anyhow::Result<DeployedStack> {
        for round in 0..ROUNDS {
            let mut draft = None;
            let applied = preparation.round(round, &mut draft, signals).await;
            match discard_after(applied, draft, self.printer).await {
                Ok(Some(applied)) => return signals.or_stopped(preparation.finish(applied)).await,
                Ok(None) => (),
                Err(error) if reports_overtaking(&error) => {
                    let mut step = self.printer.step("stack");
                    step.line("another deployment changed the stack; reading it again");
                }
                Err(error) => return Err(error),
            }
        }
        let name = &self.target.place.stack_name;
        Err(Failure::new(format!("other deployments changed stack `{name}` {ROUNDS} times"))
            .hint("find out who deploys it, then run the same command again")
            .exit(Exit::Changed)
            .into())
    }

    fn follower(self) -> Follower<'a> {
        Follower { client: &self.aws.cloudformation, place: &self.target.place, remains: None }
    }
}

/// The stack that the user wants, with this artifact. That of a Couchbase cluster depends on the one that exists.
pub fn desired_stack(
    target: &Target,
    launch: Option<&Launch<'_>>,
    survey: &StackSurvey,
    bucket: &Bucket,
    artifact: &Artifact,
) -> anyhow::Result<DesiredStack> {
    let (bucket, key) = (bucket.name.clone(), bucket.key(artifact));
    let (template, parameters) = match launch {
        None => (TEMPLATE, target.parameters(&StoredCode { bucket, key, arch: artifact.arch })?),
        Some(launch) => {
            let before = survey.stack.as_ref().filter(|_| !survey.action.creates());
            (CLUSTER_TEMPLATE, launch.parameters(before, bucket, key)?)
        }
    };
    Ok(DesiredStack {
        name: target.place.stack_name.clone(),
        template,
        parameters,
        tags: target.tags(),
        notification_arns: target.stack.topics(),
        role_arn: target.stack.role_arn.clone(),
    })
}
