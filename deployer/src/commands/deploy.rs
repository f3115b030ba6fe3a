//! `deploy`: puts the API up in AWS.

use std::{collections::BTreeMap, fmt::Display};

use serde::Serialize;

use super::{
    confirm, curl, settled,
    wanted::{self, Found},
};
use crate::{
    aws::{
        Aws,
        cloudformation::{self, ChangeSet, Wanted, Watch},
        dynamodb::{self, Place},
    },
    build::{Function, artifact::Artifact},
    cli::DeployArgs,
    failure::Failure,
    printer::Printer,
    settings::Target,
    signals::Signals,
    smoke,
    stack::{self, Action, Stack},
    template::TEMPLATE,
};

/// What a deployment came to.
#[derive(Debug, Serialize)]
struct Deployed {
    endpoint: String,
    stack_name: String,
    region: String,
    /// Whether anything had to be changed.
    changed: bool,
    function_sha256: String,
    table: String,
    /// The smoke test's result; none where it was left out.
    smoke: Option<smoke::Report>,
    /// How long each step took.
    seconds: BTreeMap<&'static str, f64>,
}

impl Display for Deployed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            endpoint,
            stack_name,
            region,
            function_sha256,
            table,
            ..
        } = self;
        let changed = if self.changed {
            "deployed"
        } else {
            "nothing to change"
        };
        writeln!(f, "Endpoint: {endpoint}")?;
        writeln!(f, "Stack:    {stack_name} in {region}, {changed}")?;
        writeln!(f, "Function: sha256 {function_sha256}")?;
        writeln!(f, "Table:    {table}")?;
        writeln!(f, "Try it:   {}", curl(endpoint))
    }
}

/// Deploys to AWS.
pub async fn run(
    mut args: DeployArgs,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let target = Target::of(args.target.clone(), args.wait, &mut args.function)?;
    let (aws, found, artifact, made) = signals.or_stopped(prepare(&args, &target, printer)).await?;
    let (stack, stack_changed) =
        deploy_stack(&aws, &args, &target, found, &artifact, printer, signals).await?;
    let endpoint = stack.output("Endpoint")?.to_owned();
    let smoke = if args.no_smoke {
        None
    } else {
        let smoke = run_smoke(&endpoint, stack_changed, printer);
        Some(signals.or_stopped(smoke).await?)
    };
    let verdict = smoke.as_ref().map_or(Ok(()), smoke::Report::verdict);
    printer.result(&Deployed {
        endpoint,
        stack_name: target.place.stack_name,
        region: aws.region,
        changed: made || stack_changed,
        function_sha256: artifact.sha256,
        table: target.table_name,
        smoke,
        seconds: printer.seconds(),
    })?;
    Ok(verdict?)
}

/// All that comes before the stack: looks at what is there, builds, and makes the table and the bucket where they are
/// missing. Says whether one was.
async fn prepare(
    args: &DeployArgs,
    target: &Target,
    printer: &Printer,
) -> anyhow::Result<(Aws, Found, Artifact, bool)> {
    // What can be wrong on this machine is found before anything is asked of AWS, and what can be wrong there before
    // anything is made.
    let function = Function::find(&args.function).await?;
    let aws = Aws::connect(&target.place.access).await?;
    let (stack_name, table_name) = (&target.place.stack_name, &target.table_name);
    let mut found = wanted::look(&aws, stack_name, table_name, target.bucket.as_deref()).await?;
    if let Some(question) =
        stack::question_about_table(stack_name, found.stack.as_ref(), table_name)
    {
        confirm(&question, args.yes, printer).await?;
    }

    let build = async {
        let mut step = printer.step("build");
        let artifact = function.artifact(&mut step).await?;
        step.done(format_args!(
            "{} bytes, sha256 {}",
            artifact.zip.len(),
            artifact.sha256
        ));
        anyhow::Ok(artifact)
    };
    let existing = found.table.take();
    let table = async {
        let step = printer.step("table");
        let made = dynamodb::ensure(&aws.dynamodb, table_name, existing, Place::Aws).await?;
        step.done(format_args!(
            "`{table_name}` {}",
            if made { "created" } else { "is there" }
        ));
        anyhow::Ok(made)
    };
    let bucket = async {
        if !found.bucket_exists {
            let step = printer.step("bucket");
            found.bucket.create(&aws.s3, &aws.region).await?;
            found.bucket.protect(&aws.s3).await?;
            step.done(format_args!("`{}` created", found.bucket.name));
        }
        anyhow::Ok(!found.bucket_exists)
    };
    // All to their ends: a table or bucket must not be left half-made because a build fails.
    let (bucket_made, table_made, artifact) = tokio::join!(bucket, table, build);
    let errors = [
        bucket_made.as_ref().err(),
        table_made.as_ref().err(),
        artifact.as_ref().err(),
    ];
    // The first error ends the program, which tells it last; the others are told here.
    for error in errors.into_iter().flatten().skip(1) {
        printer.error(error);
    }
    let (bucket_made, table_made, artifact) = (bucket_made?, table_made?, artifact?);
    Ok((aws, found, artifact, table_made || bucket_made))
}

