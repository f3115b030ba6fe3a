//! moto, a second stand-in for DynamoDB, which shares no code with MiniStack.

use crate::{
    http,
    process::{Guard, free_port, spawn_leashed, wait_until},
    python,
};

#[derive(Debug)]
pub struct Moto {
    /// The value of `AWS_ENDPOINT_URL`.
    pub url: String,
    _process: Guard,
}

impl Moto {
    pub fn start() -> Self {
        let port = free_port().to_string();
        let url = format!("http://127.0.0.1:{port}");
        let args = ["--host", "127.0.0.1", "--port", &port];
        let process = spawn_leashed(&python::bin().join("moto_server"), &args, []);
        wait_until("moto answers", || {
            http::get(&url, "/moto-api/data.json").is_ok_and(|answer| answer.status == 200)
        });
        Self { url, _process: process }
    }
}
