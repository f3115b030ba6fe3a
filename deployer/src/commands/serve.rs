//! `serve`: the API as a server on this machine.

use std::{
    fmt::{Display, Formatter},
    net::SocketAddr,
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
    cli::{ListenArgs, ServeArgs, ServerArgs},
    failure::Failure,
    fields::write_fields,
    local::{self, Metrics, RequestLog, Server, Tls, data::Data},
    printer::Printer,
    settings::Database,
    signals::Signals,
};

#[derive(Debug, Serialize)]
pub struct Serving {
    pub endpoint: String,
    #[serde(flatten)]
    database: Database,
    /// The region of the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// Of a database on this machine; locks its directory.
    #[serde(skip)]
    pub data: Option<Data>,
    #[serde(skip)]
    server: Server,
    #[serde(skip)]
    log: RequestLog,
}

impl Display for Serving {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let store = match (&self.database, &self.region) {
            (Database::ThisMachine { data }, _) => ("Data:", data.display().to_string()),
            (Database::Aws { table, .. }, Some(region)) => {
                ("Table:", format!("{table} in {region}"))
            }
            (Database::Aws { table, .. }, None) => ("Table:", table.clone()),
        };
        write_fields(f, 9, [("Endpoint:", self.endpoint.clone()), store])
    }
}

/// Serves until a signal.
pub async fn run(args: ServeArgs, printer: &Printer, signals: &mut Signals) -> anyhow::Result<()> {
    let ServeArgs { listen, table, server, access, .. } = args;
    let database = match table {
        Some(table) => Database::Aws { table, access },
        None => Database::this_machine(listen.data.as_deref())?,
    };
    let serving = signals.or_stopped(start(&listen, database, server, printer)).await?;
    printer.result(&serving)?;
    serving.run(signals).await;
    Ok(())
}

pub async fn start(
    listen: &ListenArgs,
    database: Database,
    options: ServerArgs,
    printer: &Printer,
) -> anyhow::Result<Serving> {
    let wanted = usize::try_from(options.max_connections)?;
    // Each request to a table has a separate connection.
    let files_each = if matches!(database, Database::Aws { .. }) { 2 } else { 1 };
    let most = local::max_connections(wanted, files_each)?;
    if most < wanted {
        printer.message(format_args!(
            "limiting connections to {most}: the system's limit on open files is too low for more (`ulimit -Hn`)"
        ));
    }
    let tls = options.tls_cert.zip(options.tls_key);
    let tls = tls.map(|(certificate, key)| Tls::open(certificate, key)).transpose()?;
    if let Some(warning) = tls.as_ref().and_then(Tls::warning) {
        printer.message(warning);
    }
    if tls.is_none() && !listen.host.is_loopback() {
        printer.message("Without `--tls-cert`, cluster tokens cross the network in clear text");
    }
    let listener = local::bind(SocketAddr::new(listen.host, listen.port))?;
    let metrics = Metrics::default();
    let policy = Policy {
        requires_secret: options.require_secret,
        requires_lease: options.require_lease,
        hides_docs: false,
    };
    let (api, region, data) = open(&database, policy, printer).await?;
    let api = if options.metrics { api.merge(metrics.route()) } else { api };
    let guard = Arc::new(Guard { allowed_hosts: options.allowed_hosts });
    let api = api.layer(from_fn_with_state(guard, guard::guard));
    let log = RequestLog::new(options.log);
    let (counts, lines) = (metrics.clone(), log.clone());
    let api = observed(api, move |record| {
        counts.count(record);
        lines.request(record);
    });

    let config = tls.as_ref().map(|tls| Arc::clone(&tls.current));
    if let Some(tls) = tls {
        let log = log.clone();
        tokio::spawn(tls.reload(move |message| log.message(&message)));
    }
    let server = Server::start(listener, api, config, most, metrics)?;
    Ok(Serving { endpoint: server.url().to_owned(), database, region, data, server, log })
}

/// The API over the store, the region of a table, and the open database.
async fn open(
    database: &Database,
    policy: Policy,
    printer: &Printer,
) -> anyhow::Result<(Router, Option<String>, Option<Data>)> {
    let (table, access) = match database {
        Database::Aws { table, access } => (table, access),
        Database::ThisMachine { data } => {
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
    /// Serves until a signal. A second signal does not wait for running requests.
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

    pub async fn shutdown(self) {
        let Self { server, data, log, .. } = self;
        server.shutdown().await;
        let end = move || {
            log.flush();
            // Closes the database.
            drop(data);
        };
        let _ = tokio::task::spawn_blocking(end).await;
    }
}
