//! Options from the command line, the environment and a file, in this order of precedence.
//!
//! clap reads environment variables itself, but takes an empty one for a value, and does not name a variable in an error about
//! what it holds. So variables are turned into arguments here, by the rules of [`environment`](crate::environment). clap's own
//! definition of the options (`env = "NAME"`) says which, and `--help` shows them.

use std::{
    env,
    ffi::{OsStr, OsString},
};

use clap::{
    Arg, ArgAction, ArgMatches, Command, Error,
    builder::Resettable,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use crate::environment;

/// The value of a variable.
type Lookup = Box<dyn Fn(&OsStr) -> Option<OsString>>;

/// The arguments of a program, and the environment variables that stand in for options.
pub struct CommandLine {
    command: Command,
    /// The same without variables.
    bare: Command,
    arguments: Vec<OsString>,
    lookup: Lookup,
    added: Vec<OsString>,
}

/// What the arguments and variables say.
#[derive(Debug)]
pub struct Parsed {
    /// All options.
    pub matches: ArgMatches,
    /// The options that variables gave.
    pub variables: Variables,
    /// Those that were typed.
    typed: ArgMatches,
}

/// The variables that gave an option its value.
#[derive(Clone, Debug, Default)]
pub struct Variables(Vec<Variable>);

#[derive(Clone, Debug)]
struct Variable {
    name: String,
    long: String,
    value: OsString,
}

impl CommandLine {
    /// Of this process.
    pub fn new(command: Command) -> Self {
        Self::with(command, env::args_os(), |name| env::var_os(name))
    }

    /// With other arguments and variables.
    pub fn with<A: Into<OsString>>(
        command: Command,
        arguments: impl IntoIterator<Item = A>,
        lookup: impl Fn(&OsStr) -> Option<OsString> + 'static,
    ) -> Self {
        let lookup = move |name: &OsStr| environment::clean(lookup(name)?);
        Self {
            bare: without_variables(command.clone(), &lookup),
            command,
            arguments: arguments.into_iter().map(Into::into).collect(),
            lookup: Box::new(lookup),
            added: Vec::new(),
        }
    }

    /// The definition of the options.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Adds options, from a file say, to the command that is called. They must not be given already.
    pub fn add(&mut self, options: impl IntoIterator<Item = String>) {
        self.added.extend(options.into_iter().map(OsString::from));
    }

    /// Reads the arguments, and variables for the options that are not among them.
    ///
    /// # Errors
    ///
    /// clap's, `--help` and `--version` among them. An error about the value of a variable names the variable.
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
        let variables = self.variables(&called);
        if variables.0.is_empty() && self.added.is_empty() {
            return Ok(Parsed { matches: typed.clone(), variables, typed });
        }
        let (before, after) = self.arguments.split_at(called.position);
        let mut arguments = before.to_vec();
        arguments.extend(variables.0.iter().map(Variable::argument));
        arguments.extend_from_slice(&self.added);
        arguments.extend_from_slice(after);
        match self.matches(&arguments) {
            Ok(matches) => Ok(Parsed { matches, variables, typed }),
            Err(error) => Err(variables.name_in(error)),
        }
    }

    fn matches(&self, arguments: &[OsString]) -> Result<ArgMatches, Error> {
        self.bare.clone().try_get_matches_from(arguments)
    }

    /// The command that is called.
    fn called<'c>(&'c self, typed: &'c ArgMatches) -> Called<'c> {
        let mut called =
            Called { command: &self.command, typed, position: self.arguments.len().min(1) };
        while let Some((name, typed)) = called.typed.subcommand() {
            let Some(command) = called.command.find_subcommand(name) else {
                break;
            };
            let is_name = |word: &OsString| {
                word == name || command.get_all_aliases().any(|alias| word == alias)
            };
            // No command with commands below it has an option with a value, which could be of the same name.
            let rest = &self.arguments[called.position..];
            let position = rest.iter().position(is_name).map_or(0, |index| index + 1);
            called = Called { command, typed, position: called.position + position };
        }
        called
    }

    /// The variables for those options of a command that were not typed.
    fn variables(&self, called: &Called) -> Variables {
        let given = called.command.get_arguments().filter_map(|arg| {
            let name = arg.get_env()?;
            if is_typed(called.typed, arg.get_id().as_str()) {
                return None;
            }
            Some(Variable {
                value: (self.lookup)(name)?,
                name: name.to_string_lossy().into_owned(),
                long: arg.get_long()?.to_owned(),
            })
        });
        Variables(given.collect())
    }
}

