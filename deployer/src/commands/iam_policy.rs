//! `iam-policy`: the least policy that a deployment needs. It asks nothing of AWS, and takes no credentials.

use aws_config::{
    Region, environment::EnvironmentVariableRegionProvider, meta::region::RegionProviderChain,
    profile::region::ProfileFileRegionProvider,
};

use crate::{
    aws::Access,
    cli::{IamPolicyArgs, region_name},
    config,
    failure::{Exit, Failure},
    permissions::{self, Scope},
    printer::Printer,
    settings::{self, Place},
};

/// What stands for a thing that is not known.
const ANY: &str = "*";

/// Prints it.
pub async fn run(args: IamPolicyArgs, printer: &Printer) -> anyhow::Result<()> {
    let environment = config::environment(&args.stack.config)?;
    let place = Place::with(args.stack, &environment);
    let region = region(&place.access).await?;
    let scope = Scope {
        partition: permissions::partition(region.as_deref().unwrap_or_default()).to_owned(),
        account: args.account.unwrap_or_else(|| ANY.to_owned()),
        region: region.unwrap_or_else(|| ANY.to_owned()),
        stack_name: place.stack_name,
        table_name: settings::table_name(args.table, &environment),
        bucket: args.bucket.bucket.or(environment.bucket),
        role_arn: args.role_arn.or(environment.role_arn),
    };
    if args.explain {
        printer.result(&permissions::explanation(&scope, args.policy_for))
    } else {
        printer.result(&permissions::policy(&scope, args.policy_for))
    }
}

/// The region that a deployment would be made in, from options and files alone; `None` if none is named.
async fn region(access: &Access) -> anyhow::Result<Option<String>> {
    let named = |name: &Option<String>| name.clone().map(Region::new);
    let mut profile = ProfileFileRegionProvider::builder();
    let fallback = || {
        let unnamed = std::env::var_os("AWS_PROFILE").is_none_or(|name| name.is_empty());
        unnamed
            .then_some(access.fallback_profile.as_ref())
            .flatten()
    };
    if let Some(name) = access.profile.as_ref().or_else(fallback) {
        profile = profile.profile_name(name);
    }
    let region = RegionProviderChain::first_try(named(&access.region))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(named(&access.fallback_region))
        .or_else(profile.build())
        .region()
        .await;
    region
        .map(|region| {
            region_name(region.as_ref()).map_err(|rule| {
                Failure::new(format!("`{region}` is no AWS region"))
                    .hint(rule)
                    .exit(Exit::Usage)
                    .into()
            })
        })
        .transpose()
}
