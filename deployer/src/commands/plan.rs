//! `plan`: what `deploy` would change.

use std::fmt::Display;

use serde::Serialize;

use super::wanted;
use crate::{
    aws::{
        Aws,
        cloudformation::{self, Wanted},
    },
    build::Function,
    cli::{PlanArgs, WaitArgs},
    failure::Failure,
    printer::Printer,
    settings::Target,
    signals::Signals,
    stack::{Action, Change},
    template::TEMPLATE,
};

/// What a deployment would do.
#[derive(Debug, Serialize)]
struct Plan {
    stack_name: String,
    region: String,
    /// Whether anything would change.
    changed: bool,
    function_sha256: String,
    /// The table, if it would be made.
    creates_table: Option<String>,
    /// The bucket, if it would be made.
    creates_bucket: Option<String>,
    /// The resources of the stack that would change.
    changes: Vec<Change>,
}

impl Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.changed {
            return write!(
                f,
                "Nothing to change in stack {} in {}",
                self.stack_name, self.region
            );
        }
        writeln!(f, "Stack {} in {}:", self.stack_name, self.region)?;
        if let Some(table) = &self.creates_table {
            writeln!(f, "  + table {table} (kept outside the stack)")?;
        }
        if let Some(bucket) = &self.creates_bucket {
            writeln!(f, "  + bucket {bucket} (kept outside the stack)")?;
        }
        self.changes
            .iter()
            .try_for_each(|change| writeln!(f, "  {change}"))?;
        write!(f, "Nothing was changed")
    }
}

/// Shows the changes. Nothing is uploaded, and the change set is removed.
pub async fn run(
    mut args: PlanArgs,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let target = Target::of(args.target, WaitArgs::default(), &mut args.function)?;
    let prepare = async {
        let function = Function::find(&args.function).await?;
        let aws = Aws::connect(&target.place.access).await?;
        let build = async {
            let mut step = printer.step("build");
            let artifact = function.artifact(&mut step).await?;
            step.done(format_args!("sha256 {}", artifact.sha256));
            anyhow::Ok(artifact)
        };
        let (stack, table) = (&target.place.stack_name, &target.table_name);
        let look = wanted::look(&aws, stack, table, target.bucket.as_deref());
        let (artifact, found) = tokio::try_join!(build, look)?;
        anyhow::Ok((aws, artifact, found))
    };
    let (aws, artifact, found) = signals.or_stopped(prepare).await?;
    let (stack_name, table_name) = (target.place.stack_name.clone(), target.table_name.clone());

    if let (Action::Recreate, Some(remains)) = (found.action, &found.stack) {
        return Err(
            Failure::new(format!("stack `{stack_name}` is in {}", remains.status))
                .hint("`cbbootstrap deploy` deletes what is left of it and creates it anew")
                .exit(crate::failure::Exit::Stack)
                .into(),
        );
    }
    let parameters = found.parameters(&artifact, &target)?;
    let wanted = Wanted {
        name: &stack_name,
        template: TEMPLATE,
        parameters: &parameters,
    };
    let changes = if found
        .stack
        .as_ref()
        .is_some_and(|stack| wanted.is_met_by(stack, found.template.as_deref()))
    {
        Vec::new()
    } else {
        let step = printer.step("plan");
        let set = cloudformation::change_set(
            &aws.cloudformation,
            &wanted,
            found.stack.as_ref(),
            found.action,
            signals,
        )
        .await?;
        let changes = match set {
            Some(mut set) => {
                set.discard(&aws.cloudformation).await?;
                std::mem::take(&mut set.changes)
            }
            None => Vec::new(),
        };
        step.done("change set made, read and deleted");
        changes
    };
    let creates_table = found.table.is_none().then_some(table_name);
    let creates_bucket = (!found.bucket_exists).then_some(found.bucket.name);
    printer.result(&Plan {
        changed: !changes.is_empty() || creates_table.is_some() || creates_bucket.is_some(),
        stack_name,
        region: aws.region,
        function_sha256: artifact.sha256,
        creates_table,
        creates_bucket,
        changes,
    })
}
