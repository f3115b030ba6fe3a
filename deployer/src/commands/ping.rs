//! `ping`: whether an API answers.

use std::time::Duration;

use axum::http::Request;
use cbbootstrap_protocol::wire::About;

use crate::{
    causes::causes,
    cli::PingArgs,
    failure::Failure,
    network::{Bundle, Network},
    smoke,
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Calls `GET /`, which does not read the clusters.
pub async fn run(args: PingArgs) -> anyhow::Result<()> {
    let endpoint = smoke::parse_endpoint(&args.url)?;
    let bundle = args.ca_cert.as_deref();
    let network = Network::direct(bundle.map(|path| Bundle { path, setting: "`--ca-cert`" }))?;
    let request = Request::get(format!("{endpoint}/")).body(String::new())?;
    match network.sender(TIMEOUT).send(request).await {
        Ok(answer) => match serde_json::from_str::<About>(&answer.text) {
            Ok(about) if about.name == "cbbootstrap" => Ok(()),
            _ => Err(Failure::new(format!("{endpoint} is not an API of cbbootstrap"))
                .hint("pass the endpoint as `serve` or `status` prints it, without a path")
                .into()),
        },
        Err(error) => Err(Failure::new(format!("{endpoint} does not answer: {}", causes(&*error)))
            .hint("check that it runs there; if a private authority signed its certificate, pass `--ca-cert`")
            .into()),
    }
}
