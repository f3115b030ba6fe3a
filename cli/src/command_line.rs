//! Options from the command line, the environment and a file, in this order of precedence.
//!
//! clap can read environment variables, but it treats an empty one as a value and does not name it in errors. So this module turns
//! variables and the options of a [file](crate::options_file) into arguments, which clap validates like all others. `env = "NAME"` in
//! the definition of an option names its variable.
//!
//! An option from a variable or a file is ignored if it conflicts with an option on the command line. The arguments are parsed first as
//! the user typed them, to find those options, and then with the others added, so that afterwards all are on the command line.

use std::{
    any::TypeId,
    env,
    ffi::{OsStr, OsString},
    io,
    path::PathBuf,
    process,
};

use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory, Error, FromArgMatches,
    builder::Resettable,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use crate::{
    console::Console,
    environment,
    exit::Exit,
    failure::{Failure, one_line},
    options_file::Setting,
};

type Lookup = Box<dyn Fn(&OsStr) -> Option<OsString>>;

/// The arguments of a program, and what else sets its options.
pub struct CommandLine {
    command: Command,
    arguments: Vec<OsString>,
    lookup: Lookup,
    file: Vec<Setting>,
}

/// The options of the command that is called.
#[derive(Debug)]
pub struct Parsed {
    pub matches: ArgMatches,
    /// What variables and the file set.
    settings: Vec<Setting>,
    /// The options of that command that do not conflict with one that the user typed. In release builds, clap's matches accept the name of
    /// any option.
    allowed: Vec<String>,
}

/// Reads the options of this process. Ends it with clap's message if they are wrong.
///
/// `options_file` reads the file, which the options so far choose.
pub fn read<P: CommandFactory + FromArgMatches>(
    options_file: impl FnOnce(&Command, &Parsed) -> anyhow::Result<Vec<Setting>>,
) -> anyhow::Result<(P, Parsed)> {
    try_read(options_file).map_err(|error| match error.downcast::<Error>() {
        Ok(wrong) => {
            if wrong.use_stderr() {
                Console::from_arguments().refusal(&wrong);
            }
            let exit = match wrong.print() {
                _ if wrong.use_stderr() => Exit::Usage,
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Failed,
                _ => Exit::Done,
            };
            process::exit(exit.status().into())
        }
        Err(error) => error,
    })
}

/// The same, with clap's message as an error.
pub fn try_read<P: CommandFactory + FromArgMatches>(
    options_file: impl FnOnce(&Command, &Parsed) -> anyhow::Result<Vec<Setting>>,
) -> anyhow::Result<(P, Parsed)> {
    let mut line = CommandLine::with(P::command(), env::args_os(), |name| env::var_os(name));
    let mut parsed = line.parse()?;
    line.file = options_file(&line.command, &parsed).map_err(|error| parsed.explain(error))?;
    if !line.file.is_empty() {
        parsed = line.parse()?;
    }
    let program =
        P::from_arg_matches(&parsed.matches).map_err(|error| error.format(&mut P::command()))?;
    Ok((program, parsed))
}

impl CommandLine {
    /// A command line of these arguments and variables.
    pub fn with<A: Into<OsString>>(
        command: Command,
        arguments: impl IntoIterator<Item = A>,
        lookup: impl Fn(&OsStr) -> Option<OsString> + 'static,
    ) -> Self {
        let lookup = move |name: &OsStr| environment::clean(lookup(name)?);
        Self {
            command,
            arguments: arguments.into_iter().map(Into::into).collect(),
            lookup: Box::new(lookup),
            file: Vec::new(),
        }
    }

    #[must_use]
    pub fn with_file(mut self, file: Vec<Setting>) -> Self {
        self.file = file;
        self
    }

