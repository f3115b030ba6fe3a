//! The nodes' ports: HTTP and TLS, and what tests do to requests.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, TcpListener},
    sync::{Arc, Mutex},
    thread::ThreadId,
    time::{Duration, Instant},
};

use super::{
    Seen, Then, lock,
    model::World,
    rest::{self, Form, HTTP, HTTPS, Reply},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener as Listener, TcpStream, lookup_host},
    sync::{Mutex as Turn, watch},
    task::JoinSet,
    time::sleep,
};

type Hook = dyn FnMut(&Seen) -> Then + Send;

/// What the nodes' thread and the test share.
pub struct Shared {
    pub world: Mutex<World>,
    pub seen: Mutex<Vec<Seen>>,
    pub hook: Mutex<Box<Hook>>,
    /// A member adds one node at a time.
    pub turns: Vec<Turn<()>>,
    /// How often each node was switched on or off: it is on when the number is even.
    pub switched: Vec<watch::Sender<u32>>,
    pub is_listening: Vec<watch::Sender<bool>>,
}

impl Shared {
    /// The nodes of this world, each switched on or off as it is there.
    pub fn new(world: World) -> Self {
        let is_up: Vec<_> = world.nodes.iter().map(|node| node.is_up).collect();
        let switched = |is_up: &bool| watch::Sender::new(u32::from(!is_up));
        Self {
            seen: Mutex::default(),
            hook: Mutex::new(Box::new(|_| Then::Handle)),
            turns: is_up.iter().map(|_| Turn::default()).collect(),
            switched: is_up.iter().map(switched).collect(),
            is_listening: is_up.iter().map(|_| watch::Sender::new(true)).collect(),
            world: Mutex::new(world),
        }
    }

    /// Switches a node and, unless the nodes' own thread asks, waits until that has had its effect.
    pub fn switch(&self, node: usize, on: bool, thread: Option<ThreadId>) {
        let mut world = lock(&self.world);
        let hangs = world.nodes[node].hangs;
        if world.nodes[node].is_up == on {
            return;
        }
        let now = world.now();
        world.settle(now);
        world.set_power(node, on, hangs, now);
        drop(world);
        self.switched[node].send_modify(|times| *times += 1);
        let since = Instant::now();
        while thread != Some(std::thread::current().id()) && *self.is_listening[node].borrow() != on
        {
            assert!(since.elapsed() < Duration::from_secs(30), "node {node} cannot be switched");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The sockets of a node: HTTP, and TLS unless it is of the Community Edition.
pub struct Sockets(TcpListener, Option<TcpListener>);

impl Sockets {
    pub fn bind(address: Ipv4Addr, with_tls: bool) -> io::Result<Self> {
        let bind = |port| {
            let socket = TcpListener::bind((address, port))?;
            socket.set_nonblocking(true).map(|()| socket)
        };
        Ok(Self(bind(HTTP)?, with_tls.then(|| bind(HTTPS)).transpose()?))
    }
}

/// Serves a node for good, while it is on.
pub async fn serve(shared: Arc<Shared>, node: usize, first: Sockets) {
    let mut switched = shared.switched[node].subscribe();
    let mut sockets = Some(first);
    loop {
        let times = *switched.borrow_and_update();
        if times.is_multiple_of(2) {
            let (address, with_tls) = {
                let world = lock(&shared.world);
                (world.nodes[node].address, !world.knobs.community)
            };
            let bound = sockets.take().map_or_else(|| Sockets::bind(address, with_tls), Ok);
            let Ok(Sockets(http, https)) = bound else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            shared.is_listening[node].send_replace(true);
            tokio::select! {
                () = accept(&shared, node, http, false) => {}
                () = accept_tls(&shared, node, https) => {}
                _ = switched.changed() => {}
            }
            shared.is_listening[node].send_replace(false);
        } else {
            // It may never have been on.
            sockets = None;
            shared.is_listening[node].send_replace(false);
            let _ = switched.changed().await;
        }
    }
}

async fn accept_tls(shared: &Arc<Shared>, node: usize, socket: Option<TcpListener>) {
    match socket {
        Some(socket) => accept(shared, node, socket, true).await,
        None => std::future::pending().await,
    }
}

/// Accepts connections; they end with this.
async fn accept(shared: &Arc<Shared>, node: usize, socket: TcpListener, with_tls: bool) {
    let socket = Listener::from_std(socket).expect("a socket can be used");
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(receive(Arc::clone(shared), node, stream, with_tls));
    }
}

/// Answers what comes over a connection to a node.
pub async fn receive(shared: Arc<Shared>, node: usize, stream: TcpStream, with_tls: bool) {
    // A node's certificate may change between two connections.
    let tls = {
        let mut world = lock(&shared.world);
        let now = world.now();
        world.settle(now);
        if world.is_closed(node, now) {
            return;
        }
        with_tls.then(|| world.nodes[node].identity.acceptor.clone())
    };
    match tls {
        None => converse(shared, node, stream).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                converse(shared, node, stream).await;
            }
        }
    }
}

