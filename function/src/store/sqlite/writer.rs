//! The thread that writes. Waiting changes share one transaction and one sync.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use cbbootstrap_protocol::rules::KEEP_GENERATION;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::{Clock, Error, records};

/// The most changes in one transaction: a few milliseconds of work.
const BATCH: usize = 512;

/// The most changes that wait. More are refused.
const WAITING: usize = 16 * 1024;

/// The interval between two checks for records that have ended, and the number of clusters in each: a million take 17 minutes.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const SWEPT_AT_ONCE: u32 = 1000;

const SWEEP_AFTER_ERROR: Duration = Duration::from_mins(1);

/// The pause before the first check, and after a check of the whole table.
const SWEEP_AGAIN: Duration = Duration::from_hours(6);

/// A change. It gets the connection, or the error that prevents it, and returns an error if the whole transaction must fail.
type Change = Box<dyn FnOnce(Result<&Connection, Error>) -> (Result<(), Error>, Reply) + Send>;

/// Answers the caller of a change after the transaction has ended.
type Reply = Box<dyn FnOnce(Result<(), Error>)>;

#[derive(Debug)]
pub struct Writer {
    /// `None` once it ends.
    changes: Option<SyncSender<Change>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    /// Waits until the waiting changes are made and the connection is closed, which also empties the database's log.
    fn drop(&mut self) {
        drop(self.changes.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Writer {
    /// `keeps_time` is whether it saves the clock's time with each transaction.
    pub fn start(connection: Connection, clock: Clock, keeps_time: bool) -> Result<Self, Error> {
        let (sender, changes) = sync_channel(WAITING);
        let thread = thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || run(connection, clock, keeps_time, &changes))
            .map_err(|error| Error::Failed(format!("cannot start a thread: {error}").into()))?;
        Ok(Self { changes: Some(sender), thread: Some(thread) })
    }

    /// Does the work in a transaction, and returns after the commit.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, outcome) = oneshot::channel();
        let change: Change = Box::new(move |connection: Result<&Connection, Error>| {
            // After a timeout, the caller knows that the change may not have been made.
            if answer.is_closed() {
                return (Ok(()), Box::new(drop));
            }
            let result = connection.and_then(work);
            let done = match &result {
                // These errors concern only this change, and nothing was written before them.
                Ok(_) | Err(Error::Refused(_) | Error::Unreadable(_)) => Ok(()),
                Err(error) => Err(error.clone()),
            };
            let reply =
                move |committed: Result<(), Error>| drop(answer.send(committed.and(result)));
            (done, Box::new(reply))
        });
        let refused = || Error::Unavailable("too many changes wait for the database".into());
        if !self.send(change) {
            return Err(refused());
        }
        outcome.await.map_err(|_| refused())?
    }

    /// Does the work later, and does not report its result.
    pub fn write_later(
        &self,
        work: impl FnOnce(&Connection) -> Result<(), Error> + Send + 'static,
    ) {
        let change: Change = Box::new(move |connection: Result<&Connection, Error>| {
            (connection.and_then(work), Box::new(drop))
        });
        self.send(change);
    }

    /// `false` if too many changes wait.
    fn send(&self, change: Change) -> bool {
        self.changes.as_ref().is_some_and(|changes| changes.try_send(change).is_ok())
    }
}

/// Runs until the [`Writer`] is dropped.
fn run(mut connection: Connection, clock: Clock, keeps_time: bool, changes: &Receiver<Change>) {
    let mut sweep = Sweep { next: Instant::now() + SWEEP_AGAIN, after: String::new() };
    loop {
        match changes.recv_timeout(sweep.due_in()) {
            Ok(first) => {
                let waiting = std::iter::once(first).chain(changes.try_iter());
                carry_out(
                    &mut connection,
                    keeps_time.then_some(clock),
                    waiting.take(BATCH).collect(),
                );
            }
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if sweep.due_in().is_zero() {
            sweep.go_on(&mut connection, clock);
        }
    }
}

/// Carries out all changes in one transaction, or none of them, and then answers. Saves the clock's time with them.
fn carry_out(connection: &mut Connection, clock: Option<Clock>, changes: Vec<Change>) {
    let mut changes = changes.into_iter();
    let mut replies = Vec::with_capacity(changes.len());
    let committed = in_transaction(connection, |connection| {
        changes.by_ref().try_for_each(|change| {
            let (done, reply) = change(Ok(connection));
            replies.push(reply);
            done
        })?;
        clock.map_or(Ok(()), |clock| Ok(records::save_time(connection, clock.now())?))
    });
    if let Err(error) = &committed {
        replies.extend(changes.map(|change| change(Err(error.clone())).1));
    }
    for reply in replies {
        reply(committed.clone());
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

/// Deletes records that ended long ago, part of the table at a time.
struct Sweep {
    next: Instant,
    /// The last cluster that was checked.
    after: String,
}

impl Sweep {
    fn due_in(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    fn go_on(&mut self, connection: &mut Connection, clock: Clock) {
        let long_ago = clock.certain() - KEEP_GENERATION;
        let swept = in_transaction(connection, |connection| {
            Ok(records::delete_ended(connection, &self.after, SWEPT_AT_ONCE, long_ago)?)
        });
        // An error here also fails requests, which log it.
        let pause = match &swept {
            Ok(Some(_)) => SWEEP_EVERY,
            Ok(None) => SWEEP_AGAIN,
            Err(_) => SWEEP_AFTER_ERROR,
        };
        self.next = Instant::now() + pause;
        if let Ok(last) = swept {
            self.after = last.unwrap_or_default();
        }
    }
}
