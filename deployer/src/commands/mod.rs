//! One file a command.

mod deploy;
mod destroy;
mod local;
mod package;
mod plan;
mod smoke;
mod status;
mod wanted;

use std::{io::IsTerminal, pin::pin};

use clap::CommandFactory;
use tokio::signal;

use crate::{
    cli::{Cli, Command},
    failure::{Exit, Failure},
    printer::Printer,
};

/// Runs the command to its end, or to Ctrl-C or SIGTERM.
pub async fn run(command: Command, printer: &Printer) -> anyhow::Result<Exit> {
    let mut stop = pin!(stop_signal());
    match command {
        Command::Deploy(args) if args.local.local => {
            let deployment = or_stopped(local::start(*args, printer), &mut stop).await?;
            return deployment.serve(&mut stop, printer).await;
        }
        Command::Deploy(args) => or_stopped(deploy::run(*args, printer), &mut stop).await?,
        Command::Plan(args) => or_stopped(plan::run(args, printer), &mut stop).await?,
        Command::Status(args) => or_stopped(status::run(args, printer), &mut stop).await?,
        Command::Smoke(args) => or_stopped(smoke::run(args, printer), &mut stop).await?,
        Command::Package(args) => or_stopped(package::run(args, printer), &mut stop).await?,
        Command::Destroy(args) => or_stopped(destroy::run(args, printer), &mut stop).await?,
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                env!("CARGO_PKG_NAME"),
                &mut std::io::stdout(),
            );
        }
    }
    Ok(Exit::Done)
}

/// What the work gives, unless a signal comes first.
async fn or_stopped<T>(
    work: impl Future<Output = anyhow::Result<T>>,
    stop: impl Future<Output = &'static str>,
) -> anyhow::Result<T> {
    tokio::select! {
        result = work => result,
        signal = stop => {
            let failure = Failure::new(format!("stopped by {signal}"));
            Err(failure.hint("run the same command again to go on").exit(Exit::Stopped).into())
        }
    }
}

/// Waits for Ctrl-C or SIGTERM, and says which it was.
async fn stop_signal() -> &'static str {
    #[cfg(unix)]
    let terminated = async {
        match signal::unix::signal(signal::unix::SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        Ok(()) = signal::ctrl_c() => "Ctrl-C",
        _ = terminated => "SIGTERM",
    }
}

/// Asks for a yes. Where nobody can be asked, that is a failure that names `--yes`.
async fn confirm(question: &str, yes: bool, printer: &Printer) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(
            Failure::new(format!("there is no terminal to ask on: {question}"))
                .hint("`--yes` says yes to it")
                .exit(Exit::Usage)
                .into(),
        );
    }
    printer.message(format_args!("{question} [y/N]"));
    let mut answer = String::new();
    // On a thread of its own: an answer that never comes must not keep Ctrl-C from ending the program.
    let answer = tokio::task::spawn_blocking(move || {
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    })
    .await??;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(
            Failure::new("you did not say yes, and nothing was deleted or updated")
                .exit(Exit::Stopped)
                .into(),
        ),
    }
}

/// A line of shell that makes a node's first call.
fn curl(endpoint: &str) -> String {
    format!(
        "curl -X POST -d '{{\"cluster_id\": \"mycluster\", \"node_ip_addr_or_hostname\": \"mynode_ip\"}}' {endpoint}/cluster"
    )
}
