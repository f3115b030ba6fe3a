//! `launch`: a Couchbase cluster on EC2.

use std::{collections::BTreeMap, fmt::Display};

use cbbootstrap_function::store::{Store, dynamodb::DynamoDb};
use serde::Serialize;

use crate::{
    aws::{
        Aws,
        cloudformation::{self, UpdateMode},
        s3::Bucket,
    },
    cli::LaunchArgs,
    deployment::Deployment,
    failure::Failure,
    github::{self, code, heading, table},
    origin::introduce,
    package::{ArtifactSource, BuildArgs, BuilderChoice, Program, artifact::Artifact},
    printer::Printer,
    report::{CommandReport, publish},
    settings::{Place, StackOptions, TableArgs, Target, check_tags, map},
    signals::Signals,
    stack::Stack,
    template::{self, CLUSTER_TEMPLATE},
    values::{Arch, stack_name},
};

/// The parameters that have options.
const HAS_OPTION: [(&str, &str); 9] = [
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
const ARM64_DEFAULTS: [(&str, &str); 2] = [
    ("ImageId", "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"),
    ("InstanceType", "m7g.xlarge"),
];

#[derive(Debug, Serialize)]
struct LaunchReport {
    cluster_id: String,
    stack_name: String,
    region: String,
    /// Whether anything had to be changed.
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

    /// A command that prints the administrator's password.
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
        writeln!(f, "Cluster:  {cluster_id}")?;
        writeln!(f, "Stack:    {stack_name} in {region}, {}", self.outcome())?;
        if !self.nodes.is_empty() {
            writeln!(f, "Nodes:    {}", self.nodes.join(", "))?;
        }
        for (name, value) in [("Connect: ", &self.connection_string), ("Console: ", &self.console)]
        {
            if let Some(value) = value {
                writeln!(f, "{name} {value}")?;
            }
        }
        writeln!(f, "Password: {}", self.password_command())
    }
}

impl CommandReport for LaunchReport {
    fn outputs(&self) -> Vec<(&'static str, String)> {
        let mut outputs = vec![
            ("cluster_id", self.cluster_id.clone()),
            ("stack_name", self.stack_name.clone()),
            ("region", self.region.clone()),
            ("changed", self.changed.to_string()),
            ("nodes", self.nodes.join(",")),
            ("password_arn", self.password_arn.clone()),
        ];
        outputs.extend(self.connection_string.clone().map(|it| ("connection_string", it)));
        outputs
    }

    fn summary(&self) -> String {
        let mut rows = vec![
            ["Cluster".to_owned(), code(&self.cluster_id)],
            ["Stack".to_owned(), format!("{} in {}", code(&self.stack_name), self.region)],
            ["Nodes".to_owned(), self.nodes.join(", ")],
        ];
        rows.extend(self.connection_string.iter().map(|it| ["Connect".to_owned(), code(it)]));
        heading("launch", self.outcome()) + &table(["", ""], &rows)
    }
}

pub async fn run(args: LaunchArgs, printer: &Printer, signals: &mut Signals) -> anyhow::Result<()> {
    check(&args)?;
    let name = cluster_stack(&args)?;
    let launched = launch(&args, &name, printer, signals).await;
    let launched =
        launched.inspect_err(|error| github::write_failure(printer, "launch", &name, error))?;
    publish(printer, &launched)
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
        let agent = ArtifactSource::find(Program::Agent, args.agent.archive.as_deref(), &build);
        anyhow::Ok((agent.await?, Aws::connect(&args.api.access).await?))
    };
    let (agent, aws) = signals.or_stopped(begin).await?;
    let place = Place { stack_name: name.to_owned(), ..args.api.clone() };
    introduce(&aws, &place, printer, async {
        let api_name = &args.api.stack_name;
        let find_api = cloudformation::require(&aws.cloudformation, api_name, &aws.region);
        let api = signals.or_stopped(find_api).await?;
        let endpoint = api.output("Endpoint")?.to_owned();
        let target = target(args, &api, place.clone());
        let deployment = Deployment {
            aws: &aws,
            target: &target,
            update_mode: UpdateMode::default(),
            yes: args.yes,
            wait_for_stack: args.wait.wait_for_stack,
            printer,
        };
        let defaults = template::defaults(CLUSTER_TEMPLATE)?;
        let parameters = |bucket: &Bucket, agent: &Artifact| {
            let stored = (bucket.name.as_str(), bucket.key(agent));
            parameters(args, &api, &endpoint, stored, defaults.clone())
        };
        let (stack, changed) = deployment.launch(agent, parameters, signals).await?;
        let nodes = signals.or_stopped(nodes(&aws, &api, &args.cluster_id)).await?;
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
            return Err(Failure::usage(format!("`{option}` cannot be `{id}`"))
                .hint(format!("an ID begins with `{prefix}`")));
        }
    }
    template::check(CLUSTER_TEMPLATE, &map(&args.parameters), &HAS_OPTION)?;
    check_tags(&map(&args.tags))
}

