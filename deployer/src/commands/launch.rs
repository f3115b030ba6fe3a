//! `launch`: a Couchbase cluster on EC2.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use cbbootstrap_function::store::{Row, Store, dynamodb::DynamoDb};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    aws::{
        Aws,
        cloudformation::{self, UpdateMode},
        s3::Bucket,
    },
    cli::LaunchArgs,
    deployment::{Cluster, DeployedStack, Deployment},
    failure::{Exit, Failure},
    fields::write_fields,
    github::{self, publish},
    origin::introduce,
    package::{AGENT, ArtifactSource, BuildArgs, BuilderChoice, artifact::Artifact},
    printer::Printer,
    settings::{Place, RecordsArgs, StackOptions, TableArgs, Target, check_tags, map},
    signals::Signals,
    stack::Stack,
    template::{self, CLUSTER_TEMPLATE},
    values::{Arch, STACK_NAME},
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

/// The defaults of the template for instances with Graviton processors.
const ARM64_DEFAULTS: [(&str, &str); 3] = [
    ("ImageId", "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"),
    ("InstanceType", "m7g.xlarge"),
    GATEWAY_TYPE,
];

const GATEWAY_TYPE: (&str, &str) = ("SyncGatewayInstanceType", "m7g.large");

#[derive(Debug, Serialize)]
struct LaunchReport {
    cluster_id: String,
    stack_name: String,
    #[serde(skip)]
    region: String,
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
        cluster_id: String,
        stack: &Stack,
        region: String,
        changed: bool,
        nodes: Vec<String>,
    ) -> anyhow::Result<Self> {
        let has_tls = stack.parameters.get("Edition").is_none_or(|edition| edition == "enterprise");
        let (scheme, console) = if has_tls {
            ("couchbases", "https://NODE:18091")
        } else {
            ("couchbase", "http://NODE:8091")
        };
        Ok(Self {
            cluster_id,
            stack_name: stack.name().to_owned(),
            region,
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
        let Self { password_arn, region, .. } = self;
        format!(
            "aws secretsmanager get-secret-value --region {region} --secret-id {password_arn} --query SecretString --output text"
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
    let place = Place { stack_name: name.to_owned(), ..args.api.clone() };
    introduce(&aws, &place, printer, async {
        let api_name = &args.api.stack_name;
        let find_api = cloudformation::require(&aws.cloudformation, api_name, &aws.region);
        let api = signals.or_stopped(find_api).await?;
        let endpoint = api.output("Endpoint")?.to_owned();
        let known = signals.or_stopped(Known::read(&aws, &api, &args.cluster_id)).await?;
        let launch = Launch {
            args,
            stack_name: name,
            endpoint: &endpoint,
            has_record: known.has_record,
            defaults: template::defaults(CLUSTER_TEMPLATE)?,
            api: &api,
        };
        let target = target(args, &api, place.clone());
        let deployment = Deployment {
            aws: &aws,
            target: &target,
            update_mode: UpdateMode::default(),
            yes: args.yes,
            wait_for_stack: args.wait.wait_for_stack,
            printer,
        };
        let launched = deployment.launch(agent, &launch, signals).await?;
        let DeployedStack { stack, changed, is_fresh, .. } = launched;
        let nodes = if is_fresh {
            signals.or_stopped(Known::read(&aws, &api, &args.cluster_id)).await?.nodes
        } else {
            known.nodes
        };
        LaunchReport::new(args.cluster_id.clone(), &stack, aws.region.clone(), changed, nodes)
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
            .hint("name the stack with `--cluster-stack`")
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
    let key = api.parameters.get("KmsKeyArn").filter(|key| !key.is_empty());
    stack.table.kms_key = key.cloned();
    let table = TableArgs { table_name: api.table().unwrap_or_default().to_owned() };
    Target { table, place, bucket: args.bucket.clone(), stack }
}

/// What the parameters depend on.
struct Launch<'a> {
    args: &'a LaunchArgs,
    stack_name: &'a str,
    api: &'a Stack,
    endpoint: &'a str,
    /// Whether a node has claimed this cluster at the API.
    has_record: bool,
    defaults: BTreeMap<String, String>,
}

impl Cluster for Launch<'_> {
    fn check(&self, stack: Option<&Stack>, is_new: bool) -> Result<(), Failure> {
        let (id, name) = (&self.args.cluster_id, self.stack_name);
        // A stack whose first change set was not executed has no parameters.
        let stack = stack.filter(|stack| !stack.parameters.is_empty());
        if stack.is_some_and(|stack| stack.cluster_id() != Some(id)) {
            return Err(Failure::new(format!("stack `{name}` is not that of cluster `{id}`"))
                .hint("choose another name with `--cluster-stack`")
                .exit(Exit::NeedsDecision));
        }
        // The new nodes have another secret than the record.
        if is_new && self.has_record {
            let message =
                format!("the API has a record of cluster `{id}`, but stack `{name}` has no nodes");
            let forget = self.forget_command();
            return Err(Failure::new(message)
                .hint(format!(
                    "if the cluster's nodes are gone, run `{forget}`; otherwise choose another ID"
                ))
                .exit(Exit::NeedsDecision));
        }
        let Some(before) = stack.filter(|_| !is_new) else {
            return Ok(());
        };
        self.check_network(before)?;
        self.check_processor(before)
    }

    fn parameters(
        &self,
        before: Option<&Stack>,
        bucket: &Bucket,
        agent: &Artifact,
    ) -> BTreeMap<String, String> {
        self.values(before, &bucket.name, bucket.key(agent))
    }

    fn after_failed_creation(&self) -> String {
        let forget = self.forget_command();
        format!("if a node has claimed the cluster, run `{forget}` before you launch it again")
    }
}

impl Launch<'_> {
    fn check_network(&self, before: &Stack) -> Result<(), Failure> {
        let LaunchArgs { cluster_id: id, vpc, .. } = self.args;
        match before.parameters.get("VpcId").filter(|current| *current != vpc) {
            None => Ok(()),
            Some(current) => Err(Failure::usage(format!("cluster `{id}` is in `{current}`"))
                .hint(format!("pass `--vpc {current}`; a cluster cannot move to another VPC"))),
        }
    }

    /// Another processor needs an image and instance types for it.
    fn check_processor(&self, before: &Stack) -> Result<(), Failure> {
        let other = if self.args.agent.arch == Arch::Arm64 { "x86_64" } else { "arm64" };
        let image = ARM64_DEFAULTS[0].1.replace("arm64", other);
        if before.parameters.get("ImageId") != Some(&image) {
            return Ok(());
        }
        let users = map(&self.args.parameters);
        let gateways = users.get("SyncGatewayNodes");
        let gateways = gateways.or_else(|| before.parameters.get("SyncGatewayNodes"));
        let has_gateways = gateways.is_some_and(|count| count != "0");
        let mut needed = ARM64_DEFAULTS.map(|(name, _)| name).to_vec();
        needed.retain(|name| has_gateways || *name != GATEWAY_TYPE.0);
        if needed.iter().all(|name| users.contains_key(*name)) {
            return Ok(());
        }
        let needed: Vec<_> = needed.iter().map(|name| format!("`{name}`")).collect();
        let message =
            format!("the instances of cluster `{}` are for {other}", self.args.cluster_id);
        Err(Failure::usage(message).hint(format!(
            "pass `--arch {other}`; to change them, set the parameters {}",
            needed.join(", ")
        )))
    }

    fn forget_command(&self) -> String {
        let Place { config, access, .. } = self.args.api.clone();
        let table = TableArgs { table_name: self.api.table().unwrap_or_default().to_owned() };
        let records = RecordsArgs { table, config, local: false, data: None, access };
        let id = self.args.cluster_id.clone();
        // An ID can look like an option.
        let end_of_options = id.starts_with('-').then(|| "--".to_owned());
        records.command("forget", &end_of_options.into_iter().chain([id]).collect::<Vec<_>>())
    }

    /// Omitted options keep the values of the stack, as a smaller volume or another edition would endanger the nodes' data.
    fn values(
        &self,
        before: Option<&Stack>,
        bucket: &str,
        key: String,
    ) -> BTreeMap<String, String> {
        let Self { args, api, defaults, .. } = self;
        let is_arm64 = args.agent.arch == Arch::Arm64;
        let for_arch = ARM64_DEFAULTS.into_iter().filter(|_| is_arm64);
        let output = |name: &str| api.outputs.get(name).cloned();
        let set = [
            ("ApiEndpoint", self.endpoint.to_owned()),
            ("ApiAuthorizationType", api.auth().authorization_type().to_owned()),
            ("ApiId", output("ApiId").unwrap_or_else(|| "*".to_owned())),
            ("ClusterId", args.cluster_id.clone()),
            ("AgentBucket", bucket.to_owned()),
            ("AgentKey", key),
            ("VpcId", args.vpc.clone()),
            ("SubnetIds", subnets(&args.subnets, before)),
        ];
        // Our own bucket is encrypted as the API's stack wants it; the key of another one is known to the user only.
        let key_of_api = || api.parameters.get("KmsKeyArn").cloned().unwrap_or_default();
        let agent_key = args.bucket.is_none().then(|| ("AgentKmsKeyArn", key_of_api()));
        let nodes = args.nodes.map(|nodes| ("NodeCount", nodes.to_string()));
        // A stack without Sync Gateway may have changed its processor since it got this value.
        let other_gateway = if is_arm64 { defaults.get(GATEWAY_TYPE.0) } else { None };
        let other_gateway = other_gateway.map_or(GATEWAY_TYPE.1, String::as_str);
        let before = before.map(|stack| stack.parameters.clone()).unwrap_or_default();
        defaults
            .clone()
            .into_iter()
            .chain(for_arch.map(|(name, value)| (name.to_owned(), value.to_owned())))
            .chain(before.into_iter().filter(|(name, value)| {
                // An ID is not the value of an SSM parameter's name.
                defaults.contains_key(name)
                    && !value.starts_with("ami-")
                    && (name.as_str(), value.as_str()) != (GATEWAY_TYPE.0, other_gateway)
            }))
            .chain(map(&args.parameters))
            .chain(
                set.into_iter()
                    .chain(agent_key)
                    .chain(nodes)
                    .map(|(name, value)| (name.to_owned(), value)),
            )
            .collect()
    }
}

/// The parameter for these subnets. Their order does not matter, so that of the stack stays: another one would be a change.
fn subnets(subnets: &[String], before: Option<&Stack>) -> String {
    let desired: BTreeSet<_> = subnets.iter().map(String::as_str).collect();
    let current = before.and_then(|stack| stack.parameters.get("SubnetIds"));
    let is_same = |current: &&String| current.split(',').collect::<BTreeSet<_>>() == desired;
    if let Some(current) = current.filter(is_same) {
        return current.clone();
    }
    let mut rest = desired;
    let subnets = subnets.iter().map(String::as_str).filter(|subnet| rest.remove(subnet));
    subnets.collect::<Vec<_>>().join(",")
}

/// What the API's table says about the cluster; nothing if these credentials may not read it.
struct Known {
    /// The members.
    nodes: Vec<String>,
    /// Whether a node has claimed it, even if none was ready, or its record cannot be read.
    has_record: bool,
}

impl Known {
    async fn read(aws: &Aws, api: &Stack, cluster_id: &str) -> anyhow::Result<Self> {
        let table = api.output("TableName")?;
        let row = DynamoDb::new(aws.dynamodb.clone(), table).find(cluster_id).await;
        Ok(Self::new(row.ok().flatten(), Timestamp::now()))
    }

    fn new(row: Option<Row>, now: Timestamp) -> Self {
        match row.map(|row| row.record) {
            Some(Ok(record)) if !record.is_gone(now) => {
                Self { nodes: record.members.into_keys().collect(), has_record: true }
            }
            Some(Err(_)) => Self { nodes: Vec::new(), has_record: true },
            _ => Self { nodes: Vec::new(), has_record: false },
        }
    }
}

#[cfg(test)]
mod tests;
