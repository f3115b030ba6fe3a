//! `cluster list`: prints the clusters while it reads them, so that a large table neither fills the memory nor is lost after an error.

use cbbootstrap_cli::text::escape_hidden;
use cbbootstrap_function::store::{Page, Row, Store};
use jiff::Timestamp;

use super::{Entry, Operator, text::HEADER};
use crate::{
    cli::ClusterListArgs, exit::Exit, failure::Failure, fields::Columns, printer::Printer,
    settings::Database, signals::Signals,
};

/// The first part of a list has at least this many clusters, if there are enough. In text, they set the widths of the columns.
const FIRST_PART: usize = 100;

/// A list of which parts are printed.
struct List<'p> {
    printer: &'p Printer,
    database: &'p Database,
    /// The cluster that the list begins after.
    after: Option<&'p str>,
    /// Those that are not printed yet.
    waiting: Vec<Entry>,
    /// Also of those that are not printed yet.
    count: usize,
    last: Option<String>,
    format: Format,
    is_begun: bool,
}

enum Format {
    Text(ListText),
    Json(ListJson),
}

/// A table, part by part.
#[derive(Debug, Default)]
pub(super) struct ListText {
    /// They fit the first part.
    columns: Option<Columns<{ HEADER.len() }>>,
}

/// A JSON document, part by part.
#[derive(Debug)]
pub(super) struct ListJson {
    /// The beginning of the document, or the last cluster, which a comma follows only if there is another one.
    held: String,
    comma: &'static str,
}

impl ListText {
    pub(super) fn part(&mut self, entries: &[Entry]) -> String {
        let mut lines: Vec<_> = entries.iter().map(Entry::columns).collect();
        if self.columns.is_none() {
            lines.insert(0, HEADER.map(str::to_owned).to_vec());
        }
        let columns = self.columns.get_or_insert_with(|| Columns::fitting(&lines));
        lines.iter().map(|line| columns.line(line) + "\n").collect()
    }

    /// What follows the last part.
    pub(super) fn end(&self, database: &Database, after: Option<&str>) -> String {
        match (&self.columns, after) {
            (Some(_), _) => String::new(),
            (None, None) => format!("No clusters in {database}"),
            (None, Some(after)) => {
                format!("No clusters in {database} after {}", escape_hidden(after))
            }
        }
    }
}

impl ListJson {
    /// `document` has the fields before the clusters.
    pub(super) fn new(document: &str) -> Self {
        let fields = document.strip_suffix("\n}").unwrap_or(document);
        Self { held: format!("{fields},\n  \"clusters\": ["), comma: "" }
    }

    pub(super) fn part(&mut self, entries: &[Entry]) -> serde_json::Result<String> {
        let mut lines = Vec::new();
        for entry in entries {
            lines.push(std::mem::take(&mut self.held) + self.comma);
            let entry = serde_json::to_string_pretty(entry)?;
            self.held = format!("    {}", entry.replace('\n', "\n    "));
            self.comma = ",";
        }
        Ok(lines.join("\n"))
    }

    pub(super) fn end(self, next: Option<&str>) -> serde_json::Result<String> {
        let next = serde_json::to_string(&next)?;
        Ok(format!("{}\n  ],\n  \"next\": {next}\n}}", self.held))
    }
}

impl<'p> List<'p> {
    fn new(
        printer: &'p Printer,
        database: &'p Database,
        after: Option<&'p str>,
    ) -> anyhow::Result<Self> {
        let format = if printer.is_json() {
            let document = serde_json::to_string_pretty(&printer.with_origin(database))?;
            Format::Json(ListJson::new(&document))
        } else {
            Format::Text(ListText::default())
        };
        let (waiting, count, last, is_begun) = (Vec::new(), 0, None, false);
        Ok(Self { printer, database, after, waiting, count, last, format, is_begun })
    }

    /// Adds clusters, and prints them unless too few for the first part; `false` if the reader has closed the pipe.
    fn add(&mut self, rows: Vec<Row>, now: Timestamp) -> anyhow::Result<bool> {
        self.count += rows.len();
        self.last = rows.last().map(|row| row.cluster_id.clone()).or(self.last.take());
        self.waiting.extend(rows.into_iter().map(|row| Entry::new(row, now)));
        if self.waiting.len() < (if self.is_begun { 1 } else { FIRST_PART }) {
            return Ok(true);
        }
        self.print()
    }

    fn print(&mut self) -> anyhow::Result<bool> {
        self.is_begun = true;
        let entries = std::mem::take(&mut self.waiting);
        let part = match &mut self.format {
            Format::Text(text) => text.part(&entries),
            Format::Json(json) => json.part(&entries)?,
        };
        self.printer.part(&part)
    }

    /// `next` is the cluster that another list continues after.
    fn end(mut self, next: Option<&str>) -> anyhow::Result<()> {
        if !self.waiting.is_empty() && !self.print()? {
            return Ok(());
        }
        let end = match self.format {
            Format::Text(text) => text.end(self.database, self.after),
            Format::Json(json) => json.end(next)?,
        };
        if !end.is_empty() {
            self.printer.part(&end)?;
        }
        Ok(())
    }
}

impl<S: Store> Operator<'_, S> {
    pub(super) async fn list(
        self,
        args: ClusterListArgs,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let mut room = if args.all { usize::MAX } else { args.limit };
        let after = args.after.as_deref();
        let this = &self;
        let read = |start: Option<String>| async move {
            let page = this.store.list(start.as_deref()).await;
            page.map_err(|error| this.explain(&error).into())
        };
        let mut page = signals.or_stopped(self.with_origin(read(args.after.clone()))).await?;
        let mut list = List::new(self.printer, &self.database, after)?;
        let mut step = None;
        let ended = loop {
            let Page { mut rows, next } = page;
            rows.retain(|row| args.all || !row.is_smoke_test());
            // A row more than the limit shows that there are more.
            let has_more = rows.len() > room;
            rows.truncate(room);
            room -= rows.len();
            if !list.add(rows, self.store.now())? {
                return Ok(());
            }
            let Some(next) = next.filter(|_| !has_more) else {
                break Ok(has_more);
            };
            if list.is_begun {
                let step = step.get_or_insert_with(|| self.printer.step("list"));
                step.busy(format!("{} clusters", list.count));
            }
            page = match signals.or_stopped(read(Some(next))).await {
                Ok(page) => page,
                Err(error) => break Err(error),
            };
        };
        drop(step);
        let command = |shown: &str| {
            let which =
                if args.all { "--all".to_owned() } else { format!("--limit={}", args.limit) };
            self.records.command("list", &[which, format!("--after={shown}")])
        };
        match (ended, list.last.clone()) {
            (Ok(true), Some(shown)) => {
                list.end(Some(&shown))?;
                if !self.printer.is_json() {
                    self.printer.message(format_args!("There are more: {}", command(&shown)));
                }
                Ok(())
            }
            (Ok(_), _) => list.end(None),
            (Err(error), None) => Err(error),
            (Err(error), Some(shown)) => {
                list.end(Some(&shown))?;
                let failure = error.downcast::<Failure>()?;
                let rest = format!("the list continues with `{}`", command(&shown));
                let is_stopped = failure.exit == Exit::Stopped;
                Err(if is_stopped { failure.hint(rest) } else { failure.also(&rest) }.into())
            }
        }
    }
}
