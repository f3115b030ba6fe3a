//! The JSON schema of `cbbootstrap.yaml`, with which editors complete and check it.

use std::{env, fs};

use clap::{Arg, ArgAction};
use serde_json::{Map, Value, json};

use super::{FALLBACK, File, SAMPLE, environment_options, keys};
use crate::{settings::OPTION_PARAMETERS, template::TEMPLATE};

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../templates/cbbootstrap.schema.json");

fn schema() -> Value {
    let command = environment_options();
    let find = |id: &str| command.get_arguments().find(|arg| arg.get_id() == id);
    let property = |key: &str| {
        let arg = find(&format!("{FALLBACK}{key}")).or_else(|| find(key))?;
        let mut property = if key == "parameters" { parameters() } else { value(arg) };
        property["description"] = description(arg).into();
        Some((key.to_owned(), property))
    };
    let properties: Map<_, _> = keys(&command).into_iter().filter_map(property).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Environments of cbbootstrap",
        "type": "object",
        "required": ["environments"],
        "additionalProperties": false,
        "properties": {
            "default_environment": {
                "description": "The environment to use without `--env` or CBBOOTSTRAP_ENV",
                "type": "string",
            },
            "environments": {
                "description": "The environments by name",
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": "^[A-Za-z0-9_-]+$"},
                "additionalProperties": {
                    "type": ["object", "null"],
                    "additionalProperties": false,
                    "properties": properties,
                },
            },
        },
    })
}

/// The help of an option, without the default that may differ in a file.
fn description(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let help = help.split(" [default: ").next().unwrap_or_default();
    help.trim_end_matches("; can be repeated").to_owned()
}

/// The values that an option takes in the file.
fn value(arg: &Arg) -> Value {
    let names = arg.get_value_names().unwrap_or_default();
    let values: Vec<_> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    match arg.get_action() {
        ArgAction::Append if names.iter().any(|name| name.contains('=')) => {
            let value = json!({"type": ["string", "number", "boolean"]});
            json!({"type": "object", "additionalProperties": value})
        }
        ArgAction::Append => json!({"type": ["array", "string"], "items": {"type": "string"}}),
        _ if values.iter().any(|value| value == "true") => json!({"type": "boolean"}),
        _ if values.is_empty() => json!({"type": "string"}),
        _ => json!({"enum": values}),
    }
}

/// The template's parameters, except for those that an option sets.
fn parameters() -> Value {
    let template: serde_yaml::Value = serde_yaml::from_str(TEMPLATE).unwrap();
    let declared = template["Parameters"].as_mapping().unwrap().iter();
    let properties = declared.filter_map(|(name, declaration)| {
        let (name, declaration) = (name.as_str()?, serde_json::to_value(declaration).ok()?);
        let has_option = OPTION_PARAMETERS.iter().any(|(parameter, ..)| *parameter == name);
        (!has_option).then(|| (name.to_owned(), parameter(&declaration)))
    });
    let properties: Map<_, _> = properties.collect();
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn parameter(declaration: &Value) -> Value {
    let mut property = if declaration["Type"] == "Number" {
        json!({"type": "integer"})
    } else {
        json!({"type": "string"})
    };
    for (keyword, field) in
        [("minimum", "MinValue"), ("maximum", "MaxValue"), ("enum", "AllowedValues")]
    {
        if let Some(value) = declaration.get(field) {
            property[keyword] = value.clone();
        }
    }
    if let Some(description) = declaration.get("Description") {
        property["description"] = description.clone();
    }
    property
}

#[test]
fn schema_is_up_to_date() {
    let schema = format!("{:#}\n", schema());
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(SCHEMA, &schema).unwrap();
    }
    let current = fs::read_to_string(SCHEMA).unwrap_or_default();
    assert!(current == schema, "the schema is out of date: run `just docs`");
}

#[test]
fn schema_has_the_parameters_that_the_file_can_set() {
    let schema = schema();
    let known = &schema["properties"]["environments"]["additionalProperties"]["properties"];
    let template: serde_yaml::Value = serde_yaml::from_str(TEMPLATE).unwrap();
    for name in template["Parameters"].as_mapping().unwrap().keys() {
        let name = name.as_str().unwrap();
        let file = format!("environments: {{e: {{parameters: {{{name}: \"?\"}}}}}}");
        let refusal = File::parse(&file).err().map(|failure| failure.to_string());
        let has_option = refusal.is_some_and(|text| text.contains("has its own option"));
        let is_known = known["parameters"]["properties"].get(name).is_some();
        assert_eq!(is_known, !has_option, "{name}");
    }
}

#[test]
fn sample_names_the_schema_and_its_keys_are_in_it() {
    assert!(SAMPLE.lines().next().unwrap().contains("$schema=https://"));
    let (schema, sample) = (schema(), serde_yaml::from_str::<Value>(SAMPLE).unwrap());
    let known = &schema["properties"]["environments"]["additionalProperties"]["properties"];
    for (name, environment) in sample["environments"].as_object().unwrap() {
        for (key, value) in environment.as_object().unwrap() {
            assert!(known.get(key).is_some(), "`{key}` of `{name}`");
            for parameter in value.as_object().into_iter().flatten().filter(|_| key == "parameters")
            {
                assert!(known[key]["properties"].get(parameter.0).is_some(), "{parameter:?}");
            }
        }
    }
}