/// The name of the cluster's stack.
fn cluster_stack(args: &LaunchArgs) -> Result<String, Failure> {
    let name = args.cluster_stack.clone();
    let name = name.unwrap_or_else(|| format!("couchbase-{}", args.cluster_id));
    stack_name(&name).map_err(|rule| {
        Failure::usage(format!("`{name}` cannot be the name of a stack: {rule}"))
            .hint("name the stack with `--cluster-stack`")
    })
}

/// The cluster's stack as the target of a deployment.
fn target(args: &LaunchArgs, api: &Stack, place: Place) -> Target {
    let mut stack = StackOptions {
        tags: args.tags.clone(),
        role_arn: args.role_arn.clone(),
        ..StackOptions::default()
    };
    // The bucket is that of the API's stack, and stays encrypted with its key.
    let key = api.parameters.get("KmsKeyArn").filter(|key| !key.is_empty());
    stack.table.kms_key = key.cloned();
    let table = TableArgs { table_name: api.table().unwrap_or_default().to_owned() };
    Target { table, place, bucket: args.bucket.clone(), stack }
}

/// A value for every parameter of the template. `stored` is the agent's bucket and key.
fn parameters(
    args: &LaunchArgs,
    api: &Stack,
    endpoint: &str,
    stored: (&str, String),
    defaults: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let is_arm64 = args.agent.arch == Arch::Arm64;
    let for_arch = ARM64_DEFAULTS.into_iter().filter(|_| is_arm64);
    let api_id = api.outputs.get("ApiId").map_or("*", String::as_str);
    let set = [
        ("ApiEndpoint", endpoint.to_owned()),
        ("ApiAuthorizationType", api.auth().authorization_type().to_owned()),
        ("ApiId", api_id.to_owned()),
        ("ClusterId", args.cluster_id.clone()),
        ("AgentBucket", stored.0.to_owned()),
        ("AgentKey", stored.1),
        ("VpcId", args.vpc.clone()),
        ("SubnetIds", args.subnets.join(",")),
        ("NodeCount", args.nodes.to_string()),
    ];
    defaults
        .into_iter()
        .chain(for_arch.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .chain(map(&args.parameters))
        .chain(set.map(|(name, value)| (name.to_owned(), value)))
        .collect()
}

/// The members in the API's table; none if these credentials may not read it.
async fn nodes(aws: &Aws, api: &Stack, cluster_id: &str) -> anyhow::Result<Vec<String>> {
    let table = api.output("TableName")?;
    let row = DynamoDb::new(aws.dynamodb.clone(), table).find(cluster_id).await;
    let record = row.ok().flatten().and_then(|row| row.record.ok());
    Ok(record.into_iter().flat_map(|record| record.members.into_keys()).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        failure::Exit,
        stack::tests::stack,
    };

    fn args(options: &[&str]) -> LaunchArgs {
        let command =
            ["cbbootstrap", "launch", "my_cluster", "--vpc=vpc-1", "--subnet=subnet-1,subnet-2"];
        match Cli::try_parse_from(command.iter().chain(options)).unwrap().command {
            Command::Launch(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_parameter_has_a_value() {
        let mut api = stack("CREATE_COMPLETE", "t");
        let parameters = |args: &LaunchArgs, api: &Stack| {
            let defaults = template::defaults(CLUSTER_TEMPLATE).unwrap();
            parameters(args, api, "https://api", ("bucket", "key".to_owned()), defaults)
        };
        let default = parameters(&args(&[]), &api);
        for (name, value) in [
            ("SubnetIds", "subnet-1,subnet-2"),
            ("NodeCount", "3"),
            ("ApiId", "*"),
            ("ApiAuthorizationType", "NONE"),
            ("AgentKey", "key"),
            ("InstanceType", "m6i.xlarge"),
        ] {
            assert_eq!(default[name], value, "{name}");
        }
        let without_value = |(name, _): &&(&str, &str)| !default.contains_key(*name);
        assert_eq!(HAS_OPTION.iter().find(without_value), None);

        api.parameters.insert("AuthorizationType".to_owned(), "AWS_IAM".to_owned());
        api.outputs.insert("ApiId".to_owned(), "abc".to_owned());
        let other = args(&["--arch=arm64", "--nodes=5", "--parameter=Services=data"]);
        let other = parameters(&other, &api);
        for (name, value) in [
            ("NodeCount", "5"),
            ("Services", "data"),
            ("ApiId", "abc"),
            ("ApiAuthorizationType", "AWS_IAM"),
            ("InstanceType", "m7g.xlarge"),
        ] {
            assert_eq!(other[name], value, "{name}");
        }
        assert!(other["ImageId"].ends_with("arm64"));
        let chosen = args(&["--arch=arm64", "--parameter=InstanceType=r7g.large"]);
        assert_eq!(parameters(&chosen, &api)["InstanceType"], "r7g.large");
    }

    #[test]
    fn wrong_options_are_refused() {
        for (options, message) in [
            (&["--vpc=x"][..], "`--vpc` cannot be `x`"),
            (&["--subnet=vpc-1"], "`--subnet` cannot be `vpc-1`"),
            (&["--parameter=Nodes=3"], "no parameter `Nodes`"),
            (&["--parameter=NodeCount=3"], "`NodeCount` has its own option"),
            (&["--parameter=DataVolumeSize=1"], "`DataVolumeSize` cannot be `1`"),
            (&["--tag=aws:x=1"], "tag `aws:x`"),
        ] {
            let base: Vec<_> = options.iter().copied().collect();
            let command = ["cbbootstrap", "launch", "c"].into_iter().chain(base);
            let rest = ["--vpc=vpc-1", "--subnet=subnet-1"].into_iter();
            let rest = rest.filter(|it| !options.iter().any(|option| option[..5] == it[..5]));
            let Command::Launch(args) = Cli::try_parse_from(command.chain(rest)).unwrap().command
            else {
                panic!("{options:?}");
            };
            let failure = check(&args).unwrap_err();
            assert!(failure.to_string().contains(message), "{options:?}: {failure}");
            assert_eq!(failure.exit, Exit::Usage, "{options:?}");
        }
        assert!(
            cluster_stack(&args(&[])).unwrap_err().to_string().contains("couchbase-my_cluster")
        );
        assert_eq!(cluster_stack(&args(&["--cluster-stack=mine"])).unwrap(), "mine");
    }

    #[test]
    fn a_launch_reports_how_to_connect() {
        let mut stack = stack("CREATE_COMPLETE", "t");
        stack.id = "arn:aws:cloudformation:us-east-1:1:stack/couchbase-c/u".to_owned();
        stack.outputs.insert("AdministratorPasswordArn".to_owned(), "arn:p".to_owned());
        let report = |stack: &Stack, nodes: &[&str]| {
            let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
            LaunchReport::new("c".to_owned(), stack, "us-east-1".to_owned(), true, nodes).unwrap()
        };
        assert_eq!(
            report(&stack, &["a", "b"]).to_string(),
            "Cluster:  c\n\
             Stack:    couchbase-c in us-east-1, deployed\n\
             Nodes:    a, b\n\
             Connect:  couchbases://a,b\n\
             Console:  https://a:18091\n\
             Password: aws secretsmanager get-secret-value --region us-east-1 --secret-id arn:p --query SecretString --output text\n"
        );
        assert_eq!(report(&stack, &[]).connection_string, None);
        stack.parameters.insert("Edition".to_owned(), "community".to_owned());
        let community = report(&stack, &["a"]);
        assert_eq!(community.connection_string.as_deref(), Some("couchbase://a"));
        assert_eq!(community.console.as_deref(), Some("http://a:8091"));
    }
}
