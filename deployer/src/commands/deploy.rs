//! `deploy`: deploys the API to AWS.

use std::{collections::BTreeMap, fmt::Display};

use cbbootstrap_cli::signer::Signer;
use cbbootstrap_function::store::Store;
use serde::Serialize;

use super::{curl, smoke::failures};
use crate::{
    aws::cloudformation::UpdateMode,
    cli::{DeployArgs, UpdateArgs},
    deployment::Deployment,
    domain::{DnsRecord, testable_endpoint},
    github::{self, code, heading, table},
    network::Network,
    origin::introduce,
    package::{ArtifactSource, Program},
    printer::Printer,
    report::{CommandReport, publish},
    settings::Target,
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
    region: String,
    /// Whether anything had to be changed.
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
        writeln!(f, "Endpoint: {endpoint}")?;
        if let Some(record) = &self.dns_record {
            writeln!(f, "DNS:      the endpoint needs the record `{record}`, or an alias")?;
        }
        writeln!(f, "Stack:    {stack_name} in {region}, {outcome}")?;
        write!(f, "Function: sha256 {function_sha256}")?;
        if let Some(version) = &self.function_version {
            write!(f, ", version {version}")?;
        }
        writeln!(f, "\nTable:    {table}")?;
        let signed_in = (*auth == Auth::Iam).then_some(region.as_str());
        writeln!(f, "Try it:   {}", curl(endpoint, signed_in))
    }
}

impl DeployReport {
    fn outcome(&self) -> &'static str {
        if self.changed { "deployed" } else { "nothing to change" }
    }
}

impl CommandReport for DeployReport {
    fn outputs(&self) -> Vec<(&'static str, String)> {
        let mut outputs = vec![
            ("endpoint", self.endpoint.clone()),
            ("stack_name", self.stack_name.clone()),
            ("region", self.region.clone()),
            ("changed", self.changed.to_string()),
            ("function_sha256", self.function_sha256.clone()),
            ("table", self.table.clone()),
        ];
        outputs.extend(self.dns_record.as_ref().map(|it| ("dns_record", it.to_string())));
        outputs.extend(self.smoke.iter().flat_map(CommandReport::outputs));
        outputs.extend(self.function_version.clone().map(|it| ("function_version", it)));
        outputs
    }

    fn summary(&self) -> String {
        let row = |name: &str, value: String| [name.to_owned(), value];
        let mut rows = vec![
            row("Endpoint", self.endpoint.clone()),
            row("Stack", format!("{} in {}", code(&self.stack_name), self.region)),
            row("Function", format!("sha256 {}", code(&self.function_sha256))),
            row("Table", code(&self.table)),
        ];
        rows.extend(self.dns_record.as_ref().map(|it| row("DNS record", code(&it.to_string()))));
        rows.extend(self.smoke.as_ref().map(|smoke| row("Smoke test", smoke.summary())));
        let seconds = self.seconds.iter();
        let times: Vec<_> =
            seconds.map(|(step, seconds)| format!("{step} {seconds:.1} s")).collect();
        if !times.is_empty() {
            rows.push(row("Time", times.join(", ")));
        }
        let failures = self.smoke.as_ref().map(failures).unwrap_or_default();
        heading("deploy", self.outcome()) + &table(["", ""], &rows) + &failures
    }
}

pub async fn run(args: DeployArgs, printer: &Printer, signals: &mut Signals) -> anyhow::Result<()> {
    let target = &args.target;
    target.check()?;
    let deployed = deploy(&args, target, printer, signals).await;
    let deployed = deployed.inspect_err(|error| {
        github::write_failure(printer, "deploy", &target.place.stack_name, error);
    })?;
    publish(printer, &deployed)?;
    let verdict = deployed.smoke.as_ref().map(smoke::Report::verdict);
    Ok(verdict.unwrap_or(Ok(()))?)
}

async fn deploy(
    args: &DeployArgs,
    target: &Target,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<DeployReport> {
    let aws = signals.or_stopped(target.connect()).await?;
    let function = ArtifactSource::find(
        Program::Function,
        args.function.function_zip.as_deref(),
        &args.function.build,
    );
    let UpdateArgs { express, rollback_minutes } = args.update;
    let deployment = Deployment {
        aws: &aws,
        target,
        update_mode: UpdateMode { express, rollback_minutes },
        yes: args.yes,
        wait_for_stack: args.wait.wait_for_stack,
        printer,
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
    let smoke = if args.no_smoke {
        None
    } else {
        let smoke = async {
            let signer = aws.signer(auth).await?;
            let endpoint = testable_endpoint(&deployed.stack, printer).await?;
            let store = aws.store(deployed.stack.output("TableName")?);
            run_smoke(&aws.network, &endpoint, signer, deployed.is_fresh, &store, printer).await
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
        function_sha256: deployed.function_sha256,
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
    let report = smoke::test(network, endpoint, signer, is_fresh).await?;
    report.delete_records(store).await;
    for failed in report.steps.iter().filter(|step| !step.passed) {
        step.line(format_args!(
            "{}: expected {}, saw {}",
            failed.name, failed.expected, failed.saw
        ));
    }
    step.done(report.summary());
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_has_outputs_and_a_summary() {
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
                cluster_ids: Vec::new(),
            }),
            seconds: BTreeMap::from([("build", 61.25), ("stack", 33.0)]),
        };
        let outputs = report.outputs();
        let outputs: Vec<_> =
            outputs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            outputs,
            [
                "endpoint=https://abc.execute-api.us-east-1.amazonaws.com",
                "stack_name=cbbootstrap",
                "region=us-east-1",
                "changed=true",
                "function_sha256=0a1b",
                "table=cb-bootstrap",
                "smoke=failed",
            ]
        );
        assert_eq!(
            report.summary(),
            "\
### cbbootstrap deploy: deployed

|  |  |
| --- | --- |
| Endpoint | https://abc.execute-api.us-east-1.amazonaws.com |
| Stack | `cbbootstrap` in us-east-1 |
| Function | sha256 `0a1b` |
| Table | `cb-bootstrap` |
| Smoke test | 0 of 1 steps passed |
| Time | build 61.2 s, stack 33.0 s |

| Step | Expected | Saw |
| --- | --- | --- |
| a joiner | 200 | 503 &lt;html>\\| |

"
        );

        report.changed = false;
        report.smoke = None;
        report.seconds.clear();
        let summary = report.summary();
        assert!(summary.starts_with("### cbbootstrap deploy: nothing to change\n"), "{summary}");
        assert!(summary.ends_with("| Table | `cb-bootstrap` |\n\n"), "{summary}");
    }
}
