//! Shell completion. The script that a shell loads calls the program with the words typed so far, and the program prints candidates.

use std::{env, ffi::OsString, io, process, sync::mpsc::sync_channel, thread, time::Duration};

use clap::{ArgMatches, Command};
use clap_complete::{CompleteEnv, Shell, env::Shells};

/// The variable with which the script calls the program.
const VARIABLE: &str = "CBBOOTSTRAP_COMPLETE";

/// The time limit for reading candidates.
const LIMIT: Duration = Duration::from_secs(1);

pub fn script(program: &Command, shell: Shell) -> io::Result<String> {
    let (name, mut script) = (program.get_name(), Vec::new());
    let shells = Shells::builtins();
    let shell = shells.completer(&shell.to_string()).ok_or(io::ErrorKind::Unsupported)?;
    shell.write_registration(VARIABLE, name, name, name, &mut script)?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// Prints candidates and ends the process, if a shell asks for them. Errors are not printed: they would be between the typed words.
pub fn answer_shell(program: impl Fn() -> Command) {
    let directory = env::current_dir().ok();
    let completion = CompleteEnv::with_factory(program).var(VARIABLE);
    match completion.try_complete(joined(env::args_os()), directory.as_deref()) {
        Ok(false) => (),
        answer => process::exit(i32::from(answer.is_err())),
    }
}

/// Bash splits `--name=value` into three words. Their number must stay the same, so the option replaces the `=`.
fn joined(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.collect();
    for index in 1..words.len() {
        let before = words[index - 1].clone();
        if words[index] == "=" && before.to_str().is_some_and(|word| word.starts_with("--")) {
            words[index] = before;
        }
    }
    words
}

/// The words typed so far as options of the command that is called, as far as they are valid.
pub fn typed(program: Command) -> Option<ArgMatches> {
    let words = env::args_os().skip_while(|word| word != "--").skip(1);
    let words = words.filter(|word| word != "=");
    let mut matches = program.ignore_errors(true).try_get_matches_from(words).ok()?;
    while let Some((_, called)) = matches.remove_subcommand() {
        matches = called;
    }
    Some(matches)
}

/// The candidates, or none if reading them takes too long: a file may be on a server that does not answer.
pub fn within_limit<T: Send + 'static>(
    read: impl FnOnce() -> Option<Vec<T>> + Send + 'static,
) -> Vec<T> {
    let (sender, candidates) = sync_channel(1);
    thread::spawn(move || sender.send(read()));
    candidates.recv_timeout(LIMIT).ok().flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_and_its_value_are_joined() {
        for (words, expected) in [
            (&["a", "--env", "=", "d"][..], &["a", "--env", "--env", "d"][..]),
            (&["a", "--env", "d"], &["a", "--env", "d"]),
            (&["a", "=", "b"], &["a", "=", "b"]),
            (&["a", "x", "=", "b"], &["a", "x", "=", "b"]),
        ] {
            assert_eq!(joined(words.iter().map(OsString::from)), expected);
        }
    }

    #[test]
    fn slow_candidates_are_dropped() {
        assert_eq!(within_limit(|| Some(vec![1])), [1]);
        let slow = || {
            thread::sleep(LIMIT * 5);
            Some(vec![1])
        };
        assert_eq!(within_limit(slow), Vec::<i32>::new());
    }
}
