//! GitHub Actions: the outputs and the summary of a step, in files that environment variables name, and its errors.

use std::{
    fmt::Display,
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
};

use cbbootstrap_cli::{
    console::{Console, error_text},
    environment,
    text::escape_hidden,
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::printer::Printer;

/// The most bytes of a text in a summary: a workflow may post the summary as a comment, which has at most 65,536 characters.
const MOST_BYTES: usize = 60_000;

/// Prints a command's result, and gives it to GitHub Actions where that runs the command. A caller with a verdict reports that first: the
/// reader needs it more than the error of a stdout that cannot be written.
pub fn publish<R: Display + Serialize>(
    printer: &Printer,
    command: &str,
    outcome: &str,
    result: &R,
) -> anyhow::Result<()> {
    let written = printer.result(result);
    let mut outputs = Vec::new();
    add_outputs("", &serde_json::to_value(printer.with_origin(result))?, &mut outputs);
    write(printer, &outputs, &summary(command, outcome, &result.to_string()));
    written
}

/// Writes outputs and summary where the variables name files. A failed write is only a warning: the command itself has succeeded.
fn write(printer: &Printer, outputs: &[(String, String)], summary: &str) {
    let delimiter = format!("cbbootstrap-{}", Uuid::new_v4());
    let outputs: String =
        outputs.iter().map(|(name, value)| output(name, value, &delimiter)).collect();
    for (variable, text) in [("GITHUB_OUTPUT", outputs.as_str()), ("GITHUB_STEP_SUMMARY", summary)]
    {
        let Some(file) = environment::variable_os(variable) else {
            continue;
        };
        let file = Path::new(&file);
        if let Err(error) = append(file, text) {
            let file = file.display();
            printer.message(format_args!("warning: cannot write `{file}` (`{variable}`): {error}"));
        }
    }
}

/// Prints a failure as an annotation of the run, if this is one.
pub fn annotate(console: &Console, error: &anyhow::Error) {
    if environment::variable("GITHUB_ACTIONS").as_deref() == Some("true") {
        console.message(annotation(&error_text(error)));
    }
}

/// A workflow command. Its text is one line.
fn annotation(error: &str) -> String {
    let text = error.strip_prefix("error: ").unwrap_or(error);
    let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    format!("::error title=cbbootstrap::{text}")
}

/// Writes a failure as the summary.
pub fn write_failure(printer: &Printer, command: &str, stack_name: &str, error: &anyhow::Error) {
    let text = format!("Stack {stack_name}\n{}", error_text(error));
    write(printer, &[], &summary(command, "failed", &text));
}

fn append(file: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    file.write_all(text.as_bytes())
}

/// A line of `GITHUB_OUTPUT`. A value of several lines is enclosed in a delimiter that it cannot contain.
fn output(name: &str, value: &str, delimiter: &str) -> String {
    if value.contains(['\n', '\r']) {
        format!("{name}<<{delimiter}\n{value}\n{delimiter}\n")
    } else {
        format!("{name}={value}\n")
    }
}

/// Adds the fields of a result: strings, numbers and booleans, lists of strings joined by commas, and the fields of a field as
/// `FIELD_NAME`.
fn add_outputs(name: &str, value: &Value, outputs: &mut Vec<(String, String)>) {
    let text = match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() { field.clone() } else { format!("{name}_{field}") };
                add_outputs(&name, value, outputs);
            }
            return;
        }
        Value::Array(values) => {
            let texts = values.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
            texts.map(|texts| texts.join(","))
        }
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null => None,
    };
    outputs.extend(text.map(|text| (name.to_owned(), text)));
}

/// The summary on the page of a run, in Markdown.
fn summary(command: &str, outcome: &str, text: &str) -> String {
    let shown = &text[..text.floor_char_boundary(MOST_BYTES)];
    let mut lines: Vec<_> = shown.lines().map(escape_hidden).collect();
    if shown.len() < text.len() {
        lines.push("…".to_owned());
    }
    let text = lines.join("\n");
    let fence = fence(&text);
    format!("### cbbootstrap {command}: {outcome}\n\n{fence}text\n{text}\n{fence}\n\n")
}

/// More backticks than the text has in a row.
fn fence(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    "`".repeat(longest.max(2) + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_annotation_is_one_line() {
        assert_eq!(
            annotation("error: 100 %\nlost\nhint: try again"),
            "::error title=cbbootstrap::100 %25%0Alost%0Ahint: try again"
        );
        assert_eq!(annotation("lost"), "::error title=cbbootstrap::lost");
    }

    #[test]
    fn a_value_cannot_set_another_output() {
        for (value, expected) in [
            ("https://x", "name=https://x\n"),
            ("", "name=\n"),
            ("a=b<<c", "name=a=b<<c\n"),
            ("a\nother=b", "name<<END\na\nother=b\nEND\n"),
            ("a\rb", "name<<END\na\rb\nEND\n"),
        ] {
            assert_eq!(output("name", value, "END"), expected, "{value:?}");
        }
    }

    #[test]
    fn files_are_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("summary");
        append(&file, "one\n").unwrap();
        append(&file, "two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "one\ntwo\n");
        assert!(append(directory.path(), "a directory").is_err());
    }

    #[test]
    fn a_result_becomes_outputs() {
        let result = json!({
            "endpoint": "https://x", "changed": true, "dns_record": null, "nodes": ["a", "b"],
            "smoke": {"passed": false, "steps": [{"name": "a joiner"}]}, "seconds": {"build": 61.25},
        });
        let mut outputs = Vec::new();
        add_outputs("", &result, &mut outputs);
        let mut outputs: Vec<_> =
            outputs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        outputs.sort();
        assert_eq!(
            outputs,
            [
                "changed=true",
                "endpoint=https://x",
                "nodes=a,b",
                "seconds_build=61.25",
                "smoke_passed=false",
            ]
        );
    }

    #[test]
    fn a_summary_is_code_and_limited() {
        let text = "stack `cbbootstrap` ended in ROLLBACK_COMPLETE: ```\nhint: deploy again\n";
        assert_eq!(
            summary("deploy", "failed", text),
            "\
### cbbootstrap deploy: failed

````text
stack `cbbootstrap` ended in ROLLBACK_COMPLETE: ```
hint: deploy again
````

"
        );
        let long = summary("plan", "500 changes", &"– a change\n".repeat(10_000));
        assert!(long.len() < 65_536, "more than a comment may have");
        assert!(long.ends_with("\n…\n```\n\n"), "{long}");
    }
}
