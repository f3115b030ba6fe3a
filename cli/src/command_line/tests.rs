use std::os::unix::ffi::OsStringExt;

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
        .arg(Arg::new("plain").long("plain").conflicts_with("name"))
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
fn variables_set_options_that_are_not_typed() {
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
            &[("NAME", "\u{feff}a"), ("COUNT", "2\r\n"), ("ITEMS", " a,b\n"), ("FORCE", "yes\r")],
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
fn files_set_what_neither_arguments_nor_variables_set() {
    let option = |id: &str, argument: &str, adds| Setting {
        id: id.to_owned(),
        source: "file: f.yaml".to_owned(),
        arguments: vec![argument.into()],
        adds,
    };
    let file = |adds| {
        vec![
            option("name", "--name=f", false),
            option("count", "--count=2", false),
            option("item", "--item=f", adds),
            option("force", "--force", false),
            option("unknown", "--unknown=f", false),
        ]
    };
    for (arguments, adds, options) in [
        (&["group", "run", "--", "x"][..], false, "Some(\"a\") 2 [\"f\"] true [\"x\"]"),
        (&["run", "--item=b", "--count=3"], false, "Some(\"a\") 3 [\"b\"] true []"),
        (&["run", "--item=b"], true, "Some(\"a\") 2 [\"f\", \"b\"] true []"),
        // The variable and the file do not set options that conflict with a typed one.
        (&["run", "--plain=p"], false, "None 2 [\"f\"] true []"),
    ] {
        let line = line(arguments, &[("NAME", "a")]).with_file(file(adds));
        assert_eq!(shown(&line), options, "{arguments:?}");
    }
    let wrong = vec![option("count", "--count=many", false)];
    let error = line(&["run"], &[]).with_file(wrong).parse().unwrap_err();
    assert!(error.to_string().contains("'--count <count> [file: f.yaml]'"), "{error}");
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
fn only_paths_need_not_be_utf8() {
    let path = Arg::new("file").long("file").env("FILE").value_parser(value_parser!(PathBuf));
    let command = defined().mut_subcommand("run", |run| run.arg(path));
    for (set, is_read) in
        [("FILE", true), ("NAME", false), ("COUNT", false), ("ITEMS", false), ("FORCE", false)]
    {
        let lookup = move |name: &OsStr| (name == set).then(|| OsString::from_vec(b"a\xff".into()));
        match CommandLine::with(command.clone(), ["program", "run"], lookup).parse() {
            Ok(_) => assert!(is_read, "{set}"),
            Err(error) => {
                let part = format!("error: the value of `{set}` is not UTF-8\n");
                assert!(!is_read && error.to_string().starts_with(&part), "{error}");
            }
        }
    }
}

#[test]
fn messages_about_a_variable_are_recognized() {
    let line = line(&["run", "--count=2"], &[("NAME", "a"), ("COUNT", "3")]);
    let parsed = line.parse().unwrap();
    assert!(parsed.takes("name") && !parsed.takes("plain_text"));
    assert_eq!(parsed.value::<u8>("count"), Some(&2));
    for (message, variable) in [
        ("`--name` must be a URL", Some("NAME")),
        ("there is no environment `a`", Some("NAME")),
        ("`--count` is too small", None),
        ("`2` is too small", None),
        ("there is no environment a", None),
    ] {
        assert_eq!(parsed.named_by(message), variable, "{message}");
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