async fn converse(
    shared: Arc<Shared>,
    node: usize,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            // What has begun goes on when the client is gone, and ends when the node is switched off.
            let mut switched = shared.switched[node].subscribe();
            let answered = tokio::spawn(async move {
                tokio::select! {
                    reply = answer(&shared, node, &head, &body) => reply,
                    _ = switched.changed() => None,
                }
            });
            let reply = answered.await.ok().flatten();
            let reply = reply.ok_or_else(|| io::Error::other("nothing is answered"))?;
            let mut response = Response::builder().status(reply.status);
            for (name, value) in reply.headers {
                response = response.header(name, value);
            }
            let body = Full::new(Bytes::from(reply.body));
            response.body(body).map_err(io::Error::other)
        }
    });
    // Its error is a connection that was closed, by the client or on purpose.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The answer; none if the connection is to be closed without one.
async fn answer(shared: &Shared, node: usize, head: &Parts, body: &Bytes) -> Option<Reply> {
    let request = understand(head, body).await;
    let mut seen = Seen::of(node, &request);
    {
        let mut all = lock(&shared.seen);
        seen.number = all.len() + 1;
        all.push(seen.clone());
    }
    let then = lock(&shared.hook)(&seen);
    let (is_up, hangs, fails) = {
        let mut world = lock(&shared.world);
        let now = world.now();
        world.settle(now);
        let is_open = !world.is_closed(node, now);
        let node = &world.nodes[node];
        (node.is_up && is_open, node.hangs, node.answers_500)
    };
    if hangs {
        return std::future::pending().await;
    }
    let is_lost = then == Then::Lose;
    let reply = match then {
        _ if !is_up => return None,
        Then::Drop => return None,
        Then::Refuse(status, body) => Reply::refuse_with(status, body),
        Then::Answer(status) => Reply::json(status, &json!(["This is a test."])),
        Then::Handle | Then::Lose if fails => Reply::unexpected(),
        Then::Handle | Then::Lose => rest::answer(shared, node, &request).await,
    };
    if let Some(seen) = lock(&shared.seen).get_mut(seen.number - 1) {
        seen.status = Some(reply.status);
    }
    (!is_lost).then_some(reply)
}

async fn understand(head: &Parts, body: &Bytes) -> rest::Request {
    let content_type = head.headers.get(CONTENT_TYPE);
    let is_json = content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let json = is_json.then(|| serde_json::from_slice(body).unwrap_or_default());
    let form = if is_json { Form::default() } else { Form::parse(body) };
    let mut resolved = HashMap::new();
    if head.method == "POST" {
        for host in rest::hosts(&form) {
            if let Some(address) = resolve(host).await {
                resolved.insert(host.to_owned(), address);
            }
        }
    }
    rest::Request {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: Form::parse(head.uri.query().unwrap_or_default().as_bytes()),
        form,
        json,
        login: login(head),
        resolved,
    }
}

/// Names without a dot are not asked about: the server refuses them anyway.
async fn resolve(host: &str) -> Option<Ipv4Addr> {
    if let Ok(address) = host.parse() {
        return Some(address);
    }
    if !host.contains('.') {
        return None;
    }
    let mut addresses = lookup_host((host, HTTP)).await.ok()?;
    addresses.find_map(|address| match address.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

fn login(head: &Parts) -> Option<(String, String)> {
    let header = head.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let decoded = BASE64_STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}
