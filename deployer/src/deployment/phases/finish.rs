//! The steps that follow the stack's change: its table, its code, its protection, and old artifacts.

use super::{super::DeployedStack, Applied, Deployment, Preparation, Survey};
use crate::{
    aws::{
        cloudformation,
        dynamodb::{self, Table, TableChange},
        lambda,
    },
    stack::Stack,
};

impl Preparation<'_> {
    /// Restores the code, protects the stack and deletes old artifacts once the stack is up to date.
    pub async fn finish(self, applied: Applied) -> anyhow::Result<DeployedStack> {
        let Applied { unchanged, round } = applied;
        let changed = unchanged.is_none();
        let prune = async {
            if changed {
                self.prune().await;
            }
        };
        let keeps_table = async { anyhow::Ok(!changed || self.keeps_table().await?) };
        let (stack, keeps_table, ()) = tokio::join!(self.read_again(unchanged), keeps_table, prune);
        let stack = stack?;
        let code_changed = self.restore_code(&stack, changed).await?;
        let has_changed_table = self.finish_table(keeps_table?).await?;
        let has_changed_protection = self.protect(&stack).await?;
        Ok(DeployedStack {
            is_fresh: changed || round > 0,
            stack,
            changed: self.has_changed_storage
                | changed
                | code_changed
                | has_changed_table
                | has_changed_protection,
            sha256: self.artifact.sha256.clone(),
            version: None,
            members: self.survey.stack.known.into_members(),
        })
    }

    /// Sets the stack's termination protection. Returns whether that was necessary.
    async fn protect(&self, stack: &Stack) -> anyhow::Result<bool> {
        let Deployment { aws, target, .. } = self.deployment;
        let Some(protect) = target.stack.protect.filter(|protect| *protect != stack.protected)
        else {
            return Ok(false);
        };
        cloudformation::protect(&aws.cloudformation, &self.desired.name, protect).await?;
        Ok(true)
    }

    /// The stack after its change.
    async fn read_again(&self, unchanged: Option<Stack>) -> anyhow::Result<Stack> {
        let client = &self.deployment.aws.cloudformation;
        match unchanged {
            Some(stack) => Ok(stack),
            None => cloudformation::find_changed(client, &self.desired.name).await,
        }
    }

    /// Deletes old artifacts. It only warns, because the deployment itself has succeeded.
    async fn prune(&self) {
        let Survey { bucket, stack: survey, .. } = &self.survey;
        let key = bucket.key(&self.artifact);
        let named: Vec<_> = survey.artifact_key().into_iter().chain([key.as_str()]).collect();
        if let Err(error) = bucket.prune(&named).await {
            let warning = "warning: cannot delete old artifacts";
            self.deployment.printer.message(format_args!("{warning}: {error:#}"));
        }
    }

    /// Whether the API's table exists and stays. Somebody else may have deleted it while the stack changed.
    async fn keeps_table(&self) -> anyhow::Result<bool> {
        let Deployment { aws, target, cluster, .. } = self.deployment;
        let name = &target.table.table_name;
        Ok(cluster.is_some() || dynamodb::is_kept(&aws.dynamodb, name).await?)
    }

    /// Gives the table the key of `--kms-key`, which the function may use by now, and creates the table again if it was deleted. Returns
    /// whether that was necessary.
    async fn finish_table(&self, is_kept: bool) -> anyhow::Result<bool> {
        let Deployment { aws, target, printer, .. } = self.deployment;
        let options = &target.stack.table;
        if self.deployment.cluster.is_some() || (is_kept && options.kms_key.is_none()) {
            return Ok(false);
        }
        let name = &target.table.table_name;
        let table = Table::find(&aws.dynamodb, name).await?;
        let tags = target.table_tags();
        let change = dynamodb::ensure(&aws.dynamodb, name, table, options, tags).await?;
        match change {
            TableChange::Unchanged => return Ok(false),
            TableChange::Created => printer.step("table").done(format_args!(
                "`{name}` created again; it was deleted during this deployment"
            )),
            TableChange::SettingsChanged => {
                printer.step("table").done(format_args!("`{name}` {change}"));
            }
        }
        Ok(true)
    }

    /// Restores code that was replaced outside the stack. Returns whether that was necessary.
    async fn restore_code(&self, stack: &Stack, stack_changed: bool) -> anyhow::Result<bool> {
        let Self { deployment: Deployment { aws, printer, .. }, survey, artifact, .. } = self;
        let Survey { bucket, stack: survey, .. } = survey;
        let key = bucket.key(artifact);
        // CloudFormation updates the code only if the stack names another artifact than before.
        if stack_changed && (survey.artifact_key() != Some(&key) || survey.has_code(artifact)) {
            return Ok(false);
        }
        let step = printer.step("stack");
        if survey.has_code(artifact) {
            step.done("up to date");
            return Ok(false);
        }
        let function = stack.output("FunctionName")?;
        lambda::replace_code(&aws.lambda, function, artifact, artifact.arch).await?;
        step.done(
            "up to date; restored the function's code, which had been replaced outside the stack",
        );
        Ok(true)
    }
}
