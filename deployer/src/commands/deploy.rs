//! `deploy`: puts the API up in AWS.

use std::{collections::BTreeMap, fmt::Display};

use serde::Serialize;

use super::{
    confirm, curl,
    wanted::{self, Found, change_set_type},
};
use crate::{
    aws::{
        Aws,
        cloudformation::{self, Wanted, Watch},
        dynamodb::{self, Place},
    },
    build::{Function, artifact::Artifact},
    cli::DeployArgs,
    failure::Failure,
    printer::Printer,
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
pub async fn run(args: DeployArgs, printer: &Printer) -> anyhow::Result<()> {
    // What can be wrong on this machine is found before anything is asked of AWS, and what can be wrong there before
    // anything is made.
    let function = Function::find(&args.function).await?;
    let aws = Aws::connect(&args.stack.aws).await?;
    let (stack_name, table_name) = (&args.stack.stack_name, &args.table.table_name);
    let found = wanted::look(&aws, stack_name, table_name, args.bucket.as_deref()).await?;
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
    // Both to their ends: a table or bucket must not be left half-made because a build fails.
    let (artifact, prepared) = tokio::join!(build, prepare(&aws, &args, found, printer));
    let ((found, table_made), artifact) = (prepared?, artifact?);

    let (stack, stack_changed) = deploy_stack(&aws, &args, found, &artifact, printer).await?;
    let endpoint = stack.output("Endpoint")?.to_owned();
    let smoke = if args.no_smoke {
        None
    } else {
        Some(run_smoke(&endpoint, stack_changed, printer).await?)
    };
    let verdict = smoke.as_ref().map_or(Ok(()), smoke::Report::verdict);
    printer.result(&Deployed {
        endpoint,
        stack_name: args.stack.stack_name,
        region: aws.region,
        changed: table_made || stack_changed,
        function_sha256: artifact.sha256,
        table: args.table.table_name,
        smoke,
        seconds: printer.seconds(),
    })?;
    Ok(verdict?)
}

/// Makes the table and the bucket where they are missing. Says whether the table was.
async fn prepare(
    aws: &Aws,
    args: &DeployArgs,
    mut found: Found,
    printer: &Printer,
) -> anyhow::Result<(Found, bool)> {
    let name = &args.table.table_name;
    let existing = found.table.take();
    let table = async {
        let step = printer.step("table");
        let made = dynamodb::ensure(&aws.dynamodb, name, existing, Place::Aws).await?;
        step.done(format_args!(
            "`{name}` {}",
            if made { "created" } else { "is there" }
        ));
        anyhow::Ok(made)
    };
    let bucket = async {
        if found.bucket_exists {
            return Ok(());
        }
        let step = printer.step("bucket");
        found.bucket.create(&aws.s3, &aws.region).await?;
        found.bucket.protect(&aws.s3).await?;
        step.done(format_args!("`{}` created", found.bucket.name));
        anyhow::Ok(())
    };
    let (table_made, bucket) = tokio::join!(table, bucket);
    bucket?;
    Ok((found, table_made?))
}

/// Brings the stack to what is wanted, and says whether that took a change.
async fn deploy_stack(
    aws: &Aws,
    args: &DeployArgs,
    found: Found,
    artifact: &Artifact,
    printer: &Printer,
) -> anyhow::Result<(Stack, bool)> {
    let name = args.stack.stack_name.as_str();
    let parameters =
        found.parameters(artifact, &args.table.table_name, args.function.build.arch)?;
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

    let mut step = printer.step("stack");
    if let (Action::Recreate, Some(remains)) = (action, &before) {
        step.line(format_args!(
            "{} from an earlier failure; deleting what is left",
            remains.status
        ));
        let watch = Watch::begin(&aws.cloudformation, &remains.id).await?;
        cloudformation::request_deletion(&aws.cloudformation, &remains.id).await?;
        settled(name, watch, &mut step).await?;
    }
    let set =
        cloudformation::change_set(&aws.cloudformation, &wanted, change_set_type(action)).await?;
    let changed = set.is_some();
    if let Some(set) = set {
        if stack::moves_endpoint(&set.changes) {
            let question =
                format!("This update gives the API of stack `{name}` another endpoint. Go on?");
            if let Err(no) = confirm(&question, args.yes, printer).await {
                set.discard(&aws.cloudformation, change_set_type(action))
                    .await?;
                return Err(no);
            }
        }
        let watch = Watch::begin(&aws.cloudformation, set.stack_id()).await?;
        set.execute(&aws.cloudformation).await?;
        settled(name, watch, &mut step).await?;
    }
    let found = cloudformation::find(&aws.cloudformation, name).await?;
    let stack = found
        .ok_or_else(|| Failure::new(format!("stack `{name}` is gone: somebody else deleted it")))?;
    step.done(match (changed, action) {
        (false, _) => "is up to date",
        (true, Action::Update) => "updated",
        (true, Action::Create | Action::Recreate) => "created",
    });
    Ok((stack, changed))
}

async fn settled(
    name: &str,
    watch: Watch<'_>,
    step: &mut crate::printer::Step,
) -> anyhow::Result<()> {
    let (status, events) = watch.settle(step).await?;
    if stack::is_success(&status) {
        Ok(())
    } else {
        Err(stack::failed(name, &status, &events).into())
    }
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
