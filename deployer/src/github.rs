//! What GitHub Actions shows of a run: the outputs that later steps read, and the summary on the run's page.
//!
//! Both go to files that the runner names in environment variables; without these nothing is written.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs::OpenOptions,
    io::{self, Write as _},
    path::Path,
};

use cbbootstrap_cli::environment;
use uuid::Uuid;

use crate::{
    failure::{self, Failure},
    printer::Printer,
    smoke,
};

/// So many rows of a table are shown; a comment on a pull request stays within a screen or two.
const MOST_ROWS: usize = 40;

/// So many characters of a value are shown in a table.
const MOST_CHARACTERS: usize = 200;

/// What a command tells GitHub.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// The step's outputs.
    pub outputs: Vec<(&'static str, String)>,
    /// The summary, in Markdown.
    pub summary: String,
}

/// Tells how a command failed, and passes its result on.
pub fn or_failed<T>(
    printer: &Printer,
    command: &str,
    stack_name: &str,
    result: anyhow::Result<T>,
) -> anyhow::Result<T> {
    if let Err(error) = &result {
        let failed = Failed {
            command,
            stack_name,
            error: &failure::one_line(error),
            hint: Failure::find_in(error).and_then(|failure| failure.hint.as_deref()),
        };
        report(printer, &failed.note());
    }
    result
}

/// Tells it, where GitHub asks for it. That it cannot be written is no reason to fail what has been done.
pub fn report(printer: &Printer, note: &Note) {
    let delimiter = format!("cbbootstrap-{}", Uuid::new_v4());
    let outputs: String =
        note.outputs.iter().map(|(name, value)| output(name, value, &delimiter)).collect();
    for (variable, text) in [("GITHUB_OUTPUT", &outputs), ("GITHUB_STEP_SUMMARY", &note.summary)] {
        let Some(file) = environment::variable_os(variable) else {
            continue;
        };
        if let Err(error) = append(Path::new(&file), text) {
            printer.message(format_args!(
                "warning: cannot write `{}` (`{variable}`): {error}",
                Path::new(&file).display()
            ));
        }
    }
}

fn append(file: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    file.write_all(text.as_bytes())
}

/// A line of `GITHUB_OUTPUT`. A value of more than one line stands between delimiters that it cannot hold.
fn output(name: &str, value: &str, delimiter: &str) -> String {
    if value.contains(['\n', '\r']) {
        format!("{name}<<{delimiter}\n{value}\n{delimiter}\n")
    } else {
        format!("{name}={value}\n")
    }
}

/// A deployment that has come to its good end.
#[derive(Debug)]
pub struct Deployed<'a> {
    /// The API's address.
    pub endpoint: &'a str,
    /// The stack.
    pub stack_name: &'a str,
    /// The region.
    pub region: &'a str,
    /// Whether anything had to be changed.
    pub changed: bool,
    /// Of the function's zip.
    pub function_sha256: &'a str,
    /// The table.
    pub table: &'a str,
    /// How long each step took.
    pub seconds: &'a BTreeMap<&'static str, f64>,
    /// The smoke test's result; none where it was left out.
    pub smoke: Option<Tested<'a>>,
}

/// What a smoke test came to.
#[derive(Debug)]
pub struct Tested<'a> {
    /// What was tested.
    pub endpoint: &'a str,
    /// Whether every step passed.
    pub passed: bool,
    /// How many did.
    pub summary: String,
    /// What was wrong with each step that did not: its name, what was expected, what came.
    pub failed: Vec<[&'a str; 3]>,
}

/// What a deployment would change.
#[derive(Debug)]
pub struct Planned<'a> {
    /// The stack.
    pub stack_name: &'a str,
    /// The region.
    pub region: &'a str,
    /// What would be done, to what, and more about it.
    pub changes: Vec<[String; 3]>,
}

/// A command that failed.
#[derive(Debug)]
pub struct Failed<'a> {
    /// The command: `deploy`, `plan`, …
    pub command: &'a str,
    /// The stack.
    pub stack_name: &'a str,
    /// The error, on one line.
    pub error: &'a str,
    /// The way out.
    pub hint: Option<&'a str>,
}