/// The command that is called.
struct Called<'c> {
    command: &'c Command,
    typed: &'c ArgMatches,
    /// Where its options begin among the arguments.
    position: usize,
}

impl Parsed {
    /// Whether the option was typed: it comes neither from a variable nor from a file, and is not the default.
    pub fn is_typed(&self, id: &str) -> bool {
        let mut typed = &self.typed;
        while let Some((_, inner)) = typed.subcommand() {
            typed = inner;
        }
        is_typed(typed, id)
    }
}

fn is_typed(matches: &ArgMatches, id: &str) -> bool {
    matches.try_contains_id(id).is_ok()
        && matches.value_source(id) == Some(ValueSource::CommandLine)
}

impl Variables {
    /// The variable that a message is about: it names the option that the variable stands in for, or quotes its value.
    pub fn named_by(&self, message: &str) -> Option<&str> {
        let is_about = |variable: &&Variable| {
            let value = variable.value.to_string_lossy();
            message.contains(&format!("`--{}`", variable.long))
                || message.contains(&format!("`{value}`"))
        };
        self.0.iter().find(is_about).map(|found| found.name.as_str())
    }

    /// Names the variable in an error about its value.
    fn name_in(&self, mut error: Error) -> Error {
        let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
            return error;
        };
        // `--name <VALUE>`
        let end = option.find([' ', '[', '=']).unwrap_or(option.len());
        let is_it =
            |variable: &&Variable| option[..end].strip_prefix("--") == Some(variable.long.as_str());
        if let Some(variable) = self.0.iter().find(is_it) {
            // Flags have no value on the command line.
            let option = option.split("[=").next().unwrap_or_default();
            let named = format!("{option} [env: {}]", variable.name);
            error.insert(ContextKind::InvalidArg, ContextValue::String(named));
        }
        error
    }
}

impl Variable {
    fn argument(&self) -> OsString {
        let mut argument = OsString::from(format!("--{}=", self.long));
        argument.push(&self.value);
        argument
    }
}

/// The same command, with variables that clap does not read. Flags that a variable sets take a value.
fn without_variables(command: Command, lookup: &impl Fn(&OsStr) -> Option<OsString>) -> Command {
    command
        .mut_args(|arg| {
            let Some(name) = arg.get_env() else {
                return arg;
            };
            let is_flag = matches!(arg.get_action(), ArgAction::SetTrue);
            let arg = if is_flag && lookup(name).is_some() { with_value(arg) } else { arg };
            arg.env(Resettable::Reset)
        })
        .mut_subcommands(|command| without_variables(command, lookup))
}

fn with_value(flag: Arg) -> Arg {
    flag.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .default_value("false")
}

#[cfg(test)]
mod tests {
    use clap::{builder::BoolishValueParser, value_parser};

    use super::*;

    fn defined() -> Command {
        let run = Command::new("run")
            .arg(Arg::new("name").long("name").env("NAME"))
            .arg(
                Arg::new("count")
                    .long("count")
                    .env("COUNT")
                    .default_value("1")
                    .value_parser(value_parser!(u8)),
            )
            .arg(
                Arg::new("item")
                    .long("item")
                    .env("ITEMS")
                    .action(ArgAction::Append)
                    .value_delimiter(','),
            )
            .arg(
                Arg::new("force")
                    .long("force")
                    .env("FORCE")
                    .action(ArgAction::SetTrue)
                    .value_parser(BoolishValueParser::new()),
            )
            .arg(Arg::new("plain").long("plain"))
            .arg(Arg::new("rest").num_args(0..));
        let group = Command::new("group").subcommand(run.clone());
        Command::new("program").subcommands([run, group])
    }

