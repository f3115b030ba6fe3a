//! `deploy --local`: the server of `serve`, and the smoke test.

use std::{collections::BTreeMap, fmt::Display};

use anyhow::Error;
use serde::Serialize;

use super::{
    curl,
    deploy::run_smoke,
    serve::{self, Serving},
};
use crate::{
    cli::{DeployArgs, ServerArgs},
    exit::Exit,
    network::Network,
    printer::Printer,
    settings::Database,
    signals::Signals,
    smoke,
};

#[derive(Debug, Serialize)]
struct Deployment {
    #[serde(flatten)]
    serving: Serving,
    smoke: Option<smoke::Report>,
    seconds: BTreeMap<&'static str, f64>,
}

impl Display for Deployment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serving.fmt(f)?;
        writeln!(f, "Try it:   {}", curl(&self.serving.endpoint, None))
    }
}

/// Starts the API on this machine, tests it, and serves until a signal.
pub async fn run(
    args: DeployArgs,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<Exit> {
    let deployment = signals.or_stopped(start(&args, printer)).await?;
    let written = printer.result(&deployment);
    let Deployment { serving, smoke, .. } = deployment;
    let verdict = smoke.as_ref().map_or(Ok(()), smoke::Report::verdict);
    let verdict = verdict.map_err(Error::from).and(written);
    if verdict.is_ok() && !args.local.exit {
        serving.run(signals).await;
    } else {
        serving.shutdown().await;
    }
    verdict?;
    Ok(Exit::Done)
}

async fn start(args: &DeployArgs, printer: &Printer) -> anyhow::Result<Deployment> {
    let listen = &args.local.listen;
    let database = Database::this_machine(listen.data.as_deref())?;
    let options = ServerArgs { max_connections: 1000, ..ServerArgs::default() };
    let serving = serve::start(listen, database, options, printer).await?;
    let smoke = match serving.data.as_ref().filter(|_| !args.no_smoke) {
        None => None,
        Some(data) => {
            let network = Network::direct(None)?;
            let endpoint = &serving.endpoint;
            Some(run_smoke(&network, endpoint, None, false, &data.store, printer).await?)
        }
    };
    Ok(Deployment { serving, smoke, seconds: printer.seconds() })
}
