//! Follows a change of the stack to its end, be it ours or somebody else's, and lets signals cancel it or leave it.

use std::{io::IsTerminal, time::Duration};

use super::ask;
use crate::{
    aws::{
        Aws,
        cloudformation::{self, Watch},
    },
    failure::{Exit, Failure},
    printer::{Printer, Step},
    settings::Place,
    signals::{Signal, Signals},
    stack::{self, Event, Operation, Reaction, Stack},
};

/// How long to wait for somebody else's change where nothing else is said.
pub const DEFAULT_PATIENCE: Duration = Duration::from_mins(30);

/// So often an update that may not have begun is tried to be cancelled, a second apart.
const CANCEL_TRIES: u32 = 8;

/// Follows a change that was asked for to its end. A signal cancels it where that is possible, and a second one leaves it
/// to `CloudFormation`, as SIGTERM does at once.
pub async fn settled(
    aws: &Aws,
    place: &Place,
    operation: Operation,
    mut watch: Watch,
    step: &mut Step,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let name = place.stack_name.as_str();
    // Whether a signal has asked for that, and whether CloudFormation has agreed.
    let (mut asked, mut cancelled) = (false, false);
    let status = loop {
        let signal = tokio::select! {
            status = watch.settle(step) => break status.map_err(|failure| lost(place, failure))?,
            signal = signals.next() => signal,
        };
        let reaction = stack::reaction(operation, asked, signal);
        if reaction == Reaction::Detach {
            return Err(detached(place, signal));
        }
        asked = true;
        step.line(if reaction == Reaction::Cancel {
            "Ctrl-C: cancelling the update; a second one leaves it to CloudFormation"
        } else {
            "Ctrl-C: deleting the stack again; a second one leaves it to CloudFormation"
        });
        let begun = watch.events().iter().any(Event::is_stack);
        let request = async {
            match reaction {
                Reaction::Cancel => cancel(aws, watch.stack_id(), begun).await,
                _ => cloudformation::request_deletion(&aws.cloudformation, watch.stack_id(), None)
                    .await
                    .map(|()| true),
            }
        };
        let requested = tokio::select! {
            requested = request => requested,
            signal = signals.next() => return Err(detached(place, signal)),
        };
        match requested {
            Ok(true) => {
                cancelled = true;
                if reaction == Reaction::Delete {
                    watch.expect_deletion();
                }
            }
            Ok(false) => step.line("it is too late to cancel; waiting for the end"),
            Err(error) => step.line(format_args!("{error:#}; waiting for the end")),
        }
    };
    let good = operation.ends_well_in(&status);
    let stopped = |message: String| Err(Failure::new(message).exit(Exit::Stopped).into());
    match operation {
        _ if good && !asked => Ok(()),
        _ if good => stopped(format!(
            "Ctrl-C came too late: stack `{name}` is in {status}"
        )),
        Operation::Update if cancelled && Operation::Rollback.ends_well_in(&status) => stopped(
            format!("cancelled by Ctrl-C: stack `{name}` is as it was before"),
        ),
        Operation::Create if cancelled && Operation::Delete.ends_well_in(&status) => {
            stopped(format!("cancelled by Ctrl-C: stack `{name}` is deleted again"))
        }
        Operation::Rollback => Err(stack::failed(name, &status, watch.events())
            .hint(format!(
                "mend what the reason says and deploy again, or leave resources out: `aws cloudformation \
                 continue-update-rollback --stack-name {name} --resources-to-skip …`"
            ))
            .exit(Exit::NeedsDecision)
            .into()),
        _ => Err(stack::failed(name, &status, watch.events()).into()),
    }
}

/// Cancels an update; `false` if it is too late. One that is not known to have begun may not be one yet.
async fn cancel(aws: &Aws, stack_id: &str, begun: bool) -> anyhow::Result<bool> {
    for _ in 0..CANCEL_TRIES {
        if cloudformation::cancel_update(&aws.cloudformation, stack_id).await? {
            return Ok(true);
        }
        if begun {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(false)
}

/// That nothing is seen of the stack any more.
fn lost(place: &Place, failure: Failure) -> Failure {
    let goes_on = format!(
        "the stack goes on changing: `{}` shows how it ends",
        place.command("status --wait")
    );
    let hint = failure.hint.iter().chain([&goes_on]).cloned();
    let hint = hint.collect::<Vec<_>>().join("; ");
    failure.hint(hint)
}

fn detached(place: &Place, signal: Signal) -> anyhow::Error {
    Failure::new(format!("stopped by {signal}, and stack `{}` goes on changing", place.stack_name))
        .hint(format!("`{}` shows how it ends", place.command("status --wait")))
        .exit(Exit::Stopped)
        .into()
}

/// How long to wait for this stack, which somebody else is changing. On a terminal that is asked, unless the user has
/// said it.
pub async fn patience(
    place: &Place,
    stack: &Stack,
    asked: Option<Duration>,
    yes: bool,
    printer: &Printer,
) -> anyhow::Result<Duration> {
    let name = &place.stack_name;
    let busy = || Err(busy(place, stack).into());
    match asked {
        Some(Duration::ZERO) => busy(),
        Some(patience) => Ok(patience),
        None if yes || !std::io::stdin().is_terminal() => Ok(DEFAULT_PATIENCE),
        None => {
            let question = format!(
                "Stack `{name}` is being changed by somebody else ({}). Wait until that is done?",
                stack.status
            );
            if ask(&question, printer).await? { Ok(DEFAULT_PATIENCE) } else { busy() }
        }
    }
}

/// Waits until somebody else's change of the stack is done, however it ends.
pub async fn wait(
    aws: &Aws,
    place: &Place,
    stack: &Stack,
    patience: Duration,
    printer: &Printer,
) -> anyhow::Result<()> {
    let mut step = printer.step("wait");
    let name = &place.stack_name;
    step.line(format_args!(
        "stack `{name}` is being changed by somebody else ({}); waiting until that is done",
        stack.status
    ));
    let Some(mut watch) = Watch::join(&aws.cloudformation, &stack.id).await? else {
        step.done("the stack is deleted");
        return Ok(());
    };
    let settled = tokio::time::timeout(patience, watch.settle(&mut step)).await;
    let Ok(status) = settled else {
        return Err(busy(place, stack).about(format!("after {} s", patience.as_secs())).into());
    };
    step.done(format_args!("the stack is in {}", status?));
    Ok(())
}

/// The refusal to touch a stack that somebody else is changing.
pub fn busy(place: &Place, stack: &Stack) -> Failure {
    let watch = place.command("status --wait");
    stack::busy(&place.stack_name, &stack.status, &watch)
}
