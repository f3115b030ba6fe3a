//! Questions to the user.

use std::io::IsTerminal;

use cbbootstrap_cli::environment::variable;

use crate::{exit::Exit, failure::Failure, printer::Printer};

/// Whether someone can answer a question.
pub fn is_interactive() -> bool {
    obstacle().is_none()
}

/// Why nobody can see or answer a question. Some CI systems give their jobs a terminal, at which nobody sits.
fn obstacle() -> Option<&'static str> {
    if !std::io::stdin().is_terminal() {
        Some("stdin is not a terminal")
    } else if !std::io::stderr().is_terminal() {
        Some("stderr is not a terminal")
    } else if variable("CI").is_some_and(|ci| !ci.eq_ignore_ascii_case("false")) {
        Some("`CI` is set")
    } else {
        None
    }
}

/// Continues only with the user's consent, which `yes` gives in advance.
pub async fn confirm(question: &str, yes: bool, printer: &Printer) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if let Some(obstacle) = obstacle() {
        let message = format!("confirmation needed, but {obstacle}: {question}");
        return Err(Failure::usage(message).hint("pass `--yes` to confirm").into());
    }
    if ask(question, printer).await? {
        return Ok(());
    }
    Err(Failure::new("aborted: not confirmed").exit(Exit::Stopped).into())
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
