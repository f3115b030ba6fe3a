//! The Lambda function: passes events to the API's router.

use cbbootstrap_function::{
    api::{self, Policy},
    event, log,
    store::dynamodb,
    table::DEFAULT_TABLE_NAME,
};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::value::RawValue;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    prelude::*,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing_subscriber::registry()
        .with(
            tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false),
        )
        .with(filter(std::env::var("RUST_LOG").ok().as_deref()))
        .init();

    let policy = Policy::read(|name| std::env::var(name).ok())?;
    let table = std::env::var("TABLE_NAME").unwrap_or_else(|_| DEFAULT_TABLE_NAME.to_owned());
    let function = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
    let base_path = &std::env::var("BASE_PATH").unwrap_or_default();
    let store = dynamodb::connect(&table).await;
    let router = log::logged(api::router(store, policy), &function);

    lambda_runtime::run(service_fn(|invocation: LambdaEvent<Box<RawValue>>| {
        let router = router.clone();
        async move {
            let (event, id) = (invocation.payload.get(), &invocation.context.request_id);
            Ok::<_, Error>(event::respond(router, event.as_bytes(), id, base_path).await)
        }
    }))
    .await
}

/// The log levels. `RUST_LOG` applies to this program only: at `debug`, libraries log whole requests and responses, with ids, nodes and
/// tokens.
fn filter(level: Option<&str>) -> Targets {
    const OWN: [&str; 2] = ["bootstrap", "cbbootstrap_function"];
    // Prefixes of crates: the AWS SDK and the HTTP libraries.
    const QUIET: [&str; 6] = ["aws_", "hyper", "h2", "rustls", "axum", "tower"];
    let level = level.and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    Targets::new()
        .with_default(level.min(LevelFilter::INFO))
        .with_targets(QUIET.map(|target| (target, level.min(LevelFilter::WARN))))
        .with_targets(OWN.map(|target| (target, level)))
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::LevelFilter as L;

    use super::*;

    #[test]
    fn libraries_log_no_requests_whatever_the_level() {
        for (wanted, own, runtime, sdk) in [
            (None, L::INFO, L::INFO, L::WARN),
            (Some("trace"), L::TRACE, L::INFO, L::WARN),
            (Some("error"), L::ERROR, L::ERROR, L::ERROR),
            (Some("off"), L::OFF, L::OFF, L::OFF),
            (Some("warn,aws_smithy_runtime=trace"), L::INFO, L::INFO, L::WARN),
            (Some("no such level"), L::INFO, L::INFO, L::WARN),
        ] {
            let filter = filter(wanted);
            let most = |target: &str| {
                let levels = [L::ERROR, L::WARN, L::INFO, L::DEBUG, L::TRACE];
                let enabled = levels
                    .into_iter()
                    .filter(|level| filter.would_enable(target, &level.into_level().unwrap()));
                enabled.max().unwrap_or(L::OFF)
            };
            assert_eq!(most("cbbootstrap_function::api"), own, "{wanted:?}");
            assert_eq!(most("lambda_runtime::runtime"), runtime, "{wanted:?}");
            for target in [
                "aws_smithy_runtime::client::http",
                "aws_sdk_dynamodb",
                "hyper_util::client",
                "hyper::proto",
                "rustls::client",
            ] {
                assert_eq!(most(target), sdk, "{wanted:?}, {target}");
            }
        }
    }
}
