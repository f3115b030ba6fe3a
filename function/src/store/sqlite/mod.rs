//! An embedded SQLite database: the protocol's rules, applied to the record inside a transaction.
//!
//! One thread writes. It applies all waiting requests in one transaction and answers them after the commit, so requests that arrive while
//! the disk is busy share the next sync. Reads run at the same time, each on its own connection, and see everything that was acknowledged
//! before they began (SQLite's write-ahead log).
//!
//! The log is synced on every commit (`synchronous=FULL`), so acknowledged changes survive a crash of the process or the machine.
//! Other processes on this machine may open the same database; it must not be on a network file system.

mod clock;
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
    rules::{Claim, Claimed, Record, Refusal},
    trust::SecretHash,
};
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use self::{
    clock::Clock,
    records::{CLOCK, TABLES, VERSION},
    writer::Writer,
};
use super::{Error, Page, Row, Store, tombstone};
use crate::item::Unreadable;

/// The records in one page of a listing.
const PAGE: usize = 100;

/// How long a connection waits for another process that writes. Shorter than a request's [deadline](crate::api::DEADLINE).
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);

/// A database; cheap to clone. Its writer ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Sqlite(Arc<Database>);

#[derive(Debug)]
struct Database {
    path: PathBuf,
    clock: Clock,
    /// Idle connections. They close before the writer's, which empties the log as the last one.
    readers: Mutex<Vec<Connection>>,
    writer: Writer,
}

impl Sqlite {
    /// Opens the database in this file, and creates it if it is missing.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let made = File::options().create(true).append(true).open(path);
        made.map_err(|error| Error::Failed(error.to_string().into()))?;
        Self::create_at(path, Timestamp::now())
    }

    fn create_at(path: &Path, time_of_day: Timestamp) -> Result<Self, Error> {
        let mut connection = connect(path)?;
        set_up(&mut connection, time_of_day)?;
        Self::start(path, connection, time_of_day, true)
    }

    /// Opens the database in this file, which must have one, for a command beside a server. Only the server keeps the time: this clock may
    /// be ahead of the server's.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::start(path, connect(path)?, Timestamp::now(), false)
    }

    fn start(
        path: &Path,
        connection: Connection,
        time_of_day: Timestamp,
        keeps_time: bool,
    ) -> Result<Self, Error> {
        match version(&connection)? {
            VERSION | 3 => (),
            0 => return Err(Error::Failed("it is not a database of cbbootstrap".into())),
            _ => return Err(Error::Failed("it was made by another version of cbbootstrap".into())),
        }
        let latest = records::latest_time(&connection)?.unwrap_or(time_of_day);
        let clock = Clock::start(time_of_day, latest);
        Ok(Self(Arc::new(Database {
            path: path.to_owned(),
            clock,
            writer: Writer::start(connection, clock, keeps_time)?,
            readers: Mutex::default(),
        })))
    }

    /// The record of a cluster. Any text may be its id.
    pub fn find(&self, cluster_id: &str) -> Result<Option<Record>, Error> {
        self.read(|connection| records::load(connection, cluster_id))
    }

    /// The record after a renewal. The request does not wait for the write: if it fails, the next request repeats it.
    fn renewed(&self, record: Record, now: Timestamp) -> Record {
        if record.renewal(now).is_some() {
            let cluster_id = record.cluster_id.clone();
            self.0.writer.write_later(move |connection| {
                // Requests about a record that cannot be read log the error.
                let stored = records::load_claim(connection, &cluster_id).ok().flatten();
                if let Some(record) = stored.filter(|record| record.renewal(now).is_some()) {
                    records::save_claim(connection, &record.renewed(now))?;
                }
                Ok(())
            });
        }
        record.renewed(now)
    }

    /// Reads on this thread, because the data is usually in the operating system's cache.
    fn read<T, E>(&self, read: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, Error>
    where
        Error: From<E>,
    {
        let idle = || self.0.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = idle().pop();
        let reader = match reader {
            Some(reader) => reader,
            None => connect(&self.0.path)?,
        };
        let result = read(&reader)?;
        idle().push(reader);
        Ok(result)
    }
}

impl Store for Sqlite {
    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    async fn claim(&self, claim: &Claim) -> Result<(Claimed, Record), Error> {
        // Most claims change nothing, so they need no transaction.
        let stored =
            self.read(|connection| records::load_claim(connection, claim.cluster_id.as_str()))?;
        if let Some(record) = stored
            && let Ok((claimed, after)) = claim.on(Some(record.clone()))
            && after == record
        {
            return Ok((claimed, self.renewed(record, claim.now)));
        }
        let claim = claim.clone();
        self.0.writer.write(move |connection| apply_claim(connection, &claim)).await
    }

