//! The same routes, rules and calls as the function's, with everything else as documented: the SDK's client, the log, the
//! runtime.

use aws_config::BehaviorVersion;
use aws_sdk_dynamodb::Client;
use cbbootstrap_function::{api, event, log, store::dynamodb::DynamoDb};
use lambda_runtime::{Error, LambdaEvent, service_fn, tracing};
use serde_json::value::RawValue;

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();

    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let store = DynamoDb::new(Client::new(&config), std::env::var("TABLE_NAME")?);
    let function = std::env::var("AWS_LAMBDA_FUNCTION_NAME")?;
    let router = log::logged(api::router(store, api::Policy::default()), &function);

    lambda_runtime::run(service_fn(|invocation: LambdaEvent<Box<RawValue>>| {
        let router = router.clone();
        async move {
            let (event, id) = (invocation.payload.get(), &invocation.context.request_id);
            Ok::<_, Error>(event::respond(router, event.as_bytes(), id, "").await)
        }
    }))
    .await
}
