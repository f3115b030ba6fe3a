//! The embedded `DynamoDB`: dynoxide over one `SQLite` file.
//!
//! `SQLite` keeps a write-ahead log and syncs it to the disk on every commit (`synchronous=FULL`, its default, which
//! dynoxide leaves alone). So a claim that was acknowledged survives the end of this program, however it ends, and that
//! of the machine.

use std::{
    fs::{DirBuilder, File, TryLockError},
    os::unix::fs::DirBuilderExt,
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
        let lock = lock(&dir)?;
        let path = dir.join(FILE);
        let database = open_file(&path)?;

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

fn open_file(path: &Path) -> anyhow::Result<dynoxide::Database> {
    let name = path.to_str().with_context(|| {
        format!(
            "cannot keep the table in {}: its name is not UTF-8",
            quoted(path)
        )
    })?;
    let opened = dynoxide::Database::new(name).and_then(|database| {
        // Reads every table's description and items, so that a damaged file is found out now.
        database.database_info()?;
        Ok(database)
    });
    opened.map_err(|error| {
        Failure::new(format!("cannot read the table from {}: {error}", quoted(path)))
            .hint("move the file away to start with an empty table, or choose another directory with `--data`")
            .into()
    })
}
