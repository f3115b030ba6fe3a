//! The function's processes: as many as requests overlap, each with one invocation at a time, as in Lambda.

use std::{
    fmt,
    num::NonZeroUsize,
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::body::Bytes;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    gateway::Refusal,
    process::{Exited, Outcome, Process, Program},
    runtime_api::Answer,
};

/// The most requests that wait for a process. Lambda runs no more than this many at once, either, unless told.
const QUEUE: usize = 1000;

/// How long after a failed start the next is tried: this, then twice as long after each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest pause between failed starts. Requests wait for it, so it stays well below their time limit.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Who hears of events. It must not block for long.
pub type OnEvent = Arc<dyn Fn(Event) + Send + Sync>;

/// What happens to the function that somebody may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A process is ready.
    Started {
        /// Its process id.
        process: u32,
    },
    /// A process did not start.
    StartFailed {
        /// Why.
        reason: String,
    },
    /// A process ended that should not have.
    Exited {
        /// Its process id.
        process: u32,
        /// How, where that is known.
        status: Option<ExitStatus>,
    },
    /// A process took too long and was ended.
    TimedOut {
        /// Its process id.
        process: u32,
        /// How long it had.
        limit: Duration,
    },
    /// The function reported an error instead of an answer.
    Failed {
        /// Its process id.
        process: u32,
        /// What it said.
        message: String,
    },
    /// The function's answer is none that API Gateway understands.
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// A line that the function wrote.
    Log {
        /// Its process id.
        process: u32,
        /// The line, without its end.
        line: String,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self {
            Self::Started { process } => format!("function process {process} is ready"),
            Self::StartFailed { reason } => format!("the function did not start: {reason}"),
            Self::Exited { process, status } => {
                format!(
                    "function process {process} {} unexpectedly",
                    Exited(*status)
                )
            }
            Self::TimedOut { process, limit } => {
                let seconds = limit.as_secs_f64();
                format!("function process {process} took longer than {seconds} s and was ended")
            }
            Self::Failed { process, message } => {
                format!("function process {process} failed: {message}")
            }
            Self::Malformed { reason } => format!("the function's answer is malformed: {reason}"),
            Self::Log { process, line } => format!("[{process}] {line}"),
        };
        f.write_str(
            &line
                .lines()
                .map(str::trim_end)
                .collect::<Vec<_>>()
                .join(" "),
        )
    }
}

/// A request on its way through the function.
#[derive(Debug)]
struct Job {
    id: String,
    event: Bytes,
    answer: oneshot::Sender<Result<Bytes, Refusal>>,
}

/// Runs the function.
pub struct Host {
    program: Program,
    concurrency: NonZeroUsize,
    on_event: OnEvent,
    waiting: async_channel::Sender<Job>,
    jobs: async_channel::Receiver<Job>,
    state: Mutex<State>,
}

/// What there is of processes.
#[derive(Debug, Default)]
struct State {
    /// Those that start, in whatever they wait for meanwhile.
    starting: usize,
    /// Those that have nothing to do.
    idle: usize,
    /// All of them.
    processes: usize,
    /// Starts that failed, since one that did not.
    failed_starts: u32,
    /// When the next may be tried.
    next_start: Option<Instant>,
    /// One task for each process.
    workers: JoinSet<()>,
}

impl Host {
    /// Starts the first process. The error says why it did not start.
    pub async fn start(
        program: Program,
        concurrency: NonZeroUsize,
        on_event: OnEvent,
    ) -> anyhow::Result<Arc<Self>> {
        let first = Process::start(&program, &on_event).await?;
        let (waiting, jobs) = async_channel::bounded(QUEUE);
        let host = Arc::new(Self {
            program,
            concurrency,
            on_event,
            waiting,
            jobs,
            state: Mutex::default(),
        });
        host.state().processes = 1;
        host.say(Event::Started { process: first.id });
        let worker = Arc::clone(&host).work(first);
        host.state().workers.spawn(worker);
        Ok(host)
    }

    /// Has the function handle an event.
    pub async fn invoke(self: &Arc<Self>, id: String, event: Bytes) -> Result<Bytes, Refusal> {
        let (answer, answered) = oneshot::channel();
        let job = Job { id, event, answer };
        self.waiting
            .try_send(job)
            .map_err(|_| Refusal::Unavailable)?;
        self.scale();
        answered.await.unwrap_or(Err(Refusal::Unavailable))
    }

    /// Takes no more requests. Idle processes end; those that work end when they are done or killed.
    pub fn close(&self) {
        self.jobs.close();
    }

    /// Waits until every process is gone, after [`Host::close`].
    pub async fn closed(&self) {
        let mut workers = std::mem::take(&mut self.state().workers);
        while workers.join_next().await.is_some() {}
    }

    /// Starts another process where that helps.
    fn scale(self: &Arc<Self>) {
        let mut state = self.state();
        while state.workers.try_join_next().is_some() {}
        let expected = state.idle + state.starting;
        if self.jobs.is_closed()
            || !needs_another(
                self.jobs.len(),
                expected,
                state.processes,
                self.concurrency.get(),
            )
        {
            return;
        }
        state.processes += 1;
        state.starting += 1;
        let next_start = state.next_start;
        let host = Arc::clone(self);
        state.workers.spawn(async move {
            if let Some(next_start) = next_start {
                sleep_until(next_start).await;
            }
            if host.jobs.is_closed() {
                return;
            }
            match Process::start(&host.program, &host.on_event).await {
                Ok(process) => {
                    host.started();
                    host.say(Event::Started {
                        process: process.id,
                    });
                    host.work(process).await;
                }
                Err(error) => host.not_started(&error),
            }
        });
    }

