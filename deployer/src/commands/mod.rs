//! The commands, one file each.

mod cluster;
mod deploy;
mod destroy;
mod doctor;
mod iam_policy;
mod init;
pub mod launch;
mod list;
mod local;
mod logs;
mod open;
mod package;
mod ping;
mod plan;
mod serve;
mod smoke;
mod status;
mod template;

use clap::CommandFactory;

use crate::{
    cli::{Cli, Command},
    examples::FILES,
    exit::Exit,
    printer::Printer,
    prompt::confirm,
    signals::{Signals, Watchdog},
};

/// Runs the command to its end, or to a signal.
pub async fn run(
    command: Command,
    printer: &Printer,
    (mut signals, watchdog): (Signals, Watchdog),
) -> anyhow::Result<Exit> {
    tokio::select! {
        ended = run_until_signal(command, printer, &mut signals) => ended,
        never = watchdog.answer() => match never {},
    }
}

async fn run_until_signal(
    command: Command,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<Exit> {
    match command {
        Command::Deploy(args) if args.local.local => {
            return local::run(*args, printer, signals).await;
        }
        Command::Serve(args) => serve::run(*args, printer, signals).await?,
        Command::Deploy(args) => deploy::run(*args, printer, signals).await?,
        Command::Launch(args) => launch::run(*args, printer, signals).await?,
        Command::Plan(args) => return plan::run(*args, printer, signals).await,
        Command::Status(args) => signals.or_stopped(status::run(args, printer)).await?,
        Command::Ping(args) => signals.or_stopped(ping::run(args)).await?,
        Command::Smoke(args) => signals.or_stopped(smoke::run(args, printer)).await?,
        Command::Cluster(command) => cluster::run(command, printer, signals).await?,
        Command::Package(args) => signals.or_stopped(package::run(args, printer)).await?,
        Command::Destroy(args) => destroy::run(args, printer, signals).await?,
        Command::List(args) => signals.or_stopped(list::run(args, printer)).await?,
        Command::Doctor(args) => signals.or_stopped(doctor::run(*args, printer)).await?,
        Command::Open(args) => signals.or_stopped(open::run(args, printer)).await?,
        Command::Template(args) => template::run(&args, printer)?,
        Command::Logs(args) => logs::run(args, printer, signals).await?,
        Command::Init(args) => init::run(&args, printer)?,
        Command::IamPolicy(args) => signals.or_stopped(iam_policy::run(args, printer)).await?,
        Command::Manual(command) => command.run(Cli::command(), &FILES, printer)?,
    }
    Ok(Exit::Done)
}

/// A shell command that makes a node's first call, signed for a region if `signed_in` names one.
fn curl(endpoint: &str, signed_in: Option<&str>) -> String {
    // curl does not send a header without a value: not all credentials have a token.
    let signed = signed_in.map_or_else(String::new, |region| {
        format!(
            " --aws-sigv4 aws:amz:{region}:execute-api --user \"$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY\" \
             -H \"X-Amz-Security-Token: $AWS_SESSION_TOKEN\""
        )
    });
    format!(
        "curl -X POST{signed} -d '{{\"cluster_id\": \"mycluster\", \"node_ip_addr_or_hostname\": \"mynode_ip\"}}' {endpoint}/cluster"
    )
}
