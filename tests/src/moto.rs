//! moto, an AWS stand-in that has nothing in common with MiniStack: a second opinion on DynamoDB.

use std::{
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use crate::{
    http,
    process::{Guard, wait_until},
    python,
};

/// A running stand-in.
#[derive(Debug)]
pub struct Moto {
    /// What `AWS_ENDPOINT_URL` is to be.
    pub url: String,
    _process: Guard,
}

impl Moto {
    /// Starts one on a free port.
    pub fn start() -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let port = socket.local_addr().expect("a socket has an address").port();
        drop(socket);
        let process = Command::new(python::bin().join("moto_server"))
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("moto can be run");
        let moto = Self { url: format!("http://127.0.0.1:{port}"), _process: Guard(process) };
        wait_until("moto answers", || {
            http::get(&moto.url, "/moto-api/data.json").is_ok_and(|answer| answer.status == 200)
        });
        moto
    }
}