/// Brings the stack to what is wanted, and says whether that took a change.
async fn deploy_stack(
    aws: &Aws,
    args: &DeployArgs,
    target: &Target,
    found: Found,
    artifact: &Artifact,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<(Stack, bool)> {
    let name = target.place.stack_name.as_str();
    let parameters = found.parameters(artifact, target)?;
    let wanted = Wanted {
        name,
        template: TEMPLATE,
        parameters: &parameters,
    };
    let Found {
        bucket,
        bucket_exists,
        stack: before,
        template,
        action,
        ..
    } = found;
    if let Some(stack) = before
        .as_ref()
        .filter(|stack| wanted.is_met_by(stack, template.as_deref()))
    {
        printer.step("stack").done("is up to date");
        return Ok((stack.clone(), false));
    }

    let upload = async {
        let step = printer.step("upload");
        if bucket.holds(&aws.s3, artifact).await? {
            step.done("the bucket has it already");
        } else {
            if bucket_exists {
                bucket.protect(&aws.s3).await?;
            }
            bucket.upload(&aws.s3, artifact).await?;
            step.done(format_args!("to bucket `{}`", bucket.name));
        }
        anyhow::Ok(())
    };
    signals.or_stopped(upload).await?;

    let client = &aws.cloudformation;
    let mut step = printer.step("stack");
    if let (Action::Recreate, Some(remains)) = (action, &before) {
        step.line(format_args!(
            "{} from an earlier failure; deleting what is left",
            remains.status
        ));
        let watch = Watch::begin(client, &remains.id).await?;
        cloudformation::request_deletion(client, &remains.id).await?;
        settled(name, watch, &mut step, signals).await?;
    }
    let set = cloudformation::change_set(client, &wanted, before.as_ref(), action, signals).await?;
    let changed = set.is_some();
    if let Some(set) = set {
        let begun = async {
            let watch = signals
                .or_stopped(ready(aws, args, target, &set, printer))
                .await?;
            set.execute(client).await?;
            anyhow::Ok(watch)
        };
        match begun.await {
            Ok(watch) => settled(name, watch, &mut step, signals).await?,
            Err(error) => {
                let _ = set.discard(client).await;
                return Err(error);
            }
        }
    }
    let found = cloudformation::find(client, name).await?;
    let stack = found
        .ok_or_else(|| Failure::new(format!("stack `{name}` is gone: somebody else deleted it")))?;
    step.done(match (changed, action) {
        (false, _) => "is up to date",
        (true, Action::Update) => "updated",
        (true, Action::Create | Action::Recreate) => "created",
    });
    Ok((stack, changed))
}

/// What precedes the execution of a change set: a yes, where it takes one, and the watch over the stack.
async fn ready<'a>(
    aws: &'a Aws,
    args: &'a DeployArgs,
    target: &'a Target,
    set: &ChangeSet,
    printer: &Printer,
) -> anyhow::Result<Watch<'a>> {
    let name = &target.place.stack_name;
    if stack::moves_endpoint(&set.changes) {
        let question =
            format!("This update gives the API of stack `{name}` another endpoint. Go on?");
        confirm(&question, args.yes, printer).await?;
    }
    Watch::begin(&aws.cloudformation, name).await
}

/// The smoke test as a step of a deployment.
pub(super) async fn run_smoke(
    endpoint: &str,
    fresh: bool,
    printer: &Printer,
) -> anyhow::Result<smoke::Report> {
    let mut step = printer.step("smoke");
    step.note(format!("testing {endpoint}"));
    let report = smoke::test(endpoint, fresh).await?;
    for failed in report.steps.iter().filter(|step| !step.passed) {
        step.line(format_args!(
            "{}: expected {}, saw {}",
            failed.name, failed.expected, failed.saw
        ));
    }
    step.done(report.summary());
    Ok(report)
}
