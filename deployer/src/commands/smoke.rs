//! `smoke`: tests an endpoint.

use crate::{
    aws::{Aws, cloudformation},
    cli::SmokeArgs,
    failure::Failure,
    github::{self, Tested},
    printer::Printer,
    settings::Place,
    smoke,
};

/// Tests the endpoint that is named, or the stack's.
pub async fn run(args: SmokeArgs, printer: &Printer) -> anyhow::Result<()> {
    let endpoint = if let Some(url) = args.url {
        smoke::endpoint(&url)?
    } else {
        let (aws, name) = {
            let place = Place::of(args.stack)?;
            (Aws::connect(&place.access).await?, place.stack_name)
        };
        let stack = cloudformation::find(&aws.cloudformation, &name)
            .await?
            .ok_or_else(|| {
                Failure::new(format!(
                    "there is no stack `{name}` in {} to take the endpoint from",
                    aws.region
                ))
                .hint("name the endpoint: `cbbootstrap smoke URL`")
            })?;
        stack.output("Endpoint")?.to_owned()
    };
    let report = smoke::test(&endpoint, false).await?;
    printer.result(&report)?;
    github::report(printer, &Tested::from(&report).note());
    Ok(report.verdict()?)
}
