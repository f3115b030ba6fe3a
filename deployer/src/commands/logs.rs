//! `logs`: prints or follows the function's log.

mod line;

use std::time::Duration;

use cbbootstrap_cli::console::Output;
use jiff::SignedDuration;

use crate::{
    aws::{
        Aws, cloudformation, is_transient,
        logs::{Line, Log},
    },
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
    let place = &args.stack;
    let aws = Aws::connect(&place.access).await?;
    let name = &place.stack_name;
    let stack = cloudformation::require(&aws.cloudformation, name, &aws.region).await?;
    let group = stack.output("LogGroupName")?.to_owned();
    if args.follow {
        printer.message(format_args!("Following log group `{group}` until Ctrl-C"));
    }
    let mut log = Log::new(aws.logs, aws.clock, group, args.filter.clone(), args.since);
    let (mut shown, mut pause, mut lost) = (false, FIRST_POLL, false);
    loop {
        match log.next().await {
            Ok(Some(lines)) => {
                lost = false;
                for text in lines.iter().filter_map(|line| shown_line(&args, line)) {
                    if !printer.line(text?)? {
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

/// The text of a line; `None` if it is not shown.
fn shown_line(args: &LogsArgs, line: &Line) -> Option<serde_json::Result<String>> {
    let (time, message) = (line.time, line.message.as_str());
    if args.raw {
        return Some(Ok(line::raw(time, message)));
    }
    // With a filter, the user decides.
    if args.filter.is_none() && line::is_routine(message) {
        return None;
    }
    let line = line::Line::parse(time, message);
    Some(match args.output.output {
        Output::Text => Ok(line.to_string()),
        Output::Json => serde_json::to_string(&line),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
