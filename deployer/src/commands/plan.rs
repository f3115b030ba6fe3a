//! `plan`: what `deploy` would change.

use std::fmt::Display;

use serde::Serialize;

use crate::{
    aws::{
        cloudformation::{ChangeSet, UpdateMode},
        dynamodb::Table,
    },
    cli::PlanArgs,
    deployment::{Deployment, Survey, build, discard_after},
    exit::Exit,
    github::{self, publish},
    origin::introduce,
    package::artifact::Artifact,
    printer::Printer,
    settings::Target,
    signals::Signals,
    stack::{self, Change, DesiredStack, Risk, StackAction, ValueChange, value_changes},
};

#[derive(Debug, Default, Serialize)]
struct PlanReport {
    stack_name: String,
    #[serde(skip)]
    region: String,
    changed: bool,
    function_sha256: String,
    creates_table: Option<String>,
    creates_bucket: Option<String>,
    /// What would happen to the stack before it can be changed.
    first: Option<&'static str>,
    changes: Vec<Change>,
    parameters: Vec<ValueChange>,
    tags: Vec<ValueChange>,
    /// Changes of the table's settings.
    table: Vec<ValueChange>,
    /// Whether the function's code, replaced outside the stack, would be restored.
    restores_code: bool,
    /// The new termination protection, if it would change.
    protect: Option<bool>,
    /// What would be lost, and therefore needs confirmation.
    losses: Vec<String>,
}

impl PlanReport {
    /// A line for each change.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (kind, name) in [("table", &self.creates_table), ("bucket", &self.creates_bucket)] {
            let created = name.iter();
            lines.extend(created.map(|name| format!("  + {kind} {name} (kept outside the stack)")));
        }
        lines.extend(self.first.map(|first| format!("  ! {first}")));
        let changes = self.changes.iter();
        lines.extend(
            changes.map(|change| format!("  {}", change.to_string().replace('\n', "\n  "))),
        );
        for (kind, changes) in
            [("table", &self.table), ("parameter", &self.parameters), ("tag", &self.tags)]
        {
            lines.extend(changes.iter().map(|change| format!("  ~ {kind} {change}")));
        }
        if self.restores_code {
            lines.push("  ~ the function's code, which was replaced outside the stack".to_owned());
        }
        lines.extend(self.protect.map(|on| {
            format!("  ~ {} against deletion", if on { "protected" } else { "no longer protected" })
        }));
        lines.extend(self.losses.iter().map(|loss| format!("Needs confirmation: it {loss}")));
        lines
    }

    fn outcome(&self) -> String {
        match self.lines().len() {
            0 => "nothing to change".to_owned(),
            1 => "1 change".to_owned(),
            number => format!("{number} changes"),
        }
    }
}

impl Display for PlanReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stack_name, region, .. } = self;
        if !self.changed {
            return write!(f, "Nothing to change in stack {stack_name} in {region}");
        }
        writeln!(f, "Stack {stack_name} in {region}:")?;
        for line in self.lines() {
            writeln!(f, "{line}")?;
        }
        write!(f, "Nothing was changed")
    }
}

/// Shows the changes. Nothing is uploaded, and the change set is removed.
pub async fn run(args: PlanArgs, printer: &Printer, signals: &mut Signals) -> anyhow::Result<Exit> {
    args.target.check()?;
    let mut change_set = None;
    let planned = signals.or_stopped(plan(&args, &mut change_set, printer)).await;
    let planned = discard_after(planned, change_set, printer).await;
    let planned = planned.inspect_err(|error| {
        github::write_failure(printer, "plan", &args.target.place.stack_name, error);
    })?;
    publish(printer, "plan", &planned.outcome(), &planned)?;
    Ok(if planned.changed && args.exit_code { Exit::WouldChange } else { Exit::Done })
}

