//! What a deployment starts from: what is wanted, and what is there. `deploy` and `plan` share it.

use std::collections::BTreeMap;

use crate::{
    aws::{
        Aws,
        cloudformation::{self, Wanted},
        dynamodb::Table,
        lambda,
        s3::Bucket,
    },
    package::artifact::Artifact,
    settings::Target,
    stack::{self, Next, Stack},
    template::{self, TEMPLATE},
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
    /// The stack and what belongs to it.
    pub stack: FoundStack,
}

/// The stack as it was found.
#[derive(Debug)]
pub struct FoundStack {
    /// The stack, if it is there.
    pub stack: Option<Stack>,
    /// The template that it was deployed with.
    pub template: Option<String>,
    /// The function's code, by its hash; it may have been replaced behind the stack's back.
    pub function_sha256: Option<String>,
    /// What to do next about it.
    pub next: Next,
}

/// Looks at everything at once, in two rounds: the second asks for what the first has named.
pub async fn look(aws: &Aws, target: &Target) -> anyhow::Result<Found> {
    let find_bucket = async {
        let identity = aws.identity().await?;
        let stack_name = &target.place.stack_name;
        let bucket = Bucket::new(target.bucket.as_deref(), identity, &aws.region, stack_name);
        let exists = bucket.exists(&aws.s3, &aws.region).await?;
        anyhow::Ok((bucket, exists))
    };
    let ((bucket, bucket_exists), table, stack) = tokio::try_join!(
        find_bucket,
        Table::find(&aws.dynamodb, &target.table_name),
        FoundStack::look(aws, &target.place.stack_name),
    )?;
    Ok(Found { bucket, bucket_exists, table, stack })
}

impl FoundStack {
    /// Looks at the stack and what belongs to it.
    pub async fn look(aws: &Aws, name: &str) -> anyhow::Result<Self> {
        let stack_and_function = async {
            let stack = cloudformation::find(&aws.cloudformation, name).await?;
            let function = stack.as_ref().and_then(|stack| stack.outputs.get("FunctionName"));
            let function = match function {
                Some(function) => lambda::find(&aws.lambda, function).await?,
                None => None,
            };
            anyhow::Ok((stack, function.and_then(|function| function.sha256)))
        };
        let ((stack, function_sha256), template) = tokio::try_join!(
            stack_and_function,
            cloudformation::template(&aws.cloudformation, name),
        )?;
        Ok(Self { next: stack::next(name, stack.as_ref())?, stack, template, function_sha256 })
    }

    /// The stack, if it is what is wanted already, its function's code apart.
    pub fn met(&self, wanted: &Wanted) -> Option<&Stack> {
        self.stack.as_ref().filter(|stack| wanted.is_met_by(stack, self.template.as_deref()))
    }

    /// The artifact that the stack names.
    pub fn artifact_key(&self) -> Option<&str> {
        let parameters = &self.stack.as_ref()?.parameters;
        parameters.get("ArtifactKey").map(String::as_str)
    }

    /// Whether the function has the code of the artifact, as far as can be seen.
    pub fn has_code(&self, artifact: &Artifact) -> bool {
        self.function_sha256.as_ref().is_none_or(|sha256| *sha256 == artifact.sha256)
    }
}

/// The stack's parameters for this function.
pub fn parameters(
    target: &Target,
    bucket: &Bucket,
    artifact: &Artifact,
) -> anyhow::Result<BTreeMap<String, String>> {
    let ours = [
        ("ArtifactBucket", bucket.name.clone()),
        ("ArtifactKey", bucket.key(artifact)),
        ("TableName", target.table_name.clone()),
        ("Architecture", target.arch.to_string()),
        ("AuthorizationType", target.auth.authorization_type().to_owned()),
        ("RequireSecret", target.require_secret.to_string()),
        ("RequireLease", target.require_lease.to_string()),
    ];
    template::parameters(ours, &target.parameters)
}

/// What the stack is to be.
pub fn wanted<'a>(target: &'a Target, parameters: &'a BTreeMap<String, String>) -> Wanted<'a> {
    Wanted {
        name: &target.place.stack_name,
        template: TEMPLATE,
        parameters,
        tags: &target.tags,
        notification_arns: &target.notification_arns,
        role_arn: target.role_arn.as_deref(),
    }
}
