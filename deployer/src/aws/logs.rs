//! The function's log in `CloudWatch` Logs.

use std::{collections::HashMap, time::Duration};

use aws_sdk_cloudwatchlogs::{
    Client, error::SdkError, operation::filter_log_events::FilterLogEventsError,
    types::FilteredLogEvent,
};

use super::{clock::Clock, explain};
use crate::failure::Failure;

/// How far consecutive reads overlap: lines arrive late.
const OVERLAP: Duration = Duration::from_mins(2);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    id: String,
    /// In milliseconds since 1970.
    pub time: i64,
    pub message: String,
}

impl From<FilteredLogEvent> for Line {
    fn from(event: FilteredLogEvent) -> Self {
        let time = event.timestamp.unwrap_or_default();
        let message = event.message.unwrap_or_default();
        // AWS gives every event an id; emulators do not.
        let id = event.event_id.unwrap_or_else(|| {
            let stream = event.log_stream_name.unwrap_or_default();
            format!("{stream} {time} {message}")
        });
        Self { id, time, message }
    }
}

#[derive(Debug)]
pub struct Log {
    client: Client,
    /// Lines have AWS's time.
    clock: Clock,
    group: String,
    /// Only lines with this text are returned.
    text: Option<String>,
    window: Window,
    /// The read that has begun.
    scan: Option<Scan>,
}

#[derive(Debug)]
struct Scan {
    /// In milliseconds since 1970.
    began: i64,
    /// Of the next page; `None` before the first.
    token: Option<String>,
    ended: bool,
}

impl Log {
    /// Reads the lines of the last `since`. `text` is not a pattern.
    ///
    /// The clock knows AWS's time from an earlier call.
    pub fn new(
        client: Client,
        clock: Clock,
        group: String,
        text: Option<String>,
        since: Duration,
    ) -> Self {
        let window = Window::new(clock.now().as_millisecond(), since);
        Self { client, clock, group, text, window, scan: None }
    }

    /// Reads the next page of new lines, oldest first. It may be empty.
    ///
    /// `None` means that there are no more lines yet; the next call starts another read. After an error, it reads the same page.
    pub async fn next(&mut self) -> Result<Option<Vec<Line>>, SdkError<FilterLogEventsError>> {
        let window = &mut self.window;
        let scan = self.scan.get_or_insert_with(|| Scan {
            began: self.clock.now().as_millisecond(),
            token: None,
            ended: false,
        });
        if scan.ended {
            window.advance(scan.began);
            self.scan = None;
            return Ok(None);
        }
        let page = self
            .client
            .filter_log_events()
            .log_group_name(&self.group)
            .start_time(window.from)
            .set_filter_pattern(self.text.as_deref().and_then(pattern))
            .set_next_token(scan.token.clone())
            .send()
            .await?;
        scan.ended = page.next_token.is_none();
        scan.token = page.next_token;
        let mut lines: Vec<_> = page.events.into_iter().flatten().map(Line::from).collect();
        // The pattern only saves transfer, and may match more lines.
        let text = self.text.as_deref().unwrap_or_default();
        lines.retain(|line| line.message.contains(text) && window.is_new(line, scan.began));
        Ok(Some(lines))
    }

    pub fn explain(&self, error: &SdkError<FilterLogEventsError>) -> Failure {
        let group = &self.group;
        let is_gone = error
            .as_service_error()
            .is_some_and(FilterLogEventsError::is_resource_not_found_exception);
        if is_gone {
            return Failure::new(format!("there is no log group `{group}`")).hint(
                "`cbbootstrap status` shows whether the stack exists; if only the log group was deleted, destroy the stack and deploy it again",
            );
        }
        explain(format!("cannot read log group `{group}`"), error)
    }
}

/// A filter pattern that every line with this text matches; `None` if there is none.
///
/// Inside quotes, all characters except `"` and `\\` are literal, and AWS does not document how to escape those two. So the
/// pattern has only the text between them, and [`Log::next`] compares the whole text.
fn pattern(text: &str) -> Option<String> {
    let phrases = text
        .split(['"', '\\'])
        .map(str::trim)
        .filter(|phrase| !phrase.is_empty())
        .map(|phrase| format!("\"{phrase}\""))
        .collect::<Vec<_>>();
    (!phrases.is_empty()).then(|| phrases.join(" "))
}

/// The range of a read, and the lines that were returned, because reads overlap. Times are milliseconds since 1970.
#[derive(Debug)]
struct Window {
    /// The start of this read. It never goes back.
    from: i64,
    /// The ids and times of returned lines that the next read finds again.
    returned: HashMap<String, i64>,
}

impl Window {
    fn new(now: i64, since: Duration) -> Self {
        let from = now.saturating_sub(milliseconds(since)).max(0);
        Self { from, returned: HashMap::new() }
    }

    /// The start of the read after one that began then.
    fn next_from(&self, began: i64) -> i64 {
        self.from.max(began.saturating_sub(milliseconds(OVERLAP)))
    }

