//! An embedded SQLite database: the rules of the protocol, applied to the record inside a transaction.
//!
//! One thread writes. It takes all requests that wait, carries them out in one transaction, and answers when that is on the disk:
//! requests that arrive while the disk is busy share the next sync. Reads go beside it, each over a connection of its own, and see
//! what was acknowledged before they began (SQLite's write-ahead log).
//!
//! The log is synced on every commit (`synchronous=FULL`): what was acknowledged survives the end of the process and of the machine.
//! Other processes of this machine may open the same database; a network file system cannot hold it.

mod records;
mod writer;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cbbootstrap_protocol::{
    names::ClusterId,
    rules::{Claim, Claimed, Leave, Ready, Record, SecretHash},
};
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use self::writer::{Change, Writer};
use super::{Error, Store};

/// The version of the tables below, in the database's `user_version`.
const VERSION: i32 = 1;

const TABLES: &str = "
    CREATE TABLE clusters (
        cluster_id TEXT PRIMARY KEY,
        initial_node TEXT NOT NULL,
        initial_node_uuid TEXT,
        previous_initial_nodes TEXT, -- a JSON array
        rival_node_uuid TEXT,
        is_given_up INTEGER NOT NULL,
        state TEXT NOT NULL,
        generation INTEGER NOT NULL,
        claimed_at INTEGER, -- times are seconds since 1970
        lease_expires_at INTEGER,
        kept_until INTEGER,
        is_forgotten INTEGER NOT NULL,
        cluster_uuid TEXT,
        secret_hash BLOB
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE members (
        cluster_id TEXT NOT NULL,
        node TEXT NOT NULL,
        reported_at INTEGER NOT NULL,
        node_uuid TEXT,
        authority BLOB,
        attestation BLOB,
        PRIMARY KEY (cluster_id, node)
    ) STRICT, WITHOUT ROWID;
";

/// How long a connection waits for another process that writes. Shorter than a request's [deadline](crate::api::DEADLINE).
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);

/// A database. Its writer ends when the last copy of this is dropped.
#[derive(Clone, Debug)]
pub struct Sqlite(Arc<Database>);

#[derive(Debug)]
struct Database {
    path: PathBuf,
    writer: Writer,
    /// Connections that nobody is reading with.
    readers: Mutex<Vec<Connection>>,
}

impl Sqlite {
    /// Opens the database in this file, which is made if missing.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let made = File::options().create(true).append(true).open(path);
        made.map_err(|error| Error::Failed(error.to_string()))?;
        Self::open(path)
    }

    /// Opens the database in this file, which is there, empty or not.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut connection = connect(path)?;
        set_up(&mut connection)?;
        Ok(Self(Arc::new(Database {
            path: path.to_owned(),
            writer: Writer::start(connection)?,
            readers: Mutex::default(),
        })))
    }

    /// Up to this many records, in the order of their ids, after this one.
    pub fn list(&self, limit: usize, after: Option<&str>) -> Result<Vec<Record>, Error> {
        self.read(|connection| records::list(connection, limit, after))
    }

    /// The record of a cluster, whatever its id is.
    pub fn find(&self, cluster_id: &str) -> Result<Option<Record>, Error> {
        self.read(|connection| records::load(connection, cluster_id))
    }

    /// The record after a renewal, if it is time for one. Nobody waits for it: where it fails, the next request does it.
    fn renewed(&self, record: Record, now: Timestamp) -> Record {
        if record.renewal(now).is_some() {
            self.0.writer.renew(record.cluster_id.clone(), now);
        }
        record.renewed(now)
    }

    /// Reads on this thread: from the operating system's memory, as a rule.
    fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, Error> {
        let idle = || self.0.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = idle().pop();
        let reader = match reader {
            Some(reader) => reader,
            None => connect(&self.0.path)?,
        };
        let found = read(&reader)?;
        idle().push(reader);
        Ok(found)
    }
}

impl Store for Sqlite {
    async fn claim(&self, claim: &Claim) -> Result<(Claimed, Record), Error> {
        // Of a cluster's nodes, all but one only read.
        let standing =
            self.read(|connection| records::load_claim(connection, claim.cluster_id.as_str()))?;
        if let Some(record) = standing
            && let Ok((claimed, after)) = claim.on(Some(record.clone()))
            && after == record
        {
            return Ok((claimed, self.renewed(record, claim.now)));
        }
        let claim = claim.clone();
        self.0.writer.write(|answer| Change::Claim(claim, answer)).await
    }

    async fn ready(&self, ready: &Ready) -> Result<Record, Error> {
        let ready = ready.clone();
        self.0.writer.write(|answer| Change::Ready(ready, answer)).await
    }

    async fn leave(&self, leave: &Leave) -> Result<Record, Error> {
        let leave = leave.clone();
        self.0.writer.write(|answer| Change::Leave(leave, answer)).await
    }

    async fn status(
        &self,
        cluster_id: &ClusterId,
        secret: Option<&SecretHash>,
        now: Timestamp,
    ) -> Result<Record, Error> {
        let standing = self.find(cluster_id.as_str())?;
        let record = Record::shown_to(standing, secret, now)?;
        Ok(self.renewed(record, now))
    }

    async fn forget(&self, seen: &Record, now: Timestamp) -> Result<bool, Error> {
        let seen = Box::new(seen.clone());
        let forget = |answer| Change::Forget(seen, now, answer);
        self.0.writer.write(forget).await
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use ErrorCode as Code;
        match error.sqlite_error_code() {
            Some(
                Code::DatabaseBusy
                | Code::DatabaseLocked
                | Code::DiskFull
                | Code::SystemIoFailure
                | Code::OutOfMemory
                | Code::CannotOpen
                | Code::ReadOnly,
            ) => Self::Unavailable(error.to_string()),
            Some(_) => Self::Failed(error.to_string()),
            None => Self::Damaged(error.to_string()),
        }
    }
}

fn connect(path: &Path) -> Result<Connection, Error> {
    // It does not create: where somebody has moved the file away, a new one beside the log of the old one would lose both. A connection
    // is used by one thread at a time.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Makes the tables in a new database, and refuses one that has others.
fn set_up(connection: &mut Connection) -> Result<(), Error> {
    let version = |connection: &Connection| {
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0))
    };
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Without a lock, for another process may be writing.
    if version(connection)? == VERSION {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let has_tables = "SELECT EXISTS (SELECT 1 FROM sqlite_schema)";
    let has_tables = transaction.query_row(has_tables, [], |row| row.get(0))?;
    match (version(&transaction)?, has_tables) {
        (VERSION, true) => return Ok(()),
        (0, false) => transaction.execute_batch(TABLES)?,
        (0, true) => {
            return Err(Error::Failed("it is not a database of cbbootstrap".to_owned()));
        }
        _ => {
            return Err(Error::Failed("it was made by another version of cbbootstrap".to_owned()));
        }
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests;
