//! Brings a stack to what the user wants, or removes it, in two phases.
//!
//! *Prepare* reads, asks, builds, uploads and creates a change set. A signal drops it, which harms nothing: the next deployment
//! continues. *Apply* changes the stack. A signal during it cancels the change if possible, or leaves it to CloudFormation. If
//! somebody else changes the stack in between, both phases are repeated.

mod apply;
mod code;
mod follow;
mod prepare;
mod removal;
mod survey;

use std::time::Duration;

pub use code::replace_code;
pub use follow::{Follower, settle};
pub use prepare::{build, draft};
pub use removal::{Removal, RemovalScope};
pub use survey::{StackSurvey, Survey};

use crate::{
    aws::{Aws, cloudformation::UpdateMode, s3::Bucket},
    failure::{Exit, Failure},
    package::{FunctionSource, artifact::Artifact},
    printer::Printer,
    settings::Target,
    signals::Signals,
    stack::{DesiredStack, Stack},
    template::TEMPLATE,
};
use prepare::{Preparation, Round};

/// How often others may change the stack before a deployment gives up.
const ROUNDS: usize = 10;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether the user has confirmed everything in advance.
    pub yes: bool,
    /// How long to wait for another deployment; `None` asks on a terminal.
    pub wait_for_stack: Option<Duration>,
    pub update_mode: UpdateMode,
}

/// The result of a deployment.
#[derive(Debug)]
pub struct DeployedStack {
    pub stack: Stack,
    /// Whether anything had to be changed.
    pub changed: bool,
    /// Whether the endpoint may be new, and not known everywhere yet.
    pub is_fresh: bool,
    pub artifact: Artifact,
    /// The version of the function that was published.
    pub version: Option<String>,
}

/// Deploys the function with everything around it.
pub async fn deploy(
    aws: &Aws,
    target: &Target,
    options: Options,
    function: FunctionSource,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<DeployedStack> {
    let prepare = Preparation::begin(aws, target, options, function, printer);
    let mut preparation = signals.or_stopped(prepare).await?;
    for round in 0..ROUNDS {
        let mut change_set = None;
        let prepared = signals.or_stopped(preparation.round(round, &mut change_set)).await;
        if prepared.is_err()
            && let Some(change_set) = change_set
        {
            // The first error is the one to report.
            let _ = change_set.discard().await;
        }
        let unchanged = match prepared? {
            Round::UpToDate(stack) => Some(stack),
            Round::ReadAgain => continue,
            Round::Change(change) => {
                if !change.apply(signals).await? {
                    continue;
                }
                None
            }
        };
        return signals.or_stopped(preparation.finish(unchanged, round)).await;
    }
    let name = &target.place.stack_name;
    Err(Failure::new(format!("others changed stack `{name}` {ROUNDS} times"))
        .hint("find out who deploys it, then run the same command again")
        .exit(Exit::Changed)
        .into())
}

/// What the stack is to be with this artifact.
pub fn desired_stack(
    target: &Target,
    bucket: &Bucket,
    artifact: &Artifact,
) -> anyhow::Result<DesiredStack> {
    Ok(DesiredStack {
        name: target.place.stack_name.clone(),
        template: TEMPLATE,
        parameters: target.parameters(bucket, artifact)?,
        tags: target.tags(),
        notification_arns: target.notification_arns.clone(),
        role_arn: target.role_arn.clone(),
    })
}
