//! The function's log in `CloudWatch` Logs.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use aws_sdk_cloudwatchlogs::{
    Client, error::SdkError, operation::filter_log_events::FilterLogEventsError,
    types::FilteredLogEvent,
};
use jiff::Timestamp;

use super::explain;
use crate::failure::Failure;

/// Each look goes back so far behind the last: lines arrive late, and this machine's clock may be ahead of AWS's.
const OVERLAP: Duration = Duration::from_mins(2);

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Unique.
    id: String,
    /// When it was logged, in milliseconds since 1970.
    pub time: i64,
    /// As it was logged.
    pub message: String,
}

impl From<FilteredLogEvent> for Line {
    fn from(event: FilteredLogEvent) -> Self {
        let time = event.timestamp.unwrap_or_default();
        let message = event.message.unwrap_or_default();
        // AWS numbers every event, what stands in for it does not.
        let id = event.event_id.unwrap_or_else(|| {
            let stream = event.log_stream_name.unwrap_or_default();
            format!("{stream} {time} {message}")
        });
        Self { id, time, message }
    }
}

/// A log group, read from a moment on.
#[derive(Debug)]
pub struct Log {
    client: Client,
    group: String,
    /// What a line must hold to be shown.
    text: Option<String>,
    window: Window,
    /// The look at the group that has begun.
    look: Option<Look>,
}

#[derive(Debug)]
struct Look {
    /// When, as [`Window::now`] tells.
    began: i64,
    /// Of the next page; none before the first.
    token: Option<String>,
    ended: bool,
}

impl Log {
    /// The log from so long ago on. `text` is searched for as it is.
    pub fn new(client: Client, group: String, text: Option<String>, since: Duration) -> Self {
        Self {
            client,
            group,
            text,
            window: Window::new(Timestamp::now().as_millisecond(), since),
            look: None,
        }
    }

    /// The next page of lines, the oldest first, of which no line was given before. It may be empty.
    ///
    /// `None` says that there are no more at the moment; the next call looks again. After an error it goes on with the
    /// same page.
    pub async fn next(&mut self) -> Result<Option<Vec<Line>>, SdkError<FilterLogEventsError>> {
        let window = &mut self.window;
        let look = self.look.get_or_insert_with(|| Look {
            began: window.now(),
            token: None,
            ended: false,
        });
        if look.ended {
            window.looked(look.began);
            self.look = None;
            return Ok(None);
        }
        let page = self
            .client
            .filter_log_events()
            .log_group_name(&self.group)
            .start_time(window.from)
            .set_filter_pattern(self.text.as_deref().and_then(pattern))
            .set_next_token(look.token.clone())
            .send()
            .await?;
        look.ended = page.next_token.is_none();
        look.token = page.next_token;
        let lines = page.events.unwrap_or_default().into_iter().map(Line::from);
        // The pattern spares what need not be sent. That a line holds the text is seen here.
        let text = self.text.as_deref().unwrap_or_default();
        Ok(Some(
            lines
                .filter(|line| line.message.contains(text) && window.is_new(line, look.began))
                .collect(),
        ))
    }

    /// What an error of [`Log::next`] means.
    pub fn explain(&self, error: &SdkError<FilterLogEventsError>) -> Failure {
        let group = &self.group;
        let is_gone = error
            .as_service_error()
            .is_some_and(FilterLogEventsError::is_resource_not_found_exception);
        if is_gone {
            return Failure::new(format!("there is no log group `{group}`")).hint(
                "`cbbootstrap status` shows whether the stack still stands; `cbbootstrap destroy` and `deploy` make it anew",
            );
        }
        explain(format!("cannot read log group `{group}`"), error)
    }
}

/// A filter pattern that every line with this text matches, whatever the text means to `CloudWatch` otherwise.
///
/// Quoted, all characters stand for themselves but for two, and how these would be escaped AWS does not say. So it is
/// asked for what stands between them, and [`Log::next`] sees to the rest.
fn pattern(text: &str) -> Option<String> {
    let phrases = text
        .split(['"', '\\'])
        .map(str::trim)
        .filter(|phrase| !phrase.is_empty())
        .map(|phrase| format!("\"{phrase}\""))
        .collect::<Vec<_>>();
    (!phrases.is_empty()).then(|| phrases.join(" "))
}

/// Which lines are asked for, and which of them were given: looks overlap. Moments are milliseconds since 1970.
#[derive(Debug)]
struct Window {
    /// When it was made, by the clock and by one that is never set.
    made: (i64, Instant),
    /// The first moment that is wanted at all.
    begin: i64,
    /// The first moment of this look.
    from: i64,
    /// The lines given that the next look meets again, with their times.
    given: HashMap<String, i64>,
}

impl Window {
    fn new(now: i64, since: Duration) -> Self {
        let begin = now.saturating_sub(milliseconds(since)).max(0);
        Self { made: (now, Instant::now()), begin, from: begin, given: HashMap::new() }
    }

    fn now(&self) -> i64 {
        self.made.0.saturating_add(milliseconds(self.made.1.elapsed()))
    }

    /// The first moment of the look after one that began then.
    fn next_from(&self, began: i64) -> i64 {
        self.begin.max(began.saturating_sub(milliseconds(OVERLAP)))
    }

    /// Whether the line was not given before, in a look that began then.
    fn is_new(&mut self, line: &Line, began: i64) -> bool {
        if line.time < self.next_from(began) {
            return !self.given.contains_key(&line.id);
        }
        self.given.insert(line.id.clone(), line.time).is_none()
    }

    /// A look that began then has seen everything, but for what arrives late.
    fn looked(&mut self, began: i64) {
        self.from = self.next_from(began);
        self.given.retain(|_, time| *time >= self.from);
    }
}

