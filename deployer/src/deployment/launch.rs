//! `launch`: the stack of a Couchbase cluster.

use std::collections::BTreeMap;

use super::{
    DeployedStack, Deployment, StackSurvey, build,
    phases::{Consents, Preparation},
};
use crate::{
    aws::s3::Bucket,
    failure::Failure,
    package::{ArtifactSource, artifact::Artifact},
    signals::Signals,
    stack::{DesiredStack, Stack},
    template::CLUSTER_TEMPLATE,
};

/// The stack of a Couchbase cluster.
pub trait Cluster: Sync {
    /// Refuses to deploy over this stack. `is_new` says whether that creates the nodes.
    fn check(&self, stack: Option<&Stack>, is_new: bool) -> Result<(), Failure>;

    /// The hint after a creation that failed or was cancelled: its nodes may have left a record.
    fn after_failed_creation(&self) -> String;

    /// A value for every parameter of the template.
    fn parameters(
        &self,
        before: Option<&Stack>,
        bucket: &Bucket,
        agent: &Artifact,
    ) -> BTreeMap<String, String>;
}

impl<'a> Deployment<'a> {
    pub async fn launch(
        self,
        agent: ArtifactSource,
        cluster: &'a dyn Cluster,
        signals: &mut Signals,
    ) -> anyhow::Result<DeployedStack> {
        let begin = self.begin_launch(agent, cluster);
        let preparation = signals.or_stopped(begin).await?;
        self.complete(preparation, signals).await
    }

    async fn begin_launch(
        self,
        agent: ArtifactSource,
        cluster: &'a dyn Cluster,
    ) -> anyhow::Result<Preparation<'a>> {
        let Self { aws, target, printer, .. } = self;
        let name = &target.place.stack_name;
        let (bucket, survey) = tokio::try_join!(
            Bucket::find(aws, target.bucket.as_deref(), name),
            StackSurvey::read(aws, name),
        )?;
        cluster.check(survey.stack.as_ref(), survey.is_new())?;
        let mut consents = Consents::default();
        self.ask(&survey, None, &mut consents).await?;
        let (bucket_created, artifact) =
            tokio::join!(self.create_bucket(&bucket), build(agent, printer));
        printer.print_all_but_first([bucket_created.as_ref().err(), artifact.as_ref().err()]);
        let (has_changed_storage, artifact) = (bucket_created?, artifact?);
        let desired = self.desired_cluster(cluster, &survey, &bucket, &artifact)?;
        Ok(Preparation {
            deployment: self,
            cluster: Some(cluster),
            bucket,
            artifact,
            storage: None,
            desired,
            has_changed_storage,
            survey,
            consents,
        })
    }

    /// The stack of a Couchbase cluster, which depends on the one that exists.
    pub(super) fn desired_cluster(
        self,
        cluster: &dyn Cluster,
        survey: &StackSurvey,
        bucket: &Bucket,
        artifact: &Artifact,
    ) -> Result<DesiredStack, Failure> {
        let target = self.target;
        cluster.check(survey.stack.as_ref(), survey.is_new())?;
        let before = survey.stack.as_ref().filter(|_| !survey.is_new());
        Ok(DesiredStack {
            name: target.place.stack_name.clone(),
            template: CLUSTER_TEMPLATE,
            parameters: cluster.parameters(before, bucket, artifact),
            tags: target.tags(),
            notification_arns: Vec::new(),
            role_arn: target.stack.role_arn.clone(),
        })
    }
}
