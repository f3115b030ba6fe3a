//! The phases of a deployment after the survey, and the steps that follow them.

mod finish;

use super::{Applied, ClusterStack, Deployment, Follower, StackSurvey, Survey, Watch};
use crate::{
    aws::{
        cloudformation::{self, ChangeSet},
        dynamodb::{self, TableChange, TableSettings},
        s3::Bucket,
    },
    exit::Exit,
    failure::Failure,
    package::{ArtifactSource, artifact::Artifact},
    printer::{Printer, Step},
    prompt::confirm,
    signals::Signals,
    stack::{self, Change, DesiredStack, Operation, Risk, Stack, StackAction},
};

/// A deployment whose artifact is built.
pub struct Preparation<'a> {
    deployment: Deployment<'a>,
    artifact: Artifact,
    desired: DesiredStack,
    /// Whether the table or the bucket had to be created or changed.
    has_changed_storage: bool,
    /// As the round found it.
    survey: Survey,
    consents: Consents,
}

/// What the user has confirmed, so that no question is asked twice.
#[derive(Default)]
struct Consents {
    risks: Vec<Risk>,
    wait: bool,
}

/// What the stack needs next.
enum Next {
    Nothing(Stack),
    /// Someone else's change has ended, and the stack must be read again.
    Survey,
    /// A change that is ready to be requested.
    Change(Watch, Step),
}

impl<'a> Preparation<'a> {
    /// Reads everything, asks and builds. Changes nothing.
    pub async fn begin(
        deployment: Deployment<'a>,
        artifact: impl Future<Output = anyhow::Result<ArtifactSource>>,
    ) -> anyhow::Result<Self> {
        let Deployment { cluster, printer, .. } = deployment;
        let (artifact, survey) = tokio::join!(artifact, Survey::read(deployment));
        // An error on this machine comes first.
        let (artifact, survey) = (artifact?, survey?);
        let StackSurvey { action, known, .. } = &survey.stack;
        if let Some(warning) = cluster.and_then(|cluster| cluster.warning(*action, known)) {
            printer.message(warning);
        }
        let mut consents = Consents::default();
        deployment.ask(&survey, &mut consents).await?;
        let artifact = build(artifact, printer).await?;

        Ok(Self {
            deployment,
            desired: deployment.desired_stack(&survey, &artifact)?,
            artifact,
            has_changed_storage: false,
            survey,
            consents,
        })
    }

    /// Prepares and applies what the stack needs next; `None` if the stack must be read again. A signal drops this future, so the caller
    /// must remove the change set that is still open.
    pub async fn round(
        &mut self,
        round: usize,
        open_change_set: &mut Option<ChangeSet>,
        signals: &mut Signals,
    ) -> anyhow::Result<Option<Applied>> {
        match signals.or_stopped(self.prepare(round, open_change_set)).await? {
            Next::Nothing(stack) => Ok(Some(Applied { unchanged: Some(stack), round })),
            Next::Survey => Ok(None),
            Next::Change(watch, step) => {
                let is_deployed = self.apply(watch, step, open_change_set, signals).await?;
                Ok(is_deployed.then_some(Applied { unchanged: None, round }))
            }
        }
    }

    async fn prepare(
        &mut self,
        round: usize,
        open_change_set: &mut Option<ChangeSet>,
    ) -> anyhow::Result<Next> {
        let deployment = self.deployment;
        if round > 0 {
            // Somebody else may have changed the stack or deleted the table since the last round.
            (self.survey.stack, self.survey.table) =
                tokio::try_join!(StackSurvey::read(deployment), Survey::find_table(deployment))?;
            self.desired = deployment.desired_stack(&self.survey, &self.artifact)?;
            deployment.ask(&self.survey, &mut self.consents).await?;
        }
        let table_options = self.table_options();
        let Survey { bucket, table, stack: survey } = &self.survey;
        // An existing table is changed after the questions.
        let changes_table = table.as_ref().is_some_and(|table| table.is_changed_by(&table_options));
        let up_to_date = self.up_to_date().cloned();
        let needs_change_set = up_to_date.is_none() && survey.action.reaches_goal();
        let table =
            async { anyhow::Ok(!changes_table && self.ensure_table(&table_options).await?) };
        let bucket = async {
            let is_new = round == 0 && deployment.create_bucket(bucket).await?;
            if needs_change_set {
                self.upload().await?;
            }
            Ok(is_new)
        };
        let draft =
            async { if needs_change_set { self.draft(open_change_set).await } else { Ok(None) } };
        // All three run to their end, so that none leaves something incomplete because another one failed.
        let (table, bucket, draft) = tokio::join!(table, bucket, draft);
        let errors = [table.as_ref().err(), bucket.as_ref().err(), draft.as_ref().err()];
        deployment.printer.print_all_but_first(errors);
        self.has_changed_storage |= table? | bucket?;
        let draft = draft?;
        let next = match (survey.action, &survey.stack, up_to_date) {
            (_, _, Some(stack)) => Next::Nothing(stack),
            (StackAction::Create | StackAction::Update, ..) => self.confirm_change(draft).await?,
            (StackAction::Wait, Some(stack), _) => {
                let Deployment { wait_for_stack, printer, .. } = deployment;
                deployment.follower().wait(stack, wait_for_stack, printer).await?;
                return Ok(Next::Survey);
            }
            (_, Some(stack), _) => {
                let step = deployment.printer.step("stack");
                return Ok(Next::Change(self.watch(&stack.id, Some(stack)).await?, step));
            }
            (_, None, _) => return Err(stack::overtaken(&self.desired.name).into()),
        };
        if changes_table {
            self.has_changed_storage |= self.ensure_table(&table_options).await?;
        }
        Ok(next)
    }

