//! The progress of a change: a stack's events, until the stack has settled.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use aws_sdk_cloudformation::{
    Client,
    config::retry::RetryConfig,
    error::{ProvideErrorMetadata, SdkError},
    operation::describe_stack_events::DescribeStackEventsError,
};
use tokio::time::sleep_until;

use super::{
    super::{
        error::{Answer, explain, is_signed_out, is_transient},
        poll::jittered,
    },
    is_missing,
    stack::describe,
};
use crate::{
    failure::Failure,
    stack::{
        Change, Progress, StackEvent, StackStatus,
        pace::{self, Distance},
    },
};

const FIRST_POLL: Duration = Duration::from_millis(250);

/// The longest pause while AWS throttles or cannot be reached.
const PATIENT_POLL: Duration = Duration::from_secs(15);

/// How long the stack may be out of sight before the watch gives up. The stack itself goes on changing.
const LOST_PATIENCE: Duration = Duration::from_mins(15);

/// How long a stack's status may lag behind a request to change it.
const STATUS_DELAY: Duration = Duration::from_secs(10);

/// How often to ask for the stack's status as well as its events.
const STATUS_POLL: Duration = Duration::from_secs(30);

/// What a watch sees.
#[derive(Debug)]
pub enum Sighting {
    Event(StackEvent),
    /// Nothing has happened since the last poll. This is the stack's last status, for people.
    Idle(String),
    /// AWS throttles or cannot be reached.
    OutOfSight,
    Settled(StackStatus),
}

/// Follows a stack's events.
#[derive(Debug)]
pub struct Watch {
    /// It makes two attempts at most, as the watch itself is patient.
    client: Client,
    stack_id: String,
    /// The id of the last event that was seen.
    last: Option<String>,
    /// Events that are seen and not returned yet.
    fresh: VecDeque<StackEvent>,
    state: State,
    began: Instant,
    next_poll: Instant,
    pause: Duration,
    /// From when on the stack's status is that of the change; `None` before the first poll.
    status_counts: Option<Instant>,
    /// When the status was last read; `None` reads it with the first poll.
    status_read: Option<Instant>,
    /// Since when the end has been near.
    near: Option<Instant>,
    last_seen: Instant,
}

/// The state of the change, from events and statuses.
#[derive(Debug, Default)]
struct State {
    events: Vec<StackEvent>,
    progress: Progress,
    /// The least number of resources that change, if that is known.
    expected: Option<usize>,
    /// Whether only the stack's deletion ends the watch.
    deleting: bool,
    /// The last status that was read, if it was a settled one.
    settled: Option<StackStatus>,
}

/// Why a poll saw nothing.
#[derive(Debug)]
enum Blind {
    Transient(Failure),
    Refused(Failure),
    /// There are no valid credentials, for this or any other call.
    SignedOut(Failure),
}

impl Blind {
    fn because<E>(error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let failure = explain("lost sight of the stack", error);
        if is_transient(error) {
            Self::Transient(failure)
        } else if is_signed_out(error) {
            Self::SignedOut(failure)
        } else {
            Self::Refused(failure)
        }
    }
}

impl Watch {
    /// Watches from now on. Begin it before requesting a change. `None` if there is no such stack.
    pub async fn begin(client: &Client, stack_id: &str) -> anyhow::Result<Option<Self>> {
        let newest = match client.describe_stack_events().stack_name(stack_id).send().await {
            Err(error) if is_missing(&error) => return Ok(None),
            newest => newest.explain("cannot read the stack's events")?,
        };
        let two_attempts = RetryConfig::standard().with_max_attempts(2);
        let config = client.config().to_builder().retry_config(two_attempts).build();
        let now = Instant::now();
        Ok(Some(Self {
            client: Client::from_conf(config),
            stack_id: stack_id.to_owned(),
            last: newest.stack_events().first().and_then(|event| event.event_id.clone()),
            fresh: VecDeque::new(),
            state: State::default(),
            began: now,
            next_poll: now,
            pause: FIRST_POLL,
            status_counts: None,
            status_read: Some(now),
            near: None,
            last_seen: now,
        }))
    }

    /// Watches a change that is in progress already: the stack's status counts at once.
    pub async fn join(client: &Client, stack_id: &str) -> anyhow::Result<Option<Self>> {
        let watch = Self::begin(client, stack_id).await?;
        Ok(watch.map(|it| Self { status_counts: Some(Instant::now()), status_read: None, ..it }))
    }

    /// Sets what is going to change, which makes the polls fit better.
    pub fn expect(&mut self, changes: &[Change]) {
        // Modifications may turn out to be none, or come after the rest.
        let added = changes.iter().filter(|change| change.action == "Add");
        self.state.expected = Some(added.count());
    }

    /// From now on only the stack's deletion is its end: it was requested during another change.
    pub fn expect_deletion(&mut self) {
        self.state.deleting = true;
        self.state.expected = None;
        self.state.settled = None;
        self.status_counts = None;
    }

    pub fn stack_id(&self) -> &str {
        &self.stack_id
    }

    /// All events since the watch began, the oldest first.
    pub fn events(&self) -> &[StackEvent] {
        &self.state.events
    }

