//! `iam-policy`: prints the least policy that a deployment needs, without a call to AWS.

use crate::{
    aws::{Access, Profiles},
    cli::IamPolicyArgs,
    permissions::{self, Scope},
    printer::Printer,
};

/// An unknown part of an ARN.
const ANY: &str = "*";

pub async fn run(args: IamPolicyArgs, printer: &Printer) -> anyhow::Result<()> {
    let region = region(&args.scope.stack.access).await?;
    let partition = permissions::partition(region.as_deref().unwrap_or_default());
    let (account, region) = (args.account.as_deref().unwrap_or(ANY), region.as_deref());
    let scope = Scope::new(&args.scope, partition, account, region.unwrap_or(ANY));
    let text = if args.explain {
        permissions::explain(&scope, args.policy_for)
    } else {
        serde_json::to_string_pretty(&permissions::policy(&scope, args.policy_for).fit()?)?
    };
    printer.result(&text)
}

/// The region of a deployment, from options and files alone.
pub(super) async fn region(access: &Access) -> anyhow::Result<Option<String>> {
    if let Some(region) = access.region() {
        return Ok(Some(access.check_region(&region)?));
    }
    // Not the keys in the environment: these have no region.
    let profile = access.named_profile().or_else(|| access.fallback_profile.clone());
    let region = Profiles::read(profile.as_deref()).await?.region();
    Ok(region.map(|region| access.check_region(&region)).transpose()?)
}
