//! `GET /healthz` and `GET /metrics` on a loopback port, and the watchdog: the state of the node as the agent last saw it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;

use super::systemd;
use crate::server::{Health, Membership, NodeInfo, View};

/// The longest round, such as a join that asks many members of which none answers. Each call has a shorter time limit.
const ROUND_LIMIT: Duration = Duration::from_mins(15);

/// The time limit for a request, and its largest size.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);
const MAX_REQUEST_BYTES: usize = 8192;

/// The pause after an error of `accept`: too many open files are not fewer at once.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Monitor(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The end of the last round.
    checked: Instant,
    report: Report,
    reloads: u64,
    refusals: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub is_healthy: bool,
    /// Why not, or what the agent does.
    pub status: String,
    pub is_api_reachable: bool,
    pub has_notice: bool,
    pub view: Option<View>,
}

impl Monitor {
    pub(super) fn new() -> Arc<Self> {
        let report = Report { status: "the agent starts".to_owned(), ..Report::default() };
        let checked = Instant::now();
        Arc::new(Self(Mutex::new(State { checked, report, reloads: 0, refusals: 0 })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish(&self, report: Report) {
        let mut state = self.state();
        (state.checked, state.report) = (Instant::now(), report);
    }

    pub(super) fn count_reload(&self) {
        self.state().reloads += 1;
    }

    pub(super) fn count_refusal(&self) {
        self.state().refusals += 1;
    }

    /// Tells systemd regularly that the agent is alive, unless a round does not end.
    pub(super) fn watch(self: &Arc<Self>) {
        let Some(interval) = systemd::watchdog_interval() else {
            return;
        };
        let monitor = Arc::clone(self);
        thread::spawn(move || {
            loop {
                if monitor.state().checked.elapsed() < ROUND_LIMIT {
                    systemd::notify("WATCHDOG", "1");
                }
                thread::sleep(interval);
            }
        });
    }

    /// Serves requests on this port of 127.0.0.1, one after the other. Returns the URL.
    pub(super) fn serve(self: &Arc<Self>, port: u16) -> anyhow::Result<String> {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = bound.with_context(|| format!("cannot listen on 127.0.0.1:{port}"))?;
        let url = format!("http://{}", listener.local_addr()?);
        let monitor = Arc::clone(self);
        thread::spawn(move || {
            for stream in listener.incoming() {
                match stream {
                    // After an error, the client is gone, or does not speak HTTP.
                    Ok(stream) => drop(monitor.respond(&stream)),
                    Err(_) => thread::sleep(ACCEPT_PAUSE),
                }
            }
        });
        Ok(url)
    }

    fn respond(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(REQUEST_LIMIT))?;
        stream.set_write_timeout(Some(REQUEST_LIMIT))?;
        let (started, mut request, mut buffer) = (Instant::now(), Vec::new(), [0; 1024]);
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            let length = stream.read(&mut buffer)?;
            request.extend_from_slice(&buffer[..length]);
            let is_over = started.elapsed() >= REQUEST_LIMIT || request.len() > MAX_REQUEST_BYTES;
            if length == 0 || is_over {
                return Ok(());
            }
        }
        let request = String::from_utf8_lossy(&request);
        let (status, body) = match request.split(' ').take(2).collect::<Vec<_>>().as_slice() {
            ["GET", "/healthz"] => self.health(),
            ["GET", "/metrics"] => ("200 OK", self.metrics()),
            ["GET", _] => ("404 Not Found", "not found\n".to_owned()),
            _ => ("405 Method Not Allowed", "only GET is allowed\n".to_owned()),
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {length}\r\n\
             Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
        )
    }

    fn health(&self) -> (&'static str, String) {
        let state = self.state();
        let (seconds, Report { is_healthy, status, .. }) =
            (state.checked.elapsed().as_secs(), &state.report);
        if *is_healthy && state.checked.elapsed() < ROUND_LIMIT {
            return ("200 OK", "ok\n".to_owned());
        }
        ("503 Service Unavailable", format!("{status} (checked {seconds} s ago)\n"))
    }

    fn metrics(&self) -> String {
        let state = self.state();
        let Report { is_healthy, is_api_reachable, has_notice, view, .. } = &state.report;
        let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
        let checked = SystemTime::now() - state.checked.elapsed();
        let checked = checked.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let is_member = "Whether the node is an active, healthy member of its cluster.";
        let refusals = "Number of times that the agent stopped for an operator's decision.";
        [
            metric("gauge", "info", "The agent's version.", &[(version, 1)]),
            gauge("healthy", is_member, *is_healthy),
            gauge("api_reachable", "Whether the API answered the last request.", *is_api_reachable),
            gauge("machine_ends", "Whether AWS has announced the end of the machine.", *has_notice),
            gauge("last_check_timestamp_seconds", "When the agent last checked the node.", checked),
            view.as_ref().map(cluster_metrics).unwrap_or_default(),
            counter("reloads_total", "Number of reloads of the options.", state.reloads),
            counter("refusals_total", refusals, state.refusals),
        ]
        .concat()
    }
}

fn cluster_metrics(view: &View) -> String {
    let count =
        |is_counted: fn(&&NodeInfo) -> bool| view.nodes.iter().filter(is_counted).count() as u64;
    let nodes = [
        ("{membership=\"active\"}", count(|node| node.membership == Membership::Active)),
        ("{membership=\"added\"}", count(|node| node.membership == Membership::Added)),
        ("{membership=\"failed_over\"}", count(|node| node.is_failed_over())),
    ];
    let unhealthy = count(|node| node.health == Health::Unhealthy);
    [
        gauge("cluster_balanced", "Whether the cluster is balanced.", view.is_balanced),
        gauge("cluster_rebalancing", "Whether a rebalance runs.", view.is_rebalancing),
        gauge("cluster_unhealthy_nodes", "Number of nodes that this node cannot reach.", unhealthy),
        metric("gauge", "cluster_nodes", "Number of nodes of the cluster.", &nodes),
    ]
    .concat()
}

fn gauge(name: &str, help: &str, value: impl Into<u64>) -> String {
    metric("gauge", name, help, &[("", value.into())])
}

fn counter(name: &str, help: &str, value: u64) -> String {
    metric("counter", name, help, &[("", value)])
}

/// A metric in the text format of Prometheus, with its values by their labels.
fn metric(kind: &str, name: &str, help: &str, values: &[(&str, u64)]) -> String {
    let name = format!("cbbootstrap_agent_{name}");
    let lines = values.iter().map(|(labels, value)| format!("{name}{labels} {value}\n"));
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{}", lines.collect::<String>())
}
