//! Plays statuses and events of a stack. The stand-in takes 30 ms for a stack, and rarely fails.

use std::{collections::BTreeMap, time::Duration};

use hyper::{
    Response,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue},
};
use jiff::Timestamp;
use regex::Captures;

use super::{
    Answer, Fault,
    call::Call,
    fault::{elements, success},
};
use crate::pattern::pattern;

/// The operations that change a stack.
const OPERATIONS: [&str; 7] = [
    "CancelUpdateStack",
    "ContinueUpdateRollback",
    "CreateStack",
    "DeleteStack",
    "ExecuteChangeSet",
    "RollbackStack",
    "UpdateStack",
];

/// The type of the stack's own events.
const STACK: &str = "AWS::CloudFormation::Stack";

/// What happens to a stack after a call. Each scene is an event; the stack's own scenes are also its status.
#[derive(Clone, Debug)]
pub struct Play {
    /// The operation; `None` begins at once.
    trigger: Option<String>,
    forward: bool,
    then_real: bool,
    pause: Duration,
    scenes: Vec<Scene>,
}

#[derive(Clone, Debug)]
struct Scene {
    /// Since the one before it.
    after: Duration,
    /// The logical id; `None` for the stack.
    resource: Option<String>,
    kind: String,
    status: String,
    reason: String,
}

impl Play {
    /// Begins with the next call of this operation, such as `ExecuteChangeSet`, which is carried out. A play that is on ends
    /// there; of several that wait for the same operation, each takes one call.
    pub fn on(operation: &str) -> Self {
        assert!(OPERATIONS.contains(&operation), "no stack changes by {operation}");
        Self { trigger: Some(operation.to_owned()), ..Self::now() }
    }

    /// Begins at once, as if someone else were changing the stack.
    pub fn now() -> Self {
        Self {
            trigger: None,
            forward: true,
            then_real: false,
            pause: Duration::ZERO,
            scenes: Vec::new(),
        }
    }

    /// Answers the call without forwarding it, for what the stand-in would refuse or could not undo.
    #[must_use]
    pub fn instead(mut self) -> Self {
        self.forward = false;
        self
    }

    /// After the last scene the stack's status is the real one again. Without this, the last scene's stays. The play should
    /// last as long as the stand-in is at work, some tenths of a second.
    #[must_use]
    pub fn then_real(mut self) -> Self {
        self.then_real = true;
        self
    }

    /// Sets the pause before each of the following scenes.
    #[must_use]
    pub fn after(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// A scene of the stack itself.
    #[must_use]
    pub fn stack(self, status: &str) -> Self {
        self.scene(None, STACK, status)
    }

    /// A scene of one of its resources.
    #[must_use]
    pub fn resource(self, logical_id: &str, kind: &str, status: &str) -> Self {
        self.scene(Some(logical_id), kind, status)
    }

    /// Sets the reason of the last scene so far.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        let scene = self.scenes.last_mut().expect("a scene has a reason");
        reason.clone_into(&mut scene.reason);
        self
    }

    fn scene(mut self, resource: Option<&str>, kind: &str, status: &str) -> Self {
        self.scenes.push(Scene {
            after: self.pause,
            resource: resource.map(str::to_owned),
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: String::new(),
        });
        self
    }
}

#[derive(Debug, Default)]
pub(super) struct Stage {
    waiting: Vec<Play>,
    acting: Option<Acting>,
    /// Oldest first.
    events: Vec<Event>,
    hidden: Vec<Hidden>,
    /// The ARN of the stack of each name.
    ids: BTreeMap<String, String>,
    /// The stand-in's status of each ARN before a play.
    seen: BTreeMap<String, Bytes>,
}

/// A play that is on, or over without [`Play::then_real`].
#[derive(Debug)]
struct Acting {
    /// The stack's ARN; none where any stack plays.
    stack: Option<String>,
    /// What it began with, if it bore a token: the same once more changes nothing.
    trigger: Option<(String, String)>,
    /// Status and reason, oldest first.
    statuses: Vec<(Timestamp, String, String)>,
    then_real: bool,
    end: Timestamp,
}

/// A played event.
#[derive(Debug)]
struct Event {
    number: usize,
    at: Timestamp,
    stack: Option<String>,
    token: String,
    scene: Scene,
}

/// The time during which a play replaces the stand-in's events.
#[derive(Debug)]
struct Hidden {
    stack: Option<String>,
    from: Timestamp,
    /// The next operation.
    until: Option<Timestamp>,
}

/// A call that changes the stack.
#[derive(Debug)]
pub(super) struct Cue {
    at: Timestamp,
    /// It is the one that began the play, sent once more.
    again: bool,
    play: Option<Play>,
}

impl Cue {
    /// The answer, where the stand-in is not to see the call.
    pub fn answer(&self, call: &Call) -> Option<Answer> {
        let forward = self.play.as_ref().is_none_or(|play| play.forward);
        (self.again || !forward).then(|| success(call, ""))
    }
}

impl Stage {
    /// Takes a play, to begin at once or with its operation.
    pub fn take(&mut self, play: Play) {
        if play.trigger.is_some() {
            self.waiting.push(play);
        } else {
            self.perform(play, to_millisecond(Timestamp::now()), None, None);
        }
    }

