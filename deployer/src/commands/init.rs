//! `init`: writes a `cbbootstrap.yaml` to fill in.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::Path,
};

use cbbootstrap_cli::text::shell_word;

use crate::{
    cli::InitArgs,
    config::{FILE, SAMPLE},
    failure::Failure,
    printer::Printer,
};

/// Writes the file. One that is there stays as it is.
pub fn run(args: &InitArgs, printer: &Printer) -> anyhow::Result<()> {
    let path = args.config.as_path();
    write_new(path)?;
    let option = if path == Path::new(FILE) {
        String::new()
    } else {
        format!(" --config {}", shell_word(&path.display().to_string()))
    };
    printer.message(format_args!("wrote `{}`", path.display()));
    printer.message(format_args!(
        "Fill it in; then `cbbootstrap plan{option} --env dev` shows what a deployment would change"
    ));
    Ok(())
}

fn write_new(path: &Path) -> Result<(), Failure> {
    let written = File::create_new(path).and_then(|mut file| {
        // On a full disk, an incomplete file would be taken for the user's by the next attempt.
        file.write_all(SAMPLE.as_bytes()).inspect_err(|_| drop(fs::remove_file(path)))
    });
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::new(format!("`{}` already exists", path.display()))
            .hint("`--config FILE` writes to another file"),
        _ => Failure::new(format!("cannot write `{}`: {error}", path.display()))
            .hint("choose another file with `--config`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        write_new(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), SAMPLE);

        std::fs::write(&path, "mine").unwrap();
        let failure = write_new(&path).unwrap_err();
        assert!(failure.to_string().ends_with("already exists"), "{failure}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
