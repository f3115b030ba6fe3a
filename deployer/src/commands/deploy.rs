//! `deploy`: puts the API up in AWS.

use std::{collections::BTreeMap, fmt::Display};

use cbbootstrap_cli::signer::Signer;
use serde::Serialize;

use super::{
    confirm, curl, follow,
    wanted::{self, Found, FoundStack},
};

use crate::{
    aws::{
        Aws,
        cloudformation::{self, ChangeSet, Execution, Mode, Prepared, Wanted, Watch},
        dynamodb, lambda,
        s3::Bucket,
    },
    cli::DeployArgs,
    failure::{Exit, Failure},
    github,
    package::{Function, artifact::Artifact},
    printer::{Printer, Step},
    settings::Target,
    signals::Signals,
    smoke,
    stack::{self, Next, Operation, Stack},
    values::Auth,
};

/// So often the stack is looked at again because of others, before that is enough.
const ROUNDS: usize = 10;

/// What a deployment came to.
#[derive(Debug, Serialize)]
pub struct Deployed {
    endpoint: String,
    /// Who may call it.
    auth: Auth,
    stack_name: String,
    region: String,
    /// Whether anything had to be changed.
    changed: bool,
    function_sha256: String,
    /// The version that was published; none where the stack was deployed.
    function_version: Option<String>,
    table: String,
    /// The smoke test's result; none where it was left out.
    smoke: Option<smoke::Report>,
    /// How long each step took.
    seconds: BTreeMap<&'static str, f64>,
}

impl Display for Deployed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, auth, stack_name, region, function_sha256, table, .. } = self;
        let changed = match &self.function_version {
            Some(_) => "its function's code replaced",
            None if self.changed => "deployed",
            None => "nothing to change",
        };
        writeln!(f, "Endpoint: {endpoint}")?;
        writeln!(f, "Stack:    {stack_name} in {region}, {changed}")?;
        write!(f, "Function: sha256 {function_sha256}")?;
        if let Some(version) = &self.function_version {
            write!(f, ", version {version}")?;
        }
        writeln!(f, "\nTable:    {table}")?;
        let signed_in = (*auth == Auth::Iam).then_some(region.as_str());
        writeln!(f, "Try it:   {}", curl(endpoint, signed_in))
    }
}

/// What all that came before has led to.
struct Outcome {
    stack: Stack,
    /// Whether anything had to be changed.
    changed: bool,
    /// Whether the endpoint may be new, and not everywhere yet.
    fresh: bool,
    artifact: Artifact,
    /// The version of the function that was published.
    version: Option<String>,
}

/// A deployment under way.
struct Deployment<'a> {
    aws: Aws,
    args: &'a DeployArgs,
    target: &'a Target,
    printer: &'a Printer,
}

/// Deploys to AWS.
pub async fn run(args: DeployArgs, printer: &Printer, signals: &mut Signals) -> anyhow::Result<()> {
    let target = Target::new(args.target.clone(), args.wait, args.function.build.arch)?;
    let deployed = deploy(&args, &target, printer, signals).await;
    let deployed = github::or_failed(printer, "deploy", &target.place.stack_name, deployed)?;
    printer.result(&deployed)?;
    github::report(printer, &deployed.note());
    let verdict = deployed.smoke.as_ref().map(smoke::Report::verdict);
    Ok(verdict.unwrap_or(Ok(()))?)
}

