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

pub use cluster::{ClusterStack, Known};
pub use follow::Follower;
pub use phases::{build, discard_after};
pub use removal::Removal;
pub use survey::{StackSurvey, Survey};
pub use watch::Watch;

use crate::{
    aws::{Aws, cloudformation::UpdateMode},
    exit::Exit,
    failure::Failure,
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
    /// The Couchbase cluster whose stack it is; `None` for the API's.
    pub cluster: Option<&'a ClusterStack<'a>>,
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
    /// The members of a Couchbase cluster that the API knows.
    pub members: Vec<String>,
}

impl<'a> Deployment<'a> {
    /// A deployment of the API.
    pub fn new(aws: &'a Aws, target: &'a Target, printer: &'a Printer) -> Self {
        let (cluster, update_mode) = (None, UpdateMode::default());
        Self { aws, target, cluster, update_mode, yes: false, wait_for_stack: None, printer }
    }

    /// Deploys the stack with its bucket and, for the API, its table. Repeats the phases until the stack is up to date.
    pub async fn deploy(
        self,
        artifact: impl Future<Output = anyhow::Result<ArtifactSource>>,
        signals: &mut Signals,
    ) -> anyhow::Result<DeployedStack> {
        let begin = Preparation::begin(self, artifact);
        let mut preparation = signals.or_stopped(begin).await?;
        for round in 0..ROUNDS {
            let mut open_change_set = None;
            let applied = preparation.round(round, &mut open_change_set, signals).await;
            match discard_after(applied, open_change_set, self.printer).await {
                Ok(Some(applied)) => {
                    let deployed = signals.or_stopped(preparation.finish(applied)).await?;
                    return Ok(self.with_members(deployed, signals).await);
                }
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

    /// Reads the members of a Couchbase cluster again if they may have changed.
    async fn with_members(self, deployed: DeployedStack, signals: &mut Signals) -> DeployedStack {
        let Some(cluster) = self.cluster.filter(|_| deployed.is_fresh) else {
            return deployed;
        };
        let known = signals.or_stopped(cluster.read_known(self.aws)).await;
        let known = known.unwrap_or_else(|error| {
            self.printer.message(format_args!("warning: {error:#}"));
            Known::default()
        });
        DeployedStack { members: known.into_members(), ..deployed }
    }

    pub fn follower(self) -> Follower<'a> {
        Follower { client: &self.aws.cloudformation, place: &self.target.place, remains: None }
    }

    /// The stack that the user wants, with this artifact. That of a Couchbase cluster depends on the one that exists.
    pub fn desired_stack(
        self,
        survey: &Survey,
        artifact: &Artifact,
    ) -> anyhow::Result<DesiredStack> {
        let Self { target, cluster, .. } = self;
        let (bucket, key) = (survey.bucket.name.clone(), survey.bucket.key(artifact));
        let (template, parameters) = match cluster {
            None => {
                (TEMPLATE, target.parameters(&StoredCode { bucket, key, arch: artifact.arch })?)
            }
            Some(cluster) => {
                let StackSurvey { stack, action, .. } = &survey.stack;
                let before = stack.as_ref().filter(|_| !action.creates());
                (CLUSTER_TEMPLATE, cluster.parameters(before, bucket, key)?)
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
}
