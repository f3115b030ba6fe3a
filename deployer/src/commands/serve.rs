//! `serve`: the API as a server on this machine.

use std::{
    fmt::{Display, Formatter},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{Router, middleware::from_fn_with_state};
use cbbootstrap_function::{
    api::{self, Policy},
    guard::{self, Guard},
    log::observed,
    store,
};
use serde::Serialize;

use crate::{
    aws::Aws,
    cli::ServeArgs,
    failure::Failure,
    local::{
        self, LogFormat, Metrics, RequestLog, Server, Tls,
        data::{self, Data},
    },
    printer::Printer,
    settings::Keeper,
    signals::Signals,
};

#[derive(Debug)]
pub struct Options {
    pub address: SocketAddr,
    pub keeper: Keeper,
    /// The files of the certificate and its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub allowed_hosts: Vec<String>,
    pub policy: Policy,
    pub max_connections: usize,
    pub log: LogFormat,
    pub metrics: bool,
}

impl Options {
    pub fn from_args(args: ServeArgs) -> anyhow::Result<Self> {
        let keeper = match args.table {
            Some(table) => Keeper::Aws { table, access: args.access },
            None => Keeper::ThisMachine { data: data::directory(args.data.as_deref())? },
        };
        Ok(Self {
            address: SocketAddr::new(args.host, args.port),
            keeper,
            tls: args.tls_cert.zip(args.tls_key),
            allowed_hosts: args.allowed_hosts,
            policy: Policy {
                requires_secret: args.require_secret,
                requires_lease: args.require_lease,
            },
            max_connections: args.max_connections.get(),
            log: args.log,
            metrics: args.metrics,
        })
    }

    /// The options of `deploy --local`.
    pub fn local(address: SocketAddr, data: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self {
            address,
            keeper: Keeper::ThisMachine { data: data::directory(data)? },
            tls: None,
            allowed_hosts: Vec::new(),
            policy: Policy::default(),
            max_connections: 1000,
            log: LogFormat::Text,
            metrics: false,
        })
    }
}

/// A running server.
#[derive(Debug, Serialize)]
pub struct Serving {
    pub endpoint: String,
    #[serde(flatten)]
    keeper: Keeper,
    /// The region of the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// Locks the directory.
    #[serde(skip)]
    _data: Option<Data>,
    #[serde(skip)]
    server: Server,
    #[serde(skip)]
    log: RequestLog,
}

impl Display for Serving {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "Endpoint: {}", self.endpoint)?;
        match (&self.keeper, &self.region) {
            (Keeper::ThisMachine { data }, _) => writeln!(f, "Data:     {}", data.display()),
            (Keeper::Aws { table, .. }, Some(region)) => {
                writeln!(f, "Table:    {table} in {region}")
            }
            (Keeper::Aws { table, .. }, None) => writeln!(f, "Table:    {table}"),
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
    let tls = options.tls.map(|(certificate, key)| Tls::open(certificate, key)).transpose()?;
    if tls.is_none() && !options.address.ip().is_loopback() {
        printer.message("Without `--tls-cert`, cluster tokens cross the network in clear text");
    }
    let listener = local::bind(options.address).await?;
    let metrics = Metrics::default();
    let (api, region, data) = open(&options.keeper, options.policy, printer).await?;
    let api = if options.metrics { api.merge(metrics.route()) } else { api };
    let guard = Arc::new(Guard { allowed_hosts: options.allowed_hosts });
    let api = api.layer(from_fn_with_state(guard, guard::guard));
    let log = RequestLog::new(options.log);
    let (counts, lines) = (metrics.clone(), log.clone());
    let api = observed(api, move |record| {
        counts.count(record);
        lines.request(record);
    });

    let acceptor = tls.as_ref().map(Tls::acceptor).transpose()?;
    if let Some(tls) = tls {
        let log = log.clone();
        tokio::spawn(tls.reload(move |message| log.message(&message)));
    }
    let server = Server::start(listener, api, acceptor, most, metrics)?;
    Ok(Serving {
        endpoint: server.url().to_owned(),
        keeper: options.keeper,
        region,
        _data: data,
        server,
        log,
    })
}

/// The API over the store, the region of a table, and the open database.
async fn open(
    keeper: &Keeper,
    policy: Policy,
    printer: &Printer,
) -> anyhow::Result<(Router, Option<String>, Option<Data>)> {
    let (table, access) = match keeper {
        Keeper::Aws { table, access } => (table, access),
        Keeper::ThisMachine { data } => {
            let directory = data.clone();
            let data = tokio::task::spawn_blocking(move || Data::open(&directory)).await??;
            return Ok((api::over_sqlite(data.store.clone(), policy), None, Some(data)));
        }
    };
    let aws = Aws::connect(access).await?;
    let (store, region) = (aws.store(table), aws.region);
    match store.warm_up().await {
        Ok(()) => (),
        Err(error @ store::Error::Unavailable(_)) => {
            printer.message(format_args!("Table `{table}` does not answer yet: {error}"));
        }
        Err(error) => {
            return Err(Failure::new(format!("cannot read table `{table}` in {region}: {error}"))
                .hint("docs/server.md describes the table and the permissions that `serve --table` needs")
                .into());
        }
    }
    Ok((api::router(store, policy), Some(region), None))
}

impl Serving {
    /// Serves until Ctrl-C or SIGTERM. A second signal does not wait for running requests.
    pub async fn run(self, signals: &mut Signals) {
        self.log.begin();
        self.log.message("Serving until Ctrl-C");
        let signal = signals.next().await;
        self.log.message(&format!("{signal}: stopping"));
        tokio::select! {
            () = self.shutdown() => {}
            _ = signals.next() => {}
        }
    }

    /// Ends the server after running requests.
    pub async fn shutdown(self) {
        self.server.shutdown().await;
        let _ = tokio::task::spawn_blocking(move || self.log.flush()).await;
    }
}
