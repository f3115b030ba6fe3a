//! Watches a stack until its change has ended.

use std::time::{Duration, Instant};

use aws_sdk_cloudformation::{
    Client,
    config::retry::RetryConfig,
    error::{ProvideErrorMetadata, SdkError},
};
use tokio::time::sleep_until;

use crate::{
    aws::{cloudformation, explain, is_transient, poll::jittered},
    failure::Failure,
    printer::Step,
    stack::{
        Progress, Stack, StackEvent, StackStatus, has_changed, name_in,
        pace::{self, FIRST},
    },
};

/// The longest pause while AWS throttles or cannot be reached.
const PATIENT_POLL: Duration = Duration::from_secs(15);

/// How long polls may fail before the watch gives up. The stack itself keeps changing.
const LOST_PATIENCE: Duration = Duration::from_mins(15);

/// How long a stack's status may lag behind a request to change it.
const STATUS_DELAY: Duration = Duration::from_secs(10);

/// How long CloudFormation may take to begin a change that it has accepted.
const BEGIN_PATIENCE: Duration = Duration::from_mins(2);

/// How often to read the stack's status as well as its events.
const STATUS_POLL: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Watch {
    /// It makes at most two attempts, as the watch itself is patient.
    client: Client,
    stack_id: String,
    /// The id of the last event that was seen.
    last: Option<String>,
    state: State,
    /// The stack before the change; `None` if it is new.
    before: Option<Box<Stack>>,
    began: Instant,
    next_poll: Instant,
    pause: Duration,
    /// From this moment on, the stack's status belongs to the change; `None` before the first poll.
    status_counts: Option<Instant>,
    /// When to read the status next.
    status_due: Instant,
    last_event: Instant,
    last_seen: Instant,
}

/// The state of the change, from events and statuses.
#[derive(Debug, Default)]
struct State {
    events: Vec<StackEvent>,
    progress: Progress,
    /// Whether the change has shown: an event, or a stack that is not as it was before.
    has_begun: bool,
    /// Whether only the stack's deletion ends the watch.
    deleting: bool,
    /// The last status that was read, if a change can end in it.
    possible_end: Option<StackStatus>,
    /// The same, if it was read twice in a row.
    confirmed: Option<StackStatus>,
}

impl Watch {
    /// Watches from now on. Call it before requesting a change of the stack `before`, or of a new one without it. `None` if the stack
    /// does not exist.
    pub async fn begin(
        client: &Client,
        stack_id: &str,
        before: Option<&Stack>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(newest) = cloudformation::newest_events(client, stack_id).await? else {
            return Ok(None);
        };
        let two_attempts = RetryConfig::standard().with_max_attempts(2);
        let config = client.config().to_builder().retry_config(two_attempts).build();
        let now = Instant::now();
        Ok(Some(Self {
            client: Client::from_conf(config),
            stack_id: stack_id.to_owned(),
            last: newest.into_iter().next().map(|event| event.id),
            state: State::default(),
            before: before.cloned().map(Box::new),
            began: now,
            next_poll: now,
            pause: FIRST,
            status_counts: None,
            status_due: now + STATUS_POLL,
            last_event: now,
            last_seen: now,
        }))
    }

    /// Watches a change that is in progress already: the stack's status counts at once.
    pub async fn join(client: &Client, stack_id: &str) -> anyhow::Result<Option<Self>> {
        let watch = Self::begin(client, stack_id, None).await?;
        let (state, now) = (State { has_begun: true, ..State::default() }, Instant::now());
        Ok(watch.map(|it| Self { state, status_counts: Some(now), status_due: now, ..it }))
    }

    /// From now on, only the stack's deletion ends the watch: it was requested during another change.
    pub fn expect_deletion(&mut self) {
        self.state.deleting = true;
        self.state.possible_end = None;
        self.status_counts = None;
    }

    pub fn stack_id(&self) -> &str {
        &self.stack_id
    }

    /// All events since the watch began, the oldest first.
    pub fn events(&self) -> &[StackEvent] {
        &self.state.events
    }

    /// Shows the change until it has ended. The future can be dropped at any time, and the method called again.
    ///
    /// A failed poll says nothing about the stack, and the watch goes on.
    pub async fn wait_for_end(&mut self, step: &mut Step) -> Result<StackStatus, Failure> {
        loop {
            if let Some(end) = self.state.end() {
                return Ok(end);
            }
            sleep_until(self.next_poll.into()).await;
            let seen = self.state.events.len();
            match self.poll(step).await {
                Ok(()) => {
                    self.last_seen = Instant::now();
                    if self.never_began() {
                        let name = name_in(&self.stack_id);
                        let message =
                            format!("CloudFormation has not begun to change stack `{name}`");
                        return Err(Failure::new(message).hint(
                            "it may still begin: see the stack in the CloudFormation console, and run the command again",
                        ));
                    }
                    if self.state.events.len() > seen {
                        self.last_event = self.last_seen;
                    } else {
                        step.busy(self.state.last_status());
                    }
                    self.pause = self.state.pause(self.began, self.last_event);
                }
                Err((_, true)) if self.last_seen.elapsed() < LOST_PATIENCE => {
                    step.busy("cannot see the stack at the moment; trying again");
                    self.pause = (self.pause * 2).min(PATIENT_POLL);
                }
                Err((failure, _)) => return Err(failure),
            }
            self.next_poll = Instant::now() + jittered(self.pause);
        }
    }

