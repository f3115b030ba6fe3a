//! Finds cbbootstrap's sources.

use std::path::{Path, PathBuf};

use super::Program;
use crate::failure::Failure;

/// The given workspace, or the nearest one above the current directory or this program.
pub fn find(program: &'static Program, directory: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(directory) = directory {
        if is_workspace(directory) {
            return Ok(directory.to_owned());
        }
        let message = format!("`{}` does not hold cbbootstrap's sources", directory.display());
        return Err(Failure::new(message)
            .hint("`--source` must be the directory that contains `function/` and `Cargo.toml`")
            .into());
    }
    let starts = [std::env::current_dir(), std::env::current_exe()];
    let nearest = starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors())
        .find(|directory| is_workspace(directory));
    nearest.map(Path::to_owned).ok_or_else(|| {
        let message =
            format!("cannot find cbbootstrap's sources to build the {} from", program.name);
        let hint = "run the command inside a clone, pass one with `--source DIR`, or";
        Failure::new(message).hint(format!("{hint} {}", program.alternative)).into()
    })
}

fn is_workspace(directory: &Path) -> bool {
    std::fs::read_to_string(directory.join("function/Cargo.toml"))
        .is_ok_and(|manifest| manifest.contains("name = \"cbbootstrap-function\""))
        && directory.join("Cargo.toml").is_file()
}

#[cfg(test)]
mod tests {
    use super::{super::FUNCTION, *};

    #[test]
    fn sources_are_found_or_refused() {
        let above = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(find(&FUNCTION, Some(above)).unwrap(), above);

        let empty = tempfile::tempdir().unwrap();
        let error = find(&FUNCTION, Some(empty.path())).unwrap_err().to_string();
        assert!(error.contains("does not hold cbbootstrap's sources"), "{error}");
    }
}
