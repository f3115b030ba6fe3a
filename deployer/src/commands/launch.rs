//! `launch`: a Couchbase cluster on EC2.

use std::fmt::Display;

use cbbootstrap_cli::text::shell_word;
use serde::Serialize;

use crate::{
    aws::{Aws, cloudformation},
    cli::LaunchArgs,
    deployment::{ClusterStack, DeployedStack, Deployment},
    failure::Failure,
    fields::write_fields,
    github::{self, publish},
    origin::introduce,
    package::{AGENT, ArtifactSource, BuildArgs, BuilderChoice},
    printer::Printer,
    settings::{Place, StackOptions, TableArgs, Target, check_regions, check_tags, map},
    signals::Signals,
    stack::Stack,
    template::{self, CLUSTER_TEMPLATE},
    values::STACK_NAME,
};

/// The parameters that have options.
pub const HAS_OPTION: [(&str, &str); 9] = [
    ("ApiEndpoint", "--stack-name"),
    ("ApiAuthorizationType", "--stack-name"),
    ("ApiId", "--stack-name"),
    ("ClusterId", "CLUSTER_ID"),
    ("AgentBucket", "--bucket"),
    ("AgentKey", "--agent"),
    ("VpcId", "--vpc"),
    ("SubnetIds", "--subnet"),
    ("NodeCount", "--nodes"),
];

#[derive(Debug, Serialize)]
struct LaunchReport {
    cluster_id: String,
    stack_name: String,
    #[serde(skip)]
    region: String,
    /// The AWS CLI does not read `cbbootstrap.yaml`, which may name it.
    #[serde(skip)]
    profile: Option<String>,
    changed: bool,
    /// The members that the API knows.
    nodes: Vec<String>,
    /// For SDKs; `None` without a known member.
    connection_string: Option<String>,
    console: Option<String>,
    /// The secret that contains the administrator's password.
    password_arn: String,
}

impl LaunchReport {
    fn new(
        args: &LaunchArgs,
        stack: &Stack,
        region: String,
        changed: bool,
        nodes: Vec<String>,
    ) -> anyhow::Result<Self> {
        let has_tls = stack.parameter("Edition").is_none_or(|edition| edition == "enterprise");
        let (scheme, console) = if has_tls {
            ("couchbases", "https://NODE:18091")
        } else {
            ("couchbase", "http://NODE:8091")
        };
        Ok(Self {
            cluster_id: args.cluster_id.clone(),
            stack_name: stack.name().to_owned(),
            region,
            profile: args.api.access.chosen_profile(),
            changed,
            connection_string: (!nodes.is_empty())
                .then(|| format!("{scheme}://{}", nodes.join(","))),
            console: nodes.first().map(|node| console.replace("NODE", node)),
            nodes,
            password_arn: stack.output("AdministratorPasswordArn")?.to_owned(),
        })
    }

    fn outcome(&self) -> &'static str {
        if self.changed { "deployed" } else { "nothing to change" }
    }

    fn password_command(&self) -> String {
        let Self { password_arn, region, profile, .. } = self;
        let profile =
            profile.as_deref().map(|profile| format!(" --profile {}", shell_word(profile)));
        let profile = profile.unwrap_or_default();
        format!(
            "aws secretsmanager get-secret-value --region {region}{profile} --secret-id {password_arn} --query SecretString --output text"
        )
    }
}

impl Display for LaunchReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cluster_id, stack_name, region, .. } = self;
        let fields = [
            ("Cluster:", cluster_id.clone()),
            ("Stack:", format!("{stack_name} in {region}, {}", self.outcome())),
            ("Nodes:", self.nodes.join(", ")),
            ("Connect:", self.connection_string.clone().unwrap_or_default()),
            ("Console:", self.console.clone().unwrap_or_default()),
            ("Password:", self.password_command()),
        ];
        write_fields(f, 9, fields)
    }
}

pub async fn run(args: LaunchArgs, printer: &Printer, signals: &mut Signals) -> anyhow::Result<()> {
    check(&args)?;
    let name = cluster_stack(&args)?;
    let launched = launch(&args, &name, printer, signals).await;
    let launched =
        launched.inspect_err(|error| github::write_failure(printer, "launch", &name, error))?;
    publish(printer, "launch", launched.outcome(), &launched)
}

