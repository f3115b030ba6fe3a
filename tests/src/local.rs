//! The API on this machine, beside the test: `deploy --local` or `serve`.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension};
use serde_json::Value;

use crate::{
    cli::User,
    process::{self, Guard},
    programs,
};

/// A server that is up.
#[derive(Debug)]
pub struct Local {
    /// Where the API is.
    pub endpoint: String,
    /// What it wrote on stderr so far.
    pub messages: Arc<Mutex<String>>,
    guard: Guard,
    data: PathBuf,
    _user: User,
}

impl Local {
    /// Starts `deploy --local` on this data directory and waits until it is up.
    pub fn start(data: &Path) -> Self {
        Self::with(data, &[])
    }

    /// With more options.
    pub fn with(data: &Path, options: &[&str]) -> Self {
        Self::of(User::default(), data, options)
    }

    /// This user's.
    pub fn of(user: User, data: &Path, options: &[&str]) -> Self {
        let directory = data.display().to_string();
        let deploy = ["deploy", "--local", "--port", "0", "--data", &directory];
        Self::run(user, data, &[&deploy, options].concat())
    }

    /// `serve` on this data directory.
    pub fn serve(data: &Path, options: &[&str]) -> Self {
        let directory = data.display().to_string();
        let serve = ["serve", "--port", "0", "--data", &directory];
        Self::run(User::default(), data, &[&serve, options].concat())
    }

    /// `serve` over a table, by this user.
    pub fn over_table(user: User, table: &str, options: &[&str]) -> Self {
        let serve = ["serve", "--port", "0", "--table", table];
        Self::run(user, Path::new("/nowhere"), &[&serve, options].concat())
    }

    fn run(user: User, data: &Path, args: &[&str]) -> Self {
        let mut child = user
            .leashed(&programs::cbbootstrap(), &[args, &["--output", "json"]].concat())
            .spawn()
            .expect("`cbbootstrap` can be run");
        let (stdout, stderr) =
            (child.stdout.take().expect("it is piped"), child.stderr.take().expect("it is piped"));
        let guard = Guard(child);
        let messages = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&messages);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                heard.lock().expect("nobody panics with it").extend([line.as_str(), "\n"]);
            }
        });
        // The document ends with the line `}`; the server goes on.
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
        let endpoint = document["endpoint"].as_str().expect("with an endpoint").to_owned();
        Self { endpoint, messages, guard, data: data.to_owned(), _user: user }
    }

    pub fn id(&self) -> u32 {
        self.guard.0.id()
    }

    pub fn database(&self) -> PathBuf {
        self.data.join("clusters.db")
    }

    /// Makes the lease of a cluster's claim end long ago.
    pub fn lapse(&self, cluster_id: &str) {
        let lapsed = lapse(&self.database(), cluster_id);
        assert!(matches!(lapsed, Ok(Some(_))), "no lease runs: {lapsed:?}");
    }

    /// Sends it a signal and waits for its end; the exit status, if it has one.
    pub fn stop(&mut self, signal: &str) -> Option<i32> {
        process::kill(signal, &self.id().to_string());
        // `wait` would close the pipe, which kills the server.
        let pipe = self.guard.0.stdin.take();
        let status = self.guard.0.wait().expect("a child can be waited for");
        drop(pipe);
        status.code()
    }

    /// Its output so far.
    pub fn said(&self) -> String {
        self.messages.lock().expect("nobody panics with it").clone()
    }
}

/// Ends the lease of the claim in this database; returns the claim's generation, or none without a lease.
pub fn lapse(database: &Path, cluster_id: &str) -> rusqlite::Result<Option<u64>> {
    let connection = Connection::open(database)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection
        .query_row(
            "UPDATE clusters SET record = json_set(record, '$.lease_expires_at', '1970-01-01T00:00:01Z')
             WHERE cluster_id = ? AND record ->> 'state' = 'claimed'
             AND record ->> 'lease_expires_at' > '1970-01-01T00:00:01Z' RETURNING record ->> 'generation'",
            [cluster_id],
            |row| row.get::<_, i64>(0),
        )
        .optional()
        .map(|generation| generation.map(i64::cast_unsigned))
}
