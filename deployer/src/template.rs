//! The stack's template, which this program carries.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Deserialize;

/// The template's text, sent to `CloudFormation` as it is.
pub const TEMPLATE: &str = include_str!("../../templates/stack.yaml");

/// The value of every parameter: the template's defaults, and these over them.
///
/// All of them are always said, for `CloudFormation` keeps an old value where none is given.
pub fn parameters<const N: usize>(
    values: [(&str, String); N],
) -> anyhow::Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Template {
        parameters: BTreeMap<String, Declaration>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Declaration {
        default: Option<Default>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Default {
        Number(i64),
        Text(String),
    }

    let template: Template =
        serde_yaml::from_str(TEMPLATE).context("the template is not understood")?;
    let defaults = template
        .parameters
        .into_iter()
        .filter_map(|(name, declaration)| {
            let value = match declaration.default? {
                Default::Number(number) => number.to_string(),
                Default::Text(text) => text,
            };
            Some((name, value))
        });
    let values = values
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    Ok(defaults.chain(values).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_filled_in() {
        let parameters = parameters([
            ("ArtifactKey", "k".to_owned()),
            ("TableName", "t".to_owned()),
        ])
        .unwrap();
        let value = |name| parameters.get(name).map(String::as_str);
        assert_eq!(value("ArtifactKey"), Some("k"));
        assert_eq!(value("TableName"), Some("t"), "a value beats the default");
        assert_eq!(
            value("MemorySize"),
            Some("256"),
            "numbers are text to CloudFormation"
        );
        assert_eq!(value("LogLevel"), Some("info"));
        assert_eq!(
            value("ArtifactBucket"),
            None,
            "what has no default must be given"
        );
    }
}