    /// Reads the arguments, and variables and the file for the options that are not among them.
    ///
    /// # Errors
    ///
    /// clap's, including `--help` and `--version`. An error about the value of a variable or a file names it.
    pub fn parse(&self) -> Result<Parsed, Error> {
        let typed = self.matches(&self.arguments).map_err(|error| {
            // `--help` shows the variables.
            let is_help = !error.use_stderr()
                || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            let defined = || self.command.clone().try_get_matches_from(&self.arguments);
            match is_help.then(defined) {
                Some(Err(help)) => help,
                _ => error,
            }
        })?;
        let called = self.called(&typed);
        let allowed = called.allowed();
        let is_allowed = |id: &str| allowed.iter().any(|allowed| allowed == id);
        let mut settings = self.variables(&called, is_allowed)?;
        let is_used = |option: &&Setting| {
            let is_set = is_on_command_line(called.matches, &option.id)
                || settings.iter().any(|variable| variable.id == option.id);
            is_allowed(&option.id) && (option.adds || !is_set)
        };
        let of_file: Vec<_> = self.file.iter().filter(is_used).cloned().collect();
        settings.extend(of_file);
        let (before, after) = self.arguments.split_at(called.position);
        let set = settings.iter().flat_map(|setting| &setting.arguments);
        let arguments: Vec<_> = before.iter().chain(set).chain(after).cloned().collect();
        match self.matches(&arguments) {
            Ok(matches) => Ok(Parsed { matches, settings, allowed }),
            Err(error) => Err(name_source(error, &settings)),
        }
    }

    /// Parses these arguments alone.
    fn matches(&self, arguments: &[OsString]) -> Result<ArgMatches, Error> {
        without_variables(self.command.clone(), &self.lookup).try_get_matches_from(arguments)
    }

    /// The command that is called.
    fn called<'c>(&'c self, matches: &'c ArgMatches) -> Called<'c> {
        let mut called =
            Called { command: &self.command, matches, position: self.arguments.len().min(1) };
        while let Some((name, matches)) = called.matches.subcommand() {
            let Some(command) = called.command.find_subcommand(name) else {
                break;
            };
            let is_name = |word: &OsString| {
                word == name || command.get_all_aliases().any(|alias| word == alias)
            };
            // No command with commands below it has an option with a value, which could be of the same name.
            let rest = &self.arguments[called.position..];
            let position = rest.iter().position(is_name).map_or(0, |index| index + 1);
            called = Called { command, matches, position: called.position + position };
        }
        called
    }

    /// The variables for those options of a command that the user did not type.
    fn variables(
        &self,
        called: &Called,
        is_allowed: impl Fn(&str) -> bool,
    ) -> Result<Vec<Setting>, Error> {
        let given = called.command.get_arguments().filter_map(|arg| {
            let (name, id) = (arg.get_env()?, arg.get_id().as_str());
            if is_on_command_line(called.matches, id) || !is_allowed(id) {
                return None;
            }
            let mut argument = OsString::from(format!("--{}=", arg.get_long()?));
            argument.push((self.lookup)(name)?);
            // clap's error would not name the variable.
            let is_path = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
            if !is_path && argument.to_str().is_none() {
                let why = format!("the value of `{}` is not UTF-8", name.display());
                return Some(Err(self.command.clone().error(ErrorKind::InvalidUtf8, why)));
            }
            Some(Ok(Setting {
                id: id.to_owned(),
                source: format!("env: {}", name.to_string_lossy()),
                arguments: vec![argument],
                adds: false,
            }))
        });
        given.collect()
    }
}

/// Names the variable or the file in an error about its value.
fn name_source(mut error: Error, settings: &[Setting]) -> Error {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    // `--name <VALUE>`, or `--name[=<VALUE>]` for a flag, which has no value on the command line.
    let flag = option.split([' ', '[', '=']).next().unwrap_or_default();
    let sets = |argument: &OsString| argument.to_string_lossy().starts_with(&format!("{flag}="));
    let Some(setting) = settings.iter().find(|setting| setting.arguments.iter().any(sets)) else {
        return error;
    };
    let option = option.split("[=").next().unwrap_or_default();
    let named = format!("{option} [{}]", setting.source);
    error.insert(ContextKind::InvalidArg, ContextValue::String(named));
    error
}

