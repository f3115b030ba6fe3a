//! A report: recorded in `benchmarks/results/`, and shown on a page in `docs/`.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::machine;

/// All reports: those of the benchmarks, and those of the simulation.
pub const REPORTS: [&str; 8] = [
    "cold_start",
    "deploy",
    "service",
    "agent",
    "scale_boots",
    "scale_cluster",
    "scale_outage",
    "scale_backoff",
];

/// A Markdown table.
#[derive(Debug, Deserialize, Serialize)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<C: Into<String>>(columns: impl IntoIterator<Item = C>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cells: Vec<_> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.columns.len(), "{cells:?}");
        self.rows.push(cells);
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = vec!["---".to_owned(); self.columns.len()];
        [&self.columns, &rule].into_iter().chain(&self.rows).map(|row| line(row)).collect()
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Section {
    Text(String),
    Table(Table),
    Plot { caption: String, file: String },
    Details { title: String, sections: Vec<Section> },
}

impl Section {
    fn markdown(&self) -> String {
        match self {
            Self::Text(text) => format!("{text}\n\n"),
            Self::Table(table) => format!("{}\n", table.markdown()),
            Self::Plot { caption, file } => {
                format!("![{caption}](../benchmarks/results/{file})\n\n")
            }
            Self::Details { title, sections } => {
                let content: String = sections.iter().map(Self::markdown).collect();
                format!("<details>\n<summary>{title}</summary>\n\n{content}</details>\n\n")
            }
        }
    }
}

/// The results of one run of a benchmark or a simulation.
#[derive(Debug, Deserialize, Serialize)]
pub struct Report {
    benchmark: String,
    /// The page in `docs/`.
    page: String,
    /// What was run.
    command: Option<String>,
    date: String,
    machine: String,
    versions: Vec<String>,
    sections: Vec<Section>,
}

impl Report {
    /// An empty report of the benchmark that `cargo bench --workspace --bench NAME` runs.
    pub fn new(name: &str, versions: impl IntoIterator<Item = String>) -> Self {
        Self {
            benchmark: name.to_owned(),
            page: "benchmarks.md".to_owned(),
            command: None,
            date: Timestamp::now().strftime("%F").to_string(),
            machine: machine::machine(),
            versions: [machine::rust()].into_iter().chain(versions).collect(),
            sections: Vec::new(),
        }
    }

    /// An empty report of a simulation, on its page, by this command.
    pub fn of_simulation(name: &str, page: &str, command: &str) -> Self {
        let (page, command) = (page.to_owned(), Some(command.to_owned()));
        Self { page, command, versions: Vec::new(), ..Self::new(name, []) }
    }

    /// Reads the results of the last run.
    pub fn read(name: &str) -> Result<Self> {
        let path = results().join(format!("{name}.json"));
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(serde_json::from_slice(&content)?)
    }

    /// Adds a paragraph.
    pub fn text(&mut self, text: impl Into<String>) {
        self.sections.push(Section::Text(text.into()));
    }

    pub fn table(&mut self, table: Table) {
        self.sections.push(Section::Table(table));
    }

    /// Adds a table of targets: what was to be reached, what was measured, and whether that is enough.
    pub fn targets<T: Into<String>>(
        &mut self,
        targets: impl IntoIterator<Item = (T, String, bool)>,
    ) {
        let mut table = Table::new(["target", "measured", "met"]);
        for (target, measured, is_met) in targets {
            table.row([target.into(), measured, if is_met { "yes" } else { "no" }.to_owned()]);
        }
        self.table(table);
    }

    /// Adds a part that readers unfold.
    pub fn details(&mut self, title: &str, add: impl FnOnce(&mut Self)) {
        let before = std::mem::take(&mut self.sections);
        add(self);
        let sections = std::mem::replace(&mut self.sections, before);
        self.sections.push(Section::Details { title: title.to_owned(), sections });
    }

    /// Adds the benchmark's drawing, and writes it.
    pub fn plot(&mut self, caption: &str, svg: &str) {
        let file = format!("{}.svg", self.benchmark);
        fs::write(results().join(&file), svg).expect("results can be written");
        self.sections.push(Section::Plot { caption: caption.to_owned(), file });
    }

    pub fn print(&self) {
        println!("{}", self.markdown());
    }

    /// Prints the report and its differences from the last run, records it, and shows it on its page.
    pub fn finish(&self) -> Result<()> {
        self.print();
        if let Ok(last) = Self::read(&self.benchmark) {
            println!("Compared with the run of {} on {}:\n", last.date, last.machine);
            for difference in self.compare(&last) {
                println!("  {difference}");
            }
        }
        let path = results().join(format!("{}.json", self.benchmark));
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")?;
        let page = self.page();
        fs::write(&page, self.shown_in(&fs::read_to_string(&page)?)?)?;
        Ok(())
    }

