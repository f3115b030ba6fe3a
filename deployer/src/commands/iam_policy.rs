//! `iam-policy`: prints the least policy that a deployment needs, without a call to AWS.

use aws_config::{
    Region, meta::region::RegionProviderChain, profile::region::ProfileFileRegionProvider,
};

use crate::{
    aws::Access,
    cli::IamPolicyArgs,
    permissions::{self, Scope},
    printer::Printer,
};

/// An unknown part of an ARN.
const ANY: &str = "*";

pub async fn run(args: IamPolicyArgs, printer: &Printer) -> anyhow::Result<()> {
    let region = region(&args.stack.access).await?;
    let scope = Scope {
        partition: permissions::partition(region.as_deref().unwrap_or_default()).to_owned(),
        account: args.account.unwrap_or_else(|| ANY.to_owned()),
        region: region.unwrap_or_else(|| ANY.to_owned()),
        stack_name: args.stack.stack_name,
        table_name: args.table.table_name,
        bucket: args.bucket,
        role_arn: args.role_arn,
    };
    let text = if args.explain {
        permissions::explain(&scope, args.policy_for)
    } else {
        serde_json::to_string_pretty(&permissions::policy(&scope, args.policy_for))?
    };
    printer.result(&text)
}

/// The region of a deployment, from options and files alone.
async fn region(access: &Access) -> anyhow::Result<Option<String>> {
    // Not the keys in the environment: these have no region.
    let profile = access
        .named_profile()
        .or_else(|| access.fallback_profile.clone())
        .or_else(|| access.profile());
    let mut provider = ProfileFileRegionProvider::builder();
    if let Some(name) = profile {
        provider = provider.profile_name(name);
    }
    let region = RegionProviderChain::first_try(access.region().map(Region::new))
        .or_else(provider.build())
        .region()
        .await;
    match region {
        Some(region) => Ok(Some(access.check_region(region.as_ref())?)),
        None => Ok(None),
    }
}
