//! `serve`: the API as a server on this machine.

use std::{
    fmt::{Display, Formatter},
    net::SocketAddr,
    path::PathBuf,
};

use axum::Router;
use cbbootstrap_function::{
    api::{self, Policy},
    guard::Guard,
    store,
};
use serde::Serialize;

use crate::{
    aws::{Access, Aws},
    cli::ServeArgs,
    failure::Failure,
    local::{self, LogFormat, Metrics, RequestLog, Server, Tls, data},
    printer::Printer,
    signals::Signals,
};

/// What to serve, and how.
#[derive(Debug)]
pub struct Options {
    /// Where to listen.
    pub address: SocketAddr,
    /// Who keeps the clusters.
    pub keeper: Keeper,
    /// The files of the certificate and its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Names that requests to the loopback address may use.
    pub allowed_hosts: Vec<String>,
    /// What callers must bring.
    pub policy: Policy,
    /// The most connections.
    pub max_connections: usize,
    /// How requests are logged.
    pub log: LogFormat,
    /// Whether `GET /metrics` is served.
    pub metrics: bool,
}

/// Who keeps the clusters.
#[derive(Debug)]
pub enum Keeper {
    /// A directory on this machine; the user's own if none is named.
    Directory(Option<PathBuf>),
    /// A table.
    Table(String, Access),
}

impl Options {
    /// As the command line has it.
    pub fn of(args: ServeArgs) -> Self {
        let access = Access {
            region: args.aws.region,
            profile: args.aws.profile,
            ..Access::default()
        };
        Self {
            address: SocketAddr::new(args.host, args.port),
            keeper: match args.table {
                Some(table) => Keeper::Table(table, access),
                None => Keeper::Directory(args.data),
            },
            tls: args.tls_cert.zip(args.tls_key),
            allowed_hosts: args.allowed_hosts,
            policy: Policy {
                requires_secret: args.require_secret,
                requires_lease: args.require_lease,
            },
            max_connections: args.max_connections.get(),
            log: args.log,
            metrics: args.metrics,
        }
    }

    /// A server for this machine alone.
    pub fn local(address: SocketAddr, data: Option<PathBuf>) -> Self {
        Self {
            address,
            keeper: Keeper::Directory(data),
            tls: None,
            allowed_hosts: Vec::new(),
            policy: Policy::default(),
            max_connections: 1000,
            log: LogFormat::Text,
            metrics: false,
        }
    }
}

/// A server that is up.
#[derive(Debug, Serialize)]
pub struct Serving {
    /// Where the API is.
    pub endpoint: String,
    #[serde(flatten)]
    kept: Kept,
    #[serde(skip)]
    server: Server,
    #[serde(skip)]
    log: RequestLog,
}

/// Where the clusters are kept.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Kept {
    Here {
        data: PathBuf,
        /// Until the end: the directory is free for others when it is closed.
        #[serde(skip)]
        _open: data::Data,
    },
    Table {
        table: String,
        region: String,
    },
}

impl Display for Serving {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "Endpoint: {}", self.endpoint)?;
        match &self.kept {
            Kept::Here { data, .. } => writeln!(f, "Data:     {}", data.display()),
            Kept::Table { table, region } => writeln!(f, "Table:    {table} in {region}"),
        }
    }
}

/// Starts the server.
pub async fn start(options: Options, printer: &Printer) -> anyhow::Result<Serving> {
    let most = local::max_connections(options.max_connections)?;
    if most < options.max_connections {
        printer.message(format_args!(
            "At most {most} connections: the system allows no more open files (`ulimit -Hn`)"
        ));
    }
    let tls = options
        .tls
        .map(|(certificate, key)| Tls::open(certificate, key))
        .transpose()?;
    if tls.is_none() && !options.address.ip().is_loopback() {
        printer.message("Without `--tls-cert`, cluster tokens cross the network in clear text");
    }
    let listener = local::bind(options.address).await?;
    let (api, kept) = open(options.keeper, options.policy, printer).await?;

    let metrics = Metrics::default();
    let log = RequestLog::new(options.log, metrics.clone());
    let acceptor = tls.as_ref().map(Tls::acceptor).transpose()?;
    if let Some(tls) = tls {
        let log = log.clone();
        tokio::spawn(tls.reload(move |message| log.say(&message)));
    }
    let guard = Guard {
        allowed_hosts: options.allowed_hosts,
    };
    let metrics = (metrics, options.metrics);
    let server = Server::start(listener, api, guard, log.clone(), acceptor, most, metrics)?;
    Ok(Serving {
        endpoint: server.url().to_owned(),
        kept,
        server,
        log,
    })
}

async fn open(keeper: Keeper, policy: Policy, printer: &Printer) -> anyhow::Result<(Router, Kept)> {
    let (table, access) = match keeper {
        Keeper::Table(table, access) => (table, access),
        Keeper::Directory(named) => {
            let open = move || data::Data::open(&data::directory(named.as_deref())?);
            let open = tokio::task::spawn_blocking(open).await??;
            let api = open.store.clone().router(policy);
            return Ok((
                api,
                Kept::Here {
                    data: open.directory.clone(),
                    _open: open,
                },
            ));
        }
    };
    let aws = Aws::connect(&access).await?;
    let (store, region) = (aws.store(&table), aws.region);
    match store.warm_up().await {
        Ok(()) => (),
        Err(error @ store::Error::Unavailable(_)) => {
            printer.message(format_args!("Table `{table}` does not answer yet: {error}"));
        }
        Err(error) => {
            return Err(Failure::new(format!("cannot read table `{table}` in {region}: {error}"))
                .hint("docs/server.md says how to make a table for `serve --table`, and what the server must be allowed")
                .into());
        }
    }
    Ok((api::router(store, policy), Kept::Table { table, region }))
}

impl Serving {
    /// Serves until Ctrl-C or SIGTERM, which are its good end. A second one does not wait for requests that run.
    pub async fn run(self, signals: &mut Signals) {
        self.log.begin();
        self.log.say("Serving until Ctrl-C");
        let signal = signals.next().await;
        self.log.say(&format!("{signal}: stopping"));
        tokio::select! {
            () = self.shutdown() => {}
            _ = signals.next() => {}
        }
    }

    /// Ends it, when requests that run have been answered.
    pub async fn shutdown(self) {
        self.server.shutdown().await;
        let flush = move || self.log.flush();
        let _ = tokio::task::spawn_blocking(flush).await;
    }
}
