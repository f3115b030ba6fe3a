//! MiniStack, an AWS stand-in that runs a function as a process and, told so, enforces signatures and policies.

use std::{
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    boto::Boto,
    cli::User,
    http,
    process::{self, Guard, wait_until},
    python,
};

/// The key of the stand-in's root user.
const ROOT: &str = "test";

/// A running stand-in.
#[derive(Debug)]
pub struct MiniStack {
    /// What `AWS_ENDPOINT_URL` is to be.
    pub url: String,
    boto: Boto,
    process: Guard,
    /// What it unpacks, the functions among it. After the process, which writes there.
    _directory: TempDir,
}

impl MiniStack {
    /// Starts one on a free port.
    pub fn start() -> Self {
        Self::start_with(str::to_owned)
    }

    /// Starts one whose functions make their own calls elsewhere: at what this makes of the stand-in's URL.
    pub fn start_with(functions_call: impl FnOnce(&str) -> String) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let port = socket.local_addr().expect("a socket has an address").port();
        drop(socket);
        let url = format!("http://127.0.0.1:{port}");
        let directory = tempfile::tempdir().expect("temporary directories can be made");
        let process = Command::new(python::bin().join("ministack"))
            .env_clear()
            .env("TMPDIR", directory.path())
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("GATEWAY_PORT", port.to_string())
            .env("BIND_HOST", "127.0.0.1")
            .env("MINISTACK_HOST", "localhost")
            // The functions that it runs take this from it.
            .env("AWS_ENDPOINT_URL", functions_call(&url))
            .env("AUTH", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("MiniStack can be run");
        let stack =
            Self { boto: Boto::new(&url), url, process: Guard(process), _directory: directory };
        wait_until("MiniStack answers", || {
            http::get(&stack.url, "/_ministack/health").is_ok_and(|answer| answer.status == 200)
        });
        stack
    }

    /// A user of it who may do everything.
    pub fn user(&self) -> User {
        user(&self.url)
    }

    /// What boto3 finds: [`Boto::value`].
    pub fn boto(&self, expression: &str) -> Value {
        self.boto.value(expression)
    }

    /// The function processes that run now.
    pub fn functions(&self) -> Vec<u32> {
        process::functions(self.process.0.id())
    }

    /// Forgets everything, and ends the functions that run: as good as a new one, and sooner there.
    pub fn reset(&self) {
        let reset = http::post(&self.url, "/_ministack/reset", "");
        let reset = reset.expect("MiniStack answers");
        assert_eq!(reset.status, 200, "{reset:?}");
    }

    /// Everything that a deployment could have made: buckets, tables and stacks.
    pub fn inventory(&self) -> Value {
        self.boto(
            "[[b['Name'] for b in client('s3').list_buckets()['Buckets']], client('dynamodb').list_tables()['TableNames'], \
             [s['StackName'] for s in client('cloudformation').describe_stacks()['Stacks']]]",
        )
    }
}

/// A user who may do everything, at this URL.
pub(crate) fn user(url: &str) -> User {
    User::default()
        .with("AWS_ENDPOINT_URL", url)
        .with("AWS_REGION", "us-east-1")
        .with("AWS_ACCESS_KEY_ID", ROOT)
        .with("AWS_SECRET_ACCESS_KEY", ROOT)
}
