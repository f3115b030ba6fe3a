//! Progress of the agent: on a terminal, a moving line shows what the agent waits for and since when; elsewhere, such as in a boot
//! log, it prints plain lines.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt::Display,
    ops::Deref,
    time::{Duration, Instant},
};

use cbbootstrap_cli::{
    console::{Console, HEARTBEAT, Output},
    exit::Exit,
    text::printable,
};
use indicatif::ProgressBar;
use serde::Serialize;

/// The most warnings to remember, and the most characters of each.
const MAX_WARNINGS: usize = 100;
const MAX_WARNING_CHARS: usize = 500;

/// Prints results, and log lines with the seconds since the start.
#[derive(Debug)]
pub struct Printer {
    console: Console,
    started: Instant,
    /// The moving line; `None` where stderr is not a terminal.
    bar: Option<ProgressBar>,
    /// Why the agent waits, and when this was last printed.
    waiting: RefCell<Option<(String, Instant)>>,
    /// The latest warnings that are not to be repeated.
    warned: RefCell<VecDeque<String>>,
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
        if remember(&mut self.warned.borrow_mut(), &what) {
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

/// Whether a warning is a new one, which then replaces the oldest one.
fn remember(warned: &mut VecDeque<String>, what: &str) -> bool {
    let start: String = what.chars().take(MAX_WARNING_CHARS).collect();
    if warned.contains(&start) {
        return false;
    }
    if warned.len() >= MAX_WARNINGS {
        warned.pop_front();
    }
    warned.push_back(start);
    true
}

fn without_numbers(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_remembered_up_to_a_number_and_a_length() {
        let mut warned = VecDeque::new();
        assert!(remember(&mut warned, "first") && !remember(&mut warned, "first"));
        for number in 1..MAX_WARNINGS {
            assert!(remember(&mut warned, &format!("{number} {}", "x".repeat(100_000))));
        }
        assert!(!remember(&mut warned, "first"));
        assert!(remember(&mut warned, "one more") && remember(&mut warned, "first"));
        let chars: usize = warned.iter().map(String::len).sum();
        assert!(chars <= MAX_WARNINGS * MAX_WARNING_CHARS, "{chars}");
    }
}
