//! The Lambda runtime API, as one function process sees it: where it gets invocations and leaves its answers.
//!
//! Every process has one to itself, so that none can take or answer another's invocations.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot},
    task::AbortHandle,
};

use super::{ACCOUNT_ID, FUNCTION_NAME, REGION, gateway::MAX_PAYLOAD};

/// One call of the function.
#[derive(Debug)]
pub struct Invocation {
    /// Its id, which the answer names.
    pub id: String,
    /// The event, in JSON.
    pub event: Bytes,
    /// When the answer is due.
    pub deadline: SystemTime,
}

/// What a function process made of an invocation.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It answered.
    Response(Bytes),
    /// It reported an error, with this message.
    Error(String),
}

/// The runtime API of one function process. It ends when dropped.
#[derive(Debug)]
pub struct RuntimeApi {
    address: SocketAddr,
    invocations: mpsc::Sender<(Invocation, oneshot::Sender<Answer>)>,
    desk: Arc<Desk>,
    server: AbortHandle,
}

/// What the API's routes share.
#[derive(Debug)]
struct Desk {
    invocations: tokio::sync::Mutex<mpsc::Receiver<(Invocation, oneshot::Sender<Answer>)>>,
    /// The invocation that the process works at, and who waits for it.
    current: Mutex<Option<(String, oneshot::Sender<Answer>)>>,
    /// The process has asked for an invocation.
    asked: Notify,
    /// Why the process could not start, if it said so.
    init_error: Mutex<Option<String>>,
}

