//! `destroy`: deletes the stack, and the table and the artifacts on request.

use crate::{
    aws::Aws, cli::DestroyArgs, deployment::Removal, origin::introduce, printer::Printer,
    signals::Signals,
};

pub async fn run(
    args: DestroyArgs,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let aws = signals.or_stopped(Aws::connect(&args.place.access)).await?;
    let prepare = Removal::prepare(&aws, &args, printer);
    let prepare = introduce(&aws, &args.place, printer, prepare);
    let removal = signals.or_stopped(prepare).await?;
    printer.result(&removal.apply(signals).await?)
}