    /// The stack is in this status.
    pub fn stand(&mut self, status: &str, reason: &str) {
        let now = Timestamp::now();
        self.acting = Some(Acting {
            stack: None,
            trigger: None,
            statuses: vec![(now, status.to_owned(), reason.to_owned())],
            then_real: false,
            end: now,
        });
    }

    /// Ends what plays at this moment; what was shown stays.
    pub fn end(&mut self, at: Timestamp) {
        self.acting = None;
        let now = Timestamp::now();
        self.events.retain(|event| event.at <= now);
        for hidden in &mut self.hidden {
            hidden.until.get_or_insert(at);
        }
    }

    /// Whether the call changes the stack, and then what may be played.
    pub fn cue(&mut self, call: &Call) -> Option<Cue> {
        let operation = call.operation();
        if call.service() != "cloudformation" || !OPERATIONS.contains(&operation) {
            return None;
        }
        let token = call.parameter("ClientRequestToken");
        let trigger = self.acting.as_ref().and_then(|acting| acting.trigger.as_ref());
        let again = trigger.is_some_and(|(began, with)| began == operation && with == token);
        let waits = |play: &Play| !again && play.trigger.as_deref() == Some(operation);
        let play = self.waiting.iter().position(waits);
        Some(Cue {
            at: to_millisecond(Timestamp::now()),
            again,
            play: play.map(|play| self.waiting.remove(play)),
        })
    }

    /// The call was answered, well or not.
    pub fn answered(&mut self, call: &Call, cue: Cue, well: bool) {
        if cue.again {
            return;
        }
        let token = call.parameter("ClientRequestToken");
        match cue.play {
            Some(play) if !well => self.waiting.insert(0, play),
            Some(play) => {
                let stack = self.id(call.parameter("StackName"));
                let trigger =
                    (!token.is_empty()).then(|| (call.operation().to_owned(), token.to_owned()));
                self.perform(play, cue.at, stack, trigger);
            }
            None if well => self.end(cue.at),
            None => {}
        }
    }

    fn perform(
        &mut self,
        play: Play,
        from: Timestamp,
        stack: Option<String>,
        trigger: Option<(String, String)>,
    ) {
        let before = self.status(stack.as_deref());
        self.end(from);
        self.hidden.push(Hidden { stack: stack.clone(), from, until: None });
        let mut statuses: Vec<_> =
            before.map(|(status, reason)| (from, status, reason)).into_iter().collect();
        let token = trigger.as_ref().map_or_else(String::new, |(_, token)| token.clone());
        let mut at = Timestamp::now();
        for scene in play.scenes {
            at += scene.after;
            if scene.resource.is_none() {
                statuses.push((at, scene.status.clone(), scene.reason.clone()));
            }
            self.events.push(Event {
                number: self.events.len(),
                at,
                stack: stack.clone(),
                token: token.clone(),
                scene,
            });
        }
        self.acting = Some(Acting { stack, trigger, statuses, then_real: play.then_real, end: at });
    }

    /// The status that was answered last.
    fn status(&self, stack: Option<&str>) -> Option<(String, String)> {
        let acting = self.acting.as_ref().filter(|acting| acting.is(stack));
        if let Some((status, reason)) = acting.and_then(Acting::now) {
            return Some((status.to_owned(), reason.to_owned()));
        }
        let seen = String::from_utf8_lossy(self.seen.get(stack?)?);
        let status = pattern(STATUS).captures(&seen)?;
        Some((status[2].to_owned(), String::new()))
    }

    fn id(&self, stack: &str) -> Option<String> {
        if stack.starts_with("arn:") {
            return Some(stack.to_owned());
        }
        self.ids.get(stack).cloned()
    }

    /// Replaces the played parts of the stand-in's answer.
    pub fn rewrite(&mut self, call: &Call, answer: Answer) -> Answer {
        if call.service() != "cloudformation" {
            return answer;
        }
        self.learn(call, &answer);
        match call.operation() {
            "DescribeStacks" => self.stacks(call, answer),
            "DescribeStackEvents" if answer.status().is_success() => {
                self.with_events(call, &answer)
            }
            _ => answer,
        }
    }

    /// Records the stand-in's status of a stack.
    fn learn(&mut self, call: &Call, answer: &Answer) {
        let asked = call.parameter("StackName");
        if asked.is_empty() || !answer.status().is_success() {
            return;
        }
        let body = String::from_utf8_lossy(answer.body());
        let Some(id) = pattern(ID).captures(&body).map(|id| id[1].to_owned()) else {
            return;
        };
        let acting = self.acting.as_ref().filter(|acting| acting.is(Some(&id)));
        let plays = acting.and_then(Acting::now).is_some();
        if call.operation() == "DescribeStacks" && !plays {
            self.seen.insert(id.clone(), answer.body().clone());
        }
        // An ARN may be of a deleted stack, whose name another one has.
        if !asked.starts_with("arn:") {
            self.ids.insert(asked.to_owned(), id);
        }
    }

