//! `plan`: what `deploy` would change.

use std::fmt::Display;

use serde::Serialize;

use super::{follow, wanted};
use crate::{
    aws::{
        Aws,
        cloudformation::{self, Mode, Prepared},
    },
    cli::PlanArgs,
    failure::{Exit, Failure},
    github,
    package::Function,
    printer::Printer,
    settings::{Place, Target, WaitArgs},
    signals::Signals,
    stack::{self, Change, Next, ValueChange},
};

/// What a deployment would do.
#[derive(Debug, Serialize)]
pub struct Plan {
    stack_name: String,
    region: String,
    /// Whether anything would change.
    changed: bool,
    function_sha256: String,
    /// The table, if it would be made.
    creates_table: Option<String>,
    /// The bucket, if it would be made.
    creates_bucket: Option<String>,
    /// What would be done to the stack before it can be changed.
    first: Option<&'static str>,
    /// The resources of the stack that would change.
    changes: Vec<Change>,
    /// The parameters of the stack that would change.
    parameters: Vec<ValueChange>,
    /// The tags of the stack that would change.
    tags: Vec<ValueChange>,
    /// Whether the function's code, replaced behind the stack's back, would be the stack's again.
    restores_code: bool,
    /// Whether the stack would be protected against deletion, or no longer; none if that stays as it is.
    protect: Option<bool>,
    /// What would be lost for good, which takes a yes.
    losses: Vec<String>,
}

impl Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.changed {
            return write!(f, "Nothing to change in stack {} in {}", self.stack_name, self.region);
        }
        writeln!(f, "Stack {} in {}:", self.stack_name, self.region)?;
        if let Some(table) = &self.creates_table {
            writeln!(f, "  + table {table} (kept outside the stack)")?;
        }
        if let Some(bucket) = &self.creates_bucket {
            writeln!(f, "  + bucket {bucket} (kept outside the stack)")?;
        }
        if let Some(first) = self.first {
            writeln!(f, "  ! {first}")?;
        }
        for change in &self.changes {
            writeln!(f, "  {}", change.to_string().replace('\n', "\n  "))?;
        }
        for parameter in &self.parameters {
            writeln!(f, "  ~ parameter {parameter}")?;
        }
        for tag in &self.tags {
            writeln!(f, "  ~ tag {tag}")?;
        }
        if self.restores_code {
            writeln!(f, "  ~ the function's code, which was replaced behind the stack's back")?;
        }
        match self.protect {
            Some(true) => writeln!(f, "  ~ protected against deletion")?,
            Some(false) => writeln!(f, "  ~ no longer protected against deletion")?,
            None => (),
        }
        for loss in &self.losses {
            writeln!(f, "Takes a yes: it {loss}")?;
        }
        write!(f, "Nothing was changed")
    }
}

/// Shows the changes. Nothing is uploaded, and the change set is removed.
pub async fn run(args: PlanArgs, printer: &Printer, signals: &mut Signals) -> anyhow::Result<Exit> {
    let target = Target::new(args.target.clone(), WaitArgs::default(), args.function.build.arch)?;
    let plan = plan(&args, &target, printer, signals).await;
    let plan = github::or_failed(printer, "plan", &target.place.stack_name, plan)?;
    printer.result(&plan)?;
    github::report(printer, &plan.note());
    Ok(if plan.changed && args.exit_code { Exit::WouldChange } else { Exit::Done })
}

