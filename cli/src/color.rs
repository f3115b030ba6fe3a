//! Colors of text on terminals.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};
use clap::{Args, ColorChoice};

const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const RED: Style = AnsiColor::Red.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();

/// First words of a line: messages, changes of a plan, and results of checks.
const FIRST_WORDS: [(&str, Style); 10] = [
    ("error:", RED.bold()),
    ("warning:", YELLOW.bold()),
    ("hint:", CYAN.bold()),
    ("ok", GREEN),
    ("warn", YELLOW),
    ("fail", RED),
    ("skip", Style::new().dimmed()),
    ("+", GREEN),
    ("~", YELLOW),
    ("-", RED),
];

#[derive(Clone, Copy, Debug, Args)]
pub struct ColorArgs {
    /// When to color the output; NO_COLOR turns `auto` off
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    color: ColorChoice,
}

impl ColorArgs {
    /// Applies the choice to the whole program.
    pub fn apply(self) {
        match self.color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

/// Text with codes for a style, which the console removes where colors are off.
fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Paints those words of a text that are labels, or that say how something went.
pub fn highlight(text: &str) -> String {
    text.split_inclusive('\n').map(highlight_line).collect()
}

fn highlight_line(line: &str) -> String {
    let mut is_first = true;
    let mut painted = String::with_capacity(line.len());
    for part in line.split_inclusive([' ', '\n']) {
        let word = part.trim_end();
        match style(word, is_first) {
            Some(style) => painted.extend([paint(style, word).as_str(), &part[word.len()..]]),
            None => painted.push_str(part),
        }
        is_first &= word.is_empty();
    }
    painted
}

fn style(word: &str, is_first: bool) -> Option<Style> {
    let known = FIRST_WORDS.iter().find(|(first, _)| is_first && *first == word);
    match known {
        Some((_, style)) => Some(*style),
        None if is_first && word.ends_with(':') && word.starts_with(char::is_uppercase) => {
            Some(Style::new().bold())
        }
        None => stack_status(word),
    }
}

fn stack_status(word: &str) -> Option<Style> {
    let word = word.trim_end_matches([',', ':', ')']);
    if !word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') {
        return None;
    }
    if word.ends_with("_FAILED") || word.contains("ROLLBACK_") {
        Some(RED)
    } else if word.ends_with("_COMPLETE") {
        Some(GREEN)
    } else {
        word.ends_with("_IN_PROGRESS").then_some(YELLOW)
    }
}

/// Text about an HTTP response, in the color of its status.
pub fn by_http_status(status: u16, text: impl Display) -> String {
    let style = match status {
        ..400 => GREEN,
        400..500 => YELLOW,
        500.. => RED,
    };
    paint(style, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_outcomes_are_painted() {
        let red = |text| paint(RED, text);
        for (line, expected) in [
            ("error: no stack", format!("{} no stack", paint(RED.bold(), "error:"))),
            ("  stack    CREATE_FAILED: why", format!("  stack    {} why", red("CREATE_FAILED:"))),
            ("UPDATE_ROLLBACK_COMPLETE\n", format!("{}\n", red("UPDATE_ROLLBACK_COMPLETE"))),
            ("a UPDATE_COMPLETE, b", format!("a {} b", paint(GREEN, "UPDATE_COMPLETE,"))),
            ("Stack:    s", format!("{}    s", paint(Style::new().bold(), "Stack:"))),
            ("fail  clock ok", format!("{}  clock ok", red("fail"))),
            ("it went ok", "it went ok".to_owned()),
            ("stack: s", "stack: s".to_owned()),
            ("", String::new()),
        ] {
            assert_eq!(highlight(line), expected, "{line:?}");
        }
        assert_eq!(highlight("- a\n- b\n"), format!("{0} a\n{0} b\n", red("-")));
        assert_eq!(by_http_status(503, 503), red("503"));
    }
}
