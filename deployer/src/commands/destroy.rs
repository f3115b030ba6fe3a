//! `destroy`: deletes the stack, and the table and the artifacts on request.

use crate::{
    aws::Aws,
    cli::DestroyArgs,
    deployment::{Removal, RemovalScope},
    printer::Printer,
    signals::Signals,
};

/// Deletes, after asking.
pub async fn run(
    args: DestroyArgs,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let settings = args.removal;
    let scope = RemovalScope {
        table: args.delete_table,
        backup: !args.no_backup,
        artifacts: args.delete_artifacts,
        yes: args.yes,
    };
    let prepare = async {
        let aws = Aws::connect(&settings.place.access).await?;
        let removal = Removal::prepare(&aws, &settings, scope, printer).await?;
        anyhow::Ok((aws, removal))
    };
    let (aws, removal) = signals.or_stopped(prepare).await?;
    printer.result(&removal.apply(&aws, printer, signals).await?)
}
