//! `logs`: the function's log, as it is and as it grows.

use std::time::Duration;

use cbbootstrap_cli::text;
use jiff::{SignedDuration, Timestamp};

use crate::{
    aws::{Aws, cloudformation, is_transient, logs::Log},
    cli::LogsArgs,
    printer::Printer,
    signals::Signals,
};

/// Between two looks at the log: soon while lines come, less often while none do.
const FIRST_POLL: Duration = Duration::from_secs(1);
const LAST_POLL: Duration = Duration::from_secs(3);

/// Shows the log. Following it has a good end only by a signal, or when nobody reads any more.
pub async fn run(args: LogsArgs, printer: &Printer, signals: &mut Signals) -> anyhow::Result<()> {
    let follow = args.follow;
    // A task of its own: a reader that stops reading without going away must not keep Ctrl-C from ending the program.
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
        printer.message(none_found(args.since, args.filter.as_deref()));
    }
    Ok(())
}

fn none_found(since: Duration, filter: Option<&str>) -> String {
    let since = SignedDuration::try_from(since).unwrap_or(SignedDuration::MAX);
    match filter {
        Some(text) => format!("nothing with `{text}` was logged in the last {since:#}"),
        None => format!("nothing was logged in the last {since:#}; `--since` goes further back"),
    }
}

/// The line as it is printed.
fn entry(time: i64, message: &str) -> String {
    let time = Timestamp::from_millisecond(time).unwrap_or_default();
    format!("{time:.3}  {}", text::escape_hidden(message.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_with_its_time() {
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
    fn that_nothing_was_found_is_said_in_the_users_words() {
        let since = Duration::from_mins(90);
        assert_eq!(
            none_found(since, None),
            "nothing was logged in the last 1h 30m; `--since` goes further back"
        );
        assert_eq!(none_found(since, Some("x")), "nothing with `x` was logged in the last 1h 30m");
    }
}
