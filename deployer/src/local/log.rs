//! The request log of the server: a line for each request on stderr.

use std::{
    fmt::{Display, Formatter},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use cbbootstrap_function::log::RequestRecord;
use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use crate::lines::Lines;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Readable text
    #[default]
    Text,
    /// One JSON document per line
    Json,
    /// No log
    None,
}

#[derive(Clone, Debug)]
pub struct RequestLog {
    format: LogFormat,
    lines: Lines,
    is_on: Arc<AtomicBool>,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    time: Timestamp,
    level: &'static str,
    #[serde(flatten)]
    record: &'a RequestRecord<'a>,
}

impl RequestLog {
    /// A log in this format. It has requests after [`RequestLog::begin`], and the API's warnings at once.
    pub fn new(format: LogFormat) -> Self {
        let lines = Lines::to_stderr();
        let writer = lines.clone();
        let warnings = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_target(false)
            .with_writer(move || writer.clone());
        // A second server in one process shares the subscriber of the first.
        let _ = match format {
            LogFormat::Json => warnings.json().flatten_event(true).try_init(),
            _ => warnings.try_init(),
        };
        Self { format, lines, is_on: Arc::default() }
    }

    pub fn message(&self, message: &str) {
        self.write(match self.format {
            LogFormat::Json => {
                let (time, level) = (Timestamp::now(), "INFO");
                serde_json::json!({"time": time, "level": level, "message": message}).to_string()
            }
            _ => message.to_owned(),
        });
    }

    pub fn begin(&self) {
        self.is_on.store(self.format != LogFormat::None, Ordering::Relaxed);
    }

    pub fn request(&self, record: &RequestRecord<'_>) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let line = Line { time: Timestamp::now(), level: "INFO", record };
        self.write(match self.format {
            LogFormat::Json => serde_json::to_string(&line).unwrap_or_default(),
            _ => line.to_string(),
        });
    }

    /// Waits until all is written, but not for long.
    pub fn flush(&self) {
        self.lines.flush();
    }

    fn write(&self, mut line: String) {
        line.push('\n');
        self.lines.push(line);
    }
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let RequestRecord { method, status, milliseconds, .. } = self.record;
        let route = self.record.route.as_deref().unwrap_or("(no such route)");
        let outcome = self.record.code.unwrap_or(self.record.outcome);
        write!(f, "{status} {method} {route}: {outcome}")?;
        if let Some(cluster) = self.record.cluster {
            write!(f, " {cluster}")?;
        }
        write!(f, " ({milliseconds:.1} ms)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_route_and_the_outcome() {
        fn line<'a>(record: &'a RequestRecord<'a>) -> Line<'a> {
            Line { time: Timestamp::UNIX_EPOCH, level: "INFO", record }
        }
        let mut record = RequestRecord {
            method: "POST",
            route: Some("/cluster".to_owned()),
            status: 200,
            outcome: "joined",
            code: None,
            cluster: Some("0123abcd"),
            milliseconds: 2.345,
            calls: 1,
            request_id: "",
        };
        assert_eq!(line(&record).to_string(), "200 POST /cluster: joined 0123abcd (2.3 ms)");
        assert_eq!(
            serde_json::to_string(&line(&record)).unwrap(),
            r#"{"time":"1970-01-01T00:00:00Z","level":"INFO","method":"POST","route":"/cluster","status":200,"outcome":"joined","cluster":"0123abcd","milliseconds":2.345}"#
        );
        (record.route, record.status, record.code, record.cluster) =
            (None, 404, Some("route_not_found"), None);
        assert_eq!(line(&record).to_string(), "404 POST (no such route): route_not_found (2.3 ms)");
    }
}
