//! Parallel clients of an endpoint, each with its own connection, on one thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use cbbootstrap_benchmarks::block_on;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// Requests in this time do not count: connections are new, and processes may be.
const WARM_UP: Duration = Duration::from_millis(500);

const NODE: &str = "ip-10-0-12-34.ec2.internal";

#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Claims a new cluster.
    Claim,
    /// Reads the status of a random cluster.
    Status,
}

/// The measurements of all clients.
#[derive(Debug)]
pub struct Load {
    pub latencies: Vec<Duration>,
    /// Requests a second.
    rate: f64,
}

impl Load {
    /// The median of the rates, and all latencies.
    pub fn merge(loads: Vec<Self>) -> Self {
        let mut rates: Vec<_> = loads.iter().map(Self::rate).collect();
        rates.sort_by(f64::total_cmp);
        let latencies = loads.into_iter().flat_map(|load| load.latencies).collect();
        Self { latencies, rate: rates[rates.len() / 2] }
    }

    pub fn rate(&self) -> f64 {
        self.rate
    }
}

/// The protocol of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Api,
    /// etcd's JSON gateway: a claim is a transaction that puts a key unless it exists.
    Etcd,
}

/// An endpoint, and the number of its clusters.
#[derive(Debug)]
pub struct Target {
    host: String,
    kind: Kind,
    clusters: AtomicU64,
}

impl Target {
    pub fn new(endpoint: &str, kind: Kind, clusters: u64) -> Arc<Self> {
        let host = endpoint.strip_prefix("http://");
        Arc::new(Self {
            host: host.expect("the endpoint is local HTTP").to_owned(),
            kind,
            clusters: clusters.into(),
        })
    }

    fn request(&self, operation: Operation) -> String {
        let id = id(match operation {
            Operation::Claim => self.clusters.fetch_add(1, Ordering::Relaxed),
            Operation::Status => fastrand::u64(..self.clusters.load(Ordering::Relaxed)),
        });
        let base64 = |text: &str| BASE64_STANDARD.encode(text);
        match (self.kind, operation) {
            (Kind::Api, Operation::Claim) => {
                let claim = json!({"cluster_id": id, "node_ip_addr_or_hostname": NODE});
                self.post("/cluster", &claim)
            }
            (Kind::Api, Operation::Status) => {
                format!("GET /cluster/{id} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host)
            }
            (Kind::Etcd, Operation::Claim) => {
                let (key, value) = (base64(&id), base64(NODE));
                let claim = json!({
                    "compare": [{"target": "CREATE", "key": key, "create_revision": "0"}],
                    "success": [{"request_put": {"key": key, "value": value}}],
                    "failure": [{"request_range": {"key": key}}],
                });
                self.post("/v3/kv/txn", &claim)
            }
            (Kind::Etcd, Operation::Status) => {
                self.post("/v3/kv/range", &json!({"key": base64(&id)}))
            }
        }
    }

    fn post(&self, path: &str, body: &Value) -> String {
        let (body, host) = (body.to_string(), &self.host);
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}")
    }

    /// What the right answer holds: the node that asks is the first, as it is where none asks.
    fn expected(&self, operation: Operation) -> &'static str {
        match (self.kind, operation) {
            (Kind::Api, _) => r#""is_initial_node":true"#,
            (Kind::Etcd, Operation::Claim) => r#""succeeded":true"#,
            (Kind::Etcd, Operation::Status) => r#""count":"1""#,
        }
    }
}

pub fn id(number: u64) -> String {
    format!("cluster-{number}")
}

/// Sends one request.
pub fn send_one(target: &Target, operation: Operation) {
    block_on(async {
        Client::connect(target).await.send(target, operation).await;
    });
}

/// Runs clients for some time; each sends the next request when it has the answer.
pub fn load(target: &Arc<Target>, operation: Operation, clients: usize, time: Duration) -> Load {
    let begin = Instant::now() + WARM_UP;
    let latencies: Vec<_> = block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(client(Arc::clone(target), operation, begin, begin + time));
        }
        tasks.join_all().await.into_iter().flatten().collect()
    });
    let rate = latencies.len() as f64 / time.as_secs_f64();
    Load { latencies, rate }
}

/// The latencies of the requests that are answered between these times.
async fn client(
    target: Arc<Target>,
    operation: Operation,
    begin: Instant,
    end: Instant,
) -> Vec<Duration> {
    let mut client = Client::connect(&target).await;
    let mut latencies = Vec::new();
    loop {
        let since = Instant::now();
        client.send(&target, operation).await;
        let now = Instant::now();
        if now > end {
            return latencies;
        }
        if now > begin {
            latencies.push(now - since);
        }
    }
}

/// A connection. It does little, because it shares the cores with the server.
struct Client {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Client {
    async fn connect(target: &Target) -> Self {
        let stream = TcpStream::connect(&target.host).await;
        let stream = stream.expect("the server accepts connections");
        stream.set_nodelay(true).expect("a socket can be set up");
        let answer = Vec::with_capacity(4096);
        Self { stream, answer }
    }

    /// Sends a request and checks the answer.
    async fn send(&mut self, target: &Target, operation: Operation) {
        let request = target.request(operation);
        let sent = self.stream.write_all(request.as_bytes()).await;
        sent.expect("connections are kept");
        self.answer.clear();
        while !is_whole(&self.answer) {
            let read = self.stream.read_buf(&mut self.answer).await;
            assert!(read.is_ok_and(|read| read > 0), "connections are kept");
        }
        let answer = std::str::from_utf8(&self.answer).expect("answers are text");
        let is_right =
            answer.starts_with("HTTP/1.1 200") && answer.contains(target.expected(operation));
        assert!(is_right, "{answer}");
    }
}

/// Whether the body has its `Content-Length`.
pub fn is_whole(answer: &[u8]) -> bool {
    let answer = std::str::from_utf8(answer).expect("answers are text");
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.parse::<usize>().ok())?
    });
    body.len() >= length.expect("answers say how long they are")
}
