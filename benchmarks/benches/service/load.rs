//! Many clients that ask an endpoint, each over a connection of its own, all on one thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use cbbootstrap_benchmarks::Samples;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// How long clients ask before what they see counts: connections are new, and processes may be.
const WARM_UP: Duration = Duration::from_millis(500);

/// Who claims.
const NODE: &str = "ip-10-0-12-34.ec2.internal";

/// A kind of request.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// Claims, each of a new cluster.
    Claims,
    /// Statuses, each of any cluster that is there.
    Statuses,
}

/// What clients saw.
#[derive(Debug)]
pub struct Load {
    /// How long each request took.
    pub latencies: Samples,
    /// Requests a second.
    rate: f64,
}

impl Load {
    /// Several loads as one: the median of the rates, and all requests.
    pub fn of(loads: Vec<Self>) -> Self {
        let mut rates: Vec<_> = loads.iter().map(Self::rate).collect();
        rates.sort_by(f64::total_cmp);
        let mut latencies = Samples::default();
        for load in loads {
            latencies.extend(load.latencies);
        }
        Self { latencies, rate: rates[rates.len() / 2] }
    }

    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.rate
    }
}

/// A service to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// cbbootstrap.
    Api,
    /// etcd, through its JSON gateway: a claim is one transaction that puts a key unless it is there.
    Etcd,
}

/// An endpoint, and the clusters that it knows: those whose number is below this one.
#[derive(Debug)]
pub struct Target {
    host: String,
    kind: Kind,
    clusters: AtomicU64,
}

impl Target {
    /// An endpoint with so many clusters.
    pub fn new(endpoint: &str, kind: Kind, clusters: u64) -> Arc<Self> {
        let host = endpoint.strip_prefix("http://");
        Arc::new(Self {
            host: host.expect("it is here").to_owned(),
            kind,
            clusters: clusters.into(),
        })
    }

    /// The request's bytes.
    fn request(&self, ask: Ask) -> String {
        let id = id(match ask {
            Ask::Claims => self.clusters.fetch_add(1, Ordering::Relaxed),
            Ask::Statuses => fastrand::u64(..self.clusters.load(Ordering::Relaxed)),
        });
        let base64 = |text: &str| BASE64_STANDARD.encode(text);
        match (self.kind, ask) {
            (Kind::Api, Ask::Claims) => {
                let claim = json!({"cluster_id": id, "node_ip_addr_or_hostname": NODE});
                self.post("/cluster", &claim)
            }
            (Kind::Api, Ask::Statuses) => {
                format!("GET /cluster/{id} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host)
            }
            (Kind::Etcd, Ask::Claims) => {
                let (key, value) = (base64(&id), base64(NODE));
                let claim = json!({
                    "compare": [{"target": "CREATE", "key": key, "create_revision": "0"}],
                    "success": [{"request_put": {"key": key, "value": value}}],
                    "failure": [{"request_range": {"key": key}}],
                });
                self.post("/v3/kv/txn", &claim)
            }
            (Kind::Etcd, Ask::Statuses) => self.post("/v3/kv/range", &json!({"key": base64(&id)})),
        }
    }

    fn post(&self, path: &str, body: &Value) -> String {
        let (body, host) = (body.to_string(), &self.host);
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}")
    }

    /// What the right answer holds: the node that asks is the first, as it is where none asks.
    fn expected(&self, ask: Ask) -> &'static str {
        match (self.kind, ask) {
            (Kind::Api, _) => r#""is_initial_node":true"#,
            (Kind::Etcd, Ask::Claims) => r#""succeeded":true"#,
            (Kind::Etcd, Ask::Statuses) => r#""count":"1""#,
        }
    }
}

/// The id of the cluster of this number.
pub fn id(number: u64) -> String {
    format!("cluster-{number}")
}

/// One request.
pub fn one(target: &Target, ask: Ask) {
    runtime().block_on(async {
        Client::connect(target).await.ask(target, ask).await;
    });
}

/// So many clients that ask for so long, each again as soon as it is answered.
pub fn load(target: &Arc<Target>, ask: Ask, clients: usize, time: Duration) -> Load {
    let begin = Instant::now() + WARM_UP;
    let latencies: Samples = runtime().block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(client(Arc::clone(target), ask, begin, begin + time));
        }
        tasks.join_all().await.into_iter().flatten().collect()
    });
    let rate = latencies.len() as f64 / time.as_secs_f64();
    Load { latencies, rate }
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made")
}

/// How long each request took that was answered between these times.
async fn client(target: Arc<Target>, ask: Ask, begin: Instant, end: Instant) -> Vec<Duration> {
    let mut client = Client::connect(&target).await;
    let mut latencies = Vec::new();
    loop {
        let since = Instant::now();
        client.ask(&target, ask).await;
        let now = Instant::now();
        if now > end {
            return latencies;
        }
        if now > begin {
            latencies.push(now - since);
        }
    }
}

/// A connection that is kept. It does as little as it can, for it takes its time from the server's.
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

    /// Sends a request, and sees that the answer is the right one.
    async fn ask(&mut self, target: &Target, ask: Ask) {
        let request = target.request(ask);
        let sent = self.stream.write_all(request.as_bytes()).await;
        sent.expect("connections are kept");
        self.answer.clear();
        while !is_whole(&self.answer) {
            let read = self.stream.read_buf(&mut self.answer).await;
            assert!(read.is_ok_and(|read| read > 0), "connections are kept");
        }
        let answer = std::str::from_utf8(&self.answer).expect("answers are text");
        let is_right = answer.starts_with("HTTP/1.1 200") && answer.contains(target.expected(ask));
        assert!(is_right, "{answer}");
    }
}

/// Whether the answer's body is as long as its head says.
fn is_whole(answer: &[u8]) -> bool {
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
