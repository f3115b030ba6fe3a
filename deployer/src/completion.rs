//! The candidates of shell completion that files on this machine contain: environments, profiles, parameters and clusters.
//!
//! Nothing here calls AWS: a source of credentials may ask a question, and a table may be slow.

use std::{collections::BTreeMap, ffi::OsStr, path::PathBuf};

use cbbootstrap_cli::completion::{typed, within_limit};
use cbbootstrap_function::store::Store;
use clap::{ArgMatches, Command, CommandFactory, builder::ValueHint};
use clap_complete::{ArgValueCompleter, CompletionCandidate as Candidate};
use tokio::runtime::Runtime;

use crate::{
    aws::Profiles,
    cli::Cli,
    commands::launch,
    config,
    local::data,
    settings,
    template::{self, CLUSTER_TEMPLATE, Declaration},
};

/// Where the values of an option come from.
type Source = fn(&ArgMatches, &str) -> Option<Vec<Candidate>>;

/// By the ids of options.
const SOURCES: [(&str, Source); 6] = [
    ("environment", environments),
    ("profile", profiles),
    ("parameters", stack_parameters),
    ("cluster_parameter", cluster_parameters),
    ("cluster_id", clusters),
    ("after", clusters),
];

/// The program, whose options know their candidates.
pub fn program() -> Command {
    with_candidates(Cli::command())
}

fn with_candidates(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let source = SOURCES.iter().find(|(id, _)| arg.get_id() == id);
        match source {
            Some((_, source)) => {
                arg.add(ArgValueCompleter::new(|word: &OsStr| complete(*source, word)))
            }
            None if arg
                .get_value_names()
                .is_some_and(|names| names.iter().any(|name| name == "DIR")) =>
            {
                arg.value_hint(ValueHint::DirPath)
            }
            None => arg,
        }
    });
    command.mut_subcommands(with_candidates)
}

/// The candidates that begin with the word, without those that a shell would interpret: strangers may choose the ids of clusters.
fn complete(source: Source, word: &OsStr) -> Vec<Candidate> {
    let Some(word) = word.to_str().map(str::to_owned) else {
        return Vec::new();
    };
    let start = word.clone();
    let mut candidates =
        within_limit(move || typed(Cli::command()).and_then(|typed| source(&typed, &start)));
    candidates.retain(|candidate| {
        let text = candidate.get_value().to_str();
        text.is_some_and(|text| text.starts_with(&word) && is_plain(text))
    });
    candidates
}

fn is_plain(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@+,".contains(c);
    !text.starts_with('-') && text.chars().all(is_plain)
}

fn path(typed: &ArgMatches, id: &str) -> Option<PathBuf> {
    typed.try_get_one::<PathBuf>(id).ok().flatten().cloned()
}

fn environments(typed: &ArgMatches, _: &str) -> Option<Vec<Candidate>> {
    let names = config::environment_names(path(typed, "config").as_deref())?;
    Some(names.into_iter().map(Candidate::new).collect())
}

fn profiles(_: &ArgMatches, _: &str) -> Option<Vec<Candidate>> {
    let profiles = Runtime::new().ok()?.block_on(Profiles::read(None)).ok()?;
    Some(profiles.names().into_iter().map(Candidate::new).collect())
}

fn stack_parameters(_: &ArgMatches, word: &str) -> Option<Vec<Candidate>> {
    Some(parameters(settings::free_parameters().ok()?, word))
}

fn cluster_parameters(_: &ArgMatches, word: &str) -> Option<Vec<Candidate>> {
    let has_option = &launch::HAS_OPTION;
    Some(parameters(template::free_declarations(CLUSTER_TEMPLATE, has_option).ok()?, word))
}

/// `NAME=`, and after that the values, if there are only some.
fn parameters(declarations: BTreeMap<String, Declaration>, word: &str) -> Vec<Candidate> {
    let has_value = word.contains('=');
    let candidates = declarations.into_iter().flat_map(|(name, declaration)| {
        let candidate = |value: &str| {
            let help = declaration.description.clone().map(Into::into);
            Candidate::new(format!("{name}={value}")).help(help)
        };
        if has_value {
            declaration.allowed_values.iter().map(|value| candidate(value)).collect()
        } else {
            vec![candidate("")]
        }
    });
    candidates.collect()
}

/// The clusters of the database on this machine, with `--local`.
fn clusters(typed: &ArgMatches, word: &str) -> Option<Vec<Candidate>> {
    typed.try_get_one::<bool>("local").ok().flatten().filter(|is_local| **is_local)?;
    let directory = data::directory(path(typed, "data").as_deref()).ok()?;
    let store = data::open(&directory).ok()??;
    // The listing begins after an id.
    let runtime = Runtime::new().ok()?;
    let exact = runtime.block_on(Store::find(&store, word)).ok()?;
    let page = runtime.block_on(store.list(Some(word))).ok()?;
    let rows = exact.into_iter().chain(page.rows).filter(|row| !row.is_smoke_test());
    Some(rows.map(|row| Candidate::new(row.cluster_id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_that_a_shell_would_interpret_are_left_out() {
        for (text, expected) in [
            ("mycluster", true),
            ("arn:aws:ec2:us-east-1:1:vpc/vpc-1", true),
            ("LogLevel=info", true),
            ("-dash", false),
            ("two words", false),
            ("$(reboot)", false),
            ("`reboot`", false),
            ("a;b", false),
            ("a\nb", false),
            ("it's", false),
        ] {
            assert_eq!(is_plain(text), expected, "{text}");
        }
    }

    #[test]
    fn every_source_belongs_to_an_option() {
        fn ids(command: &Command) -> Vec<String> {
            let below = command.get_subcommands().flat_map(ids);
            command.get_arguments().map(|arg| arg.get_id().to_string()).chain(below).collect()
        }
        let known = ids(&Cli::command());
        for (id, _) in SOURCES {
            assert!(known.iter().any(|known| known == id), "{id}");
        }
    }
}
