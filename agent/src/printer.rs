//! The one place that prints. Results go to stdout; progress, messages and errors to stderr.
//!
//! On a terminal a line moves with what is waited for and since when; elsewhere (a node's boot log) there are plain lines.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt::Display,
    io::{self, ErrorKind, IsTerminal, Write},
    time::{Duration, Instant},
};

use cbbootstrap_cli::text::printable;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    cli::Output,
    failure::{Exit, Failure},
};

/// How often a plain log hears what is still waited for.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Prints.
#[derive(Debug)]
pub struct Printer {
    output: Output,
    started: Instant,
    /// The moving line; none where stderr is no terminal.
    bar: Option<ProgressBar>,
    waiting: RefCell<Option<Waiting>>,
    warned: RefCell<BTreeSet<String>>,
}

/// What is waited for.
#[derive(Debug)]
struct Waiting {
    reason: String,
    said: Instant,
}

impl Default for Printer {
    fn default() -> Self {
        Self::new(Output::Text)
    }
}

impl Printer {
    /// A printer for results of this form.
    pub fn new(output: Output) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style)
        });
        Self {
            output,
            started: Instant::now(),
            bar,
            waiting: RefCell::default(),
            warned: RefCell::default(),
        }
    }

    /// Something happened: a line that stays, with the seconds since the start.
    pub fn step(&self, what: impl Display) {
        if let Some(bar) = &self.bar {
            bar.set_message("");
            bar.disable_steady_tick();
        }
        self.waiting.replace(None);
        self.line(what);
    }

    /// Something to know, on a line that stays.
    pub fn warning(&self, what: impl Display) {
        self.line(format_args!("warning: {what}"));
    }

    /// Something to know that is said once, however often it is found again.
    pub fn warning_once(&self, what: impl Display) {
        let what = what.to_string();
        if self.warned.borrow_mut().insert(what.clone()) {
            self.warning(what);
        }
    }

    /// What is waited for, and why. A plain log hears of it when it changes, not when only a number in it does, and now and then.
    pub fn waiting(&self, reason: &str) {
        if let Some(bar) = &self.bar {
            if bar.message().is_empty() {
                bar.reset_elapsed();
                bar.enable_steady_tick(Duration::from_millis(120));
            }
            bar.set_message(printable(reason));
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        let is_known = waiting.as_ref().is_some_and(|waiting| {
            without_numbers(&waiting.reason) == without_numbers(reason)
                && waiting.said.elapsed() < HEARTBEAT
        });
        if !is_known {
            *waiting = Some(Waiting { reason: reason.to_owned(), said: Instant::now() });
            drop(waiting);
            self.line(format_args!("waiting: {reason}"));
        }
    }

    /// The command's result: text, or one JSON document.
    pub fn result<R: Display + Serialize>(&self, result: &R) -> anyhow::Result<()> {
        self.clear();
        let text = match self.output {
            Output::Text => {
                let text = result.to_string();
                // A line keeps its indentation.
                let line = |line: &str| {
                    let words = line.trim_start();
                    format!("{}{}", &line[..line.len() - words.len()], printable(words))
                };
                text.lines().map(line).collect::<Vec<_>>().join("\n")
            }
            Output::Json => serde_json::to_string_pretty(result)?,
        };
        print(&text)
    }

    /// The error that ends the program.
    pub fn failure(&self, error: &anyhow::Error) -> Exit {
        self.clear();
        let what = printable(&format!("{error:#}"));
        self.message(format_args!("error: {what}"));
        let failure = Failure::find_in(error);
        if let Some(hint) = failure.and_then(|failure| failure.hint.as_deref()) {
            self.message(format_args!("hint: {}", printable(hint)));
        }
        failure.map_or(Exit::Failed, |failure| failure.exit)
    }

    fn line(&self, what: impl Display) {
        let seconds = self.started.elapsed().as_secs_f64();
        let what = printable(&what.to_string());
        self.message(format_args!("{seconds:7.1} s  {what}"));
    }

    fn message(&self, what: impl Display) {
        let print = || writeln!(io::stderr(), "{what}");
        // Nobody is left to tell when stderr is gone.
        let _ = match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        };
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A result, on stdout.
pub fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        // A reader that has had enough of it is no failure.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn without_numbers(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}
