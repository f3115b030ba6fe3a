//! `launch`: the stack of a Couchbase cluster.

use std::collections::BTreeMap;

use super::{
    Deployment, StackSurvey, build,
    phases::{Consents, Preparation, print_later},
};
use crate::{
    aws::s3::Bucket,
    failure::Failure,
    package::{ArtifactSource, artifact::Artifact},
    signals::Signals,
    stack::{DesiredStack, Stack, StackAction},
    template::CLUSTER_TEMPLATE,
};

/// The stack of a Couchbase cluster.
pub trait Cluster {
    /// Refuses to deploy over this stack. `is_new` says whether that creates the nodes.
    fn check(&self, stack: Option<&Stack>, is_new: bool) -> Result<(), Failure>;

    /// A value for every parameter of the template.
    fn parameters(
        &self,
        before: Option<&Stack>,
        bucket: &Bucket,
        agent: &Artifact,
    ) -> BTreeMap<String, String>;
}

impl<'a> Deployment<'a> {
    /// Deploys the stack of a Couchbase cluster. Returns the stack, and whether anything had to be changed.
    pub async fn launch(
        self,
        agent: ArtifactSource,
        cluster: &impl Cluster,
        signals: &mut Signals,
    ) -> anyhow::Result<(Stack, bool)> {
        let begin = self.begin_launch(agent, cluster);
        let mut preparation = signals.or_stopped(begin).await?;
        let unchanged = self.apply(&mut preparation, signals).await?.unchanged;
        let changed = unchanged.is_none();
        let finish = async {
            if changed {
                preparation.prune().await;
            }
            preparation.read_again(unchanged).await
        };
        let stack = signals.or_stopped(finish).await?;
        Ok((stack, changed | preparation.has_changed_storage))
    }

    async fn begin_launch(
        self,
        agent: ArtifactSource,
        cluster: &impl Cluster,
    ) -> anyhow::Result<Preparation<'a>> {
        let Self { aws, target, printer, .. } = self;
        let name = &target.place.stack_name;
        let (bucket, survey) = tokio::try_join!(
            Bucket::find(aws, target.bucket.as_deref(), name),
            StackSurvey::read(aws, name),
        )?;
        let is_new = matches!(
            survey.action,
            StackAction::Create | StackAction::Replace | StackAction::ReplaceUsed
        );
        cluster.check(survey.stack.as_ref(), is_new)?;
        let before = survey.stack.as_ref().filter(|_| !is_new);
        let mut consents = Consents::default();
        self.ask(&survey, None, &mut consents).await?;
        let (bucket_created, artifact) =
            tokio::join!(self.create_bucket(&bucket), build(agent, printer));
        print_later(printer, [bucket_created.as_ref().err(), artifact.as_ref().err()]);
        let (has_changed_storage, artifact) = (bucket_created?, artifact?);
        let desired = DesiredStack {
            name: name.clone(),
            template: CLUSTER_TEMPLATE,
            parameters: cluster.parameters(before, &bucket, &artifact),
            tags: target.tags(),
            notification_arns: Vec::new(),
            role_arn: target.stack.role_arn.clone(),
        };
        Ok(Preparation {
            deployment: self,
            bucket,
            artifact,
            desired,
            has_changed_storage,
            survey,
            consents,
        })
    }
}
