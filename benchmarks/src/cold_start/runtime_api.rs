//! Lambda's runtime API for one process.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
    serve::ListenerExt,
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc},
    task::AbortHandle,
    time::timeout,
};

/// A process must take each step within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request of the process.
#[derive(Debug)]
enum Step {
    NextEvent,
    Answer(Bytes),
    Error(Bytes),
}

#[derive(Debug)]
struct Shared {
    events: Mutex<mpsc::Receiver<String>>,
    steps: mpsc::UnboundedSender<(Instant, Step)>,
}

/// Stops when dropped.
#[derive(Debug)]
pub struct RuntimeApi {
    address: SocketAddr,
    events: mpsc::Sender<String>,
    steps: mpsc::UnboundedReceiver<(Instant, Step)>,
    server: AbortHandle,
}

impl RuntimeApi {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("there is a free port");
        let address = listener.local_addr().expect("a socket has an address");
        let (events, waiting) = mpsc::channel(1);
        let (seen, steps) = mpsc::unbounded_channel();
        let app = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(answer))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .route("/2018-06-01/runtime/init/error", post(error))
            .with_state(Arc::new(Shared { events: Mutex::new(waiting), steps: seen }));
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, events, steps, server: server.abort_handle() }
    }

    /// For `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the process asks for an event; returns when it did.
    pub async fn wait_for_next(&mut self) -> Result<Instant, String> {
        match self.step().await? {
            (at, Step::NextEvent) => Ok(at),
            (_, other) => Err(format!("{other:?} instead of asking for an event")),
        }
    }

    /// Sends an event to the process, which must have asked for one; returns how long the answer took, and the answer.
    pub async fn invoke(&mut self, event: String) -> Result<(Duration, Value), String> {
        let since = Instant::now();
        let sent = self.events.send(event).await;
        sent.map_err(|_| "the process does not ask for events".to_owned())?;
        match self.step().await? {
            (at, Step::Answer(answer)) => {
                let answer = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
                Ok((at - since, answer))
            }
            (_, other) => Err(format!("{other:?} instead of an answer")),
        }
    }

    async fn step(&mut self) -> Result<(Instant, Step), String> {
        match timeout(PATIENCE, self.steps.recv()).await {
            Ok(Some((_, Step::Error(report)))) => {
                Err(format!("it reported {}", String::from_utf8_lossy(&report)))
            }
            Ok(Some(step)) => Ok(step),
            Ok(None) => Err("the runtime API is gone".to_owned()),
            Err(_) => Err(format!("nothing for {PATIENCE:?}")),
        }
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn record(&self, step: Step) -> (StatusCode, &'static str) {
        let _ = self.steps.send((Instant::now(), step));
        (StatusCode::ACCEPTED, r#"{"status":"OK"}"#)
    }
}

async fn next(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    shared.record(Step::NextEvent);
    let event = shared.events.lock().await.recv().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let deadline = now.unwrap_or_default() + PATIENCE;
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd".to_owned()),
        ("lambda-runtime-deadline-ms", deadline.as_millis().to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:us-east-1:123456789012:function:cbbootstrap".to_owned(),
        ),
        (
            "lambda-runtime-trace-id",
            "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0".to_owned(),
        ),
    ];
    (headers, event.unwrap_or_default())
}

async fn answer(State(shared): State<Arc<Shared>>, body: Bytes) -> impl IntoResponse {
    shared.record(Step::Answer(body))
}

async fn error(State(shared): State<Arc<Shared>>, body: Bytes) -> impl IntoResponse {
    shared.record(Step::Error(body))
}
