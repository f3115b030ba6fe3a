//! etcd, an alternative for agreeing on one node.

use std::{
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use cbbootstrap_tests::{
    http,
    process::{Guard, wait_until},
};

/// A cluster of one member. Like `serve`, it syncs its log before it answers.
#[derive(Debug)]
pub struct Etcd {
    /// Of the JSON gateway.
    pub endpoint: String,
    _process: Guard,
}

impl Etcd {
    pub fn start(data: &Path) -> Self {
        let [clients, peers] = [(); 2].map(|()| {
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            let address = socket.and_then(|socket| socket.local_addr());
            format!("http://{}", address.expect("there is a free port"))
        });
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(data)
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}"), "--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("etcd is installed (Debian's package `etcd-server`)");
        let etcd = Self { endpoint: clients, _process: Guard(process) };
        wait_until("etcd is healthy", || {
            let health = http::get(&etcd.endpoint, "/health");
            health.is_ok_and(|answer| answer.body.contains("\"true\""))
        });
        etcd
    }
}
