//! Steps of a command: on a terminal each running one has a line that moves; elsewhere (CI, a file) a step is plain lines.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::Display,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

pub use cbbootstrap_cli::console::HEARTBEAT;
use cbbootstrap_cli::console::{Console, Output, error_text, style};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::{
    origin::{Origin, WithOrigin},
    stack::{Progress, StackEvent},
};

/// Prints results, messages and steps; cheap to clone.
#[derive(Clone, Debug)]
pub struct Printer {
    console: Console,
    seconds: Arc<Mutex<BTreeMap<&'static str, f64>>>,
    origin: Arc<OnceLock<Origin>>,
    /// Messages that wait for another to be printed first.
    held: Arc<Mutex<Option<Vec<String>>>>,
}

impl Deref for Printer {
    type Target = Console;

    fn deref(&self) -> &Console {
        &self.console
    }
}

impl Printer {
    pub fn new(output: Output) -> Self {
        Self {
            console: Console::new(output),
            seconds: Arc::default(),
            origin: Arc::default(),
            held: Arc::default(),
        }
    }

    /// Sets what is added to JSON results.
    pub fn set_origin(&self, origin: Origin) {
        let _ = self.origin.set(origin);
    }

    /// Prints the command's result: text, or one JSON document.
    pub fn result<R: Display + Serialize>(&self, result: &R) -> anyhow::Result<()> {
        self.console.result(&self.with_origin(result))
    }

    /// The result as it is printed.
    pub fn with_origin<'a, R>(&'a self, result: &'a R) -> WithOrigin<'a, R> {
        WithOrigin { origin: self.origin.get(), result }
    }

    pub fn message(&self, message: impl Display) {
        match &mut *self.held() {
            Some(messages) => messages.push(message.to_string()),
            None => self.console.message(message),
        }
    }

    /// Prints all errors but the first, which ends the program and is printed last.
    pub fn print_all_but_first<const N: usize>(&self, errors: [Option<&anyhow::Error>; N]) {
        for error in errors.into_iter().flatten().skip(1) {
            self.message(error_text(error));
        }
    }

    /// Holds messages back until the guard releases or drops them.
    pub fn hold(&self) -> Held<'_> {
        *self.held() = Some(Vec::new());
        Held(self)
    }

    fn held(&self) -> MutexGuard<'_, Option<Vec<String>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a step. Its name is a key in the result's `seconds`.
    pub fn step(&self, name: &'static str) -> Step {
        let bar = self.spinner("{spinner} {prefix:8} {msg} {elapsed}", None);
        if let Some(bar) = &bar {
            bar.set_prefix(name);
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Step {
            name,
            printer: self.clone(),
            bar,
            started: Instant::now(),
            reported: Instant::now(),
            progress: Progress::default(),
            rows: Vec::new(),
        }
    }

    /// How long each finished step took.
    pub fn seconds(&self) -> BTreeMap<&'static str, f64> {
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A guard of messages that wait.
#[derive(Debug)]
pub struct Held<'p>(&'p Printer);

impl Held<'_> {
    /// Prints this message and, after it, those that waited.
    pub fn release(self, first: impl Display) {
        self.0.console.message(first);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for message in self.0.held().take().into_iter().flatten() {
            self.0.console.message(message);
        }
    }
}

/// A piece of work that takes a while. Dropping it before [`Step::done`] removes its line.
#[derive(Debug)]
pub struct Step {
    name: &'static str,
    printer: Printer,
    bar: Option<ProgressBar>,
    started: Instant,
    /// When a line was last printed.
    reported: Instant,
    progress: Progress,
    /// A line for each resource of the stack, on a terminal.
    rows: Vec<ProgressBar>,
}

impl Step {
    /// Sets the number of resources that change, which is the length of the bar.
    pub fn expect(&mut self, resources: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(resources.try_into().unwrap_or(u64::MAX));
            bar.set_style(style("{spinner} {prefix:8} [{bar:20}] {pos}/{len} {msg} {elapsed}"));
        }
    }

    /// Shows an event of the stack: in a log as a line, and on a terminal in the resource's line.
    pub fn event(&mut self, event: &StackEvent) {
        let place = self.progress.see(event);
        let Some(bar) = &self.bar else {
            self.line(event);
            return;
        };
        bar.set_position(self.progress.done().try_into().unwrap_or(u64::MAX));
        let Some((place, begins)) = place else {
            bar.set_message(event.status.clone());
            // The start of a rollback must stay visible.
            if event.status.contains("ROLLBACK") {
                self.line(event);
            }
            return;
        };
        if place == self.rows.len() {
            let last = self.rows.last().unwrap_or(bar);
            let row = self.printer.spinner("  {msg}", Some(last));
            self.rows.extend(row);
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

    /// Prints the resources' lines in their current state and stops updating them.
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

    /// Shows what the step is doing.
    pub fn note(&mut self, note: impl Into<Cow<'static, str>>) {
        let note = note.into();
        match &self.bar {
            Some(bar) => bar.set_message(note),
            None => self.line(&note),
        }
    }

    /// Like [`Self::note`], for notes that change many times a second: a plain log shows only some of them.
    pub fn busy(&mut self, note: impl Into<Cow<'static, str>>) {
        if self.bar.is_some() || self.reported.elapsed() >= HEARTBEAT {
            self.note(note);
        }
    }

    /// Prints a permanent line.
    pub fn line(&mut self, line: impl Display) {
        self.reported = Instant::now();
        self.printer.message(format_args!("  {:8} {line}", self.name));
    }

    /// Ends the step and prints its result and duration.
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

impl Drop for Step {
    fn drop(&mut self) {
        self.keep_rows();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn errors_wait_for_the_line_about_the_account() {
        let printer = Printer::new(Output::Text);
        let held = printer.hold();
        let errors = [anyhow!("first"), anyhow!("second")];
        printer.print_all_but_first([Some(&errors[0]), None, Some(&errors[1])]);
        assert_eq!(*printer.held(), Some(vec!["error: second".to_owned()]));
        held.release("Account 123456789012");
        assert_eq!(*printer.held(), None);
    }
}
