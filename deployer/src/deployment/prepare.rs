//! The first phase: everything up to the change of the stack, and what is left to do after it. Dropping it harms nothing.

use super::{
    DeployedStack, Follower, Options, StackSurvey, Survey,
    apply::{PendingChange, Request},
    desired_stack,
};
use crate::{
    aws::{
        Aws,
        cloudformation::{self, ChangeSet, Created, UpdateMode, Watch},
        dynamodb::{self, Table},
        lambda,
        s3::Bucket,
    },
    package::{FunctionSource, artifact::Artifact},
    printer::{Printer, Step},
    prompt::confirm,
    settings::Target,
    stack::{self, DesiredStack, Risk, Stack, StackAction},
};

/// A deployment whose artifact is built, and whose table and bucket exist.
pub struct Preparation<'a> {
    aws: &'a Aws,
    target: &'a Target,
    options: Options,
    printer: &'a Printer,
    follower: Follower,
    bucket: Bucket,
    bucket_existed: bool,
    artifact: Artifact,
    desired: DesiredStack,
    /// Whether table or bucket had to be created.
    created: bool,
    survey: StackSurvey,
    consents: Consents,
}

/// What the user has agreed to, so that no question is asked again.
#[derive(Default)]
struct Consents {
    risks: Vec<Risk>,
    wait: bool,
}

#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Round {
    UpToDate(Stack),
    /// Somebody else has changed the stack.
    ReadAgain,
    Change(PendingChange),
}

impl<'a> Preparation<'a> {
    /// Reads everything, asks, builds, and creates table and bucket.
    pub async fn begin(
        aws: &'a Aws,
        target: &'a Target,
        options: Options,
        function: FunctionSource,
        printer: &'a Printer,
    ) -> anyhow::Result<Self> {
        let name = &target.place.stack_name;
        let bucket = target.bucket.as_deref();
        let survey = Survey::read(aws, name, &target.table.table_name, bucket).await?;
        let Survey { bucket, bucket_exists, table, stack: survey } = survey;
        let follower = Follower::new(&aws.cloudformation, &target.place);
        let mut consents = Consents::default();
        let owner = table.as_ref().and_then(Table::stack);
        ask(&survey, target, owner, options, &follower, &mut consents, printer).await?;

        let build = build(function, printer);
        let create_table = async {
            let step = printer.step("table");
            let (client, table_name) = (&aws.dynamodb, &target.table.table_name);
            let created = dynamodb::ensure(client, table_name, table, name, &target.tags()).await?;
            step.done(format_args!(
                "`{table_name}` {}",
                if created { "created" } else { "exists" }
            ));
            anyhow::Ok(created)
        };
        let create_bucket = async {
            if !bucket_exists {
                let step = printer.step("bucket");
                bucket.create(&aws.s3, &aws.region).await?;
                bucket.protect(&aws.s3).await?;
                step.done(format_args!("`{}` created", bucket.name));
            }
            anyhow::Ok(!bucket_exists)
        };
        // Each to its end: a failed build must not leave table or bucket incomplete.
        let (bucket_created, table_created, artifact) =
            tokio::join!(create_bucket, create_table, build);
        let errors =
            [bucket_created.as_ref().err(), table_created.as_ref().err(), artifact.as_ref().err()];
        // The first error ends the program, which prints it last; the others are printed here.
        for error in errors.into_iter().flatten().skip(1) {
            printer.error(error);
        }
        let created = bucket_created? | table_created?;
        let artifact = artifact?;
        let desired = desired_stack(target, &bucket, &artifact)?;
        Ok(Self {
            aws,
            target,
            options,
            printer,
            follower,
            bucket,
            bucket_existed: bucket_exists,
            artifact,
            desired,
            created,
            survey,
            consents,
        })
    }

