//! `ping`: whether an API answers.

use std::{fmt::Display, fs, time::Duration};

use cbbootstrap_protocol::wire::About;
use ureq::{
    Agent,
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::{
    cli::PingArgs,
    failure::{Exit, Failure},
    smoke,
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Calls `GET /`, which does not read the clusters.
pub async fn run(args: PingArgs) -> anyhow::Result<()> {
    let endpoint = smoke::parse_endpoint(&args.url)?;
    let roots = match &args.ca_cert {
        None => RootCerts::PlatformVerifier,
        Some(file) => {
            let unusable = |error: &dyn Display| {
                Failure::new(format!("cannot use the certificate `{}`: {error}", file.display()))
                    .hint("`--ca-cert` takes a PEM file")
                    .exit(Exit::Usage)
            };
            let pem = fs::read(file).map_err(|error| unusable(&error))?;
            let certificate = Certificate::from_pem(&pem).map_err(|error| unusable(&error))?;
            RootCerts::new_with_certs(&[certificate])
        }
    };
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .build()
        .into();
    let ask = move || {
        let about = agent.get(format!("{endpoint}/")).call().and_then(|mut answer| {
            let text = answer.body_mut().read_to_string()?;
            Ok(serde_json::from_str::<About>(&text).ok())
        });
        match about {
            Ok(Some(about)) if about.name == "cbbootstrap" => Ok(()),
            Ok(_) => Err(Failure::new(format!("{endpoint} is not an API of cbbootstrap"))
                .hint("give the endpoint as `serve` or `status` prints it, without a path")),
            Err(error) => Err(Failure::new(format!("{endpoint} does not answer: {error}")).hint(
                "check that it runs there; if a private authority signed its certificate, pass `--ca-cert`",
            )),
        }
    };
    Ok(tokio::task::spawn_blocking(ask).await??)
}