fn milliseconds(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        net::Ipv4Addr,
        sync::{Arc, Mutex},
    };

    use aws_sdk_cloudwatchlogs::config::{
        BehaviorVersion, Credentials, Region, retry::RetryConfig,
    };
    use axum::http::StatusCode;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;
    use crate::aws::is_transient;

    #[test]
    fn what_the_user_types_is_what_is_searched() {
        for (text, expected) in [
            ("REPORT", Some(r#""REPORT""#)),
            ("two words ", Some(r#""two words""#)),
            ("-minus ?either %regex%", Some(r#""-minus ?either %regex%""#)),
            (r#"{"level":"ERROR"}"#, Some(r#""{" "level" ":" "ERROR" "}""#)),
            (r"C:\dir", Some(r#""C:" "dir""#)),
            (r#"\ ""#, None),
            (" ", None),
        ] {
            assert_eq!(pattern(text).as_deref(), expected, "{text}");
        }
    }

    fn line(id: &str, time: i64) -> Line {
        Line { id: id.to_owned(), time, message: String::new() }
    }

    #[test]
    fn no_line_is_given_twice_and_none_is_lost() {
        let (now, second) = (1_000_000_000, 1000);
        let mut window = Window::new(now, Duration::from_mins(10));
        assert_eq!(window.from, now - 600 * second);
        for (id, time, new) in [
            ("a", now - 600 * second, true),
            ("b", now - 119 * second, true),
            ("c", now - second, true),
            ("c", now - second, false),
        ] {
            assert_eq!(window.is_new(&line(id, time), now), new, "{id}");
        }
        // The look took a while. What was logged meanwhile is the next one's, and what arrives late is, too.
        window.looked(now);
        assert_eq!(window.from, now - 120 * second);
        assert_eq!(window.given.len(), 2, "what is not met again need not be known");
        for (id, time, new) in [
            ("b", now - 119 * second, false),
            ("late", now - 118 * second, true),
            ("c", now - second, false),
            ("d", now + 20 * second, true),
        ] {
            let began = now + 30 * second;
            assert_eq!(window.is_new(&line(id, time), began), new, "{id}");
        }
        window.looked(now + 600 * second);
        assert_eq!((window.from, window.given.len()), (now + 480 * second, 0));
    }

    #[test]
    fn a_window_never_reaches_back_before_its_begin() {
        let mut window = Window::new(5000, Duration::ZERO);
        window.looked(8000);
        assert_eq!(window.from, 5000);
        assert_eq!(Window::new(5000, Duration::MAX).from, 0, "1970 is far enough");
    }

    /// The answers of a `CloudWatch` Logs that reads from this script, and what it was asked.
    async fn scripted(answers: Vec<(u16, Value)>) -> (Client, Arc<Mutex<Vec<Value>>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, questions) = (Mutex::new(VecDeque::from(answers)), Arc::clone(&asked));
        let answer = async move |body: String| {
            let question = serde_json::from_str(&body).unwrap();
            questions.lock().unwrap().push(question);
            let (status, answer) = answers.lock().unwrap().pop_front().unwrap();
            (StatusCode::from_u16(status).unwrap(), answer.to_string())
        };
        let answer = Arc::new(answer);
        let service = axum::Router::new().fallback(move |body| {
            let answer = Arc::clone(&answer);
            async move { answer(body).await }
        });
        tokio::spawn(async move { axum::serve(listener, service).await });
        let config = aws_sdk_cloudwatchlogs::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(crate::aws::http_client())
            .retry_config(RetryConfig::disabled())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("a", "b", None, None, "test"))
            .endpoint_url(url)
            .build();
        (Client::from_conf(config), asked)
    }

    #[tokio::test]
    async fn a_throttled_page_is_asked_for_again_and_nothing_else_is() {
        let now = Timestamp::now().as_millisecond();
        let event =
            |id: &str| json!({"eventId": id, "timestamp": now, "message": format!("so {id}")});
        let throttled = (400, json!({"__type": "ThrottlingException", "message": "Rate exceeded"}));
        let (client, asked) = scripted(vec![
            (200, json!({"events": [event("a"), event("b")], "nextToken": "2"})),
            throttled,
            // An empty page is not the last one.
            (200, json!({"events": [], "nextToken": "3"})),
            (200, json!({"events": [event("c")]})),
            (200, json!({"events": [event("a"), event("b"), event("late"), event("c")]})),
        ])
        .await;
        let since = Duration::from_mins(10);
        let mut log = Log::new(client, "g".to_owned(), Some("so ".to_owned()), since);
        let mut seen = Vec::new();
        for _ in 0..7 {
            seen.push(match log.next().await {
                Ok(Some(lines)) => {
                    lines.into_iter().map(|line| line.id).collect::<Vec<_>>().join(" ")
                }
                Ok(None) => "no more".to_owned(),
                Err(error) => {
                    assert!(is_transient(&error), "{error:?}");
                    "throttled".to_owned()
                }
            });
        }
        assert_eq!(seen, ["a b", "throttled", "", "c", "no more", "late", "no more"]);
        let asked = asked.lock().unwrap();
        let tokens: Vec<_> = asked.iter().map(|question| &question["nextToken"]).collect();
        let none = Value::Null;
        assert_eq!(tokens, [&none, &json!("2"), &json!("2"), &json!("3"), &none]);
        for question in &*asked {
            assert_eq!(question["filterPattern"], json!("\"so\""));
        }
        let from = |number: usize| asked[number]["startTime"].as_i64().unwrap();
        assert!((from(0) - (now - milliseconds(since))).abs() < 10_000, "{asked:?}");
        assert!((from(4) - (now - milliseconds(OVERLAP))).abs() < 10_000, "{asked:?}");
    }
}