impl Deployed<'_> {
    /// Its outputs and its summary.
    pub fn note(&self) -> Note {
        let Self { endpoint, stack_name, region, changed, function_sha256, table, seconds, smoke } =
            self;
        let mut outputs = vec![
            ("endpoint", (*endpoint).to_owned()),
            ("stack_name", (*stack_name).to_owned()),
            ("region", (*region).to_owned()),
            ("changed", changed.to_string()),
            ("function_sha256", (*function_sha256).to_owned()),
            ("table", (*table).to_owned()),
        ];
        let outcome = if *changed { "deployed" } else { "nothing to change" };
        let mut rows = vec![
            ["Endpoint".to_owned(), (*endpoint).to_owned()],
            ["Stack".to_owned(), format!("{} in {region}", code(stack_name))],
            ["Function".to_owned(), format!("sha256 {}", code(function_sha256))],
            ["Table".to_owned(), code(table)],
        ];
        if let Some(smoke) = smoke {
            outputs.push(("smoke", smoke.word().to_owned()));
            rows.push(["Smoke test".to_owned(), smoke.summary.clone()]);
        }
        let times: Vec<_> =
            seconds.iter().map(|(step, seconds)| format!("{step} {seconds:.1} s")).collect();
        if !times.is_empty() {
            rows.push(["Time".to_owned(), times.join(", ")]);
        }
        let mut summary = heading("cbbootstrap deploy", outcome);
        summary += &table_of(["", ""], &rows);
        if let Some(smoke) = smoke.as_ref().filter(|smoke| !smoke.passed) {
            summary += &smoke.failures();
        }
        Note { outputs, summary }
    }
}

impl<'a> From<&'a smoke::Report> for Tested<'a> {
    fn from(report: &'a smoke::Report) -> Self {
        let failed = report.steps.iter().filter(|step| !step.passed);
        Self {
            endpoint: &report.endpoint,
            passed: report.passed,
            summary: report.summary(),
            failed: failed
                .map(|step| [step.name, step.expected.as_str(), step.saw.as_str()])
                .collect(),
        }
    }
}

impl Tested<'_> {
    /// Its output and its summary.
    pub fn note(&self) -> Note {
        let mut summary = heading("cbbootstrap smoke", self.word());
        let _ = writeln!(summary, "{}: {}\n", self.endpoint, self.summary);
        summary += &self.failures();
        Note { outputs: vec![("smoke", self.word().to_owned())], summary }
    }

    fn word(&self) -> &'static str {
        if self.passed { "passed" } else { "failed" }
    }

    fn failures(&self) -> String {
        if self.failed.is_empty() {
            return String::new();
        }
        let rows: Vec<_> = self.failed.iter().map(|row| row.map(str::to_owned)).collect();
        table_of(["Step", "Expected", "Saw"], &rows)
    }
}

impl Planned<'_> {
    /// Its output and its summary.
    pub fn note(&self) -> Note {
        let Self { stack_name, region, changes } = self;
        let outcome = match changes.len() {
            0 => "nothing to change".to_owned(),
            1 => "1 change".to_owned(),
            number => format!("{number} changes"),
        };
        let mut summary = heading("cbbootstrap plan", &outcome);
        let _ = writeln!(summary, "Stack {} in {region}\n", code(stack_name));
        if !changes.is_empty() {
            summary += &table_of(["", "What", "More"], changes);
        }
        Note { outputs: vec![("changed", (!changes.is_empty()).to_string())], summary }
    }
}

impl Failed<'_> {
    /// Its summary.
    pub fn note(&self) -> Note {
        let mut summary = heading(&format!("cbbootstrap {}", self.command), "failed");
        let _ = writeln!(summary, "Stack {}\n", code(self.stack_name));
        let hint = self.hint.map(|hint| format!("hint: {hint}\n"));
        let text = format!("error: {}\n{}", self.error, hint.unwrap_or_default());
        let fence = fence(&text);
        let _ = writeln!(summary, "{fence}text\n{text}{fence}\n");
        Note { outputs: Vec::new(), summary }
    }
}

fn heading(what: &str, outcome: &str) -> String {
    format!("### {what}: {outcome}\n\n")
}

/// A table; of too many rows the first.
fn table_of<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let line = |cells: [String; N]| format!("| {} |\n", cells.join(" | "));
    let mut table = line(head.map(str::to_owned)) + &line([(); N].map(|()| "---".to_owned()));
    for row in rows.iter().take(MOST_ROWS) {
        table += &line(row.clone().map(|text| cell(&text)));
    }
    if let Some(more) = rows.len().checked_sub(MOST_ROWS).filter(|more| *more > 0) {
        let _ = write!(table, "\n… and {more} more\n");
    }
    table + "\n"
}

/// Text in a table's cell: on one line, not too long, with nothing in it that ends the cell or is HTML.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut short: String = line.chars().take(MOST_CHARACTERS).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short.replace('&', "&amp;").replace('<', "&lt;").replace('|', "\\|")
}

/// A name as code.
fn code(name: &str) -> String {
    format!("`{}`", name.replace('`', "'"))
}

