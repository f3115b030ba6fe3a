//! `logs`: prints or follows the function's log.

use std::time::Duration;

use cbbootstrap_cli::text;
use jiff::{SignedDuration, Timestamp};

use crate::{
    aws::{Aws, cloudformation, is_transient, logs::Log},
    cli::LogsArgs,
    printer::Printer,
    signals::Signals,
};

/// Between two reads of the log: short while lines come, longer while none do.
const FIRST_POLL: Duration = Duration::from_secs(1);
const LAST_POLL: Duration = Duration::from_secs(3);

/// Follows the log until a signal, or until stdout is closed.
pub async fn run(args: LogsArgs, printer: &Printer, signals: &mut Signals) -> anyhow::Result<()> {
    let follow = args.follow;
    // On another task: a full pipe must not keep Ctrl-C from ending the program.
    let reading = tokio::spawn(read(args, printer.clone()));
    let reading = async { reading.await? };
    if follow {
        tokio::select! {
            ended = reading => ended,
            _ = signals.next() => Ok(()),
        }
    } else {
        signals.or_stopped(reading).await
    }
}

async fn read(args: LogsArgs, printer: Printer) -> anyhow::Result<()> {
    let place = args.stack;
    let aws = Aws::connect(&place.access).await?;
    let name = &place.stack_name;
    let stack = cloudformation::require(&aws.cloudformation, name, &aws.region).await?;
    let group = stack.output("LogGroupName")?.to_owned();
    if args.follow {
        printer.message(format_args!("Following log group `{group}` until Ctrl-C"));
    }
    let mut log = Log::new(aws.logs, group, args.filter.clone(), args.since);
    let (mut shown, mut pause, mut lost) = (false, FIRST_POLL, false);
    loop {
        match log.next().await {
            Ok(Some(lines)) => {
                lost = false;
                for line in lines {
                    if !printer.line(entry(line.time, &line.message))? {
                        return Ok(());
                    }
                    (shown, pause) = (true, FIRST_POLL);
                }
                continue;
            }
            Ok(None) if args.follow => {}
            Ok(None) => break,
            Err(error) if args.follow && is_transient(&error) => {
                if !lost {
                    printer.message("cannot read the log at the moment; trying again");
                }
                (lost, pause) = (true, LAST_POLL);
            }
            Err(error) => return Err(log.explain(&error).into()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LAST_POLL);
    }
    if !shown {
        printer.message(no_lines_message(args.since, args.filter.as_deref()));
    }
    Ok(())
}

fn no_lines_message(since: Duration, filter: Option<&str>) -> String {
    let since = SignedDuration::try_from(since).unwrap_or(SignedDuration::MAX);
    match filter {
        Some(text) => format!("no log lines with `{text}` in the last {since:#}"),
        None => format!("no log lines in the last {since:#}; `--since` goes further back"),
    }
}

fn entry(time: i64, message: &str) -> String {
    let time = Timestamp::from_millisecond(time).unwrap_or_default();
    format!("{time:.3}  {}", text::escape_hidden(message.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_printed_with_its_time() {
        for (message, expected) in [
            ("START RequestId: 1\n", "START RequestId: 1"),
            ("REPORT\tDuration: 2 ms\t\n", "REPORT\tDuration: 2 ms"),
            ("two\nlines", r"two\nlines"),
            ("\u{1b}]0;title\u{7}red", r"\u{1b}]0;title\u{7}red"),
            ("größe \u{9b}31m", r"größe \u{9b}31m"),
            (r#"{"a\n":1}"#, r#"{"a\n":1}"#),
            ("", ""),
        ] {
            let expected = format!("2026-11-24T03:19:56.123Z  {expected}");
            assert_eq!(entry(1_795_490_396_123, message), expected, "{message:?}");
        }
    }

    #[test]
    fn message_without_lines_repeats_the_options() {
        let since = Duration::from_mins(90);
        assert_eq!(
            no_lines_message(since, None),
            "no log lines in the last 1h 30m; `--since` goes further back"
        );
        assert_eq!(no_lines_message(since, Some("x")), "no log lines with `x` in the last 1h 30m");
    }
}