/// The command that is called.
struct Called<'c> {
    command: &'c Command,
    /// Its options as the user typed them.
    matches: &'c ArgMatches,
    /// Where its options begin among the arguments.
    position: usize,
}

impl Called<'_> {
    /// The options that do not conflict with one that the user typed.
    fn allowed(&self) -> Vec<String> {
        let conflict = |one: &Arg, other: &Arg| {
            let conflicts = self.command.get_arg_conflicts_with(one);
            conflicts.iter().any(|arg| arg.get_id() == other.get_id())
        };
        let typed = |arg: &&Arg| is_on_command_line(self.matches, arg.get_id().as_str());
        let all = || self.command.get_arguments();
        let allowed = all().filter(|arg| {
            !all().filter(typed).any(|typed| conflict(typed, arg) || conflict(arg, typed))
        });
        allowed.map(|arg| arg.get_id().to_string()).collect()
    }
}

impl Parsed {
    /// The options of the command that is called, and its name.
    pub fn called(&self) -> (&str, &ArgMatches) {
        let mut called = ("", &self.matches);
        while let Some(inner) = called.1.subcommand() {
            called = inner;
        }
        called
    }

    /// The value of an option of the command that is called; `None` if there is no such option or no value.
    pub fn value<T: Clone + Send + Sync + 'static>(&self, id: &str) -> Option<&T> {
        self.called().1.try_get_one(id).ok().flatten()
    }

    /// Whether the command line, a variable or a file gives this option of the command that is called.
    pub fn is_set(&self, id: &str) -> bool {
        is_on_command_line(self.called().1, id)
    }

    /// Whether the command that is called has this option, and it does not conflict with one that the user typed.
    pub fn takes(&self, id: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed == id)
    }

    /// Names the variable in an error that is about its value.
    pub fn explain(&self, mut error: anyhow::Error) -> anyhow::Error {
        let is_usage = Failure::find_in(&error).is_some_and(|failure| failure.exit == Exit::Usage);
        if let Some(failure) = error.downcast_mut::<Failure>()
            && failure.problems.len() > 1
        {
            for (problem, _) in failure.problems.iter_mut().filter(|_| is_usage) {
                if let Some(variable) = self.named_by(problem) {
                    *problem = format!("`{variable}`: {problem}");
                }
            }
            let problems: Vec<_> = failure.problems.iter().map(|(it, _)| it.as_str()).collect();
            failure.message = problems.join("; ");
            return error;
        }
        match self.named_by(&one_line(&error)) {
            Some(variable) if is_usage => error.context(format!("`{variable}`")),
            _ => error,
        }
    }

    /// The variable that a message is about: it names the option that the variable sets, or quotes its value.
    fn named_by(&self, message: &str) -> Option<&str> {
        self.settings.iter().find_map(|setting| {
            let variable = setting.source.strip_prefix("env: ")?;
            let argument = setting.arguments.first()?.to_string_lossy();
            let (option, value) = argument.split_once('=')?;
            let quotes = |text: &str| message.contains(&format!("`{text}`"));
            (quotes(option) || quotes(value)).then_some(variable)
        })
    }
}

fn is_on_command_line(matches: &ArgMatches, id: &str) -> bool {
    matches.try_contains_id(id).is_ok()
        && matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// The same command, with variables that clap does not read. Flags that a variable sets take a value.
fn without_variables(command: Command, lookup: &impl Fn(&OsStr) -> Option<OsString>) -> Command {
    command
        .mut_args(|arg| {
            let Some(name) = arg.get_env() else {
                return arg;
            };
            let is_set_flag =
                matches!(arg.get_action(), ArgAction::SetTrue) && lookup(name).is_some();
            let arg = arg.env(Resettable::Reset);
            if !is_set_flag {
                return arg;
            }
            arg.action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .default_value("false")
        })
        .mut_subcommands(|command| without_variables(command, lookup))
}

#[cfg(test)]
mod tests;
