//! `deploy --local`: the same API on this machine.

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use serde::Serialize;

use super::{curl, deploy::run_smoke};
use crate::{
    aws::{
        self,
        dynamodb::{self, Place, Table},
    },
    build::{self, artifact::Artifact, bundle},
    cli::{DeployArgs, FunctionArgs},
    config::Environment,
    failure::{Exit, Failure},
    local::{self, Database, Event, Served, Service, ServiceOptions},
    printer::Printer,
    settings,
    signals::Signals,
    smoke,
};

/// A local deployment that is up.
#[derive(Debug, Serialize)]
struct Deployed {
    endpoint: String,
    table: String,
    /// The directory that keeps the table.
    data: PathBuf,
    /// The smoke test's result; none where it was left out.
    smoke: Option<smoke::Report>,
    /// How long each step took.
    seconds: BTreeMap<&'static str, f64>,
}

impl Display for Deployed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "Endpoint: {}", self.endpoint)?;
        writeln!(f, "Data:     {}", self.data.display())?;
        writeln!(f, "Try it:   {}", curl(&self.endpoint, None))
    }
}

/// The parts of a local deployment that is up.
pub struct Deployment {
    service: Service,
    database: Database,
    /// What the smoke test said.
    verdict: Result<(), Failure>,
    /// Whether to end now.
    exit: bool,
    /// Whether requests are told: not those of the smoke test.
    serving: Arc<AtomicBool>,
    /// Holds the executable of a zip.
    _unpacked: tempfile::TempDir,
}

/// Puts the API up on this machine.
pub async fn start(args: DeployArgs, printer: &Printer) -> anyhow::Result<Deployment> {
    let listener = local::bind(SocketAddr::new(args.local.host, args.local.port)).await?;
    let data = data_directory(args.local.data.as_deref())?;
    let unpacked = tempfile::tempdir().context("cannot make a temporary directory")?;

    let table_name = settings::table_name(args.target.table, &Environment::default());
    let open = async {
        let step = printer.step("table");
        let database = Database::open(&data).await?;
        let client = aws::local_dynamodb(database.endpoint_url());
        let place = Place::ThisMachine;
        let found = Table::find(&client, &table_name, place).await?;
        let made = dynamodb::ensure(&client, &table_name, found, &BTreeMap::new(), place).await?;
        step.done(format_args!(
            "`{table_name}` {} in {}",
            if made { "created" } else { "is there" },
            data.display()
        ));
        anyhow::Ok(database)
    };
    let function = async {
        let mut step = printer.step("build");
        let bootstrap = match ready(&args.function)? {
            Some(artifact) => artifact.unpack(unpacked.path())?,
            None => build::for_this_machine(&args.function.build, &mut step).await?,
        };
        step.done("the function is ready");
        anyhow::Ok(bootstrap)
    };
    let (database, bootstrap) = tokio::try_join!(open, function)?;

    let (events, serving) = (printer.clone(), Arc::new(AtomicBool::new(false)));
    let tell_requests = Arc::clone(&serving);
    let service = Service::start(ServiceOptions {
        listener,
        bootstrap,
        database_url: database.endpoint_url().to_owned(),
        table_name: table_name.clone(),
        concurrency: args.local.concurrency.unwrap_or_else(cores),
        timeout: local::FUNCTION_TIMEOUT,
        on_event: Arc::new(move |event| {
            let served = match &event {
                Event::Log { line, .. } => Served::of(line),
                _ => None,
            };
            match served {
                Some(served) if tell_requests.load(Ordering::Relaxed) => events.message(served),
                Some(_) => {}
                None => events.message(event),
            }
        }),
    })
    .await?;
    let endpoint = service.url().to_owned();
    let smoke = if args.no_smoke {
        None
    } else {
        Some(run_smoke(&endpoint, None, false, printer).await?)
    };
    let verdict = smoke.as_ref().map_or(Ok(()), smoke::Report::verdict);
    let seconds = printer.seconds();
    printer.result(&Deployed {
        endpoint,
        table: table_name,
        data,
        smoke,
        seconds,
    })?;
    Ok(Deployment {
        service,
        database,
        verdict,
        exit: args.local.exit,
        serving,
        _unpacked: unpacked,
    })
}

impl Deployment {
    /// Keeps it up until Ctrl-C or SIGTERM, which are its good end.
    pub async fn serve(self, signals: &mut Signals, printer: &Printer) -> anyhow::Result<Exit> {
        if self.verdict.is_ok() && !self.exit {
            printer.message("Serving until Ctrl-C");
            self.serving.store(true, Ordering::Relaxed);
            let signal = signals.next().await;
            printer.message(format_args!("{signal}: stopping"));
        }
        self.service.shutdown().await;
        self.database.shutdown().await;
        self.verdict?;
        Ok(Exit::Done)
    }
}

/// The function of a zip, or the one that this program carries; none if it is to be built.
fn ready(args: &FunctionArgs) -> anyhow::Result<Option<Artifact>> {
    let arch = build::this_machine().filter(|_| cfg!(target_os = "linux"));
    match (&args.function_zip, arch) {
        (Some(zip), Some(arch)) => Ok(Some(Artifact::read(zip, arch)?)),
        (Some(_), None) => Err(Failure::new(
            "a function's zip is for Linux, and this machine is something else",
        )
        .hint("leave `--function-zip` out to have the function built for this machine")
        .into()),
        (None, Some(arch)) => Ok(bundle::find(&args.build, arch)?),
        (None, None) => Ok(None),
    }
}

fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// The directory of that name, or the one that is used otherwise.
pub fn data_directory(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let directory = named
        .map(Path::to_owned)
        .or_else(|| Some(dirs::data_dir()?.join("cbbootstrap")));
    directory.ok_or_else(|| {
        Failure::new("cannot tell your data directory")
            .hint("name one with `--data DIR`")
            .into()
    })
}