    /// The stack, if no change set is needed to know that it is up to date. A cluster's stack needs one: only a change set reads the
    /// SSM parameter of the newest image again.
    fn up_to_date(&self) -> Option<&Stack> {
        self.survey.stack.up_to_date(&self.desired).filter(|_| self.deployment.cluster.is_none())
    }

    /// The options for the table before the stack's change. A key for an existing table waits for it: the role of an older template may
    /// not use the key.
    fn table_options(&self) -> TableSettings {
        let mut options = self.survey.table_options(self.deployment.target);
        if self.survey.table.is_some() {
            options.kms_key = options.kms_key.filter(String::is_empty);
        }
        options
    }

    /// Creates or completes the table. Returns whether that was necessary.
    async fn ensure_table(&self, options: &TableSettings) -> anyhow::Result<bool> {
        if self.deployment.cluster.is_some() {
            return Ok(false);
        }
        let Deployment { aws, target, printer, .. } = self.deployment;
        let step = printer.step("table");
        let (name, tags) = (&target.table.table_name, target.table_tags());
        let table = self.survey.table.clone();
        let change = dynamodb::ensure(&aws.dynamodb, name, table, options, tags).await?;
        step.done(format_args!("`{name}` {change}"));
        Ok(change != TableChange::Unchanged)
    }

    async fn upload(&self) -> anyhow::Result<()> {
        let Self { deployment: Deployment { printer, target, .. }, survey, artifact, .. } = self;
        let Survey { bucket, stack: survey, .. } = survey;
        let step = printer.step("upload");
        let kms_key = target.stack.table.kms_key.as_deref();
        // A new bucket is protected already. Only a protected bucket has the artifact, so an interrupted run is repaired.
        if bucket.exists {
            // Another deployment may delete an artifact that no stack names before CloudFormation reads it. A new upload makes it the newest.
            let is_named = survey.artifact_key() == Some(&bucket.key(artifact));
            if is_named && bucket.holds(artifact, kms_key).await? {
                step.done("the bucket has it already");
                return Ok(());
            }
            bucket.protect(kms_key).await?;
        }
        bucket.upload(artifact).await?;
        step.done(format_args!("to bucket `{}`", bucket.name));
        Ok(())
    }

    /// Creates a change set; `None` if it has no changes. Events count from its creation on: if someone else changes the stack after
    /// it, it cannot be executed.
    async fn draft(
        &self,
        open_change_set: &mut Option<ChangeSet>,
    ) -> anyhow::Result<Option<(Vec<Change>, Watch, Step)>> {
        let Deployment { aws, update_mode, printer, .. } = self.deployment;
        let client = &aws.cloudformation;
        let mut step = printer.step("stack");
        step.note("preparing the change");
        if update_mode.express {
            step.line("express: completes before the resources are ready");
        }
        let before = self.survey.stack.updatable();
        let change_set = open_change_set.insert(ChangeSet::new(client, &self.desired.name, before));
        let stack_id = change_set.request(&self.desired, update_mode, before).await?;
        let (draft, watch) = match before {
            Some(before) => {
                // Someone else may have changed the stack while this run built and asked. A change that begins after this makes
                // the change set obsolete.
                let now = cloudformation::find(client, &self.desired.name);
                let (draft, watch, now) =
                    tokio::try_join!(change_set.read(), self.watch(&stack_id, Some(before)), now)?;
                if stack::has_changed(Some(before), now.as_ref()) {
                    return Err(stack::overtaken(&self.desired.name).into());
                }
                (draft, watch)
            }
            // A new stack may not be readable yet.
            None => (change_set.read().await?, self.watch(&stack_id, None).await?),
        };
        Ok(draft.map(|draft| (draft, watch, step)))
    }

    /// Shows the change, and asks before it loses something.
    async fn confirm_change(
        &self,
        draft: Option<(Vec<Change>, Watch, Step)>,
    ) -> anyhow::Result<Next> {
        let Deployment { aws, yes, printer, .. } = self.deployment;
        let before = self.survey.stack.updatable();
        let Some((changes, watch, mut step)) = draft else {
            let stack =
                cloudformation::find_changed(&aws.cloudformation, &self.desired.name).await?;
            return Ok(Next::Nothing(stack));
        };
        step.expect(changes.len());
        match before {
            Some(before) => {
                for line in stack::update_lines(before, &self.desired, &changes) {
                    step.line(line);
                }
            }
            None if self.desired.is_public_api() => step.line(
                "the API is public: anyone who knows its URL can call it (`--auth iam` and `--require-secret` restrict that)",
            ),
            None => (),
        }
        let losses = stack::losses(&changes);
        if !losses.is_empty() {
            let (name, losses) = (&self.desired.name, losses.join("; "));
            let question = format!("This update of stack `{name}` {losses}. Continue?");
            confirm(&question, yes, printer).await?;
        }
        Ok(Next::Change(watch, step))
    }