impl RuntimeApi {
    /// Starts one on a free port of the loopback address.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("cannot listen on 127.0.0.1 for the function")?;
        let address = listener.local_addr()?;
        let (invocations, receiver) = mpsc::channel(1);
        let desk = Arc::new(Desk {
            invocations: tokio::sync::Mutex::new(receiver),
            current: Mutex::default(),
            asked: Notify::new(),
            init_error: Mutex::default(),
        });
        let app = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route(
                "/2018-06-01/runtime/invocation/{id}/response",
                post(response),
            )
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .route("/2018-06-01/runtime/init/error", post(init_error))
            .layer(DefaultBodyLimit::max(MAX_PAYLOAD))
            .with_state(Arc::clone(&desk));
        let serve = async move { axum::serve(listener, app).await };
        Ok(Self {
            address,
            invocations,
            desk,
            server: tokio::spawn(serve).abort_handle(),
        })
    }

    /// For the process's `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the process asks for an invocation that it has not asked for before.
    pub async fn asked(&self) {
        self.desk.asked.notified().await;
    }

    /// Hands an invocation to the process, which has asked for it, and waits for the answer.
    ///
    /// There is none where the process asks for the next invocation instead.
    pub async fn invoke(&self, invocation: Invocation) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        self.invocations.send((invocation, answer)).await.ok()?;
        answered.await.ok()
    }

    /// Why the process could not start, if it said so.
    pub fn init_error(&self) -> Option<String> {
        let init_error = &self.desk.init_error;
        let mut init_error = init_error.lock().unwrap_or_else(PoisonError::into_inner);
        init_error.take()
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Desk {
    /// Makes this the current invocation. Whoever waits for the one before waits in vain.
    fn work_at(&self, current: Option<(String, oneshot::Sender<Answer>)>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }

    /// Passes the answer on, if it is to the current invocation.
    fn answer(&self, id: &str, answer: Answer) -> Response {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match current.take_if(|(current, _)| current == id) {
            Some((_, waiting)) => {
                // Nobody waits when it took too long.
                let _ = waiting.send(answer);
                (StatusCode::ACCEPTED, Json(json!({"status": "OK"}))).into_response()
            }
            None => refused(
                StatusCode::BAD_REQUEST,
                "InvalidRequestID",
                "this process has no such invocation",
            ),
        }
    }
}

fn refused(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = json!({"errorType": kind, "errorMessage": message});
    (status, Json(body)).into_response()
}

async fn next(State(desk): State<Arc<Desk>>) -> Response {
    desk.work_at(None);
    let mut invocations = desk.invocations.lock().await;
    desk.asked.notify_one();
    let Some((invocation, answer)) = invocations.recv().await else {
        return refused(StatusCode::GONE, "Gone", "the process is not needed");
    };
    let headers = context(&invocation);
    desk.work_at(Some((invocation.id, answer)));
    (headers, Body::from(invocation.event)).into_response()
}

/// The invocation's context, as headers.
fn context(invocation: &Invocation) -> [(&'static str, String); 5] {
    let since_1970 = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let deadline = since_1970(invocation.deadline);
    // X-Ray's form: the time and 96 bits, then 64 bits.
    let digits = invocation.id.replace('-', "");
    let trace = format!(
        "Root=1-{:08x}-{:.24};Parent={:.16};Sampled=0",
        deadline.as_secs(),
        digits,
        digits
    );
    [
        ("content-type", "application/json".to_owned()),
        ("lambda-runtime-aws-request-id", invocation.id.clone()),
        (
            "lambda-runtime-deadline-ms",
            deadline.as_millis().to_string(),
        ),
        (
            "lambda-runtime-invoked-function-arn",
            format!("arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{FUNCTION_NAME}"),
        ),
        ("lambda-runtime-trace-id", trace),
    ]
}

async fn response(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    match body {
        Ok(body) => desk.answer(&id, Answer::Response(body)),
        Err(rejection) => {
            let message = format!("its answer could not be read: {}", rejection.body_text());
            desk.answer(&id, Answer::Error(message.clone()));
            refused(
                rejection.status(),
                "Function.ResponseSizeTooLarge",
                &message,
            )
        }
    }
}

async fn error(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    desk.answer(&id, Answer::Error(error_message(&headers, &body)))
}

async fn init_error(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let message = error_message(&headers, &body);
    let init_error = &desk.init_error;
    *init_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
    (StatusCode::ACCEPTED, Json(json!({"status": "OK"})))
}

/// What an error report says: a JSON document as Lambda defines it, or whatever else was sent.
fn error_message(headers: &HeaderMap, body: &[u8]) -> String {
    let report: Value = serde_json::from_slice(body).unwrap_or_default();
    let header = headers.get("lambda-runtime-function-error-type");
    let kind = report["errorType"]
        .as_str()
        .or_else(|| header?.to_str().ok());
    let message = report["errorMessage"].as_str().map_or_else(
        || String::from_utf8_lossy(body).trim().to_owned(),
        str::to_owned,
    );
    match kind {
        Some(kind) if message.is_empty() => kind.to_owned(),
        Some(kind) => format!("{kind}: {message}"),
        None if message.is_empty() => "it did not say why".to_owned(),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_reports_are_read() {
        for (header, body, expected) in [
            (None, "", "it did not say why"),
            (None, "oh no\n", "oh no"),
            (None, r#"{"errorType": "A", "errorMessage": "b"}"#, "A: b"),
            (
                Some("H"),
                r#"{"errorType": "A"}"#,
                "A: {\"errorType\": \"A\"}",
            ),
            (Some("H"), r#"{"errorMessage": "b"}"#, "H: b"),
            (Some("H"), "", "H"),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(
                    "lambda-runtime-function-error-type",
                    header.parse().unwrap(),
                );
            }
            assert_eq!(
                error_message(&headers, body.as_bytes()),
                expected,
                "{header:?} {body}"
            );
        }
    }

    #[test]
    fn the_context_is_lambdas() {
        let headers = context(&Invocation {
            id: "8476a536-e9f4-11e8-9739-2dfe598c3fcd".to_owned(),
            event: Bytes::new(),
            deadline: UNIX_EPOCH + Duration::from_millis(1_542_409_706_888),
        });
        let expected = [
            ("content-type", "application/json"),
            (
                "lambda-runtime-aws-request-id",
                "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
            ),
            ("lambda-runtime-deadline-ms", "1542409706888"),
            (
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:us-east-1:000000000000:function:cbbootstrap",
            ),
            (
                "lambda-runtime-trace-id",
                "Root=1-5bef4de a-8476a536e9f411e897392dfe;Parent=8476a536e9f411e8;Sampled=0",
            ),
        ];
        let expected = expected.map(|(name, value)| (name, value.replace(' ', "")));
        assert_eq!(headers, expected);
    }
}
