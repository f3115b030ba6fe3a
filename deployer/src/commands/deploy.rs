//! `deploy`: deploys the API to AWS.

use std::{collections::BTreeMap, fmt::Display};

use cbbootstrap_cli::signer::Signer;
use cbbootstrap_function::store::Store;
use jiff::Timestamp;
use serde::Serialize;

use super::curl;
use crate::{
    cli::DeployArgs,
    deployment::Deployment,
    domain::{DnsRecord, testable_endpoint},
    fields::write_fields,
    github::{self, publish},
    network::Network,
    origin::introduce,
    printer::Printer,
    signals::Signals,
    smoke,
    values::Auth,
};

#[derive(Debug, Serialize)]
struct DeployReport {
    endpoint: String,
    /// The record that the endpoint needs, if the stack does not create it.
    dns_record: Option<DnsRecord>,
    auth: Auth,
    stack_name: String,
    #[serde(skip)]
    region: String,
    changed: bool,
    function_sha256: String,
    /// The version that `--code-only` published.
    function_version: Option<String>,
    table: String,
    smoke: Option<smoke::Report>,
    /// How long each step took.
    seconds: BTreeMap<&'static str, f64>,
}

impl Display for DeployReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, auth, stack_name, region, function_sha256, table, .. } = self;
        let outcome = match &self.function_version {
            Some(_) => "its function's code replaced",
            None => self.outcome(),
        };
        let record = self.dns_record.as_ref();
        let record = record.map(|it| format!("the endpoint needs the record `{it}`, or an alias"));
        let version = self.function_version.as_ref().map(|version| format!(", version {version}"));
        let smoke = self.smoke.as_ref().map(|smoke| {
            let lines = [format!("Smoke test, {}", smoke.summary())].into_iter();
            lines.chain(smoke.failures()).collect::<Vec<_>>().join("\n")
        });
        let signed_in = (*auth == Auth::Iam).then_some(region.as_str());
        let fields = [
            ("Endpoint:", endpoint.clone()),
            ("DNS:", record.unwrap_or_default()),
            ("Stack:", format!("{stack_name} in {region}, {outcome}")),
            ("Function:", format!("sha256 {function_sha256}{}", version.unwrap_or_default())),
            ("Table:", table.clone()),
            ("Tested:", smoke.unwrap_or_default()),
            ("Try it:", curl(endpoint, signed_in)),
        ];
        write_fields(f, 9, fields)
    }
}

impl DeployReport {
    fn outcome(&self) -> &'static str {
        if self.changed { "deployed" } else { "nothing to change" }
    }
}

pub async fn run(args: DeployArgs, printer: &Printer, signals: &mut Signals) -> anyhow::Result<()> {
    args.target.check()?;
    let deployed = deploy(&args, printer, signals).await;
    let deployed = deployed.inspect_err(|error| {
        github::write_failure(printer, "deploy", &args.target.place.stack_name, error);
    })?;
    let written = publish(printer, "deploy", deployed.outcome(), &deployed);
    deployed.smoke.as_ref().map_or(Ok(()), smoke::Report::verdict)?;
    written
}

async fn deploy(
    args: &DeployArgs,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<DeployReport> {
    let target = &args.target;
    let aws = signals.or_stopped(target.connect()).await?;
    let function = args.function.source();
    let deployment = Deployment {
        update_mode: args.update,
        yes: args.yes,
        wait_for_stack: args.wait.wait_for_stack,
        ..Deployment::new(&aws, target, printer)
    };
    let deployed = introduce(&aws, &target.place, printer, async {
        if args.code_only {
            signals.or_stopped(deployment.replace_code(function)).await
        } else {
            deployment.deploy(function, signals).await
        }
    })
    .await?;
    let endpoint = deployed.stack.output("Endpoint")?.to_owned();
    let auth = deployed.stack.auth();
    // Someone else may have created the stack just now.
    let is_fresh = deployed.is_fresh || deployed.stack.is_fresh(Timestamp::now());
    let smoke = if args.no_smoke {
        None
    } else {
        let smoke = async {
            let signer = aws.signer(auth).await?;
            let endpoint = testable_endpoint(&deployed.stack, printer).await?;
            let store = aws.store(deployed.stack.output("TableName")?);
            run_smoke(&aws.network, &endpoint, signer, is_fresh, &store, printer).await
        };
        Some(signals.or_stopped(smoke).await?)
    };
    Ok(DeployReport {
        endpoint,
        dns_record: DnsRecord::find(&deployed.stack),
        auth,
        stack_name: target.place.stack_name.clone(),
        region: aws.region,
        changed: deployed.changed,
        function_sha256: deployed.sha256,
        function_version: deployed.version,
        table: target.table.table_name.clone(),
        smoke,
        seconds: printer.seconds(),
    })
}

/// The smoke test as a step of a deployment.
pub(super) async fn run_smoke(
    network: &Network,
    endpoint: &str,
    signer: Option<Signer>,
    is_fresh: bool,
    store: &impl Store,
    printer: &Printer,
) -> anyhow::Result<smoke::Report> {
    let mut step = printer.step("smoke");
    step.note(format!("testing {endpoint}"));
    let report = smoke::test(network, endpoint, signer, is_fresh, Some(store)).await?;
    for failure in report.failures() {
        step.line(failure);
    }
    step.done(report.summary());
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_is_shown_with_its_failed_steps() {
        let failed = smoke::StepResult {
            name: "a joiner",
            expected: "200",
            saw: "503 <html>|".to_owned(),
            passed: false,
            milliseconds: 1.0,
        };
        let endpoint = "https://abc.execute-api.us-east-1.amazonaws.com".to_owned();
        let mut report = DeployReport {
            endpoint: endpoint.clone(),
            dns_record: None,
            auth: Auth::None,
            stack_name: "cbbootstrap".to_owned(),
            region: "us-east-1".to_owned(),
            changed: true,
            function_sha256: "0a1b".to_owned(),
            function_version: None,
            table: "cb-bootstrap".to_owned(),
            smoke: Some(smoke::Report {
                endpoint,
                auth: Auth::None,
                passed: false,
                steps: vec![failed],
            }),
            seconds: BTreeMap::new(),
        };
        let text = report.to_string();
        assert!(
            text.starts_with(
                "\
Endpoint: https://abc.execute-api.us-east-1.amazonaws.com
Stack:    cbbootstrap in us-east-1, deployed
Function: sha256 0a1b
Table:    cb-bootstrap
Tested:   Smoke test, 0 of 1 steps passed
          a joiner: expected 200, saw 503 <html>|
Try it:   curl -X POST "
            ),
            "{text}"
        );

        report.changed = false;
        report.smoke = None;
        let text = report.to_string();
        assert!(text.contains("us-east-1, nothing to change\n"), "{text}");
        assert!(text.contains("\nTable:    cb-bootstrap\nTry it: "), "{text}");
    }
}
