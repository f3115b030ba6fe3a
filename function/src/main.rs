//! The Lambda function: the API's router behind API Gateway's events.

use cbbootstrap_function::{
    api, event, log,
    store::{self, Store},
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

    let table = std::env::var("TABLE_NAME").unwrap_or_else(|_| DEFAULT_TABLE_NAME.to_owned());
    let function = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
    let store = Store::new(store::client().await, table);
    store.warm_up().await;
    let router = log::logged(api::router(store), &function);

    lambda_runtime::run(service_fn(|invocation: LambdaEvent<Box<RawValue>>| {
        let router = router.clone();
        async move {
            let (event, id) = (invocation.payload.get(), &invocation.context.request_id);
            Ok::<_, Error>(event::respond(router, event.as_bytes(), id).await)
        }
    }))
    .await
}

/// What is logged. Lambda's runtime never tells more than `info`: further down it has whole requests, secrets and all.
fn filter(wanted: Option<&str>) -> Targets {
    let wanted: Targets = wanted
        .and_then(|wanted| wanted.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let level = wanted.default_level().unwrap_or(LevelFilter::OFF);
    wanted.with_target("lambda_runtime", level.min(LevelFilter::INFO))
}
