//! Many clients that ask an endpoint, each over a connection of its own, all on one thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cbbootstrap_benchmarks::Samples;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpStream, task::JoinSet};

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
    took: Duration,
}

impl Load {
    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }
}

/// An endpoint, and the clusters that it knows: those whose number is below this one.
#[derive(Debug)]
pub struct Target {
    host: String,
    clusters: AtomicU64,
}

impl Target {
    /// A deployment with so many clusters.
    pub fn new(endpoint: &str, clusters: u64) -> Arc<Self> {
        let host = endpoint.strip_prefix("http://");
        Arc::new(Self {
            host: host.expect("it is here").to_owned(),
            clusters: clusters.into(),
        })
    }

    fn request(&self, ask: Ask) -> Request<Full<Bytes>> {
        let request = Request::builder().header(HOST, &self.host);
        let request = match ask {
            Ask::Claims => {
                let id = id(self.clusters.fetch_add(1, Ordering::Relaxed));
                let body = json!({"cluster_id": id, "node_ip_addr_or_hostname": NODE});
                request
                    .method("POST")
                    .uri("/cluster")
                    .body(Full::from(body.to_string()))
            }
            Ask::Statuses => {
                let id = id(fastrand::u64(..self.clusters.load(Ordering::Relaxed)));
                request.uri(format!("/cluster/{id}")).body(Full::default())
            }
        };
        request.expect("it is a request")
    }
}

/// The id of the cluster of this number.
pub fn id(number: u64) -> String {
    format!("cluster-{number}")
}

/// One request.
pub fn one(target: &Arc<Target>, ask: Ask) {
    let runtime = runtime();
    runtime.block_on(async {
        let mut sender = connect(target).await;
        answer(&mut sender, target.request(ask)).await;
    });
}

/// So many clients that ask for so long, each again as soon as it is answered.
pub fn load(target: &Arc<Target>, ask: Ask, clients: usize, time: Duration) -> Load {
    let begin = Instant::now() + WARM_UP;
    let latencies = runtime().block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(client(Arc::clone(target), ask, begin, begin + time));
        }
        tasks.join_all().await.into_iter().flatten().collect()
    });
    Load {
        latencies,
        took: time,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime can be made")
}

/// How long each request took that was answered between these times.
async fn client(target: Arc<Target>, ask: Ask, begin: Instant, end: Instant) -> Vec<Duration> {
    let mut sender = connect(&target).await;
    let mut latencies = Vec::new();
    loop {
        let since = Instant::now();
        answer(&mut sender, target.request(ask)).await;
        let now = Instant::now();
        if now > end {
            return latencies;
        }
        if now > begin {
            latencies.push(now - since);
        }
    }
}

async fn connect(target: &Target) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(&target.host).await;
    let stream = stream.expect("the deployment accepts connections");
    stream.set_nodelay(true).expect("a socket can be set up");
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .expect("a connection begins");
    tokio::spawn(connection);
    sender
}

/// Sends the request, and sees that the answer is the right one: the node that asks is the first, as it is where none asks.
async fn answer(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) {
    sender.ready().await.expect("connections are kept");
    let answer = sender.send_request(request).await;
    let (head, body) = answer.expect("requests are answered").into_parts();
    let body = body.collect().await.expect("answers are whole").to_bytes();
    let is_first = br#""is_initial_node":true"#;
    let is_right = body.windows(is_first.len()).any(|part| part == is_first);
    assert!(
        head.status == 200 && is_right,
        "{}: {}",
        head.status,
        String::from_utf8_lossy(&body)
    );
}
