//! The stack of a Couchbase cluster.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cli::LaunchArgs,
    failure::{Exit, Failure},
    settings::{Place, RecordsArgs, TableArgs, map},
    stack::Stack,
    values::Arch,
};

/// The defaults of the template for instances with Graviton processors.
const ARM64_DEFAULTS: [(&str, &str); 3] = [
    ("ImageId", "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"),
    ("InstanceType", "m7g.xlarge"),
    GATEWAY_TYPE,
];

const GATEWAY_TYPE: (&str, &str) = ("SyncGatewayInstanceType", "m7g.large");

/// What the stack of a Couchbase cluster depends on.
pub struct Launch<'a> {
    pub args: &'a LaunchArgs,
    pub stack_name: &'a str,
    pub api: &'a Stack,
    pub endpoint: &'a str,
    /// Whether a node has claimed this cluster at the API.
    pub has_record: bool,
    /// The values of the template's parameters that have one.
    pub defaults: BTreeMap<String, String>,
}

impl Launch<'_> {
    /// Refuses to deploy over this stack. `is_new` says whether that creates the nodes.
    pub fn check(&self, stack: Option<&Stack>, is_new: bool) -> Result<(), Failure> {
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

    /// The hint after a creation that failed or was cancelled: its nodes may have left a record.
    pub fn after_failed_creation(&self) -> String {
        let forget = self.forget_command();
        format!("if a node has claimed the cluster, run `{forget}` before you launch it again")
    }

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
        records.command_for("forget", &self.args.cluster_id)
    }

    /// A value for every parameter of the template. Omitted options keep the values of the stack, as a smaller volume or another
    /// edition would endanger the nodes' data.
    pub fn parameters(
        &self,
        before: Option<&Stack>,
        bucket: String,
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
            ("AgentBucket", bucket),
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

#[cfg(test)]
mod tests;
