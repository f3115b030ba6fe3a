//! A local deployment that runs beside the test.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

use crate::{
    cli::User,
    dynamodb,
    process::{self, Guard, wait_until},
    programs,
};

/// `cbbootstrap deploy --local`, up.
#[derive(Debug)]
pub struct Local {
    /// Where the API is.
    pub endpoint: String,
    /// What it wrote on stderr so far.
    pub messages: Arc<Mutex<String>>,
    guard: Guard,
    /// The processes that it started.
    pub children: Vec<u32>,
    _user: User,
}

impl Local {
    /// Starts one on this data directory and waits until it is up.
    pub fn start(data: &Path) -> Self {
        Self::with(data, &[])
    }

    /// With more options.
    pub fn with(data: &Path, options: &[&str]) -> Self {
        Self::of(User::default(), data, options)
    }

    /// This user's.
    pub fn of(user: User, data: &Path, options: &[&str]) -> Self {
        let (data, source) = (
            data.display().to_string(),
            programs::workspace().display().to_string(),
        );
        let mut args = vec![
            "deploy", "--local", "--port", "0", "--data", &data, "--source", &source, "--output",
            "json",
        ];
        args.extend(options);
        let mut child = user
            .command(&args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("`cbbootstrap` can be run");
        let (stdout, stderr) = (
            child.stdout.take().expect("it is piped"),
            child.stderr.take().expect("it is piped"),
        );
        let guard = Guard(child);
        let messages = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&messages);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                heard
                    .lock()
                    .expect("nobody panics with it")
                    .extend([line.as_str(), "\n"]);
            }
        });
        // The document ends with the line `}`; the deployment goes on.
        let mut stdout = BufReader::new(stdout);
        let mut document = String::new();
        while !document.ends_with("\n}\n") {
            let read = stdout.read_line(&mut document).expect("it writes UTF-8");
            assert!(
                read > 0,
                "it ended: {document}\n{}",
                messages.lock().expect("nobody panics with it")
            );
        }
        thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let document: Value = serde_json::from_str(&document).expect("it prints JSON");
        let endpoint = document["endpoint"]
            .as_str()
            .expect("with an endpoint")
            .to_owned();
        let children = process::children(guard.0.id());
        assert!(!children.is_empty(), "the function is a child process");
        Self {
            endpoint,
            messages,
            guard,
            children,
            _user: user,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.guard.0.id()
    }

    /// The function processes that run now.
    pub fn functions(&self) -> Vec<u32> {
        process::functions(self.id())
    }

    /// What a client takes for the URL of its database, as its function does.
    pub fn database_url(&self) -> String {
        let function = self.functions().pop().expect("a function runs");
        let environment = fs::read_to_string(format!("/proc/{function}/environ"));
        let environment = environment.expect("a process shows its environment to its user");
        let url = environment
            .split('\0')
            .find_map(|variable| variable.strip_prefix("AWS_ENDPOINT_URL="));
        url.expect("the function is told").to_owned()
    }

    /// Makes the lease of a cluster's claim end long ago.
    pub fn lapse(&self, cluster_id: &str) {
        let client = dynamodb::client(&self.database_url());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime can be made");
        let lapsed = runtime.block_on(dynamodb::lapse(&client, cluster_id));
        assert!(matches!(lapsed, Ok(Some(_))), "no lease runs: {lapsed:?}");
    }

    /// Sends it a signal and waits for its end; the exit status, if it has one.
    pub fn stop(&mut self, signal: &str) -> Option<i32> {
        self.children = process::children(self.id());
        process::kill(signal, &self.id().to_string());
        self.guard
            .0
            .wait()
            .expect("a child can be waited for")
            .code()
    }

    /// Waits until none of its processes is left.
    pub fn leaves_no_child(&self) {
        wait_until("no child is left", || {
            !self.children.iter().any(|child| process::is_alive(*child))
        });
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        self.messages.lock().expect("nobody panics with it").clone()
    }
}