    /// The cells that differ from those of another run by a twentieth or more.
    fn compare(&self, last: &Self) -> Vec<String> {
        let mut old = cells(&last.sections);
        let new = cells(&self.sections).into_iter();
        let differences = new.filter_map(|(place, new)| {
            // Rows of one name follow each other in both.
            let (_, old) = old.remove(old.iter().position(|(other, _)| *other == place)?);
            let change = match (old.parse::<f64>(), new.parse::<f64>()) {
                (Ok(old), Ok(new)) if (new - old).abs() < old.abs() / 20.0 => return None,
                (Ok(old), Ok(new)) if old != 0.0 => {
                    format!(" ({:+.0} %)", 100.0 * (new / old - 1.0))
                }
                _ if old == new => return None,
                _ => String::new(),
            };
            Some(format!("{place}: {old} -> {new}{change}"))
        });
        differences.collect()
    }

    pub fn page(&self) -> PathBuf {
        workspace().join("docs").join(&self.page)
    }

    fn markdown(&self) -> String {
        let mut text: String = self.sections.iter().map(Section::markdown).collect();
        let Self { benchmark, date, machine, versions, command, .. } = self;
        let _ = match command {
            Some(command) => writeln!(text, "Computed on {date} by `{command}`."),
            None => writeln!(
                text,
                "Measured on {date} by `just bench {benchmark}` on {machine}, with {}.",
                versions.join(", ")
            ),
        };
        text
    }

    /// The page with this report between `<!-- benchmark: NAME -->` and `<!-- end -->`.
    pub fn shown_in(&self, page: &str) -> Result<String> {
        let start = format!("<!-- benchmark: {} -->\n", self.benchmark);
        let end = "<!-- end -->";
        let place = page
            .split_once(&start)
            .and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
        let (before, after) =
            place.with_context(|| format!("docs/{} has no `{}`", self.page, start.trim()))?;
        Ok(format!("{before}{start}{}{end}{after}", self.markdown()))
    }
}

/// The cells of all tables, each after the names of its row and column.
fn cells<'a>(sections: &'a [Section]) -> Vec<(String, &'a str)> {
    let of_section = |section: &'a Section| match section {
        Section::Details { sections, .. } => cells(sections),
        Section::Table(table) => {
            let rows = table.rows.iter().filter_map(|row| row.split_first());
            let cells = rows.flat_map(|(name, cells)| {
                let columns = table.columns.iter().skip(1);
                columns
                    .zip(cells)
                    .map(move |(column, cell)| (format!("{name}, {column}"), cell.as_str()))
            });
            cells.collect()
        }
        _ => Vec::new(),
    };
    sections.iter().flat_map(of_section).collect()
}

pub fn workspace() -> &'static Path {
    let mut levels = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    levels.nth(2).expect("this crate is in the workspace")
}

fn results() -> PathBuf {
    workspace().join("benchmarks/results")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_replaces_the_last_one() {
        let mut report = Report::new("x", []);
        let mut table = Table::new(["what", "ms"]);
        table.row(["start", "3.1"]);
        report.table(table);
        let page =
            "a\n<!-- benchmark: x -->\nold\n<!-- end -->\nb\n<!-- benchmark: y -->\n<!-- end -->\n";
        let shown = report.shown_in(page).unwrap();
        let markdown = report.markdown();
        assert!(
            markdown.starts_with("| what | ms |\n| --- | --- |\n| start | 3.1 |\n\nMeasured on "),
            "{markdown}"
        );
        assert_eq!(shown, page.replace("old\n", &markdown));
        assert!(report.shown_in("no place").is_err());
    }

    #[test]
    fn reports_are_compared_cell_by_cell() {
        let report = |cells: [&str; 4]| {
            let mut report = Report::new("x", []);
            let mut table = Table::new(["tool", "ms", "MB", "calls", "met"]);
            table.row([&["deploy"], &cells[..]].concat());
            report.details("more", |report| report.table(table));
            report
        };
        let last = report(["2.0", "4.0", "0", "no"]);
        assert_eq!(last.compare(&last), [""; 0]);
        let differences = report(["1.5", "4.1", "3", "yes"]).compare(&last);
        let expected =
            ["deploy, ms: 2.0 -> 1.5 (-25 %)", "deploy, calls: 0 -> 3", "deploy, met: no -> yes"];
        assert_eq!(differences, expected);
    }

    #[test]
    fn pages_show_the_recorded_results() {
        for name in REPORTS {
            let report = Report::read(name).unwrap();
            let page = fs::read_to_string(report.page()).unwrap();
            let shown = report.shown_in(&page).unwrap();
            assert_eq!(shown, page, "docs/{} is out of date: run `just docs`", report.page);
        }
    }
}
