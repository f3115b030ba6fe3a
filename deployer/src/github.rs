//! GitHub Actions: the outputs and the summary of a step, in files that environment variables name, and its errors.

use std::{
    fmt::Write,
    fs::OpenOptions,
    io::{self, Write as _},
    path::Path,
};

use cbbootstrap_cli::{console::Console, environment};
use uuid::Uuid;

use crate::{
    failure::{self, Failure},
    printer::Printer,
};

/// Limits of a table, so that a comment on a pull request fills a screen or two.
const MOST_ROWS: usize = 40;
const MOST_CHARACTERS: usize = 200;

/// Writes outputs and summary where the variables name files. A failed write is only a warning: the command itself has succeeded.
pub fn write(printer: &Printer, outputs: &[(&'static str, String)], summary: &str) {
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
        let hint = Failure::find_in(error).and_then(|failure| failure.hint.as_deref());
        console.message(annotation(&failure::one_line(error), hint));
    }
}

/// A workflow command. Its text is one line.
fn annotation(error: &str, hint: Option<&str>) -> String {
    let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    let text = format!("{error}{hint}");
    let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    format!("::error title=cbbootstrap::{text}")
}

/// Writes a failure as the summary.
pub fn write_failure(printer: &Printer, command: &str, stack_name: &str, error: &anyhow::Error) {
    let hint = Failure::find_in(error).and_then(|failure| failure.hint.as_deref());
    write(printer, &[], &failure_summary(command, stack_name, &failure::one_line(error), hint));
}

fn failure_summary(command: &str, stack_name: &str, error: &str, hint: Option<&str>) -> String {
    let hint = hint.map(|hint| format!("hint: {hint}\n"));
    let text = format!("error: {error}\n{}", hint.unwrap_or_default());
    let fence = fence(&text);
    let heading = heading(command, "failed");
    format!("{heading}Stack {}\n\n{fence}text\n{text}{fence}\n\n", code(stack_name))
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

/// The first line of a summary.
pub fn heading(command: &str, outcome: &str) -> String {
    format!("### cbbootstrap {command}: {outcome}\n\n")
}

/// A table of the first [`MOST_ROWS`] rows.
pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
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

/// Text on one line, shortened, and without anything that ends the cell or is HTML.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut short: String = line.chars().take(MOST_CHARACTERS).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short.replace('&', "&amp;").replace('<', "&lt;").replace('|', "\\|")
}

/// A name as code.
pub fn code(name: &str) -> String {
    format!("`{}`", name.replace('`', "'"))
}

/// More backticks than the text has in a row.
fn fence(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    "`".repeat(longest.max(2) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_is_one_line() {
        assert_eq!(
            annotation("100 %\nlost", Some("try again")),
            "::error title=cbbootstrap::100 %25%0Alost%0Ahint: try again"
        );
        assert_eq!(annotation("lost", None), "::error title=cbbootstrap::lost");
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
    fn a_failure_is_summarised_as_code() {
        let summary = failure_summary(
            "deploy",
            "cbbootstrap",
            "stack `cbbootstrap` ended in ROLLBACK_COMPLETE: ```",
            Some("fix the cause and deploy again"),
        );
        assert_eq!(
            summary,
            "\
### cbbootstrap deploy: failed

Stack `cbbootstrap`

````text
error: stack `cbbootstrap` ended in ROLLBACK_COMPLETE: ```
hint: fix the cause and deploy again
````

"
        );
    }

    #[test]
    fn a_table_is_limited_and_escaped() {
        let row = |row: [&str; 3]| row.map(str::to_owned);
        let escaped =
            table(["Step", "Expected", "Saw"], &[row(["a joiner", "200", "503 <html>|"])]);
        assert_eq!(
            escaped,
            "| Step | Expected | Saw |\n| --- | --- | --- |\n| a joiner | 200 | 503 &lt;html>\\| |\n\n"
        );
        let rows = vec![row(["add", &"long ".repeat(100), ""]); 500];
        let table = table(["", "What", "More"], &rows);
        assert!(table.lines().count() < 60, "{table}");
        assert!(table.len() < 65_536, "more than a comment may have");
        assert!(table.ends_with("long long … |  |\n\n… and 460 more\n\n"), "{table}");
    }
}
