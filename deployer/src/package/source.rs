//! Finds cbbootstrap's sources.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The directory of the workspace: the one that was asked for, or the nearest above the current directory or above this
/// program.
pub fn find(asked: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(directory) = asked {
        if is_workspace(directory) {
            return Ok(directory.to_owned());
        }
        let message = format!("`{}` does not hold cbbootstrap's sources", directory.display());
        return Err(Failure::new(message)
            .hint("give `--source` the directory with `function/` and `Cargo.toml` in it")
            .into());
    }
    let starts = [std::env::current_dir(), std::env::current_exe()];
    let found = starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors())
        .find(|directory| is_workspace(directory));
    found.map(Path::to_owned).ok_or_else(|| {
        Failure::new("cannot find cbbootstrap's sources to build the function from")
            .hint("run it inside a clone, name one with `--source DIR`, or bring a zip with `--function-zip FILE`")
            .into()
    })
}

fn is_workspace(directory: &Path) -> bool {
    std::fs::read_to_string(directory.join("function/Cargo.toml"))
        .is_ok_and(|manifest| manifest.contains("name = \"cbbootstrap-function\""))
        && directory.join("Cargo.toml").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_found_or_missed_clearly() {
        let above = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(find(Some(above)).unwrap(), above);

        let empty = tempfile::tempdir().unwrap();
        let error = find(Some(empty.path())).unwrap_err().to_string();
        assert!(error.contains("does not hold cbbootstrap's sources"), "{error}");
    }
}
