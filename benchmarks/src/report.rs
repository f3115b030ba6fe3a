//! What a benchmark found, for people and for programs.

use std::{fmt::Write, fs, path::PathBuf};

use cbbootstrap_tests::programs;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::machine;

/// A table of Markdown.
#[derive(Debug)]
pub struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// One without rows.
    pub fn new<H: Into<String>>(headers: impl IntoIterator<Item = H>) -> Self {
        Self { headers: headers.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row, as long as the header.
    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cells: Vec<_> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.headers.len(), "{cells:?}");
        self.rows.push(cells);
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule: Vec<_> = self.headers.iter().map(|_| "---".to_owned()).collect();
        let rows = self.rows.iter().map(|row| line(row));
        [line(&self.headers), line(&rule)].into_iter().chain(rows).collect()
    }

    /// An object for each row; cells that are numbers are so there.
    fn json(&self) -> Value {
        let object = |row: &Vec<String>| {
            let fields = self.headers.iter().zip(row);
            let value = |cell: &str| {
                cell.parse::<f64>().map_or_else(|_| json!(cell), |number| json!(number))
            };
            let fields = fields.map(|(name, cell)| (name.clone(), value(cell)));
            Value::Object(fields.collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }
}

/// The report of one benchmark.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    versions: Vec<String>,
    text: String,
    figures: Vec<Value>,
    plots: Vec<String>,
}

impl Report {
    /// One of the benchmark of this name, which `cargo bench --workspace --bench NAME` runs.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            versions: vec![machine::rust()],
            text: String::new(),
            figures: Vec::new(),
            plots: Vec::new(),
        }
    }

    /// Says with which version of something it was measured.
    pub fn version(&mut self, version: impl Into<String>) {
        self.versions.push(version.into());
    }

    /// A paragraph.
    pub fn say(&mut self, text: &str) {
        let _ = write!(self.text, "{}\n\n", text.trim());
    }

    /// A table.
    pub fn table(&mut self, table: &Table) {
        let _ = writeln!(self.text, "{}", table.markdown());
        self.figures.push(table.json());
    }

    /// What is reported meanwhile stands folded under the title, for who wants to know.
    pub fn folded(&mut self, title: &str, inside: impl FnOnce(&mut Self)) {
        let _ = write!(self.text, "<details>\n<summary>{title}</summary>\n\n");
        inside(self);
        self.text.push_str("</details>\n\n");
    }

    /// A drawing, as SVG.
    pub fn plot(&mut self, caption: &str, svg: String) {
        let _ = write!(
            self.text,
            "![{caption}](../benchmarks/results/{})\n\n",
            self.svg_name(self.plots.len())
        );
        self.plots.push(svg);
    }

    fn svg_name(&self, number: usize) -> String {
        match number {
            0 => format!("{}.svg", self.name),
            more => format!("{}-{}.svg", self.name, more + 1),
        }
    }

    /// Prints it, writes it to `benchmarks/results/`, and puts it into `docs/benchmarks.md`, between the comments that name the benchmark.
    pub fn finish(self) {
        let command = format!("cargo bench --workspace --bench {}", self.name);
        let date = Timestamp::now().strftime("%F").to_string();
        let machine = machine::machine();
        let versions = self.versions.join(", ");
        let text = format!(
            "{}Measured on {date} by `{command}` on {machine}, with {versions}.\n",
            self.text
        );
        println!("{text}");

        let results = programs::workspace().join("benchmarks/results");
        fs::create_dir_all(&results).expect("a directory can be made");
        let document = json!({
            "benchmark": self.name, "command": command, "date": date, "machine": machine, "versions": self.versions,
            "tables": self.figures,
        });
        let document = serde_json::to_string_pretty(&document).expect("it is JSON");
        let write = |name: String, content: &str| {
            fs::write(results.join(name), content).expect("a file can be written");
        };
        write(format!("{}.json", self.name), &(document + "\n"));
        for (number, svg) in self.plots.iter().enumerate() {
            write(self.svg_name(number), svg);
        }

        let page: PathBuf = programs::workspace().join("docs/benchmarks.md");
        let before = fs::read_to_string(&page).expect("there is a page of benchmarks");
        let after = replaced(&before, self.name, &text)
            .unwrap_or_else(|| panic!("docs/benchmarks.md has no place for `{}`", self.name));
        fs::write(&page, after).expect("a file can be written");
    }
}

/// The document with this text between `<!-- benchmark: NAME -->` and `<!-- end -->`.
fn replaced(document: &str, name: &str, text: &str) -> Option<String> {
    let (before, rest) = document.split_once(&format!("<!-- benchmark: {name} -->\n"))?;
    let (_, after) = rest.split_once("<!-- end -->")?;
    Some(format!("{before}<!-- benchmark: {name} -->\n{text}<!-- end -->{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_takes_the_place_of_the_last() {
        let document =
            "a\n<!-- benchmark: x -->\nold\n<!-- end -->\nb\n<!-- benchmark: y -->\n<!-- end -->\n";
        let after = replaced(document, "x", "new\n").expect("it has a place");
        assert_eq!(after, document.replace("old", "new"));
        assert_eq!(replaced(document, "z", "new"), None);
    }

    #[test]
    fn a_table_is_markdown_and_objects() {
        let mut table = Table::new(["what", "ms"]);
        table.row(["start", "3.1"]);
        assert_eq!(table.markdown(), "| what | ms |\n| --- | --- |\n| start | 3.1 |\n");
        assert_eq!(table.json(), json!([{"what": "start", "ms": 3.1}]));
    }
}
