//! The changes of a change set, and which of them cannot be undone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use serde::Serialize;

use super::{DesiredStack, Stack};

/// Types of resources whose deletion loses something, and what.
const STATEFUL: &[(&str, &str)] = &[
    ("AWS::ApiGatewayV2::Api", "the endpoint that nodes call"),
    ("AWS::Logs::LogGroup", "the logs in it"),
    ("AWS::DynamoDB::Table", "the records in it"),
    ("AWS::DynamoDB::GlobalTable", "the records in it"),
    ("AWS::S3::Bucket", "the objects in it"),
    ("AWS::AutoScaling::AutoScalingGroup", "the nodes and their data"),
    ("AWS::SecretsManager::Secret", "the secret that nodes and clients use"),
    ("AWS::KMS::Key", "the key that its encrypted data needs"),
];

/// Types of resources that hold nothing: settings, which the template contains. Others may hold data: a team may have added any
/// resource to the template.
const STATELESS: &[&str] = &[
    "AWS::ApiGatewayV2::ApiMapping",
    "AWS::ApiGatewayV2::Authorizer",
    // `Risk::OtherEndpoint` asks about it.
    "AWS::ApiGatewayV2::DomainName",
    "AWS::ApiGatewayV2::Integration",
    "AWS::ApiGatewayV2::Route",
    "AWS::ApiGatewayV2::Stage",
    "AWS::AutoScaling::LifecycleHook",
    "AWS::AutoScaling::ScalingPolicy",
    "AWS::AutoScaling::ScheduledAction",
    "AWS::CDK::Metadata",
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::CompositeAlarm",
    "AWS::CloudWatch::Dashboard",
    "AWS::EC2::LaunchTemplate",
    "AWS::EC2::SecurityGroup",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::Events::Rule",
    "AWS::IAM::InstanceProfile",
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::Policy",
    "AWS::IAM::Role",
    "AWS::IAM::RolePolicy",
    "AWS::Lambda::Alias",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::Function",
    "AWS::Lambda::Permission",
    "AWS::Lambda::Version",
    "AWS::Logs::MetricFilter",
    "AWS::Logs::SubscriptionFilter",
    "AWS::Route53::RecordSet",
    "AWS::SNS::Subscription",
    "AWS::WAFv2::WebACLAssociation",
];

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Change {
    /// CloudFormation's name: `Add`, `Modify`, `Remove`, …
    pub action: String,
    /// The resource's name in the template.
    pub resource: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether a new resource replaces it: `True`, `False` or `Conditional`; `None` where that does not apply.
    pub replacement: Option<String>,
    /// Which kinds of settings change, such as `Properties`.
    pub scope: Vec<String>,
    /// The changes of its properties, tags and attributes, with their values where CloudFormation gives them.
    pub details: Vec<ValueChange>,
    /// Whether CloudFormation keeps the resource, or a snapshot of it, outside the stack.
    #[serde(skip)]
    pub is_kept: bool,
}

impl Change {
    /// Whether the resource is replaced, in words; empty if it is not.
    pub fn replaced(&self) -> &'static str {
        match self.replacement.as_deref() {
            Some("True") => "replaced",
            Some("Conditional") => "perhaps replaced",
            _ => "",
        }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = match self.action.as_str() {
            "Add" => '+',
            "Remove" => '-',
            _ => '~',
        };
        write!(f, "{sign} {} ({})", self.resource, self.kind)?;
        if !self.replaced().is_empty() {
            write!(f, ", {}", self.replaced())?;
        }
        if self.details.iter().any(|it| it.before.is_some() || it.after.is_some()) {
            return self.details.iter().try_for_each(|detail| write!(f, "\n    {detail}"));
        }
        // Names without values fit on one line.
        let mut names: Vec<_> = self.details.iter().map(|detail| detail.name.as_str()).collect();
        if names.is_empty() {
            names.extend(self.scope.iter().map(String::as_str));
        }
        let colon = if names.is_empty() { "" } else { ": " };
        write!(f, "{colon}{}", names.join(", "))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ValueChange {
    pub name: String,
    /// `None` if it is new.
    pub before: Option<String>,
    /// `None` if it is removed.
    pub after: Option<String>,
}

impl Display for ValueChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, before, after } = self;
        match (before, after) {
            (None, None) => f.write_str(name),
            (None, Some(after)) => write!(f, "{name}: {after}"),
            (Some(before), after) => {
                write!(f, "{name}: {before} → {}", after.as_deref().unwrap_or("none"))
            }
        }
    }
}

