//! Where everything is printed: results go to stdout; progress, messages and errors to stderr.

use std::{
    env,
    fmt::Display,
    io::{self, ErrorKind, IsTerminal, Write},
    time::Duration,
};

use clap::{Args, ValueEnum};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use crate::{
    color::highlight,
    exit::Exit,
    failure::{Failure, one_line},
    text::{escape_hidden, printable},
};

/// How often progress is reported where stderr is not a terminal.
pub const HEARTBEAT: Duration = Duration::from_secs(30);

/// The form of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Text for people
    #[default]
    Text,
    /// One JSON document on stdout and nothing else
    Json,
}

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Format of the result on stdout; progress and messages go to stderr
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
}

/// Stdout and stderr; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Console {
    output: Output,
    /// The progress lines; `None` where stderr is not a terminal.
    progress: Option<MultiProgress>,
}

impl Console {
    pub fn new(output: Output) -> Self {
        Self { output, progress: io::stderr().is_terminal().then(MultiProgress::new) }
    }

    /// For errors that come before the options are known: JSON if the arguments ask for it.
    pub fn from_arguments() -> Self {
        let mut arguments = env::args_os().take_while(|argument| argument != "--");
        let mut output = Output::default();
        while let Some(argument) = arguments.next() {
            let value = match argument.to_str() {
                Some("--output") => arguments.next().and_then(|value| value.into_string().ok()),
                argument => argument.and_then(|it| it.strip_prefix("--output=")).map(str::to_owned),
            };
            let given = value.and_then(|value| Output::from_str(&value, false).ok());
            output = given.unwrap_or(output);
        }
        Self { output, progress: None }
    }

    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    pub fn result<R: Display + Serialize>(&self, result: &R) -> anyhow::Result<()> {
        let text = match self.output {
            Output::Text => result.to_string(),
            Output::Json => serde_json::to_string_pretty(result)?,
        };
        // It is not an error that a reader closes the pipe.
        self.part(text.trim_end()).map(drop)
    }

    /// Prints whole lines of a result that arrives in parts; `false` if the reader has closed the pipe.
    pub fn part(&self, text: &str) -> anyhow::Result<bool> {
        match self.output {
            Output::Text => {
                let lines: Vec<_> = text.lines().map(escape_hidden).collect();
                self.line(highlight(&lines.join("\n")))
            }
            Output::Json => self.line(text),
        }
    }

    /// Prints a line of a result that arrives line by line; `false` if the reader has closed the pipe.
    pub fn line(&self, line: impl Display) -> anyhow::Result<bool> {
        match self.suspend(|| writeln!(anstream::stdout(), "{line}")) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::new(format!("cannot write the result to stdout: {error}"))
                .hint("check where the output goes, and that its disk is not full")
                .into()),
            Ok(()) => Ok(true),
        }
    }

    /// Prints a message on a separate line.
    pub fn message(&self, message: impl Display) {
        // If stderr is closed, there is nowhere to report it.
        let message = highlight(&message.to_string());
        let _ = self.suspend(|| writeln!(anstream::stderr(), "{message}"));
    }

    /// Prints the error that ends the program. Programs that read JSON get it as a line of JSON before the text.
    pub fn failure(&self, error: &anyhow::Error) -> Exit {
        if let Some(progress) = &self.progress {
            let _ = progress.clear();
        }
        let failure = Failure::find_in(error);
        let exit = failure.map_or(Exit::Failed, |failure| failure.exit);
        let hint = failure.and_then(|failure| failure.hint.as_deref());
        self.error_document(&one_line(error), hint, exit);
        self.message(error_text(error));
        exit
    }

    /// Prints clap's error as JSON if that is wanted. clap itself prints the text and ends the program.
    pub fn refusal(&self, error: &clap::Error) {
        let text = error.to_string();
        let mut parts = text.trim_start_matches("error: ").split("\n\n");
        let message = parts.next().unwrap_or_default().lines().map(str::trim);
        let tip = parts.find_map(|part| part.trim().strip_prefix("tip: "));
        self.error_document(&message.collect::<Vec<_>>().join(" "), tip, Exit::Usage);
    }

    fn error_document(&self, message: &str, hint: Option<&str>, exit: Exit) {
        if self.is_json() {
            let error = json!({"message": message, "hint": hint, "exit": exit.status()});
            let document = json!({"error": error});
            let _ = self.suspend(|| writeln!(io::stderr(), "{document}"));
        }
    }

    /// Adds a progress line with this template after another, or at the end; `None` where stderr is not a terminal.
    pub fn spinner(&self, template: &str, after: Option<&ProgressBar>) -> Option<ProgressBar> {
        let (progress, bar) = (self.progress.as_ref()?, ProgressBar::new_spinner());
        let bar = match after {
            Some(after) => progress.insert_after(after, bar),
            None => progress.add(bar),
        };
        bar.set_style(style(template));
        Some(bar)
    }

    fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        match &self.progress {
            Some(progress) => progress.suspend(print),
            None => print(),
        }
    }
}

/// An error on one line, and its hint on another if it has one. Each of several problems is followed by its own hint.
pub fn error_text(error: &anyhow::Error) -> String {
    let failure = Failure::find_in(error);
    let text = |message: &str, hint: Option<&str>| {
        let hint = hint.map(|hint| format!("\nhint: {}", printable(hint)));
        format!("error: {}{}", printable(message), hint.unwrap_or_default())
    };
    let whole = format!("{error:#}");
    let Some(failure) = failure.filter(|failure| failure.problems.len() > 1) else {
        return text(&whole, failure.and_then(|failure| failure.hint.as_deref()));
    };
    let context = whole.strip_suffix(&failure.to_string()).unwrap_or_default();
    let problems = failure.problems.iter();
    let texts =
        problems.map(|(problem, hint)| text(&format!("{context}{problem}"), hint.as_deref()));
    texts.collect::<Vec<_>>().join("\n")
}

pub fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("=> ")
}
