//! `deploy --code-only`: the function's code without the stack.

use super::{DeployedStack, Deployment, StackSurvey, build};
use crate::{
    aws::lambda,
    exit::Exit,
    failure::Failure,
    package::ArtifactSource,
    stack::{self, Stack},
};

impl Deployment<'_> {
    /// Replaces the code of the function. It can be dropped at any time.
    pub async fn replace_code(
        self,
        function: impl Future<Output = anyhow::Result<ArtifactSource>>,
    ) -> anyhow::Result<DeployedStack> {
        let Self { aws, target, printer, .. } = self;
        let name = &target.place.stack_name;
        let (function, survey) = tokio::join!(function, StackSurvey::read_without_template(self));
        // An error on this machine comes first.
        let (function, survey) = (function?, survey?);
        let parameters = [
            ("TableName", target.table.table_name.clone()),
            ("Architecture", function.arch().to_string()),
        ];
        let stack = check(&survey, name, &aws.region, &parameters)
            .map_err(|failure| failure.hint("omit `--code-only` to deploy the stack"))?;
        let artifact = build(function, printer).await?;

        let step = printer.step("code");
        let changed = survey.function_sha256.as_ref() != Some(&artifact.sha256);
        let mut version = None;
        if changed {
            let function = stack.output("FunctionName")?;
            version = lambda::replace_code(&aws.lambda, function, &artifact, artifact.arch).await?;
        }
        step.done(if changed { "replaced" } else { "the function has it already" });
        Ok(DeployedStack {
            stack: stack.clone(),
            changed,
            is_fresh: changed,
            sha256: artifact.sha256,
            version,
            members: Vec::new(),
        })
    }
}

/// The stack, if nothing but the code has to change.
fn check<'s>(
    survey: &'s StackSurvey,
    name: &str,
    region: &str,
    parameters: &[(&str, String)],
) -> Result<&'s Stack, Failure> {
    let missing = || stack::missing(name, region).exit(Exit::NeedsDecision);
    let stack = survey.stack.as_ref().ok_or_else(missing)?;
    if survey.updatable().is_none() {
        let message = format!("stack `{name}` is in {}; its code cannot be replaced", stack.status);
        return Err(Failure::needs_decision(message));
    }
    let changes = |(parameter, desired): &&(&str, String)| {
        stack.parameters.get(*parameter).is_some_and(|current| current != desired)
    };
    match parameters.iter().find(changes) {
        None => Ok(stack),
        Some((parameter, desired)) => Err(Failure::usage(format!(
            "`--code-only` replaces only the code, but parameter `{parameter}` of stack `{name}` would change to `{desired}`"
        ))),
    }
}
