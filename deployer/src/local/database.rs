//! The embedded `DynamoDB`: dynoxide over one `SQLite` file.
//!
//! `SQLite` keeps a write-ahead log and syncs it to the disk on every commit (`synchronous=FULL`, its default, which
//! dynoxide leaves alone). So a claim that was acknowledged survives the end of this program, however it ends, and that
//! of the machine.

use std::{
    fmt::Display,
    fs::{DirBuilder, File, Permissions, TryLockError},
    io::{Read, Seek, Write},
    net::TcpStream,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use dynoxide::server::serve_with_shutdown;
use tokio::{net::TcpListener, sync::oneshot, time::timeout};

use crate::failure::Failure;

/// The `SQLite` file in the deployment's directory. `SQLite` keeps its log beside it.
const FILE: &str = "cbbootstrap.db";

/// Locked while a process uses the directory. It is never deleted: that would let two of them lock two files.
///
/// While a deployment runs, it holds the URL of the deployment's database, and a line's end to say that this is all of it.
/// Whoever opens the database only for a moment leaves it empty.
const LOCK: &str = "cbbootstrap.lock";

/// How long requests that already run may hold up the end.
const GRACE: Duration = Duration::from_secs(2);

/// How long whoever has the directory may take to say where its database is, or to be done with it: one reads all of it
/// at the start, and has some [`GRACE`] at the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at the lock.
const POLL: Duration = Duration::from_millis(20);

/// How long a database on this machine may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A running database.
#[derive(Debug)]
pub struct Database {
    url: String,
    /// None where it is another process's.
    server: Option<Server>,
}

/// What serves it.
#[derive(Debug)]
struct Server {
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
    /// Until the end: the lock goes when it is closed.
    lock: File,
}

/// Who has the directory.
enum Lock {
    /// This process, and the file is empty.
    Ours(File),
    /// A deployment, whose database is at this URL.
    Theirs(String),
}

impl Database {
    /// Opens the database in a directory, both made if missing, serves it on a free port of the loopback address, and says
    /// in the directory where.
    ///
    /// Fails where another deployment uses the directory, or where it cannot be used.
    pub async fn open(dir: &Path) -> anyhow::Result<Self> {
        let dir = absolute(dir)?;
        let open = move || {
            // What the table says about a cluster is nobody else's business.
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|error| unusable(&dir, &error))?;
            let Some(Lock::Ours(lock)) = lock(&dir)? else {
                return Err(Failure::new(format!(
                    "another local deployment is using the directory {}",
                    quoted(&dir)
                ))
                .hint("end it, or choose another directory with `--data`")
                .into());
            };
            let mut said = lock.try_clone()?;
            let database = serve(open_file(&dir)?, lock)?;
            writeln!(said, "{}", database.url).map_err(|error| unusable(&dir, &error))?;
            Ok(database)
        };
        tokio::task::spawn_blocking(open).await?
    }

    /// The database in a directory: that of the deployment that runs there, or else opened by this process, for a moment.
    /// `None` if there is none.
    pub async fn open_or_join(dir: &Path) -> anyhow::Result<Option<Self>> {
        let dir = absolute(dir)?;
        let open = move || {
            let exists = dir.join(FILE).try_exists();
            if !exists.map_err(|error| unusable(&dir, &error))? {
                return Ok(None);
            }
            let since = Instant::now();
            loop {
                match lock(&dir)? {
                    Some(Lock::Ours(lock)) => return serve(open_file(&dir)?, lock).map(Some),
                    Some(Lock::Theirs(url)) if answers(&url) => {
                        return Ok(Some(Self { url, server: None }));
                    }
                    // It is about to end.
                    Some(Lock::Theirs(_)) if since.elapsed() < PATIENCE => thread::sleep(POLL),
                    Some(Lock::Theirs(_)) | None => {
                        return Err(Failure::new(format!(
                            "another process is using the directory {}, and does not say where its table is",
                            quoted(&dir)
                        ))
                        .hint("try again when that has ended, or when the deployment is up")
                        .into());
                    }
                }
            }
        };
        tokio::task::spawn_blocking(open).await?
    }

    /// The URL that an AWS SDK takes for `DynamoDB`'s.
    pub fn endpoint_url(&self) -> &str {
        &self.url
    }

    /// Whether it was another process's, and that has ended.
    pub async fn is_gone(&self) -> bool {
        let url = self.url.clone();
        self.server.is_none()
            && !tokio::task::spawn_blocking(move || answers(&url))
                .await
                .unwrap_or_default()
    }

    /// Ends it, unless it is another process's: requests that run are finished, the file is closed, the directory is free.
    pub async fn shutdown(self) {
        let Some(server) = self.server else { return };
        // First, so that nobody joins what is about to end; where that fails, it is seen by whoever connects.
        let _ = server.lock.set_len(0);
        let _ = server.stop.send(());
        let _ = timeout(2 * GRACE, server.stopped).await;
    }
}

/// Serves a database on a free port of the loopback address.
fn serve(database: dynoxide::Database, lock: File) -> anyhow::Result<Database> {
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
    let server = Some(Server {
        stop,
        stopped,
        lock,
    });
    Ok(Database { url, server })
}

