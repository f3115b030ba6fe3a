//! An API that answers whatever a test wants: the adversary of the agent.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

type Answer = dyn FnMut(&str, &Value) -> (u16, Value) + Send;

/// A request that the API got.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The path.
    pub path: String,
    /// The body.
    pub body: Value,
    /// The header `Authorization`.
    pub authorization: Option<String>,
}

struct Shared {
    answer: Mutex<Box<Answer>>,
    asked: Mutex<Vec<Asked>>,
}

/// A running API, which ends with the test.
pub struct Liar {
    /// Its URL.
    pub url: String,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Liar {
    /// Starts one that answers each path and body so.
    pub fn start(answer: impl FnMut(&str, &Value) -> (u16, Value) + Send + 'static) -> Self {
        let shared =
            Arc::new(Shared { answer: Mutex::new(Box::new(answer)), asked: Mutex::default() });
        let socket =
            std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        socket.set_nonblocking(true).expect("a socket can be set up");
        let url = format!("http://{}", socket.local_addr().expect("a socket has an address"));
        let router = Router::new().fallback(answer_to).with_state(Arc::clone(&shared));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let serve = async {
                let socket =
                    tokio::net::TcpListener::from_std(socket).expect("a socket can be used");
                tokio::select! {
                    _ = axum::serve(socket, router) => {}
                    _ = stopped => {}
                }
            };
            runtime.expect("a runtime can be made").block_on(serve);
        });
        Self { url, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn answer_to(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> (StatusCode, Json<Value>) {
    let path = request.uri().path().to_owned();
    let authorization = request.headers().get("authorization");
    let authorization = authorization.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (status, answer) =
        (shared.answer.lock().unwrap_or_else(PoisonError::into_inner))(&path, &body);
    let asked = Asked { path, body, authorization };
    shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(answer))
}

/// An answer of the API about the cluster `demo`, with these fields besides.
pub fn record(asking: &str, first: &str, state: &str, more: &Value) -> Value {
    let mut answer = json!({
        "cluster_id": "demo",
        "initial_node_ip_addr_or_hostname": first,
        "is_initial_node": asking == first,
        "state": state,
        "generation": 1,
    });
    if let (Value::Object(answer), Value::Object(more)) = (&mut answer, more) {
        answer.extend(more.clone());
    }
    answer
}
