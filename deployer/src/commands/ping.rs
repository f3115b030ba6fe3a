//! `ping`: whether an API answers.

use std::time::Duration;

use axum::http::Request;
use cbbootstrap_cli::certificates;
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
    let bundle = args.ca_cert.map(|path| Bundle { path, setting: "`--ca-cert`".to_owned() });
    let network = Network::direct(bundle)?;
    let request = Request::get(format!("{endpoint}/")).body(String::new())?;
    let (why, hint) = match network.sender(TIMEOUT).send(request).await {
        Ok(Answer { status, text, .. }) => {
            if serde_json::from_str::<About>(&text).is_ok_and(|it| it.name == "cbbootstrap") {
                return Ok(());
            }
            // Another path of an API has no route.
            let problem = serde_json::from_str::<Problem>(&text).ok();
            match (status, problem.filter(|problem| problem.code != "route_not_found")) {
                (_, Some(Problem { code, detail, .. })) => (
                    format!("refuses requests: {detail} ({code})"),
                    "`cbbootstrap serve --help` explains the server's options",
                ),
                (200 | 404, None) => (
                    "is not an API of cbbootstrap".to_owned(),
                    "pass the endpoint as `serve` or `status` prints it, without a path",
                ),
                _ => (
                    format!(
                        "returned status {status} in a form that cbbootstrap's API does not use"
                    ),
                    "if it requires signed requests, use `cbbootstrap smoke URL --auth iam`; check that no proxy answers instead",
                ),
            }
        }
        Err(error) => {
            let reason = causes(&*error);
            let hint = certificates::advice(&reason).unwrap_or(
                "check that it runs there; if a private authority signed its certificate, `--ca-cert` must name that one",
            );
            (format!("does not answer: {reason}"), hint)
        }
    };
    Err(Failure::new(format!("{endpoint} {why}")).hint(hint).into())
}
