//! `smoke`: tests an endpoint.

use crate::{
    aws::{Aws, cloudformation},
    cli::SmokeArgs,
    failure::Failure,
    github::{self, Tested},
    printer::Printer,
    smoke,
    values::Auth,
};

/// Tests the endpoint that is named, or the stack's.
pub async fn run(args: SmokeArgs, printer: &Printer) -> anyhow::Result<()> {
    let (endpoint, signer) = if let Some(url) = args.url {
        let endpoint = smoke::parse_endpoint(&url)?;
        // An endpoint for everyone takes neither a region nor credentials, nor a file that is in order.
        let signer = match args.endpoint_auth {
            Some(auth @ Auth::Iam) => Aws::connect(&args.stack.access).await?.signer(auth).await?,
            _ => None,
        };
        (endpoint, signer)
    } else {
        let (aws, name) = { (Aws::connect(&args.stack.access).await?, args.stack.stack_name) };
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