/// More backticks than stand in a row in the text.
fn fence(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    "`".repeat(longest.max(2) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_lines_that_no_value_breaks_out_of() {
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
    fn a_deployment_in_short() {
        let seconds = BTreeMap::from([("build", 61.25), ("stack", 33.0)]);
        let mut deployed = Deployed {
            endpoint: "https://abc.execute-api.us-east-1.amazonaws.com",
            stack_name: "cbbootstrap",
            region: "us-east-1",
            changed: true,
            function_sha256: "0a1b",
            table: "cb-bootstrap",
            seconds: &seconds,
            smoke: Some(Tested {
                endpoint: "https://abc.execute-api.us-east-1.amazonaws.com",
                passed: false,
                summary: "11 of 12 steps passed".to_owned(),
                failed: vec![["a joiner", "200", "503 <html>|"]],
            }),
        };
        let note = deployed.note();
        assert_eq!(
            note.summary,
            "\
### cbbootstrap deploy: deployed

|  |  |
| --- | --- |
| Endpoint | https://abc.execute-api.us-east-1.amazonaws.com |
| Stack | `cbbootstrap` in us-east-1 |
| Function | sha256 `0a1b` |
| Table | `cb-bootstrap` |
| Smoke test | 11 of 12 steps passed |
| Time | build 61.2 s, stack 33.0 s |

| Step | Expected | Saw |
| --- | --- | --- |
| a joiner | 200 | 503 &lt;html>\\| |

"
        );
        let outputs: Vec<_> =
            note.outputs.iter().map(|(name, value)| output(name, value, "END")).collect();
        assert_eq!(
            outputs.concat(),
            "\
endpoint=https://abc.execute-api.us-east-1.amazonaws.com
stack_name=cbbootstrap
region=us-east-1
changed=true
function_sha256=0a1b
table=cb-bootstrap
smoke=failed
"
        );

        deployed.changed = false;
        deployed.smoke = None;
        let no_seconds = BTreeMap::new();
        deployed.seconds = &no_seconds;
        assert_eq!(
            deployed.note().summary,
            "\
### cbbootstrap deploy: nothing to change

|  |  |
| --- | --- |
| Endpoint | https://abc.execute-api.us-east-1.amazonaws.com |
| Stack | `cbbootstrap` in us-east-1 |
| Function | sha256 `0a1b` |
| Table | `cb-bootstrap` |

"
        );
    }

    #[test]
    fn a_failure_in_short() {
        let failed = Failed {
            command: "deploy",
            stack_name: "cbbootstrap",
            error: "stack `cbbootstrap` ended in ROLLBACK_COMPLETE: ```",
            hint: Some("mend the cause and deploy again"),
        };
        assert_eq!(
            failed.note(),
            Note {
                outputs: Vec::new(),
                summary: "\
### cbbootstrap deploy: failed

Stack `cbbootstrap`

````text
error: stack `cbbootstrap` ended in ROLLBACK_COMPLETE: ```
hint: mend the cause and deploy again
````

"
                .to_owned(),
            }
        );
    }

    #[test]
    fn a_plan_in_short() {
        let row = |row: [&str; 3]| row.map(str::to_owned);
        let mut planned = Planned {
            stack_name: "cbbootstrap",
            region: "us-east-1",
            changes: vec![
                row(["add", "table cb-bootstrap", "kept outside the stack"]),
                row(["modify", "Function (AWS::Lambda::Function)", "Properties"]),
            ],
        };
        assert_eq!(
            planned.note(),
            Note {
                outputs: vec![("changed", "true".to_owned())],
                summary: "\
### cbbootstrap plan: 2 changes

Stack `cbbootstrap` in us-east-1

|  | What | More |
| --- | --- | --- |
| add | table cb-bootstrap | kept outside the stack |
| modify | Function (AWS::Lambda::Function) | Properties |

"
                .to_owned(),
            }
        );

        planned.changes = vec![row(["add", &"long ".repeat(100), ""]); 500];
        let summary = planned.note().summary;
        assert!(summary.lines().count() < 60, "{summary}");
        assert!(summary.len() < 65_536, "more than a comment may have");
        assert!(summary.ends_with("| add | long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long … |  |\n\n… and 460 more\n\n"), "{summary}");

        planned.changes.clear();
        assert_eq!(
            planned.note(),
            Note {
                outputs: vec![("changed", "false".to_owned())],
                summary: "\
### cbbootstrap plan: nothing to change

Stack `cbbootstrap` in us-east-1

"
                .to_owned(),
            }
        );
    }
}