    async fn change(
        &self,
        cluster_id: &str,
        _: Timestamp,
        rule: impl Fn(Option<Record>) -> Result<Record, Refusal> + Send + Sync + 'static,
    ) -> Result<Record, Error> {
        let cluster_id = cluster_id.to_owned();
        let change = move |connection: &Connection| {
            let stored = records::load(connection, &cluster_id)?;
            let after = rule(stored.clone())?;
            records::save(connection, stored.as_ref(), &after)?;
            Ok(after)
        };
        self.0.writer.write(change).await
    }

    async fn status(
        &self,
        cluster_id: &ClusterId,
        secret: Option<&SecretHash>,
        now: Timestamp,
    ) -> Result<Record, Error> {
        let record = Record::shown_to(self.find(cluster_id.as_str())?, secret, now)?;
        Ok(self.renewed(record, now))
    }

    async fn forget_unreadable(&self, cluster_id: &str, now: Timestamp) -> Result<bool, Error> {
        let cluster_id = cluster_id.to_owned();
        let end = move |connection: &Connection| {
            let id = cluster_id.as_str();
            match records::load(connection, id).map_err(Error::from) {
                Err(Error::Unreadable(_)) => {
                    let generation = records::load_generation(connection, id)?;
                    records::delete_members(connection, id)?;
                    records::save_claim(connection, &tombstone(id, generation, now))?;
                    Ok(true)
                }
                stored => Ok(stored?.is_none_or(|record| record.is_forgotten)),
            }
        };
        self.0.writer.write(end).await
    }

    async fn delete_smoke_test(&self, cluster_ids: &[String]) -> Result<(), Error> {
        let cluster_ids = cluster_ids.to_owned();
        let delete = move |connection: &Connection| {
            cluster_ids.iter().try_for_each(|id| Ok(records::delete_claim(connection, id)?))
        };
        self.0.writer.write(delete).await
    }

    async fn find(&self, cluster_id: &str) -> Result<Option<Row>, Error> {
        self.read(|connection| row(connection, cluster_id))
    }

    async fn list(&self, after: Option<&str>) -> Result<Page, Error> {
        self.read(|connection| {
            let ids = records::ids(connection, PAGE, after)?;
            let next = ids.last().filter(|_| ids.len() == PAGE).cloned();
            let rows = ids.iter().filter_map(|id| row(connection, id).transpose());
            Ok::<_, Error>(Page { rows: rows.collect::<Result<_, _>>()?, next })
        })
    }
}

/// A cluster for an operator, even if its record cannot be read.
fn row(connection: &Connection, cluster_id: &str) -> Result<Option<Row>, Error> {
    Row::new(cluster_id, records::load(connection, cluster_id).map_err(Error::from))
}

/// Applies a claim. It reads no members, except those of an expired record, which it notes, and writes none: a new claim has none.
fn apply_claim(connection: &Connection, claim: &Claim) -> Result<(Claimed, Record), Error> {
    let mut stored = records::load_claim(connection, claim.cluster_id.as_str())?;
    if stored.as_ref().is_some_and(|record| record.is_gone(claim.now)) {
        stored = records::load(connection, claim.cluster_id.as_str())?;
    }
    let (claimed, mut after) = claim.change(stored.clone())?;
    if claimed.is_ok() {
        after = after.renewed(claim.now);
    }
    if stored.as_ref() != Some(&after) {
        records::save_claim(connection, &after)?;
    }
    if claimed == Ok(Claimed::First) && stored.is_some() {
        records::delete_members(connection, &after.cluster_id)?;
    }
    Ok((claimed?, after))
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
            ) => Self::Unavailable(error.to_string().into()),
            // The error may contain a part of the record.
            None if matches!(
                error,
                rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::Utf8Error(..)
            ) =>
            {
                Self::Unreadable(Unreadable("record"))
            }
            _ => Self::Failed(error.to_string().into()),
        }
    }
}

fn connect(path: &Path) -> Result<Connection, Error> {
    // Does not create the file: if it was moved, a new file next to the old one's log would lose both. Each connection is used by one thread
    // at a time.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// The version of the tables; 0 without those of cbbootstrap.
fn version(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Creates the tables in an empty database, or the one that an earlier version did not have.
fn set_up(connection: &mut Connection, time_of_day: Timestamp) -> Result<(), Error> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Without a lock, because another process may be writing.
    if records::latest_time(connection)?.is_some() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_empty = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)";
    if transaction.query_row(is_empty, [], |row| row.get(0))? {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    if version(&transaction)? == VERSION && records::latest_time(&transaction)?.is_none() {
        transaction.execute_batch(CLOCK)?;
        transaction.execute("INSERT INTO clock VALUES (?)", [time_of_day.as_second()])?;
    }
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests;