    /// Waits for the next sighting. The future can be dropped at any time without losing one.
    ///
    /// A failed poll says nothing about the stack, and the watch goes on.
    pub async fn next(&mut self) -> Result<Sighting, Failure> {
        if let Some(event) = self.fresh.pop_front() {
            return Ok(Sighting::Event(event));
        }
        if let Some(end) = self.state.end() {
            return Ok(Sighting::Settled(end));
        }
        sleep_until(self.next_poll.into()).await;
        let sighting = match self.poll().await {
            Ok(Some(status)) => Sighting::Settled(status),
            Ok(None) => {
                self.last_seen = Instant::now();
                self.pause = self.next_pause();
                match self.fresh.pop_front() {
                    Some(event) => Sighting::Event(event),
                    None => Sighting::Idle(self.state.last_status()),
                }
            }
            Err(Blind::Transient(_)) if self.last_seen.elapsed() < LOST_PATIENCE => {
                self.pause = (self.pause * 2).min(PATIENT_POLL);
                Sighting::OutOfSight
            }
            Err(
                Blind::Transient(failure) | Blind::Refused(failure) | Blind::SignedOut(failure),
            ) => return Err(failure),
        };
        self.next_poll = Instant::now() + jittered(self.pause);
        Ok(sighting)
    }

    /// Asks for new events; returns the status in which the stack has settled without an event.
    ///
    /// The stack's own events show the end, as its status can still be the one from before. The status is read where events are
    /// refused, and now and then in case the last event was missed.
    async fn poll(&mut self) -> Result<Option<StackStatus>, Blind> {
        let unseen = match self.new_events().await {
            Ok(events) => {
                for event in events {
                    self.last = Some(event.id.clone());
                    self.state.add(event.clone());
                    self.fresh.push_back(event);
                }
                if self.state.end().is_some() {
                    return Ok(None);
                }
                None
            }
            Err(error) => Some(Blind::because(&error)),
        };
        let is_refused = matches!(unseen, Some(Blind::Refused(_)));
        let status_counts =
            *self.status_counts.get_or_insert_with(|| Instant::now() + STATUS_DELAY);
        if !(is_refused || self.wants_status()) || Instant::now() < status_counts {
            return match unseen {
                // The status will be read as soon as it counts.
                None | Some(Blind::Refused(_)) => Ok(None),
                Some(blind) => Err(blind),
            };
        }
        self.status_read = Some(Instant::now());
        match describe(&self.client, &self.stack_id).await {
            Ok(stack) => {
                Ok(self.state.believe(stack.map_or("DELETE_COMPLETE".into(), |it| it.status)))
            }
            Err(error) => match unseen {
                None => Ok(None),
                Some(Blind::Refused(_)) => Err(Blind::because(&error)),
                Some(blind) => Err(blind),
            },
        }
    }

    /// Whether to read the status as well: now and then, and again to confirm an end.
    fn wants_status(&self) -> bool {
        let is_due = self.status_read.is_none_or(|read| read.elapsed() >= STATUS_POLL);
        is_due || self.state.settled.is_some()
    }

    fn next_pause(&mut self) -> Duration {
        let State { expected, progress, .. } = &self.state;
        let distance = pace::distance(*expected, progress, self.state.last_of_stack());
        self.near = (distance == Distance::Near).then(|| self.near.unwrap_or_else(Instant::now));
        let since_near = self.near.map_or(Duration::ZERO, |near| near.elapsed());
        pace::pause(distance, self.began.elapsed(), since_near)
    }

    /// The events since the last, the oldest first.
    async fn new_events(&self) -> Result<Vec<StackEvent>, SdkError<DescribeStackEventsError>> {
        let pages = self.client.describe_stack_events().stack_name(&self.stack_id);
        let mut pages = pages.into_paginator().items().send();
        let mut events = Vec::new();
        while let Some(event) = pages.next().await.transpose()? {
            let event = StackEvent::from(event);
            if self.last.as_ref() == Some(&event.id) {
                break;
            }
            events.push(event);
        }
        events.reverse();
        Ok(events)
    }
}

impl State {
    fn add(&mut self, event: StackEvent) {
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

    /// The status in which the stack has settled by its own events.
    fn end(&self) -> Option<StackStatus> {
        let last = StackStatus::from(self.last_of_stack()?.status.as_str());
        self.is_end(&last).then_some(last)
    }

    fn is_end(&self, status: &StackStatus) -> bool {
        let status = status.0.as_str();
        !status.ends_with("_IN_PROGRESS") && (!self.deleting || status.starts_with("DELETE_"))
    }

    /// Takes a status that was read. It counts as the end when it is read twice in a row.
    fn believe(&mut self, status: StackStatus) -> Option<StackStatus> {
        let settled = Some(status).filter(|status| self.is_end(status));
        let before = std::mem::replace(&mut self.settled, settled.clone());
        settled.filter(|settled| before.as_ref() == Some(settled))
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
        for (status, is_end) in [
            ("UPDATE_COMPLETE", false),
            ("UPDATE_IN_PROGRESS", false),
            ("UPDATE_COMPLETE", false),
            ("UPDATE_ROLLBACK_COMPLETE", false),
            ("UPDATE_ROLLBACK_COMPLETE", true),
        ] {
            let status = StackStatus::from(status);
            let expected = is_end.then(|| status.clone());
            assert_eq!(state.believe(status.clone()), expected, "{status}");
        }
    }
}
