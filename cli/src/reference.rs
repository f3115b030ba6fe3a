//! The reference of a program in `docs/commands.md`, generated from its definition of the options.

use std::{env, fs, path::Path};

use clap::{Arg, ArgAction, Command};

use crate::exit::Program;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");

/// Checks that the page holds the current reference of a program; with `UPDATE_DOCS=1`, writes it there instead.
///
/// # Panics
///
/// If the page is out of date.
pub fn check(program: Program, definition: Command) {
    let name = definition.get_name().to_owned();
    let page = fs::read_to_string(PAGE).expect("the page is in the repository");
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
    let (before, rest) = page.split_once(&begin).expect("the page marks the program's part");
    let (current, after) = rest.split_once(&end).expect("the page marks the end of the part");
    let reference = reference(program, definition);
    if env::var_os("UPDATE_DOCS").is_some() {
        let updated = format!("{before}{begin}{reference}{end}{after}");
        fs::write(Path::new(PAGE), updated).expect("the page can be written");
    } else if current != reference {
        panic!("docs/commands.md is out of date: run `just docs`");
    }
}

/// The reference as Markdown: a section for each command, and the exit statuses.
fn reference(program: Program, definition: Command) -> String {
    // Completes usage lines.
    let mut definition = definition.disable_help_subcommand(true);
    definition.build();
    let mut page = String::from("\n");
    section(&mut definition, &mut page);
    page += "### Exit statuses\n\n| status | meaning |\n| --- | --- |\n";
    let statuses = program.exit_statuses().into_iter();
    page.extend(statuses.map(|(status, meaning)| format!("| {status} | {meaning} |\n")));
    page + "\n"
}

fn section(command: &mut Command, page: &mut String) {
    if !command.has_subcommands() {
        let name = command.get_bin_name().unwrap_or_default().to_owned();
        let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
        let usage = command.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ");
        let about = about.unwrap_or_default();
        page.extend([format!("### `{name}`\n\n{about}\n\n`{usage}`\n\n")]);
        let options = command.get_arguments().filter(|arg| !arg.is_positional());
        let rows: Vec<_> = command.get_positionals().chain(options).filter_map(row).collect();
        if !rows.is_empty() {
            *page += "| option | | default | variable |\n| --- | --- | --- | --- |\n";
            *page += &rows.concat();
            *page += "\n";
        }
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        if let Some(examples) = help.strip_prefix("Examples:\n") {
            let lines: Vec<_> = examples.lines().map(str::trim_start).collect();
            page.extend([format!("```sh\n{}\n```\n\n", lines.join("\n"))]);
        }
    }
    for command in command.get_subcommands_mut() {
        section(command, page);
    }
}

fn row(arg: &Arg) -> Option<String> {
    if arg.is_hide_set() || ["help", "version"].contains(&arg.get_id().as_str()) {
        return None;
    }
    // `--name <VALUE>`, `-n, --name`, `<VALUE>`
    let short = arg.get_short().map_or_else(String::new, |short| format!("-{short}, "));
    let option = format!("{short}{}", arg.to_string().trim_end_matches("..."));
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    // A default in words is a part of the help.
    let (help, in_words) = match help.split_once(" [default: ") {
        Some((help, default)) => (help.to_owned(), Some(default.trim_end_matches(']').to_owned())),
        None => (help, None),
    };
    let is_flag = !matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let values: Vec<_> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !is_flag && !["true", "false"].contains(&value.get_name()))
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    let values = if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) };
    let defaults = arg.get_default_values().iter().map(|default| default.to_string_lossy());
    let default = defaults.filter(|_| !is_flag).map(|default| format!("`{default}`")).next();
    let default = default.or(in_words).unwrap_or_default();
    let variable = arg.get_env().map(|name| name.to_string_lossy()).unwrap_or_default();
    let row = [format!("`{option}`"), help + &values, default, variable.into_owned()];
    let row = row.map(|cell| cell.replace('|', "\\|").replace('\n', " "));
    Some(format!("| {} |\n", row.join(" | ")))
}
