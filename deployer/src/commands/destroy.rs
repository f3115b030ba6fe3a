//! `destroy`: deletes the stack, and the table and the artifacts on request.

use crate::{aws::Aws, cli::DestroyArgs, deployment::Removal, printer::Printer, signals::Signals};

/// Deletes, after asking.
pub async fn run(
    args: DestroyArgs,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let aws = signals.or_stopped(Aws::connect(&args.removal.place.access)).await?;
    let removal = signals.or_stopped(Removal::prepare(&aws, &args, printer)).await?;
    printer.result(&removal.apply(signals).await?)
}
