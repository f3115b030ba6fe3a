//! The thread that writes: what waits together shares one transaction and one sync.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use cbbootstrap_protocol::rules::{
    self, Claim, Claimed, KEEP_GENERATION, Leave, Ready, Record, Refusal,
};
use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::{Error, records};

/// The most changes in one transaction: some milliseconds of work.
const BATCH: usize = 512;

/// So many changes wait at most. When the disk is so slow, more are refused.
const WAITING: usize = 16 * 1024;

/// Between two looks for records that have ended, and the clusters that one of them covers: a million take 17 minutes.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const SWEPT_AT_ONCE: u32 = 1000;

const SWEEP_AFTER_ERROR: Duration = Duration::from_mins(1);

/// How long nobody looks after the whole table was covered.
const SWEEP_AGAIN: Duration = Duration::from_hours(6);

/// Who waits for the outcome of a change.
pub type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// A change, and who waits for its outcome.
#[derive(Debug)]
pub enum Change {
    Claim(Claim, Answer<(Claimed, Record)>),
    Ready(Ready, Answer<Record>),
    Leave(Leave, Answer<Record>),
    /// Moves the end of a record that somebody has asked about, if there still is one.
    Renew(String, Timestamp),
    /// Ends the record that an operator has seen.
    Forget(Box<Record>, Timestamp, Answer<bool>),
}

/// What sends an answer, once the transaction has ended: as it should have, or with this error.
type Reply = Box<dyn FnOnce(Result<(), Error>)>;

/// The thread's handle.
#[derive(Debug)]
pub struct Writer(SyncSender<Change>);

impl Writer {
    /// Starts the thread.
    pub fn start(connection: Connection) -> Result<Self, Error> {
        let (sender, changes) = sync_channel(WAITING);
        thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || run(connection, &changes))
            .map_err(|error| Error::Failed(format!("no thread can be started: {error}")))?;
        Ok(Self(sender))
    }

    /// Carries out a change, and returns when it is on the disk.
    pub async fn write<T>(&self, change: impl FnOnce(Answer<T>) -> Change) -> Result<T, Error> {
        let (answer, outcome) = oneshot::channel();
        let refused =
            || Error::Unavailable("the database's thread takes no more changes".to_owned());
        self.0.try_send(change(answer)).map_err(|_| refused())?;
        outcome.await.map_err(|_| refused())?
    }

    /// Has the end of a record moved, some time soon and if nothing is in the way.
    pub fn renew(&self, cluster_id: String, now: Timestamp) {
        let _ = self.0.try_send(Change::Renew(cluster_id, now));
    }
}