    /// Prepares what the stack needs next. `change_set` holds a change set as soon as one may exist.
    pub async fn round(
        &mut self,
        round: usize,
        change_set: &mut Option<ChangeSet>,
    ) -> anyhow::Result<Round> {
        if round > 0 {
            let Self { target, options, follower, consents, printer, .. } = self;
            self.survey = StackSurvey::read(self.aws, &target.place.stack_name).await?;
            // The table is as it was.
            ask(&self.survey, target, None, *options, follower, consents, printer).await?;
        }
        if let Some(stack) = self.survey.up_to_date(&self.desired) {
            return Ok(Round::UpToDate(stack.clone()));
        }
        match (self.survey.action, &self.survey.stack) {
            (StackAction::Wait, Some(stack)) => {
                let patience = self.options.wait_for_stack;
                self.follower.wait(stack, patience, self.printer).await?;
                Ok(Round::ReadAgain)
            }
            (StackAction::Create | StackAction::Update, _) | (_, None) => {
                self.upload().await?;
                self.prepare_change(change_set).await
            }
            (_, Some(stack)) => {
                let step = self.printer.step("stack");
                let watch = Watch::begin(&self.aws.cloudformation, &stack.id).await?;
                Ok(watch.map_or(Round::ReadAgain, |watch| {
                    let (stack, action) = (stack.clone(), self.survey.action);
                    let role_arn = self.target.role_arn.clone();
                    let request = Request::Recover { stack, action, role_arn };
                    let follower = self.follower.clone();
                    Round::Change(PendingChange { request, follower, watch, step })
                }))
            }
        }
    }

