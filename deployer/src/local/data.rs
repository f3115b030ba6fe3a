//! The directory of the clusters' records.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use cbbootstrap_function::store::{self, sqlite::Sqlite};

use crate::failure::Failure;

/// The SQLite file in the directory. SQLite keeps its log and the log's index beside it.
const FILE: &str = "clusters.db";
const LOG: &str = "clusters.db-wal";
const INDEX: &str = "clusters.db-shm";

/// Locked while a server uses the directory. It is never deleted, because two servers could then lock two files.
const LOCK: &str = "clusters.lock";

/// A database that this process serves.
#[derive(Debug)]
pub struct Data {
    pub store: Sqlite,
    _lock: File,
}

impl Data {
    /// Opens the database in a directory for a server. Creates both if missing, readable by this user only.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let created = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        created.map_err(|error| unusable(directory, &error))?;
        let lock = private(&directory.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => (),
            Err(TryLockError::Error(error)) => return Err(unusable(directory, &error).into()),
            Err(TryLockError::WouldBlock) => {
                let message =
                    format!("another server uses the directory `{}`", directory.display());
                return Err(Failure::new(message)
                    .hint("stop it, or choose another directory with `--data`")
                    .into());
            }
        }
        check_log(directory)?;
        // SQLite gives new files beside it the same permissions.
        private(&directory.join(FILE))?;
        for beside in [LOG, INDEX] {
            let path = directory.join(beside);
            if path.exists() {
                private(&path)?;
            }
        }
        let store = opened(directory, Sqlite::create)?;
        Ok(Self { store, _lock: lock })
    }
}

/// Refuses a log without its database: SQLite would delete the log, and the changes that only it contains.
fn check_log(directory: &Path) -> Result<(), Failure> {
    let length = |name: &str| fs::metadata(directory.join(name)).map_or(0, |file| file.len());
    if length(FILE) > 0 || length(LOG) == 0 {
        return Ok(());
    }
    let directory = directory.display();
    Err(Failure::new(format!("`{directory}` contains `{LOG}`, but not its database `{FILE}`"))
        .hint("move the database back, or move its log away as well"))
}

/// Opens the database in a directory for an operator's command, whether a server uses it or not; `None` if there is none.
pub fn open(directory: &Path) -> anyhow::Result<Option<Sqlite>> {
    check_log(directory)?;
    match directory.join(FILE).try_exists() {
        Ok(true) => opened(directory, Sqlite::open).map(Some),
        Ok(false) => Ok(None),
        Err(error) => Err(unusable(directory, &error).into()),
    }
}

/// The directory of this name, or the default one.
pub fn directory(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let directory =
        named.map(Path::to_owned).or_else(|| Some(dirs::data_dir()?.join("cbbootstrap")));
    directory.ok_or_else(|| {
        Failure::new("cannot determine your data directory")
            .hint("pass one with `--data DIR`")
            .into()
    })
}

fn opened(
    directory: &Path,
    open: fn(&Path) -> Result<Sqlite, store::Error>,
) -> anyhow::Result<Sqlite> {
    let path = directory.join(FILE);
    open(&path).map_err(|error| {
        let hint = match &error {
            store::Error::Failed(_) => "stop the server, and move the files away to start without clusters; `--data` names another directory",
            _ => "check that you can write the file, and that no other program locks it and the disk is not full",
        };
        let path = path.display();
        Failure::new(format!("cannot read the clusters in `{path}`: {error}")).hint(hint).into()
    })
}

/// A file that only this user may read, also if it existed with other permissions.
fn private(path: &Path) -> Result<File, Failure> {
    let open = || {
        // A device's permissions are other programs', too, and a pipe would block.
        if fs::metadata(path).is_ok_and(|file| !file.is_file()) {
            return Err(io::Error::other("it is not a regular file"));
        }
        let file = File::options().create(true).append(true).mode(0o600).open(path)?;
        if file.metadata()?.mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(file)
    };
    open().map_err(|error| unusable(path, &error))
}

/// Does not advise another directory first: the database in it would be empty, and second clusters would begin.
fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot use the clusters in `{}`: {error}", path.display())).hint(
        "the server's user must own the directory and its files; `--data` names another directory",
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn error_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::create_dir(&path).unwrap();
        let error = Data::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("`{}`", path.display())), "{error}");
    }

    #[test]
    fn only_regular_files_are_used() {
        for name in [LOCK, FILE, LOG, INDEX] {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join(name);
            let _listener = UnixListener::bind(&socket).unwrap();
            let permissions = || fs::metadata(&socket).unwrap().mode();
            let before = permissions();
            let error = Data::open(directory.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("/{name}`: it is not a regular file")), "{error}");
            assert_eq!(permissions(), before, "{name}");
        }
    }

    #[test]
    fn hints_are_about_the_error() {
        let hint = |open| {
            let error = opened(Path::new("/nowhere"), open).unwrap_err();
            Failure::find_in(&error).unwrap().hint.clone().unwrap()
        };
        let full = hint(|_| Err(store::Error::Unavailable("database or disk is full".into())));
        assert!(full.contains("the disk is not full"), "{full}");
        let damaged = hint(|_| Err(store::Error::Failed("file is not a database".into())));
        assert!(damaged.contains("move the files away"), "{damaged}");

        // An operator's command only reads.
        let error = open(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(error.starts_with("cannot use the clusters in `/dev/null`"), "{error}");
    }
}
