//! The result of a command, for each of its readers.

use std::fmt::Display;

use serde::Serialize;

use crate::{github, printer::Printer};

/// A result: text by [`Display`], JSON by [`Serialize`], and what GitHub Actions shows of it.
pub trait CommandReport: Display + Serialize {
    /// The outputs of a step, which later steps can read.
    fn outputs(&self) -> Vec<(&'static str, String)>;

    /// The summary on the page of a run, in Markdown.
    fn summary(&self) -> String;
}

/// Prints a result, and gives it to GitHub Actions where that runs the command.
pub fn publish(printer: &Printer, report: &impl CommandReport) -> anyhow::Result<()> {
    printer.result(report)?;
    github::write(printer, &report.outputs(), &report.summary());
    Ok(())
}
