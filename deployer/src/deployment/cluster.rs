//! The stack of a Couchbase cluster.

use std::collections::{BTreeMap, BTreeSet};

use cbbootstrap_function::store::{Row, Store, dynamodb::DynamoDb};
use cbbootstrap_protocol::wire::State;
use jiff::Timestamp;

use crate::{
    aws::{Aws, explain},
    cli::LaunchArgs,
    failure::Failure,
    settings::{Place, RecordsArgs, TableArgs, map},
    stack::{Stack, StackAction},
    values::Arch,
};

/// The defaults of the template for instances with Graviton processors.
const ARM64_DEFAULTS: [(&str, &str); 3] = [
    ("ImageId", "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"),
    ("InstanceType", "m7g.xlarge"),
    GATEWAY_TYPE,
];

const GATEWAY_TYPE: (&str, &str) = ("SyncGatewayInstanceType", "m7g.large");

/// The value of `ApiId` without an ID.
const ANY_API: &str = "*";

/// What the stack of a Couchbase cluster depends on.
#[derive(Debug)]
pub struct ClusterStack<'a> {
    pub args: &'a LaunchArgs,
    pub stack_name: &'a str,
    pub api: &'a Stack,
    /// The values of the template's parameters that have one.
    pub defaults: BTreeMap<String, String>,
}

/// What the API's table says about a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Known {
    /// The next node to ask begins the cluster.
    #[default]
    Unclaimed,
    /// A node has claimed it, but none has reported it ready: another node may still take the claim over.
    Claimed,
    /// No node can begin it again: it is ready, or its record is damaged, so that the API refuses every node.
    Begun { members: Vec<String> },
    /// These credentials may not read the record.
    Denied,
}

impl Known {
    fn new(row: Option<Row>, now: Timestamp) -> Self {
        match row.map(|row| row.record) {
            None => Self::Unclaimed,
            Some(Ok(record)) if record.is_gone(now) => Self::Unclaimed,
            Some(Ok(record)) if record.state == State::Claimed => Self::Claimed,
            Some(Ok(record)) => Self::Begun { members: record.members.into_keys().collect() },
            Some(Err(_)) => Self::Begun { members: Vec::new() },
        }
    }

    pub fn into_members(self) -> Vec<String> {
        match self {
            Self::Begun { members } => members,
            Self::Unclaimed | Self::Claimed | Self::Denied => Vec::new(),
        }
    }
}