async fn deploy(
    args: &DeployArgs,
    target: &Target,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<Deployed> {
    let begin = async {
        // What can be wrong on this machine is found before anything is asked of AWS, and what can be wrong there before
        // anything is made.
        let function =
            Function::find(args.function.function_zip.as_deref(), &args.function.build).await?;
        let aws = Aws::connect(&target.place.access).await?;
        let found = wanted::look(&aws, target).await?;
        anyhow::Ok((function, aws, found))
    };
    let (function, aws, found) = signals.or_stopped(begin).await?;
    let deployment = Deployment { aws, args, target, printer };
    let outcome = if args.code_only {
        let replaced = deployment.replace_code(function, found);
        signals.or_stopped(replaced).await?
    } else {
        deployment.deploy(function, found, signals).await?
    };
    let endpoint = outcome.stack.output("Endpoint")?.to_owned();
    let auth = outcome.stack.auth();
    let smoke = if args.no_smoke {
        None
    } else {
        let smoke = async {
            let signer = deployment.aws.signer(auth).await?;
            run_smoke(&endpoint, signer, outcome.fresh, printer).await
        };
        Some(signals.or_stopped(smoke).await?)
    };
    Ok(Deployed {
        endpoint,
        auth,
        stack_name: target.place.stack_name.clone(),
        region: deployment.aws.region.clone(),
        changed: outcome.changed,
        function_sha256: outcome.artifact.sha256,
        function_version: outcome.version,
        table: target.table_name.clone(),
        smoke,
        seconds: printer.seconds(),
    })
}

impl Deployed {
    fn note(&self) -> github::Note {
        let mut note = github::Deployed {
            endpoint: &self.endpoint,
            stack_name: &self.stack_name,
            region: &self.region,
            changed: self.changed,
            function_sha256: &self.function_sha256,
            table: &self.table,
            seconds: &self.seconds,
            smoke: self.smoke.as_ref().map(github::Tested::from),
        }
        .note();
        if let Some(version) = &self.function_version {
            note.outputs.push(("function_version", version.clone()));
        }
        note
    }
}

impl Deployment<'_> {
    fn name(&self) -> &str {
        &self.target.place.stack_name
    }

    /// Brings everything to what is wanted.
    async fn deploy(
        &self,
        function: Function,
        found: Found,
        signals: &mut Signals,
    ) -> anyhow::Result<Outcome> {
        let Found { bucket, bucket_exists, table, stack: mut found } = found;
        let mut answered = Vec::new();
        signals.or_stopped(self.ask(&found, &mut answered)).await?;
        let prepare = self.prepare(function, table, &bucket, bucket_exists);
        let (made, artifact) = signals.or_stopped(prepare).await?;
        let parameters = wanted::parameters(self.target, &bucket, &artifact)?;
        let wanted = wanted::wanted(self.target, &parameters);
        for round in 0..ROUNDS {
            if round > 0 {
                let look = async {
                    let found = FoundStack::look(&self.aws, self.name()).await?;
                    self.ask(&found, &mut answered).await?;
                    anyhow::Ok(found)
                };
                found = signals.or_stopped(look).await?;
            }
            let settled = match found.met(&wanted) {
                Some(stack) => Some((stack.clone(), false)),
                None if matches!(found.next, Next::Create | Next::Update) => {
                    let upload = self.upload(&bucket, bucket_exists, &artifact);
                    signals.or_stopped(upload).await?;
                    self.change(&wanted, &found, signals).await?
                }
                None => {
                    self.clear_the_way(&found, signals).await?;
                    None
                }
            };
            if let Some((stack, changed)) = settled {
                let key = bucket.key(&artifact);
                let settle_code = self.settle_code(&stack, &found, changed, &artifact, &key);
                let code_changed = signals.or_stopped(settle_code).await?;
                let protected = signals.or_stopped(self.protect(&stack)).await?;
                if changed {
                    let named = [Some(key.as_str()), found.artifact_key()];
                    let named: Vec<_> = named.into_iter().flatten().collect();
                    match signals.or_stopped(bucket.prune(&self.aws.s3, &named)).await {
                        Err(error)
                            if Failure::find_in(&error)
                                .is_some_and(|failure| failure.exit == Exit::Stopped) =>
                        {
                            return Err(error);
                        }
                        // The deployment is done: what is left over takes nothing from it.
                        Err(error) => self
                            .printer
                            .message(format_args!("warning: old artifacts are left: {error:#}")),
                        Ok(_) => (),
                    }
                }
                return Ok(Outcome {
                    stack,
                    changed: made | changed | code_changed | protected,
                    // Others may have made it just now.
                    fresh: changed || round > 0,
                    artifact,
                    version: None,
                });
            }
        }
        Err(Failure::new(format!(
            "stack `{}` was changed by others {ROUNDS} times meanwhile",
            self.name()
        ))
        .hint("see who deploys it, then run the same command again")
        .exit(Exit::Changed)
        .into())
    }

    /// Builds, and makes the table and the bucket where they are missing. Says whether one was.
    async fn prepare(
        &self,
        function: Function,
        table: Option<dynamodb::Table>,
        bucket: &Bucket,
        bucket_exists: bool,
    ) -> anyhow::Result<(bool, Artifact)> {
        let build = async {
            let mut step = self.printer.step("build");
            let artifact = function.artifact(&mut step).await?;
            step.done(format_args!("{} bytes, sha256 {}", artifact.zip.len(), artifact.sha256));
            anyhow::Ok(artifact)
        };
        let make_bucket = async {
            if !bucket_exists {
                let step = self.printer.step("bucket");
                bucket.create(&self.aws.s3, &self.aws.region).await?;
                bucket.protect(&self.aws.s3).await?;
                step.done(format_args!("`{}` created", bucket.name));
            }
            anyhow::Ok(!bucket_exists)
        };
        // All to their ends: a table or bucket must not be left half-made because a build fails.
        let (bucket_made, table_made, artifact) =
            tokio::join!(make_bucket, self.make_table(table), build);
        let errors =
            [bucket_made.as_ref().err(), table_made.as_ref().err(), artifact.as_ref().err()];
        // The first error ends the program, which tells it last; the others are told here.
        for error in errors.into_iter().flatten().skip(1) {
            self.printer.error(error);
        }
        Ok((bucket_made? | table_made?, artifact?))
    }

    /// Sees to it that the artifact is in the bucket.
    async fn upload(
        &self,
        bucket: &Bucket,
        bucket_exists: bool,
        artifact: &Artifact,
    ) -> anyhow::Result<()> {
        let step = self.printer.step("upload");
        if bucket.holds(&self.aws.s3, artifact).await? {
            step.done("the bucket has it already");
        } else {
            let protect = async {
                if bucket_exists {
                    bucket.protect(&self.aws.s3).await?;
                }
                anyhow::Ok(())
            };
            tokio::try_join!(protect, bucket.upload(&self.aws.s3, artifact))?;
            step.done(format_args!("to bucket `{}`", bucket.name));
        }
        Ok(())
    }

    /// Asks what must be asked about the stack as it was found, and was not answered yet.
    async fn ask(&self, found: &FoundStack, answered: &mut Vec<String>) -> anyhow::Result<()> {
        let (name, yes) = (self.name(), self.args.yes);
        let table = &self.target.table_name;
        let about_table = stack::question_about_table(name, found.stack.as_ref(), table);
        let about_access =
            stack::question_about_access(name, found.stack.as_ref(), self.target.auth);
        let about_rest = match (found.next, &found.stack) {
            (Next::ReplaceUsed, Some(stack)) => Some(format!(
                "Stack `{name}` is in {}: what is left of it, perhaps with its endpoint and its logs, must be deleted \
                 before it can be deployed anew. Go on?",
                stack.status
            )),
            _ => None,
        };
        let questions = about_table.into_iter().chain(about_access);
        for question in questions.chain(about_rest) {
            if !answered.contains(&question) {
                confirm(&question, yes, self.printer).await?;
                answered.push(question);
            }
        }
        if let (Next::Wait, Some(stack)) = (found.next, &found.stack) {
            let question = "wait".to_owned();
            if !answered.contains(&question) {
                let asked = self.target.wait_for_stack;
                follow::patience(&self.target.place, stack, asked, yes, self.printer).await?;
                answered.push(question);
            }
        }
        Ok(())
    }

    async fn make_table(&self, found: Option<dynamodb::Table>) -> anyhow::Result<bool> {
        let name = &self.target.table_name;
        let step = self.printer.step("table");
        let client = &self.aws.dynamodb;
        let made = dynamodb::ensure(client, name, found, &self.target.tags).await?;
        step.done(format_args!("`{name}` {}", if made { "created" } else { "is there" }));
        Ok(made)
    }

    /// Makes the change of the stack, and gives the stack after it and whether anything was changed; `None` if somebody
    /// else was quicker.
    async fn change(
        &self,
        wanted: &Wanted<'_>,
        found: &FoundStack,
        signals: &mut Signals,
    ) -> anyhow::Result<Option<(Stack, bool)>> {
        let client = &self.aws.cloudformation;
        let mut step = self.printer.step("stack");
        step.note("preparing the change");
        if self.args.express {
            step.line("express: complete before the resources serve, and no rollback alarm");
        }
        let before = found.stack.as_ref().filter(|_| found.next == Next::Update);
        let mode = self.mode(before);
        let set = match cloudformation::change_set(client, wanted, &mode, before, signals).await? {
            Prepared::Changes(set) => set,
            Prepared::Nothing => {
                let stack = cloudformation::find_changed(client, self.name()).await?;
                return Ok(Some((stack, false)));
            }
            Prepared::Overtaken => {
                step.line("somebody else changed the stack meanwhile; looking again");
                return Ok(None);
            }
        };
        step.expect(set.changes.len());
        let begun = async {
            let Some(watch) = signals.or_stopped(self.ready(&set)).await? else {
                return Ok(None);
            };
            let execution = set.execute(client).await?;
            anyhow::Ok((execution == Execution::Begun).then_some(watch))
        };
        let watch = match begun.await {
            Ok(Some(watch)) => watch,
            Ok(None) => {
                set.discard_overtaken(client).await;
                step.line("somebody else changed the stack meanwhile; looking again");
                return Ok(None);
            }
            Err(error) => {
                let _ = set.discard(client).await;
                return Err(error);
            }
        };
        let (operation, outcome) = match before {
            Some(_) => (Operation::Update, "updated"),
            None => (Operation::Create, "created"),
        };
        self.settled(operation, watch, &mut step, signals).await?;
        let find = cloudformation::find_changed(client, self.name());
        let stack = signals.or_stopped(find).await?;
        step.done(outcome);
        Ok(Some((stack, true)))
    }

    fn mode(&self, before: Option<&Stack>) -> Mode {
        let alarm = before
            .and_then(|stack| stack.outputs.get(cloudformation::ERROR_ALARM))
            .filter(|_| !self.args.no_rollback_alarm && !self.args.express);
        Mode {
            express: self.args.express,
            rollback_alarm: alarm.map(|arn| (arn.clone(), self.args.rollback_minutes)),
        }
    }

    /// What precedes the execution of a change set: a yes, where it takes one, and the watch over the stack.
    async fn ready(&self, set: &ChangeSet) -> anyhow::Result<Option<Watch>> {
        let losses = stack::losses(&set.changes);
        if !losses.is_empty() {
            let question =
                format!("This update of stack `{}` {}. Go on?", self.name(), losses.join(", "));
            confirm(&question, self.args.yes, self.printer).await?;
        }
        let watch = Watch::begin(&self.aws.cloudformation, &set.stack_id).await?;
        Ok(watch.map(|watch| watch.of(&set.changes)))
    }

    /// Brings the stack into a state in which it can be deployed.
    async fn clear_the_way(&self, found: &FoundStack, signals: &mut Signals) -> anyhow::Result<()> {
        let Some(stack) = &found.stack else {
            return Ok(());
        };
        let client = &self.aws.cloudformation;
        let role = self.target.role_arn.as_deref();
        if found.next == Next::Wait {
            let (place, asked) = (&self.target.place, self.target.wait_for_stack);
            let patience = asked.unwrap_or(follow::DEFAULT_PATIENCE);
            let wait = follow::wait(&self.aws, place, stack, patience, self.printer);
            return signals.or_stopped(wait).await;
        }
        let mut step = self.printer.step("stack");
        let begin = Watch::begin(client, &stack.id);
        let Some(watch) = signals.or_stopped(begin).await? else {
            return Ok(());
        };
        let (execution, operation, outcome) = match found.next {
            Next::ContinueRollback => {
                step.line(format_args!("{}: continuing the rollback", stack.status));
                let execution = cloudformation::continue_rollback(client, stack, role).await?;
                (execution, Operation::Rollback, "rolled back")
            }
            Next::RollBack => {
                step.line(format_args!("{}: rolling back first", stack.status));
                let execution = cloudformation::roll_back(client, stack, role).await?;
                (execution, Operation::Rollback, "rolled back")
            }
            _ => {
                step.line(format_args!(
                    "{} from an earlier failure; deleting what is left",
                    stack.status
                ));
                cloudformation::request_deletion(client, &stack.id, role).await?;
                (Execution::Begun, Operation::Delete, "deleted")
            }
        };
        if execution == Execution::Overtaken {
            step.line("somebody else was quicker; looking again");
            return Ok(());
        }
        self.settled(operation, watch, &mut step, signals).await?;
        step.done(outcome);
        Ok(())
    }

    async fn settled(
        &self,
        operation: Operation,
        watch: Watch,
        step: &mut Step,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        follow::settled(&self.aws, &self.target.place, operation, watch, step, signals).await
    }

    /// Sees to it that the function has the code that the stack names, where the stack itself has nothing to change about it: the
    /// code may have been replaced behind its back. Says whether that took a change.
    async fn settle_code(
        &self,
        stack: &Stack,
        found: &FoundStack,
        stack_changed: bool,
        artifact: &Artifact,
        key: &str,
    ) -> anyhow::Result<bool> {
        // CloudFormation has touched the code only where the stack names another than before.
        if stack_changed && (found.artifact_key() != Some(key) || found.has_code(artifact)) {
            return Ok(false);
        }
        let step = self.printer.step("stack");
        if found.has_code(artifact) {
            step.done("is up to date");
            return Ok(false);
        }
        let function = stack.output("FunctionName")?;
        let arch = self.target.arch;
        lambda::replace_code(&self.aws.lambda, function, artifact, arch).await?;
        step.done("is up to date; its function's code had been replaced, and is the stack's again");
        Ok(true)
    }

    /// Protects the stack against deletion, or no longer; says whether that took a change.
    async fn protect(&self, stack: &Stack) -> anyhow::Result<bool> {
        match self.target.protect {
            Some(protect) if protect != stack.protected => {
                let client = &self.aws.cloudformation;
                cloudformation::protect(client, self.name(), protect).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// `--code-only`: the function's code, and nothing else.
    async fn replace_code(&self, function: Function, found: Found) -> anyhow::Result<Outcome> {
        let name = self.name();
        let deploy_first = |message: String| {
            Failure::new(message)
                .hint("leave `--code-only` out to deploy the stack")
                .exit(Exit::NeedsDecision)
        };
        let FoundStack { stack, next, .. } = &found.stack;
        let stack = match (next, stack) {
            (Next::Update, Some(stack)) => stack.clone(),
            (_, Some(stack)) => {
                return Err(deploy_first(format!(
                    "stack `{name}` is in {}, and only the code is to be replaced",
                    stack.status
                ))
                .into());
            }
            (_, None) => return Err(deploy_first(format!("there is no stack `{name}` yet")).into()),
        };
        for (parameter, wanted) in [
            ("TableName", self.target.table_name.clone()),
            ("Architecture", self.target.arch.to_string()),
        ] {
            let current = stack.parameters.get(parameter);
            if current.is_some_and(|current| *current != wanted) {
                return Err(deploy_first(format!(
                    "parameter `{parameter}` of stack `{name}` would change to `{wanted}`, and only the code is to be replaced"
                ))
                .into());
            }
        }
        let mut step = self.printer.step("build");
        let artifact = function.artifact(&mut step).await?;
        step.done(format_args!("sha256 {}", artifact.sha256));

        let step = self.printer.step("code");
        let changed = found.stack.function_sha256.as_deref() != Some(artifact.sha256.as_str());
        let version = if changed {
            let (function, arch) = (stack.output("FunctionName")?, self.target.arch);
            lambda::replace_code(&self.aws.lambda, function, &artifact, arch).await?
        } else {
            None
        };
        step.done(if changed { "replaced" } else { "is the function's already" });
        Ok(Outcome { stack, changed, fresh: changed, artifact, version })
    }
}

/// The smoke test as a step of a deployment.
pub(super) async fn run_smoke(
    endpoint: &str,
    signer: Option<Signer>,
    fresh: bool,
    printer: &Printer,
) -> anyhow::Result<smoke::Report> {
    let mut step = printer.step("smoke");
    step.note(format!("testing {endpoint}"));
    let report = smoke::test(endpoint, signer, fresh).await?;
    for failed in report.steps.iter().filter(|step| !step.passed) {
        step.line(format_args!(
            "{}: expected {}, saw {}",
            failed.name, failed.expected, failed.saw
        ));
    }
    step.done(report.summary());
    Ok(report)
}
