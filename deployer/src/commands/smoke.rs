//! `smoke`: tests an endpoint.

use crate::{
    aws::{Aws, cloudformation},
    cli::SmokeArgs,
    failure::Failure,
    github::{self, Tested},
    printer::Printer,
    settings::Place,
    smoke,
    values::Auth,
};

/// Tests the given endpoint, or that of the stack.
pub async fn run(args: SmokeArgs, printer: &Printer) -> anyhow::Result<()> {
    let (endpoint, signer) = if let Some(url) = args.url {
        let endpoint = smoke::parse_endpoint(&url)?;
        // Only a signature needs a region, credentials and the configuration file.
        let signer = match args.auth {
            Some(auth @ Auth::Iam) => {
                let place = Place::of(args.stack)?;
                Aws::connect(&place.access).await?.signer(auth).await?
            }
            _ => None,
        };
        (endpoint, signer)
    } else {
        let (aws, name) = {
            let place = Place::of(args.stack)?;
            (Aws::connect(&place.access).await?, place.stack_name)
        };
        let stack = cloudformation::find(&aws.cloudformation, &name).await?.ok_or_else(|| {
            Failure::new(format!(
                "there is no stack `{name}` in {} to take the endpoint from",
                aws.region
            ))
            .hint("name the endpoint: `cbbootstrap smoke URL`")
        })?;
        let endpoint = stack.output("Endpoint")?.to_owned();
        (endpoint, aws.signer(stack.auth()).await?)
    };
    let report = smoke::test(&endpoint, signer, false).await?;
    printer.result(&report)?;
    github::report(printer, &Tested::from(&report).note());
    Ok(report.verdict()?)
}