impl ClusterStack<'_> {
    /// Reads what the API knows about the cluster.
    pub async fn read_known(&self, aws: &Aws) -> anyhow::Result<Known> {
        let (id, table) = (&self.args.cluster_id, self.api.output("TableName")?);
        let row = DynamoDb::new(aws.dynamodb.clone(), table).find(id).await;
        let row = row.map_err(|error| {
            let what = format!("cannot read the record of cluster `{id}`");
            anyhow::Error::from(match error.sdk() {
                Some(sdk) => explain(what, sdk),
                None => Failure::new(format!("{what}: {error}")),
            })
        });
        match row {
            Err(error) if Failure::is_denial(&error) => Ok(Known::Denied),
            row => Ok(Known::new(row?, Timestamp::now())),
        }
    }

    /// Refuses to deploy over this stack.
    pub fn check(
        &self,
        stack: Option<&Stack>,
        action: StackAction,
        known: &Known,
    ) -> Result<(), Failure> {
        let (id, name) = (&self.args.cluster_id, self.stack_name);
        // A stack whose first change set was not executed has no parameters.
        let stack = stack.filter(|stack| !stack.parameters.is_empty());
        if stack.is_some_and(|stack| stack.cluster_id() != Some(id)) {
            return Err(Failure::needs_decision(format!(
                "stack `{name}` does not belong to cluster `{id}`"
            ))
            .hint("choose another name with `--cluster-stack`"));
        }
        // The new nodes have another secret than the record.
        if action.creates() && matches!(known, Known::Claimed | Known::Begun { .. }) {
            let message =
                format!("the API has a record of cluster `{id}`, but stack `{name}` has no nodes");
            let forget = self.forget_command();
            return Err(Failure::needs_decision(message).hint(format!(
                "if the cluster's nodes are gone, run `{forget}`; otherwise choose another ID"
            )));
        }
        let Some(before) = stack.filter(|_| !action.creates()) else {
            return Ok(());
        };
        self.check_network(before)?;
        self.check_processor(before)?;
        match action {
            // The first node may not have claimed the cluster yet. Both are read again after the wait.
            StackAction::Wait => Ok(()),
            _ => self.check_known(before, known),
        }
    }

    /// Refuses to replace nodes if a new one would begin a second cluster: the old ones would then leave one after the other. A stack is
    /// complete only after its nodes have reported to the API, so a missing record was forgotten, or is in another API.
    fn check_known(&self, before: &Stack, known: &Known) -> Result<(), Failure> {
        let is_same_api = self.is_api_of(before);
        let (id, api) = (&self.args.cluster_id, self.api.name());
        let message = match known {
            Known::Begun { .. } => return Ok(()),
            Known::Denied if is_same_api => return Ok(()),
            Known::Denied => {
                format!("cannot check that the API of stack `{api}` knows cluster `{id}`")
            }
            Known::Claimed if is_same_api => {
                format!("a node has claimed cluster `{id}` again, and would begin a second cluster")
            }
            Known::Unclaimed | Known::Claimed => format!(
                "the API of stack `{api}` does not know cluster `{id}`, so a new node would begin a second cluster"
            ),
        };
        let adopt = "run `cbbootstrap-agent up --adopt` on a member, which records the cluster again; if there is no member, `destroy` the stack and launch again";
        let hint = if is_same_api && *known == Known::Claimed {
            format!(
                "stop the nodes that are in no cluster and run `{}`; then {adopt}",
                self.forget_command()
            )
        } else if is_same_api {
            adopt.to_owned()
        } else {
            let current = before.parameter("ApiEndpoint").unwrap_or("another API");
            format!(
                "the nodes use {current}; choose the stack of that API with `--env` or `--stack-name`, or run `cbbootstrap-agent up --adopt` with the new `--api` on a member to move the cluster"
            )
        };
        Err(Failure::needs_decision(message).hint(hint))
    }

    /// The warning that [`Self::check`] could not use the record.
    pub fn warning(&self, action: StackAction, known: &Known) -> Option<String> {
        let (id, table) = (&self.args.cluster_id, self.api.table().unwrap_or_default());
        let unchecked = if action.creates() {
            "the API has an old record of it; if so, the API refuses the new nodes"
        } else {
            "the API knows it; if not, a new node begins a second cluster"
        };
        (*known == Known::Denied).then(|| {
            format!(
                "warning: these credentials are not allowed to read cluster `{id}` in table `{table}` (`dynamodb:BatchGetItem`), \
                 so `launch` cannot check whether {unchecked}"
            )
        })
    }

    /// Whether the nodes of this stack use the API. Without its ID, its URL decides.
    fn is_api_of(&self, before: &Stack) -> bool {
        let id = before.parameter("ApiId").filter(|id| *id != ANY_API);
        match id.zip(self.api.outputs.get("ApiId")) {
            Some((current, id)) => current == id,
            None => before.parameter("ApiEndpoint").is_some_and(|url| self.api.serves(url)),
        }
    }

    /// The hint after a creation that failed or was cancelled: its nodes may have left a record.
    pub fn after_failed_creation(&self) -> String {
        let forget = self.forget_command();
        format!("if a node has claimed the cluster, run `{forget}` before you launch it again")
    }

    fn check_network(&self, before: &Stack) -> Result<(), Failure> {
        let LaunchArgs { cluster_id: id, vpc, .. } = self.args;
        match before.parameter("VpcId").filter(|current| current != vpc) {
            None => Ok(()),
            Some(current) => Err(Failure::usage(format!("cluster `{id}` is in `{current}`"))
                .hint(format!("pass `--vpc {current}`; a cluster cannot move to another VPC"))),
        }
    }

    /// Another processor needs an image and instance types for it.
    fn check_processor(&self, before: &Stack) -> Result<(), Failure> {
        let other = if self.args.agent.arch == Arch::Arm64 { "x86_64" } else { "arm64" };
        let image = ARM64_DEFAULTS[0].1.replace("arm64", other);
        if before.parameter("ImageId") != Some(image.as_str()) {
            return Ok(());
        }
        let users = map(&self.args.parameters);
        let gateways = users.get("SyncGatewayNodes").map(String::as_str);
        let gateways = gateways.or_else(|| before.parameter("SyncGatewayNodes"));
        let has_gateways = gateways.is_some_and(|count| count != "0");
        let mut needed = ARM64_DEFAULTS.map(|(name, _)| name).to_vec();
        needed.retain(|name| has_gateways || *name != GATEWAY_TYPE.0);
        if needed.iter().all(|name| users.contains_key(*name)) {
            return Ok(());
        }
        let needed: Vec<_> = needed.iter().map(|name| format!("`{name}`")).collect();
        let message =
            format!("the instances of cluster `{}` have {other} processors", self.args.cluster_id);
        Err(Failure::usage(message).hint(format!(
            "pass `--arch {other}`; to change them, set the parameters {}",
            needed.join(", ")
        )))
    }

    fn forget_command(&self) -> String {
        let Place { config, access, .. } = self.args.api.clone();
        let table = TableArgs { table_name: self.api.table().unwrap_or_default().to_owned() };
        let records =
            RecordsArgs { table, config, access, stack_name: None, local: false, data: None };
        records.command_for("forget", &self.args.cluster_id)
    }

    /// A value for every parameter of the template. Omitted options keep the values of the stack, as a smaller volume or another
    /// edition would endanger the nodes' data.
    pub fn parameters(
        &self,
        before: Option<&Stack>,
        bucket: String,
        key: String,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let Self { args, api, defaults, .. } = self;
        let is_arm64 = args.agent.arch == Arch::Arm64;
        let for_arch = ARM64_DEFAULTS.into_iter().filter(|_| is_arm64);
        // A stack without Sync Gateway may have changed its processor since it got this value.
        let other_gateway = if is_arm64 { defaults.get(GATEWAY_TYPE.0) } else { None };
        let other_gateway = other_gateway.map_or(GATEWAY_TYPE.1, String::as_str);
        let stays = |(name, value): &(&String, &String)| {
            // An ID is not the value of an SSM parameter's name.
            defaults.contains_key(*name)
                && !value.starts_with("ami-")
                && (name.as_str(), value.as_str()) != (GATEWAY_TYPE.0, other_gateway)
        };
        let current = before.iter().flat_map(|stack| &stack.parameters).filter(stays);
        let mut parameters = defaults.clone();
        parameters.extend(for_arch.map(|(name, value)| (name.to_owned(), value.to_owned())));
        parameters.extend(current.map(|(name, value)| (name.clone(), value.clone())));
        parameters.extend(map(&args.parameters));
        let mut set = |name: &str, value: String| drop(parameters.insert(name.to_owned(), value));
        set("ApiEndpoint", api.output("Endpoint")?.to_owned());
        set("ApiAuthorizationType", api.auth().authorization_type().to_owned());
        set("ApiId", api.outputs.get("ApiId").map_or(ANY_API, String::as_str).to_owned());
        set("ClusterId", args.cluster_id.clone());
        set("AgentBucket", bucket);
        set("AgentKey", key);
        set("VpcId", args.vpc.clone());
        set("SubnetIds", subnets(&args.subnets, before));
        // Our own bucket is encrypted as the API's stack wants it; the key of another one is known to the user only.
        if args.bucket.is_none() {
            set("AgentKmsKeyArn", api.parameter("KmsKeyArn").unwrap_or_default().to_owned());
        }
        if let Some(nodes) = args.nodes {
            set("NodeCount", nodes.to_string());
        }
        Ok(parameters)
    }
}

/// The parameter for these subnets. Their order does not matter, so that of the stack stays: another one would be a change.
fn subnets(subnets: &[String], before: Option<&Stack>) -> String {
    let desired: BTreeSet<_> = subnets.iter().map(String::as_str).collect();
    let current = before.and_then(|stack| stack.parameter("SubnetIds"));
    let is_same = |current: &&str| current.split(',').collect::<BTreeSet<_>>() == desired;
    if let Some(current) = current.filter(is_same) {
        return current.to_owned();
    }
    let mut rest = desired;
    let subnets = subnets.iter().map(String::as_str).filter(|subnet| rest.remove(subnet));
    subnets.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
