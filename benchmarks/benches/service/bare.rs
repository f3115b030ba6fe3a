//! The limit: the least that a server does for a claim and a status over the same SQLite, without validation, tokens, limits and a log.

use std::{
    cell::RefCell,
    env,
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::{self, State},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
    serve::ListenerExt,
};
use cbbootstrap_tests::process::Guard;
use rusqlite::Connection;
use serde::Deserialize;
use tokio::{net::TcpListener, sync::oneshot};

/// The argument that makes this program the server.
pub const COMMAND: &str = "bare-server";

/// The same table as `serve` has.
const TABLE: &str = "CREATE TABLE clusters (cluster_id TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT, WITHOUT ROWID";

/// The length of a stored claim in bytes, without cluster and node; the same as that of `serve`.
pub const RECORD: usize = 315;

/// As many as `serve` writes in one transaction.
const BATCH: usize = 512;

/// A running server.
#[derive(Debug)]
pub struct Bare {
    pub endpoint: String,
    _process: Guard,
}

impl Bare {
    pub fn start(database: &Path) -> Self {
        let this = env::current_exe().expect("a program has a path");
        let mut process = Command::new(this)
            .arg(COMMAND)
            .arg(database)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("this program can be run");
        let stdout = process.stdout.take().expect("stdout is piped");
        let process = Guard(process);
        let mut endpoint = String::new();
        let read = BufReader::new(stdout).read_line(&mut endpoint);
        read.expect("the server prints its endpoint");
        Self { endpoint: endpoint.trim().to_owned(), _process: process }
    }
}

/// Serves until the process ends.
pub fn serve(database: PathBuf) -> Result<()> {
    let writer = connect(&database)?;
    writer.execute_batch(TABLE)?;
    let (claims, waiting) = sync_channel(16 * 1024);
    thread::spawn(move || write_forever(&writer, &waiting));
    let router = Router::new()
        .route("/cluster", post(claim))
        .route("/cluster/{id}", get(status))
        .with_state(Service { claims, database });
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("http://{}", listener.local_addr()?);
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        Ok(axum::serve(listener, router).await?)
    })
}

#[derive(Clone)]
struct Service {
    claims: SyncSender<Insertion>,
    database: PathBuf,
}

#[derive(Deserialize)]
struct Claim {
    cluster_id: String,
    node_ip_addr_or_hostname: String,
}

/// A record to write, and where to send it after the commit.
struct Insertion {
    cluster_id: String,
    record: String,
    done: oneshot::Sender<String>,
}

async fn claim(State(service): State<Service>, body: Bytes) -> impl IntoResponse {
    let Ok(Claim { cluster_id, node_ip_addr_or_hostname: node }) = serde_json::from_slice(&body)
    else {
        return Err(StatusCode::BAD_REQUEST);
    };
    let start = format!(
        r#"{{"cluster_id":"{cluster_id}","is_initial_node":true,"initial_node":"{node}","rest":""#
    );
    let width = RECORD + cluster_id.len() + node.len() - 2;
    let record = format!("{start:x<width$}\"}}");
    let (done, written) = oneshot::channel();
    let sent = service.claims.try_send(Insertion { cluster_id, record, done });
    sent.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    written.await.map(json).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

async fn status(
    State(service): State<Service>,
    extract::Path(cluster_id): extract::Path<String>,
) -> impl IntoResponse {
    thread_local! {
        static READER: RefCell<Option<Connection>> = const { RefCell::new(None) };
    }
    READER.with_borrow_mut(|reader| {
        let reader = reader
            .get_or_insert_with(|| connect(&service.database).expect("the database can be opened"));
        let select = reader.prepare_cached("SELECT record FROM clusters WHERE cluster_id = ?");
        let record =
            select.and_then(|mut select| select.query_row([&cluster_id], |row| row.get(0)));
        record.map(json).map_err(|_| StatusCode::NOT_FOUND)
    })
}

fn json(record: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], record)
}

/// Writes all waiting claims in one transaction, and then answers them.
fn write_forever(connection: &Connection, waiting: &Receiver<Insertion>) {
    while let Ok(first) = waiting.recv() {
        let claims: Vec<_> = [first].into_iter().chain(waiting.try_iter()).take(BATCH).collect();
        write(connection, &claims).expect("the database can be written");
        for claim in claims {
            let _ = claim.done.send(claim.record);
        }
    }
}

fn write(connection: &Connection, claims: &[Insertion]) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for Insertion { cluster_id, record, .. } in claims {
        transaction
            .prepare_cached("INSERT OR IGNORE INTO clusters VALUES (?, ?)")?
            .execute([cluster_id, record])?;
    }
    transaction.commit()
}

/// With the settings of `serve`.
fn connect(database: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(database)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}