    fn started(&self) {
        let mut state = self.state();
        state.starting -= 1;
        state.failed_starts = 0;
        state.next_start = None;
    }

    fn not_started(&self, error: &anyhow::Error) {
        let alone = {
            let mut state = self.state();
            state.starting -= 1;
            state.processes -= 1;
            state.next_start = Some(Instant::now() + backoff(state.failed_starts));
            state.failed_starts += 1;
            state.processes == 0
        };
        if !self.jobs.is_closed() {
            self.say(Event::StartFailed {
                reason: format!("{error:#}"),
            });
        }
        // Where no process is left nor on its way, nobody else will answer those who wait.
        if alone {
            while let Ok(job) = self.jobs.try_recv() {
                let _ = job.answer.send(Err(Refusal::FunctionFailed));
            }
        }
    }

    /// Hands requests to a process until it ends.
    async fn work(self: Arc<Self>, mut process: Process) {
        let id = process.id;
        self.state().idle += 1;
        let end = loop {
            let next = tokio::select! {
                biased;
                status = process.exited() => Err(status),
                job = self.jobs.recv() => Ok(job.ok()),
            };
            let job = match next {
                Err(status) => break Some(Outcome::Exited(status)),
                // Closed, and no request is left.
                Ok(None) => break None,
                // Whoever asked has gone.
                Ok(Some(job)) if job.answer.is_closed() => continue,
                Ok(Some(job)) => job,
            };
            self.state().idle -= 1;
            let outcome = process.invoke(job.id, job.event).await;
            // Whoever has the answer may look for the event and ask again at once. So this comes first, as does
            // counting the process as idle: a request that follows need not have another started.
            self.report(id, &outcome);
            self.state().idle += 1;
            let (answer, ended) = match outcome {
                Outcome::Answered(Answer::Response(response)) => (Ok(response), false),
                Outcome::Answered(Answer::Error(_)) | Outcome::Skipped => {
                    (Err(Refusal::FunctionFailed), false)
                }
                Outcome::Exited(_) => (Err(Refusal::FunctionFailed), true),
                Outcome::TimedOut => (Err(Refusal::Unavailable), true),
            };
            if ended {
                process.kill().await;
                self.ended();
                let _ = job.answer.send(answer);
                return;
            }
            let _ = job.answer.send(answer);
            if let Err(end) = process.ready().await {
                break Some(end);
            }
        };
        if let Some(end) = end {
            self.report(id, &end);
        }
        process.kill().await;
        self.ended();
    }

    /// A process that was idle has ended. Others may wait for its place.
    fn ended(self: &Arc<Self>) {
        {
            let mut state = self.state();
            state.idle -= 1;
            state.processes -= 1;
        }
        self.scale();
    }

    /// Says what is out of the ordinary.
    fn report(&self, process: u32, outcome: &Outcome) {
        match outcome {
            Outcome::Answered(Answer::Response(_)) => {}
            Outcome::Answered(Answer::Error(message)) => self.say(Event::Failed {
                process,
                message: message.clone(),
            }),
            Outcome::Skipped => self.say(Event::Failed {
                process,
                message: "it asked for the next invocation without an answer to this one"
                    .to_owned(),
            }),
            // The leash is pulled: that is how it should end.
            Outcome::Exited(_) if self.jobs.is_closed() => {}
            Outcome::Exited(status) => self.say(Event::Exited {
                process,
                status: *status,
            }),
            Outcome::TimedOut => self.say(Event::TimedOut {
                process,
                limit: self.program.timeout,
            }),
        }
    }

    /// Passes an event on.
    pub fn say(&self, event: Event) {
        (self.on_event)(event);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether to start another process: more requests wait than processes will soon take, and there may be more.
fn needs_another(waiting: usize, expected: usize, processes: usize, concurrency: usize) -> bool {
    waiting > expected && processes < concurrency
}

/// The pause after a failed start that this many others went before.
fn backoff(failed_starts: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failed_starts);
    FIRST_BACKOFF.saturating_mul(factor).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_started_when_requests_overlap() {
        for (waiting, expected, processes, concurrency, start) in [
            (0, 0, 0, 1, false),
            (1, 0, 0, 1, true),
            (1, 1, 1, 2, false),
            (1, 0, 1, 2, true),
            (1, 0, 1, 1, false),
            (2, 1, 1, 2, true),
            (2, 1, 2, 2, false),
            (9, 2, 3, 4, true),
        ] {
            assert_eq!(
                needs_another(waiting, expected, processes, concurrency),
                start,
                "{waiting} wait for {expected} of {processes} (of at most {concurrency})"
            );
        }
    }

    #[test]
    fn failed_starts_are_tried_again_ever_later() {
        let pauses: Vec<_> = [0, 1, 2, 5, 6, 31, 32, u32::MAX]
            .map(|failed| backoff(failed).as_millis())
            .into();
        assert_eq!(pauses, [100, 200, 400, 3200, 5000, 5000, 5000, 5000]);
    }

    #[test]
    fn events_are_one_line() {
        let limit = Duration::from_millis(1500);
        for (event, expected) in [
            (Event::Started { process: 7 }, "function process 7 is ready"),
            (
                Event::Exited {
                    process: 7,
                    status: None,
                },
                "function process 7 ended unexpectedly",
            ),
            (
                Event::TimedOut { process: 7, limit },
                "function process 7 took longer than 1.5 s and was ended",
            ),
            (
                Event::StartFailed {
                    reason: "a\r\nb\n".to_owned(),
                },
                "the function did not start: a b",
            ),
            (
                Event::Log {
                    process: 7,
                    line: "x".to_owned(),
                },
                "[7] x",
            ),
        ] {
            assert_eq!(event.to_string(), expected);
        }
    }
}
