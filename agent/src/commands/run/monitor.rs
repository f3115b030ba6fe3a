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
use crate::server::{Health, Membership, View};

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
        let checked = SystemTime::now() - state.checked.elapsed();
        let checked = checked.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let cluster = view.as_ref().map(cluster_metrics).unwrap_or_default();
        format!(
            "\
# HELP cbbootstrap_agent_info The agent's version.
# TYPE cbbootstrap_agent_info gauge
cbbootstrap_agent_info{{version=\"{version}\"}} 1
# HELP cbbootstrap_agent_healthy Whether the node is an active, healthy member of its cluster.
# TYPE cbbootstrap_agent_healthy gauge
cbbootstrap_agent_healthy {is_healthy}
# HELP cbbootstrap_agent_api_reachable Whether the API answered the last request.
# TYPE cbbootstrap_agent_api_reachable gauge
cbbootstrap_agent_api_reachable {is_api_reachable}
# HELP cbbootstrap_agent_machine_ends Whether AWS has announced the end of the machine.
# TYPE cbbootstrap_agent_machine_ends gauge
cbbootstrap_agent_machine_ends {has_notice}
# HELP cbbootstrap_agent_last_check_timestamp_seconds When the agent last checked the node.
# TYPE cbbootstrap_agent_last_check_timestamp_seconds gauge
cbbootstrap_agent_last_check_timestamp_seconds {checked}
{cluster}\
# HELP cbbootstrap_agent_reloads_total Number of reloads of the options.
# TYPE cbbootstrap_agent_reloads_total counter
cbbootstrap_agent_reloads_total {reloads}
# HELP cbbootstrap_agent_refusals_total Number of times that the agent stopped for an operator's decision.
# TYPE cbbootstrap_agent_refusals_total counter
cbbootstrap_agent_refusals_total {refusals}
",
            version = env!("CARGO_PKG_VERSION"),
            is_healthy = u8::from(*is_healthy),
            is_api_reachable = u8::from(*is_api_reachable),
            has_notice = u8::from(*has_notice),
            checked = checked.as_secs(),
            reloads = state.reloads,
            refusals = state.refusals,
        )
    }
}

fn cluster_metrics(view: &View) -> String {
    let unhealthy = view.nodes.iter().filter(|node| node.health == Health::Unhealthy).count();
    let count = |membership| view.nodes.iter().filter(|node| node.membership == membership).count();
    format!(
        "\
# HELP cbbootstrap_agent_cluster_balanced Whether the cluster is balanced.
# TYPE cbbootstrap_agent_cluster_balanced gauge
cbbootstrap_agent_cluster_balanced {is_balanced}
# HELP cbbootstrap_agent_cluster_rebalancing Whether a rebalance runs.
# TYPE cbbootstrap_agent_cluster_rebalancing gauge
cbbootstrap_agent_cluster_rebalancing {is_rebalancing}
# HELP cbbootstrap_agent_cluster_unhealthy_nodes Number of nodes that this node cannot reach.
# TYPE cbbootstrap_agent_cluster_unhealthy_nodes gauge
cbbootstrap_agent_cluster_unhealthy_nodes {unhealthy}
# HELP cbbootstrap_agent_cluster_nodes Number of nodes of the cluster.
# TYPE cbbootstrap_agent_cluster_nodes gauge
cbbootstrap_agent_cluster_nodes{{membership=\"active\"}} {active}
cbbootstrap_agent_cluster_nodes{{membership=\"added\"}} {added}
cbbootstrap_agent_cluster_nodes{{membership=\"failed_over\"}} {failed_over}
",
        is_balanced = u8::from(view.is_balanced),
        is_rebalancing = u8::from(view.is_rebalancing),
        active = count(Membership::Active),
        added = count(Membership::Added),
        failed_over = count(Membership::FailedOver),
    )
}