/// Until nobody can ask any more.
fn run(mut connection: Connection, changes: &Receiver<Change>) {
    let mut sweep = Sweep::default();
    loop {
        match changes.recv_timeout(sweep.due_in()) {
            Ok(first) => {
                let waiting = std::iter::once(first).chain(changes.try_iter());
                carry_out(&mut connection, waiting.take(BATCH).collect());
            }
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if sweep.due_in().is_zero() {
            sweep.go_on(&mut connection);
        }
    }
}

/// Carries out changes in one transaction, then answers. Where the database fails, none is carried out.
fn carry_out(connection: &mut Connection, changes: Vec<Change>) {
    let mut changes = changes.into_iter();
    let mut replies = Vec::with_capacity(changes.len());
    let outcome = in_transaction(connection, |connection| {
        for change in changes.by_ref() {
            let (reply, done) = change.apply(connection);
            replies.push(reply);
            done?;
        }
        Ok(())
    });
    for reply in replies {
        reply(outcome.clone());
    }
    if let Err(error) = outcome {
        changes.for_each(|change| change.fail(error.clone()));
    }
}

fn in_transaction<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = work(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

impl Change {
    /// Applies the change. The error is the database's; a refusal is for the one who asked.
    fn apply(self, connection: &Connection) -> (Reply, Result<(), Error>) {
        match self {
            Self::Claim(change, answer) => reply(answer, || claim(connection, &change)),
            Self::Ready(change, answer) => reply(answer, || ready(connection, &change)),
            Self::Leave(change, answer) => reply(answer, || leave(connection, &change)),
            Self::Forget(seen, now, answer) => reply(answer, || forget(connection, &seen, now)),
            Self::Renew(id, now) => (Box::new(drop), renew(connection, &id, now)),
        }
    }

    /// Answers with an error. Whoever does not wait any more does not hear it.
    fn fail(self, error: Error) {
        match self {
            Self::Claim(_, answer) => drop(answer.send(Err(error))),
            Self::Ready(_, answer) | Self::Leave(_, answer) => drop(answer.send(Err(error))),
            Self::Forget(_, _, answer) => drop(answer.send(Err(error))),
            Self::Renew(..) => (),
        }
    }
}

/// Does the work, unless nobody waits for it any more: its caller has been told that it may not have been done.
fn reply<T: Send + 'static>(
    answer: Answer<T>,
    work: impl FnOnce() -> Result<T, Error>,
) -> (Reply, Result<(), Error>) {
    if answer.is_closed() {
        return (Box::new(drop), Ok(()));
    }
    let result = work();
    let done = match &result {
        // They are about this change alone, and come before anything is written.
        Ok(_) | Err(Error::Refused(_) | Error::Damaged(_)) => Ok(()),
        Err(error) => Err(error.clone()),
    };
    let reply = move |outcome: Result<(), Error>| drop(answer.send(outcome.and(result)));
    (Box::new(reply), done)
}

fn claim(connection: &Connection, claim: &Claim) -> Result<(Claimed, Record), Error> {
    let standing = records::load_claim(connection, claim.cluster_id.as_str())?;
    let is_new = standing.is_none();
    match claim.on(standing.clone()) {
        Ok((claimed, after)) => {
            let after = after.renewed(claim.now);
            if standing.as_ref() != Some(&after) {
                records::save_claim(connection, &after)?;
            }
            if claimed == Claimed::First && !is_new {
                records::delete_members(connection, &after.cluster_id)?;
            }
            Ok((claimed, after))
        }
        Err(refusal) => {
            if let (Refusal::NameTaken { .. }, Some(record)) = (&refusal, standing) {
                let noted = claim.noted_on(record.clone());
                if noted != record {
                    records::save_claim(connection, &noted)?;
                }
            }
            Err(refusal.into())
        }
    }
}

fn ready(connection: &Connection, ready: &Ready) -> Result<Record, Error> {
    let standing = records::load(connection, ready.cluster_id.as_str())?;
    let after = ready.on(standing.clone())?.renewed(ready.now);
    records::save(connection, standing.as_ref(), &after)?;
    Ok(after)
}

fn leave(connection: &Connection, leave: &Leave) -> Result<Record, Error> {
    let standing = records::load(connection, leave.cluster_id.as_str())?;
    let after = leave.on(standing.clone())?;
    records::save(connection, standing.as_ref(), &after)?;
    Ok(after)
}

fn renew(connection: &Connection, id: &str, now: Timestamp) -> Result<(), Error> {
    // Whoever asks about a record that cannot be read is told so.
    let standing = records::load_claim(connection, id).ok().flatten();
    if let Some(record) =
        standing.filter(|record| !record.is_gone(now) && record.renewal(now).is_some())
    {
        records::save_claim(connection, &record.renewed(now))?;
    }
    Ok(())
}

fn forget(connection: &Connection, seen: &Record, now: Timestamp) -> Result<bool, Error> {
    let standing = records::load(connection, &seen.cluster_id)?;
    let Some(record) = standing.filter(|record| !record.is_forgotten) else {
        return Ok(true);
    };
    if !record.is_as_seen(seen) {
        return Ok(false);
    }
    let forgotten = rules::forget(record.clone(), now);
    records::save(connection, Some(&record), &forgotten)?;
    Ok(true)
}

/// Deletes records that ended long ago, a part of the table at a time.
struct Sweep {
    next: Instant,
    /// The last cluster that was looked at.
    after: String,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { next: Instant::now() + SWEEP_EVERY, after: String::new() }
    }
}

impl Sweep {
    fn due_in(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    fn go_on(&mut self, connection: &mut Connection) {
        let long_ago = Timestamp::now() - KEEP_GENERATION;
        let swept = in_transaction(connection, |connection| {
            let ended = records::delete_ended(connection, &self.after, SWEPT_AT_ONCE, long_ago);
            Ok(ended?)
        });
        // What the database refuses it will refuse to requests, too, and they say so.
        let Ok(last) = swept else {
            self.next = Instant::now() + SWEEP_AFTER_ERROR;
            return;
        };
        let pause = if last.is_some() { SWEEP_EVERY } else { SWEEP_AGAIN };
        self.next = Instant::now() + pause;
        self.after = last.unwrap_or_default();
    }
}