    fn line(arguments: &[&str], variables: &'static [(&str, &str)]) -> CommandLine {
        let arguments = [&["program"], arguments].concat();
        CommandLine::with(defined(), arguments, move |name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.into())
        })
    }

    /// The options as one line.
    fn shown(line: &CommandLine) -> String {
        let parsed = line.parse().unwrap_or_else(|error| panic!("{error}"));
        let mut matches = &parsed.matches;
        while let Some((_, inner)) = matches.subcommand() {
            matches = inner;
        }
        let many = |id| -> Vec<&String> { matches.get_many(id).into_iter().flatten().collect() };
        format!(
            "{:?} {:?} {:?} {:?} {:?}",
            matches.get_one::<String>("name"),
            matches.get_one::<u8>("count").unwrap(),
            many("item"),
            matches.get_flag("force"),
            many("rest"),
        )
    }

    #[test]
    fn variables_stand_in_for_options_that_are_not_typed() {
        let default = "None 1 [] false []";
        for (arguments, variables, options) in [
            (&["run"][..], &[][..], default),
            (
                &["run"],
                &[("NAME", ""), ("COUNT", " \r\n"), ("ITEMS", "\t"), ("FORCE", "\u{feff}")],
                default,
            ),
            (&["run"], &[("NAME", "a b"), ("COUNT", "2")], "Some(\"a b\") 2 [] false []"),
            (
                &["run"],
                &[
                    ("NAME", "\u{feff}a"),
                    ("COUNT", "2\r\n"),
                    ("ITEMS", " a,b\n"),
                    ("FORCE", "yes\r"),
                ],
                "Some(\"a\") 2 [\"a\", \"b\"] true []",
            ),
            (&["run"], &[("NAME", "--count")], "Some(\"--count\") 1 [] false []"),
            (&["run"], &[("FORCE", "off")], default),
            (&["run", "--force"], &[("FORCE", "off")], "None 1 [] true []"),
            (
                &["run", "--name", "b", "--item=c", "--count=3"],
                &[("NAME", "a"), ("ITEMS", "a,b"), ("COUNT", "none")],
                "Some(\"b\") 3 [\"c\"] false []",
            ),
            (
                &["run", "--", "run", "--name=x"],
                &[("NAME", "a")],
                "Some(\"a\") 1 [] false [\"run\", \"--name=x\"]",
            ),
            (
                &["group", "run", "--count", "2", "run"],
                &[("NAME", "a")],
                "Some(\"a\") 2 [] false [\"run\"]",
            ),
        ] {
            let line = line(arguments, variables);
            assert_eq!(shown(&line), options, "{arguments:?} {variables:?}");
        }
    }

    #[test]
    fn options_can_be_added_to_the_command() {
        let mut line = line(&["group", "run", "--", "x"], &[("NAME", "a")]);
        line.add(["--count=2".to_owned(), "--item=b".to_owned(), "--force".to_owned()]);
        assert_eq!(shown(&line), "Some(\"a\") 2 [\"b\"] true [\"x\"]");
    }

    #[test]
    fn errors_name_the_variable_that_holds_the_value() {
        for (arguments, variables, part) in [
            (&["run"][..], &[("COUNT", "many")][..], "'--count <count> [env: COUNT]'"),
            (&["run"], &[("FORCE", "perhaps")], "'--force [env: FORCE]'"),
            (&["run", "--count=many"], &[("COUNT", "2")], "'--count <count>'"),
            (&["run", "--count=many"], &[("NAME", "a")], "'--count <count>'"),
            (&["run", "--force=yes"], &[("NAME", "a")], "'--force'"),
        ] {
            let error = line(arguments, variables).parse().unwrap_err();
            let text = error.to_string();
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn typed_options_are_told_from_those_of_variables() {
        let line = line(&["run", "--count=2"], &[("NAME", "a"), ("COUNT", "3")]);
        let parsed = line.parse().unwrap();
        assert!(
            parsed.is_typed("count") && !parsed.is_typed("name") && !parsed.is_typed("nothing")
        );
        let variables = parsed.variables;
        for (message, variable) in [
            ("`--name` must be a URL", Some("NAME")),
            ("there is no environment `a`", Some("NAME")),
            ("`--count` is too small", None),
            ("`2` is too small", None),
            ("there is no environment a", None),
        ] {
            assert_eq!(variables.named_by(message), variable, "{message}");
        }
    }

    #[test]
    fn help_shows_the_variables() {
        for arguments in [&["run", "--help"][..], &["group", "run", "-h"]] {
            let error = line(arguments, &[("NAME", "a"), ("FORCE", "")]).parse().unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::DisplayHelp);
            for name in ["NAME", "COUNT", "ITEMS", "FORCE"] {
                assert!(text.contains(&format!("[env: {name}=")), "{text}");
            }
            assert!(!text.contains("--force[=") && !text.contains("--force <"), "{text}");
        }
    }
}