/// The parameters that name an artifact by its hash. The resources that use it show the change.
const ARTIFACTS: [&str; 2] = ["ArtifactKey", "AgentKey"];

/// What an update of the stack changes, a line for each resource, parameter and tag.
pub fn update_lines(before: &Stack, desired: &DesiredStack, changes: &[Change]) -> Vec<String> {
    let resources = changes.iter().map(|change| change.to_string().replace('\n', "\n  "));
    let values = [
        ("parameter", value_changes(&before.parameters, &desired.parameters)),
        ("tag", value_changes(&before.tags, &desired.all_tags())),
    ];
    let values = values.into_iter().flat_map(|(kind, changes)| {
        let changes = changes.into_iter().filter(|change| !ARTIFACTS.contains(&&*change.name));
        changes.map(move |change| format!("~ {kind} {change}"))
    });
    resources.chain(values).collect()
}

pub fn value_changes(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<ValueChange> {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let change = |name: &String| ValueChange {
        name: name.clone(),
        before: before.get(name).cloned(),
        after: after.get(name).cloned(),
    };
    let changes = names.into_iter().map(change);
    changes.filter(|change| change.before != change.after).collect()
}

/// The losses when resources are removed or replaced, as predicates.
pub fn losses(changes: &[Change]) -> Vec<String> {
    let loss = |change: &Change| {
        let how = match change.action.as_str() {
            "Remove" => "removes",
            _ if !change.replaced().is_empty() => "replaces",
            _ => return None,
        };
        let Change { resource, kind, .. } = change;
        match STATEFUL.iter().find(|(stateful, _)| stateful == kind) {
            Some((_, what)) if change.is_kept => {
                Some(format!("{how} `{resource}`, and the stack no longer uses {what}"))
            }
            Some((_, what)) => Some(format!("{how} `{resource}`, which deletes {what}")),
            None if change.is_kept => None,
            None if STATELESS.contains(&kind.as_str()) => None,
            None => Some(format!("{how} `{resource}` ({kind}), which deletes any data in it")),
        }
    };
    changes.iter().filter_map(loss).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::{CLUSTER_TEMPLATE, TEMPLATE};

    fn change(action: &str, kind: &str, replacement: Option<&str>) -> Change {
        Change {
            action: action.to_owned(),
            resource: "R".to_owned(),
            kind: kind.to_owned(),
            replacement: replacement.map(str::to_owned),
            ..Change::default()
        }
    }

    #[test]
    fn removed_and_replaced_resources_are_losses() {
        let (api, group) = ("AWS::ApiGatewayV2::Api", "AWS::Logs::LogGroup");
        let kept = |change| Change { is_kept: true, ..change };
        for (change, expected) in [
            (
                change("Modify", api, Some("True")),
                Some("replaces `R`, which deletes the endpoint that nodes call"),
            ),
            (
                change("Modify", group, Some("Conditional")),
                Some("replaces `R`, which deletes the logs in it"),
            ),
            (
                change("Remove", api, None),
                Some("removes `R`, which deletes the endpoint that nodes call"),
            ),
            (change("Modify", api, Some("False")), None),
            (change("Add", api, None), None),
            (change("Modify", "AWS::Lambda::Function", Some("True")), None),
            (change("Remove", "AWS::IAM::Role", None), None),
            (
                change("Remove", "AWS::RDS::DBInstance", None),
                Some("removes `R` (AWS::RDS::DBInstance), which deletes any data in it"),
            ),
            (
                change("Modify", "Our::Own::Store", Some("Conditional")),
                Some("replaces `R` (Our::Own::Store), which deletes any data in it"),
            ),
            (change("Modify", "AWS::RDS::DBInstance", Some("False")), None),
            (kept(change("Remove", "AWS::RDS::DBInstance", None)), None),
            (
                kept(change("Modify", "AWS::SecretsManager::Secret", Some("True"))),
                Some(
                    "replaces `R`, and the stack no longer uses the secret that nodes and clients use",
                ),
            ),
        ] {
            assert_eq!(losses(std::slice::from_ref(&change)), Vec::from_iter(expected), "{change}");
        }
    }

    #[test]
    fn the_types_of_the_templates_are_known() {
        for template in [TEMPLATE, CLUSTER_TEMPLATE] {
            let template: serde_yaml::Value = serde_yaml::from_str(template).unwrap();
            for (name, resource) in template["Resources"].as_mapping().unwrap() {
                let kind = resource["Type"].as_str().unwrap();
                let is_stateful = STATEFUL.iter().any(|(stateful, _)| *stateful == kind);
                assert!(is_stateful != STATELESS.contains(&kind), "{name:?} {kind}");
            }
        }
    }

    #[test]
    fn a_change_lists_its_details() {
        let detail = |path: &str, before: Option<&str>, after: Option<&str>| ValueChange {
            name: path.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let mut function = change("Modify", "AWS::Lambda::Function", Some("False"));
        function.scope = vec!["Properties".to_owned()];
        assert_eq!(function.to_string(), "~ R (AWS::Lambda::Function): Properties");
        function.details = vec![
            detail("Properties.MemorySize", Some("256"), Some("512")),
            detail("Tags", None, None),
            detail("Properties.Layers", None, Some("[x]")),
            detail("Properties.Old", Some("y"), None),
        ];
        assert_eq!(
            function.to_string(),
            "~ R (AWS::Lambda::Function)\n    Properties.MemorySize: 256 → 512\n    Tags\n    Properties.Layers: [x]\n    Properties.Old: y → none"
        );
        function.details.truncate(2);
        function.details.remove(0);
        assert_eq!(function.to_string(), "~ R (AWS::Lambda::Function): Tags");
        assert_eq!(change("Remove", "K", None).to_string(), "- R (K)");
        assert_eq!(change("Modify", "K", Some("True")).to_string(), "~ R (K), replaced");
    }

    #[test]
    fn an_update_is_shown_by_resource_parameter_and_tag() {
        let text = |text: &str| text.to_owned();
        let mut before = crate::stack::tests::stack("CREATE_COMPLETE", "t");
        before.parameters.insert(text("MemorySize"), text("512"));
        before.tags = [(text("created-by"), text("cbbootstrap")), (text("team"), text("a"))].into();
        let desired = DesiredStack {
            parameters: [(text("TableName"), text("t")), (text("MemorySize"), text("256"))].into(),
            ..DesiredStack::default()
        };
        let changes = [change("Modify", "AWS::Lambda::Function", Some("False"))];
        assert_eq!(
            update_lines(&before, &desired, &changes),
            [
                "~ R (AWS::Lambda::Function)",
                "~ parameter MemorySize: 512 → 256",
                "~ tag team: a → none",
            ]
        );
    }

    #[test]
    fn values_are_compared_by_name() {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let changes = value_changes(
            &map(&[("a", "1"), ("b", "2"), ("c", "3")]),
            &map(&[("b", "2"), ("c", "4"), ("d", "5")]),
        );
        let texts: Vec<_> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["a: 1 → none", "c: 3 → 4", "d: 5"]);
    }
}
