//! MiniStack, an AWS stand-in that runs a function as a process and enforces signatures and policies.
//!
//! It starts in seconds and resets in milliseconds, so tests share a pool.

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    artifact,
    boto::Boto,
    cli::User,
    http,
    process::{self, free_port, wait_until},
    python::Forked,
};

/// The bucket for artifacts that a deployment makes.
pub const BUCKET: &str = "cbbootstrap-artifacts-000000000000-us-east-1";

/// The key of the stand-in's root user.
const ROOT: &str = "test";

/// How long a reset waits for the end of a stack's change.
const PATIENCE: Duration = Duration::from_secs(20);

/// Empty ones that no test uses. They end with the test program.
static IDLE: Mutex<Vec<Server>> = Mutex::new(Vec::new());

#[derive(Debug)]
pub struct MiniStack {
    /// The value of `AWS_ENDPOINT_URL`.
    pub url: String,
    /// None only while it is dropped.
    server: Option<Server>,
    is_pooled: bool,
}

#[derive(Debug)]
struct Server {
    url: String,
    boto: Boto,
    process: Forked,
    /// Its temporary files. Declared after the process, which writes there.
    _directory: TempDir,
}

impl MiniStack {
    /// Takes one from the pool, or starts one.
    pub fn start() -> Self {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self::with(idle.unwrap_or_else(|| Server::start(str::to_owned)), true)
    }

    /// Starts one whose functions call another URL, which `functions_call` derives from the stand-in's.
    pub fn start_with(functions_call: impl FnOnce(&str) -> String) -> Self {
        Self::with(Server::start(functions_call), false)
    }

    fn with(server: Server, is_pooled: bool) -> Self {
        Self { url: server.url.clone(), server: Some(server), is_pooled }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it is not dropped yet")
    }

    /// A user with all permissions.
    pub fn user(&self) -> User {
        user(&self.url)
    }

    /// Deploys the API, and the stack of the cluster `c1` with these options of `launch`. Returns the API's endpoint.
    pub fn launch(&self, options: &[&str]) -> String {
        let user = self.user();
        user.deploy(artifact::small_zip(), &[]).ended_with(0);
        let status = user.run(&["status", "--output", "json"]).document();
        let archive = user.home.path().join("agent.tar.gz");
        artifact::small_agent(&archive);
        let archive = archive.display().to_string();
        let launch = ["launch", "c1", "--vpc=vpc-1", "--subnet=subnet-1", "--agent", &archive];
        user.run(&[&launch[..], options, &["--output", "json"]].concat()).document();
        status["endpoint"].as_str().expect("the API is deployed").to_owned()
    }

    /// The value of a Python expression: [`Boto::value`].
    pub fn boto(&self, expression: &str) -> Value {
        self.server().boto.value(expression)
    }

    /// The running processes of functions.
    pub fn functions(&self) -> Vec<u32> {
        process::functions(self.server().process.id)
    }

    /// Removes everything and ends all functions.
    pub fn reset(&self) {
        assert!(self.server().reset(), "MiniStack cannot be reset");
    }

    /// The names of buckets, tables and stacks.
    pub fn inventory(&self) -> Value {
        self.boto(
            "[[b['Name'] for b in client('s3').list_buckets()['Buckets']], client('dynamodb').list_tables()['TableNames'], \
             [s['StackName'] for s in client('cloudformation').describe_stacks()['Stacks']]]",
        )
    }
}

impl Drop for MiniStack {
    /// After a failure its state is unknown, so it does not return to the pool.
    fn drop(&mut self) {
        let server = self.server.take().filter(|_| self.is_pooled && !thread::panicking());
        if let Some(server) = server.filter(Server::reset) {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(server);
        }
    }
}

impl Server {
    fn start(functions_call: impl FnOnce(&str) -> String) -> Self {
        let port = free_port().to_string();
        let url = format!("http://127.0.0.1:{port}");
        let directory = tempfile::tempdir().expect("temporary directories can be made");
        let process = Forked::start(&json!({
            "TMPDIR": directory.path(),
            "GATEWAY_PORT": port,
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "localhost",
            // Inherited by the functions.
            "AWS_ENDPOINT_URL": functions_call(&url),
            "AUTH": "true",
        }));
        wait_until("MiniStack answers", || {
            http::get(&url, "/_ministack/health").is_ok_and(|answer| answer.status == 200)
        });
        Self { boto: Boto::new(&url), url, process, _directory: directory }
    }

    /// Whether a stack changes.
    fn is_busy(&self) -> bool {
        // Signatures of the root user are not checked.
        let signed = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/cloudformation/aws4_request, \
                      SignedHeaders=host, Signature=0";
        let request = "Action=DescribeStacks&Version=2010-05-15";
        let stacks = http::post_as(&self.url, "/", request, Some(signed));
        stacks.is_ok_and(|stacks| {
            stacks.body.replace("REVIEW_IN_PROGRESS", "").contains("_IN_PROGRESS</StackStatus>")
        })
    }

    fn reset(&self) -> bool {
        // A change would go on after the reset, with the resources of the next test, which have the same names.
        let since = Instant::now();
        while self.is_busy() && since.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(50));
        }
        http::post(&self.url, "/_ministack/reset", "").is_ok_and(|answer| answer.status == 200)
    }
}

/// A user with all permissions.
pub(crate) fn user(url: &str) -> User {
    User::default()
        .with("AWS_ENDPOINT_URL", url)
        .with("AWS_REGION", "us-east-1")
        .with("AWS_ACCESS_KEY_ID", ROOT)
        .with("AWS_SECRET_ACCESS_KEY", ROOT)
}
