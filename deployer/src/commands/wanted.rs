//! What a deployment starts from: what is wanted, and what is there. `deploy` and `plan` share it.

use crate::{
    aws::{Aws, cloudformation, dynamodb::Table, s3::Bucket},
    build::artifact::Artifact,
    settings::Target,
    stack::{self, Action, Stack},
    template,
};

/// What there is, all looked at before anything is changed, and seen to allow a deployment.
#[derive(Debug)]
pub struct Found {
    /// The bucket for the artifact.
    pub bucket: Bucket,
    /// Whether it is there.
    pub bucket_exists: bool,
    /// The table, if it is there.
    pub table: Option<Table>,
    /// The stack, if it is there.
    pub stack: Option<Stack>,
    /// The template that the stack was deployed with.
    pub template: Option<String>,
    /// How to deploy over that stack.
    pub action: Action,
}

/// Looks at everything at once.
pub async fn look(
    aws: &Aws,
    stack_name: &str,
    table_name: &str,
    bucket: Option<&str>,
) -> anyhow::Result<Found> {
    let find_bucket = async {
        let identity = aws.identity().await?;
        let bucket = Bucket::new(bucket, identity, &aws.region);
        let exists = bucket.exists(&aws.s3, &aws.region).await?;
        anyhow::Ok((bucket, exists))
    };
    let ((bucket, bucket_exists), table, stack, template) = tokio::try_join!(
        find_bucket,
        Table::find(&aws.dynamodb, table_name),
        cloudformation::find(&aws.cloudformation, stack_name),
        cloudformation::template(&aws.cloudformation, stack_name),
    )?;
    let action = stack::action(stack_name, stack.as_ref())?;
    Ok(Found {
        bucket,
        bucket_exists,
        table,
        stack,
        template,
        action,
    })
}

impl Found {
    /// The stack's parameters for this function.
    pub fn parameters(
        &self,
        artifact: &Artifact,
        target: &Target,
    ) -> anyhow::Result<std::collections::BTreeMap<String, String>> {
        let ours = [
            ("ArtifactBucket", self.bucket.name.clone()),
            ("ArtifactKey", Bucket::key(artifact)),
            ("TableName", target.table_name.clone()),
            ("Architecture", target.arch.to_string()),
        ];
        template::parameters(ours, &target.parameters)
    }
}