    async fn watch(&self, stack_id: &str, before: Option<&Stack>) -> anyhow::Result<Watch> {
        let client = &self.deployment.aws.cloudformation;
        let watch = Watch::begin(client, stack_id, before).await?;
        Ok(watch.ok_or_else(|| stack::overtaken(&self.desired.name))?)
    }

    /// Changes the stack. Returns whether it is deployed; otherwise it must be read again.
    async fn apply(
        &self,
        watch: Watch,
        mut step: Step,
        open_change_set: &mut Option<ChangeSet>,
        signals: &mut Signals,
    ) -> anyhow::Result<bool> {
        let operation = match open_change_set {
            Some(change_set) => {
                let before = self.survey.stack.updatable();
                change_set.execute(before).await?;
                before.map_or(Operation::Create, |_| Operation::Update)
            }
            None => self.recover(&mut step).await?,
        };
        let is_deployed = open_change_set.take().is_some();
        let remains = self.deployment.cluster.map(ClusterStack::after_failed_creation);
        let follower = Follower { remains: remains.as_deref(), ..self.deployment.follower() };
        follower.follow(operation, watch, &mut step, signals).await?;
        step.done(operation.outcome());
        Ok(is_deployed)
    }

    /// Brings the stack into a state in which it can be deployed.
    async fn recover(&self, step: &mut Step) -> anyhow::Result<Operation> {
        let (Some(stack), name) = (&self.survey.stack.stack, &self.desired.name) else {
            return Err(stack::overtaken(&self.desired.name).into());
        };
        let (client, role_arn) =
            (&self.deployment.aws.cloudformation, self.desired.role_arn.clone());
        let status = &stack.status;
        let recovers = match self.survey.stack.action {
            StackAction::ContinueRollback => "continuing the rollback",
            StackAction::RollBack => "rolling back first",
            _ => {
                step.line(format_args!("{status} after an earlier failure; deleting the stack"));
                cloudformation::request_deletion(client, &stack.id, role_arn).await?;
                return Ok(Operation::Delete);
            }
        };
        step.line(format_args!("{status}: {recovers}"));
        cloudformation::roll_back(client, name, stack, role_arn).await?;
        Ok(Operation::Rollback)
    }
}

impl Deployment<'_> {
    /// Creates the bucket if it is missing. Returns whether that was necessary.
    async fn create_bucket(self, bucket: &Bucket) -> anyhow::Result<bool> {
        if bucket.exists {
            return Ok(false);
        }
        let step = self.printer.step("bucket");
        bucket.create().await?;
        bucket.protect(self.target.stack.table.kms_key.as_deref()).await?;
        step.done(format_args!("`{}` created", bucket.name));
        Ok(true)
    }

    /// Asks for each confirmation that is needed and not yet given.
    async fn ask(self, survey: &Survey, consents: &mut Consents) -> anyhow::Result<()> {
        let Self { target, yes, printer, .. } = self;
        let StackSurvey { stack, action, .. } = &survey.stack;
        for risk in survey.risks(target) {
            if !consents.risks.contains(&risk) {
                confirm(&risk.question(&target.place.stack_name), yes, printer).await?;
                consents.risks.push(risk);
            }
        }
        if let (StackAction::Wait, Some(stack), false) = (action, stack, consents.wait) {
            self.follower().check_patience(stack, self.wait_for_stack, yes, printer).await?;
            consents.wait = true;
        }
        Ok(())
    }
}

pub async fn build(source: ArtifactSource, printer: &Printer) -> anyhow::Result<Artifact> {
    let mut step = printer.step("build");
    let artifact = source.artifact(&mut step).await?;
    step.done(format_args!("{} bytes, sha256 {}", artifact.bytes.len(), artifact.sha256));
    Ok(artifact)
}

/// Whether the error is that someone else changed the stack after it was read.
pub fn reports_overtaking(error: &anyhow::Error) -> bool {
    Failure::find_in(error).is_some_and(|failure| failure.exit == Exit::Changed)
}

/// Removes a change set that was not executed. Failing to do so only warns.
pub async fn discard_after<T>(
    result: anyhow::Result<T>,
    open_change_set: Option<ChangeSet>,
    printer: &Printer,
) -> anyhow::Result<T> {
    let discarded = match open_change_set {
        // The stack stays, even if it still looks empty: someone else is creating it.
        Some(set) if result.as_ref().is_err_and(reports_overtaking) => set.delete().await,
        Some(set) => set.discard().await,
        None => Ok(()),
    };
    if let Err(error) = discarded {
        printer.message(format_args!("warning: {error:#}"));
    }
    result
}
