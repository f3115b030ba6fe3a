//! `ping`: whether an API answers.

use std::time::Duration;

use axum::http::Request;
use cbbootstrap_protocol::wire::{About, Problem};

use crate::{
    causes::causes,
    cli::PingArgs,
    failure::Failure,
    network::{Answer, Bundle, Network},
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
        Ok(answer) => Ok(check(&endpoint, &answer)?),
        Err(error) => {
            let reason = causes(&*error);
            let hint = "check that it runs there; if a private authority signed its certificate, `--ca-cert` must name that one";
            Err(Failure::new(format!("{endpoint} does not answer: {reason}")).hint(hint).into())
        }
    }
}

fn check(endpoint: &str, Answer { status, text, .. }: &Answer) -> Result<(), Failure> {
    if serde_json::from_str::<About>(text).is_ok_and(|about| about.name == "cbbootstrap") {
        return Ok(());
    }
    // Another path of an API has no route.
    let problem = serde_json::from_str::<Problem>(text).ok();
    if let Some(Problem { code, detail, .. }) = problem.filter(|it| it.code != "route_not_found") {
        return Err(Failure::new(format!("{endpoint} refuses requests: {detail} ({code})"))
            .hint("`cbbootstrap serve --help` explains the server's options"));
    }
    Err(match status {
        200 | 404 => Failure::new(format!("{endpoint} is not an API of cbbootstrap"))
            .hint("pass the endpoint as `serve` or `status` prints it, without a path"),
        _ => Failure::new(format!(
            "{endpoint} returned status {status} in a form that cbbootstrap's API does not use"
        ))
        .hint(match status {
            401 | 403 => {
                "the API may require signed requests: `cbbootstrap smoke URL --auth iam` signs them"
            }
            _ => "check the URL, and that no proxy answers instead of the API",
        }),
    })
}