    /// Whether this line has not been returned. `began` is when this read began.
    fn is_new(&mut self, line: &Line, began: i64) -> bool {
        if line.time < self.next_from(began) {
            return !self.returned.contains_key(&line.id);
        }
        self.returned.insert(line.id.clone(), line.time).is_none()
    }

    /// Ends a read that began then.
    fn advance(&mut self, began: i64) {
        self.from = self.next_from(began);
        self.returned.retain(|_, time| *time >= self.from);
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
    use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimePrinter};
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;
    use crate::aws::is_transient;

    #[test]
    fn filter_text_is_literal() {
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
    fn each_line_is_returned_once() {
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
        // The next read returns the lines that were logged during this one or arrive late.
        window.advance(now);
        assert_eq!(window.from, now - 120 * second);
        assert_eq!(window.returned.len(), 2, "only lines of the overlap are kept");
        for (id, time, new) in [
            ("b", now - 119 * second, false),
            ("late", now - 118 * second, true),
            ("c", now - second, false),
            ("d", now + 20 * second, true),
        ] {
            let began = now + 30 * second;
            assert_eq!(window.is_new(&line(id, time), began), new, "{id}");
        }
        window.advance(now + 600 * second);
        assert_eq!((window.from, window.returned.len()), (now + 480 * second, 0));
    }

    #[test]
    fn reads_never_go_back_before_the_beginning() {
        let mut window = Window::new(5000, Duration::ZERO);
        window.advance(8000);
        assert_eq!(window.from, 5000);
        assert_eq!(Window::new(5000, Duration::MAX).from, 0, "1970 is far enough");
    }

    /// A client of a CloudWatch Logs with these answers and a clock that is ahead, its clock, and the requests that it gets.
    async fn scripted(
        answers: Vec<(u16, Value)>,
        ahead: SignedDuration,
    ) -> (Client, Clock, Arc<Mutex<Vec<Value>>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, questions) = (Mutex::new(VecDeque::from(answers)), Arc::clone(&asked));
        let answer = async move |body: String| {
            let question = serde_json::from_str(&body).unwrap();
            questions.lock().unwrap().push(question);
            let (status, answer) = answers.lock().unwrap().pop_front().unwrap();
            let date =
                DateTimePrinter::new().timestamp_to_rfc9110_string(&(Timestamp::now() + ahead));
            let date = [("date", date.unwrap())];
            (StatusCode::from_u16(status).unwrap(), date, answer.to_string())
        };
        let answer = Arc::new(answer);
        let service = axum::Router::new().fallback(move |body| {
            let answer = Arc::clone(&answer);
            async move { answer(body).await }
        });
        tokio::spawn(async move { axum::serve(listener, service).await });
        let clock = Clock::default();
        let config = aws_sdk_cloudwatchlogs::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(crate::network::Network::direct(None).unwrap().client())
            .retry_config(RetryConfig::disabled())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("a", "b", None, None, "test"))
            .endpoint_url(url)
            .interceptor(clock.clone())
            .build();
        (Client::from_conf(config), clock, asked)
    }

    #[tokio::test]
    async fn only_a_throttled_page_is_read_again() {
        let now = Timestamp::now().as_millisecond();
        let event =
            |id: &str| json!({"eventId": id, "timestamp": now, "message": format!("so {id}")});
        let throttled = (400, json!({"__type": "ThrottlingException", "message": "Rate exceeded"}));
        let answers = vec![
            (200, json!({"events": [event("a"), event("b")], "nextToken": "2"})),
            throttled,
            // An empty page is not the last one.
            (200, json!({"events": [], "nextToken": "3"})),
            (200, json!({"events": [event("c")]})),
            (200, json!({"events": [event("a"), event("b"), event("late"), event("c")]})),
        ];
        let (client, clock, asked) = scripted(answers, SignedDuration::ZERO).await;
        let since = Duration::from_mins(10);
        let mut log = Log::new(client, clock, "g".to_owned(), Some("so ".to_owned()), since);
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

    #[tokio::test]
    async fn time_is_read_from_the_clock_of_aws() {
        for minutes in [-4, 4, 60] {
            let ahead = SignedDuration::from_mins(minutes);
            let answers = vec![(200, json!({"events": []})); 3];
            let (client, clock, asked) = scripted(answers, ahead).await;
            // The command has read the stack.
            client.filter_log_events().log_group_name("g").send().await.unwrap();
            let since = Duration::from_mins(10);
            let mut log = Log::new(client, clock, "g".to_owned(), None, since);
            while log.next().await.unwrap().is_some() {}
            log.next().await.unwrap();
            let asked = asked.lock().unwrap();
            let now = (Timestamp::now() + ahead).as_millisecond();
            for (number, before) in [(1, since), (2, OVERLAP)] {
                let from = asked[number]["startTime"].as_i64().unwrap();
                let expected = now - milliseconds(before);
                assert!((from - expected).abs() < 10_000, "{minutes}: {asked:?}");
            }
        }
    }
}
