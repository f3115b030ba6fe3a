//! `smoke`: tests an endpoint.

use jiff::Timestamp;

use crate::{
    aws::{Aws, cloudformation},
    cli::SmokeArgs,
    domain::testable_endpoint,
    github::publish,
    origin,
    printer::Printer,
    smoke, stack,
    values::Auth,
};

/// Tests the given endpoint, or that of the stack.
pub async fn run(args: SmokeArgs, printer: &Printer) -> anyhow::Result<()> {
    let access = &args.stack.access;
    let (aws, store, network, endpoint, signer, is_fresh) = if let Some(url) = args.url {
        let endpoint = smoke::parse_endpoint(&url)?;
        // Only a signature needs a region and credentials.
        match args.endpoint_auth {
            Some(auth @ Auth::Iam) => {
                let aws = Aws::connect(access).await?;
                let signer = aws.signer(auth).await?;
                let network = aws.network.clone();
                (Some(aws), None, network, endpoint, signer, false)
            }
            _ => (None, None, access.profiles().await?.network()?, endpoint, None, false),
        }
    } else {
        let (aws, name) = (Aws::connect(access).await?, args.stack.stack_name);
        let stack = cloudformation::find(&aws.cloudformation, &name).await?.ok_or_else(|| {
            stack::missing(&name, &aws.region).hint("pass the endpoint: `cbbootstrap smoke URL`")
        })?;
        let endpoint = testable_endpoint(&stack, printer).await?;
        let signer = aws.signer(stack.auth()).await?;
        let (network, store) = (aws.network.clone(), aws.store(stack.output("TableName")?));
        let is_fresh = stack.is_fresh(Timestamp::now());
        (Some(aws), Some(store), network, endpoint, signer, is_fresh)
    };
    let test = smoke::test(&network, &endpoint, signer, is_fresh, store.as_ref());
    let report = match &aws {
        Some(aws) => origin::add(aws, &args.stack.config, printer, test).await?,
        None => test.await?,
    };
    let outcome = if report.passed { "passed" } else { "failed" };
    let written = publish(printer, "smoke", outcome, &report);
    report.verdict()?;
    written
}