    /// Whether CloudFormation has had time to begin the change, and has not.
    pub fn never_began(&self) -> bool {
        let is_late = |since| self.last_seen >= since + BEGIN_PATIENCE;
        !self.state.has_begun && self.status_counts.is_some_and(is_late)
    }

    /// Reads new events. An error says whether it is transient.
    ///
    /// The stack's own events show the end, as its status may still be the previous one. The status is read if events are refused,
    /// and occasionally in case the last event was missed.
    async fn poll(&mut self, step: &mut Step) -> Result<(), (Failure, bool)> {
        let Self { client, stack_id, last, .. } = self;
        let events = cloudformation::events_after(client, stack_id, last.as_deref()).await;
        let is_refused = match events {
            Ok(events) => {
                for event in events {
                    step.event(&event);
                    self.last = Some(event.id.clone());
                    self.state.add(event);
                }
                false
            }
            Err(error) if is_transient(&error) => return Err(blind(&error)),
            Err(_) => true,
        };
        let now = Instant::now();
        let status_counts = now >= *self.status_counts.get_or_insert(now + STATUS_DELAY);
        let is_due = now >= self.status_due || self.state.possible_end.is_some();
        if !is_refused && (!is_due || !status_counts || self.state.end().is_some()) {
            return Ok(());
        }
        self.status_due = now + STATUS_POLL;
        match cloudformation::describe(&self.client, &self.stack_id).await {
            Ok(stack) if status_counts => {
                self.state.has_begun |= has_changed(self.before.as_deref(), stack.as_ref());
                self.state.believe(stack.map_or("DELETE_COMPLETE".into(), |it| it.status));
            }
            Err(error) if is_refused => return Err(blind(&error)),
            _ => (),
        }
        Ok(())
    }
}

fn blind<E>(error: &SdkError<E>) -> (Failure, bool)
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    (explain("cannot follow the stack", error), is_transient(error))
}

impl State {
    fn add(&mut self, event: StackEvent) {
        self.has_begun = true;
        self.progress.see(&event);
        self.events.push(event);
    }

    fn last_of_stack(&self) -> Option<&StackEvent> {
        self.events.iter().rev().find(|event| event.is_stack())
    }

    fn last_status(&self) -> String {
        let last = self.last_of_stack();
        last.map_or("waiting for CloudFormation", |event| &event.status).to_owned()
    }

    fn pause(&self, began: Instant, last_event: Instant) -> Duration {
        let is_near = pace::is_near(&self.progress, self.last_of_stack());
        pace::pause(is_near, began.elapsed(), last_event.elapsed())
    }

    /// The status in which the change has ended.
    fn end(&self) -> Option<StackStatus> {
        let last = self.last_of_stack().map(|event| StackStatus::from(event.status.as_str()));
        self.confirmed.clone().or(last.filter(|last| self.is_end(last)))
    }

    fn is_end(&self, status: &StackStatus) -> bool {
        let status = status.as_str();
        !status.ends_with("_IN_PROGRESS") && (!self.deleting || status.starts_with("DELETE_"))
    }

    /// Notes a status. It is the end if it is read twice in a row after the change has begun; before that, it is the old one.
    fn believe(&mut self, status: StackStatus) {
        let end = Some(status).filter(|status| self.has_begun && self.is_end(status));
        let before = std::mem::replace(&mut self.possible_end, end.clone());
        self.confirmed = end.filter(|_| before == self.possible_end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, status: &str) -> StackEvent {
        StackEvent { kind: kind.to_owned(), status: status.to_owned(), ..StackEvent::default() }
    }

    #[test]
    fn only_the_stacks_own_events_end_a_change() {
        let mut state = State::default();
        for (kind, status, end) in [
            ("AWS::CloudFormation::Stack", "CREATE_IN_PROGRESS", None),
            ("AWS::IAM::Role", "CREATE_FAILED", None),
            ("AWS::CloudFormation::Stack", "ROLLBACK_IN_PROGRESS", None),
            ("AWS::IAM::Role", "DELETE_COMPLETE", None),
            ("AWS::CloudFormation::Stack", "ROLLBACK_COMPLETE", Some("ROLLBACK_COMPLETE")),
        ] {
            state.add(event(kind, status));
            assert_eq!(state.end(), end.map(StackStatus::from), "{kind} {status}");
        }
        state.deleting = true;
        assert_eq!(state.end(), None, "only the deletion counts now");
        state.add(event("AWS::CloudFormation::Stack", "DELETE_FAILED"));
        assert_eq!(state.end(), Some(StackStatus::from("DELETE_FAILED")));
    }

    #[test]
    fn a_status_counts_when_it_is_read_twice_in_a_row() {
        let mut state = State::default();
        for _ in 0..3 {
            state.believe("UPDATE_COMPLETE".into());
            assert_eq!(state.end(), None, "the change has not begun");
        }
        state.has_begun = true;
        for (status, is_end) in [
            ("UPDATE_COMPLETE", false),
            ("UPDATE_IN_PROGRESS", false),
            ("UPDATE_COMPLETE", false),
            ("UPDATE_ROLLBACK_COMPLETE", false),
            ("UPDATE_ROLLBACK_COMPLETE", true),
        ] {
            state.believe(status.into());
            assert_eq!(state.end(), is_end.then(|| status.into()), "{status}");
        }
    }
}