    fn stacks(&self, call: &Call, answer: Answer) -> Answer {
        let Some(acting) = &self.acting else {
            return answer;
        };
        let Some((status, reason)) = acting.now() else {
            return answer;
        };
        let asked = call.parameter("StackName");
        let by_name = !asked.is_empty() && !asked.starts_with("arn:");
        // The stand-in may have deleted the stack during the play.
        let gone = || {
            let id = acting.stack.as_deref()?;
            (id == asked || name(id) == asked).then_some(())?;
            self.seen.get(id)
        };
        let real = answer.status().is_success().then(|| answer.body());
        let Some(body) = real.or_else(gone) else {
            return answer;
        };
        let mut plays = false;
        let body = String::from_utf8_lossy(body);
        let body = pattern(STATUS).replace_all(&body, |found: &Captures<'_>| {
            if !acting.is(Some(&found[1])) {
                return found[0].to_owned();
            }
            plays = true;
            elements([
                ("StackId", &found[1]),
                ("StackStatus", status),
                ("StackStatusReason", reason),
            ])
        });
        if plays && by_name && status == "DELETE_COMPLETE" {
            let message = format!("Stack with id {asked} does not exist");
            let missing = Fault::refuse("ValidationError", &message).answer(call);
            return missing.unwrap_or(answer);
        }
        xml(body.into_owned())
    }

    fn with_events(&self, call: &Call, answer: &Answer) -> Answer {
        let body = String::from_utf8_lossy(answer.body());
        let real: Vec<_> = pattern(MEMBER).captures_iter(&body).collect();
        let (Some(first), Some(last)) = (real.first(), real.last()) else {
            return xml(body.into_owned());
        };
        let (id, now) = (&first[1], Timestamp::now());
        let is = |stack: &Option<String>| stack.as_deref().is_none_or(|stack| stack == id);
        // Played events are on the first page.
        let played = self.events.iter().rev().filter(|event| {
            event.at <= now && is(&event.stack) && call.parameter("NextToken").is_empty()
        });
        let mut events: Vec<_> = played.map(|event| (event.at, event.xml(id))).collect();
        for event in &real {
            let at = event[2].parse().expect("it is a time");
            let is_hidden = self.hidden.iter().any(|hidden| {
                is(&hidden.stack)
                    && hidden.from <= at
                    && hidden.until.is_none_or(|until| at < until)
            });
            if !is_hidden {
                events.push((at, event[0].to_owned()));
            }
        }
        // A stable sort keeps the stand-in's order of events with the same time.
        events.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let events: String = events.into_iter().map(|(_, event)| event).collect();
        let (start, end) = (first.get_match().start(), last.get_match().end());
        xml(format!("{}{events}{}", &body[..start], &body[end..]))
    }
}

impl Acting {
    fn is(&self, stack: Option<&str>) -> bool {
        self.stack.is_none() || self.stack.as_deref() == stack
    }

    /// Status and reason, if they are not the real ones.
    fn now(&self) -> Option<(&str, &str)> {
        let now = Timestamp::now();
        if self.then_real && self.end <= now {
            return None;
        }
        let begun = self.statuses.iter().rev().find(|(at, ..)| *at <= now);
        begun.map(|(_, status, reason)| (status.as_str(), reason.as_str()))
    }
}

impl Event {
    /// In the stand-in's format.
    fn xml(&self, stack: &str) -> String {
        let Scene { resource, kind, status, reason, .. } = &self.scene;
        let name = name(stack);
        let (logical, physical) = match resource {
            Some(logical) => (logical.as_str(), format!("{name}-{logical}")),
            None => (name, stack.to_owned()),
        };
        let (id, at) = (format!("{logical}-{status}-{}", self.number), format!("{:.3}", self.at));
        let mut fields = vec![
            ("StackId", stack),
            ("StackName", name),
            ("EventId", &id),
            ("LogicalResourceId", logical),
            ("PhysicalResourceId", &physical),
            ("ResourceType", kind),
            ("ResourceStatus", status),
            ("ResourceStatusReason", reason),
            ("Timestamp", &at),
        ];
        if !self.token.is_empty() {
            fields.push(("ClientRequestToken", &self.token));
        }
        format!("<member>{}</member>", elements(fields))
    }
}

/// A stack's ARN, in any answer.
const ID: &str = "<StackId>([^<]+)</StackId>";

/// Where `DescribeStacks` answers ARN and status, and the reason for it.
const STATUS: &str = "<StackId>([^<]*)</StackId><StackStatus>([^<]*)</StackStatus>\
                      <StackStatusReason>[^<]*</StackStatusReason>";

/// An event of `DescribeStackEvents`, its stack's ARN and its time.
const MEMBER: &str =
    "(?s)<member><StackId>([^<]*)</StackId>.*?<Timestamp>([^<]*)</Timestamp>.*?</member>";

/// The name in a stack's ARN.
fn name(id: &str) -> &str {
    id.split('/').nth(1).unwrap_or(id)
}

/// The stand-in's times are in milliseconds.
fn to_millisecond(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).expect("it was a time before")
}

fn xml(body: String) -> Answer {
    let mut answer = Response::new(Bytes::from(body));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    answer
}
