//! Progress of the agent: on a terminal, a moving line shows what the agent waits for and since when; elsewhere, such as in a boot
//! log, it prints plain lines.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt::Display,
    ops::Deref,
    time::{Duration, Instant},
};

use cbbootstrap_cli::{
    console::{Console, HEARTBEAT, Output},
    failure::Exit,
    text::printable,
};
use indicatif::ProgressBar;
use serde::Serialize;

/// Prints results, and log lines with the seconds since the start.
#[derive(Debug)]
pub struct Printer {
    console: Console,
    started: Instant,
    /// The moving line; `None` where stderr is not a terminal.
    bar: Option<ProgressBar>,
    /// Why the agent waits, and when this was last printed.
    waiting: RefCell<Option<(String, Instant)>>,
    warned: RefCell<BTreeSet<String>>,
}

impl Deref for Printer {
    type Target = Console;

    fn deref(&self) -> &Console {
        &self.console
    }
}

impl Printer {
    pub fn new(output: Output) -> Self {
        let console = Console::new(output);
        let bar = console.spinner("{spinner} {msg} {elapsed}", None);
        Self {
            console,
            started: Instant::now(),
            bar,
            waiting: RefCell::default(),
            warned: RefCell::default(),
        }
    }

    /// Prints that something happened, which ends a wait.
    pub fn step(&self, what: impl Display) {
        if let Some(bar) = &self.bar {
            bar.set_message("");
            bar.disable_steady_tick();
        }
        self.waiting.replace(None);
        self.log(what);
    }

    pub fn warning(&self, what: impl Display) {
        self.log(format_args!("warning: {what}"));
    }

    /// Prints a warning the first time only.
    pub fn warning_once(&self, what: impl Display) {
        let what = what.to_string();
        if self.warned.borrow_mut().insert(what.clone()) {
            self.warning(what);
        }
    }

    /// Shows what the agent waits for. In a plain log it is printed when more than a number in it changes, and at each heartbeat.
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
        let is_known = waiting.as_ref().is_some_and(|(known, printed)| {
            without_numbers(known) == without_numbers(reason) && printed.elapsed() < HEARTBEAT
        });
        if !is_known {
            *waiting = Some((reason.to_owned(), Instant::now()));
            self.log(format_args!("waiting: {reason}"));
        }
    }

    /// Prints the command's result: text, or one JSON document.
    pub fn result<R: Display + Serialize>(&self, result: &R) -> anyhow::Result<()> {
        self.clear();
        self.console.result(result)
    }

    pub fn failure(&self, error: &anyhow::Error) -> Exit {
        self.clear();
        self.console.failure(error)
    }

    fn log(&self, what: impl Display) {
        let seconds = self.started.elapsed().as_secs_f64();
        let what = printable(&what.to_string());
        self.message(format_args!("{seconds:7.1} s  {what}"));
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn without_numbers(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}