async fn plan(
    args: &PlanArgs,
    change_set: &mut Option<ChangeSet>,
    printer: &Printer,
) -> anyhow::Result<PlanReport> {
    let target = &args.target;
    let aws = target.connect().await?;
    let deployment = Deployment::new(&aws, target, printer);
    let artifact = async { build(args.function.source().await?, printer).await };
    let (artifact, survey) = introduce(&aws, &target.place, printer, async {
        tokio::try_join!(artifact, Survey::read(deployment))
    })
    .await?;
    let desired = deployment.desired_stack(&survey, &artifact)?;
    let first = survey.stack.action.preparation();
    if let (StackAction::Wait, Some(stack)) = (survey.stack.action, &survey.stack.stack) {
        return Err(deployment.follower().busy(stack).into());
    }
    // A stack that must be recovered first cannot have a change set, so the changes are not known in detail.
    let changes = if survey.stack.up_to_date(&desired).is_some() || first.is_some() {
        None
    } else {
        let step = printer.step("plan");
        let before = survey.stack.updatable();
        let change_set =
            change_set.insert(ChangeSet::new(&aws.cloudformation, &desired.name, before));
        change_set.request(&desired, UpdateMode::default(), before).await?;
        let changes = change_set.read().await?;
        step.done("change set created and read");
        changes
    };
    Ok(report(target, aws.region, &survey, artifact, &desired, changes))
}

/// `changes` are those of the stack; `None` if it stays as it is, or they are not known.
fn report(
    target: &Target,
    region: String,
    survey: &Survey,
    artifact: Artifact,
    desired: &DesiredStack,
    changes: Option<Vec<Change>>,
) -> PlanReport {
    let (table_options, risks) = (survey.table_options(target), survey.risks(target));
    let Survey { bucket, table, stack: survey } = survey;
    let key = bucket.key(&artifact);
    let is_protected = survey.stack.as_ref().is_some_and(|stack| stack.protected);
    let changes_stack = changes.is_some();
    let mut report = PlanReport {
        stack_name: desired.name.clone(),
        region,
        first: survey.action.preparation(),
        restores_code: survey.artifact_key() == Some(&key) && !survey.has_code(&artifact),
        function_sha256: artifact.sha256,
        creates_table: table.is_none().then(|| target.table.table_name.clone()),
        creates_bucket: (!bucket.exists).then(|| bucket.name.clone()),
        protect: target.stack.protect.filter(|protect| *protect != is_protected),
        changes: changes.unwrap_or_default(),
        ..PlanReport::default()
    };
    if let Some(table) = table
        && let Some(settings) = table.new_settings(&table_options)
    {
        report.table = value_changes(&table.settings.values(), &settings.values());
    }
    let missing = table.iter().flat_map(Table::missing_protections);
    report.table.extend(missing.map(|name| ValueChange {
        name: name.to_owned(),
        before: Some("off".to_owned()),
        after: Some("on".to_owned()),
    }));
    // A change set may list no resource: an output may change.
    report.changed = changes_stack || !report.lines().is_empty();
    report.losses = stack::losses(&report.changes);
    if let Some(before) = survey.updatable() {
        report.parameters = value_changes(&before.parameters, &desired.parameters);
        report.tags = value_changes(&before.tags, &desired.all_tags());
    }
    report.losses.extend(risks.iter().map(Risk::effect));
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_a_line_for_each_change() {
        let mut report = PlanReport {
            stack_name: "cbbootstrap".to_owned(),
            region: "us-east-1".to_owned(),
            changed: true,
            creates_table: Some("cb-bootstrap".to_owned()),
            changes: vec![Change {
                action: "Modify".to_owned(),
                resource: "Function".to_owned(),
                kind: "AWS::Lambda::Function".to_owned(),
                replacement: Some("True".to_owned()),
                scope: vec!["Properties".to_owned()],
                details: Vec::new(),
                is_kept: false,
            }],
            parameters: vec![ValueChange {
                name: "MemorySize".to_owned(),
                before: Some("256".to_owned()),
                after: Some("512".to_owned()),
            }],
            table: vec![ValueChange {
                name: "max-read-units".to_owned(),
                before: None,
                after: Some("100".to_owned()),
            }],
            restores_code: true,
            protect: Some(false),
            losses: vec!["opens the API".to_owned()],
            ..PlanReport::default()
        };
        assert_eq!(
            report.to_string(),
            "\
Stack cbbootstrap in us-east-1:
  + table cb-bootstrap (kept outside the stack)
  ~ Function (AWS::Lambda::Function), replaced: Properties
  ~ table max-read-units: 100
  ~ parameter MemorySize: 256 → 512
  ~ the function's code, which was replaced outside the stack
  ~ no longer protected against deletion
Needs confirmation: it opens the API
Nothing was changed"
        );
        assert_eq!(report.outcome(), "7 changes");

        report = PlanReport {
            stack_name: report.stack_name,
            region: report.region,
            ..Default::default()
        };
        assert_eq!(report.to_string(), "Nothing to change in stack cbbootstrap in us-east-1");
        assert_eq!(report.outcome(), "nothing to change");
    }
}