async fn launch(
    args: &LaunchArgs,
    name: &str,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<LaunchReport> {
    let begin = async {
        let build = BuildArgs {
            arch: args.agent.arch,
            from_source: args.agent.source.is_some(),
            builder: BuilderChoice::Auto,
            cargo_profile: "lambda".to_owned(),
            source: args.agent.source.clone(),
        };
        let agent = ArtifactSource::find(&AGENT, args.agent.archive.as_deref(), &build);
        anyhow::Ok((agent.await?, Aws::connect(&args.api.access).await?))
    };
    let (agent, aws) = signals.or_stopped(begin).await?;
    check_regions(args.parameters.iter().map(|(name, value)| (name.as_str(), value)), &aws.region)?;
    let place = Place { stack_name: name.to_owned(), ..args.api.clone() };
    introduce(&aws, &place, printer, async {
        let api_name = &args.api.stack_name;
        let find_api = cloudformation::require(&aws.cloudformation, api_name, &aws.region);
        let api = signals.or_stopped(find_api).await?;
        let defaults = template::defaults(CLUSTER_TEMPLATE)?;
        let cluster = ClusterStack { args, stack_name: name, api: &api, defaults };
        let target = target(args, &api, place.clone());
        let deployment = Deployment {
            cluster: Some(&cluster),
            yes: args.yes,
            wait_for_stack: args.wait.wait_for_stack,
            ..Deployment::new(&aws, &target, printer)
        };
        let launched = deployment.deploy(std::future::ready(Ok(agent)), signals).await?;
        let DeployedStack { stack, changed, members, .. } = launched;
        LaunchReport::new(args, &stack, aws.region.clone(), changed, members)
    })
    .await
}

/// Checks the options before any call to AWS.
fn check(args: &LaunchArgs) -> Result<(), Failure> {
    for (option, prefix, ids) in
        [("--vpc", "vpc-", std::slice::from_ref(&args.vpc)), ("--subnet", "subnet-", &args.subnets)]
    {
        if let Some(id) = ids.iter().find(|id| !id.starts_with(prefix)) {
            let list = format!("aws ec2 describe-{}s", &option[2..]);
            return Err(Failure::usage(format!("`{option}` cannot be `{id}`"))
                .hint(format!("an ID begins with `{prefix}`; `{list}` lists them")));
        }
    }
    let users = map(&args.parameters);
    template::check(CLUSTER_TEMPLATE, &users, &HAS_OPTION)?;
    if users.contains_key("AgentKmsKeyArn") && args.bucket.is_none() {
        let hint = "without `--bucket`, the archive is encrypted with the key of the API's stack";
        return Err(Failure::usage("parameter `AgentKmsKeyArn` needs `--bucket`").hint(hint));
    }
    let sets = |name: &str| users.get(name).map(String::as_str);
    if sets("Edition") == Some("community") && sets("SyncGatewayNodes").unwrap_or("0") != "0" {
        let hint = "omit `SyncGatewayNodes`, or set `Edition=enterprise`";
        return Err(Failure::usage("Sync Gateway needs Enterprise Edition").hint(hint));
    }
    check_tags(&map(&args.tags))
}

fn cluster_stack(args: &LaunchArgs) -> Result<String, Failure> {
    let name = args.cluster_stack.clone();
    let name = name.unwrap_or_else(|| format!("couchbase-{}", args.cluster_id));
    STACK_NAME.check(&name).map_err(|rule| {
        Failure::usage(format!("`{name}` cannot be the name of a stack: {rule}"))
            .hint("pass the stack with `--cluster-stack`")
    })
}

fn target(args: &LaunchArgs, api: &Stack, place: Place) -> Target {
    let mut stack = StackOptions {
        tags: args.tags.clone(),
        role_arn: args.role_arn.clone(),
        protect: args.protect,
        ..StackOptions::default()
    };
    // The bucket is that of the API's stack, and stays encrypted with its key.
    stack.table.kms_key = api.parameter("KmsKeyArn").map(str::to_owned);
    let table = TableArgs { table_name: api.table().unwrap_or_default().to_owned() };
    Target { table, place, bucket: args.bucket.clone(), stack }
}

#[cfg(test)]
pub(crate) mod tests;