async fn plan(
    args: &PlanArgs,
    target: &Target,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<Plan> {
    let prepare = async {
        let function =
            Function::find(args.function.function_zip.as_deref(), &args.function.build).await?;
        let aws = Aws::connect(&target.place.access).await?;
        let build = async {
            let mut step = printer.step("build");
            let artifact = function.artifact(&mut step).await?;
            step.done(format_args!("sha256 {}", artifact.sha256));
            anyhow::Ok(artifact)
        };
        let (artifact, found) = tokio::try_join!(build, wanted::look(&aws, target))?;
        anyhow::Ok((aws, artifact, found))
    };
    let (aws, artifact, found) = signals.or_stopped(prepare).await?;
    let name = target.place.stack_name.as_str();
    let parameters = wanted::parameters(target, &found.bucket, &artifact)?;
    let wanted = wanted::wanted(target, &parameters);

    let stack = found.stack.stack.as_ref();
    let first = first_step(&target.place, stack, found.stack.next)?;
    let before = stack.filter(|_| found.stack.next == Next::Update);
    let met = found.stack.met(&wanted).is_some();
    // While the stack is in the way of its own change set, what would change is not known in detail.
    let changes = if met || first.is_some() {
        None
    } else {
        let step = printer.step("plan");
        let client = &aws.cloudformation;
        let mode = Mode::default();
        let prepared = cloudformation::change_set(client, &wanted, &mode, before, signals).await?;
        let changes = match prepared {
            Prepared::Changes(mut set) => {
                set.discard(client).await?;
                Some(std::mem::take(&mut set.changes))
            }
            Prepared::Nothing => None,
            Prepared::Overtaken => {
                return Err(Failure::new(format!(
                    "stack `{name}` was changed by somebody else meanwhile"
                ))
                .hint("plan again")
                .exit(Exit::Changed)
                .into());
            }
        };
        step.done("change set made, read and deleted");
        changes
    };
    let key = found.bucket.key(&artifact);
    let restores_code =
        found.stack.artifact_key() == Some(key.as_str()) && !found.stack.has_code(&artifact);
    let creates_table = found.table.is_none().then(|| target.table_name.clone());
    let creates_bucket = (!found.bucket_exists).then(|| found.bucket.name.clone());
    let protect =
        target.protect.filter(|protect| *protect != stack.is_some_and(|stack| stack.protected));
    let none = std::collections::BTreeMap::new();
    let (now_parameters, now_tags) =
        before.map_or((&none, &none), |stack| (&stack.parameters, &stack.tags));
    let parameters =
        before.map_or_else(Vec::new, |_| stack::value_changes(now_parameters, &parameters));
    let tags = before.map_or_else(Vec::new, |_| stack::value_changes(now_tags, &wanted.all_tags()));
    // Some change sets list no resource: an output, say.
    let changes_stack = changes.is_some();
    let changes = changes.unwrap_or_default();
    let about_table = stack::question_about_table(name, before, &target.table_name);
    let about_access = stack::question_about_access(name, before, target.auth);
    Ok(Plan {
        changed: changes_stack
            || first.is_some()
            || restores_code
            || protect.is_some()
            || creates_table.is_some()
            || creates_bucket.is_some(),
        losses: stack::losses(&changes)
            .into_iter()
            .chain(about_table.map(|_| {
                "gives the API another table, which knows none of its clusters".to_owned()
            }))
            .chain(about_access.map(|_| {
                "opens the API to everyone, who had to sign their requests so far".to_owned()
            }))
            .collect(),
        stack_name: name.to_owned(),
        region: aws.region,
        function_sha256: artifact.sha256,
        creates_table,
        creates_bucket,
        first,
        changes,
        parameters,
        tags,
        restores_code,
        protect,
    })
}

impl Plan {
    /// What would be done, to what, and more about it: a row each.
    fn rows(&self) -> Vec<[String; 3]> {
        let row = |what: &str, to: &str, more: String| [what.to_owned(), to.to_owned(), more];
        let made = |kind: &str, name: &Option<String>| {
            let kept = || "kept outside the stack".to_owned();
            name.as_ref().map(|name| row("Create", &format!("{kind} {name}"), kept()))
        };
        let first = self.first.map(|first| row("First", "stack", first.to_owned()));
        let changes = self.changes.iter().map(|change| {
            let details = change.details.iter().map(ToString::to_string);
            let details = details.collect::<Vec<_>>().join(", ");
            let replaced = match change.replacement.as_deref() {
                Some("True") => "replaced ",
                Some("Conditional") => "perhaps replaced ",
                _ => "",
            };
            let to = format!("{} ({})", change.resource, change.kind);
            row(&change.action, &to, format!("{replaced}{details}"))
        });
        let values = |kind: &'static str, values: &[ValueChange]| {
            let values = values.iter();
            values.map(|value| row("Modify", kind, value.to_string())).collect::<Vec<_>>()
        };
        let code = self.restores_code.then(|| {
            let why = "was replaced behind the stack's back".to_owned();
            row("Modify", "the function's code", why)
        });
        let protect =
            self.protect.map(|on| row("Modify", "protection against deletion", on.to_string()));
        let losses = self.losses.iter().map(|loss| row("Takes a yes", "", format!("it {loss}")));
        made("table", &self.creates_table)
            .into_iter()
            .chain(made("bucket", &self.creates_bucket))
            .chain(first)
            .chain(changes)
            .chain(values("parameter", &self.parameters))
            .chain(values("tag", &self.tags))
            .chain(code)
            .chain(protect)
            .chain(losses)
            .collect()
    }

    fn note(&self) -> github::Note {
        github::Planned { stack_name: &self.stack_name, region: &self.region, changes: self.rows() }
            .note()
    }
}

/// What a deployment would have to do to the stack before it can change it.
fn first_step(
    place: &Place,
    stack: Option<&stack::Stack>,
    next: Next,
) -> Result<Option<&'static str>, Failure> {
    Ok(match (next, stack) {
        (Next::Wait, Some(stack)) => return Err(follow::busy(place, stack)),
        (Next::Replace, _) => {
            Some("what an earlier failure left of the stack is deleted, and the stack created anew")
        }
        (Next::ReplaceUsed, _) => Some(
            "what is left of the stack is deleted, which takes a yes, and the stack created anew",
        ),
        (Next::ContinueRollback, _) => {
            Some("the failed rollback is continued, and the stack then updated")
        }
        (Next::RollBack, _) => Some("the failed update is rolled back, and the stack then updated"),
        _ => None,
    })
}
