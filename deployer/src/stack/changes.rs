//! What a change set would change, and what of it cannot be undone.

use std::{collections::BTreeMap, fmt::Display};

use serde::Serialize;

/// The kinds of resources that hold something which goes with them, and what that is.
const STATEFUL: &[(&str, &str)] = &[
    ("AWS::ApiGatewayV2::Api", "the endpoint that nodes call"),
    ("AWS::Logs::LogGroup", "the logs in it"),
    ("AWS::DynamoDB::Table", "the records in it"),
    ("AWS::DynamoDB::GlobalTable", "the records in it"),
    ("AWS::S3::Bucket", "the objects in it"),
    ("AWS::KMS::Key", "all that is encrypted with it"),
];

/// A change that a change set would make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `Add`, `Modify`, `Remove`, …, as `CloudFormation` names it.
    pub action: String,
    /// The resource's name in the template.
    pub resource: String,
    /// The resource's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether the resource is replaced by a new one: `True`, `False`, `Conditional`; none where it does not apply.
    pub replacement: Option<String>,
    /// What of it changes.
    pub scope: Vec<String>,
    /// What of it changes, one by one.
    pub details: Vec<Detail>,
}

/// One property, tag or attribute of a resource that would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Detail {
    /// Where it stands in the resource, such as `Properties.MemorySize`.
    pub path: String,
    /// Its value, where `CloudFormation` says.
    pub before: Option<String>,
    /// Its new value, where `CloudFormation` says.
    pub after: Option<String>,
    /// Whether that replaces the resource: `Always`, `Never`, `Conditionally`.
    pub recreation: Option<String>,
}

impl Change {
    fn is_replaced(&self) -> bool {
        matches!(self.replacement.as_deref(), Some("True" | "Conditional"))
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
        match self.replacement.as_deref() {
            Some("True") => f.write_str(", replaced")?,
            Some("Conditional") => f.write_str(", perhaps replaced")?,
            _ => (),
        }
        if self.details.is_empty() && !self.scope.is_empty() {
            write!(f, ": {}", self.scope.join(", "))?;
        }
        // Where CloudFormation gives no values, names in a row say as much.
        if self.details.iter().all(Detail::is_bare) {
            let paths: Vec<_> = self.details.iter().map(|d| d.path.as_str()).collect();
            let colon = if paths.is_empty() { "" } else { ": " };
            return write!(f, "{colon}{}", paths.join(", "));
        }
        self.details.iter().try_for_each(|detail| write!(f, "\n    {detail}"))
    }
}

impl Detail {
    fn is_bare(&self) -> bool {
        (&self.before, &self.after) == (&None, &None)
    }
}

impl Display for Detail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path)?;
        match (&self.before, &self.after) {
            (None, None) => Ok(()),
            (before, after) => write!(f, ": {}", arrow(before.as_deref(), after.as_deref())),
        }
    }
}

/// A parameter or a tag that would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ValueChange {
    /// Its name.
    pub name: String,
    /// Its value; none if it is new.
    pub before: Option<String>,
    /// Its new value; none if it goes.
    pub after: Option<String>,
}

impl Display for ValueChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let change = arrow(self.before.as_deref(), self.after.as_deref());
        write!(f, "{}: {change}", self.name)
    }
}

fn arrow(before: Option<&str>, after: Option<&str>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("{before} → {after}"),
        (None, Some(after)) => after.to_owned(),
        (Some(before), None) => format!("{before} → none"),
        (None, None) => String::new(),
    }
}

/// What changes between two sets of names and values.
pub fn value_changes(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<ValueChange> {
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter(|&name| before.get(name) != after.get(name))
        .map(|name| ValueChange {
            name: name.clone(),
            before: before.get(name).cloned(),
            after: after.get(name).cloned(),
        })
        .collect()
}

/// What would be lost for good with resources that the changes remove or replace.
pub fn losses(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .filter_map(|change| {
            let what =
                STATEFUL.iter().find_map(|(kind, what)| (*kind == change.kind).then_some(*what))?;
            let how = match change.action.as_str() {
                "Remove" => "removes",
                _ if change.is_replaced() => "replaces",
                _ => return None,
            };
            Some(format!("{how} `{}` and with it {what}", change.resource))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_would_be_lost_is_known() {
        let (api, group) = ("AWS::ApiGatewayV2::Api", "AWS::Logs::LogGroup");
        for (change, expected) in [
            (
                change("Modify", api, Some("True")),
                Some("replaces `R` and with it the endpoint that nodes call"),
            ),
            (
                change("Modify", group, Some("Conditional")),
                Some("replaces `R` and with it the logs in it"),
            ),
            (
                change("Remove", api, None),
                Some("removes `R` and with it the endpoint that nodes call"),
            ),
            (change("Modify", api, Some("False")), None),
            (change("Add", api, None), None),
            (change("Modify", "AWS::Lambda::Function", Some("True")), None),
            (change("Remove", "AWS::IAM::Role", None), None),
        ] {
            assert_eq!(losses(std::slice::from_ref(&change)), Vec::from_iter(expected), "{change}");
        }
    }

    #[test]
    fn changes_read_well() {
        let detail = |path: &str, before: Option<&str>, after: Option<&str>| Detail {
            path: path.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
            recreation: None,
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
        let said: Vec<_> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["a: 1 → none", "c: 3 → 4", "d: 5"]);
    }
}
