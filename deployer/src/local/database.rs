//! The embedded `DynamoDB`: dynoxide over one `SQLite` file.
//!
//! `SQLite` keeps a write-ahead log and syncs it to the disk on every commit (`synchronous=FULL`, its default, which
//! dynoxide leaves alone). So a claim that was acknowledged survives the end of this program, however it ends, and that
//! of the machine.

use std::{
    fmt::Display,
    fs::{DirBuilder, File, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::Context;
use dynoxide::server::serve_with_shutdown;
use tokio::{net::TcpListener, sync::oneshot, time::timeout};

use crate::failure::Failure;

/// The `SQLite` file in the deployment's directory. `SQLite` keeps its log beside it.
const FILE: &str = "cbbootstrap.db";

/// Locked while a deployment uses the directory. It is never deleted: that would let two deployments lock two files.
const LOCK: &str = "cbbootstrap.lock";

/// How long requests that already run may hold up the end.
const GRACE: Duration = Duration::from_secs(2);

/// A running database.
#[derive(Debug)]
pub struct Database {
    url: String,
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
    /// Until the end: the lock goes when it is closed.
    _lock: File,
}

impl Database {
    /// Opens the database in a directory, both made if missing, and serves it on a free port of the loopback address.
    ///
    /// Fails where another deployment uses the directory, or where it cannot be used.
    pub async fn open(dir: &Path) -> anyhow::Result<Self> {
        let dir = std::path::absolute(dir)
            .with_context(|| format!("cannot use the directory {}", quoted(dir)))?;
        let (lock, database) =
            tokio::task::spawn_blocking(move || anyhow::Ok((lock(&dir)?, open_file(&dir)?)))
                .await??;

        let address = "127.0.0.1:0";
        let listener = std::net::TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .with_context(|| format!("cannot listen on {address} for the database"))?;
        let url = format!("http://{}", listener.local_addr()?);

        // dynoxide does its work on the thread that serves, disk and all. A thread of its own, with a runtime of its
        // own, keeps a slow disk from holding up everything else; and when that runtime is gone, the file is closed.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the database")?;
        let (stop, stop_requested) = oneshot::channel();
        let (ended, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else {
                    return;
                };
                let (stopping, grace) = oneshot::channel();
                let shutdown = async {
                    // Dropped is as good as sent.
                    let _ = stop_requested.await;
                    let _ = stopping.send(());
                };
                let give_up = async {
                    let _ = grace.await;
                    tokio::time::sleep(GRACE).await;
                };
                tokio::select! {
                    _ = serve_with_shutdown(listener, database, shutdown) => {}
                    () = give_up => {}
                }
            });
            drop(runtime);
            let _ = ended.send(());
        };
        thread::Builder::new()
            .name("database".to_owned())
            .spawn(serve)
            .context("cannot start the database")?;
        Ok(Self {
            url,
            stop,
            stopped,
            _lock: lock,
        })
    }

    /// The URL that an AWS SDK takes for `DynamoDB`'s.
    pub fn endpoint_url(&self) -> &str {
        &self.url
    }

    /// Ends it: requests that run are finished, the file is closed, the directory is free.
    pub async fn shutdown(self) {
        let _ = self.stop.send(());
        let _ = timeout(2 * GRACE, self.stopped).await;
    }
}

fn quoted(path: &Path) -> String {
    format!("`{}`", path.display())
}

fn lock(dir: &Path) -> anyhow::Result<File> {
    let unusable = |error: std::io::Error| {
        Failure::new(format!(
            "cannot keep the table in the directory {}: {error}",
            quoted(dir)
        ))
        .hint("choose another with `--data`")
    };
    // What the table says about a cluster is nobody else's business.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(unusable)?;
    let file = File::options()
        .create(true)
        .append(true)
        .open(dir.join(LOCK))
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(error)) => Err(unusable(error).into()),
        Err(TryLockError::WouldBlock) => Err(Failure::new(format!(
            "another local deployment is using the directory {}",
            quoted(dir)
        ))
        .hint("end it, or choose another directory with `--data`")
        .into()),
    }
}

fn open_file(dir: &Path) -> anyhow::Result<dynoxide::Database> {
    let path = &dir.join(FILE);
    let name = path.to_str().with_context(|| {
        format!(
            "cannot keep the table in {}: its name is not UTF-8",
            quoted(path)
        )
    })?;
    let unreadable = |error: &dyn Display| {
        Failure::new(format!("cannot read the table from {}: {error}", quoted(path)))
            .hint("move the file away to start with an empty table, or choose another directory with `--data`")
    };
    // SQLite gives the files beside it the same permissions.
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| unreadable(&error))?;
    let opened = dynoxide::Database::new(name).and_then(|database| {
        // Reads every table's description and items, so that a damaged file is found out now.
        database.database_info()?;
        Ok(database)
    });
    Ok(opened.map_err(|error| unreadable(&error))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn failure(error: &anyhow::Error) -> (String, String) {
        let failure = error.downcast_ref::<Failure>().unwrap();
        (failure.to_string(), failure.hint.clone().unwrap())
    }

    #[tokio::test]
    async fn the_directory_is_made_and_belongs_to_one_deployment() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("new/data");
        let first = Database::open(&dir).await.unwrap();
        assert_eq!(
            fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(
            fs::metadata(dir.join(FILE)).unwrap().permissions().mode() & 0o777,
            0o600
        );

        let (message, hint) = failure(&Database::open(&dir).await.unwrap_err());
        assert!(message.contains(dir.to_str().unwrap()), "{message}");
        assert!(
            message.contains("another local deployment is using"),
            "{message}"
        );
        assert!(hint.contains("`--data`"), "{hint}");

        first.shutdown().await;
        let second = Database::open(&dir).await.unwrap();
        second.shutdown().await;
    }

    #[tokio::test]
    async fn it_answers_and_stops_answering() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(dir.path()).await.unwrap();
        let address = database
            .endpoint_url()
            .strip_prefix("http://")
            .unwrap()
            .to_owned();
        // A client that never finishes its request does not hold up the end.
        let _stuck = tokio::net::TcpStream::connect(&address).await.unwrap();
        database.shutdown().await;
        assert!(tokio::net::TcpStream::connect(&address).await.is_err());
    }

    #[tokio::test]
    async fn what_is_no_database_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let content = "no database ".repeat(1000);
        fs::write(&file, &content).unwrap();
        let (message, hint) = failure(&Database::open(dir.path()).await.unwrap_err());
        assert!(message.contains(file.to_str().unwrap()), "{message}");
        assert!(hint.contains("move the file away"), "{hint}");
        assert_eq!(fs::read_to_string(&file).unwrap(), content);
    }

    #[tokio::test]
    async fn a_damaged_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Database::open(dir.path()).await.unwrap().shutdown().await;
        let file = dir.path().join(FILE);
        let mut content = fs::read(&file).unwrap();
        // The header is whole; the pages are not.
        content[200..].fill(0xa5);
        fs::write(&file, &content).unwrap();
        let (message, _) = failure(&Database::open(dir.path()).await.unwrap_err());
        assert!(message.contains("cannot read the table"), "{message}");
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let (message, hint) = failure(&Database::open(&path).await.unwrap_err());
            assert!(message.contains(path.to_str().unwrap()), "{message}");
            assert!(hint.contains("`--data`"), "{hint}");
        }
        fs::create_dir(dir.path().join(FILE)).unwrap();
        let (message, _) = failure(&Database::open(dir.path()).await.unwrap_err());
        assert!(message.contains(FILE), "{message}");
    }
}
