//! One function process.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow};
use axum::body::Bytes;
use cbbootstrap_cli::environment;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use super::{
    FUNCTION_NAME, REGION,
    host::{Event, OnEvent},
    runtime_api::{Answer, Invocation, RuntimeApi},
};

/// The longest line of a function's log that is passed on in one piece, in bytes; the most that Lambda does.
const MAX_LINE: u64 = 256 * 1024;

/// Lines of output that explain why a process did not start.
const LAST_LINES: usize = 5;

/// How long a dead process's last output may take to arrive. It is there already, unless a child of its own lives on.
const LAST_LINES_WAIT: Duration = Duration::from_millis(500);

/// How to run the function.
#[derive(Debug)]
pub struct Program {
    /// The binary.
    pub bootstrap: PathBuf,
    /// Its `AWS_ENDPOINT_URL`.
    pub database_url: String,
    /// Its `TABLE_NAME`.
    pub table_name: String,
    /// The longest it may take to ask for its first invocation.
    pub init_timeout: Duration,
    /// The longest it may take for one invocation.
    pub timeout: Duration,
    /// The process group that it joins.
    pub group: i32,
}

impl Program {
    /// The whole environment: what Lambda gives a function, and where the database is.
    fn environment(&self, runtime_api: &RuntimeApi) -> Vec<(&'static str, String)> {
        let root = self.bootstrap.parent().unwrap_or(Path::new("/"));
        [
            (
                "AWS_LAMBDA_RUNTIME_API",
                &*runtime_api.address().to_string(),
            ),
            ("AWS_LAMBDA_FUNCTION_NAME", FUNCTION_NAME),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/cbbootstrap"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "local"),
            ("_HANDLER", "bootstrap"),
            ("LAMBDA_TASK_ROOT", &*root.to_string_lossy()),
            ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
            ("AWS_REGION", REGION),
            ("AWS_DEFAULT_REGION", REGION),
            // Any will do for the embedded database, but a request must be signed.
            ("AWS_ACCESS_KEY_ID", "local"),
            ("AWS_SECRET_ACCESS_KEY", "local"),
            ("AWS_ENDPOINT_URL", &self.database_url),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("TABLE_NAME", &self.table_name),
            (
                "RUST_LOG",
                environment::variable("RUST_LOG")
                    .as_deref()
                    .unwrap_or("info"),
            ),
            ("LANG", "en_US.UTF-8"),
            ("TZ", ":UTC"),
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .to_vec()
    }
}

/// A function process. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    /// Its process id.
    pub id: u32,
    child: Child,
    api: RuntimeApi,
    timeout: Duration,
}

/// How an invocation ended.
#[derive(Debug)]
pub enum Outcome {
    /// The process answered or reported an error.
    Answered(Answer),
    /// The process asked for the next invocation without an answer to this one.
    Skipped,
    /// The process ended.
    Exited(Option<ExitStatus>),
    /// The process took too long. It has to go.
    TimedOut,
}

impl Process {
    /// Starts a process, and waits until it asks for its first invocation.
    ///
    /// The error says why it did not.
    pub async fn start(program: &Program, on_event: &OnEvent) -> anyhow::Result<Self> {
        let api = RuntimeApi::start().await?;
        let path = program.bootstrap.display();
        let root = program.bootstrap.parent().unwrap_or(Path::new("/"));
        let mut child = Command::new(&program.bootstrap)
            .env_clear()
            .envs(program.environment(&api))
            .current_dir(root)
            .process_group(program.group)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run `{path}`"))?;
        let id = child.id().unwrap_or_default();
        let last_lines = LastLines::default();
        let logs = [
            child
                .stdout
                .take()
                .map(|out| pass_on(out, id, &last_lines, on_event)),
            child
                .stderr
                .take()
                .map(|err| pass_on(err, id, &last_lines, on_event)),
        ];

        let why = tokio::select! {
            biased;
            () = api.asked() => {
                return Ok(Self { id, child, api, timeout: program.timeout });
            }
            status = child.wait() => {
                let status = Exited(status.ok());
                format!("`{path}` {status} before it asked for an invocation")
            }
            () = tokio::time::sleep(program.init_timeout) => {
                let seconds = program.init_timeout.as_secs_f64();
                format!("`{path}` did not ask for an invocation within {seconds} s")
            }
        };
        let _ = child.kill().await;
        let _ = timeout(LAST_LINES_WAIT, async {
            for log in logs.into_iter().flatten() {
                let _ = log.await;
            }
        })
        .await;
        let reported = api.init_error();
        Err(match reported.unwrap_or_else(|| last_lines.text()) {
            said if said.is_empty() => anyhow!(why),
            said => anyhow!("{why}: {said}"),
        })
    }

    /// Carries out an invocation. The process must have asked for it.
    pub async fn invoke(&mut self, id: String, event: Bytes) -> Outcome {
        let deadline = SystemTime::now() + self.timeout;
        let invocation = Invocation {
            id,
            event,
            deadline,
        };
        tokio::select! {
            biased;
            answer = self.api.invoke(invocation) => answer.map_or(Outcome::Skipped, Outcome::Answered),
            status = self.child.wait() => Outcome::Exited(status.ok()),
            () = tokio::time::sleep(self.timeout) => Outcome::TimedOut,
        }
    }

    /// Waits until the process, having answered, asks for the next invocation. Otherwise, how it failed to.
    pub async fn ready(&mut self) -> Result<(), Outcome> {
        tokio::select! {
            biased;
            () = self.api.asked() => Ok(()),
            status = self.child.wait() => Err(Outcome::Exited(status.ok())),
            () = tokio::time::sleep(self.timeout) => Err(Outcome::TimedOut),
        }
    }

    /// Waits until the process ends.
    pub async fn exited(&mut self) -> Option<ExitStatus> {
        self.child.wait().await.ok()
    }

    /// Ends the process.
    pub async fn kill(mut self) {
        let _ = self.child.kill().await;
    }
}

/// How a process ended, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited(pub Option<ExitStatus>);

impl std::fmt::Display for Exited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(status) => write!(f, "ended with {status}"),
            None => f.write_str("ended"),
        }
    }
}

/// The last lines that a process wrote.
#[derive(Clone, Debug, Default)]
struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Vec::from(lines.clone()).join(" ")
    }
}

/// Passes on what a process writes, line by line, until it closes its side.
fn pass_on(
    output: impl AsyncRead + Send + Unpin + 'static,
    process: u32,
    last_lines: &LastLines,
    on_event: &OnEvent,
) -> JoinHandle<()> {
    let (last_lines, on_event) = (last_lines.clone(), Arc::clone(on_event));
    tokio::spawn(async move {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while let Ok(1..) = (&mut output)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .await
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if !text.is_empty() {
                last_lines.push(text.clone());
                on_event(Event::Log {
                    process,
                    line: text,
                });
            }
        }
    })
}
