//! The state of everything in AWS that a deployment may change.

use super::{Deployment, Known};
use crate::{
    aws::{
        cloudformation,
        dynamodb::{Table, TableSettings},
        lambda,
        s3::Bucket,
    },
    package::artifact::Artifact,
    settings::Target,
    stack::{self, DesiredStack, Risk, Stack, StackAction},
    values::Auth,
};

/// It is read before anything is changed.
#[derive(Debug)]
pub struct Survey {
    pub bucket: Bucket,
    pub table: Option<Table>,
    pub stack: StackSurvey,
}

#[derive(Debug)]
pub struct StackSurvey {
    pub stack: Option<Stack>,
    /// The template that it was deployed with.
    pub template: Option<String>,
    /// Of the function's code, which may have been replaced outside the stack.
    pub function_sha256: Option<String>,
    pub action: StackAction,
    /// What the API knows about the Couchbase cluster, if it is the stack of one.
    pub known: Known,
}

impl Survey {
    /// Makes the calls in parallel, in two rounds: the second needs names from the first.
    pub async fn read(deployment: Deployment<'_>) -> anyhow::Result<Self> {
        let Deployment { aws, target, .. } = deployment;
        let (bucket, table, stack) = tokio::try_join!(
            Bucket::find(aws, target.bucket.as_deref(), &target.place.stack_name),
            Self::find_table(deployment),
            StackSurvey::read(deployment),
        )?;
        Ok(Self { bucket, table, stack })
    }

    /// The API's table. The stack of a Couchbase cluster has none.
    pub async fn find_table(deployment: Deployment<'_>) -> anyhow::Result<Option<Table>> {
        let Deployment { aws, target, cluster, .. } = deployment;
        if cluster.is_some() {
            return Ok(None);
        }
        let table = Table::find(&aws.dynamodb, &target.table.table_name).await?;
        table.iter().try_for_each(Table::check_replicas)?;
        Ok(table)
    }

    /// What the user must confirm before the deployment.
    pub fn risks(&self, target: &Target) -> Vec<Risk> {
        let owner = self.table.as_ref().and_then(|table| table.stack.as_deref());
        let Target { place, table, stack, .. } = target;
        let (name, before, action) =
            (&place.stack_name, self.stack.stack.as_ref(), self.stack.action);
        let (is_signed, is_public) = (stack.auth == Auth::Iam, stack.is_public());
        let mut risks =
            stack::risks(name, before, action, &table.table_name, owner, is_signed, is_public);
        risks.extend(stack::lost_domain(before, stack.domain.endpoint().as_deref()));
        risks
    }

    /// The options for the table. If the stack was deployed with a key and it is omitted now, the table's key is removed. That may be an
    /// earlier one, if a change of the key was interrupted.
    pub fn table_options(&self, target: &Target) -> TableSettings {
        let mut options = target.stack.table.clone();
        let before = self.stack.stack.as_ref();
        let was_given = before.is_some_and(|stack| stack.parameter("KmsKeyArn").is_some());
        let has_key = self.table.as_ref().is_some_and(|table| table.settings.kms_key.is_some());
        if options.kms_key.is_none() && was_given && has_key {
            options.kms_key = Some(String::new());
        }
        options
    }
}

impl StackSurvey {
    pub async fn read(deployment: Deployment<'_>) -> anyhow::Result<Self> {
        let Deployment { aws, target, .. } = deployment;
        let (survey, template) = tokio::try_join!(
            Self::read_without_template(deployment),
            cloudformation::template(&aws.cloudformation, &target.place.stack_name),
        )?;
        Ok(Self { template, ..survey })
    }

    pub async fn read_without_template(deployment: Deployment<'_>) -> anyhow::Result<Self> {
        let Deployment { aws, target, cluster, .. } = deployment;
        let name = &target.place.stack_name;
        let known = async {
            match cluster {
                Some(cluster) => cluster.read_known(aws).await,
                None => Ok(Known::default()),
            }
        };
        let stack = cloudformation::find_to_change(&aws.cloudformation, name);
        let (stack, known) = tokio::try_join!(stack, known)?;
        let action = stack::next_action(name, stack.as_ref())?;
        match cluster {
            Some(cluster) => cluster.check(stack.as_ref(), action, &known)?,
            None => stack::check_api(name, stack.as_ref())?,
        }
        let mut function_sha256 = None;
        if let Some(function) = stack.as_ref().and_then(|it| it.outputs.get("FunctionName")) {
            let function = lambda::find(&aws.lambda, function).await?;
            function_sha256 = function.and_then(|function| function.sha256);
        }
        Ok(Self { stack, template: None, function_sha256, action, known })
    }

    /// The stack, if at most its function's code has to change.
    pub fn up_to_date(&self, desired: &DesiredStack) -> Option<&Stack> {
        let template = self.template.as_deref();
        self.stack.as_ref().filter(|stack| stack::is_up_to_date(stack, template, desired))
    }

    pub fn updatable(&self) -> Option<&Stack> {
        self.stack.as_ref().filter(|_| self.action == StackAction::Update)
    }

    /// The key of the artifact that the stack names.
    pub fn artifact_key(&self) -> Option<&str> {
        self.stack.as_ref().and_then(Stack::artifact_key)
    }

    /// Whether the function has the artifact's code, as far as that can be read.
    pub fn has_code(&self, artifact: &Artifact) -> bool {
        self.function_sha256.as_ref().is_none_or(|sha256| *sha256 == artifact.sha256)
    }
}
