//! Servers in this process.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tokio::{net::TcpListener, runtime::Builder, sync::oneshot};

/// A server on its own thread, which ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    /// Without a slash at the end.
    pub url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one on a free port.
    pub fn start<F: Future<Output = ()>>(
        serve: impl FnOnce(TcpListener) -> F + Send + 'static,
    ) -> Self {
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        Self::on(socket.expect("there is a free port"), serve)
    }

    pub fn on<F: Future<Output = ()>>(
        socket: std::net::TcpListener,
        serve: impl FnOnce(TcpListener) -> F + Send + 'static,
    ) -> Self {
        socket.set_nonblocking(true).expect("a socket can be set up");
        let url = format!("http://{}", socket.local_addr().expect("a socket has an address"));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(async {
                let socket = TcpListener::from_std(socket).expect("a socket can be used");
                tokio::select! {
                    () = serve(socket) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { url, stop: Some(stop), thread: Some(thread) }
    }

    pub fn route(router: Router) -> Self {
        Self::start(async |socket| drop(axum::serve(socket, router).await))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A request to a [`Stub`].
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A server with the answers of a test, which records its requests.
pub struct Stub {
    pub url: String,
    shared: Arc<Shared>,
    _server: Server,
}

type Answer = dyn FnMut(&Request) -> (u16, String) + Send;

struct Shared {
    answer: Mutex<Box<Answer>>,
    requests: Mutex<Vec<Request>>,
}

impl Stub {
    /// Starts one that answers each request with this status and body.
    pub fn start(answer: impl FnMut(&Request) -> (u16, String) + Send + 'static) -> Self {
        let shared =
            Arc::new(Shared { answer: Mutex::new(Box::new(answer)), requests: Mutex::default() });
        let router = Router::new().fallback(respond).with_state(Arc::clone(&shared));
        let server = Server::route(router);
        Self { url: server.url.clone(), shared, _server: server }
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn respond(
    State(shared): State<Arc<Shared>>,
    Parts { method, uri, headers, .. }: Parts,
    body: String,
) -> Response {
    let request = Request { method: method.to_string(), path: uri.to_string(), headers, body };
    let (status, body) = (shared.answer.lock().unwrap_or_else(PoisonError::into_inner))(&request);
    shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let status = StatusCode::from_u16(status).expect("a test gives a status");
    (status, [("content-type", "application/json")], body).into_response()
}