    async fn upload(&self) -> anyhow::Result<()> {
        let Self { aws, bucket, artifact, .. } = self;
        let step = self.printer.step("upload");
        if bucket.holds(&aws.s3, artifact).await? {
            step.done("the bucket has it already");
            return Ok(());
        }
        let protect = async {
            if self.bucket_existed {
                bucket.protect(&aws.s3).await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(protect, bucket.upload(&aws.s3, artifact))?;
        step.done(format_args!("to bucket `{}`", bucket.name));
        Ok(())
    }

    async fn prepare_change(&self, slot: &mut Option<ChangeSet>) -> anyhow::Result<Round> {
        let client = &self.aws.cloudformation;
        let mut step = self.printer.step("stack");
        step.note("preparing the change");
        let mode = self.options.update_mode;
        if mode.express {
            step.line("express: complete before the resources serve");
        }
        let before = self.survey.updatable();
        let (stack_id, changes) = match draft(slot, client, &self.desired, mode, before).await? {
            Created::Changes { stack_id, changes } => (stack_id, changes),
            Created::Empty => {
                let stack = cloudformation::find_changed(client, &self.desired.name).await?;
                return Ok(Round::UpToDate(stack));
            }
            Created::Overtaken => return Ok(overtaken(&mut step)),
        };
        step.expect(changes.len());
        let losses = stack::losses(&changes);
        if !losses.is_empty() {
            let question = Risk::Losses(losses).question(&self.desired.name);
            confirm(&question, self.options.yes, self.printer).await?;
        }
        let watch = Watch::begin(client, &stack_id).await?;
        // Without the stack, its change set is gone, too.
        let (Some(mut watch), Some(change_set)) = (watch, slot.take()) else {
            return Ok(overtaken(&mut step));
        };
        watch.expect(&changes);
        let request = Request::Execute { change_set, is_update: before.is_some() };
        Ok(Round::Change(PendingChange { request, follower: self.follower.clone(), watch, step }))
    }

    /// Restores the code, protects the stack and deletes old artifacts once the stack is up to date.
    pub async fn finish(
        self,
        unchanged: Option<Stack>,
        round: usize,
    ) -> anyhow::Result<DeployedStack> {
        let changed = unchanged.is_none();
        let stack = match unchanged {
            Some(stack) => stack,
            None => {
                cloudformation::find_changed(&self.aws.cloudformation, &self.desired.name).await?
            }
        };
        let code_changed = self.restore_code(&stack, changed).await?;
        let protection_changed = self.protect(&stack).await?;
        if changed {
            let key = self.bucket.key(&self.artifact);
            let named = [Some(key.as_str()), self.survey.artifact_key()];
            let named: Vec<_> = named.into_iter().flatten().collect();
            // The deployment itself has succeeded.
            if let Err(error) = self.bucket.prune(&self.aws.s3, &named).await {
                let warning = "warning: cannot delete old artifacts";
                self.printer.message(format_args!("{warning}: {error:#}"));
            }
        }
        Ok(DeployedStack {
            stack,
            changed: self.created | changed | code_changed | protection_changed,
            // Somebody else may have created the stack just now.
            is_fresh: changed || round > 0,
            artifact: self.artifact,
            version: None,
        })
    }

    /// Makes sure that the function has the code that the stack names: it may have been replaced outside the stack. Returns whether
    /// it had to be changed.
    async fn restore_code(&self, stack: &Stack, stack_changed: bool) -> anyhow::Result<bool> {
        let Self { survey, artifact, .. } = self;
        let key = self.bucket.key(artifact);
        // CloudFormation updates the code only if the stack names another artifact than before.
        if stack_changed && (survey.artifact_key() != Some(&key) || survey.has_code(artifact)) {
            return Ok(false);
        }
        let step = self.printer.step("stack");
        if survey.has_code(artifact) {
            step.done("is up to date");
            return Ok(false);
        }
        let function = stack.output("FunctionName")?;
        lambda::replace_code(&self.aws.lambda, function, artifact, artifact.arch).await?;
        step.done(
            "is up to date; the function's code was replaced outside the stack, and is restored",
        );
        Ok(true)
    }

    /// Returns whether the termination protection had to be changed.
    async fn protect(&self, stack: &Stack) -> anyhow::Result<bool> {
        let protect = self.target.protect.filter(|protect| *protect != stack.protected);
        if let Some(protect) = protect {
            let client = &self.aws.cloudformation;
            cloudformation::protect(client, &self.desired.name, protect).await?;
        }
        Ok(protect.is_some())
    }
}

fn overtaken(step: &mut Step) -> Round {
    step.line("somebody else changed the stack; reading it again");
    Round::ReadAgain
}

/// Asks about everything that needs the user's consent and does not have it yet.
async fn ask(
    survey: &StackSurvey,
    target: &Target,
    table_owner: Option<&str>,
    Options { yes, wait_for_stack, .. }: Options,
    follower: &Follower,
    consents: &mut Consents,
    printer: &Printer,
) -> anyhow::Result<()> {
    let stack = survey.stack.as_ref();
    let (name, table) = (&target.place.stack_name, &target.table.table_name);
    for risk in stack::risks(name, stack, survey.action, table, table_owner, target.auth) {
        if !consents.risks.contains(&risk) {
            confirm(&risk.question(name), yes, printer).await?;
            consents.risks.push(risk);
        }
    }
    if let (StackAction::Wait, Some(stack), false) = (survey.action, stack, consents.wait) {
        follower.check_patience(stack, wait_for_stack, yes, printer).await?;
        consents.wait = true;
    }
    Ok(())
}

pub async fn build(function: FunctionSource, printer: &Printer) -> anyhow::Result<Artifact> {
    let mut step = printer.step("build");
    let artifact = function.artifact(&mut step).await?;
    step.done(format_args!("{} bytes, sha256 {}", artifact.zip.len(), artifact.sha256));
    Ok(artifact)
}

/// Creates a change set. `slot` holds it as long as it may have to be removed again.
pub async fn draft(
    slot: &mut Option<ChangeSet>,
    client: &aws_sdk_cloudformation::Client,
    desired: &DesiredStack,
    mode: UpdateMode,
    before: Option<&Stack>,
) -> anyhow::Result<Created> {
    let change_set = slot.insert(ChangeSet::new(client, &desired.name, before));
    let created = change_set.create(desired, mode, before).await?;
    match created {
        Created::Changes { .. } => return Ok(created),
        Created::Empty => change_set.discard().await?,
        Created::Overtaken => change_set.discard_overtaken().await,
    }
    *slot = None;
    Ok(created)
}