fn quoted(path: &Path) -> String {
    format!("`{}`", path.display())
}

fn absolute(dir: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(dir).with_context(|| format!("cannot use the directory {}", quoted(dir)))
}

fn unusable(dir: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!(
        "cannot keep the table in the directory {}: {error}",
        quoted(dir)
    ))
    .hint("choose another with `--data`")
}

/// Whether something accepts connections there.
fn answers(url: &str) -> bool {
    let address = url.strip_prefix("http://").and_then(|at| at.parse().ok());
    address.is_some_and(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok())
}

/// Takes the directory, which is there, or learns who has it. `None` if whoever has it does not tell in time.
fn lock(dir: &Path) -> anyhow::Result<Option<Lock>> {
    let unusable = |error: std::io::Error| unusable(dir, &error);
    let mut file = File::options()
        .create(true)
        .read(true)
        .append(true)
        .mode(0o600)
        .open(dir.join(LOCK))
        .map_err(unusable)?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => {
                // What a deployment left that was killed, and how an older one made it.
                file.set_len(0)
                    .and_then(|()| file.set_permissions(Permissions::from_mode(0o600)))
                    .map_err(unusable)?;
                return Ok(Some(Lock::Ours(file)));
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error).into()),
            Err(TryLockError::WouldBlock) => (),
        }
        let mut said = String::new();
        file.rewind()
            .and_then(|()| file.read_to_string(&mut said))
            .map_err(unusable)?;
        if let Some(url) = said.strip_suffix('\n') {
            return Ok(Some(Lock::Theirs(url.to_owned())));
        }
        if since.elapsed() >= PATIENCE {
            return Ok(None);
        }
        thread::sleep(POLL);
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
    use std::fs;

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

    fn said(dir: &Path) -> String {
        fs::read_to_string(dir.join(LOCK)).unwrap()
    }

    #[tokio::test]
    async fn a_running_one_says_where_it_is_and_is_joined() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let database = Database::open(dir).await.unwrap();
        assert_eq!(said(dir), format!("{}\n", database.endpoint_url()));
        let mode = fs::metadata(dir.join(LOCK)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let joined = Database::open_or_join(dir).await.unwrap().unwrap();
        assert_eq!(joined.endpoint_url(), database.endpoint_url());
        joined.shutdown().await;
        let joined = Database::open_or_join(dir).await.unwrap().unwrap();
        assert!(!joined.is_gone().await, "to leave it does not end it");

        database.shutdown().await;
        assert!(joined.is_gone().await);
        assert_eq!(said(dir), "");
    }

    #[tokio::test]
    async fn one_that_does_not_run_is_opened_for_a_moment() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        Database::open(dir).await.unwrap().shutdown().await;
        // A deployment that was killed could not take back what it said.
        fs::write(dir.join(LOCK), "http://127.0.0.1:9\n").unwrap();
        let opened = Database::open_or_join(dir).await.unwrap().unwrap();
        assert!(!opened.is_gone().await);
        assert_eq!(said(dir), "", "nobody is to join what ends in a moment");

        // Both wait for that moment to be over.
        let (waiting, starting) = (dir.to_owned(), dir.to_owned());
        let waiting = tokio::spawn(async move { Database::open_or_join(&waiting).await });
        tokio::time::sleep(5 * POLL).await;
        assert!(!waiting.is_finished());
        opened.shutdown().await;
        waiting.await.unwrap().unwrap().unwrap().shutdown().await;
        let opened = Database::open_or_join(dir).await.unwrap().unwrap();
        let starting = tokio::spawn(async move { Database::open(&starting).await });
        tokio::time::sleep(5 * POLL).await;
        opened.shutdown().await;
        starting.await.unwrap().unwrap().shutdown().await;
    }

    #[tokio::test]
    async fn it_is_joined_as_soon_as_it_says_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        Database::open(dir).await.unwrap().shutdown().await;
        let held = File::options().append(true).open(dir.join(LOCK)).unwrap();
        held.try_lock().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());

        let joining = dir.to_owned();
        let joining = tokio::spawn(async move { Database::open_or_join(&joining).await });
        // Nothing, the half of it, a URL where nobody is any more, and then the right one.
        for text in ["", "http://127.0.0.1:", "http://127.0.0.1:9\n"] {
            fs::write(dir.join(LOCK), text).unwrap();
            tokio::time::sleep(5 * POLL).await;
            assert!(!joining.is_finished(), "{text:?}");
        }
        fs::write(dir.join(LOCK), format!("{url}\n")).unwrap();
        let joined = joining.await.unwrap().unwrap().unwrap();
        assert_eq!(joined.endpoint_url(), url);
    }

    #[tokio::test]
    async fn none_is_made_by_looking_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        for dir in [dir.path(), &missing] {
            assert!(Database::open_or_join(dir).await.unwrap().is_none());
        }
        assert!(!missing.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let (message, _) = failure(&Database::open_or_join(&file).await.unwrap_err());
        assert!(message.contains("cannot keep the table in"), "{message}");
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
