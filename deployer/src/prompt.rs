//! Questions to the user.

use std::io::IsTerminal;

use crate::{
    failure::{Exit, Failure},
    printer::Printer,
};

pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal()
}

/// Continues only with the user's consent, which `yes` gives in advance.
pub async fn confirm(question: &str, yes: bool, printer: &Printer) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !is_interactive() {
        let message = "confirmation needed, but stdin is not a terminal";
        let failure = Failure::usage(format!("{message}: {question}"));
        return Err(failure.hint("pass `--yes` to confirm").into());
    }
    if ask(question, printer).await? {
        return Ok(());
    }
    Err(Failure::new("aborted, nothing was deleted or updated")
        .hint("pass `--yes` to confirm in advance")
        .exit(Exit::Stopped)
        .into())
}

/// Asks a yes-or-no question on the terminal.
pub async fn ask(question: &str, printer: &Printer) -> anyhow::Result<bool> {
    printer.message(format_args!("{question} [y/N]"));
    let mut answer = String::new();
    // On its own thread, so that Ctrl-C ends the program while it waits.
    let answer = tokio::task::spawn_blocking(move || {
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    })
    .await??;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
