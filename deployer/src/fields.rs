//! Results as labeled fields or aligned columns, and the ages in them.

use std::{array, fmt::Formatter, iter, path::Path};

use jiff::{
    RoundMode, Span, SpanRound, Timestamp, Unit,
    fmt::friendly::{Designator, Direction, Spacing, SpanPrinter},
};
use serde::Serializer;

/// Serializes a path as messages show it: a name does not have to be UTF-8, which serde requires.
pub fn serialize_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Writes fields as lines of a label and a value, with the values in a column. A value may have several lines.
pub fn write_fields(
    f: &mut Formatter<'_>,
    width: usize,
    fields: impl IntoIterator<Item = (&'static str, String)>,
) -> std::fmt::Result {
    for (label, value) in fields {
        for (number, line) in value.lines().enumerate() {
            let label = if number == 0 { label } else { "" };
            writeln!(f, "{label:width$} {line}")?;
        }
    }
    Ok(())
}

/// The most that a long value widens its column.
const WIDEST: usize = 40;

/// The widths of aligned columns.
#[derive(Debug)]
pub struct Columns<const N: usize>([usize; N]);

impl<const N: usize> Columns<N> {
    /// Columns that fit these lines. The last value of a line may be longer than its column, and a line may end early.
    pub fn fitting(lines: &[Vec<String>]) -> Self {
        Self(array::from_fn(|column| {
            let inner = lines.iter().filter(|line| column + 1 < line.len());
            let widths = inner.map(|line| line[column].chars().count());
            widths.filter(|width| *width <= WIDEST).max().unwrap_or(0)
        }))
    }

    pub fn line(&self, cells: &[String]) -> String {
        let cells = cells.iter().zip(self.0).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

/// Writes rows as aligned columns below their heading.
pub fn write_columns<const N: usize>(
    f: &mut Formatter<'_>,
    heading: [&str; N],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> std::fmt::Result {
    let heading = heading.map(str::to_owned).to_vec();
    let lines: Vec<_> = iter::once(heading).chain(rows).collect();
    let columns = Columns::<N>::fitting(&lines);
    lines.iter().try_for_each(|line| writeln!(f, "{}", columns.line(line)))
}

/// ` (3 days ago)`: how long ago an RFC 3339 time was, in the largest unit; empty without a time.
pub fn ago(time: Option<&str>, now: Timestamp) -> String {
    let Some(time) = time.and_then(|time| time.parse::<Timestamp>().ok()) else {
        return String::new();
    };
    let unit = match now.duration_since(time).as_secs() {
        ..1 => return " (just now)".to_owned(),
        1..60 => Unit::Second,
        60..3600 => Unit::Minute,
        3600..86400 => Unit::Hour,
        _ => Unit::Day,
    };
    let round =
        SpanRound::new().largest(unit).smallest(unit).mode(RoundMode::Trunc).days_are_24_hours();
    let span = Span::try_from(time - now).and_then(|span| span.round(round));
    let printer = SpanPrinter::new()
        .designator(Designator::Verbose)
        .spacing(Spacing::BetweenUnitsAndDesignators)
        .direction(Direction::Suffix);
    span.map_or_else(|_| String::new(), |span| format!(" ({})", printer.span_to_string(&span)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-24T03:19:56Z";

    #[test]
    fn age_is_in_its_largest_unit() {
        let now = NOW.parse().unwrap();
        for (time, expected) in [
            (Some("2026-11-24T03:19:56.4Z"), " (just now)"),
            (Some("2026-11-24T03:20:56Z"), " (just now)"),
            (Some("2026-11-24T03:19:55Z"), " (1 second ago)"),
            (Some("2026-11-24T03:18:57Z"), " (59 seconds ago)"),
            (Some("2026-11-24T03:18:00.123Z"), " (1 minute ago)"),
            (Some("2026-11-23T23:20:00Z"), " (3 hours ago)"),
            (Some("2026-11-21T03:19:56Z"), " (3 days ago)"),
            (Some("2025-11-24T03:19:56Z"), " (365 days ago)"),
            (Some("yesterday"), ""),
            (None, ""),
        ] {
            assert_eq!(ago(time, now), expected, "{time:?}");
        }
    }
}
