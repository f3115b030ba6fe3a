//! The one place that prints. Results go to stdout; progress, messages and errors to stderr.
//!
//! On a terminal each running step has a line that moves; elsewhere (CI, a file) a step is plain lines.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::Display,
    io::{ErrorKind, IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cbbootstrap_protocol::names::is_hidden;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    cli::Output,
    failure::{self, Exit},
    stack::{Progress, StackEvent},
};

/// How often a plain log hears of a step that is busy.
pub const HEARTBEAT: Duration = Duration::from_secs(30);

/// Prints; cheap to clone.
#[derive(Clone, Debug)]
pub struct Printer {
    output: Output,
    /// The moving lines; none where stderr is no terminal.
    progress: Option<MultiProgress>,
    seconds: Arc<Mutex<BTreeMap<&'static str, f64>>>,
}

impl Printer {
    /// A printer for results of this form.
    pub fn new(output: Output) -> Self {
        let progress = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { output, progress, seconds: Arc::default() }
    }

    /// The command's result: text, or one JSON document.
    pub fn result<R: Display + Serialize>(&self, result: &R) -> anyhow::Result<()> {
        let text = match self.output {
            Output::Text => result.to_string(),
            Output::Json => serde_json::to_string_pretty(result)?,
        };
        // A reader that has had enough of it is no failure.
        self.line(text.trim_end()).map(drop)
    }

    /// A line of a result that comes bit by bit; `false` when nobody reads any more.
    pub fn line(&self, line: impl Display) -> anyhow::Result<bool> {
        match self.suspend(|| writeln!(std::io::stdout(), "{line}")) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            written => Ok(written.map(|()| true)?),
        }
    }

    /// A message, on a line of its own.
    pub fn message(&self, message: impl Display) {
        // Nobody is left to tell when stderr is gone.
        let _ = self.suspend(|| writeln!(std::io::stderr(), "{message}"));
    }

    /// The error that ends the program.
    pub fn failure(&self, error: &anyhow::Error) -> Exit {
        if let Some(progress) = &self.progress {
            let _ = progress.clear();
        }
        self.error(error)
    }

    /// An error as one line and perhaps a hint, and how a program would end with it.
    pub fn error(&self, error: &anyhow::Error) -> Exit {
        let failure = failure::of(error);
        self.message(format_args!("error: {}", failure::line(error)));
        if let Some(hint) = failure.and_then(|failure| failure.hint.as_deref()) {
            self.message(format_args!("hint: {hint}"));
        }
        failure.map_or(Exit::Failed, |failure| failure.exit)
    }

    /// Begins a step. Its name stands in the result's `seconds`.
    pub fn step(&self, name: &'static str) -> Step {
        let bar = self.progress.as_ref().map(|progress| {
            let bar = progress.add(ProgressBar::new_spinner());
            bar.set_style(style("{spinner} {prefix:8} {msg} {elapsed}"));
            bar.set_prefix(name);
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Step {
            name,
            printer: self.clone(),
            bar,
            started: Instant::now(),
            said: Instant::now(),
            progress: Progress::default(),
            rows: Vec::new(),
        }
    }

    /// How long each finished step took, and since when.
    pub fn seconds(&self) -> BTreeMap<&'static str, f64> {
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        match &self.progress {
            Some(progress) => progress.suspend(print),
            None => print(),
        }
    }
}

/// A piece of work that takes a while. It counts as given up when dropped before [`Step::done`].
#[derive(Debug)]
pub struct Step {
    name: &'static str,
    printer: Printer,
    bar: Option<ProgressBar>,
    started: Instant,
    said: Instant,
    progress: Progress,
    /// A line for each resource of the stack, on a terminal.
    rows: Vec<ProgressBar>,
}

impl Step {
    /// How many resources the stack's change will come to: the bar's length.
    pub fn expect(&mut self, resources: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(resources.try_into().unwrap_or(u64::MAX));
            bar.set_style(style("{spinner} {prefix:8} [{bar:20}] {pos}/{len} {msg} {elapsed}"));
        }
    }

    /// Something happened to a stack: a line that stays in a log, and on a terminal the resource's own line.
    pub fn event(&mut self, event: &StackEvent) {
        let place = self.progress.see(event);
        let (Some(bar), Some(progress)) = (&self.bar, &self.printer.progress) else {
            self.line(event);
            return;
        };
        bar.set_position(self.progress.done().try_into().unwrap_or(u64::MAX));
        let Some((place, begins)) = place else {
            bar.set_message(event.status.clone());
            // Which way it goes stays to be seen.
            if event.status.contains("ROLLBACK") {
                self.line(event);
            }
            return;
        };
        if place == self.rows.len() {
            let last = self.rows.last().unwrap_or(bar);
            let row = progress.insert_after(last, ProgressBar::new_spinner());
            self.rows.push(row);
        }
        let row = &self.progress.rows()[place];
        let line = &self.rows[place];
        line.set_style(style(if row.is_done() { "  {msg}" } else { "  {msg} {elapsed}" }));
        if begins {
            line.reset_elapsed();
            line.enable_steady_tick(Duration::from_secs(1));
        }
        line.set_message(row.to_string());
    }

    /// The resources' lines, as they are now, stay where they are.
    pub fn keep_rows(&mut self) {
        let rows: Vec<_> = self.rows.drain(..).collect();
        for row in &rows {
            row.finish_and_clear();
        }
        if !rows.is_empty() {
            for row in self.progress.rows() {
                self.printer.message(format_args!("    {row}"));
            }
        }
        self.progress = Progress::default();
    }

    /// What the step does now.
    pub fn note(&mut self, note: impl Into<Cow<'static, str>>) {
        let note = note.into();
        match &self.bar {
            Some(bar) => bar.set_message(note),
            None => self.line(&note),
        }
    }

    /// What the step does now, where that changes many times a second: a plain log hears of it now and then.
    pub fn busy(&mut self, note: impl Into<Cow<'static, str>>) {
        if self.bar.is_some() || self.said.elapsed() >= HEARTBEAT {
            self.note(note);
        }
    }

    /// A line that stays.
    pub fn line(&mut self, line: impl Display) {
        self.said = Instant::now();
        self.printer.message(format_args!("  {:8} {line}", self.name));
    }

    /// Ends the step with what came of it.
    pub fn done(mut self, outcome: impl Display) {
        self.keep_rows();
        let seconds = self.started.elapsed().as_secs_f64();
        self.line(format_args!("{outcome} ({seconds:.1} s)"));
        let seconds = (seconds * 1000.0).round() / 1000.0;
        self.printer
            .seconds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.name, seconds);
    }
}

/// The text with control, bidirectional and invisible characters escaped, so that it can neither command a terminal nor mislead a
/// reader. A tab does no harm.
pub fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) && c != ' ' && c != '\t' {
            harmless.extend(c.escape_default());
        } else {
            harmless.push(c);
        }
    }
    harmless
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("=> ")
}

impl Drop for Step {
    fn drop(&mut self) {
        self.keep_rows();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
